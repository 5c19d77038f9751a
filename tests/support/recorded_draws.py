"""Draws of all kinds, by name, each with its digest: what never changes, on any CPU and with any number of threads."""

from __future__ import annotations

import hashlib
import json

import numba
import numpy as np
from flame_fast.kernels import estimate_batch, quasi, rng, sampling, variance

SIZE = 20_000

#: From a seed to an array.
DRAWS = {
    "pairs": lambda seed: sampling.pairs(SIZE, seed),
    "uniforms": lambda seed: sampling.uniforms(SIZE, seed),
    "uniforms, float32": lambda seed: sampling.uniforms(SIZE, seed, dtype="f4"),
    "normals": lambda seed: sampling.normals(SIZE, seed),
    "normals, float32": lambda seed: sampling.normals(SIZE, seed, dtype="f4"),
    "exponentials": lambda seed: sampling.exponentials(SIZE, seed),
    "integers": lambda seed: sampling.integers(-5, 10**12, SIZE, seed),
    "bytes": lambda seed: sampling.integers(6, size=SIZE, seed=seed, dtype="u1"),
    "lognormal": lambda seed: sampling.lognormal(0.1, 0.7, SIZE, seed),
    "gamma": lambda seed: sampling.gamma([[0.3], [1.0], [4.5]], 2.0, (3, SIZE), seed),
    "beta, of gamma numbers": lambda seed: sampling.beta(0.5, 3.0, SIZE, seed),
    "beta, of powers": lambda seed: sampling.beta(0.4, 0.9, SIZE, seed),
    "chisquare": lambda seed: sampling.chisquare(3, SIZE, seed),
    "standard_t": lambda seed: sampling.standard_t(2.5, SIZE, seed),
    "poisson": lambda seed: sampling.poisson([[0.7], [9.0], [40.0], [1e6]], (4, SIZE), seed),
    "binomial": lambda seed: sampling.binomial([[5], [100], [10**9]], [[0.3], [0.6], [1e-3]], (3, SIZE), seed),
    "choice": lambda seed: sampling.choice(1000, SIZE, seed),
    "choice by weights": lambda seed: sampling.choice(5, SIZE, seed, p=[0.1, 0.2, 0.3, 0.15, 0.25]),
    "choice without replacement": lambda seed: sampling.choice(10**6, SIZE, seed, replace=False),
    "permutation": lambda seed: sampling.permutation(3 * (1 << 16) + 7, seed),
    "multivariate normals": lambda seed: sampling.multivariate_normals(
        [1.0, 2.0, 3.0], [[2.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.5]], SIZE, seed
    ),
    "sobol": lambda seed: quasi.sobol(1024, 7, seed),
    "sobol_normals": lambda seed: quasi.sobol_normals(1024, 7, seed),
    "brownian_bridge": lambda seed: quasi.brownian_bridge(quasi.sobol_normals(256, 12, seed), np.arange(1.0, 13.0)),
    "stratified": lambda seed: variance.stratified(SIZE, seed),
    "latin_hypercube": lambda seed: variance.latin_hypercube(1000, 5, seed),
    "one by one": lambda seed: one_by_one(rng.key(seed), SIZE),
    "orders from a generator": lambda seed: rng.permutation(rng.generator(rng.key(seed), 1), SIZE),
    "choices from a generator": lambda seed: rng.choice(rng.generator(rng.key(seed), 2), 100, SIZE),
    "weighted choices from a generator": lambda seed: rng.choice(
        rng.generator(rng.key(seed), 2), 4, SIZE, p=[0.1, 0.2, 0.3, 0.4]
    ),
    "subsets from a generator": lambda seed: rng.choice(rng.generator(rng.key(seed), 3), 10**6, SIZE, replace=False),
    "a BitGenerator": lambda seed: np.random.Generator(rng.bit_generator(seed, 3)).integers(1 << 62, size=SIZE),
    "points in the circle": lambda seed: np.array([estimate_batch(n, seed) for n in (7, 70_000, 7_000_000)]),
}


@numba.njit
def one_by_one(key, size):
    """Draw numbers of each kind in turn from one generator."""
    g = rng.generator(key, 5)
    out = np.empty((size // 16, 11))
    for row in out:
        row[0] = rng.random(g)
        row[1] = rng.normal(g)
        row[2] = rng.exponential(g)
        row[3] = rng.integers(g, 10)
        row[4] = rng.gamma(g, 0.8)
        row[5] = rng.beta(g, 2.0, 0.5)
        row[6] = rng.chisquare(g, 4.0)
        row[7] = rng.standard_t(g, 3.0)
        row[8] = rng.lognormal(g, 0.0, 0.2)
        row[9] = rng.poisson(g, 12.0)
        row[10] = rng.binomial(g, 50, 0.4)
    return out


def digests(seed):
    """Return the first 16 digits of each draw's SHA-256."""
    return {name: hashlib.sha256(np.ascontiguousarray(draw(seed))).hexdigest()[:16] for name, draw in DRAWS.items()}


if __name__ == "__main__":
    print(json.dumps(digests(7)))
