"""One batch of the Monte Carlo estimate of pi, twice: by the compiled kernel, and by the article's NumPy function.

Both are plain functions that know nothing of the Runner: they count how many of `num_samples` random points fall into the
quarter circle.
"""

from flame_fast.kernels import estimate_batch, estimate_batch_numpy

__all__ = ["estimate_batch", "estimate_batch_numpy"]
