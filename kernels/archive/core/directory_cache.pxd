# Directory cache: the directory that was used last, open. Members come directory by directory.

from libc cimport errno
from libc.errno cimport ENOMEM
from libc.stdlib cimport free
from libc.string cimport memcmp

from .buffers cimport Bytes, append
from .externs cimport O_DIRECTORY, O_PATH, close, open_beneath

cdef struct DirectoryCache:
    int root            # its owner closes it
    int descriptor      # -1: none open
    Bytes path          # of the one that is open, ended by a zero


cdef inline void init_cache(DirectoryCache *cache, int root) noexcept nogil:
    cache.root = root
    cache.descriptor = -1
    cache.path.data = NULL
    cache.path.length = cache.path.capacity = 0


cdef inline int directory_of(DirectoryCache *cache, const char *path, size_t length, const char **name) noexcept nogil:
    """Return the open directory that holds `path` (a zero follows it), and the path's last part; -1 with errno."""
    cdef size_t cut = length
    while cut and path[cut - 1] != c"/":
        cut -= 1
    name[0] = path + cut
    if not cut:
        return cache.root
    cut -= 1
    if cache.descriptor >= 0 and cache.path.length == cut + 1 and memcmp(cache.path.data, path, cut) == 0:
        return cache.descriptor
    forget_directory(cache)
    if append(&cache.path, path, cut) < 0 or append(&cache.path, b"\0", 1) < 0:
        errno.errno = ENOMEM
        return -1
    cache.descriptor = open_beneath(cache.root, cache.path.data, O_PATH | O_DIRECTORY, 0)
    return cache.descriptor


cdef inline void forget_directory(DirectoryCache *cache) noexcept nogil:
    if cache.descriptor >= 0:
        close(cache.descriptor)
    cache.descriptor = -1
    cache.path.length = 0


cdef inline void free_cache(DirectoryCache *cache) noexcept nogil:
    forget_directory(cache)
    free(cache.path.data)
