# Who may run what next: a lane is a ring of hints (lap:20 | generation:23 | slot + 1:21) to tasks in the table.
#
# A worker claims a task in the table first (one compare-and-swap READY -> RUNNING) and takes the hint out afterwards; anybody
# may take out a hint whose task is not READY any more, and anybody may push on a head or tail that its mover left behind. So a
# death between any two steps neither loses a task nor runs it twice.
#
# Rejected: Vyukov's ring (reserve, then publish): a producer killed in between stalls every consumer for ever.

cdef enum:
    CLAIM_EMPTY = -1

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
