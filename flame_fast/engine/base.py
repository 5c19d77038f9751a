"""How a service is described to an engine's workers."""

from __future__ import annotations

import pickle

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
        return pickle.dumps(tuple(getattr(self, name) for name in sorted(self.__slots__)), 5)

    @classmethod
    def from_blob(cls, blob: bytes) -> ServiceSpec:
        return cls(**dict(zip(sorted(cls.__slots__), pickle.loads(blob), strict=True)))
