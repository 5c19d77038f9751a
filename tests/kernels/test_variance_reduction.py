"""Antithetic, stratified and Latin hypercube draws: each stratum once, slices of the whole, the same bits from anywhere."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from flame_fast.kernels import keys, variance
from flame_fast.kernels.domains import HYPERCUBE, STRATA
from flame_fast.kernels.jit.strata import BLOCK, GROUP, ROUNDS
from flame_fast.kernels.moments import Moments
from flame_fast.kernels.variance import MOST_STRATA, antithetic_normals, antithetic_uniforms, latin_hypercube, stratified
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flame_fast import Runner

SIZES = [1, 2, 3, 7, 31, 32, 33, 255, 256, 257, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]

settled = settings(deadline=None, max_examples=40)


def words_of(key, first, count, column, domain):
    """Return the documented words, by Threefry in Python's integers."""
    found = []
    for number in range(first, first + count):
        group, within = divmod(number, GROUP)
        word, lane = divmod(within, 8)
        block = (8 * group + lane, column, int(domain), 0)
        found.append(keys.threefry((int(key.low), int(key.high), 0, 0), block)[word])
    return found


def placed(stratum, word, of):
    bits = 51 - of.bit_length()
    return (stratum + ((word >> (64 - bits)) + 0.5) / 2**bits) / of


# ---- strata --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_each_stratum_has_one_draw_in_order(size):
    draws = stratified(size, 7)
    assert draws.shape == (size,)
    assert np.array_equal((draws * size).astype(np.int64), np.arange(size))
    assert ((draws > 0) & (draws < 1)).all()


@given(st.integers(1, MOST_STRATA), st.integers(0, 2**128 - 1), st.data())
@settled
def test_draws_lie_exactly_in_their_strata(of, seed, data):
    count = data.draw(st.integers(1, min(of, 70)))
    first = data.draw(st.one_of(st.just(of - count), st.integers(0, of - count)))
    for number, draw in enumerate(stratified(count, seed, first=first, of=of).tolist(), first):
        numerator, denominator = draw.as_integer_ratio()
        assert number * denominator < numerator * of < (number + 1) * denominator
        assert int(draw * of) == number


@given(st.integers(0, 2**128 - 1), st.integers(0, 1000), st.integers(1, 70))
@example(2**128 - 1, 10**12, 1)
@settled
def test_draws_are_of_the_documented_words(seed, first, count):
    of, key = first + count + 5, keys.key(seed)
    if of > MOST_STRATA:
        first, of = MOST_STRATA - count, MOST_STRATA
    words = words_of(key, first, count, 0, STRATA)
    wanted = [placed(first + i, word, of) for i, word in enumerate(words)]
    assert stratified(count, seed, first=first, of=of).tolist() == wanted


def test_slices_are_parts_of_the_whole():
    of = 2 * BLOCK + 77
    whole, cube = stratified(of, 3), latin_hypercube(of, 3, 3)
    ends = [0, 1, 31, 32, 100, BLOCK - 1, BLOCK, BLOCK + 33, of - 1, of, of]
    for first, last in itertools.pairwise(ends):
        assert np.array_equal(stratified(last - first, 3, first=first, of=of), whole[first:last])
        assert np.array_equal(latin_hypercube(last - first, 3, 3, first=first, of=of), cube[first:last])


def test_places_within_strata_are_uniform():
    """The squared distance of the distribution from the uniform one (Anderson and Darling): 1 in 100 is above 3.86."""
    for column, places in enumerate((stratified(20_000, 11) * 20_000 % 1, *(latin_hypercube(20_000, 3, 11) * 20_000 % 1).T)):
        ordered = np.sort(places)
        count = ordered.size
        weights = 2 * np.arange(1, count + 1) - 1
        distance = -count - (weights * (np.log(ordered) + np.log1p(-ordered[::-1]))).mean()
        assert distance < 6, column


def test_strata_lower_the_variance_of_a_smooth_function():
    """By the square of their number: the error of the mean of e**u falls as n**-1.5."""
    errors = [np.exp(stratified(1000, seed)).mean() - math.expm1(1) for seed in range(50)]
    plain = math.sqrt((math.expm1(2) / 2 - math.expm1(1) ** 2) / 1000)
    assert np.std(errors) < plain / 300
    assert np.std(errors) > plain / 3000


# ---- Latin hypercubes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_each_column_has_one_point_in_each_stratum(size):
    points = latin_hypercube(size, 3, 7)
    assert points.shape == (size, 3)
    strata = (points * size).astype(np.int64)
    assert np.array_equal(np.sort(strata, axis=0), np.repeat(np.arange(size)[:, None], 3, axis=1))
    if size > 20:
        assert not any(np.array_equal(strata[:, a], strata[:, b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def permuted(number, of, key, column):
    """Return the documented permutation of a number, by Python's integers."""
    whole = max((of - 1).bit_length(), 8)
    right_bits = whole // 2
    rounds = [
        keys.threefry((int(key.low), int(key.high), 0, 0), (turn, column, int(HYPERCUBE), 1))[0] for turn in range(ROUNDS)
    ]
    while True:
        width, other = right_bits, whole - right_bits
        left, right = number >> width, number % 2**width
        for round_key in rounds:
            word = right ^ round_key
            word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
            word ^= word >> 31
            left, right = right, left ^ word >> 64 - other
            width, other = other, width
        number = left << width | right
        if number < of:
            return number


@pytest.mark.parametrize("of", [1, 2, 5, 100, 257, 1000, 2**33 + 5])
def test_points_are_those_that_are_documented(of):
    key, first = keys.key(5, 6), max(0, of - 40)
    points = latin_hypercube(of - first, 2, key, first=first, of=of)
    for column in range(2):
        words = words_of(key, first, of - first, column, HYPERCUBE)
        wanted = [placed(permuted(first + i, of, key, column), word, of) for i, word in enumerate(words)]
        assert points[:, column].tolist() == wanted


def test_permutations_of_few_numbers_are_all_equally_likely():
    """Of 4 numbers there are 24: a chi-square statistic of 23 degrees of freedom is above 60 once in 30,000 times."""
    drawn = 12_000
    points = latin_hypercube(4, drawn, 13)
    codes = (points * 4).astype(np.int64).T @ np.array([64, 16, 4, 1])
    counts = np.unique(codes, return_counts=True)[1]
    assert counts.size == 24
    assert ((counts - drawn / 24) ** 2).sum() / (drawn / 24) < 60


def test_columns_do_not_correlate():
    points = latin_hypercube(4096, 12, 17)
    correlations = np.corrcoef(points.T)[np.triu_indices(12, 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(4096)
    neighbours = [np.corrcoef(points[1:, j], points[:-1, j])[0, 1] for j in range(12)]
    assert np.abs(neighbours).max() < 4.5 / math.sqrt(4096)


# ---- antithetic draws ----------------------------------------------------------------------------------------------------


def test_antithetic_draws():
    z = np.random.default_rng(1).normal(size=(4, 5))
    assert np.array_equal(antithetic_normals(z), -z)
    u = np.random.default_rng(1).random((4, 5))
    partners = antithetic_uniforms(u)
    assert np.array_equal(partners + u, np.full((4, 5), 1 - 2.0**-53))
    assert np.array_equal(antithetic_uniforms(partners), u)
    assert (antithetic_uniforms(0.0), antithetic_uniforms(1 - 2.0**-53)) == (1 - 2.0**-53, 0.0)
    assert antithetic_normals(np.float64(1.5)) == -1.5
    for function, draws, wanted in ((antithetic_normals, z, -z), (antithetic_uniforms, u, partners)):
        out = np.empty((4, 5))
        assert function(draws, out) is out
        assert np.array_equal(out, wanted)
        again = draws.copy()
        assert function(again, out=again) is again
        assert np.array_equal(again, wanted)


def test_pairs_lower_the_variance_of_a_monotone_function():
    u = np.random.default_rng(2).random(20_000)
    pairs = Moments.of((np.exp(u) + np.exp(antithetic_uniforms(u))) / 2)
    assert pairs.variance() < np.exp(u).var() / 2 / 10  # 31 times by theory


# ---- nopython code, threads, workers -------------------------------------------------------------------------------------


@numba.njit
def in_nopython(n, d, seed, key, out, points):
    strata = variance.stratified(n, seed)
    cube = variance.latin_hypercube(n, d, key)
    part = variance.stratified(out.size, seed, 3, n, out)
    rows = variance.latin_hypercube(len(points), d, key, first=2, of=n, out=points)
    return strata, cube, part, rows


@numba.njit
def partners_in_nopython(draws, out):
    normals, uniforms = variance.antithetic_normals(draws), variance.antithetic_uniforms(draws)
    one, other = variance.antithetic_normals(draws[0]), variance.antithetic_uniforms(draws[0])
    variance.antithetic_uniforms(draws, out)
    return normals, uniforms, one, other


def test_nopython_code_draws_the_same():
    out, points = np.empty(20), np.empty((5, 3))
    strata, cube, part, rows = in_nopython(100, 3, 7, keys.key(2**100), out, points)
    assert np.array_equal(strata, stratified(100, 7))
    assert np.array_equal(cube, latin_hypercube(100, 3, 2**100))
    assert np.array_equal(part, strata[3:23])
    assert np.array_equal(out, part)
    assert np.array_equal(rows, cube[2:7])
    assert np.array_equal(points, rows)
    for bad in ((-1, 3, 7), (100, 3, -7), (10, 3, 7)):
        with pytest.raises(ValueError, match="^(of|seed): expected "):
            in_nopython(*bad, keys.key(1), out, points)

    draws, out = np.random.default_rng(3).random(9), np.empty(9)
    normals, uniforms, one, other = partners_in_nopython(draws, out)
    assert np.array_equal(normals, antithetic_normals(draws))
    assert np.array_equal(uniforms, antithetic_uniforms(draws))
    assert np.array_equal(uniforms, out)
    assert (one, other) == (normals[0], uniforms[0])
    with pytest.raises(ValueError, match="^out: expected an array of the shape of the draws"):
        partners_in_nopython(draws, np.empty(3))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: stratified(10, None), r"expected an integer or a key as the seed in nopython code, got none"),
        (lambda: stratified(1.5, 7), r"variance\.stratified: expected an integer as n, got float64"),
        (lambda: latin_hypercube(10, "a", 7), r"variance\.latin_hypercube: expected an integer as d, got "),
        (lambda: stratified(10, 7, 0, 10, 3), r"expected out to be a writable contiguous float64 array, got "),
        (lambda: antithetic_normals(3), r"variance\.antithetic_normals: expected a float or an array of floats, got "),
        (lambda: antithetic_uniforms(0.5, np.empty(2)), r"variance\.antithetic_uniforms: expected no out for one number"),
    ],
)
def test_nopython_code_of_wrong_types_is_refused(call, said):
    with pytest.raises(numba.TypingError, match=said):
        numba.njit(call)()


BY_THREADS = """
import sys, hashlib, numba
from flame_fast.kernels.variance import latin_hypercube, stratified
numba.set_num_threads(int(sys.argv[1]))
digest = hashlib.sha256(stratified(1_000_003, 7).tobytes())
digest.update(latin_hypercube(300_003, 2, 7).tobytes())
print(digest.hexdigest())
"""


def test_any_number_of_threads_draws_the_same():
    found = set()
    for threads in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", BY_THREADS, threads],
            capture_output=True,
            text=True,
            env={**os.environ, "NUMBA_NUM_THREADS": "3"},
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        found.add(done.stdout)
    assert len(found) == 1


def slice_of(block):
    return stratified(100, 7, first=100 * block, of=1000)


def test_workers_draw_slices(project):
    with Runner("strata", workers=2) as rr:
        parts = rr.get([rr.service(slice_of)(block) for block in range(10)])
    assert np.array_equal(np.concatenate(parts), stratified(1000, 7))


def test_without_a_seed_no_two_draws_are_the_same():
    assert len({stratified(3).tobytes() for _ in range(10)}) == 10
    assert len({latin_hypercube(30, 2).tobytes() for _ in range(10)}) == 10


# ---- errors --------------------------------------------------------------------------------------------------------------


def read_only():
    out = np.empty(3)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: stratified(1.5, 7), TypeError, "n: expected an integer, got 1.5"),
        (lambda: stratified(-1, 7), ValueError, "n: expected an integer from 0 to 2**40, got -1"),
        (
            lambda: stratified(1, "a"),
            TypeError,
            "seed: expected an integer, a list of integers, a SeedSequence, a Key or None, got 'a'",
        ),
        (lambda: stratified(1, -1), ValueError, "seed: expected an integer from 0 to below 2**128, got -1"),
        (lambda: stratified(1, first=3), ValueError, "seed: expected one that all slices share, got None"),
        (lambda: stratified(1, of=3), ValueError, "seed: expected one that all slices share, got None"),
        (lambda: stratified(8, 7, first=3, of=10), ValueError, "of: expected at least first + n = 11 strata, got 10"),
        (lambda: stratified(1, 7, of=2**41), ValueError, f"of: expected an integer from 0 to 2**40, got {2**41}"),
        (lambda: stratified(3, 7, out=[]), TypeError, "out: expected an array of float64, got []"),
        (
            lambda: stratified(3, 7, out=np.empty(3, np.float32)),
            TypeError,
            "out: expected an array of float64, got one of float32",
        ),
        (lambda: stratified(3, 7, out=np.empty(4)), ValueError, "out: expected a writable array of shape (3,), got (4,)"),
        (
            lambda: stratified(3, 7, out=read_only()),
            ValueError,
            "out: expected a writable array of shape (3,), got a read-only one",
        ),
        (lambda: stratified(3, 7, out=np.empty(6)[::2]), ValueError, "out: expected a contiguous array, got strides (16,)"),
        (lambda: latin_hypercube(3, -1, 7), ValueError, "d: expected an integer of at least 0, got -1"),
        (
            lambda: latin_hypercube(3, 2, 7, out=np.empty(6)),
            ValueError,
            "out: expected a writable array of shape (3, 2), got (6,)",
        ),
        (lambda: antithetic_normals([1.0]), TypeError, "draws: expected a float or an array of floats, got [1.0]"),
        (
            lambda: antithetic_uniforms(np.arange(3)),
            TypeError,
            "draws: expected a float or an array of floats, got an array of int64",
        ),
        (
            lambda: antithetic_normals(np.zeros(3), np.zeros(4)),
            ValueError,
            "out: expected a writable array of shape (3,), got (4,)",
        ),
    ],
)
def test_errors(call, error, said):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == said


def test_nothing_to_draw():
    assert stratified(0, 7).shape == (0,)
    assert latin_hypercube(0, 3, 7).shape == (0, 3)
    assert latin_hypercube(3, 0, 7).shape == (3, 0)
