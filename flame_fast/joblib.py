"""joblib's `Parallel`, and with it scikit-learn's `n_jobs`, on a Runner's workers.

    Parallel --> FlameBackend.submit: (function, its calls) --> run_batch in a worker --> callback

Each function, and each large array that several calls have, is put into the store once per `Parallel`; calls carry a
reference. The workers stay for the next `Parallel`.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from functools import partial

from joblib import parallel_config, register_parallel_backend
from joblib._parallel_backends import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend
from joblib.disk import memstr_to_bytes

from flame_fast.executor import ExecutorFuture
from flame_fast.resources import available_cpus
from flame_fast.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from joblib.parallel import BatchedCalls

    from flame_fast.calls.service import RunnerService
    from flame_fast.kernels.runtime import ObjectRef

#: The name of the backend.
NAME = "flame_fast"

#: Bytes of an array from which on it is put into the store once, if `max_nbytes` says no other number.
SHARED_BYTES = 1 << 20

_numbers = itertools.count(1)
_called = threading.local()  # `waiting`: callbacks to run in this thread, if one runs


def register() -> None:
    """Make the backend known to joblib: `joblib.parallel_config("flame_fast", n_jobs=...)` selects it then.

    Idempotent.

    Examples
    --------
    >>> import flame_fast.joblib
    >>> from joblib import Parallel, delayed, parallel_config
    >>> flame_fast.joblib.register()
    >>> with parallel_config("flame_fast", n_jobs=2):
    ...     Parallel()(delayed(abs)(number) for number in (-1, 2, -3))
    [1, 2, 3]
    """
    register_parallel_backend(NAME, FlameBackend)


def run_batch(function: Callable[..., Any] | None, calls: list[tuple[Any, ...]], backend: tuple[Any, Any]) -> list[Any]:
    """Make a batch of calls in a worker. `function`: of all of them; None: each has its own in front."""
    nested, n_jobs = backend
    with parallel_config(backend=nested, n_jobs=n_jobs):
        if function is None:
            return [one(*args, **kwargs) for one, args, kwargs in calls]
        return [function(*args, **kwargs) for args, kwargs in calls]


class Workers:
    """The workers that `Parallel`s share: kept for the next one, made anew when it asks for others."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._runner: Runner | None = None

    def service(self, n_jobs: int, environment: dict[str, str]) -> tuple[Runner, RunnerService]:
        """Return a runner with so many workers, and its service for batches."""
        key = (os.getpid(), n_jobs, tuple(sorted(environment.items())))
        runner = self._runner
        if runner is None or self._key != key or runner._lifetime.is_over:
            # The one before ends when the last `Parallel` that works with it has: nobody else keeps it.
            runner = self._runner = Runner(
                f"joblib-{os.getpid()}-{next(_numbers)}", workers=n_jobs, package=False, env=environment
            )
            self._key = key
        return runner, runner.service(run_batch).options(detached=True)

    def close(self) -> None:
        """End the workers."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


_workers = Workers()


class FlameBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The backend `"flame_fast"` of joblib.

    Notes
    -----
    Arrays of at least `max_nbytes` bytes (of `Parallel`; by default 1 MB) among the arguments of calls are stored once for
    each `Parallel`, whichever calls have them, and each call gets them without a copy: as its own, a page of which is copied
    when it is first written to (joblib's memory maps refuse writes). None: each call brings its own. `mmap_mode`,
    `temp_folder` and `prefer` have no effect: nothing is written to disk.

    A worker that dies fails the `Parallel` with a `WorkerDiedError`; the next one finds a new worker. An abort ends running
    calls by force.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    #: Seconds that a batch should take, at least and at most: to send one takes microseconds.
    MIN_IDEAL_BATCH_DURATION = 0.02
    MAX_IDEAL_BATCH_DURATION = 0.2

    _runner: Runner | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls run at the same time for joblib's `n_jobs`."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(available_cpus() + 1 + n_jobs, 1)

    def configure(self, n_jobs: int = 1, parallel: Any = None, max_nbytes: Any = "1M", **ignored: Any) -> int:
        """Prepare for a `Parallel`; return the number of workers."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._runner, self._service = _workers.service(n_jobs, self._prepare_worker_env(n_jobs))
        max_nbytes = self.backend_kwargs.get("max_nbytes", max_nbytes)
        self._shared_bytes = memstr_to_bytes(max_nbytes) if isinstance(max_nbytes, str) else max_nbytes
        self._stored: dict[int, tuple[Any, ObjectRef]] = {}  # by id: the object, which keeps its id, and its place
        self._open: dict[int, ExecutorFuture] = {}
        return n_jobs

    def submit(self, func: BatchedCalls, callback: Callable[[Any], object] | None = None) -> ExecutorFuture:
        """Call a batch in a worker; `callback` is called with its future once it is done."""
        functions = {id(one) for one, _, _ in func.items}
        backend = self._place((func._backend, func._n_jobs), key=id(func._backend))
        calls = [
            (self._placed(args), {name: self._array(value) for name, value in kwargs.items()})
            for _, args, kwargs in func.items
        ]
        if len(functions) == 1:
            call = self._service(self._place(func.items[0][0]), calls, backend)
        else:
            named = [(one, *call) for (one, _, _), call in zip(func.items, calls, strict=True)]
            call = self._service(None, named, backend)
        future = ExecutorFuture(call)
        self._open[id(future)] = future
        future.add_done_callback(self._forget)
        if callback is not None:
            future.add_done_callback(partial(self._call_back, callback))
        return future

    def _call_back(self, callback: Callable[[Any], object], future: ExecutorFuture) -> None:
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

    def _forget(self, future: Future[Any]) -> None:
        self._open.pop(id(future), None)

    def _place(self, obj: Any, key: int | None = None) -> ObjectRef:
        """Store an object once; return where it is."""
        key = id(obj) if key is None else key
        found = self._stored.get(key)
        if found is None:
            assert self._runner is not None
            found = self._stored[key] = (obj, self._runner.put_object(obj))
        return found[1]

    def _placed(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._array(value) for value in args)

    def _array(self, value: Any) -> Any:
        """Return a large array's place, anything else as it is."""
        if (
            self._shared_bytes is None
            or getattr(value, "nbytes", 0) < self._shared_bytes
            or not hasattr(value, "__array_interface__")
        ):
            return value
        return self._place(value)

    def retrieve_result_callback(self, out: ExecutorFuture) -> Any:
        """Return a batch's results, or raise its error."""
        return out.result()

    def terminate(self) -> None:
        """Release what a `Parallel` stored; the workers stay."""
        self._stored, self._open = {}, {}
        self.__dict__.pop("_service", None)
        self._runner = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the calls that run, and cancel the others."""
        calls = [future._call for future in list(self._open.values()) if future._call is not None]
        if self._runner is not None and calls:
            self._runner.cancel(calls, force=True)
        self._open = {}
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)
