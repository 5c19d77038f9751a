# What a call returns and what a user holds of it.
# uses: handle, timeouts, outcomes

from .core.externs cimport ff_load64
from .core.layout cimport DONE, FAILED, READY, RUNNING, WAITING
from .core.lookup cimport is_finished, status_of

@cython.no_gc
cdef class ObjectHandle(SlotReference):
    """A value that is there, or will be."""

    def get(self, timeout=None):
        """The value; waits for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; None waits for ever, 0 only looks.

        Returns
        -------
        object
            A new object at each call; what is written into its NumPy arrays shows nowhere else.

        Raises
        ------
        TimeoutError
            The time is up; the task goes on.
        FlameError
            `INVALID_STATE`: the runner was closed before the call finished, or the wait could never end.
        Exception
            Whatever the task raised, with its type; `str(error.__cause__)` is the worker's traceback.

        Notes
        -----
        Safe from any thread. Ctrl-C interrupts it.
        """
        (<Outcomes> self.runtime).wait_one(self, deadline_of(timeout))
        return (<Outcomes> self.runtime).value_of(self.index)

    def done(self):
        """Whether the value, or the error, is there."""
        if not self.runtime.is_mine():
            self.runtime.check()
        return bool(is_finished(&self.runtime.memory, self.index))

    def runtime_of(self):
        return self.runtime

    def is_lost(self):
        """Whether the value will never be there: the runner was closed before the call finished."""
        return not is_finished(&self.runtime.memory, self.index) and (self.runtime.closed or not self.runtime.is_mine())

@cython.no_gc
cdef class ObjectFuture(ObjectHandle):
    """The outcome of one call, as a hold on a slot of shared memory.

    It can be an argument, at any depth, of further calls of the same runner; the task then starts when the value is ready.
    When nobody holds it any more, its memory is given back. Safe from any thread; void in a forked child.
    """

    def wait(self, timeout=None):
        """As `get`, without the value: returns None once the call has finished, raises its error."""
        (<Outcomes> self.runtime).wait_one(self, deadline_of(timeout))
        if status_of(self.runtime.memory.slots[self.index].state) == FAILED:
            raise (<Outcomes> self.runtime).error_of(self.index)

    def exception(self, timeout=None):
        """The exception the call raised, a fresh copy; None if it succeeded. Waits like `get`."""
        (<Outcomes> self.runtime).wait_one(self, deadline_of(timeout))
        if status_of(self.runtime.memory.slots[self.index].state) == FAILED:
            return (<Outcomes> self.runtime).error_of(self.index)
        return None

    def ref(self):
        """Waits for the call and gives its value's `ObjectRef`; raises the call's error."""
        cdef ObjectRef ref
        self.wait()
        ref = ObjectRef.__new__(ObjectRef)
        ref.index = self.index
        ref.owner = self if self.owner is None else self.owner
        ref.runtime = self.runtime
        return ref

    def __repr__(self):
        names = {WAITING: "waiting", READY: "queued", RUNNING: "running", DONE: "done", FAILED: "failed"}
        status = status_of(ff_load64(&self.runtime.memory.slots[self.index].state))
        return f"<ObjectFuture {self.index} {names.get(status, '?')}>"

@cython.no_gc
cdef class ObjectRef(ObjectHandle):
    """A value in shared memory: what `put_object` and `ObjectFuture.ref` give, usable as an argument like a future."""

    def __repr__(self):
        return f"<ObjectRef {self.index}>"
