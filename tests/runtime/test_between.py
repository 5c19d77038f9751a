"""What another process does between a look at a word and its change is neither lost nor done twice."""

from __future__ import annotations

import ctypes
import os

import between
import pytest
from between import Scenes, death, instance_whose_process_has_died, one_that_has_died, possible
from flame_fast.kernels.runtime import serialization
from gates import Log, same
from runtime_harness import INSTANCE_ROLE, POOL, REQUESTED, Death
from words import slot_of

from flame_fast.engine.spec import INSTANCE

scene, scene_of_a_death, scene_of_a_call = Scenes(), Scenes(), Scenes()


# ---- entries of the tables -------------------------------------------------------------------------------------------


@scene()
def asks_for_a_process_while_another_takes_its_entry(family, words):
    entry = ("processes", 3, "state")  # the watched process has the one before
    others = words.tables.RESERVED + words.tables.DRIVER_INDEX
    index = yield words.place(*entry), lambda: family.runtime.request_process(POOL, 0)
    if is_others := words.get(*entry) == words.tables.PROCESS_FREE:
        words.set(*entry, others)
    index = yield
    assert (index, words.get(*entry)) == ((4, others) if is_others else (3, words.tables.RESERVED + 2))
    words.set(*entry, words.tables.PROCESS_FREE)


@scene()
def asks_for_an_instance_s_process_while_another_does(family, words):
    service, _, queue = family.service(Log(), INSTANCE, ("note",))
    named = ("queues", queue, "process")
    yield words.place(*named), lambda: family.runtime.start_instance(service)
    if words.get(*named) == 0:
        words.set(*named, family.runtime.request_process(INSTANCE_ROLE, queue) + 1)
        words.set("processes", words.get(*named) - 1, "state", REQUESTED)
    yield
    states = {index: words.get("processes", index, "state") for index in range(3, 6)}
    assert {index: state for index, state in states.items() if state} == {words.get(*named) - 1: REQUESTED}
    family.fork_requested()


@scene("limit", "instance")
def makes_a_service_while_another_takes_its_queue(family, words, kind):
    first = 1 if kind == "limit" else words.tables.POOL_QUEUES
    entry = ("queues", first, "state")
    options = {"limit": 1} if kind == "limit" else {"instance": True}
    yield words.place(*entry), lambda: family.runtime.add_service(b"", **options)[2]
    if is_others := words.get(*entry) == words.tables.QUEUE_FREE:
        words.set(*entry, words.tables.RESERVED)
    queue = yield
    assert queue == first + is_others
    if is_others:
        assert words.get(*entry) == words.tables.RESERVED
        words.set(*entry, words.tables.QUEUE_FREE)


@scene("queues", "services", at_each_look=True)
def makes_a_service_while_another_looks(family, words, table):
    """Check that an open service has an open queue."""
    yield words.place(table, table == "queues", "state"), lambda: family.runtime.add_service(b"", limit=1) and None
    is_open = words.get("services", 0, "state") == words.tables.SERVICE_OPEN
    assert not is_open or words.get("queues", 1, "state") == words.tables.QUEUE_OPEN
    yield


@scene()
def makes_a_service_while_another_takes_its_entry(family, words):
    entry = ("services", 0, "state")
    yield words.place(*entry), lambda: family.runtime.add_service(b"")[0]
    if is_others := words.get(*entry) == words.tables.SERVICE_FREE:
        words.set(*entry, words.tables.RESERVED)
    service = yield
    assert service == is_others
    if is_others:
        assert words.get(*entry) == words.tables.RESERVED
        words.set(*entry, words.tables.SERVICE_FREE)


@scene("service_high", "process_high", "pool_queue_high")
def uses_a_new_entry_while_others_use_later_ones(family, words, field):
    high = ("header", 0, field)
    if field == "process_high":
        yield words.place(*high), lambda: family.runtime.request_process(POOL, 0)
    else:
        yield words.place(*high), lambda: family.runtime.add_service(b"", limit=1)
    words.add(*high, 5)
    later = words.get(*high)
    yield
    assert words.get(*high) >= later


@scene()
def asks_for_a_library_while_another_asks_for_one(family, words):
    needed = ("header", 0, "preload")
    yield words.place(*needed), lambda: family.runtime.add_service(b"", preload=1)
    words.set(*needed, words.get(*needed) | 2)
    yield
    assert words.get(*needed) == 3


# ---- a start that is called off --------------------------------------------------------------------------------------


@scene()
def takes_its_entry_while_the_start_is_called_off(family, words):
    index = family.runtime.request_process(POOL, 0)
    token = family.supervisor.start(index)

    def take():
        family.runtime.become(index, "alone", family.bell)
        return family.runtime.claim_entry(token, 77, 1)

    yield words.place(*("processes", index, "state")), take
    off = family.supervisor.cancel_start(index)
    took = yield
    assert took is not off
    assert [entry.pid for entry in family.supervisor.processes() if entry.index == index] == ([77] if took else [])
    words.set("processes", index, "state", words.tables.PROCESS_FREE)
    words.set("processes", index, "pid", 0)


@scene()
def calls_a_start_off_while_the_entry_is_taken(family, words):
    index = family.runtime.request_process(POOL, 0)
    family.supervisor.start(index)
    yield words.place(*("processes", index, "state")), lambda: family.supervisor.cancel_start(index)
    if took := words.get("processes", index, "state") == words.tables.PROCESS_STARTING:
        words.set("processes", index, "pid", 77)
        words.set("processes", index, "state", words.tables.PROCESS_LIVE)
    off = yield
    assert off is not took
    assert [entry.pid for entry in family.supervisor.processes() if entry.index == index] == ([77] if took else [])
    words.set("processes", index, "state", words.tables.PROCESS_FREE)
    words.set("processes", index, "pid", 0)


# ---- services that are loaded ahead, or closed -----------------------------------------------------------------------


@scene()
def has_a_service_loaded_ahead_while_another_is_loaded(family, words):
    left = ("header", 0, "warm_left")
    family.service(same, warmup=3)
    yield words.place(*left), lambda: family.runtime.add_service(b"", warmup=4)
    words.add(*left, -1)
    words.add("services", 0, "warm_left", -1)
    yield
    assert words.get(*left) in (2, 6)


@scene("warm_left of the service", "warm_left of all")
def closes_a_service_while_it_is_loaded_ahead(family, words, which):
    family.service(same, warmup=2)
    service, generation, _ = family.service(same, warmup=3)
    left, of_all = ("services", service, "warm_left"), ("header", 0, "warm_left")
    yield words.place(*(left if "of the" in which else of_all)), lambda: family.runtime.close_service(service, generation)
    loaded = service if words.get(*left) else 0
    words.add("services", loaded, "warm_left", -1)
    words.add(*of_all, -1)
    yield
    assert words.get(*of_all) == words.get("services", 0, "warm_left")


@scene()
def closes_a_service_while_another_closes_it(family, words):
    service, generation, queue = family.service(same, limit=1)
    state = ("services", service, "state")
    yield words.place(*state), lambda: family.runtime.close_service(service, generation)
    other = closed_and_made_anew(family, service, generation)
    yield
    assert words.get(*state) == (words.tables.SERVICE_OPEN if other else words.tables.SERVICE_FREE)
    assert words.get("queues", queue, "state") == (words.tables.QUEUE_OPEN if other else words.tables.QUEUE_FREE)


def closed_and_made_anew(family, service, generation):
    """Close a service, and return whether its entry has become another service's."""
    family.runtime.close_service(service, generation)
    return family.service(same, limit=1)[0] == service


@scene()
def recovers_the_maker_of_a_service_while_another_closes_it(family, words):
    dead, (service, generation, queue) = one_that_has_died(family), family.service(same, limit=1, warmup=2)
    state = ("services", service, "state")
    words.set("services", service, "creator", dead)
    yield words.place(*state), lambda: family.supervisor.recover_process(dead, death())
    other = closed_and_made_anew(family, service, generation)
    yield
    assert words.get(*state) == (words.tables.SERVICE_OPEN if other else words.tables.SERVICE_FREE)
    assert words.get("queues", queue, "state") == (words.tables.QUEUE_OPEN if other else words.tables.QUEUE_FREE)


@scene()
def closes_an_instance_while_its_process_is_called(family, words):
    (service, generation, queue), instance = instance_whose_process_has_died(family)
    calls = ("queues", queue, "wake")
    before = words.get(*calls)
    yield words.place(*calls), lambda: family.runtime.close_service(service, generation)
    words.add(*calls, 1)
    yield
    assert words.get(*calls) == before + 2
    family.supervisor.recover_process(instance, death())


@scene()
def gives_a_closed_service_back_while_another_does(family, words):
    service, _, _ = family.service(same)
    state = ("services", service, "state")
    words.set(*state, words.tables.SERVICE_CLOSING)
    yield words.place(*state), family.runtime.reap_services
    if is_others := words.get(*state) == words.tables.SERVICE_CLOSING:
        words.set(*state, words.tables.RESERVED)
    yield
    assert words.get(*state) == (words.tables.RESERVED if is_others else words.tables.SERVICE_FREE)
    assert bool(words.get("services", service, "blob")) is is_others
    if is_others:
        words.set(*state, words.tables.SERVICE_CLOSING)
        family.runtime.reap_services()


@scene()
def closes_an_instance_while_its_dead_process_is_recovered(family, words):
    (service, generation, queue), instance = instance_whose_process_has_died(family)
    state = ("queues", queue, "state")
    yield words.place(*state), lambda: family.runtime.close_service(service, generation)
    family.supervisor.recover_process(instance, death())
    yield
    assert words.get(*state) == words.tables.QUEUE_FREE
    assert not words.get("queues", queue, "error")


@scene()
def recovers_an_instance_s_process_while_its_service_is_closed(family, words):
    (service, generation, queue), instance = instance_whose_process_has_died(family)
    state = ("queues", queue, "state")
    yield words.place(*state), lambda: family.supervisor.recover_process(instance, death())
    family.runtime.close_service(service, generation)
    yield
    assert words.get(*state) == words.tables.QUEUE_FREE
    assert not words.get("queues", queue, "error")


@scene(at_each_look=True)
def recovers_an_instance_s_process_while_a_call_of_it_fails(family, words):
    """Fail the task by a dependency: the task has one outcome, whichever process comes first."""
    (log, instance), service = instance_whose_process_has_died(family), family.service(same)
    promise = family.runtime.promise()
    future = family.call(log, promise)
    below = family.call(service, future)
    yield words.place("slots", slot_of(future), "state"), lambda: family.supervisor.recover_process(instance, death())
    was_done = future.done()
    family.runtime.fulfil(promise, None, serialization.dump_error(LookupError("gone")))
    first = repr(future.exception(0)) if future.done() else None
    yield
    assert repr(future.exception(0)) in ([first] if first else [repr(Death())])
    assert was_done or not first or first == repr(LookupError("gone"))
    assert below.done()


# ---- holds -----------------------------------------------------------------------------------------------------------


@scene()
def holds_a_task_while_its_future_is_dropped(family, words):
    dead, promise = one_that_has_died(family), family.runtime.promise()
    future = family.detached(family.service(same), promise)
    holds = ("slots", slot_of(future), "refs")
    yield words.place(*holds), lambda: family.supervisor.recover_process(dead, death())
    del future
    yield
    assert words.get(*holds) == words.tables.REF_RUN | words.tables.REF_EDGES
    family.runtime.fulfil(promise, None, death())
    del promise
    assert family.in_use()[0] == 0


@scene()
def holds_a_task_while_its_slot_becomes_another_s(family, words):
    dead, promise = one_that_has_died(family), family.runtime.promise()
    future = family.call(family.service(same), promise)
    holds = ("slots", slot_of(future), "refs")
    yield words.place(*holds), lambda: family.supervisor.recover_process(dead, death())
    family.runtime.fulfil(promise, None, death())
    del future
    other = family.runtime.promise()
    yield
    assert words.get("slots", slot_of(other), "refs") == words.tables.REF_CREATOR | words.tables.REF_RUN
    del promise
    assert family.in_use()[0] == 1
    family.runtime.fulfil(other, 1)
    assert other.get(0) == 1


@scene()
def holds_a_task_while_its_slot_is_given_back(family, words):
    dead, promise = one_that_has_died(family), family.runtime.promise()
    future = family.call(family.service(same), promise)
    holds = ("slots", slot_of(future), "refs")
    yield words.place(*holds), lambda: family.supervisor.recover_process(dead, death())
    family.runtime.fulfil(promise, None, death())
    del future
    yield
    assert words.get(*holds) == 0
    del promise
    assert family.in_use()[0] == 0


@scene()
def takes_a_pending_hold_back_while_another_drops_his(family, words):
    """Give the value that the dead process made two dependents: one of a living process."""
    dead, value = one_that_has_died(family), family.runtime.put(1)
    holds = ("slots", slot_of(value), "refs")
    words.set("slots", slot_of(value), "creator", dead)
    words.add(*holds, words.tables.REF_PENDING + 2)
    yield words.place(*holds), lambda: family.supervisor.recover_process(dead, death())
    if has_dropped := words.get(*holds) > 1:
        words.add(*holds, -1)
    yield
    assert words.get(*holds) == (0 if has_dropped else 1)
    words.set(*holds, 0)
    family.supervisor.recover_process(one_that_has_died(family), death())
    assert family.in_use()[0] == 0


# ---- what a recovery comes across --------------------------------------------------------------------------------------


@scene("its state", "what is missing")
def lets_a_claimed_task_wait_again_while_its_last_input_comes(family, words, watched):
    dead, promise = one_that_has_died(family), family.runtime.promise()
    future = family.call(family.service(same), promise)
    words.set_state(slot_of(future), words.tables.RUNNING, dead)
    missing = words.missing(slot_of(future)), ctypes.c_uint64
    yield (
        words.place("slots", slot_of(future), "state") if watched == "its state" else missing,
        lambda: family.supervisor.recover_process(dead, death()),
    )
    family.runtime.fulfil(promise, 7)
    yield
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.READY
    assert words.get("queues", 0, "tail") >= 1


@scene(at_each_look=True)
def queues_a_claimed_task_again_while_a_worker_looks_at_the_queue(family, words):
    """Let a process that finds an entry to a task that is not ready take the entry out."""
    dead, future = one_that_has_died(family), family.call(family.service(same), 1)
    words.set_state(slot_of(future), words.tables.RUNNING, dead)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    yield words.place("queues", 0, "tail"), lambda: family.supervisor.recover_process(dead, death())
    if words.get("queues", 0, "tail") > 1 and words.get("slots", slot_of(future), "state") & 15 != words.tables.READY:
        words.set_entries(0, 1, [words.tables.SLOT_COUNT])
        words.set("queues", 0, "head", 2)
    yield
    assert words.get("queues", 0, "head") < words.get("queues", 0, "tail")


@scene(at_each_look=True)
def finds_a_free_slot_while_another_takes_it(family, words):
    """Start from a slot that the dead process had freed, whole."""
    dead, first = one_that_has_died(family), family.runtime.put(None)
    slot = slot_of(first)
    del first
    words.set_state(slot, words.tables.FREE, dead)
    taken, used = [], words.place("groups", slot // words.tables.GROUP_BITS, "group.used")
    yield used, lambda: family.supervisor.recover_process(dead, death())
    taken.append(family.runtime.put(7))
    assert slot_of(taken[0]) == slot
    yield
    family.check()
    assert taken[0].get(0) == 7


@scene(at_each_look=True)
def looks_at_a_task_s_inputs_while_its_slot_and_their_block_become_another_s(family, words):
    dead, promises = one_that_has_died(family), [family.runtime.promise() for _ in range(6)]
    future = family.call(family.service(same), promises)
    slot, block = slot_of(future), words.get("slots", slot_of(future), "dependencies")
    kept = []
    yield words.place("slots", slot_of(promises[0]), "state"), lambda: family.supervisor.recover_process(dead, death())
    for promise in promises:
        family.runtime.fulfil(promise, None, death())
    del future, promise
    kept.append(family.runtime.put(b"\xff" * 200))
    assert slot_of(kept[0]) == slot or words.get("slots", slot, "refs")
    assert words.get("slots", slot_of(kept[0]), "result") == block or words.get("slots", slot, "dependencies")
    yield
    assert kept[0].get(0) == b"\xff" * 200


@scene(at_each_look=True)
def finds_a_free_slot_while_its_new_owner_publishes_it(family, words):
    """Start from a slot that was the dead process's before."""
    dead, value = one_that_has_died(family), family.runtime.put(None)
    state, building = ("slots", slot_of(value), "state"), ("processes", words.tables.DRIVER_INDEX, "building")
    before = words.get(*state)
    words.set_state(slot_of(value), words.tables.FREE, dead)
    words.set(*building, slot_of(value) + 1)
    yield words.place(*state), lambda: family.supervisor.recover_process(dead, death())
    words.set(*state, before)
    words.set(*building, 0)
    yield
    assert value.get(0) is None


@scene()
def gives_a_dead_process_s_tokens_back_while_another_takes_one(family, words):
    dead, spinners = one_that_has_died(family), ("header", 0, "spinners")
    words.set("processes", dead, "spinning", 2)
    words.set(*spinners, 2)
    yield words.place(*spinners), lambda: family.supervisor.recover_process(dead, death())
    words.add(*spinners, 1)
    yield
    assert words.get(*spinners) == 1
    words.set(*spinners, 0)


# ---- sleepers, and the wake-ups they need ---------------------------------------------------------------------------


@scene("load", "leave", "close")
def tells_the_workers_what_to_do_while_one_goes_to_sleep(family, words, what):
    """Let the worker count itself among the sleepers, and look once more for something to do before it sleeps."""
    worker = family.runtime.request_process(POOL, 0)
    flag, act = {
        "load": (("header", 0, "warm_left"), lambda: family.runtime.add_service(b"", warmup=1)),
        "leave": (("processes", worker, "retiring"), lambda: family.supervisor.retire(worker)),
        "close": (("header", 0, "closing"), family.runtime.announce_close),
    }[what]
    sleepers = ("header", 0, "pool_sleepers")
    yield words.place("header", 0, "pool_wake"), lambda: act() and None
    if not words.get(*flag):
        words.add(*sleepers, 1)
    yield
    assert words.get(*flag)
    assert words.get(*sleepers) == 0
    words.set("processes", worker, "state", words.tables.PROCESS_FREE)


@scene()
def asks_for_an_instance_s_process_while_the_zygote_looks(family, words):
    service, _, queue = family.service(Log(), INSTANCE, ("note",))
    yield words.place("processes", 3, "state"), lambda: family.runtime.start_instance(service)
    is_called(family)
    was_asked = bool(asked_for(family))
    yield
    assert asked_for(family) == [3]
    assert was_asked or is_called(family)
    family.fork_requested()


def asked_for(family):
    return [entry.index for entry in family.supervisor.processes() if entry.state == REQUESTED]


def is_called(family):
    """Return whether the supervisor's bell has rung since the last look."""
    try:
        return os.eventfd_read(family.bell) > 0
    except BlockingIOError:
        return False


@scene(may_not_look=True)
def looks_whose_holds_there_are_while_another_takes_a_slot(family, words):
    """Start from a free slot that was the dead process's before. A recovery looks at the references first."""
    dead = one_that_has_died(family)
    first = family.runtime.put(None)
    slot = slot_of(first)
    del first
    words.set("slots", slot, "creator", dead)
    taken = []
    yield words.place("slots", slot, "creator"), lambda: family.supervisor.recover_process(dead, death())
    taken.append(family.runtime.promise())
    assert slot_of(taken[0]) == slot
    words.add("slots", slot, "refs", words.tables.REF_PENDING + 1)
    holds = words.get("slots", slot, "refs")
    yield
    assert words.get("slots", slot, "refs") == holds
    words.add("slots", slot, "refs", -words.tables.REF_PENDING - 1)
    family.runtime.fulfil(taken[0], 1)


@possible
@pytest.mark.parametrize("name", scene)
def test_what_another_does_meanwhile_is_neither_lost_nor_done_twice(nothing_left, name):
    between.play(scene[name])


# ---- a woken process finds what it is woken for ----------------------------------------------------------------------


@scene_of_a_call()
def asks_the_zygote_for_an_instance_s_process(family, words):
    service, _, _ = family.service(Log(), INSTANCE, ("note",))
    yield between.WRITE, lambda: family.runtime.start_instance(service)
    assert asked_for(family) == [3]
    yield
    family.fork_requested()


@scene_of_a_call()
def tells_an_instance_s_process_that_its_service_is_closed(family, words):
    """Check that a process that has read the count of wake-ups, and does not sleep yet, finds itself woken."""
    (service, generation, queue), instance = instance_whose_process_has_died(family)
    calls = words.get("queues", queue, "wake")
    yield between.FUTEX, lambda: family.runtime.close_service(service, generation)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_CLOSING
    assert words.get("queues", queue, "wake") == calls + 1
    yield
    family.supervisor.recover_process(instance, death())


@possible
@pytest.mark.parametrize("name", scene_of_a_call)
def test_a_woken_process_finds_what_it_is_woken_for(nothing_left, name):
    between.play_call(scene_of_a_call[name])


# ---- a supervisor's death within a recovery ----------------------------------------------------------------------------


@scene_of_a_death()
def queues_a_task_that_a_dead_process_had_claimed(family, words):
    dead, future = one_that_has_died(family), family.call(family.service(same), 1)
    words.set_state(slot_of(future), words.tables.RUNNING, dead)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    yield words.place("slots", slot_of(future), "state"), lambda: family.supervisor.recover_process(dead, death())
    family.supervisor.recover_process(dead, death())
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.READY
    assert words.get("queues", 0, "tail") > 1


@scene_of_a_death()
def lets_a_task_wait_again_whose_last_input_came_while_it_was_claimed(family, words):
    dead, promise = one_that_has_died(family), family.runtime.promise()
    future = family.call(family.service(same), promise)
    words.set_state(slot_of(future), words.tables.RUNNING, dead)
    family.runtime.fulfil(promise, 1)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.RUNNING
    yield words.place("slots", slot_of(future), "state"), lambda: family.supervisor.recover_process(dead, death())
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.READY
    assert words.get("queues", 0, "tail") >= 1


@scene_of_a_death()
def takes_an_extent(family, words):
    """Let the process die with the lock.

    The first recovery releases the lock, whether the recovery needs it itself or not.
    """
    yield words.place("header", 0, "lock_holder"), lambda: family.runtime.put(b"x" * 100_000)
    assert words.get("header", 0, "lock_holder") == 0
    assert family.in_use() == (0, 0)


@scene_of_a_death("services", "queues")
def makes_and_closes_a_service(family, words, table):
    def act():
        service, generation, _ = family.service(same, limit=1)
        family.runtime.close_service(service, generation)

    entry = (table, table == "queues", "state")
    yield words.place(*entry), act
    assert words.get(*entry) == 0
    assert family.in_use() == (0, 0)
    assert family.service(same, limit=1)[::2] == (0, 1)


@possible
@pytest.mark.parametrize("name", scene_of_a_death)
def test_what_a_death_right_after_a_change_leaves_is_recovered(nothing_left, name):
    between.play_deaths(scene_of_a_death[name])
