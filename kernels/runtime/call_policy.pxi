# Limits of the calls of one bound view of a service, as `options` sets them, and the numbers of a service's calls.
# uses: timeouts, future

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from .core.externs cimport ff_now_ns
from .core.layout cimport (
    CALL_CAPTURED, CALL_DETACHED, CALL_KEPT, CALL_LIMITED, CALL_POLICY, RETRY_DEATH, RETRY_ERRORS, RETRY_TIMEOUT,
    Policy,
)
from .core.regions cimport Memory

cdef uint64_t nanoseconds_of(seconds) except? 0:
    """Return a duration in seconds in nanoseconds, at least 1; 0 for None."""
    return 0 if seconds is None else max(<uint64_t> (<double> check_timeout(seconds) * 1e9), 1)

cdef class CallPolicy:
    """Limits of calls, and what is done when one fails; see `flame_fast.engine.spec.CallOptions`. Immutable.

    Parameters
    ----------
    timeout, deadline, backoff : float, optional
        Seconds.
    retries : int
    after_death, after_timeout : bool
        Retry a call whose process died; one that ran over its time-out.
    errors : ObjectRef, optional
        A tuple of the exception types after which a call is tried again, as `put` has stored it.
    detached : bool
        Run the call although nobody wants its outcome.
    urgent : bool
        Run the call before those that are not.
    captured : bool
        Keep what the call prints with its outcome.
    """
    cdef uint64_t timeout, deadline, backoff
    cdef uint32_t retries, retry_on
    cdef uint16_t flags
    cdef ObjectRef errors
    cdef readonly bint urgent

    def __init__(self, *, timeout=None, deadline=None, backoff=None, uint32_t retries=0, bint after_death=False,
                 bint after_timeout=False, ObjectRef errors=None, bint detached=False, bint urgent=False,
                 bint captured=False):
        self.timeout = nanoseconds_of(timeout)
        self.deadline = nanoseconds_of(deadline)
        self.backoff = nanoseconds_of(backoff)
        self.retries = retries
        self.retry_on = after_death * RETRY_DEATH | after_timeout * RETRY_TIMEOUT | (errors is not None) * RETRY_ERRORS
        self.errors = errors if retries else None
        self.urgent = urgent
        self.flags = detached * CALL_DETACHED | captured * CALL_CAPTURED
        if self.timeout or self.deadline:
            self.flags |= CALL_POLICY | CALL_LIMITED
        if retries:
            self.flags |= CALL_POLICY | CALL_KEPT

    @property
    def ends_by_force(self):
        """Whether a call may be ended by force."""
        return self.flags & CALL_LIMITED != 0

    cdef uint64_t apply(self, Memory *memory, uint32_t index) noexcept:
        """Write the policy of a call that is not published yet; return its deadline, 0 for none."""
        cdef Policy *policy = &memory.policies[index]
        memory.slots[index].flags = self.flags
        if not self.flags & CALL_POLICY:
            return 0
        policy.timeout, policy.allowed, policy.backoff = self.timeout, self.deadline, self.backoff
        policy.deadline = <uint64_t> ff_now_ns() + self.deadline if self.deadline else 0
        policy.retries, policy.retry_on = self.retries, self.retry_on
        policy.began = policy.not_before = policy.attempts = policy.history = 0
        return policy.deadline

cdef int64_t UNKNOWN_LENGTH = 1 << 32       # numbers that a map takes whose items nobody can count

cdef class CallNumbers:
    """The numbers of a service's calls, in the order made, from 0. Its methods and views share them. Safe from any thread.

    Parameters
    ----------
    refusal : str, optional
        Why calls get none: each raises RuntimeError with it.
    """
    cdef object __weakref__
    cdef int64_t next
    cdef str refusal

    def __init__(self, str refusal=None):
        self.refusal = refusal

    cdef int64_t take(self, int64_t count) except -1:
        """Return the first of so many numbers that no other call has."""
        cdef int64_t first = self.next
        if self.refusal is not None:
            raise RuntimeError(self.refusal)
        self.next += count
        return first

    cdef void give_back(self, int64_t number) noexcept:
        """Take back the number of a call that was not made, so that the next attempt has it; too late, it stays unused."""
        if self.next == number + 1:
            self.next = number

cdef class MapNumbers:
    """The numbers of a map's items: one after the other from where the service's count stood when the map began.

    A map of unknown length takes very many: so the calls made after it have the same numbers, however far it has come.
    """
    cdef CallNumbers numbers
    cdef int64_t first          # number of item 0, if it were in the present row
    cdef int64_t end            # item that is not in the row any more

    def __init__(self, CallNumbers numbers not None, length=None):
        self.numbers = numbers
        self.end = UNKNOWN_LENGTH if length is None else length
        self.first = numbers.take(self.end)

    cdef int64_t row(self, int64_t item) noexcept:
        """Return how many items from this one on have numbers in a row, at least 1."""
        return max(1, self.end - item)

    cpdef int64_t of(self, int64_t item) except -1:
        """Return the number of an item. One more than were announced, as of a list that grows, begins another row."""
        if item >= self.end:
            self.first = self.numbers.take(UNKNOWN_LENGTH) - item
            self.end = item + UNKNOWN_LENGTH
        return self.first + item

cdef class NumberedCall:
    """A call that a service with a seed runs, as `flame_fast.kernels.task_keys` finds it.

    Attributes
    ----------
    seed : tuple of int
        The words of the service's key.
    number : int
    key : Key, optional
        The call's key, once the task has asked for it.
    """
    cdef readonly tuple seed
    cdef readonly int64_t number
    cdef public object key
