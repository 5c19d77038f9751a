# Permits: a counting semaphore per limited queue, which bounds how many workers serve it at the same time.
#
# Guarantees: a permit names its worker, so recovery releases the permits of a dead one.

from libc.stdint cimport uint32_t
from .externs cimport ff_cas32, ff_load32
from .layout cimport PERMIT_COUNT, RunQueue
from .regions cimport Memory
from .bounds cimport at_most, process_number

cdef inline uint32_t permit_count(Memory *memory, RunQueue *queue) noexcept nogil:
    return at_most(memory, queue.limit, PERMIT_COUNT)

cdef inline int has_permit(Memory *memory, uint32_t queue_index) noexcept nogil:
    cdef uint32_t permit
    for permit in range(permit_count(memory, &memory.queues[queue_index])):
        if ff_load32(&memory.queues[queue_index].permits[permit]) == memory.me + 1:
            return 1
    return 0

cdef inline int permit_acquire(Memory *memory, uint32_t queue_index) noexcept nogil:
    """Acquire a permit of a limited queue for this worker; return 0 when there is none.

    A permit whose holder is blocked may be taken over: the holder is not running.
    """
    cdef RunQueue *queue = &memory.queues[queue_index]
    cdef uint32_t permit, holder, me = memory.me
    if has_permit(memory, queue_index):
        return 1
    for permit in range(permit_count(memory, queue)):
        holder = ff_load32(&queue.permits[permit])
        if holder == 0 or memory.processes[process_number(memory, holder - 1)].blocked:
            if ff_cas32(&queue.permits[permit], holder, me + 1):
                return 1
    return 0

cdef inline void permit_release(Memory *memory, uint32_t queue_index, uint32_t me) noexcept nogil:
    cdef RunQueue *queue = &memory.queues[queue_index]
    cdef uint32_t permit
    for permit in range(permit_count(memory, queue)):
        ff_cas32(&queue.permits[permit], me + 1, 0)
