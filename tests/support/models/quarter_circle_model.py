"""`kernels/jit/quarter_circle.py` a second time, in NumPy and Python integers: which points of which blocks are inside."""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.parallel import Turns
from flame_fast.kernels.jit.quarter_circle import count_by_turns
from stream_model import LANES, Xoshiro, lane_state

BLOCK = 1 << 16
ROW = 2 * LANES
STEPS = BLOCK // ROW
DOMAIN = 1
RADIUS_SQUARED = 1 << 62

#: Sums of the squares of the upper halves that leave it open whether the point is inside. They are part of the method, since
#: each of these points takes a word of the ninth lane.
DOUBTFUL = range((1 << 30) - 92_684 + 1, (1 << 30) + 92_687)


def is_inside(upper_x, upper_y, word):
    """Return whether a point is inside, exactly: from its upper halves and the word that has its lower ones."""
    x = (upper_x << 16) + (word >> 48)
    y = (upper_y << 16) + (word >> 32 & 0xFFFF)
    return x * x + y * y <= RADIUS_SQUARED


def upper_halves(key, blocks):
    """Return the upper halves of the points of some blocks: two int64 arrays of shape (blocks, 65536)."""
    states = np.array([[lane_state(key, block, DOMAIN, lane) for lane in range(LANES)] for block in blocks], np.uint64)
    lanes = Xoshiro(np.moveaxis(states, 2, 0))
    words = np.empty((STEPS, len(blocks), LANES), np.uint64)
    for step in range(STEPS):
        words[step] = next(lanes)
    halves = np.ascontiguousarray(np.moveaxis(words, 1, 0)).view(np.int16).reshape(len(blocks), BLOCK, 2)
    return halves[..., 0].astype(np.int64), halves[..., 1].astype(np.int64)


def points_inside(key, blocks):
    """Return which points of some blocks are inside, and which were in doubt: two bool arrays of shape (blocks, 65536)."""
    x, y = upper_halves(key, blocks)
    sums = x * x + y * y
    inside = sums < DOUBTFUL.start
    doubtful = ~inside & (sums < DOUBTFUL.stop)
    for number, block in enumerate(blocks):
        beside = Xoshiro(lane_state(key, block, DOMAIN, LANES))
        for point in np.flatnonzero(doubtful[number]).tolist():
            inside[number, point] = is_inside(int(x[number, point]), int(y[number, point]), next(beside))
    return inside, doubtful


def count_blocks(key, points, first, last):
    """Return how many points of the blocks `first` to below `last` the kernel finds inside, of a run of `points` points."""
    turns = Turns(last, first)  # the kernel knows their address alone
    return count_by_turns(key, points, turns.address, last - first)
