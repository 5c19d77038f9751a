# Members of a snapshot as C structs.
#
# Records hold what tells that a file is still the same, and nothing that differs between two walks of an unchanged tree: so
# two snapshots are equal if their bytes are.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp

from .externs cimport S_IXUSR, fstat, stat_t
from .file_io cimport nanoseconds
from .paths cimport compare_paths

cdef enum:                  # kinds; those of tar's type flag
    FILE = 0x30
    LINK = 0x32
    DIRECTORY = 0x35

cdef enum Flag:             # a member's flags
    EXECUTABLE = 1          # by its owner
    DOUBTFUL = 2            # a secret if there is a private key in it
    GENERATED = 4           # its content is in `names`, where a link has its target

cdef enum State:            # a member's state: what is known beyond its record
    RACY = 1                # changed so recently that it may change again without a trace: to be read again
    UNREADABLE = 2
    GONE = 4                # when it was to be packed
    SECRET = 8              # there is a private key in it
    SPECIAL = 16            # no regular file any more, when it was to be packed
    CHANGED = 32            # since the walk, or while it was read
    LEFT_OUT = 30           # any reason not to be in the archive

cdef struct Member:
    int64_t size            # of a file
    int64_t mtime_ns        # of a file, as are the next two
    int64_t ctime_ns
    uint64_t inode
    uint32_t path_at        # in `names`; a zero ends the path, the target follows, ended likewise
    uint32_t path_length
    uint32_t target_length  # of a link; of generated content
    uint8_t kind
    uint8_t flags
    uint16_t unused

cdef struct Chosen:         # an entry of a directory that is to be packed
    Member member           # its path's length is its name's
    size_t text_at          # its name, in the reader's text; a link's target, or generated content, follows
    size_t directory        # which one it is to the walk
    const char *name        # while entries are sorted


cdef inline void fill_file(Member *member, const stat_t *found) noexcept nogil:
    member.kind = FILE
    member.flags = EXECUTABLE if found.st_mode & S_IXUSR else 0
    member.size = found.st_size
    member.inode = found.st_ino
    member.mtime_ns = nanoseconds(found.st_mtim)
    member.ctime_ns = nanoseconds(found.st_ctim)


cdef inline bint is_as_walked(int opened, const Member *member) noexcept nogil:
    """Return whether an open file still has the size, times and inode that the walk found."""
    cdef stat_t found
    return (fstat(opened, &found) == 0 and found.st_size == member.size
            and nanoseconds(found.st_mtim) == member.mtime_ns
            and nanoseconds(found.st_ctim) == member.ctime_ns and <uint64_t> found.st_ino == member.inode)


cdef inline bint is_users_file(const Member *member) noexcept nogil:
    """Return whether a member counts against the limit of files."""
    return member.kind != DIRECTORY and not member.flags & GENERATED


cdef inline bint is_same(const Member *one, const char *target,
                         const Member *other, const char *other_target) noexcept nogil:
    """Return whether two snapshots have the same member under one path."""
    return (
        one.size == other.size
        and one.mtime_ns == other.mtime_ns
        and one.ctime_ns == other.ctime_ns
        and one.inode == other.inode
        and one.kind == other.kind
        and one.flags == other.flags
        and one.target_length == other.target_length
        and (not one.target_length or memcmp(target, other_target, one.target_length) == 0)
    )


cdef inline int compare_chosen(const void *one, const void *other) noexcept nogil:
    cdef const Chosen *a = <const Chosen *> one
    cdef const Chosen *b = <const Chosen *> other
    return compare_paths(a.name, a.member.path_length, a.member.kind == DIRECTORY,
                         b.name, b.member.path_length, b.member.kind == DIRECTORY)


cdef inline Chosen *sort_chosen(Chosen *first, Chosen *end, const char *text) noexcept nogil:
    """Sort the entries of one directory in the archive's order; return the new end, as duplicates go."""
    cdef Chosen *entry = first
    if end - first < 2:
        return end
    while entry < end:
        entry.name = text + entry.text_at
        entry += 1
    qsort(first, end - first, sizeof(Chosen), compare_chosen)
    entry = first + 1
    while entry < end:      # a name that moved while the directory was read may have been met twice
        if compare_chosen(first, entry) != 0:
            first += 1
            first[0] = entry[0]
        entry += 1
    return first + 1
