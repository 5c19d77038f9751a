"""Slots, references and releaser tags that a process left half done: a recovery frees each once."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest
from flame_fast.kernels.runtime import SegmentReader, serialization
from gates import PATIENCE_S, same
from leftovers import look_whether_all_is_back, whole_slot
from runtime_harness import POOL, Death
from words import Words, slot_of

from flame_fast import StoreFullError

pytest_plugins = ["dead_processes"]


# ---- slots that are being freed --------------------------------------------------------------------------------------


@pytest.fixture
def holder(family):
    """Return a process that has died holding three values, and is not recovered."""

    def live():
        values = [family.runtime.put(value) for value in (None, b"x" * 1000, b"y" * 100_000)]
        os.kill(os.getpid(), signal.SIGKILL)
        return values

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    return relative


def test_a_slot_that_a_dead_process_was_freeing_is_freed(family, holder):
    words = Words(family.runtime)
    slots = words.slots_of(holder.index)
    assert len(slots) == 3
    for slot in slots:
        words.set("slots", slot, "refs", 0)
        words.set_state(slot, words.tables.LEAVING, holder.index)
    look_whether_all_is_back(family, holder)


def test_a_slot_whose_last_reference_a_dead_process_had_is_freed(family, holder):
    words = Words(family.runtime)
    for slot in words.slots_of(holder.index):
        words.set("slots", slot, "refs", 0)
    look_whether_all_is_back(family, holder)


def test_a_slot_of_which_a_dead_process_had_only_its_bit_left_to_clear_is_freed(family, holder):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[0]
    for field in ("refs", "result_kind"):
        words.set("slots", slot, field, 0)
    words.set_state(slot, words.tables.FREE, holder.index)
    look_whether_all_is_back(family, holder)


def test_a_slot_that_a_living_process_fills_is_not_taken_for_one_that_a_dead_process_freed(family, dead):
    """The slot was the dead process's before; it is still free, and its new owner names it."""
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


def test_a_reference_that_a_dead_process_had_just_acquired_and_written_nowhere_is_released(family, holder):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[1]
    words.add("slots", slot, "refs", words.tables.REF_PENDING + 1)
    look_whether_all_is_back(family, holder)


def test_a_reference_that_the_supervisor_before_had_for_a_recovery_is_released(family):
    """The supervisor dies, and its successor recovers it."""
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
def test_a_reference_that_a_dead_process_was_releasing_is_released_once(family, dead, is_done, is_told):
    """The dead process had crossed it out. The tag, or the process that overwrote it, tells whether it had decremented."""
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
        tag = dead.index << words.tables.RELEASE_BITS | 6
        words.set("slots", slot_of(value), "releaser", 0 if is_told else tag)
        words.set("processes", dead.index, "acked_release", 5 if is_told else 4)
    family.recover_process(dead)
    assert words.get("slots", slot_of(value), "refs") == words.tables.REF_CREATOR
    family.check()
    del value
    assert family.in_use()[0] == 2
    family.runtime.fulfil(promise, None, serialization.dump_error(LookupError()))


# ---- outcomes half written -------------------------------------------------------------------------------------------


def test_a_call_whose_outcome_a_dead_process_had_half_written_fails_and_all_of_it_is_freed(family, holder):
    """The arguments are gone; the outcome is a block, an extent or in the slot, and had not been published."""
    words = Words(family.runtime)
    for slot in words.slots_of(holder.index):
        words.set("slots", slot, "started", 1)
        words.set("slots", slot, "waiters", 0)
        words.add("slots", slot, "refs", words.tables.REF_RUN)
        words.set_state(slot, words.tables.RUNNING, holder.index)
    look_whether_all_is_back(family, holder)


# ---- releaser tags ---------------------------------------------------------------------------------------------------


def release_over(alone, words, value, tag):
    """Release a dependent's reference to a value that has a releaser tag already."""
    future = alone.call(alone.service(same), value)
    words.set("slots", slot_of(value), "releaser", tag)
    alone.work()
    assert future.get(0) == 1


@pytest.mark.parametrize(
    "release_seq, acked, of_this_slot, expected",
    [(5, 4, True, 5), (6, 4, True, 4), (5, 4, False, 4), (5, 9, True, 9), (5, 5, True, 5)],
)
def test_a_process_that_overwrites_a_release_tag_acknowledges_the_release_in_progress(
    alone, release_seq, acked, of_this_slot, expected
):
    words, (_, value) = Words(alone.runtime), [alone.runtime.put(1) for _ in range(2)]
    other = alone.runtime.request_process(POOL, 0)
    for field, number in [
        ("release_seq", release_seq),
        ("acked_release", acked),
        ("releasing_slot", slot_of(value) + (not of_this_slot)),
    ]:
        words.set("processes", other, field, number)
    release_over(alone, words, value, other << words.tables.RELEASE_BITS | 6)
    assert words.get("processes", other, "acked_release") == expected
    assert words.get("processes", words.tables.DRIVER_INDEX, "releasing_slot") == slot_of(value)
    assert words.get("slots", slot_of(value), "releaser") >> words.tables.RELEASE_BITS == words.tables.DRIVER_INDEX
    alone.supervisor.start(other)
    assert alone.supervisor.cancel_start(other)


def test_a_release_has_another_number_than_the_tag_that_is_there(alone):
    words, value = Words(alone.runtime), alone.runtime.put(1)
    alone.runtime.release_seq = 10
    release_over(alone, words, value, 12)
    assert alone.runtime.release_seq == 12
    assert words.get("slots", slot_of(value), "releaser") == 13


def test_numbers_of_releases_wrap_around_without_touching_the_process(alone):
    words, value = Words(alone.runtime), alone.runtime.put(1)
    alone.runtime.release_seq = (1 << words.tables.RELEASE_BITS) - 2
    release_over(alone, words, value, 0)
    assert words.get("slots", slot_of(value), "releaser") == 1


# ---- a full table ----------------------------------------------------------------------------------------------------


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


def test_a_slot_used_again_shows_no_arguments_to_a_reader_outside(alone):
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


# ---- slots that a recovery frees -------------------------------------------------------------------------------------


def test_a_promise_of_a_dead_process_ends_with_its_recovery(family):
    """A promise is no task that another process could run."""

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
def test_a_pending_reference_to_a_value_is_released_whether_its_creator_holds_it_still(family, holder, is_held):
    words = Words(family.runtime)
    slot = words.slots_of(holder.index)[1]
    words.set("slots", slot, "refs", (words.tables.REF_CREATOR if is_held else 0) | words.tables.REF_PENDING | 1)
    look_whether_all_is_back(family, holder)


@pytest.mark.parametrize("which", [0, 1])
def test_a_pending_reference_that_was_written_down_is_released_once(family, which):
    """The dead process was filling the task that names the value."""
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


def test_what_living_processes_are_finishing_or_freeing_is_left_to_them(family, dead):
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


# ---- slots that a recovery leaves alone ------------------------------------------------------------------------------


def test_a_reference_that_a_dead_process_had_not_crossed_out_stays(family, dead):
    words, value, promise = Words(family.runtime), family.runtime.put(None), family.runtime.promise()
    call = family.call(family.service(same), value, promise)
    edge = words.get("slots", slot_of(call), "dependencies") + ctypes.sizeof(words.structs["Dependencies"])
    for field, number in (("release_seq", 5), ("releasing_slot", slot_of(value)), ("releasing_edge", edge)):
        words.set("processes", dead.index, field, number)
    family.recover_process(dead)
    assert words.get("slots", slot_of(value), "refs") == words.tables.REF_CREATOR + 1
    family.check()


@pytest.mark.parametrize("family", [1 << 37], indirect=True)  # so many bytes that the segment has that place, too
def test_a_process_that_died_with_nothing_in_its_hands_leaves_alone_what_lies_beyond_the_table(family, dead):
    """The bytes at the places of slot and group 0 - 1 say that they were being filled."""
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


def test_a_pending_reference_that_another_task_s_dependencies_do_not_name_is_released(family):
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


def test_a_pending_reference_of_a_living_process_stays(family, dead):
    words, value = Words(family.runtime), family.runtime.put(1)
    words.add("slots", slot_of(value), "refs", words.tables.REF_PENDING + 1)
    holds = words.get("slots", slot_of(value), "refs")
    family.recover_process(dead)
    assert words.get("slots", slot_of(value), "refs") == holds
    words.add("slots", slot_of(value), "refs", -words.tables.REF_PENDING - 1)


def test_a_pending_reference_is_released_though_the_task_had_no_dependencies_yet(family, holder):
    words = Words(family.runtime)
    first, second, _ = words.slots_of(holder.index)
    words.add("slots", first, "refs", words.tables.REF_PENDING + 1)
    words.set_state(second, words.tables.FREE, 0)
    words.set("processes", holder.index, "building", second + 1)
    look_whether_all_is_back(family, holder)


@pytest.mark.parametrize("status", ["WAITING", "READY", "RUNNING", "DONE"])
def test_a_slot_that_a_dead_process_had_published_is_left_alone(family, dead, status):
    """The dead process still names the slot. Only a ready task gets an entry, perhaps a second one."""
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


def test_a_slot_may_be_of_the_last_process_in_the_table(family, dead):
    """The slot is still free, and was the dead process's."""
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
