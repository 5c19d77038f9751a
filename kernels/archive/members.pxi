# The members of a snapshot, in the order of the archive: one record each, their paths in one piece of memory.
# uses: buffers

cimport cython

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from .core.buffers cimport Bytes, append
from .core.members cimport DIRECTORY, FILE, LEFT_OUT, RACY, Member, is_same
from .core.paths cimport compare_paths


@cython.final
cdef class Members:
    """The members of a snapshot.

    Attributes
    ----------
    records : Buffer
        A `Member` struct for each (`core/members.pxd`).
    names : Buffer
        Their paths and targets.
    states : Buffer
        A byte for each: what is known beyond its record.
    """
    cdef readonly Buffer records, names, states

    def __cinit__(self):
        self.records = Buffer()
        self.names = Buffer()
        self.states = Buffer()

    def __len__(self):
        return self.count()

    cdef inline Py_ssize_t count(self) noexcept nogil:
        return <Py_ssize_t> (self.records.bytes.length // sizeof(Member))

    cdef inline Member *member(self, Py_ssize_t number) noexcept nogil:
        return <Member *> self.records.bytes.data + number

    cdef inline char *path(self, Member *member) noexcept nogil:
        return self.names.bytes.data + member.path_at

    cdef inline char *target(self, Member *member) noexcept nogil:
        return self.names.bytes.data + member.path_at + member.path_length + 1

    cdef inline char *state(self, Py_ssize_t number) noexcept nogil:
        return self.states.bytes.data + number

    cdef int add(self, Member member, const char *path, const char *target) noexcept nogil:
        """Append a member whose lengths are filled in; -1 without memory."""
        cdef Bytes *names = &self.names.bytes
        cdef int failed = 0
        if names.length + member.path_length + member.target_length + 2 > <size_t> 0xffffffff:
            return -1
        member.path_at = <uint32_t> names.length
        failed |= append(names, path, member.path_length)
        failed |= append(names, b"\0", 1)
        if member.target_length:
            failed |= append(names, target, member.target_length)
            failed |= append(names, b"\0", 1)
        failed |= append(&self.records.bytes, &member, sizeof(Member))
        failed |= append(&self.states.bytes, b"\0", 1)
        return failed

    def __getitem__(self, Py_ssize_t number):
        """Return a member as (path, kind, flags, size, state), its kind as tar's type flag."""
        cdef Member *member
        if not 0 <= number < self.count():
            raise IndexError(number)
        member = self.member(number)
        path = PyBytes_FromStringAndSize(self.path(member), member.path_length)
        return path, bytes([member.kind]), member.flags, member.size, self.state(number)[0]

    def times(self, Py_ssize_t number):
        """Return a file's size and modification time in nanoseconds, as the walk found them."""
        if not 0 <= number < self.count():
            raise IndexError(number)
        return self.member(number).size, self.member(number).mtime_ns

    def find(self, const unsigned char[::1] path):
        """Return the number of the member with this path; -1 when there is none."""
        cdef Py_ssize_t number
        cdef Member *member
        cdef size_t length = path.shape[0]
        for number in range(self.count()):
            member = self.member(number)
            if member.path_length == length and (not length or memcmp(self.path(member), &path[0], length) == 0):
                return number
        return -1

    def with_flag(self, int flag):
        """Return the numbers of the members that have this flag."""
        cdef Py_ssize_t number
        found = []
        for number in range(self.count()):
            if self.member(number).flags & flag:
                found.append(number)
        return found

    def with_state(self, int state):
        """Return the numbers of the members in one of these states."""
        cdef Py_ssize_t number
        found = []
        for number in range(self.count()):
            if self.state(number)[0] & state:
                found.append(number)
        return found

    def set_state(self, Py_ssize_t number, int state):
        """Add a state to what is known of a member."""
        if not 0 <= number < self.count():
            raise IndexError(number)
        self.state(number)[0] |= <char> state

    def clear_state(self, Py_ssize_t number, int state):
        """Remove a state from what is known of a member."""
        if not 0 <= number < self.count():
            raise IndexError(number)
        self.state(number)[0] &= <char> ~state

    def paths(self, int state):
        """Return the paths of the members in one of these states."""
        return [self[number][0] for number in self.with_state(state)]

    def largest(self, Py_ssize_t count):
        """Return the numbers of the largest files, the largest first; those left out do not count."""
        import heapq
        cdef Py_ssize_t number
        files = ((-self.member(number).size, number) for number in range(self.count())
                 if self.member(number).kind == FILE and not self.state(number)[0] & LEFT_OUT)
        return [number for _, number in heapq.nsmallest(count, files)]

    def totals(self):
        """Return how many members are no directories, and their bytes; those left out do not count."""
        cdef Py_ssize_t number, files = 0
        cdef int64_t size = 0
        with nogil:
            for number in range(self.count()):
                if self.member(number).kind != DIRECTORY and not self.state(number)[0] & LEFT_OUT:
                    files += 1
                    size += self.member(number).size
        return files, size

    def listed_bytes(self):
        """Return how many bytes the walk found in the members, those left out since among them."""
        cdef Py_ssize_t number
        cdef int64_t size = 0
        with nogil:
            for number in range(self.count()):
                size += self.member(number).size
        return size

    def is_still(self, const unsigned char[::1] records, const unsigned char[::1] names, const unsigned char[::1] states):
        """Return whether an earlier snapshot had the same members, none of them to be read again.

        If so, the members take over its states.
        """
        cdef Py_ssize_t number
        if not (same_bytes(&self.records.bytes, records) and same_bytes(&self.names.bytes, names)):
            return False
        if states.shape[0] != self.count():
            return False
        for number in range(self.count()):
            if states[number] & RACY:
                return False
        if self.count():
            memcpy(self.states.bytes.data, &states[0], self.count())
        return True

    def mark_racy(self, int64_t since_ns):
        """Mark the files that changed at this time (nanoseconds since 1970) or later."""
        cdef Py_ssize_t number
        cdef Member *member
        for number in range(self.count()):
            member = self.member(number)
            if member.kind == FILE and max(member.mtime_ns, member.ctime_ns) >= since_ns:
                self.state(number)[0] |= RACY

    def compare(self, const unsigned char[::1] records, const unsigned char[::1] names, const unsigned char[::1] states):
        """Compare with an earlier snapshot.

        Returns
        -------
        memoryview of int32
            For each member its number there, -1 if it was not there, differs, or is to be read again. States are taken over.

        Raises
        ------
        ValueError
            The earlier snapshot makes no sense.
        """
        cdef Members earlier = Members()
        cdef Py_ssize_t mine = 0, its = 0
        cdef int order
        cdef Member *one
        cdef Member *other
        if append(&earlier.records.bytes, &records[0] if records.shape[0] else NULL, records.shape[0]) < 0 or \
                append(&earlier.names.bytes, &names[0] if names.shape[0] else NULL, names.shape[0]) < 0:
            raise MemoryError
        if records.shape[0] % sizeof(Member) or states.shape[0] != earlier.count() or not earlier.is_sound():
            raise ValueError("the index does not fit together")
        found = memoryview(bytearray(b"\xff" * (4 * self.count()))).cast("i")      # -1 in all of them
        cdef int[::1] numbers = found
        while mine < self.count() and its < earlier.count():
            one = self.member(mine)
            other = earlier.member(its)
            order = compare_paths(self.path(one), one.path_length, one.kind == DIRECTORY,
                                  earlier.path(other), other.path_length, other.kind == DIRECTORY)
            if order == 0 and is_same(one, self.target(one), other, earlier.target(other)) and not states[its] & RACY:
                numbers[mine] = <int> its
                self.state(mine)[0] |= states[its]
            mine += order <= 0
            its += order >= 0
        return found

    cdef bint is_sound(self) noexcept:
        """Return whether `names` holds every path and target."""
        cdef Py_ssize_t number
        cdef Member *member
        cdef uint64_t end
        for number in range(self.count()):
            member = self.member(number)
            end = <uint64_t> member.path_at + member.path_length + 1
            end += <uint64_t> member.target_length + 1 if member.target_length else 0
            if end > self.names.bytes.length:
                return False
        return True


def follow_one_another(const int[::1] numbers, Py_ssize_t first, Py_ssize_t count):
    """Return whether `count` numbers of `Members.compare`, from `first` on, are those of neighbours."""
    cdef Py_ssize_t at
    if first < 0 or count < 0 or first + count > numbers.shape[0]:
        raise IndexError((first, count))
    for at in range(first, first + count):
        if numbers[at] != numbers[first] + (at - first):
            return False
    return True


cdef bint same_bytes(Bytes *mine, const unsigned char[::1] other) noexcept:
    cdef size_t length = other.shape[0]
    return mine.length == length and (not length or memcmp(mine.data, &other[0], length) == 0)
