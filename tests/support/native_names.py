"""The names that native files define and use, parsed from their text, for the test of their floors.

Knows the forms that this project writes: top-level functions, classes, structs, enums, variables and C declarations, one a
line.
"""

from __future__ import annotations

import re
from pathlib import Path

WORD = re.compile(r"\b[A-Za-z_]\w*\b")
NO_CODE = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
CIMPORT = re.compile(r"^from (\S+) cimport (\([^)]*\)|[^\n(]*)\n", re.M)
PARAMETERS = re.compile(r"^(?:    )?(?:cdef|cpdef|def) (?!class )[^\n]*?\(((?:[^()]|\([^()]*\))*)\)[^\n]*:$", re.M)
USES = re.compile(r"^# uses: (.*(?:\n#   .*)*)$", re.M)


def code_of(text: str) -> str:
    """Return the text without comments, strings and the C inside of `cdef extern` blocks."""
    return NO_CODE.sub(lambda found: "''" if found[0][0] in "\"'" else "", text)


def cimports_of(text: str) -> dict[str, set[str]]:
    """Return module, as it is written -> the names cimported from it, as they are called here."""
    found: dict[str, set[str]] = {}
    for module, names in CIMPORT.findall(code_of(text)):
        parts = [name.strip() for name in names.strip("()").split(",") if name.strip()]
        found.setdefault(module, set()).update(part.split(" as ")[-1].strip() for part in parts)
    return found


def uses_of(text: str) -> set[str]:
    """Return the files of its folder that a file says it uses."""
    found = USES.search(text)
    if found is None:
        return set()
    said = found[1].replace("\n#", " ").replace(",", " ").split()
    return set(said) - {"nothing"}


def defined_in(text: str) -> set[str]:
    """Return the names of the top level."""
    found: set[str] = set()
    block, depth = "", 0
    for line in code_of(text).splitlines():
        code, outer = line.strip(), depth
        depth += sum(code.count(bracket) for bracket in "([{") - sum(code.count(bracket) for bracket in ")]}")
        if not code or code.startswith("@") or outer > 0:
            continue
        if not line[0].isspace():
            block = block_of(code)
            found |= defined_by(code)
        elif block == "enum" and (name := re.match(r"(\w+)(?: = .*)?$", code)):
            found.add(name[1])
        elif block == "extern" and line.startswith("    ") and not line[4].isspace():
            found |= declared_by(code)
    return found


def block_of(code: str) -> str:
    if re.match(r"(cdef|cpdef) enum", code):
        return "enum"
    return "extern" if code.startswith("cdef extern") else "other"


def defined_by(code: str) -> set[str]:
    if code.startswith(("cdef extern", "from ", "import ", "cimport ", "include ", "cdef enum", "cpdef enum:")):
        return set()
    for pattern in (
        r"(?:cdef |ctypedef )?(?:packed )?(?:struct|class) (\w+)",
        r"cpdef enum (\w+)",
        r"(?:cdef|cpdef|def) .*?(\w+)\(",
        r"cdef [\w \[\]]*?\**\s?(\w+)(?: = .*)?$",
        r"ctypedef .*?(\w+)$",
        r"([A-Z_]\w*) = ",
    ):
        if name := re.match(pattern, code):
            return {name[1]}
    return set()


def declared_by(code: str) -> set[str]:
    """Return the names that a line of `cdef extern` declares; fields of its structs do not count."""
    if name := re.match(r"(?:ctypedef )?struct (\w+)", code):
        return {name[1]}
    if name := re.match(r"ctypedef [^(]*\(\*(\w+)\)\(", code):
        return {name[1]}
    if name := re.match(r"ctypedef .*?(\w+)(?: ''| '.*')?(?: \".*\")?:?$", code):
        return {name[1]}
    if name := re.match(r"[\w *]*?(\w+)\(", code):
        return {name[1]}
    if re.match(r"(?:const )?(?:int|uint\d+_t|long|void|double|PyTypeObject) ", code):
        return {part.strip().split()[-1].lstrip("*") for part in code.split(",")}
    return set()


def used_in(text: str) -> set[str]:
    """Return the names in the code, but not those behind a dot, nor those it declares or assigns to itself."""
    code = CIMPORT.sub("", code_of(text))
    code = re.sub(r"^(include|import|from) .*$", "", code, flags=re.M)
    return set(WORD.findall(re.sub(r"\.\s*\w+", "", code))) - local_names(code)


def local_names(code: str) -> set[str]:
    """Return variables, parameters and methods."""
    found = set(re.findall(r"^    \s*cdef (?:\w+ )+\**(\w+)(?: =|$|,)", code, re.M))
    found |= set(re.findall(r"^\s+(\w+)(?:, \w+)* = ", code, re.M)) | set(re.findall(r"\bfor (\w+)\b", code))
    found |= set(re.findall(r"^    (?:cdef|cpdef|def) [^\n(=]*?(\w+)\(", code, re.M))
    for declared in PARAMETERS.findall(code):
        parts = [part.partition("=")[0].split() for part in declared.split(",")]
        found |= {words[-1].lstrip("*") for words in parts if words}
    return found


def native_files(folder: Path) -> dict[str, Path]:
    """Return a folder's native files by their names in `uses` and cimports: `slots`, or `core.slots`."""
    found = {}
    for kind in ("pyx", "pxi", "pxd"):
        for path in folder.rglob(f"*.{kind}"):
            inside = path.relative_to(folder).with_suffix("").parts
            if inside[-1] != "__init__":
                found[".".join(inside)] = path
    return found
