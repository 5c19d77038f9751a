"""Queues as a process leaves them that died between two steps: lagging ends, void entries, full rings, taken permits."""

from __future__ import annotations

import pytest
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, Log, same, wait_until
from runtime_harness import POOL, Death
from words import Words, slot_of

from flame_fast import StoreFullError
from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["dead_processes"]


def next_slots(alone, count):
    """Return the slots that the next calls will get, in order."""
    return [slot_of(future) for future in [alone.runtime.put(0) for _ in range(count)]]


# ---- a queue's ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [1, 3])
def test_a_tail_that_its_pusher_did_not_move_on_is_moved_on(alone, behind):
    service, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    queue = service[2]
    futures = [alone.call(service, number) for number in range(3)]
    words.set("queues", queue, "tail", 3 - behind)
    futures.append(alone.call(service, 3))
    assert words.get("queues", queue, "tail") == 4
    alone.work()
    assert futures[-1].get(0) == [0, 1, 2, 3]


def test_a_tail_left_behind_entries_that_were_read_is_moved_on(alone):
    service, words = alone.service(same), Words(alone.runtime)
    for number in range(3):
        future = alone.call(service, number)
        alone.work()
    words.set("queues", 0, "tail", 1)
    future = alone.call(service, 7)
    assert words.get("queues", 0, "tail") == 4
    alone.work()
    assert future.get(0) == 7


def test_a_head_left_behind_entries_that_were_read_is_moved_on(alone):
    service, words = alone.service(same), Words(alone.runtime)
    for number in range(3):
        alone.call(service, number)
    alone.work()
    words.set("queues", 0, "head", 0)
    future = alone.call(service, 7)
    alone.work()
    assert future.get(0) == 7
    assert words.get("queues", 0, "head") == words.get("queues", 0, "tail") == 4


# ---- entries that are void -------------------------------------------------------------------------------------------


def test_an_old_entry_of_the_pool_s_queue_to_the_slot_of_an_instance_s_call_is_void(alone):
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    service = alone.service(same)
    for number in range(5):  # so that it stands at a later place than the call does
        alone.call(service, number)
    alone.work()
    promise = alone.runtime.promise()
    first, second = alone.call(log, promise), alone.call(log, 2)
    words.push(0, slot_of(second))
    alone.work()
    assert not second.done()
    alone.runtime.fulfil(promise, 1)
    alone.work()
    assert second.get(0) == [1, 2]
    del first


def test_an_old_entry_of_a_queue_to_the_slot_of_a_later_call_of_it_is_void(alone):
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    *_, last = next_slots(alone, 3)
    words.push(log[2], last)
    futures = [alone.call(log, number) for number in range(3)]
    assert slot_of(futures[-1]) == last
    alone.work()
    assert futures[-1].get(0) == [0, 1, 2]


def test_an_old_entry_to_the_slot_of_a_waiting_call_delays_no_other(alone):
    """Of the same queue: a later call's, in order; of the pool's queue: any call's, which waits for no other."""
    log, service, words = alone.service(Log(), INSTANCE, ("note",)), alone.service(same), Words(alone.runtime)
    promise = alone.runtime.promise()
    *_, last = next_slots(alone, 2)
    words.push(log[2], last)
    first, second = alone.call(log, 1), alone.call(log, promise)
    assert slot_of(second) == last
    alone.work()
    assert first.get(0) == [1]
    waiting = alone.call(service, promise)
    words.push(0, slot_of(waiting))
    third = alone.call(service, 3)
    alone.work()
    assert third.get(0) == 3
    alone.runtime.fulfil(promise, 2)
    alone.work()
    assert (second.get(0), waiting.get(0)) == ([1, 2], 2)


# ---- rings full of old entries ---------------------------------------------------------------------------------------


def test_a_queue_full_of_void_entries_takes_a_call(alone):
    service, words = alone.service(same), Words(alone.runtime)
    (slot,) = next_slots(alone, 1)
    words.fill(0, slot + 1)
    futures = [alone.call(service, number) for number in range(3)]
    alone.work()
    assert [future.get(0) for future in futures] == [0, 1, 2]


def test_a_queue_full_of_void_entries_behind_queued_calls_takes_more(alone):
    """The calls go to the queue's end."""
    service, words = alone.service(same), Words(alone.runtime)
    queued = [alone.call(service, number) for number in range(3)]
    promise = alone.runtime.promise()
    waiting = alone.call(service, promise)
    words.fill(0, slot_of(waiting))
    queued += [alone.call(service, number) for number in range(3, 6)]
    alone.work()
    assert [future.get(0) for future in queued] == list(range(6))
    alone.runtime.fulfil(promise, 6)
    alone.work()
    assert waiting.get(0) == 6


def test_a_full_queue_of_an_instance_whose_first_call_waits_takes_no_more(alone):
    """No call may overtake it; what did not fit fails, and the rest is called in order."""
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    promise = alone.runtime.promise()
    first, second = alone.call(log, promise), alone.call(log, 2)
    (free,) = next_slots(alone, 1)
    words.fill(log[2], free + 1)
    refused = alone.call(log, 3)
    assert isinstance(refused.exception(0), StoreFullError)
    alone.runtime.fulfil(promise, 1)
    alone.work()
    third = alone.call(log, 3)
    alone.work()
    assert (first.get(0), second.get(0), third.get(0)) == ([1], [1, 2], [1, 2, 3])


def test_a_full_queue_of_an_instance_whose_first_calls_were_void_takes_more(alone):
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    (slot,) = next_slots(alone, 1)
    words.fill(log[2], slot + 1)
    futures = [alone.call(log, number) for number in range(3)]
    alone.work()
    assert futures[-1].get(0) == [0, 1, 2]


def test_a_full_queue_of_an_instance_whose_first_calls_are_over_and_held_takes_more(alone):
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    held = alone.call(log, 0)
    alone.work()
    words.fill(log[2], slot_of(held))
    future = alone.call(log, 1)
    alone.work()
    assert (held.get(0), future.get(0)) == ([0], [0, 1])


# ---- permits ---------------------------------------------------------------------------------------------------------


def test_a_permit_is_taken_over_from_a_holder_that_is_blocked_and_from_no_other(family):
    service, words = family.service(same, limit=1), Words(family.runtime)
    holder = family.runtime.request_process(POOL, 0)
    words.set("queues", service[2], "permits", [holder + 1])
    worker = family.fork_worker()
    future = family.call(service, 7)
    family.call(family.service(same), 1).get(PATIENCE_S)
    wait_until(lambda: words.get("processes", worker.index, "sleeping"))
    assert not future.done()
    words.set("processes", holder, "blocked", 1)
    assert family.call(service, 8).get(PATIENCE_S) == 8
    assert future.get(0) == 7
    words.set("processes", holder, "blocked", 0)
    family.supervisor.start(holder)
    assert family.supervisor.cancel_start(holder)


# ---- entries that a recovery pushes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
def test_a_task_that_a_dead_process_was_about_to_queue_gets_one_entry(family, dead, ordered):
    """An ordered queue has the task's entry from the start. A pool's task gets its entry once nothing is missing."""
    words, promise = Words(family.runtime), family.runtime.promise()
    service = family.service(Log(), INSTANCE, ("note",)) if ordered else family.service(same)
    future = family.call(service, promise)
    words.clear(words.missing(slot_of(future)), words.tables.DRIVER_INDEX)
    words.set("processes", dead.index, "promoting", slot_of(future) + 1)
    family.recover_process(dead)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.READY
    assert words.get("queues", service[2], "tail") == 1
    words.set("processes", dead.index, "promoting", slot_of(future) + 1)
    family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
    assert words.get("queues", service[2], "tail") == (1 if ordered else 2)
    words.set_state(slot_of(future), words.tables.RUNNING, words.tables.DRIVER_INDEX)
    words.set("processes", dead.index, "promoting", slot_of(future) + 1)
    family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
    assert words.get("queues", service[2], "tail") == (1 if ordered else 2)
    words.set_state(slot_of(future), words.tables.READY, 0)
