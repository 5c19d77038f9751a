"""Compiled code kept on disk: where, until when, and who compiles.

Numba keeps what `cache=True` compiles beside its source file. That is not enough here:

- A kernel of this package is made of several files. Its code is fresh only while none of them has changed; where the
  package lies in a place that cannot be written to, it goes to the user's cache, or is compiled in each process.
- A worker imports the user's project from an unpacked package, whose path changes with every edit anywhere. So its code is
  kept in the data directory by the project's own path and the file's place in it, and is fresh while the function's file,
  and what of the project that file imports, has not changed.
- Workers start together and would all compile the same function. The first one does, the others wait for it, and load.

Guarantees: a damaged or unwritable cache costs time only. Assumes: what a compiled function has taken from outside of
its project is told by the versions in Numba's own key. Rejected: one lock for a whole project, which would have workers
with different functions wait for each other; locks for functions that are compiled on behalf of another (two such could
wait for each other in a ring): they may be compiled twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import sys
from types import FunctionType, ModuleType

from numba import config, njit
from numba.core import caching, dispatcher, event
from numba.core.runtime import rtsys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: Where the sources of this package's kernels lie: some in folders of it.
KERNELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: Kernels that are called from nopython code of this package only: part of what they are called from.
inlined = njit(forceinline=True)


def compiled(signature: str | None = None, *, heap: bool = True, **options: Any) -> Callable[[Any], Any]:
    """A decorator for this package's kernels: `numba.njit` without the GIL, cached as this module says.

    Parameters
    ----------
    signature : str, optional
        Compiles for it, or loads, when the module is imported.
    heap : bool
        False: the kernel neither takes nor makes arrays. Then Numba's memory management need not be started to load it.
    **options
        Numba's.
    """

    def decorate(function: Any) -> Any:
        if config.DISABLE_JIT:
            return functools.wraps(function)(_refuse)
        kernel = njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError, OSError):  # no place that can be written to
            kernel._cache = KernelCache(function, heap)
        if signature is not None:
            kernel.compile(signature)
        return kernel

    return decorate


def _refuse(*args: object, **kwargs: object) -> None:
    raise RuntimeError(
        "NUMBA_DISABLE_JIT is set, and the kernels of flame_fast, whose values are vectors, exist compiled only; unset it, "
        "and use njit's `py_func` to step through a function of your own"
    )


# ---- freshness -----------------------------------------------------------------------------------------------------------


def _namespaces(value: Any) -> Iterator[dict[str, Any]]:
    """The global names that a module, a function or a compiled function has."""
    value = getattr(value, "py_func", value) if type(value).__module__.startswith("numba.") else value
    if isinstance(value, ModuleType):
        yield vars(value)
    elif isinstance(value, FunctionType):
        yield value.__globals__
    elif isinstance(value, type):
        yield vars(sys.modules.get(value.__module__, caching))


def sources_behind(function: FunctionType, root: str) -> list[str]:
    """The files below `root` that a function's file imports, directly or not, and itself."""
    found: set[str] = set()
    todo = [function.__globals__]
    while todo:
        namespace = todo.pop()
        path = namespace.get("__file__")
        if not isinstance(path, str) or not path.startswith(root + os.sep) or path in found:
            continue
        found.add(path)
        for value in list(namespace.values()):
            todo.extend(_namespaces(value))
    return sorted(found)


@functools.cache
def _digest(path: str, modified_ns: int, nbytes: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()


def _stamp(paths: list[str], constants: tuple[Any, ...]) -> str:
    whole = hashlib.sha256(repr(constants).encode())
    for path in paths:
        found = os.stat(path)
        whole.update(_digest(path, found.st_mtime_ns, found.st_size))
    return whole.hexdigest()


def _constants_of(function: FunctionType) -> tuple[Any, ...]:
    """Plain values of global names that a function uses: they become part of its code, wherever they are from."""
    names = sorted(set(function.__code__.co_names))
    values = [(name, function.__globals__.get(name)) for name in names]
    return tuple((name, value) for name, value in values if isinstance(value, (bool, int, float, complex, str, tuple)))


# ---- places --------------------------------------------------------------------------------------------------------------


def is_kernel(path: str) -> bool:
    """Whether a source file is one of this package's kernels."""
    return os.path.dirname(path) in (KERNELS, os.path.join(KERNELS, "jit"))


class _Fresh:
    """A locator whose code is fresh while all of a function's sources are; a mixin."""

    root: str
    _py_func: Any  # a FunctionType, which type checkers would bind
    _py_file: str

    def get_source_stamp(self) -> str:
        paths = set(sources_behind(self._py_func, self.root)) | {self._py_file}
        return _stamp(sorted(paths), _constants_of(self._py_func))


def _for_kernels(base: Any) -> Any:
    """One of Numba's locators, for the kernels of this package."""

    class Locator(_Fresh, base):  # type: ignore[misc]
        root = KERNELS

        def __init__(self, function: FunctionType, path: str) -> None:
            super().__init__(function, path)
            self._py_func = function

        @classmethod
        def from_function(cls, function: FunctionType, path: str) -> Any:
            return super().from_function(function, path) if is_kernel(path) else None

    Locator.__name__ = f"KernelsIn{base.__name__}"
    return Locator


class Project:
    """The user's project as this worker imports it.

    Parameters
    ----------
    tree : str
        The unpacked package.
    directory : str
        The directory that was packaged; functions of the script itself name their files there.
    home : str
        The data directory.
    """

    #: Projects whose code is kept, and files of each: those used last.
    KEPT = 32
    KEPT_FILES = 1024

    def __init__(self, tree: str, directory: str, home: str) -> None:
        self.tree = os.path.realpath(tree)
        self.directory = os.path.realpath(directory)
        self.place = os.path.join(home, "numba", hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:24])

    def relative(self, path: str) -> str | None:
        """A source file's place in the project; None for one that is not in the package."""
        path = os.path.realpath(path)
        for root in (self.tree, self.directory):
            inside = path.removeprefix(root + os.sep)
            if inside != path and os.path.isfile(os.path.join(self.tree, inside)):
                return inside
        return None

    def tidy(self) -> None:
        """Notes that the project is in use, and removes what has not been used for long."""
        os.makedirs(self.place, mode=0o700, exist_ok=True)
        os.utime(self.place)
        for place in _oldest(os.path.dirname(self.place), self.KEPT):
            for path in _oldest(place, 0):
                _remove(path)
            with contextlib.suppress(OSError):
                os.rmdir(place)
        for path in _oldest(self.place, self.KEPT_FILES):
            _remove(path)


def _oldest(directory: str, kept: int) -> list[str]:
    """What a directory has, but for the `kept` entries changed last."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        dated = sorted(((entry.stat().st_mtime_ns, entry.path) for entry in entries), reverse=True)
        return [path for _, path in dated[kept:]]
    return []


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


class ProjectLocator(_Fresh, caching._CacheLocator):  # type: ignore[misc]
    """Functions of the user's project, in a worker."""

    project: Project | None = None

    def __init__(self, function: FunctionType, project: Project, inside: str) -> None:
        self._py_func = function
        self._py_file = os.path.join(project.tree, inside)
        self._project = project
        self.root = project.tree
        self._inside = inside.replace(os.sep, "+")

    def get_cache_path(self) -> str:
        return self._project.place

    def get_disambiguator(self) -> str:
        return f"{hashlib.sha256(self._inside.encode()).hexdigest()[:12]}-{self._py_func.__code__.co_firstlineno}"

    @classmethod
    def from_function(cls, function: FunctionType, path: str) -> ProjectLocator | None:
        if cls.project is None or is_kernel(path):  # the project may be the clone of this package
            return None
        inside = cls.project.relative(path)
        if inside is None:
            return None
        locator = cls(function, cls.project, inside)
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator


#: After the project's: the place that NUMBA_CACHE_DIR names, the one beside the source, the user's.
OWN_LOCATORS = [ProjectLocator, *map(_for_kernels, caching.CacheImpl._locator_classes[:3])]


# ---- one compiles, the others wait ---------------------------------------------------------------------------------------


class _Turn:
    """This process's turn at compiling: a lock on a file, held by one cache at a time, for the outermost compilation."""

    def __init__(self) -> None:
        self._holder: SharedCache | None = None
        self._fd = -1

    def take(self, cache: SharedCache) -> bool:
        """Waits for the turn; False if this process has one already, or cannot lock here."""
        if self._holder is not None or cache.lock is None:
            return False
        try:
            fd = os.open(cache.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except BaseException:
            os.close(fd)
            raise
        self._holder, self._fd = cache, fd
        return True

    def give(self, cache: SharedCache) -> None:
        """Ends the turn, if it is this cache's."""
        if self._holder is cache:
            self._holder = None
            os.close(self._fd)


_turn = _Turn()


class _Failures(event.Listener):  # type: ignore[misc]
    """Ends the turn of a compilation that failed: nothing will be saved."""

    def on_start(self, started: Any) -> None:
        pass

    def on_end(self, ended: Any) -> None:
        failed = sys.exc_info()[0] is not None  # Numba's own `is_failed` says the opposite
        if failed and isinstance(ended.data, dict):
            cache = getattr(ended.data.get("dispatcher"), "_cache", None)
            if isinstance(cache, SharedCache):
                _turn.give(cache)


event.register("numba:compile", _Failures())


class _SharedImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [*OWN_LOCATORS, *caching.CacheImpl._locator_classes]


class SharedCache(caching.FunctionCache):  # type: ignore[misc]
    """A function's cache that several processes fill once."""

    _impl_class = _SharedImpl

    def __init__(self, function: FunctionType) -> None:
        super().__init__(function)
        self.lock: str | None = None
        if isinstance(self._impl.locator, _Fresh):
            self.lock = os.path.join(self.cache_path, f"{self._impl.filename_base}.lock")

    def load_overload(self, signature: Any, context: Any) -> Any:
        found = self._load(signature, context)
        if found is None and _turn.take(self):
            found = self._load(signature, context)
            if found is not None:
                _turn.give(self)
        return found

    def _load(self, signature: Any, context: Any) -> Any:
        try:
            self._prepare(context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(signature, context)
        except Exception:  # a damaged file: whatever reading it raises
            return None

    def _prepare(self, context: Any) -> None:
        context.refresh()

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)
        except OSError:  # no room, or no right any more: it is compiled all the same
            pass
        except Exception:  # a damaged index, which is read before it is written
            with contextlib.suppress(OSError):
                self.flush()
                super().save_overload(signature, result)
        finally:
            _turn.give(self)


class KernelCache(SharedCache):
    """The cache of a kernel of this package. What is loaded from it needs nothing of what Numba imports in order to compile,
    which takes half as long as the import of Numba itself."""

    def __init__(self, function: FunctionType, heap: bool) -> None:
        super().__init__(function)
        self._heap = heap

    def _prepare(self, context: Any) -> None:
        if self._heap:
            rtsys.initialize(context)


def share_cache(tree: str, directory: str, home: str) -> None:
    """In a worker: from now on functions of the user's project are cached as this module says. See `Project`."""
    ProjectLocator.project = Project(tree, directory, home)
    with contextlib.suppress(OSError):
        ProjectLocator.project.tidy()
    dispatcher.FunctionCache = SharedCache  # type: ignore[attr-defined,unused-ignore]
    if ProjectLocator not in caching.CacheImpl._locator_classes:
        caching.CacheImpl._locator_classes.insert(0, ProjectLocator)
