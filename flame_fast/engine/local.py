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

from flame_fast import journal
from flame_fast.engine import spawn
from flame_fast.engine.descriptors import Descriptor
from flame_fast.engine.left_behind import end_sessions, started_by_now
from flame_fast.engine.output import OutputPump
from flame_fast.engine.segment import DriverEngine
from flame_fast.kernels.runtime import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.engine.spec import EngineOptions

#: Seconds the zygote gets to end all workers and itself.
ZYGOTE_PATIENCE_S = 1.7

#: Seconds between two looks whether a zygote that ends its workers has died.
LOOK_S = 0.05

#: A zygote that ends within so many seconds of its start never came to work.
YOUNG_S = 1.0

#: After so many such ends in a row the driver starts no other zygote.
EARLY_ENDS = 5

#: The end of a zygote that got SIGKILL, in words.
KILLED = "by signal 9"

#: The end of a zygote that found the segment overwritten, in words.
DAMAGED = f"with exit code {spawn.EXIT_DAMAGED}"

#: Seconds for output from a process that a task left behind.
OUTPUT_PATIENCE_S = 0.3


class LocalEngine(DriverEngine):
    """Runs calls in worker processes; see `flame_fast.engine.protocol.Engine`."""

    def __init__(self, options: EngineOptions) -> None:
        self._launch = spawn.Launch(options.environment)  # first: it refuses a program that cannot be started
        super().__init__(options, Client)
        self._options = options
        self._lock = threading.RLock()  # reentrant: under it a garbage collection may close this very runner
        self._unfinished: int | None = None
        self._zygote_pid = -1
        self._zygote_pidfd: Descriptor | None = None
        self._zygote_started = 0.0
        self._early_ends = 0
        try:
            self._output = OutputPump(self.name, self.session, *self._start_zygote(recover=False), self._replace_zygote)
        except BaseException:
            self._undo_start()
            raise
        self.runtime.output_of = self._output.last_lines
        self.runtime.show_output = self._output.show

    def _start_zygote(self, *, recover: bool) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                pid = spawn.start_zygote(
                    self._launch,
                    self.name,
                    self.runtime.fd,
                    self._doorbell.fd,
                    theirs.fileno(),
                    recover=recover,
                    preload=self._options.preload,
                )
            self._zygote_pid = pid
            self._zygote_started = time.monotonic()
            self._forget_zygote()
            self._zygote_pidfd = Descriptor(os.pidfd_open(pid))
            journal.debug("runner %r: the process %d supervises the workers", self.name, pid)
            return ours, os.dup(self._zygote_pidfd.fd)
        except BaseException:
            ours.close()
            raise

    def _undo_start(self) -> None:
        """End a zygote whose engine cannot start: its workers end with it."""
        if self._zygote_pid > 0:
            with contextlib.suppress(OSError):  # another wait() of this process has reaped it
                os.kill(self._zygote_pid, signal.SIGKILL)
                os.waitpid(self._zygote_pid, 0)
            self._forget_zygote()
        self._close_descriptors()

    def _forget_zygote(self) -> None:
        if self._zygote_pidfd is not None:
            self._zygote_pidfd.close()
            self._zygote_pidfd = None

    def _replace_zygote(self) -> tuple[socket.socket, int] | None:
        """Start another zygote after one ended, in the output thread; return None when the runner ends or is broken."""
        with self._lock:
            if self._unfinished is not None:
                return None
            how = self._reap_zygote()
            journal.warning(
                "runner %r: the process %d that supervises the workers has ended %s", self.name, self._zygote_pid, how
            )
            if how == DAMAGED:
                self.runtime.mark_damaged()
                return None
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
            ended = os.waitid(os.P_PIDFD, self._watching(), os.WEXITED)  # its number may be another child's by now
        except OSError:  # another wait() of this process has reaped it
            return "for an unknown reason"
        assert ended is not None  # it waits
        return f"with exit code {ended.si_status}" if ended.si_code == os.CLD_EXITED else f"by signal {ended.si_status}"

    def _watching(self) -> int:
        """Return a descriptor of the zygote: a new one if the user has closed it, as `os.closerange` does.

        Raises
        ------
        OSError
            There is none, and the zygote is no child of ours any more: its number may be another process's.
        """
        if self._zygote_pidfd is None or not self._zygote_pidfd.is_open():
            os.waitid(os.P_PID, self._zygote_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self._zygote_pidfd = Descriptor(os.pidfd_open(self._zygote_pid))
        return self._zygote_pidfd.fd

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
            self._end_workers()
        finally:  # after any interruption too: else threads would wait for ever
            self._abandon_calls(ending)
            try:
                self._output.finish(OUTPUT_PATIENCE_S)
            finally:
                self._close_descriptors()
        return self._unfinished

    def _end_workers(self) -> None:
        """Wait until the zygote has ended the workers. It stays, to release the application if this process cannot."""
        deadline = time.monotonic() + ZYGOTE_PATIENCE_S
        while self._zygote_lives():
            if self.runtime.await_workers_end(LOOK_S):
                return
            if time.monotonic() > deadline:
                self._kill_zygote()  # its workers die with it
                break
        if self._zygote_pid > 0:  # its session's number
            end_sessions({self._zygote_pid: started_by_now()})

    def _zygote_lives(self) -> bool:
        try:
            waiting = select.poll()  # select knows no descriptor above 1,023
            waiting.register(self._watching(), select.POLLIN)
            return not waiting.poll(0)
        except OSError:
            return False

    def _kill_zygote(self) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._watching(), signal.SIGKILL)
        self._reap_zygote()
        self._forget_zygote()

    def finish(self) -> None:
        if self._unfinished is not None and not self.is_foreign:
            self._kill_zygote()
