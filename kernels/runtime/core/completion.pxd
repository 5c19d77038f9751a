# Completion: publishing an outcome in its slot, then telling everything that waited for it.
#
# Guarantees: after a death at any step `finish_again` and `repair_waiting` (recovery.pxd) do the rest.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from posix.unistd cimport pause
from .externs cimport ff_cas64, ff_exchange64, ff_load32, ff_load64
from .layout cimport (
    CALL_DETACHED, CALL_KEPT, DONE, ENDING, FAILED, INLINE_BYTES, KIND_NATIVE, NO_DEPENDENCY, PAYLOAD, READY, REF_COUNT,
    REF_CREATOR, REF_EDGES, REF_PENDING, REF_RUN, RESULT, RUNNING, WAITERS_CLOSED, WAITING, ZYGOTE_INDEX, Dependencies,
    DependencyEdge, Slot,
)
from .regions cimport WALK_COUNT, Memory, Walk
from .bounds cimport follows, process_number, slot_number
from .lookup cimport (
    data_of, dependencies_of, dependency_count, edge_at, edges_of, generation_of, owner_of, queue_of, status_of,
    value_bytes, with_status,
)
from .wakeup cimport log_finished, wake_queue, wake_waiters
from .blocks cimport block_alloc
from .slots cimport release_dependencies, release_refs, value_free, value_store
from .dependencies cimport dependency_ready

cdef struct Completion:          # one call of `finish`
    uint32_t *failed            # tasks that fail by it, to be finished in their turn
    uint32_t count
    uint32_t capacity
    int64_t *next_task          # out: a task that became ready and that this process runs next; NULL: it keeps none

cdef inline void write_result(Memory *memory, uint32_t index, const char *data, uint64_t nbytes) noexcept nogil:
    """Copy an error into a slot that this process owns.

    A full store leaves an empty one, which reads as StoreFullError.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t block = 0
    slot.started = 1                            # from here on it cannot begin again
    value_free(memory, index, PAYLOAD)        # it may be where the outcome goes
    value_free(memory, index, RESULT)         # a dead process's, half written
    if nbytes <= INLINE_BYTES:
        memcpy(slot.data, data, nbytes)
    else:
        block = block_alloc(memory, nbytes)
        if block == 0:
            nbytes = 0
        else:
            memcpy(memory.base + block, data, nbytes)
    value_store(memory, index, RESULT, block, nbytes, KIND_NATIVE)

cdef inline void copy_error(Memory *memory, uint32_t index, Slot *cause) noexcept nogil:
    write_result(memory, index, data_of(memory, cause, RESULT), value_bytes(memory, cause, RESULT))

cdef inline void pass_error(Memory *memory, uint32_t index, uint32_t cause) noexcept nogil:
    copy_error(memory, index, &memory.slots[cause])

cdef inline void write_cancelled(Memory *memory, uint32_t index) noexcept nogil:
    """Write what stands in the place of an error when a call was cancelled: the codec's None."""
    cdef char none = b'N'
    write_result(memory, index, &none, 1)

cdef inline int is_cancelled(Slot *slot) noexcept nogil:
    """Tell whether a failed slot was cancelled, or depends on one that was."""
    return slot.result_bytes == 1

cdef inline void leave_queue(Memory *memory, Slot *slot) noexcept nogil:
    """Let the calls behind a claimed task that will not run pass, if it stood in their way."""
    if memory.queues[queue_of(memory, slot)].ordered:
        wake_queue(memory, queue_of(memory, slot))

cdef inline int has_place(Completion *completion) noexcept nogil:
    """Make a place for one more task that fails; return 0 when there is no memory for it."""
    cdef uint32_t *larger
    if completion.count < completion.capacity:
        return 1
    larger = <uint32_t *> realloc(completion.failed, 2 * completion.capacity * sizeof(uint32_t))
    if larger == NULL:
        return 0
    completion.failed = larger
    completion.capacity *= 2
    return 1

cdef inline void fail_with(Memory *memory, uint32_t index, uint32_t cause, Completion *completion) noexcept nogil:
    """Give a task that has not started its failed dependency's error, and record it to be finished."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if not has_place(completion):
        return                                          # it meets the error when it reads its dependencies
    while status_of(state) == WAITING:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            pass_error(memory, index, cause)
            leave_queue(memory, slot)
            completion.failed[completion.count] = index
            completion.count += 1
            return
        state = ff_load64(&slot.state)

cdef inline int claim_unstarted(Memory *memory, uint32_t index) noexcept nogil:
    """Claim a task that has not started, to finish it unrun; return 0 if there is none."""
    cdef uint64_t *at = &memory.slots[index].state
    cdef uint64_t state = ff_load64(at)
    while status_of(state) == WAITING or status_of(state) == READY:
        if ff_cas64(at, state, with_status(state, RUNNING, memory.me)):
            return 1
        state = ff_load64(at)
    return 0

cdef inline void fail_unstarted(Memory *memory, uint32_t index, const char *data, uint64_t nbytes) noexcept nogil:
    """Fail a task that has not started; one that another process claims meanwhile goes on."""
    if claim_unstarted(memory, index):
        write_result(memory, index, data, nbytes)
        leave_queue(memory, &memory.slots[index])
        finish(memory, index, FAILED, NULL)

cdef inline int cancel_unstarted(Memory *memory, uint32_t index) noexcept nogil:
    """Cancel a task that has not started, and with it each that depends on it; return 0 if it has."""
    if not claim_unstarted(memory, index):
        return 0
    write_cancelled(memory, index)
    leave_queue(memory, &memory.slots[index])
    finish(memory, index, FAILED, NULL)
    return 1

cdef inline int is_wanted(Memory *memory, uint32_t index) noexcept nogil:
    """Tell whether a process has a future of an unfinished call, or an unfinished task depends on it.

    Once its creator has dropped its futures no task can be made that depends on it. Those that do are on its waiter list;
    what failed early stays there, too. So a walk goes on where the one before ended: else to drop a task's dependents one by
    one, youngest first, as a list of futures does, would take time in the square of their number.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef Walk *walk = &memory.walks[index % WALK_COUNT]
    cdef DependencyEdge *edge
    cdef uint64_t generation = generation_of(ff_load64(&slot.state)), at
    cdef uint32_t refs = ff_load32(&slot.refs), task, links = 0
    if refs & (REF_CREATOR | REF_PENDING) or not refs & REF_COUNT:
        return refs & (REF_CREATOR | REF_PENDING) != 0
    at = ff_load64(&slot.waiters)
    if at > WAITERS_CLOSED and walk.edge and walk.slot == index and walk.generation == generation:
        at = walk.edge
    while at > WAITERS_CLOSED and follows(memory, &links):
        walk.slot, walk.generation, walk.edge = index, generation, at
        edge = edge_at(memory, at)
        at = ff_load64(&edge.next)
        task = edge.task
        # S15: pairs with the finisher, which closes the list before any edge of it can be freed.
        if ff_load64(&slot.waiters) == WAITERS_CLOSED:
            return 1
        if status_of(ff_load64(&memory.slots[slot_number(memory, task)].state)) < DONE:
            return 1
    return at == WAITERS_CLOSED

cdef inline int runs_anyway(Memory *memory, Slot *slot) noexcept nogil:
    """Tell whether a call runs although nobody wants its outcome: what an instance does later depends on its state."""
    return slot.flags & CALL_DETACHED or memory.queues[queue_of(memory, slot)].ordered

cdef inline int claim_unwanted(Memory *memory, uint32_t index) noexcept nogil:
    """Claim a task that has not started and that nobody wants; return 0 if it is none.

    It may be any call of the slot: what nobody wants now, nobody can want later.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    while status_of(state) == WAITING or status_of(state) == READY:
        if runs_anyway(memory, slot) or is_wanted(memory, index):
            return 0
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            return 1
        state = ff_load64(&slot.state)
    return 0

cdef inline void drop_unwanted(Memory *memory, uint32_t index) noexcept nogil:
    """Cancel a task that has not started, if nobody wants it."""
    if claim_unwanted(memory, index):
        write_cancelled(memory, index)
        leave_queue(memory, &memory.slots[index])
        finish(memory, index, FAILED, NULL)

cdef inline void drop_dependencies(Memory *memory, Slot *slot, Completion *completion) noexcept nogil:
    """Cancel what a task that failed early still waits for, where nobody else wants it, and record it to be finished."""
    cdef Dependencies *dependencies = dependencies_of(memory, slot)
    cdef DependencyEdge *edges = edges_of(dependencies)
    cdef uint32_t i, at
    for i in range(dependency_count(memory, dependencies)):
        at = ff_load32(&edges[i].dependency)
        if at == NO_DEPENDENCY:
            continue
        at = slot_number(memory, at)
        if has_place(completion) and claim_unwanted(memory, at):
            write_cancelled(memory, at)
            leave_queue(memory, &memory.slots[at])
            completion.failed[completion.count] = at
            completion.count += 1

cdef inline void release_future(Memory *memory, uint32_t index) noexcept nogil:
    """Release the reference that stands for all futures of a slot; a call that nobody wants then does not run."""
    if release_refs(memory, index, REF_CREATOR) & REF_RUN:
        drop_unwanted(memory, index)

cdef inline void finish(Memory *memory, uint32_t index, uint32_t status, int64_t *next_task) noexcept nogil:
    """Publish the outcome of a task that this process owns, and of every dependent that fails with it.

    1 state -> DONE/FAILED; 2 close the waiter list and clear this dependency's bit in each task on it; 3 release the task's
    own dependencies; 4 append it to the creator's log if it is watched; 5 clear REF_RUN, until which the slot cannot be
    freed; 6 wake the creator. After a death at any of these, `finish_again` and `repair_waiting` do the rest.
    """
    cdef Completion completion
    completion.next_task = next_task
    completion.failed = NULL
    if status == DONE:
        finish_one(memory, index, DONE, &completion)
        return
    completion.failed = <uint32_t *> malloc(16 * sizeof(uint32_t))
    if completion.failed == NULL:
        finish_one(memory, index, FAILED, &completion)
        return
    completion.count = 1
    completion.capacity = 16
    completion.failed[0] = index
    while completion.count:
        completion.count -= 1
        finish_one(memory, completion.failed[completion.count], FAILED, &completion)
    free(completion.failed)

cdef inline void finish_one(Memory *memory, uint32_t index, uint32_t status, Completion *completion) noexcept nogil:
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t watched, creator = process_number(memory, slot.creator)
    publish_outcome(memory, slot, status)
    watched = ff_load32(&slot.watched)
    tell_dependents(memory, index, status, completion)
    if not ff_load32(&slot.refs) & REF_EDGES:     # a failed one may be on lists still: a finisher that finds it does it
        release_dependencies(memory, slot)
    elif status == FAILED and completion.failed != NULL:
        drop_dependencies(memory, slot, completion)
    if slot.flags & CALL_KEPT:
        value_free(memory, index, PAYLOAD)
    if watched:
        log_finished(memory, creator, index)
    release_refs(memory, index, REF_RUN)
    # Last: a system call, after which the woken process often runs first, and this one may be killed.
    if watched or (status == FAILED and ff_load32(&memory.processes[creator].watching)):
        wake_waiters(memory, creator)

cdef inline void publish_outcome(Memory *memory, Slot *slot, uint32_t status) noexcept nogil:
    """Make an outcome visible that is written in its slot, unless the supervisor ends this process because of the call."""
    cdef uint64_t state = ff_load64(&slot.state)
    # S2: pairs with `is_finished`; the outcome is written before. S3: pairs with a waiter that sets `watched`, then looks at
    # `state`. S24: pairs with the cas to ENDING in `Limits.condemn`.
    while is_ending(memory, state) or not ff_cas64(&slot.state, state, with_status(state, status, memory.me)):
        if is_ending(memory, state):
            await_end()
        state = ff_load64(&slot.state)

cdef inline int is_ending(Memory *memory, uint64_t state) noexcept nogil:
    """Tell whether the supervisor is ending this process by force, because of the call with this state.

    It ends neither the driver nor itself.
    """
    return status_of(state) == ENDING and owner_of(state) == memory.me and memory.me > ZYGOTE_INDEX

cdef inline void await_end() noexcept nogil:
    """Do nothing more in this process until it is killed: by the supervisor, or, if that dies, with it."""
    while True:
        pause()

cdef inline void tell_dependents(Memory *memory, uint32_t index, uint32_t status, Completion *completion) noexcept nogil:
    """Close the waiter list of a finished slot, and clear its bit in every task on it."""
    cdef Slot *slot = &memory.slots[index]
    cdef DependencyEdge *edge
    # S8: pairs with the cas in `subscribe`. S15: pairs with the walk in `is_subscribed`.
    cdef uint64_t at = ff_exchange64(&slot.waiters, WAITERS_CLOSED), following
    cdef uint32_t task, links = 0
    while at > WAITERS_CLOSED and follows(memory, &links):
        edge = edge_at(memory, at)
        following = edge.next           # the edge may be freed once its bit is cleared
        task = slot_number(memory, edge.task)
        if status == FAILED and completion.failed != NULL:
            fail_with(memory, task, index, completion)
        dependency_ready(memory, task, edge.bit, completion.next_task)
        at = following
