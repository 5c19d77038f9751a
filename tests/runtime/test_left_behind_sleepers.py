"""Sleepers, spinners and the seeker: the processes that are woken for a task, and the counts that a dead process leaves."""

from __future__ import annotations

import os
import signal
import time

import pytest
from actors import is_asleep
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, Log, same, wait_until
from leftovers import pool
from runtime_harness import POOL, Death
from words import Words

from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host

pytest_plugins = ["dead_processes"]


# ---- spinners and the seeker -----------------------------------------------------------------------------------------


def test_a_spinner_s_token_and_the_seeker_s_place_come_back(family, dead):
    words = Words(family.runtime)
    words.set("processes", dead.index, "spinning", 2)
    words.set("header", 0, "spinners", 2)
    words.set("header", 0, "seeker", dead.index + 1)
    family.recover_process(dead)
    assert (words.get("header", 0, "spinners"), words.get("header", 0, "seeker")) == (0, 0)


def test_another_process_s_place_as_the_seeker_stays(family, dead):
    words = Words(family.runtime)
    words.set("header", 0, "seeker", dead.index + 2)
    family.recover_process(dead)
    assert words.get("header", 0, "seeker") == dead.index + 2
    words.set("header", 0, "seeker", 0)


# ---- sleepers that are woken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit, called", [(0, 1), (1, 3)])
def test_one_sleeper_is_called_for_a_task_and_all_for_one_of_a_limited_service(alone, limit, called):
    words, service = Words(alone.runtime), alone.service(same, limit=limit)
    words.set("header", 0, "pool_sleepers", 3)
    calls = pool(words)[1]
    future = alone.call(service, 1)
    assert pool(words) == (3 - called, calls + called)
    alone.work()
    assert future.get(0) == 1
    words.set("header", 0, "pool_sleepers", 0)
    future = alone.call(service, 1)
    assert pool(words) == (0, calls + called)
    alone.work()


@pytest.mark.parametrize("seeker, ago_ns, called", [(1, -(10**10), 0), (1, 10**9, 1), (0, -(10**10), 1)])
def test_no_sleeper_is_woken_for_a_task_that_a_seeker_finds_unless_it_has_not_looked_for_long(alone, seeker, ago_ns, called):
    words, service = Words(alone.runtime), alone.service(same)
    words.set("header", 0, "pool_sleepers", 3)
    words.set("header", 0, "seeker", seeker)
    words.set("header", 0, "sought_ns", time.monotonic_ns() - ago_ns)
    alone.call(service, 1)
    assert pool(words)[0] == 3 - called
    words.set("header", 0, "seeker", 0)
    words.set("header", 0, "pool_sleepers", 0)
    alone.work()


def test_a_sleeper_is_called_for_each_task_that_lies_there_when_a_waiter_looks_around(family):
    words, service, limited = Words(family.runtime), family.service(same), family.service(same, limit=1)
    futures = [family.call(service, 1), family.call(service, 2), family.call(limited, 3)]
    for sleepers, left in (5, 2), (2, 0), (0, 0):
        words.set("header", 0, "pool_sleepers", sleepers)
        calls = pool(words)[1]

        def has_looked(left=left):  # if it came to look before its time was up
            with pytest.raises(TimeoutError):
                futures[0].wait(0.001)
            return pool(words)[0] == left

        wait_until(has_looked)
        assert pool(words) == (left, calls + sleepers - left)
    family.fork_worker()
    assert family.runtime.get_many(futures, PATIENCE_S) == [1, 2, 3]


def test_all_sleepers_of_all_queues_are_woken_after_a_recovery(family, dead):
    """Even a sleeper that the dead process had taken off the count and not woken."""
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",))
    words.set("header", 0, "pool_sleepers", 3)
    calls, queue_calls = pool(words)[1], words.get("queues", log[2], "wake")
    family.recover_process(dead)
    assert pool(words) == (0, calls + 4)
    assert words.get("queues", log[2], "wake") == queue_calls + 1


def test_an_instance_s_process_is_woken_for_its_calls_and_no_worker_of_the_pool(alone):
    """The queue is the first of the instances' queues, or a later one."""
    words, services = Words(alone.runtime), [alone.service(Log(), INSTANCE, ("note",)) for _ in range(2)]
    for _, _, queue in services:
        words.set("header", 0, "pool_sleepers", 3)
        words.set("queues", queue, "sleepers", 2)
        alone.call(services.pop(0), 1)
        assert (words.get("queues", queue, "sleepers"), words.get("queues", queue, "wake")) == (1, 1)
        assert pool(words) == (3, 0)
    words.set("header", 0, "pool_sleepers", 0)
    alone.work()


def test_all_sleepers_are_woken_after_a_recovery_and_no_free_queue_s(family, dead):
    """The process that had taken them off the count died before it woke them. The last queue counts like the first."""
    words, service = Words(family.runtime), family.service(same)
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    last = words.tables.QUEUE_COUNT - 1
    words.set("header", 0, "instance_queue_high", words.tables.QUEUE_COUNT)
    words.set("queues", last, "state", words.tables.QUEUE_OPEN)
    for sleeper in [family.fork_worker(), *family.fork_requested()]:
        wait_until(lambda index=sleeper.index: sleeps(words, index))
    words.set("header", 0, "pool_sleepers", 0)
    words.set("queues", log[2], "sleepers", 0)
    futures = [family.call(service, 1), family.call(log, 2)]
    family.recover_process(dead)
    assert family.runtime.get_many(futures, PATIENCE_S) == [1, [2]]
    assert [words.get("queues", queue, "wake") for queue in (last, last - 1)] == [1, 0]
    words.set("queues", last, "state", words.tables.QUEUE_FREE)


def sleeps(words, index):
    """Return whether a process says that it sleeps, and is in the futex of idle processes."""
    return words.get("processes", index, "sleeping") and is_asleep(words.get("processes", index, "pid"))


class Idler:
    """An idle worker that a signal wakes without a wake-up: it looks around, and sleeps again."""

    def __init__(self, family):
        self.words = Words(family.runtime)
        self.roused = os.eventfd(0)

        def live():
            signal.signal(signal.SIGUSR1, lambda *_: os.eventfd_write(self.roused, 1))
            family.runtime.serve(Host(family.runtime))

        self.worker = family.fork(live)
        self.await_sleep()

    def await_sleep(self):
        wait_until(lambda: sleeps(self.words, self.worker.index))

    def rouse(self):
        os.kill(self.worker.pid, signal.SIGUSR1)
        os.eventfd_read(self.roused)
        self.await_sleep()


@pytest.fixture
def idler(family):
    made = Idler(family)
    yield made
    os.close(made.roused)


def test_a_sleeper_that_wakes_by_itself_is_counted_once(idler):
    before = pool(idler.words)
    assert before[0] == 1
    for _ in range(3):
        idler.rouse()
        assert pool(idler.words) == before


def test_a_sleeper_that_was_woken_meanwhile_is_off_the_count_already(idler):
    """The process that did so died before the wake-up came through."""
    idler.words.set("header", 0, "pool_sleepers", 0)
    idler.words.add("header", 0, "pool_wake", 1)
    before = pool(idler.words)
    idler.rouse()
    assert pool(idler.words) == (1, before[1])


@pytest.fixture
def queued(family, idler):
    """Two calls that the idle worker may not run: another process has the permit."""
    service = family.service(same, limit=1)
    holder = family.runtime.request_process(POOL, 0)
    idler.words.set("queues", service[2], "permits", [holder + 1])
    futures = [family.call(service, number) for number in range(2)]
    idler.await_sleep()
    idler.words.set("header", 0, "sought_ns", 0)
    yield service
    idler.words.set("queues", service[2], "permits", [0])
    idler.words.set("header", 0, "pool_sleepers", 1)
    idler.rouse()
    assert family.runtime.get_many(futures, PATIENCE_S) == [0, 1]
    family.supervisor.start(holder)
    assert family.supervisor.cancel_start(holder)


def test_a_worker_seeks_while_others_sleep_and_calls_as_many_as_there_are_tasks_when_it_stops(idler, queued):
    words, before = idler.words, time.monotonic_ns()
    words.set("header", 0, "pool_sleepers", 6)
    calls = pool(words)[1]
    idler.rouse()
    assert pool(words) == (6 - 2, calls + 2)  # it is one of them again
    assert words.get("header", 0, "sought_ns") >= before
    assert words.get("header", 0, "seeker") == 0


def test_no_worker_seeks_beside_another_seeker(idler, queued):
    words = idler.words
    words.set("header", 0, "pool_sleepers", 6)
    words.set("header", 0, "seeker", idler.worker.index + 2)
    before = pool(words)
    idler.rouse()
    assert pool(words) == before
    assert words.get("header", 0, "seeker") == idler.worker.index + 2
    assert words.get("header", 0, "sought_ns") == 0
    words.set("header", 0, "seeker", 0)


def test_no_worker_seeks_while_no_other_sleeps(idler, queued):
    idler.rouse()
    assert idler.words.get("header", 0, "sought_ns") == 0


def test_a_waiter_is_told_in_the_log_and_by_the_futex(alone):
    """The log has the slots in the order in which they finish, through more than one round."""
    words = Words(alone.runtime)
    driver = words.tables.DRIVER_INDEX
    for _ in range(words.tables.LOG_COUNT // 3 + 2):
        promises = [alone.runtime.promise() for _ in range(3)]
        selector = alone.runtime.selector(promises)
        calls = words.get("processes", driver, "wake")
        for number in (2, 0, 1):
            alone.runtime.fulfil(promises[number], None)
            assert selector.select(0) == [number]
        assert words.get("processes", driver, "wake") == calls + 3


def test_a_wait_without_a_processor_to_spare_takes_no_token(alone):
    promise = alone.runtime.promise()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            promise.wait(0.001)
        alone.check()
    alone.runtime.fulfil(promise, None)


# ---- repeated recoveries ---------------------------------------------------------------------------------------------


def test_tokens_of_a_dead_process_come_back_once(family, dead):
    words = Words(family.runtime)
    words.set("processes", dead.index, "spinning", 2)
    words.set("header", 0, "spinners", 5)
    family.recover_process(dead)
    family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
    assert words.get("header", 0, "spinners") == 3
    words.set("header", 0, "spinners", 0)
