# Growable bytes as a Python object that others read by the buffer protocol.
# uses: nothing

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free

from .core.buffers cimport Bytes, reserve


cdef class Buffer:
    """Native bytes, read by all that take a buffer. They must not grow while a view of them exists."""
    cdef Bytes bytes
    cdef Py_ssize_t views

    def __dealloc__(self):
        free(self.bytes.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.bytes.data == NULL and reserve(&self.bytes, 1) < 0:
            raise MemoryError
        PyBuffer_FillInfo(view, self, self.bytes.data, <Py_ssize_t> self.bytes.length, True, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    def __len__(self):
        return self.bytes.length
