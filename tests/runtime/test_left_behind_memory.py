"""Blocks and extents of a dead process: a recovery frees what has no place, and keeps what has one."""

from __future__ import annotations

import mmap
import os
import signal

import numpy as np
import pytest
from actors import rung
from audit import ANY, CLAIMED
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, Log, in_child, same
from leftovers import GROUP, LARGE, LARGER, die_at, extents_of, kilobytes, look_whether_all_is_back
from words import Words, slot_of

from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["dead_processes"]


# ---- blocks that a dead process named --------------------------------------------------------------------------------


def of_a_value(family):
    value = family.runtime.put(kilobytes(1))
    return value, ("slots", slot_of(value), "result")


def of_a_call(family):
    call = family.call(family.service(len), kilobytes(1))
    return call, ("slots", slot_of(call), "payload")


def of_inputs(family):
    promise = family.runtime.promise()
    call = family.call(family.service(same), promise)
    return (promise, call), ("slots", slot_of(call), "dependencies")


def of_a_service(family):
    return None, ("services", family.service(same)[0], "blob")


def of_a_dead_instance(family):
    """Keep the instance's error for later callers."""
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    instance.kill()
    family.recover_process(instance, LookupError("died"))
    return log, ("queues", log[2], "error")


def of_all(family):
    family.runtime.set_setup(kilobytes(1))
    return None, ("header", 0, "setup")


@pytest.mark.parametrize("named", [of_a_value, of_a_call, of_inputs, of_a_service, of_a_dead_instance, of_all])
def test_a_block_that_a_dead_process_had_put_down_stays(family, dead, named):
    words = Words(family.runtime)
    kept, place = named(family)
    assert words.get(*place)
    words.set("processes", dead.index, "taking", words.get(*place))
    family.recover_process(dead)
    family.check()
    del kept
    if named is of_a_call:
        family.fork_worker()
        family.wait_until_idle()


# ---- memory of a dead process ----------------------------------------------------------------------------------------


def test_extents_that_a_dead_process_held_are_free_unless_another_holds_them(family, dead):
    """The first and last extents are values without any other trace; others were just being emptied, or allocated."""
    words, me, runtime = Words(family.runtime), family.runtime.index, family.runtime
    tables, rest = words.tables, [0] * (words.tables.HELD_WORDS - 1)
    mine, its, both = 1 << me, 1 << dead.index, 1 << me | 1 << dead.index
    made = [runtime.put(LARGER) for _ in range(3)]
    values = [runtime.put(LARGE) for _ in range(4)]
    numbers = extents_of(words, "EXTENT_VALUE")[3:]
    cold = runtime.put(b"x" * 200_000)
    made.append(runtime.put(LARGER))
    del cold
    family.supervisor.trim()
    del made

    def hold(number, bits):
        words.set("extents", number, "held", [bits, *rest])
        words.set("extents", number, "holders", bits.bit_count())

    (cold,), (first, leaving, mine_to_empty, last) = extents_of(words, "EXTENT_COLD"), extents_of(words, "EXTENT_WARM")
    assert (first, last) == (0, words.get("header", 0, "extent_high") - 1)
    words.set("header", 0, "warm_extents", [0] * tables.EXTENT_CLASSES)
    words.set("header", 0, "cached_bytes", 0)
    for number, kind in [(first, "VALUE"), (last, "VALUE"), (leaving, "LEAVING"), (mine_to_empty, "LEAVING")]:
        words.set("extents", number, "kind", getattr(tables, f"EXTENT_{kind}"))
    words.add("header", 0, "live_bytes", 2 * words.get("extents", first, "size"))
    for number, owner in [(leaving, dead.index), (mine_to_empty, me)]:
        words.set("extents", number, "group.owner", owner + 1)
    for number, bits in zip([first, last, cold, *numbers], [its, its, its, its, both, mine, 0], strict=True):
        hold(number, bits)
    words.set("extents", cold, "held", [its, 1, *rest[1:]])  # two that died when they were taking it
    family.recover_process(dead)
    assert extents_of(words, "EXTENT_LEAVING") == [mine_to_empty]
    assert extents_of(words, "EXTENT_WARM") == [first, last]
    assert extents_of(words, "EXTENT_COLD") == sorted([cold, leaving])
    assert [words.get("extents", number, "held")[0] for number in numbers] == [0, mine, mine, 0]
    for number in numbers:
        hold(number, 0)
    words.set("extents", mine_to_empty, "group.owner", dead.index + 1)
    family.supervisor.recover_process(dead.index, serialization.dump_error(LookupError()))  # once more
    assert [value.get() for value in values] == [LARGE] * 4
    family.check()
    again = runtime.put(b"x" * 200_000)
    assert words.get("extents", cold, "kind") == tables.EXTENT_VALUE
    family.check()
    del again


@pytest.mark.parametrize("when", ["looked at", "claimed"])
def test_a_group_that_its_owner_takes_from_again_when_it_has_just_been_looked_at_stays_its_own(family, dead, when):
    """The recovery finds the group empty; its owner allocates from it before the recovery has the lock, or soon after."""
    words, me = Words(family.runtime), family.runtime.index
    kept = [family.runtime.put(None) for _ in range(2 * GROUP)]
    kept.clear()
    group = words.get("header", 0, "free_groups") - 1
    words.set("header", 0, "free_groups", 0)
    words.set("groups", group, "group.owner", me + 1)
    words.set("groups", group, "group.used", 0)

    def take():
        words.set("groups", group, "group.used", CURRENT)

    def live():
        lock, word = words.place("header", 0, "lock")[0], words.place("groups", group, "group.used")[0]
        if when == "looked at":
            words.at_touches((word, lambda: None), (lock, take))
        else:
            words.at_touches((word, take), protection=mmap.PROT_READ)
        family.supervisor.recover_process(dead.index, serialization.dump_error(LookupError()))

    assert family.recover_process(family.fork(live)) == 0
    assert words.get("groups", group, "group.owner") == me + 1
    assert words.get("groups", group, "group.used") == CURRENT
    words.set("groups", group, "group.used", CLAIMED)
    words.die_in_the_lock()
    family.runtime.put(LARGE)
    family.check()


def test_a_member_that_is_freed_when_its_group_s_owner_is_recovered_is_freed(family, dead):
    """The slab's word ends a page of the table: all else that the recovery writes there lies on the next page."""
    words, number = Words(family.runtime), 105
    kept = [family.runtime.put(LARGE) for _ in range(number + 1)]
    kept.clear()
    word, owner = (words.place("extents", number, name)[0] for name in ("group.used", "group.owner"))
    assert word // mmap.PAGESIZE < owner // mmap.PAGESIZE
    words.die_in_the_lock(lambda: be_slab(words, number, dead.index + 1, CURRENT | 0b11))
    family.runtime.put(LARGE)

    def live():
        give_back = (word, lambda: words.set("extents", number, "group.used", CURRENT | 0b10))
        words.at_touches(give_back, protection=mmap.PROT_READ)
        family.supervisor.recover_process(dead.index, serialization.dump_error(LookupError()))

    assert family.recover_process(family.fork(live)) == 0
    assert words.get("extents", number, "group.owner") == words.tables.ORPHAN
    assert words.get("extents", number, "group.used") == 0b10
    words.die_in_the_lock(lambda: words.set("extents", number, "group.used", CLAIMED))
    family.runtime.put(LARGE)
    family.check()


def be_slab(words, number, owner, used):
    words.set("extents", number, "kind", words.tables.EXTENT_SLAB)
    words.set("extents", number, "block_size", 600)
    words.set("extents", number, "group.owner", owner)
    words.set("extents", number, "group.used", used)


@pytest.mark.parametrize("cached", [0, 1 << 25])
@pytest.mark.parametrize("held, refs, is_put_down", [(1, 0, False), (1, 1, False), (0, 1, False), (0, 1, True)])
def test_a_large_block_that_a_dead_process_had_taken_comes_back_unless_it_has_its_place(
    family, dead, held, refs, is_put_down, cached
):
    """The dead process held the block and then named it; or it counted a reference; or dropped its hold; or put it down."""
    words, service = Words(family.runtime), family.service(LARGE)
    words.set("header", 0, "cache_limit", cached)
    (number,) = extents_of(words, "EXTENT_VALUE")
    words.set("processes", dead.index, "taking", words.get("services", service[0], "blob"))
    words.set("extents", number, "refs", refs)
    words.set("extents", number, "held", [held << dead.index, *[0] * (words.tables.HELD_WORDS - 1)])
    words.set("extents", number, "holders", held)
    if not is_put_down:
        words.set("services", service[0], "blob", 0)
    family.recover_process(dead)
    assert [words.get("extents", number, name) for name in ("refs", "holders")] == [int(is_put_down), 0]
    assert extents_of(words, "EXTENT_VALUE") == [number][: int(is_put_down)]
    family.check()


@pytest.mark.parametrize("size", [10, 1000, 40_000])
def test_a_block_for_which_a_process_finds_no_place_before_its_death_comes_back(family, size):
    """The process dies when it reserves the service's entry."""

    def live():
        yield
        family.service(b"x" * size)

    words = Words(family.runtime)
    dead = die_at(family, words, words.place("services", 0, "state")[0], live)
    assert words.get("processes", dead.index, "taking")
    look_whether_all_is_back(family, dead)


def test_what_workers_are_told_has_its_place_before_its_block_is_published(family):
    """The process dies when it is about to publish the block: the block stays."""
    words = Words(family.runtime)

    def live():
        process = words.place("processes", family.runtime.index, "taking")[0]
        words.at_touches(
            (process, lambda: None),  # names the block
            (words.place("header", 0, "setup")[0], lambda: None),
            (process, lambda: os.kill(os.getpid(), signal.SIGKILL)),
        )
        family.runtime.set_setup(kilobytes(1))

    dead = family.fork(live)
    assert dead.has_ended(PATIENCE_S)
    assert words.get("processes", dead.index, "taking") == words.get("header", 0, "setup") != 0
    family.recover_process(dead)
    family.check()
    assert family.runtime.get_setup() == kilobytes(1)


def test_a_block_goes_back_once_that_a_dead_process_had_just_put_down_where_all_goes_back(family):
    """The block's place is in the task that the dead process was filling."""
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()

    def live():
        call = family.call(service, family.runtime.put(1))
        os.kill(os.getpid(), signal.SIGKILL)
        return call

    relative = family.fork(live)
    assert relative.has_ended(PATIENCE_S)
    _, task = words.slots_of(relative.index)
    words.set_entries(0, 0, [words.tables.SLOT_COUNT])
    words.set("queues", 0, "head", 1)
    words.set_state(task, words.tables.FREE, 0)
    words.set("processes", relative.index, "building", task + 1)
    words.set("processes", relative.index, "taking", words.get("slots", task, "dependencies"))
    statistics = family.runtime.statistics()
    look_whether_all_is_back(family, relative, before)
    if "blocks_freed" in statistics:  # a debug build
        assert family.runtime.statistics()["blocks_freed"] == statistics["blocks_freed"] + 1


LIVING, DEAD, ORPHAN = "me", "dead", "an orphan"
CURRENT, SOME = CLAIMED >> 1, 0b101
#: Owner and word of a group, members taken or not; what becomes of them with the recovery of a process.
GROUPS = [
    ((DEAD, CURRENT), "free"),
    ((DEAD, CURRENT | SOME), (ORPHAN, SOME)),
    ((DEAD, SOME), (ORPHAN, SOME)),
    ((DEAD, CLAIMED), "free"),
    ((LIVING, CURRENT), (LIVING, CURRENT)),
    ((LIVING, CURRENT | SOME), (LIVING, CURRENT | SOME)),
    ((LIVING, SOME), (LIVING, SOME)),
    ((LIVING, 0), "free"),  # it had freed the last member
    ((LIVING, CLAIMED), "free"),
    ((ORPHAN, SOME), (ORPHAN, SOME)),
    ((ORPHAN, 0), "free"),
    ((ORPHAN, CLAIMED), "free"),
    ((None, CLAIMED), "as it was"),
    ((DEAD, 0), "free"),
]


@pytest.mark.parametrize("table", ["groups", "extents"])
def test_groups_of_a_dead_process_are_orphans_and_empty_ones_free(family, dead, table):
    """The groups are of slots, or slabs of 16 blocks; members without a block count as allocated."""
    words, runtime = Words(family.runtime), family.runtime
    tables = words.tables
    owners = {LIVING: runtime.index + 1, DEAD: dead.index + 1, ORPHAN: tables.ORPHAN, None: 0}
    if table == "groups":
        kept = [runtime.put(None) for _ in range((len(GROUPS) + 1) * GROUP)]
    else:
        kept = [runtime.put(b"x" * (1 << 17)) for _ in GROUPS]
    del kept
    empty = 0 if table == "groups" else (CURRENT - 1) & ~0xFFFF
    numbers = list(range(1, words.get("header", 0, "group_high"))) if table == "groups" else extents_of(words, "EXTENT_WARM")
    assert len(numbers) == len(GROUPS)
    if table == "groups":
        words.set("header", 0, "free_groups", 0)
    else:
        words.set("header", 0, "warm_extents", [0] * tables.EXTENT_CLASSES)
        words.set("header", 0, "cached_bytes", 0)
        words.set("header", 0, "live_bytes", len(GROUPS) << 17)
    for number, ((owner, used), _) in zip(numbers, GROUPS, strict=True):
        words.set(table, number, "group.owner", owners[owner])
        words.set(table, number, "group.used", used | empty)
        words.set(table, number, "group.next", 0)
        if table == "extents":
            words.set(table, number, "kind", tables.EXTENT_SLAB)
            words.set(table, number, "block_size", 8192)
    family.recover_process(dead)
    listed = words.get("header", 0, "free_groups") if table == "groups" else max(words.get("header", 0, "warm_extents"))
    listed = tables.chain(listed, lambda number: words.get(table, number, "group.next"))
    assert len(listed) == len(set(listed))
    names = {number: name for name, number in owners.items()}
    found = []
    for number, (_, expected) in zip(numbers, GROUPS, strict=True):
        owner, used = names[words.get(table, number, "group.owner")], words.get(table, number, "group.used") & ~empty
        found.append((owner, used) if number not in listed else "free")
        if expected == "free":
            assert (owner, used) == (None, CLAIMED)
        elif expected == "as it was":
            found[-1] = "as it was"
            assert (owner, used, number in listed) == (None, CLAIMED, False)
    assert found == [expected for _, expected in GROUPS]
    for number in numbers:
        words.set(table, number, "group.used", CLAIMED | empty)
    words.die_in_the_lock()
    runtime.put(LARGE)
    family.check()


# ---- blocks without a place ------------------------------------------------------------------------------------------


def orphan_block(words, value):
    """Take the block of a value out of its slot, and return it."""
    slot = slot_of(value)
    block = words.get("slots", slot, "result")
    words.set("slots", slot, "result", 0)
    words.set("slots", slot, "result_kind", 0)
    return block


def test_a_block_that_a_dead_process_had_taken_and_put_nowhere_comes_back(family, dead):
    words, value, other = Words(family.runtime), family.runtime.put(b"x" * 1000), family.runtime.put(b"y" * 1000)
    words.set("processes", dead.index, "taking", orphan_block(words, value))
    family.recover_process(dead)
    family.check()
    del value, other
    assert family.in_use() == (0, 0)


def test_a_block_that_tells_what_a_dead_task_waited_for_comes_back_and_the_task_fails(family, dead):
    words, service = Words(family.runtime), family.service(same)
    before = family.in_use()
    value, future = family.runtime.put(b"x" * 1000), family.call(service, 1)
    words.set("slots", slot_of(future), "waits_for", ANY | orphan_block(words, value))
    words.set("slots", slot_of(future), "started", 1)
    words.set_state(slot_of(future), words.tables.RUNNING, dead.index)
    family.recover_process(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))
    del value, future
    assert family.in_use() == before


# ---- blocks that have a place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [256, 4095])
def test_a_block_that_is_an_instance_s_error_stays(family, dead, queue):
    words, value = Words(family.runtime), family.runtime.put(kilobytes(1))
    block = orphan_block(words, value)
    words.set("header", 0, "instance_queue_high", queue + 1)
    words.set("queues", queue, "error", block)
    words.set("queues", queue, "state", words.tables.QUEUE_DEAD)
    words.set("processes", dead.index, "taking", block)
    family.recover_process(dead)
    family.check()
    words.set("slots", slot_of(value), "result", block)
    words.set("slots", slot_of(value), "result_kind", words.tables.KIND_NATIVE)
    words.set("queues", queue, "error", 0)
    words.set("queues", queue, "state", words.tables.QUEUE_FREE)


def test_a_block_that_tells_what_a_living_task_waits_for_stays(family, dead):
    words, value, promise = Words(family.runtime), family.runtime.put(kilobytes(1)), family.runtime.promise()
    block = orphan_block(words, value)
    words.set("slots", slot_of(promise), "waits_for", ANY | block)
    words.set("processes", dead.index, "taking", block)
    family.recover_process(dead)
    family.check()


# ---- the driver's memory at the end ----------------------------------------------------------------------------------


def test_at_the_end_no_pidfd_of_a_forked_child_is_kept(family):
    view, gate = family.runtime.put(np.arange(10_000.0)).get(), os.eventfd(0)
    child = in_child(lambda: os.eventfd_read(gate) and view[7] == 7)
    before = len(os.listdir("/proc/self/fd"))
    family.runtime.trim_memory()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    os.eventfd_write(gate, 1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(gate)


def test_unused_memory_goes_back_at_the_end_and_is_kept_no_more(family):
    """No process rings the bell, or writes to any other file: the bell's number may be another file's."""
    words = Words(family.runtime)
    family.call(family.service(same), 1)
    kept = family.runtime.put([np.arange(10_000.0) + number for number in range(40)])
    last = family.runtime.put(np.arange(10_000.0))
    family.runtime.put(np.arange(10_000.0))
    del last
    assert words.get("header", 0, "cached_bytes")
    assert os.pread(words.fd, 8, words.tables.rings_at) != bytes(8)
    rung(family)
    saved, other = os.dup(0), os.eventfd(0, os.EFD_NONBLOCK)
    os.dup2(other, 0)
    family.runtime.trim_memory()
    assert words.get("header", 0, "cached_bytes") == 0
    assert os.pread(words.fd, 8, words.tables.rings_at) == bytes(8)
    one = family.runtime.put(np.arange(10_000.0))
    del one
    assert words.get("header", 0, "cached_bytes") == 0
    del kept
    os.dup2(saved, 0)
    os.close(saved)
    assert words.get("header", 0, "cached_bytes")
    assert not rung(family)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(other)
    os.close(other)
