"""Imports of the user's modules in a worker: their code is the snapshot's, their `__file__` the user's.

A module's code, and which modules there are, come from the package's unpacked tree. Its `__file__`, its `__path__` and what
its tracebacks name lie in the directory that was packaged. So what a task reads, writes or looks for beside `__file__` is
where the driver finds it, whether or not it is in the package.

    entry of sys.path, __path__ --(path hook)--> finder of the tree --spec--> moved to the user's directory
    finder of an editable install --------------------------------spec--> the same, if the tree has its file
"""

from __future__ import annotations

import importlib.machinery as machinery
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

#: What imports a module's code, by the suffixes of its file.
_KINDS = (
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)

#: What dlopen says of a file system that is mounted noexec.
_NOEXEC = "failed to map segment from shared object"


class Places:
    """Directories of the user, and their places in the unpacked tree.

    Parameters
    ----------
    roots : dict of str to str
        By a directory as the driver's `sys.path` has it, its place in the tree.
    """

    def __init__(self, roots: dict[str, str]) -> None:
        self._roots = sorted(roots.items(), key=lambda pair: -len(pair[0]))

    def in_tree(self, path: str) -> str | None:
        """Return the place of a user's path; None if it lies elsewhere."""
        return _moved(path, self._roots)

    def of_user(self, path: str, directory: str) -> str:
        """Return the user's path of a place at or below that of one of his directories."""
        place = self.in_tree(directory)
        return _moved(path, [(place, directory)]) or path if place else path


def _moved(path: str, roots: Sequence[tuple[str, str]]) -> str | None:
    for before, after in roots:
        if path == before:
            return after
        if path.startswith(before.rstrip("/") + "/"):
            return os.path.join(after, path[len(before.rstrip("/")) + 1 :])
    return None


class SnapshotSourceLoader(machinery.SourceFileLoader):
    """Loads the code of a user's file from its place in the tree, where its bytecode is kept, too.

    Parameters
    ----------
    name : str
        The module's.
    path : str
        The user's file.
    place : str
        The tree's.
    """

    def __init__(self, name: str, path: str, place: str) -> None:
        super().__init__(name, path)
        self.place: str = place

    def _stored(self, path: str) -> str:
        if path == self.path:
            return self.place
        if path.endswith(tuple(machinery.BYTECODE_SUFFIXES)):
            return os.path.join(os.path.dirname(self.place), "__pycache__", os.path.basename(path))
        return path

    def path_stats(self, path: Any) -> Any:
        return super().path_stats(self._stored(path))

    def get_data(self, path: Any) -> bytes:
        """Return a file's content: a module's as it was packaged, any other as it is."""
        return super().get_data(self._stored(path))

    def set_data(self, path: Any, data: Any, *, _mode: int = 0o666) -> None:
        super().set_data(self._stored(path), data, _mode=_mode)


class SnapshotExtensionLoader(machinery.ExtensionFileLoader):
    """Loads an extension module from the tree."""

    def __init__(self, name: str, path: str, place: str) -> None:
        super().__init__(name, path)
        self.place: str = place

    def create_module(self, spec: Any) -> ModuleType:
        stored = machinery.ModuleSpec(spec.name, self, origin=self.place)
        try:
            return super().create_module(stored)
        except ImportError as error:
            if _NOEXEC not in str(error):
                raise
            raise ImportError(
                f"{error}: the data directory is mounted noexec; set $FLAME_FAST_HOME to one that is not, "
                "or use Runner(package=False)",
                name=spec.name,
                path=self.place,
            ) from error


class SnapshotFinder:
    """Finds modules of one directory of the user in its place in the tree.

    Parameters
    ----------
    places : Places
    path : str
        The user's directory.
    """

    def __init__(self, places: Places, path: str) -> None:
        place = places.in_tree(path)
        if place is None or not os.path.isdir(place):
            raise ImportError(f"{path!r} is not in the package", path=path)
        self.path: str = path
        self._places = places
        self._finder = machinery.FileFinder(place, *_KINDS)

    def __repr__(self) -> str:
        return f"SnapshotFinder({self.path!r})"

    def find_spec(self, name: str, target: ModuleType | None = None) -> machinery.ModuleSpec | None:
        spec = self._finder.find_spec(name, target)
        if spec is None:
            return None
        locations = spec.submodule_search_locations
        if locations is not None:
            locations[:] = [self._places.of_user(location, self.path) for location in locations]
        if spec.origin is not None and spec.has_location:
            _move(spec, self._places.of_user(spec.origin, self.path), spec.origin)
        return spec

    def invalidate_caches(self) -> None:
        self._finder.invalidate_caches()


class MovingFinder:
    """Stands for another finder of `sys.meta_path`, as of an editable install: what it finds is loaded from the tree."""

    def __init__(self, finder: Any, places: Places) -> None:
        self._finder = finder
        self._places = places

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> machinery.ModuleSpec | None:
        spec: machinery.ModuleSpec | None = self._finder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None and spec.has_location:
            place = self._places.in_tree(spec.origin)
            if place is not None and os.path.isfile(place):
                _move(spec, spec.origin, place)
        return spec


def _move(spec: Any, path: str, place: str) -> None:
    """Have a spec name the user's file and load the tree's."""
    if isinstance(spec.loader, machinery.ExtensionFileLoader):
        spec.loader = SnapshotExtensionLoader(spec.name, path, place)
    elif isinstance(spec.loader, machinery.SourceFileLoader):
        spec.loader = SnapshotSourceLoader(spec.name, path, place)
    else:
        return
    spec.origin = path
    spec.cached = None


def install(places: Places, editable: Places) -> None:
    """Have this process import the user's modules from the tree.

    Parameters
    ----------
    places : Places
        Of the entries of `sys.path`.
    editable : Places
        Of the whole directory: for other finders.
    """

    def hook(path: str) -> SnapshotFinder:
        return SnapshotFinder(places, path)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
    for number, finder in enumerate(sys.meta_path):
        if not getattr(finder, "__module__", "").startswith(("_frozen_importlib", "flame_fast.")):
            sys.meta_path[number] = MovingFinder(finder, editable)


def show_packaged_lines(places: Places) -> None:
    """Have tracebacks in this process show the lines that it runs: those of the tree."""
    import linecache

    update: Callable[..., list[str]] = linecache.updatecache
    cache: dict[str, Any] = linecache.cache

    def of_the_tree(filename: str, module_globals: Any = None) -> list[str]:
        place = places.in_tree(filename)
        if place is None or not os.path.isfile(place):
            return update(filename, module_globals)
        lines = update(place)
        entry = cache.pop(place, None)
        if entry is not None and len(entry) > 1:
            cache[filename] = (entry[0], None, lines, filename)  # without a time: the user's file does not count
        return lines

    linecache.updatecache = of_the_tree
