"""A service: a function, class or object whose calls run in the runner's workers and return futures."""

from __future__ import annotations

import warnings
import weakref
from functools import partial

from flame_fast.calls.captures import Capture, has_state
from flame_fast.calls.import_scan import libraries_of
from flame_fast.calls.introspection import RESERVED, kind_of, method_names, name_of
from flame_fast.calls.session import session_of
from flame_fast.calls.shared_generators import DrawnAlike, carried_generators, generator_in
from flame_fast.engine.current import engine_of
from flame_fast.engine.spec import FUNCTION, INSTANCE, ServiceSpec
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels.runtime import UNCALLABLE, CallTarget, MapResults, call_without_frames, serialization
from flame_fast.resources import ResourceRequirement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from flame_fast.engine.protocol import Engine
    from flame_fast.kernels.runtime import ObjectFuture


@call_without_frames
class Method(CallTarget):
    """One public method of a class or instance service."""

    __slots__ = ("__name__", "_owner")

    def __init__(self, owner: RunnerService, name: str) -> None:
        self._owner = owner
        self.__name__ = name

    def __repr__(self) -> str:
        return f"<method {self.__name__!r} of {self._owner!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_method_of, (self._owner, self.__name__))


@call_without_frames
class RunnerService(CallTarget):
    """Calls of one execution object, in the runner's workers. Made by `Runner.service`.

    A function service is called. Class and instance services have a method per public method of the object; a callable
    instance can be called as well. Every call returns an `ObjectFuture` at once. Safe from any thread; given to a task, it
    works there.

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
        ids: tuple[int, int, int],
        capture: Capture | None = None,
        generators: list[tuple[str, Any]] | None = None,
    ) -> None:
        self.name = spec.name
        self.session_id = spec.session_id
        self._engine = engine
        self._spec = spec
        self._ids = ids
        self._capture = capture
        self._forget: Callable[[], object] = lambda: None  # tells the runner that the session's id is free again
        after = engine.after_submit if engine.runtime.inline else None
        numbers = {name: number for number, name in enumerate(spec.methods)}
        own = 0 if spec.kind == FUNCTION else numbers.get("", UNCALLABLE)
        state = None if capture is None else capture.state
        if generators:
            state = DrawnAlike(self.name, generators, state, partial(_bind_plainly, weakref.ref(self), own, after)).state
        self.bind(engine.runtime, ids, own, state, after)
        self._methods: dict[str, Method] = {}
        for name, number in numbers.items():
            if name:
                method = self._methods[name] = Method(self, name)
                method.bind(engine.runtime, ids, number, None, after)
                if name not in RESERVED:
                    setattr(self, name, method)

    def refuse(self) -> None:
        """A call of what cannot be called."""
        raise TypeError(
            f"the {self._spec.kind} service {self.name!r} is not callable; call one of its methods: "
            f"{', '.join(name for name in self._spec.methods if name) or 'it has none'}"
        )

    def map(self, iterable: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        """Calls the service once for each item; an iterator over the results, in order.

        Many items travel in one call. Results come lazily: a bounded number of items is taken ahead of what the iterator has
        given out, so that the iterable may be endless.

        Parameters
        ----------
        iterable : iterable
            One argument per call; futures among the items arrive as their values.
        chunksize : int, optional
            Items in one call, at least 1; by default as many as take about a millisecond, measured on the way.

        Raises
        ------
        ValueError
            A chunksize that is no integer of at least 1.
        TypeError
            The service is not callable.
        Exception
            From the iterator, in its turn: what the call of an item, or the iterable itself, raised. Nothing follows it.

        Notes
        -----
        The iterator is for one thread at a time. The first items are queued at once.
        """
        if chunksize is not None and (isinstance(chunksize, bool) or not isinstance(chunksize, int) or chunksize < 1):
            raise ValueError(f"chunksize must be an integer of at least 1, or None, got {chunksize!r}")
        return MapResults(self, iterable, chunksize)

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> ObjectFuture:
        """Calls a method by its name: for one whose name the service uses itself.

        Raises
        ------
        AttributeError
            The object has no public method of that name.
        """
        if method not in self._methods:
            raise AttributeError(f"the {self._spec.kind} service {self.name!r} has no public method {method!r}")
        return self._methods[method](*args, **kwargs)

    def close(self) -> None:
        """No new calls; those made go on to their end. May be called twice."""
        self._engine.runtime.close_service(*self._ids[:2])
        self._forget()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the {self.__dict__['_spec'].kind} service {self.__dict__['name']!r} has no public method {name!r}"
            if "_spec" in self.__dict__
            else name
        )

    def __repr__(self) -> str:
        return f"<RunnerService {self.name!r} ({self._spec.kind}), session {self.session_id!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            _attach,
            (self._engine.runtime.session, self._spec.to_blob(), self._ids, self._capture and self._capture.function),
        )


def _bind_plainly(reference: weakref.ref[RunnerService], own: int, after: Callable[[], object] | None) -> None:
    """A service's generators need no look any more."""
    service = reference()
    if service is not None:
        capture = service._capture
        service.bind(service._engine.runtime, service._ids, own, None if capture is None else capture.state, after)


def _method_of(service: RunnerService, name: str) -> Method:
    return service._methods[name]


def stands_for_call(service: RunnerService) -> bool:
    """Whether a service can stand in place of futures: only a function's has one obvious call."""
    return service._spec.kind == FUNCTION


def example_method(service: RunnerService) -> str:
    """Some method of a service, for messages."""
    return next((name for name in service._spec.methods if name), "method")


def _attach(session: int, blob: bytes, ids: tuple[int, int, int], function: Any) -> RunnerService:
    """The service again, in a task of its runner."""
    engine = engine_of(session)
    spec = ServiceSpec.from_blob(blob)
    if engine is None:
        raise FlameError(
            FlameErrorCode.INVALID_STATE, f"service {spec.name!r} belongs to a runner that is not at work in this process"
        )
    return RunnerService(engine, spec, ids, function and Capture(function))


def make_service(
    engine: Engine,
    application: str,
    obj: Any,
    autoscale: bool | None,
    warmup: int,
    resreq: ResourceRequirement | None,
) -> RunnerService:
    """Registers an execution object with an engine; see `Runner.service`."""
    kind = kind_of(obj)
    warmup, cpu = check_options(obj, autoscale, warmup, resreq, engine)
    limit, sticky = _permits(kind, autoscale, warmup, cpu, engine)
    methods = () if kind == FUNCTION else method_names(obj)
    for name in sorted(RESERVED.intersection(methods)):
        warnings.warn(
            f"{name!r} is a name of the service itself; reach the method of {name_of(obj)} by .call({name!r}, ...)",
            stacklevel=3,
        )
    capture = Capture(obj) if kind == FUNCTION and has_state(obj) else None
    session_id, application = session_of(obj, application)
    target, used = _pickled(obj)
    spec = ServiceSpec(
        name=name_of(obj),
        kind=kind,
        target=target,
        methods=methods,
        cpu=cpu or max(1, engine.cpus // engine.workers),
        session_id=session_id,
        application=application,
    )
    ids = engine.runtime.add_service(
        spec.to_blob(),
        instance=kind == INSTANCE,
        limit=limit,
        sticky=sticky,
        warmup=warmup,
        preload=libraries_of(obj),
    )
    generators = carried_generators(obj) if kind == FUNCTION else []
    if kind == FUNCTION and engine.workers > 1 and not engine.runtime.inline:
        generators += [(name, found) for name, value in used if (found := generator_in(value)) is not None]
    return RunnerService(engine, spec, ids, capture, generators)


def _pickled(obj: Any) -> tuple[bytes, list[tuple[str, Any]]]:
    try:
        return serialization.dump_service(obj)
    except FlameError:
        raise
    except Exception as error:
        raise TypeError(f"{name_of(obj)!r} cannot be pickled and sent to a worker: {error}") from error


def check_options(
    obj: Any, autoscale: bool | None, warmup: int, resreq: ResourceRequirement | None, engine: Engine
) -> tuple[int, int | None]:
    """(warmup as it holds here, CPUs a call takes or None) of the options of `Runner.service`; raises as it does."""
    if autoscale is not None and not isinstance(autoscale, bool):
        raise ValueError(f"autoscale must be True, False or None, got {autoscale!r}.")
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise ValueError("warmup must be a non-negative integer.")
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
    return warmup, _check_cpu(resreq, engine.cpus)


def _check_cpu(resreq: ResourceRequirement | None, cpus: int) -> int | None:
    if resreq is None:
        return None
    if not isinstance(resreq, ResourceRequirement):
        raise TypeError(
            f"resreq must be a ResourceRequirement, got {resreq!r}; "
            "for text write ResourceRequirement.from_string('cpu=2,mem=1g')"
        )
    if resreq.cpu > cpus:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"resreq asks for {resreq.cpu} CPUs a call, this process may use {cpus}",
        )
    return resreq.cpu


def _permits(kind: str, autoscale: bool | None, warmup: int, cpu: int | None, engine: Engine) -> tuple[int, bool]:
    """(workers that may serve it at the same time, 0 for all; whether always the same ones)."""
    if kind == INSTANCE:
        return 0, False
    bounds = []
    if cpu is not None and engine.cpus // cpu < engine.workers:
        bounds.append(max(1, engine.cpus // cpu))
    if autoscale is False:
        bounds.append(max(warmup, 1))
    return (min(bounds), autoscale is False) if bounds else (0, False)


def when_closed(service: RunnerService, forget: Callable[[], object]) -> None:
    """Calls `forget` when the service is closed."""
    service._forget = forget


__all__ = ["RunnerService", "check_options", "example_method", "make_service", "stands_for_call", "when_closed"]
