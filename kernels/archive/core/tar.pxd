# Tar headers, written: POSIX's pax interchange format (IEEE Std 1003.1, "pax Interchange Format"). Each member has a ustar
# header, behind an extended header where ustar cannot hold a name, a link's target or a size.

from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset, strlen

from .buffers cimport Bytes, append, append_zeros, reserve

cdef enum:
    BLOCK = 512
    NAME_BYTES = 100
    PREFIX_BYTES = 155
    SIZE_DIGITS = 11                # octal ones, of a size field
    EXTENDED = 0x78                 # the type flag of an extended header

cdef struct Ustar:
    char[100] name
    char[8] mode
    char[8] user
    char[8] group
    char[12] size
    char[12] mtime
    char[8] checksum
    char[1] kind
    char[100] target
    char[8] magic                   # with the version
    char[32] user_name
    char[32] group_name
    char[16] device
    char[155] prefix
    char[12] unused


cdef inline size_t padded(size_t size) noexcept nogil:
    return (size + BLOCK - 1) & ~<size_t> (BLOCK - 1)


cdef inline void write_octal(char *field, int digits, uint64_t value) noexcept nogil:
    """Write a number as `digits` octal digits and a zero byte."""
    field[digits] = 0
    while digits:
        digits -= 1
        field[digits] = c"0" + <char> (value & 7)
        value >>= 3


cdef inline unsigned int checksum_of(const Ustar *header) noexcept nogil:
    """Return the sum of a header's bytes, with spaces in place of its checksum field."""
    cdef const unsigned char *data = <const unsigned char *> header
    cdef unsigned int total = 8 * 32
    cdef size_t i
    for i in range(BLOCK):
        total += data[i]
    for i in range(8):
        total -= <unsigned char> header.checksum[i]
    return total


cdef inline void write_ustar(Ustar *header, int kind, int mode, uint64_t size) noexcept nogil:
    """Fill a header but for its names and checksum. Owner and times are always zero."""
    memset(header, 0, sizeof(Ustar))
    write_octal(header.mode, 7, mode)
    write_octal(header.user, 7, 0)
    write_octal(header.group, 7, 0)
    write_octal(header.size, SIZE_DIGITS, size)
    write_octal(header.mtime, SIZE_DIGITS, 0)
    header.kind[0] = <char> kind
    memcpy(header.magic, b"ustar\0" b"00", 8)
    write_octal(header.device, 7, 0)
    write_octal(header.device + 8, 7, 0)


cdef inline void seal(Ustar *header) noexcept nogil:
    write_octal(header.checksum, 6, checksum_of(header))
    header.checksum[7] = c" "


cdef inline size_t split_at(const char *name, size_t length) noexcept nogil:
    """Return where a name divides into prefix and name: 0 if it fits undivided, `length` if it does not fit at all."""
    cdef size_t at
    if length <= NAME_BYTES:
        return 0
    at = max(length - NAME_BYTES - 1, <size_t> 1)
    while at < length - 1 and at <= PREFIX_BYTES:
        if name[at] == c"/":
            return at
        at += 1
    return length


cdef inline bint is_ascii(const char *text, size_t length) noexcept nogil:
    cdef size_t i
    for i in range(length):
        if <unsigned char> text[i] >= 0x80:
            return False
    return True


cdef inline bint is_utf8(const char *text, size_t length) noexcept nogil:
    """Return whether bytes are UTF-8 (RFC 3629: shortest forms, no surrogates)."""
    cdef const unsigned char *at = <const unsigned char *> text
    cdef const unsigned char *end = at + length
    cdef unsigned char lead, least, most
    cdef int more
    while at < end:
        lead = at[0]
        at += 1
        if lead < 0x80:
            continue
        if lead < 0xc2 or lead > 0xf4:
            return False
        more = 1 + (lead >= 0xe0) + (lead >= 0xf0)
        least = 0xa0 if lead == 0xe0 else 0x90 if lead == 0xf0 else 0x80
        most = 0x9f if lead == 0xed else 0x8f if lead == 0xf4 else 0xbf
        while more:
            if at == end or at[0] < least or at[0] > most:
                return False
            at += 1
            more -= 1
            least, most = 0x80, 0xbf
    return True


cdef struct Naming:                 # what an extended header says of a member
    const char *name                # with the slash behind a directory's
    size_t length
    const char *target
    size_t target_length
    bint path
    bint linkpath
    bint size
    bint binary


cdef inline Naming naming_of(const char *name, size_t length, const char *target, size_t target_length,
                             int64_t size) noexcept nogil:
    cdef Naming naming
    naming.name = name
    naming.length = length
    naming.target = target
    naming.target_length = target_length
    naming.path = not is_ascii(name, length) or split_at(name, length) == length
    naming.linkpath = target_length > NAME_BYTES or not is_ascii(target, target_length)
    naming.size = (size >> (3 * SIZE_DIGITS)) != 0
    naming.binary = not is_utf8(name, length) or not is_utf8(target, target_length)
    return naming


cdef inline size_t record_length(size_t content) noexcept nogil:
    """Return the length of a record "length keyword=value\n", its own digits included.

    `content` counts the bytes behind the first space.
    """
    cdef size_t digits = 1, power = 10
    while content + 1 + digits >= power:
        digits += 1
        power *= 10
    return content + 1 + digits


cdef inline int append_record(Bytes *out, const char *keyword, const char *value, size_t length) noexcept nogil:
    cdef char[24] number
    cdef size_t total = record_length(strlen(keyword) + 1 + length + 1)
    snprintf(number, sizeof(number), b"%zu ", total)
    if reserve(out, total) < 0:
        return -1
    append(out, number, strlen(number))
    append(out, keyword, strlen(keyword))
    append(out, b"=", 1)
    append(out, value, length)
    return append(out, b"\n", 1)


cdef inline int append_extended(Bytes *out, Naming *naming, int64_t size) noexcept nogil:
    """Append the extended header that a member needs, if any; -1 without memory."""
    cdef char[24] number
    cdef size_t begin = out.length, length
    cdef Ustar header
    cdef int failed = 0
    if not (naming.path or naming.linkpath or naming.size):
        return 0
    if reserve(out, BLOCK) < 0:
        return -1
    out.length += BLOCK
    if naming.binary:               # else readers may take the names for UTF-8
        failed |= append_record(out, b"hdrcharset", b"BINARY", 6)
    if naming.path:
        failed |= append_record(out, b"path", naming.name, naming.length)
    if naming.linkpath:
        failed |= append_record(out, b"linkpath", naming.target, naming.target_length)
    if naming.size:
        snprintf(number, sizeof(number), b"%lld", <long long> size)
        failed |= append_record(out, b"size", number, strlen(number))
    length = out.length - begin - BLOCK
    failed |= append_zeros(out, padded(length) - length)
    if failed:
        return -1
    write_ustar(&header, EXTENDED, 0o644, length)
    memcpy(header.name, b"././@PaxHeader", 14)
    seal(&header)
    memcpy(out.data + begin, &header, BLOCK)
    return 0


cdef inline int append_header(Bytes *out, Naming *naming, int kind, int mode, int64_t size) noexcept nogil:
    """Append a member's header, behind the extended one if it needs that; -1 without memory."""
    cdef Ustar header
    cdef size_t cut = 0
    cdef size_t length = naming.length
    if append_extended(out, naming, size) < 0:
        return -1
    write_ustar(&header, kind, mode, 0 if naming.size else size)
    if not naming.path:
        cut = split_at(naming.name, length)
    if cut:
        memcpy(header.prefix, naming.name, cut)
        cut += 1
    memcpy(header.name, naming.name + cut, min(length - cut, <size_t> NAME_BYTES))
    memcpy(header.target, naming.target, min(naming.target_length, <size_t> NAME_BYTES))
    seal(&header)
    return append(out, &header, BLOCK)


cdef inline size_t header_length(Naming *naming, int64_t size) noexcept nogil:
    """Return how many bytes `append_header` appends."""
    cdef char[24] number
    cdef size_t records = 0
    if naming.path:
        records += record_length(4 + 1 + naming.length + 1)
    if naming.linkpath:
        records += record_length(8 + 1 + naming.target_length + 1)
    if naming.size:
        records += record_length(4 + 1 + snprintf(number, sizeof(number), b"%lld", <long long> size) + 1)
    if records and naming.binary:
        records += record_length(10 + 1 + 6 + 1)
    return BLOCK + (BLOCK + padded(records) if records else 0)
