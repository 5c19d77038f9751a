# Read values: what `encode.pxi` wrote, tag by tag.
# uses: python_api, segment, views, definition_store, reader, integer_list, shared_values, arrays, values, class_layouts

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
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
from .core.checksum cimport checksum

cdef enum:
    TUPLE_HEAD = 9              # bytes before the first item of a tuple

cdef object decode_native(Reader *source, Values runtime, list values):
    """Read one value; `values` are those of the task's dependencies."""
    cdef char tag = take_tag(runtime, source)
    cdef uint32_t position
    if tag == b'i':
        return PyLong_FromLongLong(<int64_t> take_word(runtime, source))
    if tag == b'N':
        return None
    if tag == b'T':
        return True
    if tag == b'F':
        return False
    if tag == b'f':
        return decode_float(source, runtime)
    if tag == b'R':
        memcpy(&position, take(runtime, source, 4), 4)
        if values is None or position >= <size_t> len(values):
            raise runtime.damage()
        return values[position]
    if tag == b'a' or tag == b'A':
        return decode_array(source, runtime, tag == b'A')
    if tag == b'O' or tag == b'o':
        return decode_instance(source, runtime, values)
    if tag == b'E' or tag == b'M':
        return decode_member(source, runtime)
    if tag == b'P':
        return decode_pickled(source, runtime, values)
    if tag == b'q' or tag == b'd':
        return decode_uniform(source, runtime, tag == b'q')
    if tag == b'(':
        return decode_tuple(source, runtime, values)
    if tag == b'[':
        return decode_list(source, runtime, values)
    if tag == b'{':
        return decode_dict(source, runtime, values)
    if tag == b'S' or tag == b'B' or tag == b'V':
        return decode_place(source, runtime, tag)
    return decode_sized(source, runtime, tag)

cdef inline object decode_float(Reader *source, Values runtime):
    cdef double real
    memcpy(&real, take(runtime, source, 8), 8)
    return PyFloat_FromDouble(real)

cdef inline tuple decode_tuple(Reader *source, Values runtime, list values):
    cdef uint64_t size = take_count(runtime, source, 1), i
    result = PyTuple_New(size)
    for i in range(size):
        item = decode_native(source, runtime, values)
        Py_INCREF(item)                     # PyTuple_SET_ITEM steals it
        PyTuple_SET_ITEM(result, i, item)
    return result

cdef inline list decode_list(Reader *source, Values runtime, list values):
    cdef uint64_t size = take_count(runtime, source, 1), i
    items = PyList_New(size)
    for i in range(size):
        item = decode_native(source, runtime, values)
        Py_INCREF(item)                     # PyList_SET_ITEM steals it
        PyList_SET_ITEM(items, i, item)
    return items

cdef inline dict decode_dict(Reader *source, Values runtime, list values):
    cdef uint64_t size = take_count(runtime, source, 2), i
    pairs = {}
    for i in range(size):
        key = decode_native(source, runtime, values)
        PyDict_SetItem(pairs, key, decode_native(source, runtime, values))
    return pairs

cdef list decode_uniform(Reader *source, Values runtime, bint integers):
    """Read a list of nothing but 64-bit integers, or of nothing but floats."""
    cdef uint64_t size = take_count(runtime, source, 8), i
    cdef const char *first = take(runtime, source, 8 * size)
    cdef object item
    items = PyList_New(size)
    for i in range(size):
        item = uniform_item(first + 8 * i, integers)
        Py_INCREF(item)                     # PyList_SET_ITEM steals it
        PyList_SET_ITEM(items, i, item)
    return items

cdef object decode_place(Reader *source, Values runtime, char tag):
    """Read a part that lies in an extent: a buffer as a view if possible, else as a copy."""
    cdef uint64_t offset = take_word(runtime, source), size = take_word(runtime, source)
    runtime.check_range(offset, size)
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

cdef inline object decode_sized(Reader *source, Values runtime, char tag):
    """Read a part whose bytes follow their number."""
    cdef uint64_t size = take_word(runtime, source)
    cdef const char *text = take(runtime, source, size)
    if tag == b's':
        return PyUnicode_DecodeUTF8(text, size, NULL)
    if tag == b'b' or (tag == b'w' and runtime.memory.header.arrays_read_only):
        return PyBytes_FromStringAndSize(text, size)
    if tag == b'w':
        return PyByteArray_FromStringAndSize(text, size)
    if tag == b'I':
        return int.from_bytes(PyBytes_FromStringAndSize(text, size), "little", signed=True)
    raise runtime.damage()

cdef object decode_pickled(Reader *source, Values runtime, list values):
    cdef uint32_t counts[2]
    cdef uint32_t i
    cdef uint64_t sum
    data = decode_native(source, runtime, None)
    sum = take_word(runtime, source)
    memcpy(counts, take(runtime, source, 8), 8)
    check_pickle(runtime, data, sum)
    buffers = [decode_native(source, runtime, None) for i in range(counts[0])]
    arrays = [decode_native(source, runtime, None) for i in range(counts[1])]
    return runtime.pickling.load(runtime, data, buffers, arrays, values)

cdef int check_pickle(Segment runtime, data, uint64_t sum) except -1:
    """Check that a pickle is as it was written, before it is loaded: loading one may run any code."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    found = checksum(<const char *> view.buf, view.len)
    PyBuffer_Release(&view)
    if found != sum:
        raise runtime.damage()
    return 0

cdef object decode_class(Reader *source, Values runtime):
    cdef uint64_t offset, nbytes
    cdef const char *at = take(runtime, source, PLACE_BYTES)
    identity = PyBytes_FromStringAndSize(at, IDENTITY_BYTES)
    memcpy(&offset, at + IDENTITY_BYTES, 8)
    memcpy(&nbytes, at + IDENTITY_BYTES + 8, 8)
    return runtime.pickling.definition(runtime, identity, offset, nbytes)

cdef const char *place_named(Reader *source, Values runtime) except NULL:
    """Return where the value names the class or member of the tag just read: there, or further in front."""
    cdef const char *tag = source.at - 1
    cdef uint64_t distance
    if tag[0] == b'O' or tag[0] == b'E':
        return tag
    distance = take_word(runtime, source)
    if distance > <uint64_t> (tag - source.begin) or (tag - distance)[0] not in (b'O', b'E'):
        raise runtime.damage()
    return tag - distance

cdef inline Reader reader_behind(Reader *source, const char *tag) noexcept:
    """Return a reader of the same value behind a tag."""
    cdef Reader there = source[0]
    there.at = tag + 1
    return there

cdef object decode_member(Reader *source, Values runtime):
    cdef const char *place = place_named(source, runtime)
    cdef Reader there = reader_behind(source, place)
    cdef bint again = there.at != source.at
    member = runtime.known_at(place) if again else None
    if member is None:
        kind = decode_class(&there, runtime)
        member = kind._member_map_.get(decode_native(&there, runtime, None))
        if member is None:      # the writer had the same version of the enum
            raise runtime.damage()
        runtime.note_known(place, member)
    if not again:
        source.at = there.at
    return member

cdef object decode_instance(Reader *source, Values runtime, list values):
    cdef const char *place = place_named(source, runtime)
    cdef Reader there = reader_behind(source, place)
    cdef bint again = there.at != source.at
    kind = runtime.known_at(place) if again else None
    if kind is None:
        kind = decode_class(&there, runtime)
        runtime.note_known(place, kind)
    if not again:
        source.at = there.at
    if not isinstance(kind, type):
        raise runtime.damage()
    items = decode_native(source, runtime, values)
    value = ff_bare_instance(<PyTypeObject *> kind) if items is None else tuple.__new__(kind, items)
    if take_tag(runtime, source) != b'N':
        decode_attributes(source, runtime, values, None, PyObject_GenericGetDict(value, NULL))
    if take_tag(runtime, source) != b'N':
        decode_attributes(source, runtime, values, value, None)
    return value

cdef int decode_attributes(Reader *source, Values runtime, list values, object target, dict attributes) except -1:
    """Read names and values, after their tag, into slots of `target` or into a dictionary."""
    cdef uint64_t count, i
    cdef PyObject *name
    count = take_count(runtime, source, 2)
    for i in range(count):
        key = decode_native(source, runtime, None)
        if type(key) is not str:
            raise runtime.damage()
        name = <PyObject *> key
        Py_INCREF(key)                          # PyUnicode_InternInPlace steals a reference and returns one
        PyUnicode_InternInPlace(&name)
        key = <object> name
        Py_DECREF(<object> name)
        item = decode_native(source, runtime, values)
        if attributes is None:
            PyObject_GenericSetAttr(target, key, item)
        else:
            PyDict_SetItem(attributes, key, item)
    return 0
