"""Whole programs, cold: from the command to its end.

    pytest bench/test_programs.py -m ratios

Promised are: 3,000 CSV files read with pandas, summarised and written beside the script at most 1.1 times as long as with
a forking `ProcessPoolExecutor`, which inherits pandas from the driver, and 1.2 times faster than with joblib.
"""

from __future__ import annotations

import os
import time

import pytest
from measuring import interleaved, ratios, spread
from programs import FILES, FORK, LOKY, OURS, CsvProject

ROUNDS = 5

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return CsvProject(tmp_path_factory.mktemp("csv") / "project")


def measured(project, contender):
    """(seconds, processor seconds) of one run, whose result is checked against the files it wrote."""
    before, start = os.times(), time.perf_counter()
    printed = project.run(contender)
    seconds, after = time.perf_counter() - start, os.times()
    assert float(printed) > 0 and len(os.listdir(project.directory / "summaries")) == FILES
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used


def test_ratios_csv_files(report, project):
    for contender in (OURS, FORK, LOKY):  # reads the files, and writes bytecode
        measured(project, contender)
    values = interleaved({name: lambda name=name: measured(project, name) for name in (OURS, FORK, LOKY)}, ROUNDS)
    wall = {name: [seconds for seconds, _ in each] for name, each in values.items()}
    used = {name: [cpu for _, cpu in each] for name, each in values.items()}
    rows = [(name, f"{spread(wall[name], ' s', 2)}, processor {spread(used[name], ' s', 2)}") for name in wall]
    rows.append((f"{OURS} over {FORK}", spread(ratios(wall[OURS], wall[FORK]), " times", 2), "at most 1.1 times"))
    rows.append((f"{LOKY} over {OURS}", spread(ratios(wall[LOKY], wall[OURS]), " times", 2), "at least 1.2 times"))
    report(f"{FILES:,} CSV files read with pandas, summarised and written, the whole program", rows)
