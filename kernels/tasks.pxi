# The task table and its lanes: who may run what, and what becomes ready when something is finished.
#
# The table is the truth, lanes are hints. A lane is a ring of hints (lap:20 | generation:23 | slot + 1:21). A worker claims a
# task in the table first (one compare-and-swap READY -> RUNNING) and takes the hint out afterwards; anybody may take out a
# hint whose task is not READY any more, and anybody may push on a head or tail that its mover left behind. So a death between
# any two steps neither loses a task nor runs it twice.
#
# Rejected: Vyukov's ring (reserve, then publish): a producer killed in between stalls every consumer for ever.

cdef struct Memory:
    char *base
    Header *header
    Process *processes
    Service *services
    Lane *lanes
    Slot *slots
    uint64_t *rings

cdef enum:
    CLAIM_EMPTY = -1

cdef inline uint64_t align_up(uint64_t value, uint64_t to) noexcept nogil:
    return (value + to - 1) & ~(to - 1)

cdef uint64_t map_memory(char *base, Memory *memory) noexcept nogil:
    """Points `memory` at the regions of the segment at `base`; returns the arena's first offset."""
    cdef uint64_t at = align_up(sizeof(Header), PAGE)
    memory.base = base
    memory.header = <Header *> base
    memory.processes = <Process *> (base + at)
    at = align_up(at + <uint64_t> PROCESS_COUNT * sizeof(Process), PAGE)
    memory.services = <Service *> (base + at)
    at = align_up(at + <uint64_t> SERVICE_COUNT * sizeof(Service), PAGE)
    memory.lanes = <Lane *> (base + at)
    at = align_up(at + <uint64_t> LANE_COUNT * sizeof(Lane), PAGE)
    memory.slots = <Slot *> (base + at)
    at = align_up(at + <uint64_t> SLOT_COUNT * sizeof(Slot), PAGE)
    memory.rings = <uint64_t *> (base + at)
    return align_up(at + <uint64_t> LANE_COUNT * SLOT_COUNT * sizeof(uint64_t), PAGE)

# ---- slots ----------------------------------------------------------------------------------------------------------

cdef inline uint32_t status_of(uint64_t state) noexcept nogil:
    return <uint32_t> (state & 0xFF)

cdef inline uint32_t owner_of(uint64_t state) noexcept nogil:
    return <uint32_t> ((state >> 8) & 0xFFFFFF)

cdef inline uint64_t with_status(uint64_t state, uint32_t status, uint32_t owner) noexcept nogil:
    return ((state >> 32) << 32) | (<uint64_t> owner << 8) | status

cdef int64_t slot_take(Memory *memory) noexcept nogil:
    """Index of a slot nobody else has, its status still FREE; -1 when all are in use."""
    cdef uint64_t word, following
    cdef uint32_t index
    while True:
        word = ff_load64(&memory.header.free_slots)
        index = <uint32_t> word
        if index == 0:
            break
        following = memory.slots[index - 1].next_free
        if ff_cas64(&memory.header.free_slots, word, (((word >> 32) + 1) << 32) | following):
            ff_count(&memory.header.slots_taken)
            return index - 1
    index = ff_add32(&memory.header.slot_high, 1)
    if index >= SLOT_COUNT - SLOT_SPARE:
        ff_add32(&memory.header.slot_high, <uint32_t> -1)
        return -1
    ff_count(&memory.header.slots_taken)
    return index

cdef void slot_return(Memory *memory, uint32_t index) noexcept nogil:
    """Gives a slot's blocks and then itself back; its generation goes up, so that old hints to it are void."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t word, generation = (slot.state >> 32) + 1
    if slot.payload:
        arena_free(memory.base, slot.payload)
    if slot.result:
        arena_free(memory.base, slot.result)
    if slot.inputs:
        arena_free(memory.base, slot.inputs)
    slot.payload = slot.result = slot.inputs = 0
    ff_count(&memory.header.slots_freed)
    ff_store64(&slot.state, generation << 32)
    while True:
        word = ff_load64(&memory.header.free_slots)
        slot.next_free = <uint32_t> word
        if ff_cas64(&memory.header.free_slots, word, (((word >> 32) + 1) << 32) | (index + 1)):
            return

cdef void slot_prepare(Slot *slot, uint32_t creator) noexcept nogil:
    slot.waiters = 0
    slot.holds = HOLD_CREATOR | HOLD_RUN
    slot.creator = creator
    slot.payload = slot.result = slot.inputs = 0
    slot.payload_bytes = slot.result_bytes = 0
    slot.watched = 0

cdef void release_bits(Memory *memory, uint32_t index, uint32_t bits) noexcept nogil:
    """Clears hold bits; clearing one twice is harmless, and only the clearer of the last frees."""
    cdef uint32_t before = ff_and32(&memory.slots[index].holds, ~bits)
    if before & bits and not before & ~bits:
        slot_return(memory, index)

cdef void release_count(Memory *memory, uint32_t index) noexcept nogil:
    if ff_add32(&memory.slots[index].holds, <uint32_t> -1) == 1:
        slot_return(memory, index)

cdef inline char *payload_of(Memory *memory, Slot *slot) noexcept nogil:
    if slot.payload:
        return memory.base + slot.payload
    return <char *> slot.data

cdef inline char *result_of(Memory *memory, Slot *slot) noexcept nogil:
    if slot.result:
        return memory.base + slot.result
    return <char *> slot.data

# ---- lanes ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t hint_of(uint64_t position, uint32_t index, uint64_t state) noexcept nogil:
    return ((position >> SLOT_BITS) << 44) | (((state >> 32) & 0x7FFFFF) << 21) | (index + 1)

cdef inline uint64_t lap_of(uint64_t position) noexcept nogil:
    return (position >> SLOT_BITS) & 0xFFFFF

cdef int lane_push(Memory *memory, uint32_t lane_index, uint32_t index) noexcept nogil:
    """Adds a hint for the slot; 0 when the ring is full, which SLOT_SPARE keeps from happening."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t tail, entry
    while True:
        tail = ff_load64(&lane.tail)
        entry = ff_load64(&ring[tail & RING_MASK])
        if entry >> 44 == lap_of(tail):
            if entry & 0x1FFFFF:                                # written, tail left behind: push it on
                ff_cas64(&lane.tail, tail, tail + 1)
            elif ff_cas64(&ring[tail & RING_MASK], entry, hint_of(tail, index, memory.slots[index].state)):
                ff_cas64(&lane.tail, tail, tail + 1)
                return 1
        elif entry >> 44 == lap_of(tail + SLOT_COUNT):          # written and read, tail left behind
            ff_cas64(&lane.tail, tail, tail + 1)
        elif ff_load64(&lane.tail) == tail:
            return 0

cdef inline void lane_drop(Lane *lane, uint64_t *ring, uint64_t head, uint64_t entry) noexcept nogil:
    ff_cas64(&ring[head & RING_MASK], entry, lap_of(head + SLOT_COUNT) << 44)
    ff_cas64(&lane.head, head, head + 1)

cdef int64_t lane_claim(Memory *memory, uint32_t lane_index, uint32_t me) noexcept nogil:
    """Claims the first READY task of a lane for process `me`: its slot's index, or CLAIM_EMPTY."""
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
                if ff_cas64(&memory.slots[index].state, state, with_status(state, RUNNING, me)):
                    lane_drop(lane, ring, head, entry)
                    return index
                continue
            if status_of(state) == WAITING and lane.ordered:
                return CLAIM_EMPTY                              # its turn, but an input is missing
        lane_drop(lane, ring, head, entry)

cdef inline int lane_empty(Memory *memory, uint32_t lane_index) noexcept nogil:
    cdef Lane *lane = &memory.lanes[lane_index]
    return ff_load64(&lane.head) == ff_load64(&lane.tail)

cdef int seat_take(Memory *memory, uint32_t lane_index, uint32_t me) noexcept nogil:
    """A seat at a limited lane for worker `me`, or 0. One whose holder is blocked may be taken over: it is not running."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint32_t seat, holder
    for seat in range(lane.limit):
        if ff_load32(&lane.seats[seat]) == me + 1:
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

cdef void wake_waiters(Memory *memory, uint32_t process) noexcept nogil:
    """Wakes every thread of `process` that sleeps for a future."""
    ff_add32(&memory.processes[process].wake, 1)
    ff_fence()
    if ff_load32(&memory.processes[process].waiters):
        ff_futex_wake(&memory.processes[process].wake, PROCESS_COUNT)

# ---- finishing ------------------------------------------------------------------------------------------------------

cdef inline uint64_t *inputs_level(Inputs *inputs, uint32_t level) noexcept nogil:
    return <uint64_t *> (<char *> inputs + inputs.level_at[level])

cdef int inputs_clear(Inputs *inputs, uint32_t bit) noexcept nogil:
    """Marks one input as there; 1 when it was the last one missing."""
    cdef uint32_t level
    for level in range(inputs.levels):
        if ff_and64(&inputs_level(inputs, level)[bit >> 6], ~(<uint64_t> 1 << (bit & 63))) & ~(<uint64_t> 1 << (bit & 63)):
            return 0
        bit >>= 6
    return 1

cdef int promote(Memory *memory, uint32_t me, uint32_t index) noexcept nogil:
    """The last input of a task is there: WAITING -> READY, and queue it (in an ordered lane it stands already)."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if status_of(state) != WAITING:
        return 0
    memory.processes[me].promoting = index + 1
    if ff_cas64(&slot.state, state, with_status(state, READY, 0)):
        if not memory.lanes[slot.lane].ordered:
            lane_push(memory, slot.lane, index)
        wake_lane(memory, slot.lane)
    memory.processes[me].promoting = 0
    return 1

cdef void write_result(Memory *memory, Slot *slot, const char *data, uint64_t nbytes, uint32_t kind) noexcept nogil:
    """Copies an outcome into the slot or a block. A full store leaves an empty outcome, which reads as StoreFullError."""
    cdef uint64_t block = 0
    if nbytes <= INLINE_BYTES:
        memcpy(slot.data, data, nbytes)
    else:
        block = arena_take(memory.base, nbytes)
        if block == 0:
            nbytes = 0
        else:
            memcpy(memory.base + block, data, nbytes)
    slot.result = block
    slot.result_bytes = nbytes
    slot.result_kind = kind

cdef void fail_with(Memory *memory, uint32_t me, uint32_t index, Slot *cause, uint32_t **stack, uint32_t *depth,
                    uint32_t *room) noexcept nogil:
    """Gives a task that has not started the error of its failed input, and puts it on the stack of finished tasks."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    cdef uint32_t *larger
    while status_of(state) == WAITING:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, me)):
            write_result(memory, slot, result_of(memory, cause), cause.result_bytes, cause.result_kind)
            if memory.lanes[slot.lane].ordered:         # it stood in the way of the calls behind it
                wake_lane(memory, slot.lane)
            if depth[0] == room[0]:
                larger = <uint32_t *> realloc(stack[0], 2 * room[0] * sizeof(uint32_t))
                if larger == NULL:
                    return
                stack[0] = larger
                room[0] *= 2
            stack[0][depth[0]] = index
            depth[0] += 1
            return
        state = ff_load64(&slot.state)

cdef void finish(Memory *memory, uint32_t me, uint32_t index, uint32_t status) noexcept nogil:
    """Publishes the outcome of a task that `me` owns, and of everything below it that fails with it.

    1 state -> DONE/FAILED; 2 close the waiter list and clear this input's bit in each task on it; 3 give back the task's own
    inputs; 4 drop HOLD_RUN, until which the slot cannot be freed; 5 wake the creator if it watches. After a death at any of
    these, `finish_again` and `repair_waiting` do the rest.
    """
    cdef uint32_t depth = 1, room = 16
    cdef uint32_t *stack = <uint32_t *> malloc(16 * sizeof(uint32_t)) if status == FAILED else NULL
    if stack == NULL:
        finish_one(memory, me, index, status, NULL, NULL, NULL)
        return
    stack[0] = index
    while depth:
        depth -= 1
        finish_one(memory, me, stack[depth], status, &stack, &depth, &room)
    free(stack)

cdef void finish_one(Memory *memory, uint32_t me, uint32_t index, uint32_t status, uint32_t **stack, uint32_t *depth,
                     uint32_t *room) noexcept nogil:
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t watched, creator = slot.creator
    ff_exchange64(&slot.state, with_status(slot.state, status, me))
    watched = ff_load32(&slot.watched)
    tell_dependents(memory, me, index, status, stack, depth, room)
    give_back_inputs(memory, slot)
    release_bits(memory, index, HOLD_RUN)
    if watched:     # last: a system call, after which the woken one often runs first, and this process may be killed
        wake_waiters(memory, creator)

cdef void tell_dependents(Memory *memory, uint32_t me, uint32_t index, uint32_t status, uint32_t **stack, uint32_t *depth,
                          uint32_t *room) noexcept nogil:
    """Clears this input's bit in every task that stands on its waiter list, and closes the list."""
    cdef Slot *slot = &memory.slots[index]
    cdef Edge *edge
    cdef uint64_t at = ff_exchange64(&slot.waiters, WAITERS_CLOSED), following
    cdef uint32_t task
    while at > WAITERS_CLOSED:
        edge = <Edge *> (memory.base + at)
        following = edge.next           # the edge may be gone once its bit is cleared
        task = edge.task
        if status == FAILED and stack != NULL:
            fail_with(memory, me, task, slot, stack, depth, room)
        input_arrived(memory, me, task, edge.bit)
        at = following

cdef void input_arrived(Memory *memory, uint32_t me, uint32_t task, uint32_t bit) noexcept nogil:
    """May be said twice of the same input."""
    if inputs_clear(<Inputs *> (memory.base + memory.slots[task].inputs), bit):
        promote(memory, me, task)
        release_bits(memory, task, HOLD_EDGES)

cdef void give_back_inputs(Memory *memory, Slot *slot) noexcept nogil:
    """Drops a finished task's holds on its inputs, each once, whoever was interrupted at it before."""
    cdef Inputs *inputs
    cdef Edge *edges
    cdef uint32_t i, held
    if not slot.inputs:
        return
    inputs = <Inputs *> (memory.base + slot.inputs)
    edges = <Edge *> (<char *> inputs + sizeof(Inputs))
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

cdef void finish_again(Memory *memory, uint32_t me, uint32_t index, uint32_t dead) noexcept nogil:
    """Does what a process that died in `finish` may have left undone after it published an outcome."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if status_of(state) < DONE or owner_of(state) != dead or not ff_load32(&slot.holds) & HOLD_RUN:
        return
    if not hold_again(memory, index, state):
        return
    tell_dependents(memory, me, index, DONE, NULL, NULL, NULL)      # failures: see repair_waiting
    give_back_inputs(memory, slot)
    release_bits(memory, index, HOLD_RUN)
    wake_waiters(memory, slot.creator)
    release_count(memory, index)

cdef void repair_waiting(Memory *memory, uint32_t me, uint32_t index, uint32_t dead, const char *error, uint64_t nbytes) noexcept nogil:
    """Tells a waiting task of every input that `dead` finished: it may have died with the waiter list in its hands.

    Only of those: a living finisher still has the task's edge before it, and must find the task there. A task that `dead` was just
    submitting fails: nobody will say that it stands on all of its inputs.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef Slot *input
    cdef Inputs *inputs
    cdef Edge *edges
    cdef uint64_t state = ff_load64(&slot.state), input_state
    cdef uint32_t i, at
    if status_of(state) != WAITING or not hold_again(memory, index, state):
        return
    inputs = <Inputs *> (memory.base + slot.inputs)
    edges = <Edge *> (<char *> inputs + sizeof(Inputs))
    if slot.creator == dead and inputs_level(inputs, 0)[inputs.count >> 6] >> (inputs.count & 63) & 1:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, me)):
            write_result(memory, slot, error, nbytes, KIND_NATIVE)
            finish(memory, me, index, FAILED)
    for i in range(inputs.count):
        at = ff_load32(&edges[i].input)
        if at == NO_INPUT:
            continue
        input = &memory.slots[at]
        input_state = ff_load64(&input.state)
        if status_of(input_state) < DONE or owner_of(input_state) != dead:
            continue
        state = ff_load64(&slot.state)
        if status_of(input_state) == FAILED and status_of(state) == WAITING \
                and ff_cas64(&slot.state, state, with_status(state, RUNNING, me)):
            write_result(memory, slot, result_of(memory, input), input.result_bytes, input.result_kind)
            finish(memory, me, index, FAILED)
        input_arrived(memory, me, index, i)
    release_count(memory, index)
