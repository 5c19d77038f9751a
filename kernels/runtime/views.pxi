# Views: what users see of values. Pages of the segment are mapped a second time, privately (copy on write).
#
# The kernel copies a page when it is written, by any code and in any way, and no other process sees that write. A page that
# was never written is the segment's own.
#
#   segment   [ header | tables | arena: extents ... ]       shared; the runtime and the memory handler read and write here
#   window    [ the same pages, all of them          ]       private; a `SharedBuffer` shows an extent here first
#   own             [ pages of one view ]                    private; it shows it here when the window's place is taken
#
# Guarantees: what a user writes into a view shows nowhere else: in no other process, not in the value, in no other arrival
# of it. An extent has one view in the window at a time; further ones, of two arrivals or of two parts of a value, have
# their own mappings.
# Assumes: this process references an extent with views, and the extent is sealed, so an unwritten page never changes.
#
# The page table says whether a page was written: /proc/self/pagemap tells a copied page from a page of the file. The
# process reads it only after a page fault since the view was made: the first write to a page is one, by whichever code of
# the process. Where it cannot be read every page counts as written, which costs a copy. The process opens it at each look:
# a descriptor kept open would be the parent's after a fork, or another file's after the user's `os.closerange`.
#
# Rejected: a handler for SIGSEGV that copies pages: system calls like `readinto` fail with EFAULT instead of raising it,
# and a program that installs another handler breaks it.
# uses: page_faults, segment

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memmove
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as open_file
from posix.unistd cimport close as close_file, pread
from .core.externs cimport (
    MADV_DONTDUMP, MADV_DONTNEED, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)
from .core.regions cimport align_up
from .core.lookup cimport extent_of, found_extent
from .core.extents cimport extent_acquire, extent_release

cdef extern from *:
    """
    #include <sys/ioctl.h>

    struct ff_pages { uint64_t start, end, categories; };

    /* PAGEMAP_SCAN of <linux/fs.h>, which may be older than the kernel: the pieces of a range whose pages, present or
     * swapped out, belong to no file. Returns how many pieces, or -1 where the kernel has no such call. It skips what is not
     * mapped, which `read` goes through. */
    static int ff_scan_copied(int pagemap, uint64_t start, uint64_t end, struct ff_pages *found, uint64_t most) {
        enum { IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4 };
        struct {
            uint64_t size, flags, start, end, walk_end, found, found_count, most_pages;
            uint64_t inverted, needed, any_of, returned;
        } scan = {
            .size = sizeof(scan), .start = start, .end = end, .found = (uint64_t)(uintptr_t)found, .found_count = most,
            .inverted = IS_FILE, .needed = IS_FILE, .any_of = IS_PRESENT | IS_SWAPPED, .returned = IS_FILE,
        };
        return ioctl(pagemap, _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, sizeof(scan)), &scan);
    }
    """
    ctypedef struct Pages "struct ff_pages":
        uint64_t start
        uint64_t end
    int ff_scan_copied(int pagemap, uint64_t start, uint64_t end, Pages *found, uint64_t most) noexcept nogil

cdef enum:
    MOST_OWN = 8192             # mappings for single views: a process may have 65,530 of all kinds
    PAGES_AT_ONCE = 2048        # entries of the page table read at once
    DROPPED_UNSEEN = 1 << 20    # bytes of a view that cost less to map again than to look which of them were written
    CALM = 8                    # views without page faults after which the next one is expected to have none
    PIECES_DROPPED = 64         # written pieces that are dropped one by one: the pages between them stay mapped

cdef uint64_t PAGE_PRESENT = <uint64_t> 1 << 63     # bits of an entry of /proc/self/pagemap

cdef uint64_t PAGE_SWAPPED = <uint64_t> 1 << 62

cdef uint64_t PAGE_OF_FILE = <uint64_t> 1 << 61

cdef bint pages_are_scanned = True

#: Memory.viewed: no view shows the extent, but its place in the window has written pages that could not be dropped.
cdef void *SPOILED = <void *> 1

@cython.no_gc
cdef class SharedBuffer:
    """Bytes of an extent that this process may change (copy on write) and that live as long as this object.

    The arrays and buffers that users see are views of it.
    """
    cdef Segment runtime
    cdef uint32_t extent
    cdef bint own               # in a mapping by itself
    cdef bint left              # unwritten, and no object is left to write through: see `leave_view`
    cdef char *data
    cdef uint64_t offset        # of its first byte in the segment
    cdef uint64_t nbytes
    cdef uint64_t faults        # this process's page faults when no byte of it had been written

    def __init__(self):
        raise TypeError("a SharedBuffer is made by reading a value")

    def __dealloc__(self):
        if self.data == NULL:
            return
        if self.own:
            own_close(self)
        if self.runtime.is_mine():
            if not self.own:
                window_close(self)
            extent_release(&self.runtime.memory, self.extent)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.nbytes, self.runtime.memory.header.arrays_read_only, flags)

cdef SharedBuffer shared_buffer(Segment runtime, uint64_t offset, uint64_t nbytes):
    """Return a view of bytes that the caller references by their slot; None if nothing more can be mapped."""
    cdef SharedBuffer view = SharedBuffer.__new__(SharedBuffer)
    runtime.check_range(offset, nbytes)
    view.runtime = runtime
    view.extent = extent_of(&runtime.memory, offset)
    view.offset = offset
    view.nbytes = nbytes
    view.own = runtime.window == NULL or runtime.memory.viewed[view.extent] != NULL
    if view.own and not own_open(view):
        return None
    view.faults = faults_before(runtime)
    extent_acquire(&runtime.memory, view.extent)
    if not view.own:
        view.data = runtime.window + offset
        runtime.memory.viewed[view.extent] = <void *> view          # borrowed: window_close takes it away
    return view

cdef inline char *page_start(const char *at) noexcept nogil:
    return <char *> (<uint64_t> at & ~(page_bytes - 1))

cdef void window_close(SharedBuffer view) noexcept:
    """Drop written pages, so that the next view there shows the value. Pages that were only read stay mapped."""
    cdef bint dropped = view.left or is_untouched(view) or drop_copied(page_start(view.data), view.data + view.nbytes)
    view.runtime.memory.viewed[view.extent] = NULL if dropped else SPOILED

cdef bint drop_copied(char *start, char *end) noexcept:
    """Drop the copied pages of a range; False if the kernel refuses, as for memory that the process has locked."""
    cdef Pages pieces[PIECES_DROPPED]
    cdef int count = -1, i
    if end - start > DROPPED_UNSEEN:
        count = copied_pieces(start, end, pieces, PIECES_DROPPED)
    if count < 0 or count == PIECES_DROPPED:
        return madvise(start, end - start, MADV_DONTNEED) == 0
    for i in range(count):
        if madvise(<void *> pieces[i].start, pieces[i].end - pieces[i].start, MADV_DONTNEED):
            return False
    return True

# ---- mappings for single views ---------------------------------------------------------------------------------------
#
# Segment.own lists them by address: the address of its data identifies an array that is passed on.

cdef bint own_open(SharedBuffer view) except -1:
    cdef Segment runtime = view.runtime
    cdef uint64_t before = view.offset & (page_bytes - 1)
    cdef void *start
    if runtime.own_count == MOST_OWN or not has_segment(runtime):
        return False
    if runtime.own == NULL:
        runtime.own = <void **> malloc(MOST_OWN * sizeof(void *))
        if runtime.own == NULL:
            raise MemoryError
    start = mmap(
        NULL, before + view.nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, runtime.fd, view.offset - before
    )
    if start == MAP_FAILED:
        return False
    madvise(start, before + view.nbytes, MADV_DONTDUMP)
    view.data = <char *> start + before
    own_insert(runtime, own_index(runtime, view.data), view)
    return True

cdef void own_insert(Segment runtime, Py_ssize_t at, SharedBuffer view) noexcept:
    memmove(runtime.own + at + 1, runtime.own + at, (runtime.own_count - at) * sizeof(void *))
    runtime.own[at] = <void *> view             # borrowed: own_close takes it away
    runtime.own_count += 1

cdef void own_close(SharedBuffer view) noexcept:
    """Unmap a view's own mapping, in a forked child too: its list is its own."""
    cdef Segment runtime = view.runtime
    cdef Py_ssize_t at = own_index(runtime, view.data)
    cdef char *start = page_start(view.data)
    runtime.own_count -= 1
    memmove(runtime.own + at, runtime.own + at + 1, (runtime.own_count - at) * sizeof(void *))
    munmap(start, view.data + view.nbytes - start)

cdef Py_ssize_t own_index(Segment runtime, const char *data) noexcept:
    """Return the index of the first mapping that ends behind an address (binary search)."""
    cdef Py_ssize_t low = 0, high = runtime.own_count, middle
    cdef SharedBuffer view
    while low < high:
        middle = (low + high) // 2
        view = <SharedBuffer> runtime.own[middle]
        if view.data + view.nbytes > data:
            high = middle
        else:
            low = middle + 1
    return low

cdef int64_t place_of(Segment runtime, const char *data, uint64_t nbytes) noexcept:
    """Return the offset in the segment of bytes at an address; -1 if they cannot be passed by it.

    They can if this process references their extent, the extent is sealed, and no code of this process has written to its
    view of them.
    """
    cdef int64_t id = held_extent(runtime, data)
    cdef SharedBuffer view
    cdef void *found
    if id >= 0:
        return data - runtime.memory.base if runtime.memory.extents[id].sealed else -1
    found = view_at(runtime, data)
    if found == NULL:
        return -1
    view = <SharedBuffer> found
    if data + nbytes > view.data + view.nbytes or is_changed(view, data, nbytes):
        return -1
    return view.offset + (data - view.data)

cdef int64_t held_extent(Segment runtime, const char *data) noexcept:
    """Return the extent that an address of the shared mapping lies in and this process references; -1: none."""
    cdef int64_t id
    if data < runtime.arena or data >= runtime.memory.base + runtime.mapped_bytes:
        return -1
    id = found_extent(&runtime.memory, data - runtime.memory.base)
    return id if id >= 0 and runtime.memory.local[id] else -1

cdef void *view_at(Segment runtime, const char *data) noexcept:
    """Return the `SharedBuffer`, borrowed, that shows the byte at an address; NULL: none."""
    cdef void *found = NULL
    cdef Py_ssize_t at
    cdef int64_t id
    if runtime.window != NULL and runtime.memory.arena <= <uint64_t> (data - runtime.window) < runtime.mapped_bytes:
        id = found_extent(&runtime.memory, data - runtime.window)
        found = runtime.memory.viewed[id] if id >= 0 else NULL
    elif runtime.own_count:
        at = own_index(runtime, data)
        found = runtime.own[at] if at < runtime.own_count else NULL
    if found == NULL or found == SPOILED or (<SharedBuffer> found).data > data:
        return NULL
    return found

cdef bint is_changed(SharedBuffer view, const char *data, uint64_t nbytes) noexcept:
    """Return whether a page of a part of a view has been written."""
    cdef Pages piece
    if is_untouched(view):
        return False
    if copied_pieces(page_start(data), data + nbytes, &piece, 1):
        return True
    if nbytes == view.nbytes:
        view.faults = view.runtime.faults_known         # the count before this look: a fault meanwhile counts for the next
    return False

cdef inline bint is_untouched(SharedBuffer view) noexcept:
    """Return whether there was no page fault since the view was made, or last found unwritten."""
    cdef Segment runtime = view.runtime
    runtime.faults_known = fault_count()
    if view.faults != runtime.faults_known:
        runtime.calm = 0
        return False
    runtime.calm = min(runtime.calm + 1, <int> CALM)
    return faults_are_counted

cdef inline uint64_t faults_before(Segment runtime) noexcept:
    """Return a fault count for a new view. An old one is right too: it only makes a look at the page table more likely."""
    if runtime.faults_known and (runtime.between_tasks or runtime.calm == CALM):
        return runtime.faults_known
    return fault_count()

cdef inline void forget_faults(Segment runtime) noexcept:
    """Discard the last fault count: user code may run from here on, or has run."""
    if runtime.calm < CALM:
        runtime.faults_known = 0

cdef int copied_pieces(const char *start, const char *end, Pages *pieces, int most) noexcept:
    """Return how many pieces of a private mapping the kernel has copied for this process, up to `most`.

    -1: the page table cannot be read, or tells only that there are some.
    """
    cdef int pagemap = open_file("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), count = -1
    if pagemap >= 0:
        if pages_are_scanned:
            count = ff_scan_copied(pagemap, <uint64_t> start, align_up(<uint64_t> end, page_bytes), pieces, most)
        if count < 0 and is_clean(pagemap, <uint64_t> start // page_bytes, (<uint64_t> end - 1) // page_bytes + 1):
            count = 0
        close_file(pagemap)
    return count

cdef bint is_clean(int pagemap, uint64_t page, uint64_t last) noexcept:
    """Return whether no page is a copy, by the entries of the pages one by one: for kernels before 6.7."""
    cdef uint64_t entries[PAGES_AT_ONCE]
    cdef uint64_t count, i
    while page < last:
        count = min(last - page, <uint64_t> PAGES_AT_ONCE)
        if pread(pagemap, entries, 8 * count, 8 * page) != <Py_ssize_t> (8 * count):
            return False
        for i in range(count):
            if entries[i] & (PAGE_PRESENT | PAGE_SWAPPED) and not entries[i] & PAGE_OF_FILE:
                return False
        page += count
    return True

def scan_pages(bint scanned):
    """Choose, for tests, whether to ask for copied pages by PAGEMAP_SCAN of newer kernels, which is the default."""
    global pages_are_scanned
    pages_are_scanned = scanned
