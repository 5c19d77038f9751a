"""Processes that act when they are told to, and what tests see of one from outside: shared by `test_checks_*.py`."""

from __future__ import annotations

import os
import select

from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, wait_until

LARGE = b"x" * 40_000


def is_asleep(pid):
    """Return whether a process sleeps in a futex; one that spins is not asleep for long."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] == b"S"


def error_of(message):
    return serialization.dump_error(LookupError(message))


#: Slots of a group, or blocks of a slab.
GROUP = 62
SLAB_BYTES = 1 << 16  # of blocks of a kilobyte
#: Bytes that a small bytes object takes in front of itself; a large one is all of its extent.
HEAD = 9


class Actor:
    """A relative that prepares something, and acts on it with each command."""

    def __init__(self, family, prepare=lambda: None, act=lambda prepared: prepared):
        self.family = family
        self.prepare, self.act = prepare, act
        self.command, self.reply = os.eventfd(0), os.eventfd(0, os.EFD_SEMAPHORE)
        self.relative = family.fork(self.live)
        self.listen()

    def live(self):
        kept = self.prepare()
        os.eventfd_write(self.reply, 1)
        while os.eventfd_read(self.command) == 1:
            os.eventfd_write(self.reply, 1)
            kept = self.act(kept)
            os.eventfd_write(self.reply, 1)

    def has_said(self, timeout_s=0.0):
        return self.reply in select.select([self.reply, self.relative.pidfd], [], [], timeout_s)[0]

    def listen(self):
        assert self.has_said(PATIENCE_S), "it does not come to it"
        os.eventfd_read(self.reply)

    def begin(self):
        """Return once the relative is about to act."""
        os.eventfd_write(self.command, 1)
        self.listen()

    def is_held_up(self):
        """Return whether the relative sleeps in the middle of its act: it has nothing to wait for but the lock."""
        wait_until(lambda: self.has_said() or is_asleep(self.relative.pid))
        return not self.has_said()

    def end(self):
        os.eventfd_write(self.command, 2)
        assert self.family.recover_process(self.relative) == 0
        self.close()

    def die(self):
        self.relative.kill()
        self.family.recover_process(self.relative)
        self.close()

    def close(self):
        os.close(self.command)
        os.close(self.reply)


MB = 1 << 20


def of_kind(words, kind):
    """Return the sizes of the extents of a kind, in the order in which they were carved."""
    return [extent.size for extent in words.extents() if extent.kind == getattr(words.tables, f"EXTENT_{kind}")]


def put_extent(alone, size):
    """Put a value that fills an extent of a size."""
    return alone.runtime.put(b"x" * size)


def rung(family):
    """Return whether the supervisor's bell has been rung since the last look."""
    try:
        return os.eventfd_read(family.bell) > 0
    except BlockingIOError:
        return False


def let_others(value):
    os.sched_yield()
    return value
