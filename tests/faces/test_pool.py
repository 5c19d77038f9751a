"""`Pool` in the place of `multiprocessing.Pool`."""

from __future__ import annotations

import gc
import importlib
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import unittest
import warnings
import weakref
from multiprocessing.pool import MaybeEncodingError

import numpy as np
import pytest
from gates import PATIENCE_S, Gate, add, fail, hold, run_script, same, wait_until
from pool_tasks import Adds, Refusing, identity, in_a_task, inverse, read_value, set_value, square, touch
from tqdm import tqdm

from flame_fast import FlameError, Pool, WorkerDiedError


@pytest.fixture
def pool(project):
    with Pool(2) as made:
        yield made


# ---- single calls --------------------------------------------------------------------------------------------------------


def test_apply_calls_any_callable(pool):
    number = 3
    adds = Adds(10)
    for _ in range(3):
        assert pool.apply(add, (1,), {"b": 2}) == 3
        assert pool.apply(lambda other: number + other, [1]) == 4
        assert pool.apply(adds.method, (1,), {"times": 2}) == 22
        assert pool.apply(adds, (1,)) == 11
        assert pool.apply(dict, (), {"a": 1}) == {"a": 1}
    assert pool.apply(os.getpid) != os.getpid()


def test_workers_have_a_name_and_a_number_as_multiprocessing_s_have(pool):
    name, (number,) = pool.apply(identity)
    assert name == f"FlamePoolWorker-{number}" and number >= 1
    assert multiprocessing.current_process().name == "MainProcess"
    with Pool(1, engine="inline") as here:
        assert here.apply(identity) == ("MainProcess", ())


def test_a_result_is_waited_for_and_read(pool):
    with Gate() as gate:
        result = pool.apply_async(hold, (gate, [1]))
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        for kind in (multiprocessing.TimeoutError, TimeoutError):
            with pytest.raises(kind):
                result.get(timeout=0.01)
        result.wait(0.01)
        gate.open()
        result.wait(PATIENCE_S)
    assert result.ready() and result.successful()
    assert result.get() is result.get(timeout=0) and result.get() == [1]


def test_an_error_has_the_worker_s_traceback(pool):
    result = pool.apply_async(fail, (TimeoutError("its own"),))
    with pytest.raises(TimeoutError, match="its own") as caught:
        result.get(PATIENCE_S)
    assert "in fail" in str(caught.value.__cause__)
    assert not isinstance(caught.value, multiprocessing.TimeoutError)
    assert result.ready() and not result.successful()


def test_what_cannot_be_pickled_is_the_result_s_error(pool):
    for result in (
        pool.apply_async(same, (Refusing(),)),
        pool.map_async(same, [Refusing(), 1]),
        pool.map_async(Refusing().__reduce__, [1]),
    ):
        with pytest.raises(pickle.PicklingError, match="it refuses"):
            result.get(PATIENCE_S)
    with pytest.raises(MaybeEncodingError) as caught:
        pool.apply(threading.Lock)
    assert "lock" in caught.value.exc
    assert pool.apply(same, (1,)) == 1


def test_callbacks_run_in_one_thread_before_the_result_is_ready(pool):
    told = []

    def tell(value):
        told.append((value, threading.current_thread()))

    results = [pool.apply_async(square, (number,), {}, tell, tell) for number in range(20)]
    results += [pool.map_async(square, [1, 2], callback=tell), pool.starmap_async(pow, [], callback=tell)]
    for result in results:
        result.wait(PATIENCE_S)
    expected = [*(number * number for number in range(20)), [1, 4], []]
    assert sorted((value for value, _ in told), key=str) == sorted(expected, key=str)
    assert {thread for _, thread in told} == {told[0][1]} and told[0][1] is not threading.current_thread()
    pool.apply_async(inverse, (0,), {}, tell, tell).wait(PATIENCE_S)
    assert isinstance(told[-1][0], ZeroDivisionError)


def test_a_callback_may_raise_and_make_calls(pool, caplog):
    found = []
    wrong = pool.apply_async(same, (0,), callback=lambda value: 1 // value)
    right = pool.apply_async(same, (2,), callback=lambda value: found.append(pool.map(square, [value, 3])))
    right.wait(PATIENCE_S)
    assert found == [[4, 9]]
    assert wrong.get(PATIENCE_S) == 0
    assert "ZeroDivisionError" in caplog.text


def test_a_call_runs_although_nobody_has_its_result(pool, project):
    pool.apply_async(touch, (project / "one",))
    pool.map_async(touch, [project / "two"] * 3, chunksize=1)
    wait_until(lambda: (project / "one").exists() and (project / "two").exists(), "the calls")
    wait_until(lambda: (project / "two").read_text() == "xxx", "the other calls")


def test_a_killed_worker_fails_its_call_alone(pool):
    def die(number):
        return number if number else os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        pool.apply(die, (0,))
    with pytest.raises(WorkerDiedError) as caught:
        pool.map(die, [1, 0, 2, 3], chunksize=2)
    assert caught.value.__notes__ == ["items 0 to 1, the first: 1"]
    values = pool.imap(die, [1, 0, 2])
    assert next(values) == 1
    with pytest.raises(WorkerDiedError):
        next(values)
    assert list(values) == [2]


# ---- map -----------------------------------------------------------------------------------------------------------------


def test_map_returns_the_values_in_order(pool):
    assert pool.map(square, range(1000)) == [number * number for number in range(1000)]
    assert pool.map(str.upper, "abc", chunksize=1) == ["A", "B", "C"]
    assert pool.map(Adds(1), (number for number in range(5)), 2) == [1, 2, 3, 4, 5]
    assert pool.map(lambda number: number, {7: None}) == [7]
    assert pool.starmap(pow, [(2, 3), [3, 2]]) == [8, 9]
    assert pool.starmap(lambda a, b=1: a - b, [(5, 3), (3,)], chunksize=1) == [2, 2]
    assert pool.map(square, []) == pool.starmap(pow, ()) == pool.map_async(square, iter(()), 3).get(PATIENCE_S) == []


def test_map_makes_more_calls_than_it_makes_ahead(pool):
    assert pool.map(square, range(300), chunksize=1) == [number * number for number in range(300)]
    assert (
        sum(pool.imap(square, range(300)))
        == sum(pool.imap_unordered(square, range(300), 2))
        == sum(number * number for number in range(300))
    )


def test_map_calls_all_items_and_raises_the_first_error(pool, project):
    def task(number):
        touch(project / f"ran-{number}")
        return 10 // number

    for chunksize in (1, 2):
        with pytest.raises(ZeroDivisionError) as caught:
            pool.map(task, [2, 1, 0, 5, 4, "a"], chunksize)
        assert caught.value.__notes__ == ["item 2: 0"]
        assert "in task" in str(caught.value.__cause__)
        assert (project / "ran-4").exists() and (project / "ran-a").exists()


def test_the_iterable_s_error_is_raised(pool):
    def source():
        yield 2
        raise KeyError("missing")

    with pytest.raises(KeyError):
        pool.map(square, source())
    values = pool.imap(square, source())
    assert next(values) == 4
    with pytest.raises(KeyError):
        next(values)
    with pytest.raises(StopIteration):
        next(values)


def test_a_function_s_data_travels_once(pool):
    table = np.arange(500_000.0)

    def entry(number):
        return table[number]

    before = pool._functions.runner.statistics().copied_bytes
    assert pool.map(Adds(table).method, [0.0] * 6, chunksize=1)[5][-1] == table[-1]
    assert pool._functions.runner.statistics().copied_bytes - before < 3 * table.nbytes
    assert pool.map(entry, range(4), chunksize=2) == [0, 1, 2, 3]


@pytest.mark.parametrize(("chunksize", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (1.5, TypeError)])
def test_chunk_sizes_are_checked(pool, chunksize, kind):
    for method in (pool.map, pool.imap, pool.imap_unordered, pool.starmap_async):
        with pytest.raises(kind, match="chunksize"):
            method(square, [1], chunksize=chunksize)


# ---- imap ----------------------------------------------------------------------------------------------------------------


def test_imap_goes_on_after_an_error(pool):
    values = pool.imap(inverse, [5, 0, 2])
    assert next(values) == 2
    with pytest.raises(ZeroDivisionError) as caught:
        next(values)
    assert caught.value.__notes__ == ["item 1: 0"]
    assert list(values) == [5]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_source_may_wait_for_values_of_its_own(pool, method):
    """As programs do that bound how far `multiprocessing` reads ahead."""
    room = threading.Semaphore(3)

    def source():
        for number in range(20):
            assert room.acquire(timeout=PATIENCE_S)
            yield number

    found = []
    for value in getattr(pool, method)(square, source()):
        found.append(value)
        room.release()
    assert sorted(found) == [number * number for number in range(20)]


def test_imap_s_next_takes_a_timeout(pool):
    with Gate() as gate:
        values = pool.imap(lambda number: hold(gate, number) if number else number, [0, 1])
        assert values.next(timeout=PATIENCE_S) == 0
        with pytest.raises(multiprocessing.TimeoutError):
            values.next(0.01)
        gate.open()
        assert values.next(PATIENCE_S) == 1
    with pytest.raises(StopIteration):
        values.next(timeout=1)


def test_an_endless_iterable_is_read_a_bounded_way_ahead(pool):
    taken = []

    def source():
        for number in itertools.count():
            taken.append(number)
            yield number

    for imap in (pool.imap, pool.imap_unordered):
        taken.clear()
        values = imap(same, source(), chunksize=3)
        found = {next(values) for _ in range(300)}
        assert len(found) == 300 and len(taken) < 600


def test_imap_unordered_gives_out_what_is_done(pool):
    with Gate() as gate:
        values = pool.imap_unordered(lambda number: number or hold(gate, 0), [0, 1, 2])
        assert {next(values), next(values)} == {1, 2}
        gate.open()
        assert next(values) == 0


def test_a_slow_iterable_keeps_no_value_back(pool):
    goes_on = threading.Event()

    def source():
        yield 0
        assert goes_on.wait(PATIENCE_S)
        yield from range(1, 10)

    values = pool.imap(same, source())
    assert values.next(PATIENCE_S) == 0
    goes_on.set()
    assert list(values) == list(range(1, 10))


def test_a_progress_bar_counts_values(pool):
    with open(os.devnull, "w") as nowhere, tqdm(pool.imap_unordered(square, range(20)), total=20, file=nowhere) as bar:
        assert sorted(bar) == [number * number for number in range(20)]
    assert bar.n == 20


def test_an_iterator_that_is_left_reads_no_further(pool):
    taken = []
    values = pool.imap(same, (taken.append(number) or number for number in itertools.count()))
    assert next(values) == 0
    del values
    pool.close()
    pool.join()
    assert len(taken) < 200


# ---- workers -------------------------------------------------------------------------------------------------------------


def test_workers_are_set_up_and_replaced(project):
    with Pool(1, set_value, ("ready",), 3, context=multiprocessing.get_context("spawn")) as pool:
        found = [pool.apply(read_value) for _ in range(7)]
        assert {value for value, _ in found} == {"ready"}
        served = [len(list(group)) for _, group in itertools.groupby(pid for _, pid in found)]
        assert len(served) >= 3 and max(served) <= 3
        assert len({pid for _, pid in pool.map(read_value, range(8), chunksize=2)}) >= 2


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": -1}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"maxtasksperchild": -1}, ValueError),
        ({"maxtasksperchild": 0.5}, ValueError),
        ({"maxtasksperchild": "12"}, ValueError),
    ],
)
def test_arguments_are_checked_as_there(project, options, kind):
    with pytest.raises(kind):
        Pool(**options)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_may_make_a_pool(project, workers):
    with Pool(workers) as pool:
        assert pool.map_async(in_a_task, [2, 3]).get(PATIENCE_S) == [[0, 1, 4], [0, 1, 4, 9]]


# ---- the end -------------------------------------------------------------------------------------------------------------


def uses(pool):
    return [
        lambda: pool.apply(same, (1,)),
        lambda: pool.apply_async(same, (1,)),
        lambda: pool.map(same, [1]),
        lambda: pool.starmap_async(same, [(1,)]),
        lambda: pool.imap(same, [1]),
        lambda: pool.imap_unordered(same, [1], 2),
        pool.__enter__,
    ]


def test_a_closed_pool_finishes_its_calls(project):
    pool, told = Pool(2), []
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    with Gate() as gate:
        held = pool.apply_async(hold, (gate, 1), callback=told.append)
        mapped = pool.map_async(square, range(200), chunksize=1)
        begun, unbegun = pool.imap(square, range(200)), pool.imap_unordered(square, iter(range(200)))
        assert next(begun) == 0
        pool.imap(touch, [project / "dropped"] * 200)
        pool.close()
        for use in uses(pool):
            with pytest.raises(ValueError, match="Pool not running"):
                use()
        gate.open()
    pool.close()
    pool.join()
    assert told == [1] and held.get(0) == 1
    squares = [number * number for number in range(200)]
    assert mapped.get(0) == squares and list(begun) == squares[1:] and sorted(unbegun) == squares
    assert (project / "dropped").read_text() == "x" * 200
    assert repr(pool) == "<flame_fast.Pool state=CLOSE pool_size=2>"


def next_error(values):
    with pytest.raises((FlameError, ValueError)) as caught:
        next(values)
    return caught.value


def test_a_terminated_pool_drops_its_calls(project):
    told = []
    with Gate() as gate, Pool(1) as pool:
        held = pool.apply_async(hold, (gate,), callback=told.append, error_callback=told.append)
        queued = pool.map_async(square, range(100), chunksize=1)
        values = pool.imap(square, itertools.count())
        gate.entered()
        pool.terminate()
        for result in (held, queued):
            with pytest.raises(FlameError):
                result.get(PATIENCE_S)
        wait_until(lambda: "Pool not running" in str(next_error(values)), "the end of the values")
        with pytest.raises(StopIteration):
            next(values)
    assert told == []
    pool.terminate()
    pool.join()
    for use in uses(pool):
        with pytest.raises(ValueError, match="Pool not running"):
            use()


def test_a_pool_that_is_dropped_ends_its_workers(project):
    pool = Pool(1)
    runner = weakref.ref(pool._functions.runner)
    assert pool.map(square, [2]) == [4]
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    assert runner() is None


def test_results_and_iterators_keep_their_pool(project):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert Pool(1).apply_async(square, (3,)).get(PATIENCE_S) == 9
        assert list(Pool(1).imap(square, range(5))) == [0, 1, 4, 9, 16]
        gc.collect()


def test_a_pool_does_not_travel(pool):
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(pool)
    with pytest.raises(NotImplementedError):
        pool.apply(same, (pool,))


def test_a_program_ends_with_its_pool_open(project):
    printed = run_script(
        project,
        """
        import time
        from flame_fast import Pool

        def wait(number):
            time.sleep(60)

        pool = Pool(2)
        print(pool.map(abs, [-1, 2]))
        late = pool.apply_async(wait, (1,))
        other = Pool(1)
        other.apply_async(wait, (1,))
        other.close()
        """,
    )
    assert printed == "[1, 2]\n"


def test_threads_share_it(pool):
    values, found = pool.imap_unordered(square, range(400)), []

    def use():
        found.extend(values)
        assert pool.map(square, range(10)) == [number * number for number in range(10)]

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [number * number for number in range(400)]


# ---- the standard library's own tests ------------------------------------------------------------------------------------

#: Tests that demand what a `Pool` does not promise, by a part of their name, and why.
LEFT_OUT = {
    "test_make_pool": "reads _pool: see test_arguments_are_checked_as_there",
    "test_pool_worker_lifetime_early_close": "runs for a second: see test_a_closed_pool_finishes_its_calls",
    "test_pool_worker_lifetime": "reads _pool: see test_workers_are_set_up_and_replaced",
    "test_unpickleable_result": "its result is a lambda: see test_what_cannot_be_pickled_is_the_result_s_error",
    "test_wrapped_exception": "calls a method of its own class, which is made here: no worker can import it",
    "test_traceback": "reads multiprocessing.pool.RemoteTraceback: see test_an_error_has_the_worker_s_traceback",
    "test_worker_finalization": "imports Pool by name from multiprocessing: see test_a_program_ends_with_its_pool_open",
}


def library_tests(monkeypatch):
    """Return the library's test cases for pools of processes, with `Pool` in their place."""
    try:
        whole = importlib.import_module("test._test_multiprocessing")
    except ImportError:
        return []
    monkeypatch.setattr(multiprocessing, "Pool", Pool)
    bodies = {"__module__": __name__, "Pool": staticmethod(Pool)}
    names = ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime")
    return [type(name, (getattr(whole, name), whole.ProcessesMixin, unittest.TestCase), bodies) for name in names]


def test_the_library_s_own_tests_pass(project, monkeypatch):
    suite, loader = unittest.TestSuite(), unittest.TestLoader()
    for case in library_tests(monkeypatch):
        for test in loader.loadTestsFromTestCase(case):
            if not any(name in test.id() for name in LEFT_OUT):
                suite.addTest(test)
    if not suite.countTestCases():
        pytest.skip("this Python has no tests of multiprocessing")
    result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    assert result.wasSuccessful()
    assert result.testsRun > 20
