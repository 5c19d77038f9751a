"""Services with `concurrency`: coroutines of one service that wait beside each other in a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import CancelledError

import pytest
from gates import PATIENCE_S, add, same, wait_until

from flame_fast import FlameError, Runner, TaskError, TaskTimeoutError, WorkerDiedError


class Meeting:
    """Lets calls of one process wait for each other."""

    def __init__(self):
        self.inside = self.most = 0
        self.changed = asyncio.Condition()

    async def attend(self, guests):
        """Return once so many calls have come; count those that are inside."""
        async with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            await self.changed.wait_for(lambda: self.most >= guests)
            self.inside -= 1
        return self.most

    def present(self):
        return self.inside


_meetings: dict[str, Meeting] = {}


async def attend(name, guests, stays=False):
    most = await _meetings.setdefault(name, Meeting()).attend(guests)
    if stays:
        await asyncio.Event().wait()
    return most


async def fail(error):
    await asyncio.sleep(0)
    raise error


async def spaced(number, error=None):
    await asyncio.sleep(0)
    if number % 3 == 0:
        raise ValueError(number)
    return number


async def relay(service, value):
    return await service(value) + await service(value)


async def blocks(service, value):
    return service(value).get()


async def double(value):
    await asyncio.sleep(0)
    return 2 * value


async def die(others):
    await _meetings.setdefault("dying", Meeting()).attend(others)
    os.kill(os.getpid(), signal.SIGKILL)


async def wait_for_ever(name):
    await _meetings.setdefault(name, Meeting()).attend(sys.maxsize)


async def loop_id():
    return id(asyncio.get_running_loop())


@pytest.fixture
def rr(project):
    with Runner("concurrent", workers=1) as made:
        yield made


def test_calls_wait_beside_each_other(rr):
    service = rr.service(attend, concurrency=6)
    assert rr.get([service("a", 6) for _ in range(6)], timeout=PATIENCE_S) == [6] * 6


def test_no_more_run_at_once_than_the_concurrency(rr):
    service = rr.service(attend, concurrency=3)
    assert max(rr.get([service("few", 3) for _ in range(12)], timeout=PATIENCE_S)) == 3


def test_by_default_one_runs_at_once(rr):
    alone = rr.service(attend)
    assert rr.get([alone("alone", 1) for _ in range(4)], timeout=PATIENCE_S) == [1] * 4


def test_methods_of_instances_and_classes_wait_beside_each_other(rr):
    for service in (rr.service(Meeting(), concurrency=5), rr.service(Meeting, concurrency=5)):
        calls = [service.attend(5) for _ in range(4)]
        last = service.present()  # is no coroutine, and runs between the steps of those that wait
        assert last.get(PATIENCE_S) == 4
        assert rr.get([*calls, service.attend(5)], timeout=PATIENCE_S) == [5] * 5


def test_each_call_has_its_own_outcome(rr):
    service = rr.service(spaced, concurrency=4)
    outcomes = rr.get([service(number) for number in range(30)], return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        assert (str(outcome), type(outcome)) == (str(number), ValueError if number % 3 == 0 else int)
    assert "in spaced" in str(outcomes[0].__cause__)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("enough"), GeneratorExit()])
def test_an_error_that_ends_loops_ends_one_call(rr, error):
    service = rr.service(fail, concurrency=4)
    after = rr.service(attend, concurrency=4)
    for _ in range(2):
        with pytest.raises(BaseException) as caught:
            service(error).get(PATIENCE_S)
        assert isinstance(caught.value, (TaskError, asyncio.CancelledError))
    assert rr.get([after(repr(error), 4) for _ in range(4)], timeout=PATIENCE_S) == [4] * 4


def test_the_loop_stays(rr):
    service = rr.service(loop_id, concurrency=2)
    assert service().get() == service().get()


def test_map_calls_its_items_beside_each_other(rr):
    service = rr.service(attend, concurrency=5)
    assert list(service.map(["mapped"] * 5, [5] * 5)) == [5] * 5


def test_calls_of_others_are_awaited_and_waited_for(rr):
    """One worker: what a call waits for runs inside its wait, or in a worker beside it."""
    plain = rr.service(same)
    assert rr.get([rr.service(relay, concurrency=3)(plain, number) for number in range(5)]) == [0, 2, 4, 6, 8]
    coroutines = rr.service(double, concurrency=3)
    assert rr.get([rr.service(relay, concurrency=3)(coroutines, number) for number in range(5)]) == [0, 4, 8, 12, 16]
    assert rr.get([rr.service(blocks, concurrency=3)(coroutines, number) for number in range(5)]) == [0, 2, 4, 6, 8]
    assert rr.service(blocks)(rr.service(double), 4).get(PATIENCE_S) == 8


def test_a_cancelled_call_that_waits_its_turn_never_runs(rr):
    service = rr.service(attend, concurrency=3)
    held = [service("held", 3, stays=True) for _ in range(2)]
    assert service("held", 3).get(PATIENCE_S) == 3  # all were inside
    held.append(service("held", 1, stays=True))
    waiting = service("held", 1)  # there is no room for it
    assert waiting.cancel()
    assert held[0].cancel(force=True)
    with pytest.raises(WorkerDiedError):  # it was inside, too
        held[1].get(PATIENCE_S)
    with pytest.raises(CancelledError):
        waiting.get()


def test_a_death_fails_those_inside_and_nobody_else(rr):
    service = rr.service(die, concurrency=4)
    inside = [service(4) for _ in range(4)]
    for call in inside:
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            call.get(PATIENCE_S)
    assert rr.service(add)(1, 2).get(PATIENCE_S) == 3


def test_a_time_out_ends_the_call_and_those_beside_it(rr):
    service = rr.service(wait_for_ever, concurrency=3)
    beside = service("late")
    with pytest.raises(TaskTimeoutError):
        service.options(timeout=0.2)("late").get(PATIENCE_S)
    with pytest.raises(WorkerDiedError):
        beside.get(PATIENCE_S)


def test_retries_are_each_call_s_own(rr):
    calls = rr.service(spaced, concurrency=3).options(retries=1, retry_on=ValueError)
    with pytest.raises(ValueError, match="3") as caught:
        calls(3).get(PATIENCE_S)
    assert any("attempt 1" in note for note in caught.value.__notes__)
    assert calls(4).get(PATIENCE_S) == 4


def test_calls_of_other_services_get_their_turn(rr):
    """Each call queues the next one before it ends, without end; the only worker takes another's call all the same."""
    endless = rr.service(again, concurrency=2)
    chain = endless.options(detached=True)
    for _ in range(2):
        chain(chain)
    assert rr.service(add)(1, 2).get(PATIENCE_S) == 3
    endless.close(cancel=True)
    wait_until(lambda: not rr.statistics().running, "the end of the last call")


async def again(service):
    await asyncio.sleep(0)
    try:
        service(service)
    except FlameError:  # closed
        return


def test_what_cannot_be_concurrent_is_refused(rr):
    for concurrency in (0, -1, True, "2", 1.0):
        with pytest.raises(ValueError, match="concurrency: expected an integer of at least 1"):
            rr.service(double, concurrency=concurrency)
    assert rr.service(add, concurrency=2)(1, 2).get() == 3  # no coroutine: one by one
    assert rr.service(lambda value: double(value), concurrency=2)(4).get() == 8
    with pytest.raises(ValueError, match="capture"):
        rr.service(double, concurrency=2).options(capture=True)


def test_the_inline_engine_runs_them_one_by_one(project):
    with Runner("one by one", workers=1, engine="inline") as rr:
        service = rr.service(double, concurrency=3)
        assert rr.get([service(number) for number in range(4)]) == [0, 2, 4, 6]

        async def in_a_loop():
            return await service(5)

        assert asyncio.run(in_a_loop()) == 10
