"""What the upper floors ask of an engine. For type checkers and readers: nothing imports it at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from flame_fast.kernels.runtime import Client


class Engine(Protocol):
    """Runs the calls of one runner.

    Its `runtime` holds the segment: services, calls, futures and values are the same for every engine. An engine only
    sees to it that somebody serves them.
    """

    @property
    def runtime(self) -> Client: ...

    workers: int
    cpus: int

    def set_project(self, project: dict[str, Any]) -> None:
        """Tells workers where the project lies; called once, before the first service."""

    def after_submit(self) -> None:
        """A call was queued."""

    def close(self, ending: str = "was closed") -> int:
        """Ends every process and drops unfinished calls; returns how many. Within 2 seconds; may be called twice.

        `ending` says what happened, in the errors of those calls.
        """
