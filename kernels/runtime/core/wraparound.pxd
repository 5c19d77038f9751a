# A door for tests: everything that counts up stands shortly before it comes round.

from libc.stdint cimport uint32_t, uint64_t
from .layout cimport GENERATION_SHIFT, QUEUE_COUNT, LOG_COUNT, PROCESS_COUNT, SLOT_COUNT, Process
from .regions cimport Memory
from .wakeup cimport log_lap
from .run_queue cimport lap_of

cdef enum:
    WOUND_SLOTS = 1 << 13       # that tests use; the others begin at 0
    WOUND_SERVICES = 1 << 10

cdef inline void wind_slots(Memory *memory, uint64_t back) noexcept nogil:
    cdef uint32_t i
    for i in range(WOUND_SLOTS):
        memory.slots[i].state = (0 - back) << GENERATION_SHIFT
    for i in range(WOUND_SERVICES):
        memory.services[i].generation = 0 - back

cdef inline void wind_queues(Memory *memory, uint64_t back) noexcept nogil:
    cdef uint64_t position
    cdef uint32_t i
    for i in range(QUEUE_COUNT):
        memory.queues[i].head = memory.queues[i].tail = 0 - back
        memory.queues[i].wake = <uint32_t> (0 - back)
        for position in range(SLOT_COUNT - back, SLOT_COUNT):
            memory.rings[<uint64_t> i * SLOT_COUNT + position] = lap_of(0 - back)

cdef inline void wind_processes(Memory *memory, uint64_t back) noexcept nogil:
    """2**64 is 2 modulo the highest number of a drop's mark: that comes round two drops later."""
    cdef Process *process
    cdef uint64_t position
    cdef uint32_t i
    memory.header.pool_wake = <uint32_t> (0 - back)
    for i in range(PROCESS_COUNT - 1):      # no test needs the last one; who writes over an edge is seen behind its log
        process = &memory.processes[i]
        process.release_seq = process.acked_release = process.log_tail = 0 - back
        process.wake = process.starts = <uint32_t> (0 - back)
        for position in range(LOG_COUNT - back, LOG_COUNT):
            memory.logs[<uint64_t> i * LOG_COUNT + position] = log_lap(0 - back - LOG_COUNT)
