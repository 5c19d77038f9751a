"""Tasks that open Runners, make services, call and wait: to any depth, with one worker; and waits that can never end."""

from __future__ import annotations

import os

import pytest
from process_events import (
    PATIENCE_S,
    Victim,
    children,
    count_down,
    double,
    fifos,
    hold,
    nest,
    open_pidfds,
    pass_gate,
    pid_of_worker,
    run_driver,
    still_alive,
    tell,
    wait_until,
    wide,
    workers,
    zygotes,
)

from flame_fast import FlameError, FlameErrorCode, Runner, list_applications


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


# ---- depth -----------------------------------------------------------------------------------------------------------


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


def test_a_nested_runner_registers_nothing():
    def names() -> list[str]:
        with Runner("inner-application"):
            return [application.name for application in list_applications()]

    with Runner("outer-application", workers=1) as rr:
        assert sorted(rr.service(names)().get(PATIENCE_S)) == ["flmrun", "outer-application"]


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


@pytest.mark.parametrize("count", [1, 2])
def test_a_tree_of_tasks(count):
    with Runner("wide", workers=count) as rr:
        assert rr.service(wide)(3).get(PATIENCE_S) == 27


# ---- what a task does with its runner --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "wait", "exception", "ref"])
def test_waits_of_a_future_in_a_task(method):
    def task(method: str) -> object:
        with Runner("inner") as rr:
            future = rr.service(double)(4)
            outcome = getattr(future, method)()
            return outcome.get() if method == "ref" else outcome

    with Runner("outer", workers=1) as rr:
        assert rr.service(task)(method).get(PATIENCE_S) == (8 if method in ("get", "ref") else None)


def test_get_of_many_and_select_in_a_task():
    def task() -> tuple[list[int], list[int], dict[str, int]]:
        with Runner("inner") as rr:
            service = rr.service(double)
            listed = rr.get([service(number) for number in range(10)])
            futures = [service(number) for number in range(10)]
            selected = sorted(future.get() for future in rr.select(futures))
            return listed, selected, rr.get({"a": service(1), "b": service(rr.put_object(2))})

    with Runner("outer", workers=1) as rr:
        listed, selected, mapped = rr.service(task)().get(PATIENCE_S)
        assert listed == selected == list(range(0, 20, 2))
        assert mapped == {"a": 2, "b": 4}


def test_a_nested_error_arrives_as_itself():
    def task() -> str:
        with Runner("inner") as rr:
            try:
                rr.service(divmod)(1, 0).get()
            except ZeroDivisionError as error:
                return type(error).__name__
        return "none"

    with Runner("outer", workers=1) as rr:
        assert rr.service(task)().get(PATIENCE_S) == "ZeroDivisionError"

        def uncaught() -> None:
            with Runner("inner") as inner:
                inner.service(divmod)(1, 0).get()

        assert isinstance(rr.service(uncaught)().exception(PATIENCE_S), ZeroDivisionError)


def test_a_nested_class_service_and_a_limited_one_on_one_worker():
    def task() -> tuple[list[int], list[int], list[int]]:
        with Runner("inner") as rr:
            counter = rr.service(Victim, autoscale=False)
            limited = rr.service(double, autoscale=False)
            instance = rr.service(Victim())
            counted = rr.get([counter.add(1) for _ in range(3)])
            doubled = rr.get([limited(number) for number in range(3)])
            return counted, doubled, rr.get([instance.add(1) for _ in range(3)])

    with Runner("outer", workers=1) as rr:
        for _ in range(2):
            counted, doubled, in_order = rr.service(task)().get(PATIENCE_S)
            assert doubled == [0, 2, 4] and in_order == [1, 2, 3]
            assert counted == [1, 2, 3]


@pytest.mark.parametrize("depth", [1, 5])
def test_a_limited_service_may_call_itself(depth):
    """Its one permit is taken over while its holder waits."""
    with Runner("limited", workers=1) as rr:
        service = rr.service(count_down, autoscale=False)
        assert service(service, depth).get(PATIENCE_S) == depth
        assert service(service, depth).get(PATIENCE_S) == depth


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


# ---- services and runners given to tasks -----------------------------------------------------------------------------


def test_services_as_arguments():
    def use(function, klass, instance, nested) -> list[int]:
        return [
            function(4).get(),
            klass.add(1).get(),
            instance.add(5).get(),
            nested["deep"][0](6).get(),
        ]

    with Runner("given", workers=1) as rr:
        function, klass, instance = rr.service(double), rr.service(Victim), rr.service(Victim())
        assert instance.add(1).get(PATIENCE_S) == 1
        values = rr.service(use)(function, klass, instance, {"deep": [function]}).get(PATIENCE_S)
        assert values == [8, 1, 6, 12]
        assert instance.add(1).get(PATIENCE_S) == 7  # it was the same instance


def test_a_runner_as_an_argument():
    def use(rr) -> tuple[list[int], str]:
        service = rr.service(double)
        return rr.get([service(number) for number in range(5)]), rr.name

    with Runner("given", workers=1) as rr:
        assert rr.service(use)(rr).get(PATIENCE_S) == ([0, 2, 4, 6, 8], "given")
        assert rr.service(use)(rr).get(PATIENCE_S) == ([0, 2, 4, 6, 8], "given")


def test_a_task_that_closes_the_runner_it_was_given_closes_nothing_of_the_drivers():
    with Runner("given", workers=1) as rr:
        service = rr.service(double)
        rr.service(Runner.close)(rr).get(PATIENCE_S)
        assert service(4).get(PATIENCE_S) == 8
        assert rr.service(double)(5).get(PATIENCE_S) == 10


def test_services_and_runners_in_closures():
    with Runner("closed-over", workers=1) as rr:
        function, instance = rr.service(double), rr.service(Victim())
        assert rr.service(lambda value: function(value).get())(4).get(PATIENCE_S) == 8
        assert rr.service(lambda: [instance.add(1).get() for _ in range(3)])().get(PATIENCE_S) == [1, 2, 3]
        assert rr.service(lambda: rr.get([rr.service(double)(number) for number in range(3)]))().get(PATIENCE_S) == [0, 2, 4]


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


def test_a_service_in_an_instance_and_a_method_that_calls_on():
    class Front:
        def __init__(self, back) -> None:
            self.back = back

        def ask(self, value: int) -> int:
            return self.back.add(value).get()

    with Runner("front", workers=1) as rr:
        back = rr.service(Victim())
        front = rr.service(Front(back))
        assert rr.get([front.ask(1), front.ask(2), back.add(0)], PATIENCE_S)[:2] == [1, 3]


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


class Node:
    """An instance that passes a question along a chain of instances, waiting for the answer in one way or another."""

    def ask(self, chain: list, way: str, said: str = "", gate: str = "") -> str:
        if gate:
            tell(said, "running")
            pass_gate(gate)
        if not chain:
            return "answer"
        future = chain[0].ask(chain[1:], way)
        if way == "wait":
            future.wait()
        elif way == "exception":
            error = future.exception()
            if error is not None:
                raise error
        elif way == "get of a list":
            with Runner("inner") as rr:
                return rr.get([future])[0]
        elif way == "select":
            with Runner("inner") as rr:
                return next(rr.select([future])).get()
        return future.get()


WAYS = ["get", "wait", "exception", "get of a list", "select"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_ring_of_instances_is_refused(size, way):
    """The first asks the second, and so on; the last asks the first, which cannot answer before it has its own."""
    with Runner("ring", workers=1) as rr:
        nodes = [rr.service(Node()) for _ in range(size)]
        error = nodes[0].ask([*nodes[1:], nodes[0]], way).exception(PATIENCE_S)
        assert isinstance(error, FlameError), error
        assert error.code is FlameErrorCode.INVALID_STATE
        assert error.message.startswith("deadlock: ")
        for node in nodes:
            assert node.ask([], way).get(PATIENCE_S) == "answer"


@pytest.mark.parametrize("way", WAYS)
def test_a_chain_that_is_no_ring_is_not_refused(way):
    with Runner("chain", workers=1) as rr:
        nodes = [rr.service(Node()) for _ in range(4)]
        assert nodes[0].ask(nodes[1:], way).get(PATIENCE_S) == "answer"


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


class Asker:
    """Waits for a function's call that in turn waits for this very instance."""

    def ask(self, function, myself) -> int:
        return function(myself).get()

    def answer(self) -> int:
        return 42


def answer_of(instance) -> int:
    return instance.answer().get()


def test_a_ring_through_a_function_is_refused():
    with Runner("ring", workers=1) as rr:
        asker = rr.service(Asker())
        error = asker.ask(rr.service(answer_of), asker).exception(PATIENCE_S)
        assert getattr(error, "code", error) is FlameErrorCode.INVALID_STATE
        assert asker.answer().get(PATIENCE_S) == 42


def test_a_ring_through_an_argument_is_refused():
    """The call waited for needs, as its input, a call of the instance that waits."""

    class Feeder:
        def feed(self, function, myself) -> int:
            return function(myself.answer()).get()

        def answer(self) -> int:
            return 21

    with Runner("ring", workers=1) as rr:
        feeder = rr.service(Feeder())
        error = feeder.feed(rr.service(double), feeder).exception(PATIENCE_S)
        assert getattr(error, "code", error) is FlameErrorCode.INVALID_STATE
        assert feeder.answer().get(PATIENCE_S) == 21
        assert rr.service(double)(1).get(PATIENCE_S) == 2  # behind the call that nobody waits for any more


def test_a_method_may_call_its_own_instance_without_waiting():
    class Proud:
        def __init__(self) -> None:
            self.count = 0

        def start(self, myself) -> str:
            myself.more()
            return "returned"

        def more(self) -> int:
            self.count += 1
            return self.count

    with Runner("proud", workers=1) as rr:
        proud = rr.service(Proud())
        assert proud.start(proud).get(PATIENCE_S) == "returned"
        assert proud.more().get(PATIENCE_S) == 2


def nested_runner(name, options):
    with Runner(name, **options):
        return "entered"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"fail_if_exists": True}, FlameErrorCode.ALREADY_EXISTS),
        ({"dependencies": ["no-such-distribution"]}, FlameErrorCode.NOT_FOUND),
        ({"python_version": "2.7"}, FlameErrorCode.INVALID_ARGUMENT),
        ({"workers": 0}, FlameErrorCode.INVALID_ARGUMENT),
    ],
)
def test_a_nested_runner_checks_what_it_is_asked_for(project, options, code):
    with Runner("outer", workers=1) as rr:
        service = rr.service(nested_runner)
        assert service("outer", {}).get() == "entered"
        with pytest.raises(FlameError) as caught:
            service("outer", options).get()
        assert caught.value.code is code
        assert service("other", {"fail_if_exists": True}).get() == "entered"
