"""The engines that the conformance suite runs with, and marks for tests that only some of them can pass."""

from __future__ import annotations

import contextlib

import pytest

#: Engines of the package; and one without a segment, which only tests have.
ENGINES = ("local", "inline", "plain")

#: A call may be unfinished when `service(...)` returns: the driver goes on beside it.
concurrent = pytest.mark.parametrize("engine", ["local"], indirect=True)

#: Values lie in one segment, of bounded size, and counters tell what lies there.
in_a_segment = pytest.mark.parametrize("engine", ["local", "inline"], indirect=True)


@contextlib.contextmanager
def case(*names):
    """Have a failure in this block tell which of a test's cases it is: cases share a runner, whose start takes longest."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"case: {', '.join(map(repr, names))}")
        raise
