"""What another process does while a worker looks for tasks, waits for one, or claims one is neither lost nor done twice."""

from __future__ import annotations

import ctypes

import between
import pytest
import stepping
from between import Scenes, death, one_that_has_died, possible
from gates import PATIENCE_S, Log, same, wait_until
from serving import Acting, acts, here, mark, marks
from words import Words, slot_of

from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host

scene, scene_of_a_death, scene_of_a_call = Scenes(), Scenes(), Scenes()


@pytest.fixture(autouse=True)
def clean():
    marks[:] = bytes(len(marks))
    yield
    for known in (here, acts):
        known.clear()


def leave():
    """Let this worker leave as soon as it has no task."""
    here[0].supervisor.retire(here[0].runtime.index)


def serve(family):
    here[:] = [family]
    family.runtime.serve(Acting(family.runtime))


def leave_at_once(family):
    """Tell a worker to leave: the worker goes to sleep like any other, and finds that it is not to."""

    def act():
        acts[:] = [leave]
        serve(family)

    return act


def look_once(family, words):
    """Let a worker look for tasks, be about to sleep, find that it is not to, and leave."""
    left = ("header", 0, "warm_left")

    def leave_now():
        words.add(*left, -1)
        leave()

    def act():
        acts[:] = [lambda: words.add(*left, 1), leave_now]  # more to be loaded ahead than it has seen
        serve(family)

    return act


@scene()
def loads_a_service_ahead_while_another_is_added(family, words):
    left = ("header", 0, "warm_left")
    family.service(same, warmup=1)

    def act():
        acts[:] = [leave]
        serve(family)

    yield words.place(*left), act
    family.service(same, warmup=1)
    yield
    assert words.get(*left) == words.get("services", 0, "warm_left") + words.get("services", 1, "warm_left")


# ---- its places ------------------------------------------------------------------------------------------------------


@scene()
def becomes_the_seeker_while_another_does(family, words):
    seeker, others = ("header", 0, "seeker"), words.tables.DRIVER_INDEX + 1
    words.set("header", 0, "pool_sleepers", 1)
    yield words.place(*seeker), look_once(family, words)
    if is_others := words.get(*seeker) == 0:
        words.set(*seeker, others)
    yield
    assert words.get(*seeker) == (others if is_others else 0)
    words.set(*seeker, 0)


@scene()
def becomes_a_spinner_while_another_does(family, words):
    """There is one place for a seeker."""
    spinners = ("header", 0, "spinners")
    yield words.place(*spinners), look_once(family, words)
    words.add(*spinners, 1)
    yield
    assert words.get(*spinners) == 1
    assert words.get("processes", 2, "spinning") == 0
    words.set(*spinners, 0)


@scene()
def begins_and_ends_to_spin_while_another_of_its_threads_does(family, words):
    spinning = ("processes", 2, "spinning")
    yield words.place(*spinning), look_once(family, words)
    words.add(*spinning, 1)
    yield
    assert words.get(*spinning) == 1
    words.set(*spinning, 0)


@scene()
def takes_itself_off_the_sleepers_while_it_is_called(family, words):
    calls, sleepers = ("header", 0, "pool_wake"), ("header", 0, "pool_sleepers")
    at, before = words.place(*calls)[0], words.get(*calls)
    yield (at, ctypes.c_uint64), leave_at_once(family)
    was_counted = words.get(*sleepers)
    family.runtime.add_service(b"", warmup=1)
    yield
    assert words.get(*calls) == before + was_counted
    assert words.get(*sleepers) == 0


# ---- a task inside a wait --------------------------------------------------------------------------------------------


@scene()
def claims_what_its_task_waits_for_while_another_runs_that(family, words):
    marks[1], inner = 0, family.service(mark)
    future = family.call(family.service(ask_once), inner)
    first = words.tables.GROUP_BITS  # the driver has the group of slots before
    yield words.place("slots", first, "state"), lambda: serve(family)
    was_queued = words.get("slots", first, "state") & 15 == words.tables.READY
    other = family.fork_worker()
    if was_queued:
        wait_until(lambda: words.get("slots", first, "state") & 15 == words.tables.DONE, "its end")
    yield
    assert future.get(0) == first
    assert marks[1] == 1
    family.supervisor.retire(other.index)
    assert family.recover_process(other) == 0


def ask_once(service):
    leave()
    future = here[0].call(service, 1)
    future.get()
    return slot_of(future)


# ---- which sleepers are woken ----------------------------------------------------------------------------------------


@scene("the pool", "an instance")
def wakes_all_while_another_does(family, words, whom):
    """Each wake-up is counted: a process that has read the count, and does not sleep yet, finds another one."""
    dead, (_, _, queue) = one_that_has_died(family), family.service(Log(), INSTANCE, ("note",))
    calls = ("header", 0, "pool_wake") if whom == "the pool" else ("queues", queue, "wake")
    before = words.get(*calls)
    yield words.place(*calls), lambda: family.supervisor.recover_process(dead, death())
    words.add(*calls, 1)
    yield
    assert words.get(*calls) == before + 2


@scene()
def tells_a_process_of_an_outcome_while_another_does(family, words):
    calls = ("processes", 2, "wake")

    def act():
        promise = family.runtime.promise()
        words.set("slots", slot_of(promise), "watched", 1)
        family.runtime.fulfil(promise, 1)

    yield words.place(*calls), act
    words.add(*calls, 1)
    yield
    assert words.get(*calls) == 2


# ---- a service that is closed ----------------------------------------------------------------------------------------


@scene(at_each_look=True)
def closes_a_service_while_a_call_that_was_being_made_is_published(family, words):
    """Or it is dropped: perhaps of another service, which no process can tell before."""
    service, generation, _ = family.service(same)
    building = ("processes", words.tables.DRIVER_INDEX, "building")
    words.set(*building, words.tables.SLOT_COUNT)
    yield words.place(*building), lambda: family.runtime.close_service(service, generation)
    words.set(*building, 0)
    yield
    assert words.get("services", service, "state") == words.tables.SERVICE_FREE


@possible
@pytest.mark.parametrize("name", scene)
def test_what_another_does_meanwhile_is_neither_lost_nor_done_twice(nothing_left, name):
    between.play(scene[name])


# ---- a woken process finds what it is woken for ----------------------------------------------------------------------


@scene_of_a_call()
def calls_the_pool_at_a_recovery_s_end(family, words):
    dead, calls = one_that_has_died(family), words.get("header", 0, "pool_wake")
    yield between.FUTEX, lambda: family.supervisor.recover_process(dead, death())
    assert words.get("header", 0, "pool_wake") == calls + 1
    yield


@possible
@pytest.mark.parametrize("name", scene_of_a_call)
def test_a_woken_process_finds_what_it_is_woken_for(nothing_left, name):
    between.play_call(scene_of_a_call[name])


@possible
def test_no_wake_up_is_sent_where_no_process_sleeps(family):
    """No system call is made: for a task of the pool, for an instance's, for an outcome that is watched."""
    words, service, log = Words(family.runtime), family.service(same), family.service(Log(), INSTANCE, ("note",))

    def life():
        stepping.be_traced()
        stepping.mark()
        futures = [family.call(service, 1), family.call(log, 1)]
        promise = family.runtime.promise()
        words.set("slots", slot_of(promise), "watched", 1)
        family.runtime.fulfil(promise, 1)
        stepping.mark()
        del futures

    relative = family.fork(life)
    stepping.await_mark(relative.pid)
    assert not between.runs_to_call(relative.pid, between.FUTEX)
    assert words.get("processes", relative.index, "wake") == 1
    stepping.ptrace(stepping.CONT, relative.pid)
    assert family.recover_process(relative) == 0
    family.fork_requested()
    family.fork_worker()
    family.wait_until_idle()


# ---- deaths ----------------------------------------------------------------------------------------------------------


@scene_of_a_death()
def becomes_the_seeker(family, words):
    """Its recovery gives the place back."""
    words.set("header", 0, "pool_sleepers", 1)
    yield words.place("header", 0, "seeker"), look_once(family, words)
    assert words.get("header", 0, "seeker") == 0
    words.set("header", 0, "warm_left", 0)


@scene_of_a_death("building", "taking")
def recovers_one_that_had_put_a_large_value_into_the_slot_that_it_filled(family, words, note):
    """Free the value with the slot, once."""
    dead, value = one_that_has_died(family), family.runtime.put(list(range(50_000)))
    slot = slot_of(value)
    words.set_state(slot, words.tables.FREE, dead)
    words.set("processes", dead, "building", slot + 1)
    words.set("processes", dead, "taking", words.get("slots", slot, "result"))
    yield words.place("processes", dead, note), lambda: family.supervisor.recover_process(dead, death())
    family.supervisor.recover_process(dead, death())
    assert family.in_use() == (0, 0)
    family.check()
    del value


@possible
@pytest.mark.parametrize("name", scene_of_a_death)
def test_what_a_death_right_after_a_change_leaves_is_recovered(nothing_left, name):
    between.play_deaths(scene_of_a_death[name])


# ---- a worker that is about to sleep ---------------------------------------------------------------------------------


@possible
def test_a_task_that_comes_right_before_a_worker_counts_itself_among_the_sleepers_runs(family):
    """No process wakes the worker for that task. The worker is no sleeper any more when it has found the task."""
    words, service = Words(family.runtime), family.service(mark_and_leave)
    here[:] = [family]
    sleeping = words.place("processes", 2, "sleeping")
    with between.stopped_at_change(family, words, sleeping, lambda: family.runtime.serve(Host(family.runtime))) as worker:
        future = family.call(service)
        assert words.get("header", 0, "pool_wake") == 0
    assert future.get(PATIENCE_S) == worker.pid
    assert family.recover_process(worker) == 0
    assert words.get("header", 0, "pool_sleepers") == 0


def mark_and_leave():
    leave()
    return mark(1)
