"""`Executor` in the place of `ProcessPoolExecutor`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import importlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unittest
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from gates import PATIENCE_S, Gate, add, fail, hold, same, wait_until

from flame_fast import Executor, WorkerDiedError


@pytest.fixture
def executor(project):
    with Executor(2) as made:
        yield made


def touch(path, *_):
    with open(path, "a") as file:
        file.write("x")


def nap(seconds):
    time.sleep(seconds)
    return seconds


# ---- submit --------------------------------------------------------------------------------------------------------------


def test_any_callable_is_called_once_or_often(executor):
    class Adds:
        def __init__(self, number):
            self.number = number

        def __call__(self, other):
            return self.number + other

        def method(self, other, *, times=1):
            return (self.number + other) * times

    adds = Adds(10)
    for _ in range(3):
        assert executor.submit(add, 1, b=2).result(PATIENCE_S) == 3
        assert executor.submit(lambda number: number + 1, 1).result(PATIENCE_S) == 2
        assert executor.submit(functools.partial(add, 1), 5).result(PATIENCE_S) == 6
        assert executor.submit(adds, 1).result(PATIENCE_S) == 11
        assert executor.submit(adds.method, 1, times=2).result(PATIENCE_S) == 22
        assert executor.submit(pow, 2, 5).result(PATIENCE_S) == 32
        assert executor.submit("abc".upper).result(PATIENCE_S) == "ABC"
        assert executor.submit(str.upper, "abc").result(PATIENCE_S) == "ABC"
        assert executor.submit(dict, a=1).result(PATIENCE_S) == {"a": 1}
        assert executor.submit(np.sum, np.arange(10)).result(PATIENCE_S) == 45


def test_a_closure_and_an_object_travel_as_they_are_at_each_call(executor):
    number = 1

    def local():
        return number

    found = []
    for number in range(5):  # noqa: B007
        found.append(executor.submit(local).result(PATIENCE_S))
    assert found == list(range(5))
    items = []
    assert [executor.submit(len, items).result(PATIENCE_S) for _ in range(3) if not items.append(1)] == [1, 2, 3]


def test_more_functions_than_it_keeps_services_for(executor):
    functions = [lambda number=number: number for number in range(700)]
    for _ in range(2):
        assert [executor.submit(one) for one in functions][-1].result(PATIENCE_S) == 699
    assert len(executor._functions._services) <= 512 and len(executor._functions._seen) <= 512


def test_futures_are_those_of_the_standard_library(executor):
    futures = [executor.submit(same, number) for number in range(50)]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    assert concurrent.futures.wait(futures, PATIENCE_S).not_done == set()
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == list(range(50))


def test_errors_are_raised_with_the_worker_s_traceback(executor):
    future = executor.submit(fail, KeyError("missing"))
    with pytest.raises(KeyError, match="missing") as caught:
        future.result(PATIENCE_S)
    assert "in fail" in str(caught.value.__cause__)
    assert future.exception() is caught.value


class Refusing:
    def __reduce__(self):
        raise pickle.PicklingError("it refuses")


def test_what_cannot_be_pickled_is_the_future_s_error(executor):
    for wrong in (lambda: executor.submit(same, Refusing()), lambda: executor.submit(Refusing)):
        with pytest.raises(pickle.PicklingError):
            wrong().result(PATIENCE_S)
    with pytest.raises(TypeError):
        executor.submit(same, threading.Lock()).result(PATIENCE_S)
    assert executor.submit(same, 1).result(PATIENCE_S) == 1


def test_a_call_runs_although_nobody_has_its_future(executor, project):
    with Gate() as gate, Gate() as other:
        held = [executor.submit(hold, one) for one in (gate, other)]
        executor.submit(touch, project / "one")
        executor.submit(touch, project / "two")
        executor.submit(touch, project / "two")
        gc.collect()
        gate.open()
        other.open()
        assert not concurrent.futures.wait(held, PATIENCE_S).not_done
    wait_until((project / "one").exists, "the first call")
    wait_until(lambda: (project / "two").exists() and (project / "two").read_text() == "xx", "the second calls")


def test_a_killed_worker_fails_its_call_alone(executor):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    for kind in (WorkerDiedError, BrokenProcessPool, RuntimeError):
        with pytest.raises(kind, match="died by SIGKILL") as caught:
            executor.submit(die).result(PATIENCE_S)
        assert caught.value.signal == "SIGKILL"
        assert executor.submit(same, 1).result(PATIENCE_S) == 1


def test_running_and_queued_calls_are_cancelled_as_there(executor, project):
    with Gate() as gate, Gate() as other:
        held = [executor.submit(hold, one) for one in (gate, other)]
        wait_until(lambda: all(future.running() for future in held), "their begin")
        queued = executor.submit(touch, project / "ran")
        assert not held[0].cancel()
        assert queued.cancel() and queued.cancelled()
        with pytest.raises(CancelledError):
            queued.result()
        gate.open()
        other.open()
        assert not concurrent.futures.wait(held, PATIENCE_S).not_done
    assert not (project / "ran").exists()


# ---- map -----------------------------------------------------------------------------------------------------------------


def test_map_calls_with_an_item_of_each_iterable(executor):
    assert list(executor.map(same, range(5000))) == list(range(5000))
    assert list(executor.map(pow, [2, 3, 4], [5, 2, 3])) == [32, 9, 64]
    assert list(executor.map(add, range(3), itertools.repeat(10))) == [10, 11, 12]
    assert list(executor.map(str.upper, "abc")) == ["A", "B", "C"]
    assert list(executor.map(functools.partial(add, 1), [1, 2], chunksize=2)) == [2, 3]
    assert list(executor.map(lambda text: text * 2, ["a", "b"], chunksize=5)) == ["aa", "bb"]
    assert list(executor.map(add, [])) == list(executor.map(add, [], [1])) == []


def test_map_reads_its_iterables_at_once_and_runs_every_item(executor, project):
    taken = []

    def source():
        for number in range(20):
            taken.append(number)
            yield project / f"ran-{number}"

    executor.map(touch, source())
    assert taken == list(range(20))
    wait_until(lambda: all((project / f"ran-{number}").exists() for number in range(20)), "the last call")


def test_an_item_s_error_comes_in_its_turn_and_stops_no_other(executor, project):
    def task(number):
        touch(project / f"ran-{number}")
        return 10 // number

    results = executor.map(task, [5, 0, 2, 1], chunksize=1)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert caught.value.__notes__ == ["item 1: 0"]
    with pytest.raises(StopIteration):
        next(results)
    results = executor.map(task, [5, 0, 2, 1])
    wait_until(lambda: all((project / f"ran-{number}").exists() for number in (5, 0, 2, 1)), "each call")


def test_map_s_time_out(executor, project):
    def held(gate, number):
        return hold(gate, number) if number else number

    with Gate() as gate:
        assert executor.submit(held, gate, 0).result(PATIENCE_S) == 0  # a worker has started
        results = executor.map(functools.partial(held, gate), [0, 1], timeout=2, chunksize=1)
        try:
            assert next(results) == 0
            with pytest.raises(TimeoutError):
                next(results)
        finally:
            gate.open()  # else the executor's end would wait for it


def test_a_map_that_is_left_is_cancelled(executor, project):
    with Gate() as gate:
        results = executor.map(lambda number: hold(gate, number) if number == 1 else touch(project / "ran"), [1] + [2] * 100)
        wait_until((project / "ran").exists, "some call")
        gate.open()
        assert next(results) == 1
        results.close()
        assert executor.submit(same, 1).result(PATIENCE_S) == 1


def test_a_buffered_map_reads_no_further(executor):
    taken = []

    def source():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = executor.map(same, source(), buffersize=7)
    assert len(taken) == 7
    for number in range(50):
        assert next(results) == number
        assert len(taken) <= number + 9
    results.close()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"chunksize": 0}, ValueError),
        ({"chunksize": -1}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "1"}, TypeError),
    ],
)
def test_map_refuses_numbers_that_do_not_fit(executor, options, kind):
    with pytest.raises(kind, match=next(iter(options))):
        executor.map(same, [1], **options)


def test_map_shows_progress(executor):
    told = []
    assert list(executor.map(same, [1, 2, 3], progress=lambda *counts: told.append(counts))) == [1, 2, 3]
    assert told == [(1, 0, 3), (2, 0, 3), (3, 0, 3)]


# ---- workers -------------------------------------------------------------------------------------------------------------

VALUE = None


def set_value(value):
    global VALUE
    VALUE = value


def read_value():
    return VALUE, os.getpid()


def test_the_initializer_sets_up_each_worker(project):
    with Executor(2, initializer=set_value, initargs=("ready",)) as executor:
        found = [executor.submit(read_value).result(PATIENCE_S) for _ in range(10)]
        assert {value for value, _ in found} == {"ready"}


def test_an_initializer_that_raises_fails_each_call(project):
    with Executor(1, initializer=fail, initargs=(KeyError("missing"),)) as executor:
        for _ in range(2):
            with pytest.raises(KeyError, match="missing") as caught:
                executor.submit(same, 1).result(PATIENCE_S)
            assert "raised by the initializer" in caught.value.__notes__[0]


def test_a_worker_is_replaced_after_so_many_calls(project):
    with Executor(1, max_tasks_per_child=3) as executor:
        pids = [executor.submit(os.getpid).result(PATIENCE_S) for _ in range(12)]
        assert len(set(pids)) == 4
        assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 3, 3]
        assert sorted(executor.map(same, range(100), chunksize=1)) == list(range(100))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": "1"}, TypeError),
    ],
)
def test_arguments_are_checked_as_there(project, options, kind):
    with pytest.raises(kind):
        Executor(**options)


# ---- the end -------------------------------------------------------------------------------------------------------------


def test_shutdown_waits_for_the_calls_made(project):
    executor = Executor(2)
    futures = [executor.submit(nap, 0.05) for _ in range(6)]
    executor.map(touch, [project / "mapped"] * 50)
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert (project / "mapped").read_text() == "x" * 50
    assert [future.result() for future in futures] == [0.05] * 6
    for use in (lambda: executor.submit(same, 1), lambda: executor.map(same, [1])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            use()
    executor.shutdown()


def test_shutdown_need_not_wait(project):
    executor = Executor(1)
    futures = [executor.submit(nap, 0.1) for _ in range(3)]
    executor.shutdown(wait=False)
    assert not futures[-1].done()
    assert [future.result(PATIENCE_S) for future in futures] == [0.1] * 3
    executor.shutdown()
    wait_until(lambda: not any("shutdown" in thread.name for thread in threading.enumerate()), "the end of its thread")


def test_shutdown_may_cancel_what_has_not_begun(project):
    executor = Executor(1)
    futures = [executor.submit(nap, 0.1) for _ in range(30)]
    results = executor.map(nap, [0.1] * 30, chunksize=1)
    executor.shutdown(cancel_futures=True)
    cancelled = [future for future in futures if future.cancelled()]
    assert 0 < len(cancelled) < 30
    assert all(future.done() for future in futures)
    assert all(future.exception() is None for future in futures if future not in cancelled)
    assert len(list(results)) < 30


def test_a_call_outlives_its_executor_s_name(project):
    future = Executor(1).submit(nap, 0.1)
    gc.collect()
    assert future.result(PATIENCE_S) == 0.1
    del future
    gc.collect()


PROGRAMS = {
    "waits for its calls": """
        import time
        from flame_fast import Executor
        def late(text):
            time.sleep(0.3)
            print(text, flush=True)
        executor = Executor(1)
        executor.submit(late, "apple")
        {end}
    """,
    "takes none at exit": """
        import atexit
        @atexit.register
        def last():
            try:
                executor.submit(id, None)
            except RuntimeError:
                print("runtime-error", flush=True)
                raise
        from flame_fast import Executor
        executor = Executor(1)
        executor.submit(id, 42).result()
    """,
}


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("end", ["", "executor.shutdown(wait=False)", "del executor"])
def test_a_program_ends_when_its_calls_have(project, end):
    done = run(PROGRAMS["waits for its calls"].format(end=end))
    assert done.stdout.split() == ["apple"]
    assert done.stderr == ""


def test_a_program_makes_no_call_at_its_exit(project):
    done = run(PROGRAMS["takes none at exit"])
    assert done.stdout.split() == ["runtime-error"]
    assert "cannot schedule new futures" in done.stderr


# ---- among others --------------------------------------------------------------------------------------------------------


def test_an_event_loop_runs_calls_in_it(executor):
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, add, 1, 2) == 3
        calls = [loop.run_in_executor(executor, same, number) for number in range(500)]
        assert await asyncio.gather(*calls) == list(range(500))
        with pytest.raises(KeyError):
            await loop.run_in_executor(executor, fail, KeyError("missing"))

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_threads_share_it(executor):
    found = []

    def use(start):
        found.extend(executor.submit(same, number).result(PATIENCE_S) for number in range(start, start + 200))

    threads = [threading.Thread(target=use, args=(200 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(800))


def test_large_arrays_arrive_without_a_copy(executor):
    array = np.arange(1_000_000)
    assert executor.submit(np.sum, array).result(PATIENCE_S) == array.sum()
    assert executor.submit(np.multiply, array, 2).result(PATIENCE_S)[-1] == 1_999_998


# ---- the standard library's own tests ------------------------------------------------------------------------------------

#: Tests that demand what an `Executor` does not promise, by a part of their name, and why.
LEFT_OUT = {
    "test_killed_child": "reads _processes",
    "test_processes_terminate": "reads _processes",
    "test_saturation": "reads _processes",
    "test_idle_process_reuse": "reads _processes",
    "test_max_tasks_per_child": "reads _processes",
    "test_shutdown_deadlock_pickle": "reads _executor_manager_thread",
    "test_gh105829": "replaces the pool's private wake-up pipe",
    "test_force_shutdown": "reads _processes",
    "test_traceback": "reads concurrent.futures.process._RemoteTraceback",
    "test_python_finalization_error": "replaces a function of the pool's module",
    "test_shutdown_gh_132969": "reads _executor_manager_thread",
    "FailingInitializer": "demands that the pool breaks",
    "test_error_at_task_unpickle": "demands that the pool breaks",
    "test_exit_at_task_unpickle": "demands that the pool breaks",
    "test_exit_during_func_exec_on_worker": "demands that the pool breaks",
    "test_exit_during_result_pickle_on_worker": "demands that the pool breaks",
    "test_error_during_result_unpickle_in_result_handler": "demands that the pool breaks",
    "test_exit_during_result_unpickle_in_result_handler": "demands that the pool breaks",
    "test_interpreter_shutdown": "imports the executor by name from concurrent.futures: see PROGRAMS",
    "test_submit_after_interpreter_shutdown": "imports the executor by name from concurrent.futures: see PROGRAMS",
    "test_hang_gh83386": "imports the executor by name from concurrent.futures: see PROGRAMS",
    "test_hang_gh94440": "imports the executor by name from concurrent.futures: see PROGRAMS",
}


def library_tests():
    """Return the library's test cases for the fork pool, with `Executor` in its place."""
    try:
        whole = importlib.import_module("test.test_concurrent_futures")
    except ImportError:
        return []
    modules = [whole]
    if hasattr(whole, "__path__"):
        names = ("test_shutdown", "test_process_pool", "test_wait", "test_as_completed", "test_deadlock", "test_init")
        modules = [importlib.import_module(f"{whole.__name__}.{name}") for name in names]
    cases = []
    for module in modules:
        for name, case in sorted(vars(module).items()):
            if name.startswith("ProcessPoolFork") and "erver" not in name and issubclass(case, unittest.TestCase):
                cases.append(type(name, (case,), {"executor_type": Executor, "__module__": __name__}))
    return cases


def test_the_library_s_own_tests_pass(project):
    suite, loader = unittest.TestSuite(), unittest.TestLoader()
    for case in library_tests():
        for test in loader.loadTestsFromTestCase(case):
            if not any(name in test.id() for name in LEFT_OUT):
                suite.addTest(test)
    if not suite.countTestCases():
        pytest.skip("this Python has no tests of concurrent.futures")
    result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    assert result.wasSuccessful()
    assert result.testsRun > 25
