"""Nested uniform scrambling: digits depend on those before them only, and each node's flip is fair and its own."""

from __future__ import annotations

import numba
import numpy as np
from flame_fast.kernels.jit.simd import loader, store
from flame_fast.kernels.quasi.scrambling import SCRAMBLER_WORDS, fill_scrambler, scrambled
from hypothesis import given, settings
from hypothesis import strategies as st

LANES = 8
WORDS = loader(numba.types.uint64, LANES)
DIGITS = 64

#: Standard deviations that a sum of fair and independent signs may be off its mean. The seeds are fixed, and so are sums.
FAR = 5.5


@numba.njit
def scramble_each(seeds, dimension, x, out):
    words = np.zeros((dimension + 1, SCRAMBLER_WORDS), np.uint64)
    for row in range(seeds.size):
        fill_scrambler((seeds[row], np.uint64(0)), dimension, words[dimension])
        for start in range(0, x.size, LANES):
            store(out, row * x.size + start, scrambled(WORDS(x, start), words, dimension))


def flips_of(seeds, prefixes, dimension=0):
    """Return the flips of all digits, as words, by seed and reversed fraction."""
    x = np.zeros(-(-len(prefixes) // LANES) * LANES, np.uint64)
    x[: len(prefixes)] = prefixes
    out = np.empty((len(seeds), x.size), np.uint64)
    scramble_each(np.asarray(seeds, np.uint64), dimension, x, out)
    return (out ^ x)[:, : len(prefixes)]


def bits_of(flips, level):
    return (flips >> np.uint64(level)) & np.uint64(1)


def signs_of(flips, level):
    return bits_of(flips, level).astype(np.float32) * 2 - 1


def tree(seeds, levels, dimension=0):
    """Return the flips of all nodes of the first levels, as signs: a row for each seed."""
    return np.hstack([signs_of(flips_of(seeds, np.arange(1 << k), dimension), k) for k in range(levels)])


def chi_square_is_fair(counts):
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return abs(statistic - freedom) < FAR * np.sqrt(2 * freedom)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, DIGITS - 1), st.integers(0, 21200))
@settings(deadline=None, max_examples=100)
def test_a_digit_depends_on_those_before_it_only(seed, x, digit, dimension):
    pair = flips_of([seed], [x, x ^ (1 << digit)], dimension)[0]
    same = (1 << (digit + 1)) - 1
    assert int(pair[0]) & same == int(pair[1]) & same  # so a digit's own change is a change of the scrambled one
    assert np.array_equal(pair, flips_of([seed], [x, x ^ (1 << digit)], dimension)[0])


def test_zeros_scramble_nothing():
    @numba.njit
    def unscrambled(x, words, out):
        store(out, 0, scrambled(WORDS(x, 0), words, 0))

    x = np.random.default_rng(3).integers(0, 1 << 64, LANES, dtype=np.uint64)
    out = np.empty_like(x)
    unscrambled(x, np.zeros((1, SCRAMBLER_WORDS), np.uint64), out)
    assert np.array_equal(out, x)


def test_the_first_levels_flip_in_all_ways_alike():
    """The 15 flips of four levels together have 2**15 ways: also those that hashes alone never reach."""
    seeds = np.arange(1 << 18)
    ways = np.zeros(len(seeds), np.int64)
    nodes = [(level, prefix) for level in range(4) for prefix in range(1 << level)]
    flips = {level: flips_of(seeds, np.arange(1 << level)) for level in range(4)}
    for place, (level, prefix) in enumerate(nodes):
        ways |= bits_of(flips[level][:, prefix], level).astype(np.int64) << place
    assert chi_square_is_fair(np.bincount(ways, minlength=1 << len(nodes)))


def test_no_two_flips_of_nine_levels_correlate():
    seeds = np.arange(1 << 13)
    signs = tree(seeds, 9)
    means = signs.sum(0) / np.sqrt(len(seeds))
    assert abs(means).max() < FAR
    pairs = (signs.T @ signs)[np.triu_indices(signs.shape[1], 1)] / np.sqrt(len(seeds))
    assert abs(pairs).max() < FAR
    assert abs(pairs.std() - 1) < 0.02


def test_below_two_siblings_nothing_correlates():
    """Points that share all digits to one: their later digits are independent, wherever that one is."""
    seeds = np.arange(1 << 12)
    source = np.random.default_rng(11)
    levels = (30, 31, 32, 33, 40, 52, 63)
    for digit in (0, 1, 5, 6, 7, 15, 28, 29):
        x = source.integers(0, 1 << 30, 8, dtype=np.uint64)
        one, other = flips_of(seeds, x), flips_of(seeds, x ^ np.uint64(1 << digit))
        sums = [
            (signs_of(one, level) * signs_of(other, lower)).sum(0) / np.sqrt(len(seeds))
            for level in levels
            for lower in levels
        ]
        assert abs(np.array(sums)).max() < FAR, digit
        together = bits_of(one, 30) | bits_of(one, 31) << np.uint64(1) | bits_of(other, 30) << np.uint64(2)
        together |= bits_of(other, 31) << np.uint64(3)
        assert chi_square_is_fair(np.bincount(together.ravel().astype(int), minlength=16)), digit


def test_dimensions_are_scrambled_apart():
    seeds = np.arange(1 << 13)
    trees = np.hstack([tree(seeds, 5, dimension) for dimension in (0, 1, 2, 3, 255, 256, 21200)])
    pairs = (trees.T @ trees)[np.triu_indices(trees.shape[1], 1)] / np.sqrt(len(seeds))
    assert abs(pairs).max() < FAR
    assert abs(pairs.std() - 1) < 0.02


def test_seeds_that_differ_in_a_bit_scramble_apart():
    base = np.arange(1 << 12, dtype=np.uint64)
    one = tree(base, 5)
    for bit in (13, 31, 32, 63):
        other = tree(base ^ np.uint64(1 << bit), 5)
        assert abs((one.T @ other) / np.sqrt(len(base))).max() < FAR, bit


def test_digits_beyond_the_direction_numbers_are_random():
    """Of one scrambling: the digits from the 33rd on, where points have zeros, are fair over points, and independent."""
    x = np.unique(np.random.default_rng(5).integers(0, 1 << 32, 1 << 14, dtype=np.uint64))
    flips = flips_of([7], x)[0]
    for begin in (32, 36, 41, 45):
        digits = (flips >> np.uint64(begin)) & np.uint64(0xFF)
        assert chi_square_is_fair(np.bincount(digits.astype(int), minlength=256)), begin
