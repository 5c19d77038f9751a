# A value while it is read: where the reader is, and where the value ends.
#
# Assumes: nothing of the bytes. Before it reads some, each reader asks `need` for them, so a value that was overwritten ends
# in an error (see core/bounds.pxd) and in no access behind its end.
# uses: segment

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from .core.layout cimport Slot
from .core.lookup cimport body_of, end_of_value

cdef struct Reader:
    const char *at
    const char *begin
    const char *end

cdef inline Reader reader_of(Segment runtime, Slot *slot, uint32_t which) noexcept:
    """Return a reader at a payload or result, after its handles."""
    cdef Reader source
    source.begin = source.at = body_of(&runtime.memory, slot, which)
    source.end = end_of_value(&runtime.memory, slot, which)
    return source

cdef inline Reader reader_of_bytes(bytes data) noexcept:
    """Return a reader of bytes that the caller keeps alive."""
    cdef Reader source
    source.begin = source.at = PyBytes_AS_STRING(data)
    source.end = source.at + len(data)
    return source

cdef inline int need(Segment runtime, Reader *source, uint64_t nbytes) except -1:
    """Check that so many bytes are left."""
    if <uint64_t> (source.end - source.at) < nbytes or source.at > source.end:
        raise runtime.damage()
    return 0

cdef inline const char *take(Segment runtime, Reader *source, uint64_t nbytes) except NULL:
    """Return the address of the next bytes, and step over them."""
    cdef const char *at = source.at
    need(runtime, source, nbytes)
    source.at += nbytes
    return at

cdef inline char take_tag(Segment runtime, Reader *source) except? -1:
    return take(runtime, source, 1)[0]

cdef inline uint64_t take_word(Segment runtime, Reader *source) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t word
    memcpy(&word, take(runtime, source, 8), 8)
    return word

cdef inline uint64_t take_count(Segment runtime, Reader *source, uint64_t least_bytes) except? 0xFFFFFFFFFFFFFFFF:
    """Return the number of parts that follow, of at least so many bytes each."""
    cdef uint64_t count = take_word(runtime, source)
    if count > <uint64_t> (source.end - source.at) // least_bytes:
        raise runtime.damage()
    return count
