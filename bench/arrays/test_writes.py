"""What it costs a task to write into a large array that it was given, beside reading it and beside a copy.

    pytest bench/arrays/test_writes.py

One gigabyte, put once, plain and inside an object: a task of each kind by itself, and 16 at once of which one writes.
"""

from __future__ import annotations

import numpy as np
import pytest
from contenders import FlameFast, running
from measuring import interleaved, ratios, spread, timed
from tasks import Box, copy_and_write, done, grown_by, pause_with_numpy, read_one, read_pages, write_all, write_one

ELEMENTS = 125_000_000  # float64: 1 GB
TASKS = 16

READS, WRITES, WRITES_ALL, COPIES = (
    "reads one element",
    "writes one element",
    "writes all",
    "copies all and writes one element",
)
KINDS = {READS: read_one, WRITES: write_one, "reads every page": read_pages, WRITES_ALL: write_all, COPIES: copy_and_write}


@pytest.fixture(scope="module", params=["plain", "inside an object"])
def stored(request):
    array = np.arange(ELEMENTS, dtype=np.float64)
    with running([FlameFast]) as started:
        ours = started[FlameFast.name]
        ours.reach_all_workers(pause_with_numpy, 0.2)
        yield ours, ours.put(array if request.param == "plain" else Box(array)), request.param


def test_one_task(report, stored):
    ours, ref, how = stored
    grown = {}

    def measure(kind):
        grown[kind] = ours.service(grown_by)(kind, ref).get()
        return timed(lambda: ours.call(done, kind, ref))

    seconds = interleaved({what: lambda kind=kind: measure(kind) for what, kind in KINDS.items()}, 5)
    rows = [(what, f"{spread(seconds[what], ' ms', 2, 1e3)}; {grown[kind]:,} bytes") for what, kind in KINDS.items()]
    for upper, lower in ((WRITES, READS), (COPIES, WRITES_ALL)):
        rows.append((f"{upper}, over {lower}", spread(ratios(seconds[upper], seconds[lower]), " times", 2)))
    report(f"1 GB, {how}, given to one task that ...; time, and memory beyond the value's", rows)


def test_sixteen_tasks(report, stored):
    ours, ref, how = stored
    service = ours.service(done)

    def run(kind):
        return timed(lambda: ours.collect([service(kind, ref), *(service(read_one, ref) for _ in range(TASKS - 1))]))

    measures = {what: lambda kind=KINDS[what]: run(kind) for what in (READS, WRITES, COPIES)}
    seconds = interleaved(measures, 5)
    rows = [(f"the other one {what}", spread(seconds[what], " ms", 2, 1e3)) for what in measures]
    report(f"1 GB, {how}, given to {TASKS} tasks, of which {TASKS - 1} read one element", rows)
