# The base of futures and references: an object that has a reference to one slot of the segment.
#
# `no_gc`: a collector that broke a cycle through a future would clear `runtime` before `__dealloc__` can release the slot.
# A future is in no cycle of its own: the objects it refers to, the runtime and another future, never refer back to it.
# uses: segment

from libc.stdint cimport uint32_t
from .core.completion cimport release_future

@cython.no_gc
cdef class SlotReference:
    """A reference to one slot of the segment, released with the object. If there is an `owner`, that has the reference."""
    cdef Segment runtime
    cdef uint32_t index
    cdef object owner
    cdef object __weakref__

    def __init__(self):
        raise TypeError(f"{type(self).__name__} is made by calling a service or by put_object, not by hand")

    def __dealloc__(self):
        if self.runtime is not None and self.owner is None and self.runtime.is_mine():
            release_future(&self.runtime.memory, self.index)

    def __reduce__(self):
        raise TypeError(
            f"an {type(self).__name__} travels only as an argument of a call of its own runner; pass its value: .get()"
        )
