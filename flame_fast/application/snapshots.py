"""Snapshots of a runner: the one that it began with, and each that `Runner.refresh` has taken since.

Each is a lease on the application. All of them stay until the runner ends, since a worker may unpack a package late.
"""

from __future__ import annotations

import os
import threading
import time

from flame_fast.package.notices import warn_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from flame_fast.application.lifecycle import ApplicationLease


#: Bytes of a package that is read through for one file's content.
SMALL = 8 << 20


class Snapshots:
    """The leases of one runner.

    Parameters
    ----------
    lease : ApplicationLease
        The one that it began with.
    plan : dict
        Of `ApplicationLease.unpack_plan`.
    again : callable
        Acquires another lease of the same application.

    Attributes
    ----------
    project : dict, optional
        The plan by which workers import for services made now; None: the runner's first.
    """

    def __init__(self, lease: ApplicationLease, plan: dict[str, Any], again: Callable[[], ApplicationLease]) -> None:
        self.project: dict[str, Any] | None = None
        self._leases = [lease]
        self._plan = _lasting(plan)
        self._again = again
        self._taken = 0
        self._taken_ns = time.time_ns()
        self._known: dict[str, tuple[int, int] | None] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()

    @property
    def directory(self) -> str:
        """The directory that is packaged; empty if none is."""
        return self._leases[-1].directory if self._plan["archive"] else ""

    def packaged(self, path: str) -> bool:
        """Return whether the newest package has a file or directory."""
        return self._leases[-1].packaged(path)

    def refresh(self, sys_path: Iterable[str]) -> bool:
        """Take another snapshot; return whether there was anything new. Without a package there always is."""
        with self._lock:
            began = time.time_ns()
            if self._plan["archive"]:
                lease = self._again()
                plan = _lasting(lease.unpack_plan(sys_path))
                if _content(plan) == _content(self._plan):
                    lease.release()
                else:
                    self._leases.append(lease)
            else:
                plan = _lasting(self._leases[0].unpack_plan(sys_path))
            self._taken_ns = began
            self._known.clear()
            self._told.clear()
            if plan["archive"] and _content(plan) == _content(self._plan):
                return False
            self._plan = plan
            self._taken += 1
            self.project = {**plan, "number": self._taken}
            return True

    def warn_of_changes(self, runner: str, files: Iterable[str]) -> None:
        """Warn of files that differ from the newest snapshot, once for each."""
        changed = [path for path in files if path not in self._told and self._has_changed(path)]
        if changed:
            self._told.update(changed)
            more = f" and {len(changed) - 1} more files have" if len(changed) > 1 else " has"
            warn_user(
                f"{changed[0]}{more} changed since runner {runner!r} took its snapshot, which its workers import; "
                "Runner.refresh() takes a new one for the services made after it"
            )

    def _has_changed(self, path: str) -> bool:
        try:
            now = os.stat(path)
        except OSError:  # gone: the snapshot has what the driver has imported
            return False
        if path not in self._known:
            self._known[path] = self._leases[-1].packaged_times(path)
        before = self._known[path]
        if before is None:
            return now.st_ctime_ns > self._taken_ns  # made since; an older one is left out by a rule
        if before == (now.st_size, now.st_mtime_ns):
            return False
        return before[0] != now.st_size or not self._is_same(path)

    def _is_same(self, path: str) -> bool:
        """Tell whether a file of another time has the content that was packaged, as far as that is soon told."""
        place = os.path.relpath(path, self.directory)
        try:
            with open(path, "rb") as file:
                return file.read() == self._packaged_content(place)
        except (OSError, EOFError, KeyError):
            return False

    def _packaged_content(self, place: str) -> bytes | None:
        try:
            with open(os.path.join(self._plan["tree"], place), "rb") as file:
                return file.read()
        except FileNotFoundError:  # no worker has needed it yet
            if os.stat(self._plan["archive"]).st_size > SMALL:
                return None
        import tarfile

        with tarfile.open(self._plan["archive"]) as archive:
            found = archive.extractfile(place)
            return None if found is None else found.read()

    def release(self) -> None:
        """Release all leases."""
        try:
            for lease in self._leases[1:]:
                lease.release()
        finally:
            self._leases[0].release()


def _lasting(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a plan without what names its owner."""
    return {name: value for name, value in plan.items() if name != "token"}


def _content(plan: dict[str, Any]) -> tuple[Any, ...]:
    return plan["digest"], plan["sys_path"], plan["outside"]
