# Tar headers, read: the members of a block that may say anything.

from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp, memcpy

from .buffers cimport Bytes, append
from .externs cimport strnlen
from .members cimport DIRECTORY, FILE, LINK
from .paths cimport is_inside
from .tar cimport BLOCK, EXTENDED, NAME_BYTES, PREFIX_BYTES, SIZE_DIGITS, Ustar, checksum_of, padded

cdef struct TarReader:
    const char *data
    size_t length
    size_t at                   # of the next header; once that is read, of the member's content
    Bytes *path                 # where a member's path goes; a zero follows it
    Bytes *target               # where a link's target goes
    const char *problem         # what is wrong with that member; NULL: nothing, or no memory

cdef struct TarMember:
    int kind
    bint executable
    int64_t size


cdef inline int refuse(TarReader *reader, const char *problem) noexcept nogil:
    reader.problem = problem
    return -1


cdef inline int next_member(TarReader *reader, TarMember *member) noexcept nogil:
    """Read the next member's headers; -1 if they are damaged or not safe to follow, or without memory."""
    cdef Ustar header
    cdef bint has_path = False, has_target = False
    cdef int64_t size = -1
    reader.path.length = reader.target.length = 0
    while True:
        if reader.length - reader.at < BLOCK:
            return refuse(reader, b"ends early")
        memcpy(&header, reader.data + reader.at, BLOCK)
        reader.at += BLOCK
        if memcmp(header.magic, b"ustar", 6) or read_octal(header.checksum, 6) != <int64_t> checksum_of(&header):
            return refuse(reader, b"has a damaged header")
        member.kind = header.kind[0]
        member.size = read_octal(header.size, SIZE_DIGITS)
        if member.kind != EXTENDED:
            break
        if member.size < 0 or padded(member.size) > reader.length - reader.at:
            return refuse(reader, b"ends early")
        if read_extended(reader, member.size, &has_path, &has_target, &size):
            return refuse(reader, b"has a damaged header")
        reader.at += padded(member.size)
    if size >= 0:
        member.size = size
    member.executable = (read_octal(header.mode, 7) & 0o100) != 0
    if not has_path and join_name(reader.path, &header):
        return -1
    if not has_target and append(reader.target, header.target, strnlen(header.target, NAME_BYTES)):
        return -1
    if member.kind == DIRECTORY and reader.path.length and reader.path.data[reader.path.length - 1] == c"/":
        reader.path.length -= 1
    if append(reader.path, b"\0", 1):
        return -1
    reader.path.length -= 1
    if not is_inside(reader.path.data, reader.path.length):
        return refuse(reader, b"leads out of the package")
    if member.kind != FILE and member.kind != DIRECTORY and member.kind != LINK:
        return refuse(reader, b"is neither file, directory nor symbolic link")
    if member.size < 0:
        return refuse(reader, b"has a damaged header")
    if member.kind == LINK and (not reader.target.length or memchr(reader.target.data, 0, reader.target.length) != NULL):
        return refuse(reader, b"has a damaged header")
    return 0


cdef inline int join_name(Bytes *path, const Ustar *header) noexcept nogil:
    cdef size_t prefix = strnlen(header.prefix, PREFIX_BYTES)
    if prefix and (append(path, header.prefix, prefix) or append(path, b"/", 1)):
        return -1
    return append(path, header.name, strnlen(header.name, NAME_BYTES))


cdef inline int read_extended(TarReader *reader, size_t length, bint *has_path, bint *has_target,
                              int64_t *size) noexcept nogil:
    """Read records "length keyword=value\\n" at `reader.at`; unknown keywords are skipped."""
    cdef const char *data = reader.data + reader.at
    cdef size_t at = 0, total, digits, equals
    cdef const char *record
    while at < length:
        record = data + at
        total = digits = 0
        while at + digits < length and c"0" <= record[digits] <= c"9" and digits < 9:
            total = 10 * total + (record[digits] - c"0")
            digits += 1
        if total > length - at or total < digits + 4 or record[digits] != c" " or record[total - 1] != c"\n":
            return -1
        equals = digits + 1
        while equals < total and record[equals] != c"=":
            equals += 1
        if equals == total:
            return -1
        if take_record(reader, record + digits + 1, equals - digits - 1, record + equals + 1, total - equals - 2,
                       has_path, has_target, size):
            return -1
        at += total
    return 0


cdef inline int take_record(TarReader *reader, const char *keyword, size_t length, const char *value, size_t value_length,
                            bint *has_path, bint *has_target, int64_t *size) noexcept nogil:
    cdef size_t i
    if length == 4 and memcmp(keyword, b"path", 4) == 0:
        has_path[0] = True
        reader.path.length = 0
        return append(reader.path, value, value_length)
    if length == 8 and memcmp(keyword, b"linkpath", 8) == 0:
        has_target[0] = True
        reader.target.length = 0
        return append(reader.target, value, value_length)
    if length == 4 and memcmp(keyword, b"size", 4) == 0:
        size[0] = 0
        for i in range(value_length):
            if not c"0" <= value[i] <= c"9" or i == 18:
                return -1
            size[0] = 10 * size[0] + (value[i] - c"0")
    return 0


cdef inline int64_t read_octal(const char *field, int digits) noexcept nogil:
    """Return a number as `write_octal` writes it; -1 for anything else."""
    cdef int64_t value = 0
    cdef int i
    for i in range(digits):
        if not c"0" <= field[i] <= c"7":
            return -1
        value = 8 * value + (field[i] - c"0")
    return value
