"""Mutants of the native runtime: every small change of its core that might be made by mistake.

A mutant is a change of one logical line, found from its text alone. `transformed` writes a file anew with every mutant in
it, each behind a switch (`ff_is`, mutation.h below): so one build holds all of them, and a test asks for one by its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

#: What is mutated: tables and what changes them. Not the codec, views and arrays, whose values tests compare as a whole.
CORE = (
    *("core/regions.pxd", "core/size_classes.pxd", "core/lookup.pxd", "core/system_memory.pxd", "core/spinning.pxd"),
    *("core/wakeup.pxd", "core/permits.pxd", "core/locked.pxd", "core/repair.pxd", "core/lock.pxd", "core/extents.pxd"),
    *("core/groups.pxd", "core/references.pxd", "core/blocks.pxd", "core/slots.pxd", "core/run_queue.pxd"),
    *("core/dependencies.pxd", "core/completion.pxd", "core/recovery.pxd"),
    *("segment.pxi", "services.pxi", "values.pxi", "waits.pxi", "deadlock.pxi", "outcomes.pxi", "selector.pxi"),
    *("client.pxi", "worker.pxi", "supervisor.pxi"),
)

STRING = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
TOKEN = re.compile(STRING.pattern + r"|#[^\n]*|\\\n|.|\n", re.S)
FUNCTION = re.compile(r"(?:cdef|cpdef|def) .*?(\w+)\(.*:$")
CLASS = re.compile(r"(?:cdef )?class (\w+).*:$")
WORD = re.compile(r"\w+")
TURNED = {
    "==": ["!="],
    "!=": ["=="],
    "<": ["<=", ">="],
    "<=": ["<", ">"],
    ">": [">=", "<="],
    ">=": [">", "<"],
    "is": ["is not"],
    "is not": ["is"],
    "in": ["not in"],
    "not in": ["in"],
}
NEGATIONS = {("<", ">="), ("<=", ">"), (">", "<="), (">=", "<")}
LITERALS = {"0": "1", "1": "0", "True": "False", "False": "True", "-1": "0"}
ATOMIC = re.compile(r"\bff_(cas|exchange|add|and|or)(32|64)\(")
#: What is a step that others can see: two statements are swapped if one of them is such.
STEPS = {f"ff_{name}{bits}" for name in ("store", "cas", "exchange", "add", "and", "or") for bits in (32, 64)} | {"ff_fence"}
CLOSING = {"(": ")", "[": "]", "{": "}"}

HEADER = r"""
/* Which mutant is alive, and which places were passed. */
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "atomics.h"

static int ff_mutant;
static unsigned char *ff_passed;        /* a byte per mutant, shared with every process of a test */

static inline int ff_is(int number) {
    if (__builtin_expect(ff_passed != NULL, 0))
        ff_passed[number] = 1;
    return __builtin_expect(ff_mutant == number, 0);
}
static inline int64_t ff_less(int64_t bound) { return bound > 0 ? bound - 1 : bound; }
static void ff_mutate(int number) { ff_mutant = number; }
static void ff_mutate_from_environment(void) {
    const char *path = getenv("FLAME_FAST_PASSED"), *number = getenv("FLAME_FAST_MUTANT");
    int fd;
    if (number != NULL)
        ff_mutant = atoi(number);
    if (path == NULL || (fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        return;
    ff_passed = (unsigned char *) mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
}

/* Atomics that are none: any other process goes first, in the middle. */
#define FF_WEAK(bits)                                                                                          \
    static int ff_weak_cas##bits(uint##bits##_t *p, uint##bits##_t expected, uint##bits##_t desired) {         \
        if (ff_load##bits(p) != expected)                                                                      \
            return 0;                                                                                          \
        sched_yield();                                                                                         \
        ff_store##bits(p, desired);                                                                            \
        return 1;                                                                                              \
    }                                                                                                          \
    static uint##bits##_t ff_weak_exchange##bits(uint##bits##_t *p, uint##bits##_t v) {                        \
        uint##bits##_t before = ff_load##bits(p);                                                              \
        sched_yield();                                                                                         \
        ff_store##bits(p, v);                                                                                  \
        return before;                                                                                         \
    }                                                                                                          \
    static uint##bits##_t ff_weak_add##bits(uint##bits##_t *p, uint##bits##_t v) {                             \
        return ff_weak_exchange##bits(p, ff_load##bits(p) + v);                                                \
    }                                                                                                          \
    static uint##bits##_t ff_weak_or##bits(uint##bits##_t *p, uint##bits##_t v) {                              \
        return ff_weak_exchange##bits(p, ff_load##bits(p) | v);                                                \
    }                                                                                                          \
    static uint##bits##_t ff_weak_and##bits(uint##bits##_t *p, uint##bits##_t v) {                             \
        return ff_weak_exchange##bits(p, ff_load##bits(p) & v);                                                \
    }
FF_WEAK(32)
FF_WEAK(64)
"""

#: `core/mutation.pxd`; what it declares is cimported by every file with mutants.
DECLARATIONS = """
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "mutation.h" nogil:
    int ff_is(int number) noexcept
    int64_t ff_less(int64_t bound) noexcept
    void ff_mutate(int number) noexcept
    void ff_mutate_from_environment() noexcept
    int ff_weak_cas32(uint32_t *p, uint32_t expected, uint32_t desired) noexcept
    uint32_t ff_weak_exchange32(uint32_t *p, uint32_t v) noexcept
    uint32_t ff_weak_add32(uint32_t *p, uint32_t v) noexcept
    uint32_t ff_weak_and32(uint32_t *p, uint32_t v) noexcept
    uint32_t ff_weak_or32(uint32_t *p, uint32_t v) noexcept
    int ff_weak_cas64(uint64_t *p, uint64_t expected, uint64_t desired) noexcept
    uint64_t ff_weak_exchange64(uint64_t *p, uint64_t v) noexcept
    uint64_t ff_weak_add64(uint64_t *p, uint64_t v) noexcept
    uint64_t ff_weak_and64(uint64_t *p, uint64_t v) noexcept
    uint64_t ff_weak_or64(uint64_t *p, uint64_t v) noexcept
"""

#: For the unit itself.
SWITCH = """
from .core.mutation cimport ff_mutate, ff_mutate_from_environment

ff_mutate_from_environment()

def mutate(int number):
    ff_mutate(number)
"""


class Line(NamedTuple):
    """A logical line: without comments and line breaks."""

    first: int  # its physical lines, from 0; `last` is the one after them
    last: int
    indent: int
    code: str
    function: str  # the one it stands in, with its class; "" for none, and for a function's own head


class Mutant(NamedTuple):
    file: str
    line: int  # from 1
    function: str
    before: str
    after: str  # the line as it is then; DROPPED; or AFTER and the line that comes before it then

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is known by, whatever lines come and go around it."""
        return self.file, self.function, self.before, self.after


class Edit(NamedTuple):
    """A piece of a logical line and what stands there instead."""

    begin: int
    end: int
    text: str


DROPPED = "(dropped)"
AFTER = "(after) "


def logical_lines(text: str) -> Iterator[Line]:
    """All of a file but blank lines, each with the function it stands in."""
    scopes: list[tuple[int, str]] = []
    for first, last, indent, code in joined_lines(text):
        while scopes and scopes[-1][0] >= indent:
            scopes.pop()
        inside = ".".join(name for _, name in scopes) if scopes and scopes[-1][1][0] != "#" else ""
        if (found := CLASS.match(code)) or (found := FUNCTION.match(masked(code))) and not code.startswith("cdef extern"):
            scopes.append((indent, found[1]))
            inside = ""
        elif code.endswith(":") and code.startswith(("cdef ", "ctypedef ")):
            scopes.append((indent, "#"))  # an enum, a struct, an extern block
            inside = ""
        elif scopes and CLASS.match("class " + scopes[-1][1] + ":") and scopes[-1][1][0].isupper():
            inside = ""  # fields
        yield Line(first, last, indent, code, inside)


def joined_lines(text: str) -> Iterator[tuple[int, int, int, str]]:
    number = first = depth = 0
    code, joining = "", False
    for found in TOKEN.finditer(text + "\n"):
        token = found[0]
        number += token.count("\n")
        if token == "\n" and depth == 0:
            if code.strip():
                yield first, number, len(code) - len(code.lstrip()), code.strip()
            code, first, joining = "", number, False
        elif token in ("\n", "\\\n"):
            code, joining = code.rstrip() + " ", True
        elif token[0] != "#" and not (joining and token == " "):
            if joining and code.endswith(("( ", "[ ", "{ ")):
                code = code[:-1]
            depth += (token in "([{") - (token in ")]}") if len(token) == 1 else 0
            code, joining = code + token, False


def masked(code: str) -> str:
    """Return the code with nothing in its strings, each character where it was."""
    return STRING.sub(lambda found: '"' + "_" * (len(found[0]) - 2) + '"', code)


def split_at_top(code: str, separator: str) -> list[int]:
    """Where a separator stands outside of all brackets."""
    depth, found = 0, []
    for at, character in enumerate(code):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and code.startswith(separator, at):
            found.append(at)
    return found


# ---- expressions ----------------------------------------------------------------------------------------------------


def expression_edits(code: str, begin: int, end: int) -> Iterator[Edit]:
    text = code[begin:end]
    for found in re.finditer(r"(?<= )(==|!=|<=|>=|<|>|is not|is|not in|in)(?= )", text):
        if found[1] == "in" and (
            re.search(r"\bfor [\w, ()]+ $", text[: found.start()]) or text[: found.start()].endswith("not ")
        ):
            continue
        if found[1] == "is" and text[found.end() :].startswith(" not "):
            continue
        for turned in TURNED[found[1]]:
            yield Edit(begin + found.start(), begin + found.end(), turned)
    for found in re.finditer(r"\bnot (?!in )", text):
        if not text[: found.start()].endswith("is "):
            yield Edit(begin + found.start(), begin + found.end(), "")
    for found in re.finditer(r"(?<= )([+-])(?= 1\b)", text):
        yield Edit(begin + found.start(), begin + found.end(), "-" if found[1] == "+" else "+")
    for found in re.finditer(r"(?<=<uint32_t> )-1\b", text):
        yield Edit(begin + found.start(), begin + found.end(), "1")
    for found in re.finditer(r"\b(min|max)\(", text):
        yield Edit(begin + found.start(), begin + found.end(), "max(" if found[1] == "min" else "min(")
    for found in ATOMIC.finditer(text):
        yield Edit(begin + found.start(), begin + found.end(), f"ff_weak_{found[1]}{found[2]}(")
    yield from logical_edits(code, begin, end)
    if text in LITERALS:
        yield Edit(begin, end, LITERALS[text])


class Separator(NamedTuple):
    begin: int
    end: int
    kind: str


def logical_edits(code: str, begin: int, end: int) -> Iterator[Edit]:
    """Operands of `and` and `or` dropped, conditions of conditional expressions forced."""
    levels: list[list[Separator]] = [[Separator(begin, begin, "begin")]]
    for found in re.finditer(r"[()\[\]{}]|,|\b(?:and|or|if|else|for|lambda)\b", code[begin:end]):
        here = Separator(begin + found.start(), begin + found.end(), found[0])
        if found[0] in CLOSING:
            levels.append([here])
        elif found[0] in CLOSING.values():
            yield from edits_of_level([*levels.pop(), here])
        else:
            levels[-1].append(here)
    yield from edits_of_level([*levels.pop(), Separator(end, end, "end")])


def edits_of_level(separators: list[Separator]) -> Iterator[Edit]:
    for number, (begin, end, kind) in enumerate(separators):
        if kind in ("and", "or"):
            passed = () if kind == "and" else ("and",)
            left = next(one for one in reversed(separators[:number]) if one.kind not in passed)
            right = next(one for one in separators[number + 1 :] if one.kind not in passed)
            yield Edit(left.end + (left.kind not in CLOSING and left.kind != "begin"), end + 1, "")
            yield Edit(begin - 1, right.begin - (right.kind in ("and", "or", "if", "else")), "")
        elif kind == "if":
            right = next(one for one in separators[number + 1 :] if one.kind not in ("and", "or"))
            for text in ("1", "0"):
                yield Edit(end + 1, right.begin - (right.kind in ("if", "else", "for")), text)


def range_edits(code: str) -> Iterator[Edit]:
    """Leave out the last or the first round of a loop."""
    found = re.match(r"for \w+ in range\((.*)\):$", code)
    if found is None:
        return
    begin, end = found.span(1)
    commas = [begin + at for at in split_at_top(found[1], ",")]
    if len(commas) > 1:
        return
    last = commas[0] + 2 if commas else begin
    yield Edit(last, end, f"ff_less({code[last:end]})")
    if commas:
        yield Edit(begin, commas[0], f"({code[begin : commas[0]]}) + 1")
    else:
        yield Edit(begin, begin, "1, ")


# ---- statements -----------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A piece of a line, all of it if it is a statement, and what else could stand there."""

    begin: int
    end: int
    is_condition: bool
    edits: list[Edit]


def places(line: Line) -> list[Place]:
    """Pieces of a logical line that can be other, each with what else could stand there."""
    code, text = line.code, masked(line.code)
    if text[0] == '"' or text.startswith(
        ("global ", "import ", "from ", "raise", "del ", "@", "with ", "except", "nonlocal ")
    ):
        return []
    if found := re.match(r"(if|elif|while) (.*):$", text):
        return [condition(text, found[1], *found.span(2))]
    if text.startswith("for "):
        return [Place(0, 0, False, list(range_edits(text)))]
    if text.endswith(":"):
        return []
    if text.startswith("cdef "):
        return [
            Place(begin, end, False, distinct(text, expression_edits(text, begin, end)))
            for begin, end in initial_values(text)
        ]
    return [Place(0, len(code), False, distinct(text, statement_edits(text)))]


def condition(code: str, keyword: str, begin: int, end: int) -> Place:
    """Not with a part negated: a test that tells it from one without that part, and from a forced one, tells that too."""
    if code[begin:end] == "True":
        return Place(begin, end, True, [])
    edits = [edit for edit in expression_edits(code, begin, end) if not negates(code, edit)]
    tops = {text for text in ("and", "or") if split_at_top(code[begin:end], f" {text} ")}
    edits += [Edit(begin, end, "1")] if keyword != "while" and "and" not in tops else []
    edits += [Edit(begin, end, "0")] if "or" not in tops else []
    return Place(begin, end, True, distinct(code, edits))


def negates(code: str, edit: Edit) -> bool:
    before = code[edit.begin : edit.end]
    return before == "not " or before in ("==", "!=", "is", "is not", "in", "not in") or (before, edit.text) in NEGATIONS


def initial_values(code: str) -> Iterator[tuple[int, int]]:
    """Where the values of a declaration stand."""
    ends = [*split_at_top(code, ", "), len(code)]
    begin = 0
    for end in ends:
        equals = [at for at in split_at_top(code[:end], " = ") if at >= begin]
        if equals:
            yield equals[0] + 3, end
        begin = end


def statement_edits(code: str) -> Iterator[Edit]:
    whole = len(code)
    if code in ("pass", "break", "continue", "return"):
        return
    if code.startswith("return "):
        yield from expression_edits(code, len("return "), whole)
        return
    if is_call(code):
        yield Edit(0, whole, DROPPED)
        yield from expression_edits(code, 0, whole)
        return
    if found := re.search(r" (\+|-|\||&|//|<<|>>|\*)= ", code):
        yield Edit(0, whole, DROPPED)
        if found[1] in "+-":
            yield Edit(found.start() + 1, found.end() - 1, "-=" if found[1] == "+" else "+=")
        yield from expression_edits(code, found.end(), whole)
        return
    equals = split_at_top(code, " = ")
    begin = 0
    for at in equals:
        target = code[begin:at]
        if ("." in target or "[" in target) and not split_at_top(target, ", "):
            yield Edit(0, whole, DROPPED) if len(equals) == 1 else Edit(begin, at + 3, "")
        begin = at + 3
    if equals:
        yield from expression_edits(code, begin, whole)


def is_call(code: str) -> bool:
    """Whether a statement is nothing but a call."""
    return code.endswith(")") and bool(re.match(r"[\w.\[\]]+\(|\(<", code)) and not split_at_top(code, " = ")


def distinct(code: str, edits) -> list[Edit]:
    """Each change once, and none that changes nothing."""
    found = {}
    for edit in edits:
        found.setdefault(applied(code, edit), edit)
    found.pop(code, None)
    return list(found.values())


def applied(code: str, edit: Edit) -> str:
    return DROPPED if edit.text == DROPPED else code[: edit.begin] + edit.text + code[edit.end :]


# ---- order ----------------------------------------------------------------------------------------------------------


def may_be_swapped(one: Line, other: Line) -> bool:
    """Whether two lines in a row both do something to shared words, and neither needs what the other sets."""
    return one.indent == other.indent and one.function == other.function != "" and is_free(one.code, other.code)


def is_free(one: str, other: str) -> bool:
    sets = [set_by(one), set_by(other)]
    if None in sets:
        return False
    words = [set(WORD.findall(masked(text))) for text in (one, other)]
    if not (words[0] | words[1]) & STEPS:
        return False
    return not (sets[0] & words[1] or sets[1] & words[0])


def set_by(code: str) -> set[str] | None:
    """Local names that a statement sets; None for one that is no step of its own."""
    text = masked(code)
    if is_call(text):
        return set()
    if text.startswith(("cdef ", "return", "if ", "for ", "while ", "elif ", "raise", "with ")) or text.endswith(":"):
        return None
    equals = split_at_top(text, " = ")
    if len(equals) != 1:
        return None
    target = text[: equals[0]]
    if "." in target or "[" in target:
        return set()
    return {target} if re.search(r"\bff_|->|\.", text[equals[0] :]) and target.isidentifier() else None


# ---- files ----------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    text: str
    mutants: dict[int, Mutant]
    lines: dict[int, int]  # of `text`, from 1: the mutant that stands there


def transformed(file: str, text: str, number: int, refused=frozenset()) -> Written:
    """Return a file with its mutants, numbered from `number` on, without those whose keys are refused."""
    writer = Writer(file, text, number, refused)
    lines = list(logical_lines(text))
    for before, line, after in zip([None, *lines[:-1]], lines, [*lines[1:], None], strict=True):
        writer.copy_until(line.first)
        writer.write(before, line, after)
    writer.copy_until(len(writer.source))
    return Written("\n".join(writer.out) + "\n", writer.mutants, writer.lines)


class Writer:
    def __init__(self, file, text, number, refused):
        self.file = file
        self.source = text.splitlines()
        self.at = 0
        self.out: list[str] = []
        self.number = number
        self.refused = refused
        self.mutants: dict[int, Mutant] = {}
        self.lines: dict[int, int] = {}
        self.swapped = 0  # the number of the mutant that has moved the next line in front of this one
        self.seen: dict[tuple, int] = {}

    def copy_until(self, line):
        self.out += self.source[self.at : line]
        self.at = line

    def new(self, line: Line, after: str) -> int:
        """Return a new mutant's number; 0 if the mutant is refused."""
        mutant = Mutant(self.file, line.first + 1, line.function, line.code, after)
        again = self.seen[mutant.key] = self.seen.get(mutant.key, 0) + 1
        if again > 1:
            mutant = mutant._replace(after=f"{after}  (number {again})")
        if mutant.key in self.refused:
            return 0
        self.mutants[self.number] = mutant
        self.number += 1
        return self.number - 1

    def write(self, before, line: Line, after):
        swapped, self.swapped = self.swapped, 0
        if not line.function:
            return
        found = places(line)
        if after is not None and may_be_swapped(line, after):
            self.swapped = self.new(after, AFTER + line.code)
            self.swapped_code = line.code
        if not swapped and not self.swapped and not any(place.edits for place in found):
            return
        self.at = line.last
        if found and found[0].end == len(line.code) and not line.code.startswith("cdef "):
            self.write_statement(line, found[0], swapped, after)
        elif line.code.startswith("for "):
            self.write_loop(line, found[0])
        else:
            self.write_pieces(line, found)

    def put(self, indent, text, number=0):
        self.out.append(" " * indent + text)
        if number:
            self.lines[len(self.out)] = number

    def write_statement(self, line, place, swapped, after):
        choices = []
        if swapped:
            choices.append((swapped, ["pass"]))
        if self.swapped:
            choices.append((self.swapped, [after.code, line.code]))
        for edit in place.edits:
            text = applied(line.code, edit)
            if number := self.new(line, text):
                choices.append((number, ["pass" if text == DROPPED else text]))
        if not choices:
            return self.put(line.indent, line.code)
        keyword = "if"
        for number, texts in choices:
            self.put(line.indent, f"{keyword} ff_is({number}):", number)
            for text in texts:
                self.put(line.indent + 4, text, number)
            keyword = "elif"
        self.put(line.indent, "else:")
        self.put(line.indent + 4, line.code)
        return None

    def write_loop(self, line, place):
        """`range` in a loop's head: each bound by itself."""
        code = line.code
        begin, end = re.match(r"for \w+ in range\((.*)\):$", code).span(1)
        commas = [begin + at for at in split_at_top(masked(code)[begin:end], ",")]
        low, high = (code[begin : commas[0]], code[commas[0] + 2 : end]) if commas else ("0", code[begin:end])
        for edit in place.edits:
            number = self.new(line, applied(code, edit))
            if number and edit.text.startswith("ff_less("):
                high = f"({edit.text} if ff_is({number}) else ({high}))"
            elif number:
                low = f"(({low}) + 1 if ff_is({number}) else ({low}))"
        self.put(line.indent, f"{code[:begin]}{low}, {high}):")

    def write_pieces(self, line, found):
        """Alternatives within a line, each on a line of its own."""
        self.put(line.indent, line.code[: found[0].begin] if found else line.code)
        for number, place in enumerate(found):
            following = found[number + 1].begin if number + 1 < len(found) else len(line.code)
            self.write_piece(line, place)
            self.out[-1] += line.code[place.end : following]

    def write_piece(self, line, place):
        wrap = "not not ({})" if place.is_condition else "({})"
        self.out[-1] += "("
        for edit in place.edits:
            text = applied(line.code, edit)
            piece = text[place.begin : len(text) - (len(line.code) - place.end)]
            if number := self.new(line, text):
                self.put(line.indent + 4, wrap.format(piece) + f" if ff_is({number}) else", number)
        self.put(line.indent + 4, wrap.format(line.code[place.begin : place.end]) + ")")
