"""joblib's `Parallel`, and with it scikit-learn's `n_jobs`, on a Runner's workers."""

from __future__ import annotations


def register() -> None:
    """Make the backend known to joblib: `joblib.parallel_config("flame_fast", n_jobs=...)` selects it then.

    Idempotent.

    Notes
    -----
    Arrays of at least `max_nbytes` bytes (of `Parallel`; by default 1 MB) that are arguments of calls are stored once for
    each `Parallel`, whichever calls have them, as they are then. Each call gets them without a copy: as its own, a page of
    which is copied when it is first written to (joblib's memory maps refuse writes). `max_nbytes=None`: each call brings its
    own. An array inside of another argument, as a list or a data frame, is brought by each call, too. A memory map of the
    user's arrives as a map of the same file. `mmap_mode`, `temp_folder` and `idle_worker_timeout` have no effect: nothing
    is written to disk, and workers stay until a `Parallel` asks for others, or the program ends.

    `initializer` and `initargs` are those of `Runner`; workers are shared by `Parallel`s that have the same ones. In a
    task, the workers are the outer ones, with their initializer.

    A worker that dies fails the `Parallel` with a `WorkerDiedError`; the next one finds a new worker. An abort ends running
    calls by force.

    Examples
    --------
    >>> import flame_fast.joblib
    >>> from joblib import Parallel, delayed, parallel_config
    >>> flame_fast.joblib.register()
    >>> with parallel_config("flame_fast", n_jobs=2):
    ...     Parallel()(delayed(abs)(number) for number in (-1, 2, -3))
    [1, 2, 3]
    """
    import flame_fast.faces._joblib  # noqa: F401  # registers it
