"""`Executor`: a Runner behind the interface of `concurrent.futures`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
import weakref
from concurrent.futures import Executor as ExecutorBase
from pickle import PicklingError
from types import BuiltinFunctionType, FunctionType, ModuleType

from flame_fast.calls.applied import apply
from flame_fast.calls.progress import followed
from flame_fast.engine.spec import MapOptions
from flame_fast.errors import FlameError, TaskError, WorkerDiedError
from flame_fast.kernels.runtime import TakenResults, check_timeout, serialization
from flame_fast.kernels.runtime.concurrent_future import CallFuture
from flame_fast.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import Any

    from flame_fast.calls.progress import Progress
    from flame_fast.calls.service import RunnerService
    from flame_fast.kernels.runtime import MapResults

#: Functions that have a service of their own at most; further ones travel with each call.
MOST_SERVICES = 512

#: Seconds between two looks at whether the calls of an executor that is shut down have ended.
LOOK_S = 0.002

#: Seconds that `shutdown(cancel_futures=True)` waits for the first worker at most.
BEGIN_S = 1.0

_numbers = itertools.count(1)


class ExecutorFuture(CallFuture):
    """The future of an executor's call: its errors are those that users of `concurrent.futures` catch, too."""

    def _as_raised(self, error: BaseException) -> BaseException:
        return _as_raised(error)


def _as_raised(error: BaseException) -> BaseException:
    """Return the error that users of `concurrent.futures` catch in the place of one of this package, as a subclass of it."""
    if isinstance(error, WorkerDiedError):
        return _as_kind(error, _died())
    if isinstance(error, TaskError) and str(error.message).startswith(serialization.UNSENT):
        return _as_kind(error, UnsentResult)
    return error


class UnsentResult(TaskError, PicklingError):
    """A result that could not be pickled."""


@functools.cache
def _died() -> type[WorkerDiedError]:
    """Return the type of the error of a call whose worker died."""
    from concurrent.futures.process import BrokenProcessPool  # imports much of multiprocessing

    class DiedInExecutor(WorkerDiedError, BrokenProcessPool):
        __doc__ = WorkerDiedError.__doc__

    DiedInExecutor.__name__ = DiedInExecutor.__qualname__ = WorkerDiedError.__name__
    return DiedInExecutor


def _as_kind(error: FlameError, kind: type[FlameError]) -> FlameError:
    """Return the same error as a subclass of its type."""
    error.__class__ = kind
    return error


class Executor(ExecutorBase):
    """Runs calls in worker processes: a drop-in for `concurrent.futures.ProcessPoolExecutor`.

    Parameters
    ----------
    max_workers : int, optional
        Worker processes; default the CPUs this process may really use.
    mp_context : optional
        Accepted and not used: workers are forked by a small process of their own, which is safe beside threads.
    initializer : callable, optional
        Called as `initializer(*initargs)` in each worker before its first call.
    initargs : sequence
    max_tasks_per_child : int, optional
        Calls after which a worker is replaced.
    package : bool
        Package the current directory and let the workers import from that snapshot, as a Runner does by default; here they
        import from the same directories as this process.
    **options
        Further ones of `Runner`: `memory`, `arrays`, `engine`, `env`, `preload`.

    Notes
    -----
    It starts at once. Safe from any thread. What differs from `ProcessPoolExecutor`:

    - It never breaks. A worker that dies fails the call that it ran, with a `WorkerDiedError` that is a `BrokenProcessPool`,
      too, and is replaced: other calls go on. An initializer that raises fails each call with its exception.
    - Locks and queues of `multiprocessing` cannot be passed to workers: those of a `multiprocessing.Manager` can.
    - Functions need not be importable: lambdas, local functions and those of `__main__` travel by value.
    - Large arrays in arguments and results are not copied between processes, see `Runner`.
    - `map` sends several items in one call where they are short; `chunksize` sets how many.
    - It has none of `ProcessPoolExecutor`'s private attributes but `_max_workers`, which other libraries read.

    Examples
    --------
    >>> from flame_fast import Executor
    >>> with Executor(2) as executor:
    ...     print(executor.submit(pow, 2, 10).result())
    ...     print(list(executor.map(abs, [-1, 2, -3])))
    1024
    [1, 2, 3]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        package: bool = False,
        **options: Any,
    ) -> None:
        _check(max_workers, initializer, max_tasks_per_child)
        self._runner = Runner(
            f"executor-{os.getpid()}-{next(_numbers)}",
            workers=max_workers,
            package=package,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_worker=max_tasks_per_child,
            **options,
        )
        self._max_workers = self._runner._engine.workers
        self._lock = threading.Lock()
        self._services: dict[Any, RunnerService] = {}
        self._seen: dict[Any, None] = {}  # functions called once
        self._apply = self._runner.service(apply).options(detached=True)
        self._maps: list[MapResults] = []
        self._is_shut_down = False
        self._finalizer = weakref.finalize(self, _leave, self._runner, self._maps)

    # ---- calls -------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `fn(*args, **kwargs)` in a worker; return its future.

        Raises
        ------
        RuntimeError
            The executor is shut down. That a function or an argument cannot be pickled is the future's error.
        """
        if self._is_over():
            raise _refusal()
        try:
            service = self._service_of(fn)
            call = self._apply(fn, args, kwargs) if service is None else service(*args, **kwargs)
        except Exception as error:
            if self._is_over():
                raise _refusal() from error
            return _failed(error)
        return ExecutorFuture(call)

    def _is_over(self) -> bool:
        return self._is_shut_down or self._runner._lifetime.is_over

    def _service_of(self, fn: Any) -> RunnerService | None:
        """Return a function's own service; None: it travels with its call, as it does the first time.

        To make a service takes as long as some such calls.
        """
        if not _has_service(fn):
            return None
        service = self._services.get(fn)
        if service is not None:
            return service
        with self._lock:
            if fn in self._seen:
                return self._new_service(fn)
            if len(self._seen) >= MOST_SERVICES:
                del self._seen[next(iter(self._seen))]
            self._seen[fn] = None
            return None

    def _new_service(self, fn: Any) -> RunnerService:
        service = self._services.get(fn)
        if service is None:
            if len(self._services) >= MOST_SERVICES:
                self._services.pop(next(iter(self._services))).close()
            service = self._services[fn] = self._runner.service(fn).options(detached=True)
        return service

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: Progress = None,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables, as `map` does; return an iterator over the results, in order.

        Parameters
        ----------
        fn : callable
        *iterables : iterable
            They are read at once, and all items are called, whether or not anybody takes the results.
        timeout : float, optional
            Seconds from now; a result that is not there by then is a TimeoutError.
        chunksize : int
            Items in one call; 1, as by default, leaves it to the measure of the calls before.
        buffersize : int, optional
            Read so many items ahead of the results taken, and no more.
        progress : bool, str or callable, optional
            Show how many results were taken: see `Runner.get`.

        Raises
        ------
        ValueError
            A chunksize or buffersize below 1.
        """
        for name, value in (("chunksize", chunksize), ("buffersize", buffersize)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value!r}")
        if self._is_over():
            raise _refusal()
        service, star, items = self._mapped(fn, iterables)
        if buffersize is None and not isinstance(items, (range, tuple)):
            items = list(items)
        options = MapOptions(
            chunksize=chunksize if chunksize > 1 else None if buffersize is None else 1,
            timeout=None if timeout is None else check_timeout(timeout),
            star=star,
            return_exceptions=buffersize is None,
            length=len(items) if isinstance(items, (list, range, tuple)) else None,
            eager=buffersize is None,
            ahead=buffersize,
        )
        results: MapResults = self._runner._engine.map(service, items, options)  # type: ignore[assignment]
        if options.eager:
            self._maps[:] = [*(one for one in self._maps if not one.is_queued()), results]
        taken = TakenResults(results, _as_raised)
        return taken if progress is None or progress is False else followed(taken, progress, options.length)

    def _mapped(self, fn: Any, iterables: tuple[Iterable[Any], ...]) -> tuple[RunnerService, bool, Iterable[Any]]:
        """Return the service that `map` of a function calls, whether it takes several arguments, and the items."""
        items: Iterable[Any] = zip(*iterables, strict=False)
        if not _has_service(fn):
            return self._apply, True, ((fn, arguments, {}) for arguments in items)
        with self._lock:
            service = self._new_service(fn)
        return (service, False, iterables[0]) if len(iterables) == 1 else (service, True, items)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when those made are done. Idempotent.

        Parameters
        ----------
        wait : bool
            Return only then; by False at once, and the calls go on meanwhile.
        cancel_futures : bool
            Cancel the calls that have not begun.
        """
        with self._lock:
            self._is_shut_down = True
            services = [self._apply, *self._services.values()]
        if cancel_futures:
            self._await_begin()
            for results in self._maps:
                results.cancel()
            for service in services:
                with contextlib.suppress(FlameError):
                    service.close(cancel=True)
        if wait:
            self._finalizer.detach()
            _close(self._runner, self._maps)
        else:
            self._finalizer()

    def _await_begin(self) -> None:
        """Wait for the first worker: calls that were handed to one are not cancelled, as in `concurrent.futures`."""
        deadline = time.monotonic() + BEGIN_S
        while time.monotonic() < deadline:
            counted = self._runner._engine.statistics()
            if counted["running"] or counted["done"] or not counted["queued"]:
                return
            time.sleep(LOOK_S)

    def __repr__(self) -> str:
        return f"<Executor, {self._max_workers} workers{', shut down' * self._is_shut_down}>"


def _has_service(fn: Any) -> bool:
    """Whether a function can have a service of its own: others are compared by more than what they are."""
    return type(fn) is FunctionType or (type(fn) is BuiltinFunctionType and isinstance(fn.__self__, ModuleType))


def _leave(runner: Runner, maps: list[MapResults]) -> None:
    """End a runner when its calls are done: in a thread that the program's end waits for, or, at that end, at once."""
    if threading.main_thread().is_alive():
        with contextlib.suppress(RuntimeError):  # no thread can be started
            threading.Thread(target=_close, args=(runner, maps), name="flame-executor-shutdown").start()
            return
    _close(runner, maps)


def _close(runner: Runner, maps: list[MapResults]) -> None:
    """End a runner when its calls are done."""
    while not runner._lifetime.is_over and _is_busy(runner, maps):
        time.sleep(LOOK_S)
    runner.close()


def _is_busy(runner: Runner, maps: list[MapResults]) -> bool:
    if any(not results.is_queued() for results in maps):
        return True
    try:
        counted = runner.statistics()
    except FlameError:  # closed meanwhile, or this is a forked child
        return False
    return bool(counted.waiting or counted.queued or counted.running)


def _failed(error: Exception) -> Future[Any]:
    """Return the future of a call that could not be made, as `concurrent.futures` does: it pickles in another thread."""
    from concurrent.futures import Future

    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    cause = error.__cause__
    if isinstance(error, TypeError) and isinstance(cause, Exception):  # the pickler's own error
        cause.add_note(str(error))
        error = cause
    future.set_exception(error)
    return future


def _refusal() -> RuntimeError:
    return RuntimeError("cannot schedule new futures after shutdown")


def _check(max_workers: int | None, initializer: object, max_tasks_per_child: int | None) -> None:
    """Check arguments with the errors that `ProcessPoolExecutor` has."""
    if max_workers is not None and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
