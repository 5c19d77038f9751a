"""Output forwarding: one driver thread copies workers' output to `sys.stdout` and `sys.stderr`, and watches the zygote.

Each new worker sends the read ends of its two pipes. What it, native code in it or a process it starts writes to them comes
out here in whole lines. No call or value passes through this thread. A thread that learns of a call's outcome while there is
something written that nobody has shown does so itself, first (`show`): so what a task has printed is there before its value.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import sys
import threading
import time
from collections import deque

from flame_fast import journal
from flame_fast.engine.capture import LAST_LINES
from flame_fast.engine.descriptors import Descriptor
from flame_fast.engine.log_records import RecordReader, handle, mark_of
from flame_fast.engine.slow_steps import SUPERVISOR, SlowSteps
from flame_fast.engine.spawn import DEBUG_MARK, STACK_MARK, STEP_MARK, WARNING_MARK
from flame_fast.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Bytes of one line kept until its end arrives; a longer line is shown in pieces.
LINE_LIMIT = 1 << 20

#: Bytes of what each process printed that are looked at for the post-mortem of its death; processes.
MOST_NOTED = 1 << 12
MOST_PROCESSES = 4096

#: Seconds that a post-mortem waits for what is left in the pipes.
LINES_PATIENCE_S = 0.2

#: Bytes read at once: as many as a pipe holds, so that one look takes all that was there.
CHUNK_BYTES = 1 << 16

#: Seconds that a thread which learns of an outcome waits for another one that shows output.
SHOW_PATIENCE_S = 1.0

#: Puts the cursor of a terminal at the beginning of its line, and empties that.
ERASE_LINE = "\r\x1b[K"

#: Bytes of a descriptor in a message.
INT_BYTES = 4


def _write(name: str, text: str) -> None:
    """Write a text to a stream of the driver. What that cannot encode is escaped."""
    target = getattr(sys, name)
    with contextlib.suppress(Exception):  # the stream is None, closed or broken
        try:
            target.write(text)
        except UnicodeEncodeError as error:
            encoding = getattr(target, "encoding", None) or error.encoding
            target.write(text.encode(encoding, "backslashreplace").decode(encoding))
        target.flush()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _whole(data: bytes) -> int:
    """Return how many bytes of some UTF-8 there are without the beginning of a letter at the end."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:  # begins a letter of several bytes: of how many, its upper bits say
            return len(data) - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else len(data)
        if byte < 0x80:
            break
    return len(data)


class Stream:
    """One pipe of one worker.

    Attributes
    ----------
    rest : bytes
        What was read of a line whose end has not arrived.
    is_bar : bool
        Whether the last line shown of it is one that the next piece overwrites, as a progress bar is.
    is_cleared : bool
        Whether what was shown ends with a carriage return.
    """

    __slots__ = ("fd", "is_bar", "is_cleared", "name", "pid", "records", "rest")

    def __init__(self, fd: int, name: str, pid: int, mark: bytes) -> None:
        self.fd: int = fd
        self.name: str = name
        self.pid: int = pid
        self.rest: bytes = b""
        self.is_bar: bool = False
        self.is_cleared: bool = False
        self.records: RecordReader = RecordReader(mark)

    def take(self, data: bytes) -> bytes:
        """Add what was read; return what can be shown: whole lines, and each state of a progress bar."""
        data = self.rest + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        is_bar = data[end - 1 : end] == b"\r" if end else self.is_bar
        if is_bar or len(data) - end > LINE_LIMIT:
            end = _whole(data)
        self.rest = data[end:]
        if end:
            self.is_bar, self.is_cleared = is_bar, data[end - 1 : end] == b"\r"
        return data[:end]


def _none_follows() -> None:
    return None


class OutputPump:
    """Forwards workers' output until `finish` says that no more comes.

    Parameters
    ----------
    name : str
        The runner's.
    session : int
        The runner's number, which log records of its tasks have.
    control : socket
        Receives `(pid, [stdout, stderr])` from workers, and from the zygote stacks of workers that crashed and news.
    zygote_pidfd : int
        Readable once the zygote has ended.
    zygote_ended : callable
        Returns the new zygote's (control, pidfd), or None. The thread calls it when the zygote has ended.
    """

    def __init__(
        self,
        name: str,
        session: int,
        control: socket.socket,
        zygote_pidfd: int,
        zygote_ended: Callable[[], tuple[socket.socket, int] | None],
    ) -> None:
        self._name = name
        self._mark = mark_of(session)
        self._poller = select.poll()
        self._watched: dict[int, Descriptor] = {}
        self._streams: dict[int, Stream] = {}
        self._open: dict[str, Stream | None] = {}  # by the driver's stream: whose unfinished line it ends with
        self._glance = select.poll()  # what threads look at that learn of an outcome
        self._turn = threading.Lock()  # reads pipes and writes to the driver's streams
        self._reader = 0  # the thread that has the turn
        self._finishing = False
        self._last_lines: dict[int, deque[str]] = {}  # by pid, the youngest last
        self._steps = SlowSteps()
        self._ended = threading.Condition()
        self._control = control
        self._zygote_pidfd = zygote_pidfd
        self._zygote_ended = zygote_ended
        self._patience_s = 0.0
        self._deadline: float | None = None  # set by `finish`
        self._watch(control, zygote_pidfd)
        self._stop = -1
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
        self._glance.register(control.fileno(), select.POLLIN)
        self._register(pidfd)

    def _register(self, fd: int) -> None:
        self._watched[fd] = Descriptor(fd)
        self._poller.register(fd, select.POLLIN)

    def _drop(self, fd: int) -> None:
        """Watch a descriptor no more, and close it. Idempotent."""
        if (watched := self._watched.pop(fd, None)) is not None:
            self._poller.unregister(fd)
            with contextlib.suppress(KeyError):
                self._glance.unregister(fd)
            watched.close()

    def show(self) -> None:
        """Show what is in the pipes now. From any thread, also one that a stream of the driver calls as it is written to."""
        me = threading.get_ident()
        if self._reader == me or not self._turn.acquire(timeout=SHOW_PATIENCE_S):
            return
        try:
            self._reader = me
            ready = self._glance.poll(0)
            if any(fd == self._control.fileno() for fd, _ in ready):  # a new worker
                self._drain_control()
                self._wake()
                ready = self._glance.poll(0)
            for fd, _ in ready:
                if fd in self._streams and self._watched[fd].is_open():
                    self._read(self._streams[fd])
        finally:
            self._reader = 0
            self._turn.release()

    def _wake(self) -> None:
        """Have the thread look at what it watches anew."""
        with self._ended, contextlib.suppress(OSError):  # the user has closed it: the thread has noticed
            if self._stop in self._watched:
                os.eventfd_write(self._stop, 1)

    def finish(self, patience_s: float) -> None:
        """Show what is still in the pipes, then close everything. The workers have ended before.

        Parameters
        ----------
        patience_s : float
            Seconds to wait for a pipe that a process holds open which a task left behind.
        """
        self._patience_s = patience_s
        self._finishing = True
        self._wake()
        if threading.current_thread() is not self._thread:  # it may itself collect an unclosed runner as garbage
            self._thread.join(patience_s + 1.0)
        self._zygote_ended = _none_follows  # breaks a cycle with the engine: its segment goes at once

    def _run(self) -> None:
        while self._deadline is None or (self._streams and time.monotonic() < self._deadline):
            timeout = self._steps.left() if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            for fd, _ in self._poller.poll(None if timeout is None else timeout * 1000):
                with self._turn:
                    self._reader = threading.get_ident()
                    try:
                        zygote_ended = self._handle(fd)
                    finally:
                        self._reader = 0
                if zygote_ended:
                    self._replace_zygote()
            self._tell_slow_steps()
        with self._turn:
            self._reader = threading.get_ident()
            self._close()
            self._reader = 0

    def _tell_slow_steps(self) -> None:
        for line in self._steps.due():
            journal.debug("runner %r: %s", self._name, line)
            if is_terminal(sys.stderr):
                with self._turn:
                    self._print("stderr", None, f"flame_fast: runner {self._name!r}: {line}\n")

    def _note_step(self, pid: int, text: str) -> None:
        self._steps.note(pid, text)
        if text and threading.current_thread() is not self._thread:
            self._wake()

    def _handle(self, fd: int) -> bool:
        """Do what a descriptor asks for; return whether the zygote has ended."""
        if fd not in self._watched:  # dropped since
            return False
        if not self._watched[fd].is_open():  # the user has closed it
            self._lose(fd)
        elif fd in self._streams:
            self._read(self._streams[fd])
        elif fd == self._stop:
            os.eventfd_read(fd)
            if self._finishing and self._deadline is None:
                self._deadline = time.monotonic() + self._patience_s
                self._drain_control()
                with self._ended:  # `_wake` may just write to it
                    self._drop(fd)
        elif fd == self._control.fileno():
            self._accept()
        elif fd == self._zygote_pidfd:
            self._drain_control()
            self._drop(fd)
            self._drop_control()
            return True
        return False

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
            self._print("stderr", None, _text(message[len(STACK_MARK) :]))
            return True
        if message.startswith(STEP_MARK):
            self._note_step(SUPERVISOR, _text(message[len(STEP_MARK) :]))
            return True
        if message.startswith((DEBUG_MARK, WARNING_MARK)):
            tell = journal.warning if message.startswith(WARNING_MARK) else journal.debug
            tell("runner %r: %s", self._name, _text(message[1:]))
            return True
        journal.debug("runner %r: worker process %s has started", self._name, message.decode())
        if flags & socket.MSG_CTRUNC:
            self._say(f"no descriptors left (ulimit -n): the output of worker {message.decode()} is lost")
        fds = [fd for _, _, data in rights for fd in memoryview(data[: len(data) // INT_BYTES * INT_BYTES]).cast("i")]
        for fd, name in zip(fds, ("stdout", "stderr"), strict=False):
            os.set_blocking(fd, False)
            self._streams[fd] = Stream(fd, name, int(message), self._mark)
            self._register(fd)
            self._glance.register(fd, select.POLLIN)
        return True

    def _drain_control(self) -> None:
        while self._accept():
            pass

    def _replace_zygote(self) -> None:
        replacement = self._zygote_ended() if self._deadline is None else None
        if replacement is not None:
            with self._turn:
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
            self._forget(stream)
            return
        for text, record in stream.records.split(data):
            if whole := stream.take(text):
                self._show(stream, whole)
            if record:
                self._take(stream, pickle.loads(record))

    def _take(self, stream: Stream, record: dict[str, Any] | str) -> None:
        """Hand a record to the driver's loggers; note a step."""
        if isinstance(record, str):
            self._note_step(stream.pid, record)
            return
        if self._open.get("stderr") is not None:
            self._print("stderr", None, "")
        with contextlib.suppress(Exception):  # of a handler or filter
            self._note(stream.pid, handle(record).encode("utf-8", "backslashreplace")[-MOST_NOTED:])

    def _show(self, stream: Stream, data: bytes) -> None:
        self._note(stream.pid, data[-MOST_NOTED:])
        self._print(stream.name, stream, _text(data))

    def _print(self, name: str, stream: Stream | None, text: str) -> None:
        """Write a text of a worker to a stream of the driver. `stream`: None for the supervisor's."""
        before = self._open.get(name)
        if before is not None and before is not stream:  # else it would go on where another one's line has not ended
            text = (ERASE_LINE if before.is_bar and is_terminal(getattr(sys, name)) else "\n") + text
        self._open[name] = None if text.endswith("\n") else stream
        _write(name, text)

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
        """Show what is left of a pipe that has ended, and close it."""
        rest, stream.rest = stream.rest + stream.records.held, b""
        if rest or (self._open.get(stream.name) is stream and not stream.is_cleared):
            self._show(stream, rest + b"\n")
        self._drop(stream.fd)
        self._steps.note(stream.pid, "")
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
                self._forget(stream)
        self._drop_control()
        for fd in list(self._watched):
            self._drop(fd)
