# Writing values: plain ones natively, everything else by pickle with its buffers and arrays out of band.
# uses: python_api, numpy_api, segment, definition_store, handle, writer, integer_list, shared_values, arrays, values,
#   class_layouts

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_Next, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from .core.extents cimport extent_acquire

cdef enum:
    NATIVE_DEPTH = 16           # deeper nesting, and cycles, go to pickle
    UNIFORM_LEAST = 4           # items of a list that is looked at for being all integers or all floats

cdef uint32_t dependency_number(dict dependencies, SlotReference handle) except? 0xFFFFFFFF:
    """Which input of the task a future is: the same one twice is one input."""
    known = dependencies.get(handle.index)
    if known is not None:
        return known[0]
    dependencies[handle.index] = (len(dependencies), handle)
    return len(dependencies) - 1

cdef int put_pickled(ValueWriter out, Segment runtime, bytes data, list buffers, list arrays, list holds) except -1:
    """What `pickling` has written."""
    cdef uint32_t counts[2]
    cdef DefinitionHold hold
    for hold in holds:
        extent_acquire(&runtime.memory, hold.extent)
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

cdef bint put_uniform(ValueWriter out, list items, Py_ssize_t size) except -1:
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

cdef int encode_item(ValueWriter out, PyObject *item, Values runtime, int depth, int expected_refcount) except -1:
    """A part of a container. It is kept meanwhile: other threads may run, and change the container."""
    keep_alive = <object> item
    return encode_native(out, <object> item, runtime, depth, expected_refcount)

cdef int encode_native(ValueWriter out, object value, Values runtime, int depth, int expected_refcount) except -1:
    """Appends a value; NATIVE_CANNOT when some part of it needs pickle (what was appended is then void).

    `expected_refcount`: the references that the value has if nobody but the callers here refers to it, or to what contains it: then it will
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
    elif type(value) is Int64List:
        at = out.reserve(9 + 8 * (<Int64List> value).count)
        at[0] = b'q'
        memcpy(at + 1, &(<Int64List> value).count, 8)
        if (<Int64List> value).count:
            memcpy(at + 9, (<Int64List> value).at, 8 * <size_t> (<Int64List> value).count)
    elif PyTuple_CheckExact(value):
        if depth == 0 or (PyTuple_GET_SIZE(value) and Py_REFCNT(value) != expected_refcount and not out.first_time(value)):
            return NATIVE_CANNOT
        out.put_count(b'(', PyTuple_GET_SIZE(value))
        expected_refcount = 2 if Py_REFCNT(value) == expected_refcount else 0
        for i in range(PyTuple_GET_SIZE(value)):
            if encode_item(out, PyTuple_GET_ITEM(value, i), runtime, depth - 1, expected_refcount):
                return NATIVE_CANNOT
    elif PyList_CheckExact(value):
        if depth == 0 or (Py_REFCNT(value) != expected_refcount and not out.first_time(value)):
            return NATIVE_CANNOT
        size = PyList_GET_SIZE(value)
        if size >= UNIFORM_LEAST and put_uniform(out, value, size):
            return NATIVE_OK
        out.put_count(b'[', size)
        expected_refcount = 2 if Py_REFCNT(value) == expected_refcount else 0
        i = 0
        while i < PyList_GET_SIZE(value):
            if encode_item(out, PyList_GET_ITEM(value, i), runtime, depth - 1, expected_refcount):
                return NATIVE_CANNOT
            i += 1
        if i != size:
            return NATIVE_CANNOT
    elif PyDict_CheckExact(value):
        if depth == 0 or (Py_REFCNT(value) != expected_refcount and not out.first_time(value)):
            return NATIVE_CANNOT
        size = PyDict_Size(value)
        out.put_count(b'{', size)
        expected_refcount = 2 if Py_REFCNT(value) == expected_refcount else 0
        i = 0
        while PyDict_Next(value, &i, &key, &item):
            size -= 1
            keep_alive = <object> item
            if encode_item(out, key, runtime, depth - 1, 0) or encode_item(out, item, runtime, depth - 1, expected_refcount + 1 if expected_refcount else 0):
                return NATIVE_CANNOT
        if size:
            return NATIVE_CANNOT
    elif is_array(value):
        if Py_REFCNT(value) != expected_refcount and not out.first_time(value):
            return NATIVE_CANNOT
        return encode_array(out, runtime, value, expected_refcount)
    elif out.takes_futures and isinstance(value, SlotReference) and (<SlotReference> value).runtime is runtime:
        if out.dependencies is None:
            out.dependencies = {}
        position = dependency_number(out.dependencies, <SlotReference> value)
        at = out.reserve(5)
        at[0] = b'R'
        memcpy(at + 1, &position, 4)
    else:
        return encode_instance(out, value, runtime, depth)
    return NATIVE_OK

cdef int encode_instance(ValueWriter out, object value, Values runtime, int depth) except -1:
    """An instance of such a class; NATIVE_CANNOT for any other value."""
    cdef Layout layout
    cdef Py_ssize_t start = out.size, position = out.position_of(value)
    if position >= 0:
        return out.put_distance(b'M', position)
    layout = layout_of(runtime, type(value))
    if layout is None or depth == 0:
        return NATIVE_CANNOT
    if layout.form == LAYOUT_MEMBER:
        name = value._name_
        if name is None or type(value)._member_map_.get(name) is not value or not keep_body(out, runtime, layout):
            return NATIVE_CANNOT
        put_class(out, layout, b'E')
        out.note_part(value, start)
        return encode_native(out, name, runtime, depth - 1, 0)
    position = out.position_of(layout)
    if not out.first_time(value) or (position < 0 and not keep_body(out, runtime, layout)):
        return NATIVE_CANNOT
    if position >= 0:
        out.put_distance(b'o', position)
    else:
        put_class(out, layout, b'O')
        out.note_part(layout, start)
    if not layout.form & LAYOUT_TUPLE:
        out.put_tag(b'N')
    elif put_items(out, value, runtime, depth - 1):
        return NATIVE_CANNOT
    if not layout.form & LAYOUT_DICT:
        out.put_tag(b'N')
    elif put_attributes(out, PyObject_GenericGetDict(value, NULL), runtime, depth - 1):
        return NATIVE_CANNOT
    if not layout.form & LAYOUT_SLOTS:
        return out.put_tag(b'N')
    return put_slots(out, value, layout.slots, runtime, depth - 1)

cdef int put_class(ValueWriter out, Layout layout, char tag) except -1:
    cdef char *at = out.reserve(1 + PLACE_BYTES)
    at[0] = tag
    memcpy(at + 1, PyBytes_AS_STRING(layout.identity), IDENTITY_BYTES)
    memcpy(at + 1 + IDENTITY_BYTES, &layout.offset, 8)
    memcpy(at + 1 + IDENTITY_BYTES + 8, &layout.nbytes, 8)
    return 0

cdef int put_items(ValueWriter out, object value, Values runtime, int depth) except -1:
    cdef Py_ssize_t i
    out.put_count(b'(', PyTuple_GET_SIZE(value))
    for i in range(PyTuple_GET_SIZE(value)):
        if encode_item(out, PyTuple_GET_ITEM(value, i), runtime, depth, 0):
            return NATIVE_CANNOT
    return NATIVE_OK

cdef int put_attributes(ValueWriter out, dict attributes, Values runtime, int depth) except -1:
    cdef Py_ssize_t left = PyDict_Size(attributes), i = 0
    cdef PyObject *key
    cdef PyObject *item
    out.put_count(b'{', left)
    while PyDict_Next(attributes, &i, &key, &item):
        left -= 1
        keep_key_alive = <object> key
        keep_alive = <object> item
        if not PyUnicode_CheckExact(keep_key_alive) or encode_native(out, keep_key_alive, runtime, 1, 0) or \
                encode_native(out, keep_alive, runtime, depth, 0):
            return NATIVE_CANNOT
    return NATIVE_CANNOT if left else NATIVE_OK

cdef int put_slots(ValueWriter out, object value, tuple names, Values runtime, int depth) except -1:
    """Slots that nothing has been put into are left out."""
    cdef uint64_t count = 0
    cdef Py_ssize_t place = out.size + 1
    out.put_count(b'{', 0)
    for name in names:
        try:
            item = object.__getattribute__(value, name)
        except AttributeError:
            continue
        if encode_native(out, name, runtime, 1, 0) or encode_native(out, item, runtime, depth, 0):
            return NATIVE_CANNOT
        count += 1
    memcpy(out.data + place, &count, 8)
    return NATIVE_OK
