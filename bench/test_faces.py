"""What flame_fast costs behind other interfaces, beside what it stands in for there.

    pytest bench/test_faces.py -m ratios

Promised are: `Executor.submit` and `result` with 10 times the calls a second of `ProcessPoolExecutor`, and a round trip of
at most a quarter; `Executor.map` within 1.2 times of a service's `map`; `gather` of 5,000 awaits 8 times as fast as
`run_in_executor` with a `ProcessPoolExecutor`; joblib twice as fast as loky call by call, no slower with its own batches,
and twice as fast with an 80 MB argument; a grid search no slower warm, and faster cold. Of `Pool` nothing is promised.
"""

from __future__ import annotations

from statistics import median

import faces
import pytest
from contenders import Executor, FlameFast, Pool, running
from faces import LOKY, OURS, FlameExecutor, FlamePool
from measuring import in_fresh_process, interleaved, ratios, spread, timed
from tasks import nothing

#: Awaited calls, and calls of joblib one by one, in its own batches, and with a large argument.
AWAITS = 5_000
JOBLIB_CALLS = 2_000
JOBLIB_ITEMS = 50_000
ARRAY_CALLS = 200
ARRAY_BYTES = 80_000_000

#: Calls and items of one measurement of pools.
APPLIES = 2_000
ITEMS = 20_000
MAPPED = 1_000_000

ROUNDS = 5

#: Grid searches of each backend, one after the other in one process: they differ by less than two of one backend do.
SEARCHES = 25


def times_rows(seconds, ours, theirs, unit, scale, promised):
    """Rows of both contenders' figures, and of how many times as long the other takes."""
    rows = [(name, spread(values, unit, 2, scale)) for name, values in seconds.items()]
    return [*rows, (f"{theirs} over {ours}", spread(ratios(seconds[theirs], seconds[ours]), " times", 2), promised)]


def test_ratios_executor_calls(report):
    with running([FlameExecutor, Executor]) as started:
        rates = interleaved({name: lambda c=c: c.calls / timed(c.many, c.calls) for name, c in started.items()}, ROUNDS)
    rows = [(name, spread(values, " calls/s", 0)) for name, values in rates.items()]
    over = spread(ratios(rates[FlameExecutor.name], rates[Executor.name]), " times")
    report("submit of no-ops, then result of each", [*rows, ("rate of flame_fast over theirs", over, "at least 10 times")])


def test_ratios_executor_round_trip(report):
    with running([FlameExecutor, Executor]) as started:
        measures = {name: lambda c=c: median(timed(c.one) for _ in range(1_000)) for name, c in started.items()}
        seconds = interleaved(measures, ROUNDS)
    rows = times_rows(seconds, FlameExecutor.name, Executor.name, " us", 1e6, "at least 4 times")
    report("round trip of a no-op through an executor, median of 1,000", rows)


def test_ratios_executor_map(report):
    with running([FlameExecutor, FlameFast]) as started:
        seconds = interleaved(
            {
                FlameFast.name: lambda: timed(started[FlameFast.name].map, nothing, range(MAPPED)),
                FlameExecutor.name: lambda: timed(started[FlameExecutor.name].map, nothing, range(MAPPED)),
            }
        )
    rows = times_rows(seconds, FlameFast.name, FlameExecutor.name, " ms", 1e3, "at most 1.2 times")
    report(f"map of {MAPPED:,} no-ops: a service's, and the executor's", rows)


def test_ratios_gather(report):
    with running([FlameFast, Executor]) as started:
        measures = {name: lambda c=c: timed(faces.gathered, c, AWAITS) for name, c in started.items()}
        seconds = interleaved(measures, ROUNDS)
    rows = times_rows(seconds, FlameFast.name, Executor.name, " ms", 1e3, "at least 8 times")
    report(f"asyncio: gather of {AWAITS:,} awaited no-ops, against run_in_executor", rows)


# ---- pools ---------------------------------------------------------------------------------------------------------------

POOL_USES = {
    f"map of {MAPPED:,} no-ops": lambda pool: pool.map(nothing, range(MAPPED)),
    f"map of {ITEMS:,} no-ops, chunksize 1": lambda pool: pool.map(nothing, range(ITEMS), 1),
    f"{APPLIES:,} times apply": lambda pool: [pool.apply(nothing, (number,)) for number in range(APPLIES)],
    f"imap of {ITEMS:,} no-ops": lambda pool: list(pool.imap(nothing, range(ITEMS))),
    f"imap_unordered of {ITEMS:,} no-ops": lambda pool: list(pool.imap_unordered(nothing, range(ITEMS))),
}


@pytest.mark.parametrize("use", POOL_USES)
def test_ratios_pool(use, report):
    with running([FlamePool, Pool]) as started:
        seconds = interleaved({name: lambda c=c: timed(POOL_USES[use], c.pool) for name, c in started.items()}, ROUNDS)
    report(use, times_rows(seconds, FlamePool.name, Pool.name, " ms", 1e3, ""))


# ---- joblib and scikit-learn ---------------------------------------------------------------------------------------------


def joblib_rows(function, items, batch_size, promised, *args):
    """Rows of joblib's own backend and ours. Their workers stay, so each measurement but the first finds them there."""
    measures = {name: lambda n=name: faces.parallel_seconds(n, function, items, batch_size, *args) for name in (OURS, LOKY)}
    return times_rows(interleaved(measures, ROUNDS), OURS, LOKY, " ms", 1e3, promised)


def test_ratios_joblib_one_by_one(report):
    report(
        f"joblib: {JOBLIB_CALLS:,} no-ops, batch_size=1",
        joblib_rows(nothing, range(JOBLIB_CALLS), 1, "at least 2 times"),
    )


def test_ratios_joblib_batches(report):
    report(
        f"joblib: {JOBLIB_ITEMS:,} no-ops, its own batch size",
        joblib_rows(nothing, range(JOBLIB_ITEMS), "auto", "no slower"),
    )


def test_ratios_joblib_array(report):
    import numpy as np

    array = np.ones(ARRAY_BYTES // 8)
    report(
        f"joblib: {ARRAY_CALLS} calls that read an array of {ARRAY_BYTES // 1_000_000} MB",
        joblib_rows(faces.entry, range(ARRAY_CALLS), "auto", "at least 2 times", array),
    )


@pytest.mark.timeout(900)
def test_ratios_grid_search(report):
    pytest.importorskip("sklearn")
    cold = interleaved({name: lambda n=name: in_fresh_process(faces.cold_search_seconds, n) for name in (OURS, LOKY)}, 5)
    warm = in_fresh_process(faces.warm_search_seconds, SEARCHES)
    report("grid search of a random forest, the first of a process", times_rows(cold, OURS, LOKY, " s", 1, "above 1"))
    report("the same, warm, in turn", times_rows(warm, OURS, LOKY, " s", 1, "no slower"))


def test_ratios_first_result(report):
    names = (FlameExecutor.name, Executor.name)
    seconds = interleaved({name: lambda n=name: in_fresh_process(faces.first_result_seconds, n) for name in names})
    report("an executor's import and start to its first result", times_rows(seconds, *names, " ms", 1e3, ""))
