"""The supervisor (zygote) dies at each step of starting a process; its successor finds every worker, and only those."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest
from flame_fast.kernels.runtime import ProcessState, Role, Supervisor
from process_events import PATIENCE_S, fifos, hold, open_pidfds, still_alive, wait_until, zygotes
from runtime_harness import POOL, Family

from flame_fast import Runner, WorkerDiedError
from flame_fast.engine import spawn
from flame_fast.engine.spawn import start_time
from flame_fast.engine.zygote import worker_left

PR_SET_PDEATHSIG = 1

#: The supervisor acts at its next fork, once a file is there.
AT_FORK = """\
import os, signal
def hooked(fork=os.fork):
    try:
        os.unlink({path!r})
    except FileNotFoundError:
        return fork()
    {deed}
os.fork = hooked
"""
DIE_BEFORE = "os.kill(os.getpid(), signal.SIGKILL)"
STOP_AFTER = "pid = fork()\n    if pid: os.kill(os.getpid(), signal.SIGSTOP)\n    return pid"
#: A supervisor that cannot end what the one before has left, as if that were in a system call that nothing interrupts.
POWERLESS = "zygote.kill = lambda child: None; zygote.RECOVER_S = 0.05\nzygote.main("


class Counter:
    def __init__(self):
        self.calls = 0

    def hold(self, said, gate):
        self.calls += 1
        return hold(said, gate, self.calls)

    def count(self):
        self.calls += 1
        return self.calls


def escape(said, gate):
    """Task: stay out of its zygote's reach.

    The task is in a session of its own, and told of no death, as after a change of its user.
    """
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    return hold(said, gate, os.getpid())


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


@pytest.fixture
def at_fork(monkeypatch, project):
    """Lets the supervisors of later Runners act at the fork after the next `arm()`."""

    def hook(deed):
        path = project / "armed"
        text = AT_FORK.format(path=str(path), deed=deed).replace("{", "{{").replace("}", "}}")
        monkeypatch.setattr(spawn, "BOOTSTRAP", text + spawn.BOOTSTRAP)
        return path.touch

    return hook


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def kill_zygote():
    """Return once it has ended."""
    (zygote,) = zygotes()
    ends = open_pidfds([zygote])
    os.kill(zygote, signal.SIGKILL)
    assert not still_alive(ends, PATIENCE_S)


def test_a_call_that_had_begun_fails_though_the_zygote_died_right_after_the_fork(at_fork, fifo):
    """It has forked an instance's process and done nothing more; that process has begun the first call."""
    arm, said, gate = at_fork(STOP_AFTER), fifo("said"), fifo("gate")
    with Runner("starting", workers=1) as rr:
        assert rr.service(pow)(2, 1).get(PATIENCE_S) == 2
        (zygote,) = zygotes()
        arm()
        instance = rr.service(Counter())
        begun = instance.hold(said, gate)
        said.read_pids(1)
        wait_until(lambda: is_stopped(zygote))
        kill_zygote()
        assert isinstance(begun.exception(PATIENCE_S), WorkerDiedError)
        assert isinstance(instance.count().exception(PATIENCE_S), WorkerDiedError)
        assert rr.service(pow)(2, 2).get(PATIENCE_S) == 4


def test_an_instance_is_started_though_the_zygote_died_right_before_the_fork(at_fork):
    arm = at_fork(DIE_BEFORE)
    with Runner("starting", workers=1) as rr:
        assert rr.service(pow)(2, 1).get(PATIENCE_S) == 2
        arm()
        instance = rr.service(Counter())
        assert rr.get([instance.count() for _ in range(3)], PATIENCE_S) == [1, 2, 3]


def test_a_worker_is_started_though_the_zygote_died_right_before_the_fork(at_fork, fifo):
    """As often as one likes: none of the entries of those that were never started is lost."""
    arm, said, gate = at_fork(DIE_BEFORE), fifo("said"), fifo("gate")
    with Runner("starting", workers=1) as rr:
        for number in range(3):
            held = rr.service(hold)(said, gate)
            (victim,) = said.read_pids(1)
            arm()
            os.kill(victim, signal.SIGKILL)
            assert isinstance(held.exception(PATIENCE_S), WorkerDiedError)
            assert rr.service(pow)(2, number).get(PATIENCE_S) == 2**number
        assert [entry.state for entry in Supervisor(rr._engine.runtime).processes()] == [ProcessState.LIVE]


def test_a_task_that_its_supervisor_s_death_does_not_reach_is_ended_by_the_next_one(fifo):
    said, gate = fifo("said"), fifo("gate")
    with Runner("escaping", workers=1) as rr:
        escaped = rr.service(escape)(said, gate)
        ends = open_pidfds(said.read_pids(1))
        kill_zygote()
        assert isinstance(escaped.exception(PATIENCE_S), WorkerDiedError)
        assert not still_alive(ends, 0.0)
        assert rr.service(pow)(2, 3).get(PATIENCE_S) == 8


def test_a_worker_that_cannot_be_ended_is_not_recovered_alive(fifo, monkeypatch):
    """The worker's call goes on and has its value, and then the worker works for the next supervisor."""
    said, gate = fifo("said"), fifo("gate")
    monkeypatch.setattr(spawn, "BOOTSTRAP", spawn.BOOTSTRAP.replace("zygote.main(", POWERLESS))
    with Runner("straggling", workers=1) as rr:
        escaped = rr.service(escape)(said, gate)
        (pid,) = said.read_pids(1)
        kill_zygote()
        service, instance = rr.service(pow), rr.service(Counter())
        assert instance.count().get(PATIENCE_S) == 1  # the next one has begun to start processes
        queued = [service(2, number) for number in range(100)]
        gate.open_gate()
        assert escaped.get(PATIENCE_S) == pid
        assert rr.get(queued, PATIENCE_S) == [2**number for number in range(100)]
        ends = open_pidfds([pid])
        os.kill(pid, signal.SIGKILL)
        assert not still_alive(ends, PATIENCE_S)
        assert rr.service(pow)(2, 3).get(PATIENCE_S) == 8


def test_a_process_that_was_called_off_takes_no_entry():
    """Its supervisor died, and the next one has forked another process for the same entry."""
    family = Family()
    try:
        service, _, queue = family.service([], 2, ("append",))
        family.runtime.start_instance(service)
        (process,) = family.supervisor.processes()
        index, state, role = process.index, process.state, process.role
        assert (state, role) == (ProcessState.REQUESTED, Role.INSTANCE)
        first = family.supervisor.start(index)
        assert [entry.state for entry in family.supervisor.processes()] == [ProcessState.STARTING]
        assert family.supervisor.cancel_start(index)
        assert [(entry.state, entry.role, entry.queue) for entry in family.supervisor.processes()] == [
            (ProcessState.REQUESTED, Role.INSTANCE, queue)
        ]
        second = family.supervisor.start(index)
        took = family.take_in_children(index, [first, second, second])
        assert took == [False, True, False]
        assert [entry.state for entry in family.supervisor.processes()] == [ProcessState.LIVE]
        assert not family.supervisor.cancel_start(index)
    finally:
        family.close()


def test_an_entry_that_is_being_filled_in_has_no_owner_yet():
    """It was a pool worker's once, and says so still."""
    family = Family()
    try:
        relative = family.fork(lambda: None)
        family.recover_process(relative)
        assert family.runtime.request_process(POOL, 0) == relative.index
        assert family.supervisor.processes() == []
    finally:
        family.close()


def test_a_number_that_is_another_process_s_by_now_is_no_worker(fifo):
    """A worker is known by its number and the moment of its start."""
    me, session = os.getpid(), os.getsid(0)
    assert worker_left(2, POOL, me, start_time(me) + 1, session) is None
    assert worker_left(2, POOL, me, 0, session + 1) is None
    for born in (start_time(me), 0):
        child = worker_left(2, POOL, me, born, session)
        assert child is not None and child.pid == me
        os.close(child.pidfd)
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    assert worker_left(2, POOL, pid, 1, session) is None
