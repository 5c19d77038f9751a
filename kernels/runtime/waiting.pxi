# Waiting: spin briefly, then sleep on a futex; and knowing when a wait can never end.
#
# A spin round trip costs half a microsecond, waking a sleeper about ninety. But a spinner without a core of its own starves
# whoever it waits for, so at most cpus - 1 processes spin for long, by a token in the header; others spin only for as long as
# a hand-over takes. Whether there is a core to spare nobody says: other programs may have them all, and then the one woken
# waits for the spinner's. So spinning that has failed twice in a row is not tried but for every sixteenth time.

from posix.unistd cimport write as posix_write

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    SPIN_NS = 120_000           # somewhat above the price of a wake-up: whoever is waited for may have had to be woken
    SPIN_FREE_NS = 5_000        # without a token
    SPIN_SHORT_NS = 2_000       # after failures
    SPIN_FAILURES = 2
    SPIN_AGAIN = 16
    SLICE_NS = 250_000_000      # a sleeper looks around this often, in case a wake-up died with its sender
    IDLE_NS = 60_000_000_000    # a sleeping worker: every burial wakes all of them, since a call may have died with the dead
    PATIENCE_NS = 1_000_000     # a task waits this long before a worker is added beside it

cdef inline int token_take(Memory *memory, uint32_t me) noexcept nogil:
    cdef uint32_t count = ff_load32(&memory.header.spinners)
    if count + 1 >= memory.header.cpus or not ff_cas32(&memory.header.spinners, count, count + 1):
        return 0
    ff_add32(&memory.processes[me].spinning, 1)
    return 1

cdef inline void token_give(Memory *memory, uint32_t me) noexcept nogil:
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

cdef inline int is_finished(Memory *memory, uint32_t index) noexcept nogil:
    return status_of(ff_load64(&memory.slots[index].state)) >= DONE

cdef int sleep_for_futures(Memory *memory, uint32_t me, uint32_t seen, int64_t timeout_ns) noexcept nogil:
    """Sleeps until `wake` of this process is no more `seen`, or for the time given. Returns the errno of the futex."""
    cdef Process *process = &memory.processes[me]
    cdef int code
    ff_add32(&process.waiters, 1)
    code = ff_futex_wait(&process.wake, seen, timeout_ns)
    ff_add32(&process.waiters, <uint32_t> -1)
    return code

cdef void ring_bell(int doorbell) noexcept nogil:
    cdef uint64_t one = 1
    posix_write(doorbell, &one, 8)

# What a task waits for, told in Slot.waits_for: 0 nothing, slot + 1 one future, or WAITS_FOR_ANY with the offset of a block
# (u64 count, u64 slots) of which any one is enough.
cdef extern from *:
    """
    #define WAITS_FOR_ANY (UINT64_C(1) << 63)
    """
    const uint64_t WAITS_FOR_ANY

cdef tuple unfinished_needs(Memory *memory, uint32_t index):
    """(slots without all of which this one cannot finish; slots of which it needs any one), unfinished ones."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state), waits_for, current, head, hint
    cdef Lane *lane = &memory.lanes[slot.lane]
    cdef uint64_t *ring = memory.rings + <uint64_t> slot.lane * SLOT_COUNT
    cdef Inputs *inputs
    cdef Edge *edges
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
        if slot.inputs:
            inputs = <Inputs *> (memory.base + slot.inputs)
            edges = edges_of(inputs)
            for i in range(min(inputs.count, SLOT_COUNT)):
                needs.add(edges[i].input)
        if lane.ordered:
            process = ff_load32(&lane.process)
            current = ff_load64(&memory.processes[process - 1].current) if process else 0
            if current:
                needs.add(current - 1)
            head = ff_load64(&lane.head)
            while head < ff_load64(&lane.tail):                 # the calls made before it
                hint = ff_load64(&ring[head & RING_MASK])
                i = <uint32_t> (hint & RING_MASK) - 1
                if lap_of(hint) == lap_of(head) and hint & RING_MASK and not is_void(memory, slot.lane, head, hint):
                    if i == index:
                        break
                    needs.add(i)
                head += 1
    if ff_load64(&slot.state) != state:       # it changed meanwhile: what was read may be of something else
        return set(), set()
    # Where loads may change places, as on ARM, what was read may be of something else all the same: no number is out of bounds.
    return {need for need in needs if need < SLOT_COUNT and not is_finished(memory, need)}, set(choice)

cdef int never_ends(Memory *memory, uint32_t waiting, list waited) except -1:
    """Whether every one of `waited` needs, through whatever it waits for in turn, the running task `waiting`.

    First the tasks that matter are collected, then those that cannot end are marked, until no more are found.
    """
    cdef bint changed = True
    graph = {}
    todo = list(waited)
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
    return stuck.issuperset(waited)
