"""Which engine this process serves: known in a worker, and in the driver while the inline engine runs a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flame_fast.engine.base import Engine

_serving: Engine | None = None


def serving_engine() -> Engine | None:
    """The engine whose task this process is running; None outside of any task."""
    return _serving


def set_serving_engine(engine: Engine | None) -> Engine | None:
    """Sets it; returns the one before."""
    global _serving
    before, _serving = _serving, engine
    return before
