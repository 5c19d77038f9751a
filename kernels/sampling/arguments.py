"""What the functions of `sampling` take alike: a size, an array to fill, a type, parameters of a distribution."""

from __future__ import annotations

import contextlib

import numpy as np
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.block_kernels import WHOLE, Spread
from flame_fast.kernels.jit.calls import expected, flat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    Size: TypeAlias = "int | tuple[int, ...] | None"

FLOATS = np.float64, np.float32

#: Bytes that no array has.
TOO_MANY = 1 << 62


def shape_of(size: Size) -> tuple[int, ...]:
    """Return the shape that a size tells.

    Raises
    ------
    TypeError, ValueError
        No integer, nor a sequence of integers, or a negative one.
    """
    lengths = size if isinstance(size, tuple | list) else (size,)
    return tuple(whole_number("size", length, expected="an integer or a tuple of integers") for length in lengths)


def target(
    size: Size, out: NDArray[Any] | None, dtype: Any, *kinds: Any, shape: tuple[int, ...] | None = None
) -> NDArray[Any]:
    """Return the array to be filled: `out`, or a new one.

    Parameters
    ----------
    size : int or tuple of int, optional
        The shape. None: that of `out`, or else `shape`.
    out : array, optional
        What is to be filled.
    dtype
        The type of a new array.
    *kinds
        The types that are possible.
    shape : tuple of int, optional
        That of the parameters.

    Raises
    ------
    TypeError, ValueError
        Another type, or shapes that differ.
    MemoryError
        Not enough memory.
    """
    if size is not None:
        wanted: tuple[int, ...] | None = shape_of(size)
    else:
        wanted = shape if out is None else None
    if out is not None:
        flat("out", out, *kinds)
        if wanted is not None and out.shape != wanted:
            raise ValueError(f"size: expected {out.shape}, the shape of out, got {size!r}")
        return out
    if wanted is None:
        raise TypeError("size: expected an integer or a tuple of integers, got None without an array `out`")
    return empty(wanted, kind_of(dtype, *kinds))


def kind_of(dtype: Any, *kinds: Any) -> np.dtype[Any]:
    """Return the type of an array's elements.

    Raises
    ------
    TypeError
        None of the possible ones.
    """
    with contextlib.suppress(TypeError):
        found = np.dtype(dtype)
        if found in kinds:
            return found
    raise expected("dtype", " or ".join(np.dtype(kind).name for kind in kinds), dtype)


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return a new array, or raise a `MemoryError`, for shapes, too, that NumPy takes for an error of the program."""
    numbers = 1
    for length in shape:
        numbers *= max(length, 1)
    if numbers * np.dtype(dtype).itemsize >= TOO_MANY:
        raise MemoryError(f"no memory has {numbers:,} numbers of type {np.dtype(dtype).name}")
    return np.empty(shape, dtype)


def common_shape(*parameters: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the shape that parameters have together.

    Raises
    ------
    ValueError
        They have none.
    """
    try:
        return np.broadcast_shapes(*(values.shape for values in parameters))
    except ValueError:
        shapes = " and ".join(str(values.shape) for values in parameters)
        raise ValueError(f"the shapes of the parameters, {shapes}, do not fit each other") from None


def check_broadcast(shape: tuple[int, ...], *parameters: NDArray[np.float64]) -> None:
    """Check that parameters can be broadcast to a shape.

    Raises
    ------
    ValueError
    """
    wanted = common_shape(*parameters)
    try:
        fits = np.broadcast_shapes(wanted, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"size: expected a shape that parameters of shape {wanted} are broadcast to, got {shape}")


def spread_over(values: NDArray[np.float64], out: NDArray[Any]) -> tuple[NDArray[np.float64], Spread]:
    """Return a parameter's values in one dimension, and how they are spread over an array: without a copy of each."""
    if values.size == 1:
        return np.ascontiguousarray(values).reshape(1), WHOLE
    if not (values.flags.c_contiguous or values.flags.f_contiguous):
        values = np.ascontiguousarray(values)
    strides = np.broadcast_to(values, out.shape).strides
    axes = list(zip(out.shape, (stride // values.itemsize for stride in strides), strict=True))
    merged: list[tuple[int, int]] = []
    for length, stride in axes if out.flags.c_contiguous else reversed(axes):
        if merged and merged[-1][1] == length * stride:
            merged[-1] = merged[-1][0] * length, stride
        elif length > 1 or not merged:
            merged.append((length, stride))
    lengths, places = np.array(merged, np.int64).T.copy()
    return values.ravel(order="K"), Spread(lengths, places)
