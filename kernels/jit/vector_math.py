"""Elementary functions of vectors of doubles that LLVM has no vector instruction for.

All are polynomials, or quotients of two, within one unit in the last place (ulp) of the true value on the ranges given;
`normal_quantile` says its own bound. The coefficients of logarithm, sine and cosine are those of fdlibm (Sun Microsystems,
1993: e_log.c, k_sin.c, k_cos.c).

References
----------
.. [1] M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37(3), 1988.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import inlined
from flame_fast.kernels.jit.simd import (
    any_below,
    as_floats,
    as_integers,
    like,
    multiply_add,
    square_root,
    unlikely,
    unsigned_to_floats,
    where_less,
    where_odd,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The bits of the largest double below the square root of one half, in its upper word: mantissas are taken between it and
#: its double.
ROOT_BITS = np.uint64(0x3FE6A09E_00000000)
#: The bits of 1.0 less those: the addition carries into the exponent just where the mantissa is to be halved.
CARRY = np.uint64(0x3FF00000_00000000 - 0x3FE6A09E_00000000)
MANTISSA = np.uint64(0x000FFFFF_FFFFFFFF)
#: The bits of 2**52, to which an exponent's bits are added as those of a mantissa; and what has then to be taken away.
TWO_TO_THE_52 = np.uint64(0x43300000_00000000)
BIAS = 2.0**52 + 1023.0

LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10


@inlined
def _logarithm_parts(x):
    """Return three addends of the logarithm: a multiple of ln 2, exact, a mantissa less 1, exact, and a correction."""
    bits = as_integers(x) + CARRY
    exponent = as_floats((bits >> np.uint64(52)) | TWO_TO_THE_52) - BIAS
    f = as_floats((bits & MANTISSA) + ROOT_BITS) - 1.0
    half_square = f * f * 0.5
    s = f / (f + 2.0)
    z = s * s
    w = z * z
    odd = (
        multiply_add(
            w,
            multiply_add(w, multiply_add(w, 1.479819860511658591e-01, 1.818357216161805012e-01), 2.857142874366239149e-01),
            6.666666666666735130e-01,
        )
        * z
    )
    even = multiply_add(w, multiply_add(w, 1.531383769920937332e-01, 2.222219843214978396e-01), 3.999999999940941908e-01) * w
    rest = multiply_add(s, half_square + (odd + even), exponent * LN2_LOW)
    return exponent * LN2_HIGH, f, rest - half_square


@inlined
def logarithm(x: Any) -> Any:
    """Return the natural logarithm of positive normal doubles."""
    multiple, f, correction = _logarithm_parts(x)
    return multiple + (correction + f)


# ---- the exponential -----------------------------------------------------------------------------------------------------

LOG2_E = 1.44269504088896340736
#: A double whose last place is 1, with room below: what is added to it is rounded to a whole number, which then stands in
#: its lowest 12 bits, 2048 too large.
ROUNDING = 1.5 * 2.0**52 + 2048
TWELVE_BITS = np.uint64(0xFFF)
#: Below, e**x rounds to 0; above, it is infinite.
LEAST_POWER = -746.0
LARGEST_POWER = 710.0


@inlined
def power_of_e(x: Any) -> Any:
    """Return e**x of any doubles.

    Within 1 ulp; at most 0.69 ulp were measured. Results below 2**-1022 are subnormal, within one unit of 2**-1074, down to
    0; those beyond the largest double are infinite. A NaN gives a NaN.
    """
    x = where_less(x, LEAST_POWER, LEAST_POWER, x)
    x = where_less(like(x, LARGEST_POWER), x, LARGEST_POWER, x)
    shifted = multiply_add(x, LOG2_E, ROUNDING)
    exponent = shifted - ROUNDING
    high = multiply_add(exponent, -LN2_HIGH, x)
    low = exponent * LN2_LOW
    r = high - low  # between -ln(2) / 2 and ln(2) / 2
    lost = (high - r) - low
    p = multiply_add(r, 1.0 / 6227020800.0, 1.0 / 479001600.0)  # the power series: reciprocals of 13! and 12!, down to 2!
    p = multiply_add(r, p, 1.0 / 39916800.0)
    p = multiply_add(r, p, 1.0 / 3628800.0)
    p = multiply_add(r, p, 1.0 / 362880.0)
    p = multiply_add(r, p, 1.0 / 40320.0)
    p = multiply_add(r, p, 1.0 / 5040.0)
    p = multiply_add(r, p, 1.0 / 720.0)
    p = multiply_add(r, p, 1.0 / 120.0)
    p = multiply_add(r, p, 1.0 / 24.0)
    p = multiply_add(r, p, 1.0 / 6.0)
    p = multiply_add(r, p, 0.5)
    rounded = r + 1.0
    mantissa = rounded + (((1.0 - rounded) + r) + multiply_add(r * r, p, lost))
    # In two steps, since 2**exponent itself may be no normal double. The first one is exact.
    biased = as_integers(shifted) & TWELVE_BITS
    half = biased >> np.uint64(1)
    one = np.uint64(1)
    return mantissa * as_floats((half - one) << np.uint64(52)) * as_floats((biased - half - one) << np.uint64(52))


# ---- sine and cosine -----------------------------------------------------------------------------------------------------

#: 2 * pi / 2**53: the nearest double, and its rounding error.
STEP_HIGH = 2.0**-53 * 6.283185307179586477
STEP_LOW = 2.719262146893782e-32


@inlined
def sine_and_cosine(turns: Any) -> Any:
    """Return the sines and cosines of 2 * pi * turns / 2**53; integers `turns` from 0 to below 2**53."""
    quadrant = (turns + np.uint64(1 << 50)) >> np.uint64(51)
    steps = unsigned_to_floats(turns) - unsigned_to_floats(quadrant << np.uint64(51))  # exact
    angle = steps * STEP_HIGH  # between -pi / 4 and pi / 4, without its low part, `low`
    low = multiply_add(steps, STEP_LOW, multiply_add(steps, like(steps, STEP_HIGH), angle * -1.0))
    z = angle * angle
    s = multiply_add(z, 1.58969099521155010221e-10, -2.50507602534068634195e-08)
    s = multiply_add(z, s, 2.75573137070700676789e-06)
    s = multiply_add(z, s, -1.98412698298579493134e-04)
    s = multiply_add(z, s, 8.33333333332248946124e-03)
    s = multiply_add(z, s, -1.66666666666666324348e-01)
    sine = angle + multiply_add(angle * z, s, low)
    c = multiply_add(z, -1.13596475577881948265e-11, 2.08757232129817482790e-09)
    c = multiply_add(z, c, -2.75573143513906633035e-07)
    c = multiply_add(z, c, 2.48015872894767294178e-05)
    c = multiply_add(z, c, -1.38888888888741095749e-03)
    c = multiply_add(z, c, 4.16666666666666019037e-02)
    half_square = z * 0.5
    rounded = 1.0 - half_square
    cosine = rounded + ((1.0 - rounded - half_square) + (z * z * c - angle * low))
    swapped_sine = where_odd(quadrant, cosine, sine)
    swapped_cosine = where_odd(quadrant, sine, cosine)
    sine_sign = (quadrant & np.uint64(2)) << np.uint64(62)
    cosine_sign = ((quadrant + np.uint64(1)) & np.uint64(2)) << np.uint64(62)
    return (
        as_floats(as_integers(swapped_sine) ^ sine_sign),
        as_floats(as_integers(swapped_cosine) ^ cosine_sign),
    )


# ---- quantiles of the normal distribution --------------------------------------------------------------------------------

#: sqrt(2 * pi), the slope of the quantile at 1/2, and sqrt(2): the nearest doubles and their rounding errors.
SLOPE_HIGH = 2.506628274631000502
SLOPE_LOW = -1.8328579980459167e-16
ROOT_HIGH = 1.414213562373095049
ROOT_LOW = -9.667293313452913e-17

#: The central branch is for p between 1/2 - CENTRE and 1/2 + CENTRE.
CENTRE = 0.425
CENTRE_SQUARED = 0.180625

#: Where the outer tails begin: s is 5.
OUTER = 1.4e-11
LEAST_NORMAL = 2.0**-1022

#: Of the bits of a probability, less those of the double above 1/2 and modulo 2**64: what is below is no double from OUTER
#: to 1/2.
ABOVE_HALF = np.uint64(0x3FE00000_00000001)
UNCOMMON = np.uint64((1 << 64) - int(ABOVE_HALF) + int(np.float64(OUTER).view(np.uint64)))


@inlined
def _polynomial(x, c0, c1, c2, c3, c4, c5, c6, c7):
    y = multiply_add(like(x, c7), x, c6)
    y = multiply_add(x, y, c5)
    y = multiply_add(x, y, c4)
    y = multiply_add(x, y, c3)
    y = multiply_add(x, y, c2)
    y = multiply_add(x, y, c1)
    return multiply_add(x, y, c0)


@inlined
def _outer_tail(s, lost):
    """Return the quantile in the outer tails, at s; `lost` is what the rounded s * s lacks."""
    above = _polynomial(
        s,
        3.230542026949943,
        13.77538357446661,
        7.770787075768908,
        1.2752068002724102,
        0.07276308096713555,
        0.0014219891274303879,
        7.785718228344556e-06,
        6.0561001246786815e-09,
    )
    rest = _polynomial(
        s,
        8.153278018324709,
        10.808398075334853,
        3.8141763851311694,
        0.466281658590799,
        0.0211584662712934,
        0.00033560732613895983,
        1.4662286412935304e-06,
        8.148372639758777e-10,
    )
    ratio = above / multiply_add(s, rest, 1.0)
    return multiply_add(s, ROOT_HIGH, lost * (0.7071 / s) + s * ROOT_LOW - ratio)


@inlined
def normal_quantile(p: Any) -> Any:
    """Return the quantiles of the standard normal distribution: x with the probability p below it.

    Probabilities are from 2**-1022 to 1 - 2**-53. Measured against 40 digits: at most 2.1 ulp from the true value, 0.3 on
    average. For 0 and less than 2**-1022 the quantile is minus infinity, for 1 infinity, for all else NaN.

    As in AS 241 [1]_ a quotient of polynomials of degree 7 serves the centre, and others the tails as functions of s =
    sqrt(-log(p)). Here the quotients are corrections: of the slope at 1/2 in the centre, and of the asymptote sqrt(2) * s in
    the tails. So their own rounding errors count less. What the differences and roots before them lose is made good to first
    order. The coefficients are new ones, fitted to 7e-18 at 50 digits.
    """
    q = p - 0.5
    q_lost = p - (q + 0.5)
    square = q * q
    distance = multiply_add(q, q * -1.0, CENTRE_SQUARED)
    centre_above = _polynomial(
        distance,
        4.874765941399952,
        190.08696217688282,
        2784.505967561302,
        19081.515054246393,
        62070.69357640293,
        85931.478042313,
        36546.26453647578,
        568.7986559483718,
    )
    centre_below = _polynomial(
        distance,
        1.0,
        45.01838737640287,
        790.9129718733079,
        6876.740566475731,
        31018.426185312484,
        69607.9535684475,
        67638.1102853648,
        19848.645501029325,
    )
    least = where_less(p, 0.5, p, 1.0 - p)
    multiple, f, correction = _logarithm_parts(least)
    mantissa_part = f + correction
    log = multiple + mantissa_part
    log_lost = ((multiple - log) + mantissa_part) + ((f - mantissa_part) + correction)
    s = square_root(log * -1.0)
    lost = multiply_add(s, s * -1.0, log * -1.0) - log_lost  # of s * s
    tail_above = _polynomial(
        s,
        3.5195687955551485,
        35.04053047604188,
        70.89771415107707,
        50.808407310095795,
        15.639140996681412,
        1.6884996920465545,
        0.0443680052489005,
        4.774308284643667e-05,
    )
    tail_below = _polynomial(
        s,
        1.0,
        15.902380881570924,
        51.31404582354055,
        59.067552704201645,
        30.329187142620544,
        6.815633029529575,
        0.5392756338254252,
        0.010014695193729798,
    )
    is_centre = as_integers(distance) >> np.uint64(63)  # 0: the tails have the sign bit
    ratio = where_odd(is_centre, tail_above, centre_above) / where_odd(is_centre, tail_below, centre_below)
    bent = square * ratio
    centre = multiply_add(q, SLOPE_HIGH, q * (bent + SLOPE_LOW) + q_lost * multiply_add(bent, like(q, 3.5), SLOPE_HIGH))
    slope = multiply_add(s, multiply_add(s, like(s, 0.0288), -0.2838), 0.8556)  # of the tail by s * s, to a tenth
    tail = multiply_add(s, ROOT_HIGH, multiply_add(lost, slope, s * ROOT_LOW) - ratio)
    if unlikely(any_below(as_integers(least) - ABOVE_HALF, UNCOMMON)):
        outer = _outer_tail(s, lost)
        tail = where_less(least, OUTER, outer, tail)
        tail = where_less(least, LEAST_NORMAL, np.inf, tail)
        tail = where_less(least, 0.0, np.nan, tail) + (least - least)
    return where_odd(is_centre, where_less(p, 0.5, tail * -1.0, tail), centre)
