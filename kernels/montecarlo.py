"""Monte Carlo estimates: plain functions around compiled kernels, which the first call loads."""

from __future__ import annotations

from flame_fast.kernels.jit.arguments import whole_number

#: Samples that one call can count, and the error's word for them.
MOST_SAMPLES = 1 << 62, "2**62"


def estimate_batch(num_samples: int, seed: int | None = None) -> int:
    """Count how many random points of a square fall into its quarter circle.

    Four times their share estimates pi.

    Parameters
    ----------
    num_samples : int
        Points to draw, from 0 to 2**62.
    seed : int, optional
        From 0 to below 2**128. The count depends on `num_samples` and on it alone, not on the number of threads, workers or
        lanes. None: drawn from the operating system, so that no two calls draw the same points.

    Returns
    -------
    int
        The points with x**2 + y**2 <= 1, each decided exactly, with coordinates of 32 bits.

    Raises
    ------
    TypeError
        No integer.
    ValueError
        Out of range.

    Notes
    -----
    Uses as many threads as `numba.get_num_threads()` says: in a worker of a Runner, those that its service's `resreq` gives.
    Safe from several threads, and in forked children. Ctrl-C ends it within a tenth of a second. Its first call on a machine
    compiles for some seconds; the result is cached. See `flame_fast.kernels.GENERATOR` and `quarter_circle` for
    the method.
    """
    points = whole_number("num_samples", num_samples, MOST_SAMPLES)
    from flame_fast.kernels.jit.quarter_circle import count_inside

    return count_inside(points, seed)


def estimate_batch_numpy(num_samples: int) -> int:
    """Estimate as `estimate_batch` does, by the NumPy function of the Flame article: the kernel's baseline.

    NumPy's global generator draws the points. Each takes 17 bytes of memory, and all of them one thread.
    """
    import numpy as np

    num_samples = whole_number("num_samples", num_samples, MOST_SAMPLES)
    x = np.random.rand(num_samples)
    y = np.random.rand(num_samples)
    inside_circle = np.sum(x*x + y*y <= 1.0)  # fmt: skip
    return int(inside_circle)
