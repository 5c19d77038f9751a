"""Keys of streams: a seed of 128 bits, and any number of keys made of it and of numbers, without Numba.

    key = rng.key(7)
    key = rng.key(7, task, block)  # another one for each task and block

A key of a path is the first half of what Threefry-4x64-20 (see `rng`) makes of the path's last number under the key of the
rest. The cipher is a pseudorandom function: nothing that is drawn under a key tells of what is drawn under another.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from flame_fast.kernels.jit.arguments import whole_number

TYPE_CHECKING = False

WORD = (1 << 64) - 1

LARGEST_SEED = (1 << 128) - 1, "below 2**128"

#: What a seed may be, for errors.
SEEDS = "an integer, a list of integers, a SeedSequence, a Key or None"

#: The purpose of what is drawn under a key to make another one; `rng` lists those of streams.
KEY_DOMAIN = 1 << 32

#: Threefry-4x64: the constant of the fifth key word, and the bits of each mix in four rounds, and in the next four.
PARITY = 0x1BD11BDAA9FC1A22
ROTATIONS = (14, 16, 52, 57, 23, 40, 5, 37), (25, 33, 46, 12, 58, 22, 32, 32)


class Key(NamedTuple("Key", [("low", np.uint64), ("high", np.uint64)])):
    """A key: two words. NumPy's integers, so that nopython code takes them as they are."""

    __slots__ = ()


if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | Key | None


def key(seed: Seed = None, *path: int) -> Key:
    """Return the key of a seed, or one of the keys that are made of it, by which streams are named.

    Parameters
    ----------
    seed : int, sequence of int, SeedSequence or Key, optional
        An integer from 0 to below 2**128. A sequence is a seed and a path: `[7, 3]` is `7, 3`. None: 128 bits from the
        operating system, so that no two keys are the same.
    *path : int
        Each from 0 to below 2**128: of every number there is another key, and of that again. So each task can have a key
        of its own, by its number, and each part of a task.

    Returns
    -------
    Key
        A tuple of two uint64.

    Raises
    ------
    TypeError
        No seed, or no integer in the path.
    ValueError
        Out of range.

    Notes
    -----
    Safe from several threads. In nopython code, seeds and paths are integers of 64 bits.

    Examples
    --------
    >>> rng.key(7, 3) == rng.key([7, 3]) == rng.key(rng.key(7), 3)
    True
    """
    made = _of_seed(seed)
    for number in path:
        made = _beneath(made, whole_number("path", number, LARGEST_SEED))
    return made


def _of_seed(seed: Seed) -> Key:
    if isinstance(seed, Key):
        return seed
    if seed is None:
        return _in_words(int.from_bytes(os.urandom(16), "little"))
    if isinstance(seed, np.random.SeedSequence):
        return Key(*seed.generate_state(2, np.uint64))
    if isinstance(seed, list | tuple) or (isinstance(seed, np.ndarray) and seed.ndim == 1):
        if not len(seed):
            raise ValueError(f"seed: expected {SEEDS}, got an empty sequence")
        numbers = [whole_number("seed", number, LARGEST_SEED, "integers") for number in seed]
        return key(numbers[0], *numbers[1:])
    return _in_words(whole_number("seed", seed, LARGEST_SEED, SEEDS))


def _in_words(number: int) -> Key:
    return Key(np.uint64(number & WORD), np.uint64(number >> 64))


def _beneath(above: Key, number: int) -> Key:
    low, high, _, _ = threefry((int(above.low), int(above.high), 0, 0), (number & WORD, number >> 64, KEY_DOMAIN, 0))
    return Key(np.uint64(low), np.uint64(high))


def threefry(key: tuple[int, int, int, int], block: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Encipher a block of four words, by integers of Python, in about 15 microseconds."""
    k = (*key, key[0] ^ key[1] ^ key[2] ^ key[3] ^ PARITY)
    a, b, c, d = ((word + added) & WORD for word, added in zip(block, key, strict=True))
    for turn in range(1, 6):
        r = ROTATIONS[(turn - 1) % 2]
        for at in (0, 4):
            a, c = (a + b) & WORD, (c + d) & WORD
            b, d = (b << r[at] | b >> 64 - r[at]) & WORD ^ a, (d << r[at + 1] | d >> 64 - r[at + 1]) & WORD ^ c
            a, c = (a + d) & WORD, (c + b) & WORD
            d, b = (d << r[at + 2] | d >> 64 - r[at + 2]) & WORD ^ a, (b << r[at + 3] | b >> 64 - r[at + 3]) & WORD ^ c
        a, b = (a + k[turn % 5]) & WORD, (b + k[(turn + 1) % 5]) & WORD
        c, d = (c + k[(turn + 2) % 5]) & WORD, (d + k[(turn + 3) % 5] + turn) & WORD
    return a, b, c, d
