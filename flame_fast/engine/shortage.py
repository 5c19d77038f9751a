"""Shortage: no process can be started, for want of processes, descriptors or memory.

    starts fail -- PATIENCE_S, every RETRY_S --> one message; calls that nobody serves fail -- LOOK_S --> try and look again
         ^                                                                                                   |
         +---------------------------- there is such a call again -------------------------------------------+

A call that finds no worker must end: it fails with the cause. Those that a living worker can run wait for it, as ever. The
supervisor tries again now and then, so what it lacked may come back at any time.

Rejected: a word in the segment by which submitters tell of the next call. They would look at it at every call, or a
supervisor's death would have to restore it.
"""

from __future__ import annotations

import sys
import time

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels.runtime import Role, serialization
from flame_fast.scarcity import explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.kernels.runtime import Supervisor

#: Seconds that calls wait for a process that cannot be started.
PATIENCE_S = 2.0
#: Seconds until a start that failed is tried again.
RETRY_S = 0.1
#: Seconds between two tries once the calls have failed.
LOOK_S = 0.5


class Shortage:
    """What the supervisor does while starts fail.

    Parameters
    ----------
    supervisor : Supervisor
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._until: float | None = None  # when the patience ends; None: no call that nobody serves has been seen
        self._told = False

    def end(self) -> None:
        """Everything that was missing has been started."""
        self._until = None
        self._told = False

    def goes_on(self, error: Exception) -> float:
        """Return the seconds until the next try, after one that failed with an error."""
        now = time.monotonic()
        if self._until is None:
            if self._told and not self._supervisor.unserved(self._lacks_pool()):
                return LOOK_S
            self._until = now + PATIENCE_S
        if now < self._until:
            return RETRY_S
        self._until = None
        self._give_up(f"no process of runner {self._supervisor.name!r} can be started: {explained(error)}")
        return LOOK_S

    def _give_up(self, why: str) -> None:
        failed = FlameError(
            FlameErrorCode.INTERNAL,
            f"{why}; it was tried for {PATIENCE_S:g} s, and is tried again for the next call",
        )
        # All of them first: a caller that is told of a failure makes the next call, which is to be tried.
        calls = self._supervisor.unserved(self._lacks_pool())
        self._supervisor.fail_unserved(calls, serialization.dump_error(failed))
        if not self._told:
            self._told = True
            print(f"flame_fast: {why}; calls that need one fail until it can", file=sys.stderr, flush=True)

    def _lacks_pool(self) -> bool:
        """Return whether no worker of the pool will take a call: there is none, or each waits, and no task goes on."""
        processes = self._supervisor.processes()
        return all(one.blocked or one.idle and one.role != Role.POOL for one in processes)
