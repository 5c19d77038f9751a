# NumPy's C interface: loaded when the first array is met, never before.
# uses: nothing

from cpython.object cimport PyObject, PyTypeObject, Py_TYPE
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc

cdef extern from *:
    """
    #define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
    #define NPY_TARGET_VERSION NPY_1_22_API_VERSION
    """


cdef extern from *:
    """
    static PyObject *ff_weak_references(PyObject *value) {
        Py_ssize_t offset = Py_TYPE(value)->tp_weaklistoffset;
        return offset > 0 ? *(PyObject **)((char *)value + offset) : NULL;
    }
    """
    PyObject *ff_weak_references(PyObject *value) noexcept

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArrayObject
    ctypedef struct PyArray_Descr
    ctypedef Py_ssize_t npy_intp
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept
        void *(*calloc)(void *ctx, size_t count, size_t size) noexcept
        void *(*realloc)(void *ctx, void *old, size_t size) noexcept
        void (*free)(void *ctx, void *old, size_t size) noexcept
    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator
    int _import_array() except -1
    int NPY_MAXDIMS, NPY_OBJECT, NPY_HALF, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_OWNDATA, NPY_CORDER, NPY_KEEPORDER
    object PyDataMem_SetHandler(object handler)
    object PyArray_NewFromDescr(PyTypeObject *subtype, PyArray_Descr *descr, int nd, const npy_intp *dims,
                                const npy_intp *strides, void *data, int flags, PyObject *like)
    object PyArray_NewCopy(PyArrayObject *array, int order)
    PyArray_Descr *PyArray_DescrFromType(int type_number)
    int PyArray_SetBaseObject(PyArrayObject *array, object base) except -1
    void PyArray_CLEARFLAGS(PyArrayObject *array, int flags)
    int PyArray_CopyInto(PyArrayObject *target, PyArrayObject *source) except -1
    int PyArray_NDIM(PyArrayObject *array)
    int PyArray_TYPE(PyArrayObject *array)
    int PyArray_FLAGS(PyArrayObject *array)
    int PyArray_ISNOTSWAPPED(PyArrayObject *array)
    int PyArray_IS_C_CONTIGUOUS(PyArrayObject *array)
    int PyArray_IS_F_CONTIGUOUS(PyArrayObject *array)
    void *PyArray_DATA(PyArrayObject *array)
    npy_intp *PyArray_DIMS(PyArrayObject *array)
    npy_intp *PyArray_STRIDES(PyArrayObject *array)
    npy_intp PyArray_NBYTES(PyArrayObject *array)
    npy_intp PyDataType_ELSIZE(PyArray_Descr *descr)
    PyArray_Descr *PyArray_DESCR(PyArrayObject *array)
    PyObject *PyArray_BASE(PyArrayObject *array)
    int NPY_ARRAY_WRITEABLE, NPY_ARRAY_CARRAY
    PyTypeObject PyArray_Type

cdef extern from "Python.h":
    PyObject *PyImport_GetModuleDict()
    PyObject *PyDict_GetItemString(PyObject *mapping, const char *key)

cdef bint numpy_ready = False

cdef int load_numpy() except -1:
    global numpy_ready
    _import_array()
    numpy_ready = True
    return 0

cdef bint is_array(object value) except -1:
    """Return whether a value is exactly an ndarray. In a process without NumPy no value is."""
    if not numpy_ready:
        if PyDict_GetItemString(PyImport_GetModuleDict(), "numpy") == NULL:
            return False
        load_numpy()
    return Py_TYPE(value) == &PyArray_Type

cdef inline bint is_numeric(PyArrayObject *array) noexcept:
    """Return whether the dtype's number alone identifies it: bool, integer, float or complex, of native byte order."""
    return is_numeric_type(PyArray_TYPE(array)) and PyArray_ISNOTSWAPPED(array)

cdef inline bint is_numeric_type(int number) noexcept:
    return 0 <= number < NPY_OBJECT or number == NPY_HALF

cdef bint is_standard(PyArrayObject *array) noexcept:
    """Return whether the array's dtype is NumPy's own object for its number, which has no metadata."""
    cdef PyArray_Descr *standard = PyArray_DescrFromType(PyArray_TYPE(array))
    Py_DECREF(<object> standard)                # NumPy keeps it alive
    return PyArray_DESCR(array) == standard

cdef inline bint has_weak_references(object value) noexcept:
    return ff_weak_references(<PyObject *> value) != NULL
