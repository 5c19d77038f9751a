"""The native runtime by itself: slots and blocks come back, the codec keeps values, waiting lists and order hold.

One process, no workers: the driver's `Runtime` plays both sides through the inline engine's `run_queued`.
"""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
from flame_fast.kernels.runtime import Worker, serialization
from gates import passes_in_child
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_harness import Alone, Family, balanced
from words import Words

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.spec import INSTANCE


class Log(list):
    """An instance whose calls leave their order behind."""

    def note(self, value):
        self.append(value)
        return list(self)


def test_dropping_everything_gives_everything_back(alone):
    service = alone.service(max)
    alone.work()
    before = alone.runtime.statistics()
    held = [alone.call(service, "x" * size, "y") for size in range(0, 5000, 50)]
    chain = alone.call(service, held[0], held[1])
    held += [alone.runtime.put(b"z" * 300_000), alone.runtime.put(list(range(10_000)))]
    held += [chain, alone.call(service, chain, chain)]
    alone.work()
    assert held[-1].get() == "y"
    assert alone.runtime.statistics()["slots"] == before["slots"] + len(held)
    balanced(alone.runtime.statistics())
    del held, chain
    gc.collect()
    after = alone.runtime.statistics()
    assert (after["slots"], after["bytes"]) == (before["slots"], before["bytes"])
    balanced(after)
    if "blocks_taken" in after:  # a debug build
        left = [statistics["blocks_taken"] - statistics["blocks_freed"] for statistics in (before, after)]
        assert left[0] == left[1] < after["blocks_taken"]


def test_a_future_dropped_before_it_is_done_runs_and_is_freed(alone):
    service = alone.service(Log(), INSTANCE, ("note",))
    before = alone.runtime.statistics()
    alone.call(service, 1)
    alone.call(service, 2)
    assert alone.runtime.statistics()["slots"] == before["slots"] + 2
    last = alone.call(service, 3)
    alone.work()
    assert last.get() == [1, 2, 3]
    del last
    assert alone.runtime.statistics()["slots"] == before["slots"]


def test_an_ordered_queue_waits_for_the_input_of_its_first_call(alone):
    """A later call whose inputs are there must not overtake."""
    log = alone.service(Log(), INSTANCE, ("note",))
    promise = alone.runtime.promise()
    first, second = alone.call(log, promise), alone.call(log, "second")
    alone.work()
    assert not first.done()
    assert not second.done()
    alone.runtime.fulfil(promise, "first")
    alone.work()
    assert second.get() == ["first", "second"]


@pytest.mark.parametrize("count", [1, 46, 47, 48, 95, 2303, 2304])
def test_a_task_starts_when_the_last_of_many_inputs_is_there(alone, count):
    """Around the sizes at which the tree of missing bits grows a word or a level; each tenth is there before the call."""
    service = alone.service(len)
    for last in (0, count // 2, count - 1):
        promises = [alone.runtime.promise() for _ in range(count)]
        late = promises[last]
        others = [promise for promise in promises if promise is not late]
        for promise in others[::10]:
            alone.runtime.fulfil(promise, None)
        future = alone.call(service, promises)
        for promise in others:
            if not promise.done():
                alone.runtime.fulfil(promise, None)
        alone.work()
        assert not future.done()
        alone.runtime.fulfil(late, None)
        alone.work()
        assert future.get() == count


def test_a_task_whose_inputs_are_all_there_before_the_call_starts(alone):
    service = alone.service(sum)
    for count in (1, 47, 48, 2304):
        future = alone.call(service, [alone.runtime.put(number) for number in range(count)])
        alone.work()
        assert future.get() == sum(range(count))


def test_a_failed_input_fails_everything_below_it_at_once(alone):
    """Without any worker: the finisher of the dependency passes the error on."""
    service = alone.service(len)
    root, other = alone.runtime.promise(), alone.runtime.promise()
    level = [alone.call(service, [root, other]) for _ in range(3)]
    deep = level[0]
    for _ in range(2000):
        deep = alone.call(service, [deep, other])
    alone.runtime.fulfil(root, None, serialization.dump_error(KeyError("gone")))
    for future in [*level, deep]:
        assert future.done()
        with pytest.raises(KeyError, match="gone"):
            future.get()
    alone.runtime.fulfil(other, None)


def test_a_call_of_an_input_that_failed_before_fails_at_the_call(alone):
    root = alone.runtime.promise()
    alone.runtime.fulfil(root, None, serialization.dump_error(KeyError("gone")))
    future = alone.call(alone.service(len), [root])
    assert isinstance(future.exception(), KeyError)


def test_a_full_store_says_asked_free_and_limit_and_takes_nothing():
    alone = Alone(limit=1 << 20)
    try:
        before = alone.runtime.statistics()
        with pytest.raises(StoreFullError) as caught:
            alone.runtime.put(b"x" * (1 << 21))
        assert caught.value.limit == 1 << 20
        assert caught.value.asked >= 1 << 21
        assert 0 < caught.value.free <= 1 << 20
        after = alone.runtime.statistics()
        assert (after["slots"], after["bytes"]) == (before["slots"], before["bytes"])
        balanced(after)
        assert alone.runtime.put(b"x" * (1 << 19)).get() == b"x" * (1 << 19)
    finally:
        alone.close()


def test_growth_beyond_what_a_cgroup_has_left_is_refused_before_it_kills(tmp_path):
    """Its files are made up here: the kernel's own bound, reached, would end this process."""
    limit, used, stat = (tmp_path / name for name in ("memory.max", "memory.current", "memory.stat"))
    limit.write_text(f"{1 << 30}\n")
    used.write_text(f"{900 << 20}\n")
    stat.write_text(f"anon 1\ninactive_file {10 << 20}\nactive_file 2\n")
    alone = Alone(1 << 40, cgroups=[(str(limit), str(used), str(stat))])
    try:
        with pytest.raises(StoreFullError) as caught:
            alone.runtime.put(b"x" * (100 << 20))
        assert caught.value.free < 100 << 20
        assert alone.runtime.put(b"x" * (40 << 20)) is not None
        stat.write_text(f"anon 1\ninactive_file {500 << 20}\nactive_file 2\n")  # files' pages, given up when needed
        assert alone.runtime.put(b"x" * (100 << 20)) is not None
        limit.write_text("max\n")
        used.write_text(f"{1 << 40}\n")
        assert alone.runtime.put(b"x" * (200 << 20)) is not None
    finally:
        alone.close()


def test_arrays_that_nobody_has_written_to_yet_count_as_used(tmp_path):
    """Their pages are still to come: two tasks that make a result at a time would find the same free memory."""

    def allocate():
        limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
        limit.write_text(f"{300 << 20}\n")
        used.write_text(f"{100 << 20}\n")
        alone = Alone(4 << 30, cgroups=[(str(limit), str(used), "none")])
        alone.runtime.install_array_allocator()
        array = np.empty(100 << 20, np.uint8)
        with pytest.raises(StoreFullError):
            alone.runtime.put(b"x" * (80 << 20))
        array[:] = 1  # from now on the cgroup counts them
        assert alone.runtime.put(b"x" * (80 << 20)) is not None

    assert passes_in_child(allocate)


def test_a_cgroup_with_too_long_a_name_does_not_hide_the_others(tmp_path):
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text(f"{1 << 30}\n")
    used.write_text(f"{1000 << 20}\n")
    deep = (f"/{'x' * 200}" * 40,) * 3
    alone = Alone(4 << 30, cgroups=[deep, (str(limit), str(used), "none"), deep])
    try:
        with pytest.raises(StoreFullError):
            alone.runtime.put(b"x" * (100 << 20))
    finally:
        alone.close()


class Machine:
    """A runtime whose cgroups' files are made up; `left` asks how much it thinks may still be taken."""

    MARGIN = STEP = 1 << 26  # bytes left to others; growth that one look is good for

    def __init__(self, directory, cgroups):
        self.files = [tuple(str(directory / f"{name} {number}") for name in ("limit", "used", "stat")) for number in cgroups]
        self.alone = Family(1 << 40, cgroups=self.files)
        self.words = Words(self.alone.runtime)
        self.size = self.words.get("header", 0, "size")

    def write(self, number, *texts):
        """Write what a cgroup's files say; None: there is none; a folder is none that can be read."""
        for path, text in zip(self.files[number], texts, strict=True):
            Path(path).unlink(missing_ok=True)
            if text is FOLDER:
                os.mkdir(path)
            elif text is not None:
                Path(path).write_text(text)

    def left(self):
        end = self.words.get("header", 0, "arena_next")
        self.words.set("header", 0, "arena_next", self.size)
        with pytest.raises(StoreFullError) as caught:
            self.alone.runtime.put(b"x" * 40_000)
        self.words.set("header", 0, "arena_next", end)
        return caught.value.free


NOTHING, FOLDER = (None, None, None), "/"
GB = 1 << 30


@pytest.mark.parametrize(
    "first, second, left",
    [
        ((f"{GB}\n", "1000\n", "anon 5\ninactive_file 300\nactive_file 7\n"), NOTHING, GB - 700),
        ((f"{GB}\n", "1000\n", "inactive_file 1000\n"), NOTHING, GB),
        ((f"{GB}\n", "1000\n", "inactive_file 2000\n"), NOTHING, GB),
        ((f"{GB}\n", "1000\n", "anon 5\n"), NOTHING, GB - 1000),
        ((f"{GB}\n", "1000\n", None), NOTHING, GB - 1000),
        ((f"{GB}\n", None, "inactive_file 2000\n"), NOTHING, GB),
        ((f"{GB}\n", f"{2 * GB}\n", None), NOTHING, 0),
        ((f"{GB}\n", "1000\n", "inactive_file 1\ntotal_inactive_file 300\n"), NOTHING, GB - 700),
        ((f"{GB}\n", "1000\n", "inactive_file 400\n" + "x" * (8191 - 34) + "inactive_file 1234"), NOTHING, GB - 1000 + 12),
        ((f"{GB}\n", "0\n", None), (f"{2 * GB}\n", "0\n", None), GB),
        ((f"{2 * GB}\n", "0\n", None), (f"{GB}\n", "0\n", None), GB),
        (("max\n", "1000\n", "inactive_file 300\n"), (f"{GB}\n", "0\n", None), GB),
        ((None, "1000\n", "inactive_file 300\n"), (f"{GB}\n", "0\n", None), GB),
        (("", "1000\n", None), (f"{GB}\n", "0\n", None), GB),
        ((f"{GB}\n", FOLDER, None), NOTHING, GB),
        ((f"{GB}\n", "1000\n", FOLDER), NOTHING, GB - 1000),
        ((f"{GB}\n", "5", None), NOTHING, GB - 5),
        ((f"{GB}\n", "1000\n", f"file {GB}\ninactive_file 300\n"), (f"{GB}\n", "1000\n", "anon 5"), GB - 1000),
    ],
)
def test_each_cgroup_bounds_what_may_be_taken(tmp_path, first, second, left):
    machine = Machine(tmp_path, range(2))
    machine.write(0, *first)
    machine.write(1, *second)
    assert machine.left() == max(0, left - machine.MARGIN)
    machine.alone.close()


def test_the_machine_bounds_what_may_be_taken(tmp_path):
    """Besides, or where no cgroup does; by what /proc/meminfo says, which changes all the time."""
    (available,) = re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    machine = Machine(tmp_path, range(1))
    for text in (f"{1 << 50}\n", "max\n", None):
        machine.write(0, text, None, None)
        assert (int(available) << 10) // 2 < machine.left() < int(available) << 11
    machine.alone.close()


def test_the_lowest_descriptor_is_as_good_as_any(tmp_path):
    def look():
        machine = Machine(tmp_path, range(1))
        before = machine.left()
        os.close(0)
        assert machine.left() < 2 * before < 2 << 40

    assert passes_in_child(look)


def test_the_store_looks_for_memory_before_it_grows_and_not_for_each_step(tmp_path):
    """What is asked for and a margin must be left, to the byte; where more is, the next look is due later.

    Values fill their extents: a page that nobody has touched counts as taken.
    """
    machine = Machine(tmp_path, range(1))
    runtime, words, size = machine.alone.runtime, machine.words, 3 << 14

    def looked_up_to(left):
        """How far, when a value is put of which only so much is left, and nothing was known."""
        machine.write(0, f"{GB}\n", f"{GB - left}\n", None)
        words.set("header", 0, "checked_bytes", 0)
        values.append(runtime.put(b"x" * size))
        return words.get("header", 0, "checked_bytes")

    values = []
    assert looked_up_to(size + machine.MARGIN) == size == words.get("header", 0, "live_bytes")
    assert looked_up_to(size + machine.MARGIN + machine.STEP - 1) == 2 * size
    assert looked_up_to(size + machine.MARGIN + machine.STEP) == 3 * size + machine.STEP
    values.append(runtime.put(b"x" * size))  # without another look
    runtime.put(b"k" * (7 << 15))
    (kept,) = {runtime.statistics()["cached_bytes"]}
    assert looked_up_to(size + machine.MARGIN) == 5 * size + kept
    assert runtime.statistics()["cached_bytes"] == kept
    for left in (size + machine.MARGIN - 1, machine.MARGIN, 0):
        with pytest.raises(StoreFullError):
            looked_up_to(left)
        assert runtime.statistics()["cached_bytes"] == 0  # that goes first
    assert [value.get() for value in values] == [b"x" * size] * 5
    machine.alone.check()
    machine.alone.close()


def test_a_closed_service_takes_no_calls_and_its_entry_is_used_again(alone):
    first = alone.service(len)
    alone.runtime.close_service(*first[:2])
    with pytest.raises(FlameError, match="closed"):
        alone.call(first, [])
    second = alone.service(max)
    assert second[0] == first[0]
    assert second[1] != first[1]


def test_a_promise_keeps_no_service_open(alone):
    """Its slot was a call's of that service before."""
    service, generation, queue = alone.service(abs, limit=1)
    call = alone.call((service, generation, queue), -1)
    alone.work()
    slot = call.number
    del call
    promise = alone.runtime.promise()
    assert promise.number == slot
    alone.check()
    alone.runtime.close_service(service, generation)
    assert alone.runtime.reap_services() == 0
    assert alone.service(abs)[0] == service
    alone.runtime.fulfil(promise, 1)
    assert promise.get() == 1


def test_attaching_to_something_else_is_refused(alone, tmp_path):
    path = tmp_path / "no segment"
    path.write_bytes(bytes(1 << 16))
    with open(path, "r+b") as file, pytest.raises(FlameError, match="no flame_fast segment"):
        Worker.attach(file.fileno(), 1, "x", alone.bell)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=400),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(value=plain)
@settings(max_examples=300, deadline=None)
def test_every_plain_value_comes_back_equal_and_of_its_type(shared_alone, value):
    got = shared_alone.runtime.put(value).get()
    assert repr(got) == repr(value)


@given(
    args=st.lists(plain, max_size=4), kwargs=st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), plain, max_size=3)
)
@settings(max_examples=200, deadline=None)
def test_every_call_arrives_as_it_was_made(shared_alone, args, kwargs):
    future = shared_alone.call(shared_alone.echo, *args, **kwargs)
    shared_alone.work()
    assert repr(future.get()) == repr((tuple(args), kwargs))


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200_000), st.integers(0, 255)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_blocks_never_overlap_whatever_the_order_of_taking_and_dropping(shared_alone, steps):
    """Overlap would change a held value; a leak would leave bytes in use."""
    gc.collect()
    before = shared_alone.runtime.statistics()
    model = []
    for action, size, byte in steps:
        if action == 0 and model:
            model.pop(size % len(model))
        else:
            value = bytes([byte]) * size
            model.append((shared_alone.runtime.put(value), value))
    for ref, value in model:
        assert ref.get() == value
    del model
    ref = None
    after = shared_alone.runtime.statistics()
    assert (after["slots"], after["bytes"]) == (before["slots"], before["bytes"])


def echo(*args, **kwargs):
    return args, kwargs


@pytest.fixture(scope="module")
def shared_alone():
    """One runtime for all examples of a property."""
    made = Alone(limit=1 << 30)
    made.echo = made.service(echo)
    yield made
    made.check()
    made.close()
