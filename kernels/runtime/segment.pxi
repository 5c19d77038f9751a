# One process's view of the segment: mapping it, who this process is in it, what all parts below build on.
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
from .core.regions cimport Memory, map_memory, memory_disown, memory_own
from .core.system_memory cimport memory_left
from .core.extents cimport MARGIN
from .core.blocks cimport block_alloc_owned
from .core.wraparound cimport wind_processes, wind_queues, wind_slots

cdef uint64_t RESERVED_BYTES = <uint64_t> 1 << 42
cdef uint64_t LEAST_RESERVED_BYTES = <uint64_t> 56 << 30    # tables, rings and some room beyond the limit
cdef int fork_generation = 0
cdef list attachments = []      # weak references to the attachments of this process

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
    cdef readonly bint inline           # this process runs every task itself, at `run_queued`
    cdef list pins                      # what forked children hold: see forks.pxi
    cdef object __weakref__
    cdef readonly int fd
    cdef readonly str name
    cdef public object pickling         # how values that are not plain are written and read: flame_fast.kernels.runtime.serialization

    def __init__(self):
        raise TypeError(f"use {type(self).__name__}.attach")

    @classmethod
    def attach(cls, int fd, int index, str name, int doorbell):
        """This process's view of a segment made elsewhere, as entry `index` of its process table."""
        cdef Segment segment = cls.__new__(cls)
        if not segment._map(fd, os.fstat(fd).st_size):
            raise MemoryError
        if segment.memory.header.magic != MAGIC or segment.memory.header.layout != FF_LAYOUT:
            raise FlameError(FlameErrorCode.INTERNAL, f"file descriptor {fd} is no flame_fast segment of this build")
        segment.become(index, name, doorbell)
        return segment

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

    def become(self, uint32_t index, str name, int doorbell):
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

    def get_setup(self):
        if ff_load64(&self.memory.header.setup) == 0:
            return None
        return PyBytes_FromStringAndSize(self.memory.base + self.memory.header.setup, self.memory.header.setup_bytes)

    cdef uint64_t store(self, bytes data) except 0:
        """A block of the caller's own with these bytes; `block_published` when it is put down, `block_free` in the end."""
        cdef uint64_t block = block_alloc_owned(&self.memory, len(data))
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

    def wind(self, uint64_t back):
        """For tests, at once after `create`: whatever counts up comes round after about `back` more, at most a thousand."""
        wind_slots(&self.memory, back)
        wind_queues(&self.memory, back)
        wind_processes(&self.memory, back)

    @property
    def release_seq(self):
        """For tests: the number of this process's last drop, see `begin_release`."""
        return self.memory.processes[self.me].release_seq

    @release_seq.setter
    def release_seq(self, uint64_t number):
        self.memory.processes[self.me].release_seq = number

cdef void window_open(Segment runtime) noexcept:
    """Maps the window; without one every view is mapped by itself. Extents must not share a page in it."""
    cdef void *window
    look_for_faults()
    if page_bytes > GRANULE:
        return
    window = mmap(NULL, runtime.mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, runtime.fd, 0)
    if window != MAP_FAILED:
        madvise(window, runtime.mapped_bytes, MADV_DONTDUMP)
        runtime.window = <char *> window

cdef void know_segment(Segment runtime) noexcept:
    cdef struct_stat status
    if fstat(runtime.fd, &status) == 0:
        runtime.device, runtime.inode = status.st_dev, status.st_ino

cdef bint has_segment(Segment runtime) noexcept:
    """Whether the descriptor is still the segment's: `close` closes it, and so may a task, and then it may be another file."""
    cdef struct_stat status
    return fstat(runtime.fd, &status) == 0 and status.st_dev == runtime.device and status.st_ino == runtime.inode
