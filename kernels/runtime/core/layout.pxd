# The segment's layout: every word that two processes share, who writes it and how.
#
# One anonymous memfd, mapped whole by the driver, the zygote and the workers. It is reserved large and sparse: a page costs
# memory only once it is touched. Inside it there are offsets from its start, never addresses.
#
#   header | processes | services | queues | slots | slot groups | logs | extents | granules | one ring per queue | arena (to the end)
#
# Words marked [cas] change in one atomic step; [owner] have one writer at a time, named there; [lock] change only under
# the lock (lock.pxi), and are put right after its holder's death (extents.pxi).

from libc.stdint cimport uint32_t, uint64_t, uint8_t

cdef enum:
    MAGIC = 0x464C4D47          # "FLMG"
    CACHE_LINE = 64
    PAGE = 4096
    INLINE_BYTES = 144          # room for a small value inside its slot
    SLOT_BITS = 20
    SLOT_COUNT = 1 << 20        # unfinished calls and values held, all together
    SLOT_SPARE = 4096           # a ring must never fill up with slots that all wait
    RING_MASK = SLOT_COUNT - 1
    POOL_QUEUES = 256            # queues the pool's workers look at; queue 0 is open to all of them
    QUEUE_COUNT = 4096           # above POOL_QUEUES: one instance's process each
    PROCESS_COUNT = 2048
    SERVICE_COUNT = 65536
    PERMIT_COUNT = 240            # workers that may serve one limited queue at the same time
    LOG_COUNT = 4096            # finished slots that a waiting process may be behind in reading
    NO_METHOD = 0xFFFFFFFF
    NO_SERVICE = 0xFFFFFFFF     # of a slot that is no call's
    NO_DEPENDENCY = 0xFFFFFFFF
    RELEASE_BITS = 21            # of Slot.releaser: a drop's number; the rest is the process

# Memory: a block of up to SHARED_BYTES is one of a slab's, copied in and out; from there on it is an extent of its own, which
# processes map in place.
cdef enum:
    SHARED_BYTES = 1 << 15
    GROUP_BITS = 62             # members of a group: slots, or blocks of a slab; two more bits: GROUP_CURRENT, GROUP_CLAIMED
    GROUP_COUNT = SLOT_COUNT // GROUP_BITS
    GRANULE = 1 << 14           # extents begin and end at multiples of it
    EXTENT_COUNT = 1 << 20
    EXTENT_CLASSES = 112        # sizes of extents: four steps per doubling
    SLAB_CLASSES = 33           # sizes of blocks in slabs: likewise, from 128 bytes to SHARED_BYTES
    HELD_WORDS = PROCESS_COUNT // 64
    CGROUP_BYTES = 4096
    LOCK_WORDS = 6              # as large as a mutex of any platform

# A slot's status: the low 4 bits of its state word; then 12 bits of owner (a process index), then 48 of generation.
cdef enum:
    FREE = 0
    WAITING = 1                 # some input is missing
    READY = 2                   # any worker of its queue may claim it
    RUNNING = 3                 # its owner has claimed it, executes it, or writes its outcome
    DONE = 4
    FAILED = 5
    LEAVING = 6                 # nobody holds it any more: its owner gives it back

# Bits of Slot.holds. The slot is freed by whoever clears the last of them.
cdef enum:
    REF_CREATOR = 0x80000000   # a future in the creating process
    REF_RUN = 0x40000000       # not finished yet
    REF_EDGES = 0x20000000     # still stands on some input's waiter list
    REF_PENDING = 0x10000000   # its creator is just adding a task to the count, and has not written down that it did
    REF_RECOVERY = 0x08000000    # the zygote, while it settles what a dead process left
    REF_COUNT = 0x07FFFFFF     # unfinished tasks that have it as an input

cdef enum:
    WAITERS_CLOSED = 1          # Slot.waiters: finished, no edge may be pushed any more

# How a payload or a result is written.
cdef enum:
    KIND_NATIVE = 1
    KIND_PICKLE = 2
    KIND_STATE = 4              # of a call: its pickle carries the function's state too
    KIND_MAP = 8                # of a call: one positional argument, items for one execution each
    KIND_HANDLES = 16           # begins with u64 count, then the offset of each extent that the value lies in
    KIND_LINKED = 32            # those extents, and the block itself if it is one, count this value as a reference
    KIND_EXTENT = 64            # its block is an extent: what has been given back may be somebody's slab

cdef enum:                      # which half of a slot
    PAYLOAD = 0
    RESULT = 1

cdef enum:
    DRIVER_INDEX = 0
    ZYGOTE_INDEX = 1
    ORPHAN = 0xFFFFFFFF         # Group.owner: it has died

cdef enum:
    ROLE_DRIVER = 1
    ROLE_ZYGOTE = 2
    ROLE_POOL = 3
    ROLE_INSTANCE = 4

# An entry of the three tables that follow is RESERVED while a process fills it in or empties it: one of these, from the process's
# own on.
cdef enum:
    RESERVED = 1 << 8

cdef enum:
    PROCESS_FREE = 0
    PROCESS_REQUESTED = 2       # the zygote shall fork it
    PROCESS_LIVE = 3
    PROCESS_STARTING = 4        # the zygote forks it; it has not come yet

cdef enum:
    QUEUE_FREE = 0
    QUEUE_OPEN = 1
    QUEUE_CLOSING = 2            # no new calls; an instance's process ends once the queue is empty
    QUEUE_DEAD = 3               # its instance is lost: calls fail with the queue's error

cdef enum:
    SERVICE_FREE = 0
    SERVICE_OPEN = 2
    SERVICE_CLOSING = 3         # freed once no unfinished task names it

cdef enum:
    EXTENT_COLD = 0             # free, its pages have gone back to the system (or were never touched)
    EXTENT_WARM = 1             # free, its pages are kept for the next one
    EXTENT_LEAVING = 2          # `owner` gives its pages back
    EXTENT_VALUE = 3            # a value or part of one: free when `refs` and `holders` are 0
    EXTENT_SLAB = 4             # cut into blocks of `block_size`: free when its group is empty and nobody's current one

# What the holder of the lock is in the middle of, for whoever repairs after its death.
cdef enum:
    REDO_NOTHING = 0
    REDO_LINK = 1
    REDO_UNLINK = 2

cdef struct Redo:               # [lock]
    uint64_t progress           # step:32 that may be half done | Extent.refs:32 before it
    uint32_t op
    uint32_t slot
    uint32_t which              # PAYLOAD or RESULT
    uint32_t pad

# 62 members of which each is taken or free. Only the owner sets their bits, anybody clears them.
cdef struct Group:
    uint64_t used               # [cas] bit i: member i is taken; GROUP_CURRENT: its owner takes from it now, so it stays even
                                # when empty; GROUP_CLAIMED: somebody is giving the empty group back
    uint32_t owner              # [lock] process + 1 that takes from it, 0: nobody
    uint32_t next               # [lock] next free group, + 1 (of an extent: next free one of its class)

cdef struct SlotGroup:
    Group group
    uint8_t pad[40]

cdef struct Extent:
    Group group                 # of a slab
    uint64_t offset             # fixed when it is carved, as is `size`
    uint64_t size
    uint32_t kind               # [lock] EXTENT_*
    uint32_t block_size         # of a slab
    uint32_t refs               # [lock] payloads and results that lie in it
    uint32_t holders            # [lock] bits set in `held`
    uint32_t sealed             # its bytes never change any more
    uint32_t was_warm           # somebody has written to it before
    uint64_t held[HELD_WORDS]   # [lock] bit per process that maps it: views there pin it

cdef struct Header:
    uint32_t magic              # this and `layout` keep their places in every version: see dump.pxi
    uint32_t cpus
    uint32_t workers            # pool workers wanted, blocked ones not counted
    uint32_t closing            # [owner: driver] 1: everybody leaves
    uint64_t size
    uint64_t limit              # bytes of extents in use allowed
    uint64_t session            # random: tells this segment from another runner's
    uint64_t setup              # [owner: driver] block that tells workers about the project, 0 until known
    uint64_t setup_bytes
    uint32_t arrays_read_only   # [owner: driver, before anybody attaches] 1: arrays arrive with WRITEABLE cleared
    uint32_t layout             # FF_LAYOUT of whoever made it
    uint64_t lock[LOCK_WORDS]   # the lock: see lock.pxi
    uint32_t lock_holder        # [lock] process + 1: for those who look only
    uint32_t group_high         # [lock] groups of slots ever used
    uint32_t free_groups        # [lock] stack of free ones: index + 1
    uint32_t extent_high        # [lock] extents ever carved
    Redo redo
    uint64_t arena_next         # [lock] first byte never carved yet
    uint64_t live_bytes         # [lock] of extents in use
    uint64_t cached_bytes       # [lock] of warm free ones
    uint64_t cache_limit        # of which more are not kept
    uint64_t peak_bytes         # [lock]
    uint64_t checked_bytes      # [lock] up to so many in use or kept, memory was looked for
    uint64_t takes              # [lock] extents taken so far: tells the zygote whether anything happens
    uint8_t pad2[48]
    uint32_t service_high       # [cas]
    uint32_t process_high       # [cas]
    uint32_t pool_queue_high     # [cas]
    uint32_t warm_left          # [cas] services that some idle worker shall load ahead
    uint32_t spinners           # [cas] processes that spin now, at most cpus - 1
    uint32_t preload            # [cas] libraries that services need: bits of engine/preloading.py
    uint32_t warned             # [cas] some worker has told that imports seed a global generator
    uint8_t pad3[36]
    uint32_t pool_wake          # futex of idle pool workers
    uint32_t pool_sleepers      # [cas, with `pool_wake` as one word] of them asleep and not yet called, or more
    uint8_t pad4[56]
    uint64_t sought_ns          # [owner: the seeker] when it looked last
    uint32_t seeker             # [cas] pool worker + 1 that looks for tasks while others sleep
    uint8_t pad5[52]
    uint64_t blocks_taken       # [cas] these four: debug build only
    uint64_t blocks_freed
    uint64_t slots_taken
    uint64_t slots_freed
    uint64_t copied_bytes       # [owner: zygote] of processes that have ended; see Process
    uint64_t shared_bytes
    uint64_t definitions
    uint64_t definition_bytes
    uint32_t warm_extents[EXTENT_CLASSES]       # [lock] stacks of free ones, index + 1
    uint32_t cold_extents[EXTENT_CLASSES]
    char cgroups[CGROUP_BYTES]  # [owner: driver, before anybody attaches] limit, usage and stat file, ..., each ended by 0

cdef struct Process:
    uint32_t state              # [cas, with `pid` as one word]
    uint32_t pid                # while it is STARTING: `starts`, by which the process that was forked knows that it is meant
    uint32_t role
    uint32_t queue               # an instance's queue
    uint32_t blocked            # [owner: itself] its task waits for other tasks: a worker is added beside it
    uint32_t spinning           # [cas] spinner's tokens that its threads hold
    uint32_t sleeping           # [owner: itself] it has counted itself among the sleepers: for those who look only
    uint32_t retiring           # it leaves of its own accord
    uint64_t current            # [owner: itself] slot it runs, + 1
    uint64_t building           # [owner: itself] slot it is taking or filling, + 1
    uint64_t taking             # [owner: itself] block it is taking and has not put anywhere yet
    uint64_t promoting          # [owner: itself] slot it is about to queue, + 1
    uint64_t rotating           # [owner: itself] slot whose entry it is moving to the queue's end, + 1
    uint64_t release_seq             # [owner: itself] its drops so far, those of the entry's former processes too
    uint64_t acked_release              # [cas] the last of them that somebody knows to be done
    uint64_t releasing_edge        # [owner: itself] offset of the edge whose hold it is giving back; 0: none
    uint64_t releasing_slot        # [owner: itself] slot that the edge named
    uint64_t copied_bytes       # [owner: itself] copied into shared memory or out of it: values beyond a slot's own room
    uint64_t shared_bytes       # [owner: itself] passed on or read where they lie
    uint32_t preloaded          # [owner: zygote] of Header.preload, what it had when it was forked
    uint32_t stateful           # [owner: itself] it holds a class service's object
    uint32_t wake               # futex of its threads that wait for futures
    uint32_t waiters            # [cas] of them asleep
    uint32_t watching           # [cas] threads that want to know of every failure
    uint32_t starts             # [owner: zygote] how often a process was forked for this entry
    uint64_t log_tail           # [cas] slots finished that it watched
    uint64_t definitions        # [owner: itself] bodies of definitions that it wrote
    uint64_t definition_bytes
    uint64_t started_at               # [owner: itself] when it started, as /proc tells it: with `pid` it is nobody else's; 0: not told yet
    uint8_t pad1[16]

cdef struct Service:
    uint32_t state              # [cas]
    uint32_t queue
    uint32_t creator
    uint32_t warm_left          # [cas] workers that shall still load it ahead
    uint64_t generation         # [owner: creator] tells a reused entry from its predecessor
    uint64_t blob               # what a worker needs to load it
    uint64_t blob_bytes
    uint8_t pad[24]

cdef struct RunQueue:
    uint64_t tail               # [cas] next position to write
    uint8_t pad0[56]
    uint64_t head               # [cas] next position to read
    uint8_t pad1[56]
    uint32_t state              # [cas]
    uint32_t ordered            # one consumer, strictly first in, first out
    uint32_t limit              # permits; 0: as many as there are workers
    uint32_t sticky             # a worker keeps its permit between calls
    uint32_t wake               # futex of an instance's idle process
    uint32_t sleepers           # [cas, with `wake` as one word]
    uint32_t process            # [cas] an instance's process, + 1
    uint32_t pad2
    uint64_t error              # [owner: zygote] block with the error of a dead queue
    uint64_t error_bytes
    uint8_t pad3[16]
    uint32_t permits[PERMIT_COUNT]  # [cas] process index + 1

cdef struct Slot:
    uint64_t state              # [cas] generation:48 | owner:12 | status:4
    uint64_t waiters            # [cas] stack of DependencyEdge offsets, or WAITERS_CLOSED
    uint32_t refs              # [cas] HOLD_*
    uint32_t releaser              # [cas, with `refs` as one word] the last drop, see `releaser_tag`; stays when the slot is freed
    uint32_t service
    uint32_t queue
    uint64_t payload            # block of the call's arguments, 0: inline
    uint64_t payload_bytes
    uint64_t result             # block of the outcome, 0: inline
    uint64_t result_bytes
    uint32_t payload_kind       # 0: none (any more)
    uint32_t result_kind        # 0: none yet
    uint32_t method
    uint32_t watched            # a thread of the creator waits for it: tell when it is finished
    uint64_t dependencies             # block of an Dependencies, 0: none
    uint64_t waits_for          # [owner: its runner] what the task waits for: see waiting.pxi
    uint64_t queue_tail          # the queue's tail when the call was made: no entry before it can be this call's
    uint32_t started            # [owner: its runner] its execution has begun: it must not begin again
    uint32_t creator            # process that made it
    uint8_t data[INLINE_BYTES]

# One input of a task, on the waiter list of that input's slot.
cdef struct DependencyEdge:
    uint64_t next               # [owner: pusher until pushed] offset of the next DependencyEdge on the list, 0: end
    uint32_t task               # slot that waits
    uint32_t bit                # which of its inputs this is
    uint32_t dependency              # [cas] slot waited for; NO_DEPENDENCY once the task's hold on it is given back
    uint32_t pad

# Block of a task with inputs: this header, `count` edges, then a tree of bits. Bit i of level 0 is set while input i is
# missing (bit `count` is the submitter's own); bit j of a higher level while word j below it is not cleared. A word has
# WORD_BITS of them. Whoever clears its last bit leaves a mark there in the same step, and alone clears the bit above, or, at the
# one word of the top, makes the task ready: after its death it is known whose that was to do.
cdef enum:
    WORD_BITS = 48
    CLEARED_SHIFT = 63
    LAST_SHIFT = 48

cdef struct Dependencies:
    uint32_t count
    uint32_t levels
    uint32_t submitter_died           # [owner: zygote] its submitter died before it stood on all of its inputs' lists
    uint32_t pad
    uint64_t level_at[4]        # byte offset of each level inside the block

cdef extern from *:
    """
    #define GROUP_CLAIMED (UINT64_C(1) << 63)
    #define GROUP_CURRENT (UINT64_C(1) << 62)
    #define GROUP_MEMBERS (GROUP_CURRENT - 1)
    """
    const uint64_t GROUP_CLAIMED, GROUP_CURRENT, GROUP_MEMBERS

# What a task waits for, told in Slot.waits_for: 0 nothing, slot + 1 one future, or WAITS_FOR_ANY with the offset of a block
# (u64 count, u64 slots) of which any one is enough.
cdef extern from *:
    """
    #define WAITS_FOR_ANY (UINT64_C(1) << 63)
    """
    const uint64_t WAITS_FOR_ANY

cdef enum:
    OWNER_SHIFT = 4
    GENERATION_SHIFT = 16
