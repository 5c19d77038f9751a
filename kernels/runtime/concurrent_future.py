"""Futures of the standard library for calls: `concurrent.futures.Future` objects with a call behind them."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from flame_fast.kernels.runtime import ObjectFuture

    R = TypeVar("R")

#: The attributes of `concurrent.futures.Future` that the module's own functions look at.
PRIVATE = frozenset({"_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks"})

_becoming_plain = threading.RLock()


class CallFuture(Future["R"]):
    """A `concurrent.futures.Future` of a call.

    It asks the call. Only when a function of `concurrent.futures` looks at the attributes that its own futures have
    (`wait`, `as_completed`) it gets them: a lock and a list per future, which cost more than a call.

    Parameters
    ----------
    call : ObjectFuture

    Notes
    -----
    Safe from any thread. Its value is read once, and is then the same object for every `result`.
    """

    def __init__(self, call: ObjectFuture[R]) -> None:
        self._call: ObjectFuture[R] | None = call
        self._outcome: tuple[Any, BaseException | None] | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in PRIVATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._become_plain()
        return self.__dict__[name]

    def _become_plain(self) -> None:
        with _becoming_plain:
            if "_condition" in self.__dict__:
                return
            super().__init__()
        if self._call is None:
            self._take_outcome()
        else:
            self._call.add_done_callback(self._take_outcome)

    def _take_outcome(self, _: object = None) -> None:
        """Tell those who wait in the way of `concurrent.futures`."""
        value, error = self._read()
        if isinstance(error, CancelledError):
            super().cancel()
            super().set_running_or_notify_cancel()
        elif error is not None:
            super().set_exception(error)
        else:
            super().set_result(value)

    def _read(self, timeout: float | None = None) -> tuple[Any, BaseException | None]:
        """Return the call's value and error, as read first; wait for it.

        Raises
        ------
        TimeoutError
            The time is up.
        """
        outcome, call = self._outcome, self._call
        if outcome is None and call is not None:
            try:
                error = call.exception(timeout)
                outcome = (call.get(), None) if error is None else (None, self._as_raised(error))
            except Exception as problem:  # the runner was closed before the call had finished, or the value cannot be read
                if not call.done() and not call.is_lost():
                    raise
                outcome = (None, problem)
            outcome = self._keep(outcome)
        assert outcome is not None
        return outcome

    def _as_raised(self, error: BaseException) -> BaseException:
        """Return the error that `result` raises in place of a call's."""
        return error

    def _keep(self, outcome: tuple[Any, BaseException | None]) -> tuple[Any, BaseException | None]:
        """Keep an outcome, unless another thread has; then the call may go."""
        with _becoming_plain:
            if self._outcome is None:
                self._outcome = outcome
                self._call = None
            return self._outcome

    # ---- what `concurrent.futures` promises ----------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> R:
        value, error = self._read(timeout)
        if error is None:
            return value  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            self = error = None  # type: ignore[assignment]  # a cycle through the traceback would keep this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        _, error = self._read(timeout)
        if isinstance(error, CancelledError):
            raise error
        return error

    def done(self) -> bool:
        call = self._call
        return call is None or call.done() or call.is_lost()

    def running(self) -> bool:
        call = self._call
        return call is not None and call.running()

    def cancelled(self) -> bool:
        call = self._call
        return isinstance(self._read()[1], CancelledError) if call is None else call.cancelled()

    def cancel(self) -> bool:
        call = self._call
        return self.cancelled() if call is None else call.cancel()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        call = self._call
        if call is None:
            self._call_back(fn)
        else:
            call.add_done_callback(lambda _: self._call_back(fn))

    def _call_back(self, fn: Callable[[Future[Any]], object]) -> None:
        try:
            fn(self)
        except Exception:
            import logging

            logging.getLogger("concurrent.futures").exception("exception calling callback for %r", self)

    def set_result(self, result: Any) -> None:
        raise _set_by_its_call()

    def set_exception(self, exception: BaseException | None) -> None:
        raise _set_by_its_call()

    def set_running_or_notify_cancel(self) -> bool:
        raise _set_by_its_call()

    def __repr__(self) -> str:
        if not self.done():
            return f"<{type(self).__name__} at {id(self):#x} state={'running' if self.running() else 'pending'}>"
        value, error = self._read()
        if isinstance(error, CancelledError):
            return f"<{type(self).__name__} at {id(self):#x} state=cancelled>"
        what = f"returned {type(value).__name__}" if error is None else f"raised {type(error).__name__}"
        return f"<{type(self).__name__} at {id(self):#x} state=finished {what}>"


def _set_by_its_call() -> RuntimeError:
    return RuntimeError("the outcome of this future is its call's; to make a future with one of your own, use Future()")
