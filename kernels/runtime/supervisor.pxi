# The supervisor (zygote): starting and retiring processes, and recovering what dead processes left in the tables.
# uses: limits

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from .core.externs cimport (
    ff_add32, ff_cas32, ff_cas64, ff_exchange32, ff_exchange64, ff_futex_wake, ff_load32, ff_load64, ff_store32,
)
from .core.layout cimport (
    EMPTY, ENDING, FAILED, NO_METHOD, POOL_QUEUES, PROCESS_COUNT, PROCESS_FREE, PROCESS_LIVE, PROCESS_REQUESTED,
    PROCESS_STARTING, QUEUE_CLOSING, QUEUE_COUNT, QUEUE_DEAD, QUEUE_FREE, QUEUE_OPEN, READY, REF_CREATOR, REF_RECOVERY,
    RESERVED, RESULT, ROLE_INSTANCE, ROLE_POOL, RUNNING, SERVICE_CLOSING, SERVICE_OPEN, STANDING_BY, STANDING_CALLED,
    WAITING, ZYGOTE_INDEX, Process, RunQueue, Service, Slot,
)
from .core.regions cimport Memory, memory_own
from .core.bounds cimport queue_number, slot_number
from .core.lookup cimport (
    home_of, next_taken, owner_of, pool_queues_used, process_word, processes_used, queue_of, services_used, slots_used,
    status_of, with_status,
)
from .core.wakeup cimport wake_everybody, wake_sleepers, wake_waiters
from .core.permits cimport permit_release
from .core.lock cimport lock_repair
from .core.extents cimport extents_trim
from .core.blocks cimport block_alloc_owned, block_published
from .core.slots cimport release_refs, value_free
from .core.run_queue cimport queue_push
from .core.dependencies cimport promote_if_there
from .core.completion cimport finish, leave_queue, release_future, write_result
from .core.policy cimport pause_of, retry
from .core.recovery cimport (
    finish_again, forget_wait, recover_allocation, recover_memory, recover_release, recover_slot, recover_task,
    repair_waiting,
)

cdef class ProcessInfo:
    """An entry of the process table, as it was at one moment."""
    cdef readonly uint32_t index, state, role, queue, pid
    cdef readonly bint blocked, idle, retiring

    def __repr__(self):
        return f"ProcessInfo({self.index}, state={self.state}, role={self.role}, pid={self.pid}, idle={self.idle})"

cdef bint runs_call(Memory *memory, uint32_t index):
    """Return whether a process runs a call now. Its event loop turns once more after the last call has ended."""
    cdef uint64_t current = memory.processes[index].current, state
    if current == 0:
        return False
    state = ff_load64(&memory.slots[slot_number(memory, <uint32_t> (current - 1))].state)
    return owner_of(state) == index and status_of(state) in (RUNNING, ENDING)

cdef ProcessInfo process_info(Memory *memory, uint32_t index, uint32_t state):
    cdef ProcessInfo info = ProcessInfo.__new__(ProcessInfo)
    cdef Process *process = &memory.processes[index]
    info.index, info.state, info.role, info.queue, info.pid = index, state, process.role, process.queue, process.pid
    info.blocked, info.idle, info.retiring = process.blocked != 0, not runs_call(memory, index), process.retiring != 0
    return info

cdef enum:
    MOST_FAILED_STARTS = 3      # of an instance's process in a row: then the instance is lost after all

cdef class Supervisor(Limits):
    """What the supervisor does in the tables: it starts and retires processes, and recovers after their deaths.

    Parameters
    ----------
    client : Client
        The attachment of its process. It may be a `Worker`, which forked processes go on with as their own.
    """
    @property
    def spares(self):
        """Spare workers wanted."""
        return ff_load32(&self.memory.header.spares)

    def deploy(self, uint32_t spare, uint32_t requested=0):
        """Give a spare a place: a pool worker's, or that of an instance's process whose entry is requested.

        False: it is loading something, and may take its time.
        """
        cdef Process *process = &self.memory.processes[spare]
        cdef uint32_t queue = queue_number(self.memory, self.memory.processes[requested].queue)
        cdef uint32_t role = ROLE_POOL
        if not ff_cas32(&process.standing, STANDING_BY, STANDING_CALLED):
            return False
        if requested:
            role = ROLE_INSTANCE
            process.queue = queue
            if not ff_cas32(&self.memory.queues[queue].process, requested + 1, spare + 1):
                ff_store32(&process.standing, STANDING_BY)
                return False
            ff_exchange64(process_word(&self.memory.processes[requested]), PROCESS_FREE)
        ff_exchange32(&process.role, role)
        wake_waiters(self.memory, spare)
        return True

    def is_requested(self, uint32_t index):
        """Return whether an entry is still to be started; free it if its queue does not name it."""
        if self._unstarted(index) == PROCESS_REQUESTED:
            return True
        ff_exchange64(process_word(&self.memory.processes[index]), PROCESS_FREE)
        return False

    def restarts(self, uint32_t index):
        """Return whether a dead process of an instance gets a successor."""
        cdef Process *process = &self.memory.processes[index]
        cdef RunQueue *queue = &self.memory.queues[queue_number(self.memory, process.queue)]
        return process.role == ROLE_INSTANCE and queue.restart != 0 and ff_load32(&queue.process) == index + 1 \
            and ff_load32(&queue.state) == QUEUE_OPEN and (process.loaded or queue.failed_starts < MOST_FAILED_STARTS)

    def processes(self):
        """Return a list of `ProcessInfo`: the process table, without entries that are still RESERVED or free."""
        cdef uint32_t i
        table = []
        for i in range(2, processes_used(self.memory)):
            state = ff_load32(&self.memory.processes[i].state)
            if state in (PROCESS_REQUESTED, PROCESS_STARTING, PROCESS_LIVE):
                table.append(process_info(self.memory, i, state))
        return table

    def unserved(self, bint pool):
        """Return a list of (slot, state): the calls that are ready and that no process serves.

        `pool`: also those of the pool's queues, which has no worker to run them. Those of an instance are found by its
        entry: its process is still to be started.
        """
        cdef uint32_t i, queue
        cdef uint64_t state
        found = []
        i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            state = ff_load64(&self.memory.slots[i].state)
            if status_of(state) == READY:
                queue = home_of(self.memory, self.memory.slots[i].queue)
                if pool if queue < POOL_QUEUES else self._is_unstarted_queue(queue):
                    found.append((i, state))
            i = next_taken(self.memory, i + 1)
        return found

    def fail_unserved(self, list calls, bytes error):
        """Fail calls that `unserved` has returned, unless they have begun since."""
        cdef uint32_t i
        cdef uint64_t state
        for i, state in calls:
            if ff_cas64(&self.memory.slots[i].state, state, with_status(state, RUNNING, self.memory.me)):
                write_result(self.memory, i, PyBytes_AS_STRING(error), len(error))
                leave_queue(self.memory, &self.memory.slots[i])
                finish(self.memory, i, FAILED, NULL)

    cdef bint _is_unstarted_queue(self, uint32_t queue) noexcept:
        """Return whether the process of an instance's queue is still to be started."""
        cdef uint32_t process = ff_load32(&self.memory.queues[queue].process)
        return process != 0 and ff_load32(&self.memory.processes[process - 1].state) == PROCESS_REQUESTED

    def start(self, uint32_t index, uint32_t libraries=0):
        """Mark an entry STARTING before its process is forked with these libraries; return its token for `claim_entry`."""
        cdef Process *process = &self.memory.processes[index]
        process.preloaded = libraries
        process.starts += 1
        # S22: pairs with `claim_entry`
        ff_exchange64(process_word(process), <uint64_t> process.starts << 32 | PROCESS_STARTING)
        return process.starts

    def cancel_start(self, uint32_t index):
        """Undo `start`: the forked process cannot claim the entry any more. False if it has, or if none was starting."""
        cdef Process *process = &self.memory.processes[index]
        cdef uint64_t word = ff_load64(process_word(process))
        if <uint32_t> word != PROCESS_STARTING:
            return False
        return bool(ff_cas64(process_word(process), word, self._unstarted(index)))

    cdef uint64_t _unstarted(self, uint32_t index) noexcept:
        """Return the state of an entry without a process: an instance's that its queue names is still to be started."""
        cdef Process *process = &self.memory.processes[index]
        cdef RunQueue *queue = &self.memory.queues[queue_number(self.memory, process.queue)]
        if process.role == ROLE_INSTANCE and ff_load32(&queue.process) == index + 1 \
                and ff_load32(&queue.state) in (QUEUE_OPEN, QUEUE_CLOSING):
            return PROCESS_REQUESTED
        return PROCESS_FREE

    def start_time(self, uint32_t index):
        """Return when the process of an entry started; 0 if it has not published that."""
        return ff_load64(&self.memory.processes[index].started_at)

    def adopt_supervision(self, uint32_t pid):
        """Make this process the supervisor; return the pid of the one before, 0 for none."""
        before = self.memory.processes[ZYGOTE_INDEX].pid
        self.memory.processes[ZYGOTE_INDEX].pid = pid
        return before

    @property
    def preload(self):
        """Libraries that services need, as given to `add_service`."""
        return ff_load32(&self.memory.header.preload)

    def retire(self, uint32_t index):
        """Ask an idle pool worker to leave."""
        # S7: pairs with `sleep_begin` and `_shall_leave`
        ff_store32(&self.memory.processes[index].retiring, 1)
        wake_sleepers(&self.memory.header.pool_wake, PROCESS_COUNT)
        wake_waiters(self.memory, index)

    def current_service(self, uint32_t index):
        """Return (service, method) of the task a process runs, or its instance's service; None if it has neither."""
        cdef uint64_t current = self.memory.processes[index].current
        cdef Slot *slot
        cdef uint32_t i
        if current:
            slot = &self.memory.slots[slot_number(self.memory, <uint32_t> (current - 1))]
            return slot.service, slot.method
        if self.memory.processes[index].role == ROLE_INSTANCE:
            for i in range(services_used(self.memory)):
                if self.memory.services[i].queue == self.memory.processes[index].queue:
                    return i, <uint32_t> NO_METHOD
        return None

    def recover_process(self, uint32_t index, bytes error, dict ends={}):
        """Recover what a dead process left. The supervisor calls it after the kernel has reported the end.

        `error`: of the calls that it had begun, and of its instance's. `ends`: how calls of `lost_calls` end otherwise, by
        their slots: an error, or a list of the texts of the attempts so far, after which the call is tried again.

        Each step is idempotent: a supervisor that follows one that died here begins again.

        1. Redo what the process was changing under the lock; release a reference, a slot and a block that it was handling.
        2. Fail the task that it had begun with `error`; requeue one that it had only claimed; finish what it was finishing.
        3. Queue a task that it was queueing; fail one that it was submitting.
        4. Free the services that it was opening or freeing.
        5. Request the processes that it was requesting.
        6. Drop its futures.
        7. Release its permits, its spinner's token and its place as the seeker.
        8. Close its services. An instance's queue dies with its process.
        9. Release the memory that it held or owned.
        10. Free its entry, and wake the processes that it was about to wake.

        The supervisor before this one has no steps 6 to 8: this process goes on with its entry, so 10 only wakes.
        """
        cdef Process *process = &self.memory.processes[index]
        lock_repair(self.memory)                                                                # 1
        recover_release(self.memory, index)
        recover_allocation(self.memory, index)
        ff_add32(&self.memory.header.printed, 1)    # its last words: it may have died before it told
        self._recover_tasks(process, index, error, ends)                                        # 2, 3
        self._recover_services(index)                                                           # 4
        self._recover_requests(index)                                                           # 5
        if index == self.memory.me:
            self._recover_predecessor(index)                                                    # 9
            return
        self._drop_futures(index)                                                               # 6
        self._recover_places(process, index)                                                    # 7
        self._close_services(index)                                                             # 8
        self._recover_queue(index, error)
        recover_memory(self.memory, index)                                                      # 9
        ff_exchange64(process_word(process), PROCESS_FREE)                                      # 10
        self.client.reap_services()
        wake_everybody(self.memory)

    cdef int _recover_tasks(self, Process *process, uint32_t index, bytes error, dict ends) except -1:
        """Fail, requeue, finish or queue the tasks that a dead process had claimed or was submitting."""
        cdef const char *data = PyBytes_AS_STRING(error)
        cdef uint64_t nbytes = len(error), state
        cdef uint32_t i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            state = ff_load64(&self.memory.slots[i].state)
            if owner_of(state) == index and status_of(state) in (RUNNING, ENDING):
                if i in ends:
                    self._end_call(i, ends[i])
                else:
                    recover_task(self.memory, i, data, nbytes)
            i = next_taken(self.memory, i + 1)
        i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            finish_again(self.memory, i, index)
            i = next_taken(self.memory, i + 1)
        i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            repair_waiting(self.memory, i, index, data, nbytes)
            i = next_taken(self.memory, i + 1)
        self._queue_again(&process.promoting)
        self._queue_again(&process.rotating)
        i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            recover_slot(self.memory, i, index)
            i = next_taken(self.memory, i + 1)
        return 0

    cdef int _end_call(self, uint32_t index, end) except -1:
        """End a call that a dead process had begun, with an error, or try it again."""
        forget_wait(self.memory, &self.memory.slots[index])
        if type(end) is list:
            try:
                self.client.write_history(index, end)
            except Exception:       # the store is full: the call goes on without
                value_free(self.memory, index, RESULT)
            retry(self.memory, index, pause_of(&self.memory.policies[index]))
            return 0
        write_result(self.memory, index, PyBytes_AS_STRING(end), len(end))
        finish(self.memory, index, FAILED, NULL)
        return 0

    cdef int _recover_predecessor(self, uint32_t index) except -1:
        """Release what the supervisor before this one held. The entry goes on as this process's."""
        cdef uint32_t i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            release_refs(self.memory, i, REF_RECOVERY)
            i = next_taken(self.memory, i + 1)
        recover_memory(self.memory, index)
        if not memory_own(self.memory, self.memory.me, self.client.doorbell):
            raise MemoryError
        wake_everybody(self.memory)
        return 0

    cdef void _drop_futures(self, uint32_t index) noexcept:
        cdef uint32_t i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            # S14: pairs with `slot_prepare`
            if ff_load32(&self.memory.slots[i].refs) & REF_CREATOR and ff_load32(&self.memory.slots[i].creator) == index:
                release_future(self.memory, i)
            i = next_taken(self.memory, i + 1)

    cdef void _close_services(self, uint32_t index) noexcept:
        """Close the services that a dead process had opened."""
        cdef uint32_t i
        for i in range(services_used(self.memory)):
            if self.memory.services[i].creator == index:
                if ff_cas32(&self.memory.services[i].state, SERVICE_OPEN, SERVICE_CLOSING):
                    self.client._stop_warming(&self.memory.services[i])

    cdef void _queue_again(self, uint64_t *note) noexcept:
        """Queue the task that a dead process was queueing, or make it wait again.

        Idempotent: if the process had queued it, one of the two entries is void.
        """
        cdef uint32_t index, queue
        if note[0]:
            index = slot_number(self.memory, <uint32_t> (note[0] - 1))
            queue = queue_of(self.memory, &self.memory.slots[index])
            if status_of(ff_load64(&self.memory.slots[index].state)) == READY and not self.memory.queues[queue].ordered:
                queue_push(self.memory, queue, index)
            promote_if_there(self.memory, index)
            note[0] = 0

    cdef void _recover_places(self, Process *process, uint32_t index) noexcept:
        """Release permits, the spinner's token and the seeker's place.

        The recovery's end wakes the processes that sleep for one of them.
        """
        cdef uint32_t i
        for i in range(1, pool_queues_used(self.memory)):
            permit_release(self.memory, i, index)
        ff_add32(&self.memory.header.spinners, -process.spinning)
        process.spinning = 0
        ff_cas32(&self.memory.header.seeker, index + 1, 0)

    cdef void _recover_services(self, uint32_t index) noexcept:
        """Free the service entries and queues that a dead process had reserved: it was filling or emptying them."""
        cdef uint32_t i, queue
        cdef Service *entry
        for i in range(services_used(self.memory)):
            entry = &self.memory.services[i]
            if ff_load32(&entry.state) == RESERVED + index:
                queue = ff_load32(&self.memory.queues[queue_number(self.memory, entry.queue)].state)
                if queue not in (QUEUE_OPEN, QUEUE_DEAD) or self._is_others_queue(entry.queue, i):
                    entry.queue = 0          # the dead process had freed it, and another may have reserved it since
                self.client._free_service(entry)
        for i in range(1, QUEUE_COUNT):
            if ff_load32(&self.memory.queues[i].state) == RESERVED + index:
                if self.memory.queues[i].home:
                    ff_cas32(&self.memory.queues[home_of(self.memory, i)].urgent, i, 0)
                ff_store32(&self.memory.queues[i].state, QUEUE_FREE)

    cdef bint _is_others_queue(self, uint32_t queue, uint32_t service) noexcept:
        cdef uint32_t i
        for i in range(services_used(self.memory)):
            if i != service and self.memory.services[i].queue == queue:
                return True
        return False

    cdef void _recover_requests(self, uint32_t index) noexcept:
        """Release the entries of the process table that a dead process had reserved."""
        cdef uint32_t i
        for i in range(2, processes_used(self.memory)):
            if ff_load32(&self.memory.processes[i].state) == RESERVED + index:
                ff_exchange64(process_word(&self.memory.processes[i]), self._unstarted(i))

    cdef int _recover_queue(self, uint32_t process, bytes error) except -1:
        """Free the queue of a dead instance if its service is closed; else mark it DEAD and fail its calls."""
        cdef uint32_t i, queue_index = queue_number(self.memory, self.memory.processes[process].queue)
        cdef RunQueue *queue = &self.memory.queues[queue_index]
        cdef uint64_t state
        if ff_load32(&queue.process) != process + 1:     # the pool's, or freed before: it may be another service's by now
            return 0
        if self.restarts(process):
            queue.failed_starts = 0 if self.memory.processes[process].loaded else queue.failed_starts + 1
            self._start_again(queue_index)
            return 0
        if not queue.error:
            self._keep_error(queue, error)
        # S16: pairs with `_publish`
        if not ff_cas32(&queue.state, QUEUE_OPEN, QUEUE_DEAD) and ff_load32(&queue.state) == QUEUE_CLOSING:
            self.client._free_queue(queue)
            return 0
        i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            state = ff_load64(&self.memory.slots[i].state)
            if home_of(self.memory, queue_of(self.memory, &self.memory.slots[i])) == queue_index \
                    and status_of(state) in (WAITING, READY) \
                    and ff_cas64(&self.memory.slots[i].state, state, with_status(state, RUNNING, self.memory.me)):
                write_result(self.memory, i, PyBytes_AS_STRING(error), len(error))
                finish(self.memory, i, FAILED, NULL)
            i = next_taken(self.memory, i + 1)
        return 0

    cdef int _start_again(self, uint32_t queue) except -1:
        """Ask for another process of an instance."""
        cdef uint32_t i
        ff_store32(&self.memory.queues[queue].process, 0)
        for i in range(services_used(self.memory)):
            if self.memory.services[i].queue == queue and ff_load32(&self.memory.services[i].state) == SERVICE_OPEN:
                self.client.start_instance(i)
        return 0

    cdef void _keep_error(self, RunQueue *queue, bytes error) noexcept:
        """Keep the error of a dead queue's later calls. In a full store they fail with StoreFullError instead."""
        cdef uint64_t block = block_alloc_owned(self.memory, len(error))
        if block:
            memcpy(self.memory.base + block, PyBytes_AS_STRING(error), len(error))
        queue.error_bytes = len(error) if block else 0
        queue.error = block
        block_published(self.memory)

    @property
    def closing(self):
        """Whether the runner is being closed."""
        return bool(ff_load32(&self.memory.header.closing))

    def announce_end(self):
        """Tell the driver that no worker is left: see `Client.await_workers_end`."""
        # S25: pairs with `await_workers_end`
        ff_exchange32(&self.memory.header.closing, EMPTY)
        ff_futex_wake(&self.memory.header.closing, PROCESS_COUNT)

    def trim(self):
        """Return the memory of all cached free extents to the system."""
        with nogil:
            extents_trim(self.memory)

    def cached_memory(self):
        """Return (bytes of cached free extents, how many extents were ever allocated), which decide when to `trim`."""
        return self.memory.header.cached_bytes, self.memory.header.takes

    @property
    def peak_memory(self):
        """The most bytes that values have taken at once."""
        return self.memory.header.peak_bytes

    @property
    def name(self):
        """The runner's name, for error messages."""
        return self.client.name

    @property
    def workers(self):
        """Pool workers wanted, those blocked in a wait not counted."""
        return self.client.workers

    @property
    def is_damaged(self):
        """See `Segment.is_damaged`."""
        return self.client.is_damaged

    def get_setup(self):
        """See `Segment.get_setup`."""
        return self.client.get_setup()

    def request_process(self, uint32_t role, uint32_t queue):
        """See `Services.request_process`."""
        return self.client.request_process(role, queue)

    def service_blob(self, uint32_t service):
        """See `Services.service_blob`."""
        return self.client.service_blob(service)

    def reap_services(self):
        """See `Services.reap_services`."""
        return self.client.reap_services()
