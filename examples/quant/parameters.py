"""Parameters of the examples on the command line, and the errors of parameters that make no sense.

A type here is a function that argparse calls with the text given. A text that it refuses ends the program with status 2 and
a sentence that names the parameter, the expected values, and the text.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable

from closed_forms import Option

#: Standard deviation of a price's logarithm beyond which its variance rests on too few paths to be trusted.
MOST_SPREAD = 1.5
#: Largest logarithm of the growth by interest.
MOST_GROWTH = 10.0
#: Paths that must have a payoff for their mean to be about normal.
FEWEST_PAYING = 1000


def number(low: float, high: float) -> Callable[[str], float]:
    """Return the type of a number from `low` to `high`."""

    def parse(text: str) -> float:
        value = _float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:,g}, got {text!r}")
        return value

    return parse


def fraction(text: str) -> float:
    """Parse a number between 0 and 1, neither of them included."""
    value = _float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {text!r}")
    return value


def whole(low: int, high: int, even: bool = False) -> Callable[[str], int]:
    """Return the type of a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        value = _int(text)
        if value is None or not low <= value <= high or (even and value % 2):
            kind = "an even whole" if even else "a whole"
            raise argparse.ArgumentTypeError(f"expected {kind} number from {low:,} to {high:,}, got {text!r}")
        return value

    return parse


def power_of_two(low: int, high: int) -> Callable[[str], int]:
    """Return the type of a power of two from `low` to `high`."""

    def parse(text: str) -> int:
        value = _int(text)
        if value is None or not low <= value <= high or value & (value - 1):
            raise argparse.ArgumentTypeError(f"expected a power of two from {low:,} to {high:,}, got {text!r}")
        return value

    return parse


def seed(text: str) -> int:
    """Parse a seed of random streams."""
    value = _int(text)
    if value is None or not 0 <= value < 1 << 128:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to below 2**128, got {text!r}")
    return value


def picture_file(text: str) -> str:
    """Parse the name of a file to draw a picture to.

    Refuses what could not be drawn in the end before anything is computed.
    """
    try:
        import picture
    except ImportError as error:
        raise argparse.ArgumentTypeError(
            f"expected matplotlib to draw {text!r} with, got {error}; install it with `pip install matplotlib`"
        ) from None
    if os.path.splitext(text)[1].lower() not in picture.ENDINGS:
        raise argparse.ArgumentTypeError(f"expected a file name that ends with {', '.join(picture.ENDINGS)}, got {text!r}")
    directory = os.path.dirname(text) or "."
    if os.path.isdir(text) or not os.access(directory, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"expected a file in a directory that can be written to, got {text!r}")
    return text


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # no comparison holds for it


def _int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def common_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the parameters of every example."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=seed, default=1, help="the same seed gives the same result (default: %(default)s)")
    parser.add_argument("--workers", type=whole(1, 1024), help="worker processes (default: one for each CPU)")
    parser.add_argument("--picture", type=picture_file, metavar="FILE", help="draw the convergence (.pdf, .png or .svg)")
    return parser


def add_number(
    parser: argparse._ActionsContainer, name: str, parse: Callable[[str], float], default: float, meaning: str
) -> None:
    """Add a parameter whose help tells its default."""
    parser.add_argument(name, type=parse, default=default, help=f"{meaning} (default: {default:,})")


def option_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the parameters of an option, too."""
    parser = common_parser(description)
    add_number(parser, "--spot", number(1e-3, 1e9), 100.0, "today's price of the asset")
    add_number(parser, "--strike", number(1e-3, 1e9), 100.0, "the price agreed on")
    add_number(parser, "--rate", number(-1, 1), 0.05, "interest per year, compounded continuously")
    add_number(parser, "--volatility", number(1e-3, 10), 0.2, "per year")
    add_number(parser, "--maturity", number(1e-3, 100), 1.0, "years until it can be exercised")
    return parser


def add_paired_paths(parser: argparse.ArgumentParser, paths: int) -> None:
    """Add the number of paths in antithetic pairs."""
    add_number(parser, "--paths", whole(10_000, 10**12, even=True), paths, "how many, both of each antithetic pair")


def checked_option(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Option:
    """Return the option of the arguments; end the program where they make no sense together."""
    option = Option(args.spot, args.strike, args.rate, args.volatility, args.maturity)
    spread = option.volatility * math.sqrt(option.maturity)
    growth = option.rate * option.maturity
    if spread > MOST_SPREAD:
        parser.error(
            f"argument --volatility: expected volatility * sqrt(maturity) to be at most {MOST_SPREAD:g}, got {spread:g}"
        )
    if abs(growth) > MOST_GROWTH:
        parser.error(f"argument --rate: expected rate * maturity from {-MOST_GROWTH:g} to {MOST_GROWTH:g}, got {growth:g}")
    return option


def check_strike(parser: argparse.ArgumentParser, args: argparse.Namespace, fate: str, chance: float) -> None:
    """End the program if too few paths would have a fate such as "end above" the strike.

    `chance` is the chance of each path.
    """
    if args.paths * chance < FEWEST_PAYING:
        parser.error(
            f"argument --strike: expected at least {FEWEST_PAYING} of {args.paths:,} paths to {fate} it, "
            f"got {args.strike:g}, where about {args.paths * chance:.0f} would; give more paths or another strike"
        )
