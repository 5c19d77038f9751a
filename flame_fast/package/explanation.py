"""Explain a package: its members, their sizes, and the reason for each entry that is left out."""

from __future__ import annotations

import os

from flame_fast.application.storage import open_storage
from flame_fast.config import FlameContext, home_directory
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels import archive
from flame_fast.package.notices import counted, printable, size_text
from flame_fast.package.packing import PackageInfo, name_of, pack, project_file_for
from flame_fast.package.snapshot import Snapshot, rule_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_UNBOUNDED = 1 << 62
_UNREADABLE = "it cannot be read"
_KINDS = {b"0": "file", b"2": "link", b"5": "directory"}


class Explanation:
    """The members of a directory's package, and what was left out.

    Attributes
    ----------
    directory : str
    files : int
        Members that are no directories.
    size : int
        Their bytes, before compression.
    compressed : int or None
        The archive's bytes; None above a limit, where none is made.
    members : list of (str, str, int)
        Path, ``"file"``, ``"link"`` or ``"directory"``, and bytes, in the archive's order.
    excluded : list of (str, str)
        Path and reason of each entry that the walk met and left out. It does not enter an excluded directory.
    problem : str
        Why a Runner would refuse this package; empty if it would take it.
    """

    __slots__ = ("directory", "files", "size", "compressed", "members", "excluded", "problem", "_generated")

    def __init__(self, directory: str, snapshot: Snapshot) -> None:
        self.directory: str = directory
        self._generated = snapshot.generated
        files, size = snapshot.members.totals()
        self.files: int = files
        self.size: int = size
        self.compressed: int | None = None
        self.problem: str = ""
        self.members: list[tuple[str, str, int]] = []
        self.excluded: list[tuple[str, str]] = [
            (os.fsdecode(path), _reason(snapshot, note, rule)) for note, rule, path in snapshot.noted
        ]
        for path, kind, _, size, state in map(snapshot.members.__getitem__, range(len(snapshot.members))):
            if state & archive.SECRET:
                self.excluded.append((os.fsdecode(path), "looks like a secret: there is a private key or a token in it"))
            else:
                self.members.append((os.fsdecode(path), _KINDS[kind], size))
        for path, files, size in snapshot.data:
            reason = f"data: {counted(files)}{size_text(size)}; workers see the directory itself for it"
            self.excluded.append((os.fsdecode(path).rstrip("/"), reason))
        self.excluded.sort()

    def __repr__(self) -> str:
        return (
            f"Explanation(directory={self.directory!r}, files={self.files}, size={self.size}, compressed={self.compressed})"
        )

    def add_package(self, info: PackageInfo) -> None:
        """Add what only the packing finds out."""
        self.files = info.files
        self.size = info.size
        self.compressed = info.compressed
        unreadable = set(info.unreadable)
        self.members = [member for member in self.members if member[0] not in unreadable]
        self.excluded = sorted([*self.excluded, *((path, _UNREADABLE) for path in unreadable)])

    def largest(self, count: int = 10) -> list[tuple[str, int, str]]:
        """Return the largest of the user's files: path, bytes, and the rule that would leave it out."""
        made = "pyproject.toml" if self._generated else ""
        files = sorted((-size, path) for path, kind, size in self.members if kind == "file" and path != made)
        return [(path, -size, rule_for(os.fsencode(path))) for size, path in files[:count]]

    def why(self, path: str | os.PathLike[str]) -> str:
        """Return why a path is in the package, or not.

        Parameters
        ----------
        path : str or path-like
            Absolute, or relative to the directory.
        """
        relative = os.path.relpath(os.path.join(self.directory, os.fspath(path)), self.directory)
        shown = printable(os.fsencode(relative))
        if relative == "." or any(relative == member for member, _, _ in self.members):
            return f"{shown} is in the package"
        if relative == ".." or relative.startswith("../"):
            return f"{shown} is outside of {printable(os.fsencode(self.directory))}"
        for excluded, reason in self.excluded:
            if relative == excluded:
                return f"{shown} is left out: {reason}"
            if relative.startswith(excluded + "/"):
                return f"{shown} is left out, for {printable(os.fsencode(excluded))} is: {reason}"
        there = os.path.lexists(os.path.join(self.directory, relative))
        return f"{shown} is left out: it appeared while this was looked at" if there else f"{shown} is not there"

    def __str__(self) -> str:
        """Return a report of some lines."""
        compressed = f", {self.compressed:,} compressed" if self.compressed is not None else ""
        lines = [f"{printable(os.fsencode(self.directory))}: {self.files:,} files, {self.size:,} bytes{compressed}"]
        if self.problem:
            lines += ["", f"refused: {self.problem}"]
        lines += ["", "the largest, and the rules that would leave them out:"]
        for path, size, rule in self.largest():
            lines.append(f"  {size:>15,}  {printable(os.fsencode(path))}    {printable(os.fsencode(rule))}")
        if self.excluded:
            lines += ["", "left out:"]
            lines += [f"  {printable(os.fsencode(path))}    {reason}" for path, reason in self.excluded]
        return "\n".join(lines)


def explain(
    directory: str | os.PathLike[str] = ".",
    *,
    excludes: Iterable[str] | None = None,
    limit: int | None = None,
    home: str | None = None,
) -> Explanation:
    """Explain what a Runner would package of a directory, and why.

    Parameters
    ----------
    directory : str or path-like
        What would be packed.
    excludes : iterable of str, optional
        Rules in gitignore's syntax, by default those of the configuration in force; as is the next.
    limit : int, optional
        Most bytes. More is explained too, but not compressed.
    home : str, optional
        The data directory, by default the one in force. The package, made in order to know its size, is kept there for
        the next Runner.

    Returns
    -------
    Explanation

    Raises
    ------
    FlameError
        ``INVALID_CONFIG`` for a configuration or an ignore file that cannot be read.
    OSError
        When the directory cannot be read.
    """
    import warnings

    configured = FlameContext().package
    excludes = configured.excludes if excludes is None else list(excludes)
    limit = configured.limit if limit is None else limit
    home = home_directory() if home is None else home
    never = configured_never(home)
    path = os.path.abspath(directory)
    with Snapshot(
        path,
        excludes,
        project_file_for(name_of(path), ()),
        never,
        _UNBOUNDED,
        largest_file=configured.largest_file,
        explaining=True,
    ) as snapshot:
        snapshot.find_secrets()
        explanation = Explanation(path, snapshot)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say what the explanation says
        try:
            explanation.add_package(_pack_aside(path, excludes, limit, configured.largest_file, never, home))
        except FlameError as error:
            if error.code != FlameErrorCode.INVALID_ARGUMENT:
                raise
            explanation.problem = error.message  # above a limit
    return explanation


def configured_never(home: str) -> list[str]:
    """Return the directories that the configuration in force keeps out of every package."""
    storage = FlameContext().package.storage
    return [home] if storage is None else [home, open_storage(storage, home).directory]


def _pack_aside(
    directory: str, excludes: Iterable[str], limit: int, largest_file: int, never: Iterable[str], home: str
) -> PackageInfo:
    import tempfile

    os.makedirs(home, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".explaining-") as out:
        return pack(directory, out, excludes=excludes, limit=limit, largest_file=largest_file, never=never, home=home)


def _reason(snapshot: Snapshot, note: int, rule: int) -> str:
    if note == archive.NOTE_RULE:
        return f"by the rule {snapshot.rules[rule]}"
    if note == archive.NOTE_SECRET:
        return f"looks like a secret, by the rule {snapshot.rules[rule]}"
    return {
        archive.NOTE_SPECIAL: "a socket, fifo or device",
        archive.NOTE_UNREADABLE: _UNREADABLE,
        archive.NOTE_OUTSIDE: "a link that points out of the directory",
        archive.NOTE_NEVER: "a directory of flame_fast's, or of this Python's packages",
        archive.NOTE_ENVIRONMENT: "a virtual environment: there is a pyvenv.cfg or conda-meta in it",
    }[note]
