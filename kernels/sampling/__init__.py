"""Arrays of random numbers, drawn on all cores: a seed and a size determine them, not the number of threads.

    from flame_fast.kernels import sampling

    z = sampling.normals(10_000_000, seed=7)
    u = sampling.uniforms((1000, 3), seed=[7, 1], dtype="float32")

These are plain functions around the streams and generators of `rng`: each block of 65,536 numbers, in the order of the
array's memory, has one. Each distribution has its own: one seed gives independent arrays of two of them. Call them directly,
or make services of a Runner of them: there, the array allocator places their results in shared memory.
"""

from __future__ import annotations

from flame_fast.kernels.sampling.arrays import exponentials, integers, normals, pairs, uniforms
from flame_fast.kernels.sampling.choosing import choice
from flame_fast.kernels.sampling.distributions import beta, binomial, chisquare, gamma, lognormal, poisson, standard_t
from flame_fast.kernels.sampling.multivariate import multivariate_normals
from flame_fast.kernels.sampling.permuting import permutation, shuffle

__all__ = [
    "beta",
    "binomial",
    "chisquare",
    "choice",
    "exponentials",
    "gamma",
    "integers",
    "lognormal",
    "multivariate_normals",
    "normals",
    "pairs",
    "permutation",
    "poisson",
    "shuffle",
    "standard_t",
    "uniforms",
]
