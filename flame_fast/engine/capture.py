"""Captures: what a task prints, kept for its future instead of shown."""

from __future__ import annotations

import contextlib
import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Lines that the error of a call has of what it, or its process, printed before the process died.
LAST_LINES = 20

#: Where a `Mirror` begins in its file: the fault handler writes its stacks before.
MIRROR_AT = 1 << 20

#: Bytes of a mirrored text; of a longer one the end is kept.
MOST_MIRRORED = 1 << 20

#: Bytes of a call's number in front of its text.
NUMBER_BYTES = 8


class Mirror:
    """A copy of what the running call has printed, in a file that outlives its process.

    Parameters
    ----------
    fd : int
        Of the file; -1: there is none, and nothing is kept.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = MIRROR_AT

    def begin(self, call: int, text: str) -> None:
        """Keep a call's text, in place of what was kept before."""
        data = text.encode("utf-8", "backslashreplace")
        self.clear()
        self._append(call.to_bytes(NUMBER_BYTES, "little") + data[-MOST_MIRRORED // 2 :])

    def add(self, text: str) -> bool:
        """Keep more of a call's text; return False if it becomes too long, to begin again with all of it."""
        data = text.encode("utf-8", "backslashreplace")
        if self._end + len(data) > MIRROR_AT + MOST_MIRRORED:
            return False
        self._append(data)
        return True

    def clear(self) -> None:
        """Keep nothing."""
        self._end = MIRROR_AT
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.truncate(self._fd, MIRROR_AT)

    def _append(self, data: bytes) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # no memory left, or a task has closed the file
                self._end += os.pwrite(self._fd, data, self._end)


def mirrored(fd: int) -> tuple[int, str] | None:
    """Return the number of the call whose text an ended process's `Mirror` keeps, and the text; None if there is none."""
    data = os.pread(fd, NUMBER_BYTES + MOST_MIRRORED, MIRROR_AT)
    if len(data) < NUMBER_BYTES:
        return None
    return int.from_bytes(data[:NUMBER_BYTES], "little"), data[NUMBER_BYTES:].decode("utf-8", "replace")


class Capture:
    """Keeps what is written to some streams between `__enter__` and `__exit__`, which may come again.

    Parameters
    ----------
    call : int
        The number of the call that writes it.
    streams : sequence
        Objects whose attribute `capture` is None, or takes the text that is written to them by its `write`.
    mirror : Mirror
    """

    def __init__(self, call: int, streams: tuple[Any, ...], mirror: Mirror) -> None:
        self._call = call
        self._streams = streams
        self._mirror = mirror
        self._text = io.StringIO()

    def __enter__(self) -> None:
        for stream in self._streams:
            stream.capture = self
        if text := self.text():  # a task in its wait is over
            self._mirror.begin(self._call, text)

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.capture = None
        if self.text():
            self._mirror.clear()

    def write(self, text: str) -> int:
        first = not self._text.tell()
        self._text.write(text)
        if first or not self._mirror.add(text):
            self._mirror.begin(self._call, self.text())
        return len(text)

    def text(self) -> str:
        return self._text.getvalue()


class StandardCapture(Capture):
    """Keeps what is written to `sys.stdout` and `sys.stderr` of a process that has streams of its own."""

    def __init__(self, call: int) -> None:
        super().__init__(call, (), Mirror(-1))
        self._before: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        self._before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self._text

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before
