"""Gathering: `Runner.get`, `wait`, `ref` and `select` of lists, tuples, dicts and generators of futures."""

from __future__ import annotations

import time
from collections import deque
from copy import copy

from flame_fast.kernels.runtime import ObjectFuture, ObjectRef, check_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from flame_fast.engine.protocol import FutureClient

#: Seconds between two looks at futures of several runners, which no single wait covers.
MIXED_LOOK_S = 0.02

#: Containers of futures that give a list.
LISTED: tuple[type[Any], ...] = (set, frozenset, type({}.keys()), type({}.values()), type({}.items()))


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


def map_futures(shape: Any, function: Callable[[Any], Any]) -> Any:
    """Return the same shape with every future and ref replaced by `function` of it, left to right.

    A list gives a list, a tuple a tuple, a dict a dict, a deque a deque, each of its own type. A generator or another
    iterator, a dict's view and a set give a list (a set would lose equal values). What is none of these passes through.
    """
    if is_future(shape):
        return function(shape)
    kind = type(shape)
    if kind is list or _is_listed(shape):
        return [map_futures(item, function) for item in shape]
    if isinstance(shape, tuple):
        items = [map_futures(item, function) for item in shape]
        return kind(*items) if hasattr(shape, "_fields") else tuple(items) if kind is tuple else kind(items)
    if isinstance(shape, (dict, list, deque)):
        return _map_container(shape, function)
    return shape


def _map_container(shape: Any, function: Callable[[Any], Any]) -> Any:
    """Map a dict, or a subclass of a standard container, in a copy: it keeps its attributes, a factory or a length."""
    filled = copy(shape)
    keys = shape.items() if isinstance(shape, dict) else enumerate(shape)
    for key, value in keys:
        filled[key] = map_futures(value, function)
    return filled


def _is_listed(shape: Any) -> bool:
    """Whether a shape gives a list: a set or view with futures in it, or an iterator that is no file."""
    if isinstance(shape, LISTED):
        return any(is_future(item) for item in shape)
    return hasattr(type(shape), "__next__") and not hasattr(shape, "read")


def get(shape: Any, timeout: float | None) -> Any:
    """Return the shape with values in place of futures; see `Runner.get`."""
    shape, futures = _futures_of(shape)
    client = _common_client(futures)
    if client is None:
        deadline = Deadline(timeout)
        return map_futures(shape, lambda future: future.get(deadline.left()))
    values = iter(client.get_many(futures, timeout))
    return map_futures(shape, lambda future: next(values))


def wait(shape: Any, timeout: float | None) -> None:
    """Wait for all futures of a shape; see `Runner.wait`."""
    _, futures = _futures_of(shape)
    client = _common_client(futures)
    if client is not None:
        client.wait_many(futures, timeout)
        return
    deadline = Deadline(timeout)
    for future in futures:
        if isinstance(future, ObjectFuture):
            future.wait(deadline.left())


def cancel(shape: Any, force: bool) -> int:
    """Cancel the calls of a shape's futures; see `Runner.cancel`."""
    if not isinstance(force, bool):
        raise TypeError(f"force: expected True or False, got {force!r}")
    shape, found = _futures_of(shape)
    if not found and not hasattr(shape, "__len__") or isinstance(shape, (str, bytes)):
        raise TypeError(f"expected a future, or a list, dict or other container of futures, got {shape!r}")
    futures = [future for future in found if isinstance(future, ObjectFuture)]
    if len(set(map(id, futures))) < len(futures):
        futures = list({id(future): future for future in futures}.values())
    client = _common_client(futures)
    if client is None:
        return sum(future.cancel(force) for future in futures)
    return client.cancel_many(futures, force)


def _futures_of(shape: Any) -> tuple[Any, list[Any]]:
    """Return the shape with its iterators exhausted, and every future and ref in it from left to right."""
    futures: list[Any] = []

    def note(future: Any) -> Any:
        futures.append(future)
        return future

    return map_futures(shape, note), futures


def _client_of(future: Any) -> FutureClient:
    return future.client  # type: ignore[no-any-return]


def _common_client(futures: list[Any]) -> FutureClient | None:
    """Return the client of all of them; None if no client has them all."""
    client = _client_of(futures[0]) if futures else None
    return client if client is not None and client.owns_all(futures) else None


def ref(shape: Any) -> Any:
    """Return the shape with refs in place of futures; see `Runner.ref`."""
    return map_futures(shape, lambda future: future.ref() if isinstance(future, ObjectFuture) else future)


def select(futures: Any, timeout: float | None) -> Iterator[ObjectFuture | ObjectRef]:
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
    return _select(pending, Deadline(timeout))


def _select(pending: list[Any], deadline: Deadline) -> Iterator[ObjectFuture | ObjectRef]:
    if not pending:
        return
    client = _client_of(pending[0])
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


def _select_mixed(pending: list[Any], deadline: Deadline) -> Iterator[ObjectFuture | ObjectRef]:
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
