"""What moments of samples cost: beside NumPy's mean and variance, and SciPy's `describe`; and what strata cost.

pytest bench/kernels/test_moments.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds
pytest bench/kernels/test_moments.py -m ratios
"""

from __future__ import annotations

import importlib.util
from functools import partial
from statistics import median

import numpy as np
import pytest
from flame_fast.kernels import sampling, variance
from flame_fast.kernels.moments import Moments
from measuring import interleaved, ratios, spread, timed
from samplers import CPUS, threads

#: Shapes of samples: in memory, in a core's cache, and of several quantities with their covariances.
SHAPES = [(10_000_000,), (1_000,), (1_000_000, 8)]

STRATA = 1_000_000


def mean_and_variance(samples):
    return np.mean(samples, axis=0), np.var(samples, axis=0, ddof=1)


def mean_and_covariance(samples):
    return np.mean(samples, axis=0), np.cov(samples, rowvar=False)


def ours(samples, number, order):
    with threads(number):
        return Moments.of(samples, order=order)


def contenders(shape):
    """Return {name: function}, the first one NumPy's."""
    samples = sampling.normals(int(np.prod(shape)), seed=7).reshape(shape)
    made = {}
    if len(shape) > 1:
        made["NumPy, mean and cov"] = partial(mean_and_covariance, samples)
    made["NumPy, mean and var"] = partial(mean_and_variance, samples)
    if importlib.util.find_spec("scipy"):
        from scipy.stats import describe

        made["SciPy, describe"] = partial(describe, samples)
    made["Moments.of, 1 thread"] = partial(ours, samples, 1, 2)
    made["Moments.of, all threads"] = partial(ours, samples, CPUS, 2)
    made["Moments.of, all threads, order 4"] = partial(ours, samples, CPUS, 4)
    return made


def drawn():
    """Return {name: function} of draws of as many numbers each."""
    generator = np.random.default_rng(7)
    made = {
        "NumPy, random": partial(generator.random, STRATA),
        "NumPy, (arange + random) / n": lambda: (np.arange(STRATA) + generator.random(STRATA)) / STRATA,
        "stratified, all threads": partial(variance.stratified, STRATA, 7),
        "NumPy, (permutation + random) / n": lambda: (generator.permutation(STRATA) + generator.random(STRATA)) / STRATA,
        "latin_hypercube, a column, all threads": partial(variance.latin_hypercube, STRATA, 1, 7),
    }
    if importlib.util.find_spec("scipy"):
        from scipy.stats import qmc

        made["SciPy, LatinHypercube, a column"] = lambda: qmc.LatinHypercube(1, rng=generator).random(STRATA)
    return made


def shown(made, what):
    """Return the rows of a report: what each contender takes, and how many times as fast as the first it is."""
    for call in made.values():
        call()
    seconds = interleaved({who: partial(timed, call) for who, call in made.items()})
    first = seconds[next(iter(made))]
    rows = [(what, "")]
    for who, values in seconds.items():
        over = "" if values is first else f": {spread(ratios(first, values), ' times')}"
        rows.append((f"    {who}", f"{median(values) * 1e6:,.0f} us{over}"))
    return rows


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moments(benchmark, shape):
    benchmark.group = f"moments of {shape}"
    call = contenders(shape)["Moments.of, all threads"]
    assert benchmark.pedantic(call, rounds=7, warmup_rounds=1).count == shape[0]


def test_ratios_moments(report):
    rows = [row for shape in SHAPES for row in shown(contenders(shape), f"normal doubles of shape {shape}")]
    report("mean, variance and covariance, microseconds, and how many times as fast as the first row", rows)


def test_ratios_strata(report):
    report("draws, microseconds, and how many times as fast as the first row", shown(drawn(), f"{STRATA:,} draws"))
