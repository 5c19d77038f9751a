"""Quantiles of the normal distribution and of Student's t, for confidence intervals, without SciPy.

The normal quantile is Wichura's algorithm AS 241 [1]_, as the standard library has it. The probability that a Student's t of
a whole number of degrees of freedom lies between -t and t is a finite sum of positive terms ([2]_, 26.7.3 and 26.7.4);
Newton's method inverts it. It is concave in t: from the normal quantile, which is too small, the steps grow towards the true
value and never pass it. For many degrees of freedom an expansion in their reciprocal takes the sum's place ([2]_, 26.7.5).

References
----------
.. [1] M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37(3), 1988.
.. [2] M. Abramowitz, I. A. Stegun, "Handbook of Mathematical Functions", National Bureau of Standards, 1964.
"""

from __future__ import annotations

import functools
import math

#: Degrees of freedom from which on the expansion is as accurate as the sum.
MANY = 2000


@functools.lru_cache(256)
def normal_quantile(confidence: float) -> float:
    """Return z: a standard normal number lies between -z and z with the probability `confidence`."""
    from statistics import NormalDist  # it imports much

    return -NormalDist().inv_cdf((1 - confidence) / 2)


@functools.lru_cache(256)
def student_quantile(confidence: float, freedom: int) -> float:
    """Return t: a Student's t of `freedom` degrees of freedom lies between -t and t with the probability `confidence`.

    The relative error is below 1e-9 for a confidence from 0.01 to 0.99999.
    """
    if freedom == 1:
        return 1 / math.tan(math.pi * (1 - confidence) / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / ((1 - confidence) * (1 + confidence)))
    z = normal_quantile(confidence)
    if freedom >= MANY:
        return _expanded(z, freedom)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    t = z
    for _ in range(200):
        density = math.exp(log_scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (confidence - _between(t, freedom)) / (2 * density)
        t += step
        if abs(step) <= 1e-13 * t:
            break
    return t


def _between(t: float, freedom: int) -> float:
    """Return the probability that a Student's t lies between -t and t."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    terms = []
    for k in range(1 + odd, freedom, 2):
        terms.append(term)
        term *= square * k / (k + 1)
    total = sine * math.fsum(terms)
    return 2 / math.pi * (angle + total) if odd else total


def _expanded(z: float, freedom: int) -> float:
    x = z * z
    g1 = (x + 1) / 4
    g2 = ((5 * x + 16) * x + 3) / 96
    g3 = (((3 * x + 19) * x + 17) * x - 15) / 384
    g4 = ((((79 * x + 776) * x + 1482) * x - 1920) * x - 945) / 92160
    return z * (1 + (g1 + (g2 + (g3 + g4 / freedom) / freedom) / freedom) / freedom)
