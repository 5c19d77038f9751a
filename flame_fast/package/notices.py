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
    plain : list of str
        Whole messages.
    """

    __slots__ = ("secrets", "special", "unreadable", "outside", "changed", "plain")

    def __init__(self) -> None:
        self.secrets: list[bytes] = []
        self.special: list[bytes] = []
        self.unreadable: list[bytes] = []
        self.outside: list[bytes] = []
        self.changed: list[bytes] = []
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
        for message in self.plain:
            warn_user(message)

    def _say(self, what: str, paths: list[bytes], hint: str = "") -> None:
        if not paths:
            return
        names = sorted({printable(path) for path in paths})
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warn_user(f"{what}: {', '.join(names[:_NAMED])}{more}{hint}")


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
