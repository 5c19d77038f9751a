"""The price of a call that is monitored at dates, by quadrature from date to date.

The logarithm of the asset's price makes independent normal steps. So its density at a date, on paths that have stayed above
the barrier, is an integral over the one at the date before: the recursion of [1]_, here by Gauss and Legendre's rule on
short panels. Over the last step the expectation is a closed form; so no integrand has a kink.

References
----------
.. [1] F. AitSahlia, T. L. Lai, "Valuation of discrete barrier and hindsight options", Journal of Financial Engineering 6(2),
   1997.
"""

from __future__ import annotations

import math

import numpy as np
from closed_forms import NORMAL, Option, moneyness
from moments import Floats

#: Standard deviations on either side of the mean beyond which a normal density is left out.
REACH = 8.0
#: The rule of a panel, which is as long as two standard deviations of a step: relative errors are some 1e-12.
RULE = np.polynomial.legendre.leggauss(8)
PANEL = 2.0


def discrete_down_and_out_call(option: Option, barrier: float, dates: int) -> float:
    """Return the price of a call that dies with a price at the barrier or below at one of some dates.

    The dates, `dates` of them, are equally spaced, the last the maturity.
    """
    spot, strike, rate, volatility, maturity = option
    spread = volatility * math.sqrt(maturity / dates)
    drift = (rate - volatility**2 / 2) * maturity / dates
    returns, masses = np.zeros(1), np.ones(1)
    for date in range(1, dates):
        before = returns
        returns, weights = _panels(option, math.log(barrier / spot), date * drift, math.sqrt(date) * spread, spread)
        steps = (returns[:, None] - before - drift) / spread
        masses = weights * (np.exp(-(steps**2) / 2) @ masses) / (spread * math.sqrt(2 * math.pi))

    def later(price: float) -> float:
        forward = price * math.exp(drift + spread**2 / 2)
        d1, d2 = moneyness(forward, max(strike, barrier), spread)
        return forward * NORMAL.cdf(d1) - strike * NORMAL.cdf(d2)

    expected = masses @ [later(price) for price in spot * np.exp(returns)]
    return float(expected) * math.exp(-rate * maturity)


def _panels(option: Option, lowest: float, mean: float, deviation: float, spread: float) -> tuple[Floats, Floats]:
    """Return the nodes and weights of the returns up to a date, from those of the barrier on.

    The call weighs high prices by themselves; that shifts the mean by at most `deviation` times that of the maturity.
    """
    low = max(lowest, mean - REACH * deviation)
    high = mean + (REACH + option.volatility * math.sqrt(option.maturity)) * deviation
    edges = np.linspace(low, high, 1 + max(1, math.ceil((high - low) / (PANEL * spread))))
    half = (edges[1] - edges[0]) / 2
    nodes, weights = RULE
    return (edges[:-1, None] + half * (1 + nodes)).ravel(), np.tile(half * weights, len(edges) - 1)
