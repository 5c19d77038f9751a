"""What is in a package and why: for whoever wonders about its size, or about a file that is missing in it."""

from __future__ import annotations

import os

from flame_fast.config import FlameContext, home_directory
from flame_fast.errors import FlameError
from flame_fast.kernels import archive
from flame_fast.package.notices import printable
from flame_fast.package.packing import name_of, pack, project_file_for
from flame_fast.package.snapshot import Snapshot, most_files_for, rule_for
from flame_fast.storage import open_storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_UNBOUNDED = 1 << 62
_KINDS = {b"0": "file", b"2": "link", b"5": "directory"}


class Explanation:
    """What is in the package of a directory, and what is not.

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
        Path and reason of what was met and left out; what lies in an excluded directory is not met.
    problem : str
        Why a Runner would refuse this package; empty if it would not.
    """

    __slots__ = ("directory", "files", "size", "compressed", "members", "excluded", "problem")

    def __init__(self, directory: str, snapshot: Snapshot) -> None:
        self.directory = directory
        self.files, self.size = snapshot.members.totals()
        self.compressed: int | None = None
        self.problem = ""
        self.members: list[tuple[str, str, int]] = []
        self.excluded = [(os.fsdecode(path), _reason(snapshot, note, rule)) for note, rule, path in snapshot.noted]
        for path, kind, _, size, state in map(snapshot.members.__getitem__, range(len(snapshot.members))):
            if state & archive.SECRET:
                self.excluded.append((os.fsdecode(path), "looks like a secret: there is a private key in it"))
            else:
                self.members.append((os.fsdecode(path), _KINDS[kind], size))
        self.excluded.sort()

    def __repr__(self) -> str:
        return (
            f"Explanation(directory={self.directory!r}, files={self.files}, size={self.size}, compressed={self.compressed})"
        )

    def largest(self, count: int = 10) -> list[tuple[str, int, str]]:
        """The largest members: path, bytes, and the rule that would leave it out."""
        files = sorted(((-size, path) for path, kind, size in self.members if kind == "file"))
        return [(path, -size, rule_for(os.fsencode(path))) for size, path in files[:count]]

    def why(self, path: str | os.PathLike[str]) -> str:
        """Why a path is in the package, or not.

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
            return f"{shown} is outside of {self.directory}"
        for excluded, reason in self.excluded:
            if relative == excluded:
                return f"{shown} is left out: {reason}"
            if relative.startswith(excluded + "/"):
                return f"{shown} is left out, for {printable(os.fsencode(excluded))} is: {reason}"
        there = os.path.lexists(os.path.join(self.directory, relative))
        return f"{shown} is left out: it appeared while this was looked at" if there else f"{shown} is not there"

    def __str__(self) -> str:
        """A report of some lines."""
        compressed = f", {self.compressed:,} compressed" if self.compressed is not None else ""
        lines = [f"{self.directory}: {self.files:,} files, {self.size:,} bytes{compressed}"]
        if self.problem:
            lines += ["", f"refused: {self.problem}"]
        lines += ["", "the largest, and the rules that would leave them out:"]
        lines += [f"  {size:>15,}  {printable(os.fsencode(path))}    {rule}" for path, size, rule in self.largest()]
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
    """Say what a Runner would package of a directory, and why.

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
    with Snapshot(path, excludes, project_file_for(name_of(path), ()), never, _UNBOUNDED, explaining=True) as snapshot:
        snapshot.find_secrets()
        explanation = Explanation(path, snapshot)
        try:
            snapshot.check_limits(limit, most_files_for(limit))
        except FlameError as error:
            explanation.problem = error.message
            return explanation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say what the explanation says
        explanation.compressed = _compressed_size(path, excludes, limit, never, home)
    return explanation


def configured_never(home: str) -> list[str]:
    """The directories that the configuration in force keeps out of every package."""
    storage = FlameContext().package.storage
    return [home] if storage is None else [home, open_storage(storage, home).directory]


def _compressed_size(directory: str, excludes: Iterable[str], limit: int, never: Iterable[str], home: str) -> int:
    import tempfile

    os.makedirs(home, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".explaining-") as out:
        return pack(directory, out, excludes=excludes, limit=limit, never=never, home=home).compressed


def _reason(snapshot: Snapshot, note: int, rule: int) -> str:
    if note == archive.NOTE_RULE:
        return f"by the rule {snapshot.rules[rule]}"
    if note == archive.NOTE_SECRET:
        return f"looks like a secret, by the rule {snapshot.rules[rule]}"
    return {
        archive.NOTE_SPECIAL: "a socket, fifo or device",
        archive.NOTE_UNREADABLE: "it cannot be read",
        archive.NOTE_OUTSIDE: "a link that points out of the directory",
        archive.NOTE_NEVER: "a directory of flame_fast's, or of this Python's packages",
        archive.NOTE_ENVIRONMENT: "a virtual environment: there is a pyvenv.cfg in it",
    }[note]
