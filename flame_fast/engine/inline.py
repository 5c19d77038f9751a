"""Inline engine: every call runs in the driver, in the order made, before the call returns its future.

For debuggers, coverage and profilers. It has the segment, codec and futures of the local engine, so a value behaves the
same: it is a copy, and what a task writes into an array shows nowhere else.
"""

from __future__ import annotations

import threading

from flame_fast.engine.current import set_serving_engine
from flame_fast.engine.segment import DriverEngine
from flame_fast.engine.task_host import Host
from flame_fast.kernels.runtime import Worker
from flame_fast.kernels.runtime.serialization.definitions import use_in_thread
from flame_fast.kernels.task_keys import set_aside, take_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.engine.spec import EngineOptions


class InlineEngine(DriverEngine):
    """Runs calls in the driver's own process; see `flame_fast.engine.protocol.Engine`."""

    is_parallel = False
    runtime: Worker

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options, Worker)
        self.runtime.serve_inline()
        self._initializer: bytes | None = None
        self._host = Host(self.runtime, enter=use_in_thread, initializer=lambda: self._initializer)
        self._turn = threading.RLock()
        self._closed = False

    def set_project(self, project: dict[str, Any]) -> None:
        """Note the initializer; tasks import the project as the driver does."""
        self._initializer = project["initializer"]

    @property
    def _after_call(self) -> Callable[[], object]:
        return self._run_queued

    def _run_queued(self) -> None:
        with self._turn:
            before = set_serving_engine(self)
            outer = use_in_thread(None)
            call = set_aside()
            try:
                self.runtime.run_queued(self._host)
            finally:
                take_up(call)
                use_in_thread(outer)
                set_serving_engine(before)

    def close(self, ending: str) -> int:
        if not self._closed:
            self._closed = True
            self.runtime.announce_close()
            self._abandon_calls(ending)
            self._host.drop_services()
            self._close_descriptors()
        return 0
