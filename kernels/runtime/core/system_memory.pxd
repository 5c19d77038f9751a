# How much memory the machine, and every cgroup above this process, have left. Read in any process that makes the store grow.

from libc.stdint cimport uint64_t
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as posix_open
from posix.unistd cimport close as posix_close, read as posix_read

cdef extern from "stdlib.h" nogil:
    unsigned long long strtoull(const char *text, char **end, int base) noexcept

cdef extern from "string.h" nogil:
    const char *strstr(const char *text, const char *what) noexcept
    size_t strlen(const char *text) noexcept

cdef inline int read_text(const char *path, char *text, int capacity) noexcept nogil:
    """Reads the beginning of a small file; 0 if it cannot be read."""
    cdef int fd = posix_open(path, O_RDONLY | O_CLOEXEC)
    cdef Py_ssize_t count
    if fd < 0:
        return 0
    count = posix_read(fd, text, capacity - 1)
    posix_close(fd)
    if count <= 0:
        return 0
    text[count] = 0
    return 1

cdef inline uint64_t number_after(const char *text, const char *name) noexcept nogil:
    """The number behind the last occurrence of a name in a text; 0 if there is none. (Hierarchical sums of version 1 come last.)"""
    cdef const char *found = strstr(text, name)
    cdef uint64_t number = 0
    while found != NULL:
        number = strtoull(found + strlen(name), NULL, 10)
        found = strstr(found + 1, name)
    return number

cdef inline uint64_t memory_left(const char *cgroups) noexcept nogil:
    """Bytes that may still be taken. `cgroups`: see Header.cgroups. What cannot be read bounds nothing."""
    cdef char text[8192]
    cdef uint64_t left = <uint64_t> -1, limit, used
    if read_text("/proc/meminfo", text, sizeof(text)):
        left = number_after(text, "MemAvailable:") << 10
    while cgroups[0]:
        limit = used = 0
        if read_text(cgroups, text, sizeof(text)):
            limit = strtoull(text, NULL, 10)        # 0 for "max"
        cgroups += strlen(cgroups) + 1
        if read_text(cgroups, text, sizeof(text)):
            used = strtoull(text, NULL, 10)
        cgroups += strlen(cgroups) + 1
        if read_text(cgroups, text, sizeof(text)):
            used -= min(used, number_after(text, "inactive_file "))         # what the kernel gives up first
        cgroups += strlen(cgroups) + 1
        if limit:
            left = min(left, limit - min(limit, used))
    return left
