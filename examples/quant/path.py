"""Down-and-out call by quasi-Monte Carlo on all cores: how fast Sobol points converge, beside random numbers.

A down-and-out call dies when the asset's price falls to a barrier. Contracts look at some dates only; the call that is
monitored all the time is priced along, from the same paths. Both ways of simulation price both calls: paths are Brownian
bridges of scrambled Sobol points, or of random numbers. Each way makes many estimates, independent of each other: of another
scrambling, or of other random numbers. So their spread tells the error of one, whichever way it comes from. Run it as
`python examples/quant/path.py` from the clone's root, or as `python path.py` from here; `--help` lists the parameters. It
ends with an error if an estimate is further than 5 standard errors from its exact value.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import accumulate, islice, product

import numpy as np
from closed_forms import Option, chance_of_payoff, continuity_corrected, down_and_out_call, reflection
from convergence import Convergence
from flame_fast.kernels.moments import Moments
from moments import Estimates, Floats
from parameters import add_number, check_strike, checked_option, number, option_parser, power_of_two, whole
from quadrature import discrete_down_and_out_call
from reports import check, describe, distances, factor, print_table, significant

from flame_fast import Runner

#: Paths of a task; the shortest run whose error is shown.
BLOCK = 1024
#: Estimates of each way: of fewer, 5 of their standard errors would not be beyond chance.
FEWEST_ESTIMATES = 32
#: Largest logarithm of a `reflection` that the closed form can take.
MOST_REFLECTION = 600.0

WAYS = ["random numbers", "Sobol points"]
RANDOM, SOBOL = range(2)
MONITORED = ["at the dates", "all the time"]


# ---- simulation ----------------------------------------------------------------------------------------------------------


def block_moments(option: Option, barrier: float, dates: int, seed: int, way: int, estimate: int, block: int) -> Moments:
    """Return the moments of one block of the paths of an estimate: the payoffs of the call `MONITORED` either way.

    A block is a slice of the estimate's Sobol sequence, or has a random stream of its own. Runs in a worker; so the driver
    needs no Numba, and compiles nothing.
    """
    from flame_fast.kernels import quasi, rng
    from path_kernel import slice_of_paths

    plan = quasi.bridge(np.linspace(option.maturity / dates, option.maturity, dates))
    key = rng.key(seed, estimate)
    return Moments.of(slice_of_paths(key, way == SOBOL, block * BLOCK, BLOCK, plan, option, barrier))


def doubling_means(blocks: Iterable[Moments]) -> Iterator[Floats]:
    """Yield the means of the first block, the first two, the first four and so on: there, Sobol points are best."""
    for count, moments in enumerate(accumulate(blocks, Moments.merge), start=1):
        if count & (count - 1) == 0:
            yield moments.mean


def moments_of_estimates(estimates: Floats) -> Moments:
    """Return the moments of the estimates in an array. Runs in a worker, as `block_moments` does."""
    return Moments.of(estimates)


def simulate(args: argparse.Namespace, option: Option) -> tuple[Floats, Moments]:
    """Run all blocks.

    Blocks are merged in their order: neither the number of workers nor their share of the blocks changes the result.

    Returns
    -------
    estimates : float64 array, shape (ways, numbers of paths, estimates, calls)
        From ever more paths, by `doubling_means`; of the calls in `MONITORED`.
    moments : Moments
        Of the estimates from all paths: a stack for the `WAYS`, of one quantity for each call.
    """
    blocks = args.paths // BLOCK
    task = partial(block_moments, option, args.barrier, args.steps, args.seed)
    with Runner("barrier-option", workers=args.workers) as rr:
        found = rr.service(task).starmap(product(range(len(WAYS)), range(args.estimates), range(blocks)))
        means = [
            [list(doubling_means(islice(found, blocks))) for _ in range(args.estimates)]  # one row for each estimate
            for _ in WAYS
        ]
        estimates = np.swapaxes(means, 1, 2)
        return estimates, rr.service(moments_of_estimates)(estimates[:, -1]).get()


# ---- parameters ----------------------------------------------------------------------------------------------------------


def parse() -> tuple[argparse.Namespace, Option]:
    """Parse and check the command line."""
    parser = option_parser("Down-and-out call by quasi-Monte Carlo on all cores.")
    add_number(parser, "--barrier", number(1e-3, 1e9), 90.0, "the price at which the option dies")
    add_number(parser, "--steps", whole(1, 365), 52, "dates of monitoring, equally spaced, the last the maturity")
    add_number(parser, "--paths", power_of_two(4 * BLOCK, 1 << 32), 65_536, "how many, of each estimate")
    add_number(parser, "--estimates", whole(FEWEST_ESTIMATES, 10_000), 64, "how many by each way, for the error of one")
    args = parser.parse_args()
    option = checked_option(parser, args)
    if args.barrier >= option.spot:
        parser.error(f"argument --barrier: expected a price below the spot, {option.spot:g}, got {args.barrier:g}")
    weight = reflection(option, continuity_corrected(option, args.barrier, args.steps))
    if weight > MOST_REFLECTION:
        parser.error(
            f"argument --rate: expected (1 - 2 * rate / volatility**2) * log(spot / barrier) to be at most "
            f"{MOST_REFLECTION:g}, got {weight:g}"
        )
    check_strike(parser, args, "stay above the barrier, and end above", chance_of_payoff(option, args.barrier))
    return args, option


# ---- report --------------------------------------------------------------------------------------------------------------


def print_prices(moments: Moments, exact: Floats) -> None:
    """Print the means of the estimates from all paths beside the exact prices, and check them."""
    mean, error, (low, high) = moments.mean, moments.standard_error, moments.interval(0.95)
    rows, found = [], []
    for call, way in product(range(len(MONITORED)), range(len(WAYS))):
        at = way, call
        [off] = distances(Estimates(mean[at].reshape(1), error[at].reshape(1)), exact[call : call + 1])
        confidence = f"{significant(low[at])} to {significant(high[at])}"
        name = f"{MONITORED[call]}, {WAYS[way]}"
        rows.append([name, significant(mean[at]), f"{error[at]:#.2g}", confidence, significant(exact[call]), f"{off:+.2f}"])
        found.append(off)
    print_table(["monitored", "estimate", "std. error", "95 % confidence", "exact", "off by"], rows)
    print("(exact: at the dates by quadrature, all the time by the closed form)")
    check([row[0] for row in rows], np.array(found))
    print(
        f"Checked: all {len(rows)} estimates are within 5 standard errors of their exact values, "
        f"at most {max(map(abs, found)):.2f} off."
    )


def print_correction(option: Option, args: argparse.Namespace, exact: float) -> None:
    """Print what the closed form gives for the dates, by the continuity correction, beside the exact price."""
    barrier = continuity_corrected(option, args.barrier, args.steps)
    price = down_and_out_call(option, barrier)
    print(
        f"The closed form with a barrier at {significant(barrier)}, the continuity correction for these dates, gives "
        f"{significant(price)}:\noff by {price / exact - 1:+.1e} of the exact price at the dates."
    )


def convergences(estimates: Floats, call: int) -> list[Convergence]:
    """Return how the estimates of a call's price converge with the number of paths, for each of `WAYS`."""
    counts = BLOCK * 2.0 ** np.arange(estimates.shape[1])
    return [Convergence(way, counts, prices) for way, prices in zip(WAYS, estimates[..., call], strict=True)]


def print_convergence(title: str, ways: list[Convergence]) -> None:
    """Print the errors of single estimates, by what factor they differ, and as which power of the paths they fall."""
    random, sobol = ways[RANDOM], ways[SOBOL]
    rows = [
        [f"{count:,.0f}", f"{error:#.3g}", f"{smaller:#.3g}", factor(error / smaller)]
        for count, error, smaller in zip(random.counts, random.errors, sobol.errors, strict=True)
    ]
    rows.append(["rate", *("n^{:.2f} +/- {:.2f}".format(*way.rate()) for way in ways), ""])
    print_table([title, *WAYS, "smaller by"], rows)


def draw(path: str, args: argparse.Namespace, option: Option, estimates: Floats) -> None:
    """Draw the convergence of both calls' prices."""
    from picture import draw_errors

    title = f"Down-and-out call ({describe(option)}, barrier {args.barrier:g}, {args.steps} dates)"
    panels = {f"monitored {name}": convergences(estimates, call) for call, name in enumerate(MONITORED)}
    draw_errors(path, title, "currency of the spot", "paths", panels)


def main() -> None:
    """Simulate, and report."""
    args, option = parse()
    print("Down-and-out call by quasi-Monte Carlo: scrambled Sobol points beside random numbers")
    print(
        f"{describe(option)}, barrier {args.barrier:g}, {args.steps} dates; "
        f"{args.estimates:,} estimates by each way, of {args.paths:,} paths, seed {args.seed}\n"
    )
    estimates, moments = simulate(args, option)
    exact = np.array([discrete_down_and_out_call(option, args.barrier, args.steps), down_and_out_call(option, args.barrier)])
    for call, name in enumerate(MONITORED):
        print_convergence(f"error of n paths, monitored {name}", convergences(estimates, call))
        print()
    if args.picture:
        draw(args.picture, args, option, estimates)
    print_correction(option, args, exact[0])
    print()
    print_prices(moments, exact)


if __name__ == "__main__":
    main()
