"""What a process leaves that dies, or is stopped, between two steps, put there by hand: the others go on all the same.

`test_steps.py` kills at every step of some operations; here stand states that only a rare step, or a rare order, leaves.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time

import audit
import numpy as np
import pytest
from audit import ANY, CLAIMED
from flame_fast.kernels.runtime import SegmentReader, serialization
from gates import PATIENCE_S, Log, in_child, passes_in_child, same, wait_until
from runtime_harness import INSTANCE_ROLE, POOL, REQUESTED, Alone, Death, Family
from words import Words, slot_of

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host


def next_slots(alone, count):
    """Those that the next calls will have, in order."""
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


# ---- entries that are void --------------------------------------------------------------------------------------------


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


def test_an_old_entry_to_the_slot_of_a_call_that_waits_holds_nobody_up(alone):
    """Of the same queue: a later call's, in order; or one of the pool's queue, where nobody waits for another's input."""
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


# ---- a ring full of old entries ---------------------------------------------------------------------------------------


def test_a_queue_full_of_void_entries_takes_a_call(alone):
    service, words = alone.service(same), Words(alone.runtime)
    (slot,) = next_slots(alone, 1)
    words.fill(0, slot + 1)
    futures = [alone.call(service, number) for number in range(3)]
    alone.work()
    assert [future.get(0) for future in futures] == [0, 1, 2]


def test_a_queue_full_of_void_entries_behind_queued_calls_takes_more(alone):
    """Those go to its end."""
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
    """Nobody may overtake it; what did not fit fails, and the rest is called in order."""
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


# ---- permits ----------------------------------------------------------------------------------------------------------


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


# ---- a dead process's notes -----------------------------------------------------------------------------------------


def recovered(family, note, value, error=None):
    """A process that has ended and left a note in its entry."""
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    Words(family.runtime).set("processes", relative.index, note, value)
    family.recover_process(relative, error)


@pytest.mark.parametrize("note", ["promoting", "rotating", "building"])
def test_a_task_whose_entry_a_dead_process_had_in_its_hands_runs(family, note):
    service, words = family.service(same), Words(family.runtime)
    future = family.call(service, 7)
    words.set_entries(0, 0, [words.entry(0, slot_of(family.runtime.put(0)))])  # its own has gone
    recovered(family, note, slot_of(future) + 1)
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


def test_a_task_that_a_dead_process_had_claimed_and_not_begun_is_another_s(family):
    service, words = family.service(same), Words(family.runtime)
    future = family.call(service, 7)
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    words.set_state(slot_of(future), words.tables.RUNNING, relative.index)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    family.recover_process(relative)
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


def test_a_waiting_task_that_a_dead_process_had_claimed_to_fail_it_waits_again(family):
    """The input that failed tells it once more; without one it goes on when the last input comes."""
    service, words = family.service(same), Words(family.runtime)
    promise = family.runtime.promise()
    future = family.call(service, promise)
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    words.set_state(slot_of(future), words.tables.RUNNING, relative.index)
    family.recover_process(relative)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.WAITING
    assert words.get("processes", words.tables.DRIVER_INDEX, "promoting") == 0
    family.runtime.fulfil(promise, 7)
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


# ---- outcomes that a dead process had published, and no more ---------------------------------------------------------


def finished_by(words, slot, process, *, failed=False):
    """The state is published and the list closed; whoever stood on it was in the dead process's hands."""
    words.set("slots", slot, "result_kind", words.tables.KIND_NATIVE)
    words.set("slots", slot, "result_bytes", 0 if failed else 1)
    words.set("slots", slot, "data", list(b"N" + bytes(words.tables.INLINE_BYTES - 1)))  # None
    words.set("slots", slot, "waiters", words.tables.WAITERS_CLOSED)
    words.set_state(slot, words.tables.FAILED if failed else words.tables.DONE, process)


@pytest.fixture
def dead(family):
    """A process that has ended and is not recovered."""
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    return relative


def test_a_task_is_told_of_an_outcome_whose_finisher_died_with_the_list_in_its_hands(family, dead):
    service, words = family.service(same), Words(family.runtime)
    promise, other = family.runtime.promise(), family.runtime.promise()
    ready, waiting = family.call(service, promise), family.call(service, [promise, other])
    finished_by(words, slot_of(promise), dead.index)
    family.recover_process(dead)
    assert promise.get(0) is None
    family.fork_worker()
    assert ready.get(PATIENCE_S) is None
    assert not waiting.done()
    family.runtime.fulfil(other, 1)
    assert waiting.get(PATIENCE_S) == [None, 1]


def test_a_task_fails_with_an_input_whose_finisher_died_with_the_list_in_its_hands(family, dead):
    service, words = family.service(same), Words(family.runtime)
    promise, other = family.runtime.promise(), family.runtime.promise()
    waiting = family.call(service, [promise, other])
    below = family.call(service, waiting)
    finished_by(words, slot_of(promise), dead.index, failed=True)
    family.recover_process(dead)
    for future in (promise, waiting, below):
        assert isinstance(future.exception(0), StoreFullError)
    family.runtime.fulfil(other, None)


def test_a_task_whose_last_input_a_dead_process_had_cleared_is_ready(family, dead):
    service, words = family.service(same), Words(family.runtime)
    promise = family.runtime.promise()
    future = family.call(service, promise)
    words.clear(words.missing(slot_of(future)), dead.index)
    finished_by(words, slot_of(promise), dead.index)
    family.recover_process(dead)
    family.fork_worker()
    assert future.get(PATIENCE_S) is None


@pytest.mark.parametrize(
    "count, level, word", [(97, 0, 0), (97, 0, 1), (97, 0, 2), (2334, 0, 48), (2334, 1, 0), (2334, 1, 1)]
)
@pytest.mark.parametrize("is_last", [True, False])
def test_a_word_of_inputs_that_a_dead_process_had_cleared_is_cleared_above(family, dead, count, level, word, is_last):
    """In a tree of two or three levels. Then the task has all of its inputs, or one of another word is missing still."""
    service, words = family.service(len), Words(family.runtime)
    promises = [family.runtime.promise() for _ in range(count)]
    future = family.call(service, promises)
    at = word * words.tables.WORD_BITS ** (level + 1)
    last, other = promises[at], promises[-1 if at == 0 else 0]
    for promise in promises:
        if promise is not last and (promise is not other or is_last):
            family.runtime.fulfil(promise, None)
    for below in range(level + 1):
        at //= words.tables.WORD_BITS
        words.clear(words.missing(slot_of(future), below) + 8 * at, dead.index)
    finished_by(words, slot_of(last), dead.index)
    family.recover_process(dead)
    family.fork_worker()
    assert family.call(service, []).get(PATIENCE_S) == 0  # what was queued before has run
    if not is_last:
        assert not future.done()
        family.runtime.fulfil(other, None)
    assert future.get(PATIENCE_S) == count


def test_whoever_clears_a_word_leaves_his_number(family):
    words, service = Words(family.runtime), family.service(same)
    promise = family.runtime.promise()
    future = family.call(service, promise)
    at = words.missing(slot_of(future))
    relative = family.fork(lambda: family.runtime.fulfil(promise, 7))
    assert family.recover_process(relative) == 0
    assert int.from_bytes(os.pread(words.fd, 8, at), "little") == 1 << 63 | relative.index << 48
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


def test_an_input_of_which_a_dead_process_had_told_already_counts_once(family, dead):
    """Another one is missing still."""
    words, service = Words(family.runtime), family.service(same)
    promise, other = family.runtime.promise(), family.runtime.promise()
    waiting = family.call(service, [promise, other])
    os.pwrite(words.fd, (0b10).to_bytes(8, "little"), words.missing(slot_of(waiting)))
    finished_by(words, slot_of(promise), dead.index)
    family.recover_process(dead)
    family.fork_worker()
    family.call(service, 1).get(PATIENCE_S)
    assert not waiting.done()
    family.runtime.fulfil(other, 1)
    assert waiting.get(PATIENCE_S) == [None, 1]


def test_a_task_that_a_zygote_let_wait_again_and_then_died_runs_if_its_inputs_have_come(family, dead):
    words, service = Words(family.runtime), family.service(same)
    promise, missing = family.runtime.promise(), family.runtime.promise()
    there, waiting = family.call(service, promise), family.call(service, missing)
    family.runtime.fulfil(promise, 7)
    words.set_state(slot_of(there), words.tables.WAITING, 0)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    words.set("processes", dead.index, "promoting", slot_of(there) + 1)
    words.set("processes", dead.index, "rotating", slot_of(waiting) + 1)
    family.recover_process(dead)
    family.fork_worker()
    assert there.get(PATIENCE_S) == 7
    assert not waiting.done()
    family.runtime.fulfil(missing, 8)
    assert waiting.get(PATIENCE_S) == 8


def test_a_worker_keeps_the_first_task_that_an_outcome_makes_ready_whatever_its_slot(family):
    """The table's first slot is that of one of two."""
    service, words = family.service(same), Words(family.runtime)
    place, promise = family.runtime.put(0), family.runtime.promise()
    first = family.call(service, promise)
    other = family.call(service, first)
    assert slot_of(place) == 0
    del place
    zero = family.call(service, first)
    assert slot_of(zero) == 0
    family.fork_worker()
    family.runtime.fulfil(promise, 7)
    assert family.runtime.get_many([zero, other], PATIENCE_S) == [7, 7]
    assert words.get("queues", 0, "tail") == 2  # the call itself, and one of the two


# ---- slots on their way back ----------------------------------------------------------------------------------------


@pytest.fixture
def holder(family):
    """A process that has died holding three values, and is not recovered."""

    def live():
        values = [family.runtime.put(value) for value in (None, b"x" * 1000, b"y" * 100_000)]
        os.kill(os.getpid(), signal.SIGKILL)
        return values

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    return relative


def look_whether_all_is_back(family, relative, before=(0, 0)):
    family.recover_process(relative)
    assert family.in_use() == before
    family.check()


def test_a_slot_that_a_dead_process_was_giving_back_comes_back(family, holder):
    words = Words(family.runtime)
    slots = words.slots_of(holder.index)
    assert len(slots) == 3
    for slot in slots:
        words.set("slots", slot, "refs", 0)
        words.set_state(slot, words.tables.LEAVING, holder.index)
    look_whether_all_is_back(family, holder)


def test_a_slot_whose_last_hold_a_dead_process_had_comes_back(family, holder):
    words = Words(family.runtime)
    for slot in words.slots_of(holder.index):
        words.set("slots", slot, "refs", 0)
    look_whether_all_is_back(family, holder)


def test_a_slot_of_which_a_dead_process_had_only_its_bit_left_to_clear_comes_back(family, holder):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[0]
    for field in ("refs", "result_kind"):
        words.set("slots", slot, field, 0)
    words.set_state(slot, words.tables.FREE, holder.index)
    look_whether_all_is_back(family, holder)


def test_a_slot_that_somebody_is_filling_is_not_taken_for_one_that_a_dead_process_gave_back(family, dead):
    """It was the dead one's before; it is free still, and named."""
    words = Words(family.runtime)
    value = family.runtime.put(None)
    slot = slot_of(value)
    state = words.get("slots", slot, "state")
    words.set_state(slot, words.tables.FREE, dead.index)
    words.set("processes", words.tables.DRIVER_INDEX, "building", slot + 1)
    family.recover_process(dead)
    words.set("slots", slot, "state", state)
    words.set("processes", words.tables.DRIVER_INDEX, "building", 0)
    family.check()
    assert value.get() is None


def test_a_hold_that_a_dead_process_had_just_taken_and_written_nowhere_comes_back(family, holder):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[1]
    words.add("slots", slot, "refs", words.tables.REF_PENDING + 1)
    look_whether_all_is_back(family, holder)


def test_a_hold_that_the_zygote_before_had_while_it_recovered_somebody_comes_back(family):
    """It dies, and its successor recovers it."""
    words = Words(family.runtime)
    value = family.runtime.put(None)
    slot = slot_of(value)
    words.add("slots", slot, "refs", words.tables.REF_RECOVERY)
    del value
    assert family.in_use()[0] == 1
    family.supervisor.recover_process(family.runtime.index, serialization.dump_error(LookupError()))
    assert family.in_use() == (0, 0)


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("is_told", [True, False])
def test_a_hold_that_a_dead_process_was_giving_back_is_given_back_once(family, dead, is_done, is_told):
    """It had crossed it out. Whether it had taken it off the count, its mark tells, or who has overwritten that."""
    words, service = Words(family.runtime), family.service(same)
    value = family.runtime.put(None)
    promise = family.runtime.promise()
    call = family.call(service, promise, value)
    edge = words.get("slots", slot_of(call), "dependencies") + ctypes.sizeof(words.structs["Dependencies"])
    edge += ctypes.sizeof(words.structs["DependencyEdge"])
    os.pwrite(words.fd, b"\xff" * 4, edge + words.structs["DependencyEdge"].dependency.offset)
    for field, number in (("release_seq", 5), ("releasing_slot", slot_of(value)), ("releasing_edge", edge)):
        words.set("processes", dead.index, field, number)
    if is_done:
        words.add("slots", slot_of(value), "refs", -1)
        mark = dead.index << words.tables.RELEASE_BITS | 6
        words.set("slots", slot_of(value), "releaser", 0 if is_told else mark)
        words.set("processes", dead.index, "acked_release", 5 if is_told else 4)
    family.recover_process(dead)
    assert words.get("slots", slot_of(value), "refs") == words.tables.REF_CREATOR
    family.check()
    del value
    assert family.in_use()[0] == 2
    family.runtime.fulfil(promise, None, serialization.dump_error(LookupError()))


# ---- blocks that a dead process named --------------------------------------------------------------------------------


def kilobytes(number):
    return bytes([number]) * 1000


def of_a_value(family):
    value = family.runtime.put(kilobytes(1))
    return value, ("slots", slot_of(value), "result")


def of_a_call(family):
    call = family.call(family.service(len), kilobytes(1))
    return call, ("slots", slot_of(call), "payload")


def of_inputs(family):
    promise = family.runtime.promise()
    call = family.call(family.service(same), promise)
    return (promise, call), ("slots", slot_of(call), "dependencies")


def of_a_service(family):
    return None, ("services", family.service(same)[0], "blob")


def of_a_dead_instance(family):
    """Its error, for those who call it later."""
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    instance.kill()
    family.recover_process(instance, LookupError("died"))
    return log, ("queues", log[2], "error")


def of_all(family):
    family.runtime.set_setup(kilobytes(1))
    return None, ("header", 0, "setup")


@pytest.mark.parametrize("named", [of_a_value, of_a_call, of_inputs, of_a_service, of_a_dead_instance, of_all])
def test_a_block_that_a_dead_process_had_put_down_stays(family, dead, named):
    words = Words(family.runtime)
    kept, place = named(family)
    assert words.get(*place)
    words.set("processes", dead.index, "taking", words.get(*place))
    family.recover_process(dead)
    family.check()
    del kept
    if named is of_a_call:
        family.fork_worker()
        family.wait_until_idle()


# ---- entries that a dead process had reserved ------------------------------------------------------------------------


@pytest.mark.parametrize("queue_state", ["QUEUE_OPEN", "QUEUE_FREE", "reserved"])
def test_a_service_that_a_dead_process_was_making_or_emptying_is_free(family, dead, queue_state):
    words = Words(family.runtime)
    service, _, queue = family.service(same, limit=1)
    family.service(same)
    reserved = words.tables.RESERVED + dead.index
    words.set("services", service, "state", reserved)
    words.set("queues", queue, "state", reserved if queue_state == "reserved" else getattr(words.tables, queue_state))
    family.recover_process(dead)
    assert words.get("services", service, "state") == words.tables.SERVICE_FREE
    assert family.service(same, limit=1)[::2] == (service, queue)


def test_a_queue_that_somebody_else_has_by_now_stays_his(family, dead):
    """A dead process had given it back, and not crossed it out in its entry."""
    words = Words(family.runtime)
    first, second = family.service(same, limit=1), family.service(same, limit=1)
    queue = words.get("services", first[0], "queue")
    words.set("services", first[0], "state", words.tables.RESERVED + dead.index)
    words.set("services", first[0], "queue", second[2])
    family.recover_process(dead)
    words.set("queues", queue, "state", words.tables.QUEUE_FREE)
    assert words.get("queues", second[2], "state") == words.tables.QUEUE_OPEN
    family.fork_worker()
    assert family.call(second, 7).get(PATIENCE_S) == 7


def test_a_process_that_a_dead_one_was_asking_for_is_asked_for_if_its_queue_names_it(family, dead):
    words = Words(family.runtime)
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = [entry.index for entry in family.supervisor.processes() if entry.state == REQUESTED]
    worker = family.runtime.request_process(POOL, 0)
    unnamed = family.runtime.request_process(4, log[2])
    for index in (instance, worker, unnamed):
        words.set("processes", index, "state", words.tables.RESERVED + dead.index)
    family.recover_process(dead)
    assert [entry.index for entry in family.supervisor.processes()] == [instance]
    assert {family.runtime.request_process(POOL, 0) for _ in range(3)} == {worker, unnamed, dead.index}


def test_a_spinner_s_token_and_the_seeker_s_place_come_back(family, dead):
    words = Words(family.runtime)
    words.set("processes", dead.index, "spinning", 2)
    words.set("header", 0, "spinners", 2)
    words.set("header", 0, "seeker", dead.index + 1)
    family.recover_process(dead)
    assert (words.get("header", 0, "spinners"), words.get("header", 0, "seeker")) == (0, 0)


def test_another_one_s_place_as_the_seeker_stays(family, dead):
    words = Words(family.runtime)
    words.set("header", 0, "seeker", dead.index + 2)
    family.recover_process(dead)
    assert words.get("header", 0, "seeker") == dead.index + 2
    words.set("header", 0, "seeker", 0)


def test_a_call_that_a_dead_process_had_half_written_the_outcome_of_fails_and_all_of_it_comes_back(family, holder):
    """Its arguments have gone; the outcome is a block, an extent or in the slot, and it had not been published."""
    words = Words(family.runtime)
    for slot in words.slots_of(holder.index):
        words.set("slots", slot, "started", 1)
        words.set("slots", slot, "waiters", 0)
        words.add("slots", slot, "refs", words.tables.REF_RUN)
        words.set_state(slot, words.tables.RUNNING, holder.index)
    look_whether_all_is_back(family, holder)


def test_what_a_dead_process_counted_is_counted_for_good(family, dead):
    words = Words(family.runtime)
    names = ("copied_bytes", "shared_bytes", "definitions", "definition_bytes")
    for number, name in enumerate(names, 1):
        words.set("processes", dead.index, name, number)
        words.set("header", 0, name, 10)
    family.recover_process(dead)
    assert [words.get("header", 0, name) for name in names] == [11, 12, 13, 14]


# ---- sleepers that are called ---------------------------------------------------------------------------------------


def pool(words):
    """(sleepers, calls)."""
    return words.get("header", 0, "pool_sleepers"), words.get("header", 0, "pool_wake")


@pytest.mark.parametrize("limit, called", [(0, 1), (1, 3)])
def test_one_sleeper_is_called_for_a_task_and_all_for_one_of_a_limited_service(alone, limit, called):
    words, service = Words(alone.runtime), alone.service(same, limit=limit)
    words.set("header", 0, "pool_sleepers", 3)
    calls = pool(words)[1]
    future = alone.call(service, 1)
    assert pool(words) == (3 - called, calls + called)
    alone.work()
    assert future.get(0) == 1
    words.set("header", 0, "pool_sleepers", 0)
    future = alone.call(service, 1)
    assert pool(words) == (0, calls + called)
    alone.work()


@pytest.mark.parametrize("seeker, ago_ns, called", [(1, -(10**10), 0), (1, 10**9, 1), (0, -(10**10), 1)])
def test_nobody_is_called_for_a_task_that_a_seeker_finds_unless_it_has_not_looked_for_long(alone, seeker, ago_ns, called):
    words, service = Words(alone.runtime), alone.service(same)
    words.set("header", 0, "pool_sleepers", 3)
    words.set("header", 0, "seeker", seeker)
    words.set("header", 0, "sought_ns", time.monotonic_ns() - ago_ns)
    alone.call(service, 1)
    assert pool(words)[0] == 3 - called
    words.set("header", 0, "seeker", 0)
    words.set("header", 0, "pool_sleepers", 0)
    alone.work()


def test_a_sleeper_is_called_for_each_task_that_lies_there_when_a_waiter_looks_around(family):
    words, service, limited = Words(family.runtime), family.service(same), family.service(same, limit=1)
    futures = [family.call(service, 1), family.call(service, 2), family.call(limited, 3)]
    for sleepers, left in (5, 2), (2, 0), (0, 0):
        words.set("header", 0, "pool_sleepers", sleepers)
        calls = pool(words)[1]

        def has_looked(left=left):  # if it came to look before its time was up
            with pytest.raises(TimeoutError):
                futures[0].wait(0.001)
            return pool(words)[0] == left

        wait_until(has_looked)
        assert pool(words) == (left, calls + sleepers - left)
    family.fork_worker()
    assert family.runtime.get_many(futures, PATIENCE_S) == [1, 2, 3]


def test_everybody_is_called_after_a_recovery(family, dead):
    """Even one that the dead process had taken off the count and not called any more."""
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",))
    words.set("header", 0, "pool_sleepers", 3)
    calls, queue_calls = pool(words)[1], words.get("queues", log[2], "wake")
    family.recover_process(dead)
    assert pool(words) == (0, calls + 4)
    assert words.get("queues", log[2], "wake") == queue_calls + 1


def test_an_instance_s_process_is_called_for_its_calls_and_nobody_of_the_pool(alone):
    """Its queue is the first of those that are no pool's, or a later one."""
    words, services = Words(alone.runtime), [alone.service(Log(), INSTANCE, ("note",)) for _ in range(2)]
    for _, _, queue in services:
        words.set("header", 0, "pool_sleepers", 3)
        words.set("queues", queue, "sleepers", 2)
        alone.call(services.pop(0), 1)
        assert (words.get("queues", queue, "sleepers"), words.get("queues", queue, "wake")) == (1, 1)
        assert pool(words) == (3, 0)
    words.set("header", 0, "pool_sleepers", 0)
    alone.work()


def test_all_that_sleep_are_called_after_a_recovery_and_no_queue_that_is_free(family, dead):
    """Whoever had taken them off the count died before it called them. The last queue counts like the first."""
    words, service = Words(family.runtime), family.service(same)
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    last = words.tables.QUEUE_COUNT - 1
    words.set("queues", last, "state", words.tables.QUEUE_OPEN)
    for sleeper in [family.fork_worker(), *family.fork_requested()]:
        wait_until(lambda index=sleeper.index: is_asleep(words, index))
    words.set("header", 0, "pool_sleepers", 0)
    words.set("queues", log[2], "sleepers", 0)
    futures = [family.call(service, 1), family.call(log, 2)]
    family.recover_process(dead)
    assert family.runtime.get_many(futures, PATIENCE_S) == [1, [2]]
    assert [words.get("queues", queue, "wake") for queue in (last, last - 1)] == [1, 0]
    words.set("queues", last, "state", words.tables.QUEUE_FREE)


def is_asleep(words, index):
    """In the futex of those that have nothing to do."""
    if not words.get("processes", index, "sleeping"):
        return False
    with open(f"/proc/{words.get('processes', index, 'pid')}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] == b"S"


class Idler:
    """An idle worker that wakes up without a call when a signal comes, looks around, and sleeps again."""

    def __init__(self, family):
        self.words = Words(family.runtime)
        self.roused = os.eventfd(0)

        def live():
            signal.signal(signal.SIGUSR1, lambda *_: os.eventfd_write(self.roused, 1))
            family.runtime.serve(Host(family.runtime))

        self.worker = family.fork(live)
        self.await_sleep()

    def await_sleep(self):
        wait_until(lambda: is_asleep(self.words, self.worker.index))

    def rouse(self):
        os.kill(self.worker.pid, signal.SIGUSR1)
        os.eventfd_read(self.roused)
        self.await_sleep()


@pytest.fixture
def idler(family):
    made = Idler(family)
    yield made
    os.close(made.roused)


def test_a_sleeper_that_wakes_by_itself_is_counted_once(idler):
    before = pool(idler.words)
    assert before[0] == 1
    for _ in range(3):
        idler.rouse()
        assert pool(idler.words) == before


def test_a_sleeper_that_somebody_has_called_meanwhile_is_off_the_count_already(idler):
    """Whoever did died before the call came through."""
    idler.words.set("header", 0, "pool_sleepers", 0)
    idler.words.add("header", 0, "pool_wake", 1)
    before = pool(idler.words)
    idler.rouse()
    assert pool(idler.words) == (1, before[1])


@pytest.fixture
def queued(family, idler):
    """Two calls that the idle worker may not run: somebody else has the permit."""
    service = family.service(same, limit=1)
    holder = family.runtime.request_process(POOL, 0)
    idler.words.set("queues", service[2], "permits", [holder + 1])
    futures = [family.call(service, number) for number in range(2)]
    idler.await_sleep()
    idler.words.set("header", 0, "sought_ns", 0)
    yield service
    idler.words.set("queues", service[2], "permits", [0])
    idler.words.set("header", 0, "pool_sleepers", 1)
    idler.rouse()
    assert family.runtime.get_many(futures, PATIENCE_S) == [0, 1]
    family.supervisor.start(holder)
    assert family.supervisor.cancel_start(holder)


def test_a_worker_seeks_while_others_sleep_and_calls_as_many_as_there_are_tasks_when_it_stops(idler, queued):
    words, before = idler.words, time.monotonic_ns()
    words.set("header", 0, "pool_sleepers", 6)
    calls = pool(words)[1]
    idler.rouse()
    assert pool(words) == (6 - 2, calls + 2)  # it is one of them again
    assert words.get("header", 0, "sought_ns") >= before
    assert words.get("header", 0, "seeker") == 0


def test_nobody_seeks_beside_another_seeker(idler, queued):
    words = idler.words
    words.set("header", 0, "pool_sleepers", 6)
    words.set("header", 0, "seeker", idler.worker.index + 2)
    before = pool(words)
    idler.rouse()
    assert pool(words) == before
    assert words.get("header", 0, "seeker") == idler.worker.index + 2
    assert words.get("header", 0, "sought_ns") == 0
    words.set("header", 0, "seeker", 0)


def test_nobody_seeks_while_nobody_else_sleeps(idler, queued):
    idler.rouse()
    assert idler.words.get("header", 0, "sought_ns") == 0


def test_whoever_waits_is_told_in_the_log_and_by_the_futex(alone):
    """In the order in which they finish, through more than one round of the log."""
    words = Words(alone.runtime)
    driver = words.tables.DRIVER_INDEX
    for _ in range(words.tables.LOG_COUNT // 3 + 2):
        promises = [alone.runtime.promise() for _ in range(3)]
        selector = alone.runtime.selector(promises)
        calls = words.get("processes", driver, "wake")
        for number in (2, 0, 1):
            alone.runtime.fulfil(promises[number], None)
            assert selector.take(0) == [number]
        assert words.get("processes", driver, "wake") == calls + 3


def test_who_waits_without_a_processor_to_spare_takes_no_token(alone):
    promise = alone.runtime.promise()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            promise.wait(0.001)
        alone.check()
    alone.runtime.fulfil(promise, None)


# ---- entries used again ---------------------------------------------------------------------------------------------


def test_a_process_entry_used_again_has_nothing_of_its_former_process(family, dead):
    words = Words(family.runtime)
    index = dead.index
    family.recover_process(dead)
    names = [
        *("started_at", "wake", "waiters", "watching", "blocked", "spinning", "sleeping", "retiring", "stateful", "current"),
        *("building", "taking", "releasing_edge", "promoting", "rotating", "copied_bytes", "shared_bytes", "definitions"),
        "definition_bytes",
    ]
    for name in names:
        words.set("processes", index, name, 1)
    assert family.runtime.request_process(INSTANCE_ROLE, 300) == index
    assert [name for name in names if words.get("processes", index, name)] == []
    assert (words.get("processes", index, "role"), words.get("processes", index, "queue")) == (INSTANCE_ROLE, 300)
    family.supervisor.start(index)
    assert family.supervisor.cancel_start(index)


def test_a_queue_used_again_has_nothing_of_its_former_service(family):
    words = Words(family.runtime)
    for name, number in [
        ("sticky", 1),
        ("process", 7),
        ("sleepers", 3),
        ("permits", [5] * 240),
        ("limit", 9),
        ("ordered", 1),
    ]:
        words.set("queues", 1, name, number)
    assert family.service(same, limit=1000)[2] == 1
    found = {name: words.get("queues", 1, name) for name in ("ordered", "limit", "sticky", "process", "sleepers", "error")}
    assert found == {"ordered": 0, "limit": 240, "sticky": 0, "process": 0, "sleepers": 0, "error": 0}
    assert not any(words.get("queues", 1, "permits"))


def test_an_instance_s_process_is_asked_for_once(family):
    log = family.service(Log(), INSTANCE, ("note",))
    assert family.supervisor.processes() == []
    for _ in range(2):
        family.call(log, 1)
        family.runtime.start_instance(log[0])
    assert [entry.state for entry in family.supervisor.processes()] == [REQUESTED]
    family.fork_requested()
    family.wait_until_idle()


def test_workers_without_a_library_that_is_needed_leave_unless_they_hold_an_object(family):
    words = Words(family.runtime)
    kinds = {
        "without": (POOL, 0b01, 0),
        "with": (POOL, 0b11, 0),
        "holding": (POOL, 0b01, 1),
        "instance": (INSTANCE_ROLE, 0, 0),
        "last": (POOL, 0b01, 0),
    }
    indices = {}
    for name, (role, preloaded, stateful) in kinds.items():
        indices[name] = family.runtime.request_process(role, 0)
        words.set("processes", indices[name], "preloaded", preloaded)
        words.set("processes", indices[name], "stateful", stateful)
    words.set("header", 0, "pool_sleepers", 2)
    family.service(same, preload=0b10)
    assert [name for name, index in indices.items() if words.get("processes", index, "retiring")] == ["without", "last"]
    assert pool(words)[0] == 0
    assert family.supervisor.preload == 0b10
    words.set("processes", indices["without"], "retiring", 0)
    family.service(same, preload=0b10)
    assert not words.get("processes", indices["without"], "retiring")
    for index in indices.values():
        family.supervisor.start(index)
        assert family.supervisor.cancel_start(index)


# ---- what the zygote is told ----------------------------------------------------------------------------------------


def test_the_calls_that_a_close_leaves_unfinished_are_counted():
    alone = Alone()
    service = alone.service(same)
    promise, value = alone.runtime.promise(), alone.runtime.put(1)
    calls = [alone.call(service, promise), alone.call(service, 1)]
    assert not alone.supervisor.closing
    assert alone.runtime.announce_close() == 3
    assert alone.supervisor.closing
    del promise, value, calls
    alone.close()


def test_the_post_of_the_zygote_tells_who_had_it_before(alone):
    assert [alone.supervisor.adopt_supervision(pid) for pid in (11, 12)] == [0, 11]


def test_what_a_process_runs_is_told_by_service_and_method(family):
    words = Words(family.runtime)
    log, service = (family.service(Log(), INSTANCE, ("note", "append")) for _ in range(2))
    family.service(same)
    family.runtime.start_instance(log[0])
    (index,) = [entry.index for entry in family.supervisor.processes()]
    assert family.supervisor.current_service(index) == (log[0], 0xFFFFFFFF)
    call = family.call(service, 1, method=1)
    words.set("processes", index, "current", slot_of(call) + 1)
    assert family.supervisor.current_service(index) == (service[0], 1)
    words.set("processes", index, "current", 0)
    worker = family.runtime.request_process(POOL, 0)
    assert family.supervisor.current_service(worker) is None
    family.supervisor.start(worker)
    assert family.supervisor.cancel_start(worker)
    family.fork_requested()
    family.wait_until_idle()


# ---- marks of drops -------------------------------------------------------------------------------------------------


def give_back(alone, words, value, mark):
    """This process drops a dependent's hold on a value that has a mark already."""
    future = alone.call(alone.service(same), value)
    words.set("slots", slot_of(value), "releaser", mark)
    alone.work()
    assert future.get(0) == 1


@pytest.mark.parametrize(
    "release_seq, given, of_this_slot, expected",
    [(5, 4, True, 5), (6, 4, True, 4), (5, 4, False, 4), (5, 9, True, 9), (5, 5, True, 5)],
)
def test_who_overwrites_a_mark_tells_its_process_that_the_drop_in_progress_was_done(
    alone, release_seq, given, of_this_slot, expected
):
    words, (_, value) = Words(alone.runtime), [alone.runtime.put(1) for _ in range(2)]
    other = alone.runtime.request_process(POOL, 0)
    for field, number in [
        ("release_seq", release_seq),
        ("acked_release", given),
        ("releasing_slot", slot_of(value) + (not of_this_slot)),
    ]:
        words.set("processes", other, field, number)
    give_back(alone, words, value, other << words.tables.RELEASE_BITS | 6)
    assert words.get("processes", other, "acked_release") == expected
    assert words.get("processes", words.tables.DRIVER_INDEX, "releasing_slot") == slot_of(value)
    assert words.get("slots", slot_of(value), "releaser") >> words.tables.RELEASE_BITS == words.tables.DRIVER_INDEX
    alone.supervisor.start(other)
    assert alone.supervisor.cancel_start(other)


def test_a_drop_has_another_number_than_the_mark_that_is_there(alone):
    words, value = Words(alone.runtime), alone.runtime.put(1)
    alone.runtime.release_seq = 10
    give_back(alone, words, value, 12)
    assert alone.runtime.release_seq == 12
    assert words.get("slots", slot_of(value), "releaser") == 13


def test_numbers_of_drops_come_round_without_touching_the_process(alone):
    words, value = Words(alone.runtime), alone.runtime.put(1)
    alone.runtime.release_seq = (1 << words.tables.RELEASE_BITS) - 2
    give_back(alone, words, value, 0)
    assert words.get("slots", slot_of(value), "releaser") == 1


# ---- inputs ---------------------------------------------------------------------------------------------------------


def test_a_call_is_queued_once_in_order_when_it_is_made_and_else_when_its_last_input_comes(alone):
    log, service, words = alone.service(Log(), INSTANCE, ("note",)), alone.service(same), Words(alone.runtime)
    promise = alone.runtime.promise()
    calls = [alone.call(log, promise), alone.call(service, promise)]
    assert [words.get("queues", queue, "tail") for queue in (log[2], 0)] == [1, 0]
    alone.runtime.fulfil(promise, 1)
    assert [words.get("queues", queue, "tail") for queue in (log[2], 0)] == [1, 1]
    alone.work()
    assert [call.get(0) for call in calls] == [[1], 1]


def test_an_input_that_comes_after_its_task_has_failed_is_let_go(alone):
    """Though the task's future is held on to."""
    service = alone.service(same)
    failing, late = alone.runtime.promise(), alone.runtime.promise()
    future = alone.call(service, [failing, late])
    alone.runtime.fulfil(failing, None, serialization.dump_error(LookupError("gone")))
    alone.runtime.fulfil(late, b"x" * 1000)
    del failing, late
    assert alone.in_use()[0] == 1
    assert isinstance(future.exception(0), LookupError)


def test_a_task_whose_submitter_died_among_its_inputs_lists_fails_and_lets_them_go(family, dead):
    """It stands on one, behind another's; it does not stand on the second yet; the third has finished before that."""
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()
    on, off, over = (family.runtime.promise() for _ in range(3))
    future = family.call(service, [on, off, over])
    behind = [family.call(service, on) for _ in range(3)]
    family.runtime.fulfil(over, 1)
    words.set("slots", slot_of(off), "waiters", 0)
    os.pwrite(words.fd, (0b1111).to_bytes(8, "little"), words.missing(slot_of(future)))  # its own, too
    words.set("slots", slot_of(future), "creator", dead.index)
    family.recover_process(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))
    family.check()
    family.runtime.fulfil(off, 2)
    family.runtime.fulfil(on, 3)
    family.fork_worker()
    assert family.runtime.get_many(behind, PATIENCE_S) == [3] * 3
    del on, off, over, future, behind
    family.wait_until_in_use(before)


# ---- a full table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"x", b"x" * 1000, b"x" * 100_000, tuple(range(5000))], ids=[1, 1000, 100_000, "5000 numbers"]
)
def test_a_full_table_refuses_a_value_and_takes_nothing(alone, value):
    words, most = Words(alone.runtime), 63
    values = [alone.runtime.put(value)]
    bytes_of_one = alone.in_use()[1]
    high = words.get("header", 0, "group_high")
    full = (words.tables.SLOT_COUNT - words.tables.SLOT_SPARE) // words.tables.GROUP_BITS
    words.set("header", 0, "group_high", full)
    with pytest.raises(StoreFullError, match="table"):
        for _ in range(most):
            values.append(alone.runtime.put(value))
    assert words.get("header", 0, "group_high") == full
    words.set("header", 0, "group_high", high)
    assert len(values) < most
    assert alone.in_use() == (len(values), len(values) * bytes_of_one)
    alone.check()
    del values[1:]
    assert alone.in_use()[0] == 1


def test_a_slot_used_again_has_no_arguments_whoever_looks_at_it_from_outside(alone):
    reader, service = SegmentReader(alone.runtime.fd), alone.service(len)
    call = alone.call(service, b"x" * 1000)
    assert reader.slot(slot_of(call))["payload_bytes"] >= 1000
    slot = slot_of(call)
    alone.work()
    del call
    promise = alone.runtime.promise()
    assert slot_of(promise) == slot
    assert reader.slot(slot)["payload_bytes"] == 0
    alone.runtime.fulfil(promise, 1)


# ---- a death with the lock -------------------------------------------------------------------------------------------

GROUP = 62  # slots, or blocks of a slab
LARGE, LARGER = b"x" * 40_000, b"x" * 100_000


def extents_of(words, kind):
    """Numbers of the extents of a kind."""
    tables = words.tables
    high = words.get("header", 0, "extent_high")
    return [number for number in range(high) if words.get("extents", number, "kind") == getattr(tables, kind)]


def test_who_gets_the_lock_after_its_holder_makes_lists_and_sums_from_what_is_true(family, dead):
    """All of them, whatever stood there: of each extent its kind, references and holders are true, of a group its word."""
    words, runtime = Words(family.runtime), family.runtime
    slots = [runtime.put(number) for number in range(4 * GROUP)]
    values = [runtime.put(np.arange(10_000.0)), runtime.put([np.arange(20_000.0), LARGER]), runtime.put(b"x" * 1000)]
    view, only_view = values[0].get(), runtime.put(np.arange(9000.0)).get()
    free = [runtime.put(LARGE) for _ in range(6)]
    held = family.runtime.put(b"x" * 50_000)
    cold = [runtime.put(LARGER) for _ in range(3)]
    del cold
    family.supervisor.trim()
    del free, slots[:GROUP], slots[2 * GROUP :]
    family.check()
    warm, cold = extents_of(words, "EXTENT_WARM"), extents_of(words, "EXTENT_COLD")
    claimed, submitter_died, *_ = free = [
        group for group in range(words.get("header", 0, "group_high")) if not words.get("groups", group, "group.owner")
    ]
    assert (len(warm), len(cold), len(free)) == (6, 3, 2)
    bits = [1, *[0] * (words.tables.HELD_WORDS - 2), 1 << 63]
    value = max(extents_of(words, "EXTENT_VALUE"))
    last = runtime.put([np.arange(10_000.0)])
    live = len(extents_of(words, "EXTENT_VALUE"))

    def ruin():
        for field, number in [("live_bytes", 1), ("cached_bytes", 2), ("free_groups", 1), ("arena_next", 3)]:
            words.set("header", 0, field, number)
        for field in ("warm_extents", "cold_extents"):
            words.set("header", 0, field, [1] * words.tables.EXTENT_CLASSES)
        for number in extents_of(words, "EXTENT_VALUE"):
            words.set("extents", number, "holders", 7)
        words.set("extents", value, "held", bits)
        leaving, unheld, slab, just_taken = warm[1:5]
        words.set("extents", just_taken, "held", bits)
        words.set("extents", just_taken, "holders", 2)
        words.set("extents", leaving, "kind", words.tables.EXTENT_LEAVING)
        words.set("extents", leaving, "group.owner", dead.index + 1)
        words.set("extents", unheld, "kind", words.tables.EXTENT_VALUE)
        words.set("extents", unheld, "holders", 1)
        words.set("extents", slab, "kind", words.tables.EXTENT_SLAB)
        words.set("extents", slab, "block_size", 1024)
        words.set("extents", slab, "group.used", CLAIMED)
        for group, used, owner in [(claimed, CLAIMED, dead.index + 1), (submitter_died, 0, words.tables.ORPHAN)]:
            words.set("groups", group, "group.used", used)
            words.set("groups", group, "group.owner", owner)

    words.die_in_the_lock(ruin)
    more = runtime.put(LARGE)
    assert words.get("extents", warm[1], "kind") == words.tables.EXTENT_LEAVING
    assert words.get("extents", value, "holders") == 2
    words.set("extents", value, "held", [0] * words.tables.HELD_WORDS)
    words.set("extents", value, "holders", 0)
    family.recover_process(dead)
    family.check()
    kinds = [words.tables.EXTENT_WARM] * 6 + [words.tables.EXTENT_COLD] * 3
    kinds[1], kinds[5] = words.tables.EXTENT_COLD, words.tables.EXTENT_VALUE  # by the recovery, and for `more`
    assert [words.get("extents", number, "kind") for number in [*warm, *cold]] == kinds
    assert values[1].get()[1] == LARGER
    assert last.get()[0][-1] == 9999
    assert len(extents_of(words, "EXTENT_VALUE")) == live + 1
    assert np.array_equal(only_view, np.arange(9000.0))
    del view, only_view, values, more, slots, held, last
    family.check()
    assert family.in_use() == (0, 0)


def test_a_death_with_the_lock_before_anything_was_taken_leaves_everything(alone):
    words = Words(alone.runtime)
    end = words.get("header", 0, "arena_next")
    words.die_in_the_lock()
    value = alone.runtime.put(LARGE)
    assert words.extents()[0].offset == end
    alone.check()
    assert value.get() == LARGE


def references_of(words, slot, half):
    """Numbers of the extents that half of a slot counts as its own, in the order in which they are counted."""
    tables, block, kind = words.tables, words.get("slots", slot, half), words.get("slots", slot, half + "_kind")
    assert kind & tables.KIND_LINKED and kind & tables.KIND_HANDLES and kind & tables.KIND_EXTENT
    offsets = [*tables.numbers(block + 8, tables.numbers(block, 1)[0]), block]
    places = [words.get("extents", number, "offset") for number in range(words.get("header", 0, "extent_high"))]
    return [places.index(offset) for offset in offsets]


@pytest.mark.parametrize("half", ["payload", "result"])
@pytest.mark.parametrize("op, by", [("REDO_LINK", 1), ("REDO_UNLINK", -1)])
def test_references_that_a_dead_process_was_counting_are_counted_to_the_end(alone, half, op, by):
    """Each of them once, from wherever it was, whether it had done that step or not."""
    parts = [np.arange(5000.0), np.arange(6000.0), tuple(range(5000))]
    future = alone.runtime.put(parts) if half == "result" else alone.call(alone.service(len), parts)
    words, slot = Words(alone.runtime), slot_of(future)
    tables, numbers = words.tables, references_of(words, slot, half)
    assert len(numbers) == 3
    kind = words.get("slots", slot, half + "_kind")
    linked = [kind & ~tables.KIND_LINKED, kind][::by]  # before and after
    first = 3 if by == 1 else 4
    for number in numbers:  # so that it stays without this slot, too
        words.set("extents", number, "held", [1] + [0] * (tables.HELD_WORDS - 1))
        words.set("extents", number, "holders", 1)
    for step in range(len(numbers)):
        for is_done in (False, True):

            def stop(step=step, is_done=is_done):
                for at, number in enumerate(numbers):
                    words.set("extents", number, "refs", first + by * (at < step or (at == step and is_done)))
                words.set("slots", slot, half + "_kind", linked[0])
                words.set("header", 0, "redo.progress", step << 32 | first)
                words.set("header", 0, "redo.slot", slot)
                words.set("header", 0, "redo.which", half == "result")
                words.set("header", 0, "redo.op", getattr(tables, op))

            words.die_in_the_lock(stop)
            alone.runtime.put(LARGE)
            assert [words.get("extents", number, "refs") for number in numbers] == [first + by] * len(numbers)
            assert words.get("slots", slot, half + "_kind") == linked[1]
            assert words.get("header", 0, "redo.op") == tables.REDO_NOTHING
    words.set("slots", slot, half + "_kind", kind)
    for number in numbers:
        words.set("extents", number, "refs", 1)
        words.set("extents", number, "held", [0] * tables.HELD_WORDS)
        words.set("extents", number, "holders", 0)
    alone.check()
    alone.work()
    assert len(future.get(0)) == 3 if half == "result" else future.get(0) == 3


@pytest.fixture
def spread(family):
    """Values whose extents lie on different pages of the table, in order, and the numbers of those."""
    values = [family.runtime.put(np.arange(5000.0) + number) for number in range(60)]
    numbers = extents_of(Words(family.runtime), "EXTENT_VALUE")
    return values[5::20], numbers[5::20]


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


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("op", ["REDO_LINK", "REDO_UNLINK"])
def test_before_a_reference_is_counted_it_is_written_down_what_there_was(family, spread, op, step):
    values, numbers = spread
    words, before = Words(family.runtime), family.in_use()

    def live():
        views = [value.get() for value in values]
        kept = [family.runtime.put(views)] if op == "REDO_UNLINK" else []
        yield
        if not kept:
            kept.append(family.runtime.put(views))
        kept.clear()
        yield

    dead = die_at(family, words, words.place("extents", numbers[step], "refs")[0], live)
    assert words.get("header", 0, "redo.op") == getattr(words.tables, op)
    assert words.get("header", 0, "redo.progress") == step << 32 | (1 if op == "REDO_LINK" else 2)
    look_whether_all_is_back(family, dead, before)
    assert [value.get()[0] for value in values] == [5, 25, 45]


def test_references_are_not_begun_to_be_counted_before_it_is_known_what_there_was(family, spread):
    """What an earlier count has left is not gone by: it dies between its first look at the value and that at an extent."""
    values, numbers = spread
    words, before = Words(family.runtime), family.in_use()

    def live():
        kept = [family.runtime.put([value.get() for value in values] + [kilobytes(1)])]
        block = words.get("slots", slot_of(kept[0]), "result")
        words.set("header", 0, "redo.progress", 2 << 32 | 7)
        extent = words.place("extents", numbers[0], "refs")[0]
        words.at_touches((block, lambda: None), (extent, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        kept.clear()

    dead = family.fork(live)
    assert dead.has_ended(PATIENCE_S)
    assert words.get("header", 0, "lock_holder") == dead.index + 1
    assert words.get("header", 0, "redo.op") == words.tables.REDO_NOTHING
    look_whether_all_is_back(family, dead, before)


def test_an_extent_that_a_dead_process_was_carving_is_carved_by_the_next(family):
    words, end = Words(family.runtime), Words(family.runtime).get("header", 0, "arena_next")
    granule = words.tables.granules_at + end // words.tables.GRANULE * 4

    def live():
        yield
        family.runtime.put(LARGER)

    look_whether_all_is_back(family, die_at(family, words, granule, live))
    assert words.get("header", 0, "extent_high") == 0
    value = family.runtime.put(LARGER)
    assert words.get("extents", 0, "offset") == end
    assert value.get() == LARGER
    family.check()


def a_value(family):
    kept = [family.runtime.put(LARGER)]
    yield
    kept.clear()


def a_body(family):
    kept = [family.runtime.put_definition(bytes(16), LARGER)]
    yield
    kept.clear()


def a_call_with_inputs(family):
    """Whose block is an extent."""
    promises = [family.runtime.promise() for _ in range(2000)]
    call = family.call(family.service(len), promises)
    for promise in promises:
        family.runtime.fulfil(promise, None, serialization.dump_error(LookupError()))
    del promises, promise
    kept = [call]
    del call
    yield
    kept.clear()


def blocks_of_a_slab(family):
    kept = [family.runtime.put(kilobytes(1)) for _ in range(2 * GROUP)]
    del kept[GROUP + 1 :]
    yield
    kept.clear()


def what_is_kept(family):
    family.runtime.put(LARGER)
    Words(family.runtime).set("header", 0, "cache_limit", 1 << 25)
    family.runtime.put(LARGER)
    yield
    family.supervisor.trim()


@pytest.mark.parametrize("kind", [a_value, a_body, a_call_with_inputs, blocks_of_a_slab, what_is_kept])
def test_an_extent_that_a_dead_process_was_emptying_is_emptied(family, kind):
    """It dies when it asks the system to take the pages, having given the lock back."""
    words, before = Words(family.runtime), family.in_use()

    def live():
        words.set("header", 0, "cache_limit", 0)
        steps = kind(family)
        next(steps)
        words.forbid_calls()
        next(steps)

    dead = family.fork(live)
    assert dead.has_ended(PATIENCE_S)
    (leaving,) = extents_of(words, "EXTENT_LEAVING")
    assert words.get("extents", leaving, "group.owner") == dead.index + 1
    assert words.get("header", 0, "lock_holder") == 0
    assert words.get("header", 0, "cached_bytes") == 0
    family.recover_process(dead)
    assert words.get("extents", leaving, "kind") == words.tables.EXTENT_COLD
    family.check()
    assert family.in_use()[1] <= before[1] + 1024


# ---- memory of a dead process ----------------------------------------------------------------------------------------


def test_extents_that_a_dead_process_held_are_free_unless_somebody_else_has_them(family, dead):
    """The first and the last are values of which nothing else was left; others were just being emptied, or taken."""
    words, me, runtime = Words(family.runtime), family.runtime.index, family.runtime
    tables, rest = words.tables, [0] * (words.tables.HELD_WORDS - 1)
    mine, its, both = 1 << me, 1 << dead.index, 1 << me | 1 << dead.index
    made = [runtime.put(LARGER) for _ in range(3)]
    values = [runtime.put(LARGE) for _ in range(4)]
    numbers = extents_of(words, "EXTENT_VALUE")[3:]
    cold = runtime.put(b"x" * 200_000)
    made.append(runtime.put(LARGER))
    del cold
    family.supervisor.trim()
    del made

    def hold(number, bits):
        words.set("extents", number, "held", [bits, *rest])
        words.set("extents", number, "holders", bits.bit_count())

    (cold,), (first, leaving, mine_to_empty, last) = extents_of(words, "EXTENT_COLD"), extents_of(words, "EXTENT_WARM")
    assert (first, last) == (0, words.get("header", 0, "extent_high") - 1)
    words.set("header", 0, "warm_extents", [0] * tables.EXTENT_CLASSES)
    words.set("header", 0, "cached_bytes", 0)
    for number, kind in [(first, "VALUE"), (last, "VALUE"), (leaving, "LEAVING"), (mine_to_empty, "LEAVING")]:
        words.set("extents", number, "kind", getattr(tables, f"EXTENT_{kind}"))
    words.add("header", 0, "live_bytes", 2 * words.get("extents", first, "size"))
    for number, owner in [(leaving, dead.index), (mine_to_empty, me)]:
        words.set("extents", number, "group.owner", owner + 1)
    for number, bits in zip([first, last, cold, *numbers], [its, its, its, its, both, mine, 0], strict=True):
        hold(number, bits)
    words.set("extents", cold, "held", [its, 1, *rest[1:]])  # two that died when they were taking it
    family.recover_process(dead)
    assert extents_of(words, "EXTENT_LEAVING") == [mine_to_empty]
    assert extents_of(words, "EXTENT_WARM") == [first, last]
    assert extents_of(words, "EXTENT_COLD") == sorted([cold, leaving])
    assert [words.get("extents", number, "held")[0] for number in numbers] == [0, mine, mine, 0]
    for number in numbers:
        hold(number, 0)
    words.set("extents", mine_to_empty, "group.owner", dead.index + 1)
    family.supervisor.recover_process(dead.index, serialization.dump_error(LookupError()))  # once more
    assert [value.get() for value in values] == [LARGE] * 4
    family.check()
    again = runtime.put(b"x" * 200_000)
    assert words.get("extents", cold, "kind") == tables.EXTENT_VALUE
    family.check()
    del again


@pytest.mark.parametrize("when", ["looked at", "claimed"])
def test_a_group_that_its_owner_takes_from_again_when_it_has_just_been_looked_at_stays_its_own(family, dead, when):
    """By a recovery: it was empty, and no longer is when the lock has been taken, or a moment later."""
    words, me = Words(family.runtime), family.runtime.index
    kept = [family.runtime.put(None) for _ in range(2 * GROUP)]
    kept.clear()
    group = words.get("header", 0, "free_groups") - 1
    words.set("header", 0, "free_groups", 0)
    words.set("groups", group, "group.owner", me + 1)
    words.set("groups", group, "group.used", 0)

    def take():
        words.set("groups", group, "group.used", CURRENT)

    def live():
        lock, word = words.place("header", 0, "lock")[0], words.place("groups", group, "group.used")[0]
        if when == "looked at":
            words.at_touches((word, lambda: None), (lock, take))
        else:
            words.at_touches((word, take), protection=mmap.PROT_READ)
        family.supervisor.recover_process(dead.index, serialization.dump_error(LookupError()))

    assert family.recover_process(family.fork(live)) == 0
    assert words.get("groups", group, "group.owner") == me + 1
    assert words.get("groups", group, "group.used") == CURRENT
    words.set("groups", group, "group.used", CLAIMED)
    words.die_in_the_lock()
    family.runtime.put(LARGE)
    family.check()


def test_a_member_that_is_given_back_when_its_group_s_owner_is_recovered_is_given_back(family, dead):
    """Of a slab whose word ends a page of the table: what else the recovery writes there lies on the next one."""
    words, number = Words(family.runtime), 105
    kept = [family.runtime.put(LARGE) for _ in range(number + 1)]
    kept.clear()
    word, owner = (words.place("extents", number, name)[0] for name in ("group.used", "group.owner"))
    assert word // mmap.PAGESIZE < owner // mmap.PAGESIZE
    words.die_in_the_lock(lambda: be_slab(words, number, dead.index + 1, CURRENT | 0b11))
    family.runtime.put(LARGE)

    def live():
        give_back = (word, lambda: words.set("extents", number, "group.used", CURRENT | 0b10))
        words.at_touches(give_back, protection=mmap.PROT_READ)
        family.supervisor.recover_process(dead.index, serialization.dump_error(LookupError()))

    assert family.recover_process(family.fork(live)) == 0
    assert words.get("extents", number, "group.owner") == words.tables.ORPHAN
    assert words.get("extents", number, "group.used") == 0b10
    words.die_in_the_lock(lambda: words.set("extents", number, "group.used", CLAIMED))
    family.runtime.put(LARGE)
    family.check()


def be_slab(words, number, owner, used):
    words.set("extents", number, "kind", words.tables.EXTENT_SLAB)
    words.set("extents", number, "block_size", 600)
    words.set("extents", number, "group.owner", owner)
    words.set("extents", number, "group.used", used)


@pytest.mark.parametrize("cached", [0, 1 << 25])
@pytest.mark.parametrize("held, refs, is_put_down", [(1, 0, False), (1, 1, False), (0, 1, False), (0, 1, True)])
def test_a_large_block_that_a_dead_process_had_taken_comes_back_unless_it_has_its_place(
    family, dead, held, refs, is_put_down, cached
):
    """It was held first and then named, it counted a reference, was not held, had its place."""
    words, service = Words(family.runtime), family.service(LARGE)
    words.set("header", 0, "cache_limit", cached)
    (number,) = extents_of(words, "EXTENT_VALUE")
    words.set("processes", dead.index, "taking", words.get("services", service[0], "blob"))
    words.set("extents", number, "refs", refs)
    words.set("extents", number, "held", [held << dead.index, *[0] * (words.tables.HELD_WORDS - 1)])
    words.set("extents", number, "holders", held)
    if not is_put_down:
        words.set("services", service[0], "blob", 0)
    family.recover_process(dead)
    assert [words.get("extents", number, name) for name in ("refs", "holders")] == [int(is_put_down), 0]
    assert extents_of(words, "EXTENT_VALUE") == [number][: int(is_put_down)]
    family.check()


@pytest.mark.parametrize("size", [10, 1000, 40_000])
def test_a_block_for_which_a_process_finds_no_place_before_its_death_comes_back(family, size):
    """It dies when it takes the service's entry."""

    def live():
        yield
        family.service(b"x" * size)

    words = Words(family.runtime)
    dead = die_at(family, words, words.place("services", 0, "state")[0], live)
    assert words.get("processes", dead.index, "taking")
    look_whether_all_is_back(family, dead)


def test_what_workers_are_told_has_its_place_before_its_block_is_said_to_be_settled(family):
    """It dies when it is about to say so: the block stays."""
    words = Words(family.runtime)

    def live():
        process = words.place("processes", family.runtime.index, "taking")[0]
        words.at_touches(
            (process, lambda: None),  # names the block
            (words.place("header", 0, "setup")[0], lambda: None),
            (process, lambda: os.kill(os.getpid(), signal.SIGKILL)),
        )
        family.runtime.set_setup(kilobytes(1))

    dead = family.fork(live)
    assert dead.has_ended(PATIENCE_S)
    assert words.get("processes", dead.index, "taking") == words.get("header", 0, "setup") != 0
    family.recover_process(dead)
    family.check()
    assert family.runtime.get_setup() == kilobytes(1)


def test_a_block_goes_back_once_that_a_dead_process_had_just_put_down_where_all_goes_back(family):
    """In the task that it was filling."""
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()

    def live():
        call = family.call(service, family.runtime.put(1))
        os.kill(os.getpid(), signal.SIGKILL)
        return call

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    _, task = words.slots_of(relative.index)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    words.set_state(task, words.tables.FREE, 0)
    words.set("processes", relative.index, "building", task + 1)
    words.set("processes", relative.index, "taking", words.get("slots", task, "dependencies"))
    statistics = family.runtime.statistics()
    look_whether_all_is_back(family, relative, before)
    if "blocks_freed" in statistics:  # a debug build
        assert family.runtime.statistics()["blocks_freed"] == statistics["blocks_freed"] + 1


LIVING, DEAD, ORPHAN = "me", "dead", "an orphan"
CURRENT, SOME = CLAIMED >> 1, 0b101
#: Owner and word of a group, members taken or not; what becomes of them with the recovery of a process.
GROUPS = [
    ((DEAD, CURRENT), "free"),
    ((DEAD, CURRENT | SOME), (ORPHAN, SOME)),
    ((DEAD, SOME), (ORPHAN, SOME)),
    ((DEAD, CLAIMED), "free"),
    ((LIVING, CURRENT), (LIVING, CURRENT)),
    ((LIVING, CURRENT | SOME), (LIVING, CURRENT | SOME)),
    ((LIVING, SOME), (LIVING, SOME)),
    ((LIVING, 0), "free"),  # it had given back the last member
    ((LIVING, CLAIMED), "free"),
    ((ORPHAN, SOME), (ORPHAN, SOME)),
    ((ORPHAN, 0), "free"),
    ((ORPHAN, CLAIMED), "free"),
    ((None, CLAIMED), "as it was"),
    ((DEAD, 0), "free"),
]


@pytest.mark.parametrize("table", ["groups", "extents"])
def test_groups_of_a_dead_process_are_nobodys_and_empty_ones_free(family, dead, table):
    """Slots', or slabs of 16 blocks; what a slab has no block for counts as taken."""
    words, runtime = Words(family.runtime), family.runtime
    tables = words.tables
    owners = {LIVING: runtime.index + 1, DEAD: dead.index + 1, ORPHAN: tables.ORPHAN, None: 0}
    if table == "groups":
        kept = [runtime.put(None) for _ in range((len(GROUPS) + 1) * GROUP)]
    else:
        kept = [runtime.put(b"x" * (1 << 17)) for _ in GROUPS]
    del kept
    empty = 0 if table == "groups" else (CURRENT - 1) & ~0xFFFF
    numbers = list(range(1, words.get("header", 0, "group_high"))) if table == "groups" else extents_of(words, "EXTENT_WARM")
    assert len(numbers) == len(GROUPS)
    if table == "groups":
        words.set("header", 0, "free_groups", 0)
    else:
        words.set("header", 0, "warm_extents", [0] * tables.EXTENT_CLASSES)
        words.set("header", 0, "cached_bytes", 0)
        words.set("header", 0, "live_bytes", len(GROUPS) << 17)
    for number, ((owner, used), _) in zip(numbers, GROUPS, strict=True):
        words.set(table, number, "group.owner", owners[owner])
        words.set(table, number, "group.used", used | empty)
        words.set(table, number, "group.next", 0)
        if table == "extents":
            words.set(table, number, "kind", tables.EXTENT_SLAB)
            words.set(table, number, "block_size", 8192)
    family.recover_process(dead)
    listed = words.get("header", 0, "free_groups") if table == "groups" else max(words.get("header", 0, "warm_extents"))
    listed = tables.chain(listed, lambda number: words.get(table, number, "group.next"))
    assert len(listed) == len(set(listed))
    names = {number: name for name, number in owners.items()}
    found = []
    for number, (_, expected) in zip(numbers, GROUPS, strict=True):
        owner, used = names[words.get(table, number, "group.owner")], words.get(table, number, "group.used") & ~empty
        found.append((owner, used) if number not in listed else "free")
        if expected == "free":
            assert (owner, used) == (None, CLAIMED)
        elif expected == "as it was":
            found[-1] = "as it was"
            assert (owner, used, number in listed) == (None, CLAIMED, False)
    assert found == [expected for _, expected in GROUPS]
    for number in numbers:
        words.set(table, number, "group.used", CLAIMED | empty)
    words.die_in_the_lock()
    runtime.put(LARGE)
    family.check()


# ---- more that a recovery finds ---------------------------------------------------------------------------------------


def orphan_block(words, value):
    """The block of a value, which names it no more."""
    slot = slot_of(value)
    block = words.get("slots", slot, "result")
    words.set("slots", slot, "result", 0)
    words.set("slots", slot, "result_kind", 0)
    return block


def test_a_block_that_a_dead_process_had_taken_and_put_nowhere_comes_back(family, dead):
    words, value, other = Words(family.runtime), family.runtime.put(b"x" * 1000), family.runtime.put(b"y" * 1000)
    words.set("processes", dead.index, "taking", orphan_block(words, value))
    family.recover_process(dead)
    family.check()
    del value, other
    assert family.in_use() == (0, 0)


def test_a_block_that_tells_what_a_dead_task_waited_for_comes_back_and_the_task_fails(family, dead):
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()
    value, future = family.runtime.put(b"x" * 1000), family.call(service, 1)
    words.set("slots", slot_of(future), "waits_for", ANY | orphan_block(words, value))
    words.set("slots", slot_of(future), "started", 1)
    words.set_state(slot_of(future), words.tables.RUNNING, dead.index)
    family.recover_process(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))
    del value, future
    assert family.in_use() == before


def test_a_promise_of_a_dead_process_ends_with_its_recovery(family):
    """It is no task that somebody else could run."""

    def live():
        promise = family.runtime.promise()
        os.kill(os.getpid(), signal.SIGKILL)
        return promise

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    look_whether_all_is_back(family, relative)


def test_a_slot_that_a_dead_process_was_filling_comes_back(family, holder):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[1]
    words.set_state(slot, words.tables.FREE, 0)
    words.set("processes", holder.index, "building", slot + 1)
    look_whether_all_is_back(family, holder)


@pytest.mark.parametrize("is_held", [True, False])
def test_a_pending_hold_on_a_value_comes_back_whether_its_creator_holds_it_still(family, holder, is_held):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[1]
    words.set("slots", slot, "refs", (words.tables.REF_CREATOR if is_held else 0) | words.tables.REF_PENDING | 1)
    look_whether_all_is_back(family, holder)


@pytest.mark.parametrize("which", [0, 1])
def test_a_pending_hold_that_was_written_down_comes_back_once(family, which):
    """The dead process was filling the task that it stands in."""
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()

    def live():
        kept = [family.runtime.put(1), family.runtime.put(2)]
        call = family.call(service, kept)
        os.kill(os.getpid(), signal.SIGKILL)
        return call

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    *values, task = words.slots_of(relative.index)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    words.set_state(task, words.tables.FREE, 0)
    words.set("processes", relative.index, "building", task + 1)
    words.add("slots", values[which], "refs", words.tables.REF_PENDING)
    look_whether_all_is_back(family, relative, before)


def test_a_finished_task_whose_runner_died_lets_its_inputs_go_and_whoever_watches_is_told(family, dead):
    words, service = Words(family.runtime), family.service(same)
    value = family.runtime.put(1)
    future = family.call(service, value)
    selector = family.runtime.selector([future])
    del value
    words.set("slots", slot_of(future), "payload_kind", 0)
    finished_by(words, slot_of(future), dead.index)
    calls = words.get("processes", words.tables.DRIVER_INDEX, "wake")
    family.recover_process(dead)
    assert words.get("processes", words.tables.DRIVER_INDEX, "wake") == calls + 1
    assert selector.take(0.001) == [0]
    assert future.get(0) is None
    assert family.in_use()[0] == 1
    family.check()


def test_what_the_living_are_finishing_or_giving_back_is_left_to_them(family, dead):
    words = Words(family.runtime)
    values = [family.runtime.put(number) for number in range(3)]
    slots = list(map(slot_of, values))
    states = [words.get("slots", slot, "state") for slot in slots]
    words.add("slots", slots[0], "refs", words.tables.REF_RUN)
    words.set_state(slots[1], words.tables.LEAVING, words.tables.DRIVER_INDEX)
    words.set_state(slots[2], words.tables.FREE, words.tables.DRIVER_INDEX)
    before = [words.get("slots", slot, "state") for slot in slots]
    family.recover_process(dead)
    assert [words.get("slots", slot, "state") for slot in slots] == before
    assert words.get("slots", slots[0], "refs") == words.tables.REF_CREATOR | words.tables.REF_RUN
    words.add("slots", slots[0], "refs", -words.tables.REF_RUN)
    for slot, state in zip(slots, states, strict=True):
        words.set("slots", slot, "state", state)
    family.check()
    assert [value.get() for value in values] == [0, 1, 2]


def test_an_instance_s_call_that_its_dead_process_had_claimed_fails_though_it_had_not_begun(family, dead):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",))
    future = family.call(log, 1)
    words.set_state(slot_of(future), words.tables.RUNNING, dead.index)
    family.recover_process(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))


def test_a_task_with_all_of_its_inputs_that_a_dead_process_had_claimed_runs(family, dead):
    words, service = Words(family.runtime), family.service(same)
    promise = family.runtime.promise()
    future = family.call(service, promise)
    family.runtime.fulfil(promise, 7)
    words.set_state(slot_of(future), words.tables.RUNNING, dead.index)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    family.recover_process(dead)
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


def test_a_task_of_a_dead_submitter_waits_for_the_one_who_has_an_input_s_list_in_his_hands(family, dead):
    """For twenty milliseconds, in each recovery. It has failed by then; what it holds comes back with a later recovery."""
    words, service = Words(family.runtime), family.service(same)
    over = family.runtime.promise()
    future = family.call(service, over)
    family.runtime.fulfil(over, 1)
    words.set_state(slot_of(future), words.tables.WAITING, 0)
    os.pwrite(words.fd, (0b11).to_bytes(8, "little"), words.missing(slot_of(future)))
    for field, number in [("creator", dead.index), ("refs", 0xE0000000)]:
        words.set("slots", slot_of(future), field, number)
    words.add("slots", slot_of(over), "refs", words.tables.REF_RUN)
    family.recover_process(dead, LookupError("died"))
    waited = []
    for _ in range(4):
        begin = time.monotonic()
        family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
        waited.append(time.monotonic() - begin)
    assert min(waited) >= 0.02
    assert repr(future.exception(0)) == repr(LookupError("died"))
    words.add("slots", slot_of(over), "refs", -words.tables.REF_RUN)
    assert family.in_use()[0] == 2
    taken = family.runtime.request_process(POOL, 0)  # so that the one that is recovered next is another
    family.recover_process(family.fork(lambda: None))
    words.set("processes", taken, "state", words.tables.PROCESS_FREE)
    family.fork_worker()
    family.wait_until_idle()
    del over, future
    assert family.in_use()[0] == 0


@pytest.mark.parametrize(
    "role, queue_state, is_asked_for",
    [(4, "QUEUE_OPEN", True), (4, "QUEUE_CLOSING", True), (4, "QUEUE_DEAD", False), (POOL, "QUEUE_OPEN", False)],
)
def test_a_start_that_is_called_off_is_asked_for_again_only_for_an_instance_that_lives(
    family, role, queue_state, is_asked_for
):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    (index,) = [entry.index for entry in family.supervisor.processes()]
    tokens = []
    for _ in range(2):
        tokens.append(family.supervisor.start(index, 0b101))
        (entry,) = family.supervisor.processes()
        assert (entry.index, entry.state, entry.role) == (index, words.tables.PROCESS_STARTING, INSTANCE_ROLE)
        assert (entry.queue, entry.pid, entry.blocked, entry.idle) == (log[2], tokens[-1], False, True)
        words.set("processes", index, "current", 1)
        assert family.supervisor.processes()[0].idle is False
        words.set("processes", index, "current", 0)
    assert tokens[1] == tokens[0] + 1
    assert words.get("processes", index, "preloaded") == 0b101
    words.set("processes", index, "role", role)
    words.set("queues", log[2], "state", getattr(words.tables, queue_state))
    assert family.supervisor.cancel_start(index)
    assert [(entry.index, entry.state) for entry in family.supervisor.processes()] == (
        [(index, REQUESTED)] if is_asked_for else []
    )
    words.set("queues", log[2], "state", words.tables.QUEUE_OPEN)


def test_a_process_that_takes_its_entry_says_when_it_began(family, dead):
    assert family.supervisor.start_time(dead.index) > 0


# ---- both ends of the table -----------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 61], ids=["first", "last"])
def end(request, family):
    """A slot at an end of what is in use of the table, which the next future will have; all others are taken.

    One of those is a promise.
    """
    taken = [family.runtime.promise() if number == 30 else family.runtime.put(number) for number in range(62)]
    assert list(map(slot_of, taken)) == list(range(62))
    family.promise, family.taken = taken[30], taken
    taken[request.param] = None
    yield request.param
    family.promise = None
    taken.clear()


@pytest.fixture
def one_at_the_end(family, dead, end):
    """Prepares a slot by `prepare(words, slot)`, has a recovery done, and looks for words of the slot."""

    def look(make, prepare, recover_process=None, **expected):
        words = Words(family.runtime)
        future = make()
        assert slot_of(future) == end
        prepare(words, end)
        recover_process() if recover_process else family.recover_process(dead)
        found = {field: words.get("slots", end, field) & (15 if field == "state" else -1) for field in expected}
        assert found == expected
        family.check()
        return future

    return look


def started(family):
    """The entry of an instance's process that the zygote has just forked."""
    (index,) = [entry.index for entry in family.supervisor.processes() if entry.state == REQUESTED]
    family.supervisor.start(index)
    return index


def leave(status=None, dead=None, **fields):
    """What writes words of a slot; of holds, it adds those given."""

    def prepare(words, slot):
        for field, value in fields.items():
            words.set("slots", slot, field, value + (words.get("slots", slot, "refs") if field == "refs" else 0))
        if status is not None:
            words.set_state(slot, getattr(words.tables, status), dead.index)

    return prepare


def test_a_task_that_had_begun_is_found(family, dead, one_at_the_end):
    future = one_at_the_end(lambda: family.call(family.service(same), 1), leave("RUNNING", dead, started=1), state=5)
    assert isinstance(future.exception(0), Death)


def test_an_outcome_that_was_published_is_found(family, dead, one_at_the_end):
    one_at_the_end(
        lambda: family.runtime.put(None), leave("DONE", dead, waiters=0, refs=0x40000000), waiters=1, refs=0x80000000
    )


def test_a_task_that_was_not_told_is_found(family, dead, one_at_the_end):
    def prepare(words, _):
        finished_by(words, slot_of(family.promise), dead.index)

    one_at_the_end(lambda: family.call(family.service(same), family.promise), prepare, state=2)


def test_a_slot_on_its_way_back_is_found(family, dead, one_at_the_end):
    one_at_the_end(lambda: family.runtime.put(b"x" * 1000), leave("LEAVING", dead, refs=-0x80000000), state=0, result=0)


@pytest.mark.parametrize("status", ["DONE", "FAILED"])
def test_a_slot_that_nobody_holds_is_found(family, dead, one_at_the_end, status):
    one_at_the_end(lambda: family.runtime.put(None), leave(status, dead, refs=-0x80000000), state=0)


def test_a_value_of_the_dead_process_is_found(family, dead, one_at_the_end):
    one_at_the_end(lambda: family.runtime.put(None), leave(creator=dead.index), state=0)


def test_a_pending_hold_is_found(family, dead, one_at_the_end):
    one_at_the_end(lambda: family.runtime.put(None), leave(creator=dead.index, refs=0x10000001), state=0, refs=0)


def test_a_hold_of_the_zygote_before_is_found(family, one_at_the_end):
    def recover_process():
        family.supervisor.recover_process(family.runtime.index, serialization.dump_error(Death()))

    one_at_the_end(lambda: family.runtime.put(None), leave(refs=0x08000000), recover_process, refs=0x80000000)


def test_the_place_of_a_block_is_found(family, dead, one_at_the_end):
    def prepare(words, slot):
        words.set("processes", dead.index, "taking", words.get("slots", slot, "result"))

    value = one_at_the_end(lambda: family.runtime.put(b"x" * 1000), prepare, state=4)
    assert value.get() == b"x" * 1000


def test_a_call_in_the_queue_of_a_dead_instance_is_found_and_no_other_call(family, dead, one_at_the_end):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    others = []

    def recover_process():
        family.taken[40] = None
        others.append(family.call(family.service(same), 1))
        family.supervisor.recover_process(index, serialization.dump_error(Death()))

    future = one_at_the_end(lambda: family.call(log, 1), leave(), recover_process, state=5)
    assert isinstance(future.exception(0), Death)
    assert words.get("slots", slot_of(others[0]), "state") & 15 == words.tables.READY


@pytest.mark.parametrize("status", ["WAITING", "READY", "RUNNING"])
def test_a_closed_service_is_busy_and_a_call_is_unfinished_in_each_state(family, end, status):
    words, service = Words(family.runtime), family.service(same)
    future = family.call(service, 1)
    assert slot_of(future) == end
    words.set_state(end, getattr(words.tables, status), words.tables.DRIVER_INDEX)
    family.runtime.close_service(*service[:2])
    assert family.runtime.reap_services() == 1
    words.set_state(end, words.tables.READY, 0)
    family.fork_worker()
    assert future.get(PATIENCE_S) == 1
    assert family.runtime.reap_services() == 0
    assert family.runtime.announce_close() == 1  # the promise
    family.runtime.fulfil(family.promise, 1)


def test_a_call_that_a_close_leaves_unfinished_is_found(family, end):
    future = family.call(family.service(same), 1)
    assert slot_of(future) == end
    assert family.runtime.announce_close() == 2  # with the promise


# ---- what a recovery leaves alone -------------------------------------------------------------------------------------


def whole_slot(words, slot):
    """All of it, and of the block that tells what it waits for."""
    at = words.place("slots", slot, "state")[0]
    return os.pread(words.fd, ctypes.sizeof(words.structs["Slot"]), at), os.pread(
        words.fd, 128, words.get("slots", slot, "dependencies")
    )


def test_a_task_that_somebody_is_just_submitting_is_left_alone(family, dead):
    """In a slot that was the dead one's before. Once it is published it is told of the input that the dead one finished."""
    words, promise = Words(family.runtime), family.runtime.promise()
    future = family.call(family.service(same), promise)
    finished_by(words, slot_of(promise), dead.index)
    words.set_state(slot_of(future), words.tables.FREE, dead.index)
    words.set("processes", words.tables.DRIVER_INDEX, "building", slot_of(future) + 1)
    before = whole_slot(words, slot_of(future))
    family.recover_process(dead)
    assert whole_slot(words, slot_of(future)) == before
    words.set_state(slot_of(future), words.tables.WAITING, 0)
    words.set("processes", words.tables.DRIVER_INDEX, "building", 0)
    family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.READY


def test_a_task_whose_living_submitter_stands_it_on_lists_is_left_alone(family, dead):
    """And one whose dead submitter had done that: it is a task like any other, though nobody has its future."""
    words, promise = Words(family.runtime), family.runtime.promise()
    living, orphan = (family.call(family.service(same), promise) for _ in range(2))
    os.pwrite(words.fd, (0b11).to_bytes(8, "little"), words.missing(slot_of(living)))
    words.set("slots", slot_of(orphan), "creator", dead.index)
    family.recover_process(dead)
    for slot in slot_of(living), slot_of(orphan):
        assert words.get("slots", slot, "state") & 15 == words.tables.WAITING
    assert words.get("slots", slot_of(orphan), "refs") == words.tables.REF_RUN | words.tables.REF_EDGES
    os.pwrite(words.fd, (0b01).to_bytes(8, "little"), words.missing(slot_of(living)))
    family.runtime.fulfil(promise, 1)
    for slot in slot_of(living), slot_of(orphan):
        assert words.get("slots", slot, "state") & 15 == words.tables.READY


def test_nobody_is_waited_for_who_has_told_a_dead_submitter_s_task(family, dead):
    """Though he has not given his hold back: the input has come."""
    words, over = Words(family.runtime), family.runtime.promise()
    future = family.call(family.service(same), over)
    family.runtime.fulfil(over, 1)
    words.set_state(slot_of(future), words.tables.WAITING, 0)
    os.pwrite(words.fd, (0b10).to_bytes(8, "little"), words.missing(slot_of(future)))
    for field, number in [("creator", dead.index), ("refs", 0xE0000000)]:
        words.set("slots", slot_of(future), field, number)
    words.add("slots", slot_of(over), "refs", words.tables.REF_RUN)
    family.recover_process(dead)
    words.add("slots", slot_of(over), "refs", -words.tables.REF_RUN)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.FREE
    family.check()


def test_an_input_that_was_crossed_out_is_none(family, dead):
    """What lies where a slot of that number would lie says that the dead one has finished it."""
    words, promise = Words(family.runtime), family.runtime.promise()
    future = family.call(family.service(same), promise)
    edge = words.get("slots", slot_of(future), "dependencies") + ctypes.sizeof(words.structs["Dependencies"])
    at = edge + words.structs["DependencyEdge"].dependency.offset
    before = os.pread(words.fd, 4, at)
    os.pwrite(words.fd, words.tables.NO_DEPENDENCY.to_bytes(4, "little"), at)
    words.set("slots", words.tables.NO_DEPENDENCY, "state", dead.index << 4 | words.tables.DONE)
    family.recover_process(dead)
    words.wipe(words.place("slots", words.tables.NO_DEPENDENCY, "state")[0])
    os.pwrite(words.fd, before, at)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.WAITING
    family.check()


def test_a_hold_that_a_dead_process_had_not_crossed_out_stays(family, dead):
    words, value, promise = Words(family.runtime), family.runtime.put(None), family.runtime.promise()
    call = family.call(family.service(same), value, promise)
    edge = words.get("slots", slot_of(call), "dependencies") + ctypes.sizeof(words.structs["Dependencies"])
    for field, number in (("release_seq", 5), ("releasing_slot", slot_of(value)), ("releasing_edge", edge)):
        words.set("processes", dead.index, field, number)
    family.recover_process(dead)
    assert words.get("slots", slot_of(value), "refs") == words.tables.REF_CREATOR + 1
    family.check()


def test_a_process_that_died_with_nothing_in_its_hands_leaves_alone_what_lies_beyond_the_table(family, dead):
    """Where slot and group of the number 0 - 1 would lie, and say that they were being filled."""
    words, promise, value = Words(family.runtime), family.runtime.promise(), family.runtime.put(1)
    call = family.call(family.service(same), promise, value)
    none = words.tables.NO_DEPENDENCY
    group = words.tables.groups_at + none // words.tables.GROUP_BITS * ctypes.sizeof(words.structs["SlotGroup"])
    words.set("slots", slot_of(value), "creator", dead.index)
    words.add("slots", slot_of(value), "refs", words.tables.REF_PENDING + 1)
    words.set("slots", none, "dependencies", words.get("slots", slot_of(call), "dependencies"))
    for status in words.tables.FREE, words.tables.READY:
        os.pwrite(words.fd, b"\xff" * 8, group)
        words.set("slots", none, "state", status)
        family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
        assert words.get("slots", none, "state") == status
        assert words.get("queues", 0, "tail") == 0
    assert words.get("slots", slot_of(value), "refs") == 1
    for at in words.place("slots", none, "state")[0], group:
        words.wipe(at)
    family.recover_process(dead)


def test_a_pending_hold_that_another_task_s_inputs_do_not_name_comes_back(family):
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()

    def live():
        kept = [family.runtime.put(1), family.runtime.put(2)]
        call = family.call(service, kept[0])
        os.kill(os.getpid(), signal.SIGKILL)
        return call

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    _, value, task = words.slots_of(relative.index)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    words.set_state(task, words.tables.FREE, 0)
    words.set("processes", relative.index, "building", task + 1)
    words.add("slots", value, "refs", words.tables.REF_PENDING + 1)
    look_whether_all_is_back(family, relative, before)


def test_a_pending_hold_of_a_living_process_stays(family, dead):
    words, value = Words(family.runtime), family.runtime.put(1)
    words.add("slots", slot_of(value), "refs", words.tables.REF_PENDING + 1)
    holds = words.get("slots", slot_of(value), "refs")
    family.recover_process(dead)
    assert words.get("slots", slot_of(value), "refs") == holds
    words.add("slots", slot_of(value), "refs", -words.tables.REF_PENDING - 1)


def test_a_pending_hold_comes_back_though_the_task_had_no_inputs_yet(family, holder):
    words = Words(family.runtime)
    first, second, _ = words.slots_of(holder.index)
    words.add("slots", first, "refs", words.tables.REF_PENDING + 1)
    words.set_state(second, words.tables.FREE, 0)
    words.set("processes", holder.index, "building", second + 1)
    look_whether_all_is_back(family, holder)


@pytest.mark.parametrize("status", ["WAITING", "READY", "RUNNING", "DONE"])
def test_a_slot_that_a_dead_process_had_published_is_left_alone(family, dead, status):
    """It names it still. Only one that is ready gets an entry, perhaps a second one."""
    words, future = Words(family.runtime), family.call(family.service(same), 1)
    words.set_state(slot_of(future), getattr(words.tables, status), words.tables.DRIVER_INDEX)
    words.set("processes", dead.index, "building", slot_of(future) + 1)
    before = whole_slot(words, slot_of(future))
    family.recover_process(dead)
    assert whole_slot(words, slot_of(future)) == before
    assert words.get("queues", 0, "tail") == 1 + (status == "READY")
    words.set_state(slot_of(future), words.tables.READY, 0)


def test_a_slot_that_a_dead_process_named_and_had_not_taken_is_left_alone(family, dead):
    words, value = Words(family.runtime), family.runtime.put(None)
    words.set("processes", dead.index, "building", slot_of(value) + 2)
    freed = family.runtime.statistics().get("slots_freed")
    family.recover_process(dead)
    assert words.get("slots", slot_of(value) + 1, "state") == 0
    assert family.runtime.statistics().get("slots_freed") == freed


def test_a_slot_is_somebody_s_who_is_last_in_the_process_table(family, dead):
    """It is free still, and was the dead one's."""
    words, value = Words(family.runtime), family.runtime.put(None)
    last = family.runtime.request_process(POOL, 0)
    state = words.get("slots", slot_of(value), "state")
    words.set_state(slot_of(value), words.tables.FREE, dead.index)
    words.set("processes", last, "building", slot_of(value) + 1)
    family.recover_process(dead)
    words.set("slots", slot_of(value), "state", state)
    words.set("processes", last, "building", 0)
    words.set("processes", last, "state", words.tables.PROCESS_FREE)
    family.check()


@pytest.mark.parametrize("ordered", [False, True])
def test_a_task_that_a_dead_process_was_about_to_queue_gets_one_entry(family, dead, ordered):
    """In an ordered queue it stands from the start. One that waits again gets its entry now that nothing is missing."""
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


def test_a_failed_task_that_stands_on_a_list_keeps_its_inputs_until_it_stands_on_none(family, dead):
    """Its runner died before it had told everybody."""
    words, promise, value = Words(family.runtime), family.runtime.promise(), family.runtime.put(1)
    future = family.call(family.service(same), promise, value)
    for field in "payload", "payload_kind":
        words.set("slots", slot_of(future), field, 0)
    words.set("slots", slot_of(future), "started", 1)
    finished_by(words, slot_of(future), dead.index, failed=True)
    family.recover_process(dead)
    assert words.get("slots", slot_of(future), "refs") == words.tables.REF_CREATOR | words.tables.REF_EDGES
    assert words.get("slots", slot_of(value), "refs") == words.tables.REF_CREATOR + 1
    family.runtime.fulfil(promise, 1)
    assert words.get("slots", slot_of(value), "refs") == words.tables.REF_CREATOR


def test_whoever_stands_on_the_list_of_an_outcome_is_told_though_its_finisher_died_before(family, dead):
    """The list is open still."""
    words, promise = Words(family.runtime), family.runtime.promise()
    future = family.call(family.service(same), promise)
    words.set("slots", slot_of(promise), "result_kind", words.tables.KIND_NATIVE)
    words.set_state(slot_of(promise), words.tables.DONE, dead.index)
    family.recover_process(dead)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.READY
    assert words.get("slots", slot_of(promise), "refs") == words.tables.REF_CREATOR | 1
    family.check()


# ---- tables of services, queues and processes, at both ends -----------------------------------------------------------


@pytest.mark.parametrize("queue", [256, 4095])
def test_a_block_that_is_an_instance_s_error_stays(family, dead, queue):
    words, value = Words(family.runtime), family.runtime.put(kilobytes(1))
    block = orphan_block(words, value)
    words.set("queues", queue, "error", block)
    words.set("queues", queue, "state", words.tables.QUEUE_DEAD)
    words.set("processes", dead.index, "taking", block)
    family.recover_process(dead)
    family.check()
    words.set("slots", slot_of(value), "result", block)
    words.set("slots", slot_of(value), "result_kind", words.tables.KIND_NATIVE)
    words.set("queues", queue, "error", 0)
    words.set("queues", queue, "state", words.tables.QUEUE_FREE)


def test_a_block_that_tells_what_a_living_task_waits_for_stays(family, dead):
    words, value, promise = Words(family.runtime), family.runtime.put(kilobytes(1)), family.runtime.promise()
    block = orphan_block(words, value)
    words.set("slots", slot_of(promise), "waits_for", ANY | block)
    words.set("processes", dead.index, "taking", block)
    family.recover_process(dead)
    family.check()


@pytest.mark.parametrize("number", [0, 2])
def test_entries_that_a_dead_process_had_are_found_at_both_ends(family, dead, number):
    """Of services, of the pool's queues, of processes; and a queue is another's whichever service names it."""
    words = Words(family.runtime)
    services = [family.service(same, limit=1) for _ in range(3)]
    service, queue = services[number][0], services[number][2]
    asked = [family.runtime.request_process(POOL, 0) for _ in range(3)]
    for index in asked:
        words.set("processes", index, "state", words.tables.RESERVED + (dead.index if index == asked[number] else 1))
    words.set("queues", queue, "permits", [dead.index + 1])
    words.set("services", service, "creator", dead.index)
    words.set("services", service, "warm_left", 3)
    words.set("header", 0, "warm_left", 3)
    family.recover_process(dead)
    found = [index for index in asked if words.get("processes", index, "state") == words.tables.PROCESS_FREE]
    assert found == [asked[number]]
    assert words.get("queues", queue, "permits")[0] == 0
    assert [one for one in services if words.get("services", one[0], "state") == words.tables.SERVICE_FREE] == [
        services[number]
    ]
    assert [one for one in services if words.get("queues", one[2], "state") == words.tables.QUEUE_FREE] == [services[number]]
    assert words.get("header", 0, "warm_left") == 0
    for index in asked:
        words.set("processes", index, "state", words.tables.PROCESS_FREE)


def test_the_first_process_that_a_dead_one_was_asking_for_is_found(family):
    words = Words(family.runtime)
    first, dead = (family.runtime.request_process(POOL, 0) for _ in range(2))
    assert first == 2
    family.supervisor.start(dead)
    words.set("processes", first, "state", words.tables.RESERVED + dead)
    family.supervisor.recover_process(dead, serialization.dump_error(Death()))
    assert words.get("processes", first, "state") == words.tables.PROCESS_FREE


@pytest.mark.parametrize("queue", [1, 256, 4095])
def test_a_queue_that_a_dead_process_had_reserved_is_free(family, dead, queue):
    words = Words(family.runtime)
    words.set("queues", queue, "state", words.tables.RESERVED + dead.index)
    family.recover_process(dead)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_FREE


@pytest.mark.parametrize("own", [0, 1])
def test_a_queue_of_another_service_stays_whichever_comes_first(family, dead, own):
    """The dead process had given its service's queue back, and did not cross it out; or had crossed it out."""
    words = Words(family.runtime)
    services = [family.service(same, limit=1) for _ in range(2)]
    mine, other = services[own], services[not own]
    words.set("services", mine[0], "state", words.tables.RESERVED + dead.index)
    for queue in other[2], 0:
        words.set("services", mine[0], "queue", queue)
        words.set("services", mine[0], "state", words.tables.RESERVED + dead.index)
        family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
        assert words.get("queues", other[2], "state") == words.tables.QUEUE_OPEN
        assert words.get("services", mine[0], "state") == words.tables.SERVICE_FREE
    words.set("queues", mine[2], "state", words.tables.QUEUE_FREE)
    family.recover_process(dead)


def test_the_queue_of_an_instance_that_is_on_its_way_out_is_freed_by_its_process_s_recovery_only(family, dead):
    """The one that was closing the service had told it."""
    words = Words(family.runtime)
    service, _, queue = family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    words.set("services", service, "state", words.tables.RESERVED + dead.index)
    words.set("queues", queue, "state", words.tables.QUEUE_CLOSING)
    family.recover_process(dead)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_CLOSING
    assert words.get("services", service, "state") == words.tables.SERVICE_FREE
    family.supervisor.recover_process(index, serialization.dump_error(Death()))
    assert words.get("queues", queue, "state") == words.tables.QUEUE_FREE
    family.check()


def test_a_recovery_that_is_done_again_leaves_a_dead_instance_dead(family):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    for error in LookupError("first"), LookupError("second"):
        family.supervisor.recover_process(index, serialization.dump_error(error))
        assert words.get("queues", log[2], "state") == words.tables.QUEUE_DEAD
        assert repr(family.call(log, 1).exception(0)) == repr(LookupError("first"))
        family.check()


def test_a_recovery_that_is_done_again_costs_nobody_his_queue(family):
    """Its zygote died at its end; an instance's service had been closed before, and another has its queue."""
    words = Words(family.runtime)
    service, generation, queue = family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    family.runtime.close_service(service, generation)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_CLOSING
    family.supervisor.recover_process(index, serialization.dump_error(Death()))
    assert family.service(Log(), INSTANCE, ("note",))[2] == queue
    family.supervisor.recover_process(index, serialization.dump_error(Death()))
    assert words.get("queues", queue, "state") == words.tables.QUEUE_OPEN
    family.check()


def test_tokens_of_a_dead_process_come_back_once(family, dead):
    words = Words(family.runtime)
    words.set("processes", dead.index, "spinning", 2)
    words.set("header", 0, "spinners", 5)
    family.recover_process(dead)
    family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
    assert words.get("header", 0, "spinners") == 3
    words.set("header", 0, "spinners", 0)


def test_a_service_whose_maker_died_between_the_two_ends_of_it_holds_nobody_up(family, dead):
    """It had reserved the entry, and the table's end had not been moved on."""
    words = Words(family.runtime)
    for table, first, high, free in [
        ("services", 0, "service_high", "SERVICE_FREE"),
        ("queues", 1, "pool_queue_high", "QUEUE_FREE"),
    ]:
        assert words.get("header", 0, high) == first
        words.set(table, first, "state", words.tables.RESERVED + dead.index)
        service = family.service(same, limit=1)
        assert service[0 if table == "services" else 2] == first + 1
        assert words.get("header", 0, high) == first + 2
        family.recover_process(dead) if table == "services" else family.supervisor.recover_process(
            dead.index, serialization.dump_error(Death())
        )
        assert words.get(table, first, "state") == getattr(words.tables, free)
        family.runtime.close_service(*service[:2])
        words.set("header", 0, "service_high", 0)
        words.set("header", 0, "pool_queue_high", 1)


# ---- an instance's last error ---------------------------------------------------------------------------------------


def test_an_error_for_which_a_dead_instance_finds_no_room_reads_as_a_full_store():
    """In its queue and later."""
    family = Family(limit=1 << 20)
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    queued = family.call(log, 1)
    held = [family.runtime.put(b"x" * 900_000)]
    head = os.pread(words.fd, 64, 0)
    family.supervisor.recover_process(index, serialization.dump_error(LookupError("x" * 300_000)))
    assert os.pread(words.fd, 64, 0) == head
    later = family.call(log, 1)
    for future in queued, later:
        assert isinstance(future.exception(0), StoreFullError)
    assert words.get("queues", log[2], "error_bytes") == 0
    del held, queued, later, future
    family.check()
    family.close()


# ---- the zygote's own recovery ----------------------------------------------------------------------------------------


def test_a_zygote_that_recovers_the_one_before_keeps_its_entry_and_takes_no_more_from_that_one_s_groups(family):
    words = Words(family.runtime)
    me = family.runtime.index
    values = [family.runtime.put(number) for number in range(3)]
    arrays = [family.runtime.put(np.arange(10_000.0))]
    view = arrays[0].get()
    words.set("header", 0, "pool_sleepers", 2)
    family.supervisor.recover_process(me, serialization.dump_error(Death()))
    assert pool(words)[0] == 0
    assert words.get("processes", me, "state") == words.tables.PROCESS_LIVE
    tables = audit.Tables(words.fd)
    assert not any(extent.kind == tables.EXTENT_VALUE and any(extent.held) for extent in tables.extents)
    values.append(family.runtime.put(4))
    groups = audit.Tables(words.fd).groups
    assert groups[slot_of(values[-1]) // words.tables.GROUP_BITS].owner == me + 1
    assert view[7] == 7


# ---- who is told ----------------------------------------------------------------------------------------------------


def rings(family):
    """Whether the zygote has been called since it was asked last."""
    try:
        return os.eventfd_read(family.bell) > 0
    except BlockingIOError:
        return False


def test_the_zygote_is_called_for_what_it_is_to_do(family):
    log, service = family.service(Log(), INSTANCE, ("note",)), family.service(same)
    rings(family)
    family.runtime.start_instance(log[0])
    assert rings(family)
    family.runtime.start_instance(log[0])
    assert not rings(family)
    family.service(same, preload=1)
    assert rings(family)
    promise = family.runtime.promise()
    call = family.call(service, promise)
    family.runtime.close_service(*family.service(same)[:2])
    assert not rings(family)
    family.runtime.close_service(*service[:2])
    assert rings(family)
    family.runtime.fulfil(promise, None, serialization.dump_error(LookupError()))
    del call
    family.runtime.announce_close()
    assert rings(family)
    family.fork_requested()


def test_an_instance_s_process_is_told_that_its_service_is_closed(family):
    """Even if it has read how often it was called and does not sleep yet."""
    words = Words(family.runtime)
    service, generation, queue = family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    calls = words.get("queues", queue, "wake")
    family.runtime.close_service(service, generation)
    assert words.get("queues", queue, "wake") == calls + 1
    family.supervisor.recover_process(index, serialization.dump_error(Death()))


def test_whoever_waits_is_told_that_nothing_runs_any_more():
    family = Family()
    words = Words(family.runtime)
    future = family.runtime.promise()
    calls = words.get("processes", words.tables.DRIVER_INDEX, "wake")
    family.runtime.mark_broken("no processes are to be had")
    assert words.get("processes", words.tables.DRIVER_INDEX, "wake") == calls + 1
    for attempt in future.get, lambda: family.runtime.put(1), lambda: family.service(same):
        with pytest.raises(FlameError, match="no processes are to be had"):
            attempt()
    family.close()


def test_a_closed_runtime_says_so_and_takes_no_service(family):
    words, future = Words(family.runtime), family.runtime.promise()
    service = family.service(same)
    calls = words.get("processes", words.tables.DRIVER_INDEX, "wake")
    family.runtime.mark_closed("fell asleep")
    assert words.get("processes", words.tables.DRIVER_INDEX, "wake") == calls + 1
    for attempt in future.get, lambda: family.service(same):
        with pytest.raises(FlameError, match="fell asleep|closed"):
            attempt()
    with pytest.raises(FlameError, match="fell asleep"):
        future.get()
    assert words.get("header", 0, "service_high") == 1
    family.runtime.close_service(*service[:2])
    assert words.get("services", service[0], "state") == words.tables.SERVICE_OPEN


def test_a_forked_child_closes_no_service(family):
    words, service = Words(family.runtime), family.service(same)
    assert passes_in_child(lambda: family.runtime.close_service(*service[:2]))
    assert words.get("services", service[0], "state") == words.tables.SERVICE_OPEN


# ---- services -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"instance": True}])
def test_a_full_table_of_services_refuses_one_and_takes_nothing(family, options):
    words = Words(family.runtime)
    size, count = ctypes.sizeof(words.structs["Service"]), words.tables.SERVICE_COUNT
    at = words.place("services", 0, "state")[0]
    entry = (words.tables.RESERVED + words.tables.DRIVER_INDEX).to_bytes(4, "little").ljust(size, b"\0")
    os.pwrite(words.fd, entry * (count - 1), at)
    last = family.runtime.add_service(b"")
    assert last[0] == count - 1
    before = family.in_use()
    with pytest.raises(FlameError, match="65536 services"):
        family.runtime.add_service(b"", **options)
    assert family.in_use() == before
    assert words.get("queues", 0, "state") == words.tables.QUEUE_OPEN
    assert {words.get("queues", queue, "state") for queue in (1, words.tables.POOL_QUEUES)} == {words.tables.QUEUE_FREE}
    family.runtime.close_service(*last[:2])
    os.pwrite(words.fd, bytes(size * count), at)
    words.set("header", 0, "service_high", 0)
    family.check()


def test_an_instance_that_has_a_process_asks_for_none_though_there_is_no_room_for_one(family):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    taken = [family.runtime.request_process(POOL, 0) for _ in range(words.tables.PROCESS_COUNT - 3)]
    assert taken[-1] == words.tables.PROCESS_COUNT - 1
    with pytest.raises(FlameError, match="2048 processes"):
        family.runtime.request_process(POOL, 0)
    family.runtime.start_instance(log[0])
    for index in taken:
        words.set("processes", index, "state", words.tables.PROCESS_FREE)
    family.supervisor.recover_process(started(family), serialization.dump_error(Death()))


def test_an_entry_is_another_service_s_once_it_was_given_back(family):
    first = family.service(same)
    family.runtime.close_service(*first[:2])
    second = family.service(same)
    assert second[:2] == (first[0], first[1] + 1)
    assert [family.runtime.is_service(*one[:2]) for one in (first, second)] == [False, True]


@pytest.mark.parametrize("options, most", [({"limit": 1}, "255 limited"), ({"instance": True}, "3840 instance")])
def test_queues_run_out(family, options, most):
    words = Words(family.runtime)
    first, end = (
        (1, words.tables.POOL_QUEUES) if "limit" in options else (words.tables.POOL_QUEUES, words.tables.QUEUE_COUNT)
    )
    for queue in range(first, end - 1):
        words.set("queues", queue, "state", words.tables.QUEUE_OPEN)
    assert family.runtime.add_service(b"", **options)[2] == end - 1
    with pytest.raises(FlameError, match=f"{most} services"):
        family.runtime.add_service(b"", **options)
    for queue in range(first, end - 1):
        words.set("queues", queue, "state", words.tables.QUEUE_FREE)


def test_a_service_that_shares_the_workers_has_no_queue_of_its_own(family):
    words, service = Words(family.runtime), family.service(same)
    assert service[2] == 0
    assert family.service(same, limit=1)[2] == 1
    family.runtime.close_service(*service[:2])
    assert words.get("queues", 0, "state") == words.tables.QUEUE_OPEN


def test_workers_look_at_no_instance_s_queue_though_all_others_are_in_use(family):
    words = Words(family.runtime)
    words.set("header", 0, "pool_queue_high", words.tables.POOL_QUEUES)
    assert family.service(Log(), INSTANCE, ("note",))[2] == words.tables.POOL_QUEUES
    assert words.get("header", 0, "pool_queue_high") == words.tables.POOL_QUEUES


def test_a_runner_without_processes_loads_no_library_ahead(alone):
    alone.service(same, preload=1)
    assert alone.supervisor.preload == 0


def test_an_instance_of_a_runner_without_processes_gives_its_queue_back(alone):
    words, log = Words(alone.runtime), alone.service(Log(), INSTANCE, ("note",))
    alone.runtime.start_instance(log[0])
    assert words.get("queues", log[2], "process") == words.tables.DRIVER_INDEX + 1
    assert alone.supervisor.processes() == []
    alone.runtime.close_service(*log[:2])
    assert words.get("queues", log[2], "state") == words.tables.QUEUE_FREE


def test_an_instance_that_was_never_called_gives_its_queue_back(family):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",))
    family.runtime.close_service(*log[:2])
    assert words.get("queues", log[2], "state") == words.tables.QUEUE_FREE


def test_closed_services_are_counted_and_open_ones_are_not(family):
    family.service(same)
    assert family.runtime.reap_services() == 0
    words, closed = Words(family.runtime), family.service(same)
    words.set("services", closed[0], "state", words.tables.SERVICE_CLOSING)
    assert family.service(same)[0] == closed[0]  # it is given back first


def test_the_service_of_an_instance_s_process_is_its_own(family):
    services = [family.service(Log(), INSTANCE, ("note",), warmup=1) for _ in range(3)]
    for service in services:
        (index,) = [entry.index for entry in family.supervisor.processes() if entry.queue == service[2]]
        assert family.supervisor.current_service(index)[0] == service[0]
        family.supervisor.start(index)
        family.supervisor.recover_process(index, serialization.dump_error(Death()))


# ---- the end --------------------------------------------------------------------------------------------------------


def test_nobody_looks_any_more_at_the_end_whether_forked_children_live(family):
    view, gate = family.runtime.put(np.arange(10_000.0)).get(), os.eventfd(0)
    child = in_child(lambda: os.eventfd_read(gate) and view[7] == 7)
    before = len(os.listdir("/proc/self/fd"))
    family.runtime.give_back_memory()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    os.eventfd_write(gate, 1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(gate)


def test_memory_that_nobody_uses_goes_back_at_the_end_and_is_kept_no_more(family):
    """Nor is the bell rung, or any other file written to: its number may be another file's."""
    words = Words(family.runtime)
    family.call(family.service(same), 1)
    kept = family.runtime.put([np.arange(10_000.0) + number for number in range(40)])
    last = family.runtime.put(np.arange(10_000.0))
    family.runtime.put(np.arange(10_000.0))
    del last
    assert words.get("header", 0, "cached_bytes")
    assert os.pread(words.fd, 8, words.tables.rings_at) != bytes(8)
    rings(family)
    saved, other = os.dup(0), os.eventfd(0, os.EFD_NONBLOCK)
    os.dup2(other, 0)
    family.runtime.give_back_memory()
    assert words.get("header", 0, "cached_bytes") == 0
    assert os.pread(words.fd, 8, words.tables.rings_at) == bytes(8)
    one = family.runtime.put(np.arange(10_000.0))
    del one
    assert words.get("header", 0, "cached_bytes") == 0
    del kept
    os.dup2(saved, 0)
    os.close(saved)
    assert words.get("header", 0, "cached_bytes")
    assert not rings(family)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(other)
    os.close(other)
