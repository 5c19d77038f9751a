# One process's attachment to the segment: its mapping and its identity, which all classes above build on.
# uses: page_faults

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from posix.stat cimport fstat, struct_stat
from .core.externs cimport (
    FF_LAYOUT, MADV_DONTDUMP, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, ff_load64,
    madvise, mmap, munmap,
)
from .core.layout cimport GRANULE, MAGIC, Header
from .core.regions cimport Memory, align_up, map_memory, memory_disown, memory_own
from .core.checksum cimport checksum
from .core.bounds cimport is_header_sound, is_within
from .core.system_memory cimport memory_left
from .core.extents cimport MARGIN
from .core.size_classes cimport extent_class_of
from .core.blocks cimport block_alloc_owned
from .core.wraparound cimport wrap_processes_after, wrap_queues_after, wrap_slots_after

cdef uint64_t MOST_RESERVED_BYTES = <uint64_t> 1 << 42
cdef uint64_t LEAST_RESERVED_BYTES = <uint64_t> 56 << 30    # tables, rings and a reserve beyond the limit
cdef int fork_generation = 0    # forks between the first process and this one: an attachment of another number is a parent's
cdef list attachments = []      # weak references to the attachments of this process

cdef class Segment:
    """The mapping, this process's entry in the table, and blocks of the arena. Unmapped with the last future's end."""
    cdef Memory memory
    cdef uint64_t mapped_bytes
    cdef char *arena                    # values lie from here to the end of the mapping
    cdef char *window                   # base of the arena's pages, privately: see views.pxi; NULL: too few addresses
    cdef void **own                     # views with their own mappings, by address
    cdef Py_ssize_t own_count
    cdef uint64_t device, inode         # of `fd`
    cdef bint between_tasks             # a worker that runs no user code
    cdef uint64_t faults_known          # page faults of this process at the last count; 0: too long ago
    cdef int calm                       # views in a row without page faults, up to CALM
    cdef uint32_t me
    cdef int generation
    cdef int doorbell
    cdef bint closed
    cdef str ending                     # how the runner was closed, for messages of unfinished calls
    cdef str broken                     # why nothing runs any more although the runner is not closed
    cdef readonly bint inline           # this process runs every task itself, in `run_queued`
    cdef list pins                      # extents pinned for forked children: see fork.pxi
    cdef object __weakref__
    cdef readonly int fd
    cdef readonly str name
    cdef public object pickling         # flame_fast.kernels.runtime.serialization: for values that are not plain

    def __init__(self):
        raise TypeError(f"use {type(self).__name__}.attach")

    @classmethod
    def attach(cls, int fd, int index, str name, int doorbell):
        """Attach to a segment that another process created, as entry `index` of its process table."""
        cdef Segment segment = cls.__new__(cls)
        if not segment._map(fd, os.fstat(fd).st_size):
            raise MemoryError
        if segment.memory.header.magic != MAGIC or segment.memory.header.layout != FF_LAYOUT:
            raise FlameError(FlameErrorCode.INTERNAL, f"file descriptor {fd} is no flame_fast segment of this build")
        segment.become(index, name, doorbell)
        return segment

    cdef int _reserve(self, int fd, uint64_t limit) except -1:
        """Size a file for values of so many bytes and map it, twice if possible. A bound on addresses makes it smaller.

        Extents keep their sizes, so values of each size class may one day have taken the whole limit.
        """
        cdef uint64_t size, least = align_up(limit + LEAST_RESERVED_BYTES, <uint64_t> 1 << 30)
        cdef uint64_t most = align_up(least + limit * extent_class_of(limit), <uint64_t> 1 << 30)
        most = max(least, min(most, MOST_RESERVED_BYTES))
        for windowed, collecting in ((True, False), (True, True), (False, False)):
            if collecting:          # unmaps segments of runners that only reference cycles keep alive
                gc.collect()
            size = most
            while size >= least:
                if set_size(fd, size) and self._map(fd, size) and (self.window != NULL or not windowed):
                    return 0
                self._unmap()
                size = max(size // 2, least) if size > least else 0
        from flame_fast import scarcity

        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            f"cannot reserve {least >> 30} GiB of addresses for runner {self.name!r}: {LEAST_RESERVED_BYTES >> 30} GiB, and "
            f"as many as its values may take bytes ({limit:,}); {scarcity.no_addresses(least)}; they take no memory",
        )

    cdef bint _map(self, int fd, uint64_t size) noexcept:
        """Map the segment; False if there were too few addresses. The window is mapped too if there were enough for it."""
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)
        if base == MAP_FAILED:
            return False
        madvise(base, size, MADV_DONTDUMP)      # dumping the segment's core would delay the notice of a death by seconds
        self.mapped_bytes = size
        self.fd = self.memory.fd = fd
        know_segment(self)
        self.arena = <char *> base + map_memory(<char *> base, size, &self.memory)
        window_open(self)
        return True

    cdef void _unmap(self) noexcept:
        if self.memory.base != NULL:
            munmap(self.memory.base, self.mapped_bytes)
        if self.window != NULL:
            munmap(self.window + self.memory.arena, self.mapped_bytes - self.memory.arena)
        self.memory.base = NULL

    def become(self, uint32_t index, str name, int doorbell):
        """Turn this attachment into that of entry `index`, as a forked worker does first."""
        self.me = index
        self.name = name
        self.doorbell = doorbell
        self.generation = fork_generation
        if not memory_own(&self.memory, index, doorbell):
            raise MemoryError
        self.pins = []
        others = [known for known in attachments if known() is not None and known() is not self]
        attachments[:] = [*others, weakref.ref(self)]

    def __dealloc__(self):
        memory_disown(&self.memory)
        free(self.own)
        self._unmap()

    cdef inline bint is_mine(self) noexcept:
        """Return whether this process made the attachment, and is no forked child of the one that did."""
        return self.generation == fork_generation

    cdef int check(self) except -1:
        """Raise unless the attachment can be used: it is this process's, and its runner is neither broken nor closed."""
        if self.generation != fork_generation:
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"runner {self.name!r} belongs to the parent of this forked process; make a new Runner here")
        if self.memory.damaged:
            raise self.damage()
        if self.broken is not None:
            raise FlameError(FlameErrorCode.INTERNAL, self.broken)
        if self.closed:
            raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} is closed; make a new Runner")

    @property
    def index(self):
        """This process's index in the process table."""
        return self.me

    @property
    def doorbell_fd(self):
        """The eventfd that the supervisor (zygote) polls."""
        return self.doorbell

    @property
    def session(self):
        """The runner's random number."""
        return self.memory.header.session

    @property
    def workers(self):
        """Pool workers wanted."""
        return self.memory.header.workers

    @property
    def arrays_read_only(self):
        """Whether arrays arrive with WRITEABLE cleared."""
        return bool(self.memory.header.arrays_read_only)

    @property
    def cpus(self):
        """CPUs available to the runner."""
        return self.memory.header.cpus

    @property
    def is_closed(self):
        """Whether `mark_closed` was called here."""
        return bool(self.closed)

    @property
    def has_descriptor(self):
        """Whether `fd` is still the segment's: the user may have closed it."""
        return bool(has_segment(self))

    @property
    def is_foreign(self):
        """Whether this process is a forked child of the one that attached."""
        return self.generation != fork_generation

    def get_setup(self):
        """Return what `Client.set_setup` has published; None before that."""
        cdef uint64_t block = ff_load64(&self.memory.header.setup), nbytes = self.memory.header.setup_bytes
        if block == 0:
            return None
        self.check_range(block, nbytes)
        return checked_bytes(self, self.memory.base + block, nbytes)

    cdef object damage(self):
        """Return the error of a segment whose words cannot be true; from here on nothing in it is trusted."""
        self.memory.damaged = 1
        return FlameError(
            FlameErrorCode.INTERNAL,
            f"the shared memory of runner {self.name!r} was overwritten: native code of a task (a C extension, ctypes, or a "
            "compiled kernel without bounds checks) has written where it may not. What the runner's calls return cannot be "
            "trusted any more; find the write, as with Numba's boundscheck or an address sanitizer, and make a new "
            "Runner",
        )

    @property
    def is_damaged(self):
        """Whether something read in the segment could not be true: see core/bounds.pxd."""
        return not is_header_sound(&self.memory)

    cdef int check_range(self, uint64_t offset, uint64_t nbytes) except -1:
        """Raise unless a range lies in the arena."""
        if not is_within(&self.memory, offset, nbytes):
            raise self.damage()
        return 0

    cdef uint64_t store(self, bytes data) except 0:
        """Return a block with these bytes, owned by the caller.

        The caller calls `block_published` once a table names the block, and `block_free` in the end.
        """
        cdef uint64_t block = block_alloc_owned(&self.memory, len(data))
        if block == 0:
            raise self.full(len(data))
        memcpy(self.memory.base + block, PyBytes_AS_STRING(data), len(data))
        return block

    cdef object full(self, uint64_t nbytes):
        """Return the `StoreFullError` of an allocation of so many bytes."""
        cdef Header *header = self.memory.header
        cdef uint64_t free_bytes = header.limit - min(header.limit, header.live_bytes), left = memory_left(header.cgroups)
        free_bytes = min(free_bytes, left - min(left, MARGIN) + header.cached_bytes)
        return StoreFullError(nbytes, free_bytes, header.limit)

    cdef inline void count_copied(self, uint64_t nbytes) noexcept:
        self.memory.processes[self.me].copied_bytes += nbytes

    cdef inline void count_shared(self, uint64_t nbytes) noexcept:
        self.memory.processes[self.me].shared_bytes += nbytes

    def wrap_after(self, uint64_t steps):
        """Make each counter wrap around after about so many more steps, at most a thousand: for tests, after `create`."""
        wrap_slots_after(&self.memory, steps)
        wrap_queues_after(&self.memory, steps)
        wrap_processes_after(&self.memory, steps)

    @property
    def release_seq(self):
        """The number of this process's last release, for tests; see `begin_release`."""
        return self.memory.processes[self.me].release_seq

    @release_seq.setter
    def release_seq(self, uint64_t number):
        self.memory.processes[self.me].release_seq = number

cdef void window_open(Segment runtime) noexcept:
    """Map the window, unless extents would share a page in it; without one every view has its own mapping."""
    cdef void *window
    cdef uint64_t arena = runtime.memory.arena
    look_for_faults()
    if page_bytes > GRANULE:
        return
    window = mmap(NULL, runtime.mapped_bytes - arena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, runtime.fd, arena)
    if window != MAP_FAILED:
        madvise(window, runtime.mapped_bytes - arena, MADV_DONTDUMP)
        runtime.window = <char *> window - arena

cdef bint set_size(int fd, uint64_t size) except -1:
    """Make a file as large; return False where no file may be."""
    try:
        os.ftruncate(fd, size)
    except OSError:             # above `ulimit -f`
        return False
    return True

cdef void know_segment(Segment runtime) noexcept:
    """Note which file the descriptor is, for `has_segment`."""
    cdef struct_stat status
    if fstat(runtime.fd, &status) == 0:
        runtime.device, runtime.inode = status.st_dev, status.st_ino

cdef bint has_segment(Segment runtime) noexcept:
    """Return whether the descriptor is still the segment's. `close`, or a task, may close it, and a file may reuse it."""
    cdef struct_stat status
    return fstat(runtime.fd, &status) == 0 and status.st_dev == runtime.device and status.st_ino == runtime.inode

def with_checksum(bytes data not None):
    """Return bytes in front of which stands their checksum, for `checked_bytes`."""
    cdef uint64_t sum = checksum(PyBytes_AS_STRING(data), len(data))
    return PyBytes_FromStringAndSize(<const char *> &sum, 8) + data

cdef bytes checked_bytes(Segment runtime, const char *at, uint64_t nbytes):
    """Return the bytes behind their checksum: copied first, so that nothing changes them after the check."""
    data = bytes_if_sound(at, nbytes)
    if data is None:
        raise runtime.damage()
    return data

cdef bytes bytes_if_sound(const char *at, uint64_t nbytes):
    """Return the bytes behind their checksum; None if that is not theirs."""
    cdef bytes data
    cdef uint64_t sum
    if nbytes < 8:
        return None
    memcpy(&sum, at, 8)
    data = PyBytes_FromStringAndSize(at + 8, nbytes - 8)
    return data if checksum(PyBytes_AS_STRING(data), nbytes - 8) == sum else None
