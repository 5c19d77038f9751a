"""Task host: loads services, keeps their objects, and prepares results and errors of tasks for transfer.

One `Host` per worker process, and one for the inline engine. `Worker.serve` calls it; it does not touch the segment.
"""

from __future__ import annotations

import os
import sys
from types import AsyncGeneratorType, CoroutineType, GeneratorType, ModuleType

from flame_fast.calls.captures import with_state
from flame_fast.engine.capture import Capture, StandardCapture
from flame_fast.engine.current import set_importing
from flame_fast.engine.leaving import close_object
from flame_fast.engine.post_mortem import call_name, late_error
from flame_fast.engine.spec import CLASS, FUNCTION, Construction, ServiceSpec
from flame_fast.errors import TaskError
from flame_fast.kernels.runtime import serialization
from flame_fast.kernels.runtime.serialization.definitions import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar
    from typing import Any

    from flame_fast.engine.concurrency import ConcurrentCalls
    from flame_fast.engine.protocol import ServiceSource
    from flame_fast.engine.seeds import Seeds
    from flame_fast.engine.slow_steps import StepSender
    from flame_fast.engine.thread_limits import Libraries
    from flame_fast.kernels.runtime import NumberedCall, Worker


class LoadFailure(Exception):
    """Loading a service raised: carries the dumped error, with the user's frames."""

    def __init__(self, dumped: bytes) -> None:
        super().__init__()
        self.dumped = dumped


class LoadedService:
    """A service's callables in this process, or the dumped error that loading it raised."""

    __slots__ = ("failure", "functions", "generation", "made", "namespace", "project", "spec")

    def __init__(self, spec: ServiceSpec, generation: int, namespace: Namespace) -> None:
        self.spec: ServiceSpec = spec
        self.project: dict[str, Any] | None = spec.project
        self.namespace: Namespace = namespace
        self.generation: int = generation
        self.functions: list[Callable[..., Any]] = []
        self.failure: bytes | None = None
        self.made: Any = None  # the object of a class service, made here: its end is ours, too

    def end(self) -> None:
        made, self.made = self.made, None
        if made is not None:
            close_object(made)


class Initialized:
    """What the initializer of a process's tasks has set: globals of modules that cannot be imported, as `__main__`.

    Attributes
    ----------
    namespace : Namespace
        The initializer's. Services share it as they share each other's.
    failure : BaseException, optional
        What the initializer raised: so does every call.
    """

    def __init__(self) -> None:
        self.namespace: Namespace = Namespace()
        self.failure: BaseException | None = None
        self._set: dict[str, dict[str, Any]] = {}

    def run(self, body: bytes, enter: Callable[[Namespace], object]) -> None:
        """Call the initializer, once."""
        try:
            initializer = serialization.load_body(body, self.namespace)
            enter(self.namespace)
            before = {name: dict(vars(module)) for name, module in self.namespace.modules.items()}
            initializer()
            for name, module in self.namespace.modules.items():
                known = before.get(name, {})
                self._set[name] = {key: value for key, value in vars(module).items() if known.get(key, self) is not value}
        except BaseException as error:
            error.add_note("raised by the initializer of the runner's workers")
            self.failure = error

    def apply(self, namespace: Namespace) -> None:
        """Set the same globals for a service that has a namespace of its own."""
        if namespace is not self.namespace:
            for name, values in self._set.items():
                vars(namespace.module(name)).update(values)


class Host:
    """Loads services and runs their tasks; see `flame_fast.engine.protocol.TaskHost`.

    Parameters
    ----------
    source : ServiceSource
        Where the services are: this process's `Worker`.
    prepare : callable
        Makes the project importable. The host calls it once, before it loads the first service.
    shown_path : callable
        Turns paths of the unpacked project in a text into the user's own.
    libraries : Libraries, optional
        The numeric libraries of this process; None leaves their threads as they are.
    enter : callable
        Makes a service's namespace the one in which arriving definitions find their globals.
    seeds : Seeds, optional
        Keeps the global generators this process's own when imports seed them; None leaves them alone.
    capture : callable
        Returns what keeps the text that a call prints; it takes the call's number.
    initializer : callable
        Returns the pickled function that is called before the first task, once `prepare` was; None: there is none.
    follow : callable
        Takes the levels of the loggers of the process that made a service, before that is loaded.
    steps : StepSender, optional
        Tells the user of what takes long; None: nobody does.
    enter_project : callable
        Takes the plan of the snapshot that what runs next imports from, as in `ServiceSpec.project`.
    """

    def __init__(
        self,
        source: ServiceSource,
        prepare: Callable[[], None] = lambda: None,
        shown_path: Callable[[str], str] = lambda text: text,
        libraries: Libraries | None = None,
        enter: Callable[[Namespace], object] = lambda namespace: None,
        seeds: Seeds | None = None,
        capture: Callable[[int], Capture] = StandardCapture,
        initializer: Callable[[], bytes | None] = lambda: None,
        follow: Callable[[dict[str, int] | None], object] = lambda levels: None,
        steps: StepSender | None = None,
        enter_project: Callable[[dict[str, Any] | None], object] = lambda project: None,
    ) -> None:
        self.source = source
        self.partial: list[Any] = []
        indescribable = TaskError("the task ended with an error that could not be described")
        self.last_resort: bytes = serialization.dump_error(indescribable)
        self._prepare: Callable[[], None] | None = prepare
        self._follow = follow
        self._steps = steps
        self._shown_path = shown_path
        self._loaded: dict[int, LoadedService] = {}
        self._current: LoadedService | None = None
        self._suspended: list[LoadedService] = []
        self._libraries = libraries
        self._enter_namespace = enter
        self._seeds = seeds
        self._new_capture = capture
        self._capture: Capture | None = None
        self._initializer = initializer
        self._initialized: dict[int, Initialized] = {}  # by the number of the snapshot
        self._enter_project = enter_project
        self._project: dict[str, Any] | None = None
        self._concurrent: ConcurrentCalls | None = None
        self._task_keys: ModuleType | None = None  # most programs need none: it is imported for the first numbered call

    def load_ahead(self, service: int, generation: int) -> None:
        """Load a service before its first call; do nothing if it was closed meanwhile."""
        loaded = self._loaded.get(service)
        if loaded is None or loaded.generation != generation:
            blob = self.source.service_blob(service)
            if self.source.is_service(service, generation):  # checked after the read: the blob was the service's
                self._load(blob, service, generation)

    def function_of(self, service: int, generation: int, method: int) -> Callable[..., Any]:
        """Return the callable of a call; load its service if need be. Raises what loading raised."""
        loaded = self._loaded.get(service)
        if loaded is None or loaded.generation != generation:
            loaded = self._load(self.source.service_blob(service), service, generation)
        if loaded is not self._current:
            self._enter(loaded)
        if loaded.failure is not None:
            raise LoadFailure(loaded.failure)
        return loaded.functions[method]

    def _enter(self, loaded: LoadedService) -> None:
        self._current = loaded
        self._go_to(loaded.project)
        self._enter_namespace(loaded.namespace)
        if self._libraries is not None:
            self._libraries.limit_threads(loaded.spec.cpu)

    def _go_to(self, project: dict[str, Any] | None) -> None:
        """Import from a snapshot from now on, with the modules that were imported from it before."""
        if _number(project) != _number(self._project):
            self._enter_project(project)
            self._project = project

    def late_error(self, service: int, method: int, call: int, seconds: float, attempts: int) -> BaseException:
        """Return the error of a call that does not run when its deadline comes; see `engine.post_mortem.late_error`."""
        spec = ServiceSpec.from_blob(self.source.service_blob(service))
        return late_error(call_name(spec, method, call), seconds, attempts)

    def with_state(self, function: Callable[..., Any], state: tuple[Any, ...]) -> Callable[..., Any]:
        """Return the function as it was in the submitter at the call.

        Changes its cells in place, so a call inside the wait of another call of the same service gets a copy.
        """
        current = self._current
        if current is not None and current in self._suspended:
            function = serialization.load_body(current.spec.target, Namespace())
        return with_state(function, state)  # type: ignore[no-any-return]

    # ---- tasks inside the wait of another ------------------------------------------------------------------------------

    def may_help(self, service: int, generation: int) -> bool:
        """Whether a call of a service may run now, inside the running task's wait.

        It may not enter an instance of which a method is at work in an outer task.
        """
        loaded = self._loaded.get(service)
        if loaded is None or loaded.generation != generation or loaded.spec.kind != CLASS:
            return True
        return loaded is not self._current and loaded not in self._suspended

    def suspend(self) -> tuple[LoadedService | None, Capture | None, NumberedCall | None]:
        """Prepare for a task inside the running task's wait; return what `resume` takes."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.__exit__()
        if self._current is not None:
            self._suspended.append(self._current)
        return self._current, capture, None if self._task_keys is None else self._task_keys.set_aside()

    def resume(self, before: tuple[LoadedService | None, Capture | None, NumberedCall | None]) -> None:
        """Return to the outer task: its namespace, its thread limit, its capture and its key hold again."""
        outer, self._capture, call = before
        if self._task_keys is not None:
            self._task_keys.take_up(call)
        if self._capture is not None:
            self._capture.__enter__()
        if outer is not None:
            self._suspended.pop()
            if outer is not self._current:
                self._enter(outer)

    def _load(self, blob: bytes, service: int, generation: int) -> LoadedService:
        spec = ServiceSpec.from_blob(blob)
        if self._steps is None:
            return self._load_quietly(spec, service, generation)
        with self._steps.step(f"loads the service {spec.name!r} and what it imports"):
            return self._load_quietly(spec, service, generation)

    def _load_quietly(self, spec: ServiceSpec, service: int, generation: int) -> LoadedService:
        self._forget_closed()
        self._follow(spec.levels)
        number = _number(spec.project)
        alike = [known for known in reversed(self._loaded.values()) if _number(known.project) == number]
        namespaces = {id(known.namespace): known.namespace for known in alike}
        initialized, failure = self._initialize(spec.project)
        if initialized is not None:
            namespaces[id(initialized.namespace)] = initialized.namespace
        loaded = LoadedService(spec, generation, serialization.choose_namespace(spec.target, namespaces.values()))
        loaded.project = self._project  # that of the service, unless it cannot be had
        self._enter(loaded)  # the service's thread limit holds for what loading imports
        try:
            if failure is not None:
                raise failure
            target = self._import(spec, loaded.namespace)
            if initialized is not None:
                initialized.apply(loaded.namespace)
            self._enter_namespace(loaded.namespace)  # with the modules that it has now
            if spec.kind == FUNCTION:
                loaded.functions = [target]
            else:
                if spec.kind == CLASS:
                    self.source.mark_stateful()
                instance = target
                if spec.kind == CLASS or isinstance(target, Construction):
                    instance = loaded.made = target()
                loaded.functions = [instance if not name else getattr(instance, name) for name in spec.methods]
        except BaseException as error:
            loaded.failure = self.dump_error(error)
        self._loaded[service] = loaded
        return loaded

    def _initialize(self, project: dict[str, Any] | None) -> tuple[Initialized | None, BaseException | None]:
        """Prepare this process for its first task by a snapshot; return what its initializer set, and what went wrong."""
        number = _number(project)
        try:
            if self._prepare is not None:
                self._prepare()
                self._prepare = None
            self._go_to(project)
            body = self._initializer()
            if body is not None and number not in self._initialized:
                self._initialized[number] = Initialized()
                self._initialized[number].run(body, self._enter_namespace)
        except BaseException as error:
            return None, error
        initialized = self._initialized.get(number)
        return initialized, None if initialized is None else initialized.failure

    def _import(self, spec: ServiceSpec, namespace: Namespace) -> Any:
        """Import what a service needs; return its object."""
        if self._seeds is not None:
            self._seeds.note()
        set_importing(True)
        try:
            return serialization.load_body(spec.target, namespace)
        finally:
            set_importing(False)
            if self._seeds is not None:
                self._seeds.restore(spec.name)

    def _forget_closed(self) -> None:
        """Drop closed services: no call of them can come any more."""
        for service, loaded in list(self._loaded.items()):
            if loaded not in self._suspended and not self.source.is_service(service, loaded.generation):
                self._loaded.pop(service).end()

    def drop_services(self) -> None:
        """Drop every loaded service, and close the objects made for them.

        A function may hold a nested runner, which holds the engine and this host.
        """
        for loaded in self._loaded.values():
            loaded.end()
        self._loaded.clear()
        self._current = None

    def modules(self) -> list[ModuleType]:
        """Return the modules made for globals of services that cannot be imported, as those of `__main__`."""
        namespaces = {id(loaded.namespace): loaded.namespace for loaded in self._loaded.values()}
        for initialized in self._initialized.values():
            namespaces[id(initialized.namespace)] = initialized.namespace
        return [module for namespace in namespaces.values() for module in namespace.modules.values()]

    def end_coroutines(self) -> None:
        """Cancel the coroutines that calls have left behind."""
        if self._concurrent is not None:
            self._concurrent.close()

    def resolve_awaitable(self, value: Any) -> Any:
        """Return a task's value as it travels: run a coroutine to its end.

        Raises
        ------
        TypeError
            The value is a generator, which cannot leave its process.
        """
        kind = type(value)
        if kind is CoroutineType:
            from flame_fast.engine.concurrency import run_alone

            return run_alone(value)
        if kind is GeneratorType or kind is AsyncGeneratorType:
            raise TypeError("the task returned a generator, which cannot leave its process; return a list instead")
        return value

    def is_concurrent(self) -> bool:
        """Whether calls of the service that runs now may run at once in this process."""
        return self._current is not None and self._current.spec.concurrency > 1

    def run_concurrently(self, worker: Worker, index: int, coroutine: Any) -> None:
        """Run a call that has begun together with others of its service, and finish them all."""
        assert self._current is not None
        if self._concurrent is None:
            from flame_fast.engine.concurrency import ConcurrentCalls

            self._concurrent = ConcurrentCalls(self.resolve_awaitable)
        self._concurrent.run(worker, index, coroutine, self._current.spec.concurrency)

    def seed_of_calls(self) -> tuple[ContextVar[NumberedCall | None], tuple[int, int] | None]:
        """Return where the server notes which numbered call runs, and the seed of the service that runs now."""
        if self._task_keys is None:
            from flame_fast.kernels import task_keys

            self._task_keys = task_keys
        assert self._current is not None
        return self._task_keys.running, self._current.spec.seed

    def begin_capture(self, call: int) -> None:
        """Keep what the task prints from here on. `call`: its number."""
        self._capture = self._new_capture(call)
        self._capture.__enter__()

    def end_capture(self) -> str:
        """Return what the task has printed since `begin_capture`. Idempotent."""
        capture, self._capture = self._capture, None
        if capture is None:
            return ""
        capture.__exit__()
        return capture.text()

    def dump_error(self, error: BaseException, output: str | None = None) -> bytes:
        """Return a task's error as it travels, with what the task printed, if it was captured."""
        if isinstance(error, LoadFailure):
            return error.dumped
        if isinstance(error, NameError) and self._current is not None:
            _explain(error, self._current.namespace)
        return serialization.dump_error(error, self._shown_path, output)

    def end_of_fork(self, error: BaseException) -> None:
        """End a process that the task forked and whose copy of the task raised, as a script would end."""
        code: object = 1
        if isinstance(error, SystemExit):
            code = error.code or 0
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        os._exit(code if isinstance(code, int) else 1)

    def end_lines(self) -> None:
        """Write out what a task has printed, and end its last lines: the next task's begin on lines of their own."""
        for stream in self.partial:
            stream.end_line()
        self.flush()

    def flush(self) -> None:
        """Write out what tasks printed without ending the line."""
        self.partial.clear()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, ValueError, OSError):  # None, closed, or the driver is gone
                continue


def _number(project: dict[str, Any] | None) -> int:
    return 0 if project is None else project["number"]


def _explain(error: NameError, namespace: Namespace) -> None:
    """Add to a NameError why the global is missing, if it could not be sent."""
    reason = namespace.unavailable.get(getattr(error, "name", None) or "")
    if reason is not None:
        error.args = (f"{error}: {reason}",)
