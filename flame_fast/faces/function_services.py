"""Calls of any function on a Runner's workers: what `Executor` and `Pool` share.

A function gets a service of its own at its second call. The first time it travels with its arguments, as other callables
always do: to make a service takes as long as some such calls. A call finds the globals of its moment: the service made anew
when they are others than those that it was made with; after many changes the function travels again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from types import BuiltinFunctionType, FunctionType, ModuleType

from flame_fast.calls.applied import apply, apply_to_each
from flame_fast.calls.service import has_globals_of, look_at_globals
from flame_fast.engine import current
from flame_fast.errors import FlameError, TaskError
from flame_fast.kernels.runtime import serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from typing import Any, Protocol

    from flame_fast.calls.service import RunnerService
    from flame_fast.kernels.runtime import GlobalsLook, ObjectFuture
    from flame_fast.runner import Runner

    class Map(Protocol):
        """Calls for the items of an iterable."""

        def is_queued(self) -> bool:
            """Return whether all of them have been made."""


#: Functions that have a service of their own at most; further ones travel with each call.
MOST_SERVICES = 512

#: Changes of a function's globals between calls after which it has no service any more.
MOST_CHANGES = 64

#: Services that were given up and are not closed yet.
KEPT_GIVEN_UP = 8

#: Seconds between two looks at whether the calls made have ended: at first, and at most.
LOOK_S = 0.002
MOST_LOOK_S = 0.05

#: The share of the time waited so far that passes between two such looks.
LOOK_SHARE = 0.02

#: Calls made in a task after which those that are done are forgotten.
PRUNED_AFTER = 1024


class FunctionServices:
    """The services of one runner for the functions that are called.

    Parameters
    ----------
    runner : Runner

    Notes
    -----
    Safe from any thread. Calls run also when nobody holds their futures.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.apply: RunnerService[..., Any] = runner.service(apply).options(detached=True)
        self._apply_to_each: RunnerService[..., Any] | None = None
        self._lock = threading.Lock()
        self._services: dict[Any, tuple[RunnerService[..., Any], GlobalsLook | None]] = {}
        self._seen: dict[Any, None] = {}  # functions called once
        self._changes: dict[Any, int] = {}  # how often a function's globals were others than those of its service
        self._given_up: list[RunnerService[..., Any]] = []
        # In a task the workers are another runner's, which has calls of its own: only these tell when ours are done.
        self._made: list[ObjectFuture[Any]] | None = [] if current.serving_engine() is not None else None

    def call(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ObjectFuture[Any]:
        """Call `fn(*args, **kwargs)` in a worker."""
        service = self._at_a_call(fn)
        call = self.apply(fn, args, kwargs) if service is None else service(*args, **kwargs)
        self._note(call)
        return call

    def call_for_each(self, fn: Any, items: list[Any], star: bool, first: int) -> ObjectFuture[Any]:
        """Call a function, or the one in the place given, with each of some items in a worker: `apply_to_each`."""
        if self._apply_to_each is None:
            with self._lock:
                self._apply_to_each = self._apply_to_each or self.runner.service(apply_to_each).options(detached=True)
        call = self._apply_to_each(fn, items, star, first)
        self._note(call)
        return call

    def _note(self, call: ObjectFuture[Any]) -> None:
        """Remember a call, if this is a task."""
        if self._made is None:
            return
        if len(self._made) >= PRUNED_AFTER:
            self._made = [one for one in self._made if not one.done()]
        self._made.append(call)

    def service_of(self, fn: Any) -> RunnerService[..., Any] | None:
        """Return a function's own service, for many calls; None: it can have none."""
        if not has_service(fn):
            return None
        with self._lock:
            return self._current_service(fn)

    def _at_a_call(self, fn: Any) -> RunnerService[..., Any] | None:
        """Return a function's own service; None: it has none, or this is its first call."""
        if not has_service(fn):
            return None
        known = self._services.get(fn)
        if known is not None and (known[1] is None or known[1].is_current()):
            return known[0]
        with self._lock:
            if known is not None or fn in self._seen:
                return self._current_service(fn)
            if len(self._seen) >= MOST_SERVICES:
                del self._seen[next(iter(self._seen))]
            self._seen[fn] = None
            return None

    def _current_service(self, fn: Any) -> RunnerService[..., Any] | None:
        """Return a service with the globals that a function has now; None: they change too often."""
        known = self._services.get(fn)
        if known is not None:
            service, look = known
            if look is not None and not look.is_current() and (look := has_globals_of(service, fn)) is None:
                self._give_up(fn, service)
                known = None
            else:
                self._services[fn] = service, look
        if known is None and self._changes.get(fn, 0) < MOST_CHANGES:
            if len(self._services) >= MOST_SERVICES:
                self._services.pop(next(iter(self._services)))[0].close()
            made = self.runner.service(fn)
            known = self._services[fn] = made.options(detached=True), look_at_globals(made)
        return None if known is None else known[0]

    def _give_up(self, fn: Any, service: RunnerService[..., Any]) -> None:
        """Take the service from a function whose globals have changed."""
        del self._services[fn]
        self._given_up.append(service)
        if len(self._given_up) > KEPT_GIVEN_UP:  # another thread may be about to call the last ones
            self._given_up.pop(0).close()
        if len(self._changes) >= MOST_SERVICES:
            self._changes.clear()
        self._changes[fn] = self._changes.get(fn, 0) + 1

    def cancel(self) -> None:
        """Cancel the calls that have not begun; take no more."""
        with self._lock:
            services = [self.apply, *(service for service, _ in self._services.values()), *self._given_up]
        for service in services:
            with contextlib.suppress(FlameError):
                service.close(cancel=True)

    def wait(self, maps: Iterable[Map]) -> None:
        """Return when all calls made are done, those of maps too, or the runner has ended."""
        began = time.monotonic()
        while not self.runner._lifetime.is_over and self._is_busy(maps):
            time.sleep(min(MOST_LOOK_S, max(LOOK_S, LOOK_SHARE * (time.monotonic() - began))))

    def _is_busy(self, maps: Iterable[Map]) -> bool:
        if any(not one.is_queued() for one in list(maps)):
            return True
        if self._made is not None:
            for call in self._made:
                with contextlib.suppress(Exception):
                    call.exception()  # a task that waits in this way runs it, if no other worker is free
            return False
        try:
            counted = self.runner.statistics()
        except FlameError:  # closed meanwhile, or this is a forked child
            return False
        return bool(counted.waiting or counted.queued or counted.running)


def has_service(fn: Any) -> bool:
    """Whether a function can have a service of its own: others are compared by more than what they are."""
    return type(fn) is FunctionType or (type(fn) is BuiltinFunctionType and isinstance(fn.__self__, ModuleType))


def in_thread(name: str, function: Callable[..., object], *args: Any, daemon: bool) -> threading.Thread | None:
    """Run a function in a thread; or, where none can be started any more, at once. Return the thread."""
    if threading.main_thread().is_alive():
        thread = threading.Thread(target=function, args=args, name=name, daemon=daemon)
        with contextlib.suppress(RuntimeError):
            thread.start()
            return thread
    function(*args)
    return None


# ---- errors --------------------------------------------------------------------------------------------------------------


def failed(error: Exception) -> Future[Any]:
    """Return the future of a call that could not be made: the standard library's pools pickle in another thread."""
    from concurrent.futures import Future

    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    future.set_exception(own_error(error))
    return future


def own_error(error: Exception) -> Exception:
    """Return the pickler's own error, if a call could not be made for it, with a note that names the argument."""
    cause = error.__cause__
    if not isinstance(error, TypeError) or not isinstance(cause, Exception):
        return error
    cause.add_note(str(error))
    return cause


def is_unsent(error: TaskError) -> bool:
    """Whether a call failed because its result could not be pickled."""
    return str(error.message).startswith(serialization.UNSENT)


def as_kind(error: FlameError, kind: type[FlameError]) -> FlameError:
    """Return the same error as a subclass of its type."""
    error.__class__ = kind
    return error
