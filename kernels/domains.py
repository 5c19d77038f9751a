"""Domains: what the numbers of a stream are for. Streams of one key and number in different domains share nothing.

A promise: none of them changes, so what a seed gives stays the same.
"""

from __future__ import annotations

import numpy as np

#: Streams that users name, and the points of `estimate_batch`.
FREE, PI = np.uint64(0), np.uint64(1)

#: Generators of single numbers.
GENERATOR = np.uint64(2)

#: The arrays of `sampling`, by their distribution.
PAIRS, UNIFORMS, NORMALS, EXPONENTIALS, INTEGERS = map(np.uint64, range(3, 8))
CHOICE, SUBSET, PERMUTATION, MULTIVARIATE_NORMAL = map(np.uint64, range(8, 12))
LOGNORMAL, GAMMA, BETA, STUDENT_T, CHISQUARE, POISSON, BINOMIAL = map(np.uint64, range(12, 19))

#: Stratified numbers and Latin hypercubes of `variance`.
STRATA, HYPERCUBE = np.uint64(64), np.uint64(65)

#: What scrambles the points of `quasi`, by dimension.
SCRAMBLING = np.uint64(2 << 32)
