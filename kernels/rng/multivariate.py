"""Rows of normal numbers with given means and covariances, in nopython code and from Python, without BLAS.

The products are this package's own, eight rows at a time: unlike those of BLAS they have the same bits on every CPU.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.calls import check_array, flat, flattened, nopython_form, parameter, refused
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.jit.simd import like, loader, multiply_add, store
from flame_fast.kernels.rng.filling import fill_with_normals
from flame_fast.kernels.rng.streams import FLOATS, check_stream, check_stream_type
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

LANE_DOUBLES: Any = loader(types.float64, LANES)

#: Rows of the factor that are multiplied together: as many sums as stay in registers, and are not waited for.
TOGETHER = 4

#: Elements that one call of the kernel fills at most from Python: Ctrl-C waits for them.
PIECE = 1 << 21


@inlined
def _products(factor, mean, normals, row, rows, columns, width, products):
    """Store the sums of rows of the factor times the transposed normal numbers, each in the order of its columns."""
    zero = LANE_DOUBLES(normals, 0) * 0.0
    s0, s1, s2, s3 = zero, zero, zero, zero
    r1, r2, r3 = min(row + 1, rows - 1), min(row + 2, rows - 1), min(row + 3, rows - 1)
    for column in range(width):
        z = LANE_DOUBLES(normals, column * LANES)
        s0 = multiply_add(z, factor[row * columns + column], s0)
        s1 = multiply_add(z, factor[r1 * columns + column], s1)
        s2 = multiply_add(z, factor[r2 * columns + column], s2)
        s3 = multiply_add(z, factor[r3 * columns + column], s3)
    store(products, row * LANES, s0 + like(s0, mean[row]))
    store(products, r1 * LANES, s1 + like(s0, mean[r1]))
    store(products, r2 * LANES, s2 + like(s0, mean[r2]))
    store(products, r3 * LANES, s3 + like(s0, mean[r3]))


@inlined
def _last_used(factor, row, rows, columns):
    """Return how many columns of some rows of the factor are not all 0: a triangular one has half of them."""
    width = 0
    for i in range(row, min(row + TOGETHER, rows)):
        for column in range(columns - 1, width - 1, -1):
            if factor[i * columns + column] != 0.0:
                width = column + 1
                break
    return width


@compiled()
def fill_with_rows(stream: Any, means: Any, factor: Any, out: Any) -> None:
    """Fill an array of one dimension with rows: of the means, plus the factor, row by row, times standard normal numbers."""
    rows, columns = means.size, factor.size // means.size
    drawn = np.empty(columns * LANES)
    normals, products = np.empty(columns * LANES), np.empty((rows + TOGETHER) * LANES)
    widths = np.array([_last_used(factor, row, rows, columns) for row in range(0, rows, TOGETHER)])
    for start in range(0, out.size, rows * LANES):
        fill_with_normals(stream, drawn)
        for place in range(LANES):
            for column in range(columns):
                normals[column * LANES + place] = drawn[place * columns + column]
        for row in range(0, rows, TOGETHER):
            _products(factor, means, normals, row, rows, columns, widths[row // TOGETHER], products)
        for place in range(min(LANES, (out.size - start) // rows)):
            for row in range(rows):
                out[start + place * rows + row] = products[row * LANES + place]


def fill_multivariate_normals(stream: NDArray[np.uint64], mean: ArrayLike, factor: ArrayLike, out: NDArray[Any]) -> None:
    """Fill the rows of an array with normal numbers of the given means and covariances.

    Parameters
    ----------
    stream : uint64 array, shape (4, 8)
        As of `fill_normals`. It moves on by whole groups of 8 rows.
    mean : float64 array, shape (d,)
    factor : float64 array, shape (d, k)
        A matrix F, so that F @ F.T are the covariances, say of `numpy.linalg.cholesky`; contiguous in nopython code. Each
        row is `mean + F @ z` with k standard normal numbers z.
    out : float64 or float32 array, shape (..., d)
        In C order.

    Raises
    ------
    TypeError, ValueError
        As by `fill_normals`; shapes that do not fit.

    Examples
    --------
    >>> rows = np.empty((3, 2))
    >>> rng.fill_multivariate_normals(rng.stream(rng.key(7), 0), [0.0, 1.0], [[1.0, 0.0], [0.5, 1.0]], rows)
    """
    check_stream(stream)
    numbers, means, matrix = flat("out", out, *FLOATS), parameter("mean", mean), parameter("factor", factor)
    if means.ndim != 1 or not means.size or matrix.ndim != 2 or len(matrix) != means.size or not matrix.size:
        raise ValueError(f"factor: expected shape (d, k), mean of shape (d,), got {matrix.shape} and {means.shape}")
    if not out.flags.c_contiguous or out.shape[-1] != means.size:
        raise ValueError(f"out: expected rows of {means.size} numbers in C order, got shape {out.shape}")
    means, matrix = np.ascontiguousarray(means), np.ascontiguousarray(matrix).reshape(-1)
    step = means.size * LANES * max(1, PIECE // (means.size * LANES))
    for start in range(0, numbers.size, step):
        fill_with_rows(stream, means, matrix, numbers[start : start + step])


@nopython_form(fill_multivariate_normals)
def _fill_multivariate_normals(stream, mean, factor, out):
    check_stream_type("fill_multivariate_normals", stream)
    check_array("fill_multivariate_normals: out", out, *FLOATS)
    for name, kind, ndim in (("mean", mean, 1), ("factor", factor, 2)):
        contiguous = isinstance(kind, types.Array) and kind.dtype == types.float64 and kind.layout == "C"
        if not contiguous or kind.ndim != ndim:
            raise refused(f"fill_multivariate_normals: {name}", f"a contiguous float64 array of {ndim} dimensions", kind)
    if out.layout != "C":
        raise refused("fill_multivariate_normals: out", "an array in C order", out)

    def filled(stream, mean, factor, out):
        if mean.size == 0 or factor.size == 0 or factor.shape[0] != mean.size:
            raise ValueError("factor: expected shape (d, k), mean of shape (d,)")
        if out.shape[-1] != mean.size:
            raise ValueError("out: expected rows of as many numbers as mean has")
        fill_with_rows(stream, mean, factor.reshape(factor.size), flattened(out))

    return filled
