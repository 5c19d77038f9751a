# The walk: goes through a tree once, by directory descriptors, and lists what is to be packed, in the archive's order.
#
#     directory -> entries -> judged by their names -> stat -> sorted -> stack -> emitted; a directory is opened when its turn comes
#
# Guarantees: no symbolic link is followed, whoever moves what meanwhile; what is left out is not entered; the depth of the
# tree costs neither descriptors nor native stack.

cpdef enum:                 # notes: what the walk has to say about what it leaves out
    NOTE_RULE = 0
    NOTE_SECRET = 1
    NOTE_SPECIAL = 2
    NOTE_UNREADABLE = 3
    NOTE_OUTSIDE = 4
    NOTE_NEVER = 5
    NOTE_ENVIRONMENT = 6

cdef enum:
    DONE = 0
    OUT_OF_MEMORY = -1
    RAISED = -2
    TOO_MANY = -3
    FAILED = -4             # errno says why

cdef enum:
    ENTRIES_BYTES = 32768   # of one reading of a directory
    MOST_LINK = 3000        # path and target: beyond, nobody can say where it leads once it is unpacked elsewhere
    MOST_PATH = 65536       # nothing else can reach what lies deeper, and a header must stay within a block
    LONGEST_TARGET = 4096

cdef struct Pending:        # an entry whose turn is yet to come
    Member member           # its path's and target's lengths are those of the arena
    size_t name_at          # in the arena; a link's target, or generated content, follows
    size_t batch            # the arena's length before the entries of its directory
    size_t parent           # length of its directory's path
    const char *name        # while a batch is sorted

def open_below(int root, path):
    """Opens a file below a directory for reading, following no link and waiting for nothing; returns the descriptor."""
    cdef int opened = open_beneath(root, <const char *> path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)
    if opened < 0:
        raise OSError(errno.errno, os.strerror(errno.errno), os.fsdecode(path))
    return opened


cdef int compare_pending(const void *one, const void *other) noexcept nogil:
    """In reverse: what comes first in the archive is the last to be pushed."""
    cdef Pending *a = <Pending *> other
    cdef Pending *b = <Pending *> one
    return compare_paths(a.name, a.member.path_length, a.member.kind == DIRECTORY,
                         b.name, b.member.path_length, b.member.kind == DIRECTORY)


@cython.final
cdef class Walk:
    """One walk of a tree.

    Parameters
    ----------
    root : int
        An open directory; it stays the caller's.
    matcher : Matcher
    never : iterable of (device, inode)
        Directories that are left out wherever they are met.
    most_files : int
        More end the walk, and `too_many` is true.
    generated : bytes or None
        What ``pyproject.toml`` holds, unless the directory has a project file of its own.
    resolve_link : callable
        Asked about a link that may lead out, by its path and target: the target to be packed, None to leave it out.
    explaining : bool
        Whether to note what the rules leave out.

    Attributes
    ----------
    members : Members
    too_many : bool
    generated : bool
        Whether the generated project file is among the members.
    """
    cdef readonly Members members
    cdef readonly bint too_many, generated
    cdef Matcher matcher
    cdef Bytes path, stack, arena, notes, never, entries
    cdef int root
    cdef Py_ssize_t files, most_files
    cdef object project_file, resolve_link, problem
    cdef bint explaining

    def __init__(self, int root, Matcher matcher, never, Py_ssize_t most_files, project_file, resolve_link, bint explaining=False):
        cdef uint64_t identity
        self.problem = None
        self.members = Members()
        self.matcher = matcher
        self.root = root
        self.most_files = most_files
        self.project_file = project_file
        self.resolve_link = resolve_link
        self.explaining = explaining
        for pair in never:
            for number in pair:
                identity = number
                if append(&self.never, &identity, sizeof(identity)) < 0:
                    raise MemoryError
        if reserve(&self.entries, ENTRIES_BYTES) < 0:
            raise MemoryError

    def __dealloc__(self):
        free(self.path.data)
        free(self.stack.data)
        free(self.arena.data)
        free(self.notes.data)
        free(self.never.data)
        free(self.entries.data)

    def run(self):
        """Goes through the tree; to be called once.

        Raises
        ------
        OSError
            The directory itself cannot be read.
        """
        cdef int status
        cdef int problem
        with nogil:
            status = self.go()
            problem = errno.errno
        if status == RAISED:
            raise self.problem
        if status == OUT_OF_MEMORY:
            raise MemoryError
        if status == FAILED:
            raise OSError(problem, os.strerror(problem))
        self.too_many = status == TOO_MANY

    def noted(self):
        """What was left out: a list of (note, number of the rule, path)."""
        cdef size_t at = 0
        cdef uint32_t *head
        found = []
        while at < self.notes.length:
            head = <uint32_t *> (self.notes.data + at)
            at += 3 * sizeof(uint32_t)
            found.append((head[0], <int> head[1], PyBytes_FromStringAndSize(self.notes.data + at, head[2])))
            at += (head[2] + 3) & ~<size_t> 3
        return found

    cdef int note(self, int what, int rule, const char *path, size_t length) noexcept nogil:
        cdef uint32_t[3] head
        head[0] = what
        head[1] = <uint32_t> rule
        head[2] = <uint32_t> length
        if append(&self.notes, head, sizeof(head)) < 0 or append(&self.notes, path, length) < 0:
            return OUT_OF_MEMORY
        return append(&self.notes, b"\0\0\0", -length & 3)

    cdef int go(self) noexcept nogil:
        cdef int status = self.enter_directory(0)
        cdef Pending entry
        while status == DONE and self.stack.length:
            self.stack.length -= sizeof(Pending)
            memcpy(&entry, self.stack.data + self.stack.length, sizeof(entry))
            self.path.length = entry.parent
            status = self.extend_path(self.arena.data + entry.name_at, entry.member.path_length)
            if status == DONE and entry.member.kind != DIRECTORY:
                status = self.emit(entry.member, self.arena.data + entry.name_at + entry.member.path_length)
            self.release_batch(&entry)
            if status == DONE and entry.member.kind == DIRECTORY:
                status = self.enter_directory(self.path.length)
        return status

    cdef void release_batch(self, Pending *entry) noexcept nogil:
        """Gives back the names of a directory's entries with the last of them."""
        cdef Pending *top
        if self.stack.length:
            top = <Pending *> (self.stack.data + self.stack.length - sizeof(Pending))
            if top.batch == entry.batch:
                return
        self.arena.length = entry.batch

    cdef int extend_path(self, const char *name, size_t length) noexcept nogil:
        """Puts a name behind the path, and a zero, which does not count."""
        if self.path.length and append(&self.path, b"/", 1) < 0:
            return OUT_OF_MEMORY
        if append(&self.path, name, length) < 0 or append(&self.path, b"\0", 1) < 0:
            return OUT_OF_MEMORY
        self.path.length -= 1
        return DONE

    cdef void shorten_path(self, size_t length) noexcept nogil:
        self.path.length = length
        if length:
            self.path.data[length] = 0

    cdef int emit(self, Member member, const char *target) noexcept nogil:
        member.path_length = <uint32_t> self.path.length
        if member.kind != DIRECTORY and not member.flags & GENERATED:
            self.files += 1
            if self.files > self.most_files:
                return TOO_MANY
        return self.members.add(member, self.path.data, target)

    # One directory

    cdef int enter_directory(self, size_t parent) noexcept nogil:
        """Reads the directory at the path: it goes to the members, what is chosen of it onto the stack."""
        cdef size_t batch = self.arena.length, begin = self.stack.length
        cdef size_t notes = self.notes.length
        cdef bint environment = False
        cdef int problem
        cdef Member itself
        cdef const char *path = b"."
        cdef int status, directory
        if parent:
            path = self.path.data
        directory = open_beneath(self.root, path, O_RDONLY | O_DIRECTORY, 0)
        if directory < 0:
            return self.refused(parent)
        if parent and self.is_never(directory):
            close(directory)
            return self.note(NOTE_NEVER, -1, self.path.data, parent)
        status = self.read_entries(directory, parent, batch, &environment)
        problem = errno.errno
        close(directory)
        errno.errno = problem
        if environment or status == FAILED:
            self.stack.length = begin
            self.arena.length = batch
            self.notes.length = notes
        if status == FAILED:
            return self.refused(parent)
        if environment:     # it works nowhere else, and the workers use it where it is
            return self.note(NOTE_ENVIRONMENT, -1, self.path.data, parent)
        if status == DONE and parent:
            memset(&itself, 0, sizeof(itself))
            itself.kind = DIRECTORY
            status = self.emit(itself, NULL)
        if status == DONE and not parent:
            status = self.add_project_file(begin, batch)
        if status == DONE:
            self.sort_batch(begin)
        return status

    cdef int refused(self, size_t parent) noexcept nogil:
        """A directory that cannot be read: gone, or not ours to read."""
        if not parent or is_shortage(errno.errno):
            return FAILED
        if errno.errno == ENOENT or errno.errno == ENOTDIR or errno.errno == ELOOP:
            return DONE
        return self.note(NOTE_UNREADABLE, -1, self.path.data, parent)

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

    cdef int read_entries(self, int directory, size_t parent, size_t batch, bint *environment) noexcept nogil:
        cdef directory_entry *entry
        cdef long got, at
        cdef int status
        while True:
            got = read_directory(directory, self.entries.data, ENTRIES_BYTES)
            if got <= 0:
                return FAILED if got < 0 else DONE
            at = 0
            while at < got:
                entry = <directory_entry *> (self.entries.data + at)
                at += entry.length
                if strcmp(entry.name, b".") == 0 or strcmp(entry.name, b"..") == 0:
                    continue
                if parent and strcmp(entry.name, b"pyvenv.cfg") == 0:
                    environment[0] = True
                    return DONE
                status = self.extend_path(entry.name, strlen(entry.name))
                if status == DONE:
                    status = self.choose(directory, entry, parent, batch)
                self.shorten_path(parent)
                if status != DONE:
                    return status

    cdef int choose(self, int directory, directory_entry *entry, size_t parent, size_t batch) noexcept nogil:
        """Judges an entry, whose whole path stands in `path`; what is to be packed, or entered, goes onto the stack."""
        cdef size_t length = self.path.length
        cdef stat_t found
        cdef Pending chosen
        cdef int rule, verdict
        cdef bint known = entry.type != DT_UNKNOWN
        if length > MOST_PATH:
            return self.note(NOTE_UNREADABLE, -1, self.path.data, length)
        if not known and fstatat(directory, entry.name, &found, AT_SYMLINK_NOFOLLOW) < 0:
            return self.not_there()
        rule = self.matcher.deciding(self.path.data, length, entry.type == DT_DIR if known else S_ISDIR(found.st_mode))
        verdict = self.matcher.verdict(rule)
        if verdict == VERDICT_OMIT:
            return self.note(NOTE_RULE, rule, self.path.data, length) if self.explaining else DONE
        if verdict == VERDICT_SECRET:
            return self.note(NOTE_SECRET, rule, self.path.data, length)
        memset(&chosen, 0, sizeof(chosen))
        if known and entry.type == DT_DIR:
            chosen.member.kind = DIRECTORY
        elif known and fstatat(directory, entry.name, &found, AT_SYMLINK_NOFOLLOW) < 0:
            return self.not_there()
        elif S_ISDIR(found.st_mode):
            chosen.member.kind = DIRECTORY
        elif S_ISLNK(found.st_mode):
            return self.choose_link(directory, entry.name, parent, batch)
        elif S_ISREG(found.st_mode):
            fill_file(&chosen.member, &found)
            if verdict == VERDICT_DOUBT:
                chosen.member.flags |= DOUBTFUL
        else:
            return self.note(NOTE_SPECIAL, -1, self.path.data, length)
        return self.push(&chosen, entry.name, parent, batch, NULL)

    cdef int not_there(self) noexcept nogil:
        """An entry of which nothing can be learned: if it vanished, it is no part of the snapshot."""
        return DONE if errno.errno == ENOENT else self.note(NOTE_UNREADABLE, -1, self.path.data, self.path.length)

    cdef int push(self, Pending *chosen, const char *name, size_t parent, size_t batch, const char *target) noexcept nogil:
        chosen.member.path_length = <uint32_t> strlen(name)
        chosen.name_at = self.arena.length
        chosen.batch = batch
        chosen.parent = parent
        if append(&self.arena, name, chosen.member.path_length) < 0:
            return OUT_OF_MEMORY
        if target != NULL and append(&self.arena, target, chosen.member.target_length) < 0:
            return OUT_OF_MEMORY
        return append(&self.stack, chosen, sizeof(Pending))

    cdef int choose_link(self, int directory, const char *name, size_t parent, size_t batch) noexcept nogil:
        """A link goes in as a link; one that may lead out is the caller's to decide."""
        cdef char[LONGEST_TARGET] target
        cdef Pending chosen
        cdef Py_ssize_t length = readlinkat(directory, name, target, LONGEST_TARGET - 1)
        if length < 0:
            return self.not_there()
        target[length] = 0
        if self.path.length + length > MOST_LINK:
            return self.note(NOTE_OUTSIDE, -1, self.path.data, self.path.length)
        memset(&chosen, 0, sizeof(chosen))
        chosen.member.kind = LINK
        if not climbs_out(self.path.data, parent, target) and stays_beneath(self.root, self.path.data):
            chosen.member.target_length = <uint32_t> length
            return self.push(&chosen, name, parent, batch, target)
        with gil:
            try:
                path = PyBytes_FromStringAndSize(self.path.data, self.path.length)
                resolved = self.resolve_link(path, PyBytes_FromStringAndSize(target, length))
                if resolved is None:
                    return self.note(NOTE_OUTSIDE, -1, self.path.data, self.path.length)
                chosen.member.target_length = <uint32_t> len(resolved)
                return self.push(&chosen, name, parent, batch, <const char *> resolved)
            except BaseException as problem:
                self.problem = problem
                return RAISED

    cdef int add_project_file(self, size_t begin, size_t batch) noexcept nogil:
        """A project file for a directory that packs none of its own."""
        cdef Pending *entry = <Pending *> (self.stack.data + begin)
        cdef Pending *end = <Pending *> (self.stack.data + self.stack.length)
        cdef Pending made
        while entry < end:
            if is_project_file(self.arena.data + entry.name_at, entry.member.path_length):
                return DONE
            entry += 1
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
            return self.push(&made, b"pyproject.toml", 0, batch, <const char *> content)

    cdef void sort_batch(self, size_t begin) noexcept nogil:
        cdef Pending *entry = <Pending *> (self.stack.data + begin)
        cdef Pending *end = <Pending *> (self.stack.data + self.stack.length)
        cdef Pending *first = entry
        while entry < end:
            entry.name = self.arena.data + entry.name_at
            entry += 1
        if end - first < 2:
            return
        qsort(first, end - first, sizeof(Pending), compare_pending)
        entry = first + 1
        while entry < end:      # a name that moved while the directory was read may have been met twice
            if compare_pending(first, entry) != 0:
                first += 1
                first[0] = entry[0]
            entry += 1
        self.stack.length = <char *> (first + 1) - self.stack.data


cdef bint is_shortage(int problem) noexcept nogil:
    """Whether an error is the system's or this process's, not the file's: then the packing fails."""
    return problem == EMFILE or problem == ENFILE or problem == ENOMEM


cdef void fill_file(Member *member, const stat_t *found) noexcept nogil:
    member.kind = FILE
    member.flags = EXECUTABLE if found.st_mode & S_IXUSR else 0
    member.size = found.st_size
    member.inode = found.st_ino
    member.mtime_ns = nanoseconds(found.st_mtim)
    member.ctime_ns = nanoseconds(found.st_ctim)


cdef inline int64_t nanoseconds(timespec time) noexcept nogil:
    return <int64_t> time.tv_sec * 1_000_000_000 + time.tv_nsec


cdef bint is_project_file(const char *name, size_t length) noexcept nogil:
    if length == 14:
        return memcmp(name, b"pyproject.toml", 14) == 0
    if length == 8:
        return memcmp(name, b"setup.py", 8) == 0
    return length == 9 and memcmp(name, b"setup.cfg", 9) == 0


def leaves_on_its_way(path, target):
    """Whether the target of the link at a path, read letter by letter, leaves the tree."""
    return climbs_out(<const char *> path, max(path.rfind(b"/"), 0), <const char *> target)


cdef bint climbs_out(const char *path, size_t parent, const char *target) noexcept nogil:
    """Whether a link, read letter by letter, leaves the tree on its way: then it may only be packed with another target."""
    cdef Py_ssize_t depth = 1 if parent else 0
    cdef size_t i
    cdef const char *part = target
    cdef size_t length
    if target[0] == c"/":
        return True
    for i in range(parent):
        depth += path[i] == c"/"
    while part[0]:
        length = strcspn(part, b"/")
        if length == 2 and part[0] == c"." and part[1] == c".":
            depth -= 1
            if depth < 0:
                return True
        elif length and not (length == 1 and part[0] == c"."):
            depth += 1
        part += length
        if part[0] == c"/":
            part += 1
    return False
