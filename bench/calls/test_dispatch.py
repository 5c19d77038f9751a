"""What a call costs: one by one, in a batch, as a round trip, in a chain; a service; a program's start to its first result.

    pytest bench/calls/test_dispatch.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds
    pytest bench/calls/test_dispatch.py -m ratios

The benchmark groups run one contender after the other. The `ratios` tests interleave them and print each figure with its
spread, as a ratio pair by pair, beside the figure that flame_fast promises.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import pytest
from contenders import CALLERS, MAPPERS, Executor, FlameFast, PipeEcho, Pool, running
from measuring import HARNESS, busy_cores, interleaved, percentile, ratios, spread, timed, timed_with_cpu
from tasks import nothing

from flame_fast import Runner

OURS = FlameFast.name

#: Calls, items and links in one measurement where all contenders do the same number.
CALLS = 2_000
ITEMS = 40_000
LINKS = 1_000


def contender_fixture(contenders):
    @pytest.fixture(params=contenders, ids=lambda contender: contender.name)
    def fixture(request):
        with running([request.param]) as started:
            yield started[request.param.name]

    return fixture


caller = contender_fixture(CALLERS)
mapper = contender_fixture(MAPPERS)


@pytest.mark.benchmark(group="no-op calls, 2,000 made one by one, then collected")
def test_throughput(benchmark, caller):
    assert benchmark(caller.many, CALLS) == list(range(CALLS))


def test_ratios_throughput(report):
    measured = [(contender.name, contender.name, contender.calls) for contender in CALLERS]
    measured.append((f"{OURS}, {CALLS:,} at a time", OURS, CALLS))
    with running(CALLERS) as started:

        def rates(contender, count):
            seconds, cpu = timed_with_cpu(started[contender].many, count)
            return count / seconds, count / cpu

        values = interleaved({name: lambda c=contender, n=count: rates(c, n) for name, contender, count in measured})
    rows = []
    for name, pairs in values.items():
        a_second, a_cpu_second = zip(*pairs, strict=True)
        rows.append((name, spread(a_second, " calls/s", 0), "1,000,000 calls/s" if name == OURS else ""))
        rows.append(("    per core: per CPU second of all its processes", spread(a_cpu_second, "", 0)))
    promised = {Pool: "40 times", Executor: "200 times"}
    for peer in CALLERS[1:]:
        over = [ours[0] / theirs[0] for ours, theirs in zip(values[OURS], values[peer.name], strict=True)]
        rows.append((f"{OURS} over {peer.name}", spread(over, " times"), promised.get(peer, "")))
    report("no-op calls made one by one, then collected", rows)


# ---- batches ---------------------------------------------------------------------------------------------------------


def check_map(contender):
    try:
        values = contender.map(nothing, range(10), contender.chunks[0])
    except Exception as error:
        pytest.skip(f"{contender.name} has no map yet: {error!r}")
    assert values == list(range(10))


def best_chunk(contender, items):
    def seconds(chunk):
        return timed(contender.map, nothing, range(items), chunk)

    tries = interleaved({chunk: lambda c=chunk: seconds(c) for chunk in contender.chunks}, 3)
    return min(tries, key=lambda chunk: median(tries[chunk]))


@pytest.mark.benchmark(group="map of 40,000 no-ops, with the best chunk size")
def test_map(benchmark, mapper):
    check_map(mapper)
    chunk = best_chunk(mapper, ITEMS)
    assert benchmark.pedantic(mapper.map, (nothing, range(ITEMS), chunk), rounds=7, warmup_rounds=1) == list(range(ITEMS))


def test_ratios_map(report):
    with running(MAPPERS) as started:
        check_map(started[OURS])
        chunks = {name: best_chunk(contender, contender.items) for name, contender in started.items()}

        def rates(contender):
            seconds, cpu = timed_with_cpu(contender.map, nothing, range(contender.items), chunks[contender.name])
            return contender.items / seconds, contender.items / cpu

        values = interleaved({name: lambda c=contender: rates(c) for name, contender in started.items()})
    rows = []
    for name, pairs in values.items():
        a_second, a_cpu_second = zip(*pairs, strict=True)
        rows.append((f"{name}, chunk size {chunks[name]}", spread(a_second, " items/s", 0)))
        rows.append(("    per core: per CPU second of all its processes", spread(a_cpu_second, "", 0)))
    for peer in MAPPERS[1:]:
        over = [ours[0] / theirs[0] for ours, theirs in zip(values[OURS], values[peer.name], strict=True)]
        rows.append((f"{OURS} over {peer.name}", spread(over, " times", 2), "2 times" if peer is Pool else ""))
    report("map of no-ops, each contender with its best chunk size (None: its own choice)", rows)


# ---- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="round trip, one call at a time")
def test_round_trip(benchmark, caller):
    assert benchmark(caller.one) == 1


#: What the cores do meanwhile, quiet before each call, seconds of one measurement, and the promises for our median, our p99,
#: Pool's median over ours, Pool's p99 over ours.
CONDITIONS = {
    "alone": (nullcontext, 0, 0.3, ("at most 4 us", "at most 40 us", "at least 20 times", "above 1")),
    "both cores kept busy by other work": (busy_cores, 0, 0.7, ("", "", "above 1", "above 1")),
    "each after 1 ms of quiet": (nullcontext, 0.001, 0.4, ("", "", "above 1", "above 1")),
}


def round_trips(contender, quiet, seconds):
    """Each call's seconds."""
    end, trips = time.perf_counter() + seconds, []
    while time.perf_counter() < end:
        if quiet:
            time.sleep(quiet)
        trips.append(timed(contender.one))
    return trips


@pytest.mark.parametrize("condition", CONDITIONS)
def test_ratios_round_trip(condition, report):
    surroundings, quiet, seconds, promises = CONDITIONS[condition]
    with running([*CALLERS, PipeEcho]) as started, surroundings():
        measures = {name: lambda c=contender: round_trips(c, quiet, seconds) for name, contender in started.items()}
        trips = interleaved(measures, 5)
    medians = {name: [median(values) for values in rounds] for name, rounds in trips.items()}
    p99s = {name: [percentile(values, 0.99) for values in rounds] for name, rounds in trips.items()}
    rows = []
    for name, rounds in trips.items():
        promised = promises[:2] if name == OURS else ("", "")
        rows.append((f"{name}, median", spread(medians[name], " us", 1, 1e6), promised[0]))
        calls = f"{min(map(len, rounds)):,} calls or more a round"
        rows.append((f"    p99, of {calls}", spread(p99s[name], " us", 1, 1e6), promised[1]))
    for peer in [*CALLERS[1:], PipeEcho]:
        promised = promises[2:] if peer is Pool else ("", "")
        rows.append((f"{peer.name} over {OURS}, median", spread(ratios(medians[peer.name], medians[OURS])), promised[0]))
        rows.append(("    p99", spread(ratios(p99s[peer.name], p99s[OURS])), promised[1]))
    report(f"round trip of a no-op, one call at a time, {condition}", rows)


# ---- chains ----------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="chain of 1,000 no-ops")
def test_chain(benchmark, caller):
    assert benchmark(caller.chain, [nothing] * LINKS, 7) == 7


def test_ratios_chain(report):
    functions = [nothing] * LINKS
    with running(CALLERS) as started:
        links = interleaved({name: lambda c=c: timed(c.chain, functions, 7) / LINKS for name, c in started.items()})
    rows = [(name, spread(values, " us a link", 2, 1e6)) for name, values in links.items()]
    rows[0] += ("at most 3 us a link",)
    rows += [(f"{peer.name} over {OURS}", spread(ratios(links[peer.name], links[OURS]), " times")) for peer in CALLERS[1:]]
    report(f"chain of {LINKS:,} no-ops", rows)


# ---- services --------------------------------------------------------------------------------------------------------

#: Definitions of a module, each of which a service is made of.
FUNCTIONS = 200
LARGE_MODULE = "import json, re\n" + "".join(
    f"class Class{number}:\n    def text(self): return json.dumps(re.sub('a', 'b', repr(self)))\n"
    f"def function{number}(value): return Class{number}().text() + value\n"
    for number in range(FUNCTIONS)
)


def test_ratios_services(tmp_path, monkeypatch, report):
    """Of functions that use one class each, in a module that has as many: a worker imports it, or gets them by value."""
    (tmp_path / "large_module.py").write_text(LARGE_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    imported = vars(__import__("large_module"))
    defined = {"__name__": "__main__"}
    exec(LARGE_MODULE, defined)
    rows = []
    with Runner("services", workers=1) as runner:
        for kind, names in {"imported": imported, "defined in a script": defined}.items():
            functions = [names[f"function{number}"] for number in range(FUNCTIONS)]
            seconds = [timed(runner.service, function) for function in functions]
            rows.append((kind, spread(seconds, " us", 0, 1e6)))
    report(f"a service of each of {FUNCTIONS} functions", rows)


# ---- whole programs --------------------------------------------------------------------------------------------------

#: As short as a user would write them.
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
    for name, text in {**PROJECT, **programs, "tasks.py": Path(HARNESS, "tasks.py").read_text()}.items():
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


def run_program(command):
    subprocess.run(command, check=True)


def test_ratios_start(small_project, report):
    for command in small_project.values():  # writes byte code
        run_program(command)
    starts = interleaved({name: lambda c=command: timed(run_program, c) for name, command in small_project.items()})
    rows = [(name, spread(values, " ms", 0, 1e3)) for name, values in starts.items()]
    rows += [(f"{peer} over {OURS}", spread(ratios(starts[peer], starts[OURS]), " times", 2)) for peer in list(STARTS)[1:]]
    report("whole program: start to first result of a small project, and stop", rows)
