"""The moments of a block of samples, in nopython code; `moments` merges them."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def _moments_of_one(columns, means, products):
    pairs = columns.shape[1]
    a = b = c = 0.0
    for pair in range(pairs):
        a += columns[0, pair]
        b += columns[1, pair]
        c += columns[2, pair]
    means[0], means[1], means[2] = a / pairs, b / pairs, c / pairs
    aa = ab = ac = bb = bc = cc = 0.0
    for pair in range(pairs):
        a, b, c = columns[0, pair] - means[0], columns[1, pair] - means[1], columns[2, pair] - means[2]
        aa += a * a
        ab += a * b
        ac += a * c
        bb += b * b
        bc += b * c
        cc += c * c
    products[0, 0], products[0, 1], products[0, 2] = aa, ab, ac
    products[1, 0], products[1, 1], products[1, 2] = ab, bb, bc
    products[2, 0], products[2, 1], products[2, 2] = ac, bc, cc


@njit(cache=True)
def moments_of(samples):
    """Return the parts of `moments.Moments`: (pairs, means, products).

    Parameters
    ----------
    samples : float64 array, shape (quantities, 3, pairs)
        The columns of each quantity.
    """
    quantities, _, pairs = samples.shape
    means = np.empty((quantities, 3))
    products = np.empty((quantities, 3, 3))
    for quantity in range(quantities):
        _moments_of_one(samples[quantity], means[quantity], products[quantity])
    return pairs, means, products
