# What a task still waits for. Its block of `Inputs` has an edge per input, which stands on that input's waiter list until the input is
# finished, and a bit per input that is missing: whoever clears the last one makes the task ready.

cdef inline uint64_t *inputs_level(Inputs *inputs, uint32_t level) noexcept nogil:
    return <uint64_t *> (<char *> inputs + inputs.level_at[level])

cdef inline Edge *edges_of(Inputs *inputs) noexcept nogil:
    return <Edge *> (<char *> inputs + sizeof(Inputs))

cdef inline uint64_t *inputs_top(Inputs *inputs) noexcept nogil:
    return inputs_level(inputs, inputs.levels - 1)

cdef uint64_t inputs_bytes(uint32_t count, Inputs *inputs) noexcept nogil:
    """Bytes of the block of a task with `count` inputs; writes where its levels lie into `inputs`."""
    cdef uint32_t bits = count + 1
    cdef uint64_t nbytes = sizeof(Inputs) + count * sizeof(Edge)
    inputs.count = count
    inputs.levels = 0
    while True:
        inputs.level_at[inputs.levels] = nbytes
        inputs.levels += 1
        if bits <= TOP_BITS:
            return nbytes + 8
        bits = (bits + 63) >> 6
        nbytes += 8 * <uint64_t> bits

cdef void inputs_fill(Inputs *inputs) noexcept nogil:
    """Every input is missing, and the submitter's own bit."""
    cdef uint32_t bits = inputs.count + 1, level, words
    for level in range(inputs.levels):
        words = (bits + 63) >> 6
        memset(inputs_level(inputs, level), 0xFF, 8 * <size_t> words)
        if bits & 63:
            inputs_level(inputs, level)[words - 1] = (<uint64_t> 1 << (bits & 63)) - 1
        bits = words

cdef inline int is_missing(Inputs *inputs, uint32_t bit) noexcept nogil:
    cdef uint64_t word = ff_load64(&inputs_level(inputs, 0)[bit >> 6])
    if inputs.levels == 1 and word >> ALL_THERE_SHIFT:
        return 0
    return word >> (bit & 63) & 1

cdef inline int all_there(Inputs *inputs) noexcept nogil:
    return ff_load64(inputs_top(inputs)) >> ALL_THERE_SHIFT

cdef int inputs_clear(Memory *memory, Inputs *inputs, uint32_t bit) noexcept nogil:
    """Marks one input as there; 1 when it was the last one missing, to exactly one process."""
    cdef uint32_t level
    cdef uint64_t *top = inputs_top(inputs)
    cdef uint64_t mask, word, left
    for level in range(inputs.levels - 1):
        mask = ~(<uint64_t> 1 << (bit & 63))
        if ff_and64(&inputs_level(inputs, level)[bit >> 6], mask) & mask:
            return 0
        bit >>= 6
    while True:
        word = ff_load64(top)
        if word >> ALL_THERE_SHIFT or not word >> bit & 1:
            return 0
        left = word & ~(<uint64_t> 1 << bit)
        if ff_cas64(top, word, left or all_there_by(memory.me)):
            return left == 0

cdef inline uint64_t all_there_by(uint32_t process) noexcept nogil:
    return <uint64_t> 1 << ALL_THERE_SHIFT | <uint64_t> process << LAST_SHIFT

cdef void give_back_inputs(Memory *memory, Slot *slot) noexcept nogil:
    """Drops a finished task's holds on its inputs, each once, whoever was interrupted at it before."""
    cdef Inputs *inputs = <Inputs *> (memory.base + slot.inputs)
    cdef Edge *edges = edges_of(inputs)
    cdef uint32_t i
    if not slot.inputs:
        return
    for i in range(inputs.count):
        if ff_load32(&edges[i].input) != NO_INPUT:
            give_back_input(memory, &edges[i])

cdef void give_back_input(Memory *memory, Edge *edge) noexcept nogil:
    cdef Process *process = &memory.processes[memory.me]
    cdef uint32_t held
    held = ff_load32(&edge.input)
    if held == NO_INPUT:                # another process has given it back just now
        return
    number_drop(memory, held)
    ff_store64(&process.giving_edge, <uint64_t> (<char *> edge - memory.base))
    held = ff_exchange32(&edge.input, NO_INPUT)
    if held != NO_INPUT:
        drop_count(memory, held, memory.me)
    ff_store64(&process.giving_edge, 0)

cdef int promote(Memory *memory, uint32_t index, int64_t *kept) noexcept nogil:
    """The last input of a task is there: this process keeps it, or WAITING -> READY and queued (in an ordered lane it stands
    already)."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if status_of(state) != WAITING:
        return 0
    if kept != NULL and kept[0] < 0 and slot.lane == 0:
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, memory.me)):
            kept[0] = index
        return 1
    memory.processes[memory.me].promoting = index + 1
    if ff_cas64(&slot.state, state, with_status(state, READY, 0)):
        if not memory.lanes[slot.lane].ordered:
            lane_push(memory, slot.lane, index)
        wake_lane(memory, slot.lane)
    memory.processes[memory.me].promoting = 0
    return 1

cdef void input_arrived(Memory *memory, uint32_t task, uint32_t bit, int64_t *kept) noexcept nogil:
    """May be said twice of the same input."""
    if inputs_clear(memory, <Inputs *> (memory.base + memory.slots[task].inputs), bit):
        all_arrived(memory, task, kept)

cdef void all_arrived(Memory *memory, uint32_t task, int64_t *kept) noexcept nogil:
    """A task stands on no list any more. One that has failed long ago gives its inputs back now (or at `slot_return`)."""
    promote(memory, task, kept)
    if status_of(ff_load64(&memory.slots[task].state)) >= DONE:
        give_back_inputs(memory, &memory.slots[task])
    release_bits(memory, task, HOLD_EDGES)

cdef int stand_on(Memory *memory, Slot *input, Edge *edge) noexcept nogil:
    """Puts an edge onto an input's waiter list; 0 when that has finished already."""
    cdef uint64_t head = ff_load64(&input.waiters)
    while head != WAITERS_CLOSED:
        edge.next = head
        if ff_cas64(&input.waiters, head, <uint64_t> (<char *> edge - memory.base)):
            return 1
        head = ff_load64(&input.waiters)
    return 0

cdef int stands_on(Memory *memory, Slot *input, Edge *edge) noexcept nogil:
    """Whether an edge is on an input's waiter list, while others push onto it; -1 when that has finished.

    Edges leave the list only after it is closed, so what is read of one before the list is seen open is true.
    """
    cdef uint64_t at = ff_load64(&input.waiters), sought = <uint64_t> (<char *> edge - memory.base)
    while at > WAITERS_CLOSED and at != sought:
        at = ff_load64(&(<Edge *> (memory.base + at)).next)
        if ff_load64(&input.waiters) == WAITERS_CLOSED:
            break
    if ff_load64(&input.waiters) == WAITERS_CLOSED:
        return -1
    return at == sought
