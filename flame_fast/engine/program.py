"""The program that a supervisor is started as: the driver's Python, or the driver's own program if that is frozen.

A frozen program (PyInstaller, Nuitka) is its own interpreter: started with `ARGUMENT` it becomes the supervisor where it
calls `flame_fast.freeze_support()`. A program that embeds Python gets the Python of its installation.

Guarantees: no program starts itself without end. A frozen one that has not called the hook is refused before anything is
started. Whatever is started has `MARK` in its environment until it is the supervisor; where it is set, no Runner starts.
"""

from __future__ import annotations

import os
import sys

from flame_fast.errors import FlameError, FlameErrorCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: The environment variable of a process that was started to become a supervisor, and is none yet: the driver's pid.
MARK = "FLAME_FAST_SUPERVISOR_OF"

#: The first argument of a frozen program that is to become the supervisor; its options follow.
ARGUMENT = "--flame-fast-supervisor"


class _Hook:
    is_called = False


def note_hook() -> None:
    """Note that this program calls `freeze_support`: started once more, it will do so again."""
    _Hook.is_called = True


def forget_mark() -> None:
    """Note that this process is the supervisor now: what it starts is not."""
    os.environ.pop(MARK, None)


def check_unmarked() -> None:
    """Refuse a Runner of a program that was started as a supervisor.

    Raises
    ------
    FlameError
        `INVALID_STATE`: the program runs anew instead of becoming the supervisor.
    """
    if MARK in os.environ:
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            f"process {os.getpid()} was started as the supervisor of process {os.environ[MARK]}, but {sys.executable!r} "
            f"runs its own program anew: {REMEDY}",
        )


def is_frozen() -> bool:
    """Whether this program is its own interpreter."""
    compiled: Any = getattr(sys.modules.get("__main__"), "__compiled__", None)  # Nuitka's
    return bool(getattr(sys, "frozen", False)) or bool(getattr(compiled, "standalone", False))


def supervisor_command(flags: list[str], bootstrap: str) -> list[str]:
    """Return the command that starts a supervisor, without its last argument, the options.

    Parameters
    ----------
    flags : list of str
        The interpreter's options.
    bootstrap : str
        The program for the interpreter.

    Raises
    ------
    FlameError
        `INVALID_STATE`: there is no such program.
    """
    if not is_frozen():
        return [_interpreter(), *flags, "-P", "-c", bootstrap]
    if not _Hook.is_called:
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            f"{sys.executable!r} is a frozen program, which starts itself for its workers: call flame_fast.freeze_support() "
            "as its first statement after `import flame_fast`; Runner(engine='inline') needs no workers",
        )
    own = sys.executable
    return [own if _is_program(own) else os.readlink("/proc/self/exe"), ARGUMENT]


#: What helps a program that embeds Python.
REMEDY = (
    "name a Python of the same version and packages by `multiprocessing.set_executable(path)` before the Runner, or use "
    "Runner(engine='inline')"
)


def _interpreter() -> str:
    for path in _interpreters():
        if _is_program(path):
            return path
    raise FlameError(
        FlameErrorCode.INVALID_STATE,
        f"no Python to start workers with: sys.executable is {sys.executable!r}, and there is no "
        f"{_name()} in {sys.exec_prefix}/bin: {REMEDY}",
    )


def _interpreters() -> Iterator[str]:
    """Yield what may be this process's Python, the likeliest first."""
    own = sys.executable or ""
    if _is_named_python(own):
        yield own
    spawn: Any = sys.modules.get("multiprocessing.spawn")
    chosen = None if spawn is None else spawn.get_executable()
    if chosen and os.fsdecode(chosen) != own:
        yield os.fsdecode(chosen)
    for prefix in (sys.exec_prefix, sys.base_exec_prefix):
        yield os.path.join(prefix, "bin", _name())


def _name() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _is_named_python(path: str) -> bool:
    """Whether a program's name, or that of what it links to, says that it is an interpreter."""
    return "python" in os.path.basename(path).lower() or "python" in os.path.basename(os.path.realpath(path)).lower()


def _is_program(path: str | None) -> bool:
    return bool(path) and os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True)  # type: ignore[arg-type]
