"""Scarcity: what the system lacks or forbids when it refuses something, and what to raise or to allow.

An error names no system call, so each one that a Runner needs is tried here. Imported ahead: without a descriptor no module
can be imported.
"""

from __future__ import annotations

import errno
import os

from flame_fast.errors import FlameError, FlameErrorCode

#: Descriptors that a Runner's start takes in the driver, beside those of its workers.
START_DESCRIPTORS = 20

#: What every refusal of a process or a thread may come from.
PROCESSES = "raise `ulimit -u` or the pids.max of the cgroup"
ADDRESSES = "raise `ulimit -v`, `ulimit -d` or the memory.max of the cgroup, or lower `ulimit -s`"

#: System calls that old kernels lack and containers forbid: why a Runner makes them, and the Linux that has them.
CALLS = {
    "memfd_create": ("driver and workers share memory by it", "3.17"),
    "eventfd": ("processes wake the supervisor by it", "2.6.27"),
    "pidfd_open": ("driver, supervisor and workers watch each other's end by it", "5.3"),
    "flock": ("processes take turns in the data directory by it", "2.0"),
}


def explained(error: BaseException) -> str:
    """Return an error of the system with what it lacks, and what to do about that.

    Parameters
    ----------
    error : OSError, MemoryError or RuntimeError
        The last two, and an error of another number, as they are.
    """
    hint = _hint(error.errno) if isinstance(error, OSError) else ADDRESSES if isinstance(error, MemoryError) else ""
    text = str(error) or type(error).__name__
    return f"{text}; {hint}" if hint else text


def no_addresses(least: int) -> str:
    """Return why this process cannot map a file of so many bytes, and what to do about that."""
    import resource

    if 0 <= resource.getrlimit(resource.RLIMIT_FSIZE)[0] < least:
        return "`ulimit -f` allows no such file, which is sparse: raise it"
    bound = resource.getrlimit(resource.RLIMIT_AS)[0]
    if bound != resource.RLIM_INFINITY:
        return f"`ulimit -v` allows {bound >> 30} GiB: raise it, or lower Runner(memory=...)"
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    return f"this process has {used >> 30} GiB already: close Runners, drop their values, or lower Runner(memory=...)"


def no_thread(error: RuntimeError, purpose: str) -> FlameError:
    """Return the error of a thread that could not be started, which was to serve a purpose."""
    return FlameError(
        FlameErrorCode.INTERNAL,
        f"no thread can be started {purpose}: {error}; {PROCESSES}; or {ADDRESSES}",
    )


def _hint(number: int | None) -> str:
    if number == errno.EMFILE:
        return (
            f"{_limit_of_descriptors()}: a Runner takes up to {START_DESCRIPTORS} beside those open before, and two for "
            "each worker and instance; raise `ulimit -n`"
        )
    if number == errno.ENFILE:
        return "the whole system has no file descriptor left: raise fs.file-max"
    if number == errno.EAGAIN:
        return f"no more processes are allowed: {PROCESSES}"
    if number == errno.ENOMEM:
        return f"no memory or addresses are left: {ADDRESSES}"
    if number in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP):
        return "; ".join(_refused())
    return ""


def _limit_of_descriptors() -> str:
    return f"`ulimit -n` is {os.sysconf('SC_OPEN_MAX'):,}"


def _refused() -> list[str]:
    """Return what to do about each system call that is refused here."""
    found = []
    for call, (purpose, version) in CALLS.items():
        try:
            os.close(_try(call))
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "an error")
            found.append(
                f"the system call {call} is refused here ({name}), and {purpose}: use Linux {version} or later, or a "
                "container whose seccomp profile allows it"
            )
    return found


def _try(call: str) -> int:
    """Make a system call; return a descriptor that it gave, or that it was made on."""
    if call == "memfd_create":
        return os.memfd_create("flame_try")
    if call == "eventfd":
        return os.eventfd(0)
    if call == "pidfd_open":
        return os.pidfd_open(os.getpid())
    import fcntl

    descriptor = os.open("/proc/self/exe", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # another process has locked it: the call works
        pass
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
