# File I/O: whole reads and writes, times, and which errors end a packing.

from libc cimport errno
from libc.errno cimport EINTR, EIO, EMFILE, ENFILE, ENOMEM
from libc.stdint cimport int64_t

from .externs cimport pwrite, read, timespec


cdef inline bint is_shortage(int problem) noexcept nogil:
    """Return whether an error is the system's or this process's, not the file's: then the packing fails."""
    return problem == EMFILE or problem == ENFILE or problem == ENOMEM


cdef inline int64_t nanoseconds(timespec time) noexcept nogil:
    return <int64_t> time.tv_sec * 1_000_000_000 + time.tv_nsec


cdef inline size_t read_all(int descriptor, char *target, size_t length) noexcept nogil:
    """Read up to `length` bytes; fewer at the file's end, or where the device fails: what was read before counts."""
    cdef size_t got = 0
    cdef Py_ssize_t more
    while got < length:
        more = read(descriptor, target + got, length - got)
        if more < 0 and errno.errno == EINTR:
            continue
        if more <= 0:
            break
        got += more
    return got


cdef inline bint write_all(int descriptor, const char *data, size_t length, int64_t at) noexcept nogil:
    """Write all bytes at an offset of the file; false with errno."""
    cdef Py_ssize_t written
    while length:
        written = pwrite(descriptor, data, length, at)
        if written == 0:
            errno.errno = EIO
        if written <= 0 and errno.errno != EINTR:
            return False
        if written > 0:
            data += written
            at += written
            length -= written
    return True
