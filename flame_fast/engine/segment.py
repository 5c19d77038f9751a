"""Engines over a segment of shared memory: the verbs of `protocol.Engine` as calls of the native runtime.

`SegmentEngine` has the verbs, also for the engine that a task sees (`engine.worker`). `DriverEngine` also creates the
segment and closes it (`engine.local`, `engine.inline`).
"""

from __future__ import annotations

import os

from flame_fast.engine.descriptors import Descriptor
from flame_fast.engine.spec import INSTANCE, URGENT
from flame_fast.errors import TaskTimeoutError, WorkerDiedError
from flame_fast.kernels.runtime import CallPolicy, MapResults, serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from flame_fast.engine.protocol import Results
    from flame_fast.engine.spec import CallOptions, EngineOptions, MapOptions, ServiceSpec
    from flame_fast.kernels.runtime import CallTarget, Client, ObjectRef, Selector

    #: (service, generation, queue) as the native runtime numbers them.
    Key = tuple[int, int, int]


class SegmentEngine:
    """An engine whose calls, futures and values are slots of a segment; see `flame_fast.engine.protocol.Engine`.

    Parameters
    ----------
    runtime : Client
        This process's attachment to the segment.
    """

    def __init__(self, runtime: Client) -> None:
        self.runtime = runtime
        self.name: str = runtime.name
        self.session: int = runtime.session
        self.workers: int = runtime.workers
        self.cpus: int = runtime.cpus
        # The runtime's own methods: a Python method in between would cost a third of what they do.
        self.put: Callable[[Any], ObjectRef[Any]] = runtime.put
        self.owns_all: Callable[[list[Any]], bool] = runtime.owns_all
        self.get_many: Callable[..., list[Any]] = runtime.get_many
        self.wait_many: Callable[..., None] = runtime.wait_many
        self.cancel_many: Callable[..., int] = runtime.cancel_many
        self.selector: Callable[[list[Any]], Selector] = runtime.selector
        self.statistics: Callable[[], dict[str, int]] = runtime.statistics

    @property
    def is_parallel(self) -> bool:
        return self.workers > 1

    @property
    def is_foreign(self) -> bool:
        return self.runtime.is_foreign

    def add_service(self, spec: ServiceSpec, *, limit: int, sticky: bool, warmup: int, preload: int, restart: bool) -> Key:
        return self.runtime.add_service(
            spec.to_blob(),
            instance=spec.kind == INSTANCE,
            limit=limit,
            sticky=sticky,
            warmup=warmup,
            preload=preload,
            restart=restart,
        )

    def policy(self, options: CallOptions) -> CallPolicy:
        after_death = any(issubclass(WorkerDiedError, kind) for kind in options.retry_on)
        after_timeout = any(issubclass(TaskTimeoutError, kind) for kind in options.retry_on)
        errors = tuple(kind for kind in options.retry_on if kind not in (WorkerDiedError, TaskTimeoutError))
        return CallPolicy(
            timeout=options.timeout,
            deadline=options.deadline,
            retries=options.retries,
            after_death=after_death,
            after_timeout=after_timeout,
            errors=self.put(errors) if errors and options.retries else None,
            backoff=options.backoff or None,
            detached=options.detached,
            urgent=options.priority == URGENT,
            captured=options.capture,
        )

    def bind(
        self,
        target: CallTarget[..., Any],
        key: Key,
        method: int,
        state: Callable[[], Any] | None,
        policy: CallPolicy | None = None,
        label: str | None = None,
    ) -> None:
        service, generation, queue = key
        if policy is not None and policy.ends_by_force:
            self.runtime.keep_spare(service, generation)
        if policy is not None and policy.urgent:
            self.runtime.make_urgent_queue(queue)
        target.bind(self.runtime, key, method, state, self._after_call, policy, label)

    @property
    def _after_call(self) -> Callable[[], object] | None:
        """What runs after each call was queued; None for nothing."""
        return None

    def map(self, target: CallTarget[..., Any], iterable: Iterable[Any], options: MapOptions) -> Results[Any]:
        return MapResults(
            target,
            iterable,
            options.chunksize,
            options.timeout,
            options.ordered,
            options.star,
            options.return_exceptions,
            options.length,
            options.eager,
            options.ahead,
        )

    def finish(self) -> None:
        """Do nothing: no process stands by."""

    def close_service(self, key: Key, cancel: bool) -> None:
        service, generation, _ = key
        self.runtime.close_service(service, generation)
        if cancel:
            self.runtime.cancel_calls(service, generation)


class DriverEngine(SegmentEngine):
    """An engine that owns its segment and the doorbell of the processes that share it.

    Parameters
    ----------
    options : EngineOptions
    role : type
        What this process does with the segment: `Client`, or `Worker` if it also runs its tasks.
    """

    def __init__(self, options: EngineOptions, role: type[Client]) -> None:
        self._doorbell = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        try:
            runtime = role.create(
                options.name,
                self._doorbell.fd,
                options.workers,
                options.cpus,
                options.memory,
                options.cgroups,
                options.arrays_read_only,
            )
        except BaseException:
            self._doorbell.close()
            raise
        runtime.pickling = serialization
        super().__init__(runtime)

    def _abandon_calls(self, ending: str) -> None:
        """Make every wait for an unfinished call raise, and give back the memory that no value takes."""
        self.runtime.mark_closed(ending)
        self.runtime.end_callbacks()
        serialization.release(self.runtime)
        self.runtime.trim_memory()

    def _close_descriptors(self) -> None:
        self._doorbell.close()
        if self.runtime.has_descriptor:
            os.close(self.runtime.fd)
