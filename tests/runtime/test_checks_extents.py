"""Extents: which one a value gets, the store's limit, what is kept warm and what goes back to the system.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

import audit
import numpy as np
import pytest
from actors import GROUP, HEAD, LARGE, MB, SLAB_BYTES, error_of, of_kind, put_extent, rung
from gates import Gate, same
from runtime_harness import Alone, Family
from words import Words, segment_at, slot_of

from flame_fast import StoreFullError

# ---- a store without memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"x" * 1000, tuple(range(10_000)), LARGE], ids=len)
def test_a_full_store_gives_out_nothing_whatever_stands_before_its_tables(value):
    """The log of finished slots of the last process lies there."""
    alone = Alone(limit=1 << 14)
    words, zeros = Words(alone.runtime), bytes(audit.BEFORE)
    for name in ("groups", "extents"):
        os.pwrite(words.fd, b"\xff" * len(zeros), vars(words.tables)[name + "_at"] - len(zeros))
    before = alone.runtime.statistics()
    with pytest.raises(StoreFullError):
        alone.runtime.put(value)
    for name in ("groups", "extents"):
        os.pwrite(words.fd, zeros, vars(words.tables)[name + "_at"] - len(zeros))
    assert alone.runtime.statistics() == before
    alone.check()
    alone.close()


# ---- extents ---------------------------------------------------------------------------------------------------------

#: Sizes of extents: four steps per doubling, in whole granules.
GRANULE = 1 << 14
STEPS = [(4 + step) * 2**exponent // 4 for exponent in range(7, 22) for step in range(4)]
EXTENT_SIZES = sorted({-(-size // GRANULE) * GRANULE for size in STEPS})


def test_a_value_has_the_smallest_extent_that_it_fits_into(alone):
    words = Words(alone.runtime)
    for size, larger in zip(EXTENT_SIZES[2:20], EXTENT_SIZES[3:], strict=False):
        values = [put_extent(alone, size), put_extent(alone, size + 1)]
        assert of_kind(words, "VALUE")[-2:] == [size, larger]
        del values
    assert of_kind(words, "VALUE") == []
    assert words.get("header", 0, "arena_next") == sum(of_kind(words, "COLD")) + words.extents()[0].offset
    alone.check()


def test_a_value_has_the_smallest_block_that_it_fits_into(alone):
    """A slab has 62 blocks, or as many as go into 128 KiB, at least 4."""
    words = Words(alone.runtime)
    sizes = [size for size in STEPS if size <= 1 << 15]
    for size, larger in zip(sizes[1:], [*sizes[2:], None], strict=True):
        for asked, expected in (size, size), (size + 1, larger):
            value = alone.runtime.put(b"x" * (asked - HEAD))
            block = words.get("slots", slot_of(value), "result")
            (extent,) = [one for one in words.extents() if 0 <= block - one.offset < one.size]
            if expected is None:
                assert extent.kind == words.tables.EXTENT_VALUE
                continue
            assert extent.kind == words.tables.EXTENT_SLAB
            assert extent.block_size == -(-expected // 64) * 64
            assert (block - extent.offset) % extent.block_size == 0
            room = extent.block_size * min(62, max(4, (1 << 17) // extent.block_size))
            assert extent.size == next(one for one in EXTENT_SIZES if one >= room)


@pytest.mark.parametrize("end", ["more addresses", "no addresses", "no numbers"])
def test_which_free_extent_a_value_gets(end):
    """A warm one, at most two sizes larger; else a cold one; else a new one; without addresses or numbers any larger one."""
    cases = [  # those that are free, sizes counted from the one that fits; which is taken; which where none can be carved
        ([], "new", "none"),
        ([("WARM", 0)], 0, 0),
        ([("WARM", 1)], 1, 1),
        ([("WARM", 2)], 2, 2),
        ([("WARM", 3)], "new", 3),
        ([("WARM", -1)], "new", "none"),
        ([("WARM", 1), ("WARM", 0)], 0, 0),
        ([("WARM", 2), ("WARM", 1)], 1, 1),
        ([("COLD", 0)], 0, 0),
        ([("COLD", 1)], "new", 1),
        ([("COLD", -1)], "new", "none"),
        ([("COLD", 0), ("WARM", 2)], 2, 2),
        ([("COLD", 0), ("WARM", 3)], 0, 0),
        ([("COLD", 4), ("WARM", 5)], "new", 4),
        ([("COLD", 5), ("WARM", 4)], "new", 4),
    ]
    for free, taken, taken_at_the_end in cases:
        family = Family()
        take_one(family, free, taken if end == "more addresses" else taken_at_the_end, end)
        family.close()


def take_one(family, free, expected, end):
    words, at = Words(family.runtime), EXTENT_SIZES.index(1 << 17)
    for kind in ("COLD", "WARM"):
        made = [put_extent(family, EXTENT_SIZES[at + off]) for which, off in free if which == kind]
        del made
        if kind == "COLD":
            family.supervisor.trim()
        assert sorted(of_kind(words, kind)) == sorted(EXTENT_SIZES[at + off] for which, off in free if which == kind)
    high = words.get("header", 0, "extent_high")
    field, bound = {
        "more addresses": ("magic", words.get("header", 0, "magic")),
        "no addresses": ("arena_next", words.get("header", 0, "size") - (1 << 17)),
        "no numbers": ("extent_high", words.tables.EXTENT_COUNT),
    }[end]
    before = words.get("header", 0, field)
    words.set("header", 0, field, bound)
    try:
        value = put_extent(family, 1 << 17)
    except StoreFullError:
        value, found = None, "none"
    words.set("header", 0, field, before)
    if value is not None:
        (size,) = of_kind(words, "VALUE")
        found = EXTENT_SIZES.index(size) - at if words.get("header", 0, "extent_high") == high else "new"
        assert value.get() == b"x" * (1 << 17)
    assert found == expected, free
    family.check()


def test_the_last_addresses_are_used(family):
    words, size = Words(family.runtime), 1 << 17
    before, end = words.get("header", 0, "size"), words.get("header", 0, "arena_next")
    words.set("header", 0, "size", end + size)
    value = put_extent(family, size)
    words.set("header", 0, "size", before)
    assert words.get("header", 0, "arena_next") == end + size
    assert value.get() == b"x" * size


def test_the_limit_is_for_whole_extents_and_exact(family):
    words, size = Words(family.runtime), 1 << 17
    for held in (0, 2):
        values = [put_extent(family, size) for _ in range(held)]
        words.set("header", 0, "limit", (held + 1) * size - 1)
        with pytest.raises(StoreFullError):
            put_extent(family, size)
        words.set("header", 0, "limit", (held + 1) * size)
        values.append(put_extent(family, size))
        with pytest.raises(StoreFullError) as caught:
            family.runtime.put(b"x" * 40_000)
        assert (caught.value.free, caught.value.limit) == (0, (held + 1) * size)
        words.set("header", 0, "limit", 1 << 26)
        assert family.runtime.statistics()["peak_bytes"] == (held + 1) * size
        del values
    put_extent(family, size)
    assert family.runtime.statistics()["peak_bytes"] == 3 * size
    family.check()


def test_what_is_not_kept_goes_back_to_the_system(family):
    """The bound is exact to the byte; beyond it an extent's pages go, and the next value finds zeros."""
    words, size = Words(family.runtime), 1 << 17
    values = [put_extent(family, size) for _ in range(3)]
    words.set("header", 0, "cache_limit", 2 * size)
    family.check()  # an audit of all tables has them take pages
    pages = os.fstat(family.runtime.fd).st_blocks
    for kept, kinds in (2, [3, 3, 1]), (1, [3, 1, 1]), (0, [0, 1, 1]):
        del values[kept]
        assert [extent.kind for extent in words.extents()] == kinds
        family.check()
    assert os.fstat(family.runtime.fd).st_blocks <= pages - size // 512
    family.supervisor.trim()
    assert os.fstat(family.runtime.fd).st_blocks <= pages - 3 * size // 512
    assert family.runtime.statistics()["cached_bytes"] == 0
    family.check()


def test_growth_is_looked_into_anew_once_pages_have_gone_back(family):
    words, size = Words(family.runtime), 1 << 17
    step = words.get("header", 0, "checked_bytes")  # of a look at the memory
    kept = put_extent(family, 2 * size)
    words.set("header", 0, "checked_bytes", 1 << 40)
    put_extent(family, size)
    assert words.get("header", 0, "checked_bytes") == 1 << 40
    family.supervisor.trim()
    assert words.get("header", 0, "checked_bytes") == 2 * size + step
    words.set("header", 0, "checked_bytes", 3 * size)
    put_extent(family, size)
    family.supervisor.trim()
    assert words.get("header", 0, "checked_bytes") == 3 * size
    del kept


def test_the_smallest_extents_are_kept_and_given_back_too(family):
    """Slabs of the smallest blocks are of calls with one dependency."""
    words, service = Words(family.runtime), family.service(same)
    promise = family.runtime.promise()
    calls = [family.call(service, promise) for _ in range(2 * GROUP + 1)]
    assert of_kind(words, "SLAB").count(GRANULE) == 3
    family.runtime.fulfil(promise, None, error_of("gone"))
    del promise, calls
    assert set(of_kind(words, "WARM")) == {GRANULE}
    family.supervisor.trim()
    assert of_kind(words, "WARM") == []
    family.check()


def test_what_was_a_slab_keeps_its_block_size_for_a_process_that_counts_just_now(family):
    words = Words(family.runtime)
    blocks = [family.runtime.put(b"x" * 1000) for _ in range(2 * GROUP)]
    (number, size) = max((number, extent.size) for number, extent in enumerate(words.extents()))
    del blocks[:GROUP], blocks[:]
    values = [put_extent(family, size) for _ in range(2)]
    assert {extent.kind for extent in words.extents()} == {words.tables.EXTENT_VALUE, words.tables.EXTENT_SLAB}
    assert words.get("extents", 0, "block_size") == words.get("extents", number, "block_size") == 1024
    del values


def test_memory_that_is_locked_is_kept(family):
    """The system refuses to take its pages: a trim does not ask for ever, and the next value may lie there."""
    words, size = Words(family.runtime), 1 << 16
    values = [put_extent(family, size) for _ in range(2)]
    with locked(family, words.extents()[0]):
        words.set("header", 0, "cache_limit", 0)
        del values[0]
        assert of_kind(words, "WARM") == [size]
        family.supervisor.trim()
        assert of_kind(words, "WARM") == [size]
        family.check()
        values.append(put_extent(family, size))
        assert of_kind(words, "VALUE") == [size, size]
        del values
        assert (of_kind(words, "WARM"), of_kind(words, "COLD")) == ([size], [size])
    family.supervisor.trim()
    assert of_kind(words, "COLD") == [size, size]
    family.check()


@contextlib.contextmanager
def locked(family, extent):
    """Lock an extent's pages into memory in this process."""
    libc, where = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p(segment_at(family.runtime.fd) + extent.offset)
    length = ctypes.c_size_t(extent.size)
    if libc.mlock(where, length) or "VmLck:\t       0 kB" in Path("/proc/self/status").read_text():
        pytest.skip("no memory may be locked here, or a sanitizer does as if it were")
    yield
    assert libc.munlock(where, length) == 0


def test_arrays_that_are_born_in_the_store_are_zeros_where_they_should_be(family):
    """The array lies in an extent that was used before, or in one whose pages have gone back."""
    words, size = Words(family.runtime), 1 << 17

    def live():
        family.runtime.install_array_allocator()
        for trimmed in (False, True):
            put_extent(family, size)
            if trimmed:
                family.supervisor.trim()
            array = np.zeros(size, np.uint8)
            assert of_kind(words, "VALUE") == [size]
            assert not array.any()
            value = family.runtime.put(array)
            array += 1  # it is its owner's to change still, whatever lay there before
            assert not value.get().any()
            del array, value
            family.supervisor.trim()

    assert family.recover_process(family.fork(live)) == 0
    family.check()


@pytest.mark.parametrize("has_addresses", [True, False])
def test_a_huge_array_of_zeros_takes_an_extent_that_was_used_before_only_if_there_are_no_more_addresses(has_addresses):
    """Such an array may be meant to stay empty for the most part."""
    family, size = Family(limit=1 << 31), 1 << 28
    words = Words(family.runtime)

    def live():
        family.runtime.install_array_allocator()
        words.set("header", 0, "checked_bytes", 1 << 40)
        array = np.empty(size + 1, np.uint8)
        del array
        (kept,) = of_kind(words, "WARM")
        end = words.get("header", 0, "arena_next")
        if not has_addresses:
            words.set("header", 0, "arena_next", words.get("header", 0, "size"))
        array = np.zeros(size + 1, np.uint8)
        assert of_kind(words, "VALUE") == [kept]
        assert of_kind(words, "WARM") == [kept] * has_addresses
        if not has_addresses:
            words.set("header", 0, "arena_next", end)
        del array

    assert family.recover_process(family.fork(live)) == 0
    family.check()
    family.close()


def test_the_store_looks_for_memory_once_more_when_it_has_given_back_what_it_kept(tmp_path):
    """Until then the machine has none left: the first look reads that from a fifo, the second from a file."""
    (tmp_path / "used").write_text("0")
    with Gate(tmp_path) as gate:
        family = Family(cgroups=[(gate.path, str(tmp_path / "used"), "none")])
        words = Words(family.runtime)
        put_extent(family, 1 << 16)
        words.set("header", 0, "checked_bytes", 0)
        relative = family.fork(lambda: put_extent(family, 1 << 17))
        gate.entered()
        give = words.lock()
        (tmp_path / "later").write_text(str(1 << 30))
        os.replace(tmp_path / "later", gate.path)
        os.write(gate.fd, b"1")
    give()
    assert family.recover_process(relative) == 0
    assert (of_kind(words, "COLD"), of_kind(words, "WARM")) == ([1 << 16], [1 << 17])
    family.check()
    family.close()


def test_more_bytes_than_there_are_addresses_are_refused(alone):
    with pytest.raises(StoreFullError) as caught:
        alone.runtime.put(np.broadcast_to(np.float64(1), 1 << 50))
    assert caught.value.asked >= 1 << 53
    alone.check()


def test_a_dropped_value_stays_warm_for_the_next_one_up_to_half_the_store(family):
    family.runtime.put(b"x" * MB)
    statistics = family.runtime.statistics()
    warm = statistics["cached_bytes"]
    assert MB <= warm <= 2 * MB
    _, takes = family.supervisor.cached_memory()
    value = family.runtime.put(b"y" * MB)
    assert family.supervisor.cached_memory() == (0, takes + 1)
    del value
    assert family.runtime.statistics()["cached_bytes"] == warm
    values = [family.runtime.put(b"z" * MB) for _ in range(40)]
    assert family.runtime.statistics()["cached_bytes"] == 0
    peak = family.runtime.statistics()["peak_bytes"]
    assert 40 * MB <= peak <= 41 * warm + SLAB_BYTES
    del values
    assert (1 << 25) - 2 * warm < family.runtime.statistics()["cached_bytes"] <= 1 << 25
    assert family.runtime.statistics()["peak_bytes"] == peak
    family.check()
    family.supervisor.trim()
    assert family.runtime.statistics()["cached_bytes"] == 0
    family.check()


def test_a_somewhat_larger_warm_extent_is_taken_and_a_much_larger_one_is_not(family):
    family.runtime.put(b"x" * MB)
    (warm,) = {family.runtime.statistics()["cached_bytes"]}
    value = family.runtime.put(b"x" * (MB * 3 // 4))
    assert family.runtime.statistics()["cached_bytes"] == 0
    del value
    value = family.runtime.put(b"x" * (MB // 4))
    assert family.runtime.statistics()["cached_bytes"] == warm
    del value
    family.check()


def test_the_supervisor_is_told_of_the_first_extent_that_is_kept(family):
    """The supervisor gives the memory back when nothing happens any more."""
    value = family.runtime.put(b"x" * MB)
    rung(family)
    del value
    assert rung(family)
    value = family.runtime.put(b"x" * 2 * MB), family.runtime.put(b"x" * 3 * MB)
    rung(family)
    del value
    assert not rung(family)
    family.check()


@pytest.mark.parametrize("what", ["a value", "a value's block", "a body", "a service"])
def test_the_first_extent_is_as_good_as_any(alone, what):
    made = {
        "a value": lambda: alone.runtime.put(LARGE),
        "a value's block": lambda: alone.runtime.put(tuple(range(10_000))),
        "a body": lambda: alone.runtime.put_definition(bytes(16), LARGE),
        "a service": lambda: alone.service(LARGE),
    }[what]()
    assert made is not None
    assert Words(alone.runtime).get("header", 0, "extent_high") == 1
    if what != "a body":
        alone.check()


def test_a_value_of_many_extents_gives_all_of_them_back(family):
    """The value has more extents than one call purges."""
    arrays = [np.full(10_000, float(number)) for number in range(40)]
    value = family.runtime.put(arrays)
    assert [array[0] for array in value.get()] == list(range(40))
    family.check()
    family.supervisor.trim()
    family.runtime.serve_inline()  # from here on nothing is kept warm
    del value
    family.check()
    assert family.in_use() == (0, 0)
    assert family.runtime.statistics()["cached_bytes"] < 40 * 80_000
