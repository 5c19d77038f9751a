"""Local engine: the runner's own worker processes over one segment of shared memory.

The driver's side starts and ends processes; calls and values go through the segment, and the zygote handles deaths.
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
from flame_fast.engine.segment import DriverEngine
from flame_fast.kernels.runtime import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.engine.spec import EngineOptions

#: Seconds the zygote gets to end all workers and itself.
ZYGOTE_PATIENCE_S = 1.0

#: A zygote that ends within so many seconds of its start never came to work.
YOUNG_S = 1.0

#: After so many such ends in a row the driver starts no other zygote.
EARLY_ENDS = 5

#: The end of a zygote that got SIGKILL, in words.
KILLED = "by signal 9"

#: Seconds for output from a process that a task left behind.
OUTPUT_PATIENCE_S = 0.3


class LocalEngine(DriverEngine):
    """Runs calls in worker processes; see `flame_fast.engine.protocol.Engine`."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options, Client)
        self._lock = threading.RLock()  # reentrant: under it a garbage collection may close this very runner
        self._unfinished: int | None = None
        self._zygote_pid = -1
        self._zygote_started = 0.0
        self._early_ends = 0
        try:
            control, pidfd = self._start_zygote(recover=False)
        except BaseException:
            self._close_descriptors()
            raise
        self._output = OutputPump(control, pidfd, self._replace_zygote)
        self.runtime.output_of = self._output.last_lines

    def _start_zygote(self, *, recover: bool) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = spawn.start_zygote(self.name, self.runtime.fd, self._doorbell, theirs.fileno(), recover=recover)
        self._zygote_pid = pid
        self._zygote_started = time.monotonic()
        return ours, os.pidfd_open(pid)

    def _replace_zygote(self) -> tuple[socket.socket, int] | None:
        """Start another zygote after one ended, in the output thread; return None when the runner ends or is broken."""
        with self._lock:
            if self._unfinished is not None:
                return None
            how = self._reap_zygote()
            # A killed zygote might have worked: only an end of its own counts as one that cannot.
            young = time.monotonic() - self._zygote_started < YOUNG_S and how != KILLED
            self._early_ends = self._early_ends + 1 if young else 0
            if self._early_ends < EARLY_ENDS:
                try:
                    return self._start_zygote(recover=True)
                except OSError as error:  # no process or descriptor left
                    how = f"{how}, and no other can be started: {error}"
            self.runtime.mark_broken(
                f"the process that supervises the workers of runner {self.name!r} ended {how}, and nothing more is "
                "tried; standard error tells why (is the installation whole? `pip install --force-reinstall flame_fast`)"
            )
            return None

    def _reap_zygote(self) -> str:
        """Reap the ended zygote; return how it ended, in words."""
        try:
            _, status = os.waitpid(self._zygote_pid, 0)
        except ChildProcessError:  # another wait() of this process has reaped it
            return "for an unknown reason"
        code = os.waitstatus_to_exitcode(status)
        return f"with exit code {code}" if code >= 0 else f"by signal {-code}"

    def set_project(self, project: dict[str, Any]) -> None:
        self.runtime.set_setup(pickle.dumps(project, 5))

    def close(self, ending: str) -> int:
        with self._lock:
            if self._unfinished is not None:
                return self._unfinished
            if self.is_foreign:  # a forked child must not end its parent's workers
                self._unfinished = 0
                return 0
            self._unfinished = self.runtime.announce_close()
        try:
            self._end_zygote()
        finally:  # after any interruption too: else threads would wait for ever
            self._abandon_calls(ending)
            try:
                self._output.finish(OUTPUT_PATIENCE_S)
            finally:
                self._close_descriptors()
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
