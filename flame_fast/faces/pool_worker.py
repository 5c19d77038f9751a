"""What a worker of a `Pool` is to `multiprocessing`: a process with a number, as its own workers are."""

from __future__ import annotations

from flame_fast.engine import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Entries of the process table before those of workers: the driver's and the supervisor's.
OTHERS = 2


def begin(initializer: Callable[..., object] | None, *initargs: Any) -> None:
    """Begin a worker: `multiprocessing.current_process()` has the name and the identity of a pool's worker.

    Programs choose a device or a line for a progress bar by `current_process()._identity`.
    """
    runtime = current.serving_engine().runtime  # type: ignore[union-attr]
    if not runtime.inline:  # else this is the driver
        from multiprocessing import process

        me: Any = process.current_process()
        number = runtime.index - OTHERS + 1
        me._name, me._identity = f"FlamePoolWorker-{number}", (number,)
    if initializer is not None:
        initializer(*initargs)
