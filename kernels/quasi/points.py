"""Sobol points [1]_ by their numbers, and standard normal ones: sixteen points at a time, on all cores.

Points come in the order of the Gray code [2]_, as SciPy's do. Sixteen points whose numbers differ in the last four bits only
are sixteen fixed words, exclusive-ored to one word that all share; from one such group to the next, that word changes by two
direction numbers. So a vector has one coordinate of sixteen points, and its lanes go to as many rows of the array.

References
----------
.. [1] I. M. Sobol', "On the distribution of points in a cube and the approximate evaluation of integrals", USSR
   Computational Mathematics and Mathematical Physics 7(4), 1967.
.. [2] I. A. Antonov, V. M. Saleev, "An economic method of computing LP tau-sequences", USSR Computational Mathematics and
   Mathematical Physics 19(1), 1979.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import keys
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import (
    as_floats,
    like,
    loader,
    lowest_bit,
    reverse_bits,
    stack_array,
    store,
    store_spread,
    take_turn,
    where_odd,
)
from flame_fast.kernels.jit.vector_math import normal_quantile
from flame_fast.kernels.quasi.directions import BITS, DIMENSIONS, fill_directions
from flame_fast.kernels.quasi.scrambling import SCRAMBLER_WORDS, fill_scrambler, scrambled
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | keys.Key | None

#: Points of a sequence.
POINTS = 1 << BITS

#: Coordinates of a block, about: it has whole groups.
BLOCK = 1 << 16

#: Points of a group, and the bits of a point's number within it. The scrambling is a chain of multiplications: a vector of
#: 16 lanes keeps a CPU busier than one of 8 does. The normal quantile takes so many registers that 8 are better there.
WITHIN = 4
TOGETHER = 1 << WITHIN

ONE = np.uint64(1)
ONE_BITS = np.uint64(0x3FF00000_00000000)
#: 1 - 2**-53: what makes of 1 + k * 2**-52 the middle of k's interval.
HALF_STEP = 1.0 - 2.0**-53

WORDS: Any = loader(types.uint64, TOGETHER)
HALF_OF_WORDS: Any = loader(types.uint64, LANES)
word_array: Any = stack_array(types.uint64, TOGETHER)
point_array: Any = stack_array(types.float64, LANES)


@compiled()
def prepared(key: Any, scramble: Any, last: Any, dimensions: Any) -> Any:
    """Return what the points up to the number `last` are made of.

    Returns
    -------
    numbers, groups, scramblers : uint64 arrays
        Direction numbers, reversed, by bit and dimension; a group of points for each dimension; and the words that scramble
        it.
    """
    needed = WITHIN
    while last >> needed:
        needed += 1
    numbers = np.empty((needed, dimensions), np.uint64)
    groups = np.empty((dimensions, TOGETHER), np.uint64)
    scramblers = np.zeros((dimensions, SCRAMBLER_WORDS), np.uint64)
    own = np.empty(needed, np.uint64)
    for dimension in range(dimensions):
        fill_directions(dimension, needed, own)
        for bit in range(needed):
            numbers[bit, dimension] = own[bit]
        for lane in range(TOGETHER):
            groups[dimension, lane] = _point_of(own, np.uint64(lane), 0)
        if scramble:
            fill_scrambler(key, dimension, scramblers[dimension])
    return numbers, groups, scramblers


@inlined
def _point_of(numbers, number, begin):
    """Return a dimension's coordinate of a point, by its number and the direction numbers from `begin` on."""
    gray = number ^ (number >> ONE)
    word = np.uint64(0)
    while gray:
        word ^= numbers[begin + lowest_bit(gray)]
        gray &= gray - ONE
    return word


@inlined
def _uniform(words):
    """Return the upper 53 bits as fractions: as `rng.uniform`, without a conversion, which AVX2 has for one lane only."""
    upper = as_floats((words >> np.uint64(12)) | ONE_BITS) - 1.0
    return upper + where_odd(words >> np.uint64(11), like(upper, 2.0**-53), like(upper, 0.0))


@inlined
def _normal(words):
    """Return the normal quantile of the middles of 2**52 intervals: never 0 or 1, and each as likely as its opposite."""
    return normal_quantile(as_floats((words >> np.uint64(12)) | ONE_BITS) - HALF_STEP)


@inlined
def _fill_rows(numbers, groups, scramblers, first, out, begin, end, transform):
    """Fill the rows of an array from `begin` to below `end`; row 0 is the point `first`."""
    dimensions = out.shape[1]
    shared = np.empty(dimensions, np.uint64)
    group = (first + begin) >> WITHIN
    for dimension in range(dimensions):
        shared[dimension] = _point_of(numbers[:, dimension], np.uint64(group), WITHIN)
        if group & 1:
            shared[dimension] ^= numbers[WITHIN - 1, dimension]
    words, points = word_array(), point_array()
    while (group << WITHIN) < first + end:
        row = (group << WITHIN) - first
        whole = row >= begin and row + TOGETHER <= end
        changed = 0 if row + TOGETHER >= end else WITHIN + lowest_bit(np.uint64(group + 1))
        for dimension in range(dimensions):
            fractions = WORDS(groups, dimension * TOGETHER) ^ shared[dimension]
            store(words, 0, reverse_bits(scrambled(fractions, scramblers, dimension)))
            for half in range(0, TOGETHER, LANES):
                values = transform(HALF_OF_WORDS(words, half))
                if whole:
                    store_spread(out, (row + half) * dimensions + dimension, dimensions, values)
                else:
                    store(points, 0, values)
                    for lane in range(max(begin - row - half, 0), min(end - row - half, LANES)):
                        out[row + half + lane, dimension] = points[lane]
            shared[dimension] ^= numbers[changed, dimension] ^ numbers[WITHIN - 1, dimension]
        group += 1


@inlined
def _fill_block(numbers, groups, scramblers, normal, first, out, block, rows):
    # Blocks begin at whole groups, so that only the first and the last one may have others.
    begin = block * rows - (first & (TOGETHER - 1))
    end = min(begin + rows, len(out))
    if normal:
        _fill_rows(numbers, groups, scramblers, first, out, max(begin, 0), end, _normal)
    else:
        _fill_rows(numbers, groups, scramblers, first, out, max(begin, 0), end, _uniform)


@compiled()
def fill_alone(numbers: Any, groups: Any, scramblers: Any, normal: Any, first: Any, out: Any) -> Any:
    """Fill an array with the points from the number `first` on."""
    _fill_block(numbers, groups, scramblers, normal, first, out, 0, len(out) + TOGETHER)


@compiled()
def _fill_by_turns(numbers, groups, scramblers, normal, first, out, rows, turns, most):
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        _fill_block(numbers, groups, scramblers, normal, first, out, block, rows)
    return 0


# ---- arrays --------------------------------------------------------------------------------------------------------------


def _rows_of(dimensions: int) -> int:
    return max(BLOCK // dimensions // TOGETHER, 1) * TOGETHER


def checked_out(out: object, shape: tuple[int, ...] | None, name: str = "out") -> Any:
    """Return an argument that is to be filled, or raise an error that says what it must be."""
    dimensions = "(n, d)" if shape is None else str(shape)
    expected = f"{name}: expected a C-contiguous, writable float64 array of shape {dimensions}"
    if not isinstance(out, np.ndarray) or out.dtype != np.float64:
        got = f"of {out.dtype}" if isinstance(out, np.ndarray) else repr(out)
        raise TypeError(f"{expected}, got {got}")
    if (shape is None and out.ndim != 2) or (shape is not None and out.shape != shape):
        raise ValueError(f"{expected}, got one of shape {out.shape}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        got = "a read-only one" if out.flags.c_contiguous else "one with strides; pass np.ascontiguousarray's result"
        raise ValueError(f"{expected}, got {got}")
    return out


def _check_numbers(first: int, n: int, d: int) -> None:
    if not 1 <= d <= DIMENSIONS:
        raise ValueError(f"d: expected from 1 to {DIMENSIONS} dimensions, got {d}")
    if first + n > POINTS:
        raise ValueError(f"first, n: expected first + n of at most 2**{BITS}, got {first} + {n}")


def _drawn(n: int, d: int, seed: Seed, first: int, scramble: bool, out: Any, normal: bool) -> Any:
    n, d, first = whole_number("n", n), whole_number("d", d), whole_number("first", first)
    _check_numbers(first, n, d)
    key = keys.key(seed)
    out = np.empty((n, d)) if out is None else checked_out(out, (n, d))
    if n == 0:
        return out
    made = prepared(tuple(key), bool(scramble), first + n - 1, d)
    rows = _rows_of(d)
    run_blocks(
        -(-(n + first % TOGETHER) // rows),
        lambda turns, most: _fill_by_turns(*made, normal, first, out, rows, turns, most),
    )
    return out


def sobol(
    n: int,
    d: int,
    seed: Seed = None,
    *,
    first: int = 0,
    scramble: bool = True,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return points of the Sobol sequence in the unit cube, scrambled.

    Parameters
    ----------
    n : int
        How many points. The first 2**m points, and each 2**m after them, are balanced: ask for powers of two.
    d : int
        Dimensions, from 1 to 21201.
    seed : int, sequence of int, SeedSequence or Key, optional
        As of `rng.key`: names the scrambling. None: one of the operating system's.
    first : int
        The number of the first point. Whatever slices of a sequence are drawn, by whatever worker, they fit together.
    scramble : bool
        False: the points of Sobol and of Joe and Kuo themselves, multiples of 2**-32, as SciPy has them. The first one is 0.
    out : float64 array, shape (n, d), optional
        Where the points go; C-contiguous.

    Returns
    -------
    float64 array, shape (n, d)
        Multiples of 2**-53 in [0, 1), a point in each row. Scrambled ones are uniformly distributed: a coordinate is 0 with
        a probability of 2**-53.

    Raises
    ------
    TypeError, ValueError
        An argument of another type or out of range; more than 2**32 points.

    Notes
    -----
    Scrambled points are a random net: estimates by them are unbiased, and the variance over seeds says how good they are.
    Use some seeds, say 16, and the mean of their estimates [1]_. Uses as many threads as `numba.get_num_threads()` says;
    safe from several threads; Ctrl-C ends it within a tenth of a second.

    References
    ----------
    .. [1] A. B. Owen, "Scrambled net variance for integrals of smooth functions", Annals of Statistics 25(4), 1997.

    Examples
    --------
    >>> sobol(4, 2, scramble=False)
    array([[0.  , 0.  ],
           [0.5 , 0.5 ],
           [0.75, 0.25],
           [0.25, 0.75]])
    >>> whole = sobol(1024, 3, seed=7)
    >>> bool((sobol(24, 3, seed=7, first=1000) == whole[1000:]).all())
    True
    """
    return _drawn(n, d, seed, first, scramble, out, False)


def sobol_normals(
    n: int, d: int, seed: Seed = None, *, first: int = 0, out: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return scrambled Sobol points as standard normal ones, by the quantile of each coordinate.

    The coordinates are those of `sobol`, cut to 52 digits and in the middle of their intervals, so that none is 0: the
    numbers are between -8.21 and 8.21. Otherwise as `sobol`.
    """
    return _drawn(n, d, seed, first, True, out, True)


# ---- one thread ----------------------------------------------------------------------------------------------------------


def fill_sobol(key: Seed, first: int, out: NDArray[np.float64]) -> None:
    """Fill an array with scrambled Sobol points in one thread: rows of `sobol(n, d, key)` from `first` on.

    For Python and nopython code. Each call prepares the dimensions in some tenths of a microsecond each: ask for many
    points.

    Parameters
    ----------
    key : Key
        As of `rng.key`; Python takes any seed.
    first : int
        The number of the point in row 0.
    out : float64 array, shape (n, d)
        C-contiguous.

    Raises
    ------
    TypeError, ValueError
        As `sobol`; in nopython code, types are checked when it is compiled.
    """
    _fill(key, first, out, False)


def fill_sobol_normals(key: Seed, first: int, out: NDArray[np.float64]) -> None:
    """Fill an array with rows of `sobol_normals(n, d, key)` in one thread. Otherwise as `fill_sobol`."""
    _fill(key, first, out, True)


def _fill(key: Seed, first: int, out: Any, normal: bool) -> None:
    out = checked_out(out, None)
    first = whole_number("first", first)
    n, d = out.shape
    _check_numbers(first, n, d)
    if n:
        fill_alone(*prepared(tuple(keys.key(key)), True, first + n - 1, d), normal, first, out)


def _overload_fill(function: Any, normal: bool) -> None:
    name = function.__name__
    signature = f"{name}(key, first, out): expected "

    @overload(function)
    def typed(key, first, out):
        if not isinstance(key, types.BaseTuple) or len(key) != 2 or not all(isinstance(each, types.Integer) for each in key):
            raise TypingError(f"{signature}a key, as rng.key returns it, got {key}")
        if not isinstance(first, types.Integer):
            raise TypingError(f"{signature}an integer as the number of the first point, got {first}")
        whole = isinstance(out, types.Array) and out.ndim == 2 and out.layout == "C" and out.mutable
        if not whole or out.dtype != types.float64:
            raise TypingError(f"{signature}a C-contiguous, writable float64 array of shape (n, d), got {out}")

        def filled(key, first, out):
            n, d = out.shape
            if d < 1 or d > DIMENSIONS:
                raise ValueError("out: expected from 1 to 21201 columns, a dimension each")
            if first < 0 or first > POINTS - n:
                raise ValueError("first: expected from 0 to 2**32 less the number of rows")
            if n:
                number = np.int64(first)
                numbers, groups, scramblers = prepared((np.uint64(key[0]), np.uint64(key[1])), True, number + n - 1, d)
                fill_alone(numbers, groups, scramblers, normal, number, out)

        return filled


_overload_fill(fill_sobol, False)
_overload_fill(fill_sobol_normals, True)
