"""Generators of single numbers: their place among the streams, the same from Python and in nopython code, and errors."""

from __future__ import annotations

import pickle

import numba
import numpy as np
import pytest
from flame_fast.kernels import domains, rng
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.rng.drawing import SIZE
from flame_fast.kernels.rng.filling import stream_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pvalues import ODD, chi_square_of_cells, chi_square_of_normals, kolmogorov_smirnov

#: Numbers of each kind in any order.
KINDS = ("random", "normal", "exponential", "integers")


class Model:
    """A generator in words: each kind takes its numbers from the stream by steps of all lanes, when it needs them."""

    def __init__(self, key, number):
        self.stream = stream_of(key, np.uint64(number), domains.GENERATOR)
        self.ahead = {"word": [], "normal": [], "exponential": []}

    def take(self, kind):
        if not self.ahead[kind]:
            out = np.empty(2 * LANES if kind == "normal" else LANES, np.uint64 if kind == "word" else float)
            fills = {"word": rng.fill_words, "normal": rng.fill_normals, "exponential": rng.fill_exponentials}
            fills[kind](self.stream, out)
            self.ahead[kind] = out.tolist()
        return self.ahead[kind].pop(0)

    def draw(self, kind):
        if kind == "random":
            return (self.take("word") >> 11) * 2.0**-53
        if kind == "integers":
            return self.take("word") * 1000 >> 64
        return self.take(kind)


DRAWS = {
    "random": rng.random,
    "normal": rng.normal,
    "exponential": rng.exponential,
    "integers": lambda g: rng.integers(g, 1000),
}


@numba.njit
def drawn_in_nopython_code(g, kinds):
    found = np.empty(kinds.size)
    for place, kind in enumerate(kinds):
        if kind == 0:
            found[place] = rng.random(g)
        elif kind == 1:
            found[place] = rng.normal(g)
        elif kind == 2:
            found[place] = rng.exponential(g)
        else:
            found[place] = rng.integers(g, 1000)
    return found


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1), st.lists(st.sampled_from(range(4)), max_size=80))
@settings(deadline=None, max_examples=40)
def test_numbers_of_all_kinds_in_any_order_are_those_of_the_model(seed, number, kinds):
    key = rng.key(seed)
    model, g = Model(key, number), rng.generator(key, number)
    expected = [model.draw(KINDS[kind]) for kind in kinds]
    assert [DRAWS[KINDS[kind]](g) for kind in kinds] == expected
    assert drawn_in_nopython_code(rng.generator(key, number), np.array(kinds, np.int64)).tolist() == expected


def test_parameters_shift_and_scale():
    for draw, given_ in ((rng.normal, (3.0, 0.5)), (rng.normal, (1, 2)), (rng.exponential, (4,)), (rng.normal, (7.5,))):
        g, plain = rng.generator(rng.key(1), 0), rng.generator(rng.key(1), 0)
        loc, scale = given_ if len(given_) == 2 else (0.0, *given_) if draw is rng.exponential else (*given_, 1.0)
        assert [draw(g, *given_) for _ in range(20)] == [loc + scale * draw(plain) for _ in range(20)]
    g = rng.generator(rng.key(1), 0)
    assert rng.normal(g, scale=0.0, loc=5) == 5.0
    with pytest.raises(ValueError, match="^scale: expected a number of at least 0$"):
        rng.normal(g, 0, -1)
    with pytest.raises(ValueError, match="^scale: expected a number of at least 0$"):
        rng.exponential(g, float("nan"))


@numba.njit
def integers_in_nopython_code(g, low, high, count):
    return np.array([rng.integers(g, low, high) for _ in range(count)])


@pytest.mark.parametrize("low, high", [(0, 1), (-3, 4), (-(2**63), 2**63 - 1), (2**62, 2**62 + 5), (-(2**62), 2**62 + 1)])
def test_integers_are_in_their_range_and_the_same_from_both_sides(low, high):
    one, other = rng.generator(rng.key(2), 5), rng.generator(rng.key(2), 5)
    found = [rng.integers(one, low, high) for _ in range(200)]
    assert found == integers_in_nopython_code(other, low, high, 200).tolist()
    assert all(low <= number < high for number in found)
    assert np.array_equal(one, other)


def test_all_of_64_bits_can_be_drawn():
    g, words = rng.generator(rng.key(2), 5), rng.generator(rng.key(2), 5)
    model = Model(rng.key(2), 5)
    assert [rng.integers(g, -(2**63), 2**63) + 2**63 for _ in range(9)] == [model.take("word") for _ in range(9)]
    assert not np.array_equal(g, words)


def test_integers_have_no_bias_where_a_third_of_the_words_is_refused():
    g = rng.generator(rng.key(3), 0)
    low, high = 0, 3 << 61
    found = integers_in_nopython_code(g, low, high, 600_000)
    assert chi_square_of_cells(found >> 56, 3 << 5) > ODD


@numba.njit
def many(g, count):
    uniforms, normals, exponentials = np.empty(count), np.empty(count), np.empty(count)
    for i in range(count):
        uniforms[i] = rng.random(g)
        normals[i] = rng.normal(g)
        exponentials[i] = rng.exponential(g)
    return uniforms, normals, exponentials


def test_kinds_drawn_by_turns_are_distributed_as_said_and_independent():
    uniforms, normals, exponentials = many(rng.generator(rng.key(4), 1), 1 << 19)
    assert kolmogorov_smirnov(uniforms) > ODD
    assert kolmogorov_smirnov(-np.expm1(-exponentials)) > ODD
    assert chi_square_of_normals(normals) > ODD
    ranks = [np.argsort(np.argsort(values)) for values in (uniforms, normals, exponentials)]
    assert abs(np.corrcoef(ranks) - np.eye(3)).max() < 5 / 2**9.5


def test_a_generator_shares_nothing_with_the_stream_of_its_name():
    g, stream = rng.generator(rng.key(5), 6), rng.stream(rng.key(5), 6)
    out = np.empty(100)
    rng.fill_uniforms(stream, out)
    assert not {rng.random(g) for _ in range(100)} & set(out.tolist())


def test_a_copy_and_a_pickle_go_on_alike():
    g = rng.generator(rng.key(7), 0)
    for draw in DRAWS.values():
        draw(g)
    copies = [g.copy(), pickle.loads(pickle.dumps(g))]
    expected = [draw(g) for draw in DRAWS.values() for _ in range(20)]
    assert all([draw(copy) for draw in DRAWS.values() for _ in range(20)] == expected for copy in copies)


# ---- errors --------------------------------------------------------------------------------------------------------------

NO_GENERATORS = {
    "a stream": lambda: rng.stream(rng.key(1), 0),
    "short": lambda: np.ones(SIZE - 1, np.uint64),
    "empty": lambda: np.ones(0, np.uint64),
    "signed": lambda: np.ones(SIZE, np.int64),
    "with gaps": lambda: np.ones(2 * SIZE, np.uint64)[::2],
    "NumPy's": lambda: np.random.default_rng(1),
    "a key": lambda: rng.key(1),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("g", NO_GENERATORS.values(), ids=NO_GENERATORS)
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_what_is_no_generator_is_refused_in_one_line(draw, g):
    with pytest.raises(
        TypeError, match=r"^g: expected a generator, as rng.generator\(key, number\) returns it, got "
    ) as caught:
        draw(g())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, SIZE - 1, SIZE + 1])
def test_nopython_code_checks_a_generators_size_and_writes_nothing(length):
    around = np.full(2 * SIZE, 77, np.uint64)
    for kind in range(4):
        with pytest.raises(ValueError, match=r"^g: no generator; take it from rng.generator\(\)$"):
            drawn_in_nopython_code(around[:length], np.array([kind]))
    assert (around == 77).all()


def test_a_state_of_zeros_is_an_error():
    g = rng.generator(rng.key(1), 0)
    g[:32] = 0
    for kind in range(4):
        with pytest.raises(ValueError, match="^a lane of the state is zero; take"):
            drawn_in_nopython_code(g.copy(), np.array([kind]))


def test_a_count_beyond_the_numbers_drawn_ahead_reads_nothing_else():
    """As a damaged state may have it."""
    g = rng.generator(rng.key(1), 0)
    g[-3:] = 2**63
    assert (
        drawn_in_nopython_code(g, np.arange(4)).tolist()
        == drawn_in_nopython_code(rng.generator(rng.key(1), 0), np.arange(4)).tolist()
    )


@pytest.mark.parametrize("arguments", [("x",), (None,), ([1.0],), (1j,), (0.0, "1")])
def test_what_is_no_number_is_refused(arguments):
    with pytest.raises(TypeError, match="^(loc|scale): expected a number, got "):
        rng.normal(rng.generator(rng.key(1), 0), *arguments)


@numba.njit
def normal_in_nopython_code(g, loc):
    return rng.normal(g, loc)


def test_nopython_code_with_a_wrong_type_is_told_what_is_expected():
    g = rng.generator(rng.key(1), 0)
    for call, told in (
        (
            lambda: normal_in_nopython_code(np.ones(67), 1.0),
            "normal: g: expected a generator, as rng.generator(key, number)",
        ),
        (lambda: normal_in_nopython_code(g, "x"), "normal: loc: expected a number, got unicode_type"),
        (lambda: integers_in_nopython_code(g, 1.5, 3, 1), "integers: low: expected an integer, got float64"),
    ):
        with pytest.raises(numba.TypingError) as caught:
            call()
        assert told in str(caught.value)
    assert normal_in_nopython_code(g, 1) > -10
