"""Removal of trees: without recursion, in one descriptor, in time that grows with the number of entries, however deep."""

from __future__ import annotations

import contextlib
import os

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Remove a directory and what is in it, or what else is there under that name; what cannot be removed stays.

    No link is followed. On its way up the walk checks that it comes back to the directory that it came from: one that is
    moved meanwhile ends the removal.
    """
    directory, name = os.path.split(path)
    try:
        at = os.open(directory, _FLAGS)
    except OSError:
        return
    above = [_Level("", _identity(at), [name])]
    try:
        while above:
            level = above[-1]
            if level.directories:
                below = _enter(level.directories[-1], at)
                if below is None:
                    level.directories.pop()
                    continue
                os.close(at)
                at = below
                above.append(_Level(level.directories[-1], _identity(at), _empty(at)))
                continue
            above.pop()
            if above:
                up = os.open("..", _FLAGS, dir_fd=at)
                os.close(at)
                at = up
                if _identity(at) != above[-1].identity:
                    return
                above[-1].directories.pop()
                with contextlib.suppress(OSError):
                    os.rmdir(level.name, dir_fd=at)
    except OSError:
        pass
    finally:
        os.close(at)


class _Level:
    """A directory on the way down: its name in the one above, which one it is, and the directories left in it."""

    __slots__ = ("name", "identity", "directories")

    def __init__(self, name: str, identity: tuple[int, int], directories: list[str]) -> None:
        self.name = name
        self.identity = identity
        self.directories = directories


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _enter(name: str, at: int) -> int | None:
    """Open a directory; remove what is none."""
    try:
        return os.open(name, _FLAGS, dir_fd=at)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=at)
        return None


def _empty(descriptor: int) -> list[str]:
    """Remove what is no directory; return the names of the others."""
    directories = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.name, dir_fd=descriptor)
    return directories
