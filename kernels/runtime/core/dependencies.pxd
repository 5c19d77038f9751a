# Dependencies: what a task still waits for.
#
# Its block `Dependencies` has an edge per dependency, which stands on that dependency's waiter list until the dependency is
# finished, and a bit per missing dependency.
#
# Guarantees: exactly one process clears the last bit, and that process makes the task ready. After that step the block may
# be freed: only that process goes on in it.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .externs cimport ff_cas64, ff_load64
from .layout cimport (
    CLEARED_SHIFT, DONE, LAST_SHIFT, MOST_LEVELS, READY, REF_EDGES, RUNNING, WAITERS_CLOSED, WAITING, WORD_BITS,
    Dependencies, DependencyEdge, Slot,
)
from .regions cimport Memory
from .bounds cimport at_most, follows, word_near
from .lookup cimport dependencies_of, dependency_count, edge_at, queue_of, status_of, with_status
from .wakeup cimport wake_queue
from .slots cimport release_dependencies, release_refs
from .run_queue cimport queue_push

cdef inline uint64_t *missing_word(Memory *memory, Dependencies *dependencies, uint32_t level, uint32_t i) noexcept nogil:
    """Return the address of word `i` of a level."""
    cdef uint64_t at = dependencies.level_at[level % MOST_LEVELS] + 8 * <uint64_t> i
    return word_near(memory, <uint64_t> (<char *> dependencies - memory.base) + at)

cdef inline uint32_t level_count(Memory *memory, Dependencies *dependencies) noexcept nogil:
    return at_most(memory, dependencies.levels, MOST_LEVELS)

cdef inline uint64_t *missing_top(Memory *memory, Dependencies *dependencies) noexcept nogil:
    return missing_word(memory, dependencies, dependencies.levels - 1, 0)

cdef inline uint64_t dependencies_bytes(uint32_t count, Dependencies *dependencies) noexcept nogil:
    """Return the bytes of the block of a task with `count` dependencies.

    Write the offsets of its levels into `dependencies`, which was all zeroes.
    """
    cdef uint32_t bits = count + 1
    cdef uint64_t nbytes = sizeof(Dependencies) + count * sizeof(DependencyEdge)
    dependencies.count = count
    while True:
        dependencies.level_at[dependencies.levels] = nbytes
        dependencies.levels += 1
        bits = (bits + WORD_BITS - 1) // WORD_BITS
        nbytes += 8 * <uint64_t> bits
        if bits == 1:
            return nbytes

cdef inline void mark_all_missing(Memory *memory, Dependencies *dependencies) noexcept nogil:
    """Set the bit of every dependency, and the submitter's own bit."""
    cdef uint32_t bits = dependency_count(memory, dependencies) + 1, level, words, i
    for level in range(level_count(memory, dependencies)):
        words = (bits + WORD_BITS - 1) // WORD_BITS
        for i in range(words):
            missing_word(memory, dependencies, level, i)[0] = \
                (<uint64_t> 1 << min(bits - i * WORD_BITS, <uint32_t> WORD_BITS)) - 1
        bits = words

cdef inline int is_missing(Memory *memory, Dependencies *dependencies, uint32_t bit) noexcept nogil:
    return ff_load64(missing_word(memory, dependencies, 0, bit // WORD_BITS)) >> (bit % WORD_BITS) & 1

cdef inline int all_there(Memory *memory, Dependencies *dependencies) noexcept nogil:
    return ff_load64(missing_top(memory, dependencies)) >> CLEARED_SHIFT

cdef inline int mark_ready(Memory *memory, Dependencies *dependencies, uint32_t bit) noexcept nogil:
    """Clear the bit of one dependency; return 1, to exactly one process, when none is missing. Idempotent."""
    return clear_from(memory, dependencies, 0, bit)

cdef inline int clear_from(Memory *memory, Dependencies *dependencies, uint32_t level, uint32_t bit) noexcept nogil:
    """Clear a bit of one level, and the bits above of words that become empty by that.

    After the last bit of a word, and not before, the block may be freed: only the process that cleared that bit goes on in
    it.
    """
    cdef uint32_t levels = level_count(memory, dependencies)
    cdef uint64_t *at
    cdef uint64_t word, left = 0
    while level < levels and left == 0:
        at = missing_word(memory, dependencies, level, bit // WORD_BITS)
        while True:
            word = ff_load64(at)
            if not word >> (bit % WORD_BITS) & 1:       # a cleared word has no bit either
                return 0
            left = word & ~(<uint64_t> 1 << (bit % WORD_BITS))
            # S12: pairs with `clear_again`: the last bit goes and the mark comes in one step. S19: and with
            # `promote_if_there`.
            if ff_cas64(at, word, left or cleared_by(memory.me)):
                break
        bit //= WORD_BITS
        level += 1
    return left == 0

cdef inline uint64_t cleared_by(uint32_t process) noexcept nogil:
    return <uint64_t> 1 << CLEARED_SHIFT | <uint64_t> process << LAST_SHIFT

cdef inline int clear_again(Memory *memory, Dependencies *dependencies, uint32_t dead) noexcept nogil:
    """Continue above the words whose last bit a dead process cleared; return 1 when no bit is left."""
    cdef uint32_t level, i, words = dependency_count(memory, dependencies) + 1
    for level in range(max(level_count(memory, dependencies), <uint32_t> 1) - 1):
        words = (words + WORD_BITS - 1) // WORD_BITS
        for i in range(words):
            # S12: pairs with the cas in `clear_from`.
            if ff_load64(missing_word(memory, dependencies, level, i)) == cleared_by(dead) \
                    and clear_from(memory, dependencies, level + 1, i):
                return 1
    return 0

cdef inline void promote(Memory *memory, uint32_t index, uint64_t state, int64_t *next_task) noexcept nogil:
    """Make a WAITING task runnable, once its last dependency has finished and its state was `state`.

    This process keeps a task of queue 0 in `next_task`, if that is free; else the task becomes READY and is queued. In an
    ordered queue it has an entry already.
    """
    cdef Slot *slot = &memory.slots[index]
    if status_of(state) != WAITING:
        return
    if next_task != NULL and next_task[0] < 0 and slot.queue == 0:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            next_task[0] = index
        return
    memory.processes[memory.me].promoting = index + 1
    if ff_cas64(&slot.state, state, with_status(state, READY, 0)):
        if not memory.queues[queue_of(memory, slot)].ordered:
            queue_push(memory, queue_of(memory, slot), index)
        wake_queue(memory, queue_of(memory, slot))
    memory.processes[memory.me].promoting = 0

cdef inline void promote_if_there(Memory *memory, uint32_t index) noexcept nogil:
    """Promote a task that waits again, if its last dependency finished while it was claimed.

    If its state has not changed meanwhile, the dependencies looked at are its own.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state), dependencies = slot.dependencies
    # S19: pairs with `clear_from`, after which the clearer looks at the state.
    if status_of(state) == WAITING and dependencies and all_there(memory, <Dependencies *> word_near(memory, dependencies)):
        promote(memory, index, state, NULL)

cdef inline void dependency_ready(Memory *memory, uint32_t task, uint32_t bit, int64_t *next_task) noexcept nogil:
    """Record that one dependency of a task has finished. Idempotent."""
    if mark_ready(memory, dependencies_of(memory, &memory.slots[task]), bit):
        all_dependencies_ready(memory, task, next_task)

cdef inline void all_dependencies_ready(Memory *memory, uint32_t task, int64_t *next_task) noexcept nogil:
    """Make a task ready when its last dependency arrives or, if it failed early, release its dependencies.

    It has no edge on any waiter list any more. What is not released here is released by `slot_free`.
    """
    # S19: pairs with `promote_if_there`: the last bit is cleared before this look at the state.
    promote(memory, task, ff_load64(&memory.slots[task].state), next_task)
    if status_of(ff_load64(&memory.slots[task].state)) >= DONE:
        release_dependencies(memory, &memory.slots[task])
    release_refs(memory, task, REF_EDGES)

cdef inline int subscribe(Memory *memory, Slot *dependency, DependencyEdge *edge) noexcept nogil:
    """Push an edge onto a dependency's waiter list; return 0 when the dependency has finished already."""
    cdef uint64_t head = ff_load64(&dependency.waiters)
    while head != WAITERS_CLOSED:
        edge.next = head
        # S8: pairs with the exchange by CLOSED in `tell_dependents`.
        if ff_cas64(&dependency.waiters, head, <uint64_t> (<char *> edge - memory.base)):
            return 1
        head = ff_load64(&dependency.waiters)
    return 0

cdef inline int is_subscribed(Memory *memory, Slot *dependency, DependencyEdge *edge) noexcept nogil:
    """Tell whether an edge is on a dependency's waiter list, while other processes push onto it.

    1 also if the list was closed meanwhile with the edge on it: then the finisher tells its task. Edges leave the list only
    after it is closed, so what is read of an edge before the list is seen open is true.
    """
    cdef uint64_t at = ff_load64(&dependency.waiters), sought = <uint64_t> (<char *> edge - memory.base)
    cdef uint32_t links = 0
    while at > WAITERS_CLOSED and at != sought and follows(memory, &links):
        at = ff_load64(&edge_at(memory, at).next)
        # S15: pairs with the finisher, which closes the list before any edge of it can be freed.
        if ff_load64(&dependency.waiters) == WAITERS_CLOSED:
            return 0
    return at == sought
