"""A promise: what a seed gives never changes, neither from version to version nor from CPU to CPU."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import recorded_draws

PATIENCE_S = 300

#: Of the seed 7; see `recorded_draws`. A change here is a change for every user: the CHANGELOG has to tell it.
RECORDED = {
    "pairs": "00c5b75ded3e7a03",
    "uniforms": "20c667025f22d7b5",
    "uniforms, float32": "38d2051ac26e32fa",
    "normals": "231b19395bb15655",
    "normals, float32": "ac53205ed718838e",
    "exponentials": "8b471c65af5bdf70",
    "integers": "20beb2d4dbc39a73",
    "bytes": "73012cf907822e00",
    "lognormal": "00ee78de31a7ab96",
    "gamma": "4d1a650c38609bad",
    "beta, of gamma numbers": "cd94105066fa4423",
    "beta, of powers": "4a268251faa0269f",
    "chisquare": "32f6cbf980f68716",
    "standard_t": "8c8d0706e3367635",
    "poisson": "908994ddf69fcfb5",
    "binomial": "97a30c33ff71ea2b",
    "choice": "82a0964dd7304820",
    "choice by weights": "9725d1bf77aa6049",
    "choice without replacement": "2923b0a4a1b46834",
    "permutation": "a5281c697a1ee47c",
    "multivariate normals": "7fcdc7d068b421d5",
    "sobol": "43317305dbcdad3d",
    "sobol_normals": "30a8415ca28bc6be",
    "brownian_bridge": "f939d8396d924660",
    "stratified": "aacc79bb435f6efc",
    "latin_hypercube": "329011d58a29fe27",
    "one by one": "434ac1dc62a851dc",
    "orders from a generator": "160fd870025060d4",
    "choices from a generator": "eaaf68ff93424d26",
    "weighted choices from a generator": "d3f84890562888a1",
    "subsets from a generator": "2cbd4a3ac01001e4",
    "a BitGenerator": "d28bd741710d47dc",
    "points in the circle": "35a49198b6e3710a",
}


def digests(**settings):
    """Return the digests that a process of its own computes."""
    done = subprocess.run(
        [sys.executable, recorded_draws.__file__],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_numbers_are_those_recorded():
    assert digests() == RECORDED


@pytest.mark.storm
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="code for these CPUs is made on x86-64")
@pytest.mark.parametrize("cpu", ["generic", "haswell"])
def test_on_other_cpus_they_are_the_same(cpu, tmp_path):
    """Without fused multiply-add, and with AVX2: everything is compiled anew, which takes half a minute."""
    settings = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "3"}
    assert digests(**settings) == RECORDED
