"""What a quasi-random number costs: scrambled Sobol points and normal ones, beside SciPy's.

pytest bench/kernels/test_quasi.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds
pytest bench/kernels/test_quasi.py -m ratios
"""

from __future__ import annotations

from functools import partial
from statistics import median

import numpy as np
import pytest
from flame_fast.kernels import quasi
from measuring import interleaved, ratios, spread, timed
from samplers import CPUS, threads
from scipy.special import ndtri
from scipy.stats import qmc

#: Points and dimensions: powers of two, as SciPy wants them, with as many numbers in each.
SHAPES = {"8 dimensions": (1 << 17, 8), "256 dimensions": (1 << 12, 256)}
NUMBERS = 1 << 20


def scipys(shape, normal):
    def drawn():
        points = qmc.Sobol(shape[1], scramble=True, bits=32, rng=7).random(shape[0])
        return ndtri(points) if normal else points

    return drawn


def ours(shape, normal, number, out):
    def drawn():
        with threads(number):
            return (quasi.sobol_normals if normal else quasi.sobol)(*shape, 7, out=out)

    return drawn


def contenders(shape, normal):
    out = np.empty(shape)
    return {
        "SciPy, Sobol" + " and ndtri" * normal: scipys(shape, normal),
        "quasi, 1 thread": ours(shape, normal, 1, out),
        "quasi, all threads": ours(shape, normal, CPUS, out),
    }


KINDS = pytest.mark.parametrize("normal", [False, True], ids=["points", "normals"])


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_points(benchmark, shape, normal, number):
    name, draw = list(contenders(SHAPES[shape], normal).items())[number]
    benchmark.group = f"{shape}, {'normals' if normal else 'points'}"
    benchmark.name = name
    assert benchmark.pedantic(draw, rounds=7, warmup_rounds=1).size == NUMBERS


@KINDS
def test_ratios_points(report, normal):
    rows = []
    for name, shape in SHAPES.items():
        draws = contenders(shape, normal)
        for draw in draws.values():
            draw()
        seconds = interleaved({who: partial(timed, draw) for who, draw in draws.items()})
        first = seconds[next(iter(draws))]
        rows.append((name, ""))
        for who, values in seconds.items():
            over = "" if values is first else f": {spread(ratios(first, values), ' times')}"
            rows.append((f"    {who}", f"{median(values) / NUMBERS * 1e9:.1f} ns{over}"))
    report(f"Sobol {'normal numbers' if normal else 'points'}, nanoseconds each, and how many times as fast", rows)
