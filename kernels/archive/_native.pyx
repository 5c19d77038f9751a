"""Packing and unpacking a project: exclusion rules, the walk, tar, the files of a package.

    directory -> Walk (rules: Matcher) -> Members -> plan_blocks -> BlockReader -> tar, block by block
    tar, block by block -> Extractor -> files

Guarantees: the tree may change at any time: nothing outside it is read or written, no link is followed, a block is whole and
says how it differs from what the walk saw. The GIL is released for all of it. Compression, storing and policy are
`flame_fast.package`'s. Errors are raised where Python called; below, functions answer 0 or -1 and leave errno.
"""

cimport cython

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc cimport errno
from libc.errno cimport EEXIST, EINTR, EIO, ELOOP, EMFILE, ENFILE, ENOENT, ENOMEM, ENOTDIR, ENXIO
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memchr, memcmp, memcpy, memset, strcmp, strcspn, strlen

import os

cdef extern from "string.h" nogil:
    size_t strnlen(const char *text, size_t most) noexcept

cdef extern from "sys/types.h" nogil:
    ctypedef unsigned int mode_t

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

cdef extern from "sys/stat.h" nogil:
    ctypedef struct stat_t "struct stat":
        uint64_t st_dev, st_ino
        mode_t st_mode
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
    Py_ssize_t read(int descriptor, void *data, size_t length) noexcept
    Py_ssize_t pwrite(int descriptor, const void *data, size_t length, int64_t at) noexcept
    int64_t lseek(int descriptor, int64_t at, int whence) noexcept
    Py_ssize_t readlinkat(int directory, const char *name, char *target, size_t length) noexcept
    int linkat(int directory, const char *name, int other, const char *other_name, int flags) noexcept
    int unlinkat(int directory, const char *name, int flags) noexcept
    int symlinkat(const char *target, int directory, const char *name) noexcept
    int SEEK_SET

cdef extern from "beneath.h" nogil:
    struct directory_entry:
        uint16_t length
        uint8_t type
        char *name
    int open_beneath(int directory, const char *path, int flags, int mode) noexcept
    bint stays_beneath(int directory, const char *path) noexcept
    long read_directory(int directory, void *buffer, size_t size) noexcept
    uint32_t hash_path(const char *path, size_t length) noexcept

include "buffers.pxi"
include "matching.pxi"
include "members.pxi"
include "reading.pxi"
include "walking.pxi"
include "tar.pxi"
include "blocks.pxi"
include "extracting.pxi"
