"""Rows of normal numbers with given means and covariances: standard normal ones times a factor of the covariances.

The factor is this package's own, and so is the product (`rng.multivariate`): unlike those of LAPACK and BLAS they have the
same bits on every CPU.

References
----------
.. [1] G. H. Golub, C. F. Van Loan, "Matrix Computations", 4th edition, 2013: 4.2.5.
.. [2] N. J. Higham, "Analysis of the Cholesky decomposition of a semi-definite matrix", in "Reliable Numerical Computation",
   1990.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import domains, keys
from flame_fast.kernels.jit.block_kernels import BLOCK, BlockKernels
from flame_fast.kernels.jit.cache import compiled
from flame_fast.kernels.jit.calls import flat, parameter
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.rng.filling import stream_of
from flame_fast.kernels.rng.multivariate import fill_with_rows
from flame_fast.kernels.sampling.arguments import FLOATS, shape_of, target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.kernels.keys import Seed
    from flame_fast.kernels.sampling.arguments import Size
    from numpy.typing import ArrayLike, DTypeLike, NDArray

#: How far a covariance matrix may be from symmetric, as a share of its largest element; and a vanishing pivot from 0, as one
#: of the largest variance, times the number of rows.
ASYMMETRY = 1e-8
VANISHING = 2.0**-46


@compiled()
def cholesky(cov: Any, factor: Any) -> Any:
    """Compute a factor of a positive semidefinite matrix: a lower triangular one [1]_, unless a pivot vanishes.

    Return the row that shows that the matrix is none, or -1.
    """
    d = cov.shape[0]
    largest = 0.0
    for i in range(d):
        largest = max(largest, cov[i, i])
    limit = largest * VANISHING * d
    for j in range(d):
        pivot = cov[j, j]
        for k in range(j):
            pivot -= factor[j, k] * factor[j, k]
        if pivot <= limit:
            factor[:] = 0.0
            return _pivoted(cov, factor, limit)
        factor[j, j] = np.sqrt(pivot)
        for i in range(j + 1, d):
            rest = cov[i, j]
            for k in range(j):
                rest -= factor[i, k] * factor[j, k]
            factor[i, j] = rest / factor[j, j]
    return -1


@compiled()
def _pivoted(cov, factor, limit):
    """Compute the factor column by column, each by the row that has most of its variance left [2]_."""
    d = cov.shape[0]
    left, done = np.empty(d), np.zeros(d, np.bool_)
    for i in range(d):
        left[i] = cov[i, i]
    for column in range(d):
        pivot = -1
        for i in range(d):
            if left[i] < -limit:
                return i
            if not done[i] and (pivot < 0 or left[i] > left[pivot]):
                pivot = i
        if left[pivot] <= limit:
            return -1
        done[pivot] = True
        root = np.sqrt(left[pivot])
        factor[pivot, column] = root
        for i in range(d):
            if not done[i]:
                rest = cov[i, pivot]
                for k in range(column):
                    rest -= factor[i, k] * factor[pivot, k]
                factor[i, column] = rest / root
                left[i] -= factor[i, column] * factor[i, column]
    return -1


@BlockKernels
def _fill_rows(key, domain, block, out, a, b):
    """Fill rows: `a` has the means, `b` the factor."""
    fill_with_rows(stream_of(key, block, domain), a, b, out)


def multivariate_normals(
    mean: ArrayLike,
    cov: ArrayLike | None = None,
    size: Size = None,
    seed: Seed = None,
    *,
    factor: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return rows of normal numbers with the given means and covariances.

    Parameters
    ----------
    mean : array of float, shape (d,)
        Or a number for all of them.
    cov : array of float, shape (d, d), optional
        The covariances: symmetric and positive semidefinite. Their factor takes d**3 / 3 multiplications in each call: for
        large ones, give `factor`.
    size : int or tuple of int, optional
        How many rows. None: one, or those of `out`.
    seed : int, sequence of int, SeedSequence or Key, optional
        As of `uniforms`.
    factor : array of float, shape (d, k), optional
        Instead of `cov`: a matrix F, so that F @ F.T are the covariances. Each row is `mean + F @ z` with k standard normal
        numbers z.
    out, dtype
        As of `uniforms`; the last axis of `out`, in C order, has d elements.

    Returns
    -------
    array of `dtype`, shape (*size, d)

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `uniforms`; shapes that do not fit, a matrix that is not symmetric or has no factor, or both or none of them.

    Notes
    -----
    It takes no memory but the array's and the factor's. Otherwise as `uniforms`.

    Examples
    --------
    >>> sampling.multivariate_normals([0.0, 1.0], [[1.0, 0.5], [0.5, 1.0]], 3, seed=7).shape
    (3, 2)
    """
    matrix = _factor(cov, factor)
    rows = len(matrix)
    means = parameter("mean", mean)
    if means.shape not in ((), (rows,)):
        raise ValueError(
            f"mean: expected {rows} numbers, one for each row of the matrix, got an array of shape {means.shape}"
        )
    wanted = None if size is None and out is not None else (*(() if size is None else shape_of(size)), rows)
    made = target(wanted, out, dtype, *FLOATS)
    if not made.ndim or made.shape[-1] != rows or not made.flags.c_contiguous:
        raise ValueError(f"out: expected an array in C order whose last axis has {rows} elements, got shape {made.shape}")
    _fill_rows.fill(
        flat("out", made, *FLOATS),
        keys.key(seed),
        domains.MULTIVARIATE_NORMAL,
        np.ascontiguousarray(np.broadcast_to(means, (rows,))),
        matrix.reshape(-1),
        length=rows * LANES * max(1, BLOCK // (rows * LANES)),
    )
    return made


def _factor(cov: ArrayLike | None, factor: ArrayLike | None) -> NDArray[np.float64]:
    given = cov if factor is None else factor
    if given is None or (cov is not None and factor is not None):
        raise TypeError("expected covariances `cov` or a `factor` of them, and not both")
    name = "cov" if factor is None else "factor"
    matrix = parameter(name, given)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise ValueError(f"{name}: expected a matrix of finite numbers, got shape {matrix.shape}")
    if factor is not None:
        return np.ascontiguousarray(matrix)
    if matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T, rtol=0.0, atol=ASYMMETRY * abs(matrix).max()):
        raise ValueError(f"cov: expected a symmetric matrix, got one of shape {matrix.shape} that is none")
    found = np.zeros(matrix.shape)
    row = cholesky(np.ascontiguousarray(matrix), found)
    if row >= 0:
        raise ValueError(f"cov: expected a positive semidefinite matrix; its row {row} shows that it is none")
    return found
