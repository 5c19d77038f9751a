# `service.map`: many items in few calls, their values in order, lazily, with a bounded look-ahead.
#
# A chunk is one task. Its size grows until a chunk takes CHUNK_NS by the workers' own measure, so that the cost of a task is
# spread over enough items, and no further, so that the workers end at about the same time.

cdef enum:
    CHUNK_NS = 1_000_000
    MOST_ITEMS = 1 << 16        # of a chunk
    CHUNK_GROWTH = 8            # at most, from one measure to the next
    AHEAD_PER_WORKER = 2        # chunks queued or running, per worker, before the oldest is waited for


cdef class MapResults:
    """The iterator that `service.map` returns. Not safe for several threads at a time."""
    cdef CallTarget target
    cdef object source          # an iterator; None once it is exhausted
    cdef object pending         # deque of futures, the oldest first
    cdef list values            # of the chunk being given out
    cdef Py_ssize_t position
    cdef bytes error            # of the item after `values`
    cdef object problem         # what the source raised, or queueing an item
    cdef object waiting         # an item taken from the source that begins the next chunk
    cdef Py_ssize_t chunk
    cdef Py_ssize_t share       # the most items of a chunk that leaves every worker several
    cdef bint fixed
    cdef Py_ssize_t ahead

    def __init__(self, CallTarget target, iterable, chunksize=None):
        from collections import deque
        self.target = target
        self.source = iter(iterable)
        self.pending = deque()
        self.values = []
        self.fixed = chunksize is not None
        self.chunk = chunksize if self.fixed else 1
        self.ahead = AHEAD_PER_WORKER * target.runtime.memory.header.workers + 1
        self.share = MOST_ITEMS
        if hasattr(type(iterable), "__len__"):
            self.share = max(1, min(MOST_ITEMS, len(iterable) // (2 * self.ahead)))
        self.fill()

    def __iter__(self):
        return self

    def __next__(self):
        while self.position >= len(self.values):
            self.next_chunk()
        value = self.values[self.position]
        self.values[self.position] = None       # what the user has let go of is gone
        self.position += 1
        return value

    cdef int fill(self) except -1:
        while self.source is not None and len(self.pending) < self.ahead:
            items = self.next_items()
            if items:
                self.queue(items)
        return 0

    cdef int queue(self, list items) except -1:
        """Queues a chunk; one that cannot be, item by item, so that what is wrong comes in its turn."""
        try:
            self.pending.append(self.target.queue((items,), 1, (), KIND_MAP))
            return 0
        except BaseException as problem:
            if len(items) == 1:
                self.source = None
                self.problem = problem
                return 0
        for item in items:
            if self.problem is None:
                self.queue([item])
        return 0

    cdef list next_items(self):
        """The items of the next chunk. A future is one by itself: its failure is no other item's."""
        cdef list items = []
        cdef Py_ssize_t i
        try:
            for i in range(self.chunk):
                item = next(self.source) if self.waiting is None else self.waiting
                self.waiting = None
                if isinstance(item, Handle):
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
        return items

    cdef int next_chunk(self) except -1:
        cdef ObjectFuture future
        if self.error is not None:
            error = self.error
            self.end()
            raise self.target.runtime.pickling.load_error(*read_error(self.target.runtime, error))
        if not self.pending:
            problem = self.problem
            self.end()
            raise StopIteration if problem is None else problem
        future = self.pending.popleft()
        try:
            nanoseconds, self.values, self.error = future.get()
        except BaseException:                   # of the whole chunk: its worker died, an input failed, the runner was closed
            self.end()
            raise
        self.position = 0
        if not self.fixed:
            self.measure(nanoseconds)
        self.fill()
        return 0

    cdef void end(self) noexcept:
        """Nothing follows."""
        self.source = self.error = self.problem = self.waiting = None
        self.values = []
        self.position = 0
        self.pending.clear()

    cdef void measure(self, int64_t nanoseconds) noexcept:
        cdef Py_ssize_t count = len(self.values), best
        if count:
            best = <Py_ssize_t> (CHUNK_NS * <double> count / max(nanoseconds, 1))
            self.chunk = max(1, min(best, self.chunk * CHUNK_GROWTH, self.share))


cdef tuple read_error(Calls runtime, bytes error):
    cdef const char *at = PyBytes_AS_STRING(error)
    return decode_native(&at, runtime, None)
