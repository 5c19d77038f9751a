"""`python -m flame_fast dump`: the state of a runner, read from outside, whatever that state is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gates import Gate, add, hold, passes_in_child, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from process_events import Driver, Victim, children, fifos, workers, zygotes
from runtime_harness import Family
from words import Words

from flame_fast import FlameError, Runner
from flame_fast.cli import main
from flame_fast.inspection import diagnosis, dump
from flame_fast.inspection.picture import SEGMENT, Picture, segments_of, state_of

#: Words of the header that keep their places in every version.
LAYOUT_AT = 60


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that returns what the command prints about a process, by default this one."""

    def say(pid: int | None = None, *options: str) -> str:
        assert main(["dump", str(pid or os.getpid()), *options]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return say


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """Return a function that returns the one line with which the command fails."""

    def say(pid: int) -> str:
        assert main(["dump", str(pid)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err

    return say


def section(text: str, name: str) -> list[str]:
    """Return the lines below a heading."""
    lines = text.splitlines()
    following = lines[lines.index(name) + 1 :]
    count = next((i for i, line in enumerate(following) if not line.startswith(" ")), len(following))
    return [line.strip() for line in following[:count]]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(pid) == "stopped", "a process's stop")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def segment() -> Iterator[int]:
    """Open the one segment of this process."""
    (path,) = segments_of(os.getpid())
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sleeping_workers() -> int:
    with segment() as fd:
        return sum(entry["sleeping"] for entry in Picture(fd).processes.values())


# A runner at work


def test_calls_that_run_wait_and_are_queued(project: Path, said: Callable[..., str]) -> None:
    with Runner("busy", workers=1) as rr, Gate() as gate, Gate() as other:
        service, plus, counter = rr.service(hold), rr.service(add), rr.service(Victim())
        running = service(gate, 1)
        queued = service(other, 2)
        waiting = plus(running, plus(queued, 1))
        of_instance = [counter.add(1), counter.add(queued), counter.add(3)]
        of_instance[0].wait()
        gate.entered()
        text = said()
        driver, supervisor = os.getpid(), zygotes()[0]
        (first,) = [line for line in text.splitlines() if line.startswith("runner of")]
        assert re.fullmatch(
            rf"runner of the driver \(pid {driver}\), session [0-9a-f]{{16}}: 1 worker wanted, \d+ CPUs?, open", first
        )
        found = section(text, "processes")
        assert found[0].startswith(f"the driver (pid {driver}): alive")
        assert found[1].startswith(f"the supervisor (pid {supervisor}): alive")
        (pool,) = [line for line in found if line.startswith("worker")]
        assert re.fullmatch(r"worker \d+ \(pid \d+\): alive.*, runs slot \d+ \(service 0 'hold'\)", pool)
        (instance,) = [line for line in found if line.startswith("instance")]
        assert "serves queue 256, runs nothing" in instance
        assert section(text, "services") == [
            f"service 0 'hold' (function): OPEN, queue 0, made by the driver (pid {driver})",
            f"service 1 'add' (function): OPEN, queue 0, made by the driver (pid {driver})",
            f"service 2 'Victim' (instance): OPEN, queue 256, made by the driver (pid {driver})",
        ]
        queues = section(text, "queues")
        assert re.fullmatch(r"queue 0: OPEN; head \d+, tail \d+", queues[0])
        assert re.fullmatch(r"\d+: slot \d+ \(service 0 'hold'\), READY", queues[1])
        assert re.fullmatch(r"queue 256: OPEN, in order, served by instance \d+ \(pid \d+\).*; head 1, tail 3", queues[2])
        assert re.fullmatch(r"1: slot \d+ \(service 2 'Victim', method 'add'\), WAITING", queues[3])
        assert re.fullmatch(r"2: slot \d+ \(service 2 'Victim', method 'add'\), READY", queues[4])
        calls = section(text, "calls")
        assert calls[0] == "3 WAITING, 2 READY, 1 RUNNING, 0 ENDING, 1 DONE, 0 FAILED, 0 LEAVING"
        assert re.search(r"RUNNING in worker .*; held by its creator's future, 1 dependent$", calls[1])
        assert any(
            re.search(r"\(service 1 'add'\): WAITING; .*; 2 of 2 dependencies missing: slots \d+, \d+$", line)
            for line in calls
        )
        chains = section(text, "what waits for what")
        assert re.fullmatch(
            r"slot \d+ \(service \d .*\) waits for slot \d+ \(.*\) waits for slot \d+ \(service 0 'hold'\), "
            r"which is queued in queue 0: 4 in all wait for it",
            chains[0],
        )
        assert re.search(r"which runs in worker \d+ \(pid \d+\): 1 in all wait for it$", chains[1])
        assert text.endswith("nothing looks wrong\n")
        assert said(supervisor).splitlines()[0] == first
        assert said(workers()[0]).splitlines()[0] == first
        gate.open()
        other.open()
        assert rr.get([waiting, of_instance]) == [4, [1, 3, 6]]


def wait_inside(service, gate: Gate) -> int:
    return service(gate, 5).get()


def test_a_wait_inside_of_a_task_is_told(project: Path, said: Callable[..., str]) -> None:
    with Runner("nested", workers=1) as rr, Gate() as gate:
        outer = rr.service(wait_inside)(rr.service(hold), gate)
        gate.entered()
        text = said()
        (pool,) = [line for line in section(text, "processes") if line.startswith("worker")]
        assert re.search(r"runs slot \d+ \(service \d 'hold'\), in a wait of slot \d+ \(service \d 'wait_inside'\)", pool)
        assert re.search(r"\(service \d 'wait_inside'\): RUNNING in worker .*; waits for slot \d+\n", text)
        gate.open()
        assert outer.get() == 5


def test_several_runners_of_one_driver_are_all_told(project: Path, said: Callable[..., str]) -> None:
    with Runner("one", workers=1), Runner("other", workers=2):
        text = said()
        assert re.findall(r"^runner of .* (\d) workers? wanted", text, re.MULTILINE) == ["1", "2"]
        assert text.count("nothing looks wrong\n") == 2
        pictures = [json.loads(line) for line in said(None, "--json").splitlines()]
        assert [picture["runner"]["workers"] for picture in pictures] == [1, 2]
        assert [picture["wrong"] for picture in pictures] == [[], []]


def test_a_long_queue_is_cut_unless_all_is_asked_for(project: Path, said: Callable[..., str]) -> None:
    with Runner("long", workers=1) as rr, Gate() as gate:
        held = rr.service(hold)(gate)
        gate.entered()
        service = rr.service(add)
        futures = [service(held, number) for number in range(30)] + [service(number) for number in range(30)]
        text = said()
        assert "    and 10 more\n" in text
        assert "  and 10 more READY\n" in text
        assert "  and 10 more WAITING\n" in text
        text = said(None, "--all")
        assert " more" not in text
        assert text.count(": WAITING; ") == 30
        gate.open()
        with contextlib.suppress(TypeError):  # None + a number
            rr.get(futures)


def test_as_a_user_runs_it(project: Path) -> None:
    with Runner("user", workers=1):
        command = [sys.executable, "-m", "flame_fast", "dump", str(os.getpid())]
        done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("runner of the driver")
    assert done.stdout.endswith("nothing looks wrong\n")


# A runner with something wrong


def test_a_stopped_worker_is_found_by_what_it_runs(project: Path, said: Callable[..., str]) -> None:
    with Runner("stopped", workers=1) as rr, Gate() as gate:
        future = rr.service(add)(rr.service(hold)(gate, 1), 1)
        gate.entered()
        (pid,) = workers()
        with stopped(pid):
            text = said()
            (line,) = section(text, "what looks wrong")
            assert re.fullmatch(
                rf"worker \d+ \(pid {pid}\) is stopped while it runs slot \d+ \(service 1 'hold'\); "
                rf"it goes on after kill -CONT {pid}",
                line,
            )
            assert f"(pid {pid}), which is stopped: 1 in all wait for it\n" in text
        gate.open()
        assert future.get() == 2
        assert said().endswith("nothing looks wrong\n")


def test_a_stopped_supervisor_is_told_with_what_to_do(project: Path, said: Callable[..., str]) -> None:
    with Runner("unsupervised", workers=2) as rr, Gate() as gate:
        future = rr.service(hold)(gate)
        gate.entered()
        (supervisor,) = zygotes()
        busy = [pid for pid in workers() if f"(pid {pid}): alive" in said() and f"(pid {pid}), runs" not in said()]
        assert busy
        with stopped(supervisor):
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: state_of(pid) == "zombie", "a worker's death")
            first, *others = section(said(), "what looks wrong")
            assert first == (
                "the supervisor is stopped: nothing is recovered and no worker is started until it goes on: "
                f"kill -CONT {supervisor}, or kill it (kill -9 {supervisor}), the driver replaces it"
            )
            assert any(
                re.search(r"has ended while it runs slot \d+ \(service 0 'hold'\), and the supervisor", line)
                for line in others
            )
            assert any("has ended and runs nothing, and the supervisor has not recovered" in line for line in others)
        with pytest.raises(FlameError):
            future.get()


def test_calls_that_no_worker_looks_at(project: Path, said: Callable[..., str]) -> None:
    with Runner("asleep", workers=2) as rr:
        service = rr.service(add)
        service(1).get()
        wait_until(lambda: sleeping_workers() == 2, "the workers' sleep")
        with contextlib.ExitStack() as stack:
            for pid in workers():
                stack.enter_context(stopped(pid))
            future = service(1, 2)
            lines = section(said(), "what looks wrong")
            assert re.fullmatch(
                r"slot \d+ \(service 0 'add'\) is the first call that could run in queue 0, and no worker looks at it: "
                r"of 2 workers \(2 wanted\) \d sleep, 0 wait for other calls, 2 are stopped or have ended",
                lines[-1],
            )
        assert future.get() == 3


def test_a_lock_that_a_stopped_process_holds(said: Callable[..., str]) -> None:
    """The dump does not take the lock.

    The process stops at its first write into an extent, for which it holds the lock.
    """
    family = Family()
    try:

        def stop_in_the_lock() -> None:
            words = Words(family.runtime)
            first = words.place("extents", 0, "kind")[0]
            words.at_touches((first, lambda: os.kill(os.getpid(), signal.SIGSTOP)))
            family.runtime.put(bytes(100_000))

        relative = family.fork(stop_in_the_lock)
        wait_until(lambda: state_of(relative.pid) == "stopped", "a process's stop")
        text = said()
        assert f"the lock is held by worker {relative.index} (pid {relative.pid}), which is stopped" in text
        assert f"goes on (kill -CONT {relative.pid}), or ends (kill -9 {relative.pid})" in text
    finally:
        family.close()


ORPHANS = """
import os, sys, time
from flame_fast import Runner
from process_events import hold, tell, zygotes

with Runner("orphans", workers=1) as rr:
    future = rr.service(hold)(sys.argv[1], sys.argv[2])
    tell(sys.argv[3], zygotes()[0])
    future.get()
"""


def test_a_dead_driver_whose_supervisor_is_stopped(project: Path, fifo, said: Callable[..., str]) -> None:
    said_by_task, gate, told = fifo("said"), fifo("gate"), fifo("told")
    driver = Driver(ORPHANS, project, said_by_task, gate, told)
    supervisor = int(told.read_line())
    said_by_task.read_line()
    with stopped(supervisor):
        (worker,) = children(supervisor)
        driver.kill()
        driver.wait()
        text = said(worker)
        assert section(text, "what looks wrong") == [
            "the supervisor is stopped: nothing is recovered and no worker is started until it goes on: "
            f"kill -CONT {supervisor}",
            f"the driver (pid {driver.pid}) has ended, and the supervisor has not ended the runner",
        ]
        assert said(supervisor) == text


# States that cannot last


class Made(Picture):
    """A picture that no runner of these tests comes to."""

    def __init__(self, slots: list[dict], queues: list[dict] = [], lock_holder: int | None = None) -> None:  # noqa: B006
        plain = {
            "method": 0,
            "service": 0,
            "creator": 0,
            "generation": 1,
            "owner": None,
            "started": True,
            "has_payload": True,
        }
        plain |= {
            "waits_for": [],
            "waits_for_any": False,
            "dependencies": 0,
            "missing": 0,
            "missing_slots": [],
            "submitting": False,
        }
        self.runner = {"lock_holder": lock_holder, "workers": 1}
        entry = {"alive": "alive", "runs": None, "sleeping": False, "retiring": False, "blocked": False, "state": "LIVE"}
        self.processes = {
            index: entry | {"index": index, "role": role, "pid": 100 + index}
            for index, role in enumerate(["driver", "supervisor", "worker"])
        }
        self.services, self.counts = {}, {}
        self.slots = {slot["index"]: plain | slot for slot in slots}
        self.queues = {queue["index"]: {"ordered": False, "limit": 0, "head": 0, "tail": 0} | queue for queue in queues}

    def status_of(self, slot: int) -> str:
        return self.slots[slot]["status"] if slot in self.slots else "DONE"


def findings(*args, **kwargs) -> list[str]:
    return list(diagnosis.wrong(Made(*args, **kwargs)).values())


def test_a_queued_call_that_no_queue_names() -> None:
    slot = {"index": 7, "status": "READY"}
    assert findings([slot]) == ["slot 7 (service 0) is READY, and no queue names it: it never runs"]
    assert findings([slot], [{"index": 0, "entries": [(3, 7, True)], "permits": []}]) == []


def test_a_waiting_call_that_no_process_told() -> None:
    waiting = {"index": 7, "status": "WAITING", "dependencies": 2}
    assert findings([waiting]) == [
        "slot 7 (service 0) is WAITING, and all its dependencies are finished: no process made it ready"
    ]
    (line,) = findings([waiting | {"missing": 1, "missing_slots": [9]}])
    assert line == "slot 7 (service 0) waits for slot 9, which is finished: no process told it"
    (line,) = findings([waiting | {"submitting": True, "creator": 5}])
    assert line == "slot 7 (service 0) waits for process 5 (which is not in the table) to finish its submission"


def test_a_call_of_a_process_that_is_not_there() -> None:
    (line,) = findings([{"index": 1, "status": "RUNNING", "owner": 9}])
    assert line == "slot 1 (service 0) runs in process 9, which is not in the table"


def test_a_lock_of_a_process_that_has_ended_is_no_fault() -> None:
    """The kernel gives the lock of a dead process to the next one that asks."""
    assert findings([], lock_holder=9) == []


def test_calls_that_wait_for_each_other() -> None:
    one, two = ({"index": index, "status": "RUNNING", "owner": 2, "waits_for": [3 - index]} for index in (1, 2))
    (line,) = findings([one, two])
    assert line.endswith("waits for slot 1 (service 0): these calls wait for each other for ever")
    assert findings([one, two | {"waits_for_any": True}]) == []


def test_rings_are_found_in_any_graph() -> None:
    assert diagnosis.find_rings({1: [2], 2: [3], 3: [], 4: [3, 1]}) == []
    assert diagnosis.find_rings({1: [2], 2: [3, 4], 3: [2], 4: []}) == [[2, 3, 2]]
    assert diagnosis.find_rings({1: [1]}) == [[1, 1]]
    long = {number: [number + 1] for number in range(10_000)} | {10_000: []}
    assert diagnosis.find_rings(long) == []


# The segment stays unchanged


def pages(fd: int) -> tuple[int, list[tuple[int, bytes]]]:
    """Return the blocks allocated, and the pages of a sparse file that are there."""
    found = []
    at = 0
    with contextlib.suppress(OSError):  # no data any further
        while True:
            at = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, at, os.SEEK_HOLE)
            found.append((at, os.pread(fd, end - at, at)))
            at = end
    return os.fstat(fd).st_blocks, found


def test_an_idle_runner_is_left_as_it_was(project: Path, said: Callable[..., str]) -> None:
    """Every byte stays, and no page is added."""
    with Runner("idle", workers=2) as rr, Gate() as gate:
        future = rr.service(add)(rr.service(hold)(gate, 1), 1)
        gate.open()
        assert future.get() == 2
        wait_until(lambda: sleeping_workers() == 2, "the workers' sleep")
        with segment() as fd:
            before = pages(fd)
            assert said(None, "--all").endswith("nothing looks wrong\n")
            assert said(workers()[0], "--json")
            assert pages(fd) == before


# Processes without a runner


def test_a_process_that_is_none_is_told_in_one_line(refused: Callable[[int], str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert refused(ended.pid) == f"flame_fast: there is no process {ended.pid}\n"
    assert refused(-1) == "flame_fast: there is no process -1\n"


def test_a_zombie_is_told_in_one_line(refused: Callable[[int], str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: state_of(ended.pid) == "zombie", "a process's end")
    try:
        assert refused(ended.pid).startswith(f"flame_fast: process {ended.pid} has ended, and waits for its parent")
    finally:
        ended.wait()


def test_a_process_without_a_runner_is_told_in_one_line(refused: Callable[[int], str]) -> None:
    assert refused(os.getpid()) == f"flame_fast: process {os.getpid()} is no process of a runner\n"


def test_another_users_process_is_told_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = 1 if os.getuid() else os.getpid()

    def look() -> None:
        if not os.getuid():
            os.setgid(65534)
            os.setuid(65534)
        assert main(["dump", str(foreign)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"flame_fast: process {foreign} is another user's: look at it as that user, or with `sudo`\n"

    assert passes_in_child(look)


def test_arguments_that_make_no_sense_are_answered_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["dump"], ["dump", "x"], ["dump", "1", "2"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: python -m flame_fast" in capsys.readouterr().err


@contextlib.contextmanager
def copied(source: int) -> Iterator[int]:
    """Open a copy of a segment, as sparse, as if this process had it."""
    fd = os.memfd_create(SEGMENT.removeprefix("/memfd:").removesuffix(" (deleted)"), os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, os.fstat(source).st_size)
        for at, data in pages(source)[1]:
            os.pwrite(fd, data, at)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def busy_copy() -> Iterator[int]:
    """Open a copy of the segment of a runner that was in the middle of something."""
    with contextlib.ExitStack() as stack:
        with Runner("copied", workers=1) as rr, Gate() as gate:
            held = rr.service(hold)(gate, 1)
            service, counter = rr.service(add), rr.service(Victim())
            futures = [service(held, 1), [service(number, 1) for number in range(5)], counter.add(held), counter.add(1)]
            futures.append(rr.service(add)(rr.put_object(bytes(100_000)), b""))
            gate.entered()
            with segment() as fd:
                copy = stack.enter_context(copied(fd))
            gate.open()
            rr.get(futures)
        yield copy


def test_a_segment_of_another_version_is_told_in_one_line(project: Path, refused: Callable[[int], str]) -> None:
    with busy_copy() as fd:
        os.pwrite(fd, b"\0\0\0\0", LAYOUT_AT)
        assert "its runner is of another version of flame_fast" in refused(os.getpid())
        os.pwrite(fd, b"\0\0\0\0", 0)
        assert "it is no segment of a runner" in refused(os.getpid())
        os.ftruncate(fd, 1 << 20)
        assert "it is no segment of a runner" in refused(os.getpid())


def test_a_service_of_no_known_kind_has_no_description(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are quoted where they are printed; a kind is not."""
    monkeypatch.setattr(dump, "SECOND_LOOK_S", 0.0)
    with busy_copy() as fd:
        kinds = [at + found.start() for at, data in pages(fd)[1] for found in re.finditer(b'"function"', data)]
        assert kinds and any("(function)" in line for line in dump.dump(os.getpid()))
        for place in kinds:
            os.pwrite(fd, rb'"functi\n"', place)
        lines = list(dump.dump(os.getpid()))
    assert all(line.isprintable() for line in lines)
    assert any(re.match(r"  service \d+: OPEN", line) for line in lines)


def test_no_bytes_make_it_fail(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bytes a segment has, the dump ends: it describes them, or says that they are no segment."""
    monkeypatch.setattr(dump, "SECOND_LOOK_S", 0.0)
    with busy_copy() as fd:
        whole = b"".join(data for _, data in pages(fd)[1])
        places = [place for at, data in pages(fd)[1] for place in range(at, at + len(data))]
        used = [place for place, byte in zip(places, whole, strict=True) if byte]  # bytes that mean something
        changes = st.lists(
            st.tuples(st.sampled_from(used) | st.sampled_from(places), st.binary(min_size=1, max_size=8)),
            min_size=1,
            max_size=30,
        )

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(changes)
        def look(changes: list[tuple[int, bytes]]) -> None:
            before = [(place, os.pread(fd, len(data), place)) for place, data in changes]
            try:
                for place, data in changes:
                    os.pwrite(fd, data, place)
                with contextlib.suppress(FlameError):
                    for line in dump.dump(os.getpid()):
                        assert line.isprintable() or line == ""
            finally:
                for place, data in reversed(before):
                    os.pwrite(fd, data, place)

        look()
