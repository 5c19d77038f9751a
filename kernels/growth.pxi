# How much memory the machine, and every cgroup above this process, have left. Read in any process that makes the store grow.

from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as posix_open
from posix.unistd cimport close as posix_close, read as posix_read

cdef extern from "stdlib.h" nogil:
    unsigned long long strtoull(const char *text, char **end, int base) noexcept

cdef extern from "string.h" nogil:
    char *strstr(const char *text, const char *what) noexcept
    size_t strlen(const char *text) noexcept

cdef int read_text(const char *path, char *text, int room) noexcept nogil:
    """Reads the beginning of a small file; 0 if it cannot be read."""
    cdef int fd = posix_open(path, O_RDONLY | O_CLOEXEC)
    cdef Py_ssize_t count
    if fd < 0:
        return 0
    count = posix_read(fd, text, room - 1)
    posix_close(fd)
    if count <= 0:
        return 0
    text[count] = 0
    return 1

cdef uint64_t memory_left(const char *cgroups) noexcept nogil:
    """Bytes that may still be taken. `cgroups`: see Header.cgroups. What cannot be read bounds nothing."""
    cdef char text[4096]
    cdef char *found
    cdef uint64_t left = <uint64_t> -1, limit, used
    if read_text("/proc/meminfo", text, sizeof(text)):
        found = strstr(text, "MemAvailable:")
        if found != NULL:
            left = strtoull(found + 13, NULL, 10) << 10
    while cgroups[0]:
        limit = used = 0
        if read_text(cgroups, text, sizeof(text)) and text[0] != b'm':      # "max"
            limit = strtoull(text, NULL, 10)
        cgroups += strlen(cgroups) + 1
        if limit and read_text(cgroups, text, sizeof(text)):
            used = strtoull(text, NULL, 10)
            left = min(left, limit - used if limit > used else 0)
        cgroups += strlen(cgroups) + 1
    return left
