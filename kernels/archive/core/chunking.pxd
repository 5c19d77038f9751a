# Chunking: where the blocks of an archive begin.
#
# Borders of blocks follow from the members' paths and sizes alone, and mostly from each member's own, so that a change in
# one place moves no borders elsewhere (content-defined chunking, as in Muthitacharoen, Chen and Mazieres, "A low-bandwidth
# network file system", 2001, here by names in place of content).

from libc.stdint cimport uint64_t

from .externs cimport hash_path
from .members cimport DIRECTORY, LINK, Member
from .tar cimport Naming, header_length, naming_of, padded

cdef enum:
    PIECE_BYTES = 1 << 20       # of a large file; no block of whole members is longer
    USUAL_BYTES = 1 << 19       # of a block, on average, if nothing else ends it


cdef inline size_t length_in_archive(const Member *member, const char *path, const char *target) noexcept nogil:
    cdef Naming naming = naming_of(path, member.path_length + (member.kind == DIRECTORY),
                                   target, member.target_length if member.kind == LINK else 0, member.size)
    return header_length(&naming, member.size) + padded(member.size)


cdef inline bint is_large(const Member *member) noexcept nogil:
    return member.size > PIECE_BYTES


cdef inline bint begins_block(const char *path, size_t length, size_t weight) noexcept nogil:
    return hash_path(path, length) < (<uint64_t> weight << 32) // USUAL_BYTES
