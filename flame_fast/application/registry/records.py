"""Records of the registry: applications, their attributes, and their owners."""

from __future__ import annotations

from enum import IntEnum

from flame_fast._records import fields, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any


class Shim(IntEnum):
    """Kinds of host for an application's instances; only recorded, since here it is always `HOST`."""

    HOST = 0
    WASM = 1
    CRI = 3


class ApplicationState(IntEnum):
    """States of an application: whether it takes work."""

    ENABLED = 0
    DISABLED = 1


def _show(self: Any) -> str:
    """Show the fields that are not None: most attributes are left out most of the time."""
    shown = [f"{field}={value!r}" for field in fields(type(self)) if (value := getattr(self, field)) is not None]
    return f"{type(self).__name__}({', '.join(shown)})"


@record
class ApplicationSchema:
    """Schema of an application's data; only recorded.

    Parameters
    ----------
    input, output, common_data : str, optional
    """

    input: str | None = None
    output: str | None = None
    common_data: str | None = None

    __repr__ = _show


@record
class ApplicationAttributes:
    """Attributes that an application is registered with; all may be left out.

    Parameters
    ----------
    shim : Shim, optional
    image, description, command, working_directory, url, installer : str, optional
    labels, arguments : list of str, optional
    environments : dict of str to str, optional
    max_instances, delay_release : int, optional
        At least 0.
    schema : ApplicationSchema, optional
    """

    shim: Shim | int | None = None
    image: str | None = None
    description: str | None = None
    labels: list[str] | None = None
    command: str | None = None
    arguments: list[str] | None = None
    environments: dict[str, str] | None = None
    working_directory: str | None = None
    max_instances: int | None = None
    delay_release: int | None = None
    schema: ApplicationSchema | None = None
    url: str | None = None
    installer: str | None = None

    __repr__ = _show


class Application(ApplicationAttributes):
    """A registered application: its attributes, with its name, state and the time it was registered (UTC)."""

    __slots__ = ("name", "state", "creation_time")
    _fields = (*__slots__, *fields(ApplicationAttributes))

    def __init__(self, name: str, state: ApplicationState, creation_time: datetime, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.name: str = name
        self.state: ApplicationState = state
        self.creation_time: datetime = creation_time

    def attributes(self) -> ApplicationAttributes:
        """Return a copy of the attributes that it was registered with."""
        return ApplicationAttributes(**{field: getattr(self, field) for field in fields(ApplicationAttributes)})


@record
class Owner:
    """A row of ``owners``: one Runner, and what the clean-up must remove after it.

    Attributes
    ----------
    token : str
        Names its lock file: see `flame_fast.application.liveness`.
    application : str
    ready : bool
        Whether it has registered or joined the application; before that it is only on its way.
    directory : str
        The directory that it packages.
    storage : str or None
        The configured storage's directory; None for the default one, in the data directory.
    package : str or None
        The name of the package that it has uploaded, or was about to upload.
    url : str or None
        The package's URL.
    pid : int
    host : str
    """

    token: str
    application: str
    ready: bool
    directory: str
    storage: str | None
    package: str | None
    url: str | None
    pid: int
    host: str

    def describe(self) -> str:
        """Return the owner's name for messages."""
        return f"process {self.pid} on host {self.host!r} (in {self.directory!r})"
