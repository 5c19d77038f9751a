"""A death with the lock held, or between a reference count's steps: the next holder repairs lists, sums and counts."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from audit import CLAIMED
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S
from leftovers import GROUP, LARGE, LARGER, die_at, extents_of, kilobytes, look_whether_all_is_back
from words import Words, slot_of

pytest_plugins = ["dead_processes"]


def test_the_next_holder_of_a_dead_process_s_lock_rebuilds_lists_and_sums_from_what_is_true(family, dead):
    """The next holder trusts each extent's kind, references and holders, and each group's word; it rebuilds all else."""
    words, runtime = Words(family.runtime), family.runtime
    slots = [runtime.put(number) for number in range(4 * GROUP)]
    values = [runtime.put(np.arange(10_000.0)), runtime.put([np.arange(20_000.0), LARGER]), runtime.put(b"x" * 1000)]
    view, only_view = values[0].get(), runtime.put(np.arange(9000.0)).get()
    free = [runtime.put(LARGE) for _ in range(6)]
    held = family.runtime.put(b"x" * 50_000)
    cold = [runtime.put(LARGER) for _ in range(3)]
    del cold
    family.supervisor.trim()
    del free, slots[:GROUP], slots[2 * GROUP :]
    family.check()
    warm, cold = extents_of(words, "EXTENT_WARM"), extents_of(words, "EXTENT_COLD")
    claimed, submitter_died, *_ = free = [
        group for group in range(words.get("header", 0, "group_high")) if not words.get("groups", group, "group.owner")
    ]
    assert (len(warm), len(cold), len(free)) == (6, 3, 2)
    bits = [1, *[0] * (words.tables.HELD_WORDS - 2), 1 << 63]
    value = max(extents_of(words, "EXTENT_VALUE"))
    last = runtime.put([np.arange(10_000.0)])
    live = len(extents_of(words, "EXTENT_VALUE"))

    def ruin():
        for field, number in [("live_bytes", 1), ("cached_bytes", 2), ("free_groups", 1), ("arena_next", 3)]:
            words.set("header", 0, field, number)
        for field in ("warm_extents", "cold_extents"):
            words.set("header", 0, field, [1] * words.tables.EXTENT_CLASSES)
        for number in extents_of(words, "EXTENT_VALUE"):
            words.set("extents", number, "holders", 7)
        words.set("extents", value, "held", bits)
        leaving, unheld, slab, just_taken = warm[1:5]
        words.set("extents", just_taken, "held", bits)
        words.set("extents", just_taken, "holders", 2)
        words.set("extents", leaving, "kind", words.tables.EXTENT_LEAVING)
        words.set("extents", leaving, "group.owner", dead.index + 1)
        words.set("extents", unheld, "kind", words.tables.EXTENT_VALUE)
        words.set("extents", unheld, "holders", 1)
        words.set("extents", slab, "kind", words.tables.EXTENT_SLAB)
        words.set("extents", slab, "block_size", 1024)
        words.set("extents", slab, "group.used", CLAIMED)
        for group, used, owner in [(claimed, CLAIMED, dead.index + 1), (submitter_died, 0, words.tables.ORPHAN)]:
            words.set("groups", group, "group.used", used)
            words.set("groups", group, "group.owner", owner)

    words.die_in_the_lock(ruin)
    more = runtime.put(LARGE)
    assert words.get("extents", warm[1], "kind") == words.tables.EXTENT_LEAVING
    assert words.get("extents", value, "holders") == 2
    words.set("extents", value, "held", [0] * words.tables.HELD_WORDS)
    words.set("extents", value, "holders", 0)
    family.recover_process(dead)
    family.check()
    kinds = [words.tables.EXTENT_WARM] * 6 + [words.tables.EXTENT_COLD] * 3
    kinds[1], kinds[5] = words.tables.EXTENT_COLD, words.tables.EXTENT_VALUE  # by the recovery, and for `more`
    assert [words.get("extents", number, "kind") for number in [*warm, *cold]] == kinds
    assert values[1].get()[1] == LARGER
    assert last.get()[0][-1] == 9999
    assert len(extents_of(words, "EXTENT_VALUE")) == live + 1
    assert np.array_equal(only_view, np.arange(9000.0))
    del view, only_view, values, more, slots, held, last
    family.check()
    assert family.in_use() == (0, 0)


def test_a_death_with_the_lock_before_anything_was_taken_leaves_everything(alone):
    words = Words(alone.runtime)
    end = words.get("header", 0, "arena_next")
    words.die_in_the_lock()
    value = alone.runtime.put(LARGE)
    assert words.extents()[0].offset == end
    alone.check()
    assert value.get() == LARGE


def references_of(words, slot, half):
    """Return the numbers of the extents that half of a slot counts as its own, in the order of counting."""
    tables, block, kind = words.tables, words.get("slots", slot, half), words.get("slots", slot, half + "_kind")
    assert kind & tables.KIND_LINKED and kind & tables.KIND_HANDLES and kind & tables.KIND_EXTENT
    offsets = [*tables.numbers(block + 8, tables.numbers(block, 1)[0]), block]
    places = [words.get("extents", number, "offset") for number in range(words.get("header", 0, "extent_high"))]
    return [places.index(offset) for offset in offsets]


@pytest.mark.parametrize("half", ["payload", "result"])
@pytest.mark.parametrize("op, by", [("REDO_LINK", 1), ("REDO_UNLINK", -1)])
def test_references_that_a_dead_process_was_counting_are_counted_to_the_end(alone, half, op, by):
    """Each reference is counted once, from any step on, whether the dead process had done that step or not."""
    parts = [np.arange(5000.0), np.arange(6000.0), tuple(range(5000))]
    future = alone.runtime.put(parts) if half == "result" else alone.call(alone.service(len), parts)
    words, slot = Words(alone.runtime), slot_of(future)
    tables, numbers = words.tables, references_of(words, slot, half)
    assert len(numbers) == 3
    kind = words.get("slots", slot, half + "_kind")
    linked = [kind & ~tables.KIND_LINKED, kind][::by]  # before and after
    first = 3 if by == 1 else 4
    for number in numbers:  # so that it stays without this slot, too
        words.set("extents", number, "held", [1] + [0] * (tables.HELD_WORDS - 1))
        words.set("extents", number, "holders", 1)
    for step in range(len(numbers)):
        for is_done in (False, True):

            def stop(step=step, is_done=is_done):
                for at, number in enumerate(numbers):
                    words.set("extents", number, "refs", first + by * (at < step or (at == step and is_done)))
                words.set("slots", slot, half + "_kind", linked[0])
                words.set("header", 0, "redo.progress", step << 32 | first)
                words.set("header", 0, "redo.slot", slot)
                words.set("header", 0, "redo.which", half == "result")
                words.set("header", 0, "redo.op", getattr(tables, op))

            words.die_in_the_lock(stop)
            alone.runtime.put(LARGE)
            assert [words.get("extents", number, "refs") for number in numbers] == [first + by] * len(numbers)
            assert words.get("slots", slot, half + "_kind") == linked[1]
            assert words.get("header", 0, "redo.op") == tables.REDO_NOTHING
    words.set("slots", slot, half + "_kind", kind)
    for number in numbers:
        words.set("extents", number, "refs", 1)
        words.set("extents", number, "held", [0] * tables.HELD_WORDS)
        words.set("extents", number, "holders", 0)
    alone.check()
    alone.work()
    assert len(future.get(0)) == 3 if half == "result" else future.get(0) == 3


@pytest.fixture
def spread(family):
    """Return values whose extents lie on different pages of the table, in order, and the numbers of those extents."""
    values = [family.runtime.put(np.arange(5000.0) + number) for number in range(60)]
    numbers = extents_of(Words(family.runtime), "EXTENT_VALUE")
    return values[5::20], numbers[5::20]


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("op", ["REDO_LINK", "REDO_UNLINK"])
def test_before_a_reference_is_counted_it_is_written_down_what_there_was(family, spread, op, step):
    values, numbers = spread
    words, before = Words(family.runtime), family.in_use()

    def live():
        views = [value.get() for value in values]
        kept = [family.runtime.put(views)] if op == "REDO_UNLINK" else []
        yield
        if not kept:
            kept.append(family.runtime.put(views))
        kept.clear()
        yield

    dead = die_at(family, words, words.place("extents", numbers[step], "refs")[0], live)
    assert words.get("header", 0, "redo.op") == getattr(words.tables, op)
    assert words.get("header", 0, "redo.progress") == step << 32 | (1 if op == "REDO_LINK" else 2)
    look_whether_all_is_back(family, dead, before)
    assert [value.get()[0] for value in values] == [5, 25, 45]


def test_references_are_not_begun_to_be_counted_before_it_is_known_what_there_was(family, spread):
    """The process ignores what an earlier count has left: it dies between its first looks at the value and at an extent."""
    values, numbers = spread
    words, before = Words(family.runtime), family.in_use()

    def live():
        kept = [family.runtime.put([value.get() for value in values] + [kilobytes(1)])]
        block = words.get("slots", slot_of(kept[0]), "result")
        words.set("header", 0, "redo.progress", 2 << 32 | 7)
        extent = words.place("extents", numbers[0], "refs")[0]
        words.at_touches((block, lambda: None), (extent, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        kept.clear()

    dead = family.fork(live)
    assert dead.has_ended(PATIENCE_S)
    assert words.get("header", 0, "lock_holder") == dead.index + 1
    assert words.get("header", 0, "redo.op") == words.tables.REDO_NOTHING
    look_whether_all_is_back(family, dead, before)


def test_an_extent_that_a_dead_process_was_carving_is_carved_by_the_next(family):
    words, end = Words(family.runtime), Words(family.runtime).get("header", 0, "arena_next")
    granule = words.tables.granules_at + end // words.tables.GRANULE * 4

    def live():
        yield
        family.runtime.put(LARGER)

    look_whether_all_is_back(family, die_at(family, words, granule, live))
    assert words.get("header", 0, "extent_high") == 0
    value = family.runtime.put(LARGER)
    assert words.get("extents", 0, "offset") == end
    assert value.get() == LARGER
    family.check()


def a_value(family):
    kept = [family.runtime.put(LARGER)]
    yield
    kept.clear()


def a_body(family):
    kept = [family.runtime.put_definition(bytes(16), LARGER)]
    yield
    kept.clear()


def a_call_with_inputs(family):
    """Put the block of the call's dependencies into an extent."""
    promises = [family.runtime.promise() for _ in range(2000)]
    call = family.call(family.service(len), promises)
    for promise in promises:
        family.runtime.fulfil(promise, None, serialization.dump_error(LookupError()))
    del promises, promise
    kept = [call]
    del call
    yield
    kept.clear()


def blocks_of_a_slab(family):
    kept = [family.runtime.put(kilobytes(1)) for _ in range(2 * GROUP)]
    del kept[GROUP + 1 :]
    yield
    kept.clear()


def what_is_kept(family):
    family.runtime.put(LARGER)
    Words(family.runtime).set("header", 0, "cache_limit", 1 << 25)
    family.runtime.put(LARGER)
    yield
    family.supervisor.trim()


@pytest.mark.parametrize("kind", [a_value, a_body, a_call_with_inputs, blocks_of_a_slab, what_is_kept])
def test_an_extent_that_a_dead_process_was_emptying_is_emptied(family, kind):
    """The process dies when it asks the system to take the pages, after it has released the lock."""
    words, before = Words(family.runtime), family.in_use()

    def live():
        words.set("header", 0, "cache_limit", 0)
        steps = kind(family)
        next(steps)
        words.forbid_calls()
        next(steps)

    dead = family.fork(live)
    assert dead.has_ended(PATIENCE_S)
    (leaving,) = extents_of(words, "EXTENT_LEAVING")
    assert words.get("extents", leaving, "group.owner") == dead.index + 1
    assert words.get("header", 0, "lock_holder") == 0
    assert words.get("header", 0, "cached_bytes") == 0
    family.recover_process(dead)
    assert words.get("extents", leaving, "kind") == words.tables.EXTENT_COLD
    family.check()
    assert family.in_use()[1] <= before[1] + 1024
