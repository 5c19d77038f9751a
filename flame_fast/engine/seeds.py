"""Global random generators of a worker, Python's and NumPy's: keep them its own when imports seed them."""

from __future__ import annotations

import os
import sys
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.engine.thread_limits import Libraries
    from flame_fast.kernels.runtime import Worker


class Seeds:
    """Notices imports that seed a global generator, and seeds it anew: else all workers would draw the same numbers.

    Parameters
    ----------
    runtime : Worker
        Counts warnings: all its workers together give one.
    libraries : Libraries
        Calls back when the generators' modules are imported.
    """

    def __init__(self, runtime: Worker, libraries: Libraries) -> None:
        self._runtime = runtime
        self._python: Any = None
        self._numpy: Any = None
        self._modules: set[str] = set()
        libraries.when_loaded("random", self._note_python)
        libraries.when_loaded("numpy.random.mtrand", self._note_numpy)

    def note(self) -> None:
        """Note the generators' states, before imports."""
        self._modules = set(sys.modules)
        self._note_python()
        self._note_numpy()

    def _note_python(self) -> None:
        self._python = _python_key()

    def _note_numpy(self) -> None:
        self._numpy = _numpy_key()

    def restore(self, service: str) -> None:
        """Seed generators that an import for `service` has seeded anew, from the system; warn once."""
        seeded = [name for name, before, now in self._keys() if before is not None and before != now]
        if not seeded:
            return
        suspects = [name for name in sys.modules if name not in self._modules and _mentions_seed(sys.modules[name])]
        reseed()
        self.note()
        if self._runtime.is_first_warning():
            warnings.warn(
                f"{', '.join(suspects) or 'a module'}, which service {service!r} imports, seeds the global generator of "
                f"{' and '.join(seeded)}, so that all workers would draw the same numbers; each worker seeded it anew. "
                "Seed inside the task, or pass a generator",
                stacklevel=2,
            )

    def _keys(self) -> tuple[tuple[str, Any, Any], ...]:
        return ("random", self._python, _python_key()), ("numpy.random", self._numpy, _numpy_key())


def _mentions_seed(module: Any) -> bool:
    """Whether a user's module mentions `seed(` in its source; libraries mention it only in functions."""
    path = getattr(module, "__file__", None) or ""
    if not path.endswith(".py") or "-packages" in path or path.startswith(os.path.dirname(os.__file__)):
        return False
    import linecache

    return any("seed(" in line for line in linecache.getlines(path))


def _python_key() -> Any:
    """Return the Mersenne twister's words without the position in them, which a draw changes."""
    random = sys.modules.get("random")
    return random._inst.getstate()[1][:-1] if hasattr(random, "_inst") else None  # type: ignore[union-attr]


def _numpy_key() -> Any:
    mtrand = sys.modules.get("numpy.random.mtrand")
    if not hasattr(mtrand, "_rand"):
        return None
    state = mtrand._rand.get_state(legacy=False)  # type: ignore[union-attr]
    return state["state"]["key"].tobytes() if "key" in state["state"] else repr(state)


def reseed() -> None:
    """Seed the global generators from the system: forked copies would draw identical streams."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
