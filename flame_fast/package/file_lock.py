"""Files of the data directory: locks on them, whether a locked one is still there, and who may read them."""

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


def private(path: str, flags: int) -> int:
    """Open a file for `open`, as its `opener`: what it makes only this user can read."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


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
