# Who may run what next: a lane is a ring of hints to tasks in the table.
#
# A worker claims a task in the table first (one compare-and-swap READY -> RUNNING) and takes the hint out afterwards; anybody
# may take out a hint whose task is not READY any more, and anybody may push on a head or tail that its mover left behind. So a
# death between any two steps neither loses a task nor runs it twice.
#
# A hint is the upper 44 bits of its position and 20 bits of slot + 1, 0 for none. It says nothing of which of the slot's calls it
# is to: it may long be void, of a call that was run from elsewhere, and the slot in use again for another lane's call or a later one
# of this lane. The slot says that: a hint is to the call that the slot has now if this is the call's lane and its position is not
# before `Slot.lane_tail`, where the lane ended when the call was made. Neither ever wraps in practice (2**64 positions).
#
# Rejected: Vyukov's ring (reserve, then publish): a producer killed in between stalls every consumer for ever. Bits of the slot's
# generation in the hint: they come round in seconds, and then a hint is to whatever the slot has.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .externs cimport ff_cas64, ff_load64, ff_store64
from .layout cimport READY, RING_MASK, RUNNING, SLOT_COUNT, WAITING, Lane, Slot
from .regions cimport Memory
from .lookup cimport status_of, with_status

cdef enum:
    CLAIM_EMPTY = -1

cdef inline uint64_t lap_of(uint64_t word) noexcept nogil:
    """Of a position, or of a hint."""
    return word & ~<uint64_t> RING_MASK

cdef inline uint64_t hint_of(uint64_t position, uint32_t index) noexcept nogil:
    return lap_of(position) | (index + 1)

cdef inline int is_here(Memory *memory, uint32_t lane_index, uint64_t position, uint32_t index) noexcept nogil:
    """Whether a hint at a position of a lane is to the call that its slot has now.

    Its state is read after the hint and before this: only what was read of that state's call may be acted on.
    """
    cdef Slot *slot = &memory.slots[index]
    return slot.lane == lane_index and <int64_t> (position - slot.lane_tail) >= 0

cdef inline int is_void(Memory *memory, uint32_t lane_index, uint64_t position, uint64_t hint) noexcept nogil:
    """Whether there is nothing more to be claimed by a hint. In an ordered lane a call stands from the start, in others when it is ready."""
    cdef uint32_t index = <uint32_t> (hint & RING_MASK) - 1, status = status_of(ff_load64(&memory.slots[index].state))
    if status != READY and not (status == WAITING and memory.lanes[lane_index].ordered):
        return 1
    return not is_here(memory, lane_index, position, index)

cdef inline int lane_push(Memory *memory, uint32_t lane_index, uint32_t index) noexcept nogil:
    """Adds a hint to a slot; 0 when the ring of an instance's lane is full of void hints."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t tail, hint
    while True:
        tail = ff_load64(&lane.tail)
        hint = ff_load64(&ring[tail & RING_MASK])
        if lap_of(hint) == lap_of(tail):
            if hint & RING_MASK:                                # written, tail left behind: push it on
                ff_cas64(&lane.tail, tail, tail + 1)
            elif ff_cas64(&ring[tail & RING_MASK], hint, hint_of(tail, index)):
                ff_cas64(&lane.tail, tail, tail + 1)
                return 1
        elif lap_of(hint) == lap_of(tail + SLOT_COUNT):         # written and read, tail left behind
            ff_cas64(&lane.tail, tail, tail + 1)
        elif ff_load64(&lane.tail) == tail and not lane_trim(memory, lane_index):       # full, of hints most of which are void
            if lane.ordered:
                return 0
            lane_rotate(memory, lane_index)

cdef inline void lane_rotate(Memory *memory, uint32_t lane_index) noexcept nogil:
    """Makes room in a full ring: its first hint goes to the end."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t head = ff_load64(&lane.head), hint = ff_load64(&ring[head & RING_MASK])
    cdef uint32_t index = <uint32_t> (hint & RING_MASK) - 1
    cdef uint64_t *rotating = &memory.processes[memory.me].rotating
    cdef uint64_t outer = rotating[0]           # others may have filled the room that was made for that one
    if lap_of(hint) != lap_of(head) or not hint & RING_MASK or is_void(memory, lane_index, head, hint):
        return
    ff_store64(rotating, index + 1)
    if lane_drop(lane, ring, head, hint):
        lane_push(memory, lane_index, index)
    ff_store64(rotating, outer)

cdef inline int lane_trim(Memory *memory, uint32_t lane_index) noexcept nogil:
    """Takes void hints out from the lane's head on; how many."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t head, hint
    cdef int count = 0
    while True:
        head = ff_load64(&lane.head)
        hint = ff_load64(&ring[head & RING_MASK])
        if lap_of(hint) != lap_of(head) or not hint & RING_MASK or not is_void(memory, lane_index, head, hint):
            return count
        count += lane_drop(lane, ring, head, hint)

cdef inline int lane_drop(Lane *lane, uint64_t *ring, uint64_t head, uint64_t hint) noexcept nogil:
    """Takes the hint at a lane's head out; 0 if another process did."""
    cdef int dropped = ff_cas64(&ring[head & RING_MASK], hint, lap_of(head + SLOT_COUNT))
    ff_cas64(&lane.head, head, head + 1)
    return dropped

cdef inline int64_t lane_claim(Memory *memory, uint32_t lane_index) noexcept nogil:
    """Claims the first READY task of a lane for this process: its slot's index, or CLAIM_EMPTY."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> lane_index * SLOT_COUNT
    cdef uint64_t head, hint, state
    cdef uint32_t index
    while True:
        head = ff_load64(&lane.head)
        hint = ff_load64(&ring[head & RING_MASK])
        if lap_of(hint) == lap_of(head + SLOT_COUNT):           # read, head left behind
            ff_cas64(&lane.head, head, head + 1)
            continue
        if lap_of(hint) != lap_of(head):
            continue                                            # head moved between the two loads
        if not hint & RING_MASK:
            return CLAIM_EMPTY
        index = <uint32_t> (hint & RING_MASK) - 1
        state = ff_load64(&memory.slots[index].state)
        if status_of(state) == READY and is_here(memory, lane_index, head, index):
            if not ff_cas64(&memory.slots[index].state, state, with_status(state, RUNNING, memory.me)):
                continue
            lane_drop(lane, ring, head, hint)
            return index
        if status_of(state) == WAITING and lane.ordered and is_here(memory, lane_index, head, index):
            return CLAIM_EMPTY                                  # its turn, but an input is missing
        lane_drop(lane, ring, head, hint)

cdef inline int lane_empty(Memory *memory, uint32_t lane_index) noexcept nogil:
    cdef Lane *lane = &memory.lanes[lane_index]
    return ff_load64(&lane.head) == ff_load64(&lane.tail)
