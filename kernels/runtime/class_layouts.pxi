# Layouts of classes that no worker can import: their instances, most values of scripts and notebooks, are written natively.
#
# Only where pickle would do no more than copy the attributes: `flame_fast.kernels.runtime.serialization.layout_of` decides
# for which classes that is so. A value names the class by its identity (see `serialization`). The layout of a class is
# found once and cached for as long as the class lives.
#   O identity, place of the body, a tuple's items or N, pairs of __dict__ or N, pairs of slots or N
#   E identity, place of the body, name of a member
#   o u64 distance back to an O of the same class, the rest as of O | M u64 distance back to an E of the same member
# uses: segment, definition_store, writer, values

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from .core.lookup cimport extent_of
from .core.locked cimport extent_acquire_locked
from .core.lock cimport lock_acquire, lock_release
from .core.extents cimport extent_acquire

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
    """How instances of one class are written in one runner."""
    cdef uint64_t session
    cdef bytes identity
    cdef DefinitionHold hold    # None: others keep the body alive
    cdef uint64_t offset, nbytes
    cdef int form
    cdef tuple slots
    cdef unsigned int version   # of the class's dictionary when this was made; after a change the definition may be new
    cdef bint fixed             # the class arrived: this process does not change its version
    cdef object reference       # a weak reference to the class, whose end removes this layout

cdef dict layouts = {}          # address of a class -> Layout; or a weak reference to it: pickle writes its instances

cdef Layout layout_of(Values runtime, object kind):
    """Return the layout of a class; None if pickle must write its instances."""
    cdef Layout layout
    key = PyLong_FromVoidPtr(<void *> <PyObject *> kind)
    found = PyDict_GetItemWithError(layouts, key)
    if found != NULL:
        if type(<object> found) is not Layout:
            return None
        layout = <Layout> found
        if layout.session == runtime.memory.header.session \
                and (layout.fixed or layout.version == ff_version_tag(<PyTypeObject *> kind) != 0):
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
    """Drop cached layouts: those of one runner, which ends, so that they keep nothing of its segment; or all."""
    for key, layout in list(layouts.items()):
        if runtime is None or (type(layout) is Layout and (<Layout> layout).session == runtime.memory.header.session):
            layouts.pop(key, None)

cdef bint keep_body(ValueWriter out, Segment runtime, Layout layout) except -1:
    """Reference the class's body, and name it among the value's handles; False if it is freed."""
    cdef int64_t id = extent_of(&runtime.memory, layout.offset)
    cdef bint there = True
    cdef int i
    for i in range(out.body_count):
        if out.bodies[i] == layout.offset:
            return True
    if layout.hold is not None:
        extent_acquire(&runtime.memory, <uint32_t> id)
    else:
        lock_acquire(&runtime.memory)
        there = is_body(runtime, <uint32_t> id, PyBytes_AS_STRING(layout.identity), layout.offset)
        if there:
            extent_acquire_locked(&runtime.memory, <uint32_t> id)
        lock_release(&runtime.memory)
    if there:
        out.add_handle(layout.offset)
        if out.body_count < BODIES_NOTED:
            out.bodies[out.body_count] = layout.offset
            out.body_count += 1
    return there
