"""Futures and refs: waits, shapes, futures as arguments, select, several runners, and the end."""

from __future__ import annotations

import collections
import dataclasses
import gc
import math
import os
import pickle
import threading
import time
import types
import weakref

import numpy as np
import pytest
from engines import ENGINES, case, concurrent
from gates import PATIENCE_S, Gate, add, fail, hold, meet, same, start_workers, wait_until

from flame_fast import FlameError, FlameErrorCode, ObjectFuture, ObjectRef, Runner


class Held:
    """A call that stands at a gate; leaving the block lets it end and waits for that."""

    def __init__(self, rr, value=None):
        self.gate = Gate()
        self.future = rr.service(hold)(self.gate, value)

    def __enter__(self):
        self.gate.entered()
        return self

    def open(self):
        self.gate.open()

    def __exit__(self, *_):
        self.gate.__exit__()
        self.future.exception(timeout=PATIENCE_S)


class InvalidState:
    """`pytest.raises` for a FlameError with that code."""

    def __enter__(self):
        self.context = pytest.raises(FlameError)
        self.caught = self.context.__enter__()
        return self.caught

    def __exit__(self, *details):
        result = self.context.__exit__(*details)
        assert self.caught.value.code is FlameErrorCode.INVALID_STATE
        return result


# ---- one future ----------------------------------------------------------------------------------------------------------


def test_a_finished_call(rr):
    future = rr.service(add)(1, 2)
    assert isinstance(future, ObjectFuture)
    assert future.wait() is None
    assert future.done() is True
    assert (future.get(), future.get(timeout=0), future.exception(), future.exception(timeout=0)) == (3, 3, None, None)
    ref = future.ref()
    assert isinstance(ref, ObjectRef)
    assert (ref.get(), ref.get(timeout=0), ref.get(timeout=1.5)) == (3, 3, 3)


def test_a_failed_call(rr):
    future = rr.service(fail)(KeyError("gone"))
    for outcome in (future.get, future.wait, future.ref):
        with pytest.raises(KeyError, match="gone"):
            outcome()
    assert future.done() is True
    assert isinstance(future.exception(), KeyError)
    assert future.exception().args == ("gone",)


@concurrent
def test_an_unfinished_call(rr):
    with Held(rr, 7) as held:
        assert held.future.done() is False
        for outcome in (held.future.get, held.future.wait, held.future.exception):
            for timeout in (0, 0.02, -1):
                with pytest.raises(TimeoutError):
                    outcome(timeout=timeout)
        with pytest.raises(TimeoutError):
            held.future.get(0.001)
        for outcome in (rr.get, rr.wait):
            for shape in (held.future, [held.future], {"a": (held.future,)}):
                with pytest.raises(TimeoutError):
                    outcome(shape, timeout=0.001)
        held.open()
        assert held.future.get() == 7


@concurrent
def test_a_timeout_is_kept(rr):
    with Held(rr) as held:
        for timeout in (0.05, 0.3):
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                held.future.get(timeout=timeout)
            assert timeout <= time.monotonic() - begin < timeout + 5


@concurrent
def test_the_timeout_of_many_is_for_all_together(rr):
    with Held(rr) as first, Held(rr) as second:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            rr.get([first.future, second.future] * 50, timeout=0.1)
        assert time.monotonic() - begin < 3


def test_each_get_gives_an_object_of_its_own(rr):
    future = rr.service(same)([1, {"a": []}])
    first, second = future.get(), future.get()
    assert first == second == [1, {"a": []}]
    first[1]["a"].append(1)
    assert second == future.get() == [1, {"a": []}]


def test_futures_and_refs_are_not_made_by_hand_nor_pickled(rr):
    for kind in (ObjectFuture, ObjectRef):
        with pytest.raises(TypeError):
            kind()
    future = rr.service(add)(1)
    for handle in (future, rr.put_object(1)):
        with pytest.raises(TypeError):
            pickle.dumps(handle)
    future.wait()


# ---- put_object ----------------------------------------------------------------------------------------------------------


def test_an_object_is_stored_once_and_usable_by_any_task(rr):
    value = {"weights": np.arange(10.0), "name": "x"}
    ref = rr.put_object(value)
    assert isinstance(ref, ObjectRef)
    value["name"] = "changed"

    def look(stored, factor=1):
        return stored["name"], float(stored["weights"].sum()) * factor

    service = rr.service(look)
    assert rr.get([service(ref, factor=2), service(stored=ref), service(ref)]) == [("x", 90.0), ("x", 45.0), ("x", 45.0)]
    assert ref.get()["name"] == "x"
    assert rr.service(lambda items: items[0][0]["name"])([(ref,)]).get() == "x"


def test_an_object_that_holds_futures_is_stored_with_their_values(rr):
    ref = rr.put_object({"a": [rr.service(add)(1, 2)]})
    assert ref.get() == {"a": [3]}


def test_what_cannot_be_pickled_cannot_be_stored(rr):
    with pytest.raises(TypeError, match="lock"):
        rr.put_object(threading.Lock())


# ---- futures as arguments ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    amount: object
    nested: dict


class Holder:
    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


Pair = collections.namedtuple("Pair", "left right")


def unwrap(order, holder, slotted, pair):
    return order.amount, order.nested, holder.value, slotted.value, tuple(pair), type(pair).__name__


def test_a_future_anywhere_in_an_argument_arrives_as_its_value(rr):
    service, plus = rr.service(same), rr.service(add)
    one, two = plus(1), plus(2)
    three = rr.put_object(3)
    assert service(one).get() == 1
    assert service(value=two).get() == 2
    assert service([one, (two, three), {"k": [three, {"deep": one}]}]).get() == [1, (2, 3), {"k": [3, {"deep": 1}]}]
    deep, expected = [one], [1]
    for _ in range(100):  # deeper than the native encoding goes
        deep, expected = (deep, [two]), (expected, [2])
    assert service(deep).get() == expected
    order = Order(one, {"x": [two]})
    got = rr.service(unwrap)(order, Holder([two]), Slotted(three), Pair(one, {"y": two})).get()
    assert got == (1, {"x": [2]}, [2], 3, (1, {"y": 2}), "Pair")
    assert order.amount is one
    assert service(types.SimpleNamespace(a=one)).get().a == 1
    assert service(collections.OrderedDict(a=one)).get() == collections.OrderedDict(a=1)
    assert service(collections.deque([one, two])).get() == collections.deque([1, 2])
    assert service([one] * 3).get() == [1, 1, 1]


def test_a_future_in_a_closure_arrives_as_its_value(rr):
    one = rr.service(add)(1)
    assert rr.service(lambda: one + 1)().get() == 2


@concurrent
def test_a_task_waits_for_its_inputs(rr):
    with Held(rr, 5) as held:
        chained = rr.service(add)(held.future, 1)
        nested = rr.service(same)([{"a": held.future}])
        last = rr.service(add)(chained, nested_sum(rr, nested))
        assert not chained.done()
        assert not nested.done()
        assert not last.done()
        held.open()
        assert (chained.get(), nested.get(), last.get()) == (6, [{"a": 5}], 11)


def nested_sum(rr, nested):
    return rr.service(lambda items: items[0]["a"])(nested)


@concurrent
def test_waiting_for_inputs_costs_no_worker(rr, project):
    with Held(rr, 5) as held:
        blocked = [rr.service(add)(held.future, number) for number in range(20)]
        assert rr.service(add)(1, 2).get(timeout=PATIENCE_S) == 3  # the other worker is free
        held.open()
        assert rr.get(blocked) == list(range(5, 25))


def test_a_long_chain(rr):
    service, future = rr.service(add), 0
    for _ in range(2000):
        future = service(future, 1)
    assert future.get() == 2000


def test_a_chain_through_functions_classes_and_instances(rr):
    class Adder:
        def __init__(self):
            self.calls = 0

        def add(self, a, b):
            self.calls += 1
            return a + b

    services = [rr.service(add), rr.service(Adder).add, rr.service(Adder()).add]
    future = rr.put_object(0)
    for number in range(99):
        future = services[number % 3](future, 1)
    assert future.get() == 99


def test_a_diamond(rr):
    plus = rr.service(add)
    top = plus(1, 1)
    left, right = plus(top, 10), plus(top, 100)
    assert plus(left, right).get() == 114


@concurrent
def test_many_inputs(rr):
    plus = rr.service(add)
    for count in (62, 63, 64, 65, 70, 5000):
        with Held(rr, 0) as held:
            inputs = [held.future] + [plus(number) for number in range(1, count)]
            total = rr.service(sum)(inputs)
            spread = rr.service(lambda *numbers, **named: sum(numbers) + sum(named.values()))(*inputs, extra=held.future)
            held.open()
            assert (total.get(), spread.get()) == (count * (count - 1) // 2,) * 2


@concurrent
def test_one_input_of_many_tasks(rr):
    with Held(rr, 1) as held:
        futures = [rr.service(add)(held.future, number) for number in range(2000)]
        held.open()
        assert rr.get(futures) == list(range(1, 2001))


def test_a_failed_input_fails_the_task_with_the_same_error(rr):
    failed = rr.service(fail)(KeyError("first"))
    chained = rr.service(add)(1, failed)
    again = rr.service(same)([{"x": chained}])
    for future in (failed, chained, again):
        with pytest.raises(KeyError, match="first") as caught:
            future.get()
        assert "in fail" in str(caught.value.__cause__)


@concurrent
def test_a_failed_input_fails_the_task_at_once_while_all_workers_are_busy(rr):
    failed = rr.service(fail)(ValueError("failed"))
    failed.exception()
    with Held(rr) as first, Held(rr) as second:
        plus = rr.service(add)
        chained = plus(failed)
        for future in (chained, plus(first.future, failed), rr.service(same)({"x": [chained]})):
            with pytest.raises(ValueError, match="failed"):
                future.get(timeout=PATIENCE_S)
        assert not first.future.done()
        assert not second.future.done()


@concurrent
def test_a_failing_input_fails_waiting_tasks_though_another_input_is_not_ready(rr):
    with Held(rr) as never, Held(rr, ValueError("late")) as failing:
        waiting = rr.service(same)([never.future, failing.future])
        chained = rr.service(add)(waiting, 1)
        failing.open()
        for future in (waiting, chained):
            with pytest.raises(ValueError, match="late"):
                future.get(timeout=PATIENCE_S)
        assert not never.future.done()


@concurrent
def test_a_failed_input_does_not_run_the_task(rr, project):
    def touch(path, _):
        open(path, "w").close()

    failed = rr.service(fail)(ValueError())
    future = rr.service(touch)(str(project / "touched"), failed)
    with pytest.raises(ValueError):
        future.get()
    start_workers(rr, project / "meeting")
    assert not (project / "touched").exists()


def test_a_failed_call_of_an_instance_does_not_hold_up_the_next_ones(rr):
    class Log:
        def __init__(self):
            self.log = []

        def note(self, item):
            self.log.append(item)
            return list(self.log)

    service = rr.service(Log())
    failed = rr.service(fail)(ValueError("no"))
    futures = [service.note(1), service.note(failed), service.note(3)]
    assert futures[2].get(timeout=PATIENCE_S) == [1, 3]
    with pytest.raises(ValueError):
        futures[1].get()


# ---- shapes --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["future", "ref"])
def handle(rr, request):
    """Make a handle of a value."""
    plus = rr.service(add)
    return plus if request.param == "future" else lambda value: plus(value).ref()


def test_get_keeps_the_shape(rr, handle):
    assert rr.get(handle(1)) == 1
    assert rr.get([]) == []
    assert rr.get(()) == ()
    assert rr.get({}) == {}
    assert rr.get([handle(1), handle(2)]) == [1, 2]
    assert rr.get((handle(1), handle(2))) == (1, 2)
    assert rr.get({"a": handle(1), 2: handle(2)}) == {"a": 1, 2: 2}
    assert list(rr.get({"b": handle(1), "a": handle(2)})) == ["b", "a"]
    assert rr.get(handle(number) for number in range(3)) == [0, 1, 2]
    nested = [handle(1), (handle(2), {"x": [handle(3), ()]}), "text", None, 5, [handle(4)]]
    assert rr.get(nested) == [1, (2, {"x": [3, ()]}), "text", None, 5, [4]]
    pair = rr.get(Pair(handle(1), [handle(2)]))
    assert (type(pair), pair) == (Pair, Pair(1, [2]))
    assert rr.get({"gen": (handle(i) for i in range(2))}) == {"gen": [0, 1]}
    assert rr.get([handle(1), rr.put_object(2)]) == [1, 2]


def test_what_is_no_future_passes_through(rr):
    for value in (5, "text", None, b"bytes", {1, 2}, 1.5, [1, (2,)], {"a": None}):
        assert rr.get(value) == value
    marker = object()
    assert rr.get([marker])[0] is marker
    array = np.arange(3)
    assert rr.get(array) is array


def test_get_of_the_same_future_twice(rr):
    future = rr.service(add)(1)
    assert rr.get([future, future]) == [1, 1]


@concurrent
def test_wait_waits_for_all_and_raises_errors(rr):
    with Held(rr, 1) as held:
        other = rr.service(add)(1)
        with pytest.raises(TimeoutError):
            rr.wait([other, {"x": (held.future,)}], timeout=0.01)
        held.open()
        assert rr.wait([other, {"x": (held.future, "text")}]) is None
        assert held.future.done()
    assert rr.wait(rr.put_object(1)) is None
    assert rr.wait([]) is None
    with pytest.raises(KeyError, match="k"):
        rr.wait([rr.service(fail)(KeyError("k"))])


def test_ref_keeps_the_shape(rr):
    plus = rr.service(add)
    refs = rr.ref([plus(1), (plus(2), {"x": plus(3)}), rr.put_object(4), "text"])
    assert all(isinstance(ref, ObjectRef) for ref in (refs[0], refs[1][0], refs[1][1]["x"], refs[2]))
    assert rr.get(refs) == [1, (2, {"x": 3}), 4, "text"]
    assert isinstance(rr.ref(plus(1)), ObjectRef)
    with pytest.raises(KeyError):
        rr.ref([plus(1), rr.service(fail)(KeyError())])


@concurrent
def test_the_first_failure_in_input_order_is_raised(rr):
    with Held(rr, 1) as held:
        later = rr.service(fail)(KeyError("later"))
        with pytest.raises(KeyError):
            later.get()
        earlier = rr.service(fail)(ValueError("earlier"))
        with pytest.raises(ValueError):
            rr.get([rr.service(add)(1), earlier, later])
        for waiting in (rr.get, rr.wait, rr.ref):
            with pytest.raises(ValueError):
                waiting({"a": earlier, "b": [later]})
        # As soon as all before it are done: those after it may still run.
        for waiting in (rr.get, rr.wait):
            with pytest.raises(ValueError):
                waiting([earlier, held.future], timeout=PATIENCE_S)
        with pytest.raises(ValueError):
            rr.ref([earlier, held.future])
        assert not held.future.done()
        # And not before: the first might fail as well.
        with pytest.raises(TimeoutError):
            rr.get([held.future, later], timeout=0.05)


@concurrent
def test_get_waits_on_all_at_once(rr, project):
    """A thread that waits for two calls that wait for each other."""
    service = rr.service(meet)
    futures = [service(str(project / "meeting"), 2, number) for number in range(2)]
    assert len(set(rr.get(tuple(futures), timeout=PATIENCE_S))) == 2


# ---- select --------------------------------------------------------------------------------------------------------------


@concurrent
def test_select_yields_each_future_once_as_it_completes(rr):
    with Held(rr, "slow") as held:
        quick = [rr.service(add)(number) for number in range(5)]
        selected = rr.select([held.future, *quick], timeout=PATIENCE_S)
        first = [next(selected) for _ in quick]
        assert set(map(id, first)) == set(map(id, quick))
        assert all(future.done() for future in first)
        held.open()
        assert next(selected) is held.future
        with pytest.raises(StopIteration):
            next(selected)


@concurrent
def test_select_yields_in_order_of_completion(rr):
    with Held(rr, 0) as first, Held(rr, 1) as second:
        selected = rr.select([first.future, second.future])
        second.open()
        assert next(selected) is second.future
        first.open()
        assert next(selected) is first.future
        assert list(selected) == []


def test_select_yields_failed_futures_too(rr):
    good, bad = rr.service(add)(1), rr.service(fail)(KeyError("x"))
    selected = list(rr.select([bad, good]))
    assert {id(future) for future in selected} == {id(good), id(bad)}
    with pytest.raises(KeyError):
        bad.get()


def test_select_of_nothing(rr):
    assert list(rr.select([])) == []
    with pytest.raises(StopIteration):
        next(rr.select([]))


def test_select_takes_generators_tuples_and_refs(rr):
    plus = rr.service(add)
    assert sorted(future.get() for future in rr.select(plus(number) for number in range(100))) == list(range(100))
    assert sorted(item.get() for item in rr.select((plus(1), rr.put_object(2), plus(3).ref()))) == [1, 2, 3]


def test_select_yields_a_future_given_twice_once(rr):
    future = rr.service(add)(1)
    assert list(rr.select([future, future])) == [future]


@concurrent
def test_select_runs_out_of_time(rr):
    with Held(rr) as held:
        done = rr.service(add)(1)
        done.wait()
        selected = rr.select([held.future, done], timeout=0.1)
        assert next(selected) is done
        with pytest.raises(TimeoutError):
            next(selected)
        with pytest.raises(TimeoutError):
            next(rr.select([held.future], timeout=0))


def test_select_refuses_what_is_no_future(rr):
    with pytest.raises(TypeError):
        list(rr.select([rr.put_object(1), 5]))
    with pytest.raises(TypeError):
        list(rr.select(5))


def test_select_while_submitting(rr):
    """As a dynamic work list: each result makes another call."""
    plus, seen = rr.service(add), []
    pending = [plus(number) for number in range(4)]
    while pending and len(seen) < 100:
        future = next(rr.select(pending))
        pending.remove(future)
        seen.append(future.get())
        pending.append(plus(len(seen)))
    assert len(seen) == 100
    rr.wait(pending)


# ---- a service in place of futures ---------------------------------------------------------------------------------------


def test_a_function_service_stands_for_one_call(rr):
    service = rr.service(lambda: 42)
    assert rr.get(service) == [42]
    assert rr.get(service, timeout=PATIENCE_S) == [42]
    (future,) = rr.select(service)
    assert future.get() == 42
    with pytest.raises(TypeError):
        rr.get(rr.service(lambda needed: needed))


def test_a_class_or_instance_service_does_not(rr):
    class Worker:
        def run(self):
            return 1

    for target in (Worker, Worker()):
        service = rr.service(target)
        for waiting in (rr.get, lambda services: list(rr.select(services))):
            with pytest.raises(TypeError, match="run"):
                waiting(service)


# ---- several runners -----------------------------------------------------------------------------------------------------


@pytest.fixture
def other(project, engine):
    with Runner("other", workers=1, engine=engine) as runner:
        yield runner


def test_a_future_of_another_runner_is_passed_as_its_value(rr, other):
    plus, foreign = rr.service(add), other.service(add)
    assert plus(foreign(1, 2), 4).get() == 7
    assert rr.service(same)([{"a": other.put_object([1])}]).get() == [{"a": [1]}]
    assert rr.service(lambda array: array.sum())(other.put_object(np.ones(100_000))).get() == 1e5
    assert rr.put_object([foreign(1)]).get() == [1]
    with pytest.raises(KeyError, match="k"):
        plus(other.service(fail)(KeyError("k"))).get()


@concurrent
def test_an_unfinished_future_of_another_runner_does_not_hold_up_the_caller(rr, other):
    with Held(other, 5) as held:
        future = rr.service(add)(held.future, 1)
        assert not future.done()
        held.open()
        assert future.get(timeout=PATIENCE_S) == 6


def test_futures_of_several_runners_together(rr, other):
    plus, foreign = rr.service(add), other.service(add)
    futures = [plus(1), foreign(2), plus(3)]
    assert rr.get(futures) == other.get(futures) == [1, 2, 3]
    assert sorted(future.get() for future in rr.select(futures, timeout=PATIENCE_S)) == [1, 2, 3]


@concurrent
def test_a_future_of_a_closed_runner_as_an_argument(rr, engine):
    with pytest.warns(UserWarning, match="1 unfinished"), Runner("closing", workers=1, engine=engine) as closing:
        ready, ref = closing.service(add)(1, 2), closing.put_object(4)
        ready.wait()
        gate = Gate()
        lost = closing.service(hold)(gate)
        gate.entered()
    gate.__exit__()
    assert rr.service(add)(ready, ref).get() == 7
    with InvalidState():
        rr.service(add)(lost, 1).get()
    with InvalidState():
        rr.service(add)([{"x": lost}]).get()
    with InvalidState():
        rr.get([rr.put_object(1), lost])
    with InvalidState():
        list(rr.select([lost]))


# ---- the end -------------------------------------------------------------------------------------------------------------


def test_use_after_close(project, engine):
    with Runner("closing", workers=2, engine=engine) as rr:
        plus = rr.service(add)
        future = plus(1)
        future.wait()
    uses = [
        lambda: plus(1),
        lambda: rr.get(future),
        lambda: rr.get([]),
        lambda: rr.wait(future),
        lambda: rr.ref(future),
        lambda: list(rr.select([future])),
        lambda: rr.put_object(1),
        lambda: rr.service(add),
        lambda: rr.__enter__(),
    ]
    for use in uses:
        with InvalidState() as caught:
            use()
        assert "closing" in caught.value.message
    rr.close()


def test_ready_values_are_readable_after_close(project, engine):
    large = np.arange(300_000)
    with Runner("closing", workers=2, engine=engine) as rr:
        futures = [rr.service(same)(value) for value in (1, "text" * 1000, large, {"a": [large]})]
        failed = rr.service(fail)(KeyError("kept"))
        ref, put = rr.service(same)(large).ref(), rr.put_object(large)
        got = rr.get(futures[2])
        rr.wait(futures)
        failed.exception()
    assert futures[0].get() == 1
    assert futures[1].get() == "text" * 1000
    assert np.array_equal(futures[2].get(), large)
    assert np.array_equal(futures[3].get()["a"][0], large)
    assert np.array_equal(ref.get(), large)
    assert np.array_equal(put.get(), large)
    assert np.array_equal(got, large)
    assert all(future.done() for future in futures)
    with pytest.raises(KeyError, match="kept"):
        failed.get()
    del rr, futures, ref, put, failed
    gc.collect()
    assert np.array_equal(got, large)


@concurrent
def test_unfinished_futures_raise_after_close(project, engine):
    with pytest.warns(UserWarning, match="2 unfinished"), Runner("closing", workers=1, engine=engine) as rr, Gate() as gate:
        running = rr.service(hold)(gate)
        queued = rr.service(add)(running)
        gate.entered()
        rr.close()
    for future in (running, queued):
        for outcome in (future.get, future.wait, future.exception, future.ref):
            with InvalidState():
                outcome()
        assert future.done() is False


@concurrent
def test_close_wakes_threads_that_wait(project, engine):
    errors, waiting = [], threading.Barrier(3)

    def wait_in(outcome):
        waiting.wait()
        try:
            outcome()
        except FlameError as error:
            errors.append(error.code)

    with pytest.warns(UserWarning, match="1 unfinished"), Runner("closing", workers=1, engine=engine) as rr, Gate() as gate:
        future = rr.service(hold)(gate)
        gate.entered()
        selected = rr.select([future])
        threads = [threading.Thread(target=wait_in, args=(use,)) for use in (future.get, lambda: next(selected))]
        for thread in threads:
            thread.start()
        waiting.wait()
        rr.close()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert errors == [FlameErrorCode.INVALID_STATE] * 2


def touched(directory, name, *_):
    open(os.path.join(str(directory), str(name)), "w").close()


@concurrent
def test_a_queued_call_that_nobody_wants_is_dropped(rr, project):
    touch = rr.service(touched)
    with Held(rr), Held(rr):
        for number in range(50):
            touch(project, number)
        first = touch(project, "an input of what nobody wants")
        rr.service(same)([touch(project, "chained"), first])
        del first
        left = rr.service(same)([touch(project, "wanted")])
        kept = touch.options(detached=True)(project, "detached")
        del kept
        gc.collect()
        assert rr.statistics().queued == 2
    assert left.get() == [None]
    wait_until((project / "detached").exists, "the detached call")
    assert {path.name for path in project.iterdir() if not path.is_fifo()} == {"wanted", "detached"}


@concurrent
def test_a_dropped_input_stays_until_the_task_has_it(rr):
    with Held(rr, 1) as held:
        made = rr.service(lambda _: np.ones(200_000))(held.future)
        total = rr.service(lambda array: float(array.sum()))(made)
        ref = rr.put_object(np.ones(200_000))
        total_of_ref = rr.service(lambda array, _: float(array.sum()))(ref, held.future)
        del made, ref
        gc.collect()
        held.open()
        assert (total.get(), total_of_ref.get()) == (2e5, 2e5)


def test_a_future_is_collected_with_its_last_reference(rr):
    future = rr.service(add)(1)
    future.wait()
    gone = weakref.ref(future)
    del future
    assert gone() is None


# ---- threads and signals -------------------------------------------------------------------------------------------------


def test_submitting_and_waiting_from_many_threads(rr):
    plus, gathered, errors = rr.service(add), {}, []

    class Log:
        def __init__(self):
            self.log = []

        def note(self, item):
            self.log.append(item)
            return list(self.log)

    log = rr.service(Log())

    def use(thread):
        try:
            futures = [plus(thread * 1000 + number) for number in range(200)]
            chained = [plus(future, 1) for future in futures]
            notes = [log.note((thread, number)) for number in range(20)]
            nested = [rr.service(same)({"a": [thread, rr.put_object(number)]}) for number in range(5)]
            gathered[thread] = rr.get([chained, nested])
            notes[-1].wait()
            assert len(list(rr.select(futures))) == 200
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    for number in range(8):
        assert gathered[number][0] == [number * 1000 + i + 1 for i in range(200)]
        assert gathered[number][1] == [{"a": [number, i]} for i in range(5)]
    noted = log.note("last").get()
    for number in range(8):
        assert [item for item in noted if item[0] == number] == [(number, i) for i in range(20)]


@concurrent
def test_one_future_waited_for_by_many_threads(rr):
    with Held(rr, 9) as held:
        values, ready = [], threading.Barrier(9)

        def wait():
            ready.wait()
            values.append(held.future.get(timeout=PATIENCE_S))

        threads = [threading.Thread(target=wait) for _ in range(8)]
        for thread in threads:
            thread.start()
        ready.wait()
        held.open()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert values == [9] * 8


@concurrent
def test_submitting_does_not_block_while_all_workers_are_busy(rr):
    with Held(rr, 1) as first, Held(rr, 2) as second:
        futures = [rr.service(same)([number] * 1000) for number in range(1000)]
        futures += [rr.service(add)(first.future, second.future), rr.service(sum)([first.future, second.future])]
        assert not any(future.done() for future in futures)
        first.open()
        second.open()
        assert rr.get(futures)[-2:] == [3, 3]


@concurrent
def test_math_of_the_clock_is_not_confused_by_odd_timeouts(rr):
    future = rr.service(add)(1)
    assert future.get(timeout=1e18) == 1
    assert future.get(timeout=math.inf) == 1
    assert rr.get([future], timeout=math.inf) == [1]
    with Held(rr, 1) as held:
        held.open()
        assert held.future.get(timeout=math.inf) == 1
    for timeout in (math.nan, "1"):
        with Held(rr) as held, pytest.raises((ValueError, TypeError)):
            held.future.get(timeout=timeout)


class Row(list):
    """A list with something of its own."""


def test_get_takes_every_container_of_futures(rr):
    """Subclasses keep their type and what else they have; iterators, views and sets give lists."""
    service = rr.service(same)
    row = Row([service(1)])
    row.label = "first"
    got = rr.get(row)
    assert (got, type(got), got.label) == ([1], Row, "first")
    ordered = rr.get(collections.OrderedDict(b=service(1), a=service(2)))
    assert (list(ordered.items()), type(ordered)) == ([("b", 1), ("a", 2)], collections.OrderedDict)
    counted = rr.get(collections.defaultdict(int, a=service(3)))
    assert (counted["a"], counted["none"]) == (3, 0)
    assert rr.get(collections.deque([service(1), service(2)], maxlen=5)) == collections.deque([1, 2])
    assert rr.get(map(service, range(3))) == [0, 1, 2]
    assert rr.get({"x": service(4)}.values()) == [4]
    assert sorted(rr.get({service(7), service(7), service(8)})) == [7, 7, 8]


def test_wait_takes_every_container_of_futures(rr):
    gone = rr.service(lambda text: int(text))
    for futures in ({gone("x")}, map(gone, "x"), {"a": gone("x")}.values(), collections.deque([gone("x")])):
        with pytest.raises(ValueError, match="invalid literal"):
            rr.wait(futures)


def test_select_of_a_single_future(rr):
    future = rr.service(same)(1)
    assert list(rr.select(future)) == [future]


def test_a_timeout_that_is_no_number_is_named(rr):
    future = rr.service(same)(1)
    for timeout in ("x", [], "", object()):
        with case(timeout):
            for wait in (future.get, future.wait, lambda t: rr.get([future], t), lambda t: rr.get((future,), t)):
                with pytest.raises(TypeError, match="timeout: expected a number"):
                    wait(timeout)
            assert future.get() == 1


def test_a_timeout_beyond_every_float_is_long_enough(rr):
    assert rr.service(same)(1).get(10**400) == 1


def test_a_future_of_another_engine_is_passed_as_its_value(rr):
    for of in ENGINES:
        with case(of), Runner("foreign", workers=1, engine=of) as other:
            foreign, failed = other.service(same)([1]), other.service(fail)(KeyError("k"))
            foreign.wait()
            failed.exception()
            assert rr.service(same)((foreign, other.put_object({"a": 2}))).get() == ([1], {"a": 2})
            with pytest.raises(KeyError, match="k"):
                rr.service(same)([failed]).get()
            own = rr.service(add)(1)
            assert rr.get([own, foreign]) == [1, [1]]
            assert {id(future) for future in rr.select([own, foreign, failed])} == {id(own), id(foreign), id(failed)}
