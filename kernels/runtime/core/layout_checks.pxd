# The layout's sizes and cache lines, checked by the C compiler: a field that moves by accident ends the build.

from .externs cimport ff_expect_bytes, ff_expect_own_line, ff_expect_together
from .layout cimport (
    CACHE_LINE, LOCK_WORDS, Dependencies, DependencyEdge, Extent, Group, Header, Policy, Process, Redo, RunQueue,
    Service, Slot, SlotGroup,
)

cdef inline void check_layout() noexcept nogil:
    """End the build if a struct has another size, or a contended word shares its cache line with others."""
    ff_expect_bytes(sizeof(Redo), 24)
    ff_expect_bytes(sizeof(Group), 16)
    ff_expect_bytes(sizeof(SlotGroup), 56)
    ff_expect_bytes(sizeof(Extent), 312)
    ff_expect_bytes(sizeof(Header), 17760)
    ff_expect_bytes(sizeof(Process), 3 * CACHE_LINE)
    ff_expect_bytes(sizeof(Service), CACHE_LINE)
    ff_expect_bytes(sizeof(RunQueue), 18 * CACHE_LINE)
    ff_expect_bytes(sizeof(Slot), 4 * CACHE_LINE)
    ff_expect_bytes(sizeof(Policy), CACHE_LINE)
    ff_expect_bytes(sizeof(DependencyEdge), 24)
    ff_expect_bytes(sizeof(Dependencies), 48)
    ff_expect_bytes(sizeof((<Header *> 0).lock), 8 * LOCK_WORDS)
    ff_expect_own_line((<Header *> 0).lock)
    ff_expect_own_line((<Header *> 0).service_high)
    ff_expect_own_line((<Header *> 0).pool_wake)
    ff_expect_own_line((<Header *> 0).sought_ns)
    ff_expect_own_line((<Header *> 0).blocks_taken)
    ff_expect_own_line((<RunQueue *> 0).tail)
    ff_expect_own_line((<RunQueue *> 0).head)
    ff_expect_own_line((<RunQueue *> 0).state)
    ff_expect_own_line((<RunQueue *> 0).permits)
    # Each pair is one word of 64 bits for some operation.
    ff_expect_together((<Header *> 0).pool_wake, (<Header *> 0).pool_sleepers)
    ff_expect_together((<RunQueue *> 0).wake, (<RunQueue *> 0).sleepers)
    ff_expect_together((<Process *> 0).state, (<Process *> 0).pid)
    ff_expect_together((<Slot *> 0).refs, (<Slot *> 0).releaser)
