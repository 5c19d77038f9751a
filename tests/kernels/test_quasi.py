"""Sobol points: SciPy's when they are not scrambled, nets in any case, any slice alike, in Python and in nopython code."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import NormalDist

import numba
import numpy as np
import pytest
from flame_fast.kernels import keys, quasi
from flame_fast.kernels.quasi import directions
from flame_fast.kernels.quasi.points import BLOCK, TOGETHER
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flame_fast import Runner

PATIENCE_S = 60
LIMIT = 1 << 32
DIMENSIONS = 21201

draws = pytest.mark.parametrize("draw", [quasi.sobol, quasi.sobol_normals], ids=lambda draw: draw.__name__)
fills = pytest.mark.parametrize("fill", [quasi.fill_sobol, quasi.fill_sobol_normals], ids=lambda fill: fill.__name__)


# ---- the sequence --------------------------------------------------------------------------------------------------------


def test_the_first_points():
    """Of Joe and Kuo's own program, in the order of the Gray code."""
    assert quasi.sobol(8, 4, scramble=False).tolist() == [
        [0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.5, 0.5],
        [0.75, 0.25, 0.25, 0.25],
        [0.25, 0.75, 0.75, 0.75],
        [0.375, 0.375, 0.625, 0.875],
        [0.875, 0.875, 0.125, 0.375],
        [0.625, 0.125, 0.875, 0.625],
        [0.125, 0.625, 0.375, 0.125],
    ]


def test_all_bits_of_a_number_have_scipys_direction_numbers():
    qmc = pytest.importorskip("scipy.stats.qmc")
    theirs = qmc.Sobol(DIMENSIONS, scramble=False, bits=32)._sv
    found, high = np.zeros(DIMENSIONS), []
    for bit in range(32):
        number = (1 << bit + 1) - 1  # the Gray code of ones has the highest bit only
        high.append(quasi.sobol(1, DIMENSIONS, scramble=False, first=number, out=found[None])[0].copy())
    assert np.array_equal(np.array(high), theirs.T * 2.0**-32)


@pytest.mark.filterwarnings("ignore:The balance properties")
@pytest.mark.parametrize(("n", "d", "first"), [(1 << 12, 40, 0), (33, DIMENSIONS, 0), (37, 300, 12345)])
def test_without_scrambling_they_are_scipys(n, d, first):
    qmc = pytest.importorskip("scipy.stats.qmc")
    theirs = qmc.Sobol(d, scramble=False, bits=32)
    if first:
        theirs.fast_forward(first)
    assert np.array_equal(quasi.sobol(n, d, scramble=False, first=first), theirs.random(n))


def test_the_file_has_the_numbers_of_scipy():
    """And is made like this, if they ever change."""
    stats = pytest.importorskip("scipy.stats")
    theirs = np.load(Path(stats.__file__).with_name("_sobol_direction_numbers.npz"))
    words = []
    for polynomial, initial in zip(theirs["poly"].tolist(), theirs["vinit"].tolist(), strict=True):
        degree = polynomial.bit_length() - 1
        record, at = polynomial if degree else 0, directions.POLYNOMIAL
        for j, number in enumerate(initial[:degree]):
            record |= _reversed(number, j) << at
            at += j
        words += [record >> 64 * part & (1 << 64) - 1 for part in range(directions.WORDS)]
    assert [*words, 0] == directions.NUMBERS.tolist()
    assert len(words) == directions.WORDS * directions.DIMENSIONS


def _reversed(number, digits):
    """Return the upper `digits` of a number's digits + 1 bits, the highest one lowest."""
    return int(f"{number:0{digits + 1}b}"[digits - 1 :: -1], 2) if digits else 0


def test_the_last_points():
    last = quasi.sobol(TOGETHER + 3, 5, 7, first=LIMIT - TOGETHER - 3)
    assert ((last >= 0) & (last < 1)).all()
    assert np.array_equal(last[-1:], quasi.sobol(1, 5, 7, first=LIMIT - 1))
    whole = quasi.sobol(1, 2, scramble=False, first=LIMIT - 1)
    assert whole[0, 0] == 2.0**-32  # the Gray code of ones has the highest bit only


# ---- nets ----------------------------------------------------------------------------------------------------------------


def counts_in(points, digits):
    """Return how many points each elementary interval has that is cut `digits[j]` times in half along dimension j."""
    place = np.zeros(len(points), np.int64)
    for column, number in zip(points.T, digits, strict=True):
        place = (place << number) | np.floor(column * (1 << number)).astype(np.int64)
    return np.bincount(place, minlength=1 << sum(digits))


@pytest.mark.parametrize("scramble", [False, True])
@pytest.mark.parametrize("block", [0, 1, 5])
def test_two_dimensions_are_nets_of_quality_0(scramble, block):
    m = 9
    points = quasi.sobol(1 << m, 2, 3, first=block << m, scramble=scramble)
    for cuts in range(m + 1):
        assert (counts_in(points, (cuts, m - cuts)) == 1).all(), cuts


def test_every_dimension_is_stratified():
    points = quasi.sobol(1 << 8, DIMENSIONS, 3, first=3 << 8)
    assert (np.sort(np.floor(points * (1 << 8)), axis=0) == np.arange(1 << 8)[:, None]).all()


def test_scrambling_keeps_the_quality():
    """All elementary intervals of 3 dimensions have as many points as before, in another order."""
    m = 8
    plain, scrambled = (quasi.sobol(1 << m, 3, 3, scramble=scramble) for scramble in (False, True))
    for digits in product(range(m + 1), repeat=3):
        if sum(digits) <= m:
            assert np.array_equal(np.sort(counts_in(plain, digits)), np.sort(counts_in(scrambled, digits))), digits


def test_scrambled_points_are_uniform_over_seeds():
    """A point by itself is a random one of the cube, whatever its number."""
    seeds = 1 << 11
    points = np.array([quasi.sobol(6, 2, seed) for seed in range(seeds)])
    for number in (0, 1, 5):
        counts = counts_in(points[:, number], (3, 3))
        assert (np.abs(counts - seeds / 64) < 5.5 * np.sqrt(seeds / 64)).all(), number
    ends = np.floor(points * 2.0**53).astype(np.int64)  # down to the last digit
    assert np.array_equal(ends * 2.0**-53, points)
    assert abs((ends & 1).mean() - 0.5) < 5.5 / np.sqrt(4 * points.size)


def test_the_variance_falls_faster_than_that_of_a_lattice():
    """For a smooth integrand about as n**-3, and no slower than n**-2.3: from 2**5 to 2**11 points, 2**13.8-fold."""

    def estimate(n, seed):
        x = quasi.sobol(n, 3, seed)
        return np.prod(x * np.exp(x), axis=1).mean()

    errors = {n: np.array([estimate(n, seed) for seed in range(40)]) - 1.0 for n in (1 << 5, 1 << 11)}
    variances = {n: (each**2).mean() for n, each in errors.items()}
    assert variances[1 << 5] / variances[1 << 11] > 2**13.8
    for each in errors.values():  # without bias
        assert abs(each.mean()) < 5 * each.std() / np.sqrt(len(each))


# ---- normal numbers ------------------------------------------------------------------------------------------------------


def test_normal_numbers_are_the_quantiles_of_the_points():
    points, normals = quasi.sobol(1000, 3, 5), quasi.sobol_normals(1000, 3, 5)
    middles = (np.floor(points * 2.0**52) + 0.5) * 2.0**-52
    wanted = [NormalDist().inv_cdf(each) for each in middles.ravel().tolist()]
    assert normals.ravel().tolist() == pytest.approx(wanted, rel=1e-14, abs=1e-15)


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    z = quasi.sobol_normals(1 << 14, 6, 5)
    assert abs(z.mean(0)).max() < 1e-3
    assert abs(np.cov(z.T) - np.eye(6)).max() < 5e-3
    assert abs((z**4).mean(0) - 3).max() < 0.05


# ---- any slice -----------------------------------------------------------------------------------------------------------

WHOLE = {d: {draw: draw(600, d, 11) for draw in (quasi.sobol, quasi.sobol_normals)} for d in (1, 3, 17)}


@draws
@given(st.sampled_from([1, 3, 17]), st.integers(0, 600), st.integers(0, 600))
@example(3, TOGETHER, 2 * TOGETHER)
@example(3, TOGETHER - 1, TOGETHER + 1)
@example(1, 5, 6)
@example(17, 0, 600)
@settings(deadline=None, max_examples=60)
def test_a_slice_is_that_of_the_whole(draw, d, begin, end):
    begin, end = sorted((begin, end))
    found = draw(end - begin, d, 11, first=begin)
    assert np.array_equal(found, WHOLE[d][draw][begin:end])
    assert (found.shape, found.dtype) == ((end - begin, d), np.float64)


@draws
def test_blocks_fit_together(draw):
    d = 40
    rows = BLOCK // d
    whole = draw(3 * rows + 5, d, 2, first=3)
    for begin in (0, rows - 20, rows, 2 * rows - 3):
        assert np.array_equal(whole[begin : begin + 50], draw(50, d, 2, first=3 + begin)), begin
    assert np.array_equal(whole[:, :7], draw(3 * rows + 5, 7, 2, first=3))  # dimensions too are their own


@draws
def test_out_is_filled_and_returned(draw):
    out = np.full((50, 3), np.nan)
    assert draw(50, 3, 11, out=out) is out
    assert np.array_equal(out, WHOLE[3][draw][:50])


def test_seeds_are_those_of_keys():
    key = keys.key(7, 3)
    assert np.array_equal(quasi.sobol(9, 2, key), quasi.sobol(9, 2, [7, 3]))
    assert not np.array_equal(quasi.sobol(9, 2, 7), quasi.sobol(9, 2, [7, 3]))
    assert not np.array_equal(quasi.sobol(9, 2), quasi.sobol(9, 2))


# ---- nopython code -------------------------------------------------------------------------------------------------------


@numba.njit
def filled_in_nopython_code(key, first, out, normals):
    quasi.fill_sobol(key, first, out)
    quasi.fill_sobol_normals(key, first, normals)


def test_fills_are_the_same_in_nopython_code():
    for first, n, d in ((0, 40, 3), (5, 13, 17), (599, 1, 1), (0, 0, 3)):
        out, normals, points, others = (np.full((n, d), np.nan) for _ in range(4))
        filled_in_nopython_code(keys.key(11), first, out, normals)
        quasi.fill_sobol(11, first, points)
        quasi.fill_sobol_normals(keys.key(11), first, others)
        assert np.array_equal(out, WHOLE[d][quasi.sobol][first : first + n])
        assert np.array_equal(normals, WHOLE[d][quasi.sobol_normals][first : first + n])
        assert np.array_equal(points, out)
        assert np.array_equal(others, normals)


def test_in_nopython_code_numbers_out_of_range_are_errors():
    out = np.empty((4, 2))
    for first in (-1, LIMIT - 3):
        with pytest.raises(ValueError, match=r"^first: expected from 0 to 2\*\*32 less the number of rows$"):
            filled_in_nopython_code(keys.key(11), first, out, out)
    with pytest.raises(ValueError, match="^out: expected from 1 to 21201 columns"):
        filled_in_nopython_code(keys.key(11), 0, np.empty((1, DIMENSIONS + 1)), out)


def test_in_nopython_code_wrong_types_are_errors_of_one_line():
    out = np.zeros((4, 2))
    for arguments, expected in {
        (7, 0): "expected a key, as rng.key returns it, got int64",
        (keys.key(7), 0.0): "expected an integer as the number of the first point, got float64",
    }.items():
        with pytest.raises(numba.TypingError) as caught:
            filled_in_nopython_code(*arguments, out, out)
        assert f"fill_sobol(key, first, out): {expected}" in str(caught.value)
    for wrong in (out[0], out.astype(np.float32), np.asfortranarray(out)):
        with pytest.raises(numba.TypingError) as caught:
            filled_in_nopython_code(keys.key(7), 0, out, wrong)
        assert "expected a C-contiguous, writable float64 array of shape (n, d), got array(" in str(caught.value)


# ---- errors --------------------------------------------------------------------------------------------------------------


@draws
def test_what_is_out_of_range_is_an_error(draw):
    for name, arguments in {"n": (-1, 2), "d": (2, -1)}.items():
        with pytest.raises(ValueError, match=f"^{name}: expected an integer of at least 0, got -1$"):
            draw(*arguments)
    for d in (0, DIMENSIONS + 1):
        with pytest.raises(ValueError, match=f"^d: expected from 1 to 21201 dimensions, got {d}$"):
            draw(4, d)
    for n, first in ((LIMIT + 1, 0), (1, LIMIT), (2, LIMIT - 1), (1, 2**70)):
        with pytest.raises(ValueError, match=r"^first, n: expected first \+ n of at most 2\*\*32, got "):
            draw(n, 2, first=first)
    for name, arguments, first in (("n", (1.0, 2), 0), ("d", (1, "2"), 0), ("first", (1, 2), None)):
        with pytest.raises(TypeError, match=f"^{name}: expected an integer, got "):
            draw(*arguments, first=first)
    with pytest.raises(TypeError, match="^seed: expected an integer"):
        draw(4, 2, 1.5)


BAD_ARRAYS = [
    (TypeError, [[1.0, 2.0]], "got "),
    (TypeError, np.empty((4, 2), np.float32), "got of float32"),
    (ValueError, np.empty(8), "got one of shape"),
    (ValueError, np.empty((4, 4))[:, ::2], "np.ascontiguousarray"),
    (ValueError, np.empty((2, 4)).T, "got one with strides"),
    (ValueError, np.frombuffer(bytes(64)).reshape(4, 2), "read-only"),
]


@pytest.mark.parametrize(("error", "out", "words"), BAD_ARRAYS)
def test_what_cannot_be_filled_is_an_error(error, out, words):
    for call in (lambda: quasi.sobol(4, 2, 7, out=out), lambda: quasi.fill_sobol_normals(7, 0, out)):
        with pytest.raises(error, match="^out: expected a C-contiguous, writable float64 array of shape ") as caught:
            call()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"of shape \(4, 3\), got one of shape \(4, 2\)"):
        quasi.sobol(4, 3, 7, out=np.empty((4, 2)))


@fills
def test_fills_check_their_numbers(fill):
    with pytest.raises(ValueError, match="^d: expected from 1 to 21201"):
        fill(7, 0, np.empty((3, 0)))
    with pytest.raises(ValueError, match=r"^first, n: "):
        fill(7, LIMIT - 2, np.empty((3, 2)))
    with pytest.raises(TypeError, match="^first: expected an integer"):
        fill(7, 0.5, np.empty((3, 2)))


# ---- threads and workers -------------------------------------------------------------------------------------------------

BY_THREADS = """\
import hashlib
import numba, numpy as np
from flame_fast.kernels import quasi
for threads in (1, 2, 3):
    numba.set_num_threads(threads)
    z = quasi.sobol_normals(60_003, 33, 7, first=9)
    paths = quasi.brownian_bridge(z, np.arange(1.0, 34.0))
    print(*(hashlib.sha256(array).hexdigest() for array in (quasi.sobol(60_003, 33, 7, first=9), z, paths)))
"""


def test_one_two_and_three_threads_give_the_same():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3"}
    command = [sys.executable, "-c", BY_THREADS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    one, two, three = done.stdout.splitlines()
    assert one == two == three
    assert len(set(one.split())) == 3


def drawn_in(number):
    return os.getpid(), quasi.sobol_normals(64, 5, 7, first=64 * number)


def test_workers_share_out_a_sequence(project):
    whole = quasi.sobol_normals(64 * 8, 5, 7)
    with Runner("quasi", workers=2) as rr:
        parts = rr.get([rr.service(drawn_in)(number) for number in range(8)])
    assert np.array_equal(np.concatenate([part for _, part in parts]), whole)


INTERRUPTED = """\
import signal
import numpy as np
from flame_fast.kernels import quasi
from flame_fast.kernels.quasi import points
signal.signal(signal.SIGINT, signal.default_int_handler)
quasi.sobol(100, 2, 7)
fill, pieces = points._fill_by_turns, 0
def announce(*args):
    global pieces
    pieces += 1
    if pieces == 2:
        print("now", flush=True)
    return fill(*args)
points._fill_by_turns = announce
row = np.empty((1 << 16, 64))
while True:
    quasi.sobol_normals(1 << 16, 64, 7, out=row)
"""


def test_ctrl_c_ends_a_long_draw():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], env=environment, **pipes) as process:
        try:
            assert select.select([process.stdout], [], [], PATIENCE_S)[0]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert errors.endswith("KeyboardInterrupt\n")
