# How values are written: small plain ones natively, everything else by pickle with its buffers out of band.
#
# Native: one tag byte, then the value; containers hold values. It is chosen only for exact types, so that a subclass keeps
# its class. Futures among the arguments become the number of a task's input.
#   N T F | i int64 | I size, little-endian bytes | f double | s size, UTF-8 | b size, bytes | ( [ size, values | R input
# Pickled: u64 pickle bytes, u32 buffers, u32 0, (u64 offset, u64 bytes) per buffer, pickle, buffers at multiples of 64.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyFloat_FromDouble
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1
    const char *PyUnicode_AsUTF8AndSize(object value, Py_ssize_t *size) except NULL
    object PyUnicode_DecodeUTF8(const char *s, Py_ssize_t size, const char *errors)
    int PyUnicode_CheckExact(object value)
    int PyUnicode_IS_COMPACT_ASCII(object value)
    Py_ssize_t PyUnicode_GET_LENGTH(object value)
    void *PyUnicode_DATA(object value)

cdef enum:
    NATIVE_DEPTH = 16           # deeper nesting, and cycles, go to pickle
    NATIVE_CONTAINERS = 32      # so do more containers than this, and one that occurs twice: pickle keeps it one
    NATIVE_OK = 0
    SCRATCH_KEPT = 1 << 20      # bytes of a scratch buffer that are kept from call to call
    NATIVE_CANNOT = 1

cdef class Scratch:
    """A growing byte buffer, reused from call to call. Not thread-safe: guarded by the GIL, which native encoding keeps."""
    cdef char *data
    cdef Py_ssize_t size, room
    cdef PyObject *containers[NATIVE_CONTAINERS]
    cdef int container_count

    def __cinit__(self):
        self.room = 4096
        self.data = <char *> malloc(self.room)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.data)

    cdef char *reserve(self, Py_ssize_t nbytes) except NULL:
        cdef char *larger
        cdef Py_ssize_t room = self.room
        if self.size + nbytes > room:
            while self.size + nbytes > room:
                room *= 2
            larger = <char *> realloc(self.data, room)
            if larger == NULL:
                raise MemoryError
            self.data = larger
            self.room = room
        larger = self.data + self.size
        self.size += nbytes
        return larger

    cdef void clear(self) noexcept:
        self.size = 0
        self.container_count = 0

    cdef bint first_time(self, object container) noexcept:
        """Notes a container; false when it was met before, or there are too many to tell."""
        cdef int i
        for i in range(self.container_count):
            if self.containers[i] == <PyObject *> container:
                return False
        if self.container_count == NATIVE_CONTAINERS:
            return False
        self.containers[self.container_count] = <PyObject *> container
        self.container_count += 1
        return True

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


cdef int encode_native(Scratch out, object value, dict inputs, Calls runtime, int depth) except -1:
    """Appends a value; NATIVE_CANNOT when some part of it needs pickle (what was appended is then void).

    `inputs` collects the futures met (see `input_number`); None where no future may stand (a result).
    """
    cdef int overflow = 0
    cdef long long number
    cdef double real
    cdef char *at
    cdef const char *text
    cdef Py_ssize_t size, i
    cdef uint32_t position
    if value is None:
        out.put_tag(b'N')
    elif value is True:
        out.put_tag(b'T')
    elif value is False:
        out.put_tag(b'F')
    elif PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            out.put_sized(b'I', PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        else:
            at = out.reserve(9)
            at[0] = b'i'
            memcpy(at + 1, &number, 8)
    elif PyFloat_CheckExact(value):
        real = PyFloat_AS_DOUBLE(value)
        at = out.reserve(9)
        at[0] = b'f'
        memcpy(at + 1, &real, 8)
    elif PyUnicode_CheckExact(value):
        if PyUnicode_IS_COMPACT_ASCII(value):
            out.put_sized(b's', <const char *> PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value))
        else:
            try:
                text = PyUnicode_AsUTF8AndSize(value, &size)
            except UnicodeEncodeError:          # lone surrogates
                return NATIVE_CANNOT
            out.put_sized(b's', text, size)
    elif PyBytes_CheckExact(value):
        out.put_sized(b'b', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    elif PyTuple_CheckExact(value):
        if depth == 0 or (PyTuple_GET_SIZE(value) and not out.first_time(value)):
            return NATIVE_CANNOT
        out.put_count(b'(', PyTuple_GET_SIZE(value))
        for i in range(PyTuple_GET_SIZE(value)):
            if encode_native(out, <object> PyTuple_GET_ITEM(value, i), inputs, runtime, depth - 1):
                return NATIVE_CANNOT
    elif PyList_CheckExact(value):
        if depth == 0 or not out.first_time(value):
            return NATIVE_CANNOT
        out.put_count(b'[', PyList_GET_SIZE(value))
        size = PyList_GET_SIZE(value)
        i = 0
        while i < PyList_GET_SIZE(value):       # a finalizer that an allocation in here runs may change the list
            if encode_native(out, <object> PyList_GET_ITEM(value, i), inputs, runtime, depth - 1):
                return NATIVE_CANNOT
            i += 1
        if i != size:
            return NATIVE_CANNOT
    elif isinstance(value, Handle) and inputs is not None and (<Handle> value).runtime is runtime:
        position = runtime.input_number(inputs, <Handle> value)
        at = out.reserve(5)
        at[0] = b'R'
        memcpy(at + 1, &position, 4)
    else:
        return NATIVE_CANNOT
    return NATIVE_OK


cdef object decode_native(const char **at, const char *end, list values):
    """Reads one value; `values` are the task's inputs."""
    cdef char tag
    cdef int64_t number
    cdef double real
    cdef uint64_t size, i
    cdef uint32_t position
    if at[0] >= end:
        raise ValueError("truncated value")
    tag = at[0][0]
    at[0] += 1
    if tag == b'i':
        memcpy(&number, at[0], 8)
        at[0] += 8
        return number
    if tag == b'N':
        return None
    if tag == b'T':
        return True
    if tag == b'F':
        return False
    if tag == b'f':
        memcpy(&real, at[0], 8)
        at[0] += 8
        return PyFloat_FromDouble(real)
    if tag == b'R':
        memcpy(&position, at[0], 4)
        at[0] += 4
        return values[position]
    memcpy(&size, at[0], 8)
    at[0] += 8
    if tag == b'(':
        result = PyTuple_New(size)
        for i in range(size):
            item = decode_native(at, end, values)
            Py_INCREF(item)                     # PyTuple_SET_ITEM steals it
            PyTuple_SET_ITEM(result, i, item)
        return result
    if tag == b'[':
        items = []
        for i in range(size):
            items.append(decode_native(at, end, values))
        return items
    text = at[0]
    at[0] += size
    if tag == b's':
        return PyUnicode_DecodeUTF8(text, size, NULL)
    if tag == b'b':
        return PyBytes_FromStringAndSize(text, size)
    if tag == b'I':
        return int.from_bytes(PyBytes_FromStringAndSize(text, size), "little", signed=True)
    raise ValueError(f"unknown tag {tag}")


cdef uint64_t pickled_size(bytes data, list buffers) except? 0:
    cdef uint64_t at = 16 + 16 * <uint64_t> len(buffers) + <uint64_t> len(data)
    for view in buffers:
        at = align_up(at, CACHE_LINE) + <uint64_t> view.nbytes
    return at


cdef int write_pickled(char *out, bytes data, list buffers) except -1:
    cdef uint64_t at = 16 + 16 * <uint64_t> len(buffers), nbytes = len(data)
    cdef uint32_t count = len(buffers), i
    cdef const unsigned char[::1] source
    memset(out, 0, 16)
    memcpy(out, &nbytes, 8)
    memcpy(out + 8, &count, 4)
    memcpy(out + at, PyBytes_AS_STRING(data), nbytes)
    at += nbytes
    for i in range(count):
        at = align_up(at, CACHE_LINE)
        nbytes = buffers[i].nbytes
        memcpy(out + 16 + 16 * i, &at, 8)
        memcpy(out + 24 + 16 * i, &nbytes, 8)
        if nbytes:
            source = buffers[i]
            with nogil:
                memcpy(out + at, &source[0], nbytes)
        at += nbytes
    return 0


cdef tuple read_pickled(const char *source):
    """The pickle and its buffers, copied out of the arena: (bytes, [bytes, ...])."""
    cdef uint64_t nbytes, at
    cdef uint32_t count, i
    memcpy(&nbytes, source, 8)
    memcpy(&count, source + 8, 4)
    data = PyBytes_FromStringAndSize(source + 16 + 16 * count, nbytes)
    buffers = []
    for i in range(count):
        memcpy(&at, source + 16 + 16 * i, 8)
        memcpy(&nbytes, source + 24 + 16 * i, 8)
        buffers.append(PyBytes_FromStringAndSize(source + at, nbytes))
    return data, buffers
