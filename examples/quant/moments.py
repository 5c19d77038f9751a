"""The estimates that antithetic pairs of paths and control variates give, of the moments of their samples.

An estimated value, a quantity, has three columns of samples, one row for each pair of antithetic paths:

    PLAIN    its value on the first path of the pair
    PAIRED   the mean of its values on both paths
    CONTROL  the control variate, whose expectation is known, on both paths likewise

So the moments are a stack: their means have the shape (quantities, 3). Blocks of pairs are merged in the order of their
numbers, in whatever order they finished: the result is the same to the last bit.

References
----------
.. [1] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004: sections 4.1 (control variates) and 4.2
   (antithetic variates).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from flame_fast.kernels import moments as library
from flame_fast.kernels.moments import Moments
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PLAIN, PAIRED, CONTROL = range(3)

#: Standard errors on either side of an estimate: its 95 % confidence interval.
BAND = 1.96


class Estimates(NamedTuple):
    """Estimates of some quantities, each with its standard error: two float64 arrays of the same length."""

    values: Floats
    errors: Floats


def thinned(running: Iterable[Moments], growth: float = 1.05) -> Iterator[Moments]:
    """Yield those of `running` moments that have `growth` times the samples of the one before, and the last."""
    kept, last = 0.0, None
    for last in running:
        if last.count >= kept * growth:
            kept = last.count
            yield last
    if last is not None and last.count != kept:
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
    return Estimates(moments.mean[:, column], moments.standard_error[:, column])


def coefficients(moments: Moments) -> Floats:
    """Return the share of each control variate's error to take off: the slope of the regression on it [1]_."""
    covariances, variances = moments.products[:, PAIRED, CONTROL], moments.products[:, CONTROL, CONTROL]
    return np.divide(covariances, variances, out=np.zeros_like(variances), where=variances > 0)


def controlled(moments: Moments, expected: Floats) -> Estimates:
    """Estimate from pairs of antithetic paths, corrected by control variates of the `expected` values."""
    estimate = library.controlled(moments.taken([PAIRED, CONTROL]), expected[:, None])
    return Estimates(estimate.value, estimate.error)


def controlled_less_plain(moments: Moments, expected: Floats) -> Estimates:
    """Return the differences of the controlled estimates and the plain ones.

    Both are of the same paths, which the standard errors take into account.
    """
    slopes = coefficients(moments)
    weights = np.stack([-np.ones_like(slopes), np.ones_like(slopes), -slopes], axis=1)
    variances = np.maximum(0, np.einsum("qi,qij,qj->q", weights, moments.covariance(), weights))
    apart = controlled(moments, expected).values - plain(moments).values
    return Estimates(apart, np.sqrt(variances / moments.count))


def variance_reduction(moments: Moments, reduced: Estimates) -> Floats:
    """Return the factor by which the variance is below that of plain paths.

    There are as many plain paths as in the pairs.
    """
    with np.errstate(divide="ignore"):
        return plain(moments).errors ** 2 / 2 / reduced.errors**2
