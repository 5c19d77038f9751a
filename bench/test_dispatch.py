"""What a call costs: no-op calls made one by one and then collected, one round trip, start to first result.

    pytest bench/test_dispatch.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds

Contenders alternate within each group's run (pytest-benchmark runs them one after the other, so `test_ratios`
interleaves them itself and prints the ratios that the README quotes, each with its spread).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest
from contenders import Executor, FlameFast, ForkserverExecutor, Pool

CONTENDERS = [FlameFast, Pool, Executor]

#: Calls in one measurement: enough to hide the clock, few enough for the slowest.
CALLS = 2_000


@pytest.fixture(params=CONTENDERS, ids=lambda contender: contender.name)
def contender(request):
    running = request.param()
    yield running
    running.stop()


@pytest.mark.benchmark(group="no-op calls, 2,000 made one by one, then collected")
def test_throughput(benchmark, contender):
    assert benchmark(contender.many, CALLS) == CALLS


@pytest.mark.benchmark(group="round trip, one call at a time")
def test_round_trip(benchmark, contender):
    assert benchmark(contender.one) == 1


START = """\
import sys
sys.path.insert(0, {bench!r})
import contenders
running = contenders.{contender}()
running.stop()
"""

PROJECT = {"pyproject.toml": "", "pkg/__init__.py": "", **{f"pkg/module{i}.py": "x = 1\n" * 50 for i in range(10)}}


def start_command(contender):
    return [sys.executable, "-c", START.format(bench=str(Path(__file__).parent), contender=contender.__name__)]


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)


@pytest.mark.benchmark(group="whole process: start to first result of a small project, and stop")
@pytest.mark.parametrize("contender", [FlameFast, ForkserverExecutor, Pool], ids=lambda contender: contender.name)
def test_start(benchmark, contender, small_project):
    benchmark.pedantic(subprocess.run, (start_command(contender),), {"check": True}, rounds=7, warmup_rounds=1)


def timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def spread(ratios):
    return f"{median(ratios):8.1f}   ({min(ratios):.1f} to {max(ratios):.1f})"


def test_ratios(small_project, capsys):
    """The contenders in turn, seven times; ratios pair by pair."""
    running = [contender() for contender in CONTENDERS]
    rates, trips = {c.name: [] for c in CONTENDERS}, {c.name: [] for c in CONTENDERS}
    try:
        for _ in range(7):
            for contender in running:
                count = CALLS * (25 if contender.name == FlameFast.name else 1)
                rates[contender.name].append(count / timed(contender.many, count))
                trips[contender.name].append(median(timed(contender.one) for _ in range(300)))
    finally:
        for contender in running:
            contender.stop()
    starts = {c.name: [] for c in (FlameFast, ForkserverExecutor)}
    for _ in range(7):
        for contender in (FlameFast, ForkserverExecutor):
            starts[contender.name].append(timed(lambda c=contender: subprocess.run(start_command(c), check=True)))
    with capsys.disabled():
        print(f"\n{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, 2 workers; median of 7 (lowest to highest)")
        for name, values in rates.items():
            print(f"  {name:34} {median(values):12,.0f} no-op calls/s   {median(trips[name]) * 1e6:8.1f} us round trip")
        ours = FlameFast.name
        for peer in CONTENDERS[1:]:
            throughput = [a / b for a, b in zip(rates[ours], rates[peer.name], strict=True)]
            trip = [b / a for a, b in zip(trips[ours], trips[peer.name], strict=True)]
            print(f"  throughput over {peer.name:22} {spread(throughput)}")
            print(f"  round trip of   {peer.name:22} {spread(trip)}")
        start = [a / b for a, b in zip(starts[ours], starts[ForkserverExecutor.name], strict=True)]
        print(f"  start to first result and stop: {median(starts[ours]) * 1e3:.0f} ms; over forkserver {spread(start)}")
    assert all(rates.values())
