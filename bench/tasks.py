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
    """What a function makes of the inherited array; an array takes its place, so that the next task finds it there."""
    result = function(inherited)
    if getattr(result, "shape", None) != inherited.shape:
        return result
    inherited[:] = result
    return None


def of_shared(shared, function):
    """As `mpire` calls it when its pool has shared objects."""
    return function(shared)
