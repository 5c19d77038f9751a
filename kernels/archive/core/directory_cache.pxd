# Directory cache: the directory that was used last, open, and a few of those above it. Members come directory by directory.
#
# In a deep tree a directory is opened from the nearest one above it that is open, so the time for all of them grows with
# their number, not with its square. Those that are kept lie about evenly spaced, so the way up finds one close by, too.

from libc cimport errno
from libc.errno cimport EMFILE, ENFILE, ENOMEM
from libc.stdlib cimport free
from libc.string cimport memcmp, memmove

from .buffers cimport Bytes, append
from .externs cimport O_DIRECTORY, O_PATH, close, open_beneath

cdef enum:
    MOST_KEPT = 8
    NEAR = 256              # bytes of a path: so near to the root, one directory alone is kept

cdef struct Kept:
    size_t length           # of its path, with which the cache's path begins
    int descriptor

cdef struct DirectoryCache:
    int root                # its owner closes it
    size_t count
    Kept[MOST_KEPT] kept    # from the top down; the last one was used last
    Bytes path              # of the last one


cdef inline void init_cache(DirectoryCache *cache, int root) noexcept nogil:
    cache.root = root
    cache.count = 0
    cache.path.data = NULL
    cache.path.length = cache.path.capacity = 0


cdef inline int directory_of(DirectoryCache *cache, const char *path, size_t length, const char **name) noexcept nogil:
    """Return the open directory that holds `path` (a zero follows it), and the path's last part; -1 with errno."""
    cdef size_t cut = length
    cdef int opened
    while cut and path[cut - 1] != c"/":
        cut -= 1
    name[0] = path + cut
    if not cut:
        return cache.root
    cut -= 1
    while cache.count and not leads_to(cache, path, cut):
        forget_last(cache)
    if cache.count and cache.kept[cache.count - 1].length == cut:
        return cache.kept[cache.count - 1].descriptor
    opened = open_from_last(cache, path, cut)
    if opened < 0 and cache.count and (errno.errno == EMFILE or errno.errno == ENFILE):
        forget_directory(cache)
        opened = open_from_last(cache, path, cut)
    return opened


cdef inline bint leads_to(DirectoryCache *cache, const char *path, size_t length) noexcept nogil:
    """Return whether the last directory is the one with this path, or is kept as one above it."""
    cdef size_t begin = cache.kept[cache.count - 1].length
    if begin > length or (begin < length and (length <= NEAR or path[begin] != c"/")):
        return False
    return memcmp(cache.path.data, path, begin) == 0


cdef inline int open_from_last(DirectoryCache *cache, const char *path, size_t length) noexcept nogil:
    """Open a directory below the last one, or the root, and make it the last one."""
    cdef size_t begin = 0
    cdef int opened, above = cache.root
    if cache.count:
        above = cache.kept[cache.count - 1].descriptor
        begin = cache.kept[cache.count - 1].length
    cache.path.length = begin
    if append(&cache.path, path + begin, length - begin) < 0 or append(&cache.path, b"\0", 1) < 0:
        errno.errno = ENOMEM
        return -1
    opened = open_beneath(above, cache.path.data + begin + (cache.count > 0), O_PATH | O_DIRECTORY, 0)
    if opened < 0:
        return -1
    if cache.count == MOST_KEPT:
        drop_closest(cache)
    cache.kept[cache.count].length = length
    cache.kept[cache.count].descriptor = opened
    cache.count += 1
    return opened


cdef inline void drop_closest(DirectoryCache *cache) noexcept nogil:
    """Close one that is kept, but not the last, where that leaves the smallest gap."""
    cdef size_t number, found = 0, gap, smallest = 0, before = 0
    for number in range(MOST_KEPT - 1):
        gap = cache.kept[number + 1].length - before
        if number == 0 or gap < smallest:
            smallest = gap
            found = number
        before = cache.kept[number].length
    close(cache.kept[found].descriptor)
    memmove(&cache.kept[found], &cache.kept[found + 1], (MOST_KEPT - 1 - found) * sizeof(Kept))
    cache.count -= 1


cdef inline void forget_last(DirectoryCache *cache) noexcept nogil:
    cache.count -= 1
    close(cache.kept[cache.count].descriptor)


cdef inline void forget_directory(DirectoryCache *cache) noexcept nogil:
    while cache.count:
        forget_last(cache)


cdef inline void free_cache(DirectoryCache *cache) noexcept nogil:
    forget_directory(cache)
    free(cache.path.data)
