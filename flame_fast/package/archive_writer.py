"""Write one archive: what of it the stored package has already, the blocks to make, and the file they go to.

    members --plan_blocks--> blocks --Changes: in the stored package?--+--> copied, as they are --------+
                                                                       |                                v
                                                                       +--> tar --SHA-256, deflate--> _Output

The archive is whole, whatever happens to the tree meanwhile: a file's size in it is what was read of the file, or, for a
large one, what the walk found.
"""

from __future__ import annotations

import os

from flame_fast.kernels import archive
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
from flame_fast.package.stored_index import Block, Contents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.package.snapshot import Snapshot
    from flame_fast.package.stored_index import Stored


def readable_again(snapshot: Snapshot) -> list[int]:
    """Return the members that are known as unreadable, and are not any more."""
    reader = archive.BlockReader(snapshot.descriptor, snapshot.members)
    return [number for number in snapshot.members.with_state(archive.UNREADABLE) if reader.probe(number)]


class Changes:
    """The difference between a snapshot and the stored package.

    Attributes
    ----------
    compressor : Compressor
        Compresses the blocks that are made anew.
    stored : Stored or None
        None if nothing of it can be used.
    known : memoryview of int32, or None
        For each member its number in the stored package, -1 if it is to be read.
    """

    def __init__(self, snapshot: Snapshot, stored: Stored | None) -> None:
        self.compressor: Compressor = Compressor(snapshot.members.listed_bytes())
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
        """Return the stored block with these members, if all of them are unchanged."""
        if self.known is None or (old := self.known[first]) < 0:
            return None
        block = self._by_place.get((old, piece))
        if block is None or block.count != count:
            return None
        return block if archive.follow_one_another(self.known, first, count) else None

    def block_like(self, piece: int, hash: bytes) -> Block | None:
        """Return a stored block of the same kind with this content, if there is one."""
        return self._by_hash.get((_kind_of(piece), hash))


def _kind_of(piece: int) -> int:
    return WHOLE if piece < 0 else LATER_PIECE if piece else FIRST_PIECE


class _Made:
    """A block of the new archive, and where its bytes come from.

    Attributes
    ----------
    block : Block
        As the new index lists it.
    stored : Block or None
        The stored block to copy.
    parts : tuple of bytes
        What to write, if nothing is copied.
    raw : int
        Its bytes before compression, for the progress bar.
    """

    __slots__ = ("block", "stored", "parts", "raw")

    def __init__(self, block: Block, stored: Block | None = None, parts: tuple[bytes, ...] = (), raw: int = 0) -> None:
        self.block = block
        self.stored = stored
        self.parts = parts
        self.raw = raw


class ArchiveWriter:
    """Writes one archive into a new file.

    Parameters
    ----------
    snapshot : Snapshot
        What to pack, its secrets found already.
    changes : Changes
        Of this snapshot.
    path : str
        Where no file is yet.
    """

    def __init__(self, snapshot: Snapshot, changes: Changes, path: str) -> None:
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
        """Write the archive; return what it holds."""
        to_make = self._kept.count(None) - len(self._skipped)
        lead = self._lead()
        threads = threads_for(to_make + (lead > 0))
        ahead = 1 if lead and threads > 1 else 0  # one thread copies the lead while another makes the blocks behind it
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
        """Return how many blocks are the same, and in the same place, as those that the stored package begins with."""
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
        """Return the numbers of the blocks of large files that cannot be read, before any piece of them is written."""
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
    """The archive's file.

    Neighbours in the stored package are copied at once. If the whole package is the same, it only gets a further name.

    Attributes
    ----------
    blocks : list of Block
        Those added so far, in order.
    """

    def __init__(self, path: str, stored: Stored | None) -> None:
        self.blocks: list[Block] = []
        self._path = path
        self._stored = stored
        self._descriptor = -1
        self._at = 0
        self._begin = self._end = 0  # the stored package's bytes that are to be copied next
        self._copied = 0  # the end of those that are copied already

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
        """Copy the blocks added so far, though more blocks of the stored package may follow directly."""
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
