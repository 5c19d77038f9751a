# Calling those who sleep: idle workers when there is something to run, a process that waits for a future when it is finished.
#
# Calling a worker costs the caller a system call and the machine a core for as long as that one spins. So nobody is called for a
# task that a seeker finds anyway: a worker that looks for tasks and says so in Header.seeker. When it stops looking, whatever it
# found, it calls as many as there are tasks left. A seeker that was stopped or lost its core is told by Header.sought_ns.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport write as posix_write
from .externs cimport (
    ff_add32, ff_add64, ff_cas32, ff_cas64, ff_exchange32, ff_fence, ff_futex_wait, ff_futex_wake, ff_load32, ff_load64,
    ff_now_ns, ff_store64,
)
from .layout cimport QUEUE_COUNT, QUEUE_FREE, LOG_COUNT, POOL_QUEUES, PROCESS_COUNT, SLOT_BITS, RunQueue, Process
from .regions cimport Memory

cdef enum:
    SLICE_NS = 250_000_000      # a sleeper looks around this often, in case a wake-up died with its sender
    IDLE_NS = 60_000_000_000    # a sleeping worker: every recovery wakes all of them, since a call may have died with the dead
    PATIENCE_NS = 1_000_000     # a task waits this long before a worker is added beside it

cdef enum:
    SOUGHT_NS = 20_000          # a seeker that has not looked for so long may be anywhere

cdef inline uint64_t *sleepers_word(uint32_t *wake) noexcept nogil:
    """A futex and the count of those asleep on it, which change together: calls:32, then sleepers:32."""
    return <uint64_t *> wake

cdef inline void wake_sleepers(uint32_t *wake, uint32_t most) noexcept nogil:
    """Calls up to `most` of those asleep on a futex. The waker takes the sleepers off the count, so that a burst of pushes makes
    one system call per sleeper, not one per push. Pairs with the recheck between counting oneself and sleeping."""
    cdef uint64_t *word = sleepers_word(wake)
    cdef uint64_t before
    cdef uint32_t called
    ff_fence()                      # what was written for them may be a plain store: `retiring`, `closing`
    while True:
        before = ff_load64(word)
        called = min(<uint32_t> (before >> 32), most)
        if called == 0:
            return
        if ff_cas64(word, before, ((before >> 32) - called) << 32 | <uint32_t> (before + called)):
            break
    ff_futex_wake(wake, called)

cdef inline uint32_t sleep_begin(uint32_t *wake) noexcept nogil:
    """Counts oneself among the sleepers; returns the calls so far, for the futex and for `sleep_end`."""
    return <uint32_t> ff_add64(sleepers_word(wake), <uint64_t> 1 << 32)

cdef inline void sleep_end(uint32_t *wake, uint32_t calls) noexcept nogil:
    """Takes off the count one who woke up by itself, unless somebody has been called since: perhaps this one, which is off then.

    So the count may be too high, which costs a system call, but never too low, which would leave a task lying.
    """
    cdef uint64_t *word = sleepers_word(wake)
    cdef uint64_t before = ff_load64(word)
    while <uint32_t> before == calls and not ff_cas64(word, before, before - (<uint64_t> 1 << 32)):
        before = ff_load64(word)

cdef inline int needs_call(Memory *memory) noexcept nogil:
    """Whether somebody sleeps who should be called for a task that was just queued for the pool: no seeker finds it.

    Pairs with the recheck before sleeping, and with `seek_end`, which looks once more. `queue_push` ends with a full barrier.
    """
    if ff_load32(&memory.header.pool_sleepers) == 0:
        return 0
    return ff_load32(&memory.header.seeker) == 0 or ff_now_ns() - <int64_t> ff_load64(&memory.header.sought_ns) > SOUGHT_NS

cdef inline int seek_begin(Memory *memory) noexcept nogil:
    """Makes this worker the seeker, if there is none and somebody sleeps who could be spared a call."""
    if ff_load32(&memory.header.pool_sleepers) == 0 or not ff_cas32(&memory.header.seeker, 0, memory.me + 1):
        return 0
    seek_on(memory, ff_now_ns())
    return 1

cdef inline void seek_on(Memory *memory, int64_t now) noexcept nogil:
    if now - <int64_t> memory.header.sought_ns > SOUGHT_NS // 4:        # seldom: those who queue tasks read it
        ff_store64(&memory.header.sought_ns, <uint64_t> now)

cdef inline void seek_end(Memory *memory) noexcept nogil:
    ff_exchange32(&memory.header.seeker, 0)
    call_for_queued(memory)

cdef inline void call_for_queued(Memory *memory) noexcept nogil:
    """Calls a sleeper for each task that stands in a pool queue, void ones too."""
    cdef int64_t count = 0
    cdef uint32_t i
    if ff_load32(&memory.header.pool_sleepers) == 0:
        return
    for i in range(ff_load32(&memory.header.pool_queue_high)):       # a head may be read after the tail has moved on
        count += max(<int64_t> (ff_load64(&memory.queues[i].tail) - ff_load64(&memory.queues[i].head)), <int64_t> 0)
    if count:
        wake_sleepers(&memory.header.pool_wake, <uint32_t> min(count, <int64_t> PROCESS_COUNT))

cdef inline void wake_queue(Memory *memory, uint32_t queue_index) noexcept nogil:
    cdef RunQueue *queue = &memory.queues[queue_index]
    if queue_index >= POOL_QUEUES:
        wake_sleepers(&queue.wake, 1)
    elif queue.limit:        # who of the sleepers has a permit is not known here
        wake_sleepers(&memory.header.pool_wake, PROCESS_COUNT)
    elif needs_call(memory):
        wake_sleepers(&memory.header.pool_wake, 1)

cdef inline void wake_everybody(Memory *memory) noexcept nogil:
    """Calls every idle worker, those too that a dead process had taken off the count and not called."""
    cdef uint32_t i
    wake_sleepers(&memory.header.pool_wake, PROCESS_COUNT)
    ff_add32(&memory.header.pool_wake, 1)
    ff_futex_wake(&memory.header.pool_wake, PROCESS_COUNT)
    for i in range(POOL_QUEUES, QUEUE_COUNT):
        if ff_load32(&memory.queues[i].state) != QUEUE_FREE:
            ff_add32(&memory.queues[i].wake, 1)
            ff_futex_wake(&memory.queues[i].wake, PROCESS_COUNT)

cdef inline void wake_waiters(Memory *memory, uint32_t process) noexcept nogil:
    """Wakes every thread of `process` that sleeps for a future."""
    ff_add32(&memory.processes[process].wake, 1)    # a full barrier, too
    if ff_load32(&memory.processes[process].waiters):
        ff_futex_wake(&memory.processes[process].wake, PROCESS_COUNT)

cdef inline uint64_t log_lap(uint64_t position) noexcept nogil:
    """What an entry of the log has in its upper 44 bits when it was written for `position`; not 0 in the first lap."""
    return (position // LOG_COUNT + 1) << SLOT_BITS

cdef inline uint64_t log_entry(uint64_t position, uint32_t index) noexcept nogil:
    return log_lap(position) | (index + 1)

cdef inline void log_finished(Memory *memory, uint32_t process, uint32_t index) noexcept nogil:
    """Tells a process's log of a finished slot that it watches. A death in between leaves a hole: readers look for themselves
    now and then."""
    cdef uint64_t position = ff_add64(&memory.processes[process].log_tail, 1)
    ff_store64(&memory.logs[<uint64_t> process * LOG_COUNT + position % LOG_COUNT], log_entry(position, index))

cdef inline int sleep_for_futures(Memory *memory, uint32_t me, uint32_t seen, int64_t timeout_ns) noexcept nogil:
    """Sleeps until `wake` of this process is no more `seen`, or for the time given. Returns the errno of the futex."""
    cdef Process *process = &memory.processes[me]
    cdef int code
    ff_add32(&process.waiters, 1)
    code = ff_futex_wait(&process.wake, seen, timeout_ns)
    ff_add32(&process.waiters, <uint32_t> -1)
    return code

cdef inline void ring_bell(int doorbell) noexcept nogil:
    cdef uint64_t one = 1
    posix_write(doorbell, &one, 8)
