"""`map` by one call an item, for calls with limits or retries: those are an item's own."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from flame_fast.engine.protocol import Future


class SeparateCalls:
    """The iterator over the results of one call an item, in order. For one thread at a time.

    Parameters
    ----------
    call : callable
        Makes the call of one item.
    iterable : iterable
    ahead : int
        Calls made ahead of what the iterator has given out.
    """

    def __init__(self, call: Callable[[Any], Future], iterable: Iterable[Any], ahead: int) -> None:
        self._pending: deque[Future] = deque()
        self._call = call
        self._source: Iterator[Any] | None = iter(iterable)
        self._problem: BaseException | None = None
        self._ahead = ahead
        self._fill()

    def __del__(self) -> None:
        self._cancel_pending()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._pending:
            problem, self._problem = self._problem, None
            raise StopIteration if problem is None else problem
        try:
            value = self._pending.popleft().get()
        except BaseException:  # nothing follows
            self._source = self._problem = None
            self._cancel_pending()
            raise
        self._fill()
        return value

    def _cancel_pending(self) -> None:
        while self._pending:
            self._pending.popleft().cancel()

    def _fill(self) -> None:
        try:
            while self._source is not None and len(self._pending) < self._ahead:
                self._pending.append(self._call(next(self._source)))
        except StopIteration:
            self._source = None
        except BaseException as problem:  # raised in its turn
            self._source, self._problem = None, problem
