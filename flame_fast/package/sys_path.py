"""`sys.path` of workers: the driver's entries, of which those in the packaged directory lead to its unpacked tree."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any

    from flame_fast.package.snapshot_import import Places


def split_sys_path(
    sys_path: Iterable[str], directory: str, packaged: Callable[[str], bool], current: str
) -> list[tuple[str, str | None]]:
    """Return, for each entry of the driver's `sys.path`, its path, and its place in the package or None.

    Parameters
    ----------
    sys_path : iterable of str
        The driver's.
    directory : str
        The directory that was packaged. Entries inside it are in the package, unless that leaves them out.
    packaged : callable
        Tells whether a path relative to the directory is in the package: `PackageInfo.holds`.
    current : str
        The driver's current directory, which relative entries start from.
    """
    directory, real = os.path.normpath(directory), os.path.realpath(directory)
    parts: list[tuple[str, str | None]] = []
    for entry in sys_path:
        if not isinstance(entry, str):
            continue  # the import system ignores them too
        full = os.path.normpath(os.path.join(current, entry))
        if entry and not os.path.isabs(entry) and not os.path.lexists(full):
            parts.append((entry, None))  # no path, but a name that some hook knows, as of an editable install
            continue
        parts.append((full, place_in(full, directory, real, packaged)))
    return parts


def place_in(path: str, directory: str, real: str, packaged: Callable[[str], bool]) -> str | None:
    """Return the place of a user's path in the package of a directory; None if the package does not have it.

    `real`: the directory, resolved.
    """
    # As it is written, then as it resolves: the user may have entered the directory by a link.
    candidates = _relative(path, directory), _relative(os.path.realpath(path), real)
    return next((relative for relative in candidates if relative is not None and packaged(relative)), None)


def _relative(path: str, directory: str) -> str | None:
    if path == directory:
        return ""
    base = directory.rstrip("/") + "/"
    return path[len(base) :] if path.startswith(base) else None


def prepare(plan: dict[str, Any]) -> tuple[str, Places | None]:
    """Make this process import as an `ApplicationLease.unpack_plan` says.

    Returns
    -------
    tuple of (str, Places or None)
        The tree it imports from, and what lies where in it; None: nothing was packaged.
    """
    entries = plan["sys_path"]
    if not plan["archive"]:
        sys.path[:] = [path for path, _ in entries]
        return plan["directory"], None
    from flame_fast.package import snapshot_import
    from flame_fast.package.unpacking import ensure_unpacked

    tree = ensure_unpacked(plan["archive"], plan["digest"], plan["home"], plan["limit"])
    roots = {path: os.path.join(tree, place) if place else tree for path, place in entries if place is not None}
    sys.path[:] = [roots[path] if os.path.isfile(roots.get(path, "")) else path for path, _ in entries]  # a zip file
    directory = plan["directory"]
    places = snapshot_import.Places({directory: tree, os.path.realpath(directory): tree, **roots}, tree, plan["outside"])
    snapshot_import.install(places)
    return tree, places


def show_packaged_lines() -> None:
    """Have tracebacks show the lines of the tree, once `linecache` is loaded."""
    from flame_fast.package import snapshot_import

    snapshot_import.show_packaged_lines()


class ModuleSet:
    """The user's modules in this process, of one snapshot, while it imports from another one.

    Parameters
    ----------
    directory : str
        The user's.
    tree : str
    places : Places or None
        What `prepare` returned.

    Notes
    -----
    Modules that lie elsewhere, installed ones above all, are the same for all snapshots.
    """

    def __init__(self, directory: str, tree: str, places: Places | None) -> None:
        self.directory: str = directory
        self.tree: str = tree
        self.places: Places | None = places
        self.sys_path: list[str] = list(sys.path)
        self._modules: dict[str, ModuleType] = {}
        self._by_file: dict[Any, ModuleType] = {}

    def kept(self) -> list[ModuleType]:
        """Return the modules that are here while another set is in use."""
        return list(self._modules.values())

    def leave(self, sys_path: list[str], exchange: Callable[[dict[Any, ModuleType]], dict[Any, ModuleType]]) -> None:
        """Take the modules out of `sys.modules`. `sys_path`: what it was with this set; `exchange`: see `enter`."""
        roots = {self.directory.rstrip("/") + "/", os.path.realpath(self.directory).rstrip("/") + "/"}
        self.sys_path = sys_path
        self._by_file = exchange({})
        for name, module in list(sys.modules.items()):
            if name != "__main__" and name.partition(".")[0] != "flame_fast" and _is_below(module, tuple(roots)):
                self._modules[name] = sys.modules.pop(name)

    def enter(self, exchange: Callable[[dict[Any, ModuleType]], dict[Any, ModuleType]]) -> None:
        """Have this process go on with the modules of this set.

        `exchange`: takes the modules that pickles have named by their files, and returns those that were there.
        """
        sys.path[:] = self.sys_path
        sys.modules.update(self._modules)
        self._modules = {}
        exchange(self._by_file)
        if self.places is not None:
            from flame_fast.package import snapshot_import

            snapshot_import.install(self.places)


def _is_below(module: Any, roots: tuple[str, ...]) -> bool:
    """Tell whether a module is the user's: its file, or all that it is made of as a package, lies below his directory."""
    path = getattr(module, "__file__", None)
    try:
        found = [path] if isinstance(path, str) else list(getattr(module, "__path__", None) or ())
    except Exception:  # a module that makes its attributes itself
        return False
    return bool(found) and all(isinstance(one, str) and one.startswith(roots) and not _is_installed(one) for one in found)


def _is_installed(path: str) -> bool:
    return "/site-packages/" in path or "/dist-packages/" in path or path.startswith(sys.prefix.rstrip("/") + "/")
