"""What a random number costs: arrays of them beside NumPy's generators, and the two that could have been the kernels' own.

pytest bench/kernels/test_sampling.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds
pytest bench/kernels/test_sampling.py -m ratios
"""

from __future__ import annotations

from functools import partial
from statistics import median

import numba
import numpy as np
import pytest
from flame_fast.kernels import rng, sampling
from flame_fast.kernels.domains import PI
from flame_fast.kernels.jit.lanes import LANES, advance, lanes_of, threefry
from flame_fast.kernels.jit.simd import counter, like, store
from measuring import interleaved, ratios, spread, timed
from numba import types
from samplers import CPUS, threads

NUMBERS = 10_000_000

LANE_NUMBERS = counter(types.uint64, LANES)
ZERO = np.uint64(0)


def of_numpy(generator, distribution):
    return partial(getattr(np.random.Generator(generator()), distribution), NUMBERS)


def ours(distribution, number):
    def drawn():
        with threads(number):
            return getattr(sampling, distribution)(NUMBERS)

    return drawn


#: The distribution: what NumPy calls it, what it is called here.
DISTRIBUTIONS = {"random": "uniforms", "standard_normal": "normals", "standard_exponential": "exponentials"}


def contenders(theirs):
    return {
        "NumPy, default_rng (PCG64)": of_numpy(np.random.PCG64, theirs),
        "NumPy, SFC64": of_numpy(np.random.SFC64, theirs),
        "sampling, 1 thread": ours(DISTRIBUTIONS[theirs], 1),
        "sampling, all threads": ours(DISTRIBUTIONS[theirs], CPUS),
    }


@pytest.mark.parametrize("name", contenders("random"))
@pytest.mark.parametrize("theirs", DISTRIBUTIONS, ids=DISTRIBUTIONS.get)
def test_arrays(benchmark, theirs, name):
    benchmark.group = f"{NUMBERS:,} {DISTRIBUTIONS[theirs]}"
    assert benchmark.pedantic(contenders(theirs)[name], rounds=7, warmup_rounds=1).size == NUMBERS


def test_ratios_arrays(report):
    rows = []
    for theirs, name in DISTRIBUTIONS.items():
        draws = contenders(theirs)
        for draw in draws.values():
            draw()
        seconds = interleaved({who: partial(timed, draw) for who, draw in draws.items()})
        first = seconds[next(iter(draws))]
        rows.append((f"{NUMBERS:,} {name}", ""))
        for who, values in seconds.items():
            over = "" if values is first else f": {spread(ratios(first, values), ' times')}"
            rows.append((f"    {who}", f"{NUMBERS / median(values) / 1e6:,.0f} M/s{over}"))
    report("arrays of random doubles, millions a second, and how many times the first row's", rows)


# ---- generators ----------------------------------------------------------------------------------------------------------


@numba.njit
def by_state(key, out):
    """Draw from the generator that was taken: lanes of xoshiro256++."""
    s0, s1, s2, s3 = lanes_of(key, 0, PI)
    for start in range(0, out.size, LANES):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store(out, start, words)


@numba.njit
def by_counter(key, out):
    """Draw from the other one: the cipher itself, of a counter; four vectors of words a time."""
    lanes = LANE_NUMBERS()
    for step in range(out.size // (4 * LANES)):
        place = like(lanes, np.uint64(step))
        w0, w1, w2, w3 = threefry(key[0], key[1], ZERO, ZERO, place, lanes, like(lanes, ZERO), like(lanes, ZERO))
        store(out, 4 * step * LANES, w0)
        store(out, (4 * step + 1) * LANES, w1)
        store(out, (4 * step + 2) * LANES, w2)
        store(out, (4 * step + 3) * LANES, w3)


def test_ratios_generators(report):
    out, times, key = np.empty(4096, np.uint64), 2000, rng.key(1)

    def words(fill):
        return lambda: timed(lambda: [fill(key, out) for _ in range(times)])

    raw = {name: getattr(np.random, name)(1) for name in ("PCG64", "SFC64", "Philox")}
    measures = {
        "xoshiro256++ in lanes": words(by_state),
        "Threefry-4x64-20 in lanes": words(by_counter),
        **{f"NumPy, {name}": words(lambda _, out, g=generator: g.random_raw(out.size)) for name, generator in raw.items()},
    }
    by_state(key, out)
    by_counter(key, out)
    seconds = interleaved(measures)
    first = seconds["xoshiro256++ in lanes"]
    rows = []
    for name, values in seconds.items():
        over = "" if values is first else f": 1/{spread(ratios(values, first))}"
        rows.append((name, f"{times * out.size / median(values) / 1e6:,.0f} M/s{over}"))
    report(f"random words into an array of {out.size:,} that stays in the cache, one thread, millions a second", rows)
