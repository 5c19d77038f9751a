"""Shuffles and permutations: every order alike, the same on any number of threads, of any array, and errors."""

from __future__ import annotations

import itertools
import math

import numba
import numpy as np
import pytest
from flame_fast.kernels import domains, keys, sampling
from flame_fast.kernels.jit.block_kernels import BLOCK
from flame_fast.kernels.sampling import permuting
from hypothesis import given, settings
from hypothesis import strategies as st
from pvalues import ODD, chi_square


@pytest.fixture
def small_parts(monkeypatch):
    """Have parts of at most 4 elements, so that arrays of some elements are merged, and steps of 64."""
    monkeypatch.setattr(permuting, "BLOCK", 4)


@given(st.integers(0, 3 * BLOCK), st.integers(0, 2**128 - 1))
@settings(deadline=None, max_examples=15)
def test_a_permutation_has_each_integer_once(n, seed):
    order = sampling.permutation(n, seed)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("size", [BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_threads_do_not_change_an_order(size):
    orders = []
    for threads in (1, 2):
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        try:
            orders.append(sampling.permutation(size, 3))
        finally:
            numba.set_num_threads(before)
    assert np.array_equal(*orders)
    assert not np.array_equal(orders[0], sampling.permutation(size, 4))


def orders_of(n, times):
    found = dict.fromkeys(itertools.permutations(range(n)), 0)
    for seed in range(times):
        x = np.arange(n, dtype=np.uint64)
        permuting.shuffle_words(x, keys.key(seed), domains.PERMUTATION)
        found[tuple(x.tolist())] += 1
    return list(found.values())


def test_each_order_of_a_part_is_as_likely():
    counts = orders_of(4, 12_000)
    assert ODD < chi_square(np.array(counts), 500.0) < 1 - ODD


def test_each_order_of_merged_parts_is_as_likely(small_parts):
    """Two parts of 2 and 3 elements: 120 orders; and three levels of merges for 10, by each element's place."""
    counts = orders_of(5, 12_000)
    assert ODD < chi_square(np.array(counts), 100.0) < 1 - ODD
    places = np.zeros((10, 10), np.int64)
    pairs = np.zeros((10, 10), np.int64)
    for seed in range(8000):
        x = np.arange(10, dtype=np.uint64)
        permuting.shuffle_words(x, keys.key(seed), domains.PERMUTATION)
        places[np.arange(10), x] += 1
        pairs[x[:-1], x[1:]] += 1
    assert ODD < chi_square(places.ravel(), 800.0) < 1 - ODD
    beside = pairs[~np.eye(10, dtype=bool)]
    assert ODD < chi_square(beside, beside.sum() / beside.size) < 1 - ODD


def test_elements_of_large_arrays_go_everywhere():
    """How many from each sixteenth come to each sixteenth, and how many neighbours stay neighbours."""
    size = 12 * BLOCK + 5
    order = sampling.permutation(size, 8)
    origins, places = order * 16 // size, np.arange(size) * 16 // size
    counts = np.histogram2d(origins, places, bins=16)[0]
    assert ODD < chi_square(counts.ravel(), size / 256) < 1 - ODD
    steps = np.diff(order)
    assert (abs(steps) == 1).sum() < 20
    rises = (steps > 0).sum()
    assert abs(rises - size / 2) < 5 * math.sqrt(size / 12)


def test_a_merge_goes_on_where_it_was_interrupted(monkeypatch):
    """Between so many steps a signal's handler may run: the last merge alone has more of them."""
    runs, run_blocks = [], permuting.run_blocks
    monkeypatch.setattr(permuting, "run_blocks", lambda *run, **few: runs.append(run) or run_blocks(*run, **few))
    size = 2 * permuting.STEPS + 9
    levels = 1 + (-(-size // BLOCK) - 1).bit_length()
    assert np.array_equal(np.sort(sampling.permutation(size, 2)), np.arange(size))
    assert len(runs) > levels


KINDS = {
    "bytes": np.int8,
    "shorts": np.float16,
    "singles": np.float32,
    "doubles": np.float64,
    "times": "M8[s]",
    "flags": bool,
    "complex numbers": complex,
    "texts": "U3",
    "objects": object,
    "records": [("a", "i4"), ("b", "f8")],
    "other bytes": ">i4",
}


@pytest.mark.parametrize("dtype", KINDS.values(), ids=KINDS)
def test_any_array_is_shuffled_along_its_first_axis(dtype):
    numbers = np.arange(300)
    x = np.zeros(300, dtype)
    if x.dtype.names:
        x["a"], x["b"] = numbers, numbers / 2
    else:
        x[:] = numbers.astype("i8") if np.dtype(dtype).kind == "M" else numbers % (2 if dtype is bool else 100)
    order = sampling.permutation(300, 5)
    expected = x[order]
    assert (sampling.permutation(x, 5) == expected).all()
    sampling.shuffle(x, 5)
    assert (x == expected).all()


@pytest.mark.parametrize("order", "CF")
def test_rows_stay_together(order):
    x = np.array(np.arange(600).reshape(100, 2, 3), order=order)
    expected = x[sampling.permutation(100, 5)]
    sampling.shuffle(x, 5)
    assert np.array_equal(x, expected)
    every_second = np.arange(200)[::2]
    sampling.shuffle(every_second, 5)
    assert np.array_equal(every_second, 2 * sampling.permutation(100, 5))


def test_a_copy_is_shuffled_of_what_is_only_read():
    x = np.arange(50)
    x.flags.writeable = False
    assert np.array_equal(sampling.permutation(x, 1), sampling.permutation(50, 1))
    assert sampling.permutation([3, 1, 2], 1).tolist() == np.array([3, 1, 2])[sampling.permutation(3, 1)].tolist()
    assert np.array_equal(x, np.arange(50))


def test_what_cannot_be_shuffled_is_refused():
    x = np.arange(5)
    x.flags.writeable = False
    with pytest.raises(ValueError, match=r"^x: expected a writable array, got a read-only one; permutation\(\) gives"):
        sampling.shuffle(x)
    for other in ([1, 2, 3], "text", 5, None, np.array(5)):
        with pytest.raises(TypeError, match="^x: expected an array of at least one dimension, got "):
            sampling.shuffle(other)
    for n in (2.5, None, "5"):
        with pytest.raises(TypeError, match="^x: expected an integer or an array, got "):
            sampling.permutation(n)
    with pytest.raises(ValueError, match="^x: expected an integer of at least 0, got -1$"):
        sampling.permutation(-1)
    with pytest.raises(MemoryError):
        sampling.permutation(2**60)
