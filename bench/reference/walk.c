/* The least that must be done to see whether a tree has changed: read its directories, fstatat what is in them.

   What flame_fast takes for an unchanged tree is measured against it. Directories are told by their entries and opened
   beneath their parents; no link is followed. Nothing is sorted, compared or remembered. One thread does it.

   Built and called by bench/package/test_packaging.py: cc -O3 -shared -fPIC. */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES_BYTES = 1 << 15 };

static long walk_beneath(int directory)
{
    char entries[ENTRIES_BYTES] __attribute__((aligned(8)));
    long found = 0, got;
    while ((got = syscall(SYS_getdents64, directory, entries, sizeof(entries))) > 0)
        for (long at = 0; at < got;) {
            const struct dirent64 *entry = (const struct dirent64 *)(entries + at);
            const char *name = entry->d_name;
            struct stat status;
            at += entry->d_reclen;
            if (!strcmp(name, ".") || !strcmp(name, ".."))
                continue;
            found++;
            int is_directory = entry->d_type == DT_DIR;
            if (!is_directory) {
                if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
                    return -1;
                is_directory = S_ISDIR(status.st_mode);
            }
            if (is_directory) {
                const int child = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                const long beneath = child < 0 ? -1 : walk_beneath(child);
                if (beneath < 0)
                    return -1;
                close(child);
                found += beneath;
            }
        }
    return got < 0 ? -1 : found;
}

/* How many entries a directory and all beneath it have; -1 when something cannot be read. */
long walk(const char *path)
{
    const int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const long found = directory < 0 ? -1 : walk_beneath(directory);
    if (directory >= 0)
        close(directory);
    return found;
}
