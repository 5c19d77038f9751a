"""Snapshots of a directory (API.md, Packaging)."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import tarfile
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flame_fast.unpack import ensure_unpacked
from gates import in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_fast import package as package_module
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package import PackageInfo, check_dependencies, pack, safe_name

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "tree"


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def packed(tree: Path, **options: object) -> PackageInfo:
    return pack(str(tree), str(tree.parent / "out"), "app", **options)


def names(info: PackageInfo, *, generated: bool = False) -> list[str]:
    """The members that are no directories, without the generated project file."""
    with tarfile.open(info.path, encoding="utf-8", errors="surrogateescape") as archive:
        found = [member.name for member in archive if not member.isdir()]
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
    with tarfile.open(info.path) as archive:
        assert archive.getnames() == ["empty", "main.py", "pyproject.toml", "sub", "sub/a.py"]
        assert {(m.uid, m.gid, m.mtime, m.uname, m.gname) for m in archive} == {(0, 0, 0, "", "")}
    assert content(info, "sub/a.py") == b"sub/a.py"
    assert (info.files, info.size) == (3, 7 + 8 + len(content(info, "pyproject.toml")))
    assert info.name == os.path.basename(info.path) == f"app-{info.digest}.tar.gz"


@pytest.mark.parametrize(
    ("name", "safe"),
    [("pi run/é", "pi_run__"), ("a.b-c_1", "a.b-c_1"), ("x" * 253, "x" * 80), ("é" * 253, "_" * 80)],
)
def test_the_archive_s_name_is_made_safe(tree: Path, name: str, safe: str) -> None:
    assert safe_name(name) == safe
    info = pack(str(tree), str(tree.parent / "out"), name)
    assert os.listdir(tree.parent / "out") == [f"{safe}-{info.digest}.tar.gz"]


def test_the_same_tree_gives_the_same_bytes(tree: Path) -> None:
    def archive(paths: list[str], umask: int, when: int) -> bytes:
        shutil.rmtree(tree)
        old = os.umask(umask)
        tree.mkdir()
        write(tree, *paths)
        (tree / "a.py").chmod((tree / "a.py").stat().st_mode | stat.S_IXUSR)
        os.umask(old)
        (tree / "link").symlink_to("a.py")
        for path in paths:
            os.utime(tree / path, (when, when))
        return Path(packed(tree).path).read_bytes()

    paths = ["a.py", "b/c.py", "b/d.py", "b.py", "b-/e"]
    one = archive(paths, 0o022, 10**9)
    assert archive(paths[::-1], 0o077, 10**9 + 7) == one
    moved = tree.parent / "elsewhere"
    tree.rename(moved)
    assert Path(pack(str(moved), str(tree.parent / "out"), "app").path).read_bytes() == one
    os.chown(moved / "a.py", os.getuid(), os.getgid())
    assert one[4:8] == bytes(4)  # the gzip header's time
    assert one[3] == 0  # and no name in it


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


TREE_NAMES = [b"a", b"b.py", b"\xff\xfe", b"new\nline", b"\xc3\xa9", b"x" * 90, b" ", b"-", b"y" * 200]
trees = st.recursive(
    st.one_of(st.binary(max_size=2000), st.integers(1, 3).map(lambda n: bytes(n * 700_000))),
    lambda below: st.dictionaries(st.sampled_from(TREE_NAMES), below, max_size=4),
    max_leaves=8,
).filter(lambda made: isinstance(made, dict))


@settings(max_examples=40, deadline=None)
@given(tree=trees)
def test_what_is_packed_is_unpacked(tree: dict[bytes, object]) -> None:
    def make(root: bytes, content: object) -> None:
        if isinstance(content, dict):
            os.mkdir(root)
            for name, below in content.items():
                make(root + b"/" + name, below)
        else:
            with open(root, "wb") as file:
                file.write(content)

    def read(root: bytes) -> object:
        if os.path.isdir(root):
            return {name: read(root + b"/" + name) for name in os.listdir(root)}
        with open(root, "rb") as file:
            return file.read()

    with tempfile.TemporaryDirectory() as base:
        make(os.fsencode(base) + b"/tree", tree)
        info = pack(f"{base}/tree", base, "app")
        pid = in_child(lambda: ensure_unpacked(info.path, info.digest, base))
        assert os.waitpid(pid, 0)[1] == 0
        found = read(os.fsencode(f"{base}/unpacked/{info.digest}"))
        assert found.pop(b"pyproject.toml")
        assert found == tree


def test_names_longer_than_a_header_and_files_longer_than_a_chunk(tree: Path) -> None:
    long = "/".join(["d" * 100] * 3)
    write(tree, f"{long}/file.py", "n" * 100, "n" * 101)
    (tree / "link").symlink_to(f"{long}/file.py")
    (tree / "big").write_bytes(os.urandom(3 << 20))
    info = packed(tree)
    assert names(info) == ["big", f"{long}/file.py", "link", "n" * 100, "n" * 101]
    assert content(info, "big") == (tree / "big").read_bytes()
    with tarfile.open(info.path) as archive:
        assert archive.getmember("link").linkname == f"{long}/file.py"


def test_huge_sizes_fit_a_header() -> None:
    block = package_module._block(b"name", 0o644, 9 << 30, b"0", b"")
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 9 << 30


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


def test_special_files_are_skipped_with_a_warning(tree: Path) -> None:
    write(tree, "a.py")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tree)  # a socket's path must be short
        listener.bind("socket")
        os.chdir(here)
    with pytest.warns(UserWarning, match="sockets, fifos or devices: fifo, socket$"):
        assert names(packed(tree)) == ["a.py"]


def test_unreadable_files_are_skipped_with_a_warning() -> None:
    base = Path(tempfile.mkdtemp())
    try:
        for path in (base, base / "tree", base / "out"):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        write(base / "tree", "a.py", "secret.py", "closed/b.py")
        (base / "tree" / "secret.py").chmod(0)
        (base / "tree" / "closed").chmod(0)

        def as_somebody() -> None:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            with pytest.warns(UserWarning, match="cannot be read: closed, secret.py$"):
                info = packed(base / "tree")
            assert names(info) == ["a.py"]
            assert not info.holds("closed") and not info.holds("secret.py")

        assert os.waitpid(in_child(as_somebody), 0)[1] == 0
    finally:
        (base / "tree" / "closed").chmod(0o700)
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
    home = str(tree.parent)
    assert os.waitpid(in_child(lambda: ensure_unpacked(info.path, info.digest, home)), 0)[1] == 0


# A tree that changes


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have something happen between the walk and the packing."""

    def arrange(happen: Callable[[], object]) -> None:
        run = package_module._Walk.run

        def walk(self: object) -> None:
            run(self)
            happen()

        monkeypatch.setattr(package_module._Walk, "run", walk)

    return arrange


@pytest.mark.parametrize("size", [100, 5 << 20])
@pytest.mark.parametrize("change", ["vanish", "shrink", "grow", "replace"])
def test_a_file_that_changes_leaves_the_archive_whole(
    tree: Path, meddle: Callable[..., None], change: str, size: int
) -> None:
    (tree / "a").write_bytes(b"x" * size)
    write(tree, "b")

    def happen() -> None:
        if change == "vanish":
            (tree / "a").unlink()
        elif change == "replace":
            (tree / "a").unlink()
            os.mkfifo(tree / "a")
        else:
            os.truncate(tree / "a", size // 2 if change == "shrink" else size * 2)

    meddle(happen)
    with pytest.warns(
        UserWarning,
        match="fifos or devices: a$" if change == "replace" else "changed while they were packed.*: a$",
    ):
        info = packed(tree)
    assert content(info, "b") == b"b"
    assert names(info) == (["b"] if change in ("vanish", "replace") else ["a", "b"])
    assert info.holds("a") == (change in ("shrink", "grow"))


def test_a_large_file_that_changes_while_it_is_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 << 20
    (tree / "a").write_bytes(b"x" * size)
    begin = package_module._Archive._begin

    def shrink_after_the_header(self: object, member: object) -> None:
        begin(self, member)
        if member.path == b"a":
            os.truncate(tree / "a", 1 << 20)

    monkeypatch.setattr(package_module._Archive, "_begin", shrink_after_the_header)
    with pytest.warns(UserWarning, match="changed while they were packed.*: a$"):
        info = packed(tree)
    assert content(info, "a") == b"x" * (1 << 20) + bytes(2 << 20)


def test_a_full_disk_is_the_packing_s_failure(tree: Path) -> None:
    write(tree, "a")
    with pytest.raises(FileNotFoundError):
        pack(str(tree), str(tree.parent / "absent"), "app")
    with pytest.raises(FileNotFoundError):
        pack(str(tree / "absent"), str(tree.parent / "out"), "app")
    assert os.listdir(tree.parent / "out") == []


# Limits


def test_too_many_bytes(tree: Path) -> None:
    for index in range(7):
        with open(tree / f"f{index}", "wb") as file:
            file.truncate((index + 1) << 20)
    assert packed(tree, limit=28 << 20).files == 8
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
    assert package_module.DEFAULT_MAX_FILES == 100_000
    monkeypatch.setattr(package_module, "DEFAULT_MAX_FILES", 10)
    write(tree, *(f"f{index:02}" for index in range(11)))
    message = refused(FlameErrorCode.INVALID_ARGUMENT, lambda: packed(tree))
    assert "more than 10 files" in message
    assert "package.limit" in message
    assert len(names(packed(tree, limit=600 << 20))) == 11
    refused(FlameErrorCode.INVALID_ARGUMENT, lambda: packed(tree, limit=1 << 20))


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
