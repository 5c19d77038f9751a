"""Arrays of every dtype and layout, objects that hold arrays, and tasks that look at them.

Workers import this module, so it loads NumPy and no more.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from array_layouts import SHARED, content, look

STRUCTURED = np.dtype([("a", "<i4"), ("b", ">f8"), ("c", "S3"), ("d", "U2", (2,)), ("e", "M8[s]")])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8"), ("c", "c8")], align=True)
TITLED = np.dtype({"names": ["x", "y"], "formats": ["i2", "f4"], "offsets": [1, 8], "itemsize": 16})

DTYPES = [
    *(np.dtype(char) for char in "?bBhHiIlLqQefdgFDG"),
    *(np.dtype(name) for name in (">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16")),
    *(np.dtype(name) for name in ("M8[D]", "M8[ns]", "M8[25s]", "m8[ms]", "m8", "M8[Y]", ">M8[us]", ">m8[h]", ">M8[10D]")),
    *(np.dtype(name) for name in ("S1", "S7", "U1", "U5", ">U3", "V3", "V16")),
    *(STRUCTURED, ALIGNED, TITLED, np.dtype([("p", "f4", (2, 3))]), np.dtype([("n", [("x", ">i2"), ("y", "?")])])),
    np.dtype("O"),
]


def make(dtype, count, seed=0):
    """So many elements of a dtype, all kinds of values among them."""
    random = np.random.default_rng([seed, count])
    numbers = random.integers(-1000, 1000, count)
    if dtype.names:
        array = np.zeros(count, dtype)
        for name in dtype.names:
            field = array[name]
            field[...] = make(field.dtype, field.size, seed + 1).reshape(field.shape)
        return array
    if dtype.kind == "O":
        kinds = (None, True, 10**30, "text", (1, 2), [3], {"a": 4}, 1.5, b"b")
        array = np.empty(count, dtype)
        array[:] = [kinds[number % len(kinds)] for number in numbers]
        return array
    if dtype.kind == "V":
        return np.frombuffer(random.bytes(count * dtype.itemsize), dtype).copy()
    if dtype.kind == "b":
        return numbers % 2 == 0
    if dtype.kind == "u":
        return (numbers + 1000).astype("u2").astype(dtype)
    if dtype.kind == "i" and dtype.itemsize == 1:
        return (numbers % 100).astype(dtype)
    if dtype.kind in "SU":
        return numbers.astype(f"{dtype.kind}7").astype(dtype)
    array = numbers.astype(dtype)
    if dtype.kind in "fc":
        array = (array * array.dtype.type(0.37)).astype(dtype)
        array[::7] = np.nan
        array[1::7] = -np.inf
        array[2::7] = -0.0
    if dtype.kind in "mM":
        array[::5] = "NaT"
    return array


#: What is done to a flat array whose number of elements is a multiple of 24.
LAYOUTS = {
    "flat": lambda a: a,
    "rows": lambda a: a.reshape(4, -1),
    "Fortran": lambda a: np.asfortranarray(a.reshape(4, -1)),
    "Fortran of three axes": lambda a: a.reshape(2, 3, -1).T,
    "turned": lambda a: a.reshape(2, 3, -1).transpose(1, 2, 0),
    "strided": lambda a: np.repeat(a, 2)[::2],
    "backwards": lambda a: a[::-1],
    "window": lambda a: np.tile(a.reshape(4, -1), (1, 2))[:, 1 : a.size // 4 + 1],
    "columns backwards": lambda a: a.reshape(-1, 6)[::-1, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[: a.size // 4], (4, a.size // 4)),
}

#: Bytes of the whole: far below what is shared, at the boundary, and above it.
SIZES = {"small": 2000, "at the boundary": SHARED, "just above": SHARED + 1, "large": 4 * SHARED}


def elements(dtype, nbytes):
    """How many it takes, in steps of 24: up to the boundary not more than so many bytes, above it not less."""
    step = 24 * dtype.itemsize
    return 24 * max(1, nbytes // step if nbytes <= SHARED else -(-nbytes // step))


def seen(array):
    return look(array), array.flags.writeable


def made(number, size, name):
    dtype = DTYPES[number]
    return LAYOUTS[name](make(dtype, elements(dtype, SIZES[size])))


def look_masked(array):
    """Without its order; with the values under the mask, which are part of it as well."""
    return (
        look(array)._replace(order=""),
        content(np.asarray(array.data)),
        array.hardmask,
        array.mask is np.ma.nomask,
        array._fill_value is None,
        str(array.fill_value),
    )


@dataclasses.dataclass
class Plain:
    array: object
    rest: dict


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    array: object
    small: object


class Linked:
    """Refers to itself, and to one array in several ways."""

    def __init__(self, array):
        self.array = array
        self.again = [array]
        self.me = self


def seen_masked(array):
    """Return the array's look and whether it and its mask may be written to; write to it."""
    found = look_masked(array)
    written = [array.flags.writeable, array.mask is np.ma.nomask or array.mask.flags.writeable]
    array[..., :1] = array[..., -1:]
    return found, written


def count_of(array):
    return array.count()


def make_masked(count):
    return np.ma.masked_greater(np.arange(count), 5, copy=False)


def type_and_shape(value):
    return type(value).__name__, value.shape


def double_real(frame):
    return frame.assign(real=frame["real"] * 2, new=1)


def seen_inside(value):
    return look(value.array), value.array.flags.writeable


def type_and_text(value):
    return type(value).__name__, repr(value)


def type_and_ends(value):
    return type(value).__name__, len(value), value[:1], value[-1:]


def change_bytearray(array):
    array[0] = 7
    array.extend(b"end")
    return type(array).__name__, bytes(array[-4:]), array


def filled(count, number):
    return np.full(count, float(number))


def totals(value):
    arrays = [value["a"], value["b"][0], value["b"][1]["c"], value["d"].array, value["d"].rest["e"]]
    return [(float(array.sum()), array.flags.writeable) for array in arrays]


def are_one_beside(pair):
    return pair[0] is pair[1]["a"]


def are_one(a, b, *, c):
    return a is b and b is c[0]


def pairs_are_one(value):
    return value[0] is value[1], value[2] is value[3]


def shared_objects(value):
    return value[0] is value[1], value[2]["x"] is value[0], value[3] is value[4]


def twice(value):
    return lambda: [value] * 2
