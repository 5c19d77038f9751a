"""Dependencies and outcomes that a process left half done: the recovery, or the next caller, helps them to their end."""

from __future__ import annotations

import ctypes
import os
import time

import pytest
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, Log, same
from leftovers import finished_by, whole_slot
from runtime_harness import POOL, Death
from words import Words, slot_of

from flame_fast import StoreFullError
from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["dead_processes"]


# ---- tasks that a dead process had claimed ---------------------------------------------------------------------------


def recovered(family, note, value, error=None):
    """Recover a process that has ended and left a note in its entry."""
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
    """A dependency that failed notifies the task once more; without one the task goes on with its last dependency."""
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
    """In a tree of two or three levels: either the task then has all dependencies, or one of another word is missing."""
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


def test_a_process_that_clears_a_word_leaves_its_number(family):
    words, service = Words(family.runtime), family.service(same)
    promise = family.runtime.promise()
    future = family.call(service, promise)
    at = words.missing(slot_of(future))
    relative = family.fork(lambda: family.runtime.fulfil(promise, 7))
    assert family.recover_process(relative) == 0
    assert int.from_bytes(os.pread(words.fd, 8, at), "little") == 1 << 63 | relative.index << 48
    family.fork_worker()
    assert future.get(PATIENCE_S) == 7


def test_a_dependency_that_a_dead_process_had_cleared_counts_once(family, dead):
    """Another dependency is still missing."""
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


def test_a_task_that_a_supervisor_let_wait_again_before_its_death_runs_if_its_dependencies_are_there(family, dead):
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
    """One of the two tasks has the table's first slot."""
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


# ---- dependencies of waiting tasks -----------------------------------------------------------------------------------


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
    """Although the driver still holds the task's future."""
    service = alone.service(same)
    failing, late = alone.runtime.promise(), alone.runtime.promise()
    future = alone.call(service, [failing, late])
    alone.runtime.fulfil(failing, None, serialization.dump_error(LookupError("gone")))
    alone.runtime.fulfil(late, b"x" * 1000)
    del failing, late
    assert alone.in_use()[0] == 1
    assert isinstance(future.exception(0), LookupError)


def test_a_task_whose_submitter_died_among_its_inputs_lists_fails_and_lets_them_go(family, dead):
    """The task is on the first list, behind another's entry; not yet on the second; the third dependency finished before."""
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


# ---- tasks that a dead process was running or submitting -------------------------------------------------------------


def test_a_finished_task_whose_runner_died_releases_its_dependencies_and_wakes_its_watcher(family, dead):
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
    assert selector.select(0.001) == [0]
    assert future.get(0) is None
    assert family.in_use()[0] == 1
    family.check()


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


def test_a_task_of_a_dead_submitter_waits_for_the_finisher_that_walks_a_list(family, dead):
    """Each recovery waits twenty milliseconds. The task has failed by then; a later recovery releases its references."""
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


# ---- tasks that a recovery leaves alone ------------------------------------------------------------------------------


def test_a_task_that_a_living_process_is_submitting_is_left_alone(family, dead):
    """The slot was the dead process's before. Once published, the task is told of the dead process's outcome."""
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
    """So is an orphan that its dead submitter had put on the lists: a task like any other, though its future is gone."""
    words, promise = Words(family.runtime), family.runtime.promise()
    living, orphan = (family.detached(family.service(same), promise) for _ in range(2))
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


def test_no_finisher_is_waited_for_that_has_told_a_dead_submitter_s_task(family, dead):
    """The dependency has come, although the finisher has not released its reference."""
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


@pytest.mark.parametrize("family", [1 << 37], indirect=True)  # so many bytes that the segment has that place, too
def test_an_input_that_was_crossed_out_is_none(family, dead):
    """The bytes at the place of a slot of that number say that the dead process has finished it."""
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


def test_a_failed_task_that_stands_on_a_list_keeps_its_inputs_until_it_stands_on_none(family, dead):
    """The task's runner died before it had told all dependents."""
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


def test_a_task_on_the_list_of_an_outcome_is_told_though_its_finisher_died_before(family, dead):
    """The list is still open."""
    words, promise = Words(family.runtime), family.runtime.promise()
    future = family.call(family.service(same), promise)
    words.set("slots", slot_of(promise), "result_kind", words.tables.KIND_NATIVE)
    words.set_state(slot_of(promise), words.tables.DONE, dead.index)
    family.recover_process(dead)
    assert words.get("slots", slot_of(future), "state") & 15 == words.tables.READY
    assert words.get("slots", slot_of(promise), "refs") == words.tables.REF_CREATOR | 1
    family.check()
