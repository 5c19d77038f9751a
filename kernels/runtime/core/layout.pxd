# The layout of the segment: every word that processes share, which process writes it, and how.
#
# The segment is one anonymous memfd, which the driver, the supervisor (zygote) and the workers map whole. It is large and
# sparse: a page costs memory only once it is touched. Words inside it are offsets from its start, never addresses.
#
#   header | processes | services | queues | slots | policies | slot groups | logs | extents | granules | one ring per queue
#   | arena (to the end)
#
# Guarantees: a word marked [cas] changes in one atomic step; one marked [owner] has one writer at a time, named there; one
# marked [lock] changes only under the lock (lock.pxd), and `repair` (repair.pxd) restores it after a death of the lock's
# holder. A word of a process marked [counter] has the entry's process for its writer, and goes on from what the entry's
# former processes counted: nothing resets it or adds it up elsewhere, so the sum over all entries is right whatever dies.
# Assumes: PROTOCOL.md says in which order words change. `setup.py` hashes this file, so a process of another build is
# refused.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

cdef enum:
    #: "FLMG".
    MAGIC = 0x464C4D47
    CACHE_LINE = 64
    PAGE = 4096
    #: Capacity of a slot for a small value inside it.
    INLINE_BYTES = 144
    SLOT_BITS = 20
    #: Unfinished calls and values with references, all together.
    SLOT_COUNT = 1 << 20
    #: Slots never used: slots that all wait must never fill a ring.
    SLOT_SPARE = 4096
    RING_MASK = SLOT_COUNT - 1
    #: Queues that the pool's workers look at; queue 0 is open to all of them.
    POOL_QUEUES = 256
    #: From POOL_QUEUES on: one instance's process each.
    QUEUE_COUNT = 4096
    PROCESS_COUNT = 2048
    SERVICE_COUNT = 65536
    #: Workers that may serve one limited queue at the same time.
    PERMIT_COUNT = 240
    #: Finished slots by which a waiting process may be behind in reading its log.
    LOG_COUNT = 4096
    NO_METHOD = 0xFFFFFFFF
    #: Of a slot that is no call's.
    NO_SERVICE = 0xFFFFFFFF
    NO_DEPENDENCY = 0xFFFFFFFF
    #: Bits of Slot.releaser for the number of a release; the other bits are the process.
    RELEASE_BITS = 21

# Memory: a block of up to SHARED_BYTES is one of a slab's and is copied in and out. A larger block is an extent of its own,
# which processes map in place.
cdef enum:
    SHARED_BYTES = 1 << 15
    #: Members of a group (slots, or blocks of a slab); two more bits: GROUP_CURRENT, GROUP_CLAIMED.
    GROUP_BITS = 62
    GROUP_COUNT = SLOT_COUNT // GROUP_BITS
    #: Extents begin and end at multiples of it.
    GRANULE = 1 << 14
    EXTENT_COUNT = 1 << 20
    #: Size classes of extents: four per doubling.
    EXTENT_CLASSES = 112
    #: Size classes of blocks in slabs: four per doubling, from 128 bytes to SHARED_BYTES.
    SLAB_CLASSES = 33
    HELD_WORDS = PROCESS_COUNT // 64
    CGROUP_BYTES = 1 << 14
    #: As large as a mutex of any platform.
    LOCK_WORDS = 6

# Status of a slot: the low 4 bits of its state word. Then come 12 bits of owner (a process index) and 48 bits of generation.
cdef enum:
    FREE = 0
    #: Some dependency is missing.
    WAITING = 1
    #: Any worker of its queue may claim it.
    READY = 2
    #: Its owner has claimed it, executes it, or writes its outcome.
    RUNNING = 3
    #: The supervisor ends its owner by force, because of this task: its owner cannot finish it any more.
    ENDING = 4
    DONE = 5
    FAILED = 6
    #: It has no reference any more: its owner frees it.
    LEAVING = 7

# Reference count of a slot: bits of Slot.refs. The process that clears the last of them frees the slot.
cdef enum:
    #: A future in the creating process.
    REF_CREATOR = 0x80000000
    #: Not finished yet.
    REF_RUN = 0x40000000
    #: Still subscribed to some dependency: an edge of it stands on that waiter list.
    REF_EDGES = 0x20000000
    #: Its creator is adding a dependent to the count, and has not recorded yet that it did.
    REF_PENDING = 0x10000000
    #: The supervisor, while it recovers what a dead process left.
    REF_RECOVERY = 0x08000000
    #: Dependents: unfinished tasks that have it as a dependency.
    REF_COUNT = 0x07FFFFFF

cdef enum:
    #: Slot.waiters: the slot is finished, no edge may be pushed any more.
    WAITERS_CLOSED = 1

# Kind of a payload or a result: how it is written.
cdef enum:
    KIND_NATIVE = 1
    KIND_PICKLE = 2
    #: Of a call: its pickle carries the function's state too.
    KIND_STATE = 4
    #: Of a call: one positional argument, items for one execution each.
    KIND_MAP = 8
    #: It begins with a u64 count, then the offset of each extent that contains the value.
    KIND_HANDLES = 16
    #: Those extents, and the block itself if it is one, count this value as a reference.
    KIND_LINKED = 32
    #: Its block is an extent. The bit tells so even after the block was freed and became another value's slab.
    KIND_EXTENT = 64
    #: Of a result: a tuple of what the call printed and its value.
    KIND_CAPTURED = 128
    #: Of a call: an int64 stands before it, its number among its service's calls; of a map's chunk, that of its first item.
    KIND_NUMBERED = 256

cdef enum:
    #: Second argument of a chunk of `map`, if it is not 0: each item is a tuple of arguments.
    MAP_STAR = 1
    #: A failure is an outcome, and the next item follows.
    MAP_ALL = 2

cdef enum:
    #: Slot.flags: the call runs although nobody wants its outcome.
    CALL_DETACHED = 1
    #: The entry of the table of policies is this call's.
    CALL_POLICY = 2
    #: It has a time-out or a deadline. It shares its process with no other call: neither runs in the other's wait.
    CALL_LIMITED = 4
    #: It may be tried again: its payload is a block of its own, and stays until the outcome is published.
    CALL_KEPT = 8
    #: Its creator wants it ended by force.
    CALL_UNWANTED = 16
    #: What it prints goes with its outcome.
    CALL_CAPTURED = 32

cdef enum:
    #: Policy.retry_on: after a death of its process, after a time-out, after the errors whose types are its last dependency.
    RETRY_DEATH = 1
    RETRY_TIMEOUT = 2
    RETRY_ERRORS = 4

# Which half of a slot.
cdef enum:
    PAYLOAD = 0
    RESULT = 1

cdef enum:
    DRIVER_INDEX = 0
    ZYGOTE_INDEX = 1
    #: Group.owner: the owner has died.
    ORPHAN = 0xFFFFFFFF

cdef enum:
    ROLE_DRIVER = 1
    ROLE_ZYGOTE = 2
    ROLE_POOL = 3
    ROLE_INSTANCE = 4
    #: Has loaded what it may need, and takes the place of a worker that dies.
    ROLE_SPARE = 5

cdef enum:
    #: A spare loads something: it might never come back from that.
    STANDING_NOT = 0
    STANDING_BY = 1
    #: The supervisor gives it a place.
    STANDING_CALLED = 2

cdef enum:
    #: Of an entry of the next three tables while a process fills it in or empties it: RESERVED + the index of that process.
    RESERVED = 1 << 8

cdef enum:
    #: Of Header.preload: this bit and those above are of libraries whose import takes long.
    PRELOAD_HEAVY = 16

cdef enum:
    PROCESS_FREE = 0
    #: The supervisor shall fork it.
    PROCESS_REQUESTED = 2
    PROCESS_LIVE = 3
    #: The supervisor forks it; the child has not claimed the entry yet.
    PROCESS_STARTING = 4

cdef enum:
    CLOSING = 1
    #: The supervisor alone is left.
    EMPTY = 2

cdef enum:
    QUEUE_FREE = 0
    QUEUE_OPEN = 1
    #: No new calls; an instance's process ends once the queue is empty.
    QUEUE_CLOSING = 2
    #: Its instance is lost: calls fail with the queue's error.
    QUEUE_DEAD = 3

cdef enum:
    SERVICE_FREE = 0
    SERVICE_OPEN = 2
    #: Freed once no unfinished task names it.
    SERVICE_CLOSING = 3

cdef enum:
    #: Free; its pages have gone back to the system, or were never touched.
    EXTENT_COLD = 0
    #: Free; its pages are kept for the next allocation.
    EXTENT_WARM = 1
    #: Its `owner` gives its pages back.
    EXTENT_LEAVING = 2
    #: A value or part of one: free when `refs` and `holders` are 0.
    EXTENT_VALUE = 3
    #: Cut into blocks of `block_size`: free when its group is empty and not current.
    EXTENT_SLAB = 4

# Redo record: what the holder of the lock is changing, for the process that repairs after its death.
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

# 62 members, each taken or free. Only the owner sets their bits, any process clears them.
cdef struct Group:
    uint64_t used               # [cas] bit i: member i is taken; GROUP_CURRENT: its owner allocates from it now, so it stays
                                # even when empty; GROUP_CLAIMED: some process is freeing the empty group
    uint32_t owner              # [lock] process + 1 that allocates from it, 0: none
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
    uint32_t refs               # [lock] payloads and results that it contains
    uint32_t holders            # [lock] bits set in `held`
    uint32_t sealed             # immutable: its bytes never change any more
    uint32_t was_warm           # some process has written to it before
    uint64_t held[HELD_WORDS]   # [lock] bit per process that maps it: views there pin it

cdef struct Header:
    uint32_t magic              # this and `layout` keep their places in every version: see dump.pxi
    uint32_t cpus
    uint32_t workers            # pool workers wanted, blocked ones not counted
    uint32_t closing            # [owner: driver, then supervisor] CLOSING: every process leaves; EMPTY: all workers have
    uint64_t size
    uint64_t limit              # bytes of extents in use allowed
    uint64_t session            # random: tells this segment from another runner's
    uint64_t setup              # [owner: driver] block that tells workers about the project, 0 until known
    uint64_t setup_bytes
    uint32_t arrays_read_only   # [owner: driver, before any process attaches] 1: arrays arrive with WRITEABLE cleared
    uint32_t layout             # FF_LAYOUT of the build that made it
    uint64_t lock[LOCK_WORDS]   # the lock: see lock.pxd
    uint32_t lock_holder        # [lock] process + 1: only for readers without the lock
    uint32_t group_high         # [lock] groups of slots ever used
    uint32_t free_groups        # [lock] stack of free ones: index + 1
    uint32_t extent_high        # [lock] extents ever carved
    Redo redo
    uint64_t arena_next         # [lock] first byte never carved yet
    uint64_t live_bytes         # [lock] of extents in use
    uint64_t cached_bytes       # [lock] of warm free ones
    uint64_t cache_limit        # upper bound of `cached_bytes`
    uint64_t peak_bytes         # [lock]
    uint64_t checked_bytes      # [lock] bytes in use or cached up to which the system's free memory has been checked
    uint64_t takes              # [lock] extents allocated so far: tells the supervisor whether anything happens
    uint32_t printed            # [cas] how often processes have written to the driver, which compares it: see `show_printed`
    uint8_t pad2[44]
    uint32_t service_high       # [cas]
    uint32_t process_high       # [cas]
    uint32_t pool_queue_high    # [cas]
    uint32_t warm_left          # [cas] services that some idle worker shall load ahead
    uint32_t spinners           # [cas] processes that spin now, at most cpus - 1
    uint32_t preload            # [cas] libraries that services need: bits of engine/preload.py
    uint32_t warned             # [cas] some worker has warned that imports seed a global generator
    uint32_t spares             # [cas] spare workers wanted: 0 or 1
    uint32_t urgent_queues      # [cas] queues of urgent calls ever made
    uint32_t instance_queue_high    # [cas] like pool_queue_high: no queue from this number on was ever in use
    uint8_t pad3[24]
    uint32_t pool_wake          # futex of idle pool workers
    uint32_t pool_sleepers      # [cas, with `pool_wake` as one word] of them asleep and not yet called, or more
    uint8_t pad4[56]
    uint64_t sought_ns          # [owner: the seeker] when it looked last
    uint32_t seeker             # [cas] pool worker + 1 that looks for tasks while others sleep
    uint32_t pad5
    uint64_t alarm              # [cas] when the supervisor looks at limits of calls next; 0: not asked to
    uint8_t pad6[40]
    uint64_t blocks_taken       # [cas] these four: debug build only
    uint64_t blocks_freed
    uint64_t slots_taken
    uint64_t slots_freed
    uint32_t warm_extents[EXTENT_CLASSES]       # [lock] stacks of free ones, index + 1
    uint32_t cold_extents[EXTENT_CLASSES]
    char cgroups[CGROUP_BYTES]  # [owner: driver, before others attach] limit, usage and stat file, ..., each ended by 0

cdef struct Process:
    uint32_t state              # [cas, with `pid` as one word]
    uint32_t pid                # while it is STARTING: `starts`, the token by which the forked child knows that it is meant
    uint32_t role
    uint32_t queue              # an instance's queue
    uint32_t blocked            # [owner: itself] its task waits for other tasks: a worker is added beside it
    uint32_t spinning           # [cas] spinner's tokens that its threads hold
    uint32_t sleeping           # [owner: itself] it has counted itself among the sleepers: only for readers from outside
    uint32_t retiring           # it leaves of its own accord
    uint64_t current            # [owner: itself] slot it runs, + 1
    uint64_t building           # [owner: itself] slot it is allocating or filling, + 1
    uint64_t taking             # [owner: itself] block it is allocating and has not published yet
    uint64_t promoting          # [owner: itself] slot it is about to queue, + 1
    uint64_t rotating           # [owner: itself] slot whose entry it is moving to the queue's end, + 1
    uint64_t release_seq        # [owner: itself] its releases so far, those of the entry's former processes too
    uint64_t acked_release      # [cas] the last of them that another process has acknowledged as done
    uint64_t releasing_edge     # [owner: itself] offset of the edge whose reference it is releasing; 0: none
    uint64_t releasing_slot     # [owner: itself] slot that the edge named
    uint64_t copied_bytes       # [counter] copied into shared memory or out of it: values beyond a slot's capacity
    uint64_t shared_bytes       # [counter] passed on or read in place
    uint32_t preloaded          # [owner: supervisor] of Header.preload, what it had when it was forked
    uint32_t stateful           # [owner: itself] it holds a class service's object
    uint32_t wake               # futex of its threads that wait for futures
    uint32_t waiters            # [cas] of them asleep
    uint32_t watching           # [cas] threads that want to know of every failure
    uint32_t starts             # [owner: supervisor] how often a process was forked for this entry
    uint64_t log_tail           # [cas] slots finished that it watched
    uint64_t definitions        # [counter] bodies of definitions that it wrote
    uint64_t definition_bytes   # [counter]
    uint64_t started_at         # [owner: itself] start time in /proc: with `pid` it identifies one process; 0: not told yet
    uint64_t began_at           # [owner: itself] when it began to run `current`, by the coarse monotonic clock
    uint32_t loaded             # [owner: itself] an instance's process has loaded its service
    uint32_t standing           # [cas] of a spare: STANDING_*

cdef struct Service:
    uint32_t state              # [cas]
    uint32_t queue
    uint32_t creator
    uint32_t warm_left          # [cas] workers that shall still load it ahead
    uint64_t generation         # [owner: creator] tells a reused entry from its predecessor
    uint64_t blob               # what a worker needs to load it
    uint64_t blob_bytes
    uint32_t spare              # [cas] a spare worker loads it ahead
    uint8_t pad[20]

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
    uint32_t restart            # an instance's process that dies gets a successor, with the object as it was at first
    uint64_t error              # [owner: supervisor] block with the error of a dead queue
    uint64_t error_bytes
    uint32_t urgent             # [cas] queue of its urgent calls, 0: none
    uint32_t home               # of a queue of urgent calls: the queue whose workers, permits and process serve it, + 1
    uint32_t failed_starts      # [owner: supervisor] processes in a row that died before they had loaded the service
    uint8_t pad3[4]
    uint32_t permits[PERMIT_COUNT]  # [cas] process index + 1

cdef struct Slot:
    uint64_t state              # [cas] generation:48 | owner:12 | status:4
    uint64_t waiters            # [cas] stack of DependencyEdge offsets, or WAITERS_CLOSED
    uint32_t refs               # [cas] REF_*
    uint32_t releaser           # [cas, with `refs` as one word] last release: see `releaser_tag`; kept in the freed slot
    uint32_t service
    uint16_t queue
    uint16_t flags              # [owner: its creator] CALL_*, before it publishes the call; CALL_UNWANTED at any time
    uint64_t payload            # block of the call's arguments, 0: inline
    uint64_t payload_bytes
    uint64_t result             # block of the outcome, 0: inline
    uint64_t result_bytes
    uint32_t payload_kind       # 0: none (any more)
    uint32_t result_kind        # 0: none yet
    uint32_t method
    uint32_t watched            # a thread of the creator waits for it: the finisher tells the creator
    uint64_t dependencies       # block of a Dependencies, 0: none
    uint64_t waits_for          # [owner: its runner] what the task waits for: see deadlock.pxi
    uint64_t queue_tail         # the queue's tail when the call was made: no entry before it can be this call's
    uint32_t started            # [owner: its runner] its execution has begun: it must not begin again
    uint32_t creator            # process that made it
    uint8_t data[INLINE_BYTES]

# Limits of a call and what is done when it fails, if its slot has CALL_POLICY: the entry of the same number. Durations and
# times are nanoseconds, times of the monotonic clock.
cdef struct Policy:
    uint64_t timeout            # [owner: creator] run time allowed to one attempt; 0: any
    uint64_t deadline           # [owner: creator] when it must have ended; 0: at any time
    uint64_t allowed            # [owner: creator] from submission to `deadline`, for messages
    uint64_t backoff            # [owner: creator] pause before the first retry; twice as long before each further one
    uint64_t began              # [owner: its runner] when the present attempt began; 0: it has not
    uint64_t not_before         # [owner: its runner] when a WAITING task may be tried again; 0: it waits for dependencies
    uint32_t retries            # [owner: creator] attempts allowed after the first
    uint32_t attempts           # [owner: its runner] failed so far
    uint32_t retry_on           # [owner: creator] RETRY_*
    uint32_t history            # [owner: its runner] 1: the result is the text of the failed attempts

# One dependency of a task, on the waiter list of that dependency's slot.
cdef struct DependencyEdge:
    uint64_t next               # [owner: pusher until pushed] offset of the next DependencyEdge on the list, 0: end
    uint32_t task               # slot that waits
    uint32_t bit                # which of its dependencies this is
    uint32_t dependency         # [cas] slot waited for; NO_DEPENDENCY once the task's reference to it is released
    uint32_t pad

# Block of a task with dependencies: this header, `count` edges, then a tree of bits. Bit i of level 0 is set while
# dependency i is missing (bit `count` is the submitter's own); bit j of a higher level while word j below it is not cleared.
# A word has WORD_BITS of them. The process that clears a word's last bit leaves its mark there in the same step. It alone
# then clears the bit above, or, at the one word of the top, makes the task ready. So after its death the mark tells recovery
# which process had to do that.
cdef enum:
    WORD_BITS = 48
    CLEARED_SHIFT = 63
    LAST_SHIFT = 48
    MOST_LEVELS = 4

cdef struct Dependencies:
    uint32_t count
    uint32_t levels
    uint32_t submitter_died     # [owner: supervisor] its submitter died before it had subscribed to all dependencies
    uint32_t pad
    uint64_t level_at[MOST_LEVELS]  # byte offset of each level inside the block

cdef extern from *:
    """
    #define GROUP_CLAIMED (UINT64_C(1) << 63)
    #define GROUP_CURRENT (UINT64_C(1) << 62)
    #define GROUP_MEMBERS (GROUP_CURRENT - 1)
    """
    const uint64_t GROUP_CLAIMED, GROUP_CURRENT, GROUP_MEMBERS

# Wait of a running task, in Slot.waits_for: 0 for nothing, slot + 1 for one future, or WAITS_FOR_ANY with the offset of a
# block (u64 count, u64 slots), any one slot of which is enough.
cdef extern from *:
    """
    #define WAITS_FOR_ANY (UINT64_C(1) << 63)
    """
    const uint64_t WAITS_FOR_ANY

cdef enum:
    OWNER_SHIFT = 4
    GENERATION_SHIFT = 16
