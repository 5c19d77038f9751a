# Publishing an outcome: the slot, then everything that waited for it.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from .externs cimport ff_cas64, ff_exchange64, ff_load32, ff_load64
from .layout cimport (
    DONE, FAILED, HOLD_EDGES, HOLD_RUN, INLINE_BYTES, KIND_NATIVE, PAYLOAD, READY, RESULT, RUNNING, WAITERS_CLOSED,
    WAITING, Edge, Slot,
)
from .regions cimport Memory
from .lookup cimport data_of, status_of, with_status
from .wakeup cimport log_finished, wake_lane, wake_waiters
from .blocks cimport block_take
from .slots cimport give_back_inputs, release_bits, slot_release, slot_store
from .dependencies cimport input_arrived

cdef struct Finishing:          # one call of `finish`
    uint32_t *failed            # tasks that fail with what failed, to be finished in their turn
    uint32_t count
    uint32_t room
    int64_t *kept               # where a task goes that became ready and that this process runs next; NULL: nowhere

cdef inline void write_result(Memory *memory, uint32_t index, const char *data, uint64_t nbytes) noexcept nogil:
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

cdef inline void pass_error(Memory *memory, uint32_t index, uint32_t cause) noexcept nogil:
    write_result(memory, index, data_of(memory, &memory.slots[cause], RESULT), memory.slots[cause].result_bytes)

cdef inline void fail_with(Memory *memory, uint32_t index, uint32_t cause, Finishing *finishing) noexcept nogil:
    """Gives a task that has not started the error of its failed input, and notes it as one to be finished."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    cdef uint32_t *larger
    if finishing.count == finishing.room:
        larger = <uint32_t *> realloc(finishing.failed, 2 * finishing.room * sizeof(uint32_t))
        if larger == NULL:
            return                                      # it meets the error when it reads its inputs
        finishing.failed = larger
        finishing.room *= 2
    while status_of(state) == WAITING:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            pass_error(memory, index, cause)
            if memory.lanes[slot.lane].ordered:         # it stood in the way of the calls behind it
                wake_lane(memory, slot.lane)
            finishing.failed[finishing.count] = index
            finishing.count += 1
            return
        state = ff_load64(&slot.state)

cdef inline void fail_unstarted(Memory *memory, uint32_t index, const char *data, uint64_t nbytes) noexcept nogil:
    """Ends a task that nobody has started; one that somebody claims meanwhile goes on."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    while status_of(state) == WAITING or status_of(state) == READY:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            write_result(memory, index, data, nbytes)
            if memory.lanes[slot.lane].ordered:         # it stood in the way of the calls behind it
                wake_lane(memory, slot.lane)
            finish(memory, index, FAILED, NULL)
            return
        state = ff_load64(&slot.state)

cdef inline void finish(Memory *memory, uint32_t index, uint32_t status, int64_t *kept) noexcept nogil:
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

cdef inline void finish_one(Memory *memory, uint32_t index, uint32_t status, Finishing *finishing) noexcept nogil:
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

cdef inline void tell_dependents(Memory *memory, uint32_t index, uint32_t status, Finishing *finishing) noexcept nogil:
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
