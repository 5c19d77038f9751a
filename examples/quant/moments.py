"""Means and variances of samples drawn in blocks, and the estimates that control variates make of them.

An estimated value, a quantity, has three columns of samples, one row for each pair of antithetic paths:

    PLAIN    its value on the first path of the pair
    PAIRED   the mean of its values on both paths
    CONTROL  the control variate, whose expectation is known, on both paths likewise

A block's means, and the sums of products of deviations from them, are sufficient statistics, and merge without losing digits
[1]_. Floating-point addition is not associative: blocks are merged in the order of their numbers, in whatever order they
finished, so that the result is the same to the last bit.

References
----------
.. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The American Statistician
   37(3), 1983.
.. [2] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004: sections 4.1 (control variates) and 4.2
   (antithetic variates).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PLAIN, PAIRED, CONTROL = range(3)

#: Standard errors on either side of an estimate: its 95 % confidence interval.
BAND = 1.96


class Moments(NamedTuple):
    """The moments of so many samples of some quantities.

    Attributes
    ----------
    pairs : int
        Pairs of paths: the samples.
    means : float64 array, shape (quantities, 3)
    products : float64 array, shape (quantities, 3, 3)
        Sums of products of deviations from the means: `pairs - 1` times the covariances.
    """

    pairs: int
    means: Floats
    products: Floats


class Estimates(NamedTuple):
    """Estimates of some quantities, each with its standard error: two float64 arrays of the same length."""

    values: Floats
    errors: Floats


def merge(one: Moments, other: Moments) -> Moments:
    """Return the moments of the samples of both."""
    pairs = one.pairs + other.pairs
    shift = other.means - one.means
    between = shift[:, :, None] * shift[:, None, :] * (one.pairs * other.pairs / pairs)
    return Moments(pairs, one.means + shift * (other.pairs / pairs), one.products + other.products + between)


def thinned(running: Iterable[Moments], growth: float = 1.05) -> Iterator[Moments]:
    """Yield those of `running` moments that have `growth` times the samples of the one before, and the last."""
    kept, last = 0.0, None
    for last in running:
        if last.pairs >= kept * growth:
            kept = last.pairs
            yield last
    if last is not None and last.pairs != kept:
        yield last


def plain(moments: Moments) -> Estimates:
    """Estimate without variance reduction: from one path of each pair."""
    return _mean_of(moments, PLAIN)


def antithetic(moments: Moments) -> Estimates:
    """Estimate from pairs of antithetic paths alone."""
    return _mean_of(moments, PAIRED)


def control(moments: Moments) -> Estimates:
    """Estimate the control variates themselves, whose expectations are known."""
    return _mean_of(moments, CONTROL)


def _mean_of(moments: Moments, column: int) -> Estimates:
    pairs, means, products = moments
    return Estimates(means[:, column], np.sqrt(products[:, column, column] / (pairs - 1) / pairs))


def coefficients(moments: Moments) -> Floats:
    """Return the share of each control variate's error to take off: the slope of the regression on it [2]_.

    It is estimated from the very samples that it corrects; the bias of this is of order 1/n, far below the standard error.
    """
    covariances, variances = moments.products[:, PAIRED, CONTROL], moments.products[:, CONTROL, CONTROL]
    return np.divide(covariances, variances, out=np.zeros_like(variances), where=variances > 0)


def controlled(moments: Moments, expected: Floats) -> Estimates:
    """Estimate from pairs of antithetic paths, corrected by control variates of the `expected` values."""
    pairs, means, products = moments
    slopes = coefficients(moments)
    residuals = np.maximum(0, products[:, PAIRED, PAIRED] - slopes * products[:, PAIRED, CONTROL])
    return Estimates(means[:, PAIRED] - slopes * (means[:, CONTROL] - expected), np.sqrt(residuals / (pairs - 2) / pairs))


def controlled_less_plain(moments: Moments, expected: Floats) -> Estimates:
    """Return the differences of the controlled estimates and the plain ones.

    Both are of the same paths, which the standard errors take into account.
    """
    pairs, _, products = moments
    slopes = coefficients(moments)
    weights = np.stack([-np.ones_like(slopes), np.ones_like(slopes), -slopes], axis=1)
    variances = np.maximum(0, np.einsum("qi,qij,qj->q", weights, products, weights))
    apart = controlled(moments, expected).values - plain(moments).values
    return Estimates(apart, np.sqrt(variances / (pairs - 1) / pairs))


def variance_reduction(moments: Moments, reduced: Estimates) -> Floats:
    """Return the factor by which the variance is below that of plain paths.

    There are as many plain paths as in the pairs.
    """
    with np.errstate(divide="ignore"):
        return plain(moments).errors ** 2 / 2 / reduced.errors**2
