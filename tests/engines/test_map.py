"""`service.map`: many items in few calls, their values in order, lazily, and what goes wrong in its turn."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import threading

import numpy as np
import pytest
from engines import case, concurrent, in_a_segment
from gates import PATIENCE_S, Gate, add, hold, same, wait_until
from maps import fail_at, outcomes
from process_events import die, pid_of_worker

from flame_fast import FlameError, FlameErrorCode, Runner, StoreFullError, TaskError, WorkerDiedError

#: A driver that drops a map half-way, or closes the runner then, drops calls that were queued ahead.
pytestmark = pytest.mark.filterwarnings("ignore:.*unfinished call")

WORKERS = 2

#: Chunks that may be taken ahead of what was given out: somewhat more than the house takes.
MOST_AHEAD = 5 * WORKERS


class Source:
    """An iterable that counts what was taken of it; raises `error` when `values` are at their end."""

    def __init__(self, values, error=None):
        self.values = iter(values)
        self.error = error
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        try:
            value = next(self.values)
        except StopIteration:
            if self.error is None:
                raise
            raise self.error from None
        self.taken += 1
        return value


def wait_settled(rr, before):
    """Until nothing runs, and no more is held than before."""

    def held():
        found = rr.statistics()
        return found.queued + found.running, found.waiting, found.objects, found.bytes

    wait_until(lambda: held() == (0, 0, before.objects, before.bytes), "the end and release of what was queued")


CHUNKSIZES = (None, 1, 3, 1000)


# ---- values --------------------------------------------------------------------------------------------------------------


def test_values_come_in_the_order_of_the_items(rr):
    """However long each takes: the later items of each ten are quicker."""

    def work(number):
        sum(range(300 * (9 - number % 10)))
        return number * number

    service = rr.service(work)
    for chunksize in CHUNKSIZES:
        for source in (range(100), list(range(100)), tuple(range(100)), iter(range(100)), (n for n in range(100))):
            assert list(service.map(source, chunksize=chunksize)) == [number * number for number in range(100)]
        assert list(service.map(dict.fromkeys(range(5)), chunksize=chunksize)) == [0, 1, 4, 9, 16]
        assert sorted(service.map({1, 2, 3}, chunksize=chunksize)) == [1, 4, 9]


def test_any_number_of_items(rr):
    for chunksize in CHUNKSIZES:
        for count in (0, 1, 2, 3, 4, 999, 1000, 1001):
            iterator = rr.service(add).map(iter(range(count)), chunksize=chunksize)
            assert list(iterator) == list(range(count))
            assert list(iterator) == []
            with pytest.raises(StopIteration):
                next(iterator)


def test_it_is_an_iterator(rr):
    iterator = rr.service(add).map([1, 2])
    assert iter(iterator) is iterator
    assert next(iterator) == 1
    assert list(iterator) == [2]


@in_a_segment
def test_two_hundred_thousand_items(rr):
    for chunksize in (None, 700):
        expected = itertools.count()
        for value in rr.service(same).map(range(200_000), chunksize=chunksize):
            assert value == next(expected)
        assert next(expected) == 200_000


@concurrent
def test_many_items_travel_in_few_calls(rr):
    """A thousand items of one chunk: one call, and so one worker."""
    pids = list(rr.service(pid_of_worker).map(range(1000), chunksize=1000))
    assert len(pids) == 1000
    assert len(set(pids)) == 1
    assert os.getpid() not in pids


@concurrent
def test_items_run_on_all_workers(rr, project):
    """Two chunks of one item each meet: neither returns before the other runs."""

    def meet(number):
        from gates import meet

        return meet(str(directory), WORKERS, number)

    directory = project / "meeting"
    assert len(set(rr.service(meet).map(range(WORKERS), chunksize=1))) == WORKERS


@concurrent
def test_the_first_items_run_before_anybody_asks(rr, project):
    def touch(number):
        (directory / str(number)).touch()

    directory = project / "touched"
    directory.mkdir()
    iterator = rr.service(touch).map(itertools.count())
    wait_until(lambda: (directory / "0").exists(), "the first item's running")
    del iterator


def test_values_of_every_kind(rr):
    values = [None, True, 2**70, 1.5, "é", b"b", [1, [2]], (1,), {"a": {2}}, np.float32(1), Exception("x")]
    got = list(rr.service(same).map(values))
    assert [type(value) for value in got] == [type(value) for value in values]
    assert got[:-1] == values[:-1]
    assert got[-1].args == ("x",)


def test_an_item_is_one_argument(rr):
    assert list(rr.service(len).map([(1, 2), "abc", {}])) == [2, 3, 0]
    with pytest.raises(TypeError, match="argument"):
        list(rr.service(lambda a, b: a).map([(1, 2)]))


def test_futures_among_the_items_arrive_as_their_values(rr):
    for chunksize in CHUNKSIZES:
        plus = rr.service(add)
        items = [1, plus(1, 1), rr.put_object(3), [plus(4)], {"a": (plus(5), rr.put_object([6]))}, plus(plus(7))]
        assert list(rr.service(same).map(items, chunksize=chunksize)) == [1, 2, 3, [4], {"a": (5, [6])}, 7]


@concurrent
def test_an_unfinished_future_among_the_items_is_not_waited_for_by_the_caller(rr):
    with Gate() as gate:
        future = rr.service(hold)(gate, 5)
        iterator = rr.service(same).map([future, 6], chunksize=1)
        assert not future.done()
        gate.open()
        assert list(iterator) == [5, 6]


def test_arrays_among_the_items_and_the_values(rr):
    """Large and small ones; a large value is a view, and stays right while others come and go."""
    for chunksize in CHUNKSIZES:
        arrays = [np.full(size, number) for number, size in enumerate([3, 20_000, 5, 30_000] * 3)]
        got = list(rr.service(lambda array: array + 1).map(arrays, chunksize=chunksize))
        assert all(
            (value == array + 1).all() and value.shape == array.shape for value, array in zip(got, arrays, strict=True)
        )
        assert all(value.flags.writeable for value in got)
        stored = rr.put_object(np.arange(50_000))
        before = rr.statistics()
        views = list(
            rr.service(lambda pair: pair[1][pair[0] :]).map([(number, stored) for number in range(5)], chunksize=chunksize)
        )
        assert [int(view[0]) for view in views] == [0, 1, 2, 3, 4]
        assert rr.statistics().copied_bytes - before.copied_bytes < 40_000


@concurrent
def test_large_values_are_born_where_they_lie(rr):
    service = rr.service(lambda number: np.full(100_000, number))
    list(service.map(range(4), chunksize=1))
    before = rr.statistics()
    got = list(service.map(range(8), chunksize=4))
    assert [int(value[-1]) for value in got] == list(range(8))
    assert rr.statistics().copied_bytes - before.copied_bytes < 40_000


# ---- which services ------------------------------------------------------------------------------------------------------


def test_integers_among_other_items(rr):
    """Integers travel in rows; what comes after them, and what they become, may be anything."""
    for chunksize in (1, 3, 100, None):
        with case(chunksize):
            items = [*range(-5, 5), 2**63 - 1, -(2**63), 2**63, True, None, 7, "x", 8, 1.5, *range(10)]
            got = list(rr.service(same).map(items, chunksize=chunksize))
            assert [(type(value), value) for value in got] == [(type(value), value) for value in items]
            assert list(rr.service(repr).map(range(20), chunksize=chunksize)) == [repr(i) for i in range(20)]
            assert list(rr.service(ord).map("abcdefgh", chunksize=chunksize)) == list(range(97, 105))
            futures = [rr.service(same)(30), rr.service(same)("y")]
            assert list(rr.service(same).map([1, 2, *futures, 3], chunksize=chunksize)) == [1, 2, 30, "y", 3]


def test_integers_as_items_of_a_function_with_state(rr):
    """A call that carries its function's state is pickled."""
    offset = 10

    def add(x):
        return x + offset

    service = rr.service(add)
    assert list(service.map(range(100), chunksize=30)) == list(range(10, 110))


def test_values_that_are_read_in_place_stay_when_the_runner_closes(project, engine):
    with Runner("map", workers=1, engine=engine) as rr:
        results = rr.service(same).map(range(1000), chunksize=1000)
        assert next(results) == 0
    assert next(results) == 1


def test_functions_of_every_kind(rr):
    factor = 3
    assert list(rr.service(lambda value: factor * value).map([1, 2])) == [3, 6]
    assert list(rr.service(functools.partial(add, 10)).map([1, 2])) == [11, 12]
    assert list(rr.service(abs).map([-1, 2])) == [1, 2]
    assert list(rr.service(np.sqrt).map([4.0, 9.0])) == [2.0, 3.0]


def test_coroutine_functions(rr):
    async def compute(number):
        if number == 3:
            raise KeyError(number)
        return number + 1

    iterator = rr.service(compute).map(range(5), chunksize=2)
    assert [next(iterator) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(KeyError, match="3"):
        next(iterator)


def test_a_generator_as_a_result_is_refused(rr):
    def generate(number):
        if number < 2:
            return number
        return (item for item in range(number))

    service = rr.service(generate)
    for chunksize in CHUNKSIZES:
        found = outcomes(service.map(range(5), chunksize=chunksize))
        assert found[:2] == [0, 1]
        assert [type(error) for error in found[2:]] == [TypeError]
        assert "generator" in str(found[2])
        assert "return a list instead" in str(found[2])


class Counter:
    def __init__(self, start=0):
        self.count = start

    def up(self):
        self.count += 1
        return self.count


class Log(Counter):
    """Callable: each call's value tells how many there were before it."""

    def __call__(self, number):
        self.count += 1
        return self.count, number


def test_class_and_instance_services_have_nothing_to_map(rr):
    for target in (Counter, Counter(), Log):
        service = rr.service(target)
        with pytest.raises(TypeError, match="is not callable.*up"):
            list(service.map([1, 2]))


def test_a_callable_instance_takes_the_items_in_order(rr):
    for chunksize in CHUNKSIZES:
        service = rr.service(Log(100))
        assert list(service.map("abc" * 10, chunksize=chunksize)) == [(101 + at, "abc"[at % 3]) for at in range(30)]
        assert service("d").get() == (131, "d")
        assert service.up().get() == 132


@concurrent
def test_services_of_few_workers(rr):
    service = rr.service(pid_of_worker, autoscale=False)
    assert len(set(service.map(range(20), chunksize=1))) == 1


def test_a_chunksize_that_is_none_is_refused(rr):
    service, source = rr.service(same), Source(range(10))
    for chunksize in (0, -1, True, False, 1.0, 2.5, "3", b"", [1], float("inf")):
        with pytest.raises(ValueError, match="chunksize: expected an integer of at least 1") as caught:
            service.map(source, chunksize=chunksize)
        assert repr(chunksize) in str(caught.value)
    assert source.taken == 0


def test_what_cannot_be_iterated_is_refused(rr):
    for wrong in (5, None, rr.service(same)):
        with pytest.raises(TypeError, match="not iterable"):
            rr.service(same).map(wrong)


# ---- laziness ------------------------------------------------------------------------------------------------------------


def test_an_endless_source_is_taken_a_bounded_way_ahead(rr):
    for chunksize in (1, 7, 100):
        source = Source(itertools.count())
        iterator = rr.service(same).map(source, chunksize=chunksize)
        assert 0 < source.taken <= MOST_AHEAD * chunksize
        for given in range(1, 20 * chunksize):
            assert next(iterator) == given - 1
            assert given <= source.taken <= given + MOST_AHEAD * chunksize
        del iterator
        taken = source.taken
        gc.collect()
        assert source.taken == taken


@concurrent
def test_nothing_more_is_taken_while_nobody_asks(rr):
    source = Source(itertools.count())
    iterator = rr.service(same).map(source)
    next(iterator)
    taken = source.taken
    wait_until(lambda: rr.statistics().queued + rr.statistics().running == 0, "the running of what was queued")
    assert source.taken == taken
    del iterator


def test_an_endless_source_without_a_chunksize(rr):
    source = Source(itertools.count())
    iterator = rr.service(same).map(source)
    assert source.taken <= MOST_AHEAD
    assert [next(iterator) for _ in range(10_000)] == list(range(10_000))
    assert source.taken < 2_000_000


def test_items_that_take_long_are_not_taken_far_ahead(rr):
    """Each takes longer than a chunk shall: one at a time, whatever came before."""

    def work(number):
        import time

        end = time.perf_counter() + 0.003
        while time.perf_counter() < end:
            pass
        return number

    source = Source(itertools.count())
    iterator = rr.service(work).map(source)
    for given in range(1, 40):
        assert next(iterator) == given - 1
        assert source.taken <= given + MOST_AHEAD
    del iterator


@in_a_segment
def test_a_short_source_is_shared_out(rr):
    """As quick as its items are, no chunk takes so many that a worker would have nothing to do."""

    class Sized(Source):
        def __len__(self):
            return 1000

    service = rr.service(same)
    for _ in range(5):
        source = Sized(range(1000))
        for given, value in enumerate(service.map(source)):
            assert value == given
            assert source.taken - given <= 700


@concurrent
def test_values_let_go_of_are_freed_on_the_way(rr):
    """A hundred values of four megabytes: never more of them in memory than are ahead."""
    service = rr.service(lambda number: np.full(1 << 22, number % 256, dtype="u1"))
    for number, value in enumerate(service.map(range(100), chunksize=1)):
        assert value[-1] == number % 256
        assert rr.statistics().bytes <= (MOST_AHEAD + 4) << 22
    del value
    assert rr.statistics().bytes < 1 << 20


def test_dropping_the_iterator_half_way_leaves_nothing(rr):
    service = rr.service(lambda array: array + 1)
    list(service.map([np.ones(10)] * 3))
    before = rr.statistics()
    iterator = service.map((np.full(100_000, number) for number in itertools.count()), chunksize=2)
    assert [int(next(iterator)[0]) for _ in range(5)] == [1, 2, 3, 4, 5]
    del iterator
    wait_settled(rr, before)


def test_an_iterator_never_asked_leaves_nothing(rr):
    service = rr.service(same)
    list(service.map([1]))
    before = rr.statistics()
    service.map(np.full(100_000, number) for number in range(100))
    wait_settled(rr, before)


def test_the_source_is_let_go_of_with_the_iterator(rr):
    class Marked(Source):
        pass

    def living():
        gc.collect()
        return sum(type(item) is Marked for item in gc.get_objects())

    iterator = rr.service(same).map(Marked(range(1000)), chunksize=1)
    next(iterator)
    assert living() == 1
    del iterator
    assert living() == 0
    assert list(rr.service(same).map(Marked(range(10)))) == list(range(10))
    assert living() == 0


# ---- what goes wrong, in its turn ----------------------------------------------------------------------------------------


def test_an_items_error_is_raised_in_its_turn_and_nothing_follows(rr):
    for chunksize in CHUNKSIZES:
        for bad in (0, 1, 4, 20, 99):
            found = outcomes(rr.service(fail_at(bad)).map(range(100), chunksize=chunksize))
            assert found[:-1] == [10 * number for number in range(bad)]
            assert type(found[-1]) is ValueError
            assert str(found[-1]) == f"no {bad}"
            assert "times_ten" in str(found[-1].__cause__)


def test_an_error_of_the_source_is_raised_in_its_turn_and_nothing_follows(rr):
    for chunksize in CHUNKSIZES:
        for count in (0, 1, 4, 20):
            found = outcomes(rr.service(same).map(Source(range(count), KeyError("source")), chunksize=chunksize))
            assert found[:-1] == list(range(count))
            assert type(found[-1]) is KeyError
            assert found[-1].args == ("source",)


def test_after_an_items_error_not_even_the_sources_follows(rr):
    for chunksize in CHUNKSIZES:
        found = outcomes(rr.service(fail_at(2)).map(Source(range(4), KeyError("source")), chunksize=chunksize))
        assert found[:2] == [0, 10]
        assert [type(error) for error in found[2:]] == [ValueError]


def test_the_first_of_several_errors_is_raised(rr):
    def fail(number):
        if number > 4:
            raise ValueError(number)
        return number

    service = rr.service(fail)
    for chunksize in CHUNKSIZES:
        found = outcomes(service.map(range(50), chunksize=chunksize))
        assert found[:-1] == [0, 1, 2, 3, 4]
        assert found[-1].args == (5,)


def test_a_failed_future_among_the_items_fails_in_its_turn(rr):
    for chunksize in CHUNKSIZES:
        failed = rr.service(fail_at(7))(7)
        failed.exception()
        found = outcomes(rr.service(same).map([1, 2, failed, 4, 5], chunksize=chunksize))
        assert found[:2] == [1, 2]
        assert [type(error) for error in found[2:]] == [ValueError]
        assert str(found[2]) == "no 7"


def test_an_item_that_cannot_be_pickled_fails_in_its_turn(rr):
    for chunksize in CHUNKSIZES:
        found = outcomes(rr.service(same).map([*range(30), threading.Lock(), 31, 32], chunksize=chunksize))
        assert found[:30] == list(range(30))
        assert [type(error) for error in found[30:]] == [TypeError]
        assert "lock" in str(found[30])


def test_a_value_that_cannot_be_pickled_fails_in_its_turn(rr):
    def make(number):
        import threading

        return threading.Lock() if number == 3 else number

    service = rr.service(make)
    for chunksize in CHUNKSIZES:
        found = outcomes(service.map(range(6), chunksize=chunksize))
        assert found[:3] == [0, 1, 2]
        assert [type(error) for error in found[3:]] == [TaskError]
        assert "lock" in str(found[3])


@in_a_segment
def test_a_value_that_does_not_fit_fails_in_its_turn(project, engine):
    with Runner("small", workers=1, memory="32m", engine=engine) as rr:
        service = rr.service(lambda number: number if number != 3 else bytes(64 << 20))
        for chunksize in (1, 4):
            found = outcomes(service.map(range(6), chunksize=chunksize))
            assert found[:3] == [0, 1, 2]
            assert [type(error) for error in found[3:]] == [StoreFullError]


@in_a_segment
def test_an_item_that_does_not_fit_fails_in_its_turn(project, engine):
    """Refused like any other argument; what was taken before it comes first."""
    with Runner("small", workers=1, memory="32m", engine=engine) as rr:
        sizes = [1] * 20 + [64 << 20, 1]
        for chunksize in (1, 4):
            found = outcomes(rr.service(len).map(map(bytes, sizes), chunksize=chunksize))
            assert found[:20] == [1] * 20
            assert [type(error) for error in found[20:]] == [StoreFullError]


def test_system_exit_is_an_error_like_another(rr):
    def leave(number):
        if number == 2:
            raise SystemExit(5)
        return number

    service = rr.service(leave)
    for chunksize in (1, 3):
        found = outcomes(service.map(range(5), chunksize=chunksize))
        assert found[:2] == [0, 1]
        assert [type(error) for error in found[2:]] == [TaskError]
        assert "SystemExit" in str(found[2])


def test_every_error_is_a_fresh_one(rr):
    service = rr.service(fail_at(0))
    first, second = (outcomes(service.map([0]))[0] for _ in range(2))
    assert first is not second


def test_after_an_error_the_rest_leaves_nothing(rr):
    service = rr.service(fail_at(5))
    outcomes(service.map([5]))
    before = rr.statistics()
    iterator = service.map(itertools.count(), chunksize=1)
    with pytest.raises(ValueError, match="no 5"):
        list(iterator)
    wait_settled(rr, before)
    assert list(iterator) == []


@concurrent
def test_a_worker_that_dies_in_the_middle(rr):
    """The values before it, the death in its turn, nothing after it; the service goes on."""

    def work(number):
        if number == 3:
            die("SIGKILL")
        return number

    service = rr.service(work)
    found = outcomes(service.map(range(10), chunksize=1))
    assert found[:3] == [0, 1, 2]
    assert [type(error) for error in found[3:]] == [WorkerDiedError]
    assert "SIGKILL" in str(found[3])
    assert list(service.map([4, 5])) == [4, 5]


@concurrent
def test_an_instance_that_dies_in_the_middle(rr):
    class Mortal:
        def __call__(self, number):
            if number == 3:
                die("SIGKILL")
            return number

    found = outcomes(rr.service(Mortal()).map(range(10), chunksize=1))
    assert found[:3] == [0, 1, 2]
    assert [type(error) for error in found[3:]] == [WorkerDiedError]


# ---- the end -------------------------------------------------------------------------------------------------------------


class InvalidState:
    """`pytest.raises` for a FlameError with that code."""

    def __enter__(self):
        self.context = pytest.raises(FlameError)
        self.caught = self.context.__enter__()

    def __exit__(self, *details):
        result = self.context.__exit__(*details)
        assert self.caught.value.code is FlameErrorCode.INVALID_STATE
        return result


def test_a_closed_service_maps_nothing(rr):
    service = rr.service(same)
    service.close()
    with InvalidState():
        list(service.map([1, 2]))


def test_a_closed_runner_maps_nothing(project, engine):
    with Runner("closing", workers=1, engine=engine) as rr:
        service = rr.service(same)
    with InvalidState():
        list(service.map([1, 2]))


def test_closing_the_service_half_way(rr):
    """What was queued comes still; then it is told, once."""
    service = rr.service(same)
    iterator = service.map(itertools.count(), chunksize=1)
    first = [next(iterator) for _ in range(3)]
    service.close()
    found = outcomes(iterator)
    values = first + found[:-1]
    assert values == list(range(len(values)))
    assert len(values) <= 3 + MOST_AHEAD
    assert isinstance(found[-1], FlameError)
    assert found[-1].code is FlameErrorCode.INVALID_STATE


def test_closing_the_runner_half_way(project, engine):
    with Runner("closing", workers=1, engine=engine) as rr:
        iterator = rr.service(same).map(itertools.count(), chunksize=1)
        assert [next(iterator) for _ in range(3)] == [0, 1, 2]
        wait_until(lambda: rr.statistics().queued + rr.statistics().running == 0, "the end of what was queued")
        rr.close()
        with InvalidState():
            for value in iterator:
                assert value < 3 + MOST_AHEAD


@concurrent
def test_closing_the_runner_wakes_who_waits_for_the_next_value(project, engine):
    errors = []

    def wait():
        try:
            next(iterator)
        except FlameError as error:
            errors.append(error.code)

    with Runner("closing", workers=1, engine=engine) as rr, Gate() as gate:
        iterator = rr.service(hold).map([gate])
        gate.entered()
        thread = threading.Thread(target=wait)
        thread.start()
        rr.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert errors == [FlameErrorCode.INVALID_STATE]


# ---- in a task, and beside others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_map_in_a_task(project, engine, workers):
    """With one worker as well: the task that waits makes room."""

    def outer(count):
        with Runner("inner") as inner:
            squares = inner.service(lambda number: number * number)
            return sum(squares.map(range(count))), list(squares.map(range(3), chunksize=1))

    with Runner("nested", workers=workers, engine=engine) as rr:
        assert rr.service(outer)(1000).get() == (sum(number * number for number in range(1000)), [0, 1, 4])
        plus = rr.service(add)
        assert rr.service(lambda service: list(service.map(range(5))))(plus).get() == [0, 1, 2, 3, 4]
        assert list(rr.service(outer).map([10, 20])) == [(285, [0, 1, 4]), (2470, [0, 1, 4])]


def test_an_error_of_a_map_in_a_task(rr):
    def outer(service):
        return list(service.map([1, 2]))

    with pytest.raises(ValueError, match="no 2"):
        rr.service(outer)(rr.service(fail_at(2))).get()


def test_a_map_of_a_map(rr):
    plus = rr.service(add)
    assert list(plus.map(plus.map(plus.map(range(1000))))) == list(range(1000))


def test_maps_of_several_threads_and_services(rr):
    found, errors = {}, []

    def use(number):
        try:
            service = rr.service(functools.partial(add, number))
            found[number] = [list(service.map(range(500), chunksize=chunksize)) for chunksize in CHUNKSIZES]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    for number in range(6):
        assert found[number] == [[number + item for item in range(500)]] * len(CHUNKSIZES)


def test_two_maps_side_by_side(rr):
    service = rr.service(same)
    evens, odds = service.map(itertools.count(0, 2)), service.map(itertools.count(1, 2))
    assert [next(source) for _ in range(500) for source in (evens, odds)] == list(range(1000))
    assert service(5).get() == 5


def test_what_a_function_closes_over_is_taken_at_the_map(rr):
    factor = 2
    scaled = rr.service(lambda number: factor * number)
    assert list(scaled.map([1, 2])) == [2, 4]
    factor = 3
    assert list(scaled.map([1, 2])) == [3, 6]
