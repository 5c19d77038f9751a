# Waits that can never end: a search for cycles among what tasks wait for.
# uses: nothing

from libc.stdint cimport uint32_t, uint64_t
from .core.externs cimport ff_load32, ff_load64
from .core.layout cimport (
    READY, RING_MASK, RUNNING, SLOT_COUNT, WAITING, WAITS_FOR_ANY, Dependencies, DependencyEdge, RunQueue, Slot,
)
from .core.regions cimport Memory
from .core.lookup cimport edges_of, is_finished, status_of
from .core.run_queue cimport is_stale, lap_of

cdef tuple unfinished_needs(Memory *memory, uint32_t index):
    """(slots without all of which this one cannot finish; slots of which it needs any one), unfinished ones."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state), waits_for, current, head, entry
    cdef RunQueue *queue = &memory.queues[slot.queue]
    cdef uint64_t *ring = memory.rings + <uint64_t> slot.queue * SLOT_COUNT
    cdef Dependencies *dependencies
    cdef DependencyEdge *edges
    cdef uint64_t *block
    cdef uint32_t i, status = status_of(state), process
    needs = set()
    choice = []
    if status == RUNNING:
        waits_for = ff_load64(&slot.waits_for)
        if waits_for & WAITS_FOR_ANY:
            block = <uint64_t *> (memory.base + (waits_for & ~WAITS_FOR_ANY))
            choice = [block[1 + i] for i in range(min(block[0], SLOT_COUNT)) if block[1 + i] < SLOT_COUNT]
            if ff_load64(&slot.waits_for) != waits_for:     # its wait is over: the block may be gone
                choice = []
        elif waits_for:
            needs.add(waits_for - 1)
    elif status == WAITING or status == READY:
        if slot.dependencies:
            dependencies = <Dependencies *> (memory.base + slot.dependencies)
            edges = edges_of(dependencies)
            for i in range(min(dependencies.count, SLOT_COUNT)):
                needs.add(edges[i].dependency)
        if queue.ordered:
            process = ff_load32(&queue.process)
            current = ff_load64(&memory.processes[process - 1].current) if process else 0
            if current:
                needs.add(current - 1)
            head = ff_load64(&queue.head)
            while head < ff_load64(&queue.tail):                 # the calls made before it
                entry = ff_load64(&ring[head & RING_MASK])
                i = <uint32_t> (entry & RING_MASK) - 1
                if lap_of(entry) == lap_of(head) and entry & RING_MASK and not is_stale(memory, slot.queue, head, entry):
                    if i == index:
                        break
                    needs.add(i)
                head += 1
    if ff_load64(&slot.state) != state:       # it changed meanwhile: what was read may be of something else
        return set(), set()
    # Where loads may change places, as on ARM, what was read may be of something else all the same: no number is out of bounds.
    return {need for need in needs if need < SLOT_COUNT and not is_finished(memory, need)}, set(choice)

cdef int never_ends(Memory *memory, uint32_t waiting, list targets) except -1:
    """Whether every one of `targets` needs, through whatever it waits for in turn, the running task `waiting`.

    First the tasks that matter are collected, then those that cannot end are marked, until no more are found.
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
