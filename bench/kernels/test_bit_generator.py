"""What a number of NumPy's own distributions costs from a stream, beside NumPy's generators: `rng.bit_generator`.

pytest bench/kernels/test_bit_generator.py -m ratios -s
"""

from __future__ import annotations

from functools import partial
from statistics import median

import numpy as np
from flame_fast.kernels import rng
from measuring import interleaved, ratios, spread, timed

NUMBERS = 1 << 20
OUT = np.empty(NUMBERS)

#: What is drawn of a `np.random.Generator`, into memory that is there where it takes any.
DRAWS = {
    "raw words": lambda generator: generator.bit_generator.random_raw(NUMBERS, output=False),
    "random": lambda generator: generator.random(out=OUT),
    "standard_normal": lambda generator: generator.standard_normal(out=OUT),
    "standard_exponential": lambda generator: generator.standard_exponential(out=OUT),
    "integers": lambda generator: generator.integers(1000, size=NUMBERS),
    "standard_gamma": lambda generator: generator.standard_gamma(2.5, out=OUT),
}


def drawn_again(draw, generator):
    """Seconds of a second draw: the first finds the code and the memory."""
    draw(generator)
    return timed(draw, generator)


def test_ratios_of_numpys_distributions(report):
    generators = {
        "a stream": np.random.Generator(rng.bit_generator(1, 0)),
        "SFC64": np.random.Generator(np.random.SFC64(1)),
        "PCG64": np.random.Generator(np.random.PCG64(1)),
    }
    rows = []
    for name, draw in DRAWS.items():
        seconds = interleaved({who: partial(drawn_again, draw, generator) for who, generator in generators.items()})
        costs = ", ".join(f"{who} {median(values) / NUMBERS * 1e9:.2f} ns" for who, values in seconds.items())
        times = [spread(ratios(seconds[who], seconds["a stream"]), " times") for who in ("SFC64", "PCG64")]
        rows.append((name, f"{costs}: {times[0]} SFC64's speed, {times[1]} PCG64's"))
    report("a number of NumPy's distributions, from a stream and from NumPy's own generators", rows)
