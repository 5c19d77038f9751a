# Lookups: the extent of an offset, the group of a member, the bytes of a value, the parts of a state word.
#
# Guarantees: nothing here changes a shared word.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from .externs cimport ff_load32, ff_load64
from .layout cimport (
    DONE, EXTENT_SLAB, GENERATION_SHIFT, GRANULE, GROUP_BITS, GROUP_MEMBERS, KIND_HANDLES, OWNER_SHIFT, Dependencies,
    DependencyEdge, Group, Process, Slot,
)
from .regions cimport SLOT_POOL, Memory
from .size_classes cimport slab_blocks

cdef inline uint32_t status_of(uint64_t state) noexcept nogil:
    return <uint32_t> (state & 0xF)

cdef inline uint32_t owner_of(uint64_t state) noexcept nogil:
    return <uint32_t> ((state >> OWNER_SHIFT) & 0xFFF)

cdef inline uint64_t generation_of(uint64_t state) noexcept nogil:
    return state >> GENERATION_SHIFT

cdef inline uint64_t with_status(uint64_t state, uint32_t status, uint32_t owner) noexcept nogil:
    return generation_of(state) << GENERATION_SHIFT | <uint64_t> owner << OWNER_SHIFT | status

cdef inline uint32_t slots_used(Memory *memory) noexcept nogil:
    """Return the number of slots ever used: slots from this index on never were."""
    return ff_load32(&memory.header.group_high) * GROUP_BITS

cdef inline int is_finished(Memory *memory, uint32_t index) noexcept nogil:
    # S2: pairs with the exchange of `state` in `finish_one`; an outcome is read after it.
    return status_of(ff_load64(&memory.slots[index].state)) >= DONE

cdef inline int64_t extent_of(Memory *memory, uint64_t offset) noexcept nogil:
    return <int64_t> memory.granules[offset // GRANULE] - 1

cdef inline int is_extent(Memory *memory, uint64_t block) noexcept nogil:
    """Tell whether a block is an extent of its own, and no slab's."""
    return memory.extents[extent_of(memory, block)].kind != EXTENT_SLAB

cdef inline Group *group_of(Memory *memory, uint32_t pool, uint32_t id) noexcept nogil:
    return &memory.groups[id].group if pool == SLOT_POOL else &memory.extents[id].group

cdef inline uint64_t empty_group(Memory *memory, uint32_t pool, uint32_t id) noexcept nogil:
    """Return the word of a group without a taken member.

    A slab may have fewer blocks than the word has bits; the bits without a block count as taken for good.
    """
    if pool == SLOT_POOL:
        return 0
    return GROUP_MEMBERS & ~((<uint64_t> 1 << slab_blocks(memory.extents[id].block_size)) - 1)

cdef inline uint32_t *kind_of(Slot *slot, uint32_t which) noexcept nogil:
    return &slot.result_kind if which else &slot.payload_kind

cdef inline uint64_t block_of(Slot *slot, uint32_t which) noexcept nogil:
    return slot.result if which else slot.payload

cdef inline char *data_of(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    cdef uint64_t block = block_of(slot, which)
    return memory.base + block if block else <char *> slot.data

cdef inline const char *body_of(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    """Return the address of the value itself, after its handles."""
    cdef const char *data = data_of(memory, slot, which)
    cdef uint64_t count
    if kind_of(slot, which)[0] & KIND_HANDLES:
        memcpy(&count, data, 8)
        data += 8 * (count + 1)
    return data

cdef inline DependencyEdge *edges_of(Dependencies *dependencies) noexcept nogil:
    return <DependencyEdge *> (<char *> dependencies + sizeof(Dependencies))

cdef inline uint32_t home_of(Memory *memory, uint32_t queue) noexcept nogil:
    """Return the queue whose workers, permits and process serve a queue: another one for urgent calls, else itself."""
    cdef uint32_t home = memory.queues[queue].home
    return home - 1 if home else queue

cdef inline uint64_t *process_word(Process *process) noexcept nogil:
    """Return the word of its state and its pid, which change together."""
    return <uint64_t *> &process.state
