"""Slots at both ends of the table: a recovery finds what a dead process left there."""

from __future__ import annotations

import audit
import pytest
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, Log, same
from leftovers import finished_by, started
from runtime_harness import Death
from words import Words, slot_of

from flame_fast.engine.spec import INSTANCE

FREE, READY, DONE, FAILED = (audit.layout()[0][name] for name in ("FREE", "READY", "DONE", "FAILED"))

pytest_plugins = ["dead_processes"]


@pytest.fixture(params=[0, 61], ids=["first", "last"])
def end(request, family):
    """Yield a slot at an end of what is in use of the table; the next future will have it.

    All others are taken. One of those is a promise.
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
    """Prepare a slot by `prepare(words, slot)`, let a recovery run, and compare words of the slot."""

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


def leave(status=None, dead=None, **fields):
    """Return a function that writes words of a slot; references are added to those that are there."""

    def prepare(words, slot):
        for field, value in fields.items():
            words.set("slots", slot, field, value + (words.get("slots", slot, "refs") if field == "refs" else 0))
        if status is not None:
            words.set_state(slot, getattr(words.tables, status), dead.index)

    return prepare


def test_a_task_that_had_begun_is_found(family, dead, one_at_the_end):
    future = one_at_the_end(lambda: family.call(family.service(same), 1), leave("RUNNING", dead, started=1), state=FAILED)
    assert isinstance(future.exception(0), Death)


def test_an_outcome_that_was_published_is_found(family, dead, one_at_the_end):
    one_at_the_end(
        lambda: family.runtime.put(None), leave("DONE", dead, waiters=0, refs=0x40000000), waiters=1, refs=0x80000000
    )


def test_a_task_that_was_not_notified_is_found(family, dead, one_at_the_end):
    def prepare(words, _):
        finished_by(words, slot_of(family.promise), dead.index)

    one_at_the_end(lambda: family.call(family.service(same), family.promise), prepare, state=READY)


def test_a_slot_on_its_way_back_is_found(family, dead, one_at_the_end):
    one_at_the_end(lambda: family.runtime.put(b"x" * 1000), leave("LEAVING", dead, refs=-0x80000000), state=FREE, result=0)


@pytest.mark.parametrize("status", ["DONE", "FAILED"])
def test_a_slot_without_a_reference_is_found(family, dead, one_at_the_end, status):
    one_at_the_end(lambda: family.runtime.put(None), leave(status, dead, refs=-0x80000000), state=FREE)


def test_a_value_of_the_dead_process_is_found(family, dead, one_at_the_end):
    one_at_the_end(lambda: family.runtime.put(None), leave(creator=dead.index), state=FREE)


def test_a_pending_reference_is_found(family, dead, one_at_the_end):
    one_at_the_end(lambda: family.runtime.put(None), leave(creator=dead.index, refs=0x10000001), state=FREE, refs=0)


def test_a_reference_of_the_supervisor_before_is_found(family, one_at_the_end):
    def recover_process():
        family.supervisor.recover_process(family.runtime.index, serialization.dump_error(Death()))

    one_at_the_end(lambda: family.runtime.put(None), leave(refs=0x08000000), recover_process, refs=0x80000000)


def test_the_place_of_a_block_is_found(family, dead, one_at_the_end):
    def prepare(words, slot):
        words.set("processes", dead.index, "taking", words.get("slots", slot, "result"))

    value = one_at_the_end(lambda: family.runtime.put(b"x" * 1000), prepare, state=DONE)
    assert value.get() == b"x" * 1000


def test_a_call_in_the_queue_of_a_dead_instance_is_found_and_no_other_call(family, dead, one_at_the_end):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    others = []

    def recover_process():
        family.taken[40] = None
        others.append(family.call(family.service(same), 1))
        family.supervisor.recover_process(index, serialization.dump_error(Death()))

    future = one_at_the_end(lambda: family.call(log, 1), leave(), recover_process, state=FAILED)
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
