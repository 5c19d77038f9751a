"""How many threads the numeric libraries of a worker may use: Numba, OpenMP and BLAS, by their own setters.

The limit follows the service: the worker sets it when it changes service, and once more right after a library is
imported, which may happen in the middle of a task. Environment variables are left alone: a task's environment is the
driver's.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

#: Modules whose import brings a library with threads of its own.
NUMERIC = frozenset({"numpy", "numba", "torch", "scipy.linalg", "sklearn"})


class ThreadLimit:
    """The limit of this process; one per worker.

    Parameters
    ----------
    on_numpy : callable
        Called once, as soon as NumPy is loaded.
    """

    def __init__(self, on_numpy: Callable[[], object] = lambda: None) -> None:
        self._cpu: int | None = None
        self._on_numpy: Callable[[], object] | None = on_numpy

    def set(self, cpu: int) -> None:
        """From now on libraries, loaded already or later, use at most `cpu` threads."""
        if cpu != self._cpu:
            self._cpu = cpu
            self._apply()

    def watch_imports(self) -> None:
        """Lets libraries that are imported later have the limit from the start."""
        sys.meta_path.insert(0, _ImportWatch(self))
        self.loaded()

    def loaded(self) -> None:
        """A library may have come."""
        if self._on_numpy is not None and hasattr(sys.modules.get("numpy"), "ndarray"):
            tell, self._on_numpy = self._on_numpy, None
            tell()
        self._apply()

    def _apply(self) -> None:
        if self._cpu is None or not NUMERIC.intersection(sys.modules):
            return
        numba = sys.modules.get("numba")
        if numba is not None and hasattr(numba, "set_num_threads"):
            numba.set_num_threads(max(1, min(self._cpu, numba.config.NUMBA_NUM_THREADS)))
        import threadpoolctl

        threadpoolctl.threadpool_limits(limits=self._cpu)


class _ImportWatch:
    """Finds what the other finders find; a numeric library gets its limit once it is executed."""

    def __init__(self, limit: ThreadLimit) -> None:
        self._limit = limit

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in NUMERIC:
            return None
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(name, path, target)
            if found is not None:
                if found.loader is not None:
                    _limit_after(found.loader, self._limit)
                return found
        return None


def _limit_after(loader: Any, limit: ThreadLimit) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        limit.loaded()

    loader.exec_module = exec_module
