"""Statistics of a runner's store and task table: `Runner.statistics`."""

from __future__ import annotations

from flame_fast._records import fields, frozen
from flame_fast.inspection.html import Bar, nbytes_text, table

#: Calls by state, in the order in which a call goes through them.
STATES = ("waiting", "queued", "running", "done", "failed")


@frozen
class Statistics:
    """Statistics of a runner at one moment. Immutable.

    Attributes
    ----------
    objects : int
        Values held: outcomes of finished calls, and what `put_object` stored.
    waiting, queued, running, done, failed : int
        Calls by state. `done` includes what `put_object` stored; finished calls count until their last future is dropped.
    bytes : int
        Bytes of shared memory that values and arguments take beyond their slots.
    peak_bytes : int
        Most bytes taken at any time, in whole slabs and extents.
    cached_bytes : int
        Bytes kept free and warm for the next values; given back after five seconds without use.
    limit_bytes : int
        Most bytes allowed.
    definitions, definition_bytes : int
        Since the start, in all processes: bodies of functions and classes that no worker can import, written for values
        that refer to them, and their bytes.
    copied_bytes, shared_bytes : int
        Since the start, in all processes: bytes copied into shared memory or out of it, and bytes passed on or read in
        place. Values inside a slot count as neither.
    """

    bytes: int
    cached_bytes: int
    copied_bytes: int
    definition_bytes: int
    definitions: int
    done: int
    failed: int
    limit_bytes: int
    objects: int
    peak_bytes: int
    queued: int
    running: int
    shared_bytes: int
    waiting: int

    def __repr__(self) -> str:
        return f"Statistics({', '.join(f'{name}={getattr(self, name):,}' for name in fields(Statistics))})"

    def _repr_html_(self) -> str:
        """Return the calls and the bytes as an HTML table, for notebooks."""
        return table("Statistics", rows_of(self))


def rows_of(statistics: Statistics) -> dict[str, object]:
    """Return the rows that a table shows of statistics: calls by state, and the bytes of the store in a bar."""
    calls = {f"calls {state}": f"{getattr(statistics, state):,}" for state in STATES}
    taken = f"{nbytes_text(statistics.bytes)} of {nbytes_text(statistics.limit_bytes)}"
    return {**calls, "store": Bar(statistics.bytes, statistics.limit_bytes, taken)}


def statistics_of(counters: dict[str, int]) -> Statistics:
    """Return the statistics that an engine's counters make: one for each field but `objects`, and perhaps more."""
    objects = counters["done"] + counters["failed"]
    return Statistics(objects=objects, **{name: counters[name] for name in fields(Statistics) if name != "objects"})
