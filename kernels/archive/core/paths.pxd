# Paths as bytes: their order in an archive, and whether they stay below the root. Nothing here asks the file system.

from libc.string cimport memchr, memcmp, strcspn


cdef inline int compare_paths(const char *one, size_t length, bint directory,
                              const char *other, size_t other_length, bint other_directory) noexcept nogil:
    """Compare by bytes, a directory's path as if a slash followed it: so a directory comes before its content."""
    cdef size_t common = min(length, other_length)
    cdef int found = memcmp(one, other, common)
    if found:
        return found
    return byte_at(one, length, directory, common) - byte_at(other, other_length, other_directory, common)


cdef inline int byte_at(const char *path, size_t length, bint directory, size_t at) noexcept nogil:
    if at < length:
        return <unsigned char> path[at]
    return c"/" if directory else 0


cdef inline bint is_project_file(const char *name, size_t length) noexcept nogil:
    if length == 14:
        return memcmp(name, b"pyproject.toml", 14) == 0
    if length == 8:
        return memcmp(name, b"setup.py", 8) == 0
    return length == 9 and memcmp(name, b"setup.cfg", 9) == 0


cdef inline bint is_code(const char *path, size_t length) noexcept nogil:
    """Return whether Python, or its compilers, take a file for code by its name: .py, .pyx, .pxd, .pxi, .so, .so.1, .pyd."""
    cdef size_t at = length
    while at and path[at - 1] != c"/" and path[at - 1] != c".":
        at -= 1
    if not at or path[at - 1] == c"/":
        return False
    if length - at == 2 and (memcmp(path + at, b"py", 2) == 0 or memcmp(path + at, b"so", 2) == 0):
        return True
    if length - at == 3 and memcmp(path + at, b"p", 1) == 0:
        return (memcmp(path + at, b"pyx", 3) == 0 or memcmp(path + at, b"pxd", 3) == 0
                or memcmp(path + at, b"pxi", 3) == 0 or memcmp(path + at, b"pyd", 3) == 0)
    return is_number(path + at, length - at) and follows_library(path, at)


cdef inline bint is_number(const char *text, size_t length) noexcept nogil:
    cdef size_t at
    for at in range(length):
        if not c"0" <= text[at] <= c"9":
            return False
    return length > 0


cdef inline bint follows_library(const char *path, size_t at) noexcept nogil:
    """Return whether a version that begins at `at` goes on one of a shared library."""
    while at > 4 and path[at - 1] != c"/":
        if memcmp(path + at - 4, b".so.", 4) == 0:
            return True
        at -= 1
    return False


cdef inline bint climbs_out(const char *path, size_t parent, const char *target) noexcept nogil:
    """Return whether a link's text leaves the tree on its way; such a link needs another target to be packed.

    `parent` is the length of the path of the link's directory.
    """
    cdef Py_ssize_t depth = 1 if parent else 0
    cdef size_t i
    cdef const char *part = target
    cdef size_t length
    if target[0] == c"/":
        return True
    for i in range(parent):
        depth += path[i] == c"/"
    while part[0]:
        length = strcspn(part, b"/")
        if length == 2 and part[0] == c"." and part[1] == c".":
            depth -= 1
            if depth < 0:
                return True
        elif length and not (length == 1 and part[0] == c"."):
            depth += 1
        part += length
        if part[0] == c"/":
            part += 1
    return False


cdef inline bint is_inside(const char *path, size_t length) noexcept nogil:
    """Return whether a path is relative and each of its parts leads down: none is empty, `.` or `..`."""
    cdef size_t begin = 0, at
    if not length or memchr(path, 0, length) != NULL:
        return False
    for at in range(length + 1):
        if at == length or path[at] == c"/":
            if at == begin or (at == begin + 1 and path[begin] == c"."):
                return False
            if at == begin + 2 and path[begin] == c"." and path[begin + 1] == c".":
                return False
            begin = at + 1
    return True
