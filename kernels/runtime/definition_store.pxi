# Bodies of definitions in the segment: an extent each, identity first.
#
# Reference counting: the process that wrote a body and the values that refer to it keep it alive. A process that has read
# it does not, so the body is freed once its definition is, and a process that still has the object finds out.
# uses: segment

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from .core.layout cimport EXTENT_VALUE, Extent
from .core.bounds cimport is_within
from .core.lookup cimport found_extent
from .core.locked cimport extent_acquire_locked
from .core.lock cimport lock_acquire, lock_release
from .core.extents cimport extent_alloc, extent_release

cdef enum:
    IDENTITY_BYTES = 16

@cython.no_gc
cdef class DefinitionHold:
    """A reference to a body, for as long as this object lives."""
    cdef Segment runtime
    cdef uint32_t extent
    cdef readonly uint64_t offset, nbytes

    def __init__(self):
        raise TypeError("a DefinitionHold is made by put_definition or hold_definition")

    def __dealloc__(self):
        if self.runtime is not None and self.runtime.is_mine():
            extent_release(&self.runtime.memory, self.extent)

cdef DefinitionHold new_hold(Segment runtime, uint32_t extent, uint64_t offset, uint64_t nbytes):
    """Return an object that takes over a reference of this process."""
    cdef DefinitionHold hold = DefinitionHold.__new__(DefinitionHold)
    hold.extent = extent
    hold.offset = offset
    hold.nbytes = nbytes
    hold.runtime = runtime
    return hold

cdef DefinitionHold put_body(Segment runtime, bytes identity, bytes data):
    """Write a body into a new extent; return the reference to it."""
    cdef bytes body = with_checksum(data)
    cdef uint64_t nbytes = IDENTITY_BYTES + <uint64_t> len(body)
    cdef int64_t id = extent_alloc(&runtime.memory, nbytes, EXTENT_VALUE, 0, 0)
    cdef char *at
    if id < 0:
        raise runtime.full(nbytes)
    at = runtime.memory.base + runtime.memory.extents[id].offset
    memcpy(at, PyBytes_AS_STRING(identity), IDENTITY_BYTES)
    memcpy(at + IDENTITY_BYTES, PyBytes_AS_STRING(body), nbytes - IDENTITY_BYTES)
    runtime.memory.extents[id].sealed = 1
    runtime.memory.processes[runtime.me].definitions += 1
    runtime.memory.processes[runtime.me].definition_bytes += nbytes
    return new_hold(runtime, <uint32_t> id, runtime.memory.extents[id].offset, nbytes)

cdef int64_t extent_at(Segment runtime, uint64_t offset) noexcept:
    """Return the extent at an offset that another process has passed; -1: none."""
    if not is_within(&runtime.memory, offset, IDENTITY_BYTES):
        return -1
    return found_extent(&runtime.memory, offset)

cdef bint is_body(Segment runtime, uint32_t id, const char *identity, uint64_t offset) noexcept:
    """Return whether the body is still there, referenced by a process or a value. The caller has the lock."""
    cdef Extent *extent = &runtime.memory.extents[id]
    return extent.kind == EXTENT_VALUE and (extent.refs or extent.holders) and extent.offset == offset \
        and memcmp(runtime.memory.base + offset, identity, IDENTITY_BYTES) == 0

cdef DefinitionHold hold_body(Segment runtime, bytes identity, uint64_t offset, uint64_t nbytes):
    """Return a reference to a body that others keep alive; None if it is freed."""
    cdef int64_t id = extent_at(runtime, offset)
    cdef bint there
    if id < 0:
        return None
    lock_acquire(&runtime.memory)
    there = is_body(runtime, <uint32_t> id, PyBytes_AS_STRING(identity), offset)
    if there:
        extent_acquire_locked(&runtime.memory, <uint32_t> id)
    lock_release(&runtime.memory)
    return new_hold(runtime, <uint32_t> id, offset, nbytes) if there else None

cdef bint body_is_there(Segment runtime, bytes identity, uint64_t offset):
    """Return whether a body is still there."""
    cdef int64_t id = extent_at(runtime, offset)
    cdef bint there
    if id < 0:
        return False
    lock_acquire(&runtime.memory)
    there = is_body(runtime, <uint32_t> id, PyBytes_AS_STRING(identity), offset)
    lock_release(&runtime.memory)
    return there
