"""Incremental packing: only what changed is read, and a fault of a stored package costs time and no more."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import random
import resource
import shutil
import signal
import struct
import tarfile
import tempfile
import time
import types
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from flame_fast.kernels import archive
from gates import in_child, passes_in_child, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package import PackageInfo, archive_writer, pack, packing, stored_index
from flame_fast.package.block_format import SMALL_PACKAGE, Compressor
from flame_fast.package.snapshot import Snapshot
from flame_fast.package.stored_index import Contents
from flame_fast.package.unpacking import ensure_unpacked

pytestmark = pytest.mark.filterwarnings("error")

MIB = 1 << 20
HOUR_NS = 3600 * 10**9
IN_2100_NS = 4_102_444_800 * 10**9
KEY = "-----BEGIN EC PRIVATE KEY-----\n"
ROOT = os.getuid() == 0
_moments = itertools.count(10**18)


@pytest.fixture
def home(nothing_left: Path) -> Path:
    return nothing_left


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Make a directory with next to nothing in it; beside it, make one for packages."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "tree" / "pyproject.toml").write_text("[project]\n")
    return tmp_path / "tree"


@pytest.fixture
def tree(small: Path) -> Path:
    """Make a directory of several blocks."""
    (small / "sub").mkdir()
    (small / "a.py").write_text("a = 1\n")
    (small / "large").write_bytes(random.Random(1).randbytes(2 * MIB + 5))
    for number in range(6):
        (small / "sub" / f"{number}.bin").write_bytes(random.Random(number).randbytes(300_000))
    (small / "sub" / "link").symlink_to("../a.py")
    return small


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files for old enough not to be read again, but those of the year 2100.

    Files count as if they had been there for an hour. So a change must show in times and sizes: see `write`.
    """
    monkeypatch.setattr(stored_index, "RACY_NS", -HOUR_NS)


def write(path: Path, data: bytes, *, racy: bool = False) -> None:
    """Write a file whose time no other has, and which for `settled` is too young to trust if `racy`."""
    path.write_bytes(data)
    moment = next(_moments) + (IN_2100_NS if racy else 0)
    os.utime(path, ns=(moment, moment))


def packed(tree: Path, **options: object) -> PackageInfo:
    return pack(tree, tree.parent / "out", **options)


def packed_cold(tree: Path, **options: object) -> PackageInfo:
    """Return the package as it would be if there had never been one, but for its path."""
    with tempfile.TemporaryDirectory() as base:
        info = pack(tree, base, home=f"{base}/home", **options)
        info.path = bytes_of(info)
        return info


def bytes_of(info: PackageInfo) -> bytes:
    return info.path if isinstance(info.path, bytes) else Path(info.path).read_bytes()


def said_of(info: PackageInfo) -> tuple[object, ...]:
    return info.digest, info.files, info.size, info.compressed


def content(info: PackageInfo, name: str) -> bytes:
    with tarfile.open(info.path) as file:
        return file.extractfile(name).read()


def names(info: PackageInfo) -> list[str]:
    with tarfile.open(info.path) as file:
        return file.getnames()


def stored(home: Path) -> list[Path]:
    return sorted((home / "packed").glob("*.tar.gz"))


def indices(home: Path) -> list[Path]:
    return sorted((home / "packed").glob("*.index"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the members of all blocks that have been read."""
    found: list[str] = []

    class Recorder(archive.BlockReader):
        def __init__(self, root: int, members: archive.Members) -> None:
            super().__init__(root, members)
            self.of = members

        def read(self, first: int, count: int, piece: int) -> tuple[int, int]:
            found.extend(os.fsdecode(self.of[number][0]) for number in range(first, first + count))
            return super().read(first, count, piece)

    monkeypatch.setattr(archive, "BlockReader", Recorder)
    return found


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the lengths of all blocks that have been compressed."""
    found: list[int] = []
    compress = archive_writer.compress

    def record(kind: int, raw: object, length: int, *others: object) -> tuple[bytes, bytes]:
        found.append(length)
        return compress(kind, raw, length, *others)

    monkeypatch.setattr(archive_writer, "compress", record)
    return found


class Opened:
    """The files below a directory that anybody opens or reads meanwhile: the kernel's word (inotify)."""

    _EVENT = struct.Struct("iIII")
    _ACCESS, _OPEN, _ABOUT_DIRECTORY = 0x1, 0x20, 0x40000000

    def __init__(self, root: Path) -> None:
        self._root = root
        self.names: set[str] = set()

    def __enter__(self) -> set[str]:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched = {}
        for directory, _, _ in os.walk(self._root):
            watch = libc.inotify_add_watch(self._descriptor, os.fsencode(directory), self._ACCESS | self._OPEN)
            assert watch > 0, os.strerror(ctypes.get_errno())
            self._watched[watch] = os.path.relpath(directory, self._root)
        return self.names

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            while events := os.read(self._descriptor, 65536):
                while events:
                    watch, mask, _, length = self._EVENT.unpack_from(events)
                    name = os.fsdecode(events[self._EVENT.size :][:length].rstrip(b"\0"))
                    if not mask & self._ABOUT_DIRECTORY:
                        self.names.add(os.path.normpath(os.path.join(self._watched[watch], name)))
                    events = events[self._EVENT.size + length :]
        os.close(self._descriptor)


def give_up_privileges() -> None:
    """From now on even root may not read what a file's mode keeps from its owner."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, myself = 0x20080522, 0
    assert libc.capset((ctypes.c_uint32 * 2)(version_3, myself), (ctypes.c_uint32 * 6)()) == 0


# What is unchanged


def test_of_an_unchanged_tree_no_file_is_opened(tree: Path, settled: None) -> None:
    files = {"a.py", "large", "pyproject.toml", *(f"sub/{number}.bin" for number in range(6))}
    with Opened(tree) as opened:
        one = packed(tree)
    assert opened == files
    with Opened(tree) as opened:
        two = packed(tree)
    assert opened == set()
    assert said_of(two) == said_of(one)
    assert two.holds("sub/link") and not two.holds("b.py")


def test_the_package_of_an_unchanged_tree_is_the_stored_one(
    tree: Path, home: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = packed(tree)

    def fail(*_: object) -> None:
        raise AssertionError("there is nothing to be done")

    for module, name in ((archive_writer, "compress"), (archive, "plan_blocks"), (stored_index, "store")):
        monkeypatch.setattr(module, name, fail)
    elsewhere = pack(tree, tree.parent / "elsewhere.tar.gz")
    in_place = packed(tree)
    (kept,) = stored(home)
    for info in (one, elsewhere, in_place):
        assert os.stat(info.path).st_ino == kept.stat().st_ino
    assert os.listdir(tree.parent / "out") == [one.name]  # not even the name that it had while it was made


@pytest.mark.skipif(not ROOT, reason="only root can pack what its owner may not read")
def test_an_unchanged_tree_is_packed_by_a_process_that_may_read_none_of_it(tree: Path, home: Path, settled: None) -> None:
    files = [path for path in tree.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0)
    expected = bytes_of(packed(tree))

    def pack_again() -> None:
        give_up_privileges()
        for path in files:
            with pytest.raises(PermissionError):
                path.open()
        assert bytes_of(packed(tree)) == expected

    assert passes_in_child(pack_again)


def test_times_that_say_nothing_about_content_cost_no_compression(
    tree: Path, home: Path, read: list[str], compressed: list[int], settled: None
) -> None:
    one = packed(tree)
    for path in tree.rglob("*"):
        if path.is_file():
            write(path, path.read_bytes())
    read.clear()
    compressed.clear()
    two = packed(tree)
    assert {"a.py", "large", "sub/5.bin"} < set(read)
    assert compressed == []
    assert os.stat(two.path).st_ino == stored(home)[0].stat().st_ino
    assert said_of(two) == said_of(one)
    read.clear()
    packed(tree)
    assert read == []


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Set how many threads make blocks; one of several copies the blocks before the first of them."""
    monkeypatch.setattr(archive_writer, "threads_for", lambda pieces: request.param)
    return request.param


@pytest.mark.parametrize("touched", ["a.py", "large", "pyproject.toml", "sub/3.bin", "sub/5.bin"])
def test_nor_does_any_one_of_them_on_any_number_of_threads(
    tree: Path, home: Path, compressed: list[int], settled: None, threads: int, touched: str
) -> None:
    one = packed(tree)
    compressed.clear()
    write(tree / touched, (tree / touched).read_bytes())
    two = packed(tree)
    assert compressed == []
    assert os.stat(two.path).st_ino == stored(home)[0].stat().st_ino
    assert said_of(two) == said_of(one)
    assert os.listdir(tree.parent / "out") == [one.name]


# What has changed


def append(path: Path, tree: Path) -> None:
    write(path, path.read_bytes() + b"more")


def remove(path: Path, tree: Path) -> None:
    path.unlink()


def double(path: Path, tree: Path) -> None:
    write(tree / "sub" / f"{path.name} again", path.read_bytes())


def swap(path: Path, tree: Path) -> None:
    """Late files come early, and the other way round."""
    last = tree / "sub" / "5.bin"
    mine, its = path.read_bytes(), last.read_bytes()
    write(path, its)
    write(last, mine)


@pytest.mark.parametrize("change", [append, remove, double, swap])
def test_whatever_changes_the_bytes_are_those_of_a_first_packing_on_any_number_of_threads(
    tree: Path, settled: None, threads: int, change: Callable[[Path, Path], None]
) -> None:
    for path in sorted(path for path in tree.rglob("*") if is_file(path)):
        packed(tree)
        change(path, tree)
        info, cold = packed(tree), packed_cold(tree)
        assert (bytes_of(info), said_of(info)) == (bytes_of(cold), said_of(cold))


@pytest.mark.parametrize("secrets", [["0.pem"], ["0.pem", "large.pem", "sub/0.pem"], ["sub/4.pem", "z.pem"]])
def test_blocks_that_are_left_out_whole_on_any_number_of_threads(
    tree: Path, settled: None, threads: int, secrets: list[str]
) -> None:
    for name in secrets:
        write(tree / name, KEY.encode() + bytes(MIB))
    for changed in ("sub/5.bin", "a.py", "sub/0.bin"):
        warned(tree)
        for data in (b"changed", (tree / changed).read_bytes()):
            write(tree / changed, data)
            info, _ = warned(tree)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cold = packed_cold(tree)
            assert (bytes_of(info), said_of(info)) == (bytes_of(cold), said_of(cold))


def test_of_a_tree_that_is_left_out_whole_a_change_is_left_out_too(small: Path, settled: None, threads: int) -> None:
    (small / "pyproject.toml").unlink()
    write(small / "a.pem", KEY.encode() + bytes(MIB))
    with mock.patch.object(packing, "project_file_for", lambda *_: None):
        infos = []
        for turn in range(3):
            write(small / "b.pem", KEY.encode() + bytes(MIB) + b"%d" % turn)
            infos.append(warned(small)[0])
    assert [info.files for info in infos] == [0, 0, 0]
    assert len({bytes_of(info) for info in infos}) == 1


def test_a_project_that_outgrows_the_compressor_of_small_ones_and_shrinks_again(small: Path, settled: None) -> None:
    project_file = (small / "pyproject.toml").stat().st_size
    limit = SMALL_PACKAGE - project_file
    for size in (100, limit, limit + 1, 10 * limit, limit + 1, limit, 100):
        write(small / "a.py", b"a line of text\n" * (size // 15) + b"x" * (size % 15))
        info, cold = packed(small), packed_cold(small)
        assert info.size == project_file + size
        assert (bytes_of(info), said_of(info)) == (bytes_of(cold), said_of(cold))
        assert content(info, "a.py") == (small / "a.py").read_bytes()


def blocks_of(tree: Path) -> list[set[str]]:
    """Return the members of each block of a tree with a project file."""
    with Snapshot(str(tree), (), None, (), 1000) as snapshot:
        members = [os.fsdecode(snapshot.members[number][0]) for number in range(len(snapshot.members))]
        return [set(members[first : first + count]) for first, count, _ in archive.plan_blocks(snapshot.members)]


@pytest.mark.parametrize("changed", ["a.py", "sub/0.bin", "sub/4.bin"])
def test_of_a_changed_file_only_its_block_is_read(
    tree: Path, read: list[str], compressed: list[int], settled: None, changed: str
) -> None:
    blocks = blocks_of(tree)
    (block,) = [members for members in blocks if changed in members]
    assert len(blocks) > 5
    packed(tree)
    read.clear()
    compressed.clear()
    write(tree / changed, (tree / changed).read_bytes()[::-1])
    with Opened(tree) as opened:
        info = packed(tree)
    assert set(read) == block
    assert opened == {name for name in block if is_file(tree / name)}
    assert len(compressed) == 1
    assert content(info, changed) == (tree / changed).read_bytes()
    assert bytes_of(info) == bytes_of(packed_cold(tree))


def test_of_a_changed_large_file_only_the_piece_that_differs_is_compressed(
    tree: Path, read: list[str], compressed: list[int], settled: None
) -> None:
    packed(tree)
    read.clear()
    compressed.clear()
    data = bytearray((tree / "large").read_bytes())
    data[MIB + 5] ^= 1
    write(tree / "large", data)
    info = packed(tree)
    assert read == ["large"] * 3
    assert compressed == [MIB]
    assert bytes_of(info) == bytes_of(packed_cold(tree))


def test_packages_that_were_given_away_stay_as_they_are(small: Path, settled: None) -> None:
    one = packed(small)
    before = bytes_of(one)
    write(small / "pyproject.toml", b"[project]\nx = 1\n")
    two = packed(small)
    assert bytes_of(one) == before != bytes_of(two)


def test_a_package_that_its_owner_has_written_to_is_not_used_again(small: Path, home: Path, settled: None) -> None:
    expected = bytes_of(packed_cold(small))
    info = packed(small)
    os.chmod(info.path, 0o600)
    with open(info.path, "r+b") as file:  # and so to the stored one, which is the same file
        file.write(b"gone")
    assert stored(home)[0].read_bytes() != expected
    assert bytes_of(pack(small, small.parent / "other")) == expected
    assert bytes_of(packed(small)) == expected


def test_excludes_that_change_make_another_package(tree: Path, settled: None) -> None:
    for excludes in ([], ["sub"], ["*.bin", "large"], [], ["a.py"], ["!a.py"]):
        for _ in range(2):
            info, cold = packed(tree, excludes=excludes), packed_cold(tree, excludes=excludes)
            assert (bytes_of(info), said_of(info)) == (bytes_of(cold), said_of(cold))


def test_names_and_dependencies_make_another_package_where_one_holds_them(small: Path, settled: None) -> None:
    (small / "pyproject.toml").rename(small / "a.py")
    for options in ({}, {"name": "x"}, {"dependencies": ["numpy"]}, {}, {"name": "x", "dependencies": ["numpy"]}):
        for _ in range(2):
            assert bytes_of(packed(small, **options)) == bytes_of(packed_cold(small, **options))


class AnotherCompressor(Compressor):
    """The same content in other bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.version = "another compressor"

    def deflate(self, raw: Any, length: int) -> bytes:
        stream = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = stream.compress(raw) + stream.flush()
        return body + zlib.crc32(raw).to_bytes(4, "little") + length.to_bytes(4, "little")


def test_the_blocks_of_another_compressor_are_made_anew(
    tree: Path, read: list[str], settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(archive_writer, "Compressor", AnotherCompressor)
        before = packed(tree)
        assert content(before, "large") == (tree / "large").read_bytes()
        others = bytes_of(before)
    cold = packed_cold(tree)
    assert before.digest == cold.digest
    assert others != bytes_of(cold)
    read.clear()
    unchanged = packed(tree)  # nothing is wrong with the old one
    assert (read, unchanged.digest, bytes_of(unchanged)) == ([], before.digest, others)
    write(tree / "a.py", b"changed")
    info = packed(tree)
    assert {"sub/0.bin", "large"} < set(read)
    cold = packed_cold(tree)
    assert (bytes_of(info), said_of(info)) == (bytes_of(cold), said_of(cold))


PLACES = ["a", "a/b", "a-", "a.py", "b/c/d", "b/c/e", "b", "c" * 120, "d/x.bin", "d/y.bin", "large", "pyproject.toml"]
places = st.sampled_from(PLACES)
sizes = st.sampled_from([0, 1, 700, 100_000, 300_000, MIB, MIB + 1, 2 * MIB + 3])
edits = st.one_of(
    st.tuples(st.just("write"), places, st.integers(0, 3), sizes, st.booleans()),
    st.tuples(st.just("append"), places, st.integers(0, 3), sizes, st.booleans()),
    st.tuples(st.sampled_from(["delete", "chmod", "mkdir", "touch", "nothing"]), places),
    st.tuples(st.sampled_from(["rename", "symlink"]), places, places),
)


def make_room(path: Path) -> None:
    """Nothing is there afterwards, and nothing but directories above."""
    for above in reversed(path.parents):
        if above.is_symlink() or above.is_file():
            above.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def is_file(path: Path) -> bool:
    return path.is_file() and not any(each.is_symlink() for each in (path, *path.parents))


def edit(tree: Path, what: str, name: str, *details: object) -> None:
    path = tree / name
    if what == "write":
        seed, size, racy = details
        if not is_file(path):
            make_room(path)
        write(path, b"%d," % seed * (size // 2), racy=racy)
    elif what == "append" and is_file(path):
        seed, size, racy = details
        write(path, (path.read_bytes() + b"%d," % seed * (size // 2))[: 3 * MIB], racy=racy)
    elif what == "delete":
        make_room(path)
    elif what == "chmod" and is_file(path):
        path.chmod(path.stat().st_mode ^ 0o100)
    elif what == "mkdir" and not path.is_dir():
        make_room(path)
        path.mkdir()
    elif what == "touch" and is_file(path):
        os.utime(path, ns=(0, next(_moments)))
    elif what == "rename" and os.path.lexists(path) and not f"{details[0]}/".startswith(f"{name}/"):
        aside = tree.parent / "aside"
        path.rename(aside)
        make_room(tree / details[0])
        aside.rename(tree / details[0])
    elif what == "symlink":
        make_room(path)
        path.symlink_to(os.path.relpath(tree / details[0], path.parent))


@settings(max_examples=20, deadline=None)
@given(script=st.lists(edits, min_size=4, max_size=10))
def test_whatever_is_edited_the_package_is_the_one_that_a_first_packing_would_make(script: list[tuple[object, ...]]) -> None:
    with (
        tempfile.TemporaryDirectory() as base,
        mock.patch.object(stored_index, "RACY_NS", -HOUR_NS),
        warnings.catch_warnings(),
    ):
        # As they may, once they are renamed.
        warnings.filterwarnings("ignore", "left out of the package for they are links that point out of the directory")
        tree = Path(base, "tree")
        for number, name in enumerate(("a.py", "b/c/d", "d/x.bin", "d/y.bin", "large")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            write(tree / name, b"%d\n" % number * (150_000 if name != "large" else 700_000))
        pack(tree, base, home=f"{base}/home")
        for step in script:
            edit(tree, *step)
            info, cold = pack(tree, base, home=f"{base}/home"), packed_cold(tree)
            assert (bytes_of(info), said_of(info)) == (bytes_of(cold), said_of(cold))


# What changes without a trace


def test_what_is_written_again_at_once_is_noticed(small: Path) -> None:
    """With the same size, the same modification time, and perhaps within one tick of a clock."""
    path = small / "a.py"
    for number in range(40):
        with open(path, "r+b" if number else "wb") as file:
            file.write(b"%04d" % number)
        if number % 2:
            os.utime(path, ns=(10**18, 10**18))
        assert content(packed(small), "a.py") == b"%04d" % number


def test_a_file_of_the_same_size_and_modification_time_is_told_by_its_change_time(small: Path, settled: None) -> None:
    path = small / "a.py"
    write(path, b"one")
    packed(small)
    before = path.stat()

    def write_two() -> bool:
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
        return path.stat().st_ctime_ns != before.st_ctime_ns

    wait_until(write_two, "another moment of the file system's clock")
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert content(packed(small), "a.py") == b"two"


def let_no_time_pass(tree: Path, home: Path, since_ns: int) -> None:
    """Write the index as if the tree had had the times of now when it was packed.

    No program can set change times, so this stands for a clock that has not ticked since.
    """
    (index,) = indices(home)
    stored = stored_index.load(str(home), index.stem)
    assert stored is not None
    with stored, Snapshot(str(tree), (), None, (), 1000) as snapshot:
        snapshot.members.mark_racy(since_ns)
        contents = Contents(stored.digest, stored.files, stored.size, stored.compressor, stored.blocks())
        stored_index.store(str(home), index.stem, snapshot.members, contents, str(max((home / "packed").glob("*.tar.gz"))))


def test_a_file_that_changes_within_a_tick_of_the_clock_is_noticed_for_it_was_young(
    small: Path, home: Path, read: list[str]
) -> None:
    path = small / "a.py"
    path.write_text("one")
    began_ns = time.time_ns()
    packed(small)
    path.write_text("two")
    let_no_time_pass(small, home, began_ns - stored_index.RACY_NS)
    assert content(packed(small), "a.py") == b"two"
    # And nothing else would have shown it:
    path.write_text("six")
    let_no_time_pass(small, home, IN_2100_NS)
    read.clear()
    assert content(packed(small), "a.py") == b"two"
    assert read == []


def set_clock(monkeypatch: pytest.MonkeyPatch, now_ns: int) -> None:
    monkeypatch.setattr(packing, "time", types.SimpleNamespace(time_ns=lambda: now_ns))


@pytest.mark.parametrize("which", ["st_mtime_ns", "st_ctime_ns"])
def test_a_file_is_young_by_either_of_its_times(
    small: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    project_file = small / "pyproject.toml"
    mtime_ns = IN_2100_NS if which == "st_mtime_ns" else 0
    os.utime(project_file, ns=(mtime_ns, mtime_ns))
    youngest_ns = getattr(project_file.stat(), which)
    set_clock(monkeypatch, youngest_ns + stored_index.RACY_NS)
    packed(small)
    set_clock(monkeypatch, youngest_ns + stored_index.RACY_NS + 1)
    read.clear()
    packed(small)
    assert read == ["pyproject.toml"]  # it had been too young the last time
    read.clear()
    packed(small)
    assert read == []  # and has been old enough since


# What cannot be read, and what must not be packed


def warned(tree: Path) -> tuple[PackageInfo, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        info = packed(tree)
    return info, [str(warning.message) for warning in caught if warning.category is UserWarning]


@pytest.mark.parametrize("compressor", ["the same compressor", "another compressor"])
@pytest.mark.parametrize("name", ["small.bin", "large"])
def test_an_unreadable_file_stays_remembered_until_it_can_be_read(
    tree: Path, settled: None, read: list[str], monkeypatch: pytest.MonkeyPatch, name: str, compressor: str
) -> None:
    path = tree / name
    write(path, random.Random(2).randbytes(1000 if name == "small.bin" else MIB + 1))
    path.chmod(0)

    def pack_twice() -> None:
        give_up_privileges()
        for turn in range(2):
            info, messages = warned(tree)
            assert messages == [f"left out of the package for they cannot be read: {name}"]
            assert not info.holds(name)
            assert name not in names(info)
            assert info.files == 9 + (name == "small.bin")
            assert (read == []) == (turn == 1)
            read.clear()

    assert passes_in_child(pack_twice)
    if not ROOT:  # root can read it already, and would only see another change time
        path.chmod(0o600)
    if compressor == "another compressor":
        monkeypatch.setattr(archive_writer, "Compressor", AnotherCompressor)
    info, messages = warned(tree)
    assert messages == []
    assert info.holds(name)
    assert content(info, name) == random.Random(2).randbytes(1000 if name == "small.bin" else MIB + 1)
    assert (bytes_of(info), said_of(info)) == (bytes_of(cold := packed_cold(tree)), said_of(cold))
    assert warned(tree)[1] == []


def test_secrets_are_remembered_without_another_look(small: Path, settled: None) -> None:
    write(small / "a.pem", KEY.encode())
    write(small / "b.pem", b"a certificate")
    with Opened(small) as opened:
        info, (message,) = warned(small)
    assert opened == {"a.pem", "b.pem", "pyproject.toml"}
    assert message.startswith("left out of the package for they look like secrets: a.pem;")
    for _ in range(2):
        with Opened(small) as opened:
            info, messages = warned(small)
        assert opened == set()
        assert messages == [message]
        assert not info.holds("a.pem") and info.holds("b.pem")
        assert names(info) == ["b.pem", "pyproject.toml"]
    write(small / "b.pem", KEY.encode())
    write(small / "a.pem", b"a certificate")
    info, (message,) = warned(small)
    assert "secrets: b.pem;" in message
    assert names(info) == ["a.pem", "pyproject.toml"]
    write(small / "c.py", b"")
    with Opened(small) as opened:
        _, messages = warned(small)
    assert messages == [message]
    assert "b.pem" not in opened
    (small / ".flameignore").write_text("!*.pem")
    info = packed(small)
    assert {"a.pem", "b.pem"} < set(names(info))
    assert bytes_of(info) == bytes_of(packed_cold(small))


# Damage


class Alternating:
    """A tree of two blocks, one of which changes with every other packing; and what its package has to be."""

    _BEGINS_A_BLOCK = "z1363"  # by the hash of the name

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._expected = {}
        write(tree / self._BEGINS_A_BLOCK, b"stays")
        assert blocks_of(tree) == [{"pyproject.toml"}, {self._BEGINS_A_BLOCK}]
        for data in (b"one", b"two"):
            write(tree / "pyproject.toml", data)
            self._expected[data] = self._seen(packed_cold(tree))
        self._turns = itertools.cycle([b"two", b"two", b"one", b"one"])
        packed(tree)

    def _seen(self, info: PackageInfo) -> tuple[object, ...]:
        return bytes_of(info), said_of(info)

    def next(self) -> None:
        """Packs it, perhaps changed: the package is right, and so is what is said of it."""
        data = next(self._turns)
        if (self._tree / "pyproject.toml").read_bytes() != data:
            write(self._tree / "pyproject.toml", data)
        assert self._seen(packed(self._tree)) == self._expected[data]


def test_an_index_that_ends_early_costs_no_more_than_time(small: Path, home: Path, settled: None) -> None:
    alternating = Alternating(small)
    (index,) = indices(home)
    for length in range(index.stat().st_size + 1):
        index.write_bytes(index.read_bytes()[:length])
        alternating.next()
    index.write_bytes(index.read_bytes() + b"\0")
    alternating.next()
    assert len(indices(home)) == len(stored(home)) == 1


def test_a_byte_of_the_index_that_flips_costs_no_more_than_time(small: Path, home: Path, settled: None) -> None:
    alternating = Alternating(small)
    (index,) = indices(home)
    for at in range(index.stat().st_size):
        data = bytearray(index.read_bytes())
        data[at] ^= 1 << at % 8
        index.write_bytes(data)
        alternating.next()
    assert len(indices(home)) == len(stored(home)) == 1


def test_an_index_of_another_version_is_none(small: Path, home: Path, settled: None, read: list[str]) -> None:
    packed(small)
    (index,) = indices(home)
    data = bytearray(index.read_bytes())
    data[:8] = b"FFPACK00"
    head = stored_index._HEAD
    states, blocks = head.unpack_from(data)[10:12]
    data[head.size - 4 : head.size] = zlib.crc32(
        data[head.size : head.size + states + blocks * stored_index._BLOCK.size], zlib.crc32(data[: head.size - 4])
    ).to_bytes(4, "little")
    index.write_bytes(data)
    read.clear()
    packed(small)
    assert read == ["pyproject.toml"]
    read.clear()
    packed(small)
    assert read == []


def test_damage_to_what_is_compared_is_found_before_it_is_compared(small: Path, home: Path) -> None:
    packed(small)
    (index,) = indices(home)
    data = bytearray(index.read_bytes())
    data[-1] ^= 1
    for what in (index.read_bytes(), bytes(data)):
        index.write_bytes(what)
        stored = stored_index.load(str(home), index.stem)
        assert stored is not None
        with stored, contextlib.nullcontext() if what != data else pytest.raises(ValueError, match="damaged"):
            stored.check_tables()


def as_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "file").touch()


def as_link_to_nowhere(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


def as_link_to_a_copy(path: Path) -> None:
    path.rename(path.with_name("copy"))
    path.symlink_to("copy")


def as_copy(path: Path) -> None:
    found = path.stat()
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[::-1])
    os.utime(path, ns=(0, found.st_mtime_ns))


def cut_short(path: Path) -> None:
    found = path.stat()
    path.chmod(0o600)
    os.truncate(path, found.st_size - 1)
    os.utime(path, ns=(0, found.st_mtime_ns))


def overwritten(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[::-1])


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize(
    "damage",
    [Path.unlink, cut_short, overwritten, as_copy, as_directory, as_link_to_nowhere, as_link_to_a_copy],
)
@pytest.mark.parametrize("what", ["*.tar.gz", "*.index", ".lock"])
def test_what_is_stored_may_be_anything(
    small: Path, home: Path, settled: None, what: str, damage: Callable[[Path], None], changed: bool
) -> None:
    packed(small)
    (path,) = (home / "packed").glob(what)
    if path.stat().st_size or damage is not cut_short:
        damage(path)
    if changed:
        write(small / "a.py", b"changed")
    cold = packed_cold(small)
    for _ in range(2):
        assert bytes_of(packed(small)) == bytes_of(cold)
    packages = [path for path in stored(home) if not path.is_dir()]
    assert len(packages) == (0 if (what, damage) == ("*.index", as_directory) else 1)  # none piles up


records = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2**40, -1]),
        st.integers(0, 40),
        st.sampled_from([0, 1, 14, 2**31, 2**32 - 1]),
        st.sampled_from([0, 1, 14, 2**32 - 1]),
        st.sampled_from(b"025x"),
        st.integers(0, 7),
    ),
    max_size=3,
)


@given(records=records, names=st.binary(max_size=40), states=st.binary(max_size=3), extra=st.binary(max_size=2))
def test_no_index_however_wrong_makes_the_comparison_read_elsewhere(
    records: list[tuple[int, ...]], names: bytes, states: bytes, extra: bytes
) -> None:
    """Checksums keep such ones away; this is what is behind them."""
    with tempfile.TemporaryDirectory() as base, contextlib.ExitStack() as opened:
        Path(base, "a.py").touch()
        os.symlink("a.py", f"{base}/link")
        snapshot = opened.enter_context(Snapshot(base, (), b"generated", (), 10))
        packed_records = [
            struct.pack("qqqQIIIBBH", size, 0, 0, 0, at, length, target, kind, flags, 0)
            for size, at, length, target, kind, flags in records
        ]
        assert len(bytes(snapshot.members.records)) % struct.calcsize("qqqQIIIBBH") == 0
        table = b"".join(packed_records) + extra
        assert not snapshot.members.is_still(table, names, states)
        fits = not extra and len(states) == len(records)
        fits = fits and all(at + length + 1 + (target and target + 1) <= len(names) for _, at, length, target, *_ in records)
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="does not fit"):
            known = snapshot.members.compare(table, names, states)
            assert len(known) == 3 and set(known) <= {-1, *range(len(records))}


def test_a_damaged_package_is_forgotten(tree: Path, home: Path, settled: None, tmp_path: Path) -> None:
    (tmp_path / "twin").mkdir()
    shutil.copytree(tree, tmp_path / "twin" / "tree", symlinks=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.py").touch()
    info = packed(tree)
    assert pack(tmp_path / "twin" / "tree", tmp_path).digest == info.digest
    other = pack(tmp_path / "other", tmp_path)
    (home / "packed" / "directory.index").mkdir()
    stored_index.forget(str(home), "0" * 32)
    assert len(stored(home)) == 3
    stored_index.forget(str(home), info.digest)
    (kept,) = stored(home)
    assert kept.stat().st_ino == os.stat(other.path).st_ino
    stored_index.forget(str(home / "nowhere"), info.digest)
    assert bytes_of(packed(tree)) == bytes_of(packed_cold(tree))


def test_a_package_that_turns_out_damaged_is_made_anew(tree: Path, home: Path, settled: None) -> None:
    """A change that no index can see: another byte, and the time put back."""
    info = packed(tree)
    expected = bytes_of(info)
    found = os.stat(info.path)
    os.chmod(info.path, 0o600)
    with open(info.path, "r+b") as file:
        file.seek(found.st_size // 2)
        byte = file.read(1)[0] ^ 1
        file.seek(found.st_size // 2)
        file.write(bytes([byte]))
    os.utime(info.path, ns=(0, found.st_mtime_ns))

    def unpack() -> None:
        ensure_unpacked(packed(tree).path, info.digest, home)

    def unpack_damaged() -> None:
        with pytest.raises(FlameError) as caught:
            unpack()
        assert caught.value.code == FlameErrorCode.INTERNAL

    assert passes_in_child(unpack_damaged)
    assert stored(home) == indices(home) == []
    assert bytes_of(packed(tree)) == expected
    assert passes_in_child(unpack)


# Bounds


def used_in_this_order(home: Path) -> None:
    """Put the times at which packages were used well apart, however fast it went."""
    for number, path in enumerate(sorted(indices(home), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (number, number))


def new_trees(base: Path, count: int) -> list[Path]:
    found = [base / f"{number:02d}" / "tree" for number in range(count)]
    for number, tree in enumerate(found):
        tree.mkdir(parents=True)
        write(tree / "a.bin", random.Random(number).randbytes(1000))
    return found


def test_of_many_packages_those_used_last_stay(home: Path, tmp_path: Path, settled: None, read: list[str]) -> None:
    trees = new_trees(tmp_path, stored_index.KEPT + 1)
    for tree in trees[:-1]:
        pack(tree, tmp_path)
        used_in_this_order(home)
    pack(trees[0], tmp_path)  # which counts
    used_in_this_order(home)
    pack(trees[-1], tmp_path)
    assert len(indices(home)) == len(stored(home)) == stored_index.KEPT
    read.clear()
    for tree in (trees[0], *trees[2:]):
        pack(tree, tmp_path)
    assert read == []
    pack(trees[1], tmp_path)
    assert "a.bin" in read


def test_packages_together_stay_below_their_bytes_but_for_the_last(
    home: Path, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = new_trees(tmp_path, 4)
    monkeypatch.setattr(stored_index, "KEPT_BYTES", pack(trees[0], tmp_path).compressed * 5 // 2)
    used_in_this_order(home)
    for tree in trees[1:3]:
        last = pack(tree, tmp_path)
        assert len(stored(home)) == len(indices(home)) == 2
        assert os.stat(last.path).st_ino in [path.stat().st_ino for path in stored(home)]
        used_in_this_order(home)
    monkeypatch.setattr(stored_index, "KEPT_BYTES", 1)
    last = pack(trees[3], tmp_path)
    (kept,) = stored(home)
    assert kept.stat().st_ino == os.stat(last.path).st_ino
    assert len(indices(home)) == 1


def test_what_no_index_names_is_removed(home: Path, small: Path, settled: None) -> None:
    packed(small)
    ours = {path.name for path in (home / "packed").iterdir()}
    for name in ("0123-4567.tar.gz", "89ab.index.new", "anything"):
        (home / "packed" / name).write_text("left by a process that was killed")
    packed(small)
    assert len(os.listdir(home / "packed")) == len(ours) + 3  # a packing that changes nothing tidies nothing
    write(small / "pyproject.toml", b"")
    packed(small)
    left = {path.name for path in (home / "packed").iterdir()}
    assert len(left) == len(ours) == 3
    assert len(left & ours) == 2  # the lock and the index; the package is another


# Many at once


def test_processes_that_pack_one_directory_do_not_disturb_each_other_if_one_dies(tree: Path, home: Path) -> None:
    choices = [[], ["large"], ["/sub/3.bin"]]
    expected = [bytes_of(packed_cold(tree, excludes=choice)) for choice in choices]
    chance = random.Random()
    told, tell = os.pipe()
    children = []

    def work(number: int) -> None:
        (out := tree.parent / f"out-{number}").mkdir()
        for turn in range(6):
            which = (number + turn) % len(choices)
            assert bytes_of(pack(tree, out, excludes=choices[which])) == expected[which]
            os.write(tell, b".")
        assert not [name for name in os.listdir(out) if name.startswith(".")]

    try:
        for number in range(5):
            children.append(in_child(lambda number=number: work(number)))
        victim = children.pop(chance.randrange(len(children)))
        os.read(told, chance.randint(1, 12))  # somewhere in the midst of it
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        while children:
            assert os.waitpid(children.pop(), 0)[1] == 0
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)
    write(tree / "a.py", b"changed")
    assert bytes_of(packed(tree)) == bytes_of(packed_cold(tree))
    assert len(os.listdir(home / "packed")) == 3


def test_who_changes_the_directory_of_packages_waits_for_others_to_end(small: Path, home: Path) -> None:
    (home / "packed").mkdir()
    with open(home / "packed" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pid = in_child(lambda: packed(small))
        try:
            wait_until(lambda: f"-> FLOCK  ADVISORY  WRITE {pid} " in Path("/proc/locks").read_text(), "waiting")
            assert stored(home) == indices(home) == []
            assert len(os.listdir(small.parent / "out")) == 1  # that one is finished
            fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            lock.close()
            assert os.waitpid(pid, 0)[1] == 0
    assert len(stored(home)) == len(indices(home)) == 1


def test_a_package_that_is_replaced_while_it_is_looked_up_is_looked_up_again(
    tree: Path, home: Path, settled: None, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tree, excludes=["large"])
    look_up = stored_index.Stored

    def replace_before(*details: object) -> stored_index.Stored:
        monkeypatch.setattr(stored_index, "Stored", look_up)
        packed(tree, excludes=["a.py"])
        read.clear()
        return look_up(*details)

    monkeypatch.setattr(stored_index, "Stored", replace_before)
    info = packed(tree)
    assert "a.py" in read
    assert "sub/0.bin" not in read
    assert bytes_of(info) == bytes_of(packed_cold(tree))


# Places


@pytest.mark.parametrize("where", ["/proc/self/none", "/dev/null", "/dev/null/none"])
def test_without_a_place_for_packages_packing_works_all_the_same(small: Path, where: str) -> None:
    for _ in range(2):
        assert bytes_of(packed(small, home=where)) == bytes_of(packed_cold(small))


@pytest.mark.parametrize("stored_before", [True, False])
def test_a_home_that_may_only_be_read_is_used_as_it_is(
    small: Path, home: Path, settled: None, read: list[str], stored_before: bool
) -> None:
    expected = bytes_of(packed(small) if stored_before else packed_cold(small))
    read.clear()
    before = sorted(home.rglob("*"))
    for path in (home, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
        if ROOT and path.parent != home and path != home:  # directories of another user are refused
            os.chown(path, 65534, 65534)  # else even its owner's privileges are too many

    def pack_again() -> None:
        give_up_privileges()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            assert bytes_of(packed(small)) == expected
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert (read == []) == stored_before

    assert passes_in_child(pack_again)
    assert sorted(home.rglob("*")) == before
    home.chmod(0o755)


def test_packages_go_to_other_file_systems_too(tree: Path, home: Path, settled: None, compressed: list[int]) -> None:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == home.stat().st_dev:
        pytest.skip("there is no other file system")
    expected = bytes_of(packed_cold(tree))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as there:
        for _ in range(2):
            compressed.clear()
            info = pack(tree, there)
            assert bytes_of(info) == expected
        assert compressed == []
        (kept,) = stored(home)
        assert kept.stat().st_dev != os.stat(info.path).st_dev
        assert kept.read_bytes() == expected
        write(tree / "a.py", b"changed")
        assert bytes_of(pack(tree, there)) == bytes_of(packed(tree)) == bytes_of(packed_cold(tree))
        assert all(name.startswith("tree-") for name in os.listdir(there))


def test_what_cannot_be_written_leaves_nothing_behind(tree: Path, home: Path) -> None:
    def pack_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        with pytest.raises(OSError, match="File too large"):
            packed(tree)

    assert passes_in_child(pack_too_much)
    assert os.listdir(tree.parent / "out") == []
    assert stored(home) == indices(home) == []


def test_an_index_that_finds_no_room_leaves_nothing_behind(small: Path, home: Path) -> None:
    packed(small)
    (index,) = indices(home)
    index.unlink()
    for _ in range(3):
        Path(f"{index}.new").symlink_to("/dev/full")
        assert bytes_of(packed(small)) == bytes_of(packed_cold(small))
        assert os.listdir(home / "packed") == [".lock"]
    packed(small)
    assert len(stored(home)) == len(indices(home)) == 1


NO_MOUNTS = 77


def test_a_full_disk_below_the_home_costs_no_more_than_time(tree: Path, home: Path) -> None:
    expected = bytes_of(packed_cold(tree))

    def pack_beside_a_full_disk() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        own_mounts, private = 0x20000, 0x44000
        if libc.unshare(own_mounts) or libc.mount(None, b"/", None, private, None):
            os._exit(NO_MOUNTS)
        assert libc.mount(b"none", os.fsencode(home), b"tmpfs", 0, b"size=1m,mode=700") == 0
        for _ in range(2):
            assert bytes_of(packed(tree)) == expected
            assert os.listdir(home / "packed") == [".lock"]
        (tree / "large").unlink()
        for path in (tree / "sub").glob("[1-9].bin"):
            path.unlink()
        assert bytes_of(packed(tree)) == bytes_of(packed_cold(tree))
        assert len(stored(home)) == len(indices(home)) == 1

    status = os.waitstatus_to_exitcode(os.waitpid(in_child(pack_beside_a_full_disk), 0)[1])
    if status == NO_MOUNTS:
        pytest.skip("this needs a file system of its own, which not everybody may mount")
    assert status == 0
