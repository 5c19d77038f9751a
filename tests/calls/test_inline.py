"""The inline engine's own: calls run in the driver, in order. What it shares with other engines, tests/engines tests."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from applications import registered
from gates import add, fail

from flame_fast import FlameError, FlameErrorCode, Runner, RunnerService


@pytest.fixture
def inline(project):
    with Runner("inline", engine="inline") as runner:
        yield runner


class Counter:
    def __init__(self):
        self.count = 0

    def up(self):
        self.count += 1
        return self.count


def test_calls_run_in_the_driver_before_the_call_returns(inline):
    assert isinstance(inline.service(add), RunnerService)
    future = inline.service(lambda: (os.getpid(), threading.get_ident()))()
    assert future.done()
    assert future.get() == (os.getpid(), threading.get_ident())
    assert inline.service(Counter).up().done()
    assert inline.service(fail)(ValueError()).done()


SEEN = []


def note(item):
    SEEN.append(item)


def test_calls_run_in_the_order_made(inline):
    SEEN.clear()
    service = inline.service(note)
    for number in range(50):
        service(number)
    assert [*SEEN] == list(range(50))


def test_a_debugger_sees_the_tasks_frames(inline):
    """What coverage and debuggers stand on: the tracing function of the driver."""
    lines = []

    def trace(frame, event, argument):
        if frame.f_code is add.__code__:
            lines.append(event)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        inline.service(add)(1, 2)
    finally:
        sys.settrace(before)
    assert lines[:2] == ["call", "line"]


def test_no_process_is_started(inline):
    before = children()
    inline.service(Counter(), warmup=1).up().get()
    inline.service(add, warmup=1)(1).get()
    assert children() == before
    assert registered() == ["inline"]


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_output_goes_straight_to_the_drivers_streams(inline, capsys):
    inline.service(print)("from the task")
    assert capsys.readouterr().out == "from the task\n"


def test_calls_from_several_threads(inline):
    counter, plus, errors = inline.service(Counter()), inline.service(add), []

    def use():
        try:
            for number in range(100):
                counter.up()
                assert plus(plus(number), 1).get() == number + 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert counter.up().get() == 401


def test_the_drivers_thread_limits_stay_as_they_were(inline):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    from flame_fast import ResourceRequirement

    inline.service(add, resreq=ResourceRequirement(cpu=1))(1)
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


@pytest.mark.parametrize("engine", ["", "Local", "threads", 3])
def test_an_unknown_engine_is_refused(project, nothing_left, engine):
    with pytest.raises(FlameError) as caught:
        Runner("unknown", engine=engine)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert "'local'" in caught.value.message
    assert "'inline'" in caught.value.message
    assert not list(nothing_left.rglob("*.db"))
