/* Opening files below a directory without ever following a symbolic link (openat2, RESOLVE_BENEATH), and reading
 * directories: what neither Cython nor the C library offers.
 *
 * Guarantees: no component of a path leads out of the directory, whatever other processes rename meanwhile.
 * openat2 is Linux 5.6; where it is missing, or forbidden, a path is opened component by component.
 */
#ifndef FLAME_FAST_BENEATH_H
#define FLAME_FAST_BENEATH_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

enum {
    NO_MAGIC_LINKS = 0x02, /* linux/openat2.h, which older systems lack */
    NO_SYMLINKS = 0x04,
    BENEATH = 0x08,
    LONGEST_PATH = 4000, /* of one call; the kernel takes 4,095 bytes */
    LONGEST_NAME = 255
};

struct open_how_v0 {
    uint64_t flags, mode, resolve;
};

struct directory_entry { /* linux_dirent64, getdents64(2) */
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

static int openat2_is_missing = 0;

static inline int call_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how_v0 how = {flags | O_CLOEXEC, mode, resolve};
    long opened;

    do
        opened = syscall(SYS_openat2, directory, path, &how, sizeof how);
    while (opened < 0 && (errno == EINTR || errno == EAGAIN));
    if (opened < 0 && errno == ENOSYS)
        __atomic_store_n(&openat2_is_missing, 1, __ATOMIC_RELAXED);
    return (int)opened;
}

static inline int open_by_components(int directory, const char *path, int flags, int mode)
{
    int at = directory;
    char name[LONGEST_NAME + 1];

    for (;;) {
        const char *slash = strchr(path, '/');
        size_t length = slash ? (size_t)(slash - path) : strlen(path);
        int next, problem;

        if (length > LONGEST_NAME) {
            next = -1;
            errno = ENAMETOOLONG;
        } else {
            memcpy(name, path, length);
            name[length] = 0;
            next = openat(at, name, (slash ? O_PATH | O_DIRECTORY : flags) | O_NOFOLLOW | O_CLOEXEC, mode);
        }
        problem = errno;
        if (at != directory)
            close(at);
        errno = problem;
        if (next < 0 || !slash)
            return next;
        at = next;
        path = slash + 1;
    }
}

static inline int open_short(int directory, const char *path, int flags, int mode)
{
    if (!__atomic_load_n(&openat2_is_missing, __ATOMIC_RELAXED)) {
        int opened = call_openat2(directory, path, flags | O_NOFOLLOW, mode, BENEATH | NO_SYMLINKS);

        /* EPERM is also what a container's filter answers to calls it does not know. */
        if (opened >= 0 || (errno != ENOSYS && errno != EPERM))
            return opened;
    }
    return open_by_components(directory, path, flags, mode);
}

/* Opens a path below a directory; ELOOP or ENOTDIR when a component is a symbolic link. `path` ends with a zero. */
static inline int open_beneath(int directory, const char *path, int flags, int mode)
{
    int at = directory;
    char part[LONGEST_PATH + 1];

    for (;;) {
        size_t length = strlen(path);
        int next, problem;

        if (length <= LONGEST_PATH) {
            next = open_short(at, path, flags, mode);
        } else {
            length = LONGEST_PATH;
            while (length && path[length] != '/')
                length--;
            memcpy(part, path, length);
            part[length] = 0;
            next = open_short(at, part, O_PATH | O_DIRECTORY, 0);
            path += length + 1;
            length = LONGEST_PATH + 1;
        }
        problem = errno;
        if (at != directory)
            close(at);
        errno = problem;
        if (next < 0 || length <= LONGEST_PATH)
            return next;
        at = next;
    }
}

/* Whether a path and the links on it lead below the directory, and nowhere out of it on the way; false if unsure. */
static inline int stays_beneath(int directory, const char *path)
{
    int opened;

    if (__atomic_load_n(&openat2_is_missing, __ATOMIC_RELAXED) || strlen(path) > LONGEST_PATH)
        return 0;
    opened = call_openat2(directory, path, O_PATH, 0, BENEATH | NO_MAGIC_LINKS);
    if (opened < 0)
        return 0;
    close(opened);
    return 1;
}

static inline long read_directory(int directory, void *buffer, size_t size)
{
    return syscall(SYS_getdents64, directory, buffer, size);
}

/* FNV-1a (Fowler, Noll, Vo), its upper bits mixed once more (MurmurHash3's finaliser): blocks begin by it. */
static inline uint32_t hash_path(const char *path, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)path[i]) * 0x100000001b3u;
    hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdu;
    return (uint32_t)(hash >> 32);
}

#endif
