"""What a random number costs: beside NumPy's, Numba's and memory's speed; and two generators that could have been taken.

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

#: Numbers of an array that is filled again and again, for what a number costs without new memory.
KEPT = 1 << 20

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


# ---- every distribution, without new memory ------------------------------------------------------------------------------

SFC64 = np.random.Generator(np.random.SFC64(1))
OUT, SINGLES, WHOLE = np.empty(KEPT), np.empty(KEPT, np.float32), np.empty(KEPT, np.int64)
WEIGHTS = np.arange(1.0, 1001.0) / 500_500.0
COVARIANCES = np.eye(8) + 0.5
ROWS = np.empty((KEPT // 8, 8))
ORDER = np.arange(KEPT)

#: Of each draw: ours, into memory that is there where it takes any, and NumPy's, likewise.
DRAWS = {
    "uniforms": (lambda: sampling.uniforms(out=OUT, seed=1), lambda: SFC64.random(out=OUT)),
    "uniforms, float32": (
        lambda: sampling.uniforms(out=SINGLES, seed=1),
        lambda: SFC64.random(out=SINGLES, dtype=np.float32),
    ),
    "normals": (lambda: sampling.normals(out=OUT, seed=1), lambda: SFC64.standard_normal(out=OUT)),
    "normals, float32": (
        lambda: sampling.normals(out=SINGLES, seed=1),
        lambda: SFC64.standard_normal(out=SINGLES, dtype=np.float32),
    ),
    "exponentials": (lambda: sampling.exponentials(out=OUT, seed=1), lambda: SFC64.standard_exponential(out=OUT)),
    "integers below 1000": (lambda: sampling.integers(1000, out=WHOLE, seed=1), lambda: SFC64.integers(1000, size=KEPT)),
    "integers below 2**40": (lambda: sampling.integers(2**40, out=WHOLE, seed=1), lambda: SFC64.integers(2**40, size=KEPT)),
    "lognormal": (lambda: sampling.lognormal(0, 0.5, out=OUT, seed=1), lambda: SFC64.lognormal(0, 0.5, KEPT)),
    "gamma, shape 0.5": (lambda: sampling.gamma(0.5, out=OUT, seed=1), lambda: SFC64.standard_gamma(0.5, KEPT)),
    "gamma, shape 2.5": (lambda: sampling.gamma(2.5, out=OUT, seed=1), lambda: SFC64.standard_gamma(2.5, KEPT)),
    "beta, 0.3 and 0.2": (lambda: sampling.beta(0.3, 0.2, out=OUT, seed=1), lambda: SFC64.beta(0.3, 0.2, KEPT)),
    "beta, 2 and 5": (lambda: sampling.beta(2, 5, out=OUT, seed=1), lambda: SFC64.beta(2, 5, KEPT)),
    "Student's t, 3": (lambda: sampling.standard_t(3, out=OUT, seed=1), lambda: SFC64.standard_t(3, KEPT)),
    "chi-square, 3": (lambda: sampling.chisquare(3, out=OUT, seed=1), lambda: SFC64.chisquare(3, KEPT)),
    "Poisson, 1": (lambda: sampling.poisson(1.0, out=WHOLE, seed=1), lambda: SFC64.poisson(1.0, KEPT)),
    "Poisson, 10": (lambda: sampling.poisson(10.0, out=WHOLE, seed=1), lambda: SFC64.poisson(10.0, KEPT)),
    "Poisson, 10,000": (lambda: sampling.poisson(1e4, out=WHOLE, seed=1), lambda: SFC64.poisson(1e4, KEPT)),
    "binomial, 10 of 0.3": (lambda: sampling.binomial(10, 0.3, out=WHOLE, seed=1), lambda: SFC64.binomial(10, 0.3, KEPT)),
    "binomial, 10**6 of 0.3": (
        lambda: sampling.binomial(10**6, 0.3, out=WHOLE, seed=1),
        lambda: SFC64.binomial(10**6, 0.3, KEPT),
    ),
    "choice by 1000 weights": (
        lambda: sampling.choice(1000, KEPT, 1, p=WEIGHTS),
        lambda: SFC64.choice(1000, KEPT, p=WEIGHTS),
    ),
    "choice, half, no replacement": (
        lambda: sampling.choice(2 * KEPT, KEPT, 1, replace=False),
        lambda: SFC64.choice(2 * KEPT, KEPT, replace=False),
    ),
    "permutation": (lambda: sampling.permutation(KEPT, 1), lambda: SFC64.permutation(KEPT)),
    "shuffle": (lambda: sampling.shuffle(ORDER, 1), lambda: SFC64.shuffle(ORDER)),
    "multivariate normals, 8": (
        lambda: sampling.multivariate_normals(0.0, COVARIANCES, out=ROWS, seed=1),
        lambda: SFC64.multivariate_normal(np.zeros(8), COVARIANCES, len(ROWS), method="cholesky"),
    ),
}


def on_threads(number, draw):
    """Seconds of a second draw: after a pause GNU OpenMP's threads wake late, by 6 ms on a virtual machine of two cores."""
    with threads(number):
        draw()
        return timed(draw)


def test_ratios_distributions(report):
    rows = []
    for name, (draw, theirs) in DRAWS.items():
        draw()
        seconds = interleaved(
            {
                "NumPy": partial(on_threads, 1, theirs),
                "1 thread": partial(on_threads, 1, draw),
                "all threads": partial(on_threads, CPUS, draw),
            }
        )
        costs = [f"{median(values) / KEPT * 1e9:.2f}" for values in seconds.values()]
        times = [spread(ratios(seconds["NumPy"], seconds[who]), " times") for who in ("1 thread", "all threads")]
        rows.append((name, f"{costs[0]} ns, here {costs[1]}: {times[0]}, all threads {costs[2]}: {times[1]}"))
    report("a number of each distribution: NumPy (SFC64), and how many times as fast it is here", rows)


def test_ratios_limits(report):
    """What a number may cost at most: beside writing the memory, which no cache holds, and exponentials beside normals."""
    large = np.zeros(NUMBERS)
    measures = {
        "writing the memory": lambda: large.fill(1.0),
        "uniforms": lambda: sampling.uniforms(out=large, seed=1),
        "normals": lambda: sampling.normals(out=large, seed=1),
        "exponentials": lambda: sampling.exponentials(out=large, seed=1),
    }
    seconds = interleaved({name: partial(on_threads, 1, measure) for name, measure in measures.items()})
    report(
        f"one thread, an array of {NUMBERS:,} that is there",
        [
            (
                "uniforms over writing the memory",
                spread(ratios(seconds["uniforms"], seconds["writing the memory"]), " times"),
            ),
            ("exponentials over normals", spread(ratios(seconds["exponentials"], seconds["normals"]), " times")),
        ],
    )


# ---- number by number, in nopython code ----------------------------------------------------------------------------------

SINGLE = {
    "random": ("rng.random(g)", "np.random.random()"),
    "normal": ("rng.normal(g)", "np.random.standard_normal()"),
    "exponential": ("rng.exponential(g)", "np.random.standard_exponential()"),
    "integers below 6": ("rng.integers(g, 6)", "np.random.randint(0, 6)"),
    "gamma, shape 2.5": ("rng.gamma(g, 2.5)", "np.random.standard_gamma(2.5)"),
    "Poisson, 3": ("rng.poisson(g, 3.0)", "np.random.poisson(3.0)"),
}


#: Arrays of 10,000 elements, one after the other: the numbers stay in the cache.
ARRANGED = {
    "shuffle": ("rng.shuffle(g, order)", "np.random.shuffle(order)"),
    "permutation": ("rng.permutation(g, 10_000)", "np.random.permutation(10_000)"),
    "choice": ("rng.choice(g, 10_000, 10_000)", "np.random.choice(10_000, 10_000)"),
    "choice without replacement": ("rng.choice(g, 10_000, 1000, False)", "np.random.choice(10_000, 1000, False)"),
}


def arranged(expression):
    names = {"rng": rng, "np": np, "numba": numba}
    exec(
        "@numba.njit\ndef total(key, count):\n    g, order = rng.generator(key, 0), np.arange(10_000)\n"
        f"    for _ in range(count):\n        {expression}\n    return order\n",
        names,
    )
    return partial(names["total"], rng.key(1), 50)


def test_ratios_arranging(report):
    rows = []
    for name, (here, numbas) in ARRANGED.items():
        measures = {"here": arranged(here), "Numba": arranged(numbas)}
        for measure in measures.values():
            measure()
        seconds = interleaved({who: partial(timed, measure) for who, measure in measures.items()})
        costs = {who: f"{median(values) / 50 * 1e6:.1f} us" for who, values in seconds.items()}
        times = spread(ratios(seconds["Numba"], seconds["here"]), " times")
        rows.append((name, f"{costs['here']}, Numba {costs['Numba']}: {times}"))
    report("arrays of 10,000 elements arranged in nopython code, and how many times Numba's speed", rows)


def summed(expression):
    names = {"rng": rng, "np": np, "numba": numba}
    exec(
        "@numba.njit\ndef total(key, count):\n    g, x = rng.generator(key, 0), 0.0\n"
        f"    for _ in range(count):\n        x += {expression}\n    return x\n",
        names,
    )
    return partial(names["total"], rng.key(1), KEPT)


def test_ratios_single_numbers(report):
    rows = []
    for name, (here, numbas) in SINGLE.items():
        measures = {"here": summed(here), "Numba": summed(numbas)}
        for measure in measures.values():
            measure()
        seconds = interleaved({who: partial(timed, measure) for who, measure in measures.items()})
        costs = {who: f"{median(values) / KEPT * 1e9:.2f} ns" for who, values in seconds.items()}
        times = spread(ratios(seconds["Numba"], seconds["here"]), " times")
        rows.append((name, f"{costs['here']}, Numba {costs['Numba']}: {times}"))
    report("one number at a time in nopython code, and how many times Numba's speed", rows)


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
