"""Value at risk and expected shortfall of a sample of losses, with their confidence intervals.

References
----------
.. [1] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004: section 9.1.
.. [2] B. J. Manistre, G. H. Hancock, "Variance of the CTE estimator", North American Actuarial Journal 9(2), 2005.
"""

from __future__ import annotations

import math

import numpy as np
from moments import BAND, Estimates, Floats

#: The loss that is not exceeded with some confidence, and the mean of the losses beyond it.
MEASURES = ["value at risk", "expected shortfall"]


def tail_risk(losses: Floats, confidence: float) -> tuple[Estimates, list[tuple[float, float]]]:
    """Return both measures of a sample of losses, and their 95 % confidence intervals.

    The number of losses below the true value at risk is binomial. So its interval reaches from one of the ordered losses to
    another: those 1.96 standard deviations of that number away from the expected one, whatever the losses' distribution
    [1]_. Its standard error is taken from the interval. The variance of the expected shortfall is the asymptotic one [2]_:
    of the losses beyond the value at risk, and of the value at risk itself.
    """
    ordered = np.sort(losses)
    count = len(ordered)
    position = math.ceil(count * confidence)
    value_at_risk, tail = ordered[position - 1], ordered[position:]
    margin = BAND * math.sqrt(count * confidence * (1 - confidence))
    low = ordered[max(math.floor(count * confidence - margin) - 1, 0)]
    high = ordered[min(math.ceil(count * confidence + margin), count - 1)]

    beyond = count * (1 - confidence)
    shortfall = (tail.sum() + (beyond - len(tail)) * value_at_risk) / beyond
    error = math.sqrt((tail.var() + confidence * (shortfall - value_at_risk) ** 2) / beyond)

    estimates = Estimates(np.array([value_at_risk, shortfall]), np.array([(high - low) / (2 * BAND), error]))
    return estimates, [(low, high), (shortfall - BAND * error, shortfall + BAND * error)]
