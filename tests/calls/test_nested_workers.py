"""Nested tasks and worker processes: which process runs a task that another one waits for."""

from __future__ import annotations

import os

import pytest
from chained_instances import Node
from process_events import (
    PATIENCE_S,
    Victim,
    children,
    double,
    fifos,
    hold,
    nest,
    open_pidfds,
    pid_of_worker,
    run_driver,
    still_alive,
    wait_until,
    workers,
    zygotes,
)

from flame_fast import FlameError, FlameErrorCode, Runner


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


@pytest.mark.parametrize("own_name", [True, False], ids=["same name", "other names"])
@pytest.mark.parametrize("depth", [1, 3, 100])
def test_tasks_nest_with_one_worker(depth, own_name):
    """A task that waits runs what it waits for meanwhile, in its own process."""
    with Runner("deep", workers=1) as rr:
        (zygote,) = zygotes()
        pids = rr.service(nest)(depth, own_name).get(PATIENCE_S)
        assert len(pids) == depth + 1
        assert len(set(pids)) == 1
        assert zygotes() == [zygote]  # nobody brought processes of his own
        assert rr.service(double)(4).get(PATIENCE_S) == 8


def test_a_nested_runner_has_no_processes_of_its_own():
    def look(driver: int) -> tuple[int, list[int], int]:
        with Runner("inner", workers=7) as rr:
            rr.get([rr.service(double)(number) for number in range(20)])
            return os.getpid(), children(os.getpid()), os.getppid()

    with Runner("outer", workers=2) as rr:
        pid, own_children, parent = rr.service(look)(os.getpid()).get(PATIENCE_S)
        assert pid in workers() and own_children == [] and [parent] == zygotes()


def nest_with_timeouts(depth):
    """As `nest`, but each wait has a time-out, so that the worker runs nothing meanwhile and another is added beside it."""
    if depth == 0:
        return [os.getpid()]
    with Runner("deep") as rr:
        return [os.getpid(), *rr.service(nest_with_timeouts)(depth - 1).get(60)]


def test_surplus_workers_retire():
    with Runner("deep", workers=1) as rr:
        pids = rr.service(nest_with_timeouts)(10).get(PATIENCE_S)
        assert len(set(pids)) == 11
        ends = open_pidfds(pids)
        assert len(ends) > 1
        wait_until(lambda: len(workers()) == 1, what="one worker left")
        assert len(still_alive(ends, 0.0)) <= 1
        assert rr.get([rr.service(double)(number) for number in range(20)], PATIENCE_S) == list(range(0, 40, 2))
        assert len(workers()) == 1


def test_one_task_more_runs_beside_one_that_waits(fifo):
    """While a task waits its worker counts for nothing: the pool has its full number besides."""
    said, gate = fifo("said"), fifo("gate")

    def wait_for_two(said: str, gate: str) -> list[object]:
        with Runner("inner") as rr:
            return rr.get([rr.service(hold)(said, gate, number) for number in range(2)])

    with Runner("outer", workers=2) as rr:
        outer = rr.service(wait_for_two)(said.path, gate.path)
        assert len(set(said.read_pids(2))) == 2
        gate.open_gate(2)
        assert outer.get(PATIENCE_S) == [0, 1]


class Caller:
    """A class whose methods call the class's own service."""

    def outer(self, service: object) -> tuple[int, int]:
        return os.getpid(), service.inner().get()

    def inner(self) -> int:
        return os.getpid()


@pytest.mark.parametrize("autoscale", [None, False])
def test_a_class_service_may_call_itself(autoscale):
    with Runner("class", workers=1) as rr:
        service = rr.service(Caller, autoscale=autoscale)
        outer, inner = service.outer(service).get(PATIENCE_S)
        assert outer != inner


def test_nested_services_are_closed_with_their_runner():
    """The inner runner's instance ends when the task closes the runner, not when the outer one closes."""

    def task() -> tuple[int, str]:
        rr = Runner("inner")
        instance = rr.service(Victim())
        pid = instance.pid().get()
        rr.close()
        try:
            instance.pid()
        except FlameError as error:
            return pid, error.code.name
        return pid, "none"

    with Runner("outer", workers=1) as rr:
        pid, code = rr.service(task)().get(PATIENCE_S)
        assert code == "INVALID_STATE"
        assert still_alive(open_pidfds([pid]), PATIENCE_S) == []
        assert rr.service(double)(4).get(PATIENCE_S) == 8


def test_services_and_runners_in_globals_of_main(tmp_path):
    out = run_driver(
        """
        def work(value):
            return double_service(value).get() + instance.add(1).get() + rr.get(rr.service(double)(100))

        with Runner("globals", workers=1) as rr:
            double_service, instance = rr.service(double), rr.service(Victim())
            print(rr.service(work)(5).get(20))
            print(instance.add(1).get(20))
        """,
        tmp_path,
    )
    assert out == "211\n2\n"


def test_a_task_may_return_before_its_calls_are_done(fifo):
    said, gate = fifo("said"), fifo("gate")

    def start(service, said: str, gate: str) -> str:
        service(said, gate)
        return "started"

    with Runner("left", workers=1) as rr:
        assert rr.service(start)(rr.service(hold), said.path, gate.path).get(PATIENCE_S) == "started"
        later = rr.service(pid_of_worker)()
        gate.open_gate()
        later.get(PATIENCE_S)


# ---- waits that can never end ----------------------------------------------------------------------------------------


def test_a_ring_that_closes_from_both_ends_at_once_is_refused(fifo):
    """Two calls made from outside, each of which then waits for the other's instance."""
    said, gate = fifo("said"), fifo("gate")
    with Runner("race", workers=2) as rr:
        first, second = rr.service(Node()), rr.service(Node())
        for _ in range(10):
            calls = [
                first.ask([second], "get", said.path, gate.path),
                second.ask([first], "get", said.path, gate.path),
            ]
            assert [said.read_line(), said.read_line()] == ["running"] * 2
            gate.open_gate(2)
            errors = [call.exception(PATIENCE_S) for call in calls]
            assert any(errors)
            for error in errors:
                assert error is None or getattr(error, "code", error) is FlameErrorCode.INVALID_STATE
        for node in (first, second):  # the calls that nobody waits for any more
            node.ask([], "get").get(PATIENCE_S)
