# A POSIX semaphore of `multiprocessing`, moved into memory that processes other than children can open.
#
# A semaphore made for forks has a file without a name: only the page that maps it is left, at an address that its users
# keep. That page is replaced, at this address, by the first one of a memfd. The new semaphore begins with nothing in it, so
# that nobody takes what others may still take from the old one. After the exchange of the pages no thread can reach the old
# word any more; what it holds (the value, and the threads that wait) is added to the new one, and who sleeps at the old
# word is woken to sleep at the new one. The layout is that of glibc's `struct new_sem`.
# uses: nothing

from libc.stdint cimport uint64_t
from .core.externs cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap

cdef extern from *:
    """
    #include <limits.h>
    #include <linux/futex.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    static void ff_wake_all(void *word) {
        syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }

    /* Return whether the page at `address` is now the first one of the file; errno says why not. */
    static int ff_move_semaphore(void *address, size_t page, int fd) {
    #if defined(__GLIBC__) && defined(__LP64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        void *old = mremap(address, 0, page, MREMAP_MAYMOVE); /* of size 0: a second mapping of the page */
        if (old == MAP_FAILED) return 0;
        void *new = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        int moved = 0;
        if (new != MAP_FAILED) {
            memcpy(new, old, page);
            *(uint64_t *)new = 0;
            moved = mmap(address, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == address;
            if (moved) {
                uint64_t held = __atomic_exchange_n((uint64_t *)old, 0, __ATOMIC_SEQ_CST);
                __atomic_fetch_add((uint64_t *)new, held, __ATOMIC_SEQ_CST);
                ff_wake_all((uint32_t *)old);
                ff_wake_all((uint32_t *)new);
            }
            munmap(new, page);
        }
        munmap(old, page);
        return moved;
    #else
        errno = ENOSYS;
        return 0;
    #endif
    }
    """
    bint ff_move_semaphore(void *address, size_t page, int fd) noexcept
    int errno

def move_semaphore(uint64_t address, int fd):
    """Move the semaphore at an address into a file, of a page's size, without its threads noticing.

    Processes that were forked before keep the old one.
    """
    if not ff_move_semaphore(<void *> address, page_bytes, fd):
        raise OSError(errno, os.strerror(errno))

def map_semaphore(int fd):
    """Map a file that has a semaphore for as long as this process lives; return the address."""
    cdef void *address = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if address == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    return <uint64_t> address
