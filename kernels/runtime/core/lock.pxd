# The lock of everything that changes rarely: extents, groups' owners, and the counts of what lies in what.
#
# A robust mutex (POSIX, PTHREAD_MUTEX_ROBUST): the kernel knows who holds it, and gives it to the next in line when the holder
# ends, telling it so. Guarantees: whoever gets it then puts right what the dead one was changing (`repair`, extents.pxi) before
# anything else; if it dies at that, the next one does. Assumes: sections are short, call nothing of Python's, and never wait.
#
# Rejected: a word with the holder's number, given on by who recovers the holder. Those who wait for it must ask whether the holder
# lives, by a process number that may be another process's by then; and the zygote may wait for a holder that it has to recover.

from .externs cimport (
    EBUSY, EOWNERDEAD, ff_pause, ff_store32, pthread_mutex_consistent, pthread_mutex_lock, pthread_mutex_t,
    pthread_mutex_trylock, pthread_mutex_unlock,
)
from .regions cimport Memory
from .repair cimport repair

cdef enum:
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
    """What the last holder left half done is put right when this returns: before anybody looks at slots of a dead process."""
    lock_acquire(memory)
    lock_release(memory)

cdef inline void lock_release(Memory *memory) noexcept nogil:
    ff_store32(&memory.header.lock_holder, 0)
    pthread_mutex_unlock(<pthread_mutex_t *> memory.header.lock)
