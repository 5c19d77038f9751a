"""The exponential and the normal quantile of vectors: their distance from the true values, at edges and everywhere."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numba
import numpy as np
import pytest
from flame_fast.kernels.jit.simd import loader, store
from flame_fast.kernels.jit.vector_math import normal_quantile, power_of_e
from hypothesis import example, given, settings
from hypothesis import strategies as st

LANES = 8
DOUBLES = loader(numba.types.float64, LANES)
DIGITS = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")

#: Bounds that the module promises, in units in the last place of the true value, or of the least normal double.
EXPONENTIAL_ULPS = 1.0
QUANTILE_ULPS = 2.1

LEAST_NORMAL = 2.0**-1022
WIDE = np.longdouble
HAS_WIDE = np.finfo(WIDE).nmant >= 63
DRAWS = 1 << 18
SEED = 20250211


@numba.njit
def compute(kind, x, out):
    for start in range(0, x.size, LANES):
        if kind == 0:
            store(out, start, power_of_e(DOUBLES(x, start)))
        else:
            store(out, start, normal_quantile(DOUBLES(x, start)))


def computed(kind, values):
    x = np.full(-(-len(values) // LANES) * LANES, 0.5)
    x[: len(values)] = values
    out = np.full(x.size, np.nan)
    compute(kind, x, out)
    return out[: len(values)]


def exponentials(values):
    return computed(0, values)


def quantiles(values):
    return computed(1, values)


def unit_of(true):
    return Decimal(math.ulp(max(abs(float(true)), LEAST_NORMAL)))


# ---- the exponential -----------------------------------------------------------------------------------------------------


def exponential_ulps(x):
    found = exponentials([x])[0]
    with localcontext(prec=DIGITS):
        true = Decimal(x).exp()
        return float(abs(Decimal(float(found)) - true) / unit_of(true))


@given(st.floats(min_value=-750, max_value=709.782712893384))
@example(709.782712893384)  # the last one below the largest double
@example(-708.3964185322641)  # about the least normal result
@example(-708.3964185322642)
@example(-745.1332191019411)  # the last one above half of the least subnormal
@example(-745.1332191019412)
@example(0.34657359027997264)  # where one power of 2 takes over from another
@example(0.3465735902799727)
@example(-0.34657359027997264)
@example(2.0**-53)
@example(-(2.0**-54))
@example(5e-324)
@settings(deadline=None, max_examples=200)
def test_the_exponential_is_as_near_as_said(x):
    assert exponential_ulps(x) <= EXPONENTIAL_ULPS


@pytest.mark.skipif(not HAS_WIDE, reason="long doubles are doubles here")
def test_exponentials_all_over_the_range():
    source = np.random.default_rng(SEED)
    for low, high in ((-0.35, 0.35), (-2, 2), (-40, 40), (-708.3, 709.7)):
        x = source.uniform(low, high, DRAWS)
        true = np.exp(x.astype(WIDE))
        distance = np.abs(exponentials(x).astype(WIDE) - true) / np.spacing(true.astype(float)).astype(WIDE)
        assert float(distance.max()) <= EXPONENTIAL_ULPS, (low, high)


def test_the_exponential_at_its_ends():
    found = exponentials([0.0, -0.0, 709.7827128933841, 1e308, math.inf, -745.14, -746.5, -1e308, -math.inf, -745.1])
    assert found.tolist() == [1.0, 1.0, math.inf, math.inf, math.inf, 0.0, 0.0, 0.0, 0.0, 5e-324]
    assert np.isnan(exponentials([math.nan, -math.nan])).all()


def test_the_exponential_never_falls():
    x = np.sort(np.random.default_rng(SEED).uniform(-750, 709, DRAWS))
    assert (np.diff(exponentials(x)) >= 0).all()


# ---- the normal quantile -------------------------------------------------------------------------------------------------


def below(x):
    """Return the probability below x <= 0: by a power series near 0, by a continued fraction far out."""
    density = (-x * x / 2).exp() / (2 * PI).sqrt()
    if x > -6:
        term = total = x
        for n in range(3, 600, 2):
            term *= x * x / n
            total += term
            if abs(term) < Decimal(10) ** -(DIGITS - 5):
                break
        return Decimal("0.5") + density * total, density
    rest = -x
    for n in range(300, 0, -1):
        rest = -x + n / rest
    return density / rest, density


def quantile_ulps(p):
    """Return the distance of the quantile from the true one, which one step of Newton's method from it finds."""
    found = float(quantiles([p])[0])
    with localcontext(prec=DIGITS):
        x, wanted = Decimal(found), Decimal(p)
        sign = 1
        if p > 0.5:
            x, wanted, sign = -x, 1 - wanted, -1
        probability, density = below(min(x, Decimal(0)))
        step = (wanted - probability) / density
        true = sign * (min(x, Decimal(0)) + step + x * step * step / 2)
        return float(abs(Decimal(found) - true) / unit_of(true)) if true else abs(found)


PROBABILITIES = st.one_of(
    st.integers(1, (1 << 53) - 1).map(lambda k: k * 2.0**-53),
    st.floats(min_value=2.0**-1022, max_value=1 - 2.0**-53),
    st.floats(min_value=-708, max_value=-0.7).map(math.exp),
    st.integers(1, 1 << 40).map(lambda k: 1 - k * 2.0**-53),
    st.tuples(st.integers(-(1 << 20), 1 << 20), st.integers(22, 53)).map(lambda pair: 0.5 + pair[0] * 2.0 ** -pair[1]),
    st.floats(min_value=0.055, max_value=0.08),  # where the tails begin
    st.floats(min_value=1.3e-11, max_value=1.5e-11),  # and the outer ones
)


@given(PROBABILITIES)
@example(0.5)
@example(math.nextafter(0.5, 0))
@example(math.nextafter(0.5, 1))
@example(0.075)
@example(0.07499999999999998)
@example(0.925)
@example(0.9250000000000002)
@example(1.4e-11)
@example(math.nextafter(1.4e-11, 0))
@example(2.0**-53)
@example(1 - 2.0**-53)
@example(2.0**-1022)
@example(0.061277324620809454)  # the worst of 16,000
@settings(deadline=None, max_examples=300)
def test_the_quantile_is_as_near_as_said(p):
    assert quantile_ulps(p) <= QUANTILE_ULPS


def test_known_quantiles():
    """Of tables: 0, 1.96 and others, to their last digit here."""
    found = quantiles([0.5, 0.975, 0.025, 0.999, 0.0005, 1e-20])
    wanted = [0.0, 1.959963984540054, -1.959963984540054, 3.090232306167813, -3.290526731491895, -9.262340089798408]
    assert found.tolist() == pytest.approx(wanted, rel=5e-16, abs=0)


def test_the_quantile_at_its_ends():
    found = quantiles([0.0, 1.0, 1e-310])
    assert found.tolist() == [-math.inf, math.inf, -math.inf]
    assert np.isnan(quantiles([math.nan, -0.1, 1.1, math.inf, -math.inf, -1e-320, 1 + 2.0**-52])).all()


def test_no_lane_changes_another():
    """A lane far out makes the others take the rare branch, too: they stay as they are."""
    p = [0.3, 1e-300, 0.06, 0.94, math.nan, 0.5, 0.0, 1 - 2.0**-53]
    together = quantiles(p)
    for at, each in enumerate(p):
        alone = quantiles([each])[0]
        assert alone == together[at] or (math.isnan(alone) and math.isnan(together[at]))


def test_opposite_probabilities_have_opposite_quantiles():
    k = np.random.default_rng(SEED).integers(1, 1 << 52, DRAWS) * 2 + 1
    p = k * 2.0**-54
    p = p[p < 0.5]
    p = np.floor(p * 2.0**53) * 2.0**-53 + 2.0**-53
    assert np.array_equal(quantiles(p), -quantiles(1 - p))
    found = quantiles(np.sort(p))
    assert (np.diff(found) >= -8 * np.spacing(np.abs(found[1:]))).all()
