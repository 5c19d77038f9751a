# The task table: one slot for each call, promise and value that somebody holds or that is not finished.
#
# The table is the truth about a task; the lanes, the logs and the processes' notes are hints.

cdef enum:
    OWNER_SHIFT = 4
    GENERATION_SHIFT = 16

cdef inline uint32_t status_of(uint64_t state) noexcept nogil:
    return <uint32_t> (state & 0xF)

cdef inline uint32_t owner_of(uint64_t state) noexcept nogil:
    return <uint32_t> ((state >> OWNER_SHIFT) & 0xFFF)

cdef inline uint64_t generation_of(uint64_t state) noexcept nogil:
    return state >> GENERATION_SHIFT

cdef inline uint64_t with_status(uint64_t state, uint32_t status, uint32_t owner) noexcept nogil:
    return generation_of(state) << GENERATION_SHIFT | <uint64_t> owner << OWNER_SHIFT | status

cdef int64_t slot_take(Memory *memory) noexcept nogil:
    """Index of a slot nobody else has, its status still FREE; -1 when all are in use. Named in Process.building from now on."""
    cdef int64_t member = member_take(memory, SLOT_POOL)
    if member < 0:
        return -1
    ff_count(&memory.header.slots_taken)
    return (member >> 6) * GROUP_BITS + (member & 63)

cdef void slot_leave(Memory *memory, uint32_t index, uint64_t held) noexcept nogil:
    """Nobody holds a slot any more: whoever claims it then gives it back. `held`: its state when the caller held it still."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if generation_of(state) == generation_of(held) and (status_of(state) == DONE or status_of(state) == FAILED) \
            and ff_cas64(&slot.state, state, with_status(state, LEAVING, memory.me)):
        slot_return(memory, index)

cdef void slot_return(Memory *memory, uint32_t index) noexcept nogil:
    """Gives back the blocks of a slot that is this process's, LEAVING or FREE, and then itself.

    Its generation goes up, so that who has read its state before cannot claim it. It names who freed it, should its bit stay.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t inputs = slot.inputs
    give_back_inputs(memory, slot)
    slot_release(memory, index, PAYLOAD)
    slot_release(memory, index, RESULT)
    if inputs:
        slot.inputs = 0
        block_free(memory, inputs)
    ff_count(&memory.header.slots_freed)
    ff_store64(&slot.state, with_status((generation_of(slot.state) + 1) << GENERATION_SHIFT, FREE, memory.me))
    member_free(memory, SLOT_POOL, index // GROUP_BITS, index % GROUP_BITS)

cdef void slot_prepare(Memory *memory, uint32_t index) noexcept nogil:
    """Makes a taken slot its creator's. It has no value and no inputs: whoever had it before has given those back."""
    cdef Slot *slot = &memory.slots[index]
    slot.waiters = 0
    slot.creator = memory.me
    slot.payload_bytes = 0
    slot.watched = slot.started = 0
    slot.service = NO_SERVICE
    slot.lane = 0
    ff_store32(&slot.holds, HOLD_CREATOR | HOLD_RUN)    # last: a burial looks at them first, and only then whose they are

cdef void slot_store(Memory *memory, uint32_t index, uint32_t which, uint64_t block, uint64_t nbytes, uint32_t kind) noexcept nogil:
    """Makes a filled block, and what the value in it lies in, the slot's payload or result. `block` 0: it is in `data` already."""
    cdef Slot *slot = &memory.slots[index]
    if block and is_extent(memory, block):
        kind |= KIND_EXTENT
    ff_store32(kind_of(slot, which), kind)              # before the block: it tells how that is to be given back
    if which == RESULT:
        slot.result_bytes = nbytes
        ff_store64(&slot.result, block)
    else:
        slot.payload_bytes = nbytes
        ff_store64(&slot.payload, block)
    block_settled(memory)
    if kind & (KIND_HANDLES | KIND_EXTENT):
        slot_link(memory, index, which)
        if kind & KIND_EXTENT:
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
    if block and not kind & KIND_EXTENT:
        slab_free(memory, <uint32_t> extent_of(memory, block), block)
    kind_of(slot, which)[0] = 0

cdef void release_bits(Memory *memory, uint32_t index, uint32_t bits) noexcept nogil:
    """Clears hold bits; clearing one twice is harmless, and only the clearer of the last frees."""
    cdef uint64_t held = ff_load64(&memory.slots[index].state)
    cdef uint32_t before = ff_and32(&memory.slots[index].holds, ~bits)
    if before & bits and not before & ~bits:
        slot_leave(memory, index, held)

cdef void number_drop(Memory *memory, uint32_t index) noexcept nogil:
    """Numbers this process's next drop, of a hold on a slot, so that its mark is not the one that the slot has already.

    Numbers come round after 2**GIVING_BITS drops. That is harmless: only this process leaves its marks, so as long as the
    slot's mark is another when the drop begins, the mark found there later tells that this drop was done.
    """
    cdef Process *process = &memory.processes[memory.me]
    cdef uint64_t giving = process.giving + 1
    while giver_of(memory.me, giving) == ff_load32(&memory.slots[index].giver):
        giving += 1
    ff_store64(&process.giving_slot, index)     # first: see drop_was_done
    ff_store64(&process.giving, giving)

cdef void drop_count(Memory *memory, uint32_t index, uint32_t giver) noexcept nogil:
    """Takes one off the count, and leaves there whose drop it was, and which of his: so a death right before and one right after
    can be told apart.

    A recoverable compare-and-swap (Attiya, Ben-Baruch, Hendler, "Nesting-Safe Recoverable Linearizability", PODC 2018): whoever
    overwrites a mark tells its owner first.
    """
    cdef Process *process = &memory.processes[giver]
    cdef uint64_t *word = <uint64_t *> &memory.slots[index].holds
    cdef uint64_t held = ff_load64(&memory.slots[index].state), holds
    cdef uint64_t mark = <uint64_t> giver_of(giver, process.giving) << 32
    while True:
        holds = ff_load64(word)
        drop_was_done(memory, index, <uint32_t> (holds >> 32))
        if ff_cas64(word, holds, mark | <uint32_t> (<uint32_t> holds - 1)):
            break
    ff_store64(&process.giving_edge, 0)
    if <uint32_t> holds == 1:
        slot_leave(memory, index, held)

cdef inline uint32_t giver_of(uint32_t process, uint64_t giving) noexcept nogil:
    """Process and number of a drop, not 0."""
    return process << GIVING_BITS | <uint32_t> (giving % ((1 << GIVING_BITS) - 1) + 1)

cdef inline void drop_was_done(Memory *memory, uint32_t index, uint32_t giver) noexcept nogil:
    """Tells the process that left this mark, should it die meanwhile: the mark is about to be overwritten.

    A mark of an earlier drop may have the number of the one in progress. That one is of another slot, or it began when this
    slot had another mark (`number_drop`): so only a mark that still stands after it has begun is its own.
    """
    cdef uint32_t at = giver >> GIVING_BITS
    cdef Process *process = &memory.processes[at]
    cdef uint64_t giving, given
    if at == memory.me or giver == 0:
        return
    giving = ff_load64(&process.giving)
    if giver_of(at, giving) != giver or ff_load64(&process.giving_slot) != index or ff_load32(&memory.slots[index].giver) != giver:
        return
    given = ff_load64(&process.given)
    while <int64_t> (giving - given) > 0 and not ff_cas64(&process.given, given, giving):
        given = ff_load64(&process.given)

cdef inline uint32_t slots_used(Memory *memory) noexcept nogil:
    """Slots from here on were never used."""
    return ff_load32(&memory.header.group_high) * GROUP_BITS
