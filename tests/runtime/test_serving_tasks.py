"""One task in a worker: its host, its state, its process, the arrays that it gets and returns.

Workers are forked relatives of the test's process, which plays driver and supervisor (zygote). So a task knows the
test's runtime: it looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import contextvars
import gc
import os
import sys
import threading
import weakref

import numpy as np
import pytest
from flame_fast.kernels.runtime import CallTarget, MapResults, serialization
from gates import PATIENCE_S, wait_until
from serving import (
    MB,
    Acting,
    Log,
    Recorder,
    acts,
    ask,
    current_slot,
    here,
    leave_partial,
    log_of_host,
    mark,
    marks,
    pid,
    same,
    serve_with,
)
from words import Words, slot_of

from flame_fast import FlameError
from flame_fast.engine.spec import CLASS, INSTANCE
from flame_fast.engine.task_host import Host

pytest_plugins = ["serving_family"]


def test_the_host_is_asked_when_another_function_is_to_be_called_than_before(kin):
    """The worker asks by service, generation and method; and again after a task has run inside a wait."""
    alike, other = kin.service(Log, CLASS, ("note", "pid")), kin.service(pid)
    outer, tell = kin.service(ask), kin.service(log_of_host)
    calls = [kin.call(alike, 1), kin.call(alike, 2), kin.call(alike, 3, method=1), kin.call(other), kin.call(other)]
    serve_with(kin, Recorder)
    kin.runtime.wait_many(calls, PATIENCE_S)
    calls = [kin.call(outer, other), kin.call(other), kin.call(outer, other), kin.call(outer, other)]
    kin.runtime.wait_many(calls, PATIENCE_S)
    kin.runtime.close_service(*other[:2])
    again = kin.service(same)
    assert again[0] == other[0]
    assert kin.call(again, 5).get(PATIENCE_S) == 5
    log = kin.call(tell).get(PATIENCE_S)
    of = {name: (*service[:2], 0) for name, service in {"alike": alike, "other": other, "outer": outer}.items()}
    asked = [of["outer"], "suspend", of["other"], "resume"]
    expected = [of["alike"], (*alike[:2], 1), of["other"], *asked, of["other"], *asked, *asked, (*again[:2], 0)]
    assert log[: len(expected)] == expected


def test_a_service_that_has_got_a_closed_one_s_entry_is_called_itself(kin):
    """The call is the next one after a call of the closed service."""
    first = kin.service(leave_partial)

    def replace():
        kin.runtime.close_service(*first[:2])
        second = kin.service(mark)
        assert second[::2] == first[::2]
        kin.detached(second, 3)

    acts[:] = [replace]
    future = kin.call(first, True)
    serve_with(kin, Acting)
    assert future.get(PATIENCE_S) == 0
    wait_until(lambda: marks[3], "the call of the second one")


class Broken:
    """A callable that fails where it is loaded."""

    def __reduce__(self):
        return fail_to_load, ()


def fail_to_load():
    raise LookupError("broken")


def test_the_host_is_asked_again_after_it_failed(kin):
    """The host had gone over to the service that it could not load."""
    fine, broken, tell = kin.service(same), kin.service(Broken()), kin.service(log_of_host)
    calls = [kin.call(fine, 1), kin.call(broken), kin.call(fine, 2), kin.call(tell)]
    serve_with(kin, Recorder)
    assert repr(calls[1].exception(PATIENCE_S)) == repr(LookupError("broken"))
    assert calls[2].get(PATIENCE_S) == 2
    asked = [(*service[:2], 0) for service in (fine, broken, fine, tell)]
    assert calls[3].get(PATIENCE_S) == asked


class Known:
    """An object that a weak reference can be made to."""

    def __call__(self):
        here.append(weakref.ref(self))


def test_what_ran_inline_goes_with_its_host(alone):
    alone.detached(alone.service(Known()))
    alone.work()
    assert here[0]() is not None
    alone.host = None
    gc.collect()
    assert here.pop()() is None


def test_a_worker_says_so_once_it_holds_an_object_with_a_state(kin, words):
    worker, counting = kin.fork_worker(), kin.service(Log, CLASS, ("note",))
    assert kin.call(kin.service(pid)).get(PATIENCE_S) == worker.pid
    assert words.get("processes", worker.index, "stateful") == 0
    assert kin.call(counting, 1).get(PATIENCE_S) == [1]
    assert words.get("processes", worker.index, "stateful") == 1


async def coroutine(value):
    return value


def generator(value):
    yield value


async def async_generator(value):
    yield value


@pytest.mark.parametrize("is_map", [False, True])
def test_a_coroutine_is_run_to_its_end_and_a_generator_is_refused(alone, is_map):
    def outcome(function):
        service = alone.service(function)
        if is_map:
            results = MapResults(alone.target(service), [3])
            alone.work()
            return next(results)
        future = alone.call(service, 3)
        alone.work()
        return future.get(0)

    assert outcome(coroutine) == 3
    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="generator"):
            outcome(function)


def test_a_process_that_a_task_forks_ends_with_the_task_and_gives_nothing_back(kin, words):
    """The child ends as at a script's end, or with the exception that the task raises there."""
    service, mapped, after = kin.service(fork_and_end), kin.service(fork_in_a_map), kin.service(pid)
    worker, before = kin.fork_worker(), kin.in_use()
    value = kin.runtime.put(np.arange(10_000.0))
    ends = [None, 0, SystemExit(3), LookupError("in the child")]
    of_a_map = MapResults(kin.target(mapped), [SystemExit(4), LookupError("in the child")])
    assert list(of_a_map) == [4, 1]
    futures = [kin.call(service, end, value) for end in ends]
    assert kin.runtime.get_many(futures, PATIENCE_S) == [0, 0, 3, 1]
    del futures, of_a_map
    assert kin.call(after).get(PATIENCE_S) == worker.pid
    del value
    kin.wait_until_in_use(before)


def fork_and_end(end, view=None):
    """Task: return how its child ended, which ends with the task."""
    child = os.fork()
    if child == 0:
        sys.excepthook = lambda *_: None
        if isinstance(end, BaseException):
            raise end
        return end
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_in_a_map(end):
    return fork_and_end(end)


def test_an_array_goes_on_to_the_next_task_as_it_is_only_as_the_input_that_it_is(kin):
    """Each task of a chain gets what the one before returned; a second dependency is another array."""
    service, both = kin.service(same), kin.service(total_of)
    kin.fork_worker()
    for _ in range(3):
        first, second = np.arange(10_000.0), np.arange(10_000.0) * 3
        chain = one = kin.call(service, first)
        for _ in range(5):
            chain = kin.call(service, chain)
        total = kin.call(both, chain, kin.runtime.put(second))
        np.testing.assert_array_equal(total.get(PATIENCE_S), first + second)
        np.testing.assert_array_equal(one.get(PATIENCE_S), first)
        np.testing.assert_array_equal(chain.get(PATIENCE_S), first)


def test_an_array_that_goes_on_stands_for_no_other_input(kin):
    """Neither for a dependency in the first slot, nor for one that has the array's slot later."""
    first, second = np.arange(10_000.0), np.arange(10_000.0) * 3
    place, service, both = kin.runtime.put(second), kin.service(same), kin.service(total_of)
    assert slot_of(place) == 0
    promise = kin.runtime.promise()
    one = kin.call(service, first)
    total, failing = kin.call(both, place, one), kin.call(both, promise, one)
    kin.fork_worker()
    np.testing.assert_array_equal(total.get(PATIENCE_S), first + second)
    assert failing is not None
    again = kin.call(service, first)
    failing = kin.call(both, promise, again)
    again.wait(PATIENCE_S)
    slot = slot_of(again)
    kin.runtime.fulfil(promise, None, serialization.dump_error(LookupError("gone")))
    del again, failing
    values = [kin.runtime.put(second) for _ in range(8)]
    (value,) = [value for value in values if slot_of(value) == slot]
    np.testing.assert_array_equal(kin.call(service, value).get(PATIENCE_S), second)


def total_of(one, two):
    one += 1  # its own
    return one + two - 1


def test_what_a_task_is_in_the_middle_of_is_told_while_it_runs_others(alone):
    """Inline: a task runs what is queued, but no call of an instance that it is itself a call of."""
    here[:] = [alone]
    words, log = Words(alone.runtime), alone.service(Nesting(), INSTANCE, ("nest", "note"))
    inner = alone.service(current_slot)
    future, later, other = alone.call(log, inner), alone.call(log, 5, method=1), alone.call(inner)
    alone.work()
    mine, inside, is_later_done, between, now = future.get(0)
    assert mine == now == slot_of(future)
    assert inside == between != mine
    assert not is_later_done
    assert later.get(0) == ["nested", 5]
    assert other.get(0) == slot_of(other)
    assert words.get("processes", words.tables.DRIVER_INDEX, "current") == 0
    here.clear()


class Nesting(list):
    def nest(self, inner):
        mine = current_slot()
        future, later = here[0].call(inner), here[0].call((*inner[:2], inner[2]))
        here[0].work()
        self.append("nested")
        return mine, future.get(0), len(self) > 1, slot_of(future), (later.get(0), current_slot())[1]

    def note(self, value):
        self.append(value)
        return list(self)


def test_what_one_queue_finishes_and_another_s_task_needs_runs_at_once(alone):
    """Inline: the pool's queue is looked at again when an instance's has run something."""
    log, service = alone.service(Log(), INSTANCE, ("note",)), alone.service(same)
    future = alone.call(service, alone.call(log, 1))
    alone.work()
    assert future.get(0) == [1]
    assert alone.runtime.inline
    assert alone.supervisor.processes() == []


def test_a_task_of_the_pool_s_queue_may_run_others_of_that_queue(alone):
    here[:] = [alone]
    inner = alone.service(current_slot)
    future = alone.call(alone.service(work_and_ask), inner)
    alone.work()
    mine, inside, now = future.get(0)
    assert mine == now == slot_of(future) != inside
    here.clear()


def work_and_ask(inner):
    mine, future = current_slot(), here[0].call(inner)
    here[0].work()
    return mine, future.get(0), current_slot()


def test_a_wait_that_cannot_end_is_refused_inline_too(alone):
    """Another thread has run the queued calls in the middle of the task."""
    here[:] = [alone]
    log = alone.service(Lonely(), INSTANCE, ("ask", "pid"))
    future, other = alone.call(log, log), alone.call(alone.service(pid))
    alone.work()
    error = future.exception(0)
    assert isinstance(error, FlameError) and error.message.startswith("deadlock: ")
    assert other.get(0) == os.getpid()
    here.clear()


class Lonely:
    def ask(self, itself):
        future = here[0].call(itself, method=1)
        thread = threading.Thread(target=here[0].work)
        thread.start()
        thread.join()
        return future.get()

    def pid(self):
        return os.getpid()


def test_an_instance_of_the_last_queue_is_served_as_well(alone):
    words = Words(alone.runtime)
    queues = range(words.tables.POOL_QUEUES, words.tables.QUEUE_COUNT - 1)
    for queue in queues:
        words.set("queues", queue, "state", words.tables.QUEUE_OPEN)
    log = alone.service(Log(), INSTANCE, ("note",))
    assert log[2] == words.tables.QUEUE_COUNT - 1
    future = alone.call(log, 1)
    alone.work()
    assert future.get(0) == [1]
    for queue in queues:
        words.set("queues", queue, "state", words.tables.QUEUE_FREE)


def test_nothing_is_kept_warm_where_no_process_would_give_it_back(alone):
    value = alone.runtime.put(b"x" * MB)
    del value
    assert alone.runtime.statistics()["cached_bytes"] == 0


def test_a_call_with_the_function_s_state_brings_it(alone):
    class Stateful(Host):
        def with_state(self, function, state):
            return lambda *args, **kwargs: (state, function(*args, **kwargs))

    target, host = CallTarget(), Stateful(alone.runtime)
    target.bind(alone.runtime, alone.service(same), 0, state=lambda: ("whole", 5))
    future = target(7)
    alone.runtime.run_queued(host)
    assert future.get(0) == (("whole", 5), 7)


def test_arrays_of_tasks_are_born_in_the_segment_wherever_that_was_asked_for(kin):
    """NumPy keeps its memory handler in the context: here in another one than the tasks'."""

    def life():
        contextvars.copy_context().run(kin.runtime.install_array_allocator)
        kin.runtime.serve(Host(kin.runtime))

    service = kin.service(make_array)
    kin.fork(life)
    assert kin.call(service, 100_000).get(PATIENCE_S)[-1] == 99_999.0
    assert kin.runtime.statistics()["copied_bytes"] < 100_000


def make_array(count):
    return np.arange(float(count))


def test_an_array_that_a_task_stores_and_then_writes_to_is_stored_as_it_was(kin):
    def life():
        kin.runtime.install_array_allocator()
        kin.runtime.serve(Host(kin.runtime))

    kin.fork(life)
    assert kin.call(kin.service(store_and_write)).get(PATIENCE_S) == [7.0, 8.0]


def store_and_write():
    array = np.full(100_000, 7.0)
    value = here[0].runtime.put(array)
    array += 1
    return [float(value.get()[5]), float(array[5])]
