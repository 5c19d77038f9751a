# NumPy arrays: plain ones of a numeric dtype natively, those of more than SHARED_BYTES by offset.
#
#   a type, dimensions, order, 0, shape, the elements in that order
#   A type, dimensions, 0, 0, shape, strides, u64 offset of the first element in the segment
# uses: python_api, numpy_api, segment, views, reader, writer, shared_values

from cpython.object cimport PyObject, PyTypeObject, Py_TYPE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from .core.layout cimport SHARED_BYTES
from .core.lookup cimport extent_of
from .core.extents cimport extent_acquire

cdef enum:
    ARRAY_HEAD = 4              # type, dimensions, order, 0
    MOST_DIMENSIONS = 64

cdef struct Span:               # the bytes that an array's elements lie in, counted from the first element
    uint64_t before
    uint64_t after

cdef Span span_of(int dimensions, const npy_intp *shape, const npy_intp *strides, uint64_t item_bytes) noexcept:
    cdef Span span
    cdef int i
    span.before, span.after = 0, item_bytes
    for i in range(dimensions):
        if strides[i] < 0:
            span.before -= (shape[i] - 1) * strides[i]
        else:
            span.after += (shape[i] - 1) * strides[i]
    return span

cdef int encode_array(ValueWriter out, Segment runtime, object value, int expected_refcount) except -1:
    """Append an exact ndarray; NATIVE_CANNOT for a dtype that needs pickle. `expected_refcount` as in `encode_native`."""
    cdef PyArrayObject *array = <PyArrayObject *> value
    cdef const char *data = <const char *> PyArray_DATA(array)
    cdef int64_t id, place
    cdef Span span
    if not is_numeric(array) or PyArray_NDIM(array) > MOST_DIMENSIONS:
        return NATIVE_CANNOT
    id = held_extent(runtime, data)
    if id >= 0 and not runtime.memory.extents[id].sealed and expected_refcount \
            and is_callers_alone(value, expected_refcount, runtime.memory.extents[id].size):
        runtime.memory.extents[id].sealed = 1
    keep_alive = value              # from here on other threads may run
    if PyArray_NBYTES(array) <= SHARED_BYTES:
        return put_small_array(out, value)
    span = span_of(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_STRIDES(array), PyDataType_ELSIZE(PyArray_DESCR(array)))
    place = place_of(runtime, data - span.before, span.before + span.after)
    if place < 0:
        return put_copied_array(out, runtime, value)
    hold_place(out, runtime, place, PyArray_NBYTES(array))
    if expected_refcount and Py_REFCNT(value) == expected_refcount + 1:       # and `keep_alive`
        leave_view(array, span.before + span.after)
    return put_array_place(out, array, place + span.before, PyArray_STRIDES(array))

cdef void leave_view(PyArrayObject *array, uint64_t nbytes) noexcept:
    """Mark the view of an unwritten array that is about to be freed, if no other array shows any of it.

    No object can write to such a view any more, so it need not look for written pages when it is freed. The array must show
    all of the view: bytes beside it may have been written.
    """
    cdef PyObject *base = PyArray_BASE(array)
    if base != NULL and Py_TYPE(<object> base) == <PyTypeObject *> SharedBuffer and Py_REFCNT(<object> base) == 1:
        if not has_weak_references(<object> <PyObject *> array) and (<SharedBuffer> base).nbytes == nbytes:
            (<SharedBuffer> base).left = True

cdef bint is_as_it_came(Segment runtime, value) except -1:
    """Return whether a value just written is an array that `leave_view` marked, and equals what a reader would get."""
    cdef PyArrayObject *array = <PyArrayObject *> value
    cdef PyObject *base
    if not is_array(value):
        return False
    base = PyArray_BASE(array)
    if base == NULL or Py_TYPE(<object> base) != <PyTypeObject *> SharedBuffer or not (<SharedBuffer> base).left:
        return False
    if not runtime.memory.header.arrays_read_only and not PyArray_FLAGS(array) & NPY_ARRAY_WRITEABLE:
        return False
    return is_standard(array)

cdef inline void take_up(Segment runtime, value) noexcept:
    """Make an array that `leave_view` marked the reader's own."""
    (<SharedBuffer> PyArray_BASE(<PyArrayObject *> value)).left = False
    runtime.count_shared(PyArray_NBYTES(<PyArrayObject *> value))

cdef bint is_callers_alone(object value, int expected_refcount, uint64_t extent_bytes):
    """Return whether an array in the arena is the caller's alone, so that it can become a value in place.

    Its refcount is `expected_refcount`, the array that it is a view of has one reference, and neither has weak references.
    It fills at least half of the extent, and no two of its elements overlap.
    """
    cdef PyArrayObject *array = <PyArrayObject *> value
    cdef PyArrayObject *owner = array
    cdef uint64_t item_bytes = PyDataType_ELSIZE(PyArray_DESCR(array))
    if Py_REFCNT(value) != expected_refcount or has_weak_references(value):
        return False
    if 2 * <uint64_t> PyArray_NBYTES(array) < extent_bytes:
        return False
    if elements_overlap(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_STRIDES(array), item_bytes):
        return False
    if PyArray_BASE(array) != NULL:
        if Py_TYPE(<object> PyArray_BASE(array)) != &PyArray_Type or Py_REFCNT(<object> PyArray_BASE(array)) != 1:
            return False
        owner = <PyArrayObject *> PyArray_BASE(array)
        if has_weak_references(<object> owner):
            return False
    return PyArray_FLAGS(owner) & NPY_ARRAY_OWNDATA != 0 and PyArray_BASE(owner) == NULL

cdef int put_array_head(ValueWriter out, char tag, PyArrayObject *array, char order) except -1:
    cdef int dimensions = PyArray_NDIM(array)
    cdef char *at = out.reserve(1 + ARRAY_HEAD + 8 * dimensions)
    at[0] = tag
    at[1] = <char> PyArray_TYPE(array)
    at[2] = <char> dimensions
    at[3] = order
    at[4] = 0
    if dimensions:          # a 0-d array has no shape to copy from
        memcpy(at + 1 + ARRAY_HEAD, PyArray_DIMS(array), 8 * dimensions)
    return 0

cdef int put_small_array(ValueWriter out, object value) except -1:
    cdef PyArrayObject *array = <PyArrayObject *> value
    cdef bint fortran = PyArray_IS_F_CONTIGUOUS(array) and not PyArray_IS_C_CONTIGUOUS(array)
    if not fortran and not PyArray_IS_C_CONTIGUOUS(array):
        value = PyArray_NewCopy(array, NPY_CORDER)
        array = <PyArrayObject *> value
    put_array_head(out, b'a', array, fortran)
    memcpy(out.reserve(PyArray_NBYTES(array)), PyArray_DATA(array), PyArray_NBYTES(array))
    return 0

cdef int put_array_place(ValueWriter out, PyArrayObject *array, uint64_t offset, const npy_intp *strides) except -1:
    cdef int dimensions = PyArray_NDIM(array)
    cdef char *at
    put_array_head(out, b'A', array, 0)
    at = out.reserve(8 * dimensions + 8)
    memcpy(at, strides, 8 * dimensions)
    memcpy(at + 8 * dimensions, &offset, 8)
    return 0

cdef int put_copied_array(ValueWriter out, Segment runtime, object value) except -1:
    """Copy an array into an extent: a contiguous one in its own order, any other in C order."""
    cdef PyArrayObject *array = <PyArrayObject *> value
    cdef bint fortran = PyArray_IS_F_CONTIGUOUS(array) and not PyArray_IS_C_CONTIGUOUS(array), again
    cdef uint64_t offset
    cdef char *target
    known = None if out.copied is None else out.copied.get(id(value))
    again = known is not None
    if again:
        offset = known
        extent_acquire(&runtime.memory, <uint32_t> extent_of(&runtime.memory, offset))
        out.add_handle(offset)
    else:
        offset = new_extent(out, runtime, PyArray_NBYTES(array))
        if out.copied is None:
            out.copied = {}
        out.copied[id(value)] = offset
    target = runtime.memory.base + offset
    if again and (fortran or PyArray_IS_C_CONTIGUOUS(array)):
        return put_array_place(out, array, offset, PyArray_STRIDES(array))
    if fortran or PyArray_IS_C_CONTIGUOUS(array):
        copy_bytes(target, <const char *> PyArray_DATA(array), PyArray_NBYTES(array))
        return put_array_place(out, array, offset, PyArray_STRIDES(array))
    copy = array_at(PyArray_TYPE(array), PyArray_NDIM(array), PyArray_DIMS(array), NULL, target, NPY_ARRAY_CARRAY)
    if not again:
        PyArray_CopyInto(<PyArrayObject *> copy, array)
    return put_array_place(out, array, offset, PyArray_STRIDES(<PyArrayObject *> copy))

cdef object array_at(int type_number, int dimensions, const npy_intp *shape, const npy_intp *strides, void *data, int flags):
    return PyArray_NewFromDescr(
        &PyArray_Type, PyArray_DescrFromType(type_number), dimensions, shape, strides, data, flags, NULL
    )

cdef object decode_array(Reader *source, Segment runtime, bint in_place):
    """Read an array of the reader's own: a view of its extent, or a copy of a small one."""
    cdef npy_intp shape[MOST_DIMENSIONS]
    cdef npy_intp strides[MOST_DIMENSIONS]
    cdef const char *head = take(runtime, source, ARRAY_HEAD)
    cdef int type_number = <unsigned char> head[0], dimensions = <unsigned char> head[1], order = head[2]
    cdef uint64_t offset, nbytes
    if not numpy_ready:
        load_numpy()
    if dimensions > MOST_DIMENSIONS or not is_numeric_type(type_number):
        raise runtime.damage()
    memcpy(shape, take(runtime, source, 8 * dimensions), 8 * dimensions)
    if in_place:
        memcpy(strides, take(runtime, source, 8 * dimensions), 8 * dimensions)
        offset = take_word(runtime, source)
        check_elements(runtime, dimensions, shape, strides, item_bytes_of(type_number), offset)
        return view_of_array(runtime, type_number, dimensions, shape, strides, offset)
    nbytes = bytes_of_elements(runtime, dimensions, shape, item_bytes_of(type_number))
    head = take(runtime, source, nbytes)
    array = array_at(type_number, dimensions, shape, NULL, NULL, NPY_ARRAY_F_CONTIGUOUS if order else 0)
    memcpy(PyArray_DATA(<PyArrayObject *> array), head, nbytes)
    return lock_if_asked(runtime, array)

cdef uint64_t bytes_of_elements(Segment runtime, int dimensions, const npy_intp *shape, uint64_t item_bytes) except? 0:
    """Return how many bytes an array has that lies in its value; raise if that cannot be."""
    cdef double nbytes = item_bytes         # of more than 64 bits, perhaps: beside a dimension of 0, others may be large
    cdef int i
    for i in range(dimensions):
        if shape[i] < 0:
            raise runtime.damage()
        nbytes *= shape[i]
    if nbytes > SHARED_BYTES:
        raise runtime.damage()
    return <uint64_t> nbytes

cdef int check_elements(Segment runtime, int dimensions, const npy_intp *shape, const npy_intp *strides,
                        uint64_t item_bytes, uint64_t offset) except -1:
    """Raise unless every element of an array in an extent lies in the arena."""
    cdef double before = 0, after = item_bytes, reach        # of more than 64 bits, perhaps
    cdef int i
    for i in range(dimensions):
        reach = (<double> shape[i] - 1) * <double> strides[i]
        if shape[i] < 1:
            raise runtime.damage()
        if reach < 0:
            before -= reach
        else:
            after += reach
    if before > offset or after > runtime.mapped_bytes:
        raise runtime.damage()
    return runtime.check_range(offset - <uint64_t> before, <uint64_t> (before + after))

cdef object lock_if_asked(Segment runtime, array):
    """Return a fresh array, read-only under `Runner(arrays="readonly")`."""
    if runtime.memory.header.arrays_read_only:
        PyArray_CLEARFLAGS(<PyArrayObject *> array, NPY_ARRAY_WRITEABLE)
    return array

cdef object view_of_array(
    Segment runtime, int type_number, int dimensions, const npy_intp *shape, const npy_intp *strides, uint64_t offset
):
    """Return an array whose first element lies at `offset` of the segment; a copy if nothing more can be mapped."""
    cdef uint64_t item_bytes = item_bytes_of(type_number)
    cdef Span span = span_of(dimensions, shape, strides, item_bytes)
    cdef SharedBuffer view = shared_buffer(runtime, offset - span.before, span.before + span.after)
    cdef char *first = runtime.memory.base + offset if view is None else view.data + span.before
    cdef int flags = NPY_ARRAY_WRITEABLE
    if runtime.memory.header.arrays_read_only or elements_overlap(dimensions, shape, strides, item_bytes):
        flags = 0
    array = array_at(type_number, dimensions, shape, strides, first, flags)
    if view is None:
        runtime.count_copied(PyArray_NBYTES(<PyArrayObject *> array))
        return lock_if_asked(runtime, PyArray_NewCopy(<PyArrayObject *> array, NPY_KEEPORDER))
    runtime.count_shared(PyArray_NBYTES(<PyArrayObject *> array))
    Py_INCREF(view)                             # PyArray_SetBaseObject steals it
    PyArray_SetBaseObject(<PyArrayObject *> array, view)
    return array

cdef bint elements_overlap(int dimensions, const npy_intp *shape, const npy_intp *strides, uint64_t item_bytes) noexcept:
    """Return whether two elements may overlap, as a broadcast array's do.

    Writing to one would change the other, so that NumPy makes such an array read-only; it arrives read-only. Elements do not
    overlap if each axis, from the one with the shortest stride on, strides over all bytes that the axes before it reach.
    """
    cdef uint64_t reach = item_bytes, step, shortest, left = 0
    cdef int i, axis = 0
    for i in range(dimensions):
        if shape[i] > 1:
            left |= <uint64_t> 1 << i
    while left:
        shortest = <uint64_t> -1
        for i in range(dimensions):
            step = strides[i] if strides[i] >= 0 else -strides[i]
            if left >> i & 1 and step < shortest:
                shortest, axis = step, i
        if shortest < reach:
            return True
        reach += (shape[axis] - 1) * shortest
        left &= ~(<uint64_t> 1 << axis)
    return False

cdef uint64_t item_bytes_of(int type_number):
    cdef PyArray_Descr *descr = PyArray_DescrFromType(type_number)
    cdef uint64_t nbytes = PyDataType_ELSIZE(descr)
    Py_DECREF(<object> descr)
    return nbytes
