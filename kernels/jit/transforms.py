"""Transforms of random words into doubles, lane by lane: uniform, exponential and normal numbers, integers of a range.

References
----------
.. [1] G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates", Annals of Mathematical Statistics
   29(2), 1958.
.. [2] D. Lemire, "Fast random integer generation in an interval", ACM Transactions on Modeling and Computer Simulation
   29(1), 2019.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import inlined
from flame_fast.kernels.jit.simd import square_root, unsigned_to_floats
from flame_fast.kernels.jit.vector_math import logarithm, sine_and_cosine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HALF = np.uint64(32)
LOWER = np.uint64(0xFFFFFFFF)
OF_DOUBLE = np.uint64(11)
OF_SINGLE = np.uint64(40)


@inlined
def uniforms_of(words: Any) -> Any:
    """Return doubles in [0, 1), multiples of 2**-53, made of the words' upper 53 bits."""
    return unsigned_to_floats(words >> OF_DOUBLE) * 2.0**-53


@inlined
def single_uniforms_of(words: Any) -> Any:
    """Return doubles in [0, 1), multiples of 2**-24, made of the words' upper 24 bits: each is a single, too."""
    return unsigned_to_floats(words >> OF_SINGLE) * 2.0**-24


@inlined
def positive_uniforms_of(words: Any) -> Any:
    """Return doubles in (0, 1], multiples of 2**-53."""
    # The addition of an integer before the conversion costs twice as much: the conversion waits for its own last result.
    return unsigned_to_floats(words >> OF_DOUBLE) * 2.0**-53 + 2.0**-53


@inlined
def exponentials_of(words: Any) -> Any:
    """Return doubles of the exponential distribution of mean 1: negative logarithms of uniform ones, at most 36.8."""
    return 0.0 - logarithm(positive_uniforms_of(words))


@inlined
def normals_of(words: Any, others: Any) -> Any:
    """Return two vectors of standard normal doubles, by the Box-Muller transform [1]_; at most 8.6 in size."""
    radius = square_root(logarithm(positive_uniforms_of(words)) * -2.0)
    sine, cosine = sine_and_cosine(others >> OF_DOUBLE)
    return radius * cosine, radius * sine


@inlined
def wide_product(words: Any, factor: Any) -> Any:
    """Return the upper and the lower words of the products of words with a number.

    The upper ones are words out of a range, the lower ones decide on them [2]_. Each is made of four products of halves, for
    which CPUs have a vector instruction.
    """
    high, low = words >> HALF, words & LOWER
    factor_high, factor_low = factor >> HALF, factor & LOWER
    lowest = low * factor_low
    middle = high * factor_low + (lowest >> HALF)
    other = low * factor_high + (middle & LOWER)
    upper = high * factor_high + (middle >> HALF) + (other >> HALF)
    return upper, (other << HALF) + (lowest & LOWER)
