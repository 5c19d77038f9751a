# Instances of classes that no worker can import, written natively: most values that scripts and notebooks make.
#
# Only where pickle would do no more than copy the attributes: `flame_fast.kernels.runtime.serialization.layout_of` says which classes those
# are. The class goes by its identity, see definitions.py; what a class needs is found once and kept for as long as it lives.
#   O identity, place of the body, a tuple's items or N, pairs of __dict__ or N, pairs of slots or N | E identity, place of the body, name
#   of a member | o u64 distance back to an O of the same class, the rest as of O | M u64 distance back to an E of the same member

cdef extern from "Python.h":
    object PyObject_GenericGetDict(object value, void *context)
    int PyObject_GenericSetAttr(object value, object name, object attribute) except -1
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL
    void PyUnicode_InternInPlace(PyObject **text)
    object PyLong_FromVoidPtr(void *pointer)
    ctypedef PyObject *(*allocfunc)(PyTypeObject *kind, Py_ssize_t count)

cdef extern from *:
    """
    static unsigned int ff_version_tag(PyTypeObject *type) {
        return type->tp_version_tag;
    }
    static PyObject *ff_bare_instance(PyTypeObject *type) {
        return type->tp_alloc(type, 0);
    }
    """
    unsigned int ff_version_tag(PyTypeObject *kind) noexcept
    object ff_bare_instance(PyTypeObject *kind)

cdef enum:
    LAYOUT_DICT = 1
    LAYOUT_SLOTS = 2
    LAYOUT_MEMBER = 4           # of an enum
    LAYOUT_TUPLE = 8            # a tuple's items, before any attributes
    PLACE_BYTES = IDENTITY_BYTES + 16

cdef class Layout:
    """How instances of one class are written, in one runner."""
    cdef uint64_t session
    cdef bytes identity
    cdef DefinitionHold hold    # None: others keep the body
    cdef uint64_t offset, nbytes
    cdef int form
    cdef tuple slots
    cdef unsigned int version   # of the class's dictionary when this was found out; a change may be a new version of the definition
    cdef bint fixed             # the class arrived: its version is not this process's to change
    cdef object reference       # a weak one to the class, whose end takes this away

cdef dict layouts = {}          # address of a class -> Layout; or a weak reference to it: its instances are pickle's

cdef Layout layout_of(Calls runtime, object kind):
    """The layout of a class; None if pickle must write its instances."""
    cdef Layout layout
    key = PyLong_FromVoidPtr(<void *> <PyObject *> kind)
    found = PyDict_GetItemWithError(layouts, key)
    if found != NULL:
        if type(<object> found) is not Layout:
            return None
        layout = <Layout> found
        if layout.session == runtime.memory.header.session and (layout.fixed or layout.version == ff_version_tag(<PyTypeObject *> kind) != 0):
            return layout
    parts = runtime.pickling.layout_of(runtime, kind)
    reference = weakref.ref(kind, lambda _: layouts.pop(key, None))
    if parts is None:
        layouts[key] = reference
        return None
    layout = Layout.__new__(Layout)
    layout.identity, layout.hold, layout.offset, layout.nbytes, layout.form, layout.slots, layout.fixed = parts
    layout.session = runtime.memory.header.session
    layout.version = ff_version_tag(<PyTypeObject *> kind)
    layout.reference = reference
    layouts[key] = layout
    return layout

def forget_layouts(Segment runtime=None):
    """Forgets what was found out of classes: for one runner, which ends, so that nothing of its segment is kept; or for all."""
    for key, layout in list(layouts.items()):
        if runtime is None or (type(layout) is Layout and (<Layout> layout).session == runtime.memory.header.session):
            layouts.pop(key, None)

cdef bint keep_body(Scratch out, Segment runtime, Layout layout) except -1:
    """Names the class's body among the value's extents; false if it is gone."""
    cdef int64_t id = extent_of(&runtime.memory, layout.offset)
    cdef bint there = True
    cdef int i
    for i in range(out.body_count):
        if out.bodies[i] == layout.offset:
            return True
    if layout.hold is not None:
        extent_hold(&runtime.memory, <uint32_t> id)
    else:
        lock_take(&runtime.memory)
        there = is_body(runtime, <uint32_t> id, PyBytes_AS_STRING(layout.identity), layout.offset)
        if there:
            extent_hold_locked(&runtime.memory, <uint32_t> id)
        lock_give(&runtime.memory)
    if there:
        out.add_handle(layout.offset)
        if out.body_count < BODIES_NOTED:
            out.bodies[out.body_count] = layout.offset
            out.body_count += 1
    return there

cdef int encode_instance(Scratch out, object value, Calls runtime, int depth) except -1:
    """An instance of such a class; NATIVE_CANNOT for any other value."""
    cdef Layout layout
    cdef Py_ssize_t start = out.size, position = out.position_of(value)
    if position >= 0:
        return out.put_back(b'M', position)
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
        out.put_back(b'o', position)
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

cdef int put_class(Scratch out, Layout layout, char tag) except -1:
    cdef char *at = out.reserve(1 + PLACE_BYTES)
    at[0] = tag
    memcpy(at + 1, PyBytes_AS_STRING(layout.identity), IDENTITY_BYTES)
    memcpy(at + 1 + IDENTITY_BYTES, &layout.offset, 8)
    memcpy(at + 1 + IDENTITY_BYTES + 8, &layout.nbytes, 8)
    return 0

cdef int put_items(Scratch out, object value, Calls runtime, int depth) except -1:
    cdef Py_ssize_t i
    out.put_count(b'(', PyTuple_GET_SIZE(value))
    for i in range(PyTuple_GET_SIZE(value)):
        if encode_item(out, PyTuple_GET_ITEM(value, i), runtime, depth, 0):
            return NATIVE_CANNOT
    return NATIVE_OK

cdef int put_attributes(Scratch out, dict attributes, Calls runtime, int depth) except -1:
    cdef Py_ssize_t left = PyDict_Size(attributes), i = 0
    cdef PyObject *key
    cdef PyObject *item
    out.put_count(b'{', left)
    while PyDict_Next(attributes, &i, &key, &item):
        left -= 1
        kept_key = <object> key
        kept = <object> item
        if not PyUnicode_CheckExact(kept_key) or encode_native(out, kept_key, runtime, 1, 0) or \
                encode_native(out, kept, runtime, depth, 0):
            return NATIVE_CANNOT
    return NATIVE_CANNOT if left else NATIVE_OK

cdef int put_slots(Scratch out, object value, tuple names, Calls runtime, int depth) except -1:
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

cdef object decode_class(const char **at, Calls runtime):
    cdef uint64_t offset, nbytes
    identity = PyBytes_FromStringAndSize(at[0], IDENTITY_BYTES)
    memcpy(&offset, at[0] + IDENTITY_BYTES, 8)
    memcpy(&nbytes, at[0] + IDENTITY_BYTES + 8, 8)
    at[0] += PLACE_BYTES
    return runtime.pickling.definition(runtime, identity, offset, nbytes)

cdef const char *place_named(const char **at) noexcept:
    """What a tag that was just read says of where its class or member is named: there, or further in front."""
    cdef const char *tag = at[0] - 1
    cdef uint64_t distance
    if tag[0] == b'O' or tag[0] == b'E':
        return tag
    memcpy(&distance, at[0], 8)
    at[0] += 8
    return tag - distance

cdef object decode_member(const char **at, Calls runtime):
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

cdef object decode_instance(const char **at, Calls runtime, list values):
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
        for_each_attribute(at, runtime, values, None, attributes)
    if at[0][0] == b'N':
        at[0] += 1
    else:
        for_each_attribute(at, runtime, values, value, None)
    return value

cdef int for_each_attribute(const char **at, Calls runtime, list values, object target, dict attributes) except -1:
    """Reads names and values, into slots of `target` or into a dictionary."""
    cdef uint64_t count, i
    cdef PyObject *name
    memcpy(&count, at[0] + 1, 8)
    at[0] += 9
    for i in range(count):
        key = decode_native(at, runtime, None)
        name = <PyObject *> key
        Py_INCREF(key)                          # PyUnicode_InternInPlace takes one and gives one
        PyUnicode_InternInPlace(&name)
        key = <object> name
        Py_DECREF(<object> name)
        item = decode_native(at, runtime, values)
        if attributes is None:
            PyObject_GenericSetAttr(target, key, item)
        else:
            PyDict_SetItem(attributes, key, item)
    return 0
