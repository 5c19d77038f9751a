# Extractor: a block's members become files, and a manifest tells what was made, so that a later version can link to it.
#
# Guarantees: nothing is made outside the root, whatever the block says; no link is followed; a file that is there is never
# opened again, but to add a large file's pieces. The caller makes symbolic links, when everything else is there.
# uses: nothing

cimport cython

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc cimport errno
from libc.errno cimport EEXIST, ELOOP, ENOENT, ENOTDIR
from libc.stdint cimport int64_t
from libc.stdlib cimport free
from libc.string cimport memset

from .core.buffers cimport Bytes, append
from .core.chunking cimport PIECE_BYTES
from .core.directory_cache cimport DirectoryCache, directory_of, free_cache, init_cache
from .core.externs cimport (
    AT_SYMLINK_NOFOLLOW, O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY, S_ISDIR, close, fchmod, fstat, fstatat,
    hash_path, linkat, mkdirat, mode_t, openat, stat_t, symlinkat, unlinkat,
)
from .core.file_io cimport nanoseconds, write_all
from .core.manifest cimport TARGET_BYTES, Entry, append_entry, entry_at, is_as_listed, read_target
from .core.members cimport DIRECTORY, FILE, LINK
from .core.paths cimport is_inside
from .core.tar cimport padded
from .core.tar_reader cimport TarMember, TarReader, next_member

import os


class BadBlock(Exception):
    """A block that must not, or cannot, be unpacked."""


@cython.final
cdef class Extractor:
    """Makes the files of a package. One for each thread.

    Parameters
    ----------
    root : int
        The open directory, which the caller closes.
    """
    cdef DirectoryCache directory
    cdef Bytes path, target, entries
    cdef const char *problem
    cdef list links
    cdef int64_t files, size

    def __cinit__(self, *_):
        init_cache(&self.directory, -1)

    def __init__(self, int root):
        self.directory.root = root

    def __dealloc__(self):
        free_cache(&self.directory)
        free(self.path.data)
        free(self.target.data)
        free(self.entries.data)

    @property
    def made(self):
        """Return of the last block the members that are no directories, and the bytes of whole files."""
        return self.files, self.size

    def extract(self, const unsigned char[::1] block, bint large=False):
        """Make what a block holds.

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
        cdef TarReader reader
        memset(&reader, 0, sizeof(reader))
        reader.data = data
        reader.length = length
        reader.path = &self.path
        reader.target = &self.target
        self.problem = NULL
        self.entries.length = 0
        self.links = []
        self.files = self.size = 0
        with nogil:
            status = self.make_members(&reader, large)
            number = errno.errno
        path = PyBytes_FromStringAndSize(self.path.data, self.path.length) if self.path.data != NULL else b""
        if self.problem != NULL:
            raise BadBlock(f"member {os.fsdecode(path)!r} {self.problem.decode()}")
        if status:
            raise OSError(number, os.strerror(number), os.fsdecode(path))
        links, self.links = self.links, None
        return PyBytes_FromStringAndSize(self.entries.data, self.entries.length) if self.entries.length else b"", links

    def extend(self, path, int64_t at, const unsigned char[::1] content):
        """Write a further piece of a large file.

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
        """Return the manifest's entry of a large file, all pieces of which are there."""
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
        """Make a symbolic link, but not through another link; call it when everything else is there."""
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
        """Make what a block holds by hard links to an earlier version's tree.

        Parameters
        ----------
        previous : int
            That tree's root, open.
        entries : buffer
            The block's entries in its manifest.

        Returns
        -------
        list of (bytes, bytes) or None
            The symbolic links, which are not made. None if the tree is not what its manifest says, or hard links cannot be
            made: then no file is made, and the block is to be extracted.
        """
        cdef const char *data = <const char *> &entries[0] if entries.shape[0] else NULL
        cdef size_t length = entries.shape[0]
        cdef DirectoryCache old
        cdef bint linked
        init_cache(&old, previous)
        self.problem = NULL
        self.links = []
        self.files = self.size = 0
        with nogil:
            linked = self.link_all(&old, data, length)
            free_cache(&old)
        links, self.links = self.links, None
        return links if linked else None

    def verify(self, const unsigned char[::1] entries):
        """Return whether the tree is still what these entries say: kinds, sizes, modification times, targets."""
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

    cdef int make_members(self, TarReader *reader, bint large) noexcept nogil:
        cdef size_t content
        cdef TarMember member
        cdef int status = 0
        while status == 0 and reader.at < reader.length:
            status = next_member(reader, &member)
            if status:
                self.problem = reader.problem
            elif large and member.kind != FILE:
                return self.bad(b"is no large file")
            elif member.kind == FILE:
                content = reader.length - reader.at if large else <size_t> member.size
                if content > reader.length - reader.at or \
                        (large and (content != PIECE_BYTES or member.size <= PIECE_BYTES)):
                    return self.bad(b"has another length than its block")
                self.files += 1
                self.size += member.size
                status = self.make_file(&member, reader.data + reader.at, content)
                reader.at = reader.length if large else reader.at + padded(content)
            elif member.kind == DIRECTORY:
                status = self.make_directory()
                status = status or self.add_entry(DIRECTORY, 0, 0)
            else:
                status = self.add_link(self.target.data, self.target.length)
        return status

    cdef int bad(self, const char *problem) noexcept nogil:
        self.problem = problem
        return -1

    # Making

    cdef int make_file(self, TarMember *member, const char *content, size_t length) noexcept nogil:
        cdef mode_t mode = 0o700 if member.executable else 0o600     # for the user alone, whatever the umask
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
        """Open the file at the path; `O_CREAT` makes its directories, too."""
        cdef const char *name
        cdef int directory = self.directory_at(flags & O_CREAT, &name)
        return openat(directory, name, flags, <mode_t> 0o600) if directory >= 0 else -1

    cdef int directory_at(self, bint making, const char **name) noexcept nogil:
        """Return the open directory that holds the path; -1 with errno.

        `making` makes it if need be: another thread may not have come to its entry yet.
        """
        cdef int directory = directory_of(&self.directory, self.path.data, self.path.length, name)
        if directory < 0 and making and errno.errno == ENOENT and self.make_parents() == 0:
            directory = directory_of(&self.directory, self.path.data, self.path.length, name)
        return directory

    cdef int make_parents(self) noexcept nogil:
        cdef size_t cut
        for cut in range(self.length_there() + 1, self.path.length):
            if self.path.data[cut] == c"/" and self.make_one(cut) < 0:
                return -1
        return 0

    cdef size_t length_there(self) noexcept nogil:
        """Return how much of the path leads to a directory that is there, by halves: it may have thousands of parts."""
        cdef size_t there = 0, missing = self.path.length, middle
        cdef const char *name
        while True:
            middle = there + (missing - there) // 2
            while middle > there and self.path.data[middle] != c"/":
                middle -= 1
            if middle == there:     # no part begins in the lower half
                middle += (missing - there) // 2 + 1
                while middle < missing and self.path.data[middle] != c"/":
                    middle += 1
            if middle >= missing:
                return there
            if directory_of(&self.directory, self.path.data, middle + 1, &name) >= 0:
                there = middle
            else:
                missing = middle

    cdef int make_one(self, size_t cut) noexcept nogil:
        """Make the directory that the path names up to a slash, unless another thread has."""
        cdef const char *name
        cdef int directory, made
        self.path.data[cut] = 0
        directory = directory_of(&self.directory, self.path.data, cut, &name)
        made = mkdirat(directory, name, 0o700) if directory >= 0 else -1
        self.path.data[cut] = c"/"
        return 0 if made == 0 or (directory >= 0 and errno.errno == EEXIST) else -1

    cdef int make_directory(self) noexcept nogil:
        cdef const char *name
        cdef stat_t found
        cdef int directory = self.directory_at(True, &name)
        if directory < 0:
            if errno.errno == ENOTDIR or errno.errno == ELOOP:
                self.problem = b"lies in what is no directory"
            return -1
        if mkdirat(directory, name, 0o700) == 0:
            return 0
        if errno.errno == EEXIST and fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) == 0 and S_ISDIR(found.st_mode):
            return 0
        if errno.errno == EEXIST:
            self.problem = b"is there twice"
        return -1

    cdef int add_link(self, const char *target, size_t length) noexcept nogil:
        with gil:
            path = PyBytes_FromStringAndSize(self.path.data, self.path.length)
            self.files += 1
            self.links.append((path, PyBytes_FromStringAndSize(target, length) if length else b""))
        return self.add_entry(LINK, length, hash_path(target, length))

    cdef int add_entry(self, int kind, int64_t size, int64_t mtime_ns) noexcept nogil:
        return append_entry(&self.entries, kind, size, mtime_ns, &self.path)

    # By a manifest

    cdef bint next_entry(self, const char *data, size_t length, size_t *at, Entry *entry) noexcept nogil:
        """Read the next entry, its path into `path`; false if there is none that makes sense."""
        cdef const char *path = entry_at(data, length, at, entry)
        if path == NULL or self.put_path(path, entry.path_length):
            return False
        return is_inside(self.path.data, self.path.length)

    cdef bint is_there(self, const Entry *entry) noexcept nogil:
        cdef const char *name
        cdef int directory = self.directory_at(False, &name)
        return directory >= 0 and is_as_listed(directory, name, entry)

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
                self.files += 1
                self.size += entry.size
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
