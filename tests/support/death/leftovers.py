"""Words as a dead process leaves them, and looks at what a recovery made of them: shared by `test_left_behind_*.py`."""

from __future__ import annotations

import ctypes
import mmap
import os

from gates import PATIENCE_S
from runtime_harness import REQUESTED


def finished_by(words, slot, process, *, failed=False):
    """The state is published and the list closed; whoever stood on it was in the dead process's hands."""
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
    """(sleepers, calls)."""
    return words.get("header", 0, "pool_sleepers"), words.get("header", 0, "pool_wake")


GROUP = 62  # slots, or blocks of a slab
LARGE, LARGER = b"x" * 40_000, b"x" * 100_000


def extents_of(words, kind):
    """Numbers of the extents of a kind."""
    tables = words.tables
    high = words.get("header", 0, "extent_high")
    return [number for number in range(high) if words.get("extents", number, "kind") == getattr(tables, kind)]


def die_at(family, words, offset, life, protection=mmap.PROT_READ):
    """A relative that dies when it touches the page of a word; it prepares, forbids itself that page, and goes on."""

    def live():
        steps = life()
        next(steps)
        words.forbid(offset, protection)
        next(steps)

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    return relative


def started(family):
    """The entry of an instance's process that the zygote has just forked."""
    (index,) = [entry.index for entry in family.supervisor.processes() if entry.state == REQUESTED]
    family.supervisor.start(index)
    return index


def whole_slot(words, slot):
    """All of it, and of the block that tells what it waits for."""
    at = words.place("slots", slot, "state")[0]
    return os.pread(words.fd, ctypes.sizeof(words.structs["Slot"]), at), os.pread(
        words.fd, 128, words.get("slots", slot, "dependencies")
    )
