"""Running moments of samples that come one by one: for nopython code, and from Python alike.

    from flame_fast.kernels import running
    from flame_fast.kernels.moments import Moments

    @njit
    def of_squares(n):
        moments = running.started()
        for i in range(n):
            moments = running.added(moments, i * i)
        return moments

    moments = Moments.of_running(of_squares(1000))

They are tuples, so that nopython code keeps them in registers. The mean and the sum of squares of deviations follow each
sample [1]_; two runs merge as blocks do [2]_.

References
----------
.. [1] B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4(3), 1962.
.. [2] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The American Statistician
   37(3), 1983.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from flame_fast.kernels.jit.cache import inlined
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Running", "added", "merged", "started"]


class Running(NamedTuple):
    """Moments of the samples so far: their number, mean, sum of squares of deviations, and extremes (NaN of none)."""

    count: int  # type: ignore[assignment]
    mean: float
    products: float
    minimum: float
    maximum: float


def started() -> Running:
    """Return the running moments of no sample."""
    return Running(0, np.nan, 0.0, np.nan, np.nan)


def added(running: Running, sample: float) -> Running:
    """Return the running moments of one more sample.

    Parameters
    ----------
    running : Running
        As of `started` or of this function.
    sample : float

    Raises
    ------
    TypeError
        No running moments, or no number.

    Examples
    --------
    >>> from flame_fast.kernels.running import added, started
    >>> added(added(started(), 1.0), 2.0)
    Running(count=2, mean=1.5, products=0.5, minimum=1.0, maximum=2.0)
    """
    try:
        return Running(*_python_values(_add(_checked("running", running), float(sample))))
    except (TypeError, ValueError) as error:
        if str(error).startswith("running: "):
            raise
        raise TypeError(f"sample: expected a number, got {sample!r}") from None


def merged(running: Running, other: Running) -> Running:
    """Return the running moments of the samples of both."""
    return Running(*_python_values(_merge(_checked("running", running), _checked("other", other))))


def _checked(name: str, running: Running) -> Running:
    if not isinstance(running, Running):
        raise TypeError(f"{name}: expected running moments, got {running!r}")
    return running


def _python_values(values: Any) -> Any:
    return int(values[0]), *map(float, values[1:])


@inlined
def _add(running, sample):
    count, mean, products, low, high = running
    if count == 0:
        return 1, sample, 0.0 * sample, sample, sample
    shift = sample - mean
    mean += shift / (count + 1)
    products += shift * (sample - mean)
    if sample < low or sample != sample:
        low = sample
    if sample > high or sample != sample:
        high = sample
    return count + 1, mean, products, low, high


@inlined
def _merge(running, other):
    a, mean, products, low, high = running
    b, mean_of_other, products_of_other, low_of_other, high_of_other = other
    if a == 0:
        return b, mean_of_other, products_of_other, low_of_other, high_of_other
    if b == 0:
        return a, mean, products, low, high
    n = a + b
    shift = mean_of_other - mean
    if low_of_other < low or low_of_other != low_of_other:
        low = low_of_other
    if high_of_other > high or high_of_other != high_of_other:
        high = high_of_other
    weight = np.float64(a) * np.float64(b) / n
    return n, mean + shift * (b / n), products + products_of_other + shift * shift * weight, low, high


def _is_running(kind: Any) -> bool:
    return isinstance(kind, types.BaseNamedTuple) and kind.instance_class is Running


@overload(started)
def _started_in_nopython() -> Any:
    return lambda: Running(0, np.nan, 0.0, np.nan, np.nan)


@overload(added)
def _added_in_nopython(running: Any, sample: Any) -> Any:
    if not _is_running(running):
        raise TypingError(f"running.added: expected running moments as of running.started, got {running}")
    if not isinstance(sample, types.Number):
        raise TypingError(f"running.added: expected a number as the sample, got {sample}")

    def add(running: Any, sample: Any) -> Any:
        count, mean, products, low, high = _add(running, np.float64(sample))
        return Running(count, mean, products, low, high)

    return add


@overload(merged)
def _merged_in_nopython(running: Any, other: Any) -> Any:
    for each in (running, other):
        if not _is_running(each):
            raise TypingError(f"running.merged: expected running moments as of running.started, got {each}")

    def merge(running: Any, other: Any) -> Any:
        n, mean, products, low, high = _merge(running, other)
        return Running(n, mean, products, low, high)

    return merge
