"""The registry's SQLite database: transactions on two tables, applications and owners.

``applications`` is what users see: one row per name, for Flame's own applications (`BUILT_IN_APPLICATIONS`), registered by
hand, or by a Runner. ``owners`` is what the clean-up reads: one row per Runner, with everything that must go when it ends. A
Runner writes its row before it makes anything, so the row names all that the Runner leaves behind, however it dies.

Guarantees
    Every change is one transaction, so a process may die anywhere. Whether an owner lives is asked of `liveness`, inside the
    transaction that acts on the answer.
Assumes
    SQLite's write-ahead log: all processes on one host. Owners in other containers of that host are fine.

A connection lives for one operation, since opening one costs 0.2 ms. It must not cross a fork: SQLite keeps in the process
what the process has locked, and a child has none of these locks. So a fork waits for the transactions of other threads, and
the child closes the connections that it finds.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sqlite3
import time
import weakref

from flame_fast._records import fields
from flame_fast.application import liveness
from flame_fast.application.registry.records import (
    Application,
    ApplicationAttributes,
    ApplicationSchema,
    ApplicationState,
    Owner,
    Shim,
)
from flame_fast.config import DEFAULT_TEMPLATE, check_trusted
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.scarcity import explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: Seconds to wait for other processes' transactions, each of which takes a fraction of a millisecond.
_BUSY_S = 30.0

#: Seconds that a fork waits for transactions of other threads.
_FORK_S = 5.0

#: Where an application comes from; only what a Runner registered goes with its last owner.
BUILT_IN, BY_HAND, BY_RUNNER = 0, 1, 2

#: Flame's own applications: the Runner's template, and those of its tools, which are only listed here.
BUILT_IN_APPLICATIONS = {
    DEFAULT_TEMPLATE: "runs functions, classes and objects of a packaged Python project",
    "flmexec": "runs scripts in a Flame cluster; only listed here",
    "flmping": "answers in a Flame cluster; only listed here",
}

#: The columns of the attributes, then all of an application's, then an owner's: each in the order of its record.
_ATTRIBUTES = fields(ApplicationAttributes)
_APPLICATION_COLUMNS = ", ".join(("name", "state", "creation_time", *_ATTRIBUTES))
_OWNER_COLUMNS = ", ".join(fields(Owner))

_SCHEMA = f"""
CREATE TABLE applications (
    name TEXT PRIMARY KEY, origin INTEGER NOT NULL, state INTEGER NOT NULL, creation_time REAL NOT NULL,
    {", ".join(_ATTRIBUTES)}
) WITHOUT ROWID;
CREATE TABLE owners (
    token TEXT PRIMARY KEY, application TEXT NOT NULL, ready INTEGER NOT NULL, directory NOT NULL,
    storage, package, url, pid INTEGER NOT NULL, host TEXT NOT NULL, boot TEXT, pid_namespace TEXT,
    created REAL NOT NULL
) WITHOUT ROWID;
"""

#: The format's number, as `PRAGMA user_version`; another one is refused.
_VERSION = 1


#: Held while a thread of this process is in a transaction, a statement, or opens or closes a connection.
_at_work = _thread.RLock()
_open: weakref.WeakSet[Registry] = weakref.WeakSet()
_held_for_forks: list[bool] = []


def _before_fork() -> None:
    _held_for_forks.append(_at_work.acquire(timeout=_FORK_S))


def _after_fork_in_parent() -> None:
    if _held_for_forks.pop():
        _at_work.release()


def _after_fork_in_child() -> None:
    global _at_work
    whole = _held_for_forks.pop()
    _held_for_forks.clear()
    _at_work = _thread.RLock()
    for registry in list(_open) if whole else ():
        registry.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


class Registry:
    """One connection to the registry of a data directory; a context manager that closes it.

    Parameters
    ----------
    home : str
        The data directory.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.path: str = os.path.join(home, "registry.db")
        self._connection = self._open()
        _open.add(self)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(sqlite3.Error), _at_work:
            self._connection.close()

    # ---- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        with self._errors(), _at_work:
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
                self._connection = connection
                self._add_built_in()
            except BaseException:
                connection.close()
                raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        self._make_private()
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        # Nothing here is worth waiting for the disk: after a crash of the machine every owner is dead anyway.
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _make_private(self) -> None:
        """Make the file before SQLite does, which follows the umask, and gives the log the file's mode."""
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # a data directory that is gone: SQLite says so
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            found = check_trusted(self.path, "the registry")
        except OSError:
            return
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():  # an earlier version's
            os.chmod(self.path, 0o600)

    def _version(self, connection: sqlite3.Connection) -> int:
        version: int = self._retry(lambda: connection.execute("PRAGMA user_version").fetchone()[0])
        return version

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables, under a lock file: the switch to the write-ahead log does not wait for other processes."""
        lock = self._lock()
        try:
            if self._version(connection) != 0:
                return
            self._retry(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone())
            self._connection = connection
            with self.transaction():
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={_VERSION}")
        finally:
            os.close(lock)

    def _add_built_in(self) -> None:
        """Add the built-in applications that the registry lacks: a new one, or one that an earlier version made."""
        named = tuple(BUILT_IN_APPLICATIONS)
        marks = ", ".join("?" * len(named))
        if self._rows(f"SELECT count(*) FROM applications WHERE name IN ({marks})", *named) == [(len(named),)]:
            return
        with self.transaction():
            for name, description in BUILT_IN_APPLICATIONS.items():
                if self.origin(name) is None:
                    self.insert(name, ApplicationAttributes(shim=Shim.HOST, description=description), BUILT_IN)

    def _lock(self) -> int:
        """Return a descriptor of the lock file, locked."""
        import fcntl

        lock = -1
        try:
            lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            raise FlameError(
                FlameErrorCode.INTERNAL, f"the registry {self.path!r} cannot be used: {explained(error)}"
            ) from error
        return lock

    def _retry(self, operation: Callable[[], Any]) -> Any:
        """Retry where SQLite says it is busy without having waited: a log that is opened, closed or recovered."""
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
            hint = "check the disk and the permissions of its directory, or set $FLAME_FAST_HOME to another one"
            if _code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                hint = "remove it; it holds no more than the applications registered by hand"
            elif _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                hint = f"{_holders(self.path)} holds a lock on it, and has for {_BUSY_S:g} s; end it, or what it does there"
            elif _code(error) == sqlite3.SQLITE_FULL:
                hint = "make room there, or set $FLAME_FAST_HOME to another directory"
            elif _code(error) == sqlite3.SQLITE_CANTOPEN:  # SQLite does not tell why
                hint += "; are there file descriptors left (`ulimit -n`)?"
            raise FlameError(
                FlameErrorCode.INTERNAL, f"the registry {self.path!r} cannot be used: {error}; {hint}"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make one change, alone: other writers wait; an exception rolls all of it back."""
        with self._errors(), _at_work:
            self._retry(lambda: self._connection.execute("BEGIN IMMEDIATE"))
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors(), _at_work:
            rows: list[tuple[Any, ...]] = self._retry(lambda: self._connection.execute(statement, values).fetchall())
        return rows

    # ---- applications ------------------------------------------------------------------------------------------------

    def applications(self) -> list[Application]:
        """Return all applications, ordered by name."""
        rows = self._rows(f"SELECT {_APPLICATION_COLUMNS} FROM applications ORDER BY name")
        return [_application(row) for row in rows]

    def application(self, name: str) -> Application | None:
        """Return the application of a name, None if there is none."""
        try:
            name.encode()
        except UnicodeEncodeError:
            return None  # `check_name` refuses such a name
        rows = self._rows(f"SELECT {_APPLICATION_COLUMNS} FROM applications WHERE name = ?", name)
        return _application(rows[0]) if rows else None

    def origin(self, name: str) -> int | None:
        """Return where an application comes from, None if there is none."""
        rows = self._rows("SELECT origin FROM applications WHERE name = ?", name)
        return rows[0][0] if rows else None

    def insert(self, name: str, attributes: ApplicationAttributes, origin: int) -> None:
        """Add an application. Within a transaction."""
        values = [_to_column(field, getattr(attributes, field)) for field in _ATTRIBUTES]
        self._rows(
            f"INSERT INTO applications ({_APPLICATION_COLUMNS}, origin) VALUES ({', '.join('?' * (4 + len(values)))})",
            name,
            int(ApplicationState.ENABLED),
            time.time(),
            *values,
            origin,
        )

    def delete(self, name: str) -> None:
        """Remove an application."""
        self._rows("DELETE FROM applications WHERE name = ?", name)

    # ---- owners ------------------------------------------------------------------------------------------------------

    def owners(self, application: str | None = None) -> list[Owner]:
        """Return the owners of one application, or all."""
        if application is None:
            rows = self._rows(f"SELECT {_OWNER_COLUMNS} FROM owners")
        else:
            rows = self._rows(f"SELECT {_OWNER_COLUMNS} FROM owners WHERE application = ?", application)
        return [_owner(row) for row in rows]

    def live_owners(self, application: str) -> list[Owner]:
        """Return the owners that have registered or joined the application and still live."""
        return [owner for owner in self.owners(application) if owner.ready and liveness.is_alive(self.home, owner.token)]

    def add_owner(self, token: str, application: str, directory: str, storage: str | None) -> None:
        """Write down that this process is about to enter an application."""
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
        """Write down what is about to be uploaded, so that the clean-up finds it if the owner dies meanwhile."""
        self._rows("UPDATE owners SET package = ?, url = ? WHERE token = ?", package, _to_text(url), token)

    def enroll(self, token: str, name: str, attributes: ApplicationAttributes, *, fail_if_exists: bool) -> None:
        """Register the owner's application, or join the one that is there. Within a transaction."""
        self.check_free(name, fail_if_exists)
        origin = self.origin(name)
        if origin == BY_RUNNER and not self.live_owners(name):
            self.delete(name)  # its owners have died since this one entered
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
        raise already_exists(name, self, "choose another name, or leave out fail_if_exists=True to join it")

    def remove_owner(self, token: str) -> Owner | None:
        """Remove an owner, and the application with its last owner. Within a transaction.

        Returns
        -------
        Owner or None
            The owner removed, None if there is no such owner.
        """
        rows = self._rows(f"SELECT {_OWNER_COLUMNS} FROM owners WHERE token = ?", token)
        if not rows:
            return None
        owner = _owner(rows[0])
        self._rows("DELETE FROM owners WHERE token = ?", token)
        name = owner.application
        if owner.ready and self.origin(name) == BY_RUNNER:
            others = self.live_owners(name)
            if not others:
                self.delete(name)
            else:
                # The registration outlives the owner that made it: it shows a package that is still there.
                self._rows(
                    "UPDATE applications SET url = ?, working_directory = ? WHERE name = ? AND url = ?",
                    _to_text(others[0].url),
                    _to_text(others[0].directory),
                    name,
                    _to_text(owner.url),
                )
        return owner

    def is_package_used(self, owner: Owner) -> bool:
        """Return whether an owner still listed has the same package in the same storage."""
        rows = self._rows(
            "SELECT 1 FROM owners WHERE package = ? AND storage IS ? LIMIT 1", owner.package, _to_text(owner.storage)
        )
        return bool(rows)


def _holders(path: str) -> str:
    """Return the processes that have locked a database, as text."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        numbers = {os.stat(path + suffix).st_ino for suffix in ("", "-wal", "-shm") if os.path.exists(path + suffix)}
        with open("/proc/locks") as locks:
            lines = [line.replace("->", "").split() for line in locks]
        found = {words[4] for words in lines if int(words[5].rpartition(":")[2]) in numbers}
    named = sorted(f"process {pid} ({_name_of(pid)})" for pid in found - {str(os.getpid())})
    return " and ".join(named) or "another program"


def _name_of(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "it is gone"


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 for an error of the module's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _application(row: tuple[Any, ...]) -> Application:
    from datetime import UTC, datetime

    attributes = {field: _from_column(field, value) for field, value in zip(_ATTRIBUTES, row[3:], strict=True)}
    created = datetime.fromtimestamp(row[2], UTC)
    return Application(row[0], ApplicationState(row[1]), created, **attributes)


def _owner(row: tuple[Any, ...]) -> Owner:
    token, application, ready, directory, storage, package, url, pid, host = row
    return Owner(
        token, application, bool(ready), _from_text(directory), _from_text(storage), package, _from_text(url), pid, host
    )


#: Attributes that a column holds as JSON.
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
    """Return text for SQLite: a path that is not UTF-8 becomes bytes."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def _from_text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, bytes) else value


def already_exists(name: str, registry: Registry, hint: str) -> FlameError:
    """Return the error about a name that is taken."""
    owners = registry.live_owners(name)
    by = f", in use by {owners[0].describe()}" if owners else ""
    return FlameError(FlameErrorCode.ALREADY_EXISTS, f"application {name!r} already exists{by}; {hint}")
