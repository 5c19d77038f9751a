"""What the contenders run; importable by all of their workers, and without NumPy of its own."""

from __future__ import annotations

import time

#: What a pool's workers inherited at their fork; see `contenders.SharedBufferPool`.
inherited = None


def nothing(value=None):
    return value


def first(array):
    return float(array[0])


def add_one(array):
    return array + 1


def total(array):
    return float(array.sum())


def pause_with_numpy(seconds):
    import numpy  # noqa: F401

    time.sleep(seconds)


def of_inherited(function):
    """Apply a function to the inherited array; an array takes its place, so that the next task finds it there."""
    result = function(inherited)
    if getattr(result, "shape", None) != inherited.shape:
        return result
    inherited[:] = result
    return None


def of_shared(shared, function):
    """As `mpire` calls it when its pool has shared objects."""
    return function(shared)


# ---- what is written into an array that arrived, or into one in an object ------------------------------------------------


class Box:
    """An object with an array in it, and what a caller keeps beside such."""

    def __init__(self, array):
        self.array = array
        self.name = "box"
        self.again = [array]


def array_of(value):
    return value.array if isinstance(value, Box) else value


def read_one(value):
    return array_of(value)[-1]


def read_pages(value):
    return array_of(value)[::512].sum()


def write_one(value):
    array = array_of(value)
    array[-1] = 1
    return array


def write_all(value):
    array = array_of(value)
    array[:] = 1
    return array


def copy_and_write(value):
    return write_one(array_of(value).copy())


def done(function, value):
    """Run a task that returns nothing of what it did."""
    function(value)


def grown_by(function, value):
    """Bytes of memory that a task takes: the process's own, and what its arrays take in the store."""
    from measuring import anonymous_bytes

    from flame_fast import Runner

    with Runner("inside") as runner:
        before = anonymous_bytes() + runner.statistics().bytes
        held = function(value)
        after = anonymous_bytes() + runner.statistics().bytes
    del held
    return after - before
