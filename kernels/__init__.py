"""The native half of flame_fast: shared memory and tasks (`runtime`), packing (`archive`), Monte Carlo kernels.

    from flame_fast.kernels import estimate_batch  # how many of so many random points lie in the quarter circle
    from flame_fast.kernels import rng  # streams of random numbers for nopython code
    from flame_fast.kernels import sampling  # arrays of random numbers, drawn on all cores
    from flame_fast.kernels import quasi  # scrambled Sobol points and Brownian bridges
    from flame_fast.kernels import variance  # antithetic draws, strata and Latin hypercubes
    from flame_fast.kernels import moments, running  # means, variances and confidence intervals of samples
    from flame_fast.kernels import task_key  # the key of the task that runs

`rng`, `sampling`, `quasi`, `variance` and `running` load Numba when they are imported, `estimate_batch` at its first call.
"""

from __future__ import annotations

from flame_fast._lazy import lazy_names

try:
    from flame_fast.kernels import runtime as runtime
except ImportError as _error:
    raise ImportError(
        "the native part of flame_fast (flame_fast.kernels.runtime) is not built for this Python; "
        "run `pip install .` or, in a clone, `pip install -e .` with a C compiler at hand"
    ) from _error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from flame_fast.kernels.montecarlo import estimate_batch as estimate_batch
    from flame_fast.kernels.montecarlo import estimate_batch_numpy as estimate_batch_numpy
    from flame_fast.kernels.rng import GENERATOR as GENERATOR
    from flame_fast.kernels.task_keys import task_key as task_key

__getattr__: Callable[[str], object]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    globals(),
    {
        "GENERATOR": "rng",
        "estimate_batch": "montecarlo",
        "estimate_batch_numpy": "montecarlo",
        "task_key": "task_keys",
    },
)
