"""Scheduling: which task a worker takes next, and whom a free permit wakes.

Workers are forked relatives of the test's process, which plays driver and supervisor (zygote). So a task knows the
test's runtime: it looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import pytest
from gates import PATIENCE_S, wait_until
from serving import (
    Acting,
    Log,
    acts,
    await_sleep,
    doors,
    here,
    in_order,
    mark,
    marks,
    permits,
    pid,
    same,
    serve_with,
    sleepers_now,
    stand,
)
from words import Words, slot_of

from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["serving_family"]


def test_queues_take_turns(kin):
    """The worker serves each queue with an entry, from behind the one that it served last."""
    services = [kin.service(in_order), *(kin.service(in_order, limit=1) for _ in range(3))]
    kin.runtime.close_service(*services.pop(2)[:2])
    futures = [[kin.call(service, number) for number in range(3)] for service in services]
    kin.fork_worker()
    found = [kin.runtime.get_many(of_one, PATIENCE_S) for of_one in futures]
    assert [[order for _, order in of_one] for of_one in found] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_what_a_task_has_made_ready_is_next_in_its_process(kin):
    """The ready task runs before those that were queued earlier."""
    service = kin.service(in_order)
    first = kin.call(service, 0)
    futures = [first, kin.call(service, 1), kin.call(service, 2, first)]
    kin.fork_worker()
    assert kin.runtime.get_many(futures, PATIENCE_S) == [(0, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize("sticky", [False, True])
def test_a_permit_taken_for_a_call_that_is_gone_is_kept_only_by_a_sticky_service(kin, words, sticky):
    """A void entry is all that was left of the call."""
    limited, free = kin.service(same, limit=1, sticky=sticky), kin.service(same)
    value = kin.runtime.put(0)
    words.push(limited[2], slot_of(value))
    worker = kin.fork_worker()
    assert kin.call(free, 1).get(PATIENCE_S) == 1
    wait_until(lambda: words.get("queues", limited[2], "head") == 1)
    await_sleep(words, worker)
    assert permits(words, limited) == [worker.index] * sticky


def test_a_worker_leaves_a_free_queue_alone(kin, words):
    """A void entry has stayed there."""
    value, limited = kin.runtime.put(0), kin.service(same, limit=1)
    words.push(limited[2], slot_of(value))
    kin.runtime.close_service(*limited[:2])
    assert words.get("queues", limited[2], "state") == words.tables.QUEUE_FREE
    await_sleep(words, kin.fork_worker())
    assert words.get("queues", limited[2], "head") == 0


def test_an_inline_runner_leaves_a_free_queue_alone(alone):
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


def test_no_worker_takes_another_task_once_the_runner_closes(kin):
    worker, service, quick = kin.fork_worker(), kin.service(stand), kin.service(pid)
    held, waiting = kin.call(service, 0), kin.call(quick)
    doors[0].entered()
    assert kin.runtime.announce_close() == 2
    doors[0].open()
    assert kin.recover_process(worker) == 0
    assert held.get(0) == worker.pid
    assert not waiting.done()


def test_a_worker_that_waits_for_a_permit_is_woken_when_it_is_free(kin, words):
    """The worker that had the permit goes on with a task that its last one has made ready."""
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
    # The pool's queue comes first, then the limited one: its first call's end wakes all, its last one's end none.
    assert [future.get(0) for future in futures] == [0, 0, 0]
    assert words.get("header", 0, "pool_sleepers") == 3
    words.set("header", 0, "pool_sleepers", 0)
    here.clear()


def test_no_sleeper_is_woken_when_a_free_service_s_task_is_over(alone):
    here[:] = [alone]
    words, free = Words(alone.runtime), alone.service(sleepers_now)
    futures = [alone.call(free, 3), alone.call(free, 0)]
    alone.work()
    assert [future.get(0) for future in futures] == [0, 3]
    assert words.get("header", 0, "pool_sleepers") == 0
    here.clear()


def test_a_task_that_comes_when_a_worker_is_about_to_wait_for_one_runs(kin):
    """The worker finds it at the first look, and looks for no more."""
    service = kin.service(mark)
    acts[:] = [lambda: kin.detached(service, 1)]
    serve_with(kin, Acting)
    wait_until(lambda: marks[1], "the task")


def test_calls_that_come_one_after_the_other_are_all_served(kin):
    """The next call comes while the worker spins, or has just gone to sleep."""
    service, log = kin.service(same), kin.service(Log(), INSTANCE, ("note",), warmup=1)
    kin.fork_worker()
    kin.fork_requested()
    for number in range(300):
        assert kin.call(service, number).get(PATIENCE_S) == number
    for number in range(50):
        assert len(kin.call(log, number).get(PATIENCE_S)) == number + 1


def test_calls_that_come_in_a_burst_are_all_served(kin, words):
    """Two workers run out of calls again and again: each finds some while it spins, and both go to sleep in the end."""
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
    """A worker would keep the permit of a sticky service."""
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
    """The finisher of its dependency runs it at once."""
    place, worker = kin.runtime.put(0), kin.fork_worker()
    first = kin.call(kin.service(stand), 0)
    assert slot_of(place) == 0
    del place
    second = kin.call(kin.service(same), first)
    assert slot_of(second) == 0
    doors[0].entered()
    doors[0].open()
    assert second.get(PATIENCE_S) == worker.pid
