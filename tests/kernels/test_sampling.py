"""Arrays of random numbers: their place in the streams, their shapes and errors, and draws in a Runner's workers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from flame_fast.kernels import domains, rng, sampling
from flame_fast.kernels.jit.block_kernels import BLOCK
from flame_fast.kernels.rng.filling import stream_of
from pvalues import ODD, chi_square_of_cells

from flame_fast import Runner

KINDS = {
    sampling.pairs: (rng.fill_pairs, np.uint32, domains.PAIRS),
    sampling.uniforms: (rng.fill_uniforms, np.float64, domains.UNIFORMS),
    sampling.normals: (rng.fill_normals, np.float64, domains.NORMALS),
    sampling.exponentials: (rng.fill_exponentials, np.float64, domains.EXPONENTIALS),
}
FLOATS = (sampling.uniforms, sampling.normals, sampling.exponentials)
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 9]

each_kind = pytest.mark.parametrize("draw", KINDS, ids=lambda draw: draw.__name__)
of_floats = pytest.mark.parametrize("draw", FLOATS, ids=lambda draw: draw.__name__)


def expected(draw, size, seed):
    """Draw from the documented streams, one for each block of 65,536 numbers."""
    fill, dtype, domain = KINDS[draw]
    out = np.empty((size, 2) if draw is sampling.pairs else size, dtype)
    for block in range(-(-size // BLOCK)):
        fill(stream_of(rng.key(seed), np.uint64(block), domain), out[block * BLOCK : (block + 1) * BLOCK])
    return out


@each_kind
def test_any_size_has_the_numbers_of_its_blocks_streams(draw):
    for size in SIZES:
        found = draw(size, seed=21)
        wanted = expected(draw, size, 21)
        assert found.dtype == wanted.dtype, size
        assert found.shape == wanted.shape, size
        assert np.array_equal(found, wanted), size


@each_kind
def test_an_array_is_the_callers_own_and_any_integer_is_its_size(draw):
    found = draw(100, 3)
    assert found.flags.c_contiguous
    assert found.flags.writeable
    again = draw(100, 3)
    found[:] = 0
    assert again.any()
    for size in (np.int8(5), np.uint64(5), np.array(5)):
        assert np.array_equal(draw(size, np.int64(3)), draw(5, 3))
    assert len(draw(True, 3)) == 1


@each_kind
def test_what_is_no_size_or_no_seed_is_an_error(draw):
    for size in (1.0, "5", [5.0], np.float64(5), {5}):
        with pytest.raises(TypeError, match="^size: expected an integer or a tuple of integers, got ") as caught:
            draw(size, 3)
        assert "\n" not in str(caught.value)
    for size in (-1, np.int64(-7), (3, -1)):
        with pytest.raises(ValueError, match="^size: expected an integer of at least 0, got "):
            draw(size, 3)
    for seed, error in ((1.5, TypeError), ("1", TypeError), (-1, ValueError), (2**128, ValueError), ([], ValueError)):
        with pytest.raises(error, match="^seed: expected an integer"):
            draw(5, seed)
    for size in (2**57, 2**60, 2**61, 2**63, 2**64, 2**100, (2**40, 2**40)):  # more bytes than any address space has
        with pytest.raises(MemoryError):
            draw(size, 3)


@of_floats
def test_any_shape_has_the_numbers_in_the_order_of_its_memory(draw):
    flat = draw(3 * 5 * 7, 9)
    assert np.array_equal(draw((3, 5, 7), 9), flat.reshape(3, 5, 7))
    assert np.array_equal(draw([3, 5, 7], seed=9), flat.reshape(3, 5, 7))
    assert draw((), 9) == flat[0]
    assert draw((4, 0, 2), 9).shape == (4, 0, 2)
    for order in "CF":
        out = np.full((3, 5, 7), np.nan, order=order)
        assert draw(out=out, seed=9) is out
        assert draw((3, 5, 7), 9, out=out) is out
        assert np.array_equal(out.ravel(order="K"), flat)


@of_floats
def test_singles_are_the_doubles_rounded(draw):
    size = BLOCK + 100
    singles, doubles = draw(size, 4, dtype=np.float32), draw(size, 4)
    assert singles.dtype == np.float32
    doubles = np.floor(doubles * 2**24) / 2**24 if draw is sampling.uniforms else doubles
    assert np.array_equal(singles, doubles.astype(np.float32))
    out = np.empty(size, np.float32)
    assert np.array_equal(draw(out=out, seed=4), singles)


@of_floats
def test_what_is_no_array_to_fill_is_refused_and_left(draw):
    for out in (np.zeros(8, int), np.zeros((4, 8))[:, ::2], np.zeros(8, ">f8"), [0.0], np.broadcast_to(np.zeros(1), 8)):
        with pytest.raises(TypeError, match="^out: expected a writable, contiguous array of float64 or float32, got "):
            draw(out=out)
        assert not np.any(out)
    with pytest.raises(ValueError, match=r"^size: expected \(8,\), the shape of out, got 9$"):
        draw(9, out=np.zeros(8))
    with pytest.raises(TypeError, match="^size: expected an integer or a tuple of integers, got None without an array"):
        draw()
    for dtype in (int, "float16", "nonsense", None.__class__, np.longdouble):
        with pytest.raises(TypeError, match="^dtype: expected float64 or float32, got "):
            draw(8, dtype=dtype)


def test_a_seed_may_be_a_key_a_list_or_a_seed_sequence():
    for seed in ([7, 3], (7, 3), rng.key(7, 3), np.array([7, 3])):
        assert np.array_equal(sampling.normals(100, seed), sampling.normals(100, rng.key(7, 3)))
    sequence = np.random.SeedSequence(7)
    assert np.array_equal(sampling.normals(100, sequence), sampling.normals(100, rng.key(sequence)))
    assert not np.array_equal(sampling.normals(100, [7, 3]), sampling.normals(100, [7, 4]))


# ---- integers ------------------------------------------------------------------------------------------------------------

RANGES = {
    "a coin": (0, 2, np.int8),
    "a die": (1, 7, np.int64),
    "from below zero": (-5, 6, np.int16),
    "a byte": (0, 256, np.uint8),
    "all of 32 bits": (-(2**31), 2**31, np.int32),
    "all of 64 bits": (-(2**63), 2**63, np.int64),
    "all of 64 bits without sign": (0, 2**64, np.uint64),
    "half are refused": (0, 2**63 + 1, np.uint64),
    "a third is refused": (-5, 2**63 - 1, np.int64),
    "one": (2**63 - 1, 2**63, np.int64),
}


def scaled(word, low, high):
    """Return what Lemire's method makes of a word, and whether it refuses it."""
    span = high - low
    product = word * span
    return low + (product >> 64), (product & 2**64 - 1) < 2**64 % span


@pytest.mark.parametrize("low, high, dtype", RANGES.values(), ids=RANGES)
def test_integers_are_what_the_method_makes_of_each_lanes_words(low, high, dtype):
    size = 1003
    stream = stream_of(rng.key(8), np.uint64(0), domains.INTEGERS)
    rows = []
    for _ in range(-(-size // 8)):
        row = [None] * 8
        while None in row:
            words = np.empty(8, np.uint64)
            rng.fill_words(stream, words)
            for lane, word in enumerate(words.tolist()):
                number, is_refused = scaled(word, low, high)
                if row[lane] is None and not is_refused:
                    row[lane] = number
        rows += row
    wanted = rows[:size]
    found = sampling.integers(low, high, size, 8, dtype=dtype)
    assert found.dtype == dtype
    assert found.tolist() == wanted
    assert sampling.integers(low, high - 1, size, 8, dtype=dtype, endpoint=True).tolist() == wanted


def test_integers_have_numpys_conventions():
    assert np.array_equal(sampling.integers(6, size=100, seed=1), sampling.integers(0, 6, 100, 1))
    out = np.empty((5, 4), np.uint16, order="F")
    assert sampling.integers(3, 70, out=out, seed=1) is out
    assert np.array_equal(out.ravel(order="K"), sampling.integers(3, 70, 20, 1))
    for low, high, dtype in ((5, 5, int), (5, 4, int), (0, 257, np.uint8), (-1, 5, np.uint8), (0, 2**64 + 1, np.uint64)):
        with pytest.raises(ValueError, match="^(high: expected an integer above low|low, high: expected integers that )"):
            sampling.integers(low, high, 3, dtype=dtype)
    for low, high in ((1.5, 3), (0, "9"), (0, 2.0)):
        with pytest.raises(TypeError, match="expected an integer, got "):
            sampling.integers(low, high, 3)
    with pytest.raises(TypeError, match="^dtype: expected int64 or uint64 or "):
        sampling.integers(5, size=3, dtype=float)


def test_integers_fill_every_cell_alike():
    for high, size in ((7, 700_000), (1000, 2_000_000)):
        assert chi_square_of_cells(sampling.integers(high, size=size, seed=3), high) > ODD


@each_kind
def test_without_a_seed_no_two_arrays_are_the_same(draw):
    drawn = [draw(8).tobytes() for _ in range(20)]
    assert len(set(drawn)) == 20
    assert len({draw(8, None).tobytes() for _ in range(2)}) == 2


def test_one_seed_gives_independent_numbers_of_each_kind():
    """Rank correlations of each two kinds, and of a float's with the words of pairs."""
    size = 1 << 18
    ranks = [np.argsort(np.argsort(draw(size, 5))) / size for draw in FLOATS]
    ranks.append(np.argsort(np.argsort(sampling.pairs(size, 5).view(np.uint64).ravel())) / size)
    ranks.append(np.argsort(np.argsort(sampling.integers(2**62, size=size, seed=5))) / size)
    assert abs(np.corrcoef(ranks) - np.eye(5)).max() < 5 / size**0.5


#: Draws arrays of 64 MB, and prints by how many bytes the peak of memory exceeds what there was and the array.
PEAKS = """\
import numpy as np
from flame_fast.kernels import quasi, rng, sampling

SIZE = 1 << 23
OUT = np.ones(SIZE)

def fill(out, seed):
    rng.fill_normals(rng.stream(rng.key(seed), 0), out)

DRAWS = {
    "normals": lambda size: sampling.normals(size, 1),
    "gamma": lambda size: sampling.gamma(0.5, 1.0, size, 1),
    "poisson": lambda size: sampling.poisson(30.0, size, 1),
    "integers": lambda size: sampling.integers(9, size=size, seed=1),
    "permutation": lambda size: sampling.permutation(size, 1),
    "multivariate normals": lambda size: sampling.multivariate_normals(0.0, np.eye(4), size // 4, 1),
    "sobol": lambda size: quasi.sobol(size // 8, 8, 1),
    "shuffle": lambda size: sampling.shuffle(OUT, 1),
    "fill": lambda size: fill(OUT, 1),
}

def of_status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

for name, draw in DRAWS.items():
    draw(SIZE)  # compiled or loaded, with its threads
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what there is
    before = of_status("VmRSS")
    made = draw(SIZE)
    print(name, of_status("VmHWM") - before - (0 if made is None else made.nbytes), sep=":")
    del made
"""


def test_a_draw_takes_no_memory_but_the_arrays():
    freed_at_once = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}  # nothing of the first draw stays with the process
    found = subprocess.run(
        [sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, env=freed_at_once
    ).stdout
    excesses = dict(line.split(":") for line in found.splitlines())
    assert len(excesses) == 9
    assert {name: excess for name, excess in excesses.items() if int(excess) > 4 << 20} == {}


def drawn_in(draw, size, seed):
    return os.getpid(), draw(size, seed)


def test_as_a_service_they_are_the_same_from_one_two_and_three_workers(project):
    size = BLOCK + 11
    for workers in (1, 2, 3):
        with Runner("sampling", workers=workers) as rr:
            services = {draw: rr.service(draw) for draw in KINDS}
            arrays = rr.get({draw: [service(size, 7) for _ in range(workers)] for draw, service in services.items()})
        for draw, found in arrays.items():
            wanted = expected(draw, size, 7)
            assert all(np.array_equal(array, wanted) for array in found), (workers, draw)


def test_without_a_seed_workers_share_no_numbers(project):
    with Runner("unseeded", workers=3) as rr:
        rows = rr.get([rr.service(drawn_in)(sampling.pairs, 4, None) for _ in range(60)])
    assert len({array.tobytes() for _, array in rows}) == 60
