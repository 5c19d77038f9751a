"""Warnings about a package: one for each reason, naming the paths."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMED = 10
_HERE = os.path.dirname(os.path.dirname(__file__))


class Notices:
    """Paths and messages that the user is to be warned about, by reason.

    Attributes
    ----------
    secrets, special, unreadable, outside, changed : list of bytes
        Paths.
    data : list of (bytes, int, int)
        Folders or files, the number of files, and their bytes.
    plain : list of str
        Whole messages.
    """

    __slots__ = ("secrets", "special", "unreadable", "outside", "changed", "data", "plain")

    def __init__(self) -> None:
        self.secrets: list[bytes] = []
        self.special: list[bytes] = []
        self.unreadable: list[bytes] = []
        self.outside: list[bytes] = []
        self.changed: list[bytes] = []
        self.data: list[tuple[bytes, int, int]] = []
        self.plain: list[str] = []

    def emit(self) -> None:
        """Issue a `UserWarning` for each reason that has paths."""
        if self.secrets:
            example = "!" + os.fsdecode(os.path.basename(min(self.secrets)))
            self._say(
                "left out of the package for they look like secrets",
                self.secrets,
                f"; to include one, write a rule such as {example!r} in .flameignore or package.excludes",
            )
        self._say("left out of the package for they are sockets, fifos or devices", self.special)
        self._say("left out of the package for they cannot be read", self.unreadable)
        self._say("left out of the package for they are links that point out of the directory", self.outside)
        self._say("changed while they were packed, so the package may hold half of a change", self.changed)
        self._say_data()
        for message in self.plain:
            warn_user(message)

    def _say_data(self) -> None:
        if not self.data:
            return
        found = sorted(self.data, key=lambda one: -one[2])
        named = [f"{printable(path)}: {counted(files)}{size_text(size)}" for path, files, size in found[:_NAMED]]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        warn_user(
            f"left out of the package, for it is data: {'; '.join(named)}{more}; workers see the directory itself for what "
            f"is not in the package. The rule {'/' + os.fsdecode(found[0][0])!r} in .flameignore leaves the first of them "
            "out for good; package.largest_file in the configuration is the size from which on data is left out"
        )

    def _say(self, what: str, paths: list[bytes], hint: str = "") -> None:
        if not paths:
            return
        names = sorted({printable(path) for path in paths})
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warn_user(f"{what}: {', '.join(names[:_NAMED])}{more}{hint}")


def counted(files: int) -> str:
    return "" if files == 1 else f"{files:,} files, "


def size_text(size: int) -> str:
    """Return bytes as text of three digits or so."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.{0 if size >= 10 * scale else 1}f} {unit}"
    return f"{size} bytes"


def printable(path: bytes) -> str:
    """Return a path for a message: quoted when it would break the line or the encoding."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)


def named_with_sizes(members: Iterable[tuple[bytes, int]]) -> str:
    """Return members and their bytes as text for a message."""
    return ", ".join(f"{printable(path)} ({size:,} bytes)" for path, size in members)


def warn_user(message: str) -> None:
    """Issue a `UserWarning` that points at the caller's line, the innermost outside this package."""
    import sys
    import warnings

    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE + os.sep):
        frame = frame.f_back
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)
