"""The data directory in places of no use: each is named with its cause, and a temporary one serves where none was named.

Processes of another user, with file systems of their own, look at real directories.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flame_fast import FlameError, FlameErrorCode, config

#: A user without an entry in the password database.
USER = 54321

PROGRAM = """
import sys, warnings
from flame_fast import FlameError, Runner
from flame_fast.config import home_directory
try:
    with Runner("app", workers=1) as rr:
        print(rr.service(abs)(-1).get(20), home_directory())
except FlameError as error:
    print(error.code.name, error.message)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, and mount")


class Place:
    """Directories of another user: a home, a project that is the current one, and one for temporary files."""

    def __init__(self, path: Path) -> None:
        path.chmod(0o755)  # the user looks through it
        self.path = path
        self.user, self.project, self.temporary = path / "user", path / "project", path / "temporary"
        for directory in (self.user, self.project, self.temporary):
            self.make(directory)

    def make(self, directory: Path, owner: int = USER, mode: int = 0o700) -> Path:
        directory.mkdir(parents=True)
        directory.chmod(mode)
        os.chown(directory, owner, owner)
        return directory

    def run(self, program: str = PROGRAM, *, before: Callable[[], None] | None = None, **settings: str | None) -> str:
        """Run a program as the user, or as root after `before`; return what it prints, and keep its warnings."""
        changed = {"HOME": str(self.user), "TMPDIR": str(self.temporary), "FLAME_FAST_HOME": None, **settings}
        environment = {**os.environ, **{name: value for name, value in changed.items() if value is not None}}
        for name in [name for name, value in changed.items() if value is None]:
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=before or become_user,
        )
        assert done.returncode == 0, done.stderr
        self.warnings = [line for line in done.stderr.splitlines() if "Warning: " in line]
        assert bool(self.warnings) == bool(done.stderr), done.stderr
        return done.stdout

    def serves_temporarily(self, printed: str, *told: str) -> None:
        """Check that the temporary directory served, and that one warning says why."""
        temporary = self.temporary / f"flame_fast-{os.stat(self.temporary).st_uid}"
        assert printed == f"1 {temporary}\n"
        assert temporary.stat().st_mode & 0o777 == 0o700
        (warning,) = self.warnings
        for text in (repr(str(temporary)), "$FLAME_FAST_HOME", *told):
            assert text in warning
        assert list(self.project.iterdir()) == []


def become_user() -> None:
    """Become the user, who may read everything, since the interpreter may lie where only root looks, but write as any other.

    That one capability is kept, and made ambient: the program that is started next has it as well.
    """
    keep_capabilities, ambient, raising, reading = 8, 47, 2, 2
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(keep_capabilities, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(*[1 << reading] * 3, 0, 0, 0)
    if libc.capset(header, effective_permitted_inheritable) or libc.prctl(ambient, raising, reading, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot keep the capability to read")


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir="/tmp") as path:  # the user cannot enter pytest's
        yield Place(Path(path))


# ---- another user --------------------------------------------------------------------------------------------------------


@needs_root
def test_a_directory_that_root_has_made_is_named(place: Place) -> None:
    home = place.make(place.path / "data", owner=0)
    printed = place.run(FLAME_FAST_HOME=str(home))
    assert printed.startswith(f"INVALID_CONFIG cannot use the data directory {str(home)!r} (named by $FLAME_FAST_HOME): ")
    for text in ("belongs to root", "set $FLAME_FAST_HOME to another directory, or run as root: "):
        assert text in printed
    subprocess.run(printed.partition("run as root: ")[2], shell=True, check=True)
    assert place.run(FLAME_FAST_HOME=str(home)) == f"1 {home}\n"


@needs_root
def test_a_file_that_root_has_made_in_the_directory_is_named(place: Place) -> None:
    home = place.user / ".local" / "share" / "flame_fast"
    assert place.run() == f"1 {home}\n"
    assert place.warnings == []
    (home / "dangling").symlink_to("nowhere")
    assert place.run() == f"1 {home}\n"
    os.chown(home / "registry.db", 0, 0)
    printed = place.run(FLAME_FAST_HOME=str(home))
    assert "'registry.db' in it belongs to root" in printed
    subprocess.run(printed.partition("run as root: ")[2], shell=True, check=True)
    assert place.run() == f"1 {home}\n"
    shutil.rmtree(home)
    place.make(home, owner=0)
    place.serves_temporarily(place.run(), "belongs to root", f"chown -R {USER}")


@needs_root
def test_a_directory_without_the_right_to_write_is_named(place: Place) -> None:
    home = place.make(place.path / "data", mode=0o500)
    printed = place.run(FLAME_FAST_HOME=str(home))
    assert f"you may not write to {str(home)!r} (mode 500)" in printed
    subprocess.run(printed.partition("or run: ")[2], shell=True, check=True)
    assert place.run(FLAME_FAST_HOME=str(home)) == f"1 {home}\n"
    above = place.make(place.path / "above", owner=0, mode=0o755)
    printed = place.run(FLAME_FAST_HOME=str(above / "data"))
    assert f"cannot make the data directory {str(above / 'data')!r} (named by $FLAME_FAST_HOME): Permission" in printed


@needs_root
def test_without_a_home_directory_a_temporary_one_serves(place: Place) -> None:
    place.serves_temporarily(place.run(HOME=None), f"HOME is not set, and user {USER} has no entry")
    place.serves_temporarily(place.run(HOME=""), "HOME is '', which is no absolute path")
    place.serves_temporarily(place.run(HOME="home"), "HOME is 'home'")
    place.serves_temporarily(place.run(HOME="/nowhere"), "cannot make", "Permission denied")


@needs_root
def test_the_temporary_directory_is_this_user_s_alone(place: Place) -> None:
    """Somebody else has made one by that name, or a link: the next place is taken, here none."""
    temporary = place.temporary / f"flame_fast-{USER}"
    elsewhere = place.make(place.path / "elsewhere")
    program = PROGRAM.replace("import sys", "import os, sys").replace(
        "try:", "import flame_fast.config as c; c.SPARE = (os.environ['TMPDIR'],)\ntry:"
    )
    temporary.symlink_to(elsewhere)
    assert "INVALID_CONFIG cannot find the data directory" in place.run(program, HOME=None)
    assert list(elsewhere.iterdir()) == []
    temporary.unlink()
    place.make(temporary, owner=USER + 1, mode=0o777)
    assert "INVALID_CONFIG cannot find the data directory" in place.run(program, HOME=None)
    assert list(temporary.iterdir()) == []


def test_the_warning_points_at_the_user_s_line_and_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAME_FAST_HOME")
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(config, "_told", set())
    with pytest.warns(UserWarning, match="keeps its data in") as caught:
        first, second = config.data_home(), config.data_home()
    assert first == second == tmp_path / f"flame_fast-{os.geteuid()}"
    assert [warning.filename for warning in caught] == [__file__]


# ---- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("$HOME/x", "whose variable no shell has replaced"),
        ("${HOME}/x", "whose variable no shell has replaced"),
        ("/data/$USER", "whose variable no shell has replaced"),
        ("~nobody-here/x", "'~nobody-here' is nobody's home directory here"),
        ("~nobody-here", "'~nobody-here' is nobody's home directory here"),
    ],
)
def test_what_a_shell_should_have_replaced_makes_no_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch, named: str, told: str
) -> None:
    monkeypatch.setenv("FLAME_FAST_HOME", named)
    with pytest.raises(FlameError, match=r"\$FLAME_FAST_HOME: expected a directory, got ") as caught:
        config.data_home()
    assert caught.value.code is FlameErrorCode.INVALID_CONFIG
    assert repr(named) in caught.value.message and told in caught.value.message
    assert list(project.iterdir()) == []


def test_a_tilde_stands_for_the_home_directory_and_a_dollar_may_be_in_a_name(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAME_FAST_HOME", "~/data")
    assert config.data_home() == tmp_path / "data"
    for name in ("5$", "$there"):
        (tmp_path / "$there").mkdir(exist_ok=True)
        monkeypatch.setenv("FLAME_FAST_HOME", str(tmp_path / name))
        assert config.data_home() == tmp_path / name


def test_a_relative_directory_needs_the_current_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_FAST_HOME", "data")
    (project / "gone").mkdir()
    monkeypatch.chdir(project / "gone")
    (project / "gone").rmdir()
    with pytest.raises(FlameError, match=r"\$FLAME_FAST_HOME: 'data' is relative .* write an absolute path"):
        config.data_home()


def test_what_is_no_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name, told in (("file", "it is no directory"), ("dangling", "it is no directory"), ("loop", "symbolic links")):
        monkeypatch.setenv("FLAME_FAST_HOME", str(tmp_path / name))
        with pytest.raises(FlameError, match=rf"cannot make the data directory .*{told}.*; set \$FLAME_FAST_HOME"):
            config.data_home()


# ---- file systems --------------------------------------------------------------------------------------------------------

RDONLY, NOEXEC, REMOUNT = 1, 8, 32
OWN_MOUNTS, PRIVATE = 0x20000, 0x44000


def mounting(where: Path, options: str, flags: int = 0, fill: bool = False) -> Callable[[], None]:
    """Return what mounts a file system of its own for a process."""

    def mount() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        steps = [
            lambda: libc.unshare(OWN_MOUNTS),
            lambda: libc.mount(None, b"/", None, PRIVATE, None),
            lambda: libc.mount(b"none", os.fsencode(where), b"tmpfs", flags, f"mode=700,{options}".encode()),
        ]
        for step in steps:
            if step():
                raise OSError(ctypes.get_errno(), "cannot mount")
        if fill:
            with open(where / "filling", "wb", buffering=0) as file:
                try:
                    while file.write(b"x" * 4096):
                        pass
                except OSError:
                    pass

    return mount


@pytest.fixture
def mounts(place: Place, tmp_path: Path) -> Place:
    """Return a place where root can mount; all in it is root's."""
    try:
        subprocess.run(["/bin/true"], check=True, preexec_fn=mounting(tmp_path, "size=1m"))
    except (subprocess.SubprocessError, OSError):
        pytest.skip("this needs a file system of its own, which not everybody may mount")
    for directory in (place.user, place.project, place.temporary):
        os.chown(directory, 0, 0)
    return place


@needs_root
@pytest.mark.parametrize(
    ("options", "flags", "fill", "told"),
    [
        ("size=1m", RDONLY, False, "file system that may only be read"),
        ("size=64k", 0, True, "its file system is full"),
        ("size=1m,nr_inodes=1", 0, False, "its file system has no room for another file"),
    ],
)
def test_a_file_system_of_no_use_is_named(mounts: Place, options: str, flags: int, fill: bool, told: str) -> None:
    home = mounts.user / ".local" / "share" / "flame_fast"
    home.mkdir(parents=True)
    before = mounting(home, options, flags, fill)
    printed = mounts.run(before=before, FLAME_FAST_HOME=str(home))
    assert printed.startswith(f"INVALID_CONFIG cannot use the data directory {str(home)!r} (named by $FLAME_FAST_HOME): ")
    assert told in printed and "; set $FLAME_FAST_HOME to another directory" in printed
    mounts.serves_temporarily(mounts.run(before=before), repr(str(home)), told)


@needs_root
@pytest.mark.parametrize("size", ["8k", "20k", "60k", "120k"])
def test_a_file_system_that_fills_up_is_named(mounts: Place, size: str) -> None:
    home = mounts.path / "data"
    home.mkdir()
    (mounts.project / "large.bin").write_bytes(os.urandom(1 << 20))
    printed = mounts.run(before=mounting(home, f"size={size}"), FLAME_FAST_HOME=str(home))
    assert printed.startswith(("INTERNAL", "INVALID_CONFIG"))
    assert str(home) in printed and "$FLAME_FAST_HOME" in printed


@needs_root
def test_a_file_system_without_programs_matters_to_compiled_modules_alone(mounts: Place) -> None:
    home = mounts.path / "data"
    home.mkdir()
    before = mounting(home, "size=8m", NOEXEC)
    assert mounts.run(before=before, FLAME_FAST_HOME=str(home)) == f"1 {home}\n"
    (mounts.project / "inner").mkdir()
    (mounts.project / "inner" / "fast.so").write_bytes(b"compiled")
    printed = mounts.run(before=before, FLAME_FAST_HOME=str(home))
    for text in ("INVALID_CONFIG", "'inner/fast.so'", repr(str(home)), "noexec", "set $FLAME_FAST_HOME"):
        assert text in printed
    unpackaged = PROGRAM.replace("workers=1", "workers=1, package=False")
    assert mounts.run(unpackaged, before=before, FLAME_FAST_HOME=str(home)) == f"1 {home}\n"
    (mounts.project / ".flameignore").write_text("*.so\n")
    assert mounts.run(before=before, FLAME_FAST_HOME=str(home)) == f"1 {home}\n"
