"""`sys.path` of workers: the driver's entries in the packaged directory move to its unpacked tree."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


def split_sys_path(sys_path: Iterable[str], directory: str, packaged: Callable[[str], bool]) -> list[tuple[bool, str]]:
    """Return, for each entry of the driver's `sys.path`, whether it moves, and its path.

    Parameters
    ----------
    sys_path : iterable of str
        The driver's.
    directory : str
        The directory that was packaged. Entries inside it move, the empty one to the tree's top; entries that the package
        leaves out, and entries outside, stay as they are.
    packaged : callable
        Tells whether a path relative to the directory is in the package: `PackageInfo.holds`.
    """
    real_directory = os.path.realpath(directory)
    parts: list[tuple[bool, str]] = []
    for entry in sys_path:
        if not isinstance(entry, str):
            continue  # the import system ignores them too
        full = os.path.normpath(os.path.join(directory, entry))
        # As it is written, then as it resolves: the user may have entered the directory by a link.
        candidates = (
            _relative(full, os.path.normpath(directory)),
            _relative(os.path.realpath(full), real_directory),
        )
        for relative in candidates:
            if relative is not None and packaged(relative):
                parts.append((True, relative))
                break
        else:
            parts.append((False, entry))
    return parts


def place_sys_path(parts: Iterable[Any], unpacked: str) -> list[str]:
    """Return a worker's `sys.path` of `split_sys_path`'s entries: those that move lead into the tree."""
    return [os.path.join(unpacked, path) if moves and path else unpacked if moves else path for moves, path in parts]


def _relative(path: str, directory: str) -> str | None:
    if path == directory:
        return ""
    base = directory.rstrip("/") + "/"
    return path[len(base) :] if path.startswith(base) else None


def prepare(plan: dict[str, Any]) -> str:
    """Make this process import as an `ApplicationLease.unpack_plan` says; return the tree it imports from."""
    import sys

    tree: str
    if plan["archive"]:
        from flame_fast.package.unpacking import ensure_unpacked

        tree = ensure_unpacked(plan["archive"], plan["digest"], plan["home"], plan["limit"])
    else:
        tree = plan["directory"]
    sys.path[:] = place_sys_path(plan["sys_path"], tree)
    return tree
