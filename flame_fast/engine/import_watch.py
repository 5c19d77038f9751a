"""Finders that run something of this package around the execution of some modules, whoever finds and loads them."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class ImportWatch:
    """A finder that finds what the finders behind it find, and executes some of the modules within a context.

    Parameters
    ----------
    concerns
        Whether a module of this name is executed within the context; asked once a module that is not loaded.
    around
        Makes the context.
    """

    def __init__(self, concerns: Callable[[str], bool], around: Callable[[], AbstractContextManager[None]]) -> None:
        self._concerns = concerns
        self._around = around

    def begin(self) -> None:
        """Watch this process' imports, before every finder that is there."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not self._concerns(name):
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :] if self in sys.meta_path else ()
        for finder in others:
            find = getattr(finder, "find_spec", None)
            found: ModuleSpec | None = None if find is None else find(name, path, target)
            if found is not None:
                _execute_within(found.loader, self._around)
                return found
        return None


def _execute_within(loader: Any, around: Callable[[], AbstractContextManager[None]]) -> None:
    """Have a loader execute its next module within a context: others may share it, as the modules of an archive do."""
    execute = getattr(loader, "exec_module", None)
    if execute is None or isinstance(loader, type) or not hasattr(loader, "__dict__"):  # built in, or of another kind
        return
    others = vars(loader).get("exec_module")

    def exec_module(module: ModuleType) -> None:
        if others is None:
            vars(loader).pop("exec_module", None)
        else:
            loader.exec_module = others
        with around():
            execute(module)

    loader.exec_module = exec_module
