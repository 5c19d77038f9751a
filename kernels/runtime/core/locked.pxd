# Changes under the lock: free lists, holders, freed groups.
#
# Assumes: the caller of each function here holds the lock. Guarantees: `Extent.kind` is the truth, lists and sums are made
# from it; so `repair` restores them after a death at any step.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from .externs cimport ff_add32, ff_load64, ff_store32, ff_store64
from .layout cimport (
    EXTENT_CLASSES, EXTENT_COUNT, EXTENT_LEAVING, EXTENT_SLAB, EXTENT_VALUE, EXTENT_WARM, GRANULE, GROUP_CLAIMED,
    GROUP_CURRENT, Extent, Group, Header,
)
from .regions cimport SLOT_POOL, TRAP_BYTES, Memory
from .bounds cimport at_most, extent_number, is_within
from .size_classes cimport extent_class_of
from .lookup cimport empty_group, group_of
from .wakeup cimport ring_bell

cdef enum:
    #: A warm extent up to so many size classes larger is better than a cold one.
    WARM_CLASSES = 3

cdef inline int64_t warm_extent(Memory *memory, uint32_t size_class) noexcept nogil:
    cdef uint32_t i
    for i in range(size_class, min(size_class + WARM_CLASSES, EXTENT_CLASSES)):
        if memory.header.warm_extents[i]:
            return extent_number(memory, memory.header.warm_extents[i] - 1)
    return -1

cdef inline int64_t cold_extent(Memory *memory, uint32_t size_class, uint64_t size) noexcept nogil:
    """Return a free extent whose pages went back to the system, else a new one; -1 when there is none.

    A new one is on no list; it is carved from the arena behind the last extent.
    """
    cdef Header *header = memory.header
    cdef uint32_t id = header.extent_high
    cdef uint64_t at
    cdef Extent *extent
    if header.cold_extents[size_class]:
        return extent_number(memory, header.cold_extents[size_class] - 1)
    if header.arena_next < memory.arena or header.arena_next % GRANULE or id > EXTENT_COUNT:
        memory.damaged = 1
        return -1
    if id == EXTENT_COUNT or not is_within(memory, header.arena_next, size + TRAP_BYTES):
        return larger_extent(memory, size_class)
    extent = &memory.extents[id]
    extent.offset = header.arena_next
    extent.size = size
    for at in range(extent.offset // GRANULE, (extent.offset + size) // GRANULE):
        memory.granules[at] = id + 1
    ff_store32(&header.extent_high, id + 1)     # a death before this: the next carving writes the same
    ff_store64(&header.arena_next, extent.offset + size)
    return id

cdef inline int64_t larger_extent(Memory *memory, uint32_t size_class) noexcept nogil:
    """Return any free extent that is large enough, -1 for none: there are no more addresses to carve."""
    cdef uint32_t i
    for i in range(size_class, EXTENT_CLASSES):
        if memory.header.warm_extents[i]:
            return extent_number(memory, memory.header.warm_extents[i] - 1)
        if memory.header.cold_extents[i]:
            return extent_number(memory, memory.header.cold_extents[i] - 1)
    return -1

cdef inline void extent_occupy(Memory *memory, uint32_t id, uint32_t kind, uint32_t block_size) noexcept nogil:
    """Put a free extent into use: one at the head of its list, or a new one.

    Its `kind` is set before it leaves the list, because `repair` makes the lists from the kinds.
    """
    cdef Header *header = memory.header
    cdef Extent *extent = &memory.extents[id]
    cdef uint32_t size_class = class_of_extent(memory, extent), before = extent.kind
    memset(extent.held, 0, sizeof(extent.held))     # a process that died before `kind` was set has left a bit
    extent.sealed = 0
    extent.was_warm = before == EXTENT_WARM
    if kind == EXTENT_VALUE:
        extent.held[memory.me >> 6] = <uint64_t> 1 << (memory.me & 63)
        extent.holders = 1
        ff_store32(&memory.local[id], 1)
    else:
        extent.block_size = block_size      # a value keeps it: a process that has just seen a slab here divides by it
        ff_store64(&extent.group.used, empty_group(memory, 0, id) | GROUP_CURRENT)
        ff_store32(&extent.group.owner, memory.me + 1)
    ff_store32(&extent.kind, kind)
    if before == EXTENT_WARM:
        header.warm_extents[size_class] = extent.group.next
        header.cached_bytes -= extent.size
    else:
        header.cold_extents[size_class] = extent.group.next
    header.live_bytes += extent.size
    header.peak_bytes = max(header.peak_bytes, header.live_bytes)
    header.takes += 1

cdef inline int extent_free(Memory *memory, uint32_t id, int keep) noexcept nogil:
    """Take an extent out of use; return 1 if the caller must call `extent_purge`, without the lock.

    It never returns 1 if `keep`.
    """
    cdef Header *header = memory.header
    cdef Extent *extent = &memory.extents[id]
    header.live_bytes -= extent.size
    if header.cached_bytes + extent.size > header.cache_limit and not keep:
        ff_store32(&extent.group.owner, memory.me + 1)
        ff_store32(&extent.kind, EXTENT_LEAVING)
        return 1
    free_list_push(memory, id, EXTENT_WARM)
    if header.cached_bytes == extent.size:      # the first: the supervisor (zygote) trims it later
        ring_bell(memory.doorbell)
    return 0

cdef inline void free_list_push(Memory *memory, uint32_t id, uint32_t kind) noexcept nogil:
    cdef Header *header = memory.header
    cdef Extent *extent = &memory.extents[id]
    cdef uint32_t *head = &header.warm_extents[0] if kind == EXTENT_WARM else &header.cold_extents[0]
    cdef uint32_t size_class = class_of_extent(memory, extent)
    ff_store32(&extent.kind, kind)
    extent.group.next = head[size_class]
    head[size_class] = id + 1
    if kind == EXTENT_WARM:
        header.cached_bytes += extent.size

cdef inline uint32_t class_of_extent(Memory *memory, Extent *extent) noexcept nogil:
    return at_most(memory, extent_class_of(extent.size), EXTENT_CLASSES - 1)

cdef inline int64_t warm_anywhere(Memory *memory) noexcept nogil:
    cdef uint32_t i
    for i in range(EXTENT_CLASSES):
        if memory.header.warm_extents[i]:
            return extent_number(memory, memory.header.warm_extents[i] - 1)
    return -1

cdef inline void extent_acquire_locked(Memory *memory, uint32_t id) noexcept nogil:
    """Acquire one more view of an extent, as `extent_acquire` does without the lock."""
    if ff_add32(&memory.local[id], 1) == 0:
        set_holder(memory, id)

cdef inline void set_holder(Memory *memory, uint32_t id) noexcept nogil:
    """Record that this process has views of an extent.

    Its bit is still set if another thread is just releasing the last view.
    """
    cdef Extent *extent = &memory.extents[id]
    cdef uint64_t bit = <uint64_t> 1 << (memory.me & 63)
    if not extent.held[memory.me >> 6] & bit:
        extent.held[memory.me >> 6] |= bit
        extent.holders += 1

cdef inline int clear_holder(Memory *memory, uint32_t id, uint32_t process) noexcept nogil:
    """Record that a process has no views of an extent; return 1 if `extent_purge` must follow."""
    cdef Extent *extent = &memory.extents[id]
    cdef uint64_t bit = <uint64_t> 1 << (process & 63)
    if extent.kind != EXTENT_VALUE or not extent.held[process >> 6] & bit:
        return 0
    extent.held[process >> 6] &= ~bit
    extent.holders -= 1
    if extent.refs or extent.holders:
        return 0
    return extent_free(memory, id, 0)

cdef inline int group_free_claimed(Memory *memory, uint32_t pool, uint32_t id) noexcept nogil:
    """Free a claimed group; return 1 if `extent_purge` must follow. Idempotent."""
    cdef Group *group = group_of(memory, pool, id)
    if not ff_load64(&group.used) & GROUP_CLAIMED:
        return 0
    if pool == SLOT_POOL:
        if group.owner:
            ff_store32(&group.owner, 0)
            group.next = memory.header.free_groups
            memory.header.free_groups = id + 1
        return 0
    if memory.extents[id].kind != EXTENT_SLAB:
        return 0
    ff_store32(&group.owner, 0)
    return extent_free(memory, id, 0)
