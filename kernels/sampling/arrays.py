"""Arrays of uniform, normal and exponential numbers, of integers and of pairs of them."""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import domains, keys
from flame_fast.kernels.jit.block_kernels import BlockKernels
from flame_fast.kernels.jit.calls import flat
from flame_fast.kernels.rng.filling import (
    fill_with_exponentials,
    fill_with_integers,
    fill_with_normals,
    fill_with_single_uniforms,
    fill_with_uniforms,
    fill_with_words,
    stream_of,
)
from flame_fast.kernels.rng.ranges import range_within
from flame_fast.kernels.rng.streams import INTEGERS
from flame_fast.kernels.sampling.arguments import FLOATS, target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.kernels.keys import Key, Seed
    from flame_fast.kernels.sampling.arguments import Size
    from numpy.typing import DTypeLike, NDArray


@BlockKernels
def _fill_words(key, domain, block, out, a, b):
    fill_with_words(stream_of(key, block, domain), out)


@BlockKernels
def _fill_uniforms(key, domain, block, out, a, b):
    fill_with_uniforms(stream_of(key, block, domain), out)


@BlockKernels
def _fill_single_uniforms(key, domain, block, out, a, b):
    fill_with_single_uniforms(stream_of(key, block, domain), out)


@BlockKernels
def _fill_normals(key, domain, block, out, a, b):
    fill_with_normals(stream_of(key, block, domain), out)


@BlockKernels
def _fill_exponentials(key, domain, block, out, a, b):
    fill_with_exponentials(stream_of(key, block, domain), out)


@BlockKernels
def _fill_integers(key, domain, block, out, a, b):
    fill_with_integers(stream_of(key, block, domain), a.view(np.uint64)[0], b.view(np.uint64)[0], out)


def fill_exponentials(out: NDArray[np.float64], key: Key, domain: Any) -> None:
    """Fill an array of one dimension with exponential doubles of mean 1."""
    _fill_exponentials.fill(out, key, domain)


def fill_integers_below(out: NDArray[np.int64], end: int, key: Key, domain: Any, first: int = 0) -> None:
    """Fill an array of one dimension with integers from 0 to below `end`: those of the blocks from `first` on."""
    words = np.array([0, end], np.uint64).view(np.float64)
    _fill_integers.fill(out, key, domain, words[:1], words[1:], first=first)


def pairs(size: int, seed: Seed = None) -> NDArray[np.uint32]:
    """Return pairs of random 32-bit integers: a uint32 array of shape (size, 2). Otherwise as `uniforms`."""
    words = target(size, None, np.uint64, np.uint64)
    _fill_words.fill(words.reshape(-1), keys.key(seed), domains.PAIRS)
    return words.view(np.uint32).reshape(*words.shape, 2)


def uniforms(
    size: Size = None, seed: Seed = None, *, out: NDArray[Any] | None = None, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Return random doubles in [0, 1), multiples of 2**-53.

    Parameters
    ----------
    size : int or tuple of int, optional
        The array's shape; None: that of `out`.
    seed : int, sequence of int, SeedSequence or Key, optional
        From 0 to below 2**128, or what else `rng.key` takes; None: drawn from the operating system. Every call with one seed
        gives one array: in a service, tasks would all draw the same. There, write `rr.service(fn, seed=7)`, and in the task
        `seed=task_key()`, or give each call its own: `seed=[7, i]`.
    out : float64 or float32 array, optional
        What is filled and returned, in the order of its memory; C or Fortran order.
    dtype : dtype
        float64 or float32: multiples of 2**-24.

    Returns
    -------
    array of `dtype`, of the shape `size`

    Raises
    ------
    TypeError, ValueError
        A size or seed that is no integer, or out of range; `out` of another type or shape, read-only or not contiguous.
    MemoryError
        Not enough memory.

    Notes
    -----
    Uses as many threads as `numba.get_num_threads()` says; safe from several threads; Ctrl-C ends it within a tenth of
    a second. It takes no memory but the array's.

    Examples
    --------
    >>> sampling.uniforms((2, 3), seed=7).shape
    (2, 3)
    """
    made = target(size, out, dtype, *FLOATS)
    kernels = _fill_uniforms if made.itemsize == 8 else _fill_single_uniforms
    kernels.fill(flat("out", made, *FLOATS), keys.key(seed), domains.UNIFORMS)
    return made


def normals(
    size: Size = None, seed: Seed = None, *, out: NDArray[Any] | None = None, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Return standard normal doubles, from -8.6 to 8.6; as float32 they are rounded. Otherwise as `uniforms`."""
    made = target(size, out, dtype, *FLOATS)
    _fill_normals.fill(flat("out", made, *FLOATS), keys.key(seed), domains.NORMALS)
    return made


def exponentials(
    size: Size = None, seed: Seed = None, *, out: NDArray[Any] | None = None, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Return exponential doubles of mean 1, from 0 to 36.8; as float32 they are rounded. Otherwise as `uniforms`."""
    made = target(size, out, dtype, *FLOATS)
    _fill_exponentials.fill(flat("out", made, *FLOATS), keys.key(seed), domains.EXPONENTIALS)
    return made


def integers(
    low: int,
    high: int | None = None,
    size: Size = None,
    seed: Seed = None,
    *,
    endpoint: bool = False,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike = np.int64,
) -> NDArray[Any]:
    """Return integers from `low` to below `high`, or from 0 to below `low`, without bias.

    Parameters
    ----------
    low, high : int
        The range, which the array's type has to hold.
    size, seed
        As of `uniforms`.
    endpoint : bool
        Whether `high` is one of them, too.
    out : array of integers, optional
        As of `uniforms`.
    dtype : dtype
        Any type of integers.

    Returns
    -------
    array of `dtype`, of the shape `size`

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `uniforms`; an empty range, or one that the type does not hold.
    """
    made = target(size, out, dtype, *INTEGERS)
    first, end = (0, low) if high is None else (low, high)
    start, span = range_within(first, end, made.dtype, endpoint=endpoint)
    words = np.array([start, span]).view(np.float64)
    _fill_integers.fill(flat("out", made, *INTEGERS), keys.key(seed), domains.INTEGERS, words[:1], words[1:])
    return made
