"""Generators of single numbers: streams with buffers. A number costs a load, and each eighth one a step of all lanes.

Buffers of their own for normal and exponential numbers keep them as cheap as in arrays, where SIMD vectors make them.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.domains import GENERATOR
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.calls import check_integer, nopython_form, refused
from flame_fast.kernels.jit.lanes import LANES, ZERO, advance, lanes_of, load_lanes, save_lanes
from flame_fast.kernels.jit.simd import as_floats, as_integers, lane, multiply_wide, pointer_to, single, store, unlikely
from flame_fast.kernels.jit.transforms import exponentials_of, normals_of
from flame_fast.kernels.keys import Key
from flame_fast.kernels.rng.drawing import A_GENERATOR, SIZE, check_generator, draws, is_generator
from flame_fast.kernels.rng.naming import check_name, key_and_number, number_of
from flame_fast.kernels.rng.ranges import range_within
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

#: Where a generator has its lanes, the numbers drawn ahead, and how many of each are used.
STATE = 0
WORDS = 32
NORMALS = WORDS + LANES
EXPONENTIALS = NORMALS + 2 * LANES
USED = EXPONENTIALS + LANES
WORDS_USED, NORMALS_USED, EXPONENTIALS_USED = USED, USED + 1, USED + 2

ALL_WORDS, ALL_NORMALS = np.uint64(LANES), np.uint64(2 * LANES)
ONE = np.uint64(1)


# ---- their beginning -----------------------------------------------------------------------------------------------------


@compiled()
def generator_of(key: Any, number: Any, domain: Any) -> Any:
    """Return a generator as `generator` does, in another domain."""
    g = np.zeros(SIZE, np.uint64)  # equal generators are equal arrays
    begin(g, key, number, domain)
    return g


@inlined
def begin(g: Any, key: Any, number: Any, domain: Any) -> None:
    """Make memory of a generator's size the generator of a name."""
    s0, s1, s2, s3 = lanes_of(key, number, domain)
    save_lanes(g, STATE, s0, s1, s2, s3)
    g[WORDS_USED], g[NORMALS_USED], g[EXPONENTIALS_USED] = ALL_WORDS, ALL_NORMALS, ALL_WORDS


def generator(key: Key, number: int) -> NDArray[np.uint64]:
    """Return the generator of a key and a number, at its beginning.

    Parameters
    ----------
    key : Key
        As of `key`.
    number : int
        From 0 to below 2**64: which of the key's generators. They share nothing with the key's streams.

    Returns
    -------
    uint64 array of one dimension
        The state, for `random`, `normal` and the others. Two threads must not use one generator at the same time.

    Raises
    ------
    TypeError, ValueError
        As by `stream`.

    Examples
    --------
    >>> g = rng.generator(rng.key(7), 0)
    >>> rng.random(g) < 1
    True
    """
    return generator_of(*key_and_number(key, number), GENERATOR)


@nopython_form(generator)
def _generator(key, number):
    check_name("generator", key, number)
    return lambda key, number: generator_of(key, number_of(number), GENERATOR)


# ---- numbers drawn ahead -------------------------------------------------------------------------------------------------


@compiled()
def _draw_words(state):
    words, s0, s1, s2, s3 = advance(*load_lanes(state, STATE))
    store(state, WORDS, words)
    save_lanes(state, STATE, s0, s1, s2, s3)


@compiled()
def _draw_normals(state):
    words, s0, s1, s2, s3 = advance(*load_lanes(state, STATE))
    others, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
    first, second = normals_of(words, others)
    store(state, NORMALS, as_integers(first))
    store(state, NORMALS + LANES, as_integers(second))
    save_lanes(state, STATE, s0, s1, s2, s3)


@compiled()
def _draw_exponentials(state):
    words, s0, s1, s2, s3 = advance(*load_lanes(state, STATE))
    store(state, EXPONENTIALS, as_integers(exponentials_of(words)))
    save_lanes(state, STATE, s0, s1, s2, s3)


@inlined
def state_of(g: Any) -> Any:
    """Return where a generator lies in memory.

    References are counted here alone: counting them around each draw's branches costs more than the draw.
    """
    size, state = g.size, pointer_to(g)
    if unlikely(size != SIZE):
        raise ValueError("g: no generator; take it from rng.generator()")
    return state


@inlined
def next_word(state: Any) -> Any:
    """Return the next word."""
    used = state[WORDS_USED]
    if unlikely(used >= ALL_WORDS):
        _draw_words(state)
        used = ZERO
    state[WORDS_USED] = used + ONE
    return state[WORDS + used]


@inlined
def next_uniform(state: Any) -> Any:
    """Return the next double in [0, 1)."""
    return np.float64(np.int64(next_word(state) >> np.uint64(11))) * 2.0**-53


@inlined
def next_normal(state: Any) -> Any:
    """Return the next standard normal double."""
    used = state[NORMALS_USED]
    if unlikely(used >= ALL_NORMALS):
        _draw_normals(state)
        used = ZERO
    state[NORMALS_USED] = used + ONE
    return lane(as_floats(single(state[NORMALS + used])), 0)


@inlined
def next_exponential(state: Any) -> Any:
    """Return the next exponential double of mean 1."""
    used = state[EXPONENTIALS_USED]
    if unlikely(used >= ALL_WORDS):
        _draw_exponentials(state)
        used = ZERO
    state[EXPONENTIALS_USED] = used + ONE
    return lane(as_floats(single(state[EXPONENTIALS + used])), 0)


@inlined
def next_below(state: Any, span: Any) -> Any:
    """Return the next integer below `span`, a word, without bias (see `transforms.wide_product`); 0 stands for 2**64."""
    word = next_word(state)
    if span == ZERO:
        return word
    upper, lower = multiply_wide(word, span)
    if unlikely(lower < span):
        threshold = (ZERO - span) % span
        while lower < threshold:
            upper, lower = multiply_wide(next_word(state), span)
    return upper


# ---- single numbers ------------------------------------------------------------------------------------------------------


@draws
def random(g: Any) -> float:
    """Return a double in [0, 1), a multiple of 2**-53.

    Parameters
    ----------
    g : uint64 array
        As of `generator`. It moves on.

    Raises
    ------
    TypeError, ValueError
        No generator. In nopython code a wrong type is an error of compiling.

    Notes
    -----
    In nopython code a number costs about a nanosecond, from Python a microsecond: draw arrays there.
    """
    return next_uniform(state_of(g))


@draws
def normal(g: Any, loc: float = 0.0, scale: float = 1.0) -> float:
    """Return a normal double of mean `loc` and standard deviation `scale`; otherwise as `random`."""
    if not scale >= 0:
        raise ValueError("scale: expected a number of at least 0")
    return loc + scale * next_normal(state_of(g))


@draws
def exponential(g: Any, scale: float = 1.0) -> float:
    """Return an exponential double of mean `scale`; otherwise as `random`."""
    if not scale >= 0:
        raise ValueError("scale: expected a number of at least 0")
    return scale * next_exponential(state_of(g))


@compiled()
def _integer(g, low, span):
    return np.int64(low + next_below(state_of(g), span))


def integers(g: NDArray[np.uint64], low: int, high: int | None = None) -> int:
    """Return an integer from `low` to below `high`, or from 0 to below `low`, without bias.

    Parameters
    ----------
    g : uint64 array
        As of `random`.
    low, high : int
        From -2**63 to 2**63.

    Raises
    ------
    TypeError, ValueError
        As by `random`; an empty range.
    """
    check_generator(g)
    first, span = range_within(*((0, low) if high is None else (low, high)), np.dtype(np.int64))
    return int(_integer(g, first, span))


@nopython_form(integers, inline=True)
def _integers(g, low, high=None):
    if not is_generator(g):
        raise refused("integers: g", A_GENERATOR, g)
    check_integer("integers: low", low)
    if high is None or isinstance(high, types.NoneType | types.Omitted):
        return lambda g, low, high=None: _integer_below(state_of(g), np.int64(0), np.int64(low))
    check_integer("integers: high", high)
    return lambda g, low, high=None: _integer_below(state_of(g), np.int64(low), np.int64(high))


@inlined
def _integer_below(state, low, high):
    if low >= high:
        raise ValueError("high: expected an integer above low")
    return np.int64(np.uint64(low) + next_below(state, np.uint64(high) - np.uint64(low)))
