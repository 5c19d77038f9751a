"""Random orders and choices, drawn from a generator: in nopython code and from Python.

References
----------
.. [1] R. Durstenfeld, "Algorithm 235: random permutation", Communications of the ACM 7(7), 1964: the method of Fisher
   and Yates.
.. [2] J. Bentley, R. Floyd, "Programming pearls: a sample of brilliance", Communications of the ACM 30(9), 1987.
.. [3] P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 97(5),
   2006.
"""

from __future__ import annotations

import math

import numpy as np
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.calls import check_integer, expected, nopython_form, parameter, refused
from flame_fast.kernels.rng.drawing import A_GENERATOR, check_generator, is_generator
from flame_fast.kernels.rng.generators import next_below, next_exponential, next_uniform, state_of
from numba import types
from numba.extending import register_jitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

#: Numbers that one call of a kernel draws at most from Python: Ctrl-C waits for them.
PIECE = 1 << 20

#: How far the sum of probabilities may be from 1, as NumPy has it.
SUM_TOLERANCE = math.sqrt(np.finfo(np.float64).eps)

#: A sample of more than this share of a range is the beginning of all of the range in random order.
LARGE_SHARE = 1 / 32

#: Multiplies hashes of integers: 2**64 over the golden ratio.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

ONE = np.uint64(1)

#: Unsigned integers by their bytes: elements of any type are moved as such words.
WORDS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


# ---- orders --------------------------------------------------------------------------------------------------------------


@inlined
def _shuffle_down(state, x, last, first):
    """Draw which elements lie from `last - 1` down to `first` [1]_."""
    for i in range(last - 1, first - 1, -1):
        j = np.int64(next_below(state, np.uint64(i + 1)))
        x[i], x[j] = x[j], x[i]


@compiled()
def _shuffle_some(g, x, last, first):
    _shuffle_down(state_of(g), x, last, first)


@compiled()
def number_in_order(out: Any, first: Any) -> None:
    """Write the integers from `first` on into an array."""
    for i in range(out.size):
        out[i] = first + i


def _shuffle_words(g: NDArray[np.uint64], x: NDArray[Any]) -> None:
    for last in range(len(x), 1, -PIECE):
        _shuffle_some(g, x, last, max(last - PIECE, 1))


def copied(x: ArrayLike) -> NDArray[Any]:
    """Return a copy of an array, made in pieces between which a signal's handler may run."""
    array = np.asarray(x)
    made = np.empty_like(array, subok=False)
    for start, stop in pieces_of(array):
        made[start:stop] = array[start:stop]
    return made


def rearrange(x: NDArray[Any], order: NDArray[np.int64]) -> None:
    """Put an array's elements along its first axis into an order; in pieces, as `copied`."""
    made = np.empty_like(x, subok=False)
    for start, stop in pieces_of(x):
        np.take(x, order[start:stop], axis=0, out=made[start:stop], mode="clip")  # the other modes copy the target
    for start, stop in pieces_of(x):
        x[start:stop] = made[start:stop]


def pieces_of(x: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield where pieces of some elements begin and end along the first axis of an array."""
    step = max(1, PIECE * len(x) // max(x.size, 1))
    for start in range(0, len(x), step):
        yield start, min(start + step, len(x))


def words_of(x: NDArray[Any]) -> NDArray[Any] | None:
    """Return an array's elements as unsigned integers in the same memory; None if they are no such words."""
    if x.ndim != 1 or x.dtype.itemsize not in WORDS or x.dtype.hasobject or not x.flags.aligned:
        return None
    return x.view(np.ndarray).view(WORDS[x.dtype.itemsize])


def check_shuffled(x: object) -> None:
    """Check an array that is to be shuffled."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        raise expected("x", "an array of at least one dimension", x)
    if not x.flags.writeable:
        raise ValueError("x: expected a writable array, got a read-only one; permutation() gives a shuffled copy")


def shuffle(g: NDArray[np.uint64], x: NDArray[Any]) -> None:
    """Shuffle an array in place along its first axis: rows stay together.

    Parameters
    ----------
    g : uint64 array
        As of `random`. It moves on by a word for each element but the first, seldom by two.
    x : array
        Writable; of any shape, type and order.

    Raises
    ------
    TypeError, ValueError
        No generator, no array, one without an axis, or a read-only one. In nopython code a wrong type is an error of
        compiling.

    Notes
    -----
    By one thread: `sampling.shuffle` shuffles large arrays on all of them, to another order. From Python, rows and elements
    that are not of 1, 2, 4 or 8 bytes take as much memory again.
    """
    check_generator(g)
    check_shuffled(x)
    words = words_of(x)
    if words is None:
        rearrange(x, permutation(g, len(x)))
    else:
        _shuffle_words(g, words)


@nopython_form(shuffle)
def _shuffle(g, x):
    if not is_generator(g):
        raise refused("shuffle: g", A_GENERATOR, g)
    if not isinstance(x, types.Array) or x.ndim == 0 or not x.mutable:
        raise refused("shuffle: x", "a writable array of at least one dimension", x)
    return _shuffled_in_place(x)


def _shuffled_in_place(x: Any) -> Any:
    if x.ndim == 1:
        return lambda g, x: _shuffle_down(state_of(g), x, len(x), 1)

    def of_rows(g, x):
        state, row = state_of(g), np.empty_like(x[:1])
        for i in range(len(x) - 1, 0, -1):
            j = np.int64(next_below(state, np.uint64(i + 1)))
            row[0] = x[i]
            x[i] = x[j]
            x[j] = row[0]

    return of_rows


def permutation(g: NDArray[np.uint64], x: int | ArrayLike) -> NDArray[Any]:
    """Return the integers from 0 to below `x`, or a copy of an array, in random order: as `shuffle` gives it.

    Parameters
    ----------
    g : uint64 array
        As of `shuffle`.
    x : int or array
        An array is shuffled along its first axis.

    Returns
    -------
    int64 array of length `x`, or array like `x`

    Raises
    ------
    TypeError, ValueError
        As by `shuffle`; a negative number.
    """
    check_generator(g)
    if np.ndim(x) != 0:
        array = copied(x)
        shuffle(g, array)
        return array
    order = _numbered(whole_number("x", x, expected="an integer or an array"))
    _shuffle_words(g, order)
    return order


@nopython_form(permutation)
def _permutation(g, x):
    if not is_generator(g):
        raise refused("permutation: g", A_GENERATOR, g)
    if isinstance(x, types.Array) and x.ndim:
        in_place = register_jitable(_shuffled_in_place(x))

        def of_array(g, x):
            array = x.copy()
            in_place(g, array)
            return array

        return of_array
    check_integer("permutation: x", x)
    return lambda g, x: _order_of(state_of(g), x)


@register_jitable
def _order_of(state, n):
    if n < 0:
        raise ValueError("x: expected an integer of at least 0")
    order = np.arange(n)
    _shuffle_down(state, order, n, 1)
    return order


# ---- places of what is chosen --------------------------------------------------------------------------------------------


@compiled()
def total_of(p: Any) -> Any:
    """Return the sum of an array's numbers: the same on every CPU, unlike NumPy's."""
    total = lost = 0.0
    for i in range(p.size):
        added = p[i] - lost
        longer = total + added
        lost = (longer - total) - added
        total = longer
    return total


@inlined
def begin_shuffled(state: Any, order: Any, first: Any, last: Any) -> None:
    """Go on with a shuffle from the beginning of an array: draw which elements lie from `first` to below `last`."""
    for i in range(first, min(last, order.size - 1)):
        j = i + np.int64(next_below(state, np.uint64(order.size - i)))
        order[i], order[j] = order[j], order[i]


@register_jitable
def table_for(count: Any) -> Any:
    """Return a hash table of open addresses for so many integers, at most half full."""
    size = 2
    while size < 2 * count:
        size *= 2
    return np.full(size, -1, np.int64)


@inlined
def choose_some(state: Any, n: Any, chosen: Any, table: Any, first: Any, last: Any) -> None:
    """Go on with Floyd's method [2]_: choose integers below n, one for each of so many places, other ones than before."""
    bits = np.uint64(0)
    while ONE << bits < np.uint64(table.size):
        bits += ONE
    mask, shift = (ONE << bits) - ONE, np.uint64(64) - bits
    for place in range(first, last):
        largest = n - chosen.size + place
        number = np.int64(next_below(state, np.uint64(largest + 1)))
        slot = np.uint64(number) * GOLDEN >> shift
        while table[slot] != -1 and table[slot] != number:
            slot = slot + ONE & mask
        if table[slot] == number:
            number = largest
            slot = np.uint64(number) * GOLDEN >> shift
            while table[slot] != -1:
                slot = slot + ONE & mask
        table[slot] = number
        chosen[place] = number


@compiled()
def _alike_with_replacement(g, n, places):
    state = state_of(g)
    for i in range(places.size):
        places[i] = np.int64(next_below(state, np.uint64(n)))


@compiled()
def begin_shuffled_some(g: Any, order: Any, first: Any, last: Any) -> None:
    """Go on as `begin_shuffled` does."""
    begin_shuffled(state_of(g), order, first, last)


@compiled()
def choose_some_more(g: Any, n: Any, chosen: Any, table: Any, first: Any, last: Any) -> None:
    """Go on as `choose_some` does."""
    choose_some(state_of(g), n, chosen, table, first, last)


@register_jitable
def _alike_without_replacement(g, n, places):
    if places.size > n * LARGE_SHARE:
        order = np.arange(n)
        begin_shuffled_some(g, order, 0, places.size)
        places[:] = order[: places.size]
    else:
        choose_some_more(g, n, places, table_for(places.size), 0, places.size)
        _shuffle_some(g, places, places.size, 1)


@compiled()
def _sums_of(p):
    """Return the sums of the first probabilities, and the place of the last that is not 0."""
    sums = np.empty(p.size)
    total, last = 0.0, 0
    for i in range(p.size):
        total += p[i]
        sums[i] = total
        if p[i] > 0.0:
            last = i
    return sums, last


@compiled()
def _weighted_with_replacement(g, sums, last, places):
    """By inversion: the first place where the sum of probabilities exceeds a uniform number."""
    state = state_of(g)
    for i in range(places.size):
        places[i] = min(np.searchsorted(sums, next_uniform(state) * sums[-1], side="right"), last)


@compiled()
def _weighted_without_replacement(g, p, places):
    """Those with the smallest of exponential numbers over the probabilities, in their order [3]_."""
    state = state_of(g)
    times = np.empty(p.size)
    for i in range(p.size):
        number = next_exponential(state)
        times[i] = number / p[i] if p[i] > 0.0 else np.inf
    places[:] = np.argsort(times)[: places.size]


@compiled()
def _possible(p):
    return (p > 0.0).sum()


# ---- choices -------------------------------------------------------------------------------------------------------------


def probabilities(p: ArrayLike, among: int) -> NDArray[np.float64]:
    """Return probabilities of so many elements, checked.

    Raises
    ------
    TypeError, ValueError
    """
    shares = parameter("p", p)
    if shares.shape != (among,):
        raise ValueError(f"p: expected a probability for each of {among} elements, got an array of shape {shares.shape}")
    total = total_of(shares)
    if not (shares >= 0.0).all() or not abs(total - 1.0) <= SUM_TOLERANCE:
        raise ValueError(f"p: expected numbers of at least 0 that sum up to 1; their sum is {total}")
    return shares


def check_count(count: int, among: int, p: NDArray[np.float64] | None, *, replace: bool) -> None:
    """Check how many elements are to be chosen.

    Raises
    ------
    ValueError
    """
    if count and not among:
        raise ValueError("a: expected at least one element to choose from, got none")
    possible = among if p is None else int(np.count_nonzero(p))
    if not replace and count > possible:
        raise ValueError(f"size: expected at most {possible} elements to choose without replacement, got {count}")


def choice(
    g: NDArray[np.uint64],
    a: int | ArrayLike,
    size: int | tuple[int, ...] | None = None,
    replace: bool = True,
    p: ArrayLike | None = None,
) -> Any:
    """Return elements of an array, or integers from 0 to below `a`, chosen at random.

    Parameters
    ----------
    g : uint64 array
        As of `random`. It moves on.
    a : int or array
        What is chosen from; an array along its first axis.
    size : int or tuple of int, optional
        How many; None: one, without an array around it.
    replace : bool
        Whether an element may be chosen more than once.
    p : float64 array, optional
        The elements' probabilities, which sum up to 1; None: all are equally likely.

    Returns
    -------
    int64 array, or array like `a`

    Raises
    ------
    TypeError, ValueError
        As by `random`; more elements than there are, probabilities that are none.

    Notes
    -----
    With probabilities, each call sums them up: ask for many elements at once. `sampling.choice` chooses on all threads.

    Examples
    --------
    >>> g = rng.generator(rng.key(7), 0)
    >>> len(set(rng.choice(g, 100, 10, replace=False).tolist()))
    10
    """
    check_generator(g)
    elements = None if np.ndim(a) == 0 else np.asarray(a)
    among = whole_number("a", a, expected="an integer or an array") if elements is None else len(elements)
    lengths = () if size is None else size if isinstance(size, tuple) else (size,)
    shape = tuple(whole_number("size", length, expected="an integer or a tuple of integers") for length in lengths)
    places = np.empty(math.prod(shape), np.int64)
    shares = None if p is None else probabilities(p, among)
    check_count(places.size, among, shares, replace=replace)
    _choose(g, among, places, shares, replace)
    places = places.reshape(shape)
    if elements is not None:
        return elements[places]
    return places if size is not None else places[()]


def _choose(
    g: NDArray[np.uint64], among: int, places: NDArray[np.int64], p: NDArray[np.float64] | None, replace: bool
) -> None:
    if not places.size:
        return
    if replace:
        sums = None if p is None else _sums_of(p)
        for start, stop in pieces_of(places):
            if sums is None:
                _alike_with_replacement(g, among, places[start:stop])
            else:
                _weighted_with_replacement(g, *sums, places[start:stop])
    elif p is not None:
        _weighted_without_replacement(g, p, places)
    elif places.size > among * LARGE_SHARE:
        order = _numbered(among)
        for start, stop in pieces_of(places):
            begin_shuffled_some(g, order, start, stop)
            places[start:stop] = order[start:stop]
    else:
        table = table_for(places.size)
        for start, stop in pieces_of(places):
            choose_some_more(g, among, places, table, start, stop)
        _shuffle_words(g, places)


def _numbered(n: int) -> NDArray[np.int64]:
    order = np.empty(n, np.int64)
    for start, stop in pieces_of(order):
        number_in_order(order[start:stop], start)
    return order


@nopython_form(choice)
def _choice(g, a, size=None, replace=True, p=None):
    if not is_generator(g):
        raise refused("choice: g", A_GENERATOR, g)
    of_array = isinstance(a, types.Array) and a.ndim > 0
    if not of_array:
        check_integer("choice: a", a)
    single, is_tuple = _is_none(size), isinstance(size, types.UniTuple) and isinstance(size.dtype, types.Integer)
    if not (single or is_tuple):
        check_integer("choice: size", size)
    weighted = not _is_none(p)
    if weighted and not (isinstance(p, types.Array) and p.ndim == 1 and p.dtype == types.float64):
        raise refused("choice: p", "a float64 array of one dimension", p)
    length = _length_of_array if of_array else _length_of_integer
    count_of = _one if single else _product if is_tuple else _number
    choose = _choose_weighted if weighted else _choose_alike
    take = _take if of_array else _keep
    shape = _first_of if single else _reshaped if is_tuple else _unchanged

    def chosen(g, a, size=None, replace=True, p=None):
        among = length(a)
        places = np.empty(count_of(size), np.int64)
        choose(g, among, places, replace, p)
        return shape(take(a, places), size)

    return chosen


def _is_none(kind: Any) -> bool:
    return kind is None or isinstance(kind, types.NoneType) or (isinstance(kind, types.Omitted) and kind.value is None)


@register_jitable
def _length_of_array(a):
    return len(a)


@register_jitable
def _length_of_integer(a):
    if a < 0:
        raise ValueError("a: expected an integer of at least 0")
    return np.int64(a)


@register_jitable
def _one(size):
    return 1


@register_jitable
def _number(size):
    if size < 0:
        raise ValueError("size: expected integers of at least 0")
    return size


@register_jitable
def _product(size):
    count = 1
    for length in size:
        count *= _number(length)
    return count


@register_jitable
def _check_count(count, possible, among, replace):
    if count and not among:
        raise ValueError("a: expected at least one element to choose from, got none")
    if not replace and count > possible:
        raise ValueError("size: expected no more elements than there are to choose without replacement")


@register_jitable
def _choose_alike(g, among, places, replace, p):
    _check_count(places.size, among, among, replace)
    if replace:
        _alike_with_replacement(g, among, places)
    else:
        _alike_without_replacement(g, among, places)


@register_jitable
def _choose_weighted(g, among, places, replace, p):
    if p.size != among:
        raise ValueError("p: expected a probability for each of the elements")
    if not abs(total_of(p) - 1.0) <= SUM_TOLERANCE or not (p >= 0.0).all():
        raise ValueError("p: expected numbers of at least 0 that sum up to 1")
    _check_count(places.size, _possible(p), among, replace)
    if not places.size:
        return
    if replace:
        sums, last = _sums_of(p)
        _weighted_with_replacement(g, sums, last, places)
    else:
        _weighted_without_replacement(g, p, places)


@register_jitable
def _take(a, places):
    return a[places]


@register_jitable
def _keep(a, places):
    return places


@register_jitable
def _first_of(found, size):
    return found[0]


@register_jitable
def _reshaped(found, size):
    return found.reshape(size + found.shape[1:])


@register_jitable
def _unchanged(found, size):
    return found
