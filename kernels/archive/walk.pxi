# Tree walk: one pass by directory descriptors that lists what is to be packed, in the archive's order.
#
#     directories that wait -> readers, on a few threads -> listings -> when all are read: depth first -> members
#          ^------------- the directories in them -----------'
#
# Guarantees: the walk does not enter what is left out; the depth of the tree costs neither descriptors nor native stack; the
# members are the same on any number of threads.
# uses: matcher, members, directory_reader

cimport cython

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .core.buffers cimport Bytes, append, reserve
from .core.externs cimport (
    SIG_SETMASK, pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_init, pthread_cond_signal, pthread_cond_t,
    pthread_cond_wait, pthread_create, pthread_join, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
    pthread_mutex_t, pthread_mutex_unlock, pthread_sigmask, pthread_t, sigfillset, sigset_t,
)
from .core.members cimport DIRECTORY, Chosen, Member, is_users_file
from .core.status cimport DONE, FAILED, OUT_OF_MEMORY, TOO_MANY

import os

cdef enum:
    MOST_READERS = 4        # more would contend for the process's table of descriptors
    WORTH_A_THREAD = 8      # directories that wait: to read them takes longer than to start a thread

cdef struct Waiting:        # behind its path
    size_t directory
    size_t path_length

cdef struct Place:          # how far a directory has been put together
    size_t directory
    size_t next             # of its entries
    size_t path_length


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
        More end the walk, and `too_many` is true; which of them are members is left to chance then.
    project_file : bytes or None
        What ``pyproject.toml`` holds, unless the directory has a project file of its own.
    resolve_link : callable
        Decides about a link that may lead out, by its path and target: returns the target to be packed, None to leave
        the link out. Any of the threads may call it.
    explaining : bool
        Whether to note what the rules leave out.
    threads : int
        How many may read directories; fewer do when there is little to read.

    Attributes
    ----------
    members : Members
    too_many : bool
    generated : bool
        Whether the generated project file is among the members.
    """
    cdef readonly Members members
    cdef readonly bint too_many, generated
    cdef list readers
    cdef void *reader_at[MOST_READERS]
    cdef Bytes never, notes
    cdef Bytes path, places         # while members are put together
    cdef Py_ssize_t most_files
    cdef pthread_t helpers[MOST_READERS]
    cdef size_t helper_count, most_helpers

    cdef pthread_mutex_t lock       # guards the rest, while directories are read
    cdef pthread_cond_t change
    cdef Bytes waiting, listings
    cdef size_t waiting_count, busy, idle
    cdef size_t working             # threads, this one among them, that have begun
    cdef Py_ssize_t files
    cdef int status, error

    def __cinit__(self):
        pthread_mutex_init(&self.lock, NULL)
        pthread_cond_init(&self.change, NULL)

    def __init__(self, int root, Matcher matcher, never, Py_ssize_t most_files, project_file, resolve_link,
                 bint explaining=False, Py_ssize_t threads=1):
        cdef uint64_t identity
        cdef DirectoryReader reader
        cdef size_t number
        self.members = Members()
        self.most_files = most_files
        self.most_helpers = min(max(threads, 1), MOST_READERS) - 1
        for pair in never:
            for part in pair:
                identity = part
                if append(&self.never, &identity, sizeof(identity)) < 0:
                    raise MemoryError
        self.readers = []
        for number in range(self.most_helpers + 1):
            reader = DirectoryReader(root, matcher, most_files, project_file, resolve_link, explaining)
            reader.never = self.never
            self.readers.append(reader)
            self.reader_at[number] = <void *> reader

    def __dealloc__(self):
        pthread_cond_destroy(&self.change)
        pthread_mutex_destroy(&self.lock)
        free(self.never.data)
        free(self.notes.data)
        free(self.path.data)
        free(self.places.data)
        free(self.waiting.data)
        free(self.listings.data)

    def run(self):
        """Walk through the tree; to be called once.

        Raises
        ------
        OSError
            The directory itself cannot be read.
        """
        cdef DirectoryReader reader
        with nogil:
            self.status = self.add_directory(&self.path, b"", 0)
            self.read_directories()
            if self.status == DONE or self.status == TOO_MANY:
                if self.put_together() < 0:
                    self.status = OUT_OF_MEMORY
        for reader in self.readers:
            if reader.problem is not None:
                raise reader.problem
            self.generated |= reader.generated
        if self.status == OUT_OF_MEMORY:
            raise MemoryError
        if self.status == FAILED:
            raise OSError(self.error, os.strerror(self.error))
        self.too_many = self.status == TOO_MANY

    def noted(self):
        """Return what was left out: a list of (note, number of the rule, path)."""
        cdef size_t at = 0
        cdef uint32_t *head
        found = []
        while at < self.notes.length:
            head = <uint32_t *> (self.notes.data + at)
            at += 3 * sizeof(uint32_t)
            found.append((head[0], <int> head[1], PyBytes_FromStringAndSize(self.notes.data + at, head[2])))
            at += (head[2] + 3) & ~<size_t> 3
        return found

    # Directories are read, on a few threads

    cdef void read_directories(self) noexcept nogil:
        cdef size_t number
        self.work()
        for number in range(self.helper_count):
            pthread_join(self.helpers[number], NULL)

    cdef void work(self) noexcept nogil:
        """Read directories until all are read, or one of the readers cannot go on."""
        cdef size_t number
        pthread_mutex_lock(&self.lock)
        number = self.working
        self.working += 1
        while self.await_work():
            self.read_next(<DirectoryReader> self.reader_at[number], number)
            if number == 0:
                self.start_helpers()
        pthread_cond_broadcast(&self.change)
        pthread_mutex_unlock(&self.lock)

    cdef bint await_work(self) noexcept nogil:
        """Wait for a directory to be read; false when there will be none."""
        while self.status == DONE and not self.waiting_count and self.busy:
            self.idle += 1
            pthread_cond_wait(&self.change, &self.lock)
            self.idle -= 1
        return self.status == DONE and self.waiting_count > 0

    cdef void read_next(self, DirectoryReader reader, size_t its_number) noexcept nogil:
        cdef Listing listing
        cdef size_t directory
        cdef int error = 0, handed_in, status = self.take_directory(&reader.path, &directory)
        if status == DONE:
            self.busy += 1
            pthread_mutex_unlock(&self.lock)
            status = reader.read(&listing)
            error = errno.errno
            pthread_mutex_lock(&self.lock)
            self.busy -= 1
        if status == DONE or status == TOO_MANY:
            listing.reader = its_number
            handed_in = self.hand_in(reader, directory, &listing)
            status = status if handed_in == DONE else handed_in
        if status != DONE and self.status == DONE:
            self.status = status
            self.error = error

    cdef int hand_in(self, DirectoryReader reader, size_t directory, Listing *listing) noexcept nogil:
        """Keep what was read of a directory, and queue the directories in it."""
        cdef size_t number
        cdef Chosen *entry
        for number in range(listing.first, listing.first + listing.count):
            entry = reader.entry(number)
            self.files += is_users_file(&entry.member)
            if entry.member.kind == DIRECTORY:
                entry.directory = self.listings.length // sizeof(Listing)
                if self.add_directory(&reader.path, reader.text.data + entry.text_at, entry.member.path_length) < 0:
                    return OUT_OF_MEMORY
        self.listing(directory)[0] = listing[0]
        for number in range(1, min(self.waiting_count, self.idle + 1)):     # the caller, which reads on, takes one of them
            pthread_cond_signal(&self.change)
        return TOO_MANY if self.files > self.most_files else DONE

    cdef int add_directory(self, const Bytes *parent, const char *name, size_t length) noexcept nogil:
        """Queue a further directory."""
        cdef Listing unread
        cdef Waiting waiting
        cdef size_t before = self.waiting.length
        memset(&unread, 0, sizeof(unread))
        waiting.directory = self.listings.length // sizeof(Listing)
        if parent.length and (append(&self.waiting, parent.data, parent.length) < 0 or append(&self.waiting, b"/", 1) < 0):
            return OUT_OF_MEMORY
        if append(&self.waiting, name, length) < 0:
            return OUT_OF_MEMORY
        waiting.path_length = self.waiting.length - before
        if append(&self.waiting, &waiting, sizeof(waiting)) < 0 or append(&self.listings, &unread, sizeof(unread)) < 0:
            return OUT_OF_MEMORY
        self.waiting_count += 1
        return DONE

    cdef int take_directory(self, Bytes *path, size_t *directory) noexcept nogil:
        """Take the directory that was queued last; its path, and a zero, go into `path`."""
        cdef Waiting waiting
        self.waiting_count -= 1
        self.waiting.length -= sizeof(waiting)
        memcpy(&waiting, self.waiting.data + self.waiting.length, sizeof(waiting))
        self.waiting.length -= waiting.path_length
        directory[0] = waiting.directory
        path.length = 0
        if append(path, self.waiting.data + self.waiting.length, waiting.path_length) < 0 or append(path, b"\0", 1) < 0:
            return OUT_OF_MEMORY
        path.length -= 1
        return DONE

    cdef void start_helpers(self) noexcept nogil:
        """Start a thread for every few directories that wait, as far as the system has threads; they block all signals."""
        cdef size_t wanted = min(self.most_helpers, self.waiting_count // WORTH_A_THREAD)
        cdef sigset_t every, former
        if self.helper_count >= wanted or self.idle:
            return
        sigfillset(&every)
        pthread_sigmask(SIG_SETMASK, &every, &former)
        while self.helper_count < wanted:
            if pthread_create(&self.helpers[self.helper_count], NULL, help_walk, <void *> self) != 0:
                self.most_helpers = self.helper_count
                break
            self.helper_count += 1
        pthread_sigmask(SIG_SETMASK, &former, NULL)

    # When all are read

    cdef int put_together(self) noexcept nogil:
        """Make the members, depth first; -1 without memory."""
        cdef Place *place
        cdef Listing *listing
        if reserve(&self.members.records.bytes, self.count_entries() * sizeof(Member)) < 0:
            return OUT_OF_MEMORY
        if self.put_directory(0, NULL) < 0:
            return OUT_OF_MEMORY
        while self.places.length:
            place = <Place *> (self.places.data + self.places.length) - 1
            listing = self.listing(place.directory)
            if place.next == listing.count:
                self.places.length -= sizeof(Place)
                continue
            self.path.length = place.path_length
            place.next += 1
            if self.put_entry(<DirectoryReader> self.reader_at[listing.reader], listing.first + place.next - 1) < 0:
                return OUT_OF_MEMORY
        return DONE

    cdef inline Listing *listing(self, size_t directory) noexcept nogil:
        return <Listing *> self.listings.data + directory

    cdef size_t count_entries(self) noexcept nogil:
        cdef size_t directory, count = 0
        for directory in range(self.listings.length // sizeof(Listing)):
            count += self.listing(directory).count
        return count

    cdef int put_entry(self, DirectoryReader reader, size_t number) noexcept nogil:
        cdef Chosen *entry = reader.entry(number)
        cdef const char *name = reader.text.data + entry.text_at
        if self.path.length and append(&self.path, b"/", 1) < 0:
            return OUT_OF_MEMORY
        if append(&self.path, name, entry.member.path_length) < 0:
            return OUT_OF_MEMORY
        if entry.member.kind == DIRECTORY:
            return self.put_directory(entry.directory, &entry.member)
        return self.put_member(&entry.member, name + entry.member.path_length)

    cdef int put_directory(self, size_t directory, const Member *itself) noexcept nogil:
        """Begin a directory, whose path is in `path`."""
        cdef Listing *listing = self.listing(directory)
        cdef Place place
        if self.put_notes(<DirectoryReader> self.reader_at[listing.reader], listing) < 0:
            return OUT_OF_MEMORY
        if not listing.packed:
            return DONE
        if itself != NULL and self.put_member(itself, NULL) < 0:
            return OUT_OF_MEMORY
        place.directory = directory
        place.next = 0
        place.path_length = self.path.length
        return append(&self.places, &place, sizeof(place))

    cdef int put_notes(self, DirectoryReader reader, Listing *listing) noexcept nogil:
        return append(&self.notes, reader.notes.data + listing.notes, listing.notes_end - listing.notes)

    cdef int put_member(self, const Member *listed, const char *target) noexcept nogil:
        cdef Member member = listed[0]
        member.path_length = <uint32_t> self.path.length
        return self.members.add(member, self.path.data, target)


cdef void *help_walk(void *walk) noexcept nogil:
    (<Walk> walk).work()
    return NULL
