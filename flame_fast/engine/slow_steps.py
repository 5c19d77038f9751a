"""Slow steps before a task's own work, told on a terminal: imports, unpacking, compiling.

    worker --- frame in the pipe of standard error ---> driver: one line, if the step is not over after SLOW_S
    supervisor --- message of its socket -------------/

Workers tell of their steps only to a driver that has a terminal.
"""

from __future__ import annotations

import contextlib
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from flame_fast.engine.log_records import RecordSender

#: Seconds after which a step is told.
SLOW_S = 2.0

#: Stands for the supervisor where a worker has the number of its process.
SUPERVISOR = 0


class StepSender:
    """Tells the driver what this worker does before it runs a task.

    Parameters
    ----------
    records : RecordSender
        Sends a step in words to the driver, empty for its end.
    """

    def __init__(self, records: RecordSender) -> None:
        self._records = records
        self._is_wanted = False
        self._steps: list[str] = []

    def want(self) -> None:
        """Begin: the driver has a terminal."""
        self._is_wanted = True
        self._records.keep_pipe()

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Tell of a step for the length of a `with`, then of the one around it."""
        self.begin(text)
        try:
            yield
        finally:
            self.end()

    def begin(self, text: str) -> None:
        self._steps.append(text)
        self._tell()

    def end(self) -> None:
        self._steps.pop()
        self._tell()

    def _tell(self) -> None:
        if self._is_wanted:
            self._records.write(self._steps[-1] if self._steps else "")

    def watch_compiler(self) -> None:
        """Tell of what Numba compiles. It is loaded."""
        from numba.core import event

        sender = self

        class Compilations(event.Listener):  # type: ignore[misc]  # Numba has no types
            def on_start(self, event: Any) -> None:
                sender.begin(f"compiles {event.data['dispatcher'].py_func.__qualname__}()")

            def on_end(self, event: Any) -> None:
                sender.end()

        event.register("numba:compile", Compilations())


class SlowSteps:
    """What the driver knows of its processes' steps."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[str, float]] = {}  # by process
        self._told: set[str] = set()

    def note(self, pid: int, text: str) -> None:
        """Note that a process has begun a step; with an empty text: that it is at none."""
        self._begun.pop(pid, None)
        if text and text not in self._told:
            self._begun[pid] = text, time.monotonic()

    def left(self) -> float | None:
        """Return the seconds until `due` may return a line; None: no step goes on."""
        if not self._begun:
            return None
        return max(0.0, min(since for _, since in self._begun.values()) + SLOW_S - time.monotonic())

    def due(self) -> list[str]:
        """Return a line for each step that has become slow. Many processes at the same step are one."""
        now = time.monotonic()
        lines = []
        for pid, (text, since) in list(self._begun.items()):
            if now - since < SLOW_S:
                continue
            del self._begun[pid]
            if text not in self._told:
                self._told.add(text)
                who = "the supervisor" if pid == SUPERVISOR else f"worker {pid}"
                lines.append(f"{who} {text}, for {now - since:.0f} seconds by now")
        return lines
