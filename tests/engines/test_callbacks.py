"""What is called when a call is done, and futures of the standard library for calls."""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import threading
from concurrent.futures import CancelledError

import pytest
from engines import concurrent as in_parallel
from engines import in_a_segment
from gates import PATIENCE_S, Gate, add, fail, hold, same, wait_until

from flame_fast import FlameError, Runner, TaskError


class Told:
    """Collects what it is called with, and by which thread."""

    def __init__(self):
        self.futures, self.threads = [], []

    def __call__(self, future):
        self.futures.append(future)
        self.threads.append(threading.current_thread())

    def wait(self, count=1):
        wait_until(lambda: len(self.futures) >= count, "the callback")
        return self.futures


# ---- callbacks -----------------------------------------------------------------------------------------------------------


def test_it_is_called_once_with_the_future(rr):
    told = Told()
    future = rr.service(add)(1, 2)
    future.add_done_callback(told)
    assert told.wait() == [future]
    assert future.result() == 3
    rr.wait([rr.service(same)(number) for number in range(10)])
    assert told.futures == [future]


def test_of_a_done_call_it_is_called_at_once_by_the_caller(rr):
    for future in (rr.service(add)(1, 2), rr.service(fail)(KeyError("missing"))):
        future.exception(PATIENCE_S)
        told = Told()
        future.add_done_callback(told)
        assert told.futures == [future]
        assert told.threads == [threading.current_thread()]


@in_parallel
def test_one_thread_calls_all_in_the_order_added(rr, project):
    told, other = Told(), Told()
    with Gate() as gate:
        first, second = rr.service(hold)(gate, 1), rr.service(same)(2)
        for callback in (told, other, told):
            first.add_done_callback(callback)
        second.add_done_callback(other)
        assert other.wait() == [second]
        assert first.running()
        assert told.futures == []
        gate.open()
        assert told.wait(2) == [first, first]
        assert other.wait(2) == [second, first]
    assert len({*told.threads, *other.threads}) == 1
    assert told.threads[0] is not threading.current_thread()
    assert not first.running()


def test_what_it_raises_is_logged_and_hurts_nobody(rr, caplog):
    told = Told()
    future = rr.service(same)(1)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        future.add_done_callback(lambda _: 1 / 0)
        future.add_done_callback(told)
        told.wait()
        wait_until(lambda: caplog.records, "the record")
    assert "exception calling callback for <" in caplog.text and "ZeroDivisionError" in caplog.text
    caplog.clear()  # the record's traceback has the future


@pytest.mark.parametrize("wrong", [None, 3, "f"])
def test_it_must_be_callable(rr, wrong):
    with pytest.raises(TypeError, match="fn: expected a callable"):
        rr.service(same)(1).add_done_callback(wrong)


@in_parallel
def test_a_failure_a_cancellation_and_a_dependent_are_told_of(rr, project):
    told = Told()
    with Gate() as gate:
        held = [rr.service(hold)(gate) for _ in range(2)]
        gate.entered()
        queued = rr.service(same)(1)
        dependent = rr.service(same)(queued)
        for future in (queued, dependent):
            future.add_done_callback(told)
        assert queued.cancel()
        assert set(told.wait(2)) == {queued, dependent}
        assert all(future.cancelled() for future in told.futures)
        for future in held:
            future.cancel()
        gate.open()
    failed = rr.service(fail)(KeyError("missing"))
    failed.add_done_callback(told)
    assert told.wait(3)[-1] is failed
    assert failed.has_failed()


@in_parallel
def test_a_call_that_only_a_callback_waits_for_runs(rr, project):
    told = Told()
    with Gate() as gate:
        held = [rr.service(hold)(gate) for _ in range(2)]
        rr.service(add)(1, 2).add_done_callback(told)
        gate.open()
        assert [future.result() for future in told.wait()] == [3]
        rr.cancel(held, force=True)


@in_parallel
def test_a_callback_may_be_forgotten(rr, project):
    told, kept = Told(), Told()
    with Gate() as gate:
        future = rr.service(hold)(gate)
        for callback in (told, kept):
            future.add_done_callback(callback)
        future.discard_callback(told)
        future.discard_callback(print)
        gate.open()
        assert kept.wait() == [future]
    assert told.futures == []


@in_parallel
@pytest.mark.filterwarnings("ignore:.*unfinished call")
def test_of_a_call_that_its_runner_s_end_dropped_it_is_called_then(project, engine):
    told = Told()
    with Runner("ends", workers=1, engine=engine) as rr, Gate() as gate:
        future = rr.service(hold)(gate)
        future.add_done_callback(told)
        gate.entered()
        rr.close()
        assert told.futures == [future]
        with pytest.raises(FlameError, match="had not finished when its runner"):
            future.result()
        late = Told()
        future.add_done_callback(late)
        assert late.futures == [future]


def test_callbacks_may_make_calls_and_callbacks(rr):
    done, service = threading.Event(), rr.service(same)
    left = itertools.count(20, -1)

    def again(future):
        assert future.result() == 1
        if next(left):
            service(1).add_done_callback(again)
        else:
            done.set()

    service(1).add_done_callback(again)
    assert done.wait(PATIENCE_S)


@in_a_segment
def test_many_from_many_threads_are_each_called_once(rr):
    service, told = rr.service(same), Told()

    def make():
        for number in range(2000):
            service(number).add_done_callback(told)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    futures = told.wait(8000)
    assert len({id(future) for future in futures}) == len(futures) == 8000
    assert sorted(future.result() for future in futures) == sorted([*range(2000)] * 4)


def test_after_a_pause_they_are_called_again(rr):
    service, told = rr.service(same), Told()
    for count in range(1, 4):
        service(count).add_done_callback(told)
        told.wait(count)
        threading.Event().wait(0.08)  # longer than the thread stays awake
    assert [future.result() for future in told.futures] == [1, 2, 3]


# ---- futures of the standard library -------------------------------------------------------------------------------------


def test_a_concurrent_future_has_the_call_s_outcome(rr):
    value = rr.service(same)([1, 2]).as_concurrent()
    assert isinstance(value, concurrent.futures.Future)
    assert value.result(PATIENCE_S) == [1, 2]
    assert value.result() is value.result()
    assert value.exception() is None
    assert value.done() and not value.running() and not value.cancelled() and not value.cancel()
    failed = rr.service(fail)(KeyError("missing")).as_concurrent()
    with pytest.raises(KeyError, match="missing"):
        failed.result(PATIENCE_S)
    assert failed.exception() is failed.exception()
    assert "raised KeyError" in repr(failed) and "returned list" in repr(value)


@in_parallel
def test_a_concurrent_future_s_time_out_and_cancellation(rr, project):
    with Gate() as gate:
        held = [rr.service(hold)(gate, 1).as_concurrent() for _ in range(2)]
        gate.entered()
        running = next(future for future in held if future.running())
        queued = rr.service(same)(1).as_concurrent()
        assert "state=running" in repr(running) and "state=pending" in repr(queued)
        for wait in (running.result, running.exception):
            with pytest.raises(TimeoutError):
                wait(0.01)
        assert not running.cancel()
        assert queued.cancel() and queued.cancelled() and queued.done()
        for wait in (queued.result, queued.exception):
            with pytest.raises(CancelledError):
                wait()
        assert "state=cancelled" in repr(queued)
        for future in held:
            future.cancel()
        gate.open()
        assert running.result(PATIENCE_S) == 1


def test_the_module_s_own_functions_wait_for_them(rr):
    def futures():
        return [rr.service(same)(number).as_concurrent() for number in range(20)]

    made = futures()
    assert concurrent.futures.wait(made, PATIENCE_S).done == set(made)
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures(), PATIENCE_S)) == list(range(20))
    failing = [*futures(), rr.service(fail)(KeyError()).as_concurrent()]
    done, _ = concurrent.futures.wait(failing, PATIENCE_S, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert failing[-1] in done


@in_parallel
def test_a_wait_sees_a_cancellation(rr, project):
    with Gate() as gate:
        held = [rr.service(hold)(gate) for _ in range(2)]
        gate.entered()
        queued = rr.service(same)(1).as_concurrent()
        threading.Timer(0.05, queued.cancel).start()
        assert concurrent.futures.wait([queued], PATIENCE_S).done == {queued}
        assert list(concurrent.futures.as_completed([queued])) == [queued]
        for future in held:
            future.cancel()
        gate.open()


def test_a_concurrent_future_calls_back_with_itself(rr):
    told = Told()
    future = rr.service(same)(1).as_concurrent()
    future.add_done_callback(told)
    assert told.wait() == [future]
    future.result()
    future.add_done_callback(told)
    assert told.futures == [future, future]


def test_nobody_else_gives_it_an_outcome(rr):
    future = rr.service(same)(1).as_concurrent()
    for give in (
        lambda: future.set_result(2),
        lambda: future.set_exception(KeyError()),
        future.set_running_or_notify_cancel,
    ):
        with pytest.raises(RuntimeError, match="its call's"):
            give()
    assert future.result(PATIENCE_S) == 1


def test_a_task_s_own_time_out_is_its_error(rr):
    future = rr.service(fail)(TimeoutError("the task's own")).as_concurrent()
    with pytest.raises(TimeoutError, match="the task's own"):
        future.result(PATIENCE_S)
    assert isinstance(future.exception(), (TimeoutError, TaskError))
