"""Manifests of unpacked trees: what each block of a package became, so that a later version can link to it.

    <tree>.manifest    a checksum; the blocks' hashes and the lengths of their entries; all entries

`kernels/archive/FORMAT.md` has it byte by byte.

Guarantees
    A tree has a manifest only after it is finished. `is_whole` finds what is missing, and what has another size, time or
    target than it had then.
Assumes
    A file whose content changes gets another size or time.
"""

from __future__ import annotations

import os
import struct
import zlib

from flame_fast.kernels import archive
from flame_fast.package.file_lock import private

_MAGIC = b"FFTREE01"
_COUNT = struct.Struct("<8sII")
_BLOCK = struct.Struct("<32sI")


class Manifest:
    """A tree's manifest, parsed; ValueError or struct.error if the bytes are none.

    Attributes
    ----------
    all : memoryview
        The entries of all blocks.
    entries : dict
        Each block's entries, by its hash.
    """

    def __init__(self, data: bytes) -> None:
        magic, checksum, count = _COUNT.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("another version's manifest")
        view = memoryview(data)
        if zlib.crc32(view[_COUNT.size :], count) != checksum:
            raise ValueError("a damaged manifest")
        at = _COUNT.size + count * _BLOCK.size
        self.all: memoryview = view[at:]
        self.entries: dict[bytes, memoryview] = {}
        for hash, length in _BLOCK.iter_unpack(view[_COUNT.size : at]):
            self.entries[hash] = view[at : at + length]
            at += length


def read_manifest(tree: str) -> Manifest | None:
    """Read a tree's manifest; None if there is none, or a damaged one."""
    try:
        with open(tree + ".manifest", "rb", buffering=0) as file:
            return Manifest(file.readall())
    except (OSError, ValueError, struct.error):
        return None


def is_whole(tree: str) -> bool:
    """Return whether a tree is there and is what its manifest says, and nobody but this user may write to any of it."""
    manifest = read_manifest(tree)
    if manifest is None:
        return False
    root = _open_private(tree)
    if root < 0:
        return False
    try:
        return archive.Extractor(root).verify(manifest.all)
    finally:
        os.close(root)


def _open_private(tree: str) -> int:
    """Open a tree's root; -1 if it is not there, or if others may write to it."""
    try:
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    found = os.fstat(root)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return root
    os.close(root)
    return -1


def write_manifest(tree: str, blocks: list[tuple[bytes, bytes]]) -> None:
    """Write a tree's manifest, in one step: each block's hash and its entries, in order."""
    heads = [_BLOCK.pack(hash, len(entries)) for hash, entries in blocks]
    content = b"".join([*heads, *(entries for _, entries in blocks)])
    temporary = os.path.join(os.path.dirname(tree), f".{os.path.basename(tree)}.manifest")
    with open(temporary, "wb", opener=private) as file:
        file.write(_COUNT.pack(_MAGIC, zlib.crc32(content, len(blocks)), len(blocks)) + content)
    os.rename(temporary, tree + ".manifest")


class PreviousTree:
    """The tree that has most blocks in common with the one to be made. Its files need only be linked.

    Parameters
    ----------
    cache : str
        The directory of all trees.
    wanted : set of bytes
        Hashes of the blocks of the new tree.

    Attributes
    ----------
    root : int
        The tree, open; -1 when there is none.
    entries : dict
        Its entries by their hashes.
    """

    def __init__(self, cache: str, wanted: set[bytes]) -> None:
        self.root: int = -1
        self.entries: dict[bytes, memoryview] = {}
        best, tree = 0, ""
        for name in os.listdir(cache):
            if not name.endswith(".manifest") or name.startswith("."):
                continue
            path = os.path.join(cache, name.removesuffix(".manifest"))
            manifest = read_manifest(path)
            if manifest is not None and (common := len(wanted & manifest.entries.keys())) > best:
                best, tree, self.entries = common, path, manifest.entries
        if best:
            self.root = _open_private(tree)
            if self.root < 0:
                self.entries = {}

    def close(self) -> None:
        if self.root >= 0:
            os.close(self.root)
