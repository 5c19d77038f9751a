"""Ranges of integers that a type holds."""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.calls import integer
from flame_fast.kernels.keys import WORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def range_within(low: object, high: object, dtype: np.dtype[Any], *, endpoint: bool = False) -> tuple[np.uint64, np.uint64]:
    """Return the first integer of a range and how many there are, as words; 0 stands for 2**64.

    Raises
    ------
    TypeError, ValueError
        No integers, an empty range, or one that the type does not hold.
    """
    first, end = integer("low", low), integer("high", high) + bool(endpoint)
    if first >= end:
        raise ValueError(f"high: expected an integer above low, which is {first}, got {end}")
    limits = np.iinfo(dtype)
    if first < limits.min or end - 1 > limits.max:
        raise ValueError(f"low, high: expected integers that {dtype} holds, got {first} and {end}")
    return np.uint64(first & WORD), np.uint64(end - first & WORD)
