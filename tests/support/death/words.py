"""Single words of a segment, read and set as a process would leave them that dies, or is stopped, between two steps."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import signal

import audit
from gates import in_child

STRUCTS = {
    "header": "Header",
    "processes": "Process",
    "services": "Service",
    "queues": "RunQueue",
    "slots": "Slot",
    "policies": "Policy",
    "groups": "SlotGroup",
    "extents": "Extent",
}
_libc = ctypes.CDLL(None)
_libc.pthread_mutex_lock.argtypes = _libc.pthread_mutex_unlock.argtypes = [ctypes.c_void_p]
_libc.pthread_mutex_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p]


PROT_NONE, PR_SET_SECCOMP = 0, 22


def segment_at(fd):
    """Return the address at which this process has mapped a segment."""
    inode = str(os.fstat(fd).st_ino)
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if "memfd:flame_fast" in line]
    (found,) = {line[0] for line in lines if line[4] == inode and line[1] == "rw-s" and int(line[2], 16) == 0}
    return int(found.partition("-")[0], 16)


def protect(address, protection):
    """Change the protection of the page at an address, in this process."""
    page = ctypes.c_void_p(address & -mmap.PAGESIZE)
    assert _libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), protection) == 0


def slot_of(future):
    """Return the number of a future's slot."""
    return future.number


class Words:
    def __init__(self, runtime):
        self.fd = runtime.fd
        self.tables = audit.Tables(self.fd)
        self.tables.header_at = 0
        self.structs = audit.layout()[1]
        self.ring_mask = self.tables.SLOT_COUNT - 1

    def place(self, table, index, field):
        """Return offset and type of a field of an entry, or of one within it: `redo.op`."""
        kind = self.structs[STRUCTS[table]]
        at = getattr(self.tables, table + "_at") + index * ctypes.sizeof(kind)
        for name in field.split("."):
            at, kind = at + getattr(kind, name).offset, dict(kind._fields_)[name]
        return at, kind

    def get(self, table, index, field):
        at, kind = self.place(table, index, field)
        value = kind.from_buffer_copy(os.pread(self.fd, ctypes.sizeof(kind), at))
        return value.value if hasattr(value, "value") else list(value)

    def set(self, table, index, field, value):
        at, kind = self.place(table, index, field)
        os.pwrite(self.fd, bytes(kind(*value) if isinstance(value, list) else kind(value)), at)

    def wipe(self, at):
        """Remove the page of a word far from all tables, as if it had never been written."""
        with mmap.mmap(self.fd, mmap.PAGESIZE, offset=at & -mmap.PAGESIZE) as page:
            page.madvise(mmap.MADV_REMOVE)

    def set_state(self, slot, status, owner):
        """Set status and owner; the generation stays that of this use of the slot."""
        generation = self.get("slots", slot, "state") >> 16
        self.set("slots", slot, "state", generation << 16 | owner << 4 | status)

    def add(self, table, index, field, number):
        self.set(table, index, field, self.get(table, index, field) + number)

    def slots_of(self, process):
        """Return the slots in use that a process created."""
        tables = audit.Tables(self.fd)
        return [i for i, slot in enumerate(tables.slots) if tables.status(slot) != tables.FREE and slot.creator == process]

    def extents(self):
        """Return all extents that were ever carved, as they are now."""
        return self.tables.read(self.structs["Extent"], self.tables.extents_at, self.get("header", 0, "extent_high"))

    # ---- the lock ----------------------------------------------------------------------------------------------------

    def lock(self):
        """Acquire the lock as the runtime does; return its release. Nothing of the runtime may need it meanwhile."""
        at = self.place("header", 0, "lock")[0]
        page = mmap.mmap(self.fd, mmap.PAGESIZE)
        mutex = (ctypes.c_char * 48).from_buffer(page, at)
        assert _libc.pthread_mutex_lock(ctypes.addressof(mutex)) == 0
        return lambda: _libc.pthread_mutex_unlock(ctypes.addressof(mutex))

    @contextlib.contextmanager
    def locked(self):
        give = self.lock()
        yield
        assert give() == 0

    def make_lock_count(self):
        """Acquire the lock, and let it count this thread's acquires and releases from now on.

        Return its release, which says whether the lock was still held.
        """
        at = self.place("header", 0, "lock")[0]
        page = mmap.mmap(self.fd, mmap.PAGESIZE)
        mutex, how = (ctypes.c_char * 48).from_buffer(page, at), ctypes.create_string_buffer(64)
        assert _libc.pthread_mutexattr_init(how) == 0
        for setting in ("pshared", "robust", "type"):  # PTHREAD_PROCESS_SHARED, _ROBUST, _RECURSIVE
            assert getattr(_libc, f"pthread_mutexattr_set{setting}")(how, 1) == 0
        assert _libc.pthread_mutex_init(ctypes.addressof(mutex), how) == 0
        assert _libc.pthread_mutex_lock(ctypes.addressof(mutex)) == 0
        return lambda: _libc.pthread_mutex_unlock(ctypes.addressof(mutex)) == 0

    def die_in_the_lock(self, change=lambda: None):
        """Fork a process that acquires the lock, changes something, and dies: the next holder repairs."""

        def live():
            kept = self.lock()
            change()
            os.kill(os.getpid(), signal.SIGKILL)
            kept()

        assert os.waitpid(in_child(live), 0)[1] == signal.SIGKILL

    def forbid(self, at, protection=mmap.PROT_READ):
        """From now on this process dies of writing to the page of a word; `PROT_NONE`: of reading there, too."""
        faulthandler.disable()
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        protect(segment_at(self.fd) + at, protection)

    def at_touches(self, *turns, protection=PROT_NONE):
        """Let this process act when it touches the page of a word next, then when it touches that of another, ...

        `turns`: (offset, what it does). Each page is its own again by then. `PROT_READ`: when it writes there. An atomic
        step is begun again then; one that is none goes on with what it had read.
        """
        faulthandler.disable()
        left, begin = list(turns), segment_at(self.fd)

        def touched(_signal):
            at, act = left.pop(0)
            protect(begin + at, mmap.PROT_READ | mmap.PROT_WRITE)
            act()
            if left:
                protect(begin + left[0][0], protection)

        self.touched = ctypes.CFUNCTYPE(None, ctypes.c_int)(touched)
        _libc.signal(int(signal.SIGSEGV), self.touched)
        protect(begin + left[0][0], protection)

    def forbid_calls(self):
        """Let this process die of its next system call, but for `read`, `write` and `exit`."""
        assert _libc.prctl(PR_SET_SECCOMP, 1, 0, 0, 0) == 0

    # ---- missing dependencies ----------------------------------------------------------------------------------------

    def missing(self, slot, level=-1):
        """Return the offset of the first word of a level of a waiting task's tree; the top's by default."""
        kind, at = self.structs["Dependencies"], self.get("slots", slot, "dependencies")
        inputs = kind.from_buffer_copy(os.pread(self.fd, ctypes.sizeof(kind), at))
        return at + inputs.level_at[range(inputs.levels)[level]]

    def clear(self, at, process):
        """Write a word as a process leaves it that has just cleared its last bit."""
        os.pwrite(self.fd, (1 << 63 | process << 48).to_bytes(8, "little"), at)

    # ---- rings -------------------------------------------------------------------------------------------------------

    def entry(self, position, slot):
        return position & ~self.ring_mask | slot + 1

    def set_entries(self, queue, position, entries):
        """Write entries to a queue's ring from a position on, without crossing from its last place to its first."""
        at = self.tables.rings_at + 8 * (queue * self.tables.SLOT_COUNT + (position & self.ring_mask))
        os.pwrite(self.fd, b"".join(entry.to_bytes(8, "little") for entry in entries), at)

    def push(self, queue, slot):
        """Push an entry to a slot at a queue's end."""
        tail = self.get("queues", queue, "tail")
        self.set_entries(queue, tail, [self.entry(tail, slot)])
        self.set("queues", queue, "tail", tail + 1)

    def fill(self, queue, slot):
        """Fill all places that are left of a queue with entries to the same slot."""
        tail, end = self.get("queues", queue, "tail"), self.get("queues", queue, "head") + self.tables.SLOT_COUNT
        middle = min(end, tail + self.ring_mask + 1 & ~self.ring_mask)
        self.set_entries(queue, tail, [self.entry(tail, slot)] * (middle - tail))
        self.set_entries(queue, middle, [self.entry(middle, slot)] * (end - middle))
        self.set("queues", queue, "tail", end)
