"""The engines of this process: the one it serves in a worker, the driver's own by their sessions."""

from __future__ import annotations

import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.engine.protocol import Engine

_serving: Engine | None = None
_importing = False
_known: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()


def serving_engine() -> Engine | None:
    """The engine whose task this process is running; None outside of any task."""
    return _serving


def set_serving_engine(engine: Engine | None) -> Engine | None:
    """Sets it; returns the one before."""
    global _serving
    before, _serving = _serving, engine
    return before


def register(engine: Engine) -> None:
    """Makes an engine known by its session, for what arrives in this process and belongs to it."""
    _known[engine.runtime.session] = engine


def engine_of(session: int) -> Engine | None:
    """The engine of a session that is at work in this process."""
    return _known.get(session)


def is_importing() -> bool:
    """Whether this worker is importing what a service needs."""
    return _importing


def set_importing(importing: bool) -> None:
    global _importing
    _importing = importing
