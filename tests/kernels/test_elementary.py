"""Logarithm, sine and cosine of vectors: their distance from the true values, at edges and all over their ranges."""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext

import numba
import numpy as np
import pytest
from flame_fast.kernels.jit.simd import loader, store
from flame_fast.kernels.jit.vector_math import logarithm, sine_and_cosine
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

LANES = 8
DOUBLES = loader(numba.types.float64, LANES)
WORDS = loader(numba.types.uint64, LANES)
TURN = 1 << 53
EIGHTH = TURN >> 3

#: Bounds that the module promises, in units in the last place of the true value.
PROMISED_ULPS = 1.0

DIGITS = 50
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")

#: Doubles with at least 11 bits more judge vectors of doubles, where the platform has them.
WIDE = np.longdouble
HAS_WIDE = np.finfo(WIDE).nmant >= 63
DRAWS = 1 << 18
SEED = 20240817


@numba.njit
def logarithms(x, out):
    for start in range(0, x.size, LANES):
        store(out, start, logarithm(DOUBLES(x, start)))


@numba.njit
def sines_and_cosines(turns, sines, cosines):
    for start in range(0, turns.size, LANES):
        sine, cosine = sine_and_cosine(WORDS(turns, start))
        store(sines, start, sine)
        store(cosines, start, cosine)


def logarithms_of(values):
    x = np.ones(-(-len(values) // LANES) * LANES)
    x[: len(values)] = values
    out = np.full(x.size, np.nan)
    logarithms(x, out)
    return out[: len(values)]


def sines_and_cosines_of(turns):
    padded = np.zeros(-(-len(turns) // LANES) * LANES, np.uint64)
    padded[: len(turns)] = turns
    out = np.full((2, padded.size), np.nan)
    sines_and_cosines(padded, out[0], out[1])
    return out[:, : len(turns)]


def ulps(found, true):
    """Return a double's distance from the true value, a Decimal, in units in the last place of the latter."""
    with localcontext(prec=DIGITS):
        return float(abs(Decimal(float(found)) - true) / Decimal(math.ulp(float(true))))


def true_logarithm(x):
    with localcontext(prec=DIGITS):
        return Decimal(x).ln()


@functools.cache
def factorial(n):
    return Decimal(math.factorial(n))


def true_sine_and_cosine(turns):
    """Return sine and cosine by the power series, of the turns beyond the nearest quarter."""
    quarter, rest = divmod(turns + EIGHTH, 2 * EIGHTH)
    with localcontext(prec=DIGITS):
        angle = 2 * PI * (rest - EIGHTH) / TURN
        powers = [Decimal(1)]
        while len(powers) < 40:
            powers.append(powers[-1] * angle)
        sine = sum((-1) ** (n // 2) * powers[n] / factorial(n) for n in range(1, 40, 2))
        cosine = sum((-1) ** (n // 2) * powers[n] / factorial(n) for n in range(0, 40, 2))
    return [(sine, cosine), (cosine, -sine), (-sine, -cosine), (-cosine, sine)][quarter % 4]


def wide_ulps(found, true):
    unit = np.spacing(np.maximum(np.abs(true).astype(float), np.finfo(float).tiny)).astype(WIDE)
    return float((np.abs(found.astype(WIDE) - true) / unit).max())


# ---- the logarithm -------------------------------------------------------------------------------------------------------


def test_the_logarithm_of_1_is_0():
    assert not logarithms_of([1.0] * LANES).any()


@given(st.floats(min_value=2.0**-1022, max_value=1.7976931348623157e308))
@example(2.0**-53)
@example(2.0**-1022)
@example(1 - 2.0**-53)
@example(1 + 2.0**-52)
@example(math.sqrt(0.5))
@example(math.nextafter(math.sqrt(0.5), 0))
@example(math.sqrt(2))
@example(math.nextafter(math.sqrt(2), 2))
@settings(deadline=None, max_examples=200)
def test_the_logarithm_of_any_normal_double_is_as_near_as_said(x):
    found = logarithms_of([x])[0]
    true = true_logarithm(x)
    distance = ulps(found, true) if true else abs(found)
    assert distance <= PROMISED_ULPS


@given(st.integers(1, TURN))
@settings(deadline=None, max_examples=200)
def test_the_logarithm_of_a_uniform_number_is_as_near_as_said(k):
    if k < TURN:
        assert ulps(logarithms_of([k / TURN])[0], true_logarithm(k / TURN)) <= PROMISED_ULPS


def test_the_logarithm_of_every_power_of_2():
    exponents = range(-1022, 1024)
    found = logarithms_of([math.ldexp(1.0, e) for e in exponents])
    two = true_logarithm(2)
    for e, value in zip(exponents, found, strict=True):
        assert value == 0 if e == 0 else ulps(value, e * two) <= PROMISED_ULPS, e


@pytest.mark.skipif(not HAS_WIDE, reason="long doubles are doubles here")
def test_logarithms_all_over_the_range():
    source = np.random.default_rng(SEED)
    for name, x in {
        "uniform": (source.integers(0, TURN, DRAWS) + 1) / TURN,
        "small": (source.integers(0, 1 << 20, DRAWS) + 1) / TURN,
        "near 1": 1 - source.integers(1, 1 << 30, DRAWS) / TURN,
        "around 1": np.exp(source.uniform(-0.4, 0.4, DRAWS)),
        "any": np.exp(source.uniform(-700, 700, DRAWS)),
    }.items():
        assert wide_ulps(logarithms_of(x), np.log(x.astype(WIDE))) <= PROMISED_ULPS, name


# ---- sine and cosine -----------------------------------------------------------------------------------------------------


def test_multiples_of_a_quarter_are_exact():
    sines, cosines = sines_and_cosines_of([0, TURN // 4, TURN // 2, 3 * TURN // 4])
    assert sines.tolist() == [0, 1, 0, -1]
    assert cosines.tolist() == [1, 0, -1, 0]


#: Next to the ends of the range and to where one polynomial takes over from the other.
EDGES = sorted({(eighth * EIGHTH + step) % TURN for eighth in range(8) for step in (-2, -1, 0, 1, 2)})


def check_sine_and_cosine(turns):
    true = true_sine_and_cosine(turns)
    for found, value in zip(sines_and_cosines_of([turns])[:, 0].tolist(), true, strict=True):
        distance = ulps(found, value) if value else abs(found)
        assert distance <= PROMISED_ULPS, (turns, found)


def test_at_the_edges_sine_and_cosine_are_as_near_as_said():
    for turns in EDGES:
        check_sine_and_cosine(turns)


@given(st.integers(0, TURN - 1))
@settings(deadline=None, max_examples=200)
def test_sine_and_cosine_of_any_turn_are_as_near_as_said(turns):
    check_sine_and_cosine(turns)


@pytest.mark.skipif(not HAS_WIDE, reason="long doubles are doubles here")
def test_sines_and_cosines_all_over_the_circle():
    source = np.random.default_rng(SEED)
    for name, turns in {
        "uniform": source.integers(0, TURN, DRAWS),
        "near quarters": source.integers(0, 4, DRAWS) * 2 * EIGHTH + source.integers(0, 1 << 30, DRAWS),
        "between quarters": (source.integers(0, 4, DRAWS) * 2 + 1) * EIGHTH - source.integers(1, 1 << 46, DRAWS),
    }.items():
        quarter, rest = np.divmod(turns + EIGHTH, 2 * EIGHTH)
        angle = (rest - EIGHTH).astype(WIDE) * (WIDE(str(2 * PI)) / WIDE(TURN))
        sine, cosine = np.sin(angle), np.cos(angle)
        quarter = quarter % 4
        found = sines_and_cosines_of(turns)
        assert wide_ulps(found[0], np.choose(quarter, [sine, cosine, -sine, -cosine])) <= PROMISED_ULPS, name
        assert wide_ulps(found[1], np.choose(quarter, [cosine, -sine, -cosine, sine])) <= PROMISED_ULPS, name


@given(st.integers(0, TURN - 1))
@settings(deadline=None, max_examples=100)
def test_both_are_of_one_angle(turns):
    assume(
        turns % (2 * EIGHTH) != EIGHTH
    )  # where one polynomial takes over on one side, the mirrored turns are on the other
    sine, cosine = sines_and_cosines_of([turns])[:, 0]
    assert abs(sine) <= 1
    assert abs(cosine) <= 1
    assert sine * sine + cosine * cosine == pytest.approx(1, abs=4 * 2.0**-53)
    mirrored = sines_and_cosines_of([(TURN - turns) % TURN])[:, 0]
    assert mirrored.tolist() == [-sine, cosine]


def test_every_lane_has_its_own_value():
    turns = [number * (TURN // 17) for number in range(LANES)]
    together = sines_and_cosines_of(turns)
    assert together.T.tolist() == [sines_and_cosines_of([each])[:, 0].tolist() for each in turns]
    x = [0.5 + number for number in range(LANES)]
    assert logarithms_of(x).tolist() == [logarithms_of([each])[0] for each in x]
