"""Quasi-Monte Carlo: scrambled Sobol points, normal ones, and Brownian paths made of them.

    from flame_fast.kernels import quasi

    z = quasi.sobol_normals(1 << 16, 64, seed=7)  # 65,536 points in 64 dimensions
    paths = quasi.brownian_bridge(z, np.linspace(1 / 64, 1, 64))

For smooth integrands, the error of n scrambled points falls nearly as n**-1.5, that of random numbers as n**-0.5. A point is
a function of its number and the seed: any slice of a sequence, drawn by any worker, thread and CPU, has the same numbers, so
workers share out a sequence by `first`.

    def payoff(number):
        z = quasi.sobol_normals(4096, 64, seed=7, first=4096 * number)
        return np.exp(quasi.brownian_bridge(z, np.linspace(1 / 64, 1, 64))).mean()

In nopython code, `fill_sobol` and `fill_sobol_normals` fill the rows of an array, and `fill_paths` makes paths of normal
numbers by a plan.

    key = rng.key(7)
    plan = quasi.bridge(np.linspace(1 / 64, 1, 64))

    @njit
    def paths(block, out):
        quasi.fill_sobol_normals(key, block * len(out), out)
        quasi.fill_paths(plan, out)
"""

from __future__ import annotations

from flame_fast.kernels.quasi.brownian import bridge, brownian_bridge, fill_paths
from flame_fast.kernels.quasi.points import fill_sobol, fill_sobol_normals, sobol, sobol_normals

__all__ = ["bridge", "brownian_bridge", "fill_paths", "fill_sobol", "fill_sobol_normals", "sobol", "sobol_normals"]
