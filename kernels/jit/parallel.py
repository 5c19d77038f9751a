"""Threads of kernels: how many there may be, and runs over blocks that they share, in pieces short enough for Ctrl-C.

The caller's thread and its helpers take the next block of a run until there is none; what they compute depends on the
block's number alone. A run ends as soon as the blocks do: it waits for the helpers that compute one, but for no helper that
has not woken yet. (Rejected: Numba's own threads. A parallel loop ends with the last of them to wake, and one that the
operating system puts behind the caller, who waits for it, on the same CPU takes 4 ms to move: ten times as long as a million
uniform numbers. They also do not survive a fork, and a parallel loop takes four times as long to compile.)

Helpers are Python threads that wait for runs, started when a run first has work for them; a forked child starts its own.
They run compiled code, without the GIL. Numba's threads are for users' own parallel loops: this module asks for the number
that they may use, and does not start them.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import time
from queue import SimpleQueue

from numba.np.ufunc import parallel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Blocks of the first piece of a run, and the seconds that a piece should take. A signal's handler runs between two pieces.
FIRST_BLOCKS = 16
PIECE_S = 0.02

#: Blocks for each thread below which waking the other threads costs more than they save.
FEW_BLOCKS = 4

#: A helper takes blocks until there are none.
ALL = (1 << 63) - 1

#: Pauses of a thread that waits for helpers at their last block: it yields its CPU so often, then sleeps.
YIELDS = 50
PAUSE_S = 50e-6


# ---- limits --------------------------------------------------------------------------------------------------------------


class _Limit:
    """How many threads a service's kernels may use in this process."""

    def __init__(self) -> None:
        self.threads: int | None = None
        self.launched: Callable[[], object] = lambda: None


_limit = _Limit()


def limit_threads(limit: int, launched: Callable[[], object]) -> None:
    """Limit all parallel kernels of this thread, the user's too, to `limit` threads from now on.

    Has the effect of `numba.set_num_threads`, but does not start Numba's threads before some kernel needs them. Calls
    `launched` when they have started.
    """
    _limit.threads = min(limit, parallel.NUM_THREADS)
    _limit.launched = launched
    if parallel._is_initialized:
        parallel.set_num_threads(_limit.threads)
    elif parallel._launch_threads is not _launch_limited:
        parallel._launch_threads = _launch_limited


_launch = parallel._launch_threads


def _launch_limited() -> None:
    started = not parallel._is_initialized
    _launch()
    if started and _limit.threads is not None:
        parallel._set_num_threads(_limit.threads)
        _limit.launched()


def thread_count() -> int:
    """Return the number of threads that a kernel called now by this thread uses: `numba.get_num_threads()`."""
    if parallel._is_initialized:
        return int(parallel.get_num_threads())
    return parallel.NUM_THREADS if _limit.threads is None else _limit.threads


# ---- runs ----------------------------------------------------------------------------------------------------------------


class Turns:
    """The numbers of blocks, `first` to below `last`, which threads take in turn; nopython code by `simd.take_turn`."""

    def __init__(self, last: int, first: int = 0) -> None:
        self._next_and_end: ctypes.Array[ctypes.c_int64] = (ctypes.c_int64 * 2)(first, last)
        self.address: int = ctypes.addressof(self._next_and_end)

    @property
    def left(self) -> bool:
        """Whether there are blocks that nobody has taken."""
        return self._next_and_end[0] < self._next_and_end[1]

    def end(self) -> None:
        """Let nobody take another block."""
        self._next_and_end[0] = self._next_and_end[1]


class _Run:
    """A kernel's run, shared with helpers."""

    def __init__(self, kernel: Callable[[int, int], int], blocks: int) -> None:
        self.kernel: Callable[[int, int], int] | None = kernel
        self.turns = Turns(blocks)
        self.entered: list[bool] = []
        self.results: list[int] = []
        self.error: BaseException | None = None

    def help(self) -> None:
        """In a helper: compute blocks until there are none."""
        kernel = self.kernel
        if kernel is None:  # it has ended before this thread woke
            return
        self.entered.append(True)  # before it takes a block: who finds none left then knows of all that compute one
        result = 0
        try:
            result = kernel(self.turns.address, ALL)
        except BaseException as error:
            self.error = error
        self.results.append(result)

    def compute(self) -> int:
        """In the caller's thread: compute blocks in pieces until there are none, and return their results' sum."""
        result, piece, kernel, turns = 0, FIRST_BLOCKS, self.kernel, self.turns
        assert kernel is not None
        try:
            while turns.left:
                start = time.perf_counter()
                result += kernel(turns.address, piece)
                seconds = time.perf_counter() - start
                piece = max(1, min(4 * piece, int(piece * PIECE_S / max(seconds, 1e-6))))
        finally:
            turns.end()
            self._await_helpers()
        if self.error is not None:
            raise self.error
        return result + sum(self.results)

    def _await_helpers(self) -> None:
        self.kernel = None  # what it refers to is the caller's again, not a sleeping helper's
        pauses = 0
        while len(self.results) < len(self.entered):
            time.sleep(0 if pauses < YIELDS else PAUSE_S)
            pauses += 1


def run_blocks(blocks: int, kernel: Callable[[int, int], int], few: float = FEW_BLOCKS) -> int:
    """Return the sum of a kernel's results over the blocks 0 to below `blocks`.

    Parameters
    ----------
    blocks : int
        How many there are.
    kernel : callable
        `kernel(turns, most)` takes turns, `most` at most, and computes a block at each; nopython code without the GIL.
    few : float
        Blocks for each thread below which this thread computes them alone.
    """
    run = _Run(kernel, blocks)
    wanted = min(thread_count(), int(blocks / few)) - 1
    helpers = []
    if wanted > 0:
        kernel(run.turns.address, 0)  # this thread compiles or loads it: Ctrl-C ends that, and would not end a helper's
        helpers = _helpers.take(wanted)
    try:
        for helper in helpers:
            helper.put(run)
        return run.compute()
    finally:
        run.turns.end()  # a signal's handler may have raised before there was anything to compute
        _helpers.give_back(helpers)


class _Helpers:
    """The helping threads of this process: each waits at a queue of its own."""

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[_Run]] = []
        self._started = 0

    def take(self, wanted: int) -> list[SimpleQueue[_Run]]:
        """Return the queues of so many idle helpers: of fewer, where several threads share one process's limit."""
        taken: list[SimpleQueue[_Run]] = []
        while len(taken) < wanted:
            try:
                taken.append(self._idle.pop())
            except IndexError:
                if self._started >= parallel.NUM_THREADS - 1:
                    break
                self._started += 1
                taken.append(SimpleQueue())
                _thread.start_new_thread(_help, (taken[-1],))
        return taken

    def give_back(self, helpers: list[SimpleQueue[_Run]]) -> None:
        """Let other runs have them."""
        self._idle += helpers


def _help(runs: SimpleQueue[_Run]) -> None:
    while True:
        runs.get().help()


_helpers = _Helpers()
os.register_at_fork(after_in_child=_helpers.__init__)  # type: ignore[misc]
