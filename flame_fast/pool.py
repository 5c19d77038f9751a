"""`Pool`: a Runner behind the interface of `multiprocessing.Pool`.

    apply, apply_async --> FunctionServices.call --> AsyncResult
    map, starmap       --> MapCalls              --> AsyncResult
    imap               --> ItemCalls             --> IMapIterator

Of `map` and `imap`, a chunk of items is a call.
"""

from __future__ import annotations

import itertools
import os
import warnings
import weakref
from functools import partial

from flame_fast.faces.chunk_calls import ChunkTarget, ItemCalls, MapCalls
from flame_fast.faces.function_services import FunctionServices, failed, in_thread
from flame_fast.faces.pool_results import AsyncResult, CallbackThread, IMapIterator, PoolFuture, as_raised
from flame_fast.faces.pool_worker import begin
from flame_fast.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Any, TypeVar

    from flame_fast.faces.chunk_calls import ChunkCalls
    from flame_fast.kernels.runtime import ObjectFuture

    A = TypeVar("A")
    R = TypeVar("R")

#: What a pool is: at work; closed, its calls go on; ended.
RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"

#: Chunks of `map` for each worker, where no chunk size is given.
CHUNKS_PER_WORKER = 4

#: Calls of `map` and `imap` that are made ahead, for each worker.
AHEAD_PER_WORKER = 32

_numbers = itertools.count(1)


class Pool:
    """Runs calls in worker processes: a drop-in for `multiprocessing.Pool`.

    Parameters
    ----------
    processes : int, optional
        Worker processes; default the CPUs this process may really use.
    initializer : callable, optional
        Called as `initializer(*initargs)` in each worker before its first call.
    initargs : sequence
    maxtasksperchild : int, optional
        Calls after which a worker is replaced; a chunk of items counts as one.
    context : optional
        Accepted and not used: workers are forked by a small process of their own, which is safe beside threads.
    package : bool
        Package the current directory and let the workers import from that snapshot, as a Runner does by default; here they
        import from the same directories as this process.
    **options
        Further ones of `Runner`: `memory`, `arrays`, `engine`, `env`, `preload`.

    Notes
    -----
    It starts at once. Safe from any thread. What differs from `multiprocessing.Pool`:

    - A worker that dies fails the call or the chunk that it ran, with a `WorkerDiedError`, and is replaced: other calls go
      on, and nothing hangs. An initializer that raises fails each call with its exception.
    - Workers are no forks of this process. As with the start method "spawn", they know nothing of what it has computed, but
      for the globals of `__main__`: pass it, or have the initializer make it.
    - Locks, queues, events and shared values of `multiprocessing` may be passed as arguments, too, not by `initargs` alone.
      One that a child has from a fork before cannot, see `multiprocessing.get_context("spawn")`; nor can the ends of a
      two-way `Pipe`. Globals of a module that workers import are their own.
    - Functions need not be importable: lambdas, local functions and those of `__main__` travel by value.
    - Large arrays in arguments and results are not copied between processes, see `Runner`. Of `map` and `imap` the function
      travels once, with all that it holds.
    - `imap` and `imap_unordered` read their iterable a bounded number of items ahead of the values taken, so it may be
      endless. Once the pool is closed, they read it to its end.
    - Each callback that raises is logged; the pool goes on.
    - After `terminate` the results of unfinished calls raise a `FlameError`; there they wait for ever.
    - Tasks may make pools: those use the workers that there are.
    - It has none of `multiprocessing.Pool`'s private attributes but `_processes` and `_state`, which other libraries read.

    Examples
    --------
    >>> from flame_fast import Pool
    >>> with Pool(2) as pool:
    ...     print(pool.map(abs, [-1, 2, -3]))
    ...     print(sorted(pool.imap_unordered(lambda number: number * 2, range(3))))
    ...     print(pool.apply_async(pow, (2, 10)).get(timeout=10))
    [1, 2, 3]
    [0, 2, 4]
    1024
    """

    _state = TERMINATE  # until it has started

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
        *,
        package: bool = False,
        **options: Any,
    ) -> None:
        _check(processes, initializer, maxtasksperchild)
        runner = Runner(
            f"pool-{os.getpid()}-{next(_numbers)}",
            workers=processes,
            package=package,
            initializer=begin,
            initargs=(initializer, *initargs),
            max_tasks_per_worker=maxtasksperchild,
            **options,
        )
        self._processes = runner._engine.workers
        self._functions = FunctionServices(runner)
        self._callbacks = CallbackThread()
        self._unfinished: list[ChunkCalls] = []  # of which calls are still to be made
        self._closing: threading.Thread | None = None
        self._finalizer = weakref.finalize(self, _terminate, self._functions, self._unfinished, self._callbacks)
        self._state = RUN

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    # ---- single calls ------------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., R], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> R:
        """Call `func(*args, **kwds)` in a worker; return its value, or raise its error."""
        return self.apply_async(func, args, kwds).get()  # type: ignore[no-any-return]

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Call `func(*args, **kwds)` in a worker; return its result at once.

        Parameters
        ----------
        func : callable
        args : iterable
        kwds : mapping, optional
        callback : callable, optional
            Called with the value, in the one thread that runs the callbacks of the pool.
        error_callback : callable, optional
            Called with the error, likewise.

        Raises
        ------
        ValueError
            The pool is closed. That an argument cannot be pickled is the result's error.
        """
        self._check_running()
        future: Future[Any]
        try:
            future = PoolFuture(self._functions.call(func, tuple(args), dict(kwds) if kwds else {}))
        except Exception as error:
            self._check_running()
            future = failed(error)
        return self._result(future, callback, error_callback)

    def _result(
        self,
        future: Future[Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult:
        return AsyncResult(self, future, self._callbacks, callback, error_callback)

    # ---- many calls --------------------------------------------------------------------------------------------------

    def map(self, func: Callable[[A], R], iterable: Iterable[A], chunksize: int | None = None) -> list[R]:
        """Call `func` with each item; return the values in order.

        Parameters
        ----------
        func : callable
        iterable : iterable
        chunksize : int, optional
            Items in one call; by default each worker gets four calls. An error keeps the other items of its call back.

        Raises
        ------
        Exception
            The first error in the order of the items, once all calls are done. A note says which item it was.
        """
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Do what `map` does; return its result at once, with callbacks as for `apply_async`."""
        return self._map(func, iterable, chunksize, callback, error_callback, star=False)

    def starmap(self, func: Callable[..., R], iterable: Iterable[Iterable[Any]], chunksize: int | None = None) -> list[R]:
        """Call `func(*item)` for each item; otherwise as `map`."""
        return self.starmap_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Do what `starmap` does; return its result at once, with callbacks as for `apply_async`."""
        return self._map(func, iterable, chunksize, callback, error_callback, star=True)

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[Any]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        *,
        star: bool,
    ) -> AsyncResult:
        self._check_running()
        items = iterable if isinstance(iterable, (tuple, range)) else list(iterable)
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (CHUNKS_PER_WORKER * self._processes)))
        _check_chunksize(chunksize)
        try:
            target = self._target(func, chunksize, star=star)
        except Exception as error:
            self._check_running()
            return self._result(failed(error), callback, error_callback)
        chunks = (list(items[start : start + chunksize]) for start in range(0, len(items), chunksize))
        calls = MapCalls(target, chunks, AHEAD_PER_WORKER * self._processes, self._unfinished)
        calls.fill()
        return self._result(calls.future, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Call `func` with each item; return an iterator over the values, in order, whose `next` takes a timeout.

        Parameters
        ----------
        func : callable
        iterable : iterable
            May be endless: it is read a bounded number of items ahead of the values taken.
        chunksize : int
            Items in one call.
        """
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Do what `imap` does; the values come as calls are done."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int, *, ordered: bool) -> IMapIterator:
        self._check_running()
        _check_chunksize(chunksize)
        target = self._target(func, chunksize, star=False)
        chunks = _chunks(iter(iterable), chunksize)
        may_wait = not hasattr(type(iterable), "__len__")
        calls = ItemCalls(target, chunks, AHEAD_PER_WORKER * self._processes, self._unfinished, ordered, may_wait)
        return IMapIterator(self, calls)

    def _target(self, func: Callable[..., Any], chunksize: int, *, star: bool) -> ChunkTarget:
        """Return what is called for chunks of items: the function's own service, or one that takes function and items."""
        functions = self._functions
        service = functions.service_of(func)
        if service is not None and chunksize == 1:
            return ChunkTarget(partial(_call_one, functions, func, star), True, as_raised)
        stored = func if service is not None else functions.runner.put_object(func)
        return ChunkTarget(partial(_call_each, functions, stored, star), False, as_raised)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more calls; end the workers when those made are done. Idempotent."""
        if self._state == RUN:
            self._state = CLOSE
            self._closing = in_thread(
                "flame-pool-close", _close, self._functions, self._unfinished, self._callbacks, daemon=True
            )

    def terminate(self) -> None:
        """End the workers at once; unfinished calls are dropped. Idempotent."""
        self._state = TERMINATE
        self._finalizer()

    def join(self) -> None:
        """Wait until the workers have ended, and the callbacks are called.

        Raises
        ------
        ValueError
            The pool is neither closed nor terminated.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._closing is not None:
            self._closing.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> None:
        self.terminate()

    def __del__(self) -> None:
        if self._state == RUN:
            warnings.warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return f"<flame_fast.Pool state={self._state} pool_size={self._processes}>"


def _call_one(
    functions: FunctionServices, func: Callable[..., Any], star: bool, items: list[Any], _: int
) -> ObjectFuture[Any]:
    return functions.call(func, tuple(items[0]) if star else (items[0],), {})


def _call_each(functions: FunctionServices, stored: Any, star: bool, items: list[Any], first: int) -> ObjectFuture[Any]:
    return functions.call_for_each(stored, items, star, first)


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _close(functions: FunctionServices, maps: list[ChunkCalls], callbacks: CallbackThread) -> None:
    """End a pool when its calls are done."""
    for calls in list(maps):
        calls.finish_source()
    functions.wait(maps)
    functions.runner._lifetime.close()
    callbacks.end()


def _terminate(functions: FunctionServices, maps: list[ChunkCalls], callbacks: CallbackThread) -> None:
    """End a pool now. Without the warning of a Runner that drops calls: that is what the user asked for."""
    callbacks.drop()
    for calls in list(maps):
        calls.cancel(ValueError("Pool not running"))
    functions.runner._lifetime.close()
    callbacks.end()


def _check(processes: int | None, initializer: object, maxtasksperchild: int | None) -> None:
    """Check arguments with the errors that `multiprocessing.Pool` has."""
    if processes is not None and processes < 1:
        raise ValueError("Number of processes must be at least 1")
    if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")


def _check_chunksize(chunksize: int) -> None:
    if isinstance(chunksize, bool) or not isinstance(chunksize, int):
        raise TypeError(f"chunksize: expected an integer of at least 1, got {chunksize!r}")
    if chunksize < 1:
        raise ValueError(f"chunksize: expected an integer of at least 1, got {chunksize!r}")
