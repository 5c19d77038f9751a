"""Cache of compiled code on disk: where it lies, how long it is fresh, and which process compiles.

Numba keeps the code that `cache=True` compiles beside its source file. That is not enough here:

- A kernel of this package consists of several files. Its code is fresh only while none of them has changed. Where the
  package's directory is not writable, the code goes to the user's cache, or each process compiles it.
- A worker imports the user's project from an unpacked package, whose path changes with every edit anywhere. So the data
  directory keeps the project's code, by the project's own path and the file's place in it. The code is fresh while the
  function's file, and the files of the project that it imports, have not changed.
- Workers start together and would all compile the same function. The first one does, the others wait for it, and load.

Guarantees: a damaged or unwritable cache costs time only. Assumes: the versions in Numba's own key identify everything that
a compiled function has taken from outside of its project. Rejected: one lock for a whole project, since workers with
different functions would wait for each other; locks for functions that Numba compiles on behalf of another (two such could
deadlock): two processes may compile them.
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

#: The folder of this package's kernels; some lie in folders of it.
KERNELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: Decorator of kernels that only this package's nopython code calls: LLVM inlines them into their callers.
inlined: Any = njit(forceinline=True)


def compiled(signature: str | None = None, *, heap: bool = True, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator for this package's kernels: `numba.njit` without the GIL, cached as this module says.

    Parameters
    ----------
    signature : str, optional
        The kernel is compiled for it, or loaded, when the module is imported.
    heap : bool
        False: the kernel neither takes nor makes arrays. Then it loads without a start of Numba's memory management.
    **options
        Options of `numba.njit`.
    """

    def decorate(function: Any) -> Any:
        if config.DISABLE_JIT:
            return functools.wraps(function)(_refuse)
        kernel = njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError, OSError):  # no writable place
            kernel._cache = _KernelCache(function, heap)
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
    """Yield the global names that a module, a function or a compiled function has."""
    value = getattr(value, "py_func", value) if type(value).__module__.startswith("numba.") else value
    if isinstance(value, ModuleType):
        yield vars(value)
    elif isinstance(value, FunctionType):
        yield value.__globals__
    elif isinstance(value, type):
        yield vars(sys.modules.get(value.__module__, caching))


def sources_behind(function: FunctionType, place_of: Callable[[str], str | None]) -> list[str]:
    """Return the files of a project that a function's file imports, directly or not, and itself.

    `place_of` returns where a module's file is read; None if it is not the project's.
    """
    found: set[str] = set()
    todo = [function.__globals__]
    while todo:
        namespace = todo.pop()
        path = namespace.get("__file__")
        place = place_of(path) if isinstance(path, str) else None
        if place is None or place in found:
            continue
        found.add(place)
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
    """Return the plain values of global names that a function uses.

    They become part of its code, whatever module they come from.
    """
    names = sorted(set(function.__code__.co_names))
    values = [(name, function.__globals__.get(name)) for name in names]
    return tuple((name, value) for name, value in values if isinstance(value, (bool, int, float, complex, str, tuple)))


# ---- places --------------------------------------------------------------------------------------------------------------


def is_kernel(path: str) -> bool:
    """Tell whether a source file is one of this package's kernels."""
    return os.path.dirname(path) in (KERNELS, os.path.join(KERNELS, "jit"))


class _Fresh:
    """Mixin: a locator whose code is fresh while all of a function's sources are."""

    _py_func: Any  # a FunctionType, which type checkers would bind
    _py_file: str

    def place_of(self, path: str) -> str | None:
        raise NotImplementedError

    def get_source_stamp(self) -> str:
        paths = set(sources_behind(self._py_func, self.place_of)) | {self._py_file}
        return _stamp(sorted(paths), _constants_of(self._py_func))


def _for_kernels(base: Any) -> Any:
    """Return a subclass of one of Numba's locators for the kernels of this package."""

    class Locator(_Fresh, base):  # type: ignore[misc]
        def __init__(self, function: FunctionType, path: str) -> None:
            super().__init__(function, path)
            self._py_func = function

        def place_of(self, path: str) -> str | None:
            return path if path.startswith(KERNELS + os.sep) else None

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
        The directory that was packaged; modules name their files there.
    home : str
        The data directory.
    """

    #: Projects in the cache, and files of each: the most recently used.
    CACHE_ENTRIES = 32
    CACHE_FILES = 1024

    def __init__(self, tree: str, directory: str, home: str) -> None:
        self.tree: str = os.path.realpath(tree)
        self.directory: str = os.path.realpath(directory)
        self.place: str = os.path.join(home, "numba", hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:24])

    def relative(self, path: str) -> str | None:
        """Return a source file's place in the project; None for a file that is not in the package."""
        path = os.path.realpath(path)
        for root in (self.tree, self.directory):
            inside = path.removeprefix(root + os.sep)
            if inside != path and os.path.isfile(os.path.join(self.tree, inside)):
                return inside
        return None

    def tidy(self) -> None:
        """Mark the project as in use, and evict the least recently used projects and files."""
        for place in (os.path.dirname(self.place), self.place):
            os.makedirs(place, mode=0o700, exist_ok=True)  # each by itself: what it makes above one follows the umask
        os.utime(self.place)
        for place in _oldest(os.path.dirname(self.place), self.CACHE_ENTRIES):
            for path in _oldest(place, 0):
                _remove(path)
            with contextlib.suppress(OSError):
                os.rmdir(place)
        for path in _oldest(self.place, self.CACHE_FILES):
            _remove(path)


def _oldest(directory: str, kept: int) -> list[str]:
    """Return the entries of a directory but for the `kept` most recently changed."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        dated = sorted(((entry.stat().st_mtime_ns, entry.path) for entry in entries), reverse=True)
        return [path for _, path in dated[kept:]]
    return []


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


class _ProjectLocator(_Fresh, caching._CacheLocator):  # type: ignore[misc]
    """Locator of functions of the user's project, in a worker."""

    project: Project | None = None

    def __init__(self, function: FunctionType, project: Project, inside: str) -> None:
        self._py_func = function
        self._py_file = os.path.join(project.tree, inside)
        self._project = project
        self._inside = inside.replace(os.sep, "+")

    def place_of(self, path: str) -> str | None:
        inside = self._project.relative(path)
        return None if inside is None else os.path.join(self._project.tree, inside)

    def get_cache_path(self) -> str:
        return self._project.place

    def get_disambiguator(self) -> str:
        return f"{hashlib.sha256(self._inside.encode()).hexdigest()[:12]}-{self._py_func.__code__.co_firstlineno}"

    @classmethod
    def from_function(cls, function: FunctionType, path: str) -> _ProjectLocator | None:
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
OWN_LOCATORS: list[Any] = [_ProjectLocator, *map(_for_kernels, caching.CacheImpl._locator_classes[:3])]


# ---- one process compiles, the others wait -------------------------------------------------------------------------------


class _Turn:
    """The turn of this process at compiling: a file lock that one cache holds at a time.

    The cache of the outermost compilation holds it.
    """

    def __init__(self) -> None:
        self._holder: _SharedCache | None = None
        self._fd = -1

    def take(self, cache: _SharedCache) -> bool:
        """Wait for the turn; return False if this process has one already, or cannot lock here."""
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

    def give(self, cache: _SharedCache) -> None:
        """End the turn, if this cache holds it."""
        if self._holder is cache:
            self._holder = None
            os.close(self._fd)


_turn = _Turn()


class _Failures(event.Listener):  # type: ignore[misc]
    """End the turn of a compilation that failed: it saves nothing."""

    def on_start(self, started: Any) -> None:
        pass

    def on_end(self, ended: Any) -> None:
        failed = sys.exc_info()[0] is not None  # Numba's own `is_failed` says the opposite
        if failed and isinstance(ended.data, dict):
            cache = getattr(ended.data.get("dispatcher"), "_cache", None)
            if isinstance(cache, _SharedCache):
                _turn.give(cache)


event.register("numba:compile", _Failures())


class _SharedImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [*OWN_LOCATORS, *caching.CacheImpl._locator_classes]


class _SharedCache(caching.FunctionCache):  # type: ignore[misc]
    """A function's cache that several processes share and one process fills."""

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
        except Exception:  # a damaged file: reading it may raise anything
            return None

    def _prepare(self, context: Any) -> None:
        context.refresh()

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)
        except OSError:  # disk full, or permission lost: the compiled function works all the same
            pass
        except Exception:  # a damaged index: `save_overload` reads it before it writes
            with contextlib.suppress(OSError):
                self.flush()
                super().save_overload(signature, result)
        finally:
            _turn.give(self)


class _KernelCache(_SharedCache):
    """The cache of a kernel of this package.

    A kernel loads from it without the modules that Numba imports in order to compile; importing them takes half as long as
    importing Numba itself.
    """

    def __init__(self, function: FunctionType, heap: bool) -> None:
        super().__init__(function)
        self._heap = heap

    def _prepare(self, context: Any) -> None:
        if self._heap:
            rtsys.initialize(context)


def share_cache(tree: str, directory: str, home: str) -> None:
    """In a worker: cache functions of the user's project from now on as this module says; see `Project`."""
    _ProjectLocator.project = Project(tree, directory, home)
    with contextlib.suppress(OSError):
        _ProjectLocator.project.tidy()
    dispatcher.FunctionCache = _SharedCache  # type: ignore[attr-defined,unused-ignore]
    if _ProjectLocator not in caching.CacheImpl._locator_classes:
        caching.CacheImpl._locator_classes.insert(0, _ProjectLocator)
