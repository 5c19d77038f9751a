"""Groups of slots and slabs of blocks: freed members are taken again, each process from groups of its own.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import audit
import pytest
from actors import GROUP, HEAD, SLAB_BYTES, Actor
from flame_fast.kernels.runtime import serialization
from gates import same
from runtime_harness import Alone
from words import Words, slot_of

from flame_fast import StoreFullError

# ---- members of groups -----------------------------------------------------------------------------------------------


def test_slots_given_back_here_and_there_are_taken_before_new_ones(alone):
    """No half-empty group is left behind, not even one that the process had before and has again."""
    for _ in range(2):
        values = [alone.runtime.put(number) for number in range(8 * GROUP)]
        del values
    values = [alone.runtime.put(number) for number in range(8 * GROUP)]
    highest = max(map(slot_of, values))
    for round_ in range(2):
        del values[round_::2]
        values += [alone.runtime.put(number) for number in range(8 * GROUP - len(values))]
        assert max(map(slot_of, values)) <= highest + GROUP


def test_groups_that_another_process_has_by_now_are_not_looked_at_for_ever(family):
    """A process looks at few of those that it had before it takes a new one."""
    values = [family.runtime.put(number) for number in range(200 * GROUP)]
    del values
    other = Actor(family, lambda: [family.runtime.put(number) for number in range(200 * GROUP)])
    values = [family.runtime.put(number) for number in range(8 * GROUP)]
    for round_ in range(100):
        del values[round_ % 2 :: 2]
        values += [family.runtime.put(number) for number in range(8 * GROUP - len(values))]
    assert len({slot_of(value) // GROUP for value in values}) <= 3 * 8
    other.end()


def test_blocks_given_back_here_and_there_are_taken_before_new_ones(alone):
    values = [alone.runtime.put(b"x" * 1000) for _ in range(8 * GROUP)]
    room = alone.room()
    for round_ in range(2):
        del values[round_::2]
        values += [alone.runtime.put(b"y" * 1000) for _ in range(8 * GROUP - len(values))]
        assert alone.room() >= room - SLAB_BYTES


def test_a_full_store_gives_out_each_block_that_comes_back():
    """Even a block of a slab that is as good as full, or that had blocks of another size before."""
    alone = Alone(limit=15 << 16)
    for size, other in (1000, 850), (850, 1000), (1000, 850), (1000, 850):
        values = []
        with pytest.raises(StoreFullError):
            while True:
                values.append(alone.runtime.put(bytes([len(values) & 0xFF]) * size))
        assert len(values) > 8 * GROUP
        for tries, at in enumerate([*range(0, len(values), GROUP), *[len(values) // 2] * 15]):
            values[at] = None
            with pytest.raises(StoreFullError):
                alone.runtime.put(b"z" * other)
            values[at] = alone.runtime.put(bytes([at & 0xFF]) * size)
            for _ in range(1 + tries % 15):  # each look goes on where the last one ended
                with pytest.raises(StoreFullError):
                    alone.runtime.put(b"z" * size)
        for number, value in enumerate(values):
            assert value.get() == bytes([number & 0xFF]) * size
        alone.check()
        del values, value
        alone.check()
    alone.close()


def test_a_slab_that_had_other_blocks_before_gives_out_each_that_comes_back():
    """Blocks of both sizes are cut from slabs of one size."""
    alone = Alone(limit=15 << 16)
    for size in (4000, 6000, 4000):
        values = []
        with pytest.raises(StoreFullError):
            while True:
                values.append(alone.runtime.put(b"x" * size))
        assert len(values) > 100
        for at in range(0, len(values), 7):
            values[at] = None
            values[at] = alone.runtime.put(b"y" * size)
        del values
        alone.check()
    alone.close()


def test_a_process_takes_as_many_groups_as_it_likes(alone):
    """The process notes each of them."""
    for _ in range(2):
        values = [alone.runtime.put(number) for number in range(10_000)]
        del values[::2]
        values += [alone.runtime.put(number) for number in range(1, 10_000, 2)]
        assert [value.get() for value in values] == list(range(1, 10_000, 2)) * 2
        del values
    alone.check()


#: Of blocks, from 128 bytes to SHARED_BYTES; a value has a head of nine bytes.
BLOCK_SIZES = sorted({-(-(2**exponent * (4 + step) // 4) // 64) * 64 for exponent in range(7, 15) for step in range(1, 5)})


def test_blocks_of_all_sizes_overlap_nothing(alone):
    """Slabs of few large blocks, of many small ones, and slabs that had other blocks before."""
    before = alone.in_use()
    for sizes in BLOCK_SIZES, BLOCK_SIZES[::-1]:
        values = []
        for size in sizes:
            count = 3 * min(GROUP, (1 << 17) // size)
            values += [(alone.runtime.put(bytes([at % 251]) * (size - HEAD)), at % 251, size) for at in range(count)]
            del values[:: 2 if size % 128 else 3]
        for value, byte, size in values:
            assert value.get() == bytes([byte]) * (size - HEAD)
        alone.check()
        del values, value
        assert alone.in_use() == before


def test_a_slab_that_has_become_one_of_another_size_is_not_taken_from(alone):
    """Slabs of both sizes have as many bytes. The process had it on its list of slabs for the first size."""
    first, second = 1000, 850
    for size, other in (first, second), (second, first):
        values = [alone.runtime.put(b"x" * size) for _ in range(5 * GROUP)]
        del values
        others = [alone.runtime.put(b"y" * other) for _ in range(5 * GROUP)]
        del others[::2]
        values = [alone.runtime.put(b"z" * size) for _ in range(3 * GROUP)]
        assert {value.get() for value in others} == {b"y" * other}
        assert {value.get() for value in values} == {b"z" * size}
        alone.check()
        del values, others


def test_what_one_process_leaves_empty_another_may_have(family):
    """A relative's end empties its groups and slabs: as much as there was fits in once more."""

    def live():
        values = [family.runtime.put(b"x" * 1000) for _ in range(20 * GROUP)]
        assert max(map(slot_of, values)) < 23 * GROUP

    for _ in range(4):
        assert family.recover_process(family.fork(live)) == 0
        family.check()
        assert family.in_use() == (0, 0)


def test_a_forked_process_takes_from_groups_of_its_own(family):
    """It does not allocate from those of its parent."""
    words, value = Words(family.runtime), family.runtime.put(b"x" * 1000)

    def live():
        mine = family.runtime.put(b"y" * 1000)
        block = words.get("slots", slot_of(mine), "result")
        (slab,) = [one for one in words.extents() if 0 <= block - one.offset < one.size]
        owners = {slab.group.owner, words.get("groups", slot_of(mine) // GROUP, "group.owner")}
        assert owners == {family.runtime.index + 1}

    assert family.recover_process(family.fork(live)) == 0
    family.check()
    assert value.get() == b"x" * 1000


def test_groups_emptied_while_another_is_in_use_are_free_for_all(family):
    """The last member of a group that its owner does not take from frees the group, whichever process drops it."""
    values = [family.runtime.put(b"x" * 1000) for _ in range(4 * GROUP)]
    del values[: 3 * GROUP]
    family.check()

    def live():
        assert slot_of(family.runtime.put(b"y" * 1000)) < 3 * GROUP

    assert family.recover_process(family.fork(live)) == 0
    family.check()


def owners(words, values):
    """Return the processes whose groups and slabs some values lie in."""
    tables = audit.Tables(words.fd)
    slots = [slot_of(value) for value in values]
    slabs = [tables.slab_at(tables.slots[slot].result) for slot in slots]
    return {tables.groups[slot // GROUP].owner - 1 for slot in slots} | {slab.group.owner - 1 for slab in slabs}


def test_a_process_takes_only_from_groups_of_its_own(family):
    """A group that it had before and left empty is another process's by now, which has half of it free."""
    words = Words(family.runtime)
    values = [family.runtime.put(b"x" * 1000) for _ in range(4 * GROUP)]
    del values

    def fill():
        kept = [family.runtime.put(b"y" * 1000) for _ in range(6 * GROUP)]
        assert min(map(slot_of, kept)) < 3 * GROUP
        del kept[::2]
        return kept

    other = Actor(family, fill)
    values = [family.runtime.put(b"z" * 1000) for _ in range(3 * GROUP)]
    assert owners(words, values) == {words.tables.DRIVER_INDEX}
    assert {words.get("slots", slot_of(value), "creator") for value in values} == {words.tables.DRIVER_INDEX}
    family.check()
    other.end()


def test_the_group_of_a_dead_process_stays_for_as_long_as_a_call_of_it_lies_there(family):
    service, promise = family.service(same), family.runtime.promise()

    def live():
        for _ in range(GROUP):
            family.call(service, promise, b"x" * 1000)

    assert family.recover_process(family.fork(live)) == 0
    family.check()
    values = [family.runtime.put(b"y" * 1000) for _ in range(2 * GROUP)]
    family.check()
    family.runtime.fulfil(promise, None)
    family.fork_worker()
    family.wait_until_idle()
    assert {value.get() for value in values} == {b"y" * 1000}


# ---- slabs that change owners ----------------------------------------------------------------------------------------


def test_a_slab_that_was_given_back_and_taken_again_is_taken_from_again_when_it_has_room(alone):
    """The blocks are the smallest, in the first of a process's pools: those of tasks with one dependency."""
    service, words, most = alone.service(same), Words(alone.runtime), 62

    def wait(count):
        promise = alone.runtime.promise()
        return promise, [alone.call(service, promise) for _ in range(count)]

    def let_go(promise, tasks):
        tasks.clear()
        alone.runtime.fulfil(promise, None, serialization._parts(b"", ""))  # short: it takes no block of its own

    before = wait(most - 1)  # the service has a block, too
    first, second = wait(most), wait(most)
    slabs = words.get("header", 0, "extent_high")
    let_go(*first)  # the slab is free, and still listed as this process's own
    third, fourth, fifth = wait(2), wait(most - 2), wait(most)  # it is taken again, and one more
    assert words.get("header", 0, "extent_high") == slabs + 1
    let_go(*fourth)
    sixth = wait(most - 2)
    assert words.get("header", 0, "extent_high") == slabs + 1
    for batch in (before, second, third, fifth, sixth):
        let_go(*batch)
