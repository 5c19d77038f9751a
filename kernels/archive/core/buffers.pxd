# Growable byte buffers. The class or struct that holds one frees its `data`.

from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

cdef struct Bytes:
    char *data
    size_t length
    size_t capacity


cdef inline int reserve(Bytes *bytes_, size_t more) noexcept nogil:
    """Reserve room for `more` bytes behind those in use; -1 without memory."""
    cdef size_t capacity
    cdef char *grown
    if bytes_.length + more <= bytes_.capacity:
        return 0
    capacity = bytes_.capacity + bytes_.capacity // 2
    if capacity < bytes_.length + more:
        capacity = bytes_.length + more
    if capacity < 256:
        capacity = 256
    grown = <char *> realloc(bytes_.data, capacity)
    if grown == NULL:
        return -1
    bytes_.data = grown
    bytes_.capacity = capacity
    return 0


cdef inline int append(Bytes *bytes_, const void *data, size_t length) noexcept nogil:
    if reserve(bytes_, length) < 0:
        return -1
    if length:
        memcpy(bytes_.data + bytes_.length, data, length)
    bytes_.length += length
    return 0


cdef inline int append_zeros(Bytes *bytes_, size_t count) noexcept nogil:
    if reserve(bytes_, count) < 0:
        return -1
    memset(bytes_.data + bytes_.length, 0, count)
    bytes_.length += count
    return 0
