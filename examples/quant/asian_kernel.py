"""The paths of an Asian option, and the samples of its price and Greeks that each gives, in nopython code.

The call on the arithmetic average of the prices at some dates has no closed form. The call on their geometric average has
one, and follows it closely: its price is the control variate of the price [1]_, its delta that of the delta, its vega that
of the vega. Both calls' Greeks are derivatives of their payoffs along the path ([2]_, section 7.2).

References
----------
.. [1] A. G. Z. Kemna, A. C. F. Vorst, "A pricing method for options based on average asset values", Journal of Banking and
   Finance 14(1), 1990.
.. [2] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004.
"""

from __future__ import annotations

import math

import numpy as np
from flame_fast.kernels import rng
from numba import njit

QUANTITIES = 3


@njit(cache=True)
def _call_on(average, by_volatility, option):
    """Return price, delta and vega of the call on an average that is proportional to the spot price."""
    discount = math.exp(-option.rate * option.maturity)
    if average > option.strike:
        return discount * (average - option.strike), discount * average / option.spot, discount * by_volatility
    return 0.0, 0.0, 0.0


@njit(cache=True)
def _on_path(sign, increments, option, dates):
    """Return the calls on the arithmetic and on the geometric average, of the path or of its mirror image."""
    step = option.maturity / dates
    drift = option.rate - option.volatility * option.volatility / 2
    brownian = total = total_by_volatility = total_brownian = 0.0
    for date in range(dates):
        time = (date + 1) * step
        brownian += sign * math.sqrt(step) * increments[date]
        price = option.spot * math.exp(drift * time + option.volatility * brownian)
        total += price
        total_by_volatility += price * (brownian - option.volatility * time)
        total_brownian += brownian
    mean_time = option.maturity * (dates + 1) / (2 * dates)
    mean_brownian = total_brownian / dates
    geometric = option.spot * math.exp(drift * mean_time + option.volatility * mean_brownian)
    return (
        _call_on(total / dates, total_by_volatility / dates, option),
        _call_on(geometric, geometric * (mean_brownian - option.volatility * mean_time), option),
    )


@njit(cache=True)
def block_of_pairs(key, block, pairs, option, dates):
    """Return the samples of the first `pairs` pairs of a block: an array of shape (quantities, pairs, 3), as in `moments`.

    Quantities: price, delta, vega.
    """
    stream = rng.stream(key, block)
    increments = np.empty(dates)
    samples = np.empty((QUANTITIES, pairs, 3))
    for pair in range(pairs):
        rng.fill_normals(stream, increments)
        arithmetic, geometric = _on_path(1.0, increments, option, dates)
        mirrored_arithmetic, mirrored_geometric = _on_path(-1.0, increments, option, dates)
        for quantity in range(QUANTITIES):
            samples[quantity, pair, 0] = arithmetic[quantity]
            samples[quantity, pair, 1] = (arithmetic[quantity] + mirrored_arithmetic[quantity]) / 2
            samples[quantity, pair, 2] = (geometric[quantity] + mirrored_geometric[quantity]) / 2
    return samples
