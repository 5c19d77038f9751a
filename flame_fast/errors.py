"""Errors that flame_fast raises of its own.

`FlameErrorCode` tells whose fault it is: the caller's (`INVALID_ARGUMENT`, `INVALID_STATE`, `ALREADY_EXISTS`, `NOT_FOUND`),
the configuration's (`INVALID_CONFIG`), or the runtime's (`INTERNAL`, with a subclass for each case that a caller may want to
catch). The codes and their numbers are those of Flame (xflops/flame, `flamepy.core.types`).

A message says what happened, to which name, and what to do about it: lower case, no full stop. About a value it says "name:
expected X, got Y".
"""

from __future__ import annotations

from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class FlameErrorCode(IntEnum):
    """Kinds of fault that a `FlameError` tells of."""

    INVALID_CONFIG = 0
    INVALID_STATE = 1
    INVALID_ARGUMENT = 2
    INTERNAL = 3
    ALREADY_EXISTS = 4
    NOT_FOUND = 5


class FlameError(Exception):
    """An error of flame_fast itself; a task's own exception is raised as it is.

    Parameters
    ----------
    code : FlameErrorCode
        The kind of fault.
    message : str
        What happened, to which name, and what to do.
    """

    def __init__(self, code: FlameErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = FlameErrorCode(code)
        self.message = message

    def __str__(self) -> str:
        return f"[{self.code.name}] {self.message}"


class WorkerDiedError(FlameError):
    """The process that ran the call ended before the call did: only this call failed."""

    def __init__(self, message: str) -> None:
        super().__init__(FlameErrorCode.INTERNAL, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message,))


class TaskTimeoutError(FlameError, TimeoutError):
    """A call ran longer than its time-out, or had not ended by its deadline."""

    def __init__(self, message: str) -> None:
        super().__init__(FlameErrorCode.INTERNAL, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message,))


class TaskError(FlameError):
    """A task's exception or result that cannot be transferred: its text and traceback instead."""

    def __init__(self, message: str) -> None:
        super().__init__(FlameErrorCode.INTERNAL, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message,))


class StoreFullError(FlameError, MemoryError):
    """The store is full: more shared memory was asked for than there is.

    Parameters
    ----------
    asked, free, limit : int
        Bytes asked for, bytes still free, and the most the store may take.
    what : str, optional
        What ran out, if not bytes of values.
    """

    def __init__(self, asked: int, free: int, limit: int, what: str = "shared memory") -> None:
        super().__init__(
            FlameErrorCode.INTERNAL,
            f"{what} is full: asked {asked:,} bytes, {free:,} free of a limit of {limit:,}; "
            "drop futures you no longer need, or pass less at once",
        )
        self.asked = asked
        self.free = free
        self.limit = limit
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.asked, self.free, self.limit, self.what))


class RemoteTraceback(Exception):
    """The `__cause__` of a task's exception: its text is the worker's traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text
