"""Fixtures of a family that its tasks know; a test file names this module in `pytest_plugins`."""

from __future__ import annotations

import pytest
from serving import Door, acts, doors, here, look_at_idle, marks
from words import Words


@pytest.fixture
def kin(family):
    """Make a family that its tasks know, and two doors."""
    here[:] = [family]
    doors[:] = [Door(), Door()]
    marks[:] = bytes(len(marks))
    yield family
    look_at_idle(family)
    for door in doors:
        door.close()
    for known in (here, doors, acts):
        known.clear()


@pytest.fixture
def words(kin):
    return Words(kin.runtime)
