"""What a call costs that carries an instance of a class of the script itself, in and out, in a stream of calls.

pytest bench/calls/test_definitions.py -m ratios
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from contenders import Executor, FlameFast, Loky, Pool, installed
from measuring import HARNESS, ratios, spread

OURS = FlameFast.name
PLAIN = "an int"
PEERS = {contender.name for contender in installed(Executor, Loky, Pool)}

#: For our median and for how many times faster than `ProcessPoolExecutor` it is; of what is defined in the script.
PROMISES = ("at most 12 us", "at least 10 times")


@pytest.fixture(scope="module")
def measured():
    """From a script: its `__main__` is what no worker can import."""
    script = Path(HARNESS, "definitions.py")
    return json.loads(subprocess.run([sys.executable, script], stdout=subprocess.PIPE, check=True).stdout)


def test_ratios_definitions(report, measured):
    rows = []
    for kind, seconds in measured["seconds"].items():
        ours = seconds.pop(OURS)
        promises = ("", "") if kind == PLAIN else PROMISES
        rows.append((f"{kind}: {OURS}", spread(ours, " us", 1, 1e6), promises[0]))
        if kind == PLAIN:
            plain = ours
        else:
            rows.append((f"    over {PLAIN}", spread(ratios(ours, plain), " times")))
        for peer in PEERS - seconds.keys():
            rows.append((f"    {peer}", "cannot"))
        for peer, theirs in seconds.items():
            promised = promises[1] if peer == Executor.name else ""
            times = f"{spread(theirs, ' us', 1, 1e6)}: {spread(ratios(theirs, ours), ' times')}"
            rows.append((f"    {peer}", times, promised))
        if sent := measured["sent"][kind]:
            rows.append(("    definitions that we sent", f"{sent[0]:,} of {sent[1]:,} bytes in all"))
    report("a call in a stream of calls, 200 submitted at a time; its argument is its result", rows)
