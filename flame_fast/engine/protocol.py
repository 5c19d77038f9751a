"""Engine protocols: what a runner asks of an engine, and what the native server asks of its task host.

    Runner, RunnerService, gather  ->  Engine (an engine), Future, Ref, FutureClient, Selector (its futures)
    Worker.serve, run_queued      ->  TaskHost (task_host.Host)  ->  ServiceSource (Worker)

An engine owes the runner nothing else: it may have a segment of shared memory (`engine.segment`) or none. Type checkers and
readers use this module; no module imports it at run time, since `typing` costs a third of the interpreter's start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextvars import ContextVar
    from typing import Self

    from flame_fast.engine.spec import CallOptions, MapOptions, ServiceSpec
    from flame_fast.kernels.runtime import CallTarget, NumberedCall, ObjectRef, Worker

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

#: A service's key in its engine: picklable, since services travel to tasks. The engine alone looks inside.
ServiceKey: TypeAlias = Any


# ---- futures ---------------------------------------------------------------------------------------------------------
#
# Users know futures and refs as `ObjectFuture` and `ObjectRef`. Those of an engine without a segment derive from these types
# and override every method, `__init__`, `__repr__` and `_repr_html_` too: the native ones read a slot of a segment. The
# picklers find futures by these types, wherever they are in an argument.


class Ref(Protocol):
    """A stored value, as `Runner.put_object` and `Future.ref` return it."""

    def get(self, timeout: float | None = None) -> Any:
        """Return the value, a new object at each call; raise the task's error, or TimeoutError."""

    def done(self) -> bool:
        """Whether the value, or the error, is there."""

    def is_lost(self) -> bool:
        """Whether the value will never be there: its runner was closed before the call finished."""

    @property
    def client(self) -> FutureClient:
        """The client that waits for this future together with others of the same client."""


class Future(Ref, Protocol):
    """The outcome of one call."""

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has finished; raise its error, or TimeoutError."""

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the call's error, a new object at each call; None if it succeeded."""

    def cancel(self, force: bool = False) -> bool:
        """Cancel the call, unless it has begun, and every call that depends on it; return whether it is cancelled.

        `force`: end a call that has begun, too. An engine that cannot end it lets it go on.
        """

    def cancelled(self) -> bool:
        """Whether the call was cancelled, or depends on one that was."""

    def running(self) -> bool:
        """Whether the call runs now."""

    def has_failed(self) -> bool:
        """Whether the call has finished with an error."""

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call a function with this future once it is done; at once if it is."""

    def discard_callback(self, fn: Callable[[Any], object]) -> None:
        """Forget a function given to `add_done_callback`, unless it has been called."""

    def output(self, timeout: float | None = None) -> str:
        """Wait for the call; return what it printed, if that was captured; else raise INVALID_STATE."""

    def ref(self) -> Ref:
        """Wait for the call; return a ref of its value."""


class Results(Iterator[R_co], Protocol[R_co]):
    """The results of `map`, for `for` and for `async for`."""

    def __aiter__(self) -> Self:
        """Return this iterator."""

    def __anext__(self) -> Awaitable[R_co]:
        """Return what is awaited for the next result; that raises StopAsyncIteration at the end."""

    def __length_hint__(self) -> int:
        """Return how many results are left, as far as that is known."""

    def awaited(self) -> list[Any]:
        """Return futures of which one must be done before the next result can be given out; none: it can be now."""


class Selector(Protocol):
    """A list of futures, given out in the order in which they finish."""

    def select(self, timeout: float | None = None) -> list[int]:
        """Return the positions of futures that finished since the last call, at least one; raise TimeoutError."""


class FutureClient(Protocol):
    """Waits for many futures of one runner in one wait. Every engine is one; its futures may name another object."""

    def owns_all(self, objects: list[Any]) -> bool:
        """Whether each object is a future or ref of this client."""

    def get_many(self, handles: list[Any], timeout: float | None = None) -> list[Any]:
        """Return the values in order; raise the first failure in this order as soon as all before it are done."""

    def wait_many(self, handles: list[Any], timeout: float | None = None) -> None:
        """Wait as `get_many`, without reading the values."""

    def cancel_many(self, handles: list[Any], force: bool = False) -> int:
        """Cancel the futures' calls, as `Future.cancel` does; return how many of them are cancelled."""

    def selector(self, handles: list[Any]) -> Selector:
        """Return a selector of these handles, all of this client."""


# ---- engines ---------------------------------------------------------------------------------------------------------


class Engine(FutureClient, Protocol):
    """Runs the calls of one runner, and stores its values.

    Every method is safe from any thread. After `close`, finished values stay readable and everything else raises
    `FlameError(INVALID_STATE)`; so does everything in a forked child.
    """

    @property
    def name(self) -> str:
        """The runner's name."""

    @property
    def session(self) -> int:
        """A number that no other engine on this machine has: services and runners that travel find their engine by it."""

    @property
    def workers(self) -> int:
        """How many calls may run at the same time; a warmup is cut to it."""

    @property
    def cpus(self) -> int:
        """CPUs that this process may use; a call may take as many."""

    @property
    def is_parallel(self) -> bool:
        """Whether several copies of a service's function may exist, one for each worker."""

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a forked child of the engine's: it must neither use nor close the engine."""

    def set_project(self, project: dict[str, Any]) -> None:
        """Tell workers where the project is. The runner calls it once, before its first service."""

    def add_service(
        self, spec: ServiceSpec, *, limit: int, sticky: bool, warmup: int, preload: int, restart: bool
    ) -> ServiceKey:
        """Add a service.

        Parameters
        ----------
        spec : ServiceSpec
        limit : int
            Workers that may run its calls at the same time; 0 for all.
        sticky : bool
            Whether those workers stay the same ones.
        warmup : int
            Workers that load the service now.
        preload : int
            Libraries that loading or calling it imports: bits of `engine.preload`. An engine may ignore it.
        restart : bool
            Of an instance: it goes on, as it was at first, when its process dies.
        """

    def policy(self, options: CallOptions) -> Any:
        """Return what `bind` takes for calls with these options; the engine alone looks inside."""

    def bind(
        self,
        target: CallTarget[..., Any],
        key: ServiceKey,
        method: int,
        state: Callable[[], Any] | None,
        policy: Any = None,
        label: str | None = None,
    ) -> None:
        """Make `target(...)` submit a call and return its `Future`, without blocking.

        An engine over a segment calls `CallTarget.bind`, and a call enters natively; another one calls
        `CallTarget.bind_submit`.

        Parameters
        ----------
        target : CallTarget
        key : ServiceKey
            As `add_service` returned it.
        method : int
            The position in `ServiceSpec.methods`; 0 for a function; `UNCALLABLE`: a call runs `target.refuse()`.
        state : callable, optional
            Returns what the function has of its own at each call; `calls.captures.with_state` puts it in place.
        policy : optional
            As `policy` returned it; None for calls without options.
        label : str, optional
            What the calls are of, for the reprs of their futures.
        """

    def map(self, target: CallTarget[..., Any], iterable: Iterable[Any], options: MapOptions) -> Results[Any]:
        """Return an iterator over the results of `target(item)`; see `RunnerService.map`."""

    def close_service(self, key: ServiceKey, cancel: bool) -> None:
        """Refuse new calls of a service; finish those made, or, if `cancel`, those that have begun. Idempotent."""

    def put(self, value: T) -> ObjectRef[T]:
        """Store a copy of a value."""

    def statistics(self) -> dict[str, int]:
        """Return the counters that `calls.statistics.Statistics` shows."""

    def close(self, ending: str) -> int:
        """End every process and drop unfinished calls, within 2 seconds; return how many were dropped. Idempotent.

        Parameters
        ----------
        ending : str
            The end of the runner, for the errors of those calls: follows its name in a sentence.
        """

    def finish(self) -> None:
        """End what has stood by since `close`, to release the application in case this process dies. Idempotent.

        The runner calls it last, when the application is released.
        """


# ---- tasks -----------------------------------------------------------------------------------------------------------


class ServiceSource(Protocol):
    """Where a task host finds the services that it loads."""

    def service_blob(self, service: int) -> bytes:
        """Return `ServiceSpec.to_blob()` of a service."""

    def is_service(self, service: int, generation: int) -> bool:
        """Whether the number still means this service: the next service may have it."""

    def mark_stateful(self) -> None:
        """Note that this process has a class service's instance now, which a restart would lose."""


class TaskHost(Protocol):
    """What `Worker.serve` and `Worker.run_queued` call, by these names, to run tasks."""

    #: Streams that may hold part of a line; if there are any, the server calls `end_lines` before it publishes an outcome.
    partial: list[Any]
    #: A dumped error, for a task whose own error `dump_error` cannot dump.
    last_resort: bytes

    def load_ahead(self, service: int, generation: int) -> None:
        """Load a service before its first call."""

    def function_of(self, service: int, generation: int, method: int) -> Callable[..., Any]:
        """Return the callable of a call; raise what loading its service raised."""

    def late_error(self, service: int, method: int, call: int, seconds: float, attempts: int) -> BaseException:
        """Return the error of a call that does not run when its deadline comes, so many seconds after it was made."""

    def with_state(self, function: Callable[..., Any], state: tuple[Any, ...]) -> Callable[..., Any]:
        """Return the function as it was in the submitter at the call."""

    def resolve_awaitable(self, value: Any) -> Any:
        """Return a task's value as it travels: run a coroutine, refuse a generator."""

    def is_concurrent(self) -> bool:
        """Whether calls of the service that runs now may run at once in this process."""

    def run_concurrently(self, worker: Worker, index: int, coroutine: Any) -> None:
        """Run a call that has begun together with others of its service, and finish them all; raise nothing."""

    def seed_of_calls(self) -> tuple[ContextVar[NumberedCall | None], tuple[int, int] | None]:
        """Return where the server notes which numbered call runs, and the seed of the service that runs now."""

    def begin_capture(self, call: int) -> None:
        """Keep what the task prints from here on. `call`: its number."""

    def end_capture(self) -> str:
        """Return what the task has printed since `begin_capture`; nothing is kept any more. Idempotent."""

    def dump_error(self, error: BaseException, output: str | None = None) -> bytes:
        """Return a task's error as it travels, with what the task printed, if it was captured."""

    def end_of_fork(self, error: BaseException) -> None:
        """End a process that the task forked and whose copy of the task raised."""

    def end_lines(self) -> None:
        """Write out what the task has printed, and end its unfinished lines."""

    def flush(self) -> None:
        """Write out unfinished lines."""

    def may_help(self, service: int, generation: int) -> bool:
        """Whether a call of the service may run inside the running task's wait."""

    def suspend(self) -> Any:
        """Prepare for a task inside the running task's wait; return what `resume` takes."""

    def resume(self, before: Any) -> None:
        """Return to the outer task."""
