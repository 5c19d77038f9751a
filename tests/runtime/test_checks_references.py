"""References, holders and views of extents: each is counted once, and the last one frees the extent.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from actors import LARGE, MB, error_of, of_kind, put_extent
from gates import PATIENCE_S, Gate
from words import Words, segment_at


def views_of(runtime, extent):
    """Return where this process counts its views of an extent, as an offset from the segment's address."""
    memory = (ctypes.c_uint64 * 14).from_address(id(runtime) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    assert memory[0] == segment_at(runtime.fd)
    return memory[13] + 4 * extent - memory[0]


@pytest.mark.parametrize("what", ["one more view", "one view less"])
def test_views_are_counted_whatever_another_thread_does_meanwhile(family, what):
    """NumPy may free memory without the GIL. Here the same thread takes a view, in the middle of the step."""
    words = Words(family.runtime)

    def live():
        value, others = family.runtime.put(np.arange(1 << 14)), []
        views = [value.get(), value.get()]
        counted = views_of(family.runtime, len(words.extents()) - 1)
        words.at_touches((counted, lambda: others.append(value.get())), protection=mmap.PROT_READ)
        if what == "one more view":
            views.append(value.get())
        else:
            views.pop()
        count = ctypes.c_uint32.from_address(segment_at(words.fd) + counted).value
        assert count == len(views) + len(others) == 2 + 2 * (what == "one more view")

    assert family.recover_process(family.fork(live)) == 0


def test_an_extent_of_which_another_thread_takes_a_view_when_its_last_one_goes_stays(family):
    """The last view is off the count, and its thread has not acquired the lock yet."""
    words = Words(family.runtime)

    def live():
        values, others = [family.runtime.put(np.arange(1 << 14))], []
        view, lock = values[0].get(), words.place("header", 0, "lock")[0]
        words.at_touches((lock, lambda: others.append(values[0].get())), protection=mmap.PROT_READ)
        del view
        assert others
        values.clear()
        assert of_kind(words, "VALUE") == [1 << 17]
        assert (others[0] == np.arange(1 << 14)).all()
        others.clear()
        assert of_kind(words, "VALUE") == []

    assert family.recover_process(family.fork(live)) == 0


def test_the_last_view_of_a_value_goes_under_the_lock(family):
    value, words = family.runtime.put(np.arange(1 << 14)), Words(family.runtime)
    view = value.get()
    give = words.make_lock_count()
    del view
    assert give(), "the lock was released without having been acquired"


def test_one_value_in_many_places_is_kept_until_the_last_is_gone(family):
    array = np.arange(100_000.0)
    first = family.runtime.put(array)
    view = first.get()
    bytes_of_one = family.in_use()[1]
    more = [family.runtime.put([view] * 3) for _ in range(20)]
    assert family.in_use()[1] < bytes_of_one + MB
    family.check()
    del first
    del more[1:]
    family.check()
    del view
    assert np.array_equal(more[0].get()[2], array)
    family.check()
    del more
    assert family.in_use() == (0, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_extent_that_lies_in_a_value_twice_goes_once_and_with_the_last_value(family, order):
    words, array, kept = Words(family.runtime), np.arange(10_000.0), []

    def make():
        view = family.runtime.put(array).get()
        kept.extend([family.runtime.put([view, view[1:]]), family.runtime.put([view])])

    make()
    assert words.get("extents", 0, "refs") == 3
    first, last = order
    kept[first] = None
    family.check()
    assert np.array_equal(kept[last].get()[0], array)
    kept.clear()
    family.check()
    assert family.in_use() == (0, 0)


def holders(words, number):
    """Return the processes with a bit on an extent; as many must be counted."""
    bits = sum(word << 64 * at for at, word in enumerate(words.get("extents", number, "held")))
    assert bits.bit_count() == words.get("extents", number, "holders")
    return [process for process in range(words.tables.PROCESS_COUNT) if bits >> process & 1]


def test_an_extent_stays_for_each_process_with_views_of_it_and_once_for_each(family, tmp_path):
    words, array, me = Words(family.runtime), np.arange(10_000.0), family.runtime.index
    kept = [family.runtime.put(array)]
    assert holders(words, 0) == []
    with Gate(tmp_path) as gate:

        def live():
            view = kept[0].get()
            gate.wait()
            assert np.array_equal(view, array)

        relative = family.fork(live)
        gate.entered()
        assert holders(words, 0) == [relative.index]
        views = [kept[0].get() for _ in range(3)]
        assert holders(words, 0) == [me, relative.index]
        family.check()
        views[0] = views[2] = None
        assert holders(words, 0) == [me, relative.index]
        kept.clear()
        assert words.get("extents", 0, "refs") == 0
        assert np.array_equal(views[1], array)
        del views
        assert holders(words, 0) == [relative.index]
        assert words.get("extents", 0, "kind") == words.tables.EXTENT_VALUE
        put_extent(family, 1 << 17)
        family.check()
    assert relative.has_ended(PATIENCE_S)
    assert words.get("extents", 0, "kind") == words.tables.EXTENT_WARM
    assert family.recover_process(relative) == 0


def test_a_bit_that_another_thread_is_about_to_take_off_or_has_just_taken_off_is_not_counted_twice(family):
    words, array = Words(family.runtime), np.arange(10_000.0)
    value = family.runtime.put(array)
    words.set("extents", 0, "held", [1] + [0] * (words.tables.HELD_WORDS - 1))
    words.set("extents", 0, "holders", 1)
    view = value.get()
    assert holders(words, 0) == [family.runtime.index]
    words.set("extents", 0, "held", [0] * words.tables.HELD_WORDS)
    words.set("extents", 0, "holders", 0)
    del view
    assert holders(words, 0) == []
    assert np.array_equal(value.get(), array)
    family.check()


def test_a_body_stays_for_each_process_that_holds_it_however_often(family, tmp_path):
    words, identity, me = Words(family.runtime), bytes(range(16)), family.runtime.index
    with Gate(tmp_path) as gate:

        def live():
            hold = family.runtime.put_definition(identity, LARGE)
            gate.wait()
            return hold

        relative = family.fork(live)
        gate.entered()
        offset = words.get("extents", 0, "offset")
        holds = [family.runtime.hold_definition(identity, offset, len(LARGE) + 16) for _ in range(3)]
        assert holders(words, 0) == [me, relative.index]
    assert family.recover_process(relative) == 0
    assert family.runtime.hold_definition(bytes(16), offset, len(LARGE) + 16) is None
    for _ in range(3):
        assert holders(words, 0) == [me]
        assert family.runtime.is_definition(identity, offset)
        holds.pop()
    assert not family.runtime.is_definition(identity, offset)
    family.check()


def test_a_large_block_that_is_no_value_s_has_no_holder_and_comes_back(family):
    """The block counts one reference, and is then kept as any other: the next value there is counted from 0."""
    words, runtime = Words(family.runtime), family.runtime
    promises = [runtime.promise() for _ in range(2000)]
    services = [family.service(LARGE * number) for number in (1, 2, 3)]
    call = family.call(family.service(len), promises)
    assert len(of_kind(words, "VALUE")) == 4
    for number, extent in enumerate(words.extents()):
        if extent.kind == words.tables.EXTENT_VALUE:
            assert (extent.refs, holders(words, number)) == (1, [])
    family.check()
    for service in services:
        runtime.close_service(*service[:2])
    assert runtime.reap_services() == 0
    for promise in promises:
        runtime.fulfil(promise, None, error_of("gone"))
    del promises, promise, call
    assert of_kind(words, "VALUE") == []
    assert len(of_kind(words, "WARM")) >= 4
    family.check()
    values = [runtime.put(LARGE * number) for number in (1, 2, 3)]
    family.check()
    del values
    family.check()
