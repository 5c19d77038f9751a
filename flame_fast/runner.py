"""The Runner: a parallel application's whole life. It delegates; here the two wings meet, calls and the application."""

from __future__ import annotations

import sys
import warnings
import weakref
from functools import partial

from flame_fast.application.lifecycle import acquire_application, check_nested
from flame_fast.application.registry.validation import check_name
from flame_fast.calls import gather as shapes
from flame_fast.calls.service import (
    RunnerService,
    check_options,
    example_method,
    make_service,
    stands_for_call,
    when_closed,
)
from flame_fast.calls.session import named_session
from flame_fast.calls.statistics import statistics_of
from flame_fast.config import FlameContext
from flame_fast.engine import current
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.resources import available_cpus, check_memory, check_workers, memory_cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Any

    from flame_fast.application.lifecycle import ApplicationLease
    from flame_fast.calls.statistics import Statistics
    from flame_fast.engine.protocol import Engine
    from flame_fast.kernels.runtime import ObjectFuture, ObjectRef
    from flame_fast.resources import ResourceRequirement

ENGINES = ("inline", "local")

#: How arrays arrive: as each receiver's own, or with WRITEABLE cleared.
ARRAYS = ("copy-on-write", "readonly")

#: How a runner ends, in messages after its name.
CLOSED = "was closed"
UNCLOSED = "was dropped without close() (nobody held the Runner any more, or the program ended)"


class Runner:
    """A parallel application: on entry the project is packaged, stored and registered, on exit everything is undone.

    Parameters
    ----------
    name : str
        1 to 253 characters; none of ``/ \\ ..``, no control characters, not starting with ``.`` or ``-``.
    fail_if_exists : bool
        An application of this name exists already: fail; by default this runner joins its registration.
    dependencies : sequence of str, optional
        Requirements that must be installed here.
    python_version : str, optional
        Must match the running Python, as ``3.11`` or ``3.11.7``.
    workers : int, optional
        Worker processes; default the CPUs this process may really use.
    engine : {"local", "inline"}
        `"inline"` runs calls in the driver, in order: for debuggers and coverage.
    context : FlameContext, optional
        Configuration; default the one found by its usual rules.
    memory : int or str, optional
        Bytes that arguments and values may take in shared memory at the same time, or text like `"4g"`; default 80 % of what
        the machine and the cgroup have free now. Beyond it: `StoreFullError`.
    arrays : {"copy-on-write", "readonly"}
        NumPy arrays that arrive, in tasks and in the driver, alone or in objects, are the receiver's own: of large ones
        a page is copied when it is first written. `"readonly"` makes them refuse writes, for those who want to be told of
        such copies. A Runner inside a task has the outer runner's.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`, `INVALID_CONFIG`, `NOT_FOUND`, `ALREADY_EXISTS`; the message names the step that failed. The
        steps before it have been undone.

    Notes
    -----
    The constructor does the work; ``with`` adds the clean-up. Safe from any thread. A forked child neither uses nor destroys
    it. Inside a task a Runner of any name shares the outer runner's processes.
    """

    def __init__(
        self,
        name: str,
        fail_if_exists: bool = False,
        dependencies: Sequence[str] | None = None,
        python_version: str | None = None,
        *,
        workers: int | None = None,
        engine: str = "local",
        context: FlameContext | None = None,
        memory: int | str | None = None,
        arrays: str = "copy-on-write",
    ) -> None:
        check_name(name)
        _check_known("engine", engine, ENGINES)
        _check_known("arrays", arrays, ARRAYS)
        if context is not None and not isinstance(context, FlameContext):
            raise FlameError(
                FlameErrorCode.INVALID_ARGUMENT, f"context must be a FlameContext, got {context!r}; write FlameContext(path)"
            )
        cpus = available_cpus()
        workers = check_workers(workers, cpus)
        limit = check_memory(memory)
        self.name = name
        self._closed = False
        self._how: list[str] = []  # not empty once it ends by close()
        self._sessions: dict[str, tuple[Any, RunnerService]] = {}
        outer = current.serving_engine()
        if outer is not None:
            if current.is_importing():
                raise FlameError(
                    FlameErrorCode.INVALID_STATE,
                    f"runner {name!r} is made by a module while a worker imports that module for a service, which goes on "
                    "without end; make it in a function, or under `if __name__ == '__main__':`",
                )
            check_nested(name, outer.runtime.name, fail_if_exists, dependencies, python_version)
            self._engine: Engine = outer
            self._end: weakref.finalize[..., Runner] = weakref.finalize(self, _leave_nested, self._sessions)
            return
        self._engine = _start_engine(engine, name, workers, cpus, limit, arrays == "readonly")
        current.register(self._engine)
        try:
            lease = acquire_application(
                name,
                fail_if_exists=fail_if_exists,
                dependencies=dependencies,
                python_version=python_version,
                context=context,
            )
            try:
                self._engine.set_project({**lease.unpack_plan(sys.path), **_of_process()})
            except BaseException:
                lease.release()
                raise
        except BaseException:
            self._engine.close()
            raise
        self._end = weakref.finalize(self, _shut_down, self._engine, lease, name, self._how)

    # ---- services ----------------------------------------------------------------------------------------------------

    def service(
        self,
        execution_object: Any,
        autoscale: bool | None = None,
        warmup: int = 0,
        resreq: ResourceRequirement | None = None,
    ) -> RunnerService:
        """Makes a function, class or instance a service of this runner.

        Parameters
        ----------
        execution_object : callable, class or object
            A function has no state; of a class each worker makes one instance, without arguments; any other instance lives
            in a process of its own, which runs its calls one at a time in the order made.
        autoscale : bool, optional
            Functions and classes: False limits the service to `max(warmup, 1)` workers. Instances: not True.
        warmup : int
            Workers that load it ahead of its first call.
        resreq : ResourceRequirement, optional
            What one call takes.

        Raises
        ------
        ValueError
            A warmup or autoscale that does not fit.
        TypeError
            The object cannot be pickled.
        FlameError
            `INVALID_STATE`: closed. `INVALID_ARGUMENT`: more CPUs than there are; a session id in use by another object.
        """
        self._check_open()
        named = named_session(execution_object)
        if named is not None and named in self._sessions:
            other, service = self._sessions[named]
            if other is execution_object:
                check_options(execution_object, autoscale, warmup, resreq, self._engine)
                return service
            raise FlameError(
                FlameErrorCode.INVALID_ARGUMENT,
                f"session {named!r} is in use by another object of this runner; give this one another session_id",
            )
        service = make_service(self._engine, self.name, execution_object, autoscale, warmup, resreq)
        self._sessions[service.session_id] = (execution_object, service)
        when_closed(service, partial(self._sessions.pop, service.session_id, None))
        return service

    # ---- futures -----------------------------------------------------------------------------------------------------

    def get(self, futures: Any, timeout: float | None = None) -> Any:
        """The values of futures and refs, in the shape given.

        Parameters
        ----------
        futures : future, ref, list, tuple, dict, generator, or a function service
            Nested as you like; a generator, another iterator or a set gives a list; what is no future passes through. A
            function service stands for one call of it without arguments, as a list of one.
        timeout : float, optional
            Seconds for all of them together.

        Raises
        ------
        TimeoutError
            The time is up; the tasks go on.
        Exception
            The first failure in input order, as soon as all before it are done.
        """
        self._check_open()
        futures = _one_call(futures)
        if type(futures) is list and futures and self._engine.runtime.owns_all(futures):
            return self._engine.runtime.get_many(futures, timeout)
        return shapes.get(futures, timeout)

    def wait(self, futures: Any, timeout: float | None = None) -> None:
        """As `get`, without the values: returns when all have completed, raises the first error."""
        self._check_open()
        shapes.wait(_one_call(futures), timeout)

    def ref(self, futures: Any) -> Any:
        """As `get`, with an `ObjectRef` in place of each value."""
        self._check_open()
        return shapes.ref(_one_call(futures))

    def select(self, futures: Any, timeout: float | None = None) -> Iterator[ObjectFuture | ObjectRef]:
        """An iterator over futures as they complete, each once, failed ones too.

        Raises
        ------
        TimeoutError
            From the iterator: none has completed in the time left.
        TypeError
            Something that is no future.
        """
        self._check_open()
        return shapes.select(_one_call(futures), timeout)

    def put_object(self, obj: Any) -> ObjectRef:
        """Stores a value once; the ref is an argument for any task of this runner.

        Raises
        ------
        TypeError
            It cannot be pickled.
        StoreFullError
            No room for it.
        """
        self._check_open()
        return self._engine.runtime.put(obj)

    def statistics(self) -> Statistics:
        """What the runner holds and has moved, at this moment: see `flame_fast.calls.statistics.Statistics`.

        Looks at every slot that was ever used: about a millisecond per hundred thousand calls that were open at once.
        """
        self._check_open()
        return statistics_of(self._engine.runtime)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the services and processes, unregisters the application, deletes the package. May be called twice.

        Takes at most 2 seconds, also while calls still run: they are dropped, with a warning that says how many.
        """
        self._close(stacklevel=3)

    def _close(self, stacklevel: int) -> None:
        if self._closed:
            return
        self._closed = True
        self._how.append(CLOSED)
        unfinished = self._end()
        self._sessions.clear()  # whoever holds a service would hold the others, and the user's objects
        if unfinished:
            warnings.warn(_dropped(self.name, CLOSED, unfinished), stacklevel=stacklevel)

    def __enter__(self) -> Runner:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> None:
        try:
            self._close(stacklevel=3)
        except UserWarning as dropped:  # warnings are errors here; the body's own error comes first
            if error is None:
                raise
            error.add_note(str(dropped))

    def _check_open(self) -> None:
        if self._closed:
            raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} is closed; make a new Runner")
        if self._engine.runtime.is_foreign:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"runner {self.name!r} belongs to the parent of this forked process; make a new Runner here",
            )

    def __repr__(self) -> str:
        return f"<Runner {self.name!r}, {self._engine.workers} workers{', closed' * self._closed}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_attach, (self._engine.runtime.session, self.name))


def _attach(session: int, name: str) -> Runner:
    """The runner again, in a task of it."""
    engine = current.serving_engine()
    if engine is None or engine.runtime.session != session:
        raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {name!r} is not at work in this process")
    importing = current.is_importing()
    current.set_importing(False)  # a function that closes over a Runner is no module that makes one
    try:
        return Runner(name)
    finally:
        current.set_importing(importing)


def _of_process() -> dict[str, Any]:
    """What workers take over from this process beside its environment."""
    process = sys.modules.get("multiprocessing.process")
    return {
        "argv": getattr(sys, "argv", [""]),
        "authkey": bytes(process.current_process().authkey) if process is not None else b"",
    }


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT, f"unknown {what} {value!r}; known are {', '.join(map(repr, known))}"
        )


def _start_engine(engine: str, name: str, workers: int, cpus: int, limit: int, arrays_read_only: bool) -> Engine:
    cgroups = memory_cgroups()
    try:
        if engine == "inline":
            from flame_fast.engine.inline import InlineEngine

            return InlineEngine(name, workers, cpus, limit, cgroups, arrays_read_only)
        from flame_fast.engine.local import LocalEngine

        return LocalEngine(name, workers, cpus, limit, cgroups, arrays_read_only)
    except OSError as error:
        raise FlameError(
            FlameErrorCode.INTERNAL,
            f"starting the processes of runner {name!r}: {error}; are its limits (ulimit -a) too low?",
        ) from error


def _one_call(futures: Any) -> Any:
    """A function service in place of futures stands for one call of it, as a list of one."""
    if not isinstance(futures, RunnerService):
        return futures
    if stands_for_call(futures):
        return [futures()]
    raise TypeError(
        f"{futures!r} is no future; call one of its methods and pass what that returns, as in "
        f"rr.get(service.{example_method(futures)}(...))"
    )


def _leave_nested(sessions: dict[str, tuple[Any, RunnerService]]) -> int:
    for _, service in list(sessions.values()):
        service.close()
    return 0


def _dropped(name: str, how: str, unfinished: int) -> str:
    calls = f"{unfinished} unfinished call{'s' * (unfinished > 1)}"
    return f"runner {name!r} {how} with {calls}, dropped; get or wait for their futures before it ends"


def _shut_down(engine: Engine, lease: ApplicationLease, name: str, how: list[str]) -> int:
    """Undoes everything; returns the number of calls dropped. Runs at close, at garbage collection or at exit."""
    if engine.runtime.is_foreign:
        return 0
    ending = how[0] if how else UNCLOSED
    try:
        unfinished = engine.close(ending)
    finally:
        lease.release()
    if unfinished and ending == UNCLOSED:
        warnings.warn(_dropped(name, ending, unfinished), stacklevel=1)
    return unfinished
