"""Arrays of further distributions: each block has a generator of its own, which draws number by number (`rng`).

Parameters are numbers, or arrays that NumPy broadcasts to the size.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import domains, keys
from flame_fast.kernels.jit.block_kernels import WHOLE, BlockKernels
from flame_fast.kernels.jit.cache import inlined
from flame_fast.kernels.jit.calls import flat, parameter
from flame_fast.kernels.jit.lanes import LANES
from flame_fast.kernels.jit.simd import loader, stack_array, store
from flame_fast.kernels.jit.vector_math import power_of_e
from flame_fast.kernels.rng.distributions import (
    LARGEST_MEAN,
    MOST_SEARCHED,
    MOST_TRIALS,
    binomial_table,
    log_of_factor,
    next_beta,
    next_binomial,
    next_large_gamma,
    next_many_binomial,
    next_many_poisson,
    next_poisson,
    next_student_t,
    of_binomial,
    of_gamma,
    of_poisson,
    poisson_table,
    share_of_logarithms,
)
from flame_fast.kernels.rng.drawing import SIZE
from flame_fast.kernels.rng.filling import fill_with_normals, stream_of
from flame_fast.kernels.rng.generators import begin, next_exponential, next_normal, next_uniform
from flame_fast.kernels.sampling.arguments import FLOATS, check_broadcast, common_shape, spread_over, target
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.kernels.keys import Seed
    from flame_fast.kernels.sampling.arguments import Size
    from numpy.typing import ArrayLike, DTypeLike, NDArray

INTEGERS = (np.int64,)

_generator: Any = stack_array(types.uint64, SIZE)
LANE_DOUBLES: Any = loader(types.float64, LANES)

#: Numbers that a vector function transforms together.
TILE = 256

#: Parts of the range of uniform numbers, for each of which a search in a table begins at a place of its own.
GUIDES = 256


def guided(sums: NDArray[np.float64], added: float, sign: float) -> NDArray[np.float64]:
    """Return where to begin a search in a table of sums, for each part of the range, and what makes a count of a place."""
    starts = np.searchsorted(sums, np.arange(GUIDES) / GUIDES, side="right")
    return np.concatenate([starts.astype(np.float64), [added, sign]])


# ---- kernels -------------------------------------------------------------------------------------------------------------


@BlockKernels
def _fill_lognormal(key, domain, block, out, a, b):
    stream = stream_of(key, block, domain)
    tile = np.empty(TILE)
    a_step, b_step = min(1, a.size - 1), min(1, b.size - 1)
    for start in range(0, out.size, TILE):
        fill_with_normals(stream, tile)
        stop = min(TILE, out.size - start)
        for i in range(stop):
            tile[i] = a[(start + i) * a_step] + b[(start + i) * b_step] * tile[i]
        _powers_of_e(tile)
        for i in range(stop):
            out[start + i] = tile[i]


@inlined
def _powers_of_e(tile):
    for i in range(0, TILE, LANES):
        store(tile, i, power_of_e(LANE_DOUBLES(tile, i)))


@inlined
def _parts_of_gamma(state, shape, constants):
    """Return what `next_gamma` draws before it multiplies by a factor, and the logarithm of that."""
    if shape == 1.0:
        return next_exponential(state), 0.0
    number = next_large_gamma(state, constants[0], constants[1])
    return number, 0.0 if shape > 1.0 else log_of_factor(state, shape)


@inlined
def _multiply(numbers, factors, shape):
    """Multiply a tile's gamma numbers of one shape by the factors whose logarithms are given."""
    if shape < 1.0:
        _powers_of_e(factors)
        for i in range(TILE):
            numbers[i] *= factors[i]


@BlockKernels
def _fill_gamma(key, domain, block, out, a, b):
    state = _generator()
    begin(state, key, block, domain)
    numbers, factors = np.zeros(TILE), np.zeros(TILE)
    a_step, b_step = min(1, a.size - 1), min(1, b.size - 1)
    shape = a[0]
    constants = of_gamma(shape)
    for start in range(0, out.size, TILE):
        stop = min(TILE, out.size - start)
        smallest = shape
        for i in range(stop):
            if a_step:
                shape = a[start + i]
                smallest = min(smallest, shape)
                constants = of_gamma(shape)
            numbers[i], factors[i] = _parts_of_gamma(state, shape, constants)
        _multiply(numbers, factors, smallest)
        for i in range(stop):
            out[start + i] = b[(start + i) * b_step] * numbers[i]


@BlockKernels
def _fill_beta(key, domain, block, out, a, b):
    state = _generator()
    begin(state, key, block, domain)
    a_step, b_step = min(1, a.size - 1), min(1, b.size - 1)
    if a_step or b_step:
        for i in range(out.size):
            out[i] = next_beta(state, a[i * a_step], b[i * b_step])
    elif a[0] > 1.0 or b[0] > 1.0:
        _fill_with_shares(state, a[0], b[0], out)
    else:
        _fill_with_accepted(state, a[0], b[0], out)


@inlined
def _fill_with_shares(state, a, b, out):
    """Fill with beta numbers as `next_beta` draws them of gamma ones."""
    firsts, seconds, first_factors, second_factors = np.zeros(TILE), np.zeros(TILE), np.zeros(TILE), np.zeros(TILE)
    of_a, of_b = of_gamma(a), of_gamma(b)
    for start in range(0, out.size, TILE):
        stop = min(TILE, out.size - start)
        for i in range(stop):
            firsts[i], first_factors[i] = _parts_of_gamma(state, a, of_a)
            seconds[i], second_factors[i] = _parts_of_gamma(state, b, of_b)
        _multiply(firsts, first_factors, a)
        _multiply(seconds, second_factors, b)
        for i in range(stop):
            out[start + i] = firsts[i] / (firsts[i] + seconds[i])


@inlined
def _fill_with_accepted(state, a, b, out):
    """Fill with beta numbers as `next_beta` draws them of powers, of pairs that are drawn a tile ahead."""
    x_logs, y_logs, x, y = np.empty(TILE), np.empty(TILE), np.empty(TILE), np.empty(TILE)
    filled = 0
    while filled < out.size:
        for i in range(TILE):
            x_logs[i], y_logs[i] = log_of_factor(state, a), log_of_factor(state, b)
            x[i], y[i] = x_logs[i], y_logs[i]
        _powers_of_e(x)
        _powers_of_e(y)
        for i in range(TILE):
            total = x[i] + y[i]
            if total <= 1.0 and filled < out.size:
                out[filled] = x[i] / total if total > 0.0 else share_of_logarithms(x_logs[i], y_logs[i])
                filled += 1


@BlockKernels
def _fill_student_t(key, domain, block, out, a, b):
    state = _generator()
    begin(state, key, block, domain)
    if a.size > 1 or a[0] == np.inf:
        a_step = min(1, a.size - 1)
        for i in range(out.size):
            out[i] = next_student_t(state, a[i * a_step])
        return
    half = 0.5 * a[0]
    constants = of_gamma(half)
    normals, numbers, factors = np.zeros(TILE), np.ones(TILE), np.zeros(TILE)
    for start in range(0, out.size, TILE):
        stop = min(TILE, out.size - start)
        for i in range(stop):
            normals[i] = next_normal(state)
            numbers[i], factors[i] = _parts_of_gamma(state, half, constants)
        _multiply(numbers, factors, half)
        for i in range(stop):
            out[start + i] = normals[i] * np.sqrt(half / numbers[i])


@BlockKernels
def _fill_by_table(key, domain, block, out, a, b):
    """Draw counts by inversion: `a` has the sums of probabilities, `b` where a search for 1/256 of the range begins.

    The last two of `b` are what is added to a count, and its sign.
    """
    state = _generator()
    begin(state, key, block, domain)
    added, sign = b[GUIDES], b[GUIDES + 1]
    for i in range(out.size):
        u = next_uniform(state)
        k = np.int64(b[np.int64(u * GUIDES)])
        while u >= a[k]:
            k += 1
        out[i] = np.int64(added + sign * k)


@BlockKernels
def _fill_poisson(key, domain, block, out, a, b):
    state = _generator()
    begin(state, key, block, domain)
    if a.size == 1 and a[0] >= MOST_SEARCHED:
        constants = of_poisson(a[0])
        for i in range(out.size):
            out[i] = np.int64(next_many_poisson(state, a[0], constants))
    else:
        for i in range(out.size):
            out[i] = np.int64(next_poisson(state, a[i]))


@BlockKernels
def _fill_binomial(key, domain, block, out, a, b):
    state = _generator()
    begin(state, key, block, domain)
    n, p = a[0], b[0]
    if a.size == 1 and b.size == 1 and n * min(p, 1.0 - p) >= MOST_SEARCHED:
        constants = of_binomial(n, min(p, 1.0 - p))
        for i in range(out.size):
            k = next_many_binomial(state, n, constants)
            out[i] = np.int64(k if p <= 0.5 else n - k)
    else:
        a_step, b_step = min(1, a.size - 1), min(1, b.size - 1)
        for i in range(out.size):
            out[i] = np.int64(next_binomial(state, a[i * a_step], b[i * b_step]))


# ---- arrays --------------------------------------------------------------------------------------------------------------


def _filled(
    made: NDArray[Any], kernels: BlockKernels, seed: Seed, domain: Any, *parameters: NDArray[np.float64]
) -> NDArray[Any]:
    """Fill an array, each of whose elements has its own parameters if they are arrays."""
    check_broadcast(made.shape, *parameters)
    arrays, spread = zip(*(spread_over(values, made) for values in parameters), strict=True)
    both = (*spread, WHOLE)[:2]
    kernels.fill(flat("out", made, made.dtype), keys.key(seed), domain, *arrays, spread=both)
    return made


def _check(is_right: Any, what: str) -> None:
    if not np.all(is_right):
        raise ValueError(what)


def lognormal(
    mean: ArrayLike = 0.0,
    sigma: ArrayLike = 1.0,
    size: Size = None,
    seed: Seed = None,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return doubles whose logarithms are normal, of mean `mean` and standard deviation `sigma`.

    Parameters
    ----------
    mean, sigma : float or array of float
        Arrays are broadcast to the size.
    size : int or tuple of int, optional
        The shape; None: that of `out`, or else of the parameters.
    seed, out, dtype
        As of `uniforms`.

    Returns
    -------
    array of `dtype`

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `uniforms`; parameters that are no numbers, out of their range, or of a shape that does not fit.

    Notes
    -----
    Parameters are broadcast block by block; arrays that are not of contiguous doubles are copied. Otherwise as `uniforms`.
    `rng` names the methods and their sources.
    """
    a, b = parameter("mean", mean), parameter("sigma", sigma)
    _check(b >= 0.0, "sigma: expected numbers of at least 0")
    made = target(size, out, dtype, *FLOATS, shape=common_shape(a, b))
    return _filled(made, _fill_lognormal, seed, domains.LOGNORMAL, a, b)


def gamma(
    shape: ArrayLike,
    scale: ArrayLike = 1.0,
    size: Size = None,
    seed: Seed = None,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return gamma doubles of mean `shape * scale`, both at least 0, by Marsaglia's and Tsang's method.

    Otherwise as `lognormal`.
    """
    a, b = parameter("shape", shape), parameter("scale", scale)
    _check((a >= 0.0).all() and (b >= 0.0).all(), "shape, scale: expected numbers of at least 0")
    made = target(size, out, dtype, *FLOATS, shape=common_shape(a, b))
    return _filled(made, _fill_gamma, seed, domains.GAMMA, a, b)


def chisquare(
    df: ArrayLike,
    size: Size = None,
    seed: Seed = None,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return chi-square doubles of `df` degrees of freedom, above 0: twice gamma ones. Otherwise as `lognormal`."""
    a = parameter("df", df)
    _check(a > 0.0, "df: expected numbers above 0")
    made = target(size, out, dtype, *FLOATS, shape=a.shape)
    return _filled(made, _fill_gamma, seed, domains.CHISQUARE, 0.5 * a, np.array(2.0))


def beta(
    a: ArrayLike,
    b: ArrayLike,
    size: Size = None,
    seed: Seed = None,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return beta doubles of the parameters `a` and `b`, both above 0, by gamma ones or Johnk's method.

    Otherwise as `lognormal`.
    """
    first, second = parameter("a", a), parameter("b", b)
    _check((first > 0.0).all() and (second > 0.0).all(), "a, b: expected numbers above 0")
    made = target(size, out, dtype, *FLOATS, shape=common_shape(first, second))
    return _filled(made, _fill_beta, seed, domains.BETA, first, second)


def standard_t(
    df: ArrayLike,
    size: Size = None,
    seed: Seed = None,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return doubles of Student's t distribution with `df` degrees of freedom, above 0. Otherwise as `lognormal`."""
    a = parameter("df", df)
    _check(a > 0.0, "df: expected numbers above 0")
    made = target(size, out, dtype, *FLOATS, shape=a.shape)
    return _filled(made, _fill_student_t, seed, domains.STUDENT_T, a)


def poisson(
    lam: ArrayLike = 1.0, size: Size = None, seed: Seed = None, *, out: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Return Poisson integers of mean `lam`, from 0 to 9.2e18: by inversion, from a mean of 10 on by Hormann's PTRS.

    An int64 array; otherwise as `lognormal`.
    """
    a = parameter("lam", lam)
    _check((a >= 0.0) & (a <= LARGEST_MEAN), "lam: expected numbers from 0 to 9.2e18")
    made = target(size, out, np.int64, *INTEGERS, shape=a.shape)
    if a.size == 1 and a.item() < MOST_SEARCHED:
        return _filled_by_table(made, poisson_table(a.item()), 0.0, 1.0, seed, domains.POISSON)
    return _filled(made, _fill_poisson, seed, domains.POISSON, a)


def binomial(
    n: ArrayLike, p: ArrayLike, size: Size = None, seed: Seed = None, *, out: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Return how many of `n` trials succeed, each with probability `p`.

    `n` is from 0 to 2**53. By inversion, from a mean of 10 on by Hormann's BTRS. An int64 array; otherwise as `lognormal`.
    """
    a, b = parameter("n", n), parameter("p", p)
    _check((a >= 0.0) & (a <= MOST_TRIALS) & (a == np.floor(a)), "n: expected integers from 0 to 2**53")
    _check((b >= 0.0) & (b <= 1.0), "p: expected numbers from 0 to 1")
    made = target(size, out, np.int64, *INTEGERS, shape=common_shape(a, b))
    if a.size == 1 and b.size == 1:
        trials, share = a.item(), b.item()
        rarer = min(share, 1.0 - share)
        if trials * rarer < MOST_SEARCHED:
            added, sign = (0.0, 1.0) if share <= 0.5 else (trials, -1.0)
            return _filled_by_table(made, binomial_table(trials, rarer), added, sign, seed, domains.BINOMIAL)
    return _filled(made, _fill_binomial, seed, domains.BINOMIAL, a, b)


def _filled_by_table(
    made: NDArray[Any], sums: NDArray[np.float64], added: float, sign: float, seed: Seed, domain: Any
) -> NDArray[Any]:
    _fill_by_table.fill(flat("out", made, made.dtype), keys.key(seed), domain, sums, guided(sums, added, sign))
    return made
