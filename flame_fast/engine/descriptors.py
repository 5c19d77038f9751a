"""Descriptors of the driver, which the user may close behind the runtime's back, and open again as something else."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    #: Device, inode and type of an open file. All eventfds and pidfds have one inode, and no type.
    Identity: TypeAlias = tuple[int, int, int]


def identity(fd: int) -> Identity | None:
    """Return which file a descriptor is of; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


class Descriptor:
    """A descriptor that is closed only as long as it is of the same file.

    Parameters
    ----------
    fd : int
        Open; the object owns it.
    """

    __slots__ = ("_identity", "fd")

    def __init__(self, fd: int) -> None:
        self.fd: int = fd
        self._identity = identity(fd)

    def is_open(self) -> bool:
        """Whether it is open, and still of the same file."""
        return self._identity is not None and identity(self.fd) == self._identity

    def close(self) -> None:
        """Close it, unless the user has, whatever its number stands for by now. Idempotent."""
        if self.is_open():
            os.close(self.fd)
        self._identity = None
