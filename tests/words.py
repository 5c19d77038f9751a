"""Single words of a segment, read and set as a process would leave them that dies, or is stopped, between two steps."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os

import audit

STRUCTS = {"header": "Header", "processes": "Process", "services": "Service", "lanes": "Lane", "slots": "Slot"}


class Words:
    def __init__(self, runtime):
        self.fd = runtime.fd
        self.tables = audit.Tables(self.fd)
        self.tables.header_at = 0
        self.structs = audit.layout()[1]
        self.ring_mask = self.tables.SLOT_COUNT - 1
        self.mutex = None

    def place(self, table, index, field):
        """(offset, type) of a field of an entry."""
        kind = self.structs[STRUCTS[table]]
        at = getattr(self.tables, table + "_at") + index * ctypes.sizeof(kind) + getattr(kind, field).offset
        return at, dict(kind._fields_)[field]

    def get(self, table, index, field):
        at, kind = self.place(table, index, field)
        value = kind.from_buffer_copy(os.pread(self.fd, ctypes.sizeof(kind), at))
        return value.value if hasattr(value, "value") else list(value)

    def set(self, table, index, field, value):
        at, kind = self.place(table, index, field)
        os.pwrite(self.fd, bytes(kind(*value) if isinstance(value, list) else kind(value)), at)

    def set_state(self, slot, status, owner):
        """Of the same use of the slot."""
        generation = self.get("slots", slot, "state") >> 16
        self.set("slots", slot, "state", generation << 16 | owner << 4 | status)

    def add(self, table, index, field, number):
        self.set(table, index, field, self.get(table, index, field) + number)

    def slots_of(self, process):
        """Those in use that a process made."""
        tables = audit.Tables(self.fd)
        return [i for i, slot in enumerate(tables.slots) if tables.status(slot) != tables.FREE and slot.creator == process]

    # ---- missing inputs ----------------------------------------------------------------------------------------------

    def missing(self, slot, level=-1):
        """Offset of the first word of a level of a waiting task's tree; the top's by default."""
        kind, at = self.structs["Inputs"], self.get("slots", slot, "inputs")
        inputs = kind.from_buffer_copy(os.pread(self.fd, ctypes.sizeof(kind), at))
        return at + inputs.level_at[range(inputs.levels)[level]]

    def clear(self, at, process):
        """The last bit of a word has just been cleared by a process."""
        os.pwrite(self.fd, (1 << 63 | process << 48).to_bytes(8, "little"), at)

    # ---- rings -------------------------------------------------------------------------------------------------------

    def hint(self, position, slot):
        return position & ~self.ring_mask | slot + 1

    def set_hints(self, lane, position, hints):
        """So many places of a lane's ring from a position on; none of its last place and its first at once."""
        at = self.tables.rings_at + 8 * (lane * self.tables.SLOT_COUNT + (position & self.ring_mask))
        os.pwrite(self.fd, b"".join(hint.to_bytes(8, "little") for hint in hints), at)

    def push(self, lane, slot):
        """A hint to a slot at a lane's end."""
        tail = self.get("lanes", lane, "tail")
        self.set_hints(lane, tail, [self.hint(tail, slot)])
        self.set("lanes", lane, "tail", tail + 1)

    def fill(self, lane, slot):
        """All places that are left of a lane get a hint to the same slot."""
        tail, end = self.get("lanes", lane, "tail"), self.get("lanes", lane, "head") + self.tables.SLOT_COUNT
        middle = min(end, tail + self.ring_mask + 1 & ~self.ring_mask)
        self.set_hints(lane, tail, [self.hint(tail, slot)] * (middle - tail))
        self.set_hints(lane, middle, [self.hint(middle, slot)] * (end - middle))
        self.set("lanes", lane, "tail", end)

    # ---- the lock ----------------------------------------------------------------------------------------------------

    def lock(self):
        """The segment's lock is this thread's; its death gives it to the next, who repairs."""
        if self.mutex is None:
            header = mmap.mmap(self.fd, mmap.PAGESIZE)  # for as long as this object is there, like the lock itself
            self.mutex = (ctypes.c_char * ctypes.sizeof(ctypes.c_uint64)).from_buffer(
                header, self.structs["Header"].lock.offset
            )
        assert ctypes.CDLL(None).pthread_mutex_lock(ctypes.byref(self.mutex)) == 0

    @contextlib.contextmanager
    def locked(self):
        self.lock()
        try:
            yield
        finally:
            assert ctypes.CDLL(None).pthread_mutex_unlock(ctypes.byref(self.mutex)) == 0
