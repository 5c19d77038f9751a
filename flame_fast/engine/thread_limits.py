"""Thread limits: import hooks that limit the threads of NumPy, Numba and BLAS in a worker, and call back after imports.

The limit follows the service: the worker sets it when it changes service, and once more right after it imports a library,
perhaps in the middle of a task. It leaves environment variables alone: a task's environment is the driver's.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

from flame_fast.engine.import_watch import ImportWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Modules whose import brings a library with threads of its own, and a name that each has once it is whole.
NUMERIC = {"numpy": "ndarray", "numba": "njit", "torch": "Tensor", "scipy.linalg": "solve", "sklearn": "show_versions"}

#: Modules of this package that import Numba: one of them may have brought Numba, and not be whole yet.
AROUND_NUMBA = {"flame_fast.kernels.jit.cache": "share_cache", "flame_fast.kernels.jit.parallel": "run_blocks"}

#: Modules of which every worker corrects something.
WITH_STATE = {
    "decimal": "getcontext",
    "logging": "captureWarnings",
    "random": "_inst",
    "numpy.random.mtrand": "_rand",
    "linecache": "updatecache",
    "multiprocessing.process": "current_process",
    "multiprocessing.shared_memory": "SharedMemory",
}

WATCHED = NUMERIC | AROUND_NUMBA | WITH_STATE


class Libraries:
    """The numeric libraries of this process: their thread limit, and callbacks for their imports. One per worker."""

    def __init__(self) -> None:
        self._cpu: int | None = None
        self._waiting: list[tuple[str, Callable[[], object]]] = []

    def limit_threads(self, cpu: int) -> None:
        """Limit Numba, OpenMP and BLAS to `cpu` threads from now on, whether loaded now or later."""
        if cpu != self._cpu:
            self._cpu = cpu
            self._apply()

    def when_loaded(self, name: str, tell: Callable[[], object]) -> None:
        """Call `tell` once, as soon as the library is loaded; now, if it is already."""
        self._waiting.append((name, tell))
        self.loaded()

    def watch_imports(self) -> None:
        """Notice libraries that are imported later."""
        ImportWatch(WATCHED.__contains__, self._told).begin()
        self.loaded()

    @contextmanager
    def _told(self) -> Iterator[None]:
        yield
        self.loaded()

    def loaded(self) -> None:
        """Call back for libraries that are loaded now, and limit their threads."""
        due = [tell for name, tell in self._waiting if _is_ready(name)]
        self._waiting = [(name, tell) for name, tell in self._waiting if not _is_ready(name)]
        for tell in due:
            tell()
        self._apply()

    def _apply(self) -> None:
        if self._cpu is None or not any(_is_whole(name) for name in NUMERIC):
            return
        if _is_ready("numba"):
            from flame_fast.kernels.jit.parallel import limit_threads

            limit_threads(self._cpu, self._limit_pools)
        self._limit_pools()

    def _limit_pools(self) -> None:
        """Limit OpenMP and BLAS; Numba calls this again after it has told its own OpenMP to use all CPUs."""
        import threadpoolctl

        threadpoolctl.threadpool_limits(limits=self._cpu)


def _is_whole(name: str) -> bool:
    """Whether a module is loaded to its end."""
    return hasattr(sys.modules.get(name), WATCHED[name])


def _is_ready(name: str) -> bool:
    """Whether a library is whole, and the modules of this package around it are."""
    ours = AROUND_NUMBA if name == "numba" else ()
    return _is_whole(name) and all(_is_whole(other) for other in ours if other in sys.modules)
