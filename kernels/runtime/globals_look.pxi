# Looks at globals: would a function find what it found when it was sent?
#
# Asked at each call of a function that an executor has sent, so it takes nanoseconds a global. A look keeps no large value
# alive: it has weak references, and of what can have none, place and length. It tells names bound anew, small containers,
# attributes and small arrays that were changed in place, and that a notebook has begun another cell, where anything else may
# have been.
# uses: nothing

from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from types import FunctionType, ModuleType

cdef extern from *:
    """
    static CYTHON_INLINE int ff_refers_to(PyObject *reference, PyObject *value)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *found = NULL;
        int is_same = PyWeakref_GetRef(reference, &found) > 0 && found == value;
        Py_XDECREF(found);
        return is_same;
    #else
        return PyWeakref_GET_OBJECT(reference) == value;
    #endif
    }
    static CYTHON_INLINE PyObject *ff_global(PyObject *namespace, PyObject *name)
    {
        return PyDict_GetItemWithError(namespace, name);
    }
    static CYTHON_INLINE PyObject *ff_globals_of(PyObject *function)
    {
        return PyFunction_GetGlobals(function);
    }
    static CYTHON_INLINE int ff_next_item(PyObject *mapping, Py_ssize_t *position, PyObject **key, PyObject **value)
    {
        return PyDict_Next(mapping, position, key, value);
    }
    """
    bint ff_refers_to(object reference, object value) noexcept
    PyObject *ff_global(object namespace, object name) except? NULL
    PyObject *ff_globals_of(object function) except NULL
    int ff_next_item(object mapping, Py_ssize_t *position, PyObject **key, PyObject **value) noexcept

cdef enum:
    MOST_MEMBERS = 64    # of the containers and attributes of one global, all together
    MOST_BYTES = 4096    # of an array, or of a text

# How many cells have begun.
cdef long cells_begun = 0

def begin_cell():
    """Note that a notebook's next cell begins: what was looked at before may have changed in ways that no look tells."""
    global cells_begun
    cells_begun += 1

cdef type REFERENCE = weakref.ref

@cython.final
cdef class MarkOfMembers:
    cdef object kind
    cdef list marks

@cython.final
cdef class MarkOfAttributes:
    cdef object same
    cdef MarkOfMembers members

@cython.final
cdef class MarkOfContent:
    cdef object reference
    cdef bytes content

@cython.final
cdef class MarkOfPlace:
    cdef PyObject *place
    cdef Py_ssize_t length

# The mark of a name that is bound to nothing.
cdef object NO_VALUE = MarkOfPlace

cdef bint is_atom(object value):
    kind = type(value)
    if kind is int or kind is float or kind is bool or value is None or kind is complex:
        return True
    return (kind is str or kind is bytes) and len(value) <= MOST_BYTES

cdef bint is_small_array(object value):
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None and type(value) is getattr(numpy, "ndarray", None)
        and value.nbytes <= MOST_BYTES and not value.dtype.hasobject
    )

cdef object mark_of(object value, int *left):
    """Return what `is_as_marked` compares a value with."""
    cdef MarkOfAttributes attributes
    cdef MarkOfContent content
    if is_atom(value):
        return value
    kind = type(value)
    if kind is list or kind is tuple or kind is dict or kind is set or kind is frozenset:
        return mark_of_members(value, left) if len(value) <= left[0] else mark_of_place(value)
    if is_small_array(value):
        content = MarkOfContent.__new__(MarkOfContent)
        content.reference, content.content = weakref.ref(value), value.tobytes()
        return content
    try:
        same = weakref.ref(value)
    except TypeError:
        same = mark_of_place(value)
    found = None if isinstance(value, (FunctionType, type, ModuleType)) else getattr(value, "__dict__", None)
    if type(found) is not dict or len(found) > left[0]:
        return same
    attributes = MarkOfAttributes.__new__(MarkOfAttributes)
    attributes.same, attributes.members = same, mark_of_members(found, left)
    return attributes

cdef MarkOfPlace mark_of_place(object value):
    cdef MarkOfPlace mark = MarkOfPlace.__new__(MarkOfPlace)
    mark.place = <PyObject *>value
    try:
        mark.length = len(value)
    except Exception:
        mark.length = 0
    return mark

cdef MarkOfMembers mark_of_members(object container, int *left):
    cdef MarkOfMembers mark = MarkOfMembers.__new__(MarkOfMembers)
    mark.kind = type(container)
    members = [part for item in container.items() for part in item] if mark.kind is dict else list(container)
    left[0] -= len(members)
    mark.marks = [mark_of(member, left) for member in members]
    return mark

cdef bint is_as_marked(object value, object mark) except -1:
    cdef MarkOfAttributes attributes
    cdef MarkOfPlace place
    if value is mark:
        return True
    kind = type(mark)
    if kind is REFERENCE:
        return ff_refers_to(mark, value)
    if kind is MarkOfMembers:
        return has_marked_members(value, <MarkOfMembers>mark)
    if kind is MarkOfAttributes:
        attributes = <MarkOfAttributes>mark
        return is_as_marked(value, attributes.same) and has_marked_members(value.__dict__, attributes.members)
    if kind is MarkOfContent:
        return ff_refers_to((<MarkOfContent>mark).reference, value) and value.tobytes() == (<MarkOfContent>mark).content
    if kind is MarkOfPlace:
        place = <MarkOfPlace>mark
        return <PyObject *>value is place.place and (not place.length or len(value) == place.length)
    return type(value) is kind and value == mark

cdef bint has_marked_members(object container, MarkOfMembers mark) except -1:
    cdef Py_ssize_t number = 0
    if type(container) is not mark.kind:
        return False
    if mark.kind is dict:
        return has_marked_items(<dict>container, mark.marks)
    if len(container) != len(mark.marks):
        return False
    for member in container:
        if not is_as_marked(member, mark.marks[number]):
            return False
        number += 1
    return True

cdef bint has_marked_items(dict mapping, list marks) except -1:
    cdef Py_ssize_t position = 0, number = 0
    cdef PyObject *key
    cdef PyObject *value
    if 2 * len(mapping) != len(marks):
        return False
    while ff_next_item(mapping, &position, &key, &value):
        if not (is_as_marked(<object>key, marks[number]) and is_as_marked(<object>value, marks[number + 1])):
            return False
        number += 2
    return True

cdef object namespace_of(object user):
    return <object>ff_globals_of(user) if type(user) is FunctionType else user.__dict__

@cython.final
cdef class UsersLook:
    """The globals that one function, or one module made in memory, has."""

    cdef object user      # a weak reference
    cdef list names
    cdef list marks

    cdef bint is_current(self) except -1:
        cdef Py_ssize_t number
        cdef PyObject *found
        user = self.user()
        if user is None:
            return False
        namespace = namespace_of(user)
        for number in range(PyList_GET_SIZE(self.names)):
            found = ff_global(namespace, <object>PyList_GET_ITEM(self.names, number))
            mark = <object>PyList_GET_ITEM(self.marks, number)
            if found is NULL:
                if mark is not NO_VALUE:
                    return False
            elif not is_as_marked(<object>found, mark):
                return False
        return True

@cython.final
cdef class GlobalsLook:
    """What the globals of some functions are now.

    Parameters
    ----------
    users : iterable of (function or module, str)
        Each global by who uses it.
    """

    cdef list looks
    cdef long cell

    def __init__(self, users):
        cdef UsersLook look
        cdef PyObject *found
        cdef int left
        self.cell = cells_begun
        self.looks = []
        by_user = {}
        for user, name in users:
            look = by_user.get(id(user))
            if look is None:
                look = by_user[id(user)] = UsersLook.__new__(UsersLook)
                look.user, look.names, look.marks = weakref.ref(user), [], []
                self.looks.append(look)
            namespace = namespace_of(user)
            found = ff_global(namespace, name)
            left = MOST_MEMBERS
            look.names.append(name)
            look.marks.append(NO_VALUE if found is NULL else mark_of(<object>found, &left))

    def __bool__(self):
        """Whether there is anything to look at."""
        return bool(self.looks)

    def is_current(self):
        """Tell whether they are the same, and the notebook's cell, too."""
        cdef UsersLook look
        if self.cell != cells_begun:
            return False
        for look in self.looks:
            if not look.is_current():
                return False
        return True
