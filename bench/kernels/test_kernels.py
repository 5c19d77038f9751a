"""What a random point costs: the kernel beside NumPy, Numba's own generator and the same kernel by hand; the pi example.

    pytest bench/kernels/test_kernels.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds
    pytest bench/kernels/test_kernels.py -m ratios

The benchmark groups run one contender after the other. The `ratios` tests interleave them and print each figure with its
spread, as a ratio pair by pair, beside the figure that flame_fast promises.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from flame_fast.kernels import GENERATOR, estimate_batch
from measuring import interleaved, ratios, spread, timed
from samplers import CPUS, by_hand, on_threads, samplers, separate_processes, threads, through

from flame_fast import Runner

SIZES = (10_000, 1_000_000, 100_000_000)
BY_HAND_POINTS = 1 << 28
SEED = 4
ROOT = Path(__file__).parents[2]

#: Shortest measurement, in seconds: small counts are repeated for as long.
SHORTEST_S = 0.02


@pytest.fixture(scope="module")
def contenders(private_home):
    with samplers() as started:
        yield started


NAMES = (
    "NumPy, as in the article",
    "NumPy, SFC64, in pieces",
    "Numba, np.random",
    "Numba, np.random, prange",
    "estimate_batch, 1 thread",
    "estimate_batch, all threads",
    "estimate_batch, 1 worker",
    "estimate_batch, 2 workers",
)
BASELINE = NAMES[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("points", SIZES, ids="{:.0e}".format)
def test_points(benchmark, contenders, name, points):
    benchmark.group = f"{points:,} points"
    rounds = 5 if points == SIZES[-1] else 20
    inside = benchmark.pedantic(contenders[name], (points,), rounds=rounds, warmup_rounds=1)
    assert abs(inside / points - 0.7853981634) < 6 * (0.1686 / points) ** 0.5


def seconds_each(count, points):
    """Of one call, from as many as fill the shortest measurement."""
    times = max(1, int(SHORTEST_S / max(timed(count, points), 1e-7)))
    return timed(lambda: [count(points) for _ in range(times)]) / times


def test_ratios_points(contenders, report):
    rows = []
    for points in SIZES:
        rounds = 3 if points == SIZES[-1] else 7
        measures = {name: partial(seconds_each, count, points) for name, count in contenders.items()}
        seconds = interleaved(measures, rounds)
        rows.append((f"{points:,} points", ""))
        for name, values in seconds.items():
            rates = [points / value / 1e6 for value in values]
            over = "" if name == BASELINE else f": {spread(ratios(seconds[BASELINE], values), ' times')}"
            promised = "50 times" if (name, points) == ("estimate_batch, 1 thread", 1_000_000) else ""
            rows.append((f"    {name}", f"{median(rates):,.0f} M/s{over}", promised))
    report("random points, millions a second, and how many times the first row's", rows)


def test_ratios_by_hand(tmp_path, report):
    hand = by_hand(tmp_path)
    if hand is None:
        pytest.skip("no C compiler, or neither AVX-512 nor AVX2")
    with threads(1):
        assert hand(BY_HAND_POINTS, SEED) == estimate_batch(BY_HAND_POINTS, SEED)
        seconds = interleaved(
            {
                "kernel": lambda: timed(estimate_batch, BY_HAND_POINTS, SEED),
                "by hand": lambda: timed(hand, BY_HAND_POINTS, SEED),
            },
            9,
        )
    rows = [(name, spread([BY_HAND_POINTS / s / 1e6 for s in values], " M/s", 0)) for name, values in seconds.items()]
    best = min(seconds["kernel"]) / min(seconds["by hand"])
    over = spread(ratios(seconds["kernel"], seconds["by hand"]), "", 2)
    rows.append(("time over the one by hand, best; median", f"{best:.2f}; {over}", "at most 1.1"))
    report(f"{BY_HAND_POINTS:,} points on one thread, in nopython code and in C with intrinsics ({GENERATOR})", rows)


def test_ratios_cores(report):
    points = CPUS * 500_000_000
    with separate_processes(CPUS) as apart:
        together = on_threads(CPUS)
        seconds = interleaved({"threads": lambda: timed(together, points), "processes": lambda: timed(apart, points)}, 9)
    rows = [(f"{CPUS} {name}", spread([points / s / 1e6 for s in values], " M/s", 0)) for name, values in seconds.items()]
    rows.append(
        ("rate of the threads over the processes'", spread(ratios(seconds["processes"], seconds["threads"]), "", 3), "0.93")
    )
    report(f"{points:,} points on all CPUs: threads of one process, and separate processes of one thread", rows)


def test_ratios_runner(report):
    batches, batch, small = 20, 100_000_000, 1_000_000
    alone = on_threads(CPUS)
    with Runner("bench", workers=2) as runner:
        through(runner, 2)  # which warms its workers up
        estimator = runner.service(estimate_batch)

        def collected(count, points):
            return sum(runner.get([estimator(points) for _ in range(count)]))

        collected(batches, small)
        seconds = interleaved(
            {"alone": lambda: timed(alone, batches * batch), "runner": lambda: timed(collected, batches, batch)}, 9
        )
        quick = interleaved({"10 batches": lambda: timed(collected, 10, small)}, 9)["10 batches"]
    rows = [(name, spread([batches * batch / s / 1e6 for s in values], " M/s", 0)) for name, values in seconds.items()]
    rows.append(
        ("rate of the runner over the kernel alone", spread(ratios(seconds["alone"], seconds["runner"]), "", 3), "0.97")
    )
    rows.append((f"10 batches of {small:,}, in all", spread(quick, " ms", 1, 1e3), "at most 10 ms"))
    report(f"{batches} batches of {batch:,} points through a Runner of 2 workers, and alone on {CPUS} threads", rows)


# ---- the example as a program --------------------------------------------------------------------------------------------

#: The article's function in a loop, without any Runner.
SCRIPT = """\
import sys
import numpy as np

def estimate_batch(num_samples):
    x = np.random.rand(num_samples)
    y = np.random.rand(num_samples)
    return int(np.sum(x * x + y * y <= 1.0))

batches, samples = map(int, sys.argv[1:])
print(4 * sum(estimate_batch(samples) for _ in range(batches)) / (batches * samples))
"""


def ran(command, **settings):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment | settings, cwd=ROOT)


def example(batches, samples):
    ran([sys.executable, "examples/pi/main.py"], PI_NUM_BATCHES=str(batches), PI_SAMPLES_PER_BATCH=str(samples))


def script(batches, samples):
    ran([sys.executable, "-c", SCRIPT, str(batches), str(samples)])


@pytest.mark.timeout(600)
def test_ratios_example(report):
    import_numba, ten, fifty = "import numba", "the example, 10 batches of 1e6", "the example, 50 batches of 1e6"
    hundred, article_fifty = "the example, 100 batches of 1e8", "the article's script, 50 batches of 1e6"
    article_ten = "the article's script, 10 batches of 1e8"
    example(1, 1)
    seconds = interleaved(
        {
            import_numba: lambda: timed(ran, [sys.executable, "-c", "import numba"]),
            ten: lambda: timed(example, 10, 1_000_000),
            fifty: lambda: timed(example, 50, 1_000_000),
            article_fifty: lambda: timed(script, 50, 1_000_000),
            hundred: lambda: timed(example, 100, 100_000_000),
        }
    )
    seconds |= interleaved({article_ten: lambda: timed(script, 10, 100_000_000)}, 3)
    rows = [(name, spread(values, " s", 2)) for name, values in seconds.items()]
    beyond = [a - b for a, b in zip(seconds[ten], seconds[import_numba], strict=True)]
    extrapolated = 10 * median(seconds[article_ten])
    rows += [
        ("the example beyond `import numba`", spread(beyond, " s", 2), "at most 0.25 s"),
        ("the article's over the example, 5e7 points", spread(ratios(seconds[article_fifty], seconds[fifty]), "", 2), "1"),
        ("the same, 1e10 points", spread([extrapolated / s for s in seconds[hundred]], " times"), "100 times"),
    ]
    report("`python examples/pi/main.py`, whole process, and the article's function in a script without any Runner", rows)
