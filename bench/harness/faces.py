"""flame_fast's faces beside what they stand in for: executors, pools, event loops, joblib and scikit-learn."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial

import contenders
from contenders import WORKERS
from measuring import interleaved, timed
from tasks import nothing

import flame_fast

#: joblib's backends: ours, and its own.
OURS, LOKY = "flame_fast", "loky"


class FlameExecutor(contenders.Executor):
    name = "flame_fast.Executor"
    needs = "flame_fast"
    calls = 50_000

    def make_pool(self):
        return flame_fast.Executor(WORKERS)


class FlamePool(contenders.Pool):
    name = "flame_fast.Pool"
    needs = "flame_fast"
    calls = 50_000

    def __init__(self):
        self.pool = flame_fast.Pool(WORKERS)
        self.one()


# ---- event loops ---------------------------------------------------------------------------------------------------------


def gathered(contender, count):
    """Await so many calls of a Runner's service, or of an executor in the loop's `run_in_executor`, all at once."""

    async def main():
        if isinstance(contender, contenders.FlameFast):
            return await asyncio.gather(*(contender.submit(number) for number in range(count)))
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(contender.pool, nothing, number) for number in range(count)))

    assert asyncio.run(main()) == list(range(count))


# ---- joblib and scikit-learn ---------------------------------------------------------------------------------------------


@contextmanager
def backend(name):
    """Select a backend of joblib, with its workers at work."""
    import joblib

    import flame_fast.joblib

    flame_fast.joblib.register()
    with joblib.parallel_config(name, n_jobs=WORKERS):
        parallel(nothing, range(10), 1)
        yield


def parallel(function, items, batch_size, *args):
    from joblib import Parallel, delayed

    return Parallel(batch_size=batch_size)(delayed(function)(item, *args) for item in items)


def parallel_seconds(name, function, items, batch_size, *args):
    with backend(name):
        start = time.perf_counter()
        parallel(function, items, batch_size, *args)
        return time.perf_counter() - start


def entry(index, array):
    return float(array[index])


def cold_search_seconds(name):
    """Seconds of a grid search in a process that has run none."""
    return _timed_search()(name)


def warm_search_seconds(rounds):
    """Seconds of so many grid searches by either backend, in turn, after one of each in this process."""
    search = _timed_search()
    for name in (OURS, LOKY):
        search(name)
    return interleaved({name: partial(search, name) for name in (OURS, LOKY)}, rounds)


def _timed_search():
    """Return a function of a backend's name: the seconds of a grid search of a random forest."""
    import joblib
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    import flame_fast.joblib

    flame_fast.joblib.register()
    values, classes = make_classification(1_000, random_state=1)
    grid = {"max_depth": [3, 6], "n_estimators": [10, 20]}

    def search(name):
        with joblib.parallel_config(name, n_jobs=WORKERS):
            return timed(GridSearchCV(RandomForestClassifier(random_state=1), grid, cv=3).fit, values, classes)

    return search


# ---- starts --------------------------------------------------------------------------------------------------------------


def first_result_seconds(name):
    """Seconds from an executor's making, with its import, to its first result."""
    start = time.perf_counter()
    if name == FlameExecutor.name:
        from flame_fast import Executor

        executor = Executor(WORKERS)
    else:
        from concurrent.futures import ProcessPoolExecutor

        executor = ProcessPoolExecutor(WORKERS)
    executor.submit(nothing, 1).result()
    seconds = time.perf_counter() - start
    executor.shutdown()
    return seconds
