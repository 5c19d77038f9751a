# Addresses of the segment's regions in this process, and what a process keeps for itself about them.
#
# Guarantees: nothing here is shared but what the pointers lead to. Each process has a `Memory` of its own.

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from .externs cimport ff_lock_kind
from .layout cimport (
    EXTENT_COUNT, GRANULE, GROUP_COUNT, LOG_COUNT, PAGE, PROCESS_COUNT, QUEUE_COUNT, SERVICE_COUNT, SLAB_CLASSES,
    SLOT_COUNT, Extent, Header, Policy, Process, RunQueue, Service, Slot, SlotGroup,
)

cdef enum:
    #: Bytes before the arena that stand for every block outside of it, and behind its last block: see bounds.pxd.
    TRAP_BYTES = 1 << 16

cdef struct Pool:               # groups that this process allocates members from
    uint32_t *ids
    uint32_t count
    uint32_t capacity
    uint32_t at                 # position where the last search ended
    uint32_t current            # the group in use, + 1

cdef struct Spin:               # how spinning for one purpose has gone lately
    uint32_t failures           # in a row

cdef enum:
    #: Memory.pools: one per size class of blocks, then that of slots.
    SLOT_POOL = SLAB_CLASSES
    POOL_COUNT = SLAB_CLASSES + 1

    WALK_COUNT = 16

cdef struct Walk:
    uint32_t slot
    uint64_t generation         # of the slot
    uint64_t edge               # where a walk of its waiter list ended

cdef struct Memory:
    char *base
    Header *header
    Process *processes
    Service *services
    RunQueue *queues
    Slot *slots
    Policy *policies            # one per slot; a page costs memory once a call has a policy
    SlotGroup *groups
    uint64_t *logs
    Extent *extents
    uint32_t *granules          # per granule: extent + 1 that covers it
    uint64_t *rings
    # not shared:
    uint32_t me                 # this process's index
    int doorbell
    uint32_t *local             # per extent: how many views of it this process has
    void **viewed               # per extent: the view in this process's window, see views.pxi
    uint8_t *listed             # per extent: pool + 1 on whose list it is
    uint8_t *slots_listed       # per group of slots: whether it is on the list
    int fd                      # of the segment, unless a task has closed it
    uint64_t size               # of the mapping
    uint64_t arena              # offset of the arena
    int damaged                 # what was read in the segment cannot be true: see bounds.pxd
    int lock_broken             # the same of the lock
    uint32_t lock_kind          # what the lock says of itself
    Pool pools[POOL_COUNT]
    Walk walks[WALK_COUNT]      # by slot, its lowest bits: see `is_wanted`
    Spin for_outcomes
    Spin for_tasks

cdef inline uint64_t align_up(uint64_t value, uint64_t to) noexcept nogil:
    return (value + to - 1) & ~(to - 1)

cdef inline uint64_t map_memory(char *base, uint64_t size, Memory *memory) noexcept nogil:
    """Point `memory` at the regions of the segment at `base`; return the arena's first offset."""
    cdef uint64_t at = align_up(sizeof(Header), PAGE)
    memory.base = base
    memory.size = size
    memory.damaged = memory.lock_broken = 0
    memory.header = <Header *> base
    memory.processes = <Process *> (base + at)
    at = align_up(at + <uint64_t> PROCESS_COUNT * sizeof(Process), PAGE)
    memory.services = <Service *> (base + at)
    at = align_up(at + <uint64_t> SERVICE_COUNT * sizeof(Service), PAGE)
    memory.queues = <RunQueue *> (base + at)
    at = align_up(at + <uint64_t> QUEUE_COUNT * sizeof(RunQueue), PAGE)
    memory.slots = <Slot *> (base + at)
    at = align_up(at + <uint64_t> SLOT_COUNT * sizeof(Slot), PAGE)
    memory.policies = <Policy *> (base + at)
    at = align_up(at + <uint64_t> SLOT_COUNT * sizeof(Policy), PAGE)
    memory.groups = <SlotGroup *> (base + at)
    at = align_up(at + <uint64_t> GROUP_COUNT * sizeof(SlotGroup), PAGE)
    memory.logs = <uint64_t *> (base + at)
    at = align_up(at + <uint64_t> PROCESS_COUNT * LOG_COUNT * sizeof(uint64_t), PAGE)
    memory.extents = <Extent *> (base + at)
    at = align_up(at + <uint64_t> EXTENT_COUNT * sizeof(Extent), PAGE)
    memory.granules = <uint32_t *> (base + at)
    at = align_up(at + size // GRANULE * sizeof(uint32_t), PAGE)
    memory.rings = <uint64_t *> (base + at)
    memory.arena = align_up(at + <uint64_t> QUEUE_COUNT * SLOT_COUNT * sizeof(uint64_t) + TRAP_BYTES, GRANULE)
    return memory.arena

cdef inline int memory_own(Memory *memory, uint32_t me, int doorbell) noexcept nogil:
    """Make afresh what process `me` keeps for itself; return 0 when there is no memory for it.

    Afresh, because a forked child must not go on with its parent's.
    """
    memory_disown(memory)
    memory.me = me
    memory.doorbell = doorbell
    memory.lock_kind = ff_lock_kind(memory.header.lock)
    # One allocation for all four: a page costs memory only where it is touched.
    memory.viewed = <void **> calloc(EXTENT_COUNT * (sizeof(void *) + sizeof(uint32_t) + 1) + GROUP_COUNT, 1)
    if memory.viewed == NULL:
        return 0
    memory.local = <uint32_t *> (memory.viewed + EXTENT_COUNT)
    memory.listed = <uint8_t *> (memory.local + EXTENT_COUNT)
    memory.slots_listed = memory.listed + EXTENT_COUNT
    return 1

cdef inline void memory_disown(Memory *memory) noexcept nogil:
    cdef int i
    free(memory.viewed)             # and the other three: one allocation
    for i in range(POOL_COUNT):
        free(memory.pools[i].ids)
    memset(memory.pools, 0, sizeof(memory.pools))
