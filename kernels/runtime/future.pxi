# Futures and references: what a call and `put_object` return.
# uses: handle, timeouts, outcomes, notifier

from libc.stdint cimport uint32_t, uint64_t
from .core.externs cimport ff_load64, ff_now_ns
from .core.layout cimport DONE, ENDING, FAILED, KIND_EXTENT, READY, RESULT, RUNNING, WAITING, Slot
from .core.lookup cimport is_finished, status_of
from .core.regions cimport Memory
from .core.repair cimport reference_at, reference_count
from .core.completion cimport is_cancelled

@cython.no_gc
cdef class ObjectHandle(SlotReference):
    """A value in shared memory, or one that a call will put there."""

    @classmethod
    def __class_getitem__(cls, value):
        """Return the type with that of its value, for annotations: `ObjectFuture[int]`."""
        return GenericAlias(cls, value)

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

    def __await__(self):
        """Wait for the value in an event loop of asyncio or trio and return it, as `get` does.

        A wait that is cancelled drops this wait alone. If it held the last reference to the future, as in
        `await service(x)`, the call is dropped if it has not begun; `options(detached=True)` keeps it.
        """
        from flame_fast.kernels.runtime.awaiting import outcome_of
        return outcome_of(self)

    def done(self):
        """Return whether the call has finished, with a value or an error."""
        if not self.runtime.is_mine():
            self.runtime.check()
        return bool(is_finished(&self.runtime.memory, self.index))

    @property
    def number(self):
        """The number that messages and `python -m flame_fast dump` give the call. A later call may get it again."""
        return self.index

    @property
    def client(self):
        """The client that the handle belongs to."""
        return self.runtime

    def has_failed(self):
        """Return whether the call has finished with an error."""
        return status_of(ff_load64(&self.runtime.memory.slots[self.index].state)) == FAILED

    def is_lost(self):
        """Return whether the value can never arrive: the runner was closed before the call finished."""
        return not is_finished(&self.runtime.memory, self.index) and (self.runtime.closed or not self.runtime.is_mine())

@cython.no_gc
cdef class ObjectFuture(ObjectHandle):
    """The outcome of one call: a reference to a slot of shared memory.

    It can be an argument, at any depth, of further calls of the same runner; the task then starts when the value is ready.
    Its memory is freed with the last reference. Safe from any thread; void in a forked child.
    """
    cdef object label           # the service's name, and the method's: text, which is in no cycle; None: no service's

    def wait(self, timeout=None):
        """Wait as `get` does, without reading the value: return None once the call has finished, raise its error."""
        (<Outcomes> self.runtime).wait_one(self, deadline_of(timeout))
        if status_of(self.runtime.memory.slots[self.index].state) == FAILED:
            raise (<Outcomes> self.runtime).error_of(self.index)

    def result(self, timeout=None):
        """Return what `get` returns: the name that `concurrent.futures` has for it."""
        return self.get(timeout)

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

    def running(self):
        """Return whether the call runs now."""
        cdef uint32_t status = status_of(ff_load64(&self.runtime.memory.slots[self.index].state))
        return status == RUNNING or status == ENDING

    def add_done_callback(self, fn):
        """Have a function called with this future once it is done: has a value, an error, or is cancelled.

        Parameters
        ----------
        fn : callable
            Called once, with the future as its only argument, in the order added: at once, in the calling thread, if the
            future is done; else in the one thread that runs the callbacks of a runner. Until then the runner keeps the
            future, so that its call runs. When the runner is closed before the call has finished, it is called then, and
            the future's `exception()` raises. What it raises is logged by the logger `concurrent.futures`.

        Examples
        --------
        >>> from flame_fast import Runner
        >>> with Runner("callbacks", workers=1) as rr:
        ...     future = rr.service(abs)(-2)
        ...     future.add_done_callback(lambda future: print(future.result()))
        ...     future.wait()
        2
        """
        if not callable(fn):
            raise TypeError(f"fn: expected a callable, got {fn!r}")
        if not self.runtime.is_mine():
            self.runtime.check()
        notifier_of(<Outcomes> self.runtime).add(self, fn)

    def as_concurrent(self):
        """Return a `concurrent.futures.Future` of this call, for functions that take no other: `wait`, `as_completed`.

        Its value is read once, and is the same object for every `result`.
        """
        from flame_fast.kernels.runtime.concurrent_future import CallFuture
        return CallFuture(self)

    def discard_callback(self, fn):
        """Forget a function given to `add_done_callback`, unless it has been called."""
        if (<Outcomes> self.runtime).notifier is not None:
            notifier_of(<Outcomes> self.runtime).discard(self, fn)

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
        return f"<ObjectFuture {self._called()} {self._state()}>"

    def _repr_html_(self):
        """Return the future as an HTML table, for notebooks."""
        from flame_fast.inspection.html import table
        return table("ObjectFuture", {"call": self._called(), "number": self.index, "state": self._state()})

    cdef str _called(self):
        """Return the call without its arguments."""
        return "value of another runner" if self.label is None else f"{self.label}(...)"

    cdef str _state(self):
        cdef uint32_t status = status_of(ff_load64(&self.runtime.memory.slots[self.index].state))
        if self.is_lost():
            return "dropped"
        if status == FAILED and self.cancelled():
            return "cancelled"
        return {WAITING: "waiting", READY: "queued", DONE: "done", FAILED: "failed"}.get(status, "running")

@cython.no_gc
cdef class ObjectRef(ObjectHandle):
    """A value in shared memory: `put_object` and `ObjectFuture.ref` return it; usable as an argument like a future."""

    def __repr__(self):
        return f"<ObjectRef {self._nbytes():,} bytes>"

    def _repr_html_(self):
        """Return the ref as an HTML table, for notebooks."""
        from flame_fast.inspection.html import table
        return table("ObjectRef", {"bytes": f"{self._nbytes():,}"})

    cdef uint64_t _nbytes(self):
        """Return the bytes that the value takes in shared memory, in whole extents where it has some."""
        cdef Memory *memory = &self.runtime.memory
        cdef Slot *slot = &memory.slots[self.index]
        cdef uint64_t nbytes = 0 if slot.result_kind & KIND_EXTENT else slot.result_bytes
        cdef uint32_t step
        for step in range(reference_count(memory, slot, RESULT)):
            nbytes += reference_at(memory, slot, RESULT, step).size
        return nbytes
