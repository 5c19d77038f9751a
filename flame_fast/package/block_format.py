"""The archive's file format: a gzip member for each block of tar (`kernels/archive/FORMAT.md`).

    1f 8b 08 04 | no time | extra field: "FF", kind, lengths, SHA-256 of the tar | deflate | CRC-32, length
    ... and, last, a member with the two empty blocks that end a tar.

A reader of gzip sees one stream (RFC 1952, 2.2: members follow one another; readers skip extra fields). This package finds,
compares, decompresses and uses again each block without the others. The package's digest is the SHA-256 of its blocks'
SHA-256: it covers all content before compression, and is known without decompressing anything.

Compression is ISA-L's, level 2 with a small buffer. Measured (`pytest bench/package/test_packaging.py -k libraries`):
fewer bytes than its level 1 at about the same speed, and several times as fast as zlib-ng and libdeflate at their fastest,
on text and on incompressible data. Loading ISA-L takes longer than all else in the first packing of a small project, so
Python's zlib compresses small ones.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from _typeshed import ReadableBuffer

#: Kinds of blocks: whole members; the first piece of a large file, with its header; a later one; the end of the archive.
WHOLE, FIRST_PIECE, LATER_PIECE, END = range(4)

#: No block is longer before compression: a piece, and the headers of the longest names.
MOST_RAW = 2 << 20

_GZIP = struct.Struct("<4s4s2sH")
_EXTRA = struct.Struct("<2sHBII32s")
_FIRST = b"\x1f\x8b\x08\x04"
_TRAILER = struct.Struct("<II")
HEADER_BYTES = _GZIP.size + _EXTRA.size

_LEVEL = 2
_SMALL_LEVEL = 1
#: zlib's memory level, 1 to 9, by default 8: larger tables cost more to allocate than they save here.
_SMALL_MEMORY = 6

#: Up to so many bytes, zlib is done before ISA-L is loaded.
SMALL_PACKAGE = 32 << 10

#: Up to so many bytes, Python's own SHA-256 is done before OpenSSL's is loaded.
_HASHED_SLOWLY = 1 << 20

#: The two empty blocks deflated, and their CRC-32 and length: bytes that are always the same need no compressor.
_END = bytes.fromhex("631805a360148c580000 2eafb5ef 00040000")


class BadHeader(Exception):
    """Bytes that are no block, or a damaged one."""


class Header:
    """A block's header.

    Attributes
    ----------
    kind : int
        ``WHOLE``, ``FIRST_PIECE``, ``LATER_PIECE`` or ``END``.
    length : int
        Bytes of the whole gzip member.
    raw : int
        Bytes of the tar in it.
    hash : bytes
        SHA-256 of the tar.
    """

    __slots__ = ("kind", "length", "raw", "hash")

    def __init__(self, kind: int, length: int, raw: int, hash: bytes) -> None:
        self.kind: int = kind
        self.length: int = length
        self.raw: int = raw
        self.hash: bytes = hash

    def pack(self) -> bytes:
        head = _GZIP.pack(_FIRST, bytes(4), b"\x00\xff", _EXTRA.size)
        return head + _EXTRA.pack(b"FF", _EXTRA.size - 4, self.kind, self.length, self.raw, self.hash)


def read_header(data: bytes) -> Header:
    """Read the header at the beginning of some bytes; `BadHeader` when there is none."""
    if len(data) < HEADER_BYTES:
        raise BadHeader("it ends early")
    first, time, _, extra = _GZIP.unpack_from(data)
    mark, length, kind, whole, raw, hash = _EXTRA.unpack_from(data, _GZIP.size)
    if (first, time, extra, mark, length) != (_FIRST, bytes(4), _EXTRA.size, b"FF", _EXTRA.size - 4):
        raise BadHeader("it is no package of this version of flame_fast")
    if kind > END or raw > MOST_RAW or whole < HEADER_BYTES + _TRAILER.size:
        raise BadHeader("a block's header is damaged")
    return Header(kind, whole, raw, hash)


class Compressor:
    """Deflates the blocks of one package.

    Parameters
    ----------
    size : int
        Bytes of the package's content.

    Attributes
    ----------
    version : str
        Names the library and level, on which the compressed bytes depend, though not the digest.
    """

    __slots__ = ("version", "_small")

    def __init__(self, size: int) -> None:
        self._small = size <= SMALL_PACKAGE
        if self._small:
            self.version: str = f"zlib {zlib.ZLIB_RUNTIME_VERSION} level {_SMALL_LEVEL}"
        else:
            import isal

            self.version = f"isal {isal.__version__} level {_LEVEL}"

    def deflate(self, raw: ReadableBuffer, length: int) -> bytes:
        """Deflate `length` bytes; append their CRC-32 and length."""
        if self._small:
            stream = zlib.compressobj(_SMALL_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, _SMALL_MEMORY)
            return b"".join((stream.compress(raw), stream.flush(), _TRAILER.pack(zlib.crc32(raw), length)))
        from isal import igzip_lib

        return igzip_lib.compress(raw, _LEVEL, igzip_lib.COMP_GZIP_NO_HDR, igzip_lib.MEM_LEVEL_SMALL)


def compress(kind: int, raw: ReadableBuffer, length: int, hash: bytes, compressor: Compressor) -> tuple[bytes, bytes]:
    """Make a block: return its header, and the deflated tar with its trailer."""
    body = compressor.deflate(raw, length)
    return Header(kind, HEADER_BYTES + len(body), length, hash).pack(), body


def decompress(header: Header, member: memoryview) -> bytes:
    """Return the tar of a block; `BadHeader` if it is not what the header says."""
    raw = _inflate(member[HEADER_BYTES : -_TRAILER.size], header.raw)
    if len(raw) != header.raw or hasher(header.raw)(raw).digest() != header.hash:
        raise BadHeader("a block is damaged: its content has another digest")
    return raw


def _inflate(deflated: memoryview, length: int) -> bytes:
    """Inflate what should be `length` bytes; of longer content, return one byte more, which tells the caller."""
    if length <= SMALL_PACKAGE:
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, length + 1)
        except zlib.error as error:
            raise BadHeader(f"a block is damaged: {error}") from error
    from isal import igzip_lib

    try:
        raw: bytes = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE).decompress(deflated, length + 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub says it is an instance
        raise BadHeader(f"a block is damaged: {error}") from error
    return raw


def end_block() -> bytes:
    """Return the block that ends every archive; it is no part of the digest."""
    return Header(END, HEADER_BYTES + len(_END), 1024, bytes(32)).pack() + _END


def digest_of(hashes: Iterable[bytes]) -> str:
    """Return a package's digest by the hashes of its blocks: 32 hexadecimal digits."""
    joined = b"".join(hashes)
    digest: str = hasher(len(joined))(joined).hexdigest()
    return digest[:32]


def hasher(size: int) -> Callable[[ReadableBuffer], Any]:
    """Return a SHA-256 for `size` bytes: OpenSSL's is fast, but loading it takes longer than packing a small project."""
    if size < _HASHED_SLOWLY and "_hashlib" not in sys.modules:
        if sys.version_info >= (3, 12):
            from _sha2 import sha256
        else:
            from _sha256 import sha256  # type: ignore[import-not-found]
        return sha256  # type: ignore[no-any-return]
    import hashlib

    return hashlib.sha256


def copy_range(source: int, target: int, begin: int, end: int) -> None:
    """Copy a range of bytes of one file to the current offset of another, in the kernel if it can."""
    while begin < end:
        try:
            copied = os.copy_file_range(source, target, end - begin, begin)
        except OSError:
            copied = _copy_by_hand(source, target, begin, end)
        if not copied:
            raise OSError(f"the stored package ends {end - begin} bytes early")
        begin += copied


def _copy_by_hand(source: int, target: int, begin: int, end: int) -> int:
    data = os.pread(source, min(end - begin, 1 << 20), begin)
    write_all(target, (data,))
    return len(data)


def write_all(target: int, parts: tuple[bytes, ...]) -> None:
    """Write all of several pieces."""
    written = os.writev(target, parts)
    if written < sum(map(len, parts)):
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(target, rest) :]
