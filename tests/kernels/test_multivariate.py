"""Multivariate normal rows: their moments, each row's sums, the factor of covariances, and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flame_fast.kernels import domains, rng, sampling
from flame_fast.kernels.jit.block_kernels import BLOCK
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.rng.filling import stream_of
from flame_fast.kernels.sampling import multivariate
from hypothesis import given, settings
from hypothesis import strategies as st
from pvalues import ODD, chi_square_of_normals


def covariances(d, rank=None, seed=1):
    a = np.random.default_rng(seed).normal(size=(d, rank or d))
    return a @ a.T


def expected(mean, factor, rows, seed):
    """Draw eight rows at a time from the documented streams."""
    d, k = factor.shape
    groups = max(1, BLOCK // (d * LANES))
    found = []
    for block in range(-(-rows // (groups * LANES))):
        stream = stream_of(rng.key(seed), np.uint64(block), domains.MULTIVARIATE_NORMAL)
        for _ in range(groups):
            z = np.empty(LANES * k)
            rng.fill_normals(stream, z)
            found.append(mean + z.reshape(LANES, k) @ factor.T)
    return np.concatenate(found)[:rows]


@pytest.mark.parametrize("d, k", [(1, 1), (2, 2), (3, 5), (7, 2), (40, 40)])
def test_each_row_is_the_factor_times_its_normal_numbers(d, k):
    factor = np.random.default_rng(2).normal(size=(d, k))
    mean = np.arange(d, dtype=float)
    rows = BLOCK // d + 29
    found = sampling.multivariate_normals(mean, factor=factor, size=rows, seed=6)
    assert found.shape == (rows, d)
    assert found == pytest.approx(expected(mean, factor, rows, 6), rel=1e-12, abs=1e-12)


def test_rows_have_the_means_and_covariances():
    cov, mean = covariances(6), np.array([1.0, -2.0, 0.0, 5.0, 1e3, 0.5])
    rows = sampling.multivariate_normals(mean, cov, 200_000, 3)
    z = np.linalg.solve(np.linalg.cholesky(cov), (rows - mean).T)
    assert all(ODD < chi_square_of_normals(each) < 1 - ODD for each in z)
    assert abs(np.corrcoef(z) - np.eye(6)).max() < 5 / math.sqrt(200_000)
    assert abs(z.mean(axis=1)).max() < 5 / math.sqrt(200_000)


def test_shapes_types_and_orders():
    cov = covariances(3)
    flat = sampling.multivariate_normals(0.0, cov, 20, 4)
    assert np.array_equal(sampling.multivariate_normals([0, 0, 0], cov, (4, 5), 4), flat.reshape(4, 5, 3))
    assert np.array_equal(sampling.multivariate_normals(0.0, cov, seed=4), flat[0])
    out = np.empty((4, 5, 3))
    assert sampling.multivariate_normals(0.0, cov, out=out, seed=4) is out
    assert np.array_equal(out, flat.reshape(4, 5, 3))
    singles = sampling.multivariate_normals(0.0, cov, 20, 4, dtype=np.float32)
    assert np.array_equal(singles, flat.astype(np.float32))
    assert sampling.multivariate_normals(0.0, cov, 0).shape == (0, 3)
    read_only = cov.copy()
    read_only.flags.writeable = False
    assert np.array_equal(sampling.multivariate_normals(0.0, read_only, 20, 4), flat)


def test_a_prefix_of_rows_does_not_depend_on_their_number():
    cov = covariances(5)
    assert np.array_equal(
        sampling.multivariate_normals(0.0, cov, 3 * BLOCK // 5, 4)[:9], sampling.multivariate_normals(0.0, cov, 9, 4)
    )


# ---- the factor ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_the_factor_times_its_transpose_is_the_matrix_also_of_a_lower_rank(d, rank, seed):
    cov = covariances(d, min(d, rank), seed)
    factor = np.zeros((d, d))
    assert multivariate.cholesky(cov, factor) == -1
    assert factor @ factor.T == pytest.approx(cov, abs=1e-12 * abs(cov).max())


def test_the_factor_of_a_definite_matrix_is_lapacks():
    cov = covariances(30)
    factor = np.zeros((30, 30))
    multivariate.cholesky(cov, factor)
    assert factor == pytest.approx(np.linalg.cholesky(cov), rel=1e-9, abs=1e-9)


def test_vanishing_variances_and_equal_coordinates_have_a_factor():
    for cov in (np.zeros((3, 3)), np.ones((4, 4)), np.diag([1.0, 0.0, 2.0]), np.diag([1e-300, 1e300])):
        rows = sampling.multivariate_normals(1.0, cov, 50, 1)
        assert (rows[:, np.diag(cov) == 0] == 1.0).all()
        assert np.isfinite(rows).all()
    assert (np.ptp(sampling.multivariate_normals(0.0, np.ones((4, 4)), 50, 1), axis=1) == 0).all()


WRONG = {
    "not semidefinite": (lambda: sampling.multivariate_normals(0, [[1, 2], [2, 1]]), ValueError, "its row 1 shows that"),
    "a negative variance": (lambda: sampling.multivariate_normals(0, [[-1.0]]), ValueError, "its row 0 shows that"),
    "a column that does not vanish": (lambda: sampling.multivariate_normals(0, [[0, 1], [1, 5]]), ValueError, "its row 0 "),
    "not symmetric": (lambda: sampling.multivariate_normals(0, [[1, 0.2], [0.3, 1]]), ValueError, "^cov: expected a symm"),
    "not square": (lambda: sampling.multivariate_normals(0, np.ones((2, 3))), ValueError, "^cov: expected a symmetric"),
    "a vector": (lambda: sampling.multivariate_normals(0, [1.0, 2.0]), ValueError, "^cov: expected a matrix of finite"),
    "a NaN": (lambda: sampling.multivariate_normals(0, [[math.nan]]), ValueError, "^cov: expected a matrix of finite"),
    "an infinite factor": (lambda: sampling.multivariate_normals(0, factor=[[math.inf]]), ValueError, "^factor: expected a"),
    "both": (lambda: sampling.multivariate_normals(0, [[1.0]], factor=[[1.0]]), TypeError, "^expected covariances `cov` or"),
    "neither": (lambda: sampling.multivariate_normals(0), TypeError, "^expected covariances `cov` or a `factor`"),
    "other means": (lambda: sampling.multivariate_normals([1, 2, 3], np.eye(2)), ValueError, "^mean: expected 2 numbers"),
    "another out": (
        lambda: sampling.multivariate_normals(0, np.eye(2), out=np.ones(3)),
        ValueError,
        "^out: expected an arr",
    ),
    "Fortran order": (
        lambda: sampling.multivariate_normals(0, np.eye(2), out=np.ones((3, 2), order="F")),
        ValueError,
        "^out: expected an array in C order whose last axis has 2 elements",
    ),
}


@pytest.mark.parametrize("call, error, told", WRONG.values(), ids=WRONG)
def test_what_is_no_distribution_is_refused_in_one_line(call, error, told):
    with pytest.raises(error, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)
