"""Elementary functions of vectors of doubles that LLVM has no vector instruction for.

All are polynomials without a branch, within one unit in the last place (ulp) of the true value on the ranges given. The
coefficients are those of fdlibm (Sun Microsystems, 1993: e_log.c, k_sin.c, k_cos.c).
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import inlined
from flame_fast.kernels.jit.simd import as_floats, as_integers, like, multiply_add, to_floats, where_odd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The bits of the largest double below the square root of one half, in its upper word: mantissas are taken between it and
#: its double.
ROOT_BITS = np.uint64(0x3FE6A09E_00000000)
#: The bits of 1.0 less those: the addition carries into the exponent just where the mantissa is to be halved.
CARRY = np.uint64(0x3FF00000_00000000 - 0x3FE6A09E_00000000)
MANTISSA = np.uint64(0x000FFFFF_FFFFFFFF)
BIAS = np.uint64(1023)

LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10


@inlined
def logarithm(x: Any) -> Any:
    """Return the natural logarithm of positive normal doubles."""
    bits = as_integers(x) + CARRY
    exponent = to_floats((bits >> np.uint64(52)) - BIAS)
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
    return exponent * LN2_HIGH - ((half_square - rest) - f)


#: 2 * pi / 2**53: the nearest double, and its rounding error.
STEP_HIGH = 2.0**-53 * 6.283185307179586477
STEP_LOW = 2.719262146893782e-32


@inlined
def sine_and_cosine(turns: Any) -> Any:
    """Return the sines and cosines of 2 * pi * turns / 2**53; integers `turns` from 0 to below 2**53."""
    quadrant = (turns + np.uint64(1 << 50)) >> np.uint64(51)
    steps = to_floats(turns - (quadrant << np.uint64(51)))
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
