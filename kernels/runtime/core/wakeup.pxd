# Wake-ups: of idle workers when there is a task to run, and of a process that waits for a future when that is finished.
#
# Waking a worker costs the waker a system call, and the machine a core for as long as the woken worker spins. So no worker
# is woken for a task that the seeker finds anyway: the seeker is a worker that looks for tasks and says so in Header.seeker.
# When it stops looking, whether it found a task or not, it wakes as many sleepers as there are tasks left. Header.sought_ns
# shows that a seeker was stopped or lost its core.
#
# Guarantees: no lost wake-up (PROTOCOL.md, S3 to S7), but by a death of the waker: a sleeper looks around every SLICE_NS,
# and each recovery wakes all idle workers.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport write as posix_write
from .externs cimport (
    ff_add32, ff_add64, ff_cas32, ff_cas64, ff_exchange32, ff_fence, ff_futex_wait, ff_futex_wake, ff_load32, ff_load64,
    ff_now_ns, ff_store64,
)
from .layout cimport LOG_COUNT, POOL_QUEUES, PROCESS_COUNT, QUEUE_FREE, ROLE_SPARE, SLOT_BITS, Process, RunQueue
from .regions cimport Memory
from .lookup cimport home_of, instance_queues_used, pool_queues_used, processes_used

cdef enum:
    #: A sleeper looks around this often, in case a wake-up died with its sender.
    SLICE_NS = 250_000_000
    #: A sleeping worker looks around this often: a wake-up may die with its sender, but each recovery wakes all workers.
    IDLE_NS = 60_000_000_000
    #: A task waits this long before a worker is added beside it.
    PATIENCE_NS = 1_000_000

cdef enum:
    #: A seeker that has not looked for so long does not count: it may have been stopped or have lost its core.
    SOUGHT_NS = 20_000

cdef inline uint64_t *sleepers_word(uint32_t *wake) noexcept nogil:
    """Return the word of a futex and its sleepers, which change together: calls:32, then sleepers:32."""
    return <uint64_t *> wake

cdef inline void wake_sleepers(uint32_t *wake, uint32_t most) noexcept nogil:
    """Wake up to `most` of the sleepers of a futex.

    The waker takes the sleepers off the count, so that a burst of pushes makes one system call per sleeper, not one per
    push.
    """
    cdef uint64_t *word = sleepers_word(wake)
    cdef uint64_t before
    cdef uint32_t called
    # S7: pairs with the sleeper's look at `retiring` and `closing` after `sleep_begin`; the caller may have stored them
    # plainly.
    ff_fence()
    while True:
        before = ff_load64(word)
        called = min(<uint32_t> (before >> 32), most)
        if called == 0:
            return
        # S4: pairs with `sleep_begin`: takes sleepers off and counts calls in one step.
        if ff_cas64(word, before, ((before >> 32) - called) << 32 | <uint32_t> (before + called)):
            break
    ff_futex_wake(wake, called)

cdef inline uint32_t sleep_begin(uint32_t *wake) noexcept nogil:
    """Count the caller among the sleepers; return the calls so far, for the futex and for `sleep_end`."""
    # S4, S7: pairs with `wake_sleepers` and `needs_call`; the caller looks for tasks, `retiring` and `closing` after it.
    return <uint32_t> ff_add64(sleepers_word(wake), <uint64_t> 1 << 32)

cdef inline void sleep_end(uint32_t *wake, uint32_t calls) noexcept nogil:
    """Take a sleeper that woke by itself off the count, unless a call was counted meanwhile.

    That call may have been to this sleeper, which is off the count then. So the count may be too high, which costs a system
    call, but never too low, which would leave a task waiting.
    """
    cdef uint64_t *word = sleepers_word(wake)
    cdef uint64_t before = ff_load64(word)
    while <uint32_t> before == calls and not ff_cas64(word, before, before - (<uint64_t> 1 << 32)):
        before = ff_load64(word)

cdef inline int needs_call(Memory *memory) noexcept nogil:
    """Tell whether a sleeper must be woken for a task just queued for the pool: no seeker finds it.

    Assumes that the caller has pushed by `queue_push`, which ends with a full barrier.
    """
    # S4: pairs with `sleep_begin`, after which the sleeper looks for tasks again.
    if ff_load32(&memory.header.pool_sleepers) == 0:
        return 0
    # S5: pairs with `seek_end`, which looks at the queues once more.
    return ff_load32(&memory.header.seeker) == 0 or ff_now_ns() - <int64_t> ff_load64(&memory.header.sought_ns) > SOUGHT_NS

cdef inline int seek_begin(Memory *memory) noexcept nogil:
    """Make this worker the seeker, if there is none and a sleeper could be spared a wake-up."""
    if ff_load32(&memory.header.pool_sleepers) == 0 or not ff_cas32(&memory.header.seeker, 0, memory.me + 1):
        return 0
    seek_on(memory, ff_now_ns())
    return 1

cdef inline void seek_on(Memory *memory, int64_t now) noexcept nogil:
    if now - <int64_t> memory.header.sought_ns > SOUGHT_NS // 4:        # seldom: submitters read that line
        ff_store64(&memory.header.sought_ns, <uint64_t> now)

cdef inline void seek_end(Memory *memory) noexcept nogil:
    # S5: pairs with the look at `seeker` in `needs_call`.
    ff_exchange32(&memory.header.seeker, 0)
    call_for_queued(memory)

cdef inline void call_for_queued(Memory *memory) noexcept nogil:
    """Wake a sleeper for each entry of a pool queue, void ones too."""
    cdef int64_t count = 0
    cdef uint32_t i
    if ff_load32(&memory.header.pool_sleepers) == 0:
        return
    for i in range(pool_queues_used(memory)):       # a head may be read after the tail has moved on
        count += max(<int64_t> (ff_load64(&memory.queues[i].tail) - ff_load64(&memory.queues[i].head)), <int64_t> 0)
    if count:
        wake_sleepers(&memory.header.pool_wake, <uint32_t> min(count, <int64_t> PROCESS_COUNT))

cdef inline void wake_queue(Memory *memory, uint32_t queue_index) noexcept nogil:
    cdef RunQueue *queue = &memory.queues[queue_index]
    if queue.home:
        queue = &memory.queues[home_of(memory, queue_index)]
    if queue_index >= POOL_QUEUES:
        wake_sleepers(&queue.wake, 1)
    elif queue.limit:        # which sleeper has a permit is not known here
        wake_sleepers(&memory.header.pool_wake, PROCESS_COUNT)
    elif needs_call(memory):
        wake_sleepers(&memory.header.pool_wake, 1)

cdef inline void wake_everybody(Memory *memory) noexcept nogil:
    """Wake every idle worker, also those that a dead process had taken off the count and not woken."""
    cdef uint32_t i
    wake_sleepers(&memory.header.pool_wake, PROCESS_COUNT)
    ff_add32(&memory.header.pool_wake, 1)
    ff_futex_wake(&memory.header.pool_wake, PROCESS_COUNT)
    for i in range(POOL_QUEUES, instance_queues_used(memory)):
        if ff_load32(&memory.queues[i].state) != QUEUE_FREE:
            ff_add32(&memory.queues[i].wake, 1)
            ff_futex_wake(&memory.queues[i].wake, PROCESS_COUNT)
    wake_spares(memory)

cdef inline void wake_spares(Memory *memory) noexcept nogil:
    cdef uint32_t i
    for i in range(processes_used(memory)):
        if ff_load32(&memory.processes[i].role) == ROLE_SPARE:
            wake_waiters(memory, i)

cdef inline void wake_waiters(Memory *memory, uint32_t process) noexcept nogil:
    """Wake every thread of `process` that sleeps for a future."""
    # S6: pairs with `sleep_for_futures`.
    ff_add32(&memory.processes[process].wake, 1)    # a full barrier, too
    if ff_load32(&memory.processes[process].waiters):
        ff_futex_wake(&memory.processes[process].wake, PROCESS_COUNT)

cdef inline uint64_t log_lap(uint64_t position) noexcept nogil:
    """Return the upper 44 bits of a log entry for `position`: its lap; not 0 in the first lap."""
    return (position // LOG_COUNT + 1) << SLOT_BITS

cdef inline uint64_t log_entry(uint64_t position, uint32_t index) noexcept nogil:
    # S21: the lap in the entry makes an old entry differ from one of this lap (ABA).
    return log_lap(position) | (index + 1)

cdef inline void log_finished(Memory *memory, uint32_t process, uint32_t index) noexcept nogil:
    """Append a finished slot to the log of the process that watches it.

    A death between the two steps leaves a hole in the log: readers look at their slots now and then.
    """
    cdef uint64_t position = ff_add64(&memory.processes[process].log_tail, 1)
    ff_store64(&memory.logs[<uint64_t> process * LOG_COUNT + position % LOG_COUNT], log_entry(position, index))

cdef inline int sleep_for_futures(Memory *memory, uint32_t me, uint32_t seen, int64_t timeout_ns) noexcept nogil:
    """Sleep until `wake` of this process differs from `seen`, or the time is up; return the errno of the futex."""
    cdef Process *process = &memory.processes[me]
    cdef int code
    # S6: pairs with `wake_waiters`; the futex call looks at `wake` after it.
    ff_add32(&process.waiters, 1)
    code = ff_futex_wait(&process.wake, seen, timeout_ns)
    ff_add32(&process.waiters, <uint32_t> -1)
    return code

cdef inline void ring_bell(int doorbell) noexcept nogil:
    cdef uint64_t one = 1
    posix_write(doorbell, &one, 8)
