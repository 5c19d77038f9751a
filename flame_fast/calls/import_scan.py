"""Import scan: predict which libraries a service's workers import, so that the zygote loads them once for all.

A wrong prediction only costs time: each worker imports a missed library by itself, and an unneeded one was loaded in vain.
"""

from __future__ import annotations

import functools
import os
import sys
from importlib.machinery import PathFinder
from types import CodeType, FunctionType, MethodType, ModuleType
from weakref import WeakKeyDictionary

from flame_fast.engine.preload import COMPILER, HEAVY_BITS, KERNELS, MODULES, NUMBA, NUMPY
from flame_fast.kernels.runtime.serialization.definitions import is_importable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

#: Modules, and what their import loads. A name counts for the modules below it.
LOADS = {
    "numpy": NUMPY,
    "numba": NUMPY | NUMBA | COMPILER,
    "flame_fast.kernels.jit.quarter_circle": NUMPY | NUMBA | KERNELS,
    "flame_fast.kernels.quasi": NUMPY | NUMBA | COMPILER,
    "flame_fast.kernels.rng": NUMPY | NUMBA | COMPILER,
    "flame_fast.kernels.sampling": NUMPY | NUMBA,
    "flame_fast.kernels.estimate_batch": NUMPY | NUMBA | KERNELS,
    "flame_fast.kernels.estimate_batch_numpy": NUMPY,
    "scipy": NUMPY,
    **{name: NUMPY | bit for name, bit in HEAVY_BITS.items()},
}

#: Its names are imported like modules.
OUR_KERNELS = "flame_fast.kernels"

#: Packages that start no thread when they are imported, but for pyarrow's jemalloc, which prepares for forks: a process that
#: has imported them may be forked.
FORK_SAFE = frozenset({"joblib", "numpy", "pandas", "scipy", "sklearn"})

#: Parts of the paths of Python's own modules and of installed ones.
INSTALLED = (os.path.dirname(os.__file__) + os.sep, f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def libraries_of(obj: Any) -> int:
    """Return the libraries that loading or calling an execution object in a worker imports: bits of `engine.preload`.

    Follows modules, functions and classes, not the contents of containers. Calls nothing of the user's. Numba's compiler
    counts for what the object itself uses: compiled functions elsewhere in its module are not called.
    """
    start = [obj, *_attributes(obj)]
    found = _imported_by(start)
    if found & COMPILER and not _found_from(start, _used_with) & COMPILER:
        found &= ~COMPILER
    for bit, name in MODULES.items():
        package = name.partition(".")[0]
        if found & bit and package != "flame_fast" and not _is_installed(package):
            found = 0 if bit in (NUMPY, NUMBA) else found & ~bit
    return found


def fork_safe_modules(values: Iterable[Any]) -> list[str]:
    """Return the modules of well-known packages that some values, and what functions among them use, come from."""
    names: dict[str, None] = {}
    for value in values:
        for used in (value, *_used_with(value)):
            kind = type(used)
            named = used.__name__ if issubclass(kind, ModuleType) else getattr(used, "__module__", None)
            names.update((name, None) for name in (named, kind.__module__) if isinstance(name, str))
    found = [name for name in names if name.partition(".")[0] in FORK_SAFE and name in sys.modules]
    return [name for name in found if _is_installed(name.partition(".")[0])]


def _imported_by(start: Iterable[Any]) -> int:
    """Return what a worker with some values loads: through what they use, and through the user's modules it imports."""
    names: dict[str, None] = {}
    found = _found_from(start, lambda value: _used_outside(value, names))
    todo = [*names]
    while todo:
        more, others = _imports_of(todo.pop())
        found |= more
        todo.extend(name for name in others if name not in names)
        names.update(dict.fromkeys(others))
    return found


#: A module of the user's -> (its size and that of `sys.modules`, what its import loads, the user's modules it imports).
_known: WeakKeyDictionary[ModuleType, tuple[tuple[int, int], int, list[str]]] = WeakKeyDictionary()


def _imports_of(name: str) -> tuple[int, list[str]]:
    """Return what the import of a module loads, and the user's modules it imports; cached until the module grows."""
    module = _module_called(name)
    if module is None:  # taken out of sys.modules since the scan found it
        return 0, []
    size = len(vars(module)), len(sys.modules)
    known = _known.get(module)
    if known is None or known[0] != size:
        others: dict[str, None] = {}
        found = _found_from(list(vars(module).values()), lambda value: _used_outside(value, others))
        known = _known[module] = size, found, [*others]
    return known[1:]


def _used_outside(value: Any, names: dict[str, None]) -> Iterable[Any]:
    """Return what a value uses; note the module's name instead for what a worker gets by importing a user's module."""
    name = _module_behind(value)
    if name is None:
        return _used_with(value)
    names[name] = None
    return ()


def _found_from(start: Iterable[Any], behind: Callable[[Any], Iterable[Any]]) -> int:
    """Return what some values, and all values behind them, load."""
    found = 0
    seen: dict[int, Any] = {}
    todo = [*start]
    while todo:
        value = todo.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            found |= _loaded_by(_module_of(value)) | _loaded_by(type(value).__module__)
            todo.extend(behind(value))
    return found


def _loaded_by(module: object) -> int:
    """Return what the import of a module loads, by its name."""
    if not isinstance(module, str):
        return 0
    while module not in LOADS and "." in module:
        module = module.rpartition(".")[0]
    return LOADS.get(module, 0)


def _module_of(value: Any) -> object:
    kind = type(value)
    if issubclass(kind, ModuleType):
        return value.__name__
    return value.__module__ if issubclass(kind, (FunctionType, type)) else None


def _attributes(obj: Any) -> Iterator[Any]:
    """Yield an instance's class and attributes."""
    if not issubclass(type(obj), (FunctionType, type)):
        yield type(obj)
        yield from getattr(obj, "__dict__", {}).values()


def _used_with(value: Any) -> Iterator[Any]:
    """Yield what a value uses."""
    kind = type(value)
    if issubclass(kind, functools.partial):
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif issubclass(kind, MethodType):
        yield value.__func__
        yield type(value.__self__)
    elif issubclass(kind, FunctionType):
        yield from _used_by(value.__code__, value.__globals__)
        yield from _enclosed(value)
    elif issubclass(kind, type):
        if _is_the_users(sys.modules.get(value.__module__)):
            yield from (part for base in value.__mro__[:-1] for part in vars(base).values() if type(part) is FunctionType)
    elif issubclass(kind, ModuleType) and _is_the_users(value):
        yield from list(vars(value).values())


def _used_by(code: CodeType, namespace: dict[str, Any]) -> Iterator[Any]:
    """Yield values of the global names in a function's code, and modules that it imports by itself."""
    for name in code.co_names:
        if name in namespace:
            yield namespace[name]
        elif _loaded_by(name):
            yield ModuleType(name)
    if OUR_KERNELS in code.co_names:  # from flame_fast.kernels import rng
        yield from (ModuleType(name) for name in LOADS if name.removeprefix(f"{OUR_KERNELS}.") in code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used_by(constant, namespace)


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty: its variable has no value yet
            continue


def _module_behind(value: Any) -> str | None:
    """Return the name of the user's module that a worker imports for a module, function or class; None if there is none."""
    kind = type(value)
    if not issubclass(kind, (ModuleType, FunctionType, type)):
        return None
    name = value.__name__ if issubclass(kind, ModuleType) else value.__module__
    module = _module_called(name)
    if module is None or not _is_the_users(module):
        return None
    return name if module is value or is_importable(value) else None


def _module_called(name: object) -> ModuleType | None:
    """Return a loaded module; None if there is none of this name, or only a stand-in for one."""
    module = sys.modules.get(name) if isinstance(name, str) else None
    return module if issubclass(type(module), ModuleType) else None


def _is_the_users(module: ModuleType | None) -> bool:
    """Whether a module is the user's: not Python's, installed or ours, whose names tell what they load."""
    path = getattr(module, "__file__", None)
    if module is None or module.__name__.partition(".")[0] == "flame_fast":
        return False
    return isinstance(path, str) and not any(part in path for part in INSTALLED)


def _is_installed(name: str) -> bool:
    """Whether the zygote finds the same module: it does not know the project."""
    spec = getattr(sys.modules.get(name), "__spec__", None) or PathFinder.find_spec(name)
    origin = getattr(spec, "origin", None)
    return isinstance(origin, str) and any(part in origin for part in INSTALLED)
