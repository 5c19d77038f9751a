"""Unpacked trees and the workers' import path (API.md, Packaging)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flame_fast.kernels.archive import PIECE_BYTES, BadBlock, Extractor
from gates import PATIENCE_S, in_child, passes_in_child, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package import PackageInfo, pack, sys_path, unpacking
from flame_fast.package.block_format import (
    FIRST_PIECE,
    HEADER_BYTES,
    LATER_PIECE,
    WHOLE,
    Compressor,
    compress,
    digest_of,
    end_block,
    hasher,
    read_header,
)
from flame_fast.package.sys_path import split_sys_path
from flame_fast.package.unpacking import ensure_unpacked

pytestmark = pytest.mark.filterwarnings("error")


def end_uses() -> None:
    """As if the process that used its trees had ended."""
    for descriptor in unpacking._held.values():
        os.close(descriptor)
    unpacking._held.clear()


@pytest.fixture(autouse=True)
def process_of_its_own() -> Iterator[None]:
    end_uses()
    yield
    end_uses()


@pytest.fixture
def home(tmp_path: Path) -> str:
    (tmp_path / "data").mkdir()
    return str(tmp_path / "data")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "project"
    (tree / "sub").mkdir(parents=True)
    (tree / "void").mkdir()
    (tree / "main.py").write_text("value = 1\n")
    (tree / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (tree / "sub" / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("sub/run.sh")
    return tree


@pytest.fixture
def package(tmp_path: Path, tree: Path) -> PackageInfo:
    return pack(str(tree), str(tmp_path), name="app")


def listing(root: str | bytes | Path) -> dict[bytes, object]:
    """Return the entries below a directory: of files their content and the owner's rights, of links their targets."""
    found: dict[bytes, object] = {}
    top = os.fsencode(root)

    def look(directory: bytes) -> None:
        for entry in os.scandir(directory):
            name = os.path.relpath(entry.path, top)
            if entry.is_symlink():
                found[name] = os.readlink(entry.path)
            elif entry.is_dir():
                found[name] = dict
                look(entry.path)
            elif entry.is_file():
                with open(entry.path, "rb") as file:
                    found[name] = (file.read(), os.fstat(file.fileno()).st_mode & 0o700)
            else:
                found[name] = "special"

    look(top)
    return found


def packed_listing(root: str | bytes | Path) -> dict[bytes, object]:
    """Without the generated project file."""
    return {name: content for name, content in listing(root).items() if name != b"pyproject.toml"}


def cached(home: str) -> list[str]:
    """Return the names in the cache of trees, but for the locks of single trees."""
    return sorted(name for name in os.listdir(os.path.join(home, "unpacked")) if name == ".lock" or name[-5:] != ".lock")


def refused(code: FlameErrorCode, *args: str) -> str:
    with pytest.raises(FlameError) as caught:
        ensure_unpacked(*args)
    assert caught.value.code == code
    return caught.value.message


# Archives of anything at all


Content = bytes | tuple[bytes, str]


def member(name: str, content: Content = b"", **extended: str) -> bytes:
    """Return a member as tar: a file's content, or a type and what it links to."""
    info = tarfile.TarInfo(name)
    info.pax_headers = extended
    data = b""
    if isinstance(content, bytes):
        info.size = len(content)
        data = content + bytes(-len(content) % 512)
    else:
        info.type, info.linkname = content
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data


def link(name: str, target: str, **extended: str) -> bytes:
    return member(name, (tarfile.SYMTYPE, target), **extended)


def directory(name: str) -> bytes:
    return member(name, (tarfile.DIRTYPE, ""))


def resealed(header: bytes) -> bytes:
    """Return a header with its right checksum."""
    empty = header[:148] + b" " * 8 + header[156:512]
    return header[:148] + b"%06o\0 " % sum(empty) + header[156:]


def write_archive(path: Path, *blocks: tuple[int, bytes]) -> tuple[str, str]:
    """Write an archive of these kinds of blocks and their tar; return its path and right digest."""
    hashes = []
    with open(path, "wb") as file:
        for kind, raw in blocks:
            hashes.append(hasher(len(raw))(raw).digest())
            file.writelines(compress(kind, raw, len(raw), hashes[-1], Compressor(len(raw))))
        file.write(end_block())
    return str(path), digest_of(hashes)


def in_one(members: list[bytes]) -> list[tuple[int, bytes]]:
    return [(WHOLE, b"".join(members))]


def in_many(members: list[bytes]) -> list[tuple[int, bytes]]:
    return [(WHOLE, member) for member in members]


each_division = pytest.mark.parametrize("divided", [in_one, in_many])
Division = Callable[[list[bytes]], list[tuple[int, bytes]]]


# Trees


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_package_is_unpacked_as_it_was_and_only_the_user_can_read_it(
    package: PackageInfo, tree: Path, home: str, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    make_links = unpacking._make_links

    def look(root: int, target: str, links: list[tuple[bytes, bytes]]) -> None:
        modes.append(stat.S_IMODE(os.stat(target).st_mode))
        make_links(root, target, links)

    monkeypatch.setattr(unpacking, "_make_links", look)
    before = os.umask(umask)
    try:
        found = Path(ensure_unpacked(package.path, package.digest, home))
    finally:
        os.umask(before)
    assert found == Path(home, "unpacked", package.digest)
    assert packed_listing(found) == listing(tree)
    modes += [stat.S_IMODE(path.stat().st_mode) for path in (found, found.parent)]
    assert modes == [0o700] * 3  # while it was built, and since


def test_it_is_unpacked_once(package: PackageInfo, home: str) -> None:
    tree = ensure_unpacked(package.path, package.digest, home)
    os.unlink(package.path)  # its runner has closed; the cache belongs to no runner
    Path(tree, "__pycache__").mkdir()  # Python's own caches are no damage
    end_uses()
    assert ensure_unpacked(package.path, package.digest, home) == tree
    assert Path(tree, "__pycache__").exists()


def remove(tree: Path) -> None:
    (tree / "main.py").unlink()


def truncate(tree: Path) -> None:
    (tree / "sub" / "run.sh").write_text("")


def truncate_unseen(tree: Path) -> None:
    path = tree / "sub" / "run.sh"
    before = path.stat()
    path.write_text("")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change(tree: Path) -> None:
    (tree / "main.py").write_text("value = 2\n")  # of the same size


def put_directory(tree: Path) -> None:
    (tree / "main.py").unlink()
    (tree / "main.py").mkdir()


def put_file(tree: Path) -> None:
    (tree / "void").rmdir()
    (tree / "void").touch()


def put_link(tree: Path) -> None:
    (tree / "main.py").rename(tree.parent.parent / "main.py")
    (tree / "main.py").symlink_to("../../main.py")


def put_fifo(tree: Path) -> None:
    (tree / "main.py").unlink()
    os.mkfifo(tree / "main.py")


def link_directory(tree: Path) -> None:
    (tree / "sub").rename(tree.parent.parent / "sub")
    (tree / "sub").symlink_to("../../sub")


def unlink(tree: Path) -> None:
    (tree / "link").unlink()


def retarget(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("sub/run.py")  # as long as the right one


def retarget_out(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("/dev/null")


def unfinish(tree: Path) -> None:
    os.unlink(f"{tree}.manifest")


def cut(tree: Path) -> None:
    os.truncate(f"{tree}.manifest", 10)


def empty(tree: Path) -> None:
    os.rename(tree, tree.parent.parent / "away")


def link_away(tree: Path) -> None:
    empty(tree)
    tree.symlink_to("../away")


each_damage = pytest.mark.parametrize(
    "damage",
    [
        *(remove, truncate, truncate_unseen, change, put_directory, put_file, put_link, put_fifo, link_directory),
        *(unlink, retarget, retarget_out, unfinish, cut, empty, link_away),
    ],
)


@each_damage
def test_a_damaged_tree_is_rebuilt(package: PackageInfo, tree: Path, home: str, damage: Callable[[Path], None]) -> None:
    found = Path(ensure_unpacked(package.path, package.digest, home))
    damage(found)
    assert ensure_unpacked(package.path, package.digest, home) == str(found)
    assert packed_listing(found) == listing(tree)
    assert not found.is_symlink()


def test_no_damage_of_a_manifest_does_harm(package: PackageInfo, tree: Path, home: str) -> None:
    found = ensure_unpacked(package.path, package.digest, home)
    whole = packed_listing(found)
    manifest = Path(f"{found}.manifest")
    for at in range(len(manifest.read_bytes())):
        data = bytearray(manifest.read_bytes())
        data[at] ^= 1 << at % 8
        manifest.write_bytes(data)
        ensure_unpacked(package.path, package.digest, home)
        assert packed_listing(found) == whole == listing(tree)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_number_of_threads_does_not_matter(
    tmp_path: Path, home: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "threads_for", lambda pieces: threads)
    large = random.Random(1).randbytes(3 * PIECE_BYTES + 1000)
    files = {f"d{number % 3}/{number}": b"%d" % number for number in range(40)}
    blocks = [(WHOLE, member(name, content) + link(f"{name}.link", "../large")) for name, content in files.items()]
    blocks[20:20] = pieces_of("large", large)
    found = listing(ensure_unpacked(*write_archive(tmp_path / "a.tar.gz", *blocks), home))
    expected: dict[bytes, object] = {b"large": (large, 0o600)}
    expected |= {b"d0": dict, b"d1": dict, b"d2": dict}
    expected |= {name.encode(): (content, 0o600) for name, content in files.items()}
    expected |= {f"{name}.link".encode(): b"../large" for name in files}
    assert found == expected


def test_directories_without_members_of_their_own_are_made(tmp_path: Path, home: str) -> None:
    path, digest = write_archive(tmp_path / "a.tar.gz", (WHOLE, link("a/b/link", "../c/file") + member("a/c/file", b"x")))
    found = listing(ensure_unpacked(path, digest, home))
    assert found == {b"a": dict, b"a/b": dict, b"a/c": dict, b"a/b/link": b"../c/file", b"a/c/file": (b"x", 0o600)}


SPECIAL_NAMES = [b"a", b"\xff\xfe", b"new\nline", b"\xc3\xa9", b"x" * 255, b" ", b"\\", b"-", b"'\"", b"=", b"1 path=b"]
odd_names = st.sampled_from(SPECIAL_NAMES) | st.binary(max_size=8).map(
    lambda raw: b"~%b~" % raw.replace(b"/", b"").replace(b"\0", b"")  # no rule of those that are built in
)
project_trees = st.recursive(
    st.one_of(
        st.tuples(st.binary(max_size=1500), st.booleans()),
        st.tuples(st.integers(1, 2).map(lambda n: bytes(n * 900_000)), st.booleans()),
        st.integers(0, 99),  # a link to the member of that number
    ),
    lambda below: st.dictionaries(odd_names, below, max_size=4),
    max_leaves=10,
).filter(lambda made: isinstance(made, dict))


def make_tree(root: bytes, content: dict[bytes, object]) -> None:
    links = []

    def make(path: bytes, content: object) -> None:
        if isinstance(content, dict):
            os.mkdir(path)
            for name, below in content.items():
                make(path + b"/" + name, below)
        elif isinstance(content, int):
            links.append((path, content))
        else:
            data, executable = content
            with open(path, "xb") as file:
                file.write(data)
            os.chmod(path, 0o755 if executable else 0o644)

    make(root, content)
    paths = [root, *(os.path.join(root, name) for name in listing(root))]
    for path, number in links:
        os.symlink(os.path.relpath(paths[number % len(paths)], os.path.dirname(path)), path)


@settings(max_examples=40, deadline=None)
@given(content=project_trees)
def test_what_is_packed_is_unpacked(content: dict[bytes, object]) -> None:
    with tempfile.TemporaryDirectory() as base:
        make_tree(os.fsencode(f"{base}/tree"), content)
        info = pack(f"{base}/tree", base, name="app", home=f"{base}/data")
        found = ensure_unpacked(info.path, info.digest, f"{base}/data")
        end_uses()
        assert packed_listing(found) == listing(f"{base}/tree")


def go_down(root: str | Path, *, making: bool = False) -> int:
    """Open the bottom of a tree that is deeper than any path leads."""
    name = "n" * 200
    at = os.open(root, os.O_RDONLY)
    for _ in range(25):
        if making:
            os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    return at


def test_paths_longer_than_the_system_takes_at_once_are_unpacked(tmp_path: Path, home: str) -> None:
    (tmp_path / "project").mkdir()
    at = go_down(tmp_path / "project", making=True)
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.close(at)
    info = pack(str(tmp_path / "project"), str(tmp_path), name="app")
    at = go_down(ensure_unpacked(info.path, info.digest, home))
    assert os.listdir(at) == ["file"]
    os.close(at)


# What must not be unpacked


@each_division
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (member("../out", b"x"), "member '../out' leads out"),
        (member("a/../../out", b"x"), "leads out"),
        (member("/tmp/out", b"x"), "leads out"),
        (member("./out", b"x"), "leads out"),
        (member("a//out", b"x"), "leads out"),
        (member("", b"x"), "leads out"),
        (member("a", b"x", path="a\0b"), "leads out"),
        (member("a", b"x", path="../out"), "member '../out' leads out"),
        (directory(".."), "leads out"),
        (link("../out", "x"), "leads out"),
        (link("link", "../out"), "link 'link' leads out of the package, to '../out'"),
        (link("link", "/etc/passwd"), "link 'link' leads out"),
        (link("/".join(["n" * 200] * 25), "x"), "leads out"),  # no system call says where to
        (link("link", "x", linkpath="x\0y"), "member 'link' has a damaged header"),
        (link("link", ""), "member 'link' has a damaged header"),
        (member("hard", (tarfile.LNKTYPE, "good")), "neither file, directory nor symbolic link"),
        (member("fifo", (tarfile.FIFOTYPE, "")), "neither file, directory nor symbolic link"),
        (member("device", (tarfile.CHRTYPE, "")), "neither file, directory nor symbolic link"),
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, home: str, bad: bytes, expected: str, divided: Division) -> None:
    path, digest = write_archive(tmp_path / "a.tar.gz", *divided([member("good", b"x"), bad, member("last", b"x")]))
    before = sorted(os.listdir(tmp_path)), sorted(os.listdir(home))
    message = refused(FlameErrorCode.INTERNAL, path, digest, home)
    assert path in message
    assert expected in message
    assert cached(home) == [".lock"]
    assert before == (sorted(os.listdir(tmp_path)), sorted(set(os.listdir(home)) - {"unpacked"}))


@each_division
@pytest.mark.parametrize(
    "members",
    [
        [link("d", "/tmp"), member("d/out", b"x")],
        [member("d/out", b"x"), link("d", "/tmp")],
        [link("d", "../.."), link("d/out", "x")],
        [link("d/out", "x"), link("d", "../..")],
        [link("d", ".."), directory("d")],
        [directory("d"), link("d", "..")],
        [link("d", "."), link("e", "d/d/../..")],
        [link("d", "e/e"), link("e", "d"), link("f", "d/../../..")],
        [member("a", b"x"), member("a", b"y")],
        [member("a", b"x"), link("a", "b")],
        [link("a", "b"), link("a", "b")],
        [member("a", b"x"), directory("a")],
        [directory("a"), member("a", b"x")],
        [member("a", b"x"), member("a/b", b"y")],
        [member("a/b", b"x"), member("a", b"y")],
        [link("a", "b"), member("a/b", b"y")],
    ],
)
def test_links_and_names_cannot_be_played_against_each_other(
    tmp_path: Path, home: str, members: list[bytes], divided: Division
) -> None:
    path, digest = write_archive(tmp_path / "a.tar.gz", *divided(members))
    refused(FlameErrorCode.INTERNAL, path, digest, home)
    assert cached(home) == [".lock"]
    assert (sorted(os.listdir(tmp_path)), os.listdir(home)) == (["a.tar.gz", "data"], ["unpacked"])


def test_a_link_to_a_descriptor_of_this_very_process_is_refused(tmp_path: Path, home: str) -> None:
    """One of them is the directory that is being unpacked into."""
    for number in range(40):
        path, digest = write_archive(tmp_path / "a.tar.gz", (WHOLE, link("l", f"/proc/self/fd/{number}")))
        assert "leads out" in refused(FlameErrorCode.INTERNAL, path, digest, home)
        end_uses()  # else the descriptors' numbers would grow as well


GOOD = member("file", b"x" * 700)
EXTENDED = member("e", b"x" * 700, comment="c")


@pytest.mark.parametrize(
    "raw",
    [
        GOOD[:511],
        GOOD[:512],
        GOOD[:-513],
        GOOD + b"x",
        GOOD + bytes(512),
        GOOD[:148] + b"0000000\0" + GOOD[156:],
        resealed(GOOD[:124] + b"-0000000001\0" + GOOD[136:]),
        resealed(GOOD[:124] + b"\x80" + bytes(11) + GOOD[136:]),
        resealed(GOOD[:257] + b"ustar  \0" + GOOD[265:]),
        resealed(GOOD[:124] + b"7" * 11 + GOOD[135:]),
        EXTENDED[:512],
        EXTENDED[:1000],
        EXTENDED[:1024],
        EXTENDED.replace(b"13 comment=c", b"99 comment=c"),
        EXTENDED.replace(b"13 comment=c", b"00 comment=c"),
        EXTENDED.replace(b"13 comment=c", b"-3 comment=c"),
        EXTENDED.replace(b"13 comment=c", b"13 comment c"),
        EXTENDED.replace(b"13 comment=c", b"13_comment=c"),
        EXTENDED.replace(b"comment=c\n", b"comment=cc"),
        EXTENDED.replace(b"13 comment=c\n" + bytes(7), b"20 comment=c1234567\n"),  # beyond the header's end
        member("e", size=str(1 << 64)),
        member("e", b"x", size="x"),
        member("e", b"x", size="-1"),
        member("e", b"x", size=str(1 << 40)),
    ],
)
def test_tar_that_makes_no_sense_is_refused(tmp_path: Path, home: str, raw: bytes) -> None:
    path, digest = write_archive(tmp_path / "a.tar.gz", (WHOLE, member("a") + raw))
    assert "is damaged: member" in refused(FlameErrorCode.INTERNAL, path, digest, home)
    assert cached(home) == [".lock"]


def test_what_an_extended_header_says_beyond_names_is_passed_over(tmp_path: Path, home: str) -> None:
    path, digest = write_archive(tmp_path / "a.tar.gz", (WHOLE, EXTENDED))
    assert listing(ensure_unpacked(path, digest, home)) == {b"e": (b"x" * 700, 0o600)}


def test_only_the_package_of_that_digest_is_unpacked(package: PackageInfo, home: str) -> None:
    assert "has another digest than 000" in refused(FlameErrorCode.INTERNAL, package.path, "0" * 32, home)
    message = refused(FlameErrorCode.NOT_FOUND, package.path + ".gone", package.digest, home)
    assert package.path + ".gone" in message
    for digest in ("../../x", "", "\xe9", "a/b"):
        refused(FlameErrorCode.INVALID_ARGUMENT, package.path, digest, home)
    ensure_unpacked(package.path, package.digest, home)


def test_an_archive_that_ends_anywhere_else_is_refused(package: PackageInfo, home: str) -> None:
    path = Path(package.path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert "is damaged" in refused(FlameErrorCode.INTERNAL, package.path, package.digest, home)
    path.write_bytes(whole + b"\0")
    assert "something follows its end" in refused(FlameErrorCode.INTERNAL, package.path, package.digest, home)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("main.py"))
    assert "no package of this version" in refused(FlameErrorCode.INTERNAL, package.path, package.digest, home)
    assert cached(home) == [".lock"]


def test_an_archive_with_any_byte_changed_is_refused_or_unpacked_as_it_was(tmp_path: Path, home: str) -> None:
    members = [directory("d"), member("d/a", b"text"), link("d/l", "a"), member("n" * 120, b"")]
    path, digest = write_archive(tmp_path / "a.tar.gz", *in_one(members[:2]), *in_one(members[2:]))
    whole = Path(path).read_bytes()
    expected = {b"d": dict, b"d/a": (b"text", 0o600), b"d/l": b"a", b"n" * 120: (b"", 0o600)}
    harmless = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        Path(path).write_bytes(changed)
        try:
            tree = ensure_unpacked(path, digest, home)
        except FlameError as error:
            assert error.code == FlameErrorCode.INTERNAL
            assert cached(home) == [".lock"]
        else:
            harmless += 1
            assert listing(tree) == expected
            shutil.rmtree(tree)
            os.unlink(f"{tree}.manifest")
    assert harmless < len(whole) / 4  # checksums of gzip's own, and the end's content
    assert (sorted(os.listdir(tmp_path)), os.listdir(home)) == (["a.tar.gz", "data"], ["unpacked"])


def test_a_damaged_package_is_not_used_again(tmp_path: Path, tree: Path, home: str) -> None:
    """Else every Runner to come would be given the same."""

    def packed() -> PackageInfo:
        return pack(str(tree), str(tmp_path), name="app", home=home)

    first = packed()
    before = os.stat(first.path)
    with open(first.path, "r+b") as file:  # on the disk, as it were: one file with the one that is kept
        file.seek(HEADER_BYTES + 10)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    os.utime(first.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(packed().path).st_ino == before.st_ino
    assert "is damaged" in refused(FlameErrorCode.INTERNAL, first.path, first.digest, home)
    again = packed()
    assert again.digest == first.digest
    assert packed_listing(ensure_unpacked(again.path, again.digest, home)) == listing(tree)


def test_what_cannot_be_written_leaves_nothing_and_is_no_damage(tmp_path: Path, tree: Path, home: str) -> None:
    (tree / "large").write_bytes(bytes(3 * PIECE_BYTES))
    info = pack(str(tree), str(tmp_path), name="app", home=home)

    def unpack_with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PIECE_BYTES, 2 * PIECE_BYTES))
        with pytest.raises(OSError) as caught:
            ensure_unpacked(info.path, info.digest, home)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, "large")

    assert passes_in_child(unpack_with_little_room)
    assert cached(home) == [".lock"]
    assert [name for name in os.listdir(os.path.join(home, "packed")) if name.endswith(".index")]
    assert packed_listing(ensure_unpacked(info.path, info.digest, home)) == listing(tree)


# Large files


def pieces_of(name: str, content: bytes) -> list[tuple[int, bytes]]:
    raw = member(name, content)
    header = len(raw) - len(content) - -len(content) % 512
    cuts = [0, *range(header + PIECE_BYTES, len(raw), PIECE_BYTES), len(raw)]
    pieces = [raw[begin:end] for begin, end in zip(cuts, cuts[1:], strict=False)]
    return [(LATER_PIECE if number else FIRST_PIECE, piece) for number, piece in enumerate(pieces)]


LARGE = b"".join(bytes([number]) * (PIECE_BYTES // 2) for number in range(7))  # three and a half pieces
PIECES = pieces_of("large", LARGE)


def test_large_files_lie_in_pieces(tmp_path: Path, tree: Path, home: str) -> None:
    (tree / "sub" / "large").write_bytes(LARGE)
    (tree / "sub" / "large").chmod(0o755)
    info = pack(str(tree), str(tmp_path), name="app")
    kinds = [read_header(block).kind for block in blocks_of(info.path)]
    assert kinds.count(FIRST_PIECE) == 1
    assert kinds.count(LATER_PIECE) == 3
    assert packed_listing(ensure_unpacked(info.path, info.digest, home)) == listing(tree)


def blocks_of(path: str) -> list[bytes]:
    data = Path(path).read_bytes()
    blocks = []
    while data:
        length = read_header(data).length
        blocks.append(data[:length])
        data = data[length:]
    return blocks


def test_pieces_make_the_file_whatever_stands_around_them(tmp_path: Path, home: str) -> None:
    one = (WHOLE, member("one", b"1"))
    two = pieces_of("two", bytes(PIECE_BYTES + 1))
    path, digest = write_archive(tmp_path / "a.tar.gz", *PIECES, one, *two)
    found = listing(ensure_unpacked(path, digest, home))
    assert found == {b"large": (LARGE, 0o600), b"one": (b"1", 0o600), b"two": (bytes(PIECE_BYTES + 1), 0o600)}


FIRST, SECOND, THIRD, LAST = PIECES


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([FIRST, SECOND, THIRD], "pieces of a large file are missing"),
        ([FIRST, SECOND, LAST], "pieces of a large file are missing"),
        ([FIRST], "pieces of a large file are missing"),
        ([FIRST, SECOND, THIRD, LAST, LAST], "pieces of a large file are missing"),
        ([FIRST, SECOND, LAST, THIRD], "a piece of a large file has another length"),
        ([SECOND, THIRD, LAST], "lacks its beginning"),
        ([SECOND, FIRST, THIRD, LAST], "lacks its beginning"),
        ([(WHOLE, member("a")), SECOND], "lacks its beginning"),
        ([FIRST, SECOND, (WHOLE, member("a")), THIRD, LAST], "lacks its beginning"),
        ([(WHOLE, FIRST[1]), SECOND, THIRD, LAST], "lacks its beginning"),
        ([(WHOLE, FIRST[1])], "member 'large' has another length"),
        ([(FIRST_PIECE, FIRST[1][:-512]), SECOND, THIRD, LAST], "member 'large' has another length"),
        ([(FIRST_PIECE, FIRST[1] + bytes(512)), SECOND, THIRD, LAST], "member 'large' has another length"),
        ([(FIRST_PIECE, member("small", b"x"))], "member 'small' has another length"),
        ([(FIRST_PIECE, member("small", bytes(PIECE_BYTES - 100)))], "member 'small' has another length"),
        ([(FIRST_PIECE, directory("d")), SECOND], "member 'd' is no large file"),
        ([(FIRST_PIECE, directory("d") + FIRST[1]), SECOND, THIRD, LAST], "member 'd' is no large file"),
        ([(FIRST_PIECE, link("l", "x")), SECOND], "member 'l' is no large file"),
        ([FIRST, SECOND, THIRD, LAST, *PIECES], "member 'large' is there twice"),
        ([FIRST, SECOND, THIRD, LAST, (WHOLE, member("large", b"x"))], "member 'large' is there twice"),
        ([FIRST, SECOND, THIRD, LAST, (WHOLE, link("large", "x"))], "member 'large' is there twice"),
        ([FIRST, SECOND, (LATER_PIECE, THIRD[1][:-1]), LAST], "a piece of a large file has another length"),
    ],
)
def test_pieces_that_do_not_belong_together_are_refused(
    tmp_path: Path, home: str, blocks: list[tuple[int, bytes]], expected: str
) -> None:
    path, digest = write_archive(tmp_path / "a.tar.gz", *blocks)
    assert expected in refused(FlameErrorCode.INTERNAL, path, digest, home)
    assert cached(home) == [".lock"]


def test_pieces_in_another_order_have_another_digest(tmp_path: Path, home: str) -> None:
    _, digest = write_archive(tmp_path / "a.tar.gz", *PIECES)
    path, _ = write_archive(tmp_path / "a.tar.gz", FIRST, THIRD, SECOND, LAST)
    assert "has another digest" in refused(FlameErrorCode.INTERNAL, path, digest, home)


# Versions


class Versions:
    """Two packages of one tree, of which the first is unpacked; all but one of their blocks are equal."""

    def __init__(self, tmp_path: Path, tree: Path, home: str) -> None:
        self.home = home
        self.tree = tree
        for name in ("b", "x", "y"):  # each begins a block of its own
            (tree / name).write_bytes(name.encode() * (600 << 10))
        (tree / "sub" / "large").write_bytes(LARGE)
        self.first = pack(str(tree), str(tmp_path), name="app", home=home)
        self.old = Path(ensure_unpacked(self.first.path, self.first.digest, home))
        (tree / "x").write_bytes(b"z" * (600 << 10))
        self.second = pack(str(tree), str(tmp_path), name="app", home=home)
        one, two = blocks_of(self.first.path), blocks_of(self.second.path)
        assert sum(block not in two for block in one) == 1
        assert len(one) == len(two) > 5
        end_uses()

    def unpack(self) -> Path:
        """Unpack the second package."""
        new = Path(ensure_unpacked(self.second.path, self.second.digest, self.home))
        assert packed_listing(new) == listing(self.tree)
        return new

    def linked(self, new: Path) -> set[str]:
        """Return the files that are the old tree's own."""
        files = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file() and not path.is_symlink()}
        return {name for name in files if (new / name).stat().st_ino == (self.old / name).stat().st_ino}


@pytest.fixture
def versions(tmp_path: Path, tree: Path, home: str) -> Versions:
    return Versions(tmp_path, tree, home)


ALL = {"main.py", "pyproject.toml", "b", "x", "y", "sub/large", "sub/run.sh"}


def test_what_a_version_has_in_common_with_the_last_is_linked(versions: Versions) -> None:
    before = listing(versions.old)
    linked = versions.linked(versions.unpack())
    assert "x" not in linked
    assert linked >= {"b", "y", "sub/large"}  # what shares a block with x is extracted with it
    assert listing(versions.old) == before


def test_a_large_file_of_which_a_piece_changes_is_extracted(versions: Versions, tmp_path: Path) -> None:
    new = versions.unpack()
    (versions.tree / "sub" / "large").write_bytes(LARGE[:-1] + b"\xff")
    third = pack(str(versions.tree), str(tmp_path), name="app", home=versions.home)
    found = Path(ensure_unpacked(third.path, third.digest, versions.home))
    assert packed_listing(found) == listing(versions.tree)
    assert (new / "sub" / "large").read_bytes() == (versions.old / "sub" / "large").read_bytes() == LARGE
    assert (found / "x").stat().st_ino == (new / "x").stat().st_ino  # of those two, the closer one


@each_damage
def test_nothing_damaged_is_linked_into_another_version(versions: Versions, damage: Callable[[Path], None]) -> None:
    damage(versions.old)
    before = packed_listing(versions.old) if versions.old.exists() else None
    new = versions.unpack()
    assert before == (packed_listing(versions.old) if versions.old.exists() else None)
    if damage not in (unfinish, cut, empty, link_away):
        assert (new / "y").stat().st_ino == (versions.old / "y").stat().st_ino  # the rest is as good as ever


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_there_twice_is_refused_even_if_it_could_be_linked(tmp_path: Path, home: str, place: int) -> None:
    known = (WHOLE, member("a", b"1") + member("b", b"2"))
    ensure_unpacked(*write_archive(tmp_path / "a.tar.gz", known), home)
    blocks = [(WHOLE, member("b", b"3"))]
    blocks.insert(place, known)
    path, digest = write_archive(tmp_path / "a.tar.gz", *blocks)
    assert "member 'b' is there twice" in refused(FlameErrorCode.INTERNAL, path, digest, home)


def test_a_rebuilt_tree_keeps_what_is_whole_of_it(versions: Versions) -> None:
    inodes = {name: (versions.old / name).stat().st_ino for name in ALL}
    truncate(versions.old)
    ensure_unpacked(versions.first.path, versions.first.digest, versions.home)
    kept = {name for name, inode in inodes.items() if (versions.old / name).stat().st_ino == inode}
    assert "sub/run.sh" not in kept
    assert kept >= {"b", "x", "y", "sub/large"}


def test_files_are_extracted_where_links_cannot_be_made(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links cannot lead to another file system."""
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(versions.home).st_dev:
        pytest.skip("there is no other file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        ensure_unpacked(versions.first.path, versions.first.digest, elsewhere)
        previous = unpacking.PreviousTree
        used = []

        def look_there(_: str, wanted: set[bytes]) -> object:
            used.append(previous(os.path.join(elsewhere, "unpacked"), wanted))
            return used[-1]

        monkeypatch.setattr(unpacking, "PreviousTree", look_there)
        new = versions.unpack()
        assert len(used) == 1
        assert used[0].entries
        assert {path.stat().st_nlink for path in new.rglob("*") if path.is_file()} == {1}


# Processes


def all_at_once(works: list[Callable[[], object]]) -> None:
    """Each in a process of its own; all of them pass."""
    held, gate = os.pipe()

    def child(work: Callable[[], object]) -> object:
        os.close(gate)
        os.read(held, 1)  # the end of the file: every process is there
        return work()

    pids = [in_child(lambda work=work: child(work)) for work in works]
    os.close(gate)
    os.close(held)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(works)


def test_many_processes_unpack_at_once(tmp_path: Path, package: PackageInfo, tree: Path, home: str) -> None:
    (tree / "main.py").write_text("value = 2\n")
    other = pack(str(tree), str(tmp_path), name="app")

    def unpack(info: PackageInfo, value: int) -> bool:
        found = Path(ensure_unpacked(info.path, info.digest, home))
        return (found / "main.py").read_text() == f"value = {value}\n" and (found / "link").read_text() == "#!/bin/sh\n"

    all_at_once([lambda: unpack(package, 1), lambda: unpack(other, 2)] * 4)
    digests = sorted([package.digest, other.digest])
    assert cached(home) == [".lock", *(name for digest in digests for name in (digest, f"{digest}.manifest"))]


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        ("_extract", 1),  # the building's directory is there
        ("decompress", 1),
        ("decompress", 7),
        ("_make_links", 1),
        ("_discard", 1),
        ("write_manifest", 1),  # the tree is in its place, but not finished
        ("_evict", 1),
    ],
)
def test_a_build_cut_off_leaves_nothing_for_long(tmp_path: Path, home: str, function: str, calls: int) -> None:
    members = [member(f"d/{number}", b"%d" % number) for number in range(10)]
    path, digest = write_archive(tmp_path / "a.tar.gz", *in_many([*members, link("l", "d/0")]))

    def cut_off() -> None:
        left = calls
        real = getattr(unpacking, function)

        def die_at_last(*args: object) -> object:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        setattr(unpacking, function, die_at_last)
        ensure_unpacked(path, digest, home)

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(cut_off), 0)[1]) == -signal.SIGKILL
    assert any(digest in name for name in cached(home))
    expected = {b"d": dict, b"l": b"d/0"} | {b"d/%d" % number: (b"%d" % number, 0o600) for number in range(10)}
    assert listing(ensure_unpacked(path, digest, home)) == expected
    assert cached(home) == [".lock", digest, f"{digest}.manifest"]


class User:
    """A process that uses a tree until it is told to end."""

    def __init__(self, path: str, digest: str, home: str, *, close: int = -1) -> None:
        self.heard, ready = os.pipe()
        leave, self.told = os.pipe()

        def use() -> None:
            os.close(self.told)
            if close >= 0:
                os.close(close)
            ensure_unpacked(path, digest, home)
            os.write(ready, b"x")
            os.read(leave, 1)

        self.pid = in_child(use)
        os.close(ready)
        os.close(leave)

    def wait(self) -> None:
        assert os.read(self.heard, 1) == b"x"

    def end(self) -> None:
        os.close(self.told)
        os.close(self.heard)
        assert os.waitpid(self.pid, 0)[1] == 0


def test_the_trees_used_least_recently_go_but_never_one_in_use(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "KEPT", 3)
    archives = [write_archive(tmp_path / f"{i}.tar.gz", (WHOLE, member("number", b"%d" % i))) for i in range(6)]
    user = User(*archives[0], home)
    user.wait()
    os.utime(os.path.join(home, "unpacked", archives[0][1] + ".lock"), (1, 1))

    def use(index: int) -> None:
        ensure_unpacked(*archives[index], home)
        end_uses()
        lock = os.path.join(home, "unpacked", archives[index][1] + ".lock")
        use.clock += 1
        os.utime(lock, (use.clock, use.clock))

    use.clock = 10**9

    def there() -> list[int]:
        found = os.listdir(os.path.join(home, "unpacked"))
        for i in range(6):
            assert len({f"{archives[i][1]}{end}" in found for end in ("", ".lock", ".manifest")}) == 1
        return [i for i in range(6) if archives[i][1] in found]

    for index in (1, 2, 3):
        use(index)
    assert there() == [0, 1, 2, 3]  # the first is in use
    use(1)
    use(4)
    assert there() == [0, 1, 3, 4]
    user.end()
    use(5)
    assert there() == [1, 4, 5]


def test_threads_of_one_process_hold_a_tree_once(package: PackageInfo, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    still_names, together = unpacking.still_names, threading.Barrier(2, timeout=PATIENCE_S)

    def wait_for_the_other(*args: object) -> bool:
        together.wait()
        return still_names(*args)

    monkeypatch.setattr(unpacking, "still_names", wait_for_the_other)
    threads = [threading.Thread(target=ensure_unpacked, args=(package.path, package.digest, home)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    open_files = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert [path for path in open_files if path.startswith(home)] == [f"{home}/unpacked/{package.digest}.lock"]


def test_what_is_forked_while_a_tree_is_built_keeps_nobody_waiting(
    package: PackageInfo, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, told = os.pipe()
    make_links, pids = unpacking._make_links, []

    def child() -> None:
        os.close(told)
        os.read(leave, 1)

    def fork(*args: object) -> None:
        pids.append(in_child(child))
        make_links(*args)

    monkeypatch.setattr(unpacking, "_make_links", fork)
    ensure_unpacked(package.path, package.digest, home)
    with open(os.path.join(home, "unpacked", ".lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(told)
    os.close(leave)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0]


def test_who_waits_for_the_end_of_an_eviction_holds_what_comes_after_it(package: PackageInfo, home: str) -> None:
    lock = Path(home, "unpacked", f"{package.digest}.lock")
    lock.parent.mkdir()
    with open(lock, "x") as evicting:
        fcntl.flock(evicting, fcntl.LOCK_EX)
        mark = f":{os.fstat(evicting.fileno()).st_ino} "
        user = User(package.path, package.digest, home, close=evicting.fileno())
        with open("/proc/locks") as locks:
            wait_until(lambda: locks.seek(0) or any("->" in line and mark in line for line in locks), "waiting")
        lock.unlink()
    user.wait()
    with open(lock) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    user.end()


def test_a_tree_stays_while_what_was_forked_from_its_user_lives(tmp_path: Path, home: str) -> None:
    """Workers are forked from a process that may have unpacked, and ended, before them."""
    path, digest = write_archive(tmp_path / "a.tar.gz", (WHOLE, member("a", b"x")))
    heard, writer = os.pipe()
    leave, told = os.pipe()

    def parent() -> None:
        os.close(told)
        ensure_unpacked(path, digest, home)
        in_child(lambda: os.read(leave, 1))

    assert passes_in_child(parent)
    os.close(leave)
    os.close(writer)
    with open(os.path.join(home, "unpacked", digest + ".lock")) as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(told)
        os.read(heard, 1)  # the end of the file is the end of the last process
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(heard)


# The native part alone, given anything


parts = st.sampled_from(["a", "b", "d", "l", "..", ".", "", "keep", "\0", "\udcff", "n" * 99, "n" * 256])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
types = st.sampled_from([tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"x", b"g", b"L", b"\0"])
some_members = st.builds(member, paths, st.binary(max_size=600) | st.tuples(types, paths))
mutations = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 1 << 16), st.sampled_from(["flip", "copy", "cut"])), max_size=4
)


def mutated(data: bytes, changes: list[tuple[int, int, str]]) -> bytes:
    out = bytearray(data)
    for at, value, kind in changes:
        if not out:
            break
        at %= len(out)
        if kind == "flip":
            out[at] ^= value % 256
        elif kind == "copy":
            out[at:at] = out[value % len(out) :][:600]
        else:
            del out[at : at + value % 600]
    return bytes(out)


def with_checksums(data: bytes) -> bytes:
    """Every header as if it were meant to be as it is."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    return b"".join(resealed(block) if block[257:262] == b"ustar" and len(block) == 512 else block for block in blocks)


class Scratch:
    """A directory to extract into, with ways out of it, and files outside."""

    def __enter__(self) -> Scratch:
        self.base = tempfile.mkdtemp()
        os.mkdir(f"{self.base}/outside")
        os.makedirs(f"{self.base}/root/d")
        with open(f"{self.base}/outside/keep", "xb") as file:
            file.write(b"kept")
        os.symlink("../outside", f"{self.base}/root/l")
        os.link(f"{self.base}/outside/keep", f"{self.base}/root/b")
        self.root = os.open(f"{self.base}/root", os.O_RDONLY | os.O_DIRECTORY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.root)
        shutil.rmtree(self.base)

    def check(self) -> None:
        assert sorted(os.listdir(self.base)) == ["outside", "root"]
        assert listing(f"{self.base}/outside") == {b"keep": (b"kept", 0o600)}
        assert os.readlink(f"{self.base}/root/l") == "../outside"


@settings(max_examples=100, deadline=None)
@given(
    made=st.lists(some_members, max_size=5),
    changes=mutations,
    sealed=st.booleans(),
    large=st.booleans(),
)
def test_the_extractor_writes_nothing_outside_its_root(
    made: list[bytes], changes: list[tuple[int, int, str]], sealed: bool, large: bool
) -> None:
    raw = mutated(b"".join(made), changes)
    raw = with_checksums(raw) if sealed else raw
    with Scratch() as scratch:
        extractor = Extractor(scratch.root)
        try:
            entries, links = extractor.extract(raw, large)
            for path, target in links:
                extractor.make_link(path, target)
            assert extractor.verify(entries)
        except (BadBlock, OSError):
            pass
        scratch.check()


@settings(max_examples=60, deadline=None)
@given(blocks=st.lists(st.lists(st.builds(link, paths, paths) | some_members, max_size=4).map(b"".join), max_size=3))
def test_an_archive_is_refused_or_its_links_stay_inside(blocks: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as base:
        path, digest = write_archive(Path(base, "a"), *[(WHOLE, raw) for raw in blocks])
        try:
            tree = os.path.realpath(ensure_unpacked(path, digest, f"{base}/data"))
        except (FlameError, OSError):
            assert cached(f"{base}/data") == [".lock"]
        else:
            found = [os.path.realpath(os.path.join(os.fsencode(tree), name)) for name in listing(tree)]
            assert [name for name in found if not f"{os.fsdecode(name)}/".startswith(f"{tree}/")] == []
        finally:
            end_uses()
        assert (sorted(os.listdir(base)), os.listdir(f"{base}/data")) == (["a", "data"], ["unpacked"])


@settings(max_examples=60, deadline=None)
@given(changes=mutations)
def test_a_manifest_links_nothing_from_or_to_outside(changes: list[tuple[int, int, str]]) -> None:
    with Scratch() as old, Scratch() as new:
        made = directory("x") + member("x/y", b"1") + member("z", b"22") + link("v", "z")
        extractor = Extractor(old.root)
        entries, links = extractor.extract(made)
        for path, target in links:
            extractor.make_link(path, target)
        assert extractor.verify(entries)
        extractor.verify(mutated(entries, changes))
        Extractor(new.root).link(old.root, mutated(entries, changes))
        old.check()
        new.check()


# The import path


@pytest.fixture
def project(tmp_path: Path) -> tuple[str, PackageInfo]:
    project = tmp_path / "project"
    for path in ("examples/pi/pi.py", "src/a.py", ".venv/lib/site-packages/b.py", "data/c.py", "lib.zip"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).touch()
    (project / "inside").symlink_to("src")
    (tmp_path / "outside").symlink_to(project)
    return str(project), pack(str(project), str(tmp_path), name="app", excludes=["/data"])


def test_entries_inside_the_directory_move_and_the_others_stay(
    project: tuple[str, PackageInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, package = project
    monkeypatch.chdir("/")  # the directory given counts, not the current one
    given_and_expected = [
        ("", "/tree"),
        (".", "/tree"),
        (directory, "/tree"),
        (f"{directory}/", "/tree"),
        (f"{directory}/examples/pi", "/tree/examples/pi"),
        ("examples/pi", "/tree/examples/pi"),
        (f"{directory}/src/../examples", "/tree/examples"),
        (f"{directory}/lib.zip", "/tree/lib.zip"),
        (f"{directory}/inside", "/tree/inside"),
        (f"{tmp_path}/outside/src", "/tree/src"),
        (f"{directory}/.venv/lib/site-packages", None),
        (f"{directory}/data", None),
        (f"{directory}/python311.zip", None),
        (f"{directory}2", None),
        (str(tmp_path), None),
        ("/usr/lib/python3", None),
    ]
    given = [entry for entry, _ in given_and_expected]
    parts = split_sys_path(given, directory, package.holds, directory)
    assert [path for path, _ in parts] == [os.path.normpath(os.path.join(directory, entry)) for entry in given]
    places = [None if place is None else os.path.join("/tree", place).rstrip("/") for _, place in parts]
    assert places == [moved for _, moved in given_and_expected]


def test_what_is_no_text_is_passed_over(project: tuple[str, PackageInfo]) -> None:
    directory, package = project
    assert split_sys_path([Path(directory), b"x", ""], directory, package.holds, directory) == [(directory, "")]


def test_a_worker_imports_as_a_plan_says(project: tuple[str, PackageInfo], home: str) -> None:
    directory, package = project
    parts = sys_path.split_sys_path(["", "/outside"], directory, package.holds, directory)
    plan = {
        "archive": package.path,
        "digest": package.digest,
        "home": home,
        "limit": 1 << 20,
        "sys_path": parts,
        "outside": [],
        "directory": directory,
    }
    plan = json.loads(json.dumps(plan))
    code = (
        "import sys, json; from flame_fast.package.sys_path import prepare; "
        "print(prepare(json.loads(sys.argv[1]))[0]); print(*sys.path)"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(plan)], capture_output=True, text=True)
    tree = os.path.join(home, "unpacked", package.digest)
    assert (done.stdout, done.stderr) == (f"{tree}\n{directory} /outside\n", "")
