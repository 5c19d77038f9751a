# Services and their queues: open, start, close, and free them once none of their calls is left.
# uses: segment

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from .core.externs cimport (
    ff_add32, ff_cas32, ff_exchange32, ff_futex_wake, ff_load32, ff_load64, ff_or32, ff_pause, ff_store32,
)
from .core.layout cimport (
    ENDING, PERMIT_COUNT, POOL_QUEUES, PRELOAD_HEAVY, PROCESS_COUNT, PROCESS_FREE, PROCESS_LIVE, PROCESS_REQUESTED,
    PROCESS_STARTING, QUEUE_CLOSING, QUEUE_COUNT,
    QUEUE_FREE, QUEUE_OPEN, RESERVED, ROLE_INSTANCE, ROLE_POOL, ROLE_SPARE, SERVICE_CLOSING, SERVICE_COUNT,
    SERVICE_FREE, SERVICE_OPEN, STANDING_NOT, WAITING, Process, RunQueue, Service,
)
from .core.regions cimport Memory
from .core.bounds cimport is_within, queue_number, service_number
from .core.lookup cimport next_taken, processes_used, services_used, slots_used, status_of
from .core.wakeup cimport ring_bell, wake_sleepers, wake_spares
from .core.blocks cimport block_free, block_published

cdef enum:
    CALL_SPINS = 1000           # looks at a process that submits a call, which takes less than a microsecond

cdef bint is_calling(Memory *memory) noexcept nogil:
    """Return whether a process may be submitting a call of a service that it found open before that was closed.

    Memory order: the submitter names a slot in `building`, by a full barrier, before it looks at the service, and until the
    call is published. A submitter that names a slot anew looks anew.
    """
    cdef uint32_t i, looks
    cdef uint64_t building
    for i in range(processes_used(memory)):
        # S17: pairs with `member_alloc` and `_publish`
        building = ff_load64(&memory.processes[i].building)
        looks = 0
        while building and ff_load64(&memory.processes[i].building) == building:
            looks += 1
            if looks == CALL_SPINS:
                return True
            ff_pause()
    return False

cdef class Services(Segment):
    """A process's view of the services and of the process table: what clients, workers and the supervisor share."""

    def add_service(self, bytes blob, *, bint instance=False, int limit=0, bint sticky=False, int warmup=0,
                    uint32_t preload=0, bint restart=False):
        """Open a service; return (service, generation, queue).

        Parameters
        ----------
        blob : bytes
            What a worker's host needs to load it.
        instance : bool
            A queue and a process of its own, calls strictly in order.
        limit : int
            Workers that may serve it at the same time; 0: all.
        sticky : bool
            With a limit: a worker that served it once keeps its permit.
        warmup : int
            Workers that load it before its first call.
        preload : int
            Libraries that the supervisor (zygote) shall load for it; see `flame_fast.engine.preload`.
        restart : bool
            Of an instance: when its process dies, another one begins with the object in `blob`.
        """
        cdef uint32_t queue = 0, service
        cdef uint64_t block
        self.check()
        self.reap_services()
        if preload & ~ff_load32(&self.memory.header.preload) and not self.inline:
            self._ask_preload(preload)
        blob = with_checksum(blob)
        block = self.store(blob)
        try:
            if instance or limit:
                queue = self._reserve_queue(instance)
                self._prepare_queue(&self.memory.queues[queue], instance, limit, sticky)
                self.memory.queues[queue].restart = restart
            service = self._reserve_service()
        except BaseException:
            block_published(&self.memory)     # first: what is freed must not be named any more
            block_free(&self.memory, block)
            if queue:
                ff_store32(&self.memory.queues[queue].state, QUEUE_FREE)
            raise
        self._open_service(service, queue, block, len(blob), 0 if instance else warmup)
        self._begin_warmup(service, instance, warmup)
        return service, self.memory.services[service].generation, queue

    cdef void _prepare_queue(self, RunQueue *queue, bint instance, int limit, bint sticky) noexcept:
        queue.ordered = instance
        queue.limit = min(limit, PERMIT_COUNT)
        queue.sticky = sticky
        queue.process = queue.home = queue.urgent = queue.restart = queue.failed_starts = 0
        queue.sleepers = 0
        memset(queue.permits, 0, sizeof(queue.permits))

    cdef void _open_service(self, uint32_t service, uint32_t queue, uint64_t blob, uint64_t nbytes,
                            uint32_t warm_left) noexcept:
        """Fill in a reserved service, and open it and its queue."""
        self.memory.services[service].queue = queue
        self.memory.services[service].creator = self.me
        self.memory.services[service].blob = blob
        self.memory.services[service].blob_bytes = nbytes
        block_published(&self.memory)
        self.memory.services[service].warm_left = warm_left
        self.memory.services[service].spare = 0
        # Invariant: an open queue belongs to some service, or is queue 0: see _recover_services.
        ff_store32(&self.memory.queues[queue].state, QUEUE_OPEN)
        ff_store32(&self.memory.services[service].state, SERVICE_OPEN)

    cdef int _begin_warmup(self, uint32_t service, bint instance, int warmup) except -1:
        if warmup and not instance:
            ff_add32(&self.memory.header.warm_left, warmup)
            wake_sleepers(&self.memory.header.pool_wake, PROCESS_COUNT)
        elif warmup:
            self.start_instance(service)
        return 0

    cdef void _ask_preload(self, uint32_t libraries) noexcept:
        """Have the supervisor load libraries, and idle workers without them leave.

        Workers forked with the libraries take their place. A worker that has a class service's object stays. So does one
        other if the import takes long, for calls that need none of them.
        """
        cdef uint32_t i
        cdef Process *process
        cdef bint one_stays = libraries >= PRELOAD_HEAVY
        ff_or32(&self.memory.header.preload, libraries)
        for i in range(2, processes_used(&self.memory)):
            process = &self.memory.processes[i]
            if one_stays and process.role == ROLE_POOL and ff_load32(&process.state) in (PROCESS_STARTING, PROCESS_LIVE) \
                    and not ff_load32(&process.retiring):
                one_stays = False
                continue
            if process.role in (ROLE_POOL, ROLE_SPARE) and not process.stateful and libraries & ~process.preloaded:
                # S7: pairs with `sleep_begin` and `_shall_leave`
                ff_store32(&process.retiring, 1)
        wake_sleepers(&self.memory.header.pool_wake, PROCESS_COUNT)
        wake_spares(&self.memory)
        ring_bell(self.doorbell)

    def keep_spare(self, uint32_t service, uint64_t generation):
        """Have a spare worker load a service, to take the place of one that is ended by force because of its call."""
        cdef Service *entry = &self.memory.services[service]
        if self.inline or entry.generation != generation or not self._is_replaced(queue_number(&self.memory, entry.queue)) \
                or ff_exchange32(&entry.spare, 1):
            return
        if ff_cas32(&self.memory.header.spares, 0, 1):
            ring_bell(self.doorbell)
        wake_spares(&self.memory)

    cdef bint _is_replaced(self, uint32_t queue) noexcept:
        """Return whether a process that serves a queue has a successor when it dies."""
        return queue < POOL_QUEUES or self.memory.queues[queue].restart != 0

    def make_urgent_queue(self, uint32_t queue_index):
        """Return the queue of another queue's urgent calls, which are served before those; make it if there is none."""
        cdef RunQueue *home = &self.memory.queues[queue_index]
        cdef RunQueue *queue
        cdef uint32_t urgent = queue_number(&self.memory, ff_load32(&home.urgent))
        if urgent:
            return urgent
        urgent = self._reserve_queue(home.ordered)
        queue = &self.memory.queues[urgent]
        self._prepare_queue(queue, home.ordered, 0, False)
        queue.home = queue_index + 1
        if not ff_cas32(&home.urgent, 0, urgent):       # another thread or process was faster
            ff_store32(&queue.state, QUEUE_FREE)
            return ff_load32(&home.urgent)
        ff_store32(&queue.state, QUEUE_OPEN)
        ff_add32(&self.memory.header.urgent_queues, 1)
        return urgent

    cdef uint32_t _reserve_queue(self, bint instance) except 0:
        cdef uint32_t i
        for i in range(POOL_QUEUES if instance else 1, QUEUE_COUNT if instance else POOL_QUEUES):
            if instance:
                ff_cas32(&self.memory.header.instance_queue_high, i, i + 1)
            else:
                ff_cas32(&self.memory.header.pool_queue_high, i, i + 1)
            if ff_load32(&self.memory.queues[i].state) == QUEUE_FREE and \
                    ff_cas32(&self.memory.queues[i].state, QUEUE_FREE, RESERVED + self.me):
                return i
        kind, most = ("instance services", QUEUE_COUNT - POOL_QUEUES) if instance else ("limited services", POOL_QUEUES - 1)
        raise FlameError(FlameErrorCode.INVALID_STATE, f"runner {self.name!r} has {most} {kind} open; close some first")

    cdef int64_t _reserve_service(self) except -1:
        cdef uint32_t i
        for i in range(SERVICE_COUNT):
            ff_cas32(&self.memory.header.service_high, i, i + 1)    # first: a recovery looks no further
            if ff_load32(&self.memory.services[i].state) == SERVICE_FREE and \
                    ff_cas32(&self.memory.services[i].state, SERVICE_FREE, RESERVED + self.me):
                self.memory.services[i].generation += 1
                return i
        raise FlameError(FlameErrorCode.INVALID_STATE,
                         f"runner {self.name!r} has {SERVICE_COUNT} services open; close some first")

    def start_instance(self, uint32_t service):
        """Ask the supervisor for the process of an instance service. Idempotent."""
        cdef uint32_t queue = queue_number(&self.memory, self.memory.services[service].queue), process
        if self.inline:
            ff_cas32(&self.memory.queues[queue].process, 0, self.me + 1)
        if ff_load32(&self.memory.queues[queue].process):
            return
        process = self.request_process(ROLE_INSTANCE, queue)
        if ff_cas32(&self.memory.queues[queue].process, 0, process + 1):
            ff_store32(&self.memory.processes[process].state, PROCESS_REQUESTED)
            ring_bell(self.doorbell)
        else:
            ff_store32(&self.memory.processes[process].state, PROCESS_FREE)

    def request_process(self, uint32_t role, uint32_t queue):
        """Reserve an entry of the process table; return its index. RESERVED: no other process may use it."""
        cdef uint32_t i
        cdef Process *process
        for i in range(2, PROCESS_COUNT):
            process = &self.memory.processes[i]
            ff_cas32(&self.memory.header.process_high, i, i + 1)
            if ff_load32(&process.state) == PROCESS_FREE and ff_cas32(&process.state, PROCESS_FREE, RESERVED + self.me):
                process.role = role
                process.queue = queue
                process.started_at = 0
                process.wake = process.waiters = process.watching = process.blocked = process.spinning = 0
                process.sleeping = process.retiring = process.stateful = 0
                process.current = process.building = process.taking = process.releasing_edge = process.loaded = 0
                process.standing = STANDING_NOT
                process.promoting = process.rotating = 0
                return i
        raise FlameError(FlameErrorCode.INVALID_STATE,
                         f"runner {self.name!r} has {PROCESS_COUNT} processes; close some services")

    def service_blob(self, uint32_t service):
        """Return what a worker's host needs to load a service; anything, if it is freed meanwhile: see `is_service`."""
        cdef Service *entry = &self.memory.services[service_number(&self.memory, service)]
        cdef uint64_t blob = ff_load64(&entry.blob), nbytes = entry.blob_bytes, generation = entry.generation
        data = None
        if is_within(&self.memory, blob, nbytes):
            data = bytes_if_sound(self.memory.base + blob, nbytes)
        if data is None and self.is_service(service, generation) and ff_load64(&entry.blob) == blob:
            raise self.damage()
        return data or b""

    def is_service(self, uint32_t service, uint64_t generation):
        """Return whether calls of a service may still come to a worker."""
        cdef Service *entry = &self.memory.services[service]
        return ff_load32(&entry.state) in (SERVICE_OPEN, SERVICE_CLOSING) and entry.generation == generation

    def close_service(self, uint32_t service, uint64_t generation):
        """Refuse new calls of a service; those submitted go on. Its entry is freed once none of them is left."""
        cdef Service *entry = &self.memory.services[service]
        if not self.is_mine() or self.closed or entry.generation != generation:
            return
        # S17: pairs with `_publish`
        if ff_cas32(&entry.state, SERVICE_OPEN, SERVICE_CLOSING):
            self._stop_warming(entry)
            if self.reap_services():
                ring_bell(self.doorbell)

    cdef void _stop_warming(self, Service *entry) noexcept:
        ff_add32(&self.memory.header.warm_left, -ff_exchange32(&entry.warm_left, 0))

    def reap_services(self):
        """Free closed services that no unfinished task names, nor one being submitted; return how many are left."""
        cdef uint32_t i
        cdef int left = 0
        cdef Service *entry
        closing = [i for i in range(services_used(&self.memory))
                   if ff_load32(&self.memory.services[i].state) == SERVICE_CLOSING]
        if not closing:
            return 0
        # S17: pairs with `_publish`
        if is_calling(&self.memory):            # after the list: what closes later is not looked at
            return len(closing)
        busy = self._busy_services()            # after that: each submitter has published its call
        for i in closing:
            entry = &self.memory.services[i]
            if i in busy:
                left += 1
            elif ff_cas32(&entry.state, SERVICE_CLOSING, RESERVED + self.me):
                self._free_service(entry)
        return left

    cdef void _free_service(self, Service *entry) noexcept:
        """Free a reserved entry and what it has. Idempotent."""
        cdef uint64_t blob = entry.blob
        self._release_queue(entry.queue)
        entry.queue = 0
        entry.blob = 0
        if blob:
            block_free(&self.memory, blob)
        ff_store32(&entry.state, SERVICE_FREE)

    cdef set _busy_services(self):
        """Return the services that unfinished tasks name."""
        cdef uint32_t i, status
        busy = set()
        i = next_taken(&self.memory, 0)
        while i < slots_used(&self.memory):
            status = status_of(ff_load64(&self.memory.slots[i].state))
            if WAITING <= status <= ENDING:
                busy.add(self.memory.slots[i].service)
            i = next_taken(&self.memory, i + 1)
        return busy

    cdef void _release_queue(self, uint32_t index) noexcept:
        cdef RunQueue *queue = &self.memory.queues[queue_number(&self.memory, index)]
        if index == 0:
            return
        if queue.process and not self.inline and ff_cas32(&queue.state, QUEUE_OPEN, QUEUE_CLOSING):
            # The supervisor frees it when the process has ended.
            ff_add32(&queue.wake, 1)
            ff_futex_wake(&queue.wake, PROCESS_COUNT)
            return
        self._free_queue(queue)

    cdef void _free_queue(self, RunQueue *queue) noexcept:
        cdef uint64_t error = queue.error
        cdef uint32_t urgent = queue_number(&self.memory, queue.urgent)
        queue.process = 0
        queue.error = 0
        queue.urgent = 0
        if urgent:
            ff_store32(&self.memory.queues[urgent].state, QUEUE_FREE)
        if error:
            block_free(&self.memory, error)
        ff_store32(&queue.state, QUEUE_FREE)
