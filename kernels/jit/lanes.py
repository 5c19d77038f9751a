"""The lanes of a stream: xoshiro256++ generators, of which eight step as one SIMD vector, seeded by Threefry-4x64-20."""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import inlined
from flame_fast.kernels.jit.simd import any_below, counter, like, loader, rotate_left, store, unlikely
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Lanes of a stream: one AVX-512 register holds a word of each; with AVX2 their whole state takes half of the registers.
LANES = 8

ZERO = np.uint64(0)
ONE = np.uint64(1)
LANE_WORDS: Any = loader(types.uint64, LANES)
LANE_NUMBERS: Any = counter(types.uint64, LANES)

# ---- Threefry-4x64-20 ----------------------------------------------------------------------------------------------------

PARITY = np.uint64(0x1BD11BDAA9FC1A22)

#: Bits of each mix in four rounds, and in the next four. Not plain integers: Numba would compile a mix for each of them.
FIRST_ROTATIONS = tuple(map(np.uint64, (14, 16, 52, 57, 23, 40, 5, 37)))
OTHER_ROTATIONS = tuple(map(np.uint64, (25, 33, 46, 12, 58, 22, 32, 32)))


@inlined
def _mix(left, right, bits):
    left = left + right
    return left, rotate_left(right, bits) ^ left


@inlined
def _four_rounds(x0, x1, x2, x3, bits):
    x0, x1 = _mix(x0, x1, bits[0])
    x2, x3 = _mix(x2, x3, bits[1])
    x0, x3 = _mix(x0, x3, bits[2])
    x2, x1 = _mix(x2, x1, bits[3])
    x0, x1 = _mix(x0, x1, bits[4])
    x2, x3 = _mix(x2, x3, bits[5])
    x0, x3 = _mix(x0, x3, bits[6])
    x2, x1 = _mix(x2, x1, bits[7])
    return x0, x1, x2, x3


@inlined
def threefry(k0: Any, k1: Any, k2: Any, k3: Any, x0: Any, x1: Any, x2: Any, x3: Any) -> Any:
    """Encipher the block (x0, x1, x2, x3) under the key (k0, k1, k2, k3); words or vectors of words."""
    k4 = k0 ^ k1 ^ k2 ^ k3 ^ PARITY
    x0, x1, x2, x3 = x0 + k0, x1 + k1, x2 + k2, x3 + k3
    x0, x1, x2, x3 = _four_rounds(x0, x1, x2, x3, FIRST_ROTATIONS)
    x0, x1, x2, x3 = x0 + k1, x1 + k2, x2 + k3, x3 + (k4 + np.uint64(1))
    x0, x1, x2, x3 = _four_rounds(x0, x1, x2, x3, OTHER_ROTATIONS)
    x0, x1, x2, x3 = x0 + k2, x1 + k3, x2 + k4, x3 + (k0 + np.uint64(2))
    x0, x1, x2, x3 = _four_rounds(x0, x1, x2, x3, FIRST_ROTATIONS)
    x0, x1, x2, x3 = x0 + k3, x1 + k4, x2 + k0, x3 + (k1 + np.uint64(3))
    x0, x1, x2, x3 = _four_rounds(x0, x1, x2, x3, OTHER_ROTATIONS)
    x0, x1, x2, x3 = x0 + k4, x1 + k0, x2 + k1, x3 + (k2 + np.uint64(4))
    x0, x1, x2, x3 = _four_rounds(x0, x1, x2, x3, FIRST_ROTATIONS)
    return x0 + k0, x1 + k1, x2 + k2, x3 + (k3 + np.uint64(5))


# ---- xoshiro256++ --------------------------------------------------------------------------------------------------------


@inlined
def advance(s0: Any, s1: Any, s2: Any, s3: Any) -> Any:
    """Return (output, four words of the next state) of one step of the generator; words or vectors of words."""
    output = rotate_left(s0 + s3, 23) + s0
    shifted = s1 << np.uint64(17)
    s2 = s2 ^ s0
    s3 = s3 ^ s1
    s1 = s1 ^ s2
    s0 = s0 ^ s3
    return output, s0, s1, s2 ^ shifted, rotate_left(s3, 45)


@inlined
def lanes_of(key: Any, number: Any, domain: Any) -> Any:
    """Return the initial states of a stream's lanes: four vectors."""
    lanes = LANE_NUMBERS()
    return threefry(
        key[0], key[1], ZERO, ZERO, like(lanes, np.uint64(number)), lanes, like(lanes, domain), like(lanes, ZERO)
    )


@inlined
def lane_beside(key: Any, number: Any, domain: Any) -> Any:
    """Return the initial state of a ninth lane of a stream: four words."""
    return threefry(key[0], key[1], ZERO, ZERO, np.uint64(number), np.uint64(LANES), domain, ZERO)


# ---- states in memory ----------------------------------------------------------------------------------------------------


@inlined
def load_lanes(words: Any, start: Any) -> Any:
    """Return the lanes' states out of 32 words of memory: four vectors.

    Raises
    ------
    ValueError
        A lane has zeros alone, and would give zeros for ever.
    """
    s0, s1 = LANE_WORDS(words, start), LANE_WORDS(words, start + LANES)
    s2, s3 = LANE_WORDS(words, start + 2 * LANES), LANE_WORDS(words, start + 3 * LANES)
    if unlikely(any_below(s0 | s1 | s2 | s3, ONE)):
        raise ValueError("a lane of the state is zero; take streams from rng.stream(), generators from rng.generator()")
    return s0, s1, s2, s3


@inlined
def save_lanes(words: Any, start: Any, s0: Any, s1: Any, s2: Any, s3: Any) -> None:
    """Store the lanes' states into 32 words of memory."""
    store(words, start, s0)
    store(words, start + LANES, s1)
    store(words, start + 2 * LANES, s2)
    store(words, start + 3 * LANES, s3)
