"""Imports of the user's modules in a worker: their code is the snapshot's, their `__file__` the user's.

A module's code, and which modules there are, come from the package's unpacked tree. Its `__file__`, its `__path__` and what
its tracebacks name lie in the directory that was packaged. So what a task reads, writes or looks for beside `__file__` is
where the driver finds it, whether or not it is in the package. A link that leads out of that directory is in no package:
workers import what is behind it as it is.

    entry of sys.path, __path__ --(path hook)--> finder of the tree --spec--> moved to the user's directory
    finder of an editable install --------------------------------spec--> the same, if the tree has its file
"""

from __future__ import annotations

import importlib.machinery as machinery
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
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
    tree : str
    outside : iterable of str
        The places of links that lead out of the user's directory, relative to the tree, which lacks them.
    """

    def __init__(self, roots: dict[str, str], tree: str = "", outside: Iterable[str] = ()) -> None:
        self._roots = sorted(roots.items(), key=lambda pair: -len(pair[0]))
        self._outside: dict[str, list[str]] = {}
        for link in outside:
            directory, name = os.path.split(os.path.join(tree, link))
            self._outside.setdefault(directory, []).append(name)

    def leading_out(self, place: str) -> list[str]:
        """Return the names of the links in a user's directory, given by its place, that lead out."""
        return self._outside.get(place, [])

    def in_tree(self, path: str) -> str | None:
        """Return the place of a user's path; None if it lies elsewhere."""
        return _moved(path, self._roots)

    def holds(self, path: str) -> bool:
        """Tell whether the tree has a user's file or directory."""
        place = self.in_tree(path)
        return place is not None and os.path.exists(place)

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


#: Where this process imports from; None: from the user's directories.
_places: Places | None = None


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
        self._links = places.leading_out(place)
        self._beyond = machinery.FileFinder(path, *_KINDS) if self._links else None

    def __repr__(self) -> str:
        return f"SnapshotFinder({self.path!r})"

    def find_spec(self, name: str, target: ModuleType | None = None) -> machinery.ModuleSpec | None:
        linked = self._find_linked(name, target)
        if linked is not None:
            return linked
        spec = self._finder.find_spec(name, target)
        if spec is None:
            return None
        locations = spec.submodule_search_locations
        if locations is not None:
            locations[:] = [self._places.of_user(location, self.path) for location in locations]
        if spec.origin is not None and spec.has_location:
            _move(spec, self._places.of_user(spec.origin, self.path), spec.origin)
        return spec

    def _find_linked(self, name: str, target: ModuleType | None) -> machinery.ModuleSpec | None:
        """Return the spec of a module behind a link that leads out."""
        if self._beyond is None or not any(link.partition(".")[0] == name.rpartition(".")[2] for link in self._links):
            return None
        spec = self._beyond.find_spec(name, target)
        if spec is None:
            return None
        found = [spec.origin or "", *(spec.submodule_search_locations or ())]
        return spec if any(self._is_linked(path) for path in found) else None

    def _is_linked(self, path: str) -> bool:
        return os.path.relpath(path, self.path).partition("/")[0] in self._links if path else False

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Yield what there is, for `pkgutil`: names, and whether they are packages."""
        from pkgutil import iter_importer_modules  # type: ignore[attr-defined]

        yield from iter_importer_modules(self._finder, prefix)
        if self._beyond is not None:
            linked = {prefix + link.partition(".")[0] for link in self._links}
            yield from (found for found in iter_importer_modules(self._beyond, prefix) if found[0] in linked)

    def invalidate_caches(self) -> None:
        self._finder.invalidate_caches()
        if self._beyond is not None:
            self._beyond.invalidate_caches()


class MovingFinder:
    """Stands for another finder of `sys.meta_path`, as of an editable install: what it finds is loaded from the tree."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder
        self.__module__ = getattr(finder, "__module__", "")  # by it others know what kind of finder this is

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> machinery.ModuleSpec | None:
        spec: machinery.ModuleSpec | None = self._finder.find_spec(name, path, target)
        return None if spec is None else _moved_spec(spec)


def _moved_spec(spec: machinery.ModuleSpec) -> machinery.ModuleSpec:
    """Return a spec that leads to a file of the user so that it loads the tree's, if the tree has it."""
    if _places is not None and spec.origin is not None and spec.has_location:
        place = _places.in_tree(spec.origin)
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


def install(places: Places) -> None:
    """Have this process import the user's modules from the tree, also those that a program loads by their files.

    Another call has it import from another tree.
    """
    global _places
    import importlib.util as util

    before, _places = _places, places
    sys.path_importer_cache.clear()
    if before is not None:
        lines = sys.modules.get("linecache")
        for path in list(lines.cache) if lines is not None else ():
            if places.in_tree(path) is not None and os.path.isabs(path):
                lines.cache.pop(path, None)  # type: ignore[union-attr]
        return

    own = _own_folders()

    def hook(path: str) -> SnapshotFinder:
        assert _places is not None
        if f"{path}/".startswith(own):
            raise ImportError("not the user's")
        return SnapshotFinder(_places, path)

    sys.path_hooks.insert(0, hook)
    for number, finder in enumerate(sys.meta_path):
        if not getattr(finder, "__module__", "").startswith(("_frozen_importlib", "flame_fast.")):
            sys.meta_path[number] = MovingFinder(finder)
    spec_of: Callable[..., machinery.ModuleSpec | None] = util.spec_from_file_location

    def spec_from_file_location(name: str, location: Any = None, **options: Any) -> machinery.ModuleSpec | None:
        spec = spec_of(name, location, **options)
        return None if spec is None else _moved_spec(spec)

    util.spec_from_file_location = spec_from_file_location


def _own_folders() -> tuple[str, ...]:
    """Return the folders of this package: with a clone of it as the project, a tree has them, but no extension modules."""
    packages = [sys.modules[name] for name in ("flame_fast", "flame_fast.kernels")]
    return tuple(f"{path}/" for package in packages for path in package.__path__)


def show_packaged_lines() -> None:
    """Have tracebacks in this process show the lines that it runs: those of the tree."""
    import linecache

    update: Callable[..., list[str]] = linecache.updatecache
    cache: dict[str, Any] = linecache.cache

    def of_the_tree(filename: str, module_globals: Any = None) -> list[str]:
        place = None if _places is None else _places.in_tree(filename)
        if place is None or not os.path.isfile(place):
            return update(filename, module_globals)
        lines = update(place)
        entry = cache.pop(place, None)
        if entry is not None and len(entry) > 1:
            cache[filename] = (entry[0], None, lines, filename)  # without a time: the user's file does not count
        return lines

    linecache.updatecache = of_the_tree
