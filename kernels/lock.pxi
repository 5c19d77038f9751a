# The lock of everything that changes rarely: extents, groups' owners, and the counts of what lies in what.
#
# Guarantees: the holder's death leaves a state that `repair` (extents.pxi) puts right before anybody else gets in. Assumes:
# sections are short, call nothing of Python's, and never wait. Whoever holds it is killed with its process only, and the zygote
# buries that process: it breaks the lock first (`lock_break`). The zygote itself, waiting here, looks whether the holder lives.

cdef extern from *:
    """
    #include <sys/wait.h>
    static int ff_child_has_ended(pid_t pid) {
        siginfo_t info;
        info.si_pid = 0;
        return waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
    }
    """
    int ff_child_has_ended(int pid) noexcept nogil

cdef enum:
    LOCK_CONTENDED = 0x80000000
    LOCK_SPINS = 100
    LOCK_LOOK_NS = 10_000_000   # how often a waiter looks for itself

cdef void lock_take(Memory *memory) noexcept nogil:
    cdef uint32_t *lock = &memory.header.lock
    cdef uint32_t me = memory.me + 1, word
    cdef int i
    for i in range(LOCK_SPINS):
        if ff_load32(lock) == 0 and ff_cas32(lock, 0, me):
            return
        ff_pause()
    while True:
        word = ff_load32(lock)
        if word == 0:
            if ff_cas32(lock, 0, me | LOCK_CONTENDED):      # others may sleep: whoever gives it back calls one
                return
        elif word & LOCK_CONTENDED or ff_cas32(lock, word, word | LOCK_CONTENDED):
            word |= LOCK_CONTENDED
            ff_futex_wait(lock, word, LOCK_LOOK_NS)
            if memory.me == ZYGOTE_INDEX and ff_load32(lock) == word:
                lock_break_if_dead(memory, word)

cdef void lock_give(Memory *memory) noexcept nogil:
    if ff_exchange32(&memory.header.lock, 0) & LOCK_CONTENDED:
        ff_futex_wake(&memory.header.lock, 1)

cdef void lock_break_if_dead(Memory *memory, uint32_t word) noexcept nogil:
    cdef uint32_t holder = (word & ~<uint32_t> LOCK_CONTENDED) - 1
    if holder != DRIVER_INDEX and holder != memory.me and ff_child_has_ended(memory.processes[holder].pid):
        lock_break(memory, holder)

cdef void lock_break(Memory *memory, uint32_t dead) noexcept nogil:
    """If `dead` held the lock when it died, puts right what it was changing and gives the lock back."""
    cdef uint32_t word = ff_load32(&memory.header.lock)
    while word and (word & ~<uint32_t> LOCK_CONTENDED) == dead + 1:
        if ff_cas32(&memory.header.lock, word, (memory.me + 1) | LOCK_CONTENDED):
            repair(memory)
            lock_give(memory)
            return
        word = ff_load32(&memory.header.lock)
