"""Work on many pieces on several threads, its results taken in order."""

from __future__ import annotations

import _thread
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

MOST_THREADS = 8
"""More would outrun the disk, and each has memory for a block."""

_AHEAD = 2
"""Results per thread that may wait for one before them."""

_LOOK_S = 0.1
"""How often to look whether the threads have ended, should their call have been missed."""


def threads_for(pieces: int) -> int:
    """How many threads to use for so many pieces of work."""
    if pieces < 2:
        return 1
    from flame_fast.resources import available_cpus

    return min(pieces, available_cpus(), MOST_THREADS)


def in_order(
    new_worker: Callable[[], Callable[[int], Result]], count: int, threads: int, take: Callable[[int, Result], None]
) -> None:
    """Call ``take(number, worker(number))`` for numbers from 0 to `count`, in order.

    Parameters
    ----------
    new_worker : callable
        Called once on each thread; makes what does the work there, which should release the GIL.
    count, threads : int
        How many pieces of work, on how many threads.
    take : callable
        Called on any of the threads, by one at a time.

    Raises
    ------
    BaseException
        The first that one of them raised, or a signal handler of the caller; when all threads have ended.
    """
    started: list[int] = []
    if threads > 1:
        import threading
        from itertools import repeat

        shared = _Shared(new_worker, count, threads, take, threading.Condition())
        try:
            # All in one native call: a signal's handler runs before it or after it, so no thread is forgotten.
            started.extend(map(_thread.start_new_thread, repeat(shared.run, threads), repeat(())))
        except RuntimeError:
            pass  # the system has no more threads: fewer do as well
        except BaseException as error:
            shared.error = shared.error or error
        shared.wait(started)
        if shared.error is not None:
            raise shared.error
    if not started:
        work = new_worker()
        for number in range(count):
            take(number, work(number))


class _Shared:
    """What the threads of one `in_order` share. It changes under `condition`, which the caller's thread never takes.

    There a signal's handler may raise between any two steps, so that the condition would stay taken; the caller only sets
    `error`, which threads look at before each piece, and waits until they have ended: what they work with is closed then.
    """

    def __init__(
        self,
        new_worker: Callable[[], Callable[[int], Any]],
        count: int,
        threads: int,
        take: Callable[[int, Any], None],
        condition: Any,
    ) -> None:
        self.error: BaseException | None = None
        self._new_worker = new_worker
        self._count = count
        self._take = take
        self._condition = condition
        self._ahead = _AHEAD * threads
        self._begun = 0
        self._taken = 0
        self._waiting: dict[int, Any] = {}
        self._taking = False
        self._ended: list[None] = []
        self._call = _thread.allocate_lock()
        self._call.acquire()

    def wait(self, started: list[int]) -> None:
        """Wait until so many threads have ended, whatever a signal's handler says meanwhile."""
        while len(self._ended) < len(started):
            try:
                self._call.acquire(timeout=_LOOK_S)
            except BaseException as error:
                self.error = self.error or error

    def run(self) -> None:
        """One thread's work."""
        try:
            work = self._new_worker()
            while (number := self._begin()) is not None:
                result = work(number)
                with self._condition:
                    self._waiting[number] = result
                self._take_what_is_ready()
        except BaseException as error:
            self.error = self.error or error
        with self._condition:
            self._condition.notify_all()  # those who wait for what will not come now
        self._ended.append(None)
        with suppress(RuntimeError):  # one call is as good as two
            self._call.release()

    def _begin(self) -> int | None:
        """The next piece of work, None when there is none."""
        with self._condition:
            while self._begun - self._taken >= self._ahead and self.error is None:
                self._condition.wait()
            if self._begun == self._count or self.error is not None:
                return None
            self._begun += 1
            return self._begun - 1

    def _take_what_is_ready(self) -> None:
        while True:
            with self._condition:
                if self._taking or self._taken not in self._waiting or self.error is not None:
                    return
                self._taking = True
                number, result = self._taken, self._waiting.pop(self._taken)
            self._take(number, result)
            with self._condition:
                self._taking = False
                self._taken += 1
                self._condition.notify_all()
