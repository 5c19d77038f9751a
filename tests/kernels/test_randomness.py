"""Statistics of the numbers drawn: of each, of those after it and beside it, and of streams with similar names.

Every seed is fixed, so a test passes always or never; none was chosen for its result (see `pvalues`).
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from flame_fast.kernels import rng, sampling
from flame_fast.kernels.domains import FREE, PI, UNIFORMS
from flame_fast.kernels.jit.block_kernels import BLOCK
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.rng.filling import stream_of
from pvalues import (
    ODD,
    binomial,
    chi_square,
    chi_square_of_cells,
    chi_square_of_normals,
    kolmogorov_smirnov,
    normal_below,
    normal_tail,
    poisson_tail,
    pooled,
)
from stream_model import lane_state

#: Keys without a bit set, with one, and with all.
SEEDS = [0, 1 << 64, (1 << 128) - 1]
SIZE = 1 << 20

#: Standard deviations that a mean of independent values stays within, but for once in 1.7 million times.
FAR = 5.0

each_seed = pytest.mark.parametrize("seed", SEEDS)


def drawn(fill, dtype, seed, number=0, size=SIZE):
    """Return the first numbers of a stream, a step a row.

    They are read-only, since the next test may get the same array.
    """
    out = np.empty(size, dtype)
    fill(rng.stream(rng.key(seed), np.uint64(number)), out)
    out.flags.writeable = False
    return out.reshape(-1, LANES)


@functools.lru_cache(maxsize=8)
def words_of(seed, number=0, size=SIZE):
    return drawn(rng.fill_words, np.uint64, seed, number, size)


@functools.lru_cache(maxsize=8)
def doubles_of(kind, seed, size=SIZE):
    return drawn(getattr(rng, f"fill_{kind}"), np.float64, seed, size=size)


def bits_of(words):
    """Return the bits of words, the lowest first: a bool array with one dimension more, of 64."""
    flat = np.ascontiguousarray(words)[..., None].view(np.uint8)
    return np.unpackbits(flat, axis=-1, bitorder="little").view(bool)


ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def ones_of(words):
    """Return how many bits of each word are set; NumPy itself counts them since 2.0."""
    quarters = np.ascontiguousarray(words)[..., None].view(np.uint16)
    return ONES[quarters].sum(axis=-1, dtype=int)


def z_of_bits(ones, tosses):
    """Return how far numbers of ones are from a half of all tosses, in standard deviations."""
    return (2.0 * np.asarray(ones) - tosses) / math.sqrt(tosses)


def z_of_correlation(left, right):
    """Return the correlation of uniform 64-bit words, as numbers around 0 with a variance of 1."""
    scale = math.sqrt(12.0) / 2.0**64
    left, right = ((np.ravel(words).astype(float) - 2.0**63) * scale for words in (left, right))
    return float((left * right).sum()) / math.sqrt(left.size)


# ---- the marginal distributions ------------------------------------------------------------------------------------------


@each_seed
def test_uniform_numbers_fill_equal_cells_equally(seed):
    uniforms = doubles_of("uniforms", seed, 4 * SIZE)
    assert ODD < chi_square_of_cells(uniforms * 1024, 1024) < 1 - ODD


def test_uniform_numbers_use_all_their_bits():
    """Of the 53 bits, the test looks at the lowest 10, which cells do not see."""
    lowest = (doubles_of("uniforms", 1) * 2.0**53).astype(np.int64) & 1023
    assert ODD < chi_square_of_cells(lowest, 1024) < 1 - ODD


@each_seed
def test_every_byte_of_a_word_has_all_values_equally(seed):
    for place in range(8):
        values = np.ascontiguousarray(words_of(seed)).view(np.uint8).reshape(-1, 8)[:, place]
        assert ODD < chi_square_of_cells(values, 256) < 1 - ODD, place


@each_seed
def test_pairs_have_all_values_equally_and_their_halves_are_independent(seed):
    pairs = np.empty((SIZE, 2), np.uint32)
    rng.fill_pairs(rng.stream(rng.key(seed), np.uint64(0)), pairs)
    for half in (0, 1):
        assert ODD < chi_square_of_cells(pairs[:, half] >> 22, 1024) < 1 - ODD, half
    for shift in (26, 0):  # the upper six bits of both, and the lower six
        first, second = (pairs[:, half] >> shift & 63 for half in (0, 1))
        assert ODD < chi_square_of_cells(first * 64 + second, 4096) < 1 - ODD, shift


PROBABILITIES = {
    "uniforms": np.asarray,
    "normals": normal_below,
    "exponentials": lambda values: -np.expm1(-values),
}


@each_seed
def test_numbers_have_the_distribution_of_their_name(seed):
    for kind, probabilities in PROBABILITIES.items():
        values = doubles_of(kind, seed).ravel()[: SIZE // 2]
        assert ODD < kolmogorov_smirnov(probabilities(values)) < 1 - ODD, kind


def moments_of(kind):
    """Return the mean and the variance of the kind's powers 1 to 4."""
    if kind == "uniforms":
        raw = [1 / (k + 1) for k in range(9)]
    elif kind == "normals":
        raw = [0 if k % 2 else math.prod(range(1, k, 2)) for k in range(9)]
    else:
        raw = [math.factorial(k) for k in range(9)]
    return [(raw[k], raw[2 * k] - raw[k] ** 2) for k in range(1, 5)]


@each_seed
def test_four_moments_are_those_of_the_distribution(seed):
    for kind in PROBABILITIES:
        values = doubles_of(kind, seed)
        for power, (mean, variance) in enumerate(moments_of(kind), 1):
            z = ((values**power).mean() - mean) / math.sqrt(variance / values.size)
            assert abs(z) < FAR, (kind, power)


def test_far_normals_are_as_rare_as_they_should_be():
    size = 1 << 24
    normals = drawn(rng.fill_normals, np.float64, 2, size=size)
    for sigmas in (2, 3, 4, 5):
        for tail in (normals > sigmas, normals < -sigmas):
            count, expected = int(np.count_nonzero(tail)), size * normal_tail(sigmas) / 2
            assert poisson_tail(count, expected) > ODD, sigmas
            assert 1 - poisson_tail(count + 1, expected) > ODD, sigmas
    assert 5 < abs(normals).max() < 8.6


def test_exponentials_have_no_memory():
    """The integer part is geometric, and the rest has the same distribution after each integer."""
    values = doubles_of("exponentials", 3).ravel()
    whole = np.floor(values).astype(int)
    share = -math.expm1(-1)
    expected = [math.exp(-k) * share for k in range(whole.max() + 1)]
    expected[-1] = math.exp(-whole.max())
    counts = np.bincount(whole)
    assert ODD < chi_square(*pooled(counts, np.array(expected) * values.size)) < 1 - ODD
    for k in range(6):
        beyond = -np.expm1(-(values[whole == k] - k)) / share
        assert ODD < kolmogorov_smirnov(beyond) < 1 - ODD, k


# ---- bits ----------------------------------------------------------------------------------------------------------------


@each_seed
def test_every_bit_of_every_lane_is_balanced(seed):
    ones = np.concatenate([bits_of(part).sum(axis=0) for part in np.split(words_of(seed), 8)], axis=-1).reshape(LANES, 8, 64)
    z = z_of_bits(ones.sum(axis=1), SIZE // LANES)
    assert ODD < chi_square_of_normals(z) < 1 - ODD
    assert abs(z).max() < FAR
    assert abs(z_of_bits(ones.sum(), 64 * SIZE)) < FAR


@each_seed
def test_bits_of_a_word_are_independent_of_each_other(seed):
    """Each pair of bits differs in half of all words."""
    bits = bits_of(words_of(seed, size=SIZE // 32).ravel()) * np.float32(2) - np.float32(1)
    products = (bits.T @ bits)[np.triu_indices(64, 1)].astype(float)
    z = products / math.sqrt(bits.shape[0])
    assert ODD < chi_square_of_normals(z) < 1 - ODD
    assert abs(z).max() < FAR + 0.5  # the largest of 2,016


@each_seed
def test_the_number_of_ones_in_a_word_is_binomial(seed):
    counts = np.bincount(ones_of(words_of(seed)).ravel(), minlength=65)
    assert ODD < chi_square(*pooled(counts, binomial(64, 0.5) * SIZE)) < 1 - ODD


@each_seed
def test_the_number_of_ones_says_nothing_of_the_next_word(seed):
    """Linear generators have this weakness, if their states have few ones or many; here in a lane, three sizes each."""
    weights = ones_of(words_of(seed))
    sizes = np.digitize(weights, [31, 34])  # below 31, to 33, above
    chances = np.add.reduceat(binomial(64, 0.5), [0, 31, 34])
    three = sizes[:-2] * 9 + sizes[1:-1] * 3 + sizes[2:]
    counts = np.bincount(three[::3].ravel(), minlength=27)
    expected = np.einsum("i,j,k", chances, chances, chances).ravel() * counts.sum()
    assert ODD < chi_square(counts, expected) < 1 - ODD


@each_seed
def test_runs_of_every_bit_are_as_many_and_as_long_as_those_of_a_coin(seed):
    bits = bits_of(words_of(seed, size=SIZE // 8))  # step, lane, bit
    changes = bits[1:] ^ bits[:-1]
    z = z_of_bits(changes.sum(axis=0), changes.shape[0])
    assert ODD < chi_square_of_normals(z) < 1 - ODD
    assert abs(z).max() < FAR + 0.5  # the largest of 512
    (where,) = np.nonzero(np.moveaxis(changes, 0, -1).ravel())
    lengths = np.minimum(np.diff(where), 16)
    expected = [lengths.size / 2**k for k in range(1, 16)] + [lengths.size / 2**15]
    assert ODD < chi_square(np.bincount(lengths, minlength=17)[1:], expected) < 1 - ODD


# ---- one after the other, one beside the other ---------------------------------------------------------------------------

NEIGHBOURS = {
    "next of a lane": lambda words: (words[0::2], words[1::2]),
    "next but one of a lane": lambda words: (words[0::4], words[2::4]),
    "lane beside": lambda words: (words[:, 0::2], words[:, 1::2]),
    "lane after": lambda words: (words[:, 1:7:2], words[:, 2:8:2]),
    "four lanes on": lambda words: (words[:, :4], words[:, 4:]),
    "next in an array": lambda words: (words.ravel()[7:-1:8], words.ravel()[8::8]),
}


@each_seed
def test_pairs_of_neighbours_fill_a_square_equally(seed):
    """The serial test runs on 64 times 64 cells, with the correlation."""
    for name, neighbours in NEIGHBOURS.items():
        left, right = neighbours(words_of(seed))
        for shift in (58, 29, 0):
            cells = (left >> np.uint64(shift) & np.uint64(63)) * np.uint64(64) + (right >> np.uint64(shift) & np.uint64(63))
            assert ODD < chi_square_of_cells(cells, 4096) < 1 - ODD, (name, shift)
        assert abs(z_of_correlation(left, right)) < FAR, name
        assert abs(z_of_bits(ones_of(left ^ right).sum(), 64 * left.size)) < FAR, name


@each_seed
def test_lanes_of_a_stream_are_independent(seed):
    words = words_of(seed, size=SIZE // 8)
    pairs = list(itertools.combinations(range(LANES), 2))
    linear = [z_of_correlation(words[:, a], words[:, b]) for a, b in pairs]
    bitwise = [bits_of(words[:, a] ^ words[:, b]).sum(axis=0) for a, b in pairs]
    assert ODD < chi_square_of_normals(linear) < 1 - ODD
    assert ODD < chi_square_of_normals(z_of_bits(bitwise, words.shape[0])) < 1 - ODD


@each_seed
def test_a_lane_is_independent_of_itself_later(seed):
    lane = words_of(seed)[:, 3]
    lags = [1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 64, 100, 1000, 4096]
    linear = [z_of_correlation(lane[:-lag], lane[lag:]) for lag in lags]
    bitwise = [z_of_bits(ones_of(lane[:-lag] ^ lane[lag:]).sum(), 64 * (lane.size - lag)) for lag in lags]
    assert ODD < chi_square_of_normals(linear) < 1 - ODD
    assert ODD < chi_square_of_normals(bitwise) < 1 - ODD


def test_both_normals_of_a_pair_of_words_are_independent():
    """They come eight and eight: out of a radius, whose square is exponential, and an angle, which is uniform."""
    first, second = doubles_of("normals", 5).reshape(-1, 2, LANES).swapaxes(0, 1)
    cells = [(normal_below(part) * 32).astype(int) for part in (first, second)]
    assert ODD < chi_square_of_cells(cells[0] * 32 + cells[1], 1024) < 1 - ODD
    for power in (1, 2):
        moments = {1: (0.0, 1.0), 2: (1.0, 2.0)}[power]
        products = (first**power - moments[0]) * (second**power - moments[0])
        assert abs(products.sum() / (moments[1] * math.sqrt(products.size))) < FAR, power
    assert ODD < kolmogorov_smirnov(-np.expm1(-(first**2 + second**2).ravel() / 2)) < 1 - ODD
    assert ODD < kolmogorov_smirnov((np.arctan2(second, first).ravel() / (2 * math.pi)) % 1.0) < 1 - ODD


@pytest.mark.parametrize("kind", PROBABILITIES)
def test_numbers_are_independent_of_the_next_ones_of_an_array(kind):
    values = PROBABILITIES[kind](doubles_of(kind, 6).ravel()) - 0.5
    for lag in (1, 2, 7, 8, 9, 16, 24):
        products = values[:-lag] * values[lag:] * 12
        assert abs(products.sum() / math.sqrt(products.size)) < FAR, lag


# ---- streams whose names are alike ---------------------------------------------------------------------------------------

SHORT = 1 << 15


def stream_words(seed, number, domain=FREE, size=SHORT):
    out = np.empty(size, np.uint64)
    rng.fill_words(stream_of(rng.key(seed), np.uint64(number), domain), out)
    return out.reshape(-1, LANES)


def ninth_lane(seed, number):
    """Return the ninth lane beside the eight of a block of points; the same in every column."""
    state = np.array(lane_state(rng.key(seed), number, PI, LANES), np.uint64)
    out = np.empty(SHORT, np.uint64)
    rng.fill_words(np.repeat(state[:, None], LANES, axis=1), out)
    return out.reshape(-1, LANES)


ALIKE = {
    "next number": lambda: (stream_words(9, 0), stream_words(9, 1)),
    "next large number": lambda: (stream_words(9, (1 << 46) - 2), stream_words(9, (1 << 46) - 1)),
    "number with one more bit": lambda: (stream_words(9, 5), stream_words(9, 5 | 1 << 63)),
    "next seed": lambda: (stream_words(0, 0), stream_words(1, 0)),
    "seed with one more bit": lambda: (stream_words(0, 0), stream_words(1 << 127, 0)),
    "words of the seed exchanged": lambda: (stream_words(1, 0), stream_words(1 << 64, 0)),
    "seed and number exchanged": lambda: (stream_words(3, 4), stream_words(4, 3)),
    "opposite seed": lambda: (stream_words(0, 0), stream_words((1 << 128) - 1, 0)),
    "another domain": lambda: (stream_words(9, 0), stream_words(9, 0, PI)),
    "two other domains": lambda: (stream_words(9, 0, UNIFORMS), stream_words(9, 0, PI)),
    "ninth lane": lambda: (stream_words(9, 0, PI), ninth_lane(9, 0)),
}


@pytest.mark.parametrize("streams", ALIKE.values(), ids=ALIKE)
def test_streams_with_names_alike_are_independent(streams):
    left, right = streams()
    for lag in range(4):
        pairs = [(left[lag:], right[: len(right) - lag])] + ([(left[: len(left) - lag], right[lag:])] if lag else [])
        for one, other in pairs:
            # Not all lanes at once: the ninth one stands beside each, so their eight correlations are only uncorrelated.
            linear = [z_of_correlation(one[:, lane], other[:, lane]) for lane in range(LANES)]
            bits = [bits_of(one[:, lane] ^ other[:, lane]).sum(axis=0) for lane in range(LANES)]
            assert max(map(abs, linear)) < FAR, lag
            assert ODD < chi_square_of_normals(z_of_bits(bits, len(one))) < 1 - ODD, lag
    cells = (left >> np.uint64(58)) * np.uint64(64) + (right >> np.uint64(58))
    assert ODD < chi_square_of_cells(cells[:, 0], 4096) < 1 - ODD


FIRST = {
    "numbers": lambda: [(11, number) for number in range(4096)],
    "large numbers": lambda: [(11, (1 << 46) - 1 - number) for number in range(4096)],
    "seeds": lambda: [(seed, 0) for seed in range(4096)],
    "seeds in the upper word": lambda: [(seed << 64, 0) for seed in range(4096)],
    "single bits": lambda: [(1 << bit, 1 << number) for bit in range(128) for number in range(0, 64, 2)],
}


@pytest.mark.parametrize("names", FIRST.values(), ids=FIRST)
def test_the_first_words_of_many_streams_are_a_random_sequence_too(names):
    words = np.stack([stream_words(seed, number, size=2 * LANES) for seed, number in names()])[:, 0]
    z = z_of_bits(bits_of(words).sum(axis=0), len(words))
    assert ODD < chi_square_of_normals(z) < 1 - ODD
    for place in range(8):
        values = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)[:, place]
        assert ODD < chi_square_of_cells(values, 256) < 1 - ODD, place
    changes = bits_of(words[1:] ^ words[:-1]).sum(axis=0)
    assert ODD < chi_square_of_normals(z_of_bits(changes, len(words) - 1)) < 1 - ODD
    assert abs(z_of_correlation(words[1:], words[:-1])) < FAR
    cells = (words[0::2] >> np.uint64(59)) * np.uint64(32) + (words[1::2] >> np.uint64(59))
    assert ODD < chi_square_of_cells(cells, 1024) < 1 - ODD


def test_one_bit_of_a_seed_or_a_number_changes_half_of_every_state():
    """The test changes each of the 192 bits; a state has 4 words for each of 8 lanes."""
    seed, number = 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210, 12345
    state = rng.stream(rng.key(seed), np.uint64(number))
    others = [rng.stream(rng.key(seed ^ 1 << bit), np.uint64(number)) for bit in range(128)]
    others += [rng.stream(rng.key(seed), np.uint64(number ^ 1 << bit)) for bit in range(64)]
    changed = np.array([ones_of(state ^ other).sum() for other in others])
    z = z_of_bits(changed, 64 * state.size)
    assert ODD < chi_square_of_normals(z) < 1 - ODD
    assert abs(z).max() < FAR


def test_no_word_comes_twice_in_many_streams():
    """Lanes that met would draw equal words from there on.

    By chance, two of 2**20 words are equal with a probability of 2**-25.
    """
    words = np.stack([stream_words(seed, number, size=1 << 12) for seed in range(16) for number in range(16)])
    assert words.size == SIZE
    assert np.unique(words).size == SIZE


# ---- arrays of several blocks --------------------------------------------------------------------------------------------


def test_numbers_go_on_at_random_from_block_to_block_of_an_array():
    words = sampling.pairs(3 * BLOCK, seed=13).view(np.uint64).reshape(3, -1, LANES)
    for left, right in itertools.combinations(words, 2):
        bits = bits_of(left ^ right).sum(axis=0)
        assert ODD < chi_square_of_normals(z_of_bits(bits, len(left))) < 1 - ODD
        assert abs(z_of_correlation(left, right)) < FAR
    assert ODD < chi_square_of_cells(words >> np.uint64(54), 1024) < 1 - ODD
