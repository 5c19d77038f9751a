"""Signals of the driver: clean-ups that no Ctrl-C cuts off, and SIGTERM as the orderly end of a body."""

from __future__ import annotations

import contextlib
import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType
    from typing import Any

#: What an exit by a signal adds to its number, as shells have it.
BY_SIGNAL = 128


def is_main_thread() -> bool:
    """Whether this is the main thread: the only one that may set a handler, and in which handlers run."""
    return threading.current_thread() is threading.main_thread()


def is_of_a_signal(error: BaseException) -> bool:
    """Tell whether a handler of a signal has raised an exception, rather than the code that the signal met.

    Python calls a handler with the frame that it has interrupted. Its own handler of SIGINT has no frame: what it raises
    comes from an instruction that raises nothing.
    """
    if not is_main_thread():
        return False
    frames = error.__traceback__
    interrupted = None
    while frames is not None:
        if interrupted is not None and _has_argument(frames.tb_frame, interrupted):
            return True
        interrupted = frames.tb_frame
        if frames.tb_next is None:
            return isinstance(error, KeyboardInterrupt) and not _is_raise(frames.tb_frame.f_code, frames.tb_lasti)
        frames = frames.tb_next
    return False


def _has_argument(frame: FrameType, value: object) -> bool:
    """Whether a call has a value among its arguments."""
    code, found = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 2]  # with *args and **kwargs, or two variables
    arguments = [found.get(name) for name in names]
    return any(item is value for item in arguments) or any(
        item is value for argument in arguments if isinstance(argument, tuple) for item in argument
    )


def _is_raise(code: CodeType, offset: int) -> bool:
    """Whether the instruction at an offset of some code is a `raise`."""
    import opcode

    return code.co_code[offset] == opcode.opmap["RAISE_VARARGS"]


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
