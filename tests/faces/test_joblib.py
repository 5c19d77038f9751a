"""joblib's `Parallel`, and scikit-learn through it, with Runner's workers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
import weakref

import joblib
import numpy as np
import pytest
from gates import add, fail, same
from joblib import Parallel, delayed, parallel_config

import flame_fast.joblib
from flame_fast import WorkerDiedError


@pytest.fixture(autouse=True)
def backend(project):
    flame_fast.joblib.register()
    with parallel_config("flame_fast", n_jobs=2):
        yield
    flame_fast.joblib._workers.close()


def pid():
    return os.getpid()


def place(array):
    """Return where an array's data is, and whether it may be written to."""
    return array.__array_interface__["data"][0], array.flags.writeable


def write(array, number):
    array[number] = -1.0
    return float(array.sum())


def nap(seconds):
    time.sleep(seconds)
    return seconds


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


@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_an_error_ends_it(batch_size):
    with pytest.raises(KeyError, match="missing"):
        Parallel(batch_size=batch_size)(delayed(fail)(KeyError("missing")) for _ in range(10))
    assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2]


def test_a_dead_worker_fails_one_parallel_and_not_the_next():
    with pytest.raises(WorkerDiedError, match="died by SIGKILL"):
        Parallel()([delayed(_die)(), delayed(_die)()])
    assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2]


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


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
@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_results_may_come_one_by_one(return_as):
    results = Parallel(return_as=return_as)(delayed(same)(number) for number in range(50))
    assert sorted(results) == list(range(50))
    left = Parallel(return_as=return_as)(delayed(nap)(0.01) for _ in range(50))
    assert next(left) == 0.01
    del left
    assert Parallel()(delayed(same)(number) for number in range(3)) == [0, 1, 2]


# ---- large arrays --------------------------------------------------------------------------------------------------------


def test_a_large_array_is_stored_once_and_stays_as_it_is():
    array = np.ones(1_000_000)
    places = Parallel(batch_size=1)(delayed(place)(array) for _ in range(10))
    assert all(writeable for _, writeable in places)
    assert Parallel(batch_size=1)(delayed(write)(array, number) for number in range(5)) == [999_998.0] * 5
    assert array.sum() == 1_000_000
    assert flame_fast.joblib._workers._runner.statistics().bytes < 2 * array.nbytes


@pytest.mark.parametrize("max_nbytes", [None, 100, "10M"])
def test_max_nbytes_says_which_arrays_those_are(max_nbytes):
    array = np.ones(200_000)
    sums = Parallel(max_nbytes=max_nbytes, batch_size=1)(delayed(np.sum)(array) for _ in range(5))
    assert sums == [200_000.0] * 5


def test_an_array_among_keywords():
    array = np.ones(1_000_000)
    assert Parallel()(delayed(np.sum)(a=array) for _ in range(3)) == [1_000_000.0] * 3


# ---- among others --------------------------------------------------------------------------------------------------------


def test_nested_parallels():
    def outer(number):
        return sum(Parallel(n_jobs=2)(delayed(add)(number, inner) for inner in range(5)))

    assert Parallel()(delayed(outer)(number) for number in range(4)) == [5 * number + 10 for number in range(4)]


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

    with parallel_config("flame_fast", n_jobs=2, inner_max_num_threads=1):
        assert set(Parallel()(delayed(limit)() for _ in range(4))) == {"1"}


def test_scikit_learn_searches_a_grid():
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

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
    before = flame_fast.joblib._workers._runner
    Parallel(n_jobs=3)(delayed(pid)() for _ in range(3))
    assert flame_fast.joblib._workers._runner is not before
    reference = weakref.ref(before)
    del before
    gc.collect()
    assert reference() is None
