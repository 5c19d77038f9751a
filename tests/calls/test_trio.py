"""Calls in a loop of trio: awaited, gathered, selected and mapped, cancelled and timed out."""

from __future__ import annotations

import pytest
import trio
from gates import PATIENCE_S, Gate, fail, hold, same

from flame_fast import Runner


def run(main):
    async def within_patience():
        with trio.fail_after(PATIENCE_S):
            await main()

    trio.run(within_patience)


def test_calls_are_awaited_gathered_selected_and_mapped(project):
    async def main():
        async with Runner("trio", workers=2) as rr:
            service = rr.service(same)
            assert await service(1) == 1
            assert await rr.gather(*[service(number) for number in range(500)]) == list(range(500))
            found = [await future async for future in rr.select([service(number) for number in range(20)])]
            assert sorted(found) == list(range(20))
            assert [value async for value in service.map(range(100))] == list(range(100))
            with pytest.raises(KeyError, match="missing"):
                await rr.service(fail)(KeyError("missing"))

    run(main)


def test_a_wait_is_cancelled_and_timed_out(project):
    async def main():
        with Runner("trio", workers=1) as rr, Gate() as gate:
            held = rr.service(hold)(gate, "value")
            gate.entered()
            with trio.move_on_after(0.01) as scope:
                await held
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError):
                await rr.aget([held], timeout=0.01)
            with trio.move_on_after(0.01) as scope:
                await rr.service(same)(1)  # nobody else has its future: it is dropped
            assert scope.cancelled_caught and rr.statistics().queued == 0
            gate.open()
            assert await held == "value"

    run(main)
