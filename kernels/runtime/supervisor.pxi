# What the zygote does in the table, and how a runner ends.
# uses: services

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from .core.externs cimport ff_add32, ff_cas32, ff_cas64, ff_exchange64, ff_load32, ff_load64, ff_store32
from .core.layout cimport (
    FAILED, NO_METHOD, PROCESS_COUNT, PROCESS_FREE, PROCESS_LIVE, PROCESS_REQUESTED, PROCESS_STARTING, QUEUE_CLOSING,
    QUEUE_COUNT, QUEUE_DEAD, QUEUE_FREE, QUEUE_OPEN, READY, REF_CREATOR, REF_RECOVERY, RESERVED, ROLE_INSTANCE, RUNNING,
    SERVICE_CLOSING, SERVICE_OPEN, WAITING, ZYGOTE_INDEX, Process, RunQueue, Service,
)
from .core.regions cimport Memory, memory_own
from .core.lookup cimport owner_of, process_word, slots_used, status_of, with_status
from .core.wakeup cimport wake_everybody, wake_sleepers
from .core.permits cimport permit_release
from .core.lock cimport lock_repair
from .core.extents cimport extents_trim
from .core.blocks cimport block_alloc_owned, block_published
from .core.slots cimport release_refs
from .core.run_queue cimport queue_push
from .core.dependencies cimport promote_if_there
from .core.completion cimport finish, write_result
from .core.recovery cimport (
    finish_again, recover_allocation, recover_memory, recover_release, recover_slot, recover_task, repair_waiting,
)

cdef class ProcessInfo:
    """An entry of the process table, as it was at one moment."""
    cdef readonly uint32_t index, state, role, queue, pid
    cdef readonly bint blocked, idle

    def __repr__(self):
        return f"ProcessInfo({self.index}, state={self.state}, role={self.role}, pid={self.pid}, idle={self.idle})"

cdef ProcessInfo process_info(uint32_t index, uint32_t state, Process *process):
    cdef ProcessInfo info = ProcessInfo.__new__(ProcessInfo)
    info.index, info.state, info.role, info.queue, info.pid = index, state, process.role, process.queue, process.pid
    info.blocked, info.idle = process.blocked != 0, process.current == 0
    return info

cdef class Supervisor:
    """What the supervisor does in the tables, of a segment that its process is attached to: starting and retiring processes, and
    recovery after their deaths.

    Parameters
    ----------
    services : Services
        The attachment. It may be a `Worker`'s, which forked processes go on with as their own.
    """
    cdef Services services
    cdef Memory *memory

    def __init__(self, Services services not None):
        self.services = services
        self.memory = &services.memory

    def processes(self):
        """The process table, without what others are just filling in: a list of `ProcessInfo`."""
        cdef uint32_t i
        cdef Process *process
        table = []
        for i in range(2, ff_load32(&self.memory.header.process_high)):
            process = &self.memory.processes[i]
            state = ff_load32(&process.state)
            if state in (PROCESS_REQUESTED, PROCESS_STARTING, PROCESS_LIVE):
                table.append(process_info(i, state, process))
        return table

    def start(self, uint32_t index, uint32_t libraries=0):
        """The zygote is about to fork the process of an entry, with these libraries; returns the token for its `claim_entry`."""
        cdef Process *process = &self.memory.processes[index]
        process.preloaded = libraries
        process.starts += 1
        ff_exchange64(process_word(process), <uint64_t> process.starts << 32 | PROCESS_STARTING)
        return process.starts

    def cancel_start(self, uint32_t index):
        """Undoes `start`: whoever was forked will not take the entry any more. False if it has taken it, or nobody was to."""
        cdef Process *process = &self.memory.processes[index]
        cdef uint64_t word = ff_load64(process_word(process))
        if <uint32_t> word != PROCESS_STARTING:
            return False
        return bool(ff_cas64(process_word(process), word, self._unstarted(index)))

    cdef uint64_t _unstarted(self, uint32_t index) noexcept:
        """The state of an entry without a process: an instance's that its queue names is still to be started."""
        cdef Process *process = &self.memory.processes[index]
        cdef RunQueue *queue = &self.memory.queues[process.queue]
        if process.role == ROLE_INSTANCE and ff_load32(&queue.process) == index + 1 and ff_load32(&queue.state) in (QUEUE_OPEN, QUEUE_CLOSING):
            return PROCESS_REQUESTED
        return PROCESS_FREE

    def start_time(self, uint32_t index):
        """When the process of an entry started; 0 if it has not told."""
        return ff_load64(&self.memory.processes[index].started_at)

    def adopt_supervision(self, uint32_t pid):
        """This process is the zygote from now on; returns the pid of the one before, 0 for none."""
        before = self.memory.processes[ZYGOTE_INDEX].pid
        self.memory.processes[ZYGOTE_INDEX].pid = pid
        return before

    @property
    def preload(self):
        """Libraries that services need, as `add_service` was told."""
        return ff_load32(&self.memory.header.preload)

    def retire(self, uint32_t index):
        """Asks an idle pool worker to leave."""
        ff_store32(&self.memory.processes[index].retiring, 1)
        wake_sleepers(&self.memory.header.pool_wake, PROCESS_COUNT)

    def current_service(self, uint32_t index):
        """(service, method) of the task a process runs, or its instance's service; None if neither."""
        cdef uint64_t current = self.memory.processes[index].current
        cdef uint32_t i
        if current:
            return self.memory.slots[current - 1].service, self.memory.slots[current - 1].method
        if self.memory.processes[index].role == ROLE_INSTANCE:
            for i in range(self.memory.header.service_high):
                if self.memory.services[i].queue == self.memory.processes[index].queue:
                    return i, <uint32_t> NO_METHOD
        return None

    def recover_process(self, uint32_t index, bytes error):
        """Settles what a dead process left. Called by the zygote, after the kernel reported the end.

        1 what it was changing under the lock, a hold, a slot and a block in its hands; 2 a task that it had begun fails with `error`,
        one it had only claimed is for others, what it was finishing is finished; 3 a task it was queueing is queued, one it was
        submitting fails; 4 services it was making or closing; 5 processes it was asking for are asked for; 6 its futures are
        dropped; 7 its permits and its token are given back; 8 its services close, an instance's queue
        dies with its queue; 9 the memory that it held or owned is given back; 10 the entry is free, and whoever it was about to
        call is called. Each step may be done twice.
        """
        cdef Process *process = &self.memory.processes[index]
        cdef const char *data = PyBytes_AS_STRING(error)
        cdef uint64_t nbytes = len(error), state
        cdef uint32_t i, high
        lock_repair(self.memory)
        recover_release(self.memory, index)
        recover_allocation(self.memory, index)
        high = slots_used(self.memory)
        for i in range(high):
            state = ff_load64(&self.memory.slots[i].state)
            if status_of(state) == RUNNING and owner_of(state) == index:
                recover_task(self.memory, i, data, nbytes)
        for i in range(high):
            finish_again(self.memory, i, index)
        for i in range(high):
            repair_waiting(self.memory, i, index, data, nbytes)
        self._queue_again(&process.promoting)
        self._queue_again(&process.rotating)
        for i in range(high):
            recover_slot(self.memory, i, index)
        self._recover_services(index)
        self._recover_requests(index)
        if index == self.memory.me:                # the zygote before this one: the entry goes on
            for i in range(high):
                release_refs(self.memory, i, REF_RECOVERY)
            recover_memory(self.memory, index)
            if not memory_own(self.memory, self.memory.me, self.services.doorbell):
                raise MemoryError
            wake_everybody(self.memory)
            return
        for i in range(high):
            if ff_load32(&self.memory.slots[i].refs) & REF_CREATOR and ff_load32(&self.memory.slots[i].creator) == index:
                release_refs(self.memory, i, REF_CREATOR)
        self._recover_places(process, index)
        for i in range(ff_load32(&self.memory.header.service_high)):
            if self.memory.services[i].creator == index:
                if ff_cas32(&self.memory.services[i].state, SERVICE_OPEN, SERVICE_CLOSING):
                    self.services._stop_warming(&self.memory.services[i])
        self._recover_queue(index, error, high)
        recover_memory(self.memory, index)
        self.memory.header.copied_bytes += process.copied_bytes
        self.memory.header.definitions += process.definitions
        self.memory.header.definition_bytes += process.definition_bytes
        self.memory.header.shared_bytes += process.shared_bytes
        ff_exchange64(process_word(process), PROCESS_FREE)
        self.services.reap_services()
        wake_everybody(self.memory)

    cdef void _queue_again(self, uint64_t *note) noexcept:
        """Queues the task that a dead process was queueing, perhaps once more: one entry of the two is void. Or it was to wait again."""
        cdef uint32_t index = <uint32_t> note[0] - 1
        if note[0]:
            if status_of(ff_load64(&self.memory.slots[index].state)) == READY \
                    and not self.memory.queues[self.memory.slots[index].queue].ordered:
                queue_push(self.memory, self.memory.slots[index].queue, index)
            promote_if_there(self.memory, index)
            note[0] = 0

    cdef void _recover_places(self, Process *process, uint32_t index) noexcept:
        """Permits, the spinner's token, the seeker's place. Whoever sleeps for one of them is called at the recovery's end."""
        cdef uint32_t i
        for i in range(1, ff_load32(&self.memory.header.pool_queue_high)):
            permit_release(self.memory, i, index)
        ff_add32(&self.memory.header.spinners, -process.spinning)
        process.spinning = 0
        ff_cas32(&self.memory.header.seeker, index + 1, 0)

    cdef void _recover_services(self, uint32_t index) noexcept:
        """Entries that it was filling in or emptying."""
        cdef uint32_t i, queue
        cdef Service *entry
        for i in range(ff_load32(&self.memory.header.service_high)):
            entry = &self.memory.services[i]
            if ff_load32(&entry.state) == RESERVED + index:
                queue = ff_load32(&self.memory.queues[entry.queue].state)
                if queue not in (QUEUE_OPEN, QUEUE_DEAD) or self._is_others_queue(entry.queue, i):
                    entry.queue = 0          # it had given it back already, and somebody else may have taken it
                self.services._free_service(entry)
        for i in range(1, QUEUE_COUNT):
            ff_cas32(&self.memory.queues[i].state, RESERVED + index, QUEUE_FREE)

    cdef bint _is_others_queue(self, uint32_t queue, uint32_t service) noexcept:
        cdef uint32_t i
        for i in range(ff_load32(&self.memory.header.service_high)):
            if i != service and self.memory.services[i].queue == queue:
                return True
        return False

    cdef void _recover_requests(self, uint32_t index) noexcept:
        """Entries that it had reserved."""
        cdef uint32_t i
        for i in range(2, ff_load32(&self.memory.header.process_high)):
            if ff_load32(&self.memory.processes[i].state) == RESERVED + index:
                ff_exchange64(process_word(&self.memory.processes[i]), self._unstarted(i))

    cdef void _recover_queue(self, uint32_t process, bytes error, uint32_t high) noexcept:
        """Of an instance's process that has ended: if nobody wants its queue any more it is free, otherwise the queue is dead."""
        cdef uint32_t i, queue_index = self.memory.processes[process].queue
        cdef RunQueue *queue = &self.memory.queues[queue_index]
        cdef uint64_t state
        if ff_load32(&queue.process) != process + 1:     # the pool's, or given back before: it may be another service's by now
            return
        if not queue.error:
            self._keep_error(queue, error)
        if not ff_cas32(&queue.state, QUEUE_OPEN, QUEUE_DEAD) and ff_load32(&queue.state) == QUEUE_CLOSING:
            self.services._free_queue(queue)
            return
        for i in range(high):
            state = ff_load64(&self.memory.slots[i].state)
            if self.memory.slots[i].queue == queue_index and (status_of(state) == READY or status_of(state) == WAITING) \
                    and ff_cas64(&self.memory.slots[i].state, state, with_status(state, RUNNING, self.memory.me)):
                write_result(self.memory, i, PyBytes_AS_STRING(error), len(error))
                finish(self.memory, i, FAILED, NULL)

    cdef void _keep_error(self, RunQueue *queue, bytes error) noexcept:
        """For a dead queue's calls. A full store: they fail with StoreFullError."""
        cdef uint64_t block = block_alloc_owned(self.memory, len(error))
        if block:
            memcpy(self.memory.base + block, PyBytes_AS_STRING(error), len(error))
        queue.error_bytes = len(error) if block else 0
        queue.error = block
        block_published(self.memory)

    @property
    def closing(self):
        return bool(ff_load32(&self.memory.header.closing))

    def trim(self):
        """Gives the memory of everything that is kept free back to the system."""
        with nogil:
            extents_trim(self.memory)

    def cached_memory(self):
        """(bytes kept free and warm, how many extents were ever taken): what the zygote goes by to `trim`."""
        return self.memory.header.cached_bytes, self.memory.header.takes

    @property
    def name(self):
        return self.services.name

    @property
    def workers(self):
        """Pool workers wanted, blocked ones not counted."""
        return self.services.workers

    def get_setup(self):
        return self.services.get_setup()

    def request_process(self, uint32_t role, uint32_t queue):
        """A process table entry nobody else has, still RESERVED."""
        return self.services.request_process(role, queue)

    def service_blob(self, uint32_t service):
        return self.services.service_blob(service)

    def reap_services(self):
        """See `Services.reap_services`."""
        return self.services.reap_services()
