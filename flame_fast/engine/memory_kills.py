"""Kills for want of memory: whether the kernel's counters tell that it killed a process."""

from __future__ import annotations

from flame_fast.resources import memory_events

#: Counters of the whole system.
SYSTEM = "/proc/vmstat"


class MemoryKills:
    """Counters of processes that the kernel killed for want of memory: those of this process's cgroup, and the system's."""

    def __init__(self) -> None:
        self._files = [*memory_events(), SYSTEM]
        self._counts = [_kills_in(name) for name in self._files]

    def since_last_look(self) -> bool | None:
        """Return whether the kernel has killed a process of this cgroup since the last look; None if nobody can tell.

        A cgroup's counter tells. Without one, only a counter of the whole system that has not moved does.
        """
        before, self._counts = self._counts, [_kills_in(name) for name in self._files]
        moved = [None if old is None or new is None else new > old for old, new in zip(before, self._counts, strict=True)]
        told = [one for one in moved[:-1] if one is not None]
        if told:
            return any(told)
        return False if moved[-1] is False else None


def _kills_in(name: str) -> int | None:
    """Return the count of kills in a file of counters; None if it has none."""
    try:
        with open(name) as file:
            counters = dict(line.split()[:2] for line in file if line.startswith("oom_kill "))
    except OSError:
        return None
    return int(counters["oom_kill"]) if "oom_kill" in counters else None
