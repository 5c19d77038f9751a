"""What a process leaves that dies, or is stopped, between two steps, put there by hand: the others go on all the same.

`test_steps.py` kills at every step of some operations; here stand states that only a rare step, or a rare order, leaves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest
from alone import POOL, REQUESTED, Alone
from audit import ANY
from flame_fast.kernels import pickling
from flame_fast.kernels.runtime import SegmentReader
from gates import PATIENCE_S, wait_until
from words import Words

from flame_fast import StoreFullError
from flame_fast.engine.base import INSTANCE

#: An instance's process, as POOL is one of the pool's.
INSTANCE_ROLE = 4


class Log(list):
    def note(self, value):
        self.append(value)
        return list(self)


def same(value):
    return value


def slot_of(future):
    return int(repr(future).split()[1].rstrip(">"))


def next_slots(alone, count):
    """Those that the next calls will have, in order."""
    return [slot_of(future) for future in [alone.runtime.put(0) for _ in range(count)]]


# ---- a lane's ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [1, 3])
def test_a_tail_that_its_pusher_did_not_move_on_is_moved_on(alone, behind):
    service, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    lane = service[2]
    futures = [alone.call(service, number) for number in range(3)]
    words.set("lanes", lane, "tail", 3 - behind)
    futures.append(alone.call(service, 3))
    assert words.get("lanes", lane, "tail") == 4
    alone.work()
    assert futures[-1].get(0) == [0, 1, 2, 3]


def test_a_tail_left_behind_hints_that_were_read_is_moved_on(alone):
    service, words = alone.service(same), Words(alone.runtime)
    for number in range(3):
        future = alone.call(service, number)
        alone.work()
    words.set("lanes", 0, "tail", 1)
    future = alone.call(service, 7)
    assert words.get("lanes", 0, "tail") == 4
    alone.work()
    assert future.get(0) == 7


def test_a_head_left_behind_hints_that_were_read_is_moved_on(alone):
    service, words = alone.service(same), Words(alone.runtime)
    for number in range(3):
        alone.call(service, number)
    alone.work()
    words.set("lanes", 0, "head", 0)
    future = alone.call(service, 7)
    alone.work()
    assert future.get(0) == 7
    assert words.get("lanes", 0, "head") == words.get("lanes", 0, "tail") == 4


# ---- hints that are void --------------------------------------------------------------------------------------------


def test_an_old_hint_of_the_pool_s_lane_to_the_slot_of_an_instance_s_call_is_void(alone):
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


def test_an_old_hint_of_a_lane_to_the_slot_of_a_later_call_of_it_is_void(alone):
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    *_, last = next_slots(alone, 3)
    words.push(log[2], last)
    futures = [alone.call(log, number) for number in range(3)]
    assert slot_of(futures[-1]) == last
    alone.work()
    assert futures[-1].get(0) == [0, 1, 2]


def test_an_old_hint_to_the_slot_of_a_call_that_waits_holds_nobody_up(alone):
    """Of the same lane: a later call's, in order; or one of the pool's lane, where nobody waits for another's input."""
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


# ---- a ring full of old hints ---------------------------------------------------------------------------------------


def test_a_lane_full_of_void_hints_takes_a_call(alone):
    service, words = alone.service(same), Words(alone.runtime)
    (slot,) = next_slots(alone, 1)
    words.fill(0, slot + 1)
    futures = [alone.call(service, number) for number in range(3)]
    alone.work()
    assert [future.get(0) for future in futures] == [0, 1, 2]


def test_a_lane_full_of_void_hints_behind_queued_calls_takes_more(alone):
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


def test_a_full_lane_of_an_instance_whose_first_call_waits_takes_no_more(alone):
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


def test_a_full_lane_of_an_instance_whose_first_calls_were_void_takes_more(alone):
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    (slot,) = next_slots(alone, 1)
    words.fill(log[2], slot + 1)
    futures = [alone.call(log, number) for number in range(3)]
    alone.work()
    assert futures[-1].get(0) == [0, 1, 2]


def test_a_full_lane_of_an_instance_whose_first_calls_are_over_and_held_takes_more(alone):
    log, words = alone.service(Log(), INSTANCE, ("note",)), Words(alone.runtime)
    held = alone.call(log, 0)
    alone.work()
    words.fill(log[2], slot_of(held))
    future = alone.call(log, 1)
    alone.work()
    assert (held.get(0), future.get(0)) == ([0], [0, 1])


# ---- seats ----------------------------------------------------------------------------------------------------------


def test_a_seat_is_taken_over_from_a_holder_that_is_blocked_and_from_no_other(family):
    service, words = family.service(same, limit=1), Words(family.runtime)
    holder = family.runtime.request_process(POOL, 0)
    words.set("lanes", service[2], "seats", [holder + 1])
    worker = family.fork_worker()
    future = family.call(service, 7)
    family.call(family.service(same), 1).get(PATIENCE_S)
    wait_until(lambda: words.get("processes", worker.index, "sleeping"))
    assert not future.done()
    words.set("processes", holder, "blocked", 1)
    assert family.call(service, 8).get(PATIENCE_S) == 8
    assert future.get(0) == 7
    words.set("processes", holder, "blocked", 0)
    family.runtime.start(holder)
    assert family.runtime.call_off(holder)


# ---- a dead process's notes -----------------------------------------------------------------------------------------


def buried(family, note, value, error=None):
    """A process that has ended and left a note in its entry."""
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    Words(family.runtime).set("processes", relative.index, note, value)
    family.bury(relative, error)


@pytest.mark.parametrize("note", ["promoting", "rotating", "building"])
def test_a_task_whose_hint_a_dead_process_had_in_its_hands_runs(family, note):
    service, words = family.service(same), Words(family.runtime)
    future = family.call(service, 7)
    words.set_hints(0, 0, [words.hint(0, slot_of(family.runtime.put(0)))])  # its own has gone
    buried(family, note, slot_of(future) + 1)
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


def test_a_task_that_a_dead_process_had_claimed_and_not_begun_is_another_s(family):
    service, words = family.service(same), Words(family.runtime)
    future = family.call(service, 7)
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    words.set_state(slot_of(future), words.tables.RUNNING, relative.index)
    words.set_hints(0, 0, [words.tables.SLOT_COUNT])
    words.set("lanes", 0, "head", 1)
    family.bury(relative)
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
    family.bury(relative)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.WAITING
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
    """A process that has ended and is not buried."""
    relative = family.fork(lambda: None)
    assert relative.has_ended(PATIENCE_S)
    return relative


def test_a_task_is_told_of_an_outcome_whose_finisher_died_with_the_list_in_its_hands(family, dead):
    service, words = family.service(same), Words(family.runtime)
    promise, other = family.runtime.promise(), family.runtime.promise()
    ready, waiting = family.call(service, promise), family.call(service, [promise, other])
    finished_by(words, slot_of(promise), dead.index)
    family.bury(dead)
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
    family.bury(dead)
    for future in (promise, waiting, below):
        assert isinstance(future.exception(0), StoreFullError)
    family.runtime.fulfil(other, None)


def test_a_task_whose_last_input_a_dead_process_had_cleared_is_ready(family, dead):
    service, words = family.service(same), Words(family.runtime)
    promise = family.runtime.promise()
    future = family.call(service, promise)
    words.clear(words.missing(slot_of(future)), dead.index)
    finished_by(words, slot_of(promise), dead.index)
    family.bury(dead)
    family.fork_worker()
    assert future.get(PATIENCE_S) is None


@pytest.mark.parametrize("word", [0, 1])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_word_of_inputs_that_a_dead_process_had_cleared_is_cleared_above(family, dead, word, is_last):
    """At the end of that word the task has all of its inputs, or one of another word is missing still."""
    service, words = family.service(len), Words(family.runtime)
    bits = words.tables.WORD_BITS
    promises = [family.runtime.promise() for _ in range(2 * bits)]
    future = family.call(service, promises)
    last, other = promises.pop(word * bits), promises.pop()
    for promise in promises:
        family.runtime.fulfil(promise, None)
    if is_last or word:
        family.runtime.fulfil(other, None)
        other = None
    words.clear(words.missing(slot_of(future), 0) + 8 * word, dead.index)
    finished_by(words, slot_of(last), dead.index)
    family.bury(dead)
    family.fork_worker()
    if other is not None:
        assert not future.done()
        family.runtime.fulfil(other, None)
    assert future.get(PATIENCE_S) == 2 * bits


# ---- slots on their way back ----------------------------------------------------------------------------------------


@pytest.fixture
def holder(family):
    """A process that has died holding three values, and is not buried."""

    def live():
        values = [family.runtime.put(value) for value in (None, b"x" * 1000, b"y" * 100_000)]
        os.kill(os.getpid(), signal.SIGKILL)
        return values

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    return relative


def look_whether_all_is_back(family, relative, before=(0, 0)):
    family.bury(relative)
    assert family.in_use() == before
    family.check()


def test_a_slot_that_a_dead_process_was_giving_back_comes_back(family, holder):
    words = Words(family.runtime)
    slots = words.slots_of(holder.index)
    assert len(slots) == 3
    for slot in slots:
        words.set("slots", slot, "holds", 0)
        words.set_state(slot, words.tables.LEAVING, holder.index)
    look_whether_all_is_back(family, holder)


def test_a_slot_whose_last_hold_a_dead_process_had_comes_back(family, holder):
    words = Words(family.runtime)
    for slot in words.slots_of(holder.index):
        words.set("slots", slot, "holds", 0)
    look_whether_all_is_back(family, holder)


def test_a_slot_of_which_a_dead_process_had_only_its_bit_left_to_clear_comes_back(family, holder):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[0]
    for field in ("holds", "result_kind"):
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
    family.bury(dead)
    words.set("slots", slot, "state", state)
    words.set("processes", words.tables.DRIVER_INDEX, "building", 0)
    family.check()
    assert value.get() is None


def test_a_hold_that_a_dead_process_had_just_taken_and_written_nowhere_comes_back(family, holder):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[1]
    words.add("slots", slot, "holds", words.tables.HOLD_PENDING + 1)
    look_whether_all_is_back(family, holder)


def test_a_hold_that_the_zygote_before_had_while_it_buried_somebody_comes_back(family):
    """It dies, and its successor buries it."""
    words = Words(family.runtime)
    value = family.runtime.put(None)
    slot = slot_of(value)
    words.add("slots", slot, "holds", words.tables.HOLD_BURIAL)
    del value
    assert family.in_use()[0] == 1
    family.runtime.bury(family.runtime.index, pickling.dump_error(LookupError()))
    assert family.in_use() == (0, 0)


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("is_told", [True, False])
def test_a_hold_that_a_dead_process_was_giving_back_is_given_back_once(family, dead, is_done, is_told):
    """It had crossed it out. Whether it had taken it off the count, its mark tells, or who has overwritten that."""
    words, service = Words(family.runtime), family.service(same)
    value = family.runtime.put(None)
    promise = family.runtime.promise()
    call = family.call(service, promise, value)
    edge = words.get("slots", slot_of(call), "inputs") + ctypes.sizeof(words.structs["Inputs"])
    edge += ctypes.sizeof(words.structs["Edge"])
    os.pwrite(words.fd, b"\xff" * 4, edge + words.structs["Edge"].input.offset)
    for field, number in (("giving", 5), ("giving_slot", slot_of(value)), ("giving_edge", edge)):
        words.set("processes", dead.index, field, number)
    if is_done:
        words.add("slots", slot_of(value), "holds", -1)
        mark = dead.index << words.tables.GIVING_BITS | 6
        words.set("slots", slot_of(value), "giver", 0 if is_told else mark)
        words.set("processes", dead.index, "given", 5 if is_told else 4)
    family.bury(dead)
    assert words.get("slots", slot_of(value), "holds") == words.tables.HOLD_CREATOR
    family.check()
    del value
    assert family.in_use()[0] == 2
    family.runtime.fulfil(promise, None, pickling.dump_error(LookupError()))


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
    return (promise, call), ("slots", slot_of(call), "inputs")


def of_a_service(family):
    return None, ("services", family.service(same)[0], "blob")


def of_a_dead_instance(family):
    """Its error, for those who call it later."""
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    instance.kill()
    family.bury(instance, LookupError("died"))
    return log, ("lanes", log[2], "error")


def of_all(family):
    family.runtime.set_setup(kilobytes(1))
    return None, ("header", 0, "setup")


@pytest.mark.parametrize("named", [of_a_value, of_a_call, of_inputs, of_a_service, of_a_dead_instance, of_all])
def test_a_block_that_a_dead_process_had_put_down_stays(family, dead, named):
    words = Words(family.runtime)
    kept, place = named(family)
    assert words.get(*place)
    words.set("processes", dead.index, "taking", words.get(*place))
    family.bury(dead)
    family.check()
    del kept
    if named is of_a_call:
        family.fork_worker()
        family.wait_until_idle()


# ---- entries that a dead process had reserved ------------------------------------------------------------------------


@pytest.mark.parametrize("lane_state", ["LANE_OPEN", "LANE_FREE", "reserved"])
def test_a_service_that_a_dead_process_was_making_or_emptying_is_free(family, dead, lane_state):
    words = Words(family.runtime)
    service, _, lane = family.service(same, limit=1)
    reserved = words.tables.RESERVED + dead.index
    words.set("services", service, "state", reserved)
    words.set("lanes", lane, "state", reserved if lane_state == "reserved" else getattr(words.tables, lane_state))
    family.bury(dead)
    assert words.get("services", service, "state") == words.tables.SERVICE_FREE
    assert family.service(same, limit=1)[::2] == (service, lane)


def test_a_lane_that_somebody_else_has_by_now_stays_his(family, dead):
    """A dead process had given it back, and not crossed it out in its entry."""
    words = Words(family.runtime)
    first, second = family.service(same, limit=1), family.service(same, limit=1)
    lane = words.get("services", first[0], "lane")
    words.set("services", first[0], "state", words.tables.RESERVED + dead.index)
    words.set("services", first[0], "lane", second[2])
    family.bury(dead)
    words.set("lanes", lane, "state", words.tables.LANE_FREE)
    assert words.get("lanes", second[2], "state") == words.tables.LANE_OPEN
    family.fork_worker()
    assert family.call(second, 7).get(PATIENCE_S) == 7


def test_a_process_that_a_dead_one_was_asking_for_is_asked_for_if_its_lane_names_it(family, dead):
    words = Words(family.runtime)
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = [entry[0] for entry in family.runtime.processes() if entry[1] == REQUESTED]
    worker = family.runtime.request_process(POOL, 0)
    unnamed = family.runtime.request_process(4, log[2])
    for index in (instance, worker, unnamed):
        words.set("processes", index, "state", words.tables.RESERVED + dead.index)
    family.bury(dead)
    assert [entry[0] for entry in family.runtime.processes()] == [instance]
    assert {family.runtime.request_process(POOL, 0) for _ in range(3)} == {worker, unnamed, dead.index}


def test_a_spinner_s_token_and_the_seeker_s_place_come_back(family, dead):
    words = Words(family.runtime)
    words.set("processes", dead.index, "spinning", 2)
    words.set("header", 0, "spinners", 2)
    words.set("header", 0, "seeker", dead.index + 1)
    family.bury(dead)
    assert (words.get("header", 0, "spinners"), words.get("header", 0, "seeker")) == (0, 0)


def test_another_one_s_place_as_the_seeker_stays(family, dead):
    words = Words(family.runtime)
    words.set("header", 0, "seeker", dead.index + 2)
    family.bury(dead)
    assert words.get("header", 0, "seeker") == dead.index + 2
    words.set("header", 0, "seeker", 0)


def test_a_call_that_a_dead_process_had_half_written_the_outcome_of_fails_and_all_of_it_comes_back(family, holder):
    """Its arguments have gone; the outcome is a block, an extent or in the slot, and it had not been published."""
    words = Words(family.runtime)
    for slot in words.slots_of(holder.index):
        words.set("slots", slot, "started", 1)
        words.set("slots", slot, "waiters", 0)
        words.add("slots", slot, "holds", words.tables.HOLD_RUN)
        words.set_state(slot, words.tables.RUNNING, holder.index)
    look_whether_all_is_back(family, holder)


def test_what_a_dead_process_counted_is_counted_for_good(family, dead):
    words = Words(family.runtime)
    names = ("copied_bytes", "shared_bytes", "definitions", "definition_bytes")
    for number, name in enumerate(names, 1):
        words.set("processes", dead.index, name, number)
        words.set("header", 0, name, 10)
    family.bury(dead)
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


@pytest.mark.parametrize("ago_ns, called", [(-(10**10), 0), (10**9, 1)])
def test_nobody_is_called_for_a_task_that_a_seeker_finds_unless_it_has_not_looked_for_long(alone, ago_ns, called):
    words, service = Words(alone.runtime), alone.service(same)
    words.set("header", 0, "pool_sleepers", 3)
    words.set("header", 0, "seeker", words.tables.DRIVER_INDEX + 1)
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
        with pytest.raises(TimeoutError):
            futures[0].wait(0.001)
        assert pool(words) == (left, calls + sleepers - left)
    family.fork_worker()
    assert family.runtime.get_many(futures, PATIENCE_S) == [1, 2, 3]


def test_everybody_is_called_after_a_burial(family, dead):
    """Even one that the dead process had taken off the count and not called any more."""
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",))
    words.set("header", 0, "pool_sleepers", 3)
    calls, lane_calls = pool(words)[1], words.get("lanes", log[2], "wake")
    family.bury(dead)
    assert pool(words) == (0, calls + 4)
    assert words.get("lanes", log[2], "wake") == lane_calls + 1


# ---- entries used again ---------------------------------------------------------------------------------------------


def test_a_process_entry_used_again_has_nothing_of_its_former_process(family, dead):
    words = Words(family.runtime)
    index = dead.index
    family.bury(dead)
    names = [
        *("born", "wake", "waiters", "watching", "blocked", "spinning", "sleeping", "retiring", "stateful", "current"),
        *("building", "taking", "giving_edge", "promoting", "rotating", "copied_bytes", "shared_bytes", "definitions"),
        "definition_bytes",
    ]
    for name in names:
        words.set("processes", index, name, 1)
    assert family.runtime.request_process(INSTANCE_ROLE, 300) == index
    assert [name for name in names if words.get("processes", index, name)] == []
    assert (words.get("processes", index, "role"), words.get("processes", index, "lane")) == (INSTANCE_ROLE, 300)
    family.runtime.start(index)
    assert family.runtime.call_off(index)


def test_a_lane_used_again_has_nothing_of_its_former_service(family):
    words = Words(family.runtime)
    for name, number in [("sticky", 1), ("process", 7), ("sleepers", 3), ("seats", [5] * 240), ("limit", 9), ("ordered", 1)]:
        words.set("lanes", 1, name, number)
    assert family.service(same, limit=1000)[2] == 1
    found = {name: words.get("lanes", 1, name) for name in ("ordered", "limit", "sticky", "process", "sleepers", "error")}
    assert found == {"ordered": 0, "limit": 240, "sticky": 0, "process": 0, "sleepers": 0, "error": 0}
    assert not any(words.get("lanes", 1, "seats"))


def test_an_instance_s_process_is_asked_for_once(family):
    log = family.service(Log(), INSTANCE, ("note",))
    assert family.runtime.processes() == []
    for _ in range(2):
        family.call(log, 1)
        family.runtime.start_instance(log[0])
    assert [entry[1] for entry in family.runtime.processes()] == [REQUESTED]
    family.fork_requested()
    family.wait_until_idle()


def test_workers_without_a_library_that_is_needed_leave_unless_they_hold_an_object(family):
    words = Words(family.runtime)
    kinds = {
        "without": (POOL, 0b01, 0),
        "with": (POOL, 0b11, 0),
        "holding": (POOL, 0b01, 1),
        "instance": (INSTANCE_ROLE, 0, 0),
    }
    indices = {}
    for name, (role, preloaded, stateful) in kinds.items():
        indices[name] = family.runtime.request_process(role, 0)
        words.set("processes", indices[name], "preloaded", preloaded)
        words.set("processes", indices[name], "stateful", stateful)
    words.set("header", 0, "pool_sleepers", 2)
    family.service(same, preload=0b10)
    assert [name for name, index in indices.items() if words.get("processes", index, "retiring")] == ["without"]
    assert pool(words)[0] == 0
    assert family.runtime.preload == 0b10
    words.set("processes", indices["without"], "retiring", 0)
    family.service(same, preload=0b10)
    assert not words.get("processes", indices["without"], "retiring")
    for index in indices.values():
        family.runtime.start(index)
        assert family.runtime.call_off(index)


# ---- what the zygote is told ----------------------------------------------------------------------------------------


def test_the_calls_that_a_close_leaves_unfinished_are_counted():
    alone = Alone()
    service = alone.service(same)
    promise, value = alone.runtime.promise(), alone.runtime.put(1)
    calls = [alone.call(service, promise), alone.call(service, 1)]
    assert not alone.runtime.closing
    assert alone.runtime.announce_close() == 3
    assert alone.runtime.closing
    del promise, value, calls
    alone.close()


def test_the_post_of_the_zygote_tells_who_had_it_before(alone):
    assert [alone.runtime.take_post(pid) for pid in (11, 12)] == [0, 11]


def test_what_a_process_runs_is_told_by_service_and_method(family):
    words = Words(family.runtime)
    log, service = (family.service(Log(), INSTANCE, ("note", "append")) for _ in range(2))
    family.runtime.start_instance(log[0])
    (index,) = [entry[0] for entry in family.runtime.processes()]
    assert family.runtime.running_service(index) == (log[0], 0xFFFFFFFF)
    call = family.call(service, 1, method=1)
    words.set("processes", index, "current", slot_of(call) + 1)
    assert family.runtime.running_service(index) == (service[0], 1)
    words.set("processes", index, "current", 0)
    worker = family.runtime.request_process(POOL, 0)
    assert family.runtime.running_service(worker) is None
    family.runtime.start(worker)
    assert family.runtime.call_off(worker)
    family.fork_requested()
    family.wait_until_idle()


# ---- marks of drops -------------------------------------------------------------------------------------------------


def give_back(alone, words, value, mark):
    """This process drops a dependent's hold on a value that has a mark already."""
    future = alone.call(alone.service(same), value)
    words.set("slots", slot_of(value), "giver", mark)
    alone.work()
    assert future.get(0) == 1


@pytest.mark.parametrize(
    "giving, given, of_this_slot, expected",
    [(5, 4, True, 5), (6, 4, True, 4), (5, 4, False, 4), (5, 9, True, 9), (5, 5, True, 5)],
)
def test_who_overwrites_a_mark_tells_its_process_that_the_drop_in_progress_was_done(
    alone, giving, given, of_this_slot, expected
):
    words, value = Words(alone.runtime), alone.runtime.put(1)
    other = alone.runtime.request_process(POOL, 0)
    for field, number in [("giving", giving), ("given", given), ("giving_slot", slot_of(value) + (not of_this_slot))]:
        words.set("processes", other, field, number)
    give_back(alone, words, value, other << words.tables.GIVING_BITS | 6)
    assert words.get("processes", other, "given") == expected
    assert words.get("slots", slot_of(value), "giver") >> words.tables.GIVING_BITS == words.tables.DRIVER_INDEX
    alone.runtime.start(other)
    assert alone.runtime.call_off(other)


def test_a_drop_has_another_number_than_the_mark_that_is_there(alone):
    words, value = Words(alone.runtime), alone.runtime.put(1)
    alone.runtime.drops = 10
    give_back(alone, words, value, 12)
    assert alone.runtime.drops == 12
    assert words.get("slots", slot_of(value), "giver") == 13


def test_numbers_of_drops_come_round_without_touching_the_process(alone):
    words, value = Words(alone.runtime), alone.runtime.put(1)
    alone.runtime.drops = (1 << words.tables.GIVING_BITS) - 2
    give_back(alone, words, value, 0)
    assert words.get("slots", slot_of(value), "giver") == 1


# ---- inputs ---------------------------------------------------------------------------------------------------------


def test_a_call_is_queued_once_in_order_when_it_is_made_and_else_when_its_last_input_comes(alone):
    log, service, words = alone.service(Log(), INSTANCE, ("note",)), alone.service(same), Words(alone.runtime)
    promise = alone.runtime.promise()
    calls = [alone.call(log, promise), alone.call(service, promise)]
    assert [words.get("lanes", lane, "tail") for lane in (log[2], 0)] == [1, 0]
    alone.runtime.fulfil(promise, 1)
    assert [words.get("lanes", lane, "tail") for lane in (log[2], 0)] == [1, 1]
    alone.work()
    assert [call.get(0) for call in calls] == [[1], 1]


def test_an_input_that_comes_after_its_task_has_failed_is_let_go(alone):
    """Though the task's future is held on to."""
    service = alone.service(same)
    failing, late = alone.runtime.promise(), alone.runtime.promise()
    future = alone.call(service, [failing, late])
    alone.runtime.fulfil(failing, None, pickling.dump_error(LookupError("gone")))
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
    behind = family.call(service, on)
    family.runtime.fulfil(over, 1)
    words.set("slots", slot_of(off), "waiters", 0)
    os.pwrite(words.fd, (0b1111).to_bytes(8, "little"), words.missing(slot_of(future)))  # its own, too
    words.set("slots", slot_of(future), "creator", dead.index)
    family.bury(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))
    family.check()
    family.runtime.fulfil(off, 2)
    family.runtime.fulfil(on, 3)
    family.fork_worker()
    assert behind.get(PATIENCE_S) == 3
    del on, off, over, future, behind
    family.wait_until_in_use(before)


# ---- a full table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_full_table_refuses_a_value_and_takes_nothing(alone, size):
    words, most = Words(alone.runtime), 63
    values = [alone.runtime.put(1)]
    high = words.get("header", 0, "group_high")
    words.set("header", 0, "group_high", (words.tables.SLOT_COUNT - words.tables.SLOT_SPARE) // words.tables.GROUP_BITS)
    with pytest.raises(StoreFullError, match="table"):
        for _ in range(most):
            values.append(alone.runtime.put(b"x" * size))
    words.set("header", 0, "group_high", high)
    before = alone.in_use()
    assert before[0] == len(values) < most
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


# ---- more that a burial finds ---------------------------------------------------------------------------------------


def orphan_block(words, value):
    """The block of a value, which names it no more."""
    slot = slot_of(value)
    block = words.get("slots", slot, "result")
    words.set("slots", slot, "result", 0)
    words.set("slots", slot, "result_kind", 0)
    return block


def test_a_block_that_a_dead_process_had_taken_and_put_nowhere_comes_back(family, dead):
    words, value = Words(family.runtime), family.runtime.put(b"x" * 1000)
    words.set("processes", dead.index, "taking", orphan_block(words, value))
    family.bury(dead)
    family.check()
    del value
    assert family.in_use() == (0, 0)


def test_a_block_that_tells_what_a_dead_task_waited_for_comes_back_and_the_task_fails(family, dead):
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()
    value, future = family.runtime.put(b"x" * 1000), family.call(service, 1)
    words.set("slots", slot_of(future), "waits_for", ANY | orphan_block(words, value))
    words.set("slots", slot_of(future), "started", 1)
    words.set_state(slot_of(future), words.tables.RUNNING, dead.index)
    family.bury(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))
    del value, future
    assert family.in_use() == before


def test_a_promise_of_a_dead_process_ends_with_its_burial(family):
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
    words.set("slots", slot, "holds", (words.tables.HOLD_CREATOR if is_held else 0) | words.tables.HOLD_PENDING | 1)
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
    words.set_hints(0, 0, [words.tables.SLOT_COUNT])
    words.set("lanes", 0, "head", 1)
    words.set_state(task, words.tables.FREE, 0)
    words.set("processes", relative.index, "building", task + 1)
    words.add("slots", values[which], "holds", words.tables.HOLD_PENDING)
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
    family.bury(dead)
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
    words.add("slots", slots[0], "holds", words.tables.HOLD_RUN)
    words.set_state(slots[1], words.tables.LEAVING, words.tables.DRIVER_INDEX)
    words.set_state(slots[2], words.tables.FREE, words.tables.DRIVER_INDEX)
    before = [words.get("slots", slot, "state") for slot in slots]
    family.bury(dead)
    assert [words.get("slots", slot, "state") for slot in slots] == before
    assert words.get("slots", slots[0], "holds") == words.tables.HOLD_CREATOR | words.tables.HOLD_RUN
    words.add("slots", slots[0], "holds", -words.tables.HOLD_RUN)
    for slot, state in zip(slots, states, strict=True):
        words.set("slots", slot, "state", state)
    family.check()
    assert [value.get() for value in values] == [0, 1, 2]


def test_an_instance_s_call_that_its_dead_process_had_claimed_fails_though_it_had_not_begun(family, dead):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",))
    future = family.call(log, 1)
    words.set_state(slot_of(future), words.tables.RUNNING, dead.index)
    family.bury(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))


def test_a_task_with_all_of_its_inputs_that_a_dead_process_had_claimed_runs(family, dead):
    words, service = Words(family.runtime), family.service(same)
    promise = family.runtime.promise()
    future = family.call(service, promise)
    family.runtime.fulfil(promise, 7)
    words.set_state(slot_of(future), words.tables.RUNNING, dead.index)
    words.set_hints(0, 0, [words.tables.SLOT_COUNT])
    words.set("lanes", 0, "head", 1)
    family.bury(dead)
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


def test_a_task_of_a_dead_submitter_waits_for_the_one_who_has_an_input_s_list_in_his_hands(family, dead):
    """It has failed by then; what it holds comes back with a later burial."""
    words, service = Words(family.runtime), family.service(same)
    over = family.runtime.promise()
    future = family.call(service, over)
    family.runtime.fulfil(over, 1)
    words.set_state(slot_of(future), words.tables.WAITING, 0)
    os.pwrite(words.fd, (0b11).to_bytes(8, "little"), words.missing(slot_of(future)))
    for field, number in [("creator", dead.index), ("holds", 0xE0000000)]:
        words.set("slots", slot_of(future), field, number)
    words.add("slots", slot_of(over), "holds", words.tables.HOLD_RUN)
    family.bury(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))
    words.add("slots", slot_of(over), "holds", -words.tables.HOLD_RUN)
    assert family.in_use()[0] == 2
    family.bury(family.fork(lambda: None))
    family.fork_worker()
    family.wait_until_idle()
    del over, future
    assert family.in_use()[0] == 0


@pytest.mark.parametrize(
    "role, lane_state, is_asked_for",
    [(4, "LANE_OPEN", True), (4, "LANE_CLOSING", True), (4, "LANE_DEAD", False), (POOL, "LANE_OPEN", False)],
)
def test_a_start_that_is_called_off_is_asked_for_again_only_for_an_instance_that_lives(
    family, role, lane_state, is_asked_for
):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    ((index, *_),) = family.runtime.processes()
    tokens = []
    for _ in range(2):
        tokens.append(family.runtime.start(index, 0b101))
        assert family.runtime.processes() == [(index, words.tables.PROCESS_STARTING, 4, log[2], tokens[-1], 0, True)]
        words.set("processes", index, "current", 1)
        assert family.runtime.processes()[0][6] is False
        words.set("processes", index, "current", 0)
    assert tokens[1] == tokens[0] + 1
    assert words.get("processes", index, "preloaded") == 0b101
    words.set("processes", index, "role", role)
    words.set("lanes", log[2], "state", getattr(words.tables, lane_state))
    assert family.runtime.call_off(index)
    assert [entry[:2] for entry in family.runtime.processes()] == ([(index, REQUESTED)] if is_asked_for else [])
    words.set("lanes", log[2], "state", words.tables.LANE_OPEN)


def test_a_process_that_takes_its_entry_says_when_it_began(family, dead):
    assert family.runtime.birth(dead.index) > 0
