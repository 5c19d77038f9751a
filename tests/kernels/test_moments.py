"""Moments against NumPy and SciPy: of any arrays, merged in any way, far from zero; intervals, control variates, errors."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import os
import pickle
import subprocess
import sys
from fractions import Fraction

import numba
import numpy as np
import pytest
from flame_fast.kernels import running
from flame_fast.kernels.jit.sample_moments import LANES, rows_of
from flame_fast.kernels.moments import Moments, controlled
from flame_fast.kernels.quantiles import MANY, normal_quantile, student_quantile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flame_fast import Runner

NAMES = ("count", "mean", "products", "minimum", "maximum", "cubes", "fourths")

#: Block ends of one column, and of three.
SIZES = [1, 2, LANES - 1, LANES, LANES + 1, *(rows_of(d) * k + e for d in (1, 3) for k in (1, 3) for e in (-1, 0, 1))]

FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)
OFFSETS = st.sampled_from([0.0, 1.0, -1e9, 1e9, 1e12])

settled = settings(deadline=None, max_examples=30)


def parts(moments):
    """Return all that moments have, as bytes: for comparisons to the last bit."""
    return [None if part is None else np.asarray(part).tobytes() for part in (getattr(moments, name) for name in NAMES)]


def exact(samples):
    """Return the mean and the sums of the deviations' powers from the second on, of doubles, without rounding."""
    values = [Fraction(value) for value in samples.tolist()]
    mean = sum(values) / len(values)
    return mean, [sum((value - mean) ** power for value in values) for power in (2, 3, 4)]


def close(found, wanted, scale, ulps=64):
    """Tell whether a sum is right up to rounding errors of its terms, whose absolute values sum up to `scale`."""
    return abs(Fraction(float(found)) - wanted) <= ulps * Fraction(2) ** -53 * Fraction(float(scale)) + Fraction(1, 10**300)


def checked(moments, samples, ulps=64):
    """Check moments of one quantity against exact ones."""
    mean, (squares, cubes, fourths) = exact(samples)
    assert moments.count == samples.size
    assert (moments.minimum, moments.maximum) == (samples.min(), samples.max())
    assert close(moments.mean, mean, np.abs(samples).max(), ulps)
    # A deviation is as accurate as the samples' distance from the first one.
    spread = float(np.abs(samples - samples[0]).max()) + 2.0**-50 * float(np.abs(samples).max())
    for found, wanted, power in ((moments.products, squares, 2), (moments.cubes, cubes, 3), (moments.fourths, fourths, 4)):
        if found is not None:
            assert close(found, wanted, samples.size * spread**power, ulps), power


# ---- of arrays -----------------------------------------------------------------------------------------------------------


@given(arrays.arrays(np.float64, st.integers(1, 60), elements=FLOATS), OFFSETS)
@settled
def test_of_one_quantity(samples, offset):
    checked(Moments.of(samples + offset, order=4), samples + offset)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_of_any_size(size, offset):
    samples = np.random.default_rng(size).standard_gamma(2.0, size) + offset
    checked(Moments.of(samples, order=4), samples)


@given(arrays.arrays(np.float64, st.tuples(st.integers(2, 40), st.integers(1, 5)), elements=FLOATS), OFFSETS)
@settled
def test_of_several_quantities(samples, offset):
    samples = samples + offset
    moments = Moments.of(samples)
    np.testing.assert_allclose(moments.mean, samples.mean(axis=0), rtol=1e-14, atol=1e-8 if offset == 0 else 0)
    spread = np.ptp(samples, axis=0) + np.abs(samples).max() * 1e-15
    tolerance = 1e-13 * len(samples) * np.outer(spread, spread)
    assert (np.abs(moments.covariance() - np.atleast_2d(np.cov((samples - samples[0]).T))) <= tolerance).all()
    assert np.array_equal(moments.products, moments.products.T)
    assert np.array_equal(moments.minimum, samples.min(axis=0))
    assert np.array_equal(moments.maximum, samples.max(axis=0))
    for column in range(samples.shape[1]):
        checked(moments.taken(column), samples[:, column])


@pytest.mark.parametrize("rows", [1, 1364, 1365, 1366, 5000])
def test_of_several_quantities_over_many_blocks(rows):
    samples = np.random.default_rng(rows).normal(size=(rows, 3)) @ np.array([[1, 0, 0], [0.5, 2, 0], [-1, 3, 0.1]]) + 1e8
    moments = Moments.of(samples, order=4)
    for column in range(3):
        checked(moments.taken(column), samples[:, column])
    if rows > 1:
        np.testing.assert_allclose(moments.covariance(), np.cov((samples - 1e8).T), rtol=1e-12)


def test_a_large_offset_does_not_take_the_digits():
    """The naive sum of squares would have none left."""
    deviations = np.random.default_rng(1).integers(-8, 9, 100_000) / 8.0
    for offset in (0.0, 1e9, 2.0**48):
        assert Moments.of(deviations + offset).variance() == pytest.approx(deviations.var(ddof=1), rel=1e-14)


def test_of_stacks():
    samples = np.random.default_rng(2).normal(size=(2, 4, 1500, 3))
    moments = Moments.of(samples, order=4)
    assert moments.mean.shape == (2, 4, 3)
    assert moments.products.shape == (2, 4, 3, 3)
    for i, j in itertools.product(range(2), range(4)):
        alone = Moments.of(samples[i, j], order=4)
        for name in NAMES[1:]:
            assert np.array_equal(getattr(moments, name)[i, j], getattr(alone, name)), name
    assert np.array_equal(moments.variance(), np.stack([[Moments.of(s).variance() for s in row] for row in samples]))
    assert np.array_equal((moments + moments).mean[1], (Moments.of(samples[1]) + Moments.of(samples[1])).mean)


def test_of_other_layouts_and_types():
    samples = np.random.default_rng(3).integers(0, 100, (300, 4))
    wanted = parts(Moments.of(samples.astype(np.float64)))
    wide = np.zeros((600, 8))
    wide[::2, ::2] = samples
    for same in (
        samples,
        samples.astype(np.uint8),
        np.asfortranarray(samples, np.float32),
        wide[::2, ::2],
        samples.tolist(),
    ):
        assert parts(Moments.of(same)) == wanted
    column = wide[::2, 2]
    assert parts(Moments.of(column)) == parts(Moments.of(samples[:, 1].copy()))
    frozen = samples.astype(np.float64)
    frozen.flags.writeable = False
    assert parts(Moments.of(frozen)) == wanted


def test_skewness_and_kurtosis():
    samples = np.random.default_rng(4).standard_exponential((7000, 2))
    moments = Moments.of(samples, order=4)
    normal = (samples - samples.mean(axis=0)) / samples.std(axis=0)
    np.testing.assert_allclose(moments.skewness, (normal**3).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.kurtosis, (normal**4).mean(axis=0) - 3, rtol=1e-12)
    assert isinstance(moments.taken(1).skewness, float)
    merged = sum(Moments.of(block, order=4) for block in np.array_split(samples, 9))
    np.testing.assert_allclose(merged.kurtosis, moments.kurtosis, rtol=1e-11)
    np.testing.assert_allclose(merged.skewness, moments.skewness, rtol=1e-11)


def test_samples_that_are_no_finite_numbers():
    for bad in (math.nan, math.inf, -math.inf):
        for place in (0, 5, 5000, 8999):
            samples = np.random.default_rng(5).normal(size=(9000, 2))
            samples[place, 1] = bad
            moments = Moments.of(samples, order=4)
            assert np.isnan(moments.mean).tolist() == [False, True]
            assert np.isnan(moments.variance()).tolist() == [False, True]
            assert np.isnan(moments.kurtosis).tolist() == [False, True]
            extremes = (moments.minimum[1], moments.maximum[1])
            np.testing.assert_array_equal(extremes, (samples[:, 1].min(), samples[:, 1].max()))
            merged = Moments.of(samples[:100, 1]) + Moments.of(samples[100:, 1])
            np.testing.assert_array_equal((merged.minimum, merged.maximum), extremes)
            assert math.isnan(merged.mean)


# ---- bits ----------------------------------------------------------------------------------------------------------------

BY_THREADS = """
import sys, hashlib, numba, numpy as np
from flame_fast.kernels.moments import Moments
rng = np.random.default_rng(6)
digest = hashlib.sha256()
numba.set_num_threads(int(sys.argv[1]))
for shape in ((500_001,), (60_001, 3), (5, 20_000, 2)):
    moments = Moments.of(rng.normal(size=shape) + 10, order=4)
    for name in ("mean", "products", "minimum", "maximum", "cubes", "fourths"):
        digest.update(np.asarray(getattr(moments, name)).tobytes())
print(digest.hexdigest())
"""


def test_any_number_of_threads_computes_the_same_bits():
    found = set()
    for threads in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", BY_THREADS, threads],
            capture_output=True,
            text=True,
            env={**os.environ, "NUMBA_NUM_THREADS": "3"},
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        found.add(done.stdout)
    assert len(found) == 1


def block_of(number):
    return Moments.of(np.random.default_rng(number).normal(size=(1000, 2)))


def test_workers_send_moments_and_their_order_is_that_of_the_blocks(project):
    blocks = [block_of(number) for number in range(12)]
    wanted = parts(sum(blocks))
    for workers in (1, 3):
        with Runner("blocks-of-moments", workers=workers) as rr:
            found = rr.get([rr.service(block_of)(number) for number in range(12)])
        assert parts(sum(found)) == wanted
        assert all(not moments.mean.flags.writeable for moments in found)


# ---- merging -------------------------------------------------------------------------------------------------------------


@given(
    arrays.arrays(np.float64, st.integers(3, 60), elements=FLOATS),
    st.sampled_from([0.0, 1.0, -1e6]),
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
)
@settled
@example(np.array([1.0, 2.0, 3.0]), 0.0, [0, 0, 3])
def test_merged_blocks_have_the_moments_of_all(samples, offset, ends):
    samples = samples + offset
    blocks = np.split(samples, sorted(min(end, samples.size) for end in ends))
    made = [Moments.of(block, order=4) for block in blocks]
    forth = sum(made)
    back = functools.reduce(lambda one, other: other + one, reversed(made))  # associates to the right
    for merged in (forth, back):
        size = float(np.abs(samples).max())
        assert merged.count == samples.size
        assert (merged.minimum, merged.maximum) == (samples.min(), samples.max())
        mean, sums = exact(samples)
        assert close(merged.mean, mean, size)
        for name, wanted, power in zip(("products", "cubes", "fourths"), sums, (2, 3, 4), strict=True):
            assert close(getattr(merged, name), wanted, samples.size * (2 * size) ** power, 256)


def test_the_order_of_two_does_not_matter_to_count_and_extremes():
    one, other = Moments.of([1.0, 2.0]), Moments.of([0.5, 4.0, 7.0])
    assert one.merge(other).count == other.merge(one).count == 5
    assert (one + other).minimum == (other + one).minimum == 0.5
    assert (one + other).products == pytest.approx((other + one).products, rel=1e-15)
    assert functools.reduce(operator.add, [one, other]).mean == sum([one, other]).mean


def test_moments_of_more_samples_than_there_are():
    """Each merge doubles the samples; the counts' fourth powers exceed all integers of 64 bits."""
    samples = np.random.default_rng(13).standard_exponential((100, 2))
    for moments in (Moments.of(samples, order=4), Moments.of(samples[:, 0], order=4)):
        merged = moments
        for _ in range(40):
            merged = merged + merged
        assert merged.count == 100 * 2**40
        for name in ("mean", "skewness", "kurtosis"):
            np.testing.assert_allclose(getattr(merged, name), getattr(moments, name), rtol=1e-12)
        np.testing.assert_allclose(merged.variance(0), moments.variance(0), rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, 1e9 / 3, -1e-300])
def test_what_never_varies_has_a_variance_of_zero(value):
    for size in (1, 3, 17, 199, 10_000):
        moments = Moments.of(np.full(size, value), order=4)
        merged = sum([moments, moments, Moments.of([value], order=4)])
        for each in (moments, merged, Moments.of_running(run(np.full(size, value), size // 3))):
            assert (each.mean, each.products, each.minimum, each.maximum) == (value, 0.0, value, value)
        assert (merged.cubes, merged.fourths) == (0.0, 0.0)


def test_no_samples_are_the_neutral_element():
    for shape in ((0,), (0, 3), (2, 0, 3)):
        nothing = Moments.of(np.empty(shape), order=4)
        assert nothing.count == 0
        assert np.isnan(nothing.mean).all()
        assert np.isnan(nothing.variance()).all()
        assert np.isnan(nothing.skewness).all()
        something = Moments.of(np.arange(1.0, 13).reshape(*(size or -1 for size in shape)), order=4)
        assert parts(nothing + something) == parts(something + nothing) == parts(something)
        assert (nothing + nothing).count == 0


def test_moments_are_immutable_and_pickled():
    for moments in (Moments.of([1.0, 2.0]), Moments.of([[1.0, 2.0], [3.0, 5.0]], order=4)):
        again = pickle.loads(pickle.dumps(moments))
        assert parts(again) == parts(moments)
        assert not np.asarray(again.mean).flags.writeable or isinstance(again.mean, float)
        with pytest.raises(AttributeError, match="^count: expected no change"):
            again.count = 3
        with pytest.raises(AttributeError, match="^mean: expected no change"):
            del again.mean
    with pytest.raises(ValueError, match="read-only"):
        moments.mean[0] = 1.0
    assert len(pickle.dumps(Moments.of([1.0, 2.0]))) < 150
    assert repr(Moments.of([1.0, 2.0])) == "Moments(count=2, mean=1.5, standard_error=0.5)"
    assert repr(moments) == "Moments(count=2, mean of shape (2,))"


# ---- intervals -----------------------------------------------------------------------------------------------------------


def test_quantiles_of_tables():
    for freedom, wanted in (
        (1, 12.7062047362),
        (2, 4.3026527297),
        (3, 3.1824463053),
        (10, 2.2281388520),
        (30, 2.0422724563),
    ):
        assert student_quantile(0.95, freedom) == pytest.approx(wanted, rel=1e-10)
    assert normal_quantile(0.95) == pytest.approx(1.959963984540054, rel=1e-15)


def test_quantiles_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for confidence in (0.01, 0.5, 0.9, 0.95, 0.99, 0.9999, 0.99999):
        assert normal_quantile(confidence) == pytest.approx(-stats.norm.ppf((1 - confidence) / 2), rel=1e-13)
        for freedom in (1, 2, 3, 4, 5, 10, 99, 1000, MANY - 1, MANY, MANY + 1, 10**5, 10**10):
            wanted = -stats.t.ppf((1 - confidence) / 2, freedom)
            tolerance = 1e-12 if 0.5 <= confidence <= 0.99 else 1e-9
            assert student_quantile(confidence, freedom) == pytest.approx(wanted, rel=tolerance), (confidence, freedom)


def test_intervals():
    samples = np.random.default_rng(7).normal(size=(20, 2))
    moments = Moments.of(samples)
    error = samples.std(axis=0, ddof=1) / math.sqrt(20)
    np.testing.assert_allclose(moments.standard_error, error, rtol=1e-13)
    low, high = moments.interval()
    np.testing.assert_allclose(high - low, 2 * 2.09302405440831 * error, rtol=1e-12)
    np.testing.assert_allclose(low + high, 2 * moments.mean, rtol=1e-12)
    low, high = moments.taken(0).interval(0.99, normal=True)
    assert high - low == pytest.approx(2 * 2.5758293035489 * error[0], rel=1e-12)
    assert all(math.isnan(end) for end in Moments.of([1.0]).interval())
    assert Moments.of([3.0, 3.0]).interval() == (3.0, 3.0)
    np.testing.assert_allclose(moments.variance(0), samples.var(axis=0))


def test_the_interval_has_the_true_mean_in_it_as_often_as_it_says():
    """Of 2,000 experiments of 8 normal samples, within 4 standard deviations of the binomial number."""
    experiments, confidence = 2000, 0.95
    samples = np.random.default_rng(8).normal(3.0, 2.0, (experiments, 8, 1))
    moments = Moments.of(samples)
    low, high = moments.interval(confidence)
    band = 4 * math.sqrt(experiments * confidence * (1 - confidence))
    assert abs(((low <= 3.0) & (high >= 3.0)).sum() - experiments * confidence) < band
    low, high = moments.interval(confidence, normal=True)  # too narrow for 8 samples
    assert ((low <= 3.0) & (high >= 3.0)).sum() < experiments * confidence - band


# ---- control variates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 1, 2])
def test_control_variates_are_a_regression(target):
    rng = np.random.default_rng(9)
    controls = rng.normal([7.0, -2.0], [2.0, 1.0], (500, 2))
    value = controls @ [3.0, -1.0] + rng.normal(size=500) + 1e5
    samples = np.insert(controls, target, value, axis=1)
    found = controlled(Moments.of(samples), [7.0, -2.0], target=target)
    design = np.column_stack([np.ones(500), controls - [7.0, -2.0]])
    solution, (residual,), *_ = np.linalg.lstsq(design, value)
    assert found.value == pytest.approx(solution[0], rel=1e-13)
    assert found.freedom == 497
    assert found.error == pytest.approx(math.sqrt(residual / 497 / 500), rel=1e-8)
    low, high = found.interval()
    assert high - low == pytest.approx(2 * student_quantile(0.95, 497) * found.error)
    assert isinstance(found.value, float)


def test_control_variates_of_stacks():
    samples = np.random.default_rng(10).normal(size=(4, 300, 2)).cumsum(axis=2)
    expected = np.arange(4.0)[:, None]
    found = controlled(Moments.of(samples), expected)
    for each in range(4):
        alone = controlled(Moments.of(samples[each]), expected[each])
        assert (found.value[each], found.error[each]) == (alone.value, alone.error)


def test_control_variates_that_say_nothing_correct_nothing():
    samples = np.random.default_rng(11).normal(size=(200, 2))
    alone = Moments.of(samples[:, 0])
    for nothing in (np.zeros(200), np.full(200, 0.1), np.full(200, 1e9)):
        found = controlled(Moments.of(np.column_stack([samples[:, 0], nothing])), 7.0)
        assert found.value == alone.mean
    twice = controlled(Moments.of(np.column_stack([samples, 2 * samples[:, 1]])), [0.1, 0.2])
    once = controlled(Moments.of(samples), 0.1)
    assert twice.value == pytest.approx(once.value, rel=1e-12)
    assert math.isnan(controlled(Moments.of(samples[:2]), 0.0).error)


# ---- running moments -----------------------------------------------------------------------------------------------------


@numba.njit
def run(samples, cut):
    one, other = running.started(), running.started()
    for sample in samples[:cut]:
        one = running.added(one, sample)
    for sample in samples[cut:]:
        other = running.added(other, sample)
    return running.merged(one, other)


@given(arrays.arrays(np.float64, st.integers(1, 40), elements=FLOATS), st.integers(0, 40))
@settled
def test_running_moments_in_nopython_code_and_in_python(samples, cut):
    found = run(samples, cut)
    assert isinstance(found, running.Running)
    size = float(np.abs(samples).max())
    mean, (squares, _, _) = exact(samples)
    moments = Moments.of_running(found)
    assert close(moments.mean, mean, size)
    assert close(moments.products, squares, samples.size * (2 * size) ** 2)
    assert (moments.count, moments.minimum, moments.maximum) == (samples.size, samples.min(), samples.max())


def test_running_moments_are_the_same_from_python():
    samples = np.random.default_rng(12).normal(size=20)
    one = functools.reduce(running.added, samples[:7], running.started())
    other = functools.reduce(running.added, samples[7:], running.started())
    assert running.merged(one, other) == run(samples, 7)
    assert running.merged(running.started(), one) == running.merged(one, running.started()) == one


def test_running_moments_of_nan():
    for samples in ([math.nan, 1.0], [1.0, math.nan], [1.0, math.nan, 2.0, 3.0]):
        for cut in range(3):
            found = run(np.array(samples), cut)
            assert found.count == len(samples)
            assert all(math.isnan(figure) for figure in found[1:])


# ---- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: Moments.of(["a"]), TypeError, "samples: expected real numbers, got <U1"),
        (lambda: Moments.of(np.zeros(2, complex)), TypeError, "samples: expected real numbers, got complex128"),
        (
            lambda: Moments.of([[1.0], [1.0, 2.0]]),
            ValueError,
            "samples: expected an array of real numbers, got rows of several lengths",
        ),
        (
            lambda: Moments.of(1.0),
            ValueError,
            "samples: expected an array of shape (n,), (n, d) or (..., n, d), got a number",
        ),
        (
            lambda: Moments.of(np.zeros((3, 0))),
            ValueError,
            "samples: expected at least one quantity in each sample, got shape (3, 0)",
        ),
        (lambda: Moments.of([1.0], order=3), ValueError, "order: expected 2 or 4, got 3"),
        (
            lambda: Moments.of([1.0]).skewness,
            ValueError,
            "skewness: expected moments of order 4, got order 2; make them by Moments.of(samples, order=4)",
        ),
        (lambda: Moments.of([1.0]).merge(1), TypeError, "other: expected Moments, got int"),
        (
            lambda: Moments.of([1.0]) + Moments.of([[1.0]]),
            ValueError,
            "other: expected moments of the same quantities, of shape (), got (1,)",
        ),
        (
            lambda: Moments.of([1.0]) + Moments.of([1.0], order=4),
            ValueError,
            "other: expected moments of the same order, got those of order 2 and of order 4",
        ),
        (lambda: Moments.of([1.0]).variance(-1), ValueError, "ddof: expected an integer of at least 0, got -1"),
        (
            lambda: Moments.of([1.0, 2.0]).interval(95),
            ValueError,
            "confidence: expected a number above 0 and below 1, got 95",
        ),
        (lambda: Moments.of([1.0, 2.0]).interval("95"), TypeError, "confidence: expected a number, got '95'"),
        (
            lambda: Moments.of([1.0]).taken(0),
            ValueError,
            "columns: expected moments of several quantities, got those of one",
        ),
        (lambda: Moments.of([[1.0]]).taken([1]), ValueError, "columns: expected integers from 0 to below 1, got [1]"),
        (
            lambda: Moments.of([[[1.0]]]).taken(0),
            ValueError,
            "columns: expected a list of integers, for the moments are of stacks, got 0",
        ),
        (lambda: Moments.of_running(3), TypeError, "running: expected running moments, as of running.added, got 3"),
        (lambda: controlled(3, 1.0), TypeError, "moments: expected Moments, got int"),
        (
            lambda: controlled(Moments.of([1.0]), 1.0),
            ValueError,
            "moments: expected those of quantity 0 and at least one control variate, got 1 quantities",
        ),
        (
            lambda: controlled(Moments.of([[1.0, 2.0]]), [1.0, 2.0]),
            ValueError,
            "expected: expected 1 numbers for each target, got an array of shape (2,)",
        ),
        (lambda: running.added(3, 1.0), TypeError, "running: expected running moments, got 3"),
        (lambda: running.added(running.started(), "a"), TypeError, "sample: expected a number, got 'a'"),
        (lambda: running.merged(running.started(), 1), TypeError, "other: expected running moments, got 1"),
    ],
)
def test_errors(call, error, said):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == said


def test_adding_something_else_is_an_error():
    for other in (1, 0.0, None, {}):
        with pytest.raises(TypeError, match="unsupported operand"):
            Moments.of([1.0]) + other
        with pytest.raises(TypeError, match="unsupported operand"):
            other + Moments.of([1.0])


def test_nopython_code_of_wrong_types_is_refused():
    @numba.njit
    def of_what(running_moments, sample):
        return running.added(running_moments, sample)

    with pytest.raises(
        numba.TypingError, match=r"running\.added: expected running moments as of running\.started, got int64"
    ):
        of_what(1, 1.0)
    with pytest.raises(numba.TypingError, match=r"running\.added: expected a number as the sample, got unicode_type"):
        of_what(running.started(), "a")
