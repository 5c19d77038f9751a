# What the zygote does in the table, and how a runner ends.

cdef class Supervision(Serving):
    """Starting, retiring and burying processes: see `Runtime`."""

    def processes(self):
        """The process table: a list of (index, state, role, lane, pid, blocked, idle)."""
        cdef uint32_t i
        cdef Process *process
        table = []
        for i in range(2, ff_load32(&self.memory.header.process_high)):
            process = &self.memory.processes[i]
            state = ff_load32(&process.state)
            if state >= PROCESS_REQUESTED or (state == PROCESS_RESERVED and process.role == ROLE_POOL):
                table.append((i, state, process.role, process.lane, process.pid, process.blocked, process.current == 0))
        return table

    def started(self, uint32_t index, uint32_t pid):
        """The zygote has forked the process of an entry."""
        self.memory.processes[index].pid = pid
        ff_store32(&self.memory.processes[index].state, PROCESS_LIVE)

    def take_post(self, uint32_t pid):
        """This process is the zygote from now on; returns the pid of the one before, 0 for none."""
        before = self.memory.processes[ZYGOTE].pid
        self.memory.processes[ZYGOTE].pid = pid
        return before

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

        1 the task it ran fails with `error`, what it was finishing is finished; 2 its futures are dropped;
        3 a task it was queueing is queued; 4 its seats, its token and its place among the sleepers are given back; 5 its services close; 6 an instance's lane dies with its
        queue; 7 the entry is free. Each step may be done twice.
        """
        cdef Process *process = &self.memory.processes[index]
        cdef uint32_t i, count, high = min(ff_load32(&self.memory.header.slot_high), SLOT_COUNT - SLOT_SPARE)
        cdef uint64_t state
        cdef Slot *slot
        for i in range(high):
            slot = &self.memory.slots[i]
            state = ff_load64(&slot.state)
            if status_of(state) == RUNNING and owner_of(state) == index:
                slot.state = with_status(state, RUNNING, self.me)
                write_result(&self.memory, slot, PyBytes_AS_STRING(error), len(error), KIND_NATIVE)
                finish(&self.memory, self.me, i, FAILED)
        for i in range(high):
            finish_again(&self.memory, self.me, i, index)
        for i in range(high):
            repair_waiting(&self.memory, self.me, i, index, PyBytes_AS_STRING(error), len(error))
        if index == self.me:                # the zygote before this one: the entry goes on
            return
        for i in range(high):
            slot = &self.memory.slots[i]
            if slot.creator == index and ff_load32(&slot.holds) & HOLD_CREATOR:
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
            if self.memory.services[i].creator == index:
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
        lane.error = arena_take(self.memory.base, len(error))
        lane.error_bytes = len(error) if lane.error else 0      # a full store: its calls fail with StoreFullError
        if lane.error:
            memcpy(self.memory.base + lane.error, PyBytes_AS_STRING(error), len(error))
        ff_exchange32(&lane.state, LANE_DEAD)
        for i in range(high):
            state = ff_load64(&self.memory.slots[i].state)
            if self.memory.slots[i].lane == lane_index and (status_of(state) == READY or status_of(state) == WAITING) \
                    and ff_cas64(&self.memory.slots[i].state, state, with_status(state, RUNNING, self.me)):
                write_result(&self.memory, &self.memory.slots[i], PyBytes_AS_STRING(error), len(error), KIND_NATIVE)
                finish(&self.memory, self.me, i, FAILED)
        return 0

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
