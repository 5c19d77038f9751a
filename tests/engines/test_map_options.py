"""`service.map` and `starmap` with several iterables, with failures among the results, in any order, within a time."""

from __future__ import annotations

import itertools
import threading

import pytest
from engines import case, concurrent
from gates import Gate, add, hold, same, wait_until
from maps import fail_at, outcomes
from process_events import die

from flame_fast import WorkerDiedError

#: A driver that drops a map half-way, or closes the runner then, drops calls that were queued ahead.
pytestmark = pytest.mark.filterwarnings("ignore:.*unfinished call")

CHUNKSIZES = (None, 3)


# ---- several iterables, tuples of arguments ------------------------------------------------------------------------------


def test_several_iterables_give_an_argument_each(rr):
    service = rr.service(pow)
    for chunksize in CHUNKSIZES:
        with case(chunksize):
            assert list(service.map([2, 3, 4], [5, 2, 3], chunksize=chunksize)) == [32, 9, 64]
            assert list(service.map(range(2, 200), itertools.repeat(2), chunksize=chunksize)) == [
                n * n for n in range(2, 200)
            ]
            assert list(service.map([2, 3, 4], [5, 2, 3], itertools.repeat(7), chunksize=chunksize)) == [
                32 % 7,
                9 % 7,
                64 % 7,
            ]
            assert list(service.map([], [1])) == []


def test_strict_refuses_iterables_of_different_lengths(rr):
    service = rr.service(add)
    assert list(service.map([1, 2], [3, 4], strict=True)) == [4, 6]
    found = outcomes(service.map([1, 2, 3], [3, 4], strict=True))
    assert found[:2] == [4, 6]
    assert isinstance(found[2], ValueError) and "shorter" in str(found[2])
    assert list(service.map([1, 2, 3], [3, 4])) == [4, 6]


def test_starmap_takes_the_arguments_of_each_call(rr):
    service = rr.service(lambda *numbers: sum(numbers))
    for chunksize in CHUNKSIZES:
        with case(chunksize):
            items = [(1,), (2, 3), [4, 5, 6], (), (7, 8), rr.service(same)((1, 2)).get()]
            assert list(service.starmap(items, chunksize=chunksize)) == [1, 5, 15, 0, 15, 3]
            assert list(service.starmap(zip(range(500), range(500), strict=True), chunksize=chunksize)) == [
                2 * n for n in range(500)
            ]


def test_futures_among_the_arguments_arrive_as_values(rr):
    service, ready = rr.service(add), [rr.service(same)(number) for number in (10, 20)]
    assert list(service.map([1, *ready, 4], [5, 6, ready[0], 8])) == [6, 16, 30, 12]
    assert list(service.starmap([(1, 2), (ready[0], ready[1]), (3, 4)])) == [3, 30, 7]


def test_what_is_no_iterable_is_refused_at_once(rr):
    for wrong in [(), (3,), ([1], 5), (None,), ([1], None)]:
        with case(wrong), pytest.raises(TypeError, match="map: expected"):
            rr.service(add).map(*wrong)


class Machine:
    """Object: adds to a total, in the order of its calls."""

    def __init__(self, total=0):
        self.total = total

    def add(self, number, times=1):
        self.total += number * times
        return self.total

    def double(self, number):
        return 2 * number


def test_methods_of_classes_and_instances_have_maps(rr):
    assert list(rr.service(Machine).double.map(range(1000))) == [2 * number for number in range(1000)]
    machine = rr.service(Machine())
    assert list(machine.add.map(range(100))) == list(itertools.accumulate(range(100)))
    assert list(machine.add.starmap([(1, 2), (3,)])) == [4952, 4955]
    assert list(machine.add.map([1, 2], [10, 100], chunksize=1)) == [4965, 5165]


# ---- failures that do not end it -----------------------------------------------------------------------------------------


def test_exceptions_may_stand_in_the_place_of_results(rr):
    for chunksize, options in itertools.product(CHUNKSIZES, [{}, {"timeout": 60}]):
        with case(chunksize, options):
            service = rr.service(fail_at(7))
            service = service.options(**options) if options and rr._engine.name == "conformance" else service
            found = list(service.map(range(100), chunksize=chunksize, return_exceptions=True))
            assert isinstance(found[7], ValueError) and found[7].__notes__ == ["item 7: 7"]
            assert found[:7] + found[8:] == found_without_errors(7)
            none_left = list(rr.service(fail_at(None)).map(range(100), chunksize=chunksize, return_exceptions=True))
            assert none_left == [*found_without_errors(None)]
            all_bad = list(rr.service(to_int).map(["a", "b", "c"], chunksize=chunksize, return_exceptions=True))
            assert [type(error) for error in all_bad] == [ValueError] * 3
            assert [error.__notes__ for error in all_bad] == [["item 0: 'a'"], ["item 1: 'b'"], ["item 2: 'c'"]]


def to_int(text):
    return int(text)


def found_without_errors(bad):
    values = map(fail_at(None), range(100))
    return [value for number, value in enumerate(values) if number != bad]


def test_a_failure_names_its_item(rr):
    for chunksize in CHUNKSIZES:
        with case(chunksize):
            iterator = rr.service(to_int).map([*map(str, range(50)), "x" * 1000, "2"], chunksize=chunksize)
            with pytest.raises(ValueError) as caught:
                list(iterator)
            assert caught.value.__notes__ == ["item 50: '" + "x" * 99 + "..."]
            with pytest.raises(TypeError) as caught:
                list(rr.service(add).map([1, 2, 3], [1, "a", 2], chunksize=chunksize))
            assert caught.value.__notes__ == ["item 1: (2, 'a')"]


class Silent:
    def __repr__(self):
        raise ValueError("no text")


def test_an_item_without_a_text_is_named_by_its_type(rr):
    with pytest.raises(TypeError) as caught:
        list(rr.service(len).map([Silent()]))
    assert caught.value.__notes__ == ["item 0: a Silent whose repr raises ValueError"]


def test_a_value_that_cannot_travel_is_one_failure(rr):
    def task(number):
        return threading.Lock() if number == 3 else number

    for chunksize in CHUNKSIZES:
        with case(chunksize):
            found = list(rr.service(task).map(range(8), chunksize=chunksize, return_exceptions=True))
            assert [number for number in found if isinstance(number, int)] == [0, 1, 2, 4, 5, 6, 7]
            assert isinstance(found[3], Exception) and "item 3: 3" in found[3].__notes__


def test_a_failed_input_is_one_failure(rr):
    bad = rr.service(fail_at(0))(0)
    found = list(rr.service(same).map([1, bad, 3], return_exceptions=True))
    assert found[0::2] == [1, 3]
    assert isinstance(found[1], ValueError)


@concurrent
def test_items_that_died_together_fail_together(rr):
    found = list(
        rr.service(lambda number: die("SIGKILL") if number == 5 else number).map(
            range(12), chunksize=4, return_exceptions=True
        )
    )
    assert found[:4] == [0, 1, 2, 3] and found[8:] == [8, 9, 10, 11]
    assert all(isinstance(error, WorkerDiedError) for error in found[4:8])
    assert found[4].__notes__ == ["items 4 to 7, the first: 4"]


# ---- in any order, within a time -----------------------------------------------------------------------------------------


def test_in_any_order_all_results_come(rr):
    for chunksize in CHUNKSIZES:
        with case(chunksize):
            assert sorted(rr.service(add).map(range(1000), range(1000), ordered=False, chunksize=chunksize)) == list(
                range(0, 2000, 2)
            )
            found = list(rr.service(to_int).map(["1", "x", "3"], ordered=False, return_exceptions=True, chunksize=chunksize))
            assert sorted(value for value in found if isinstance(value, int)) == [1, 3]
            (error,) = [value for value in found if not isinstance(value, int)]
            assert error.__notes__ == ["item 1: 'x'"]


@concurrent
def test_in_any_order_a_slow_item_holds_up_no_other(rr, project):
    for options in [{}, {"timeout": 60}]:
        with case(options), Gate() as gate:
            service = rr.service(lambda number, gate=gate: hold(gate, number) if number == 0 else number)
            service = service.options(**options) if options else service
            iterator = service.map(range(50), ordered=False, chunksize=1)
            found = [next(iterator) for _ in range(49)]
            assert sorted(found) == list(range(1, 50))
            gate.open()
            assert list(iterator) == [0]


@concurrent
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("options", [{}, {"timeout": 60}])
def test_a_time_out_ends_it_and_leaves_nothing(rr, project, ordered, options):
    with Gate() as gate:
        service = rr.service(lambda number: hold(gate, number))
        service = service.options(**options) if options else service
        iterator = service.map(range(50), timeout=0.1, chunksize=1, ordered=ordered)
        with pytest.raises(TimeoutError):
            next(iterator)
        assert list(iterator) == []
        wait_until(lambda: rr.statistics().queued == 0, "the end of what had not begun")
        rr.close()


def test_a_length_hint_counts_what_is_left(rr):
    iterator = rr.service(same).map(range(10), chunksize=3)
    for left in range(10, 0, -1):
        assert iterator.__length_hint__() == left
        next(iterator)
    assert list(iterator) == []
    assert iterator.__length_hint__() == 0
    assert rr.service(add).map([1, 2, 3], [4, 5]).__length_hint__() == 2
    assert rr.service(same).map(iter([1])).__length_hint__() is NotImplemented


def test_an_option_that_does_not_fit_is_refused_at_once(rr):
    for wrong in [{"ordered": 1}, {"return_exceptions": "yes"}, {"timeout": "soon"}, {"chunksize": 1.5}]:
        with case(wrong), pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            rr.service(same).map([1], **wrong)
