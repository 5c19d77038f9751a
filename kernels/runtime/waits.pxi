# What a thread may wait for: one future, all of a list, any of a list. `Outcomes.wait_for` waits.
# uses: segment, handle

from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from .core.externs cimport ff_add32, ff_exchange32, ff_exchange64, ff_load64, ff_now_ns, ff_pause
from .core.layout cimport FAILED, LOG_COUNT, POOL_QUEUES, READY, RING_MASK, WAITS_FOR_ANY, Slot
from .core.regions cimport Memory
from .core.lookup cimport is_finished, status_of
from .core.spinning cimport SPIN_FREE_NS, spin_budget, spin_ended, token_acquire, token_release
from .core.wakeup cimport log_lap
from .core.blocks cimport block_alloc_owned, block_free, block_published

cdef enum:
    REACH = 4096                # futures of a list that one wait covers: values are read while the next ones run

cdef class Wait:
    """One wait. `ready` decides whether it is over; the other methods serve sleeping."""
    cdef Memory *memory

    cdef bint ready(self) except -1:
        raise NotImplementedError

    cdef bint looks_ready(self) noexcept nogil:
        """Return whether the wait may be over: a cheap look for spinning; `ready` decides."""
        return True

    cdef void watch(self) noexcept:
        """Have this process woken, from now on, when something changes."""

    cdef void unwatch(self) noexcept:
        pass

    cdef void look_again(self) noexcept:
        """Look again after each sleep: a finisher that died may have finished a call without waking this process."""

    cdef bint publish(self, Segment runtime, uint32_t task) except -1:
        """Publish what `task` waits for, for deadlock detection; return whether that is new."""
        raise NotImplementedError

    cdef void retract(self, Segment runtime, uint32_t task) noexcept:
        ff_exchange64(&runtime.memory.slots[task].waits_for, 0)

    cdef list targets(self):
        """Return the slots this wait depends on, for deadlock detection: if none of them finishes, the wait never ends."""
        raise NotImplementedError

    cdef int64_t runnable(self) noexcept:
        """Return a slot that the wait needs and that is queued, to run it here (helping); -1 for none."""
        return -1

    cdef int64_t awaited(self) noexcept:
        """Return a slot without whose outcome the wait does not end; -1: there is no such."""
        return -1

    cdef bint needs_all(self) noexcept:
        """Return whether the wait needs each of its slots, so that running any of them here is no detour."""
        return True

cdef int spin_for(Memory *memory, Wait wait) noexcept nogil:
    cdef int64_t start = ff_now_ns(), budget = spin_budget(&memory.for_outcomes)
    cdef int token = token_acquire(memory, memory.me), found = 0, i
    if not token:
        budget = min(budget, SPIN_FREE_NS)
    while not found:
        for i in range(32):
            if wait.looks_ready():
                found = 1
                break
            ff_pause()
        if ff_now_ns() - start > budget:
            break
    if token:
        token_release(memory, memory.me)
    spin_ended(&memory.for_outcomes, found)
    return found

cdef class OneWait(Wait):
    """A wait for one future."""
    cdef uint32_t index

    cdef bint ready(self) except -1:
        return is_finished(self.memory, self.index)

    cdef bint looks_ready(self) noexcept nogil:
        return is_finished(self.memory, self.index)

    cdef void watch(self) noexcept:
        # S3: pairs with `finish_one`
        ff_exchange32(&self.memory.slots[self.index].watched, 1)

    cdef bint publish(self, Segment runtime, uint32_t task) except -1:
        # S18: pairs with `unfinished_needs`
        return ff_exchange64(&self.memory.slots[task].waits_for, self.index + 1) != self.index + 1

    cdef list targets(self):
        return [self.index]

    cdef int64_t awaited(self) noexcept:
        return self.index

    cdef int64_t runnable(self) noexcept:
        return self.index if status_of(ff_load64(&self.memory.slots[self.index].state)) == READY else -1

cdef class AllWait(Wait):
    """A wait for the next stretch of a list: until all are finished, or all up to one that failed.

    One sleep covers the stretch: the process watches only its last slot, and failures, by `Process.watching`.
    """
    cdef uint32_t *slots
    cdef Py_ssize_t count
    cdef Py_ssize_t first       # all before it are finished
    cdef Py_ssize_t target      # the slot that is watched
    cdef Py_ssize_t scanned     # none before it is queued any more: here a worker's task looks for work for itself

    def __dealloc__(self):
        free(self.slots)

    cdef void reach(self, Py_ssize_t first) noexcept:
        """Begin a stretch at position `first`, which is not finished."""
        self.first = first
        self.target = min(first + REACH, self.count) - 1
        while self.target > first and is_finished(self.memory, self.slots[self.target]):
            self.target -= 1

    cdef bint ready(self) except -1:
        cdef Py_ssize_t i
        while self.first <= self.target and is_finished(self.memory, self.slots[self.first]):
            if status_of(ff_load64(&self.memory.slots[self.slots[self.first]].state)) == FAILED:
                return True
            self.first += 1
        if self.first > self.target:
            return True
        if is_finished(self.memory, self.slots[self.target]):
            while self.target > self.first and is_finished(self.memory, self.slots[self.target]):
                self.target -= 1
            self.watch_target()
            return self.ready()
        return False

    cdef bint looks_ready(self) noexcept nogil:
        return is_finished(self.memory, self.slots[self.target])

    cdef void watch(self) noexcept:
        ff_add32(&self.memory.processes[self.memory.me].watching, 1)
        self.watch_target()
        self.look_again()

    cdef void watch_target(self) noexcept:
        # S3: pairs with `finish_one`
        ff_exchange32(&self.memory.slots[self.slots[self.target]].watched, 1)

    cdef void unwatch(self) noexcept:
        ff_add32(&self.memory.processes[self.memory.me].watching, <uint32_t> -1)

    cdef void look_again(self) noexcept:
        """Watch the last unfinished slot before a failure: the wait ends once all before the failed one are finished."""
        cdef Py_ssize_t i
        for i in range(self.first, self.target):
            if status_of(ff_load64(&self.memory.slots[self.slots[i]].state)) == FAILED:
                self.target = i
                while self.target > self.first and is_finished(self.memory, self.slots[self.target]):
                    self.target -= 1
                self.watch_target()
                return

    cdef bint publish(self, Segment runtime, uint32_t task) except -1:
        cdef uint64_t published = self.slots[self.first] + 1
        # S18: pairs with `unfinished_needs`
        return ff_exchange64(&self.memory.slots[task].waits_for, published) != published

    cdef list targets(self):
        return [self.slots[self.first]]

    cdef int64_t awaited(self) noexcept:
        return self.slots[self.first]

    cdef int64_t runnable(self) noexcept:
        cdef Slot *slot
        self.scanned = max(self.scanned, self.first)
        while self.scanned < self.count:
            slot = &self.memory.slots[self.slots[self.scanned]]
            if status_of(ff_load64(&slot.state)) == READY and slot.queue < POOL_QUEUES:     # an instance runs its own calls
                return self.slots[self.scanned]
            self.scanned += 1
        return -1

cdef int begin_any(AnyWait wait, Memory *memory) except -1:
    wait.memory = memory
    wait.pending = {}
    wait.found = []
    wait.cursor = ff_load64(&memory.processes[memory.me].log_tail)
    return 0

cdef AllWait all_wait(Memory *memory, tuple handles):
    cdef AllWait wait = AllWait.__new__(AllWait)
    cdef Py_ssize_t i
    wait.memory = memory
    wait.count = len(handles)
    wait.slots = <uint32_t *> malloc(wait.count * sizeof(uint32_t))
    if wait.slots == NULL:
        raise MemoryError
    for i in range(wait.count):
        wait.slots[i] = (<SlotReference> PyTuple_GET_ITEM(handles, i)).index
    return wait

cdef class AnyWait(Wait):
    """A wait for any of some futures. This process's log says, entry by entry, which of them are finished."""
    cdef dict pending           # slot -> what stands for its futures: see `add`
    cdef list found             # what stands for futures that are finished and not yet given out
    cdef uint64_t cursor
    cdef uint64_t published     # the block that says what a task waits for; 0: none

    cdef int add(self, uint32_t index, entry) except -1:
        """Wait for a slot's outcome, too; `entry` stands for it. From any thread."""
        self.pending.setdefault(index, []).append(entry)
        # S3: pairs with `finish_one`
        ff_exchange32(&self.memory.slots[index].watched, 1)
        return 0

    cdef bint ready(self) except -1:
        cdef uint64_t tail = ff_load64(&self.memory.processes[self.memory.me].log_tail), entry
        cdef uint64_t *log = self.memory.logs + <uint64_t> self.memory.me * LOG_COUNT
        cdef int64_t ahead
        cdef uint32_t index
        while self.cursor < tail:
            entry = ff_load64(&log[self.cursor % LOG_COUNT])
            ahead = <int64_t> ((entry & ~<uint64_t> RING_MASK) - log_lap(self.cursor))
            if ahead:                           # not written yet, or, if positive, overwritten in a later lap
                if ahead > 0:
                    self.look_at_all()
                break
            index = <uint32_t> (entry & RING_MASK) - 1
            self.cursor += 1
            if index in self.pending and is_finished(self.memory, index):
                self.found.extend(self.pending.pop(index))
        return len(self.found) > 0

    cdef bint looks_ready(self) noexcept nogil:
        return ff_load64(&self.memory.processes[self.memory.me].log_tail) != self.cursor

    cdef int look_at_all(self) except -1:
        """Look at every future: at first, when the log was overwritten, and when a finisher died before its entry."""
        self.cursor = ff_load64(&self.memory.processes[self.memory.me].log_tail)
        for index in [index for index in self.pending if is_finished(self.memory, index)]:
            self.found.extend(self.pending.pop(index))
        return 0

    cdef void look_again(self) noexcept:
        if ff_load64(&self.memory.processes[self.memory.me].log_tail) != self.cursor and not self.found:
            try:
                if not self.ready():
                    self.look_at_all()
            except Exception:
                pass            # no memory just now: the next look finds the same

    cdef bint publish(self, Segment runtime, uint32_t task) except -1:
        cdef uint64_t *words
        cdef uint64_t i = 1
        if self.published:
            return False
        self.published = block_alloc_owned(self.memory, 8 * (<uint64_t> len(self.pending) + 1))
        if self.published == 0:
            raise runtime.full(8 * (<uint64_t> len(self.pending) + 1))
        words = <uint64_t *> (self.memory.base + self.published)
        words[0] = len(self.pending)
        for index in self.pending:
            words[i] = index
            i += 1
        # S18: pairs with `unfinished_needs`
        ff_exchange64(&self.memory.slots[task].waits_for, WAITS_FOR_ANY | self.published)
        block_published(self.memory)
        return True

    cdef void retract(self, Segment runtime, uint32_t task) noexcept:
        ff_exchange64(&runtime.memory.slots[task].waits_for, 0)
        if self.published:
            block_free(self.memory, self.published)
            self.published = 0

    cdef list targets(self):
        return list(self.pending)

    cdef bint needs_all(self) noexcept:
        return False
