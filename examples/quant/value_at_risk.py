"""Value at risk of a portfolio by Monte Carlo on all cores: full revaluation of shares and options.

The driver stores the covariance matrix of the assets' returns once, with `put_object`. The matrix's handle is the argument
of one task, which makes the Cholesky factor; the handle of that task's result is an argument of all others. So neither is
copied, and a matrix that has no such factor fails them all with one and the same error.

Random scenarios have normal returns. So the loss of the shares alone is normal too, and checked against its closed form. Of
the whole portfolio the expected loss is known. Run it as `python examples/quant/value_at_risk.py` from the clone's root, or
as `python value_at_risk.py` from here; `--help` lists the parameters. It ends with an error if something is off by more than
5 standard errors.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from closed_forms import normal_value_at_risk
from moments import Estimates, Floats
from parameters import add_number, common_parser, fraction, whole
from portfolio import (
    TRADING_DAYS,
    Book,
    NotPositiveDefinite,
    delta_holdings,
    lower_factor,
    made_up_book,
    made_up_covariance,
    quadrature_loss,
    read_covariance,
)
from reports import check, distances, print_table
from tail_risk import MEASURES, tail_risk

from flame_fast import Runner

#: Scenarios of a task; they have a random stream of their own.
BLOCK = 4096
#: Losses that must be on either side of the value at risk.
FEWEST_BEYOND = 100
SHARES, DELTAS, ALL = range(3)


def block_losses(factor: Floats, book: Book, deltas: Floats, years: float, seed: int, scenarios: int, block: int) -> Floats:
    """Return the losses in one block of scenarios.

    Runs in a worker; so the driver needs no Numba, and compiles nothing.
    """
    from flame_fast.kernels.rng import key
    from scenario_kernel import losses_of

    return losses_of(key(seed), block, min(BLOCK, scenarios - block * BLOCK), factor, book, deltas, years)


def simulate(daily: Floats, book: Book, deltas: Floats, args: argparse.Namespace) -> Floats:
    """Return the losses in all scenarios, as `scenario_kernel.losses_of` has them: a float64 array (3, scenarios)."""
    with Runner("value-at-risk", workers=args.workers) as rr:
        factor = rr.service(lower_factor)(rr.put_object(daily), args.days)
        losses_in = rr.service(block_losses)
        blocks = [
            losses_in(factor, book, deltas, args.days / TRADING_DAYS, args.seed, args.scenarios, block)
            for block in range(-(-args.scenarios // BLOCK))
        ]
        return np.concatenate(rr.get(blocks), axis=1)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the parameters."""
    parser = common_parser("Value at risk of a portfolio by Monte Carlo on all cores.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--covariance", metavar="FILE", help="of returns over a day: .npy, or lines of numbers and commas")
    add_number(source, "--assets", whole(1, 2000), 120, "how many, of a made-up covariance matrix")
    add_number(parser, "--confidence", fraction, 0.99, "that the loss is not above the value at risk")
    add_number(parser, "--days", whole(1, 100), 10, "trading days that the portfolio is held")
    add_number(parser, "--scenarios", whole(10_000, 10**8), 200_000, "how many")
    return parser


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Floats]:
    """Parse and check the command line; return it with the covariance matrix of the returns over a day."""
    args = parser.parse_args()
    beyond = args.scenarios * min(args.confidence, 1 - args.confidence)
    if beyond < FEWEST_BEYOND:
        parser.error(
            f"argument --confidence: expected at least {FEWEST_BEYOND} of {args.scenarios:,} scenarios on either side of "
            f"the value at risk, got {args.confidence:g}, which leaves {beyond:.0f}; give more scenarios or another one"
        )
    try:
        return args, read_covariance(args.covariance) if args.covariance else made_up_covariance(args.assets)
    except ValueError as error:
        parser.error(f"argument --covariance: {error}")


def normal_risk(holdings: Floats, covariance: Floats, confidence: float) -> Floats:
    """Return both risk measures of a loss of shares with these values."""
    return np.array(normal_value_at_risk(math.sqrt(holdings @ covariance @ holdings), confidence))


def expected_loss_of(losses: Floats) -> Estimates:
    """Estimate the expected loss of the whole portfolio, with the loss of its deltas as control variate.

    That control variate has the expectation 0.
    """
    corrected = losses[ALL] - losses[DELTAS]
    return Estimates(corrected.mean(keepdims=True), corrected.std(keepdims=True) / math.sqrt(len(corrected)))


def print_risk(
    title: str, estimates: Estimates, intervals: list[tuple[float, float]], compared: str, references: Floats
) -> None:
    """Print a table of amounts in euros."""
    rows = [
        [name, f"{value:,.0f}", f"{error:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{reference:,.0f}", f"{distance:+.2f}"]
        for name, value, error, (low, high), reference, distance in zip(
            MEASURES, *estimates, intervals, references, distances(estimates, references), strict=True
        )
    ]
    print_table([title, "estimate", "std. error", "95 % confidence", compared, "off by"], rows)


def draw(path: str, args: argparse.Namespace, losses: Floats, exact: float, by_deltas: float) -> None:
    """Draw the convergence of the value at risk."""
    from picture import Curve, draw_convergence

    first = FEWEST_BEYOND / 4 / min(args.confidence, 1 - args.confidence)
    counts = np.geomspace(first, args.scenarios, 60).astype(int)

    def curve(label: str, row: Floats, known: tuple[str, float]) -> Curve:
        running = np.array([tail_risk(row[:count], args.confidence)[0] for count in counts]) / 1e6
        values, errors = running[:, :, 0].T
        return Curve(label, counts.astype(float), values, errors, known)

    curves = (
        curve("shares", losses[SHARES], ("closed form", exact / 1e6)),
        curve("shares and options", losses[ALL], ("by deltas alone", by_deltas / 1e6)),
    )
    title = f"Value at risk by Monte Carlo ({args.days} days, confidence {args.confidence:g})"
    draw_convergence(path, title, "value at risk", "million euros", "scenarios", curves)


def report(args: argparse.Namespace, book: Book, deltas: Floats, daily: Floats, losses: Floats) -> None:
    """Print both risk measures in two tables, draw a picture if wanted, and check them against known values."""
    covariance = daily * args.days
    exact, by_deltas = (normal_risk(holdings, covariance, args.confidence) for holdings in (book.holdings, deltas))
    shares, intervals = tail_risk(losses[SHARES], args.confidence)
    print_risk("shares", shares, intervals, "closed form", exact)
    print()
    print_risk("shares and options", *tail_risk(losses[ALL], args.confidence), "by deltas alone", by_deltas)
    if args.picture:
        draw(args.picture, args, losses, exact[0], by_deltas[0])

    mean = expected_loss_of(losses)
    off, mean_off = distances(shares, exact), distances(mean, quadrature_loss(book, daily, args.days))
    check([f"{name} of the shares" for name in MEASURES], off)
    check(["expected loss of shares and options"], mean_off)
    print(
        f"\nChecked: the shares' value at risk, {shares.values[0]:,.0f}, and expected shortfall are within 5 standard "
        f"errors of\ntheir closed forms, at most {abs(off).max():.2f} off; the expected loss of shares and options, "
        f"{mean.values[0]:,.0f}, of quadrature, {mean_off[0]:+.2f} off."
    )


def main() -> None:
    """Simulate, and report."""
    parser = make_parser()
    args, daily = parse(parser)
    book = made_up_book(daily)
    deltas = delta_holdings(book)
    try:
        losses = simulate(daily, book, deltas, args)
    except NotPositiveDefinite as error:
        parser.error(f"argument --covariance: {error}")

    print("Value at risk by Monte Carlo, from returns whose covariance matrix all tasks share; amounts in euros")
    print(
        f"assets {len(daily):,}, options {len(book.options.assets):,}, days {args.days}, confidence {args.confidence:g}; "
        f"{args.scenarios:,} scenarios, seed {args.seed}\n"
    )
    report(args, book, deltas, daily, losses)


if __name__ == "__main__":
    main()
