# Groups: 62 members each, slots or a slab's blocks, with one bitmap word that says which are taken.
#
# A group belongs to one process, which alone allocates members from it: it finds a clear bit and sets it. Any process frees
# a member by clearing its bit. A group that its owner does not allocate from at the moment (no GROUP_CURRENT) and that
# becomes empty goes back to all: the process that empties it claims it by GROUP_CLAIMED. Both bits are in the bitmap word,
# so one excludes the other; as long as a group is current, no other process can have it.
#
# Guarantees: a death corrupts no list. Before a process sets the bit of a member, it names the member in its entry of the
# process table (`note_allocation`), and a member whose bit was clear then belonged to no process.
#
# Rejected: free lists in shared memory: a death between two steps corrupts them; a bitmap has no state in between.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport realloc
from .externs cimport ctz64, ff_and64, ff_cas64, ff_load32, ff_load64, ff_store32, ff_store64, popcount64
from .layout cimport (
    EXTENT_SLAB, GROUP_BITS, GROUP_CLAIMED, GROUP_CURRENT, GROUP_MEMBERS, SLOT_COUNT, SLOT_SPARE, Group, Header,
)
from .regions cimport SLOT_POOL, Memory, Pool
from .bounds cimport group_number
from .size_classes cimport size_of_class, slab_blocks
from .lookup cimport empty_group, group_of
from .locked cimport group_free_claimed
from .lock cimport lock_acquire, lock_release
from .extents cimport extent_alloc, extent_purge

cdef enum:
    #: Groups of its own that a process looks at before it asks for another.
    PROBES = 4

cdef inline int is_mine(Memory *memory, uint32_t pool, uint32_t id) noexcept nogil:
    cdef Group *group = group_of(memory, pool, id)
    if ff_load32(&group.owner) != memory.me + 1:
        return 0
    return pool == SLOT_POOL or (memory.extents[id].kind == EXTENT_SLAB and memory.listed[id] == pool + 1)

cdef inline void note_allocation(Memory *memory, uint32_t pool, uint32_t id, uint32_t bit) noexcept nogil:
    if pool == SLOT_POOL:
        ff_store64(&memory.processes[memory.me].building, <uint64_t> id * GROUP_BITS + bit + 1)
    else:
        ff_store64(&memory.processes[memory.me].taking,
                   memory.extents[id].offset + <uint64_t> bit * memory.extents[id].block_size)

cdef inline int64_t member_alloc(Memory *memory, uint32_t pool) noexcept nogil:
    """Allocate a member for this process; return id * 64 + bit, -1 when no more may be had."""
    cdef Group *group
    cdef uint64_t used, vacant
    cdef uint32_t id, bit
    while True:
        if memory.pools[pool].current:
            id = memory.pools[pool].current - 1
            group = group_of(memory, pool, id)
            while True:
                used = ff_load64(&group.used)
                vacant = ~used & GROUP_MEMBERS
                if vacant == 0:
                    break
                bit = ctz64(vacant)
                note_allocation(memory, pool, id, bit)
                # S10: pairs with the cas to CLAIMED in `group_claim`. S17: pairs with `is_calling`; `building` is named
                # before it.
                if ff_cas64(&group.used, used, used | <uint64_t> 1 << bit):
                    return <int64_t> id * 64 + bit
        if not next_group(memory, pool):
            return -1

cdef inline void member_free(Memory *memory, uint32_t pool, uint32_t id, uint32_t bit) noexcept nogil:
    group_clear(memory, pool, id, <uint64_t> 1 << (bit & 63))

cdef inline void group_clear(Memory *memory, uint32_t pool, uint32_t id, uint64_t bits) noexcept nogil:
    """Clear bits of a group, and free the group if that empties it."""
    cdef uint64_t empty = empty_group(memory, pool, id)     # before: afterwards the slab may be something else
    if ff_and64(&group_of(memory, pool, id).used, ~bits) & ~bits == empty:
        group_claim(memory, pool, id, empty)

cdef inline void group_claim(Memory *memory, uint32_t pool, uint32_t id, uint64_t empty) noexcept nogil:
    """Free an empty group, unless another process does or its owner allocates from it again."""
    # S10: pairs with the owner's cas in `member_alloc`. S9: pairs with `group_hold`; it fails while CURRENT is set.
    if ff_cas64(&group_of(memory, pool, id).used, empty, empty | GROUP_CLAIMED):
        group_free(memory, pool, id)

cdef inline void group_free(Memory *memory, uint32_t pool, uint32_t id) noexcept nogil:
    cdef int leaving
    lock_acquire(memory)
    leaving = group_free_claimed(memory, pool, id)
    lock_release(memory)
    if leaving:
        extent_purge(memory, id)

cdef inline int next_group(Memory *memory, uint32_t pool_id) noexcept nogil:
    """Make another group current: one of its own with capacity, else a new one; return 0 when there is none."""
    cdef Pool *pool = &memory.pools[pool_id]
    cdef int64_t id
    if pool.current:
        id = pool.current - 1
        pool.current = 0
        group_clear(memory, pool_id, <uint32_t> id, GROUP_CURRENT)
    if probe_groups(memory, pool_id, PROBES, 4):
        return 1
    id = group_new(memory, pool_id)
    if id < 0:
        return probe_groups(memory, pool_id, pool.count, GROUP_BITS)
    pool.current = <uint32_t> id + 1
    return pool_list(memory, pool_id, <uint32_t> id)

cdef inline int probe_groups(Memory *memory, uint32_t pool_id, uint32_t most, uint32_t share) noexcept nogil:
    """Search up to `most` of its own groups for one of which at least 1/`share` is free."""
    cdef Pool *pool = &memory.pools[pool_id]
    cdef Group *group
    cdef uint64_t used
    cdef uint32_t id, looked = 0, room
    while looked < most and pool.count:
        looked += 1
        pool.at = (pool.at + 1) % pool.count
        id = pool.ids[pool.at]
        if not is_mine(memory, pool_id, id):
            pool_unlist(memory, pool_id, pool.at)
            continue
        group = group_of(memory, pool_id, id)
        used = ff_load64(&group.used)
        room = popcount64(~used & GROUP_MEMBERS)
        if used >= GROUP_CURRENT or room * share < popcount64(GROUP_MEMBERS & ~empty_group(memory, pool_id, id)):
            continue
        if group_hold(memory, pool_id, id, used):
            pool.current = id + 1
            return 1
    return 0

cdef inline int group_hold(Memory *memory, uint32_t pool_id, uint32_t id, uint64_t used) noexcept nogil:
    """Make a group current; return 0 when it is, or has just become, another process's."""
    # S9: pairs with `group_claim`: CURRENT first, then the look at the owner.
    if not ff_cas64(&group_of(memory, pool_id, id).used, used, used | GROUP_CURRENT):
        return 0
    if is_mine(memory, pool_id, id):    # from here on it stays so
        return 1
    group_clear(memory, pool_id, id, GROUP_CURRENT)
    return 0

cdef inline int pool_list(Memory *memory, uint32_t pool_id, uint32_t id) noexcept nogil:
    cdef Pool *pool = &memory.pools[pool_id]
    cdef uint8_t *listed = memory.slots_listed if pool_id == SLOT_POOL else memory.listed
    cdef uint32_t *larger
    cdef uint32_t room
    if listed[id] == pool_id + 1:
        return 1
    if pool.count == pool.capacity:
        room = 2 * pool.capacity if pool.capacity else 64
        larger = <uint32_t *> realloc(pool.ids, room * sizeof(uint32_t))
        if larger == NULL:
            return 1                            # in use all the same, and freed when it is empty
        pool.ids = larger
        pool.capacity = room
    pool.ids[pool.count] = id
    pool.count += 1
    listed[id] = pool_id + 1
    return 1

cdef inline void pool_unlist(Memory *memory, uint32_t pool_id, uint32_t at) noexcept nogil:
    cdef Pool *pool = &memory.pools[pool_id]
    cdef uint8_t *listed = memory.slots_listed if pool_id == SLOT_POOL else memory.listed
    if listed[pool.ids[at]] == pool_id + 1:
        listed[pool.ids[at]] = 0
    pool.count -= 1
    pool.ids[at] = pool.ids[pool.count]

cdef inline int64_t group_new(Memory *memory, uint32_t pool_id) noexcept nogil:
    """Allocate a group for this process and make it current; return -1 when there is none."""
    if pool_id == SLOT_POOL:
        return slot_group_new(memory)
    return slab_new(memory, <uint32_t> size_of_class(pool_id))

cdef inline int64_t slot_group_new(Memory *memory) noexcept nogil:
    cdef Header *header = memory.header
    cdef int64_t id = -1
    cdef Group *group
    lock_acquire(memory)
    if header.free_groups:
        id = group_number(memory, header.free_groups - 1)
    elif header.group_high < (SLOT_COUNT - SLOT_SPARE) // GROUP_BITS:
        id = header.group_high
    if id >= 0:
        group = &memory.groups[id].group
        ff_store32(&group.owner, memory.me + 1)     # before: until then it is on the list of free ones, claimed
        ff_store64(&group.used, GROUP_CURRENT)
        if header.free_groups:
            ff_store32(&header.free_groups, group.next)
        else:
            ff_store32(&header.group_high, <uint32_t> id + 1)
    lock_release(memory)
    return id

cdef inline int64_t slab_new(Memory *memory, uint32_t block_size) noexcept nogil:
    return extent_alloc(memory, <uint64_t> block_size * slab_blocks(block_size), EXTENT_SLAB, block_size, 0)
