# Lookups: the extent of an offset, the group of a member, the bytes of a value, the parts of a state word.
#
# Guarantees: nothing here changes a shared word.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from .externs cimport ctz64, ff_load32, ff_load64
from .layout cimport (
    CACHE_LINE, DONE, EXTENT_COUNT, EXTENT_SLAB, GENERATION_SHIFT, GRANULE, GROUP_BITS, GROUP_COUNT, GROUP_MEMBERS,
    INLINE_BYTES, KIND_HANDLES, OWNER_SHIFT, POOL_QUEUES, PROCESS_COUNT, QUEUE_COUNT, SERVICE_COUNT, SLOT_COUNT,
    Dependencies, DependencyEdge, Extent, Group, Process, Slot,
)
from .regions cimport SLOT_POOL, Memory
from .bounds cimport at_most, block_at, block_number, extent_number, is_within, queue_number
from .size_classes cimport slab_blocks

cdef inline uint32_t status_of(uint64_t state) noexcept nogil:
    return <uint32_t> (state & 0xF)

cdef inline uint32_t owner_of(uint64_t state) noexcept nogil:
    return <uint32_t> ((state >> OWNER_SHIFT) & (PROCESS_COUNT - 1))

cdef inline uint64_t generation_of(uint64_t state) noexcept nogil:
    return state >> GENERATION_SHIFT

cdef inline uint64_t with_status(uint64_t state, uint32_t status, uint32_t owner) noexcept nogil:
    return generation_of(state) << GENERATION_SHIFT | <uint64_t> owner << OWNER_SHIFT | status

cdef inline uint32_t groups_used(Memory *memory) noexcept nogil:
    return at_most(memory, ff_load32(&memory.header.group_high), GROUP_COUNT)

cdef inline uint32_t slots_used(Memory *memory) noexcept nogil:
    """Return the number of slots ever used: slots from this index on never were."""
    return groups_used(memory) * GROUP_BITS

cdef inline uint32_t next_taken(Memory *memory, uint32_t index) noexcept nogil:
    """Return the first taken slot from an index on, `slots_used` if there is none.

    It reads a group's bitmap word instead of its 62 slots. A slot is taken from before its first use until after its last.
    """
    cdef uint32_t high = slots_used(memory)
    cdef uint64_t taken
    while index < high:
        taken = (ff_load64(&memory.groups[index // GROUP_BITS].group.used) & GROUP_MEMBERS) >> (index % GROUP_BITS)
        if taken:
            return index + ctz64(taken)
        index += GROUP_BITS - index % GROUP_BITS
    return high

cdef inline uint32_t extents_used(Memory *memory) noexcept nogil:
    return at_most(memory, ff_load32(&memory.header.extent_high), EXTENT_COUNT)

cdef inline uint32_t processes_used(Memory *memory) noexcept nogil:
    return at_most(memory, ff_load32(&memory.header.process_high), PROCESS_COUNT)

cdef inline uint32_t services_used(Memory *memory) noexcept nogil:
    return at_most(memory, ff_load32(&memory.header.service_high), SERVICE_COUNT)

cdef inline uint32_t pool_queues_used(Memory *memory) noexcept nogil:
    return at_most(memory, ff_load32(&memory.header.pool_queue_high), POOL_QUEUES)

cdef inline uint32_t instance_queues_used(Memory *memory) noexcept nogil:
    return at_most(memory, ff_load32(&memory.header.instance_queue_high), QUEUE_COUNT)

cdef inline int is_finished(Memory *memory, uint32_t index) noexcept nogil:
    # S2: pairs with the exchange of `state` in `finish_one`; an outcome is read after it.
    return status_of(ff_load64(&memory.slots[index].state)) >= DONE

cdef inline int64_t found_extent(Memory *memory, uint64_t offset) noexcept nogil:
    """Return the extent that covers an offset of the segment; -1: none does."""
    cdef uint32_t id = memory.granules[offset // GRANULE]
    return <int64_t> extent_number(memory, id - 1) if id else -1

cdef inline uint32_t extent_of(Memory *memory, uint64_t block) noexcept nogil:
    """Return the extent that a block lies in, or is."""
    return extent_number(memory, memory.granules[block_number(memory, block) // GRANULE] - 1)

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
    return GROUP_MEMBERS & ~((<uint64_t> 1 << slab_blocks(block_size_of(&memory.extents[id]))) - 1)

cdef inline uint32_t block_size_of(Extent *extent) noexcept nogil:
    """Return the block size of a slab: a divisor, so never 0."""
    return max(extent.block_size, <uint32_t> CACHE_LINE)

cdef inline uint32_t *kind_of(Slot *slot, uint32_t which) noexcept nogil:
    return &slot.result_kind if which else &slot.payload_kind

cdef inline uint64_t block_of(Slot *slot, uint32_t which) noexcept nogil:
    return slot.result if which else slot.payload

cdef inline char *data_of(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    cdef uint64_t block = block_of(slot, which)
    return block_at(memory, block) if block else <char *> slot.data

cdef inline const char *body_of(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    """Return the address of the value itself, after its handles."""
    cdef const char *data = data_of(memory, slot, which)
    if kind_of(slot, which)[0] & KIND_HANDLES:
        data += 8 * (handle_count(memory, slot, which) + 1)
    return data

cdef inline uint64_t handle_count(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    """Return the number of handles in front of a value that has some."""
    cdef uint64_t count, nbytes = value_bytes(memory, slot, which)
    memcpy(&count, data_of(memory, slot, which), 8)
    if nbytes < 8 or count > (nbytes - 8) // 8:
        memory.damaged = 1
        return 0
    return count

cdef inline uint64_t value_bytes(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    """Return how many bytes a payload or result has, its handles included."""
    cdef uint64_t nbytes = slot.result_bytes if which else slot.payload_bytes, block = block_of(slot, which)
    if nbytes <= INLINE_BYTES or block and is_within(memory, block, nbytes):
        return nbytes
    memory.damaged = 1
    return 0

cdef inline const char *end_of_value(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    return data_of(memory, slot, which) + value_bytes(memory, slot, which)

cdef inline Dependencies *dependencies_of(Memory *memory, Slot *slot) noexcept nogil:
    """Return the block of a task's dependencies; it must have some."""
    return <Dependencies *> block_at(memory, slot.dependencies)

cdef inline uint32_t dependency_count(Memory *memory, Dependencies *dependencies) noexcept nogil:
    """Return how many dependencies a block has room for."""
    cdef uint64_t left = memory.size - <uint64_t> (<char *> dependencies - memory.base) - sizeof(Dependencies)
    return at_most(memory, dependencies.count, <uint32_t> min(left // sizeof(DependencyEdge), <uint64_t> SLOT_COUNT))

cdef inline uint32_t queue_of(Memory *memory, Slot *slot) noexcept nogil:
    return queue_number(memory, slot.queue)

cdef inline DependencyEdge *edge_at(Memory *memory, uint64_t offset) noexcept nogil:
    return <DependencyEdge *> block_at(memory, offset)

cdef inline DependencyEdge *edges_of(Dependencies *dependencies) noexcept nogil:
    return <DependencyEdge *> (<char *> dependencies + sizeof(Dependencies))

cdef inline uint32_t home_of(Memory *memory, uint32_t queue) noexcept nogil:
    """Return the queue whose workers, permits and process serve a queue: another one for urgent calls, else itself."""
    cdef uint32_t home = memory.queues[queue].home
    return queue_number(memory, home - 1) if home else queue

cdef inline uint64_t *process_word(Process *process) noexcept nogil:
    """Return the word of its state and its pid, which change together."""
    return <uint64_t *> &process.state
