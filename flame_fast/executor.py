"""`Executor`: a Runner behind the interface of `concurrent.futures`."""

from __future__ import annotations

import functools
import itertools
import os
import time
import weakref
from concurrent.futures import Executor as ExecutorBase
from pickle import PicklingError

from flame_fast.calls.progress import followed
from flame_fast.engine.spec import MapOptions
from flame_fast.errors import TaskError, WorkerDiedError
from flame_fast.faces.function_services import FunctionServices, as_kind, failed, in_thread, is_unsent
from flame_fast.kernels.runtime import TakenResults, check_timeout
from flame_fast.kernels.runtime.concurrent_future import CallFuture
from flame_fast.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import Any, ParamSpec, TypeVar

    from flame_fast.calls.progress import Progress
    from flame_fast.calls.service import RunnerService
    from flame_fast.kernels.runtime import MapResults

    P = ParamSpec("P")
    R = TypeVar("R")

#: Seconds between two looks at whether a worker has begun.
LOOK_S = 0.002

#: Seconds that `shutdown(cancel_futures=True)` waits for the first worker at most.
BEGIN_S = 1.0

_numbers = itertools.count(1)


class ExecutorFuture(CallFuture["R"]):
    """The future of an executor's call: its errors are those that users of `concurrent.futures` catch, too."""

    def _as_raised(self, error: BaseException) -> BaseException:
        return _as_raised(error)


def _as_raised(error: BaseException) -> BaseException:
    """Return the error that users of `concurrent.futures` catch in the place of one of this package, as a subclass of it."""
    if isinstance(error, WorkerDiedError):
        return as_kind(error, _died())
    if isinstance(error, TaskError) and is_unsent(error):
        return as_kind(error, UnsentResult)
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
    - Locks, queues, events and shared values of `multiprocessing` may be passed to workers by `initargs`, and as arguments,
      too. One that a child has from a fork before cannot, see `multiprocessing.get_context("spawn")`; nor can the ends of a
      two-way `Pipe`. As there, this process must keep them.
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
        self._functions = FunctionServices(self._runner)
        self._maps: list[MapResults[Any]] = []
        self._is_shut_down = False
        self._finalizer = weakref.finalize(
            self, in_thread, "flame-executor-shutdown", _close, self._functions, self._maps, daemon=False
        )

    # ---- calls -------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call `fn(*args, **kwargs)` in a worker; return its future.

        Raises
        ------
        RuntimeError
            The executor is shut down. That a function or an argument cannot be pickled is the future's error.
        """
        if self._is_over():
            raise _refusal()
        try:
            return ExecutorFuture(self._functions.call(fn, args, kwargs))
        except Exception as error:
            if self._is_over():
                raise _refusal() from error
            return failed(error)

    def _is_over(self) -> bool:
        return self._is_shut_down or self._runner._lifetime.is_over

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: Progress = None,
    ) -> Iterator[R]:
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
        results: MapResults[Any] = self._runner._engine.map(service, items, options)  # type: ignore[assignment]
        if options.eager:
            self._maps[:] = [*(one for one in self._maps if not one.is_queued()), results]
        taken = TakenResults(results, _as_raised)
        return taken if progress is None or progress is False else followed(taken, progress, options.length)  # type: ignore[arg-type]

    def _mapped(self, fn: Any, iterables: tuple[Iterable[Any], ...]) -> tuple[RunnerService[..., Any], bool, Iterable[Any]]:
        """Return the service that `map` of a function calls, whether it takes several arguments, and the items."""
        items: Iterable[Any] = zip(*iterables, strict=False)
        service = self._functions.service_of(fn)
        if service is None:
            return self._functions.apply, True, ((fn, arguments, {}) for arguments in items)
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
        self._is_shut_down = True
        if cancel_futures:
            self._await_begin()
            for results in self._maps:
                results.cancel()
            self._functions.cancel()
        if wait:
            self._finalizer.detach()
            _close(self._functions, self._maps)
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


def _close(functions: FunctionServices, maps: list[MapResults[Any]]) -> None:
    """End a runner when its calls are done. At a garbage collection in a thread, which the program's end waits for."""
    functions.wait(maps)
    functions.runner.close()


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
