"""Spawning the zygote by exec, safe in a driver that has threads."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys

from flame_fast.engine import program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: The zygote's descriptors from the driver: the segment, the eventfd, the control socket, a pidfd of the driver.
SEGMENT_FD, DOORBELL_FD, CONTROL_FD, DRIVER_FD = 3, 4, 5, 6

#: What a message of the control socket begins with that carries a stack, a line for the log, or the supervisor's step; the
#: others begin with a pid.
STACK_MARK, DEBUG_MARK, WARNING_MARK, STEP_MARK = b"!", b".", b"?", b">"

#: Exit code of a zygote that found the segment overwritten.
EXIT_DAMAGED = 70

#: The driver duplicates them above this number first, so that moving one to its fixed place overwrites no other.
ABOVE_FIXED = 16

#: The zygote's program. `-P` keeps the current directory out of its imports: a user may have a `random.py` there.
BOOTSTRAP = """\
import sys
try:
    from flame_fast.engine import zygote
except ImportError:
    sys.path.append({path!r})
    from flame_fast.engine import zygote
zygote.main(sys.argv[1])
"""


#: Options of the interpreter that change what a task does, by their names in `sys.flags`.
FLAGS = {
    "optimize": "O",
    "bytes_warning": "b",
    "dont_write_bytecode": "B",
    "no_user_site": "s",
    "ignore_environment": "E",
    "isolated": "I",
}


class Launch:
    """How this process starts its supervisors, as it is now: one that takes another's place is started in the same way.

    Parameters
    ----------
    environment : dict, optional
        Environment variables beside this process's.

    Attributes
    ----------
    command : list of str
        Without the options.
    directory : str
        The current one; empty if it is gone.
    environment : dict

    Raises
    ------
    FlameError
        `INVALID_STATE`: there is no program to start.
    """

    __slots__ = ("command", "directory", "environment")

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        program.check_unmarked()
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self.command: list[str] = program.supervisor_command(_interpreter_flags(), BOOTSTRAP.format(path=root))
        more = {**(environment or {}), program.MARK: str(os.getpid())}
        # As bytes: text would be decoded here, and encoded for each supervisor.
        self.environment: dict[bytes, bytes] = {
            **os.environb,
            **{os.fsencode(name): os.fsencode(value) for name, value in more.items()},
        }
        try:
            self.directory: str = os.getcwd()
        except OSError:
            self.directory = ""


def start_zygote(
    launch: Launch,
    name: str,
    segment: int,
    doorbell: int,
    control: int,
    *,
    recover: bool,
    preload: Sequence[str] = (),
) -> int:
    """Start a zygote; return its pid.

    Parameters
    ----------
    launch : Launch
        How.
    name : str
        The runner's.
    segment, doorbell, control : int
        Descriptors of the segment, the eventfd and the zygote's end of the control socket.
    recover : bool
        Another zygote was there before: this one recovers what its workers left, and goes to their directory.
    preload : sequence of str
        Modules to import before the first fork.
    """
    driver = os.pidfd_open(os.getpid())
    try:
        return _spawn(
            {
                SEGMENT_FD: segment,
                DOORBELL_FD: doorbell,
                CONTROL_FD: control,
                DRIVER_FD: driver,
            },
            {"name": name, "recover": recover, "preload": list(preload), "directory": launch.directory if recover else ""},
            launch,
        )
    finally:
        os.close(driver)


def start_time(pid: int) -> int:
    """Return a process's start, in ticks since boot: with its pid it names the process for ever.

    Raises
    ------
    FileNotFoundError
        The process is gone.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _interpreter_flags() -> list[str]:
    """Return the options of the driver's interpreter that change what a task does."""
    flags = ["-" + letter * getattr(sys.flags, name) for name, letter in FLAGS.items() if getattr(sys.flags, name)]
    flags += [f"-W{option}" for option in sys.warnoptions]
    return flags + [f"-X{key}" if value is True else f"-X{key}={value}" for key, value in sys._xoptions.items()]


def _duplicate(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, ABOVE_FIXED)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error  # the limit lies below the first number


def _spawn(handed: dict[int, int], options: dict[str, Any], launch: Launch) -> int:
    raised: dict[int, int] = {}
    try:
        for target, fd in handed.items():
            raised[target] = _duplicate(fd)
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in raised.items()]
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        silent = (os.POSIX_SPAWN_DUP2, 2, 1)  # the zygote's own messages go to standard error
        return os.posix_spawn(
            launch.command[0],
            [*launch.command, json.dumps(options)],
            launch.environment,
            file_actions=[nothing, silent, *actions],
            setsid=True,
            setsigmask=[],
        )
    finally:
        for fd in raised.values():
            os.close(fd)
