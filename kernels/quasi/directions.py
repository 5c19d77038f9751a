"""Direction numbers of the Sobol sequence for 21,201 dimensions, by Joe and Kuo [1]_, for compiled code.

A Sobol point's coordinate is the exclusive or of some direction numbers of its dimension, binary fractions: one for each bit
of the point's number. The recurrence of a primitive polynomial makes them of a few initial ones. `joe_kuo.bin`, with its
authors' licence in `JOE_KUO.txt`, has three little-endian words for each dimension. As one number of 192 bits these are,
from the lowest bit on: the polynomial (20 bits, its lowest bit the constant term; 0 for the first dimension, whose direction
numbers are the powers of 1/2), then, one after the other, the digits of the initial numbers after the point, the first digit
lowest. Number j has j digits, and the last one is 1 and left out. So they take 24 bytes a dimension, of which the
polynomials' degree, 18 at most, leaves the last bits unused.

Everywhere here a fraction stands reversed: the first digit after the point is the lowest bit of a word.

The module reads the file when it is imported, which `quasi` alone does. Compiled code finds the numbers by a symbol of
LLVM's: code that comes from the cache on disk finds them as well, and asks neither Python nor the GIL. Rejected: the numbers
as a constant of the code, half a megabyte in each function that draws points.

References
----------
.. [1] S. Joe, F. Y. Kuo, "Constructing Sobol sequences with better two-dimensional projections", SIAM Journal on Scientific
   Computing 30(5), 2008.
"""

from __future__ import annotations

import os

import llvmlite.binding
import numpy as np
from flame_fast.kernels.jit.cache import inlined
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Dimensions that have direction numbers.
DIMENSIONS = 21201

#: Direction numbers of a dimension: points have numbers of so many bits.
BITS = 32

#: Words of a dimension in the file, and bits of its polynomial.
WORDS = 3
POLYNOMIAL = 20

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "joe_kuo.bin")
SYMBOL = "flame_fast_joe_kuo"


#: The file, and one word more, which no dimension uses: see `fill_directions`. It stays while the process lives.
NUMBERS = np.fromfile(PATH, "<u8")
llvmlite.binding.add_symbol(SYMBOL, NUMBERS.ctypes.data)


@intrinsic
def _word(typing: Any, index: Any) -> Any:
    """Return a word of the file."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        whole = ir.ArrayType(word, WORDS * DIMENSIONS + 1)
        place = builder.module.globals.get(SYMBOL) or cgutils.add_global_variable(builder.module, whole, SYMBOL)
        return builder.load(builder.gep(place, [ir.IntType(32)(0), arguments[0]]))

    return types.uint64(types.intp), generate


ZERO = np.uint64(0)
ONE = np.uint64(1)
SIX = np.uint64(6)
IN_WORD = np.uint64(63)
ALL = np.uint64((1 << BITS) - 1)


@inlined
def fill_directions(dimension: Any, needed: Any, numbers: Any) -> Any:
    """Write the first `needed` direction numbers of a dimension, reversed, into a uint64 array of at least so many.

    With the polynomial x**s + a(1) * x**(s-1) + ... + 1, number j is a(1) * v(j-1) ^ ... ^ v(j-s) ^ (v(j-s) >> s) as
    fractions.
    """
    base = WORDS * dimension
    polynomial = _word(base) & np.uint64((1 << POLYNOMIAL) - 1)
    degree = 0
    while (polynomial >> np.uint64(degree)) > ONE:
        degree += 1
    at = np.uint64(POLYNOMIAL)
    for j in range(needed):
        if degree == 0:
            numbers[j] = ONE << np.uint64(j)
        elif j < degree:
            word, shift = base + np.int64(at >> SIX), at & IN_WORD
            digits = (_word(word) >> shift) | (_word(word + 1) << ONE << (IN_WORD - shift))
            numbers[j] = (digits & ((ONE << np.uint64(j)) - ONE)) | (ONE << np.uint64(j))
            at += np.uint64(j)
        else:
            number = numbers[j - degree] ^ (numbers[j - degree] << np.uint64(degree))
            for i in range(1, degree):
                number ^= numbers[j - i] * ((polynomial >> np.uint64(degree - i)) & ONE)
            numbers[j] = number & ALL
