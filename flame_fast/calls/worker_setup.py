"""Set-up of workers: what a Runner's arguments, and the environment, say of the processes that run its tasks."""

from __future__ import annotations

import os
from functools import partial

from flame_fast._records import record
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels.runtime import serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


#: The environment variable of OpenMP for the threads of a process, of nested regions after commas.
THREADS = "OMP_NUM_THREADS"


@record
class WorkerSetup:
    """What workers do before their first task, checked.

    Parameters
    ----------
    initializer : bytes, optional
        The pickled function to call, without arguments.
    environment : dict, optional
    preload : sequence of str
    max_tasks : int
        0: any number.
    """

    initializer: bytes | None
    environment: dict[str, str] | None
    preload: Sequence[str]
    max_tasks: int

    def plan(self) -> dict[str, Any]:
        """Return what a worker reads of it."""
        return {"initializer": self.initializer, "max_tasks": self.max_tasks}

    def threads(self) -> int | None:
        """Return the threads that libraries use in a call by the environment given; None: it says nothing of them."""
        outermost = (self.environment or {}).get(THREADS, "").partition(",")[0].strip()
        return int(outermost) if outermost.isdecimal() and int(outermost) else None


def check_setup(
    initializer: Callable[..., object] | None,
    initargs: Sequence[Any],
    env: dict[str, str] | None,
    preload: Sequence[str],
    max_tasks: int | None,
) -> WorkerSetup:
    """Return a set-up of a Runner's arguments.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`, or
    TypeError
        the initializer or its arguments cannot be pickled.
    """
    if initializer is not None and not callable(initializer):
        raise _invalid(f"initializer: expected a callable, got {initializer!r}")
    if max_tasks is not None and (isinstance(max_tasks, bool) or not isinstance(max_tasks, int) or max_tasks < 1):
        raise _invalid(f"max_tasks_per_worker: expected an integer of at least 1, or None, got {max_tasks!r}")
    if isinstance(preload, str) or not all(isinstance(name, str) for name in preload):
        raise _invalid(f"preload: expected a sequence of module names, got {preload!r}")
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or "=" in name or not name or "\0" in name + value:
            raise _invalid(f"env: expected names and values as text, got {name!r}: {value!r}")
    return WorkerSetup(
        initializer=None if initializer is None else _pickled(initializer, tuple(initargs)),
        environment=dict(env) if env else None,
        preload=tuple(preload),
        max_tasks=max_tasks or 0,
    )


def check_excludes(excludes: Sequence[str]) -> None:
    """Check the rules that a Runner is given.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`.
    """
    if isinstance(excludes, str) or not all(isinstance(rule, str) for rule in excludes):
        raise _invalid(f"excludes: expected a sequence of rules, as ['data/', '*.csv'], got {excludes!r}")


def _pickled(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bytes:
    try:
        body, _, _ = serialization.dump_service(partial(initializer, *initargs) if initargs else initializer)
    except FlameError:
        raise
    except Exception as error:
        raise TypeError(
            f"the initializer {initializer!r} or its arguments cannot be pickled and sent to a worker: {error}"
        ) from error
    return body


def by_environment(name: str, given: Any) -> Any:
    """Return an argument that was given, else that of the environment variable, else None."""
    return given if given is not None else os.environ.get(f"FLAME_FAST_{name}") or None


def workers_by_environment(given: int | None) -> int | None:
    """Return the number of workers that was given, else `$FLAME_FAST_WORKERS`, else None."""
    text = os.environ.get("FLAME_FAST_WORKERS")
    if given is not None or not text:
        return given
    try:
        return int(text)
    except ValueError:
        raise _invalid(f"$FLAME_FAST_WORKERS: expected an integer of at least 1, got {text!r}") from None


def _invalid(message: str) -> FlameError:
    return FlameError(FlameErrorCode.INVALID_ARGUMENT, message)
