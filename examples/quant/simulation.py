"""Pairs of antithetic paths on all cores: blocks of them are the items of a service's `map`.

A block has a random stream of its own, named by the seed and the block's number. So a result depends on the seed and on the
number of pairs, and on nothing else: neither the number of workers nor their share of the blocks changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from flame_fast.kernels.moments import Moments
from moments import thinned

from flame_fast import Runner

#: Pairs of paths in a block; their samples stay in a core's cache.
BLOCK = 1024


def pairs_of(block: int, pairs: int) -> int:
    """Return how many of `pairs` pairs are in a block: in the last one there may be fewer."""
    return min(BLOCK, pairs - block * BLOCK)


def simulate(name: str, block_moments: Callable[[int], Moments], pairs: int, workers: int | None) -> list[Moments]:
    """Run all blocks.

    Parameters
    ----------
    name : str
        The runner's name.
    block_moments : callable
        Returns the moments of the block of a number; runs in the workers.
    pairs : int
        Pairs of paths in all blocks.
    workers : int, optional
        Worker processes; by default as many as there are CPUs.

    Returns
    -------
    list of Moments
        The moments after ever more blocks, for the picture; the last ones are of all blocks.
    """
    blocks = -(-pairs // BLOCK)
    with Runner(name, workers=workers) as rr:
        return list(thinned(accumulate(rr.service(block_moments).map(range(blocks)), Moments.merge)))
