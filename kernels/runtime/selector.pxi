# Give out futures as they finish.
# uses: handle, timeouts, waits, outcomes

from libc.stdint cimport uint32_t
from .core.externs cimport ff_exchange32

cdef class Selector:
    """Some futures of one client, given out as they finish. A look costs as much as has finished, not as is waited for."""
    cdef Outcomes runtime
    cdef AnyWait wait

    def __init__(self):
        raise TypeError("a Selector is made by Client.selector")

    def select(self, timeout=None):
        """Return the positions that have finished since the last call; wait for the first, or raise TimeoutError."""
        self.runtime.wait_for(self.wait, deadline_of(timeout))
        found, self.wait.found = self.wait.found, []
        return found

cdef Selector new_selector(Outcomes runtime, list handles):
    cdef Selector selector = Selector.__new__(Selector)
    cdef AnyWait wait = AnyWait.__new__(AnyWait)
    cdef Py_ssize_t i
    cdef uint32_t index
    wait.memory = &runtime.memory
    wait.pending = {}
    wait.found = []
    for i in range(len(handles)):
        index = (<SlotReference?> handles[i]).index
        wait.pending.setdefault(index, []).append(i)
        # S3: pairs with `finish_one`
        ff_exchange32(&runtime.memory.slots[index].watched, 1)
    wait.look_at_all()
    selector.runtime = runtime
    selector.wait = wait
    return selector
