# One process's view of the segment: mapping it, who this process is in it, what all parts below build on.

cdef class Segment:
    """The mapping, this process's entry in the table, and blocks of the arena. Unmapped when the last future is gone."""
    cdef Memory memory
    cdef uint64_t mapped_bytes
    cdef uint32_t me
    cdef int generation
    cdef int doorbell
    cdef bint closed
    cdef str ending                     # how it was closed, for what was not finished then
    cdef str broken                     # why nothing runs any more, though nobody closed it
    cdef Scratch scratch
    cdef unsigned long task_thread
    cdef uint32_t next_lane
    cdef uint32_t warm_seen             # Header.warm_left when this worker last found nothing to load ahead
    cdef set warmed                     # services it has counted as loaded
    cdef int blocked_threads            # of the running task, waiting for other tasks
    cdef readonly bint inline           # this process runs every task itself, at `run_queued`
    cdef set busy_lanes                 # inline: instances that a task of theirs is running on
    cdef readonly int fd
    cdef readonly str name
    cdef public object pickling         # how values that are not plain are written and read: flame_fast.kernels.pickling

    cdef _map(self, int fd, uint64_t size):
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)
        if base == MAP_FAILED:
            raise MemoryError
        madvise(base, size, MADV_DONTDUMP)      # a core dump of the segment would delay the notice of a death by seconds
        self.memory.base = <char *> base
        self.mapped_bytes = size
        self.fd = fd

    def _become(self, uint32_t index, str name, int doorbell):
        """Turns this attachment into that of entry `index`: what a forked worker does first."""
        self.me = index
        self.name = name
        self.doorbell = doorbell
        self.generation = fork_generation
        self.scratch = Scratch()

    def __dealloc__(self):
        if self.memory.base != NULL:
            munmap(self.memory.base, self.mapped_bytes)

    cdef inline bint is_mine(self) noexcept:
        return self.generation == fork_generation

    cdef int check(self) except -1:
        if self.generation != fork_generation:
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"runner {self.name!r} belongs to the parent of this forked process; make a new Runner here")
        if self.broken is not None:
            raise FlameError(FlameErrorCode.INTERNAL, self.broken)
        if self.closed:
            raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} is closed; make a new Runner")
        return 0

    @property
    def index(self):
        return self.me

    @property
    def doorbell_fd(self):
        return self.doorbell

    @property
    def session(self):
        return self.memory.header.session

    @property
    def workers(self):
        return self.memory.header.workers

    @property
    def cpus(self):
        return self.memory.header.cpus

    @property
    def is_closed(self):
        return bool(self.closed)

    @property
    def is_foreign(self):
        """Whether this process is a forked child of the one that attached."""
        return self.generation != fork_generation

    def set_setup(self, bytes data):
        self.memory.header.setup_bytes = len(data)
        ff_store64(&self.memory.header.setup, self.store(PyBytes_AS_STRING(data), len(data)))

    def get_setup(self):
        if ff_load64(&self.memory.header.setup) == 0:
            return None
        return PyBytes_FromStringAndSize(self.memory.base + self.memory.header.setup, self.memory.header.setup_bytes)

    cdef uint64_t store(self, const char *data, uint64_t nbytes) except 0:
        cdef uint64_t block = arena_take(self.memory.base, nbytes)
        if block == 0:
            raise self.full(nbytes)
        if nbytes:
            memcpy(self.memory.base + block, data, nbytes)
        return block

    cdef object full(self, uint64_t nbytes):
        cdef Header *header = self.memory.header
        free_bytes = max(0, <int64_t> header.limit - <int64_t> header.live_bytes)
        return StoreFullError(nbytes, free_bytes, header.limit)

    def counters(self):
        """What is in use: a dict of live slots, bytes of live blocks, their peak and their limit.

        A debug build adds how many blocks and slots were ever taken and given back.
        """
        cdef Header *header = self.memory.header
        cdef uint32_t i, live = 0
        for i in range(min(ff_load32(&header.slot_high), SLOT_COUNT - SLOT_SPARE)):
            live += status_of(ff_load64(&self.memory.slots[i].state)) != FREE
        counted = {"slots": live, "bytes": header.live_bytes, "peak": header.peak_bytes, "limit": header.limit}
        if FF_DEBUG:
            counted.update(
                blocks_taken=header.blocks_taken, blocks_freed=header.blocks_freed,
                slots_taken=header.slots_taken, slots_freed=header.slots_freed,
            )
        return counted
