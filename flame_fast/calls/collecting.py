"""Collecting: the methods of a Runner that take futures and give their values, all at once, as they come, or as refs."""

from __future__ import annotations

from flame_fast.calls import gather
from flame_fast.calls.selection import select
from flame_fast.calls.service import RunnerService, example_method, stands_for_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Literal, Never, TypedDict, TypeVar, Unpack, overload

    from flame_fast.calls.progress import Progress
    from flame_fast.calls.selection import Selection
    from flame_fast.engine.protocol import Engine
    from flame_fast.kernels.runtime import ObjectFuture, ObjectHandle, ObjectRef
    from flame_fast.lifetime import Lifetime

    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    F = TypeVar("F", bound=ObjectHandle[Any])
    K = TypeVar("K")
    R = TypeVar("R")

    class Raising(TypedDict, total=False):
        """Options with which every value is one that a call returned."""

        return_exceptions: Literal[False]

    class Shown(Raising, total=False):
        progress: Progress


class Elsewhere:
    """A name that other libraries have at this place: asking for it says where it is here. It costs other names nothing."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Never:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}; write {self._where}")


class Collecting:
    """What collects futures. `Runner` is one."""

    _engine: Engine
    _lifetime: Lifetime

    if not TYPE_CHECKING:
        map = Elsewhere("rr.service(fn).map(items)")
        starmap = Elsewhere("rr.service(fn).starmap(items)")
        imap = Elsewhere("rr.service(fn).map(items), which reads as it goes")
        imap_unordered = Elsewhere("rr.service(fn).map(items, ordered=False)")
        submit = Elsewhere("rr.service(fn)(x): each call of a service returns a future")
        apply = Elsewhere("rr.service(fn)(x).get()")
        apply_async = Elsewhere("rr.service(fn)(x): each call of a service returns a future")
        remote = Elsewhere("rr.service(fn)(x): each call of a service returns a future")
        put = Elsewhere("rr.put_object(value)")
        shutdown = Elsewhere("rr.close(), or the runner in a with statement")
        terminate = Elsewhere("rr.close(), or the runner in a with statement")

    def _check_open(self) -> None:
        """Raise `INVALID_STATE` if the runner is closed, or another process's."""
        raise NotImplementedError

    if TYPE_CHECKING:

        @overload
        def get(self, futures: ObjectHandle[R], timeout: float | None = None, **options: Unpack[Shown]) -> R: ...
        @overload
        def get(
            self, futures: tuple[ObjectHandle[A], ObjectHandle[B]], timeout: float | None = None, **options: Unpack[Shown]
        ) -> tuple[A, B]: ...
        @overload
        def get(
            self,
            futures: tuple[ObjectHandle[A], ObjectHandle[B], ObjectHandle[C]],
            timeout: float | None = None,
            **options: Unpack[Shown],
        ) -> tuple[A, B, C]: ...
        @overload
        def get(
            self, futures: tuple[ObjectHandle[R], ...], timeout: float | None = None, **options: Unpack[Shown]
        ) -> tuple[R, ...]: ...
        @overload
        def get(
            self, futures: Mapping[K, ObjectHandle[R]], timeout: float | None = None, **options: Unpack[Shown]
        ) -> dict[K, R]: ...
        @overload
        def get(
            self, futures: Iterable[ObjectHandle[R]], timeout: float | None = None, **options: Unpack[Shown]
        ) -> list[R]: ...
        @overload
        def get(self, futures: RunnerService[..., R], timeout: float | None = None, **options: Unpack[Shown]) -> list[R]: ...
        @overload
        def get(
            self, futures: Any, timeout: float | None = None, *, return_exceptions: bool = False, progress: Progress = None
        ) -> Any: ...

    def get(
        self,
        futures: Any,
        timeout: float | None = None,
        *,
        return_exceptions: bool = False,
        progress: Progress = None,
    ) -> Any:
        """Return the values of futures and refs, in the shape given.

        Parameters
        ----------
        futures : future, ref, list, tuple, dict, generator, or a function service
            Nested at any depth. A generator, another iterator or a set gives a list; what is no future passes through. A
            function service stands for one call of it without arguments, as a list of one.
        timeout : float, optional
            Seconds for all of them together.
        return_exceptions : bool
            Give a failed call's exception in place of its value; by default it is raised.
        progress : bool, str or callable, optional
            Show how many calls are done and have failed: True or a label shows a bar of tqdm, in a terminal or a notebook
            (elsewhere if `FLAME_FAST_PROGRESS` is set); a callable is called with (done, failed, total) after each.

        Raises
        ------
        TimeoutError
            The time is up; the tasks go on.
        Exception
            The first failure in input order, as soon as all before it are done.
        """
        if (
            not (return_exceptions or progress)
            and type(futures) is list
            and futures
            and not self._lifetime.is_over
            and self._engine.owns_all(futures)
        ):
            return self._engine.get_many(futures, timeout)  # the usual case; it refuses a forked child by itself
        self._check_open()
        return gather.get(_one_call(futures), timeout, return_exceptions, progress)

    if TYPE_CHECKING:

        @overload
        async def aget(self, futures: ObjectHandle[R], timeout: float | None = None, **options: Unpack[Raising]) -> R: ...
        @overload
        async def aget(
            self, futures: tuple[ObjectHandle[A], ObjectHandle[B]], timeout: float | None = None, **options: Unpack[Raising]
        ) -> tuple[A, B]: ...
        @overload
        async def aget(
            self,
            futures: tuple[ObjectHandle[A], ObjectHandle[B], ObjectHandle[C]],
            timeout: float | None = None,
            **options: Unpack[Raising],
        ) -> tuple[A, B, C]: ...
        @overload
        async def aget(
            self, futures: tuple[ObjectHandle[R], ...], timeout: float | None = None, **options: Unpack[Raising]
        ) -> tuple[R, ...]: ...
        @overload
        async def aget(
            self, futures: Mapping[K, ObjectHandle[R]], timeout: float | None = None, **options: Unpack[Raising]
        ) -> dict[K, R]: ...
        @overload
        async def aget(
            self, futures: Iterable[ObjectHandle[R]], timeout: float | None = None, **options: Unpack[Raising]
        ) -> list[R]: ...
        @overload
        async def aget(
            self, futures: RunnerService[..., R], timeout: float | None = None, **options: Unpack[Raising]
        ) -> list[R]: ...
        @overload
        async def aget(self, futures: Any, timeout: float | None = None, *, return_exceptions: bool = False) -> Any: ...

    async def aget(self, futures: Any, timeout: float | None = None, *, return_exceptions: bool = False) -> Any:
        """Return what `get` returns, from a coroutine: other tasks of the event loop go on meanwhile.

        Raises
        ------
        asyncio.CancelledError
            The task, or a call, was cancelled. Calls that nobody else waits for are dropped, if they have not begun.
        """
        self._check_open()
        return await gather.aget(_one_call(futures), timeout, return_exceptions)

    if TYPE_CHECKING:

        @overload
        async def gather(self, *futures: ObjectHandle[R], return_exceptions: Literal[False] = False) -> list[R]: ...
        @overload
        async def gather(self, *futures: Any, return_exceptions: bool = False) -> list[Any]: ...

    async def gather(self, *futures: Any, return_exceptions: bool = False) -> list[Any]:
        """Return the values of futures as a list, as `asyncio.gather` does; a task for each of them is not needed."""
        self._check_open()
        return await gather.aget(list(futures), None, return_exceptions)  # type: ignore[no-any-return]

    if TYPE_CHECKING:

        @overload
        def wait(self, futures: Any, timeout: float | None = None, *, num_returns: None = None) -> None: ...
        @overload
        def wait(
            self, futures: Iterable[F], timeout: float | None = None, *, num_returns: int
        ) -> tuple[list[F], list[F]]: ...
        @overload
        def wait(
            self, futures: Any, timeout: float | None = None, *, num_returns: int
        ) -> tuple[list[ObjectFuture[Any]], list[ObjectFuture[Any]]]: ...

    def wait(self, futures: Any, timeout: float | None = None, *, num_returns: int | None = None) -> Any:
        """Wait as `get`, without reading the values: return when all have completed, raise the first error.

        Parameters
        ----------
        futures, timeout
            As for `get`.
        num_returns : int, optional
            Return as soon as so many futures are done, or the time is up, a pair: those that are done, failed ones too, and
            the others, both in the order given.
        """
        self._check_open()
        if num_returns is not None:
            return gather.wait_for_some(_one_call(futures), timeout, num_returns)
        gather.wait(_one_call(futures), timeout)
        return None

    if TYPE_CHECKING:

        @overload
        def ref(self, futures: ObjectHandle[R]) -> ObjectRef[R]: ...
        @overload
        def ref(self, futures: Mapping[K, ObjectHandle[R]]) -> dict[K, ObjectRef[R]]: ...
        @overload
        def ref(self, futures: tuple[ObjectHandle[R], ...]) -> tuple[ObjectRef[R], ...]: ...
        @overload
        def ref(self, futures: Iterable[ObjectHandle[R]]) -> list[ObjectRef[R]]: ...
        @overload
        def ref(self, futures: Any) -> Any: ...

    def ref(self, futures: Any) -> Any:
        """Wait as `get`; return an `ObjectRef` in place of each value."""
        self._check_open()
        return gather.ref(_one_call(futures))

    if TYPE_CHECKING:

        @overload
        def select(self, futures: F, timeout: float | None = None, *, progress: Progress = None) -> Selection[F]: ...
        @overload
        def select(
            self, futures: Iterable[F], timeout: float | None = None, *, progress: Progress = None
        ) -> Selection[F]: ...
        @overload
        def select(
            self, futures: RunnerService[..., R], timeout: float | None = None, *, progress: Progress = None
        ) -> Selection[ObjectFuture[R]]: ...

    def select(self, futures: Any, timeout: float | None = None, *, progress: Progress = None) -> Selection[Any]:
        """Return an iterator over futures as they complete, each once, failed ones too; `async for` takes it as well.

        Parameters
        ----------
        futures : iterable of futures and refs
        timeout : float, optional
            Seconds for all of them together.
        progress : bool, str or callable, optional
            As for `get`.

        Raises
        ------
        TimeoutError
            From the iterator: none has completed in the time left.
        TypeError
            An item is no future.
        """
        self._check_open()
        return select(_one_call(futures), timeout, progress)

    as_completed = select

    def cancel(self, futures: Any, force: bool = False) -> int:
        """Cancel the calls of futures, and every call that depends on one of them; return how many of them are cancelled.

        A call that has begun goes on, unless `force`. `get` of a cancelled one raises `concurrent.futures.CancelledError`.

        Parameters
        ----------
        futures : future, list, tuple, dict or generator
            As for `get`; refs, and what is no future, are passed over.
        force : bool
            End calls that have begun, with their workers: see `ObjectFuture.cancel`.

        Raises
        ------
        TypeError
            `futures` is neither a future nor a container, or `force` no bool.
        """
        self._check_open()
        return gather.cancel(futures, force)


def _one_call(futures: Any) -> Any:
    """Return one call of a function service, as a list of one, in its place; anything else as it is."""
    if not isinstance(futures, RunnerService):
        return futures
    if stands_for_call(futures):
        return [futures()]
    raise TypeError(
        f"futures: expected futures or a function service, got {futures!r}; call one of its methods and pass what that "
        f"returns, as in rr.get(service.{example_method(futures)}(...))"
    )
