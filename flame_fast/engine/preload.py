"""Preloading: the zygote imports NumPy, Numba and the package's kernels once for all of its workers.

    service() --bits--> Header.preload, doorbell --> zygote: a thread imports --> forks again

The driver sees from the object what a service needs (`calls.import_scan`). While the import runs, in a thread of its own,
the zygote goes on watching its workers but forks none: forking a process with two threads is not safe. Workers from before
the import leave as soon as they are idle, so that none of them imports by itself.

Rejected: a second process that imports and forks, since it would have to tell the zygote of its workers' deaths, or pass
the workers on to the zygote as a subreaper.
"""

from __future__ import annotations

import gc
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

#: Libraries, as bits.
NUMPY, NUMBA, KERNELS, COMPILER = 1, 2, 4, 8

#: The modules that the user has named.
NAMED = 1 << 30

#: The module of each bit, in the order of loading. Numba loads its compiler only when it first compiles, which takes half
#: as long again as its import; kernels that are compiled on disk do without.
MODULES = {
    NUMPY: "numpy",
    NUMBA: "numba",
    KERNELS: "flame_fast.kernels.jit.quarter_circle",
    COMPILER: "numba.core.registry",
}

#: Libraries start one thread per CPU when they are loaded; none may run when the zygote forks.
SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")


class Preloading:
    """The zygote's imports, done and in progress.

    Parameters
    ----------
    ring : callable
        Wakes the zygote. The importing thread calls it as its last act.
    named : sequence of str
        Modules that the user has named, to be imported before the first fork.
    """

    def __init__(self, ring: Callable[[], object], named: Sequence[str] = ()) -> None:
        self.loaded: int = 0
        self._named = named
        self._wanted = 0
        self._ring = ring
        self._thread: threading.Thread | None = None
        self._finished = False

    def is_busy(self, wanted: int) -> bool:
        """Start an import of what is `wanted` and not loaded yet; return whether one runs: then the zygote may not fork."""
        wanted |= NAMED if self._named else 0
        if self._thread is not None:
            if not self._finished:
                return True
            self._thread.join()  # it has rung: its last act
            self._thread = None
            self._take_over()
        if wanted & ~self.loaded:
            import threading

            self._wanted = wanted
            self._finished = False
            missing = wanted & ~self.loaded
            gc.disable()  # collections would take a fifth of the import
            self._thread = threading.Thread(target=self._load, args=(missing,), name="flame-preload", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # none can be started: deaths are noticed late, by the time of the import
                self._thread = None
                self._load(missing)
                self._take_over()
                return False
            return True
        return False

    def _take_over(self) -> None:
        """Go on with what has been imported."""
        self.loaded |= self._wanted
        gc.freeze()  # workers share the pages of these objects: the collector must not write there
        gc.enable()

    def _load(self, libraries: int) -> None:
        before = {name: os.environ.get(name) for name in SINGLE_THREADED}
        os.environ.update(dict.fromkeys(SINGLE_THREADED, "1"))
        try:
            for bit, name in MODULES.items():
                if libraries & bit:
                    _import_whole(name)
            for name in self._named if libraries & NAMED else ():
                _import_whole(name)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            self._finished = True
            self._ring()


def _import_whole(name: str) -> None:
    import importlib

    try:
        module = importlib.import_module(name)
        if name == MODULES[COMPILER]:
            module.cpu_target.target_context.refresh()
            module.cpu_target.typing_context.refresh()
    except Exception:  # the worker that needs it imports it again, and the user sees its error
        pass
