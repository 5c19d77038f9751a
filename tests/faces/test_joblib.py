"""joblib's `Parallel`, and scikit-learn through it, with Runner's workers."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import joblib
import numpy as np
import pytest
from gates import add, fail, same, wait_until
from joblib import Parallel, delayed, parallel_config
from joblib_calls import blas_threads, die, nap, pid, place, write
from owned_processes import processes_of

import flame_fast.joblib
from flame_fast import WorkerDiedError
from flame_fast.faces import _joblib


@pytest.fixture(autouse=True)
def backend(project):
    flame_fast.joblib.register()
    with parallel_config("flame_fast", n_jobs=2):
        yield
    _joblib._workers.close()


def threadpool_limits_of(found):
    return {threads for pools in found for threads in pools}


def test_calls_give_their_results_in_order():
    assert Parallel()(delayed(add)(number, b=1) for number in range(200)) == list(range(1, 201))
    assert Parallel(batch_size=7)(delayed(pow)(number, 2) for number in range(20)) == [number**2 for number in range(20)]
    assert Parallel()(delayed(lambda text: text * 2)(text) for text in "abc") == ["aa", "bb", "cc"]
    mixed = [delayed(add)(1, 2), delayed(same)("x"), delayed(max)(3, 4)]
    assert Parallel(batch_size=3)(mixed) == [3, "x", 4]
    assert Parallel()([]) == []


def test_workers_stay_for_the_next_parallel():
    first, second = (set(Parallel(batch_size=1)(delayed(pid)() for _ in range(20))) for _ in range(2))
    assert os.getpid() not in first
    assert first & second
    assert len(first | second) <= 2


@pytest.mark.parametrize("n_jobs", [2, 3, -1])
def test_n_jobs_are_workers(n_jobs):
    expected = joblib.effective_n_jobs(n_jobs)
    assert len(set(Parallel(n_jobs=n_jobs, batch_size=1)(delayed(pid)() for _ in range(30)))) <= expected


def test_one_job_runs_here():
    assert set(Parallel(n_jobs=1)(delayed(pid)() for _ in range(3))) == {os.getpid()}
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(pid)() for _ in range(3))


def test_an_error_ends_it():
    for batch_size in (1, "auto"):
        with pytest.raises(KeyError, match="missing"):
            Parallel(batch_size=batch_size)(delayed(fail)(KeyError("missing")) for _ in range(10))
        assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2], batch_size


def test_what_cannot_be_sent_ends_it():
    for first in (0, 30):  # in the first batch, and in one that a callback submits
        with pytest.raises(pickle.PicklingError, match="the task to send"):
            Parallel(batch_size=1)(delayed(same)(threading.Lock() if number == first else number) for number in range(40))
    with pytest.raises(pickle.PicklingError, match="cannot be sent"):
        Parallel()(delayed(threading.Lock)() for _ in range(3))
    assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2]


def test_a_call_may_end_the_program():
    for error in (SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            Parallel()(delayed(fail)(error) for _ in range(3))


def test_ctrl_c_ends_it_and_the_calls_that_run(project):
    def work(number):
        (project / f"began-{number}").touch()
        time.sleep(60)

    def interrupt():
        wait_until(lambda: len(list(project.glob("began-*"))) == 2, "two calls")
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Parallel(batch_size=1)(delayed(work)(number) for number in range(10))
    thread.join()
    assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2]
    assert len(list(project.glob("began-*"))) == 2


def test_options_stay_after_an_error():
    with Parallel(max_nbytes=100, batch_size=1) as parallel:
        with pytest.raises(KeyError):
            parallel(delayed(fail)(KeyError("missing")) for _ in range(10))
        assert parallel._backend._workers._shared_bytes == 100
        assert parallel(delayed(same)(number) for number in range(3)) == [0, 1, 2]


def test_a_parallel_may_limit_the_threads_itself(project):
    found = Parallel(n_jobs=2, backend="flame_fast", inner_max_num_threads=1)(
        delayed(os.getenv)("OMP_NUM_THREADS") for _ in "ab"
    )
    assert found == ["1", "1"]


def test_a_call_may_name_the_backend(project):
    def nested():
        with parallel_config("flame_fast", n_jobs=2):
            return Parallel()(delayed(abs)(number) for number in (-1, 2))

    assert Parallel()(delayed(nested)() for _ in range(2)) == [[1, 2]] * 2


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="expected some of .*initializer.*, got 'initialiser'"):
        Parallel(initialiser=same)(delayed(same)(number) for number in range(3))
    with open(os.devnull, "w") as file, pytest.raises(TypeError, match="the initializer .* cannot be pickled"):
        Parallel(initializer=same, initargs=(file,))(delayed(same)(number) for number in range(3))


def test_a_dead_worker_fails_one_parallel_and_not_the_next():
    with pytest.raises(WorkerDiedError, match="died by SIGKILL"):
        Parallel()([delayed(die)(), delayed(die)()])
    assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2]


def test_an_error_ends_the_calls_that_run(project):
    def work(number):
        if number == 0:
            raise KeyError("first")
        (project / f"began-{number}").touch()
        time.sleep(0.2)
        (project / f"ended-{number}").touch()

    with pytest.raises(KeyError):
        Parallel(batch_size=1, pre_dispatch="all")(delayed(work)(number) for number in range(20))
    began = len(list(project.glob("began-*")))
    time.sleep(0.4)
    assert len(list(project.glob("began-*"))) <= began + 1 < 19


def test_a_time_out():
    with pytest.raises(multiprocessing.TimeoutError):  # joblib's
        Parallel(timeout=0.2)(delayed(nap)(5) for _ in range(2))
    assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*tasks have been successfully executed")
def test_results_may_come_one_by_one():
    for return_as in ("generator", "generator_unordered"):
        results = Parallel(return_as=return_as)(delayed(same)(number) for number in range(50))
        assert sorted(results) == list(range(50)), return_as
        left = Parallel(return_as=return_as)(delayed(nap)(0.01) for _ in range(50))
        assert next(left) == 0.01
        del left
        assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2], return_as


# ---- large arrays --------------------------------------------------------------------------------------------------------


def test_a_large_array_is_stored_once_and_stays_as_it_is():
    array = np.ones(1_000_000)
    places = Parallel(batch_size=1)(delayed(place)(array) for _ in range(10))
    assert all(writeable for _, writeable in places)
    assert Parallel(batch_size=1)(delayed(write)(array, number) for number in range(5)) == [999_998.0] * 5
    assert array.sum() == 1_000_000
    assert _joblib._workers._runner.statistics().bytes < 2 * array.nbytes


def test_max_nbytes_says_which_arrays_those_are():
    array = np.ones(200_000)
    for max_nbytes in (None, 100, "10M"):
        sums = Parallel(max_nbytes=max_nbytes, batch_size=1)(delayed(np.sum)(array) for _ in range(5))
        assert sums == [200_000.0] * 5, max_nbytes


def test_an_array_among_keywords():
    array = np.ones(1_000_000)
    assert Parallel()(delayed(np.sum)(a=array) for _ in range(3)) == [1_000_000.0] * 3


def test_arrays_go_with_their_calls():
    held = []

    def arrays():
        for number in range(20):
            held.append(_joblib._workers._runner.statistics().bytes if number > 4 else 0)
            yield delayed(np.sum)(np.full(1_000_000, number, dtype=float))

    assert Parallel(batch_size=1)(arrays()) == [number * 1e6 for number in range(20)]
    assert max(held) < 10 * 8_000_000


def test_a_memory_map_arrives_as_one(project):
    for part in (slice(None), slice(1, None, 2)):
        mapped = np.memmap(project / "file", mode="w+", shape=(6, 4), dtype=float)
        view = mapped[part]
        Parallel()(delayed(write)(view, number) for number in range(len(view)))
        assert (view == -1.0).all(), part
        assert (mapped == -1.0).sum() == view.size, part


# ---- among others --------------------------------------------------------------------------------------------------------


def test_nested_parallels():
    def outer(number):
        return sum(Parallel(n_jobs=2)(delayed(add)(number, inner) for inner in range(5)))

    assert Parallel()(delayed(outer)(number) for number in range(4)) == [5 * number + 10 for number in range(4)]


def test_a_parallel_in_a_call_shares_the_workers():
    def outer(number):
        flame_fast.joblib.register()
        pids = Parallel(n_jobs=2, backend="flame_fast", batch_size=1)(delayed(pid)() for _ in range(4))
        return {os.getpid(), *pids}, sum(Parallel(n_jobs=2, backend="flame_fast")(delayed(add)(number, 1) for _ in range(4)))

    found = Parallel()(delayed(outer)(number) for number in range(4))
    assert [total for _, total in found] == [4, 8, 12, 16]
    assert os.getpid() not in set.union(*(pids for pids, _ in found))


def test_an_initializer_has_workers_of_its_own():
    def begin(names, value):
        names.append(os.getpid())
        os.environ["BEGUN"] = value

    def begun():
        return os.getpid(), os.environ.get("BEGUN")

    pids = []
    with multiprocessing.Manager() as manager:
        names = manager.list()
        for value in ("first", "first", "second"):
            results = Parallel(initializer=begin, initargs=(names, value))(delayed(begun)() for _ in range(4))
            assert {result for _, result in results} == {value}
            pids.append({one for one, _ in results})
        with parallel_config("flame_fast", n_jobs=2, initializer=begin, initargs=(names, "second")):
            pids.append(set(Parallel()(delayed(pid)() for _ in range(4))))
        initialized = list(names)
    assert len(initialized) == len(set(initialized))
    assert set.union(*pids) <= set(initialized)
    assert {value for _, value in Parallel()(delayed(begun)() for _ in range(4))} == {None}
    assert pids[0] & pids[1] and pids[2] & pids[3] and not pids[1] & pids[2]


def test_a_local_function_has_its_module_s_globals_as_they_are():
    global SET_LATER

    def read():
        return SET_LATER

    for SET_LATER in ("once", "again"):
        assert set(Parallel()(delayed(read)() for _ in range(3))) == {SET_LATER}


def test_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(_in_thread()))
    thread.start()
    thread.join()
    assert found == [[0, 1, 2]]


def _in_thread():
    with parallel_config("flame_fast", n_jobs=2):
        return Parallel()(delayed(same)(number) for number in range(3))


def test_threads_of_libraries_are_limited():
    def limit():
        return os.environ["OMP_NUM_THREADS"]

    for threads in (1, 3):
        with parallel_config("flame_fast", n_jobs=2, inner_max_num_threads=threads):
            assert set(Parallel()(delayed(limit)() for _ in range(2))) == {str(threads)}
            pools = threadpool_limits_of(Parallel()(delayed(blas_threads)() for _ in range(2)))
            assert pools <= set(range(1, threads + 1)) and max(pools, default=threads) == threads


def test_what_calls_need_is_imported_once_for_all_workers_and_scikit_learn_searches_a_grid():
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    def parent_has(_):
        with open(f"/proc/{os.getppid()}/maps") as maps:
            return "/sklearn/tree/" in maps.read()

    assert Parallel()(delayed(parent_has)(DecisionTreeClassifier()) for _ in range(2)) == [True, True]

    features, classes = make_classification(200, 5, random_state=0)
    search = GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [1, 3]}, cv=3)
    found = search.fit(features, classes)
    with parallel_config("sequential"):
        expected = GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [1, 3]}, cv=3).fit(
            features, classes
        )
    assert found.best_params_ == expected.best_params_
    assert np.array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def test_workers_go_with_their_last_parallel_when_others_are_asked_for():
    Parallel(n_jobs=2)(delayed(pid)() for _ in range(3))
    before = _joblib._workers._runner
    Parallel(n_jobs=3)(delayed(pid)() for _ in range(3))
    assert _joblib._workers._runner is not before
    reference = weakref.ref(before)
    del before
    gc.collect()
    assert reference() is None


# ---- joblib's own tests --------------------------------------------------------------------------------------------------

#: Tests that demand what the backend does not promise, by a part of their name, and why.
LEFT_OUT = {
    "test_nested_parallel_warnings": "demands that one inside of another warns, and runs its calls in order: ours works",
    "test_multiple_generator_call_separated_gc": "demands that a dropped generator breaks the next Parallel: ours goes on",
    "test_auto_memmap_on_arrays_from_generator": "demands arrays of type numpy.memmap: ours have no file",
    "test_memmapping_leaks": "demands files in temp_folder: there are none",
    "test_parallel_with_interactively_defined": "runs joblib's own backends, in a program of its own",
    "test_parallel_with_unpicklable_functions_in_args": "runs joblib's own backends, in a program of its own",
}

#: The tests that run by default, by a part of their name: all of them take minutes.
CHOSEN = (
    "test_abort_backend",
    "test_background_thread",
    "test_deadlock_with_generator",
    "test_dispatch_multiprocessing",
    "test_dispatch_one_job",
    "test_error_capture",
    "test_error_in_task_iterator",
    "test_exception_dispatch",
    "test_globals_update",
    "test_initializer_parallel[loky-4",
    "test_initializer_parallel[multiprocessing-2",
    "test_lambda_expression",
    "test_memmap_with_big_offset",
    "test_multiple_generator_call[",
    "test_nested_parallelism_limit",
    "test_parallel_pickling",
    "test_parallel_return_order",
    "test_parallel_timeout_fail",
    "test_parallel_unordered",
    "test_retrieval_context",
)


def run_joblib_s_tests(chosen, limit):
    """Run joblib's tests of Parallel; return how many passed."""
    support = Path(__file__).parents[1] / "support"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(support), "JOBLIB_TESTS": json.dumps([list(LEFT_OUT), list(chosen)])}
    options = ["-q", "-c", os.devnull, "--rootdir=.", "--timeout=60", "-p", "joblib_with_flame"]
    options += ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "--pyargs", "joblib.test.test_parallel"]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_a_choice_of_joblib_s_own_tests_passes(project):
    assert run_joblib_s_tests(CHOSEN, limit=100) >= 50


@pytest.mark.libraries
@pytest.mark.timeout(600)
def test_all_of_joblib_s_own_tests_pass(nothing_left):
    try:
        assert run_joblib_s_tests((), limit=550) >= 300
    finally:
        for process in processes_of(nothing_left):  # loky's own, which calls have started: they stay for five minutes
            with contextlib.suppress(OSError):  # ended meanwhile
                if b"joblib.externals.loky" in Path(f"/proc/{process}/cmdline").read_bytes():
                    os.kill(process, signal.SIGKILL)
