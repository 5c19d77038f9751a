"""The walls of the native half: each file declares what it uses, and uses only files below it, without cycles.

A `.pxd` of a `core/` has no Python object: its cimports declare what it uses. A `.pxi`, which has Python objects, also lists
in its line `# uses:` the files of its folder that it needs; `_native.pyx` includes them from the bottom up.
"""

from __future__ import annotations

import functools
import graphlib
import re
from pathlib import Path

import pytest
from native_names import cimports_of, code_of, defined_in, native_files, used_in, uses_of

KERNELS = Path(__file__).parents[2] / "kernels"
FOLDERS = ["archive", "runtime"]


@functools.cache
def texts(folder):
    return {name: path.read_text() for name, path in native_files(KERNELS / folder).items()}


def sources(folder):
    """Return (folder, file) of all but the unit itself."""
    return [(folder, name) for name in sorted(texts(folder)) if name != "_native"]


FILES = [file for folder in FOLDERS for file in sources(folder)]


@functools.cache
def homes(folder):
    """Return each name of the top level, and the file that has it."""
    found = {}
    for name, text in texts(folder).items():
        for word in defined_in(text):
            assert found.setdefault(word, name) == name, f"{word} is defined in {found[word]} and in {name}"
    return found


def cimported(name, text):
    """Return the project's files that a file cimports, by their names here, each with the names taken from it."""
    found = {}
    for module, words in cimports_of(text).items():
        if module.startswith("."):
            found[resolved(name, module)] = words
    return found


def resolved(name, module):
    """Resolve a relative module name: `.slots` in `core.groups` is `core.slots`, as is `.core.slots` in `client`."""
    package = name.rpartition(".")[0]
    return f"{package}.{module[1:]}".lstrip(".")


def needs(files):
    return {name: set(cimported(name, text)) | uses_of(text) for name, text in files.items() if name != "_native"}


def floors_of(folder):
    """Return the files from the bottom up."""
    return list(graphlib.TopologicalSorter(needs(texts(folder))).static_order())


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_uses_itself_in_a_ring(folder):
    assert floors_of(folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_unit_includes_every_file_from_the_bottom_up(folder):
    files = texts(folder)
    included = re.findall(r'^include "(\w+)\.pxi"$', files["_native"], re.M)
    assert sorted(included) == sorted(name for name in files if name != "_native" and not name.startswith("core."))
    for number, name in enumerate(included):
        above = uses_of(files[name]) - set(included[:number])
        assert not above, f"{name} is included before {above}, which it uses"


def test_the_runtime_has_no_with_statement_but_for_the_gil():
    """An error that is caught there may have no traceback, which `with` would hand on as a null pointer."""
    statements = [
        (name, line) for name, text in texts("runtime").items() for line in re.findall(r"^ +with (.+):", text, re.MULTILINE)
    ]
    assert statements
    assert [(name, line) for name, line in statements if line not in ("nogil", "gil")] == []


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_a_file_says_what_it_uses(folder, name):
    """A file declares all that it uses, and nothing else: cimports by their names, other files by theirs."""
    files = texts(folder)
    text, home = files[name], homes(folder)
    named = used_in(text)
    used = {word for word in named - defined_in(text) if home.get(word, name) != name}
    said = cimported(name, text)
    missing = [
        f"{word} of {home[word]}" for word in used if home[word].startswith("core.") and word not in said.get(home[word], ())
    ]
    assert not missing, f"{name} uses without cimporting: {missing}"
    idle = [word for module, words in cimports_of(text).items() for word in words if word not in named]
    assert not idle, f"{name} cimports and does not use: {idle}"
    if not name.startswith("core."):
        assert uses_of(text) == {home[word] for word in used} - set(said) - {"_native"}


@pytest.mark.parametrize(("folder", "name"), [file for file in FILES if file[1].startswith("core.")])
def test_the_core_knows_no_python_object(folder, name):
    text = code_of(texts(folder)[name])
    heads = re.findall(r"^cdef inline (?:[^\n]|\n {8,})*?:$", text, re.M)
    assert all(head.endswith("noexcept nogil:") for head in heads), [
        head for head in heads if not head.endswith("noexcept nogil:")
    ]
    assert not re.search(r"\b(object|raise|try|list|dict|tuple|bytes|str|import)\b", text)


def test_functions_that_need_the_lock_held_stand_below_it():
    """They, and all other files below it, neither take nor release the lock: they cannot."""
    files = texts("runtime")
    order = floors_of("runtime")
    for name in ("core.locked", "core.repair"):
        assert order.index(name) < order.index("core.lock")
        assert not used_in(files[name]) & {"lock_acquire", "lock_release"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from .lock cimport lock_acquire\n\ncdef inline void f() noexcept nogil:\n    lock_acquire()\n", {"core.lock"}),
        ("from .b cimport (\n    c, d as e,\n)\n", {"core.b"}),
    ],
)
def test_cimports_are_read(text, said):
    assert set(cimported("core.a", text)) == said


def test_an_arrow_up_is_found():
    """The test of the test: two files that use each other, and one that does not declare what it uses."""
    files = {
        "core.low": "from .high cimport b\n\ncdef inline int a() noexcept nogil:\n    return b()\n",
        "core.high": "from .low cimport a\n\ncdef inline int b() noexcept nogil:\n    return a()\n",
    }
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter(needs(files)).static_order())
    assert used_in(files["core.low"]) >= {"b"} and defined_in(files["core.low"]) == {"a"}


def test_each_pair_of_atomics_is_tagged_on_both_sides():
    """Rows S1, S2, ... of PROTOCOL.md, and comments `# S1: ...` at the lines of code."""
    protocol = (KERNELS / "runtime" / "PROTOCOL.md").read_text()
    rows = re.findall(r"^\| (S\d+) \|", protocol, re.M)
    assert rows == [f"S{number}" for number in range(1, len(rows) + 1)]
    tags = [tag for text in texts("runtime").values() for tag in re.findall(r"\bS\d+(?=:)", text)]
    assert {tag for tag in rows if tags.count(tag) < 2} == set()
    assert set(tags) <= set(rows)
