"""Cancelled calls: those that have not begun never run, those that have are ended by force, nothing is left of either."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from concurrent.futures import CancelledError

import pytest
from gates import PATIENCE_S, Gate, add, fail, hold, same, start_workers, wait_until

from flame_fast import FlameError, Runner, WorkerDiedError


@pytest.fixture
def rr(project):
    with Runner("cancelling", workers=1) as made:
        yield made


@pytest.fixture
def held(rr):
    """Make a call that keeps the one worker until the test's end."""
    with Gate() as gate:
        future = rr.service(hold)(gate)
        gate.entered()
        yield future
        gate.open()
        if not future.cancelled():
            future.wait(PATIENCE_S)


def touch(path, *_):
    with open(path, "a") as file:
        file.write("x")


def spin(started=None):
    if started is not None:
        touch(started)
    while True:
        pass


def is_cancelled(future):
    for outcome in (future.get, future.wait, future.ref):
        with pytest.raises(CancelledError):
            outcome()
    return future.cancelled() and future.done() and isinstance(future.exception(), CancelledError)


# ---- calls that have not begun -------------------------------------------------------------------------------------------


def test_a_queued_call_never_runs(rr, held, project):
    future = rr.service(touch)(project / "ran")
    assert future.cancel() is True
    assert is_cancelled(future)
    assert future.cancel() is True  # again


def test_a_cancelled_call_is_not_run_later(rr, project):
    with Gate() as gate:
        first = rr.service(hold)(gate)
        gate.entered()
        future = rr.service(touch)(project / "ran")
        assert future.cancel()
        gate.open()
        first.get(PATIENCE_S)
    rr.service(same)(1).get(PATIENCE_S)
    assert not (project / "ran").exists()


def test_what_depends_on_it_is_cancelled_at_once(rr, held):
    first = rr.service(same)(1)
    second = rr.service(add)(first, 1)
    third = rr.service(same)([second, held])
    other = rr.service(same)(held)
    assert rr.cancel(first) == 1
    assert is_cancelled(second)
    assert is_cancelled(third)
    assert not other.done()


def test_a_waiting_call_is_cancelled(rr, held):
    future = rr.service(same)(held)
    assert future.cancel()
    assert is_cancelled(future)


def test_a_running_or_finished_call_goes_on(rr, held):
    assert held.cancel() is False
    assert not held.cancelled()


def test_a_finished_call_has_its_outcome(rr):
    done, failed = rr.service(same)(5), rr.service(fail)(KeyError("mine"))
    rr.get(done)
    with pytest.raises(KeyError):
        failed.get()
    assert (done.cancel(), failed.cancel(), done.cancel(force=True), failed.cancel(force=True)) == (False,) * 4
    assert (done.get(), done.cancelled(), failed.cancelled()) == (5, False, False)


def test_many_in_any_shape(rr, held):
    service = rr.service(same)
    futures = {"a": [service(1), service(2)], "b": (service(3), 4)}
    assert rr.cancel(futures) == 3
    assert rr.cancel(held) == 0
    assert rr.cancel([]) == 0


def test_an_instance_goes_on_behind_a_cancelled_call(rr):
    class Log:
        def __init__(self):
            self.lines = []

        def hold(self, gate):
            gate.wait()

        def add(self, line):
            self.lines.append(line)
            return self.lines

    log = rr.service(Log())
    with Gate() as gate:
        held = log.hold(gate)
        gate.entered()
        first, second, third = log.add(1), log.add(2), log.add(3)
        assert second.cancel()
        gate.open()
    assert (held.get(PATIENCE_S), first.get(PATIENCE_S), third.get(PATIENCE_S)) == (None, [1], [1, 3])


def test_selecting_gives_out_cancelled_ones(rr, held):
    future = rr.service(same)(1)
    future.cancel()
    assert next(rr.select([held, future])) is future


def test_closing_a_service_empties_its_queue(rr, held, project):
    service, other = rr.service(touch), rr.service(same)
    futures = [service(project / "ran") for _ in range(5)]
    kept = other(1)
    service.close(cancel=True)
    assert all(map(is_cancelled, futures))
    assert not kept.done()
    with pytest.raises(FlameError):
        service(project / "ran")


def test_a_task_cancels_what_it_has_made(rr, project):
    def nested(service, path):
        with Runner("inner"):
            future = service(path)
            cancelled = future.cancel()
            return cancelled, future.cancelled()

    rr.service(same)(1).get()
    assert rr.service(nested)(rr.service(touch), str(project / "ran")).get(PATIENCE_S) == (True, True)
    assert rr.service(same)(1).get(PATIENCE_S) == 1
    assert not (project / "ran").exists()


def test_a_future_of_a_closed_runner(project):
    with Gate(project / "..") as gate, pytest.warns(UserWarning, match="2 unfinished"), Runner("closed", workers=1) as rr:
        running = rr.service(hold)(gate)
        gate.entered()
        queued = rr.service(same)(1)
        rr.close()
    assert running.cancel(force=True) is False
    for future in (running, queued):
        with pytest.raises((FlameError, CancelledError)):
            future.get()


# ---- calls that nobody wants ---------------------------------------------------------------------------------------------


def test_breaking_out_of_a_map_leaves_nothing(project):
    with warnings.catch_warnings(), Runner("breaking", workers=1) as rr:
        warnings.simplefilter("error")
        results = rr.service(lambda number: time.sleep(0.01) or number).map(range(10_000))
        assert next(results) == 0
        del results
        wait_until(lambda: rr.statistics().objects == 0, "the end of the map's calls")


def test_breaking_out_of_a_select_leaves_nothing(project):
    with warnings.catch_warnings(), Runner("breaking", workers=1) as rr:
        warnings.simplefilter("error")
        service = rr.service(same)
        selected = rr.select([service(number) for number in range(1000)])
        assert next(selected).get() in range(1000)
        del selected
        wait_until(lambda: rr.statistics().objects == 0, "the end of the calls")


def test_a_long_chain_that_nobody_wants(rr, held, project):
    service = rr.service(same)
    last = service(rr.service(touch)(project / "ran"))
    for _ in range(20_000):
        last = service(last)
    assert rr.statistics().waiting > 20_000
    del last
    assert rr.statistics().waiting == 0
    assert rr.statistics().queued == 0


@pytest.mark.parametrize("order", ["oldest first", "youngest first", "any"])
def test_what_many_calls_share_runs_unless_the_last_of_them_is_dropped(rr, held, project, order):
    """Their shared input has no future of its own: it is wanted as long as one of them is."""

    def dependents(path):
        shared = rr.service(touch)(path)
        return [rr.service(same)(shared) for _ in range(300)]

    def in_order(futures):
        if order == "any":
            random.Random(7).shuffle(futures)
        return futures if order != "youngest first" else futures[::-1]

    dropped, kept = in_order(dependents(project / "dropped")), in_order(dependents(project / "kept"))
    while dropped:
        assert rr.statistics().queued == 2
        del dropped[0]
    while len(kept) > 1:
        assert kept.pop(0).cancel()
        assert rr.statistics().queued == 1
    rr.cancel(held, force=True)
    assert kept[0].get(PATIENCE_S) is None
    assert (project / "kept").read_text() == "x"
    assert not (project / "dropped").exists()


def test_the_dependents_of_one_call_are_dropped_in_linear_time(rr, held):
    """In the order of a list's deallocation, youngest first."""
    shared, service = rr.service(same)(1), rr.service(add)
    futures = [service(shared, number) for number in range(100_000)]
    del shared
    begin = time.process_time()
    del futures
    assert time.process_time() - begin < 4
    assert rr.statistics().queued == 0


def test_what_is_given_to_cancel_is_checked(rr, held):
    future = rr.service(same)(1)
    for wrong in ("x", b"x", None, 3, same):
        with pytest.raises(TypeError, match="expected a future, or a list"):
            rr.cancel(wrong)
    for wrong in ("no", 1, None):
        with pytest.raises(TypeError, match="force: expected True or False"):
            rr.cancel(future, force=wrong)
        with pytest.raises(TypeError, match="force: expected True or False"):
            future.cancel(force=wrong)
    assert rr.cancel([]) == rr.cancel({}) == rr.cancel(iter(())) == 0
    assert rr.cancel([future, {"again": future}, 3]) == 1
    assert is_cancelled(future)


def test_one_holder_is_enough(rr, project):
    with Gate() as gate:
        blocked = rr.service(hold)(gate, 1)
        first = rr.service(same)(blocked)
        wanted, unwanted = rr.service(add)(first, 1), rr.service(add)(first, 2)
        del first, unwanted
        gate.open()
        assert wanted.get(PATIENCE_S) == 2


# ---- calls that have begun -----------------------------------------------------------------------------------------------


def test_a_running_call_is_ended_by_force(rr, project):
    started = project / "started"
    future = rr.service(spin)(started)
    behind = rr.service(add)(1, 2)
    dependent = rr.service(same)(future)
    wait_until(started.exists, "its start")
    assert future.cancel(force=True) is True
    assert is_cancelled(future)
    assert is_cancelled(dependent)
    assert behind.get(PATIENCE_S) == 3


def test_many_are_ended_by_force(project):
    with Runner("ending", workers=3) as rr:
        start_workers(rr, project / "meeting", 3)
        futures = [rr.service(spin)(project / f"started-{number}") for number in range(3)]
        queued = rr.service(same)(1)
        wait_until(lambda: all((project / f"started-{number}").exists() for number in range(3)), "their start")
        assert rr.cancel([futures, queued], force=True) == 4
        assert all(map(is_cancelled, [*futures, queued]))
        assert rr.service(add)(1, 2).get(PATIENCE_S) == 3


def test_a_stopped_process_is_ended_too(rr, project):
    def stop():
        os.kill(os.getpid(), 19)

    future = rr.service(stop)()
    time.sleep(0.2)
    assert future.cancel(force=True)
    assert is_cancelled(future)


def test_an_instance_loses_its_state(rr, project):
    class Counter:
        def __init__(self, first):
            self.count = first

        def add(self):
            self.count += 1
            return self.count

        def spin(self, path):
            spin(path)

    lost, kept = rr.service(Counter(5)), rr.service(Counter(5), restart=True)
    for number, service in enumerate((lost, kept)):
        assert service.add().get(PATIENCE_S) == 6
        started = project / f"started-{number}"
        running, behind = service.spin(started), service.add()
        wait_until(started.exists, "its start")
        assert running.cancel(force=True)
        if service is kept:
            assert (behind.get(PATIENCE_S), service.add().get(PATIENCE_S)) == (6, 7)
            continue
        for future in (behind, service.add()):
            with pytest.raises(WorkerDiedError, match="ended by force"):
                future.get(PATIENCE_S)


def test_a_promise_is_not_ended_by_force(rr, project):
    with Runner("other", workers=1) as other, Gate() as gate:
        foreign = other.service(hold)(gate, 1)
        future = rr.service(same)([foreign])
        gate.entered()
        assert future.cancel(force=True)
        gate.open()
        assert foreign.get(PATIENCE_S) == 1


def test_restart_is_for_instances(rr):
    for other in (same, type("Some", (), {})):
        with pytest.raises(ValueError, match="restart"):
            rr.service(other, restart=True)
    with pytest.raises(ValueError, match="restart"):
        rr.service(same, restart="yes")


class DiesWhenLoaded:
    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        touch(state["path"])
        os._exit(7)

    def work(self):
        return 1


def test_an_instance_that_never_loads_is_lost_after_some_starts(rr, project):
    service = rr.service(DiesWhenLoaded(project / "starts"), restart=True)
    with pytest.raises(WorkerDiedError, match="exit code 7"):
        service.work().get(PATIENCE_S)
    assert 1 <= os.path.getsize(project / "starts") <= 10


def test_a_call_ended_by_force_is_cancelled_at_once(project):
    with Runner("at once", workers=2) as rr:
        pause = rr.service(signal.pause)
        for _ in range(10):
            futures = [pause(), pause()]
            assert futures[0].cancel(force=True)
            assert rr.cancel(futures, force=True) == 2
            assert all(future.cancelled() and future.done() for future in futures)
