"""Arrays of random numbers, drawn on all cores: a seed and a size determine them, not the number of threads.

    from flame_fast.kernels import sampling

    z = sampling.normals(10_000_000, seed=7)

These are plain functions around the streams of `rng`: each block of 65,536 numbers has a stream. Call them directly, or make
services of a Runner of them: there, the array allocator places their results in shared memory.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import rng
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import add_atomically
from flame_fast.kernels.rng import ARRAY_DOMAIN
from numba import prange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

BLOCK = 1 << 16

#: Kinds of numbers that `_fill_block` draws.
WORDS, UNIFORMS, NORMALS, EXPONENTIALS = range(4)


@inlined
def _fill_block(key, kind, block, words, doubles):
    stream = rng.stream_of(key, block, ARRAY_DOMAIN)
    start = block * BLOCK
    if kind == WORDS:
        rng.fill_words(stream, words[start : start + BLOCK])
    elif kind == UNIFORMS:
        rng.fill_uniforms(stream, doubles[start : start + BLOCK])
    elif kind == NORMALS:
        rng.fill_normals(stream, doubles[start : start + BLOCK])
    else:
        rng.fill_exponentials(stream, doubles[start : start + BLOCK])


@compiled()
def _fill_alone(key, kind, words, doubles, first, last):
    for block in range(first, last):
        _fill_block(key, kind, block, words, doubles)
    return 0


@compiled(parallel=True)
def _fill_together(key, kind, words, doubles, first, last, threads):
    next_block = np.array([first])
    for _ in prange(threads):
        while True:
            block = add_atomically(next_block, 1)
            if block >= last:
                break
            _fill_block(key, kind, block, words, doubles)
    return 0


def _drawn(size: int, seed: int | None, kind: int) -> Any:
    size = whole_number("size", size)
    key = rng.key(seed)
    out: Any = np.empty(size, np.uint64)
    doubles = out.view(np.float64)
    run_blocks(
        -(-size // BLOCK),
        lambda first, last: _fill_alone(key, kind, out, doubles, first, last),
        lambda first, last, threads: _fill_together(key, kind, out, doubles, first, last, threads),
    )
    return out if kind == WORDS else doubles


def pairs(size: int, seed: int | None = None) -> NDArray[np.uint32]:
    """Return pairs of random 32-bit integers.

    Parameters
    ----------
    size : int
        How many pairs; 8 bytes each.
    seed : int, optional
        From 0 to below 2**128; None: drawn from the operating system.

    Returns
    -------
    uint32 array, shape (size, 2)

    Raises
    ------
    TypeError, ValueError
        A size or seed that is no integer, or out of range.
    MemoryError
        Not enough memory.

    Notes
    -----
    Uses as many threads as `numba.get_num_threads()` says; safe from several threads; Ctrl-C ends it within a tenth of
    a second.
    """
    words: NDArray[np.uint64] = _drawn(size, seed, WORDS)
    return words.view(np.uint32).reshape(-1, 2)


def uniforms(size: int, seed: int | None = None) -> NDArray[np.float64]:
    """Return random doubles in [0, 1), multiples of 2**-53: a float64 array of `size`. Otherwise as `pairs`."""
    return _drawn(size, seed, UNIFORMS)  # type: ignore[no-any-return]


def normals(size: int, seed: int | None = None) -> NDArray[np.float64]:
    """Return standard normal doubles: a float64 array of `size`. Otherwise as `pairs`."""
    return _drawn(size, seed, NORMALS)  # type: ignore[no-any-return]


def exponentials(size: int, seed: int | None = None) -> NDArray[np.float64]:
    """Return exponential doubles of mean 1: a float64 array of `size`. Otherwise as `pairs`."""
    return _drawn(size, seed, EXPONENTIALS)  # type: ignore[no-any-return]
