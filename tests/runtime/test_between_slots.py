"""What another process does meanwhile, or a death right after a change: slots, groups, queues, waiting lists, memory."""

from __future__ import annotations

import ctypes
import os

import between
import pytest
from audit import CLAIMED, CURRENT
from between import Scenes, death, instance_whose_process_has_died, one_that_has_died, possible
from gates import same
from runtime_harness import Death
from words import slot_of

scene, scene_of_a_death = Scenes(), Scenes()


def next_slot(words):
    """Return the group that a process takes which has none yet."""
    return words.get("header", 0, "group_high") * words.tables.GROUP_BITS


def without_references(family, words, *arguments):
    """Return a slot without a reference that no process has freed: a value's, or a call's with these arguments."""
    made = family.detached(family.service(same), list(arguments)) if arguments else family.runtime.put(None)
    slot = slot_of(made)
    words.add("slots", slot, "refs", words.tables.REF_RECOVERY)
    del made
    words.set_state(slot, words.tables.DONE, words.tables.DRIVER_INDEX)
    words.set("slots", slot, "waiters", words.tables.WAITERS_CLOSED)
    words.set("slots", slot, "refs", 0)
    return slot


# ---- slots that are given back ---------------------------------------------------------------------------------------


@scene("another's", "another's, seen to have no holds", "being given back", at_each_look=True)
def gives_a_slot_back_that_becomes(family, words, what):
    dead, other = one_that_has_died(family), one_that_has_died(family)
    slot = without_references(family, words)
    status, taken = ("slots", slot, "state"), []
    watched = "refs" if "refs" in what else "state"
    yield words.place("slots", slot, watched), lambda: family.supervisor.recover_process(dead, death())
    is_there = words.get(*status) & 15 == words.tables.DONE
    if what == "being given back" and is_there:
        words.set_state(slot, words.tables.LEAVING, words.tables.DRIVER_INDEX)
    elif is_there:
        family.supervisor.recover_process(other, death())
        taken.append(family.runtime.put(7))
        assert slot_of(taken[0]) == slot
    else:
        taken.append(family.runtime.put(7))
    yield
    if taken:
        assert taken[0].get(0) == 7
        assert words.get(*("slots", slot_of(taken[0]), "state")) & 15 == words.tables.DONE
        return
    assert words.get(*status) & 15 == words.tables.LEAVING
    words.set_state(slot, words.tables.DONE, words.tables.DRIVER_INDEX)
    family.supervisor.recover_process(other, death())
    assert family.in_use()[0] == 0


@scene("state", "refs", at_each_look=True)
def looks_for_what_a_dead_process_has_left_of_an_outcome_while_the_slot_becomes_another_s(family, words, field):
    """Start from a dead process that had left nothing."""
    dead, service = one_that_has_died(family), family.service(same)
    values = [family.runtime.put(None)]
    slot = slot_of(values[0])
    words.set_state(slot, words.tables.DONE, dead)
    yield words.place("slots", slot, field), lambda: family.supervisor.recover_process(dead, death())
    values.clear()
    future = family.call(service, 7)
    assert slot_of(future) == slot
    yield
    assert words.get("slots", slot, "refs") == words.tables.REF_CREATOR | words.tables.REF_RUN
    assert words.get("slots", slot, "waiters") == 0
    assert words.get("slots", slot, "state") & 15 == words.tables.READY


@scene(at_each_look=True)
def numbers_a_drop_while_another_overwrites_a_mark_of_that_number(family, words):
    """Start from an old tag, of the slot to which the dropper released a reference last."""
    dead, other = one_that_has_died(family), one_that_has_died(family)
    old, new = family.runtime.put(1), family.runtime.put(2)
    of_old, _ = without_references(family, words, old), without_references(family, words, new)
    words.add("slots", of_old, "refs", words.tables.REF_RECOVERY)
    dropper = other + 1
    number = words.get("processes", dropper, "release_seq") + 1
    words.set("slots", slot_of(old), "releaser", mark(words, dropper, number))
    words.set("processes", dropper, "releasing_slot", slot_of(old))
    known = words.get("processes", dropper, "acked_release")
    yield words.place("processes", dropper, "release_seq"), lambda: family.supervisor.recover_process(dead, death())
    words.set("slots", of_old, "refs", 0)
    family.supervisor.recover_process(other, death())
    assert words.get("slots", slot_of(old), "releaser") != mark(words, dropper, number)
    yield
    assert words.get("processes", dropper, "acked_release") == known
    assert family.in_use()[0] == 2


def mark(words, process, number):
    """See `releaser_tag`."""
    bits = words.tables.RELEASE_BITS
    return process << bits | number % ((1 << bits) - 1) + 1


@scene(at_each_look=True)
def overwrites_a_tag_that_another_has_overwritten_by_then(family, words):
    """Give the tag the number that its owner gives to a release that the owner is just beginning."""
    dead, owner = one_that_has_died(family), one_that_has_died(family)
    value = family.runtime.put(1)
    without_references(family, words, value)
    words.set("slots", slot_of(value), "releaser", mark(words, owner, 100))
    known = words.get("processes", owner, "acked_release")
    yield words.place("slots", slot_of(value), "refs"), lambda: family.supervisor.recover_process(dead, death())
    words.set("slots", slot_of(value), "releaser", mark(words, words.tables.DRIVER_INDEX, 5))
    words.set("processes", owner, "releasing_slot", slot_of(value))
    words.set("processes", owner, "release_seq", 100)
    yield
    assert words.get("processes", owner, "acked_release") == known
    assert family.in_use()[0] == 1


@scene()
def tells_whose_mark_it_overwrites_while_another_tells_of_a_later_drop(family, words):
    dead, owner = one_that_has_died(family), one_that_has_died(family)
    value = family.runtime.put(1)
    without_references(family, words, value)
    words.set("slots", slot_of(value), "releaser", mark(words, owner, 100))
    words.set("processes", owner, "releasing_slot", slot_of(value))
    words.set("processes", owner, "release_seq", 100)
    words.set("processes", owner, "acked_release", 99)
    yield words.place("processes", owner, "acked_release"), lambda: family.supervisor.recover_process(dead, death())
    is_told = words.get("processes", owner, "acked_release") == 100
    words.set("processes", owner, "release_seq", 107)
    words.set("processes", owner, "acked_release", 107)
    yield
    assert not is_told
    assert words.get("processes", owner, "acked_release") == 107


# ---- groups ----------------------------------------------------------------------------------------------------------


@scene()
def gives_an_empty_group_back_while_its_owner_takes_from_it_again(family, words):
    dead, group = one_that_has_died(family), ("groups", 0, "group.used")
    without_references(family, words)
    others = [family.runtime.put(None) for _ in range(words.tables.GROUP_BITS)]
    del others[:-1]  # the last one stands in the next group
    yield words.place(*group), lambda: family.supervisor.recover_process(dead, death())
    is_empty = words.get(*group) == 0
    if is_empty:
        words.set(*group, CURRENT)
    yield
    if is_empty:
        assert words.get(*group) == CURRENT
        assert words.get("groups", 0, "group.owner") == words.tables.DRIVER_INDEX + 1
        words.set(*group, CLAIMED)
    others.clear()


@scene("fuller", "another's")
def takes_from_a_group_of_its_own_again_that_becomes(family, words, what):
    """Start from a group that the process has filled, and some of whose members it has freed."""
    first, most = words.get("header", 0, "group_high"), words.tables.GROUP_BITS
    group, owner = ("groups", first, "group.used"), ("groups", first, "group.owner")

    def fill():
        values = [family.runtime.put(None) for _ in range(2 * most)]
        del values[10:most]
        family.kept = values  # until after the last look
        return values

    def act(values):
        values += [family.runtime.put(None) for _ in range(10)]
        return len(set(map(slot_of, values)))

    yield words.place(*group), act, fill
    word, mine = words.get(*group), words.get(*owner)
    if word & CURRENT:
        assert (yield) == most + 20
    elif what == "fuller":
        words.set(*group, word | 1 << most - 1)
        assert (yield) == most + 20
        assert words.get(*group) & CURRENT
        assert words.get(*group) >> most - 1 & 1
        words.set(*group, words.get(*group) & ~(1 << most - 1))
    else:
        words.set(*owner, words.tables.DRIVER_INDEX + 1)
        assert (yield) == most + 20
        assert words.get(*group) == word
        words.set(*owner, mine)


@scene_of_a_death()
def takes_a_group_that_was_given_back(family, words):
    others = [family.runtime.put(None) for _ in range(3 * words.tables.GROUP_BITS)]
    others.clear()
    group = words.get("header", 0, "free_groups") - 1
    yield words.place("groups", group, "group.used"), lambda: family.runtime.put(None) and None


# ---- queues -----------------------------------------------------------------------------------------------------------


def entry_at(words, queue, position):
    (entry,) = words.tables.numbers(
        words.tables.rings_at + 8 * (queue * words.tables.SLOT_COUNT + (position & words.ring_mask)), 1
    )
    return entry


def is_written(words, queue, position):
    """Return whether a place of a ring is of this position's round."""
    return entry_at(words, queue, position) & ~words.ring_mask == position & ~words.ring_mask


def check_ring(words, queue):
    """Assert that every place between the head and the tail has been written, near both ends."""
    head, tail = words.get("queues", queue, "head"), words.get("queues", queue, "tail")
    for position in {*range(head, min(head + 8, tail)), *range(max(head, tail - 8), tail)}:
        assert is_written(words, queue, position), f"position {position} has the entry {entry_at(words, queue, position):#x}"
        assert entry_at(words, queue, position) & words.ring_mask, f"no process has written at {position}"


@scene()
def queues_a_call_while_others_queue_more(family, words):
    service, tail, futures = family.service(same), ("queues", 0, "tail"), []
    yield words.place(*tail), lambda: family.call(service, 1) and None
    futures += [family.call(service, number) for number in range(2)]
    later = words.get(*tail)
    yield
    assert words.get(*tail) >= later
    check_ring(words, 0)


@scene()
def queues_a_call_of_an_instance_while_its_ring_goes_round_twice(family, words):
    log, instance = instance_whose_process_has_died(family)
    queue = log[2]
    head, tail = ("queues", queue, "head"), ("queues", queue, "tail")
    yield words.place(*tail), lambda: family.call(log, 1).done()
    if (end := words.get(*tail)) == 0:
        end = 2 * words.tables.SLOT_COUNT
        words.set_entries(queue, end, [end & ~words.ring_mask])
        words.set(*head, end)
        words.set(*tail, end)
    failed = yield
    assert not failed
    check_ring(words, queue)
    family.supervisor.recover_process(instance, death())


def full_queue(family, words):
    """Return a service and two calls, the first in all places but one: a process that queues another rotates entries."""
    service = family.service(same)
    second, first = family.call(service, 2), family.call(service, 1)
    words.set("slots", slot_of(first), "queue_tail", 0)
    words.set_entries(0, 0, [words.entry(0, slot_of(first)), words.entry(1, slot_of(first))])
    words.fill(0, slot_of(first))
    words.set_entries(0, 1, [words.entry(1, words.tables.SLOT_COUNT - 2)])  # a void one
    return service, first, second


@scene(at_each_look=True, most=7)
def makes_room_in_a_full_queue_while_its_first_task_is_claimed_and_one_more_queued(family, words):
    service, _, second = full_queue(family, words)
    end = words.tables.SLOT_COUNT
    yield words.place("queues", 0, "head"), lambda: family.call(service, 3) and None
    if words.get("queues", 0, "head") == 0 and is_written(words, 0, 0):
        words.set_entries(0, end, [words.entry(end, slot_of(second))])
        words.set("queues", 0, "head", 1)
        words.set("queues", 0, "tail", end + 1)
    yield
    check_ring(words, 0)


@scene_of_a_death()
def makes_room_in_a_full_queue(family, words):
    service, _, second = full_queue(family, words)
    words.set_entries(0, 0, [words.entry(0, slot_of(second))])
    yield words.place("queues", 0, "head"), lambda: family.call(service, 3) and None
    tail = words.get("queues", 0, "tail")
    last = {position: entry_at(words, 0, position) for position in range(tail - 4, tail)}
    is_queued = any(entry == words.entry(position, slot_of(second)) for position, entry in last.items())
    assert words.get("queues", 0, "head") == 0 or is_queued


@scene(at_each_look=True)
def claims_a_task_while_another_claims_it_and_queues_one_more(family, words):
    """Return where the entry to that call goes, two rings further."""
    service, end = family.service(same), 2 * words.tables.SLOT_COUNT
    second, first = family.call(service, 2), family.call(service, 1)
    words.set("slots", slot_of(first), "queue_tail", 0)
    words.set_entries(0, 0, [words.entry(0, slot_of(first)), 0])
    words.set("queues", 0, "tail", 1)

    def act():
        family.runtime.serve_inline()
        family.work()

    yield words.place("queues", 0, "head"), act
    state = words.get("slots", slot_of(first), "state") & 15
    if is_first := words.get("queues", 0, "head") == 0 and state == words.tables.READY:
        words.set_state(slot_of(first), words.tables.RUNNING, words.tables.DRIVER_INDEX)
        words.set_entries(0, end, [words.entry(end, slot_of(second)), end + 1 & ~words.ring_mask])
        words.set("queues", 0, "head", end)
        words.set("queues", 0, "tail", end + 1)
    yield
    check_ring(words, 0)
    if is_first:
        assert second.get(0) == 2
        family.runtime.fulfil(first, 1)


# ---- outcomes and waiting lists --------------------------------------------------------------------------------------


@scene()
def fails_a_call_of_a_dead_instance_while_another_does(family, words):
    log, instance = instance_whose_process_has_died(family)
    family.supervisor.recover_process(instance, death())
    slot, free = next_slot(words), one_that_has_died(family)
    yield words.place("slots", slot, "state"), lambda: family.call(log, 1) and None
    if is_ready := words.get("slots", slot, "state") & 15 == words.tables.READY:
        words.set_state(slot, words.tables.RUNNING, words.tables.DRIVER_INDEX)
        claimed = words.get("slots", slot, "state")
    yield
    if is_ready:
        assert words.get("slots", slot, "state") == claimed
        words.set_state(slot, words.tables.DONE, words.tables.DRIVER_INDEX)
        words.set("slots", slot, "waiters", words.tables.WAITERS_CLOSED)
        words.set("slots", slot, "refs", 0)
        family.supervisor.recover_process(free, death())


@scene()
def fails_an_instance_s_call_while_its_process_goes_to_sleep(family, words):
    """Fail the first call's dependency before the second call. The process has seen that a dependency is missing."""
    log, instance = instance_whose_process_has_died(family)
    promise, slot = family.runtime.promise(), next_slot(words)
    family.runtime.fulfil(promise, None, death())
    calls, sleepers = ("queues", log[2], "wake"), ("queues", log[2], "sleepers")
    yield words.place("slots", slot, "state"), lambda: family.call(log, promise) and None
    is_waiting = words.get("slots", slot, "state") & 15 == words.tables.WAITING
    words.set(*sleepers, 1)
    before = words.get(*calls)
    yield
    words.set(*sleepers, 0)
    assert not is_waiting or words.get(*calls) == before + 1
    family.supervisor.recover_process(instance, death())


@scene(at_each_look=True)
def finishes_a_promise_while_a_waiter_begins_to_watch_it(family, words):
    """Let a process that watches a promise say so, and then look whether the promise is finished."""
    slot, process = next_slot(words), one_that_has_died(family) + 1

    def act():
        promise = family.runtime.promise()
        family.runtime.fulfil(promise, 1)

    before = words.get("processes", process, "wake")
    yield words.place("slots", slot, "watched"), act
    words.set("slots", slot, "watched", 1)
    is_finished = words.get("slots", slot, "state") & 15 >= words.tables.DONE
    yield
    assert is_finished or words.get("processes", process, "wake") == before + 1


@scene("stands", "does not stand yet", at_each_look=True)
def looks_whether_a_task_is_on_a_list_that_is_closed_by_then_and_on_which_it(family, words, how):
    """Start from a service whose first task is gone: any process may free what the task had."""
    dead, promise, service = one_that_has_died(family), family.runtime.promise(), family.service(same)
    future = family.call(service, promise)
    below, other = family.call(service, future), family.call(service, promise)
    edge = words.get("slots", slot_of(other), "dependencies") + ctypes.sizeof(words.structs["Dependencies"])
    if how == "does not stand yet":
        os.pwrite(words.fd, bytes(8), edge)
    os.pwrite(words.fd, (0b11).to_bytes(8, "little"), words.missing(slot_of(future)))  # its submitter's, too
    words.set("slots", slot_of(future), "creator", dead)
    yield words.place("slots", slot_of(promise), "waiters"), lambda: family.supervisor.recover_process(dead, death())
    if words.get("slots", slot_of(promise), "waiters") != words.tables.WAITERS_CLOSED:
        family.runtime.fulfil(promise, 1)
        os.pwrite(words.fd, (1 << 60).to_bytes(8, "little"), edge)
    yield
    assert isinstance(below.exception(0), Death)
    family.runtime.fulfil(other, 1)
    del promise, future, below, other
    assert family.in_use()[0] == 0


@scene(at_each_look=True)
def lets_a_claimed_task_wait_again_that_is_over_and_gone_by_then(family, words):
    dead, promise = one_that_has_died(family), family.runtime.promise()
    futures = [family.call(family.service(same), promise)]
    slot = slot_of(futures[0])
    words.set_state(slot, words.tables.RUNNING, dead)
    yield words.place("slots", slot, "state"), lambda: family.supervisor.recover_process(dead, death())
    if words.get("slots", slot, "state") & 15 == words.tables.WAITING:
        family.runtime.fulfil(promise, None, death())
        futures.clear()
    yield
    assert words.get("slots", slot, "state") & 15 in (words.tables.FREE, words.tables.WAITING)
    if futures:
        family.runtime.fulfil(promise, None, death())


# ---- memory ----------------------------------------------------------------------------------------------------------


@scene(at_each_look=True)
def says_that_it_has_the_lock(family, words):
    holder = ("header", 0, "lock_holder")
    yield words.place(*holder), lambda: family.runtime.put(b"x" * 100_000) and None
    assert words.get("header", 0, "lock")[0] & 0xFFFFFFFF, "it says so before it has it, or when it has given it back"
    assert words.get(*holder) in (0, one_that_has_died(family))
    yield
    words.set("processes", 3, "state", words.tables.PROCESS_FREE)


@scene_of_a_death()
def takes_memory_and_gives_it_back_at_once(family, words):
    words.set("header", 0, "cache_limit", 0)
    extent = words.get("header", 0, "extent_high")
    yield words.place("extents", extent, "kind"), lambda: family.runtime.put(b"x" * 100_000) and None
    assert family.in_use() == (0, 0)


@scene_of_a_death()
def gives_back_memory_that_was_kept(family, words):
    family.runtime.put(b"x" * 100_000)
    extent = words.get("header", 0, "extent_high") - 1
    assert words.get("extents", extent, "kind") == words.tables.EXTENT_WARM
    yield words.place("extents", extent, "kind"), family.supervisor.trim


@possible
@pytest.mark.parametrize("name", scene)
def test_what_another_does_meanwhile_is_neither_lost_nor_done_twice(nothing_left, name):
    between.play(scene[name])


@possible
@pytest.mark.parametrize("name", scene_of_a_death)
def test_what_a_death_right_after_a_change_leaves_is_recovered(nothing_left, name):
    between.play_deaths(scene_of_a_death[name])
