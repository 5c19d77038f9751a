"""Choices out of the elements of an array: alike or by probabilities, with or without replacement.

References
----------
.. [1] A. J. Walker, "An efficient method for generating discrete random variables with general distributions", ACM
   Transactions on Mathematical Software 3(3), 1977; the tables by M. D. Vose, "A linear algorithm for generating random
   numbers with a given distribution", IEEE Transactions on Software Engineering 17(9), 1991.
.. [2] P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 97(5),
   2006.
"""

from __future__ import annotations

import math

import numpy as np
from flame_fast.kernels import domains, keys
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.block_kernels import BLOCK, BlockKernels
from flame_fast.kernels.jit.cache import compiled
from flame_fast.kernels.jit.simd import multiply_wide
from flame_fast.kernels.rng.arranging import (
    LARGE_SHARE,
    PIECE,
    begin_shuffled_some,
    check_count,
    choose_some_more,
    probabilities,
    table_for,
    total_of,
)
from flame_fast.kernels.rng.generators import begin, generator_of, next_word
from flame_fast.kernels.sampling.arguments import empty, shape_of
from flame_fast.kernels.sampling.arrays import fill_exponentials, fill_integers_below
from flame_fast.kernels.sampling.permuting import generator_memory, permutation, shuffle_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.keys import Key, Seed
    from flame_fast.kernels.sampling.arguments import Size
    from numpy.typing import ArrayLike, NDArray

#: The largest range of which the beginning alone is shuffled: in larger ones, random access costs more than the rest.
FEW = 1 << 22

#: Places of an array's elements that are drawn before the elements are taken: whole blocks.
AT_ONCE = 4 * BLOCK


@compiled()
def alias_table(p: Any, accepted: Any, other: Any) -> None:
    """Make Vose's tables of probabilities: of each cell, which share is its own, and whose the rest is [1]_."""
    n = p.size
    scale = np.float64(n)
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    smalls = larges = 0
    for i in range(n):
        accepted[i] = p[i] * scale
        other[i] = np.float64(i)
        if accepted[i] < 1.0:
            small[smalls] = i
            smalls += 1
        else:
            large[larges] = i
            larges += 1
    while smalls and larges:
        smalls -= 1
        poor, rich = small[smalls], large[larges - 1]
        other[poor] = np.float64(rich)
        accepted[rich] = (accepted[rich] + accepted[poor]) - 1.0
        if accepted[rich] < 1.0:
            larges -= 1
            small[smalls] = rich
            smalls += 1
    for i in range(smalls):  # 1 but for rounding
        accepted[small[i]] = 1.0
    for i in range(larges):
        accepted[large[i]] = 1.0


@BlockKernels
def _fill_by_alias(key, domain, block, out, a, b):
    """Choose a cell by a word's upper part and the cell's owner by the rest: `a` and `b` are an alias table."""
    state = generator_memory()
    begin(state, key, block, domain)
    cells = np.uint64(a.size)
    for i in range(out.size):
        cell, rest = multiply_wide(next_word(state), cells)
        own = np.float64(rest >> np.uint64(11)) * 2.0**-53 < a[cell]
        out[i] = np.int64(cell) if own else np.int64(b[cell])


def choice(
    a: int | ArrayLike,
    size: Size = None,
    seed: Seed = None,
    *,
    replace: bool = True,
    p: ArrayLike | None = None,
    axis: int = 0,
    shuffle: bool = True,
) -> Any:
    """Return elements of an array, or integers from 0 to below `a`, chosen at random.

    Parameters
    ----------
    a : int or array
        What is chosen from; an array along `axis`.
    size : int or tuple of int, optional
        How many; None: one, without an array around it.
    seed : int, sequence of int, SeedSequence or Key, optional
        As of `uniforms`.
    replace : bool
        Whether an element may be chosen more than once.
    p : array of float, optional
        The elements' probabilities, which sum up to 1; None: all are equally likely.
    axis : int
        The axis of `a` along which the elements lie.
    shuffle : bool
        Whether a choice without replacement is in random order. False is faster for a few out of many.

    Returns
    -------
    int64 array, or array like `a`

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `uniforms`; more elements than there are, probabilities that are none.

    Notes
    -----
    With probabilities, each draw looks into an alias table, whatever their number. Without replacement, each is chosen as if
    one by one with those that are left; of a thirty-second or more of the range, all of its numbers are in memory, and with
    probabilities some numbers for each. Otherwise as `uniforms`.

    Examples
    --------
    >>> len(set(sampling.choice(100, 10, seed=7, replace=False).tolist()))
    10
    """
    elements = None if np.ndim(a) == 0 else np.asarray(a)
    if elements is None:
        among, axis = whole_number("a", a, expected="an integer or an array"), 0
    elif not -elements.ndim <= axis < elements.ndim:
        raise ValueError(f"axis: expected one of the {elements.ndim} axes of a, got {axis!r}")
    else:
        axis %= elements.ndim
        among = elements.shape[axis]
    shape = () if size is None else shape_of(size)
    count = math.prod(shape)
    made, shares = keys.key(seed), None if p is None else probabilities(p, among)
    check_count(count, among, shares, replace=replace)
    if shares is not None:
        shares = shares / total_of(shares)
    if replace and elements is not None:
        found = _with_replacement(elements, axis, count, _drawer(among, made, shares))
        return found.reshape((*elements.shape[:axis], *shape, *elements.shape[axis + 1 :]))[()]
    places = empty((count,), np.int64)
    if replace:
        _drawer(among, made, shares)(places, 0)
    elif count:
        places = _without_replacement(among, places, made, shares, shuffle)
    places = places.reshape(shape)
    if elements is not None:
        return np.take(elements, places, axis=axis)
    return places if size is not None else places[()]


def _drawer(among: int, key: Key, p: NDArray[np.float64] | None) -> Callable[[NDArray[np.int64], int], None]:
    """Return a function that fills an array with places drawn with replacement: those of the blocks from a number on."""
    if p is None:
        return lambda places, first: fill_integers_below(places, among, key, domains.CHOICE, first)
    accepted, other = np.empty(among), np.empty(among)
    alias_table(p, accepted, other)
    return lambda places, first: _fill_by_alias.fill(places, key, domains.CHOICE, accepted, other, first=first)


def _with_replacement(
    elements: NDArray[Any], axis: int, count: int, draw: Callable[[NDArray[np.int64], int], None]
) -> NDArray[Any]:
    """Return chosen elements; their places are in memory by so many blocks."""
    before, after = elements.shape[:axis], elements.shape[axis + 1 :]
    found = empty((*before, count, *after), elements.dtype)
    places = np.empty(min(count, AT_ONCE), np.int64)
    for start in range(0, count, AT_ONCE):
        some = places[: count - start]
        draw(some, start // BLOCK)
        target = found[(*(slice(None) for _ in before), slice(start, start + len(some)))]
        np.take(elements, some, axis=axis, out=target, mode="clip")  # the other modes copy the target
    return found


def _without_replacement(
    among: int, places: NDArray[np.int64], key: Key, p: NDArray[np.float64] | None, shuffle: bool
) -> NDArray[np.int64]:
    count = len(places)
    if p is not None:
        return _successive(p, count, key)
    g = generator_of(tuple(key), np.uint64(0), domains.SUBSET)
    if count > among * LARGE_SHARE:
        if among > FEW:
            order = permutation(among, keys.key(key, int(domains.SUBSET)))
        else:
            order = np.arange(among)
            begin_shuffled_some(g, order, 0, count)
        order.resize(count, refcheck=False)
        return order
    table = table_for(count)
    for first in range(0, count, PIECE):
        choose_some_more(g, among, places, table, first, min(first + PIECE, count))
    if shuffle:
        shuffle_words(places.view(np.uint64), keys.key(key, int(domains.SUBSET)), domains.SUBSET)
    return places


def _successive(p: NDArray[np.float64], count: int, key: Key) -> NDArray[np.int64]:
    """Return the places of the smallest of exponential numbers over the probabilities, in their order [2]_."""
    times = np.empty(len(p))
    fill_exponentials(times, key, domains.SUBSET)
    with np.errstate(divide="ignore", invalid="ignore"):
        times /= p
    times[p == 0.0] = np.inf
    nearest = np.argpartition(times, count - 1)[:count] if count < len(p) else np.arange(len(p))
    return nearest[np.argsort(times[nearest], kind="stable")]
