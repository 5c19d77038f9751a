"""The segment itself: its addresses, the processes attached to it, and what is left of it in a process and its children.

No other segment may be mapped meanwhile.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import threading
import weakref
from pathlib import Path

import audit
import numpy as np
import pytest
from flame_fast.kernels.runtime import Worker, serialization
from gates import PATIENCE_S, Gate, in_child, passes_in_child, wait_until
from runtime_harness import POOL, Alone
from words import Words

from flame_fast import FlameError, FlameErrorCode

GB = 1 << 30
#: The second mapping does not show the tables, which take a little more.
TABLES = 33 * GB


def mappings():
    """Return how often a segment is mapped here: (shared, privately)."""
    with open("/proc/self/maps") as maps:
        modes = [line.split()[1] for line in maps if "memfd:flame_fast" in line]
    return modes.count("rw-s"), modes.count("rw-p")


def addresses():
    """Return the bytes of addresses that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


def bound_addresses(more):
    resource.setrlimit(resource.RLIMIT_AS, (addresses() + more, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    "room, limit, size, window",
    [
        (2 * 60 * GB, 1 << 26, 60 * GB, 1),
        (2 * 60 * GB - TABLES, 1 << 26, 57 * GB, 1),
        (2 * 57 * GB - TABLES, 1 << 26, 60 * GB, 0),
        (60 * GB - 1, 1 << 26, 57 * GB, 0),
        (57 * GB - 1, 1 << 26, None, 0),
        (2 * 672 * GB, 8 * GB, 672 * GB, 1),
        (2 * 672 * GB - TABLES, 8 * GB, 336 * GB, 1),
        (2 * 84 * GB - TABLES, 8 * GB, 64 * GB, 1),
        (2 * 64 * GB - TABLES, 8 * GB, 84 * GB, 0),
        (84 * GB - 1, 8 * GB, 64 * GB, 0),
        (3 * 4096 * GB, 100 * GB, 4096 * GB, 1),
        (3 * 4096 * GB, 4096 * GB, 4152 * GB, 1),
    ],
)
def test_a_segment_has_addresses_in_proportion_to_its_limit_and_is_mapped_once_more_if_possible(room, limit, size, window):
    def reserve():
        bound_addresses(room)
        before = addresses()
        try:
            alone = Alone(limit)
        except FlameError as error:
            assert size is None
            assert error.code is FlameErrorCode.INVALID_STATE
            for told in ("reserve 57 GiB", "67,108,864", "`ulimit -v` allows", "Runner(memory=...)"):
                assert told in error.message
        else:
            assert Words(alone.runtime).get("header", 0, "size") == size
        assert mappings() == (0, 0) if size is None else (1, window)
        assert addresses() - before < (1 + window) * (size or 0) + GB
        if size:
            assert alone.runtime.put(b"x" * 40_000).get() == b"x" * 40_000

    assert passes_in_child(reserve)


def test_a_bound_on_files_makes_a_segment_smaller_and_is_named():
    def reserve():
        resource.setrlimit(resource.RLIMIT_FSIZE, (58 * GB, resource.RLIM_INFINITY))
        alone = Alone()
        assert Words(alone.runtime).get("header", 0, "size") == 57 * GB
        resource.setrlimit(resource.RLIMIT_FSIZE, (57 * GB - 1, resource.RLIM_INFINITY))
        with pytest.raises(FlameError, match=r"`ulimit -f` allows no such file"):
            Alone()

    assert passes_in_child(reserve)


def test_addresses_that_this_process_has_used_up_are_named():
    """Mapped elsewhere: 128 TiB are all there are."""

    def reserve():
        taken = []
        for size in (1 << 45, 1 << 42, 1 << 38, 1 << 34):
            while True:
                try:
                    taken.append(mmap.mmap(-1, size, mmap.MAP_PRIVATE, mmap.PROT_READ))
                except OSError:
                    break
        with pytest.raises(FlameError, match=r"this process has 1\d{5} GiB already: close Runners"):
            Alone()
        taken.clear()
        Alone()

    assert passes_in_child(reserve)


class Trap:
    """An object that is collected in the middle, and makes a mapping where the segment has just been."""

    made: list = []  # noqa: RUF012

    def __init__(self):
        self.itself = self

    def __del__(self):
        self.made.append(mmap.mmap(-1, 1 << 20))


def test_only_what_was_mapped_is_unmapped():
    """The process has addresses for one mapping: whatever else comes to lie there meanwhile stays."""

    def reserve():
        gc.disable()
        Trap()
        low = map_at(4 * GB)
        bound_addresses(2 * 57 * GB - TABLES)
        alone = Alone()
        (trap,) = Trap.made
        trap[:] = b"x" * len(trap)
        assert mappings() == (1, 0)
        del alone
        gc.collect()
        assert trap[:] == b"x" * len(trap)
        assert mappings() == (0, 0)
        assert ctypes.string_at(low, 1) == bytes(1)

    assert passes_in_child(reserve)


def map_at(address):
    """Map a page at an address where nothing is."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fixed = 0x10
    found = libc.mmap(address, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed, -1, 0)
    assert found == address
    return found


def test_segments_that_only_cycles_refer_to_make_room_and_are_collected_only_then():
    def reserve():
        gc.disable()
        for _ in range(2):
            left = [Alone()]
            left.append(left)
            del left
        assert mappings() == (2, 2)
        bound_addresses(2 * 57 * GB - TABLES)
        alone = Alone()
        assert mappings() == (1, 1)
        assert Words(alone.runtime).get("header", 0, "size") == 60 * GB

    assert passes_in_child(reserve)


def test_an_attachment_has_an_entry(alone):
    """The caller names itself, for error messages, and has a bell."""
    with open(alone.runtime.fd, "rb", closefd=False) as segment:
        bell = os.eventfd(0)
        other = Worker.attach(segment.fileno(), 7, "other", bell)
        assert (other.name, other.doorbell_fd, other.index) == ("other", bell, 7)
        assert (alone.runtime.name, alone.runtime.doorbell_fd, alone.runtime.index) == ("alone", alone.bell, 0)
        other.mark_closed()
        with pytest.raises(FlameError, match="'other' is closed"):
            other.put(1)
        del other
        os.close(bell)


class Given(ctypes.Structure):
    names = ("arena", "ord", "sm", "hb", "hblkhd", "usm", "fsm", "uord", "ford", "keep")
    _fields_ = [(name, ctypes.c_size_t) for name in names]


def given():
    """Return the bytes that the C library has given out."""
    gc.collect()
    look = ctypes.CDLL(None).mallinfo2
    look.restype = Given
    now = look()
    return now.uord + now.hblkhd


tells_what_is_given = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not tell what it has given out"
)


@tells_what_is_given
def test_what_a_process_keeps_for_itself_goes_with_it():
    def live():
        """Blocks of the first pool, views in mappings of their own."""
        alone = Alone()
        alone.runtime.become(0, "alone", alone.bell)
        promise = alone.runtime.promise()
        call = alone.call(alone.service(len), promise)
        array = alone.runtime.put(np.zeros(10_000))
        views = [array.get() for _ in range(2)]
        alone.runtime.fulfil(promise, None, serialization.dump_error(KeyError()))
        del promise, call, array, views
        alone.close()

    def measure():
        for _ in range(3):
            live()
        before = given()
        for _ in range(100):
            live()
        assert given() - before < 100 * 100

    assert passes_in_child(measure)


@tells_what_is_given
def test_what_a_large_value_was_written_in_is_not_kept(alone):
    """The buffer of a small value is kept for the next."""
    large = [0.5] * (1 << 18)
    alone.runtime.put(1)
    before = given()
    alone.runtime.put(large)
    assert given() - before < 1 << 20


def test_a_process_without_memory_for_what_it_keeps_says_so():
    def become():
        libc, most = ctypes.CDLL(None), ctypes.c_size_t(13 << 20)
        libc.malloc.restype = ctypes.c_void_p
        assert libc.mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD: what is large comes from the system, and goes back there
        bound_addresses(0)
        while libc.malloc(most):  # but for what has gone back to the heap before
            pass
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        alone = Alone()
        bound_addresses(-GB)
        with pytest.raises(MemoryError):
            alone.runtime.become(0, "alone", alone.bell)

    assert passes_in_child(become)


def test_a_runtime_that_is_gone_is_forgotten():
    """The runtime that comes after it forgets it, at the latest."""

    def gone():
        gc.collect()
        return sum(type(one) is weakref.ref and one() is None for one in gc.get_objects())

    Alone().close()
    before = gone()
    for _ in range(5):
        Alone().close()
    assert gone() <= before


def test_a_dump_of_core_has_no_segment_in_it(alone):
    flags, name = {}, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            name = line
        elif line.startswith("VmFlags:") and "memfd:flame_fast" in name:
            flags[name] = line.split()
    assert len(flags) == 2
    assert all("dd" in found for found in flags.values())
    del alone


def test_a_second_view_of_a_value_is_a_mapping_by_itself(alone):
    value = alone.runtime.put(np.arange(10_000.0))
    views = []
    for count in (1, 2, 3):
        views.append(value.get())
        assert mappings() == (1, count)
    views[1][:] = 0
    assert views[0][-1] == views[2][-1] == value.get()[-1] == 9999
    del views
    assert mappings() == (1, 1)


def test_a_forked_child_s_views_stay_what_they_were(tmp_path):
    """The views of all runtimes stay, whatever the parent drops and allocates then; one pipe tells of the child's end."""
    runtimes = [Alone(), Alone()]
    views = [alone.runtime.put(np.full(10_000, 1.0 + number)).get() for number, alone in enumerate(runtimes)]
    before = len(os.listdir("/proc/self/fd"))
    with Gate(tmp_path) as gate:

        def look():
            gate.wait()
            assert [(view == number + 1.0).all() for number, view in enumerate(views)] == [True, True]

        pid = in_child(look)
        assert len(os.listdir("/proc/self/fd")) == before + 2
        gate.entered()
        views.clear()
        for alone in runtimes:
            assert alone.in_use()[1] >= 80_000
            kept = [alone.runtime.put(np.full(10_000, 7.0)) for _ in range(3)]
            del kept
    assert os.waitpid(pid, 0)[1] == 0
    for alone in runtimes:
        assert alone.in_use() == (0, 0)
        alone.check()
        alone.close()


def test_a_relative_tells_its_own_children_once(family, tmp_path):
    value = family.runtime.put(np.arange(10_000.0))

    def live():
        view = value.get()
        before = len(os.listdir("/proc/self/fd"))
        with Gate(tmp_path) as gate:
            pid = in_child(gate.wait)
            gate.entered()
            assert len(os.listdir("/proc/self/fd")) == before + 2  # with the gate's
        assert os.waitpid(pid, 0)[1] == 0
        return view

    assert family.recover_process(family.fork(live)) == 0


class Forking:
    """An object that forks when it is written first; the child gives up."""

    child = None

    def __reduce__(self):
        if self.child is None:
            self.child = os.fork()
        if self.child == 0:
            raise KeyError("child")
        return int, ()


def test_a_child_that_was_forked_while_a_value_was_written_holds_nothing_of_it(alone):
    array, forking = np.arange(10_000.0), Forking()
    try:
        value = alone.runtime.put([array, forking])
    finally:
        if forking.child == 0:
            os._exit(0)
    assert os.waitpid(forking.child, 0)[1] == 0
    assert alone.in_use()[0] == 1
    alone.check()
    kept = [alone.runtime.put(array * 2) for _ in range(3)]
    assert np.array_equal(value.get()[0], array)
    alone.check()
    del kept


class ForkingOnce(Forking):
    """The child goes on; its parent waits for its end."""

    ended = None

    def __reduce__(self):
        if self.child is None:
            self.child = os.fork()
            self.ended = self.child and os.waitpid(self.child, 0)[1]
        return bytes, (b"x" * 1000,)


@pytest.mark.parametrize("what", ["value", "call", "outcome"])
def test_a_child_that_was_forked_while_something_was_written_does_not_write_it(alone, what):
    service, promise = alone.service(len), alone.runtime.promise()
    act = {
        "value": alone.runtime.put,
        "call": lambda value: alone.call(service, value),
        "outcome": lambda value: alone.runtime.fulfil(promise, value),
    }[what]
    forking, begin = ForkingOnce(), alone.runtime.statistics()
    try:
        kept = [act(forking)]
        assert forking.child
    except FlameError as error:
        os._exit(error.code is not FlameErrorCode.INVALID_STATE)
    finally:
        if forking.child == 0:
            os._exit(2)
    assert forking.ended == 0
    assert 0 < alone.runtime.statistics()["copied_bytes"] - begin["copied_bytes"] < 2000
    alone.check()
    alone.work()
    alone.runtime.fulfil(promise, None) if what != "outcome" else kept.clear()


def test_a_runtime_that_is_closed_broken_or_the_parent_s_does_nothing(alone):
    runtime = alone.runtime
    kept = [runtime.put_definition(bytes(16), b"body")]
    offset, nbytes = kept[0].offset, kept[0].nbytes

    def refuses(code):
        for refused in (
            lambda: runtime.put(1),
            lambda: runtime.put_definition(bytes(16), b"body"),
            lambda: runtime.hold_definition(bytes(16), offset, nbytes),
        ):
            with pytest.raises(FlameError) as caught:
                refused()
            assert caught.value.code is code

    assert runtime.is_definition(bytes(16), offset)
    assert not runtime.is_definition(bytes(15) + b"x", offset)

    promise = runtime.promise()

    def look():
        assert runtime.is_foreign
        refuses(FlameErrorCode.INVALID_STATE)
        with pytest.raises(FlameError, match="belongs to the parent"):
            runtime.fulfil(promise, None, b"an error")
        assert not runtime.is_definition(bytes(16), offset)

    assert not runtime.is_foreign
    assert passes_in_child(look)
    assert not promise.done()
    runtime.fulfil(promise, None)

    def break_down():
        runtime.become(0, "alone", alone.bell)
        runtime.mark_broken("it broke")
        refuses(FlameErrorCode.INTERNAL)

    assert passes_in_child(break_down)
    alone.in_use()  # lets go of what the children had pinned
    runtime.mark_closed()
    refuses(FlameErrorCode.INVALID_STATE)
    assert not runtime.is_definition(bytes(16), offset)
    kept.clear()


def test_one_process_is_the_first_to_warn(family):
    """Even of two processes that ask at the same moment."""
    words = Words(family.runtime)

    def warn():
        words.set("header", 0, "warned", 1)

    def live():
        words.at_touches((words.place("header", 0, "warned")[0], warn), protection=mmap.PROT_READ)
        assert not family.runtime.is_first_warning()

    assert family.recover_process(family.fork(live)) == 0
    words.set("header", 0, "warned", 0)
    assert [family.runtime.is_first_warning() for _ in range(2)] == [True, False]


def test_statistics_are_the_sums_of_what_processes_count(alone):
    """Of the first and of the last of them, and of one that is gone."""
    words, runtime = Words(alone.runtime), alone.runtime
    gone, last = runtime.request_process(POOL, 0), runtime.request_process(POOL, 0)
    words.set("processes", gone, "state", words.tables.PROCESS_FREE)
    counters = audit.counters()
    entries = [words.tables.DRIVER_INDEX, gone, last]
    before = {("processes", entry, name): words.get("processes", entry, name) for entry in entries for name in counters}
    for number, name in enumerate(counters, 1):
        for power, entry in enumerate(entries):
            words.set("processes", entry, name, number * 10**power)
        assert runtime.statistics()[name] == number * 111
    for word, number in before.items():
        words.set(*word, number)
    words.set("processes", last, "state", words.tables.PROCESS_FREE)


def test_what_is_counted_adds_up(alone):
    """A value that is written anew is copied; one that is read, and passed on, in place is shared each time."""
    runtime, large = alone.runtime, np.arange(10_000.0)
    begin = runtime.statistics()
    value = runtime.put(large)
    copied = runtime.statistics()["copied_bytes"] - begin["copied_bytes"]
    assert large.nbytes <= copied < large.nbytes + 1000
    again = runtime.put(value.get())
    after = runtime.statistics()
    assert after["shared_bytes"] - begin["shared_bytes"] == 2 * large.nbytes
    assert after["copied_bytes"] - begin["copied_bytes"] < copied + 1000
    del value, again


def test_what_a_debug_build_counts_is_in_its_statistics(alone):
    """Another build counts nothing of the kind, and says nothing of it."""
    words, statistics = Words(alone.runtime), alone.runtime.statistics()
    alone.runtime.put(b"x" * 1000)
    counted = [f"{what}_{how}" for what in ("blocks", "slots") for how in ("taken", "freed")]
    found = {name: number for name in counted if (number := words.get("header", 0, name))}
    assert found in ({}, dict.fromkeys(counted, 1))
    assert [name for name in counted if name in statistics] == list(found)
    after = alone.runtime.statistics()
    assert {name: after[name] for name in found} == found


def test_threads_that_write_at_the_same_time_do_not_write_into_each_other_s_value(alone):
    """One thread has begun, and waits for room."""
    words, values = Words(alone.runtime), [("first", b"x" * 100_000), ("second", 2.0)]
    refs = [alone.runtime.put(values[1])]
    with words.locked():
        thread = threading.Thread(target=lambda: refs.append(alone.runtime.put(values[0])))
        thread.start()
        wait_until(lambda: words.get("header", 0, "lock")[0] >> 31 & 1, "its wait for the lock")  # FUTEX_WAITERS
        refs.append(alone.runtime.put(values[1]))
    thread.join(PATIENCE_S)
    assert [ref.get() for ref in refs] == [values[1], values[1], values[0]]


def test_a_setup_is_there_once_it_has_been_set(alone):
    assert alone.runtime.get_setup() is None
    alone.runtime.set_setup(b"setup")
    assert alone.runtime.get_setup() == b"setup"
