# Blocks of memory: small ones from slabs, large ones as extents of their own.
#
# `block_take` gives a block to this process: a small one is named in Process.taking until `block_settled`, a large one is
# held by this process's bit. `slot_store` (slots.pxi) makes it a slot's; `block_keep` makes it the caller's own for as long as
# it likes, for `block_free`: it is named then, whatever its size, and a large one counts one reference.

cdef inline uint32_t size_class_of(uint64_t nbytes) noexcept nogil:
    """Smallest class whose blocks hold so many bytes: four sizes per doubling, from 128 bytes up."""
    cdef uint32_t exponent, step
    cdef uint64_t rest
    if nbytes <= 128:
        return 0
    exponent = 63 - clz64(nbytes - 1)           # 2^exponent <= nbytes - 1
    rest = (nbytes - 1) - (<uint64_t> 1 << exponent)
    step = <uint32_t> (rest >> (exponent - 2))
    return (exponent - 7) * 4 + step + 1

cdef inline uint64_t size_of_class(uint32_t size_class) noexcept nogil:
    cdef uint32_t exponent, step
    if size_class == 0:
        return 128
    exponent = (size_class - 1) // 4 + 7
    step = (size_class - 1) % 4 + 1
    return align_up((<uint64_t> 1 << exponent) + (<uint64_t> step << (exponent - 2)), CACHE_LINE)

cdef inline uint32_t slab_blocks(uint32_t block_size) noexcept nogil:
    """Blocks in a slab: 63, fewer of the larger ones."""
    cdef uint32_t fitting = (1 << 17) // block_size
    return min(GROUP_BITS, max(4, fitting))

cdef int64_t slab_new(Memory *memory, uint32_t block_size) noexcept nogil:
    return extent_take(memory, <uint64_t> block_size * slab_blocks(block_size), EXTENT_SLAB, block_size, 0)

cdef inline int64_t extent_of(Memory *memory, uint64_t offset) noexcept nogil:
    return <int64_t> memory.granules[offset // GRANULE] - 1

cdef inline int is_extent(Memory *memory, uint64_t block) noexcept nogil:
    """Whether a block is an extent of its own, and no slab's."""
    return memory.extents[extent_of(memory, block)].kind != EXTENT_SLAB

cdef uint64_t block_take(Memory *memory, uint64_t nbytes) noexcept nogil:
    """Offset of `nbytes` bytes that this process holds, 64-byte aligned; 0 when the store is full."""
    cdef int64_t member
    if nbytes > SHARED_BYTES:
        member = extent_take(memory, nbytes, EXTENT_VALUE, 0, 0)
        return 0 if member < 0 else memory.extents[member].offset
    member = member_take(memory, size_class_of(nbytes))
    if member < 0:
        return 0
    ff_count(&memory.header.blocks_taken)
    return memory.extents[member >> 6].offset + <uint64_t> (member & 63) * memory.extents[member >> 6].block_size

cdef inline void block_settled(Memory *memory) noexcept nogil:
    """The block taken last has its place."""
    ff_store64(&memory.processes[memory.me].taking, 0)

cdef void block_discard(Memory *memory, uint64_t block) noexcept nogil:
    """Gives back a block that was taken and found no place."""
    cdef int64_t id = extent_of(memory, block)
    if is_extent(memory, block):
        extent_drop(memory, <uint32_t> id)
        return
    slab_free(memory, <uint32_t> id, block)
    block_settled(memory)

cdef void slab_free(Memory *memory, uint32_t id, uint64_t block) noexcept nogil:
    cdef Extent *extent = &memory.extents[id]
    ff_count(&memory.header.blocks_freed)
    member_free(memory, 0, id, <uint32_t> ((block - extent.offset) // extent.block_size))

cdef uint64_t block_keep(Memory *memory, uint64_t nbytes) noexcept nogil:
    """A block of the caller's own, for `block_free`; 0 when the store is full. Say `block_settled` when it is put down."""
    cdef uint64_t block = block_take(memory, nbytes)
    if block and is_extent(memory, block):
        ff_store64(&memory.processes[memory.me].taking, block)      # before it counts a reference: see block_abandon
        lock_take(memory)
        memory.extents[extent_of(memory, block)].refs = 1
        lock_give(memory)
        extent_drop(memory, <uint32_t> extent_of(memory, block))
    return block

cdef void block_abandon(Memory *memory, uint64_t block) noexcept nogil:
    """Gives back what a dead process had taken and put down nowhere. A large one counts no reference yet, or one."""
    cdef uint32_t id = <uint32_t> extent_of(memory, block)
    cdef int leaving = 0
    if not is_extent(memory, block):
        slab_free(memory, id, block)
        return
    lock_take(memory)
    memory.extents[id].refs = 0
    if not memory.extents[id].holders:          # else with the dead process's bit
        leaving = extent_give_back(memory, id, 0)
    lock_give(memory)
    if leaving:
        extent_empty(memory, id)

cdef void block_free(Memory *memory, uint64_t block) noexcept nogil:
    cdef uint32_t id = <uint32_t> extent_of(memory, block)
    cdef int leaving
    if not is_extent(memory, block):
        slab_free(memory, id, block)
        return
    lock_take(memory)
    memory.extents[id].refs = 0             # the caller's was the only one
    leaving = extent_give_back(memory, id, 0)
    lock_give(memory)
    if leaving:
        extent_empty(memory, id)
