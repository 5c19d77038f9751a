# Read a runner's segment from outside: `python -m flame_fast dump`.
#
# Guarantees: `SegmentReader` changes nothing. It maps no page and acquires no lock. It reads by pread(2), which allocates
# no page where the segment has a hole; a read through a shared mapping would. So it works on a runner whose processes are
# all stopped, and on one whose lock is never released.
# Assumes: nothing of what it reads. It copies each struct once, and checks each index and offset before it follows it,
# since the runner changes the segment meanwhile, or has corrupted it.
# Rejected: attaching like a worker (an entry in the process table, and futex words that it would have to answer for).
# uses: nothing

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport pread
from .core.externs cimport FF_LAYOUT, ff_now_ns
from .core.layout cimport (
    CALL_DETACHED, CALL_KEPT, CALL_LIMITED, CALL_UNWANTED, CLEARED_SHIFT, DONE, ENDING, EXTENT_COLD, EXTENT_COUNT,
    EXTENT_LEAVING, EXTENT_SLAB, EXTENT_VALUE, EXTENT_WARM, FAILED, FREE, GRANULE, GROUP_BITS, KIND_MAP, LEAVING, MAGIC,
    PAGE, PAYLOAD, PERMIT_COUNT, PROCESS_COUNT, PROCESS_FREE, PROCESS_LIVE, PROCESS_REQUESTED, PROCESS_STARTING,
    QUEUE_CLOSING, QUEUE_COUNT, QUEUE_DEAD, QUEUE_FREE, QUEUE_OPEN, READY, REDO_LINK, REDO_NOTHING, REDO_UNLINK,
    REF_COUNT, REF_CREATOR, REF_EDGES, REF_PENDING, REF_RUN, RESERVED, RING_MASK, ROLE_DRIVER, ROLE_INSTANCE, ROLE_POOL,
    ROLE_SPARE, ROLE_ZYGOTE, RUNNING, SERVICE_CLOSING, SERVICE_COUNT, SERVICE_FREE, SERVICE_OPEN, SLOT_COUNT, WAITING,
    WAITS_FOR_ANY, WORD_BITS, Dependencies, DependencyEdge, Extent, Header, Process, RunQueue, Service, Slot,
)
from .core.regions cimport Memory, align_up, map_memory
from .core.lookup cimport generation_of, owner_of, status_of
from .core.run_queue cimport lap_of

cdef enum:
    SLOTS_AT_ONCE = 256
    EXTENTS_AT_ONCE = 256
    CHECKSUM_BYTES = 8          # in front of it
    BLOB_READ = 1 << 16         # of a service's description, at most
    DEPENDENCIES_NAMED = 1000   # missing dependencies of one task, at most

STATUS_NAMES = {
    FREE: "FREE", WAITING: "WAITING", READY: "READY", RUNNING: "RUNNING", ENDING: "ENDING", DONE: "DONE", FAILED: "FAILED",
    LEAVING: "LEAVING",
}

ROLE_NAMES = {0: "none", ROLE_DRIVER: "driver", ROLE_ZYGOTE: "supervisor", ROLE_POOL: "worker", ROLE_INSTANCE: "instance",
              ROLE_SPARE: "spare"}

PROCESS_NAMES = {PROCESS_FREE: "FREE", PROCESS_REQUESTED: "REQUESTED", PROCESS_STARTING: "STARTING", PROCESS_LIVE: "LIVE"}

QUEUE_NAMES = {QUEUE_FREE: "FREE", QUEUE_OPEN: "OPEN", QUEUE_CLOSING: "CLOSING", QUEUE_DEAD: "DEAD"}

SERVICE_NAMES = {SERVICE_FREE: "FREE", SERVICE_OPEN: "OPEN", SERVICE_CLOSING: "CLOSING"}

EXTENT_NAMES = {
    EXTENT_COLD: "cold", EXTENT_WARM: "warm", EXTENT_LEAVING: "leaving", EXTENT_VALUE: "value", EXTENT_SLAB: "slab",
}

REDO_NAMES = {REDO_NOTHING: None, REDO_LINK: "link", REDO_UNLINK: "unlink"}

cdef str name_in(dict names, uint32_t word):
    """Return the name of a table entry's word; a RESERVED one includes the process that fills or empties the entry."""
    if word in names:
        return names[word]
    if RESERVED <= word < RESERVED + PROCESS_COUNT:
        return f"RESERVED by process {word - RESERVED}"
    return f"unknown ({word})"

cdef int64_t entry_slot(uint64_t entry, uint64_t position) noexcept nogil:
    """Return the slot that a queue entry at `position` names; -1: claimed or never written, -2: of another lap."""
    if lap_of(entry) == lap_of(position + SLOT_COUNT):
        return -1
    if lap_of(entry) != lap_of(position):
        return -2
    return <int64_t> (entry & RING_MASK) - 1

cdef bint entry_is_valid(uint64_t position, uint32_t queue, Slot *slot) noexcept nogil:
    """Return whether a task is still to be run through this entry, which names `slot`: see `is_here`."""
    return status_of(slot.state) in (WAITING, READY) and slot.queue == queue and <int64_t> (position - slot.queue_tail) >= 0

cdef class SegmentReader:
    """A reader of a segment for diagnosis: it copies tables into plain dicts and changes nothing.

    Parameters
    ----------
    fd : int
        A descriptor of the segment, open for reading, which the caller closes.

    Raises
    ------
    ValueError
        The file is no segment, or another build of flame_fast laid it out.

    Notes
    -----
    An index identifies each slot, process, service and queue; None stands for none.
    """
    cdef int fd
    cdef Memory places          # of the regions: offsets + PAGE, never followed
    cdef uint64_t size, arena

    def __init__(self, int fd):
        cdef Header header
        self.fd = fd
        self.size = os.fstat(fd).st_size
        if not self.copy(0, &header, sizeof(Header)) or header.magic != MAGIC:
            raise ValueError("it is no segment of a runner")
        if header.layout != FF_LAYOUT:
            raise ValueError(
                "its runner is of another version of flame_fast, or of another build: look at it with the Python "
                "environment it uses"
            )
        # A base other than NULL, since adding to NULL is undefined.
        self.arena = map_memory(<char *> <uint64_t> PAGE, self.size, &self.places) - PAGE
        self.arena = align_up(self.arena, GRANULE)
        if self.arena >= self.size:
            raise ValueError("it is no segment of a runner: it is too small")

    cdef bint copy(self, uint64_t offset, void *to, uint64_t nbytes) noexcept:
        """Copy bytes out of the segment; return False, with zeros, if they are not all there."""
        cdef uint64_t have = 0
        cdef Py_ssize_t got
        while have < nbytes and offset < self.size and nbytes <= self.size - offset:
            got = pread(self.fd, <char *> to + have, nbytes - have, <long> (offset + have))
            if got <= 0:
                break
            have += got
        if have < nbytes:
            memset(to, 0, nbytes)
        return have == nbytes

    cdef bint copy_at(self, void *place, void *to, uint64_t nbytes) noexcept:
        return self.copy(<uint64_t> (<char *> place - <char *> <uint64_t> PAGE), to, nbytes)

    cdef bint copy_slot(self, uint64_t index, Slot *slot) noexcept:
        if index >= SLOT_COUNT:
            memset(slot, 0, sizeof(Slot))
            return False
        return self.copy_at(&self.places.slots[index], slot, sizeof(Slot))

    cdef uint32_t slots_high(self) noexcept:
        """Return the index from which on slots were never used."""
        cdef Header header
        self.copy(0, &header, sizeof(Header))
        return min(<uint64_t> header.group_high * GROUP_BITS, <uint64_t> SLOT_COUNT)

    def header(self):
        """Return the state of the runner as a whole."""
        cdef Header header
        self.copy(0, &header, sizeof(Header))
        return {
            "session": header.session, "bytes_reserved": self.size, "cpus": header.cpus, "workers": header.workers,
            "closing": header.closing != 0, "limit_bytes": header.limit, "live_bytes": header.live_bytes,
            "cached_bytes": header.cached_bytes, "peak_bytes": header.peak_bytes,
            "arrays_read_only": header.arrays_read_only != 0,
            "lock_holder": noted(header.lock_holder),
            "redo": REDO_NAMES.get(header.redo.op, f"unknown ({header.redo.op})"), "redo_slot": header.redo.slot,
            "redo_half": "payload" if header.redo.which == PAYLOAD else "result",
            "sleepers": header.pool_sleepers, "spinners": header.spinners,
            "seeker": header.seeker - 1 if header.seeker else None,
            "sought_s": max(0, ff_now_ns() - <int64_t> (header.sought_ns & 0x7FFFFFFFFFFFFFFF)) / 1e9,
        }

    def processes(self):
        """Return the entries of the process table that are not free."""
        cdef Header header
        cdef Process process
        cdef uint32_t i
        found = []
        self.copy(0, &header, sizeof(Header))
        for i in range(min(header.process_high, <uint32_t> PROCESS_COUNT)):
            self.copy_at(&self.places.processes[i], &process, sizeof(Process))
            if process.state == PROCESS_FREE:
                continue
            found.append({
                "index": i, "state": name_in(PROCESS_NAMES, process.state), "role": name_in(ROLE_NAMES, process.role),
                "pid": process.pid if process.state == PROCESS_LIVE else 0,
                "queue": process.queue if process.role == ROLE_INSTANCE else None,
                "blocked": process.blocked != 0, "spinning": process.spinning, "sleeping": process.sleeping != 0,
                "seeking": header.seeker == i + 1, "retiring": process.retiring != 0, "waiters": process.waiters,
                "runs": noted(process.current), "building": noted(process.building), "promoting": noted(process.promoting),
                "rotating": noted(process.rotating), "taking": process.taking or None,
                "releasing_edge": process.releasing_edge or None,
                "releasing_slot": process.releasing_slot if process.releasing_edge else None,
            })
        return found

    def services(self):
        """Return the entries of the service table that are not free; `blob` is the beginning of what workers load."""
        cdef Header header
        cdef Service service
        cdef uint32_t i
        found = []
        self.copy(0, &header, sizeof(Header))
        for i in range(min(header.service_high, <uint32_t> SERVICE_COUNT)):
            self.copy_at(&self.places.services[i], &service, sizeof(Service))
            if service.state == SERVICE_FREE:
                continue
            found.append({
                "index": i, "state": name_in(SERVICE_NAMES, service.state),
                "queue": service.queue, "creator": service.creator,
                "generation": service.generation, "warm_left": service.warm_left,
                "blob": self.bytes_at(service.blob, min(service.blob_bytes, <uint64_t> BLOB_READ))[CHECKSUM_BYTES:],
            })
        return found

    cdef bytes bytes_at(self, uint64_t offset, uint64_t nbytes):
        """Return bytes of the arena; b"" if they do not lie there."""
        if offset < self.arena or offset > self.size or nbytes > self.size - offset:
            return b""
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> nbytes)
        return data if self.copy(offset, PyBytes_AS_STRING(data), nbytes) else b""

    def queues(self):
        """Return the queues that are not free, or that have entries."""
        cdef RunQueue queue
        cdef uint32_t i, permit
        found = []
        for i in range(QUEUE_COUNT):
            self.copy_at(&self.places.queues[i], &queue, sizeof(RunQueue))
            if queue.state == QUEUE_FREE and queue.head == queue.tail:
                continue
            found.append({
                "index": i, "state": name_in(QUEUE_NAMES, queue.state), "ordered": queue.ordered != 0, "limit": queue.limit,
                "sticky": queue.sticky != 0, "head": queue.head, "tail": queue.tail, "sleepers": queue.sleepers,
                "urgent_of": noted(queue.home),
                "process": queue.process - 1 if queue.process else None,
                "permits": [
                    queue.permits[permit] - 1
                    for permit in range(min(queue.limit, <uint32_t> PERMIT_COUNT)) if queue.permits[permit]
                ],
            })
        return found

    def entries(self, uint32_t queue_index, int most):
        """Return the first entries of a queue: a list of (position, slot or None, whether its task must still run)."""
        cdef RunQueue queue
        cdef Slot slot
        cdef uint64_t position, entry, last
        cdef int64_t index
        found = []
        if queue_index >= QUEUE_COUNT:
            return found
        self.copy_at(&self.places.queues[queue_index], &queue, sizeof(RunQueue))
        last = queue.head + min(queue.tail - queue.head, <uint64_t> SLOT_COUNT, <uint64_t> max(most, 0))
        position = queue.head
        while position != last:
            self.copy_at(self.places.rings + <uint64_t> queue_index * SLOT_COUNT + (position & RING_MASK), &entry, 8)
            index = entry_slot(entry, position)
            if index < 0 or not self.copy_slot(index, &slot):
                found.append((position, None, False))
            else:
                found.append((position, index, bool(entry_is_valid(position, queue_index, &slot))))
            position += 1
        return found

    def slots(self, int most):
        """Return (number of slots by status, unfinished slots: all RUNNING, `most` WAITING and `most` READY at most)."""
        cdef Slot *copies = <Slot *> malloc(SLOTS_AT_ONCE * sizeof(Slot))
        cdef uint32_t high = self.slots_high(), first, count, i, status
        cdef int waiting = most, ready = most
        if copies == NULL:
            raise MemoryError
        counts = dict.fromkeys(STATUS_NAMES.values(), 0)
        found = []
        try:
            for first in range(0, high, SLOTS_AT_ONCE):
                count = min(<uint32_t> SLOTS_AT_ONCE, high - first)
                self.copy_at(&self.places.slots[first], copies, count * sizeof(Slot))
                for i in range(count):
                    status = status_of(copies[i].state)
                    name = name_in(STATUS_NAMES, status)
                    counts[name] = counts.get(name, 0) + 1
                    waiting -= status == WAITING
                    ready -= status == READY
                    waits = (status == WAITING and waiting >= 0) or (status == READY and ready >= 0)
                    if status in (RUNNING, ENDING) or waits:
                        found.append(self.describe(first + i, &copies[i]))
        finally:
            free(copies)
        return counts, found

    def slot(self, uint64_t index):
        """Return one slot, whatever its status; None if there is none of that number."""
        cdef Slot slot
        return self.describe(index, &slot) if self.copy_slot(index, &slot) else None

    cdef dict describe(self, uint64_t index, Slot *slot):
        """Return a copied slot as a dict."""
        cdef uint32_t status = status_of(slot.state)
        found = {
            "index": index, "status": name_in(STATUS_NAMES, status), "generation": generation_of(slot.state),
            "owner": owner_of(slot.state) if status >= RUNNING else None, "creator": slot.creator,
            "service": slot.service, "method": slot.method, "queue": slot.queue, "started": slot.started != 0,
            "held_by_creator": slot.refs & REF_CREATOR != 0, "held_until_finished": slot.refs & REF_RUN != 0,
            "held_by_lists": slot.refs & REF_EDGES != 0, "dependent_pending": slot.refs & REF_PENDING != 0,
            "dependents": slot.refs & REF_COUNT, "watched": slot.watched != 0, "has_payload": slot.payload_kind != 0,
            "payload_bytes": slot.payload_bytes, "map": slot.payload_kind & KIND_MAP != 0,
            "limited": slot.flags & CALL_LIMITED != 0, "retried": slot.flags & CALL_KEPT != 0,
            "detached": slot.flags & CALL_DETACHED != 0, "unwanted": slot.flags & CALL_UNWANTED != 0,
            "dependencies": 0, "missing": 0, "missing_slots": [], "submitting": False,
            "waits_for": [], "waits_for_any": False,
        }
        if slot.dependencies and status < DONE:
            self.describe_dependencies(slot.dependencies, found)
        if status in (RUNNING, ENDING) and slot.waits_for:
            self.describe_wait(slot.waits_for, found)
        return found

    cdef int describe_dependencies(self, uint64_t offset, dict found) except -1:
        """Add the missing dependencies of a task: bits of level 0, unless the whole tree says that all are ready."""
        cdef Dependencies dependencies
        cdef DependencyEdge edge
        cdef uint64_t word = 0, top, last_level
        cdef uint32_t bit
        if offset < self.arena or not self.copy(offset, &dependencies, sizeof(Dependencies)):
            return 0
        if dependencies.count >= SLOT_COUNT or not 1 <= dependencies.levels <= 4:
            return 0
        last_level = dependencies.level_at[dependencies.levels - 1]
        if max(dependencies.level_at[0], last_level) >= self.size:
            return 0
        found["dependencies"] = dependencies.count
        self.copy(offset + last_level, &top, 8)
        if top >> CLEARED_SHIFT:
            return 0
        for bit in range(dependencies.count + 1):
            if bit % WORD_BITS == 0:
                self.copy(offset + dependencies.level_at[0] + 8 * (bit // WORD_BITS), &word, 8)
            if word >> CLEARED_SHIFT or not word >> (bit % WORD_BITS) & 1:
                continue
            if bit == dependencies.count:
                found["submitting"] = True
                continue
            found["missing"] += 1
            if found["missing"] <= DEPENDENCIES_NAMED:
                self.copy(offset + sizeof(Dependencies) + bit * sizeof(DependencyEdge), &edge, sizeof(DependencyEdge))
                if edge.dependency < SLOT_COUNT:
                    found["missing_slots"].append(edge.dependency)
        return 0

    cdef int describe_wait(self, uint64_t waits_for, dict found) except -1:
        """Add the slots that a running task waits for."""
        cdef uint64_t offset = waits_for & ~WAITS_FOR_ANY, count, i, one
        if not waits_for & WAITS_FOR_ANY:
            if waits_for - 1 < SLOT_COUNT:
                found["waits_for"].append(waits_for - 1)
            return 0
        found["waits_for_any"] = True
        if offset < self.arena or not self.copy(offset, &count, 8):
            return 0
        for i in range(min(count, <uint64_t> DEPENDENCIES_NAMED)):
            if self.copy(offset + 8 + 8 * i, &one, 8) and one < SLOT_COUNT:
                found["waits_for"].append(one)
        return 0

    def extents(self):
        """Return a dict from each kind of extent to (count, bytes)."""
        cdef Extent *copies = <Extent *> malloc(EXTENTS_AT_ONCE * sizeof(Extent))
        cdef Header header
        cdef uint32_t high, first, count, i
        if copies == NULL:
            raise MemoryError
        found = {}
        self.copy(0, &header, sizeof(Header))
        high = min(header.extent_high, <uint32_t> EXTENT_COUNT)
        try:
            for first in range(0, high, EXTENTS_AT_ONCE):
                count = min(<uint32_t> EXTENTS_AT_ONCE, high - first)
                self.copy_at(&self.places.extents[first], copies, count * sizeof(Extent))
                for i in range(count):
                    name = name_in(EXTENT_NAMES, copies[i].kind)
                    before = found.get(name, (0, 0))
                    found[name] = (before[0] + 1, before[1] + copies[i].size)
        finally:
            free(copies)
        return found

cdef object noted(uint64_t word):
    """Return the index that a word of the tables has as index + 1; None for 0."""
    return word - 1 if word else None
