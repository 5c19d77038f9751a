"""Snapshots of a directory (API.md, Packaging)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import os
import re
import resource
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import tomllib
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from flame_fast.kernels import archive as native
from gates import in_child, passes_in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package import PackageInfo, archive_writer, pack, progress, snapshot
from flame_fast.package.gitignore import IgnoreRules
from flame_fast.package.packing import safe_name
from flame_fast.package.requirements import check_dependencies
from flame_fast.package.unpacking import ensure_unpacked

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "tree"


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(os.fsencode(path))


def packed(tree: Path, **options: object) -> PackageInfo:
    """Return a package, of which is true what is said of it."""
    info = pack(tree, tree.parent / "out", name="app", **options)
    found = [member for member in members(info) if not member.isdir()]
    assert (info.files, info.size) == (len(found), sum(member.size for member in found))
    assert info.compressed == os.path.getsize(info.path)
    assert all(info.holds(member.name) for member in found)
    return info


def members(info: PackageInfo) -> list[tarfile.TarInfo]:
    with tarfile.open(info.path, encoding="utf-8", errors="surrogateescape") as archive:
        return archive.getmembers()


def names(info: PackageInfo, *, generated: bool = False) -> list[str]:
    """Return the members that are no directories, without the generated project file."""
    found = [member.name for member in members(info) if not member.isdir()]
    return [name for name in found if generated or name != "pyproject.toml"]


def content(info: PackageInfo, name: str) -> bytes:
    with tarfile.open(info.path) as archive:
        return archive.extractfile(name).read()


def refused(code: FlameErrorCode, call: Callable[[], object]) -> str:
    with pytest.raises(FlameError) as caught:
        call()
    assert caught.value.code == code
    return caught.value.message


# The archive


def test_members_are_named_relative_to_the_directory(tree: Path) -> None:
    write(tree, "main.py", "sub/a.py")
    (tree / "empty").mkdir()
    info = packed(tree)
    found = members(info)
    assert [member.name for member in found] == ["empty", "main.py", "pyproject.toml", "sub", "sub/a.py"]
    assert {(m.uid, m.gid, m.mtime, m.uname, m.gname) for m in found} == {(0, 0, 0, "", "")}
    assert content(info, "sub/a.py") == b"sub/a.py"
    assert (info.files, info.size) == (3, 7 + 8 + len(content(info, "pyproject.toml")))
    assert info.name == os.path.basename(info.path) == f"app-{info.digest}.tar.gz"


def test_members_are_in_the_order_of_their_bytes_a_directory_s_with_a_slash(tree: Path) -> None:
    write(tree, "b/c", "b/d/e", "b-", "b.py", "b0", "B", "b/d.py", "b/d-", "\xe9")
    found = [member.name + "/" * member.isdir() for member in members(packed(tree)) if member.name != "pyproject.toml"]
    assert found == ["B", "b-", "b.py", "b/", "b/c", "b/d-", "b/d.py", "b/d/", "b/d/e", "b0", "é"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [("pi run/é", "pi_run__"), ("a.b-c_1", "a.b-c_1"), ("x" * 253, "x" * 80), ("é" * 253, "_" * 80)],
)
def test_the_archive_s_name_is_made_safe(tree: Path, name: str, safe: str) -> None:
    assert safe_name(name) == safe
    info = pack(str(tree), str(tree.parent / "out"), name=name)
    assert os.listdir(tree.parent / "out") == [f"{safe}-{info.digest}.tar.gz"]


def test_the_archive_goes_into_a_directory_or_becomes_a_file(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tree, "a.py")
    out = tree.parent / "out"
    one = pack(tree, out)
    assert one.path == str(out / f"tree-{one.digest}.tar.gz")
    assert pack(str(tree), str(out)).path == one.path  # which was there
    (out / "old.tar.gz").write_text("something else")
    for file in (out / "old.tar.gz", out / "new.tgz"):
        info = pack(tree, file)
        assert (info.path, info.digest) == (str(file), one.digest)
        assert file.read_bytes() == Path(one.path).read_bytes()
    monkeypatch.chdir(out)
    assert pack(tree, "here.tar.gz").path == "here.tar.gz"
    assert sorted(os.listdir()) == sorted([one.name, "old.tar.gz", "new.tgz", "here.tar.gz"])


def test_what_the_archive_replaces_is_not_in_it_be_it_a_link(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tree, "a.py", "sub/b.py")
    (tree / "old.tgz").symlink_to("a.py")
    monkeypatch.chdir(tree)
    for out in ("old.tgz", "sub/../old.tgz", tree / "old.tgz"):
        info = pack(".", out, name="app")
        assert [member.name for member in members(info)] == ["a.py", "pyproject.toml", "sub", "sub/b.py"]
    assert not (tree / "old.tgz").is_symlink()
    assert (tree / "a.py").read_bytes() == b"a.py"


def blocks_of(path: str) -> list[tuple[bytes, bytes]]:
    """Return the gzip members of a file: the bytes of each, and what is in it."""
    data = Path(path).read_bytes()
    found = []
    while data:
        reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
        raw = reader.decompress(data)
        assert reader.eof
        end = len(data) - len(reader.unused_data)
        found.append((data[:end], raw))
        data = data[end:]
    return found


def with_many_blocks(tree: Path) -> None:
    (tree / "big").write_bytes(os.urandom(1 << 20) * 2 + b"end")
    (tree / "small").mkdir()
    for number in range(150):
        (tree / "small" / str(number)).write_bytes(os.urandom(100) * 100)


def test_an_archive_is_one_gzip_member_for_each_block_and_its_digest_speaks_for_them(tree: Path) -> None:
    with_many_blocks(tree)
    info = packed(tree)
    *blocks, end = blocks_of(info.path)
    assert len(blocks) > 4
    assert max(len(raw) for _, raw in blocks) <= native.PIECE_BYTES + 512
    assert end[1] == bytes(1024)
    hashes = [hashlib.sha256(raw).digest() for _, raw in blocks]
    assert info.digest == hashlib.sha256(b"".join(hashes)).hexdigest()[:32]
    for (member, raw), hash in zip(blocks, hashes, strict=True):
        assert member[:4] == b"\x1f\x8b\x08\x04"  # no name, but an extra field
        assert member[4:8] == bytes(4)  # no time
        length, _, field, _, whole, size = struct.unpack_from("<H2sHBII", member, 10)
        assert (field, whole, size, member[12 + length - 32 : 12 + length]) == (length - 4, len(member), len(raw), hash)


@pytest.mark.parametrize(("size", "loads"), [(20_000, False), (40_000, True)])
def test_a_small_project_is_packed_and_unpacked_without_loading_a_compressor(
    tree: Path, nothing_left: Path, size: int, loads: bool
) -> None:
    (tree / "a.bin").write_bytes(os.urandom(size))
    program = """if True:
        import sys
        from flame_fast.package import pack
        from flame_fast.package.unpacking import ensure_unpacked
        tree, out, home = sys.argv[1:]
        info = pack(tree, out, home=home)
        packing = "isal" in sys.modules
        for name in [name for name in sys.modules if name.startswith("isal")]:
            del sys.modules[name]
        unpacked = ensure_unpacked(info.path, info.digest, home)
        print(packing, "isal" in sys.modules, open(f"{unpacked}/a.bin", "rb").read() == open(f"{tree}/a.bin", "rb").read())
    """
    command = [sys.executable, "-c", program, tree, tree.parent / "out", nothing_left]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == f"{loads} {loads} True\n"


def test_the_same_tree_gives_the_same_bytes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def archive(home: str, where: Path = tree) -> bytes:  # each with a data directory of its own: nothing is used again
        return Path(pack(where, tree.parent / "out", name="app", home=str(tree.parent / home)).path).read_bytes()

    def build(paths: list[str], umask: int, when: int) -> None:
        shutil.rmtree(tree)
        old = os.umask(umask)
        tree.mkdir()
        write(tree, *paths)
        (tree / "a.py").chmod((tree / "a.py").stat().st_mode | stat.S_IXUSR)
        os.umask(old)
        (tree / "link").symlink_to("a.py")
        for path in paths:
            os.utime(tree / path, (when, when))

    paths = ["a.py", "b/c.py", "b/d.py", "b.py", "b-/e"]
    build(paths, 0o022, 10**9)
    one = archive("one")
    build(paths[::-1], 0o077, 10**9 + 7)
    assert archive("two") == one
    another_day = time.time_ns() - 86_400 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: another_day)
    moved = tree.parent / "elsewhere"
    tree.rename(moved)
    assert archive("three", moved) == one
    (tree.parent / "alias").symlink_to(moved)
    assert archive("four", tree.parent / "alias") == one


def test_the_bytes_are_the_same_whatever_the_number_of_threads(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_many_blocks(tree)
    found = {}
    for threads in (1, 2, 7):
        used = set()

        def compress(*args: object, used: set[int] = used, make: Callable = archive_writer.compress) -> object:
            used.add(threading.get_ident())
            return make(*args)

        with monkeypatch.context() as patch:
            patch.setattr(archive_writer, "threads_for", lambda pieces, threads=threads: threads)
            patch.setattr(archive_writer, "compress", compress)
            found[threads] = Path(packed(tree, home=str(tree.parent / f"home{threads}")).path).read_bytes()
        assert 1 <= len(used) <= threads
    assert found[1] == found[2] == found[7]


def test_many_pack_one_directory_at_once(tree: Path) -> None:
    with_many_blocks(tree)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        infos = list(pool.map(lambda _: pack(tree, tree.parent / "out"), range(4)))
    assert len({(info.digest, info.files, info.size) for info in infos}) == 1
    assert os.listdir(tree.parent / "out") == [infos[0].name]
    assert content(infos[0], "big") == (tree / "big").read_bytes()


@pytest.mark.parametrize("change", ["content", "name", "mode", "link"])
def test_another_tree_has_another_digest(tree: Path, change: str) -> None:
    write(tree, "a.py", "b.py")
    (tree / "link").symlink_to("a.py")
    one = packed(tree).digest
    if change == "content":
        (tree / "a.py").write_text("A.py")
    elif change == "name":
        (tree / "a.py").rename(tree / "A.py")
    elif change == "mode":
        (tree / "a.py").chmod(0o755)
    else:
        (tree / "link").unlink()
        (tree / "link").symlink_to("b.py")
    assert packed(tree).digest != one


def test_nothing_is_written_into_the_directory(tree: Path) -> None:
    write(tree, "a.py")
    tree.chmod(0o555)
    before = sorted(os.walk(tree)), tree.stat().st_mtime_ns
    packed(tree)
    assert (sorted(os.walk(tree)), tree.stat().st_mtime_ns) == before


TREE_NAMES = [
    *(b"a", b"b.py", b"\xff\xfe", b"new\nline", b"\xc3\xa9", b" ", b"-", b"=", b"a\\b", b"\xed\xa0\x80"),
    *(b"x" * 90, b"y" * 200, b"z" * 255, b"\xfe" * 101, b"\xe2\x82\xac" * 40),
]
FILE, LINK = "file", "link"
files = st.tuples(
    st.just(FILE),
    st.one_of(st.binary(max_size=2000), st.integers(1, 3).map(lambda n: bytes(n * 700_000))),
    st.booleans(),
)
links = st.tuples(st.just(LINK), st.lists(st.sampled_from(TREE_NAMES), min_size=1, max_size=2).map(b"/".join))
trees = st.recursive(
    st.one_of(files, files, links),
    lambda below: st.dictionaries(st.sampled_from(TREE_NAMES), below, max_size=4),
    max_leaves=8,
).filter(lambda made: isinstance(made, dict))


def make(root: bytes, what: object) -> None:
    if isinstance(what, dict):
        os.mkdir(root)
        for name, below in what.items():
            make(root + b"/" + name, below)
    elif what[0] == LINK:
        os.symlink(what[1], root)
    else:
        with open(root, "wb") as file:
            file.write(what[1])
        os.chmod(root, 0o700 if what[2] else 0o600)


def read(root: bytes) -> object:
    if os.path.islink(root):
        return LINK, os.readlink(root)
    if os.path.isdir(root):
        return {name: read(root + b"/" + name) for name in os.listdir(root)}
    with open(root, "rb") as file:
        content = file.read()
    # Few bytes for much content, which no message could show.
    return FILE, len(content), zlib.crc32(content), bool(os.stat(root).st_mode & stat.S_IXUSR)


@settings(max_examples=30, deadline=None)
@given(tree=trees)
def test_what_is_packed_is_unpacked(tree: dict[bytes, object]) -> None:
    with tempfile.TemporaryDirectory() as base:
        make(os.fsencode(base) + b"/tree", tree)
        there = read(os.fsencode(base) + b"/tree")
        info = pack(f"{base}/tree", base, home=base)
        assert passes_in_child(lambda: ensure_unpacked(info.path, info.digest, base))
        found = read(os.fsencode(f"{base}/unpacked/{info.digest}"))
        assert found.pop(b"pyproject.toml")
        assert found == there


# Names and sizes


def test_names_of_any_length(tree: Path) -> None:
    """A header holds a name of 100 bytes behind a directory's of 155; beyond, an extended header does."""
    write(tree, *("n" * length for length in (99, 100, 101, 154, 155, 156, 255)))
    for parent in (1, 99, 100, 101, 154, 155, 156, 255):
        (tree / ("p" * parent) / ("d" * 98)).mkdir(parents=True)
        (tree / ("p" * parent) / ("d" * 99)).mkdir()
        write(tree, *(f"{'p' * parent}/{'n' * length}" for length in (1, 98, 99, 100, 101, 255)))
    (tree / "link").symlink_to("p" * 99)
    (tree / "link100").symlink_to("p" * 100)
    (tree / "link101").symlink_to("p" * 101)
    info = packed(tree)
    found = {member.name: member for member in members(info)}
    assert sorted(found) == sorted([*(str(path.relative_to(tree)) for path in tree.rglob("*")), "pyproject.toml"])
    for path, member in found.items():
        if member.issym():
            assert member.linkname == os.readlink(tree / path)
        elif member.isfile() and path != "pyproject.toml":
            assert content(info, path).decode() == path
        parent, _, name = path.rpartition("/")
        slash = member.isdir()
        fits = len(path) + slash <= 100 or (0 < len(parent) <= 155 and len(name) + slash <= 100)
        assert (member.pax_headers == {}) == (fits and len(member.linkname) <= 100), path


def test_names_that_are_no_utf_8_are_said_to_be_bytes(tree: Path) -> None:
    paths = [b"\xff", b"d\xe9/\xc3", b"\xe2\x82\xac", b"\xc0\x80", b"\xed\xbf\xbf", b"a\nb"]
    paths += [b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80"]  # the last character that there is, and the one behind it
    os.mkdir(os.fsencode(tree) + b"/d\xe9")
    for path in paths:
        Path(os.fsdecode(os.fsencode(tree) + b"/" + path)).write_bytes(path)
    os.symlink(b"\xff", os.fsencode(tree) + b"/link")
    info = packed(tree)
    found = {os.fsencode(member.name): member for member in members(info)}
    assert set(found) == {*paths, b"d\xe9", b"link", b"pyproject.toml"}
    assert os.fsencode(found[b"link"].linkname) == b"\xff"
    for path, member in found.items():
        try:
            path.decode()
            binary = path == b"link"
        except UnicodeDecodeError:
            binary = True
        assert (member.pax_headers.get("hdrcharset") == "BINARY") == binary
        assert info.holds(os.fsdecode(path))


def test_a_tree_is_packed_however_deep_it_is(tree: Path) -> None:
    """Its paths are longer than the system takes, its levels more than may be open at once; only links stay out."""
    levels = 1500
    below = os.open(tree, os.O_RDONLY)
    try:
        for _ in range(levels):
            os.mkdir("dd", dir_fd=below)
            deeper = os.open("dd", os.O_RDONLY, dir_fd=below)
            os.close(below)
            below = deeper
        os.close(os.open("bottom.py", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=below))
        os.symlink("bottom.py", "near", dir_fd=below)
        os.symlink("/etc/passwd", "out", dir_fd=below)
        os.close(below)
        most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 64, hard))
        try:
            with pytest.warns(UserWarning, match="point out of the directory: dd/dd/.*/near, dd/dd/.*/out$"):
                info = pack(tree, tree.parent / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    finally:
        subprocess.run(["rm", "-rf", tree], check=True)  # pytest could not
    *directories, bottom, _ = members(info)
    assert [member.name.count("/") for member in directories] == list(range(levels))
    assert (bottom.name, bottom.mode) == ("dd/" * levels + "bottom.py", 0o755)


@pytest.mark.parametrize("size", [(8 << 30) - 1, 8 << 30, 9 << 30])
def test_a_size_beyond_8_gib_stands_in_an_extended_header(tree: Path, size: int) -> None:
    with open(tree / "huge", "wb") as file:
        file.write(b"begin")
        file.truncate(size)
        file.seek(size - 3)
        file.write(b"end")
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walk = native.Walk(root, IgnoreRules().matcher, (), 1, None, lambda path, target: None)
        walk.run()
        plan = native.plan_blocks(walk.members)
        reader = native.BlockReader(root, walk.members)
        assert plan == [(0, 1, piece) for piece in range((size + (1 << 20) - 1) >> 20)]
        assert reader.read(*plan[0]) == (1, size)
        first = bytes(reader)
        assert reader.read(*plan[-1]) == (0, 0)
        last = bytes(reader)
    finally:
        os.close(root)
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        member = archive.next()
        assert (member.name, member.size) == ("huge", size)
        assert ("size" in member.pax_headers) == (size >= 8 << 30)
        assert len(first) - member.offset_data == 1 << 20
        assert first[member.offset_data :].rstrip(b"\0") == b"begin"
    assert len(last) == (-(-size // 512) * 512 - 1) % (1 << 20) + 1
    assert last.rstrip(b"\0").endswith(b"end")


# What stays out


def test_built_in_rules_hold_at_any_depth(tree: Path) -> None:
    write(tree, "a.py", "b/c.py", ".gitignore", ".flameignore")
    (tree / ".flameignore").write_text("")
    for parent in ("", "b/", "b/deeper/"):
        write(
            tree,
            *(f"{parent}{name}/x.py" for name in (".venv", "venv", "__pycache__", "q.egg-info", ".git", "node_modules")),
        )
        write(tree, f"{parent}m.pyc", f"{parent}.DS_Store")
    assert names(packed(tree)) == [".flameignore", ".gitignore", "a.py", "b/c.py"]


def test_a_virtual_environment_by_any_name_is_left_out(tree: Path) -> None:
    write(tree, "a.py", "env39/pyvenv.cfg", "env39/lib/x.py", "b/e/pyvenv.cfg", "b/c.py")
    info = packed(tree)
    assert names(info) == ["a.py", "b/c.py"]
    assert info.holds("b") and info.holds("b/c.py") and info.holds("")
    assert not info.holds("env39") and not info.holds("b/e") and not info.holds("c")


def test_excludes_and_the_ignore_file_add_rules_and_the_last_one_wins(tree: Path) -> None:
    write(tree, "a.csv", "keep.csv", "data/x", "b/data/x", "build/x", "b/build/x", "b/y.log", "z.tmp")
    (tree / ".flameignore").write_text("*.log\n!keep.csv\n*.tmp\n")
    assert names(packed(tree, excludes=["data/", "/build", "*.csv", "!z.tmp"])) == [
        ".flameignore",
        "b/build/x",
        "keep.csv",
    ]


def test_an_ignore_file_that_cannot_be_read_is_an_error(tree: Path) -> None:
    (tree / ".flameignore").mkdir()
    message = refused(FlameErrorCode.INVALID_CONFIG, lambda: packed(tree))
    assert f"{str(tree / '.flameignore')!r}: Is a directory" in message
    (tree / ".flameignore").rmdir()
    os.mkfifo(tree / ".flameignore")
    with pytest.warns(UserWarning, match="fifos"):
        packed(tree)  # does not block


KEY = "-----BEGIN EC PRIVATE KEY-----\nabc\n"


def test_secrets_are_left_out_with_a_warning_that_helps(tree: Path) -> None:
    write(tree, "a.py", ".env", "deep/.env", "id_rsa", "id_ed25519", "public.pem")
    (tree / "key.pem").write_text("x" * ((1 << 20) - 20) + KEY)  # across two reads
    with pytest.warns(UserWarning, match="look like secrets") as caught:
        info = packed(tree)
    assert names(info) == ["a.py", "public.pem"]
    (warning,) = caught
    text = str(warning.message)
    assert ": .env, deep/.env, id_ed25519, id_rsa, key.pem;" in text
    assert "to include one, write a rule such as '!.env' in .flameignore or package.excludes" in text
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("name", "secret", "harmless"),
    [
        ("server.key", KEY, "-----BEGIN PUBLIC KEY-----"),
        (".npmrc", "//registry.example.org/:_authToken=abc", "save-exact=true"),
        (".npmrc", "_auth=abc", "engine-strict=true"),
        ("deep/key.pem", KEY.replace("EC ", ""), "-----BEGIN CERTIFICATE-----"),
    ],
)
def test_what_a_file_holds_tells_whether_it_is_a_secret(tree: Path, name: str, secret: str, harmless: str) -> None:
    write(tree, "a.py", name)
    (tree / name).write_text(harmless)
    assert name in names(packed(tree))
    (tree / name).write_text(secret)
    with pytest.warns(UserWarning, match="look like secrets"):
        assert name not in names(packed(tree))


def test_folders_of_secrets_and_conda_environments_are_left_out(tree: Path) -> None:
    write(
        tree, "a.py", ".aws/credentials", "deep/.ssh/config", ".netrc", "conda/env/conda-meta/history", "conda/env/lib/x.py"
    )
    write(tree, "conda/b.py")
    with pytest.warns(UserWarning, match=r"look like secrets: \.aws, \.netrc, deep/\.ssh;"):
        assert names(packed(tree)) == ["a.py", "conda/b.py"]


def test_a_secret_is_included_when_the_user_says_so(tree: Path) -> None:
    write(tree, ".env", "id_rsa")
    (tree / "key.pem").write_text(KEY)
    (tree / ".flameignore").write_text("!.env\n!*.pem\nid_rsa\n")
    assert names(packed(tree)) == [".env", ".flameignore", "key.pem"]
    (tree / ".flameignore").unlink()
    assert names(packed(tree, excludes=["!.env", "!id_rsa", "!key.pem"])) == [".env", "id_rsa", "key.pem"]


def test_our_own_directories_are_never_packaged_wherever_they_lie(tree: Path) -> None:
    write(tree, "a.py", "data/x", "b/store/x", "b/c.py")
    alias = tree.parent / "alias"
    alias.symlink_to(tree / "b")
    (tree / ".flameignore").write_text("!data\n!store\n")
    never = [str(tree / "data"), str(alias / "store"), str(tree / "absent"), str(tree.parent)]
    assert names(packed(tree, never=never)) == [".flameignore", "a.py", "b/c.py"]
    home = str(tree / "data")
    assert names(packed(tree, home=home)) == [".flameignore", "a.py", "b/c.py", "b/store/x"]


def test_where_this_python_s_packages_lie_is_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tree, "a.py", "lib/site-packages/x.py", "other/site-packages/x.py")
    monkeypatch.syspath_prepend(tree / "lib" / "site-packages")
    assert names(packed(tree)) == ["a.py", "other/site-packages/x.py"]


def test_special_files_are_skipped_with_a_warning(tree: Path) -> None:
    write(tree, "a.py")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tree)  # a socket's path must be short
        listener.bind("socket")
        os.chdir(here)
    special = "fifo, socket"
    with contextlib.suppress(PermissionError):
        os.mknod(tree / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        special = "device, fifo, socket"
    with pytest.warns(UserWarning, match=f"sockets, fifos or devices: {special}$"):
        assert names(packed(tree)) == ["a.py"]


def test_unreadable_files_are_skipped_with_a_warning() -> None:
    base = Path(tempfile.mkdtemp())
    try:
        for path in (base, base / "tree", base / "out"):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        write(base / "tree", "a.py", "secret.py", "secret.pem", "closed/b.py", "excluded/b.py")
        (base / "tree" / "large").write_bytes(bytes(2 << 20))
        for name in ("secret.py", "secret.pem", "large", "closed", "excluded"):
            (base / "tree" / name).chmod(0)

        def as_somebody() -> None:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            expected = "cannot be read: closed, large, secret.pem, secret.py$"
            with pytest.warns(UserWarning, match=expected):  # the excluded one is not entered
                info = packed(base / "tree", excludes=["excluded"], home=str(base / "home"))
            assert names(info) == ["a.py"]
            assert not any(info.holds(name) for name in ("closed", "secret.py", "secret.pem", "large", "excluded"))

        assert passes_in_child(as_somebody)
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", base], check=True)
        shutil.rmtree(base)


def test_long_lists_in_warnings_are_cut_and_odd_names_quoted(tree: Path) -> None:
    for index in range(13):
        os.mkfifo(tree / f"fifo{index:02}")
    os.mkfifo(os.fsencode(tree) + b"/a\n\xff")
    with pytest.warns(UserWarning) as caught:
        packed(tree)
    text = str(caught[0].message)
    assert r"'a\n\udcff', fifo00, " in text
    assert text.endswith("fifo08 and 4 more")


def test_warnings_turned_into_errors_leave_no_half_archive(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            packed(tree)
    assert [name for name in os.listdir(tree.parent / "out") if not name.endswith(".tar.gz")] == []


# Links


def test_links_inside_stay_links_and_those_out_are_skipped(tree: Path) -> None:
    write(tree, "a.py", "sub/b.py")
    (tree.parent / "outside.py").write_text("x")
    (tree.parent / "alias").symlink_to(tree)
    links = {
        "same": "a.py",
        "sub/up": "../a.py",
        "directory": "sub",
        "dangling": "not/there",
        "loop": "loop",
        "absolute": str(tree / "a.py"),
        "sub/around": f"../../{tree.name}/a.py",
        "sub/alias": str(tree.parent / "alias" / "sub" / "b.py"),
        "out1": "../outside.py",
        "out2": "/etc/passwd",
        "sub/out3": "../../gone",
    }
    for name, target in links.items():
        (tree / name).symlink_to(target)
    with pytest.warns(UserWarning, match="point out of the directory: out1, out2, sub/out3$"):
        info = packed(tree)
    with tarfile.open(info.path) as archive:
        found = {member.name: member.linkname for member in archive if member.issym()}
    assert found == {
        "same": "a.py",
        "sub/up": "../a.py",
        "directory": "sub",
        "dangling": "not/there",
        "loop": "loop",
        "absolute": "a.py",
        "sub/around": "../a.py",
        "sub/alias": "b.py",
    }
    assert passes_in_child(lambda: ensure_unpacked(info.path, info.digest, str(tree.parent)))


def test_no_link_is_followed_that_takes_a_directory_s_place_while_the_tree_is_walked(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tree, "d/a.py", "e/deep/a.py")
    write(tree.parent / "outside", "a.py", "deep/a.py")
    (tree / "link").symlink_to("/")
    resolve = snapshot.Snapshot._resolve_link

    def swap_and_resolve(self: object, path: bytes, target: bytes) -> bytes | None:
        for name in ("d", "e"):
            if not (tree / name).is_symlink():
                (tree / name).rename(tree.parent / name)
                (tree / name).symlink_to(tree.parent / "outside")
        return resolve(self, path, target)

    monkeypatch.setattr(snapshot.Snapshot, "_resolve_link", swap_and_resolve)
    # Whether they were met as directories or as links is up to the order in which the system lists them.
    with pytest.warns(UserWarning, match="point out of the directory: (d, )?(e, )?link$"):
        assert names(packed(tree)) == []


# A tree that changes


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen between the walk and the packing."""

    def arrange(happen: Callable[[], object]) -> None:
        find = snapshot.Snapshot.find_secrets

        def find_secrets(self: snapshot.Snapshot, known: object = None) -> None:
            find(self, known)
            happen()

        monkeypatch.setattr(snapshot.Snapshot, "find_secrets", find_secrets)

    return arrange


CHANGED = "changed while they were packed.*: a$"


@pytest.mark.parametrize("size", [100, 5 << 20])
@pytest.mark.parametrize("change", ["vanish", "shrink", "empty", "grow", "rewrite", "fifo", "directory", "link"])
def test_a_file_that_changes_leaves_the_archive_whole(
    tree: Path, meddle: Callable[..., None], change: str, size: int
) -> None:
    (tree / "a").write_bytes(b"x" * size)
    os.utime(tree / "a", (10**9, 10**9))  # a change within one tick of the clock would show nowhere
    write(tree, "b")
    now = {"shrink": b"x" * (size // 2), "empty": b"", "grow": b"x" * size + b"y" * 100, "rewrite": b"z" * size}

    def happen() -> None:
        if change in now:
            (tree / "a").write_bytes(now[change])
            return
        (tree / "a").unlink()
        if change == "fifo":
            os.mkfifo(tree / "a")
        elif change == "directory":
            (tree / "a").mkdir()
        elif change == "link":
            (tree / "a").symlink_to("/etc/passwd")

    meddle(happen)
    no_file = change in ("fifo", "directory", "link")
    with pytest.warns(UserWarning, match="sockets, fifos or devices: a$" if no_file else CHANGED):
        info = packed(tree)
    assert content(info, "b") == b"b"
    assert names(info) == (["a", "b"] if change in now else ["b"])
    assert info.holds("a") == (change in now)
    if change in now:  # of a large file exactly what was promised before its first byte
        whole = now[change] if size == 100 else now[change][:size].ljust(size, b"\0")
        assert content(info, "a") == whole


@pytest.mark.parametrize("change", ["shrink", "vanish"])
def test_a_large_file_that_changes_while_it_is_read(tree: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    size = 3 << 20
    (tree / "a").write_bytes(b"x" * size)
    make = archive_writer.compress

    def compress(*args: object) -> object:
        if change == "shrink":
            os.truncate(tree / "a", (1 << 20) + 1000)
        else:
            (tree / "a").unlink(missing_ok=True)
        return make(*args)

    monkeypatch.setattr(archive_writer, "threads_for", lambda pieces: 1)  # a piece is read when the one before is compressed
    monkeypatch.setattr(archive_writer, "compress", compress)
    with pytest.warns(UserWarning, match=CHANGED):
        info = packed(tree)
    assert content(info, "a") == (b"x" * ((1 << 20) + 1000 * (change == "shrink"))).ljust(size, b"\0")


def test_many_small_files_that_become_large_leave_a_package_that_can_be_unpacked(
    tree: Path, meddle: Callable[..., None]
) -> None:
    paths = [tree / name for name in "abcd"]
    for path in paths:
        path.write_bytes(b"begin")
    meddle(lambda: [path.write_bytes(b"begin" + os.urandom(900_000)) for path in paths])
    with pytest.warns(UserWarning, match="changed while they were packed.*: a, b, c, d$"):
        info = packed(tree)
    for path in paths:
        found = content(info, path.name)
        assert found.startswith(b"begin")
        assert path.read_bytes().startswith(found)
    assert passes_in_child(lambda: ensure_unpacked(info.path, info.digest, str(tree.parent)))


def test_a_link_that_takes_a_directory_s_place_is_not_followed(tree: Path, meddle: Callable[..., None]) -> None:
    write(tree, "d/a.py", "d/deep/b.py", "e.py")
    write(tree.parent / "outside", "a.py", "deep/b.py", "large")
    for path in (tree / "d" / "large", tree.parent / "outside" / "large"):
        path.write_bytes(bytes(2 << 20))

    def swap() -> None:
        (tree / "d").rename(tree.parent / "away")
        (tree / "d").symlink_to(tree.parent / "outside")

    meddle(swap)
    with pytest.warns(UserWarning) as caught:
        info = packed(tree)
    told = [path for warning in caught for path in str(warning.message).rpartition(": ")[2].split(", ")]
    assert sorted(told) == ["d/a.py", "d/deep/b.py", "d/large"]
    assert names(info) == ["e.py"]


def forbid_openat2(problem: int) -> None:
    """Have the system refuse it to this process, as a container's filter does, or as if it did not know it."""
    load, equal, answer = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 0), (equal, 0, 1, 437), (answer, 0, 0, 0x50000 | problem), (answer, 0, 0, 0x7FFF0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    filter = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(text)))
    system = ctypes.CDLL(None)
    no_new_privileges, seccomp = 38, 22
    if system.prctl(no_new_privileges, 1, 0, 0, 0) or system.prctl(seccomp, 2, filter, 0, 0):
        os._exit(NO_FILTERS)


NO_FILTERS = 77


@pytest.mark.parametrize("problem", [errno.ENOSYS, errno.EPERM])
def test_the_package_is_the_same_without_openat2(tree: Path, meddle: Callable[..., None], problem: int) -> None:
    write(tree, "a.py", "sub/deep/b.py", "swapped/c.py")
    write(tree.parent / "outside", "c.py")
    for name, target in {"link": "a.py", "sub/up": "../a.py", "sub/deep/absolute": str(tree / "sub"), "gone": "x/y"}.items():
        (tree / name).symlink_to(target)
    expected = Path(packed(tree).path).read_bytes()

    def swap() -> None:
        (tree / "swapped").rename(tree.parent / "away")
        (tree / "swapped").symlink_to(tree.parent / "outside")

    def without() -> None:
        forbid_openat2(problem)
        info = packed(tree, home=str(tree.parent / "home"))
        assert Path(info.path).read_bytes() == expected
        meddle(swap)
        with pytest.warns(UserWarning, match=": swapped/c.py$"):
            assert "swapped/c.py" not in names(packed(tree, home=str(tree.parent / "other home")))

    status = os.waitstatus_to_exitcode(os.waitpid(in_child(without), 0)[1])
    if status == NO_FILTERS:
        pytest.skip("no system call filters here")
    assert status == 0


def test_a_directory_that_takes_a_doubtful_file_s_place_is_not_left_open(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tree, "a")
    (tree / "key.pem").write_text(KEY)
    find = snapshot.Snapshot.find_secrets

    def find_secrets(self: snapshot.Snapshot, known: object = None) -> None:
        (tree / "key.pem").unlink()
        (tree / "key.pem").mkdir()
        find(self, known)

    monkeypatch.setattr(snapshot.Snapshot, "find_secrets", find_secrets)
    with pytest.warns(UserWarning, match="devices: key.pem$"):
        assert names(packed(tree)) == ["a"]  # and no descriptor is left, which the suite looks for after every test


@pytest.mark.parametrize("threads", [1, 3])
def test_a_full_disk_is_the_packing_s_failure(
    tree: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: Path, threads: int
) -> None:
    (tree / "a").write_bytes(os.urandom(4 << 20))
    (tree.parent / "out" / "file").write_text("old")
    monkeypatch.setattr(archive_writer, "threads_for", lambda pieces: threads)
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for out in (tree.parent / "out", tree.parent / "out" / "file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))  # a write ends in the middle, as on a full disk
        try:
            with pytest.raises(OSError) as caught:
                pack(tree, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        assert caught.value.errno == errno.EFBIG
    assert os.listdir(tree.parent / "out") == ["file"]
    assert (tree.parent / "out" / "file").read_text() == "old"
    assert [path for path in nothing_left.rglob("*") if path.is_file()] == []


def test_without_a_directory_there_is_no_package(tree: Path) -> None:
    write(tree, "a")
    for directory, out in ((tree, "absent/file"), (tree, "out/file/file"), (tree / "absent", "out"), (tree / "a", "out")):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            pack(directory, tree.parent / out)
    assert os.listdir(tree.parent / "out") == []
    assert sorted(os.listdir(tree.parent)) == ["out", "tree"]


# Limits


def test_too_many_bytes(tree: Path) -> None:
    for index in range(7):
        with open(tree / f"f{index}", "wb") as file:
            file.truncate((index + 1) << 20)
    assert packed(tree, limit=28 << 20).files == 8  # the generated project file does not count
    message = refused(FlameErrorCode.INVALID_ARGUMENT, lambda: packed(tree, limit=(28 << 20) - 1))
    assert "29,360,128 bytes in 7 files, above the limit of 29,360,127 bytes" in message
    assert "the largest: f6 (7,340,032 bytes), f5 (6,291,456 bytes), f4" in message
    assert "f1" not in message
    assert "raise package.limit" in message


def test_the_default_limit_is_500_mb_and_counts_what_is_packed(tree: Path) -> None:
    with open(tree / "big.bin", "wb") as file:
        file.truncate((500 << 20) + 1)
    message = refused(FlameErrorCode.INVALID_ARGUMENT, lambda: packed(tree))
    assert "big.bin (524,288,001 bytes)" in message
    assert os.listdir(tree.parent / "out") == []
    assert names(packed(tree, excludes=["*.bin"])) == []


def test_too_many_files_and_a_higher_limit_raises_both(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert snapshot.DEFAULT_MAX_FILES == 100_000
    monkeypatch.setattr(snapshot, "DEFAULT_MAX_FILES", 10)
    write(tree, *(f"f{index:02}" for index in range(10)))
    assert packed(tree).files == 11  # with the generated project file, which does not count
    write(tree, "f10")
    message = refused(FlameErrorCode.INVALID_ARGUMENT, lambda: packed(tree))
    assert "more than 10 files" in message
    assert "package.limit" in message
    assert len(names(packed(tree, limit=600 << 20))) == 11
    refused(FlameErrorCode.INVALID_ARGUMENT, lambda: packed(tree, limit=1 << 20))


def test_a_large_package_s_largest_members_are_named_and_the_rule_that_leaves_one_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert snapshot.LARGE == 100 << 20
    monkeypatch.setattr(snapshot, "LARGE", 5_000_000)
    write(tree, "a.py", "d/copy of [big]*.bin")
    sizes = {"d/[big]*.bin ": 2_000_000, "c": 1_500_000, "b": 1_499_000}
    for name, size in sizes.items():
        with open(tree / name, "wb") as file:
            file.truncate(size)
    packed(tree)  # not so large
    with open(tree / "b", "ab") as file:
        file.write(b"x" * 1001)
    with open(tree / "key.pem", "wb") as file:
        file.write(KEY.encode())
        file.truncate(3_000_000)
    with pytest.warns(UserWarning) as caught:
        packed(tree)
    secret, large = (str(warning.message) for warning in caught)
    assert "secrets: key.pem;" in secret
    assert f"the package of {str(tree)!r} holds 5,000," in large
    assert "; the largest: d/[big]*.bin  (2,000,000 bytes), b (1,500,001 bytes), c (1,500,000 bytes), " in large
    (rule,) = re.findall(r"a rule such as '(.*)' in .flameignore or package.excludes leaves the first of them out$", large)
    rule = rule.replace("\\\\", "\\")  # it is quoted
    assert rule == r"/d/\[big]\*.bin\ "
    with pytest.warns(UserWarning, match="secrets: key.pem;"):
        assert names(packed(tree, excludes=[rule])) == ["a.py", "b", "c", "d/copy of [big]*.bin"]


def test_a_path_s_own_rule_leaves_out_nothing_else(tree: Path) -> None:
    paths = ["a", "d/a", "#a", "!a", "a*", "ab", "[a]", "?", "a\\", "a\\ ", "a ", "a  ", " a", "-", "é", "\udcff", "a\t"]
    write(tree, *paths)
    for path in paths:
        left = sorted({*paths} - {path}, key=os.fsencode)
        assert names(packed(tree, excludes=[snapshot.rule_for(os.fsencode(path))])) == left


# The progress bar


@pytest.mark.parametrize("quiet_s", [-1.0, 3600.0])
def test_a_bar_on_a_terminal_after_a_while(tree: Path, monkeypatch: pytest.MonkeyPatch, quiet_s: float) -> None:
    monkeypatch.setattr(progress, "QUIET_S", quiet_s)
    (tree / "a").write_bytes(bytes(3 << 20))
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with open(its, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        packed(tree)
    shown = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while more := os.read(ours, 1 << 16):
            shown += more
    os.close(ours)
    if quiet_s > 0:
        assert shown == b""
    else:
        assert b"packing:" in shown
        assert b"/3.00M [" in shown
        assert shown.split(b"\r")[-2].strip() == shown.split(b"\r")[-1] == b""  # it is gone at the end


def test_no_bar_without_a_terminal(tree: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "QUIET_S", -1.0)
    write(tree, "a")
    packed(tree)
    assert capfd.readouterr() == ("", "")
    write(tree, "b")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert names(packed(tree)) == ["a", "b"]


# The generated project file


def test_a_project_file_is_generated_in_the_archive(tree: Path) -> None:
    write(tree, "a.py")
    info = packed(tree, dependencies=["zlib-ng", 'foo; python_version < "3.12"', "back\\slash", "zlib-ng"])
    generated = tomllib.loads(content(info, "pyproject.toml").decode())
    assert generated["project"]["dependencies"] == ["back\\slash", 'foo; python_version < "3.12"', "zlib-ng"]
    assert generated["project"]["name"] == "app"
    assert os.listdir(tree) == ["a.py"]
    assert tomllib.loads(content(packed(tree), "pyproject.toml").decode())["project"]["dependencies"] == []


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "setup.cfg"])
def test_a_project_s_own_file_stays_as_it_is(tree: Path, name: str) -> None:
    write(tree, name)
    info = packed(tree)
    assert names(info, generated=True) == [name]
    assert content(info, name) == name.encode()
    with pytest.warns(UserWarning, match="the directory has a project file of its own"):
        assert packed(tree, dependencies=["numpy"]).digest == info.digest


# What the environment must offer


def test_installed_dependencies_pass() -> None:
    assert check_dependencies(None, None) == []
    assert check_dependencies(["numpy", "PyYAML>=6.0", "numpy[nothing]"], None) == [
        "numpy",
        "PyYAML>=6.0",
        "numpy[nothing]",
    ]


def test_a_marker_that_does_not_hold_asks_for_nothing() -> None:
    wanted = ['no-such-thing; python_version < "3"', 'no-such-thing; sys_platform == "win32"']
    assert check_dependencies(wanted, None) == wanted
    with pytest.raises(FlameError, match="no-such-thing"):
        check_dependencies(['no-such-thing; python_version >= "3"'], None)


def test_each_missing_dependency_is_named_with_the_command() -> None:
    message = refused(
        FlameErrorCode.NOT_FOUND,
        lambda: check_dependencies(["no-such-a", "numpy", "no-such-b>=1", "numpy<1"], None),
    )
    assert "'no-such-a' (not found), 'no-such-b>=1' (not found), 'numpy<1' (" in message
    assert message.endswith(f"{sys.executable} -m pip install no-such-a 'no-such-b>=1' 'numpy<1'")


@pytest.mark.parametrize(
    ("dependencies", "expected"),
    [
        ("numpy", "a list of requirements, got 'numpy'"),
        ([1], "got 1"),
        (7, "got 7"),
        (["not a requirement"], "'not a requirement' is not a requirement by PEP 508"),
        ([""], "'' is not a requirement"),
    ],
)
def test_bad_dependencies(dependencies: object, expected: str) -> None:
    assert expected in refused(FlameErrorCode.INVALID_ARGUMENT, lambda: check_dependencies(dependencies, None))


def test_the_python_version_is_compared_as_far_as_it_is_given() -> None:
    major, minor, micro = sys.version_info[:3]
    for good in (f"{major}.{minor}", f"{major}.{minor}.{micro}"):
        check_dependencies(None, good)
    for bad in (f"{major}.{minor + 1}", f"{major}.{minor}.{micro + 1}", f"{major}.{minor // 10}", "2.7"):
        message = refused(FlameErrorCode.INVALID_ARGUMENT, lambda bad=bad: check_dependencies(None, bad))
        assert f"python_version {bad!r} is not the running Python {major}.{minor}.{micro}" in message
    for bad in ("", "three", ">=3.11", "3.11.7.1", "3.", 3.11, 3):
        message = refused(FlameErrorCode.INVALID_ARGUMENT, lambda bad=bad: check_dependencies(None, bad))
        assert f"expected text like '3.11' or '{major}.{minor}.{micro}', got {bad!r}" in message
