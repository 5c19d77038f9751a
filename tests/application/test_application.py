"""Entering and leaving an application (API.md, Runner: entry, exit, same name)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from applications import BUILT_IN, registered
from gates import in_child, passes_in_child

from flame_fast.application import lifecycle, liveness, storage
from flame_fast.application.lifecycle import ApplicationLease, acquire_application, release_owner
from flame_fast.application.registry import (
    ApplicationAttributes,
    get_application,
    register_application,
    unregister_application,
)
from flame_fast.application.registry.database import Registry
from flame_fast.application.storage import Storage
from flame_fast.config import FlameContext
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package import sys_path

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAME_FAST_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("FLAME_CONF", raising=False)
    return str(tmp_path / "data")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "project"
    (path / "sub").mkdir(parents=True)
    (path / "main.py").write_text("value = 1\n")
    (path / "sub" / "mod.py").write_text("value = 2\n")
    monkeypatch.chdir(path)
    return path


def refused(code: FlameErrorCode, *args: object, **options: object) -> str:
    with pytest.raises(FlameError) as caught:
        acquire_application(*args, **options)
    assert caught.value.code == code
    return caught.value.message


def left(home: str) -> dict[str, list[str]]:
    """Return what a data directory holds of any runner's."""
    found = {
        name: os.listdir(os.path.join(home, name))
        for name in ("packages", "owners", "tmp")
        if os.path.isdir(os.path.join(home, name))
    }
    with Registry(home) as registry:
        found["rows"] = [owner.token for owner in registry.owners()]
        found["applications"] = [each.name for each in registry.applications() if each.name not in BUILT_IN]
    return {name: entries for name, entries in found.items() if entries}


class Elsewhere:
    """A runner in another process; left by command, or killed."""

    def __init__(self, name: str, directory: Path | None = None) -> None:
        reader, self._told = os.pipe()
        self._heard, writer = os.pipe()

        def stay() -> None:
            os.close(self._told)
            if directory is not None:
                os.chdir(directory)
            lease = acquire_application(name)
            os.write(writer, json.dumps([lease.token, lease.archive]).encode())
            if os.read(reader, 1):
                lease.release()

        self.pid = in_child(stay)
        os.close(reader)
        os.close(writer)
        answer = os.read(self._heard, 10_000)
        os.close(self._heard)
        self.token, self.archive = json.loads(answer)

    def leave(self) -> None:
        os.write(self._told, b"x")
        os.close(self._told)
        assert os.waitpid(self.pid, 0)[1] == 0

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._told)
        os.waitpid(self.pid, 0)


def configured(path: Path, **package: object) -> FlameContext:
    template = package.pop("template", "flmrun")
    conf = {
        "current-context": "a",
        "contexts": [{"name": "a", "package": package, "runner": {"template": template}}],
    }
    path.write_text(json.dumps(conf))
    return FlameContext(path)


# One runner


def test_entering_packages_uploads_and_registers(home: str, project: Path) -> None:
    lease = acquire_application("pi")
    assert (lease.name, lease.directory, lease.home) == ("pi", str(project), home)
    assert lease.archive == f"{home}/packages/pi-{lease.digest}.tar.gz"
    found = get_application("pi")
    assert (found.url, found.working_directory) == (f"file://{lease.archive}", str(project))
    template = get_application("flmrun").attributes()
    template.url, template.working_directory = found.url, found.working_directory
    assert found.attributes() == lease.attributes == template
    assert left(home) == {
        "packages": [f"pi-{lease.digest}.tar.gz"],
        "owners": [f"{lease.token}.lock"],
        "rows": [lease.token],
        "applications": ["pi"],
    }
    lease.release()
    assert left(home) == {}
    lease.release()
    assert get_application("pi") is None


def test_workers_get_a_plan_that_travels_as_json(home: str, project: Path) -> None:
    lease = acquire_application("pi")
    plan = lease.unpack_plan(["", str(project / "sub"), "/elsewhere"])
    assert plan == json.loads(json.dumps(plan))
    assert (plan["home"], plan["token"]) == (home, lease.token)

    def work() -> bool:
        tree, _ = sys_path.prepare(plan)
        import mod

        place = mod.__loader__.place  # type: ignore[union-attr]
        assert mod.__file__ == f"{project}/sub/mod.py" and place == f"{tree}/sub/mod.py"
        return sys.path == [str(project), f"{project}/sub", "/elsewhere"]

    assert passes_in_child(work)
    lease.release()


def test_nothing_is_written_into_the_directory(project: Path) -> None:
    before = sorted(map(str, project.rglob("*")))
    acquire_application("pi").release()
    assert sorted(map(str, project.rglob("*"))) == before


def test_a_hundred_runs_in_a_row(home: str) -> None:
    for _ in range(100):
        acquire_application("pi").release()
    assert left(home) == {}


def test_a_configured_storage_is_used_and_cleaned(tmp_path: Path, project: Path, home: str) -> None:
    (project / "store").mkdir()  # inside the project: never packaged
    context = configured(tmp_path / "conf", storage=f"file://{project}/store", excludes=["sub/"])
    lease = acquire_application("pi", context=context)
    assert os.listdir(project / "store") == [f"pi-{lease.digest}.tar.gz"]
    assert not os.path.exists(os.path.join(home, "packages"))
    assert lease._package.holds("main.py")
    assert not lease._package.holds("store") and not lease._package.holds("sub")
    lease.release()
    assert os.listdir(project / "store") == []
    assert left(home) == {}


def test_the_data_directory_inside_the_project_is_never_packaged(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_FAST_HOME", str(project / "data"))
    first = acquire_application("pi")
    second = acquire_application("pi")
    assert not first._package.holds("data")
    assert first.digest == second.digest
    first.release()
    second.release()


@pytest.mark.parametrize("what", ["data", "storage"])
def test_a_directory_of_ours_is_no_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    context = None
    if what == "data":
        monkeypatch.setenv("FLAME_FAST_HOME", str(project))
    else:
        context = configured(tmp_path / "conf", storage=f"file://{project}")
    message = refused(FlameErrorCode.INVALID_CONFIG, "pi", context=context)
    assert f"packaging application 'pi': the current directory {str(project)!r} is the {what} directory" in message


def test_a_template_s_attributes_are_taken_over(tmp_path: Path, project: Path) -> None:
    register_application(
        "mine", ApplicationAttributes(image="image:1", labels=["a"], url="other", working_directory="/other")
    )
    lease = acquire_application("pi", context=configured(tmp_path / "conf", template="mine"))
    found = get_application("pi")
    assert (found.image, found.labels) == ("image:1", ["a"])
    assert (found.url, found.working_directory) == (f"file://{lease.archive}", str(project))
    lease.release()


def test_a_directory_whose_name_is_no_text(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd \xff")
    os.mkdir(odd)
    monkeypatch.chdir(odd)
    lease = acquire_application("pi")
    assert get_application("pi").working_directory == odd == lease.directory
    json.dumps(lease.unpack_plan([odd]))
    lease.release()
    assert left(home) == {}


# Bad input


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "name: expected 1 to 253 characters, got 0: ''"),
        ("x" * 254, "name: expected 1 to 253 characters, got 254: 'xxx"),
        ("a/b", "name: expected text without '/', '\\' and '..', got 'a/b'"),
        ("a\\b", "name: expected text without '/'"),
        ("a..b", "name: expected text without '/'"),
        (".a", "name: expected a start other than '.' and '-', got '.a'"),
        ("-a", "name: expected a start other than"),
        ("a\nb", "name: expected text without control characters, got 'a\\nb'"),
        ("a\x00", "control characters"),
        ("a\x7f", "control characters"),
        ("a\x85", "control characters"),
        ("a\ud800", "name: expected text without halves of surrogate pairs, got 'a\\ud800'"),
        (None, "expected text, got NoneType None"),
        (b"a", "expected text, got bytes b'a'"),
        (7, "expected text, got int 7"),
    ],
)
def test_a_bad_name_is_refused_before_anything_is_written(name: object, expected: str, home: str) -> None:
    assert expected in refused(FlameErrorCode.INVALID_ARGUMENT, name)
    assert not os.path.exists(home)


@pytest.mark.parametrize("name", ["a", "x" * 253, "pi estimation", "é" * 200, "a.b", "a-", "名", "a'\"; DROP TABLE owners"])
def test_any_other_name_is_taken(name: str, home: str) -> None:
    lease = acquire_application(name)
    assert get_application(name).name == name
    lease.release()
    assert left(home) == {}


def test_bad_requirements_are_refused_before_anything_is_written(home: str) -> None:
    assert "no-such-thing" in refused(FlameErrorCode.NOT_FOUND, "pi", dependencies=["no-such-thing"])
    assert "'2.7'" in refused(FlameErrorCode.INVALID_ARGUMENT, "pi", python_version="2.7")
    assert not os.path.exists(home)


def test_the_configuration_in_force_is_read(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_CONF", str(tmp_path / "absent.yaml"))
    assert "absent.yaml" in refused(FlameErrorCode.INVALID_CONFIG, "pi")
    context = configured(tmp_path / "conf", storage="file:///absent/directory")
    assert "'/absent/directory' does not exist" in refused(FlameErrorCode.INVALID_CONFIG, "pi", context=context)


# A step that fails


def test_the_error_names_the_step_and_the_steps_before_are_undone(
    home: str, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = configured(tmp_path / "limited", limit=5)
    message = refused(FlameErrorCode.INVALID_ARGUMENT, "pi", context=limited)
    assert message.startswith("packaging application 'pi': ")
    assert left(home) == {}

    absent = configured(tmp_path / "absent", template="absent")
    message = refused(FlameErrorCode.NOT_FOUND, "pi", context=absent)
    assert message.startswith("registering application 'pi': the template 'absent' of runner.template is not")
    assert left(home) == {}

    def fail(code: int) -> Callable[..., None]:
        def failing(*args: object, **options: object) -> None:
            raise OSError(code, os.strerror(code), "somewhere")

        return failing

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "upload", fail(28))
        message = refused(FlameErrorCode.INTERNAL, "pi")
        assert message == "uploading application 'pi': [Errno 28] No space left on device: 'somewhere'"
        assert left(home) == {}
        patch.setattr(Storage, "upload", fail(13))
        message = refused(FlameErrorCode.INVALID_CONFIG, "pi")
        assert "uploading application 'pi': cannot write into package.storage" in message
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "pack", fail(28))
        assert refused(FlameErrorCode.INTERNAL, "pi").startswith("packaging application 'pi': [Errno 28]")
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "enroll", fail(5))
        assert refused(FlameErrorCode.INTERNAL, "pi").startswith("registering application 'pi': [Errno 5]")
    assert left(home) == {}
    os.mkdir(tmp_path / "gone")
    os.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    message = refused(FlameErrorCode.INVALID_STATE, "pi")
    assert "packaging application 'pi': the current directory no longer exists" in message
    os.chdir(project)
    assert left(home) == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_undoes_too(home: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise error

    for owner, function in ((lifecycle, "pack"), (Storage, "upload"), (Registry, "enroll")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, interrupt)
            with pytest.raises(error):
                acquire_application("pi")
        assert left(home) == {}


def test_a_package_that_cannot_be_deleted_is_named_and_the_rest_goes(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = acquire_application("pi")

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "remove", refuse)
        with pytest.warns(UserWarning, match=f"cannot delete the package 'file://{lease.archive}'.*by hand"):
            lease.release()
    os.unlink(lease.archive)
    assert left(home) == {}


def test_a_storage_that_is_gone_does_not_hinder_leaving(tmp_path: Path, home: str) -> None:
    (tmp_path / "store").mkdir()
    lease = acquire_application("pi", context=configured(tmp_path / "conf", storage=f"file://{tmp_path}/store"))
    os.unlink(lease.archive)
    (tmp_path / "store").rmdir()
    lease.release()
    assert left(home) == {}


# The same name again


def test_a_name_in_use_is_joined_or_refused(home: str) -> None:
    other = Elsewhere("pi")
    message = refused(FlameErrorCode.ALREADY_EXISTS, "pi", fail_if_exists=True)
    assert f"application 'pi' already exists, in use by process {other.pid} on host" in message
    assert len(left(home)["rows"]) == 1
    lease = acquire_application("pi")
    other.leave()
    assert get_application("pi") is not None
    assert os.path.exists(lease.archive)  # the same directory: the same package, which is still in use
    lease.release()
    assert left(home) == {}
    acquire_application("pi", fail_if_exists=True).release()


def test_a_joining_runner_runs_its_own_directory(home: str, tmp_path: Path, project: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "main.py").write_text("value = 3\n")
    first = Elsewhere("pi")
    second = Elsewhere("pi", tmp_path / "second")
    assert first.archive != second.archive
    assert get_application("pi").url == f"file://{first.archive}"
    first.leave()
    assert left(home)["packages"] == [os.path.basename(second.archive)]
    # The registration outlived the one that made it, and does not show a package that is gone.
    found = get_application("pi")
    assert (found.url, found.working_directory) == (f"file://{second.archive}", str(tmp_path / "second"))
    second.leave()
    assert left(home) == {}


def test_two_applications_of_one_directory_share_no_package_by_accident(home: str) -> None:
    # Made safe, the names are the same; so is the generated project file, and with it the package.
    first, second = acquire_application("a b"), acquire_application("a_b")
    assert first.archive == second.archive
    first.release()
    assert os.path.exists(second.archive)
    second.release()
    assert left(home) == {}


def test_one_process_may_enter_twice(home: str) -> None:
    first, second = acquire_application("pi"), acquire_application("pi")
    assert first.token != second.token
    refused(FlameErrorCode.ALREADY_EXISTS, "pi", fail_if_exists=True)
    first.release()
    assert get_application("pi") is not None
    second.release()
    assert left(home) == {}


def test_of_many_that_want_the_name_alone_one_gets_it(home: str) -> None:
    code = """
import sys
from flame_fast.application.lifecycle import acquire_application
from flame_fast.errors import FlameError
try:
    lease = acquire_application("pi", fail_if_exists=True)
except FlameError as error:
    assert error.code.name == "ALREADY_EXISTS", error
    print("no", flush=True)
else:
    print("yes", flush=True)
    sys.stdin.read(1)
    lease.release()
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    answers = [process.stdout.readline() for process in running]
    assert sorted(answers) == ["no\n"] * 5 + ["yes\n"]
    for process in running:
        process.communicate("")
    assert [process.returncode for process in running] == [0] * 6
    assert left(home) == {}


def test_one_registered_by_hand_is_joined_and_stays(home: str) -> None:
    by_hand = ApplicationAttributes(description="by hand", url="file:///mine")
    register_application("hand", by_hand)
    message = refused(FlameErrorCode.ALREADY_EXISTS, "hand", fail_if_exists=True)
    assert "application 'hand' already exists; choose another name" in message
    lease = acquire_application("hand")
    with pytest.raises(FlameError, match="in use"):
        unregister_application("hand")
    lease.release()
    assert get_application("hand").attributes() == by_hand
    assert left(home) == {"applications": ["hand"]}
    unregister_application("hand")


def test_the_template_s_own_name_may_be_joined(home: str) -> None:
    refused(FlameErrorCode.ALREADY_EXISTS, "flmrun", fail_if_exists=True)
    acquire_application("flmrun").release()
    assert left(home) == {}
    assert registered() == []


# Death


def test_an_application_of_a_dead_owner_is_reclaimed_never_joined(home: str, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    dead = Elsewhere("pi", tmp_path / "second")
    dead.kill()
    assert os.path.exists(dead.archive)
    lease = acquire_application("pi", fail_if_exists=True)
    assert get_application("pi").url == f"file://{lease.archive}"
    assert not os.path.exists(dead.archive)
    assert left(home)["rows"] == [lease.token]
    lease.release()
    assert left(home) == {}


def test_an_owner_that_dies_while_another_enters_is_not_joined(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "second").mkdir()
    other = Elsewhere("pi", tmp_path / "second")
    pack = lifecycle.pack

    def kill_and_pack(*args: object, **options: object) -> object:
        other.kill()
        return pack(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "pack", kill_and_pack)
        lease = acquire_application("pi")
    assert get_application("pi").url == f"file://{lease.archive}"
    lease.release()
    acquire_application("other").release()
    assert left(home) == {}


def test_any_entry_reclaims_every_dead_owner_s(home: str) -> None:
    for name in ("a", "b", "b", "c"):
        Elsewhere(name).kill()
    lease = acquire_application("other")
    assert left(home)["applications"] == ["other"]
    lease.release()
    assert left(home) == {}


def test_the_dead_do_not_take_the_living_with_them(home: str) -> None:
    dead, alive = Elsewhere("pi"), Elsewhere("pi")
    dead.kill()
    acquire_application("other").release()
    assert left(home)["rows"] == [alive.token]
    assert get_application("pi") is not None
    assert os.path.exists(alive.archive)
    alive.leave()
    assert left(home) == {}


def test_the_last_living_one_out_unregisters_though_a_dead_one_is_on_the_list(home: str) -> None:
    dead, alive = Elsewhere("pi"), Elsewhere("pi")
    dead.kill()
    alive.leave()
    assert get_application("pi") is None
    acquire_application("other").release()
    assert left(home) == {}


def test_another_process_cleans_up_after_a_dead_owner_once_or_twice(home: str) -> None:
    dead = Elsewhere("pi")
    dead.kill()
    release_owner(home, dead.token)
    assert left(home) == {}
    release_owner(home, dead.token)
    release_owner(home, "0" * 24)
    alive = Elsewhere("pi")
    release_owner(home, alive.token)
    assert left(home)["rows"] == [alive.token]
    alive.leave()


def test_a_look_at_a_lock_file_just_made_does_not_reap_its_owner(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """sweep: sees a file without a lock; owner: locks, enters; sweep: goes on with what it saw."""
    acquire_application("warm").release()
    real = liveness.is_alive
    entered: list[Elsewhere] = []
    me = os.getpid()

    def is_alive(home: str, token: str) -> bool:
        if token == early and not entered and os.getpid() == me:
            os.unlink(liveness.lock_path(home, token))
            with monkeypatch.context() as inner:
                inner.setattr(os, "urandom", lambda size: bytes.fromhex(token))
                entered.append(Elsewhere("late"))
            return False
        return real(home, token)

    early = "ab" * 12
    Path(liveness.lock_path(home, early)).touch()
    with monkeypatch.context() as patch:
        patch.setattr(liveness, "is_alive", is_alive)
        with Registry(home) as registry:
            lifecycle._reclaim(registry)
    (late,) = entered
    assert late.token == early
    assert left(home)["rows"] == [early]
    assert os.path.exists(late.archive)
    late.leave()
    assert left(home) == {}


def test_several_clean_up_at_once(home: str) -> None:
    dead = [Elsewhere("pi") for _ in range(3)]
    for each in dead:
        each.kill()

    def clean() -> None:
        for each in dead:
            release_owner(home, each.token)

    children = [in_child(clean) for _ in range(3)]
    children += [in_child(lambda: acquire_application("pi").release()) for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 6
    assert left(home) == {}


STEPS = [
    (liveness, "acquire"),
    (Registry, "add_owner"),
    (lifecycle, "pack"),
    (Registry, "set_package"),
    (Storage, "upload"),
    (Storage, "_part"),
    (lifecycle, "_remove_temporary"),
    (Registry, "enroll"),
    (Registry, "remove_owner"),
    (Storage, "remove"),
    (Storage, "discard"),
    (liveness, "release"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
def test_killed_at_any_step_the_next_run_finds_everything(
    home: str, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str], when: str
) -> None:
    owner, function = step
    real = getattr(owner, function)

    def kill(*args: object, **options: object) -> object:
        if when == "after":
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def die() -> None:
        setattr(owner, function, kill)
        acquire_application("pi").release()

    pid = in_child(die)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    acquire_application("other").release()
    assert left(home) == {}


def test_a_copy_cut_off_half_way_is_found(home: str, tmp_path: Path) -> None:
    """Storage on another file system, where an upload takes time."""

    def die() -> None:
        def half(source: str, target: str) -> None:
            Path(target).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

        def no_link(*args: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        os.link, storage._copy = no_link, half
        acquire_application("pi")

    os.waitpid(in_child(die), 0)
    assert left(home)["packages"][0].endswith(".part")
    acquire_application("other").release()
    assert left(home) == {}


def test_a_forked_child_does_not_leave_for_its_parent(home: str) -> None:
    lease = acquire_application("pi")
    assert passes_in_child(lease.release)
    assert left(home)["rows"] == [lease.token]
    assert passes_in_child(lambda: acquire_application("other").release())
    assert os.path.exists(lease.archive)
    lease.release()
    assert left(home) == {}


STORM = """
import sys, threading
from flame_fast.application.lifecycle import acquire_application
def run():
    for _ in range(int(sys.argv[1])):
        acquire_application(sys.argv[2]).release()
acquire_application(sys.argv[2]).release()
print(flush=True)
threads = [threading.Thread(target=run) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_twenty_at_once(home: str) -> None:
    """From the first use of the data directory, half of them under one name."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", STORM, "5", f"app{i % 2 * i}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for i in range(20)
    ]
    errors = [process.communicate()[1] for process in running]
    assert errors == [b""] * 20
    assert left(home) == {}


def test_killed_at_random_moments(home: str) -> None:
    chance = random.Random()
    acquire_application("warm").release()
    for _ in range(12):
        command = [sys.executable, "-c", STORM, "1000", "pi"]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for process in running:
            process.stdout.readline()
        # The moment: when this process has itself entered some number of times beside them.
        for _ in range(chance.randrange(8)):
            acquire_application("pi").release()
        for process in running:
            process.kill()
            process.communicate()
    acquire_application("pi").release()
    assert left(home) == {}


def test_release_from_several_threads_is_one_release(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = acquire_application("pi")
    removed = []
    real = lifecycle._remove
    monkeypatch.setattr(lifecycle, "_remove", lambda *args: (removed.append(args), real(*args)))
    threads = [threading.Thread(target=lease.release) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(removed) == 1
    assert left(home) == {}


def test_a_lease_shows_itself() -> None:
    lease = acquire_application("pi")
    assert isinstance(lease, ApplicationLease)
    assert "name='pi'" in repr(lease)
    lease.release()
