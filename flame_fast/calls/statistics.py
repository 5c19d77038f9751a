"""What a runner holds and has moved: `Runner.statistics`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.kernels.runtime import Client


class Statistics:
    """One look at a runner's store and table. Immutable.

    Attributes
    ----------
    objects : int
        Values held: outcomes of finished calls, and what `put_object` stored.
    waiting, queued, running, done, failed : int
        Calls by state. `done` includes what `put_object` stored; finished calls count until their last future is dropped.
    bytes : int
        Bytes of shared memory that values and arguments take beyond their slots.
    peak_bytes : int
        The most at any time, in whole slabs and extents.
    cached_bytes : int
        Bytes kept free and warm for the next values; given back after five seconds without use.
    limit_bytes : int
        The most allowed.
    definitions, definition_bytes : int
        Since the start, in all processes: bodies of functions and classes that no worker can import, written for values that
        refer to them, and their bytes.
    copied_bytes, shared_bytes : int
        Since the start, in all processes: bytes copied into shared memory or out of it, and bytes passed on or read where
        they lie. Values that ride in a slot count as neither.
    """

    __slots__ = (
        "bytes",
        "cached_bytes",
        "copied_bytes",
        "definition_bytes",
        "definitions",
        "done",
        "failed",
        "limit_bytes",
        "objects",
        "peak_bytes",
        "queued",
        "running",
        "shared_bytes",
        "waiting",
    )

    def __init__(self, counters: dict[str, int]) -> None:
        found = {
            "objects": counters["done"] + counters["failed"],
            "bytes": counters["bytes"],
            "peak_bytes": max(counters["peak"], counters["bytes"]),
            "cached_bytes": counters["cached"],
            "limit_bytes": counters["limit"],
            "copied_bytes": counters["copied"],
            "shared_bytes": counters["shared"],
            "definitions": counters["definitions"],
            "definition_bytes": counters["definition_bytes"],
            **{name: counters[name] for name in ("waiting", "queued", "running", "done", "failed")},
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("statistics are a record of one moment; ask again for another")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("statistics are a record of one moment")

    def __repr__(self) -> str:
        return f"Statistics({', '.join(f'{name}={getattr(self, name):,}' for name in self.__slots__)})"


def statistics_of(runtime: Client) -> Statistics:
    return Statistics(runtime.counters())
