# The segment's layout: every word that two processes share, who writes it and how.
#
# One anonymous memfd, mapped whole by the driver, the zygote and the workers. It is reserved large and sparse: a page costs
# memory only once it is touched. Inside it there are offsets from its start, never addresses.
#
#   header | processes | services | lanes | slots | one ring per lane | arena (to the end)
#
# Words marked [cas] change in one atomic step; [owner] have one writer at a time, named there.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint32_t ff_load32(const uint32_t *p) noexcept
    void ff_store32(uint32_t *p, uint32_t v) noexcept
    int ff_cas32(uint32_t *p, uint32_t expected, uint32_t desired) noexcept
    uint32_t ff_exchange32(uint32_t *p, uint32_t v) noexcept
    uint32_t ff_add32(uint32_t *p, uint32_t v) noexcept
    uint32_t ff_and32(uint32_t *p, uint32_t v) noexcept
    uint32_t ff_or32(uint32_t *p, uint32_t v) noexcept
    uint64_t ff_load64(const uint64_t *p) noexcept
    void ff_store64(uint64_t *p, uint64_t v) noexcept
    int ff_cas64(uint64_t *p, uint64_t expected, uint64_t desired) noexcept
    uint64_t ff_exchange64(uint64_t *p, uint64_t v) noexcept
    uint64_t ff_add64(uint64_t *p, uint64_t v) noexcept
    uint64_t ff_and64(uint64_t *p, uint64_t v) noexcept
    void ff_fence() noexcept
    int clz64(uint64_t v) noexcept
    int FF_DEBUG
    void ff_count(uint64_t *counter) noexcept
    void ff_pause() noexcept
    int64_t ff_now_ns() noexcept
    int ff_futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns) noexcept
    void ff_futex_wake(uint32_t *word, int count) noexcept

cdef enum:
    MAGIC = 0x464C4D46          # "FMLF"
    CACHE_LINE = 64
    PAGE = 4096
    INLINE_BYTES = 152          # room for a small value inside its slot
    SLOT_BITS = 20
    SLOT_COUNT = 1 << 20        # unfinished calls and values held, all together
    SLOT_SPARE = 4096           # a ring must never fill up with slots that all wait
    RING_MASK = SLOT_COUNT - 1
    POOL_LANES = 256            # lanes the pool's workers look at; lane 0 is open to all of them
    LANE_COUNT = 4096           # above POOL_LANES: one instance's process each
    PROCESS_COUNT = 2048
    SERVICE_COUNT = 65536
    SEAT_COUNT = 240            # workers that may serve one limited lane at the same time
    CLASS_COUNT = 192           # block sizes: four steps per doubling
    NO_METHOD = 0xFFFFFFFF
    NO_INPUT = 0xFFFFFFFF

# A slot's status: the low 8 bits of its state word; then 24 bits of owner (a process index), then 32 of generation.
cdef enum:
    FREE = 0
    WAITING = 1                 # some input is missing
    READY = 2                   # any worker of its lane may claim it
    RUNNING = 3                 # its owner executes it, or writes its outcome
    DONE = 4
    FAILED = 5

# Bits of Slot.holds. The slot is freed by whoever clears the last of them.
cdef enum:
    HOLD_CREATOR = 0x80000000   # a future in the creating process
    HOLD_RUN = 0x40000000       # not finished yet
    HOLD_EDGES = 0x20000000     # still stands on some input's waiter list
    HOLD_COUNT = 0x1FFFFFFF     # unfinished tasks that have it as an input

cdef enum:
    WAITERS_CLOSED = 1          # Slot.waiters: finished, no edge may be pushed any more

# How a payload or a result is written.
cdef enum:
    KIND_NATIVE = 1
    KIND_PICKLE = 2
    KIND_STATE = 4              # flag of a call: its pickle carries the function's state too

cdef enum:
    ROLE_DRIVER = 1
    ROLE_ZYGOTE = 2
    ROLE_POOL = 3
    ROLE_INSTANCE = 4

cdef enum:
    PROCESS_FREE = 0
    PROCESS_RESERVED = 1        # being filled in by its creator
    PROCESS_REQUESTED = 2       # the zygote shall fork it
    PROCESS_LIVE = 3

cdef enum:
    LANE_FREE = 0
    LANE_OPEN = 1
    LANE_CLOSING = 2            # no new calls; an instance's process ends once the lane is empty
    LANE_DEAD = 3               # its instance is lost: calls fail with the lane's error

cdef enum:
    SERVICE_FREE = 0
    SERVICE_RESERVED = 1
    SERVICE_OPEN = 2
    SERVICE_CLOSING = 3         # freed once no unfinished task names it

cdef struct Header:
    uint32_t magic
    uint32_t cpus
    uint32_t workers            # pool workers wanted, blocked ones not counted
    uint32_t closing            # [owner: driver] 1: everybody leaves
    uint64_t size
    uint64_t limit              # bytes of live blocks allowed
    uint64_t session            # random: tells this segment from another runner's
    uint64_t setup              # [owner: driver] block that tells workers about the project, 0 until known
    uint64_t setup_bytes
    uint8_t pad0[8]
    uint64_t free_slots         # [cas] stack of freed slots: tag:32 | index + 1:32
    uint8_t pad1[56]
    uint64_t arena_next         # [cas] first byte never handed out yet
    uint64_t live_bytes         # [cas] bytes of blocks in use
    uint64_t cached_bytes       # [cas] bytes of large free blocks whose pages are kept
    uint64_t peak_bytes
    uint8_t pad2[32]
    uint32_t slot_high          # [cas] slots ever used
    uint32_t service_high       # [cas]
    uint32_t process_high       # [cas]
    uint32_t pool_lane_high     # [cas]
    uint32_t warm_left          # [cas] services that some idle worker shall load ahead
    uint32_t spinners           # [cas] processes that spin now, at most cpus - 1
    uint8_t pad3[40]
    uint32_t pool_wake          # futex of idle pool workers
    uint32_t pool_sleepers      # [cas] of them asleep and not yet called
    uint8_t pad4[56]
    uint64_t blocks_taken       # [cas] these four: debug build only
    uint64_t blocks_freed
    uint64_t slots_taken
    uint64_t slots_freed
    uint8_t pad5[32]
    uint64_t free_blocks[CLASS_COUNT]   # [cas] stack per size class: tag:30 | offset / 64:34

cdef struct Process:
    uint32_t state              # [cas]
    uint32_t pid
    uint32_t role
    uint32_t lane               # an instance's lane
    uint32_t wake               # futex of its threads that wait for futures
    uint32_t waiters            # [cas] of them asleep
    uint32_t blocked            # [owner: itself] its task waits for other tasks: a worker is added beside it
    uint32_t spinning           # [owner: itself] it holds a spinner's token
    uint32_t sleeping           # [owner: itself] it counts among pool_sleepers
    uint32_t retiring           # [owner: itself] it leaves of its own accord
    uint64_t current            # [owner: itself] slot it runs, + 1
    uint64_t waits_for          # [owner: itself] what its task waits for: see waiting.pxi
    uint64_t promoting          # [owner: itself] slot it is about to queue, + 1
    uint8_t pad[56]

cdef struct Service:
    uint32_t state              # [cas]
    uint32_t lane
    uint32_t creator
    uint32_t generation         # [owner: creator] tells a reused entry from its predecessor
    uint64_t blob               # what a worker needs to load it
    uint64_t blob_bytes
    uint32_t warm_left          # [cas] workers that shall still load it ahead
    uint8_t pad[28]

cdef struct Lane:
    uint64_t tail               # [cas] next position to write
    uint8_t pad0[56]
    uint64_t head               # [cas] next position to read
    uint8_t pad1[56]
    uint32_t state              # [cas]
    uint32_t ordered            # one consumer, strictly first in, first out
    uint32_t limit              # seats; 0: as many as there are workers
    uint32_t sticky             # a worker keeps its seat between calls
    uint32_t wake               # futex of an instance's idle process
    uint32_t sleepers           # [cas]
    uint32_t process            # [cas] an instance's process, + 1
    uint32_t pad2
    uint64_t error              # [owner: zygote] block with the error of a dead lane
    uint64_t error_bytes
    uint8_t pad3[16]
    uint32_t seats[SEAT_COUNT]  # [cas] process index + 1

cdef struct Slot:
    uint64_t state              # [cas] generation:32 | owner:24 | status:8
    uint64_t waiters            # [cas] stack of Edge offsets, or WAITERS_CLOSED
    uint32_t holds              # [cas] HOLD_*
    uint32_t creator            # process that made it
    uint32_t service
    uint32_t lane
    uint64_t payload            # block of the call's arguments, 0: inline
    uint64_t payload_bytes
    uint64_t result             # block of the outcome, 0: inline
    uint64_t result_bytes
    uint32_t payload_kind
    uint32_t result_kind
    uint32_t method
    uint32_t watched            # somebody of the creator sleeps until it is finished
    uint64_t inputs             # block of an Inputs, 0: none
    uint64_t next_free          # in the stack of free slots
    uint64_t pad
    uint8_t data[INLINE_BYTES]

# One input of a task, on the waiter list of that input's slot.
cdef struct Edge:
    uint64_t next               # [owner: pusher until pushed] offset of the next Edge on the list, 0: end
    uint32_t task               # slot that waits
    uint32_t bit                # which of its inputs this is
    uint32_t input              # [cas] slot waited for; NO_INPUT once the task's hold on it is given back
    uint32_t pad

# Block of a task with inputs: this header, `count` edges, then a tree of bit words. Bit i of level 0 is set while input i
# is missing (bit `count` is the submitter's own); bit j of a higher level while word j below it is not zero. Clearing a
# bit twice is harmless, so a list may be walked again.
cdef struct Inputs:
    uint32_t count
    uint32_t levels
    uint64_t level_at[4]        # byte offset of each level inside the block

# In front of every block of the arena; the block's bytes follow at + CACHE_LINE.
cdef struct Block:
    uint64_t size_class
    uint64_t next               # offset / 64 of the next free block
    uint64_t bytes              # asked for; of a free block 0 if its pages have gone back to the system
