# Permits of a limited service: how many workers may serve it at the same time.

from libc.stdint cimport uint32_t
from .externs cimport ff_cas32, ff_load32
from .layout cimport Lane
from .regions cimport Memory

cdef inline int has_seat(Memory *memory, uint32_t lane_index) noexcept nogil:
    cdef uint32_t seat
    for seat in range(memory.lanes[lane_index].limit):
        if ff_load32(&memory.lanes[lane_index].seats[seat]) == memory.me + 1:
            return 1
    return 0

cdef inline int seat_take(Memory *memory, uint32_t lane_index) noexcept nogil:
    """A seat at a limited lane for this worker, or 0. One whose holder is blocked may be taken over: it is not running."""
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint32_t seat, holder, me = memory.me
    if has_seat(memory, lane_index):
        return 1
    for seat in range(lane.limit):
        holder = ff_load32(&lane.seats[seat])
        if holder == 0 or memory.processes[holder - 1].blocked:
            if ff_cas32(&lane.seats[seat], holder, me + 1):
                return 1
    return 0

cdef inline void seat_leave(Memory *memory, uint32_t lane_index, uint32_t me) noexcept nogil:
    cdef Lane *lane = &memory.lanes[lane_index]
    cdef uint32_t seat
    for seat in range(lane.limit):
        ff_cas32(&lane.seats[seat], me + 1, 0)
