# Pattern matching: compiled ignore rules as C structs, and the automaton that runs them.
#
# A pattern with wildcards is a row of tokens. The automaton follows all ways through it at once (Thompson, "Regular
# expression search algorithm", 1968): the time is bounded by pattern times name, whatever the pattern.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset

cdef enum Operation:        # of a token; `flame_fast.package.gitignore` writes them
    TOKEN_BYTES = 0         # these bytes
    TOKEN_ANY = 1           # one byte other than a slash
    TOKEN_SET = 2           # one byte of a set
    TOKEN_STAR = 3          # any bytes other than slashes
    TOKEN_DEEP = 4          # any bytes
    TOKEN_DIRECTORIES = 5   # nothing, or any bytes and a slash

cdef enum Verdict:          # of a rule
    VERDICT_KEEP = 0
    VERDICT_OMIT = 1
    VERDICT_SECRET = 2
    VERDICT_SECRET_IF_KEY = 3   # a secret if there is a private key in it, which only its content tells

cdef enum About:            # which entries a rule is about
    ABOUT_ANY_KIND = 0
    ABOUT_DIRECTORIES = 1
    ABOUT_FILES = 2

cdef enum Shape:
    LITERAL
    SUFFIX                  # anything, then a literal
    PROGRAM

cdef enum:
    SET_BYTES = 32          # a bit for each byte

cdef enum:                  # a token that was entered may match nothing; one that goes on has matched something
    GOING_ON = 1
    ENTERED = 2

cdef struct Token:
    uint8_t operation
    uint8_t byte            # of TOKEN_BYTES, one token for each
    uint32_t set            # its number

cdef struct CompiledRule:
    uint8_t shape
    uint8_t by_name
    uint8_t about
    uint8_t verdict
    uint8_t last            # byte of a literal or suffix
    uint32_t at             # first byte in the text of all literals, or first token of all tokens
    uint32_t length


cdef inline bint is_about(const CompiledRule *rule, bint is_directory) noexcept nogil:
    return rule.about == ABOUT_ANY_KIND or is_directory == (rule.about == ABOUT_DIRECTORIES)


cdef inline bint matches_literal(const CompiledRule *rule, const char *literal, const char *path,
                                 size_t length) noexcept nogil:
    """Return whether a literal equals the path, or a suffix ends it."""
    if rule.shape == SUFFIX and length > rule.length:
        path += length - rule.length
        length = rule.length
    return length == rule.length and memcmp(path, literal, length) == 0


cdef inline bint run_program(const Token *tokens, size_t count, const char *sets, const char *path, size_t length,
                             char *states) noexcept nogil:
    """Return whether a row of tokens matches the whole path; `states` has room for 2 * (`count` + 1)."""
    cdef size_t i, at
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
                alive |= step(tokens, count, then, i, byte, sets)
        if not alive:
            return False
        swap = now
        now = then
        then = swap
    return now[count] != 0


cdef inline void enter(const Token *tokens, size_t count, char *states, size_t i) noexcept nogil:
    while states[i] != ENTERED:
        states[i] = ENTERED
        if i == count or tokens[i].operation < TOKEN_STAR:
            return
        i += 1


cdef inline bint step(const Token *tokens, size_t count, char *then, size_t i, unsigned char byte,
                      const char *sets) noexcept nogil:
    """Take one byte at one token; return whether the token allows it."""
    cdef Token token = tokens[i]
    if token.operation == TOKEN_BYTES:
        if byte != token.byte:
            return False
        enter(tokens, count, then, i + 1)
    elif token.operation == TOKEN_ANY:
        if byte == c"/":
            return False
        enter(tokens, count, then, i + 1)
    elif token.operation == TOKEN_SET:
        if not (<unsigned char> sets[SET_BYTES * token.set + (byte >> 3)] >> (byte & 7)) & 1:
            return False
        enter(tokens, count, then, i + 1)
    elif token.operation == TOKEN_STAR:
        if byte == c"/":
            return False
        enter(tokens, count, then, i)
    elif token.operation == TOKEN_DEEP:
        enter(tokens, count, then, i)
    else:
        if not then[i]:
            then[i] = GOING_ON
        if byte == c"/":
            enter(tokens, count, then, i + 1)
    return True
