"""Signals of the driver: clean-ups that no Ctrl-C cuts off, and SIGTERM as the orderly end of a body."""

from __future__ import annotations

import contextlib
import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

#: What an exit by a signal adds to its number, as shells have it.
BY_SIGNAL = 128


def is_main_thread() -> bool:
    """Whether this is the main thread: the only one that may set a handler, and in which handlers run."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Let a SIGINT wait until the block has ended, however many come; then its handler runs once.

    Elsewhere than in the main thread, where Python runs no handler, it does nothing. A handler that Python does not know, or
    none, stays as it is.
    """
    before = signal.getsignal(signal.SIGINT) if is_main_thread() else None
    if not callable(before):
        yield
        return
    came: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(signal.SIGINT, came[-1])


def end_body_by_sigterm() -> Callable[[], None]:
    """Make SIGTERM raise SystemExit in the main thread, which calls this; return what makes it as it was."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one does not cut the clean-up off
        raise SystemExit(BY_SIGNAL + number)

    before: Any = signal.signal(signal.SIGTERM, leave)

    def undo() -> None:
        if is_main_thread() and signal.getsignal(signal.SIGTERM) in (leave, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)

    return undo
