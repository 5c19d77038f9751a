# Repair after a death of the lock's holder, and the redo record that reference counting writes for it.
#
# Assumes: the caller of each function here holds the lock. Guarantees: linking and unlinking are recoverable: all references
# of a value are counted, or none. Repair is idempotent, so a process that dies in it is followed by another that begins
# again.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from .externs cimport ff_load64, ff_store32, ff_store64, popcount64
from .layout cimport (
    EXTENT_COLD, EXTENT_LEAVING, EXTENT_SLAB, EXTENT_VALUE, EXTENT_WARM, GROUP_CLAIMED, HELD_WORDS, KIND_EXTENT,
    KIND_HANDLES, KIND_LINKED, REDO_LINK, REDO_NOTHING, Extent, Group, Header, Redo, Slot,
)
from .regions cimport Memory
from .bounds cimport slot_number
from .lookup cimport block_of, data_of, extent_of, extents_used, groups_used, handle_count, kind_of
from .locked cimport free_list_push

cdef inline uint32_t reference_count(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    """Return how many references a payload or result has: one per handle, one for an extent as block."""
    cdef uint64_t count = 0
    if kind_of(slot, which)[0] & KIND_HANDLES:
        count = handle_count(memory, slot, which)
    if kind_of(slot, which)[0] & KIND_EXTENT:
        count += 1
    return <uint32_t> count

cdef inline Extent *reference_at(Memory *memory, Slot *slot, uint32_t which, uint32_t step) noexcept nogil:
    cdef uint64_t offset = block_of(slot, which)
    if kind_of(slot, which)[0] & KIND_HANDLES and step < handle_count(memory, slot, which):
        memcpy(&offset, data_of(memory, slot, which) + 8 + 8 * <uint64_t> step, 8)
    return &memory.extents[extent_of(memory, offset)]

cdef inline void count_references(Memory *memory, uint32_t step, uint32_t count) noexcept nogil:
    """Do what Header.redo says, from `step` on.

    Before each change of a count, the record gets the count of before.
    """
    cdef Redo *redo = &memory.header.redo
    cdef Slot *slot = &memory.slots[slot_number(memory, redo.slot)]
    cdef Extent *extent
    while step < count:
        extent = reference_at(memory, slot, redo.which, step)
        ff_store64(&redo.progress, (<uint64_t> step << 32) | extent.refs)       # one store: a death leaves both or neither
        ff_store32(&extent.refs, extent.refs + 1 if redo.op == REDO_LINK else extent.refs - 1)
        step += 1

cdef inline void redo_begin(Memory *memory, uint32_t op, uint32_t index, uint32_t which) noexcept nogil:
    cdef Redo *redo = &memory.header.redo
    redo.slot = index
    redo.which = which
    redo.progress = reference_at(memory, &memory.slots[index], which, 0).refs
    ff_store32(&redo.op, op)

cdef inline void redo_end(Memory *memory) noexcept nogil:
    cdef Redo *redo = &memory.header.redo
    cdef uint32_t *kind = kind_of(&memory.slots[slot_number(memory, redo.slot)], redo.which)
    ff_store32(kind, kind[0] | KIND_LINKED if redo.op == REDO_LINK else kind[0] & ~<uint32_t> KIND_LINKED)
    ff_store32(&redo.op, REDO_NOTHING)

cdef inline void repair(Memory *memory) noexcept nogil:
    """Finish what a dead holder of the lock was doing, then make lists and sums anew.

    They are made from the kinds and the bits of extents and groups, which are true at any moment.
    """
    cdef Header *header = memory.header
    cdef Redo *redo = &header.redo
    cdef Slot *slot = &memory.slots[slot_number(memory, redo.slot)]
    cdef uint32_t high = extents_used(memory)
    if redo.op != REDO_NOTHING:
        reference_at(memory, slot, redo.which, <uint32_t> (redo.progress >> 32)).refs = <uint32_t> redo.progress
        count_references(memory, <uint32_t> (redo.progress >> 32), reference_count(memory, slot, redo.which))
        redo_end(memory)
    memset(header.warm_extents, 0, sizeof(header.warm_extents))
    memset(header.cold_extents, 0, sizeof(header.cold_extents))
    header.live_bytes = header.cached_bytes = header.free_groups = 0
    if high:
        header.arena_next = memory.extents[high - 1].offset + memory.extents[high - 1].size
    repair_extents(memory)
    repair_slot_groups(memory)

cdef inline void repair_extents(Memory *memory) noexcept nogil:
    cdef uint32_t id, word
    cdef Extent *extent
    for id in range(extents_used(memory)):
        extent = &memory.extents[id]
        if extent.kind == EXTENT_VALUE:
            extent.holders = 0
            for word in range(HELD_WORDS):
                extent.holders += popcount64(extent.held[word])
        if extent.kind == EXTENT_LEAVING:       # its owner, or the recovery of its owner, puts it on a list
            continue
        if (extent.kind == EXTENT_VALUE and (extent.refs or extent.holders)) or \
                (extent.kind == EXTENT_SLAB and not ff_load64(&extent.group.used) & GROUP_CLAIMED):
            memory.header.live_bytes += extent.size
        else:
            free_list_push(memory, id, EXTENT_COLD if extent.kind == EXTENT_COLD else EXTENT_WARM)

cdef inline void repair_slot_groups(Memory *memory) noexcept nogil:
    cdef uint32_t id
    cdef Group *group
    for id in range(groups_used(memory)):
        group = &memory.groups[id].group
        if ff_load64(&group.used) & GROUP_CLAIMED:      # recovery claims an empty one that its process did not claim
            ff_store32(&group.owner, 0)
            group.next = memory.header.free_groups
            memory.header.free_groups = id + 1
