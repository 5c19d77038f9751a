"""The registry of applications: a SQLite database in the data directory, and who owns what in it.

Two tables. ``applications`` is what users see: one row per name, made by Flame's own template (`flmrun`),
by hand, or by a Runner. ``owners`` is what the clean-up reads: one row per Runner, with everything that
must go when it ends. A Runner writes its row before it makes anything, so whatever it leaves behind,
however it dies, is named there.

Guarantees
    Every change is one transaction, so a process may die anywhere. Whether an owner lives is asked of
    `ownership`, inside the transaction that acts on the answer.
Assumes
    SQLite's write-ahead log: all processes on one host. Owners in other containers of that host are fine.

A connection lives for one operation: it must not cross a fork, and opening one costs 0.2 ms.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from enum import IntEnum

from flame_fast.application import liveness
from flame_fast.config import DEFAULT_TEMPLATE, home_directory
from flame_fast.errors import FlameError, FlameErrorCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from typing import Any

_BUSY_S = 30.0
"""How long to wait for other processes' transactions, each of which takes a fraction of a millisecond."""


class Shim(IntEnum):
    """What runs an application's instances; recorded, for here it is always the host."""

    HOST = 0
    WASM = 1
    CRI = 3


class ApplicationState(IntEnum):
    """Whether an application takes work."""

    ENABLED = 0
    DISABLED = 1


class ApplicationSchema:
    """What an application's data look like; recorded.

    Parameters
    ----------
    input, output, common_data : str, optional
    """

    __slots__ = ("input", "output", "common_data")

    def __init__(self, input: str | None = None, output: str | None = None, common_data: str | None = None) -> None:
        self.input = input
        self.output = output
        self.common_data = common_data

    def __repr__(self) -> str:
        return _show(self, self.__slots__)

    def __eq__(self, other: object) -> bool:
        return _same(self, other, self.__slots__)

    __hash__ = None  # type: ignore[assignment]


_FIELDS = (
    "shim",
    "image",
    "description",
    "labels",
    "command",
    "arguments",
    "environments",
    "working_directory",
    "max_instances",
    "delay_release",
    "schema",
    "url",
    "installer",
)


class ApplicationAttributes:
    """What an application is registered with; all of it may be left out.

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

    __slots__ = _FIELDS

    def __init__(
        self,
        shim: Shim | int | None = None,
        image: str | None = None,
        description: str | None = None,
        labels: list[str] | None = None,
        command: str | None = None,
        arguments: list[str] | None = None,
        environments: dict[str, str] | None = None,
        working_directory: str | None = None,
        max_instances: int | None = None,
        delay_release: int | None = None,
        schema: ApplicationSchema | None = None,
        url: str | None = None,
        installer: str | None = None,
    ) -> None:
        self.shim = shim
        self.image = image
        self.description = description
        self.labels = labels
        self.command = command
        self.arguments = arguments
        self.environments = environments
        self.working_directory = working_directory
        self.max_instances = max_instances
        self.delay_release = delay_release
        self.schema = schema
        self.url = url
        self.installer = installer

    def __repr__(self) -> str:
        return _show(self, _FIELDS)

    def __eq__(self, other: object) -> bool:
        return _same(self, other, _FIELDS)

    __hash__ = None  # type: ignore[assignment]


class Application(ApplicationAttributes):
    """A registered application: its attributes, with its name, state and the time it was registered (UTC)."""

    __slots__ = ("name", "state", "creation_time")

    def __init__(self, name: str, state: ApplicationState, creation_time: datetime, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.name = name
        self.state = state
        self.creation_time = creation_time

    def __repr__(self) -> str:
        return _show(self, ("name", "state", "creation_time", *_FIELDS))

    def __eq__(self, other: object) -> bool:
        return _same(self, other, ("name", "state", "creation_time", *_FIELDS))

    __hash__ = None

    def attributes(self) -> ApplicationAttributes:
        """A copy of what it was registered with."""
        return ApplicationAttributes(**{field: getattr(self, field) for field in _FIELDS})


def list_applications() -> list[Application]:
    """Return every registered application, ordered by name."""
    with Registry(home_directory()) as registry:
        return registry.applications()


def get_application(name: str) -> Application | None:
    """Return the application registered under a name, None if there is none."""
    if not isinstance(name, str):
        return None
    with Registry(home_directory()) as registry:
        return registry.application(name)


def register_application(name: str, attributes: ApplicationAttributes | Mapping[str, Any]) -> None:
    """Register an application; it stays until `unregister_application`.

    Parameters
    ----------
    name : str
        By the rules of a Runner's name.
    attributes : ApplicationAttributes or mapping
        A mapping is taken as the keywords of `ApplicationAttributes`.

    Raises
    ------
    FlameError
        ``ALREADY_EXISTS``; ``INVALID_ARGUMENT`` for a bad name or an attribute of another type.
    """
    check_name(name)
    checked = _checked(attributes)
    with Registry(home_directory()) as registry, registry.transaction():
        if registry.origin(name) == BY_RUNNER and not registry.live_owners(name):
            registry.delete(name)
        if registry.origin(name) is not None:
            raise _already_exists(name, registry, "unregister it first, or choose another name")
        registry.insert(name, checked, BY_HAND)


def unregister_application(name: str) -> None:
    """Remove a registered application.

    Raises
    ------
    FlameError
        ``NOT_FOUND``; ``INVALID_STATE`` while a living Runner uses it, and for the built-in ``flmrun``.
    """
    with Registry(home_directory()) as registry, registry.transaction():
        origin = registry.origin(name) if isinstance(name, str) else None
        if origin is None:
            raise FlameError(
                FlameErrorCode.NOT_FOUND,
                f"application {name!r} is not registered; list_applications() shows those that are",
            )
        if origin == BUILT_IN:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"application {name!r} is built in and cannot be unregistered; leave it in place",
            )
        owners = registry.live_owners(name)
        if owners:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"application {name!r} is in use by {owners[0].describe()}; close that Runner first",
            )
        registry.delete(name)


def check_name(name: object) -> str:
    """Return a name that an application may have.

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` that says what is wrong with it.
    """
    if not isinstance(name, str):
        raise _bad_argument(f"name: expected text, got {type(name).__name__} {repr(name)[:60]}")
    problem = None
    if not 1 <= len(name) <= 253:
        problem = f"has {len(name)} characters; 1 to 253 are allowed"
    elif name[0] in ".-":
        problem = f"starts with {name[0]!r}; start it with a letter or digit"
    elif "/" in name or "\\" in name or ".." in name:
        problem = "contains '/', '\\' or '..'; leave them out"
    elif any(char < " " or "\x7f" <= char <= "\x9f" for char in name):
        problem = "contains a control character; leave it out"
    elif any("\ud800" <= char <= "\udfff" for char in name):
        problem = "contains half a surrogate pair, which is no character; leave it out"
    if problem:
        raise _bad_argument(f"name {repr(name)[:80]} {problem}")
    return name


BUILT_IN, BY_HAND, BY_RUNNER = 0, 1, 2
"""Where an application comes from; only what a Runner registered goes with its last owner."""


class Owner:
    """A row of ``owners``: one Runner, and what it leaves to clean up."""

    __slots__ = ("token", "application", "ready", "directory", "storage", "package", "url", "pid", "host")

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.token: str = row[0]
        self.application: str = row[1]
        self.ready: bool = bool(row[2])
        """It is registered, or joined; before that it is only on its way."""
        self.directory: str = _from_text(row[3])
        self.storage: str | None = _from_text(row[4])
        """The configured storage's directory, None for the default one, which lies in the data directory."""
        self.package: str | None = row[5]
        """The name of the package that it has uploaded, or was about to."""
        self.url: str | None = _from_text(row[6])
        self.pid: int = row[7]
        self.host: str = row[8]

    def describe(self) -> str:
        return f"process {self.pid} on host {self.host!r} (in {self.directory!r})"


_OWNER_COLUMNS = "token, application, ready, directory, storage, package, url, pid, host"

_SCHEMA = f"""
CREATE TABLE applications (
    name TEXT PRIMARY KEY, origin INTEGER NOT NULL, state INTEGER NOT NULL, creation_time REAL NOT NULL,
    {", ".join(_FIELDS)}
) WITHOUT ROWID;
CREATE TABLE owners (
    token TEXT PRIMARY KEY, application TEXT NOT NULL, ready INTEGER NOT NULL, directory NOT NULL,
    storage, package, url, pid INTEGER NOT NULL, host TEXT NOT NULL, boot TEXT, pid_namespace TEXT,
    created REAL NOT NULL
) WITHOUT ROWID;
"""

_VERSION = 1


class Registry:
    """One connection to the registry of a data directory; a context manager that closes it.

    Parameters
    ----------
    home : str
        The data directory.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.path = os.path.join(home, "registry.db")
        self._connection = self._open()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    # Opening

    def _open(self) -> sqlite3.Connection:
        with self._errors():
            connection = self._connect()
            try:
                version = self._version(connection)
                if version == 0:
                    self._create(connection)
                elif version != _VERSION:
                    raise FlameError(
                        FlameErrorCode.INVALID_STATE,
                        f"the registry {self.path!r} was made by another version of flame_fast (format "
                        f"{version}, this one knows {_VERSION}); set $FLAME_FAST_HOME to another directory",
                    )
            except BaseException:
                connection.close()
                raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        # Nothing here is worth waiting for the disk: after a crash of the machine every owner is dead anyway.
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        version: int = self._retry(lambda: connection.execute("PRAGMA user_version").fetchone()[0])
        return version

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables, once: the switch to the write-ahead log does not wait for others by itself."""
        import fcntl

        lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._version(connection) != 0:
                return
            self._retry(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone())
            self._connection = connection
            with self.transaction():
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                self.insert(DEFAULT_TEMPLATE, _flmrun(), BUILT_IN)
                connection.execute(f"PRAGMA user_version={_VERSION}")
        finally:
            os.close(lock)

    def _retry(self, operation: Callable[[], Any]) -> Any:
        """Where SQLite says it is busy without having waited: a log that is opened, closed or recovered."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                return operation()
            except sqlite3.OperationalError as error:
                if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            hint = "check the disk and the permissions of its directory"
            if _code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                hint = "remove it; it holds no more than the applications registered by hand"
            raise FlameError(
                FlameErrorCode.INTERNAL, f"the registry {self.path!r} cannot be used: {error}; {hint}"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """One change, alone: others that want to write wait; an exception takes all of it back."""
        with self._errors():
            self._retry(lambda: self._connection.execute("BEGIN IMMEDIATE"))
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            rows: list[tuple[Any, ...]] = self._retry(lambda: self._connection.execute(statement, values).fetchall())
        return rows

    # Applications

    def applications(self) -> list[Application]:
        columns = ", ".join(_FIELDS)
        rows = self._rows(f"SELECT name, state, creation_time, {columns} FROM applications ORDER BY name")
        return [_application(row) for row in rows]

    def application(self, name: str) -> Application | None:
        try:
            name.encode()
        except UnicodeEncodeError:
            return None  # no name that was ever let in
        columns = ", ".join(_FIELDS)
        rows = self._rows(f"SELECT name, state, creation_time, {columns} FROM applications WHERE name = ?", name)
        return _application(rows[0]) if rows else None

    def origin(self, name: str) -> int | None:
        """Where the application comes from, None if there is none."""
        rows = self._rows("SELECT origin FROM applications WHERE name = ?", name)
        return rows[0][0] if rows else None

    def insert(self, name: str, attributes: ApplicationAttributes, origin: int) -> None:
        values = [_to_column(field, getattr(attributes, field)) for field in _FIELDS]
        columns = ", ".join(("name", "origin", "state", "creation_time", *_FIELDS))
        marks = ", ".join("?" * (4 + len(_FIELDS)))
        self._rows(
            f"INSERT INTO applications ({columns}) VALUES ({marks})",
            name,
            origin,
            int(ApplicationState.ENABLED),
            time.time(),
            *values,
        )

    def delete(self, name: str) -> None:
        self._rows("DELETE FROM applications WHERE name = ?", name)

    # Owners

    def owners(self, application: str | None = None) -> list[Owner]:
        if application is None:
            rows = self._rows(f"SELECT {_OWNER_COLUMNS} FROM owners")
        else:
            rows = self._rows(f"SELECT {_OWNER_COLUMNS} FROM owners WHERE application = ?", application)
        return [Owner(row) for row in rows]

    def live_owners(self, application: str) -> list[Owner]:
        """Those that have registered or joined the application and still live."""
        return [owner for owner in self.owners(application) if owner.ready and liveness.is_alive(self.home, owner.token)]

    def add_owner(self, token: str, application: str, directory: str, storage: str | None) -> None:
        boot = namespace = None
        with contextlib.suppress(OSError):
            namespace = os.readlink("/proc/self/ns/pid")
            with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
                boot = file.read().strip()
        self._rows(
            f"INSERT INTO owners ({_OWNER_COLUMNS}, boot, pid_namespace, created) "
            "VALUES (?, ?, 0, ?, ?, NULL, NULL, ?, ?, ?, ?, ?)",
            token,
            application,
            _to_text(directory),
            _to_text(storage),
            os.getpid(),
            os.uname().nodename,
            boot,
            namespace,
            time.time(),
        )

    def set_package(self, token: str, package: str, url: str) -> None:
        """Write down what is about to be uploaded, so that it is found if the owner dies while it does so."""
        self._rows("UPDATE owners SET package = ?, url = ? WHERE token = ?", package, _to_text(url), token)

    def enroll(self, token: str, name: str, attributes: ApplicationAttributes, *, fail_if_exists: bool) -> None:
        """Register the owner's application, or join the one that is there. Within a transaction."""
        self.check_free(name, fail_if_exists)
        origin = self.origin(name)
        if origin == BY_RUNNER and not self.live_owners(name):
            self.delete(name)  # its owners died since this one came in
            origin = None
        if origin is None:
            self.insert(name, attributes, BY_RUNNER)
        self._rows("UPDATE owners SET ready = 1 WHERE token = ?", token)

    def check_free(self, name: str, fail_if_exists: bool) -> None:
        """Raise ``ALREADY_EXISTS`` if the name must be free and is not."""
        if not fail_if_exists:
            return
        origin = self.origin(name)
        if origin is None or (origin == BY_RUNNER and not self.live_owners(name)):
            return
        raise _already_exists(name, self, "choose another name, or leave out fail_if_exists=True to join it")

    def remove_owner(self, token: str) -> Owner | None:
        """Take an owner out, and its application with the last one. Within a transaction.

        Returns
        -------
        Owner or None
            What it was, None if there is no such owner.
        """
        rows = self._rows(f"SELECT {_OWNER_COLUMNS} FROM owners WHERE token = ?", token)
        if not rows:
            return None
        owner = Owner(rows[0])
        self._rows("DELETE FROM owners WHERE token = ?", token)
        name = owner.application
        if owner.ready and self.origin(name) == BY_RUNNER:
            others = self.live_owners(name)
            if not others:
                self.delete(name)
            else:
                # The registration outlives the one that made it: let it show a package that is still there.
                self._rows(
                    "UPDATE applications SET url = ?, working_directory = ? WHERE name = ? AND url = ?",
                    _to_text(others[0].url),
                    _to_text(others[0].directory),
                    name,
                    _to_text(owner.url),
                )
        return owner

    def is_package_used(self, owner: Owner) -> bool:
        """Whether some owner still listed has the same package in the same storage."""
        rows = self._rows(
            "SELECT 1 FROM owners WHERE package = ? AND storage IS ? LIMIT 1", owner.package, _to_text(owner.storage)
        )
        return bool(rows)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 for an error of the module's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _flmrun() -> ApplicationAttributes:
    return ApplicationAttributes(
        shim=Shim.HOST, description="runs functions, classes and objects of a packaged Python project"
    )


def _application(row: tuple[Any, ...]) -> Application:
    from datetime import UTC, datetime

    attributes = {field: _from_column(field, value) for field, value in zip(_FIELDS, row[3:], strict=True)}
    created = datetime.fromtimestamp(row[2], UTC)
    return Application(row[0], ApplicationState(row[1]), created, **attributes)


_JSON_FIELDS = frozenset(("labels", "arguments", "environments", "schema"))


def _to_column(field: str, value: Any) -> Any:
    if value is None:
        return None
    if field in _JSON_FIELDS:
        import json

        if isinstance(value, ApplicationSchema):
            value = [value.input, value.output, value.common_data]
        return json.dumps(value)
    return int(value) if isinstance(value, int) else _to_text(value)


def _from_column(field: str, value: Any) -> Any:
    if value is None:
        return None
    if field in _JSON_FIELDS:
        import json

        loaded = json.loads(value)
        return ApplicationSchema(*loaded) if field == "schema" else loaded
    if field == "shim":
        return Shim(value)
    return _from_text(value)


def _to_text(text: str | None) -> str | bytes | None:
    """Text for SQLite; a path that is not UTF-8 goes in as bytes."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def _from_text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, bytes) else value


def _checked(attributes: ApplicationAttributes | Mapping[str, Any]) -> ApplicationAttributes:
    """A copy whose every attribute has its type."""
    if isinstance(attributes, ApplicationAttributes):
        values = {field: getattr(attributes, field) for field in _FIELDS}
    elif hasattr(attributes, "keys"):
        values = dict(attributes)
        unknown = sorted(str(key) for key in values if key not in _FIELDS)
        if unknown:
            raise _bad_argument(f"unknown application attribute {unknown[0]!r}; known: {', '.join(_FIELDS)}")
    else:
        raise _bad_argument(f"attributes: expected ApplicationAttributes, got {type(attributes).__name__}")
    for field, value in values.items():
        expected = _expectation(field, value)
        if value is not None and expected:
            raise _bad_argument(f"application attribute {field}: expected {expected}, got {repr(value)[:60]}")
    if values.get("shim") is not None:
        values["shim"] = Shim(values["shim"])
    return ApplicationAttributes(**values)


def _expectation(field: str, value: Any) -> str:
    """What an attribute should have been, nothing when it is."""
    if field == "shim":
        return "" if isinstance(value, int) and value in list(Shim) else f"one of {[*Shim.__members__]}"
    if field in ("max_instances", "delay_release"):
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        return "" if whole else "an integer of at least 0"
    if field in ("labels", "arguments"):
        return "" if isinstance(value, list) and all(map(_is_text, value)) else "a list of text"
    if field == "environments":
        fits = isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_text, value.values()))
        return "" if fits else "a dict of text to text"
    if field == "schema":
        return "" if isinstance(value, ApplicationSchema) else "an ApplicationSchema"
    return "" if _is_text(value) else "text"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _already_exists(name: str, registry: Registry, hint: str) -> FlameError:
    owners = registry.live_owners(name)
    by = f", in use by {owners[0].describe()}" if owners else ""
    return FlameError(FlameErrorCode.ALREADY_EXISTS, f"application {name!r} already exists{by}; {hint}")


def _bad_argument(message: str) -> FlameError:
    return FlameError(FlameErrorCode.INVALID_ARGUMENT, message)


def _show(record: object, fields: tuple[str, ...]) -> str:
    shown = [f"{field}={value!r}" for field in fields if (value := getattr(record, field)) is not None]
    return f"{type(record).__name__}({', '.join(shown)})"


def _same(one: object, other: object, fields: tuple[str, ...]) -> bool:
    if type(one) is not type(other):
        return False
    return all(getattr(one, field) == getattr(other, field) for field in fields)
