# Deadlock detection: a search for cycles in the wait-for graph of tasks. A wait in a cycle can never end.
# uses: nothing

from libc.stdint cimport uint32_t, uint64_t
from .core.externs cimport ff_load32, ff_load64
from .core.layout cimport (
    READY, RING_MASK, RUNNING, SLOT_COUNT, WAITING, WAITS_FOR_ANY, Dependencies, DependencyEdge, RunQueue, Slot,
)
from .core.regions cimport Memory
from .core.bounds cimport follows, is_within, process_number, word_near
from .core.lookup cimport edges_of, home_of, is_finished, queue_of, status_of
from .core.run_queue cimport is_stale, lap_of

cdef tuple unfinished_needs(Memory *memory, uint32_t index):
    """Return (unfinished slots all of which a task needs to finish, unfinished slots of which it needs any one)."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    cdef uint32_t status = status_of(state), queue_index = queue_of(memory, slot)
    cdef set needs = set()
    cdef list choice = []
    if status == RUNNING:
        add_targets(memory, slot, needs, choice)
    elif status == WAITING or status == READY:
        add_dependencies(memory, slot, needs)
        if memory.queues[queue_index].ordered:
            add_calls_before(memory, queue_index, index, needs)
    if ff_load64(&slot.state) != state:       # it changed meanwhile: what was read may be of something else
        return set(), set()
    # Memory order: where loads may be reordered, as on ARM, what was read may be of something else all the same; this keeps
    # every number in bounds.
    return {need for need in needs if need < SLOT_COUNT and not is_finished(memory, need)}, set(choice)

cdef int add_targets(Memory *memory, Slot *slot, set needs, list choice) except -1:
    """Add what a running task waits for, as its wait has published it."""
    # S18: pairs with `publish` of waits.pxi
    cdef uint64_t waits_for = ff_load64(&slot.waits_for)
    cdef uint64_t *block
    cdef uint64_t count
    cdef uint32_t i
    if waits_for & WAITS_FOR_ANY:
        block = word_near(memory, waits_for & ~WAITS_FOR_ANY)
        count = min(block[0], <uint64_t> SLOT_COUNT)
        if not is_within(memory, <char *> block - memory.base, 8 * (count + 1)):
            count = 0
        any_of = [block[1 + i] for i in range(count) if block[1 + i] < SLOT_COUNT]
        if ff_load64(&slot.waits_for) == waits_for:     # else its wait is over: the block may be gone
            choice.extend(any_of)
    elif waits_for:
        needs.add(waits_for - 1)
    return 0

cdef int add_dependencies(Memory *memory, Slot *slot, set needs) except -1:
    """Add the dependencies of a task that has not begun."""
    cdef Dependencies *dependencies = <Dependencies *> word_near(memory, slot.dependencies)
    cdef uint32_t i, count = min(dependencies.count, <uint32_t> SLOT_COUNT)
    if is_within(memory, <char *> dependencies - memory.base, sizeof(Dependencies) + count * sizeof(DependencyEdge)):
        for i in range(count):
            needs.add(edges_of(dependencies)[i].dependency)
    return 0

cdef int add_calls_before(Memory *memory, uint32_t queue_index, uint32_t index, set needs) except -1:
    """Add the call that an instance runs, and the calls submitted before slot `index` in its ordered queue."""
    cdef RunQueue *queue = &memory.queues[queue_index]
    cdef uint64_t *ring = memory.rings + <uint64_t> queue_index * SLOT_COUNT
    cdef uint64_t current, head, entry
    cdef uint32_t i, links = 0, process = ff_load32(&memory.queues[home_of(memory, queue_index)].process)
    current = ff_load64(&memory.processes[process_number(memory, process - 1)].current) if process else 0
    if current:
        needs.add(current - 1)
    head = ff_load64(&queue.head)
    while head < ff_load64(&queue.tail) and follows(memory, &links):
        entry = ff_load64(&ring[head & RING_MASK])
        i = <uint32_t> (entry & RING_MASK) - 1
        if lap_of(entry) == lap_of(head) and entry & RING_MASK and not is_stale(memory, queue_index, head, entry):
            if i == index:
                break
            needs.add(i)
        head += 1
    return 0

cdef int never_ends(Memory *memory, uint32_t waiting, list targets) except -1:
    """Return whether each of `targets` depends, through its own waits and dependencies, on the running task `waiting`.

    The search first collects the reachable part of the wait-for graph. Then it marks tasks that cannot finish, until there
    are no more of them.
    """
    cdef bint changed = True
    graph = {}
    todo = list(targets)
    while todo:
        index = todo.pop()
        if index != waiting and index not in graph:
            graph[index] = unfinished_needs(memory, index)
            todo.extend(graph[index][0])
            todo.extend(graph[index][1])
    stuck = {waiting}
    while changed:
        changed = False
        for index in reversed(graph):
            needs, choice = graph[index]
            if index not in stuck and (not stuck.isdisjoint(needs) or (choice and choice <= stuck)):
                stuck.add(index)
                changed = True
    return stuck.issuperset(targets)
