"""The key of the call that runs: independent random draws of each task from one seed.

    from flame_fast.kernels import sampling, task_key

    def simulate(size):
        return sampling.normals(size, seed=task_key())

    with Runner("simulation") as rr:
        samples = rr.service(simulate, seed=7).map([1000] * 50)

A call of a service with a seed carries its number among the service's calls. The worker notes seed and number in a context
variable; nobody makes the key before the task asks for it. So the coroutines that run at once in a worker have a key each.
"""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.kernels.keys import Key
    from flame_fast.kernels.runtime import NumberedCall


#: The call that runs in a context, as the worker notes it; None: none does, or its service has no seed.
running: ContextVar[NumberedCall | None] = ContextVar("flame_fast_call", default=None)


def task_key() -> Key:
    """Return the key of the task that runs: `key(seed, n)` in call n of a service made with `seed`.

    The same one whoever runs the call, and however often: other workers, other numbers of them, retries, chunks of a `map`.
    No two calls of a service have the same one. Within a call it stays the same; for several purposes write
    `key(task_key(), purpose)`.

    Returns
    -------
    Key
        A seed of `sampling` and of `rng`.

    Raises
    ------
    RuntimeError
        No task runs here, or one of a service without a seed.

    Notes
    -----
    It belongs to the context of the call (see `contextvars`): coroutines have it, and threads by `asyncio.to_thread`. Other
    threads that a task starts do not: ask before, and pass it on. Nor does the constructor of a class service, which no call
    of it runs. A task inside another one's wait has its own, or none.

    Examples
    --------
    >>> from flame_fast import Runner
    >>> from flame_fast.kernels import task_key
    >>> from flame_fast.kernels.keys import key
    >>> with Runner("keys", workers=1) as rr:
    ...     keys = list(rr.service(lambda name: task_key(), seed=7).map(["a", "b"]))
    >>> keys == [key(7, 0), key(7, 1)]
    True
    """
    call = running.get()
    if call is None:
        raise RuntimeError(
            "task_key: no call of a service with a seed runs in this context; make the service by rr.service(fn, seed=...), "
            "and pass the key to threads of a task's own"
        )
    found: Key | None = call.key
    if found is None:
        import numpy as np
        from flame_fast.kernels.keys import Key, key

        low, high = call.seed
        found = call.key = key(Key(np.uint64(low), np.uint64(high)), call.number)
    return found


def set_aside() -> NumberedCall | None:
    """Note that another task runs inside this context's; return what `take_up` takes when it is over."""
    call = running.get()
    running.set(None)
    return call


def take_up(call: NumberedCall | None) -> None:
    """Return to a call that was set aside."""
    running.set(call)


__all__ = ["task_key"]
