"""Random numbers for nopython code: streams of 8 lanes, without jump-ahead, locks or thread-local state.

A stream's name is a key, which `key` makes of a seed, and a number, say that of a block of samples. So what a kernel draws
depends on the seed and the block alone: any thread, any worker and any CPU computes the same numbers.

    key = rng.key(seed)

    @njit(parallel=True)
    def payoffs(key, out):
        for block in prange(out.size // BLOCK):
            stream = rng.stream(key, block)
            rng.fill_normals(stream, out[block * BLOCK : (block + 1) * BLOCK])

Each lane is a xoshiro256++ generator [1]_; eight of them step as one SIMD vector (`simd`). Their states are the outputs of
the block cipher Threefry-4x64-20 [2]_ for the counters (stream, lane, domain, 0) under the key. The cipher is a bijection,
so no two lanes of one key begin in the same state. Their sequences might still overlap further on: n lanes that draw L words
each overlap somewhere with a probability of at most n * n * L / 2**256. All 2**62 points that one call of `estimate_batch`
can draw take 2**49 lanes with 2**12 words each: 2**-146. For 2**40 seeds with as many points each it is 2**-66. Without a
seed, a key is 128 bits from the operating system.

The functions `fill_...` serve nopython code and Python alike. Each fills a contiguous array and moves the stream on by whole
steps of 8 words. A stream is an array: a caller that passes it on shares it. Two threads must not use one stream at the same
time.

References
----------
.. [1] D. Blackman, S. Vigna, "Scrambled linear pseudorandom number generators", ACM Transactions on Mathematical Software
   47(4), 2021.
.. [2] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011.
.. [3] G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates", Annals of Mathematical Statistics
   29(2), 1958.
"""

from __future__ import annotations

import os

import numpy as np
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.simd import counter, like, loader, rotate_left, square_root, store, to_floats
from flame_fast.kernels.jit.vector_math import logarithm, sine_and_cosine
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The generator of a lane, the lanes of a stream, and the cipher that seeds them.
GENERATOR = "xoshiro256++, 8 lanes, seeded by Threefry-4x64-20"

#: Lanes of a stream: one AVX-512 register holds a word of each; with AVX2 their whole state takes half of the registers.
LANES = 8

LARGEST_SEED = (1 << 128) - 1, "below 2**128"

#: Purposes of a stream's numbers. Streams of the same key and number in different domains share nothing.
FREE_DOMAIN = np.uint64(0)
PI_DOMAIN = np.uint64(1)
ARRAY_DOMAIN = np.uint64(2)

ZERO = np.uint64(0)
LANE_WORDS: Any = loader(types.uint64, LANES)
LANE_NUMBERS: Any = counter(types.uint64, LANES)


def key(seed: int | None = None) -> tuple[np.uint64, np.uint64]:
    """Return the key of a seed, by which nopython code names streams.

    Parameters
    ----------
    seed : int, optional
        From 0 to below 2**128. None: 128 bits from the operating system, so that no two keys are the same.

    Raises
    ------
    TypeError
        No integer.
    ValueError
        Out of range.
    """
    if seed is None:
        number = int.from_bytes(os.urandom(16), "little")
    else:
        number = whole_number("seed", seed, LARGEST_SEED, "an integer or None")
    return np.uint64(number & (1 << 64) - 1), np.uint64(number >> 64)


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


@compiled()
def stream_of(key: Any, number: Any, domain: Any) -> Any:
    """Return a stream as `stream` does, in another domain."""
    state = np.empty((4, LANES), np.uint64)
    s0, s1, s2, s3 = lanes_of(key, number, domain)
    _save(state, s0, s1, s2, s3)
    return state


@compiled()
def stream(key: Any, number: Any) -> Any:
    """Return the stream of a key and a number, at its beginning.

    Parameters
    ----------
    key : tuple of two uint64
        As of `key`.
    number : int
        From 0 to below 2**64: which of the key's streams.

    Returns
    -------
    uint64 array, shape (4, 8)
        The state of the 8 lanes.
    """
    return stream_of(key, number, FREE_DOMAIN)


@inlined
def _load(state):
    return LANE_WORDS(state, 0), LANE_WORDS(state, LANES), LANE_WORDS(state, 2 * LANES), LANE_WORDS(state, 3 * LANES)


@inlined
def _save(state, s0, s1, s2, s3):
    store(state, 0, s0)
    store(state, LANES, s1)
    store(state, 2 * LANES, s2)
    store(state, 3 * LANES, s3)


# ---- transforms of words -------------------------------------------------------------------------------------------------


@inlined
def uniform(words: Any) -> Any:
    """Return doubles in [0, 1), multiples of 2**-53, made of the words' upper 53 bits."""
    return to_floats(words >> np.uint64(11)) * 2.0**-53


@inlined
def uniform_above_zero(words: Any) -> Any:
    """Return doubles in (0, 1], multiples of 2**-53."""
    return to_floats((words >> np.uint64(11)) + np.uint64(1)) * 2.0**-53


@inlined
def exponential(words: Any) -> Any:
    """Return doubles of the exponential distribution of mean 1.

    Each is the negative logarithm of a uniform one, at most 36.8.
    """
    return 0.0 - logarithm(uniform_above_zero(words))


@inlined
def two_normals(words: Any, others: Any) -> Any:
    """Return two vectors of standard normal doubles, by the Box-Muller transform [3]_; at most 8.6 in size."""
    radius = square_root(logarithm(uniform_above_zero(words)) * -2.0)
    sine, cosine = sine_and_cosine(others >> np.uint64(11))
    return radius * cosine, radius * sine


# ---- filling arrays ------------------------------------------------------------------------------------------------------


@inlined
def _unchanged(words):
    return words


@inlined
def _fill(stream, out, transform):
    """Fill an array with one word an element, each vector of words transformed."""
    s0, s1, s2, s3 = _load(stream)
    whole = out.size - out.size % LANES
    for start in range(0, whole, LANES):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store(out, start, transform(words))
    if whole < out.size:
        last = np.empty(LANES, out.dtype)
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store(last, 0, transform(words))
        out[whole:] = last[: out.size - whole]
    _save(stream, s0, s1, s2, s3)


@compiled()
def fill_words(stream: Any, out: Any) -> Any:
    """Fill a one-dimensional contiguous uint64 array with random words."""
    _fill(stream, out, _unchanged)


@compiled()
def fill_pairs(stream: Any, out: Any) -> Any:
    """Fill a contiguous uint32 array of shape (n, 2) with random integers: a pair has the halves of a word."""
    fill_words(stream, out.reshape(out.size).view(np.uint64))


@compiled()
def fill_uniforms(stream: Any, out: Any) -> Any:
    """Fill a one-dimensional contiguous float64 array with doubles in [0, 1), a word each."""
    _fill(stream, out, uniform)


@compiled()
def fill_exponentials(stream: Any, out: Any) -> Any:
    """Fill a one-dimensional contiguous float64 array with exponential doubles of mean 1, a word each."""
    _fill(stream, out, exponential)


@compiled()
def fill_normals(stream: Any, out: Any) -> Any:
    """Fill a one-dimensional contiguous float64 array with standard normal doubles.

    Two words make two doubles: the stream moves on by two steps at a time.
    """
    s0, s1, s2, s3 = _load(stream)
    whole = out.size - out.size % (2 * LANES)
    for start in range(0, whole, 2 * LANES):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        others, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        first, second = two_normals(words, others)
        store(out, start, first)
        store(out, start + LANES, second)
    if whole < out.size:
        last = np.empty(2 * LANES)
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        others, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        first, second = two_normals(words, others)
        store(last, 0, first)
        store(last, LANES, second)
        out[whole:] = last[: out.size - whole]
    _save(stream, s0, s1, s2, s3)
