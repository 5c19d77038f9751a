"""Lifecycle of an application: acquire a lease on it, release the lease, leave nothing behind.

    check arguments | own a token | write it down | package | write that down | upload | register
                      liveness      registry        package   registry          storage  registry

The registry names what an owner makes before the owner makes it (its package, its temporary directory by its token). So the
clean-up finds everything, wherever it runs: `ApplicationLease.release` at the end, `release_owner` in a process that saw the
owner die, or the next `acquire_application`. All three take the same steps in the same order. Two may run at once, and one
that is cut off anywhere is done again:

    1. one transaction: the owner's row goes; with the last owner the application's row; with the last owner of a package its
       file. The file is removed inside the transaction: an owner that is about to upload the same package waits, then
       uploads it anew
    2. the temporary directory goes
    3. the lock file goes; as long as it is there, the next `acquire_application` repeats 1 and 2
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import functools
import os

from flame_fast.application import liveness
from flame_fast.application.registry import ApplicationAttributes, get_application
from flame_fast.application.registry.database import Registry
from flame_fast.application.registry.validation import check_name
from flame_fast.application.storage import Storage, open_storage
from flame_fast.config import FlameContext, home_directory, make_private, refuses_programs, unpacked_tree
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package.notices import warn_user
from flame_fast.package.packing import is_package_name, pack
from flame_fast.package.project import directory_to_package
from flame_fast.package.requirements import check_dependencies
from flame_fast.package.sys_path import place_in, split_sys_path
from flame_fast.scarcity import explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from flame_fast.package.packing import PackageInfo


class ApplicationLease:
    """One Runner's lease on an application, made by `acquire_application`.

    Attributes
    ----------
    name : str
        The application's name.
    directory : str
        The directory that was packaged.
    current : str
        The current directory at the time.
    archive : str
        The stored package's path.
    digest : str
        The package's digest.
    token : str
        The owner's token, for `release_owner`.
    home : str
        The data directory.
    attributes : ApplicationAttributes
        What this owner registers; if it joined the application, what it would have registered.

    Notes
    -----
    `release` may be called from any thread; in a forked child it does nothing, since the child owns nothing.
    """

    __slots__ = (
        "name",
        "directory",
        "current",
        "archive",
        "digest",
        "token",
        "home",
        "attributes",
        "_package",
        "_limit",
        "_lock",
    )

    def __init__(self, name: str, directory: str, current: str, home: str, token: str) -> None:
        self.name: str = name
        self.directory: str = directory
        self.current: str = current
        self.home: str = home
        self.token: str = token
        self.archive: str = ""
        self.digest: str = ""
        self.attributes: ApplicationAttributes = ApplicationAttributes()
        self._package: PackageInfo | None = None
        self._limit = 0
        self._lock = _thread.allocate_lock()

    def __repr__(self) -> str:
        return f"ApplicationLease(name={self.name!r}, token={self.token!r}, archive={self.archive!r})"

    def unpack_plan(self, sys_path: Iterable[str]) -> dict[str, Any]:
        """Return what a worker needs to import what the driver imports.

        Parameters
        ----------
        sys_path : iterable of str
            The driver's ``sys.path``.

        Returns
        -------
        dict
            For `flame_fast.package.sys_path.prepare`; of plain types, so it survives JSON and pickle. Keys: ``home`` and
            ``token``, for `release_owner`; ``name``, ``directory``, ``archive`` (empty: nothing was packaged), ``digest``,
            ``limit``, ``tree``, ``sys_path``, ``outside`` (links that lead out of the directory).
        """
        if self._package is None:
            parts = split_sys_path(sys_path, self.directory, lambda relative: False, self.current)
            size, tree = 0, self.directory
        else:
            parts = split_sys_path(sys_path, self.directory, self._package.holds, self.current)
            size, tree = self._package.size, unpacked_tree(self.home, self.digest)
        return {
            "home": self.home,
            "token": self.token,
            "name": self.name,
            "directory": self.directory,
            "archive": self.archive,
            "digest": self.digest,
            "limit": max(self._limit, size),  # a file may have grown while it was packed
            "tree": tree,
            "sys_path": [[path, place] for path, place in parts],
            "outside": [] if self._package is None else self._package.outside,
        }

    @property
    def again(self) -> str | bool:
        """The `package` argument of `acquire_application` for another snapshot of the same directory."""
        return self.directory if self._package is not None else False

    def packaged(self, path: str) -> bool:
        """Return whether the package has a file or directory of the packaged directory."""
        return self._place(path) is not None

    def _place(self, path: str) -> str | None:
        if self._package is None:
            return None
        directory = os.path.normpath(self.directory)
        return place_in(path, directory, os.path.realpath(directory), self._package.holds)

    def packaged_times(self, path: str) -> tuple[int, int] | None:
        """Return the size and modification time in nanoseconds of a file when it was packaged; None: it was not."""
        place = self._place(path)
        return None if place is None or self._package is None else self._package.times(place)

    def release(self) -> None:
        """Release the lease: the application goes with its last owner, the package with its last one.

        Idempotent. Does nothing in a forked child.
        """
        with self._lock:
            if not liveness.holds(self.token):
                return
            try:
                with Registry(self.home) as registry, registry.transaction():
                    _remove(registry, self.token)
                _remove_temporary(self.home, self.token)
            finally:
                # Also when the registry failed: the next owner then reclaims what is left.
                liveness.release(self.home, self.token)


def acquire_application(
    name: str,
    *,
    fail_if_exists: bool = False,
    dependencies: Iterable[str] | None = None,
    python_version: str | None = None,
    context: FlameContext | None = None,
    package: bool | str | os.PathLike[str] | None = None,
    excludes: Iterable[str] = (),
) -> ApplicationLease:
    r"""Package a directory, upload it, and register the application or join it.

    Parameters
    ----------
    name : str
        1 to 253 characters; none of ``/ \ ..``, no control characters, not starting with ``.`` or ``-``.
    fail_if_exists : bool
        Whether an application of that name is an error, unless its owners are all dead.
    dependencies : iterable of str, optional
        Requirements that must be installed.
    python_version : str, optional
        The Python that must be running.
    context : FlameContext, optional
        The configuration; by default the one in force.
    package : bool, str or path-like, optional
        See `flame_fast.package.project.directory_to_package`. Where nothing is packaged, the current directory is
        registered, and workers import from it.
    excludes : iterable of str
        Further rules of what is left out, after those of the configuration.

    Returns
    -------
    ApplicationLease
        `ApplicationLease.release` gives it back; if the process ends without that, the next `acquire_application` does.

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` and ``NOT_FOUND`` about the arguments, before anything is written; ``INVALID_CONFIG``;
        ``ALREADY_EXISTS``. A later failure names its step (packaging, uploading, registering); nothing is left.
    """
    check_name(name)
    listed = check_dependencies(dependencies, python_version)
    if context is None:
        context = FlameContext()
    home = home_directory()
    with _step("packaging", name):
        current = _current_directory()
        directory = directory_to_package(package, current, context.package)
        storage = None if directory is None else open_storage(context.package.storage, home)
        if directory is not None and storage is not None:
            _check_directory(directory, home, storage)
    lease = ApplicationLease(name, directory or current, current, home, liveness.acquire(home))
    try:
        _acquire(lease, context, storage, listed, tuple(excludes), fail_if_exists)
    except BaseException:
        lease.release()
        raise
    return lease


def check_nested(name: str, outer: str, fail_if_exists: bool, dependencies: Any, python_version: Any) -> None:
    """Check the arguments of a Runner inside a task, which acquires no application.

    Raises
    ------
    FlameError
        ``ALREADY_EXISTS``, ``NOT_FOUND`` or ``INVALID_ARGUMENT``, as `acquire_application` does.
    """
    check_dependencies(dependencies, python_version)
    if fail_if_exists and (name == outer or get_application(name) is not None):
        raise FlameError(
            FlameErrorCode.ALREADY_EXISTS,
            f"application {name!r} exists already; give this runner another name, or leave fail_if_exists out to join it",
        )


def release_owner(home: str, token: str) -> None:
    """Clean up after a dead owner. Idempotent; does nothing while the owner lives.

    Parameters
    ----------
    home, token : str
        Those of its `ApplicationLease`.
    """
    if not liveness.is_alive(home, token):
        with Registry(home) as registry:
            _reap(registry, [token])
            _reclaim(registry)  # the same process's further leases


def _acquire(
    lease: ApplicationLease,
    context: FlameContext,
    storage: Storage | None,
    dependencies: list[str],
    excludes: tuple[str, ...],
    fail_if_exists: bool,
) -> None:
    """Register an owner, with a package if there is a storage to put it into."""
    name, home, token = lease.name, lease.home, lease.token
    with Registry(home) as registry:
        with _step("registering", name):
            _reclaim(registry)
            with registry.transaction():
                registry.check_free(name, fail_if_exists)  # the answer that counts is enroll's
                attributes = _template(registry, context.runner.template)
                place = None if storage is None or context.package.storage is None else storage.directory
                registry.add_owner(token, name, lease.directory, place)
        attributes.url = None if storage is None else _package(registry, lease, context, storage, dependencies, excludes)
        attributes.working_directory = lease.current
        with _step("registering", name), registry.transaction():
            registry.enroll(token, name, attributes, fail_if_exists=fail_if_exists)
    lease.attributes = attributes


def _package(
    registry: Registry,
    lease: ApplicationLease,
    context: FlameContext,
    storage: Storage,
    dependencies: list[str],
    excludes: tuple[str, ...],
) -> str:
    """Package the lease's directory and store the package; return its URL."""
    name, home, token = lease.name, lease.home, lease.token
    with _step("packaging", name, home):
        temporary = _temporary(home, token)
        make_private(os.path.dirname(temporary))
        make_private(temporary)
        package = pack(
            lease.directory,
            temporary,
            name=name,
            excludes=(*context.package.excludes, *excludes),
            limit=context.package.limit,
            largest_file=context.package.largest_file,
            dependencies=dependencies,
            never=[storage.directory],
            home=home,
        )
        _check_loadable(package, home)
    with _step("uploading", name):
        url = storage.url(package.name)
        with registry.transaction():
            registry.set_package(token, package.name, url)
        _upload(storage, package, token)
        _remove_temporary(home, token)
    lease.archive = os.path.join(storage.directory, package.name)
    lease.digest = package.digest
    lease._package = package
    lease._limit = context.package.limit
    return url


@contextlib.contextmanager
def _step(step: str, name: str, home: str = "") -> Iterator[None]:
    """Name the step in front of an error's message. `home`: the data directory, if the step writes there alone."""
    try:
        yield
    except FlameError as error:
        raise FlameError(error.code, f"{step} application {name!r}: {error.message}") from error
    except OSError as error:
        hint = ""
        if home and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            hint = f"; it was to be written into the data directory {home!r}: make room there, or set $FLAME_FAST_HOME"
        raise FlameError(FlameErrorCode.INTERNAL, f"{step} application {name!r}: {explained(error)}{hint}") from error


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            "the current directory no longer exists; change to one that does",
        ) from error


def _check_directory(directory: str, home: str, storage: Storage) -> None:
    """Refuse to package the directories that flame_fast keeps."""
    for what, path in (("data directory", home), ("storage directory", storage.directory)):
        if os.path.realpath(path) == os.path.realpath(directory):
            raise FlameError(
                FlameErrorCode.INVALID_CONFIG,
                f"the current directory {directory!r} is the {what}, which is never packaged; "
                "start in the project's directory, or configure another",
            )


def _check_loadable(package: PackageInfo, home: str) -> None:
    """Refuse a package with compiled modules where workers, which unpack it into the data directory, cannot load them."""
    module = package.compiled_module() if refuses_programs(home) else None
    if module is not None:
        raise FlameError(
            FlameErrorCode.INVALID_CONFIG,
            f"workers cannot load {module!r} of the project from the data directory {home!r}, which lies on a file system "
            "mounted noexec; set $FLAME_FAST_HOME to another directory, exclude the file, or pass package=False",
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


# ---- clean-up -------------------------------------------------------------------------------------------------------


def _reclaim(registry: Registry) -> None:
    """Clean up after every dead owner, whatever its application."""
    home = registry.home
    # Rows first, locks second: an owner has its lock before its row, so one that has a row and no lock is dead for good.
    owners = {owner.token for owner in registry.owners()}
    dead = [token for token in owners if not liveness.is_alive(home, token)]
    if dead:
        _reap(registry, dead)
    # A lock file without a row: just made, or left by an owner that died while it entered or left.
    for token in liveness.tokens(home):
        if token not in owners and not liveness.is_alive(home, token):
            liveness.reap(home, token, functools.partial(_remove_temporary, home, token))


def _reap(registry: Registry, tokens: list[str]) -> None:
    """Remove what dead owners have left: see the top of this file."""
    with registry.transaction():
        for token in tokens:
            _remove(registry, token)
    for token in tokens:
        _remove_temporary(registry.home, token)
        liveness.reap(registry.home, token)


def _remove(registry: Registry, token: str) -> None:
    owner = registry.remove_owner(token)
    if owner is None or owner.package is None:
        return
    if not is_package_name(owner.package) or not liveness.is_token(token):
        return  # no row that a Runner wrote: it must not lead to a file of the user's
    try:
        storage = Storage(owner.storage) if owner.storage is not None else open_storage(None, registry.home)
        storage.discard(owner.package, token)
        # The storage that a row names may be any directory: what is deleted there must be a package by its content, too.
        if not registry.is_package_used(owner) and (owner.storage is None or storage.holds_package(owner.package)):
            # Before the transaction ends: an owner that wants to upload the same package waits for that end.
            storage.remove(owner.package)
    except OSError as error:
        # The rest of the clean-up matters more than one file that a user made undeletable.
        warn_user(f"cannot delete the package {owner.url!r}: {error.strerror}; delete it by hand")


def _temporary(home: str, token: str) -> str:
    return os.path.join(home, "tmp", token)


def _remove_temporary(home: str, token: str) -> None:
    """Remove what `pack` may have left: a directory of files only."""
    if not liveness.is_token(token):
        return
    directory = _temporary(home, token)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
