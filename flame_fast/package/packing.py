"""Pack a directory into one archive, incrementally: only what changed is read and compressed again.

    directory --Snapshot--> members --plan_blocks--> blocks --BlockReader--> tar --SHA-256, deflate--> file
                               |                       ^                                                |
                    stored_index.py: unchanged? <------+----- the same blocks of the stored package <---+

The same tree gives the same bytes, on any machine, at any time, on any number of threads, and whatever was packed before:
members are sorted; of what the file system knows about a file only its name, content, kind and owner's execute bit go in;
and the borders of blocks follow from names and sizes.

The tree may change while it is read: the archive is whole all the same, and a warning names the file (`archive_writer.py`).
"""

from __future__ import annotations

import contextlib
import os
import time

from flame_fast.config import DEFAULT_LIMIT, home_directory
from flame_fast.kernels import archive
from flame_fast.package import stored_index
from flame_fast.package.archive_writer import ArchiveWriter, Changes, readable_again
from flame_fast.package.snapshot import Snapshot, most_files_for, rule_for
from flame_fast.package.stored_index import Contents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flame_fast.kernels.archive import Members
    from flame_fast.package.stored_index import Stored


class PackageInfo:
    """A finished archive.

    Attributes
    ----------
    path : str
        The archive's file.
    digest : str
        32 hexadecimal digits of the SHA-256 of the content.
    files : int
        Members that are no directories.
    size : int
        Their bytes, before compression.
    compressed : int
        The archive's bytes.
    outside : list of str
        Links that lead out of the directory, which are not in the archive, by their paths in the directory.
    """

    __slots__ = ("path", "digest", "files", "size", "compressed", "outside", "_members")

    def __init__(
        self,
        path: str,
        digest: str,
        files: int,
        size: int,
        compressed: int,
        members: Members,
        outside: Sequence[str] = (),
    ) -> None:
        self.path: str = path
        self.digest: str = digest
        self.files: int = files
        self.size: int = size
        self.compressed: int = compressed
        self.outside: list[str] = list(outside)
        self._members = members

    def __repr__(self) -> str:
        return f"PackageInfo(path={self.path!r}, digest={self.digest!r}, files={self.files}, size={self.size})"

    @property
    def name(self) -> str:
        """Return the archive's file name."""
        return os.path.basename(self.path)

    @property
    def unreadable(self) -> list[str]:
        """Return the files that are not in the package because they could not be read."""
        return [os.fsdecode(path) for path in self._members.paths(archive.UNREADABLE)]

    def compiled_module(self) -> str | None:
        """Return some compiled module or shared library in the package, None if it has none."""
        for number in range(len(self._members)):
            path, _, _, _, state = self._members[number]
            if path.endswith(b".so") and not state & archive.LEFT_OUT:
                return os.fsdecode(path)
        return None

    def holds(self, relative: str) -> bool:
        """Return whether a path relative to the packaged directory is in the package; ``""`` is the directory itself."""
        return relative in ("", ".") or self._number_of(relative) >= 0

    def times(self, relative: str) -> tuple[int, int] | None:
        """Return the size and modification time in nanoseconds that a file had; None: it is not in the package."""
        number = self._number_of(relative)
        return None if number < 0 else self._members.times(number)

    def _number_of(self, relative: str) -> int:
        number = self._members.find(os.fsencode(relative))
        return -1 if number >= 0 and self._members[number][4] & archive.LEFT_OUT else number


def pack(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    excludes: Iterable[str] = (),
    limit: int = DEFAULT_LIMIT,
    largest_file: int | None = None,
    dependencies: Iterable[str] | None = None,
    never: Iterable[str] = (),
    home: str | None = None,
) -> PackageInfo:
    """Write the archive of a directory, as a Runner does.

    Parameters
    ----------
    directory : str or path-like
        What to pack; nothing is written into it.
    out : str or path-like
        A directory, in which the archive becomes ``<name made safe, at most 80 bytes>-<digest>.tar.gz``; or the file to
        write. What is there under that name is replaced. The file is read-only: it may be the stored one by another name, so
        copy it before you change it in place.
    name : str, optional
        The application's name, by default the directory's.
    excludes : iterable of str
        Rules in gitignore's syntax, applied after the built-in ones and before those of ``.flameignore``.
    limit : int
        Most bytes of content; above the default, it raises the number of files allowed in proportion.
    largest_file : int, optional
        Data is left out, as of a package for workers on this machine: files above so many bytes, and folders without code
        that hold more. By default all is packed.
    dependencies : iterable of str, optional
        What the generated ``pyproject.toml`` lists, when the directory has no project file of its own.
    never : iterable of str
        Further directories that are left out wherever they are met, by whatever path, as are `out`, the data directory and
        those of this Python's packages.
    home : str, optional
        The data directory, where the package is kept for the next time; by default the one in force.

    Returns
    -------
    PackageInfo

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` above a limit; ``INVALID_CONFIG`` for an ignore file that cannot be read.
    OSError
        When the archive cannot be written, or the directory itself not be read.

    Warns
    -----
    UserWarning
        Once for each reason, after the archive is finished: secrets left out, files skipped, files that
        changed, a large package.

    Notes
    -----
    May be called from several threads and processes at once, also for one directory.
    """
    began_ns = time.time_ns()
    directory, out = os.fspath(directory), os.fspath(out)
    home = home_directory(writes=False) if home is None else home
    name = name_of(directory) if name is None else name
    project_file = project_file_for(name, dependencies or ())
    most_files = most_files_for(limit)
    # What an earlier packing has written into the directory stays out.
    excludes, never = [*excludes, *_rules_against(directory, out, name)], [*never, home, out]
    with (
        Snapshot(directory, excludes, project_file, never, most_files, largest_file=largest_file) as snapshot,
        contextlib.ExitStack() as held,
    ):
        key = stored_index.key_of(snapshot.root, project_file if snapshot.generated else b"")
        stored = stored_index.load(home, key)
        if stored is not None:
            held.enter_context(stored)
        changes = _changes_since(stored, snapshot, began_ns)
        snapshot.check_limits(limit, most_files)
        with _temporary_in(out) as temporary:
            contents = _write(snapshot, stored, changes, temporary)
            compressed = os.stat(temporary).st_size
            path = os.path.join(out, f"{safe_name(name)}-{contents.digest}.tar.gz") if os.path.isdir(out) else out
            if changes is not None:
                # Before the rename: a moment later `path` may be another packing's file; `temporary` is this one's alone.
                with contextlib.suppress(OSError):  # the next packing reads everything then
                    stored_index.store(home, key, snapshot.members, contents, temporary)
            os.rename(temporary, path)
        notices = snapshot.notices()
    if dependencies and not snapshot.generated:
        notices.plain.append(
            "dependencies are not written into the package: the directory has a project file of its own; list them there"
        )
    outside = [os.fsdecode(path) for path in notices.outside]
    if largest_file is not None:
        notices.outside = []  # workers on this machine follow them
    notices.emit()
    return PackageInfo(path, contents.digest, contents.files, contents.size, compressed, snapshot.members, outside)


def _changes_since(stored: Stored | None, snapshot: Snapshot, began_ns: int) -> Changes | None:
    """Return what differs from the stored package; None if nothing does. Look for secrets in what is new."""
    if stored is not None and stored.is_for(snapshot.members) and not readable_again(snapshot):
        return None
    changes = Changes(snapshot, stored)
    snapshot.find_secrets(changes.known)
    snapshot.members.mark_racy(began_ns - stored_index.RACY_NS)
    return changes


def _write(snapshot: Snapshot, stored: Stored | None, changes: Changes | None, path: str) -> Contents:
    """Write the archive under a free name, or give the stored one that name; return what it holds."""
    if changes is not None:
        return ArchiveWriter(snapshot, changes, path).run()
    assert stored is not None
    stored.place(path)
    return Contents(stored.digest, stored.files, stored.size, stored.compressor, [])


@contextlib.contextmanager
def _temporary_in(out: str) -> Iterator[str]:
    """Yield a free name beside where the archive goes; remove a file that has that name at the end."""
    directory = out if os.path.isdir(out) else os.path.dirname(os.path.abspath(out))
    path = os.path.join(directory, f".packing-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):  # renamed; unless old and new name were the same file's already
            os.unlink(path)


def _rules_against(directory: str, out: str, name: str) -> list[str]:
    """Return rules that keep out what an earlier packing has written into the directory."""
    if not os.path.isdir(out):
        path = os.path.join(os.path.realpath(os.path.dirname(out)), os.path.basename(out))  # a link is replaced
        inside = os.path.relpath(path, os.path.realpath(directory))
        return [] if inside == ".." or inside.startswith("../") else [rule_for(os.fsencode(inside))]
    if os.path.samefile(out, directory):
        return [f"/{safe_name(name)}-{'[0-9a-f]' * 32}.tar.gz"]
    return []


def name_of(directory: str) -> str:
    """Return the name of a package that was given none."""
    return os.path.basename(os.path.abspath(directory)) or "root"


def safe_name(name: str) -> str:
    """Turn an application's name into a file name: ASCII letters, digits, ``. _ -``, at most 80 of them."""
    kept = [char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name]
    return "".join(kept)[:80]


def is_package_name(name: str) -> bool:
    """Return whether a file name is one that `pack` gives to an archive: safe, a digest, the suffix, and no directory."""
    stem, dash, digest = name.removesuffix(".tar.gz").rpartition("-")
    return (
        name.endswith(".tar.gz")
        and dash == "-"
        and safe_name(stem) == stem
        and len(digest) == 32
        and set(digest) <= set("0123456789abcdef")
    )


def project_file_for(name: str, dependencies: Iterable[str]) -> bytes:
    """Return the ``pyproject.toml`` of an application whose directory has no project file."""
    listed = "".join(f"    {_toml_string(text)},\n" for text in sorted(set(dependencies)))
    # A distribution's name may hold no more than this, and must begin and end with a letter or digit.
    project = safe_name(name).strip("._-") or "application"
    text = (
        "# Generated by flame_fast: the packaged directory has no project file.\n"
        "[project]\n"
        f"name = {_toml_string(project)}\n"
        'version = "0"\n'
        f"dependencies = [{chr(10) if listed else ''}{listed}]\n"
    )
    return text.encode("utf-8", "surrogateescape")


def _toml_string(text: str) -> str:
    """Return text as a TOML basic string."""
    out = []
    for char in text:
        if char in '\\"':
            out.append("\\" + char)
        elif ord(char) < 0x20 or ord(char) == 0x7F:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'
