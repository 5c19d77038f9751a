"""`pack`: a directory becomes one archive, of which only what changed is read and compressed again.

    directory --Snapshot--> members --plan_blocks--> blocks --BlockReader--> tar --SHA-256, deflate--> file
                               |                        ^                                              |
                            stored_index.py: unchanged? <------+---- the same blocks of the stored package <--+

The same tree gives the same bytes, whoever packs it, where, when, on how many threads, and whatever was packed before:
members are sorted, of what the file system knows about a file only its name, content, kind and owner's execute bit go in,
and the borders of blocks follow from names and sizes.

The tree may change while it is read. A file's size in the archive is what was read of it, or, for a large
one, what the walk found; either way the archive is whole, and a warning names the file.
"""

from __future__ import annotations

import contextlib
import os
import time

from flame_fast.config import DEFAULT_LIMIT, home_directory
from flame_fast.kernels import archive
from flame_fast.package import stored_index
from flame_fast.package.block_format import (
    FIRST_PIECE,
    LATER_PIECE,
    WHOLE,
    Compressor,
    compress,
    copy_range,
    digest_of,
    end_block,
    hasher,
    write_all,
)
from flame_fast.package.ordered_pool import in_order, threads_for
from flame_fast.package.progress import Progress
from flame_fast.package.snapshot import Snapshot, most_files_for, rule_for
from flame_fast.package.stored_index import Block, Contents, Stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from flame_fast.kernels.archive import Members


class PackageInfo:
    """A finished archive.

    Attributes
    ----------
    path : str
        Where the archive lies.
    digest : str
        32 hexadecimal digits of the SHA-256 of the content.
    files : int
        Members that are no directories.
    size : int
        Their bytes, before compression.
    compressed : int
        The archive's bytes.
    """

    __slots__ = ("path", "digest", "files", "size", "compressed", "_members")

    def __init__(self, path: str, digest: str, files: int, size: int, compressed: int, members: Members) -> None:
        self.path = path
        self.digest = digest
        self.files = files
        self.size = size
        self.compressed = compressed
        self._members = members

    def __repr__(self) -> str:
        return f"PackageInfo(path={self.path!r}, digest={self.digest!r}, files={self.files}, size={self.size})"

    @property
    def name(self) -> str:
        """The archive's file name."""
        return os.path.basename(self.path)

    @property
    def unreadable(self) -> list[str]:
        """The files that are not in the package, for they could not be read."""
        return [os.fsdecode(path) for path in self._members.paths(archive.UNREADABLE)]

    def holds(self, relative: str) -> bool:
        """Whether this path, relative to the packaged directory, is in the package; ``""`` is itself."""
        if relative in ("", "."):
            return True
        number = self._members.find(os.fsencode(relative))
        return number >= 0 and not self._members[number][4] & archive.LEFT_OUT


def pack(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    excludes: Iterable[str] = (),
    limit: int = DEFAULT_LIMIT,
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
    home = home_directory() if home is None else home
    name = name_of(directory) if name is None else name
    project_file = project_file_for(name, dependencies or ())
    most_files = most_files_for(limit)
    # What an earlier packing has written into the directory stays out.
    excludes, never = [*excludes, *_rules_against(directory, out, name)], [*never, home, out]
    with Snapshot(directory, excludes, project_file, never, most_files) as snapshot, contextlib.ExitStack() as held:
        key = stored_index.key_of(snapshot.root, project_file if snapshot.generated else b"")
        stored = stored_index.load(home, key)
        if stored is not None:
            held.enter_context(stored)
        unchanged = stored is not None and stored.is_for(snapshot.members) and not readable_again(snapshot)
        if not unchanged:
            changes = _Changes(snapshot, stored)
            snapshot.find_secrets(changes.known)
            snapshot.members.mark_racy(began_ns - stored_index.RACY_NS)
        snapshot.check_limits(limit, most_files)
        with _temporary_in(out) as temporary:
            if unchanged:
                assert stored is not None
                stored.place(temporary)
                contents = Contents(stored.digest, stored.files, stored.size, stored.compressor, [])
            else:
                contents = _Writing(snapshot, changes, temporary).run()
            compressed = os.stat(temporary).st_size
            path = os.path.join(out, f"{safe_name(name)}-{contents.digest}.tar.gz") if os.path.isdir(out) else out
            if not unchanged:
                # Under the name that nobody else knows: the other may be somebody else's package a moment later.
                with contextlib.suppress(OSError):  # then it is made anew the next time
                    stored_index.store(home, key, snapshot.members, contents, temporary)
            os.rename(temporary, path)
        notices = snapshot.notices()
    if dependencies and not snapshot.generated:
        notices.plain.append(
            "dependencies are not written into the package: the directory has a project file of its own; list them there"
        )
    notices.emit()
    return PackageInfo(path, contents.digest, contents.files, contents.size, compressed, snapshot.members)


@contextlib.contextmanager
def _temporary_in(out: str) -> Any:
    """A free name beside where the archive goes; what lies there at the end is removed."""
    directory = out if os.path.isdir(out) else os.path.dirname(os.path.abspath(out))
    path = os.path.join(directory, f".packing-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):  # renamed; unless old and new name were the same file's already
            os.unlink(path)


def _rules_against(directory: str, out: str, name: str) -> list[str]:
    """Keep what an earlier packing has written out of the next, if it is in no directory of its own."""
    if not os.path.isdir(out):
        path = os.path.join(os.path.realpath(os.path.dirname(out)), os.path.basename(out))  # a link is replaced
        inside = os.path.relpath(path, os.path.realpath(directory))
        return [] if inside == ".." or inside.startswith("../") else [rule_for(os.fsencode(inside))]
    if os.path.samefile(out, directory):
        return [f"/{safe_name(name)}-{'[0-9a-f]' * 32}.tar.gz"]
    return []


def name_of(directory: str) -> str:
    """The name of a package that was given none."""
    return os.path.basename(os.path.abspath(directory)) or "root"


def safe_name(name: str) -> str:
    """Turn an application's name into a file name: ASCII letters, digits, ``. _ -``, at most 80 of them."""
    kept = [char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name]
    return "".join(kept)[:80]


def readable_again(snapshot: Snapshot) -> list[int]:
    """The members that are known as unreadable, and are not any more."""
    reader = archive.BlockReader(snapshot.descriptor, snapshot.members)
    return [number for number in snapshot.members.with_state(archive.UNREADABLE) if reader.probe(number)]


class _Changes:
    """What of a snapshot is as it was when the stored package was made.

    Attributes
    ----------
    compressor : Compressor
        What compresses the rest.
    stored : Stored or None
        None if nothing of it can be used.
    known : memoryview of int32, or None
        For each member its number in the stored package, -1 if it is to be read.
    """

    def __init__(self, snapshot: Snapshot, stored: Stored | None) -> None:
        self.compressor = Compressor(snapshot.members.listed_bytes())
        self.stored: Stored | None = None
        self.known: Any = None
        self._by_place: dict[tuple[int, int], Block] = {}
        self._by_hash: dict[tuple[int, bytes], Block] = {}
        if stored is None or stored.compressor != self.compressor.version:
            for number in snapshot.members.with_state(archive.UNREADABLE):  # known by the index, which says nothing here
                snapshot.members.clear_state(number, archive.UNREADABLE)
            return
        try:
            stored.check_tables()
            self.known = snapshot.members.compare(stored.records, stored.names, stored.states)
        except ValueError:
            return
        self.stored = stored
        for number in readable_again(snapshot):
            snapshot.members.clear_state(number, archive.UNREADABLE)
            self.known[number] = -1
        for block in stored.blocks():
            self._by_place[block.first, block.piece] = block
            self._by_hash[_kind_of(block.piece), block.hash] = block

    def block_for(self, first: int, count: int, piece: int) -> Block | None:
        """The stored block with these members, if all of them are unchanged."""
        if self.known is None or (old := self.known[first]) < 0:
            return None
        block = self._by_place.get((old, piece))
        if block is None or block.count != count:
            return None
        return block if archive.follow_one_another(self.known, first, count) else None

    def block_like(self, piece: int, hash: bytes) -> Block | None:
        """A stored block of the same kind with this content."""
        return self._by_hash.get((_kind_of(piece), hash))


def _kind_of(piece: int) -> int:
    return WHOLE if piece < 0 else LATER_PIECE if piece else FIRST_PIECE


class _Made:
    """A block, where it is stored already, else what to write, and how many bytes of tar it holds."""

    __slots__ = ("block", "stored", "parts", "raw")

    def __init__(self, block: Block, stored: Block | None = None, parts: tuple[bytes, ...] = (), raw: int = 0) -> None:
        self.block = block
        self.stored = stored
        self.parts = parts
        self.raw = raw


class _Writing:
    """The writing of one archive into a new file."""

    def __init__(self, snapshot: Snapshot, changes: _Changes, path: str) -> None:
        self._descriptor = snapshot.descriptor
        self._members = snapshot.members
        self._changes = changes
        self._path = path
        self._size = snapshot.members.totals()[1]
        self._hash = hasher(self._size)
        self._plan = archive.plan_blocks(snapshot.members)
        self._kept = [changes.block_for(*planned) for planned in self._plan]
        self._skipped = self._unreadable_pieces()

    def run(self) -> Contents:
        """Write it; what it holds."""
        to_make = self._kept.count(None) - len(self._skipped)
        lead = self._lead()
        threads = threads_for(to_make + (lead > 0))
        ahead = 1 if lead and threads > 1 else 0  # one thread copies the lead while another makes what follows
        with _Output(self._path, self._changes.stored) as output, Progress(self._size) as progress:

            def take(_: int, made: _Made | None) -> None:
                if made is not None:
                    output.add(made)
                    progress.add(made.raw)

            def new_worker() -> Callable[[int], _Made | None]:
                work = self._new_worker()
                return lambda number: output.copy_ahead() if number < ahead else work(number - ahead + lead)

            for number in range(lead):
                take(number, self._made_before(number))
            in_order(new_worker, ahead + len(self._plan) - lead, threads, take)
            output.finish()
        blocks = output.blocks
        files, size = sum(block.files for block in blocks), sum(block.size for block in blocks)
        digest = digest_of(block.hash for block in blocks if block.length)
        return Contents(digest, files, size, self._changes.compressor.version, blocks)

    def _new_worker(self) -> Callable[[int], _Made]:
        reader = archive.BlockReader(self._descriptor, self._members)

        def work(number: int) -> _Made:
            if number in self._skipped:
                return _Made(Block(*self._plan[number], 0, 0, 0, 0, b""))
            return self._make(reader, number) if self._kept[number] is None else self._made_before(number)

        return work

    def _lead(self) -> int:
        """How many blocks are the same, and in the same place, as those that the stored package begins with."""
        end = 0
        for number, old in enumerate(self._kept):
            if old is None or old.offset != end:
                return number
            end += old.length
        return len(self._kept)

    def _made_before(self, number: int) -> _Made:
        old = self._kept[number]
        assert old is not None
        block = Block(*self._plan[number], old.files, old.size, 0, old.length, old.hash)
        return _Made(block, old, raw=old.size)

    def _make(self, reader: Any, number: int) -> _Made:
        first, count, piece = self._plan[number]
        files, size = reader.read(first, count, piece)
        length = len(reader)
        if not length:  # all of it was left out
            return _Made(Block(first, count, piece, 0, 0, 0, 0, b""))
        hash = self._hash(reader).digest()
        block = Block(first, count, piece, files, size, 0, 0, hash)
        old = self._changes.block_like(piece, hash)
        if old is not None:
            block.length = old.length
            return _Made(block, old, raw=length)
        parts = compress(_kind_of(piece), reader, length, hash, self._changes.compressor)
        block.length = sum(map(len, parts))
        return _Made(block, None, parts, length)

    def _unreadable_pieces(self) -> set[int]:
        """The numbers of blocks of large files that cannot be read: found out before any of their pieces is written."""
        reader = archive.BlockReader(self._descriptor, self._members)
        skipped: set[int] = set()
        refused = -1
        for number, (first, _, piece) in enumerate(self._plan):
            if piece == 0 and self._kept[number] is None:
                known = self._members[first][4] & archive.UNREADABLE
                refused = first if known or not reader.probe(first) else -1
            if piece >= 0 and first == refused:
                skipped.add(number)
        return skipped


class _Output:
    """The archive's file. What lies together in the stored package is copied at once; all of it gets a further name."""

    def __init__(self, path: str, stored: Stored | None) -> None:
        self.blocks: list[Block] = []
        self._path = path
        self._stored = stored
        self._descriptor = -1
        self._at = 0
        self._begin = self._end = 0  # of the stored package's bytes that are to come next
        self._copied = 0  # the end of those that are there already

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def add(self, made: _Made) -> None:
        made.block.offset = self._at
        self._at += made.block.length
        self.blocks.append(made.block)
        if not made.block.length:
            return
        if made.stored is None:
            self._write(made.parts)
            return
        if made.stored.offset != self._end:
            self._copy()
            self._begin = made.stored.offset
        self._end = made.stored.offset + made.stored.length

    def copy_ahead(self) -> None:
        """Copy what is to come next, though nothing but the rest of the stored package may follow."""
        assert self._stored is not None
        copy_range(self._stored.descriptor, self._open(), self._begin, self._end)
        self._copied = self._end

    def finish(self) -> None:
        end = end_block()
        stored = self._stored
        if stored is not None and self._begin == 0 and self._end == self._at == stored.length - len(end):
            if self._descriptor >= 0:
                os.unlink(self._path)
            stored.place(self._path)
        else:
            self._write((end,))

    def _write(self, parts: tuple[bytes, ...]) -> None:
        self._copy()
        write_all(self._open(), parts)

    def _copy(self) -> None:
        if self._end > self._begin:
            assert self._stored is not None
            copy_range(self._stored.descriptor, self._open(), max(self._begin, self._copied), self._end)
        self._begin = self._end = self._copied = 0

    def _open(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        return self._descriptor


# The generated project file


def project_file_for(name: str, dependencies: Iterable[str]) -> bytes:
    """The ``pyproject.toml`` of an application whose directory has no project file."""
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
    """A TOML basic string."""
    out = []
    for char in text:
        if char in '\\"':
            out.append("\\" + char)
        elif ord(char) < 0x20 or ord(char) == 0x7F:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'
