# What reading and writing values keeps from call to call: a writer, and the classes that a value names.
# uses: python_api, numpy_api, definition_store, services, writer

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

cdef struct Known:              # a class or a member of an enum that the value being read names
    const char *place           # where
    PyObject *named             # this process's own, with a reference

cdef class Values(Services):
    """Values of this process: what writes them, what they name while they are read, and bodies of definitions."""
    cdef Known known[PARTS_NOTED]       # by `part_place` of the address
    cdef int known_count
    cdef unsigned long known_by         # the thread that reads
    cdef ValueWriter writer

    cdef ValueWriter borrow_writer(self):
        """The scratch of this runtime, away from it: an object's destructor, or another thread, may encode meanwhile."""
        cdef ValueWriter writer = self.writer
        self.writer = None
        if writer is None:
            writer = ValueWriter()
            writer.memory = &self.memory
        return writer

    cdef void return_writer(self, ValueWriter writer) noexcept:
        writer.clear()             # in a child that was forked meanwhile, too: its parent has pinned what it holds
        writer.dependencies = None
        if writer.capacity <= WRITER_CACHED:
            self.writer = writer

    cdef object known_at(self, const char *place):
        """What the value being read names there; None: not known any more."""
        cdef Known *known = &self.known[part_place(place)]
        if known.place != place or self.known_by != PyThread_get_thread_ident():
            return None
        return None if known.named == NULL else <object> known.named

    cdef int note_known(self, const char *place, named) except -1:
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
        """Stores the body of a definition; returns the `DefinitionHold` that keeps it. StoreFullError: no room."""
        self.check()
        return put_body(self, identity, data)

    def hold_definition(self, bytes identity, uint64_t offset, uint64_t nbytes):
        """A hold on a body that another process has written; None if it is gone."""
        self.check()
        return hold_body(self, identity, offset, nbytes)

    def is_definition(self, bytes identity, uint64_t offset):
        """Whether anybody keeps that body still."""
        return not self.closed and self.is_mine() and body_is_there(self, identity, offset)

    def definition_body(self, uint64_t offset, uint64_t nbytes):
        """The body itself, which the caller's value keeps there."""
        return PyBytes_FromStringAndSize(self.memory.base + offset + IDENTITY_BYTES, nbytes - IDENTITY_BYTES)

    def takes_array(self, array):
        """For the pickler: whether an ndarray's dtype is one that is written natively."""
        return is_array(array) and is_numeric(<PyArrayObject *> array)
