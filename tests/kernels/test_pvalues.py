"""The probabilities that the tests of random numbers judge by, against printed tables and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pvalues import (
    binomial,
    chi_square,
    chi_square_of_cells,
    chi_square_of_normals,
    chi_square_tail,
    gamma_tail,
    kolmogorov_smirnov,
    kolmogorov_tail,
    normal_below,
    normal_tail,
    poisson_tail,
    pooled,
)

#: Degrees of freedom, statistic, probability: Abramowitz and Stegun, table 26.8, and any textbook.
CHI_SQUARE_TABLE = [
    (1, 3.841459, 0.05),
    (1, 10.827566, 0.001),
    (2, 5.991465, 0.05),
    (5, 11.070498, 0.05),
    (10, 3.940299, 0.95),
    (10, 23.209251, 0.01),
    (30, 43.772972, 0.05),
    (30, 13.786720, 0.995),
    (100, 124.342113, 0.05),
    (100, 135.806723, 0.01),
    (100, 149.449253, 0.001),
    (100, 67.327563, 0.995),
]


def test_chi_square_is_as_printed():
    for degrees, statistic, p in CHI_SQUARE_TABLE:
        assert chi_square_tail(statistic, degrees) == pytest.approx(p, rel=1e-5), (degrees, statistic)


@pytest.mark.parametrize("degrees", [2, 4, 30, 254, 1022, 4094])
def test_with_even_degrees_it_is_a_finite_sum(degrees):
    for share in (0.5, 0.9, 1.0, 1.1, 2.0):
        half = degrees * share / 2
        exact = sum(math.exp(k * math.log(half) - half - math.lgamma(k + 1)) for k in range(degrees // 2))
        assert chi_square_tail(degrees * share, degrees) == pytest.approx(exact, rel=1e-8, abs=1e-12)


def test_with_one_degree_it_is_the_normal_distribution():
    for z in (0.01, 0.5, 1.0, 2.0, 5.0, 8.0):
        assert chi_square_tail(z * z, 1) == pytest.approx(normal_tail(z), rel=1e-9)
        assert chi_square_of_normals([z]) == pytest.approx(normal_tail(z), rel=1e-9)


def test_chi_square_of_counts():
    # A die: sum of (counts - 10)**2 / 10 is 13.4 with five degrees.
    assert chi_square([5, 8, 9, 8, 10, 20], 10) == pytest.approx(0.01991, abs=1e-5)
    assert chi_square_of_cells(np.repeat(range(6), [5, 8, 9, 8, 10, 20]), 6) == pytest.approx(0.01991, abs=1e-5)
    with pytest.raises(AssertionError, match="the cells do not hold everything"):
        chi_square([5, 5], [6, 6])


def test_small_cells_are_pooled():
    observed, expected = pooled([1, 2, 3, 4, 5], [2.0, 3.0, 5.0, 1.0, 1.0])
    assert (observed.tolist(), expected.tolist()) == ([3, 12], [5.0, 7.0])


#: Distance times the square root of n, probability.
KOLMOGOROV_TABLE = [(0.5711, 0.9), (0.8276, 0.5), (1.2238, 0.1), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)]


def test_kolmogorovs_distribution_is_as_printed():
    for scaled, p in KOLMOGOROV_TABLE:
        assert kolmogorov_tail(scaled / 1e4, 10**8) == pytest.approx(p, rel=2e-3), scaled


def test_both_series_of_it_meet():
    below, above = (kolmogorov_tail(scaled / 1e4, 10**8) for scaled in (1.1799, 1.1801))
    assert 0 < below - above < 2e-4


def test_for_few_values_it_is_as_printed():
    """The tables are Massey's and Miller's, of critical values for five percent."""
    for n, distance in ((40, 0.210), (50, 0.1884), (100, 0.1340)):
        assert kolmogorov_tail(distance, n) == pytest.approx(0.05, abs=0.002), n


def test_the_distance_is_the_largest_of_both_sides():
    assert kolmogorov_smirnov(np.full(100, 0.3)) == pytest.approx(kolmogorov_tail(0.7, 100))
    assert kolmogorov_smirnov(np.full(100, 0.8)) == pytest.approx(kolmogorov_tail(0.8, 100))
    assert kolmogorov_smirnov((np.arange(100) + 0.5) / 100) == pytest.approx(1.0)  # too even


def test_the_normal_distribution_is_as_printed():
    assert normal_below([-1.959964, 0.0, 1.0, 2.326348]) == pytest.approx([0.025, 0.5, 0.8413447, 0.99], abs=1e-7)
    assert normal_tail(-3.0) == pytest.approx(0.0026998, abs=1e-7)


def test_tails_of_counts():
    assert poisson_tail(0, 2.5) == 1.0
    assert poisson_tail(3, 2.5) == pytest.approx(1 - math.exp(-2.5) * (1 + 2.5 + 2.5**2 / 2))
    assert binomial(4, 0.25) == pytest.approx([81 / 256, 108 / 256, 54 / 256, 12 / 256, 1 / 256])


def test_nothing_is_certain():
    assert gamma_tail(3.0, 0.0) == 1.0
    assert gamma_tail(3.0, 1e4) == 0.0
