# The task table and its lanes: who may run what, and what becomes ready when something is finished.
#
# The table is the truth, lanes are hints. A lane is a ring of hints (lap:20 | generation:23 | slot + 1:21). A worker claims a
# task in the table first (one compare-and-swap READY -> RUNNING) and takes the hint out afterwards; anybody may take out a
# hint whose task is not READY any more, and anybody may push on a head or tail that its mover left behind. So a death between
# any two steps neither loses a task nor runs it twice.
#
# Rejected: Vyukov's ring (reserve, then publish): a producer killed in between stalls every consumer for ever.

cdef enum:
    CLAIM_EMPTY = -1

# ---- slots ----------------------------------------------------------------------------------------------------------

cdef inline uint32_t status_of(uint64_t state) noexcept nogil:
    return <uint32_t> (state & 0xFF)

cdef inline uint32_t owner_of(uint64_t state) noexcept nogil:
    return <uint32_t> ((state >> 8) & 0xFFFFFF)

cdef inline uint64_t with_status(uint64_t state, uint32_t status, uint32_t owner) noexcept nogil:
    return ((state >> 32) << 32) | (<uint64_t> owner << 8) | status

cdef int64_t slot_take(Memory *memory) noexcept nogil:
    """Index of a slot nobody else has, its status still FREE; -1 when all are in use. Named in Process.building from now on."""
    cdef int64_t member = member_take(memory, SLOT_POOL)
    if member < 0:
        return -1
    ff_count(&memory.header.slots_taken)
    return (member >> 6) * GROUP_BITS + (member & 63)

cdef void slot_return(Memory *memory, uint32_t index) noexcept nogil:
    """Gives a slot's blocks and then itself back; its generation goes up, so that old hints to it are void."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t inputs = slot.inputs
    ff_store64(&memory.processes[memory.me].freeing, index + 1)
    give_back_inputs(memory, slot)
    slot_release(memory, index, PAYLOAD)
    slot_release(memory, index, RESULT)
    if inputs:
        slot.inputs = 0
        block_free(memory, inputs)
    ff_count(&memory.header.slots_freed)
    ff_store64(&slot.state, ((slot.state >> 32) + 1) << 32)
    member_free(memory, SLOT_POOL, index // GROUP_BITS, index % GROUP_BITS)
    ff_store64(&memory.processes[memory.me].freeing, 0)

cdef void slot_prepare(Memory *memory, uint32_t index) noexcept nogil:
    cdef Slot *slot = &memory.slots[index]
    slot.waiters = 0
    slot.holds = HOLD_CREATOR | HOLD_RUN
    slot.creator = memory.me
    slot.payload = slot.result = slot.inputs = 0
    slot.payload_bytes = slot.result_bytes = slot.waits_for = 0
    slot.payload_kind = slot.result_kind = 0
    slot.watched = slot.started = 0

cdef void slot_store(Memory *memory, uint32_t index, uint32_t which, uint64_t block, uint64_t nbytes, uint32_t kind) noexcept nogil:
    """Makes a filled block, and what the value in it lies in, the slot's payload or result. `block` 0: it is in `data` already."""
    cdef Slot *slot = &memory.slots[index]
    if which == RESULT:
        slot.result = block
        slot.result_bytes = nbytes
        ff_store32(&slot.result_kind, kind)
    else:
        slot.payload = block
        slot.payload_bytes = nbytes
        ff_store32(&slot.payload_kind, kind)
    block_settled(memory)
    if kind & KIND_HANDLES or (block and is_extent(memory, block)):
        slot_link(memory, index, which)
        if block and is_extent(memory, block):
            extent_drop(memory, <uint32_t> extent_of(memory, block))

cdef void slot_release(Memory *memory, uint32_t index, uint32_t which) noexcept nogil:
    """Gives back what a payload or result takes, beyond its slot."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t block = block_of(slot, which)
    cdef uint32_t kind = kind_of(slot, which)[0]
    if kind & KIND_LINKED:
        slot_unlink(memory, index, which)
    if which == RESULT:
        slot.result = 0
    else:
        slot.payload = 0
    if block and not is_extent(memory, block):
        slab_free(memory, <uint32_t> extent_of(memory, block), block)
    kind_of(slot, which)[0] = 0

cdef void release_bits(Memory *memory, uint32_t index, uint32_t bits) noexcept nogil:
    """Clears hold bits; clearing one twice is harmless, and only the clearer of the last frees."""
    cdef uint32_t before = ff_and32(&memory.slots[index].holds, ~bits)
    if before & bits and not before & ~bits:
        slot_return(memory, index)

cdef void release_count(Memory *memory, uint32_t index) noexcept nogil:
    if ff_add32(&memory.slots[index].holds, <uint32_t> -1) == 1:
        slot_return(memory, index)

# ---- lanes ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t hint_of(uint64_t position, uint32_t index, uint64_t state) noexcept nogil:
    return ((position >> SLOT_BITS) << 44) | (((state >> 32) & 0x7FFFFF) << 21) | (index + 1)

cdef inline uint64_t lap_of(uint64_t position) noexcept nogil:
    return (position >> SLOT_BITS) & 0xFFFFF

cdef int lane_push(Memory *memory, uint32_t lane_index, uint32_t index, uint64_t state) noexcept nogil:
    """Adds a hint for the slot as of `state`; 0 when the ring of an instance's lane is full of void hints."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t tail, entry
    while True:
        tail = ff_load64(&lane.tail)
        entry = ff_load64(&ring[tail & RING_MASK])
        if entry >> 44 == lap_of(tail):
            if entry & 0x1FFFFF:                                # written, tail left behind: push it on
                ff_cas64(&lane.tail, tail, tail + 1)
            elif ff_cas64(&ring[tail & RING_MASK], entry, hint_of(tail, index, state)):
                ff_cas64(&lane.tail, tail, tail + 1)
                return 1
        elif entry >> 44 == lap_of(tail + SLOT_COUNT):          # written and read, tail left behind
            ff_cas64(&lane.tail, tail, tail + 1)
        elif ff_load64(&lane.tail) == tail:                     # full, of hints that are void
            if lane.ordered:
                return 0
            lane_rotate(memory, lane_index)

cdef void lane_rotate(Memory *memory, uint32_t lane_index) noexcept nogil:
    """Makes room in a full ring: its first hint goes, to the end if its task is still to be run."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t head, entry, state
    cdef uint32_t index
    if lane_trim(memory, lane_index):
        return
    head = ff_load64(&lane.head)
    entry = ff_load64(&ring[head & RING_MASK])
    if entry >> 44 != lap_of(head) or not entry & 0x1FFFFF:
        return
    index = <uint32_t> (entry & 0x1FFFFF) - 1
    state = ff_load64(&memory.slots[index].state)
    memory.processes[memory.me].promoting = index + 1
    lane_drop(lane, ring, head, entry)
    lane_push(memory, lane_index, index, state)
    memory.processes[memory.me].promoting = 0

cdef int lane_trim(Memory *memory, uint32_t lane_index) noexcept nogil:
    """Takes void hints out from the lane's head on; how many."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t head, entry, state
    cdef int count = 0
    while True:
        head = ff_load64(&lane.head)
        entry = ff_load64(&ring[head & RING_MASK])
        if entry >> 44 != lap_of(head) or not entry & 0x1FFFFF:
            return count
        state = ff_load64(&memory.slots[<uint32_t> (entry & 0x1FFFFF) - 1].state)
        if (state >> 32) & 0x7FFFFF == (entry >> 21) & 0x7FFFFF and status_of(state) in (WAITING, READY):
            return count
        lane_drop(lane, ring, head, entry)
        count += 1

cdef inline void lane_drop(Lane *lane, uint64_t *ring, uint64_t head, uint64_t entry) noexcept nogil:
    ff_cas64(&ring[head & RING_MASK], entry, lap_of(head + SLOT_COUNT) << 44)
    ff_cas64(&lane.head, head, head + 1)

cdef int64_t lane_claim(Memory *memory, uint32_t lane_index) noexcept nogil:
    """Claims the first READY task of a lane for this process: its slot's index, or CLAIM_EMPTY."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t head, entry, state
    cdef uint32_t index
    while True:
        head = ff_load64(&lane.head)
        entry = ff_load64(&ring[head & RING_MASK])
        if entry >> 44 == lap_of(head + SLOT_COUNT):            # read, head left behind
            ff_cas64(&lane.head, head, head + 1)
            continue
        if entry >> 44 != lap_of(head):
            continue                                            # head moved between the two loads
        if not entry & 0x1FFFFF:
            return CLAIM_EMPTY
        index = <uint32_t> (entry & 0x1FFFFF) - 1
        state = ff_load64(&memory.slots[index].state)
        if (state >> 32) & 0x7FFFFF == (entry >> 21) & 0x7FFFFF:
            if status_of(state) == READY:
                if ff_cas64(&memory.slots[index].state, state, with_status(state, RUNNING, memory.me)):
                    lane_drop(lane, ring, head, entry)
                    return index
                continue
            if status_of(state) == WAITING and lane.ordered:
                return CLAIM_EMPTY                              # its turn, but an input is missing
        lane_drop(lane, ring, head, entry)

cdef inline int lane_empty(Memory *memory, uint32_t lane_index) noexcept nogil:
    cdef Lane *lane = &memory.lanes[lane_index]
    return ff_load64(&lane.head) == ff_load64(&lane.tail)

cdef int has_seat(Memory *memory, uint32_t lane_index) noexcept nogil:
    cdef uint32_t seat
    for seat in range(memory.lanes[lane_index].limit):
        if ff_load32(&memory.lanes[lane_index].seats[seat]) == memory.me + 1:
            return 1
    return 0

cdef int seat_take(Memory *memory, uint32_t lane_index) noexcept nogil:
    """A seat at a limited lane for this worker, or 0. One whose holder is blocked may be taken over: it is not running."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint32_t seat, holder, me = memory.me
    if has_seat(memory, lane_index):
        return 1
    for seat in range(lane.limit):
        holder = ff_load32(&lane.seats[seat])
        if holder == 0 or memory.processes[holder - 1].blocked:
            if ff_cas32(&lane.seats[seat], holder, me + 1):
                return 1
    return 0

cdef void seat_leave(Memory *memory, uint32_t lane_index, uint32_t me) noexcept nogil:
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint32_t seat
    for seat in range(lane.limit):
        ff_cas32(&lane.seats[seat], me + 1, 0)

# ---- waking ---------------------------------------------------------------------------------------------------------

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

# ---- finishing ------------------------------------------------------------------------------------------------------

cdef struct Finishing:          # one call of `finish`
    uint32_t *failed            # tasks that fail with what failed, to be finished in their turn
    uint32_t count
    uint32_t room
    int64_t *kept               # where a task goes that became ready and that this process runs next; NULL: nowhere

cdef inline uint64_t *inputs_level(Inputs *inputs, uint32_t level) noexcept nogil:
    return <uint64_t *> (<char *> inputs + inputs.level_at[level])

cdef inline Edge *edges_of(Inputs *inputs) noexcept nogil:
    return <Edge *> (<char *> inputs + sizeof(Inputs))

cdef int inputs_clear(Inputs *inputs, uint32_t bit) noexcept nogil:
    """Marks one input as there; 1 when it was the last one missing."""
    cdef uint32_t level
    for level in range(inputs.levels):
        if ff_and64(&inputs_level(inputs, level)[bit >> 6], ~(<uint64_t> 1 << (bit & 63))) & ~(<uint64_t> 1 << (bit & 63)):
            return 0
        bit >>= 6
    return 1

cdef int promote(Memory *memory, uint32_t index, int64_t *kept) noexcept nogil:
    """The last input of a task is there: this process keeps it, or WAITING -> READY and queued (in an ordered lane it stands
    already)."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if status_of(state) != WAITING:
        return 0
    if kept != NULL and kept[0] < 0 and slot.lane == 0:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            kept[0] = index
        return 1
    memory.processes[memory.me].promoting = index + 1
    if ff_cas64(&slot.state, state, with_status(state, READY, 0)):
        if not memory.lanes[slot.lane].ordered:
            lane_push(memory, slot.lane, index, state)
        wake_lane(memory, slot.lane)
    memory.processes[memory.me].promoting = 0
    return 1

cdef void write_result(Memory *memory, uint32_t index, const char *data, uint64_t nbytes) noexcept nogil:
    """Copies an error into a slot that this process owns. A full store leaves an empty one, which reads as StoreFullError."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t block = 0
    slot.started = 1                            # from here on it cannot begin again
    slot_release(memory, index, PAYLOAD)        # it may lie where the outcome goes
    slot_release(memory, index, RESULT)         # a dead process's, half written
    if nbytes <= INLINE_BYTES:
        memcpy(slot.data, data, nbytes)
    else:
        block = block_take(memory, nbytes)
        if block == 0:
            nbytes = 0
        else:
            memcpy(memory.base + block, data, nbytes)
    slot_store(memory, index, RESULT, block, nbytes, KIND_NATIVE)

cdef void pass_error(Memory *memory, uint32_t index, uint32_t cause) noexcept nogil:
    write_result(memory, index, data_of(memory, &memory.slots[cause], RESULT), memory.slots[cause].result_bytes)

cdef void fail_with(Memory *memory, uint32_t index, uint32_t cause, Finishing *finishing) noexcept nogil:
    """Gives a task that has not started the error of its failed input, and notes it as one to be finished."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    cdef uint32_t *larger
    while status_of(state) == WAITING:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            pass_error(memory, index, cause)
            if memory.lanes[slot.lane].ordered:         # it stood in the way of the calls behind it
                wake_lane(memory, slot.lane)
            if finishing.count == finishing.room:
                larger = <uint32_t *> realloc(finishing.failed, 2 * finishing.room * sizeof(uint32_t))
                if larger == NULL:
                    return
                finishing.failed = larger
                finishing.room *= 2
            finishing.failed[finishing.count] = index
            finishing.count += 1
            return
        state = ff_load64(&slot.state)

cdef void finish(Memory *memory, uint32_t index, uint32_t status, int64_t *kept) noexcept nogil:
    """Publishes the outcome of a task that this process owns, and of everything below it that fails with it.

    1 state -> DONE/FAILED; 2 close the waiter list and clear this input's bit in each task on it; 3 give back the task's own
    inputs; 4 drop HOLD_RUN, until which the slot cannot be freed; 5 tell the creator if it watches. After a death at any of
    these, `finish_again` and `repair_waiting` do the rest.
    """
    cdef Finishing finishing
    finishing.kept = kept
    finishing.failed = NULL
    if status == DONE:
        finish_one(memory, index, DONE, &finishing)
        return
    finishing.failed = <uint32_t *> malloc(16 * sizeof(uint32_t))
    if finishing.failed == NULL:
        finish_one(memory, index, FAILED, &finishing)
        return
    finishing.count = 1
    finishing.room = 16
    finishing.failed[0] = index
    while finishing.count:
        finishing.count -= 1
        finish_one(memory, finishing.failed[finishing.count], FAILED, &finishing)
    free(finishing.failed)

cdef void finish_one(Memory *memory, uint32_t index, uint32_t status, Finishing *finishing) noexcept nogil:
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t watched, creator = slot.creator
    ff_exchange64(&slot.state, with_status(slot.state, status, memory.me))
    watched = ff_load32(&slot.watched)
    tell_dependents(memory, index, status, finishing)
    if not ff_load32(&slot.holds) & HOLD_EDGES:     # a failed one may stand on lists still: whoever finds it there does it
        give_back_inputs(memory, slot)
    if watched:
        log_finished(memory, creator, index)
    release_bits(memory, index, HOLD_RUN)
    # Last: a system call, after which the woken one often runs first, and this process may be killed.
    if watched or (status == FAILED and ff_load32(&memory.processes[creator].watching)):
        wake_waiters(memory, creator)

cdef void tell_dependents(Memory *memory, uint32_t index, uint32_t status, Finishing *finishing) noexcept nogil:
    """Clears this input's bit in every task that stands on its waiter list, and closes the list."""
    cdef Slot *slot = &memory.slots[index]
    cdef Edge *edge
    cdef uint64_t at = ff_exchange64(&slot.waiters, WAITERS_CLOSED), following
    cdef uint32_t task
    while at > WAITERS_CLOSED:
        edge = <Edge *> (memory.base + at)
        following = edge.next           # the edge may be gone once its bit is cleared
        task = edge.task
        if status == FAILED and finishing.failed != NULL:
            fail_with(memory, task, index, finishing)
        input_arrived(memory, task, edge.bit, finishing.kept)
        at = following

cdef void input_arrived(Memory *memory, uint32_t task, uint32_t bit, int64_t *kept) noexcept nogil:
    """May be said twice of the same input."""
    if inputs_clear(<Inputs *> (memory.base + memory.slots[task].inputs), bit):
        promote(memory, task, kept)
        release_edges(memory, task)

cdef void release_edges(Memory *memory, uint32_t task) noexcept nogil:
    """A task stands on no list any more. One that has failed long ago gives its inputs back now (or at `slot_return`)."""
    if status_of(ff_load64(&memory.slots[task].state)) >= DONE:
        give_back_inputs(memory, &memory.slots[task])
    release_bits(memory, task, HOLD_EDGES)

cdef void give_back_inputs(Memory *memory, Slot *slot) noexcept nogil:
    """Drops a finished task's holds on its inputs, each once, whoever was interrupted at it before."""
    cdef Inputs *inputs
    cdef Edge *edges
    cdef uint32_t i, held
    if not slot.inputs:
        return
    inputs = <Inputs *> (memory.base + slot.inputs)
    edges = edges_of(inputs)
    for i in range(inputs.count):
        held = ff_exchange32(&edges[i].input, NO_INPUT)
        if held != NO_INPUT:
            release_count(memory, held)

# ---- after a death --------------------------------------------------------------------------------------------------

cdef int hold_again(Memory *memory, uint32_t index, uint64_t state) noexcept nogil:
    """Holds a slot that one only came across, if it is still what `state` says; give it back by release_count."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t holds = ff_load32(&slot.holds)
    while holds:
        if ff_cas32(&slot.holds, holds, holds + 1):
            if ff_load64(&slot.state) == state:
                return 1
            release_count(memory, index)
            return 0
        holds = ff_load32(&slot.holds)
    return 0

cdef void finish_again(Memory *memory, uint32_t index, uint32_t dead) noexcept nogil:
    """Does what a process that died in `finish` may have left undone after it published an outcome."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    cdef Finishing finishing
    if status_of(state) < DONE or owner_of(state) != dead or not ff_load32(&slot.holds) & HOLD_RUN:
        return
    if not hold_again(memory, index, state):
        return
    finishing.failed = NULL             # failures: see repair_waiting
    finishing.kept = NULL
    tell_dependents(memory, index, DONE, &finishing)
    if not ff_load32(&slot.holds) & HOLD_EDGES:
        give_back_inputs(memory, slot)
    if ff_load32(&slot.watched):
        log_finished(memory, slot.creator, index)
    release_bits(memory, index, HOLD_RUN)
    wake_waiters(memory, slot.creator)
    release_count(memory, index)

cdef void repair_waiting(Memory *memory, uint32_t index, uint32_t dead, const char *error, uint64_t nbytes) noexcept nogil:
    """Tells a task that stands on lists of every input that `dead` finished: it may have died with the list in its hands.

    Only of those: a living finisher still has the task's edge before it, and must find the task there. A task that `dead` was just
    submitting fails: nobody will say that it stands on all of its inputs.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef Inputs *inputs
    cdef Edge *edges
    cdef uint64_t state = ff_load64(&slot.state), input_state
    cdef uint32_t i, at
    if status_of(state) == FREE or not ff_load32(&slot.holds) & HOLD_EDGES or not hold_again(memory, index, state):
        return
    inputs = <Inputs *> (memory.base + slot.inputs)
    edges = edges_of(inputs)
    if status_of(state) == WAITING and slot.creator == dead and inputs_level(inputs, 0)[inputs.count >> 6] >> (inputs.count & 63) & 1:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            write_result(memory, index, error, nbytes)
            finish(memory, index, FAILED, NULL)
    for i in range(inputs.count):
        at = ff_load32(&edges[i].input)
        if at == NO_INPUT:
            continue
        input_state = ff_load64(&memory.slots[at].state)
        if status_of(input_state) < DONE or owner_of(input_state) != dead:
            continue
        state = ff_load64(&slot.state)
        if status_of(input_state) == FAILED and status_of(state) == WAITING \
                and ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            pass_error(memory, index, at)
            finish(memory, index, FAILED, NULL)
        input_arrived(memory, index, i, NULL)
    release_count(memory, index)

cdef void bury_task(Memory *memory, uint32_t index, const char *error, uint64_t nbytes) noexcept nogil:
    """A task that a dead process had claimed: one that had begun fails, another is for somebody else."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = slot.state, waits_for = slot.waits_for
    cdef uint32_t lane = slot.lane
    slot.waits_for = 0
    if waits_for & WAITS_FOR_ANY:
        block_free(memory, waits_for & ~WAITS_FOR_ANY)
    if slot.started or memory.lanes[slot.lane].ordered:
        slot.state = with_status(state, RUNNING, memory.me)
        write_result(memory, index, error, nbytes)
        finish(memory, index, FAILED, NULL)
        return
    memory.processes[memory.me].promoting = index + 1
    ff_exchange64(&slot.state, with_status(state, READY, 0))     # from here on it may be run and gone at once
    lane_push(memory, lane, index, state)
    wake_lane(memory, lane)
    memory.processes[memory.me].promoting = 0

cdef void bury_building(Memory *memory, uint32_t dead) noexcept nogil:
    """The slot and the block that a dead process was taking, filling or about to put down somewhere; the slot it was freeing."""
    cdef uint64_t building = memory.processes[dead].building, taking = memory.processes[dead].taking
    cdef uint64_t freeing = memory.processes[dead].freeing
    cdef uint32_t index = <uint32_t> building - 1
    cdef Slot *slot = &memory.slots[index]
    bury_pending(memory, dead, index if building else NO_INPUT)
    if building and status_of(ff_load64(&slot.state)) == FREE and \
            ff_load64(&memory.groups[index // GROUP_BITS].group.used) >> (index % GROUP_BITS) & 1:
        slot_return(memory, index)
    elif building and status_of(ff_load64(&slot.state)) == READY:
        lane_push(memory, slot.lane, index, ff_load64(&slot.state))     # perhaps once more: one hint of the two is void
        wake_lane(memory, slot.lane)
    memory.processes[dead].building = 0
    if taking and not is_referred_to(memory, taking):
        slab_free(memory, <uint32_t> extent_of(memory, taking), taking)
    memory.processes[dead].taking = 0
    # Once its state is FREE somebody may have taken it again: what is left then, its bit, stays.
    if freeing and status_of(ff_load64(&memory.slots[freeing - 1].state)) >= DONE and ff_load32(&memory.slots[freeing - 1].holds) == 0:
        slot_return(memory, <uint32_t> freeing - 1)
    memory.processes[dead].freeing = 0

cdef void bury_pending(Memory *memory, uint32_t dead, uint32_t building) noexcept nogil:
    """A hold on an input that the dead process had taken and perhaps not written into the task that it was filling."""
    cdef uint32_t i, at
    cdef int written
    cdef Inputs *inputs
    for i in range(slots_used(memory)):
        if memory.slots[i].creator != dead or not ff_load32(&memory.slots[i].holds) & HOLD_PENDING:
            continue
        written = 0
        if building != NO_INPUT and memory.slots[building].inputs:
            inputs = <Inputs *> (memory.base + memory.slots[building].inputs)
            for at in range(inputs.count):
                written |= edges_of(inputs)[at].input == i
        if not written:
            release_count(memory, i)
        release_bits(memory, i, HOLD_PENDING)

cdef int is_referred_to(Memory *memory, uint64_t block) noexcept nogil:
    """Whether a block has a place: a dead process may have put it down and not said so any more."""
    cdef uint32_t i
    cdef Slot *slot
    if memory.header.setup == block:
        return 1
    for i in range(slots_used(memory)):
        slot = &memory.slots[i]
        if slot.payload == block or slot.result == block or slot.inputs == block or slot.waits_for == WAITS_FOR_ANY | block:
            return 1
    for i in range(ff_load32(&memory.header.service_high)):
        if memory.services[i].blob == block:
            return 1
    for i in range(LANE_COUNT):
        if memory.lanes[i].error == block:
            return 1
    return 0

cdef inline uint32_t slots_used(Memory *memory) noexcept nogil:
    """Slots from here on were never used."""
    return ff_load32(&memory.header.group_high) * GROUP_BITS
