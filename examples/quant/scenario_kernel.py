"""The losses of a portfolio in random scenarios, in nopython code.

A scenario's returns are L z, with independent normals z and the Cholesky factor L of their covariance matrix: P. Glasserman,
"Monte Carlo Methods in Financial Engineering", Springer, 2004, sections 2.3.3 and 9.1. Shares lose with their assets;
options are priced anew, by Black and Scholes' formula.
"""

from __future__ import annotations

import math

import numpy as np
from flame_fast.kernels import rng
from numba import njit

#: Scenarios drawn together: with a few hundred assets, their returns stay in a core's cache.
CHUNK = 128


@njit(cache=True)
def option_value(sign, spot, strike, rate, volatility, maturity):
    """Return the value of a call (sign 1) or a put (sign -1); its asset may be worth nothing."""
    discounted = strike * math.exp(-rate * maturity)
    if spot <= 0.0:
        return max(-sign * discounted, 0.0)
    spread = volatility * math.sqrt(maturity)
    d1 = math.log(spot / discounted) / spread + spread / 2
    in_asset = math.erfc(-sign * d1 / math.sqrt(2.0)) / 2
    in_cash = math.erfc(-sign * (d1 - spread) / math.sqrt(2.0)) / 2
    return sign * (spot * in_asset - discounted * in_cash)


@njit(cache=True)
def _correlate(factor, normals):
    """Put the returns L z in the place of the normals z.

    The order from the last asset to the first is safe: an asset's return needs the normals of no later asset.
    """
    for asset in range(len(factor) - 1, -1, -1):
        row = normals[asset]
        row *= factor[asset, asset]
        for other in range(asset):
            weight = factor[asset, other]
            for scenario in range(row.size):
                row[scenario] += weight * normals[other, scenario]


@njit(cache=True)
def _option_values(options, changes, rate, elapsed):
    """Return the value of all options together; `changes` are the assets' returns after this part of a year."""
    total = 0.0
    for i in range(options.assets.size):
        spot = options.spots[i] * (1.0 + changes[options.assets[i]])
        left = options.maturities[i] - elapsed
        value = option_value(options.signs[i], spot, options.strikes[i], rate, options.volatilities[i], left)
        total += options.quantities[i] * value
    return total


@njit(cache=True)
def losses_of(key, number, scenarios, factor, book, deltas, elapsed):
    """Return the losses of a portfolio in the scenarios of a stream's number.

    Parameters
    ----------
    key, number
        Those of the stream.
    scenarios : int
    factor : float64 array, shape (assets, assets)
        Lower triangle: the Cholesky factor of the covariance matrix of the returns.
    book : portfolio.Book
    deltas : float64 array, shape (assets,)
        The shares that lose as the whole portfolio does, for small changes.
    elapsed : float
        Years by which the options approach their maturity.

    Returns
    -------
    float64 array, shape (3, scenarios)
        The losses of the shares, of `deltas`, and of shares and options.
    """
    stream = rng.stream(key, number)
    returns = np.empty((len(factor), CHUNK))
    today = _option_values(book.options, np.zeros(len(factor)), book.rate, 0.0)
    losses = np.zeros((3, scenarios))
    for start in range(0, scenarios, CHUNK):
        rng.fill_normals(stream, returns.reshape(returns.size))
        _correlate(factor, returns)
        for scenario in range(start, min(start + CHUNK, scenarios)):
            changes = returns[:, scenario - start]
            for asset in range(len(factor)):
                losses[0, scenario] -= book.holdings[asset] * changes[asset]
                losses[1, scenario] -= deltas[asset] * changes[asset]
            lost = today - _option_values(book.options, changes, book.rate, elapsed)
            losses[2, scenario] = losses[0, scenario] + lost
    return losses
