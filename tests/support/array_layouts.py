"""Array layouts of tests, and the tasks that describe them.

Workers import this module, so it loads NumPy and no more.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

#: Bytes up to which values are copied; larger arrays are views of shared memory.
SHARED = 32 << 10


#: Bytes that may be copied beside values passed on in place: their descriptions.
LITTLE = 16 << 10

#: Elements of a large array, of eight bytes each.
MANY = 250_000


class Look(NamedTuple):
    """Everything about an array that must be the same at the other end."""

    kind: str
    dtype: np.dtype
    code: str
    aligned: bool
    shape: tuple
    order: str
    content: str


def look(array):
    """Return the look of an array. `order`: its memory layout, empty for none."""
    order = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else ""
    return Look(
        type(array).__name__, array.dtype, array.dtype.str, array.dtype.isalignedstruct, array.shape, order, content(array)
    )


def content(array):
    """Return a digest of the elements: the same for equal arrays, whatever their memory layout."""
    if isinstance(array, np.ma.MaskedArray):
        return "/".join([content(np.asarray(array.filled())), content(np.ma.getmaskarray(array)), str(array.fill_value)])
    if array.dtype.names:  # the padding between its fields is undefined
        return "/".join(content(array[name]) for name in array.dtype.names)
    if array.dtype.hasobject:
        return hashlib.sha256(repr(array.tolist()).encode()).hexdigest()[:16]
    if array.dtype.char in "gG":
        array = bytes_of_value(array)
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()[:16]


def bytes_of_value(array):
    """Return the bytes of long doubles that hold their values.

    On x86 each has ten bytes of value and six of padding.
    """
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    count = 10 if np.finfo(np.longdouble).nmant == 63 else np.longdouble().itemsize
    return native.view(np.uint8).reshape(-1, np.longdouble().itemsize)[:, :count]


def is_like(found, expected):
    """Tell whether the array that arrived looks as the one sent; one without an order may arrive in any."""
    return found == (expected if expected.order else expected._replace(order=found.order))


def look_closely(array):
    """Return `look` with the array's strides, for an array passed on in place."""
    return look(array), array.strides


def is_own(array):
    """Tell whether every way of writing to an array works; leave it unchanged."""
    before = array.copy()
    if not (array.flags.writeable and array.view().flags.writeable and array[1:].flags.writeable):
        return False
    array.setflags(write=False)
    array.setflags(write=True)
    array[...] = before[..., ::-1]
    array.fill(before.flat[0])
    np.copyto(array, before)
    return content(array) == content(before)


def is_locked(array):
    """Tell whether a large array refuses every way of writing, as `Runner(arrays="readonly")` has it."""
    attempts = [
        lambda: array.__setitem__(..., array),
        lambda: array.fill(array.flat[0]),
        lambda: array.sort(),
        lambda: np.copyto(array, array[::-1]),
        lambda: setattr(array.flags, "writeable", True),
        lambda: array.setflags(write=True),
        lambda: setattr(array.view().flags, "writeable", True),
        lambda: setattr(array[1:].flags, "writeable", True),
        lambda: memoryview(array).cast("B").__setitem__(0, 1),
    ]
    if array.flags.writeable:
        return False
    for attempt in attempts:
        try:
            attempt()
        except (ValueError, TypeError):  # a memoryview's refusal is a TypeError
            continue
        return False
    return True


class Traffic:
    """Traffic during the block: bytes copied into shared memory or out of it, bytes passed on or read in place."""

    def __init__(self, rr):
        self.rr = rr

    def __enter__(self):
        self.before = self.rr.statistics()
        return self

    def __exit__(self, *_):
        after = self.rr.statistics()
        self.copied = after.copied_bytes - self.before.copied_bytes
        self.shared = after.shared_bytes - self.before.shared_bytes
