# C declarations: what the archive uses of the kernel, the C library and `beneath.h`. Cython's own libc files lack these.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "string.h" nogil:
    size_t strnlen(const char *text, size_t most) noexcept

cdef extern from "sys/types.h" nogil:
    ctypedef unsigned int mode_t
    ctypedef unsigned int uid_t

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

cdef extern from "sys/stat.h" nogil:
    ctypedef struct stat_t "struct stat":
        uint64_t st_dev, st_ino
        mode_t st_mode
        uid_t st_uid
        int64_t st_size
        timespec st_mtim, st_ctim
    int fstat(int descriptor, stat_t *found) noexcept
    int fstatat(int directory, const char *name, stat_t *found, int flags) noexcept
    int fchmod(int descriptor, mode_t mode) noexcept
    int mkdirat(int directory, const char *name, mode_t mode) noexcept
    bint S_ISREG(mode_t mode) noexcept
    bint S_ISDIR(mode_t mode) noexcept
    bint S_ISLNK(mode_t mode) noexcept
    mode_t S_IXUSR

cdef extern from "dirent.h" nogil:
    int DT_UNKNOWN, DT_DIR

cdef extern from "fcntl.h" nogil:
    int openat(int directory, const char *name, int flags, ...) noexcept
    int O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_CLOEXEC, O_PATH
    int AT_SYMLINK_NOFOLLOW

cdef extern from "unistd.h" nogil:
    int close(int descriptor) noexcept
    uid_t geteuid() noexcept
    Py_ssize_t read(int descriptor, void *data, size_t length) noexcept
    Py_ssize_t pwrite(int descriptor, const void *data, size_t length, int64_t at) noexcept
    int64_t lseek(int descriptor, int64_t at, int whence) noexcept
    Py_ssize_t readlinkat(int directory, const char *name, char *target, size_t length) noexcept
    int linkat(int directory, const char *name, int other, const char *other_name, int flags) noexcept
    int unlinkat(int directory, const char *name, int flags) noexcept
    int symlinkat(const char *target, int directory, const char *name) noexcept
    int SEEK_SET

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t *thread, const void *attributes, void *(*run)(void *) noexcept nogil,
                       void *argument) noexcept
    int pthread_join(pthread_t thread, void **result) noexcept
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes) noexcept
    int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_destroy(pthread_mutex_t *mutex) noexcept
    int pthread_cond_init(pthread_cond_t *condition, const void *attributes) noexcept
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex) noexcept
    int pthread_cond_signal(pthread_cond_t *condition) noexcept
    int pthread_cond_broadcast(pthread_cond_t *condition) noexcept
    int pthread_cond_destroy(pthread_cond_t *condition) noexcept

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t *signals) noexcept
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *former) noexcept

cdef extern from "beneath.h" nogil:
    struct directory_entry:
        uint16_t length
        uint8_t type
        char *name
    int open_beneath(int directory, const char *path, int flags, int mode) noexcept
    bint stays_beneath(int directory, const char *path) noexcept
    long read_directory(int directory, void *buffer, size_t size) noexcept
    uint32_t hash_path(const char *path, size_t length) noexcept
