"""Nested uniform scrambling by hashes: Owen's random permutation of digits [1]_, a function of the point and of a key.

The scrambling flips each binary digit of a coordinate, or not, by the digits before it. So all prefixes make a binary tree,
and each node has a flip of its own. The flips are to be fair and independent. Stored reversed, the first digit lowest, a
flip may depend on lower bits only: additions and multiplications modulo 2**64 have that property, since carries go upwards
(Laine and Karras [2]_, Burley [3]_). Two steps follow each other, under words of Threefry-4x64-20 for the counters
(dimension, which, SCRAMBLING, 0):

- The 63 nodes of the first six levels have a bit each of one word. They are as independent as the cipher's bits are. Rounds
  alone cannot do that: however many there are, the parity of the four flips at the third level is the flip at the first.
- Four rounds add a word and exclusive-or the product with an even word. A fair and independent choice stays one whatever is
  exclusive-ored to it, so they leave the first six levels as good as they were. Below, tests find no pair of nodes whose
  flips correlate, and pairs are what the variance of scrambled nets depends on. Of 4 nodes at one level whose prefixes
  differ in the last digit and an early one, the parities' correlations reach 0.05 with four rounds, 0.12 with three, 0.3
  with two.

A word has 64 digits. Those of the direction numbers are 32, all others are 0 before the scrambling and random after it.

References
----------
.. [1] A. B. Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", Monte Carlo and Quasi-Monte Carlo Methods in
   Scientific Computing, Lecture Notes in Statistics 106, 1995.
.. [2] S. Laine, T. Karras, "Stratified sampling for stochastic transparency", Computer Graphics Forum 30(4), 2011.
.. [3] B. Burley, "Practical hash-based Owen scrambling", Journal of Computer Graphics Techniques 9(4), 2020.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.domains import SCRAMBLING
from flame_fast.kernels.jit.cache import inlined
from flame_fast.kernels.jit.lanes import threefry
from flame_fast.kernels.jit.simd import like

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: Words of a dimension: the flips of the first levels, and two for each round.
SCRAMBLER_WORDS = 9

ZERO = np.uint64(0)
ONE = np.uint64(1)
EVEN = np.uint64((1 << 64) - 2)


@inlined
def fill_scrambler(key: Any, dimension: Any, words: Any) -> Any:
    """Write the words that scramble a dimension into an array of `SCRAMBLER_WORDS`. Zeros would scramble nothing."""
    number = np.uint64(dimension)
    a, b, c, d = threefry(key[0], key[1], ZERO, ZERO, number, ZERO, SCRAMBLING, ZERO)
    words[0], words[1], words[2], words[3] = a, b, c & EVEN, d
    a, b, c, d = threefry(key[0], key[1], ZERO, ZERO, number, ONE, SCRAMBLING, ZERO)
    words[4], words[5], words[6], words[7] = a & EVEN, b, c & EVEN, d
    a, b, c, d = threefry(key[0], key[1], ZERO, ZERO, number, np.uint64(2), SCRAMBLING, ZERO)
    words[8] = a & EVEN


@inlined
def _flip(x, flips, level):
    """Return a level's flips in its digit's place; `flips` has the level's bits lowest, in the order of the prefixes."""
    prefix = x & ((ONE << level) - ONE)
    return ((like(x, flips) >> prefix) & ONE) << level


@inlined
def scrambled(x: Any, words: Any, dimension: Any) -> Any:
    """Scramble vectors of reversed fractions of a dimension, by the words in its row of an array."""
    flips = words[dimension, 0]
    chosen = _flip(x, flips >> np.uint64(2), np.uint64(1)) ^ _flip(x, flips >> np.uint64(4), np.uint64(2))
    chosen = chosen ^ _flip(x, flips >> np.uint64(8), np.uint64(3)) ^ _flip(x, flips >> np.uint64(16), np.uint64(4))
    x = x ^ (chosen ^ _flip(x, flips >> np.uint64(32), np.uint64(5)) ^ ((flips >> ONE) & ONE))
    x = x + words[dimension, 1]
    x = x ^ (x * words[dimension, 2])
    x = x + words[dimension, 3]
    x = x ^ (x * words[dimension, 4])
    x = x + words[dimension, 5]
    x = x ^ (x * words[dimension, 6])
    x = x + words[dimension, 7]
    return x ^ (x * words[dimension, 8])
