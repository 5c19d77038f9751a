"""Storage of packages: a directory that a ``file://`` URL names, or the one in the data directory."""

from __future__ import annotations

import contextlib
import os
import stat

from flame_fast.config import check_trusted, make_private
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package.block_format import HEADER_BYTES, BadHeader, read_header

_SCHEME = "file://"


class Storage:
    """A directory of packages.

    Parameters
    ----------
    directory : str
        The directory, absolute.

    Notes
    -----
    Safe from many processes at once: a package appears whole or not at all, and putting it there twice changes nothing.
    """

    __slots__ = ("directory",)

    def __init__(self, directory: str) -> None:
        self.directory: str = directory

    def url(self, name: str) -> str:
        """Return the URL that a package of this name has here."""
        return _SCHEME + os.path.join(self.directory, name)

    def upload(self, path: str, name: str, tag: str = "") -> str:
        """Put a file here.

        Parameters
        ----------
        path : str
            The file; it stays in its place.
        name : str
            Its name here; a package that has that name is replaced.
        tag : str
            Tells the unfinished copies of several processes apart; `discard` finds this one by it.

        Returns
        -------
        str
            The URL of the package.
        """
        target = os.path.join(self.directory, name)
        part = self._part(name, tag)
        _unlink(part)
        try:
            try:
                os.link(path, part)  # on the same file system there is nothing to copy
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    raise
                _copy(path, part)
            os.rename(part, target)
        finally:
            # Also after success: rename leaves both names when they are the same file already.
            _unlink(part)
        return self.url(name)

    def delete(self, url: str) -> None:
        """Remove a package by its URL, if it is there."""
        self.remove(os.path.basename(url))

    def remove(self, name: str) -> None:
        """Remove a package by its name, if it is there."""
        _unlink(os.path.join(self.directory, name))

    def holds_package(self, name: str) -> bool:
        """Return whether a name here is a regular file that begins like a package: what else has the name is the user's."""
        try:
            file = os.open(os.path.join(self.directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return False
            read_header(os.read(file, HEADER_BYTES))
        except (OSError, BadHeader):
            return False
        finally:
            os.close(file)
        return True

    def discard(self, name: str, tag: str) -> None:
        """Remove the unfinished copy of an upload that was cut off."""
        _unlink(self._part(name, tag))

    def _part(self, name: str, tag: str) -> str:
        return os.path.join(self.directory, f".{name}.{tag or os.getpid()}.part")


def open_storage(url: str | None, home: str | os.PathLike[str]) -> Storage:
    """Open the storage that a configuration names.

    Parameters
    ----------
    url : str or None
        ``file://DIR``, ``file:DIR`` or an absolute path, of an existing directory, where ``~`` is the user's home; None for
        the default, ``packages`` in the data directory, which is made.
    home : str or path-like
        The data directory.

    Raises
    ------
    FlameError
        ``INVALID_CONFIG``: an unknown scheme, a directory that is missing or none, or that others may write to, a path
        that is not absolute.
    """
    if url is None:
        directory = os.path.join(os.fspath(home), "packages")
        make_private(directory)
        return Storage(directory)
    directory = _directory_of(url)
    if "%" in directory and "://" in url and not os.path.isdir(directory):
        from urllib.parse import unquote

        directory = unquote(directory, errors="surrogateescape")
    if not os.path.isdir(directory):
        what = "is not a directory" if os.path.exists(directory) else "does not exist"
        raise _invalid(f"package.storage {url!r}: {directory!r} {what}; make it, or name another directory")
    check_trusted(directory, f"package.storage {url!r}")
    # One spelling for one directory: the registry compares packages by their directory.
    return Storage(os.path.realpath(directory))


def _directory_of(url: str) -> str:
    """Return the directory that a URL or path names; it need not be there."""
    is_path = url.startswith(("/", "~"))
    if not is_path and url[: len("file:")].lower() != "file:":
        hint = "" if ":" in url else "; for a directory write its absolute path"
        raise _invalid(f"package.storage: expected {_SCHEME}DIR, got {url!r}{hint}")
    named = url if is_path else url[len("file:") :]
    if not is_path and named.startswith("//"):
        named = named[2:]
        if named.startswith("localhost/"):
            named = named.removeprefix("localhost")
    directory = os.path.expanduser(named)
    if directory.startswith("~"):
        user = directory.partition("/")[0]
        raise _invalid(
            f"package.storage: expected a directory, got {url!r}, and {user!r} is nobody's home directory here; write the "
            "path out"
        )
    if not os.path.isabs(directory):
        raise _invalid(f"package.storage: expected {_SCHEME} and an absolute path, got {url!r}")
    return directory


def _invalid(message: str) -> FlameError:
    return FlameError(FlameErrorCode.INVALID_CONFIG, message)


def _copy(source: str, target: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with open(source, "rb") as reader, open(os.open(target, flags, 0o600), "wb") as writer:
        while block := reader.read(1 << 20):
            writer.write(block)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)
