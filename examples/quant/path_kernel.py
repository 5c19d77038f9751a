"""The paths of a down-and-out call, and the two samples that each gives, in nopython code.

Both ways of simulation share all but the source of their normal numbers: a Brownian bridge makes paths of scrambled Sobol
points and of random numbers alike. A call that is monitored at dates dies with a price at or below the barrier at one of
them. A call that is monitored all the time may die between two dates, too: given both prices, with a probability that is
known (the Brownian bridge's minimum is [1]_). Its payoff times the probability to survive all gaps is an unbiased sample.

References
----------
.. [1] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004: section 6.4.
"""

from __future__ import annotations

import math

import numpy as np
from flame_fast.kernels import quasi, rng
from numba import njit

#: Exponents beyond which a path survives a gap with probability 1, as far as a double can tell.
CERTAIN = 37.0


@njit(cache=True)
def _on_path(brownian, option, barrier):
    """Return the discounted payoffs: of the call that is monitored at the dates, and of the one monitored all the time."""
    dates = len(brownian)
    step = option.maturity / dates
    drift = (option.rate - option.volatility * option.volatility / 2) * step
    sharpness = 2 / (option.volatility * option.volatility * step)
    log_barrier = math.log(barrier / option.spot)
    before = -log_barrier
    survival = 1.0
    for date in range(dates):
        above = drift * (date + 1) + option.volatility * brownian[date] - log_barrier
        if above <= 0:
            return 0.0, 0.0
        exponent = sharpness * before * above
        if exponent < CERTAIN:
            survival *= -math.expm1(-exponent)
        before = above
    payoff = max(barrier * math.exp(before) - option.strike, 0.0) * math.exp(-option.rate * option.maturity)
    return payoff, payoff * survival


@njit(cache=True)
def slice_of_paths(key, sobol, first, paths, plan, option, barrier):
    """Return the samples of `paths` paths from the number `first` on: an array of shape (paths, 2), as `_on_path` returns.

    Parameters
    ----------
    key
        That of the scrambled sequence, or of the random stream with the number `first`.
    sobol : bool
        Paths of Sobol points, rather than of random numbers.
    first, paths : int
    plan : float64 array, shape (dates, 6)
        As of `quasi.bridge`.
    option : closed_forms.Option
    barrier : float
    """
    normals = np.empty((paths, len(plan)))
    if sobol:
        quasi.fill_sobol_normals(key, first, normals)
    else:
        rng.fill_normals(rng.stream(key, first), normals)
    quasi.fill_paths(plan, normals)
    samples = np.empty((paths, 2))
    for path in range(paths):
        samples[path, 0], samples[path, 1] = _on_path(normals[path], option, barrier)
    return samples
