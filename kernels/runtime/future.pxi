# Futures and references: what a call and `put_object` return.
# uses: handle, timeouts, outcomes

from .core.externs cimport ff_load64, ff_now_ns
from .core.layout cimport DONE, ENDING, FAILED, READY, RUNNING, WAITING, Slot
from .core.lookup cimport is_finished, status_of
from .core.completion cimport is_cancelled

@cython.no_gc
cdef class ObjectHandle(SlotReference):
    """A value in shared memory, or one that a call will put there."""

    def get(self, timeout=None):
        """Wait for the value and return it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; None waits for ever, 0 only looks.

        Returns
        -------
        object
            A new object at each call; writing into its NumPy arrays changes no other object.

        Raises
        ------
        TimeoutError
            The time is up; the task goes on.
        FlameError
            `INVALID_STATE`: the runner was closed before the call finished, or the wait is a deadlock.
        concurrent.futures.CancelledError
            The call was cancelled, or one that it depends on.
        Exception
            Whatever the task raised, with its type; `str(error.__cause__)` is the worker's traceback.

        Notes
        -----
        Safe from any thread. Ctrl-C interrupts it.
        """
        (<Outcomes> self.runtime).wait_one(self, deadline_of(timeout))
        return (<Outcomes> self.runtime).value_of(self.index)

    def done(self):
        """Return whether the call has finished, with a value or an error."""
        if not self.runtime.is_mine():
            self.runtime.check()
        return bool(is_finished(&self.runtime.memory, self.index))

    @property
    def client(self):
        """The client that the handle belongs to."""
        return self.runtime

    def is_lost(self):
        """Return whether the value can never arrive: the runner was closed before the call finished."""
        return not is_finished(&self.runtime.memory, self.index) and (self.runtime.closed or not self.runtime.is_mine())

@cython.no_gc
cdef class ObjectFuture(ObjectHandle):
    """The outcome of one call: a reference to a slot of shared memory.

    It can be an argument, at any depth, of further calls of the same runner; the task then starts when the value is ready.
    Its memory is freed with the last reference. Safe from any thread; void in a forked child.
    """

    def wait(self, timeout=None):
        """Wait as `get` does, without reading the value: return None once the call has finished, raise its error."""
        (<Outcomes> self.runtime).wait_one(self, deadline_of(timeout))
        if status_of(self.runtime.memory.slots[self.index].state) == FAILED:
            raise (<Outcomes> self.runtime).error_of(self.index)

    def exception(self, timeout=None):
        """Return a fresh copy of the exception the call raised; None if it succeeded. Waits like `get`."""
        (<Outcomes> self.runtime).wait_one(self, deadline_of(timeout))
        if status_of(self.runtime.memory.slots[self.index].state) == FAILED:
            return (<Outcomes> self.runtime).error_of(self.index)
        return None

    def cancel(self, force=False):
        """Cancel the call, unless it has begun, and every call that depends on it.

        Parameters
        ----------
        force : bool
            End a call that has begun, with the process of its worker. Its service goes on in another; an instance loses its
            state, see `Runner.service`. Calls that run in that process inside of the wait of this one, or in whose wait this
            one runs, fail with `WorkerDiedError`. The inline engine, which runs calls in the driver, ends none.

        Returns
        -------
        bool
            Whether it is cancelled: then `get` raises `concurrent.futures.CancelledError`.
        """
        cdef Outcomes runtime = <Outcomes> self.runtime
        if type(force) is not bool:
            raise TypeError(f"force: expected True or False, got {force!r}")
        cancelled = runtime.cancel(self.index, force)
        return bool(runtime.await_forced_end(self, ff_now_ns() + FORCE_NS) if force else cancelled)

    def cancelled(self):
        """Return whether the call was cancelled, or depends on one that was."""
        cdef Slot *slot = &self.runtime.memory.slots[self.index]
        return status_of(ff_load64(&slot.state)) == FAILED and bool(is_cancelled(slot))

    def output(self, timeout=None):
        """Wait for the call; return what it printed, if it was made with `options(capture=True)`, also when it failed.

        Raises
        ------
        TimeoutError
            The time is up; the task goes on.
        FlameError
            `INVALID_STATE`: the call's output was not captured: it appeared on the driver's streams; or it never ran, or was
            cancelled.
        """
        cdef Outcomes runtime = <Outcomes> self.runtime
        runtime.wait_one(self, deadline_of(timeout))
        text, _ = runtime.captured_of(self.index)
        if text is None:
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"call {self.index} has no captured output: it was made without options(capture=True), or "
                             "never ran, or was cancelled")
        return text

    def ref(self):
        """Wait for the call and return its value's `ObjectRef`; raise the call's error."""
        cdef ObjectRef ref
        self.wait()
        ref = ObjectRef.__new__(ObjectRef)
        ref.index = self.index
        ref.owner = self if self.owner is None else self.owner
        ref.runtime = self.runtime
        return ref

    def __repr__(self):
        names = {WAITING: "waiting", READY: "queued", RUNNING: "running", ENDING: "running", DONE: "done", FAILED: "failed"}
        status = status_of(ff_load64(&self.runtime.memory.slots[self.index].state))
        return f"<ObjectFuture {self.index} {names.get(status, '?')}>"

@cython.no_gc
cdef class ObjectRef(ObjectHandle):
    """A value in shared memory: `put_object` and `ObjectFuture.ref` return it; usable as an argument like a future."""

    def __repr__(self):
        return f"<ObjectRef {self.index}>"
