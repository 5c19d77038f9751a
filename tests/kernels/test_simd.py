"""SIMD vectors in nopython code against NumPy, lane by lane: operators, memory, masks, each function's promise."""

from __future__ import annotations

import math
from fractions import Fraction

import numba
import numpy as np
import pytest
from flame_fast.kernels.jit import simd
from flame_fast.kernels.jit.parallel import Turns
from flame_fast.kernels.jit.simd import loader, store
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import types

LANES = 8
HALVES = 2 * LANES
WORDS = loader(types.uint64, LANES)
DOUBLES = loader(types.float64, LANES)
HALF_WORDS = loader(types.uint32, HALVES)
SMALL = loader(types.uint32, 4)
COUNT = simd.counter(types.uint64, LANES)

#: Numbers whose sums, products and shifts reach the ends of the range.
EDGES = [0, 1, 2, 3, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
INTEGERS = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 64) - 1))
FLOATS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150, allow_subnormal=False)


def vectors(elements, dtype, lanes=LANES):
    return st.lists(elements, min_size=lanes, max_size=lanes).map(lambda values: np.array(values, dtype))


def settled(examples):
    """Return settings for Hypothesis without a deadline: Numba compiles in the first example."""
    return settings(deadline=None, max_examples=examples)


# ---- operators -----------------------------------------------------------------------------------------------------------


@numba.njit
def integer_operators(left, right, number, shift, out):
    x, y = WORDS(left, 0), WORDS(right, 0)
    store(out, 0 * LANES, x + y)
    store(out, 1 * LANES, x - y)
    store(out, 2 * LANES, x * y)
    store(out, 3 * LANES, x & y)
    store(out, 4 * LANES, x | y)
    store(out, 5 * LANES, x ^ y)
    store(out, 6 * LANES, x << shift)
    store(out, 7 * LANES, x >> shift)
    store(out, 8 * LANES, x + number)
    store(out, 9 * LANES, number - x)
    store(out, 10 * LANES, number * x)
    store(out, 11 * LANES, x ^ number)
    store(out, 12 * LANES, x << simd.like(x, shift))
    store(out, 13 * LANES, simd.rotate_left(x, shift))
    store(out, 14 * LANES, simd.where_odd(x, y, x))
    store(out, 15 * LANES, simd.as_integers(simd.as_floats(x)))
    store(out, 16 * LANES, COUNT())


@given(vectors(INTEGERS, np.uint64), vectors(INTEGERS, np.uint64), INTEGERS, st.integers(0, 63))
@settled(200)
def test_operators_of_integers_wrap_as_numpys_do(x, y, number, shift):
    out = np.zeros((17, LANES), np.uint64)
    number, shift = np.uint64(number), np.uint64(shift)
    integer_operators(x, y, number, shift, out)
    with np.errstate(over="ignore"):
        expected = [
            x + y,
            x - y,
            x * y,
            x & y,
            x | y,
            x ^ y,
            x << shift,
            x >> shift,
            x + number,
            number - x,
            number * x,
            x ^ number,
            x << shift,
            [(word << int(shift) | word >> 64 - int(shift)) & (1 << 64) - 1 for word in x.tolist()],
            np.where(x & np.uint64(1), y, x),
            x,
            np.arange(LANES),
        ]
    assert out.tolist() == [[int(word) for word in row] for row in expected]


@numba.njit
def float_operators(left, right, number, out):
    x, y = DOUBLES(left, 0), DOUBLES(right, 0)
    store(out, 0 * LANES, x + y)
    store(out, 1 * LANES, x - y)
    store(out, 2 * LANES, x * y)
    store(out, 3 * LANES, x / y)
    store(out, 4 * LANES, x + number)
    store(out, 5 * LANES, number - x)
    store(out, 6 * LANES, x * number)
    store(out, 7 * LANES, number / x)
    store(out, 8 * LANES, simd.multiply_add(x, y, number))
    store(out, 9 * LANES, simd.multiply_add(x, number, y))
    store(out, 10 * LANES, simd.square_root(x * x))
    store(out, 11 * LANES, simd.as_floats(simd.as_integers(x)))
    store(out, 12 * LANES, simd.where_odd(simd.as_integers(x), y, x))


def fused(left, right, addend):
    """Return left * right + addend, rounded once, by exact arithmetic."""
    exact = Fraction(left) * Fraction(right) + Fraction(addend)
    return exact.numerator / exact.denominator


@given(vectors(FLOATS, float), vectors(FLOATS, float), FLOATS)
@settled(100)
def test_operators_of_floats_round_once_each(x, y, number):
    out = np.zeros((13, LANES))
    float_operators(x, y, number, out)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore", over="ignore"):
        expected = [
            x + y,
            x - y,
            x * y,
            x / y,
            x + number,
            number - x,
            x * number,
            np.float64(number) / x,
            [fused(a, b, number) for a, b in zip(x.tolist(), y.tolist(), strict=True)],
            [fused(a, number, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)],
            np.sqrt(x * x),
            x,
            np.where(x.view(np.uint64) & np.uint64(1), y, x),
        ]
    assert np.array_equal(out, expected, equal_nan=True)


def test_a_fused_product_keeps_what_rounding_would_lose():
    x = np.full(LANES, 1 + 2.0**-52)
    out = np.zeros((13, LANES))
    float_operators(x, x, -(1 + 2.0**-51), out)
    assert set(out[8].tolist()) == {2.0**-104}
    assert math.fsum([x[0] * x[0], -(1 + 2.0**-51)]) == 0


@numba.njit
def and_of_floats(left, out):
    x = DOUBLES(left, 0)
    store(out, 0, x & x)


@numba.njit
def quotient_of_integers(left, out):
    x = WORDS(left, 0)
    store(out, 0, x / x)


@numba.njit
def sum_of_different_vectors(left, out):
    store(out, 0, WORDS(left, 0) + SMALL(out, 0))


@pytest.mark.parametrize(
    "kernel, arrays",
    [
        (and_of_floats, (np.ones(LANES), np.ones(LANES))),
        (quotient_of_integers, (np.ones(LANES, np.uint64), np.ones(LANES, np.uint64))),
        (sum_of_different_vectors, (np.ones(LANES, np.uint64), np.ones(4, np.uint32))),
    ],
    ids=["and of floats", "quotient of integers", "vectors of two types"],
)
def test_what_has_no_instruction_does_not_compile(kernel, arrays):
    with pytest.raises(numba.TypingError):
        kernel(*arrays)


# ---- memory --------------------------------------------------------------------------------------------------------------


@numba.njit
def copy(source, start, target, place):
    store(target, place, SMALL(source, start))


def test_places_are_counted_over_all_dimensions_and_need_no_alignment():
    source = np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    for start in range(21):
        target = np.full((3, 8), 99, np.uint32)
        copy(source, start, target, 20 - start)
        flat = target.ravel().tolist()
        assert flat[20 - start : 24 - start] == list(range(start, start + 4))
        assert flat[: 20 - start] + flat[24 - start :] == [99] * 20


@pytest.mark.parametrize("kind", ["another type", "gaps", "read only"])
def test_memory_that_does_not_fit_does_not_compile(kind):
    source, target = np.zeros(8, np.uint32), np.zeros(8, np.uint32)
    if kind == "another type":
        source = source.astype(np.int32)
    elif kind == "gaps":
        source = np.zeros(16, np.uint32)[::2]
    else:
        target.flags.writeable = False
    with pytest.raises(numba.TypingError):
        copy(source, 0, target, 0)


WORD_ARRAY = simd.stack_array(types.uint64, LANES)


@numba.njit
def through_rooms(values, rounds, out):
    one, other = WORD_ARRAY(), WORD_ARRAY()
    store(one, 0, WORDS(values, 0))
    store(other, 0, WORDS(values, 0))
    for _ in range(rounds):
        store(other, 0, WORDS(other, 0) + WORDS(one, 0))
        one[2] = one[2] + other[3]
    store(out, 0, WORDS(one, 0))
    store(out, LANES, WORDS(other, 0))


@given(vectors(INTEGERS, np.uint64), st.integers(0, 5))
@settled(50)
def test_rooms_of_one_function_are_different_memory(values, rounds):
    out = np.zeros((2, LANES), np.uint64)
    through_rooms(values, rounds, out)
    one, other = values.copy(), values.copy()
    with np.errstate(over="ignore"):
        for _ in range(rounds):
            other = other + one
            one[2] = one[2] + other[3]
    assert out.tolist() == [one.tolist(), other.tolist()]


# ---- masks and single lanes ----------------------------------------------------------------------------------------------


@numba.njit
def looks(values, limit, place):
    x = HALF_WORDS(values, 0)
    return simd.below(x, limit), simd.any_below(x, limit), simd.lane(x, place), simd.total(x)


@numba.njit
def looks_at_words(values, limit, place):
    x = WORDS(values, 0)
    return simd.below(x, limit), simd.any_below(x, limit), simd.lane(x, place), simd.total(x)


def check_looks(function, values, limit, place):
    mask, any_below, lane, total = function(values, values.dtype.type(limit), place)
    numbers = values.tolist()
    assert mask == sum((number < limit) << i for i, number in enumerate(numbers))
    assert any_below == any(number < limit for number in numbers)
    assert lane == numbers[place]
    assert total == sum(numbers) % (1 << 8 * values.itemsize)


HALF_EDGES = st.one_of(st.sampled_from([0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1))


@given(vectors(HALF_EDGES, np.uint32, HALVES), HALF_EDGES, st.integers(0, HALVES - 1))
@settled(200)
def test_masks_compare_without_a_sign_and_have_lane_0_lowest(values, limit, place):
    check_looks(looks, values, limit, place)


@given(vectors(INTEGERS, np.uint64), INTEGERS, st.integers(0, LANES - 1))
@settled(100)
def test_masks_of_words_do_too(values, limit, place):
    check_looks(looks_at_words, values, limit, place)


def test_one_lane_below_is_enough_wherever_it_is():
    """`any_below` folds the vector first; the fold must lose no lane."""
    for place in range(HALVES):
        values = np.full(HALVES, 1000, np.uint32)
        values[place] = 999
        assert looks(values, np.uint32(1000), place) == (1 << place, True, 999, 15_999)
        assert looks(values, np.uint32(999), place) == (0, False, 999, 15_999)


@numba.njit
def place_of_lowest(mask):
    return simd.lowest_bit(mask)


def test_the_lowest_bit_of_a_mask():
    for mask_type, width in ((np.uint16, 16), (np.uint64, 64)):
        for place in range(width):
            assert place_of_lowest(mask_type(1 << place)) == place
            assert place_of_lowest(mask_type((1 << width) - (1 << place))) == place


@numba.njit
def guarded(flag):
    if simd.unlikely(flag):
        return 1
    return 0


def test_unlikely_changes_nothing():
    assert (guarded(True), guarded(False)) == (1, 0)


@numba.njit
def turn(turns):
    return simd.take_turn(turns)


def test_turns_are_taken_once_each():
    turns = Turns(7, first=5)
    assert [turn(turns.address) for _ in range(4)] == [5, 6, -1, -1]
    turns = Turns(100)
    assert turn(turns.address) == 0
    turns.end()
    assert turn(turns.address) == -1


# ---- points and floats ---------------------------------------------------------------------------------------------------


@numba.njit
def norms(words, out):
    store(out, 0, simd.squared_norms(WORDS(words, 0)))


SHORTS = st.one_of(st.sampled_from([-32768, -32767, -1, 0, 1, 32767]), st.integers(-32768, 32767))


@given(vectors(SHORTS, np.int16, 4 * LANES))
@example(np.full(4 * LANES, -32768, np.int16))  # the sum is 2**31: pmaddwd gives it as a negative number
@example(np.array([-32768, 0] * HALVES, np.int16))
@example(np.full(4 * LANES, 32767, np.int16))
@settled(200)
def test_squared_norms_are_exact_for_all_signed_halves(halves):
    out = np.zeros(HALVES, np.uint32)
    norms(halves.view(np.uint64), out)
    numbers = halves.tolist()
    assert out.tolist() == [x * x + y * y for x, y in zip(numbers[0::2], numbers[1::2], strict=True)]


@numba.njit
def floats_of(words, out):
    store(out, 0, simd.to_floats(WORDS(words, 0)))


@given(
    vectors(
        st.one_of(
            st.sampled_from([0, 1, -1, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, -(1 << 63)]),
            st.integers(-(1 << 63), (1 << 63) - 1),
        ),
        np.int64,
    )
)
@settled(100)
def test_words_become_floats_as_signed_integers(numbers):
    out = np.zeros(LANES)
    floats_of(numbers.view(np.uint64), out)
    assert out.tolist() == [float(number) for number in numbers.tolist()]


# ---- choices, reversed bits, strides -------------------------------------------------------------------------------------

SPREAD = simd.spread_loader(types.float64, LANES)


@numba.njit
def chosen(left, right, number, out):
    x, y = DOUBLES(left, 0), DOUBLES(right, 0)
    store(out, 0 * LANES, simd.where_less(x, y, x, y))
    store(out, 1 * LANES, simd.where_less(x, number, 1.0, y))
    store(out, 2 * LANES, simd.where_less(x, y, x, number))


ANY_FLOATS = st.one_of(FLOATS, st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0]))


@given(vectors(ANY_FLOATS, float), vectors(ANY_FLOATS, float), ANY_FLOATS)
@settled(100)
def test_where_less_chooses_as_numpy_does(x, y, number):
    out = np.zeros((3, LANES))
    chosen(x, y, number, out)
    expected = [np.where(x < y, x, y), np.where(x < number, 1.0, y), np.where(x < y, x, number)]
    assert np.array_equal(out, expected, equal_nan=True)


@numba.njit
def reversed_in(words, out):
    store(out, 0, simd.reverse_bits(WORDS(words, 0)))


@given(vectors(INTEGERS, np.uint64))
@settled(100)
def test_reverse_bits_reverses_each_lane(words):
    out = np.zeros_like(words)
    reversed_in(words, out)
    assert out.tolist() == [int(f"{word:064b}"[::-1], 2) for word in words.tolist()]


@numba.njit
def moved(source, start, stride, target, target_start, target_stride):
    simd.store_spread(target, target_start, target_stride, SPREAD(source, start, stride))


@given(st.integers(0, 5), st.integers(1, 9), st.integers(0, 5), st.integers(1, 9))
@settled(60)
def test_strides_reach_each_element(start, stride, target_start, target_stride):
    source, target = np.arange(80.0).reshape(8, 10), np.zeros((8, 10))
    moved(source, start, stride, target, target_start, target_stride)
    expected = np.zeros(80)
    expected[target_start + target_stride * np.arange(LANES)] = source.ravel()[start + stride * np.arange(LANES)]
    assert np.array_equal(target.ravel(), expected)


# ---- extremes ------------------------------------------------------------------------------------------------------------


@numba.njit
def extremes(left, right, out):
    x, y = DOUBLES(left, 0), DOUBLES(right, 0)
    store(out, 0, simd.smaller(x, y))
    store(out, LANES, simd.larger(x, y))


def test_extremes_and_what_has_no_order():
    left = np.array([1.0, -2.0, math.inf, -math.inf, 3.0, math.nan, 5.0, math.nan])
    right = np.array([2.0, -3.0, 1.0, 1.0, 3.0, 4.0, math.nan, math.nan])
    out = np.empty(2 * LANES)
    extremes(left, right, out)
    unordered = np.isnan(left) | np.isnan(right)
    np.testing.assert_array_equal(out[:LANES], np.where(unordered, right, np.minimum(left, right)))
    np.testing.assert_array_equal(out[LANES:], np.where(unordered, right, np.maximum(left, right)))
