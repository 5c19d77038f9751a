"""Processes that a test started, by the data directory in their environment."""

from __future__ import annotations

import os
from pathlib import Path

#: Processes that were there before the first test, which are none of a test's.
OTHERS = frozenset(name for name in os.listdir("/proc") if name.isdigit())


def processes_of(home: Path) -> list[int]:
    """Return the processes whose environment names the data directory, but those from before the tests."""
    mark = f"FLAME_FAST_HOME={home}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or name in OTHERS:
            continue
        entry = Path("/proc", name)
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and b"Z" not in state_of(entry):
                found.append(int(name))
        except OSError:
            continue
    return found


def state_of(entry: Path) -> bytes:
    return (entry / "stat").read_bytes().rpartition(b") ")[2][:1]
