"""What a worker does between two tasks: it flushes output, handles signals, spins, sleeps.

Workers are forked relatives of the test's process, which plays driver and supervisor (zygote). So a task knows the
test's runtime: it looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import os
import signal

from gates import PATIENCE_S, wait_until
from serving import Log, await_sleep, leave_partial, marks, pid, serve_with

from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host

pytest_plugins = ["serving_family"]


class CountingHost(Host):
    def flush(self):
        marks[1] += 1
        super().flush()


def test_output_is_flushed_after_a_task_that_left_some_and_before_a_sleep(kin, words):
    service = kin.service(leave_partial)
    futures = [kin.call(service, is_left) for is_left in (False, False, True, False)]
    worker = serve_with(kin, CountingHost)
    assert kin.runtime.get_many(futures, PATIENCE_S) == [0, 0, 0, 1]
    await_sleep(words, worker)
    assert marks[1] == 2


def test_a_signal_reaches_a_worker_that_sleeps_and_leaves_it_among_the_sleepers(kin, words):
    def life():
        signal.signal(signal.SIGUSR1, lambda *_: marks.__setitem__(2, marks[2] + 1))
        kin.runtime.serve(Host(kin.runtime))

    worker = kin.fork(life)
    for number in range(1, 4):
        await_sleep(words, worker)
        os.kill(worker.pid, signal.SIGUSR1)
        wait_until(lambda number=number: marks[2] == number, "its handler")
    wait_until(lambda: words.get("header", 0, "pool_sleepers") == 1, "its being counted")
    assert kin.call(kin.service(pid)).get(PATIENCE_S) == worker.pid


def test_a_spinner_counts_itself_among_the_sleepers_before_it_sleeps(kin, words):
    """The spinner gives its places back: as a spinner, as the seeker."""
    service, workers = kin.service(pid), [kin.fork_worker() for _ in range(2)]
    for _ in range(5):
        wait_until(lambda: words.get("header", 0, "pool_sleepers") >= 2, "the sleep of both")
        kin.call(service).get(PATIENCE_S)
    kin.supervisor.retire(workers[0].index)
    kin.recover_process(workers[0])
    wait_until(lambda: words.get("header", 0, "pool_sleepers") >= 1, "the other's sleep")
    wait_until(lambda: words.get("header", 0, "spinners") == words.get("header", 0, "seeker") == 0)


def test_a_worker_without_a_place_to_spin_leaves_those_of_others(kin, words):
    """The driver has both places, of a spinner and of the seeker; the worker does not say that the seeker goes on."""
    driver = words.tables.DRIVER_INDEX
    taken = {("header", 0, "seeker"): driver + 1, ("header", 0, "spinners"): 1, ("processes", driver, "spinning"): 1}
    for place, value in taken.items():
        words.set(*place, value)
    await_sleep(words, kin.fork_worker())
    assert {place: words.get(*place) for place in taken} == taken
    assert words.get("header", 0, "sought_ns") == 0
    for place in taken:
        words.set(*place, 0)


def test_a_seeker_of_the_pool_s_tasks_says_so_while_others_sleep(kin, words):
    """An instance's process looks for no tasks of the pool."""
    kin.service(Log(), INSTANCE, ("note",), warmup=1)
    words.set("header", 0, "pool_sleepers", 1)
    await_sleep(words, *kin.fork_requested())
    assert words.get("header", 0, "sought_ns") == 0
    await_sleep(words, kin.fork_worker())
    assert words.get("header", 0, "sought_ns") > 0
