"""A function compiled by Numba; a module by itself, whose import costs a worker half a second."""

from __future__ import annotations

import numba


@numba.njit
def product(a, b):
    return a * b
