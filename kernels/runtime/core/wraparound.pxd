# Wraparound for tests: sets every counter of a new segment to a value shortly before it wraps.
#
# Assumes: the segment was just created, and no other process is attached (`Segment.wrap_after`).

from libc.stdint cimport uint32_t, uint64_t
from .layout cimport GENERATION_SHIFT, LOG_COUNT, PROCESS_COUNT, QUEUE_COUNT, SLOT_COUNT, Process
from .regions cimport Memory
from .wakeup cimport log_lap
from .run_queue cimport lap_of

cdef enum:
    #: Slots and services that tests use; the others begin at 0.
    WOUND_SLOTS = 1 << 13
    WOUND_SERVICES = 1 << 10

cdef inline void wrap_slots_after(Memory *memory, uint64_t steps) noexcept nogil:
    cdef uint32_t i
    for i in range(WOUND_SLOTS):
        memory.slots[i].state = (0 - steps) << GENERATION_SHIFT
    for i in range(WOUND_SERVICES):
        memory.services[i].generation = 0 - steps

cdef inline void wrap_queues_after(Memory *memory, uint64_t steps) noexcept nogil:
    cdef uint64_t position
    cdef uint32_t i
    for i in range(QUEUE_COUNT):
        memory.queues[i].head = memory.queues[i].tail = 0 - steps
        memory.queues[i].wake = <uint32_t> (0 - steps)
        for position in range(SLOT_COUNT - steps, SLOT_COUNT):
            memory.rings[<uint64_t> i * SLOT_COUNT + position] = lap_of(0 - steps)

cdef inline void wrap_processes_after(Memory *memory, uint64_t steps) noexcept nogil:
    """Set the counters of processes so many steps before they wrap.

    2**64 is 2 modulo the highest number of a releaser tag: so that number wraps two releases later.
    """
    cdef Process *process
    cdef uint64_t position
    cdef uint32_t i
    memory.header.pool_wake = <uint32_t> (0 - steps)
    for i in range(PROCESS_COUNT - 1):      # no test needs the last one: a write beyond an edge shows behind its log
        process = &memory.processes[i]
        process.release_seq = process.acked_release = process.log_tail = 0 - steps
        process.wake = process.starts = <uint32_t> (0 - steps)
        for position in range(LOG_COUNT - steps, LOG_COUNT):
            memory.logs[<uint64_t> i * LOG_COUNT + position] = log_lap(0 - steps - LOG_COUNT)
