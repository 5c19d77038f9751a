"""The names of streams and generators, a key and a number, as Python and nopython code give them; keys in nopython code."""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import keys
from flame_fast.kernels.jit.calls import check_integer, expected, nopython_form, refused, word
from flame_fast.kernels.jit.lanes import ZERO, threefry
from flame_fast.kernels.keys import Key
from numba import njit, types
from numba.extending import overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

A_KEY = "a key, as rng.key(seed) returns it"

KEY_DOMAIN = np.uint64(keys.KEY_DOMAIN)


def key_of(key: object) -> Key:
    """Return an argument as a key; a tuple of two words is one, too.

    Raises
    ------
    TypeError
        Something else, say a seed.
    """
    if isinstance(key, Key):
        return key
    if isinstance(key, tuple) and len(key) == 2:
        return Key(word("key", key[0]), word("key", key[1]))
    raise expected("key", A_KEY, key)


def key_and_number(key: object, number: object) -> tuple[Key, np.uint64]:
    """Return a stream's name, checked."""
    return key_of(key), word("number", number)


def check_name(function: str, key: Any, number: Any) -> None:
    """Check the types of a stream's name in nopython code."""
    if not (isinstance(key, types.BaseTuple) and len(key) == 2 and all(isinstance(part, types.Integer) for part in key)):
        raise refused(f"{function}: key", A_KEY, key)
    check_integer(f"{function}: number", number)


def number_of(number: Any) -> Any:
    """Return an integer of nopython code as a word; a negative one is an error."""
    raise NotImplementedError("for nopython code")


@overload(number_of, inline="always")
def _number_of(number):
    if isinstance(number, types.Integer) and number.signed:

        def checked(number):
            if number < 0:
                raise ValueError("expected an integer from 0 to below 2**64, got a negative one")
            return np.uint64(number)

        return checked
    return lambda number: np.uint64(number)


# ---- keys ----------------------------------------------------------------------------------------------------------------


@njit
def _beneath(key, number):
    low, high, _, _ = threefry(key[0], key[1], ZERO, ZERO, number, ZERO, KEY_DOMAIN, ZERO)
    return Key(low, high)


@njit
def _first(seed):
    return Key(seed, ZERO)


@nopython_form(keys.key)
def _key(seed, *path):
    for number in path:
        check_integer("key: path", number)
    if isinstance(seed, types.BaseTuple) and len(seed) == 2:
        check_name("key", seed, types.uint64)
        return _bodies_of_path(len(path), "Key(np.uint64(seed[0]), np.uint64(seed[1]))")
    check_integer("key: seed", seed)
    return _bodies_of_path(len(path), "_first(number_of(seed))")


def _bodies_of_path(length, first):
    """Return a body for a path of so many numbers: Numba unrolls no loop over integers of several types."""
    made = first
    for place in range(length):
        made = f"_beneath({made}, number_of(path[{place}]))"
    names = {"_beneath": _beneath, "_first": _first, "number_of": number_of, "Key": Key, "np": np}
    return eval(f"lambda seed, *path: {made}", names)
