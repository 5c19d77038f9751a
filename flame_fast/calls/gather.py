"""Futures in shapes: what `Runner.get`, `wait`, `ref` and `select` do with lists, tuples, dicts and generators of them."""

from __future__ import annotations

import time
from collections import deque
from copy import copy

from flame_fast.kernels.runtime import ObjectFuture, ObjectRef, check_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from flame_fast.kernels.runtime import Client

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
        """Seconds left, None for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def is_handle(obj: Any) -> bool:
    return isinstance(obj, (ObjectFuture, ObjectRef))


def map_handles(shape: Any, function: Callable[[Any], Any]) -> Any:
    """The same shape with every future and ref replaced by `function` of it, left to right.

    A list gives a list, a tuple a tuple, a dict a dict, a deque a deque, each of its own type. A generator or another
    iterator, a dict's view and a set give a list (a set would lose equal values). What is none of these passes through.
    """
    if is_handle(shape):
        return function(shape)
    kind = type(shape)
    if kind is list or _is_listed(shape):
        return [map_handles(item, function) for item in shape]
    if isinstance(shape, tuple):
        items = [map_handles(item, function) for item in shape]
        return kind(*items) if hasattr(shape, "_fields") else tuple(items) if kind is tuple else kind(items)
    if isinstance(shape, (dict, list, deque)):
        return _map_container(shape, function)
    return shape


def _map_container(shape: Any, function: Callable[[Any], Any]) -> Any:
    """A dict, or a subclass of one of the standard containers: a copy keeps what else it has, a factory or a length."""
    filled = copy(shape)
    keys = shape.items() if isinstance(shape, dict) else enumerate(shape)
    for key, value in keys:
        filled[key] = map_handles(value, function)
    return filled


def _is_listed(shape: Any) -> bool:
    """Sets and views with futures in them; generators, `map`, `zip` and the like, but no files."""
    if isinstance(shape, LISTED):
        return any(is_handle(item) for item in shape)
    return hasattr(type(shape), "__next__") and not hasattr(shape, "read")


def get(shape: Any, timeout: float | None) -> Any:
    """One wait for all of them, where they are of one runner."""
    shape, handles = _handles_of(shape)
    runtime = _common_runtime(handles)
    if runtime is None:
        deadline = Deadline(timeout)
        return map_handles(shape, lambda handle: handle.get(deadline.left()))
    values = iter(runtime.get_many(handles, timeout))
    return map_handles(shape, lambda handle: next(values))


def wait(shape: Any, timeout: float | None) -> None:
    _, handles = _handles_of(shape)
    runtime = _common_runtime(handles)
    if runtime is not None:
        runtime.wait_many(handles, timeout)
        return
    deadline = Deadline(timeout)
    for handle in handles:
        if isinstance(handle, ObjectFuture):
            handle.wait(deadline.left())


def _handles_of(shape: Any) -> tuple[Any, list[Any]]:
    """The shape, its generators run to their end, and every future and ref in it from left to right."""
    handles: list[Any] = []

    def note(handle: Any) -> Any:
        handles.append(handle)
        return handle

    return map_handles(shape, note), handles


def _common_runtime(handles: list[Any]) -> Client | None:
    """The runtime of all of them; None if there is no such one."""
    runtime: Client | None = handles[0].runtime_of() if handles else None
    return runtime if runtime is not None and runtime.owns_all(handles) else None


def ref(shape: Any) -> Any:
    return map_handles(shape, lambda handle: handle.ref() if isinstance(handle, ObjectFuture) else handle)


def select(futures: Any, timeout: float | None) -> Iterator[ObjectFuture | ObjectRef]:
    """Each future once, as it completes.

    Raises
    ------
    TypeError
        Something that is no future, before anything is yielded.
    """
    pending: list[Any] = []
    seen: set[int] = set()
    for future in [futures] if is_handle(futures) else futures:
        if not is_handle(future):
            raise TypeError(f"select takes futures, got a {type(future).__name__}: {str(future)[:60]}")
        if id(future) not in seen:
            seen.add(id(future))
            pending.append(future)
    return _select(pending, Deadline(timeout))


def _select(pending: list[Any], deadline: Deadline) -> Iterator[ObjectFuture | ObjectRef]:
    if not pending:
        return
    runtime: Client = pending[0].runtime_of()
    if not runtime.owns_all(pending):
        yield from _select_mixed(pending, deadline)
        return
    selector = runtime.selector(pending)
    left = len(pending)
    while left:
        for position in selector.take(deadline.left()):
            left -= 1
            future, pending[position] = pending[position], None
            yield future
            del future


def _select_mixed(pending: list[Any], deadline: Deadline) -> Iterator[ObjectFuture | ObjectRef]:
    """Futures of several runners, which no single wait covers."""
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
            raise TimeoutError("none of the calls has finished in time; they go on")
        time.sleep(MIXED_LOOK_S)
