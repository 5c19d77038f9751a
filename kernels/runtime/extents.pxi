# Extents: large pieces of the arena, each a value's (or a slab). Their pages are mapped and read in place.
#
# An extent in use has references (payloads and results of slots that lie in it) and holders (processes with views of it); it
# is free when it has neither. Both are counted under the lock. Extents never merge or split: a piece carved once keeps its
# place and size, since addresses cost nothing, and what it costs in memory goes back page by page. Free ones are kept warm for
# the next taker, up to Header.cache_limit, because fresh shared pages cost five times a warm copy; the rest, and all of them
# after some seconds without any taker (the zygote's business), give their pages back.

cdef extern from "sys/mman.h" nogil:
    int madvise(void *addr, size_t length, int advice) noexcept
    int MADV_REMOVE, MADV_DONTDUMP

cdef extern from *:
    """
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif
    """
    int MADV_POPULATE_WRITE

cdef enum:
    UNLINKED_AT_ONCE = 16       # extents whose pages one call gives back; further ones are kept warm
    WARM_CLASSES = 3            # a warm extent up to so many sizes larger is better than a cold one
    CHECK_STEP = 1 << 26        # growth that one look at the free memory is good for
    MARGIN = 1 << 26            # bytes left to the rest of the machine

cdef inline uint32_t extent_class_of(uint64_t nbytes) noexcept nogil:
    return size_class_of(align_up(nbytes, GRANULE) // (GRANULE // 128))

cdef inline uint64_t extent_class_size(uint32_t size_class) noexcept nogil:
    return align_up(size_of_class(size_class) * (GRANULE // 128), GRANULE)

# ---- taking and giving back -----------------------------------------------------------------------------------------

cdef int64_t extent_take(Memory *memory, uint64_t nbytes, uint32_t kind, uint32_t block_size, int cold) noexcept nogil:
    """An extent of at least so many bytes: a value's, held by this process, or a slab, owned by it. -1 when the store is full.
    `cold`: one whose pages nobody has touched."""
    cdef Header *header = memory.header
    cdef uint32_t size_class
    cdef uint64_t size
    cdef int64_t id
    if nbytes > header.size:
        return -1
    size_class = extent_class_of(nbytes)
    size = extent_class_size(size_class)
    while True:
        lock_take(memory)
        if size > header.limit or header.live_bytes > header.limit - size:
            lock_give(memory)
            return -1
        id = -1 if cold else warm_extent(memory, size_class)
        if id >= 0:
            break
        if header.live_bytes + header.cached_bytes + size <= header.checked_bytes:
            id = cold_extent(memory, size_class, size)
            break
        lock_give(memory)
        if not find_memory(memory, size):
            return -1
    if id >= 0:
        extent_occupy(memory, <uint32_t> id, kind, block_size)
    lock_give(memory)
    return id

cdef int64_t warm_extent(Memory *memory, uint32_t size_class) noexcept nogil:
    cdef uint32_t i
    for i in range(size_class, min(size_class + WARM_CLASSES, EXTENT_CLASSES)):
        if memory.header.warm_extents[i]:
            return memory.header.warm_extents[i] - 1
    return -1

cdef int64_t cold_extent(Memory *memory, uint32_t size_class, uint64_t size) noexcept nogil:
    """One whose pages went back before, else a new one, on no list, from the end of what was carved."""
    cdef Header *header = memory.header
    cdef uint32_t id = header.extent_high
    cdef uint64_t at
    cdef Extent *extent
    if header.cold_extents[size_class]:
        return header.cold_extents[size_class] - 1
    if id == EXTENT_COUNT or header.arena_next + size > header.size:
        return larger_extent(memory, size_class)
    extent = &memory.extents[id]
    extent.offset = header.arena_next
    extent.size = size
    for at in range(extent.offset // GRANULE, (extent.offset + size) // GRANULE):
        memory.granules[at] = id + 1
    ff_store32(&header.extent_high, id + 1)     # a death before this: the next carving writes the same again
    ff_store64(&header.arena_next, extent.offset + size)
    return id

cdef int64_t larger_extent(Memory *memory, uint32_t size_class) noexcept nogil:
    """No more addresses: any free one that is large enough."""
    cdef uint32_t i
    for i in range(size_class, EXTENT_CLASSES):
        if memory.header.warm_extents[i]:
            return memory.header.warm_extents[i] - 1
        if memory.header.cold_extents[i]:
            return memory.header.cold_extents[i] - 1
    return -1

cdef void extent_occupy(Memory *memory, uint32_t id, uint32_t kind, uint32_t block_size) noexcept nogil:
    """A free extent, at the head of its list or new, comes into use. `kind` is set before it leaves that: `repair` goes by it."""
    cdef Header *header = memory.header
    cdef Extent *extent = &memory.extents[id]
    cdef uint32_t size_class = extent_class_of(extent.size), before = extent.kind
    memset(extent.held, 0, sizeof(extent.held))     # who died before `kind` was set has left a bit
    extent.sealed = 0
    extent.was_warm = before == EXTENT_WARM
    if kind == EXTENT_VALUE:
        extent.held[memory.me >> 6] = <uint64_t> 1 << (memory.me & 63)
        extent.holders = 1
        ff_store32(&memory.local[id], 1)
    else:
        extent.block_size = block_size      # and a value leaves it: who has just seen a slab here divides by it
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

cdef int extent_give_back(Memory *memory, uint32_t id, int keep) noexcept nogil:
    """With the lock: an extent comes out of use. 1 if `extent_empty` shall follow, without the lock; never if `keep`."""
    cdef Header *header = memory.header
    cdef Extent *extent = &memory.extents[id]
    header.live_bytes -= extent.size
    if header.cached_bytes + extent.size > header.cache_limit and not keep:
        ff_store32(&extent.group.owner, memory.me + 1)
        ff_store32(&extent.kind, EXTENT_LEAVING)
        return 1
    push_free(memory, id, EXTENT_WARM)
    if header.cached_bytes == extent.size:      # the first: the zygote shall look after it
        ring_bell(memory.doorbell)
    return 0

cdef void push_free(Memory *memory, uint32_t id, uint32_t kind) noexcept nogil:
    cdef Header *header = memory.header
    cdef Extent *extent = &memory.extents[id]
    cdef uint32_t *head = &header.warm_extents[0] if kind == EXTENT_WARM else &header.cold_extents[0]
    cdef uint32_t size_class = extent_class_of(extent.size)
    ff_store32(&extent.kind, kind)
    extent.group.next = head[size_class]
    head[size_class] = id + 1
    if kind == EXTENT_WARM:
        header.cached_bytes += extent.size

cdef void extent_empty(Memory *memory, uint32_t id) noexcept nogil:
    """Gives the pages of a LEAVING extent back to the system."""
    cdef Header *header = memory.header
    cdef int refused = madvise(memory.base + memory.extents[id].offset, memory.extents[id].size, MADV_REMOVE)
    lock_take(memory)
    push_free(memory, id, EXTENT_WARM if refused else EXTENT_COLD)      # refused for memory that somebody has locked
    header.checked_bytes = min(header.checked_bytes, header.live_bytes + header.cached_bytes + CHECK_STEP)
    lock_give(memory)

cdef void extents_trim(Memory *memory) noexcept nogil:
    """Gives the pages of every warm extent back to the system."""
    cdef Header *header = memory.header
    cdef int64_t id
    while True:
        lock_take(memory)
        id = warm_anywhere(memory)
        if id >= 0:
            header.warm_extents[extent_class_of(memory.extents[id].size)] = memory.extents[id].group.next
            header.cached_bytes -= memory.extents[id].size
            ff_store32(&memory.extents[id].group.owner, memory.me + 1)
            ff_store32(&memory.extents[id].kind, EXTENT_LEAVING)
        lock_give(memory)
        if id < 0:
            return
        extent_empty(memory, <uint32_t> id)
        if memory.extents[id].kind == EXTENT_WARM:      # refused, or in use and kept again: not now
            return

cdef int64_t warm_anywhere(Memory *memory) noexcept nogil:
    cdef uint32_t i
    for i in range(EXTENT_CLASSES):
        if memory.header.warm_extents[i]:
            return memory.header.warm_extents[i] - 1
    return -1

cdef int find_memory(Memory *memory, uint64_t size) noexcept nogil:
    """Looks whether the machine has memory for that much growth; 0 if it has not. The kernel would not refuse it, but kill."""
    cdef Header *header = memory.header
    cdef uint64_t found = memory_left(header.cgroups)
    if found < size + MARGIN and header.cached_bytes:
        extents_trim(memory)
        found = memory_left(header.cgroups)
    if found < size + MARGIN:
        return 0
    lock_take(memory)
    header.checked_bytes = header.live_bytes + header.cached_bytes + size
    if found >= size + MARGIN + CHECK_STEP:
        header.checked_bytes += CHECK_STEP
    lock_give(memory)
    return 1

# ---- who lies in it, who maps it ------------------------------------------------------------------------------------

cdef void extent_hold(Memory *memory, uint32_t id) noexcept nogil:
    """One more view in this process of an extent that something keeps in use just now."""
    if ff_add32(&memory.local[id], 1):
        return
    lock_take(memory)
    set_holder(memory, id)
    lock_give(memory)

cdef void extent_hold_locked(Memory *memory, uint32_t id) noexcept nogil:
    """As `extent_hold`, by who has the lock."""
    if ff_add32(&memory.local[id], 1) == 0:
        set_holder(memory, id)

cdef void set_holder(Memory *memory, uint32_t id) noexcept nogil:
    """With the lock: this process has views; its bit is set still if another thread is just dropping the last one."""
    cdef Extent *extent = &memory.extents[id]
    cdef uint64_t bit = <uint64_t> 1 << (memory.me & 63)
    if not extent.held[memory.me >> 6] & bit:
        extent.held[memory.me >> 6] |= bit
        extent.holders += 1

cdef void extent_drop(Memory *memory, uint32_t id) noexcept nogil:
    """One view of this process less."""
    cdef int leaving = 0
    if ff_add32(&memory.local[id], <uint32_t> -1) != 1:
        return
    lock_take(memory)
    if ff_load32(&memory.local[id]) == 0:
        leaving = clear_holder(memory, id, memory.me)
    lock_give(memory)
    if leaving:
        extent_empty(memory, id)

cdef int clear_holder(Memory *memory, uint32_t id, uint32_t process) noexcept nogil:
    """With the lock: a process has no views any more; 1 if `extent_empty` shall follow."""
    cdef Extent *extent = &memory.extents[id]
    cdef uint64_t bit = <uint64_t> 1 << (process & 63)
    if extent.kind != EXTENT_VALUE or not extent.held[process >> 6] & bit:
        return 0
    extent.held[process >> 6] &= ~bit
    extent.holders -= 1
    if extent.refs or extent.holders:
        return 0
    return extent_give_back(memory, id, 0)

# ---- slots that lie in extents --------------------------------------------------------------------------------------

cdef inline uint32_t *kind_of(Slot *slot, uint32_t which) noexcept nogil:
    return &slot.result_kind if which else &slot.payload_kind

cdef inline uint64_t block_of(Slot *slot, uint32_t which) noexcept nogil:
    return slot.result if which else slot.payload

cdef inline char *data_of(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    cdef uint64_t block = block_of(slot, which)
    return memory.base + block if block else <char *> slot.data

cdef inline const char *body_of(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    """The value itself, after its handles."""
    cdef const char *data = data_of(memory, slot, which)
    cdef uint64_t count
    if kind_of(slot, which)[0] & KIND_HANDLES:
        memcpy(&count, data, 8)
        data += 8 * (count + 1)
    return data

cdef uint32_t reference_count(Memory *memory, Slot *slot, uint32_t which) noexcept nogil:
    """How many references a payload or result has: one per handle in it, and one for its block if that is an extent."""
    cdef uint64_t count = 0
    if kind_of(slot, which)[0] & KIND_HANDLES:
        memcpy(&count, data_of(memory, slot, which), 8)
    if kind_of(slot, which)[0] & KIND_EXTENT:
        count += 1
    return <uint32_t> count

cdef Extent *reference_at(Memory *memory, Slot *slot, uint32_t which, uint32_t step) noexcept nogil:
    cdef uint64_t count = 0, offset = block_of(slot, which)
    if kind_of(slot, which)[0] & KIND_HANDLES:
        memcpy(&count, data_of(memory, slot, which), 8)
        if step < count:
            memcpy(&offset, data_of(memory, slot, which) + 8 + 8 * <uint64_t> step, 8)
    return &memory.extents[extent_of(memory, offset)]

cdef void count_references(Memory *memory, uint32_t step, uint32_t count) noexcept nogil:
    """With the lock: does what Header.redo says, from `step` on. What refs was is written down before each change."""
    cdef Redo *redo = &memory.header.redo
    cdef Slot *slot = &memory.slots[redo.slot]
    cdef Extent *extent
    while step < count:
        extent = reference_at(memory, slot, redo.which, step)
        ff_store64(&redo.progress, (<uint64_t> step << 32) | extent.refs)       # one store: a death leaves both or neither
        ff_store32(&extent.refs, extent.refs + 1 if redo.op == REDO_LINK else extent.refs - 1)
        step += 1

cdef void redo_begin(Memory *memory, uint32_t op, uint32_t index, uint32_t which) noexcept nogil:
    cdef Redo *redo = &memory.header.redo
    redo.slot = index
    redo.which = which
    redo.progress = reference_at(memory, &memory.slots[index], which, 0).refs
    ff_store32(&redo.op, op)

cdef void redo_end(Memory *memory) noexcept nogil:
    cdef Redo *redo = &memory.header.redo
    cdef uint32_t *kind = kind_of(&memory.slots[redo.slot], redo.which)
    ff_store32(kind, kind[0] | KIND_LINKED if redo.op == REDO_LINK else kind[0] & ~<uint32_t> KIND_LINKED)
    ff_store32(&redo.op, REDO_NOTHING)

cdef void slot_link(Memory *memory, uint32_t index, uint32_t which) noexcept nogil:
    """Makes what a slot's payload or result lies in stay for as long as the slot has it. All of it, or none, after a death."""
    cdef Slot *slot = &memory.slots[index]
    lock_take(memory)
    redo_begin(memory, REDO_LINK, index, which)
    count_references(memory, 0, reference_count(memory, slot, which))
    redo_end(memory)
    lock_give(memory)

cdef void slot_unlink(Memory *memory, uint32_t index, uint32_t which) noexcept nogil:
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t step, leaving = 0, count = reference_count(memory, slot, which)
    cdef uint32_t left[UNLINKED_AT_ONCE]
    cdef Extent *extent
    lock_take(memory)
    redo_begin(memory, REDO_UNLINK, index, which)
    count_references(memory, 0, count)
    redo_end(memory)
    for step in range(count):
        extent = reference_at(memory, slot, which, step)
        if extent.kind == EXTENT_VALUE and not extent.refs and not extent.holders:
            if extent_give_back(memory, <uint32_t> (extent - memory.extents), leaving == UNLINKED_AT_ONCE):
                left[leaving] = <uint32_t> (extent - memory.extents)
                leaving += 1
    lock_give(memory)
    for step in range(leaving):
        extent_empty(memory, left[step])

# ---- after a death --------------------------------------------------------------------------------------------------

cdef void repair(Memory *memory) noexcept nogil:
    """With the lock, which a dead process held: ends what it was doing, then makes lists and sums anew from what is true."""
    cdef Header *header = memory.header
    cdef Redo *redo = &header.redo
    cdef Slot *slot = &memory.slots[redo.slot]
    if redo.op != REDO_NOTHING:
        reference_at(memory, slot, redo.which, <uint32_t> (redo.progress >> 32)).refs = <uint32_t> redo.progress
        count_references(memory, <uint32_t> (redo.progress >> 32), reference_count(memory, slot, redo.which))
        redo_end(memory)
    memset(header.warm_extents, 0, sizeof(header.warm_extents))
    memset(header.cold_extents, 0, sizeof(header.cold_extents))
    header.live_bytes = header.cached_bytes = header.free_groups = 0
    if header.extent_high:
        header.arena_next = memory.extents[header.extent_high - 1].offset + memory.extents[header.extent_high - 1].size
    repair_extents(memory)
    repair_slot_groups(memory)

cdef void repair_extents(Memory *memory) noexcept nogil:
    cdef uint32_t id, word
    cdef Extent *extent
    for id in range(memory.header.extent_high):
        extent = &memory.extents[id]
        if extent.kind == EXTENT_VALUE:
            extent.holders = 0
            for word in range(HELD_WORDS):
                extent.holders += popcount64(extent.held[word])
        if extent.kind == EXTENT_LEAVING:       # its owner, or who buries that, puts it on a list
            continue
        if (extent.kind == EXTENT_VALUE and (extent.refs or extent.holders)) or \
                (extent.kind == EXTENT_SLAB and not ff_load64(&extent.group.used) & GROUP_CLAIMED):
            memory.header.live_bytes += extent.size
        else:
            push_free(memory, id, EXTENT_COLD if extent.kind == EXTENT_COLD else EXTENT_WARM)

cdef void repair_slot_groups(Memory *memory) noexcept nogil:
    cdef uint32_t id
    cdef Group *group
    for id in range(memory.header.group_high):
        group = &memory.groups[id].group
        if ff_load64(&group.used) & GROUP_CLAIMED:      # an empty one that is not claimed: by who buries who emptied it
            ff_store32(&group.owner, 0)
            group.next = memory.header.free_groups
            memory.header.free_groups = id + 1

cdef void bury_memory(Memory *memory, uint32_t dead) noexcept nogil:
    """What a dead process held is held no more; what it owned is nobody's, and free once it is empty."""
    cdef uint32_t id
    cdef int leaving
    cdef Extent *extent
    for id in range(ff_load32(&memory.header.extent_high)):
        extent = &memory.extents[id]
        if ff_load64(&extent.held[dead >> 6]) >> (dead & 63) & 1:
            lock_take(memory)
            leaving = clear_holder(memory, id, dead)
            lock_give(memory)
            if leaving:
                extent_empty(memory, id)
        elif ff_load32(&extent.kind) == EXTENT_LEAVING and ff_load32(&extent.group.owner) == dead + 1:
            extent_empty(memory, id)
        elif ff_load32(&extent.kind) == EXTENT_SLAB:
            orphan(memory, 0, id, dead)
    for id in range(ff_load32(&memory.header.group_high)):
        orphan(memory, SLOT_POOL, id, dead)

cdef void orphan(Memory *memory, uint32_t pool, uint32_t id, uint32_t dead) noexcept nogil:
    """A dead process's group: nobody takes from it any more, and whoever frees its last member gives it back. Of another's group
    it may have freed the last member, and then got no further."""
    cdef Group *group = group_of(memory, pool, id)
    cdef uint64_t empty = empty_group(memory, pool, id)
    cdef int leaving
    if not group.owner or (ff_load32(&group.owner) != dead + 1 and ff_load64(&group.used) & ~GROUP_CLAIMED != empty):
        return
    lock_take(memory)
    empty = empty_group(memory, pool, id)       # it may be another's by now, in use or claimed
    if group.owner == dead + 1:
        ff_store32(&group.owner, ORPHAN)
        ff_and64(&group.used, ~GROUP_CURRENT)
    ff_cas64(&group.used, empty, empty | GROUP_CLAIMED)
    leaving = claimed_to_free(memory, pool, id)
    lock_give(memory)
    if leaving:
        extent_empty(memory, id)

# ---- counting -------------------------------------------------------------------------------------------------------

cdef uint64_t used_bytes(Memory *memory) noexcept nogil:
    """Bytes of extents with values, and of blocks taken from slabs."""
    cdef uint32_t id
    cdef uint64_t count = 0, used
    cdef Extent *extent
    for id in range(ff_load32(&memory.header.extent_high)):
        extent = &memory.extents[id]
        if extent.kind == EXTENT_VALUE:
            count += extent.size
        elif extent.kind == EXTENT_SLAB:
            used = ff_load64(&extent.group.used) & GROUP_MEMBERS & ~empty_group(memory, 0, id)
            count += <uint64_t> popcount64(used) * extent.block_size
    return count
