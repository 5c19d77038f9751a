"""Cache of compiled code on disk: where it lies, how long it is fresh, and which process compiles.

Numba keeps the code that `cache=True` compiles beside its source file, while that file does not change. That is not enough
here:

- A kernel of this package consists of several files. Its code is fresh only while none of them has changed. Where the
  package's directory is not writable, the code goes to the user's cache, or each process compiles it.
- A worker imports the user's project from an unpacked package, whose path changes with every edit anywhere; functions of a
  notebook and of `python -c` have no file at all. So the data directory keeps what workers compile, by the project's own
  path and the function's place in it.
- Code is fresh while all that it depends on is as it was: what `dependencies` follows, the files of the project that the
  function's file imports, and Numba's settings. All of that is the key, as it is when the function is compiled: what a
  module defines below the function counts, too. The code repeats its key, since Numba writes the index first: a process that
  dies between the two leaves an index that names other code, and one that reads between them would take it.
- Workers start together and would all compile the same function. The first one does, the others wait for it, and load.

Guarantees: a damaged or unwritable cache costs time only. Code that depends on what cannot be followed is not cached, with a
warning. Rejected: one lock for a whole project, since workers with different functions would wait for each other; locks for
functions that Numba compiles on behalf of another (two such could deadlock): two processes may compile them.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import sys
import warnings
from types import FunctionType, ModuleType

import llvmlite
import numpy as np
from numba import config, njit
from numba.core import caching, dispatcher, event
from numba.core.errors import NumbaWarning
from numba.core.runtime import rtsys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

#: The folder of this package's kernels; some lie in folders of it.
KERNELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: The folders that have kernels.
PLACES = frozenset(os.path.join(KERNELS, folder).rstrip(os.sep) for folder in ("", "jit", "rng", "sampling", "quasi"))

#: Decorator of kernels that only this package's nopython code calls: LLVM inlines them into their callers. Division by zero
#: gives an infinity, as in NumPy: an exception in the middle of a block would leave the rest of it as it was.
inlined: Any = njit(forceinline=True, error_model="numpy")


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
        kernel = njit(nogil=True, error_model="numpy", **options)(function)
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


def _stamp(paths: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for path in sorted(paths):
        found = os.stat(path)
        whole.update(_digest(path, found.st_mtime_ns, found.st_size))
    return whole.hexdigest()


#: Numba's settings that change the code it makes, and the CPU's name and features, of which its own key has what is found.
SETTINGS = (
    "OPT",
    "BOUNDSCHECK",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "DISABLE_INTEL_SVML",
    "ENABLE_AVX",
    "CPU_NAME",
    "CPU_FEATURES",
    "DEBUGINFO_DEFAULT",
    "EXTEND_VARIABLE_LIFETIMES",
    "PARFOR_MAX_TUPLE_SIZE",
    "LLVM_REFPRUNE_PASS",
    "LLVM_REFPRUNE_FLAGS",
    "DEBUG_NRT",
    "DEBUG_ARRAY_OPT_RUNTIME",
    "JIT_COVERAGE",
)


def settings() -> tuple[str, ...]:
    """Return Numba's settings that change code, as they are now, and the versions beside Numba's own."""
    config.reload_config()  # as the compiler does before it compiles
    values = tuple(str(getattr(config, name, None)) for name in SETTINGS)
    return (*values, np.__version__, llvmlite.__version__, sys.version)


# ---- places --------------------------------------------------------------------------------------------------------------


def is_kernel(path: str) -> bool:
    """Tell whether a source file is one of this package's kernels."""
    return os.path.dirname(path) in PLACES


def _for_kernels(base: Any) -> Any:
    """Return a subclass of one of Numba's locators for the kernels of this package."""

    class Locator(base):  # type: ignore[misc]
        def __init__(self, function: FunctionType, path: str) -> None:
            super().__init__(function, path)
            self._py_func = function

        def get_source_stamp(self) -> str:
            return _stamp({self._py_file, *sources_behind(self._py_func, _place_of_kernel)})

        @classmethod
        def from_function(cls, function: FunctionType, path: str) -> Any:
            return super().from_function(function, path) if is_kernel(path) else None

    Locator.__name__ = f"KernelsIn{base.__name__}"
    return Locator


def _place_of_kernel(path: str) -> str | None:
    return path if path.startswith(KERNELS + os.sep) else None


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

    def place_of(self, path: str) -> str | None:
        """Return where a source file of the project is read; None for a file that is not in the package."""
        inside = self.relative(path)
        return None if inside is None else os.path.join(self.tree, inside)

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


class _ProjectLocator(caching._CacheLocator):  # type: ignore[misc]
    """Locator of the user's functions in a worker, wherever they are defined."""

    project: Project | None = None

    def __init__(self, function: FunctionType, project: Project, path: str) -> None:
        self._py_func = function
        self._py_file = path  # Numba's warnings name it
        self._project = project
        inside = project.relative(path)
        self.has_file: bool = inside is not None or os.path.isfile(path)
        self._inside = inside or path

    def get_cache_path(self) -> str:
        return self._project.place

    def get_source_stamp(self) -> str:
        return ""  # the key has it

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name apart: for a cell of a notebook its number and process do not count."""
        code = self._py_func.__code__
        if self.has_file:
            return f"{hashlib.sha256(os.fsencode(self._inside)).hexdigest()[:12]}-{code.co_firstlineno}"
        text = repr((code.co_code, code.co_names, code.co_varnames))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def stamp_of(self, files: set[str]) -> str:
        """Return a digest of the project's files behind the function, and of `files` that lie elsewhere."""
        found = set(sources_behind(self._py_func, self._project.place_of))
        found.update(self._project.place_of(path) or path for path in files)
        return _stamp(path for path in found if os.path.isfile(path))

    @classmethod
    def from_function(cls, function: FunctionType, path: str) -> _ProjectLocator | None:
        if cls.project is None or is_kernel(path):  # the project may be the clone of this package
            return None
        return cls(function, cls.project, path)


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

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        return str(super().get_filename_base(_short(fullname, self.locator), abiflags))


def _short(fullname: str, locator: Any) -> str:
    """Return a function's name for a file: without the module of a cell, and not too long for a file's name."""
    if getattr(locator, "has_file", True):
        return fullname[:_NAME_LENGTH]
    return f"cell.{fullname.rpartition('.')[2][:_NAME_LENGTH]}"


#: Characters of a function's name in the names of its files.
_NAME_LENGTH = 120


class _Entries(caching.IndexDataCacheFile):  # type: ignore[misc]
    """The files of one function: each repeats the key that its code has been compiled for."""

    #: Versions of a function that are kept, with other types, settings or constants: the latest ones.
    KEPT = 32

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[1] if isinstance(found, tuple) and len(found) == 2 and found[0] == key else None

    def _save_index(self, overloads: dict[Any, str]) -> None:
        for key in list(overloads)[: -self.KEPT]:
            del overloads[key]
        super()._save_index(overloads)


class _SharedCache(caching.FunctionCache):  # type: ignore[misc]
    """A function's cache that several processes share and one process fills.

    Parameters
    ----------
    function : function
    options : object, optional
        What it is compiled with.
    alone : bool
        No process waits for another that compiles it: nothing would tell if the compilation fails.
    """

    _impl_class: Any = _SharedImpl

    def __init__(self, function: FunctionType, options: object = None, *, alone: bool = False) -> None:
        super().__init__(function)
        self._options = options
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _Entries(self._cache_path, self._impl.filename_base, stamp)
        self._begun: dict[Any, str | None] = {}  # signature -> what its code depends on, as of before the compilation
        self._current: str | None = None
        self.lock: str | None = None
        if not alone and isinstance(self._impl.locator, tuple(OWN_LOCATORS)):
            self.lock = os.path.join(self.cache_path, f"{self._impl.filename_base}.lock")

    def _dependencies(self, signature: Any) -> str | None:
        """Return a digest of what the code depends on; None, with a warning, if that cannot be told."""
        from flame_fast.kernels.jit.dependencies import CannotFollow, digest_of

        locator = self._impl.locator
        try:
            digest, files = digest_of(self._py_func, self._options, signature)
            return f"{digest} {locator.stamp_of(files)}" if isinstance(locator, _ProjectLocator) else digest
        except (CannotFollow, OSError, RecursionError) as error:
            self._warn(str(error))
            return None

    def _warn(self, reason: str) -> None:
        name = self._py_func.__qualname__
        warnings.warn_explicit(
            f"Cannot cache compiled function {name!r}, each process compiles it: it depends on {reason}; pass that as an "
            "argument, or leave out cache=True",
            NumbaWarning,
            self._py_func.__code__.co_filename,
            self._py_func.__code__.co_firstlineno,
        )

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return signature, codegen.magic_tuple(), settings(), self._current

    def load_overload(self, signature: Any, context: Any) -> Any:
        self._current = self._begun[signature] = self._dependencies(signature)
        if self._current is None:
            return None
        found = self._load(signature, context)
        if found is None and _turn.take(self):
            found = self._load(signature, context)
            if found is not None:
                _turn.give(self)
        if found is not None:
            del self._begun[signature]
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
            begun = self._begun.pop(signature, None)
            self._current = self._dependencies(signature) if begun is not None else None
            if self._current == begun and begun is not None:  # nothing has changed while it was compiled
                self._save(signature, result)
        finally:
            _turn.give(self)

    def _save(self, signature: Any, result: Any) -> None:
        try:
            caching.Cache.save_overload(self, signature, result)
        except OSError:  # disk full, or permission lost: the compiled function works all the same
            pass
        except Exception:  # a damaged index: `save_overload` reads it before it writes
            with contextlib.suppress(OSError):
                self.flush()
                caching.Cache.save_overload(self, signature, result)


class _WrapperImpl(caching.CodeLibraryCacheImpl):  # type: ignore[misc]
    _filename_prefix = "guf"
    _locator_classes = _SharedImpl._locator_classes

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        return str(super().get_filename_base(_short(fullname, self.locator), abiflags))


class _WrapperCache(_SharedCache):
    """The cache of the loop that Numba makes around a function of `guvectorize`."""

    _impl_class = _WrapperImpl


class _KernelCache(_SharedCache):
    """The cache of a kernel of this package.

    A kernel loads from it without the modules that Numba imports in order to compile; importing them takes half as long as
    importing Numba itself.
    """

    def __init__(self, function: FunctionType, heap: bool) -> None:
        super().__init__(function)
        self._heap = heap

    def _dependencies(self, signature: Any) -> str:
        return ""  # its source files tell all

    def _prepare(self, context: Any) -> None:
        if self._heap:
            rtsys.initialize(context)


def share_cache(tree: str, directory: str, home: str) -> None:
    """In a worker: cache the user's functions from now on as this module says; see `Project`."""
    _ProjectLocator.project = Project(tree, directory, home)
    with contextlib.suppress(OSError):
        _ProjectLocator.project.tidy()
    if _ProjectLocator not in caching.CacheImpl._locator_classes:
        caching.CacheImpl._locator_classes.insert(0, _ProjectLocator)
        _take_over()
        _tell_versions_apart()


def _take_over() -> None:
    """Give what Numba makes from now on our caches; those that it has made before, in the zygote, ask ours."""
    from numba.core import ccallback
    from numba.np.ufunc import ufuncbuilder, wrappers

    def of_dispatcher(self: Any) -> None:
        self._cache = _SharedCache(self.py_func, self.targetoptions)

    def of_ufunc(self: Any) -> None:
        self.cache = _SharedCache(self.py_func, self.targetoptions, alone=True)

    def of_callback(self: Any) -> None:
        self._cache = _SharedCache(self._pyfunc, self._compiler.targetoptions, alone=True)

    def of_wrapper(self: Any, py_func: Any, cres: Any, sin: Any, sout: Any, cache: Any, is_parfors: Any) -> None:
        begin(self, py_func, cres, sin, sout, False, is_parfors)
        if cache:
            self.cache = _WrapperCache(py_func, (sin, sout), alone=True)

    def load(self: Any, signature: Any, context: Any) -> Any:
        return _twin_of(self).load_overload(signature, context)

    def save(self: Any, signature: Any, result: Any) -> None:
        _twin_of(self).save_overload(signature, result)

    begin = wrappers._GufuncWrapper.__init__
    dispatcher.Dispatcher.enable_caching = of_dispatcher  # type: ignore[method-assign,unused-ignore]
    ufuncbuilder.UFuncDispatcher.enable_caching = of_ufunc  # type: ignore[method-assign,unused-ignore]
    ccallback.CFunc.enable_caching = of_callback  # type: ignore[method-assign,unused-ignore]
    wrappers._GufuncWrapper.__init__ = of_wrapper  # type: ignore[method-assign,unused-ignore]
    caching.FunctionCache.load_overload = load  # type: ignore[method-assign,unused-ignore]
    caching.FunctionCache.save_overload = save  # type: ignore[method-assign,unused-ignore]


def _tell_versions_apart() -> None:
    """Make a function of the script that arrives once more with other constants another one: Numba goes by its number."""
    from flame_fast.kernels.jit.dependencies import content_of
    from numba.core.extending import _Intrinsic

    def known_as(cls: Any, uuid: str, name: str, function: Any, options: object) -> tuple[Any, str | None]:
        """Return the object that is known by the number, if it is the same one, and the digest of what arrives."""
        found = cls._memo.get(uuid)
        known: Any = getattr(found, name, None)
        content = content_of(function, options)
        if found is not None and known is not function:
            before = getattr(found, "_content", None) or content_of(known, options)
            if content is None or content != before:
                del cls._memo[uuid]
                found = None
        return found, content

    def dispatcher_of(cls: Any, /, uuid: str, py_func: Any, **states: Any) -> Any:
        found, content = known_as(cls, uuid, "py_func", py_func, states["targetoptions"])
        if found is None:
            found = rebuild_dispatcher(cls, uuid, py_func, **states)
            found._content = content
        return found

    def intrinsic_of(cls: Any, /, uuid: str, name: str, defn: Any) -> Any:
        found, content = known_as(cls, uuid, "_defn", defn, None)
        if found is None:
            found = rebuild_intrinsic(cls, uuid, name, defn)
            found._content = content
        return found

    kinds: tuple[Any, Any] = dispatcher.Dispatcher, _Intrinsic
    rebuild_dispatcher, rebuild_intrinsic = (kind._rebuild.__func__ for kind in kinds)
    rebuilds: tuple[Any, Any] = dispatcher_of, intrinsic_of
    for kind, rebuild in zip(kinds, rebuilds, strict=True):
        kind._rebuild = classmethod(rebuild)


def _twin_of(cache: Any) -> _SharedCache:
    """Return our cache in place of one that Numba made before `share_cache`."""
    twin = getattr(cache, "_twin", None)
    if twin is None:
        twin = cache._twin = _SharedCache(cache._py_func, alone=True)
    return twin
