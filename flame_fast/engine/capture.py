"""Captures: what a task prints, kept for its future instead of shown."""

from __future__ import annotations

import io
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Capture:
    """Keeps what is written to some streams between `__enter__` and `__exit__`, which may come again.

    Parameters
    ----------
    streams : sequence
        Objects whose attribute `capture` is None, or takes the text that is written to them by its `write`.
    """

    def __init__(self, streams: tuple[Any, ...]) -> None:
        self._streams = streams
        self._text = io.StringIO()

    def __enter__(self) -> None:
        for stream in self._streams:
            stream.capture = self._text

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.capture = None

    def text(self) -> str:
        return self._text.getvalue()


class StandardCapture(Capture):
    """Keeps what is written to `sys.stdout` and `sys.stderr` of a process that has streams of its own."""

    def __init__(self) -> None:
        super().__init__(())
        self._before: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        self._before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self._text

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before
