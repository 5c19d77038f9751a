"""Processes that tasks leave behind: the supervisor is handed them when their worker ends, and ends them with the runner.

A process that has made a session of its own (`setsid`, `subprocess.Popen(start_new_session=True)`) detached on purpose: it
stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from flame_fast.kernels.runtime import adopt_orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: Seconds that such processes get after SIGTERM, and then after SIGKILL, and between two looks.
PATIENCE_S = 0.2
LOOK_S = 0.005

#: Where the start of a process stands in /proc/PID/stat after its name, and the session.
SESSION, START = 3, 19


class LeftBehind:
    """What this process is handed, as the nearest ancestor that asked for orphans.

    Parameters
    ----------
    session : int
        That of the workers, which is this process's.
    """

    def __init__(self, session: int) -> None:
        adopt_orphans()
        self._sessions: dict[int, float] = {session: float("inf")}

    def take_over(self, session: int) -> None:
        """Note the session of a supervisor that has died: what its workers left behind was handed to somebody else."""
        self._sessions[session] = started_by_now()

    def reap(self, workers: Collection[int]) -> bool:
        """Reap those that have ended; return whether there is any other child. Workers that have ended stay as they are."""
        try:
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in workers:
                    return True
                os.waitpid(ended.si_pid, 0)
        except ChildProcessError:
            return False
        return True

    def end(self) -> None:
        """End them all, at most a moment after SIGTERM. No worker is left."""
        if self.reap(()) or len(self._sessions) > 1:
            end_sessions(self._sessions, lambda: self.reap(()))


def started_by_now() -> float:
    """Return what is at most the start of a process that begins from now on, in the kernel's ticks since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")


def end_sessions(sessions: dict[int, float], reap: Callable[[], object] = lambda: None) -> None:
    """End the processes of some sessions but for this one: by SIGTERM first.

    Parameters
    ----------
    sessions : dict of int to float
        By session, the latest start of a process to end: its number may be another session's later.
    reap : callable
        Reaps children of this process.
    """
    deadline = time.monotonic() + PATIENCE_S
    asked: set[int] = set()
    while (left := _members(sessions)) and time.monotonic() < deadline + PATIENCE_S:
        late = time.monotonic() > deadline
        for pid in left:
            if late or pid not in asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(left)
        time.sleep(LOOK_S)
        reap()


def _members(sessions: dict[int, float]) -> list[int]:
    me = os.getpid()
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if pid != me and _is_member(pid, sessions)]


def _is_member(pid: int, sessions: dict[int, float]) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(") ")[2].split()
    except OSError:  # it has ended
        return False
    return fields[0] not in "ZX" and int(fields[START]) <= sessions.get(int(fields[SESSION]), -1)
