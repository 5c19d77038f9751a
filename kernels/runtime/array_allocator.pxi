# NumPy's memory handler: arrays that tasks make are allocated in the segment (NEP 49).
#
# NumPy asks the handler of the current context for every array's data. Data of more than SHARED_BYTES is an extent of this
# process; it is ordinary memory when the store is half full, and in a child that a task forks. The address tells which one
# it is. In such a child the whole mapping becomes private, so that its writes into arrays are its own, as after any fork.
# uses: numpy_api, segment

from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from .core.externs cimport MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap
from .core.layout cimport EXTENT_VALUE, SHARED_BYTES
from .core.regions cimport Memory
from .core.lookup cimport found_extent
from .core.extents cimport extent_alloc, extent_release

cdef extern from "Python.h":
    object PyCapsule_New(void *pointer, const char *name, void *destructor)

cdef enum:
    CLEARED_BYTES = 1 << 28     # larger zeroed arrays take cold extents: their pages come when they are touched

cdef Memory *arena_memory = NULL
cdef uint64_t arena_bytes = 0
cdef int arena_generation = -1
cdef int arena_fd = -1
cdef PyDataMem_Handler arena_handler

cdef inline int64_t extent_at_address(const void *data) noexcept nogil:
    """Return the extent that begins at an address, -1 if it is ordinary memory."""
    if <char *> data < arena_memory.base or <char *> data >= arena_memory.base + arena_bytes:
        return -1
    return found_extent(arena_memory, <char *> data - arena_memory.base)

cdef inline int64_t alloc_array_extent(size_t nbytes, int cold) noexcept nogil:
    """Allocate an extent for an array; -1 above half of the store.

    Arrays that may never become values must leave space for those that do.
    """
    if arena_memory.header.live_bytes + nbytes > arena_memory.header.limit // 2:
        return -1
    return extent_alloc(arena_memory, nbytes, EXTENT_VALUE, 0, cold)

cdef void *array_malloc(void *context, size_t nbytes) noexcept nogil:
    cdef int64_t id
    if nbytes <= SHARED_BYTES or arena_generation != fork_generation:
        return malloc(nbytes)
    id = alloc_array_extent(nbytes, 0)
    return malloc(nbytes) if id < 0 else arena_memory.base + arena_memory.extents[id].offset

cdef void *array_calloc(void *context, size_t count, size_t size) noexcept nogil:
    """Allocate zeroed data.

    Clearing a warm extent costs less than the pages of a cold one; but a huge array may stay mostly empty.
    """
    cdef int64_t id
    cdef size_t nbytes = count * size
    if nbytes <= SHARED_BYTES or arena_generation != fork_generation or (size and nbytes // size != count):
        return calloc(count, size)
    id = alloc_array_extent(nbytes, nbytes > CLEARED_BYTES)
    if id < 0:
        return calloc(count, size)
    if arena_memory.extents[id].was_warm:
        memset(arena_memory.base + arena_memory.extents[id].offset, 0, nbytes)
    return arena_memory.base + arena_memory.extents[id].offset

cdef void array_free(void *context, void *data, size_t nbytes) noexcept nogil:
    cdef int64_t id = extent_at_address(data)
    if id < 0:
        free(data)
    elif arena_generation == fork_generation:
        extent_release(arena_memory, <uint32_t> id)

cdef void *array_realloc(void *context, void *data, size_t nbytes) noexcept nogil:
    cdef int64_t id = extent_at_address(data)
    cdef void *moved
    if id < 0:
        return realloc(data, nbytes)
    if nbytes <= arena_memory.extents[id].size:
        return data
    moved = array_malloc(context, nbytes)
    if moved != NULL:
        memcpy(moved, data, arena_memory.extents[id].size)
        array_free(context, data, 0)
    return moved

cdef void privatize_segment() noexcept:
    """Make the mapping private in a forked child: it must not change what its parent's arrays hold from now on."""
    if arena_memory != NULL and arena_generation == fork_generation - 1:
        mmap(arena_memory.base, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, arena_fd, 0)

cdef int install_array_allocator(Segment runtime) except -1:
    """Allocate NumPy's arrays of this context in the arena, for the rest of the process's life."""
    global arena_memory, arena_bytes, arena_generation, arena_fd
    if arena_memory != NULL and arena_memory != &runtime.memory and arena_generation == fork_generation:
        raise FlameError(FlameErrorCode.INVALID_STATE, "this process's arrays are allocated in another segment already")
    if not numpy_ready:
        load_numpy()
    arena_memory = &runtime.memory
    arena_bytes = runtime.mapped_bytes
    arena_generation = fork_generation
    arena_fd = runtime.fd
    Py_INCREF(runtime)                          # its mapping must outlive every array: never released
    memcpy(arena_handler.name, b"flame_fast", 11)
    arena_handler.version = 1
    arena_handler.allocator.malloc = array_malloc
    arena_handler.allocator.calloc = array_calloc
    arena_handler.allocator.realloc = array_realloc
    arena_handler.allocator.free = array_free
    return set_array_allocator()

cdef int set_array_allocator() except -1:
    """Set the handler in the current context: the context in which NumPy was loaded may have been a copy."""
    PyDataMem_SetHandler(PyCapsule_New(&arena_handler, "mem_handler", NULL))
    return 0
