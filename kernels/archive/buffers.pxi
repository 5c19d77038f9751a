# Bytes that grow, and what Python sees of them.

cdef struct Bytes:
    char *data
    size_t length
    size_t capacity


cdef int reserve(Bytes *bytes_, size_t more) noexcept nogil:
    """Room for `more` bytes behind what is there; -1 without memory."""
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


cdef int append(Bytes *bytes_, const void *data, size_t length) noexcept nogil:
    if reserve(bytes_, length) < 0:
        return -1
    if length:
        memcpy(bytes_.data + bytes_.length, data, length)
    bytes_.length += length
    return 0


cdef class Buffer:
    """Native bytes, read by whatever takes a buffer. Whoever holds a view must not let it grow."""
    cdef Bytes bytes
    cdef Py_ssize_t views

    def __dealloc__(self):
        free(self.bytes.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.bytes.data == NULL and reserve(&self.bytes, 1) < 0:
            raise MemoryError
        PyBuffer_FillInfo(view, self, self.bytes.data, <Py_ssize_t> self.bytes.length, True, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    def __len__(self):
        return self.bytes.length


# The directory that was used last, open: members come directory by directory.

cdef struct DirectoryCache:
    int root            # its owner closes it
    int descriptor      # -1: none open
    Bytes path          # of the one that is open, ended by a zero


cdef int directory_of(DirectoryCache *cache, const char *path, size_t length, const char **name) noexcept nogil:
    """The open directory that holds `path` (which ends with a zero), and the path's last part; -1 with errno."""
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


cdef void forget_directory(DirectoryCache *cache) noexcept nogil:
    if cache.descriptor >= 0:
        close(cache.descriptor)
    cache.descriptor = -1
    cache.path.length = 0
