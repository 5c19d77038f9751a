# Extents: large pieces of the arena, each a value's (or a slab). Processes map and read their pages in place.
#
# An extent in use has references (payloads and results of slots that it contains) and holders (processes with views of it);
# it is free when it has neither. Both are counted under the lock. Extents never merge or split: a piece carved once keeps
# its place and size, since addresses cost nothing, and its memory goes back page by page. Free extents stay warm for the
# next allocation, up to Header.cache_limit, because fresh shared pages cost five times a warm copy. The rest give their
# pages back, and after some seconds without any allocation all of them do; the supervisor (zygote) sees to that.
#
# Assumes: the caller of each function here does not hold the lock.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.stat cimport fstat, struct_stat
from .externs cimport MADV_REMOVE, ff_add32, ff_load32, ff_load64, ff_store32, madvise, popcount64
from .layout cimport (
    EXTENT_COLD, EXTENT_LEAVING, EXTENT_SLAB, EXTENT_VALUE, EXTENT_WARM, GRANULE, GROUP_MEMBERS, Extent, Header,
)
from .regions cimport Memory
from .bounds cimport follows, is_within
from .size_classes cimport extent_class_of, extent_class_size
from .lookup cimport block_size_of, empty_group, extents_used
from .system_memory cimport memory_left
from .locked cimport (
    class_of_extent, clear_holder, cold_extent, extent_occupy, free_list_push, set_holder, warm_anywhere, warm_extent,
)
from .lock cimport lock_acquire, lock_release

cdef enum:
    #: Bytes of growth that one look at the free memory is good for.
    CHECK_STEP = 1 << 26
    #: Bytes left to the rest of the machine.
    MARGIN = 1 << 26

cdef inline int64_t extent_alloc(Memory *memory, uint64_t nbytes, uint32_t kind, uint32_t block_size,
                                 int cold) noexcept nogil:
    """Allocate an extent of at least `nbytes` bytes; return -1 when the store is full.

    A value's extent is held by this process, a slab is owned by it. `cold`: only an extent whose pages no process has
    touched.
    """
    cdef Header *header = memory.header
    cdef uint32_t size_class
    cdef uint64_t size
    cdef int64_t id
    if nbytes > memory.size:
        return -1
    size_class = extent_class_of(nbytes)
    size = extent_class_size(size_class)
    while True:
        lock_acquire(memory)
        if size > header.limit or header.live_bytes > header.limit - size:
            lock_release(memory)
            return -1
        id = -1 if cold else warm_extent(memory, size_class)
        if id >= 0:
            break
        if header.live_bytes + header.cached_bytes + size <= header.checked_bytes:
            id = cold_extent(memory, size_class, size)
            break
        lock_release(memory)
        if not find_memory(memory, size):
            return -1
    if id >= 0 and not is_extent_sound(memory, <uint32_t> id, nbytes):
        id = -1
    if id >= 0:
        extent_occupy(memory, <uint32_t> id, kind, block_size)
    lock_release(memory)
    return id

cdef inline int is_extent_sound(Memory *memory, uint32_t id, uint64_t nbytes) noexcept nogil:
    """Tell whether an extent is in the arena and has so many bytes."""
    cdef Extent *extent = &memory.extents[id]
    if extent.offset % GRANULE == 0 and extent.size >= nbytes and is_within(memory, extent.offset, extent.size):
        return 1
    memory.damaged = 1
    return 0

cdef inline void extent_purge(Memory *memory, uint32_t id) noexcept nogil:
    """Give the pages of a LEAVING extent back to the system."""
    cdef Header *header = memory.header
    cdef int refused = 1
    if is_extent_sound(memory, id, 1):
        refused = madvise(memory.base + memory.extents[id].offset, memory.extents[id].size, MADV_REMOVE)
    lock_acquire(memory)
    free_list_push(memory, id, EXTENT_WARM if refused else EXTENT_COLD)      # refused for memory that a process has locked
    header.checked_bytes = min(header.checked_bytes, header.live_bytes + header.cached_bytes + CHECK_STEP)
    lock_release(memory)

cdef inline void extents_trim(Memory *memory) noexcept nogil:
    """Give the pages of every warm extent back to the system."""
    cdef Header *header = memory.header
    cdef int64_t id
    cdef uint32_t links = 0
    while follows(memory, &links):
        lock_acquire(memory)
        id = warm_anywhere(memory)
        if id >= 0:
            header.warm_extents[class_of_extent(memory, &memory.extents[id])] = memory.extents[id].group.next
            header.cached_bytes -= memory.extents[id].size
            ff_store32(&memory.extents[id].group.owner, memory.me + 1)
            ff_store32(&memory.extents[id].kind, EXTENT_LEAVING)
        lock_release(memory)
        if id < 0:
            return
        extent_purge(memory, <uint32_t> id)
        if memory.extents[id].kind == EXTENT_WARM:      # refused, or used and freed again meanwhile: not now
            return

cdef inline uint64_t memory_unclaimed(Memory *memory) noexcept nogil:
    """Return how many bytes may still be allocated beside the extents whose pages nobody has touched yet.

    Two tasks that make an array each at the same time would find the same free memory.
    """
    cdef Header *header = memory.header
    cdef uint64_t left = memory_left(header.cgroups), granted = header.live_bytes + header.cached_bytes, touched
    cdef struct_stat status
    if fstat(memory.fd, &status) or <uint64_t> status.st_size != memory.size:   # a task has closed it
        return left
    touched = <uint64_t> status.st_blocks * 512
    return left - min(left, granted - min(granted, touched))

cdef inline int find_memory(Memory *memory, uint64_t size) noexcept nogil:
    """Check that the machine has memory for `size` bytes of growth; return 0 if it has not.

    The kernel would not refuse the growth, but kill a process.
    """
    cdef Header *header = memory.header
    cdef uint64_t found = memory_unclaimed(memory)
    if found < size + MARGIN and header.cached_bytes:
        extents_trim(memory)
        found = memory_unclaimed(memory)
    if found < size + MARGIN:
        return 0
    lock_acquire(memory)
    header.checked_bytes = header.live_bytes + header.cached_bytes + size
    if found >= size + MARGIN + CHECK_STEP:
        header.checked_bytes += CHECK_STEP
    lock_release(memory)
    return 1

cdef inline void extent_acquire(Memory *memory, uint32_t id) noexcept nogil:
    """Acquire one more view of an extent for this process.

    Assumes that something keeps the extent in use meanwhile.
    """
    if ff_add32(&memory.local[id], 1):
        return
    lock_acquire(memory)
    set_holder(memory, id)
    lock_release(memory)

cdef inline void extent_release(Memory *memory, uint32_t id) noexcept nogil:
    """Release one view of this process."""
    cdef int leaving = 0
    if ff_add32(&memory.local[id], <uint32_t> -1) != 1:
        return
    lock_acquire(memory)
    if ff_load32(&memory.local[id]) == 0:
        leaving = clear_holder(memory, id, memory.me)
    lock_release(memory)
    if leaving:
        extent_purge(memory, id)

cdef inline uint64_t used_bytes(Memory *memory) noexcept nogil:
    """Return the bytes of extents with values, and of allocated blocks of slabs."""
    cdef uint32_t id
    cdef uint64_t count = 0, used
    cdef Extent *extent
    for id in range(extents_used(memory)):
        extent = &memory.extents[id]
        if extent.kind == EXTENT_VALUE:
            count += extent.size
        elif extent.kind == EXTENT_SLAB:
            used = ff_load64(&extent.group.used) & GROUP_MEMBERS & ~empty_group(memory, 0, id)
            count += <uint64_t> popcount64(used) * block_size_of(extent)
    return count
