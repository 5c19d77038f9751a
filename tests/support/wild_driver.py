"""A driver whose task scribbles over the segment: run as a program, with a table's name and a seed.

It must end by itself, with exit code 0, whatever was overwritten. It prints how often each kind of outcome came.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import sys
import time
import traceback

import numpy as np
from words import Words

from flame_fast import FlameError, Runner

#: Tables, and how many of their first bytes are in use here.
REACH = {
    "header": 1 << 12,
    "processes": 1 << 12,
    "services": 1 << 10,
    "queues": 1 << 12,
    "slots": 1 << 16,
    "policies": 1 << 12,
    "groups": 1 << 8,
    "logs": 1 << 12,
    "extents": 1 << 14,
    "granules": 1 << 9,
    "rings": 1 << 12,
    "arena": 1 << 22,
}
WRITES = 400
PATIENCE_S = 1.0


class Counter:
    def __init__(self):
        self.count = 0

    def add(self, number):
        self.count += number
        return self.count


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y


def segment_fd():
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "memfd:flame_fast" in os.readlink(f"/proc/self/fd/{name}"):
                return int(name)
    raise AssertionError


def scribble(writes):
    """Write words over the segment, as native code would that runs out of its array's bounds."""
    fd = segment_fd()
    for offset, data in writes:
        os.pwrite(fd, data, offset)


def wild_words(chance, start, reach):
    """Return writes within a table: random words, small numbers, runs of one byte."""
    for _ in range(WRITES):
        at = start + chance.randrange(reach) // 4 * 4
        kind = chance.randrange(4)
        if kind == 0:
            yield at, chance.randbytes(8)
        elif kind == 1:
            yield at, chance.randrange(1 << 12).to_bytes(4, "little")
        elif kind == 2:
            yield at, (b"\xff" if chance.randrange(2) else b"\0") * 8
        else:
            yield at, chance.randbytes(chance.randrange(1, 256))


def first_of(*values):
    return values[0]


def fail(number):
    raise ValueError(number)


def values_of(number):
    return {"n": number, "text": "x" * number, "point": Point(number, 2), "items": list(range(number)), "f": lambda: number}


def main(table, seed):
    chance = random.Random(f"{table} {seed}")
    outcomes = collections.Counter()

    def attempt(function, *args):
        try:
            function(*args)
        except Exception as error:
            known = isinstance(error, FlameError | TimeoutError | ValueError) or type(error).__name__ == "CancelledError"
            outcomes[type(error).__name__ if known else f"UNEXPECTED {error!r}"] += 1
            if not known:
                traceback.print_exc()
        else:
            outcomes["returned"] += 1

    rr = Runner("wild", workers=2)
    rr.__enter__()
    plain, sleeping, failing, making = rr.service(abs), rr.service(time.sleep), rr.service(fail), rr.service(values_of)
    arrays, counter, joined = rr.service(np.full), rr.service(Counter()), rr.service(first_of)
    done = [plain(-1), *(making(n) for n in (1, 50, 500)), arrays((100, 100), 2.0), arrays(10, 1.0), counter.add(1)]
    rr.wait(done)
    failed = failing(1)
    attempt(failed.get)
    stored = [rr.put_object(np.arange(9000.0)), rr.put_object("y" * 70000), rr.put_object([Point(1, 2), b"z" * 300])]
    slow = [sleeping(0.05) for _ in range(20)]
    after = [joined(slow[-1], done[0], slow[0]) for _ in range(20)] + [plain.options(timeout=5, retries=1)(-2)]
    tables = Words(rr._engine.runtime).tables
    arena = tables.rings_at + tables.QUEUE_COUNT * tables.SLOT_COUNT * 8
    start = arena if table == "arena" else getattr(tables, f"{table}_at")
    attempt(rr.service(scribble)(list(wild_words(chance, start, REACH[table]))).get, PATIENCE_S)
    for future in [*done, failed, *stored, *slow, *after]:
        attempt(future.get, PATIENCE_S / 10)
    attempt(lambda: rr.get([plain(-n) for n in range(10)], timeout=PATIENCE_S))
    attempt(lambda: list(rr.select(done, timeout=PATIENCE_S)))
    attempt(lambda: plain.options(timeout=1, priority="urgent")(-3).get(PATIENCE_S))
    attempt(lambda: counter.add(2).get(PATIENCE_S))
    attempt(lambda: rr.service(Counter()).add(1).get(PATIENCE_S))
    attempt(lambda: arrays((200, 200), 3.0).get(PATIENCE_S))
    attempt(lambda: rr.put_object(np.ones(50000)).get())
    attempt(lambda: rr.cancel(after + slow, force=True))
    attempt(lambda: rr._engine.statistics())
    attempt(lambda: plain.close(cancel=True))
    for held in (done, stored, slow, after):
        held.clear()
    attempt(rr.close)
    print(dict(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
