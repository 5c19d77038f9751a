# Bounds: what is read from the segment becomes an index or an address only here.
#
# A task's native code (a C extension, ctypes, a compiled kernel without bounds checks) may write anywhere in its process, so
# also into the segment. The driver and the supervisor (zygote) must survive that: each number they read there is brought
# into its range before they follow it. An index wraps within its table; an offset outside of the arena becomes that of the
# trap, a piece of the segment that nothing else uses. `Memory.damaged` then says that the segment cannot be trusted any
# more, and whoever calls the core raises an error that says so (`Segment.check`).
#
# Who reads what another process may change or free meanwhile, and looks afterwards whether it did, brings numbers into their
# range without taking them for damage (`word_near`, `is_within`).
#
# Guarantees: nothing here makes damage harmless, only bounded: no access outside of the mapping, and walks that end.
# Rejected: a protection key for the tables: each call would switch it twice, and few machines have it.

from libc.stdint cimport uint32_t, uint64_t
from .layout cimport EXTENT_COUNT, GROUP_COUNT, MAGIC, PROCESS_COUNT, QUEUE_COUNT, SERVICE_COUNT, SLOT_COUNT, Header
from .regions cimport TRAP_BYTES, Memory

cdef enum:
    #: Links that a walk follows at most: a waiter list has one edge per task. Also attempts to push onto a queue.
    MOST_LINKS = SLOT_COUNT

cdef inline uint32_t bounded(Memory *memory, uint32_t index, uint32_t count) noexcept nogil:
    """Return an index of a table with `count` entries, a power of two."""
    if index >= count:
        memory.damaged = 1
    return index & (count - 1)

cdef inline uint32_t slot_number(Memory *memory, uint32_t index) noexcept nogil:
    return bounded(memory, index, SLOT_COUNT)

cdef inline uint32_t process_number(Memory *memory, uint32_t index) noexcept nogil:
    return bounded(memory, index, PROCESS_COUNT)

cdef inline uint32_t queue_number(Memory *memory, uint32_t index) noexcept nogil:
    return bounded(memory, index, QUEUE_COUNT)

cdef inline uint32_t service_number(Memory *memory, uint32_t index) noexcept nogil:
    return bounded(memory, index, SERVICE_COUNT)

cdef inline uint32_t extent_number(Memory *memory, uint32_t index) noexcept nogil:
    return bounded(memory, index, EXTENT_COUNT)

cdef inline uint32_t group_number(Memory *memory, uint32_t index) noexcept nogil:
    if index >= GROUP_COUNT:
        memory.damaged = 1
        return 0
    return index

cdef inline uint32_t at_most(Memory *memory, uint32_t count, uint32_t most) noexcept nogil:
    """Return a number of entries, of which a table has `most`."""
    if count > most:
        memory.damaged = 1
        return most
    return count

cdef inline int follows(Memory *memory, uint32_t *links) noexcept nogil:
    """Count a link that a walk follows; return 0 if the list must be a cycle."""
    links[0] += 1
    if links[0] > MOST_LINKS:
        memory.damaged = 1
        return 0
    return 1

cdef inline int is_header_sound(Memory *memory) noexcept nogil:
    """Tell whether the header is a header still: where it is not, nobody may ever find a task."""
    cdef Header *header = memory.header
    if header.magic != MAGIC or header.size != memory.size or header.process_high < 2 or header.pool_queue_high < 1:
        memory.damaged = 1
    return not memory.damaged

cdef inline int is_within(Memory *memory, uint64_t offset, uint64_t nbytes) noexcept nogil:
    """Tell whether a range lies in the arena."""
    return memory.arena <= offset <= memory.size and nbytes <= memory.size - offset

cdef inline uint64_t block_number(Memory *memory, uint64_t offset) noexcept nogil:
    """Return the offset of a block, behind whose begin TRAP_BYTES can be accessed."""
    if offset - memory.arena > memory.size - memory.arena - TRAP_BYTES:     # unsigned: also if it is less
        memory.damaged = 1
        return memory.arena - TRAP_BYTES
    return offset & ~<uint64_t> 7           # atomic steps need words in one piece

cdef inline uint64_t *word_near(Memory *memory, uint64_t offset) noexcept nogil:
    """Return the address of a word of a block that may have been freed meanwhile: what it leads to is no damage."""
    if not is_within(memory, offset, 8):
        offset = memory.arena - TRAP_BYTES
    return <uint64_t *> (memory.base + (offset & ~<uint64_t> 7))

cdef inline char *block_at(Memory *memory, uint64_t offset) noexcept nogil:
    """Return the address of a block."""
    return memory.base + block_number(memory, offset)
