"""Elementary functions of one double in nopython code: the same bits on every CPU, which those of libm do not have."""

from __future__ import annotations

from flame_fast.kernels.jit.cache import inlined
from flame_fast.kernels.jit.simd import lane, single
from flame_fast.kernels.jit.vector_math import logarithm, power_of_e

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@inlined
def log(x: Any) -> Any:
    """Return the natural logarithm of a positive normal double (see `vector_math.logarithm`)."""
    return lane(logarithm(single(float(x))), 0)


@inlined
def exp(x: Any) -> Any:
    """Return e**x of any double (see `vector_math.power_of_e`)."""
    return lane(power_of_e(single(float(x))), 0)
