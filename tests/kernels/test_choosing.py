"""Choices: with and without replacement, by probabilities, of arrays and integers, and errors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from flame_fast.kernels import keys, rng, sampling
from flame_fast.kernels.rng.arranging import table_for
from flame_fast.kernels.sampling import choosing
from hypothesis import given, settings
from hypothesis import strategies as st
from pvalues import ODD, chi_square, chi_square_of_cells, chi_square_tail

P = np.array([0.1, 0.0, 0.3, 0.05, 0.55])


def test_all_are_chosen_alike():
    assert ODD < chi_square_of_cells(sampling.choice(13, 130_000, 1), 13) < 1 - ODD


@pytest.mark.parametrize("n", [5, 1000])
def test_elements_are_chosen_by_their_probabilities(n):
    p = P if n == 5 else np.arange(n) / (n * (n - 1) / 2)
    counts = np.bincount(sampling.choice(n, 400_000, 2, p=p), minlength=n)
    assert not counts[p == 0].any()
    assert ODD < chi_square(counts[p > 0], 400_000 * p[p > 0]) < 1 - ODD


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60).filter(lambda p: sum(p) > 1e-3))
@settings(deadline=None)
def test_an_alias_table_gives_each_element_its_share(shares):
    p = np.array(shares) / choosing.total_of(np.array(shares))
    accepted, other = np.empty(len(p)), np.empty(len(p))
    choosing.alias_table(p, accepted, other)
    assert ((accepted >= 0) & (accepted <= 1)).all()
    found = accepted + np.bincount(other.astype(int), 1.0 - accepted, minlength=len(p))
    assert found / len(p) == pytest.approx(p, abs=1e-14)


# ---- without replacement -------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(0, 500), st.booleans(), st.integers(0, 2**64))
@settings(deadline=None)
def test_without_replacement_none_is_chosen_twice(n, count, shuffle, seed):
    count = min(n, count)
    found = sampling.choice(n, count, seed, replace=False, shuffle=shuffle)
    assert len(set(found.tolist())) == count
    assert ((found >= 0) & (found < n)).all()


@pytest.mark.parametrize("count, of", [(3, 5), (2, 100)], ids=["many", "few"])
def test_each_order_of_each_subset_is_as_likely(count, of, monkeypatch):
    """By the beginning of a shuffle, and by Floyd's method."""
    among = 5
    monkeypatch.setattr(choosing, "LARGE_SHARE", 1 / 32 if of == 5 else 1.0)
    found = dict.fromkeys(itertools.permutations(range(among), count), 0)
    for seed in range(200 * len(found)):
        found[tuple(sampling.choice(among, count, seed, replace=False).tolist())] += 1
    assert ODD < chi_square(np.array(list(found.values())), 200.0) < 1 - ODD


def test_floyds_method_finds_its_way_through_a_full_table():
    """All of a range but one, and numbers that differ in their highest bits alone."""
    found = np.empty(1000, np.int64)
    choosing.choose_some_more(rng.generator(keys.key(1), 77), 1001, found, table_for(1000), 0, 1000)
    assert len(set(found.tolist())) == 1000
    assert len(set(sampling.choice(2**62, 5000, 1, replace=False).tolist())) == 5000


def test_with_probabilities_and_without_replacement_they_are_chosen_one_after_the_other():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    expected = {(a, b): p[a] * p[b] / (1 - p[a]) for a, b in itertools.permutations(range(4), 2)}
    times = 8000
    counts = dict.fromkeys(expected, 0)
    for seed in range(times):
        counts[tuple(sampling.choice(4, 2, seed, replace=False, p=p).tolist())] += 1
    assert ODD < chi_square(np.array(list(counts.values())), times * np.array(list(expected.values()))) < 1 - ODD
    assert sorted(sampling.choice(5, 4, 1, replace=False, p=P).tolist()) == [0, 2, 3, 4]


def test_all_of_a_large_range_is_chosen_alike(monkeypatch):
    """A range of which all is shuffled, not the beginning alone."""
    monkeypatch.setattr(choosing, "FEW", 100)
    found = np.concatenate([sampling.choice(400, 200, seed, replace=False) for seed in range(400)])
    variance = 400 * 0.5 * 0.5
    z = (np.bincount(found, minlength=400) - 200.0) / math.sqrt(variance)
    assert ODD < chi_square_tail((z * z).sum(), 399) < 1 - ODD


# ---- of arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_are_chosen_from_along_an_axis():
    letters = np.array(list("abcde"))
    assert np.array_equal(sampling.choice(letters, (2, 3), 4), letters[sampling.choice(5, (2, 3), 4)])
    assert sampling.choice(["x", "y"], 5, 4).tolist() == [["x", "y"][i] for i in sampling.choice(2, 5, 4)]
    rows = np.arange(12).reshape(3, 4)
    assert np.array_equal(sampling.choice(rows, 7, 4), rows[sampling.choice(3, 7, 4)])
    assert np.array_equal(sampling.choice(rows, 7, 4, axis=1), rows[:, sampling.choice(4, 7, 4)])
    assert sampling.choice(rows, seed=4).shape == (4,)
    assert isinstance(sampling.choice(5, seed=4), np.int64)
    assert type(sampling.choice([0.5, 1.5], seed=4)) is np.float64
    assert sampling.choice(0, 0).size == sampling.choice([], (3, 0)).size == 0


@pytest.mark.parametrize("p", [None, P], ids=["alike", "by weights"])
def test_many_elements_are_taken_part_by_part(p):
    rows, count = np.arange(10, dtype=np.int16).reshape(2, 5), choosing.AT_ONCE + 3
    expected = sampling.choice(5, count, 4, p=p)
    assert np.array_equal(sampling.choice(rows, count, 4, p=p, axis=1), rows[:, expected])
    assert np.array_equal(sampling.choice(rows[1], count, 4, p=p), rows[1][expected])


WRONG = {
    "no such axis": (
        lambda: sampling.choice([[1, 2]], 1, axis=2),
        ValueError,
        "^axis: expected one of the 2 axes of a, got 2$",
    ),
    "too many": (lambda: sampling.choice(5, 6, replace=False), ValueError, "^size: expected at most 5 elements to choose"),
    "too many possible": (lambda: sampling.choice(5, 5, replace=False, p=P), ValueError, "^size: expected at most 4 elem"),
    "none": (lambda: sampling.choice(0, 1), ValueError, "^a: expected at least one element to choose from, got none$"),
    "none of a list": (lambda: sampling.choice([], 1), ValueError, "^a: expected at least one element"),
    "no integer": (lambda: sampling.choice(2.5, 1), TypeError, "^a: expected an integer or an array, got 2.5$"),
    "a sum": (
        lambda: sampling.choice(2, 1, p=[0.5, 0.6]),
        ValueError,
        r"^p: expected numbers of at least 0 that sum up to 1",
    ),
    "a negative one": (lambda: sampling.choice(2, 1, p=[-0.5, 1.5]), ValueError, "^p: expected numbers of at least 0"),
    "a NaN": (lambda: sampling.choice(2, 1, p=[math.nan, 1.0]), ValueError, "^p: expected numbers of at least 0"),
    "too few": (lambda: sampling.choice(3, 1, p=[0.5, 0.5]), ValueError, "^p: expected a probability for each of 3"),
    "text": (lambda: sampling.choice(3, 1, p="abc"), TypeError, "^p: expected a number or an array of numbers"),
}


@pytest.mark.parametrize("call, error, told", WRONG.values(), ids=WRONG)
def test_what_cannot_be_chosen_is_refused_in_one_line(call, error, told):
    with pytest.raises(error, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)
