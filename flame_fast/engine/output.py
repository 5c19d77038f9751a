"""Output forwarding: one driver thread copies workers' output to `sys.stdout` and `sys.stderr`, and watches the zygote.

The zygote sends the read ends of each new worker's two pipes. What the worker, native code in it or a process it starts
writes to them comes out here in whole lines. No call or value passes through this thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections import deque

from flame_fast.engine.capture import LAST_LINES
from flame_fast.engine.descriptors import Descriptor
from flame_fast.engine.spawn import STACK_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of one line kept until its end arrives; a longer line is shown in pieces.
LINE_LIMIT = 1 << 20

#: Bytes of what each process printed that are looked at for the post-mortem of its death; processes.
MOST_NOTED = 1 << 12
MOST_PROCESSES = 4096

#: Seconds that a post-mortem waits for what is left in the pipes.
LINES_PATIENCE_S = 0.2

#: Bytes read at once.
CHUNK_BYTES = 1 << 16

#: Bytes of a descriptor in a message.
INT_BYTES = 4


def _write(name: str, data: bytes) -> None:
    target = getattr(sys, name)
    with contextlib.suppress(Exception):  # the stream is None, closed or broken
        target.write(data.decode("utf-8", "replace"))
        target.flush()


class Stream:
    """One pipe of one worker."""

    __slots__ = ("fd", "name", "pid", "rest")

    def __init__(self, fd: int, name: str, pid: int) -> None:
        self.fd: int = fd
        self.name: str = name
        self.pid: int = pid
        self.rest: bytes = b""


def _none_follows() -> None:
    return None


class OutputPump:
    """Forwards workers' output until `finish` says that no more comes.

    Parameters
    ----------
    control : socket
        Receives `(pid, [stdout, stderr])` from the zygote, and stacks of workers that crashed.
    zygote_pidfd : int
        Readable once the zygote has ended.
    zygote_ended : callable
        Returns the new zygote's (control, pidfd), or None. The thread calls it when the zygote has ended.
    """

    def __init__(
        self,
        control: socket.socket,
        zygote_pidfd: int,
        zygote_ended: Callable[[], tuple[socket.socket, int] | None],
    ) -> None:
        self._poller = select.poll()
        self._watched: dict[int, Descriptor] = {}
        self._streams: dict[int, Stream] = {}
        self._last_lines: dict[int, deque[str]] = {}  # by pid, the youngest last
        self._ended = threading.Condition()
        self._control = control
        self._zygote_pidfd = zygote_pidfd
        self._zygote_ended = zygote_ended
        self._patience_s = 0.0
        self._deadline: float | None = None  # set by `finish`
        self._watch(control, zygote_pidfd)
        self._thread = threading.Thread(target=self._run, name="flame-output", daemon=True)
        try:
            self._stop = os.eventfd(0, os.EFD_CLOEXEC)
            self._register(self._stop)
            self._thread.start()
        except RuntimeError as error:
            self._close()
            from flame_fast.scarcity import no_thread

            raise no_thread(error, "to show what the workers print") from error
        except BaseException:
            self._close()
            raise

    def _watch(self, control: socket.socket, pidfd: int) -> None:
        self._control, self._zygote_pidfd = control, pidfd
        self._register(control.fileno())
        self._register(pidfd)

    def _register(self, fd: int) -> None:
        self._watched[fd] = Descriptor(fd)
        self._poller.register(fd, select.POLLIN)

    def _drop(self, fd: int) -> None:
        """Watch a descriptor no more, and close it. Idempotent."""
        if (watched := self._watched.pop(fd, None)) is not None:
            self._poller.unregister(fd)
            watched.close()

    def finish(self, patience_s: float) -> None:
        """Show what is still in the pipes, then close everything. The workers have ended before.

        Parameters
        ----------
        patience_s : float
            Seconds to wait for a pipe that a process holds open which a task left behind.
        """
        self._patience_s = patience_s
        with self._ended, contextlib.suppress(OSError):  # the user has closed it: the thread has noticed
            os.eventfd_write(self._stop, 1)
        if threading.current_thread() is not self._thread:  # it may itself collect an unclosed runner as garbage
            self._thread.join(patience_s + 1.0)
        self._zygote_ended = _none_follows  # breaks a cycle with the engine: its segment goes at once

    def _run(self) -> None:
        while self._deadline is None or (self._streams and time.monotonic() < self._deadline):
            timeout = None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000
            for fd, events in self._poller.poll(timeout):
                if fd not in self._watched:  # dropped since
                    continue
                if events & select.POLLNVAL or not self._watched[fd].is_open():  # the user has closed it
                    self._lose(fd)
                elif fd in self._streams:
                    self._read(self._streams[fd])
                elif fd == self._stop:
                    self._deadline = time.monotonic() + self._patience_s
                    self._drain_control()
                    with self._ended:  # `finish` has written to it
                        self._drop(self._stop)
                elif fd == self._control.fileno():
                    self._accept()
                elif fd == self._zygote_pidfd:
                    self._replace_zygote()
        self._close()

    def _accept(self) -> bool:
        """Receive one worker's pipes; return False when there are none, or the zygote has closed its end."""
        try:
            message, rights, flags, _ = self._control.recvmsg(  # `socket.recv_fds` drops the flags
                CHUNK_BYTES, socket.CMSG_LEN(2 * INT_BYTES), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return False
        if not message:
            self._drop_control()
            return False
        if message.startswith(STACK_MARK):
            _write("stderr", message[len(STACK_MARK) :])
            return True
        if flags & socket.MSG_CTRUNC:
            self._say(f"no descriptors left (ulimit -n): the output of worker {message.decode()} is lost")
        fds = [fd for _, _, data in rights for fd in memoryview(data[: len(data) // INT_BYTES * INT_BYTES]).cast("i")]
        for fd, name in zip(fds, ("stdout", "stderr"), strict=False):
            os.set_blocking(fd, False)
            self._streams[fd] = Stream(fd, name, int(message))
            self._register(fd)
        return True

    def _drain_control(self) -> None:
        while self._accept():
            pass

    def _replace_zygote(self) -> None:
        self._drain_control()
        self._drop(self._zygote_pidfd)
        self._drop_control()
        replacement = self._zygote_ended() if self._deadline is None else None
        if replacement is not None:
            self._watch(*replacement)

    def _drop_control(self) -> None:
        if self._control.fileno() >= 0:
            self._drop(self._control.detach())

    def _read(self, stream: Stream) -> None:
        try:
            data = os.read(stream.fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if stream.rest:
                self._show(stream, stream.rest + b"\n")
            self._forget(stream)
            return
        data = stream.rest + data
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) > LINE_LIMIT:
            end = len(data)
        if end:
            self._show(stream, data[:end])
        stream.rest = data[end:]

    def _show(self, stream: Stream, data: bytes) -> None:
        self._note(stream.pid, data[-MOST_NOTED:])
        _write(stream.name, data)

    def _note(self, pid: int, data: bytes) -> None:
        """Note the last lines of a process, for its post-mortem."""
        lines = self._last_lines.get(pid)
        if lines is None:
            while len(self._last_lines) >= MOST_PROCESSES:
                del self._last_lines[next(iter(self._last_lines))]
            lines = self._last_lines[pid] = deque(maxlen=LAST_LINES)
        lines.extend(data.decode("utf-8", "replace").splitlines()[-LAST_LINES:])

    def last_lines(self, pid: int) -> list[str]:
        """Return the last lines that an ended process printed; wait a moment for what is still in its pipes."""
        with self._ended:
            if threading.current_thread() is not self._thread:
                self._ended.wait_for(lambda: all(one.pid != pid for one in list(self._streams.values())), LINES_PATIENCE_S)
            return list(self._last_lines.get(pid, ()))

    def _say(self, text: str) -> None:
        with contextlib.suppress(Exception):
            print(f"flame_fast: {text}", file=sys.stderr, flush=True)

    def _forget(self, stream: Stream) -> None:
        self._drop(stream.fd)
        with self._ended:
            del self._streams[stream.fd]
            self._ended.notify_all()

    def _lose(self, fd: int) -> None:
        """Go on without a descriptor that the user has closed, and may have opened as a file of his own."""
        if fd in self._streams:
            self._forget(self._streams[fd])
            return
        self._drop(fd)
        if fd == self._stop:  # `finish` cannot tell any more that no output comes
            self._deadline = time.monotonic()

    def _close(self) -> None:
        for stream in list(self._streams.values()):
            if self._watched[stream.fd].is_open():
                self._read(stream)
            if stream.fd in self._streams:
                if stream.rest:
                    self._show(stream, stream.rest + b"\n")
                self._forget(stream)
        self._drop_control()
        for fd in list(self._watched):
            self._drop(fd)
