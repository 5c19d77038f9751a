"""Calls of one `async def` service that run at once in a worker, on its event loop.

    Worker._run --> Host.run_concurrently --> ConcurrentCalls.run --> Worker.claim_beside, begin_call, end_call

The loop looks for further calls when one ends, and every few milliseconds. It does not sleep as an idle worker does: what
would wake it may be meant for another service, and that call would wait.
"""

from __future__ import annotations

import asyncio
import time
from types import CoroutineType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.runtime import Worker

#: Seconds between two looks for further calls.
LOOK_S = 0.002

#: Seconds after which no more calls are taken if those of other services wait for a worker.
FAIR_S = 0.05


def run_alone(coroutine: Any) -> Any:
    """Run a coroutine to its end and return its value, in an event loop of its own, also inside of a running one."""
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return asyncio.run(coroutine)
    finally:
        asyncio._set_running_loop(outer)


class ConcurrentCalls:
    """Runs calls on this process's event loop, which stays for those that come later.

    Parameters
    ----------
    resolve : callable
        Returns a call's value as it travels, or raises; takes what is no coroutine.
    """

    def __init__(self, resolve: Callable[[Any], Any]) -> None:
        self._resolve = resolve
        self._loop = asyncio.new_event_loop()
        self._running: dict[int, asyncio.Task[None]] = {}

    def run(self, worker: Worker, first: int, coroutine: Any, limit: int) -> None:
        """Run a call that has begun, and up to `limit` at once of those that are queued behind it. Raises nothing.

        Parameters
        ----------
        worker : Worker
        first : int
            The call's number.
        coroutine : coroutine
            The call's.
        limit : int
        """
        try:
            self._loop.run_until_complete(self._drive(worker, first, coroutine, limit))
        except BaseException as error:  # a signal's handler raised: it may have hit any of them
            for index, task in list(self._running.items()):
                task.cancel()
                self._end(worker, index, None, error)
            coroutine.close()

    def close(self) -> None:
        """Cancel what is left on the loop, and close it."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _drive(self, worker: Worker, first: int, coroutine: Any, limit: int) -> None:
        changed = asyncio.Event()
        queue, begun = worker.queue_of(first), time.monotonic()
        self._start(worker, first, coroutine, changed)
        await asyncio.sleep(0)
        while self._running:
            takes = time.monotonic() - begun < FAIR_S or not worker.others_wait(queue)
            while takes and len(self._running) < limit:
                index = worker.claim_beside(queue)
                if index < 0:
                    break
                if self._begin(worker, index, changed):
                    await asyncio.sleep(0)  # each call takes its first step before the next one begins
            changed.clear()
            timer = self._loop.call_later(LOOK_S, changed.set) if takes and len(self._running) < limit else None
            await changed.wait()
            if timer is not None:
                timer.cancel()

    def _begin(self, worker: Worker, index: int, changed: asyncio.Event) -> bool:
        """Begin a call; return whether it is a coroutine, which has not taken a step."""
        try:
            value = worker.begin_call(index)
            if type(value) is CoroutineType:
                self._start(worker, index, value, changed)
                return True
            value, problem = self._resolve(value), None
        except BaseException as error:
            value, problem = None, error
        self._end(worker, index, value, problem)
        return False

    def _start(self, worker: Worker, index: int, coroutine: Any, changed: asyncio.Event) -> None:
        self._running[index] = self._loop.create_task(self._finish(worker, index, coroutine, changed))

    async def _finish(self, worker: Worker, index: int, coroutine: Any, changed: asyncio.Event) -> None:
        try:
            value, problem = await coroutine, None
        except BaseException as error:  # SystemExit would end the loop
            value, problem = None, error
        if index in self._running:
            self._end(worker, index, value, problem)
        changed.set()

    def _end(self, worker: Worker, index: int, value: Any, problem: BaseException | None) -> None:
        self._running.pop(index, None)
        worker.end_call(index, value, problem, next(iter(self._running), -1))
