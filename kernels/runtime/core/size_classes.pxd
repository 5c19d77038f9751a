# Size classes of blocks and extents: four per doubling.

from libc.stdint cimport uint32_t, uint64_t
from .externs cimport clz64
from .layout cimport CACHE_LINE, GRANULE, GROUP_BITS
from .regions cimport align_up

cdef inline uint32_t size_class_of(uint64_t nbytes) noexcept nogil:
    """Return the smallest class whose blocks have `nbytes` bytes: four per doubling, from 128 bytes up."""
    cdef uint32_t exponent, step
    cdef uint64_t rest
    if nbytes <= 128:
        return 0
    exponent = 63 - clz64(nbytes - 1)           # 2^exponent <= nbytes - 1
    rest = (nbytes - 1) - (<uint64_t> 1 << exponent)
    step = <uint32_t> (rest >> (exponent - 2))
    return (exponent - 7) * 4 + step + 1

cdef inline uint64_t size_of_class(uint32_t size_class) noexcept nogil:
    cdef uint32_t exponent, step
    if size_class == 0:
        return 128
    exponent = (size_class - 1) // 4 + 7
    step = (size_class - 1) % 4 + 1
    return align_up((<uint64_t> 1 << exponent) + (<uint64_t> step << (exponent - 2)), CACHE_LINE)

cdef inline uint32_t slab_blocks(uint32_t block_size) noexcept nogil:
    """Return the number of blocks in a slab: GROUP_BITS, fewer of the larger ones."""
    cdef uint32_t fitting = (1 << 17) // block_size
    return min(GROUP_BITS, max(4, fitting))

cdef inline uint32_t extent_class_of(uint64_t nbytes) noexcept nogil:
    return size_class_of(align_up(nbytes, GRANULE) // (GRANULE // 128))

cdef inline uint64_t extent_class_size(uint32_t size_class) noexcept nogil:
    return align_up(size_of_class(size_class) * (GRANULE // 128), GRANULE)
