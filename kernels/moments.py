"""Estimates from samples: means, variances and confidence intervals, of blocks that any worker may have drawn.

    from flame_fast.kernels.moments import Moments

    def block_moments(block):  # a task: what it returns is small
        return Moments.of(np.random.default_rng(block).normal(size=10_000))

    moments = sum(block_moments(block) for block in range(10))
    estimate, error, (low, high) = moments.mean, moments.standard_error, moments.interval(0.95)

A block's moments are its count, the means, and the sums of products of deviations from them. They are sufficient statistics,
small to send, and merge without losing digits [1]_ [2]_. Floating-point addition is not associative: merge blocks in the
order of their numbers, in whatever order they finished, and the result is the same to the last bit.

Nopython code that meets its samples one by one keeps running moments: see `running`.

NaN and infinity: a sample that is one makes its column's mean, variance and higher moments NaN, and NaN its minimum and
maximum too. Finite samples overflow from about 1e150 on, where their squares do: to infinity or NaN. Where too few samples
are for a figure, it is NaN; no warnings.

References
----------
.. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The American Statistician
   37(3), 1983.
.. [2] P. Pebay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical moments",
   Sandia Report SAND2008-6212, 2008.
.. [3] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004: section 4.1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.quantiles import normal_quantile, student_quantile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, NoReturn, TypeAlias

    from flame_fast.kernels.running import Running
    from numpy.typing import ArrayLike, NDArray

    #: A float of samples of one quantity; of several, a float64 array.
    Figure: TypeAlias = float | NDArray[np.float64]

__all__ = ["Estimate", "Moments", "controlled"]


class Moments:
    """The moments of so many samples: of one quantity, of d quantities, or of stacks of d quantities each.

    `Moments.of` makes them of samples. They are immutable; `a + b` is of the samples of both, and `sum` of those of a list.

    Attributes
    ----------
    count : int
        Samples.
    mean, minimum, maximum : float or float64 array
        Floats of one quantity; of several an array of shape (d,), of stacks (..., d). Arrays are read-only.
    products : float or float64 array
        Sums of products of deviations from the means: `count - 1` times the covariances; of shape (d, d), or (..., d, d).
    cubes, fourths : float or float64 array, or None
        Sums of the third and fourth powers of the deviations, shaped as the mean; None unless the order is 4.
    """

    __slots__ = ("count", "cubes", "fourths", "maximum", "mean", "minimum", "products")

    count: int
    mean: Any
    products: Any
    minimum: Any
    maximum: Any
    cubes: Any
    fourths: Any

    def __init__(
        self,
        count: int,
        mean: Figure,
        products: Figure,
        minimum: Figure,
        maximum: Figure,
        cubes: Figure | None = None,
        fourths: Figure | None = None,
    ) -> None:
        parts = (count, mean, products, minimum, maximum, cubes, fourths)
        for name, part in zip(("count", "mean", "products", "minimum", "maximum", "cubes", "fourths"), parts, strict=True):
            if isinstance(part, np.ndarray):
                part = part.view()
                part.flags.writeable = False
            object.__setattr__(self, name, part)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: expected no change of moments, which are immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: expected no change of moments, which are immutable")

    def __reduce__(self) -> tuple[type[Moments], tuple[object, ...]]:
        parts = (self.count, self.mean, self.products, self.minimum, self.maximum)
        return Moments, parts if self.cubes is None else (*parts, self.cubes, self.fourths)

    def __repr__(self) -> str:
        if np.ndim(self.mean) == 0:
            return f"Moments(count={self.count}, mean={self.mean:.6g}, standard_error={self.standard_error:.2g})"
        return f"Moments(count={self.count}, mean of shape {np.shape(self.mean)})"

    # ---- of samples

    @staticmethod
    def of(samples: ArrayLike, *, order: Literal[2, 4] = 2) -> Moments:
        """Return the moments of an array of samples.

        Parameters
        ----------
        samples : array_like of real numbers, shape (n,), (n, d) or (..., n, d)
            n samples of one quantity, or of d; of more dimensions, stacks of samples as in `numpy.linalg`. Computed in
            float64; what is no contiguous float64 array is copied to one.
        order : int
            4: third and fourth moments too, for `skewness` and `kurtosis`.

        Raises
        ------
        TypeError
            No array of real numbers.
        ValueError
            Another shape or order.

        Notes
        -----
        The same to the last bit with any number of threads, on any CPU. Uses as many threads as `numba.get_num_threads()`
        says, reads the samples once, and takes an eighth of their memory at most. Safe from several threads; Ctrl-C ends it
        within a tenth of a second (of more than 100 quantities, later). Its first call on a machine compiles for some
        seconds; the result is cached.

        Examples
        --------
        >>> from flame_fast.kernels.moments import Moments
        >>> moments = Moments.of([1.0, 2.0, 3.0, 4.0])
        >>> moments.mean, moments.variance(), moments.minimum
        (2.5, 1.6666666666666667, 1.0)
        >>> sum([moments, Moments.of([5.0])]).mean
        3.0
        """
        if order not in (2, 4):
            raise ValueError(f"order: expected 2 or 4, got {order!r}")
        array = _real("samples", samples)
        if array.ndim == 0:
            raise ValueError("samples: expected an array of shape (n,), (n, d) or (..., n, d), got a number")
        scalar = array.ndim == 1
        *stack, count, d = (array.shape[0], 1) if scalar else array.shape
        if array.size == 0:
            return _empty(tuple(stack), count, d, scalar, order)
        from flame_fast.kernels.jit.sample_moments import moments_of

        rows = moments_of(array.reshape(-1, count, d), order)
        if scalar:
            _, mean, low, high, products, *higher = rows[0].tolist()
            return Moments(count, mean, products, low, high, *higher)
        lower = np.tril_indices(d)
        packed = len(lower[0])
        products = np.empty((len(rows), d, d))
        products[:, lower[0], lower[1]] = products[:, lower[1], lower[0]] = rows[:, 1 + 3 * d : 1 + 3 * d + packed]
        places = [1, 1 + d, 1 + 2 * d] + ([1 + 3 * d + packed, 1 + 4 * d + packed] if order == 4 else [])
        mean, low, high, *higher = (rows[:, at : at + d].reshape(*stack, d).copy() for at in places)
        return Moments(count, mean, products.reshape(*stack, d, d), low, high, *higher)

    @staticmethod
    def of_running(running: Running) -> Moments:
        """Return the moments of the samples that nopython code has added one after the other."""
        try:
            count, mean, products, minimum, maximum = running
            return Moments(int(count), float(mean), float(products), float(minimum), float(maximum))
        except (TypeError, ValueError):
            raise TypeError(f"running: expected running moments, as of running.added, got {running!r}") from None

    # ---- merging

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the samples of both: `self + other`.

        Raises
        ------
        TypeError
            `other` is no `Moments`.
        ValueError
            They are of other quantities, or of another order.
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other: expected Moments, got {type(other).__name__}")
        if np.shape(self.mean) != np.shape(other.mean):
            raise ValueError(
                f"other: expected moments of the same quantities, of shape {np.shape(self.mean)}, got {np.shape(other.mean)}"
            )
        if (self.cubes is None) != (other.cubes is None):
            raise ValueError("other: expected moments of the same order, got those of order 2 and of order 4")
        if not other.count:
            return self
        if not self.count:
            return other
        if isinstance(self.mean, float):
            return _merged(self, other, min(self.minimum, other.minimum), max(self.maximum, other.maximum))
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum)
            return _merged(self, other, low, high)

    def taken(self, columns: int | list[int]) -> Moments:
        """Return the moments of some of the d quantities, in the order given; of a number, of that one quantity alone.

        Raises
        ------
        TypeError
            Neither an integer nor a list of integers.
        ValueError
            No such quantities; or a number, but the moments are of stacks.
        """
        if np.ndim(self.mean) == 0:
            raise ValueError("columns: expected moments of several quantities, got those of one")
        try:
            several = [whole_number("columns", column) for column in columns]  # type: ignore[union-attr]
            single = False
        except TypeError:
            several, single = [whole_number("columns", columns, expected="an integer or a list of integers")], True
        d = self.mean.shape[-1]
        if not several or max(several) >= d:
            raise ValueError(f"columns: expected integers from 0 to below {d}, got {columns!r}")
        if single and self.mean.ndim > 1:
            raise ValueError(f"columns: expected a list of integers, for the moments are of stacks, got {columns!r}")
        products = self.products[..., np.array(several)[:, None], several]
        means = [self.mean, self.minimum, self.maximum, *([] if self.cubes is None else [self.cubes, self.fourths])]
        mean, *others = (part[..., several] for part in means)
        if single:
            return Moments(self.count, *(float(part.ravel()[0]) for part in (mean, products, *others)))
        return Moments(self.count, mean, products, *others)

    def __add__(self, other: Moments) -> Moments:
        return self.merge(other) if isinstance(other, Moments) else NotImplemented

    def __radd__(self, other: object) -> Moments:
        """Let `sum` begin with its 0."""
        return self if type(other) is int and other == 0 else NotImplemented

    # ---- what they say

    def variance(self, ddof: int = 1) -> Any:
        """Return the variances: sums of squares of deviations over `count - ddof`, NaN if that is not above 0."""
        return self._over(_squares(self), ddof)

    def covariance(self, ddof: int = 1) -> Any:
        """Return the matrix of covariances, as `variance`; of one quantity its variance."""
        return self._over(self.products, ddof)

    def _over(self, sums: Any, ddof: int) -> Any:
        freedom = self.count - whole_number("ddof", ddof)
        return sums / freedom if freedom > 0 else sums * math.nan

    @property
    def standard_error(self) -> Any:
        """The standard errors of the means: NaN of fewer than two samples."""
        return _root(self.variance() / max(self.count, 1))

    def interval(self, confidence: float = 0.95, *, normal: bool = False) -> tuple[Any, Any]:
        """Return the ends of the confidence interval of the mean, of each mean by itself.

        Parameters
        ----------
        confidence : float
            Above 0 and below 1: the share of such intervals that have the true mean in them.
        normal : bool
            Take the normal distribution's quantile instead of that of Student's t, which is right for few samples if they
            are normal.

        Returns
        -------
        tuple of two floats, or of two float64 arrays
        """
        return _interval(self.mean, self.standard_error, self.count - 1, confidence, normal)

    @property
    def skewness(self) -> Any:
        """The third standardized moment, 0 of symmetric distributions; without a correction for the sample's size."""
        self._check_order("skewness")
        squares = _squares(self)
        with np.errstate(all="ignore"):
            return _plain(np.float64(math.sqrt(self.count)) * self.cubes / (squares * np.sqrt(squares)))

    @property
    def kurtosis(self) -> Any:
        """The excess kurtosis, 0 of the normal distribution; without a correction for the sample's size."""
        self._check_order("kurtosis")
        squares = _squares(self)
        with np.errstate(all="ignore"):
            return _plain(np.float64(self.count) * self.fourths / (squares * squares) - 3)

    def _check_order(self, name: str) -> None:
        if self.cubes is None:
            raise ValueError(f"{name}: expected moments of order 4, got order 2; make them by Moments.of(samples, order=4)")


class Estimate(NamedTuple("Estimate", [("value", Any), ("error", Any), ("freedom", int)])):
    """An estimated value, its standard error, and the degrees of freedom of that: floats or float64 arrays, and an int."""

    __slots__ = ()

    def interval(self, confidence: float = 0.95, *, normal: bool = False) -> tuple[Any, Any]:
        """Return the ends of the confidence interval, as `Moments.interval` does."""
        return _interval(self.value, self.error, self.freedom, confidence, normal)


def controlled(moments: Moments, expected: ArrayLike, *, target: int = 0) -> Estimate:
    """Estimate the mean of one quantity, corrected by the others, whose expectations are known: control variates [3]_.

    Parameters
    ----------
    moments : Moments
        Of d quantities, or of stacks of d each: the one to estimate and d - 1 control variates.
    expected : array_like, shape (d - 1,) or (..., d - 1)
        The control variates' expectations, in the order of their columns. Of one control variate a number will do.
    target : int
        The column to estimate.

    Returns
    -------
    Estimate
        Of the target: the intercept of the regression on the control variates less their expectations.

    Raises
    ------
    TypeError
        No moments, or no numbers.
    ValueError
        Shapes that do not go together, or no such column.

    Notes
    -----
    The regression is of the very samples that it corrects; the bias of this is of order 1/n, far below the standard error. A
    control variate that never varies, or that is a linear combination of those before it, corrects nothing.

    Examples
    --------
    >>> from flame_fast.kernels.moments import Moments, controlled
    >>> x = np.linspace(0.0, 1.0, 11)
    >>> y = 3 * x + 1
    >>> float(round(controlled(Moments.of(np.stack([y, x], axis=1)), 0.4).value, 12))  # y at the expectation of x
    2.2
    """
    if not isinstance(moments, Moments):
        raise TypeError(f"moments: expected Moments, got {type(moments).__name__}")
    *stack, d = np.shape(moments.mean) or (1,)
    target = whole_number("target", target)
    if np.ndim(moments.mean) == 0 or d < 2 or target >= d:
        raise ValueError(
            f"moments: expected those of quantity {target} and at least one control variate, got {d} quantities"
        )
    known = _real("expected", expected)
    controls = [column for column in range(d) if column != target]
    try:
        known = np.broadcast_to(known, (*stack, d - 1))
    except ValueError:
        raise ValueError(
            f"expected: expected {d - 1} numbers for each target, got an array of shape {known.shape}"
        ) from None
    value, products = moments.mean[..., target].copy(), moments.products.copy()
    shifts = moments.mean[..., controls] - known
    freedom = moments.count - 1
    for number, control in enumerate(controls):
        # Sweep the control variate out of all that follow: Gaussian elimination of the normal equations.
        pivot = products[..., control, control]
        kept = pivot > 1e-13 * np.einsum("...jj->...j", moments.products)[..., control]
        slopes = np.divide(
            products[..., :, control], pivot[..., None], out=np.zeros(products.shape[:-1]), where=kept[..., None]
        )
        value = value - slopes[..., target] * shifts[..., number]
        shifts = shifts - slopes[..., controls] * shifts[..., number, None]
        products = products - slopes[..., :, None] * products[..., None, control, :]
        freedom -= 1
    residual = np.maximum(0, products[..., target, target])
    error = np.sqrt(residual / freedom / moments.count) if freedom > 0 else residual * math.nan
    return Estimate(_plain(value), _plain(error), freedom)


# ---- parts ---------------------------------------------------------------------------------------------------------------


def _real(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: expected an array of real numbers, got rows of several lengths") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    return np.ascontiguousarray(array, np.float64) if array.ndim else array.astype(np.float64)


def _empty(stack: tuple[int, ...], count: int, d: int, scalar: bool, order: int) -> Moments:
    if count:
        raise ValueError(f"samples: expected at least one quantity in each sample, got shape {(*stack, count, d)}")
    higher = 2 if order == 4 else 0
    if scalar:
        return Moments(0, math.nan, 0.0, math.nan, math.nan, *[0.0] * higher)
    unknown, zeros = np.full((*stack, d), math.nan), np.zeros((*stack, d))
    return Moments(0, unknown, np.zeros((*stack, d, d)), unknown, unknown, *[zeros] * higher)


def _merged(one: Moments, other: Moments, minimum: Any, maximum: Any) -> Moments:
    a, b = float(one.count), float(other.count)  # products of integers of this size would be too large for NumPy
    n = a + b
    shift = other.mean - one.mean
    if isinstance(shift, float):
        outer = shift * shift
        if math.isnan(one.minimum) or math.isnan(other.minimum):
            minimum = maximum = math.nan
    else:
        outer = shift[..., :, None] * shift[..., None, :]
    products = one.products + other.products + outer * (a * b / n)
    mean = one.mean + shift * (b / n)
    if one.cubes is None:
        return Moments(one.count + other.count, mean, products, minimum, maximum)
    square, added, ratio = _squares(one), _squares(other), shift / n
    cubes = one.cubes + other.cubes + ratio * ratio * shift * (a * b * (a - b)) + 3 * ratio * (a * added - b * square)
    fourths = (
        one.fourths
        + other.fourths
        + ratio * ratio * ratio * shift * (a * b * (a * a - a * b + b * b))
        + 6 * ratio * ratio * (a * a * added + b * b * square)
        + 4 * ratio * (a * other.cubes - b * one.cubes)
    )
    return Moments(one.count + other.count, mean, products, minimum, maximum, cubes, fourths)


def _squares(moments: Moments) -> Any:
    if np.ndim(moments.products) == 0:
        return moments.products
    return np.einsum("...jj->...j", moments.products)


def _root(value: Any) -> Any:
    return math.sqrt(value) if isinstance(value, float) else np.sqrt(value)


def _plain(value: Any) -> Any:
    """Return a float for a value without dimensions."""
    return float(value) if np.ndim(value) == 0 else value


def _interval(value: Any, error: Any, freedom: int, confidence: float, normal: bool) -> tuple[Any, Any]:
    if isinstance(confidence, bool) or not isinstance(confidence, int | float | np.floating):
        raise TypeError(f"confidence: expected a number, got {confidence!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number above 0 and below 1, got {confidence!r}")
    if freedom < 1:
        quantile = math.nan
    else:
        quantile = normal_quantile(float(confidence)) if normal else student_quantile(float(confidence), freedom)
    return value - quantile * error, value + quantile * error
