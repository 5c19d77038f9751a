"""How fast the errors of a simulation fall: as which power of the number of its samples.

References
----------
.. [1] R. G. Miller, "The jackknife: a review", Biometrika 61(1), 1974.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from moments import Floats


class Convergence(NamedTuple):
    """Estimates from more and more samples, each made several times.

    Attributes
    ----------
    label : str
    counts : float64 array, shape (n,)
        Samples.
    estimates : float64 array, shape (n, r)
        Of each number of samples; those in different columns are independent of each other.
    """

    label: str
    counts: Floats
    estimates: Floats

    @property
    def errors(self) -> Floats:
        """The standard deviation of one estimate, for each number of samples."""
        return self.estimates.std(axis=1, ddof=1)

    def fit(self) -> tuple[float, float]:
        """Return the slope and the offset of the line through the errors' logarithms over the counts', by least squares."""
        slope, offset = np.polyfit(np.log(self.counts), np.log(self.errors), 1)
        return float(slope), float(offset)

    def rate(self) -> tuple[float, float]:
        """Return the power as which the errors fall, and its standard error.

        Errors at different counts depend on each other, if longer runs contain the shorter ones. So the standard error is
        that of the jackknife [1]_: from how the slope changes without each of the columns.
        """
        deviations = self.estimates - self.estimates.mean(axis=1, keepdims=True)
        columns = self.estimates.shape[1]
        without = (deviations**2).sum(axis=1, keepdims=True) - deviations**2 * columns / (columns - 1)
        slopes = np.polyfit(np.log(self.counts), np.log(without) / 2, 1)[0]
        return self.fit()[0], slopes.std() * math.sqrt(columns - 1)
