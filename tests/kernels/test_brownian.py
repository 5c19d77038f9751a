"""Brownian paths by bisection: their covariance, their order, times at any distances, errors, nopython code."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from flame_fast.kernels import quasi
from hypothesis import example, given, settings
from hypothesis import strategies as st

GAPS = st.lists(st.floats(min_value=1e-6, max_value=1e3), min_size=1, max_size=40)


def covariance_of(times):
    """Return the covariance of the paths: they are linear in the normal numbers, so the identity matrix shows all of it."""
    weights = quasi.brownian_bridge(np.eye(len(times)), times)
    return weights.T @ weights


@given(GAPS)
@example([1.0])
@example([1.0, 1.0])
@example([0.25] * 16)
@example([1e-300, 1.0, 1e-9, 1e6])
@settings(deadline=None, max_examples=100)
def test_the_covariance_is_the_smaller_time(gaps):
    times = np.cumsum(gaps)
    if (np.diff(times) > 0).all():
        smaller = np.minimum.outer(times, times)
        assert np.allclose(covariance_of(times), smaller, rtol=1e-12, atol=0)


@given(GAPS)
@settings(deadline=None, max_examples=50)
def test_a_plan_comes_to_every_time_once_and_after_those_around_it(gaps):
    plan = quasi.bridge(np.cumsum(gaps))
    count = len(gaps)
    assert sorted(plan[:, 0].tolist()) == list(range(count))
    assert plan[0, 0] == count - 1
    known = {count, count - 1}
    for time, left, right, *_ in plan[1:].tolist():
        assert {left, right} <= known
        assert (left if left < count else -1) < time < right
        known.add(time)


def test_the_first_numbers_decide_the_coarse_shape():
    """Of 16 equal steps: the end, then the half, the quarters, the eighths, the rest; a known bridge between them."""
    times = np.arange(1, 17) / 16
    assert quasi.bridge(times)[:, 0].tolist() == [15, 7, 3, 11, 1, 5, 9, 13, 0, 2, 4, 6, 8, 10, 12, 14]
    shapes = quasi.brownian_bridge(np.eye(16)[:3], times)
    assert np.allclose(shapes[0], times, rtol=1e-15)
    assert np.allclose(shapes[1], np.minimum(times, 1 - times), rtol=1e-15)
    assert np.allclose(shapes[2], np.clip(np.minimum(times, 0.5 - times), 0, None) * np.sqrt(2), rtol=1e-15)
    shares = (quasi.brownian_bridge(np.eye(16), times) ** 2).sum(1)
    assert (np.diff(shares) <= 1e-15).all()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40])
def test_each_row_is_a_path_by_itself(count):
    times = [0.5, 1.0, 4.0, 4.5, 7.0]
    normals = quasi.sobol_normals(count, 5, 3)
    before = normals.copy()
    paths = quasi.brownian_bridge(normals, times)
    assert np.array_equal(normals, before)
    assert paths.shape == (count, 5)
    for row in range(count):
        assert np.array_equal(paths[row : row + 1], quasi.brownian_bridge(normals[row : row + 1], times))
    out = np.full_like(normals, np.nan)
    assert quasi.brownian_bridge(normals, times, out) is out
    assert np.array_equal(out, paths)
    assert quasi.brownian_bridge(normals, times, out=normals) is normals
    assert np.array_equal(normals, paths)


@numba.njit
def paths_in_nopython_code(plan, rows, row):
    quasi.fill_paths(plan, rows)
    quasi.fill_paths(plan, row)


def test_paths_are_the_same_in_place_and_in_nopython_code():
    times = np.cumsum(np.random.default_rng(3).uniform(0.1, 1, 11))
    plan = quasi.bridge(times)
    normals = quasi.sobol_normals(21, 11, 3)
    wanted = quasi.brownian_bridge(normals, times)
    rows, row = normals.copy(), normals[4].copy()
    quasi.fill_paths(plan, rows)
    quasi.fill_paths(plan, row)
    assert np.array_equal(rows, wanted)
    assert np.array_equal(row, wanted[4])
    rows, row = normals.copy(), normals[4].copy()
    paths_in_nopython_code(plan, rows, row)
    assert np.array_equal(rows, wanted)
    assert np.array_equal(row, wanted[4])


def test_points_make_better_paths_than_steps_do():
    """Why there are bridges: the mean of a path's exponential, by 1,024 points in 64 dimensions."""
    times = np.arange(1, 65) / 64

    def spread(paths_of):
        return np.std([np.exp(paths_of(quasi.sobol_normals(1024, 64, seed))).mean() for seed in range(16)])

    def by_steps(normals):
        return np.cumsum(normals, axis=1) / 8

    def by_bridge(normals):
        return quasi.brownian_bridge(normals, times)

    assert spread(by_bridge) < spread(by_steps) / 2


def test_times_that_do_not_increase_are_errors():
    expected = "^times: expected one or more numbers above 0, each above the one before, got "
    for times, got in (
        ([], r"an array of shape \(0,\)"),
        ([[1.0, 2.0]], r"an array of shape \(1, 2\)"),
        (2.0, r"an array of shape \(\)"),
        ([0.0, 1.0], "0.0 at index 0"),
        ([-1.0, 1.0], "-1.0 at index 0"),
        ([1.0, 1.0], "1.0 at index 1"),
        ([1.0, 3.0, 2.0], "2.0 at index 2"),
        ([1.0, np.nan, 2.0], "nan at index 1"),
        ([1.0, np.inf], "inf at index 1"),
    ):
        with pytest.raises(ValueError, match=expected + got):
            quasi.bridge(times)
        with pytest.raises(ValueError, match=expected + got):
            quasi.brownian_bridge(np.zeros((1, 2)), times)
    with pytest.raises(TypeError, match=expected):
        quasi.bridge(["soon", "later"])


def test_arrays_of_other_shapes_are_errors():
    times, plan = [1.0, 2.0], quasi.bridge([1.0, 2.0])
    for normals in (np.zeros((3, 3)), np.zeros(2), np.zeros((1, 1, 2))):
        with pytest.raises(ValueError, match=r"^normals: expected shape \(n, 2\), a column for each time, got "):
            quasi.brownian_bridge(normals, times)
    with pytest.raises(TypeError, match="^normals: expected numbers, got "):
        quasi.brownian_bridge([["a", "b"]], times)
    with pytest.raises(ValueError, match=r"^out: expected a C-contiguous, writable float64 array of shape \(3, 2\)"):
        quasi.brownian_bridge(np.zeros((3, 2)), times, out=np.zeros((2, 3)).T)
    with pytest.raises(ValueError, match=r"^normals: expected .* of shape \(3, 2\), got one of shape \(3, 3\)"):
        quasi.fill_paths(plan, np.zeros((3, 3)))
    with pytest.raises(TypeError, match="^normals: expected .*, got of float32"):
        quasi.fill_paths(plan, np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"^plan: expected .* of shape \(2, 6\), got one of shape \(2, 5\)"):
        quasi.fill_paths(np.zeros((2, 5)), np.zeros((3, 2)))
    with pytest.raises(TypeError, match="^plan: expected .*, got "):
        quasi.fill_paths(times, np.zeros((3, 2)))


def test_in_nopython_code_wrong_arrays_are_errors():
    plan, rows = quasi.bridge([1.0, 2.0]), np.zeros((3, 2))
    with pytest.raises(ValueError, match="^normals: expected a column for each time of the plan$"):
        paths_in_nopython_code(plan, np.zeros((3, 3)), rows[0])
    with pytest.raises(ValueError, match=r"^plan: expected what quasi\.bridge returns$"):
        paths_in_nopython_code(np.zeros((2, 5)), rows, rows[0])
    with pytest.raises(numba.TypingError) as caught:
        paths_in_nopython_code(plan, np.zeros((3, 2), np.float32), rows[0])
    assert "fill_paths(plan, normals): expected a C-contiguous float64 array as normals, got array(float32" in str(
        caught.value
    )
