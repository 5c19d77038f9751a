# The arena: blocks of shared memory by size class, from lock-free stacks.
#
# Guarantees: a block is 64-byte aligned; taking and freeing are one compare-and-swap each; a death between two instructions
# loses at most the block in hand. Assumes: what lies behind a freed block may still be *read* by a loser of the race (its
# swap then fails by the tag), so memory is never unmapped while somebody is attached.
# Freed blocks of at least LARGE keep their pages, for warm reuse, up to CACHE_LIMIT in all; beyond it the pages go back.

cdef extern from "sys/mman.h" nogil:
    int madvise(void *addr, size_t length, int advice) noexcept
    int MADV_REMOVE, MADV_DONTDUMP

cdef enum:
    LARGE = 1 << 14
    CACHE_LIMIT = 1 << 28
    OFFSET_BITS = 34

cdef inline uint32_t size_class_of(uint64_t total) noexcept nogil:
    """Smallest class whose blocks hold `total` bytes: four sizes per doubling, from 128 bytes up."""
    cdef uint32_t exponent, step
    cdef uint64_t rest
    if total <= 128:
        return 0
    exponent = 63 - clz64(total - 1)            # 2^exponent <= total - 1
    rest = (total - 1) - (<uint64_t> 1 << exponent)
    step = <uint32_t> (rest >> (exponent - 2))
    return (exponent - 7) * 4 + step + 1

cdef inline uint64_t size_of_class(uint32_t size_class) noexcept nogil:
    cdef uint32_t exponent, step
    if size_class == 0:
        return 128
    exponent = (size_class - 1) // 4 + 7
    step = (size_class - 1) % 4 + 1
    return (<uint64_t> 1 << exponent) + (<uint64_t> step << (exponent - 2))

cdef int raise_within(uint64_t *counter, uint64_t by, uint64_t most, uint64_t *before) noexcept nogil:
    """Adds to a counter unless that would exceed `most`; 0 if it would. Never above it, not even for a moment."""
    cdef uint64_t value = ff_load64(counter)
    while by <= most and value <= most - by:
        if ff_cas64(counter, value, value + by):
            if before != NULL:
                before[0] = value
            return 1
        value = ff_load64(counter)
    return 0

cdef uint64_t arena_take(char *base, uint64_t nbytes) noexcept nogil:
    """Offset of `nbytes` fresh or recycled bytes, 64-byte aligned; 0 when the store is full."""
    cdef Header *header = <Header *> base
    cdef uint32_t size_class = size_class_of(nbytes + CACHE_LINE)
    cdef uint64_t size, word, offset = 0, following, tag
    cdef Block *block
    if size_class >= CLASS_COUNT:
        return 0
    size = (size_of_class(size_class) + CACHE_LINE - 1) & ~(<uint64_t> CACHE_LINE - 1)
    if not raise_within(&header.live_bytes, size, header.limit, NULL):
        return 0
    ff_count(&header.blocks_taken)
    if header.live_bytes > header.peak_bytes:
        header.peak_bytes = header.live_bytes
    while True:
        word = ff_load64(&header.free_blocks[size_class])
        offset = (word & ((<uint64_t> 1 << OFFSET_BITS) - 1)) * CACHE_LINE
        if offset == 0:
            break
        block = <Block *> (base + offset)
        following = block.next & ((<uint64_t> 1 << OFFSET_BITS) - 1)
        tag = ((word >> OFFSET_BITS) + 1) << OFFSET_BITS
        if ff_cas64(&header.free_blocks[size_class], word, tag | following):
            if size >= LARGE and block.bytes:
                ff_add64(&header.cached_bytes, -<int64_t> size)
            block.bytes = nbytes
            return offset + CACHE_LINE
    if not raise_within(&header.arena_next, size, header.size, &offset):
        ff_add64(&header.live_bytes, -<int64_t> size)
        ff_count(&header.blocks_freed)
        return 0
    block = <Block *> (base + offset)
    block.size_class = size_class
    block.bytes = nbytes
    return offset + CACHE_LINE

cdef void arena_free(char *base, uint64_t data_offset) noexcept nogil:
    cdef Header *header = <Header *> base
    cdef uint64_t offset = data_offset - CACHE_LINE
    cdef Block *block = <Block *> (base + offset)
    cdef uint32_t size_class = <uint32_t> block.size_class
    cdef uint64_t size = (size_of_class(size_class) + CACHE_LINE - 1) & ~(<uint64_t> CACHE_LINE - 1)
    cdef uint64_t first, last, word, tag
    if size >= LARGE and ff_add64(&header.cached_bytes, size) + size > CACHE_LIMIT:
        first = (offset + CACHE_LINE + PAGE - 1) & ~(<uint64_t> PAGE - 1)
        last = (offset + size) & ~(<uint64_t> PAGE - 1)
        madvise(base + first, last - first, MADV_REMOVE)
        ff_add64(&header.cached_bytes, -<int64_t> size)
        block.bytes = 0
    ff_count(&header.blocks_freed)
    while True:
        word = ff_load64(&header.free_blocks[size_class])
        block.next = word & ((<uint64_t> 1 << OFFSET_BITS) - 1)
        tag = ((word >> OFFSET_BITS) + 1) << OFFSET_BITS
        if ff_cas64(&header.free_blocks[size_class], word, tag | (offset // CACHE_LINE)):
            break
    ff_add64(&header.live_bytes, -<int64_t> size)
