# Completion: publishing an outcome in its slot, then telling everything that waited for it.
#
# Guarantees: after a death at any step `finish_again` and `repair_waiting` (recovery.pxd) do the rest.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from .externs cimport ff_cas64, ff_exchange64, ff_load32, ff_load64
from .layout cimport (
    DONE, FAILED, INLINE_BYTES, KIND_NATIVE, PAYLOAD, READY, REF_EDGES, REF_RUN, RESULT, RUNNING, WAITERS_CLOSED, WAITING,
    DependencyEdge, Slot,
)
from .regions cimport Memory
from .lookup cimport data_of, status_of, with_status
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

cdef inline void pass_error(Memory *memory, uint32_t index, uint32_t cause) noexcept nogil:
    write_result(memory, index, data_of(memory, &memory.slots[cause], RESULT), memory.slots[cause].result_bytes)

cdef inline void fail_with(Memory *memory, uint32_t index, uint32_t cause, Completion *completion) noexcept nogil:
    """Give a task that has not started its failed dependency's error, and record it to be finished."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    cdef uint32_t *larger
    if completion.count == completion.capacity:
        larger = <uint32_t *> realloc(completion.failed, 2 * completion.capacity * sizeof(uint32_t))
        if larger == NULL:
            return                                      # it meets the error when it reads its dependencies
        completion.failed = larger
        completion.capacity *= 2
    while status_of(state) == WAITING:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            pass_error(memory, index, cause)
            if memory.queues[slot.queue].ordered:         # it stood in the way of the calls behind it
                wake_queue(memory, slot.queue)
            completion.failed[completion.count] = index
            completion.count += 1
            return
        state = ff_load64(&slot.state)

cdef inline void fail_unstarted(Memory *memory, uint32_t index, const char *data, uint64_t nbytes) noexcept nogil:
    """Fail a task that has not started; one that another process claims meanwhile goes on."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    while status_of(state) == WAITING or status_of(state) == READY:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            write_result(memory, index, data, nbytes)
            if memory.queues[slot.queue].ordered:         # it stood in the way of the calls behind it
                wake_queue(memory, slot.queue)
            finish(memory, index, FAILED, NULL)
            return
        state = ff_load64(&slot.state)

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
    cdef uint32_t watched, creator = slot.creator
    # S2: pairs with `is_finished`; the outcome is written before. S3: pairs with a waiter that sets `watched`, then looks at
    # `state`.
    ff_exchange64(&slot.state, with_status(slot.state, status, memory.me))
    watched = ff_load32(&slot.watched)
    tell_dependents(memory, index, status, completion)
    if not ff_load32(&slot.refs) & REF_EDGES:     # a failed one may be on lists still: a finisher that finds it does it
        release_dependencies(memory, slot)
    if watched:
        log_finished(memory, creator, index)
    release_refs(memory, index, REF_RUN)
    # Last: a system call, after which the woken process often runs first, and this one may be killed.
    if watched or (status == FAILED and ff_load32(&memory.processes[creator].watching)):
        wake_waiters(memory, creator)

cdef inline void tell_dependents(Memory *memory, uint32_t index, uint32_t status, Completion *completion) noexcept nogil:
    """Close the waiter list of a finished slot, and clear its bit in every task on it."""
    cdef Slot *slot = &memory.slots[index]
    cdef DependencyEdge *edge
    # S8: pairs with the cas in `subscribe`. S15: pairs with the walk in `is_subscribed`.
    cdef uint64_t at = ff_exchange64(&slot.waiters, WAITERS_CLOSED), following
    cdef uint32_t task
    while at > WAITERS_CLOSED:
        edge = <DependencyEdge *> (memory.base + at)
        following = edge.next           # the edge may be freed once its bit is cleared
        task = edge.task
        if status == FAILED and completion.failed != NULL:
            fail_with(memory, task, index, completion)
        dependency_ready(memory, task, edge.bit, completion.next_task)
        at = following
