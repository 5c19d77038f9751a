"""Streams: 8 generators that step as one SIMD vector, and functions that fill arrays with their numbers."""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.domains import FREE
from flame_fast.kernels.jit.calls import (
    check_array,
    check_integer,
    expected,
    flat,
    flattened,
    nopython_form,
    refused,
)
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.keys import Key
from flame_fast.kernels.rng.filling import (
    fill_with_exponentials,
    fill_with_integers,
    fill_with_normals,
    fill_with_single_uniforms,
    fill_with_uniforms,
    fill_with_words,
    stream_of,
)
from flame_fast.kernels.rng.naming import check_name, key_and_number, number_of
from flame_fast.kernels.rng.ranges import range_within
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

#: Numbers that one call of a kernel draws at most when Python fills an array: Ctrl-C waits for them. A multiple of the
#: numbers of each method's steps.
PIECE = 1 << 22

A_STREAM = "a stream, as rng.stream(key, number) returns it"

FLOATS = np.float64, np.float32
INTEGERS = tuple(getattr(np, f"{sign}int{bits}") for bits in (64, 32, 16, 8) for sign in ("", "u"))


# ---- their beginning -----------------------------------------------------------------------------------------------------


def stream(key: Key, number: int) -> NDArray[np.uint64]:
    """Return the stream of a key and a number, at its beginning.

    Parameters
    ----------
    key : Key
        As of `key`.
    number : int
        From 0 to below 2**64: which of the key's streams.

    Returns
    -------
    uint64 array, shape (4, 8)
        The state of the 8 lanes. `fill_...` move it on: two threads must not use one stream at the same time.

    Raises
    ------
    TypeError, ValueError
        No key, no integer, or out of range. In nopython code a type that is wrong is an error of compiling.

    Examples
    --------
    >>> rng.stream(rng.key(7), 0).shape
    (4, 8)
    """
    return stream_of(*key_and_number(key, number), FREE)


@nopython_form(stream)
def _stream(key, number):
    check_name("stream", key, number)
    return lambda key, number: stream_of(key, number_of(number), FREE)


# ---- filling arrays ------------------------------------------------------------------------------------------------------


def check_stream(stream: Any) -> None:
    """Check an array that is to be a stream."""
    if not isinstance(stream, np.ndarray) or stream.dtype != np.uint64 or stream.shape != (4, LANES):
        raise expected("stream", A_STREAM, stream)
    if not (stream.flags.c_contiguous and stream.flags.writeable):
        raise expected("stream", A_STREAM, stream)


def _fill_from_python(kernel: Any, stream: Any, out: NDArray[Any], *parameters: Any) -> None:
    check_stream(stream)
    for start in range(0, out.size, PIECE):
        kernel(stream, *parameters, out[start : start + PIECE])


def check_stream_type(function: str, stream: Any) -> None:
    """Check the type of an array that is to be a stream in nopython code."""
    if not (isinstance(stream, types.Array) and stream.dtype == types.uint64 and stream.ndim == 2 and stream.layout == "C"):
        raise refused(f"{function}: stream", A_STREAM, stream)


def _check_types(function, stream, out, *kinds):
    check_stream_type(function, stream)
    check_array(f"{function}: out", out, *kinds)


def fill_words(stream: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Fill an array with random words.

    Parameters
    ----------
    stream : uint64 array, shape (4, 8)
        As of `stream`. It moves on by whole steps of 8 words.
    out : array
        Of any shape, in C or Fortran order, filled in the order of its memory: uint64, or what the function's name says.

    Raises
    ------
    TypeError
        No stream, or an array of another type, not contiguous, or read-only. In nopython code, an error of compiling.
    ValueError
        A state that has a lane of zeros.

    Notes
    -----
    One thread fills the array, without the GIL; `sampling` draws on all of them. Ctrl-C ends a call from Python within a
    tenth of a second.
    """
    _fill_from_python(fill_with_words, stream, flat("out", out, np.uint64))


@nopython_form(fill_words)
def _fill_words(stream, out):
    _check_types("fill_words", stream, out, np.uint64)
    return lambda stream, out: fill_with_words(stream, flattened(out))


def fill_pairs(stream: NDArray[np.uint64], out: NDArray[np.uint32]) -> None:
    """Fill a uint32 array of shape (n, 2), in C order, with random integers: a pair has the halves of a word.

    Otherwise as `fill_words`.
    """
    if not (isinstance(out, np.ndarray) and out.ndim == 2 and out.shape[1] == 2 and out.flags.c_contiguous):
        raise expected("out", "a contiguous uint32 array of shape (n, 2)", out)
    _fill_from_python(fill_with_words, stream, flat("out", out, np.uint32).view(np.uint64))


@nopython_form(fill_pairs)
def _fill_pairs(stream, out):
    _check_types("fill_pairs", stream, out, np.uint32)
    if out.ndim != 2 or out.layout != "C":
        raise refused("fill_pairs: out", "a contiguous uint32 array of shape (n, 2)", out)

    def filled(stream, out):
        if out.shape[1] != 2:
            raise ValueError("out: expected an array of shape (n, 2)")
        fill_with_words(stream, out.reshape(out.size).view(np.uint64))

    return filled


def fill_uniforms(stream: NDArray[np.uint64], out: NDArray[Any]) -> None:
    """Fill a float64 array with doubles in [0, 1), multiples of 2**-53: a word each.

    In a float32 array they are multiples of 2**-24. Otherwise as `fill_words`.
    """
    numbers = flat("out", out, *FLOATS)
    _fill_from_python(fill_with_uniforms if numbers.itemsize == 8 else fill_with_single_uniforms, stream, numbers)


@nopython_form(fill_uniforms)
def _fill_uniforms(stream, out):
    _check_types("fill_uniforms", stream, out, *FLOATS)
    if out.dtype == types.float64:
        return lambda stream, out: fill_with_uniforms(stream, flattened(out))
    return lambda stream, out: fill_with_single_uniforms(stream, flattened(out))


def fill_exponentials(stream: NDArray[np.uint64], out: NDArray[Any]) -> None:
    """Fill a float64 array with exponential doubles of mean 1, a word each: from 0 to 36.8.

    A float32 array has them rounded. Otherwise as `fill_words`.
    """
    _fill_from_python(fill_with_exponentials, stream, flat("out", out, *FLOATS))


@nopython_form(fill_exponentials)
def _fill_exponentials(stream, out):
    _check_types("fill_exponentials", stream, out, *FLOATS)
    return lambda stream, out: fill_with_exponentials(stream, flattened(out))


def fill_normals(stream: NDArray[np.uint64], out: NDArray[Any]) -> None:
    """Fill a float64 array with standard normal doubles, from -8.6 to 8.6.

    Two words make two doubles: the stream moves on by two steps at a time. A float32 array has them rounded. Otherwise as
    `fill_words`.
    """
    _fill_from_python(fill_with_normals, stream, flat("out", out, *FLOATS))


@nopython_form(fill_normals)
def _fill_normals(stream, out):
    _check_types("fill_normals", stream, out, *FLOATS)
    return lambda stream, out: fill_with_normals(stream, flattened(out))


def fill_integers(stream: NDArray[np.uint64], low: int, high: int, out: NDArray[Any]) -> None:
    """Fill an array of integers with those from `low` to below `high`, without bias.

    Parameters
    ----------
    stream : uint64 array, shape (4, 8)
        As of `fill_words`. A lane whose word would make a number likelier than others draws again, and the others with it.
    low, high : int
        The range, within the array's type; at most 2**64 numbers.
    out : array
        Of any type of integers; otherwise as of `fill_words`.

    Raises
    ------
    TypeError, ValueError
        As by `fill_words`; a range that is empty or that the array's type does not hold.
    """
    numbers = flat("out", out, *INTEGERS)
    first, span = range_within(low, high, numbers.dtype)
    _fill_from_python(fill_with_integers, stream, numbers, first, span)


@nopython_form(fill_integers)
def _fill_integers(stream, low, high, out):
    _check_types("fill_integers", stream, out, *INTEGERS)
    check_integer("fill_integers: low", low)
    check_integer("fill_integers: high", high)
    smallest, largest = out.dtype.minval, out.dtype.maxval

    def filled(stream, low, high, out):
        if low >= high or low < smallest or high - 1 > largest:
            raise ValueError("expected integers low < high within the range of the array's type")
        fill_with_integers(stream, np.uint64(low), np.uint64(high) - np.uint64(low), flattened(out))

    return filled
