"""Closed forms: the values that the examples compare their estimates with.

Interest and volatility are per year, times are in years, interest is compounded continuously.

References
----------
.. [1] F. Black, M. Scholes, "The pricing of options and corporate liabilities", Journal of Political Economy 81(3), 1973.
.. [2] A. G. Z. Kemna, A. C. F. Vorst, "A pricing method for options based on average asset values", Journal of Banking and
   Finance 14(1), 1990.
.. [3] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004.
.. [4] A. J. McNeil, R. Frey, P. Embrechts, "Quantitative Risk Management", Princeton University Press, 2005.
.. [5] R. C. Merton, "Theory of rational option pricing", Bell Journal of Economics and Management Science 4(1), 1973.
.. [6] E. Reiner, M. Rubinstein, "Breaking down the barriers", Risk 4(8), 1991.
.. [7] M. Broadie, P. Glasserman, S. Kou, "A continuity correction for discrete barrier options", Mathematical Finance 7(4),
   1997.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

NORMAL = NormalDist()

#: By how many standard deviations of a step a path overshoots a barrier at the first date beyond it, on average: minus the
#: zeta function at 1/2, divided by the square root of 2 pi [7]_.
OVERSHOOT = 0.5825971579390107


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


def down_and_out_call(option: Option, barrier: float) -> float:
    """Return the price of a call that dies when the asset's price is first at the barrier or below.

    The barrier is below the spot price. [5]_ has the formula for barriers below the strike, [6]_ for those above.
    """
    _, strike, rate, _, maturity = option
    discounted = strike * math.exp(-rate * maturity)

    def kept(spot: float) -> float:
        d1, d2 = _beyond(option, barrier, spot)
        return spot * NORMAL.cdf(d1) - discounted * NORMAL.cdf(d2)

    return _unless_hit(option, barrier, kept)


def chance_of_payoff(option: Option, barrier: float) -> float:
    """Return the probability that `down_and_out_call` pays something."""
    return _unless_hit(option, barrier, lambda spot: NORMAL.cdf(_beyond(option, barrier, spot)[1]))


def reflection(option: Option, barrier: float) -> float:
    """Return the logarithm of the weight of paths that begin as far beyond the barrier as the spot is above it."""
    return (1 - 2 * option.rate / option.volatility**2) * math.log(option.spot / barrier)


def _beyond(option: Option, barrier: float, spot: float) -> tuple[float, float]:
    """Return `moneyness` of a price that ends above both strike and barrier."""
    forward, spread = terminal_price(option._replace(spot=spot))
    return moneyness(forward, max(option.strike, barrier), spread)


def _unless_hit(option: Option, barrier: float, value: Callable[[float], float]) -> float:
    """Take from what ends above strike and barrier what has been at the barrier, by the principle of reflection."""
    hit = math.exp(reflection(option, barrier)) * value(barrier**2 / option.spot)
    return value(option.spot) - hit


def continuity_corrected(option: Option, barrier: float, dates: int) -> float:
    """Return the barrier for which `down_and_out_call` nearly is the price of the call that is monitored at some dates.

    A path is beyond the barrier, not at it, when the first date finds it there. So the barrier moves away from the spot by
    the mean overshoot; what is left is of smaller order than the square root of a step [7]_. There are `dates` dates,
    equally spaced, the last the maturity.
    """
    return barrier * math.exp(-OVERSHOOT * option.volatility * math.sqrt(option.maturity / dates))


def normal_value_at_risk(spread: float, confidence: float) -> tuple[float, float]:
    """Return value at risk and expected shortfall of a normal loss [4]_.

    Its mean is 0, its standard deviation `spread`.
    """
    quantile = NORMAL.inv_cdf(confidence)
    return spread * quantile, spread * NORMAL.pdf(quantile) / (1 - confidence)
