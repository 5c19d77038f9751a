"""Packages and trees made to do harm: bombs, trees that others have written to, trees deeper than any stack."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package import block_format, pack, removal, unpacking
from flame_fast.package.block_format import FIRST_PIECE, LATER_PIECE, WHOLE, Compressor, Header, compress, end_block, hasher
from flame_fast.package.unpacking import ensure_unpacked

MIB = 1 << 20


@pytest.fixture(autouse=True)
def process_of_its_own() -> Iterator[None]:
    yield
    for descriptor in unpacking._held.values():
        os.close(descriptor)
    unpacking._held.clear()


@pytest.fixture
def home(tmp_path: Path) -> str:
    (tmp_path / "data").mkdir(mode=0o700)
    return str(tmp_path / "data")


def file_of(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def written(path: Path, *blocks: tuple[int, bytes]) -> tuple[str, str]:
    """Write an archive of blocks; return its path and digest."""
    compressor = Compressor(0)
    hashes = [hasher(0)(raw).digest() for _, raw in blocks]
    made = [compress(kind, raw, len(raw), hash, compressor) for (kind, raw), hash in zip(blocks, hashes, strict=True)]
    path.write_bytes(b"".join([*(part for parts in made for part in parts), end_block()]))
    return str(path), block_format.digest_of(hashes)


def refused(*args: object) -> FlameError:
    with pytest.raises(FlameError) as caught:
        ensure_unpacked(*args)
    return caught.value


@pytest.mark.parametrize("promise", [3 * MIB, 1 << 32])
def test_a_file_larger_than_the_limit_ends_with_its_first_piece(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch, promise: int
) -> None:
    later = [(LATER_PIECE, bytes(MIB))] * 2
    path, digest = written(tmp_path / "bomb", (FIRST_PIECE, file_of("f", promise) + bytes(MIB)), *later)
    inflated = []
    monkeypatch.setattr(
        unpacking, "decompress", lambda header, data: inflated.append(header) or block_format.decompress(header, data)
    )
    monkeypatch.setattr(unpacking, "threads_for", lambda count: 1)
    error = refused(path, digest, home, 2 * MIB)
    assert error.code is FlameErrorCode.INVALID_ARGUMENT
    assert f"at least {promise:,} bytes in 1 files, above the limit of 2,097,152 bytes" in error.message
    assert [header.kind for header in inflated] in ([FIRST_PIECE], [FIRST_PIECE, LATER_PIECE])
    assert os.listdir(os.path.join(home, "unpacked")) != [digest]


def test_many_small_files_are_counted(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "most_files_for", lambda limit: 20)
    raw = [b"".join(file_of(f"{block}/{number}", 0) for number in range(7)) for block in range(3)]
    path, digest = written(tmp_path / "bomb", *((WHOLE, block) for block in raw))
    assert "at least 0 bytes in 21 files" in refused(path, digest, home).message


def test_what_headers_promise_in_all_is_known_before_anything_is_inflated(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "most_files_for", lambda limit: 1)
    monkeypatch.setattr(unpacking, "decompress", None)
    raw = b"".join(file_of(f"{number}", 0) for number in range(16))
    path, digest = written(tmp_path / "bomb", (WHOLE, raw), (WHOLE, raw))
    assert "more than names and content may take" in refused(path, digest, home, 8191).message


@pytest.mark.parametrize("promise", [512, 100 << 10])
def test_a_block_is_inflated_no_further_than_its_header_promises(promise: int) -> None:
    """By either library; what they were given holds a thousand times as much."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = stream.compress(bytes(1000 * promise)) + stream.flush()
    assert len(block_format._inflate(memoryview(deflated), promise)) == promise + 1
    with pytest.raises(block_format.BadHeader):
        block_format.decompress(Header(WHOLE, 0, promise, bytes(32)), memoryview(bytes(57) + deflated + bytes(8)))


def put_other_code(path: Path) -> None:
    """Replace what is in a file, but for its size and times."""
    before = path.stat()
    path.write_text(path.read_text().replace("1", "2"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("rights", ["go+w", "go+w now", "of the tree", "of a file"])
def test_a_tree_that_others_could_write_to_is_built_anew(tmp_path: Path, home: str, rights: str) -> None:
    """Also if they cannot any more."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "main.py").write_text("value = 1\n")
    info = pack(tmp_path / "project", tmp_path, name="app", home=home)
    tree = ensure_unpacked(info.path, info.digest, home)
    put_other_code(Path(tree, "main.py"))
    assert ensure_unpacked(info.path, info.digest, home) == tree
    assert Path(tree, "main.py").read_text() == "value = 2\n"  # nobody else could have done that
    if rights.startswith("go+w"):
        subprocess.run(["chmod", "-R", "go+w", home], check=True)
        os.utime(os.path.join(home, "unpacked", ".lock"))
    if rights == "go+w":
        subprocess.run(["chmod", "-R", "go-w", home], check=True)
    if rights == "of a file":
        os.chmod(os.path.join(tree, "main.py"), 0o620)
    if rights == "of the tree":
        os.chmod(tree, 0o770)
    ensure_unpacked(info.path, info.digest, home)
    assert Path(tree, "main.py").read_text() == "value = 1\n"
    assert not os.stat(os.path.join(home, "unpacked")).st_mode & 0o077
    ensure_unpacked(info.path, info.digest, home)


def test_trees_in_a_directory_of_another_s_are_refused(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "expected a directory of this user's" in refused("none", "0" * 32, home).message


def make_deep(root: Path, levels: int) -> None:
    """Make directories in each other, with a file in each, by few steps from one to the next."""
    root.mkdir()
    at = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=at))
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_trees_deeper_than_any_stack_are_packed_unpacked_and_removed(tmp_path: Path, home: str) -> None:
    """Each step of them from one level to the next: by paths from the top it would take minutes."""
    make_deep(tmp_path / "project", 1100)
    try:
        info = pack(tmp_path / "project", tmp_path, name="app", home=home)
        tree = ensure_unpacked(info.path, info.digest, home)
        assert info.files == 1101
        assert unpacking.is_whole(tree)
        removal.remove_tree(tree)
        assert not os.path.exists(tree)
    finally:
        removal.remove_tree(str(tmp_path / "project"))
        removal.remove_tree(home)


def test_a_removal_follows_no_link_and_removes_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "gone" / "a" / "b").mkdir(parents=True)
    (tmp_path / "gone" / "c").mkdir()
    (tmp_path / "gone" / "a" / "link").symlink_to("../../kept")
    os.mkfifo(tmp_path / "gone" / "c" / "fifo")
    (tmp_path / "link").symlink_to("kept")
    for name in ("gone", "link", "none"):
        removal.remove_tree(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_a_directory_that_moves_while_it_is_removed_ends_the_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own end is found there; beside it lies what has the name of one that is to go."""
    (tmp_path / "gone" / "a" / "b").mkdir(parents=True)
    (tmp_path / "other" / "a").mkdir(parents=True)
    empty = removal._empty

    def move_then_empty(descriptor: int) -> list[str]:
        if os.fstat(descriptor).st_ino == (tmp_path / "gone" / "a" / "b").stat().st_ino:
            (tmp_path / "gone" / "a" / "b").rename(tmp_path / "other" / "b")
            monkeypatch.setattr(removal, "_empty", empty)
        return empty(descriptor)

    monkeypatch.setattr(removal, "_empty", move_then_empty)
    removal.remove_tree(str(tmp_path / "gone"))
    assert (tmp_path / "other" / "b").exists()
