# Waiting: spin briefly, then sleep on a futex; and knowing when a wait can never end.
#
# A spin round trip costs half a microsecond, waking a sleeper about ninety. But a spinner without a core of its own starves
# whoever it waits for, so at most cpus - 1 processes spin for long, by a token in the header; others spin only for as long as
# a hand-over takes. Whether there is a core to spare nobody says: other programs may have them all, and then the one woken
# waits for the spinner's. So spinning that has failed twice in a row is not tried but for every sixteenth time.

from libc.stdint cimport int64_t, uint32_t
from .externs cimport ff_add32, ff_cas32, ff_load32, ff_store32
from .regions cimport Memory, Spin

cdef enum:
    SPIN_NS = 120_000           # somewhat above the price of a wake-up: whoever is waited for may have had to be woken
    SPIN_FREE_NS = 5_000        # without a token
    SPIN_SHORT_NS = 2_000       # after failures
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
    """Nanoseconds that are worth spinning with a token."""
    cdef uint32_t failures = ff_load32(&spin.failures)
    if failures < SPIN_FAILURES or failures % SPIN_AGAIN == 0:
        return SPIN_NS
    return SPIN_SHORT_NS

cdef inline void spin_ended(Spin *spin, int found) noexcept nogil:
    """Threads of a process may count at the same time, without the GIL: that loses a count, and does no harm."""
    ff_store32(&spin.failures, 0 if found else ff_load32(&spin.failures) + 1)
