"""The streams of `kernels/rng.py` a second time, in plain Python out of their papers, and generators with chosen outputs."""

from __future__ import annotations

import numpy as np

LANES = 8
WORD = (1 << 64) - 1

#: Threefry-4x64: how far the two words of a round's pairs are rotated, by the round; the constant of the fifth key word.
ROTATIONS = [(14, 16), (52, 57), (23, 40), (5, 37), (25, 33), (46, 12), (58, 22), (32, 32)]
PARITY = 0x1BD11BDAA9FC1A22
ROUNDS = 20


def rotated(word, bits):
    return (word << bits | word >> (64 - bits)) & WORD


def threefry(key, counter, rounds=ROUNDS):
    """Threefry-4x64 as its paper has it: every four rounds the key is added, one word further each time."""
    keys = [*key, PARITY ^ key[0] ^ key[1] ^ key[2] ^ key[3]]
    x = [(word + added) & WORD for word, added in zip(counter, keys, strict=False)]
    for number in range(rounds):
        for (left, right), bits in zip(
            [(0, 3), (2, 1)] if number % 2 else [(0, 1), (2, 3)], ROTATIONS[number % 8], strict=True
        ):
            x[left] = (x[left] + x[right]) & WORD
            x[right] = rotated(x[right], bits) ^ x[left]
        if number % 4 == 3:
            turn = number // 4 + 1
            x = [(word + keys[(turn + i) % 5] + (turn if i == 3 else 0)) & WORD for i, word in enumerate(x)]
    return x


def lane_state(key, number, domain, lane):
    """Return where a lane of a stream begins."""
    return threefry([int(key[0]), int(key[1]), 0, 0], [int(number), lane, int(domain), 0])


class Xoshiro:
    """One xoshiro256++ generator: `next()` is its next word. The state may have arrays of words too."""

    def __init__(self, state):
        self.state = list(state)

    def __iter__(self):
        return self

    def __next__(self):
        s0, s1, s2, s3 = self.state
        shifted = s1 << self._like(17) & self._like(WORD)
        output = self._sum(self._rotated(self._sum(s0, s3), 23), s0)
        s2, s3 = s2 ^ s0, s3 ^ s1
        s1, s0 = s1 ^ s2, s0 ^ s3
        self.state = [s0, s1, s2 ^ shifted, self._rotated(s3, 45)]
        return output

    def _like(self, number):
        return np.uint64(number) if isinstance(self.state[0], np.ndarray) else number

    def _sum(self, left, right):
        return left + right & self._like(WORD)

    def _rotated(self, word, bits):
        return (word << self._like(bits) | word >> self._like(64 - bits)) & self._like(WORD)


def stream_words(key, number, domain, steps):
    """Return the first words of a stream's lanes: a uint64 array of shape (steps, 8)."""
    lanes = [Xoshiro(lane_state(key, number, domain, lane)) for lane in range(LANES)]
    return np.array([[next(lane) for lane in lanes] for _ in range(steps)], np.uint64).reshape(steps, LANES)


def state_giving(first, second):
    """Return a state, of numbers or arrays, whose next two words are the ones given."""
    # In words: the second output is that of s0' and s3' before its rotation; with s0' = 0 it is s3' rotated by 45 + 23.
    first, second = np.asarray(first, np.uint64), np.asarray(second, np.uint64)

    def back(word, bits):
        return word >> np.uint64(bits) | word << np.uint64(64 - bits)

    with np.errstate(over="ignore"):
        s0 = back(second, 4)
        s3 = back(first - s0, 23) - s0
    return np.array([s0, s0 ^ s3, np.zeros_like(s0), s3])
