"""What flame_fast costs over time: a long queue, an idle runner, ten million calls.

    pytest bench/calls/test_endurance.py -m ratios

Each figure comes from a fresh process, a driver of its own, and from /proc; beside it stand those of peers that do the same.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from statistics import median

from contenders import CALLERS, Executor, FlameFast, Pool
from endurance import REST_S, idle, million_by_million, newborn_workers, queue
from measuring import in_fresh_process, ratios, spread

OURS = FlameFast.name
MB = 1e-6

#: Calls in the queue and repetitions: as many as a contender makes in a few seconds.
QUEUES = {FlameFast: (1_000_000, 10), Pool: (100_000, 3), Executor: (20_000, 3)}

IDLE_S = 3


def test_ratios_queue(report):
    rows, a_call = [], {}
    for contender, (count, repeats) in QUEUES.items():
        before, repetitions = in_fresh_process(queue, contender, count, repeats)
        seconds, queued, after = zip(*repetitions, strict=True)
        a_call[contender] = [seconds_each / count for seconds_each in seconds]
        anonymous, shared = ((queued[0][kind] - before[kind]) / count for kind in range(2))
        ours = contender is FlameFast
        took = spread(seconds, " s", 2)
        rows.append((f"{contender.name}, {count:,} calls, {repeats} times", took, "at most 1.5 s" if ours else ""))
        memory = f"{anonymous + shared:,.0f} bytes, {anonymous:,.0f} anonymous, {shared:,.0f} shared"
        rows.append(("    driver's memory a queued call", memory, "at most 400 bytes" if ours else ""))
        for kind, name in enumerate(("anonymous", "shared")):
            last, *others = (f"{sizes[kind] * MB:,.1f}" for sizes in (after[-1], before, after[0]))
            flat = f"{others[0]} MB; {others[1]} after the first, {last} after the last"
            rows.append((f"    {name}, before; when collected and dropped", flat, "flat" if ours else ""))
    for peer in list(QUEUES)[1:]:
        times = spread([seconds / median(a_call[FlameFast]) for seconds in a_call[peer]], " times")
        rows.append((f"{peer.name} over {OURS}, seconds a call", times))
    report("no-op calls queued, then collected, driver's resident memory", rows)


def test_ratios_idle(report):
    """All contenders at the same time, each in its own process: idle ones are in nobody's way."""
    with ThreadPoolExecutor(len(CALLERS)) as threads:
        rounds = [list(threads.map(lambda c: in_fresh_process(idle, c, IDLE_S), CALLERS)) for _ in range(5)]
    rows, used = [], {}
    for contender, figures in zip(CALLERS, zip(*rounds, strict=True), strict=True):
        processes, used[contender], private = zip(*figures, strict=True)
        rows.append((f"{contender.name}, CPU of its {processes[0]} processes", spread(used[contender], " ms", 2, 1e3)))
        each = [size for sizes in private for size in sizes]
        rows.append(("    private memory of a worker after no-ops", spread(each, " MB", 1, MB)))
    newborn = spread(in_fresh_process(newborn_workers), " MB", 1, MB)
    rows.append((f"{OURS}, private memory of a worker before user code", newborn, "at most 12 MB"))
    rows += [
        (f"{OURS} over {peer.name}, CPU", spread(ratios(used[FlameFast], used[peer]), " times", 2)) for peer in CALLERS[1:]
    ]
    report(f"{IDLE_S} idle seconds, {REST_S} s after the last call", rows)


def test_ratios_millions(report):
    millions = in_fresh_process(million_by_million, 10, 100_000, 80)
    rows = []
    for number, (seconds, driver, others, shared) in enumerate(millions, 1):
        memory = f"{driver * MB:.1f} MB driver, {others * MB:.1f} other processes, {shared * MB:.1f} shared"
        rows.append((f"after {number} million, {seconds:.1f} s", memory, "flat" if number > 1 else ""))
    last = [f"{size / first:.2f}" for size, first in zip(millions[-1][1:], millions[0][1:], strict=True)]
    rows.append(("the last over the first", f"{last[0]} driver, {last[1]} other processes, {last[2]} shared", "1.00"))
    report("10 million calls in batches of 100,000", rows)
