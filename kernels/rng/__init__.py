"""Random numbers for nopython code and for Python: streams of 8 lanes and generators, without jump-ahead or locks.

A stream's name is a key, which `key` makes of a seed, and a number, say that of a block of samples. So what a kernel draws
depends on the seed and the block alone: any thread, any worker and any CPU computes the same numbers.

    key = rng.key(seed)

    @njit(parallel=True)
    def payoffs(key, out):
        for block in prange(out.size // BLOCK):
            stream = rng.stream(key, block)
            rng.fill_normals(stream, out[block * BLOCK : (block + 1) * BLOCK])

Draw single numbers, and those of other distributions, from a generator:

    @njit
    def steps_until(key, path, level):
        g = rng.generator(key, path)
        place, steps = 0.0, 0
        while place < level:
            place += rng.normal(g, 0.1)
            steps += 1
        return steps

`shuffle`, `permutation` and `choice` take a generator, too.

Each lane is a xoshiro256++ generator [1]_; eight of them step as one SIMD vector. Their states are the outputs of the block
cipher Threefry-4x64-20 [2]_ for the counters (number, lane, domain, 0) under the key. The cipher is a bijection, so no two
lanes of one key begin in the same state. Their sequences might still overlap further on: n lanes that draw L words each
overlap somewhere with a probability of at most n * n * L / 2**256. All 2**62 points that one call of `estimate_batch` can
draw take 2**49 lanes with 2**12 words each: 2**-146. For 2**40 seeds with as many points each it is 2**-66. Without a seed,
a key is 128 bits from the operating system.

NumPy's own distributions, SciPy and scikit-learn draw from a stream by `bit_generator`.

All other functions serve nopython code and Python alike. A stream or a generator is an array: a caller that passes it on
shares it. Two threads must not use one at the same time. On CPUs without a fused multiply-add, which is none of x86-64 since
2013 nor of arm64, normal and exponential numbers are the same, and ten times as dear.

References
----------
.. [1] D. Blackman, S. Vigna, "Scrambled linear pseudorandom number generators", ACM Transactions on Mathematical Software
   47(4), 2021.
.. [2] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011.
"""

from __future__ import annotations

from flame_fast.kernels.bitgen import bit_generator
from flame_fast.kernels.keys import Key, key
from flame_fast.kernels.rng.arranging import choice, permutation, shuffle
from flame_fast.kernels.rng.distributions import beta, binomial, chisquare, gamma, lognormal, poisson, standard_t
from flame_fast.kernels.rng.generators import exponential, generator, integers, normal, random
from flame_fast.kernels.rng.multivariate import fill_multivariate_normals
from flame_fast.kernels.rng.streams import (
    fill_exponentials,
    fill_integers,
    fill_normals,
    fill_pairs,
    fill_uniforms,
    fill_words,
    stream,
)

__all__ = [
    "GENERATOR",
    "Key",
    "beta",
    "binomial",
    "bit_generator",
    "chisquare",
    "choice",
    "exponential",
    "fill_exponentials",
    "fill_integers",
    "fill_multivariate_normals",
    "fill_normals",
    "fill_pairs",
    "fill_uniforms",
    "fill_words",
    "gamma",
    "generator",
    "integers",
    "key",
    "lognormal",
    "normal",
    "permutation",
    "poisson",
    "random",
    "shuffle",
    "standard_t",
    "stream",
]

#: The generator of a lane, the lanes of a stream, and the cipher that seeds them.
GENERATOR = "xoshiro256++, 8 lanes, seeded by Threefry-4x64-20"
