"""One batch of the Monte Carlo estimate of pi: a plain NumPy function that knows nothing of the Runner."""

import numpy as np


def estimate_batch(num_samples: int) -> int:
    """Count how many random points of the unit square fall into the quarter circle.

    Parameters
    ----------
    num_samples : int
        How many points to draw, with both coordinates uniform in [0, 1).

    Returns
    -------
    int
        How many of them lie within distance 1 of the origin; four times their share estimates pi.
    """
    x = np.random.random(num_samples)
    y = np.random.random(num_samples)
    return int(np.count_nonzero(x * x + y * y <= 1.0))
