"""Ways of writing to an array; workers import this module, so it loads NumPy and no more until asked."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import tempfile

import numpy as np

#: Elements of an array just large enough to be shared, over a dozen pages.
SOME = 6_000


def assign(array):
    array[len(array) // 2] = -1


def add_in_place(array):
    array += 1


def add_at(array):
    np.add.at(array, [1, 1], 5)


def out_argument(array):
    np.multiply(array, 3, out=array)


def sort(array):
    array[0] = array[-1] + 1
    array.sort()


def shuffle(array):
    np.random.default_rng(1).shuffle(array)


def random_out(array):
    np.random.default_rng(1).random(out=array)


def by_address(array):
    """Write as a C library does that was given a pointer."""
    ctypes.c_double.from_address(array.ctypes.data + 8).value = -2


def memset(array):
    ctypes.memset(array.__array_interface__["data"][0], 1, array.nbytes)


def as_pointer(array):
    array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))[2] = -3


def through_a_memoryview(array):
    memoryview(array).cast("B")[5] = 7


def pack_into(array):
    struct.pack_into("d", array, 8, -4.0)


def readinto(array):
    """Let the kernel write, which no handler of a fault in this process would see."""
    with tempfile.TemporaryFile() as file:
        file.write(b"\1" * array.nbytes)
        file.seek(0)
        assert file.readinto(array) == array.nbytes


def from_a_pipe(array):
    read, write = os.pipe()
    try:
        os.write(write, b"\2" * 8)
        assert os.readv(read, [memoryview(array)[:1]]) == 8
    finally:
        os.close(read)
        os.close(write)


def strided(array):
    array[::-7] = 0


def through_a_view(array):
    array.view("i8").reshape(2, -1)[1, ::5] += 1


WAYS = {
    function.__name__: function
    for function in (
        *(assign, add_in_place, add_at, out_argument, sort, shuffle, random_out, by_address, memset, as_pointer),
        *(through_a_memoryview, pack_into, readinto, from_a_pipe, strided, through_a_view),
    )
}


# ---- by compiled code of others ------------------------------------------------------------------------------------------


@functools.cache
def compiled(parallel):
    import numba

    def double(array):
        for i in numba.prange(array.size):
            array[i] *= 2

    return numba.njit(double, parallel=parallel)


def njit(array):
    compiled(False)(array)


def prange(array):
    compiled(True)(array)


def blas(array):
    from scipy.linalg.blas import daxpy

    assert np.shares_memory(daxpy(np.ones(len(array)), array, a=2.0), array)


def scikit_learn(array):
    from scipy.sparse import csr_matrix
    from sklearn.utils.sparsefuncs_fast import inplace_csr_row_normalize_l1

    rows = csr_matrix((array, np.arange(len(array)), np.array([0, len(array)])), copy=False)
    assert np.shares_memory(rows.data, array)
    inplace_csr_row_normalize_l1(rows)


COMPILED = {function.__name__: function for function in (njit, prange, blas, scikit_learn)}


def fresh(seed=0):
    return np.arange(SOME, dtype="f8") + 10_000 * seed


def written(way, seed=0):
    """Return an array in private memory after it was written that way."""
    array = fresh(seed)
    (WAYS | COMPILED)[way](array)
    return array


def write(way, array):
    """In a task: write, and return a copy, so that the test sees what the task saw."""
    (WAYS | COMPILED)[way](array)
    return array.copy()
