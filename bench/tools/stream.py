"""Writes the generator's words to standard output without end, for test batteries.

    python bench/tools/stream.py | dieharder -g 200 -a

The words are those of consecutive streams of one key, 2**15 of each as in a block of `estimate_batch`, so that a defect
within a stream, between its lanes, or between streams would show. Interleaved, each word is followed by the same one of the
next stream (or of the first stream of the next key), so that likeness of streams or of keys would show:

    python bench/tools/stream.py --interleave 32 | dieharder -g 200 -a
    python bench/tools/stream.py --interleave 32 --keys | dieharder -g 200 -a
"""

import argparse
import itertools
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


def consecutive(key):
    """Yield arrays of the words of consecutive streams."""
    words = np.empty(BLOCKS_AT_ONCE * BLOCK_WORDS, np.uint64)
    for first in itertools.count(0, BLOCKS_AT_ONCE):
        fill_blocks(key, first, words)
        yield words


def interleaved(streams):
    """Yield arrays of the words of these streams, a word of each in turn."""
    words = np.empty(BLOCK_WORDS, np.uint64)
    out = np.empty((BLOCK_WORDS, len(streams)), np.uint64)
    while True:
        for number, stream in enumerate(streams):
            rng.fill_words(stream, words)
            out[:, number] = words
        yield out


def write(arrays):
    """Write arrays to standard output until nobody reads."""
    for array in arrays:
        data = memoryview(array).cast("B")
        while data:
            data = data[os.write(1, data) :]


def main() -> None:
    """Write until the reader has had enough."""
    parser = argparse.ArgumentParser(description="Random words on standard output; see the top of this file.")
    parser.add_argument("--seed", type=int, default=1, help="from 0 to below 2**128 (1)")
    parser.add_argument("--interleave", type=int, metavar="N", help="a word of each of N streams in turn")
    parser.add_argument(
        "--keys", action="store_true", help="interleave the first streams of N keys: (seed, 0), (seed, 1) ..."
    )
    arguments = parser.parse_args()
    if arguments.keys and arguments.interleave is None:
        parser.error("argument --keys: expected --interleave N beside it")
    if arguments.interleave is not None and not 1 <= arguments.interleave <= 1024:
        parser.error(f"argument --interleave: expected an integer from 1 to 1024, got {arguments.interleave}")
    try:
        key = rng.key(arguments.seed)
    except ValueError as error:
        parser.error(f"argument --seed: {error}")
    if sys.stdout.isatty():
        parser.error(
            "standard output is a terminal; pipe it into a battery: `python bench/tools/stream.py | dieharder -g 200 -a`"
        )
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if arguments.interleave is None:
        write(consecutive(key))
    numbers = range(arguments.interleave)
    write(interleaved([rng.stream(rng.key(key, n), 0) if arguments.keys else rng.stream(key, n) for n in numbers]))


if __name__ == "__main__":
    main()
