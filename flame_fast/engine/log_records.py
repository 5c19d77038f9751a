"""Log records of tasks: a worker sends those that it has no handler for to the driver, whose loggers handle them.

    task --> logger --> handler on the worker's root logger --> frames in the pipe of standard error --> driver's logger

A record travels in the pipe of standard error, so it keeps its place among what is printed there. Neither side loads
`logging`: the worker's is set up once a task's code has loaded it, and the driver's with the first record.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from logging import LogRecord
    from typing import Any

#: What a frame begins with, before the runner's number: no text has it.
MARK = b"\0flame_fast record\0"

#: Behind the mark: process and number of the record, frames of it that follow, bytes in this one.
HEAD = struct.Struct("<IIHH")

#: Bytes that the kernel writes to a pipe in one piece, whoever else writes.
WHOLE = 4096

#: How deep containers in a record's own attributes are looked through.
DEPTH = 4

#: The descriptor of standard error.
STDERR = 2

#: The root logger's name here.
ROOT = ""

#: Levels as `logging` has them, which is not loaded for them.
NOTSET, WARNING = 0, 30


def mark_of(session: int) -> bytes:
    """Return what frames of a runner begin with."""
    return MARK + session.to_bytes(8, "little")


# ---- levels ------------------------------------------------------------------------------------------------------------


def levels_here() -> dict[str, int] | None:
    """Return the levels that loggers of this process have been given, by their names; None if it has not loaded logging."""
    logging = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "captureWarnings"):  # not whole yet
        return None
    known = dict(logging.Logger.manager.loggerDict)
    levels = {name: one.level for name, one in known.items() if isinstance(one, logging.Logger) and one.level != NOTSET}
    return {ROOT: logging.root.level, **levels}


# ---- the worker's side -------------------------------------------------------------------------------------------------


class RecordSender:
    """Sends the log records of this worker's tasks to the driver.

    Parameters
    ----------
    session : int
        The runner's number.
    shown : callable
        Turns paths of the unpacked project in a text into the user's own.
    told : callable
        Called after each record.
    """

    def __init__(self, session: int, shown: Callable[[str], str], told: Callable[[], object]) -> None:
        self._fd = STDERR
        self._mark = mark_of(session)
        self._shown = shown
        self._told = told
        self._number = 0
        self._installed = False
        self._levels: dict[str, int] = {}  # the driver's
        self._set: dict[str, int] = {}  # those set here

    def follow(self, levels: dict[str, int] | None) -> None:
        """Give loggers the driver's levels, but for those that got others here."""
        self._levels = levels or {}
        if self._installed and self._levels != self._set:
            self._apply()

    def install(self) -> None:
        """Begin: `logging` is loaded."""
        import logging

        self.keep_pipe()
        handler = _handler_of(self)
        logging.root.addHandler(handler)
        configure = logging.basicConfig

        def basicConfig(**options: Any) -> None:  # noqa: N802
            # It does nothing if the root logger has a handler: ours shall not count.
            logging.root.removeHandler(handler)
            try:
                configure(**options)
            finally:
                logging.root.addHandler(handler)

        basicConfig.__doc__ = configure.__doc__
        logging.basicConfig = basicConfig
        self._installed = True
        self._apply()

    def keep_pipe(self) -> None:
        """Write to the same pipe from now on, whatever a task does to standard error. Idempotent."""
        if self._fd == STDERR:
            import fcntl

            with contextlib.suppress(OSError):  # no descriptor left
                self._fd = fcntl.fcntl(STDERR, fcntl.F_DUPFD_CLOEXEC, 3)

    def _apply(self) -> None:
        import logging

        for name in {*self._levels, *self._set}:
            before = self._set.get(name, NOTSET if name else WARNING)
            logger = logging.getLogger(name) if name else logging.root
            if logger.level == before:  # a task's code has set no other
                logger.setLevel(self._levels.get(name, NOTSET if name else WARNING))
        self._set = self._levels

    def send(self, record: LogRecord) -> None:
        """Write a record to the pipe."""
        self.write(_plain_state(record, self._shown))

    def write(self, value: dict[str, Any] | str) -> None:
        """Write a record's attributes, or a step (`engine.slow_steps`), to the pipe."""
        data = pickle.dumps(value, 5)
        self._number += 1
        room = WHOLE - len(self._mark) - HEAD.size
        starts = range(0, len(data), room)
        for left, start in zip(reversed(range(len(starts))), starts, strict=True):
            part = data[start : start + room]
            head = HEAD.pack(os.getpid(), self._number & 0xFFFFFFFF, left, len(part))
            with contextlib.suppress(BrokenPipeError):  # the driver had no descriptor left for the pipe, and says so
                os.write(self._fd, self._mark + head + part)
        self._told()


def _handler_of(sender: RecordSender) -> Any:
    """Return the handler of a worker's root logger."""
    import logging

    class DriverHandler(logging.Handler):
        """Has the driver's loggers handle the records that no handler of the task's code takes."""

        def emit(self, record: LogRecord) -> None:
            try:
                if _is_taken(record, self):
                    return
                stream = sys.stderr
                if getattr(stream, "capture", None) is not None:
                    stream.write(self.format(record) + "\n")
                else:
                    sender.send(record)
            except Exception:
                self.handleError(record)

    return DriverHandler()


def _is_taken(record: LogRecord, ours: object) -> bool:
    """Tell whether another handler than ours takes a record."""
    import logging

    logger: Any = logging.getLogger(record.name) if record.name != logging.root.name else logging.root
    while logger is not None:
        if any(one is not ours and not isinstance(one, logging.NullHandler) for one in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _plain_state(record: LogRecord, shown: Callable[[str], str]) -> dict[str, Any]:
    """Return a record's attributes as values of built-in types: the driver may be unable to load others."""
    import logging

    state = dict(vars(record))
    message = record.getMessage()  # what is wrong with it is told here, with the task's stack
    if type(record.msg) is not str or not _is_plain(record.args):
        state["msg"], state["args"] = message, None
    if record.exc_info and not record.exc_text:
        state["exc_text"] = logging.Formatter().formatException(record.exc_info)
    state["exc_info"] = None
    for name in ("exc_text", "stack_info", "pathname"):
        if state[name]:
            state[name] = shown(state[name])
    return {name: value if _is_plain(value) else repr(value) for name, value in state.items()}


def _is_plain(value: Any, depth: int = DEPTH) -> bool:
    kind = type(value)
    if kind in (str, int, float, bool, bytes, type(None), complex):
        return True
    if not depth:
        return False
    if kind in (tuple, list):
        return all(_is_plain(one, depth - 1) for one in value)
    return kind is dict and all(_is_plain(one, depth - 1) for item in value.items() for one in item)


# ---- the driver's side -------------------------------------------------------------------------------------------------


class RecordReader:
    """Finds the records in what was read of one pipe.

    Parameters
    ----------
    mark : bytes
        Of `mark_of`.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._parts: dict[tuple[int, int], list[bytes]] = {}  # of records that have not arrived whole
        self.held: bytes = b""  # the beginning of a frame

    def split(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield pieces of text, each with the record that follows it, empty for none."""
        if self.held:
            data, self.held = self.held + data, b""
        while (start := data.find(self._mark)) >= 0:
            body = start + len(self._mark) + HEAD.size
            if len(data) < body:
                break
            pid, number, left, length = HEAD.unpack_from(data, body - HEAD.size)
            if len(data) < body + length:
                break
            parts = self._parts.setdefault((pid, number), [])
            parts.append(data[body : body + length])
            yield data[:start], b"" if left else b"".join(self._parts.pop((pid, number)))
            data = data[body + length :]
        if start < 0:
            start = len(data) - self._begun(data)
        self.held = data[start:]
        if start:
            yield data[:start], b""

    def _begun(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a mark."""
        most = min(len(self._mark) - 1, len(data))
        if most and self._mark[0] in data[-most:]:
            for count in range(most, 0, -1):
                if data.endswith(self._mark[:count]):
                    return count
        return 0


def handle(state: dict[str, Any]) -> str:
    """Have this process's loggers handle a record; return it as a line."""
    import logging

    record = logging.makeLogRecord(state)
    logger = logging.getLogger(record.name) if record.name != logging.root.name else logging.root
    line = f"{record.levelname}:{record.name}:{record.getMessage()}"
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
    return line
