"""Counting random points inside a quarter circle: the compiled half of `montecarlo.estimate_batch`.

A point's coordinates are signed 32-bit integers x and y, over 2**31: it lies in the square from -1 to 1, which has the
quarter circle four times, and is inside if x * x + y * y <= 2**62. A generator's word has the upper 16 bits of both
coordinates for two points. They decide alone, but for one point in 7,000: such a point's lower 16 bits are drawn too,
from a lane beside the others. So a point takes half a word instead of a whole one, and yet every point is tested
exactly, to its last bit.

The squares of the upper halves X and Y sum up to S. The point (X + a, Y + b), with a and b in [0, 1), is at a distance
whose square differs from S by less than 2 * (|X| + |Y|) + 2, and |X| + |Y| is at most the square root of 2 * S. With R
= 2**15: S <= R * R - 92,684 is inside, whatever a and b are, and S >= R * R + 92,687 is outside
(tests/kernels/test_quarter_circle.py has the arithmetic).
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import rng
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import (
    add_atomically,
    any_below,
    below,
    lane,
    lowest_bit,
    room,
    squared_norms,
    store,
    total,
    unlikely,
)
from flame_fast.kernels.rng import LANES, PI_DOMAIN, advance, lane_beside, lanes_of
from numba import njit, prange, types

#: Points of a block, which has a stream of its own; and of a row, which is one step of the stream.
BLOCK = 1 << 16
ROW = 2 * LANES

SURELY_INSIDE = (1 << 30) - 92_684
SURELY_OUTSIDE = (1 << 30) + 92_687
#: Added to S, modulo 2**32: what is surely inside becomes negative, and what is in doubt the numbers from 0 to below
#: `DOUBTFUL`.
SHIFT = np.uint32((1 << 32) - SURELY_INSIDE - 1)
DOUBTFUL = np.uint32(SURELY_OUTSIDE - SURELY_INSIDE - 1)
SIGN = np.uint32(31)
ONE = np.uint32(1)
RADIUS_SQUARED = np.int64(1 << 62)

row_room = room(types.uint64, LANES)
beside_room = room(types.uint64, 4)


@njit
def _refine(words, doubts, beside):
    """How many of a row's points in doubt (a bit each) are inside, by their lower halves too."""
    inside = 0
    while doubts:
        point = lowest_bit(doubts)
        doubts &= doubts - ONE
        upper = words[point >> 1] >> np.uint64(32 * (point & 1))
        lower, b0, b1, b2, b3 = advance(beside[0], beside[1], beside[2], beside[3])
        beside[0], beside[1], beside[2], beside[3] = b0, b1, b2, b3
        x = (np.int64(np.int16(upper)) << 16) + np.int64(lower >> np.uint64(48))
        y = (np.int64(np.int16(upper >> np.uint64(16))) << 16) + np.int64((lower >> np.uint64(32)) & np.uint64(0xFFFF))
        if x * x + y * y <= RADIUS_SQUARED:
            inside += 1
    return inside


@inlined
def _count_block(key, block, points):
    """How many of the first `points` points of a block are inside.

    A step's words go to memory, where the rare refinement finds them: kept in registers for it, they would push the
    state of the lanes out of AVX2's sixteen in every step.
    """
    row, beside = row_room(), beside_room()
    s0, s1, s2, s3 = lanes_of(key, block, PI_DOMAIN)
    beside[0], beside[1], beside[2], beside[3] = lane_beside(key, block, PI_DOMAIN)
    inside = squared_norms(s0) & np.uint32(0)
    refined = 0
    for _ in range(points // ROW):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store(row, 0, words)
        norms = squared_norms(words) + SHIFT
        inside = inside + (norms >> SIGN)
        if unlikely(any_below(norms, DOUBTFUL)):
            refined += _refine(row, below(norms, DOUBTFUL), beside)
    rest = points % ROW
    if rest:
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store(row, 0, words)
        norms = squared_norms(words) + SHIFT
        kept = (ONE << np.uint32(rest)) - ONE
        for i in range(rest):
            refined += lane(norms, i) >> SIGN
        refined += _refine(row, below(norms, DOUBTFUL) & kept, beside)
    return np.int64(total(inside)) + np.int64(refined)


@inlined
def _points_of(block, points):
    return min(BLOCK, points - block * BLOCK)


@compiled("int64(UniTuple(uint64, 2), int64, int64, int64)", heap=False)
def count_alone(key, points, first, last):
    """How many points of the blocks from `first` to below `last` are inside, of a run of `points` points."""
    inside = 0
    for block in range(first, last):
        inside += _count_block(key, block, _points_of(block, points))
    return inside


@compiled(parallel=True)
def count_together(key, points, first, last, threads):
    """As `count_alone`, by as many threads; each takes the next block as soon as it is done with one."""
    next_block = np.array([first])
    inside = 0
    for _ in prange(threads):
        found = 0
        while True:
            block = add_atomically(next_block, 1)
            if block >= last:
                break
            found += _count_block(key, block, _points_of(block, points))
        inside += found
    return inside


def count_inside(points: int, seed: int | None) -> int:
    """How many of `points` random points are inside, on the threads that Numba may use here."""
    key = rng.key(seed)
    return run_blocks(
        -(-points // BLOCK),
        lambda first, last: count_alone(key, points, first, last),
        lambda first, last, threads: count_together(key, points, first, last, threads),
    )
