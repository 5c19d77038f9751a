"""`map` by one call an item, for calls with limits or retries: those are an item's own."""

from __future__ import annotations

import queue
import time
from collections import deque

from flame_fast.kernels.runtime import with_item

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    from flame_fast.engine.protocol import Future
    from flame_fast.engine.spec import MapOptions

    #: The number of an item, the item and its call.
    Made: TypeAlias = tuple[int, Any, Future]


class SeparateCalls:
    """The iterator over the results of one call an item. For one thread at a time.

    Parameters
    ----------
    call : callable
        Makes the call of one item.
    iterable : iterable
    options : MapOptions
    ahead : int
        Calls made ahead of what the iterator has given out.
    """

    def __init__(self, call: Callable[..., Future], iterable: Iterable[Any], options: MapOptions, ahead: int) -> None:
        self._pending: deque[Made] = deque()
        self._finished: queue.SimpleQueue[Made] | None = None if options.ordered else queue.SimpleQueue()
        self._call = call
        self._options = options
        self._deadline = None if options.timeout is None else time.monotonic() + options.timeout
        self._source: Iterator[tuple[int, Any]] | None = enumerate(iterable)
        self._given = 0
        self._problem: BaseException | None = None
        self._ahead = ahead
        self._fill()

    def __del__(self) -> None:
        self._cancel_pending()

    def __iter__(self) -> SeparateCalls:
        return self

    def __aiter__(self) -> SeparateCalls:
        return self

    def __anext__(self) -> Awaitable[Any]:
        from flame_fast.kernels.runtime.awaiting import next_of

        return next_of(self)

    def __length_hint__(self) -> int:
        length = self._options.length
        return NotImplemented if length is None else max(0, length - self._given)

    def awaited(self) -> list[Future]:
        """Return futures of which one must be done before the next value can be given out; none: it can be now."""
        if self._finished is not None:
            return [] if not self._finished.empty() else [future for _, _, future in self._pending]
        return [future for _, _, future in list(self._pending)[:1]]

    def __next__(self) -> Any:
        if not self._pending:
            problem, self._problem = self._problem, None
            raise StopIteration if problem is None else problem
        try:
            value = self._next_value()
        except BaseException:  # nothing follows
            self._source = self._problem = None
            self._cancel_pending()
            raise
        self._given += 1
        self._fill()
        return value

    def _next_value(self) -> Any:
        number, item, future = self._next_call()
        try:
            return future.get(self._left())
        except Exception as error:
            if not future.done():  # the time is up, or the runner is closed
                raise
            with_item(error, number, item)
            if not self._options.return_exceptions:
                raise
            return error

    def _next_call(self) -> Made:
        if self._finished is None:
            return self._pending.popleft()
        try:
            made = self._finished.get(timeout=self._left())
        except queue.Empty:
            raise TimeoutError("no item's call has finished in time; the calls are cancelled") from None
        self._pending.remove(made)
        return made

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _cancel_pending(self) -> None:
        while self._pending:
            self._pending.popleft()[2].cancel()

    def _fill(self) -> None:
        try:
            while self._source is not None and len(self._pending) < self._ahead:
                number, item = next(self._source)
                self._make(number, item)
        except StopIteration:
            self._source = None
        except BaseException as problem:  # raised in its turn
            self._source, self._problem = None, problem

    def _make(self, number: int, item: Any) -> None:
        future = self._call(*item) if self._options.star else self._call(item)
        made = (number, item, future)
        self._pending.append(made)
        if self._finished is not None:
            tell = self._finished.put
            future.add_done_callback(lambda _: tell(made))
