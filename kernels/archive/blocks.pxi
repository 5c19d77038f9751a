# Blocks: the pieces an archive is compressed, stored and used again in.
#
# A block holds several whole members, or one piece of a large file. Where blocks begin is told by the members' paths and sizes
# alone, and mostly by each member's own, so that a change in one place moves no borders elsewhere (content-defined chunking, as in
# Muthitacharoen, Chen and Mazieres, "A low-bandwidth network file system", 2001, here by names in place of content).

cpdef enum:
    PIECE_BYTES = 1 << 20       # of a large file; no block of whole members is longer
    USUAL_BYTES = 1 << 19       # of a block, on average, if nothing else ends it


cdef size_t length_in_archive(Members members, Py_ssize_t number) noexcept nogil:
    cdef Member *member = members.member(number)
    cdef Naming naming = naming_of(members.path(member), member.path_length + (member.kind == DIRECTORY),
                                   members.target(member), member.target_length if member.kind == LINK else 0, member.size)
    return header_length(&naming, member.size) + padded(member.size)


cdef inline bint is_large(Member *member) noexcept nogil:
    return member.size > PIECE_BYTES


cdef Py_ssize_t block_end(Members members, Py_ssize_t first) noexcept nogil:
    """The number behind the last member of the block that begins with this one, which is not large."""
    cdef Py_ssize_t number = first
    cdef size_t length = 0, more
    cdef Member *member
    while number < members.count():
        member = members.member(number)
        if not members.state(number)[0] & SECRET:
            if is_large(member):
                break
            more = length_in_archive(members, number)
            if number > first and (length + more > PIECE_BYTES or begins_block(members.path(member), member.path_length, more)):
                break
            length += more
        number += 1
    return number


cdef bint begins_block(const char *path, size_t length, size_t weight) noexcept nogil:
    return hash_path(path, length) < (<uint64_t> weight << 32) // USUAL_BYTES


def plan_blocks(Members members):
    """Divides members into blocks.

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
    """Reads blocks, and is what it has read. One for each thread; all may share members, but not a block.

    Parameters
    ----------
    root : int
        The open directory; it stays the caller's.
    members : Members
    """
    cdef Members members
    cdef DirectoryCache directory
    cdef Bytes scratch
    cdef Py_ssize_t files
    cdef int64_t size, grown

    def __cinit__(self, *_):
        self.directory.descriptor = -1

    def __init__(self, int root, Members members not None):
        self.members = members
        self.directory.root = root

    def __dealloc__(self):
        forget_directory(&self.directory)
        free(self.directory.path.data)
        free(self.scratch.data)

    def read(self, Py_ssize_t first, Py_ssize_t count, Py_ssize_t piece):
        """Reads one block of the plan, as tar, in place of the one before.

        Members that are unreadable, gone, or no regular files any more are left out, and their state says so; as it does of
        those that changed since the walk or while they were read.

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
        """Whether a file can be read at all; if not, its state says why."""
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
        """A directory, a link, or generated content."""
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
        cdef size_t length = member.path_length
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
        naming = naming_of(name, length, self.members.target(member), member.target_length if member.kind == LINK else 0, size)
        return append_header(&self.bytes, &naming, member.kind, mode, size)

    # Files

    cdef int open_member(self, Py_ssize_t number, stat_t *found, char *state) noexcept nogil:
        """Opens a file; -1 when it cannot be, and why, as a state, which is 0 when errno says it of the system."""
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

    cdef bint is_as_walked(self, int opened, Member *member) noexcept nogil:
        cdef stat_t found
        return (fstat(opened, &found) == 0 and found.st_size == member.size
                and nanoseconds(found.st_mtim) == member.mtime_ns
                and nanoseconds(found.st_ctim) == member.ctime_ns and <uint64_t> found.st_ino == member.inode)

    cdef int read_file(self, Py_ssize_t number) noexcept nogil:
        """A small file: its size in the archive is what was read of it. It grows to at most a piece, a block by at most one."""
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
        same = got == <size_t> member.size and self.is_as_walked(opened, member)
        close(opened)
        if not same and member.flags & DOUBTFUL:    # what was looked at was no secret; this may be one
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
        """Leaves out the member that was begun."""
        self.bytes.length = begin
        self.files -= 1
        self.size -= size
        self.members.state(number)[0] |= <char> state
        return DONE

    cdef int read_piece(self, Py_ssize_t number, Py_ssize_t piece) noexcept nogil:
        """A piece of a large file, exactly as long as the walk found it; zeros where it has become shorter."""
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
            same = self.is_as_walked(opened, member)
            close(opened)
        if not same and member.flags & DOUBTFUL:
            got = 0             # what was looked at was no secret; this may be one
        self.bytes.length += got
        if append_zeros(&self.bytes, padded(length) - got):
            return OUT_OF_MEMORY
        if not same or got < length:
            self.members.state(number)[0] |= CHANGED | RACY     # it stays in: other pieces of it are
        return DONE


cdef size_t read_all(int descriptor, char *target, size_t length) noexcept nogil:
    """Reads so many bytes, fewer if the file ends before, or where the device fails: what was read stands."""
    cdef size_t got = 0
    cdef Py_ssize_t more
    while got < length:
        more = read(descriptor, target + got, length - got)
        if more < 0 and errno.errno == EINTR:
            continue
        if more <= 0:
            break
        got += more
    return got
