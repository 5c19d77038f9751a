"""Fixtures of processes that have ended and are not recovered yet; a test file names this module in `pytest_plugins`."""

from __future__ import annotations

import pytest
from gates import PATIENCE_S


@pytest.fixture
def dead(family):
    """Return a process that has ended and is not recovered."""
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    return relative
