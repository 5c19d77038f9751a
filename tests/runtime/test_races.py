"""One test per fault found by review: its docstring tells the interleaving or the circumstance that it takes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from flame_fast.kernels.runtime import ProcessState, Role, Supervisor
from gates import PATIENCE_S, meet, new_module, same, wait_until

from flame_fast import FlameError, FlameErrorCode, Runner, StoreFullError, WorkerDiedError


@pytest.fixture
def rr(project):
    with Runner("races", workers=2) as runner:
        yield runner


def processes(runner):
    """Return the pids of the live ones: an entry that is only requested has none yet."""
    return [
        entry.pid
        for entry in Supervisor(runner._engine.runtime).processes()
        if entry.state == ProcessState.LIVE and entry.pid
    ]


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def state_of(pid):
    """Return the letter that the kernel gives for a process's state; X once the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_asleep(pid):
    """Return whether a process sleeps in a futex, as an idle worker does: a spinning one never sleeps for long."""
    return state_of(pid) == "S"


def test_workers_sleep_though_calls_came_before_their_warmup(rr):
    """A call makes a worker load the service before it looks for what to load ahead: no worker counted that warm-up."""
    service = rr.service(same, warmup=2)
    rr.get([service(i) for i in range(200)])
    workers = processes(rr)
    wait_until(lambda: all(map(is_asleep, workers)))
    before = sum(map(cpu_ticks, workers))
    for _ in range(20):  # one tick is 10 ms; a worker that spins uses them all
        threading.Event().wait(0.05)
    assert sum(map(cpu_ticks, workers)) - before < 50


def fork_and_return(value):
    """Let the child of a task come to the task's end, too."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return value


def fork_and_exit(value):
    child = os.fork()
    if not child:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_process_that_a_task_forks_is_no_worker(project):
    """The child's copy of the task would finish the parent's slot, and serve on under the parent's number."""
    with Runner("forks", workers=1) as rr:
        returning, exiting, pid = rr.service(fork_and_return), rr.service(fork_and_exit), rr.service(os.getpid)
        worker = pid().get()
        assert [returning(i).get() for i in range(20)] == list(range(20))
        assert exiting(0).get() == 3
        assert {future.get() for future in [pid() for _ in range(50)]} == {worker}


def test_a_forked_child_reads_no_futures_of_its_parent(rr):
    """It has no reference to the slot: the parent may drop the future, and the slot has another value then."""
    future = rr.service(same)("secret")
    assert future.get() == "secret"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for ask in (future.get, future.done, future.wait, future.exception, future.ref):
                try:
                    os.write(write, f"got {ask()}\n".encode())
                except FlameError as error:
                    os.write(write, f"{error.code.name}\n".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read) as file:
        assert file.read().split() == ["INVALID_STATE"] * 5


def test_futures_in_a_cycle_give_their_memory_back(rr):
    """The collector clears a future's references before its destructor runs, if it takes part in collecting at all."""
    service = rr.service(same)
    rr.get([service(0)])
    before = rr._engine.runtime.statistics()["slots"]
    for _ in range(50):
        future = service("x" * 100_000)
        holder = [future]
        holder.append(holder)
        future.get()
    del future, holder
    gc.collect()
    assert rr._engine.runtime.statistics()["slots"] == before


def in_thread(service, value):
    out = []
    thread = threading.Thread(target=lambda: out.append(service(value).get()))
    thread.start()
    thread.join()
    return out[0]


async def in_coroutine(service, value):
    return await asyncio.to_thread(service(value).get)


@pytest.mark.parametrize("waiting", [in_thread, in_coroutine])
def test_a_wait_in_another_thread_of_a_task_gets_a_worker_too(project, waiting):
    with Runner("threads", workers=1) as rr:
        inner = rr.service(same)
        assert rr.service(waiting)(inner, 7).get(PATIENCE_S) == 7


class Slow:
    def hold(self, path):
        with open(path):
            return "held"

    def give(self, value):
        return value


def ask(instance, value):
    return instance.give(value).get()


def fail():
    raise LookupError("gone")


def test_a_call_that_failed_in_a_queue_is_not_taken_for_the_next_user_of_its_slot(rr, tmp_path):
    """The call's entry stays in a busy instance's queue; a task that waits for that very instance uses the slot anew."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    instance, failing, asking = rr.service(Slow()), rr.service(fail), rr.service(ask)
    assert asking(instance, 0).get() == 0
    bad = failing()
    with pytest.raises(LookupError):
        bad.get()
    held = instance.hold(str(gate))
    instance.give(bad)  # fails at once, is dropped: its slot is free
    future = asking(instance, 3)
    with open(gate, "w"):
        pass
    assert (held.get(), future.get(PATIENCE_S)) == ("held", 3)


def test_an_instance_that_dies_with_the_store_full_takes_nothing_with_it(project):
    """The store has no room for the error either."""
    with Runner("full", workers=1, memory=64 << 20) as rr:
        instance, service = rr.service(Slow()), rr.service(same)
        assert (instance.give(1).get(), service(1).get()) == (1, 1)
        victim = rr.service(os.getpid)
        assert victim().get() in processes(rr)
        held, size = [], 1 << 24
        while size >= 256:  # smaller ones lie in the table itself
            try:
                held.append(rr.put_object(b"x" * size))
            except StoreFullError:
                size //= 2
        pid = next(entry.pid for entry in Supervisor(rr._engine.runtime).processes() if entry.role == Role.INSTANCE)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in processes(rr))
        assert service(2).get(PATIENCE_S) == 2
        with pytest.raises((WorkerDiedError, StoreFullError)):
            instance.give(1).get(PATIENCE_S)


def test_descriptors_above_1023_do_no_harm(project):
    """`select` refuses them; close() must end all the same."""
    code = """
import os, resource
from flame_fast import Runner
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
with Runner("many", workers=1) as rr:
    print(rr.service(len)([1, 2]).get())
print("closed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("2\nclosed\n", "")


def test_a_module_that_makes_a_runner_when_it_is_imported_is_told_so(project, monkeypatch):
    """Each worker imported it, made a Runner and waited, which added a worker, which imported it."""
    (project / "endless.py").write_text(
        "from flame_fast import Runner\n"
        "def f(x):\n    return x\n"
        "with Runner('endless', workers=1) as rr:\n    result = rr.service(f)(1).get()\n"
    )
    done = subprocess.run([sys.executable, "-c", "import endless"], capture_output=True, text=True, timeout=60, cwd=project)
    assert done.returncode == 1
    assert "INVALID_STATE" in done.stderr.splitlines()[-1]
    assert "__main__" in done.stderr.splitlines()[-1]


def test_a_driver_that_ignores_its_children_learns_how_a_worker_died(project):
    """The supervisor (zygote) would inherit the ignoring, and the kernel would then keep no exit status."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Runner("ignoring", workers=1) as rr, pytest.raises(WorkerDiedError, match="SIGSEGV"):
            rr.service(functools.partial(os.kill))(rr.service(os.getpid)(), signal.SIGSEGV).get(PATIENCE_S)
    finally:
        signal.signal(signal.SIGCHLD, before)


def add_up(*values):
    return sum(map(len, values))


@pytest.mark.parametrize("rounds", [12])
def test_kills_in_the_middle_of_finishing_leave_no_task_waiting(project, rounds):
    """A worker killed after it published an outcome and before it told the tasks that wait for it: they waited for ever."""
    with Runner("kills", workers=2) as rr:
        service, joining = rr.service(same), rr.service(add_up)
        for _ in range(rounds):
            chains = []
            for _ in range(30):
                future = service("x")
                for _ in range(10):
                    future = service(future)
                chains.append(future)
            last = joining(*chains)
            for pid in processes(rr):
                with contextlib.suppress(ProcessLookupError):  # the round before may have killed it
                    os.kill(pid, signal.SIGKILL)
            for future in [*chains, last]:
                assert isinstance(future.exception(PATIENCE_S), (WorkerDiedError, type(None)))
        del chains, future, last
        assert rr.get([service(1)], PATIENCE_S) == [1]


def test_too_large_a_request_does_not_disturb_small_ones(project):
    """The memory must not count against the limit for even a moment."""
    with Runner("limits", workers=1, memory=32 << 20) as rr:
        stop = threading.Event()
        refused = []

        def ask_too_much():
            large = bytes(64 << 20)
            while not stop.is_set():
                try:
                    rr.put_object(large)
                except StoreFullError as error:
                    refused.append(error)

        thread = threading.Thread(target=ask_too_much)
        thread.start()
        try:
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                rr.put_object(b"x" * 1000)
        finally:
            stop.set()
            thread.join()
        assert refused


def test_an_exception_that_cannot_be_described_ends_its_call(project, monkeypatch):
    module = new_module(
        monkeypatch,
        project,
        """
        class Nasty(Exception):
            def __str__(self):
                raise KeyboardInterrupt
            def __reduce__(self):
                raise KeyboardInterrupt
        def nasty():
            raise Nasty
        """,
    )
    with Runner("nasty", workers=1) as rr:
        error = rr.service(module.nasty)().exception(PATIENCE_S)
        assert isinstance(error, FlameError)
        assert error.code is FlameErrorCode.INTERNAL
        assert rr.service(same)(1).get(PATIENCE_S) == 1


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_looked_for_tasks_and_is_stopped_holds_no_call_up(rr, number):
    """A submitter wakes no sleeper while a worker looks for tasks: it must not count on one that looks no more."""
    service = rr.service(os.getpid)
    for _ in range(10):
        rr.get([service() for _ in range(100)])
        wait_until(lambda: any(map(is_asleep, processes(rr))))
        looked = rr.get([service() for _ in range(3)])[-1]
        os.kill(looked, number)
        wait_until(lambda pid=looked: state_of(pid) in "TZX", "the worker's stop")
        try:
            assert looked not in rr.get([service() for _ in range(100)], timeout=PATIENCE_S)
        finally:
            if number == signal.SIGSTOP:
                os.kill(looked, signal.SIGCONT)


def test_calls_made_while_a_worker_looks_for_tasks_get_all_workers_to_work(rr, tmp_path):
    """Each batch is made while one worker looks and the other sleeps; its calls need both at once."""
    service, meeting = rr.service(same), rr.service(meet)
    for batch in range(100):
        for _ in range(20):
            service(1).get()
        rr.get([meeting(str(tmp_path / str(batch)), 2, number) for number in range(2)], timeout=PATIENCE_S)
