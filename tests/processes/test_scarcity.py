"""Scarcity: no thread, no process, no descriptor, a system call that is refused. It is said, and nothing stays."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading

import pytest
from flame_fast.kernels.runtime import serialization
from gates import passes_in_child, same
from process_events import PATIENCE_S, Victim, children, fifos, hold, leavings, wait_until, workers, zygotes
from seccomp import refuse

from flame_fast import FlameError, FlameErrorCode, Runner
from flame_fast.engine import shortage
from flame_fast.engine.preload import NUMPY, Preloading


def refused(home):
    """Return the message of a Runner that cannot start; check that nothing of it stays."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FlameError) as caught:
        Runner("scarce", workers=1)
    assert caught.value.code is FlameErrorCode.INTERNAL
    assert (children(os.getpid()), leavings(home), len(os.listdir("/proc/self/fd"))) == ([], [], before)
    return caught.value.message


@pytest.fixture
def no_threads():
    """Have no thread start: its stack would be larger than all addresses."""
    before = threading.stack_size(1 << 47)
    yield
    threading.stack_size(before)


def test_without_a_thread_for_output_nothing_starts(project, nothing_left, no_threads):
    message = refused(nothing_left)
    for told in ("no thread can be started", "workers print", "ulimit -u", "pids.max", "ulimit -v"):
        assert told in message


def test_without_a_thread_a_future_of_another_runner_fails(project, alone, no_threads):
    foreign = alone.runtime.promise()
    adopted = serialization.adopt(alone.runtime, foreign)
    assert "no thread can be started" in adopted.exception(PATIENCE_S).message


def test_without_a_thread_the_supervisor_itself_preloads(no_threads):
    preloading = Preloading(lambda: None)
    assert not preloading.is_busy(NUMPY)
    assert preloading.loaded == NUMPY
    assert not preloading.is_busy(NUMPY)


@pytest.mark.parametrize(
    ("call", "error", "version"),
    [
        ("memfd_create", errno.ENOSYS, "3.17"),
        ("eventfd", errno.EPERM, "2.6.27"),
        ("pidfd_open", errno.ENOSYS, "5.3"),
        ("pidfd_open", errno.EPERM, "5.3"),
        ("flock", errno.ENOSYS, "2.0"),
    ],
)
def test_a_refused_system_call_is_named(call, error, version, project, nothing_left):
    def start():
        refuse(call, error)
        message = refused(nothing_left)
        for told in (f"{call} is refused here ({errno.errorcode[error]})", f"Linux {version}", "seccomp"):
            assert told in message, message
        assert message.count("refused") == 1

    assert passes_in_child(start)


def test_where_nobody_tells_the_affinity_all_cpus_count(project):
    def start():
        refuse("sched_getaffinity", errno.EPERM)
        with Runner("affine") as rr:
            assert rr.service(same)(7).get(PATIENCE_S) == 7
            assert 1 <= rr._engine.workers <= os.cpu_count()

    assert passes_in_child(start)


def test_without_descriptors_nothing_starts(project, nothing_left):
    """So many are left each time; with the first limit none is above the fixed numbers of the supervisor's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def start():
        taken = set(map(int, os.listdir("/proc/self/fd")))
        free = [number for number in range(soft) if number not in taken]
        for most in (12, *(free[spare] for spare in range(9))):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            try:
                Runner("scarce", workers=1)
            except FlameError as error:
                message = error.message
            else:
                raise AssertionError(f"it started with {most}")
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert f"`ulimit -n` is {most}" in message or "left (`ulimit -n`)" in message, message
            assert (children(os.getpid()), leavings(nothing_left)) == ([], [])
            assert len(os.listdir("/proc/self/fd")) == len(taken)

    assert passes_in_child(start)


def bound_descriptors(pid, most=None):
    """Have a supervisor start no process: none of its descriptors below this number is free. None: have it start them."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard if most is None else most, hard))


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


def test_calls_fail_that_no_process_serves_and_others_wait(project, fifo, capfd):
    """Two runners at a time, since the supervisors try for 2 seconds: one has lost its worker, one has a busy one left."""
    with Runner("none", workers=1) as none, Runner("one", workers=2) as one:
        supervisors = zygotes()
        runners = [(none, none.service(same), none.service(Victim())), (one, one.service(same), one.service(Victim()))]
        assert [service(1).get(PATIENCE_S) for _, service, _ in runners] == [1, 1]
        wait_until(lambda: len(workers()) == 3)
        said, gate = fifo("said"), fifo("gate")
        held = one.service(hold)(said.path, gate.path, "held")
        (busy,) = said.read_pids(1)
        for pid in supervisors:
            bound_descriptors(pid, 7)
        for pid in workers():
            if pid != busy:
                os.kill(pid, signal.SIGKILL)
        calls = [(service(2), instance.add(3)) for _, service, instance in runners]
        errors = [calls[0][0].exception(PATIENCE_S), *(instance.exception(PATIENCE_S) for _, instance in calls)]
        for error, name in zip(errors, ("none", "none", "one"), strict=True):
            assert type(error) is FlameError
            for told in (f"no process of runner {name!r} can be started", "Too many open files", "ulimit -n", "for 2 s"):
                assert told in error.message
        assert not calls[1][0].done()
        gate.open_gate()
        assert (held.get(PATIENCE_S), calls[1][0].get(PATIENCE_S)) == ("held", 2)
        for pid in supervisors:
            bound_descriptors(pid)
        assert [service(4).get(PATIENCE_S) for _, service, _ in runners] == [4, 4]
        assert [instance.add(5).get(PATIENCE_S) for _, _, instance in runners] == [5, 5]
    assert capfd.readouterr().err.count("can be started") == 2


def test_each_call_is_tried_anew_and_the_message_comes_once(alone, monkeypatch, capsys):
    monkeypatch.setattr(shortage, "PATIENCE_S", 0.0)
    now = shortage.Shortage(alone.supervisor)
    refusal = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    service = alone.service(same)
    for _ in range(2):
        call = alone.call(service, 1)
        assert now.goes_on(refusal) == shortage.LOOK_S
        assert "pids.max" in call.exception(0).message
        assert now.goes_on(refusal) == shortage.LOOK_S
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(shortage, "PATIENCE_S", 60.0)
    call = alone.call(service, 1)
    assert now.goes_on(refusal) == now.goes_on(refusal) == shortage.RETRY_S
    assert not call.done()
    alone.work()
    assert call.get() == 1
    now.end()
    monkeypatch.setattr(shortage, "PATIENCE_S", 0.0)
    now.goes_on(MemoryError())
    assert "ulimit -v" in capsys.readouterr().err
