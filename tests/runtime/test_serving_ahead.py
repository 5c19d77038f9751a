"""Warm-up: which services a worker loads before their first call.

Workers are forked relatives of the test's process, which plays driver and supervisor (zygote). So a task knows the
test's runtime: it looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import os

import pytest
from gates import PATIENCE_S, wait_until
from runtime_harness import POOL
from serving import Acting, Recorder, acts, await_sleep, doors, log_of_host, marks, permits, pid, serve_with

from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["serving_family"]


class Telling:
    """A callable that leaves a mark where it is loaded."""

    def __init__(self, number):
        self.number = number

    def __setstate__(self, state):
        marks[state["number"]] += 1
        vars(self).update(state)

    def __call__(self):
        return os.getpid()


def test_an_instance_s_process_loads_its_own_service_before_the_first_call(kin, words):
    """The process loads nothing else: no other instance, no closed service, none that the pool shall load ahead."""
    services = [kin.service(Telling(1), INSTANCE, ("__call__",))]
    kin.service(Telling(4), warmup=1)
    services += [kin.service(Telling(number), INSTANCE, ("__call__",)) for number in (3, 2)]
    services.append(services.pop(1))
    for service in services[:2]:
        kin.runtime.start_instance(service[0])
    words.set("services", services[2][0], "queue", services[1][2])
    words.set("services", services[2][0], "state", words.tables.SERVICE_CLOSING)
    instances = kin.fork_requested()
    wait_until(lambda: all(words.get("queues", service[2], "sleepers") for service in services[:2]), "their sleep")
    assert list(marks[1:5]) == [1, 1, 0, 0]
    words.set("services", services[2][0], "queue", services[2][2])
    words.set("services", services[2][0], "state", words.tables.SERVICE_OPEN)
    assert {kin.call(service).get(PATIENCE_S) for service in services[:2]} == {one.pid for one in instances}


def test_a_worker_loads_a_service_ahead_once_and_others_load_it_as_well(kin, words):
    service, _ = kin.service(Telling(1), warmup=3), kin.service(Telling(3))
    for count in (1, 2):
        worker = kin.fork_worker()
        await_sleep(words, worker)
        assert (marks[1], marks[3]) == (count, 0)
        assert words.get("services", service[0], "warm_left") == words.get("header", 0, "warm_left") == 3 - count
    kin.runtime.close_service(*service[:2])
    again = kin.service(Telling(2), warmup=2)
    assert again[0] == service[0]
    wait_until(lambda: marks[2] == 2, "the loading of the next one in its entry")
    wait_until(lambda: words.get("header", 0, "warm_left") == 0)


def test_a_service_that_comes_when_a_worker_is_about_to_wait_is_loaded_ahead(kin):
    acts[:] = [lambda: kin.service(Telling(1), warmup=1)]
    serve_with(kin, Acting)
    wait_until(lambda: marks[1], "its loading")


def test_a_service_that_is_still_being_made_is_not_loaded_ahead(kin, words):
    """By words: its maker has written how many workers shall load it, and not opened it yet."""
    service, _, _ = kin.service(Telling(1), warmup=1)
    words.set("services", service, "state", words.tables.RESERVED)
    worker = kin.fork_worker()
    await_sleep(words, worker)
    assert words.get("services", service, "warm_left") == words.get("header", 0, "warm_left") == 1
    words.set("services", service, "state", words.tables.SERVICE_OPEN)
    assert kin.call(kin.service(pid)).get(PATIENCE_S) == worker.pid
    wait_until(lambda: marks[1], "its loading")


def test_no_sleeper_is_woken_when_a_free_service_has_been_loaded_ahead(kin, words):
    kin.service(Telling(1), warmup=1)
    words.set("header", 0, "pool_sleepers", 1)
    kin.fork_worker()
    wait_until(lambda: words.get("header", 0, "pool_sleepers") == 2, "the worker's sleep, and no wake-up")
    assert marks[1] == 1


def test_a_worker_loads_all_that_is_to_be_loaded_ahead(kin):
    """The worker loads one after the other before it sleeps; it asks the host again for what it called before."""
    for number in (1, 2, 3):
        kin.service(Telling(number), warmup=1)
    other, tell = kin.service(pid), kin.service(log_of_host)
    worker = serve_with(kin, Recorder)
    wait_until(lambda: list(marks[1:4]) == [1, 1, 1], "their loading")
    assert kin.call(other).get(PATIENCE_S) == worker.pid
    kin.service(Telling(4), warmup=1)
    wait_until(lambda: marks[4] == 1, "its loading")
    assert kin.call(other).get(PATIENCE_S) == worker.pid
    assert kin.call(tell).get(PATIENCE_S)[:2] == [(*other[:2], 0)] * 2


@pytest.mark.parametrize("sticky", [False, True])
def test_a_limited_service_is_loaded_ahead_by_a_worker_with_a_permit(kin, words, sticky):
    """A worker without one leaves it, and loads it when there is one."""
    holder = kin.runtime.request_process(POOL, 0)
    limited = kin.service(Telling(1), limit=1, sticky=sticky, warmup=1)
    words.set("queues", limited[2], "permits", [holder + 1])
    free = kin.service(Telling(2), warmup=1)
    worker = kin.fork_worker()
    await_sleep(words, worker)
    assert list(marks[1:3]) == [0, 1]
    assert permits(words, limited) == [holder]
    words.set("queues", limited[2], "permits", [0])
    assert kin.call(free).get(PATIENCE_S) == worker.pid
    wait_until(lambda: marks[1] == 1, "its loading")
    await_sleep(words, worker)
    assert permits(words, limited) == [worker.index] * sticky
    kin.supervisor.start(holder)
    assert kin.supervisor.cancel_start(holder)


def test_a_worker_that_waits_for_a_permit_is_woken_when_a_service_has_been_loaded_ahead(kin, words):
    """The worker that had the permit for the load wakes it, before it runs a call itself."""
    first = kin.fork_worker()
    limited = kin.service(Slow(), limit=1, warmup=1)
    doors[0].entered()
    future = kin.call(limited)
    second = kin.fork_worker()
    await_sleep(words, second)
    calls = words.get("header", 0, "pool_wake")
    doors[0].open()
    assert future.get(PATIENCE_S) in (first.pid, second.pid)
    assert words.get("header", 0, "pool_wake") > calls


class Slow:
    """A callable that stands at a door where it is loaded for the first time."""

    def __reduce__(self):
        return load_slowly, ()

    def __call__(self):
        return os.getpid()


def load_slowly():
    marks[1] += 1
    if marks[1] == 1:
        doors[0].stand()
    return Slow()
