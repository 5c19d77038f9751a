"""The registry of applications (API.md, Registry), and which owner counts as alive."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from applications import BUILT_IN
from gates import in_child, passes_in_child

from flame_fast.application import liveness
from flame_fast.application.registry import (
    Application,
    ApplicationAttributes,
    ApplicationSchema,
    ApplicationState,
    Shim,
    database,
    get_application,
    list_applications,
    register_application,
    unregister_application,
)
from flame_fast.application.registry.database import BY_HAND, Registry
from flame_fast.errors import FlameError, FlameErrorCode


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAME_FAST_HOME", str(tmp_path / "data"))
    (tmp_path / "data").mkdir(mode=0o700)
    return str(tmp_path / "data")


def refused(code: FlameErrorCode, call: Callable[..., object], *args: object) -> str:
    with pytest.raises(FlameError) as caught:
        call(*args)
    assert caught.value.code == code
    return caught.value.message


FULL = {
    "shim": Shim.WASM,
    "image": "image:1",
    "description": "what it is",
    "labels": ["a", "b"],
    "command": "run",
    "arguments": ["--fast", "ä"],
    "environments": {"KEY": "value"},
    "working_directory": "/srv/\udcff",
    "max_instances": 3,
    "delay_release": 0,
    "schema": ApplicationSchema("in", None, "common"),
    "url": "file:///srv/a.tar.gz",
    "installer": "pip",
}


def test_what_is_registered_is_found_again() -> None:
    before = datetime.now(UTC)
    register_application("full", ApplicationAttributes(**FULL))
    found = get_application("full")
    assert isinstance(found, Application)
    assert (found.name, found.state) == ("full", ApplicationState.ENABLED)
    assert before - timedelta(seconds=1) <= found.creation_time <= datetime.now(UTC) + timedelta(seconds=1)
    assert {field: getattr(found, field) for field in FULL} == FULL
    assert found.attributes() == ApplicationAttributes(**FULL)
    register_application("empty", ApplicationAttributes())
    assert get_application("empty").attributes() == ApplicationAttributes()
    register_application("mapping", {"command": "run", "shim": 0})
    assert get_application("mapping").shim is Shim.HOST


def test_applications_are_listed_with_the_built_in_ones() -> None:
    register_application("b", ApplicationAttributes())
    register_application("ä", ApplicationAttributes())
    assert [application.name for application in list_applications()] == ["b", *BUILT_IN, "ä"]
    assert list_applications()[0] == get_application("b")


def test_an_absent_application_is_none() -> None:
    for name in ("absent", "", "\udcff", None):
        assert get_application(name) is None


def test_a_name_is_registered_once() -> None:
    register_application("a", ApplicationAttributes())
    message = refused(FlameErrorCode.ALREADY_EXISTS, register_application, "a", ApplicationAttributes())
    assert message.startswith("application 'a' already exists; unregister it first")
    for name in BUILT_IN:
        refused(FlameErrorCode.ALREADY_EXISTS, register_application, name, ApplicationAttributes())


def test_unregistering() -> None:
    register_application("a", ApplicationAttributes())
    unregister_application("a")
    assert get_application("a") is None
    message = refused(FlameErrorCode.NOT_FOUND, unregister_application, "a")
    assert "'a' is not registered" in message
    for name in BUILT_IN:
        message = refused(FlameErrorCode.INVALID_STATE, unregister_application, name)
        assert f"{name!r} is built in and cannot be unregistered" in message
        assert get_application(name).shim is Shim.HOST


def test_a_registry_of_an_earlier_version_gets_the_built_in_ones(home: str) -> None:
    register_application("by-hand", ApplicationAttributes())
    with Registry(home) as registry, registry.transaction():
        for name in ("flmexec", "flmping"):
            registry.delete(name)
        registry.insert("flmping", ApplicationAttributes(image="own"), BY_HAND)
    assert [application.name for application in list_applications()] == ["by-hand", *BUILT_IN]
    assert get_application("flmping").image == "own"  # a user's own of that name stays
    unregister_application("flmping")
    assert get_application("flmping").image is None


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "-a", "a\\b", "a\nb", "a\x7fb", "a" * 254, "\udcff", 7, None, b"a"])
def test_a_bad_name_is_refused_before_anything_is_written(name: object, home: str) -> None:
    message = refused(FlameErrorCode.INVALID_ARGUMENT, register_application, name, ApplicationAttributes())
    assert message.startswith("name")
    assert os.listdir(home) == []


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("shim", 7, "one of ['HOST', 'WASM', 'CRI']"),
        ("shim", "host", "one of ['HOST', 'WASM', 'CRI']"),
        ("image", 1, "text"),
        ("labels", "a", "a list of text"),
        ("arguments", [1], "a list of text"),
        ("environments", {"a": 1}, "a dict of text to text"),
        ("max_instances", -1, "an integer of at least 0"),
        ("max_instances", True, "an integer of at least 0"),
        ("delay_release", 1.5, "an integer of at least 0"),
        ("schema", {}, "an ApplicationSchema"),
    ],
)
def test_an_attribute_of_another_type_is_named(field: str, value: object, expected: str) -> None:
    message = refused(FlameErrorCode.INVALID_ARGUMENT, register_application, "a", ApplicationAttributes(**{field: value}))
    assert f"attribute {field}: expected {expected}, got {value!r}" in message


def test_attributes_must_be_attributes() -> None:
    message = refused(FlameErrorCode.INVALID_ARGUMENT, register_application, "a", "run")
    assert message == "attributes: expected ApplicationAttributes or a mapping, got str"
    message = refused(FlameErrorCode.INVALID_ARGUMENT, register_application, "a", {"comand": "run"})
    assert message.startswith("application attribute: expected one of shim, image, ")
    assert message.endswith(", got 'comand'")


def test_a_damaged_registry_is_named(home: str) -> None:
    Path(home, "registry.db").write_bytes(b"this is no database" * 100)
    message = refused(FlameErrorCode.INTERNAL, list_applications)
    assert os.path.join(home, "registry.db") in message
    assert "remove it" in message


def test_a_registry_of_another_version_is_left_alone(home: str) -> None:
    list_applications()
    with sqlite3.connect(os.path.join(home, "registry.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    message = refused(FlameErrorCode.INVALID_STATE, list_applications)
    assert "format 99" in message
    assert "FLAME_FAST_HOME" in message


def test_many_processes_at_once(home: str) -> None:
    """From the very first use, so that the making of the database is raced for too."""
    code = """
import sys
from flame_fast.application.registry import *
from flame_fast.errors import FlameError
me = sys.argv[1]
sys.stdin.read(1)
won = 0
for turn in range(10):
    try:
        register_application(f"shared-{turn}", ApplicationAttributes())
        won += 1
    except FlameError as error:
        assert error.code.name == "ALREADY_EXISTS", error
    register_application(f"{me}-{turn}", ApplicationAttributes())
    assert get_application(f"{me}-{turn}")
    if turn % 2:
        unregister_application(f"{me}-{turn}")
print(won)
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(8)
    ]
    for process in running:
        process.stdin.write("x")
        process.stdin.flush()
    won = [int(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0] * 8
    assert sum(won) == 10  # each shared name went to exactly one
    names = {application.name for application in list_applications()}
    assert names == {
        *BUILT_IN,
        *(f"shared-{t}" for t in range(10)),
        *(f"{i}-{t}" for i in range(8) for t in range(0, 10, 2)),
    }


# Owners


def test_an_application_in_use_cannot_be_unregistered(home: str) -> None:
    token = enrolled(home, "used")
    message = refused(FlameErrorCode.INVALID_STATE, unregister_application, "used")
    assert f"'used' is in use by process {os.getpid()} on host" in message
    message = refused(FlameErrorCode.ALREADY_EXISTS, register_application, "used", ApplicationAttributes())
    assert f"in use by process {os.getpid()}" in message
    liveness.release(home, token)
    register_application("used", ApplicationAttributes())  # its owner is dead: the name is free
    unregister_application("used")


def test_one_registered_by_hand_is_in_use_while_a_process_has_joined_it(home: str) -> None:
    register_application("hand", ApplicationAttributes())
    token = enrolled(home, "hand")
    refused(FlameErrorCode.INVALID_STATE, unregister_application, "hand")
    liveness.release(home, token)
    unregister_application("hand")


def enrolled(home: str, name: str) -> str:
    token = liveness.acquire(home)
    with Registry(home) as registry, registry.transaction():
        registry.add_owner(token, name, "/srv", None)
        registry.enroll(token, name, ApplicationAttributes(), fail_if_exists=False)
    return token


def test_not_the_process_id_tells_who_is_alive(home: str) -> None:
    """An owner in another container: its number means nothing here, its lock does."""
    token = enrolled(home, "elsewhere")
    with Registry(home) as registry:
        registry._rows("UPDATE owners SET pid = ?, host = 'other'", 2**22 + 1)
        assert [owner.token for owner in registry.live_owners("elsewhere")] == [token]
        assert "on host 'other'" in refused(FlameErrorCode.INVALID_STATE, unregister_application, "elsewhere")
        liveness.release(home, token)
        registry._rows("UPDATE owners SET pid = ?", os.getpid())  # a living process has that number now
        assert registry.live_owners("elsewhere") == []


class Child:
    """A forked process that owns a token; ends when told, or killed."""

    def __init__(self, home: str) -> None:
        reader, told = os.pipe()
        heard, writer = os.pipe()

        def own() -> None:
            os.close(told)
            os.write(writer, liveness.acquire(home).encode())
            os.read(reader, 1)

        self.pid = in_child(own)
        os.close(reader)
        os.close(writer)
        self.token = os.read(heard, 100).decode()
        os.close(heard)
        self._told = told

    def end(self, number: int = 0) -> None:
        if number:
            os.kill(self.pid, number)
        else:
            os.write(self._told, b"x")
        os.close(self._told)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGTERM])
def test_an_owner_is_alive_until_its_process_ends(home: str, number: int) -> None:
    child = Child(home)
    for _ in range(3):  # looking takes nothing away
        assert liveness.is_alive(home, child.token)
    assert not liveness.reap(home, child.token)
    child.end(number)
    assert not liveness.is_alive(home, child.token)
    assert liveness.tokens(home) == [child.token]
    assert liveness.reap(home, child.token)
    assert liveness.reap(home, child.token)
    assert liveness.tokens(home) == []


def test_a_forked_child_neither_is_nor_unmakes_the_owner(home: str) -> None:
    token = liveness.acquire(home)

    def meddle() -> bool:
        good = not liveness.holds(token) and liveness.is_alive(home, token)
        liveness.release(home, token)
        return good and not liveness.reap(home, token)

    assert passes_in_child(meddle)
    assert liveness.holds(token)
    # Asked from another process, for in this one the answer needs no lock.
    assert passes_in_child(lambda: liveness.is_alive(home, token))
    liveness.release(home, token)
    liveness.release(home, token)
    assert not liveness.is_alive(home, token)
    assert liveness.tokens(home) == []


def test_a_forked_child_does_not_keep_its_dead_parent_alive(home: str) -> None:
    heard, writer = os.pipe()

    def parent() -> None:
        token = liveness.acquire(home)
        child = in_child(signal.pause)
        os.write(writer, f"{token} {child}".encode())

    assert passes_in_child(parent)
    os.close(writer)
    token, child = os.read(heard, 100).decode().split()
    os.close(heard)
    assert not liveness.is_alive(home, token)
    os.kill(int(child), signal.SIGKILL)


def test_a_process_s_own_look_does_not_drop_its_lock(home: str) -> None:
    token = liveness.acquire(home)
    assert liveness.is_alive(home, token)
    assert not liveness.reap(home, token)
    assert passes_in_child(lambda: liveness.is_alive(home, token))
    liveness.release(home, token)


def test_a_lock_file_swept_before_it_was_locked_is_made_again(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """maker: open; sweep: lock, unlink, unlock; maker: lock, sees that its file is gone, starts over."""
    real = fcntl.lockf
    swept = []
    me = os.getpid()

    def lockf(descriptor: int, flags: int) -> None:
        if not swept and os.getpid() == me:
            (token,) = liveness.tokens(home)
            swept.append(token)
            assert passes_in_child(lambda: liveness.reap(home, token))
        real(descriptor, flags)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    token = liveness.acquire(home)
    assert swept == [token]
    assert liveness.tokens(home) == [token]
    assert passes_in_child(lambda: liveness.is_alive(home, token))
    liveness.release(home, token)


def test_threads_own_and_look_at_once(home: str) -> None:
    failures = []

    def work() -> None:
        for _ in range(100):
            token = liveness.acquire(home)
            for other in liveness.tokens(home):
                liveness.reap(home, other)
            if not liveness.is_alive(home, token) or token not in liveness.tokens(home):
                failures.append(token)
            liveness.release(home, token)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert liveness.tokens(home) == []


def test_no_descriptor_is_left_open(home: str) -> None:
    list_applications()
    before = len(os.listdir("/proc/self/fd"))
    token = liveness.acquire(home)
    liveness.release(home, token)
    register_application("a", ApplicationAttributes())
    liveness.is_alive(home, "absent")
    child = Child(home)
    liveness.is_alive(home, child.token)
    liveness.reap(home, child.token)
    child.end()
    liveness.reap(home, child.token)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- forks -----------------------------------------------------------------------------------------------------------


def test_a_fork_waits_for_the_transaction_of_another_thread_and_its_child_works_at_once(home: str) -> None:
    """SQLite's own record of this process's locks is inherited, the locks are not: the child would wait for itself."""
    inside, end = threading.Event(), threading.Event()

    def hold() -> None:
        with Registry(home) as registry, registry.transaction():
            registry.insert("held", ApplicationAttributes(), BY_HAND)
            inside.set()
            end.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(20)
    threading.Timer(0.1, end.set).start()
    before = time.monotonic()
    pid = in_child(lambda: register_application("child", ApplicationAttributes()))
    assert os.waitpid(pid, 0)[1] == 0
    assert time.monotonic() - before < 20
    holder.join()
    assert {"held", "child"} <= {application.name for application in list_applications()}


def test_an_open_connection_stays_whole_in_the_parent_and_is_closed_in_a_child(home: str) -> None:
    with Registry(home) as registry:
        for number in range(3):
            assert passes_in_child(lambda number=number: register_application(f"child-{number}", ApplicationAttributes()))
            with registry.transaction():
                registry.insert(f"parent-{number}", ApplicationAttributes(), BY_HAND)

        def use_inherited() -> None:
            registry.applications()

        with pytest.raises(AssertionError):
            assert passes_in_child(use_inherited)
    names = {application.name for application in list_applications()}
    assert names >= {f"{one}-{number}" for one in ("child", "parent") for number in range(3)}


def test_threads_that_use_it_while_others_fork_do_not_hang(home: str) -> None:
    """20 threads, each with transactions of its own, while children are forked that have some, too."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                register_application(f"thread-{number}-{turn}", ApplicationAttributes())
                unregister_application(f"thread-{number}-{turn}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    children = [in_child(lambda number=number: (work(100 + number), not failures)[1]) for number in range(10)]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == [] and [os.waitpid(pid, 0)[1] for pid in children] == [0] * 10


def test_a_lock_that_another_program_holds_is_named(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry(home):
        pass
    monkeypatch.setattr(database, "_BUSY_S", 0.2)
    program = (
        "import sqlite3, sys; one = sqlite3.connect(sys.argv[1], isolation_level=None); one.execute('BEGIN IMMEDIATE'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, os.path.join(home, "registry.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        message = refused(FlameErrorCode.INTERNAL, register_application, "late", ApplicationAttributes())
        assert f"database is locked; process {other.pid} (python" in message and "holds a lock on it" in message
        assert "disk" not in message
