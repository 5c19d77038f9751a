"""A task that waits and cannot help is blocked: its permit and its place in the pool are free meanwhile.

Workers are forked relatives of the test's process, which plays driver and supervisor (zygote). So a task knows the
test's runtime: it looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import os
import threading
import time

from actors import rung
from gates import PATIENCE_S, wait_until
from serving import PROMPT_S, Log, ask, await_sleep, doors, here, marks, permits, pid, stand
from words import Words, slot_of

from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["serving_family"]


def test_the_supervisor_is_told_that_a_task_waits_and_that_it_goes_on(kin, words):
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
    """The task is not blocked only at the next look around (after 250 ms)."""
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


def test_a_permit_whose_holder_waits_is_acquired_by_a_sleeper(kin, words):
    """No other sleeper is woken for that: the task was queued while the permit was in use."""
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
    """The call that it waits for becomes ready when the task sleeps already."""
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
