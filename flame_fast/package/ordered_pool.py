"""Thread pool with ordered results: several threads work on many pieces, and take the results one by one."""

from __future__ import annotations

import _thread
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

#: More threads would outrun the disk, and each has memory for a block.
MOST_THREADS = 8

#: Results per thread that may wait for an earlier one.
_AHEAD = 2

#: How often the caller looks whether the threads have ended, in case it misses their wake-up.
_LOOK_S = 0.1


def threads_for(pieces: int) -> int:
    """Return how many threads to use for a number of pieces of work."""
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
        Called once on each thread; returns the function that does the work there, which should release the GIL.
    count, threads : int
        Number of pieces of work, and of threads.
    take : callable
        Called on any of the threads, one call at a time.

    Raises
    ------
    BaseException
        The first that a thread, or a signal handler of the caller, raised. It is raised when all threads have ended.
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
    """The shared state of one `in_order`. Threads change it under `condition`, which the caller's thread never takes.

    In the caller's thread a signal handler may raise between any two steps, and the condition would stay taken. So the
    caller only sets `error`, which threads check before each piece, and waits until they have ended: only then does it close
    the files that they use.
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
        """Wait until all started threads have ended, even if a signal handler raises meanwhile."""
        while len(self._ended) < len(started):
            try:
                self._call.acquire(timeout=_LOOK_S)
            except BaseException as error:
                self.error = self.error or error

    def run(self) -> None:
        """Work on pieces until none is left; the main function of a thread."""
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
            self._condition.notify_all()  # wake the threads that wait for a result that will not come
        self._ended.append(None)
        with suppress(RuntimeError):  # another thread has released it already, which is enough
            self._call.release()

    def _begin(self) -> int | None:
        """Return the number of the next piece of work; None when there is none."""
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
