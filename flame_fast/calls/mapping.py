"""`map` and `starmap` of services and their methods: many items in few calls."""

from __future__ import annotations

import itertools

from flame_fast.engine.spec import MapOptions
from flame_fast.kernels.runtime import CallTarget, check_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Concatenate, Literal, ParamSpec, TypeAlias, TypedDict, TypeVar, Unpack, overload

    from flame_fast.calls.progress import Progress
    from flame_fast.engine.protocol import Engine, Future, Results
    from flame_fast.kernels.runtime import ObjectHandle

    P = ParamSpec("P")
    Q = ParamSpec("Q")
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    R = TypeVar("R")

    #: Futures of the values of one argument.
    Futures: TypeAlias = Iterable[ObjectHandle[Any]]

    class MapKeywords(TypedDict, total=False):
        """Options of `map` and `starmap` that do not change the type of its results."""

        chunksize: int | None
        ordered: bool
        timeout: float | None
        progress: Progress

    class StrictKeywords(MapKeywords, total=False):
        """Options of `map` with which every result is one that a call returned."""

        strict: bool
        return_exceptions: Literal[False]


class MappedTarget(CallTarget["P", "R"]):
    """A service or a method, called once for each item of an iterable."""

    __slots__ = ()

    def _engine_of_map(self) -> tuple[Engine, int]:
        """Return the engine, and how many calls to make ahead per worker if each item needs a call of its own, else 0."""
        raise NotImplementedError

    if TYPE_CHECKING:

        @overload
        def map(
            self: MappedTarget[Concatenate[A, Q], R], a: Iterable[A], /, **options: Unpack[StrictKeywords]
        ) -> Results[R]: ...
        @overload
        def map(
            self: MappedTarget[Concatenate[A, B, Q], R], a: Iterable[A], b: Iterable[B], /, **options: Unpack[StrictKeywords]
        ) -> Results[R]: ...
        @overload
        def map(
            self: MappedTarget[Concatenate[A, B, C, Q], R],
            a: Iterable[A],
            b: Iterable[B],
            c: Iterable[C],
            /,
            *more: Iterable[Any],
            **options: Unpack[StrictKeywords],
        ) -> Results[R]: ...
        @overload
        def map(self, *futures: Futures, **options: Unpack[StrictKeywords]) -> Results[R]: ...
        @overload
        def map(
            self, a: Futures, b: Iterable[Any], /, *more: Iterable[Any], **options: Unpack[StrictKeywords]
        ) -> Results[R]: ...
        @overload
        def map(
            self, a: Iterable[Any], b: Futures, /, *more: Iterable[Any], **options: Unpack[StrictKeywords]
        ) -> Results[R]: ...
        @overload
        def map(
            self, *iterables: Iterable[Any], strict: bool = False, return_exceptions: bool, **options: Unpack[MapKeywords]
        ) -> Results[R | BaseException]: ...

    def map(
        self,
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        ordered: bool = True,
        timeout: float | None = None,
        strict: bool = False,
        return_exceptions: bool = False,
        progress: Progress = None,
    ) -> Results[Any]:
        """Call the service once for each item; return an iterator over the results.

        Many items travel in one call. Results come lazily: the iterator takes a bounded number of items ahead of what it has
        given out, so the iterables may be endless.

        Parameters
        ----------
        *iterables : iterable
            One argument of each call each; it ends with the shortest. Futures among the items arrive as their values.
        chunksize : int, optional
            Items in one call, at least 1; by default as many as take about a millisecond, measured on the way.
        ordered : bool
            Results come in the order of the items; if False, as calls finish.
        timeout : float, optional
            Seconds from now; the iterator raises TimeoutError when a result is not there by then, and ends.
        strict : bool
            Iterables of different lengths are a ValueError, as for `zip`.
        return_exceptions : bool
            Give out an item's exception in place of its result, and go on; by default it is raised and the iterator ends.
        progress : bool, str or callable, optional
            Show how many items are done: see `Runner.get`.

        Raises
        ------
        ValueError
            The chunksize is no integer of at least 1.
        TypeError
            The service is not callable, or an argument is no iterable.
        Exception
            From the iterator, in its turn: what the call of an item, or an iterable itself, raised. A note says which item
            it was, by its number from 0 and its repr.

        Notes
        -----
        The iterator is for one thread at a time, or for `async for`. The first items are queued at once. Where a worker
        dies, all items that travelled in the same call fail with it; `chunksize=1` keeps them apart.

        Examples
        --------
        >>> from flame_fast import Runner
        >>> with Runner("mapping", workers=1) as rr:
        ...     print(list(rr.service(pow).map([2, 3], [5, 2])))
        ...     print(list(rr.service(max).starmap([(1, 2), (7, 5, 6)])))
        [32, 9]
        [2, 7]
        """
        if not iterables:
            raise TypeError("map: expected at least one iterable")
        for iterable in iterables:
            if not hasattr(type(iterable), "__iter__") and not hasattr(type(iterable), "__getitem__"):
                hint = "; did you mean chunksize=?" if isinstance(iterable, int) else ""
                raise TypeError(f"map: expected iterables, but {iterable!r} is not iterable{hint}")
        star = len(iterables) > 1
        items = zip(*iterables, strict=strict) if star else iterables[0]
        options = _options(iterables, chunksize, ordered, timeout, return_exceptions, star=star)
        return self._mapped(items, options, progress)

    if TYPE_CHECKING:

        @overload
        def starmap(
            self,
            iterable: Iterable[Iterable[Any]],
            *,
            return_exceptions: Literal[False] = False,
            **options: Unpack[MapKeywords],
        ) -> Results[R]: ...
        @overload
        def starmap(
            self, iterable: Iterable[Iterable[Any]], *, return_exceptions: bool, **options: Unpack[MapKeywords]
        ) -> Results[R | BaseException]: ...

    def starmap(
        self,
        iterable: Iterable[Iterable[Any]],
        *,
        chunksize: int | None = None,
        ordered: bool = True,
        timeout: float | None = None,
        return_exceptions: bool = False,
        progress: Progress = None,
    ) -> Results[Any]:
        """Call the service as `service(*item)` for each item; otherwise as `map`."""
        options = _options((iterable,), chunksize, ordered, timeout, return_exceptions, star=True)
        return self._mapped(iterable, options, progress)

    def _one_by_one(self, length: int | None) -> Callable[..., Future]:
        """Return what makes the calls of a map's items, one after the other: they have numbers as those of chunks do."""
        numbers = self.numbers_of_map(length)
        if numbers is None:
            return self
        items = itertools.count()
        return lambda *values: self.call_as(numbers.of(next(items)), values)

    def _mapped(self, items: Iterable[Any], options: MapOptions, progress: Progress) -> Results[Any]:
        engine, ahead = self._engine_of_map()
        results: Results[Any]
        if ahead:
            from flame_fast.calls.separate_calls import SeparateCalls  # few programs need it

            results = SeparateCalls(self._one_by_one(options.length), items, options, ahead * engine.workers + 1)
        else:
            results = engine.map(self, items, options)
        if progress is None or progress is False:
            return results
        from flame_fast.calls.progress import followed

        return followed(results, progress, options.length)


def _options(
    iterables: tuple[Any, ...],
    chunksize: int | None,
    ordered: bool,
    timeout: float | None,
    return_exceptions: bool,
    *,
    star: bool,
) -> MapOptions:
    if chunksize is not None and (isinstance(chunksize, bool) or not isinstance(chunksize, int) or chunksize < 1):
        raise ValueError(f"chunksize: expected an integer of at least 1, or None, got {chunksize!r}")
    for name, value in (("ordered", ordered), ("return_exceptions", return_exceptions)):
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected True or False, got {value!r}")
    lengths = [len(one) if hasattr(type(one), "__len__") else None for one in iterables]
    known = [length for length in lengths if length is not None]
    return MapOptions(
        chunksize=chunksize,
        timeout=None if timeout is None else check_timeout(timeout),
        ordered=ordered,
        star=star,
        return_exceptions=return_exceptions,
        length=min(known) if len(known) == len(lengths) else None,
    )
