# The lock of everything that changes rarely: extents, groups' owners, and the counts of what lies in what.
#
# Guarantees: the holder's death leaves a state that `repair` (extents.pxi) puts right before anybody else gets in. Assumes:
# sections are short, call nothing of Python's, and never wait. Whoever holds it is killed with its process only, and the zygote
# buries that process: it breaks the lock first (`lock_break`). The zygote itself, waiting here, looks whether the holder lives;
# so does the driver once the zygote has ended, since it may hold the GIL that starting another one takes.

cdef extern from *:
    """
    #include <fcntl.h>
    #include <signal.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/wait.h>
    /* A child of this process: it may still be waiting to be reaped, or has been. */
    static int ff_child_has_ended(pid_t pid) {
        siginfo_t info;
        info.si_pid = 0;
        if (waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
            return errno == ECHILD;
        return info.si_pid == pid;
    }
    /* Any process: gone, or a zombie that nobody reaps. */
    static int ff_has_ended(pid_t pid) {
        char path[32], text[256], *end;
        ssize_t count;
        int fd;
        if (kill(pid, 0) != 0 && errno == ESRCH)
            return 1;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return errno == ENOENT;
        count = read(fd, text, sizeof text - 1);
        close(fd);
        if (count <= 0)
            return 1;
        text[count] = 0;
        end = strrchr(text, ')');
        return end != NULL && (end[2] == 'Z' || end[2] == 'X');
    }
    """
    int ff_child_has_ended(int pid) noexcept nogil
    int ff_has_ended(int pid) noexcept nogil

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
            if ff_load32(lock) == word:
                lock_break_if_dead(memory, (word & ~<uint32_t> LOCK_CONTENDED) - 1)

cdef void lock_give(Memory *memory) noexcept nogil:
    if ff_exchange32(&memory.header.lock, 0) & LOCK_CONTENDED:
        ff_futex_wake(&memory.header.lock, 1)

cdef void lock_break_if_dead(Memory *memory, uint32_t holder) noexcept nogil:
    cdef int pid = memory.processes[holder].pid
    if holder == memory.me or holder == DRIVER_INDEX:
        return
    if memory.me == ZYGOTE_INDEX:
        if ff_child_has_ended(pid):
            lock_break(memory, holder)
    elif memory.me == DRIVER_INDEX and ff_child_has_ended(memory.processes[ZYGOTE_INDEX].pid):
        if holder == ZYGOTE_INDEX or ff_has_ended(pid):
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
