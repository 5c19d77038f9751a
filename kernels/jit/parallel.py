"""Thread limits of kernels, and runs of kernels over blocks in pieces short enough for Ctrl-C.

Numba starts its threads when a process loads the first parallel kernel, or merely asks how many there are. A process that
uses one thread needs none of that, and can then fork safely. (After GNU OpenMP has started, Numba ends a forked child that
runs a parallel kernel.) So this module asks Numba only once its threads have started.
"""

from __future__ import annotations

import os
import threading
import time

from numba.np.ufunc import parallel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Blocks for each thread in the first piece of a run, and the seconds that a piece should take. A signal's handler runs
#: between two pieces.
FIRST_BLOCKS = 16
PIECE_S = 0.05

#: Blocks for each thread below which calling the other threads costs more than they save.
FEW_BLOCKS = 4


class _Threads:
    """State of Numba's threads in this process."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.launched: Callable[[], object] = lambda: None
        self.launching = threading.Lock()  # the workqueue layer aborts the process if two threads launch kernels at once
        self.lost = False  # a forked child: the parent's threads are not here

    def after_fork(self) -> None:
        self.launching = threading.Lock()
        self.lost = self.lost or parallel._is_initialized


_threads = _Threads()
os.register_at_fork(after_in_child=_threads.after_fork)


def limit_threads(limit: int, launched: Callable[[], object]) -> None:
    """Limit all parallel kernels of this thread, the user's too, to `limit` threads from now on.

    Has the effect of `numba.set_num_threads`, but does not start Numba's threads before some kernel needs them. Calls
    `launched` when they have started.
    """
    _threads.limit = min(limit, parallel.NUM_THREADS)
    _threads.launched = launched
    if parallel._is_initialized:
        parallel.set_num_threads(_threads.limit)
    elif parallel._launch_threads is not _launch_limited:
        parallel._launch_threads = _launch_limited


_launch = parallel._launch_threads


def _launch_limited() -> None:
    started = not parallel._is_initialized
    _launch()
    if started and _threads.limit is not None:
        parallel._set_num_threads(_threads.limit)
        _threads.launched()


def thread_count() -> int:
    """Return the number of threads that a kernel called now by this thread uses.

    It is `numba.get_num_threads()`; 1 in a forked child of a process whose threads had started.
    """
    if _threads.lost:
        return 1
    if parallel._is_initialized:
        return int(parallel.get_num_threads())
    return parallel.NUM_THREADS if _threads.limit is None else _threads.limit


def run_blocks(
    blocks: int, alone: Callable[[int, int], int], together: Callable[[int, int, int], int], few: float = FEW_BLOCKS
) -> int:
    """Return the sum of a kernel's results over the blocks 0 to below `blocks`.

    Parameters
    ----------
    blocks : int
        How many there are.
    alone : callable
        `alone(first, last)` computes the blocks from `first` to below `last` in this thread.
    together : callable
        `together(first, last, threads)` computes them in as many of Numba's threads.
    few : float
        Blocks for each thread below which this thread computes them.
    """
    threads = thread_count()
    first = result = 0
    piece = FIRST_BLOCKS * threads
    while first < blocks:
        last = min(first + piece, blocks)
        start = time.perf_counter()
        if threads == 1 or last - first < few * threads:
            result += alone(first, last)
        else:
            with _threads.launching:
                result += together(first, last, threads)
        seconds = time.perf_counter() - start
        piece = max(threads, min(4 * piece, int((last - first) * PIECE_S / max(seconds, 1e-6))))
        first = last
    return result
