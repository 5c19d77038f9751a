# Run queues: each is a multi-producer, multi-consumer ring of entries, which name tasks in the table.
#
# A worker claims a task in the table first (one compare-and-swap READY -> RUNNING) and removes the entry afterwards. Any
# process may remove an entry whose task is not READY any more, and any process may advance a head or tail that another
# process left behind (helping).
#
# An entry is the upper 44 bits of its position (its lap) and 20 bits of slot + 1, 0 for none. It does not say which of the
# slot's calls it is to. It may have been void for a long time, because its call was run from elsewhere, and the slot may be
# in use again for a call of another queue or a later call of this one. The slot tells: an entry is to the call that the slot
# has now if this is the call's queue and the entry's position is not before `Slot.queue_tail`, where the queue ended when
# the call was made. Neither position wraps in practice (2**64 positions).
#
# Guarantees: a death between any two steps neither loses a task nor runs it twice. Pushing never waits for another process.
#
# Rejected: Vyukov's ring (reserve, then publish): a producer killed in between stalls every consumer for ever. Bits of the
# slot's generation in the entry: they wrap in seconds, and then an entry is to any call that the slot has (ABA).

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .externs cimport ff_cas64, ff_load64, ff_store64
from .layout cimport READY, RING_MASK, RUNNING, SLOT_COUNT, WAITING, RunQueue, Slot
from .regions cimport Memory
from .bounds cimport follows
from .lookup cimport status_of, with_status

cdef enum:
    CLAIM_EMPTY = -1

cdef inline uint64_t lap_of(uint64_t word) noexcept nogil:
    """Return the lap of a position, or of an entry."""
    return word & ~<uint64_t> RING_MASK

cdef inline uint64_t entry_of(uint64_t position, uint32_t index) noexcept nogil:
    # S21: the lap in the entry makes an old entry differ from one of this lap (ABA).
    return lap_of(position) | (index + 1)

cdef inline int is_here(Memory *memory, uint32_t queue_index, uint64_t position, uint32_t index) noexcept nogil:
    """Tell whether an entry at a position of a queue is to the call that its slot has now.

    The caller reads the slot's state after the entry and before this. It may act on the answer only for the call of that
    state.
    """
    cdef Slot *slot = &memory.slots[index]
    # S20: pairs with `_publish` (client.pxi), which writes `queue_tail` before it publishes the call.
    return slot.queue == queue_index and <int64_t> (position - slot.queue_tail) >= 0

cdef inline int is_stale(Memory *memory, uint32_t queue_index, uint64_t position, uint64_t entry) noexcept nogil:
    """Tell whether an entry is void: no call can be claimed by it any more.

    In an ordered queue a call has its entry from the start, in others once it is ready.
    """
    cdef uint32_t index = <uint32_t> (entry & RING_MASK) - 1, status = status_of(ff_load64(&memory.slots[index].state))
    if status != READY and not (status == WAITING and memory.queues[queue_index].ordered):
        return 1
    return not is_here(memory, queue_index, position, index)

cdef inline int queue_push(Memory *memory, uint32_t queue_index, uint32_t index) noexcept nogil:
    """Push an entry to a slot; return 0 when an ordered queue's ring has no place left."""
    cdef RunQueue *queue = &memory.queues[queue_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> queue_index * SLOT_COUNT
    cdef uint64_t tail, entry
    cdef uint32_t attempts = 0
    while follows(memory, &attempts):
        tail = ff_load64(&queue.tail)
        entry = ff_load64(&ring[tail & RING_MASK])
        if lap_of(entry) == lap_of(tail):
            if entry & RING_MASK:                                # written, tail left behind: advance it
                ff_cas64(&queue.tail, tail, tail + 1)
            elif ff_cas64(&ring[tail & RING_MASK], entry, entry_of(tail, index)):
                # S4: the last cas is a full barrier before the look at the sleepers. S5: and at `seeker`.
                ff_cas64(&queue.tail, tail, tail + 1)
                return 1
        elif lap_of(entry) == lap_of(tail + SLOT_COUNT):         # written and read, tail left behind
            ff_cas64(&queue.tail, tail, tail + 1)
        elif ff_load64(&queue.tail) == tail and not queue_trim(memory, queue_index):    # full, mostly of stale entries
            if queue.ordered:
                return 0
            queue_rotate(memory, queue_index)
    return 0

cdef inline void queue_rotate(Memory *memory, uint32_t queue_index) noexcept nogil:
    """Make room in a full ring: move its first entry to the end."""
    cdef RunQueue *queue = &memory.queues[queue_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> queue_index * SLOT_COUNT
    cdef uint64_t head = ff_load64(&queue.head), entry = ff_load64(&ring[head & RING_MASK])
    cdef uint32_t index = <uint32_t> (entry & RING_MASK) - 1
    cdef uint64_t *rotating = &memory.processes[memory.me].rotating
    cdef uint64_t outer = rotating[0]           # others may have taken the place that was made for that one
    if lap_of(entry) != lap_of(head) or not entry & RING_MASK or is_stale(memory, queue_index, head, entry):
        return
    ff_store64(rotating, index + 1)
    if queue_drop(queue, ring, head, entry):
        queue_push(memory, queue_index, index)
    ff_store64(rotating, outer)

cdef inline int queue_trim(Memory *memory, uint32_t queue_index) noexcept nogil:
    """Remove void entries from the queue's head on; return how many."""
    cdef RunQueue *queue = &memory.queues[queue_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> queue_index * SLOT_COUNT
    cdef uint64_t head, entry
    cdef int count = 0
    while True:
        head = ff_load64(&queue.head)
        entry = ff_load64(&ring[head & RING_MASK])
        if lap_of(entry) != lap_of(head) or not entry & RING_MASK or not is_stale(memory, queue_index, head, entry):
            return count
        count += queue_drop(queue, ring, head, entry)

cdef inline int queue_drop(RunQueue *queue, uint64_t *ring, uint64_t head, uint64_t entry) noexcept nogil:
    """Remove the entry at a queue's head; return 0 if another process did."""
    cdef int dropped = ff_cas64(&ring[head & RING_MASK], entry, lap_of(head + SLOT_COUNT))
    ff_cas64(&queue.head, head, head + 1)
    return dropped

cdef inline int64_t queue_claim(Memory *memory, uint32_t queue_index) noexcept nogil:
    """Claim the first READY task of a queue for this process; return its slot's index, or CLAIM_EMPTY."""
    cdef RunQueue *queue = &memory.queues[queue_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> queue_index * SLOT_COUNT
    cdef uint64_t head, entry, state
    cdef uint32_t index, attempts = 0
    while follows(memory, &attempts):
        head = ff_load64(&queue.head)
        entry = ff_load64(&ring[head & RING_MASK])
        if lap_of(entry) == lap_of(head + SLOT_COUNT):           # read, head left behind
            ff_cas64(&queue.head, head, head + 1)
            continue
        if lap_of(entry) != lap_of(head):
            continue                                            # head moved between the two loads
        if not entry & RING_MASK:
            return CLAIM_EMPTY
        index = <uint32_t> (entry & RING_MASK) - 1
        state = ff_load64(&memory.slots[index].state)
        if status_of(state) == READY and is_here(memory, queue_index, head, index):
            # S1: pairs with the exchange of `state` in `_publish` (client.pxi); the call is read after it.
            if not ff_cas64(&memory.slots[index].state, state, with_status(state, RUNNING, memory.me)):
                continue
            queue_drop(queue, ring, head, entry)
            return index
        if status_of(state) == WAITING and queue.ordered and is_here(memory, queue_index, head, index):
            return CLAIM_EMPTY                                  # its turn, but a dependency is missing
        queue_drop(queue, ring, head, entry)
    return CLAIM_EMPTY

cdef inline int queue_empty(Memory *memory, uint32_t queue_index) noexcept nogil:
    cdef RunQueue *queue = &memory.queues[queue_index]
    return ff_load64(&queue.head) == ff_load64(&queue.tail)
