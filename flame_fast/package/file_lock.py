"""Locks on files: one process at a time in a directory, and whether a locked file is still there."""

from __future__ import annotations

import contextlib
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def exclusive(directory: str) -> Iterator[None]:
    """Hold the directory's ``.lock``; another process that wants it waits."""
    descriptor = os.open(os.path.join(directory, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile holds it, too
        os.close(descriptor)


def still_names(path: str, descriptor: int) -> bool:
    """Return whether a path still names the file that is open.

    A lock on a file that another process has removed meanwhile excludes no other process.
    """
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
