# How values are written: plain ones natively, everything else by pickle with its buffers and arrays out of band.
#
# One tag byte, then the value; containers hold values. It is chosen only for exact types, so that a subclass keeps its class.
# Futures among the arguments become the number of a task's input.
#   N T F | i int64 | I size, little-endian bytes | f double | s size, UTF-8 | b size, bytes | ( [ size, values | { size, pairs
#   q d size, int64s or doubles: a list of nothing else
#   S B offset, size: a long str or bytes in an extent | V offset, size: a buffer, read where it lies | R input
#   w size, bytes: a short buffer, to be written to
#   a A arrays, see arrays.pxi | O o E M instances and members of enums, see instances.pxi
#   P b pickle, u32 buffers, u32 arrays, the buffers as b, w or V, the arrays as a or A: what pickle has written
# Whatever lies in an extent (S B V A) is named in the handles too, which stand before the value (KIND_HANDLES).

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyFloat_FromDouble
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.dict cimport PyDict_CheckExact, PyDict_Next, PyDict_SetItem, PyDict_Size
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, Py_XINCREF, PyObject

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object value)
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1
    object PyLong_FromLongLong(long long value)
    const char *PyUnicode_AsUTF8AndSize(object value, Py_ssize_t *size) except NULL
    object PyUnicode_DecodeUTF8(const char *s, Py_ssize_t size, const char *errors)
    int PyUnicode_CheckExact(object value)
    int PyUnicode_IS_COMPACT_ASCII(object value)
    Py_ssize_t PyUnicode_GET_LENGTH(object value)
    void *PyUnicode_DATA(object value)

cdef enum:
    NATIVE_DEPTH = 16           # deeper nesting, and cycles, go to pickle
    NATIVE_CONTAINERS = 1 << 18 # so do more shared containers and arrays than this, and one that occurs twice: pickle keeps it one
    SEEN_KEPT = 64              # places of the table of containers that are kept from call to call
    BODIES_NOTED = 8            # classes of a value whose bodies are named once
    PARTS_NOTED = 64            # classes and members of a value that are named in full once, by writer and by reader
    UNLOCKED_BYTES = 1 << 20    # copies from here on let other threads run
    NATIVE_OK = 0
    TUPLE_HEAD = 9              # bytes before the first item of a tuple
    UNIFORM_LEAST = 4           # items of a list that is looked at for being all integers or all floats
    SCRATCH_KEPT = 1 << 20      # bytes of a scratch buffer that are kept from call to call
    NATIVE_CANNOT = 1

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15       # Knuth's multiplicative hashing: 2**64 / the golden ratio

cdef struct Part:               # a layout or a member of an enum that the value being written names already
    PyObject *named             # with a reference: no other object can have its address meanwhile
    Py_ssize_t position

cdef inline uint64_t part_place(const void *key) noexcept nogil:
    return (<uint64_t> key * GOLDEN) >> 32 & (PARTS_NOTED - 1)

cdef inline void replace(PyObject **place, PyObject *other) noexcept:
    """Puts another object, or NULL, where a reference is kept. The one before goes last: its end may come back here."""
    cdef PyObject *before = place[0]
    Py_XINCREF(other)
    place[0] = other
    Py_XDECREF(before)

cdef class Scratch:
    """A value while it is written: a growing byte buffer, and the extents that it lies in, held meanwhile by this process.

    Reused from call to call. Not thread-safe: whoever writes takes it away from the runtime.
    """
    cdef char *data
    cdef Py_ssize_t size, room
    cdef uint64_t *handles
    cdef Py_ssize_t handle_count, handle_room
    cdef PyObject *seen_first[SEEN_KEPT]        # an open-addressed table of containers met, by their addresses
    cdef PyObject **seen
    cdef Py_ssize_t seen_room, seen_count
    cdef uint64_t bodies[BODIES_NOTED]          # places of bodies among the handles
    cdef int body_count
    cdef Part parts[PARTS_NOTED]                # by `part_place`; a later one may take the place of another
    cdef int part_count
    cdef Memory *memory
    cdef dict inputs            # futures met: slot -> (number of the input, future); None: none yet
    cdef bint takes_futures     # in a call; in a value no future may stay one
    cdef dict copied            # id of an array -> where it was copied to, for a second beginning
    cdef list spare             # extents that a first beginning held

    def __cinit__(self):
        self.room = 4096
        self.data = <char *> malloc(self.room)
        if self.data == NULL:
            raise MemoryError
        self.seen = self.seen_first
        self.seen_room = SEEN_KEPT

    def __dealloc__(self):
        free(self.data)
        free(self.handles)
        self.forget_parts()
        self.forget_seen()

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
        """Empties it; what it holds is held no more."""
        cdef Py_ssize_t i
        for i in range(self.handle_count):
            extent_drop(self.memory, <uint32_t> extent_of(self.memory, self.handles[i]))
        if self.spare is not None:
            for offset in self.spare:
                extent_drop(self.memory, <uint32_t> extent_of(self.memory, offset))
        self.spare = self.copied = None
        self.size = self.handle_count = 0
        self.forget_parts()
        self.forget_seen()

    cdef int begin_again(self) except -1:
        """Empties it for another way of writing the same value: arrays that were copied need not be copied again."""
        cdef Py_ssize_t i
        self.spare = [self.handles[i] for i in range(self.handle_count)]
        self.size = self.handle_count = 0
        self.forget_parts()
        self.forget_seen()
        self.inputs = None
        return 0

    cdef int add_handle(self, uint64_t extent_offset) except -1:
        """Notes an extent that this process has taken or held; `clear` gives that hold back."""
        cdef uint64_t *larger
        cdef Py_ssize_t room = 2 * self.handle_room if self.handle_room else 16
        if self.handle_count == self.handle_room:
            larger = <uint64_t *> realloc(self.handles, room * sizeof(uint64_t))
            if larger == NULL:
                extent_drop(self.memory, <uint32_t> extent_of(self.memory, extent_offset))
                raise MemoryError
            self.handles = larger
            self.handle_room = room
        self.handles[self.handle_count] = extent_offset
        self.handle_count += 1
        return 0

    cdef uint64_t total(self) noexcept:
        """Bytes of the value with its handles in front."""
        return self.size + (8 * (<uint64_t> self.handle_count + 1) if self.handle_count else 0)

    cdef void write_to(self, char *out) noexcept:
        cdef uint64_t count = self.handle_count
        if count:
            memcpy(out, &count, 8)
            memcpy(out + 8, self.handles, 8 * count)
            out += 8 * (count + 1)
        memcpy(out, self.data, self.size)

    cdef inline Py_ssize_t position_of(self, object named) noexcept:
        """Where in the value a layout or member is named; -1: nowhere, or it is not known any more."""
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

    cdef int put_back(self, char tag, Py_ssize_t position) except -1:
        """Names what is named at an earlier position of the value."""
        cdef uint64_t distance = self.size - position
        cdef char *at = self.reserve(9)
        at[0] = tag
        memcpy(at + 1, &distance, 8)
        return 0

    cdef bint first_time(self, object container) except -1:
        """Notes a container; false when it was met before, or there are too many to tell."""
        cdef Py_ssize_t at
        if 2 * self.seen_count >= self.seen_room:
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
        """Where a container stands in the table, or would stand."""
        cdef Py_ssize_t mask = self.seen_room - 1
        cdef Py_ssize_t at = <Py_ssize_t> ((<uint64_t> container >> 4) * GOLDEN >> 32) & mask
        while self.seen[at] != NULL and self.seen[at] != container:
            at = (at + 1) & mask
        return at

    cdef int grow_seen(self) except -1:
        cdef PyObject **before = self.seen
        cdef Py_ssize_t room = self.seen_room, i
        cdef PyObject **larger = <PyObject **> calloc(4 * room, sizeof(PyObject *))
        if larger == NULL:
            raise MemoryError
        self.seen = larger
        self.seen_room = 4 * room
        for i in range(room):
            if before[i] != NULL:
                larger[self.seen_place(before[i])] = before[i]
        if before != self.seen_first:
            free(before)
        else:
            memset(before, 0, SEEN_KEPT * sizeof(PyObject *))
        return 0

    cdef void forget_seen(self) noexcept:
        if self.seen != self.seen_first:
            free(self.seen)
            self.seen = self.seen_first
            self.seen_room = SEEN_KEPT
        elif self.seen_count:
            memset(self.seen, 0, SEEN_KEPT * sizeof(PyObject *))
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


# ---- writing --------------------------------------------------------------------------------------------------------

cdef uint32_t input_number(dict inputs, Handle handle) except? 0xFFFFFFFF:
    """Which input of the task a future is: the same one twice is one input."""
    known = inputs.get(handle.index)
    if known is not None:
        return known[0]
    inputs[handle.index] = (len(inputs), handle)
    return len(inputs) - 1

cdef uint64_t new_extent(Scratch out, Segment runtime, uint64_t nbytes) except 0:
    """Offset of an extent for a part of the value, for the caller to fill; it never changes afterwards."""
    cdef int64_t id
    if runtime.pins:
        settle_pins(runtime)
    with nogil:
        id = extent_take(&runtime.memory, nbytes, EXTENT_VALUE, 0, 0)
        if id >= 0 and nbytes >= UNLOCKED_BYTES and not runtime.memory.extents[id].was_warm:
            # All of it is about to be written: one call instead of a fault per page. Kernels before 5.14 refuse; no harm done.
            madvise(runtime.memory.base + runtime.memory.extents[id].offset, align_up(nbytes, PAGE), MADV_POPULATE_WRITE)
    if id < 0:
        raise runtime.full(nbytes)
    runtime.memory.extents[id].sealed = 1
    out.add_handle(runtime.memory.extents[id].offset)
    runtime.count_copied(nbytes)
    return runtime.memory.extents[id].offset

cdef int put_long(Scratch out, Segment runtime, char tag, char long_tag, const char *source, uint64_t nbytes, object value) except -1:
    """The bytes of `value`, in an extent if there are many: it is kept meanwhile, since other threads may run."""
    cdef uint64_t offset
    cdef char *target
    if nbytes <= SHARED_BYTES:
        return out.put_sized(tag, source, nbytes)
    offset = new_extent(out, runtime, nbytes)
    target = runtime.memory.base + offset
    kept = value
    copy_bytes(target, source, nbytes)
    return out.put_place(long_tag, offset, nbytes)

cdef void copy_bytes(char *target, const char *source, uint64_t nbytes) noexcept:
    if nbytes < UNLOCKED_BYTES:
        memcpy(target, source, nbytes)
    else:
        with nogil:
            memcpy(target, source, nbytes)

cdef int put_buffer(Scratch out, Segment runtime, object buffer) except -1:
    """A buffer of a pickle: by its place if it has one, else copied."""
    cdef Py_buffer view
    cdef int64_t place
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        place = place_of(runtime, <const char *> view.buf, view.len) if view.len > SHARED_BYTES else -1
        if place < 0:
            return put_long(out, runtime, b'b' if view.readonly else b'w', b'V', <const char *> view.buf, view.len, None)
        hold_place(out, runtime, place, view.len)
        return out.put_place(b'V', place, view.len)
    finally:
        PyBuffer_Release(&view)

cdef int hold_place(Scratch out, Segment runtime, uint64_t place, uint64_t nbytes) except -1:
    """A part of the value that lies in an extent already."""
    cdef uint32_t id = <uint32_t> extent_of(&runtime.memory, place)
    extent_hold(&runtime.memory, id)
    out.add_handle(runtime.memory.extents[id].offset)
    runtime.count_shared(nbytes)
    return 0

cdef int put_pickled(Scratch out, Segment runtime, bytes data, list buffers, list arrays, list holds) except -1:
    """What `pickling` has written."""
    cdef uint32_t counts[2]
    cdef DefinitionHold hold
    for hold in holds:
        extent_hold(&runtime.memory, hold.extent)
        out.add_handle(hold.offset)
    out.put_tag(b'P')
    put_long(out, runtime, b'b', b'V', PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
    counts[0] = len(buffers)
    counts[1] = len(arrays)
    memcpy(out.reserve(8), counts, 8)
    for buffer in buffers:
        put_buffer(out, runtime, buffer)
    for array in arrays:
        encode_array(out, runtime, array, 0)
    return 0

cdef bint put_uniform(Scratch out, list items, Py_ssize_t size) except -1:
    """A list of integers of 64 bits, or of floats; false, and nothing written, for any other."""
    cdef Py_ssize_t start = out.size, i
    cdef int overflow = 0
    cdef int64_t number
    cdef double real
    cdef char *at
    cdef PyObject *item = PyList_GET_ITEM(items, 0)
    if PyLong_CheckExact(<object> item):
        at = out.reserve(9 + 8 * size)
        at[0] = b'q'
        for i in range(size):
            item = PyList_GET_ITEM(items, i)
            if not PyLong_CheckExact(<object> item):
                break
            number = PyLong_AsLongLongAndOverflow(<object> item, &overflow)
            if overflow:
                break
            memcpy(at + 9 + 8 * i, &number, 8)
        else:
            memcpy(at + 1, &size, 8)
            return True
    elif PyFloat_CheckExact(<object> item):
        at = out.reserve(9 + 8 * size)
        at[0] = b'd'
        for i in range(size):
            item = PyList_GET_ITEM(items, i)
            if not PyFloat_CheckExact(<object> item):
                break
            real = PyFloat_AS_DOUBLE(<object> item)
            memcpy(at + 9 + 8 * i, &real, 8)
        else:
            memcpy(at + 1, &size, 8)
            return True
    out.size = start
    return False

cdef class Numbers:
    """Integers of 64 bits in a row, which travel like a list of them: to collect many without keeping an object for each."""
    cdef int64_t *at
    cdef Py_ssize_t count
    cdef Py_ssize_t room

    def __dealloc__(self):
        free(self.at)

    def __reduce__(self):
        return list, (self.listed(),)

    cdef bint add(self, object item) except -1:
        """Appends an item; False when it is none of these."""
        cdef int overflow = 0
        if not PyLong_CheckExact(item):
            return False
        if self.count == self.room:
            self.grow()
        self.at[self.count] = PyLong_AsLongLongAndOverflow(item, &overflow)
        if overflow:
            return False
        self.count += 1
        return True

    cdef int grow(self) except -1:
        cdef Py_ssize_t room = 2 * self.room if self.room else 256
        cdef void *larger = realloc(self.at, 8 * <size_t> room)
        if larger == NULL:
            raise MemoryError
        self.at = <int64_t *> larger
        self.room = room
        return 0

    cdef list listed(self):
        return [self.at[i] for i in range(self.count)]

cdef inline object uniform_item(const char *at, bint integers):
    cdef int64_t number
    cdef double real
    if integers:
        memcpy(&number, at, 8)
        return PyLong_FromLongLong(number)
    memcpy(&real, at, 8)
    return PyFloat_FromDouble(real)

cdef list decode_uniform(const char **at, bint integers):
    cdef uint64_t size, i
    cdef object item
    memcpy(&size, at[0], 8)
    at[0] += 8
    items = PyList_New(size)
    for i in range(size):
        item = uniform_item(at[0] + 8 * i, integers)
        Py_INCREF(item)
        PyList_SET_ITEM(items, i, item)
    at[0] += 8 * size
    return items

cdef int encode_item(Scratch out, PyObject *item, Calls runtime, int depth, int sole) except -1:
    """A part of a container. It is kept meanwhile: other threads may run, and change the container."""
    kept = <object> item
    return encode_native(out, <object> item, runtime, depth, sole)

cdef int encode_native(Scratch out, object value, Calls runtime, int depth, int sole) except -1:
    """Appends a value; NATIVE_CANNOT when some part of it needs pickle (what was appended is then void).

    `sole`: the references that the value has if nobody but the callers here refers to it, or to what contains it: then it will
    be gone soon. 0: somebody may.
    """
    cdef int overflow = 0
    cdef long long number
    cdef double real
    cdef char *at
    cdef const char *text
    cdef Py_ssize_t size, i
    cdef uint32_t position
    cdef PyObject *key
    cdef PyObject *item
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
            put_long(out, runtime, b's', b'S', <const char *> PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value), value)
        else:
            try:
                text = PyUnicode_AsUTF8AndSize(value, &size)
            except UnicodeEncodeError:          # lone surrogates
                return NATIVE_CANNOT
            put_long(out, runtime, b's', b'S', text, size, value)
    elif PyBytes_CheckExact(value):
        put_long(out, runtime, b'b', b'B', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value)
    elif type(value) is Numbers:
        at = out.reserve(9 + 8 * (<Numbers> value).count)
        at[0] = b'q'
        memcpy(at + 1, &(<Numbers> value).count, 8)
        if (<Numbers> value).count:
            memcpy(at + 9, (<Numbers> value).at, 8 * <size_t> (<Numbers> value).count)
    elif PyTuple_CheckExact(value):
        if depth == 0 or (PyTuple_GET_SIZE(value) and Py_REFCNT(value) != sole and not out.first_time(value)):
            return NATIVE_CANNOT
        out.put_count(b'(', PyTuple_GET_SIZE(value))
        sole = 2 if Py_REFCNT(value) == sole else 0
        for i in range(PyTuple_GET_SIZE(value)):
            if encode_item(out, PyTuple_GET_ITEM(value, i), runtime, depth - 1, sole):
                return NATIVE_CANNOT
    elif PyList_CheckExact(value):
        if depth == 0 or (Py_REFCNT(value) != sole and not out.first_time(value)):
            return NATIVE_CANNOT
        size = PyList_GET_SIZE(value)
        if size >= UNIFORM_LEAST and put_uniform(out, value, size):
            return NATIVE_OK
        out.put_count(b'[', size)
        sole = 2 if Py_REFCNT(value) == sole else 0
        i = 0
        while i < PyList_GET_SIZE(value):
            if encode_item(out, PyList_GET_ITEM(value, i), runtime, depth - 1, sole):
                return NATIVE_CANNOT
            i += 1
        if i != size:
            return NATIVE_CANNOT
    elif PyDict_CheckExact(value):
        if depth == 0 or (Py_REFCNT(value) != sole and not out.first_time(value)):
            return NATIVE_CANNOT
        size = PyDict_Size(value)
        out.put_count(b'{', size)
        sole = 2 if Py_REFCNT(value) == sole else 0
        i = 0
        while PyDict_Next(value, &i, &key, &item):
            size -= 1
            kept = <object> item
            if encode_item(out, key, runtime, depth - 1, 0) or encode_item(out, item, runtime, depth - 1, sole + 1 if sole else 0):
                return NATIVE_CANNOT
        if size:
            return NATIVE_CANNOT
    elif is_array(value):
        if Py_REFCNT(value) != sole and not out.first_time(value):
            return NATIVE_CANNOT
        return encode_array(out, runtime, value, sole)
    elif out.takes_futures and isinstance(value, Handle) and (<Handle> value).runtime is runtime:
        if out.inputs is None:
            out.inputs = {}
        position = input_number(out.inputs, <Handle> value)
        at = out.reserve(5)
        at[0] = b'R'
        memcpy(at + 1, &position, 4)
    else:
        return encode_instance(out, value, runtime, depth)
    return NATIVE_OK


# ---- reading --------------------------------------------------------------------------------------------------------

cdef bytes copied_bytes(const char *source, uint64_t nbytes):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, nbytes)
    copy_bytes(PyBytes_AS_STRING(made), source, nbytes)
    return made

cdef object decode_pickled(const char **at, Calls runtime, list values):
    cdef uint32_t counts[2]
    cdef uint32_t i
    data = decode_native(at, runtime, None)
    memcpy(counts, at[0], 8)
    at[0] += 8
    buffers = [decode_native(at, runtime, None) for i in range(counts[0])]
    arrays = [decode_native(at, runtime, None) for i in range(counts[1])]
    return runtime.pickling.load(runtime, data, buffers, arrays, values)

cdef object decode_native(const char **at, Calls runtime, list values):
    """Reads one value; `values` are the task's inputs."""
    cdef char tag = at[0][0]
    cdef int64_t number
    cdef double real
    cdef uint64_t size, i, offset
    cdef uint32_t position
    at[0] += 1
    if tag == b'i':
        memcpy(&number, at[0], 8)
        at[0] += 8
        return PyLong_FromLongLong(number)
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
    if tag == b'a' or tag == b'A':
        return decode_array(at, runtime, tag == b'A')
    if tag == b'O' or tag == b'o':
        return decode_instance(at, runtime, values)
    if tag == b'E' or tag == b'M':
        return decode_member(at, runtime)
    if tag == b'P':
        return decode_pickled(at, runtime, values)
    if tag == b'q' or tag == b'd':
        return decode_uniform(at, tag == b'q')
    memcpy(&size, at[0], 8)
    at[0] += 8
    if tag == b'(':
        result = PyTuple_New(size)
        for i in range(size):
            item = decode_native(at, runtime, values)
            Py_INCREF(item)                     # PyTuple_SET_ITEM steals it
            PyTuple_SET_ITEM(result, i, item)
        return result
    if tag == b'[':
        items = PyList_New(size)
        for i in range(size):
            item = decode_native(at, runtime, values)
            Py_INCREF(item)
            PyList_SET_ITEM(items, i, item)
        return items
    if tag == b'{':
        pairs = {}
        for i in range(size):
            key = decode_native(at, runtime, values)
            PyDict_SetItem(pairs, key, decode_native(at, runtime, values))
        return pairs
    if tag == b'S' or tag == b'B' or tag == b'V':
        offset = size
        memcpy(&size, at[0], 8)
        at[0] += 8
        if tag == b'V':
            view = shared_buffer(runtime, offset, size)
            if view is not None:
                runtime.count_shared(size)
                return view
        runtime.count_copied(size)
        if tag == b'V':
            return PyByteArray_FromStringAndSize(runtime.memory.base + offset, size)
        if tag == b'S':
            return PyUnicode_DecodeUTF8(runtime.memory.base + offset, size, NULL)
        return copied_bytes(runtime.memory.base + offset, size)
    text = at[0]
    at[0] += size
    if tag == b's':
        return PyUnicode_DecodeUTF8(text, size, NULL)
    if tag == b'b' or (tag == b'w' and runtime.memory.header.arrays_read_only):
        return PyBytes_FromStringAndSize(text, size)
    if tag == b'w':
        return PyByteArray_FromStringAndSize(text, size)
    if tag == b'I':
        return int.from_bytes(PyBytes_FromStringAndSize(text, size), "little", signed=True)
    raise SystemError(f"flame_fast: unknown tag {tag} in a value")
