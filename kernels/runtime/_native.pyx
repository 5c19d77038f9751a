"""One process's attachment to a runner's segment of shared memory: submit, wait, serve, supervise.

    driver                                          worker
    submit --- slot: arguments ---> lane (hints) -> claim (READY -> RUNNING)
    get <----- slot: outcome <--------------------- finish (-> DONE/FAILED), queues what became ready
                        zygote: bury (the tasks of a dead worker fail, nobody else's)

Guarantees: submitting never blocks; a task runs at most once; a death is told by the table alone. Assumes: one zygote at a
time, which buries a process only after the kernel has reported its end. The layout of the segment stands in `layout.pxi`;
the order of the steps of each operation in `PROTOCOL.md`.
"""

cimport cython

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from .core.externs cimport *
from .core.layout cimport *
from .core.regions cimport *
from .core.size_classes cimport *
from .core.lookup cimport *
from .core.system_memory cimport *
from .core.spinning cimport *
from .core.wakeup cimport *
from .core.permits cimport *
from .core.locked cimport *
from .core.repair cimport *
from .core.lock cimport *
from .core.extents cimport *
from .core.groups cimport *
from .core.references cimport *
from .core.blocks cimport *
from .core.slots cimport *
from .core.run_queue cimport *
from .core.dependencies cimport *
from .core.completion cimport *
from .core.recovery cimport *
from .core.wraparound cimport *


from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset


import gc
import os
import select
import sys
import weakref

from flame_fast.errors import FlameError, FlameErrorCode, StoreFullError

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset) noexcept
    int munmap(void *addr, size_t length) noexcept
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_NORESERVE
    void *MAP_FAILED

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef extern from "sys/prctl.h" nogil:
    int prctl(int option, unsigned long argument) noexcept
    int PR_SET_PDEATHSIG

cdef uint64_t RESERVED_BYTES = <uint64_t> 1 << 42
cdef uint64_t LEAST_RESERVED_BYTES = <uint64_t> 56 << 30    # tables, rings and some room beyond the limit
cdef int fork_generation = 0

def die_with_parent(int signal):
    """Asks the kernel for `signal` when the parent ends. Sound only under a single-threaded parent, as the zygote is."""
    prctl(PR_SET_PDEATHSIG, signal)

DRIVER = DRIVER_INDEX      #: the driver's index in the process table
ZYGOTE = ZYGOTE_INDEX      #: the zygote's
UNCALLABLE = <uint32_t> NO_METHOD     #: as a method's number: a call makes no sense

include "segment.pxi"
include "views.pxi"
include "forks.pxi"
include "bodies_store.pxi"
include "services.pxi"

cdef class Calls(ServiceTable)      # what codec and futures need to know of the class that is defined with their help

include "arrays.pxi"
include "codec.pxi"
include "instances.pxi"
include "future.pxi"
include "deadlock.pxi"
include "waits.pxi"
include "calls.pxi"
include "entry.pxi"
include "mapping.pxi"
include "serving.pxi"
include "supervision.pxi"
include "dump.pxi"


cdef class Runtime(Supervision):
    """An attachment to a segment. Made by `create` (the driver) or `attach` (everybody else).

    Safe from any thread of its process. A child that a user forks must not use it: every call raises `INVALID_STATE`.
    """
    def __init__(self):
        raise TypeError("use Runtime.create or Runtime.attach")

    @staticmethod
    def create(str name, int doorbell, int workers, int cpus, uint64_t limit, cgroups=(), bint arrays_read_only=False):
        """A new segment with this process as its driver.

        Parameters
        ----------
        name : str
            The runner's, for error messages.
        doorbell : int
            An eventfd that the zygote polls.
        workers, cpus : int
            Pool workers wanted; CPUs there are, which bounds how many processes may spin.
        limit : int
            Bytes of values allowed at the same time.
        cgroups : sequence of (str, str, str)
            Files with the memory limit, the memory used, and what that is made of, of each cgroup above this process.
        arrays_read_only : bool
            Arrays arrive with WRITEABLE cleared.
        """
        cdef Runtime runtime = Runtime.__new__(Runtime)
        cdef Header *header
        import fcntl
        runtime.name = name
        fd = os.memfd_create("flame_fast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            runtime._reserve(fd, limit + LEAST_RESERVED_BYTES)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            os.close(fd)
            raise
        header = runtime.memory.header
        if ff_lock_make(header.lock):
            raise FlameError(FlameErrorCode.INTERNAL, "this system makes no robust mutex that processes share")
        header.cpus = cpus
        header.workers = workers
        header.size = runtime.mapped_bytes
        header.limit = limit
        header.arrays_read_only = arrays_read_only
        header.arena_next = runtime.arena - runtime.memory.base
        header.checked_bytes = CHECK_STEP           # whoever gave the limit has just looked
        header.cache_limit = limit // 2
        names = b"".join(os.fsencode(name) + b"\0" for files in cgroups for name in files)
        if len(names) < CGROUP_BYTES:
            memcpy(header.cgroups, PyBytes_AS_STRING(names), len(names))
        header.process_high = 2
        header.pool_lane_high = 1
        header.session = int.from_bytes(os.urandom(8), "little")
        runtime.memory.lanes[0].state = LANE_OPEN
        runtime.memory.processes[DRIVER].state = PROCESS_LIVE
        runtime.memory.processes[DRIVER].role = ROLE_DRIVER
        runtime.memory.processes[DRIVER].pid = os.getpid()
        runtime.memory.processes[ZYGOTE].state = PROCESS_LIVE
        runtime.memory.processes[ZYGOTE].role = ROLE_ZYGOTE
        header.layout = FF_LAYOUT
        header.magic = MAGIC
        runtime._become(DRIVER, name, doorbell)
        return runtime

    def wind(self, uint64_t back):
        """For tests, at once after `create`: whatever counts up comes round after about `back` more, at most a thousand."""
        wind_slots(&self.memory, back)
        wind_lanes(&self.memory, back)
        wind_processes(&self.memory, back)

    @property
    def drops(self):
        """For tests: the number of this process's last drop, see `number_drop`."""
        return self.memory.processes[self.me].giving

    @drops.setter
    def drops(self, uint64_t number):
        self.memory.processes[self.me].giving = number

    @staticmethod
    def attach(int fd, int index, str name, int doorbell):
        """This process's view of a segment made elsewhere, as entry `index` of its process table."""
        cdef Runtime runtime = Runtime.__new__(Runtime)
        if not runtime._map(fd, os.fstat(fd).st_size):
            raise MemoryError
        if runtime.memory.header.magic != MAGIC or runtime.memory.header.layout != FF_LAYOUT:
            raise FlameError(FlameErrorCode.INTERNAL, f"file descriptor {fd} is no flame_fast segment of this build")
        runtime._become(index, name, doorbell)
        return runtime
