"""A portfolio to measure the risk of: shares, options on a few of the assets, and their returns' covariance.

All of it is made up, the same at every run. Amounts of money are in euros. Returns over a day are taken as normal, which
makes the loss of the shares normal, and its risk known.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from closed_forms import Option, Values, black_scholes_call, black_scholes_put
from moments import Floats
from numpy.typing import NDArray

TRADING_DAYS = 252  # of a year
RATE = 0.03
SPOT = 100.0
FACTORS = 4
#: One asset in so many has an option.
OPTION_EVERY = 5
SHORTEST_MATURITY = 0.5
#: The share of its price that a worthless asset gets, for a formula that takes the price's logarithm.
NEXT_TO_NOTHING = 1e-9


class NotPositiveDefinite(ValueError):
    """A matrix that is no covariance matrix, or one of returns that wholly depend on each other."""


class Options(NamedTuple):
    """European options: arrays of the same length.

    Attributes
    ----------
    assets : int64 array
        The number of the asset that each is on.
    signs, quantities : float64 array
        1.0 for a call, -1.0 for a put; how many, negative for those sold.
    spots, strikes : float64 array
        Today's price of the asset, and the price agreed on.
    volatilities, maturities : float64 array
        Per year; in years from today.
    """

    assets: NDArray[np.int64]
    signs: Floats
    quantities: Floats
    spots: Floats
    strikes: Floats
    volatilities: Floats
    maturities: Floats


class Book(NamedTuple):
    """The positions held.

    Attributes
    ----------
    holdings : float64 array, shape (assets,)
        Today's value of the shares of each asset; negative for those sold short.
    options : Options
    rate : float
        Interest per year.
    """

    holdings: Floats
    options: Options
    rate: float


def made_up_covariance(assets: int) -> Floats:
    """Make a covariance matrix of the assets' returns over a day: shared factors, and a part of each asset's own.

    Volatilities are 12 % to 45 % a year; the factors account for a fifth to three fifths of a return's variance.
    """
    rng = np.random.default_rng(seed=1959)
    loadings = rng.normal(size=(assets, FACTORS)) * [0.2, 0.3, 0.3, 0.3] + [1, 0, 0, 0]
    shared = rng.uniform(0.2, 0.6, size=assets)
    loadings *= np.sqrt(shared / (loadings**2).sum(axis=1))[:, None]
    correlation = loadings @ loadings.T + np.diag(1 - shared)
    volatility = rng.uniform(0.12, 0.45, size=assets) / math.sqrt(TRADING_DAYS)
    return correlation * np.outer(volatility, volatility)


def read_covariance(path: str) -> Floats:
    """Read the covariance matrix in a file: .npy, or text with a row in each line.

    Raises
    ------
    ValueError
        The file cannot be read, or has no square symmetric matrix of finite numbers.
    """
    try:
        matrix = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path, delimiter=",", ndmin=2)
        matrix = matrix.astype(np.float64)
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a matrix in {path!r}, got {error}") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"expected a square matrix in {path!r}, got one of shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"expected finite numbers in {path!r}, got {matrix[~np.isfinite(matrix)][0]}")
    if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=0):
        row, column = np.argwhere(~np.isclose(matrix, matrix.T, rtol=1e-9, atol=0))[0]
        raise ValueError(
            f"expected a symmetric matrix in {path!r}, got {matrix[row, column]:g} in row {row + 1}, column {column + 1}, "
            f"and {matrix[column, row]:g} in row {column + 1}, column {row + 1}"
        )
    if matrix.diagonal().min() <= 0:
        raise ValueError(f"expected variances above 0 on the diagonal in {path!r}, got {matrix.diagonal().min():g}")
    return matrix


def lower_factor(covariance: Floats, days: int) -> Floats:
    """Return the Cholesky factor of the covariance matrix over so many days, made of that of a day.

    Raises
    ------
    NotPositiveDefinite
        The matrix has none.
    """
    try:
        return np.linalg.cholesky(covariance) * math.sqrt(days)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(covariance)[0]
        raise NotPositiveDefinite(
            f"expected a positive definite matrix, got one whose smallest eigenvalue is {smallest:.3g}"
        ) from None


def made_up_book(covariance: Floats) -> Book:
    """Make a book of shares and options.

    Shares are for up to 2.5 million euros an asset, some sold short. Options are on every fifth asset: calls sold, puts
    bought.
    """
    assets = len(covariance)
    rng = np.random.default_rng(seed=1973)
    chosen = np.arange(0, assets, OPTION_EVERY)
    calls = np.arange(len(chosen)) % 2 == 0
    return Book(
        holdings=rng.uniform(-0.5e6, 2.5e6, size=assets),
        options=Options(
            assets=chosen,
            signs=np.where(calls, 1.0, -1.0),
            quantities=np.where(calls, -1.0, 1.0) * rng.uniform(20_000, 60_000, size=len(chosen)),
            spots=np.full(len(chosen), SPOT),
            strikes=SPOT * np.where(calls, 1.05, 0.95),
            volatilities=np.sqrt(np.diag(covariance)[chosen] * TRADING_DAYS),
            maturities=rng.uniform(SHORTEST_MATURITY, 1.5, size=len(chosen)),
        ),
        rate=RATE,
    )


def valued(options: Options, i: int, spot: float, rate: float, elapsed: float) -> Values:
    """Return the values of one option by its closed form.

    The asset is at another price, after `elapsed` of a year.
    """
    option = Option(spot, options.strikes[i], rate, options.volatilities[i], options.maturities[i] - elapsed)
    return black_scholes_call(option) if options.signs[i] > 0 else black_scholes_put(option)


def delta_holdings(book: Book) -> Floats:
    """Return the shares that lose as the whole portfolio does, for small changes."""
    holdings = book.holdings.copy()
    for i, asset in enumerate(book.options.assets):
        spot = book.options.spots[i]
        holdings[asset] += book.options.quantities[i] * spot * valued(book.options, i, spot, book.rate, 0.0).delta
    return holdings


def quadrature_loss(book: Book, covariance: Floats, days: int) -> Floats:
    """Return the expected loss of shares and options over so many days, by Gauss-Hermite quadrature for each option.

    Parameters
    ----------
    book : Book
    covariance : float64 array, shape (assets, assets)
        Of returns over a day.
    days : int

    Returns
    -------
    float64 array, shape (1,)
    """
    spreads, elapsed = np.sqrt(np.diag(covariance) * days), days / TRADING_DAYS
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights /= weights.sum()
    lost = np.zeros(1)  # the expected loss of the shares
    for i, asset in enumerate(book.options.assets):
        spot = book.options.spots[i]
        prices = spot * np.maximum(1 + spreads[asset] * nodes, NEXT_TO_NOTHING)
        later = [valued(book.options, i, price, book.rate, elapsed).price for price in prices]
        lost += book.options.quantities[i] * (valued(book.options, i, spot, book.rate, 0.0).price - weights @ later)
    return lost
