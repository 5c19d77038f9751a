# Directory reader: what is in one directory, judged by name, and what is to be packed of it.
#
#     entries -> judged by their names -> stat -> sorted
#
# Guarantees: no symbolic link is followed, whatever other processes move meanwhile.
# uses: matcher

cimport cython

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc cimport errno
from libc.errno cimport ELOOP, ENOENT, ENOTDIR
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset, strcmp, strlen

from .core.buffers cimport Bytes, append, reserve
from .core.directory_cache cimport NEAR, DirectoryCache, directory_of, free_cache, init_cache
from .core.externs cimport (
    AT_SYMLINK_NOFOLLOW, DT_DIR, DT_UNKNOWN, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, S_ISDIR, S_ISLNK,
    S_ISREG, close, directory_entry, fstat, fstatat, open_beneath, openat, read_directory, readlinkat, stat_t, stays_beneath,
)
from .core.file_io cimport is_shortage
from .core.members cimport (
    DIRECTORY, DOUBTFUL, FILE, GENERATED, LINK, Chosen, fill_file, is_users_file, sort_chosen,
)
from .core.paths cimport climbs_out, is_project_file
from .core.patterns cimport VERDICT_OMIT, VERDICT_SECRET, VERDICT_SECRET_IF_KEY
from .core.status cimport DONE, FAILED, OUT_OF_MEMORY, RAISED, TOO_MANY

import os

cpdef enum:                 # notes: why an entry is left out
    NOTE_RULE = 0
    NOTE_SECRET = 1
    NOTE_SPECIAL = 2
    NOTE_UNREADABLE = 3
    NOTE_OUTSIDE = 4
    NOTE_NEVER = 5
    NOTE_ENVIRONMENT = 6

cdef enum:
    NOTHING = -1            # to note
    NO_RULE = -1

cdef enum:
    ENTRIES_BYTES = 32768   # of one reading of a directory
    MOST_LINK = 3000        # path and target: a longer one may not resolve where it is unpacked
    MOST_PATH = 65536       # other programs cannot open a deeper one, and a header must stay within a block
    LONGEST_TARGET = 4096

cdef struct Listing:        # what was read of a directory
    size_t reader           # number of the reader that has it
    size_t first, count     # its entries
    size_t notes, notes_end # its bytes of `notes`
    bint packed             # true: it is a member itself


def open_below(int root, path):
    """Open a file below a directory for reading, following no link and waiting for nothing; return the descriptor."""
    cdef int opened = open_beneath(root, <const char *> path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)
    if opened < 0:
        raise OSError(errno.errno, os.strerror(errno.errno), os.fsdecode(path))
    return opened


@cython.final
cdef class DirectoryReader:
    """Reads directories, one after the other, and keeps what they hold. For one thread at a time.

    Parameters
    ----------
    root, matcher, most_files, project_file, resolve_link, explaining :
        As of `Walk`.
    """
    cdef Bytes path         # of the directory, then of its entry; a zero follows
    cdef Bytes entries, text, notes
    cdef Bytes buffer, states
    cdef Bytes never        # belongs to the walk
    cdef Matcher matcher
    cdef DirectoryCache above
    cdef int root
    cdef Py_ssize_t files, most_files       # of one directory
    cdef object project_file, resolve_link, problem
    cdef bint explaining, generated

    def __cinit__(self, *_):
        init_cache(&self.above, -1)

    def __init__(self, int root, Matcher matcher, Py_ssize_t most_files, project_file, resolve_link, bint explaining):
        self.root = root
        self.above.root = root
        self.matcher = matcher
        self.most_files = most_files
        self.project_file = project_file
        self.resolve_link = resolve_link
        self.explaining = explaining
        if reserve(&self.buffer, ENTRIES_BYTES) < 0 or matcher.reserve_states(&self.states) < 0:
            raise MemoryError

    def __dealloc__(self):
        free_cache(&self.above)
        free(self.path.data)
        free(self.entries.data)
        free(self.text.data)
        free(self.notes.data)
        free(self.buffer.data)
        free(self.states.data)

    cdef inline Chosen *entry(self, size_t number) noexcept nogil:
        return <Chosen *> self.entries.data + number

    cdef inline size_t count(self) noexcept nogil:
        return self.entries.length // sizeof(Chosen)

    cdef int note(self, int what, int rule) noexcept nogil:
        """Note why the entry at the path is left out."""
        cdef uint32_t[3] head
        head[0] = what
        head[1] = <uint32_t> rule
        head[2] = <uint32_t> self.path.length
        if append(&self.notes, head, sizeof(head)) < 0 or append(&self.notes, self.path.data, self.path.length) < 0:
            return OUT_OF_MEMORY
        return append(&self.notes, b"\0\0\0", -self.path.length & 3)

    cdef int read(self, Listing *listing) noexcept nogil:
        """Read the directory at the path. `TOO_MANY` if it alone has too many files; some of them are listed then."""
        cdef size_t parent = self.path.length, text = self.text.length
        cdef int left_out = NOTHING
        cdef int status
        self.files = 0
        listing.first = self.count()
        listing.notes = self.notes.length
        status = self.open_and_read(parent, &left_out)
        self.shorten_path(parent)
        listing.packed = left_out == NOTHING and status != FAILED
        if not listing.packed:
            self.entries.length = listing.first * sizeof(Chosen)
            self.text.length = text
            self.notes.length = listing.notes
        if status == FAILED:
            status = self.refused()
        elif left_out != NOTHING:
            status = self.note(left_out, NO_RULE)
        elif status == DONE and not parent:
            status = self.add_project_file(listing.first)
        self.sort_from(listing.first)
        listing.count = self.count() - listing.first
        listing.notes_end = self.notes.length
        return status

    cdef int open_and_read(self, size_t parent, int *left_out) noexcept nogil:
        cdef int problem, status = DONE
        cdef int directory = self.open_directory(parent)
        if directory < 0:
            return FAILED
        if parent and self.is_never(directory):
            left_out[0] = NOTE_NEVER
        else:
            status = self.read_entries(directory, parent, left_out)
        problem = errno.errno
        close(directory)
        errno.errno = problem
        return status

    cdef int open_directory(self, size_t length) noexcept nogil:
        """Open the directory at the path; a near one in one step, one far down from the nearest above it that is open."""
        cdef const char *name = b"."
        cdef int above
        if length <= NEAR:
            if length:
                name = self.path.data
            return open_beneath(self.root, name, O_RDONLY | O_DIRECTORY, 0)
        above = directory_of(&self.above, self.path.data, length, &name)
        return openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) if above >= 0 else -1

    cdef int refused(self) noexcept nogil:
        """Note a directory that cannot be read; one that is gone meanwhile is no part of the snapshot."""
        if not self.path.length or is_shortage(errno.errno):
            return FAILED
        if errno.errno == ENOENT or errno.errno == ENOTDIR or errno.errno == ELOOP:
            return DONE
        return self.note(NOTE_UNREADABLE, NO_RULE)

    cdef bint is_never(self, int directory) noexcept nogil:
        cdef stat_t found
        cdef uint64_t *pairs = <uint64_t *> self.never.data
        cdef size_t i
        if not self.never.length or fstat(directory, &found) < 0:
            return False
        for i in range(0, self.never.length // sizeof(uint64_t), 2):
            if pairs[i] == <uint64_t> found.st_dev and pairs[i + 1] == <uint64_t> found.st_ino:
                return True
        return False

    cdef int read_entries(self, int directory, size_t parent, int *left_out) noexcept nogil:
        cdef directory_entry *entry
        cdef long got, at
        cdef size_t stem = parent
        cdef int status
        if parent:
            if append(&self.path, b"/", 1) < 0:
                return OUT_OF_MEMORY
            stem += 1
        while True:
            got = read_directory(directory, self.buffer.data, ENTRIES_BYTES)
            if got <= 0:
                return FAILED if got < 0 else DONE
            at = 0
            while at < got:
                entry = <directory_entry *> (self.buffer.data + at)
                at += entry.length
                if strcmp(entry.name, b".") == 0 or strcmp(entry.name, b"..") == 0:
                    continue
                if parent and (strcmp(entry.name, b"pyvenv.cfg") == 0 or strcmp(entry.name, b"conda-meta") == 0):
                    left_out[0] = NOTE_ENVIRONMENT      # it works nowhere else, and the workers use it where it is
                    return DONE
                self.path.length = stem
                if append(&self.path, entry.name, strlen(entry.name) + 1) < 0:
                    return OUT_OF_MEMORY
                self.path.length -= 1
                status = self.choose(directory, entry, parent, stem)
                if status != DONE:
                    return status

    cdef void shorten_path(self, size_t length) noexcept nogil:
        self.path.length = length
        if length:
            self.path.data[length] = 0

    cdef int choose(self, int directory, directory_entry *entry, size_t parent, size_t stem) noexcept nogil:
        """Judge the entry at the path, whose name begins at `stem`, and list it if it is to be packed."""
        cdef stat_t found
        cdef Chosen chosen
        cdef int rule, verdict
        cdef bint known = entry.type != DT_UNKNOWN, is_directory
        if self.path.length > MOST_PATH:
            return self.note(NOTE_UNREADABLE, NO_RULE)
        if not known and fstatat(directory, entry.name, &found, AT_SYMLINK_NOFOLLOW) < 0:
            return self.not_there()
        is_directory = entry.type == DT_DIR if known else S_ISDIR(found.st_mode)
        rule = self.matcher.deciding(self.path.data, self.path.length, stem, is_directory, self.states.data)
        verdict = self.matcher.verdict(rule)
        if verdict == VERDICT_OMIT:
            return self.note(NOTE_RULE, rule) if self.explaining else DONE
        if verdict == VERDICT_SECRET:
            return self.note(NOTE_SECRET, rule)
        memset(&chosen, 0, sizeof(chosen))
        if known and entry.type == DT_DIR:
            chosen.member.kind = DIRECTORY
        elif known and fstatat(directory, entry.name, &found, AT_SYMLINK_NOFOLLOW) < 0:
            return self.not_there()
        elif S_ISDIR(found.st_mode):
            chosen.member.kind = DIRECTORY
        elif S_ISLNK(found.st_mode):
            return self.choose_link(directory, entry.name, parent)
        elif S_ISREG(found.st_mode):
            fill_file(&chosen.member, &found)
            if verdict == VERDICT_SECRET_IF_KEY:
                chosen.member.flags |= DOUBTFUL
        else:
            return self.note(NOTE_SPECIAL, NO_RULE)
        return self.add(&chosen, entry.name, NULL)

    cdef int not_there(self) noexcept nogil:
        """Note an entry that has no stat; one that vanished is no part of the snapshot."""
        return DONE if errno.errno == ENOENT else self.note(NOTE_UNREADABLE, NO_RULE)

    cdef int add(self, Chosen *chosen, const char *name, const char *target) noexcept nogil:
        chosen.member.path_length = <uint32_t> strlen(name)
        chosen.text_at = self.text.length
        if append(&self.text, name, chosen.member.path_length) < 0:
            return OUT_OF_MEMORY
        if target != NULL and append(&self.text, target, chosen.member.target_length) < 0:
            return OUT_OF_MEMORY
        if append(&self.entries, chosen, sizeof(Chosen)) < 0:
            return OUT_OF_MEMORY
        self.files += is_users_file(&chosen.member)
        return TOO_MANY if self.files > self.most_files else DONE

    cdef int choose_link(self, int directory, const char *name, size_t parent) noexcept nogil:
        """List a link as a link; if it may lead out, `resolve_link` decides."""
        cdef char[LONGEST_TARGET] target
        cdef Chosen chosen
        cdef Py_ssize_t length = readlinkat(directory, name, target, LONGEST_TARGET - 1)
        if length < 0:
            return self.not_there()
        target[length] = 0
        if self.path.length + length > MOST_LINK:
            return self.note(NOTE_OUTSIDE, NO_RULE)
        memset(&chosen, 0, sizeof(chosen))
        chosen.member.kind = LINK
        if not climbs_out(self.path.data, parent, target) and stays_beneath(self.root, self.path.data):
            chosen.member.target_length = <uint32_t> length
            return self.add(&chosen, name, target)
        with gil:
            try:
                path = PyBytes_FromStringAndSize(self.path.data, self.path.length)
                resolved = self.resolve_link(path, PyBytes_FromStringAndSize(target, length))
                if resolved is None:
                    return self.note(NOTE_OUTSIDE, NO_RULE)
                chosen.member.target_length = <uint32_t> len(resolved)
                return self.add(&chosen, name, <const char *> resolved)
            except BaseException as problem:
                self.problem = problem
                return RAISED

    cdef int add_project_file(self, size_t first) noexcept nogil:
        """List a generated project file if the directory packs none of its own."""
        cdef size_t number
        cdef Chosen *entry
        cdef Chosen made
        for number in range(first, self.count()):
            entry = self.entry(number)
            if is_project_file(self.text.data + entry.text_at, entry.member.path_length):
                return DONE
        memset(&made, 0, sizeof(made))
        made.member.kind = FILE
        made.member.flags = GENERATED
        with gil:
            content = self.project_file
            if content is None:
                return DONE
            self.generated = True
            made.member.size = len(content)
            made.member.target_length = <uint32_t> len(content)
            return self.add(&made, b"pyproject.toml", <const char *> content)

    cdef void sort_from(self, size_t first) noexcept nogil:
        cdef Chosen *end = sort_chosen(self.entry(first), self.entry(self.count()), self.text.data)
        self.entries.length = <char *> end - self.entries.data


def leaves_on_its_way(path, target):
    """Return whether the text of a link's target, seen from the link's path, leaves the tree on its way."""
    return climbs_out(<const char *> path, max(path.rfind(b"/"), 0), <const char *> target)
