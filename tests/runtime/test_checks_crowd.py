"""A crowd of producers and workers on one processor: whenever it rests, every word must be what the others say."""

from __future__ import annotations

import mmap
import os

import audit
from actors import Actor, is_asleep, let_others
from gates import PATIENCE_S, same, wait_until
from words import Words

from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host


class Crowd:
    """Producers and workers that get into each other's way at every word, all of them on one processor.

    A change in two steps lets another process do its own in between, if the first one yields there. After each burst all of
    them rest, and every word must be what the others say.
    """

    BURSTS = 8

    def __init__(self, family):
        self.family = family
        self.words = Words(family.runtime)
        self.words.set("header", 0, "cpus", 4)
        self.cpu = min(os.sched_getaffinity(0))
        self.free, self.length = family.service(same), family.service(len)
        self.wide, self.narrow = family.service(let_others, limit=4), family.service(alone_there, limit=2)
        self.log = family.service(Counted(), INSTANCE, ("count",), warmup=1)
        self.failing = family.service(fail_with, limit=4)
        self.shared = [family.runtime.put(number) for number in range(2)]
        self.workers = [self.fork_worker(entry.index) for entry in family.supervisor.processes()]
        self.workers += [self.fork_worker() for _ in range(4)]

    def fork_worker(self, index=None):
        def live():
            os.sched_setaffinity(0, {self.cpu})
            self.family.runtime.serve(Host(self.family.runtime))

        return self.family.fork(live, index)

    def produce(self, _):
        os.sched_setaffinity(0, {self.cpu})
        call, runtime, number = self.family.call, self.family.runtime, os.getpid()
        for index in range(160):  # they are dropped at once: their groups become free behind it
            call(self.wide, index)
            if index % 8 == 0:
                os.sched_yield()
        futures = [call(self.wide, [*self.shared, number]) for _ in range(8)]
        futures += [call(self.narrow, number) for _ in range(4)]
        counted = [call(self.log) for _ in range(3)]
        failing = [call(self.failing, number) for _ in range(3)]
        failed = [call(self.length, failing) for _ in range(2)]
        wholes = []
        for _ in range(8):
            os.sched_yield()  # some of the inputs are just being finished
            wholes.append(call(self.length, futures))
        selector, found = runtime.selector(futures), []
        while len(found) < len(futures):
            found += selector.select(PATIENCE_S)
        assert sorted(found) == list(range(len(futures)))
        assert runtime.get_many(wholes, PATIENCE_S) == [len(futures)] * 8
        numbers = runtime.get_many(counted, PATIENCE_S)
        assert numbers == sorted(set(numbers))
        for future in failed:
            assert repr(future.exception(PATIENCE_S)) == repr(LookupError(number))

    def run(self):
        before = self.family.in_use()
        producers = [Actor(self.family, act=self.produce) for _ in range(3)]
        for _ in range(self.BURSTS):
            for producer in producers:
                producer.begin()
            for producer in producers:
                producer.listen()
            self.family.wait_until_idle()
            self.family.wait_until_in_use(before)
            wait_until(lambda: all(map(self.sleeps, self.workers)))
            self.check()
        for producer in producers:
            producer.end()

    def sleeps(self, worker):
        return self.words.get("processes", worker.index, "sleeping") and is_asleep(worker.pid)

    def check(self):
        """While all of them sleep."""
        self.family.check()
        words, tables = self.words, audit.Tables(self.words.fd)
        assert words.get("header", 0, "pool_sleepers") >= 4
        assert words.get("queues", self.log[2], "sleepers") >= 1
        for queue in (0, self.wide[2], self.narrow[2], self.failing[2], self.log[2]):
            head, tail = words.get("queues", queue, "head"), words.get("queues", queue, "tail")
            assert head == tail, f"queue {queue} is empty, and said to go from {head} to {tail}"
            (there,) = tables.numbers(tables.rings_at + 8 * (queue * tables.SLOT_COUNT + (tail & words.ring_mask)), 1)
            assert there == tail & ~words.ring_mask, f"queue {queue} goes on behind its end"
        for queue in (self.wide[2], self.narrow[2], self.failing[2]):
            assert not any(words.get("queues", queue, "permits")), f"a process still has a permit at queue {queue}"


class Counted:
    def __init__(self):
        self.calls = 0

    def count(self):
        self.calls += 1
        return self.calls


def fail_with(number):
    os.sched_yield()
    raise LookupError(number)


#: A byte for each process of the table that runs the narrow service.
inside = mmap.mmap(-1, 2048)


def alone_there(value):
    me = os.getpid() % len(inside)
    inside[me] = 1
    for _ in range(3):
        os.sched_yield()
        assert sum(inside[:]) <= 2
    inside[me] = 0
    return value


def test_a_crowd_on_one_processor_loses_nothing(family):
    Crowd(family).run()
