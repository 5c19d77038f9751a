"""Print how well arrays of each distribution fit SciPy's: p-values of chi-square tests over cells of equal probability.

    python bench/tools/fit.py [--size 100_000_000] [--seed 1]

Counts are tested over their values, those that are rare together. A p-value below 1e-4 or above 0.9999 is one to look at
again, with another seed.
"""

from __future__ import annotations

import argparse

import numpy as np
from flame_fast.kernels import sampling
from scipy import stats

CELLS = 1000

#: Numbers drawn at once.
PIECE = 10_000_000

DOUBLES = {
    "uniforms": (sampling.uniforms, (), stats.uniform()),
    "normals": (sampling.normals, (), stats.norm()),
    "exponentials": (sampling.exponentials, (), stats.expon()),
    "lognormal(0, 0.5)": (sampling.lognormal, (0.0, 0.5), stats.lognorm(0.5)),
    "gamma(0.1)": (sampling.gamma, (0.1, 1.0), stats.gamma(0.1)),
    "gamma(0.9)": (sampling.gamma, (0.9, 1.0), stats.gamma(0.9)),
    "gamma(1.1)": (sampling.gamma, (1.1, 1.0), stats.gamma(1.1)),
    "gamma(30)": (sampling.gamma, (30.0, 1.0), stats.gamma(30.0)),
    "beta(0.3, 0.2)": (sampling.beta, (0.3, 0.2), stats.beta(0.3, 0.2)),
    "beta(0.5, 3)": (sampling.beta, (0.5, 3.0), stats.beta(0.5, 3.0)),
    "beta(2, 5)": (sampling.beta, (2.0, 5.0), stats.beta(2.0, 5.0)),
    "chisquare(3)": (sampling.chisquare, (3.0,), stats.chi2(3.0)),
    "standard_t(1.5)": (sampling.standard_t, (1.5,), stats.t(1.5)),
    "standard_t(10)": (sampling.standard_t, (10.0,), stats.t(10.0)),
}
COUNTS = {
    "poisson(0.3)": (sampling.poisson, (0.3,), stats.poisson(0.3)),
    "poisson(9.9)": (sampling.poisson, (9.9,), stats.poisson(9.9)),
    "poisson(10)": (sampling.poisson, (10.0,), stats.poisson(10.0)),
    "poisson(12.5)": (sampling.poisson, (12.5,), stats.poisson(12.5)),
    "poisson(200)": (sampling.poisson, (200.0,), stats.poisson(200.0)),
    "binomial(20, 0.3)": (sampling.binomial, (20, 0.3), stats.binom(20, 0.3)),
    "binomial(30, 0.4)": (sampling.binomial, (30, 0.4), stats.binom(30, 0.4)),
    "binomial(1000, 0.0101)": (sampling.binomial, (1000, 0.0101), stats.binom(1000, 0.0101)),
    "binomial(100_000, 0.7)": (sampling.binomial, (100_000, 0.7), stats.binom(100_000, 0.7)),
    "integers(7)": (sampling.integers, (0, 7), stats.randint(0, 7)),
}


def pieces(draw, parameters, size, seed):
    for number, start in enumerate(range(0, size, PIECE)):
        yield draw(*parameters, size=min(PIECE, size - start), seed=[seed, number])


def of_doubles(draw, parameters, of_scipy, size, seed):
    edges = of_scipy.ppf(np.arange(1, CELLS) / CELLS)
    counts = sum(
        np.bincount(np.searchsorted(edges, piece), minlength=CELLS) for piece in pieces(draw, parameters, size, seed)
    )
    return stats.chisquare(counts).pvalue


def of_counts(draw, parameters, of_scipy, size, seed):
    low, high = int(of_scipy.ppf(1e-6)), int(of_scipy.ppf(1 - 1e-6))
    counts = np.zeros(high - low + 1, np.int64)
    for piece in pieces(draw, parameters, size, seed):
        counts += np.bincount(np.clip(piece, low, high) - low, minlength=len(counts))
    expected = of_scipy.pmf(np.arange(low, high + 1))
    expected[0], expected[-1] = of_scipy.cdf(low), of_scipy.sf(high - 1)
    return stats.chisquare(counts, expected * size / expected.sum()).pvalue


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for kinds, fit in ((DOUBLES, of_doubles), (COUNTS, of_counts)):
        for name, (draw, parameters, of_scipy) in kinds.items():
            print(f"{name:<24} {fit(draw, parameters, of_scipy, args.size, args.seed):.5f}", flush=True)


if __name__ == "__main__":
    main()
