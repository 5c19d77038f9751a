"""How a service is described to an engine's workers."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FUNCTION, CLASS, INSTANCE = "function", "class", "instance"


class ServiceSpec:
    """A service as a worker needs to know it; travels as a blob in the segment.

    Parameters
    ----------
    name : str
        For messages.
    kind : {"function", "class", "instance"}
    target : bytes
        The pickled function, class or instance.
    methods : tuple of str
        Public methods by their number; `""` is the call of the object itself.
    cpu : int
        CPUs a call takes: the worker's limit for threads of Numba, OpenMP and BLAS.
    session_id, application : str
        The session's names.
    """

    __slots__ = ("application", "cpu", "kind", "methods", "name", "session_id", "target")

    def __init__(
        self,
        name: str,
        kind: str,
        target: bytes,
        methods: tuple[str, ...],
        cpu: int,
        session_id: str,
        application: str,
    ) -> None:
        self.name = name
        self.kind = kind
        self.target = target
        self.methods = methods
        self.cpu = cpu
        self.session_id = session_id
        self.application = application

    def to_blob(self) -> bytes:
        """Everything but the target comes first, as JSON: a `dump` of the runner reads it without unpickling anything."""
        described = json.dumps([getattr(self, name) for name in DESCRIBED]).encode()
        return len(described).to_bytes(HEAD, "little") + described + self.target

    @classmethod
    def from_blob(cls, blob: bytes) -> ServiceSpec:
        fields, target = described_by(blob)
        fields["methods"] = tuple(fields["methods"])
        return cls(target=target, **fields)


DESCRIBED = tuple(name for name in ServiceSpec.__slots__ if name != "target")
HEAD = 4  # bytes of the length of the description


def described_by(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """A blob's fields but for the target, and the target's bytes. ValueError if it is none.

    Safe to call with bytes that anybody wrote.
    """
    end = HEAD + int.from_bytes(blob[:HEAD], "little")
    fields = json.loads(blob[HEAD:end])
    if not isinstance(fields, list):
        raise ValueError("a description is a list")
    return dict(zip(DESCRIBED, fields, strict=True)), blob[end:]
