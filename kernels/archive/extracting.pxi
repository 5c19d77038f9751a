# Unpacking: a block's members become files, and a manifest tells what was made, so that a later version can link to it.
#
# Guarantees: nothing is made outside the root, whatever the block says; no link is followed; what is there is never opened again, but to add a large
# file's pieces.
# Links are the caller's to make, when everything else is there. A manifest has an entry for each member, in order: its head, its path.

cdef enum:
    TARGET_BYTES = 4096             # of the links that are read back

cdef struct Entry:
    int64_t size                    # of a file; of a link, its target's
    int64_t mtime_ns                # of a file; of a link, its target's hash
    uint32_t path_length
    uint8_t kind
    uint8_t[3] unused

cdef struct Parsed:
    int kind
    bint executable
    int64_t size
    const char *path
    size_t length
    const char *target
    size_t target_length


ENTRY_BYTES = sizeof(Entry)


class BadBlock(Exception):
    """What must not, or cannot, be unpacked."""


@cython.final
cdef class Extractor:
    """Makes the files of a package. One for each thread.

    Parameters
    ----------
    root : int
        The open directory; it stays the caller's.
    """
    cdef DirectoryCache directory
    cdef Bytes path, target, entries
    cdef const char *problem
    cdef list links

    def __cinit__(self, *_):
        self.directory.descriptor = -1

    def __init__(self, int root):
        self.directory.root = root

    def __dealloc__(self):
        forget_directory(&self.directory)
        free(self.directory.path.data)
        free(self.path.data)
        free(self.target.data)
        free(self.entries.data)

    def extract(self, const unsigned char[::1] block, bint large=False):
        """Makes what a block holds.

        Parameters
        ----------
        block : buffer
            Whole members as tar.
        large : bool
            Its only member is a file whose content goes on in other blocks.

        Returns
        -------
        (bytes, list of (bytes, bytes))
            The manifest's entries, and the links, which are not made: path and target.

        Raises
        ------
        BadBlock
            Says which member is wrong and how. What was made before stays.
        OSError
            A file could not be written.
        """
        cdef const char *data = <const char *> &block[0] if block.shape[0] else NULL
        cdef size_t length = block.shape[0]
        cdef int status, number
        self.problem = NULL
        self.entries.length = 0
        self.links = []
        with nogil:
            status = self.go(data, length, large)
            number = errno.errno
        path = PyBytes_FromStringAndSize(self.path.data, self.path.length) if self.path.data != NULL else b""
        if self.problem != NULL:
            raise BadBlock(f"member {os.fsdecode(path)!r} {self.problem.decode()}")
        if status:
            raise OSError(number, os.strerror(number), os.fsdecode(path))
        links, self.links = self.links, None
        return PyBytes_FromStringAndSize(self.entries.data, self.entries.length) if self.entries.length else b"", links

    def extend(self, path, int64_t at, const unsigned char[::1] content):
        """Writes a further piece of a large file.

        Parameters
        ----------
        path : bytes
        at : int
            Where in the file, in bytes.
        content : buffer
        """
        cdef const char *data = <const char *> &content[0] if content.shape[0] else NULL
        cdef size_t length = content.shape[0]
        cdef int opened
        cdef int number = 0
        self.set_path(path)
        with nogil:
            opened = self.open_file(O_WRONLY | O_NOFOLLOW | O_CLOEXEC)
            if opened < 0 or not write_all(opened, data, length, at):
                number = errno.errno
            if opened >= 0:
                close(opened)
        if number:
            raise OSError(number, os.strerror(number), os.fsdecode(path))

    def entry_of(self, path):
        """The manifest's entry of a large file, now that all its pieces are there."""
        cdef stat_t found
        cdef int opened
        self.set_path(path)
        opened = self.open_file(O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
        if opened < 0 or fstat(opened, &found) < 0:
            raise OSError(errno.errno, os.strerror(errno.errno), os.fsdecode(path))
        close(opened)
        self.entries.length = 0
        if self.add_entry(FILE, found.st_size, nanoseconds(found.st_mtim)):
            raise MemoryError
        return PyBytes_FromStringAndSize(self.entries.data, self.entries.length)

    def make_link(self, path, target):
        """Makes a symbolic link, but not through another; when everything else is there."""
        cdef const char *name
        cdef int directory
        self.set_path(path)
        directory = self.directory_at(True, &name)
        if directory >= 0 and symlinkat(<const char *> target, directory, name) == 0:
            return
        if errno.errno == EEXIST:
            raise BadBlock(f"member {os.fsdecode(path)!r} is there twice")
        if errno.errno == ENOTDIR or errno.errno == ELOOP:
            raise BadBlock(f"member {os.fsdecode(path)!r} lies in what is no directory")
        raise OSError(errno.errno, os.strerror(errno.errno), os.fsdecode(path))

    def link(self, int previous, const unsigned char[::1] entries):
        """Makes what a block holds out of an earlier version's tree, by hard links.

        Parameters
        ----------
        previous : int
            That tree's root, open.
        entries : buffer
            The block's entries in its manifest.

        Returns
        -------
        list of (bytes, bytes) or None
            The links, which are not made; None if the tree is not what its manifest says, or links cannot be made: then no file
            is made, and the block is to be extracted.
        """
        cdef const char *data = <const char *> &entries[0] if entries.shape[0] else NULL
        cdef size_t length = entries.shape[0]
        cdef DirectoryCache old
        cdef bint linked
        memset(&old, 0, sizeof(old))
        old.root = previous
        old.descriptor = -1
        self.problem = NULL
        self.links = []
        with nogil:
            linked = self.link_all(&old, data, length)
            forget_directory(&old)
            free(old.path.data)
        links, self.links = self.links, None
        return links if linked else None

    def verify(self, const unsigned char[::1] entries):
        """Whether the tree is still what these entries of its manifest say: kinds, sizes, modification times, targets."""
        cdef const char *data = <const char *> &entries[0] if entries.shape[0] else NULL
        cdef size_t length = entries.shape[0], at = 0
        cdef Entry entry
        cdef const char *name
        cdef bint same = True
        with nogil:
            while same and at < length:
                same = self.next_entry(data, length, &at, &entry) and self.is_there(&entry)
        return same

    cdef int set_path(self, path) except -1:
        if self.put_path(<const char *> path, len(path)):
            raise MemoryError
        return 0

    cdef int put_path(self, const char *path, size_t length) noexcept nogil:
        self.path.length = 0
        if append(&self.path, path, length) or append(&self.path, b"\0", 1):
            return -1
        self.path.length -= 1
        return 0

    # What a block holds

    cdef int go(self, const char *data, size_t length, bint large) noexcept nogil:
        cdef size_t at = 0, content
        cdef Parsed member
        cdef int status = 0
        while status == 0 and at < length:
            status = self.parse(data, length, &at, &member)
            if status == 0 and large and member.kind != FILE:
                return self.bad(b"is no large file")
            if status == 0 and member.kind == FILE:
                content = length - at if large else <size_t> member.size
                if content > length - at or (large and (content != PIECE_BYTES or member.size <= PIECE_BYTES)):
                    return self.bad(b"has another length than its block")
                status = self.make_file(&member, data + at, content)
                at = length if large else at + padded(content)
            elif status == 0 and member.kind == DIRECTORY:
                status = self.make_directory()
                status = status or self.add_entry(DIRECTORY, 0, 0)
            elif status == 0:
                status = self.add_link(member.target, member.target_length)
        return status

    cdef int parse(self, const char *data, size_t length, size_t *at, Parsed *member) noexcept nogil:
        """The next member, its path in `path`, `at` moved to its content."""
        cdef Ustar header
        cdef bint has_path = False, has_target = False
        cdef int64_t size = -1
        self.path.length = self.target.length = 0
        while True:
            if length - at[0] < BLOCK:
                return self.bad(b"ends early")
            memcpy(&header, data + at[0], BLOCK)
            at[0] += BLOCK
            if memcmp(header.magic, b"ustar", 6) or read_octal(header.checksum, 6) != <int64_t> checksum_of(&header):
                return self.bad(b"has a damaged header")
            member.kind = header.kind[0]
            member.size = read_octal(header.size, 11)
            if member.kind != EXTENDED:
                break
            if member.size < 0 or padded(member.size) > length - at[0]:
                return self.bad(b"ends early")
            if self.parse_extended(data + at[0], member.size, &has_path, &has_target, &size):
                return self.bad(b"has a damaged header")
            at[0] += padded(member.size)
        if size >= 0:
            member.size = size
        member.executable = (read_octal(header.mode, 7) & 0o100) != 0
        if not has_path and self.join_name(&header):
            return -1
        if not has_target and append(&self.target, header.target, strnlen(header.target, NAME_BYTES)):
            return -1
        if member.kind == DIRECTORY and self.path.length and self.path.data[self.path.length - 1] == c"/":
            self.path.length -= 1
        if append(&self.path, b"\0", 1):
            return -1
        self.path.length -= 1
        member.target = self.target.data
        member.target_length = self.target.length
        if not is_inside(self.path.data, self.path.length):
            return self.bad(b"leads out of the package")
        if member.kind != FILE and member.kind != DIRECTORY and member.kind != LINK:
            return self.bad(b"is neither file, directory nor symbolic link")
        if member.size < 0:
            return self.bad(b"has a damaged header")
        if member.kind == LINK and (not self.target.length or memchr(self.target.data, 0, self.target.length) != NULL):
            return self.bad(b"has a damaged header")
        return 0

    cdef int bad(self, const char *problem) noexcept nogil:
        self.problem = problem
        return -1

    cdef int join_name(self, const Ustar *header) noexcept nogil:
        cdef size_t prefix = strnlen(header.prefix, PREFIX_BYTES)
        if prefix and (append(&self.path, header.prefix, prefix) or append(&self.path, b"/", 1)):
            return -1
        return append(&self.path, header.name, strnlen(header.name, NAME_BYTES))

    cdef int parse_extended(self, const char *data, size_t length, bint *has_path, bint *has_target, int64_t *size) noexcept nogil:
        """Records of "length keyword=value\n"; what is not known is passed over."""
        cdef size_t at = 0, total, digits, equals
        cdef const char *record
        while at < length:
            record = data + at
            total = digits = 0
            while at + digits < length and c"0" <= record[digits] <= c"9" and digits < 9:
                total = 10 * total + (record[digits] - c"0")
                digits += 1
            if total > length - at or total < digits + 4 or record[digits] != c" " or record[total - 1] != c"\n":
                return -1
            equals = digits + 1
            while equals < total and record[equals] != c"=":
                equals += 1
            if equals == total:
                return -1
            if self.take_record(record + digits + 1, equals - digits - 1, record + equals + 1, total - equals - 2,
                                has_path, has_target, size):
                return -1
            at += total
        return 0

    cdef int take_record(self, const char *keyword, size_t length, const char *value, size_t value_length,
                         bint *has_path, bint *has_target, int64_t *size) noexcept nogil:
        cdef size_t i
        if length == 4 and memcmp(keyword, b"path", 4) == 0:
            has_path[0] = True
            self.path.length = 0
            return append(&self.path, value, value_length)
        if length == 8 and memcmp(keyword, b"linkpath", 8) == 0:
            has_target[0] = True
            self.target.length = 0
            return append(&self.target, value, value_length)
        if length == 4 and memcmp(keyword, b"size", 4) == 0:
            size[0] = 0
            for i in range(value_length):
                if not c"0" <= value[i] <= c"9" or i == 18:
                    return -1
                size[0] = 10 * size[0] + (value[i] - c"0")
        return 0

    # Making

    cdef int make_file(self, Parsed *member, const char *content, size_t length) noexcept nogil:
        cdef mode_t mode = 0o755 if member.executable else 0o644
        cdef stat_t found
        cdef int problem
        cdef int opened = self.open_file(O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
        if opened < 0:
            if errno.errno == EEXIST:
                self.problem = b"is there twice"
            elif errno.errno == ENOTDIR or errno.errno == ELOOP:
                self.problem = b"lies in what is no directory"
            return -1
        if (
            not write_all(opened, content, length, 0)
            or fstat(opened, &found) < 0
            or (found.st_mode & 0o7777 != mode and fchmod(opened, mode) < 0)
        ):
            problem = errno.errno
            close(opened)
            errno.errno = problem
            return -1
        close(opened)
        return self.add_entry(FILE, member.size, nanoseconds(found.st_mtim))

    cdef int open_file(self, int flags) noexcept nogil:
        """Opens the file at the path; its directories are made if it is to be made."""
        cdef const char *name
        cdef int directory = self.directory_at(flags & O_CREAT, &name)
        return openat(directory, name, flags, <mode_t> 0o644) if directory >= 0 else -1

    cdef int directory_at(self, bint making, const char **name) noexcept nogil:
        """The open directory that holds the path, made if need be: another thread may be behind with its entry."""
        cdef int directory = directory_of(&self.directory, self.path.data, self.path.length, name)
        if directory < 0 and making and errno.errno == ENOENT and self.make_parents() == 0:
            directory = directory_of(&self.directory, self.path.data, self.path.length, name)
        return directory

    cdef int make_parents(self) noexcept nogil:
        cdef size_t cut
        cdef const char *name
        cdef int directory, made
        for cut in range(1, self.path.length):
            if self.path.data[cut] == c"/":
                self.path.data[cut] = 0
                directory = directory_of(&self.directory, self.path.data, cut, &name)
                made = mkdirat(directory, name, 0o755) if directory >= 0 else -1
                self.path.data[cut] = c"/"
                if made < 0 and (directory < 0 or errno.errno != EEXIST):
                    return -1
        return 0

    cdef int make_directory(self) noexcept nogil:
        cdef const char *name
        cdef stat_t found
        cdef int directory = self.directory_at(True, &name)
        if directory < 0:
            if errno.errno == ENOTDIR or errno.errno == ELOOP:
                self.problem = b"lies in what is no directory"
            return -1
        if mkdirat(directory, name, 0o755) == 0:
            return 0
        if errno.errno == EEXIST and fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) == 0 and S_ISDIR(found.st_mode):
            return 0
        if errno.errno == EEXIST:
            self.problem = b"is there twice"
        return -1

    cdef int add_link(self, const char *target, size_t length) noexcept nogil:
        with gil:
            path = PyBytes_FromStringAndSize(self.path.data, self.path.length)
            self.links.append((path, PyBytes_FromStringAndSize(target, length) if length else b""))
        return self.add_entry(LINK, length, hash_path(target, length))

    cdef int add_entry(self, int kind, int64_t size, int64_t mtime_ns) noexcept nogil:
        cdef Entry entry
        memset(&entry, 0, sizeof(entry))
        entry.kind = <uint8_t> kind
        entry.size = size
        entry.mtime_ns = mtime_ns
        entry.path_length = <uint32_t> self.path.length
        return append(&self.entries, &entry, sizeof(entry)) or append(&self.entries, self.path.data, self.path.length)

    # By a manifest

    cdef bint next_entry(self, const char *data, size_t length, size_t *at, Entry *entry) noexcept nogil:
        """The next entry, its path in `path`; false if there is none that makes sense."""
        if length - at[0] < sizeof(Entry):
            return False
        memcpy(entry, data + at[0], sizeof(Entry))
        at[0] += sizeof(Entry)
        if entry.path_length > length - at[0] or self.put_path(data + at[0], entry.path_length):
            return False
        at[0] += entry.path_length
        return is_inside(self.path.data, self.path.length)

    cdef bint is_there(self, Entry *entry) noexcept nogil:
        cdef char[TARGET_BYTES] target
        cdef stat_t found
        cdef const char *name
        cdef int directory = self.directory_at(False, &name)
        if directory >= 0 and entry.kind == LINK:
            return read_target(directory, name, entry, target)
        if directory < 0 or fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) < 0:
            return False
        if entry.kind == DIRECTORY:
            return S_ISDIR(found.st_mode)
        return (S_ISREG(found.st_mode) and found.st_size == entry.size
                and nanoseconds(found.st_mtim) == entry.mtime_ns)

    cdef bint link_all(self, DirectoryCache *old, const char *data, size_t length) noexcept nogil:
        cdef size_t at = 0, done = 0
        cdef Entry entry
        cdef bint linked = True
        while linked and at < length:
            done = at
            linked = self.next_entry(data, length, &at, &entry)
            if linked and entry.kind == DIRECTORY:
                linked = self.make_directory() == 0
            elif linked and entry.kind == LINK:
                linked = self.take_link(old, &entry)
            elif linked:
                linked = entry.kind == FILE and self.link_file(old, &entry)
        if not linked:
            self.unlink_all(data, done)
        return linked

    cdef void unlink_all(self, const char *data, size_t length) noexcept nogil:
        cdef size_t at = 0
        cdef Entry entry
        cdef const char *name
        cdef int directory
        while at < length and self.next_entry(data, length, &at, &entry):
            directory = self.directory_at(False, &name)
            if directory >= 0 and entry.kind == FILE:
                unlinkat(directory, name, 0)

    cdef bint link_file(self, DirectoryCache *old, Entry *entry) noexcept nogil:
        cdef const char *name
        cdef int source = directory_of(old, self.path.data, self.path.length, &name)
        cdef int directory = self.directory_at(True, &name) if source >= 0 else -1
        if directory < 0 or linkat(source, name, directory, name, 0) < 0:
            return False
        if not self.is_there(entry):
            unlinkat(directory, name, 0)
            return False
        return True

    cdef bint take_link(self, DirectoryCache *old, Entry *entry) noexcept nogil:
        cdef char[TARGET_BYTES] target
        cdef const char *name
        cdef int source = directory_of(old, self.path.data, self.path.length, &name)
        return source >= 0 and read_target(source, name, entry, target) and self.add_link(target, entry.size) == 0


cdef bint read_target(int directory, const char *name, Entry *entry, char *target) noexcept nogil:
    """Reads a link; false if it is not the entry's."""
    cdef Py_ssize_t length = readlinkat(directory, name, target, TARGET_BYTES)
    return length >= 0 and length == entry.size and hash_path(target, length) == entry.mtime_ns


cdef bint is_inside(const char *path, size_t length) noexcept nogil:
    """Whether a path is relative, and has no part that is empty or leads anywhere but down."""
    cdef size_t begin = 0, at
    if not length or memchr(path, 0, length) != NULL:
        return False
    for at in range(length + 1):
        if at == length or path[at] == c"/":
            if at == begin or (at == begin + 1 and path[begin] == c"."):
                return False
            if at == begin + 2 and path[begin] == c"." and path[begin + 1] == c".":
                return False
            begin = at + 1
    return True


cdef int64_t read_octal(const char *field, int digits) noexcept nogil:
    """A number as `write_octal` writes it; -1 for anything else."""
    cdef int64_t value = 0
    cdef int i
    for i in range(digits):
        if not c"0" <= field[i] <= c"7":
            return -1
        value = 8 * value + (field[i] - c"0")
    return value


cdef bint write_all(int descriptor, const char *data, size_t length, int64_t at) noexcept nogil:
    cdef Py_ssize_t written
    while length:
        written = pwrite(descriptor, data, length, at)
        if written == 0:
            errno.errno = EIO
        if written <= 0 and errno.errno != EINTR:
            return False
        if written > 0:
            data += written
            at += written
            length -= written
    return True
