# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, embedsignature=True
"""One process's attachment to a runner's segment of shared memory: submit, wait, serve, supervise.

    driver                                          worker
    submit --- slot: arguments ---> lane (hints) -> claim (READY -> RUNNING)
    get <----- slot: outcome <--------------------- finish (-> DONE/FAILED), queues what became ready
                        zygote: bury (the tasks of a dead worker fail, nobody else's)

Guarantees: submitting never blocks; a task runs at most once; a death is told by the table alone. Assumes: one zygote at a
time, which buries a process only after the kernel has reported its end. The layout of the segment stands in `layout.pxi`;
the order of the steps of each operation at the functions of `tasks.pxi`.
"""

include "layout.pxi"
include "arena.pxi"

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

include "tasks.pxi"
include "waiting.pxi"

import os
import threading

from flame_fast.errors import FlameError, FlameErrorCode, StoreFullError

include "codec.pxi"
include "future.pxi"

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset) noexcept
    int munmap(void *addr, size_t length) noexcept
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_NORESERVE
    void *MAP_FAILED

cdef extern from "sys/prctl.h" nogil:
    int prctl(int option, unsigned long argument) noexcept
    int PR_SET_PDEATHSIG

cdef uint64_t RESERVED_BYTES = <uint64_t> 1 << 40
cdef int fork_generation = 0

def _after_fork_in_child():
    global fork_generation
    fork_generation += 1

os.register_at_fork(after_in_child=_after_fork_in_child)

def die_with_parent(int signal):
    """Asks the kernel for `signal` when the parent ends. Sound only under a single-threaded parent, as the zygote is."""
    prctl(PR_SET_PDEATHSIG, signal)

DRIVER = 0      #: the driver's index in the process table
ZYGOTE = 1      #: the zygote's


cdef class Runtime:
    """An attachment to a segment. Made by `create` (the driver) or `attach` (everybody else).

    Safe from any thread of its process. A child that a user forks must not use it: every call raises `INVALID_STATE`.
    """
    cdef Memory memory
    cdef uint32_t me
    cdef int generation
    cdef int doorbell
    cdef bint closed
    cdef Scratch scratch
    cdef unsigned long task_thread
    cdef uint32_t next_lane
    cdef readonly bint inline           # this process runs every task itself, at `run_queued`
    cdef set busy_lanes                 # inline: instances that a task of theirs is running on
    cdef readonly int fd
    cdef readonly str name
    cdef public object pickling         # how values that are not plain are written and read: flame_fast.kernels.pickling

    def __init__(self):
        raise TypeError("use Runtime.create or Runtime.attach")

    @staticmethod
    def create(str name, int doorbell, int workers, int cpus, uint64_t limit):
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
        """
        cdef Runtime runtime = Runtime.__new__(Runtime)
        cdef uint64_t size = RESERVED_BYTES, arena
        cdef Header *header
        import fcntl
        fd = os.memfd_create("flame_fast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            while True:
                os.ftruncate(fd, size)
                try:
                    runtime._map(fd, size)
                    break
                except OSError:         # a bound on the address space: reserve less
                    size //= 2
                    if size < limit + (<uint64_t> 48 << 30):
                        raise
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            os.close(fd)
            raise
        arena = map_memory(runtime.memory.base, &runtime.memory)
        header = runtime.memory.header
        header.cpus = cpus
        header.workers = workers
        header.size = size
        header.limit = limit
        header.arena_next = arena
        header.process_high = 2
        header.pool_lane_high = 1
        header.session = int.from_bytes(os.urandom(8), "little")
        runtime.memory.lanes[0].state = LANE_OPEN
        runtime.memory.processes[DRIVER].state = PROCESS_LIVE
        runtime.memory.processes[DRIVER].role = ROLE_DRIVER
        runtime.memory.processes[DRIVER].pid = os.getpid()
        runtime.memory.processes[ZYGOTE].state = PROCESS_LIVE
        runtime.memory.processes[ZYGOTE].role = ROLE_ZYGOTE
        header.magic = MAGIC
        runtime._become(DRIVER, name, doorbell)
        return runtime

    @staticmethod
    def attach(int fd, int index, str name, int doorbell):
        """This process's view of a segment made elsewhere, as entry `index` of its process table."""
        cdef Runtime runtime = Runtime.__new__(Runtime)
        runtime._map(fd, os.fstat(fd).st_size)
        map_memory(runtime.memory.base, &runtime.memory)
        if runtime.memory.header.magic != MAGIC:
            raise FlameError(FlameErrorCode.INTERNAL, f"file descriptor {fd} is no flame_fast segment")
        runtime._become(index, name, doorbell)
        return runtime

    cdef _map(self, int fd, uint64_t size):
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)
        if base == MAP_FAILED:
            raise OSError(12, f"cannot reserve {size:,} bytes of address space")
        madvise(base, size, MADV_DONTDUMP)      # a core dump of the segment would delay the notice of a death by seconds
        self.memory.base = <char *> base
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
            munmap(self.memory.base, self.memory.header.size)

    cdef inline bint is_mine(self) noexcept:
        return self.generation == fork_generation

    cdef int check(self) except -1:
        if self.generation != fork_generation:
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"runner {self.name!r} belongs to the parent of this forked process; make a new Runner here")
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

    # ---- the project, told once to all workers ----------------------------------------------------------------------

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

    # ---- services ---------------------------------------------------------------------------------------------------

    def add_service(self, bytes blob, *, bint instance=False, int limit=0, bint sticky=False, int warmup=0):
        """Registers a service; returns (service, generation, lane).

        Parameters
        ----------
        blob : bytes
            What a worker's host needs to load it.
        instance : bool
            A lane and a process of its own, calls strictly in order.
        limit : int
            Workers that may serve it at the same time; 0: all.
        sticky : bool
            With a limit: a worker that served it once goes on doing so.
        warmup : int
            Workers that load it before its first call.
        """
        cdef uint32_t i, lane = 0, service
        cdef Lane *entry
        cdef uint64_t block
        self.check()
        self.reap_services()
        block = self.store(PyBytes_AS_STRING(blob), len(blob))
        try:
            if instance or limit:
                lane = self._take_lane(instance)
                entry = &self.memory.lanes[lane]
                entry.ordered = instance
                entry.limit = min(limit, SEAT_COUNT)
                entry.sticky = sticky
                entry.process = 0
                entry.error = 0
                memset(entry.seats, 0, sizeof(entry.seats))
            service = self._take_service()
        except BaseException:
            arena_free(self.memory.base, block)
            raise
        self.memory.services[service].lane = lane
        self.memory.services[service].creator = self.me
        self.memory.services[service].blob = block
        self.memory.services[service].blob_bytes = len(blob)
        self.memory.services[service].warm_left = 0 if instance else warmup
        ff_store32(&self.memory.services[service].state, SERVICE_OPEN)
        if warmup and not instance:
            ff_add32(&self.memory.header.warm_left, warmup)
            wake_sleepers(&self.memory.header.pool_sleepers, &self.memory.header.pool_wake, PROCESS_COUNT)
        elif warmup:
            self.start_instance(service)
        return service, self.memory.services[service].generation, lane

    cdef uint32_t _take_lane(self, bint instance) except 0:
        cdef uint32_t i
        for i in range(POOL_LANES if instance else 1, LANE_COUNT if instance else POOL_LANES):
            if ff_load32(&self.memory.lanes[i].state) == LANE_FREE and \
                    ff_cas32(&self.memory.lanes[i].state, LANE_FREE, LANE_OPEN):
                if not instance:
                    while ff_load32(&self.memory.header.pool_lane_high) <= i:
                        ff_cas32(&self.memory.header.pool_lane_high, i, i + 1)
                return i
        kind, most = ("instance services", LANE_COUNT - POOL_LANES) if instance else ("limited services", POOL_LANES - 1)
        raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} has {most} {kind} open; close some first")

    cdef int64_t _take_service(self) except -1:
        cdef uint32_t i
        for i in range(SERVICE_COUNT):
            if ff_load32(&self.memory.services[i].state) == SERVICE_FREE and \
                    ff_cas32(&self.memory.services[i].state, SERVICE_FREE, SERVICE_RESERVED):
                self.memory.services[i].generation += 1
                while ff_load32(&self.memory.header.service_high) <= i:
                    ff_cas32(&self.memory.header.service_high, i, i + 1)
                return i
        raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} has {SERVICE_COUNT} services open; close some first")

    def start_instance(self, uint32_t service):
        """Asks the zygote for the process of an instance service, once."""
        cdef uint32_t lane = self.memory.services[service].lane, process
        if self.inline:
            ff_cas32(&self.memory.lanes[lane].process, 0, self.me + 1)
        if ff_load32(&self.memory.lanes[lane].process):
            return
        process = self.request_process(ROLE_INSTANCE, lane)
        if ff_cas32(&self.memory.lanes[lane].process, 0, process + 1):
            ff_store32(&self.memory.processes[process].state, PROCESS_REQUESTED)
            ring_bell(self.doorbell)
        else:
            ff_store32(&self.memory.processes[process].state, PROCESS_FREE)

    def request_process(self, uint32_t role, uint32_t lane):
        """A process table entry nobody else has, still RESERVED."""
        cdef uint32_t i
        cdef Process *process
        for i in range(2, PROCESS_COUNT):
            process = &self.memory.processes[i]
            if ff_load32(&process.state) == PROCESS_FREE and ff_cas32(&process.state, PROCESS_FREE, PROCESS_RESERVED):
                process.role = role
                process.lane = lane
                process.pid = process.wake = process.waiters = process.blocked = process.spinning = 0
                process.sleeping = process.retiring = 0
                process.current = process.waits_for = process.promoting = 0
                while ff_load32(&self.memory.header.process_high) <= i:
                    ff_cas32(&self.memory.header.process_high, i, i + 1)
                return i
        raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} has {PROCESS_COUNT} processes; close some services")

    def service_blob(self, uint32_t service):
        cdef Service *entry = &self.memory.services[service]
        return PyBytes_FromStringAndSize(self.memory.base + entry.blob, entry.blob_bytes)

    def close_service(self, uint32_t service, uint32_t generation):
        """No new calls; those made go on. Its entry is given back once none of them is left."""
        cdef Service *entry = &self.memory.services[service]
        if not self.is_mine() or self.closed or entry.generation != generation:
            return
        if ff_cas32(&entry.state, SERVICE_OPEN, SERVICE_CLOSING):
            self._stop_warming(entry)
            self.reap_services()

    cdef void _stop_warming(self, Service *entry) noexcept:
        cdef uint32_t left = ff_exchange32(&entry.warm_left, 0)
        if left:
            ff_add32(&self.memory.header.warm_left, -left)

    cdef int reap_services(self) except -1:
        """Gives back what closed services had, where no unfinished task names them any more."""
        cdef uint32_t i, status
        cdef Service *entry
        busy = None
        for i in range(ff_load32(&self.memory.header.service_high)):
            entry = &self.memory.services[i]
            if ff_load32(&entry.state) != SERVICE_CLOSING:
                continue
            if busy is None:
                busy = self._busy_services()
            if i not in busy and ff_cas32(&entry.state, SERVICE_CLOSING, SERVICE_RESERVED):
                self._give_back_lane(entry.lane)
                arena_free(self.memory.base, entry.blob)
                ff_store32(&entry.state, SERVICE_FREE)
        return 0

    cdef set _busy_services(self):
        cdef uint32_t i, status
        busy = set()
        for i in range(min(ff_load32(&self.memory.header.slot_high), SLOT_COUNT - SLOT_SPARE)):
            status = status_of(ff_load64(&self.memory.slots[i].state))
            if WAITING <= status <= RUNNING:
                busy.add(self.memory.slots[i].service)
        return busy

    cdef void _give_back_lane(self, uint32_t index) noexcept:
        cdef Lane *lane = &self.memory.lanes[index]
        if index == 0:
            return
        if index >= POOL_LANES and lane.state == LANE_OPEN and lane.process and not self.inline:
            ff_store32(&lane.state, LANE_CLOSING)       # the zygote frees it when the process has ended
            ff_add32(&lane.wake, 1)
            ff_futex_wake(&lane.wake, PROCESS_COUNT)
            return
        if lane.error:
            arena_free(self.memory.base, lane.error)
            lane.error = 0
        ff_store32(&lane.state, LANE_FREE)

    # ---- calls ------------------------------------------------------------------------------------------------------

    cdef uint32_t input_number(self, list inputs, Handle handle) except? 0xFFFFFFFF:
        """Which input of the task a future is: the same one twice is one input."""
        cdef Py_ssize_t i
        for i in range(PyList_GET_SIZE(inputs) - 1, -1, -1):
            if (<Handle> PyList_GET_ITEM(inputs, i)).index == handle.index:
                return i
        inputs.append(handle)
        return PyList_GET_SIZE(inputs) - 1

    def submit(self, uint32_t service, uint32_t generation, uint32_t lane, uint32_t method, tuple args, dict kwargs,
               function=None):
        """Queues a call and returns its future at once.

        Parameters
        ----------
        service, generation, lane : int
            As `add_service` returned them.
        method : int
            Number of the service's method.
        args, kwargs : tuple, dict
            The arguments; futures in them, at any depth, become inputs of the task.
        function : callable, optional
            Travels with the call, in place of the service's own.

        Raises
        ------
        TypeError
            An argument that cannot be pickled, naming it.
        StoreFullError
            No room for the arguments.
        FlameError
            `INVALID_STATE`: closed.
        """
        cdef Scratch scratch
        cdef list inputs = []
        cdef int64_t index
        self.check()
        if self.memory.services[service].generation != generation or \
                ff_load32(&self.memory.services[service].state) != SERVICE_OPEN:
            raise FlameError(FlameErrorCode.INVALID_STATE, f"the service is closed; make a new one with {self.name!r}.service()")
        scratch = self.scratch if self.scratch is not None else Scratch()
        self.scratch = None             # an object's destructor may submit while this one encodes
        scratch.size = 0
        try:
            if function is None and encode_native(scratch, args, inputs, self, NATIVE_DEPTH) == NATIVE_OK \
                    and self._encode_kwargs(scratch, kwargs, inputs) == NATIVE_OK:
                index = self._new_call(inputs, scratch.data, scratch.size)
            else:
                inputs = []
                data, buffers = self.pickling.dump_call(self, function, args, kwargs, inputs)
                index = self._new_pickled(inputs, data, buffers)
                self.memory.slots[index].payload_kind = KIND_PICKLE | (0 if function is None else KIND_FUNCTION)
        finally:
            self.scratch = scratch
        return self._publish(<uint32_t> index, service, lane, method, inputs)

    cdef int _encode_kwargs(self, Scratch scratch, dict kwargs, list inputs) except -1:
        if not kwargs:
            return scratch.put_tag(b'N')
        scratch.put_count(b'(', 2 * len(kwargs))
        for key, value in kwargs.items():
            if encode_native(scratch, key, inputs, self, NATIVE_DEPTH) or \
                    encode_native(scratch, value, inputs, self, NATIVE_DEPTH):
                return NATIVE_CANNOT
        return NATIVE_OK

    cdef int64_t _new_slot(self) except -1:
        cdef int64_t index = slot_take(&self.memory)
        if index < 0:
            raise StoreFullError(1, 0, SLOT_COUNT - SLOT_SPARE, "the table of calls and values")
        slot_prepare(&self.memory.slots[index], self.me)
        return index

    cdef int64_t _new_call(self, list inputs, const char *data, uint64_t nbytes) except -1:
        """A slot with natively encoded arguments."""
        cdef uint64_t block = 0
        cdef int64_t index
        cdef Slot *slot
        if nbytes > INLINE_BYTES:
            block = self.store(data, nbytes)
        try:
            index = self._new_slot()
        except BaseException:
            if block:
                arena_free(self.memory.base, block)
            raise
        slot = &self.memory.slots[index]
        if not block:
            memcpy(slot.data, data, nbytes)
        slot.payload = block
        slot.payload_bytes = nbytes
        slot.payload_kind = KIND_NATIVE
        return index

    cdef int64_t _new_pickled(self, list inputs, bytes data, list buffers) except -1:
        cdef uint64_t nbytes = pickled_size(data, buffers)
        cdef uint64_t block = arena_take(self.memory.base, nbytes)
        cdef int64_t index
        if block == 0:
            raise self.full(nbytes)
        try:
            write_pickled(self.memory.base + block, data, buffers)
            index = self._new_slot()
        except BaseException:
            arena_free(self.memory.base, block)
            raise
        self.memory.slots[index].payload = block
        self.memory.slots[index].payload_bytes = nbytes
        self.memory.slots[index].payload_kind = KIND_PICKLE
        return index

    cdef ObjectFuture _publish(self, uint32_t index, uint32_t service, uint32_t lane_index, uint32_t method, list inputs):
        """Puts a filled slot on its lane; with inputs, on their waiter lists first. From here on it may run."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Lane *lane = &self.memory.lanes[lane_index]
        cdef uint64_t free_state = slot.state
        cdef ObjectFuture future = ObjectFuture.__new__(ObjectFuture)
        slot.service = service
        slot.lane = lane_index
        slot.method = method
        if inputs:
            try:
                self._add_inputs(slot, inputs)
            except BaseException:
                slot_return(&self.memory, index)
                raise
        future.runtime = self
        future.index = index
        if inputs:
            slot.holds = HOLD_CREATOR | HOLD_RUN | HOLD_EDGES
            ff_exchange64(&slot.state, with_status(free_state, WAITING, 0))
            if lane.ordered:
                lane_push(&self.memory, lane_index, index)
            self._stand_on_inputs(index)
        else:
            ff_exchange64(&slot.state, with_status(free_state, READY, 0))
            lane_push(&self.memory, lane_index, index)
            wake_lane(&self.memory, lane_index)
        if lane.ordered:
            if ff_load32(&lane.process) == 0:
                self.start_instance(service)
            if ff_load32(&lane.state) == LANE_DEAD:     # it died before it could see this task in the lane
                self._fail_unstarted(index, PyBytes_FromStringAndSize(self.memory.base + lane.error, lane.error_bytes))
        return future

    cdef int _add_inputs(self, Slot *slot, list handles) except -1:
        """The block of edges and missing bits, one input each and one bit for the submitter."""
        cdef uint32_t count = len(handles), words = (count >> 6) + 1, levels = 0, i, bits
        cdef uint64_t nbytes = sizeof(Inputs) + count * sizeof(Edge)
        cdef uint64_t level_at[4]
        cdef Inputs *inputs
        cdef Edge *edges
        cdef uint64_t *level
        bits = count + 1
        while True:
            words = (bits + 63) >> 6
            level_at[levels] = nbytes
            nbytes += 8 * words
            levels += 1
            if words == 1:
                break
            bits = words
        slot.inputs = arena_take(self.memory.base, nbytes)
        if slot.inputs == 0:
            raise self.full(nbytes)
        inputs = <Inputs *> (self.memory.base + slot.inputs)
        inputs.count = count
        inputs.levels = levels
        memcpy(inputs.level_at, level_at, sizeof(level_at))
        bits = count + 1
        for i in range(levels):
            words = (bits + 63) >> 6
            level = inputs_level(inputs, i)
            memset(level, 0xFF, 8 * words)
            if bits & 63:
                level[words - 1] = (<uint64_t> 1 << (bits & 63)) - 1
            bits = words
        edges = <Edge *> (<char *> inputs + sizeof(Inputs))
        for i in range(count):
            edges[i].input = (<Handle> handles[i]).index
            edges[i].task = <uint32_t> (slot - self.memory.slots)
            edges[i].bit = i
            edges[i].next = 0
        for i in range(count):
            ff_add32(&self.memory.slots[edges[i].input].holds, 1)
        return 0

    cdef void _stand_on_inputs(self, uint32_t index) noexcept:
        """Pushes the task's edges; an input that has finished already counts at once."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Inputs *inputs = <Inputs *> (self.memory.base + slot.inputs)
        cdef Edge *edges = <Edge *> (<char *> inputs + sizeof(Inputs))
        cdef Slot *input
        cdef uint64_t head, edge_at
        cdef uint32_t i, count = inputs.count
        for i in range(count):
            input = &self.memory.slots[edges[i].input]
            edge_at = <uint64_t> (<char *> &edges[i] - self.memory.base)
            while True:
                head = ff_load64(&input.waiters)
                if head == WAITERS_CLOSED:
                    if status_of(ff_load64(&input.state)) == FAILED:
                        self._fail_from(index, input)
                    inputs_clear(inputs, i)
                    break
                edges[i].next = head
                if ff_cas64(&input.waiters, head, edge_at):
                    break
        if inputs_clear(inputs, count):
            promote(&self.memory, self.me, index)
            release_bits(&self.memory, index, HOLD_EDGES)

    cdef void _fail_from(self, uint32_t index, Slot *cause) noexcept:
        self._fail_with_bytes(index, result_of(&self.memory, cause), cause.result_bytes, cause.result_kind)

    cdef _fail_unstarted(self, uint32_t index, bytes error):
        self._fail_with_bytes(index, PyBytes_AS_STRING(error), len(error), KIND_NATIVE)

    cdef void _fail_with_bytes(self, uint32_t index, const char *data, uint64_t nbytes, uint32_t kind) noexcept:
        """Finishes a task that nobody has started; one that somebody claims meanwhile goes on."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef uint64_t state = ff_load64(&slot.state)
        while status_of(state) == WAITING or status_of(state) == READY:
            if ff_cas64(&slot.state, state, with_status(state, RUNNING, self.me)):
                write_result(&self.memory, slot, data, nbytes, kind)
                finish(&self.memory, self.me, index, FAILED)
                return
            state = ff_load64(&slot.state)

    def put(self, value):
        """Stores a value once; returns its `ObjectRef`."""
        cdef int64_t index
        cdef ObjectRef ref
        cdef Slot *slot
        self.check()
        index = self._new_slot()
        slot = &self.memory.slots[index]
        slot.lane = 0
        try:
            self._write_value(slot, value)
        except BaseException:
            slot_return(&self.memory, <uint32_t> index)
            raise
        slot.holds = HOLD_CREATOR
        slot.waiters = WAITERS_CLOSED
        ff_exchange64(&slot.state, with_status(slot.state, DONE, self.me))
        ref = ObjectRef.__new__(ObjectRef)
        ref.runtime = self
        ref.index = <uint32_t> index
        return ref

    def promise(self):
        """A future that this process fulfils itself: for a value that comes from outside the segment."""
        cdef int64_t index
        cdef ObjectFuture future
        self.check()
        index = self._new_slot()
        self.memory.slots[index].lane = 0
        ff_exchange64(&self.memory.slots[index].state, with_status(self.memory.slots[index].state, RUNNING, self.me))
        future = ObjectFuture.__new__(ObjectFuture)
        future.runtime = self
        future.index = <uint32_t> index
        return future

    def fulfil(self, ObjectFuture future, value, bytes error=None):
        """Finishes a `promise`: with a value, or with an error as `pickling.dump_error` writes it."""
        cdef Slot *slot = &self.memory.slots[future.index]
        if error is None:
            self._write_value(slot, value)
            finish(&self.memory, self.me, future.index, DONE)
        else:
            write_result(&self.memory, slot, PyBytes_AS_STRING(error), len(error), KIND_NATIVE)
            finish(&self.memory, self.me, future.index, FAILED)

    cdef int _write_value(self, Slot *slot, value) except -1:
        """Writes an outcome into a slot that this process owns."""
        cdef Scratch scratch = self.scratch if self.scratch is not None else Scratch()
        cdef uint64_t block = 0, nbytes
        self.scratch = None
        scratch.size = 0
        try:
            if encode_native(scratch, value, None, self, NATIVE_DEPTH) == NATIVE_OK:
                if scratch.size <= INLINE_BYTES:
                    memcpy(slot.data, scratch.data, scratch.size)
                else:
                    block = self.store(scratch.data, scratch.size)
                slot.result_bytes = scratch.size
                slot.result_kind = KIND_NATIVE
            else:
                data, buffers = self.pickling.dump_value(self, value)
                nbytes = pickled_size(data, buffers)
                block = arena_take(self.memory.base, nbytes)
                if block == 0:
                    raise self.full(nbytes)
                try:
                    write_pickled(self.memory.base + block, data, buffers)
                except BaseException:
                    arena_free(self.memory.base, block)
                    raise
                slot.result_bytes = nbytes
                slot.result_kind = KIND_PICKLE
        finally:
            self.scratch = scratch
        slot.result = block
        return 0

    # ---- outcomes ---------------------------------------------------------------------------------------------------

    cdef object value_of(self, uint32_t index):
        """The value of a finished slot that the caller holds, or its error raised."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef const char *at
        if status_of(slot.state) == FAILED:
            raise self.error_of(index)
        at = result_of(&self.memory, slot)
        if slot.result_kind == KIND_NATIVE:
            return decode_native(&at, at + slot.result_bytes, None)
        data, buffers = read_pickled(at)
        return self.pickling.load_value(self, data, buffers)

    cdef object error_of(self, uint32_t index):
        cdef Slot *slot = &self.memory.slots[index]
        cdef const char *at = result_of(&self.memory, slot)
        if slot.result_bytes == 0:
            return self.full(0)
        return self.pickling.load_error(*decode_native(&at, at + slot.result_bytes, None))

    cdef int wait_one(self, Handle handle, int64_t deadline) except -1:
        """Returns once the slot is finished; TimeoutError, INVALID_STATE or KeyboardInterrupt otherwise."""
        if is_finished(&self.memory, handle.index):
            return 0
        self.check()
        if deadline >= 0 and ff_now_ns() >= deadline:
            raise TimeoutError("the call has not finished in time; it goes on")
        with nogil:
            if spin_for_outcome(&self.memory, self.me, handle.index):
                return 0
        return self._sleep_until(handle.index, deadline)

    cdef int _sleep_until(self, uint32_t index, int64_t deadline) except -1:
        cdef Process *process = &self.memory.processes[self.me]
        cdef bint in_task = process.current != 0 and self.task_thread == threading.get_ident()
        cdef int64_t left, slice_ns = PATIENCE_NS if in_task else SLICE_NS
        cdef uint32_t seen
        cdef bint blocked = False
        ff_exchange32(&self.memory.slots[index].watched, 1)
        if in_task:
            ff_exchange64(&process.waits_for, index + 1)
        try:
            if in_task and deadline < 0 and never_ends(&self.memory, <uint32_t> process.current - 1, index):
                raise FlameError(
                    FlameErrorCode.INVALID_STATE,
                    "this wait can never end: the call waited for needs the one that waits (a method that waits for a "
                    "call of its own instance, or a ring of such); return the future instead, or use another instance",
                )
            while True:
                seen = ff_load32(&process.wake)
                if is_finished(&self.memory, index):
                    return 0
                if self.closed:
                    self.check()
                left = slice_ns
                if deadline >= 0:
                    left = min(left, deadline - ff_now_ns())
                    if left <= 0:
                        raise TimeoutError("the call has not finished in time; it goes on")
                with nogil:
                    sleep_for_futures(&self.memory, self.me, seen, left)
                PyErr_CheckSignals()
                if in_task and not blocked and not is_finished(&self.memory, index):
                    blocked = True
                    slice_ns = SLICE_NS
                    self.set_blocked(True)
        finally:
            if in_task:
                ff_exchange64(&process.waits_for, 0)
            if blocked:
                self.set_blocked(False)

    cdef set_blocked(self, bint blocked):
        """Tells the zygote that this process's task waits for others: the pool then has one worker too few."""
        ff_exchange32(&self.memory.processes[self.me].blocked, blocked)
        if blocked:
            wake_sleepers(&self.memory.header.pool_sleepers, &self.memory.header.pool_wake, PROCESS_COUNT)
        ring_bell(self.doorbell)

    def wait_any(self, list handles, timeout=None):
        """Sleeps until one of the handles, all of this runtime, is finished; returns the positions of all that are."""
        cdef int64_t deadline = deadline_of(timeout), left, slice_ns
        cdef Process *process = &self.memory.processes[self.me]
        cdef bint in_task = process.current != 0 and self.task_thread == threading.get_ident(), blocked = False
        cdef uint32_t seen
        cdef Py_ssize_t i
        slice_ns = PATIENCE_NS if in_task else SLICE_NS
        for i in range(len(handles)):
            ff_exchange32(&self.memory.slots[(<Handle> handles[i]).index].watched, 1)
        try:
            while True:
                seen = ff_load32(&process.wake)
                ready = [i for i in range(len(handles)) if is_finished(&self.memory, (<Handle> handles[i]).index)]
                if ready:
                    return ready
                self.check()
                left = slice_ns
                if deadline >= 0:
                    left = min(left, deadline - ff_now_ns())
                    if left <= 0:
                        raise TimeoutError("none of the calls has finished in time; they go on")
                with nogil:
                    sleep_for_futures(&self.memory, self.me, seen, left)
                PyErr_CheckSignals()
                if in_task and not blocked:
                    blocked = True
                    slice_ns = SLICE_NS
                    self.set_blocked(True)
        finally:
            if blocked:
                self.set_blocked(False)

    def get_many(self, list handles, timeout=None):
        """The values of handles of this runtime, in order; the first failure in this order is raised."""
        cdef int64_t deadline = deadline_of(timeout)
        cdef list values = []
        for handle in handles:
            self.wait_one(<Handle> handle, deadline)
            values.append(self.value_of((<Handle> handle).index))
        return values

    def owns(self, obj):
        """Whether something is a future or ref of this runtime."""
        return isinstance(obj, Handle) and (<Handle> obj).runtime is self

    def number_input(self, list inputs, Handle handle):
        """For the pickler: the input number of a future met inside an argument."""
        return self.input_number(inputs, handle)

    # ---- a worker's life --------------------------------------------------------------------------------------------

    def serve(self, host):
        """Runs the tasks of this process's lanes until told to leave.

        `host` (see `flame_fast.engine.worker`) loads services, writes errors, and holds the list `partial`, not empty while
        some output has not been written yet.
        """
        cdef Process *process = &self.memory.processes[self.me]
        cdef int64_t index
        cdef list partial = host.partial
        self.task_thread = threading.get_ident()
        while True:
            with nogil:
                index = self._find_task()
            if index == CLAIM_EMPTY:
                if self._load_ahead(host):
                    continue
                host.flush()
                with nogil:
                    index = self._wait_for_task()
                if index == CLAIM_EMPTY:
                    if self._shall_leave():
                        return
                    PyErr_CheckSignals()
                    continue
            self._run(host, <uint32_t> index)
            if partial:
                host.flush()

    def serve_inline(self):
        """From now on this process runs all tasks itself; no worker will come."""
        self.inline = True
        self.busy_lanes = set()

    def run_queued(self, host):
        """Runs what is queued in every lane, in this very thread: the inline engine's worker.

        A call of an instance that is just running stays queued until that one is over, as in a process of its own.
        """
        cdef int64_t index
        cdef uint32_t lane
        cdef uint64_t outer = self.memory.processes[self.me].current
        cdef unsigned long outer_thread = self.task_thread
        self.task_thread = threading.get_ident()
        try:
            for lane in range(LANE_COUNT):
                if self.memory.lanes[lane].state == LANE_FREE or lane in self.busy_lanes:
                    continue
                if self.memory.lanes[lane].ordered:
                    self.busy_lanes.add(lane)
                while True:
                    index = lane_claim(&self.memory, lane, self.me)
                    if index == CLAIM_EMPTY:
                        break
                    self._run(host, <uint32_t> index)
                self.busy_lanes.discard(lane)
        finally:
            ff_exchange64(&self.memory.processes[self.me].current, outer)
            self.task_thread = outer_thread

    cdef bint _shall_leave(self) noexcept nogil:
        cdef Process *process = &self.memory.processes[self.me]
        if ff_load32(&self.memory.header.closing) or ff_load32(&process.retiring):
            return True
        return process.role == ROLE_INSTANCE and ff_load32(&self.memory.lanes[process.lane].state) == LANE_CLOSING

    cdef int64_t _find_task(self) noexcept nogil:
        cdef Process *process = &self.memory.processes[self.me]
        cdef Lane *lane
        cdef uint32_t high, i, at
        cdef int64_t index
        if ff_load32(&self.memory.header.closing) or ff_load32(&process.retiring):
            return CLAIM_EMPTY
        if process.role == ROLE_INSTANCE:
            return lane_claim(&self.memory, process.lane, self.me)
        high = ff_load32(&self.memory.header.pool_lane_high)
        if high == 1:
            return lane_claim(&self.memory, 0, self.me)
        for i in range(high):
            at = (self.next_lane + i) % high
            lane = &self.memory.lanes[at]
            if lane.state == LANE_FREE or lane_empty(&self.memory, at):
                continue
            if lane.limit and not seat_take(&self.memory, at, self.me):
                continue
            index = lane_claim(&self.memory, at, self.me)
            if index != CLAIM_EMPTY:
                self.next_lane = at + 1
                return index
            if lane.limit and not lane.sticky:
                seat_leave(&self.memory, at, self.me)
        return CLAIM_EMPTY

    cdef int64_t _wait_for_task(self) noexcept nogil:
        """Spins, then sleeps; CLAIM_EMPTY when woken for another reason than a task, or for none."""
        cdef Process *process = &self.memory.processes[self.me]
        cdef bint instance = process.role == ROLE_INSTANCE
        cdef uint32_t *sleepers = &self.memory.lanes[process.lane].sleepers if instance else &self.memory.header.pool_sleepers
        cdef uint32_t *word = &self.memory.lanes[process.lane].wake if instance else &self.memory.header.pool_wake
        cdef int64_t start = ff_now_ns(), index = CLAIM_EMPTY
        cdef uint32_t seen, count
        cdef int i, token = 0
        while True:
            for i in range(16):
                index = self._find_task()
                if index != CLAIM_EMPTY:
                    break
                ff_pause()
            if index != CLAIM_EMPTY or self._shall_leave():
                break
            if not token:
                token = token_take(&self.memory, self.me)
            if ff_now_ns() - start > (SPIN_NS if token else SPIN_FREE_NS):
                break
        if token:
            token_give(&self.memory, self.me)
        if index != CLAIM_EMPTY:
            return index
        seen = ff_load32(word)
        process.sleeping = 1
        ff_add32(sleepers, 1)
        index = self._find_task()           # pairs with the fence in wake_sleepers
        if index == CLAIM_EMPTY and not self._shall_leave() and not ff_load32(&self.memory.header.warm_left):
            ff_futex_wait(word, seen, 1_000_000_000)
        # A waker has taken this process off the count if the word moved; otherwise it does so itself.
        process.sleeping = 0
        if ff_load32(word) == seen:
            count = ff_load32(sleepers)
            while count and not ff_cas32(sleepers, count, count - 1):
                count = ff_load32(sleepers)
        return index

    cdef int _load_ahead(self, host) except -1:
        """Loads one service whose `warmup` asks for it; 0 when there is none for this worker."""
        cdef uint32_t i, left
        cdef Service *entry
        if not ff_load32(&self.memory.header.warm_left) or self.memory.processes[self.me].role != ROLE_POOL:
            return 0
        for i in range(ff_load32(&self.memory.header.service_high)):
            entry = &self.memory.services[i]
            left = ff_load32(&entry.warm_left)
            if ff_load32(&entry.state) != SERVICE_OPEN or not left or host.has_loaded(i, entry.generation):
                continue
            if self.memory.lanes[entry.lane].limit and not seat_take(&self.memory, entry.lane, self.me):
                continue
            if ff_cas32(&entry.warm_left, left, left - 1):
                ff_add32(&self.memory.header.warm_left, <uint32_t> -1)
                host.load_ahead(i, entry.generation)
                return 1
        return 0

    cdef _run(self, host, uint32_t index):
        """Executes a claimed task and finishes it, whatever happens."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Process *process = &self.memory.processes[self.me]
        cdef Lane *lane = &self.memory.lanes[slot.lane]
        cdef uint32_t lane_index = slot.lane, status = DONE
        cdef bytes error
        ff_exchange64(&process.current, index + 1)
        try:
            function, args, kwargs = self._call_of(host, slot)
            value = function(*args, **kwargs) if kwargs else function(*args)
            function = args = kwargs = None
            if type(value) not in PLAIN:
                value = host.settle(value)
            self._write_value(slot, value)
            value = None
        except BaseException as problem:
            function = args = kwargs = value = None
            error = host.dump_error(problem)
            write_result(&self.memory, slot, PyBytes_AS_STRING(error), len(error), KIND_NATIVE)
            status = FAILED
        ff_exchange64(&process.current, 0)
        finish(&self.memory, self.me, index, status)
        if lane.limit and not lane.sticky:
            seat_leave(&self.memory, lane_index, self.me)
            if not lane_empty(&self.memory, lane_index):
                wake_lane(&self.memory, lane_index)

    cdef tuple _call_of(self, host, Slot *slot):
        cdef const char *at = payload_of(&self.memory, slot)
        cdef const char *end = at + slot.payload_bytes
        cdef Service *service = &self.memory.services[slot.service]
        function = host.function_of(slot.service, service.generation, slot.method)
        values = self._input_values(slot) if slot.inputs else None
        if slot.payload_kind == KIND_NATIVE:
            args = decode_native(&at, end, values)
            pairs = decode_native(&at, end, values)
            return function, args, None if pairs is None else dict(zip(pairs[::2], pairs[1::2]))
        data, buffers = read_pickled(at)
        if slot.payload_kind & KIND_FUNCTION:
            return self.pickling.load_call(self, data, buffers, values)
        args, kwargs = self.pickling.load_call(self, data, buffers, values)
        return function, args, kwargs

    cdef list _input_values(self, Slot *slot):
        cdef Inputs *inputs = <Inputs *> (self.memory.base + slot.inputs)
        cdef Edge *edges = <Edge *> (<char *> inputs + sizeof(Inputs))
        cdef uint32_t i
        return [self.value_of(edges[i].input) for i in range(inputs.count)]

    # ---- supervision ------------------------------------------------------------------------------------------------

    def processes(self):
        """The process table: a list of (index, state, role, lane, pid, blocked, idle)."""
        cdef uint32_t i
        cdef Process *process
        table = []
        for i in range(2, ff_load32(&self.memory.header.process_high)):
            process = &self.memory.processes[i]
            state = ff_load32(&process.state)
            if state >= PROCESS_REQUESTED:
                table.append((i, state, process.role, process.lane, process.pid, process.blocked, process.current == 0))
        return table

    def started(self, uint32_t index, uint32_t pid):
        """The zygote has forked the process of an entry."""
        self.memory.processes[index].pid = pid
        ff_store32(&self.memory.processes[index].state, PROCESS_LIVE)

    def retire(self, uint32_t index):
        """Asks an idle pool worker to leave."""
        ff_store32(&self.memory.processes[index].retiring, 1)
        wake_sleepers(&self.memory.header.pool_sleepers, &self.memory.header.pool_wake, PROCESS_COUNT)

    def running_service(self, uint32_t index):
        """(service, method) of the task a process runs, or its instance's service; None if neither."""
        cdef uint64_t current = self.memory.processes[index].current
        cdef uint32_t i
        if current:
            return self.memory.slots[current - 1].service, self.memory.slots[current - 1].method
        if self.memory.processes[index].role == ROLE_INSTANCE:
            for i in range(self.memory.header.service_high):
                if self.memory.services[i].lane == self.memory.processes[index].lane and self.memory.services[i].state >= SERVICE_OPEN:
                    return i, NO_METHOD
        return None

    def bury(self, uint32_t index, bytes error):
        """Settles what a dead process left. Called by the zygote, after the kernel reported the end.

        1 the task it ran fails with `error`; 2 its futures are dropped; 3 a task it was queueing is queued; 4 its seats, its
        token and its place among the sleepers are given back; 5 its services close; 6 an instance's lane dies with its
        queue; 7 the entry is free. Each step may be done twice.
        """
        cdef Process *process = &self.memory.processes[index]
        cdef uint32_t i, count, high = min(ff_load32(&self.memory.header.slot_high), SLOT_COUNT - SLOT_SPARE)
        cdef uint64_t state
        cdef Slot *slot
        cdef Lane *lane
        for i in range(high):
            slot = &self.memory.slots[i]
            state = ff_load64(&slot.state)
            if status_of(state) == RUNNING and owner_of(state) == index:
                slot.state = with_status(state, RUNNING, self.me)
                write_result(&self.memory, slot, PyBytes_AS_STRING(error), len(error), KIND_NATIVE)
                finish(&self.memory, self.me, i, FAILED)
        for i in range(high):
            slot = &self.memory.slots[i]
            if status_of(ff_load64(&slot.state)) != FREE and slot.creator == index:
                release_bits(&self.memory, i, HOLD_CREATOR)
        if process.promoting:
            i = <uint32_t> process.promoting - 1
            state = ff_load64(&self.memory.slots[i].state)
            if status_of(state) == READY and not self.memory.lanes[self.memory.slots[i].lane].ordered:
                lane_push(&self.memory, self.memory.slots[i].lane, i)
                wake_lane(&self.memory, self.memory.slots[i].lane)
        for i in range(1, ff_load32(&self.memory.header.pool_lane_high)):
            if self.memory.lanes[i].limit:
                seat_leave(&self.memory, i, index)
                if not lane_empty(&self.memory, i):
                    wake_lane(&self.memory, i)
        if process.spinning:
            token_give(&self.memory, index)
        if process.sleeping and process.role == ROLE_POOL:
            count = ff_load32(&self.memory.header.pool_sleepers)
            if count:
                ff_cas32(&self.memory.header.pool_sleepers, count, count - 1)
        for i in range(ff_load32(&self.memory.header.service_high)):
            if self.memory.services[i].creator == index and index != DRIVER:
                if ff_cas32(&self.memory.services[i].state, SERVICE_OPEN, SERVICE_CLOSING):
                    self._stop_warming(&self.memory.services[i])
        if process.role == ROLE_INSTANCE:
            self._bury_lane(process.lane, error, high)
        ff_store32(&process.state, PROCESS_FREE)
        self.reap_services()

    cdef int _bury_lane(self, uint32_t lane_index, bytes error, uint32_t high) except -1:
        """An instance's process has ended: if nobody wants its lane any more it is free, otherwise the lane is dead."""
        cdef Lane *lane = &self.memory.lanes[lane_index]
        cdef uint32_t i
        cdef uint64_t state
        if ff_load32(&lane.state) == LANE_CLOSING:
            ff_store32(&lane.state, LANE_FREE)
            return 0
        lane.error_bytes = len(error)
        lane.error = self.store(PyBytes_AS_STRING(error), len(error))
        ff_exchange32(&lane.state, LANE_DEAD)
        for i in range(high):
            state = ff_load64(&self.memory.slots[i].state)
            if self.memory.slots[i].lane == lane_index and (status_of(state) == READY or status_of(state) == WAITING):
                self._fail_unstarted(i, error)
        return 0

    # ---- the end ----------------------------------------------------------------------------------------------------

    @property
    def closing(self):
        return bool(ff_load32(&self.memory.header.closing))

    def announce_close(self):
        """Tells every process to leave. Returns how many calls are unfinished."""
        cdef uint32_t i, unfinished = 0, status
        for i in range(min(ff_load32(&self.memory.header.slot_high), SLOT_COUNT - SLOT_SPARE)):
            status = status_of(ff_load64(&self.memory.slots[i].state))
            if WAITING <= status <= RUNNING:
                unfinished += 1
        ff_store32(&self.memory.header.closing, 1)
        ff_add32(&self.memory.header.pool_wake, 1)
        ff_futex_wake(&self.memory.header.pool_wake, PROCESS_COUNT)
        for i in range(POOL_LANES, LANE_COUNT):
            if self.memory.lanes[i].state != LANE_FREE:
                ff_add32(&self.memory.lanes[i].wake, 1)
                ff_futex_wake(&self.memory.lanes[i].wake, PROCESS_COUNT)
        ring_bell(self.doorbell)
        return unfinished

    def mark_closed(self):
        """From here on unfinished futures of this process raise; threads that wait for one wake up to do so."""
        self.closed = True
        wake_waiters(&self.memory, self.me)

    def counters(self):
        """What is in use: a dict of live slots, bytes of live blocks, their peak and their limit."""
        cdef uint32_t i, live = 0
        for i in range(min(ff_load32(&self.memory.header.slot_high), SLOT_COUNT - SLOT_SPARE)):
            live += status_of(ff_load64(&self.memory.slots[i].state)) != FREE
        return {"slots": live, "bytes": self.memory.header.live_bytes, "peak": self.memory.header.peak_bytes,
                "limit": self.memory.header.limit}


cdef tuple PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict)
