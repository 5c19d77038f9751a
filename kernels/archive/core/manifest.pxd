# Manifest entries: one for each member of an unpacked tree, its head followed by its path (`FORMAT.md`).

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from .buffers cimport Bytes, append
from .externs cimport AT_SYMLINK_NOFOLLOW, S_ISDIR, S_ISREG, fstatat, geteuid, hash_path, readlinkat, stat_t
from .file_io cimport nanoseconds
from .members cimport DIRECTORY, LINK

cdef enum:
    TARGET_BYTES = 4096             # of the links that are read back

cdef struct Entry:
    int64_t size                    # of a file; of a link, its target's
    int64_t mtime_ns                # of a file; of a link, its target's hash
    uint32_t path_length
    uint8_t kind
    uint8_t[3] unused


cdef inline int append_entry(Bytes *entries, int kind, int64_t size, int64_t mtime_ns, const Bytes *path) noexcept nogil:
    cdef Entry entry
    memset(&entry, 0, sizeof(entry))
    entry.kind = <uint8_t> kind
    entry.size = size
    entry.mtime_ns = mtime_ns
    entry.path_length = <uint32_t> path.length
    return append(entries, &entry, sizeof(entry)) or append(entries, path.data, path.length)


cdef inline const char *entry_at(const char *data, size_t length, size_t *at, Entry *entry) noexcept nogil:
    """Return the path of the entry at an offset, which moves behind it; NULL if no whole entry is there."""
    cdef const char *path
    if length - at[0] < sizeof(Entry):
        return NULL
    memcpy(entry, data + at[0], sizeof(Entry))
    path = data + at[0] + sizeof(Entry)
    at[0] += sizeof(Entry)
    if entry.path_length > length - at[0]:
        return NULL
    at[0] += entry.path_length
    return path


cdef inline bint is_as_listed(int directory, const char *name, const Entry *entry) noexcept nogil:
    """Return whether a name in an open directory is still what its entry says, and nobody else may write to it."""
    cdef char[TARGET_BYTES] target
    cdef stat_t found
    if entry.kind == LINK:
        return read_target(directory, name, entry, target)
    if fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) < 0 or found.st_mode & 0o022 or found.st_uid != geteuid():
        return False
    if entry.kind == DIRECTORY:
        return S_ISDIR(found.st_mode)
    return S_ISREG(found.st_mode) and found.st_size == entry.size and nanoseconds(found.st_mtim) == entry.mtime_ns


cdef inline bint read_target(int directory, const char *name, const Entry *entry, char *target) noexcept nogil:
    """Read a link's target of at most `TARGET_BYTES`; false if it is not the entry's."""
    cdef Py_ssize_t length = readlinkat(directory, name, target, TARGET_BYTES)
    return length >= 0 and length == entry.size and hash_path(target, length) == entry.mtime_ns
