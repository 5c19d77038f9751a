# What a child that the user forks has in its hands must not change: its views still show pages that the parent may let go of.
#
# So the parent pins, at the fork, every extent that it has views of, for as long as that child (or whoever it forks in turn)
# lives: the child keeps the writing end of a pipe, and its end, or its exec, is the end of file that the parent finds when it
# looks. Arrays born here are guarded the other way round by `keep_to_itself` (arrays.pxi).

cdef list attachments = []      # weak references to the attachments of this process
cdef dict forking = {}          # thread -> what `_before_fork` made

def _before_fork():
    forking[PyThread_get_thread_ident()] = [pin for pin in [pin_extents(reference()) for reference in attachments] if pin is not None]

def _after_fork_in_parent():
    for segment, reading, writing, pinned in forking.pop(PyThread_get_thread_ident(), ()):
        if writing >= 0:
            os.close(writing)
        (<Segment> segment).pins.append((reading, pinned))

def _after_fork_in_child():
    global fork_generation
    fork_generation += 1
    for _, reading, writing, _ in forking.pop(PyThread_get_thread_ident(), ()):
        if reading >= 0:
            os.close(reading)       # and never the other end: its closing tells the parent
    forking.clear()
    keep_to_itself()

os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

cdef object pin_extents(Segment segment):
    """(attachment, reading end, writing end, extents) with one hold more on each of them; None if there are none."""
    cdef uint32_t id
    cdef list pinned
    if segment is None or not segment.is_mine() or segment.me == ZYGOTE_INDEX:
        return None
    settle_pins(segment)
    pinned = [id for id in range(ff_load32(&segment.memory.header.extent_high)) if segment.memory.local[id]]
    if not pinned:
        return None
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC)
    except OSError:                 # no descriptor to be had: pinned for good
        reading = writing = -1
    for id in pinned:
        ff_add32(&segment.memory.local[id], 1)
    return segment, reading, writing, pinned

cdef int settle_pins(Segment segment, bint forget=False) except -1:
    """Lets go of what children that have ended had pinned. `forget`: looks no more, what is pinned stays so."""
    cdef uint32_t id
    kept = []
    for reading, pinned in segment.pins:
        ended = reading >= 0 and at_end(reading)
        if ended:
            for id in pinned:
                extent_drop(&segment.memory, id)
        if reading >= 0 and (ended or forget):
            os.close(reading)
        elif not forget:
            kept.append((reading, pinned))
    segment.pins = kept
    return 0

cdef bint at_end(int reading) except -1:
    """Whether nobody has the writing end of a pipe any more."""
    look = select.poll()
    look.register(reading, select.POLLIN)
    return len(look.poll(0)) > 0
