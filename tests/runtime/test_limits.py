"""Limits in the tables: what is due when, and a call whose process is being ended is finished by nobody else."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError

import pytest
from flame_fast.kernels.runtime import CallPolicy, Role
from gates import PATIENCE_S, Gate, hold, same, wait_until
from runtime_harness import Death
from words import Words, slot_of

HOUR = 3600


def refuse(_):
    raise KeyError("refused")


@pytest.fixture
def words(alone):
    return Words(alone.runtime)


def call_by(family, service, *args, **options):
    return family.target(service, 0, CallPolicy(**options))(*args)


# ---- the alarm -----------------------------------------------------------------------------------------------------------


def test_the_alarm_is_the_earliest_of_what_is_due(alone, words):
    service = alone.service(same)
    assert alone.supervisor.alarm == 0
    now = time.monotonic_ns()
    calls = [call_by(alone, service, 1, deadline=seconds) for seconds in (2 * HOUR, HOUR, 3 * HOUR)]
    assert now + HOUR * 1e9 <= alone.supervisor.alarm <= time.monotonic_ns() + HOUR * 1e9
    before = alone.supervisor.alarm
    assert alone.supervisor.due_calls() == []
    assert alone.supervisor.alarm == before
    calls[1].cancel()
    assert alone.supervisor.due_calls() == []
    assert alone.supervisor.alarm > now + 1.9 * HOUR * 1e9
    del calls
    assert alone.supervisor.due_calls() == []
    assert alone.supervisor.alarm == 0


def test_a_plain_call_sets_no_alarm(alone):
    calls = [alone.call(alone.service(same), 1), call_by(alone, alone.service(same), 1, detached=True)]
    alone.work()
    assert [call.get() for call in calls] == [1, 1]
    assert alone.supervisor.alarm == 0


def test_a_call_past_its_deadline_is_due_until_it_is_failed(alone):
    future = call_by(alone, alone.service(same), 1, deadline=1e-6)
    time.sleep(0.001)
    (due,) = alone.supervisor.due_calls()
    assert (due.slot, due.running, due.unwanted) == (slot_of(future), False, False)
    assert due.allowed == pytest.approx(1e-6)
    assert alone.supervisor.claim_due(due)
    alone.supervisor.fail_claimed(due, serialized(Death()))
    assert isinstance(future.exception(0), Death)
    assert not alone.supervisor.claim_due(due)
    alone.work()


def serialized(error):
    from flame_fast.kernels.runtime import serialization

    return serialization.dump_error(error)


def test_what_has_begun_meanwhile_is_not_failed(alone):
    future = call_by(alone, alone.service(same), 1, deadline=0.05)
    time.sleep(0.06)
    (due,) = alone.supervisor.due_calls()
    future.cancel()
    assert not alone.supervisor.claim_due(due)
    assert isinstance(future.exception(0), CancelledError)


def test_more_calls_than_one_look_finds_are_all_found(alone):
    service = alone.service(same)
    calls = [call_by(alone, service, number, deadline=1e-6) for number in range(1000)]
    time.sleep(0.001)
    looks = 0
    while due := alone.supervisor.due_calls():
        assert alone.supervisor.alarm or len(due) < 256
        for one in due:
            assert alone.supervisor.claim_due(one)
            alone.supervisor.fail_claimed(one, serialized(Death()))
        looks += 1
    assert looks == 4
    assert all(isinstance(call.exception(0), Death) for call in calls)


def test_a_pause_sets_the_alarm(family):
    errors = family.runtime.put((KeyError,))
    policy = CallPolicy(retries=1, errors=errors, backoff=HOUR)
    worker = family.fork_worker()
    future = family.target(family.service(refuse), 0, policy)(1)
    wait_until(lambda: family.runtime.statistics()["waiting"], "the pause")
    assert HOUR * 0.9e9 < wait_until(lambda: family.supervisor.alarm, "the alarm") - time.monotonic_ns() < HOUR * 1e9
    assert family.supervisor.due_calls() == []
    assert family.supervisor.alarm
    assert future.cancel()
    worker.kill()
    family.recover_process(worker)
    family.check()


def test_a_limit_holds_from_the_start_of_the_clock(alone, words):
    """A look between that and the mark that the call has begun finds it, too: nobody would set the alarm again."""
    future = call_by(alone, alone.service(same), 1, timeout=HOUR)
    worker = alone.runtime.request_process(Role.POOL, 0)
    slot, state = slot_of(future), words.get("slots", slot_of(future), "state")
    words.set_state(slot, words.tables.RUNNING, worker)
    words.set("policies", slot, "began", time.monotonic_ns())
    assert alone.supervisor.due_calls() == []
    assert HOUR * 0.9e9 < alone.supervisor.alarm - time.monotonic_ns() < HOUR * 1e9
    words.set("slots", slot, "state", state)
    words.set("processes", worker, "state", words.tables.PROCESS_FREE)
    alone.work()
    assert future.get(0) == 1


@pytest.mark.parametrize("status", ["READY", "WAITING"])
def test_a_call_that_was_tried_again_while_its_end_was_asked_for_is_due(alone, words, status):
    future = call_by(alone, alone.service(same), 1, retries=1, after_death=True, backoff=HOUR)
    slot = slot_of(future)
    words.set("slots", slot, "flags", words.get("slots", slot, "flags") | words.tables.CALL_UNWANTED)
    words.set("policies", slot, "not_before", time.monotonic_ns() + int(HOUR * 1e9))
    words.set_state(slot, getattr(words.tables, status), 0)
    (due,) = alone.supervisor.due_calls()
    assert (due.running, due.unwanted) == (False, True)
    assert alone.supervisor.claim_due(due)
    alone.supervisor.fail_claimed(due, b"N")
    assert future.cancelled()


# ---- ended by force ------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(family, nothing_left):
    """Fork a worker that stands in a call, at a gate."""
    with Gate() as gate:
        service = family.service(hold)
        worker = family.fork_worker()
        yield family, service, gate, worker


def condemned(family):
    """Return the call that is due, once the supervisor has kept its process from finishing it."""
    due = wait_until(family.supervisor.due_calls, "a call past its time")
    (call,) = due
    assert call.running
    assert family.supervisor.condemn(call)
    assert not family.supervisor.condemn(call)
    return call


def test_a_condemned_call_is_not_finished_by_its_worker(running):
    family, service, gate, worker = running
    future = call_by(family, service, gate, 5, timeout=0.01)
    behind = family.call(family.service(same), 1)
    gate.entered()
    call = condemned(family)
    assert call.process == worker.index
    gate.open()
    time.sleep(0.05)
    assert not future.done()
    assert not behind.done()
    worker.kill()
    family.recover_process(worker)
    assert isinstance(future.exception(0), Death)
    assert family.supervisor.due_calls() == []


def test_a_call_that_has_finished_is_not_condemned(running):
    family, service, gate, worker = running
    future = call_by(family, service, gate, 5, timeout=0.01)
    gate.entered()
    (due,) = wait_until(family.supervisor.due_calls, "a call past its time")
    gate.open()
    assert future.get(PATIENCE_S) == 5
    assert not family.supervisor.condemn(due)
    assert family.call(family.service(same), 1).get(PATIENCE_S) == 1
    worker.kill()
    family.recover_process(worker)


def test_a_condemned_call_that_raises_is_not_tried_again(running):
    family, _, gate, worker = running

    errors = family.runtime.put((LookupError,))
    policy = CallPolicy(timeout=0.01, retries=5, errors=errors)
    future = family.target(family.service(hold), 0, policy)(gate, LookupError("late"))
    gate.entered()
    condemned(family)
    gate.open()
    time.sleep(0.05)
    worker.kill()
    family.recover_process(worker)
    assert isinstance(future.exception(0), Death)


def test_a_retry_after_a_death(running):
    family, service, gate, worker = running
    future = call_by(family, service, gate, 5, retries=1, after_death=True)
    gate.entered()
    worker.kill()
    family.recover_process(worker)
    assert not future.done()
    gate.__exit__()
    second = family.fork_worker()
    gate.open()
    assert future.get(PATIENCE_S) == 5
    second.kill()
    family.recover_process(second)
    family.check()


def test_what_a_dead_process_had_begun(running):
    family, service, gate, worker = running
    future = family.call(service, gate, 5)
    gate.entered()
    worker.kill()
    assert worker.has_ended(PATIENCE_S)
    (call,) = family.supervisor.lost_calls(worker.index)
    assert (call.slot, call.by_force, call.unwanted, call.retried, call.attempts) == (
        slot_of(future),
        False,
        False,
        False,
        1,
    )
    assert 0 <= call.seconds < PATIENCE_S
    assert call.arguments
    family.recover_process(worker)
    assert family.supervisor.lost_calls(worker.index) == []


def test_the_inline_engine_has_no_spare(alone):
    service = alone.service(same)
    alone.runtime.keep_spare(*service[:2])
    assert alone.supervisor.spares == 0


def test_urgent_queues(family):
    service = family.service(same, limit=1)
    queue = family.runtime.make_urgent_queue(service[2])
    assert queue != service[2]
    assert family.runtime.make_urgent_queue(service[2]) == queue
    other = family.runtime.make_urgent_queue(0)
    assert other not in (queue, 0)
    family.runtime.close_service(*service[:2])
    family.runtime.reap_services()
    words = Words(family.runtime)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_FREE
    assert words.get("queues", service[2], "urgent") == 0
