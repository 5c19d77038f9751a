"""Moments of arrays of samples: the compiled half of `moments.Moments.of`.

A block of samples has two passes in a core's first cache, so memory is read once. The first pass finds each column's mean;
the second sums the powers of the deviations from it, and takes off what the mean's own rounding adds [1]_ (the corrected
two-pass algorithm). Blocks are merged pairwise, neighbours first [1]_ [2]_: the errors grow with the logarithm of their
number. A block is so many samples, whatever the number of threads; so every result is the same to its last bit.

The moments of a block are a row of doubles: the count; of d columns the means, less the first sample of all, the minima and
the maxima; the sums of products of deviations, of the pairs (0, 0), (1, 0), (1, 1), (2, 0) and so on; of order 4, the sums
of the third powers and of the fourth ones.

References
----------
.. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The American Statistician
   37(3), 1983.
.. [2] P. Pebay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical moments",
   Sandia Report SAND2008-6212, 2008.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import larger, like, loader, smaller, store, take_turn
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Lanes of the sums: enough of them in flight to hide an addition's latency.
LANES = 16
DOUBLES: Any = loader(types.float64, LANES)

#: Doubles of a block: its deviations fill a core's first cache.
BLOCK = 4096


def rows_of(columns: int) -> int:
    """Return the samples of a block: of many columns there are more, so that the moments take an eighth of their room."""
    return max(BLOCK // columns, 4 * columns)


def width_of(columns: int, order: int) -> int:
    """Return the doubles of a block's moments."""
    return 1 + 3 * columns + columns * (columns + 1) // 2 + (2 * columns if order == 4 else 0)


@inlined
def _sum_of_lanes(vector, scratch):
    store(scratch, 0, vector)
    width = LANES // 2
    while width:
        for lane in range(width):
            scratch[lane] += scratch[lane + width]
        width //= 2
    return scratch[0]


@inlined
def _extremes(column, rows, padded, scratch):
    """Return the sum of a column's samples, the smallest and the largest one; NaN if there is one."""
    sums = like(DOUBLES(column, 0), 0.0)
    low = high = DOUBLES(column, 0)
    whole = rows - rows % LANES
    for at in range(0, whole, LANES):
        values = DOUBLES(column, at)
        sums = sums + values
        low, high = smaller(values, low), larger(values, high)
    total = _sum_of_lanes(sums, scratch)
    for row in range(whole, rows):
        total += column[row]
    if whole < padded:
        values = DOUBLES(column, whole)
        low, high = smaller(values, low), larger(values, high)
    store(scratch, 0, low)
    lowest = scratch[0]
    for lane in range(1, LANES):
        lowest = min(lowest, scratch[lane])
    store(scratch, 0, high)
    highest = scratch[0]
    for lane in range(1, LANES):
        highest = max(highest, scratch[lane])
    if total - total != 0.0:  # an infinite sample or sum, or NaN, which has no order
        for row in range(rows):
            if column[row] != column[row]:
                lowest = highest = np.nan
    return total, lowest, highest


@inlined
def _product(column, other, padded, scratch):
    sums = like(DOUBLES(column, 0), 0.0)
    for at in range(0, padded, LANES):
        sums = sums + DOUBLES(column, at) * DOUBLES(other, at)
    return _sum_of_lanes(sums, scratch)


@inlined
def _powers(column, padded, scratch):
    """Return the sums of a column's third and fourth powers."""
    cubes = fourths = like(DOUBLES(column, 0), 0.0)
    for at in range(0, padded, LANES):
        values = DOUBLES(column, at)
        squares = values * values
        cubes = cubes + squares * values
        fourths = fourths + squares * squares
    return _sum_of_lanes(cubes, scratch), _sum_of_lanes(fourths, scratch)


@inlined
def _of_block(samples, start, rows, order, deviations, sums, scratch, part):
    """Write the moments of some rows of the samples."""
    columns = samples.shape[1]
    padded = rows + -rows % LANES
    part[0] = rows
    place = 1 + 3 * columns
    higher = place + columns * (columns + 1) // 2
    for j in range(columns):
        column = deviations[j]
        for row in range(rows):
            column[row] = samples[start + row, j]
        for row in range(rows, padded):
            column[row] = column[0]
        total, low, high = _extremes(column, rows, padded, scratch)
        part[1 + columns + j], part[1 + 2 * columns + j] = low, high
        mean = low if low == high else total / rows  # what never varies has a variance of 0, exactly
        moved = like(DOUBLES(column, 0), 0.0)
        for at in range(0, padded, LANES):
            values = DOUBLES(column, at) - mean
            store(column, at, values)
        for row in range(rows, padded):
            column[row] = 0.0
        for at in range(0, padded, LANES):
            moved = moved + DOUBLES(column, at)
        sums[j] = _sum_of_lanes(moved, scratch)
        error = sums[j] / rows
        part[1 + j] = mean - samples[0, j] + error  # its digits are those of the spread, not of the size
        for k in range(j + 1):
            product = _product(column, deviations[k], padded, scratch)
            square = product
            product -= sums[k] * error
            if j == k and product < 0.0:
                product = 0.0
            part[place] = product
            place += 1
        if order == 4:
            cubes, fourths = _powers(column, padded, scratch)
            part[higher + j] = cubes - 3 * error * square + 2 * rows * error * error * error
            part[higher + columns + j] = (
                fourths - 4 * error * cubes + 6 * error * error * square - 3 * rows * error * error * error * error
            )


@compiled()
def moments_by_turns(samples: Any, order: Any, rows: Any, parts: Any, turns: Any, most: Any) -> Any:
    """Write the moments of the blocks, `rows` samples each, that this thread takes."""
    _, count, columns = samples.shape
    blocks = parts.shape[1]
    deviations, sums, scratch = np.empty((columns, rows + LANES)), np.empty(columns), np.empty(LANES)
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        group, number = block // blocks, block % blocks
        start = number * rows
        part = parts[group, number]
        _of_block(samples[group], start, min(rows, count - start), order, deviations, sums, scratch, part)
    return 0


@inlined
def _absorb(part, other, columns, order):
    """Merge the moments of other samples into a row of moments."""
    a, b = part[0], other[0]
    n = a + b
    place = 1 + 3 * columns
    higher = place + columns * (columns + 1) // 2
    for j in range(columns):
        shift = other[1 + j] - part[1 + j]
        if order == 4:
            square, added = part[place + j], other[place + j]  # the last of the column's products
            cube, cubes = part[higher + j], other[higher + j]
            ratio = shift / n
            part[higher + columns + j] += (
                other[higher + columns + j]
                + ratio * ratio * ratio * shift * a * b * (a * a - a * b + b * b)
                + 6 * ratio * ratio * (a * a * added + b * b * square)
                + 4 * ratio * (a * cubes - b * cube)
            )
            part[higher + j] += cubes + ratio * ratio * shift * a * b * (a - b) + 3 * ratio * (a * added - b * square)
        for k in range(j + 1):
            part[place] += other[place] + shift * (other[1 + k] - part[1 + k]) * (a * b / n)
            place += 1
        low, high = 1 + columns + j, 1 + 2 * columns + j
        if other[low] < part[low] or other[low] != other[low]:
            part[low] = other[low]
        if other[high] > part[high] or other[high] != other[high]:
            part[high] = other[high]
    for j in range(columns):
        part[1 + j] += (other[1 + j] - part[1 + j]) * (b / n)
    part[0] = n


@compiled()
def merge_blocks(parts: Any, columns: Any, order: Any) -> Any:
    """Merge the moments of each group's blocks into those of its first one, neighbours first."""
    groups, blocks, _ = parts.shape
    for group in range(groups):
        step = 1
        while step < blocks:
            for block in range(0, blocks - step, 2 * step):
                _absorb(parts[group, block], parts[group, block + step], columns, order)
            step *= 2


def moments_of(samples: Any, order: int) -> Any:
    """Return the moments of each group of samples, a row each.

    Parameters
    ----------
    samples : float64 array, shape (groups, n, d)
        Contiguous; n and d are not 0.
    order : int
        2 or 4.
    """
    groups, count, columns = samples.shape
    rows = rows_of(columns)
    blocks = -(-count // rows)
    parts = np.empty((groups, blocks, width_of(columns, order)))
    run_blocks(groups * blocks, lambda turns, most: moments_by_turns(samples, order, rows, parts, turns, most))
    if blocks > 1:
        merge_blocks(parts, columns, order)
    result = parts[:, 0]
    result[:, 1 : 1 + columns] += samples[:, 0]
    return result
