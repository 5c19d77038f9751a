"""Helping: inside a wait a task runs what it waits for, in its own process, on its own stack.

Workers are forked relatives of the test's process, which plays driver and supervisor (zygote). So a task knows the
test's runtime: it looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import os
import sys
import threading

import pytest
from gates import PATIENCE_S, wait_until
from runtime_harness import POOL
from serving import (
    Asking,
    Log,
    ask,
    await_sleep,
    doors,
    here,
    mark,
    marks,
    permits,
    pid,
    same,
    serve_with,
    sleepers_now,
    stand,
)
from words import Words, slot_of

from flame_fast.engine.spec import CLASS, INSTANCE
from flame_fast.engine.task_host import Host

pytest_plugins = ["serving_family"]


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"limit": 1, "sticky": True}], ids=["free", "limited", "sticky"])
def test_a_task_runs_what_it_waits_for_in_its_own_process(kin, words, options):
    worker, inner, outer = kin.fork_worker(), kin.service(pid, **options), kin.service(ask)
    assert kin.call(outer, inner).get(PATIENCE_S) == (worker.pid, worker.pid)
    if options:
        assert permits(words, inner) == [worker.index] * ("sticky" in options)


def test_a_task_runs_what_its_call_depends_on_at_any_distance(kin):
    """With one worker no other process would. It is of the pool's queue, of a limited one, or there already."""
    worker, limited = kin.fork_worker(), kin.service(chained, limit=1)
    assert kin.call(kin.service(ask_a_chain), kin.service(chained), limited).get(PATIENCE_S) == [worker.pid] * 7
    wait_until(lambda: permits(Words(kin.runtime), limited) == [])


def chained(*below):
    return [pid for pids in below for pid in pids] + [os.getpid()]


def ask_a_chain(service, limited):
    call = here[0].call
    there = call(service)
    there.get()
    last = call(service, call(limited, call(service, there), call(service)), call(limited, call(service)))
    return last.get()


def test_a_task_looks_for_what_to_run_at_each_of_what_it_needs_once(kin, words):
    """A net of dependencies, with more ways through it than any search could go; what lies at its end is an instance's."""
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_a_net), log, kin.service(same))
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == instance.pid


def ask_a_net(log, service):
    first = second = here[0].call(log)
    for _ in range(30):
        first, second = here[0].call(service, first, second), here[0].call(service, second, first)
    return first.get()


def test_a_limited_task_keeps_its_permit_while_one_of_its_service_runs_inside_its_wait(kin, words):
    worker, service = kin.fork_worker(), kin.service(descend, limit=1)
    assert kin.call(service, service, 3).get(PATIENCE_S) == [[worker.index]] * 4
    await_sleep(words, worker)
    assert permits(words, service) == []


def descend(service, depth):
    """Task: return the processes with a permit at the end of each task, the innermost first."""
    below = here[0].call(service, service, depth - 1).get() if depth else []
    return [*below, permits(Words(here[0].runtime), service)]


def test_each_permit_acquired_inside_a_wait_is_released_at_the_end_of_that_task(kin, words):
    """A task: one service's task inside another's, both limited."""
    worker = kin.fork_worker()
    outer, middle, inner = kin.service(ask), kin.service(ask_and_look, limit=1), kin.service(pid, limit=1)
    assert kin.call(outer, middle, inner, middle).get(PATIENCE_S) == (worker.pid, ([], [worker.index]))
    await_sleep(words, worker)
    assert permits(words, inner) == permits(words, middle) == []


def ask_and_look(inner, middle):
    """Task: return the processes with permits of either service when the inner task is over."""
    here[0].call(inner).get()
    return tuple(permits(Words(here[0].runtime), service) for service in (inner, middle))


def test_what_ran_inside_a_wait_leaves_no_entry_and_wakes_no_sleeper(kin, words):
    """The entry is void by then, and the next look would take it."""
    kin.fork_worker()
    outer, inner = kin.service(ask_and_look_at_the_queue), kin.service(sleepers_now)
    assert kin.call(outer, inner).get(PATIENCE_S) == (0, 0, 3)
    words.set("header", 0, "pool_sleepers", 0)


def ask_and_look_at_the_queue(inner):
    """Task: return the sleepers before the inner call, the entries in the pool's queue after it, and the sleepers then."""
    before, words = here[0].call(inner, 3).get(), Words(here[0].runtime)
    entries = words.get("queues", 0, "tail") - words.get("queues", 0, "head")
    return before, entries, words.get("header", 0, "pool_sleepers")


def test_a_task_without_a_permit_for_what_it_waits_for_does_not_run_that(kin, words):
    holder, worker, limited = kin.runtime.request_process(POOL, 0), kin.fork_worker(), kin.service(mark, limit=1)
    words.set("queues", limited[2], "permits", [holder + 1])
    future = kin.call(kin.service(ask), limited, 1)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert marks[1] == 0
    words.set("queues", limited[2], "permits", [0])
    assert future.get(PATIENCE_S) == (worker.pid, worker.pid)
    kin.supervisor.start(holder)
    assert kin.supervisor.cancel_start(holder)


def test_a_worker_that_waits_for_a_permit_acquired_inside_a_wait_is_woken_when_it_is_free(kin, words):
    limited, outer = kin.service(stand, limit=1), kin.service(ask_and_stand)
    first = kin.fork_worker()
    future = kin.call(outer, limited, kin.service(mark))
    doors[0].entered()
    second = kin.fork_worker()
    await_sleep(words, second)
    doors[0].open()
    doors[1].entered()
    wait_until(lambda: marks[2] == 1, "the other call")
    doors[1].open()
    assert future.get(PATIENCE_S) == (first.pid, second.pid)


def ask_and_stand(limited, then):
    """Task: let another worker run the second call while this task stands at its own door."""
    one, two = here[0].call(limited, 0), here[0].call(limited)
    after = here[0].call(then, 2, two)
    found = one.get()
    doors[1].stand()
    after.get()
    return found, two.get()


@pytest.mark.parametrize("limit", [0, 1])
def test_a_task_inside_a_wait_is_not_begun_by_a_worker_that_lost_the_race_for_it(kin, words, limit):
    """Between the look at its state and the claim another worker has it. Its permit is free again."""
    limited, outer = kin.service(pid, limit=limit), kin.service(ask)
    worker = serve_with(kin, Late)
    future = kin.call(outer, limited)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert permits(words, limited) == []
    assert not future.done()
    words.set_state(queued_by(words, worker, limited), words.tables.READY, 0)
    assert future.get(PATIENCE_S) == (worker.pid, worker.pid)
    await_sleep(words, worker)
    assert permits(words, limited) == []


def queued_by(words, worker, service):
    """Return the slot of the one call of a service that a worker's task has made."""
    (slot,) = [slot for slot in words.slots_of(worker.index) if words.get("slots", slot, "service") == service[0]]
    return slot


def test_the_permit_for_a_task_that_was_lost_is_left_though_another_is_taken_for_the_next(kin, words):
    """One look for something to run finds the queued call first, and then a dependency of the awaited call."""
    lost, found, outer = kin.service(pid, limit=1), kin.service(pid, limit=1), kin.service(ask_for_an_input_and)
    worker = serve_with(kin, Late)
    future = kin.call(outer, kin.service(same), found, lost)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert permits(words, lost) == permits(words, found) == []
    words.set_state(queued_by(words, worker, lost), words.tables.READY, 0)
    assert future.get(PATIENCE_S) == [worker.pid] * 2


def test_no_sleeper_is_woken_for_a_permit_that_was_left_with_the_lost_task(kin, words):
    """Not even when the found call is over: of three sleepers one is woken, for the task that the call has made ready."""
    lost, found = kin.service(pid, limit=1), kin.service(sleepers_here)
    worker = serve_with(kin, Late)
    future = kin.call(kin.service(ask_for_an_input_and), found, found, lost)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    words.set_state(queued_by(words, worker, lost), words.tables.READY, 0)
    assert future.get(PATIENCE_S) == [2, worker.pid]


def sleepers_here(*below):
    """Task: return how many are said to sleep; from now on three, or none."""
    return sleepers_now(0 if below else 3)


def ask_for_an_input_and(after, found, lost):
    call = here[0].call
    return here[0].runtime.get_many([call(after, call(found)), call(lost)])


class Late(Host):
    """A host: when it is asked for the first time, the driver claims the task."""

    def may_help(self, service, generation):
        marks[1] += 1
        if marks[1] == 1:
            words = Words(self.source)
            (slot,) = [slot for slot in words.slots_of(self.source.index) if words.get("slots", slot, "service") == service]
            words.set_state(slot, words.tables.RUNNING, words.tables.DRIVER_INDEX)
        return super().may_help(service, generation)


class Caller:
    """A class whose methods call the class's own service."""

    def outer(self, service):
        return os.getpid(), here[0].call(service, method=1).get()

    def inner(self):
        return os.getpid()


def test_a_method_does_not_run_inside_another_one_of_the_same_object(kin, words):
    service, first = kin.service(Caller, CLASS, ("outer", "inner")), kin.fork_worker()
    future = kin.call(service, service)
    wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == (first.pid, second.pid)


@pytest.mark.parametrize("too_deep", [False, True])
def test_a_task_deep_in_its_stack_runs_nothing_more_on_it(kin, words, too_deep):
    first, inner = kin.fork_worker(), kin.service(pid)
    future = kin.call(kin.service(ask_with_frames), inner, too_deep)
    if too_deep:
        wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
        second = kin.fork_worker()
        assert future.get(PATIENCE_S) == (first.pid, second.pid)
    else:
        assert future.get(PATIENCE_S) == (first.pid, first.pid)


def ask_with_frames(inner, too_deep):
    """Task: wait with exactly half of the frames that Python allows, or one more."""
    frame, depth, limit = sys._getframe(), 0, sys.getrecursionlimit()
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    future = here[0].call(inner)
    sys.setrecursionlimit(2 * depth - too_deep)
    try:
        return os.getpid(), future.get()
    finally:
        sys.setrecursionlimit(limit)


def test_a_hundred_tasks_run_inside_each_other_s_waits_and_no_more(kin, words):
    first, service = kin.fork_worker(), kin.service(dig)
    future = kin.call(service, service, 102)
    wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
    assert marks[0] == 101
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == [second.pid] * 2 + [first.pid] * 101


def dig(service, depth):
    marks[0] += 1
    sys.setrecursionlimit(10_000)
    below = here[0].call(service, service, depth - 1).get() if depth else []
    return [*below, os.getpid()]


def test_a_task_that_waits_with_a_time_out_runs_nothing_meanwhile(kin):
    worker = kin.fork_worker()
    assert kin.call(kin.service(ask_in_time), kin.service(mark)).get(PATIENCE_S) == ("too late", 0, worker.pid)


def ask_in_time(service):
    future = here[0].call(service, 1)
    try:
        future.get(0.003)
    except TimeoutError:
        return "too late", marks[1], future.get()
    return None


def test_a_thread_of_a_task_runs_nothing_while_it_waits(kin, words):
    """The call would be another thread's task. The process counts as blocked all the same."""
    first, inner = kin.fork_worker(), kin.service(pid)
    future = kin.call(kin.service(ask_in_a_thread), inner)
    wait_until(lambda: words.get("processes", first.index, "blocked"), "its being blocked")
    assert words.get("slots", slot_of(future), "waits_for") == 0
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == [second.pid]
    assert not words.get("processes", first.index, "blocked")


def ask_in_a_thread(inner):
    found = []
    thread = threading.Thread(target=lambda: found.append(here[0].call(inner).get()))
    thread.start()
    thread.join()
    return found


def test_an_instance_s_method_runs_nothing_while_it_waits(kin, words):
    log, inner = kin.service(Asking(), INSTANCE, ("ask",), warmup=1), kin.service(pid)
    (instance,) = kin.fork_requested()
    future = kin.call(log, inner)
    wait_until(lambda: words.get("processes", instance.index, "waiters"), "its sleep")
    worker = kin.fork_worker()
    assert future.get(PATIENCE_S) == (instance.pid, worker.pid)
