# Parts of a value that lie in extents of their own, and are passed by offset, without a copy.
# uses: segment, views, fork, writer

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from .core.externs cimport MADV_POPULATE_WRITE, madvise
from .core.layout cimport EXTENT_VALUE, PAGE, SHARED_BYTES
from .core.regions cimport align_up
from .core.lookup cimport extent_of
from .core.extents cimport extent_acquire, extent_alloc

cdef enum:
    UNLOCKED_BYTES = 1 << 20    # copies of at least so many bytes release the GIL

cdef uint64_t new_extent(ValueWriter out, Segment runtime, uint64_t nbytes) except 0:
    """Return the offset of a new extent for a part of the value, for the caller to fill. Afterwards it is immutable."""
    cdef int64_t id
    if runtime.pins:
        release_fork_pins(runtime)
    with nogil:
        id = extent_alloc(&runtime.memory, nbytes, EXTENT_VALUE, 0, 0)
        if id >= 0 and nbytes >= UNLOCKED_BYTES and not runtime.memory.extents[id].was_warm:
            # The caller writes all of it: one call instead of a fault per page. Kernels before 5.14 refuse, harmlessly.
            madvise(runtime.memory.base + runtime.memory.extents[id].offset, align_up(nbytes, PAGE), MADV_POPULATE_WRITE)
    if id < 0:
        raise runtime.full(nbytes)
    runtime.memory.extents[id].sealed = 1
    out.add_handle(runtime.memory.extents[id].offset)
    runtime.count_copied(nbytes)
    return runtime.memory.extents[id].offset

cdef int put_long(
    ValueWriter out, Segment runtime, char tag, char long_tag, const char *source, uint64_t nbytes, object value
) except -1:
    """Append the bytes of `value`, in an extent if there are many. A reference keeps it alive: other threads may run."""
    cdef uint64_t offset
    cdef char *target
    if nbytes <= SHARED_BYTES:
        return out.put_sized(tag, source, nbytes)
    offset = new_extent(out, runtime, nbytes)
    target = runtime.memory.base + offset
    keep_alive = value
    copy_bytes(target, source, nbytes)
    return out.put_place(long_tag, offset, nbytes)

cdef void copy_bytes(char *target, const char *source, uint64_t nbytes) noexcept:
    if nbytes < UNLOCKED_BYTES:
        memcpy(target, source, nbytes)
    else:
        with nogil:
            memcpy(target, source, nbytes)

cdef int put_buffer(ValueWriter out, Segment runtime, object buffer) except -1:
    """Append a buffer of a pickle: by offset if it lies in the segment, else as a copy."""
    cdef Py_buffer view
    cdef int64_t place
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        place = place_of(runtime, <const char *> view.buf, view.len) if view.len > SHARED_BYTES else -1
        if place < 0:
            return put_long(out, runtime, b'b' if view.readonly else b'w', b'V', <const char *> view.buf, view.len, None)
        hold_place(out, runtime, place, view.len)
        return out.put_place(b'V', place, view.len)
    finally:
        PyBuffer_Release(&view)

cdef int hold_place(ValueWriter out, Segment runtime, uint64_t place, uint64_t nbytes) except -1:
    """Reference the extent that a part of the value lies in already."""
    cdef uint32_t id = <uint32_t> extent_of(&runtime.memory, place)
    extent_acquire(&runtime.memory, id)
    out.add_handle(runtime.memory.extents[id].offset)
    runtime.count_shared(nbytes)
    return 0
