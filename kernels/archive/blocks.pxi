# Blocks: the pieces an archive is compressed, stored and used again in. One holds several whole members, or one piece of a
# large file; `core/chunking.pxd` tells where they begin.
# uses: buffers, members

from libc cimport errno
from libc.errno cimport ELOOP, ENOENT, ENOTDIR, ENXIO
from libc.stdint cimport int64_t
from libc.stdlib cimport free

from .core.buffers cimport Bytes, append, append_zeros, reserve
from .core.chunking cimport PIECE_BYTES, begins_block, is_large, length_in_archive
from .core.directory_cache cimport DirectoryCache, directory_of, free_cache, init_cache
from .core.externs cimport (
    O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, S_ISREG, SEEK_SET, close, fstat, lseek, openat, stat_t,
)
from .core.file_io cimport is_shortage, read_all
from .core.members cimport (
    CHANGED, DIRECTORY, DOUBTFUL, EXECUTABLE, FILE, GENERATED, GONE, LINK, RACY, SECRET, SPECIAL, UNREADABLE, Member,
    is_as_walked,
)
from .core.status cimport DONE, FAILED, OUT_OF_MEMORY
from .core.tar cimport BLOCK, Naming, append_header, naming_of, padded

import os


cdef Py_ssize_t block_end(Members members, Py_ssize_t first) noexcept nogil:
    """Return the number behind the last member of the block that begins with `first`, which is not large."""
    cdef Py_ssize_t number = first
    cdef size_t length = 0, more
    cdef Member *member
    cdef const char *path
    while number < members.count():
        member = members.member(number)
        if not members.state(number)[0] & SECRET:
            if is_large(member):
                break
            path = members.path(member)
            more = length_in_archive(member, path, members.target(member))
            if number > first and (length + more > PIECE_BYTES or begins_block(path, member.path_length, more)):
                break
            length += more
        number += 1
    return number


def plan_blocks(Members members):
    """Divide members into blocks.

    Returns
    -------
    list of (int, int, int)
        First member, how many, and, for a piece of a large file, which: -1 for whole members.
    """
    cdef Py_ssize_t number = 0, end, piece
    cdef Member *member
    blocks = []
    while number < members.count():
        member = members.member(number)
        if is_large(member) and not members.state(number)[0] & SECRET:
            for piece in range((member.size + PIECE_BYTES - 1) // PIECE_BYTES):
                blocks.append((number, 1, piece))
            number += 1
        else:
            with nogil:
                end = block_end(members, number)
            blocks.append((number, end - number, -1))
            number = end
    return blocks


cdef class BlockReader(Buffer):
    """Reads blocks, and is the buffer of the last one. One for each thread; all may share members, but not a block.

    Parameters
    ----------
    root : int
        The open directory, which the caller closes.
    members : Members
    """
    cdef Members members
    cdef DirectoryCache directory
    cdef Bytes scratch
    cdef Py_ssize_t files
    cdef int64_t size, grown

    def __cinit__(self, *_):
        init_cache(&self.directory, -1)

    def __init__(self, int root, Members members not None):
        self.members = members
        self.directory.root = root

    def __dealloc__(self):
        free_cache(&self.directory)
        free(self.scratch.data)

    def read(self, Py_ssize_t first, Py_ssize_t count, Py_ssize_t piece):
        """Read one block of the plan, as tar, in place of the one before.

        Members that are unreadable, gone, or no regular files any more are left out. Their state says so, and which members
        changed since the walk or while they were read.

        Returns
        -------
        (int, int)
            Members that are no directories, and their bytes.

        Raises
        ------
        OSError
            The system, or this process, has no descriptor or no memory left for it.
        """
        cdef int status, problem
        if self.views:
            raise BufferError("a view of the last block is still in use")
        if not (0 <= first and 0 < count and first + count <= self.members.count()):
            raise IndexError((first, count))
        self.bytes.length = 0
        self.files = 0
        self.size = 0
        self.grown = 0
        with nogil:
            status = self.read_piece(first, piece) if piece >= 0 else self.read_whole(first, count)
            problem = errno.errno
        if status == FAILED:
            raise OSError(problem, os.strerror(problem))
        if status:
            raise MemoryError
        return self.files, self.size

    def probe(self, Py_ssize_t number):
        """Return whether a file can be read at all; if not, its state says why."""
        cdef stat_t found
        cdef char state = 0
        cdef int opened
        if not 0 <= number < self.members.count():
            raise IndexError(number)
        opened = self.open_member(number, &found, &state)
        if opened < 0 and not state:
            raise OSError(errno.errno, os.strerror(errno.errno))
        if opened >= 0:
            close(opened)
        self.members.state(number)[0] |= state
        return opened >= 0

    cdef int read_whole(self, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t number
        cdef int failed = 0
        for number in range(first, first + count):
            if self.members.state(number)[0] & (SECRET | UNREADABLE) or failed:
                continue
            if self.members.member(number).kind == FILE and not self.members.member(number).flags & GENERATED:
                failed = self.read_file(number)
            else:
                failed = self.write_plain(number)
        return failed

    cdef int write_plain(self, Py_ssize_t number) noexcept nogil:
        """Append a directory, a link, or generated content."""
        cdef Member *member = self.members.member(number)
        cdef const char *target = self.members.target(member)
        if member.flags & GENERATED:
            if self.write_header(number, member.size) or append(&self.bytes, target, member.size):
                return -1
            return append_zeros(&self.bytes, padded(member.size) - member.size)
        return self.write_header(number, 0)

    cdef int write_header(self, Py_ssize_t number, int64_t size) noexcept nogil:
        cdef Member *member = self.members.member(number)
        cdef const char *name = self.members.path(member)
        cdef size_t length = member.path_length, target_length = 0
        cdef int mode = 0o755 if member.flags & EXECUTABLE else 0o644
        cdef Naming naming
        if member.kind == DIRECTORY:
            self.scratch.length = 0
            if append(&self.scratch, name, length) or append(&self.scratch, b"/", 1):
                return -1
            name = self.scratch.data
            length += 1
            mode = 0o755
        else:
            self.files += 1
            self.size += size
        if member.kind == LINK:
            mode = 0o777
            target_length = member.target_length
        naming = naming_of(name, length, self.members.target(member), target_length, size)
        return append_header(&self.bytes, &naming, member.kind, mode, size)

    # Files

    cdef int open_member(self, Py_ssize_t number, stat_t *found, char *state) noexcept nogil:
        """Open a file; -1 and a state that says why not, or state 0 when errno tells of a shortage of the system."""
        cdef Member *member = self.members.member(number)
        cdef const char *name
        cdef int opened = -1
        cdef int directory = directory_of(&self.directory, self.members.path(member), member.path_length, &name)
        if directory >= 0:
            # Neither a link nor a fifo that has taken the file's place since the walk may lead away or block.
            opened = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        if opened < 0:
            if errno.errno == ENOENT or errno.errno == ENOTDIR:
                state[0] = GONE | RACY
            elif errno.errno == ELOOP or errno.errno == ENXIO:      # a link, a socket
                state[0] = SPECIAL | RACY
            elif not is_shortage(errno.errno):
                state[0] = UNREADABLE
            return -1
        if fstat(opened, found) < 0 or not S_ISREG(found.st_mode):
            close(opened)
            state[0] = SPECIAL | RACY
            return -1
        return opened

    cdef int read_file(self, Py_ssize_t number) noexcept nogil:
        """Append a small file as long as what was read of it. It grows to at most a piece, a block by at most one."""
        cdef Member *member = self.members.member(number)
        cdef stat_t found
        cdef char state = 0
        cdef int opened = self.open_member(number, &found, &state)
        cdef size_t begin = self.bytes.length, header, got
        cdef int64_t promised
        cdef bint same
        if opened < 0:
            self.members.state(number)[0] |= state
            return DONE if state else FAILED
        promised = min(found.st_size, <int64_t> PIECE_BYTES, member.size + PIECE_BYTES - self.grown)
        if self.write_header(number, promised) or reserve(&self.bytes, promised + 1 + BLOCK):
            close(opened)
            return OUT_OF_MEMORY
        header = self.bytes.length - begin
        got = read_all(opened, self.bytes.data + self.bytes.length, promised + 1)
        same = got == <size_t> member.size and is_as_walked(opened, member)
        close(opened)
        if not same and member.flags & DOUBTFUL:    # the secret check saw another content; this may be a secret
            return self.take_back(number, begin, promised, SECRET | RACY)
        if not same:
            self.members.state(number)[0] |= CHANGED | RACY
        if got != <size_t> promised:
            got = min(got, <size_t> promised)
            self.take_back(number, begin, promised, 0)
            if self.write_header(number, got):      # as long as before: neither size needs an extended header
                return OUT_OF_MEMORY
        self.grown += max(<int64_t> padded(got) - <int64_t> padded(member.size), <int64_t> 0)
        self.bytes.length = begin + header + got
        return append_zeros(&self.bytes, padded(got) - got)

    cdef int take_back(self, Py_ssize_t number, size_t begin, int64_t size, int state) noexcept nogil:
        """Take the member that was begun out of the block again."""
        self.bytes.length = begin
        self.files -= 1
        self.size -= size
        self.members.state(number)[0] |= <char> state
        return DONE

    cdef int read_piece(self, Py_ssize_t number, Py_ssize_t piece) noexcept nogil:
        """Append a piece of a large file, as long as the walk found it; zeros where the file has become shorter."""
        cdef Member *member = self.members.member(number)
        cdef int64_t begin = <int64_t> piece * PIECE_BYTES
        cdef size_t length = <size_t> min(member.size - begin, <int64_t> PIECE_BYTES), got = 0
        cdef stat_t found
        cdef char state = 0
        cdef bint same = False
        cdef int opened
        if piece == 0 and self.write_header(number, member.size):
            return OUT_OF_MEMORY
        if reserve(&self.bytes, length + BLOCK):
            return OUT_OF_MEMORY
        opened = self.open_member(number, &found, &state)
        if opened < 0 and not state:
            return FAILED
        if opened >= 0:
            if lseek(opened, begin, SEEK_SET) == begin:
                got = read_all(opened, self.bytes.data + self.bytes.length, length)
            same = is_as_walked(opened, member)
            close(opened)
        if not same and member.flags & DOUBTFUL:
            got = 0             # the secret check saw another content; this may be a secret
        self.bytes.length += got
        if append_zeros(&self.bytes, padded(length) - got):
            return OUT_OF_MEMORY
        if not same or got < length:
            self.members.state(number)[0] |= CHANGED | RACY     # it stays in: other pieces of it are
        return DONE
