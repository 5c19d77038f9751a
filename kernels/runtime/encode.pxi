# Write values: plain ones natively, everything else by pickle with its buffers and arrays out of band.
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
from .core.checksum cimport checksum
from .core.extents cimport extent_acquire

cdef enum:
    NATIVE_DEPTH = 16           # deeper nesting, and cycles, go to pickle
    UNIFORM_LEAST = 4           # items of a list that is looked at for being all integers or all floats

cdef uint32_t dependency_number(dict dependencies, SlotReference handle) except? 0xFFFFFFFF:
    """Return which dependency of the task a future is. The same future twice is one dependency."""
    known = dependencies.get(handle.index)
    if known is not None:
        return known[0]
    dependencies[handle.index] = (len(dependencies), handle)
    return len(dependencies) - 1

cdef int put_pickled(ValueWriter out, Segment runtime, bytes data, list buffers, list arrays, list holds) except -1:
    """Append what `pickling` has written."""
    cdef uint32_t counts[2]
    cdef uint64_t sum
    cdef DefinitionHold hold
    for hold in holds:
        extent_acquire(&runtime.memory, hold.extent)
        out.add_handle(hold.offset)
    out.put_tag(b'P')
    put_long(out, runtime, b'b', b'V', PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
    sum = checksum(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    memcpy(out.reserve(8), &sum, 8)
    counts[0] = len(buffers)
    counts[1] = len(arrays)
    memcpy(out.reserve(8), counts, 8)
    for buffer in buffers:
        put_buffer(out, runtime, buffer)
    for array in arrays:
        encode_array(out, runtime, array, 0)
    return 0

cdef bint put_uniform(ValueWriter out, list items, Py_ssize_t size) except -1:
    """Append a list of nothing but 64-bit integers, or of nothing but floats; False, and nothing appended, for any other."""
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
    """Append a part of a container. A reference keeps it alive: other threads may run and change the container."""
    keep_alive = <object> item
    return encode_native(out, <object> item, runtime, depth, expected_refcount)

cdef int encode_native(ValueWriter out, object value, Values runtime, int depth, int expected_refcount) except -1:
    """Append a value; NATIVE_CANNOT when some part of it needs pickle (what was appended is then void).

    `expected_refcount`: the refcount of a value if only the callers here reference it and what contains it. Such a value
    will be freed soon, so its memory may be taken over. 0: unknown, others may reference it.
    """
    if value is None:
        return out.put_tag(b'N')
    if value is True:
        return out.put_tag(b'T')
    if value is False:
        return out.put_tag(b'F')
    if PyLong_CheckExact(value):
        return put_integer(out, value)
    if PyFloat_CheckExact(value):
        return put_float(out, PyFloat_AS_DOUBLE(value))
    if PyUnicode_CheckExact(value):
        return put_text(out, runtime, value)
    if PyBytes_CheckExact(value):
        return put_long(out, runtime, b'b', b'B', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value)
    if type(value) is Int64List:
        return put_int64_list(out, <Int64List> value)
    if PyTuple_CheckExact(value):
        return put_tuple(out, value, runtime, depth, expected_refcount)
    if PyList_CheckExact(value):
        return put_list(out, value, runtime, depth, expected_refcount)
    if PyDict_CheckExact(value):
        return put_dict(out, value, runtime, depth, expected_refcount)
    if is_array(value):
        return put_array(out, runtime, value, expected_refcount)
    if out.takes_futures and isinstance(value, SlotReference) and (<SlotReference> value).runtime is runtime:
        return put_dependency(out, <SlotReference> value)
    return encode_instance(out, value, runtime, depth)

cdef inline int put_integer(ValueWriter out, object value) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef char *at
    if overflow:
        raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return out.put_sized(b'I', PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    at = out.reserve(9)
    at[0] = b'i'
    memcpy(at + 1, &number, 8)
    return NATIVE_OK

cdef inline int put_float(ValueWriter out, double real) except -1:
    cdef char *at = out.reserve(9)
    at[0] = b'f'
    memcpy(at + 1, &real, 8)
    return NATIVE_OK

cdef inline int put_text(ValueWriter out, Segment runtime, object value) except -1:
    """Append a str; NATIVE_CANNOT for one with lone surrogates, which UTF-8 has no bytes for."""
    cdef const char *text
    cdef Py_ssize_t size
    if PyUnicode_IS_COMPACT_ASCII(value):
        return put_long(out, runtime, b's', b'S', <const char *> PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value), value)
    try:
        text = PyUnicode_AsUTF8AndSize(value, &size)
    except UnicodeEncodeError:
        return NATIVE_CANNOT
    return put_long(out, runtime, b's', b'S', text, size, value)

cdef inline int put_int64_list(ValueWriter out, Int64List numbers) except -1:
    cdef char *at = out.reserve(9 + 8 * numbers.count)
    at[0] = b'q'
    memcpy(at + 1, &numbers.count, 8)
    if numbers.count:           # an empty one has no memory to copy from
        memcpy(at + 9, numbers.at, 8 * <size_t> numbers.count)
    return NATIVE_OK

cdef inline bint is_new(ValueWriter out, object value, int expected_refcount) except -1:
    """Return whether this value has not had a container or array before: one without further references occurs once."""
    return Py_REFCNT(value) == expected_refcount or out.first_time(value)

cdef inline int item_refcount(object container, int expected_refcount) noexcept:
    """Return the refcount of an item that only its container and `encode_item` reference; 0: others may reference both."""
    return 2 if Py_REFCNT(container) == expected_refcount else 0

cdef inline int put_tuple(ValueWriter out, object value, Values runtime, int depth, int expected_refcount) except -1:
    cdef Py_ssize_t i
    if depth == 0:
        return NATIVE_CANNOT
    if PyTuple_GET_SIZE(value) and not is_new(out, value, expected_refcount):       # the empty tuple is a singleton
        return NATIVE_CANNOT
    out.put_count(b'(', PyTuple_GET_SIZE(value))
    expected_refcount = item_refcount(value, expected_refcount)
    for i in range(PyTuple_GET_SIZE(value)):
        if encode_item(out, PyTuple_GET_ITEM(value, i), runtime, depth - 1, expected_refcount):
            return NATIVE_CANNOT
    return NATIVE_OK

cdef inline int put_list(ValueWriter out, object value, Values runtime, int depth, int expected_refcount) except -1:
    """Append a list; NATIVE_CANNOT too if another thread changes its length meanwhile."""
    cdef Py_ssize_t size, i = 0
    if depth == 0 or not is_new(out, value, expected_refcount):
        return NATIVE_CANNOT
    size = PyList_GET_SIZE(value)
    if size >= UNIFORM_LEAST and put_uniform(out, value, size):
        return NATIVE_OK
    out.put_count(b'[', size)
    expected_refcount = item_refcount(value, expected_refcount)
    while i < PyList_GET_SIZE(value):
        if encode_item(out, PyList_GET_ITEM(value, i), runtime, depth - 1, expected_refcount):
            return NATIVE_CANNOT
        i += 1
    return NATIVE_CANNOT if i != size else NATIVE_OK

cdef inline int put_dict(ValueWriter out, object value, Values runtime, int depth, int expected_refcount) except -1:
    """Append a dict; NATIVE_CANNOT too if another thread changes its length meanwhile."""
    cdef Py_ssize_t left, i = 0
    cdef PyObject *key
    cdef PyObject *item
    if depth == 0 or not is_new(out, value, expected_refcount):
        return NATIVE_CANNOT
    left = PyDict_Size(value)
    out.put_count(b'{', left)
    expected_refcount = item_refcount(value, expected_refcount)
    if expected_refcount:
        expected_refcount += 1              # `keep_alive`
    while PyDict_Next(value, &i, &key, &item):
        left -= 1
        keep_alive = <object> item          # while the key is written
        if encode_item(out, key, runtime, depth - 1, 0) or encode_item(out, item, runtime, depth - 1, expected_refcount):
            return NATIVE_CANNOT
    return NATIVE_CANNOT if left else NATIVE_OK

cdef inline int put_array(ValueWriter out, Segment runtime, object value, int expected_refcount) except -1:
    if not is_new(out, value, expected_refcount):
        return NATIVE_CANNOT
    return encode_array(out, runtime, value, expected_refcount)

cdef inline int put_dependency(ValueWriter out, SlotReference handle) except -1:
    """Append the number of the dependency that a future becomes."""
    cdef uint32_t position
    cdef char *at
    if out.dependencies is None:
        out.dependencies = {}
    position = dependency_number(out.dependencies, handle)
    at = out.reserve(5)
    at[0] = b'R'
    memcpy(at + 1, &position, 4)
    return NATIVE_OK

cdef int encode_instance(ValueWriter out, object value, Values runtime, int depth) except -1:
    """Append an instance of a class with a `Layout`, or a member of an enum; NATIVE_CANNOT for others."""
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
    """Append a class in full: identity and place of its body."""
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
    """Append the slots of an instance. One without a value is left out."""
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
