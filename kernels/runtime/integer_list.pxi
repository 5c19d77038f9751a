# Lists of 64-bit integers or doubles, as a value has them.
# uses: python_api

from cpython.float cimport PyFloat_FromDouble
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef class Int64List:
    """An array of 64-bit integers that is written like a list: it collects many without an object for each."""
    cdef int64_t *at
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity

    def __dealloc__(self):
        free(self.at)

    def __len__(self):
        return self.count

    def __reduce__(self):
        return list, (self.listed(),)

    cdef bint add(self, object item) except -1:
        """Append an item; False when it is no 64-bit integer."""
        cdef int overflow = 0
        if not PyLong_CheckExact(item):
            return False
        if self.count == self.capacity:
            self.grow()
        self.at[self.count] = PyLong_AsLongLongAndOverflow(item, &overflow)
        if overflow:
            return False
        self.count += 1
        return True

    cdef int grow(self) except -1:
        cdef Py_ssize_t capacity = 2 * self.capacity if self.capacity else 256
        cdef void *larger = realloc(self.at, 8 * <size_t> capacity)
        if larger == NULL:
            raise MemoryError
        self.at = <int64_t *> larger
        self.capacity = capacity
        return 0

    cdef list listed(self):
        """Return the integers as a list."""
        return [self.at[i] for i in range(self.count)]

cdef inline object uniform_item(const char *at, bint integers):
    """Return the integer, or else the double, at an address."""
    cdef int64_t number
    cdef double real
    if integers:
        memcpy(&number, at, 8)
        return PyLong_FromLongLong(number)
    memcpy(&real, at, 8)
    return PyFloat_FromDouble(real)
