"""Streams of random numbers: reference vectors of their two generators, a model in Python, and transforms of words."""

from __future__ import annotations

import math
import os

import numba
import numpy as np
import pytest
from flame_fast.kernels import domains, keys, rng
from flame_fast.kernels.domains import FREE, PI, UNIFORMS
from flame_fast.kernels.jit.lanes import LANES, advance, lane_beside
from flame_fast.kernels.jit.lanes import threefry as nopython_threefry
from flame_fast.kernels.jit.simd import loader, store
from flame_fast.kernels.rng.filling import stream_of
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from stream_model import WORD, Xoshiro, lane_state, state_giving, stream_words, threefry

LANE_WORDS = loader(numba.types.uint64, LANES)
WORDS = st.integers(0, WORD)
SEEDS = st.integers(0, 2**128 - 1)
HALF_ULP = 2.0**-53


@numba.njit
def enciphered(key, block, out):
    out[0], out[1], out[2], out[3] = nopython_threefry(
        key[0], key[1], key[2], key[3], block[0], block[1], block[2], block[3]
    )


@numba.njit
def enciphered_lanes(key, blocks, out):
    x0, x1, x2, x3 = nopython_threefry(
        key[0],
        key[1],
        key[2],
        key[3],
        LANE_WORDS(blocks, 0),
        LANE_WORDS(blocks, LANES),
        LANE_WORDS(blocks, 2 * LANES),
        LANE_WORDS(blocks, 3 * LANES),
    )
    store(out, 0, x0)
    store(out, LANES, x1)
    store(out, 2 * LANES, x2)
    store(out, 3 * LANES, x3)


@numba.njit
def ninth_lane(key, number, domain):
    return lane_beside(key, number, domain)


@numba.njit
def next_of_one(state):
    words = np.empty(10, np.uint64)
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    for i in range(words.size):
        words[i], s0, s1, s2, s3 = advance(s0, s1, s2, s3)
    return words


def words_of(stream, size):
    out = np.empty(size, np.uint64)
    rng.fill_words(stream, out)
    return out


def filled(fill, stream, size):
    out = np.full(size, np.nan)
    fill(stream, out)
    return out


def stream_giving(first, second=()):
    """Return a stream whose lanes' next two words begin with the given ones."""
    padded = np.ones((2, LANES), np.uint64)  # two zeros are those of no state
    padded[0, : len(first)] = np.array(first, np.uint64)
    padded[1, : len(second)] = np.array(second, np.uint64)
    return state_giving(*padded)


# ---- reference vectors ---------------------------------------------------------------------------------------------------

#: Random123's tests/kat_vectors, lines "threefry4x64 20": (counter, key, enciphered).
THREEFRY = {
    "zeros": (
        [0] * 4,
        [0] * 4,
        [0x09218EBDE6C85537, 0x55941F5266D86105, 0x4BD25E16282434DC, 0xEE29EC846BD2E40B],
    ),
    "ones": (
        [WORD] * 4,
        [WORD] * 4,
        [0x29C24097942BBA1B, 0x0371BBFB0F6F4E11, 0x3C231FFA33F83A1C, 0xCD29113FDE32D168],
    ),
    "digits of pi": (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C, 0xBE5466CF34E90C6C, 0xC0AC29B7C97C50DD],
        [0xA7E8FDE591651BD9, 0xBAAFD0C30138319B, 0x84A5C1A729E685B9, 0x901D406CCEBC1BA4],
    ),
}

#: The output of the authors' xoshiro256plusplus.c for the state 1, 2, 3, 4.
XOSHIRO = [
    41943041,
    58720359,
    3588806011781223,
    3591011842654386,
    9228616714210784205,
    9973669472204895162,
    14011001112246962877,
    12406186145184390807,
    15849039046786891736,
    10450023813501588000,
]


@pytest.mark.parametrize("block, key, expected", THREEFRY.values(), ids=THREEFRY)
def test_threefry_gives_its_reference_vectors(block, key, expected):
    key = np.array(key, np.uint64)
    out = np.empty(4, np.uint64)
    enciphered(key, np.array(block, np.uint64), out)
    assert out.tolist() == expected
    assert threefry(key.tolist(), block) == expected


def test_every_lane_of_threefry_gives_them():
    for block, key, expected in THREEFRY.values():
        for place in range(LANES):
            blocks = np.arange(4 * LANES, dtype=np.uint64).reshape(4, LANES)
            blocks[:, place] = block
            out = np.empty((4, LANES), np.uint64)
            enciphered_lanes(np.array(key, np.uint64), blocks, out)
            assert out[:, place].tolist() == expected, place


@given(st.lists(WORDS, min_size=4, max_size=4), st.lists(WORDS, min_size=4 * LANES, max_size=4 * LANES))
@settings(deadline=None, max_examples=50)
def test_lanes_of_threefry_know_nothing_of_each_other(key, blocks):
    blocks = np.array(blocks, np.uint64).reshape(4, LANES)
    out = np.empty((4, LANES), np.uint64)
    enciphered_lanes(np.array(key, np.uint64), blocks, out)
    assert out.T.tolist() == [threefry(key, block) for block in blocks.T.tolist()]


def test_every_lane_of_xoshiro_gives_its_reference_output():
    stream = np.repeat(np.array([1, 2, 3, 4], np.uint64)[:, None], LANES, axis=1)
    assert words_of(stream, 10 * LANES).reshape(10, LANES).T.tolist() == [XOSHIRO] * LANES
    assert next_of_one(np.array([1, 2, 3, 4], np.uint64)).tolist() == XOSHIRO
    model = Xoshiro([1, 2, 3, 4])
    assert [next(model) for _ in XOSHIRO] == XOSHIRO


@given(st.lists(WORDS, min_size=4 * LANES, max_size=4 * LANES))
@settings(deadline=None, max_examples=50)
def test_lanes_of_xoshiro_know_nothing_of_each_other(words):
    stream = np.array(words, np.uint64).reshape(4, LANES)
    assume(stream.any(axis=0).all())
    models = [Xoshiro(state) for state in stream.T.tolist()]
    assert words_of(stream, 5 * LANES).reshape(5, LANES).tolist() == [[next(model) for model in models] for _ in range(5)]
    assert stream.T.tolist() == [model.state for model in models]


# ---- streams -------------------------------------------------------------------------------------------------------------


@given(SEEDS, WORDS, st.integers(1, 20))
@example(0, 0, 3)
@example(2**128 - 1, WORD, 3)
@example(1 << 64, 1 << 63, 3)
@settings(deadline=None, max_examples=60)
def test_a_stream_is_what_the_papers_make_of_its_key_and_number(seed, number, steps):
    key = rng.key(seed)
    words = words_of(rng.stream(key, np.uint64(number)), steps * LANES)
    assert words.reshape(steps, LANES).tolist() == stream_words(key, number, FREE, steps).tolist()


@given(SEEDS, WORDS, st.sampled_from([FREE, PI, UNIFORMS]))
@settings(deadline=None, max_examples=30)
def test_domains_and_the_ninth_lane_are_parts_of_the_enciphered_block(seed, number, domain):
    key = rng.key(seed)
    lanes = [lane_state(key, number, domain, lane) for lane in range(LANES + 1)]
    assert stream_of(key, np.uint64(number), domain).T.tolist() == lanes[:LANES]
    assert list(ninth_lane(key, np.uint64(number), domain)) == lanes[LANES]


def test_domains_are_different():
    numbers = [int(value) for name, value in vars(domains).items() if name.isupper() and isinstance(value, np.uint64)]
    assert len(numbers) >= 19
    assert len({*numbers, keys.KEY_DOMAIN}) == len(numbers) + 1


def test_a_number_may_be_a_plain_integer():
    key = rng.key(5)
    assert np.array_equal(rng.stream(key, 77), rng.stream(key, np.uint64(77)))


#: A promise: streams never change. Of (seed, number) the words 0, 7 and 14.
RECORDED = {
    (0, 0): ["aa4adc5a8843faf4", "50dee79f6cca4e93", "1a9ba392c9bd7c5e"],
    (1, 0): ["766e4f280f671029", "7ad7e96f4462b114", "92bc2df3fd2f1fc6"],
    (1, 1): ["5227429601f586d1", "6d15524458e3f80b", "0a6bfce39e2a102a"],
    (2**64, 0): ["621e36bb478d9df8", "e1dd51f910b97b02", "281eefdc7d13f468"],
    (2**128 - 1, WORD): ["c194f0db21921176", "0e419f4d03dcccc9", "b43b7d64ba7a9791"],
}


def test_streams_are_those_recorded():
    for (seed, number), expected in RECORDED.items():
        words = words_of(rng.stream(rng.key(seed), np.uint64(number)), 2 * LANES)
        assert [f"{word:016x}" for word in words.tolist()[:: LANES - 1]] == expected, (seed, number)


def test_the_generator_says_what_it_is():
    assert f"xoshiro256++, {LANES} lanes, seeded by Threefry-4x64-20" == rng.GENERATOR


@numba.njit
def draws_in_nopython_code(key, number, out):
    stream = rng.stream(key, number)
    rng.fill_uniforms(stream, out[:5])
    rng.fill_normals(stream, out[5:])


def test_nopython_code_draws_the_same():
    key = rng.key(3)
    out = np.empty(25)
    draws_in_nopython_code(key, np.uint64(9), out)
    stream = rng.stream(key, np.uint64(9))
    expected = [filled(rng.fill_uniforms, stream, 5), filled(rng.fill_normals, stream, 20)]
    assert np.array_equal(out, np.concatenate(expected))


# ---- keys ----------------------------------------------------------------------------------------------------------------


@given(SEEDS)
@settings(deadline=None)
def test_a_key_is_the_seed_in_two_words(seed):
    low, high = rng.key(seed)
    assert type(low) is type(high) is np.uint64
    assert int(low) + (int(high) << 64) == seed


def test_whatever_is_an_integer_is_a_seed():
    for seed in (np.int8(7), np.uint64(7), np.array(7)):
        assert rng.key(seed) == rng.key(7)
    assert rng.key(True) == rng.key(1)


def test_what_is_no_integer_is_no_seed():
    for seed in (1.0, "1", b"1", np.float64(1), {1}, 1j, np.array([[1]])):
        with pytest.raises(TypeError, match="^seed: expected an integer, a list of integers, a SeedSequence") as caught:
            rng.key(seed)
        assert repr(seed) in str(caught.value)


def test_a_seed_out_of_range_is_an_error():
    for seed in (-1, 2**128, -(2**128), np.int64(-1)):
        with pytest.raises(ValueError, match=r"^seed: expected an integer from 0 to below 2\*\*128, got ") as caught:
            rng.key(seed)
        assert repr(seed) in str(caught.value)


def test_without_a_seed_a_key_is_16_bytes_of_the_operating_system(monkeypatch):
    assert len({rng.key() for _ in range(1000)}) == 1000
    monkeypatch.setattr(os, "urandom", lambda n: bytes(range(n)))
    assert rng.key(None) == rng.key(0x0F0E0D0C0B0A09080706050403020100)


# ---- transforms of words -------------------------------------------------------------------------------------------------


@given(st.integers(0, 70), SEEDS)
@settings(deadline=None, max_examples=60)
def test_any_size_is_filled_by_whole_steps_and_the_next_one_goes_on_after_them(size, seed):
    key = rng.key(seed)
    model = stream_words(key, 0, FREE, 40)
    flat = model.ravel()
    floats = (flat >> np.uint64(11)).astype(float)
    steps = -(-size // LANES)

    def begun():
        return rng.stream(key, np.uint64(0))

    stream = begun()
    assert np.array_equal(words_of(stream, size), flat[:size])
    assert np.array_equal(words_of(stream, LANES), model[steps])
    stream = begun()
    assert np.array_equal(filled(rng.fill_uniforms, stream, size), floats[:size] * 2.0**-53)
    assert np.array_equal(words_of(stream, LANES), model[steps])
    stream = begun()
    assert filled(rng.fill_exponentials, stream, size) == pytest.approx(-np.log((floats[:size] + 1) * 2.0**-53), rel=1e-15)
    assert np.array_equal(words_of(stream, LANES), model[steps])
    stream = begun()
    normals = filled(rng.fill_normals, stream, size)
    radius = np.sqrt(-2 * np.log((floats.reshape(40, LANES)[0::2] + 1) * 2.0**-53))
    angle = 2 * math.pi * 2.0**-53 * floats.reshape(40, LANES)[1::2]
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:size]
    assert normals == pytest.approx(expected, rel=1e-14, abs=1e-14)
    assert np.array_equal(words_of(stream, LANES), model[2 * -(-size // (2 * LANES))])


def test_nothing_is_written_beside_what_is_to_be_filled():
    for fill in (rng.fill_uniforms, rng.fill_normals, rng.fill_exponentials):
        for size in range(40):
            room = np.full(size + 2, -7.0)
            fill(rng.stream(rng.key(1), np.uint64(0)), room[1:-1])
            assert room[0] == room[-1] == -7.0
            assert (room[1:-1] != -7.0).all()


def test_a_pair_has_the_lower_half_of_a_word_first():
    for size in (0, 1, 7, 8, 9, 30):
        pairs = np.empty((size, 2), np.uint32)
        stream = rng.stream(rng.key(4), np.uint64(1))
        rng.fill_pairs(stream, pairs)
        words = words_of(rng.stream(rng.key(4), np.uint64(1)), size)
        assert pairs.tolist() == [[word & 0xFFFFFFFF, word >> 32] for word in words.tolist()]


def test_uniforms_are_from_0_to_below_1():
    words = [0, (1 << 11) - 1, 1 << 11, WORD, WORD - (1 << 11), 1 << 63]
    expected = [0.0, 0.0, HALF_ULP, 1 - HALF_ULP, 1 - 2 * HALF_ULP, 0.5]
    assert filled(rng.fill_uniforms, stream_giving(words), 6).tolist() == expected


def test_exponentials_are_from_0_to_53_times_the_logarithm_of_2():
    found = filled(rng.fill_exponentials, stream_giving([WORD, 0, (1 << 63) - 1]), 3)
    assert found.tolist() == pytest.approx([0.0, 53 * math.log(2), math.log(2)], rel=2.0**-52, abs=0)
    assert found.max() < 36.8


def test_normals_reach_as_far_as_said_and_no_further():
    """The smallest uniform number gives the largest radius, at every angle that is a multiple of an eighth."""
    angles = [eighth << 61 | 1 for eighth in range(8)]
    normals = filled(rng.fill_normals, stream_giving([0] * 8, angles), 16).reshape(2, LANES)
    largest = math.sqrt(2 * 53 * math.log(2))
    turns = np.arange(8) * math.pi / 4
    assert normals == pytest.approx(largest * np.array([np.cos(turns), np.sin(turns)]), rel=1e-15, abs=1e-14)
    assert 8.5 < abs(normals).max() < 8.6
    assert normals[1, 0] == normals[0, 2] == normals[1, 4] == normals[0, 6] == 0  # a quarter's multiples are exact
    assert not filled(rng.fill_normals, stream_giving([WORD] * 8, angles), 16).any()  # 1.0 has no radius


# ---- arrays that are filled ----------------------------------------------------------------------------------------------

FILLS = {
    rng.fill_words: [np.uint64],
    rng.fill_uniforms: [np.float64, np.float32],
    rng.fill_normals: [np.float64, np.float32],
    rng.fill_exponentials: [np.float64, np.float32],
}


@numba.njit
def filled_in_nopython_code(key, words, uniforms, normals, exponentials, integers):
    stream = rng.stream(key, 0)
    rng.fill_words(stream, words)
    rng.fill_uniforms(stream, uniforms)
    rng.fill_normals(stream, normals)
    rng.fill_exponentials(stream, exponentials)
    rng.fill_integers(stream, -3, 9, integers)


def filled_from_python(key, *arrays):
    stream = rng.stream(key, 0)
    for fill, array in zip(FILLS, arrays, strict=False):
        fill(stream, array)
    rng.fill_integers(stream, -3, 9, arrays[-1])


@given(st.lists(st.integers(0, 9), min_size=0, max_size=4), st.sampled_from("CF"), SEEDS)
@settings(deadline=None, max_examples=60)
def test_any_shape_is_filled_in_the_order_of_its_memory(shape, order, seed):
    arrays = [np.full(shape, 111, dtype, order=order) for dtype in (np.uint64, float, np.float32, float, np.int16)]
    flat = [np.empty(array.size, array.dtype) for array in arrays]
    filled_from_python(rng.key(seed), *arrays)
    filled_from_python(rng.key(seed), *flat)
    for array, numbers in zip(arrays, flat, strict=True):
        assert array.ravel(order="K").tolist() == numbers.tolist()


@pytest.mark.parametrize("order", "CF")
def test_nopython_code_fills_the_same_shapes(order):
    kinds = (np.uint64, float, np.float32, float, np.int16)
    pairs = [[np.zeros((3, 8, 5), dtype, order=order) for dtype in kinds] for _ in range(2)]
    filled_in_nopython_code(rng.key(5), *pairs[0])
    filled_from_python(rng.key(5), *pairs[1])
    for one, other in zip(*pairs, strict=True):
        assert np.array_equal(one, other)


def test_singles_are_the_doubles_rounded_and_uniform_ones_cut():
    for fill in (rng.fill_normals, rng.fill_exponentials, rng.fill_uniforms):
        doubles, singles = np.empty(1003), np.empty(1003, np.float32)
        for out in (doubles, singles):
            fill(rng.stream(rng.key(6), 1), out)
        cut = np.floor(doubles * 2**24) / 2**24 if fill is rng.fill_uniforms else doubles
        assert np.array_equal(singles, cut.astype(np.float32))


def read_only(array):
    array.flags.writeable = False
    return array


REFUSED = {
    "another type": lambda: np.empty(8, np.int64),
    "gaps": lambda: np.empty((4, 8))[:, ::2],
    "backwards": lambda: np.empty(8)[::-1],
    "axes in another order": lambda: np.empty((2, 3, 4)).transpose(1, 0, 2),
    "read-only": lambda: read_only(np.empty(8)),
    "another byte order": lambda: np.empty(8, ">f8"),
    "a list": lambda: [0.0] * 8,
    "a number": lambda: 1.0,
    "nothing": lambda: None,
}


@pytest.mark.parametrize("out", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("fill", FILLS, ids=lambda fill: fill.__name__)
def test_an_array_that_does_not_fit_is_refused_in_one_line(fill, out):
    stream = rng.stream(rng.key(1), 0)
    before = stream.copy()
    with pytest.raises(TypeError, match="^out: expected a writable, contiguous array of ") as caught:
        fill(stream, out())
    assert "\n" not in str(caught.value)
    assert np.array_equal(stream, before)


NO_STREAMS = {
    "no rows": lambda: np.ones((0, 8), np.uint64),
    "few rows": lambda: np.ones((2, 8), np.uint64),
    "few lanes": lambda: np.ones((4, 4), np.uint64),
    "flat": lambda: np.ones(32, np.uint64),
    "signed": lambda: np.ones((4, 8), np.int64),
    "in another order": lambda: np.ones((4, 8), np.uint64, order="F"),
    "a generator": lambda: rng.generator(rng.key(1), 0),
    "a key": lambda: rng.key(1),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("stream", NO_STREAMS.values(), ids=NO_STREAMS)
def test_what_is_no_stream_is_refused_and_nothing_is_written(stream):
    out = np.full(16, -7.0)
    with pytest.raises(TypeError, match=r"^stream: expected a stream, as rng.stream\(key, number\) returns it, got "):
        rng.fill_uniforms(stream(), out)
    assert (out == -7.0).all()


@numba.njit
def fill_in_nopython_code(stream, out):
    rng.fill_uniforms(stream, out)


def test_nopython_code_checks_a_states_shape():
    around = np.full((8, 8), 77, np.uint64)
    for rows in (0, 1, 2, 3, 5):
        with pytest.raises(ValueError, match=r"^stream: expected an array of shape \(4, 8\)"):
            fill_in_nopython_code(around[:rows], np.empty(16))
    with pytest.raises(ValueError, match=r"^stream: expected an array of shape \(4, 8\)"):
        fill_in_nopython_code(np.full((4, 4), 77, np.uint64), np.empty(16))
    assert (around == 77).all()


def test_a_lane_of_zeros_is_an_error():
    for lanes in (slice(None), slice(3, 4)):
        stream = rng.stream(rng.key(1), 0)
        stream[:, lanes] = 0
        for fill in (rng.fill_uniforms, fill_in_nopython_code):
            with pytest.raises(ValueError, match="^a lane of the state is zero; take streams from rng.stream"):
                fill(stream, np.empty(16))


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: fill_in_nopython_code(np.ones(4), np.empty(3)), "fill_uniforms: stream: expected a stream, as rng.stream"),
        (lambda: fill_in_nopython_code(np.ones((4, 8), np.uint64), np.empty(3, int)), "array of float64 or float32, got "),
        (lambda: stream_in_nopython_code(rng.key(1), 1.5), "stream: number: expected an integer, got float64"),
        (lambda: stream_in_nopython_code(7, 1), "stream: key: expected a key, as rng.key(seed) returns it, got int64"),
    ],
    ids=["stream", "array", "number", "forgotten key"],
)
def test_nopython_code_with_a_wrong_type_is_told_what_is_expected(call, told):
    with pytest.raises(numba.TypingError) as caught:
        call()
    assert told in str(caught.value)


# ---- names ---------------------------------------------------------------------------------------------------------------


@numba.njit
def stream_in_nopython_code(key, number):
    return rng.stream(key, number)


@given(SEEDS, WORDS)
@example(0, 1 << 63)
@example(0, WORD)
@settings(deadline=None, max_examples=20)
def test_every_number_below_two_to_the_64_names_a_stream(seed, number):
    key = rng.key(seed)
    assert np.array_equal(rng.stream(key, number), stream_in_nopython_code(key, np.uint64(number)))
    assert rng.stream(key, number).T.tolist() == [lane_state(key, number, FREE, lane) for lane in range(LANES)]


@pytest.mark.parametrize("make", [rng.stream, rng.generator], ids=lambda make: make.__name__)
def test_what_is_no_number_or_no_key_names_no_stream(make):
    for number in (1.5, "1", None, [1], np.float64(2)):
        with pytest.raises(TypeError, match="^number: expected an integer, got "):
            make(rng.key(1), number)
    for number in (-1, 2**64, -(2**64)):
        with pytest.raises(ValueError, match=r"^number: expected an integer from 0 to below 2\*\*64, got "):
            make(rng.key(1), number)
    for key in (7, None, "key", (1, 2, 3), np.array([1, 2], np.uint64)):
        with pytest.raises(TypeError, match=r"^key: expected a key, as rng.key\(seed\) returns it, got "):
            make(key, 0)


def test_a_negative_number_is_an_error_in_nopython_code():
    with pytest.raises(ValueError, match=r"expected an integer from 0 to below 2\*\*64"):
        stream_in_nopython_code(rng.key(1), -1)


# ---- keys of paths -------------------------------------------------------------------------------------------------------


@given(SEEDS, st.lists(SEEDS, max_size=3))
@settings(deadline=None, max_examples=50)
def test_a_key_of_a_path_is_what_threefry_makes_of_it(seed, path):
    expected = seed & WORD, seed >> 64
    for number in path:
        expected = tuple(threefry([*expected, 0, 0], [number & WORD, number >> 64, keys.KEY_DOMAIN, 0])[:2])
    assert tuple(map(int, rng.key(seed, *path))) == expected
    assert rng.key([seed, *path]) == rng.key((seed, *path)) == rng.key(rng.key(seed), *path) == rng.key(seed, *path)


@numba.njit
def keys_in_nopython_code(seed, a, b):
    return rng.key(seed), rng.key(seed, a), rng.key(seed, a, b), rng.key(rng.key(seed), a)


@given(WORDS, WORDS, st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=30)
def test_nopython_code_makes_the_same_keys(seed, a, b):
    found = keys_in_nopython_code(np.uint64(seed), np.uint64(a), b)
    assert found == (rng.key(seed), rng.key(seed, a), rng.key(seed, a, b), rng.key(seed, a))
    assert all(isinstance(key, rng.Key) for key in found)


def test_a_seed_sequence_is_a_seed():
    one, other = np.random.SeedSequence(5).spawn(2)
    assert rng.key(one) == rng.key(np.random.SeedSequence(5, spawn_key=(0,)))
    assert rng.key(one) == rng.Key(*one.generate_state(2, np.uint64))
    assert len({rng.key(5), rng.key(np.random.SeedSequence(5)), rng.key(one), rng.key(other)}) == 4
    assert rng.key(np.array([7, 3])) == rng.key(7, 3)


def test_paths_are_apart():
    keys_of_paths = {rng.key(7, *path) for path in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**64,), (0, 0, 0))}
    assert len(keys_of_paths) == 8


def test_what_is_no_path_is_an_error():
    for path, error in ((1.0, TypeError), ("1", TypeError), (None, TypeError), (-1, ValueError), (2**128, ValueError)):
        with pytest.raises(error, match="^path: expected an integer"):
            rng.key(7, path)
    for seed, error in (([], ValueError), ([7, 1.5], TypeError), ([7, -1], ValueError)):
        with pytest.raises(error, match="^seed: expected "):
            rng.key(seed)
