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
    EBUSY, EOWNERDEAD, ff_pause, ff_store32, pthread_mutex_consistent, pthread_mutex_lock, pthread_mutex_t,
    pthread_mutex_trylock, pthread_mutex_unlock,
)
from .regions cimport Memory
from .repair cimport repair

cdef enum:
    #: Attempts before a process sleeps for the lock.
    LOCK_SPINS = 100

cdef inline void lock_acquire(Memory *memory) noexcept nogil:
    cdef pthread_mutex_t *lock = <pthread_mutex_t *> memory.header.lock
    cdef int _, code = EBUSY
    for _ in range(LOCK_SPINS):
        code = pthread_mutex_trylock(lock)
        if code != EBUSY:
            break
        ff_pause()
    if code == EBUSY:
        code = pthread_mutex_lock(lock)
    ff_store32(&memory.header.lock_holder, memory.me + 1)
    if code == EOWNERDEAD:
        repair(memory)
        pthread_mutex_consistent(lock)

cdef inline void lock_repair(Memory *memory) noexcept nogil:
    """Restore what the last holder of the lock left half done.

    Recovery calls it before it looks at the slots of a dead process.
    """
    lock_acquire(memory)
    lock_release(memory)

cdef inline void lock_release(Memory *memory) noexcept nogil:
    ff_store32(&memory.header.lock_holder, 0)
    pthread_mutex_unlock(<pthread_mutex_t *> memory.header.lock)
