"""A runner's lifetime: its end undoes its start, once, however it comes."""

from __future__ import annotations

import weakref

from flame_fast.interrupts import interrupts_deferred

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How a runner ends, in messages after its name.
CLOSED = "was closed"
UNCLOSED = "was dropped without close() (no reference to the Runner was left, or the program ended)"


class Lifetime:
    """A runner's time from its start to its end; the end undoes the start once.

    The end comes by `close()`, by the garbage collection of the runner, or by the interpreter's exit.

    Parameters
    ----------
    runner : object
        The lifetime holds no reference to it.
    undo : callable
        Takes how the runner ended; returns how many unfinished calls that dropped.
    """

    def __init__(self, runner: object, undo: Callable[[str], int]) -> None:
        self.is_over: bool = False
        self._undo = undo
        self._finalizer = weakref.finalize(runner, undo, UNCLOSED)

    def close(self) -> int:
        """End it; return how many unfinished calls that dropped. Idempotent. A Ctrl-C waits until it has ended."""
        with interrupts_deferred():
            self.is_over = True
            return 0 if self._finalizer.detach() is None else self._undo(CLOSED)
