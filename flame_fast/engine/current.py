"""Registry of this process's engines: the one whose task it runs, and all of them by their sessions."""

from __future__ import annotations

import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.engine.protocol import Engine

_serving: Engine | None = None
_importing = False
_project: dict[str, Any] | None = None
_known: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()


def serving_engine() -> Engine | None:
    """Return the engine whose task this process is running; None outside of any task."""
    return _serving


def set_serving_engine(engine: Engine | None) -> Engine | None:
    """Set the engine whose task this process is running; return the one before."""
    global _serving
    before, _serving = _serving, engine
    return before


def register(engine: Engine) -> None:
    """Make an engine known by its session, for services and runners that arrive in this process."""
    _known[engine.session] = engine


def engine_of(session: int) -> Engine | None:
    """Return the engine of a session that is at work in this process; None if there is none."""
    return _known.get(session)


def is_importing() -> bool:
    """Whether this worker is importing what a service needs."""
    return _importing


def set_importing(importing: bool) -> None:
    """Say whether this worker is importing what a service needs."""
    global _importing
    _importing = importing


def project() -> dict[str, Any] | None:
    """Return the plan of the snapshot that this worker's task imports from; None: the runner's first."""
    return _project


def set_project(plan: dict[str, Any] | None) -> None:
    """Say which snapshot this worker's task imports from."""
    global _project
    _project = plan
