"""Gathering: `Runner.get`, `aget`, `wait`, `ref` and `cancel` of lists, tuples, dicts and generators of futures."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from copy import copy

from flame_fast.calls.selection import Deadline, client_of, is_future, select
from flame_fast.kernels.runtime import ObjectFuture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.calls.progress import Progress
    from flame_fast.engine.protocol import FutureClient

#: Containers of futures that give a list.
LISTED: tuple[type[Any], ...] = (set, frozenset, type({}.keys()), type({}.values()), type({}.items()))


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


def get(shape: Any, timeout: float | None, return_exceptions: bool = False, progress: Progress = None) -> Any:
    """Return the shape with values in place of futures; see `Runner.get`."""
    shape, futures = _futures_of(shape)
    if progress is not None and progress is not False:
        timeout = _show(futures, timeout, progress, stops=not return_exceptions)
    if return_exceptions:
        deadline = Deadline(timeout)
        return map_futures(shape, lambda future: _outcome(future, deadline.left()))
    client = _common_client(futures)
    if client is None:
        deadline = Deadline(timeout)
        return map_futures(shape, lambda future: future.get(deadline.left()))
    values = iter(client.get_many(futures, timeout))
    return map_futures(shape, lambda future: next(values))


def _outcome(future: Any, timeout: float | None) -> Any:
    """Return a future's value, or the error of its call."""
    if isinstance(future, ObjectFuture):
        error = future.exception(timeout)
        if error is not None:
            return error
    return future.get(timeout)


def _show(futures: list[Any], timeout: float | None, progress: Any, *, stops: bool) -> float | None:
    """Show the progress of some calls until all are done, or one has failed; return the seconds left."""
    from flame_fast.calls.progress import Bar

    deadline, bar = Deadline(timeout), Bar(progress, len(futures))
    try:
        for future in select(futures, timeout):
            bar.add(future.has_failed())
            if stops and future.has_failed():
                break
    finally:
        bar.close()
    return deadline.left()


async def aget(shape: Any, timeout: float | None, return_exceptions: bool) -> Any:
    """Return the shape with values in place of futures, from an event loop; see `Runner.aget`."""
    from flame_fast.kernels.runtime.awaiting import outcome_of, wait_for_all, wait_for_any

    shape, futures = _futures_of(shape)
    deadline = Deadline(timeout)
    await wait_for_all(futures, timeout, stop_at_failure=not return_exceptions)
    for future in futures:
        await wait_for_any([future], deadline.left())
        if not future.done() and not future.is_lost():
            raise TimeoutError("the calls waited for have not finished in time; they go on")
        if not return_exceptions and future.has_failed():
            outcome_of(future).send(None)  # raises as an await of it does
    return get(shape, None, return_exceptions)


def wait_for_some(shape: Any, timeout: float | None, num_returns: int) -> tuple[list[Any], list[Any]]:
    """Return the futures that are done, at least so many unless the time is up, and the others; see `Runner.wait`."""
    if isinstance(num_returns, bool) or not isinstance(num_returns, int) or num_returns < 1:
        raise ValueError(f"num_returns: expected an integer of at least 1, got {num_returns!r}")
    _, futures = _futures_of(shape)
    if num_returns > len(futures):
        raise ValueError(f"num_returns: expected at most the {len(futures)} futures there are, got {num_returns}")
    with contextlib.suppress(TimeoutError):
        for _ in itertools.islice(select(futures, timeout), num_returns):
            pass
    done = [future for future in futures if future.done()]
    return done, [future for future in futures if not future.done()]


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


def _common_client(futures: list[Any]) -> FutureClient | None:
    """Return the client of all of them; None if no client has them all."""
    client = client_of(futures[0]) if futures else None
    return client if client is not None and client.owns_all(futures) else None


def ref(shape: Any) -> Any:
    """Return the shape with refs in place of futures; see `Runner.ref`."""
    return map_futures(shape, lambda future: future.ref() if isinstance(future, ObjectFuture) else future)
