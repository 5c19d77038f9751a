"""One application for the whole program: decorated functions and classes with `remote`, in place of `Runner.service`.

    from flame_fast import app


    @app.service
    def square(x):
        return x * x


    @app.service
    class Counter:
        def __init__(self, start=0):
            self.n = start

        def add(self, k):
            self.n += k
            return self.n


    app.init("counting")
    counter = Counter.remote(10)  # made in a process of its own
    print(square(3), app.get([counter.add(square.remote(i)) for i in range(3)]))  # 9 [10, 11, 15]
    app.destroy()

It is the face that Flame's newest SDK (`flamepy.app`) has, over one `Runner`: what `init` returns. Services are made at the
first call after `init`, so a program may decorate before it. A program that ends without `destroy` is cleaned up like a
Runner that nobody closed.

In a task, and in what a worker imports for it, the application is the one whose task it is. There `init` returns a Runner
over the processes that are there, and `destroy` does nothing. Functions called there share one service of their process, so
the options of their decorators do not count.

All functions here may be called from any thread. A forked child may `init` an application of its own.
"""

from __future__ import annotations

import functools
import os
import threading
from functools import partial

from flame_fast.calls.applied import apply
from flame_fast.calls.introspection import kind_of, name_of
from flame_fast.engine import current
from flame_fast.engine.spec import CLASS, FUNCTION, Construction
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels.runtime.serialization.definitions import is_named
from flame_fast.resources import ResourceRequirement
from flame_fast.runner import Runner, runner_in_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, ParamSpec, Protocol, TypeVar, overload

    from flame_fast.calls.progress import Progress
    from flame_fast.calls.selection import Selection
    from flame_fast.calls.service import RunnerService
    from flame_fast.engine.protocol import Engine
    from flame_fast.kernels.runtime import CallTarget, ObjectFuture, ObjectRef

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")
    V = TypeVar("V")
    R_co = TypeVar("R_co", covariant=True)

    class Decorated(Protocol[P, R_co, V]):
        """A function that `service` has decorated: what a call of it returns here, and its value in a worker."""

        __name__: str
        __qualname__: str

        @property
        def remote(self) -> CallTarget[P, V]: ...
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    class Decorator(Protocol):
        """What `service` with options returns."""

        @overload
        def __call__(self, definition: type[Any], /) -> Any: ...
        @overload
        def __call__(
            self, definition: Callable[P, Coroutine[Any, Any, V]], /
        ) -> Decorated[P, Coroutine[Any, Any, V], V]: ...
        @overload
        def __call__(self, definition: Callable[P, R], /) -> Decorated[P, R, R]: ...


#: The name that a decorator gives a function or class.
REMOTE = "remote"


class _Application:
    """The application of this process: its runner, and the services of functions called so far."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.services: dict[RemoteFunction, RunnerService[..., Any]] = {}

    def is_over(self) -> bool:
        return self.runner._lifetime.is_over or self.runner._engine.is_foreign


class _Nested:
    """The application of the tasks that this process runs.

    One service makes the calls of all functions: a task may decorate a function of its own each time it runs, and a service
    stays until the runner ends.
    """

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self.engine = engine
        self.runner = runner
        self.apply = runner.service(apply)


_lock = threading.RLock()
_application: _Application | None = None
_nested: _Nested | None = None


def _renew_lock() -> None:
    """Give a forked child a lock that no thread of its parent holds."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


# ---- the application -------------------------------------------------------------------------------------------------


def init(name: str, **options: Any) -> Runner:
    """Start the program's application.

    Parameters
    ----------
    name : str
        By the rules of a Runner's name.
    **options
        Those of `Runner`, such as `workers`, `dependencies` and `fail_if_exists`.

    Returns
    -------
    Runner
        It has what this module has not: `statistics()`, `aget()`, a ``with`` block. Closing it is `destroy`.

    Raises
    ------
    FlameError
        `INVALID_STATE`: an application of another name is at work. Else what `Runner` raises.

    Notes
    -----
    A second call with the same name returns the same Runner, and its options do not count: each module may call it.

    Examples
    --------
    >>> from flame_fast import app
    >>> runner = app.init("twice", workers=1)
    >>> app.init("twice") is runner
    True
    >>> app.destroy()
    """
    global _application
    if current.serving_engine() is not None:
        return _active()
    with _lock:
        if _application is None or _application.is_over():
            _application = _Application(Runner(name, **options))
        runner = _application.runner
        if runner.name != name:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"app.init({name!r}): application {runner.name!r} is at work already; call app.destroy() first",
            )
        return runner


def destroy() -> None:
    """End the application as `Runner.close` does: its services, instances and processes. Idempotent."""
    global _application, _nested
    if current.serving_engine() is not None:
        return
    with _lock:
        ended, _application, _nested = _application, None, None
    if ended is not None:
        ended.runner._close(stacklevel=3)


def _active() -> Runner:
    """Return the runner of the program's application, or of the task that this process runs."""
    application = _application
    if application is None or application.runner._lifetime.is_over:
        return _of_task().runner
    return application.runner


def _of_task() -> _Nested:
    """Return the application of the task that this process runs."""
    global _nested
    engine = current.serving_engine()
    if engine is None:
        raise FlameError(FlameErrorCode.INVALID_STATE, "no application is at work here; call app.init(name) first")
    with _lock:
        if _nested is None or _nested.engine is not engine:
            _nested = _Nested(engine, runner_in_task(engine.name))
        return _nested


def _check_not_importing(what: str) -> None:
    if current.is_importing():
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            f"{what} is called by a module while a worker imports that module for a service, which goes on without end; "
            "call it in a function, or under `if __name__ == '__main__':`",
        )


# ---- services --------------------------------------------------------------------------------------------------------


class RemoteFunction:
    """The `remote` of a decorated function: a call of it runs in a worker, and returns an `ObjectFuture` at once."""

    __slots__ = ("__weakref__", "_function", "_options")

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        self._function = function
        self._options = options

    def __call__(self, /, *args: Any, **kwargs: Any) -> ObjectFuture[Any]:
        application = _application
        if application is None:
            _check_not_importing(repr(self))
            return _of_task().apply(self._function, args, kwargs)
        service = application.services.get(self)
        if service is None:
            service = self._service_in(application)
        return service(*args, **kwargs)

    def _service_in(self, application: _Application) -> RunnerService[..., Any]:
        """Return the function's service in the program's application; make it if need be."""
        with _lock:
            service = application.services.get(self)
            if service is None:
                service = application.services[self] = application.runner.service(self._function, **self._options)
            return service

    def new_service(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunnerService[..., Any]:
        """Make a service of the function that no other call uses."""
        if args or kwargs:
            raise TypeError(
                f"app.remote({name_of(self._function)}): a function takes its arguments when it is called; call what "
                "app.remote returns"
            )
        _check_not_importing(repr(self))
        return _active().service(self._function, **self._options)

    def __repr__(self) -> str:
        return f"{name_of(self._function)}.{REMOTE}"


class RemoteConstructor:
    """The `remote` of a decorated class: a call of it makes an instance in another process.

    It returns the instance's `RunnerService` at once; that has the class's public methods.
    """

    __slots__ = ("_options",)

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def __get__(self, instance: object, owner: type) -> Any:
        return partial(self._construct, owner)

    def _construct(self, cls: type, /, *args: Any, **kwargs: Any) -> RunnerService[..., Any]:
        return self.new_service(cls, args, kwargs)

    def new_service(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunnerService[..., Any]:
        """Make a service of a new instance."""
        _check_not_importing(f"{name_of(cls)}.{REMOTE}")
        if self._options["autoscale"] or self._options["warmup"] > 1:
            return _active().service(cls, args=args, kwargs=kwargs, **self._options)
        return _active().service(Construction(cls, args, kwargs), **self._options)


if TYPE_CHECKING:

    @overload
    def service(definition: type[Any], /) -> Any: ...
    @overload
    def service(definition: Callable[P, Coroutine[Any, Any, V]], /) -> Decorated[P, Coroutine[Any, Any, V], V]: ...
    @overload
    def service(definition: Callable[P, R], /) -> Decorated[P, R, R]: ...
    @overload
    def service(
        *,
        autoscale: bool | None = None,
        warmup: int = 0,
        resreq: ResourceRequirement | str | None = None,
        restart: bool = False,
        concurrency: int = 1,
    ) -> Decorator: ...


def service(
    definition: Any = None,
    /,
    *,
    autoscale: bool | None = None,
    warmup: int = 0,
    resreq: ResourceRequirement | str | None = None,
    restart: bool = False,
    concurrency: int = 1,
) -> Any:
    """Give a function or class `remote`: a decorator, with arguments or without.

    The function or class stays what it is: `f(x)` runs here, and `Counter(10)` makes an instance here. `f.remote(x)` runs
    in a worker, and returns an `ObjectFuture`. `Counter.remote(10)` makes an instance in a process of its own and returns
    its service; each method of that returns an `ObjectFuture`, and its `close()` ends the process.

    Parameters
    ----------
    autoscale : bool, optional
        Functions: False limits the service to `max(warmup, 1)` workers. Classes: by True, or by a `warmup` above 1, each
        worker makes an instance of its own of the arguments, and a call goes to any of them; by default there is one
        instance, in a process of its own.
    warmup : int
        Workers that load it as soon as the service is made.
    resreq : ResourceRequirement or str, optional
        What one call takes, also as text: ``"cpu=2,mem=1g"``.
    restart : bool
        Classes: if the instance's process dies, another one makes it anew.
    concurrency : int
        Calls of an `async def` that a worker runs at once.

    Raises
    ------
    TypeError
        Neither a function nor a class of one's own; a class with an attribute `remote`.
    ValueError
        A `resreq` that cannot be read, a `warmup` that is no number of workers. Others: see `Runner.service`, at the first
        call of `remote`.

    Notes
    -----
    The constructor runs in the instance's process. What it raises, each call's `get` raises. Futures among its arguments are
    waited for at `remote`. A subclass has `remote`, too. A function that is decorated later than where it is defined, or one
    without attributes, as compiled ones are, stays as it is: what is returned wraps it.

    Examples
    --------
    >>> from flame_fast import app
    >>> @app.service(resreq="cpu=1")
    ... def power(base, exponent=2):
    ...     return base**exponent
    >>> power(3)
    9
    >>> runner = app.init("powers", workers=1)
    >>> power.remote(power.remote(3), exponent=3).get()
    729
    >>> app.destroy()
    """
    if isinstance(resreq, str):
        resreq = ResourceRequirement.from_string(resreq)
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise ValueError("warmup must be a non-negative integer.")
    options = {"autoscale": autoscale, "warmup": warmup, "resreq": resreq, "restart": restart, "concurrency": concurrency}
    return partial(_declare, options) if definition is None else _declare(options, definition)


def _declare(options: dict[str, Any], definition: Any) -> Any:
    """Give a function or class its `remote`; return it."""
    kind = kind_of(definition)
    if kind == CLASS:
        own = _remote_of(definition)
        if own is not None and not isinstance(own, RemoteConstructor):
            raise TypeError(f"app.service: class {name_of(definition)!r} has a {REMOTE!r} of its own; rename that")
        try:
            setattr(definition, REMOTE, RemoteConstructor(options))
        except TypeError as error:
            raise TypeError(f"app.service: expected a class of your own, got {definition!r}; derive one from it") from error
        return definition
    if kind != FUNCTION and not _is_named(definition):
        raise TypeError(
            f"app.service: expected a function or a class, got {definition!r}; decorate the class, and make the instance by "
            f"{type(definition).__name__}.{REMOTE}(...)"
        )
    function = definition if _takes_attribute(definition) else _wrapped(definition)
    setattr(function, REMOTE, RemoteFunction(definition, options))
    return function


def _remote_of(definition: Any) -> Any:
    """Return what stands under `remote` in a class, or in a function; None if nothing does."""
    if isinstance(definition, type):
        return next((vars(base)[REMOTE] for base in definition.__mro__ if REMOTE in vars(base)), None)
    return getattr(definition, REMOTE, None)


def _is_named(definition: Any) -> bool:
    """Tell whether a callable object stands for the function that its decorator was given, as a cache does."""
    return callable(definition) and isinstance(getattr(definition, "__qualname__", None), str)


def _takes_attribute(function: Any) -> bool:
    """Tell whether a function can have `remote` itself: not a compiled one, nor one that has been bound to its name.

    What is decorated has no name yet; another module's function must stay as it is.
    """
    is_bound = isinstance(getattr(function, "__qualname__", None), str) and is_named(function)
    return hasattr(function, "__dict__") and not is_bound


def _wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def remote(definition: Any, /, *args: Any, **kwargs: Any) -> RunnerService[..., Any]:
    """Return a service of its own of a decorated function or class; `f.remote` shares one among all its calls.

    Parameters
    ----------
    definition : decorated function or class
    *args, **kwargs
        Of a class: its constructor's.

    Raises
    ------
    TypeError
        `definition` is not decorated, or a function with arguments.

    Examples
    --------
    A service has what `f.remote` has not: `map`, `options`, `close`.

    >>> from flame_fast import app
    >>> @app.service
    ... def double(x):
    ...     return 2 * x
    >>> runner = app.init("doubles", workers=1)
    >>> list(app.remote(double).options(timeout=10).map(range(4)))
    [0, 2, 4, 6]
    >>> app.destroy()
    """
    found = _remote_of(definition)
    if isinstance(found, RemoteConstructor):
        return found.new_service(definition, args, kwargs)
    if isinstance(found, RemoteFunction):
        return found.new_service(args, kwargs)
    raise TypeError(f"app.remote: expected a function or class decorated by app.service, got {definition!r}")


# ---- futures ---------------------------------------------------------------------------------------------------------


def get(futures: Any, timeout: float | None = None, *, return_exceptions: bool = False, progress: Progress = None) -> Any:
    """Return the values of futures and refs, in the shape given: `Runner.get`."""
    return _active().get(futures, timeout, return_exceptions=return_exceptions, progress=progress)


def wait(futures: Any, timeout: float | None = None, *, num_returns: int | None = None) -> Any:
    """Wait for futures without reading their values: `Runner.wait`."""
    return _active().wait(futures, timeout, num_returns=num_returns)


def ref(futures: Any) -> Any:
    """Wait for futures; return an `ObjectRef` in place of each: `Runner.ref`."""
    return _active().ref(futures)


def select(futures: Any, timeout: float | None = None, *, progress: Progress = None) -> Selection[Any]:
    """Return an iterator over futures as they complete: `Runner.select`."""
    return _active().select(futures, timeout, progress=progress)


def cancel(futures: Any, force: bool = False) -> int:
    """Cancel the calls of futures, and what depends on them: `Runner.cancel`."""
    return _active().cancel(futures, force)


def put_object(obj: T) -> ObjectRef[T]:
    """Store a value once, as an argument for any call: `Runner.put_object`."""
    return _active().put_object(obj)


put = put_object  # Flame's name of it

__all__ = [
    "RemoteConstructor",
    "RemoteFunction",
    "cancel",
    "destroy",
    "get",
    "init",
    "put",
    "put_object",
    "ref",
    "remote",
    "select",
    "service",
    "wait",
]
