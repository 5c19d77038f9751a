"""Packages read by others: GNU tar, bsdtar, Python's tarfile and gzip give back what was packed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flame_fast.package import PackageInfo, pack

pytestmark = pytest.mark.filterwarnings("error")

#: The trees of one archive lie side by side in it, so a reader is started once for 20 of them. One archive of the 26 holds
#: the simplest trees there are: that leaves 25 times 20 random ones, 500.
ARCHIVES = 26
TREES = 20

FILE, LINK = "file", "link"
MIB = 1 << 20
Node = tuple[int, bytes, object]
Tree = dict[bytes, object]

PIECES = [
    b"a",
    b"b.py",
    b"-",
    b"--checkpoint-action=exec=false",
    b" ",
    b"\n",
    b"\r",
    b"\t",
    b"\\",
    b"\\n",
    b"*?[a]",
    b'"',
    b"'",
    b"=",
    b"17 path=x\n",
    b"C:",
    b"...",
    b"~",
    b"@",
    "é".encode(),
    "漢字".encode(),
    "😀".encode(),
    "\u202e".encode(),
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\x01\x7f",
    b"n" * 99,
    b"n" * 100,
    b"n" * 154,
]


def is_composed(name: bytes) -> bool:
    """Return false for names that bsdtar changes, in archives of any program: see the last test."""
    text = name.decode("utf-8", "replace")
    return unicodedata.normalize("NFC", text) == text


names = (
    st.one_of(
        st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(b"".join),
        st.binary(min_size=1, max_size=20).map(lambda name: name.translate(None, b"/\0")),
        st.tuples(st.sampled_from("aé漢"), st.integers(1, 255)).map(lambda pair: pair[0].encode() * pair[1]),
    )
    .map(lambda name: name[:255])  # may well end within a character
    .filter(lambda name: name not in (b"", b".", b"..") and is_composed(name))
)
sizes = st.one_of(
    st.sampled_from([0, 1, 510, 511, 512, 513, 1023, 1024, 1025]),
    st.integers(0, 5000),
    st.sampled_from([0] * 44 + [MIB - 1, MIB, MIB + 1, 3 * MIB]),
)
files = st.tuples(st.just(FILE), sizes, st.integers(0, 2**32), st.booleans())
links = st.tuples(st.just(LINK), st.integers(0, 99))
#: Of each entry: the number of its directory among those made so far; its name; its content (None: a directory).
trees = st.lists(st.tuples(st.integers(0, 99), names, st.one_of(files, st.none(), links)), max_size=7)


def make(root: bytes, nodes: list[Node]) -> None:
    """Make the tree that the numbers tell of.

    A link leads to another entry, or to a place beside one where nothing is.
    """
    os.mkdir(root)
    directories = [root]
    paths = [root]
    links = []
    for place, name, what in nodes:
        path = directories[place % len(directories)] + b"/" + name
        if path in paths:
            continue
        paths.append(path)
        if what is None:
            os.mkdir(path)
            directories.append(path)
        elif what[0] == FILE:
            _, size, seed, executable = what
            with open(path, "xb") as file:
                file.write(content_of(size, seed))
            os.chmod(path, 0o700 if executable else 0o600)
        else:
            links.append((path, what[1]))
    for path, number in links:
        target = paths[number % len(paths)]
        if number > 80:
            target += b"-nothing"
        os.symlink(os.path.relpath(target, os.path.dirname(path)), path)


def content_of(size: int, seed: int) -> bytes:
    """Half of all contents can be compressed."""
    if seed % 2:
        return random.Random(seed).randbytes(size)
    return (b"%d\n" % seed * (size // 2 + 1))[:size]


def read(root: bytes, below: bytes = b"") -> Tree:
    """Return the entries below a directory, by path."""
    found: Tree = {}
    for entry in os.scandir(root):
        path = below + entry.name
        if entry.is_symlink():
            found[path] = LINK, os.readlink(entry.path)
        elif entry.is_dir():
            found[path] = "directory"
            found |= read(entry.path, path + b"/")
        else:
            with open(entry.path, "rb") as file:
                content = file.read()
            executable = bool(entry.stat().st_mode & stat.S_IXUSR)
            found[path] = FILE, len(content), hashlib.sha256(content).hexdigest(), executable
    return found


def run(*command: str, but_for: bytes = b"") -> None:
    """Run a reader, which must say nothing but `but_for`.

    A reader that has something else to say does not read the archive as it is meant.
    """
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True)
    said = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if line != but_for]
    assert (done.returncode, said) == (0, [])


def by_gnu_tar(path: str, target: str) -> None:
    # What tells other readers that a name is not UTF-8; GNU tar never takes it for anything but bytes.
    run("tar", "xzf", path, "-C", target, but_for=b"tar: Ignoring unknown extended header keyword 'hdrcharset'")


def by_bsdtar(path: str, target: str) -> None:
    # -P, else it drops what on Windows would begin an absolute path: a backslash, "C:\\".
    run("bsdtar", "-xPf", path, "-C", target)


def by_tarfile(path: str, target: str) -> None:
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive:
        archive.extractall(target, filter="data")


needs_bsdtar = pytest.mark.skipif(shutil.which("bsdtar") is None, reason="bsdtar is not installed")
readers = pytest.mark.parametrize("extract", [by_gnu_tar, pytest.param(by_bsdtar, marks=needs_bsdtar), by_tarfile])


@pytest.fixture(scope="module")
def archives() -> Iterator[list[tuple[Tree, PackageInfo]]]:
    """Yield the packages, each with the tree that it was made of."""
    packed: list[tuple[Tree, PackageInfo]] = []

    # Twenty trees are not worth shrinking: of what differs, the path is told.
    @settings(max_examples=ARCHIVES, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(names, trees), min_size=TREES, max_size=TREES))
    def pack_trees(batch: list[tuple[bytes, list[Node]]]) -> None:
        tree = os.fsencode(base) + b"/tree"
        os.mkdir(tree)
        for number, (name, nodes) in enumerate(batch):
            make(tree + b"/" + (name[:-2] + b"%02d" % number if len(name) > 253 else name + b"%02d" % number), nodes)
        info = pack(f"{base}/tree", f"{base}/{len(packed)}.tar.gz", home=f"{base}/home")
        packed.append((read(tree), info))
        shutil.rmtree(tree)

    with tempfile.TemporaryDirectory() as base:
        pack_trees()
        yield packed


def test_there_are_500_random_trees(archives: list[tuple[Tree, PackageInfo]]) -> None:
    trees = [path for tree, _ in archives for path in tree if b"/" not in path]
    assert len(trees) == ARCHIVES * TREES >= 500 + TREES


@readers
def test_others_read_back_what_was_packed(
    archives: list[tuple[Tree, PackageInfo]], tmp_path: Path, extract: Callable[[str, str], None]
) -> None:
    for number, (tree, info) in enumerate(archives):
        target = tmp_path / str(number)
        target.mkdir()
        extract(info.path, str(target))
        found = read(os.fsencode(target))
        shutil.rmtree(target)
        assert found.pop(b"pyproject.toml")
        assert found.keys() == tree.keys()
        assert [(path, found[path]) for path in tree] == list(tree.items())


def test_gzip_finds_nothing_wrong(archives: list[tuple[Tree, PackageInfo]]) -> None:
    run("gzip", "-t", *(info.path for _, info in archives))


@readers
def test_a_name_of_separate_accents_stays_as_it_is_but_for_bsdtar(
    tmp_path: Path, extract: Callable[[str, str], None]
) -> None:
    """Libarchive composes what it takes for UTF-8 (Unicode's NFC), in archives of its own too."""
    name = "e\u0301".encode()
    (tmp_path / "tree").mkdir()
    (tmp_path / "read").mkdir()
    (tmp_path / "tree" / os.fsdecode(name)).touch()
    extract(pack(tmp_path / "tree", tmp_path).path, str(tmp_path / "read"))
    found = set(read(os.fsencode(tmp_path / "read"))) - {b"pyproject.toml"}
    assert found == {name} or (extract is by_bsdtar and found == {unicodedata.normalize("NFC", name.decode()).encode()})
