"""Workers, instances and the supervisor (zygote) die; only the victim fails, soon, and says how."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import pytest
from flame_fast.kernels.runtime import Supervisor
from process_events import (
    PATIENCE_S,
    Bomb,
    Victim,
    die,
    double,
    fifos,
    hold,
    open_pidfds,
    pid_of_worker,
    still_alive,
    wait_until,
    workers,
    zygotes,
)

from flame_fast import FlameErrorCode, Runner, WorkerDiedError

#: A death is noticed within 100 ms; a deadline of ten times that turns a hang into a failure.
NOTICED_S = 1.0

#: What the message must say of each way to die.
WAYS = {
    "SIGKILL": r"SIGKILL.*\b9\b.*likely cause.*memory",
    "SIGSEGV": r"SIGSEGV.*\b11\b.*likely cause.*native code",
    "SIGABRT": r"SIGABRT.*\b6\b.*likely cause.*native code",
    "exit 3": r"exit code 3\b.*likely cause.*os\._exit",
    "exit 0": r"exit code 0\b.*likely cause.*os\._exit",
}


class DiesAtBirth:
    """A class whose instances cannot be made: every worker that tries dies."""

    way = "exit 3"

    def __init__(self) -> None:
        die(self.way)

    def work(self) -> None: ...


def doomed_class(way: str) -> type:
    return type("DoomedClass", (DiesAtBirth,), {"way": way, "__module__": "__main__"})


class DoomedInstance:
    """An instance whose unpickling kills."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self):
        return (die, (self.way,))

    def work(self) -> None: ...


def call_function(rr, way):
    return rr.service(die)(way), "die"


def call_class(rr, way):
    return rr.service(Victim).die(way), "Victim"


def call_instance(rr, way):
    return rr.service(Victim()).die(way), "Victim"


def call_argument(rr, way):
    return rr.service(double)(Bomb(way)), "double"


def call_argument_of_instance(rr, way):
    return rr.service(Victim()).take([Bomb(way)]), "Victim"


def call_loading_class(rr, way):
    return rr.service(doomed_class(way)).work(), "DoomedClass"


def call_loading_instance(rr, way):
    return rr.service(DoomedInstance(way)).work(), "DoomedInstance"


PLACES = {
    "function": call_function,
    "class": call_class,
    "instance": call_instance,
    "unpickling an argument": call_argument,
    "unpickling an argument of an instance": call_argument_of_instance,
    "loading a class": call_loading_class,
    "loading an instance": call_loading_instance,
}


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


def check_death(error: BaseException, service: str, way: str) -> None:
    assert type(error) is WorkerDiedError
    assert error.code is FlameErrorCode.INTERNAL
    assert re.search(rf"\b{service}\b", error.message), error.message
    assert re.search(WAYS[way], error.message), error.message


@pytest.mark.parametrize("place", PLACES)
def test_only_the_victim_fails(place, fifo):
    """Each way to die, one after the other, beside a call that runs and calls that queue; the pool then is as it was."""
    said, gate = fifo("said"), fifo("gate")
    with Runner("crash", workers=2) as rr:
        twice, holding = rr.service(double), rr.service(hold)
        for way in WAYS:
            neighbour = holding(said, gate, way)
            said.read_line()
            victim, name = PLACES[place](rr, way)
            queued = [twice(number) for number in range(20)]
            check_death(victim.exception(PATIENCE_S), name, way)
            assert not neighbour.done()
            gate.open_gate()
            assert neighbour.get(PATIENCE_S) == way
            assert rr.get(queued, PATIENCE_S) == [2 * number for number in range(20)]
            assert rr.get([twice(number) for number in range(20)], PATIENCE_S) == [2 * number for number in range(20)]


@pytest.mark.parametrize("way", ["SIGKILL", "exit 0"])
def test_each_get_raises_a_fresh_error(way):
    with Runner("fresh", workers=2) as rr:
        victim = rr.service(die)(way)
        errors = []
        for _ in range(2):
            with pytest.raises(WorkerDiedError) as caught:
                victim.get(PATIENCE_S)
            errors.append(caught.value)
        assert errors[0] is not errors[1]
        assert victim.done()


def test_a_death_is_noticed_soon(fifo):
    said, gate = fifo("said"), fifo("gate")
    with Runner("soon", workers=2) as rr:
        for call in (rr.service(hold), rr.service(Victim()).hold):
            victim = call(said, gate)
            (pid,) = said.read_pids(1)
            os.kill(pid, signal.SIGKILL)
            assert isinstance(victim.exception(NOTICED_S), WorkerDiedError)


def test_a_crash_in_native_code_is_noticed_soon():
    """A core dump of the segment would take seconds."""
    with Runner("soon", workers=2) as rr:
        rr.get(rr.service(double)(1), PATIENCE_S)
        for way in ("SIGSEGV", "SIGABRT"):
            assert isinstance(rr.service(die)(way).exception(NOTICED_S), WorkerDiedError)


def test_queued_calls_are_not_touched_when_all_workers_are_killed_at_once(fifo):
    said, gate = fifo("said"), fifo("gate")
    with Runner("massacre", workers=2) as rr:
        holding, twice = rr.service(hold), rr.service(double)
        victims = [holding(said, gate) for _ in range(2)]
        pids = said.read_pids(2)
        queued = [twice(number) for number in range(100)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for victim in victims:
            check_death(victim.exception(PATIENCE_S), "hold", "SIGKILL")
        assert rr.get(queued, PATIENCE_S) == [2 * number for number in range(100)]
        assert not set(rr.get([rr.service(pid_of_worker)() for _ in range(10)], PATIENCE_S)) & set(pids)


def test_idle_workers_may_be_killed():
    """They ran nothing, so nothing fails; new ones take their places."""
    with Runner("idle", workers=2) as rr:
        service = rr.service(double)
        for _ in range(3):
            rr.get([service(number) for number in range(10)], PATIENCE_S)
            wait_until(lambda: len(workers()) == 2, what="two workers")
            killed = workers()
            ends = open_pidfds(killed)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            assert still_alive(ends, PATIENCE_S) == []
            assert rr.get([service(number) for number in range(10)], PATIENCE_S) == list(range(0, 20, 2))
            wait_until(lambda: len(workers()) == 2, what="two new workers")
            assert not set(workers()) & set(killed)


def test_an_idle_class_worker_that_dies_loses_only_its_own_instance():
    with Runner("counting", workers=1) as rr:
        counter = rr.service(Victim)
        assert rr.get([counter.add(1), counter.add(1)], PATIENCE_S) == [1, 2]
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)
        assert counter.add(1).get(PATIENCE_S) == 1


def test_deaths_in_a_row_do_not_use_the_pool_up():
    with Runner("row", workers=2) as rr:
        dying, twice = rr.service(die), rr.service(double)
        calls = [(dying("SIGKILL"), twice(number)) for number in range(30)]
        for number, (victim, survivor) in enumerate(calls):
            assert survivor.get(PATIENCE_S) == 2 * number
            check_death(victim.exception(PATIENCE_S), "die", "SIGKILL")
        wait_until(lambda: len(workers()) == 2, what="two workers")


def test_what_needs_the_dead_call_fails_with_the_same_error(fifo):
    said, gate = fifo("said"), fifo("gate")
    with Runner("needs", workers=2) as rr:
        twice = rr.service(double)
        victim = rr.service(hold)(said, gate, 1)
        chain = twice(twice(victim))
        ordered = rr.service(Victim())
        beside, behind = ordered.add(victim), ordered.add(5)
        os.kill(int(said.read_line()), signal.SIGKILL)
        for future in (victim, chain, beside):
            check_death(future.exception(PATIENCE_S), "hold", "SIGKILL")
        assert behind.get(PATIENCE_S) == 5


def test_rr_get_and_select_go_on_over_a_death():
    with Runner("shapes", workers=2) as rr:
        twice = rr.service(double)
        futures = [twice(1), rr.service(die)("exit 3"), twice(2)]
        with pytest.raises(WorkerDiedError):
            rr.get(futures, PATIENCE_S)
        with pytest.raises(WorkerDiedError):
            rr.wait(futures, PATIENCE_S)
        finished = list(rr.select(futures, PATIENCE_S))
        assert sorted(map(id, finished)) == sorted(map(id, futures))
        assert rr.get([futures[0], futures[2]]) == [2, 4]


def test_a_dead_instance_fails_its_queue_and_all_later_calls(fifo):
    said, gate = fifo("said"), fifo("gate")
    with Runner("instance", workers=2) as rr:
        mortal, other = rr.service(Victim()), rr.service(Victim())
        assert mortal.add(1).get(PATIENCE_S) == 1
        running = mortal.hold(said, gate)
        (pid,) = said.read_pids(1)
        queued = [mortal.add(1) for _ in range(5)]
        os.kill(pid, signal.SIGKILL)
        for future in (running, *queued):
            check_death(future.exception(PATIENCE_S), "Victim", "SIGKILL")
        for _ in range(3):
            check_death(mortal.add(1).exception(PATIENCE_S), "Victim", "SIGKILL")
        assert other.add(7).get(PATIENCE_S) == 7
        assert rr.service(double)(4).get(PATIENCE_S) == 8
        mortal.close()
        assert rr.service(Victim()).add(3).get(PATIENCE_S) == 3


def test_an_idle_instance_that_is_killed_fails_later_calls():
    with Runner("instance", workers=2) as rr:
        mortal = rr.service(Victim(), warmup=1)
        pid = mortal.pid().get(PATIENCE_S)
        ends = open_pidfds([pid])
        os.kill(pid, signal.SIGKILL)
        assert still_alive(ends, PATIENCE_S) == []
        check_death(mortal.add(1).exception(PATIENCE_S), "Victim", "SIGKILL")


def test_warming_up_may_kill_workers():
    """A class and an instance whose loading kills, loaded ahead of any call: the pool is not held up."""
    with Runner("warm", workers=2) as rr:
        classes = rr.service(doomed_class("exit 3"), warmup=2)
        instance = rr.service(DoomedInstance("exit 3"), warmup=1)
        assert rr.get([rr.service(double)(number) for number in range(10)], PATIENCE_S) == list(range(0, 20, 2))
        check_death(instance.work().exception(PATIENCE_S), "DoomedInstance", "exit 3")
        check_death(classes.work().exception(PATIENCE_S), "DoomedClass", "exit 3")


def test_threads_that_wait_for_the_dead_call_all_learn_of_it(fifo):
    said, gate = fifo("said"), fifo("gate")
    with Runner("threads", workers=2) as rr:
        victim = rr.service(hold)(said, gate)
        (pid,) = said.read_pids(1)
        errors = []
        threads = [
            threading.Thread(target=lambda: errors.append(victim.exception(PATIENCE_S)), daemon=True) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert [type(error) for error in errors] == [WorkerDiedError] * 4


# ---- a task's own calls ----------------------------------------------------------------------------------------------


def nest_and_die(said: str, gate: str, started: int) -> None:
    """Leaves behind calls that run and calls that queue."""
    with Runner("inner") as rr:
        calls = [rr.service(hold)(said, gate) for _ in range(started)]
        calls += [rr.service(double)(number) for number in range(20)]
        instance = rr.service(Victim())
        instance.add(1).get()
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_calls_of_a_task_that_died_hold_nothing_up(fifo):
    said, gate = fifo("said"), fifo("gate")
    with Runner("outer", workers=2) as rr:
        before = rr._engine.runtime.statistics()["slots"]
        victim = rr.service(nest_and_die)(said, gate, 1)
        check_death(victim.exception(PATIENCE_S), "nest_and_die", "SIGKILL")
        gate.open_gate()  # the inner call may still run or not, but it must not block the pool
        twice = rr.service(double)
        assert rr.get([twice(number) for number in range(50)], PATIENCE_S) == list(range(0, 100, 2))
        del victim
        wait_until(lambda: rr._engine.runtime.statistics()["slots"] <= before, what="the orphans' slots given back")


def wait_for_death(way: str) -> str:
    with Runner("inner") as rr:
        error = rr.service(die)(way).exception(PATIENCE_S)
        return f"{type(error).__name__}: {error}"


def test_a_task_sees_its_nested_call_die():
    with Runner("outer", workers=1) as rr:
        text = rr.service(wait_for_death)("SIGSEGV").get(PATIENCE_S)
        assert re.fullmatch(rf"WorkerDiedError:.*{WAYS['SIGSEGV']}.*", text, re.DOTALL)
        assert rr.service(double)(3).get(PATIENCE_S) == 6


def test_a_waiting_task_may_be_killed(fifo):
    """Its permit, its extra worker and its wait go with it."""
    said, gate = fifo("said"), fifo("gate")

    said_path, gate_path = said.path, gate.path

    def outer_call() -> None:
        with Runner("inner") as inner:
            future = inner.service(hold)(said_path, gate_path)
            with open(said_path, "w") as stream:
                stream.write(f"{os.getpid()}\n")
            future.get(60)  # with a time-out it runs nothing meanwhile: another worker does

    with Runner("outer", workers=1) as rr:
        victim = rr.service(outer_call, autoscale=False)()
        first, second = said.read_pids(2)  # in no order
        outer_pid = first if first in _waiting_for_others(rr) else second
        os.kill(outer_pid, signal.SIGKILL)
        assert isinstance(victim.exception(PATIENCE_S), WorkerDiedError)
        gate.open_gate()
        assert rr.service(double)(3).get(PATIENCE_S) == 6


def _waiting_for_others(rr) -> set[int]:
    waiting: set[int] = set()

    def look() -> bool:
        waiting.update(entry.pid for entry in Supervisor(rr._engine.runtime).processes() if entry.blocked)
        return bool(waiting)

    wait_until(look, what="a task that waits")
    return waiting


# ---- the supervisor (zygote) -----------------------------------------------------------------------------------------


def test_the_zygote_may_be_killed(fifo, capsys):
    """What ran is lost with it, instances too; what queued is not, and the runner goes on, twice."""
    said, gate = fifo("said"), fifo("gate")
    with Runner("zygote", workers=2) as rr:
        twice, holding = rr.service(double), rr.service(hold)
        for round_number in range(2):
            instance = rr.service(Victim())
            assert instance.add(1).get(PATIENCE_S) == 1
            victims = [holding(said, gate) for _ in range(2)]
            old_workers = said.read_pids(2)
            queued = [twice(number) for number in range(20)]
            (zygote,) = zygotes()
            ends = open_pidfds([zygote, *workers()])
            os.kill(zygote, signal.SIGKILL)
            assert still_alive(ends, 10.0) == []
            for victim in victims:
                error = victim.exception(PATIENCE_S)
                assert type(error) is WorkerDiedError and "hold" in error.message
            assert isinstance(instance.add(1).exception(PATIENCE_S), WorkerDiedError)
            assert rr.get(queued, PATIENCE_S) == [2 * number for number in range(20)]
            assert zygotes() != [zygote]
            assert not set(workers()) & set(old_workers)
            assert rr.service(Victim()).add(2).get(PATIENCE_S) == 2
            rr.service(print)(f"heard {round_number}").get(PATIENCE_S)
    assert capsys.readouterr().out == "heard 0\nheard 1\n"


def test_an_idle_zygote_may_be_killed():
    with Runner("zygote", workers=2) as rr:
        twice = rr.service(double)
        assert twice(1).get(PATIENCE_S) == 2
        (zygote,) = zygotes()
        ends = open_pidfds([zygote, *workers()])
        os.kill(zygote, signal.SIGKILL)
        assert still_alive(ends, 10.0) == []
        assert rr.get([twice(number) for number in range(20)], PATIENCE_S) == list(range(0, 40, 2))
        assert zygotes() != [zygote]


def test_close_right_after_the_zygote_was_killed():
    rr = Runner("zygote", workers=2)
    rr.service(double)(1).get(PATIENCE_S)
    ends = open_pidfds([*zygotes(), *workers()])
    for zygote in zygotes():
        os.kill(zygote, signal.SIGKILL)
    start = time.monotonic()
    rr.close()
    assert time.monotonic() - start < 20
    assert still_alive(ends, 10.0) == []


def test_a_stopped_zygote_does_not_stop_close():
    rr = Runner("zygote", workers=2)
    rr.service(double)(1).get(PATIENCE_S)
    (zygote,) = zygotes()
    ends = open_pidfds([zygote, *workers()])
    os.kill(zygote, signal.SIGSTOP)
    start = time.monotonic()
    rr.close()
    assert time.monotonic() - start < 20
    assert still_alive(ends, 10.0) == []
