"""Closed forms: the values that the examples compare their estimates with.

Interest and volatility are per year, times are in years, interest is compounded continuously.

References
----------
.. [1] F. Black, M. Scholes, "The pricing of options and corporate liabilities", Journal of Political Economy 81(3), 1973.
.. [2] A. G. Z. Kemna, A. C. F. Vorst, "A pricing method for options based on average asset values", Journal of Banking and
   Finance 14(1), 1990.
.. [3] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004.
.. [4] A. J. McNeil, R. Frey, P. Embrechts, "Quantitative Risk Management", Princeton University Press, 2005.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

NORMAL = NormalDist()


class Option(NamedTuple):
    """An option on one asset: its terms, and the asset's own parameters.

    Attributes
    ----------
    spot, strike : float
        Today's price of the asset, and the price agreed on.
    rate, volatility : float
        Per year: 0.05 is 5 %.
    maturity : float
        Years until it can be exercised.
    """

    spot: float
    strike: float
    rate: float
    volatility: float
    maturity: float


class Values(NamedTuple):
    """An option's price, and the derivatives of the price.

    Attributes
    ----------
    price : float
    delta : float
        By the spot price.
    vega : float
        By the volatility: for one of 1.2 in place of 0.2, so to speak, not for one percentage point.
    gamma : float
        The second one by the spot price.
    """

    price: float
    delta: float
    vega: float
    gamma: float


def moneyness(forward: float, strike: float, spread: float) -> tuple[float, float]:
    """Return Black and Scholes' d1 and d2.

    Parameters
    ----------
    forward, spread : float
        The expectation of a lognormal price, and the standard deviation of its logarithm.
    strike : float
        The price ends above it with probability N(d2).
    """
    middle = math.log(forward / strike) / spread
    return middle + spread / 2, middle - spread / 2


def terminal_price(option: Option) -> tuple[float, float]:
    """Return the expectation of the price at maturity, and the standard deviation of its logarithm."""
    spot, _, rate, volatility, maturity = option
    return spot * math.exp(rate * maturity), volatility * math.sqrt(maturity)


def geometric_average(option: Option, dates: int) -> tuple[float, float]:
    """Return `terminal_price` of the geometric average of the prices at equally spaced dates, the last the maturity.

    There are `dates` of them.
    """
    spot, _, rate, volatility, maturity = option
    mean_time = maturity * (dates + 1) / (2 * dates)
    spread = volatility * math.sqrt(maturity * (dates + 1) * (2 * dates + 1) / (6 * dates**2))
    return spot * math.exp((rate - volatility**2 / 2) * mean_time + spread**2 / 2), spread


def black_scholes_call(option: Option) -> Values:
    """Return the price and derivatives of the European call [1]_."""
    spot, strike, rate, volatility, maturity = option
    d1, d2 = moneyness(spot * math.exp(rate * maturity), strike, volatility * math.sqrt(maturity))
    return Values(
        price=spot * NORMAL.cdf(d1) - strike * math.exp(-rate * maturity) * NORMAL.cdf(d2),
        delta=NORMAL.cdf(d1),
        vega=spot * NORMAL.pdf(d1) * math.sqrt(maturity),
        gamma=NORMAL.pdf(d1) / (spot * volatility * math.sqrt(maturity)),
    )


def black_scholes_put(option: Option) -> Values:
    """Return the price and derivatives of the European put [1]_.

    It has a formula of its own, so that put-call parity can be tested.
    """
    spot, strike, rate, volatility, maturity = option
    d1, d2 = moneyness(spot * math.exp(rate * maturity), strike, volatility * math.sqrt(maturity))
    return Values(
        price=strike * math.exp(-rate * maturity) * NORMAL.cdf(-d2) - spot * NORMAL.cdf(-d1),
        delta=-NORMAL.cdf(-d1),
        vega=spot * NORMAL.pdf(d1) * math.sqrt(maturity),
        gamma=NORMAL.pdf(d1) / (spot * volatility * math.sqrt(maturity)),
    )


def geometric_asian_call(option: Option, dates: int) -> Values:
    """Return the price and derivatives of the call on the `geometric_average`.

    That average is lognormal, so that the Black-Scholes formula holds with its parameters: [2]_ for the continuous average,
    [3]_ section 3.2.2 for the discrete one.
    """
    spot, strike, rate, volatility, maturity = option
    forward, spread = geometric_average(option, dates)
    d1, d2 = moneyness(forward, strike, spread)
    discount = math.exp(-rate * maturity)
    mean_time = maturity * (dates + 1) / (2 * dates)
    # The volatility moves the forward, whose logarithm has -v**2 / 2 * mean_time + spread**2 / 2, and the spread.
    by_forward = NORMAL.cdf(d1) * (spread**2 / volatility - volatility * mean_time)
    by_spread = NORMAL.pdf(d1) * spread / volatility
    return Values(
        price=discount * (forward * NORMAL.cdf(d1) - strike * NORMAL.cdf(d2)),
        delta=discount * forward / spot * NORMAL.cdf(d1),
        vega=discount * forward * (by_forward + by_spread),
        gamma=discount * forward / spot * NORMAL.pdf(d1) / (spot * spread),
    )


def normal_value_at_risk(spread: float, confidence: float) -> tuple[float, float]:
    """Return value at risk and expected shortfall of a normal loss [4]_.

    Its mean is 0, its standard deviation `spread`.
    """
    quantile = NORMAL.inv_cdf(confidence)
    return spread * quantile, spread * NORMAL.pdf(quantile) / (1 - confidence)
