# Time-outs in seconds, as users give them, and deadlines on the monotonic clock.
# uses: nothing

from libc.stdint cimport int64_t
from .core.externs cimport ff_now_ns

cdef double LONGEST_WAIT_S = 1e9       # thirty years

def check_timeout(timeout):
    """Return a time-out in seconds as a float of at least 0; raise TypeError or ValueError for anything else."""
    if not hasattr(timeout, "__float__") and not hasattr(timeout, "__index__"):
        hint = "; several futures go into one list, as in rr.get([a, b])" if hasattr(timeout, "ref") else ""
        raise TypeError(f"timeout: expected a number of seconds or None, got {timeout!r}{hint}")
    try:
        seconds = float(timeout)
    except OverflowError:               # an integer beyond every float
        return LONGEST_WAIT_S if timeout > 0 else 0.0
    if seconds != seconds:
        raise ValueError("timeout: expected a number of seconds or None, got nan")
    return min(max(seconds, 0.0), LONGEST_WAIT_S)

cdef int64_t deadline_of(timeout) except? -2:
    """Return nanoseconds of the monotonic clock; -1 for no deadline."""
    if timeout is None:
        return -1
    return ff_now_ns() + <int64_t> (<double> check_timeout(timeout) * 1e9)
