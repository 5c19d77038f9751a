"""Calls for the chunks of an iterable: a bounded number at a time, each of which has the next one made when it is done.

    source --> fill --> call of a chunk --> worker --> callback of its future: _take, fill

`MapCalls` collects all values for one future, `ItemCalls` gives them out one by one. `fill` reads the source in one thread
at a time, and holds no lock meanwhile: the source is the user's, and may take its time or ask the pool for something.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from concurrent.futures import Future
from functools import partial
from itertools import chain
from queue import SimpleQueue

from flame_fast.errors import WorkerDiedError
from flame_fast.faces.function_services import own_error
from flame_fast.kernels.runtime import with_item

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from flame_fast.kernels.runtime import ObjectFuture


class OutOfTime(Exception):  # noqa: N818
    """No value came in time. It is no TimeoutError, which a call may raise."""


class ChunkTarget:
    """What is called for each chunk.

    Parameters
    ----------
    call : callable
        Makes the call of a chunk of items, the number of the first of which is the second argument.
    single : bool
        A chunk is one item, and its call returns a value, not a list of one.
    as_raised : callable
        Returns the error to raise in place of a call's.
    """

    def __init__(
        self,
        call: Callable[[list[Any], int], ObjectFuture[Any]],
        single: bool,
        as_raised: Callable[[BaseException], BaseException],
    ) -> None:
        self.call = call
        self._single = single
        self._as_raised = as_raised

    def outcome(self, future: ObjectFuture[Any], items: list[Any], first: int) -> tuple[list[Any], BaseException | None]:
        """Return the values of a call that is done, and its error."""
        try:
            error = future.exception()
            if error is None:
                return ([future.get()] if self._single else future.get()), None
        except Exception as problem:  # the runner was closed before the call was done, or a value cannot be read
            error = problem
        if self._single or isinstance(error, WorkerDiedError):
            with_item(error, first, items[0], len(items))
        return [], self._as_raised(error)


class ChunkCalls:
    """The calls for the chunks of an iterable.

    Parameters
    ----------
    target : ChunkTarget
    chunks : iterator of lists
    ahead : int
        Calls that are made and not done at most.
    unfinished : list
        It keeps these while calls are still to be made.

    Notes
    -----
    Safe from any thread. What the source raises takes the place of the chunk that it was asked for.
    """

    def __init__(self, target: ChunkTarget, chunks: Iterator[list[Any]], ahead: int, unfinished: list[ChunkCalls]) -> None:
        self._target = target
        self._unfinished = unfinished
        self._chunks: Iterator[list[Any]] | None = chunks
        self._ahead = ahead
        self._turn = threading.RLock()  # reentrant: under it a garbage collection may cancel these very calls
        self._is_filling = False
        self._items = 0  # read so far
        self._made = 0
        self._undone = 0
        unfinished.append(self)

    def is_queued(self) -> bool:
        """Return whether all calls have been made."""
        return self._chunks is None

    def finish_source(self) -> None:
        """Read the source to its end, whether or not anybody takes the results, as calls are done."""
        raise NotImplementedError

    def cancel(self, error: BaseException | None = None) -> None:
        """Make no more calls; with an error in the place of those that were still to be made, if there were any."""
        with self._turn:
            if self._chunks is None:
                return
            self._end()
            number = self._made
            self._made += error is not None
        if error is not None:
            self._take(number, [], error)

    def _end(self) -> None:
        """Make no more calls. The turn is held."""
        self._chunks = None
        self._unfinished.remove(self)

    def fill(self) -> None:
        """Make calls while there is room. While another thread does so, or this one further up, leave it to that."""
        with self._turn:
            if self._is_filling:
                return
            self._is_filling = True
        try:
            while (chunks := self._next_turn()) is not None:
                self._make_next(chunks)
        except BaseException:  # a Ctrl-C in the source
            self._is_filling = False
            raise

    def _next_turn(self) -> Iterator[list[Any]] | None:
        """Return the source, if another call is to be made; end the filling otherwise, in the same step."""
        with self._turn:
            if self._chunks is not None and self._has_room():
                return self._chunks
            self._is_filling = False
            return None

    def _make_next(self, chunks: Iterator[list[Any]]) -> None:
        problem: Exception | None = None
        items: list[Any] = []
        try:
            items = next(chunks, [])
        except Exception as error:
            problem = error
        with self._turn:
            if self._chunks is None:  # cancelled meanwhile
                return
            if not items:
                self._end()
                if problem is None:
                    self._end_source()
                    return
            number, first = self._made, self._items
            self._made += 1
            self._items += len(items)
        if problem is None:
            problem = self._make(items, number, first)
        if problem is not None:
            self._take(number, [], problem)

    def _make(self, items: list[Any], number: int, first: int) -> Exception | None:
        """Make a call; return what prevents it."""
        try:
            future = self._target.call(items, first)
        except Exception as error:
            return own_error(error)
        with self._turn:
            self._undone += 1
        future.add_done_callback(partial(self._done, items, number, first))
        return None

    def _done(self, items: list[Any], number: int, first: int, future: ObjectFuture[Any]) -> None:
        outcome = self._target.outcome(future, items, first)
        with self._turn:
            self._undone -= 1
        self._take(number, *outcome)
        self._go_on()

    def _has_room(self) -> bool:
        """Return whether a call is to be made now. The turn is held."""
        return self._undone < self._ahead

    def _take(self, number: int, values: list[Any], error: BaseException | None) -> None:
        """Take the outcome of a chunk."""
        raise NotImplementedError

    def _end_source(self) -> None:
        """Take note that there are no more chunks. The turn is held."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """Make more calls, now that one is done."""
        self.fill()


class MapCalls(ChunkCalls):
    """All values of an iterable's chunks, as the value of one future; all calls are made, also after one has failed.

    The future's error is the first one in the order of the items.
    """

    def __init__(self, target: ChunkTarget, chunks: Iterator[list[Any]], ahead: int, unfinished: list[ChunkCalls]) -> None:
        super().__init__(target, chunks, ahead, unfinished)
        self.future: Future[list[Any]] = Future()
        self.future.set_running_or_notify_cancel()
        self._outcomes: dict[int, tuple[list[Any], BaseException | None]] = {}

    def finish_source(self) -> None:
        pass  # it does so anyway

    def _take(self, number: int, values: list[Any], error: BaseException | None) -> None:
        with self._turn:
            self._outcomes[number] = (values, error)
            self._look_at_end()

    def _end_source(self) -> None:
        self._look_at_end()

    def _look_at_end(self) -> None:
        if self._chunks is not None or len(self._outcomes) < self._made:
            return
        outcomes = [self._outcomes.pop(number) for number in range(self._made)]
        error = next((error for _, error in outcomes if error is not None), None)
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(list(chain.from_iterable(values for values, _ in outcomes)))


class ItemCalls(ChunkCalls):
    """The values of an iterable's chunks, given out one by one.

    It reads the source as values are taken: so many chunks ahead at most, and, while a value waits to be taken, one for each
    that is. So a slow source keeps no value back.

    Parameters
    ----------
    ordered : bool
        In the order of the items; by False, as calls are done.
    may_wait : bool
        The source may wait, perhaps for values of its own calls: a thread reads it.
    """

    def __init__(
        self,
        target: ChunkTarget,
        chunks: Iterator[list[Any]],
        ahead: int,
        unfinished: list[ChunkCalls],
        ordered: bool,
        may_wait: bool,
    ) -> None:
        super().__init__(target, chunks, ahead, unfinished)
        self._asked: SimpleQueue[bool] | None = None
        if may_wait:
            self._asked = SimpleQueue()
            threading.Thread(
                target=_read, args=(weakref.ref(self), self._asked), name="flame-pool-reader", daemon=True
            ).start()
            weakref.finalize(self, self._asked.put, False).atexit = False
        self._arrived = threading.Condition(self._turn)
        self._ordered = ordered
        self._outcomes: dict[int, tuple[list[Any], BaseException | None]] = {}  # by the chunk's number, as they came
        self._values: deque[Any] = deque()  # of the chunk that is given out
        self._taken = 0  # chunks
        self._owes_one = True  # a call for the chunk taken last
        self._is_eager = False

    def finish_source(self) -> None:
        self.be_eager()
        self.fill()

    def read(self) -> None:
        """Make calls while there is room, in the thread that reads the source, if there is one."""
        if self._asked is None:
            self.fill()
        elif not self._is_filling:
            self._asked.put(True)

    def _end(self) -> None:
        super()._end()
        if self._asked is not None:
            self._asked.put(False)

    def be_eager(self) -> None:
        """Wait no longer for values to be taken before more calls are made: from the next call that is done."""
        self._is_eager = True

    def next_value(self, timeout: float | None) -> Any:
        """Return the next value, or raise its call's error.

        Raises
        ------
        OutOfTime
            The time is up.
        StopIteration
            There is none.
        """
        try:
            return self._values.popleft()
        except IndexError:
            pass
        self.read()
        with self._arrived:
            while not self._values:
                if not self._arrived.wait_for(lambda: self._is_ready() or self._is_over(), timeout):
                    raise OutOfTime
                if not self._is_ready():
                    raise StopIteration
                values, error = self._outcomes.pop(self._taken if self._ordered else next(iter(self._outcomes)))
                self._taken += 1
                self._owes_one = True
                if error is not None:
                    raise error
                self._values.extend(values)
            return self._values.popleft()

    def _is_ready(self) -> bool:
        return self._taken in self._outcomes if self._ordered else bool(self._outcomes)

    def _is_over(self) -> bool:
        return self._chunks is None and self._taken == self._made

    def _has_room(self) -> bool:
        if self._is_eager:
            return self._undone < self._ahead
        if self._made - self._taken >= self._ahead or (self._is_ready() and not self._owes_one):
            return False
        self._owes_one = False
        return True

    def _take(self, number: int, values: list[Any], error: BaseException | None) -> None:
        with self._arrived:
            self._outcomes[number] = (values, error)
            self._arrived.notify_all()

    def _end_source(self) -> None:
        self._arrived.notify_all()

    def _go_on(self) -> None:
        if self._is_eager:
            self.fill()


def _read(reference: weakref.ref[ItemCalls], asked: SimpleQueue[bool]) -> None:
    """Read a source whenever it is asked for; holds the calls only meanwhile."""
    while asked.get():
        calls = reference()
        if calls is None:
            return
        calls.fill()
        del calls
