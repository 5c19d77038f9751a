"""`sys.path` of workers: the driver's entries, of which those in the packaged directory lead to its unpacked tree."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


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
    real_directory = os.path.realpath(directory)
    parts: list[tuple[str, str | None]] = []
    for entry in sys_path:
        if not isinstance(entry, str):
            continue  # the import system ignores them too
        full = os.path.normpath(os.path.join(current, entry))
        # As it is written, then as it resolves: the user may have entered the directory by a link.
        candidates = (
            _relative(full, os.path.normpath(directory)),
            _relative(os.path.realpath(full), real_directory),
        )
        inside = [relative for relative in candidates if relative is not None and packaged(relative)]
        parts.append((full, inside[0] if inside else None))
    return parts


def _relative(path: str, directory: str) -> str | None:
    if path == directory:
        return ""
    base = directory.rstrip("/") + "/"
    return path[len(base) :] if path.startswith(base) else None


def prepare(plan: dict[str, Any]) -> tuple[str, Callable[[], None]]:
    """Make this process import as an `ApplicationLease.unpack_plan` says.

    Returns
    -------
    tuple of (str, callable)
        The tree it imports from; and what to call once `linecache` is loaded: tracebacks then show the lines of the tree.
    """
    import sys

    entries = plan["sys_path"]
    if not plan["archive"]:
        sys.path[:] = [path for path, _ in entries]
        return plan["directory"], lambda: None
    from flame_fast.package import snapshot_import
    from flame_fast.package.unpacking import ensure_unpacked

    tree = ensure_unpacked(plan["archive"], plan["digest"], plan["home"], plan["limit"])
    roots = {path: os.path.join(tree, place) if place else tree for path, place in entries if place is not None}
    sys.path[:] = [roots[path] if os.path.isfile(roots.get(path, "")) else path for path, _ in entries]  # a zip file
    directory = plan["directory"]
    places = snapshot_import.Places({directory: tree, os.path.realpath(directory): tree, **roots})
    snapshot_import.install(snapshot_import.Places(roots), places)
    return tree, lambda: snapshot_import.show_packaged_lines(places)
