"""The BitGenerator over a stream: the words of `rng`, jumps, states, and what NumPy and scikit-learn make of it."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flame_fast.kernels import keys
from flame_fast.kernels.bitgen import StreamBitGenerator, bit_generator
from hypothesis import given
from hypothesis import strategies as st

WORD = (1 << 64) - 1

#: x**(2**128) modulo the characteristic polynomial: the jump that the authors of xoshiro256 publish with it.
PUBLISHED_JUMP = (0x180EC6D33CFD0ABA, 0xD5A61266F0C9392C, 0xA9582618E03FC9AA, 0x39ABDC4529B1661C)


def rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & WORD


def step(state: int) -> int:
    """Return the next state of xoshiro256 as one integer of 256 bits; linear over GF(2)."""
    s0, s1, s2, s3 = (state >> 64 * i & WORD for i in range(4))
    shifted = s1 << 17 & WORD
    s2, s3 = s2 ^ s0, s3 ^ s1
    s1, s0 = s1 ^ s2, s0 ^ s3
    return s0 | s1 << 64 | (s2 ^ shifted) << 128 | rotated(s3, 45) << 192


def times(matrix: list[int], vector: int) -> int:
    made = 0
    while vector:
        lowest = vector & -vector
        made ^= matrix[lowest.bit_length() - 1]
        vector ^= lowest
    return made


def stepped(states: list[int], steps: int) -> list[int]:
    """Return states after so many steps, by powers of the step's matrix of 256 x 256 bits."""
    matrix = [step(1 << bit) for bit in range(256)]
    while steps:
        if steps & 1:
            states = [times(matrix, state) for state in states]
        steps >>= 1
        if steps:
            matrix = [times(matrix, column) for column in matrix]
    return states


def lanes(made: StreamBitGenerator) -> list[int]:
    return [sum(int(word) << 64 * i for i, word in enumerate(lane)) for lane in made.state["state"]["lanes"].T]


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (7, 5), ((1 << 128) - 1, WORD)])
def test_words_are_those_of_the_stream(seed: int, number: int) -> None:
    from flame_fast.kernels import rng

    expected = np.empty(1003, np.uint64)
    rng.fill_words(rng.stream(rng.key(seed), np.uint64(number)), expected)
    assert (bit_generator(seed, number).random_raw(1003) == expected).all()
    doubles = np.random.Generator(bit_generator(seed, number)).random(1003)
    assert (doubles == (expected >> np.uint64(11)) * 2.0**-53).all()


def test_halves_of_a_word_lower_half_first() -> None:
    word, after = map(int, bit_generator(7).random_raw(2))
    drawn = np.random.Generator(bit_generator(7)).integers(1 << 32, size=3, dtype=np.uint32)
    assert drawn.tolist() == [word & 0xFFFFFFFF, word >> 32, after & 0xFFFFFFFF]


@pytest.mark.parametrize("drawn", [0, 1, 7, 8, 9])
def test_small_advances_step(drawn: int) -> None:
    words = bit_generator(3).random_raw(200)
    for delta in range(100):
        made = bit_generator(3)
        made.random_raw(drawn)
        assert (made.advance(delta).random_raw(20) == words[drawn + delta : drawn + delta + 20]).all()


@given(st.integers(0, (1 << 255) - 1), st.integers(0, (1 << 255) - 1))
def test_advances_add_up(first: int, second: int) -> None:
    apart = bit_generator(1).advance(first).advance(second)
    assert (apart.random_raw(17) == bit_generator(1).advance(first + second).random_raw(17)).all()


@pytest.mark.parametrize("delta", [8 << 40, (1 << 128) + 3, (1 << 256) - 1])
def test_large_advances_are_powers_of_the_steps_matrix(delta: int) -> None:
    made = bit_generator(9)
    expected = stepped(lanes(made), -(-delta // 8))
    assert lanes(made.advance(delta)) == expected


def test_the_published_jump_is_the_one_computed() -> None:
    from flame_fast.kernels.bitgen import _native

    expected = sum(word << 64 * i for i, word in enumerate(PUBLISHED_JUMP))
    assert _native.power_of_step(1 << 128) == expected  # type: ignore[attr-defined]


def test_jumped_leaves_the_original_alone() -> None:
    made = bit_generator(2)
    twice = made.jumped(2)
    assert (twice.random_raw(9) == made.jumped().jumped().random_raw(9)).all()
    assert (made.random_raw(9) == bit_generator(2).random_raw(9)).all()


def test_children_are_deterministic_and_differ() -> None:
    parent = bit_generator(4, 1)
    children = [*parent.spawn(2), *parent.spawn(2)]
    again = bit_generator(4, 1).spawn(4)
    words = [child.random_raw(50).tolist() for child in children]
    assert words == [child.random_raw(50).tolist() for child in again]
    drawn = sum(words, parent.random_raw(50).tolist())
    assert len(set(drawn)) == 250
    assert children[3].key == keys.key(4, 1, (1 << 127) + 3)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_go_on_where_the_original_is(copied) -> None:  # type: ignore[no-untyped-def]
    made = np.random.Generator(bit_generator(5))
    made.random(3)
    made.integers(9, dtype=np.uint32)
    made.bit_generator.spawn(1)
    other = np.random.Generator(copied(made.bit_generator))
    assert (other.integers(1 << 32, size=30, dtype=np.uint32) == made.integers(1 << 32, size=30, dtype=np.uint32)).all()
    assert other.bit_generator.spawn(1)[0].key == made.bit_generator.spawn(1)[0].key  # type: ignore[attr-defined]


def test_a_state_is_set_in_the_middle_of_a_step() -> None:
    made = bit_generator(6)
    made.random_raw(5)
    other = bit_generator(0)
    other.state = made.state
    assert (other.random_raw(20) == made.random_raw(20)).all()


def test_wrong_states_are_refused_and_change_nothing() -> None:
    made = bit_generator(6)
    good = made.state
    dead = {**good["state"], "lanes": good["state"]["lanes"].copy()}
    dead["lanes"][:, 3] = 0
    with pytest.raises(TypeError, match="expected a dict"):
        made.state = 3  # type: ignore[assignment]
    for wrong in (
        {},
        {**good, "bit_generator": "PCG64"},
        {**good, "state": dead},
        {**good, "state": {**good["state"], "at": 9}},
        {**good, "state": {**good["state"], "words": np.zeros(7, np.uint64)}},
        {**good, "uinteger": 1 << 32},
        {name: value for name, value in good.items() if name != "has_uint32"},
    ):
        with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
            made.state = wrong
    assert (made.random_raw(9) == bit_generator(6).random_raw(9)).all()


def test_bad_numbers_are_refused() -> None:
    for call in (
        lambda: bit_generator(-1),
        lambda: bit_generator(1, 1 << 64),
        lambda: bit_generator(1).advance(-1),
        lambda: bit_generator(1).advance(1 << 256),
        lambda: bit_generator(1).jumped(-1),
        lambda: bit_generator(1).spawn(-1),
    ):
        with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
            call()
    with pytest.raises(TypeError):
        bit_generator("seed")  # type: ignore[arg-type]


def test_threads_share_one_generator() -> None:
    made = np.random.Generator(bit_generator(8))
    with ThreadPoolExecutor(4) as pool:
        drawn = np.concatenate(list(pool.map(lambda _: made.random(10_000), range(8))))
    assert (np.sort(drawn) == np.sort(np.random.Generator(bit_generator(8)).random(80_000))).all()


def test_distributions() -> None:
    stats = pytest.importorskip("scipy.stats")
    made = np.random.Generator(bit_generator(11))
    assert stats.kstest(made.standard_normal(20_000), "norm").pvalue > 1e-4
    assert stats.kstest(made.standard_exponential(20_000), "expon").pvalue > 1e-4
    assert stats.kstest(made.gamma(2.5, size=20_000), "gamma", (2.5,)).pvalue > 1e-4


def test_random_state_and_scikit_learn_take_it() -> None:
    drawn = np.random.RandomState(bit_generator(1)).normal(size=9)
    assert (drawn == np.random.RandomState(bit_generator(1)).normal(size=9)).all()
    utils = pytest.importorskip("sklearn.utils")
    first, second = (utils.shuffle(range(50), random_state=np.random.RandomState(bit_generator(1))) for _ in "ab")
    assert first == second != list(range(50))
