"""Pickling of the NumPy arrays that the native codec does not take alone: their elements still go beside the pickle.

Arrays arrive writable, whatever they were: those beside the pickle are views of private memory, the others are copies. With
`Runner(arrays="readonly")` arrays rebuilt here refuse writes, as the native codec's arrays do.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROTOCOL = 5


def reduce_array(array: Any, read_only: bool) -> Any:
    """Reduce an ndarray, or one of a subclass, that is not written natively, for `reducer_override`.

    Parameters
    ----------
    array : numpy.ndarray
    read_only : bool
        The rebuilt array refuses writes.
    """
    numpy = sys.modules["numpy"]
    kind, dtype = type(array), array.dtype
    if not dtype.hasobject and dtype.itemsize:
        if kind is numpy.ndarray:
            return _reduce_plain(array, read_only)
        if kind is numpy.ma.MaskedArray:
            return _reduce_masked(array, numpy, read_only)
    if not read_only:
        return NotImplemented
    reduced = array.__reduce_ex__(PROTOCOL)
    return (_rebuild_locked, reduced) if isinstance(reduced, tuple) and len(reduced) <= 3 else NotImplemented


def _reduce_plain(array: Any, read_only: bool) -> Any:
    """Reduce an array of a dtype that only pickle can describe to its bytes and a description.

    The native codec takes the bytes.
    """
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = array.copy()
    dtype, order = array.dtype, "C" if array.flags.c_contiguous else "F"
    # The pickled dtype of a time, or of a long double, loses its byte order.
    described = dtype.str if dtype.kind in "mM" or dtype.char in "gG" else dtype
    return (_rebuild_plain, (array.reshape(-1, order="A").view("u1"), described, array.shape, order, read_only))


def _reduce_masked(array: Any, numpy: Any, read_only: bool) -> Any:
    mask = numpy.ma.getmask(array)
    fill_value = array.fill_value if array._fill_value is not None else None
    return (_rebuild_masked, (array.data, None if mask is numpy.ma.nomask else mask, fill_value, array.hardmask, read_only))


def _rebuild_plain(elements: Any, dtype: Any, shape: tuple[int, ...], order: str, read_only: bool) -> Any:
    array = elements.view(dtype).reshape(shape, order=order)
    return _locked(array) if read_only else array


def _rebuild_masked(data: Any, mask: Any, fill_value: Any, hard_mask: bool, read_only: bool) -> Any:
    import numpy

    array = numpy.ma.MaskedArray(data, numpy.ma.nomask if mask is None else mask, copy=False, hard_mask=hard_mask)
    if fill_value is not None:
        array.fill_value = fill_value
    return _locked(array) if read_only else array


def _rebuild_locked(function: Callable[..., Any], args: tuple[Any, ...], state: Any = None) -> Any:
    """Rebuild a reduced array as pickle does, then make it read-only."""
    array = function(*args)
    if state is not None:
        array.__setstate__(state)
    return _locked(array)


def _locked(array: Any) -> Any:
    array.flags.writeable = False
    mask = getattr(array, "_mask", None)
    if isinstance(mask, sys.modules["numpy"].ndarray):
        mask.flags.writeable = False
    return array
