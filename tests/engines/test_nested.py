"""Tasks that open Runners, make services, call and wait: to any depth, with one worker; and waits that can never end."""

from __future__ import annotations

import pytest
from applications import registered
from chained_instances import Node
from engines import case, concurrent
from gates import add, same
from process_events import (
    PATIENCE_S,
    Victim,
    count_down,
    double,
    fifos,
    wide,
)

from flame_fast import FlameError, FlameErrorCode, Runner


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


# ---- depth -----------------------------------------------------------------------------------------------------------


def test_a_nested_runner_registers_nothing(engine):
    def names() -> list[str]:
        with Runner("inner-application"):
            return registered()

    with Runner("outer-application", workers=1, engine=engine) as rr:
        assert rr.service(names)().get(PATIENCE_S) == ["outer-application"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_tree_of_tasks(count, engine):
    with Runner("wide", workers=count, engine=engine) as rr:
        assert rr.service(wide)(3).get(PATIENCE_S) == 27


# ---- what a task does with its runner --------------------------------------------------------------------------------


def test_waits_of_a_future_in_a_task(engine):
    def task(method: str) -> object:
        with Runner("inner") as rr:
            future = rr.service(double)(4)
            outcome = getattr(future, method)()
            return outcome.get() if method == "ref" else outcome

    with Runner("outer", workers=1, engine=engine) as rr:
        for method in ("get", "wait", "exception", "ref"):
            with case(method):
                assert rr.service(task)(method).get(PATIENCE_S) == (8 if method in ("get", "ref") else None)


def test_get_of_many_and_select_in_a_task(engine):
    def task() -> tuple[list[int], list[int], dict[str, int]]:
        with Runner("inner") as rr:
            service = rr.service(double)
            listed = rr.get([service(number) for number in range(10)])
            futures = [service(number) for number in range(10)]
            selected = sorted(future.get() for future in rr.select(futures))
            return listed, selected, rr.get({"a": service(1), "b": service(rr.put_object(2))})

    with Runner("outer", workers=1, engine=engine) as rr:
        listed, selected, mapped = rr.service(task)().get(PATIENCE_S)
        assert listed == selected == list(range(0, 20, 2))
        assert mapped == {"a": 2, "b": 4}


def test_a_nested_error_arrives_as_itself(engine):
    def task() -> str:
        with Runner("inner") as rr:
            try:
                rr.service(divmod)(1, 0).get()
            except ZeroDivisionError as error:
                return type(error).__name__
        return "none"

    with Runner("outer", workers=1, engine=engine) as rr:
        assert rr.service(task)().get(PATIENCE_S) == "ZeroDivisionError"

        def uncaught() -> None:
            with Runner("inner") as inner:
                inner.service(divmod)(1, 0).get()

        assert isinstance(rr.service(uncaught)().exception(PATIENCE_S), ZeroDivisionError)


def test_a_nested_class_service_and_a_limited_one_on_one_worker(engine):
    def task() -> tuple[list[int], list[int], list[int]]:
        with Runner("inner") as rr:
            counter = rr.service(Victim, autoscale=False)
            limited = rr.service(double, autoscale=False)
            instance = rr.service(Victim())
            counted = rr.get([counter.add(1) for _ in range(3)])
            doubled = rr.get([limited(number) for number in range(3)])
            return counted, doubled, rr.get([instance.add(1) for _ in range(3)])

    with Runner("outer", workers=1, engine=engine) as rr:
        for _ in range(2):
            counted, doubled, in_order = rr.service(task)().get(PATIENCE_S)
            assert doubled == [0, 2, 4] and in_order == [1, 2, 3]
            assert counted == [1, 2, 3]


def test_a_limited_service_may_call_itself(engine):
    """Its one permit is taken over while its holder waits."""
    with Runner("limited", workers=1, engine=engine) as rr:
        for depth in (1, 5):
            service = rr.service(count_down, autoscale=False)
            assert service(service, depth).get(PATIENCE_S) == depth
            assert service(service, depth).get(PATIENCE_S) == depth


# ---- services and runners given to tasks -----------------------------------------------------------------------------


def test_services_as_arguments(engine):
    def use(function, klass, instance, nested) -> list[int]:
        return [
            function(4).get(),
            klass.add(1).get(),
            instance.add(5).get(),
            nested["deep"][0](6).get(),
        ]

    with Runner("given", workers=1, engine=engine) as rr:
        function, klass, instance = rr.service(double), rr.service(Victim), rr.service(Victim())
        assert instance.add(1).get(PATIENCE_S) == 1
        values = rr.service(use)(function, klass, instance, {"deep": [function]}).get(PATIENCE_S)
        assert values == [8, 1, 6, 12]
        assert instance.add(1).get(PATIENCE_S) == 7  # it was the same instance


def test_a_runner_as_an_argument(engine):
    def use(rr) -> tuple[list[int], str]:
        service = rr.service(double)
        return rr.get([service(number) for number in range(5)]), rr.name

    with Runner("given", workers=1, engine=engine) as rr:
        assert rr.service(use)(rr).get(PATIENCE_S) == ([0, 2, 4, 6, 8], "given")
        assert rr.service(use)(rr).get(PATIENCE_S) == ([0, 2, 4, 6, 8], "given")


def test_a_task_that_closes_the_runner_it_was_given_closes_nothing_of_the_drivers(engine):
    with Runner("given", workers=1, engine=engine) as rr:
        service = rr.service(double)
        rr.service(Runner.close)(rr).get(PATIENCE_S)
        assert service(4).get(PATIENCE_S) == 8
        assert rr.service(double)(5).get(PATIENCE_S) == 10


def test_services_and_runners_in_closures(engine):
    with Runner("closed-over", workers=1, engine=engine) as rr:
        function, instance = rr.service(double), rr.service(Victim())
        assert rr.service(lambda value: function(value).get())(4).get(PATIENCE_S) == 8
        assert rr.service(lambda: [instance.add(1).get() for _ in range(3)])().get(PATIENCE_S) == [1, 2, 3]
        assert rr.service(lambda: rr.get([rr.service(double)(number) for number in range(3)]))().get(PATIENCE_S) == [0, 2, 4]


def test_a_service_in_an_instance_and_a_method_that_calls_on(engine):
    class Front:
        def __init__(self, back) -> None:
            self.back = back

        def ask(self, value: int) -> int:
            return self.back.add(value).get()

    with Runner("front", workers=1, engine=engine) as rr:
        back = rr.service(Victim())
        front = rr.service(Front(back))
        assert rr.get([front.ask(1), front.ask(2), back.add(0)], PATIENCE_S)[:2] == [1, 3]


# ---- waits that can never end ----------------------------------------------------------------------------------------


WAYS = ["get", "wait", "exception", "get of a list", "select"]


def test_a_ring_of_instances_is_refused(engine):
    """The first asks the second, and so on; the last asks the first, which cannot answer before it has its own."""
    with Runner("ring", workers=1, engine=engine) as rr:
        for size in (1, 2, 3):
            nodes = [rr.service(Node()) for _ in range(size)]
            for way in WAYS:
                with case(size, way):
                    error = nodes[0].ask([*nodes[1:], nodes[0]], way).exception(PATIENCE_S)
                    assert isinstance(error, FlameError), error
                    assert error.code is FlameErrorCode.INVALID_STATE
                    assert error.message.startswith("deadlock: ")
                    for node in nodes:
                        assert node.ask([], way).get(PATIENCE_S) == "answer"
            for node in nodes:
                node.close()


class AsksItself:
    def ask(self, service, timeout):
        return service.answer().get(timeout=timeout)

    def answer(self):
        return 42


@pytest.mark.filterwarnings("ignore:.*unfinished call")  # of what was asked and refused
@concurrent
def test_a_wait_with_a_time_out_that_can_never_end_is_refused_when_it_begins(engine):
    with Runner("timed", workers=1, engine=engine) as rr:
        service = rr.service(AsksItself())
        error = service.ask(service, 1000).exception(PATIENCE_S)
        assert isinstance(error, FlameError), error
        assert error.code is FlameErrorCode.INVALID_STATE
        assert service.answer().get(PATIENCE_S) == 42


@pytest.mark.filterwarnings("ignore:.*unfinished call")  # of what was asked and refused
@concurrent
def test_a_wait_with_a_time_out_makes_no_deadlock_of_another_wait(engine):
    """The first asks the second with a time-out, the second asks the first without one: the first goes on."""

    class Node:
        def ask(self, other, myself, timeout):
            try:
                return other.ask_back(myself).get(timeout=timeout)
            except TimeoutError:
                return "went on"

        def ask_back(self, first):
            return first.answer().get()

        def answer(self):
            return 42

    with Runner("timed", workers=1, engine=engine) as rr:
        first, second = rr.service(Node()), rr.service(Node())
        assert first.ask(second, first, 0.3).get(PATIENCE_S) == "went on"
        assert first.answer().get(PATIENCE_S) == 42


def test_a_chain_that_is_no_ring_is_not_refused(engine):
    with Runner("chain", workers=1, engine=engine) as rr:
        nodes = [rr.service(Node()) for _ in range(4)]
        for way in WAYS:
            with case(way):
                assert nodes[0].ask(nodes[1:], way).get(PATIENCE_S) == "answer"


class Asker:
    """Waits for a function's call that in turn waits for this very instance."""

    def ask(self, function, myself) -> int:
        return function(myself).get()

    def answer(self) -> int:
        return 42


def answer_of(instance) -> int:
    return instance.answer().get()


def test_a_ring_through_a_function_is_refused(engine):
    with Runner("ring", workers=1, engine=engine) as rr:
        asker = rr.service(Asker())
        error = asker.ask(rr.service(answer_of), asker).exception(PATIENCE_S)
        assert getattr(error, "code", error) is FlameErrorCode.INVALID_STATE
        assert asker.answer().get(PATIENCE_S) == 42


def test_a_ring_through_an_argument_is_refused(engine):
    """The call waited for needs, as its input, a call of the instance that waits."""

    class Feeder:
        def feed(self, function, myself) -> int:
            return function(myself.answer()).get()

        def answer(self) -> int:
            return 21

    with Runner("ring", workers=1, engine=engine) as rr:
        feeder = rr.service(Feeder())
        error = feeder.feed(rr.service(double), feeder).exception(PATIENCE_S)
        assert getattr(error, "code", error) is FlameErrorCode.INVALID_STATE
        assert feeder.answer().get(PATIENCE_S) == 21
        assert rr.service(double)(1).get(PATIENCE_S) == 2  # behind the call that nobody waits for any more


def test_a_method_may_call_its_own_instance_without_waiting(engine):
    class Proud:
        def __init__(self) -> None:
            self.count = 0

        def start(self, myself) -> str:
            myself.more()
            return "returned"

        def more(self) -> int:
            self.count += 1
            return self.count

    with Runner("proud", workers=1, engine=engine) as rr:
        proud = rr.service(Proud())
        assert proud.start(proud).get(PATIENCE_S) == "returned"
        assert proud.more().get(PATIENCE_S) == 2


def nested_runner(name, options):
    with Runner(name, **options):
        return "entered"


REFUSED = [
    ({"fail_if_exists": True}, FlameErrorCode.ALREADY_EXISTS),
    ({"dependencies": ["no-such-distribution"]}, FlameErrorCode.NOT_FOUND),
    ({"python_version": "2.7"}, FlameErrorCode.INVALID_ARGUMENT),
    ({"workers": 0}, FlameErrorCode.INVALID_ARGUMENT),
]


def test_a_nested_runner_checks_what_it_is_asked_for(project, engine):
    with Runner("outer", workers=1, engine=engine) as rr:
        service = rr.service(nested_runner)
        assert service("outer", {}).get() == "entered"
        for options, code in REFUSED:
            with case(options):
                with pytest.raises(FlameError) as caught:
                    service("outer", options).get()
                assert caught.value.code is code
                assert service("other", {"fail_if_exists": True}).get() == "entered"


def test_a_service_or_runner_given_to_a_task_works_there(rr):
    plus = rr.service(add)
    counter = rr.service(Victim())

    def use(service, counter):
        return sum(service(number, 1).get() for number in range(5)), counter.add(3).get()

    def use_runner(runner):
        with runner as inner:
            return inner.get([inner.service(lambda value=value: value * value)() for value in range(4)])

    assert rr.service(use)(plus, counter).get() == (15, 3)
    assert rr.service(lambda: plus(1, 1).get())().get() == 2
    assert counter.add(1).get() == 4
    assert rr.service(use_runner)(rr).get() == [0, 1, 4, 9]
    assert rr.service(add)(1, 2).get() == 3


def test_a_runner_made_in_a_task(rr):
    def nested(depth):
        with Runner("nested") as inner:
            if depth == 0:
                return inner.service(lambda: "bottom")().get()
            return inner.service(nested)(depth - 1).get()

    assert rr.service(nested)(3).get() == "bottom"


def test_a_future_returned_from_a_task_arrives_as_its_value(rr):
    plus = rr.service(add)
    assert rr.service(lambda: [plus(1, 2)])().get() == [3]


def test_an_instance_that_waits_for_itself_is_told(rr):
    class Self:
        def own(self, service):
            return service.other().get()

        def other(self):
            return 1

    service = rr.service(Self())
    with pytest.raises(FlameError) as caught:
        service.own(service).get(timeout=20)
    assert caught.value.code is FlameErrorCode.INVALID_STATE
    assert service.other().get(timeout=20) == 1


@pytest.mark.filterwarnings("ignore:.*unfinished call")  # nobody waits for what `own` makes
def test_calls_made_by_an_instance_to_itself_run_after_it(rr):
    class Self:
        def __init__(self):
            self.log = []

        def own(self, service, look):
            later = service.note("later")
            look(later)
            self.log.append("own")

        def note(self, item):
            self.log.append(item)
            return list(self.log)

    service = rr.service(Self())
    looking = rr.service(same)
    service.own(service, looking).get(timeout=20)
    assert service.note("last").get(timeout=20) == ["own", "later", "last"]
