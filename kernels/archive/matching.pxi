# Exclusion rules, compiled by `flame_fast.package.gitignore` and matched here.
#
# A pattern with wildcards is a row of tokens, matched by following all ways through it at once (Thompson, "Regular expression
# search algorithm", 1968): the time is bounded by pattern times name, whatever the pattern.

cdef enum Operation:        # of a token; `ignore` writes them
    BYTE = 0                # this byte
    ANY = 1                 # one byte other than a slash
    SET = 2                 # one byte of a set
    STAR = 3                # any bytes other than slashes
    DEEP = 4                # any bytes
    DIRECTORIES = 5         # nothing, or any bytes and a slash

cdef enum:                  # verdicts of rules
    VERDICT_KEEP = 0
    VERDICT_OMIT = 1
    VERDICT_SECRET = 2
    VERDICT_DOUBT = 3       # a secret if there is a private key in it, which only its content tells

cdef enum:
    SET_BYTES = 32          # a bit for each byte

cdef enum Shape:
    LITERAL
    SUFFIX                  # anything, then a literal
    PROGRAM

cdef enum:
    ANY_KIND = 0            # what a rule is about
    DIRECTORIES_ONLY = 1
    FILES_ONLY = 2

cdef enum:                  # a token that was entered may match nothing; one that goes on has matched something
    GOING_ON = 1
    ENTERED = 2

cdef struct Token:
    uint8_t operation
    uint8_t byte
    uint32_t set            # its number

cdef struct CompiledRule:
    uint8_t shape
    uint8_t by_name
    uint8_t about
    uint8_t verdict
    uint8_t last            # byte of a literal or suffix
    uint32_t at             # first byte in `text`, or first token in `tokens`
    uint32_t length


@cython.final
cdef class Matcher:
    """Rules in order; the last one that matches decides.

    Parameters
    ----------
    rules : iterable of (verdict, by_name, about, tokens)
        Each token is a pair of an operation and its argument: bytes that follow one another, or the 32 of a set, or none.
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
        cdef bint starred = by_name and len(tokens) > 1 and tokens[0][0] == STAR
        memset(&rule, 0, sizeof(rule))
        rule.verdict = verdict
        rule.by_name = by_name
        rule.about = about
        if len(tokens) == 1 + starred and tokens[starred][0] == BYTE and tokens[starred][1]:
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
        if operation == SET:
            token.set = <uint32_t> (self.sets.length // SET_BYTES)
            failed |= append(&self.sets, <const char *> argument, SET_BYTES)
        if operation == BYTE:
            for token.byte in argument:
                failed |= append(&self.tokens, &token, sizeof(token))
        else:
            failed |= append(&self.tokens, &token, sizeof(token))
        if failed:
            raise MemoryError
        return 0

    cdef int reserve_states(self, Bytes *states) noexcept nogil:
        """Room for the states of a match; each thread needs its own."""
        return reserve(states, 2 * (self.longest + 1))

    def decide(self, bytes path, bint is_directory):
        """The number of the rule that decides about this entry; -1 when none says anything."""
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
        """As `decide`; the path's last part begins at `name`."""
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
        return (<CompiledRule *> self.rules.data)[number].verdict if number >= 0 else 0

    cdef bint matches(self, CompiledRule *rule, const char *path, size_t length, size_t name, bint is_directory,
                      char *states) noexcept nogil:
        if rule.about != ANY_KIND and is_directory != (rule.about == DIRECTORIES_ONLY):
            return False
        if rule.by_name:
            path += name
            length -= name
        if rule.shape == PROGRAM:
            return self.run(rule, path, length, states)
        if rule.shape == SUFFIX and length > rule.length:
            path += length - rule.length
            length = rule.length
        return length == rule.length and memcmp(path, self.text.data + rule.at, length) == 0

    cdef bint run(self, CompiledRule *rule, const char *path, size_t length, char *states) noexcept nogil:
        cdef Token *tokens = <Token *> self.tokens.data + rule.at
        cdef size_t count = rule.length, i, at
        cdef char *now = states
        cdef char *then = now + count + 1
        cdef char *swap
        cdef unsigned char byte
        cdef bint alive
        memset(now, 0, count + 1)
        enter(tokens, count, now, 0)
        for at in range(length):
            byte = <unsigned char> path[at]
            alive = False
            memset(then, 0, count + 1)
            for i in range(count):
                if now[i]:
                    alive |= step(tokens, count, then, i, byte, self.sets.data)
            if not alive:
                return False
            swap = now
            now = then
            then = swap
        return now[count] != 0


cdef void enter(Token *tokens, size_t count, char *states, size_t i) noexcept nogil:
    while states[i] != ENTERED:
        states[i] = ENTERED
        if i == count or tokens[i].operation < STAR:
            return
        i += 1


cdef bint step(Token *tokens, size_t count, char *then, size_t i, unsigned char byte, const char *sets) noexcept nogil:
    """Takes one byte at one token; whether that was possible."""
    cdef Token token = tokens[i]
    if token.operation == BYTE:
        if byte != token.byte:
            return False
        enter(tokens, count, then, i + 1)
    elif token.operation == ANY:
        if byte == c"/":
            return False
        enter(tokens, count, then, i + 1)
    elif token.operation == SET:
        if not (<unsigned char> sets[SET_BYTES * token.set + (byte >> 3)] >> (byte & 7)) & 1:
            return False
        enter(tokens, count, then, i + 1)
    elif token.operation == STAR:
        if byte == c"/":
            return False
        enter(tokens, count, then, i)
    elif token.operation == DEEP:
        enter(tokens, count, then, i)
    else:
        if not then[i]:
            then[i] = GOING_ON
        if byte == c"/":
            enter(tokens, count, then, i + 1)
    return True
