# The task table: one slot for each call, promise and value that has a reference or is not finished.
#
# Guarantees: the table is the truth about a task; the entries of queues and logs and the notes of processes are only hints
# to it.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .externs cimport ff_and32, ff_cas64, ff_count, ff_exchange32, ff_load32, ff_load64, ff_store32, ff_store64
from .layout cimport (
    DONE, FAILED, FREE, GENERATION_SHIFT, GROUP_BITS, KIND_EXTENT, KIND_HANDLES, KIND_LINKED, LEAVING, NO_DEPENDENCY,
    NO_SERVICE, PAYLOAD, REF_CREATOR, REF_RUN, RELEASE_BITS, RESULT, Dependencies, DependencyEdge, Process, Slot,
)
from .regions cimport SLOT_POOL, Memory
from .bounds cimport process_number, slot_number
from .lookup cimport (
    block_of, dependencies_of, dependency_count, edges_of, extent_of, generation_of, is_extent, kind_of, status_of,
    with_status,
)
from .extents cimport extent_release
from .groups cimport member_alloc, member_free
from .references cimport value_link, value_unlink
from .blocks cimport block_free, block_published, slab_free

cdef inline int64_t slot_alloc(Memory *memory) noexcept nogil:
    """Allocate a slot for this process; return its index, -1 when all are in use.

    Its status is still FREE. Process.building names it from now on.
    """
    cdef int64_t member = member_alloc(memory, SLOT_POOL)
    if member < 0:
        return -1
    ff_count(&memory.header.slots_taken)
    return (member >> 6) * GROUP_BITS + (member & 63)

cdef inline void slot_retire(Memory *memory, uint32_t index, uint64_t held) noexcept nogil:
    """Claim a slot without references and free it; of several processes only one succeeds.

    `held` is the state that the caller read while it still had its reference.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t state = ff_load64(&slot.state)
    if generation_of(state) == generation_of(held) and (status_of(state) == DONE or status_of(state) == FAILED) \
            and ff_cas64(&slot.state, state, with_status(state, LEAVING, memory.me)):        # S13: pairs with `recover_slot`
        slot_free(memory, index)

cdef inline void slot_free(Memory *memory, uint32_t index) noexcept nogil:
    """Free the blocks of a slot that this process owns, LEAVING or FREE, and then the slot.

    Its generation goes up, so that a process that has read its state before cannot claim it (ABA). Its state names the
    process that freed it, in case that dies before the slot's bit is cleared.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t dependencies = slot.dependencies
    release_dependencies(memory, slot)
    value_free(memory, index, PAYLOAD)
    value_free(memory, index, RESULT)
    if dependencies:
        slot.dependencies = 0
        block_free(memory, dependencies)
    ff_count(&memory.header.slots_freed)
    # S21: pairs with each cas of `state`.
    ff_store64(&slot.state, with_status((generation_of(slot.state) + 1) << GENERATION_SHIFT, FREE, memory.me))
    member_free(memory, SLOT_POOL, index // GROUP_BITS, index % GROUP_BITS)

cdef inline void slot_prepare(Memory *memory, uint32_t index) noexcept nogil:
    """Make an allocated slot its creator's.

    It has no value and no dependencies: the process that freed it has given those back.
    """
    cdef Slot *slot = &memory.slots[index]
    slot.waiters = 0
    slot.creator = memory.me
    slot.payload_bytes = 0
    slot.watched = slot.started = 0
    slot.service = NO_SERVICE
    slot.flags = 0
    slot.queue = 0
    # S14: pairs with recovery, which looks at `refs` first and only then at `creator`: so `creator` is written before.
    ff_store32(&slot.refs, REF_CREATOR | REF_RUN)

cdef inline void value_store(Memory *memory, uint32_t index, uint32_t which, uint64_t block, uint64_t nbytes,
                             uint32_t kind) noexcept nogil:
    """Make a filled block, and the extents that its value refers to, a slot's payload or result.

    `block` 0: the value is in `data` already.
    """
    cdef Slot *slot = &memory.slots[index]
    if block and is_extent(memory, block):
        kind |= KIND_EXTENT
    ff_store32(kind_of(slot, which), kind)              # before the block: it tells how to free that
    if which == RESULT:
        slot.result_bytes = nbytes
        ff_store64(&slot.result, block)
    else:
        slot.payload_bytes = nbytes
        ff_store64(&slot.payload, block)
    block_published(memory)
    if kind & (KIND_HANDLES | KIND_EXTENT):
        value_link(memory, index, which)
        if kind & KIND_EXTENT:
            extent_release(memory, extent_of(memory, block))

cdef inline void value_free(Memory *memory, uint32_t index, uint32_t which) noexcept nogil:
    """Free what a payload or result takes, beyond its slot."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint64_t block = block_of(slot, which)
    cdef uint32_t kind = kind_of(slot, which)[0]
    if kind & KIND_LINKED:
        value_unlink(memory, index, which)
    if which == RESULT:
        slot.result = 0
    else:
        slot.payload = 0
    if block and not kind & KIND_EXTENT:
        slab_free(memory, extent_of(memory, block), block)
    kind_of(slot, which)[0] = 0

cdef inline uint32_t release_refs(Memory *memory, uint32_t index, uint32_t bits) noexcept nogil:
    """Clear reference bits; the process that clears the last one frees the slot. Idempotent. Return those there were."""
    # S13: pairs with `recover_slot`, which sees `refs` = 0 and claims the slot by the same cas.
    cdef uint64_t held = ff_load64(&memory.slots[index].state)
    cdef uint32_t before = ff_and32(&memory.slots[index].refs, ~bits)
    if before & bits and not before & ~bits:
        slot_retire(memory, index, held)
    return before

cdef inline void begin_release(Memory *memory, uint32_t index) noexcept nogil:
    """Number this process's next release, of a slot, so that its tag differs from the slot's present one.

    Numbers wrap after 2**RELEASE_BITS releases. That is harmless (no ABA): only this process writes its tags. The slot's tag
    is another one when the release begins, so this release's tag, found there later, tells that the release was done.
    """
    cdef Process *process = &memory.processes[memory.me]
    cdef uint64_t release_seq = process.release_seq + 1
    while releaser_tag(memory.me, release_seq) == ff_load32(&memory.slots[index].releaser):
        release_seq += 1
    ff_store64(&process.releasing_slot, index)     # first: see `help_release`
    ff_store64(&process.release_seq, release_seq)

cdef inline void release_dependent(Memory *memory, uint32_t index, uint32_t releaser) noexcept nogil:
    """Decrement the dependent count and tag the word with (process, sequence) of this release.

    So recovery can tell a death right before the decrement from one right after it. This is a recoverable compare-and-swap
    (Attiya, Ben-Baruch, Hendler, "Nesting-Safe Recoverable Linearizability", PODC 2018): a process that overwrites a tag
    first acknowledges it to the tag's process (helping).
    """
    cdef Process *process = &memory.processes[releaser]
    cdef uint64_t *word = <uint64_t *> &memory.slots[index].refs
    cdef uint64_t held = ff_load64(&memory.slots[index].state), refs
    cdef uint64_t mark = <uint64_t> releaser_tag(releaser, process.release_seq) << 32
    while True:
        refs = ff_load64(word)
        # S11: pairs with `recover_release`: the acknowledgment first, then the cas that overwrites the tag.
        help_release(memory, index, <uint32_t> (refs >> 32))
        if ff_cas64(word, refs, mark | <uint32_t> (<uint32_t> refs - 1)):
            break
    ff_store64(&process.releasing_edge, 0)
    if <uint32_t> refs == 1:
        slot_retire(memory, index, held)

cdef inline uint32_t releaser_tag(uint32_t process, uint64_t release_seq) noexcept nogil:
    """Return the tag of a release: its process and its number, not 0."""
    return process << RELEASE_BITS | <uint32_t> (release_seq % ((1 << RELEASE_BITS) - 1) + 1)

cdef inline void help_release(Memory *memory, uint32_t index, uint32_t releaser) noexcept nogil:
    """Acknowledge a release to the process of this tag, because the tag is about to be overwritten.

    Helping: if that process dies meanwhile, its recovery finds the acknowledgment in place of the tag. A tag of an earlier
    release may have the number of the one in progress. The one in progress is of another slot, or it began when this slot
    had another tag (`begin_release`): so a tag is its own only if it still stands after it has begun.
    """
    cdef uint32_t at = process_number(memory, releaser >> RELEASE_BITS)
    cdef Process *process = &memory.processes[at]
    cdef uint64_t release_seq, acked_release
    if at == memory.me or releaser == 0:
        return
    release_seq = ff_load64(&process.release_seq)
    if releaser_tag(at, release_seq) != releaser or ff_load64(&process.releasing_slot) != index \
            or ff_load32(&memory.slots[index].releaser) != releaser:
        return
    acked_release = ff_load64(&process.acked_release)
    while <int64_t> (release_seq - acked_release) > 0 and not ff_cas64(&process.acked_release, acked_release, release_seq):
        acked_release = ff_load64(&process.acked_release)

cdef inline void release_dependencies(Memory *memory, Slot *slot) noexcept nogil:
    """Release a finished task's references to its dependencies, each exactly once.

    It may go on where another process was interrupted.
    """
    cdef Dependencies *dependencies
    cdef uint32_t i
    if not slot.dependencies:
        return
    dependencies = dependencies_of(memory, slot)
    for i in range(dependency_count(memory, dependencies)):
        release_edge(memory, &edges_of(dependencies)[i])

cdef inline void release_edge(Memory *memory, DependencyEdge *edge) noexcept nogil:
    cdef Process *process = &memory.processes[memory.me]
    cdef uint32_t held
    held = ff_load32(&edge.dependency)
    if held == NO_DEPENDENCY:
        return
    begin_release(memory, slot_number(memory, held))
    ff_store64(&process.releasing_edge, <uint64_t> (<char *> edge - memory.base))
    held = ff_exchange32(&edge.dependency, NO_DEPENDENCY)
    if held != NO_DEPENDENCY:
        release_dependent(memory, slot_number(memory, held), memory.me)
    ff_store64(&process.releasing_edge, 0)
