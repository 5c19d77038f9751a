# Spin-then-park: how long a process spins before it sleeps on a futex.
#
# A round trip costs half a microsecond by spinning, and about ninety by waking a sleeper. But a spinner without a core of
# its own starves the process that it waits for. So at most cpus - 1 processes spin for long, by a token in the header;
# others spin only for as long as a hand-over takes. No process knows whether a core is idle: other programs may have them
# all, and then the woken process waits for the spinner's core. So after two failures in a row, long spinning is tried only
# every sixteenth time.
#
# Guarantees: tokens are counted per process too (Process.spinning), so recovery releases those of a dead one.

from libc.stdint cimport int64_t, uint32_t
from .externs cimport ff_add32, ff_cas32, ff_load32, ff_store32
from .regions cimport Memory, Spin

cdef enum:
    #: Somewhat above the cost of a wake-up: the process waited for may have had to be woken.
    SPIN_NS = 120_000
    #: Without a token.
    SPIN_FREE_NS = 5_000
    #: After SPIN_FAILURES failures in a row, but for every SPIN_AGAIN-th time.
    SPIN_SHORT_NS = 2_000
    SPIN_FAILURES = 2
    SPIN_AGAIN = 16

cdef inline int token_acquire(Memory *memory, uint32_t me) noexcept nogil:
    cdef uint32_t count = ff_load32(&memory.header.spinners)
    if count + 1 >= memory.header.cpus or not ff_cas32(&memory.header.spinners, count, count + 1):
        return 0
    ff_add32(&memory.processes[me].spinning, 1)
    return 1

cdef inline void token_release(Memory *memory, uint32_t me) noexcept nogil:
    ff_add32(&memory.processes[me].spinning, <uint32_t> -1)
    ff_add32(&memory.header.spinners, <uint32_t> -1)

cdef inline int64_t spin_budget(Spin *spin) noexcept nogil:
    """Return the nanoseconds that are worth spinning with a token."""
    cdef uint32_t failures = ff_load32(&spin.failures)
    if failures < SPIN_FAILURES or failures % SPIN_AGAIN == 0:
        return SPIN_NS
    return SPIN_SHORT_NS

cdef inline void spin_ended(Spin *spin, int found) noexcept nogil:
    """Record whether spinning found what it waited for.

    Threads of a process may count at the same time, without the GIL: that loses a count, and does no harm.
    """
    ff_store32(&spin.failures, 0 if found else ff_load32(&spin.failures) + 1)
