"""The table of PROTOCOL.md 4.23: at each stage of a call, each manner of its worker's death, with its exact outcome.

The paper's table is what is expected here. A call dies at its first attempt; the stage writes a line into a fifo first.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from process_events import Fifo, workers
from stages import Endless, Plan, make_call, same

from flame_fast import Runner, TaskTimeoutError, WorkerDiedError

PAPER = Path(__file__).parents[2] / "kernels" / "runtime" / "PROTOCOL.md"
PATIENCE_S = 30.0
#: Seconds of run time of calls that are past it.
ALLOWED_S = 0.5


def table():
    """Return {stage: {manner: outcome}} of the paper."""
    text = PAPER.read_text().partition("### 4.23")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    head, _, *rows = rows
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


TABLE = table()
MANNERS = list(next(iter(TABLE.values())))


def outcome_of(future, patience_s):
    try:
        return f"value {future.get(patience_s)}"
    except CancelledError:
        return "cancelled"
    except TaskTimeoutError:
        return "timed out"
    except TimeoutError:
        future.cancel(force=True)
        return "goes on"
    except WorkerDiedError as error:
        return f"died: {error.signal or error.exit_code or 'supervisor'}"


def happens(rr, stage, manner, directory, retries):
    """Make the call, and bring about its end; return its outcome."""
    directory.mkdir()
    fifo = Fifo(directory / "fifo")
    options = {"retries": retries} if retries else {}
    if manner == "past its time":
        options["timeout"] = ALLOWED_S
        if retries:
            options["retry_on"] = (TaskTimeoutError,)
    future = make_call(rr, Plan(stage, manner, directory), **options)
    fifo.read_line(PATIENCE_S)
    if manner == "cancelled by force":
        future.cancel(force=True)
    outcome = outcome_of(future, 2 * ALLOWED_S if TABLE[stage][manner] == "goes on" else PATIENCE_S)
    fifo.close()
    return outcome


def keep_the_spare_busy(rr, directory):
    """Have the spare worker load a service without end: it must meet no stage, and take nobody's place."""
    fifo = Fifo(directory / "spare")
    endless = Endless(fifo.path)
    rr.service(lambda: endless).options(timeout=PATIENCE_S)
    fifo.read_line(PATIENCE_S)
    fifo.close()


@pytest.mark.parametrize("manner", MANNERS)
def test_each_stage_has_its_outcome(manner, project, tmp_path):
    found = {}
    with Runner("stages", workers=1) as rr:
        keep_the_spare_busy(rr, tmp_path)
        for number, stage in enumerate(TABLE):
            found[stage] = happens(rr, stage, manner, tmp_path / str(number), retries=0)
            assert rr.service(same)(number).get(PATIENCE_S) == number
    assert found == {stage: row[manner] for stage, row in TABLE.items()}


@pytest.mark.parametrize("manner", ["killed", "past its time"])
def test_a_call_that_is_tried_again_has_its_value_at_every_stage(manner, project, tmp_path):
    with Runner("stages", workers=1) as rr:
        keep_the_spare_busy(rr, tmp_path)
        for number, stage in enumerate(TABLE):
            if TABLE[stage][manner] != "goes on":
                assert happens(rr, stage, manner, tmp_path / str(number), retries=1) == "value 7", stage


@pytest.mark.parametrize("manner", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_idle_or_at_its_start_costs_no_call(manner, project):
    with Runner("idle", workers=2) as rr:
        service = rr.service(same)
        assert service(1).get(PATIENCE_S) == 1
        for _ in range(3):  # from the second time on, workers that have just been started
            before = set(workers())
            for pid in before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, manner)
            assert service(2).get(PATIENCE_S) == 2
