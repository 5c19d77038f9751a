"""Brownian paths by bisection: the first normal numbers decide where a path ends and its coarse shape [1]_, [2]_.

The value at the last time comes first. Then, level by level, the middle one of the times between two known ones gets its
value: given both, it is normal about the line between them. Points of a low-discrepancy sequence are best in their first
dimensions, and so spend them on what matters most.

References
----------
.. [1] B. Moskowitz, R. E. Caflisch, "Smoothness and dimension reduction in quasi-Monte Carlo methods", Mathematical and
   Computer Modelling 23(8-9), 1996.
.. [2] P. Glasserman, "Monte Carlo methods in financial engineering", section 3.1, Springer, 2004.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import loader, multiply_add, spread_loader, store, store_spread, take_turn
from flame_fast.kernels.quasi.points import BLOCK, checked_out
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

#: Columns of a plan: which time a normal number is for, the known times around it, their weights, and the number's own.
TIME, LEFT, RIGHT, LEFT_WEIGHT, RIGHT_WEIGHT, OWN_WEIGHT = range(6)
COLUMNS = 6

PATHS: Any = loader(types.float64, LANES)
COLUMN_OF_EIGHT: Any = spread_loader(types.float64, LANES)


def bridge(times: ArrayLike) -> NDArray[np.float64]:
    """Return the plan by which `fill_paths` makes Brownian paths.

    Parameters
    ----------
    times : array_like, shape (d,)
        Above 0 and increasing, at any distances.

    Returns
    -------
    float64 array, shape (d, 6)
        A row for each normal number of a path, in their order: for which time it is, which known times are around it, and
        the weights of their values and of the number. Time d stands for 0, where a path is 0.

    Raises
    ------
    TypeError, ValueError
        No numbers, or not as above.

    Examples
    --------
    >>> bridge([1.0, 2.0, 4.0])[:, 0]
    array([2., 0., 1.])
    """
    known = _times(times)
    count = len(known)
    plan = np.empty((count, COLUMNS))
    plan[0] = count - 1, count, count, 0.0, 0.0, math.sqrt(known[-1])
    gaps = deque([(-1, count - 1)])
    row = 1
    while gaps:
        left, right = gaps.popleft()
        if right - left < 2:
            continue
        middle = (left + right) // 2
        begin = known[left] if left >= 0 else 0.0
        share = (known[middle] - begin) / (known[right] - begin)
        other = (known[right] - known[middle]) / (known[right] - begin)
        own = math.sqrt(share * (known[right] - known[middle]))
        plan[row] = middle, left if left >= 0 else count, right, other, share, own
        row += 1
        gaps.extend([(left, middle), (middle, right)])
    return plan


def _times(times: ArrayLike) -> list[float]:
    expected = "times: expected one or more numbers above 0, each above the one before"
    try:
        known = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got {times!r}") from None
    if known.ndim != 1 or not len(known):
        raise ValueError(f"{expected}, got an array of shape {known.shape}")
    wrong = np.flatnonzero(~(np.diff(known, prepend=0.0) > 0) | ~np.isfinite(known))
    if len(wrong):
        raise ValueError(f"{expected}, got {known[wrong[0]]} at index {wrong[0]}")
    return known.tolist()


@inlined
def _fill_eight(plan, values, normals, start, paths):
    """Make eight paths of eight rows of normal numbers, from these indices on; `values` has room for all times and 0."""
    count = len(plan)
    for row in range(count):
        time = np.int64(plan[row, TIME])
        left = PATHS(values, np.int64(plan[row, LEFT]) * LANES)
        right = PATHS(values, np.int64(plan[row, RIGHT]) * LANES)
        between = multiply_add(left, plan[row, LEFT_WEIGHT], right * plan[row, RIGHT_WEIGHT])
        number = COLUMN_OF_EIGHT(normals, start + row, count)
        store(values, time * LANES, multiply_add(number, plan[row, OWN_WEIGHT], between))
    for place in range(count):
        store_spread(paths, start + place, count, PATHS(values, place * LANES))


@inlined
def _fill_rows(plan, normals, paths, begin, end):
    count = len(plan)
    values = np.zeros((count + 1, LANES))
    whole = end - (end - begin) % LANES
    for row in range(begin, whole, LANES):
        _fill_eight(plan, values, normals, row * count, paths)
    if whole < end:
        some = np.zeros((LANES, count))
        for row in range(whole, end):
            for place in range(count):
                some[row - whole, place] = normals[row, place]
        _fill_eight(plan, values, some, 0, some)
        for row in range(whole, end):
            for place in range(count):
                paths[row, place] = some[row - whole, place]


@compiled()
def paths_alone(plan: Any, normals: Any, paths: Any) -> Any:
    """Make all paths; both arrays may be one."""
    _fill_rows(plan, normals, paths, 0, len(paths))


@compiled()
def _paths_by_turns(plan, normals, paths, rows, turns, most):
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        _fill_rows(plan, normals, paths, block * rows, min((block + 1) * rows, len(paths)))
    return 0


def brownian_bridge(normals: ArrayLike, times: ArrayLike, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return Brownian paths, made of standard normal numbers, at increasing times.

    Parameters
    ----------
    normals : array_like, shape (n, d)
        Of doubles: a row for each path, say of `sobol_normals`. The first column decides most.
    times : array_like, shape (d,)
        Above 0 and increasing, at any distances.
    out : float64 array, shape (n, d), optional
        Where the paths go; C-contiguous. It may be `normals`.

    Returns
    -------
    float64 array, shape (n, d)
        The values at the times. A path begins with 0 at time 0, and the covariance of its values at s and t is min(s, t).

    Raises
    ------
    TypeError, ValueError
        An argument of another type or shape, or times that do not increase.

    Notes
    -----
    Uses as many threads as `numba.get_num_threads()` says; safe from several threads; Ctrl-C ends it within a tenth of a
    second. `out` must not overlap with `normals` unless it is the same array.

    Examples
    --------
    >>> brownian_bridge([[1.0, 0.0]], [1.0, 4.0])
    array([[0.5, 2. ]])
    """
    plan = bridge(times)
    try:
        numbers = np.ascontiguousarray(normals, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"normals: expected numbers, got {normals!r}") from None
    if numbers.ndim != 2 or numbers.shape[1] != len(plan):
        raise ValueError(f"normals: expected shape (n, {len(plan)}), a column for each time, got {numbers.shape}")
    out = np.empty(numbers.shape) if out is None else checked_out(out, numbers.shape)
    rows = max(BLOCK // len(plan) // LANES, 1) * LANES
    run_blocks(
        -(-len(out) // rows),
        lambda turns, most: _paths_by_turns(plan, numbers, out, rows, turns, most),
    )
    return out


def fill_paths(plan: NDArray[np.float64], normals: NDArray[np.float64]) -> None:
    """Turn standard normal numbers into Brownian paths in place, in one thread; for Python and nopython code.

    Parameters
    ----------
    plan : float64 array, shape (d, 6)
        As of `bridge`, from outside of nopython code.
    normals : float64 array, shape (n, d) or (d,)
        C-contiguous; a row, or all of it, becomes a path.

    Raises
    ------
    TypeError, ValueError
        Arrays of other types or shapes; in nopython code, types are checked when it is compiled.
    """
    plan = checked_out(plan, (len(plan), COLUMNS) if isinstance(plan, np.ndarray) and plan.ndim else None, "plan")
    count = len(plan)
    shape = normals.shape if isinstance(normals, np.ndarray) and normals.ndim in (1, 2) else (0, 0)
    checked_out(normals, (*shape[:-1], count), "normals")
    rows = normals.reshape(-1, count)
    if len(rows):
        paths_alone(plan, rows, rows)


@overload(fill_paths)
def _typed_fill_paths(plan, normals):
    for name, kind, dimensions in (("plan", plan, (2,)), ("normals", normals, (1, 2))):
        whole = isinstance(kind, types.Array) and kind.layout == "C" and kind.dtype == types.float64
        if not whole or kind.ndim not in dimensions or (name == "normals" and not kind.mutable):
            raise TypingError(f"fill_paths(plan, normals): expected a C-contiguous float64 array as {name}, got {kind}")

    def filled(plan, normals):
        count = len(plan)
        if plan.shape[1] != COLUMNS or count == 0:
            raise ValueError("plan: expected what quasi.bridge returns")
        if normals.shape[-1] != count:
            raise ValueError("normals: expected a column for each time of the plan")
        rows = normals.reshape(normals.size // count, count)
        if len(rows):
            paths_alone(plan, rows, rows)

    return filled
