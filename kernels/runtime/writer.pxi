# A value while it is written: its bytes, and the extents that parts of it lie in.
#
# One tag byte, then the value; containers hold values. A native tag is for exact types only, so that a subclass keeps its
# class. A future among the arguments becomes the number of a task's dependency.
#   N T F | i int64 | I size, little-endian bytes | f double | s size, UTF-8 | b size, bytes
#   ( [ size, values | { size, pairs
#   q d size, int64s or doubles: a list of nothing else
#   S B offset, size: a long str or bytes in an extent | V offset, size: a buffer, read in place | R number of a dependency
#   w size, bytes: a short buffer that is writable
#   a A arrays, see arrays.pxi | O o E M instances and members of enums, see class_layouts.pxi
#   P b pickle, its checksum, u32 buffers, u32 arrays, the buffers as b, w or V, the arrays as a or A: what pickle wrote
# The handles, which stand before the value (KIND_HANDLES), name each extent that a part lies in (S B V A).
# uses: nothing

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF, Py_XINCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from .core.regions cimport Memory
from .core.lookup cimport extent_of
from .core.extents cimport extent_release

cdef enum:
    NATIVE_CONTAINERS = 1 << 18 # shared containers and arrays; more, or one met twice, are for pickle, which keeps it one
    SEEN_CACHED = 64            # entries of the table of containers that are cached from call to call
    BODIES_NOTED = 8            # classes of a value whose bodies the handles name once
    PARTS_NOTED = 64            # classes and members of a value that it names in full once, for writer and reader
    WRITER_CACHED = 1 << 20     # bytes of a writer's buffer that are cached from call to call
    NATIVE_OK = 0
    NATIVE_CANNOT = 1

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15       # Knuth's multiplicative hashing: 2**64 / the golden ratio

cdef struct Part:               # a layout or a member of an enum that the current value names already
    PyObject *named             # with a reference, so that no other object has its address meanwhile (ABA)
    Py_ssize_t position

cdef inline uint64_t part_place(const void *key) noexcept nogil:
    return (<uint64_t> key * GOLDEN) >> 32 & (PARTS_NOTED - 1)

cdef inline void replace(PyObject **place, PyObject *other) noexcept:
    """Replace a reference by another, or by NULL. The old one is dropped last: its destructor may come here (reentrancy)."""
    cdef PyObject *before = place[0]
    Py_XINCREF(other)
    place[0] = other
    Py_XDECREF(before)

cdef class ValueWriter:
    """A value while it is written: a growing byte buffer, and the extents of its parts.

    This process references the extents meanwhile. Reused from call to call. Not thread-safe: a thread that writes borrows it
    from the client.
    """
    cdef char *data
    cdef Py_ssize_t size, capacity
    cdef uint64_t *handles
    cdef Py_ssize_t handle_count, handle_capacity
    cdef PyObject *seen_first[SEEN_CACHED]      # open-addressed hash table of the containers met, by address
    cdef PyObject **seen
    cdef Py_ssize_t seen_capacity, seen_count
    cdef uint64_t bodies[BODIES_NOTED]          # offsets of bodies that the handles name
    cdef int body_count
    cdef Part parts[PARTS_NOTED]                # by `part_place`; a later one may evict another
    cdef int part_count
    cdef Memory *memory
    cdef dict dependencies      # futures met: slot -> (number of the dependency, future); None: none yet
    cdef bint takes_futures     # True for a call's arguments; a stored value may not have a future as a dependency
    cdef dict copied            # id of an array -> offset of its copy, for a second attempt
    cdef list spare             # offsets of the extents that the first attempt referenced

    def __cinit__(self):
        self.capacity = 4096
        self.data = <char *> malloc(self.capacity)
        if self.data == NULL:
            raise MemoryError
        self.seen = self.seen_first
        self.seen_capacity = SEEN_CACHED

    def __dealloc__(self):
        free(self.data)
        free(self.handles)
        self.forget_parts()
        self.forget_seen()

    cdef char *reserve(self, Py_ssize_t nbytes) except NULL:
        """Append so many bytes, for the caller to fill; return their address, which the next `reserve` may move."""
        cdef char *larger
        cdef Py_ssize_t capacity = self.capacity
        if self.size + nbytes > capacity:
            while self.size + nbytes > capacity:
                capacity *= 2
            larger = <char *> realloc(self.data, capacity)
            if larger == NULL:
                raise MemoryError
            self.data = larger
            self.capacity = capacity
        larger = self.data + self.size
        self.size += nbytes
        return larger

    cdef void clear(self) noexcept:
        """Empty the writer and release its references to extents."""
        cdef Py_ssize_t i
        for i in range(self.handle_count):
            extent_release(self.memory, <uint32_t> extent_of(self.memory, self.handles[i]))
        if self.spare is not None:
            for offset in self.spare:
                extent_release(self.memory, <uint32_t> extent_of(self.memory, offset))
        self.spare = self.copied = None
        self.size = self.handle_count = 0
        self.forget_parts()
        self.forget_seen()

    cdef int begin_again(self) except -1:
        """Empty the writer to write the same value in another way; arrays that were copied need no second copy."""
        cdef Py_ssize_t i
        self.spare = [self.handles[i] for i in range(self.handle_count)]
        self.size = self.handle_count = 0
        self.forget_parts()
        self.forget_seen()
        self.dependencies = None
        return 0

    cdef int add_handle(self, uint64_t extent_offset) except -1:
        """Note an extent that this process has a reference to; `clear` releases it."""
        cdef uint64_t *larger
        cdef Py_ssize_t capacity = 2 * self.handle_capacity if self.handle_capacity else 16
        if self.handle_count == self.handle_capacity:
            larger = <uint64_t *> realloc(self.handles, capacity * sizeof(uint64_t))
            if larger == NULL:
                extent_release(self.memory, <uint32_t> extent_of(self.memory, extent_offset))
                raise MemoryError
            self.handles = larger
            self.handle_capacity = capacity
        self.handles[self.handle_count] = extent_offset
        self.handle_count += 1
        return 0

    cdef uint64_t total(self) noexcept:
        """Return the bytes of the value with its handles in front."""
        return self.size + (8 * (<uint64_t> self.handle_count + 1) if self.handle_count else 0)

    cdef void write_to(self, char *out) noexcept:
        cdef uint64_t count = self.handle_count
        if count:
            memcpy(out, &count, 8)
            memcpy(out + 8, self.handles, 8 * count)
            out += 8 * (count + 1)
        memcpy(out, self.data, self.size)

    cdef inline Py_ssize_t position_of(self, object named) noexcept:
        """Return where the value names a layout or member; -1: nowhere, or it is not known any more."""
        cdef Part *part = &self.parts[part_place(<PyObject *> named)]
        return part.position if part.named == <PyObject *> named else -1

    cdef inline void note_part(self, object named, Py_ssize_t position) noexcept:
        cdef Part *part = &self.parts[part_place(<PyObject *> named)]
        part.position = position
        replace(&part.named, <PyObject *> named)
        self.part_count += 1

    cdef void forget_parts(self) noexcept:
        cdef int i
        self.body_count = 0
        if self.part_count:
            self.part_count = 0
            for i in range(PARTS_NOTED):
                replace(&self.parts[i].named, NULL)

    cdef int put_distance(self, char tag, Py_ssize_t position) except -1:
        """Append a reference back to what the value names at an earlier position."""
        cdef uint64_t distance = self.size - position
        cdef char *at = self.reserve(9)
        at[0] = tag
        memcpy(at + 1, &distance, 8)
        return 0

    cdef bint first_time(self, object container) except -1:
        """Note a container; False when it was met before, or when too many are noted to tell."""
        cdef Py_ssize_t at
        if 2 * self.seen_count >= self.seen_capacity:
            if self.seen_count >= NATIVE_CONTAINERS:
                return False
            self.grow_seen()
        at = self.seen_place(<PyObject *> container)
        if self.seen[at] != NULL:
            return False
        self.seen[at] = <PyObject *> container
        self.seen_count += 1
        return True

    cdef inline Py_ssize_t seen_place(self, PyObject *container) noexcept:
        """Return the place of a container in the hash table, or the free place where it would stand."""
        cdef Py_ssize_t mask = self.seen_capacity - 1
        cdef Py_ssize_t at = <Py_ssize_t> ((<uint64_t> container >> 4) * GOLDEN >> 32) & mask
        while self.seen[at] != NULL and self.seen[at] != container:
            at = (at + 1) & mask
        return at

    cdef int grow_seen(self) except -1:
        cdef PyObject **before = self.seen
        cdef Py_ssize_t capacity = self.seen_capacity, i
        cdef PyObject **larger = <PyObject **> calloc(4 * capacity, sizeof(PyObject *))
        if larger == NULL:
            raise MemoryError
        self.seen = larger
        self.seen_capacity = 4 * capacity
        for i in range(capacity):
            if before[i] != NULL:
                larger[self.seen_place(before[i])] = before[i]
        if before != self.seen_first:
            free(before)
        else:
            memset(before, 0, SEEN_CACHED * sizeof(PyObject *))
        return 0

    cdef void forget_seen(self) noexcept:
        if self.seen != self.seen_first:
            free(self.seen)
            self.seen = self.seen_first
            self.seen_capacity = SEEN_CACHED
        elif self.seen_count:
            memset(self.seen, 0, SEEN_CACHED * sizeof(PyObject *))
        self.seen_count = 0

    cdef int put_tag(self, char tag) except -1:
        self.reserve(1)[0] = tag
        return 0

    cdef int put_sized(self, char tag, const char *source, uint64_t nbytes) except -1:
        cdef char *at = self.reserve(9 + nbytes)
        at[0] = tag
        memcpy(at + 1, &nbytes, 8)
        memcpy(at + 9, source, nbytes)
        return 0

    cdef int put_count(self, char tag, uint64_t count) except -1:
        cdef char *at = self.reserve(9)
        at[0] = tag
        memcpy(at + 1, &count, 8)
        return 0

    cdef int put_place(self, char tag, uint64_t offset, uint64_t nbytes) except -1:
        cdef char *at = self.reserve(17)
        at[0] = tag
        memcpy(at + 1, &offset, 8)
        memcpy(at + 9, &nbytes, 8)
        return 0
