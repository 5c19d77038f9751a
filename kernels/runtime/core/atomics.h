/* Atomics, the futex and the CPU's pause: what Cython cannot say.
 *
 * Memory order: a read-modify-write is sequentially consistent, so it is also a full barrier; a load acquires, a store
 * releases. `ff_fence` is the store-to-load barrier of the handshake "publish, then look for sleepers" (PROTOCOL.md, S7).
 */
#ifndef FLAME_FAST_ATOMICS_H
#define FLAME_FAST_ATOMICS_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FF_ATOMICS(bits)                                                                                      \
    static inline uint##bits##_t ff_load##bits(const uint##bits##_t *p) {                                     \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                          \
    }                                                                                                         \
    static inline void ff_store##bits(uint##bits##_t *p, uint##bits##_t v) {                                  \
        __atomic_store_n(p, v, __ATOMIC_RELEASE);                                                             \
    }                                                                                                         \
    static inline int ff_cas##bits(uint##bits##_t *p, uint##bits##_t expected, uint##bits##_t desired) {      \
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);     \
    }                                                                                                         \
    static inline uint##bits##_t ff_exchange##bits(uint##bits##_t *p, uint##bits##_t v) {                     \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                   \
    }                                                                                                         \
    static inline uint##bits##_t ff_add##bits(uint##bits##_t *p, uint##bits##_t v) {                          \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                    \
    }                                                                                                         \
    static inline uint##bits##_t ff_or##bits(uint##bits##_t *p, uint##bits##_t v) {                           \
        return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);                                                     \
    }                                                                                                         \
    static inline uint##bits##_t ff_and##bits(uint##bits##_t *p, uint##bits##_t v) {                          \
        return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);                                                    \
    }

FF_ATOMICS(32)
FF_ATOMICS(64)

static inline void ff_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Counters of the debug build: what was allocated and what was freed, to be compared once every reference is released. */
#ifdef FLAME_FAST_DEBUG
enum { FF_DEBUG = 1 };
static inline void ff_count(uint64_t *counter) { ff_add64(counter, 1); }
#else
enum { FF_DEBUG = 0 };
static inline void ff_count(uint64_t *counter) { (void)counter; }
#endif

static inline int clz64(uint64_t v) { return __builtin_clzll(v); }
static inline int ctz64(uint64_t v) { return __builtin_ctzll(v); }
static inline int popcount64(uint64_t v) { return __builtin_popcountll(v); }

static inline void ff_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

static inline int64_t ff_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The monotonic clock as of the last tick, some milliseconds ago: no reading of the processor's clock. */
static inline int64_t ff_coarse_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleep on a shared futex: not FUTEX_PRIVATE, since several processes map the segment that contains the word.
 * Return 0 when woken, else the errno: EAGAIN (the word had changed), ETIMEDOUT, EINTR. */
static inline int ff_futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    return syscall(SYS_futex, word, FUTEX_WAIT, expected, &t, NULL, 0) == 0 ? 0 : errno;
}

static inline void ff_futex_wake(uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

#endif
