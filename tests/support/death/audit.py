"""Looks through a segment's tables while nothing goes on in it: whether every word says what the others say.

What a process wrote and did not take back, a bit without what it stands for, a sum that is none: a test that compares values
notices none of these before the memory is used up. The layout is read from `layout.pxd`, the words from the segment's file.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import os
import re
from pathlib import Path

TYPES = {f"uint{bits}_t": vars(ctypes)[f"c_uint{bits}"] for bits in (8, 16, 32, 64)} | {"char": ctypes.c_char}
#: What is 0 in a process's entry while it does nothing in the tables.
NOTES = (
    *("current", "building", "taking", "promoting", "rotating", "releasing_edge"),
    *("waiters", "watching", "spinning", "blocked", "sleeping"),
)
#: What is 0 in the entry of a process that has been recovered, and what a supervisor writes only while it recovers one.
HANDS = ("building", "taking", "promoting", "rotating", "releasing_edge")
#: What is 0 in a free slot.
REST = ("payload", "payload_kind", "result", "result_kind", "dependencies", "waits_for")
CLAIMED, CURRENT = 1 << 63, 1 << 62
MEMBERS = CURRENT - 1
ANY = 1 << 63  # of Slot.waits_for
BEFORE = 512  # bytes of an entry, at most


@functools.cache
def layout_lines():
    here = Path(__file__).resolve()
    candidates = [at / "kernels" / "runtime" / "core" / "layout.pxd" for at in here.parents]
    return next(path for path in candidates if path.exists()).read_text().splitlines()


def counters():
    """Return the names of the words of a process that are counters."""
    found = re.findall(r"(\w+) +# \[counter\]", "\n".join(layout_lines()))
    assert found, "layout.pxd: expected words tagged [counter], got none"
    return found


@functools.cache
def layout():
    """Return the constants and the structs of the segment, by name."""
    constants, structs, fields = {}, {}, None
    for line in layout_lines():
        code = line.partition("#")[0].strip()
        if found := re.match(r"cdef struct (\w+):", code):
            fields = structs[found[1]] = []
        elif found := re.match(r"(\w+) (\w+)(?:\[(\w+)\])?$", code) if fields is not None else None:
            fields.append(found.groups())
        elif found := re.match(r"([A-Z][A-Z_0-9]*) = (.+)$", code):
            constants[found[1]] = eval(found[2], dict(constants))
        elif code.startswith("cdef "):
            fields = None
    made = {}
    for name, parts in structs.items():
        kinds = [(field, (TYPES | made)[kind], size) for kind, field, size in parts]
        sized = [(field, kind * int(constants.get(size, size)) if size else kind) for field, kind, size in kinds]
        made[name] = type(name, (ctypes.Structure,), {"_fields_": sized})
    return constants, made


class Tables:
    """A segment's tables as they are at this moment."""

    def __init__(self, fd):
        constants, structs = layout()
        vars(self).update(constants)
        self.fd = fd
        at = self.region(0, structs["Header"], 1)
        for name, kind, count in [
            ("processes", "Process", self.PROCESS_COUNT),
            ("services", "Service", self.SERVICE_COUNT),
            ("queues", "RunQueue", self.QUEUE_COUNT),
            ("slots", "Slot", self.SLOT_COUNT),
            ("policies", "Policy", self.SLOT_COUNT),
            ("groups", "SlotGroup", self.GROUP_COUNT),
            ("logs", "uint64_t", self.PROCESS_COUNT * self.LOG_COUNT),
            ("extents", "Extent", self.EXTENT_COUNT),
        ]:
            vars(self)[name + "_at"] = at
            at = self.region(at, (structs | TYPES)[kind], count)
        self.header = self.read(structs["Header"], 0, 1)[0]
        self.granules_at = at
        self.rings_at = self.region(at, ctypes.c_uint32, self.header.size // self.GRANULE)
        self.processes = self.read(structs["Process"], self.processes_at, self.header.process_high)
        self.services = self.read(structs["Service"], self.services_at, self.header.service_high)
        self.queues = self.read(structs["RunQueue"], self.queues_at, self.QUEUE_COUNT)
        self.slots = self.read(structs["Slot"], self.slots_at, self.header.group_high * self.GROUP_BITS)
        self.policies = self.read(structs["Policy"], self.policies_at, len(self.slots))
        self.groups = [one.group for one in self.read(structs["SlotGroup"], self.groups_at, self.header.group_high)]
        self.extents = self.read(structs["Extent"], self.extents_at, self.header.extent_high)

    def region(self, at, kind, count):
        return (at + ctypes.sizeof(kind) * count + self.PAGE - 1) // self.PAGE * self.PAGE

    def read(self, kind, at, count):
        return list((kind * count).from_buffer_copy(os.pread(self.fd, ctypes.sizeof(kind) * count, at))) if count else []

    def numbers(self, at, count):
        """Return so many 64-bit words."""
        return self.read(ctypes.c_uint64, at, count)

    # ---- what lies where ---------------------------------------------------------------------------------------------

    def status(self, slot):
        return slot.state & 0xF

    def data_at(self, index, block):
        return block or self.slots_at + index * ctypes.sizeof(type(self.slots[0])) + type(self.slots[0]).data.offset

    def edges(self, slot):
        """Return the numbers of the slots that a task has a reference to."""
        if not slot.dependencies:
            return []
        inputs, edge = (layout()[1][name] for name in ("Dependencies", "DependencyEdge"))
        head = self.read(inputs, slot.dependencies, 1)[0]
        edges = self.read(edge, slot.dependencies + ctypes.sizeof(inputs), head.count)
        return [one.dependency for one in edges if one.dependency != self.NO_DEPENDENCY]

    def halves(self):
        """Yield (index, block, kind) of every payload and result."""
        for index, slot in enumerate(self.slots):
            if self.status(slot) != self.FREE:
                yield index, slot.payload, slot.payload_kind
                yield index, slot.result, slot.result_kind

    def kept_blocks(self):
        """Yield the blocks that lie in no half of a slot."""
        for slot in self.slots:
            if self.status(slot) != self.FREE:
                yield from (slot.dependencies, slot.waits_for & ~ANY if slot.waits_for & ANY else 0)
        yield from (service.blob for service in self.services if service.state != self.SERVICE_FREE)
        yield from (queue.error for queue in self.queues)
        yield self.header.setup

    def references(self):
        """Yield the offsets of the extents that halves of slots count as theirs, one for each reference."""
        for index, block, kind in self.halves():
            if kind & self.KIND_LINKED and kind & self.KIND_HANDLES:
                count = self.numbers(self.data_at(index, block), 1)[0]
                yield from self.numbers(self.data_at(index, block) + 8, count)
            if kind & self.KIND_LINKED and kind & self.KIND_EXTENT:
                yield block

    def slab_at(self, offset):
        """Return the slab that a block lies in; None if it is an extent of its own."""
        return next(
            (one for one in self.extents if one.kind == self.EXTENT_SLAB and 0 <= offset - one.offset < one.size), None
        )

    def empty_slab(self, extent):
        """Return the bits of its group that count as allocated for good."""
        blocks = min(self.GROUP_BITS, max(4, (1 << 17) // extent.block_size))
        return MEMBERS & ~((1 << blocks) - 1)

    def chain(self, first, following):
        """Return the numbers on a list whose links are one more than a number."""
        found = []
        while first and len(found) <= self.EXTENT_COUNT:
            found.append(first - 1)
            first = following(first - 1)
        return found


# ---- what is wrong --------------------------------------------------------------------------------------------------


def faults(runtime):
    """Return what is wrong in a segment in which nothing goes on, in words."""
    tables = Tables(runtime.fd)
    parts = (notes, edges, slots, holds, slot_groups, blocks, extents, lists, places)
    return [fault for part in parts for fault in part(tables)] + list(sums(tables, runtime.statistics()["bytes"]))


def notes(tables):
    driver, header = tables.processes[tables.DRIVER_INDEX], tables.header
    yield from (f"the driver's {name} is {getattr(driver, name)}" for name in NOTES if getattr(driver, name))
    for index, process in enumerate(tables.processes):
        if process.state == tables.PROCESS_FREE or index == tables.ZYGOTE_INDEX:
            yield from (f"entry {index} has its {name} still" for name in HANDS if getattr(process, name))
    if header.lock_holder:
        yield f"process {header.lock_holder - 1} has the lock"
    if header.redo.op:
        yield f"references are being counted: {header.redo.op}"


def edges(tables):
    """Check the last entries of tables that are never full: a process that takes -1 for a number writes there."""
    for name in ("slots", "policies", "groups", "logs", "extents", "granules"):
        if any(os.pread(tables.fd, BEFORE, vars(tables)[name + "_at"] - BEFORE)):
            yield f"a process has written before the {name}"


def slots(tables):
    for index, slot in enumerate(tables.slots):
        taken = tables.groups[index // tables.GROUP_BITS].used >> index % tables.GROUP_BITS & 1
        status = tables.status(slot)
        if taken and status == tables.FREE:
            yield f"slot {index} is allocated, and no process's"
        if not taken and status != tables.FREE:
            yield f"slot {index} is not taken, and its status is {status}"
        if status == tables.FREE and (rest := [name for name in REST if getattr(slot, name)]):
            yield f"slot {index} is free and has its {', '.join(rest)} still"
        if status != tables.FREE and slot.service == tables.NO_SERVICE and slot.queue:
            yield f"slot {index} is no call's and stands in queue {slot.queue}"
        if status >= tables.DONE and (slot.payload or slot.payload_kind):
            yield f"slot {index} is finished and has its arguments still"
        told = slot.flags & tables.CALL_KEPT and tables.policies[index].history  # of the attempts before
        begun = slot.started or slot.waits_for or ((slot.result or slot.result_kind) and not told)
        if status in (tables.WAITING, tables.READY) and begun:
            yield f"slot {index} has not begun and has a result, or is said to have begun"


def holds(tables):
    counts = collections.Counter(index for slot in tables.slots if tables.status(slot) for index in tables.edges(slot))
    for index, slot in enumerate(tables.slots):
        status = tables.status(slot)
        if status == tables.FREE:
            continue
        if slot.refs & tables.REF_COUNT != counts[index]:
            yield f"slot {index} counts {slot.refs & tables.REF_COUNT} dependents, and has {counts[index]}"
        if bool(slot.refs & tables.REF_RUN) != (status < tables.DONE) or slot.refs & tables.REF_PENDING or not slot.refs:
            yield f"slot {index} of status {status} has the references {slot.refs:#x}"
        if (slot.waiters == tables.WAITERS_CLOSED) != (status >= tables.DONE):
            yield f"slot {index} of status {status} has the waiters {slot.waiters:#x}"


def slot_groups(tables):
    free = tables.chain(tables.header.free_groups, lambda number: tables.groups[number].next)
    yield from (f"group {number} is on the list of free ones twice" for number in {n for n in free if free.count(n) > 1})
    for number, group in enumerate(tables.groups):
        if (group.owner == 0) != (number in free):
            yield f"group {number} of the owner {group.owner} is {'' if number in free else 'not '}on the list of free ones"
        if group.owner and not group.used & (MEMBERS | CURRENT):
            yield f"group {number} is empty and was not given back"
        if not group.owner and group.used != CLAIMED:
            yield f"group {number} is free and has the word {group.used:#x}"


def blocks_in_use(runtime):
    return len(taken_blocks(Tables(runtime.fd)))


def taken_blocks(tables):
    """Return the offsets of the blocks that are allocated in slabs."""
    taken = set()
    for extent in tables.extents:
        if extent.kind == tables.EXTENT_SLAB:
            used = extent.group.used & MEMBERS & ~tables.empty_slab(extent)
            taken.update(extent.offset + bit * extent.block_size for bit in range(tables.GROUP_BITS) if used >> bit & 1)
    return taken


def blocks(tables):
    named = collections.Counter(block for _, block, kind in tables.halves() if block and not kind & tables.KIND_EXTENT)
    named.update(block for block in tables.kept_blocks() if block and tables.slab_at(block))
    yield from (f"block {block:#x} has {count} places" for block, count in named.items() if count > 1)
    taken = taken_blocks(tables)
    for number, extent in enumerate(tables.extents):
        if extent.kind == tables.EXTENT_SLAB and extent.group.used & ~CLAIMED == tables.empty_slab(extent):
            yield f"slab {number} is empty and was not given back"
    yield from (f"block {block:#x} is allocated, and has no place" for block in taken - named.keys())
    yield from (f"block {block:#x} has a place, and is not allocated" for block in named.keys() - taken)


def extents(tables):
    refs = collections.Counter(tables.references())
    refs.update(block for block in tables.kept_blocks() if block and not tables.slab_at(block))
    size = ctypes.sizeof(layout()[1]["Extent"])
    if any(os.pread(tables.fd, size, tables.extents_at + 0xFFFFFFFF * size)):  # where that of the number 0 - 1 would lie
        yield "a process took the block 0 for one"
    live = sum(1 << number for number, process in enumerate(tables.processes) if process.state != tables.PROCESS_FREE)
    for number, extent in enumerate(tables.extents):
        if extent.kind == tables.EXTENT_LEAVING:
            yield f"extent {number} is being emptied"
        if extent.kind != tables.EXTENT_VALUE:
            if refs[extent.offset]:
                yield f"extent {number} of the kind {extent.kind} is referred to"
            continue
        held = sum(word << 64 * at for at, word in enumerate(extent.held))
        if extent.refs != refs[extent.offset]:
            yield f"extent {number} counts {extent.refs} references, and has {refs[extent.offset]}"
        if extent.holders != held.bit_count():
            yield f"extent {number} counts {extent.holders} holders, and has {held.bit_count()}"
        if not extent.refs and not extent.holders:
            yield f"extent {number} is in use without a reference or holder"
        if held & ~live:
            yield f"extent {number} is held by a process that is none: {held:#x}"


def is_written(fd, at):
    """Return whether a file has data from an offset on."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA) >= at
    except OSError:
        return False


def lists(tables):
    """Yield what is wrong with the lists of free extents, each on one list, and with the sums of bytes."""
    header = tables.header
    if tables.extents and is_written(tables.fd, header.arena_next):
        yield "a process has written behind the arena's end"
    by_kind = collections.defaultdict(list)
    for number, extent in enumerate(tables.extents):
        by_kind[extent.kind].append(number)
    for kind, heads in (tables.EXTENT_WARM, header.warm_extents), (tables.EXTENT_COLD, header.cold_extents):
        listed = [
            number for head in heads for number in tables.chain(head, lambda number: tables.extents[number].group.next)
        ]
        if sorted(listed) != by_kind[kind]:
            yield f"extents of kind {kind} are {by_kind[kind]}, and {sorted(listed)} are listed"
        for head in heads:
            sizes = {tables.extents[number].size for number in tables.chain(head, lambda n: tables.extents[n].group.next)}
            if len(sizes) > 1:
                yield f"extents of {sorted(sizes)} bytes stand on one list"
    sizes = {kind: sum(tables.extents[number].size for number in numbers) for kind, numbers in by_kind.items()}
    used = sizes.get(tables.EXTENT_VALUE, 0) + sizes.get(tables.EXTENT_SLAB, 0)
    if header.live_bytes != used:
        yield f"{header.live_bytes} bytes are said to be in use, and {used} are"
    if header.cached_bytes != sizes.get(tables.EXTENT_WARM, 0):
        yield f"{header.cached_bytes} bytes are said to be kept, and {sizes.get(tables.EXTENT_WARM, 0)} are"
    if tables.extents and header.arena_next != tables.extents[-1].offset + tables.extents[-1].size:
        yield f"the arena's end is said to be {header.arena_next:#x}"
    with contextlib.suppress(OSError):  # there is nothing
        yield f"something was written behind the arena's end, at {os.lseek(tables.fd, header.arena_next, os.SEEK_DATA):#x}"


def sums(tables, counted):
    values = sum(extent.size for extent in tables.extents if extent.kind == tables.EXTENT_VALUE)
    slabs = [extent for extent in tables.extents if extent.kind == tables.EXTENT_SLAB]
    taken = [(extent.group.used & MEMBERS & ~tables.empty_slab(extent)).bit_count() for extent in slabs]
    blocks = sum(count * extent.block_size for count, extent in zip(taken, slabs, strict=True))
    if counted != values + blocks:
        yield f"{counted} bytes are counted as in use, and {values} of values and {blocks} of blocks are"


def places(tables):
    """Yield what is wrong with permits, spinning tokens, and counts of the services to load ahead."""
    header = tables.header
    live = {number for number, process in enumerate(tables.processes) if process.state != tables.PROCESS_FREE}
    spinning = sum(tables.processes[number].spinning for number in live)
    if header.spinners != spinning:
        yield f"{header.spinners} processes are said to spin, and {spinning} do"
    if header.seeker and header.seeker - 1 not in live:
        yield f"process {header.seeker - 1} is said to look for tasks"
    left = sum(service.warm_left for service in tables.services if service.state == tables.SERVICE_OPEN)
    if header.warm_left != left:
        yield f"{header.warm_left} services are said to be loaded ahead, and {left} are"
    for number, service in enumerate(tables.services):
        if service.state == tables.SERVICE_FREE and (service.queue or service.blob):
            yield f"service {number} is free and has its queue or blob still"
    for number, queue in enumerate(tables.queues):
        if queue.state == tables.QUEUE_FREE and (queue.process or queue.error):
            yield f"queue {number} is free and has its process or error still"
        if queue.state != tables.QUEUE_FREE and any(
            permit and permit - 1 not in live for permit in queue.permits[: queue.limit]
        ):
            yield f"a process that is none has a permit at queue {number}"
