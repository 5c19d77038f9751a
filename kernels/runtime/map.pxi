# `service.map`: many items in few calls; values come in order and lazily. Backpressure: the look-ahead is bounded.
#
# A chunk is one task. Its size grows until a chunk takes CHUNK_NS by the workers' own measure, which spreads the cost of a
# task over enough items. It grows no further, so that the workers end at about the same time.
# uses: reader, integer_list, decode, timeouts, waits, outcomes, notifier, future, call_policy, client, vectorcall

from libc.stdint cimport int64_t
from .core.layout cimport FAILED, KIND_MAP, KIND_NATIVE, MAP_ALL, MAP_STAR, RESULT, Slot
from .core.lookup cimport is_finished, status_of

cdef enum:
    CHUNK_NS = 1_000_000
    MOST_ITEMS = 1 << 16        # of a chunk
    CHUNK_GROWTH = 8            # the largest factor from one measure to the next
    AHEAD_PER_WORKER = 2        # chunks queued or running, per worker, before the iterator waits for the oldest
    NUMBER_BYTES = 9            # of an integer as `encode_native` writes it
    REPR_CHARACTERS = 100       # of an item in the note of its failure

cdef class Chunk:
    """Some items, and the call that they travel in."""
    cdef ObjectFuture future
    cdef object items           # as they travel: a list, or `Int64List`
    cdef Py_ssize_t first       # number of the first item, from 0

    cdef object item(self, Py_ssize_t position):
        return (<Int64List> self.items).at[position] if type(self.items) is Int64List else self.items[position]

cdef class MapResults:
    """The iterator that `service.map` returns. Not safe for several threads at a time.

    An eager one queues all its items, whether or not somebody takes their results: each chunk that is done queues the next,
    in the thread of the callbacks.
    """
    cdef CallTarget target
    cdef object source          # an iterator; None once it is exhausted
    cdef dict pending           # slot -> `Chunk`, the oldest first
    cdef AnyWait any            # waits for one of them; None: they are read in order
    cdef int64_t deadline
    cdef uint32_t mode          # MAP_*
    cdef Py_ssize_t length      # items of the source that are not given out; -1: unknown
    cdef Py_ssize_t queued      # items
    cdef Chunk current
    cdef Py_ssize_t count       # values of the current chunk
    cdef Py_ssize_t position    # of the next one of them
    cdef list values            # of the current chunk; None if all are integers or all floats: they are read in place
    cdef const char *numbers    # where these are
    cdef bint integers
    cdef dict failures          # position -> error, or its bytes; None: there are none
    cdef object problem         # what the source, or queueing an item, raised
    cdef object waiting         # an item of the source that begins the next chunk
    cdef Py_ssize_t chunk
    cdef Py_ssize_t share       # the most items of a chunk that leaves every worker several
    cdef bint fixed
    cdef Py_ssize_t ahead
    cdef object turn            # a lock; None: it is not eager
    cdef MapNumbers item_numbers        # for `task_key`; None: the items have none

    @classmethod
    def __class_getitem__(cls, value):
        """Return the type with that of its results, for annotations."""
        return GenericAlias(cls, value)

    def __init__(self, CallTarget target, iterable, chunksize=None, timeout=None, bint ordered=True, bint star=False,
                 bint all_outcomes=False, length=None, bint eager=False, ahead=None):
        self.target = target
        self.deadline = deadline_of(timeout)
        self.source = iter(iterable)
        self.pending = {}
        self.mode = star * MAP_STAR | all_outcomes * MAP_ALL
        if not ordered:
            self.any = AnyWait.__new__(AnyWait)
            begin_any(self.any, &target.runtime.memory)
        self.fixed = chunksize is not None
        self.chunk = chunksize if self.fixed else 1
        self.ahead = AHEAD_PER_WORKER * target.runtime.memory.header.workers + 1 if ahead is None else ahead
        self.share = MOST_ITEMS
        self.length = -1 if length is None else length
        if self.length >= 0:
            self.share = max(1, min(MOST_ITEMS, self.length // (2 * self.ahead)))
        self.item_numbers = target.numbers_of_map(length)
        if eager:
            import threading
            self.turn = threading.RLock()
        self.fill_up()

    def __del__(self):
        self.cancel_pending()

    def __iter__(self):
        return self

    def __length_hint__(self):
        return self.length if self.length >= 0 else NotImplemented

    def __next__(self):
        return self.next_value()

    cdef object next_value(self):
        cdef Py_ssize_t position
        while self.position >= self.count:
            self.next_chunk()
        position = self.position
        self.position += 1
        if self.length > 0:
            self.length -= 1
        if self.failures is not None and position in self.failures:
            error = self.failure(position)
            if self.turn is None:
                return error
            self.cancel()
            raise error
        if self.values is None:
            if not self.target.runtime.is_mine():
                self.target.runtime.check()
            return uniform_item(self.numbers + 8 * position, self.integers)
        value = self.values[position]
        self.values[position] = None            # a value that the user drops is freed
        return value

    def __aiter__(self):
        return self

    def __anext__(self):
        from flame_fast.kernels.runtime.awaiting import next_of
        return next_of(self)

    def awaited(self):
        """Return futures of which one must be done before the next value can be given out; none: it can be now."""
        if self.position < self.count or not self.pending or self.any is not None and self.any.found:
            return []
        chunks = list(self.pending.values())
        return [(<Chunk> chunk).future for chunk in (chunks[:1] if self.any is None else chunks)]

    def is_queued(self):
        """Return whether all items have been queued."""
        return self.source is None

    def cancel(self):
        """Drop what has not been given out; calls that have begun go on."""
        if self.turn is None:
            self.end()
            return
        self.turn.acquire()
        try:
            self.end()
        finally:
            self.turn.release()

    cdef int fill_up(self) except -1:
        if self.turn is None:
            return self.fill()
        self.turn.acquire()
        try:
            self.fill()
        finally:
            self.turn.release()
        return 0

    cdef int fill(self) except -1:
        """Queue chunks up to the bound of the look-ahead."""
        while self.source is not None and (
                len(self.pending) < self.ahead or self.turn is not None and self.undone() < self.ahead):
            items = self.next_items()
            if items is not None:
                self.enqueue(items)
        return 0

    cdef Py_ssize_t undone(self) noexcept:
        """Return how many of the chunks queued last are not done."""
        cdef Py_ssize_t looked = 0, count = 0
        for chunk in reversed(self.pending.values()):
            count += not is_finished(&self.target.runtime.memory, (<Chunk> chunk).future.index)
            looked += 1
            if looked == self.ahead:
                break
        return count

    def _go_on(self, ObjectFuture future):
        """Queue more, now that a chunk is done."""
        self.turn.acquire()
        try:
            if not self.fixed and self.source is not None and not future.has_failed():
                self.measure(chunk_nanoseconds(future), chunk_length(self.pending.get(future.index)))
            self.fill()
        finally:
            self.turn.release()

    cdef int enqueue(self, object items) except -1:
        """Queue a chunk; if that fails, queue its items one by one, so that the error comes in its turn."""
        cdef Chunk chunk = Chunk.__new__(Chunk)
        cdef int64_t number = -1
        try:
            if self.item_numbers is not None:
                number = self.item_numbers.of(self.queued)
            chunk.future = (self.target.enqueue((items,), 1, (), KIND_MAP, number) if self.mode == 0
                            else self.target.enqueue((items, self.mode), 2, (), KIND_MAP, number))
        except BaseException as problem:
            if type(items) is Int64List:
                items = (<Int64List> items).listed()
            if len(items) == 1:
                self.source = None
                self.problem = with_item(problem, self.queued, items[0])
                return 0
        else:
            chunk.items, chunk.first = items, self.queued
            self.queued += len(items)
            self.pending[chunk.future.index] = chunk
            if self.any is not None:
                self.any.add(chunk.future.index, chunk)
            if self.turn is not None:
                notifier_of(self.target.runtime).add(chunk.future, self._go_on)
            return 0
        for item in items:
            if self.problem is None:
                self.enqueue([item])
        return 0

    cdef object next_items(self):
        """Return the items of the next chunk, None if there are none.

        A future is a chunk of its own: its failure fails no other item.
        """
        cdef Int64List numbers = Int64List()
        cdef list items = None
        cdef Py_ssize_t i, most = self.chunk
        if self.item_numbers is not None:
            most = min(most, self.item_numbers.row(self.queued))
        try:
            for i in range(most):
                item = next(self.source) if self.waiting is None else self.waiting
                self.waiting = None
                if items is None:
                    if numbers.add(item):
                        continue
                    items = numbers.listed()
                if self.has_future(item):
                    if items:
                        self.waiting = item
                    else:
                        items.append(item)
                    break
                items.append(item)
        except StopIteration:
            self.source = None
        except BaseException as problem:        # raised in its turn, after the values of the items before it
            self.source = None
            self.problem = problem
        if items is None:
            return numbers if numbers.count else None
        return items

    cdef bint has_future(self, item) except -1:
        if self.mode & MAP_STAR and type(item) is tuple:
            for argument in <tuple> item:
                if isinstance(argument, ObjectHandle):
                    return True
        return isinstance(item, ObjectHandle)

    cdef int next_chunk(self) except -1:
        """Begin the next chunk, or raise what ends the iteration."""
        if self.failures is not None and self.count in self.failures and not self.mode & MAP_ALL:
            error = self.failure(self.count)
            self.end()
            raise error
        if not self.pending:
            problem = self.problem
            self.end()
            raise StopIteration if problem is None else problem
        try:
            self.read(self.finished_chunk())
        except BaseException:                   # of the whole chunk: its worker died, a dependency failed, the runner closed
            self.cancel()
            raise
        self.fill_up()
        return 0

    cdef Chunk finished_chunk(self):
        """Wait for a chunk, and take it out of the pending ones."""
        cdef Chunk chunk
        if self.any is None:
            chunk = next(iter(self.pending.values()))
            self.target.runtime.wait_one(chunk.future, self.deadline)
        else:
            if not self.any.found:
                self.any.look_at_all()
            if not self.any.found:
                self.target.runtime.wait_for(self.any, self.deadline)
            chunk = self.any.found.pop(0)
            self.target.runtime.show_printed()
        del self.pending[chunk.future.index]
        return chunk

    cdef int read(self, Chunk chunk) except -1:
        """Make a finished chunk, as `Worker._run_items` returned it, the current one."""
        cdef Client runtime = self.target.runtime
        cdef Reader source
        self.position = self.count = 0
        self.values = self.failures = None
        self.current = chunk
        failed = None
        if not is_uniform_chunk(chunk.future):
            try:
                nanoseconds, self.values, failed = runtime.value_of(chunk.future.index)
            except Exception as problem:
                with_item(problem, chunk.first, chunk.item(0), len(chunk.items))
                if not self.mode & MAP_ALL:
                    raise
                self.count = len(chunk.items)
                self.failures = {i: problem for i in range(self.count)}
                return 0
            self.count = len(self.values)
        else:
            source = reader_of(runtime, &runtime.memory.slots[chunk.future.index], RESULT)
            take(runtime, &source, TUPLE_HEAD)
            nanoseconds = decode_native(&source, runtime, None)
            self.integers = take_tag(runtime, &source) == b'q'
            self.count = take_count(runtime, &source, 8)
            self.numbers = take(runtime, &source, 8 * self.count)
            failed = decode_native(&source, runtime, None)
        if failed:
            self.failures = {self.count: failed} if type(failed) is bytes else failed
        if not self.fixed:
            self.measure(nanoseconds, self.count)
        return 0

    cdef object failure(self, Py_ssize_t position):
        """Return the error of an item of the current chunk, with a note that says which one it is."""
        failed = self.failures[position]
        if type(failed) is not bytes:           # of the whole chunk
            return failed
        error = self.target.runtime.pickling.load_error(*read_failure(self.target.runtime, reader_of_bytes(failed)))
        return with_item(error, self.current.first + position, self.current.item(position))

    cdef void end(self) noexcept:
        """Drop all that would follow."""
        self.source = self.problem = self.waiting = None
        self.values = self.failures = None
        self.current = None
        self.position = self.count = 0
        self.length = 0
        self.cancel_pending()

    cdef void cancel_pending(self) noexcept:
        """Leave no chunk behind that has not begun."""
        try:
            while self.pending:
                (<Chunk> self.pending.popitem()[1]).future.cancel()
        except Exception:
            pass            # in a forked child, they are its parent's

    cdef void measure(self, int64_t nanoseconds, Py_ssize_t count) noexcept:
        """Set the size of the next chunks by the time that one of so many items took."""
        cdef Py_ssize_t best
        if count and nanoseconds >= 0:
            best = <Py_ssize_t> (CHUNK_NS * <double> count / max(nanoseconds, 1))
            self.chunk = max(1, min(best, self.chunk * CHUNK_GROWTH, self.share))

cdef class TakenResults:
    """The iterator over the results of an eager map. Once begun and left, or closed, it cancels what has not begun."""
    cdef MapResults results
    cdef object as_raised       # returns the error to raise in place of an item's
    cdef bint begun

    @classmethod
    def __class_getitem__(cls, value):
        """Return the type with that of its results, for annotations."""
        return GenericAlias(cls, value)

    def __init__(self, MapResults results not None, as_raised):
        self.results = results
        self.as_raised = as_raised

    def __iter__(self):
        return self

    def __next__(self):
        self.begun = True
        try:
            return self.results.next_value()
        except StopIteration:
            raise
        except Exception as error:
            raise self.as_raised(error)

    def __length_hint__(self):
        return self.results.__length_hint__()

    def close(self):
        """Give out no more."""
        self.results.cancel()

    def __del__(self):
        if self.begun:
            self.results.cancel()

cpdef object with_item(error, Py_ssize_t number, item, Py_ssize_t count=1):
    """Note on an error which item of a map, or the first of how many, it is of; return the error."""
    try:
        text = repr(item)
    except Exception as problem:
        text = f"a {type(item).__name__} whose repr raises {type(problem).__name__}"
    if len(text) > REPR_CHARACTERS:
        text = text[:REPR_CHARACTERS] + "..."
    note = f"item {number}: {text}" if count == 1 else f"items {number} to {number + count - 1}, the first: {text}"
    if isinstance(error, BaseException) and note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    return error

cdef Py_ssize_t chunk_length(chunk) except -1:
    return 0 if chunk is None else len((<Chunk> chunk).items)

cdef int64_t chunk_nanoseconds(ObjectFuture future) except? -1:
    """Return how long a finished chunk took, without reading its values; -1: it is not known."""
    cdef Slot *slot = &future.runtime.memory.slots[future.index]
    cdef Reader source
    if not slot.result_kind & KIND_NATIVE:
        return -1
    source = reader_of(future.runtime, slot, RESULT)
    take(future.runtime, &source, TUPLE_HEAD)
    return decode_native(&source, future.runtime, None)

cdef bint is_uniform_chunk(ObjectFuture future) except -1:
    """Return whether a finished chunk's values are all integers or all floats, written one after the other."""
    cdef Slot *slot = &future.runtime.memory.slots[future.index]
    cdef Reader source
    cdef char tag
    if status_of(slot.state) == FAILED or not slot.result_kind & KIND_NATIVE:
        return False
    source = reader_of(future.runtime, slot, RESULT)
    take(future.runtime, &source, TUPLE_HEAD + NUMBER_BYTES)
    tag = take_tag(future.runtime, &source)
    return tag == b'q' or tag == b'd'
