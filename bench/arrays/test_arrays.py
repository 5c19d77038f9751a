"""What a large array costs: as an argument, shared by many tasks, along a chain.

    pytest bench/arrays/test_arrays.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds
    pytest bench/arrays/test_arrays.py -m ratios

Two physical limits are measured in the same run: one warm memcpy of the array, and the same arithmetic in one NumPy process.
The first call with a large array touches fresh memory everywhere, which is a figure of its own ("cold").
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest
from contenders import CARRIERS, FlameFast, Joblib, SharedBufferPool, running
from measuring import interleaved, ratios, spread, timed
from tasks import add_one, first, nothing, pause_with_numpy, total

OURS = FlameFast.name
PEERS = [contender.name for contender in CARRIERS if contender is not FlameFast]
MEMCPY = "one warm memcpy"
NUMPY = "the same loop in one NumPy process"

ELEMENTS = 12_500_000  # float64: 100 MB
TASKS = 16
LINKS = 8

#: Calls of one measurement of small arrays.
TRIPS = 500

#: The chain is seconds a link for those who send every value through the driver.
PEER_LINKS = 2


@pytest.fixture(scope="module")
def array():
    return np.arange(ELEMENTS, dtype=np.float64)


@pytest.fixture(params=CARRIERS, ids=lambda contender: contender.name)
def contender(request, array):
    with running([request.param]) as started:
        warmed = started[request.param.name]
        warm(warmed, array)
        yield warmed


def warm(contender, array):
    """Seconds of the first call with the array, in workers that have NumPy; then calls until it is new to no worker."""
    contender.reach_all_workers(pause_with_numpy, 0.2)
    cold = timed(pass_array, contender, array)
    for _ in range(3):
        pass_array(contender, array)
    contender.share(first, contender.put(array), TASKS)
    return cold


def pass_array(contender, array):
    """Return a marked array, so that a stale copy is noticed."""
    array[0] += 1
    assert contender.call(first, array) == array[0]


def share_array(contender, stored, expected):
    assert contender.share(first, stored, TASKS) == [expected] * TASKS


def chain_array(contender, stored, links, expected):
    assert contender.chain([add_one] * links + [total], stored) == expected


def loop_in_numpy(array, links, expected):
    for _ in range(links):
        array = array + 1
    assert float(array.sum()) == expected


def total_after(array, links):
    """As it is now: `pass_array` changes it."""
    return float((array + links).sum())


# ---- an argument -----------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="one 100 MB array as an argument")
def test_argument(benchmark, contender, array):
    benchmark.pedantic(pass_array, (contender, array), rounds=7)


def test_ratios_argument(report, array):
    buffer = np.empty_like(array)
    cold_copy = timed(np.copyto, buffer, array)
    with running(CARRIERS) as started:
        cold = {name: warm(contender, array) for name, contender in started.items()}
        np.copyto(buffer, array)  # since the forks each of its pages would be copied at the first touch
        measures = {name: lambda c=contender: timed(pass_array, c, array) for name, contender in started.items()}
        seconds = interleaved({MEMCPY: lambda: timed(np.copyto, buffer, array), **measures})
    rows = [(MEMCPY, spread(seconds[MEMCPY], " ms", 1, 1e3)), ("    into fresh memory", f"{cold_copy * 1e3:.1f} ms")]
    for name in started:
        rows.append((name, spread(seconds[name], " ms", 1, 1e3)))
        rows.append(("    cold: its first call with such an array", f"{cold[name] * 1e3:.1f} ms"))
    over_memcpy = spread(ratios(seconds[OURS], seconds[MEMCPY]), " times", 2)
    rows.append((f"{OURS} over {MEMCPY}", over_memcpy, "at most 1.3 times"))
    rows += [(f"{peer} over {OURS}", spread(ratios(seconds[peer], seconds[OURS]), " times")) for peer in PEERS]
    report("one 100 MB array from the driver's memory as an argument, and its task's result", rows)


# ---- shared ----------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="one 100 MB array put once, 16 tasks")
def test_shared(benchmark, contender, array):
    def put_and_share():
        share_array(contender, contender.put(array), array[0])

    benchmark.pedantic(put_and_share, rounds=5)


def put_and_share(contender, array):
    """(seconds of the put, seconds of the tasks after it)."""
    start = time.perf_counter()
    stored = contender.put(array)
    put = time.perf_counter() - start
    return put, timed(share_array, contender, stored, array[0])


def test_ratios_shared(report, array):
    with running(CARRIERS) as started:
        for contender in started.values():
            warm(contender, array)
        measures = {name: lambda c=contender: put_and_share(c, array) for name, contender in started.items()}
        ours = started[OURS]
        no_ops = {"16 no-ops": lambda: timed(ours.share, nothing, 1, TASKS)}
        seconds = interleaved({**measures, **no_ops}, 5)
    puts, beyond = zip(*seconds[OURS], strict=True)
    rows = [
        (f"{OURS}, put_object", spread(puts, " ms", 1, 1e3)),
        (f"{OURS}, the {TASKS} tasks beyond the put", spread(beyond, " ms", 2, 1e3), "at most 2 ms"),
        (f"    {TASKS} no-op calls in their place", spread(seconds["16 no-ops"], " ms", 2, 1e3)),
    ]
    whole = {name: [put + tasks for put, tasks in seconds[name]] for name in started}
    rows += [(f"{name}, put and tasks", spread(values, " ms", 1, 1e3)) for name, values in whole.items()]
    rows += [(f"{peer} over {OURS}", spread(ratios(whole[peer], whole[OURS]), " times")) for peer in PEERS]
    report(f"one 100 MB array put once, {TASKS} tasks that read of it", rows)


# ---- chains ----------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="chain of a + 1 on 100 MB, 2 links and a sum")
def test_chain(benchmark, contender, array):
    expected = total_after(array, PEER_LINKS)

    def stored():
        return (contender, contender.put(array), PEER_LINKS, expected), {}

    benchmark.pedantic(chain_array, setup=stored, rounds=3)


def test_ratios_chain(report, array):
    def chained(contender, links):
        stored = contender.put(array)
        return timed(chain_array, contender, stored, links, expected[links])

    with running(CARRIERS) as started:
        for contender in started.values():
            warm(contender, array)
        expected = {links: total_after(array, links) for links in (LINKS, PEER_LINKS)}
        chained(started[OURS], LINKS)
        loop_in_numpy(array, LINKS, expected[LINKS])
        loop = {NUMPY: lambda: timed(loop_in_numpy, array, LINKS, expected[LINKS])}
        seconds = interleaved({OURS: lambda: chained(started[OURS], LINKS), **loop})
        a_link = interleaved({peer: lambda p=peer: chained(started[p], PEER_LINKS) / PEER_LINKS for peer in PEERS}, 3)
    rows = [(name, spread(values, " ms", 0, 1e3)) for name, values in seconds.items()]
    over_numpy = spread(ratios(seconds[OURS], seconds[NUMPY]), " times", 2)
    rows.append((f"{OURS} over {NUMPY}", over_numpy, "at most 0.85 times"))
    rows.append((f"{OURS}, a link", spread(seconds[OURS], " ms", 0, 1e3 / LINKS)))
    rows += [(f"{peer}, a link of {PEER_LINKS}", spread(values, " ms", 0, 1e3)) for peer, values in a_link.items()]
    report(f"chain of {LINKS} tasks a + 1 on 100 MB and a sum, from a value put before", rows)


def test_ratios_identity(report, array):
    """A chain that makes no new value: its cost must not depend on the size of what passes along."""
    with running([FlameFast]) as started:
        ours = started[OURS]
        ours.reach_all_workers(pause_with_numpy, 0.2)
        stored = {"100 MB": ours.put(array), "100 bytes": ours.put(np.zeros(100, np.uint8))}

        def pass_along(value):
            end, chains = time.perf_counter() + 0.2, []
            while not chains or time.perf_counter() < end:
                chains.append(timed(lambda: ours.last_of([nothing] * 3, stored[value]).wait()))
            return median(chains)

        for value in stored:
            pass_along(value)
        seconds = interleaved({value: lambda v=value: pass_along(v) for value in stored})
        assert ours.call(first, ours.last_of([nothing] * 3, stored["100 MB"])) == array[0]
    rows = [(value, spread(values, " us", 1, 1e6)) for value, values in seconds.items()]
    rows.append(("100 MB over 100 bytes", spread(ratios(*seconds.values()), " times", 2), "1 time"))
    report("chain of 3 identity tasks, values put before, waited for", rows)


def there_and_back(contender, small, kept):
    """Seconds a call of one with an array that comes back, and is kept or dropped."""
    results = []

    def trip():
        result = contender.call(nothing, small)
        if kept:
            results.append(result)

    return timed(lambda: [trip() for _ in range(TRIPS)]) / TRIPS


@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
def test_ratios_there_and_back(kept, report):
    small = np.arange(10_000, dtype=np.float64)
    with running([carrier for carrier in CARRIERS if carrier not in (SharedBufferPool, Joblib)]) as started:
        for contender in started.values():
            contender.reach_all_workers(pause_with_numpy, 0.2)
            there_and_back(contender, small, kept)
        seconds = interleaved(
            {name: lambda c=contender: there_and_back(c, small, kept) for name, contender in started.items()}
        )
    rows = [(name, spread(values, " us", 1, 1e6)) for name, values in seconds.items()]
    rows += [
        (f"{peer} over {OURS}", spread(ratios(values, seconds[OURS]))) for peer, values in seconds.items() if peer != OURS
    ]
    report(f"80 KB there and back, one call at a time, results {'kept' if kept else 'dropped'}", rows)
