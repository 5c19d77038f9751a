"""Tools of the tests of deaths, endings and processes: events by fifo, looks at /proc, drivers as scripts, tasks.

Imports nothing heavy: workers import this module for the tasks at its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

from applications import BUILT_IN

#: Seconds for anything that has no promise of its own: a hang becomes a failure.
PATIENCE_S = 30.0


class Fifo:
    """An event between processes: a named pipe that this process holds open at both ends, so no `open` blocks."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""

    def __fspath__(self) -> str:
        return self.path

    def read_line(self, timeout: float = PATIENCE_S) -> str:
        """Return the next line written; fail when none comes in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self._fd], [], [], left)[0], f"nothing was written to {self.path}"
            self._rest += os.read(self._fd, 65536)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def read_pids(self, count: int) -> list[int]:
        return [int(self.read_line()) for _ in range(count)]

    def open_gate(self, count: int = 1) -> None:
        """Let `count` tasks through that wait here, now or later."""
        os.write(self._fd, b"." * count)

    def close(self) -> None:
        os.close(self._fd)
        os.unlink(self.path)


def fifos(directory: Path):
    """Yield, for a fixture, a function that makes a `Fifo` by its name; close all at the end."""
    made: list[Fifo] = []

    def make(name: str) -> Fifo:
        made.append(Fifo(directory / name))
        return made[-1]

    yield make
    for fifo in made:
        fifo.close()


# ---- processes -------------------------------------------------------------------------------------------------------


def wait_until(look, timeout: float = PATIENCE_S, what: str = "") -> None:
    """Poll a condition that gives no event, until it holds."""
    deadline = time.monotonic() + timeout
    while not look():
        assert time.monotonic() < deadline, f"not so after {timeout} s: {what or look}"
        time.sleep(0.005)


def children(parent: int) -> list[int]:
    """Return the living children, whichever thread started them."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(") ")[2].split()
                if int(fields[1]) == parent and fields[0] not in "ZX":
                    found.append(int(entry))
    return found


def zygotes(driver: int | None = None) -> list[int]:
    """Return the supervisors (zygotes) of a driver's runners; default this process's."""
    found = []
    for pid in children(driver or os.getpid()):
        with contextlib.suppress(OSError):
            if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def workers(driver: int | None = None) -> list[int]:
    """Return the worker processes of a driver's runners; default this process's."""
    return [pid for zygote in zygotes(driver) for pid in children(zygote)]


def open_pidfds(pids: list[int]) -> dict[int, int]:
    found = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found[pid] = os.pidfd_open(pid)
    return found


def still_alive(pidfds: dict[int, int], timeout: float) -> list[int]:
    """Wait for processes to end and close their descriptors; return those that have not ended in time."""
    deadline = time.monotonic() + timeout
    try:
        return [
            pid for pid, fd in pidfds.items() if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]
        ]
    finally:
        for fd in pidfds.values():
            os.close(fd)


def wait_asleep(thread: threading.Thread) -> None:
    """Wait until a thread sleeps in the kernel: in the wait it was about to enter."""
    stat = Path(f"/proc/self/task/{thread.native_id}/stat")
    wait_until(lambda: stat.read_text().rpartition(") ")[2][0] == "S", what=f"{thread} asleep")


# ---- leftovers of a runner -------------------------------------------------------------------------------------------


def leavings(home: Path) -> list[str]:
    """Return what is left of runners in a data directory: packages, locks, temporary files, registry rows."""
    found = [
        str(path)
        for directory in ("packages", "storage", "owners", "tmp")
        for path in (home / directory).rglob("*")
        if not path.is_dir()
    ]
    if (home / "registry.db").exists():
        import sqlite3

        connection = sqlite3.connect(home / "registry.db", timeout=30)
        with contextlib.closing(connection):
            if connection.execute("SELECT name FROM sqlite_master").fetchone() is None:
                return found  # its lock was refused: it has been made, and no table in it
            names = [name for (name,) in connection.execute("SELECT name FROM applications")]
            found += [f"application {name}" for name in names if name not in BUILT_IN]
            found += [f"owner {row[0]}" for row in connection.execute("SELECT token FROM owners")]
    return found


# ---- drivers as scripts ----------------------------------------------------------------------------------------------

#: Beginning of every driver script.
PREAMBLE = f"""\
import os, signal, sys, threading, time
sys.path.append({str(Path(__file__).parent)!r})
from process_events import *
from flame_fast import FlameError, Runner
"""


class Driver(subprocess.Popen):
    """A script that uses Runners, in a process group of its own; its output as text in `finish`.

    Parameters
    ----------
    script : str
        Source, after `PREAMBLE`; written to a file outside the project unless `arguments` say how to run it.
    where : Path
        Directory for the script's file.
    arguments : tuple
        The script's `sys.argv[1:]`.
    """

    def __init__(self, script: str, where: Path, *arguments: object, python: tuple[str, ...] = ()) -> None:
        path = where / f"driver{len(list(where.glob('driver*.py')))}.py"
        path.write_text(PREAMBLE + textwrap.dedent(script))
        super().__init__(
            [sys.executable, *python, str(path), *(os.fspath(a) if hasattr(a, "__fspath__") else str(a) for a in arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """Wait for its end and that of all processes that hold its pipes; return what it wrote."""
        try:
            return self.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.communicate()
            raise AssertionError(f"the driver hangs; it has written {out!r} and {err!r}") from None


def run_driver(script: str, where: Path, *arguments: object) -> str:
    """Run a driver that must succeed silently; return its standard output."""
    driver = Driver(script, where, *arguments)
    out, err = driver.finish()
    assert (driver.returncode, err) == (0, ""), (driver.returncode, out, err)
    return out


# ---- tasks -----------------------------------------------------------------------------------------------------------


def tell(fifo: str, text: object) -> None:
    with open(fifo, "w") as stream:
        stream.write(f"{text}\n")


def pass_gate(fifo: str) -> None:
    fd = os.open(fifo, os.O_RDONLY)
    try:
        assert os.read(fd, 1)
    finally:
        os.close(fd)


def hold(said: str, gate: str, value: object = None) -> object:
    """Tell its pid, then wait at the gate."""
    tell(said, os.getpid())
    pass_gate(gate)
    return value


def die(way: str) -> None:
    if way == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "SIGSEGV":
        ctypes.string_at(0)
    elif way == "SIGABRT":
        os.abort()
    os._exit(int(way.removeprefix("exit ")))


def double(value: int) -> int:
    return 2 * value


def pid_of_worker(_: object = None) -> int:
    return os.getpid()


def nest(depth: int, own_name: bool) -> list[int]:
    """Return the pids of a chain of tasks, each waiting for the next."""
    from flame_fast import Runner

    if depth == 0:
        return [os.getpid()]
    with Runner("deep" if own_name else f"level-{depth}") as rr:
        return [os.getpid(), *rr.service(nest)(depth - 1, own_name).get()]


def wide(depth: int) -> int:
    """Return the number of leaves of a tree of tasks, three to each."""
    from flame_fast import Runner

    if depth == 0:
        return 1
    with Runner("wide") as rr:
        service = rr.service(wide)
        return sum(rr.get([service(depth - 1) for _ in range(3)]))


def count_down(service, depth: int) -> int:
    return 0 if depth == 0 else 1 + service(service, depth - 1).get()


class Bomb:
    """An object that pickles well; unpickling it kills the process."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self):
        return (die, (self.way,))


class Victim:
    """A class or instance whose methods die on request."""

    def __init__(self) -> None:
        self.total = 0

    def die(self, way: str) -> None:
        die(way)

    def take(self, bomb: object) -> object:
        return bomb

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    def hold(self, said: str, gate: str, value: object = None) -> object:
        return hold(said, gate, value)

    def pid(self) -> int:
        return os.getpid()
