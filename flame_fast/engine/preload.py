"""Preloading: the zygote imports NumPy, Numba and the package's kernels once for all of its workers.

    service() --bits--> Header.preload, doorbell --> zygote: a thread imports --> forks again

The driver sees from the object what a service needs (`calls.import_scan`). While the import runs, in a thread of its own,
the zygote goes on watching its workers but forks none: forking a process with two threads is not safe. Workers from before
the import leave as soon as they are idle, so that none of them imports by itself.

While a heavy library is imported one worker stays, and processes of instances asked for before are forked first: calls that
do not need the library do not wait for it. A call that does may come to this worker, which then imports it, too: that takes
as long as to wait for a new one. Only what asks for a process meanwhile, an instance or a death, waits for the import.

Rejected: a second process that imports and forks, since it would have to tell the zygote of its workers' deaths, or pass
the workers on to the zygote as a subreaper.
"""

from __future__ import annotations

import gc
import os
import warnings

from flame_fast.engine import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

#: Libraries, as bits.
NUMPY, NUMBA, KERNELS, COMPILER = 1, 2, 4, 8

#: Modules that take a good part of a second: calls that do not need them shall not wait meanwhile. Those of a package that
#: imports its parts late are named each. With `SINGLE_THREADED` none of them starts a thread: others must not be here.
HEAVY = (
    "pandas",
    "scipy.integrate",
    "scipy.interpolate",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.spatial",
    "scipy.special",
    "scipy.stats",
    "sklearn",
    "sklearn.cluster",
    "sklearn.decomposition",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.neighbors",
    "sklearn.preprocessing",
    "sklearn.svm",
    "sklearn.tree",
)

#: The bits of `HEAVY`; `PRELOAD_HEAVY` of the native runtime is the first.
HEAVY_BITS = {name: 1 << bit for bit, name in enumerate(HEAVY, 4)}

#: The modules that the user has named.
NAMED = 1 << 30

#: The module of each bit, in the order of loading. Numba loads its compiler only when it first compiles, which takes half
#: as long again as its import; kernels that are compiled on disk do without.
MODULES = {
    NUMPY: "numpy",
    NUMBA: "numba",
    KERNELS: "flame_fast.kernels.jit.quarter_circle",
    COMPILER: "numba.core.registry",
    **{bit: name for name, bit in HEAVY_BITS.items()},
}

#: Libraries start threads when they are loaded, one per CPU; none may run when the zygote forks. The last setting is that of
#: the allocator of pyarrow, which pandas imports: a thread of its would give memory back to the system.
SINGLE_THREADED = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class Preloading:
    """The zygote's imports, done and in progress.

    Parameters
    ----------
    ring : callable
        Wakes the zygote. The importing thread calls it as its last act.
    named : sequence of str
        Modules that the user has named, to be imported before the first fork.
    tell : callable
        Takes what an import is at, in words; an empty text at its end.
    """

    def __init__(
        self, ring: Callable[[], object], named: Sequence[str] = (), tell: Callable[[str], object] = lambda text: None
    ) -> None:
        self.loaded: int = 0
        self._tell = tell
        self._named = named
        self._wanted = 0
        self._ring = ring
        self._thread: threading.Thread | None = None
        self._finished = False

    @property
    def imports(self) -> bool:
        """Whether an import runs: it may wait for a process of its own."""
        return self._thread is not None and not self._finished

    def will_be_long(self, wanted: int) -> bool:
        """Tell whether `is_busy` will start an import that takes long."""
        return self._thread is None and bool(wanted & ~self.loaded & sum(HEAVY_BITS.values()))

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
            self._tell(f"imports {', '.join(self._names(missing))} for the workers")
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

    def _names(self, libraries: int) -> list[str]:
        """Return the modules to import, in their order."""
        known = [name for bit, name in MODULES.items() if libraries & bit]
        return [*known, *(self._named if libraries & NAMED else ())]

    def _take_over(self) -> None:
        """Go on with what has been imported."""
        self._tell("")
        self.loaded |= self._wanted
        gc.freeze()  # workers share the pages of these objects: the collector must not write there
        gc.enable()

    def _load(self, libraries: int) -> None:
        before = {name: os.environ.get(name) for name in SINGLE_THREADED}
        os.environ.update(SINGLE_THREADED)
        try:
            for name in self._names(libraries):
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

    before = list(warnings.filters)
    try:
        module = importlib.import_module(name)
        if name == MODULES[COMPILER]:
            module.cpu_target.target_context.refresh()
            module.cpu_target.typing_context.refresh()
    except Exception:  # the worker that needs it imports it again, and the user sees its error
        pass
    settings.note_import(name, before)
