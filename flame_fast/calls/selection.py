"""Selection: futures as they complete, in a loop or in an event loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from flame_fast.kernels.runtime import ObjectFuture, ObjectRef, check_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from flame_fast.calls.progress import Bar, Progress
    from flame_fast.engine.protocol import FutureClient
    from flame_fast.kernels.runtime.awaiting import Arrivals

    F = TypeVar("F")

#: Seconds between two looks at futures of several runners, which no single wait covers.
MIXED_LOOK_S = 0.02


class Deadline:
    """A time-out for several waits together."""

    __slots__ = ("_end",)

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + check_timeout(timeout)

    def left(self) -> float | None:
        """Return the seconds left; None for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def is_future(obj: Any) -> bool:
    """Whether an object is a future or ref of any engine."""
    return isinstance(obj, (ObjectFuture, ObjectRef))


def client_of(future: Any) -> FutureClient:
    return future.client  # type: ignore[no-any-return]


def select(futures: Any, timeout: float | None, progress: Progress = None) -> Selection[Any]:
    """Return an iterator over the futures as they complete, each once; see `Runner.select`.

    Raises
    ------
    TypeError
        An item is no future. Raised before the iterator exists.
    """
    pending: list[Any] = []
    seen: set[int] = set()
    for future in [futures] if is_future(futures) else futures:
        if not is_future(future):
            raise TypeError(f"select: expected futures, got a {type(future).__name__}: {str(future)[:60]}")
        if id(future) not in seen:
            seen.add(id(future))
            pending.append(future)
    bar = None
    if progress is not None and progress is not False:
        from flame_fast.calls.progress import Bar

        bar = Bar(progress, len(pending))
    return Selection(pending, Deadline(timeout), bar)


class Selection(Iterator["F"]):
    """The iterator over futures as they complete, each once: with `for`, or with `async for`.

    Parameters
    ----------
    pending : list
        Distinct futures. Those that have been given out are None in it.
    deadline : Deadline
    bar : Bar, optional
        Is told of each.
    """

    def __init__(self, pending: list[Any], deadline: Deadline, bar: Bar | None = None) -> None:
        self._pending = pending
        self._deadline = deadline
        self._left = len(pending)
        self._bar = bar
        self._selected: Iterator[Any] | None = None
        self._arrivals: Arrivals | None = None  # with `async for`: positions of what is done and not yet given out
        self._callbacks: dict[int, Callable[[Any], None]] = {}  # by position

    def __next__(self) -> F:
        if self._selected is None:
            self._selected = _select(self._pending, self._deadline)
        return self._given(next(self._selected))

    def __aiter__(self) -> Selection[F]:
        return self

    async def __anext__(self) -> F:
        if self._left == 0:
            raise StopAsyncIteration
        if self._arrivals is None:
            self._arrivals = self._watch()
        position = await self._arrivals.get(self._deadline.left())
        self._callbacks.pop(position, None)
        future, self._pending[position] = self._pending[position], None
        return self._given(future)

    def _given(self, future: Any) -> F:
        self._left -= 1
        if self._bar is not None:
            self._bar.add(future.has_failed())
            if self._left == 0:
                self._bar.close()
        return future  # type: ignore[no-any-return]

    def _watch(self) -> Arrivals:
        from flame_fast.kernels.runtime.awaiting import Arrivals

        arrivals = Arrivals()
        for position, future in enumerate(self._pending):
            if isinstance(future, ObjectFuture):
                tell = self._callbacks[position] = partial(_arrive, arrivals, position)
                future.add_done_callback(tell)
            elif future is not None:
                arrivals.put(position)
        return arrivals

    def __del__(self) -> None:
        for position, tell in self.__dict__.get("_callbacks", {}).items():
            self._pending[position].discard_callback(tell)
        bar = self.__dict__.get("_bar")
        if bar is not None:
            bar.close()


def _arrive(arrivals: Arrivals, position: int, _: object) -> None:
    arrivals.put(position)


def _select(pending: list[Any], deadline: Deadline) -> Iterator[Any]:
    if not pending:
        return
    client = client_of(pending[0])
    if not client.owns_all(pending):
        yield from _select_mixed(pending, deadline)
        return
    selector = client.selector(pending)
    left = len(pending)
    while left:
        for position in selector.select(deadline.left()):
            left -= 1
            future, pending[position] = pending[position], None
            yield future
            del future


def _select_mixed(pending: list[Any], deadline: Deadline) -> Iterator[Any]:
    """Select from futures of several runners: no single wait covers them."""
    while pending:
        ready = [future for future in pending if future.done()]
        if ready:
            pending = [future for future in pending if future not in ready]
            yield from ready
            continue
        for future in pending:
            if future.is_lost():
                future.get()  # raises INVALID_STATE
        if deadline.left() == 0.0:
            raise TimeoutError("no call has finished in time; the calls go on")
        time.sleep(MIXED_LOOK_S)
