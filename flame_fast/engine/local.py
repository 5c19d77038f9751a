"""The local engine: the runner's own worker processes over one segment of shared memory.

The driver's side only starts and ends things; calls and values go through `Client`, deaths are the zygote's business.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import threading
import time

from flame_fast.engine import spawn
from flame_fast.engine.output import OutputPump
from flame_fast.kernels.runtime import Client, serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds the zygote gets to end all workers and itself.
ZYGOTE_PATIENCE_S = 1.0
#: A zygote that ends within so many seconds has not come to work; after so many of them in a row nothing is tried any more.
YOUNG_S = 1.0
EARLY_ENDS = 5
KILLED = "by signal 9"
#: Seconds for output that a process left behind by a task might still write.
OUTPUT_PATIENCE_S = 0.3


class LocalEngine:
    """Worker processes of a runner; see `flame_fast.engine.protocol.Engine`.

    Parameters
    ----------
    name : str
        The runner's.
    workers : int
        Pool workers.
    cpus : int
        CPUs this process may use.
    limit : int
        Bytes of values allowed at the same time.
    cgroups : list of (str, str, str)
        Files with the limit, the use, and what it is made of, of each cgroup above this process.
    arrays_read_only : bool
        Arrays arrive with WRITEABLE cleared.
    """

    def __init__(
        self, name: str, workers: int, cpus: int, limit: int, cgroups: list[tuple[str, str, str]], arrays_read_only: bool
    ) -> None:
        self.workers = workers
        self.cpus = cpus
        self._lock = threading.RLock()  # garbage collected under it may be this very runner's
        self._unfinished: int | None = None
        self._doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.runtime = Client.create(name, self._doorbell, workers, cpus, limit, cgroups, arrays_read_only)
        except BaseException:
            os.close(self._doorbell)
            raise
        self.runtime.pickling = serialization
        self._zygote_pid = -1
        self._zygote_started = 0.0
        self._early_ends = 0
        try:
            control, pidfd = self._start_zygote(recover=False)
        except BaseException:
            self._close_own()
            raise
        self._output = OutputPump(control, pidfd, self._zygote_ended)

    def _start_zygote(self, *, recover: bool) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = spawn.start_zygote(self.runtime.name, self.runtime.fd, self._doorbell, theirs.fileno(), recover=recover)
        self._zygote_pid = pid
        self._zygote_started = time.monotonic()
        return ours, os.pidfd_open(pid)

    def _zygote_ended(self) -> tuple[socket.socket, int] | None:
        """In the output thread: a zygote that ended of itself is replaced."""
        with self._lock:
            if self._unfinished is not None:
                return None
            how = self._reap_zygote()
            # One that somebody killed might have worked: only ends of its own tell that it cannot.
            young = time.monotonic() - self._zygote_started < YOUNG_S and how != KILLED
            self._early_ends = self._early_ends + 1 if young else 0
            if self._early_ends < EARLY_ENDS:
                try:
                    return self._start_zygote(recover=True)
                except OSError as error:  # no process or descriptor to be had
                    how = f"{how}, and no other can be started: {error}"
            self.runtime.mark_broken(
                f"the process that supervises the workers of runner {self.runtime.name!r} ended {how}, and nothing more is "
                "tried; standard error tells why (is the installation whole? `pip install --force-reinstall flame_fast`)"
            )
            return None

    def _reap_zygote(self) -> str:
        """Takes the ended zygote from the kernel; says how it ended."""
        try:
            _, status = os.waitpid(self._zygote_pid, 0)
        except ChildProcessError:  # somebody else's wait() has taken it
            return "for an unknown reason"
        code = os.waitstatus_to_exitcode(status)
        return f"with exit code {code}" if code >= 0 else f"by signal {-code}"

    def set_project(self, project: dict[str, Any]) -> None:
        self.runtime.set_setup(pickle.dumps(project, 5))

    def after_submit(self) -> None:
        pass

    def close(self, ending: str = "was closed") -> int:
        with self._lock:
            if self._unfinished is not None:
                return self._unfinished
            if self.runtime.is_foreign:  # a forked child must not end its parent's workers
                self._unfinished = 0
                return 0
            self._unfinished = self.runtime.announce_close()
        try:
            self._end_zygote()
        finally:  # whatever interrupts this, nobody may wait for ever
            self.runtime.mark_closed(ending)
            serialization.release(self.runtime)
            self.runtime.give_back_memory()
            try:
                self._output.finish(OUTPUT_PATIENCE_S)
            finally:
                self._close_own()
        return self._unfinished

    def _end_zygote(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self._zygote_pid)
            try:
                waiting = select.poll()  # select knows no descriptor above 1,023
                waiting.register(pidfd, select.POLLIN)
                if not waiting.poll(ZYGOTE_PATIENCE_S * 1000):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # its workers die with it
            finally:
                os.close(pidfd)
        self._reap_zygote()

    def _close_own(self) -> None:
        os.close(self._doorbell)
        os.close(self.runtime.fd)
