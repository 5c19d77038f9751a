# One process's view of the segment: mapping it, who this process is in it, what all parts below build on.

cdef class Segment:
    """The mapping, this process's entry in the table, and blocks of the arena. Unmapped when the last future is gone."""
    cdef Memory memory
    cdef uint64_t mapped_bytes
    cdef char *arena                    # where values may lie, to the end of the mapping
    cdef char *window                   # the same pages, privately: see views.pxi; NULL: there is no room for it
    cdef void **own                     # views that are mapped by themselves, by address
    cdef Py_ssize_t own_count
    cdef uint64_t device, inode         # of `fd`
    cdef bint between_tasks             # a worker with no user's code running
    cdef uint64_t faults_known          # page faults of this process when it counted last; 0: too long ago
    cdef int calm                       # views in a row that went by without any, up to CALM
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
    cdef bint handler_due               # the memory handler is to be set once more, in the context of tasks
    cdef list pins                      # what forked children hold: see forks.pxi
    cdef object __weakref__
    cdef set busy_lanes                 # inline: instances that a task of theirs is running on
    cdef readonly int fd
    cdef readonly str name
    cdef public object pickling         # how values that are not plain are written and read: flame_fast.kernels.runtime.serialization

    cdef int _reserve(self, int fd, uint64_t least) except -1:
        """Makes a file of at least so many bytes and maps it, twice if possible. A bound on the address space: smaller ones."""
        cdef uint64_t size
        for windowed, collecting in ((True, False), (True, True), (False, False)):
            if collecting:          # segments of runners that only cycles refer to any more
                gc.collect()
            size = RESERVED_BYTES
            while size >= least:
                os.ftruncate(fd, size)
                if self._map(fd, size) and (self.window != NULL or not windowed):
                    return 0
                self._unmap()
                size //= 2
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            f"cannot reserve {2 * size >> 30} GiB of address space for runner {self.name!r}; lift the bound on it "
            f"(ulimit -v): it takes no memory, but at least {least >> 30} GiB of addresses",
        )

    cdef bint _map(self, int fd, uint64_t size) noexcept:
        """Whether there were addresses for the shared mapping; the window is there if there were more."""
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)
        if base == MAP_FAILED:
            return False
        madvise(base, size, MADV_DONTDUMP)      # a core dump of the segment would delay the notice of a death by seconds
        self.mapped_bytes = size
        self.fd = fd
        know_segment(self)
        self.arena = <char *> base + map_memory(<char *> base, size, &self.memory)
        window_open(self)
        return True

    cdef void _unmap(self) noexcept:
        if self.memory.base != NULL:
            munmap(self.memory.base, self.mapped_bytes)
        if self.window != NULL:
            munmap(self.window, self.mapped_bytes)
        self.memory.base = NULL

    def _become(self, uint32_t index, str name, int doorbell):
        """Turns this attachment into that of entry `index`: what a forked worker does first."""
        self.me = index
        self.name = name
        self.doorbell = doorbell
        self.generation = fork_generation
        if not memory_own(&self.memory, index, doorbell):
            raise MemoryError
        self.pins = []
        attachments[:] = [known for known in attachments if known() is not None and known() is not self] + [weakref.ref(self)]

    def __dealloc__(self):
        memory_disown(&self.memory)
        free(self.own)
        self._unmap()

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
    def arrays_read_only(self):
        """Whether arrays arrive with WRITEABLE cleared."""
        return bool(self.memory.header.arrays_read_only)

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
        cdef uint64_t block = self.store(data)
        self.memory.header.setup_bytes = len(data)
        ff_store64(&self.memory.header.setup, block)
        block_settled(&self.memory)

    def get_setup(self):
        if ff_load64(&self.memory.header.setup) == 0:
            return None
        return PyBytes_FromStringAndSize(self.memory.base + self.memory.header.setup, self.memory.header.setup_bytes)

    cdef uint64_t store(self, bytes data) except 0:
        """A block of the caller's own with these bytes; `block_settled` when it is put down, `block_free` in the end."""
        cdef uint64_t block = block_keep(&self.memory, len(data))
        if block == 0:
            raise self.full(len(data))
        memcpy(self.memory.base + block, PyBytes_AS_STRING(data), len(data))
        return block

    cdef object full(self, uint64_t nbytes):
        cdef Header *header = self.memory.header
        cdef uint64_t free_bytes = header.limit - min(header.limit, header.live_bytes), left = memory_left(header.cgroups)
        free_bytes = min(free_bytes, left - min(left, MARGIN) + header.cached_bytes)
        return StoreFullError(nbytes, free_bytes, header.limit)

    cdef inline void count_copied(self, uint64_t nbytes) noexcept:
        self.memory.processes[self.me].copied_bytes += nbytes

    cdef inline void count_shared(self, uint64_t nbytes) noexcept:
        self.memory.processes[self.me].shared_bytes += nbytes

    cdef Scratch take_scratch(self):
        """The scratch of this runtime, away from it: an object's destructor, or another thread, may encode meanwhile."""
        cdef Scratch scratch = self.scratch
        self.scratch = None
        if scratch is None:
            scratch = Scratch()
            scratch.memory = &self.memory
        return scratch

    cdef void give_scratch(self, Scratch scratch) noexcept:
        scratch.clear()             # in a child that was forked meanwhile, too: its parent has pinned what it holds
        scratch.inputs = None
        if scratch.room <= SCRATCH_KEPT:
            self.scratch = scratch

    def trim(self):
        """Gives the memory of everything that is kept free back to the system."""
        with nogil:
            extents_trim(&self.memory)

    def idle_memory(self):
        """(bytes kept free and warm, how many extents were ever taken): what the zygote goes by to `trim`."""
        return self.memory.header.cached_bytes, self.memory.header.takes

    def is_first_warning(self):
        """Whether no other process of this runner has warned of generators that imports seed."""
        return bool(ff_cas32(&self.memory.header.warned, 0, 1))

    def put_definition(self, bytes identity, bytes data):
        """Stores the body of a definition; returns the `DefinitionHold` that keeps it. StoreFullError: no room."""
        self.check()
        return put_body(self, identity, data)

    def hold_definition(self, bytes identity, uint64_t offset, uint64_t nbytes):
        """A hold on a body that another process has written; None if it is gone."""
        self.check()
        return hold_body(self, identity, offset, nbytes)

    def is_definition(self, bytes identity, uint64_t offset):
        """Whether anybody keeps that body still."""
        return not self.closed and self.is_mine() and body_is_there(self, identity, offset)

    def definition_body(self, uint64_t offset, uint64_t nbytes):
        """The body itself, which the caller's value keeps there."""
        return PyBytes_FromStringAndSize(self.memory.base + offset + IDENTITY_BYTES, nbytes - IDENTITY_BYTES)

    def bear_arrays(self):
        """From now on NumPy arrays that tasks of this process make are born in the segment, if larger than 32 KiB."""
        bear_arrays(self)
        self.handler_due = True

    def counters(self):
        """What is in use: a dict of counts and bytes, see `flame_fast.calls.statistics`.

        A debug build adds how many blocks and slots were ever taken and given back.
        """
        cdef Header *header = self.memory.header
        cdef uint32_t i, status
        cdef uint64_t copied = header.copied_bytes, shared = header.shared_bytes
        cdef uint64_t definitions = header.definitions, definition_bytes = header.definition_bytes
        settle_pins(self)
        by_status = [0] * (LEAVING + 1)
        for i in range(slots_used(&self.memory)):
            status = status_of(ff_load64(&self.memory.slots[i].state))
            by_status[status] += 1
        for i in range(ff_load32(&header.process_high)):
            if ff_load32(&self.memory.processes[i].state) != PROCESS_FREE:
                copied += self.memory.processes[i].copied_bytes
                shared += self.memory.processes[i].shared_bytes
                definitions += self.memory.processes[i].definitions
                definition_bytes += self.memory.processes[i].definition_bytes
        counted = {
            "waiting": by_status[WAITING], "queued": by_status[READY], "running": by_status[RUNNING],
            "done": by_status[DONE], "failed": by_status[FAILED], "slots": sum(by_status[WAITING:]),
            "bytes": used_bytes(&self.memory), "peak": header.peak_bytes, "limit": header.limit, "cached": header.cached_bytes,
            "copied": copied, "shared": shared, "definitions": definitions, "definition_bytes": definition_bytes,
        }
        if FF_DEBUG:
            counted.update(
                blocks_taken=header.blocks_taken, blocks_freed=header.blocks_freed,
                slots_taken=header.slots_taken, slots_freed=header.slots_freed,
            )
        return counted
