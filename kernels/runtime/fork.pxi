# After a user's fork the child's views still map pages that the parent may free: pin them while the child lives.
#
# The parent pins, at the fork, every extent that it has views of, for as long as that child, or a process that it forks in
# turn, lives. The child keeps the writing end of a pipe. Its end, or its exec, is the end of file that the parent finds
# when it looks. Arrays allocated here, which the parent goes on writing to, are copied for the child: `privatize_segment`
# (array_allocator.pxi) makes its mapping private, and the child touches their pages; the parent waits for that before it
# goes on.
# uses: python_api, segment, array_allocator

from libc.stdint cimport uint32_t, uint64_t
from .core.externs cimport ff_add32
from .core.layout cimport PAGE, ZYGOTE_INDEX
from .core.lookup cimport extents_used
from .core.extents cimport extent_release

cdef extern from *:
    """
    typedef volatile char ff_volatile_char;
    """
    ctypedef char volatile_char "ff_volatile_char"

cdef dict forking = {}          # thread -> what `_before_fork` made

def _before_fork():
    pins = [pin_extents(reference()) for reference in attachments]
    forking[PyThread_get_thread_ident()] = [pin for pin in pins if pin is not None]

def _after_fork_in_parent():
    for segment, ends, pinned in forking.pop(PyThread_get_thread_ident(), ()):
        reading, writing, published, telling = ends
        if writing >= 0:
            os.close(writing)
            os.close(telling)
            os.read(published, 1)       # returns once the child has its copies, or has ended
            os.close(published)
        (<Segment> segment).pins.append((reading, pinned))

def _after_fork_in_child():
    global fork_generation
    fork_generation += 1
    privatize_segment()
    for segment, ends, pinned in forking.pop(PyThread_get_thread_ident(), ()):
        reading, writing, published, telling = ends
        copy_unsealed(segment, pinned)
        if writing >= 0:
            os.close(reading)       # and never the writing end: its closing tells the parent
            os.close(published)
            os.write(telling, b"x")
            os.close(telling)
    forking.clear()

cdef int copy_unsealed(Segment segment, list pinned) except -1:
    """Copy, in the child, whose mapping is private, the pages of arrays that may still change (copy on write)."""
    cdef volatile_char *page
    cdef uint64_t at
    cdef uint32_t id
    for id in pinned:
        if not segment.memory.extents[id].sealed:
            for at in range(0, segment.memory.extents[id].size, PAGE):
                page = <volatile_char *> (segment.memory.base + segment.memory.extents[id].offset + at)
                page[0] = page[0]
    return 0

os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

cdef object pin_extents(Segment segment):
    """Pin the extents that this process references; return (attachment, ends of two pipes, extents), None without any."""
    cdef uint32_t id
    cdef list pinned
    if segment is None or not segment.is_mine() or segment.me == ZYGOTE_INDEX:
        return None
    release_fork_pins(segment)
    pinned = [id for id in range(extents_used(&segment.memory)) if segment.memory.local[id]]
    if not pinned:
        return None
    ends = [-1, -1, -1, -1]
    try:
        ends[:2] = os.pipe2(os.O_CLOEXEC)
        ends[2:] = os.pipe2(os.O_CLOEXEC)
    except OSError:                 # no descriptors left: pin for good; the child may see what the parent changes meanwhile
        for end in ends[:2]:
            if end >= 0:
                os.close(end)
        ends = [-1, -1, -1, -1]
    for id in pinned:
        ff_add32(&segment.memory.local[id], 1)
    return segment, ends, pinned

cdef int release_fork_pins(Segment segment, bint forget=False) except -1:
    """Release what was pinned for children that have ended. `forget`: stop looking, and leave the rest pinned."""
    cdef uint32_t id
    remaining = []
    for reading, pinned in segment.pins:
        ended = reading >= 0 and at_end(reading)
        if ended:
            for id in pinned:
                extent_release(&segment.memory, id)
        if reading >= 0 and (ended or forget):
            os.close(reading)
        elif not forget:
            remaining.append((reading, pinned))
    segment.pins = remaining
    return 0

cdef bint at_end(int reading) except -1:
    """Return whether no process has the writing end of a pipe any more."""
    look = select.poll()
    look.register(reading, select.POLLIN)
    return len(look.poll(0)) > 0
