"""Entries of the process table: reserved, used again, asked for, recovered twice; and the supervisor (zygote)'s own."""

from __future__ import annotations

import audit
import numpy as np
import pytest
from flame_fast.kernels.runtime import serialization
from gates import Log, same
from leftovers import pool, started
from runtime_harness import INSTANCE_ROLE, POOL, REQUESTED, Death, Family
from words import Words, slot_of

from flame_fast import FlameError
from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["dead_processes"]


# ---- entries that a dead process had reserved ------------------------------------------------------------------------


def test_a_process_that_a_dead_process_was_requesting_is_requested_if_its_queue_names_it(family, dead):
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


def test_what_a_dead_process_counted_is_counted_for_good_and_once(family, dead):
    """A supervisor that dies late in the recovery is followed by one that begins again."""
    words = Words(family.runtime)
    counters, index = audit.counters(), dead.index
    expected = family.runtime.statistics()
    for number, name in enumerate(counters, 1):
        words.set("processes", index, name, words.get("processes", index, name) + number)
        expected[name] += number
    family.recover_process(dead)
    assert family.runtime.statistics() == expected
    family.supervisor.recover_process(index, b"")
    assert family.runtime.statistics() == expected
    assert family.runtime.request_process(POOL, 0) == index
    assert family.runtime.statistics() == expected


# ---- entries used again ----------------------------------------------------------------------------------------------


def test_a_process_entry_used_again_has_nothing_of_its_former_process(family, dead):
    words = Words(family.runtime)
    index = dead.index
    family.recover_process(dead)
    names = [
        *("started_at", "wake", "waiters", "watching", "blocked", "spinning", "sleeping", "retiring", "stateful", "current"),
        *("building", "taking", "releasing_edge", "promoting", "rotating"),
    ]
    for name in names:
        words.set("processes", index, name, 1)
    assert family.runtime.request_process(INSTANCE_ROLE, 300) == index
    assert [name for name in names if words.get("processes", index, name)] == []
    assert (words.get("processes", index, "role"), words.get("processes", index, "queue")) == (INSTANCE_ROLE, 300)
    family.supervisor.start(index)
    assert family.supervisor.cancel_start(index)


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


# ---- what the supervisor is told -------------------------------------------------------------------------------------


def test_adopting_the_supervision_returns_the_supervisor_before(alone):
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


# ---- starts that are canceled ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role, queue_state, is_asked_for",
    [(4, "QUEUE_OPEN", True), (4, "QUEUE_CLOSING", True), (4, "QUEUE_DEAD", False), (POOL, "QUEUE_OPEN", False)],
)
def test_a_start_that_is_called_off_is_asked_for_again_only_for_an_instance_that_lives(
    family, role, queue_state, is_asked_for
):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    (index,) = [entry.index for entry in family.supervisor.processes()]
    call = family.call(family.service(same), 1)
    slot = slot_of(call)
    tokens = []
    for _ in range(2):
        tokens.append(family.supervisor.start(index, 0b101))
        (entry,) = family.supervisor.processes()
        assert (entry.index, entry.state, entry.role) == (index, words.tables.PROCESS_STARTING, INSTANCE_ROLE)
        assert (entry.queue, entry.pid, entry.blocked, entry.idle) == (log[2], tokens[-1], False, True)
        words.set("processes", index, "current", slot + 1)
        assert family.supervisor.processes()[0].idle, "that call is nobody's"
        words.set_state(slot, words.tables.RUNNING, index)
        assert not family.supervisor.processes()[0].idle
        words.set_state(slot, words.tables.READY, 0)
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


# ---- both ends of the tables, and repeated recoveries ----------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 2])
def test_entries_that_a_dead_process_had_are_found_at_both_ends(family, dead, number):
    """Both ends of the services, of the pool's queues, of the processes; a queue may be named by any service."""
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


def test_the_first_process_that_a_dead_process_was_requesting_is_found(family):
    words = Words(family.runtime)
    first, dead = (family.runtime.request_process(POOL, 0) for _ in range(2))
    assert first == 2
    family.supervisor.start(dead)
    words.set("processes", first, "state", words.tables.RESERVED + dead)
    family.supervisor.recover_process(dead, serialization.dump_error(Death()))
    assert words.get("processes", first, "state") == words.tables.PROCESS_FREE


def test_a_repeated_recovery_leaves_a_dead_instance_dead(family):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    for error in LookupError("first"), LookupError("second"):
        family.supervisor.recover_process(index, serialization.dump_error(error))
        assert words.get("queues", log[2], "state") == words.tables.QUEUE_DEAD
        assert repr(family.call(log, 1).exception(0)) == repr(LookupError("first"))
        family.check()


# ---- the supervisor's own recovery -----------------------------------------------------------------------------------


def test_a_supervisor_that_recovers_the_one_before_keeps_its_entry_and_leaves_that_one_s_groups(family):
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


# ---- waiters ---------------------------------------------------------------------------------------------------------


def test_a_waiter_is_told_that_nothing_runs_any_more():
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


# ---- instances and their processes -----------------------------------------------------------------------------------


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


def test_the_service_of_an_instance_s_process_is_its_own(family):
    services = [family.service(Log(), INSTANCE, ("note",), warmup=1) for _ in range(3)]
    for service in services:
        (index,) = [entry.index for entry in family.supervisor.processes() if entry.queue == service[2]]
        assert family.supervisor.current_service(index)[0] == service[0]
        family.supervisor.start(index)
        family.supervisor.recover_process(index, serialization.dump_error(Death()))
