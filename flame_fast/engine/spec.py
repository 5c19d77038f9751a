"""Service and engine descriptions: what an engine's workers know of a service, and what a runner asks of an engine."""

from __future__ import annotations

import json

from flame_fast._records import fields, frozen, record
from flame_fast.errors import WorkerDiedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FUNCTION, CLASS, INSTANCE = "function", "class", "instance"

#: Priorities of calls.
URGENT, NORMAL = "urgent", "normal"


@record
class EngineOptions:
    """What a runner asks of its engine.

    Parameters
    ----------
    name : str
        The runner's name.
    workers : int
        Calls that may run at the same time.
    cpus : int
        CPUs that this process may use.
    memory : int
        Bytes of values allowed at the same time.
    cgroups : sequence of (str, str, str)
        Files with the limit, the use, and the parts of the use, of each memory cgroup of this process.
    arrays_read_only : bool
        Whether arrays arrive with WRITEABLE cleared.
    environment : dict, optional
        Environment variables of its workers, beside this process's.
    preload : sequence of str
        Modules that its workers find imported.
    """

    name: str
    workers: int
    cpus: int
    memory: int
    cgroups: Sequence[tuple[str, str, str]] = ()
    arrays_read_only: bool = False
    environment: dict[str, str] | None = None
    preload: Sequence[str] = ()


@frozen
class CallOptions:
    """Limits of calls, and what is done when one fails. Times are seconds.

    Parameters
    ----------
    timeout : float, optional
        Run time of a call, each attempt anew.
    deadline : float, optional
        From the call's submission to its end.
    retries : int
        Attempts after the first.
    retry_on : tuple of exception types
        After which failures there is another attempt.
    backoff : float
        Pause before the first retry; twice as long before each further one.
    priority : {"normal", "urgent"}
        Urgent calls run before normal ones that are queued.
    capture : bool
        What the call prints is kept for its future.
    detached : bool
        The call runs although nobody holds its future.
    """

    timeout: float | None = None
    deadline: float | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = (WorkerDiedError,)
    backoff: float = 0.0
    priority: str = NORMAL
    capture: bool = False
    detached: bool = False


@record
class MapOptions:
    """How `map` calls a service for many items.

    Parameters
    ----------
    chunksize : int, optional
        Items of one call; None: as many as the measure of the calls before suggests.
    timeout : float, optional
        Seconds from the map's begin to its last result.
    ordered : bool
        Results come in the order of the items.
    star : bool
        An item is the arguments of its call.
    return_exceptions : bool
        An item's exception stands in the place of its result.
    length : int, optional
        Items there are, if that is known.
    eager : bool
        All items are called, whether or not anybody takes the results.
    ahead : int, optional
        Calls made ahead of the results that were taken; None: as many as keep the workers busy.
    """

    chunksize: int | None = None
    timeout: float | None = None
    ordered: bool = True
    star: bool = False
    return_exceptions: bool = False
    length: int | None = None
    eager: bool = False
    ahead: int | None = None


@record
class ServiceSpec:
    """A service as its workers know it; the segment holds it as a blob.

    Parameters
    ----------
    name : str
        For messages.
    kind : {"function", "class", "instance"}
    target : bytes
        The pickled function, class or instance, or the `Construction` of one.
    methods : tuple of str
        Public methods by their number; `""` is the call of the object itself.
    cpu : int
        CPUs a call takes: the worker's limit for threads of Numba, OpenMP and BLAS.
    session_id, application : str
        The session's names.
    concurrency : int
        Calls of coroutine functions that a worker runs at once.
    levels : dict, optional
        Levels of the loggers of the process that made it, see `engine.log_records`.
    project : dict, optional
        The plan of the snapshot that its workers import from, with its `number`; None: the one the runner began with.
    seed : tuple of int, optional
        Words of the key that the keys of its calls are made of; None: they have none.
    """

    name: str
    kind: str
    target: bytes
    methods: tuple[str, ...]
    cpu: int
    session_id: str
    application: str
    concurrency: int = 1
    levels: dict[str, int] | None = None
    project: dict[str, Any] | None = None
    seed: tuple[int, int] | None = None

    def to_blob(self) -> bytes:
        """Return the spec as bytes: the target follows the rest as JSON, which `dump` reads without unpickling."""
        described = json.dumps([getattr(self, name) for name in DESCRIBED]).encode()
        return len(described).to_bytes(HEAD_BYTES, "little") + described + self.target

    @classmethod
    def from_blob(cls, blob: bytes) -> ServiceSpec:
        described, target = described_by(blob)
        described["methods"] = tuple(described["methods"])
        described["seed"] = described["seed"] and tuple(described["seed"])
        return cls(target=target, **described)


class Construction:
    """A class with the arguments of its constructor: an instance that is made in the process where it lives.

    Parameters
    ----------
    cls : type
    args : tuple
    kwargs : dict
    """

    def __init__(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.cls = cls
        self.args = args
        self.kwargs = kwargs

    def __call__(self) -> Any:
        return self.cls(*self.args, **self.kwargs)


#: The fields of a spec in its JSON, in this order.
DESCRIBED = tuple(name for name in fields(ServiceSpec) if name != "target")

#: Bytes of the JSON's length, in front of it.
HEAD_BYTES = 4


def described_by(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a blob's fields but for the target, and the target's bytes. Safe to call with any bytes.

    Raises
    ------
    ValueError
        The bytes are no blob.
    """
    end = HEAD_BYTES + int.from_bytes(blob[:HEAD_BYTES], "little")
    described = json.loads(blob[HEAD_BYTES:end])
    if not isinstance(described, list):
        raise ValueError(f"description of a service: expected a list, got a {type(described).__name__}")
    return dict(zip(DESCRIBED, described, strict=True)), blob[end:]
