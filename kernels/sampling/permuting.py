"""Random orders: arrays shuffled in place, on all cores for large ones.

Parts of at most 65,536 elements are shuffled one by one by Fisher and Yates's method; then neighbours are merged, two parts
into one of twice the length, until one is left [1]_. A merge reads both parts from their beginnings: it needs neither other
memory nor random access, which is what shuffling a large array costs otherwise. Each part and each merge has a generator of
its own, so the order does not depend on the number of threads.

References
----------
.. [1] A. Bacher, O. Bodini, A. Hollender, J. Lumbroso, "MergeShuffle: a very fast, parallel random permutation algorithm",
   arXiv:1508.03167, 2015.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from flame_fast.kernels import domains, keys
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.block_kernels import BLOCK
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import pointer_to, stack_array, take_turn
from flame_fast.kernels.rng.arranging import check_shuffled, copied, number_in_order, rearrange, words_of
from flame_fast.kernels.rng.drawing import SIZE
from flame_fast.kernels.rng.generators import begin, next_below, next_word
from flame_fast.kernels.sampling.arguments import empty
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.kernels.keys import Key, Seed
    from numpy.typing import ArrayLike, NDArray

#: Steps of a merge between which a signal's handler may run.
STEPS = 1 << 22

#: What a merge knows of itself: how far both of its parts are read, and whether one of them is at its end.
LEFT, RIGHT, PHASE = range(3)
MERGING, INSERTING, DONE = range(3)

generator_memory: Any = stack_array(types.uint64, SIZE)

ZERO, ONE, WORD_BITS = np.uint64(0), np.uint64(1), 64


@inlined
def _bound(n, parts, number):
    """Return where a part begins."""
    whole, rest = divmod(n, parts)
    return whole * number + min(number, rest)


@inlined
def _shuffle_part(state, x, first, last):
    elements = pointer_to(x)
    for i in range(last - 1, first, -1):
        j = first + np.int64(next_below(state, np.uint64(i - first + 1)))
        elements[i], elements[j] = elements[j], elements[i]


@inlined
def _merge(state, x, first, last, progress):
    """Go on with a merge, for so many steps."""
    i, j, phase, steps = progress[LEFT], progress[RIGHT], progress[PHASE], 0
    while phase == MERGING and steps < STEPS:
        bits = next_word(state)
        safe = min(WORD_BITS, last - 1 - j, j - i)  # steps that no end of a part can come in
        if safe > 0:
            i, j = _merge_safely(pointer_to(x), i, j, safe, bits)
        elif bits & ONE and j < last:
            x[i], x[j] = x[j], x[i]
            i, j = i + 1, j + 1
        elif bits & ONE or i == j:
            phase = INSERTING
        else:
            i += 1
        steps += WORD_BITS
    while phase == INSERTING and steps < STEPS:
        if i == last:
            phase = DONE
        else:
            k = first + np.int64(next_below(state, np.uint64(i - first + 1)))
            x[i], x[k] = x[k], x[i]
            i, steps = i + 1, steps + 1
    progress[LEFT], progress[RIGHT], progress[PHASE] = i, j, phase


@inlined
def _merge_safely(elements, i, j, count, bits):
    """Take the next element from either part, by a bit, so often: without a branch, which half of the guesses would miss."""
    upper = np.uint64(elements[j])
    for _ in range(count):
        bit = bits & ONE
        mask = ZERO - bit
        lower = np.uint64(elements[i])
        changed = (lower ^ upper) & mask
        elements[i], elements[j] = lower ^ changed, upper ^ changed
        upper ^= (upper ^ np.uint64(elements[j + 1])) & mask
        i, j = i + 1, j + np.int64(bit)
        bits >>= ONE
    return i, j


@inlined
def _go_on(x, key, parts, level, number, generators, progress):
    """Shuffle a part of the lowest level, or go on with a merge of a higher one."""
    if progress[number, PHASE] == DONE:
        return
    n = x.shape[0]
    merged = 1 << level
    first, last = _bound(n, parts, number * merged), _bound(n, parts, (number + 1) * merged)
    state = pointer_to(generators[number])
    if level == 0:
        _shuffle_part(state, x, first, last)
        progress[number, PHASE] = DONE
    else:
        _merge(state, x, first, last, progress[number])


@compiled()
def _shuffle_few(x, key, domain):
    state = generator_memory()
    begin(state, key, ZERO, domain)
    _shuffle_part(state, x, 0, x.shape[0])


@compiled()
def _begin(x, key, domain, parts, level, generators, progress):
    n = x.shape[0]
    for number in range(parts >> level):
        begin(pointer_to(generators[number]), key, np.uint64(level << 48 | number), domain)
        first, middle = number << level, (number << level) + (1 << level >> 1)
        progress[number, LEFT], progress[number, RIGHT] = _bound(n, parts, first), _bound(n, parts, middle)
        progress[number, PHASE] = MERGING


@compiled()
def _go_on_by_turns(x, key, parts, level, generators, progress, turns, most):
    for _ in range(most):
        number = take_turn(turns)
        if number < 0:
            break
        _go_on(x, key, parts, level, number, generators, progress)
    return 0


def shuffle_words(x: NDArray[Any], key: Key, domain: Any) -> None:
    """Shuffle an array of one dimension in place; its elements are words of 1, 2, 4 or 8 bytes."""
    if len(x) <= BLOCK:
        _shuffle_few(x, key, domain)
        return
    levels = (-(-len(x) // BLOCK) - 1).bit_length()
    parts = 1 << levels
    generators, progress = np.empty((parts, SIZE), np.uint64), np.empty((parts, 3), np.int64)
    for level in range(levels + 1):
        _begin(x, key, domain, parts, level, generators, progress)
        running = parts >> level
        while (progress[:running, PHASE] != DONE).any():
            run_blocks(running, partial(_go_on_by_turns, x, key, parts, level, generators, progress), few=1)


@compiled()
def _number_by_turns(order, turns, most):
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        number_in_order(order[block * BLOCK : (block + 1) * BLOCK], block * BLOCK)
    return 0


# ---- arrays --------------------------------------------------------------------------------------------------------------


def permutation(x: int | ArrayLike, seed: Seed = None) -> NDArray[Any]:
    """Return the integers from 0 to below `x`, or a copy of an array, in random order.

    Parameters
    ----------
    x : int or array
        An array is shuffled along its first axis: rows stay together.
    seed : int, sequence of int, SeedSequence or Key, optional
        As of `uniforms`.

    Returns
    -------
    int64 array of length `x`, or array like `x`

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `uniforms`; a number as an array.

    Notes
    -----
    Integers take no memory but the array's. Otherwise as `uniforms`.

    Examples
    --------
    >>> sorted(sampling.permutation(4, seed=7).tolist())
    [0, 1, 2, 3]
    """
    if np.ndim(x) == 0:
        order = empty((whole_number("x", x, expected="an integer or an array"),), np.int64)
        run_blocks(-(-order.size // BLOCK), partial(_number_by_turns, order))
        shuffle_words(order.view(np.uint64), keys.key(seed), domains.PERMUTATION)
        return order
    array = copied(x)
    shuffle(array, seed)
    return array


def shuffle(x: NDArray[Any], seed: Seed = None) -> None:
    """Shuffle an array in place along its first axis: rows stay together.

    Parameters
    ----------
    x : array
        Writable; of any shape, type and order.
    seed : int, sequence of int, SeedSequence or Key, optional
        As of `uniforms`. The result is `x[order]` with the order of `permutation(len(x), seed)`.

    Raises
    ------
    TypeError, ValueError
        No array, one without an axis, or a read-only one; as by `uniforms`.

    Notes
    -----
    An array of one dimension with elements of 1, 2, 4 or 8 bytes takes no further memory, others as much again as they have
    and 8 bytes for each row. Otherwise as `uniforms`.
    """
    check_shuffled(x)
    made, words = keys.key(seed), words_of(x)
    if words is not None and words.flags.c_contiguous:
        shuffle_words(words, made, domains.PERMUTATION)
    else:
        rearrange(x, permutation(len(x), made))
