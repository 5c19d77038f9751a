"""Snapshot of a directory to pack: rules, walk, secrets, limits, and the notices about what is left out."""

from __future__ import annotations

import contextlib
import os
import sys

from flame_fast.config import DEFAULT_LIMIT, DEFAULT_MAX_FILES
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels import archive
from flame_fast.package.gitignore import IGNORE_FILE, IgnoreRules, split_lines
from flame_fast.package.notices import Notices, named_with_sizes
from flame_fast.resources import affine_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from flame_fast.kernels.archive import Members

#: Above so many bytes a warning names what could be left out.
LARGE = 100 * 1024**2

#: Bytes of a large file for each file that a folder of data may have in the package.
_PER_DATA_FILE = 10 * 1024

#: Files that the walk may meet for each that the package may hold, where data is left out.
_DATA_FILES = 10

_MOST = 1 << 62

_NAMED_LARGE = 5

#: What private keys, and configurations of npm with the password or token of a registry, have in them.
_SECRET_MARKS = (b"PRIVATE KEY-----", b"_authToken", b"_password", b"_auth=", b"_auth =")
_LONGEST_MARK = max(map(len, _SECRET_MARKS))
_CHUNK = 1 << 20
_LONGEST_PATH = 4096


class Snapshot:
    """One walk of a directory, which stays open for the packing: use it in a `with`.

    Parameters
    ----------
    directory : str
    excludes : iterable of str
        The user's rules; those of ``.flameignore`` follow them.
    project_file : bytes or None
        The content of ``pyproject.toml``, unless the directory has a project file.
    never : iterable of str
        Directories that are left out wherever the walk meets them, as are this Python's own.
    most_files : int
        More end the walk, and `too_many` is true.
    largest_file : int or None
        Files of data above so many bytes, and folders without code that hold more, or more than a file for every 10 KiB of
        it, are left out. None: they are not.
    explaining : bool
        True: `noted` also tells what the rules leave out.

    Attributes
    ----------
    root : bytes
    descriptor : int
        The open directory.
    members : Members
    rules : IgnoreRules
    too_many, generated : bool
    noted : list of (int, int, bytes)
        What was left out: a note (``NOTE_...``), the number of a rule or -1, a path.
    data : list of (bytes, int, int)
        Data that was left out: a folder or file, the number of files, and their bytes.

    Raises
    ------
    FlameError
        ``INVALID_CONFIG``: the ignore file cannot be read.
    OSError
        The directory cannot be read.
    """

    def __init__(
        self,
        directory: str,
        excludes: Iterable[str],
        project_file: bytes | None,
        never: Iterable[str],
        most_files: int,
        *,
        largest_file: int | None = None,
        explaining: bool = False,
    ) -> None:
        self.root: bytes = os.fsencode(os.path.abspath(directory))
        self._real_root = b""
        self.rules: IgnoreRules = IgnoreRules([*_rule_lines(excludes), *_ignore_file(self.root)])
        self.descriptor: int = os.open(os.fsdecode(self.root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            walk = archive.Walk(
                self.descriptor,
                self.rules.matcher,
                _identities(never),
                most_files if largest_file is None else min(most_files * _DATA_FILES, _MOST),
                project_file,
                self._resolve_link,
                explaining,
                threads=affine_cpus(),  # to look for a quota takes longer than a small walk
            )
            walk.run()
        except BaseException:
            os.close(self.descriptor)
            raise
        self.members: Members = walk.members
        self.data: list[tuple[bytes, int, int]] = []
        if largest_file is not None:
            self.members, self.data = archive.without_data(walk.members, largest_file, largest_file // _PER_DATA_FILE)
        self.too_many: bool = walk.too_many or self.members.totals()[0] - walk.generated > most_files
        self.generated: bool = walk.generated
        self.noted: list[tuple[int, int, bytes]] = walk.noted()
        self._generated_bytes = len(project_file or b"") if self.generated else 0

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def find_secrets(self, known: Any = None) -> None:
        """Look for keys and tokens in files that may be secrets; skip those with a number in `known` (`Members.compare`)."""
        for number in self.members.with_flag(archive.DOUBTFUL):
            if known is None or known[number] < 0:
                self.members.set_state(number, self._look_for_key(self.members[number][0]))

    def check_limits(self, limit: int, most_files: int) -> None:
        """Raise a `FlameError` that names the largest members if the package would be above a limit."""
        files, size = self.members.totals()
        files, size = files - self.generated, size - self._generated_bytes  # the user's own
        if self.too_many:
            problem = f"more than {most_files:,} files"
        elif size > limit:
            problem = f"{size:,} bytes in {files:,} files"
        else:
            return
        largest = named_with_sizes(self.members[number][::3] for number in self.members.largest(_NAMED_LARGE))
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"the package of {os.fsdecode(self.root)!r} would hold {problem}, above the limit of "
            f"{limit:,} bytes and {most_files:,} files; the largest: {largest}; leave some out with "
            "rules in .flameignore or package.excludes, or raise package.limit in the configuration",
        )

    def notices(self) -> Notices:
        """Return what the user is to be told, as far as walk and members know it."""
        notices = Notices()
        notices.data += self.data
        for note, _, path in self.noted:
            if note == archive.NOTE_SECRET:
                notices.secrets.append(path)
            elif note == archive.NOTE_SPECIAL:
                notices.special.append(path)
            elif note == archive.NOTE_UNREADABLE:
                notices.unreadable.append(path)
            elif note == archive.NOTE_OUTSIDE:
                notices.outside.append(path)
        notices.secrets += self.members.paths(archive.SECRET)
        notices.unreadable += self.members.paths(archive.UNREADABLE)
        notices.special += self.members.paths(archive.SPECIAL)
        notices.changed += self.members.paths(archive.GONE | archive.CHANGED)
        self._notice_size(notices)
        return notices

    def _notice_size(self, notices: Notices) -> None:
        size = self.members.totals()[1]
        if size <= LARGE:
            return
        largest = [self.members[number][::3] for number in self.members.largest(_NAMED_LARGE)]
        rule = rule_for(largest[0][0])
        notices.plain.append(
            f"the package of {os.fsdecode(self.root)!r} holds {size:,} bytes; the largest: {named_with_sizes(largest)}; "
            f"a rule such as {rule!r} in .flameignore or package.excludes leaves the first of them out"
        )

    def _resolve_link(self, path: bytes, target: bytes) -> bytes | None:
        """Return a link's target as it is packed: relative if it comes back in from outside, None if it leads out."""
        full = os.path.join(self.root, path)
        if len(full) + len(target) >= _LONGEST_PATH:  # the system resolves no such path
            return None
        real_root = self._real_root = self._real_root or os.path.realpath(self.root)
        resolved = os.path.realpath(full)
        if resolved != real_root and not resolved.startswith(real_root.rstrip(b"/") + b"/"):
            return None
        if archive.leaves_on_its_way(path, target):
            return os.path.relpath(resolved, os.path.realpath(os.path.dirname(full)))
        return target

    def _look_for_key(self, path: bytes) -> int:
        """Return the state of a file that may be a secret. A file that cannot be read counts as one, until it can."""
        tail = b""
        try:
            descriptor = archive.open_below(self.descriptor, path)
            try:
                while block := os.read(descriptor, _CHUNK):
                    if any(mark in tail + block for mark in _SECRET_MARKS):
                        return archive.SECRET
                    tail = block[-_LONGEST_MARK:]
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            pass  # the packing finds out, too
        except PermissionError:
            return archive.UNREADABLE
        except OSError:
            return archive.SECRET | archive.RACY
        return 0


def most_files_for(limit: int) -> int:
    """Return how many files a package may hold whose content may have `limit` bytes."""
    return max(DEFAULT_MAX_FILES, DEFAULT_MAX_FILES * limit // DEFAULT_LIMIT)


#: Escapes in a rule. No line can hold a line end, so a set of all other bytes, negated, stands for it.
_IN_A_RULE = {byte: b"\\%c" % byte for byte in b"*?[\\"} | {0x0A: b"[!\x01-\t\x0b-\xff]", 0x0D: b"[\r]"}


def rule_for(path: bytes) -> str:
    """Return the rule in gitignore's syntax that leaves out this path and nothing else."""
    escaped = b"".join(_IN_A_RULE.get(byte) or bytes([byte]) for byte in path)
    if escaped.endswith(b" "):
        escaped = escaped[:-1] + b"\\ "
    return "/" + os.fsdecode(escaped)


def _rule_lines(excludes: Iterable[str]) -> list[tuple[str, bytes]]:
    return [("package.excludes", line) for rule in excludes for line in split_lines(os.fsencode(rule))]


def _ignore_file(root: bytes) -> list[tuple[str, bytes]]:
    path = os.path.join(root, IGNORE_FILE)
    try:
        with open(path, "rb", opener=_open_ignore_file) as file:
            lines = split_lines(file.read())
    except (FileNotFoundError, NotADirectoryError):  # of a directory that is none, its opening says so
        return []
    except OSError as error:
        # Going on without its rules could package what the user wanted kept out.
        raise FlameError(
            FlameErrorCode.INVALID_CONFIG,
            f"cannot read the ignore file {os.fsdecode(path)!r}: {error.strerror}",
        ) from error
    return [(f".flameignore, line {number}", line) for number, line in enumerate(lines, 1)]


def _open_ignore_file(path: Any, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo of this name must not block


def _identities(never: Iterable[str]) -> list[tuple[int, int]]:
    """Return directories as (device, inode), since links and mounts give one directory many paths.

    This Python's packages are among them: workers use those in their place.
    """
    packages = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    identities = []
    for path in {*never, sys.prefix, sys.base_prefix, *packages}:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            identities.append((found.st_dev, found.st_ino))
    return identities
