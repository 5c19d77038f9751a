# Read values: what `encode.pxi` wrote, tag by tag.
# uses: python_api, views, definition_store, integer_list, shared_values, arrays, values, class_layouts

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_SetItem
from cpython.float cimport PyFloat_FromDouble
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    TUPLE_HEAD = 9              # bytes before the first item of a tuple

cdef inline uint64_t read_word(const char **at) noexcept:
    """Return the eight bytes at an address, and step over them."""
    cdef uint64_t word
    memcpy(&word, at[0], 8)
    at[0] += 8
    return word

cdef object decode_native(const char **at, Values runtime, list values):
    """Read one value; `values` are those of the task's dependencies."""
    cdef char tag = at[0][0]
    cdef uint32_t position
    at[0] += 1
    if tag == b'i':
        return PyLong_FromLongLong(<int64_t> read_word(at))
    if tag == b'N':
        return None
    if tag == b'T':
        return True
    if tag == b'F':
        return False
    if tag == b'f':
        return decode_float(at)
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
    if tag == b'(':
        return decode_tuple(at, runtime, values)
    if tag == b'[':
        return decode_list(at, runtime, values)
    if tag == b'{':
        return decode_dict(at, runtime, values)
    if tag == b'S' or tag == b'B' or tag == b'V':
        return decode_place(at, runtime, tag)
    return decode_sized(at, runtime, tag)

cdef inline object decode_float(const char **at):
    cdef double real
    memcpy(&real, at[0], 8)
    at[0] += 8
    return PyFloat_FromDouble(real)

cdef inline tuple decode_tuple(const char **at, Values runtime, list values):
    cdef uint64_t size = read_word(at), i
    result = PyTuple_New(size)
    for i in range(size):
        item = decode_native(at, runtime, values)
        Py_INCREF(item)                     # PyTuple_SET_ITEM steals it
        PyTuple_SET_ITEM(result, i, item)
    return result

cdef inline list decode_list(const char **at, Values runtime, list values):
    cdef uint64_t size = read_word(at), i
    items = PyList_New(size)
    for i in range(size):
        item = decode_native(at, runtime, values)
        Py_INCREF(item)                     # PyList_SET_ITEM steals it
        PyList_SET_ITEM(items, i, item)
    return items

cdef inline dict decode_dict(const char **at, Values runtime, list values):
    cdef uint64_t size = read_word(at), i
    pairs = {}
    for i in range(size):
        key = decode_native(at, runtime, values)
        PyDict_SetItem(pairs, key, decode_native(at, runtime, values))
    return pairs

cdef list decode_uniform(const char **at, bint integers):
    """Read a list of nothing but 64-bit integers, or of nothing but floats."""
    cdef uint64_t size = read_word(at), i
    cdef object item
    items = PyList_New(size)
    for i in range(size):
        item = uniform_item(at[0] + 8 * i, integers)
        Py_INCREF(item)                     # PyList_SET_ITEM steals it
        PyList_SET_ITEM(items, i, item)
    at[0] += 8 * size
    return items

cdef object decode_place(const char **at, Values runtime, char tag):
    """Read a part that lies in an extent: a buffer as a view if possible, else as a copy."""
    cdef uint64_t offset = read_word(at), size = read_word(at)
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
    return bytes_copied(runtime.memory.base + offset, size)

cdef bytes bytes_copied(const char *source, uint64_t nbytes):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, nbytes)
    copy_bytes(PyBytes_AS_STRING(made), source, nbytes)
    return made

cdef inline object decode_sized(const char **at, Values runtime, char tag):
    """Read a part whose bytes follow their number."""
    cdef uint64_t size = read_word(at)
    cdef const char *text = at[0]
    at[0] += size
    if tag == b's':
        return PyUnicode_DecodeUTF8(text, size, NULL)
    if tag == b'b' or (tag == b'w' and runtime.memory.header.arrays_read_only):
        return PyBytes_FromStringAndSize(text, size)
    if tag == b'w':
        return PyByteArray_FromStringAndSize(text, size)
    if tag == b'I':
        return int.from_bytes(PyBytes_FromStringAndSize(text, size), "little", signed=True)
    raise SystemError(f"flame_fast: tag of a value: expected a known one, got {tag}")

cdef object decode_pickled(const char **at, Values runtime, list values):
    cdef uint32_t counts[2]
    cdef uint32_t i
    data = decode_native(at, runtime, None)
    memcpy(counts, at[0], 8)
    at[0] += 8
    buffers = [decode_native(at, runtime, None) for i in range(counts[0])]
    arrays = [decode_native(at, runtime, None) for i in range(counts[1])]
    return runtime.pickling.load(runtime, data, buffers, arrays, values)

cdef object decode_class(const char **at, Values runtime):
    cdef uint64_t offset, nbytes
    identity = PyBytes_FromStringAndSize(at[0], IDENTITY_BYTES)
    memcpy(&offset, at[0] + IDENTITY_BYTES, 8)
    memcpy(&nbytes, at[0] + IDENTITY_BYTES + 8, 8)
    at[0] += PLACE_BYTES
    return runtime.pickling.definition(runtime, identity, offset, nbytes)

cdef const char *place_named(const char **at) noexcept:
    """Return where the value names the class or member of the tag just read: there, or further in front."""
    cdef const char *tag = at[0] - 1
    if tag[0] == b'O' or tag[0] == b'E':
        return tag
    return tag - read_word(at)

cdef object decode_member(const char **at, Values runtime):
    cdef const char *place = place_named(at)
    cdef const char *there = place + 1
    cdef bint again = there != at[0]
    member = runtime.known_at(place) if again else None
    if member is None:
        kind = decode_class(&there, runtime)
        member = kind._member_map_[decode_native(&there, runtime, None)]
        runtime.note_known(place, member)
    if not again:
        at[0] = there
    return member

cdef object decode_instance(const char **at, Values runtime, list values):
    cdef const char *place = place_named(at)
    cdef const char *there = place + 1
    cdef bint again = there != at[0]
    kind = runtime.known_at(place) if again else None
    if kind is None:
        kind = decode_class(&there, runtime)
        runtime.note_known(place, kind)
    if not again:
        at[0] = there
    items = decode_native(at, runtime, values)
    value = ff_bare_instance(<PyTypeObject *> kind) if items is None else tuple.__new__(kind, items)
    if at[0][0] == b'N':
        at[0] += 1
    else:
        attributes = PyObject_GenericGetDict(value, NULL)
        decode_attributes(at, runtime, values, None, attributes)
    if at[0][0] == b'N':
        at[0] += 1
    else:
        decode_attributes(at, runtime, values, value, None)
    return value

cdef int decode_attributes(const char **at, Values runtime, list values, object target, dict attributes) except -1:
    """Read names and values, into slots of `target` or into a dictionary."""
    cdef uint64_t count, i
    cdef PyObject *name
    at[0] += 1
    count = read_word(at)
    for i in range(count):
        key = decode_native(at, runtime, None)
        name = <PyObject *> key
        Py_INCREF(key)                          # PyUnicode_InternInPlace steals a reference and returns one
        PyUnicode_InternInPlace(&name)
        key = <object> name
        Py_DECREF(<object> name)
        item = decode_native(at, runtime, values)
        if attributes is None:
            PyObject_GenericSetAttr(target, key, item)
        else:
            PyDict_SetItem(attributes, key, item)
    return 0
