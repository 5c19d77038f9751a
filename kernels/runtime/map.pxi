# `service.map`: many items in few calls; values come in order and lazily. Backpressure: the look-ahead is bounded.
#
# A chunk is one task. Its size grows until a chunk takes CHUNK_NS by the workers' own measure, which spreads the cost of a
# task over enough items. It grows no further, so that the workers end at about the same time.
# uses: reader, integer_list, decode, timeouts, outcomes, future, client, vectorcall

from libc.stdint cimport int64_t
from .core.layout cimport FAILED, KIND_MAP, KIND_NATIVE, RESULT, Slot
from .core.lookup cimport status_of

cdef enum:
    CHUNK_NS = 1_000_000
    MOST_ITEMS = 1 << 16        # of a chunk
    CHUNK_GROWTH = 8            # the largest factor from one measure to the next
    AHEAD_PER_WORKER = 2        # chunks queued or running, per worker, before the iterator waits for the oldest
    NUMBER_BYTES = 9            # of an integer as `encode_native` writes it

cdef class MapResults:
    """The iterator that `service.map` returns. Not safe for several threads at a time."""
    cdef CallTarget target
    cdef object source          # an iterator; None once it is exhausted
    cdef object pending         # deque of futures, the oldest first
    cdef Py_ssize_t count       # values of the current chunk
    cdef Py_ssize_t position    # of the next one of them
    cdef list values            # of the current chunk; None if all are integers or all floats: they are read in place
    cdef const char *numbers    # where these are
    cdef bint integers
    cdef ObjectFuture future    # keeps them there
    cdef bytes error            # of the item after `values`
    cdef object problem         # what the source, or queueing an item, raised
    cdef object waiting         # an item of the source that begins the next chunk
    cdef Py_ssize_t chunk
    cdef Py_ssize_t share       # the most items of a chunk that leaves every worker several
    cdef bint fixed
    cdef Py_ssize_t ahead

    def __init__(self, CallTarget target, iterable, chunksize=None):
        from collections import deque
        self.target = target
        self.source = iter(iterable)
        self.pending = deque()
        self.fixed = chunksize is not None
        self.chunk = chunksize if self.fixed else 1
        self.ahead = AHEAD_PER_WORKER * target.runtime.memory.header.workers + 1
        self.share = MOST_ITEMS
        if hasattr(type(iterable), "__len__"):
            self.share = max(1, min(MOST_ITEMS, len(iterable) // (2 * self.ahead)))
        self.fill()

    def __del__(self):
        self.cancel_pending()

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t position
        while self.position >= self.count:
            self.next_chunk()
        position = self.position
        self.position += 1
        if self.values is None:
            if not self.target.runtime.is_mine():
                self.target.runtime.check()
            return uniform_item(self.numbers + 8 * position, self.integers)
        value = self.values[position]
        self.values[position] = None            # a value that the user drops is freed
        return value

    cdef int fill(self) except -1:
        """Queue chunks up to the bound of the look-ahead."""
        while self.source is not None and len(self.pending) < self.ahead:
            items = self.next_items()
            if items is not None:
                self.enqueue(items)
        return 0

    cdef int enqueue(self, object items) except -1:
        """Queue a chunk; if that fails, queue its items one by one, so that the error comes in its turn."""
        try:
            self.pending.append(self.target.enqueue((items,), 1, (), KIND_MAP))
            return 0
        except BaseException as problem:
            if type(items) is Int64List:
                items = (<Int64List> items).listed()
            if len(items) == 1:
                self.source = None
                self.problem = problem
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
        cdef Py_ssize_t i
        try:
            for i in range(self.chunk):
                item = next(self.source) if self.waiting is None else self.waiting
                self.waiting = None
                if items is None:
                    if numbers.add(item):
                        continue
                    items = numbers.listed()
                if isinstance(item, ObjectHandle):
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

    cdef int next_chunk(self) except -1:
        """Begin the next chunk, or raise what ends the iteration."""
        if self.error is not None:
            error = self.error
            self.end()
            raise self.target.runtime.pickling.load_error(*read_failure(self.target.runtime, reader_of_bytes(error)))
        if not self.pending:
            problem = self.problem
            self.end()
            raise StopIteration if problem is None else problem
        try:
            self.read(self.pending.popleft())
        except BaseException:                   # of the whole chunk: its worker died, a dependency failed, the runner closed
            self.end()
            raise
        self.fill()
        return 0

    cdef int read(self, ObjectFuture future) except -1:
        """Wait for a chunk, as `Worker._run_items` returned it, and make it the current one."""
        cdef Client runtime = self.target.runtime
        cdef Reader source
        self.position = self.count = 0
        self.values = self.future = None
        self.target.runtime.wait_one(future, deadline_of(None))
        if not is_uniform_chunk(future):
            nanoseconds, self.values, self.error = self.target.runtime.value_of(future.index)
            self.count = len(self.values)
        else:
            source = reader_of(runtime, &runtime.memory.slots[future.index], RESULT)
            take(runtime, &source, TUPLE_HEAD)
            nanoseconds = decode_native(&source, runtime, None)
            self.integers = take_tag(runtime, &source) == b'q'
            self.count = take_count(runtime, &source, 8)
            self.numbers = take(runtime, &source, 8 * self.count)
            self.future = future
            self.error = decode_native(&source, runtime, None)
        if not self.fixed:
            self.measure(nanoseconds)
        return 0

    cdef void end(self) noexcept:
        """Drop all that would follow."""
        self.source = self.error = self.problem = self.waiting = None
        self.values = self.future = None
        self.position = self.count = 0
        self.cancel_pending()

    cdef void cancel_pending(self) noexcept:
        """Leave no chunk behind that has not begun."""
        try:
            while self.pending:
                self.pending.popleft().cancel()
        except Exception:
            pass            # in a forked child, they are its parent's

    cdef void measure(self, int64_t nanoseconds) noexcept:
        """Set the size of the next chunks by the time that the current one took."""
        cdef Py_ssize_t best
        if self.count:
            best = <Py_ssize_t> (CHUNK_NS * <double> self.count / max(nanoseconds, 1))
            self.chunk = max(1, min(best, self.chunk * CHUNK_GROWTH, self.share))

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
