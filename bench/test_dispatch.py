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
from contenders import Executor, FlameFast, Pool

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


#: Whole programs, as short as a user would write them.
STARTS = {
    "flame_fast": """\
from flame_fast import Runner
from tasks import nothing
with Runner("bench", workers=2) as rr:
    assert rr.service(nothing)(1).get() == 1
""",
    "ProcessPoolExecutor (forkserver)": """\
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from tasks import nothing
if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        assert pool.submit(nothing, 1).result() == 1
""",
    "multiprocessing.Pool (fork)": """\
from multiprocessing import Pool
from tasks import nothing
if __name__ == "__main__":
    with Pool(2) as pool:
        assert pool.apply(nothing, (1,)) == 1
""",
}

PROJECT = {"pyproject.toml": "", "pkg/__init__.py": "", **{f"pkg/module{i}.py": "x = 1\n" * 50 for i in range(10)}}


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    programs = {f"start_{number}.py": text for number, text in enumerate(STARTS.values())}
    for name, text in {**PROJECT, **programs, "tasks.py": Path(__file__).with_name("tasks.py").read_text()}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return {contender: [sys.executable, f"start_{number}.py"] for number, contender in enumerate(STARTS)}


@pytest.mark.benchmark(group="whole program: start to first result of a small project, and stop")
@pytest.mark.parametrize("contender", STARTS)
def test_start(benchmark, contender, small_project):
    command = small_project[contender]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=7, warmup_rounds=1)


def timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def spread(ratios, digits=1):
    return f"{median(ratios):8.{digits}f}   ({min(ratios):.{digits}f} to {max(ratios):.{digits}f})"


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
    starts = {contender: [] for contender in STARTS}
    for number in range(8):
        for contender, command in small_project.items():
            took = timed(lambda command=command: subprocess.run(command, check=True))
            if number:  # the first one writes byte code
                starts[contender].append(took)
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
        for peer in list(STARTS)[1:]:
            ratios = [a / b for a, b in zip(starts[ours], starts[peer], strict=True)]
            print(
                f"  start to first result and stop: {median(starts[ours]) * 1e3:.0f} ms, "
                f"{peer} {median(starts[peer]) * 1e3:.0f} ms; ratio {spread(ratios, 2)}"
            )
    assert all(rates.values())
