# Page faults of this process: without one since a view was made, the kernel cannot have copied a page of it.
# uses: nothing

from libc.stdint cimport uint64_t
from .core.externs cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

cdef extern from "sys/resource.h" nogil:
    struct rusage:
        long ru_minflt
        long ru_majflt
    int getrusage(int who, rusage *usage) noexcept
    int RUSAGE_SELF

cdef bint faults_are_counted = False
cdef uint64_t page_bytes = os.sysconf("SC_PAGESIZE")

cdef inline uint64_t fault_count() noexcept:
    """Return the page faults of this process so far, in all its threads. A write to a swapped-out page is a major one."""
    cdef rusage usage
    getrusage(RUSAGE_SELF, &usage)
    return <uint64_t> usage.ru_minflt + <uint64_t> usage.ru_majflt

cdef void look_for_faults() noexcept:
    """Find out whether this kernel counts page faults: one that imitates Linux may not."""
    global faults_are_counted
    cdef uint64_t before = fault_count()
    cdef char *page = <char *> mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if page != MAP_FAILED:
        page[0] = 1
        munmap(page, page_bytes)
    faults_are_counted = fault_count() != before
