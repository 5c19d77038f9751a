# What the zygote does in the table about a process that has ended: see `Supervision.bury`.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .externs cimport (
    ff_and64, ff_cas32, ff_cas64, ff_exchange64, ff_load32, ff_load64, ff_now_ns, ff_pause, ff_store32, ff_store64,
)
from .layout cimport (
    DONE, EXTENT_LEAVING, EXTENT_SLAB, FAILED, FREE, GROUP_BITS, GROUP_CLAIMED, GROUP_CURRENT, HOLD_BURIAL, HOLD_EDGES,
    HOLD_PENDING, HOLD_RUN, LANE_COUNT, LEAVING, NO_INPUT, ORPHAN, POOL_LANES, READY, RESULT, WAITING, WAITS_FOR_ANY,
    Edge, Extent, Group, Inputs, Process, Slot,
)
from .regions cimport SLOT_POOL, Memory
from .lookup cimport data_of, edges_of, empty_group, generation_of, group_of, owner_of, slots_used, status_of, with_status
from .wakeup cimport log_finished, wake_waiters
from .locked cimport claimed_to_free, clear_holder
from .lock cimport lock_give, lock_take
from .extents cimport extent_empty
from .groups cimport member_free
from .blocks cimport block_abandon, block_free
from .slots cimport drop_count, give_back_inputs, giver_of, release_bits, slot_leave, slot_return
from .run_queue cimport lane_push
from .dependencies cimport (
    all_arrived, clear_again, cleared_by, input_arrived, inputs_top, is_missing, promote_if_there, stand_on, stands_on,
)
from .completion cimport Finishing, fail_unstarted, finish, tell_dependents, write_result

cdef enum:
    WALK_NS = 20_000_000        # how long a walk over a waiter list is awaited

cdef inline int hold_again(Memory *memory, uint32_t index, uint64_t state) noexcept nogil:
    """Holds a slot that the zygote only came across, if it is still of `state`'s generation; give HOLD_BURIAL back.

    A bit, not a count: the zygote that follows a dead one finds it and takes it off.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t holds = ff_load32(&slot.holds)
    while holds:
        if ff_cas32(&slot.holds, holds, holds | HOLD_BURIAL):
            if generation_of(ff_load64(&slot.state)) == generation_of(state):
                return 1
            release_bits(memory, index, HOLD_BURIAL)
            return 0
        holds = ff_load32(&slot.holds)
    return 0

cdef inline void finish_again(Memory *memory, uint32_t index, uint32_t dead) noexcept nogil:
    """Does what a process that died in `finish` may have left undone after it published an outcome.

    Until then the slot stays: nobody else clears its HOLD_RUN. Its holds are looked at first: a use of it that the dead one has
    ended had ended before its burial began, so they are of that use, and not of a later one's call.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t holds = ff_load32(&slot.holds), creator
    cdef uint64_t state = ff_load64(&slot.state)
    cdef Finishing finishing = Finishing(failed=NULL, count=0, room=0, kept=NULL)       # failures: see repair_waiting
    if not holds & HOLD_RUN or status_of(state) < DONE or owner_of(state) != dead:
        return
    creator = slot.creator
    tell_dependents(memory, index, DONE, &finishing)
    if not ff_load32(&slot.holds) & HOLD_EDGES:
        give_back_inputs(memory, slot)
    if ff_load32(&slot.watched):
        log_finished(memory, creator, index)
    release_bits(memory, index, HOLD_RUN)
    wake_waiters(memory, creator)

cdef inline void repair_waiting(Memory *memory, uint32_t index, uint32_t dead, const char *error, uint64_t nbytes) noexcept nogil:
    """Tells a task that stands on lists of every input that `dead` finished: it may have died with the list in its hands.

    Only of those: a living finisher still has the task's edge before it, and must find the task there.
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
    for i in range(inputs.count):
        at = ff_load32(&edges[i].input)
        if at == NO_INPUT:
            continue
        input_state = ff_load64(&memory.slots[at].state)
        if owner_of(input_state) != dead:       # what it still ran when it died has been settled
            continue
        if status_of(input_state) == FAILED:
            fail_unstarted(memory, index, data_of(memory, &memory.slots[at], RESULT), memory.slots[at].result_bytes)
        input_arrived(memory, index, i, NULL)
    if slot.creator == dead or inputs.orphaned:
        adopt(memory, index, error, nbytes)
    if clear_again(memory, inputs, dead) or ff_load64(inputs_top(inputs)) == cleared_by(dead):
        all_arrived(memory, index, NULL)
    release_bits(memory, index, HOLD_BURIAL)

cdef inline void adopt(Memory *memory, uint32_t index, const char *error, uint64_t nbytes) noexcept nogil:
    """A task whose submitter died before it stood on all of its inputs' lists fails; and what it holds comes back.

    Of an input that is just being finished nobody can say whether the task is on its list before the list has been walked. If
    that takes long (the finisher is stopped, or dead too) the next burial goes on.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef Inputs *inputs = <Inputs *> (memory.base + slot.inputs)
    cdef Edge *edges = edges_of(inputs)
    cdef Slot *input
    cdef uint32_t i
    if not is_missing(inputs, inputs.count):
        return
    inputs.orphaned = 1
    fail_unstarted(memory, index, error, nbytes)
    for i in range(inputs.count):
        if not is_missing(inputs, i):
            continue
        input = &memory.slots[edges[i].input]       # its number is given back only when nothing is missing any more
        if stands_on(memory, input, &edges[i]) or stand_on(memory, input, &edges[i]):
            continue
        if not is_walked(input):
            return
        input_arrived(memory, index, i, NULL)
    input_arrived(memory, index, inputs.count, NULL)

cdef inline int is_walked(Slot *input) noexcept nogil:
    """Whether the finisher of an input has told everybody on its list; waits a while for one that is about it."""
    cdef int64_t deadline = ff_now_ns() + WALK_NS
    while ff_load32(&input.holds) & HOLD_RUN:
        if ff_now_ns() > deadline:
            return 0
        ff_pause()
    return 1

cdef inline void bury_task(Memory *memory, uint32_t index, const char *error, uint64_t nbytes) noexcept nogil:
    """A task that a dead process had claimed: one that had begun fails, another is for somebody else.

    One that it had claimed only to pass an input's error on waits again: `repair_waiting` does what is to be done.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = slot.state, waits_for = slot.waits_for
    cdef uint32_t lane = slot.lane
    slot.waits_for = 0
    if waits_for & WAITS_FOR_ANY:
        block_free(memory, waits_for & ~WAITS_FOR_ANY)
    if slot.started or memory.lanes[slot.lane].ordered:
        write_result(memory, index, error, nbytes)
        finish(memory, index, FAILED, NULL)
        return
    memory.processes[memory.me].promoting = index + 1
    if slot.inputs:
        ff_exchange64(&slot.state, with_status(state, WAITING, 0))
        promote_if_there(memory, index)     # whoever has cleared the last bit found it claimed
        memory.processes[memory.me].promoting = 0
        return
    ff_exchange64(&slot.state, with_status(state, READY, 0))     # from here on it may be run and gone at once
    lane_push(memory, lane, index)
    memory.processes[memory.me].promoting = 0

cdef inline void bury_giving(Memory *memory, uint32_t dead) noexcept nogil:
    """A hold on an input that the dead process had crossed out in the edge, and perhaps not taken off the count."""
    cdef Process *process = &memory.processes[dead]
    cdef Edge *edge = <Edge *> (memory.base + process.giving_edge)
    cdef uint32_t index = <uint32_t> process.giving_slot, giver
    if not process.giving_edge:
        return
    if edge.input == NO_INPUT:
        giver = ff_load32(&memory.slots[index].giver)       # first: whoever overwrites it has said so before
        if giver != giver_of(dead, process.giving) and ff_load64(&process.given) != process.giving:
            drop_count(memory, index, dead)
    ff_store64(&process.giving_edge, 0)

cdef inline void bury_building(Memory *memory, uint32_t dead) noexcept nogil:
    """The slot and the block that a dead process was taking, filling or about to put down somewhere."""
    cdef uint64_t building = memory.processes[dead].building, taking = memory.processes[dead].taking
    cdef uint32_t index = <uint32_t> building - 1       # NO_INPUT for none
    cdef Slot *slot = &memory.slots[index]
    if taking and is_referred_to(memory, taking):       # first: it may go with the slot
        taking = memory.processes[dead].taking = 0
    bury_pending(memory, dead, index)
    if building and status_of(ff_load64(&slot.state)) == FREE and is_taken(memory, index):
        slot_return(memory, index)
    elif building and status_of(ff_load64(&slot.state)) == READY:
        lane_push(memory, slot.lane, index)     # perhaps once more: one hint of the two is void
    memory.processes[dead].building = 0
    ff_store64(&memory.processes[dead].taking, 0)       # before: once given back it is anybody's
    if taking:
        block_abandon(memory, taking)

cdef inline void bury_leaving(Memory *memory, uint32_t index, uint32_t dead) noexcept nogil:
    """A slot that a dead process was giving back, or of which it had the last hold and no more than that."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if status_of(state) == LEAVING and owner_of(state) == dead:
        slot_return(memory, index)
    elif (status_of(state) == DONE or status_of(state) == FAILED) and ff_load32(&slot.holds) == 0:
        slot_leave(memory, index, state)
    elif status_of(state) == FREE and owner_of(state) == dead and is_taken(memory, index) and not is_built(memory, index) \
            and ff_load64(&slot.state) == state:        # whoever has taken it since names it, or has changed its state
        member_free(memory, SLOT_POOL, index // GROUP_BITS, index % GROUP_BITS)

cdef inline int is_taken(Memory *memory, uint32_t index) noexcept nogil:
    return ff_load64(&memory.groups[index // GROUP_BITS].group.used) >> (index % GROUP_BITS) & 1

cdef inline int is_built(Memory *memory, uint32_t index) noexcept nogil:
    """Whether a process is taking or filling a slot."""
    cdef uint32_t i
    for i in range(ff_load32(&memory.header.process_high)):
        if ff_load64(&memory.processes[i].building) == index + 1:
            return 1
    return 0

cdef inline void bury_pending(Memory *memory, uint32_t dead, uint32_t building) noexcept nogil:
    """A hold on an input that the dead process had taken and perhaps not written into the task that it was filling."""
    cdef uint32_t i, at
    cdef int written
    cdef Inputs *inputs
    for i in range(slots_used(memory)):
        if not ff_load32(&memory.slots[i].holds) & HOLD_PENDING or ff_load32(&memory.slots[i].creator) != dead:
            continue
        written = 0
        if building != NO_INPUT and memory.slots[building].inputs:
            inputs = <Inputs *> (memory.base + memory.slots[building].inputs)
            for at in range(inputs.count):
                written |= edges_of(inputs)[at].input == i
        drop_pending(memory, i, 0 if written else 1)

cdef inline void drop_pending(Memory *memory, uint32_t index, uint32_t count) noexcept nogil:
    """Takes HOLD_PENDING off, and the hold that was pending: in one step, since whoever does it may die before it says so.

    If nobody holds the slot then, `bury_leaving` finds it.
    """
    cdef uint32_t *holds = &memory.slots[index].holds
    cdef uint32_t before = ff_load32(holds)
    while not ff_cas32(holds, before, (before & ~<uint32_t> HOLD_PENDING) - count):
        before = ff_load32(holds)

cdef inline int is_referred_to(Memory *memory, uint64_t block) noexcept nogil:
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
    for i in range(POOL_LANES, LANE_COUNT):
        if memory.lanes[i].error == block:
            return 1
    return 0

cdef inline void bury_memory(Memory *memory, uint32_t dead) noexcept nogil:
    """What a dead process held is held no more; what it owned is nobody's, and free once it is empty."""
    cdef uint32_t id
    cdef int leaving
    cdef Extent *extent
    for id in range(ff_load32(&memory.header.extent_high)):
        extent = &memory.extents[id]
        if ff_load64(&extent.held[dead >> 6]) >> (dead & 63) & 1:
            lock_take(memory)
            leaving = clear_holder(memory, id, dead)
            lock_give(memory)
            if leaving:
                extent_empty(memory, id)
        elif ff_load32(&extent.kind) == EXTENT_LEAVING and ff_load32(&extent.group.owner) == dead + 1:
            extent_empty(memory, id)
        elif ff_load32(&extent.kind) == EXTENT_SLAB:
            orphan(memory, 0, id, dead)
    for id in range(ff_load32(&memory.header.group_high)):
        orphan(memory, SLOT_POOL, id, dead)

cdef inline void orphan(Memory *memory, uint32_t pool, uint32_t id, uint32_t dead) noexcept nogil:
    """A dead process's group: nobody takes from it any more, and whoever frees its last member gives it back. Of another's group
    it may have freed the last member, and then got no further."""
    cdef Group *group = group_of(memory, pool, id)
    cdef uint64_t empty = empty_group(memory, pool, id)
    cdef int leaving
    if not group.owner or (ff_load32(&group.owner) != dead + 1 and ff_load64(&group.used) & ~GROUP_CLAIMED != empty):
        return
    lock_take(memory)
    empty = empty_group(memory, pool, id)       # it may be another's by now, in use or claimed
    if group.owner == dead + 1:
        ff_store32(&group.owner, ORPHAN)
        ff_and64(&group.used, ~GROUP_CURRENT)
    ff_cas64(&group.used, empty, empty | GROUP_CLAIMED)
    leaving = claimed_to_free(memory, pool, id)
    lock_give(memory)
    if leaving:
        extent_empty(memory, id)
