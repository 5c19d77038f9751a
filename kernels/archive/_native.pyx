"""Packing and unpacking a project: exclusion rules, the walk, tar, the files of a package.

    directory -> Walk (rules: Matcher) -> Members -> plan_blocks -> BlockReader -> tar, block by block
    tar, block by block -> Extractor -> files

Guarantees: the tree may change at any time: nothing outside it is read or written, no link is followed, a block is whole and
says how it differs from what the walk saw. Native code releases the GIL for all of it. Compression, storing and policy are
`flame_fast.package`'s. Methods that Python calls raise errors; functions below them return 0 or -1 and leave errno.

`core/` has the parts without Python objects, header-only; the files included here have the classes. Each names what it uses:
of `core/` by cimports, of the other included files in its line `# uses:`, all of which are included before it. `FORMAT.md`
tells the formats byte by byte.
"""

include "buffers.pxi"
include "matcher.pxi"
include "members.pxi"
include "data.pxi"
include "directory_reader.pxi"
include "walk.pxi"
include "blocks.pxi"
include "extractor.pxi"

from .core.chunking cimport PIECE_BYTES, USUAL_BYTES
from .core.manifest cimport Entry
from .core.members cimport (
    CHANGED, DOUBTFUL, EXECUTABLE, GENERATED, GONE, LEFT_OUT, RACY, SECRET, SPECIAL, UNREADABLE,
)
from .core.patterns cimport (
    ABOUT_ANY_KIND, ABOUT_DIRECTORIES, ABOUT_FILES, TOKEN_ANY, TOKEN_BYTES, TOKEN_DEEP, TOKEN_DIRECTORIES, TOKEN_SET,
    TOKEN_STAR, VERDICT_KEEP, VERDICT_OMIT, VERDICT_SECRET, VERDICT_SECRET_IF_KEY,
)


cdef int export(str name, long value) except -1:
    """Give a constant of the core its name in Python: an enum of a .pxd, `cpdef` or not, stays in C."""
    globals()[name] = value
    return 0


export("PIECE_BYTES", PIECE_BYTES)
export("USUAL_BYTES", USUAL_BYTES)
export("ENTRY_BYTES", sizeof(Entry))
export("EXECUTABLE", EXECUTABLE)
export("DOUBTFUL", DOUBTFUL)
export("GENERATED", GENERATED)
export("RACY", RACY)
export("UNREADABLE", UNREADABLE)
export("GONE", GONE)
export("SECRET", SECRET)
export("SPECIAL", SPECIAL)
export("CHANGED", CHANGED)
export("LEFT_OUT", LEFT_OUT)
export("ABOUT_ANY_KIND", ABOUT_ANY_KIND)
export("ABOUT_DIRECTORIES", ABOUT_DIRECTORIES)
export("ABOUT_FILES", ABOUT_FILES)
export("TOKEN_BYTES", TOKEN_BYTES)
export("TOKEN_ANY", TOKEN_ANY)
export("TOKEN_SET", TOKEN_SET)
export("TOKEN_STAR", TOKEN_STAR)
export("TOKEN_DEEP", TOKEN_DEEP)
export("TOKEN_DIRECTORIES", TOKEN_DIRECTORIES)
export("VERDICT_KEEP", VERDICT_KEEP)
export("VERDICT_OMIT", VERDICT_OMIT)
export("VERDICT_SECRET", VERDICT_SECRET)
export("VERDICT_SECRET_IF_KEY", VERDICT_SECRET_IF_KEY)
