"""A process that sleeps is woken: waiters by outcomes, idle workers and instances by what there is to do.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import os
import threading
import time

import pytest
from actors import error_of, is_asleep, let_others
from gates import PATIENCE_S, Log, same, wait_until
from words import Words

from flame_fast.engine.spec import INSTANCE

#: A lost wake-up costs a look of 250 ms, or a minute: the shortest of several waits is below this only if none is lost.
PROMPT_S = 0.2
WAITS = 5


def once_asleep(pid, value=None):
    """Task: end when a process sleeps, with a value or an error."""
    wait_until(lambda: is_asleep(pid), "its sleep")
    if isinstance(value, Exception):
        raise value
    return value


def shortest(wait):
    """Return the seconds that the shortest of some waits takes, each begun anew."""
    return min(timed(wait) for _ in range(WAITS))


def timed(wait):
    begin = time.monotonic()
    wait()
    return time.monotonic() - begin


# ---- sleepers are woken ----------------------------------------------------------------------------------------------


def test_a_thread_that_waits_for_a_call_is_woken_when_it_ends(family):
    family.fork_worker()
    service = family.service(once_asleep)
    assert shortest(lambda: family.call(service, os.getpid()).get(PATIENCE_S)) < PROMPT_S


def test_a_thread_that_waits_for_many_calls_is_woken_by_the_last(family):
    family.fork_worker()
    service, quick = family.service(once_asleep), family.service(same)

    def wait():
        futures = [family.call(quick, 1), family.call(quick, 2), family.call(service, os.getpid(), 3)]
        assert family.runtime.get_many(futures, PATIENCE_S) == [1, 2, 3]

    assert shortest(wait) < PROMPT_S


def test_a_thread_that_waits_for_many_calls_is_woken_by_a_failure_among_them(family):
    """The driver does not wait for the calls behind it."""
    family.fork_worker()
    service = family.service(once_asleep)

    def wait():
        never = family.runtime.promise()
        failing = family.call(service, os.getpid(), LookupError("gone"))
        with pytest.raises(LookupError, match="gone"):
            family.runtime.get_many([failing, never], PATIENCE_S)
        family.runtime.fulfil(never, None)

    assert shortest(wait) < PROMPT_S


def test_a_selecting_thread_is_woken_by_any_and_told_which(family):
    family.fork_worker()
    service = family.service(once_asleep)

    def wait():
        never = family.runtime.promise()
        future = family.call(service, os.getpid())
        selector = family.runtime.selector([never, future, never])
        assert selector.select(PATIENCE_S) == [1]
        family.runtime.fulfil(never, None)
        assert selector.select(PATIENCE_S) == [0, 2]

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_for_a_task(family):
    worker = family.fork_worker()
    service = family.service(same)

    def wait():
        wait_until(lambda: is_asleep(worker.pid))
        assert family.call(service, 1).get(PATIENCE_S) == 1

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_for_a_task_of_a_limited_service(family):
    """It is not known which of the idle workers has the permit: all are woken."""
    workers = [family.fork_worker(), family.fork_worker()]
    service = family.service(same, limit=1)

    def wait():
        wait_until(lambda: all(is_asleep(worker.pid) for worker in workers))
        assert family.call(service, 1).get(PATIENCE_S) == 1

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_for_a_task_whose_input_has_come(family):
    worker = family.fork_worker()
    service = family.service(same)

    def wait():
        promise = family.runtime.promise()
        future = family.call(service, promise)
        wait_until(lambda: is_asleep(worker.pid))
        family.runtime.fulfil(promise, 7)
        assert future.get(PATIENCE_S) == 7

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_to_load_a_service_ahead(family, tmp_path):
    worker = family.fork_worker()
    wait_until(lambda: is_asleep(worker.pid))
    family.service(Telling(str(tmp_path / "loaded")), warmup=1)
    wait_until((tmp_path / "loaded").exists, "its loading")


class Telling:
    """A callable that leaves a file behind where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        open(state["path"], "w").close()

    def __call__(self):
        return None


def test_an_idle_worker_that_is_retired_leaves(family):
    worker = family.fork_worker()
    wait_until(lambda: is_asleep(worker.pid))
    family.supervisor.retire(worker.index)
    assert worker.has_ended(PATIENCE_S)
    assert family.recover_process(worker) == 0


def test_an_idle_instance_is_called_for_its_next_call(family):
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    for number in range(1, 4):
        wait_until(lambda: is_asleep(instance.pid))
        assert len(family.call(log, number).get(PATIENCE_S)) == number


def test_an_idle_instance_goes_on_when_the_call_it_waited_for_fails_by_its_input(family):
    """Nothing is left before the second call then; only the process that passes the failure on knows."""
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    promise = family.runtime.promise()
    first, second = family.call(log, promise), family.call(log, "second")
    wait_until(lambda: is_asleep(instance.pid))
    family.runtime.fulfil(promise, None, error_of("gone"))
    assert isinstance(first.exception(0), LookupError)
    assert second.get(PATIENCE_S) == ["second"]


def test_an_idle_instance_ends_when_its_service_is_closed(family):
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    wait_until(lambda: is_asleep(instance.pid))
    family.runtime.close_service(*log[:2])
    assert instance.has_ended(PATIENCE_S)
    assert family.recover_process(instance) == 0
    assert family.service(Log(), INSTANCE, ("note",))[2] == log[2]


# ---- counts of waiters -----------------------------------------------------------------------------------------------


def test_threads_that_wait_at_once_are_each_counted(family):
    """Together with a worker on one processor: a thread that yields in the middle of counting lets another count."""
    words, service = Words(family.runtime), family.service(let_others)
    words.set("header", 0, "cpus", 8)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        family.fork_worker()

        def wait():
            for number in range(40):
                assert family.call(service, number).get(PATIENCE_S) == number

        threads = [threading.Thread(target=wait) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.sched_setaffinity(0, before)
    assert words.get("processes", words.tables.DRIVER_INDEX, "waiters") == 0
    assert words.get("processes", words.tables.DRIVER_INDEX, "spinning") == 0
    family.check()
