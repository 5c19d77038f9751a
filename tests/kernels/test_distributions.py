"""Arrays and single numbers of further distributions: against SciPy's, by all ways to ask for them, and errors.

Seeds are fixed, and none was chosen for its result (see `pvalues`).
"""

from __future__ import annotations

import decimal
import math

import numba
import numpy as np
import pytest
from flame_fast.kernels import rng, sampling
from flame_fast.kernels.jit.block_kernels import BLOCK
from flame_fast.kernels.jit.numbers import exp, log
from flame_fast.kernels.rng import distributions
from flame_fast.kernels.sampling.distributions import guided
from hypothesis import given, settings
from hypothesis import strategies as st
from pvalues import ODD, chi_square, pooled

stats = pytest.importorskip("scipy.stats")

SIZE = 300_000

PI = decimal.Decimal("3.14159265358979323846264338327950288419716939937511")

#: What is drawn, from what parameters, and SciPy's name and parameters of the distribution.
CONTINUOUS = {
    "lognormal": [((0.0, 1.0), ("lognorm", 1.0)), ((0.5, 0.3), ("lognorm", 0.3, 0, math.exp(0.5)))],
    "gamma": [
        ((shape, scale), ("gamma", shape, 0, scale))
        for shape, scale in ((0.02, 1.0), (0.5, 3.0), (1.0, 1.0), (1.01, 1.0), (2.5, 0.1), (100.0, 1.0), (1e7, 1.0))
    ],
    "beta": [
        ((a, b), ("beta", a, b)) for a, b in ((0.3, 0.2), (1.0, 1.0), (0.5, 3.0), (2.0, 5.0), (1.0, 0.4), (300.0, 1.5))
    ],
    "chisquare": [((df,), ("chi2", df)) for df in (0.7, 2.0, 3.0, 50.0)],
    "standard_t": [((df,), ("t", df)) for df in (0.5, 1.0, 3.0, 30.0, math.inf)],
}
DISCRETE = {
    "poisson": [((mean,), ("poisson", mean)) for mean in (0.01, 1.0, 9.99, 10.0, 11.5, 50.0, 1e4, 70_000.0)],
    "binomial": [
        ((n, p), ("binom", n, p))
        for n, p in (
            (1, 0.5),
            (10, 0.3),
            (40, 0.9),
            (100, 0.5),
            (1000, 0.01),
            (1000, 0.0101),
            (70_000, 0.7),
            (10**6, 0.3),
            (10**9, 1e-9),
            (2**50, 2e-14),
        )
    ],
}


def cases(kinds):
    return [
        pytest.param(getattr(sampling, name), given_, scipys, id=f"{name}{given_}")
        for name, pairs in kinds.items()
        for given_, scipys in pairs
    ]


def in_scipy(name, *parameters):
    return stats.norm() if parameters == (math.inf,) else getattr(stats, name)(*parameters)


@pytest.mark.parametrize("draw, given_, scipys", cases(CONTINUOUS))
def test_doubles_are_distributed_as_scipys(draw, given_, scipys):
    numbers = draw(*given_, SIZE, 11)
    found = stats.kstest(numbers, in_scipy(*scipys).cdf).pvalue
    assert ODD < found < 1 - ODD


@pytest.mark.parametrize("draw, given_, scipys", cases(DISCRETE))
def test_counts_are_distributed_as_scipys(draw, given_, scipys):
    counts = draw(*given_, SIZE, 12)
    assert counts.dtype == np.int64
    of_scipy = in_scipy(*scipys)
    low, high = int(of_scipy.ppf(1e-7)), int(of_scipy.ppf(1 - 1e-7)) + 1
    step = max(1, (high - low) // 200)
    edges = np.arange(low, high + step, step)
    expected = np.diff(of_scipy.cdf(edges - 1), prepend=0.0, append=1.0) * SIZE
    observed = np.histogram(counts, np.concatenate([[-1], edges, [2**62]]))[0]
    assert ODD < chi_square(*pooled(observed, expected)) < 1 - ODD


@pytest.mark.parametrize("mean", [1e9, 1e15])
def test_poisson_counts_of_a_large_mean_are_normal(mean):
    z = (sampling.poisson(mean, SIZE, 13) - mean) / math.sqrt(mean)
    assert ODD < stats.kstest(z, "norm").pvalue < 1 - ODD


def test_binomial_counts_of_the_most_trials_are_normal():
    n, p = 2**53, 0.3
    z = (sampling.binomial(n, p, SIZE, 14) - n * p) / math.sqrt(n * p * (1 - p))
    assert ODD < stats.kstest(z, "norm").pvalue < 1 - ODD


def test_tails_are_those_of_the_distribution():
    """Beyond the quantile of 1 - 1e-4, where rejection methods differ most."""
    for draw, given_, scipys in [case.values for case in (*cases(CONTINUOUS), *cases(DISCRETE))]:
        of_scipy = in_scipy(*scipys)
        numbers, edge = draw(*given_, 10 * SIZE, 15), of_scipy.ppf(1 - 1e-4)
        beyond = (numbers > edge).sum()
        p = stats.binomtest(int(beyond), numbers.size, min(1.0, max(0.0, of_scipy.sf(edge)))).pvalue
        assert p > ODD, (draw.__name__, given_)


# ---- ways to ask ---------------------------------------------------------------------------------------------------------

#: Each draw with numbers for parameters.
DRAWS = {
    sampling.lognormal: (0.3, 0.5),
    sampling.gamma: (2.5, 2.0),
    sampling.beta: (0.4, 2.0),
    sampling.chisquare: (3.0,),
    sampling.standard_t: (4.0,),
    sampling.poisson: (3.5,),
    sampling.binomial: (20, 0.2),
}
MANY = {**DRAWS, sampling.poisson: (35.0,), sampling.binomial: (200, 0.7)}

each_draw = pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)


@each_draw
def test_parameters_may_be_arrays_and_numbers_of_a_block_go_on_in_the_next(draw):
    size = BLOCK + 1  # a block of one number, whose parameters are as many as those of a whole array of one's
    for given_ in (DRAWS[draw], MANY[draw]):
        numbers = draw(*given_, size, 5)
        arrays = [np.full(size, value) for value in given_]
        assert np.array_equal(draw(*arrays, seed=5), numbers)
        assert np.array_equal(draw(arrays[0], *given_[1:], seed=5), numbers)
        assert np.array_equal(draw(*given_, 100, 5), numbers[:100])


@each_draw
def test_arrays_are_broadcast_and_out_is_filled_in_its_own_order(draw):
    first, *rest = DRAWS[draw]
    rows = np.array([[first], [2 * first]])
    shape = (2, 7)
    found = draw(rows, *rest, shape, 6)
    assert found.shape == shape
    assert draw(rows, *rest, seed=6).shape == (2, 1)
    out = np.empty(shape, found.dtype, order="F")
    assert draw(rows, *rest, seed=6, out=out) is out
    assert np.array_equal(out, draw(np.broadcast_to(rows.T, (7, 2)), *rest, seed=6).T)
    assert np.ndim(draw(first, *rest, seed=6)) == 0


@st.composite
def spreads(draw):
    """Return a shape, and the shapes of two parameters that are broadcast to it."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    parts = [
        tuple(draw(st.sampled_from((1, length))) for length in shape)[draw(st.integers(0, len(shape))) :] for _ in range(2)
    ]
    return shape, parts


@given(
    spreads(), st.sampled_from("CF"), st.lists(st.sampled_from(["C", "F", "strided", "reversed"]), min_size=2, max_size=2)
)
@settings(deadline=None, max_examples=100)
def test_each_number_has_its_own_parameters(spread, order, layouts):
    """A block's parameters are copied in the order of the array's memory, whatever the order of theirs."""
    shape, parts = spread
    values = [
        laid_out(np.random.default_rng(1).uniform(0.5, 3.0, part), how) for part, how in zip(parts, layouts, strict=True)
    ]
    full = [np.broadcast_to(value, shape) for value in values]
    out = np.empty(shape, order=order)
    sampling.gamma(*values, seed=3, out=out)
    if order == "F":
        full = [value.T for value in full]
    expected = sampling.gamma(*(np.ascontiguousarray(value) for value in full), seed=3)
    assert np.array_equal(out, expected.T if order == "F" else expected)


def laid_out(values, how):
    if how == "strided":
        return np.repeat(values[..., None], 3, axis=-1)[..., 1]
    return np.flip(np.flip(values).copy()) if how == "reversed" else np.array(values, order=how)


def test_parameters_are_copied_block_by_block():
    """Of blocks that begin and end within rows."""
    columns = np.linspace(0.5, 30.0, 1000)
    shape = (2 * BLOCK // 1000 + 3, 1000)
    whole = sampling.poisson(np.tile(columns, (shape[0], 1)), seed=4)
    assert np.array_equal(sampling.poisson(columns, shape, 4), whole)
    assert np.array_equal(sampling.poisson(columns[:, None], seed=4, out=np.empty(shape[::-1], int, order="F")), whole.T)


def test_singles_are_the_doubles_rounded():
    for draw, given_ in DRAWS.items():
        if draw in (sampling.poisson, sampling.binomial):
            continue
        singles, doubles = draw(*given_, 1000, 7, dtype="f4"), draw(*given_, 1000, 7)
        assert np.array_equal(singles, doubles.astype(np.float32)), draw


@numba.njit
def single_numbers(g):
    return (
        rng.lognormal(g, 0.3, 0.5),
        rng.gamma(g, 2.5, 2.0),
        rng.gamma(g, 1),
        rng.beta(g, 0.4, 2),
        rng.chisquare(g, 3),
        rng.standard_t(g, 4.0),
        rng.poisson(g, 3.5),
        rng.poisson(g, 35),
        rng.binomial(g, 20, 0.2),
        rng.binomial(g, 200, 0.7),
    )


def test_nopython_code_draws_what_python_draws():
    one, other = rng.generator(rng.key(8), 1), rng.generator(rng.key(8), 1)
    for _ in range(50):
        assert single_numbers(one) == (
            rng.lognormal(other, 0.3, sigma=0.5),
            rng.gamma(other, 2.5, 2.0),
            rng.gamma(other, 1),
            rng.beta(other, 0.4, 2),
            rng.chisquare(other, df=3),
            rng.standard_t(other, 4),
            rng.poisson(other, 3.5),
            rng.poisson(other, lam=35),
            rng.binomial(other, 20, 0.2),
            rng.binomial(other, 200, p=0.7),
        )
    assert np.array_equal(one, other)


def test_parameters_at_their_limits():
    assert not sampling.gamma(0.0, size=100).any()
    assert not sampling.gamma(3.0, 0.0, 100).any()
    assert not sampling.poisson(0.0, 100).any()
    assert not sampling.binomial(0, 0.5, 100).any()
    assert not sampling.binomial(10, 0.0, 100).any()
    assert (sampling.binomial(10, 1.0, 100) == 10).all()
    assert (sampling.binomial(2**53, 1.0, 100) == 2**53).all()
    assert (sampling.lognormal(1.0, 0.0, 100) == np.exp(1.0)).all()
    assert (sampling.poisson(9.2e18, 100) > 9.19e18).all()
    tiny = sampling.beta(1e-305, 1e-305, 1000, 3)
    assert np.isin(tiny, (0.0, 1.0)).all()
    assert 400 < tiny.sum() < 600


WRONG = {
    "a negative shape": (lambda: sampling.gamma(-1.0, size=3), ValueError, "^shape, scale: expected numbers of at least 0$"),
    "a NaN among shapes": (lambda: sampling.gamma([1.0, np.nan]), ValueError, "^shape, scale: expected numbers of at"),
    "a negative sigma": (lambda: sampling.lognormal(0, -1, 3), ValueError, "^sigma: expected numbers of at least 0$"),
    "no beta": (lambda: sampling.beta(1, 0, 3), ValueError, "^a, b: expected numbers above 0$"),
    "no degrees": (lambda: sampling.chisquare(0, 3), ValueError, "^df: expected numbers above 0$"),
    "no degrees of t": (lambda: sampling.standard_t([1, -1]), ValueError, "^df: expected numbers above 0$"),
    "a large mean": (lambda: sampling.poisson(1e19, 3), ValueError, r"^lam: expected numbers from 0 to 9.2e18$"),
    "half a trial": (lambda: sampling.binomial(2.5, 0.1, 3), ValueError, r"^n: expected integers from 0 to 2\*\*53$"),
    "a share above 1": (lambda: sampling.binomial(2, 1.1, 3), ValueError, "^p: expected numbers from 0 to 1$"),
    "text": (lambda: sampling.poisson("x", 3), TypeError, "^lam: expected a number or an array of numbers, got 'x'$"),
    "shapes that differ": (lambda: sampling.gamma([1, 2], [1, 2, 3]), ValueError, "do not fit each other$"),
    "another size": (lambda: sampling.gamma([1, 2], size=3), ValueError, "^size: expected a shape that parameters of"),
    "an array of doubles": (lambda: sampling.poisson(1, out=np.empty(3)), TypeError, "contiguous array of int64, got "),
    "one of rng's": (lambda: rng.gamma(rng.generator(rng.key(1), 0), -1), ValueError, "^shape, scale: expected numbers"),
    "too many trials": (lambda: rng.binomial(rng.generator(rng.key(1), 0), 2**54, 0.5), ValueError, "^n, p: expected an"),
    "half a trial of rng's": (
        lambda: rng.binomial(rng.generator(rng.key(1), 0), 2.5, 0.5),
        TypeError,
        "^n: expected an int",
    ),
}


@pytest.mark.parametrize("call, error, told", WRONG.values(), ids=WRONG)
def test_parameters_that_are_none_are_refused_in_one_line(call, error, told):
    with pytest.raises(error, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- what they are made of -----------------------------------------------------------------------------------------------


@numba.njit
def log_poisson(k, mean):
    return distributions._log_poisson(k, mean, log(mean))


@numba.njit
def log_binomial(n, k, p):
    means = n * p, n * (1.0 - p)
    return distributions._log_binomial(n, k, means, (log(means[0]), log(means[1])))


def test_a_count_far_below_a_large_mean_has_no_probability():
    """BTRS proposes it once in many millions of draws: no trial fails of 100,000 whose failures have a mean of 70,000."""
    for k in (0.0, 1.0, 17.0):
        assert log_poisson(k, 70_000.0) == -math.inf
        assert log_binomial(100_000.0, 100_000.0 - k, 0.3) == -math.inf
    assert -69_000 > log_poisson(18.0, 70_000.0) > -70_000


def exact_log_poisson(k, mean):
    """Return the logarithm of a Poisson probability out of numbers of 50 digits: SciPy's loses those that cancel."""
    with decimal.localcontext(prec=50):
        k, mean = decimal.Decimal(k), decimal.Decimal(mean)
        if k < 40:
            log_factorial = decimal.Decimal(math.factorial(int(k))).ln()
        else:  # Stirling's series to its seventh term
            series = sum(1 / (c * k ** (2 * i + 1)) for i, c in enumerate((12, -360, 1260, -1680, 1188)))
            log_factorial = (k + decimal.Decimal("0.5")) * k.ln() - k + decimal.Decimal(2 * PI).ln() / 2 + series
        return k * mean.ln() - mean - log_factorial


@given(st.floats(10.0, 1e15), st.floats(-8.0, 8.0))
@settings(deadline=None, max_examples=200)
def test_the_logarithm_of_a_poisson_probability_is_exact(mean, deviations):
    k = max(0.0, math.floor(mean + deviations * math.sqrt(mean)))
    assert log_poisson(k, mean) == pytest.approx(float(exact_log_poisson(k, mean)), rel=1e-12, abs=1e-9)


@given(st.integers(20, 2**40), st.floats(0.01, 0.5), st.floats(-7.0, 7.0))
@settings(deadline=None, max_examples=200)
def test_the_ratio_of_two_binomial_probabilities_is_exact(n, p, deviations):
    mode = math.floor((n + 1) * p)
    k = min(n, max(0, math.floor(n * p + deviations * math.sqrt(n * p * (1 - p)))))
    found = log_binomial(float(n), float(k), p) - log_binomial(float(n), float(mode), p)
    q, n_p = 1.0 - p, n * p
    expected = [float(exact_log_poisson(i, n_p) + exact_log_poisson(n - i, n * q)) for i in (k, mode)]
    assert found == pytest.approx(expected[0] - expected[1], rel=1e-9, abs=1e-8)


@numba.njit
def natural_logarithm(x):
    return log(x)


@numba.njit
def exponential_of(x):
    return exp(x)


@given(st.floats(-745.0, 709.7))
@settings(deadline=None)
def test_functions_of_one_number_are_those_of_vectors(x):
    assert exponential_of(x) == pytest.approx(math.exp(x), rel=3e-16, abs=5e-324)
    assert natural_logarithm(max(math.exp(x), 2.3e-308)) == pytest.approx(max(x, math.log(2.3e-308)), rel=3e-16, abs=3e-16)


@given(st.floats(0.0, 9.999), st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_table_finds_the_count_of_each_part_of_the_range(mean, uniforms):
    sums = distributions.poisson_table(mean)
    starts = guided(sums, 0.0, 1.0)[:-2]
    for u in [*uniforms, 0.0, 1 - 2.0**-53]:
        place = int(starts[int(u * len(starts))])
        while u >= sums[place]:
            place += 1
        assert place == np.searchsorted(sums, u, side="right")
        assert place == 0 or u >= sums[place - 1]
