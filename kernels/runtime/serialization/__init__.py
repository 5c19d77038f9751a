"""Serialization of values that the native codec does not take, and of task errors; the native runtime calls it.

Futures in a call become dependencies of the task. Futures in a value (a result, `put_object`) are waited for and replaced by
their values. `picklers.py` writes, `unpickling.py` reads.
"""

from __future__ import annotations

import pickle
import re
import threading
import traceback

from flame_fast.kernels.runtime import ObjectFuture, forget_layouts, with_checksum
from flame_fast.kernels.runtime.serialization.carried import is_guard
from flame_fast.kernels.runtime.serialization.definitions import definitions
from flame_fast.kernels.runtime.serialization.notebooks import follow_cells, with_cells
from flame_fast.kernels.runtime.serialization.picklers import (
    PROTOCOL,
    dump_body,
    dump_service,
    is_same_service,
    layout_of,
    write,
)
from flame_fast.kernels.runtime.serialization.unpickling import choose_namespace, definition, load, load_body, unreadable

from flame_fast.errors import FlameError, RemoteTraceback, TaskError
from flame_fast.interrupts import is_of_a_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.runtime import Client

#: Characters of the error of a failed attempt that a later attempt's error tells.
ATTEMPT_CHARACTERS = 300

#: Exceptions that would end or confuse the driver if it raised them as themselves.
NOT_RAISED_AS_THEMSELVES = (SystemExit, KeyboardInterrupt, GeneratorExit)


#: How the error of a call begins whose result cannot be pickled.
UNSENT = "the task's result cannot be sent to the driver"


class Unpicklable(TypeError):
    """A value that cannot leave its process."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Reduce to a `TaskError`, which the driver gets when a task's result was such a value."""
        return (TaskError, (f"{UNSENT}: {self}",))


class Noted:
    """An exception that reduces itself without its notes; it is rebuilt with them."""

    def __init__(self, error: BaseException, notes: list[str]) -> None:
        self._parts = error, notes

    def __reduce__(self) -> tuple[Any, ...]:
        return (_with_notes, self._parts)


def _with_notes(error: BaseException, notes: list[str]) -> BaseException:
    error.__notes__ = notes
    return error


# ---- calls -----------------------------------------------------------------------------------------------------------


def dump_call(
    runtime: Client, state: tuple[Any, ...] | None, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: dict[int, Any]
) -> tuple[bytes, list[Any], list[Any], list[Any]]:
    """Pickle a call, with the function's state if it has one; add the futures met to `inputs`.

    Returns the pickle, buffers out of band, arrays beside it, and holds on the bodies that it refers to.

    Raises
    ------
    TypeError
        Something in it cannot be pickled; the message names the argument.
    """
    try:
        dump = write(runtime, (args, kwargs) if state is None else (state, args, kwargs), inputs)
        return dump.data, dump.buffers, dump.arrays, dump.holds
    except Exception as error:
        if _is_own(error):
            raise
        culprit = _culprit(runtime, args, kwargs)
        raise TypeError(f"{culprit} cannot be pickled and sent to a worker: {error}") from error


def _is_own(error: BaseException) -> bool:
    """Tell whether an error explains itself: of a future met on the way, of the store, of a foreign service."""
    return isinstance(error, (FlameError, KeyboardInterrupt))


def _culprit(runtime: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for label, value in named:
        try:
            write(runtime, value, {})
        except Exception:
            return f"{label} (of type {type(value).__qualname__})"
    return "something that the function has bound or closes over"


def adopt(runtime: Client, future: Any) -> ObjectFuture[Any]:
    """Return a future of `runtime` with the value, or the error, of a future of another runner.

    A thread of its own waits for an unfinished one, since submitting never blocks.
    """
    if future.done():
        local = runtime.promise()
        _pass_on(runtime, local, future)
        return local
    if future.is_lost():
        future.get()  # raises INVALID_STATE
    local = runtime.promise()
    try:
        threading.Thread(target=_pass_on, args=(runtime, local, future), name="flame-adopt", daemon=True).start()
    except RuntimeError as error:
        from flame_fast.scarcity import no_thread

        runtime.fulfil(local, None, dump_error(no_thread(error, "to wait for a future of another runner")))
    return local


def _pass_on(runtime: Client, local: ObjectFuture[Any], future: Any) -> None:
    try:
        value = future.get()
    except BaseException as error:
        runtime.fulfil(local, None, dump_error(error))
        return
    try:
        runtime.fulfil(local, value)
    except BaseException as error:
        runtime.fulfil(local, None, dump_error(error))


# ---- values ----------------------------------------------------------------------------------------------------------


def dump_value(runtime: Client, value: Any) -> tuple[bytes, list[Any], list[Any], list[Any]]:
    """Pickle a value as `dump_call` pickles a call; replace the futures in it by their values.

    Raises
    ------
    Unpicklable
        It cannot be pickled; the message names its type.
    """
    try:
        dump = write(runtime, value, None)
        return dump.data, dump.buffers, dump.arrays, dump.holds
    except BaseException as error:
        if isinstance(error, FlameError) or is_of_a_signal(error):
            raise
        raise Unpicklable(f"a value of type {type(value).__qualname__} cannot be pickled: {error}") from error


def release(runtime: Client) -> None:
    """Let the segment of a runner that ends keep no body any more that this process wrote."""
    definitions.leave(runtime.session)
    forget_layouts(runtime)


# ---- errors ----------------------------------------------------------------------------------------------------------


def dump_error(error: BaseException, shown: Callable[[str], str] = str, output: str | None = None) -> bytes:
    """Pickle an exception with its traceback's text, for `load_error` to rebuild.

    Parameters
    ----------
    error : BaseException
        The exception that the task raised. If it cannot be pickled or rebuilt, or is one of `NOT_RAISED_AS_THEMSELVES`, it
        becomes a `TaskError` with its text.
    shown : callable
        Turns paths in the traceback's text into the user's own.
    output : str, optional
        What the task printed, if it was captured.
    """
    text = shown("".join(traceback.format_exception(type(error), error, _users_frames(error.__traceback__))))
    data = None
    if not isinstance(error, NOT_RAISED_AS_THEMSELVES):
        data = _pickled_exception(error)
    if data is None:
        summary = "".join(traceback.format_exception_only(type(error), error)).strip()
        data = pickle.dumps(TaskError(f"the task raised {summary}; its traceback is the cause of this error"), PROTOCOL)
    return _parts(data, text, output)


def attempt_text(number: int, error: BaseException) -> str:
    """Return one line about a failed attempt of a call that is tried again."""
    summary = "".join(traceback.format_exception_only(type(error), error)).strip().partition("\n")[0]
    return f"attempt {number}: {summary[:ATTEMPT_CHARACTERS]}"


def _users_frames(frames: Any) -> Any:
    """Return the traceback without the runtime's frames in front of the user's; all of it if it has no others."""
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__name__", "").startswith("flame_fast."):
        inner = inner.tb_next
    return inner or frames


def _pickled_exception(error: BaseException) -> bytes | None:
    """Return a pickle that gives an equal exception back; None if there is none.

    An exception about a lock (or another guard of threads) has none: its copy would be about another lock.
    """
    try:
        if any(map(is_guard, error.args)):
            return None
        data = dump_body(error)
        copy = load_body(data)
        if isinstance(error, Unpicklable):
            return data
        same = type(copy) is type(error) and _without_addresses(copy) == _without_addresses(error)
        if not same or not isinstance(copy, BaseException):
            return None
        notes = getattr(error, "__notes__", [])
        return data if getattr(copy, "__notes__", []) == notes else dump_body(Noted(error, notes))
    except BaseException as problem:
        if is_of_a_signal(problem):
            raise
        return None


def _without_addresses(error: BaseException) -> str:
    """Return the exception's text without addresses, which differ for an object that has no text of its own."""
    return re.sub(r"\bat 0x[0-9a-fA-F]+", "at", str(error))


def _parts(data: bytes, *texts: str | None) -> bytes:
    """Return the tuple (bytes, str...) in the native codec behind its checksum; a text that is None is left out."""
    parts = [(b"b", data)]
    parts += [(b"s", text.encode("utf-8", "backslashreplace")) for text in texts if text is not None]
    written = [tag + len(part).to_bytes(8, "little") + part for tag, part in parts]
    return with_checksum(b"(" + len(parts).to_bytes(8, "little") + b"".join(written))


def load_error(data: bytes, text: str, output: str = "") -> BaseException:
    """Return a fresh copy of a task's exception, with the worker's traceback as its cause; see `dump_error`."""
    try:
        error = load_body(data)
    except BaseException as problem:
        if is_of_a_signal(problem):
            raise
        error = TaskError(f"the task's exception cannot be rebuilt here: {type(problem).__qualname__}: {problem}")
    error.__cause__ = RemoteTraceback(with_cells(text)) if text else None
    return error  # type: ignore[no-any-return]


def cancelled_error() -> BaseException:
    """Return what `get` raises of a cancelled call."""
    from concurrent.futures import CancelledError

    return CancelledError("this call, or one that it depends on, was cancelled, or dropped because nobody wanted its value")


__all__ = [
    "adopt",
    "attempt_text",
    "cancelled_error",
    "choose_namespace",
    "definition",
    "dump_body",
    "dump_call",
    "dump_error",
    "dump_service",
    "dump_value",
    "follow_cells",
    "is_same_service",
    "layout_of",
    "load",
    "load_body",
    "load_error",
    "release",
    "unreadable",
]
