"""Classes of values that travel, and tasks that take them; workers import this module, so it loads next to nothing."""

from __future__ import annotations

import collections
import dataclasses
import enum


class Count(int):
    pass


class Text(str):
    note = "default"


class Items(list):
    pass


class Table(dict):
    pass


class Raw(bytes):
    pass


class Real(float):
    pass


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: int
    rest: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int


Pair = collections.namedtuple("Pair", "left right")


class Keeper:
    """Keeps a value that it was given."""

    def keep(self, value):
        self.value = value

    def look(self):
        return float(self.value.sum())


# ---- tasks ---------------------------------------------------------------------------------------------------------------


def all_that_is_given(*args, **kwargs):
    return args, kwargs


def type_names(*values):
    return [type(value).__name__ for value in values]


def change_bytes(value):
    value[0] = 1
    value.extend(b"x")
    return value


def are_the_first(values):
    return [one is values[0] for one in values]


def are_one(left, right):
    return left is right


def total(value):
    return value.sum()


def sorted_copy(value):
    return value.copy().sort_index()


def make_zeros(kind, count):
    import numpy as np

    return np.zeros(count, dtype=kind)


def write_first(array):
    """Write to an array; return whether it may be written to."""
    if array.size:
        array.flat[0] = array.flat[-1]
    return array.flags.writeable


def add_one(value):
    """Write to arrays in a dict: in a list, in an object, in an array; return the largest of each."""
    found = (value["a"][0], value["b"].rest[0], value["c"][0])
    for item in found:
        item += 1
    return [float(item.max()) for item in found]


def extend_both(items, array):
    items.append(2)
    array[1] = 7
    return items, array


# ---- closures and a class made in a function -----------------------------------------------------------------------------


def doubling():
    """Return a class without a name in a module, and a task that makes another value of it."""

    @dataclasses.dataclass
    class Local:
        x: int

        def twice(self):
            return 2 * self.x

    return Local, lambda value: Local(value.twice())


def giving(value):
    return lambda: value


def echoing():
    return lambda value: value


def using(table, generator):
    return lambda: (table.sum(), generator.randint(10))
