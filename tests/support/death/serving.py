"""Tasks, hosts and doors of the tests of what a worker does: shared by `test_serving_*.py`."""

from __future__ import annotations

import mmap
import os
import select

from audit import NOTES
from gates import PATIENCE_S, wait_until
from words import Words

from flame_fast.engine.task_host import Host

MB = 1 << 20
#: Longer than it takes to be woken, shorter than a look around (250 ms).
PROMPT_S = 0.2
#: Bytes that all relatives share: what has happened so far.
marks = mmap.mmap(-1, 4096)
#: The family of the test, and in a worker its host.
here: list = []
hosts: list = []
doors: list = []
#: What a worker's host does when it flushes output, one at a time.
acts: list = []


class Door:
    """A gate for a task until the driver opens it; unlike a fifo, no relative forked meanwhile can hold it shut."""

    def __init__(self):
        self.reply, self.command = os.eventfd(0), os.eventfd(0)

    def stand(self):
        """In the task."""
        os.eventfd_write(self.reply, 1)
        os.eventfd_read(self.command)

    def entered(self):
        """In the driver: return once a task stands at the door."""
        waiting = select.poll()
        waiting.register(self.reply, select.POLLIN)
        assert waiting.poll(PATIENCE_S * 1000), "no task has come to the door"
        os.eventfd_read(self.reply)

    def open(self):
        os.eventfd_write(self.command, 1)

    def close(self):
        os.close(self.reply)
        os.close(self.command)


def look_at_idle(family):
    """Assert that the entries of idle workers hold no note."""
    words = Words(family.runtime)
    names = [name for name in NOTES if name not in ("sleeping", "spinning")]
    for relative in family.relatives:
        if not relative.has_ended():
            await_sleep(words, relative)
            notes = {name: words.get("processes", relative.index, name) for name in names}
            assert not any(notes.values()), notes


def serve_with(kin, kind):
    """Fork a worker with a host of another kind."""

    def life():
        hosts[:] = [kind(kin.runtime)]
        kin.runtime.serve(hosts[0])

    return kin.fork(life)


class Acting(Host):
    """A host that acts when a worker is about to wait."""

    def end_lines(self):
        super().flush()

    def flush(self):
        super().flush()
        if acts:
            acts.pop(0)()


def in_order(number=0, *_):
    """Task: return how many of these began before it."""
    marks[0] += 1
    return number, marks[0] - 1


def pid(*_):
    return os.getpid()


def same(value, *_):
    return value


def mark(number, *_):
    marks[number] += 1
    return os.getpid()


def stand(door=None, *_):
    if door is not None:
        doors[door].stand()
    return os.getpid()


def await_sleep(words, *workers):
    wait_until(lambda: all(words.get("processes", worker.index, "sleeping") for worker in workers), "their sleep")


def permits(words, service):
    """Return the processes that hold a permit of a service."""
    return [permit - 1 for permit in words.get("queues", service[2], "permits") if permit]


class Log(list):
    def note(self, value):
        self.append(value)
        return list(self)

    def pid(self, *_):
        return os.getpid()


def sleepers_now(number):
    """How many are said to sleep; from now on so many."""
    words = Words(here[0].runtime)
    found = words.get("header", 0, "pool_sleepers")
    words.set("header", 0, "pool_sleepers", number)
    return found


class Unfinished:
    """A stream with part of a line."""

    def end_line(self):
        pass


def leave_partial(is_left):
    """Task: return how often output was flushed before it."""
    if is_left:
        hosts[0].partial.append(Unfinished())
    return marks[1]


class Recorder(Host):
    def __init__(self, runtime):
        super().__init__(runtime)
        self.log = []

    def function_of(self, service, generation, method):
        self.log.append((service, generation, method))
        return super().function_of(service, generation, method)

    def suspend(self):
        self.log.append("suspend")
        return super().suspend()

    def resume(self, outer):
        self.log.append("resume")
        super().resume(outer)


def log_of_host():
    return list(hosts[0].log)


def current_slot():
    words = Words(here[0].runtime)
    return words.get("processes", here[0].runtime.index, "current") - 1


def fails_at_three(item):
    if item == 3:
        raise LookupError("three")
    return item


def ask(service, *args):
    """Task: return its process, and what another task gives that it calls and waits for."""
    return os.getpid(), here[0].call(service, *args).get()


class Asking:
    def ask(self, service, *args):
        return ask(service, *args)

    def ask_many(self, services):
        return here[0].runtime.get_many([here[0].call(service) for service in services])

    def ask_any(self, services):
        futures = [here[0].call(service) for service in services]
        found = here[0].runtime.selector(futures).select()
        return [(number, futures[number].get()) for number in found]

    def pid(self):
        return os.getpid()
