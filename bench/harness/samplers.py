"""What counts random points in a quarter circle: the kernel on threads, through a Runner, by hand in C, and its rivals.

Each is a callable: the number of points inside, of so many. Compiled ones have run once before they are handed out.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numba
import numpy as np
from flame_fast.kernels import estimate_batch, estimate_batch_numpy, rng
from flame_fast.kernels.jit import quarter_circle

from flame_fast import Runner

#: What the kernel by hand takes: whole blocks only.
BLOCK = quarter_circle.BLOCK

CPUS = numba.config.NUMBA_NUM_THREADS


# ---- rivals --------------------------------------------------------------------------------------------------------------


def numpy_sfc64(points):
    """NumPy at its best without any other code: its fastest generator, points of single precision, arrays used again."""
    generator = np.random.Generator(np.random.SFC64())
    piece = min(points, 1 << 16)
    x, y, inside = np.empty(piece, np.float32), np.empty(piece, np.float32), 0
    for start in range(0, points, piece):
        a, b = x[: points - start], y[: points - start]
        generator.random(dtype=np.float32, out=a)
        generator.random(dtype=np.float32, out=b)
        np.multiply(a, a, out=a)
        np.multiply(b, b, out=b)
        np.add(a, b, out=a)
        inside += np.count_nonzero(a <= 1.0)
    return inside


@numba.njit(cache=True)
def numba_serial(points):
    inside = 0
    for _ in range(points):
        x, y = np.random.random(), np.random.random()
        if x * x + y * y <= 1.0:
            inside += 1
    return inside


@numba.njit(cache=True, parallel=True)
def numba_prange(points):
    inside = 0
    for _ in numba.prange(points):
        x, y = np.random.random(), np.random.random()
        if x * x + y * y <= 1.0:
            inside += 1
    return inside


# ---- by hand -------------------------------------------------------------------------------------------------------------


def by_hand(folder):
    """Build the kernel in C with intrinsics: it counts like `estimate_batch(points, seed)`, on one thread.

    Returns None where there is no compiler, or neither AVX-512 nor AVX2.
    """
    library = Path(folder, "quarter_circle.so")
    source = Path(__file__).parents[1] / "reference" / "quarter_circle.c"
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    count = ctypes.CDLL(str(library)).count_alone
    count.restype = ctypes.c_int64
    count.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int64]

    def counted(points, seed):
        assert points % BLOCK == 0
        return count(*map(int, rng.key(seed)), 0, points // BLOCK)

    return counted


# ---- ours ----------------------------------------------------------------------------------------------------------------


@contextmanager
def threads(number):
    """Numba's threads in this process."""
    before = numba.get_num_threads()
    numba.set_num_threads(number)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def on_threads(number):
    def counted(points):
        with threads(number):
            return estimate_batch(points)

    return counted


def through(runner, batches):
    """As many equal batches, each a call in one of the runner's workers, which have been used before."""
    estimator = runner.service(estimate_batch, warmup=batches)
    runner.get([estimator(BLOCK * 16) for _ in range(4 * batches)])

    def counted(points):
        share, rest = divmod(points, batches)
        return sum(runner.get([estimator(share + (number < rest)) for number in range(batches)]))

    return counted


@contextmanager
def samplers():
    """All of them by name, the baseline first, ours last."""
    with ExitStack() as stack:
        found = {
            "NumPy, as in the article": estimate_batch_numpy,
            "NumPy, SFC64, in pieces": numpy_sfc64,
            "Numba, np.random": numba_serial,
            "Numba, np.random, prange": numba_prange,
            "estimate_batch, 1 thread": on_threads(1),
            "estimate_batch, all threads": on_threads(CPUS),
        }
        for workers in (1, 2):
            runner = stack.enter_context(Runner(f"bench-{workers}", workers=workers))
            found[f"estimate_batch, {workers} worker{'s' * (workers > 1)}"] = through(runner, workers)
        for count in found.values():
            count(1000)
        yield found


# ---- separate processes --------------------------------------------------------------------------------------------------

PROGRAM = """\
import sys, numba
from flame_fast.kernels import estimate_batch
numba.set_num_threads(1)
estimate_batch(1000)
for line in sys.stdin:
    print(estimate_batch(int(line)), flush=True)
"""


@contextmanager
def separate_processes(number):
    """`count(points)`: shared out to as many processes of one thread each, which know nothing of each other."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes)) for _ in range(number)]

        def counted(points):
            for process in processes:
                process.stdin.write(f"{points // number}\n")
                process.stdin.flush()
            return sum(int(process.stdout.readline()) for process in processes)

        counted(1000 * number)
        yield counted
        for process in processes:
            process.stdin.close()
