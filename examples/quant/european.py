"""European call and put by Monte Carlo on all cores: price, delta, vega and gamma beside Black and Scholes' formulas.

Every sample is a pair of antithetic paths, corrected by a control variate, the discounted price of the asset at maturity.
Run it as `python examples/quant/european.py` from the clone's root, or as `python european.py` from here; `--help` lists the
parameters. It ends with an error if an estimate is further than 5 standard errors from its formula.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from closed_forms import NORMAL, Option, black_scholes_call, black_scholes_put, moneyness, terminal_price
from flame_fast.kernels.moments import Moments
from moments import Floats, antithetic, controlled, variance_reduction
from parameters import add_paired_paths, check_strike, checked_option, option_parser
from reports import check, describe, distances, print_estimates
from simulation import pairs_of, simulate

NAMES = [f"{kind} {value}" for kind in ("call", "put") for value in ("price", "delta", "vega", "gamma")]


def block_moments(option: Option, seed: int, pairs: int, block: int) -> Moments:
    """Return the moments of one block of pairs of paths.

    Runs in a worker; so the driver needs no Numba, and compiles nothing.
    """
    from european_kernel import block_of_pairs
    from flame_fast.kernels.rng import key

    return Moments.of(block_of_pairs(key(seed), block, pairs_of(block, pairs), option))


def parse() -> tuple[argparse.Namespace, Option]:
    """Parse and check the command line."""
    parser = option_parser("European call and put by Monte Carlo on all cores.")
    add_paired_paths(parser, 4_000_000)
    args = parser.parse_args()
    option = checked_option(parser, args)
    forward, spread = terminal_price(option)
    d2 = moneyness(forward, option.strike, spread)[1]
    check_strike(parser, args, "end above", NORMAL.cdf(d2))
    check_strike(parser, args, "end below", NORMAL.cdf(-d2))
    return args, option


def draw(path: str, option: Option, running: list[Moments], expected: Floats, exact: Floats) -> None:
    """Draw the convergence of the call's price."""
    from picture import curves_of, draw_convergence

    title = f"European call by Monte Carlo ({describe(option)})"
    curves = curves_of(running, 0, expected, ("Black-Scholes", exact[0]))
    draw_convergence(path, title, "price", "currency of the spot", "paths", curves)


def report(args: argparse.Namespace, option: Option, running: list[Moments]) -> None:
    """Print every estimate beside its formula, draw a picture if wanted, and check all estimates."""
    moments, expected = running[-1], np.full(len(NAMES), option.spot)  # of the control variate, whatever it corrects
    exact = np.array([*black_scholes_call(option), *black_scholes_put(option)])
    estimates = controlled(moments, expected)
    off = distances(estimates, exact)
    factors = {
        "antithetic": variance_reduction(moments, antithetic(moments)),
        "with control": variance_reduction(moments, estimates),
    }
    print_estimates("", NAMES, estimates, ("Black-Scholes", exact), off, factors)
    if args.picture:
        draw(args.picture, option, running, expected, exact)
    check(NAMES, off)
    print(
        f"\nChecked: the call's price, {estimates.values[0]:.6f}, and the other {len(NAMES) - 1} estimates are within 5 "
        f"standard errors of Black-Scholes, at most {abs(off).max():.2f} off."
    )


def main() -> None:
    """Simulate, and report."""
    args, option = parse()
    print("European call and put by Monte Carlo, with the discounted price of the asset as control variate")
    print(f"{describe(option)}; {args.paths:,} paths in antithetic pairs, seed {args.seed}\n")
    pairs = args.paths // 2
    task = partial(block_moments, option, args.seed, pairs)
    report(args, option, simulate("european-options", task, pairs, args.workers))


if __name__ == "__main__":
    main()
