"""`python -m flame_fast package` and `explain`: what is in a package, and why something is not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from flame_fast.kernels import archive
from gates import passes_in_child
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flame_fast.cli import main
from flame_fast.package import explain, pack, packing, stored_index
from flame_fast.package.gitignore import IgnoreRules, split_lines
from flame_fast.package.snapshot import rule_for

pytestmark = pytest.mark.filterwarnings("error")

KEY = "-----BEGIN EC PRIVATE KEY-----\n"
HOUR_NS = 3600 * 10**9


def write(root: Path, sizes: dict[str, int]) -> None:
    """Files of so many bytes."""
    for name, size in sizes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))


def configure(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Write a configuration whose `package` says this."""
    (tmp_path / "flame.yaml").write_text(f"current-context: a\ncontexts:\n  - name: a\n    package: {text}\n")
    monkeypatch.setenv("FLAME_CONF", str(tmp_path / "flame.yaml"))


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flame_fast", *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", env={**os.environ, **settings})


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return the output of a command that succeeds and does not complain."""

    def say(*arguments: str) -> str:
        assert main(["package", *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return say


# As a user runs it


def test_the_report_of_the_current_directory(project: Path) -> None:
    write(project, {"a.py": 3, "sub/b.bin": 20_000, "sub/c.py": 0, "build/x": 5, ".env": 1})
    (project / ".flameignore").write_text("build/\n")
    done = run("package")
    assert (done.returncode, done.stderr) == (0, "")
    info = explain()
    assert done.stdout.splitlines() == [
        f"{project}: 5 files, {info.size:,} bytes, {info.compressed:,} compressed",
        "",
        "the largest, and the rules that would leave them out:",
        "           20,000  sub/b.bin    /sub/b.bin",
        "                7  .flameignore    /.flameignore",
        "                3  a.py    /a.py",
        "                0  sub/c.py    /sub/c.py",
        "",
        "left out:",
        "  .env    looks like a secret, by the rule '.env' (built in)",
        "  build    by the rule 'build/' (.flameignore, line 1)",
    ]


def test_a_directory_that_is_none_is_told_in_one_line(project: Path) -> None:
    done = run("package", "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"flame_fast: [Errno 2] No such file or directory: '{project}/nowhere'\n"


@pytest.mark.parametrize("arguments", [(), ("pack",), ("package", "a", "b"), ("package", "--who", "x")])
def test_arguments_that_make_no_sense_are_answered_with_the_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m flame_fast" in capsys.readouterr().err


def test_an_unknown_command_ends_with_status_2() -> None:
    done = run("pack")
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice: 'pack'" in done.stderr


def test_names_that_no_terminal_takes_are_quoted(project: Path) -> None:
    project = project / os.fsdecode(b"in\xff")
    project.mkdir()
    for name in (b"bad\xff", b"new\nline", "é".encode()):
        (project / os.fsdecode(name)).write_text("x")
    done = run("package", str(project), PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(repr(str(project)) + ": 4 files")
    assert "                1  'bad\\udcff'    '/bad\\udcff'" in lines
    assert "                1  é    /é" in lines
    assert sum("'new\\nline'" in line for line in lines) == 1
    done = run("package", str(project), "--list", "--why", "../out", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_has_seen_enough_is_no_error(project: Path, unbuffered: str) -> None:
    """As in `... --list | head -1`."""
    write(project, {"a.py": 1})
    seen, told = os.pipe()
    os.close(seen)
    command = [sys.executable, "-m", "flame_fast", "package", "--list"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=told, stderr=subprocess.PIPE, env=environment)
    os.close(told)
    assert (done.returncode, done.stderr) == (1, b"")


# Listing and writing


def test_the_list_holds_every_member_with_its_size(project: Path, said: Callable[..., str]) -> None:
    write(project, {"a.py": 1234567, "sub/empty/x.pyc": 1, "setup.py": 0})
    (project / "link").symlink_to("a.py")
    assert said("--list").splitlines() == [
        "      1,234,567  a.py",
        "              0  link",
        "              0  setup.py",
        "              0  sub/",
        "              0  sub/empty/",
    ]


def test_another_directory_may_be_named(project: Path, said: Callable[..., str]) -> None:
    write(project, {"sub/a.py": 1, "sub/setup.py": 0, "b.py": 1})
    assert said("sub", "--list").split() == ["1", "a.py", "0", "setup.py"]
    assert said("sub", "--why", "a.py", "--why", "sub/a.py", "--why", "b.py").splitlines() == [
        "a.py is in the package",
        "a.py is in the package",
        f"../b.py is outside of {project}/sub",
    ]


@pytest.mark.parametrize("output", ["here.tar.gz", "there"])
def test_the_package_is_written_to_a_file_or_into_a_directory(
    project: Path, tmp_path: Path, said: Callable[..., str], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, {"a.py": 1, "b.bin": 5, "setup.py": 0})
    configure("{excludes: ['*.bin']}", monkeypatch, tmp_path)
    (tmp_path / "there").mkdir()
    out = said("-o", str(tmp_path / output))
    (written,) = tmp_path.rglob("*.gz")
    size = written.stat().st_size
    assert out == f"{written}: 2 files, 1 bytes, {size:,} compressed\n"
    assert (written.name == "here.tar.gz") == (output == "here.tar.gz")
    assert (written.parent.name == "there") == (output == "there")
    with tarfile.open(written) as file:
        assert file.getnames() == ["a.py", "setup.py"]
    assert written.read_bytes() == Path(pack(project, tmp_path, excludes=["*.bin"]).path).read_bytes()


def test_what_the_package_lacks_is_warned_of_where_it_is_written(project: Path, tmp_path: Path) -> None:
    write(project, {".env": 1})
    with pytest.warns(UserWarning, match="look like secrets: .env;"):
        assert main(["package", "-o", str(tmp_path)]) == 0


def test_a_place_that_is_none_is_told_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", "-o", "nowhere/x.tar.gz"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flame_fast: [Errno 2] No such file or directory: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda project: (project / ".flameignore").mkdir(), "cannot read the ignore file"),
        (lambda project: os.environ.update(FLAME_CONF="none.yaml"), "cannot read the configuration file 'none.yaml'"),
    ],
)
def test_settings_that_cannot_be_read_are_told_in_one_line(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Path], None],
    message: str,
) -> None:
    monkeypatch.setenv("FLAME_CONF", "")
    break_it(project)
    assert main(["package"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"flame_fast: {message}")


# Above a limit


def test_a_directory_above_the_limit_is_explained_and_refused(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, {"a.bin": 600, "b.bin": 500, "c.py": 1, "setup.py": 0})
    configure("{limit: 1000}", monkeypatch, tmp_path)
    assert main(["package"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"{project}: 4 files, 1,101 bytes"
    assert lines[2].startswith("refused: ") and "1,101 bytes in 4 files, above the limit of 1,000 bytes" in lines[2]
    assert "              600  a.bin    /a.bin" in lines
    assert main(["package", "--list"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert err == f"flame_fast: {lines[2]}\n"
    assert main(["package", "--why", "a.bin"]) == 0
    assert capsys.readouterr().out == "a.bin is in the package\n"
    assert main(["package", "-o", str(tmp_path / "x.tar.gz")]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"flame_fast: {lines[2].removeprefix('refused: ')}\n")
    assert not (tmp_path / "x.tar.gz").exists()
    (project / ".flameignore").write_text(explain().largest(1)[0][2])
    assert main(["package"]) == 0


def test_too_many_files_are_counted_to_the_last(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a packing ends at the first that is too many."""
    monkeypatch.setattr(packing, "most_files_for", lambda limit: 3)
    write(project, {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1})
    found = explain()
    assert (found.files, found.compressed) == (6, None)
    assert [path for path, _, _ in found.members] == ["a", "b", "c", "d", "e", "pyproject.toml"]
    assert "would hold more than 3 files" in found.problem


# Why


def test_every_reason_has_its_answer(
    project: Path, nothing_left: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        project,
        {
            "a.py": 1,
            "sub/b.py": 1,
            "build/deep/x": 1,
            "x.log": 1,
            "y.tmp": 1,
            "m.pyc": 1,
            ".env": 1,
            "data/x": 1,
            "keep.tmp": 1,
        },
    )
    write(project, {"env39/pyvenv.cfg": 1, "env39/lib/x.py": 1})
    (project / "key.pem").write_text(KEY)
    (project / "cert.pem").write_text("a certificate")
    (project / ".flameignore").write_text("# generated\nbuild/\n\n*.log\n!keep.tmp\n")
    configure("{excludes: ['*.tmp', /data]}", monkeypatch, tmp_path)
    (project / "in").symlink_to("sub")
    (project / "out").symlink_to("/etc")
    os.mkfifo(project / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind("socket")
    home = project / "home"
    home.mkdir()
    monkeypatch.setenv("FLAME_FAST_HOME", str(home))
    answers = {
        "a.py": "is in the package",
        "./sub//b.py": "is in the package",
        str(project / "sub"): "is in the package",
        ".": "is in the package",
        "in": "is in the package",
        "cert.pem": "is in the package",
        "keep.tmp": "is in the package",
        "pyproject.toml": "is in the package",
        "build": "is left out: by the rule 'build/' (.flameignore, line 2)",
        "build/deep/x": "is left out, for build is: by the rule 'build/' (.flameignore, line 2)",
        "x.log": "is left out: by the rule '*.log' (.flameignore, line 4)",
        "y.tmp": "is left out: by the rule '*.tmp' (package.excludes)",
        "data/x": "is left out, for data is: by the rule '/data' (package.excludes)",
        "m.pyc": "is left out: by the rule '*.pyc' (built in)",
        ".env": "is left out: looks like a secret, by the rule '.env' (built in)",
        "key.pem": "is left out: looks like a secret: there is a private key or a token in it",
        "fifo": "is left out: a socket, fifo or device",
        "socket": "is left out: a socket, fifo or device",
        "out": "is left out: a link that points out of the directory",
        "out/passwd": "is left out, for out is: a link that points out of the directory",
        "env39": "is left out: a virtual environment: there is a pyvenv.cfg or conda-meta in it",
        "env39/lib/x.py": "is left out, for env39 is: a virtual environment: there is a pyvenv.cfg or conda-meta in it",
        "home": "is left out: a directory of flame_fast's, or of this Python's packages",
        "nowhere": "is not there",
        "buildings/x": "is not there",
        "sub/nowhere": "is not there",
        "..": f"is outside of {project}",
        "/etc/passwd": f"is outside of {project}",
    }
    lines = said(*(argument for path in answers for argument in ("--why", path))).splitlines()
    assert lines == [f"{os.path.relpath(path)} {answer}" for path, answer in answers.items()]
    report = said()
    for path in ("build", "x.log", "y.tmp", "m.pyc", ".env", "key.pem", "fifo", "out", "env39", "home"):
        assert f"\n  {path}    {answers[path].removeprefix('is left out: ')}\n" in f"{report}\n"


def give_up_privileges() -> None:
    """From now on even root may not read what a file's mode keeps from its owner."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, myself = 0x20080522, 0
    assert libc.capset((ctypes.c_uint32 * 2)(version_3, myself), (ctypes.c_uint32 * 6)()) == 0


def test_what_cannot_be_read_is_not_in_the_package(project: Path) -> None:
    write(project, {"a.py": 1, "b.py": 10, "setup.py": 0, "sub/c.py": 100})
    (project / "b.py").chmod(0)
    (project / "sub").chmod(0)

    def look() -> None:
        give_up_privileges()
        found = explain()
        assert found.why("b.py") == "b.py is left out: it cannot be read"
        assert found.why("sub/c.py") == "sub/c.py is left out, for sub is: it cannot be read"
        assert (found.files, found.size) == (2, 1)
        assert found.members == [("a.py", "file", 1), ("setup.py", "file", 0)]
        assert [path for path, _, _ in found.largest()] == ["a.py", "setup.py"]

    assert passes_in_child(look)
    (project / "sub").chmod(0o700)


def test_an_excluded_directory_is_not_entered(project: Path) -> None:
    """The walk does not meet its content, however large."""
    write(project, {"a.py": 1, "node/modules/b/c": 1, "out/x": 1})
    (project / ".flameignore").write_text("/node\n/out\n!/out/x\n")
    entered = []
    watch = ctypes.CDLL(None).inotify_init1(os.O_NONBLOCK)
    opens = 0x20
    for name in ("node", "out"):
        assert ctypes.CDLL(None).inotify_add_watch(watch, os.fsencode(project / name), opens) > 0
    try:
        found = explain()
        with contextlib.suppress(BlockingIOError):
            entered.append(os.read(watch, 4096))
        assert os.listdir(project / "out") == ["x"]
        assert os.read(watch, 4096)  # that would have been seen
    finally:
        os.close(watch)
    assert entered == []
    assert [path for path, _ in found.excluded] == ["node", "out"]


# The explanation itself


def test_an_explanation_says_what_a_packing_would(project: Path, tmp_path: Path) -> None:
    write(project, {"a.py": 10, "sub/b.py": 300, "sub/x.pyc": 1, "empty/x.pyc": 1})
    (project / "link").symlink_to("sub")
    found = explain(project, excludes=["/a.*"])
    info = pack(project, tmp_path, excludes=["/a.*"])
    assert (found.directory, found.problem) == (str(project), "")
    assert (found.files, found.size, found.compressed) == (info.files, info.size, info.compressed)
    generated = info.size - 300
    assert found.members == [
        ("empty", "directory", 0),
        ("link", "link", 0),
        ("pyproject.toml", "file", generated),
        ("sub", "directory", 0),
        ("sub/b.py", "file", 300),
    ]
    assert found.excluded == [
        ("a.py", "by the rule '/a.*' (package.excludes)"),
        ("empty/x.pyc", "by the rule '*.pyc' (built in)"),
        ("sub/x.pyc", "by the rule '*.pyc' (built in)"),
    ]
    assert found.largest() == [("sub/b.py", 300, "/sub/b.py")]  # the other one is nobody's to leave out
    assert repr(found) == (
        f"Explanation(directory={str(project)!r}, files={info.files}, size={info.size}, compressed={info.compressed})"
    )


def test_the_largest_come_first_and_no_more_than_asked_for(project: Path) -> None:
    write(project, {f"f{number:02d}": number for number in range(20)} | {"big": 1000})
    found = explain()
    assert [size for _, size, _ in found.largest()] == [1000, *range(19, 10, -1)]
    assert found.largest(1) == [("big", 1000, "/big")]


def test_arguments_go_before_the_configuration(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: Path
) -> None:
    write(project, {"a": 1, "b": 1, "setup.py": 0})
    configure("{excludes: [a], limit: 1}", monkeypatch, tmp_path)
    assert [path for path, _, _ in explain().members] == ["b", "setup.py"]
    assert [path for path, _, _ in explain(excludes=["b"]).members] == ["a", "setup.py"]
    assert "above the limit of 1 bytes" in explain(excludes=()).problem
    assert explain(excludes=(), limit=2).problem == ""
    assert "above the limit of 0 bytes" in explain(limit=0).problem
    explain(home=str(tmp_path / "elsewhere"))
    assert list((tmp_path / "elsewhere" / "packed").glob("*.index"))


def test_the_storage_of_the_configuration_is_never_packaged(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[..., str]
) -> None:
    write(project, {"a": 1, "packages/old.gz": 1})
    configure(f"{{storage: 'file://{project}/packages'}}", monkeypatch, tmp_path)
    assert "packages is left out: a directory of flame_fast's" in said("--why", "packages")
    with tarfile.open(said("-o", str(tmp_path)).partition(":")[0]) as file:
        assert file.getnames() == ["a", "pyproject.toml"]


def test_the_package_stays_for_the_next_runner(
    project: Path, nothing_left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_index, "RACY_NS", -HOUR_NS)  # as if the file had been there for long
    write(project, {"a.py": 1, "setup.py": 0})
    found = explain()
    (kept,) = (nothing_left / "packed").glob("*.tar.gz")

    def fail(*_: object) -> None:
        raise AssertionError("it is packed again")

    monkeypatch.setattr(archive, "plan_blocks", fail)
    info = pack(project, tmp_path, name="whatever it is called")
    assert os.stat(info.path).st_ino == kept.stat().st_ino
    assert info.compressed == found.compressed
    explain()
    assert {path.name for path in nothing_left.iterdir()} == {"packed"}  # nothing else is left of it


odd_names = st.one_of(
    st.lists(
        st.sampled_from([b"a", b"*", b"?", b"[", b"]", b"\\", b"!", b"#", b" ", b"\n", b"\r", b"\t", b"\xff", b"-"]),
        min_size=1,
    ).map(b"".join),
    st.binary(min_size=1, max_size=10).map(lambda name: name.translate(None, b"/\0")),
).filter(lambda name: name not in (b"", b".", b"..", b".flameignore"))


def neighbours(name: bytes) -> set[bytes]:
    """Names that a rule might take for this one."""
    changed = {
        name[:at] + other + name[at + 1 :] for at in range(len(name)) for other in (b"", b"a", b"\n", b"\r", b" ", b"\\")
    }
    changed |= {name + b"a", b"a" + name, name.strip(), name + b" ", name + b"\r", *name.split(b"\n"), *name.split(b"\r")}
    return {other for other in changed - {b"", b".", b"..", name, b".flameignore"} if len(other) < 256}


@given(name=odd_names)
def test_a_rule_for_one_path_matches_no_other(name: bytes) -> None:
    rules = IgnoreRules([("", line) for line in split_lines(os.fsencode(rule_for(b"sub/" + name)))])
    built_in = IgnoreRules()
    assert rules.judge(b"sub/" + name, False) == archive.VERDICT_OMIT
    for other in neighbours(name):
        for path in (other, b"sub/" + other, b"sub/sub/" + name):
            assert rules.judge(path, False) == built_in.judge(path, False)


@settings(max_examples=10, deadline=None)
@given(parts=st.lists(odd_names, min_size=1, max_size=2))
@example(parts=[b"new\nline"])
@example(parts=[b"a\r"])
@example(parts=[b"a \\ "])
@example(parts=[b"a\\", b"  "])
def test_the_rule_for_the_largest_leaves_out_that_and_nothing_else(parts: list[bytes]) -> None:
    path = b"/".join(parts)
    with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAME_FAST_HOME", f"{base}/home")
        root = os.fsencode(base) + b"/project/"
        os.makedirs(root + b"/".join(parts[:-1]))
        for name in neighbours(parts[-1]):
            with open(root + b"/".join([*parts[:-1], name]), "xb") as file:
                file.write(b"x")
        with open(root + path, "xb") as file:
            file.write(bytes(1000))
        before = explain(os.fsdecode(root))
        ((largest, size, rule),) = before.largest(1)
        assert (os.fsencode(largest), size) == (path, 1000)
        others = {member for member, _, _ in before.members} - {largest}
        assert {member for member, _, _ in explain(os.fsdecode(root), excludes=[rule]).members} == others
        with open(root + b".flameignore", "xb") as file:
            file.write(os.fsencode(rule) + b"\n")
        after = explain(os.fsdecode(root))
        assert {member for member, _, _ in after.members} == others | {".flameignore"}
        assert after.why(largest).endswith("(.flameignore, line 1)")
