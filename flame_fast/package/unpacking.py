"""Unpack packages into a cache of trees, which workers import a project from.

    <home>/unpacked/<digest>/            the tree
                    <digest>.manifest    what is in it (manifest.py); written last: a tree without it is not finished
                    <digest>.lock        shared flock: a process that uses the tree; exclusive: its eviction
                    .lock                exclusive flock: the process that builds, one at a time
                                         its change time is its modification time until its rights are changed
                    .<anything else>     being built or thrown away; a leftover if no process holds .lock

A process builds a tree beside its place, on all cores, and renames it into place, so other processes find it whole or not at
all. Blocks that a similar tree has already are linked, not decompressed. A tree belongs to no runner: the `KEPT` most
recently used ones stay, and each that some process uses.

Guarantees
    A tree that `ensure_unpacked` returned stays until the calling process, and all it has forked since,
    have ended.
Assumes
    Nobody but this user can change a tree, since all of it is made for the user alone; one that others may write to, or
    whose rights were changed at any time, is built anew (`_check_private`). What else happens (a cleaner of old files, a
    full disk) shows in sizes and times, and the tree is built anew; files that were added, Python's own caches, do no harm.
    Equal files of several trees are one file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from flame_fast.config import DEFAULT_LIMIT, unpacked_tree
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels import archive
from flame_fast.package import stored_index
from flame_fast.package.block_format import (
    END,
    FIRST_PIECE,
    HEADER_BYTES,
    LATER_PIECE,
    BadHeader,
    Header,
    decompress,
    digest_of,
    hasher,
    read_header,
)
from flame_fast.package.file_lock import exclusive, still_names
from flame_fast.package.manifest import PreviousTree, is_whole, write_manifest
from flame_fast.package.ordered_pool import in_order, threads_for
from flame_fast.package.removal import remove_tree
from flame_fast.package.snapshot import most_files_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How many trees stay when no process uses them.
KEPT = 16

#: Bytes of tar beyond content that a package may have for each file that it may hold: names, headers, directories.
_MOST_HEADERS = 8192

#: Bytes of a link's whole path and its target: the system resolves no longer ones.
_MOST_LINK = 4000

#: The trees this process uses, and the descriptors whose shared locks say so: open until the process ends.
_held: dict[str, int] = {}


def ensure_unpacked(archive_path: str, digest: str, home: str | os.PathLike[str], limit: int = DEFAULT_LIMIT) -> str:
    """Return the tree of a package; unpack it if it is not there already.

    Parameters
    ----------
    archive_path : str
        The package, as `flame_fast.package.pack` wrote it.
    digest : str
        Its digest, which is checked when it is unpacked.
    home : str or path-like
        The data directory.
    limit : int
        Most bytes that its files may have; it bounds their number, too, as `flame_fast.package.pack` does.

    Returns
    -------
    str
        The tree's directory. It stays until this process ends.

    Raises
    ------
    FlameError
        ``NOT_FOUND`` for an archive that is not there; ``INTERNAL`` for one that is damaged, not what the
        digest says, or that holds what leads out of its tree: a stored package of that digest is forgotten.

    Notes
    -----
    Safe from many processes at once. Checking an existing tree costs about 1 µs a file.
    """
    if not (digest and digest.isascii() and digest.isalnum()):
        raise FlameError(FlameErrorCode.INVALID_ARGUMENT, f"digest: expected hexadecimal digits, got {digest!r}")
    tree = unpacked_tree(home, digest)
    cache = os.path.dirname(tree)
    os.makedirs(cache, mode=0o700, exist_ok=True)
    _check_private(cache)
    _hold(tree)
    if not is_whole(tree):
        with exclusive(cache):
            if not is_whole(tree):
                _remove_leftovers(cache)
                _build(archive_path, digest, tree, limit)
                _evict(cache)
    return tree


# Trust


def _check_private(cache: str) -> None:
    """Forget all trees if others may have written to them: their names, sizes and times say nothing then.

    A recursive change of rights, of which the trees' own modes may tell nothing any more, leaves ``.lock`` with a change
    time after its modification time. Who may write to it can make them equal, but only until its rights are taken back.
    """
    if _is_untouched(cache):
        return
    with exclusive(cache):
        if _is_untouched(cache):
            return
        for name in os.listdir(cache):
            if name.endswith(".manifest"):
                _unlink(os.path.join(cache, name))
        lock = os.path.join(cache, ".lock")
        os.chmod(cache, 0o700)
        os.chmod(lock, 0o600)
        os.utime(lock)


def _is_untouched(cache: str) -> bool:
    found = os.lstat(cache)
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise FlameError(
            FlameErrorCode.INVALID_CONFIG,
            f"{cache!r}: expected a directory of this user's, since code is run from there; remove it",
        )
    try:
        lock = os.lstat(os.path.join(cache, ".lock"))
    except FileNotFoundError:
        return False
    private = not (found.st_mode | lock.st_mode) & 0o077 and lock.st_uid == os.geteuid() and stat.S_ISREG(lock.st_mode)
    return private and lock.st_ctime_ns == lock.st_mtime_ns


# Locks


def _hold(tree: str) -> None:
    """Keep the tree from eviction until this process ends, and note that it is in use."""
    path = tree + ".lock"
    while tree not in _held:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for no more than an eviction of this very tree
        if not still_names(path, descriptor) or _held.setdefault(tree, descriptor) != descriptor:
            os.close(descriptor)  # it was evicted, or another thread was first
    with contextlib.suppress(OSError):
        os.utime(path)


def _remove_leftovers(cache: str) -> None:
    for name in os.listdir(cache):
        if name.startswith(".") and name != ".lock":
            remove_tree(os.path.join(cache, name))


def _evict(cache: str) -> None:
    """Remove the trees that were used least recently and that no process uses."""
    locks = []
    for name in os.listdir(cache):
        if name.endswith(".lock") and not name.startswith("."):
            with contextlib.suppress(OSError):
                path = os.path.join(cache, name)
                locks.append((os.stat(path).st_mtime_ns, path))
    locks.sort(reverse=True)
    for _, path in locks[KEPT:]:
        tree = path.removesuffix(".lock")
        if tree in _held:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _unlink(tree + ".manifest")
                _discard(tree)
                _unlink(path)
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)


def _discard(tree: str) -> None:
    """Move a tree out of its place in one step, then remove it."""
    away = os.path.join(os.path.dirname(tree), f".{os.path.basename(tree)}-{os.urandom(4).hex()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(tree, away)
        remove_tree(away)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


# Unpacking


def _build(archive_path: str, digest: str, tree: str, limit: int) -> None:
    building = os.path.join(os.path.dirname(tree), f".{digest}-{os.urandom(4).hex()}")
    os.mkdir(building, 0o700)
    try:
        blocks = _extract(archive_path, digest, building, os.path.dirname(tree), limit)
        _unlink(tree + ".manifest")
        _discard(tree)
        os.rename(building, tree)
        write_manifest(tree, blocks)
    except BaseException:
        remove_tree(building)
        raise


def _extract(archive_path: str, digest: str, target: str, cache: str, limit: int) -> list[tuple[bytes, bytes]]:
    """Unpack into an empty directory; return its manifest's blocks."""
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open(archive_path, "rb", buffering=0))
            headers = _read_headers(file.fileno())
            if digest_of(header.hash for _, header in headers) != digest:
                raise BadHeader(f"its content has another digest than {digest}")
            if sum(header.raw for _, header in headers) > limit + _MOST_HEADERS * most_files_for(limit):
                raise _TooMuch("more than names and content may take")
            root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, root)
            runs = _runs_of(headers)
            previous = PreviousTree(cache, {run.hash for run in runs})
            opened.callback(previous.close)
            unpacking = _Unpacking(file.fileno(), runs, root, previous, limit)
            unpacking.run()
            _make_links(root, target, unpacking.links)
            return unpacking.blocks
    except FileNotFoundError as error:
        if error.filename != archive_path:
            raise
        raise FlameError(
            FlameErrorCode.NOT_FOUND, f"the package {archive_path!r} is not there; was its Runner closed?"
        ) from error
    except _TooMuch as error:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"the package {archive_path!r} would unpack to {error}, above the limit of {limit:,} bytes and "
            f"{most_files_for(limit):,} files; raise package.limit in the configuration, if it is one of yours",
        ) from error
    except (BadHeader, archive.BadBlock) as error:
        stored_index.forget(os.path.dirname(cache), digest)  # else the next Runner would find the same
        raise FlameError(
            FlameErrorCode.INTERNAL,
            f"the package {archive_path!r} is damaged: {error}; remove it and start the Runner again",
        ) from error


def _read_headers(file: int) -> list[tuple[int, Header]]:
    """Return each block's offset and header; without the block that ends the archive."""
    found: list[tuple[int, Header]] = []
    at = 0
    while True:
        header = read_header(os.pread(file, HEADER_BYTES, at))
        if header.kind == END:
            if at + header.length != os.fstat(file).st_size:
                raise BadHeader("something follows its end")
            return found
        found.append((at, header))
        at += header.length


def _runs_of(headers: list[tuple[int, Header]]) -> list[_Run]:
    """Group blocks that belong together: each is alone, but a large file's pieces."""
    runs: list[_Run] = []
    for offset, header in headers:
        if header.kind != LATER_PIECE:
            runs.append(_Run())
        elif not runs or runs[-1].blocks[0][1].kind != FIRST_PIECE:
            raise BadHeader("a piece of a large file lacks its beginning")
        runs[-1].blocks.append((offset, header))
    return runs


class _TooMuch(Exception):
    """A package that holds more than the limit allows."""


class _Run:
    """The block of some whole members, or the blocks of one large file.

    Attributes
    ----------
    blocks : list of (int, Header)
        Each one's offset and header.
    """

    __slots__ = ("blocks",)

    def __init__(self) -> None:
        self.blocks: list[tuple[int, Header]] = []

    @property
    def hash(self) -> bytes:
        """Return the hash that names the content in manifests."""
        hashes = [header.hash for _, header in self.blocks]
        if len(hashes) == 1:
            return hashes[0]
        hash: bytes = hasher(0)(b"".join(hashes)).digest()
        return hash


class _Unpacked:
    """The outcome of one run: its manifest entries, links to be made, files and their bytes; of a large file, its path."""

    __slots__ = ("entries", "links", "files", "size", "path")

    def __init__(self, entries: bytes, links: list[tuple[bytes, bytes]], made: tuple[int, int], path: bytes = b"") -> None:
        self.entries = entries
        self.links = links
        self.files, self.size = made
        self.path = path


class _Unpacking:
    """Unpacks one package into an empty directory: all runs, then the later pieces of large files.

    Attributes
    ----------
    blocks : list of (bytes, bytes)
        Each run's hash, and its entries in the manifest.
    links : list of (bytes, bytes)
        Symbolic links that the caller is to make: path and target.
    """

    def __init__(self, file: int, runs: list[_Run], root: int, previous: PreviousTree, limit: int) -> None:
        self.blocks: list[tuple[bytes, bytes]] = []
        self.links: list[tuple[bytes, bytes]] = []
        self._file = file
        self._runs = runs
        self._root = root
        self._previous = previous
        self._limit = limit
        self._files = self._size = 0
        self._large: list[tuple[int, bytes]] = []  # numbers of runs, paths
        self._pieces: list[tuple[int, Header, bytes, int, int]] = []  # offset, header, path, where in the file, file's size

    def run(self) -> None:
        in_order(self._new_extractor, len(self._runs), threads_for(len(self._runs)), self._take)
        in_order(self._new_extender, len(self._pieces), threads_for(len(self._pieces)), lambda *_: None)
        extractor = archive.Extractor(self._root)
        for number, path in self._large:
            self.blocks[number] = (self.blocks[number][0], extractor.entry_of(path))

    def _read(self, offset: int, header: Header) -> bytes:
        return decompress(header, memoryview(os.pread(self._file, header.length, offset)))

    def _new_extractor(self) -> Callable[[int], _Unpacked]:
        extractor = archive.Extractor(self._root)

        def work(number: int) -> _Unpacked:
            run = self._runs[number]
            known = self._previous.entries.get(run.hash)
            links = extractor.link(self._previous.root, known) if known is not None else None
            if known is not None and links is not None:
                return _Unpacked(bytes(known), links, extractor.made)
            offset, header = run.blocks[0]
            large = header.kind == FIRST_PIECE
            entries, links = extractor.extract(self._read(offset, header), large)
            return _Unpacked(entries, links, extractor.made, entries[archive.ENTRY_BYTES :] if large else b"")

        return work

    def _take(self, number: int, made: _Unpacked) -> None:
        run = self._runs[number]
        self._files += made.files
        self._size += made.size
        if self._size > self._limit or self._files > most_files_for(self._limit):
            raise _TooMuch(f"at least {self._size:,} bytes in {self._files:,} files")
        if made.path:
            self._large.append((number, made.path))
            at = archive.PIECE_BYTES
            for offset, header in run.blocks[1:]:
                self._pieces.append((offset, header, made.path, at, made.size))
                at += archive.PIECE_BYTES
            if not 0 <= at - made.size < archive.PIECE_BYTES:
                raise BadHeader("pieces of a large file are missing")
        self.blocks.append((run.hash, made.entries))
        self.links += made.links

    def _new_extender(self) -> Callable[[int], None]:
        extractor = archive.Extractor(self._root)

        def work(number: int) -> None:
            offset, header, path, at, size = self._pieces[number]
            length = min(size - at, archive.PIECE_BYTES)
            raw = self._read(offset, header)
            if len(raw) != -(-length // 512) * 512:
                raise BadHeader("a piece of a large file has another length")
            extractor.extend(path, at, memoryview(raw)[:length])

        return work


def _make_links(root: int, target: str, links: list[tuple[bytes, bytes]]) -> None:
    """Make the symbolic links. They come last, so nothing is ever written through one."""
    extractor = archive.Extractor(root)
    base = os.path.realpath(os.fsencode(target))
    for path, goal in links:
        if os.path.isabs(goal) or len(base) + len(path) + len(goal) > _MOST_LINK:  # the system would not tell where it leads
            raise _leads_out(path, goal)
        extractor.make_link(path, goal)
    for path, goal in links:
        resolved = os.path.realpath(os.path.join(base, path))
        if resolved != base and not resolved.startswith(base + b"/"):
            raise _leads_out(path, goal)


def _leads_out(path: bytes, goal: bytes) -> archive.BadBlock:
    return archive.BadBlock(f"link {os.fsdecode(path)!r} leads out of the package, to {os.fsdecode(goal)!r}")
