"""Words as a dead process leaves them, and looks at what a recovery made of them: shared by `test_left_behind_*.py`."""

from __future__ import annotations

import ctypes
import mmap
import os

from gates import PATIENCE_S
from runtime_harness import REQUESTED


def finished_by(words, slot, process, *, failed=False):
    """Publish a slot's outcome and close its list, as a finisher does that dies before it has told the tasks on the list."""
    words.set("slots", slot, "result_kind", words.tables.KIND_NATIVE)
    words.set("slots", slot, "result_bytes", 0 if failed else 1)
    words.set("slots", slot, "data", list(b"N" + bytes(words.tables.INLINE_BYTES - 1)))  # None
    words.set("slots", slot, "waiters", words.tables.WAITERS_CLOSED)
    words.set_state(slot, words.tables.FAILED if failed else words.tables.DONE, process)


def look_whether_all_is_back(family, relative, before=(0, 0)):
    family.recover_process(relative)
    assert family.in_use() == before
    family.check()


def kilobytes(number):
    return bytes([number]) * 1000


def pool(words):
    """Return the pool's sleepers and the count of its wake-ups."""
    return words.get("header", 0, "pool_sleepers"), words.get("header", 0, "pool_wake")


GROUP = 62  # slots, or blocks of a slab
LARGE, LARGER = b"x" * 40_000, b"x" * 100_000


def extents_of(words, kind):
    """Return the numbers of the extents of a kind."""
    tables = words.tables
    high = words.get("header", 0, "extent_high")
    return [number for number in range(high) if words.get("extents", number, "kind") == getattr(tables, kind)]


def die_at(family, words, offset, life, protection=mmap.PROT_READ):
    """Fork a relative that prepares, forbids itself the page of a word, goes on, and dies when it touches that page."""

    def live():
        steps = life()
        next(steps)
        words.forbid(offset, protection)
        next(steps)

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    return relative


def started(family):
    """Return the entry of an instance's process, in the state right after the supervisor's fork."""
    (index,) = [entry.index for entry in family.supervisor.processes() if entry.state == REQUESTED]
    family.supervisor.start(index)
    return index


def whole_slot(words, slot):
    """Return the bytes of a slot, and of the block that names its dependencies."""
    at = words.place("slots", slot, "state")[0]
    return os.pread(words.fd, ctypes.sizeof(words.structs["Slot"]), at), os.pread(
        words.fd, 128, words.get("slots", slot, "dependencies")
    )
