"""What calls of joblib's `Parallel` do in tests; workers import this module, so it loads next to nothing."""

from __future__ import annotations

import os
import signal
import time


def pid():
    return os.getpid()


def place(array):
    """Return where an array's data is, and whether it may be written to."""
    return array.__array_interface__["data"][0], array.flags.writeable


def write(array, number):
    array[number] = -1.0
    return float(array.sum())


def blas_threads():
    import numpy as np
    import threadpoolctl

    np.ones((2, 2)) @ np.ones((2, 2))
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]


def nap(seconds):
    time.sleep(seconds)
    return seconds


def die():
    os.kill(os.getpid(), signal.SIGKILL)
