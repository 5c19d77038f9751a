# Ignore rules, compiled by `flame_fast.package.gitignore` and matched here: the last rule that matches decides.
# uses: nothing

cimport cython

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from .core.buffers cimport Bytes, append, reserve
from .core.patterns cimport (
    LITERAL, PROGRAM, SET_BYTES, SUFFIX, TOKEN_BYTES, TOKEN_SET, TOKEN_STAR, VERDICT_KEEP, CompiledRule, Token, is_about,
    matches_literal, run_program,
)


@cython.final
cdef class Matcher:
    """Ignore rules in order.

    Parameters
    ----------
    rules : iterable of (verdict, by_name, about, tokens)
        `verdict` is one of ``VERDICT_...``, `about` of ``ABOUT_...``. A token is a pair (``TOKEN_...``, argument); the
        argument is a run of bytes, the 32 bytes of a set, or empty.
    """
    cdef Bytes rules, text, tokens, sets
    cdef size_t count, longest

    def __init__(self, rules):
        for verdict, by_name, about, tokens in rules:
            self.add(verdict, by_name, about, tokens)

    def __dealloc__(self):
        free(self.rules.data)
        free(self.text.data)
        free(self.tokens.data)
        free(self.sets.data)

    cdef int add(self, int verdict, bint by_name, int about, list tokens) except -1:
        cdef CompiledRule rule
        cdef bint starred = by_name and len(tokens) > 1 and <int> tokens[0][0] == TOKEN_STAR
        memset(&rule, 0, sizeof(rule))
        rule.verdict = verdict
        rule.by_name = by_name
        rule.about = about
        if len(tokens) == 1 + starred and <int> tokens[starred][0] == TOKEN_BYTES and tokens[starred][1]:
            rule.shape = SUFFIX if starred else LITERAL
            self.add_literal(&rule, tokens[starred][1])
        else:
            rule.shape = PROGRAM
            rule.at = <uint32_t> (self.tokens.length // sizeof(Token))
            for operation, argument in tokens:
                self.add_tokens(operation, argument)
            rule.length = <uint32_t> (self.tokens.length // sizeof(Token)) - rule.at
            self.longest = max(self.longest, rule.length)
        if append(&self.rules, &rule, sizeof(rule)) < 0:
            raise MemoryError
        self.count += 1
        return 0

    cdef int add_literal(self, CompiledRule *rule, bytes text) except -1:
        rule.at = <uint32_t> self.text.length
        rule.length = <uint32_t> len(text)
        rule.last = text[rule.length - 1]
        if append(&self.text, <const char *> text, rule.length) < 0:
            raise MemoryError
        return 0

    cdef int add_tokens(self, int operation, bytes argument) except -1:
        cdef Token token
        cdef int failed = 0
        memset(&token, 0, sizeof(token))
        token.operation = <uint8_t> operation
        if operation == TOKEN_SET:
            token.set = <uint32_t> (self.sets.length // SET_BYTES)
            failed |= append(&self.sets, <const char *> argument, SET_BYTES)
        if operation == TOKEN_BYTES:
            for token.byte in argument:
                failed |= append(&self.tokens, &token, sizeof(token))
        else:
            failed |= append(&self.tokens, &token, sizeof(token))
        if failed:
            raise MemoryError
        return 0

    cdef int reserve_states(self, Bytes *states) noexcept nogil:
        """Reserve room for the states of a match; each thread needs its own."""
        return reserve(states, 2 * (self.longest + 1))

    def decide(self, bytes path, bint is_directory):
        """Return the number of the rule that decides about an entry; -1 when no rule matches."""
        cdef Bytes states
        cdef int number
        memset(&states, 0, sizeof(states))
        if not path:
            return -1
        if self.reserve_states(&states) < 0:
            raise MemoryError
        number = self.deciding(<const char *> path, len(path), path.rfind(b"/") + 1, is_directory, states.data)
        free(states.data)
        return number

    cdef int deciding(self, const char *path, size_t length, size_t name, bint is_directory, char *states) noexcept nogil:
        """Return what `decide` returns; the path's last part begins at `name`."""
        cdef CompiledRule *rules = <CompiledRule *> self.rules.data
        cdef Py_ssize_t number = <Py_ssize_t> self.count - 1
        while number >= 0:
            # Most rules end in a literal, and most names in another byte.
            if rules[number].shape != PROGRAM and rules[number].last != <uint8_t> path[length - 1]:
                number -= 1
                continue
            if self.matches(&rules[number], path, length, name, is_directory, states):
                return <int> number
            number -= 1
        return -1

    cdef uint8_t verdict(self, int number) noexcept nogil:
        return (<CompiledRule *> self.rules.data)[number].verdict if number >= 0 else VERDICT_KEEP

    cdef bint matches(self, const CompiledRule *rule, const char *path, size_t length, size_t name, bint is_directory,
                      char *states) noexcept nogil:
        if not is_about(rule, is_directory):
            return False
        if rule.by_name:
            path += name
            length -= name
        if rule.shape == PROGRAM:
            return run_program(<Token *> self.tokens.data + rule.at, rule.length, self.sets.data, path, length, states)
        return matches_literal(rule, self.text.data + rule.at, path, length)
