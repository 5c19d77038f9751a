"""Count random points inside a quarter circle: the compiled half of `montecarlo.estimate_batch`.

A point's coordinates are signed 32-bit integers x and y, over 2**31: it lies in the square from -1 to 1, which has the
quarter circle four times, and is inside if x * x + y * y <= 2**62. A generator's word has the upper 16 bits of both
coordinates for two points. They alone decide all points but one in 7,000: for such a point the kernel draws the lower 16
bits too, from a ninth lane. So a point takes half a word instead of a whole one, and yet the test of every point is exact,
to its last bit.

The squares of the upper halves X and Y sum up to S. The point (X + a, Y + b), with a and b in [0, 1), is at a distance whose
square differs from S by less than 2 * (|X| + |Y|) + 2, and |X| + |Y| is at most the square root of 2 * S. With R = 2**15: S
<= R * R - 92,684 is inside, whatever a and b are, and S >= R * R + 92,687 is outside (tests/kernels/test_quarter_circle.py
has the arithmetic).
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import keys
from flame_fast.kernels.domains import PI
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.lanes import LANES, advance, lane_beside, lanes_of
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import (
    any_below,
    below,
    lane,
    lowest_bit,
    squared_norms,
    stack_array,
    store,
    take_turn,
    total,
    unlikely,
)
from numba import njit, types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Points of a block, which has a stream of its own, and of a row, which is one step of the stream.
BLOCK = 1 << 16
ROW = 2 * LANES

SURELY_INSIDE = (1 << 30) - 92_684
SURELY_OUTSIDE = (1 << 30) + 92_687
#: Added to S, modulo 2**32: sums that are surely inside become negative, those in doubt the numbers from 0 to below
#: `DOUBTFUL`.
SHIFT = np.uint32((1 << 32) - SURELY_INSIDE - 1)
DOUBTFUL = np.uint32(SURELY_OUTSIDE - SURELY_INSIDE - 1)
SIGN = np.uint32(31)
ONE = np.uint32(1)
RADIUS_SQUARED = np.int64(1 << 62)

row_array: Any = stack_array(types.uint64, LANES)
beside_array: Any = stack_array(types.uint64, 4)


@njit
def _refine(words, doubts, beside):
    """Return how many of a row's doubtful points (a bit each) are inside, by their lower halves too."""
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
    """Return how many of the first `points` points of a block are inside.

    A step's words go to memory, where the rare refinement finds them. If the compiler kept them in registers for it, they
    would displace the state of the lanes from AVX2's sixteen registers in every step.
    """
    row, beside = row_array(), beside_array()
    s0, s1, s2, s3 = lanes_of(key, block, PI)
    beside[0], beside[1], beside[2], beside[3] = lane_beside(key, block, PI)
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


@compiled("int64(UniTuple(uint64, 2), int64, int64, int64)", heap=False)
def count_by_turns(key: Any, points: Any, turns: Any, most: Any) -> Any:
    """Return how many of a run's `points` points are inside, of the blocks that this thread takes: `most` at most."""
    inside = 0
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        inside += _count_block(key, block, min(BLOCK, points - block * BLOCK))
    return inside


def count_inside(points: int, seed: int | None) -> int:
    """Return how many of `points` random points are inside, on the threads that Numba may use here."""
    key = keys.key(seed)
    return run_blocks(-(-points // BLOCK), lambda turns, most: count_by_turns(key, points, turns, most))
