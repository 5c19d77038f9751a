# Free memory: how much the machine, and every cgroup above this process, have left.
#
# Every process that makes the store grow reads it. Guarantees: a file that cannot be read bounds nothing.

from libc.stdint cimport uint64_t
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as posix_open
from posix.unistd cimport close as posix_close, read as posix_read
from .layout cimport CGROUP_BYTES

cdef extern from "stdlib.h" nogil:
    unsigned long long strtoull(const char *text, char **end, int base) noexcept

cdef extern from "string.h" nogil:
    const char *strstr(const char *text, const char *what) noexcept
    size_t strlen(const char *text) noexcept

cdef inline int read_text(const char *path, char *text, int capacity) noexcept nogil:
    """Read the beginning of a small file; return 0 if it cannot be read."""
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
    """Return the number behind the last occurrence of a name in a text; 0 if there is none.

    The last, because the hierarchical sums of cgroups version 1 come last.
    """
    cdef const char *found = strstr(text, name)
    cdef uint64_t number = 0
    while found != NULL:
        number = strtoull(found + strlen(name), NULL, 10)
        found = strstr(found + 1, name)
    return number

cdef inline uint64_t memory_left(const char *cgroups) noexcept nogil:
    """Return how many bytes may still be allocated. `cgroups` is as in Header.cgroups."""
    cdef char text[8192]
    cdef const char *end = cgroups + CGROUP_BYTES
    cdef uint64_t left = <uint64_t> -1, limit, used
    if read_text("/proc/meminfo", text, sizeof(text)):
        left = number_after(text, "MemAvailable:") << 10
    while cgroups < end and cgroups[0]:
        limit = used = 0
        if read_text(cgroups, text, sizeof(text)):
            limit = strtoull(text, NULL, 10)        # 0 for "max"
        cgroups += strlen(cgroups) + 1
        if read_text(cgroups, text, sizeof(text)):
            used = strtoull(text, NULL, 10)
        cgroups += strlen(cgroups) + 1
        if read_text(cgroups, text, sizeof(text)):
            used -= min(used, number_after(text, "inactive_file "))         # what the kernel reclaims first
        cgroups += strlen(cgroups) + 1
        if limit:
            left = min(left, limit - min(limit, used))
    return left
