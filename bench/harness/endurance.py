"""What the endurance figures are made of. Each function runs in a fresh process: see `measuring.in_fresh_process`."""

from __future__ import annotations

import os
import time

from contenders import WORKERS, FlameFast
from measuring import cpu_seconds, private_bytes, resident_bytes, shared_bytes, tree, workers_of

from flame_fast import Runner

#: After its last call a contender may spin, shrink and tidy up for this long before it counts as idle.
REST_S = 2


def queue(contender, count, repeats):
    """No-op calls made, then collected, again and again.

    Returns the driver's (anonymous, shared) resident bytes before, and per repetition the seconds, the bytes when all calls
    are made, and the bytes when all values are dropped again.
    """
    running, expected = contender(), list(range(count))
    running.many(1_000)
    before, rows = resident_bytes(), []
    for _ in range(repeats):
        start = time.perf_counter()
        handles = [running.submit(number) for number in expected]
        queued = resident_bytes()
        values = running.collect(handles)
        seconds = time.perf_counter() - start
        assert values == expected
        del handles, values
        rows.append((seconds, queued, resident_bytes()))
    running.stop()
    return before, rows


def idle(contender, seconds):
    """Return (processes, their processor seconds over the idle ones, the workers' private bytes) after work and rest."""
    running = contender()
    running.many(contender.calls)
    time.sleep(REST_S)
    pids, workers = tree(os.getpid()), workers_of(os.getpid())
    used = cpu_seconds(pids)
    time.sleep(seconds)
    used = cpu_seconds(pids) - used
    private = [private_bytes([pid]) for pid in workers]
    running.stop()
    return len(pids), used, private


def newborn_workers():
    """Private bytes of each idle worker that no service has been made for."""
    with Runner("bench", workers=WORKERS):
        deadline = time.monotonic() + 10
        while len(workers_of(os.getpid())) < WORKERS and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(REST_S)
        return [private_bytes([pid]) for pid in workers_of(os.getpid())]


def million_by_million(millions, batch, limit_s):
    """After each million calls: (seconds so far, the driver's and the others' private bytes, bytes shared by all)."""
    running, rows, expected = FlameFast(), [], list(range(batch))
    start = time.perf_counter()
    while len(rows) < millions and time.perf_counter() - start < limit_s:
        for _ in range(1_000_000 // batch):
            assert running.many(batch) == expected
        driver, *others = tree(os.getpid())
        seconds = time.perf_counter() - start
        rows.append((seconds, private_bytes([driver]), private_bytes(others), shared_bytes([driver, *others])))
    running.stop()
    return rows
