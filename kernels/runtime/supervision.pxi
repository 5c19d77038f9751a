# What the zygote does in the table, and how a runner ends.

cdef inline uint64_t *process_word(Process *process) noexcept nogil:
    """Its state and its pid, which change together."""
    return <uint64_t *> &process.state

cdef class Supervision(Serving):
    """Starting, retiring and burying processes: see `Runtime`."""

    def processes(self):
        """The process table, without what others are just filling in: a list of (index, state, role, lane, pid, blocked, idle)."""
        cdef uint32_t i
        cdef Process *process
        table = []
        for i in range(2, ff_load32(&self.memory.header.process_high)):
            process = &self.memory.processes[i]
            state = ff_load32(&process.state)
            if state in (PROCESS_REQUESTED, PROCESS_STARTING, PROCESS_LIVE):
                table.append((i, state, process.role, process.lane, process.pid, process.blocked, process.current == 0))
        return table

    def start(self, uint32_t index, uint32_t libraries=0):
        """The zygote is about to fork the process of an entry, with these libraries; returns the token for its `take_entry`."""
        cdef Process *process = &self.memory.processes[index]
        process.preloaded = libraries
        process.starts += 1
        ff_exchange64(process_word(process), <uint64_t> process.starts << 32 | PROCESS_STARTING)
        return process.starts

    def take_entry(self, uint32_t token, uint32_t pid, uint64_t born):
        """Makes the entry of this process, which has just been forked, its own; false if it was called off: it must leave.

        `born` : when the process started, see `flame_fast.engine.spawn.start_time`.
        """
        cdef Process *process = &self.memory.processes[self.me]
        if not ff_cas64(process_word(process), <uint64_t> token << 32 | PROCESS_STARTING, <uint64_t> pid << 32 | PROCESS_LIVE):
            return False
        ff_store64(&process.born, born)
        return True

    def call_off(self, uint32_t index):
        """Undoes `start`: whoever was forked will not take the entry any more. False if it has taken it, or nobody was to."""
        cdef Process *process = &self.memory.processes[index]
        cdef uint64_t word = ff_load64(process_word(process))
        if <uint32_t> word != PROCESS_STARTING:
            return False
        return bool(ff_cas64(process_word(process), word, self._unstarted(index)))

    cdef uint64_t _unstarted(self, uint32_t index) noexcept:
        """The state of an entry without a process: an instance's that its lane names is still to be started."""
        cdef Process *process = &self.memory.processes[index]
        cdef Lane *lane = &self.memory.lanes[process.lane]
        if process.role == ROLE_INSTANCE and ff_load32(&lane.process) == index + 1 and ff_load32(&lane.state) in (LANE_OPEN, LANE_CLOSING):
            return PROCESS_REQUESTED
        return PROCESS_FREE

    def birth(self, uint32_t index):
        """When the process of an entry started; 0 if it has not told."""
        return ff_load64(&self.memory.processes[index].born)

    def take_post(self, uint32_t pid):
        """This process is the zygote from now on; returns the pid of the one before, 0 for none."""
        before = self.memory.processes[ZYGOTE].pid
        self.memory.processes[ZYGOTE].pid = pid
        return before

    @property
    def preload(self):
        """Libraries that services need, as `add_service` was told."""
        return ff_load32(&self.memory.header.preload)

    def retire(self, uint32_t index):
        """Asks an idle pool worker to leave."""
        ff_store32(&self.memory.processes[index].retiring, 1)
        wake_sleepers(&self.memory.header.pool_wake, PROCESS_COUNT)

    def running_service(self, uint32_t index):
        """(service, method) of the task a process runs, or its instance's service; None if neither."""
        cdef uint64_t current = self.memory.processes[index].current
        cdef uint32_t i
        if current:
            return self.memory.slots[current - 1].service, self.memory.slots[current - 1].method
        if self.memory.processes[index].role == ROLE_INSTANCE:
            for i in range(self.memory.header.service_high):
                if self.memory.services[i].lane == self.memory.processes[index].lane:
                    return i, <uint32_t> NO_METHOD
        return None

    def bury(self, uint32_t index, bytes error):
        """Settles what a dead process left. Called by the zygote, after the kernel reported the end.

        1 what it was changing under the lock, a hold, a slot and a block in its hands; 2 a task that it had begun fails with `error`,
        one it had only claimed is for others, what it was finishing is finished; 3 a task it was queueing is queued, one it was
        submitting fails; 4 services it was making or closing; 5 processes it was asking for are asked for; 6 its futures are
        dropped; 7 its seats and its token are given back; 8 its services close, an instance's lane
        dies with its queue; 9 the memory that it held or owned is given back; 10 the entry is free, and whoever it was about to
        call is called. Each step may be done twice.
        """
        cdef Process *process = &self.memory.processes[index]
        cdef const char *data = PyBytes_AS_STRING(error)
        cdef uint64_t nbytes = len(error), state
        cdef uint32_t i, high
        lock_repair(&self.memory)
        bury_giving(&self.memory, index)
        bury_building(&self.memory, index)
        high = slots_used(&self.memory)
        for i in range(high):
            state = ff_load64(&self.memory.slots[i].state)
            if status_of(state) == RUNNING and owner_of(state) == index:
                bury_task(&self.memory, i, data, nbytes)
        for i in range(high):
            finish_again(&self.memory, i, index)
        for i in range(high):
            repair_waiting(&self.memory, i, index, data, nbytes)
        self._queue_again(&process.promoting)
        self._queue_again(&process.rotating)
        for i in range(high):
            bury_leaving(&self.memory, i, index)
        self._bury_services(index)
        self._bury_requests(index)
        if index == self.me:                # the zygote before this one: the entry goes on
            for i in range(high):
                release_bits(&self.memory, i, HOLD_BURIAL)
            bury_memory(&self.memory, index)
            if not memory_own(&self.memory, self.me, self.doorbell):
                raise MemoryError
            wake_everybody(&self.memory)
            return
        for i in range(high):
            if ff_load32(&self.memory.slots[i].holds) & HOLD_CREATOR and ff_load32(&self.memory.slots[i].creator) == index:
                release_bits(&self.memory, i, HOLD_CREATOR)
        self._bury_places(process, index)
        for i in range(ff_load32(&self.memory.header.service_high)):
            if self.memory.services[i].creator == index:
                if ff_cas32(&self.memory.services[i].state, SERVICE_OPEN, SERVICE_CLOSING):
                    self._stop_warming(&self.memory.services[i])
        self._bury_lane(index, error, high)
        bury_memory(&self.memory, index)
        self.memory.header.copied_bytes += process.copied_bytes
        self.memory.header.definitions += process.definitions
        self.memory.header.definition_bytes += process.definition_bytes
        self.memory.header.shared_bytes += process.shared_bytes
        ff_exchange64(process_word(process), PROCESS_FREE)
        self.reap_services()
        wake_everybody(&self.memory)

    cdef void _queue_again(self, uint64_t *note) noexcept:
        """Queues the task that a dead process was queueing, perhaps once more: one hint of the two is void. Or it was to wait again."""
        cdef uint32_t index = <uint32_t> note[0] - 1
        if note[0]:
            if status_of(ff_load64(&self.memory.slots[index].state)) == READY \
                    and not self.memory.lanes[self.memory.slots[index].lane].ordered:
                lane_push(&self.memory, self.memory.slots[index].lane, index)
            promote_if_there(&self.memory, index)
            note[0] = 0

    cdef void _bury_places(self, Process *process, uint32_t index) noexcept:
        """Seats, the spinner's token, the seeker's place. Whoever sleeps for one of them is called at the burial's end."""
        cdef uint32_t i
        for i in range(1, ff_load32(&self.memory.header.pool_lane_high)):
            seat_leave(&self.memory, i, index)
        ff_add32(&self.memory.header.spinners, -process.spinning)
        process.spinning = 0
        ff_cas32(&self.memory.header.seeker, index + 1, 0)

    cdef void _bury_services(self, uint32_t index) noexcept:
        """Entries that it was filling in or emptying."""
        cdef uint32_t i, lane
        cdef Service *entry
        for i in range(ff_load32(&self.memory.header.service_high)):
            entry = &self.memory.services[i]
            if ff_load32(&entry.state) == RESERVED + index:
                lane = ff_load32(&self.memory.lanes[entry.lane].state)
                if lane not in (LANE_OPEN, LANE_DEAD) or self._is_others_lane(entry.lane, i):
                    entry.lane = 0          # it had given it back already, and somebody else may have taken it
                self._empty_service(entry)
        for i in range(1, LANE_COUNT):
            ff_cas32(&self.memory.lanes[i].state, RESERVED + index, LANE_FREE)

    cdef bint _is_others_lane(self, uint32_t lane, uint32_t service) noexcept:
        cdef uint32_t i
        for i in range(ff_load32(&self.memory.header.service_high)):
            if i != service and self.memory.services[i].lane == lane:
                return True
        return False

    cdef void _bury_requests(self, uint32_t index) noexcept:
        """Entries that it had reserved."""
        cdef uint32_t i
        for i in range(2, ff_load32(&self.memory.header.process_high)):
            if ff_load32(&self.memory.processes[i].state) == RESERVED + index:
                ff_exchange64(process_word(&self.memory.processes[i]), self._unstarted(i))

    cdef void _bury_lane(self, uint32_t process, bytes error, uint32_t high) noexcept:
        """Of an instance's process that has ended: if nobody wants its lane any more it is free, otherwise the lane is dead."""
        cdef uint32_t i, lane_index = self.memory.processes[process].lane
        cdef Lane *lane = &self.memory.lanes[lane_index]
        cdef uint64_t state
        if ff_load32(&lane.process) != process + 1:     # the pool's, or given back before: it may be another service's by now
            return
        if not lane.error:
            self._keep_error(lane, error)
        if not ff_cas32(&lane.state, LANE_OPEN, LANE_DEAD) and ff_load32(&lane.state) == LANE_CLOSING:
            self._free_lane(lane)
            return
        for i in range(high):
            state = ff_load64(&self.memory.slots[i].state)
            if self.memory.slots[i].lane == lane_index and (status_of(state) == READY or status_of(state) == WAITING) \
                    and ff_cas64(&self.memory.slots[i].state, state, with_status(state, RUNNING, self.me)):
                write_result(&self.memory, i, PyBytes_AS_STRING(error), len(error))
                finish(&self.memory, i, FAILED, NULL)

    cdef void _keep_error(self, Lane *lane, bytes error) noexcept:
        """For a dead lane's calls. A full store: they fail with StoreFullError."""
        cdef uint64_t block = block_keep(&self.memory, len(error))
        if block:
            memcpy(self.memory.base + block, PyBytes_AS_STRING(error), len(error))
        lane.error_bytes = len(error) if block else 0
        lane.error = block
        block_settled(&self.memory)

    @property
    def closing(self):
        return bool(ff_load32(&self.memory.header.closing))

    def announce_close(self):
        """Tells every process to leave. Returns how many calls are unfinished."""
        cdef uint32_t i, unfinished = 0, status
        for i in range(slots_used(&self.memory)):
            status = status_of(ff_load64(&self.memory.slots[i].state))
            if WAITING <= status <= RUNNING:
                unfinished += 1
        ff_store32(&self.memory.header.closing, 1)
        wake_everybody(&self.memory)
        ring_bell(self.doorbell)
        return unfinished

    def mark_broken(self, str reason):
        """Nothing will run any more: unfinished futures, and every later call, raise `FlameError(INTERNAL, reason)`."""
        self.broken = reason
        wake_waiters(&self.memory, self.me)

    def mark_closed(self, str ending="was closed"):
        """From here on unfinished futures of this process raise; threads that wait for one wake up to do so.

        `ending` says what happened to the runner, after its name.
        """
        self.ending = ending
        self.closed = True
        wake_waiters(&self.memory, self.me)

    def give_back_memory(self):
        """Once every other process has ended: what no value lies in goes back to the system, and is not kept any more."""
        cdef char *rings = <char *> self.memory.rings
        settle_pins(self, forget=True)
        self.memory.doorbell = -1           # its number may be another file's soon
        self.memory.header.cache_limit = 0
        with nogil:
            extents_trim(&self.memory)
            madvise(rings, <size_t> (self.arena - rings), MADV_REMOVE)
