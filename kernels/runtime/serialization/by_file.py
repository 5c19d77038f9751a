"""Modules that lead to their files where `sys.path` does not: of importlib's recipe, of pytest's `--import-mode=importlib`.

    driver                                               worker
    module of a packaged file --> name, file, __path__ --> imported from that file under that name, once

`definitions.py` decides which modules those are. A pickle that names an object of one tells the file besides.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery as machinery
import os
import sys
import threading
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: A module's name, its file, and its `__path__`; without a file it is a bare package.
    FileModule = tuple[str, str | None, tuple[str, ...] | None]

#: By a runner's session, whether its package holds a path.
_packages: dict[int, Callable[[str], bool]] = {}

#: The modules that this process has imported because a pickle named their files.
_imported: dict[tuple[str, str | None], ModuleType] = {}

_lock = threading.RLock()  # reentrant: a module's code may read a pickle that names another


def note_package(session: int, holds: Callable[[str], bool] | None) -> None:
    """Note what a runner has packaged; None: the runner has ended."""
    if holds is None:
        _packages.pop(session, None)
    else:
        _packages[session] = holds


def exchange_imported(modules: dict[Any, ModuleType]) -> dict[Any, ModuleType]:
    """Go on as if this process had imported these by their files; return those that it has."""
    before = dict(_imported)
    _imported.clear()
    _imported.update(modules)
    return before


def _is_packaged(path: str) -> bool:
    return any(holds(path) for holds in list(_packages.values()))


def leads_to_file(module: ModuleType, spec: Any) -> bool:
    """Tell whether a worker can import a module that `sys.path` does not lead to: by its file, or as a bare package."""
    if file_of(module)[:2] in _imported:
        return True
    if is_package_without_file(spec):
        return any(map(os.path.isdir, _path_of(module) or ()))  # these directories make it
    path = spec.origin
    if not isinstance(path, str) or getattr(module, "__file__", path) != path:
        return False
    if isinstance(spec.loader, machinery.ExtensionFileLoader):
        return True  # nothing but its file makes it
    from_source = isinstance(spec.loader, machinery.SourceFileLoader) or type(spec.loader).__module__.startswith("_pytest.")
    return from_source and _is_packaged(path)


def is_package_without_file(spec: Any) -> bool:
    """Tell whether a spec is that of a package which is a directory, without a file of its own."""
    return spec.submodule_search_locations is not None and (spec.origin is None or os.path.isdir(spec.origin))


def is_bare(module: ModuleType) -> bool:
    """Tell whether a module has nothing but submodules, as the packages have that pytest makes up for its tests."""
    return all(name.startswith("__") or isinstance(value, ModuleType) for name, value in vars(module).items())


def file_of(module: ModuleType) -> FileModule:
    """Return what a worker needs to import the module."""
    path = getattr(getattr(module, "__spec__", None), "origin", None)
    # A file that was deleted since is in the snapshot.
    return module.__name__, path if isinstance(path, str) and not os.path.isdir(path) else None, _path_of(module)


def _path_of(module: ModuleType) -> tuple[str, ...] | None:
    locations = getattr(module, "__path__", None)
    return None if locations is None else tuple(map(os.path.abspath, locations))


def import_named(files: tuple[FileModule, ...], name: str) -> ModuleType:
    """Return the module of a name. Import those of `files` first, in this order; it is one of them or inside of one."""
    with _lock:
        found = {file[0]: _import(*file) for file in files}
    return found.get(name) or importlib.import_module(name)


def _import(name: str, path: str | None, locations: tuple[str, ...] | None) -> ModuleType:
    key = name, path
    module = sys.modules.get(name)
    if module is None or not (_is_at(module, path) or path is None):
        module = _imported.get(key) or _load(name, path, locations)
    _imported.setdefault(key, module)
    return module


def _is_at(module: ModuleType, path: str | None) -> bool:
    return getattr(module, "__file__", None) == path


def _load(name: str, path: str | None, locations: tuple[str, ...] | None) -> ModuleType:
    import importlib.util

    parent, _, child = name.rpartition(".")
    if parent:
        with contextlib.suppress(ModuleNotFoundError):  # as where it was loaded: by its file, whatever its name promises
            importlib.import_module(parent)
    searched = None if locations is None else list(locations)
    spec: machinery.ModuleSpec | None
    if path is None:
        spec = machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = searched
    else:
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=searched)
    if spec is None:
        raise ImportError(f"module {name!r}: nothing loads the file {path!r}", name=name, path=path)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        if path is not None and spec.loader is not None:
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        raise
    if parent and parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return sys.modules.get(name, module)
