"""Calls in event loops: awaited alone and together, given out as they finish, cancelled at any moment."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from gates import PATIENCE_S, Gate, add, fail, hold, same, start_workers, wait_until

from flame_fast import FlameError, Runner


@pytest.fixture
def rr(project):
    with Runner("loops", workers=2) as made:
        yield made


def run(main):
    return asyncio.run(asyncio.wait_for(main, PATIENCE_S))


# ---- one call ------------------------------------------------------------------------------------------------------------


def test_a_call_is_awaited(rr):
    async def main():
        assert await rr.service(add)(1, 2) == 3
        future = rr.service(same)([1])
        assert await future == await future == [1]
        assert await rr.put_object("stored") == "stored"

    run(main())


def test_its_error_is_raised(rr):
    async def main():
        with pytest.raises(KeyError, match="missing") as caught:
            await rr.service(fail)(KeyError("missing"))
        assert "in fail" in str(caught.value.__cause__)

    run(main())


def test_a_cancelled_call_cancels_as_a_wrapped_future_does(rr, project):
    async def main():
        with Gate() as gate:
            held = [rr.service(hold)(gate) for _ in range(2)]
            gate.entered()
            queued = rr.service(same)(1)
            waiting = asyncio.ensure_future(queued)
            await asyncio.sleep(0)
            assert queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            rr.cancel(held, force=True)

    run(main())


def test_outside_of_a_loop_it_says_what_to_do(rr, project):
    with Gate() as gate:
        future = rr.service(hold)(gate, 1)
        with pytest.raises(RuntimeError, match="use .get"):
            future.__await__().send(None)
        gate.open()
        assert future.get(PATIENCE_S) == 1


def test_the_loop_goes_on_meanwhile(rr, project):
    async def main():
        with Gate() as gate:
            waiting = asyncio.ensure_future(rr.service(hold)(gate, "value"))
            for _ in range(10):
                await asyncio.sleep(0.001)
            assert not waiting.done()
            gate.open()
            assert await waiting == "value"

    run(main())


@pytest.mark.parametrize("how", ["cancel", "wait_for"])
def test_a_cancelled_wait_drops_a_call_that_has_not_begun(rr, project, how):
    async def wait():
        return await rr.service(same)(1)

    async def main():
        with Gate() as gate:
            held = [rr.service(hold)(gate) for _ in range(2)]
            gate.entered()
            await until(lambda: rr.statistics().running == 2)
            if how == "wait_for":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(wait(), 0.05)
            else:
                waiting = asyncio.create_task(wait())
                await until(lambda: rr.statistics().queued == 1)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert rr.statistics().queued == 0
            kept = rr.service(same)(2)
            waiting = asyncio.ensure_future(kept)
            await asyncio.sleep(0)
            waiting.cancel()
            assert rr.statistics().queued == 1  # somebody has its future
            rr.cancel(held, force=True)
            assert await kept == 2

    run(main())


async def until(look):
    while not look():
        await asyncio.sleep(0.001)


@pytest.mark.filterwarnings("ignore:.*unfinished call")
def test_the_runner_s_end_ends_the_wait(project):
    async def main():
        rr = Runner("ends", workers=1)
        with Gate() as gate:
            waiting = asyncio.ensure_future(rr.service(hold)(gate))
            gate.entered()
            await asyncio.sleep(0)
            threading.Thread(target=rr.close).start()
            with pytest.raises(FlameError, match="had not finished when its runner"):
                await waiting
            await until(lambda: threading.active_count() == 1 or not any("close" in t.name for t in threading.enumerate()))

    run(main())


# ---- many ----------------------------------------------------------------------------------------------------------------


def test_ten_thousand_are_awaited_at_once(rr):
    async def main():
        service = rr.service(same)
        assert await asyncio.gather(*[service(number) for number in range(10_000)]) == list(range(10_000))
        assert await rr.gather(*[service(number) for number in range(10_000)]) == list(range(10_000))

    run(main())


def test_gathering_keeps_the_shape_and_raises_the_first_failure(rr):
    async def main():
        service, failing = rr.service(same), rr.service(fail)
        assert await rr.aget({"a": [service(1), 2], "b": (service(3),)}) == {"a": [1, 2], "b": (3,)}
        assert await rr.gather() == []
        with pytest.raises(KeyError, match="first"):
            await rr.gather(service(1), failing(KeyError("first")), failing(ValueError("second")))
        found = await rr.gather(service(1), failing(KeyError("first")), return_exceptions=True)
        assert found[0] == 1 and isinstance(found[1], KeyError)

    run(main())


def test_a_failure_is_raised_while_later_calls_still_run(rr, project):
    async def main():
        with Gate() as gate:
            failed, held = rr.service(fail)(KeyError("first")), rr.service(hold)(gate)
            with pytest.raises(KeyError):
                await rr.gather(failed, held)
            assert not held.done()
            with pytest.raises(TimeoutError):
                await rr.aget([held, failed], timeout=0.05)
            gate.open()
            await held

    run(main())


@pytest.mark.parametrize("count", [0, 1, 500])
def test_they_are_selected_as_they_finish(rr, project, count):
    async def main():
        with Gate() as gate:
            held = rr.service(hold)(gate, -1)
            others = [rr.service(same)(number) for number in range(count)]
            found = []
            async for future in rr.select([held, *others, *others]):
                found.append(await future)
                if len(found) == count:
                    gate.open()
            if not count:
                pytest.fail("the held call cannot be done")
            assert sorted(found[:-1]) == list(range(count)) and found[-1] == -1

    async def empty():
        assert [future async for future in rr.select([])] == []

    run(main() if count else empty())


def test_a_selection_may_be_left_and_may_time_out(rr, project):
    async def main():
        with Gate() as gate:
            held = rr.service(hold)(gate)
            gate.entered()
            async for future in rr.select([held, rr.service(same)(1), rr.put_object(2)]):
                assert await future in (1, 2)
                break
            del future
            with pytest.raises(TimeoutError):
                async for _ in rr.select([held], timeout=0.05):
                    pass
            gate.open()
            await held

    run(main())
    wait_until(lambda: rr.statistics().objects == 0, "the end of the calls")


@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"chunksize": 1}, {"return_exceptions": True}])
@pytest.mark.parametrize("limits", [{}, {"timeout": 60}])
def test_a_map_is_taken_by_an_async_loop(rr, options, limits):
    async def main():
        service = rr.service(add).options(**limits) if limits else rr.service(add)
        found = [value async for value in service.map(range(2000), range(2000), **options)]
        assert sorted(found) == list(range(0, 4000, 2))
        if options.get("ordered", True):
            assert found == sorted(found)

    run(main())


def test_a_map_waits_without_blocking(rr, project):
    async def main():
        with Gate() as gate:
            results = rr.service(lambda number: hold(gate, number)).map([1], chunksize=1)
            waiting = asyncio.ensure_future(results.__anext__())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            gate.open()
            assert await waiting == 1
            with pytest.raises(StopAsyncIteration):
                await results.__anext__()

    run(main())


def test_cancellation_at_random_moments_leaves_nothing(rr, project):
    chance = random.Random(5)

    async def chain(service, number):
        for _ in range(3):
            number = await service(number)
        return number

    async def main():
        service = rr.service(same)
        tasks = [asyncio.create_task(chain(service, number)) for number in range(1000)]
        for task in chance.sample(tasks, 600):
            task.cancel()
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() / 300)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(found, asyncio.CancelledError) or found == number for number, found in enumerate(results))

    run(main())
    wait_until(lambda: rr.statistics().objects == 0, "the end of the calls")


# ---- loops and runners ---------------------------------------------------------------------------------------------------


def test_each_loop_is_told_of_its_own_calls(rr):
    def use(found):
        found.append(asyncio.run(several(rr.service(same))))

    async def several(service):
        return [await service(number) for number in range(200)]

    found = []
    threads = [threading.Thread(target=use, args=(found,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert found == [list(range(200))] * 4


def test_a_loop_that_ended_before_its_call_hurts_nobody(rr, project):
    async def leave(gate):
        task = asyncio.ensure_future(rr.service(hold)(gate, 1))
        gate.entered()
        await asyncio.sleep(0)
        return task

    with Gate() as gate:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave(gate)).cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        gate.open()
        assert rr.service(add)(1, 2).get(PATIENCE_S) == 3


def test_the_runner_is_an_asynchronous_context_manager(project):
    async def main():
        async with Runner("inside", workers=1) as rr:
            assert await rr.service(add)(1, 2) == 3
        with pytest.raises(FlameError, match="is closed"):
            rr.service(add)

    run(main())


def test_a_task_may_await_calls(rr):
    async def outer(service, count):
        return await asyncio.gather(*[service(number) for number in range(count)])

    assert rr.service(outer)(rr.service(same), 20).get(PATIENCE_S) == list(range(20))
    assert rr.get([rr.service(outer)(rr.service(same), 5) for _ in range(8)], timeout=PATIENCE_S) == [list(range(5))] * 8


def test_a_future_s_descriptors(rr, project):
    """However many calls a loop awaits, it watches no more descriptors."""

    async def main():
        start_workers(rr, project / "meeting")
        loop = asyncio.get_running_loop()
        before = len(loop._selector.get_map())
        threads = threading.active_count()
        waiting = [asyncio.ensure_future(rr.service(same)(number)) for number in range(500)]
        await asyncio.sleep(0)
        assert len(loop._selector.get_map()) == before
        assert threading.active_count() <= threads + 1
        await asyncio.gather(*waiting)

    run(main())


def test_the_warning_of_dropped_calls_names_the_line_of_the_block(project):
    async def main():
        with Gate() as gate:
            async with Runner("drops", workers=1, package=False) as rr:
                kept.append(rr.service(hold)(gate))
                gate.entered()

    kept = []
    with pytest.warns(UserWarning, match="1 unfinished call") as caught:
        run(main())
    assert [warning.filename for warning in caught] == [__file__]
