# Blocks of memory: small ones from slabs, large ones as extents of their own.
#
# `block_alloc` gives a block to this process: a small one is named in Process.taking until `block_published`, a large one is
# held by this process's bit. `value_store` (slots.pxd) makes it a slot's. `block_alloc_owned` makes it the caller's own, for
# as long as the caller likes and until `block_free`: such a block is named whatever its size, and a large one counts one
# reference.
#
# Guarantees: a death at any step leaks no block: recovery finds it by its name or by the dead process's bit.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .externs cimport ff_count, ff_store64
from .layout cimport EXTENT_VALUE, SHARED_BYTES, Extent
from .regions cimport Memory
from .bounds cimport block_number
from .size_classes cimport size_class_of
from .lookup cimport block_size_of, extent_of, is_extent
from .locked cimport extent_free
from .lock cimport lock_acquire, lock_release
from .extents cimport extent_alloc, extent_purge, extent_release
from .groups cimport member_alloc, member_free

cdef inline uint64_t block_alloc(Memory *memory, uint64_t nbytes) noexcept nogil:
    """Allocate `nbytes` bytes, 64-byte aligned; return their offset, 0 when the store is full."""
    cdef int64_t member
    if nbytes > SHARED_BYTES:
        member = extent_alloc(memory, nbytes, EXTENT_VALUE, 0, 0)
        return 0 if member < 0 else block_number(memory, memory.extents[member].offset)
    member = member_alloc(memory, size_class_of(nbytes))
    if member < 0:
        return 0
    ff_count(&memory.header.blocks_taken)
    return block_number(
        memory, memory.extents[member >> 6].offset + <uint64_t> (member & 63) * memory.extents[member >> 6].block_size
    )

cdef inline void block_published(Memory *memory) noexcept nogil:
    """Clear the allocation intent: the block allocated last now belongs to what refers to it."""
    ff_store64(&memory.processes[memory.me].taking, 0)

cdef inline void block_cancel(Memory *memory, uint64_t block) noexcept nogil:
    """Free a block that was allocated and not published."""
    cdef uint32_t id = extent_of(memory, block)
    if is_extent(memory, block):
        extent_release(memory, id)
        return
    slab_free(memory, id, block)
    block_published(memory)

cdef inline void slab_free(Memory *memory, uint32_t id, uint64_t block) noexcept nogil:
    cdef Extent *extent = &memory.extents[id]
    ff_count(&memory.header.blocks_freed)
    member_free(memory, 0, id, <uint32_t> ((block - extent.offset) // block_size_of(extent)))

cdef inline uint64_t block_alloc_owned(Memory *memory, uint64_t nbytes) noexcept nogil:
    """Allocate a block of the caller's own, for `block_free`; return 0 when the store is full.

    The caller calls `block_published` once something in the segment refers to the block.
    """
    cdef uint64_t block = block_alloc(memory, nbytes)
    if block and is_extent(memory, block):
        ff_store64(&memory.processes[memory.me].taking, block)      # before it counts a reference: see block_reclaim
        lock_acquire(memory)
        memory.extents[extent_of(memory, block)].refs = 1
        lock_release(memory)
        extent_release(memory, extent_of(memory, block))
    return block

cdef inline void block_reclaim(Memory *memory, uint64_t block) noexcept nogil:
    """Free a block that a dead process had allocated and not published.

    A large one counts no reference yet, or one.
    """
    cdef uint32_t id = extent_of(memory, block)
    cdef int leaving = 0
    if not is_extent(memory, block):
        slab_free(memory, id, block)
        return
    lock_acquire(memory)
    memory.extents[id].refs = 0
    if not memory.extents[id].holders:          # else clearing the dead process's bit frees it
        leaving = extent_free(memory, id, 0)
    lock_release(memory)
    if leaving:
        extent_purge(memory, id)

cdef inline void block_free(Memory *memory, uint64_t block) noexcept nogil:
    cdef uint32_t id = extent_of(memory, block)
    cdef int leaving
    if not is_extent(memory, block):
        slab_free(memory, id, block)
        return
    lock_acquire(memory)
    memory.extents[id].refs = 0             # the caller's was the only one
    leaving = extent_free(memory, id, 0)
    lock_release(memory)
    if leaving:
        extent_purge(memory, id)
