# Calling those who sleep: idle workers when there is something to run, a process that waits for a future when it is finished.

cdef void wake_sleepers(uint32_t *sleepers, uint32_t *word, uint32_t most) noexcept nogil:
    """Calls up to `most` of those asleep on `word`. The waker takes the sleeper off the count, so that a burst of pushes
    makes one system call per sleeper, not one per push. Pairs with the recheck between counting oneself and sleeping."""
    cdef uint32_t count, called = 0
    ff_fence()
    while called < most:
        count = ff_load32(sleepers)
        if count == 0:
            break
        if ff_cas32(sleepers, count, count - 1):
            called += 1
    if called:
        ff_add32(word, 1)
        ff_futex_wake(word, called)

cdef void wake_lane(Memory *memory, uint32_t lane_index) noexcept nogil:
    cdef Lane *lane = &memory.lanes[lane_index]
    if lane_index >= POOL_LANES:
        wake_sleepers(&lane.sleepers, &lane.wake, 1)
    elif lane.limit:        # who of the sleepers has a seat is not known here
        wake_sleepers(&memory.header.pool_sleepers, &memory.header.pool_wake, PROCESS_COUNT)
    else:
        wake_sleepers(&memory.header.pool_sleepers, &memory.header.pool_wake, 1)

cdef void wake_everybody(Memory *memory) noexcept nogil:
    """Calls every idle worker, those too that a dead process had taken off the count and not called."""
    cdef uint32_t i
    wake_sleepers(&memory.header.pool_sleepers, &memory.header.pool_wake, PROCESS_COUNT)
    ff_add32(&memory.header.pool_wake, 1)
    ff_futex_wake(&memory.header.pool_wake, PROCESS_COUNT)
    for i in range(POOL_LANES, LANE_COUNT):
        if ff_load32(&memory.lanes[i].state) != LANE_FREE:
            ff_add32(&memory.lanes[i].wake, 1)
            ff_futex_wake(&memory.lanes[i].wake, PROCESS_COUNT)

cdef void wake_waiters(Memory *memory, uint32_t process) noexcept nogil:
    """Wakes every thread of `process` that sleeps for a future."""
    ff_add32(&memory.processes[process].wake, 1)
    ff_fence()
    if ff_load32(&memory.processes[process].waiters):
        ff_futex_wake(&memory.processes[process].wake, PROCESS_COUNT)

cdef inline uint64_t log_entry(uint64_t position, uint32_t index) noexcept nogil:
    return ((position // LOG_COUNT + 1) << 32) | (index + 1)

cdef void log_finished(Memory *memory, uint32_t process, uint32_t index) noexcept nogil:
    """Tells a process's log of a finished slot that it watches. A death in between leaves a hole: readers look for themselves
    now and then."""
    cdef uint64_t position = ff_add64(&memory.processes[process].log_tail, 1)
    ff_store64(&memory.logs[<uint64_t> process * LOG_COUNT + position % LOG_COUNT], log_entry(position, index))
