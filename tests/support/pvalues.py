"""Probabilities of test statistics, without SciPy: how likely chance alone gives as much, or more.

A p-value of a good generator is itself uniform between 0 and 1. So one near 1 is as suspicious as one near 0: numbers that
are more even than random ones. Tests of fixed seeds ask for `ODD < p < 1 - ODD`.
"""

from __future__ import annotations

import math

import numpy as np

#: A p-value is this odd once in half a million; no test here has a seed that was chosen for its result.
ODD = 1e-6


def gamma_tail(shape, x):
    """Return the regularized upper incomplete gamma function Q(shape, x)."""
    if x <= 0:
        return 1.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:  # the series of the lower one, all of whose terms are positive
        term = total = 1.0 / shape
        n = shape
        while term > total * 1e-17:
            n += 1.0
            term *= x / n
            total += term
        return 1.0 - scale * total
    return scale * _gamma_fraction(shape, x)


def _gamma_fraction(shape, x):
    """Return Legendre's continued fraction, by Lentz's algorithm."""
    tiny = 1e-300
    b = x + 1.0 - shape
    c = 1.0 / tiny
    d = fraction = 1.0 / b
    for n in range(1, 100_000):
        a = n * (shape - n)
        b += 2.0
        d = 1.0 / ((a * d + b) or tiny)
        c = (b + a / c) or tiny
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return fraction


def chi_square_tail(statistic, degrees):
    """Return the probability that a chi-square variable of these degrees of freedom exceeds `statistic`."""
    return gamma_tail(degrees / 2, statistic / 2)


def chi_square(observed, expected):
    """Return the p-value of counts against their expectations (one number or as many).

    The counts are independent but for their given sum.
    """
    observed = np.asarray(observed, float).ravel()
    expected = np.broadcast_to(np.asarray(expected, float).ravel(), observed.shape)
    assert math.isclose(observed.sum(), expected.sum(), rel_tol=1e-9), "the cells do not hold everything"
    return chi_square_tail(((observed - expected) ** 2 / expected).sum(), observed.size - 1)


def chi_square_of_cells(cells, number):
    """Return the p-value of draws from the integers 0 to below `number`, all equally likely."""
    counts = np.bincount(np.asarray(cells).ravel().astype(np.int64), minlength=number)
    return chi_square(counts, counts.sum() / number)


def chi_square_of_normals(z):
    """Return the p-value of independent standard normal values: their squares sum up to a chi-square variable."""
    z = np.ravel(z)
    return chi_square_tail((z * z).sum(), z.size)


def pooled(observed, expected, least=5.0):
    """Return (observed, expected) of neighboring cells merged until each expects at least so many."""
    cells = [[0.0, 0.0]]
    for found, wanted in zip(observed, expected, strict=True):
        if cells[-1][1] >= least:
            cells.append([0.0, 0.0])
        cells[-1][0] += found
        cells[-1][1] += wanted
    if len(cells) > 1 and cells[-1][1] < least:
        found, wanted = cells.pop()
        cells[-1][0] += found
        cells[-1][1] += wanted
    return np.array(cells).T


def kolmogorov_tail(distance, n):
    """Return the probability that the distribution of n values is further than `distance` from the true one.

    For n of some dozens or more.
    """
    root = math.sqrt(n)
    scaled = (root + 0.12 + 0.11 / root) * distance  # Stephens, 1970
    if scaled < 1.18:  # the same function by the series that converges here
        y = math.exp(-(math.pi**2) / (8 * scaled**2)) if scaled > 0.04 else 0.0
        return 1.0 - math.sqrt(2 * math.pi) / max(scaled, 0.04) * (y + y**9 + y**25 + y**49)
    return 2.0 * sum((-1) ** (k - 1) * math.exp(-2.0 * k * k * scaled**2) for k in range(1, 10))


def kolmogorov_smirnov(probabilities):
    """Return the p-value of values, given as their probabilities under the distribution that they should have."""
    ordered = np.sort(probabilities)
    n = ordered.size
    ranks = np.arange(n + 1) / n
    distance = max((ranks[1:] - ordered).max(), (ordered - ranks[:-1]).max())
    return kolmogorov_tail(distance, n)


def normal_below(z):
    """Return the probability that a standard normal value is below z; of an array."""
    return np.array([math.erfc(value) for value in (np.ravel(z) * -math.sqrt(0.5)).tolist()]) * 0.5


def normal_tail(z):
    """Return the probability that a standard normal value is further from 0 than z."""
    return math.erfc(abs(z) * math.sqrt(0.5))


def poisson_tail(count, mean):
    """Return the probability that a Poisson variable is at least `count`."""
    return 1.0 - gamma_tail(count, mean) if count else 1.0


def binomial(n, p):
    """Return the probabilities of 0 to n hits out of n."""
    logarithms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(n + 1)
    ]
    return np.exp(logarithms)
