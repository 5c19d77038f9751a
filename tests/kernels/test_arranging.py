"""Orders, choices and rows of normal numbers from generators and streams: the same in nopython code and from Python.

Seeds are fixed, and none was chosen for its result (see `pvalues`).
"""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from flame_fast.kernels import rng, sampling
from flame_fast.kernels.rng import arranging
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError
from pvalues import ODD, chi_square

P = np.array([0.1, 0.0, 0.3, 0.05, 0.55])
ROWS = np.arange(21).reshape(7, 3)


def generator(number):
    return rng.generator(rng.key(9), number)


def in_both(compiled, plain, *arguments):
    """Return what nopython code gives, after Python has given the same from an equal generator, left in an equal state."""
    here, there = generator(3), generator(3)
    found, expected = compiled(there, *arguments), plain(here, *arguments)
    assert np.array_equal(found, expected)
    assert np.array_equal(here, there)
    return found


# ---- orders --------------------------------------------------------------------------------------------------------------


@numba.njit
def order_of(g, n):
    return rng.permutation(g, n)


@numba.njit
def shuffled(g, x):
    rng.shuffle(g, x)
    return x


@numba.njit
def orders_counted(g, times):
    """Count the orders of four elements, as numbers of base 4."""
    counts = np.zeros(256, np.int64)
    x = np.arange(4)
    for _ in range(times):
        rng.shuffle(g, x)
        counts[((x[0] * 4 + x[1]) * 4 + x[2]) * 4 + x[3]] += 1
    return counts


def test_each_order_is_as_likely():
    counts = orders_counted(generator(1), 120_000)
    assert ODD < chi_square(counts[counts > 0], 5000.0) < 1 - ODD
    assert (counts > 0).sum() == 24


@given(st.integers(0, 400))
@settings(deadline=None, max_examples=30)
def test_an_order_has_each_integer_once(n):
    assert np.array_equal(np.sort(in_both(order_of, rng.permutation, n)), np.arange(n))


@pytest.mark.parametrize(
    "x",
    [np.arange(40.0), np.arange(80)[::2], ROWS, ROWS.T, np.arange(24).reshape(4, 3, 2), np.zeros(0), np.zeros((3, 0))],
    ids=["doubles", "strided", "rows", "columns", "three axes", "nothing", "empty rows"],
)
def test_arrays_are_shuffled_in_place_along_their_first_axis(x):
    mine, theirs = x.copy(order="K"), x.copy(order="K")
    rng.shuffle(generator(2), mine)
    assert shuffled(generator(2), theirs) is theirs
    order = rng.permutation(generator(2), len(x))
    assert np.array_equal(mine, x[order])
    assert np.array_equal(theirs, x[order])
    assert np.array_equal(rng.permutation(generator(2), x), x[order])
    assert np.array_equal(order_of(generator(2), x), x[order])


@pytest.mark.parametrize("dtype", ["i1", "f2", "f8", "M8[s]", "U3", object, [("a", "i4"), ("b", "f8")], ">i4"])
def test_elements_of_any_type_are_shuffled_from_python(dtype):
    x = np.zeros(50, dtype)
    numbers = np.arange(50)
    if x.dtype.names:
        x["a"], x["b"] = numbers, numbers / 2
    else:
        x[:] = numbers.astype("i8") if np.dtype(dtype).kind == "M" else numbers
    expected = x[rng.permutation(generator(4), 50)]
    rng.shuffle(generator(4), x)
    assert (x == expected).all()


def test_long_arrays_are_shuffled_piece_by_piece(monkeypatch):
    """A signal's handler may run between them."""
    expected = rng.permutation(generator(5), 1000)
    chosen = rng.choice(generator(5), 77, 1000)
    rows = np.arange(3000).reshape(1000, 3)
    monkeypatch.setattr(arranging, "PIECE", 64)
    for order in "CF":
        assert np.array_equal(rng.permutation(generator(5), np.array(rows, order=order)), rows[expected])
        assert np.array_equal(sampling.permutation(rows, 5), rows[sampling.permutation(1000, 5)])
    assert np.array_equal(rng.permutation(generator(5), 1000), expected)
    assert np.array_equal(rng.choice(generator(5), 77, 1000), chosen)


# ---- choices -------------------------------------------------------------------------------------------------------------


@numba.njit
def chosen(g, a, size, replace):
    return rng.choice(g, a, size, replace)


@numba.njit
def chosen_by_weights(g, a, size, replace, p):
    return rng.choice(g, a, size, replace, p)


@numba.njit
def one(g, a):
    return rng.choice(g, a)


@numba.njit
def subsets_counted(g, times, replace, p):
    """Count pairs out of five, in their order, as numbers of base 5."""
    counts = np.zeros(25, np.int64)
    for _ in range(times):
        pair = rng.choice(g, 5, 2, replace, p)
        counts[pair[0] * 5 + pair[1]] += 1
    return counts


@pytest.mark.parametrize("n", [5, 90], ids=["by a shuffle's beginning", "by Floyd's method"])
def test_each_ordered_subset_is_as_likely(n):
    g, times = generator(6), 20_000
    pairs = np.array([rng.choice(g, n, 2, replace=False) for _ in range(times)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for column in pairs.T:
        assert ODD < chi_square(np.bincount(column, minlength=n), times / n) < 1 - ODD
    assert abs((pairs[:, 0] < pairs[:, 1]).mean() - 0.5) < 5 * math.sqrt(0.25 / times)
    if n == 5:
        counts = np.bincount(pairs[:, 0] * 5 + pairs[:, 1], minlength=25)
        assert ODD < chi_square(counts[counts > 0], times / 20) < 1 - ODD


def test_elements_have_their_probabilities():
    counts = np.bincount(in_both(chosen_by_weights, rng.choice, 5, 400_000, True, P), minlength=5)
    assert counts[1] == 0
    assert ODD < chi_square(counts[P > 0], 400_000 * P[P > 0]) < 1 - ODD


def test_with_probabilities_and_without_replacement_they_are_chosen_one_after_the_other():
    times = 100_000
    counts = subsets_counted(generator(7), times, False, P).reshape(5, 5)
    expected = P[:, None] * P / (1 - P[:, None]) * (1 - np.eye(5)) * times
    assert counts[expected == 0].sum() == 0
    assert ODD < chi_square(counts[expected > 0], expected[expected > 0]) < 1 - ODD


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("size", [0, 1, 6, (2, 3)])
def test_nopython_code_and_python_choose_alike(size, replace):
    for a in (9, 10_000, ROWS, np.arange(9.0)):
        found = in_both(chosen, rng.choice, a, size, replace)
        wanted = size if isinstance(size, tuple) else (size,)
        assert found.shape == (*wanted, *np.shape(a)[1:])
        if not replace:
            rows = found.reshape(-1, *np.shape(a)[1:])
            assert len(np.unique(rows, axis=0)) == math.prod(wanted)


def test_one_element_has_no_array_around_it():
    assert in_both(one, rng.choice, 9) == one(generator(3), 9)
    assert np.ndim(rng.choice(generator(3), 9)) == 0
    assert one(generator(3), ROWS).shape == rng.choice(generator(3), ROWS).shape == (3,)


def test_probabilities_may_sum_up_to_almost_one():
    """The last element that is possible is chosen where rounding leads beyond the sum."""
    p = np.array([0.3, 0.7 - 1e-9, 0.0])
    assert set(rng.choice(generator(1), 3, 1000, p=p).tolist()) == {0, 1}


# ---- rows of normal numbers ----------------------------------------------------------------------------------------------

MEANS = np.array([1.0, -2.0, 0.5])
FACTOR = np.array([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-0.3, 0.4, 0.7]])


@numba.njit
def rows_filled(stream, mean, factor, out):
    rng.fill_multivariate_normals(stream, mean, factor, out)
    return out


@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (8, 3), (13, 3), (2, 5, 3), (3,)])
def test_rows_are_the_same_in_nopython_code_and_those_of_sampling(shape, dtype):
    mine, theirs = np.empty(shape, dtype), np.empty(shape, dtype)
    streams = rng.stream(rng.key(3), 1), rng.stream(rng.key(3), 1)
    rng.fill_multivariate_normals(streams[0], MEANS, FACTOR, mine)
    rows_filled(streams[1], MEANS, FACTOR, theirs)
    assert np.array_equal(mine, theirs)
    assert np.array_equal(*streams)


def test_rows_have_their_means_and_covariances():
    size = 300_000
    rows = rows_filled(rng.stream(rng.key(4), 0), MEANS, FACTOR, np.empty((size, 3)))
    cov = FACTOR @ FACTOR.T
    z = (rows.mean(axis=0) - MEANS) / np.sqrt(cov.diagonal() / size)
    assert abs(z).max() < 5
    errors = np.sqrt((cov**2 + np.outer(cov.diagonal(), cov.diagonal())) / size)
    assert (abs(np.cov(rows.T) - cov) < 5 * errors).all()


def test_pieces_from_python_make_one_array(monkeypatch):
    from flame_fast.kernels.rng import multivariate

    whole, parts = np.empty((100, 3)), np.empty((100, 3))
    rng.fill_multivariate_normals(rng.stream(rng.key(3), 1), MEANS, FACTOR, whole)
    monkeypatch.setattr(multivariate, "PIECE", 60)
    rng.fill_multivariate_normals(rng.stream(rng.key(3), 1), MEANS, FACTOR, parts)
    assert np.array_equal(whole, parts)


# ---- what is refused -----------------------------------------------------------------------------------------------------

FROZEN = np.arange(3)
FROZEN.flags.writeable = False

WRONG = {
    "no generator": (lambda: rng.shuffle(np.zeros(3, np.uint64), np.arange(3)), TypeError, "^g: expected a generator"),
    "a seed": (lambda: rng.permutation(7, 3), TypeError, "^g: expected a generator"),
    "a list": (lambda: rng.shuffle(generator(1), [1, 2]), TypeError, "^x: expected an array of at least one dimension"),
    "read-only": (lambda: rng.shuffle(generator(1), FROZEN), ValueError, "^x: expected a writable array, got a read-only"),
    "a negative length": (lambda: rng.permutation(generator(1), -1), ValueError, "^x: expected an integer"),
    "a float": (lambda: rng.permutation(generator(1), 2.5), TypeError, "^x: expected an integer or an array, got 2.5$"),
    "none": (lambda: rng.choice(generator(1), 0, 1), ValueError, "^a: expected at least one element"),
    "too many": (lambda: rng.choice(generator(1), 5, 6, False), ValueError, "^size: expected at most 5 elements"),
    "too many possible": (
        lambda: rng.choice(generator(1), 5, 5, False, P),
        ValueError,
        "^size: expected at most 4 elements",
    ),
    "a size": (lambda: rng.choice(generator(1), 5, 1.5), TypeError, "^size: expected an integer or a tuple of integers"),
    "other probabilities": (
        lambda: rng.choice(generator(1), 4, p=P),
        ValueError,
        "^p: expected a probability for each of 4",
    ),
    "a sum": (lambda: rng.choice(generator(1), 5, p=P + 0.1), ValueError, "^p: expected numbers of at least 0 that sum up"),
    "a factor": (
        lambda: rng.fill_multivariate_normals(rng.stream(rng.key(1), 0), MEANS, FACTOR[:2], np.empty((4, 3))),
        ValueError,
        r"^factor: expected shape \(d, k\)",
    ),
    "rows": (
        lambda: rng.fill_multivariate_normals(rng.stream(rng.key(1), 0), MEANS, FACTOR, np.empty((3, 4))),
        ValueError,
        "^out: expected rows of 3 numbers in C order",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


WRONG_THERE = {
    "a negative length": (lambda: order_of(generator(1), -1), ValueError, "^x: expected an integer of at least 0$"),
    "too many": (lambda: chosen(generator(1), 5, 6, False), ValueError, "^size: expected no more elements than there are"),
    "none": (lambda: chosen(generator(1), 0, 1, True), ValueError, "^a: expected at least one element"),
    "other probabilities": (lambda: chosen_by_weights(generator(1), 4, 1, True, P), ValueError, "^p: expected a probabil"),
    "a sum": (lambda: chosen_by_weights(generator(1), 5, 1, True, 2 * P), ValueError, "^p: expected numbers of at least 0"),
    "a short generator": (lambda: order_of(np.zeros(3, np.uint64), 3), ValueError, "^g: no generator; take it from rng.gen"),
    "no generator": (lambda: order_of(7, 3), TypingError, "permutation: g: expected a generator"),
    "a float": (lambda: order_of(generator(1), 2.5), TypingError, "permutation: x: expected an integer, got float64"),
    "a list": (lambda: shuffled(generator(1), (1, 2)), TypingError, "shuffle: x: expected a writable array"),
    "rows": (
        lambda: rows_filled(rng.stream(rng.key(1), 0), MEANS, FACTOR, np.empty((3, 4))),
        ValueError,
        "^out: expected rows of as many numbers as mean has$",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG_THERE.values(), ids=WRONG_THERE)
def test_what_is_wrong_is_refused_in_nopython_code(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
