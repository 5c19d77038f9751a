"""Numbers of further distributions, drawn one by one from a generator by exact methods.

What is drawn is the same on every CPU: the elementary functions are this package's own (`jit.vector_math`).

References
----------
.. [1] G. Marsaglia, W. W. Tsang, "A simple method for generating gamma variables", ACM Transactions on Mathematical Software
   26(3), 2000.
.. [2] M. D. Johnk, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", Metrika 8, 1964.
.. [3] W. Hormann, "The transformed rejection method for generating Poisson random variables", Insurance: Mathematics and
   Economics 12(1), 1993: PTRS.
.. [4] W. Hormann, "The generation of binomial random variates", Journal of Statistical Computation and Simulation 46, 1993:
   BTRS.
.. [5] L. Devroye, "Non-Uniform Random Variate Generation", Springer, 1986: IX.3.5 (Student's t), X.4.3 (inversion).
.. [6] M. Abramowitz, I. A. Stegun, "Handbook of Mathematical Functions", 1964: 6.1.40 (Stirling's series).
.. [7] C. Loader, "Fast and accurate computation of binomial probabilities", 2000.
"""

from __future__ import annotations

import math

import numpy as np
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.numbers import exp, log
from flame_fast.kernels.rng.drawing import draws
from flame_fast.kernels.rng.generators import next_exponential, next_normal, next_uniform, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The largest mean of a Poisson number: an int64 holds 10 standard deviations more.
LARGEST_MEAN = 2.0**63 - 10 * 2.0**31.5

#: Shapes below it count as this one, so that quotients stay finite.
SMALLEST_SHAPE = 1e-300

#: Trials of a binomial number: a double counts no more.
MOST_TRIALS = 1 << 53

#: The mean from which on a search takes longer than the rejection methods, which begin there.
MOST_SEARCHED = 10.0

#: Sums of probabilities beyond those that a double tells from 1, of a mean below 10.
LONGEST_TABLE = 256

#: Instead of 0, by which nothing can be divided.
TINY = 2.0**-54

HALF_LN_2PI = 0.91893853320467274178

#: Those of 0 to 17, all exact.
FACTORIALS = np.array([math.factorial(k) for k in range(18)], np.float64)


# ---- gamma and what is made of it ----------------------------------------------------------------------------------------


@inlined
def of_gamma(shape: Any) -> Any:
    """Return what the method needs of a shape: d and c [1]_. Below a shape of 1 they are those of the shape + 1."""
    d = (shape if shape >= 1.0 else shape + 1.0) - 1.0 / 3.0
    return d, 1.0 / math.sqrt(9.0 * d)


@inlined
def next_large_gamma(state: Any, d: Any, c: Any) -> Any:
    """Return the next gamma number of a shape of at least 1, by rejection from a transformed normal one [1]_."""
    while True:
        x = next_normal(state)
        v = 1.0 + c * x
        v = v * v * v
        u = 1.0 - next_uniform(state)
        square = x * x
        if v > 0.0 and (u < 1.0 - 0.0331 * (square * square) or log(u) < 0.5 * square + d * (1.0 - v + log(v))):
            return d * v


@inlined
def log_of_factor(state: Any, shape: Any) -> Any:
    """Return the logarithm of what makes a gamma number of the shape + 1 one of a smaller shape: a uniform one's power."""
    return next_exponential(state) / -max(shape, SMALLEST_SHAPE)


@compiled()
def next_gamma(state: Any, shape: Any) -> Any:
    """Return the next gamma number of scale 1."""
    if shape == 1.0:
        return next_exponential(state)
    d, c = of_gamma(shape)
    number = next_large_gamma(state, d, c)
    return number if shape > 1.0 else number * exp(log_of_factor(state, shape))


@compiled()
def next_beta(state: Any, a: Any, b: Any) -> Any:
    """Return the next beta number.

    It is the share of one gamma number in the sum of two; where both parameters are at most 1, that of a power of a uniform
    number in the sum of two such, if the sum is at most 1 [2]_.
    """
    if a > 1.0 or b > 1.0:
        first, second = next_gamma(state, a), next_gamma(state, b)
        return first / (first + second)
    while True:
        log_x, log_y = log_of_factor(state, a), log_of_factor(state, b)
        x, y = exp(log_x), exp(log_y)
        if x + y > 1.0:
            continue
        if x + y > 0.0:
            return x / (x + y)
        return share_of_logarithms(log_x, log_y)


@inlined
def share_of_logarithms(log_x: Any, log_y: Any) -> Any:
    """Return x / (x + y) of two numbers that are too small for doubles."""
    return 1.0 / (1.0 + exp(log_y - log_x))


@compiled()
def next_student_t(state: Any, df: Any) -> Any:
    """Return the next number of Student's t distribution: a normal one over the root of a chi-square one [5]_."""
    normal = next_normal(state)
    if df == math.inf:
        return normal
    return normal * math.sqrt(0.5 * df / next_gamma(state, 0.5 * df))


# ---- probabilities of counts ---------------------------------------------------------------------------------------------


@inlined
def _log_factorial(k):
    """Return the logarithm of a whole number's factorial; the number is a double. From 18 on, Stirling's series [6]_."""
    if k < 18.0:
        return log(FACTORIALS[np.int64(k)])
    return (k + 0.5) * log(k) - k + HALF_LN_2PI + _stirlings_error(k)


@inlined
def _stirlings_error(k):
    """Return how far Stirling's formula is below the logarithm of the factorial, from k = 18 on [6]_."""
    r = 1.0 / k
    square = r * r
    return r * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0))))


@inlined
def _deviance(k, mean):
    """Return k * log(k / mean) + mean - k without losing digits where k is near the mean [7]_."""
    apart = k - mean
    if abs(apart) > 0.1 * (k + mean):
        return k * log(k / mean) - apart
    v = apart / (k + mean)
    total, term, square, number = apart * v, 2.0 * k * v, v * v, 1.0
    while True:
        term *= square
        number += 2.0
        longer = total + term / number
        if longer == total:
            return total
        total = longer


@inlined
def _log_poisson(k, mean, log_mean):
    """Return the logarithm of a Poisson number's probability; for a k far below a mean from 2**16 on, that of none."""
    if mean < 2.0**16:
        return k * log_mean - mean - _log_factorial(k)
    if k < 18.0:
        return -math.inf
    return -_stirlings_error(k) - _deviance(k, mean) - 0.5 * log(k) - HALF_LN_2PI


@inlined
def _log_binomial(n, k, means, logarithms):
    """Return the logarithm of a binomial number's probability but for what depends on n alone.

    The probability is that of two Poisson numbers, k and n - k, whose means are given: over that of their sum.
    """
    return _log_poisson(k, means[0], logarithms[0]) + _log_poisson(n - k, means[1], logarithms[1])


# ---- counts --------------------------------------------------------------------------------------------------------------


@inlined
def of_poisson(mean: Any) -> Any:
    """Return what PTRS needs of a mean [3]_: a, b, 1 / alpha, v_r, and the logarithm of the mean."""
    root = math.sqrt(mean)
    b = 0.931 + 2.53 * root
    return -0.059 + 0.02483 * b, b, 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2.0), log(mean)


@inlined
def next_many_poisson(state: Any, mean: Any, constants: Any) -> Any:
    """Return the next Poisson number of a mean of at least 10, as a double, by PTRS [3]_."""
    a, b, inverse_alpha, v_r, log_mean = constants
    while True:
        u, v = next_uniform(state) - 0.5, 1.0 - next_uniform(state)
        us = max(0.5 - abs(u), TINY)
        k = np.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0.0 or (us < 0.013 and v > us):
            continue
        square = us * us
        if log(v * inverse_alpha * square / (a + b * square)) <= _log_poisson(k, mean, log_mean):
            return k


@compiled()
def next_poisson(state: Any, mean: Any) -> Any:
    """Return the next Poisson number as a double; below a mean of 10 by inversion [5]_."""
    if mean >= MOST_SEARCHED:
        return next_many_poisson(state, mean, of_poisson(mean))
    u, k = next_uniform(state), 0.0
    term = exp(-mean)
    total = term
    while u >= total:
        k += 1.0
        term *= mean / k
        longer = total + term
        if longer == total:
            break
        total = longer
    return k


@compiled()
def poisson_table(mean: Any) -> Any:
    """Return the sums of probabilities with which `next_poisson` compares, of a mean below 10; 2.0 is the last."""
    sums = np.empty(LONGEST_TABLE)
    term, k = exp(-mean), 0
    sums[0] = term
    while k < LONGEST_TABLE - 1:
        k += 1
        term *= mean / np.float64(k)
        sums[k] = sums[k - 1] + term
        if sums[k] == sums[k - 1]:
            break
    sums[k] = 2.0
    return sums[: k + 1]


@inlined
def of_binomial(n: Any, p: Any) -> Any:
    """Return what BTRS needs of n and p [4]_: a, b, c, v_r, alpha, means and their logarithms, and the one at the mode."""
    q = 1.0 - p
    root = math.sqrt(n * p * q)
    b = 1.15 + 2.53 * root
    a = -0.0873 + 0.0248 * b + 0.01 * p
    means = n * p, n * q
    logarithms = log(means[0]), log(means[1])
    at_mode = _log_binomial(n, np.floor((n + 1.0) * p), means, logarithms)
    return a, b, n * p + 0.5, 0.92 - 4.2 / b, (2.83 + 5.1 / b) * root, means, logarithms, at_mode


@inlined
def next_many_binomial(state: Any, n: Any, constants: Any) -> Any:
    """Return the next binomial number of a mean of at least 10 and p up to one half, as a double, by BTRS [4]_."""
    a, b, c, v_r, alpha, means, logarithms, at_mode = constants
    while True:
        u, v = next_uniform(state) - 0.5, 1.0 - next_uniform(state)
        us = max(0.5 - abs(u), TINY)
        k = np.floor((2.0 * a / us + b) * u + c)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0.0 or k > n:
            continue
        square = us * us
        if log(v * alpha * square / (a + b * square)) <= _log_binomial(n, k, means, logarithms) - at_mode:
            return k


@inlined
def first_of_binomial(n: Any, p: Any) -> Any:
    """Return the probability of no success: q**n, by Kahan's logarithm of 1 - p, which keeps the digits of a small p."""
    q = 1.0 - p
    return exp(n * (-p if q == 1.0 else log(q) * (p / (1.0 - q))))


@compiled()
def next_binomial(state: Any, n: Any, p: Any) -> Any:
    """Return the next binomial number as a double, of n that is a double; below a mean of 10 by inversion [5]_.

    A p of more than one half counts the failures.
    """
    rarer = min(p, 1.0 - p)
    if n * rarer >= MOST_SEARCHED:
        k = next_many_binomial(state, n, of_binomial(n, rarer))
    else:
        u, k = next_uniform(state), 0.0
        odds, term = rarer / (1.0 - rarer), first_of_binomial(n, rarer)
        total = term
        while u >= total and k < n:
            k += 1.0
            term *= odds * (n - k + 1.0) / k
            longer = total + term
            if longer == total:
                break
            total = longer
    return k if p <= 0.5 else n - k


@compiled()
def binomial_table(n: Any, p: Any) -> Any:
    """Return the sums of probabilities with which `next_binomial` compares, of a mean below 10; 2.0 is the last."""
    sums = np.empty(LONGEST_TABLE)
    odds, term, k = p / (1.0 - p), first_of_binomial(n, p), 0
    sums[0] = term
    while k < n and k < LONGEST_TABLE - 1:
        k += 1
        term *= odds * (n - np.float64(k) + 1.0) / np.float64(k)
        sums[k] = sums[k - 1] + term
        if sums[k] == sums[k - 1]:
            break
    sums[k] = 2.0
    return sums[: k + 1]


# ---- single numbers ------------------------------------------------------------------------------------------------------


@draws
def lognormal(g: Any, mean: float = 0.0, sigma: float = 1.0) -> float:
    """Return a double whose logarithm is normal, of mean `mean` and standard deviation `sigma`; otherwise as `random`."""
    if not sigma >= 0.0:
        raise ValueError("sigma: expected a number of at least 0")
    return exp(mean + sigma * next_normal(state_of(g)))


@draws
def gamma(g: Any, shape: float, scale: float = 1.0) -> float:
    """Return a gamma double of mean `shape * scale`, both at least 0 [1]_; otherwise as `random`."""
    if not (shape >= 0.0 and scale >= 0.0):
        raise ValueError("shape, scale: expected numbers of at least 0")
    return scale * next_gamma(state_of(g), float(shape))


@draws
def beta(g: Any, a: float, b: float) -> float:
    """Return a beta double of the parameters `a` and `b`, both above 0 [2]_; otherwise as `random`."""
    if not (a > 0.0 and b > 0.0):
        raise ValueError("a, b: expected numbers above 0")
    return next_beta(state_of(g), float(a), float(b))


@draws
def chisquare(g: Any, df: float) -> float:
    """Return a chi-square double of `df` degrees of freedom, above 0: twice a gamma one [1]_; otherwise as `random`."""
    if not df > 0.0:
        raise ValueError("df: expected a number above 0")
    return 2.0 * next_gamma(state_of(g), 0.5 * df)


@draws
def standard_t(g: Any, df: float) -> float:
    """Return a double of Student's t distribution with `df` degrees of freedom, above 0 [5]_; otherwise as `random`."""
    if not df > 0.0:
        raise ValueError("df: expected a number above 0")
    return next_student_t(state_of(g), float(df))


@draws
def poisson(g: Any, lam: float = 1.0) -> int:
    """Return a Poisson integer of mean `lam`, from 0 to 9.2e18 [3]_; otherwise as `random`."""
    if not 0.0 <= lam <= LARGEST_MEAN:
        raise ValueError("lam: expected a number from 0 to 9.2e18")
    return int(next_poisson(state_of(g), float(lam)))


@draws
def binomial(g: Any, n: int, p: float) -> int:
    """Return how many of `n` trials succeed, each with probability `p`; n is at most 2**53 [4]_; otherwise as `random`."""
    if not (0 <= n <= MOST_TRIALS and 0.0 <= p <= 1.0):
        raise ValueError("n, p: expected an integer from 0 to 2**53, and a number from 0 to 1")
    return int(next_binomial(state_of(g), float(n), float(p)))
