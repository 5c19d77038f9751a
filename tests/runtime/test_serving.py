"""What a worker does: it finds tasks, runs them, and runs inside a wait what that waits for.

Workers are forked relatives of the test's process, which plays driver and zygote. So a task knows the test's runtime: it
looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import mmap
import os
import select
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from audit import NOTES
from flame_fast.kernels.runtime import CallTarget, MapResults, serialization
from gates import PATIENCE_S, wait_until
from runtime_harness import POOL
from words import Words, slot_of

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.spec import CLASS, INSTANCE
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
    """Holds a task until the driver opens it. No relative that is forked meanwhile can hold it shut, as one can a fifo."""

    def __init__(self):
        self.said, self.published = os.eventfd(0), os.eventfd(0)

    def stand(self):
        """In the task."""
        os.eventfd_write(self.said, 1)
        os.eventfd_read(self.published)

    def entered(self):
        """In the driver: returns once a task stands there."""
        waiting = select.poll()
        waiting.register(self.said, select.POLLIN)
        assert waiting.poll(PATIENCE_S * 1000), "nobody has come to the door"
        os.eventfd_read(self.said)

    def open(self):
        os.eventfd_write(self.published, 1)

    def close(self):
        os.close(self.said)
        os.close(self.published)


@pytest.fixture
def kin(family):
    """A family that its tasks know, and two doors."""
    here[:] = [family]
    doors[:] = [Door(), Door()]
    marks[:] = bytes(len(marks))
    yield family
    look_at_idle(family)
    for door in doors:
        door.close()
    for known in (here, doors, acts):
        known.clear()


def look_at_idle(family):
    """What workers say of themselves while they have nothing to do."""
    words = Words(family.runtime)
    names = [name for name in NOTES if name not in ("sleeping", "spinning")]
    for relative in family.relatives:
        if not relative.has_ended():
            await_sleep(words, relative)
            notes = {name: words.get("processes", relative.index, name) for name in names}
            assert not any(notes.values()), notes


@pytest.fixture
def words(kin):
    return Words(kin.runtime)


def serve_with(kin, kind):
    """A worker with a host of another kind."""

    def life():
        hosts[:] = [kind(kin.runtime)]
        kin.runtime.serve(hosts[0])

    return kin.fork(life)


class Acting(Host):
    """Does something where a worker is about to wait, or has run a task that left some output."""

    def flush(self):
        super().flush()
        if acts:
            acts.pop(0)()


def in_order(number=0, *_):
    """A task: how many of these began before it."""
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
    """Processes that have one."""
    return [permit - 1 for permit in words.get("queues", service[2], "permits") if permit]


class Log(list):
    def note(self, value):
        self.append(value)
        return list(self)

    def pid(self, *_):
        return os.getpid()


# ---- which task comes next -------------------------------------------------------------------------------------------


def test_queues_take_turns(kin):
    """Those that have something, from behind the last one that was served."""
    services = [kin.service(in_order), *(kin.service(in_order, limit=1) for _ in range(3))]
    kin.runtime.close_service(*services.pop(2)[:2])
    futures = [[kin.call(service, number) for number in range(3)] for service in services]
    kin.fork_worker()
    found = [kin.runtime.get_many(of_one, PATIENCE_S) for of_one in futures]
    assert [[order for _, order in of_one] for of_one in found] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_what_a_task_has_made_ready_is_next_in_its_process(kin):
    """Before what was queued earlier."""
    service = kin.service(in_order)
    first = kin.call(service, 0)
    futures = [first, kin.call(service, 1), kin.call(service, 2, first)]
    kin.fork_worker()
    assert kin.runtime.get_many(futures, PATIENCE_S) == [(0, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize("sticky", [False, True])
def test_a_permit_taken_for_a_call_that_is_gone_is_kept_only_by_a_sticky_service(kin, words, sticky):
    """All that was left of it is a void entry."""
    limited, free = kin.service(same, limit=1, sticky=sticky), kin.service(same)
    value = kin.runtime.put(0)
    words.push(limited[2], slot_of(value))
    worker = kin.fork_worker()
    assert kin.call(free, 1).get(PATIENCE_S) == 1
    wait_until(lambda: words.get("queues", limited[2], "head") == 1)
    await_sleep(words, worker)
    assert permits(words, limited) == [worker.index] * sticky


def test_a_worker_leaves_a_queue_alone_that_is_nobody_s(kin, words):
    """Though an entry has stayed there, which is void."""
    value, limited = kin.runtime.put(0), kin.service(same, limit=1)
    words.push(limited[2], slot_of(value))
    kin.runtime.close_service(*limited[:2])
    assert words.get("queues", limited[2], "state") == words.tables.QUEUE_FREE
    await_sleep(words, kin.fork_worker())
    assert words.get("queues", limited[2], "head") == 0


def test_an_inline_runner_leaves_a_queue_alone_that_is_nobody_s(alone):
    words, value, limited = Words(alone.runtime), alone.runtime.put(0), alone.service(same, limit=1)
    words.push(limited[2], slot_of(value))
    alone.runtime.close_service(*limited[:2])
    alone.work()
    assert words.get("queues", limited[2], "head") == 0


def test_a_worker_that_is_told_to_leave_takes_no_other_task(kin):
    worker, service, quick = kin.fork_worker(), kin.service(stand), kin.service(pid)
    held, waiting = kin.call(service, 0), kin.call(quick)
    doors[0].entered()
    kin.supervisor.retire(worker.index)
    doors[0].open()
    assert kin.recover_process(worker) == 0
    assert held.get(0) == worker.pid
    assert not waiting.done()
    other = kin.fork_worker()
    assert waiting.get(PATIENCE_S) == other.pid


def test_nobody_takes_another_task_once_the_runner_closes(kin):
    worker, service, quick = kin.fork_worker(), kin.service(stand), kin.service(pid)
    held, waiting = kin.call(service, 0), kin.call(quick)
    doors[0].entered()
    assert kin.runtime.announce_close() == 2
    doors[0].open()
    assert kin.recover_process(worker) == 0
    assert held.get(0) == worker.pid
    assert not waiting.done()


def test_who_waits_for_a_permit_is_called_when_it_is_free(kin, words):
    """The one that had it goes on with a task that its last one has made ready."""
    limited, service = kin.service(stand, limit=1), kin.service(stand)
    first = kin.fork_worker()
    one = kin.call(limited, 0)
    kept = kin.call(service, 1, one)
    doors[0].entered()
    two = kin.call(limited)
    second = kin.fork_worker()
    await_sleep(words, second)
    doors[0].open()
    doors[1].entered()
    assert two.get(PATIENCE_S) == second.pid
    doors[1].open()
    assert kept.get(PATIENCE_S) == first.pid
    wait_until(lambda: permits(words, limited) == [])


def test_sleepers_are_called_for_a_free_permit_only_if_something_is_queued_for_it(alone):
    here[:] = [alone]
    words, limited, free = Words(alone.runtime), alone.service(sleepers_now, limit=1), alone.service(sleepers_now)
    futures = [alone.call(limited, 3), alone.call(limited, 3), alone.call(free, 0)]
    alone.work()
    alone.work()
    # The pool's queue comes first, then the limited one: its first call's end calls all, its last one's end nobody.
    assert [future.get(0) for future in futures] == [0, 0, 0]
    assert words.get("header", 0, "pool_sleepers") == 3
    words.set("header", 0, "pool_sleepers", 0)
    here.clear()


def sleepers_now(number):
    """How many are said to sleep; from now on so many."""
    words = Words(here[0].runtime)
    found = words.get("header", 0, "pool_sleepers")
    words.set("header", 0, "pool_sleepers", number)
    return found


def test_nobody_is_called_when_a_free_service_s_task_is_over(alone):
    here[:] = [alone]
    words, free = Words(alone.runtime), alone.service(sleepers_now)
    futures = [alone.call(free, 3), alone.call(free, 0)]
    alone.work()
    assert [future.get(0) for future in futures] == [0, 3]
    assert words.get("header", 0, "pool_sleepers") == 0
    here.clear()


def test_a_task_that_comes_when_a_worker_is_about_to_wait_for_one_runs(kin):
    """It is found at the first look, and not looked for any more."""
    service = kin.service(mark)
    acts[:] = [lambda: kin.call(service, 1)]
    serve_with(kin, Acting)
    wait_until(lambda: marks[1], "the task")


def test_calls_that_come_one_after_the_other_are_all_served(kin):
    """The next one comes while the worker spins, or has just gone to sleep."""
    service, log = kin.service(same), kin.service(Log(), INSTANCE, ("note",), warmup=1)
    kin.fork_worker()
    kin.fork_requested()
    for number in range(300):
        assert kin.call(service, number).get(PATIENCE_S) == number
    for number in range(50):
        assert len(kin.call(log, number).get(PATIENCE_S)) == number + 1


def test_calls_that_come_in_a_burst_are_all_served(kin, words):
    """Two workers run out of them again and again: each finds some while it spins, and both go to sleep in the end."""
    service, log = kin.service(same), kin.service(Log(), INSTANCE, ("note",), warmup=1)
    workers = [kin.fork_worker(), kin.fork_worker()]
    kin.fork_requested()
    futures = [kin.call(service, number) for number in range(3000)]
    assert kin.runtime.get_many(futures, PATIENCE_S) == list(range(3000))
    futures = [kin.call(log, number) for number in range(300)]
    assert len(kin.runtime.get_many(futures, PATIENCE_S)[-1]) == 300
    await_sleep(words, *workers)
    wait_until(
        lambda: words.get("header", 0, "spinners") == words.get("header", 0, "seeker") == 0, "their places' coming back"
    )


def test_an_instance_runs_no_task_of_the_pool_that_its_outcome_makes_ready(kin):
    log = kin.service(Log(), INSTANCE, ("pid",), warmup=1)
    (instance,) = kin.fork_requested()
    inner = kin.call(log)
    assert inner.get(PATIENCE_S) == instance.pid
    future = kin.call(kin.service(pid), kin.call(log))
    worker = kin.fork_worker()
    assert future.get(PATIENCE_S) == worker.pid


def test_an_idle_worker_takes_no_permit_where_nothing_is_queued(kin, words):
    """A sticky one it would keep."""
    limited, worker = kin.service(pid, limit=1, sticky=True), kin.fork_worker()
    assert kin.call(kin.service(pid)).get(PATIENCE_S) == worker.pid
    await_sleep(words, worker)
    assert permits(words, limited) == []
    assert kin.call(limited).get(PATIENCE_S) == worker.pid
    await_sleep(words, worker)
    assert permits(words, limited) == [worker.index]
    assert kin.call(kin.service(is_said_to_sleep)).get(PATIENCE_S) == 0


def is_said_to_sleep():
    return Words(here[0].runtime).get("processes", here[0].runtime.index, "sleeping")


def test_a_task_that_has_become_ready_in_the_first_slot_runs(kin):
    """Who has finished its input runs it at once."""
    place, worker = kin.runtime.put(0), kin.fork_worker()
    first = kin.call(kin.service(stand), 0)
    assert slot_of(place) == 0
    del place
    second = kin.call(kin.service(same), first)
    assert slot_of(second) == 0
    doors[0].entered()
    doors[0].open()
    assert second.get(PATIENCE_S) == worker.pid


# ---- between tasks ---------------------------------------------------------------------------------------------------


class CountingHost(Host):
    def flush(self):
        marks[1] += 1
        super().flush()


def leave_partial(is_left):
    """A task: how often output was flushed before it."""
    if is_left:
        hosts[0].partial.append("some")
    return marks[1]


def test_output_is_flushed_after_a_task_that_left_some_and_before_a_sleep(kin, words):
    service = kin.service(leave_partial)
    futures = [kin.call(service, is_left) for is_left in (False, False, True, False)]
    worker = serve_with(kin, CountingHost)
    assert kin.runtime.get_many(futures, PATIENCE_S) == [0, 0, 0, 1]
    await_sleep(words, worker)
    assert marks[1] == 2


def test_a_signal_reaches_a_worker_that_sleeps_and_leaves_it_among_the_sleepers(kin, words):
    def life():
        signal.signal(signal.SIGUSR1, lambda *_: marks.__setitem__(2, marks[2] + 1))
        kin.runtime.serve(Host(kin.runtime))

    worker = kin.fork(life)
    for number in range(1, 4):
        await_sleep(words, worker)
        os.kill(worker.pid, signal.SIGUSR1)
        wait_until(lambda number=number: marks[2] == number, "its handler")
    wait_until(lambda: words.get("header", 0, "pool_sleepers") == 1, "its being counted")
    assert kin.call(kin.service(pid)).get(PATIENCE_S) == worker.pid


def test_who_looks_for_tasks_counts_itself_among_the_sleepers_before_it_sleeps(kin, words):
    """And gives its places back: as a spinner, as the seeker."""
    service, workers = kin.service(pid), [kin.fork_worker() for _ in range(2)]
    for _ in range(5):
        wait_until(lambda: words.get("header", 0, "pool_sleepers") >= 2, "the sleep of both")
        kin.call(service).get(PATIENCE_S)
    kin.supervisor.retire(workers[0].index)
    kin.recover_process(workers[0])
    wait_until(lambda: words.get("header", 0, "pool_sleepers") >= 1, "the other's sleep")
    wait_until(lambda: words.get("header", 0, "spinners") == words.get("header", 0, "seeker") == 0)


def test_who_gets_no_place_to_look_for_tasks_leaves_those_of_others(kin, words):
    """As a spinner, and as the seeker: both are the driver's. Nor does it say that the seeker goes on."""
    driver = words.tables.DRIVER_INDEX
    taken = {("header", 0, "seeker"): driver + 1, ("header", 0, "spinners"): 1, ("processes", driver, "spinning"): 1}
    for place, value in taken.items():
        words.set(*place, value)
    await_sleep(words, kin.fork_worker())
    assert {place: words.get(*place) for place in taken} == taken
    assert words.get("header", 0, "sought_ns") == 0
    for place in taken:
        words.set(*place, 0)


def test_who_looks_for_the_pool_s_tasks_while_others_sleep_says_so(kin, words):
    """An instance's process looks for none of those."""
    kin.service(Log(), INSTANCE, ("note",), warmup=1)
    words.set("header", 0, "pool_sleepers", 1)
    await_sleep(words, *kin.fork_requested())
    assert words.get("header", 0, "sought_ns") == 0
    await_sleep(words, kin.fork_worker())
    assert words.get("header", 0, "sought_ns") > 0


# ---- loading ahead ---------------------------------------------------------------------------------------------------


class Telling:
    """Marks where it is loaded."""

    def __init__(self, number):
        self.number = number

    def __setstate__(self, state):
        marks[state["number"]] += 1
        vars(self).update(state)

    def __call__(self):
        return os.getpid()


def test_an_instance_s_process_loads_its_own_service_before_the_first_call(kin, words):
    """And nothing else: neither another instance, nor what is closed, nor what the pool shall load ahead."""
    services = [kin.service(Telling(1), INSTANCE, ("__call__",))]
    kin.service(Telling(4), warmup=1)
    services += [kin.service(Telling(number), INSTANCE, ("__call__",)) for number in (3, 2)]
    services.append(services.pop(1))
    for service in services[:2]:
        kin.runtime.start_instance(service[0])
    words.set("services", services[2][0], "queue", services[1][2])
    words.set("services", services[2][0], "state", words.tables.SERVICE_CLOSING)
    instances = kin.fork_requested()
    wait_until(lambda: all(words.get("queues", service[2], "sleepers") for service in services[:2]), "their sleep")
    assert list(marks[1:5]) == [1, 1, 0, 0]
    words.set("services", services[2][0], "queue", services[2][2])
    words.set("services", services[2][0], "state", words.tables.SERVICE_OPEN)
    assert {kin.call(service).get(PATIENCE_S) for service in services[:2]} == {one.pid for one in instances}


def test_a_worker_loads_a_service_ahead_once_and_others_load_it_as_well(kin, words):
    service, _ = kin.service(Telling(1), warmup=3), kin.service(Telling(3))
    for count in (1, 2):
        worker = kin.fork_worker()
        await_sleep(words, worker)
        assert (marks[1], marks[3]) == (count, 0)
        assert words.get("services", service[0], "warm_left") == words.get("header", 0, "warm_left") == 3 - count
    kin.runtime.close_service(*service[:2])
    again = kin.service(Telling(2), warmup=2)
    assert again[0] == service[0]
    wait_until(lambda: marks[2] == 2, "the loading of the next one in its entry")
    wait_until(lambda: words.get("header", 0, "warm_left") == 0)


def test_a_service_that_comes_when_a_worker_is_about_to_wait_is_loaded_ahead(kin):
    acts[:] = [lambda: kin.service(Telling(1), warmup=1)]
    serve_with(kin, Acting)
    wait_until(lambda: marks[1], "its loading")


def test_a_service_that_is_still_being_made_is_not_loaded_ahead(kin, words):
    """By words: its maker has told how many shall load it, and not opened it yet."""
    service, _, _ = kin.service(Telling(1), warmup=1)
    words.set("services", service, "state", words.tables.RESERVED)
    worker = kin.fork_worker()
    await_sleep(words, worker)
    assert words.get("services", service, "warm_left") == words.get("header", 0, "warm_left") == 1
    words.set("services", service, "state", words.tables.SERVICE_OPEN)
    assert kin.call(kin.service(pid)).get(PATIENCE_S) == worker.pid
    wait_until(lambda: marks[1], "its loading")


def test_nobody_is_called_when_a_free_service_has_been_loaded_ahead(kin, words):
    kin.service(Telling(1), warmup=1)
    words.set("header", 0, "pool_sleepers", 1)
    kin.fork_worker()
    wait_until(lambda: words.get("header", 0, "pool_sleepers") == 2, "the worker's sleep, and nobody's call")
    assert marks[1] == 1


def test_a_worker_loads_all_that_is_to_be_loaded_ahead(kin):
    """One after the other, before it sleeps; the host is asked again for what it called before."""
    for number in (1, 2, 3):
        kin.service(Telling(number), warmup=1)
    other, tell = kin.service(pid), kin.service(log_of_host)
    worker = serve_with(kin, Recorder)
    wait_until(lambda: list(marks[1:4]) == [1, 1, 1], "their loading")
    assert kin.call(other).get(PATIENCE_S) == worker.pid
    kin.service(Telling(4), warmup=1)
    wait_until(lambda: marks[4] == 1, "its loading")
    assert kin.call(other).get(PATIENCE_S) == worker.pid
    assert kin.call(tell).get(PATIENCE_S)[:2] == [(*other[:2], 0)] * 2


@pytest.mark.parametrize("sticky", [False, True])
def test_a_limited_service_is_loaded_ahead_by_who_has_a_permit(kin, words, sticky):
    """Who has none leaves it, and loads it when there is one."""
    holder = kin.runtime.request_process(POOL, 0)
    limited = kin.service(Telling(1), limit=1, sticky=sticky, warmup=1)
    words.set("queues", limited[2], "permits", [holder + 1])
    free = kin.service(Telling(2), warmup=1)
    worker = kin.fork_worker()
    await_sleep(words, worker)
    assert list(marks[1:3]) == [0, 1]
    assert permits(words, limited) == [holder]
    words.set("queues", limited[2], "permits", [0])
    assert kin.call(free).get(PATIENCE_S) == worker.pid
    wait_until(lambda: marks[1] == 1, "its loading")
    await_sleep(words, worker)
    assert permits(words, limited) == [worker.index] * sticky
    kin.supervisor.start(holder)
    assert kin.supervisor.cancel_start(holder)


def test_who_waits_for_a_permit_is_called_when_a_service_has_been_loaded_ahead(kin, words):
    """By the one that had the permit for that, before it runs a call itself."""
    first = kin.fork_worker()
    limited = kin.service(Slow(), limit=1, warmup=1)
    doors[0].entered()
    future = kin.call(limited)
    second = kin.fork_worker()
    await_sleep(words, second)
    calls = words.get("header", 0, "pool_wake")
    doors[0].open()
    assert future.get(PATIENCE_S) in (first.pid, second.pid)
    assert words.get("header", 0, "pool_wake") > calls


class Slow:
    """Stands at a door where it is loaded for the first time."""

    def __reduce__(self):
        return load_slowly, ()

    def __call__(self):
        return os.getpid()


def load_slowly():
    marks[1] += 1
    if marks[1] == 1:
        doors[0].stand()
    return Slow()


# ---- one task --------------------------------------------------------------------------------------------------------


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


def test_the_host_is_asked_when_another_function_is_to_be_called_than_before(kin):
    """By service, method and generation; and whenever something has run inside a wait."""
    alike, other = kin.service(Log, CLASS, ("note", "pid")), kin.service(pid)
    outer, tell = kin.service(ask), kin.service(log_of_host)
    calls = [kin.call(alike, 1), kin.call(alike, 2), kin.call(alike, 3, method=1), kin.call(other), kin.call(other)]
    serve_with(kin, Recorder)
    kin.runtime.wait_many(calls, PATIENCE_S)
    calls = [kin.call(outer, other), kin.call(other), kin.call(outer, other), kin.call(outer, other)]
    kin.runtime.wait_many(calls, PATIENCE_S)
    kin.runtime.close_service(*other[:2])
    again = kin.service(same)
    assert again[0] == other[0]
    assert kin.call(again, 5).get(PATIENCE_S) == 5
    log = kin.call(tell).get(PATIENCE_S)
    of = {name: (*service[:2], 0) for name, service in {"alike": alike, "other": other, "outer": outer}.items()}
    asked = [of["outer"], "suspend", of["other"], "resume"]
    expected = [of["alike"], (*alike[:2], 1), of["other"], *asked, of["other"], *asked, *asked, (*again[:2], 0)]
    assert log[: len(expected)] == expected


def test_a_service_that_has_got_a_closed_one_s_entry_is_called_itself(kin):
    """Right after a call of the closed one: the worker has looked for nothing in between."""
    first = kin.service(leave_partial)

    def replace():
        kin.runtime.close_service(*first[:2])
        second = kin.service(mark)
        assert second[::2] == first[::2]
        kin.call(second, 3)

    acts[:] = [replace]
    future = kin.call(first, True)
    serve_with(kin, Acting)
    assert future.get(PATIENCE_S) == 0
    wait_until(lambda: marks[3], "the call of the second one")


class Broken:
    """Fails where it is loaded."""

    def __reduce__(self):
        return fail_to_load, ()


def fail_to_load():
    raise LookupError("broken")


def test_the_host_is_asked_again_after_it_failed(kin):
    """It has gone over to the service that it could not load."""
    fine, broken, tell = kin.service(same), kin.service(Broken()), kin.service(log_of_host)
    calls = [kin.call(fine, 1), kin.call(broken), kin.call(fine, 2), kin.call(tell)]
    serve_with(kin, Recorder)
    assert repr(calls[1].exception(PATIENCE_S)) == repr(LookupError("broken"))
    assert calls[2].get(PATIENCE_S) == 2
    asked = [(*service[:2], 0) for service in (fine, broken, fine, tell)]
    assert calls[3].get(PATIENCE_S) == asked


class Known:
    """An object that can be told to have gone."""

    def __call__(self):
        here.append(weakref.ref(self))


def test_what_ran_inline_goes_with_its_host(alone):
    alone.call(alone.service(Known()))
    alone.work()
    assert here[0]() is not None
    alone.host = None
    gc.collect()
    assert here.pop()() is None


def test_a_worker_says_so_once_it_holds_an_object_with_a_state(kin, words):
    worker, counting = kin.fork_worker(), kin.service(Log, CLASS, ("note",))
    assert kin.call(kin.service(pid)).get(PATIENCE_S) == worker.pid
    assert words.get("processes", worker.index, "stateful") == 0
    assert kin.call(counting, 1).get(PATIENCE_S) == [1]
    assert words.get("processes", worker.index, "stateful") == 1


async def coroutine(value):
    return value


def generator(value):
    yield value


async def async_generator(value):
    yield value


@pytest.mark.parametrize("is_map", [False, True])
def test_a_coroutine_is_run_to_its_end_and_a_generator_is_refused(alone, is_map):
    def outcome(function):
        service = alone.service(function)
        if is_map:
            results = MapResults(alone.target(service), [3])
            alone.work()
            return next(results)
        future = alone.call(service, 3)
        alone.work()
        return future.get(0)

    assert outcome(coroutine) == 3
    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="generator"):
            outcome(function)


def test_a_process_that_a_task_forks_ends_with_the_task_and_gives_nothing_back(kin, words):
    """As it would at a script's end, or with what the task raises there."""
    service, mapped, after = kin.service(fork_and_end), kin.service(fork_in_a_map), kin.service(pid)
    worker, before = kin.fork_worker(), kin.in_use()
    value = kin.runtime.put(np.arange(10_000.0))
    ends = [None, 0, SystemExit(3), LookupError("in the child")]
    of_a_map = MapResults(kin.target(mapped), [SystemExit(4), LookupError("in the child")])
    assert list(of_a_map) == [4, 1]
    futures = [kin.call(service, end, value) for end in ends]
    assert kin.runtime.get_many(futures, PATIENCE_S) == [0, 0, 3, 1]
    del futures, of_a_map
    assert kin.call(after).get(PATIENCE_S) == worker.pid
    del value
    kin.wait_until_in_use(before)


def fork_and_end(end, view=None):
    """Returns how the child ended, which ends with the task."""
    child = os.fork()
    if child == 0:
        sys.excepthook = lambda *_: None
        if isinstance(end, BaseException):
            raise end
        return end
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_in_a_map(end):
    return fork_and_end(end)


def test_an_array_goes_on_to_the_next_task_as_it_is_only_as_the_input_that_it_is(kin):
    """Of a chain of tasks each gets what the one before gave; a second input is another's."""
    service, both = kin.service(same), kin.service(total_of)
    kin.fork_worker()
    for _ in range(3):
        first, second = np.arange(10_000.0), np.arange(10_000.0) * 3
        chain = one = kin.call(service, first)
        for _ in range(5):
            chain = kin.call(service, chain)
        total = kin.call(both, chain, kin.runtime.put(second))
        np.testing.assert_array_equal(total.get(PATIENCE_S), first + second)
        np.testing.assert_array_equal(one.get(PATIENCE_S), first)
        np.testing.assert_array_equal(chain.get(PATIENCE_S), first)


def test_an_array_that_goes_on_stands_for_no_other_input(kin):
    """Neither for one in the first slot, nor for one that has its slot later."""
    first, second = np.arange(10_000.0), np.arange(10_000.0) * 3
    place, service, both = kin.runtime.put(second), kin.service(same), kin.service(total_of)
    assert slot_of(place) == 0
    promise = kin.runtime.promise()
    one = kin.call(service, first)
    total, failing = kin.call(both, place, one), kin.call(both, promise, one)
    kin.fork_worker()
    np.testing.assert_array_equal(total.get(PATIENCE_S), first + second)
    assert failing is not None
    again = kin.call(service, first)
    failing = kin.call(both, promise, again)
    again.wait(PATIENCE_S)
    slot = slot_of(again)
    kin.runtime.fulfil(promise, None, serialization.dump_error(LookupError("gone")))
    del again, failing
    values = [kin.runtime.put(second) for _ in range(8)]
    (value,) = [value for value in values if slot_of(value) == slot]
    np.testing.assert_array_equal(kin.call(service, value).get(PATIENCE_S), second)


def total_of(one, two):
    one += 1  # its own
    return one + two - 1


def test_what_a_task_is_in_the_middle_of_is_told_while_it_runs_others(alone):
    """Inline: a task runs what is queued, but no call of an instance that it is itself a call of."""
    here[:] = [alone]
    words, log = Words(alone.runtime), alone.service(Nesting(), INSTANCE, ("nest", "note"))
    inner = alone.service(current_slot)
    future, later, other = alone.call(log, inner), alone.call(log, 5, method=1), alone.call(inner)
    alone.work()
    mine, inside, is_later_done, between, now = future.get(0)
    assert mine == now == slot_of(future)
    assert inside == between != mine
    assert not is_later_done
    assert later.get(0) == ["nested", 5]
    assert other.get(0) == slot_of(other)
    assert words.get("processes", words.tables.DRIVER_INDEX, "current") == 0
    here.clear()


def current_slot():
    words = Words(here[0].runtime)
    return words.get("processes", here[0].runtime.index, "current") - 1


class Nesting(list):
    def nest(self, inner):
        mine = current_slot()
        future, later = here[0].call(inner), here[0].call((*inner[:2], inner[2]))
        here[0].work()
        self.append("nested")
        return mine, future.get(0), len(self) > 1, slot_of(future), (later.get(0), current_slot())[1]

    def note(self, value):
        self.append(value)
        return list(self)


def test_what_one_queue_finishes_and_another_s_task_needs_runs_at_once(alone):
    """Inline: the pool's queue is looked at again when an instance's has run something."""
    log, service = alone.service(Log(), INSTANCE, ("note",)), alone.service(same)
    future = alone.call(service, alone.call(log, 1))
    alone.work()
    assert future.get(0) == [1]
    assert alone.runtime.inline
    assert alone.supervisor.processes() == []


def test_a_task_of_the_pool_s_queue_may_run_others_of_that_queue(alone):
    here[:] = [alone]
    inner = alone.service(current_slot)
    future = alone.call(alone.service(work_and_ask), inner)
    alone.work()
    mine, inside, now = future.get(0)
    assert mine == now == slot_of(future) != inside
    here.clear()


def work_and_ask(inner):
    mine, future = current_slot(), here[0].call(inner)
    here[0].work()
    return mine, future.get(0), current_slot()


def test_a_wait_that_cannot_end_is_refused_inline_too(alone):
    """Though another thread has run what was queued in the middle of the task."""
    here[:] = [alone]
    log = alone.service(Lonely(), INSTANCE, ("ask", "pid"))
    future, other = alone.call(log, log), alone.call(alone.service(pid))
    alone.work()
    error = future.exception(0)
    assert isinstance(error, FlameError) and error.message.startswith("deadlock: ")
    assert other.get(0) == os.getpid()
    here.clear()


class Lonely:
    def ask(self, itself):
        future = here[0].call(itself, method=1)
        thread = threading.Thread(target=here[0].work)
        thread.start()
        thread.join()
        return future.get()

    def pid(self):
        return os.getpid()


def test_an_instance_of_the_last_queue_is_served_as_well(alone):
    words = Words(alone.runtime)
    queues = range(words.tables.POOL_QUEUES, words.tables.QUEUE_COUNT - 1)
    for queue in queues:
        words.set("queues", queue, "state", words.tables.QUEUE_OPEN)
    log = alone.service(Log(), INSTANCE, ("note",))
    assert log[2] == words.tables.QUEUE_COUNT - 1
    future = alone.call(log, 1)
    alone.work()
    assert future.get(0) == [1]
    for queue in queues:
        words.set("queues", queue, "state", words.tables.QUEUE_FREE)


def test_nothing_is_kept_warm_where_nobody_would_give_it_back(alone):
    value = alone.runtime.put(b"x" * MB)
    del value
    assert alone.runtime.statistics()["cached"] == 0


def test_a_call_with_the_function_s_state_brings_it(alone):
    class Stateful(Host):
        def with_state(self, function, state):
            return lambda *args, **kwargs: (state, function(*args, **kwargs))

    target, host = CallTarget(), Stateful(alone.runtime)
    target.bind(alone.runtime, alone.service(same), 0, state=lambda: ("whole", 5))
    future = target(7)
    alone.runtime.run_queued(host)
    assert future.get(0) == (("whole", 5), 7)


def test_arrays_of_tasks_are_born_in_the_segment_wherever_that_was_asked_for(kin):
    """NumPy keeps in the context who has its memory: here in another one than the tasks'."""

    def life():
        contextvars.copy_context().run(kin.runtime.install_array_allocator)
        kin.runtime.serve(Host(kin.runtime))

    service = kin.service(make_array)
    kin.fork(life)
    assert kin.call(service, 100_000).get(PATIENCE_S)[-1] == 99_999.0
    assert kin.runtime.statistics()["copied"] < 100_000


def make_array(count):
    return np.arange(float(count))


def test_an_array_that_a_task_stores_and_then_writes_to_is_stored_as_it_was(kin):
    def life():
        kin.runtime.install_array_allocator()
        kin.runtime.serve(Host(kin.runtime))

    kin.fork(life)
    assert kin.call(kin.service(store_and_write)).get(PATIENCE_S) == [7.0, 8.0]


def store_and_write():
    array = np.full(100_000, 7.0)
    value = here[0].runtime.put(array)
    array += 1
    return [float(value.get()[5]), float(array[5])]


# ---- chunks of a map -------------------------------------------------------------------------------------------------


class Whole(int):
    """An integer that is not written as one."""

    __str__ = int.__repr__


def outcomes(alone, function, items):
    """What comes out of a map, an error last."""
    results = MapResults(alone.target(alone.service(function)), items, len(items))
    alone.work()
    found = []
    try:
        for value in results:
            found.append(value)
    except Exception as error:
        found.append(repr(error))
    return found


def halved(item):
    return item if item % 2 else item / 2


def fails_at_three(item):
    if item == 3:
        raise LookupError("three")
    return item


def fails_in_words(item):
    return str(fails_at_three(item))


def unwritable_at_three(item):
    return threading.Lock() if item == 3 else [item]


def unwritable_at_first(item):
    return threading.Lock()


def unwritable_at_last(item):
    return threading.Lock() if item == 5 else item


def as_number(item):
    return 7


def large(item):
    return bytes([item]) * MB


def one_large(item):
    return b"x" * (3 * MB if item == 3 else 1)


@pytest.mark.parametrize("kind", [int, Whole], ids=["numbers", "objects"])
def test_a_chunk_s_values_come_up_to_what_goes_wrong(alone, kind):
    """Its items are integers, which are written in a row, or something else."""
    for function, expected, error in [
        (halved, [0.0, 1, 1.0, 3, 2.0, 5], None),
        (str, ["0", "1", "2", "3", "4", "5"], None),
        (same, [0, 1, 2, 3, 4, 5], None),
        (fails_at_three, [0, 1, 2], "LookupError('three')"),
        (fails_in_words, ["0", "1", "2"], "LookupError('three')"),
        (unwritable_at_three, [[0], [1], [2]], "type lock cannot be pickled"),
        (unwritable_at_first, [], "type lock cannot be pickled"),
        (unwritable_at_last, [0, 1, 2, 3, 4], "type lock cannot be pickled"),
    ]:
        found = outcomes(alone, function, [kind(number) for number in range(6)])
        if error is not None:
            assert error in found.pop()
        assert found == expected, function


def test_items_and_results_of_all_sorts_are_told_apart(alone):
    assert outcomes(alone, same, [1.5, 2.5]) == [1.5, 2.5]
    assert outcomes(alone, same, ["a", "b"]) == ["a", "b"]
    future = alone.call(alone.service(unwritable_at_first), 1)
    alone.work()
    assert "type lock cannot be pickled" in str(future.exception(0))


def test_of_values_that_do_not_fit_into_the_store_together_those_that_do_come():
    from runtime_harness import Alone

    alone = Alone(limit=8 * MB)
    found = outcomes(alone, large, list(range(12)))
    assert [value[0] for value in found[:-1]] == list(range(len(found) - 1))
    assert 2 <= len(found) - 1 < 8
    assert "StoreFullError" in found[-1]
    alone.check()
    held = alone.runtime.put(b"x" * (5 * MB))
    found = outcomes(alone, one_large, [3, 3, 3])
    assert len(found) == 1 and "StoreFullError" in found[0]
    del held
    alone.check()
    alone.close()


def test_of_numbers_that_do_not_fit_into_the_store_together_those_that_do_come():
    from runtime_harness import Alone

    alone = Alone(limit=1 << 18)
    found = outcomes(alone, as_number, [None] * 40_000)
    assert set(found[:-1]) == {7}
    assert 2000 < len(found) - 1 < 32_000
    assert "StoreFullError" in found[-1]
    alone.check()
    alone.close()


def test_a_chunk_for_whose_error_there_is_no_room_reads_as_a_full_store():
    from runtime_harness import Alone

    alone = Alone(limit=1 << 20)
    target, held, size = alone.target(alone.service(unwritable_at_first)), [], 1 << 20
    while size >= 160:
        try:
            held.append(alone.runtime.put(b"x" * size))
        except StoreFullError:
            size //= 2
    results = MapResults(target, [1])
    alone.work()
    with pytest.raises(StoreFullError):
        next(results)
    del held, results
    alone.check()
    alone.close()


# ---- a task that waits -----------------------------------------------------------------------------------------------


def ask(service, *args):
    """A task: its process, and what another task gives that it calls and waits for."""
    return os.getpid(), here[0].call(service, *args).get()


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"limit": 1, "sticky": True}], ids=["free", "limited", "sticky"])
def test_a_task_runs_what_it_waits_for_in_its_own_process(kin, words, options):
    worker, inner, outer = kin.fork_worker(), kin.service(pid, **options), kin.service(ask)
    assert kin.call(outer, inner).get(PATIENCE_S) == (worker.pid, worker.pid)
    if options:
        assert permits(words, inner) == [worker.index] * ("sticky" in options)


def test_a_task_runs_what_its_call_depends_on_at_any_distance(kin):
    """With one worker nobody else would. An input of the pool's queue, of a limited one, one that is there already."""
    worker, limited = kin.fork_worker(), kin.service(chained, limit=1)
    assert kin.call(kin.service(ask_a_chain), kin.service(chained), limited).get(PATIENCE_S) == [worker.pid] * 7
    wait_until(lambda: permits(Words(kin.runtime), limited) == [])


def chained(*below):
    return [pid for pids in below for pid in pids] + [os.getpid()]


def ask_a_chain(service, limited):
    call = here[0].call
    there = call(service)
    there.get()
    last = call(service, call(limited, call(service, there), call(service)), call(limited, call(service)))
    return last.get()


def test_a_task_looks_for_what_to_run_at_each_of_what_it_needs_once(kin, words):
    """A net of inputs, with more ways through it than anybody could go; what lies at its end is an instance's."""
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_a_net), log, kin.service(same))
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == instance.pid


def ask_a_net(log, service):
    first = second = here[0].call(log)
    for _ in range(30):
        first, second = here[0].call(service, first, second), here[0].call(service, second, first)
    return first.get()


def test_a_limited_task_keeps_its_permit_while_one_of_its_service_runs_inside_its_wait(kin, words):
    worker, service = kin.fork_worker(), kin.service(descend, limit=1)
    assert kin.call(service, service, 3).get(PATIENCE_S) == [[worker.index]] * 4
    await_sleep(words, worker)
    assert permits(words, service) == []


def descend(service, depth):
    """Who has a permit at the end of each task, the innermost first."""
    below = here[0].call(service, service, depth - 1).get() if depth else []
    return [*below, permits(Words(here[0].runtime), service)]


def test_each_permit_taken_inside_a_wait_is_given_back_at_the_end_of_that_task(kin, words):
    """One service's task inside another's, both limited."""
    worker = kin.fork_worker()
    outer, middle, inner = kin.service(ask), kin.service(ask_and_look, limit=1), kin.service(pid, limit=1)
    assert kin.call(outer, middle, inner, middle).get(PATIENCE_S) == (worker.pid, ([], [worker.index]))
    await_sleep(words, worker)
    assert permits(words, inner) == permits(words, middle) == []


def ask_and_look(inner, middle):
    """Who has permits of either service when the inner task is over."""
    here[0].call(inner).get()
    return tuple(permits(Words(here[0].runtime), service) for service in (inner, middle))


def test_what_ran_inside_a_wait_leaves_no_entry_and_calls_nobody(kin, words):
    """It is void by then, and would be the next look's."""
    kin.fork_worker()
    outer, inner = kin.service(ask_and_look_at_the_queue), kin.service(sleepers_now)
    assert kin.call(outer, inner).get(PATIENCE_S) == (0, 0, 3)
    words.set("header", 0, "pool_sleepers", 0)


def ask_and_look_at_the_queue(inner):
    """Sleepers before it, entries in the pool's queue after it, and sleepers then."""
    before, words = here[0].call(inner, 3).get(), Words(here[0].runtime)
    entries = words.get("queues", 0, "tail") - words.get("queues", 0, "head")
    return before, entries, words.get("header", 0, "pool_sleepers")


def test_a_task_without_a_permit_for_what_it_waits_for_does_not_run_that(kin, words):
    holder, worker, limited = kin.runtime.request_process(POOL, 0), kin.fork_worker(), kin.service(mark, limit=1)
    words.set("queues", limited[2], "permits", [holder + 1])
    future = kin.call(kin.service(ask), limited, 1)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert marks[1] == 0
    words.set("queues", limited[2], "permits", [0])
    assert future.get(PATIENCE_S) == (worker.pid, worker.pid)
    kin.supervisor.start(holder)
    assert kin.supervisor.cancel_start(holder)


def test_who_waits_for_a_permit_taken_inside_a_wait_is_called_when_it_is_free(kin, words):
    limited, outer = kin.service(stand, limit=1), kin.service(ask_and_stand)
    first = kin.fork_worker()
    future = kin.call(outer, limited, kin.service(mark))
    doors[0].entered()
    second = kin.fork_worker()
    await_sleep(words, second)
    doors[0].open()
    doors[1].entered()
    wait_until(lambda: marks[2] == 1, "the other call")
    doors[1].open()
    assert future.get(PATIENCE_S) == (first.pid, second.pid)


def ask_and_stand(limited, then):
    """The second call is run beside this task while it stands at its own door."""
    one, two = here[0].call(limited, 0), here[0].call(limited)
    after = here[0].call(then, 2, two)
    found = one.get()
    doors[1].stand()
    after.get()
    return found, two.get()


@pytest.mark.parametrize("limit", [0, 1])
def test_a_task_inside_a_wait_is_not_begun_by_who_lost_it_to_another(kin, words, limit):
    """Between the look at its state and the claim somebody else has it. Its permit is free again."""
    limited, outer = kin.service(pid, limit=limit), kin.service(ask)
    worker = serve_with(kin, Late)
    future = kin.call(outer, limited)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert permits(words, limited) == []
    assert not future.done()
    words.set_state(queued_by(words, worker, limited), words.tables.READY, 0)
    assert future.get(PATIENCE_S) == (worker.pid, worker.pid)
    await_sleep(words, worker)
    assert permits(words, limited) == []


def queued_by(words, worker, service):
    """The slot of the one call of a service that a worker's task has made."""
    (slot,) = [slot for slot in words.slots_of(worker.index) if words.get("slots", slot, "service") == service[0]]
    return slot


def test_the_permit_for_a_task_that_was_lost_is_left_though_another_is_taken_for_the_next(kin, words):
    """In one look for something to run, which finds what is queued first, and then an input of what is waited for."""
    lost, found, outer = kin.service(pid, limit=1), kin.service(pid, limit=1), kin.service(ask_for_an_input_and)
    worker = serve_with(kin, Late)
    future = kin.call(outer, kin.service(same), found, lost)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert permits(words, lost) == permits(words, found) == []
    words.set_state(queued_by(words, worker, lost), words.tables.READY, 0)
    assert future.get(PATIENCE_S) == [worker.pid] * 2


def test_nobody_is_called_for_a_permit_that_was_left_with_the_lost_task(kin, words):
    """Not even when what was found then is over: of three one is called for the task that it has made ready."""
    lost, found = kin.service(pid, limit=1), kin.service(sleepers_here)
    worker = serve_with(kin, Late)
    future = kin.call(kin.service(ask_for_an_input_and), found, found, lost)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    words.set_state(queued_by(words, worker, lost), words.tables.READY, 0)
    assert future.get(PATIENCE_S) == [2, worker.pid]


def sleepers_here(*below):
    """How many are said to sleep; three from now on, or none."""
    return sleepers_now(0 if below else 3)


def ask_for_an_input_and(after, found, lost):
    call = here[0].call
    return here[0].runtime.get_many([call(after, call(found)), call(lost)])


class Late(Host):
    """When it is asked for the first time, the driver claims the task."""

    def may_help(self, service, generation):
        marks[1] += 1
        if marks[1] == 1:
            words = Words(self.runtime)
            (slot,) = [slot for slot in words.slots_of(self.runtime.index) if words.get("slots", slot, "service") == service]
            words.set_state(slot, words.tables.RUNNING, words.tables.DRIVER_INDEX)
        return super().may_help(service, generation)


class Caller:
    """A class whose methods call the class's own service."""

    def outer(self, service):
        return os.getpid(), here[0].call(service, method=1).get()

    def inner(self):
        return os.getpid()


def test_a_method_does_not_run_inside_another_one_of_the_same_object(kin, words):
    service, first = kin.service(Caller, CLASS, ("outer", "inner")), kin.fork_worker()
    future = kin.call(service, service)
    wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == (first.pid, second.pid)


@pytest.mark.parametrize("too_deep", [False, True])
def test_a_task_deep_in_its_stack_runs_nothing_more_on_it(kin, words, too_deep):
    first, inner = kin.fork_worker(), kin.service(pid)
    future = kin.call(kin.service(ask_with_frames), inner, too_deep)
    if too_deep:
        wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
        second = kin.fork_worker()
        assert future.get(PATIENCE_S) == (first.pid, second.pid)
    else:
        assert future.get(PATIENCE_S) == (first.pid, first.pid)


def ask_with_frames(inner, too_deep):
    """Waits with exactly half of the frames that Python allows, or one more."""
    frame, depth, limit = sys._getframe(), 0, sys.getrecursionlimit()
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    future = here[0].call(inner)
    sys.setrecursionlimit(2 * depth - too_deep)
    try:
        return os.getpid(), future.get()
    finally:
        sys.setrecursionlimit(limit)


def test_a_hundred_tasks_run_inside_each_other_s_waits_and_no_more(kin, words):
    first, service = kin.fork_worker(), kin.service(dig)
    future = kin.call(service, service, 102)
    wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
    assert marks[0] == 101
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == [second.pid] * 2 + [first.pid] * 101


def dig(service, depth):
    marks[0] += 1
    sys.setrecursionlimit(10_000)
    below = here[0].call(service, service, depth - 1).get() if depth else []
    return [*below, os.getpid()]


def test_a_task_that_waits_with_a_time_out_runs_nothing_meanwhile(kin):
    worker = kin.fork_worker()
    assert kin.call(kin.service(ask_in_time), kin.service(mark)).get(PATIENCE_S) == ("too late", 0, worker.pid)


def ask_in_time(service):
    future = here[0].call(service, 1)
    try:
        future.get(0.003)
    except TimeoutError:
        return "too late", marks[1], future.get()
    return None


def test_a_thread_of_a_task_runs_nothing_while_it_waits(kin, words):
    """It would be another thread's task. Its process counts as blocked all the same."""
    first, inner = kin.fork_worker(), kin.service(pid)
    future = kin.call(kin.service(ask_in_a_thread), inner)
    wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
    assert words.get("slots", slot_of(future), "waits_for") == 0
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == [second.pid]
    assert not words.get("processes", first.index, "blocked")


def ask_in_a_thread(inner):
    found = []
    thread = threading.Thread(target=lambda: found.append(here[0].call(inner).get()))
    thread.start()
    thread.join()
    return found


def test_an_instance_s_method_runs_nothing_while_it_waits(kin, words):
    log, inner = kin.service(Asking(), INSTANCE, ("ask",), warmup=1), kin.service(pid)
    (instance,) = kin.fork_requested()
    future = kin.call(log, inner)
    wait_until(lambda: words.get("processes", instance.index, "waiters"), "its sleep")
    worker = kin.fork_worker()
    assert future.get(PATIENCE_S) == (instance.pid, worker.pid)


class Asking:
    def ask(self, service, *args):
        return ask(service, *args)

    def ask_many(self, services):
        return here[0].runtime.get_many([here[0].call(service) for service in services])

    def ask_any(self, services):
        futures = [here[0].call(service) for service in services]
        found = here[0].runtime.selector(futures).take()
        return [(number, futures[number].get()) for number in found]

    def pid(self):
        return os.getpid()


# ---- blocked tasks ---------------------------------------------------------------------------------------------------


def rung(kin):
    try:
        return os.eventfd_read(kin.bell) > 0
    except BlockingIOError:
        return False


def test_the_zygote_is_told_that_a_task_waits_and_that_it_goes_on(kin, words):
    worker, outer = kin.fork_worker(), kin.service(ask)
    log = kin.service(Log(), INSTANCE, ("pid",), warmup=1)
    assert kin.call(outer, kin.service(pid)).get(PATIENCE_S) == (worker.pid, worker.pid)  # without being blocked
    await_sleep(words, worker)
    rung(kin)
    future = kin.call(outer, log)
    wait_until(lambda: rung(kin), "the bell")
    assert words.get("processes", worker.index, "blocked") == 1
    assert kin.supervisor.processes()[0].blocked
    (inner,) = words.slots_of(worker.index)
    assert words.get("slots", slot_of(future), "waits_for") == inner + 1
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == (worker.pid, instance.pid)
    assert words.get("processes", worker.index, "blocked") == 0
    assert rung(kin)


def test_a_task_that_waits_is_blocked_after_a_moment(kin, words):
    """And not only when it looks around (after 250 ms)."""
    worker, log, outer = kin.fork_worker(), kin.service(Standing(), INSTANCE, ("stand",), warmup=1), kin.service(ask)
    kin.fork_requested()
    took = []
    for _ in range(3):
        future = kin.call(outer, log, 1)
        doors[1].entered()
        begin = time.monotonic()
        wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
        took.append(time.monotonic() - begin)
        doors[1].open()
        future.get(PATIENCE_S)
    assert min(took) < PROMPT_S


class Standing:
    def stand(self, door):
        return stand(door)


def test_a_permit_whose_holder_waits_is_taken_by_who_sleeps(kin, words):
    """Nobody else is called for that: the task was queued while the permit was in use."""
    first, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    limited = kin.service(stand_then_ask, limit=1)
    waiting = kin.call(limited, log)
    doors[0].entered()
    second = kin.fork_worker()
    quick = kin.call(limited)
    await_sleep(words, second)
    doors[0].open()
    assert quick.get(PATIENCE_S) == second.pid
    assert not waiting.done()
    (instance,) = kin.fork_requested()
    assert waiting.get(PATIENCE_S) == (first.pid, instance.pid)
    wait_until(lambda: permits(words, limited) == [])


def stand_then_ask(service=None):
    if service is None:
        return os.getpid()
    doors[0].stand()
    return ask(service)


def test_a_task_is_not_blocked_while_it_runs_another_and_is_again_after_it(kin, words):
    """What it waits for becomes ready when it sleeps already."""
    worker = kin.fork_worker()
    first, last = (kin.service(Log(), INSTANCE, ("pid",)) for _ in range(2))
    future = kin.call(kin.service(ask_for_two), first, last, kin.service(blocked_now))
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    wait_until(lambda: len(kin.supervisor.processes()) == 3)
    requested = [entry.index for entry in kin.supervisor.processes() if entry.queue == first[2]]
    kin.fork_worker(requested[0])
    wait_until(lambda: marks[1] == 1, "the task inside")
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked again")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == [(worker.pid, 0), instance.pid]
    assert words.get("processes", worker.index, "blocked") == 0


def ask_for_two(first, last, service):
    call = here[0].call
    return here[0].runtime.get_many([call(service, call(first)), call(last)])


def blocked_now(_):
    marks[1] += 1
    return os.getpid(), Words(here[0].runtime).get("processes", here[0].runtime.index, "blocked")


def test_a_process_is_blocked_until_the_last_of_its_threads_goes_on(kin, words):
    worker = kin.fork_worker()
    logs = [kin.service(Log(), INSTANCE, ("pid",)) for _ in range(2)]
    future = kin.call(kin.service(ask_both), *logs)
    wait_until(lambda: words.get("processes", worker.index, "waiters") == 2, "the sleep of both")
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    wait_until(lambda: len(kin.supervisor.processes()) == 3)
    kin.fork_worker([entry.index for entry in kin.supervisor.processes() if entry.queue == logs[0][2]][0])
    wait_until(lambda: marks[1] == 1, "the thread's end")
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked still, or at last")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == instance.pid
    assert words.get("processes", worker.index, "blocked") == 0


def ask_both(one, other):
    def wait():
        here[0].call(one).get()
        marks[1] = 1

    thread = threading.Thread(target=wait)
    thread.start()
    found = here[0].call(other).get()
    thread.join()
    return found


# ---- waits for many, and for any -------------------------------------------------------------------------------------


def test_a_task_that_waits_for_many_runs_those_that_are_queued_whatever_comes_first(kin, words):
    """In order, each in its own process."""
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_for_many), log, kin.service(same), kin.service(in_order))
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert marks[0] == 5
    waited = words.get("slots", slot_of(future), "waits_for")
    (instance,) = kin.fork_requested()
    found, (first, now) = future.get(PATIENCE_S)
    assert found == [instance.pid, *((number, number) for number in range(5))]
    assert (waited, now) == (first + 1, 0)


def ask_for_many(log, after, service):
    """What came, the first of them, and for which this task waits when that is over."""
    call = here[0].call
    futures = [call(after, call(log)), *(call(service, number) for number in range(5))]
    found = here[0].runtime.get_many(futures)
    return found, (slot_of(futures[0]), Words(here[0].runtime).get("slots", current_slot(), "waits_for"))


def test_a_task_that_waits_for_many_passes_an_instance_s_call_on_its_way_to_the_pool_s(kin):
    """Though that is queued, too."""
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_for_each), log, kin.service(mark))
    wait_until(lambda: marks[1], "the task behind it")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == [instance.pid, worker.pid]


def ask_for_each(log, service):
    return here[0].runtime.get_many([here[0].call(log), here[0].call(service, 1)])


def test_a_failure_of_what_a_task_runs_inside_its_wait_for_many_ends_that(kin):
    """What comes behind it is not waited for: nobody ever runs it."""
    kin.fork_worker()
    log = kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_for_a_failure), log, kin.service(fails_at_three))
    assert repr(future.exception(PATIENCE_S)) == repr(LookupError("three"))
    kin.fork_requested()
    kin.wait_until_idle()


def ask_for_a_failure(log, service):
    return here[0].runtime.get_many([here[0].call(service, 3), here[0].call(log)])


def test_a_task_that_waits_for_any_says_for_which_and_runs_none_of_them(kin, words):
    worker, inner = kin.fork_worker(), kin.service(mark)
    outer = kin.service(select_among)
    before = kin.in_use()
    future = kin.call(outer, inner)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    published = words.get("slots", slot_of(future), "waits_for")
    block = published & ~(1 << 63)
    assert published >> 63
    count, *slots = words.tables.numbers(block, 4)
    assert (count, sorted(slots)) == (3, words.slots_of(worker.index))
    assert marks[1] == 0
    assert words.get("processes", worker.index, "taking") == 0
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == ([0, 1, 2], [second.pid] * 3, 0)
    assert kin.supervisor.processes()[0].blocked == 0
    del future
    kin.wait_until_in_use(before)


def select_among(service):
    """Waits until all have been given out; then what it waits for."""
    futures = [here[0].call(service, 1) for _ in range(3)]
    selector, found = here[0].runtime.selector(futures), []
    while len(found) < 3:
        found += selector.take()
    values = [future.get() for future in futures]
    return sorted(found), values, Words(here[0].runtime).get("slots", current_slot(), "waits_for")


def test_a_task_that_waits_for_any_twice_says_so_twice(kin, words):
    """Of as many as just fill a block: what lies around it stays as it is."""
    worker, quick = kin.fork_worker(), kin.service(stand)
    logs = [kin.service(Log(), INSTANCE, ("pid",)) for _ in range(2)]
    future = kin.call(kin.service(select_twice), logs)
    published = []
    for number, log in enumerate(logs):
        wait_until(lambda number=number: marks[1] == number + 1, "the take before")
        wait_until(lambda: words.get("slots", slot_of(future), "waits_for"), "its telling")
        published.append(words.tables.numbers(words.get("slots", slot_of(future), "waits_for") & ~(1 << 63), 1)[0])
        wait_until(lambda log=log: words.get("queues", log[2], "process"))
        kin.fork_worker(words.get("queues", log[2], "process") - 1)
    assert future.get(PATIENCE_S) == [0, 1]
    assert published == [41, 40]
    assert kin.call(quick).get(PATIENCE_S) == worker.pid


def select_twice(logs):
    call, runtime = here[0].call, here[0].runtime
    promises = [runtime.promise() for _ in range(39)]
    futures = [*(call(log) for log in logs), *promises]
    selector, found = runtime.selector(futures), []
    values = [runtime.put(bytes([number]) * 300) for number in range(20)]
    values[7] = values[12] = None
    with contextlib.suppress(TimeoutError):
        found += selector.take(0.001)
    while len(found) < 2:
        marks[1] = 1 + len(found)
        found += selector.take()
    for promise in promises:
        runtime.fulfil(promise, None)
    assert all(value is None or value.get() == bytes([number]) * 300 for number, value in enumerate(values))
    return found


@pytest.mark.parametrize("many", [False, True])
def test_a_task_runs_what_it_waits_for_though_that_has_the_first_slot(kin, many):
    """The first group of slots was the driver's, and is the worker's then."""
    places = [kin.runtime.put(0) for _ in range(62)]
    worker = kin.fork_worker()
    inner, quick, outer = kin.service(pid), kin.service(stand), kin.service(ask_in_first_slot)
    future = kin.call(quick, 0)
    assert (slot_of(places[0]), slot_of(future)) == (0, 62)
    doors[0].entered()
    del places
    last = kin.call(outer, inner, many)
    doors[0].open()
    assert last.get(PATIENCE_S) == (0, worker.pid)
    assert future.get(0) == worker.pid


def test_a_task_that_runs_all_that_it_waits_for_is_never_blocked(kin):
    """Though the first of them has the first slot: the zygote hears of nobody who is."""
    places = [kin.runtime.put(0) for _ in range(62)]
    worker = kin.fork_worker()
    first = kin.call(kin.service(stand), 0)
    doors[0].entered()
    del places
    last = kin.call(kin.service(ask_from_first_slot), kin.service(pid))
    doors[0].open()
    assert last.get(PATIENCE_S) == [(slots, [worker.pid] * 3) for slots in ([0, 1, 2], [1, 2, 0], [2, 0, 1])]
    assert first.get(0) == worker.pid
    assert not rung(kin)


def test_a_task_runs_what_it_waits_for_behind_something_else_though_that_has_the_first_slot(kin):
    places = [kin.runtime.put(0) for _ in range(62)]
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    first = kin.call(kin.service(stand), 0)
    future = kin.call(kin.service(ask_behind), kin.service(same), log, kin.service(mark))
    doors[0].entered()
    del places
    doors[0].open()
    wait_until(lambda: marks[1], "the second one of what it waits for")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == (0, [instance.pid, worker.pid])
    assert first.get(0) == worker.pid


def ask_behind(after, log, service):
    call = here[0].call
    future = call(service, 1)
    return slot_of(future), here[0].runtime.get_many([call(after, call(log)), future])


def ask_from_first_slot(service):
    """Waits for three at once, of which the first, the second, the last made has the first slot."""
    found = []
    for turned in range(3):
        futures = [here[0].call(service) for _ in range(3)]
        futures = futures[turned:] + futures[:turned]
        found.append(([slot_of(future) for future in futures], here[0].runtime.get_many(futures)))
        del futures
    return found


def ask_in_first_slot(service, many):
    future = here[0].call(service)
    value = here[0].runtime.get_many([future])[0] if many else future.get()
    return slot_of(future), value


@pytest.mark.parametrize("many", [False, True])
def test_a_task_runs_nothing_inside_its_wait_that_it_does_not_wait_for(kin, words, many):
    """Though that is queued, and in the very first slot."""
    place, promise = kin.runtime.put(None), kin.runtime.promise()
    assert slot_of(place) == 0
    del place
    first = kin.call(kin.service(pid), promise)
    assert slot_of(first) == 0
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(stand_and_ask_for), log, kin.service(same), many)
    doors[0].entered()
    kin.runtime.fulfil(promise, None)
    doors[0].open()
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert not first.done()
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == instance.pid
    assert first.get(PATIENCE_S) == worker.pid


def stand_and_ask_for(log, after, many):
    """What it waits for is not queued, or only for somebody else."""
    future = here[0].call(after, here[0].call(log)) if many else here[0].call(log)
    doors[0].stand()
    return here[0].runtime.get_many([future])[0] if many else future.get()


@pytest.mark.parametrize("method", ["ask", "ask_many", "ask_many behind another", "ask_any"])
def test_a_wait_that_cannot_end_is_refused(kin, method):
    """A method that waits for a call of its own instance."""
    methods = ("ask", "ask_many", "ask_any", "pid")
    kin.fork_worker()
    instance = kin.service(Asking(), INSTANCE, methods, warmup=1)
    kin.fork_requested()
    itself, quick = (kin.service(pid) for _ in range(2))
    del itself
    if method == "ask":
        future = kin.call(instance, instance)
    elif method == "ask_any":
        future = kin.call(instance, [instance, instance], method=2)
    else:
        services = [quick, instance] if method.endswith("another") else [instance, quick]
        future = kin.call(instance, services, method=1)
    error = future.exception(PATIENCE_S)
    assert isinstance(error, FlameError) and error.message.startswith("deadlock: ")
    kin.wait_until_idle()


def test_a_wait_for_any_of_which_one_can_end_is_none_that_cannot(kin):
    worker = kin.fork_worker()
    instance = kin.service(Asking(), INSTANCE, ("ask", "ask_many", "ask_any", "pid"), warmup=1)
    kin.fork_requested()
    future = kin.call(instance, [instance, kin.service(pid)], method=2)
    assert future.get(PATIENCE_S) == [(1, worker.pid)]
    kin.wait_until_idle()


def test_no_wait_for_any_without_room_to_say_so():
    from runtime_harness import Family

    family = Family(limit=1 << 20, workers=2, cpus=2)
    here[:] = [family]
    worker = family.fork_worker()
    held, size = [], 1 << 20
    future = family.call(family.service(select_many), family.service(mark), 3000)
    wait_until(lambda: marks[2], "the calls")
    while size >= 1 << 14:
        try:
            held.append(family.runtime.put(b"x" * size))
        except StoreFullError:
            size //= 2
    marks[3] = 1
    assert isinstance(future.exception(PATIENCE_S), StoreFullError)
    family.runtime.announce_close()
    assert family.recover_process(worker) == 0
    here.clear()
    family.close()


def select_many(service, count):
    futures = [here[0].call(service, 1) for _ in range(count)]
    selector = here[0].runtime.selector(futures)
    marks[2] = 1
    wait_until(lambda: marks[3], "a full store")
    return selector.take()
