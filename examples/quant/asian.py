"""Asian call by Monte Carlo on all cores: price, delta and vega of the call on an asset's average price.

The arithmetic average has no closed form. Every sample is a pair of antithetic paths, corrected by the call on the geometric
average, whose closed form (Kemna and Vorst's) is known. The program checks two things: the simulated geometric call against
its closed form, and the corrected estimates against plain ones. It ends with an error if one is further off than 5 standard
errors. Run it as `python examples/quant/asian.py` from the clone's root, or as `python asian.py` from here; `--help` lists
the parameters.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from closed_forms import NORMAL, Option, geometric_asian_call, geometric_average, moneyness
from flame_fast.kernels.moments import Moments
from moments import (
    Floats,
    antithetic,
    control,
    controlled,
    controlled_less_plain,
    plain,
    variance_reduction,
)
from parameters import add_number, add_paired_paths, check_strike, checked_option, option_parser, whole
from reports import check, describe, distances, print_estimates
from simulation import pairs_of, simulate

NAMES = ["price", "delta", "vega"]


def block_moments(option: Option, dates: int, seed: int, pairs: int, block: int) -> Moments:
    """Return the moments of one block of pairs of paths.

    Runs in a worker; so the driver needs no Numba, and compiles nothing.
    """
    from asian_kernel import block_of_pairs
    from flame_fast.kernels.rng import key

    return Moments.of(block_of_pairs(key(seed), block, pairs_of(block, pairs), option, dates))


def parse() -> tuple[argparse.Namespace, Option]:
    """Parse and check the command line."""
    parser = option_parser("Asian call by Monte Carlo on all cores.")
    add_paired_paths(parser, 400_000)
    add_number(parser, "--steps", whole(1, 100_000), 50, "dates averaged over, equally spaced, the last the maturity")
    args = parser.parse_args()
    option = checked_option(parser, args)
    forward, spread = geometric_average(option, args.steps)
    check_strike(parser, args, "average above", NORMAL.cdf(moneyness(forward, option.strike, spread)[1]))
    return args, option


def draw(path: str, option: Option, dates: int, running: list[Moments], expected: Floats) -> None:
    """Draw the convergence of the price."""
    from picture import curves_of, draw_convergence

    title = f"Asian call by Monte Carlo ({describe(option)}, {dates:,} dates)"
    draw_convergence(path, title, "price", "currency of the spot", "paths", curves_of(running, 0, expected, None))


def report(args: argparse.Namespace, option: Option, running: list[Moments]) -> None:
    """Print the calls on both averages, draw a picture if wanted, and check what has a known value."""
    moments, expected = running[-1], np.array(geometric_asian_call(option, args.steps)[: len(NAMES)])
    arithmetic, geometric = controlled(moments, expected), control(moments)
    apart = distances(controlled_less_plain(moments, expected), np.zeros(len(NAMES)))
    off = distances(geometric, expected)
    factors = {
        "antithetic": variance_reduction(moments, antithetic(moments)),
        "with control": variance_reduction(moments, arithmetic),
    }
    print_estimates("arithmetic average", NAMES, arithmetic, ("plain estimate", plain(moments).values), apart, factors)
    print()
    print_estimates("geometric average", NAMES, geometric, ("closed form", expected), off, {})
    if args.picture:
        draw(args.picture, option, args.steps, running, expected)
    check([f"arithmetic {name}" for name in NAMES], apart)
    check([f"geometric {name}" for name in NAMES], off)
    print(
        f"\nChecked: the geometric average is within 5 standard errors of its closed form, "
        f"at most {abs(off).max():.2f} off;\n"
        f"the arithmetic average, price {arithmetic.values[0]:.6f}, of its plain estimate, "
        f"at most {abs(apart).max():.2f} off."
    )


def main() -> None:
    """Simulate, and report."""
    args, option = parse()
    print("Asian call by Monte Carlo, with the call on the geometric average as control variate")
    print(f"{describe(option)}, {args.steps:,} dates; {args.paths:,} paths in antithetic pairs, seed {args.seed}\n")
    pairs = args.paths // 2
    task = partial(block_moments, option, args.steps, args.seed, pairs)
    report(args, option, simulate("asian-option", task, pairs, args.workers))


if __name__ == "__main__":
    main()
