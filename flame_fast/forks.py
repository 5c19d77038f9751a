"""Forks wait for the imports of other threads.

A module that another thread is importing stays locked in a forked child for ever: that thread is not there. Runners import
parts of the package when they first need them, so a child's first Runner would wait for such a module. `runner` imports
this module before others that have hooks for forks: of those, the last one that is imported runs first.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that a fork waits at most: an import may itself wait for the thread that forks.
PATIENCE_S = 1.0

#: Seconds between two looks.
LOOK_S = 0.0005


def _wait_for_imports() -> None:
    locks: dict[str, Any] = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    if not locks:
        return
    deadline = time.monotonic() + PATIENCE_S
    while _others_import(locks) and time.monotonic() < deadline:
        time.sleep(LOOK_S)


def _others_import(locks: dict[str, Any]) -> bool:
    """Tell whether a thread other than this one holds a module's lock."""
    owners = {getattr(reference(), "owner", None) for reference in list(locks.values())}
    return bool(owners - {None, get_ident()})


os.register_at_fork(before=_wait_for_imports)
