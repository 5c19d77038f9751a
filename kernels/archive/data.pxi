# Data beside code: large files, and folders without code, which a package for workers on this machine leaves out.
# uses: members

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from .core.members cimport DIRECTORY, FILE, GENERATED, Member
from .core.paths cimport is_code, is_project_file

cdef struct Folder:
    Py_ssize_t member       # -1: the root
    size_t parent
    int64_t files           # in it, at any depth
    int64_t bytes
    int64_t large_files     # left out one by one, in itself
    int64_t large_bytes
    Py_ssize_t large_member # the last of them
    bint code               # there is some in it, at any depth
    bint omitted            # with all that is in it


def without_data(Members members, int64_t largest, int64_t most_files):
    """Leave out files that are larger than `largest` bytes, and folders without code that hold more, or more files.

    Code is what Python imports, and projects: a folder with any of it at any depth stays. The directory itself does, too.

    Returns
    -------
    tuple of (Members, list of (bytes, int, int))
        What stays; and, of what does not, the folder with a slash at its end, or the only file of its folder, the number of
        files, and their bytes.
    """
    cdef Py_ssize_t count = members.count(), number
    cdef Folder *folders = <Folder *> calloc(count + 1, sizeof(Folder))
    cdef size_t *home = <size_t *> calloc(count + 1, sizeof(size_t))
    cdef Members kept = Members()
    cdef Member *member
    cdef size_t folder, used
    cdef bint failed = False
    try:
        if folders == NULL or home == NULL:
            raise MemoryError
        with nogil:
            used = sum_up(members, folders, home)
            for folder in range(1, used):
                folders[folder].omitted = folders[folders[folder].parent].omitted or not folders[folder].code and (
                    folders[folder].bytes > largest or folders[folder].files > most_files)
            for number in range(count):
                member = members.member(number)
                folder = home[number]
                if folders[folder].omitted:
                    continue
                if member.kind == FILE and member.size > largest and not member.flags & GENERATED \
                        and not is_code(members.path(member), member.path_length):
                    folders[folder].large_files += 1
                    folders[folder].large_bytes += member.size
                    folders[folder].large_member = number
                elif kept.add(member[0], members.path(member), members.target(member)) < 0:
                    failed = True
                    break
        if failed:
            raise MemoryError
        return kept, omissions(members, folders, used)
    finally:
        free(folders)
        free(home)


cdef size_t sum_up(Members members, Folder *folders, size_t *home) noexcept nogil:
    """Find each member's folder, its own for a directory, and what is in each; return how many folders there are."""
    cdef Py_ssize_t number
    cdef size_t current = 0, used = 1, folder
    cdef Member *member
    folders[0].member = -1
    for number in range(members.count()):
        member = members.member(number)
        while not lies_in(members, member, &folders[current]):
            current = folders[current].parent
        if member.kind == DIRECTORY:
            folders[used].member = number
            folders[used].parent = current
            current = used
            used += 1
        else:
            folders[current].files += 1
            folders[current].bytes += member.size
            folders[current].code |= is_project_code(members.path(member), member.path_length)
        home[number] = current
    for folder in range(used - 1, 0, -1):
        folders[folders[folder].parent].files += folders[folder].files
        folders[folders[folder].parent].bytes += folders[folder].bytes
        folders[folders[folder].parent].code |= folders[folder].code
    return used


cdef bint lies_in(Members members, Member *member, Folder *folder) noexcept nogil:
    cdef Member *around
    if folder.member < 0:
        return True
    around = members.member(folder.member)
    return (member.path_length > around.path_length and members.path(member)[around.path_length] == c"/"
            and memcmp(members.path(member), members.path(around), around.path_length) == 0)


cdef bint is_project_code(const char *path, size_t length) noexcept nogil:
    cdef size_t name = length
    while name and path[name - 1] != c"/":
        name -= 1
    return is_code(path, length) or is_project_file(path + name, length - name)


cdef list omissions(Members members, Folder *folders, size_t used):
    cdef size_t folder
    found = []
    for folder in range(used):
        path = members[folders[folder].member][0] + b"/" if folders[folder].member >= 0 else b""
        if folders[folder].omitted:
            if not folders[folders[folder].parent].omitted:
                found.append((path, folders[folder].files, folders[folder].bytes))
        elif folders[folder].large_files:
            if folders[folder].large_files == 1:
                path = members[folders[folder].large_member][0]
            found.append((path or b"./", folders[folder].large_files, folders[folder].large_bytes))
    return found
