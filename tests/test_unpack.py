"""Unpacked trees and the workers' import path (API.md, Packaging)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flame_fast.unpack import ensure_unpacked, place_sys_path, split_sys_path
from gates import in_child, passes_in_child

from flame_fast import unpack
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package import PackageInfo, pack


def end_uses() -> None:
    """As if the process that used its trees had ended."""
    for descriptor in unpack._held.values():
        os.close(descriptor)
    unpack._held.clear()


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
def package(tmp_path: Path) -> PackageInfo:
    project = tmp_path / "project"
    (project / "sub").mkdir(parents=True)
    (project / "main.py").write_text("value = 1\n")
    (project / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (project / "sub" / "run.sh").chmod(0o755)
    (project / "link").symlink_to("sub/run.sh")
    return pack(str(project), str(tmp_path), "app")


def crafted(path: Path, *members: tuple[str, object]) -> tuple[str, str]:
    """An archive of anything at all, with its right digest."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    path.write_bytes(gzip.compress(raw.getvalue()))
    return str(path), hashlib.sha256(raw.getvalue()).hexdigest()[:32]


def refused(code: FlameErrorCode, *args: str) -> str:
    with pytest.raises(FlameError) as caught:
        ensure_unpacked(*args)
    assert caught.value.code == code
    return caught.value.message


def test_a_package_is_unpacked_as_it_was(package: PackageInfo, home: str) -> None:
    tree = Path(ensure_unpacked(package.path, package.digest, home))
    assert tree == Path(home, "unpacked", package.digest)
    assert (tree / "main.py").read_text() == "value = 1\n"
    assert stat.S_IMODE((tree / "main.py").stat().st_mode) == 0o644
    assert stat.S_IMODE((tree / "sub" / "run.sh").stat().st_mode) == 0o755
    assert os.readlink(tree / "link") == "sub/run.sh"
    assert stat.S_IMODE(tree.stat().st_mode) == stat.S_IMODE(tree.parent.stat().st_mode) == 0o700


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


def change(tree: Path) -> None:
    (tree / "main.py").write_text("value = 2\n")  # of the same size


def unfinish(tree: Path) -> None:
    os.unlink(f"{tree}.manifest")


def cut(tree: Path) -> None:
    os.truncate(f"{tree}.manifest", 10)


def unlink(tree: Path) -> None:
    (tree / "link").unlink()


def empty(tree: Path) -> None:
    os.rename(tree, f"{tree}-away")


@pytest.mark.parametrize("damage", [remove, truncate, change, unfinish, cut, unlink, empty])
def test_a_damaged_tree_is_rebuilt(package: PackageInfo, home: str, damage: Callable[[Path], None]) -> None:
    tree = Path(ensure_unpacked(package.path, package.digest, home))
    damage(tree)
    assert ensure_unpacked(package.path, package.digest, home) == str(tree)
    assert (tree / "main.py").read_text() == "value = 1\n"
    assert (tree / "link").read_text() == (tree / "sub" / "run.sh").read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("../out", b"x", "member '../out' leads out"),
        ("a/../../out", b"x", "leads out"),
        ("/tmp/out", b"x", "leads out"),
        ("link", (tarfile.SYMTYPE, "../out"), "link 'link' leads out of the package, to '../out'"),
        ("link", (tarfile.SYMTYPE, "/etc/passwd"), "link 'link' leads out"),
        ("hard", (tarfile.LNKTYPE, "/etc/passwd"), "neither file, directory nor symbolic link"),
        ("fifo", (tarfile.FIFOTYPE, ""), "neither file, directory nor symbolic link"),
        ("device", (tarfile.CHRTYPE, ""), "neither file, directory nor symbolic link"),
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, home: str, name: str, content: object, expected: str) -> None:
    path, digest = crafted(tmp_path / "a.tar.gz", ("good", b"x"), (name, content))
    message = refused(FlameErrorCode.INTERNAL, path, digest, home)
    assert path in message
    assert expected in message
    left = [entry for entry in os.listdir(os.path.join(home, "unpacked")) if not entry.endswith(".lock")]
    assert left == []


@pytest.mark.parametrize(
    "members",
    [
        [("d", (tarfile.SYMTYPE, "/tmp")), ("d/out", b"x")],
        [("d/out", b"x"), ("d", (tarfile.SYMTYPE, "/tmp"))],
        [("d", (tarfile.SYMTYPE, ".")), ("e", (tarfile.SYMTYPE, "d/d/../.."))],
        [("a", b"x"), ("a", b"y")],
        [("a", b"x"), ("a/b", b"y")],
    ],
)
def test_links_and_names_cannot_be_played_against_each_other(
    tmp_path: Path, home: str, members: list[tuple[str, object]]
) -> None:
    path, digest = crafted(tmp_path / "a.tar.gz", *members)
    with pytest.raises((FlameError, NotADirectoryError)):
        ensure_unpacked(path, digest, home)
    assert not os.path.exists(os.path.join(home, "unpacked", digest))


def test_a_damaged_archive_is_refused(package: PackageInfo, home: str) -> None:
    whole = Path(package.path).read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 9):
        Path(package.path).write_bytes(whole[:size])
        assert "is damaged" in refused(FlameErrorCode.INTERNAL, package.path, package.digest, home)
    Path(package.path).write_bytes(whole)
    assert "has the digest" in refused(FlameErrorCode.INTERNAL, package.path, "0" * 32, home)
    message = refused(FlameErrorCode.NOT_FOUND, package.path + ".gone", package.digest, home)
    assert package.path + ".gone" in message
    refused(FlameErrorCode.INVALID_ARGUMENT, package.path, "../../x", home)
    ensure_unpacked(package.path, package.digest, home)


def test_many_processes_unpack_at_once(package: PackageInfo, home: str) -> None:
    code = """
import os, sys
from flame_fast.unpack import ensure_unpacked
sys.stdin.read(1)
tree = ensure_unpacked(*sys.argv[1:])
assert open(os.path.join(tree, "main.py")).read() == "value = 1\\n"
"""
    command = [sys.executable, "-c", code, package.path, package.digest, home]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(6)]
    for process in running:
        process.stdin.write(b"x")
        process.stdin.close()
    assert [process.wait() for process in running] == [0] * 6
    entries = sorted(os.listdir(os.path.join(home, "unpacked")))
    assert entries == [".lock", package.digest, f"{package.digest}.lock", f"{package.digest}.manifest"]


def test_a_build_cut_off_leaves_nothing_for_long(tmp_path: Path, package: PackageInfo, home: str) -> None:
    def cut_off(function: str) -> None:
        setattr(unpack, function, lambda *args: os.kill(os.getpid(), 9))
        ensure_unpacked(package.path, package.digest, home)

    # The tree in its place but unfinished; and a build begun.
    for function in ("_write_manifest", "_extract_members"):
        assert not passes_in_child(lambda function=function: cut_off(function))
    cache = os.path.join(home, "unpacked")
    assert [name for name in os.listdir(cache) if name.startswith(f".{package.digest}")]
    tree = Path(ensure_unpacked(package.path, package.digest, home))
    assert (tree / "main.py").read_text() == "value = 1\n"
    assert sorted(os.listdir(cache)) == [".lock", tree.name, f"{tree.name}.lock", f"{tree.name}.manifest"]


def test_the_trees_used_least_recently_go_but_never_one_in_use(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "KEPT", 3)
    archives = [crafted(tmp_path / f"{i}.tar.gz", ("number", str(i).encode())) for i in range(6)]
    reader, ready = os.pipe()
    leave, told = os.pipe()

    def use_until_told() -> None:
        os.close(told)
        ensure_unpacked(*archives[0], home)
        os.write(ready, b"x")
        os.read(leave, 1)

    pid = in_child(use_until_told)
    os.read(reader, 1)
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
    for descriptor in (told, leave, ready, reader):
        os.close(descriptor)
    os.waitpid(pid, 0)
    use(5)
    assert there() == [1, 4, 5]


def test_a_tree_stays_while_what_was_forked_from_its_user_lives(tmp_path: Path, home: str) -> None:
    """Workers are forked from a process that may have unpacked, and ended, before them."""
    import fcntl

    path, digest = crafted(tmp_path / "a.tar.gz", ("a", b"x"))
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


# The import path


@pytest.fixture
def project(tmp_path: Path) -> tuple[str, PackageInfo]:
    project = tmp_path / "project"
    for path in ("examples/pi/pi.py", "src/a.py", ".venv/lib/site-packages/b.py", "data/c.py", "lib.zip"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).touch()
    (project / "inside").symlink_to("src")
    (tmp_path / "outside").symlink_to(project)
    return str(project), pack(str(project), str(tmp_path), "app", excludes=["/data"])


def test_entries_inside_the_directory_move_and_the_others_stay(
    project: tuple[str, PackageInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, package = project
    monkeypatch.chdir("/")  # the directory that was packaged counts, not the current one
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
    expected = [entry if moved is None else moved for entry, moved in given_and_expected]
    assert place_sys_path(split_sys_path(given, directory, package.holds), "/tree") == expected


def test_what_is_no_text_is_passed_over(project: tuple[str, PackageInfo]) -> None:
    directory, package = project
    assert place_sys_path(split_sys_path([Path(directory), b"x", ""], directory, package.holds), "/tree") == ["/tree"]


def test_a_worker_imports_as_a_plan_says(project: tuple[str, PackageInfo], home: str) -> None:
    directory, package = project
    parts = unpack.split_sys_path(["", "/outside"], directory, package.holds)
    plan = {"archive": package.path, "digest": package.digest, "home": home, "sys_path": parts}
    plan = json.loads(json.dumps(plan))
    code = (
        "import sys, json; from flame_fast import unpack; print(unpack.prepare(json.loads(sys.argv[1]))); print(*sys.path)"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(plan)], capture_output=True, text=True)
    tree = os.path.join(home, "unpacked", package.digest)
    assert (done.stdout, done.stderr) == (f"{tree}\n{tree} /outside\n", "")
