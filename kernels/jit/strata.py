"""Draws of strata and Latin hypercubes: the compiled half of `variance`.

A stratum's place is a number of a few bits less than a double has: the word's upper `bits`, and a half. Then the sum with
the stratum's number is exact, and neither its division by the number of strata nor a multiplication by it, each rounded,
leaves the stratum. `bits` is 51 less those of the number of strata: the place is 2**-(bits + 1) from the stratum's ends at
least, twice the error of a rounding.

Words are the outputs of Threefry-4x64-20 [1]_ for the counters (c, column, domain, 0) under the key: those of 8 counters in
a row are 32 words, first the first words of all 8. So any slice of the strata is drawn by itself.

A permutation of n numbers is a Feistel network [2]_ of 8 rounds on the bits of n - 1, 8 at least, whose outputs beyond n are
permuted again until one lies below: cycle walking [3]_. A round's function is the finalizer of SplitMix64 [4]_, its keys
words of Threefry, for the counters (round, column, domain, 1).

References
----------
.. [1] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011.
.. [2] M. Luby, C. Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", SIAM Journal on
   Computing 17(2), 1988.
.. [3] J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA, 2002.
.. [4] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA, 2014.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.lanes import LANE_NUMBERS, LANES, ONE, ZERO, threefry
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import like, store, take_turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.kernels.keys import Key
    from numpy.typing import NDArray

#: Rows of a block, a multiple of `GROUP`: what a thread draws at a time.
BLOCK = 1 << 14

GROUP = 4 * LANES

ROUNDS = 8
FEWEST_BITS = 8


@inlined
def _draw_group(key, group, column, domain, words):
    """Write the 32 words of the counters from 8 * group on."""
    lanes = LANE_NUMBERS()
    a, b, c, d = threefry(
        key[0],
        key[1],
        ZERO,
        ZERO,
        lanes + np.uint64(LANES) * np.uint64(group),
        like(lanes, np.uint64(column)),
        like(lanes, domain),
        like(lanes, ZERO),
    )
    store(words, 0, a)
    store(words, LANES, b)
    store(words, 2 * LANES, c)
    store(words, 3 * LANES, d)


@inlined
def _bits_of(number):
    bits = 0
    while number >> bits:
        bits += 1
    return bits


@inlined
def _place_in(stratum, word, bits, scale, strata):
    place = (np.float64(word >> np.uint64(64 - bits)) + 0.5) * scale
    return (np.float64(stratum) + place) / strata


@inlined
def _mixed(word):
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@inlined
def _enciphered(value, keys, right_bits, left_bits):
    """Return what the network makes of a number of `left_bits + right_bits` bits, or of a vector of such numbers."""
    # The halves take turns; their widths too, which an even number of rounds brings back.
    width, other = np.uint64(right_bits), np.uint64(left_bits)
    left, right = value >> width, value & ((ONE << width) - ONE)
    for turn in range(ROUNDS):
        left, right = right, left ^ (_mixed(right ^ keys[turn]) >> (np.uint64(64) - other))
        width, other = other, width
    return (left << width) | right


@inlined
def _permute_group(group, strata, keys, right_bits, left_bits, numbers):
    """Write where the permutation of `strata` numbers takes those of a group; of numbers beyond, anything."""
    for start in range(0, GROUP, LANES):
        store(
            numbers,
            start,
            _enciphered(LANE_NUMBERS() + np.uint64(group * GROUP + start), keys, right_bits, left_bits),
        )
    within = min(GROUP, strata - group * GROUP)
    for each in range(within):
        while numbers[each] >= np.uint64(strata):
            numbers[each] = _enciphered(numbers[each], keys, right_bits, left_bits)


@inlined
def _fill_rows(key, domain, permuted, of, first, start, stop, words, numbers, keys, out):
    """Fill some rows of `out`, whose first row has the number `first` of all strata."""
    bits = 51 - _bits_of(of)
    scale = 1.0 / np.float64(1 << bits)
    whole = max(_bits_of(of - 1), FEWEST_BITS)
    right_bits = whole // 2
    left_bits = whole - right_bits
    for column in range(out.shape[1]):
        if permuted:
            for turn in range(ROUNDS):
                keys[turn] = threefry(key[0], key[1], ZERO, ZERO, np.uint64(turn), np.uint64(column), domain, ONE)[0]
        drawn = -1
        for row in range(start, stop):
            number = first + row
            if number // GROUP != drawn:
                drawn = number // GROUP
                _draw_group(key, drawn, column, domain, words)
                if permuted:
                    _permute_group(drawn, of, keys, right_bits, left_bits, numbers)
            stratum = np.int64(numbers[number % GROUP]) if permuted else number
            out[row, column] = _place_in(stratum, words[number % GROUP], bits, scale, of)


@inlined
def _memory():
    return np.empty(GROUP, np.uint64), np.empty(GROUP, np.uint64), np.empty(ROUNDS, np.uint64)


@compiled()
def fill_alone(key: Any, domain: Any, permuted: Any, of: Any, number: Any, out: Any) -> Any:
    """Fill an array whose first row has the number `number`."""
    words, numbers, keys = _memory()
    _fill_rows(key, domain, permuted, of, number, 0, len(out), words, numbers, keys, out)


@compiled()
def fill_by_turns(key: Any, domain: Any, permuted: Any, of: Any, number: Any, out: Any, turns: Any, most: Any) -> Any:
    """Fill the blocks that this thread takes."""
    words, numbers, keys = _memory()
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        start = block * BLOCK
        _fill_rows(key, domain, permuted, of, number, start, min(start + BLOCK, len(out)), words, numbers, keys, out)
    return 0


def fill(key: Key, domain: np.uint64, permuted: bool, of: int, first: int, out: NDArray[np.float64]) -> None:
    """Fill a contiguous array of shape (n, d), whose first row has the number `first` of `of` strata."""
    words = key.low, key.high
    run_blocks(
        -(-len(out) // BLOCK),
        lambda turns, most: fill_by_turns(words, domain, permuted, of, first, out, turns, most),
    )
