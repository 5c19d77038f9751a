# Declarations of what the core asks of the processor and the kernel: atomics, the futex, robust mutexes, memory advice.

from libc.stdint cimport int64_t, uint32_t, uint64_t

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
    uint64_t ff_or64(uint64_t *p, uint64_t v) noexcept
    void ff_fence() noexcept
    int clz64(uint64_t v) noexcept
    int ctz64(uint64_t v) noexcept
    int popcount64(uint64_t v) noexcept
    int FF_DEBUG
    void ff_count(uint64_t *counter) noexcept
    void ff_pause() noexcept
    int64_t ff_now_ns() noexcept
    int64_t ff_coarse_ns() noexcept
    int ff_futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns) noexcept
    void ff_futex_wake(uint32_t *word, int count) noexcept

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <signal.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    _Static_assert(sizeof(pthread_mutex_t) <= 48, "Header.lock has 48 bytes");

    static int ff_lock_make(void *at) {
        pthread_mutexattr_t how;
        int code = pthread_mutexattr_init(&how);
        if (code == 0) code = pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
        if (code == 0) code = pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
        if (code == 0) code = pthread_mutex_init((pthread_mutex_t *)at, &how);
        return code;
    }

    /* A mutex that was overwritten is to be seen before the C library follows it: its kind decides what that does, and a
     * holder that is no thread never releases it. Other C libraries than glibc keep both elsewhere, and go unchecked. */
    static uint32_t ff_lock_kind(const void *at) {
    #ifdef __GLIBC__
        /* Without the bits that tell a recursive one from others: tests count by those. */
        return (uint32_t)__atomic_load_n(&((const pthread_mutex_t *)at)->__data.__kind, __ATOMIC_RELAXED) & ~3u;
    #else
        return 0;
    #endif
    }

    static int ff_lock_has_holder(const void *at) {
    #ifdef __GLIBC__
        int holder = __atomic_load_n(&((const pthread_mutex_t *)at)->__data.__lock, __ATOMIC_RELAXED) & 0x3FFFFFFF;
        return holder != 0 && holder != syscall(SYS_gettid) && !(kill(holder, 0) == -1 && errno == ESRCH);
    #else
        return 1;
    #endif
    }

    static int ff_lock_within(void *at, int64_t nanoseconds) {
        struct timespec end;
        clock_gettime(CLOCK_REALTIME, &end);
        nanoseconds += end.tv_nsec;
        end.tv_sec += nanoseconds / 1000000000;
        end.tv_nsec = nanoseconds % 1000000000;
        return pthread_mutex_timedlock((pthread_mutex_t *)at, &end);
    }
    """
    int ff_lock_make(void *at) noexcept nogil
    uint32_t ff_lock_kind(const void *at) noexcept nogil
    int ff_lock_has_holder(const void *at) noexcept nogil
    int ff_lock_within(void *at, int64_t nanoseconds) noexcept nogil
    int EBUSY, EOWNERDEAD, ETIMEDOUT

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_trylock(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_consistent(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset) noexcept
    int munmap(void *addr, size_t length) noexcept
    int madvise(void *addr, size_t length, int advice) noexcept
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_NORESERVE, MAP_ANONYMOUS
    int MADV_REMOVE, MADV_DONTDUMP, MADV_DONTNEED
    void *MAP_FAILED

cdef extern from *:
    """
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif
    """
    int MADV_POPULATE_WRITE

cdef extern from *:
    """
    /* setup.py hashes the files that say how words are laid out and packed. */
    #ifndef FF_LAYOUT
    #error "FF_LAYOUT is not defined: build by setup.py"
    #endif
    """
    const uint32_t FF_LAYOUT

cdef extern from *:
    """
    #define ff_expect_bytes(size, expected) _Static_assert((size) == (expected), "layout.pxd: a struct of another size")
    /* Fields of a struct at address 0: their addresses are their offsets. */
    #define ff_expect_own_line(field) _Static_assert((size_t)&(field) % 64 == 0, "layout.pxd: a word within a cache line")
    #define ff_expect_together(one, other)                                                                        \\
        _Static_assert((size_t)&(one) % 8 == 0 && (size_t)&(other) == (size_t)&(one) + 4, "layout.pxd: two words apart")
    """
    void ff_expect_bytes(size_t size, size_t expected) noexcept nogil
    void ff_expect_own_line(...) noexcept nogil
    void ff_expect_together(uint32_t one, uint32_t other) noexcept nogil
