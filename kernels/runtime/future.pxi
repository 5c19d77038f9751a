# What a call returns and what a user holds of it.
#
# `no_gc`: a collector that breaks a cycle through a future would clear `runtime` before `__dealloc__` can give the slot back; and
# what a future refers to, the runtime and another future, never refers back to it.

@cython.no_gc
cdef class Handle:
    """A hold on one slot of the segment: freed with the object, or kept alive by `owner`, which has the hold."""
    cdef Calls runtime
    cdef uint32_t index
    cdef object owner
    cdef object __weakref__

    def __init__(self):
        raise TypeError(f"{type(self).__name__} is made by calling a service or by put_object, not by hand")

    def __dealloc__(self):
        if self.runtime is not None and self.owner is None and self.runtime.is_mine():
            release_bits(&self.runtime.memory, self.index, HOLD_CREATOR)

    def __reduce__(self):
        raise TypeError(
            f"a {type(self).__name__} travels only as an argument of a call of its own runner; pass its value: .get()"
        )

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
        self.runtime.wait_one(self, deadline_of(timeout))
        return self.runtime.value_of(self.index)

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
cdef class ObjectFuture(Handle):
    """The outcome of one call, as a hold on a slot of shared memory.

    It can be an argument, at any depth, of further calls of the same runner; the task then starts when the value is ready.
    When nobody holds it any more, its memory is given back. Safe from any thread; void in a forked child.
    """

    def wait(self, timeout=None):
        """As `get`, without the value: returns None once the call has finished, raises its error."""
        self.runtime.wait_one(self, deadline_of(timeout))
        if status_of(self.runtime.memory.slots[self.index].state) == FAILED:
            raise self.runtime.error_of(self.index)

    def exception(self, timeout=None):
        """The exception the call raised, a fresh copy; None if it succeeded. Waits like `get`."""
        self.runtime.wait_one(self, deadline_of(timeout))
        if status_of(self.runtime.memory.slots[self.index].state) == FAILED:
            return self.runtime.error_of(self.index)
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
cdef class ObjectRef(Handle):
    """A value in shared memory: what `put_object` and `ObjectFuture.ref` give, usable as an argument like a future."""

    def __repr__(self):
        return f"<ObjectRef {self.index}>"


cdef double LONGEST_WAIT_S = 1e9       # thirty years


def check_timeout(timeout):
    """A time-out in seconds as a float, at least 0; TypeError or ValueError for what is none."""
    if not hasattr(timeout, "__float__") and not hasattr(timeout, "__index__"):
        raise TypeError(f"timeout must be a number of seconds or None, got {timeout!r}")
    try:
        seconds = float(timeout)
    except OverflowError:               # an integer beyond every float
        return LONGEST_WAIT_S if timeout > 0 else 0.0
    if seconds != seconds:
        raise ValueError("timeout must be a number of seconds or None, got nan")
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


cdef int64_t deadline_of(timeout) except? -2:
    """Nanoseconds of the monotonic clock; -1 for none."""
    if timeout is None:
        return -1
    return ff_now_ns() + <int64_t> (<double> check_timeout(timeout) * 1e9)
