"""Calls that need each other, around a task that is about to wait for one of them: for tests of deadlock detection."""

from __future__ import annotations

import os
import threading

import audit
from actors import error_of
from gates import Log, wait_until
from words import Words, slot_of

from flame_fast.engine.spec import INSTANCE

#: What the next task does: it runs in this very process.
deeds = []


def do():
    return deeds.pop()()


class Tangle:
    """Calls that need each other, around a task that is about to wait for one of them; `me` is its future."""

    def __init__(self, alone):
        self.alone = alone
        self.words = Words(alone.runtime)
        self.done = alone.runtime.put(b"x" * 1000)
        self.me = alone.call(alone.service(do))
        self.service, self.log = alone.service(len), alone.service(Log(), INSTANCE, ("note",))
        self.promises, self.kept = [], []

    def promise(self):
        """Make a call that runs elsewhere."""
        self.promises.append(self.alone.runtime.promise())
        return self.promises[-1]

    def needing(self, *inputs):
        self.kept.append(self.alone.call(self.service, inputs))
        return self.kept[-1]

    def waiting_for(self, future):
        promise = self.promise()
        self.words.set("slots", slot_of(promise), "waits_for", slot_of(future) + 1)
        return promise

    def any_of(self, *slots):
        promise, block = self.promise(), self.alone.runtime.put(bytes(1000))
        at = self.words.get("slots", slot_of(block), "result")
        os.pwrite(self.words.fd, b"".join(word.to_bytes(8, "little") for word in (len(slots), *slots)), at)
        self.words.set("slots", slot_of(promise), "waits_for", audit.ANY | at)
        self.kept.append(block)
        return promise

    def noted(self, *inputs):
        """Make a call of an instance, whose process runs something else."""
        self.kept.append(self.alone.call(self.log, *inputs or [1]))
        return self.kept[-1]

    def runs_elsewhere(self, running=None):
        """Give the instance a process of its own, which runs nothing, or a call."""
        self.other = self.alone.runtime.request_process(3, 0)
        self.words.set("queues", self.log[2], "process", self.other + 1)
        self.words.set("processes", self.other, "current", slot_of(running) + 1 if running else 0)

    def has_no_process(self):
        """Leave the instance without its process, which has ended, or was not asked for yet."""
        self.words.set("queues", self.log[2], "process", 0)

    def failed_before(self):
        """Make a call of the instance that has failed and gone, and left its place in the queue.

        Its slot is the next one's.
        """
        promise = self.promise()
        failed = self.alone.call(self.log, promise)
        self.alone.runtime.fulfil(promise, None, error_of("gone"))
        slot = slot_of(failed)
        del failed
        return slot

    def ring(self):
        """Two that wait for each other."""
        first = self.promise()
        second = self.waiting_for(first)
        self.words.set("slots", slot_of(first), "waits_for", slot_of(second) + 1)
        return second

    def is_refused(self, make):
        """Whether the task that waits for what is made is told that this never ends; if not, a thread ends it."""
        ends = threading.Thread(target=self.end_the_wait)

        def wait():
            future = make(self)
            ends.start()
            return future.get()

        deeds.append(wait)
        self.alone.work()
        ends.join()
        error = self.me.exception(0)
        assert "deadlock" in str(error) or "over" in str(error), error
        return "deadlock" in str(error)

    def end_the_wait(self):
        wait_until(lambda: self.me.done() or self.words.get("processes", self.words.tables.DRIVER_INDEX, "waiters"))
        if not self.me.done():
            self.alone.runtime.mark_broken("it is over")
