# Give out futures as they finish.
# uses: handle, timeouts, waits, outcomes


cdef class PositionWait(AnyWait):
    """A wait for any of the futures of a list. `pending`: slot -> positions in the list."""

    cdef int look_at_all(self) except -1:
        AnyWait.look_at_all(self)
        self.found.sort()
        return 0

cdef class Selector:
    """Some futures of one client, given out as they finish. A look costs as much as has finished, not as is waited for."""
    cdef Outcomes runtime
    cdef AnyWait wait

    def __init__(self):
        raise TypeError("a Selector is made by Client.selector")

    def select(self, timeout=None):
        """Return the positions that have finished since the last call; wait for the first, or raise TimeoutError."""
        self.runtime.wait_for(self.wait, deadline_of(timeout))
        self.runtime.show_printed()
        found, self.wait.found = self.wait.found, []
        return found

cdef Selector new_selector(Outcomes runtime, list handles):
    cdef Selector selector = Selector.__new__(Selector)
    cdef AnyWait wait = PositionWait.__new__(PositionWait)
    cdef Py_ssize_t i
    begin_any(wait, &runtime.memory)
    for i in range(len(handles)):
        wait.add((<SlotReference?> handles[i]).index, i)
    wait.look_at_all()
    selector.runtime = runtime
    selector.wait = wait
    return selector
