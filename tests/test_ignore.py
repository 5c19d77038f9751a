"""The exclusion rules: the built-in ones, and gitignore's as git itself understands them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from flame_fast.ignore import KEEP, OMIT, SECRET, SECRET_IF_KEY, IgnoreRules, parse_rule, split_lines
from hypothesis import example, given, settings
from hypothesis import strategies as st


def judge(rules: list[str], path: str, is_directory: bool = False) -> int:
    raw = os.fsencode(path)
    return IgnoreRules([os.fsencode(rule) for rule in rules]).judge(raw, raw.rsplit(b"/", 1)[-1], is_directory)


@pytest.mark.parametrize("parent", ["", "deep/er/"])
@pytest.mark.parametrize(
    "name",
    [
        ".venv",
        "venv",
        "__pycache__",
        ".pytest_cache",
        ".ruff_cache",
        ".mypy_cache",
        "x.egg-info",
        ".git",
        ".tox",
        "node_modules",
        "a.pyc",
        "a.pyo",
        ".DS_Store",
    ],
)
def test_the_built_in_names_are_left_out_at_any_depth(parent: str, name: str) -> None:
    assert judge([], parent + name, True) == OMIT
    assert judge([], parent + name, False) == OMIT
    assert judge([f"!{name}"], parent + name, False) == KEEP


@pytest.mark.parametrize(
    "name", ["a.py", ".gitignore", "environment", ".env.example", "venv2", "git", "pyc", ".flameignore"]
)
def test_names_that_only_look_alike_stay(name: str) -> None:
    assert judge([], name) == KEEP


@pytest.mark.parametrize("name", [".env", "id_rsa", "id_ed25519"])
def test_secrets_are_told_apart_unless_the_user_decides(name: str) -> None:
    assert judge([], f"a/{name}") == SECRET
    assert judge([f"!{name}"], f"a/{name}") == KEEP
    assert judge([name], f"a/{name}") == OMIT


def test_a_pem_file_is_a_secret_if_it_holds_a_key() -> None:
    assert judge([], "cert.pem") == SECRET_IF_KEY
    assert judge([], "cert.pem", True) == KEEP
    assert judge(["!cert.pem"], "cert.pem") == KEEP


@pytest.mark.parametrize(
    ("rules", "path", "is_directory", "expected"),
    [
        (["data/"], "data", True, OMIT),
        (["data/"], "data", False, KEEP),
        (["data/"], "a/data", True, OMIT),
        (["/build"], "build", False, OMIT),
        (["/build"], "a/build", False, KEEP),
        (["**/x"], "a/b/x", False, OMIT),
        (["**/x"], "x", False, OMIT),
        (["a/**"], "a", True, KEEP),
        (["a/**"], "a/b/c", False, OMIT),
        (["a/**/c"], "a/c", False, OMIT),
        (["*.csv", "!keep.csv"], "keep.csv", False, KEEP),
        (["!keep.csv", "*.csv"], "keep.csv", False, OMIT),
        (["a/*", "!a/keep"], "a/keep", True, KEEP),
        (["a/b"], "c/a/b", False, KEEP),
        (["*.py"], "a/b.py", False, OMIT),
        (["a/*.py"], "a/b/c.py", False, KEEP),
        (["\\!x"], "!x", False, OMIT),
        (["# x"], "# x", False, KEEP),
        (["\\# x"], "# x", False, OMIT),
        (["x  "], "x", False, OMIT),
        (["x\\ "], "x ", False, OMIT),
        ([""], "x", False, KEEP),
        (["a?c"], "abc", False, OMIT),
        (["a[!b]c"], "abc", False, KEEP),
    ],
)
def test_rules_are_gitignore_s(rules: list[str], path: str, is_directory: bool, expected: int) -> None:
    assert judge(rules, path, is_directory) == expected


def test_lines_are_split_as_git_does() -> None:
    assert split_lines(b"\xef\xbb\xbfa\r\nb\n\n c") == [b"a", b"b", b"", b" c"]


@pytest.fixture(scope="module")
def repository() -> Iterator[bytes]:
    root = tempfile.mkdtemp()
    subprocess.run(["git", "init", "-q", root], check=True)
    yield os.fsencode(root)
    shutil.rmtree(root)


NAMES = [
    b"a",
    b"b",
    b"ab",
    b"foo",
    b"foo.py",
    b"keep",
    b"[x]",
    b"a b",
    b"\xc3\xa9",
    b"\xff",
    b"-",
    b"!a",
    b"#c",
    b"a\nb",
]
PIECES = (
    rb"a b foo .py keep * ** ? / / [ab] [!a] [^-a] [a-f] [z-a] [[:alpha:]] [[:foo] []x] [\]x] [ ] \ \a ! # -".split()
    + [b" ", b"\\ ", b"\xc3", b"\xc3\xa9"]
)
trees = st.recursive(
    st.none(), lambda below: st.dictionaries(st.sampled_from(NAMES), below, max_size=4), max_leaves=12
).filter(lambda tree: bool(tree))
rules = st.lists(
    st.tuples(st.sampled_from([b"", b"", b"!"]), st.lists(st.sampled_from(PIECES), min_size=1, max_size=5)).map(
        lambda parts: parts[0] + b"".join(parts[1])
    ),
    min_size=1,
    max_size=4,
)


def make(root: bytes, tree: dict[bytes, object], below: bytes = b"") -> dict[bytes, bool]:
    """Write a tree; return its paths, and whether each is a directory."""
    paths = {}
    for name, content in tree.items():
        path = below + name
        paths[path] = content is not None
        if isinstance(content, dict):
            os.mkdir(root + b"/" + path)
            paths.update(make(root, content, path + b"/"))
        else:
            open(root + b"/" + path, "w").close()
    return paths


@settings(max_examples=200, deadline=None)
@given(tree=trees, lines=rules)
@example(tree={b"foo": {b"a": {b"b": None}}, b"foob": None}, lines=[b"foo**/b"])
@example(tree={b"foo": {b"a": {b"b": None}}}, lines=[b"f?o**/b"])
@example(tree={b"a": None, b"-": None}, lines=[b"[z-a]", b"![!z-a]"])
@example(tree={b"a": None, b"b": {b"a": None}}, lines=[b"[!z-a]"])
@example(tree={b"a": {b"keep": {b"b": None}, b"b": None}}, lines=[b"a/*", b"!a/keep"])
@example(tree={b"a": {b"b": {b"foo": None}}}, lines=[b"a/**", b"!a/b/"])
def test_git_says_the_same(repository: bytes, tree: dict[bytes, object], lines: list[bytes]) -> None:
    for name in os.listdir(repository):
        if name != b".git":
            path = os.path.join(repository, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    paths = make(repository, tree)
    with open(repository + b"/.git/info/exclude", "wb") as file:
        file.write(b"\n".join(lines) + b"\n")
    answer = subprocess.run(
        ["git", "-C", repository, "check-ignore", "--no-index", "-z", "--stdin"],
        input=b"\0".join(paths),
        capture_output=True,
    )
    assert answer.stderr == b""
    own = IgnoreRules(lines)

    def left_out(path: bytes) -> bool:
        parents = [path[:at] for at, byte in enumerate(path) if byte == 0x2F]
        return any(own.judge(each, each.rsplit(b"/", 1)[-1], paths[each]) == OMIT for each in [*parents, path])

    assert {path for path in paths if left_out(path)} == set(filter(None, answer.stdout.split(b"\0")))


@given(st.binary(max_size=20).filter(lambda line: b"\n" not in line))
def test_no_line_breaks_the_reading(line: bytes) -> None:
    rule = parse_rule(line)
    if rule is not None:
        rule.matches(b"a/b", b"b", False)
