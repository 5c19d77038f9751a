"""The backend of joblib's `Parallel`: its batches are calls of a Runner's workers. See `flame_fast.joblib`.

    Parallel --> FlameBackend.submit --> Batches: (function, its calls) --> run_batch in a worker --> callback

A function that several batches have, and each large array, is put into the store once per `Parallel`; calls carry a
reference. The workers stay for the next `Parallel`.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from functools import partial
from pickle import PicklingError
from types import FunctionType

from joblib import cpu_count, parallel_config, register_parallel_backend
from joblib._memmapping_reducer import _get_backing_memmap, _reduce_memmap_backed
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
    mp,
)
from joblib.disk import memstr_to_bytes
from numpy import memmap, ndarray

from flame_fast.calls.import_scan import fork_safe_modules
from flame_fast.executor import ExecutorFuture
from flame_fast.kernels.runtime import serialization
from flame_fast.kernels.runtime.serialization.definitions import can_be_imported, is_importable
from flame_fast.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from joblib.parallel import BatchedCalls

    from flame_fast.calls.service import RunnerService
    from flame_fast.kernels.runtime import ObjectFuture, ObjectRef

#: The name of the backend.
NAME = "flame_fast"

#: What `Parallel` hands to every backend, and what loky alone needs: accepted, without effect.
WITHOUT_EFFECT = frozenset({"context", "idle_worker_timeout", "mmap_mode", "prefer", "require", "temp_folder", "verbose"})

OPTIONS = WITHOUT_EFFECT | {"initargs", "initializer", "inner_max_num_threads", "max_nbytes"}

#: Calls that tell what the workers will import.
LOOKED_AT = 16

#: Backends that a `Parallel` in a call has, by name.
PLAIN_BACKENDS: dict[str, Any] = {kind.__name__: kind for kind in (SequentialBackend, ThreadingBackend)}

_numbers = itertools.count(1)
_called = threading.local()  # `waiting`: callbacks to run in this thread, if one runs


# ---- in a worker -----------------------------------------------------------------------------------------------------


def run_batch(
    function: Any, arguments: list[tuple[Any, ...]], named: list[dict[str, Any]] | None, nested: Any, n_jobs: int | None
) -> Any:
    """Make a batch of calls in a worker.

    Parameters
    ----------
    function : callable or list
        Of all calls, or of each.
    arguments : list of tuples
    named : list of dict, optional
        None: no call has arguments by name.
    nested, n_jobs
        Those of a `Parallel` in a call.

    Returns
    -------
    list or BaseException
        The results; in their place an exception that a Runner does not raise as itself.
    """
    if type(nested) is tuple:
        kind, level = nested
        nested = PLAIN_BACKENDS[kind](nesting_level=level)
    try:
        with parallel_config(backend=nested, n_jobs=n_jobs):
            if named is None and type(function) is not list:
                return [function(*args) for args in arguments]
            functions = function if type(function) is list else [function] * len(arguments)
            every = zip(functions, arguments, named or [{}] * len(arguments), strict=True)
            return [one(*args, **kwargs) for one, args, kwargs in every]
    except serialization.NOT_RAISED_AS_THEMSELVES as error:
        return error


# ---- the workers -----------------------------------------------------------------------------------------------------


class Workers:
    """The workers that `Parallel`s share: kept for the next one, made anew when it asks for others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[Any, ...] = ()
        self._runner: Runner | None = None

    def starter(
        self,
        n_jobs: int,
        environment: dict[str, str],
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> Callable[[Sequence[str]], Runner]:
        """Return what returns a runner with such workers; it takes modules that new ones had better import once for all."""
        key = (os.getpid(), n_jobs, tuple(sorted(environment.items())), _identity_of(initializer, initargs))
        options = {"workers": n_jobs, "initializer": initializer, "initargs": initargs, "env": environment}
        return partial(self._runner_with, key, options)

    def _runner_with(self, key: tuple[Any, ...], options: dict[str, Any], preload: Sequence[str]) -> Runner:
        with self._lock:
            runner = self._runner
            if runner is None or self._key != key or runner._lifetime.is_over:
                # The one before ends when the last `Parallel` that works with it has: nobody else keeps it.
                name = f"joblib-{os.getpid()}-{next(_numbers)}"
                runner = self._runner = Runner(name, package=False, preload=(__name__, *preload), **options)
                self._key = key
            return runner

    def close(self) -> None:
        """End the workers."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


def _identity_of(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> bytes | None:
    """Return what tells an initializer and its arguments from others: `==` of arguments may mean anything."""
    if initializer is None:
        return None
    try:
        return serialization.dump_body((initializer, initargs))
    except Exception as error:
        raise TypeError(
            f"the initializer {initializer!r} or its arguments cannot be pickled and sent to a worker: {error}"
        ) from error


_workers = Workers()


# ---- the batches of a Parallel ---------------------------------------------------------------------------------------


class Batches:
    """The batches of one `Parallel`: what of them is stored, and which have not ended.

    Parameters
    ----------
    start : callable
        Returns the runner; it takes the modules that the first batch comes from.
    shared_bytes : int, optional
        Bytes of an array from which on it is stored once.

    Notes
    -----
    joblib submits from the threads of callbacks, one at a time.
    """

    def __init__(self, start: Callable[[Sequence[str]], Runner], shared_bytes: int | None) -> None:
        self._start = start
        self._shared_bytes = shared_bytes
        self._runner: Runner | None = None
        self._service: RunnerService[..., Any] | None = None
        self._function: tuple[Any, Any] = (None, None)  # that of the last batch, and how it travels
        self._arrays: dict[int, tuple[weakref.ref[Any], ObjectRef[Any]]] = {}  # by id
        self._open: dict[int, ExecutorFuture[Any]] = {}

    def call(self, batch: BatchedCalls) -> Future[Any]:
        """Call a batch in a worker. What cannot be sent is its future's error: joblib calls from threads of callbacks."""
        try:
            future = ExecutorFuture(self._call(batch))
        except TypeError as error:
            return _failed(PicklingError(f"Could not pickle the task to send to the workers: {error}"), error)
        except Exception as error:
            return _failed(error)
        self._open[id(future)] = future
        future.add_done_callback(self._forget)
        return future

    def _call(self, batch: BatchedCalls) -> ObjectFuture[Any]:
        service = self._service or self._begin(batch)
        functions, every, named = zip(*batch.items, strict=True)
        first = functions[0]
        same = all(one is first for one in functions)
        return service(
            self._function_of(first) if same else list(map(_own, functions)),
            list(map(self._arguments, every)),
            [{name: self._argument(value) for name, value in kwargs.items()} for kwargs in named] if any(named) else None,
            _plain(batch._backend),
            batch._n_jobs,
        )

    def _begin(self, batch: BatchedCalls) -> RunnerService[..., Any]:
        self._runner = self._start(fork_safe_modules(_values_of(batch)))
        self._service = self._runner.service(run_batch).options(detached=True)
        return self._service

    def _forget(self, future: Future[Any]) -> None:
        self._open.pop(id(future), None)

    def _function_of(self, function: Any) -> Any:
        """Return how a function travels: by itself the first time, then by its place in the store."""
        known, travels = self._function
        if known is not function:
            self._function = function, None
            return _own(function)
        if travels is None:
            assert self._runner is not None
            travels = self._runner.put_object(_own(function))
            self._function = function, travels
        return travels

    def _arguments(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        for value in args:
            if isinstance(value, ndarray):
                return tuple(map(self._argument, args))
        return args

    def _argument(self, value: Any) -> Any:
        """Return a large array's place, what opens a memory map again, anything else as it is."""
        if not isinstance(value, ndarray):
            return value
        if type(value) in (ndarray, memmap):  # others, as masked arrays, are more than their data
            mapped = _get_backing_memmap(value)
            if isinstance(mapped, memmap) and mapped.filename is not None:
                return MappedFile(value, mapped)
        if self._shared_bytes is None or value.nbytes < self._shared_bytes:
            return value
        key, arrays = id(value), self._arrays
        found = arrays.get(key)
        if found is None:
            assert self._runner is not None
            # A generator may make an array for each call: each goes when nobody has it, and its calls are done.
            gone = weakref.ref(value, lambda _: arrays.pop(key, None))
            found = arrays[key] = (gone, self._runner.put_object(value))
        return found[1]

    def cancel(self) -> None:
        """End the calls that run, and cancel the others."""
        calls = [future._call for future in list(self._open.values()) if future._call is not None]
        if self._runner is not None and calls:
            self._runner.cancel(calls, force=True)
        self.close()

    def close(self) -> None:
        """Give back what is stored."""
        self._arrays.clear()
        self._open.clear()
        self._function = (None, None)


class MappedFile:
    """A NumPy memory map, or a view of one, that arrives as a map of the same file: what is written there, all see."""

    def __init__(self, array: Any, mapped: Any) -> None:
        self._array = array
        self._mapped = mapped

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce_memmap_backed(self._array, self._mapped)  # type: ignore[no-any-return]


def _own(function: Any) -> Any:
    """Return a function that travels by value with the globals it has now, as joblib's backends send it.

    A worker that can import its module would give it those of its own import.
    """
    module = type(function) is FunctionType and sys.modules.get(function.__module__)
    if not module or is_importable(function) or not can_be_imported(module):
        return function
    copy = FunctionType(
        function.__code__, dict(function.__globals__), function.__name__, function.__defaults__, function.__closure__
    )
    for name in ("__qualname__", "__doc__", "__kwdefaults__", "__annotations__"):
        setattr(copy, name, getattr(function, name))
    vars(copy).update(vars(function))
    return copy


def _plain(backend: Any) -> Any:
    """Return how a nested backend travels: those that joblib makes for each batch by name, which needs no pickle."""
    kind = type(backend).__name__
    return (kind, backend.nesting_level) if PLAIN_BACKENDS.get(kind) is type(backend) else backend


def _values_of(batch: BatchedCalls) -> list[Any]:
    """Return the functions and the arguments of a batch's first calls."""
    first = batch.items[:LOOKED_AT]
    return [value for function, args, kwargs in first for value in (function, *args, *kwargs.values())]


def _failed(error: BaseException, cause: BaseException | None = None) -> Future[Any]:
    """Return the future of a batch that could not be sent."""
    error.__cause__ = cause
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


class FlameBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The backend; `flame_fast.joblib.register` tells what it does."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    #: Seconds that a batch should take, at least and at most: half of loky's, since to send one costs a fifth. Shorter ones
    #: gain nothing, and wake the driver more often, which a busy machine feels.
    MIN_IDEAL_BATCH_DURATION = 0.1
    MAX_IDEAL_BATCH_DURATION = 1.0

    _workers: Batches | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls run at the same time for joblib's `n_jobs`."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or mp is None:  # None: $JOBLIB_MULTIPROCESSING says that there are no processes
            return 1
        return n_jobs if n_jobs > 0 else max(cpu_count() + 1 + n_jobs, 1)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Prepare for a `Parallel`; return the number of workers. They start with its first batch.

        Raises
        ------
        TypeError
            An option that this backend does not know, or an initializer that cannot be pickled.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        options = {"max_nbytes": "1M", "initializer": None, "initargs": (), **self.backend_kwargs, **options}
        if unknown := sorted(options.keys() - OPTIONS):
            raise TypeError(
                f"options of the backend {NAME!r}: expected some of {', '.join(sorted(OPTIONS))}, got {unknown[0]!r}"
            )
        self.parallel = parallel
        if "inner_max_num_threads" in options:  # of a `Parallel` itself; a context's is set by joblib
            self.inner_max_num_threads = options["inner_max_num_threads"]
        most = options["max_nbytes"]
        start = _workers.starter(
            n_jobs, self._prepare_worker_env(n_jobs), options["initializer"], tuple(options["initargs"])
        )
        self._workers = Batches(start, memstr_to_bytes(most) if isinstance(most, str) else most)
        return n_jobs

    def submit(self, func: BatchedCalls, callback: Callable[[Any], object] | None = None) -> Future[Any]:
        """Call a batch in a worker; `callback` is called with its future once it is done."""
        assert self._workers is not None
        future = self._workers.call(func)
        if callback is not None:
            future.add_done_callback(partial(_call_back, callback))
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return a batch's results, or raise its error."""
        results = out.result()
        if isinstance(results, BaseException):
            raise results
        return results

    def terminate(self) -> None:
        """Release what a `Parallel` stored; the workers stay."""
        batches, self._workers = self._workers, None
        if batches is not None:
            batches.close()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the calls that run, and cancel the others."""
        batches, self._workers = self._workers, None
        if batches is not None:
            batches.cancel()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self.parallel._backend_kwargs)


def _call_back(callback: Callable[[Any], object], future: Future[Any]) -> None:
    """Call a callback, which may submit the next batch, whose callback comes at once if that is done by then."""
    waiting: deque[Any] | None = getattr(_called, "waiting", None)
    if waiting is not None:  # after the one that runs in this thread, not inside of it
        waiting.append((callback, future))
        return
    _called.waiting = waiting = deque([(callback, future)])
    try:
        while waiting:
            one, done = waiting.popleft()
            one(done)
    finally:
        _called.waiting = None


register_parallel_backend(NAME, FlameBackend)  # in workers, too: a call may name the backend
