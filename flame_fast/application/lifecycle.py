"""An application's life: enter, and leave nothing behind.

    check arguments | own a token | write it down | package | write that down | upload | register
                      ownership     registry        package   registry          storage  registry

Whatever is made is named in the registry before it is made (its package, its temporary directory by its
token), so whoever looks later finds it: `Tenancy.release` at the end, `release_owner` in a process that saw
the owner die, or the next one to enter. All three do the same, in the same order, and may do it at once or
again after one of them was cut off anywhere:

    1. one transaction: the owner's row goes, the application's with the last owner, the package with the
    last that has it.
       The file is removed inside the transaction: who wants to upload the same package waits, and puts it
       there anew
    2. the temporary directory
    3. the lock file; while it is there, the next one to enter still looks for what is left of 1 and 2
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os

from flame_fast.application import liveness
from flame_fast.application.registry import ApplicationAttributes, Registry, get_application
from flame_fast.application.registry import check_name as check_name
from flame_fast.application.storage import Storage, open_storage
from flame_fast.config import FlameContext, home_directory
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package.notices import warn_user
from flame_fast.package.packing import pack
from flame_fast.package.requirements import check_dependencies
from flame_fast.package.sys_path import split_sys_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from flame_fast.package.packing import PackageInfo


class Tenancy:
    """One Runner's stay in an application, made by `enter_application`.

    Attributes
    ----------
    name : str
        The application's name.
    directory : str
        The directory that was packaged.
    archive : str
        The stored package's path.
    digest : str
        The package's digest.
    token : str
        The owner's token, for `release_owner`.
    home : str
        The data directory.
    attributes : ApplicationAttributes
        What this owner registers; in an application that it joined, what it would have registered.

    Notes
    -----
    `release` may be called from any thread; in a forked child it does nothing, for the child owns nothing.
    """

    __slots__ = ("name", "directory", "archive", "digest", "token", "home", "attributes", "_package", "_lock")

    def __init__(self, name: str, directory: str, home: str, token: str) -> None:
        self.name = name
        self.directory = directory
        self.home = home
        self.token = token
        self.archive = ""
        self.digest = ""
        self.attributes = ApplicationAttributes()
        self._package: PackageInfo | None = None
        self._lock = _thread.allocate_lock()

    def __repr__(self) -> str:
        return f"Tenancy(name={self.name!r}, token={self.token!r}, archive={self.archive!r})"

    def unpack_plan(self, sys_path: Iterable[str]) -> dict[str, Any]:
        """Say what a worker needs in order to import what the driver imports.

        Parameters
        ----------
        sys_path : iterable of str
            The driver's ``sys.path``.

        Returns
        -------
        dict
            For `flame_fast.package.sys_path.prepare`; of plain types, so it survives JSON and pickle. Also names the
            owner, for `release_owner`: keys ``home``, ``token``, ``name``, ``directory``, ``archive``,
            ``digest``, ``sys_path``.
        """
        assert self._package is not None
        parts = split_sys_path(sys_path, self.directory, self._package.holds)
        return {
            "home": self.home,
            "token": self.token,
            "name": self.name,
            "directory": self.directory,
            "archive": self.archive,
            "digest": self.digest,
            "sys_path": [[moves, path] for moves, path in parts],
        }

    def release(self) -> None:
        """Leave: the application goes with its last owner, the package with the last that has it.

        May be called again. Does nothing in a forked child.
        """
        with self._lock:
            if not liveness.holds(self.token):
                return
            try:
                with Registry(self.home) as registry, registry.transaction():
                    _remove(registry, self.token)
                _remove_temporary(self.home, self.token)
            finally:
                # Also when the registry failed: what is left is then reclaimed as a dead owner's.
                liveness.release(self.home, self.token)


def enter_application(
    name: str,
    *,
    fail_if_exists: bool = False,
    dependencies: Iterable[str] | None = None,
    python_version: str | None = None,
    context: FlameContext | None = None,
) -> Tenancy:
    """Package the current directory, upload it, and register the application or join it.

    Parameters
    ----------
    name : str
        1 to 253 characters; none of ``/ \\ ..``, no control characters, not starting with ``.`` or ``-``.
    fail_if_exists : bool
        Whether an application of that name, unless its owners are all dead, is an error.
    dependencies : iterable of str, optional
        Requirements that must be installed.
    python_version : str, optional
        The Python that must be running.
    context : FlameContext, optional
        The configuration; by default the one in force.

    Returns
    -------
    Tenancy
        To be given back by `Tenancy.release`; should the process end without that, by the next to enter.

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` and ``NOT_FOUND`` about the arguments, before anything is written;
        ``INVALID_CONFIG``; ``ALREADY_EXISTS``. What fails after that names its step (packaging, uploading,
        registering); nothing is left.
    """
    check_name(name)
    listed = check_dependencies(dependencies, python_version)
    if context is None:
        context = FlameContext()
    home = home_directory()
    storage = open_storage(context.package.storage, home)
    with _step("packaging", name):
        directory = _current_directory()
        _check_directory(directory, home, storage)
    tenancy = Tenancy(name, directory, home, liveness.acquire(home))
    try:
        _enter(tenancy, context, storage, listed, fail_if_exists)
    except BaseException:
        tenancy.release()
        raise
    return tenancy


def check_nested(name: str, outer: str, fail_if_exists: bool, dependencies: Any, python_version: Any) -> None:
    """What a Runner inside a task asks for, as far as it means something there: it enters nothing itself.

    Raises
    ------
    FlameError
        ``ALREADY_EXISTS``, ``NOT_FOUND`` or ``INVALID_ARGUMENT``, as `enter_application` does.
    """
    check_dependencies(dependencies, python_version)
    if fail_if_exists and (name == outer or get_application(name) is not None):
        raise FlameError(
            FlameErrorCode.ALREADY_EXISTS,
            f"application {name!r} exists already; give this runner another name, or leave fail_if_exists out to join it",
        )


def release_owner(home: str, token: str) -> None:
    """Clean up after an owner that has died; nothing happens if it lives, or if somebody did it already.

    Parameters
    ----------
    home, token : str
        Those of its `Tenancy`.
    """
    if not liveness.is_alive(home, token):
        with Registry(home) as registry:
            _bury(registry, [token])


def _enter(
    tenancy: Tenancy,
    context: FlameContext,
    storage: Storage,
    dependencies: list[str],
    fail_if_exists: bool,
) -> None:
    name, home, token = tenancy.name, tenancy.home, tenancy.token
    with Registry(home) as registry:
        with _step("registering", name):
            _reclaim(registry)
            with registry.transaction():
                registry.check_free(name, fail_if_exists)  # the answer that counts is enroll's
                attributes = _template(registry, context.runner.template)
                default = context.package.storage is None
                registry.add_owner(token, name, tenancy.directory, None if default else storage.directory)
        with _step("packaging", name):
            temporary = _temporary(home, token)
            os.makedirs(temporary, mode=0o700)
            package = pack(
                tenancy.directory,
                temporary,
                name=name,
                excludes=context.package.excludes,
                limit=context.package.limit,
                dependencies=dependencies,
                never=[storage.directory],
                home=home,
            )
        with _step("uploading", name):
            url = storage.url(package.name)
            with registry.transaction():
                registry.set_package(token, package.name, url)
            _upload(storage, package, token)
            _remove_temporary(home, token)
        attributes.url = url
        attributes.working_directory = tenancy.directory
        with _step("registering", name), registry.transaction():
            registry.enroll(token, name, attributes, fail_if_exists=fail_if_exists)
    tenancy.archive = os.path.join(storage.directory, package.name)
    tenancy.digest = package.digest
    tenancy.attributes = attributes
    tenancy._package = package


@contextlib.contextmanager
def _step(step: str, name: str) -> Iterator[None]:
    """Let what goes wrong say at which step it did."""
    try:
        yield
    except FlameError as error:
        raise FlameError(error.code, f"{step} application {name!r}: {error.message}") from error
    except OSError as error:
        raise FlameError(FlameErrorCode.INTERNAL, f"{step} application {name!r}: {error}") from error


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            "the current directory no longer exists; change to one that does",
        ) from error


def _check_directory(directory: str, home: str, storage: Storage) -> None:
    """Refuse to package our own directories."""
    for what, path in (("data directory", home), ("storage directory", storage.directory)):
        if os.path.realpath(path) == os.path.realpath(directory):
            raise FlameError(
                FlameErrorCode.INVALID_CONFIG,
                f"the current directory {directory!r} is the {what}, which is never packaged; "
                "start in the project's directory, or configure another",
            )


def _template(registry: Registry, name: str) -> ApplicationAttributes:
    template = registry.application(name)
    if template is None:
        raise FlameError(
            FlameErrorCode.NOT_FOUND,
            f"the template {name!r} of runner.template is not registered; register it, or leave "
            "runner.template out for the built-in 'flmrun'",
        )
    return template.attributes()


def _upload(storage: Storage, package: PackageInfo, token: str) -> None:
    try:
        storage.upload(package.path, package.name, token)
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        raise FlameError(
            FlameErrorCode.INVALID_CONFIG,
            f"cannot write into package.storage {storage.directory!r}: {error.strerror}; "
            "make it writable, or name another directory",
        ) from error


# Clean-up


def _reclaim(registry: Registry) -> None:
    """Clean up after every owner that has died, whatever its application."""
    home = registry.home
    # Rows first, locks second: an owner has its lock before its row, so one that has a row and no lock is dead for good.
    owners = {owner.token for owner in registry.owners()}
    dead = [token for token in owners if not liveness.is_alive(home, token)]
    if dead:
        _bury(registry, dead)
    # A lock file without a row: just made, or left by one that died on its way in or out.
    for token in liveness.tokens(home):
        if token not in owners and not liveness.is_alive(home, token):
            liveness.bury(home, token, functools.partial(_remove_temporary, home, token))


def _bury(registry: Registry, tokens: list[str]) -> None:
    with registry.transaction():
        for token in tokens:
            _remove(registry, token)
    for token in tokens:
        _remove_temporary(registry.home, token)
        liveness.bury(registry.home, token)


def _remove(registry: Registry, token: str) -> None:
    owner = registry.remove_owner(token)
    if owner is None or owner.package is None:
        return
    try:
        storage = Storage(owner.storage) if owner.storage is not None else open_storage(None, registry.home)
        storage.discard(owner.package, token)
        if not registry.is_package_used(owner):
            # Before the transaction ends: whoever wants to upload the same one waits for that end.
            storage.remove(owner.package)
    except OSError as error:
        # The rest of the clean-up matters more than one file that somebody made undeletable.
        warn_user(f"cannot delete the package {owner.url!r}: {error.strerror}; delete it by hand")


def _temporary(home: str, token: str) -> str:
    return os.path.join(home, "tmp", token)


def _remove_temporary(home: str, token: str) -> None:
    """Remove what `pack` may have left; only files lie in there."""
    directory = _temporary(home, token)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
