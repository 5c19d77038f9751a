"""The inline engine: every call runs in the driver, in the order made, before the call returns its future.

For debuggers, coverage and profilers. It uses the same segment, codec and futures as the local engine, so a value
behaves the same: it is a copy, and what is written into an array that arrived shows nowhere else.
"""

from __future__ import annotations

import os
import threading

from flame_fast.engine.current import set_serving_engine
from flame_fast.engine.task_host import Host
from flame_fast.kernels.runtime import Worker, serialization
from flame_fast.kernels.runtime.serialization.definitions import use_in_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class InlineEngine:
    """Runs calls in the driver's own process; see `flame_fast.engine.protocol.Engine`."""

    def __init__(
        self, name: str, workers: int, cpus: int, limit: int, cgroups: list[tuple[str, str, str]], arrays_read_only: bool
    ) -> None:
        self.workers = workers
        self.cpus = cpus
        self._doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.runtime = Worker.create(name, self._doorbell, workers, cpus, limit, cgroups, arrays_read_only)
        self.runtime.pickling = serialization
        self.runtime.serve_inline()
        self._host = Host(self.runtime, enter=use_in_thread)
        self._turn = threading.RLock()
        self._closed = False

    def set_project(self, project: dict[str, Any]) -> None:
        pass

    def after_submit(self) -> None:
        with self._turn:
            before = set_serving_engine(self)
            outer = use_in_thread(None)
            try:
                self.runtime.run_queued(self._host)
            finally:
                use_in_thread(outer)
                set_serving_engine(before)

    def close(self, ending: str = "was closed") -> int:
        if not self._closed:
            self._closed = True
            self.runtime.announce_close()
            self.runtime.mark_closed(ending)
            serialization.release(self.runtime)
            self.runtime.give_back_memory()
            os.close(self._doorbell)
            os.close(self.runtime.fd)
        return 0
