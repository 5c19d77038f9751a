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
from flame_fast.kernels.sampling.distributions import beta, binomial, chisquare, gamma, lognormal, poisson, standard_t

__all__ = [
    "beta",
    "binomial",
    "chisquare",
    "exponentials",
    "gamma",
    "integers",
    "lognormal",
    "normals",
    "pairs",
    "poisson",
    "standard_t",
    "uniforms",
]
