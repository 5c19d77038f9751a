"""Reports of the examples: how they print their results, and what they do if those are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from closed_forms import Option
from moments import BAND, Estimates, Floats

#: Standard errors from the true value beyond which an estimate counts as wrong; chance goes there once in 1.7 million.
TOLERATED = 5.0

#: Rounding error of a value whose standard error is all but zero.
ROUNDING = 1e-11


def distances(estimates: Estimates, references: Floats) -> Floats:
    """Return how many standard errors the estimates are from their references."""
    return (estimates.values - references) / np.maximum(estimates.errors, ROUNDING * np.maximum(1, np.abs(references)))


def check(names: Sequence[str], found: Floats) -> None:
    """End the program with an error if one of the distances is too large, or no number at all."""
    for name, distance in zip(names, found, strict=True):
        if not abs(distance) <= TOLERATED:
            raise SystemExit(f"{name}: expected to be off by at most {TOLERATED:g} standard errors, got {distance:+.1f}")


def describe(option: Option) -> str:
    """Describe the option's parameters."""
    return ", ".join(f"{name} {value:g}" for name, value in option._asdict().items())


def print_estimates(
    title: str,
    names: Sequence[str],
    estimates: Estimates,
    against: tuple[str, Floats],
    found: Floats,
    factors: Mapping[str, Floats],
) -> None:
    """Print a table with a line for each quantity.

    Parameters
    ----------
    title : str
    names : sequence of str
        The quantities' names.
    estimates : Estimates
    against : tuple of str and float64 array
        The references: their name and the values.
    found : float64 array
        Standard errors that they are off by.
    factors : mapping of str to float64 array
        Variance reductions, by their names.
    """
    columns = {
        title: names,
        "estimate": map(significant, estimates.values),
        "std. error": map("{:#.2g}".format, estimates.errors),
        "95 % confidence": map(interval, estimates.values, estimates.errors),
        against[0]: map(significant, against[1]),
        "off by": map("{:+.2f}".format, found),
    } | {name: map(factor, values) for name, values in factors.items()}
    print_table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
    if factors:
        print(f"({' and '.join(factors)}: by what factor the variance falls, for as many paths)")


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns as wide as their longest text; the first has names, the others are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for name, *cells in (header, *rows):
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("   ".join([name.ljust(widths[0]), *aligned]).rstrip())


def significant(value: float) -> str:
    """Format a value with seven digits."""
    return f"{value:#.7g}"


def interval(value: float, error: float) -> str:
    """Format the 95 % confidence interval."""
    return f"{significant(value - BAND * error)} to {significant(value + BAND * error)}"


def factor(value: float) -> str:
    """Format the factor of a variance reduction."""
    return f"x {value:,.1f}" if value < 1e6 else f"x {value:.0e}"
