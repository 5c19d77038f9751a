"""Incremental packing's cache: the last package of each tree, and an index of its content.

    <home>/packed/<key>.index              names, sizes, times, inodes; blocks and their hashes; which package holds them
                  <key>-<random>.tar.gz    the package; a storage may have other names of the same file
                  .lock                    exclusive flock: the process that changes this directory, for a moment

`load` believes an index only if its checksums hold and its package is the file it was written for (size, modification
time, inode). A file is unchanged if its size, times and inode are those of the walk that packed it, and its times
were older than `RACY_NS` then: two writes within one tick of a file system's clock leave one time (git's "racily clean"
entries; Documentation/technical/racy-git). Two seconds are the coarsest tick, that of FAT.
`kernels/archive/FORMAT.md` has the index byte by byte.

Guarantees
    A fault here costs time, never correctness: a damaged or missing piece counts as none.
Assumes
    A program that changes a file's content changes its times. Writing through a shared mapping (mmap, `numpy.memmap`) need
    not do so before the mapping is flushed or closed.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib

from flame_fast.package.block_format import copy_range
from flame_fast.package.file_lock import exclusive, private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.kernels.archive import Members

#: A file that changed less than so long before it was packed may change again without a trace.
RACY_NS = 2_000_000_000

#: How many trees have a package here.
KEPT = 16

#: How many bytes the packages may have together; the one used last stays in any case.
KEPT_BYTES = 2 << 30

_MAGIC = b"FFPACK01"
_HEAD = struct.Struct("<8s16s8s40s3QqQ4Q2I")
_BLOCK = struct.Struct("<IIiI3Q32s")


class Block:
    """One block of a stored package.

    Attributes
    ----------
    first, count, piece : int
        Its members, as `flame_fast.kernels.archive.plan_blocks` gives them.
    files, size : int
        Members that are no directories, and their bytes.
    offset, length : int
        Its place in the package. A length of 0: all of its members were left out.
    hash : bytes
        SHA-256 of its tar.
    """

    __slots__ = ("first", "count", "piece", "files", "size", "offset", "length", "hash")

    def __init__(
        self, first: int, count: int, piece: int, files: int, size: int, offset: int, length: int, hash: bytes
    ) -> None:
        self.first: int = first
        self.count: int = count
        self.piece: int = piece
        self.files: int = files
        self.size: int = size
        self.offset: int = offset
        self.length: int = length
        self.hash: bytes = hash

    def pack(self) -> bytes:
        return _BLOCK.pack(self.first, self.count, self.piece, self.files, self.size, self.offset, self.length, self.hash)


class Contents:
    """The content of a package, as an index needs it.

    Attributes
    ----------
    digest : str
    files, size : int
        As in `PackageInfo`.
    compressor : str
        Names the library and level (`Compressor.version`).
    blocks : list of Block
    """

    __slots__ = ("digest", "files", "size", "compressor", "blocks")

    def __init__(self, digest: str, files: int, size: int, compressor: str, blocks: list[Block]) -> None:
        self.digest: str = digest
        self.files: int = files
        self.size: int = size
        self.compressor: str = compressor
        self.blocks: list[Block] = blocks


class Stored:
    """A stored package and its index, open; for use in a `with`.

    Attributes
    ----------
    digest, files, size, compressor :
        As in `Contents`.
    descriptor : int
        The package, open.
    length : int
        Bytes of the package.
    records, names, states : memoryview
        Its members, as `flame_fast.kernels.archive.Members` has them.
    """

    __slots__ = (
        "digest",
        "files",
        "size",
        "compressor",
        "descriptor",
        "length",
        "records",
        "names",
        "states",
        "_path",
        "_blocks",
        "_tables",
        "_tables_sum",
    )

    def __init__(self, index: bytes, directory: str, key: str) -> None:
        head = _HEAD.unpack_from(index)
        magic, digest, suffix, compressor, files, size, length, mtime_ns, inode = head[:9]
        self.files: int = files
        self.size: int = size
        self.length: int = length
        states, blocks, records, names, self._tables_sum, head_sum = head[9:]
        if magic != _MAGIC:
            raise ValueError("another version's index")
        view = memoryview(index)
        at = _HEAD.size
        self.states: memoryview = view[at : at + states]
        at += states
        self._blocks = view[at : at + blocks * _BLOCK.size]
        at += blocks * _BLOCK.size
        self.records: memoryview = view[at : at + records]
        self.names: memoryview = view[at + records : at + records + names]
        self._tables = view[at:]
        if len(self._tables) != records + names or zlib.crc32(view[_HEAD.size : at], _head_sum(index)) != head_sum:
            raise ValueError("a damaged index")
        self.digest: str = digest.hex()
        self.compressor: str = compressor.rstrip(b"\0").decode()
        self._path = os.path.join(directory, f"{key}-{suffix.decode()}.tar.gz")
        self.descriptor: int = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(self.descriptor)
        if (found.st_size, found.st_mtime_ns, found.st_ino) != (self.length, mtime_ns, inode):
            os.close(self.descriptor)
            raise ValueError("the package is not the one the index was written for")

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def is_for(self, members: Members) -> bool:
        """Return whether a walk found the very tree that was packed; then its members take over the packing's states."""
        return members.is_still(self.records, self.names, self.states)

    def check_tables(self) -> None:
        """Raise ValueError if `records` and `names` are damaged. Those that equal a walk's need no check."""
        if zlib.crc32(self._tables) != self._tables_sum:
            raise ValueError("a damaged index")

    def blocks(self) -> list[Block]:
        """Return its blocks, in order."""
        found = []
        for first, count, piece, files, size, offset, length, hash in _BLOCK.iter_unpack(self._blocks):
            found.append(Block(first, count, piece, files, size, offset, length, hash))
        return found

    def place(self, path: str) -> None:
        """Give the package a further name, which must be free, by a link or a copy."""
        try:
            os.link(self._path, path, follow_symlinks=False)
        except OSError:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            try:
                copy_range(self.descriptor, target, 0, self.length)
            finally:
                os.close(target)


def load(home: str, key: str) -> Stored | None:
    """Return the stored package of a key; None if there is none, or one that cannot be believed."""
    directory = _directory(home)
    path = os.path.join(directory, f"{key}.index")
    for _ in range(2):  # the package may just have been replaced, and the index with it
        try:
            with open(path, "rb", buffering=0) as file:
                index = file.readall()
            stored = Stored(index, directory, key)
            with contextlib.suppress(OSError):  # of a directory that may only be read
                os.utime(path)
            return stored
        except FileNotFoundError:
            continue
        except (OSError, ValueError, struct.error):
            return None
    return None


def key_of(root: bytes, project_file: bytes) -> str:
    """Return the key of a tree's package, by the directory and the generated project file.

    Two trees with one key replace each other's package, which costs time only.
    """
    both = b"%b\0%b" % (root, project_file)
    return f"{zlib.crc32(both):08x}{zlib.crc32(both[::-1]):08x}"


def store(home: str, key: str, members: Members, contents: Contents, package: str) -> None:
    """Keep a package for the next packing; the file gets a further name.

    Raises
    ------
    OSError
        It cannot be kept.
    """
    directory = _directory(home)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    suffix = os.urandom(4).hex()
    kept = os.path.join(directory, f"{key}-{suffix}.tar.gz")
    with exclusive(directory):
        try:
            try:
                os.link(package, kept)
            except OSError:
                _copy(package, kept)
            found = os.stat(kept)
            _write_index(os.path.join(directory, f"{key}.index"), _index(members, contents, suffix, found))
        finally:
            _reclaim(directory)  # after a failure, it removes half a package, too


def forget(home: str, digest: str) -> None:
    """Drop every stored package with a digest, which has turned out to be damaged."""
    directory = _directory(home)
    with contextlib.suppress(OSError), exclusive(directory):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if name.endswith(".index") and _digest_in(path) == digest:
                os.unlink(path)
        _reclaim(directory)


def _directory(home: str) -> str:
    return os.path.join(home, "packed")


def _head_sum(index: bytes) -> int:
    return zlib.crc32(index[: _HEAD.size - 4])


def _index(members: Members, contents: Contents, suffix: str, package: os.stat_result) -> bytes:
    states = bytes(members.states)
    blocks = b"".join([block.pack() for block in contents.blocks])
    records, names = bytes(members.records), bytes(members.names)
    head = _HEAD.pack(
        _MAGIC,
        bytes.fromhex(contents.digest),
        suffix.encode(),
        contents.compressor.encode(),
        contents.files,
        contents.size,
        package.st_size,
        package.st_mtime_ns,
        package.st_ino,
        len(states),
        len(contents.blocks),
        len(records),
        len(names),
        zlib.crc32(names, zlib.crc32(records)),
        0,
    )
    checked = zlib.crc32(blocks, zlib.crc32(states, _head_sum(head)))
    return b"".join((head[:-4], checked.to_bytes(4, "little"), states, blocks, records, names))


def _write_index(path: str, index: bytes) -> None:
    temporary = f"{path}.new"
    with open(temporary, "wb", opener=private) as file:
        file.write(index)
    os.rename(temporary, path)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as reader, open(target, "xb", opener=private) as writer:
        copy_range(reader.fileno(), writer.fileno(), 0, os.fstat(reader.fileno()).st_size)


def _digest_in(path: str) -> str:
    return _head_in(path)[8:24].hex()


def _suffix_in(path: str) -> str:
    return _head_in(path)[24:32].decode("ascii", "replace")


def _head_in(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD.size)
    except OSError:
        return b""  # no file at all


def _reclaim(directory: str) -> None:
    """Remove the packages used least recently, and those that no index names; the caller holds the lock."""
    names = os.listdir(directory)
    used = []
    for name in names:
        if name.endswith(".index"):
            path = os.path.join(directory, name)
            used.append((os.lstat(path).st_mtime_ns, name.removesuffix(".index"), path))
    used.sort(reverse=True)
    wanted = {".lock"}
    left = KEPT_BYTES
    for number, (_, key, path) in enumerate(used):
        package = f"{key}-{_suffix_in(path)}.tar.gz"
        with contextlib.suppress(OSError):
            left -= os.stat(os.path.join(directory, package)).st_size
        if number == 0 or (number < KEPT and left >= 0):
            wanted |= {os.path.basename(path), package}
    for name in names:
        if name not in wanted:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))
