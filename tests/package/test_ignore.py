"""The exclusion rules: the built-in ones, and gitignore's as git itself understands them."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from flame_fast.kernels import archive
from flame_fast.kernels.archive import VERDICT_KEEP as KEEP
from flame_fast.kernels.archive import VERDICT_OMIT as OMIT
from flame_fast.kernels.archive import VERDICT_SECRET as SECRET
from flame_fast.kernels.archive import VERDICT_SECRET_IF_KEY as SECRET_IF_KEY
from gates import passes_in_child
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flame_fast.package.gitignore import IgnoreRules, parse_rule, split_lines


def rules_of(lines: Iterable[bytes]) -> IgnoreRules:
    return IgnoreRules((f"line {number}", line) for number, line in enumerate(lines, 1))


def judge(rules: list[str], path: str, is_directory: bool = False) -> int:
    return rules_of(map(os.fsencode, rules)).judge(os.fsencode(path), is_directory)


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


@pytest.mark.parametrize("name", [".env", "id_rsa", "id_ed25519", "id_ecdsa", ".netrc", ".pypirc", ".aws", ".ssh"])
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


def test_a_rule_names_its_line_and_where_it_stands() -> None:
    rules = IgnoreRules([("package.excludes", b"data/"), (".flameignore, line 7", b"!*.\xff  "), ("here", b"\n")])
    assert str(rules.deciding(b"a/data", True)) == "'data/' (package.excludes)"
    assert str(rules.deciding(b"a/b.\xff", False)) == r"'!*.\udcff  ' (.flameignore, line 7)"
    assert str(rules.deciding(b"a/id_rsa", False)) == "'id_rsa' (built in)"
    assert rules.deciding(b"a/b", False) is None
    number = rules.matcher.decide(b"data", True)
    assert (rules[number].line, rules[number].origin) == (b"data/", "package.excludes")


@pytest.mark.parametrize("rule", ["*a*a*a*a*a*a*a*a*b", "**/a/**/a/**/a/**/a/**/a/**/a/**/b", "/" + "*a**a" * 8 + "b"])
def test_no_pattern_takes_for_ever(rule: str) -> None:
    path = "/".join(["a" * 200, *"a" * 200])
    name = "a" * 255

    def match() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it in native code, too
        signal.alarm(20)
        assert judge([rule], path) == judge([rule], name) == KEEP
        assert judge([rule], path + "/b") == (OMIT if rule.startswith("**") else KEEP)

    assert passes_in_child(match)


def walked(tree: Path, rules: IgnoreRules) -> tuple[list[bytes], list[tuple[int, int, bytes]], list[bytes]]:
    """Return a walk's members, what it says about what it leaves out, and the links that it asked about."""
    asked = []
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walk = archive.Walk(root, rules.matcher, (), 1000, None, lambda path, target: asked.append(path), True)
        walk.run()
    finally:
        os.close(root)
    return [walk.members[number][0] for number in range(len(walk.members))], walk.noted(), asked


def test_an_excluded_directory_is_not_entered(tmp_path: Path) -> None:
    for name in ("in", "out", "sub/out", "node_modules/x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "link").symlink_to("/")
        (tmp_path / name / "keep").touch()
    rules = rules_of([b"out/", b"!keep", b"!out/keep"])
    members, noted, asked = walked(tmp_path, rules)
    assert members == [b"in", b"in/keep", b"sub"]
    assert asked == [b"in/link"]
    assert sorted((path, str(rules[rule])) for note, rule, path in noted if note == archive.NOTE_RULE) == [
        (b"node_modules", "'node_modules' (built in)"),
        (b"out", "'out/' (line 1)"),
        (b"sub/out", "'out/' (line 1)"),
    ]
    assert [path for note, _, path in noted if note != archive.NOTE_RULE] == [b"in/link"]


class Git:
    """A repository, and a `git check-ignore` that answers one tree after the other."""

    def __init__(self, root: str) -> None:
        self.root = os.fsencode(root)
        self._numbers = itertools.count()
        plain = {"PATH": os.environ["PATH"], "HOME": root, "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", "init", "-q", root], check=True, env=plain)
        command = ["git", "-C", root, "check-ignore", "--no-index", "--verbose", "--non-matching", "-z", "--stdin"]
        self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain)

    def new_directory(self) -> bytes:
        path = self.root + b"/%d" % next(self._numbers)
        os.mkdir(path)
        return path

    def deciding_lines(self, paths: list[bytes]) -> list[int]:
        """Return, for each path, the line of the ignore file that decides about it or a directory above it; 0 for none."""
        self._running.stdin.write(b"".join(path + b"\0" for path in paths))
        self._running.stdin.flush()
        answers = []
        for path in paths:
            _, line, _, about = (self._field() for _ in range(4))
            assert about == path
            answers.append(int(line or 0))
        return answers

    def _field(self) -> bytes:
        out = bytearray()
        while byte := self._running.stdout.read(1):
            if byte == b"\0":
                return bytes(out)
            out += byte
        raise AssertionError(f"git has ended with {self._running.wait()}")

    def end(self) -> None:
        self._running.stdin.close()
        self._running.stdout.close()
        assert self._running.wait() in (0, 1)


@pytest.fixture(scope="module")
def git() -> Iterator[Git]:
    root = tempfile.mkdtemp()
    git = Git(root)
    yield git
    git.end()
    shutil.rmtree(root)


NAMES = rb"a b ab aab foo foo.py keep [x] a* \ a ? - !a #c .x A z1 ^ : []".split() + [
    b"a b",
    b" ",
    b"a ",
    b"a\nb",
    b"\t",
    b"\r",
    b"\xc3\xa9",
    b"\xff",
    b"a\xffb",
    b"\xed\xa0\x80",
    b"\xe2\x82\xac",
    b"\x7f\x01",
]
PIECES = (
    rb"a b foo .py keep x * ** *** ? / / [ab] [!a] [^-a] [a-f] [z-a] []x] [\]x] [!]] [a-] [--0] [-\c] [[-a] [ ] \ "
    rb" [[:alpha:]] [^[:alnum:][:punct:]] [[:space:][:cntrl:]] [[:upper:]-z] [a-[:digit:]] [[:foo:]] [[:foo] [[::]]"
    rb" [[:xdigit:]\]] [!/] [.-0] \* \[ \ ! # - : ^ **/ /**/ /** */ *a* *a*b **a a** \/".split()
    + [b" ", b"\\ ", b"\t", b"\r", b"\xc3", b"\xc3\xa9", b"\xff", b"[\x80-\xff]", b"[\xc3\xa9]", b"[ -~]"]
)
trees = st.recursive(
    st.none(), lambda below: st.dictionaries(st.sampled_from(NAMES), below, min_size=1, max_size=4), max_leaves=12
).filter(lambda tree: bool(tree))


def paths_of(tree: dict[bytes, object], below: bytes = b"") -> dict[bytes, bool]:
    """Return a tree's paths, and whether each is a directory."""
    paths = {}
    for name, content in tree.items():
        paths[below + name] = content is not None
        if content is not None:
            paths.update(paths_of(content, below + name + b"/"))
    return paths


def instead_of(byte: int) -> st.SearchStrategy[bytes]:
    """Draw text that may stand for a byte of a path in a rule that matches it, or just not."""
    one = bytes([byte])
    return st.sampled_from(
        [one] * 8
        + [b"\\" + one, b"?", b"*", b"*" + one, one + b"*", b"[" + one + b"]", b"[!" + one + b"]", b"", b"/**/", b"**"]
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[bytes, object], list[bytes]]:
    tree = draw(trees)
    anything = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map(b"".join)
    near = st.sampled_from(sorted(paths_of(tree))).flatmap(lambda path: st.tuples(*map(instead_of, path)).map(b"".join))
    affixes = (
        st.sampled_from([b"", b"", b"", b"!", b"/", b"!/", b"**/"]),
        st.sampled_from([b"", b"", b"", b"/", b"/**", b" "]),
    )
    line = st.tuples(affixes[0], st.one_of(anything, near), affixes[1]).map(b"".join)
    return tree, draw(st.lists(line, min_size=1, max_size=4))


def make(root: bytes, tree: dict[bytes, object]) -> None:
    for name, content in tree.items():
        path = root + b"/" + name
        if content is None:
            os.close(os.open(path, os.O_CREAT))
        else:
            os.mkdir(path)
            make(path, content)


@settings(max_examples=100, deadline=None)
@given(case=cases())
@example(case=({b"foo": {b"a": {b"b": None}}, b"foob": None}, [b"foo**/b"]))
@example(case=({b"foo": {b"a": {b"b": None}}}, [b"f?o**/b"]))
@example(case=({b"a": None, b"-": None}, [b"[z-a]", b"![!z-a]"]))
@example(case=({b"a": None, b"b": {b"a": None}}, [b"[!z-a]"]))
@example(case=({b"a": {b"keep": {b"b": None}, b"b": None}}, [b"a/*", b"!a/keep"]))
@example(case=({b"a": {b"b": {b"foo": None}}}, [b"a/**", b"!a/b/"]))
@example(case=({b"a": {b"b": {b"a": {b"b": {b"\xff": None}}}}}, [b"**/b/**/\xff", b"!a/**/b/*"]))
def test_git_says_the_same(git: Git, case: tuple[dict[bytes, object], list[bytes]]) -> None:
    tree, lines = case
    paths = paths_of(tree)
    root = git.new_directory()
    make(root, tree)
    text = b"\n".join(lines) + b"\n"
    with open(root + b"/.gitignore", "wb") as file:
        file.write(text)
    own = rules_of(split_lines(text))

    def deciding_line(path: bytes) -> int:
        parents = [path[:at] for at, byte in enumerate(path) if byte == 0x2F]
        for each in [*parents, path]:
            rule = own.deciding(each, paths[each])
            if rule is not None and (each == path or rule.verdict == OMIT):
                assert rule.verdict == (KEEP if rule.line.startswith(b"!") else OMIT)
                return int(rule.origin.removeprefix("line "))
        return 0

    expected = git.deciding_lines([root[len(git.root) + 1 :] + b"/" + path for path in paths])
    shutil.rmtree(root)
    assert {path: deciding_line(path) for path in paths} == dict(zip(paths, expected, strict=True))


@given(st.binary(max_size=20).filter(lambda line: b"\n" not in line))
def test_no_line_breaks_the_reading(line: bytes) -> None:
    if parse_rule(line) is not None:
        assert rules_of([line]).judge(b"a/b", False) in (KEEP, OMIT)
