# Recovery: what the supervisor (zygote) does in the table after the death of a process, see `Supervisor.recover_process`.
#
# Guarantees: each step is idempotent, so a supervisor that dies in one is followed by another that begins again.
# Assumes: one supervisor at a time; the kernel has reported the end of the process `dead`.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .externs cimport (
    ff_and64, ff_cas32, ff_cas64, ff_exchange64, ff_load32, ff_load64, ff_now_ns, ff_pause, ff_store32, ff_store64,
)
from .layout cimport (
    CALL_KEPT, DONE, EXTENT_LEAVING, EXTENT_SLAB, FAILED, FREE, GROUP_BITS, GROUP_CLAIMED, GROUP_CURRENT, LEAVING,
    NO_DEPENDENCY, ORPHAN, PAYLOAD, POOL_QUEUES, READY, REF_EDGES, REF_PENDING, REF_RECOVERY, REF_RUN, RESULT, WAITING,
    WAITS_FOR_ANY, Dependencies, DependencyEdge, Extent, Group, Process, Slot,
)
from .regions cimport SLOT_POOL, Memory
from .bounds cimport slot_number
from .lookup cimport (
    data_of, dependencies_of, dependency_count, edge_at, edges_of, empty_group, extents_used, generation_of, group_of,
    groups_used, instance_queues_used, next_taken, owner_of, processes_used, queue_of, services_used, slots_used,
    status_of, value_bytes, with_status,
)
from .wakeup cimport log_finished, wake_waiters
from .locked cimport clear_holder, group_free_claimed
from .lock cimport lock_acquire, lock_release
from .extents cimport extent_purge
from .groups cimport member_free
from .blocks cimport block_free, block_reclaim
from .slots cimport (
    release_dependencies, release_dependent, release_refs, releaser_tag, slot_free, slot_retire, value_free,
)
from .run_queue cimport queue_push
from .dependencies cimport (
    all_dependencies_ready, clear_again, cleared_by, dependency_ready, is_missing, is_subscribed, missing_top,
    promote_if_there, subscribe,
)
from .completion cimport Completion, fail_unstarted, finish, tell_dependents, write_result

cdef enum:
    #: How long recovery waits for a finisher that walks a waiter list.
    WALK_NS = 20_000_000

cdef inline int acquire_again(Memory *memory, uint32_t index, uint64_t state) noexcept nogil:
    """Acquire a reference to a slot that recovery looks at, if it is still of `state`'s generation.

    The caller releases REF_RECOVERY. It is a bit, not a count: a supervisor that follows a dead one finds it and clears it.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t refs = ff_load32(&slot.refs)
    while refs:
        if ff_cas32(&slot.refs, refs, refs | REF_RECOVERY):
            if generation_of(ff_load64(&slot.state)) == generation_of(state):
                return 1
            release_refs(memory, index, REF_RECOVERY)
            return 0
        refs = ff_load32(&slot.refs)
    return 0

cdef inline void finish_again(Memory *memory, uint32_t index, uint32_t dead) noexcept nogil:
    """Do what a process that died in `finish` may have left undone after it published an outcome.

    Until then the slot stays: no other process clears its REF_RUN. The references are read before the state. A use of the
    slot that the dead process had finished was finished before its recovery began. So the references read are of that use,
    and not of a later call's.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t refs = ff_load32(&slot.refs), creator
    cdef uint64_t state = ff_load64(&slot.state)
    # Failures are `repair_waiting`'s.
    cdef Completion completion = Completion(failed=NULL, count=0, capacity=0, next_task=NULL)
    if not refs & REF_RUN or status_of(state) < DONE or owner_of(state) != dead:
        return
    creator = slot.creator
    tell_dependents(memory, index, DONE, &completion)
    if not ff_load32(&slot.refs) & REF_EDGES:
        release_dependencies(memory, slot)
    if slot.flags & CALL_KEPT:
        value_free(memory, index, PAYLOAD)
    if ff_load32(&slot.watched):
        log_finished(memory, creator, index)
    release_refs(memory, index, REF_RUN)
    wake_waiters(memory, creator)

cdef inline void repair_waiting(Memory *memory, uint32_t index, uint32_t dead, const char *error,
                                uint64_t nbytes) noexcept nogil:
    """Clear the bits of a task's dependencies that `dead` finished: it may have died while walking their lists.

    Only of those: a living finisher has yet to come to the task's edge, and must find the task there.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef Dependencies *dependencies
    cdef DependencyEdge *edges
    cdef uint64_t state = ff_load64(&slot.state), dependency_state
    cdef uint32_t i, at
    if status_of(state) == FREE or not ff_load32(&slot.refs) & REF_EDGES or not acquire_again(memory, index, state):
        return
    dependencies = dependencies_of(memory, slot)
    edges = edges_of(dependencies)
    for i in range(dependency_count(memory, dependencies)):
        at = ff_load32(&edges[i].dependency)
        if at == NO_DEPENDENCY:
            continue
        at = slot_number(memory, at)
        dependency_state = ff_load64(&memory.slots[at].state)
        if owner_of(dependency_state) != dead:       # what it still ran when it died was recovered before
            continue
        if status_of(dependency_state) == FAILED:
            fail_unstarted(memory, index, data_of(memory, &memory.slots[at], RESULT),
                           value_bytes(memory, &memory.slots[at], RESULT))
        dependency_ready(memory, index, i, NULL)
    if slot.creator == dead or dependencies.submitter_died:
        finish_submission(memory, index, error, nbytes)
    # S12: pairs with the cas in `clear_from`: the mark of a word's last bit names the process that had to go on.
    if clear_again(memory, dependencies, dead) or ff_load64(missing_top(memory, dependencies)) == cleared_by(dead):
        all_dependencies_ready(memory, index, NULL)
    release_refs(memory, index, REF_RECOVERY)

cdef inline void finish_submission(Memory *memory, uint32_t index, const char *error, uint64_t nbytes) noexcept nogil:
    """Fail a task whose submitter died before it had subscribed to all dependencies, and finish the subscription.

    So its references are released. While a dependency is just being finished, no process can tell whether the task is on its
    list until the list has been walked. If that takes long (the finisher is stopped, or dead too), the next recovery goes
    on.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef Dependencies *dependencies = dependencies_of(memory, slot)
    cdef DependencyEdge *edges = edges_of(dependencies)
    cdef Slot *dependency
    cdef uint32_t i, count = dependency_count(memory, dependencies)
    if not is_missing(memory, dependencies, count):
        return
    dependencies.submitter_died = 1
    fail_unstarted(memory, index, error, nbytes)
    for i in range(count):
        if not is_missing(memory, dependencies, i):
            continue
        # Its number is released only when nothing is missing any more.
        dependency = &memory.slots[slot_number(memory, edges[i].dependency)]
        if is_subscribed(memory, dependency, &edges[i]) or subscribe(memory, dependency, &edges[i]):
            continue
        if not is_walked(dependency):
            return
        dependency_ready(memory, index, i, NULL)
    dependency_ready(memory, index, count, NULL)

cdef inline int is_walked(Slot *dependency) noexcept nogil:
    """Tell whether the finisher of a dependency has walked its waiter list.

    Wait a while (WALK_NS) for a finisher that is walking it.
    """
    cdef int64_t deadline = ff_now_ns() + WALK_NS
    while ff_load32(&dependency.refs) & REF_RUN:
        if ff_now_ns() > deadline:
            return 0
        ff_pause()
    return 1

cdef inline void forget_wait(Memory *memory, Slot *slot) noexcept nogil:
    """Free what the task of a dead process had published of its wait."""
    cdef uint64_t waits_for = slot.waits_for
    slot.waits_for = 0
    if waits_for & WAITS_FOR_ANY:
        block_free(memory, waits_for & ~WAITS_FOR_ANY)

cdef inline void recover_task(Memory *memory, uint32_t index, const char *error, uint64_t nbytes) noexcept nogil:
    """Recover a task that a dead process had claimed: fail one that had begun, queue another again.

    A task claimed only to propagate a dependency's error goes back to WAITING; `repair_waiting` fails it.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = slot.state
    cdef uint32_t queue = queue_of(memory, slot)
    forget_wait(memory, slot)
    if slot.started or memory.queues[queue].ordered:
        write_result(memory, index, error, nbytes)
        finish(memory, index, FAILED, NULL)
        return
    memory.processes[memory.me].promoting = index + 1
    if slot.dependencies:
        ff_exchange64(&slot.state, with_status(state, WAITING, 0))      # S19: pairs with the cas in `clear_from`
        promote_if_there(memory, index)     # the process that cleared the last bit found it claimed
        memory.processes[memory.me].promoting = 0
        return
    ff_exchange64(&slot.state, with_status(state, READY, 0))     # from here on it may be run and freed at once
    queue_push(memory, queue, index)
    memory.processes[memory.me].promoting = 0

cdef inline void recover_release(Memory *memory, uint32_t dead) noexcept nogil:
    """Release a reference that the dead process had cleared in the edge, and perhaps not in the count."""
    cdef Process *process = &memory.processes[dead]
    cdef uint32_t index = slot_number(memory, <uint32_t> process.releasing_slot), releaser
    if not process.releasing_edge:
        return
    if edge_at(memory, process.releasing_edge).dependency == NO_DEPENDENCY:
        # S11: pairs with `release_dependent`: the tag first; a process that overwrites it has acknowledged it before.
        releaser = ff_load32(&memory.slots[index].releaser)
        if releaser != releaser_tag(dead, process.release_seq) and ff_load64(&process.acked_release) != process.release_seq:
            release_dependent(memory, index, dead)
    ff_store64(&process.releasing_edge, 0)

cdef inline void recover_allocation(Memory *memory, uint32_t dead) noexcept nogil:
    """Free the slot and the block that a dead process was allocating, filling or about to publish."""
    cdef uint64_t building = memory.processes[dead].building, taking = memory.processes[dead].taking
    cdef uint32_t index = slot_number(memory, <uint32_t> building - 1) if building else NO_DEPENDENCY
    cdef Slot *slot = &memory.slots[index if building else 0]
    if taking and is_referred_to(memory, taking):       # first: it may be freed with the slot
        taking = memory.processes[dead].taking = 0
    recover_pending(memory, dead, index)
    if building and status_of(ff_load64(&slot.state)) == FREE and is_taken(memory, index):
        slot_free(memory, index)
    elif building and status_of(ff_load64(&slot.state)) == READY:
        queue_push(memory, queue_of(memory, slot), index)     # perhaps a second time: one of the two entries is void
    memory.processes[dead].building = 0
    ff_store64(&memory.processes[dead].taking, 0)       # before: once freed it may be any process's
    if taking:
        block_reclaim(memory, taking)

cdef inline void recover_slot(Memory *memory, uint32_t index, uint32_t dead) noexcept nogil:
    """Free a slot that a dead process was freeing, or of which it had just released the last reference."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if status_of(state) == LEAVING and owner_of(state) == dead:
        slot_free(memory, index)
    elif (status_of(state) == DONE or status_of(state) == FAILED) and ff_load32(&slot.refs) == 0:
        slot_retire(memory, index, state)           # S13: pairs with `release_refs` and `release_dependent`
    elif status_of(state) == FREE and owner_of(state) == dead and is_taken(memory, index) and not is_built(memory, index) \
            and ff_load64(&slot.state) == state:        # a process that allocated it since names it or changed its state
        member_free(memory, SLOT_POOL, index // GROUP_BITS, index % GROUP_BITS)

cdef inline int is_taken(Memory *memory, uint32_t index) noexcept nogil:
    return ff_load64(&memory.groups[index // GROUP_BITS].group.used) >> (index % GROUP_BITS) & 1

cdef inline int is_built(Memory *memory, uint32_t index) noexcept nogil:
    """Tell whether a process is allocating or filling a slot."""
    cdef uint32_t i
    for i in range(processes_used(memory)):
        if ff_load64(&memory.processes[i].building) == index + 1:
            return 1
    return 0

cdef inline void recover_pending(Memory *memory, uint32_t dead, uint32_t building) noexcept nogil:
    """Release a pending reference that the dead process had counted and perhaps not written into an edge."""
    cdef uint32_t i = next_taken(memory, 0)
    while i < slots_used(memory):
        # S14: pairs with `slot_prepare`: `refs` first, then `creator`.
        if ff_load32(&memory.slots[i].refs) & REF_PENDING and ff_load32(&memory.slots[i].creator) == dead:
            release_pending(memory, i, 0 if is_named(memory, building, i) else 1)
        i = next_taken(memory, i + 1)

cdef inline int is_named(Memory *memory, uint32_t building, uint32_t dependency) noexcept nogil:
    """Tell whether the slot that a dead process was building (NO_DEPENDENCY: none) has another one as a dependency."""
    cdef Dependencies *dependencies
    cdef uint32_t at
    if building == NO_DEPENDENCY or not memory.slots[building].dependencies:
        return 0
    dependencies = dependencies_of(memory, &memory.slots[building])
    for at in range(dependency_count(memory, dependencies)):
        if edges_of(dependencies)[at].dependency == dependency:
            return 1
    return 0

cdef inline void release_pending(Memory *memory, uint32_t index, uint32_t count) noexcept nogil:
    """Clear REF_PENDING and release the reference that was pending, in one step.

    In one step, because the supervisor may die before it records that it did. If the slot has no reference then,
    `recover_slot` finds it.
    """
    cdef uint32_t *refs = &memory.slots[index].refs
    cdef uint32_t before = ff_load32(refs)
    while not ff_cas32(refs, before, (before & ~<uint32_t> REF_PENDING) - count):
        before = ff_load32(refs)

cdef inline int is_referred_to(Memory *memory, uint64_t block) noexcept nogil:
    """Tell whether something in the segment refers to a block.

    A dead process may have published a block and died before it cleared its allocation intent.
    """
    cdef uint32_t i = next_taken(memory, 0)
    cdef Slot *slot
    if memory.header.setup == block:
        return 1
    while i < slots_used(memory):
        slot = &memory.slots[i]
        if slot.payload == block or slot.result == block or slot.dependencies == block \
                or slot.waits_for == WAITS_FOR_ANY | block:
            return 1
        i = next_taken(memory, i + 1)
    for i in range(services_used(memory)):
        if memory.services[i].blob == block:
            return 1
    for i in range(POOL_QUEUES, instance_queues_used(memory)):
        if memory.queues[i].error == block:
            return 1
    return 0

cdef inline void recover_memory(Memory *memory, uint32_t dead) noexcept nogil:
    """Clear a dead process's bits of extents, and orphan its groups.

    An orphaned group is free once it is empty.
    """
    cdef uint32_t id
    cdef int leaving
    cdef Extent *extent
    for id in range(extents_used(memory)):
        extent = &memory.extents[id]
        if ff_load64(&extent.held[dead >> 6]) >> (dead & 63) & 1:
            lock_acquire(memory)
            leaving = clear_holder(memory, id, dead)
            lock_release(memory)
            if leaving:
                extent_purge(memory, id)
        elif ff_load32(&extent.kind) == EXTENT_LEAVING and ff_load32(&extent.group.owner) == dead + 1:
            extent_purge(memory, id)
        elif ff_load32(&extent.kind) == EXTENT_SLAB:
            orphan(memory, 0, id, dead)
    for id in range(groups_used(memory)):
        orphan(memory, SLOT_POOL, id, dead)

cdef inline void orphan(Memory *memory, uint32_t pool, uint32_t id, uint32_t dead) noexcept nogil:
    """Orphan a dead process's group, and free an empty group that it was about to claim.

    No process allocates from an orphan any more, and the process that frees its last member frees it. The dead process may
    have freed the last member of another process's group, and have died before it claimed that.
    """
    cdef Group *group = group_of(memory, pool, id)
    cdef uint64_t empty = empty_group(memory, pool, id)
    cdef int leaving
    if not group.owner or (ff_load32(&group.owner) != dead + 1 and ff_load64(&group.used) & ~GROUP_CLAIMED != empty):
        return
    lock_acquire(memory)
    empty = empty_group(memory, pool, id)       # it may be another process's by now, in use or claimed
    if group.owner == dead + 1:
        ff_store32(&group.owner, ORPHAN)
        ff_and64(&group.used, ~GROUP_CURRENT)
    ff_cas64(&group.used, empty, empty | GROUP_CLAIMED)
    leaving = group_free_claimed(memory, pool, id)
    lock_release(memory)
    if leaving:
        extent_purge(memory, id)
