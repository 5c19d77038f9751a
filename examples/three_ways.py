"""One program three times: with `multiprocessing.Pool`, with joblib, and with a Runner; each with its lines and its time.

The longest chain of Collatz's numbers below a limit is looked for in blocks. Run it as `python examples/three_ways.py`; an
argument sets the number of blocks (40). Start and end of the processes count.
"""

import argparse
import inspect
import time
from collections.abc import Callable
from multiprocessing import Pool

from joblib import Parallel, delayed

from flame_fast import Runner

BLOCK = 2_000
WORKERS = 2


def longest(block: int) -> tuple[int, int]:
    """Return the most steps that a number of a block takes to reach 1, and that number."""

    def steps(number: int) -> int:
        count = 0
        while number > 1:
            number = 3 * number + 1 if number % 2 else number // 2
            count += 1
        return count

    return max((steps(number), number) for number in range(block * BLOCK + 1, (block + 1) * BLOCK + 1))


def with_pool(blocks: int) -> tuple[int, int]:
    with Pool(WORKERS) as pool:
        return max(pool.imap_unordered(longest, range(blocks)))


def with_joblib(blocks: int) -> tuple[int, int]:
    return max(Parallel(n_jobs=WORKERS)(delayed(longest)(block) for block in range(blocks)))


def with_runner(blocks: int) -> tuple[int, int]:
    with Runner("three-ways", workers=WORKERS) as rr:
        return max(rr.service(longest).map(range(blocks), ordered=False))


def main() -> None:
    """Run the three, and check that they find the same."""
    parser = argparse.ArgumentParser(description="One program, three ways; see the top of this file.")
    parser.add_argument(
        "blocks", type=int, nargs="?", default=40, help=f"blocks of {BLOCK:,} numbers (default: %(default)s)"
    )
    blocks = parser.parse_args().blocks

    ways: list[Callable[[int], tuple[int, int]]] = [with_pool, with_joblib, with_runner]
    found = set()
    for way in ways:
        start = time.perf_counter()
        found.add(way(blocks))
        seconds = time.perf_counter() - start
        source = inspect.getsource(way)
        print(f"{source}    # {len(source.splitlines())} lines, {seconds:.2f} s\n")

    ((steps, number),) = found
    print(f"All three: of the numbers up to {blocks * BLOCK:,}, {number:,} takes the most steps, {steps}.")


if __name__ == "__main__":
    main()
