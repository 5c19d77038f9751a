"""Services: functions, classes and objects whose calls run in the runner's workers and return futures."""

from __future__ import annotations

import warnings
import weakref
from functools import partial

from flame_fast._records import record
from flame_fast.calls.captures import Capture, has_state
from flame_fast.calls.construction import with_arguments
from flame_fast.calls.import_scan import libraries_of
from flame_fast.calls.introspection import (
    RESERVED,
    absence_of,
    arity_of,
    attribute_names,
    described_by,
    kind_of,
    method_names,
    name_of,
    refuse_arguments,
    signature_of,
    static_attribute,
)
from flame_fast.calls.mapping import MappedTarget
from flame_fast.calls.options import changed
from flame_fast.calls.session import session_of
from flame_fast.calls.shared_generators import DrawnAlike, carried_generators, generator_in
from flame_fast.engine.current import engine_of, serving_engine
from flame_fast.engine.log_records import levels_here
from flame_fast.engine.spec import CLASS, FUNCTION, INSTANCE, CallOptions, ServiceSpec
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.inspection.html import table
from flame_fast.kernels.runtime import UNCALLABLE, CallNumbers, call_without_frames, serialization
from flame_fast.resources import ResourceRequirement, check_gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, ParamSpec, TypeVar

    from flame_fast.engine.protocol import Engine, ServiceKey
    from flame_fast.kernels.keys import Seed
    from flame_fast.kernels.runtime import GlobalsLook, ObjectFuture

    P = ParamSpec("P")
    R = TypeVar("R")

#: Calls that `map` makes ahead, per worker, where each item is a call of its own.
AHEAD_PER_WORKER = 2

#: The numbers of calls of services that have a seed and were made in this process: (engine's session, key) -> numbers.
_counts: weakref.WeakValueDictionary[tuple[int, ServiceKey], CallNumbers] = weakref.WeakValueDictionary()


@call_without_frames
class Method(MappedTarget["P", "R"]):
    """One public method of a class or instance service.

    It holds what its service is made of, not the service, which holds it: a closed runner's memory would wait for the
    collector.
    """

    def __init__(self, made_of: tuple[Any, ...], described: Any, name: str) -> None:
        self._made_of = made_of
        self._described = described
        self.__name__ = name
        function = None if described is None else static_attribute(described, name)
        if function is not None:  # else it is a callable of the instance alone
            self.__doc__ = function.__doc__

    @property
    def _service(self) -> RunnerService[..., Any]:
        return RunnerService(*self._made_of)

    def _engine_of_map(self) -> tuple[Engine, int]:
        return self._service._engine_of_map()

    def __getattr__(self, name: str) -> Any:
        if name == "__signature__" and self._described is not None:
            return signature_of(self._described, self.__name__)
        raise AttributeError(f"{self!r} has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<method {self.__name__!r} of {self._service!r}>"

    def _repr_html_(self) -> str:
        """Return the method as an HTML table, for notebooks."""
        return table("Method", {"name": self.__name__, **_rows_of(self._service)})

    def __reduce__(self) -> tuple[Any, ...]:
        return (_method_of, (self._service, self.__name__))


@call_without_frames
class RunnerService(MappedTarget["P", "R"]):
    """Calls of one execution object, in the runner's workers. Made by `Runner.service`.

    A function service is called. Class and instance services have a method per public method of the object; a callable
    instance can be called as well. Every call returns an `ObjectFuture` at once. Safe from any thread; given to a task, it
    works there, unless it has a seed.

    Attributes
    ----------
    name : str
        The execution object's name.
    session_id : str
        The session's id.
    """

    def __init__(
        self,
        engine: Engine,
        spec: ServiceSpec,
        key: ServiceKey,
        capture: Capture | None = None,
        generators: list[tuple[str, Any]] | None = None,
        options: CallOptions | None = None,
        described: Any = None,
        attributes: Sequence[str] = (),
        call_numbers: CallNumbers | None = None,
    ) -> None:
        self.name: str = spec.name
        self.__name__: str = spec.name
        self.session_id: str = spec.session_id
        self._described = described  # the function or class that the user gave, or an instance's class; not in a task
        self._attributes = attributes  # of the user's instance, for messages; not in a task
        self._engine = engine
        self._spec = spec
        self._key = key
        self._capture = capture
        self._generators = generators
        self._options = options
        self._policy = None if options is None else engine.policy(options)
        self._numbers = call_numbers  # of its calls, views' and methods' too; None: it has no seed
        self.number_calls(call_numbers)
        self._look: GlobalsLook | None = None  # what it was made with; not in a view, or in a task
        self._forget: Callable[[], object] = lambda: None  # tells the runner that the session's id is free again
        numbers = {name: number for number, name in enumerate(spec.methods)}
        self._own_method = 0 if spec.kind == FUNCTION else numbers.get("", UNCALLABLE)
        if described is not None:
            self.__doc__ = described.__doc__
            if spec.kind == FUNCTION:  # an object's methods may be others than its class's: only the object can tell
                self.expect_arguments(*arity_of(described))
        self._bind_plainly()
        if generators:
            state = None if capture is None else capture.state
            watch = DrawnAlike(self.name, generators, state, partial(_stop_watching, weakref.ref(self)))
            engine.bind(self, key, self._own_method, watch.state, self._policy, self.name)
        made_of = (engine, spec, key, capture, generators, options, described, attributes, call_numbers)
        self._methods: dict[str, Method[..., Any]] = {}
        for name, number in numbers.items():
            if name:
                method: Method[..., Any] = Method(made_of, described, name)
                method.number_calls(call_numbers)
                self._methods[name] = method
                engine.bind(method, key, number, None, self._policy, f"{self.name}.{name}")
                if name not in RESERVED:
                    setattr(self, name, method)

    def _bind_plainly(self) -> None:
        """Bind the service's own call, without a watch over its generators."""
        state = None if self._capture is None else self._capture.state
        self._engine.bind(self, self._key, self._own_method, state, self._policy, self.name)

    def refuse(self) -> None:
        """Raise TypeError: a call of the service enters here if its object cannot be called."""
        raise TypeError(
            f"the {self._spec.kind} service {self.name!r} is not callable; call one of its methods: "
            f"{', '.join(name for name in self._spec.methods if name) or 'it has none'}"
        )

    def _refuse_arguments(self, *args: Any, **kwargs: Any) -> None:
        """Raise TypeError: a call enters here if it has too few or too many positional arguments."""
        refuse_arguments(self.__signature__, self.name, args, kwargs)

    def _engine_of_map(self) -> tuple[Engine, int]:
        concurrency = self._spec.concurrency
        return self._engine, max(AHEAD_PER_WORKER, concurrency) if self._policy is not None or concurrency > 1 else 0

    def options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        retries: int | None = None,
        retry_on: type[BaseException] | Sequence[type[BaseException]] | None = None,
        backoff: float | None = None,
        priority: str | None = None,
        capture: bool | None = None,
        detached: bool | None = None,
    ) -> RunnerService[P, R]:
        """Return a view of this service whose calls, methods' too, have these options; the service itself stays as it is.

        A call that is ended by force is ended with the process of its worker, and nothing else is: the service's other calls
        go on. An instance loses its state with its process.

        Parameters
        ----------
        timeout : float, optional
            Seconds that a call may run, each attempt anew; then it is ended by force. What a worker imports before it runs
            a service's first call does not count.
        deadline : float, optional
            Seconds from the call's submission to its end: one that has not begun by then never runs, one that runs is ended
            by force.
        retries : int, optional
            Attempts after the first. An attempt that failed may have had effects: it ran.
        retry_on : exception type or sequence of them, optional
            Failures after which there is another attempt; by default `WorkerDiedError` alone. `TaskTimeoutError` stands for
            time-outs, other types for what the call raises. The last error is raised, the earlier ones are its notes.
        backoff : float, optional
            Seconds until the first retry, twice as many before each further one; other calls do not wait for it.
        priority : {"urgent", "normal"}, optional
            Urgent calls run before normal ones that are queued, an instance's too; none is interrupted.
        capture : bool, optional
            Keep what the call prints, by Python's streams, for `ObjectFuture.output`, and show it nowhere. If its process
            dies or is ended, what it had printed is kept, of a long text the end.
        detached : bool, optional
            Run the call although nobody holds its future; else a call that has not begun is dropped with the last one.

        Raises
        ------
        TypeError, ValueError
            A value that does not fit its option.

        Notes
        -----
        What is not given is as in this view. With the inline engine, which runs calls in the driver, no call is ended by
        force. `map` of a view makes one call an item.

        Examples
        --------
        >>> from flame_fast import Runner, WorkerDiedError
        >>> with Runner("careful", workers=1) as rr:
        ...     power = rr.service(pow).options(timeout=10, retries=2, retry_on=(WorkerDiedError, ConnectionError))
        ...     power(2, 10).get()
        1024
        """
        given = {
            "timeout": timeout,
            "deadline": deadline,
            "retries": retries,
            "retry_on": retry_on,
            "backoff": backoff,
            "priority": priority,
            "capture": capture,
            "detached": detached,
        }
        if capture and self._spec.concurrency > 1:
            raise ValueError(
                "capture: calls that run at once in a process print to the same streams; leave out the service's concurrency"
            )
        view: RunnerService[P, R] = RunnerService(
            self._engine,
            self._spec,
            self._key,
            self._capture,
            self._generators,
            changed(self._options or CallOptions(), given),
            self._described,
            self._attributes,
            self._numbers,
        )
        view._forget = self._forget
        return view

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> ObjectFuture[Any]:
        """Call a method by its name: one whose name the service uses itself.

        Raises
        ------
        AttributeError
            The object has no public method of that name.
        """
        if method not in self._methods:
            raise self._has_no(method)
        return self._methods[method](*args, **kwargs)

    def close(self, cancel: bool = False) -> None:
        """Refuse new calls; those made go on to their end. Idempotent.

        Parameters
        ----------
        cancel : bool
            Cancel the calls that have not begun, as `ObjectFuture.cancel` does.
        """
        self._engine.close_service(self._key, cancel)
        self._forget()

    def __getattr__(self, name: str) -> Method[..., Any]:
        found: dict[str, Any] = self.__dict__
        if "_spec" not in found:
            raise AttributeError(name)
        kind, described = found["_spec"].kind, found["_described"]
        if name == "__wrapped__" and described is not None and kind != INSTANCE:
            return described  # type: ignore[no-any-return]  # no method, as the next one is none
        if name == "__signature__" and described is not None and found["_own_method"] != UNCALLABLE:
            return signature_of(described, "" if kind == FUNCTION else "__call__")  # type: ignore[no-any-return]
        raise self._has_no(name)

    def _has_no(self, method: Any) -> AttributeError:
        kind = self._spec.kind
        why = absence_of(str(method), kind, self._spec.methods, self._described, self._attributes)
        return AttributeError(f"the {kind} service {self.name!r} has no public method {method!r}{why}")

    def __repr__(self) -> str:
        return f"<RunnerService {self.name!r} ({self._spec.kind}), session {self.session_id!r}>"

    def _repr_html_(self) -> str:
        """Return the service as an HTML table, for notebooks."""
        return table("RunnerService", _rows_of(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            _attach,
            (self._engine.session, self._spec.to_blob(), self._key, self._capture and self._capture.function, self._options),
        )


def _rows_of(service: RunnerService[..., Any]) -> dict[str, object]:
    """Return the rows that a table shows of a service."""
    rows: dict[str, object] = {
        "service": service.name,
        "kind": service._spec.kind,
        "methods": ", ".join(service._methods),
        "runner": service._engine.name,
        "session": service.session_id,
        "CPUs a call": service._spec.cpu,
    }
    return {name: value for name, value in rows.items() if value != ""}


def _stop_watching(reference: weakref.ref[RunnerService[..., Any]]) -> None:
    """Take the watch over a service's generators away."""
    service = reference()
    if service is not None:
        service._bind_plainly()


def _method_of(service: RunnerService[..., Any], name: str) -> Method[..., Any]:
    return service._methods[name]


def stands_for_call(service: RunnerService[..., Any]) -> bool:
    """Whether a service can stand in place of futures: only a function's has one obvious call."""
    return service._spec.kind == FUNCTION


def example_method(service: RunnerService[..., Any]) -> str:
    """Return some method of a service, for messages."""
    return next((name for name in service._spec.methods if name), "method")


def _attach(
    session: int, blob: bytes, key: ServiceKey, function: Any, options: CallOptions | None
) -> RunnerService[..., Any]:
    """Rebuild a service in a task of its runner."""
    engine = engine_of(session)
    spec = ServiceSpec.from_blob(blob)
    if engine is None:
        raise FlameError(
            FlameErrorCode.INVALID_STATE, f"service {spec.name!r} belongs to a runner that is not at work in this process"
        )
    return RunnerService(
        engine, spec, key, function and Capture(function), None, options, call_numbers=_numbers_here(session, spec, key)
    )


def _numbers_here(session: int, spec: ServiceSpec, key: ServiceKey) -> CallNumbers | None:
    """Return the numbers of a service's calls for a copy of it that arrives in this process.

    Tasks call it in no order that stays the same from run to run: there are no numbers for them.
    """
    if spec.seed is None:
        return None
    numbers = _counts.get((session, key)) if serving_engine() is None else None
    return numbers or CallNumbers(
        f"service {spec.name!r} has a seed, so its calls have numbers, which only the process that made it can give; in a "
        "task make a service there: runner.service(fn, seed=task_key())"
    )


def words_of_seed(seed: Seed) -> tuple[int, int] | None:
    """Return the words of a seed's key, checked; None: there is no seed."""
    if seed is None:
        return None
    from flame_fast.kernels.keys import key

    low, high = key(seed)
    return int(low), int(high)


def has_seed(service: RunnerService[..., Any], seed: Seed) -> bool:
    """Whether a service was made with this seed, or both with none."""
    return service._spec.seed == words_of_seed(seed)


@record
class ServiceOptions:
    """What `Runner.service` takes beside the execution object; its docstring says what each means."""

    autoscale: bool | None = None
    warmup: int = 0
    resreq: ResourceRequirement | str | None = None
    restart: bool = False
    concurrency: int = 1
    args: tuple[Any, ...] | list[Any] = ()
    kwargs: dict[str, Any] | None = None
    seed: Seed = None


def make_service(
    engine: Engine,
    application: str,
    obj: Any,
    options: ServiceOptions,
    threads: int | None = None,
    project: dict[str, Any] | None = None,
) -> RunnerService[..., Any]:
    """Add an execution object to an engine; see `Runner.service`.

    `threads`: those of libraries in a call, at most. `project`: the snapshot that workers import from, as in `ServiceSpec`.
    """
    kind = kind_of(obj)
    whole = with_arguments(obj, options.args, options.kwargs)
    warmup, cpu = check_options(obj, options, engine)
    seed = words_of_seed(options.seed)
    limit, sticky = _worker_limit(kind, options.autoscale, warmup, cpu, engine)
    if options.concurrency > 1 and kind != INSTANCE:
        limit = limit or engine.workers  # a queue of its own: a worker takes all that it runs at once from there
    methods = () if kind == FUNCTION else method_names(obj)
    closed = {"close"} if kind == CLASS else set()  # its worker calls that one
    for name in sorted(RESERVED.intersection(methods) - closed):
        warnings.warn(
            f"{name!r} is a name of the service itself; reach the method of {name_of(obj)} by .call({name!r}, ...)",
            stacklevel=3,
        )
    capture = Capture(obj) if kind == FUNCTION and has_state(obj) else None
    session_id, application = session_of(obj, application)
    target, used, look = _pickled(obj, whole)
    spec = ServiceSpec(
        name=name_of(obj),
        kind=kind,
        target=target,
        methods=methods,
        cpu=cpu or threads or max(1, engine.cpus // engine.workers),
        session_id=session_id,
        application=application,
        concurrency=options.concurrency,
        levels=levels_here(),
        project=project,
        seed=seed,
    )
    key = engine.add_service(
        spec, limit=limit, sticky=sticky, warmup=warmup, preload=libraries_of(whole), restart=options.restart
    )
    generators = carried_generators(obj) if kind == FUNCTION else []
    if kind == FUNCTION and engine.is_parallel:
        generators += [(name, found) for name, value in used if (found := generator_in(value)) is not None]
    numbers = None if seed is None else _counts.setdefault((engine.session, key), CallNumbers())
    service: RunnerService[..., Any] = RunnerService(
        engine, spec, key, capture, generators, None, described_by(obj), attribute_names(obj), numbers
    )
    service._look = look
    return service


def look_at_globals(service: RunnerService[..., Any]) -> GlobalsLook | None:
    """Return a look at the globals that a function's service was made with, for many questions; None: it uses none."""
    return service._look or None


def has_globals_of(
    service: RunnerService[..., Any], function: Any, project: dict[str, Any] | None = None
) -> GlobalsLook | None:
    """Return a new look if a service made now of the same function, with this snapshot, would be no other; else None.

    Pickles the function as the making of a service does: that alone tells whatever was changed in place.
    """
    try:
        target, _, look = serialization.dump_service(function)
    except Exception:  # the next call tells why
        return None
    is_same = service._spec.project == project and serialization.is_same_service(target, service._spec.target)
    return look if is_same else None


def _pickled(obj: Any, whole: Any) -> tuple[bytes, list[tuple[str, Any]], GlobalsLook]:
    """Pickle an execution object; `whole`: with its arguments."""
    try:
        return serialization.dump_service(whole)
    except FlameError:
        raise
    except Exception as error:
        what = f"{name_of(obj)!r}{' with its args and kwargs' * (whole is not obj)}"
        raise TypeError(f"{what} cannot be pickled and sent to a worker: {error}") from error


def check_options(obj: Any, options: ServiceOptions, engine: Engine) -> tuple[int, int | None]:
    """Check the options of `Runner.service`; return (warmup cut to the workers, CPUs a call takes or None)."""
    autoscale, warmup, restart = options.autoscale, options.warmup, options.restart
    if autoscale is not None and not isinstance(autoscale, bool):
        raise ValueError(f"autoscale: expected True, False or None, got {autoscale!r}")
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise ValueError("warmup must be a non-negative integer.")
    if not isinstance(restart, bool):
        raise ValueError(f"restart: expected True or False, got {restart!r}")
    if restart and kind_of(obj) != INSTANCE:
        raise ValueError("restart: only object instance services have a state to begin anew with. Omit it.")
    if kind_of(obj) == INSTANCE:
        if autoscale:
            raise ValueError("Object instance services are always fixed. Omit autoscale or pass autoscale=False.")
        if warmup > 1:
            raise ValueError("Object instance services only support warmup=0 or warmup=1.")
    elif warmup > engine.workers:
        warnings.warn(
            f"warmup={warmup} is more than the {engine.workers} workers there are: cut to {engine.workers}", stacklevel=4
        )
        warmup = engine.workers
    concurrency = options.concurrency
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(f"concurrency: expected an integer of at least 1, got {concurrency!r}")
    return warmup, _check_resources(options.resreq, engine.cpus)


def _check_resources(resreq: ResourceRequirement | str | None, cpus: int) -> int | None:
    """Check what a call is to take; return its CPUs, None: nothing is said of them."""
    if resreq is None:
        return None
    if isinstance(resreq, str):
        resreq = ResourceRequirement.from_string(resreq)
    if not isinstance(resreq, ResourceRequirement):
        raise TypeError(f"resreq: expected a ResourceRequirement, or text like 'cpu=2,mem=1g', got {resreq!r}")
    if resreq.cpu > cpus:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"resreq: expected at most {cpus} CPUs a call, which this process may use, got {resreq.cpu}",
        )
    if resreq.gpu:
        check_gpus(resreq.gpu)
    return resreq.cpu


def _worker_limit(kind: str, autoscale: bool | None, warmup: int, cpu: int | None, engine: Engine) -> tuple[int, bool]:
    """Return (workers that may serve a service at the same time, 0 for all; whether they stay the same ones)."""
    if kind == INSTANCE:
        return 0, False
    bounds = []
    if cpu is not None and engine.cpus // cpu < engine.workers:
        bounds.append(max(1, engine.cpus // cpu))
    if autoscale is False:
        bounds.append(max(warmup, 1))
    return (min(bounds), autoscale is False) if bounds else (0, False)


def when_closed(service: RunnerService[..., Any], forget: Callable[[], object]) -> None:
    """Call `forget` when the service is closed."""
    service._forget = forget


__all__ = [
    "RunnerService",
    "ServiceOptions",
    "check_options",
    "example_method",
    "has_globals_of",
    "has_seed",
    "look_at_globals",
    "make_service",
    "stands_for_call",
    "when_closed",
]
