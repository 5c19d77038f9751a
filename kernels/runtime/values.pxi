# State that reading and writing values caches: a writer, and the classes that a value names.
# uses: python_api, numpy_api, segment, definition_store, services, writer

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

cdef struct Known:              # a class or a member of an enum that the current value names
    const char *place           # where the value names it
    PyObject *named             # this process's object, with a reference

cdef class Values(Services):
    """Values of this process: their writer, the classes they name while they are read, and bodies of definitions."""
    cdef Known known[PARTS_NOTED]       # by `part_place` of `place`
    cdef int known_count
    cdef unsigned long known_by         # the thread that reads
    cdef ValueWriter writer

    cdef ValueWriter borrow_writer(self):
        """Take the cached writer out, or make one: an object's destructor, or another thread, may encode meanwhile."""
        cdef ValueWriter writer = self.writer
        self.writer = None
        if writer is None:
            writer = ValueWriter()
            writer.memory = &self.memory
        return writer

    cdef void return_writer(self, ValueWriter writer) noexcept:
        writer.clear()             # in a child forked meanwhile too: its parent has pinned the extents
        writer.dependencies = None
        if writer.capacity <= WRITER_CACHED:
            self.writer = writer

    cdef object known_at(self, const char *place):
        """Return what the current value names at an address; None: not known any more."""
        cdef Known *known = &self.known[part_place(place)]
        if known.place != place or self.known_by != PyThread_get_thread_ident():
            return None
        return None if known.named == NULL else <object> known.named

    cdef int note_known(self, const char *place, named) except -1:
        """Note what the current value names at an address. A second thread's notes replace those of the first."""
        cdef Known *known = &self.known[part_place(place)]
        if self.known_by != PyThread_get_thread_ident():
            self.forget_known()
            self.known_by = PyThread_get_thread_ident()
        known.place = place
        replace(&known.named, <PyObject *> named)
        self.known_count += 1
        return 0

    cdef void forget_known(self) noexcept:
        cdef int i
        self.known_count = 0
        for i in range(PARTS_NOTED):
            self.known[i].place = NULL
            replace(&self.known[i].named, NULL)

    def put_definition(self, bytes identity, bytes data):
        """Store the body of a definition; return the `DefinitionHold` that keeps it. StoreFullError: no space is left."""
        self.check()
        return put_body(self, identity, data)

    def hold_definition(self, bytes identity, uint64_t offset, uint64_t nbytes):
        """Return a reference to a body that another process has written; None if it is freed."""
        self.check()
        return hold_body(self, identity, offset, nbytes)

    def is_definition(self, bytes identity, uint64_t offset):
        """Return whether a process or a value still references that body."""
        return not self.closed and self.is_mine() and body_is_there(self, identity, offset)

    def definition_body(self, uint64_t offset, uint64_t nbytes):
        """Return the body itself, which the caller's value keeps there."""
        self.check_range(offset, max(nbytes, <uint64_t> IDENTITY_BYTES))
        return checked_bytes(self, self.memory.base + offset + IDENTITY_BYTES, nbytes - IDENTITY_BYTES)

    def takes_array(self, array):
        """Return whether an ndarray's dtype is written natively, for the pickler."""
        return is_array(array) and is_numeric(<PyArrayObject *> array)
