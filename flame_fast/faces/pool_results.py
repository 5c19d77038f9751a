"""What the methods of `Pool` return, and the thread that runs their callbacks."""

from __future__ import annotations

import contextlib
import functools
import threading
from concurrent.futures import CancelledError
from queue import SimpleQueue

from flame_fast.errors import TaskError
from flame_fast.faces.chunk_calls import OutOfTime
from flame_fast.faces.function_services import as_kind, is_unsent
from flame_fast.kernels.runtime.concurrent_future import CallFuture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, TypeVar

    from flame_fast.faces.chunk_calls import ItemCalls

    R = TypeVar("R")

#: Seconds that the end of a pool waits for a callback that runs.
JOIN_S = 1.0


# ---- errors --------------------------------------------------------------------------------------------------------------


@functools.cache
def timeout_type() -> type[TimeoutError]:
    """Return the type of the error of a wait that was too long: both the standard library's."""
    import multiprocessing

    class PoolTimeoutError(multiprocessing.TimeoutError, TimeoutError):
        """The time is up; the call goes on."""

    PoolTimeoutError.__name__ = PoolTimeoutError.__qualname__ = "TimeoutError"
    return PoolTimeoutError


def timed_out() -> TimeoutError:
    return timeout_type()("the result is not there in time; its call goes on")


@functools.cache
def _unsent_type() -> type[TaskError]:
    """Return the type of the error of a call whose result could not be pickled."""
    from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]

    class UnsentFromPool(TaskError, MaybeEncodingError):  # type: ignore[misc]
        """A result that could not be pickled: a `multiprocessing.pool.MaybeEncodingError`, too."""

        def __reduce__(self) -> tuple[Any, ...]:
            return (TaskError, (self.message,))

    return UnsentFromPool


def as_raised(error: BaseException) -> BaseException:
    """Return the error that users of `multiprocessing.pool` catch in the place of one of this package."""
    if isinstance(error, TaskError) and is_unsent(error):
        error = as_kind(error, _unsent_type())
        error.exc = error.value = error.message  # type: ignore[attr-defined]
    return error


class PoolFuture(CallFuture["R"]):
    """The future of a call of `Pool.apply_async`."""

    def _as_raised(self, error: BaseException) -> BaseException:
        return as_raised(error)


# ---- callbacks -----------------------------------------------------------------------------------------------------------


class CallbackThread:
    """Runs the callbacks of a pool's results one after the other, in a thread of its own. It begins with the first."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[AsyncResult | None] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant: under it a garbage collection may end this very thread
        self._thread: threading.Thread | None = None
        self._is_ended = self._is_dropping = False

    def put(self, result: AsyncResult, _: object = None) -> None:
        """Have a result call its callbacks."""
        with self._lock:
            if not self._is_ended:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="flame-pool-callbacks", daemon=True)
                    self._thread.start()
                self._waiting.put(result)
                return
        result._tell(call_back=False)

    def _run(self) -> None:
        while (result := self._waiting.get()) is not None:
            result._tell(call_back=not self._is_dropping)
            del result

    def drop(self) -> None:
        """Call no more callbacks: results that come are only made ready."""
        self._is_dropping = True

    def end(self) -> None:
        """End the thread when all that were put are called. Idempotent."""
        with self._lock:
            if not self._is_ended:
                self._is_ended = True
                self._waiting.put(None)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S if self._is_dropping else None)


class AsyncResult:
    """The result of `Pool.apply_async`, `map_async` or `starmap_async`.

    Notes
    -----
    Safe from any thread. It is ready when its callback has returned. While it has not been read it keeps its pool.
    """

    def __init__(
        self,
        pool: object,
        future: Future[Any],
        callbacks: CallbackThread,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._pool: object = pool
        self._future = future
        self._callback, self._error_callback = callback, error_callback
        self._told: threading.Event | None = None
        if callback is not None or error_callback is not None:
            self._told = threading.Event()
            future.add_done_callback(functools.partial(callbacks.put, self))

    def ready(self) -> bool:
        """Return whether the call is done."""
        return self._future.done() if self._told is None else self._told.is_set()

    def successful(self) -> bool:
        """Return whether the call is done without an error.

        Raises
        ------
        ValueError
            It is not done.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error() is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call is done, or so many seconds."""
        if self._told is not None:
            self._told.wait(timeout)
            return
        with contextlib.suppress(TimeoutError, CancelledError):
            self._future.exception(None if timeout is None else max(timeout, 0))

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the value and return it; the same object each time.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        multiprocessing.TimeoutError
            The time is up; the call goes on. It is a `TimeoutError`, too.
        FlameError
            `INVALID_STATE`: the pool was terminated before the call was done.
        Exception
            What the call raised; `str(error.__cause__)` is the worker's traceback.
        """
        if timeout is not None or self._told is not None:
            self.wait(timeout)
            if not self.ready():
                raise timed_out()
        try:
            return self._future.result()
        finally:
            self._pool = None

    def _error(self) -> BaseException | None:
        try:
            return self._future.exception()
        except CancelledError as error:
            return error

    def _tell(self, *, call_back: bool) -> None:
        """Call the callback that fits. What it raises is logged, and stops no other."""
        try:
            error = self._error()
            callback = self._callback if error is None else self._error_callback
            if call_back and callback is not None:
                callback(self._future.result() if error is None else error)
        except BaseException:
            import logging

            logging.getLogger("multiprocessing").exception("exception calling callback for %r", self)
        finally:
            assert self._told is not None
            self._told.set()
            self._pool = self._callback = self._error_callback = None


# ---- imap ----------------------------------------------------------------------------------------------------------------


class IMapIterator:
    """The iterator of `Pool.imap` and `imap_unordered`.

    Notes
    -----
    Safe from any thread. After an item's error it goes on with the next chunk of items. One that was begun and is dropped
    reads no further; one that nobody has begun has all its items called, as `multiprocessing` does.
    """

    def __init__(self, pool: object, calls: ItemCalls) -> None:
        self._pool: object = pool  # keeps it at work
        self._calls = calls
        self._is_begun = False
        calls.read()

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Return the next value.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        multiprocessing.TimeoutError
            The time is up; the value may come by a later call.
        StopIteration
            There are no more.
        """
        self._is_begun = True
        try:
            return self._calls.next_value(timeout)
        except StopIteration:
            self._pool = None
            raise
        except OutOfTime:
            raise timed_out() from None

    __next__ = next

    def __del__(self) -> None:
        if self._is_begun:
            self._calls.cancel()
        else:
            self._calls.be_eager()
