# References: a slot's payload or result keeps the extents alive that contain its value.
#
# Guarantees: after a death at any step all references of a value are counted, or none (`repair`).

from libc.stdint cimport uint32_t
from .layout cimport EXTENT_VALUE, REDO_LINK, REDO_UNLINK, Extent, Slot
from .regions cimport Memory
from .locked cimport extent_free
from .repair cimport count_references, redo_begin, redo_end, reference_at, reference_count
from .lock cimport lock_acquire, lock_release
from .extents cimport extent_purge

cdef enum:
    #: Extents whose pages one call gives back; further ones stay warm.
    UNLINKED_AT_ONCE = 16

cdef inline void value_link(Memory *memory, uint32_t index, uint32_t which) noexcept nogil:
    """Count a reference to each extent that contains a slot's payload or result.

    The extents stay for as long as the slot has that value.
    """
    cdef Slot *slot = &memory.slots[index]
    lock_acquire(memory)
    redo_begin(memory, REDO_LINK, index, which)
    count_references(memory, 0, reference_count(memory, slot, which))
    redo_end(memory)
    lock_release(memory)

cdef inline void value_unlink(Memory *memory, uint32_t index, uint32_t which) noexcept nogil:
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t step, leaving = 0, count = reference_count(memory, slot, which)
    cdef uint32_t left[UNLINKED_AT_ONCE]
    cdef Extent *extent
    lock_acquire(memory)
    redo_begin(memory, REDO_UNLINK, index, which)
    count_references(memory, 0, count)
    redo_end(memory)
    for step in range(count):
        extent = reference_at(memory, slot, which, step)
        if extent.kind == EXTENT_VALUE and not extent.refs and not extent.holders:
            if extent_free(memory, <uint32_t> (extent - memory.extents), leaving == UNLINKED_AT_ONCE):
                left[leaving] = <uint32_t> (extent - memory.extents)
                leaving += 1
    lock_release(memory)
    for step in range(leaving):
        extent_purge(memory, left[step])
