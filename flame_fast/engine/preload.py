"""Libraries that the zygote loads once for all of its workers: NumPy, Numba, the package's own kernels.

    service() --bits--> Header.preload, doorbell --> zygote: a thread imports --> forks again

Which ones a service needs, the driver sees from the object (`calls.import_scan`). While the import runs, in a thread of
its own, the zygote watches and recovers as always, but forks nobody: a process with two threads is not safe to fork. Workers
that were forked before leave as soon as they are idle, so that none of them imports by itself.

Rejected: a second process that imports and forks, as its workers' deaths would then have to be told to the zygote, or the
workers be given to it by way of an orphanage.
"""

from __future__ import annotations

import gc
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

NUMPY, NUMBA, KERNELS, COMPILER = 1, 2, 4, 8

#: What each bit stands for, in the order of loading. Numba's compiler is what Numba itself loads only when it first
#: compiles: half as much again as its import, which kernels that lie compiled on the disk do without.
MODULES = {
    NUMPY: "numpy",
    NUMBA: "numba",
    KERNELS: "flame_fast.kernels.jit.quarter_circle",
    COMPILER: "numba.core.registry",
}

#: Libraries start as many threads as there are CPUs when they are loaded; here none may be left running.
SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")


class Preloading:
    """What the zygote has loaded, and is loading.

    Parameters
    ----------
    ring : callable
        Wakes the zygote; called from the importing thread as its last act.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self.loaded = 0
        self._wanted = 0
        self._ring = ring
        self._thread: threading.Thread | None = None
        self._finished = False

    def is_busy(self, wanted: int) -> bool:
        """Whether an import runs, one for what is `wanted` and not loaded yet being started: nobody may be forked."""
        if self._thread is not None:
            if not self._finished:
                return True
            self._thread.join()  # it has rung, and does nothing more
            self._thread = None
            self.loaded |= self._wanted
            gc.freeze()  # these objects stay: workers share their pages
            gc.enable()
        if wanted & ~self.loaded:
            import threading

            self._wanted = wanted
            self._finished = False
            missing = wanted & ~self.loaded
            gc.disable()  # looking through them takes a fifth of the import
            self._thread = threading.Thread(target=self._load, args=(missing,), name="flame-preload", daemon=True)
            self._thread.start()
            return True
        return False

    def _load(self, libraries: int) -> None:
        before = {name: os.environ.get(name) for name in SINGLE_THREADED}
        os.environ.update(dict.fromkeys(SINGLE_THREADED, "1"))
        try:
            for bit, name in MODULES.items():
                if libraries & bit:
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
    except Exception:  # the worker that needs it says what is wrong, to the user's face
        pass
