"""The Runner: the front of a parallel application, from its start to its end.

Here the two wings meet: calls (an engine, `calls.service`, `calls.gather`) and the application (`application.lifecycle`).
The runner delegates to both, and its `Lifetime` undoes both.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial

from flame_fast import forks as forks
from flame_fast.application.lifecycle import acquire_application, check_nested
from flame_fast.application.registry.validation import check_name
from flame_fast.application.snapshots import Snapshots
from flame_fast.calls.collecting import Collecting
from flame_fast.calls.service import (
    RunnerService,
    ServiceOptions,
    check_options,
    has_globals_of,
    has_seed,
    make_service,
    stands_for_call,
    when_closed,
)
from flame_fast.calls.session import named_session
from flame_fast.calls.source_files import source_files
from flame_fast.calls.statistics import rows_of, statistics_of
from flame_fast.calls.worker_setup import WorkerSetup, by_environment, check_excludes, check_setup, workers_by_environment
from flame_fast.config import FlameContext
from flame_fast.engine import current, settings
from flame_fast.engine.spec import EngineOptions
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.inspection.html import table
from flame_fast.interrupts import end_body_by_sigterm, interrupts_deferred, is_main_thread
from flame_fast.kernels.runtime import serialization
from flame_fast.kernels.runtime.serialization.picklers import note_package
from flame_fast.lifetime import CLOSED, UNCLOSED, Lifetime
from flame_fast.resources import available_cpus, check_memory, check_workers, memory_cgroups
from flame_fast.scarcity import explained
from flame_fast.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType
    from typing import Any, Never, ParamSpec, TypedDict, TypeVar, Unpack, overload

    from flame_fast.calls.statistics import Statistics
    from flame_fast.engine.protocol import Engine
    from flame_fast.kernels.keys import Seed
    from flame_fast.kernels.runtime import ObjectRef
    from flame_fast.resources import ResourceRequirement

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")

    class ServiceKeywords(TypedDict, total=False):
        """Options of `service` for any execution object."""

        resreq: ResourceRequirement | str | None
        restart: bool
        concurrency: int
        seed: Seed


def _inline(options: EngineOptions) -> Engine:
    from flame_fast.engine.inline import InlineEngine

    return InlineEngine(options)


def _local(options: EngineOptions) -> Engine:
    from flame_fast.engine.local import LocalEngine

    return LocalEngine(options)


#: Engines by the names that users choose them by; each is imported by the first runner that asks for it.
ENGINES: dict[str, Callable[[EngineOptions], Engine]] = {"inline": _inline, "local": _local}

#: How arrays arrive: as each receiver's own, or with WRITEABLE cleared.
ARRAYS = ("copy-on-write", "readonly")


class Runner(Collecting):
    r"""A parallel application: on entry the project is packaged, stored and registered, on exit everything is undone.

    Parameters
    ----------
    name : str
        1 to 253 characters; none of ``/ \ ..``, no control characters, not starting with ``.`` or ``-``.
    fail_if_exists : bool
        An application of this name exists already: fail; by default this runner joins its registration.
    dependencies : sequence of str, optional
        Requirements that must be installed here.
    python_version : str, optional
        Must match the running Python, as ``3.11`` or ``3.11.7``.
    workers : int, optional
        Worker processes; default the CPUs this process may really use.
    engine : {"local", "inline"}, optional
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
    handle_sigterm : bool
        SIGTERM ends the body like an exception: it raises `SystemExit(143)` in the main thread, and the runner is closed. By
        default the process ends at once, as Python has it, and the supervisor cleans up within a second. Not in a task.
    package : bool, str or path-like, optional
        The directory to package, or True for the current one. If False, nothing is packaged or stored: workers import from
        the directories that this process imports from, as those are at the time. By default `package.enabled` of the
        configuration says; your home directory, `/` and the like are not packaged.
    excludes : sequence of str
        Further rules in gitignore's syntax of what is left out of the package.
    initializer : callable, optional
        Called as `initializer(*initargs)` in each worker process before its first task. What it sets as globals of its
        module is there for the tasks. What it raises, every call in that process raises.
    initargs : sequence
    env : dict of str to str, optional
        Environment variables of the workers, beside this process's. `OMP_NUM_THREADS` among them is how many threads Numba,
        OpenMP and BLAS use in a call whose service has no `resreq`; by default the CPUs are divided among the workers.
    preload : sequence of str
        Modules that are imported once for all workers, before the first starts: third-party ones that tasks import.
    max_tasks_per_worker : int, optional
        Calls after which a worker process leaves and another takes its place; a chunk of `map` counts as one.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`, `INVALID_CONFIG`, `NOT_FOUND`, `ALREADY_EXISTS`; the message names the step that failed. The
        steps before it have been undone.

    Notes
    -----
    `$FLAME_FAST_WORKERS`, `$FLAME_FAST_ENGINE`, `$FLAME_FAST_MEMORY` and `$FLAME_FAST_PACKAGE` take the place of `workers`,
    `engine`, `memory` and `package` that are not given. The constructor does the work; ``with`` adds the clean-up. Safe from
    any thread. A forked child neither uses nor destroys it. Inside a task a Runner of any name shares the outer runner's
    processes.
    """

    def __init__(
        self,
        name: str,
        fail_if_exists: bool = False,
        dependencies: Sequence[str] | None = None,
        python_version: str | None = None,
        *,
        workers: int | None = None,
        engine: str | None = None,
        context: FlameContext | None = None,
        memory: int | str | None = None,
        arrays: str = "copy-on-write",
        handle_sigterm: bool = False,
        package: bool | str | os.PathLike[str] | None = None,
        excludes: Sequence[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        env: dict[str, str] | None = None,
        preload: Sequence[str] = (),
        max_tasks_per_worker: int | None = None,
    ) -> None:
        check_name(name)
        engine = by_environment("ENGINE", engine)
        engine = "local" if engine is None else engine
        _check_choice("engine", engine, tuple(ENGINES))
        _check_choice("arrays", arrays, ARRAYS)
        _check_context(context)
        _check_fail_if_exists(fail_if_exists)
        _check_handle_sigterm(handle_sigterm)
        setup = check_setup(initializer, initargs, env, preload, max_tasks_per_worker)
        package = by_environment("PACKAGE", package)
        check_excludes(excludes)
        cpus = available_cpus()
        workers = check_workers(workers_by_environment(workers), cpus)
        limit = check_memory(by_environment("MEMORY", memory))
        serialization.follow_cells()
        self.name = name
        self._sessions: dict[str, tuple[Any, RunnerService[..., Any]]] = {}
        self._threads = setup.threads()
        outer = current.serving_engine()
        if outer is not None:
            _check_not_importing(name)
            check_nested(name, outer.name, fail_if_exists, dependencies, python_version)
            self._engine = outer
            self._snapshots: Snapshots | None = None
            self._lifetime = Lifetime(self, partial(_leave_nested, self._sessions))
            return
        options = EngineOptions(
            name, workers, cpus, limit, memory_cgroups(), arrays == "readonly", setup.environment, setup.preload
        )
        self._engine = _start_engine(ENGINES[engine], options)
        self._imports_apart = engine != "inline"
        snapshots = self._snapshots = _enter(
            self._engine,
            name,
            setup,
            package=package,
            excludes=tuple(excludes),
            fail_if_exists=fail_if_exists,
            dependencies=dependencies,
            python_version=python_version,
            context=context,
        )
        undo_sigterm = end_body_by_sigterm() if handle_sigterm else _nothing
        self._lifetime = Lifetime(self, partial(_shut_down, self._engine, snapshots, name, undo_sigterm))

    # ---- services ----------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def service(
            self,
            execution_object: type[Any],
            autoscale: bool | None = None,
            warmup: int = 0,
            *,
            args: tuple[Any, ...] | list[Any] = (),
            kwargs: dict[str, Any] | None = None,
            **options: Unpack[ServiceKeywords],
        ) -> RunnerService[[Never], Never]: ...
        @overload
        def service(
            self,
            execution_object: Callable[P, Coroutine[Any, Any, R]],
            autoscale: bool | None = None,
            warmup: int = 0,
            **options: Unpack[ServiceKeywords],
        ) -> RunnerService[P, R]: ...
        @overload
        def service(
            self,
            execution_object: Callable[P, R],
            autoscale: bool | None = None,
            warmup: int = 0,
            **options: Unpack[ServiceKeywords],
        ) -> RunnerService[P, R]: ...
        @overload
        def service(
            self,
            execution_object: object,
            autoscale: bool | None = None,
            warmup: int = 0,
            **options: Unpack[ServiceKeywords],
        ) -> RunnerService[[Never], Never]: ...

    def service(
        self,
        execution_object: Any,
        autoscale: bool | None = None,
        warmup: int = 0,
        resreq: ResourceRequirement | str | None = None,
        *,
        restart: bool = False,
        concurrency: int = 1,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: dict[str, Any] | None = None,
        seed: Seed = None,
    ) -> RunnerService[..., Any]:
        """Make a function, class or instance a service of this runner.

        Parameters
        ----------
        execution_object : callable, class or object
            A function has no state; of a class each worker makes one instance, with `args` and `kwargs`; any other
            instance lives in a process of its own, which runs its calls one at a time in the order made.
        autoscale : bool, optional
            Functions and classes: False limits the service to `max(warmup, 1)` workers. Instances: not True.
        warmup : int
            Workers that load it ahead of its first call.
        resreq : ResourceRequirement or str, optional
            What one call takes, also as text: ``"cpu=2,mem=1g"``.
        restart : bool
            An instance whose process dies, or is ended by force, goes on in another one, as it was when it was given here;
            the call that ran fails. By default its later calls raise `WorkerDiedError`.
        concurrency : int
            Calls of an `async def` that a worker runs at once, on one event loop that it keeps; by default one, on a loop of
            its own. A call that is ended by force, or kills its process, takes those beside it with it.
        args, kwargs : tuple, dict, optional
            Of a class: the arguments of its call in each worker, as they are now; each worker has a copy of its own. Futures
            and refs among them are waited for here, and arrive as their values.
        seed : int, sequence of int, SeedSequence or Key, optional
            As `flame_fast.kernels.keys.key` takes it. Call n of the service, from 0, has the key `key(seed, n)`. The task
            gets it from `flame_fast.kernels.task_key()`, for random numbers of its own. By default calls have none. They
            count in the order made: calls of methods and of `options` views, and each item of a `map`, in one row.

        Notes
        -----
        A call has the same key whatever worker runs it, and however often. Two services with one seed have the same keys:
        give them `[7, 0]` and `[7, 1]`. A map of what has no length, as a generator, takes 2**32 numbers, so that calls
        beside it do not depend on how far it has come. A service with a seed that a task gets as an argument cannot be
        called there: make one in the task, with `seed=task_key()`.

        The service goes on with the globals that its function has now. A cell of a notebook that changes one, or a helper or
        class that the function uses, is followed by another `service(fn)`: that is a new service, with what is there then,
        also where `_session_context` names the session.

        Raises
        ------
        ValueError
            A warmup or autoscale that does not fit; a `resreq` that cannot be read; a seed out of range; arguments for what
            is no class.
        TypeError
            A seed of another type; the object or its arguments cannot be pickled; the class's signature does not fit the
            arguments.
        FlameError
            `INVALID_STATE`: the runner is closed. `INVALID_ARGUMENT`: more CPUs than this process may use, or more GPUs than
            this machine has; a session id that another object has, or the same one with another seed.

        Examples
        --------
        >>> from flame_fast import Runner
        >>> class Scaled:
        ...     def __init__(self, factor, offset=0):
        ...         self.factor, self.offset = factor, offset
        ...
        ...     def of(self, number):
        ...         return self.factor * number + self.offset
        >>> with Runner("arguments", workers=1) as rr:
        ...     rr.service(Scaled, args=(2,), kwargs={"offset": 1}).of(20).get()
        41
        """
        self._check_open()
        options = ServiceOptions(autoscale, warmup, resreq, restart, concurrency, args, kwargs, seed)
        named = named_session(execution_object)
        project = self._project_for(execution_object)
        if named is not None and named in self._sessions:
            other, service = self._sessions[named]
            if other is execution_object and not (args or kwargs):
                check_options(execution_object, options, self._engine)
                if not has_seed(service, seed):
                    raise FlameError(
                        FlameErrorCode.INVALID_ARGUMENT,
                        f"session {named!r} has a service with another seed; give this one another session_id",
                    )
                if not stands_for_call(service) or has_globals_of(service, execution_object, project) is not None:
                    return service
                when_closed(service, _nothing)  # its id is that of a service with the globals, and the snapshot, of now
            else:
                raise FlameError(
                    FlameErrorCode.INVALID_ARGUMENT,
                    f"session {named!r} is in use by another object of this runner; give this one another session_id",
                )
        service = make_service(self._engine, self.name, execution_object, options, self._threads, project)
        self._sessions[service.session_id] = (execution_object, service)
        when_closed(service, partial(self._sessions.pop, service.session_id, None))
        return service

    def _project_for(self, execution_object: Any) -> dict[str, Any] | None:
        """Return the snapshot for a service made now; warn if what it is made of has been edited since that was taken."""
        if self._snapshots is None:
            return current.project()
        directory = self._snapshots.directory
        if directory and self._imports_apart:
            self._snapshots.warn_of_changes(self.name, source_files(execution_object, directory))
        return self._snapshots.project

    def refresh(self) -> None:
        """Take a new snapshot of the project for the services that are made from now on.

        Services made before keep their code, and so do their calls, running and to come: a worker keeps the modules of each
        snapshot apart. Modules of the packaged directory are imported anew, once in each worker; what is installed is not.
        An initializer runs once more in each worker. Reload what you have edited in this process, too, before you make
        services of it.

        Raises
        ------
        FlameError
            `INVALID_STATE`: the runner is closed, or one inside a task, which has the outer runner's snapshot. What
            packaging raises: the snapshot stays as it was.

        Notes
        -----
        Takes as long as packaging what has changed; nothing else happens if nothing has. With `package=False` workers import
        the directory as it is by then. With the inline engine calls have this process's own modules: nothing is to be done.
        """
        self._check_open()
        if self._snapshots is None:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"runner {self.name!r} is inside a task and has the outer runner's snapshot: refresh that one in the driver",
            )
        if self._imports_apart and self._snapshots.refresh(sys.path):
            note_package(self._engine.session, self._snapshots.packaged)

    # ---- values ------------------------------------------------------------------------------------------------------

    def put_object(self, obj: T) -> ObjectRef[T]:
        """Store a value once; the ref is an argument for any task of this runner.

        Raises
        ------
        TypeError
            The value cannot be pickled.
        StoreFullError
            The store has no room for the value.
        """
        if self._lifetime.is_over:
            self._check_open()
        return self._engine.put(obj)  # refuses a forked child by itself

    def statistics(self) -> Statistics:
        """Return what the runner holds now and has moved so far: see `flame_fast.calls.statistics.Statistics`.

        Takes about a millisecond per hundred thousand calls that were open at once: it reads every slot that was ever used.
        """
        self._check_open()
        return statistics_of(self._engine.statistics())

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the services and processes, unregister the application, delete the package. Idempotent.

        Takes at most 2 seconds, also while calls still run: they are dropped, with a warning that says how many.
        """
        self._close(stacklevel=3)

    def _close(self, stacklevel: int) -> None:
        self._tell_end(self._lifetime.close(), stacklevel + 1)

    def _tell_end(self, unfinished: int, stacklevel: int) -> None:
        """Warn of the calls that the end has dropped."""
        self._sessions.clear()  # else one service that the user keeps would keep the others, and the user's objects
        if unfinished:
            warnings.warn(_dropped(self.name, CLOSED, unfinished), stacklevel=stacklevel)

    def __enter__(self) -> Runner:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> None:
        self._end_body(self._lifetime.close(), error)

    def _end_body(self, unfinished: int, error: BaseException | None) -> None:
        try:
            self._tell_end(unfinished, stacklevel=4)
        except UserWarning as dropped:  # where warnings are errors, the body's own error comes first
            if error is None:
                raise
            error.add_note(str(dropped))

    async def __aenter__(self) -> Runner:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        from flame_fast.kernels.runtime.awaiting import run_in_thread

        self._end_body(await run_in_thread(self._lifetime.close), error)

    def _check_open(self) -> None:
        if self._lifetime.is_over:
            raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} is closed; make a new Runner")
        if self._engine.is_foreign:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"runner {self.name!r} belongs to the parent of this forked process; make a new Runner here",
            )

    def __repr__(self) -> str:
        return f"<Runner {self.name!r}, {self._engine.workers} workers{', closed' * self._lifetime.is_over}>"

    def _repr_html_(self) -> str:
        """Return what the runner has and holds now as an HTML table, for notebooks."""
        rows: dict[str, object] = {"workers": self._engine.workers}
        if self._lifetime.is_over:
            return table(f"Runner {self.name}, closed", rows)
        if self._engine.is_foreign:
            return table(f"Runner {self.name} of the parent process", rows)
        rows["open services"] = len(self._sessions)
        return table(f"Runner {self.name}", {**rows, **rows_of(self.statistics())})

    def __reduce__(self) -> tuple[Any, ...]:
        return (_attach, (self._engine.session, self.name))


def _attach(session: int, name: str) -> Runner:
    """Rebuild a runner in a task of it."""
    engine = current.serving_engine()
    if engine is None or engine.session != session:
        raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {name!r} is not at work in this process")
    return runner_in_task(name)


def runner_in_task(name: str) -> Runner:
    """Return a runner over the processes of the task's, also while its worker imports what the task needs."""
    importing = current.is_importing()
    current.set_importing(False)  # a function that closes over a Runner is no module that makes one
    try:
        return Runner(name)
    finally:
        current.set_importing(importing)


# ---- the start -------------------------------------------------------------------------------------------------------


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT, f"{what}: expected {' or '.join(map(repr, choices))}, got {value!r}"
        )


def _check_fail_if_exists(value: bool) -> None:
    if not isinstance(value, bool):
        hint = f"; for the number of worker processes write workers={value!r}" if hasattr(value, "__index__") else ""
        raise FlameError(FlameErrorCode.INVALID_ARGUMENT, f"fail_if_exists: expected True or False, got {value!r}{hint}")


def _check_handle_sigterm(value: bool) -> None:
    if not isinstance(value, bool):
        raise FlameError(FlameErrorCode.INVALID_ARGUMENT, f"handle_sigterm: expected True or False, got {value!r}")
    if value and not is_main_thread():
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            "handle_sigterm: only the main thread can handle signals; make the Runner there, or leave it out",
        )


def _check_context(context: FlameContext | None) -> None:
    if context is not None and not isinstance(context, FlameContext):
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT, f"context: expected a FlameContext, got {context!r}; write FlameContext(path)"
        )


def _check_not_importing(name: str) -> None:
    if current.is_importing():
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            f"runner {name!r} is made by a module while a worker imports that module for a service, which goes on "
            "without end; make it in a function, or under `if __name__ == '__main__':`",
        )


def _start_engine(start: Callable[[EngineOptions], Engine], options: EngineOptions) -> Engine:
    try:
        engine = start(options)
    except OSError as error:
        raise FlameError(
            FlameErrorCode.INTERNAL, f"starting the processes of runner {options.name!r}: {explained(error)}"
        ) from error
    current.register(engine)
    return engine


def _enter(engine: Engine, name: str, setup: WorkerSetup, **options: Any) -> Snapshots:
    """Enter the application, and tell the engine where its workers find the project; undo everything at a failure."""
    try:
        lease = acquire_application(name, **options)
        try:
            plan = lease.unpack_plan(sys.path)
            engine.set_project({**plan, **setup.plan(), **_of_process()})
            again = partial(acquire_application, name, **{**options, "package": lease.again, "fail_if_exists": False})
            snapshots = Snapshots(lease, plan, again)
            note_package(engine.session, snapshots.packaged)
        except BaseException:
            lease.release()
            raise
    except BaseException:
        engine.close(CLOSED)
        engine.finish()
        raise
    return snapshots


def _of_process() -> dict[str, Any]:
    """Return what workers take over from this process beside its environment."""
    process = sys.modules.get("multiprocessing.process")
    return {
        "argv": getattr(sys, "argv", [""]),
        "authkey": bytes(process.current_process().authkey) if process is not None else b"",
        "settings": settings.taken(),
        "tell_steps": is_terminal(sys.stderr),
    }


# ---- the end ---------------------------------------------------------------------------------------------------------


def _release(snapshots: Snapshots, name: str) -> None:
    """Release the leases. What cannot be written just now, the next Runner cleans up: a good body does not end badly."""
    try:
        snapshots.release()
    except Exception as error:
        warnings.warn(
            f"runner {name!r} has ended, but its registration or package is still there: {type(error).__name__}: {error}; "
            "the next Runner removes it",
            stacklevel=2,
        )


def _leave_nested(sessions: dict[str, tuple[Any, RunnerService[..., Any]]], ending: str) -> int:
    """Close the services of a runner in a task: the outer runner has everything else."""
    for _, service in list(sessions.values()):
        service.close()
    return 0


def _dropped(name: str, how: str, unfinished: int) -> str:
    calls = f"{unfinished} unfinished call{'s' * (unfinished > 1)}"
    return f"runner {name!r} {how} with {calls}, dropped; get or wait for their futures before it ends"


def _nothing() -> None:
    pass


def _shut_down(engine: Engine, snapshots: Snapshots, name: str, undo_sigterm: Callable[[], None], ending: str) -> int:
    """Undo everything that the start of a top-level runner did; return how many unfinished calls were dropped."""
    if engine.is_foreign:
        return 0
    with interrupts_deferred():  # once more: a finalizer comes here, too
        try:
            unfinished = engine.close(ending)
        finally:
            note_package(engine.session, None)
            try:
                _release(snapshots, name)
            finally:
                engine.finish()
                undo_sigterm()
    if unfinished and ending == UNCLOSED:
        warnings.warn(_dropped(name, ending, unfinished), stacklevel=1)
    return unfinished
