"""Starting the zygote by exec, from a driver that may have threads."""

from __future__ import annotations

import fcntl
import json
import os
import sys

#: Where the zygote finds what the driver hands down: the segment, the eventfd, the control socket, a pidfd of the driver.
SEGMENT_FD, DOORBELL_FD, CONTROL_FD, DRIVER_FD = 3, 4, 5, 6

#: Where the handed-down descriptors lie before they are put into their fixed places, so that none overwrites another.
ABOVE_FIXED = 16

#: `-P` keeps the current directory, where a user's `random.py` may lie, out of the zygote's own imports.
BOOTSTRAP = """\
import sys
try:
    from flame_fast.engine import zygote
except ImportError:
    sys.path.append({path!r})
    from flame_fast.engine import zygote
zygote.main(sys.argv[1])
"""


def start_zygote(name: str, segment: int, doorbell: int, control: int, *, recover: bool) -> int:
    """Starts a zygote; returns its pid.

    Parameters
    ----------
    name : str
        The runner's.
    segment, doorbell, control : int
        Descriptors of the segment, the eventfd and the zygote's end of the control socket.
    recover : bool
        There was another one before; its workers are to be recovered.
    """
    driver = os.pidfd_open(os.getpid())
    try:
        return _spawn(
            name,
            {
                SEGMENT_FD: segment,
                DOORBELL_FD: doorbell,
                CONTROL_FD: control,
                DRIVER_FD: driver,
            },
            recover,
        )
    finally:
        os.close(driver)


def start_time(pid: int) -> int:
    """When a process started, in ticks since the system did: its number and this are its own. FileNotFoundError: gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _interpreter_flags() -> list[str]:
    """The options of the driver's interpreter that change what a task does: -O, -W, -X, -s."""
    flags = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    flags += [f"-W{option}" for option in sys.warnoptions]
    flags += [f"-X{key}" if value is True else f"-X{key}={value}" for key, value in sys._xoptions.items()]
    return flags + (["-s"] if sys.flags.no_user_site else [])


def _spawn(name: str, handed: dict[int, int], recover: bool) -> int:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    argument = json.dumps({"name": name, "recover": recover})
    command = [sys.executable, *_interpreter_flags(), "-P", "-c", BOOTSTRAP.format(path=root), argument]
    raised = {target: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, ABOVE_FIXED) for target, fd in handed.items()}
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in raised.items()]
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        silent = (os.POSIX_SPAWN_DUP2, 2, 1)  # what the zygote itself has to say is for standard error
        return os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[nothing, silent, *actions],
            setsid=True,
            setsigmask=[],
        )
    finally:
        for fd in raised.values():
            os.close(fd)
