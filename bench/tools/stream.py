"""Writes the generator's words to standard output without end, for test batteries.

    python bench/tools/stream.py | dieharder -g 200 -a

The words are those of consecutive streams of one key, 2**15 of each as in a block of `estimate_batch`, so that a defect
within a stream, between its lanes, or between streams would show.
"""

import argparse
import os
import signal
import sys

import numpy as np
from flame_fast.kernels import rng
from numba import njit

BLOCK_WORDS = 1 << 15
BLOCKS_AT_ONCE = 32


@njit
def fill_blocks(key, first, out):
    """Fill `out` with the words of consecutive streams."""
    for block in range(out.size // BLOCK_WORDS):
        rng.fill_words(rng.stream(key, first + block), out[block * BLOCK_WORDS : (block + 1) * BLOCK_WORDS])


def main() -> None:
    """Write until the reader has had enough."""
    parser = argparse.ArgumentParser(description="Random words on standard output; see the top of this file.")
    parser.add_argument("--seed", type=int, default=1, help="from 0 to below 2**128 (1)")
    arguments = parser.parse_args()
    try:
        key = rng.key(arguments.seed)
    except ValueError as error:
        parser.error(f"argument --seed: {error}")
    if sys.stdout.isatty():
        parser.error(
            "standard output is a terminal; pipe it into a battery: `python bench/tools/stream.py | dieharder -g 200 -a`"
        )
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    words = np.empty(BLOCKS_AT_ONCE * BLOCK_WORDS, np.uint64)
    first = 0
    while True:
        fill_blocks(key, first, words)
        first += BLOCKS_AT_ONCE
        data = memoryview(words).cast("B")
        while data:
            data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
