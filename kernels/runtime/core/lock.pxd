# The lock: a robust mutex for everything that changes rarely: extents, groups' owners, and reference counts of extents.
#
# The kernel knows the holder of a robust mutex (POSIX, PTHREAD_MUTEX_ROBUST). When the holder ends, the kernel gives the
# mutex to the next process in line and tells it so.
#
# Guarantees: a process that gets the lock of a dead holder first restores what that was changing (`repair`, repair.pxd); if
# it dies at that, the next one restores it. Assumes: critical sections are short, call nothing of Python's, and never wait.
#
# Rejected: a word with the holder's number, which recovery of the holder would pass on. A process that waits for it must ask
# whether the holder lives, by a process number that may be another process's by then; and the supervisor (zygote) may wait
# for a holder that it has to recover.

from .externs cimport (
    EBUSY, EOWNERDEAD, ETIMEDOUT, ff_lock_has_holder, ff_lock_kind, ff_lock_within, ff_pause, ff_store32,
    pthread_mutex_consistent, pthread_mutex_t, pthread_mutex_trylock, pthread_mutex_unlock,
)
from .regions cimport Memory
from .repair cimport repair

cdef enum:
    #: Attempts before a process sleeps for the lock.
    LOCK_SPINS = 100
    #: Between two looks whether the holder is a thread at all. It may have been stopped, and then takes its time.
    HOLDER_NS = 1_000_000_000

cdef inline void lock_acquire(Memory *memory) noexcept nogil:
    cdef pthread_mutex_t *lock = <pthread_mutex_t *> memory.header.lock
    cdef int _, code = EBUSY
    if lock_is_broken(memory):
        return
    for _ in range(LOCK_SPINS):
        code = pthread_mutex_trylock(lock)
        if code != EBUSY:
            break
        ff_pause()
    while code == EBUSY or code == ETIMEDOUT and ff_lock_has_holder(lock):
        code = ff_lock_within(lock, HOLDER_NS)
    if code and code != EOWNERDEAD:
        memory.damaged = memory.lock_broken = 1
        return
    ff_store32(&memory.header.lock_holder, memory.me + 1)
    if code == EOWNERDEAD:
        repair(memory)
        pthread_mutex_consistent(lock)

cdef inline int lock_is_broken(Memory *memory) noexcept nogil:
    """Tell whether the mutex was overwritten: then nothing excludes anything any more, and nothing waits for it."""
    if ff_lock_kind(memory.header.lock) != memory.lock_kind:
        memory.damaged = memory.lock_broken = 1
    return memory.lock_broken

cdef inline void lock_repair(Memory *memory) noexcept nogil:
    """Restore what the last holder of the lock left half done.

    Recovery calls it before it looks at the slots of a dead process.
    """
    lock_acquire(memory)
    lock_release(memory)

cdef inline void lock_release(Memory *memory) noexcept nogil:
    if lock_is_broken(memory):
        return
    ff_store32(&memory.header.lock_holder, 0)
    pthread_mutex_unlock(<pthread_mutex_t *> memory.header.lock)
