"""Work on many pieces on several threads, its results taken in order."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

MOST_THREADS = 8
"""More would outrun the disk, and each has memory for a block."""

_AHEAD = 2
"""Results per thread that may wait for one before them."""


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
        How many pieces of work, on how many threads, the calling one among them.
    take : callable
        Called on any of the threads, by one at a time.

    Raises
    ------
    BaseException
        The first that one of them raised, when all threads have ended.
    """
    if threads < 2:
        work = new_worker()
        for number in range(count):
            take(number, work(number))
        return
    import threading

    shared = _Shared(new_worker, count, threads, take, threading.Condition())
    helpers = []
    try:
        for _ in range(threads - 1):
            helper = threading.Thread(target=shared.run, name="flame-pack", daemon=True)
            helpers.append(helper)
            helper.start()
    except RuntimeError:
        helpers.pop()  # the system has no more threads: fewer do as well
    except BaseException as error:
        shared.stop(error)
    shared.run()
    for helper in helpers:
        _join(helper, shared)
    if shared.error is not None:
        raise shared.error


def _join(helper: Any, shared: _Shared) -> None:
    """Wait for a thread's end, whatever Ctrl-C says: what it works with is closed afterwards."""
    while helper.is_alive():
        try:
            helper.join()
        except KeyboardInterrupt as error:
            shared.stop(error)


class _Shared:
    """What the threads of one `in_order` share; all of it changes under `condition`."""

    def __init__(
        self,
        new_worker: Callable[[], Callable[[int], Result]],
        count: int,
        threads: int,
        take: Callable[[int, Result], None],
        condition: object,
    ) -> None:
        self.error: BaseException | None = None
        self._new_worker = new_worker
        self._count = count
        self._take = take
        self._condition: Any = condition
        self._ahead = _AHEAD * threads
        self._begun = 0
        self._taken = 0
        self._waiting: dict[int, Any] = {}
        self._taking = False

    def run(self) -> None:
        try:
            work = self._new_worker()
            while (number := self._begin()) is not None:
                result = work(number)
                with self._condition:
                    self._waiting[number] = result
                self._take_what_is_ready()
        except BaseException as error:
            self.stop(error)

    def stop(self, error: BaseException) -> None:
        """Let all threads end, for this reason."""
        with self._condition:
            self.error = self.error or error
            self._condition.notify_all()

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
                if self._taking or self._taken not in self._waiting:
                    return
                self._taking = True
                number, result = self._taken, self._waiting.pop(self._taken)
            self._take(number, result)
            with self._condition:
                self._taking = False
                self._taken += 1
                self._condition.notify_all()
