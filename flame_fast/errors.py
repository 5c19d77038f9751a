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
    from collections.abc import Sequence
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
        self.code: FlameErrorCode = FlameErrorCode(code)
        self.message = message

    def __str__(self) -> str:
        return f"[{self.code.name}] {self.message}"


class WorkerDiedError(FlameError):
    """The process that ran the call ended before the call did: only this call failed.

    What is not known is None, or empty.

    Attributes
    ----------
    service, method : str
        What was called; the method is None for a function.
    call : int
        The call's number, as its future's repr has it while the future lives.
    signal : str
        The name of the signal that ended the process.
    exit_code : int
        The exit code, if no signal ended it.
    run_time : float
        Seconds that the call had run.
    peak_memory : int
        Bytes of memory that the process had at most, shared memory included.
    out_of_memory : bool
        Whether the kernel ended it for want of memory.
    stack : str
        The Python stack of its threads, where the fault handler could write it.
    output : list of str
        The last lines that the process printed; only in the process that made the Runner.
    arguments : list of str
        Types and sizes of the call's arguments.
    pid : int
        The process's id.
    """

    service: str | None = None
    method: str | None = None
    call: int | None = None
    signal: str | None = None
    exit_code: int | None = None
    run_time: float | None = None
    peak_memory: int | None = None
    out_of_memory: bool | None = None
    stack: str = ""
    output: Sequence[str] = ()
    arguments: Sequence[str] = ()
    pid: int | None = None

    def __init__(self, message: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(FlameErrorCode.INTERNAL, message)
        self.facts: dict[str, Any] = dict(facts or {})
        self.__dict__.update(self.facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message, self.facts))

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {line}" for line in self._details())])

    def _details(self) -> list[str]:
        told = []
        if self.run_time is not None:
            told.append(f"the call had run for {self.run_time:.3g} s")
        if self.peak_memory is not None:
            told.append(f"the process had {self.peak_memory / 2**20:,.0f} MiB of memory at most")
        lines = ["; ".join(told)] if told else []
        if self.arguments:
            lines.append(f"its arguments: {'; '.join(self.arguments)}")
        for title, text in (("its Python stack:", self.stack.splitlines()), ("it printed last:", self.output)):
            lines += [title, *(f"  {line}" for line in text)] if text else []
        return lines


class _MessageError(FlameError):
    """An error with the code `INTERNAL` that is made from its message alone."""

    def __init__(self, message: str) -> None:
        super().__init__(FlameErrorCode.INTERNAL, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message,))


class TaskTimeoutError(_MessageError, TimeoutError):
    """A call ran longer than its time-out, or had not ended by its deadline."""


class TaskError(_MessageError):
    """A task's exception or result that cannot be transferred: its text and traceback instead."""


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
