"""The paths of a European option, and the samples of its price and Greeks that each gives, in nopython code.

The asset's price at maturity is S exp((r - v**2 / 2) T + v sqrt(T) Z) with a standard normal Z. Greeks [1]_: delta and vega
are the derivatives of the payoff along the path (section 7.2). The payoff's kink has no second derivative: gamma is the
derivative along the path of the likelihood-ratio delta (section 7.3.3), which needs one derivative only. The control variate
is the asset itself: its discounted price at maturity has today's price as its expectation (section 4.1).

References
----------
.. [1] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004.
"""

from __future__ import annotations

import math

import numpy as np
from flame_fast.kernels import rng
from numba import njit

QUANTITIES = 8


@njit(cache=True)
def _on_path(normal, option):
    """Return the control variate, then price, delta, vega and gamma of the call, then those of the put."""
    spot, strike, rate, volatility, maturity = option
    root = math.sqrt(maturity)
    log_return = (rate - volatility * volatility / 2) * maturity + volatility * root * normal
    discount = math.exp(-rate * maturity)
    terminal = spot * math.exp(log_return)
    present = discount * terminal
    by_spot = present / spot
    by_volatility = present * (root * normal - volatility * maturity)
    by_spot_twice = discount * strike * normal / (spot * spot * volatility * root)
    payoff = present - discount * strike
    if terminal > strike:
        return present, payoff, by_spot, by_volatility, by_spot_twice, 0.0, 0.0, 0.0, 0.0
    return present, 0.0, 0.0, 0.0, 0.0, -payoff, -by_spot, -by_volatility, -by_spot_twice


@njit(cache=True)
def block_of_pairs(key, block, pairs, option):
    """Return the samples of the first `pairs` pairs of a block: an array of shape (quantities, pairs, 3), as in `moments`.

    Quantities: price, delta, vega and gamma of the call, then those of the put.
    """
    normals = np.empty(pairs)
    rng.fill_normals(rng.stream(key, block), normals)
    samples = np.empty((QUANTITIES, pairs, 3))
    for pair in range(pairs):
        one = _on_path(normals[pair], option)
        other = _on_path(-normals[pair], option)
        for quantity in range(QUANTITIES):
            samples[quantity, pair, 0] = one[quantity + 1]
            samples[quantity, pair, 1] = (one[quantity + 1] + other[quantity + 1]) / 2
            samples[quantity, pair, 2] = (one[0] + other[0]) / 2
    return samples
