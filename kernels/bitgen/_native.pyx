"""The words of one stream of `rng` as a BitGenerator of NumPy's."""

from libc.stdint cimport uint32_t, uint64_t
from numpy.random cimport BitGenerator

import numpy as np
from flame_fast.kernels import keys
from flame_fast.kernels.jit.arguments import whole_number

cdef extern from "lanes.h" nogil:
    ctypedef struct ff_lanes:
        uint64_t s[4][8]
        uint64_t words[8]
        int at
        int has_half
        uint32_t half
    void ff_choose()
    void ff_begin(ff_lanes *, uint64_t, uint64_t, uint64_t)
    void ff_step(ff_lanes *)
    void ff_apply(ff_lanes *, const uint64_t *)
    uint64_t ff_next64(void *)
    uint32_t ff_next32(void *)
    double ff_next_double(void *)

ff_choose()

#: The characteristic polynomial of a step of xoshiro256 (Blackman and Vigna 2021), without its highest term.
CHARACTERISTIC = 0x3c03c3f3ecb1904b4edcf26259f850280002bcefd1a5e9d116f2bb0f0f001
PERIOD = (1 << 256) - 1
SPAWNED = 1 << 127
NAME = "StreamBitGenerator"


def power_of_step(steps):
    """Return x**steps modulo the characteristic polynomial, as bits (Haramoto et al. 2008)."""
    whole = CHARACTERISTIC | 1 << 256
    made = 1
    for digit in bin(steps)[2:]:
        made = int(bin(made)[2:], 4)
        if digit == "1":
            made <<= 1
        while (above := made.bit_length() - 257) >= 0:
            made ^= whole << above
    return made


def restored(low, high, number, spawned, state):
    made = StreamBitGenerator(keys.Key(np.uint64(low), np.uint64(high)), number)
    made.state = state
    (<StreamBitGenerator> made).spawned = spawned
    return made


cdef class StreamBitGenerator(BitGenerator):
    """A BitGenerator with the words of `rng.stream(key, number)`, in the order of `rng.fill_words`."""

    cdef ff_lanes lanes
    cdef readonly object key
    cdef readonly object number
    cdef object spawned

    def __init__(self, key_or_seed=None, number=0):
        self.key = keys.key(key_or_seed)
        self.number = whole_number("number", number, ((1 << 64) - 1, "below 2**64"))
        self.spawned = 0
        BitGenerator.__init__(self, np.random.SeedSequence([int(self.key.low), int(self.key.high), self.number]))
        ff_begin(&self.lanes, self.key.low, self.key.high, self.number)
        self._bitgen.state = &self.lanes
        self._bitgen.next_uint64 = ff_next64
        self._bitgen.next_uint32 = ff_next32
        self._bitgen.next_double = ff_next_double
        self._bitgen.next_raw = ff_next64

    def __repr__(self):
        return f"<{NAME} of key ({self.key.low}, {self.key.high}), number {self.number}>"

    def __reduce__(self):
        with self.lock:
            return restored, (int(self.key.low), int(self.key.high), self.number, self.spawned, self.state)

    def __copy__(self):
        function, arguments = self.__reduce__()
        return function(*arguments)

    def __deepcopy__(self, memo):
        return self.__copy__()

    @property
    def state(self):
        """The lanes' states, the words of the last step, which of them is next, and half a word."""
        with self.lock:
            return {
                "bit_generator": NAME,
                "state": {
                    "lanes": np.array([[self.lanes.s[i][j] for j in range(8)] for i in range(4)], np.uint64),
                    "words": np.array([self.lanes.words[j] for j in range(8)], np.uint64),
                    "at": self.lanes.at,
                },
                "has_uint32": self.lanes.has_half,
                "uinteger": self.lanes.half,
            }

    @state.setter
    def state(self, value):
        cdef ff_lanes made
        if not isinstance(value, dict):
            raise TypeError(f"state: expected a dict, got {type(value).__name__}")
        if value.get("bit_generator") != NAME:
            raise ValueError(f"state: expected one of a {NAME}, got one of {value.get('bit_generator')!r}")
        try:
            inner = value["state"]
            lanes, words, at = np.asarray(inner["lanes"]), np.asarray(inner["words"]), inner["at"]
            has_half, half = value["has_uint32"], value["uinteger"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"state: incomplete: {error}") from None
        if lanes.shape != (4, 8) or words.shape != (8,) or lanes.dtype != np.uint64 or words.dtype != np.uint64:
            raise ValueError("state: expected uint64 arrays, lanes of shape (4, 8) and words of shape (8,)")
        if not lanes.any(axis=0).all():
            raise ValueError("state: a lane is zero throughout, which is no state of xoshiro256++")
        made.at = whole_number("at", at, (8, "to 8"))
        made.has_half = whole_number("has_uint32", has_half, (1, "to 1"))
        made.half = whole_number("uinteger", half, ((1 << 32) - 1, "below 2**32"))
        for j in range(8):
            made.words[j] = words[j]
            for i in range(4):
                made.s[i][j] = lanes[i, j]
        with self.lock:
            self.lanes = made

    def advance(self, delta):
        """Move on by `delta` words, from 0 to below 2**256; drop half a word. Return self."""
        cdef uint64_t polynomial[4]
        delta = whole_number("delta", delta, (PERIOD, "below 2**256"))
        with self.lock:
            target = self.lanes.at + delta
            self.lanes.has_half = self.lanes.half = 0
            steps = max(target - 1, 0) // 8
            if steps:
                power = power_of_step(steps - 1)
                for i in range(4):
                    polynomial[i] = power >> 64 * i & 0xFFFFFFFFFFFFFFFF
                ff_apply(&self.lanes, polynomial)
                ff_step(&self.lanes)
            self.lanes.at = target - 8 * steps
        return self

    def jumped(self, jumps=1):
        """Return a copy that is 2**128 words further for each jump: 2**125 steps of each lane."""
        jumps = whole_number("jumps", jumps, ((1 << 128) - 1, "below 2**128"))
        return self.__copy__().advance(jumps << 128)

    def spawn(self, n_children):
        """Return children, whose keys are `key(key, number, 2**127 + counter)`."""
        n_children = whole_number("n_children", n_children, ((1 << 63) - 1, "below 2**63"))
        with self.lock:
            first = self.spawned
            self.spawned += n_children
        return [
            type(self)(keys.key(self.key, self.number, SPAWNED + i)) for i in range(first, first + n_children)
        ]
