"""Awaiting calls in asyncio and trio: `await future`.

    notifier thread                                  event loop
    call finished --> Deliveries: waiter, once a batch --> call_soon_threadsafe --> waiter.set_result

However many calls a loop awaits, one thread per runner watches them, and one entry of the loop's own queue tells of all that
have finished since the last. Nothing is added to the loop's descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import weakref
from collections import deque
from concurrent.futures import CancelledError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from typing import Any, TypeVar

    from flame_fast.kernels.runtime import ObjectFuture

    T = TypeVar("T")


class Deliveries:
    """Takes waiters from the notifier thread to their event loop.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # this object is kept by the loop
        self._ready: deque[asyncio.Future[None]] = deque()
        self._called = False

    def put(self, waiter: asyncio.Future[None]) -> None:
        """Have a waiter end its wait. From any thread."""
        self._ready.append(waiter)
        if not self._called:
            self._called = True
            loop = self._loop()
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False  # first: what comes from here on calls again
        while self._ready:
            waiter = self._ready.popleft()
            if not waiter.done():
                waiter.set_result(None)


_deliveries: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Deliveries] = weakref.WeakKeyDictionary()


def deliveries_of(loop: asyncio.AbstractEventLoop) -> Deliveries:
    found = _deliveries.get(loop)
    if found is None:
        found = _deliveries[loop] = Deliveries(loop)
    return found


def _new_waiter() -> tuple[Awaitable[object], Callable[[object], None]]:
    """Return what to await in the running event loop, and a function that ends that wait, from any thread.

    Raises
    ------
    RuntimeError
        No event loop of asyncio or trio runs in this thread.
    """
    loop = asyncio._get_running_loop()
    if loop is not None:
        waiter, put = loop.create_future(), deliveries_of(loop).put
        return waiter, lambda _: put(waiter)
    if _in_trio():
        return _new_trio_waiter()
    raise RuntimeError("a call can be awaited where an event loop runs; elsewhere use .get()")


def _in_trio() -> bool:
    """Tell whether a loop of trio runs in this thread."""
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def _new_trio_waiter() -> tuple[Awaitable[object], Callable[[object], None]]:
    import trio

    token, finished = trio.lowlevel.current_trio_token(), trio.Event()

    def tell(_: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(finished.set, idempotent=True)

    return finished.wait(), tell


async def wait_for_any(futures: list[ObjectFuture[Any]], timeout: float | None = None) -> None:
    """Wait in the running event loop until one of some calls is done, or the time is up; not at all for none."""
    if futures and not any(future.done() or future.is_lost() for future in futures):
        await _wait(futures, lambda end: end, timeout)


async def _wait(
    futures: list[ObjectFuture[Any]], ending: Callable[[Callable[[object], None]], Any], timeout: float | None
) -> None:
    """Wait until a callback of some calls ends the wait; `ending` returns it, from what ends the wait."""
    waiter, end = _new_waiter()
    tell = ending(end)
    for future in futures:
        future.add_done_callback(tell)
    try:
        await _within(waiter, end, timeout)
    finally:
        for future in futures:
            if not future.done():
                future.discard_callback(tell)
        futures.clear()  # a cancelled task keeps this frame, in its error's traceback
        del future


async def _within(waiter: Awaitable[object], end: Callable[[object], None], timeout: float | None) -> None:
    """Await the end of a wait, or of the time that it has."""
    if timeout is None:
        await waiter
    elif asyncio._get_running_loop() is not None:
        timer = asyncio.get_running_loop().call_later(timeout, end, None)
        try:
            await waiter
        finally:
            timer.cancel()
    else:
        import trio

        with trio.move_on_after(timeout):
            await waiter


class Arrivals:
    """Items that other threads put, for one task of an event loop."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._end: Callable[[object], None] | None = None  # ends the wait for the next one

    def put(self, item: Any) -> None:
        """Add an item. From any thread."""
        self._items.append(item)
        end = self._end
        if end is not None:
            end(None)

    async def get(self, timeout: float | None = None) -> Any:
        """Return the oldest item; wait for it.

        Raises
        ------
        TimeoutError
            There was none in so many seconds.
        """
        if not self._items:
            waiter, self._end = _new_waiter()
            if self._items:  # put meanwhile
                self._end(None)
            try:
                await _within(waiter, self._end, timeout)
            finally:
                self._end = None
            if not self._items:
                raise TimeoutError("no call has finished in time; the calls go on")
        return self._items.popleft()


async def next_of(results: Any) -> Any:
    """Return the next result of an iterator that tells by `awaited` which calls it waits for."""
    await wait_for_any(results.awaited())
    try:
        return next(results)
    except StopIteration:
        raise StopAsyncIteration from None


async def wait_for_all(
    futures: list[ObjectFuture[Any]], timeout: float | None = None, *, stop_at_failure: bool = True
) -> None:
    """Wait in the running event loop until all of some calls are done, or one has failed, or the time is up."""
    left = [future for future in futures if not future.done() and not future.is_lost()]
    if not left:
        return
    count = itertools.count(len(left) - 1, -1)

    def ending(end: Callable[[object], None]) -> Callable[[ObjectFuture[Any]], None]:
        def tell(future: ObjectFuture[Any]) -> None:
            if next(count) == 0 or (stop_at_failure and future.has_failed()):
                end(None)

        return tell

    await _wait(left, ending, timeout)


async def run_in_thread(function: Callable[[], T]) -> T:
    """Run a function that may take a while in a thread of the running event loop; return its value."""
    if asyncio._get_running_loop() is not None:
        return await asyncio.to_thread(function)
    import trio

    value: T = await trio.to_thread.run_sync(function)
    return value


def outcome_of(future: ObjectFuture[Any]) -> Generator[Any, Any, Any]:
    """Wait for a call in the running event loop; return its value or raise its error, as `asyncio.wrap_future` does.

    Raises
    ------
    asyncio.CancelledError
        The waiting task or the call was cancelled.
    """
    try:
        if not future.done() and not future.is_lost():
            waiter, tell = _new_waiter()
            future.add_done_callback(tell)
            try:
                yield from waiter.__await__()
            finally:
                if not future.done():  # the wait was cancelled
                    future.discard_callback(tell)
        return future.get()
    except CancelledError as error:
        raise asyncio.CancelledError(*error.args) from None
    finally:
        del future  # a cancelled task keeps this frame, in its error's traceback
