"""Arrays of random numbers: their place in the streams, their shapes and errors, and draws in a Runner's workers."""

from __future__ import annotations

import os

import numpy as np
import pytest
from flame_fast.kernels import rng, sampling
from flame_fast.kernels.rng import ARRAY_DOMAIN
from flame_fast.kernels.sampling import BLOCK

from flame_fast import Runner

KINDS = {
    sampling.pairs: (rng.fill_pairs, np.uint32),
    sampling.uniforms: (rng.fill_uniforms, np.float64),
    sampling.normals: (rng.fill_normals, np.float64),
    sampling.exponentials: (rng.fill_exponentials, np.float64),
}
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 9]

each_kind = pytest.mark.parametrize("draw", KINDS, ids=lambda draw: draw.__name__)


def expected(draw, size, seed):
    """Draw from the documented streams, one for each block of 65,536 numbers."""
    fill, dtype = KINDS[draw]
    out = np.empty((size, 2) if draw is sampling.pairs else size, dtype)
    for block in range(-(-size // BLOCK)):
        fill(rng.stream_of(rng.key(seed), np.uint64(block), ARRAY_DOMAIN), out[block * BLOCK : (block + 1) * BLOCK])
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
    for size in (1.0, "5", None, [5], np.float64(5), (2, 3)):
        with pytest.raises(TypeError, match="^size: expected an integer, got ") as caught:
            draw(size, 3)
        assert repr(size) in str(caught.value)
    for size in (-1, np.int64(-7)):
        with pytest.raises(ValueError, match="^size: expected an integer of at least 0, got "):
            draw(size, 3)
    for seed, error in ((1.5, TypeError), ("1", TypeError), (-1, ValueError), (2**128, ValueError)):
        with pytest.raises(error, match="^seed: expected an integer "):
            draw(5, seed)
    with pytest.raises(MemoryError):
        draw(2**57, 3)  # more bytes than any address space has
    for size in (2**61, 2**63, 2**64, 2**100):  # more than NumPy can count
        with pytest.raises(ValueError):
            draw(size, 3)


@each_kind
def test_without_a_seed_no_two_arrays_are_the_same(draw):
    drawn = [draw(8).tobytes() for _ in range(20)]
    assert len(set(drawn)) == 20
    assert len({draw(8, None).tobytes() for _ in range(2)}) == 2


def test_kinds_are_made_of_the_same_words():
    """As documented for streams: a word each, so one seed's uniform and exponential numbers belong together."""
    words = sampling.pairs(1000, 5).view(np.uint64).ravel()
    assert np.array_equal(sampling.uniforms(1000, 5), (words >> np.uint64(11)) * 2.0**-53)
    assert np.allclose(sampling.exponentials(1000, 5), -np.log(((words >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))


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
