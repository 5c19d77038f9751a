# Checksum of bytes whose reader would otherwise run what they say: pickles, and the bodies of definitions.
#
# Four independent lanes of multiply and rotate, after XXH64 (xxhash.com), of which a processor runs several at a
# time. It finds what a stray write changed; it is no signature. Bytes that are all 0 have no checksum of 0.

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #define FF_PRIME_1 UINT64_C(0x9E3779B185EBCA87)
    #define FF_PRIME_2 UINT64_C(0xC2B2AE3D27D4EB4F)
    #define FF_PRIME_3 UINT64_C(0x165667B19E3779F9)
    """
    const uint64_t FF_PRIME_1, FF_PRIME_2, FF_PRIME_3

cdef inline uint64_t mixed(uint64_t lane, const char *at) noexcept nogil:
    """Return a lane after eight more bytes."""
    cdef uint64_t word
    memcpy(&word, at, 8)
    lane += word * FF_PRIME_2
    return (lane << 31 | lane >> 33) * FF_PRIME_1

cdef inline uint64_t checksum(const char *at, uint64_t nbytes) noexcept nogil:
    cdef uint64_t a = FF_PRIME_1, b = FF_PRIME_2, c = FF_PRIME_3, d = nbytes, i = 0
    cdef char rest[8]
    while i + 32 <= nbytes:
        a = mixed(a, at + i)
        b = mixed(b, at + i + 8)
        c = mixed(c, at + i + 16)
        d = mixed(d, at + i + 24)
        i += 32
    while i + 8 <= nbytes:
        a = mixed(a + d, at + i)
        i += 8
    if i < nbytes:
        memset(rest, 0, 8)
        memcpy(rest, at + i, nbytes - i)
        b = mixed(b + d, rest)
    a ^= (b << 7 | b >> 57) + (c << 12 | c >> 52) + (d << 18 | d >> 46) + nbytes
    a = (a ^ a >> 33) * FF_PRIME_2
    a = (a ^ a >> 29) * FF_PRIME_3
    return a ^ a >> 32
