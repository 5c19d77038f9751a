"""A script whose `__main__` defines the classes that its calls carry; prints what they cost as JSON.

    python definitions.py

No worker can import these classes: what carries them must bring their definitions along, or have inherited them. All
contenders run in one process, interleaved.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import time
from statistics import median
from typing import NamedTuple

from contenders import Executor, FlameFast, Loky, Pool, installed, running
from measuring import interleaved, timed

CONTENDERS = installed(FlameFast, Executor, Loky, Pool)

#: Calls that are submitted before the first of them is collected, and seconds of one measurement.
WINDOW = 200
SECONDS = 0.15


@dataclasses.dataclass
class Plain:
    number: int
    weight: float
    name: str


@dataclasses.dataclass(slots=True)
class Slotted:
    number: int
    weight: float
    name: str


class Named(NamedTuple):
    number: int
    weight: float
    name: str


Member = enum.Enum("Member", [f"MEMBER_{number}" for number in range(WINDOW)], module=__name__)

#: A window of values of each kind, no two of them one object.
VALUES = {
    "an int": list(range(WINDOW)),
    "a dataclass": [Plain(number, number / 2, f"name {number}") for number in range(WINDOW)],
    "a dataclass with slots": [Slotted(number, number / 2, f"name {number}") for number in range(WINDOW)],
    "a named tuple": [Named(number, number / 2, f"name {number}") for number in range(WINDOW)],
    "an enum's member": list(Member),
}


def pass_window(contender, values):
    submit = contender.submit
    return contender.collect([submit(value) for value in values])


def carries(contender, values):
    """Whether a window comes back as it went; loky's pool breaks by classes with slots, as cloudpickle rebuilds them."""
    try:
        came = pass_window(contender, values)
    except Exception:
        if isinstance(contender, FlameFast):
            raise
        return False
    return came == values and {type(value) for value in came} == {type(values[0])}


def a_call(contender, values):
    """Seconds of one of a stream of calls, the median of the windows."""
    end, windows = time.perf_counter() + SECONDS, []
    while not windows or time.perf_counter() < end:
        windows.append(timed(pass_window, contender, values))
    return median(windows) / len(values)


def definitions_sent(ours):
    """(how many, their bytes) since the runner's start; nothing where its statistics do not tell."""
    statistics = ours.runner.statistics()
    if not hasattr(statistics, "definitions"):
        return None
    return statistics.definitions, statistics.definition_bytes


def measure():
    seconds, sent = {}, {}
    with running(CONTENDERS) as started:
        ours = started[FlameFast.name]
        for kind, values in VALUES.items():
            before = definitions_sent(ours)
            able = {name: contender for name, contender in started.items() if carries(contender, values)}
            for broken in started.keys() - able.keys():
                started[broken].stop()
                started[broken] = type(started[broken])()
            seconds[kind] = interleaved({name: lambda c=c, v=values: a_call(c, v) for name, c in able.items()}, 5)
            after = definitions_sent(ours)
            sent[kind] = after and [now - then for now, then in zip(after, before, strict=True)]
    return {"seconds": seconds, "sent": sent}


if __name__ == "__main__":
    print(json.dumps(measure()))
