"""The store: how much it may take, what it says when it is full, when memory comes back, and what `statistics` tells."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading

import numpy as np
import pytest
from gates import PATIENCE_S, Gate, add, hold, same, wait_until
from process_events import open_pidfds, still_alive

from flame_fast import FlameError, FlameErrorCode, Runner, StoreFullError, WorkerDiedError

MB = 1 << 20
LIMIT = 64 * MB
ENGINES = ["local", "inline"]

#: What may stay behind where something large is given back: bookkeeping, never the values.
LITTLE = 64 << 10


@pytest.fixture(params=ENGINES)
def rr(project, request):
    """Yield a runner with a small store and one worker.

    What the one worker loads on the way does not come in the middle of a count.
    """
    with Runner("store", workers=1, memory=LIMIT, engine=request.param) as runner:
        yield runner


@pytest.fixture
def local(project):
    with Runner("store", workers=1, memory=LIMIT) as runner:
        yield runner


def held(rr):
    return rr.statistics().bytes


# ---- how much ------------------------------------------------------------------------------------------------------------


def test_the_limit_is_what_was_asked_for(project):
    same_limit = [LIMIT, np.int64(LIMIT), "64m", "64M", "64mb", "64MiB", " 64m ", str(LIMIT), "65536k"]
    for memory, meant in [*((memory, LIMIT) for memory in same_limit), ("1g", 1 << 30), (16 * MB, 16 * MB)]:
        with Runner("limited", workers=1, memory=memory, engine="inline") as rr:
            assert rr.statistics().limit_bytes == meant, memory
    with Runner("limited", workers=1, memory="64m") as rr:
        assert rr.statistics().limit_bytes == LIMIT


def test_the_default_limit_is_a_share_of_what_is_free(project):
    with open("/proc/meminfo") as file:
        (total,) = (int(line.split()[1]) << 10 for line in file if line.startswith("MemTotal:"))
    with Runner("default", workers=1) as rr:
        assert 64 * MB <= rr.statistics().limit_bytes <= 0.8 * total


@pytest.mark.parametrize(
    "memory",
    ["", " ", "m", "lots", "64x", "64 m m", "-64m", "1.5", "64m,", "mem=64m", 0, -LIMIT, 1000, "1k", 1 << 60, "1p"]
    + [True, 6.4e7, b"64m", [LIMIT], {}, object],
    ids=repr,
)
def test_a_limit_that_is_none_is_refused(project, nothing_left, memory):
    with pytest.raises(FlameError) as caught:
        Runner("refused", memory=memory)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert repr(memory) in caught.value.message
    assert caught.value.message.startswith("memory: expected ")
    assert not list(nothing_left.rglob("*.db"))


# ---- when it is full -----------------------------------------------------------------------------------------------------


def check_full(error, asked):
    assert asked <= error.asked <= 2 * asked
    assert error.limit == LIMIT
    assert 0 <= error.free < error.asked
    assert f"asked {error.asked:,} bytes, {error.free:,} free of a limit of {error.limit:,}" in str(error)
    assert isinstance(error, FlameError) and isinstance(error, MemoryError)
    assert error.code is FlameErrorCode.INTERNAL
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.asked, copy.free, copy.limit) == (StoreFullError, error.asked, error.free, error.limit)


TOO_LARGE = {
    "an array": lambda: np.zeros(2 * LIMIT, dtype="u1"),
    "bytes": lambda: bytes(2 * LIMIT),
    "text": lambda: "x" * 2 * LIMIT,
    "a bytearray": lambda: bytearray(2 * LIMIT),
    "a big-endian array": lambda: np.zeros(LIMIT // 2, dtype=">i4"),
    "arrays that are too large together": lambda: [np.zeros(LIMIT // 3, dtype="u1") for _ in range(4)],
    "an object": lambda: {"frozen": frozenset([bytes(2 * LIMIT)])},
}


def least_asked(kind):
    return LIMIT // 3 if "together" in kind else 2 * LIMIT


def test_what_does_not_fit_is_refused_to_the_submitter(rr):
    service = rr.service(same)
    service(1).wait()
    before = rr.statistics()
    for kind, make in TOO_LARGE.items():
        value = make()
        for submit in (service, lambda value: service(value=value), lambda value: service([value, 1]), rr.put_object):
            with pytest.raises(StoreFullError) as caught:
                submit(value)
            check_full(caught.value, least_asked(kind))
        assert service(2).get() == 2
        after = rr.statistics()
        assert (after.bytes, after.objects, after.queued, after.running) == (before.bytes, before.objects, 0, 0), kind


def test_a_result_that_does_not_fit_fails_at_get(rr):
    size = rr.service(len)
    for kind, make in TOO_LARGE.items():
        service = rr.service(lambda wanted, make=make: make() if wanted else 7)
        service(False).wait()
        before = held(rr)
        failed = service(True)
        chained = size(failed)
        for future in (failed, chained):
            with pytest.raises(StoreFullError) as caught:
                future.get(timeout=PATIENCE_S)
            check_full(caught.value, least_asked(kind))
        assert isinstance(failed.exception(), StoreFullError)
        assert service(False).get() == 7
        del failed, chained, future, caught
        assert held(rr) == before, kind


def test_dropping_values_makes_room_again(rr):
    """Filled to the brim with large values, again and again: as much fits each time, and what was there stays right."""
    fitted = []
    for _ in range(3):
        refs = []
        with pytest.raises(StoreFullError) as caught:
            while len(refs) < 100:
                refs.append(rr.put_object(np.full(MB, len(refs), dtype="u1")))
        check_full(caught.value, MB)
        assert held(rr) <= LIMIT
        assert [int(ref.get()[number]) for number, ref in enumerate(refs)] == list(range(len(refs)))
        fitted.append(len(refs))
        refs.pop(0)
        refs.append(rr.put_object(np.full(MB, 200, dtype="u1")))
        assert int(refs[-1].get()[-1]) == 200
        del refs
    assert fitted == [fitted[0]] * 3
    assert fitted[0] >= 0.7 * LIMIT / MB  # sizes are rounded up, by a quarter at most


def test_small_values_fill_it_and_make_room_too(project):
    with Runner("small", workers=1, memory="16m") as rr:
        counts = []
        for _ in range(2):
            refs = []
            with pytest.raises(StoreFullError) as caught:
                while len(refs) < 40_000:
                    refs.append(rr.put_object(b"%d " % len(refs) * 160))
            assert caught.value.limit == 16 * MB
            counts.append(len(refs))
            assert refs[-1].get() == b"%d " % (len(refs) - 1) * 160
            with pytest.raises(StoreFullError):
                rr.put_object(np.zeros(4 * MB, dtype="u1"))
            del refs
            assert rr.put_object(np.ones(4 * MB, dtype="u1")).get().all()
        assert counts[0] > 10_000
        assert counts[1] >= 0.9 * counts[0]


def test_nothing_that_was_queued_is_lost_when_the_store_is_full(local):
    """Calls queued before it was full run; those refused do not."""
    total = local.service(lambda number, array: (number, int(array.sum())))
    futures, refused = [], 0
    with Gate() as gate:
        first = local.service(hold)(gate)
        gate.entered()
        for number in range(30):
            try:
                futures.append((number, total(number, np.full(4 * MB, 1, dtype="u1"))))
            except StoreFullError:
                refused += 1
        assert refused > 10
        assert len(futures) > 10
    first.wait()
    assert [future.get() for _, future in futures] == [(number, 4 * MB) for number, _ in futures]
    assert total(99, np.ones(4 * MB, dtype="u1")).get() == (99, 4 * MB)


def test_threads_that_fill_it_together_find_room_again(local):
    taken, errors = [], []

    def fill():
        try:
            mine = []
            with pytest.raises(StoreFullError):
                while len(mine) < 200:
                    mine.append(local.put_object(np.full(MB // 2, 3, dtype="u1")))
            taken.extend(mine)
        except BaseException as error:
            errors.append(error)

    before = held(local)
    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert errors == []
    assert held(local) <= LIMIT
    assert all(ref.get()[0] == 3 for ref in taken)
    taken.clear()
    assert held(local) == before


def test_a_value_of_many_large_arrays(rr):
    """Each lies by itself; together they nearly fill the store, and go together."""
    service = rr.service(lambda arrays: [array + 1 for array in arrays])
    service([np.ones(10)]).wait()
    before = held(rr)
    for _ in range(3):
        future = service([np.full(128 << 10, number, dtype="u1") for number in range(200)])
        got = future.get()
        assert [int(array[-1]) for array in got] == list(range(1, 201))
        assert held(rr) - before >= 200 * (128 << 10)
        del future
        kept = got.pop(77)
        del got
        assert 128 << 10 <= held(rr) - before <= (128 << 10) + LITTLE
        assert (kept == 78).all()
        del kept
        assert held(rr) == before


def test_a_tasks_own_arrays_do_not_take_the_room_of_values(local):
    """The limit is for arguments and values; what a task needs for itself meanwhile is its own affair."""

    def work(gate):
        mine = [np.ones(12 * MB, dtype="u1") for _ in range(5)]
        gate.wait()
        return sum(int(array[-1]) for array in mine)

    with Gate() as gate:
        future = local.service(work)(gate)
        gate.entered()
        ref = local.put_object(np.ones(30 * MB, dtype="u1"))
        gate.open()
        assert future.get() == 5
    assert ref.get().all()


def test_a_full_store_of_one_runner_is_not_anothers(project):
    with Runner("one", workers=1, memory="16m") as one, Runner("two", workers=1, memory="64m") as two:
        large = np.ones(20 * MB, dtype="u1")
        with pytest.raises(StoreFullError):
            one.put_object(large)
        assert two.put_object(large).get().all()


# ---- when memory comes back ----------------------------------------------------------------------------------------------


def test_memory_comes_back_with_the_last_future_and_the_last_view(rr):
    service = rr.service(lambda array: array + 1)
    service(np.ones(MB)).wait()
    before = held(rr)
    future = service(np.ones(MB))
    value = future.get()
    again = future.get()[::2][10:]
    assert held(rr) - before >= 8 * MB
    del future
    assert held(rr) - before >= 8 * MB
    del value
    assert held(rr) - before >= 8 * MB
    assert (again == 2).all()
    del again
    assert held(rr) == before


def test_it_comes_back_whatever_was_dropped_first(rr):
    service = rr.service(lambda size: {"a": [bytes(size), (np.ones(size),)], "b": "é" * size})
    service(10).wait()
    before = held(rr)
    future = service(MB)
    value = future.get()
    value["a"][1][0].sum()
    del value
    assert held(rr) - before >= 8 * MB
    del future
    assert held(rr) == before


def test_views_in_a_cycle_come_back_when_it_is_collected(rr):
    before = held(rr)
    cycle = [rr.put_object(np.ones(MB)).get()]
    cycle.append(cycle)
    del cycle
    assert held(rr) - before >= 8 * MB
    gc.collect()
    assert held(rr) == before


def test_a_ref_and_its_future_hold_one_value(rr):
    service = rr.service(same)
    service(1).wait()
    before = held(rr)
    future = service(np.ones(MB))
    ref = future.ref()
    del future
    assert ref.get().sum() == MB
    del ref
    assert held(rr) == before


def test_an_argument_is_freed_as_soon_as_its_call_has_finished(project):
    """A hundred megabytes are in the store while the call waits for its turn, and gone when it is over."""
    with Runner("freed", workers=1, memory="300m") as rr, Gate() as gate:
        total = rr.service(lambda array: float(array.sum()))
        total(np.ones(10)).wait()
        before = held(rr)
        first = rr.service(hold)(gate)
        gate.entered()
        future = total(np.ones(100 * MB // 8))
        assert held(rr) - before >= 100 * MB
        gate.open()
        future.wait()
        first.wait()
        assert held(rr) - before <= LITTLE
        assert future.get() == 100 * MB // 8


def test_the_argument_of_a_failed_call_is_freed_too(rr):
    def fail(array):
        raise ValueError(array[0])

    service = rr.service(fail)
    service(np.ones(10)).exception()
    before = held(rr)
    future = service(np.ones(MB))
    assert isinstance(future.exception(), ValueError)
    assert held(rr) - before <= LITTLE
    del future
    assert held(rr) == before


def test_the_items_of_a_chain_are_freed_on_the_way(rr):
    """Thirty links of eight megabytes in a store of 64: only what is still needed stays."""
    plus = rr.service(add)
    future = plus(np.zeros(MB), 1)
    for _ in range(30):
        future.wait()
        future = plus(future, 1)
    assert (future.get() == 31).all()


def test_a_dropped_dependency_is_freed_with_the_call_that_needed_it(rr):
    make, total = rr.service(lambda size: np.ones(size)), rr.service(lambda array: float(array.sum()))
    total(make(10)).wait()
    before = held(rr)
    future = total(make(MB))
    future.wait()
    assert held(rr) - before <= LITTLE
    assert future.get() == MB


def test_what_could_not_be_pickled_leaves_nothing(rr):
    before = held(rr)
    for submit in (rr.service(same), rr.put_object):
        with pytest.raises(TypeError, match="lock"):
            submit([np.ones(MB), threading.Lock()])
    service = rr.service(lambda size: [np.ones(size), threading.Lock()])
    service(1).exception()
    services = held(rr) - before
    assert services <= LITTLE
    assert "lock" in str(service(MB).exception())
    assert held(rr) - before <= LITTLE


def test_idle_memory_goes_back_to_the_system(project):
    """What values have left is kept warm for the next ones, and given back when there are none for a while."""
    with Runner("idle", workers=1, memory="256m") as rr:
        ref = rr.put_object(np.ones(4 * MB))
        assert system_bytes() >= 32 * MB
        del ref
        kept = rr.statistics()
        assert kept.cached_bytes >= 32 * MB
        assert kept.bytes <= LITTLE
        wait_until(lambda: rr.statistics().cached_bytes == 0, "giving idle memory back")
        wait_until(lambda: system_bytes() <= 8 * MB, "the system's having it")
        assert rr.statistics().peak_bytes >= 32 * MB
        assert rr.put_object(np.ones(4 * MB)).get().all()


def system_bytes():
    """Return what the one runner of this process really takes from the system for its store."""
    descriptors = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    (store,) = {
        os.stat(path).st_blocks * 512
        for path in descriptors
        if os.path.lexists(path) and os.readlink(path).startswith("/memfd:flame_fast")
    }
    return store


def test_warm_memory_counts_neither_as_held_nor_against_the_limit(rr):
    for _ in range(5):
        rr.put_object(np.ones(6 * MB))
        assert held(rr) <= LITTLE
    assert rr.put_object(bytes(48 * MB)).get() == bytes(48 * MB)


# ---- workers that hold views ---------------------------------------------------------------------------------------------


def kill(pid):
    """Return once it is dead: no call can be its any more."""
    pidfds = open_pidfds([pid])
    os.kill(pid, signal.SIGKILL)
    assert still_alive(pidfds, PATIENCE_S) == []


def keep(array):
    import sys

    sys.kept = array
    return os.getpid()


def look_at_kept():
    import sys

    return float(sys.kept.sum())


def test_what_a_killed_worker_held_is_released(local):
    """The worker keeps a view in a global: it holds the value after its last ref is gone, until the worker dies."""
    keeper = local.service(keep)
    keeper(np.ones(10)).wait()
    before = held(local)
    ref = local.put_object(np.ones(MB))
    pid = keeper(ref).get()
    del ref
    assert held(local) - before >= 8 * MB
    local.put_object(np.zeros(MB))  # would lie in its place
    assert local.service(look_at_kept)().get() == MB
    kill(pid)
    wait_until(lambda: held(local) - before <= LITTLE, "the release of a dead worker's views")
    assert local.service(same)(1).get() == 1


def test_the_drivers_views_outlive_a_worker_that_held_the_same(local):
    keeper = local.service(keep)
    ref = local.put_object(np.ones(MB))
    view = ref.get()
    pid = keeper(ref).get()
    del ref
    kill(pid)
    assert keeper(np.ones(10)).get() != pid
    local.put_object(np.zeros(MB))
    assert (view == 1).all()


def test_what_a_dying_call_had_is_released(local):
    """Its argument, what it has made so far, and the result it has nearly written."""

    def die(array):
        mine = [array + number for number in range(3)]
        os.kill(os.getpid(), signal.SIGKILL)
        return mine

    service = local.service(die)
    local.service(same)(1).wait()
    before = held(local)
    for _ in range(3):
        with pytest.raises(WorkerDiedError):
            service(np.ones(MB)).get()
    wait_until(lambda: held(local) - before <= LITTLE, "the release of what the dead worker had")


def test_an_instance_that_ends_releases_what_it_kept(local):
    class Keeper:
        def keep(self, array):
            self.array = array

    before = held(local)
    keeper = local.service(Keeper())
    keeper.keep(np.ones(MB)).wait()
    assert held(local) - before >= 8 * MB
    keeper.close()
    wait_until(lambda: held(local) - before <= LITTLE, "the release of what an instance kept")


# ---- statistics ----------------------------------------------------------------------------------------------------------


def states(rr):
    found = rr.statistics()
    return {name: getattr(found, name) for name in ("waiting", "queued", "running", "done", "failed", "objects")}


def test_statistics_tell_the_states_of_calls(local):
    plus = local.service(add)
    assert set(states(local).values()) == {0}
    with Gate() as gate:
        running = local.service(hold)(gate, 1)
        gate.entered()
        waiting, queued = [plus(running, 1), plus(running, running)], [plus(number) for number in range(3)]
        ref = local.put_object("x")
        assert states(local) == {"waiting": 2, "queued": 3, "running": 1, "done": 1, "failed": 0, "objects": 1}
    failed = plus(1, "x")
    assert isinstance(failed.exception(), TypeError)
    local.wait([waiting, queued])
    assert states(local) == {"waiting": 0, "queued": 0, "running": 0, "done": 7, "failed": 1, "objects": 8}
    del running, waiting, queued, ref
    assert states(local) == {"waiting": 0, "queued": 0, "running": 0, "done": 0, "failed": 1, "objects": 1}
    del failed
    assert set(states(local).values()) == {0}


def test_statistics_tell_bytes(rr):
    service = rr.service(same)
    service(1).wait()
    before = rr.statistics()
    assert before.bytes <= LITTLE
    ref = rr.put_object(np.ones(MB))
    one = rr.statistics()
    assert 8 * MB <= one.bytes - before.bytes <= 10 * MB
    assert one.copied_bytes - before.copied_bytes == 8 * MB
    assert one.shared_bytes == before.shared_bytes
    assert one.peak_bytes >= one.bytes
    view = ref.get()
    two = rr.statistics()
    assert (two.bytes, two.copied_bytes) == (one.bytes, one.copied_bytes)
    assert two.shared_bytes - one.shared_bytes == 8 * MB
    got = service(view).get()
    three = rr.statistics()
    assert not np.may_share_memory(got, view)  # each arrival is private, though the value lies there once
    assert three.copied_bytes - two.copied_bytes <= LITTLE
    assert three.shared_bytes - two.shared_bytes == 4 * 8 * MB  # to the task and into it, from it and back
    del ref, view, got
    gone = rr.statistics()
    assert gone.bytes == before.bytes
    assert gone.peak_bytes >= three.bytes
    assert (gone.cached_bytes >= 8 * MB) is not rr._engine.runtime.inline  # no supervisor would give back what that one kept


def test_bytes_and_text_are_copied_in_and_out(rr):
    for value in (bytes(MB), "x" * MB):
        before = rr.statistics()
        ref = rr.put_object(value)
        assert rr.statistics().copied_bytes - before.copied_bytes >= MB
        assert ref.get() == value
        assert rr.statistics().copied_bytes - before.copied_bytes >= 2 * MB
        assert rr.statistics().shared_bytes == before.shared_bytes


def test_values_that_ride_in_a_slot_count_as_no_bytes(rr):
    plus = rr.service(add)
    plus(1, 2).wait()
    before = rr.statistics()
    futures = [plus(number, 1.5) for number in range(100)]
    rr.wait(futures)
    after = rr.statistics()
    assert (after.bytes, after.copied_bytes, after.shared_bytes) == (before.bytes, before.copied_bytes, before.shared_bytes)
    assert after.objects - before.objects == 100


def test_statistics_count_what_dead_workers_moved(local):
    keeper = local.service(keep)
    first, second = (keeper(np.ones(MB)).get() for _ in range(2))
    assert first == second
    before = local.statistics()
    kill(first)
    assert keeper(np.ones(MB)).get() != first
    after = local.statistics()
    assert after.copied_bytes - before.copied_bytes >= 8 * MB
    assert after.shared_bytes - before.shared_bytes >= 8 * MB


def test_statistics_are_a_record(rr):
    found = rr.statistics()
    names = [name for name in dir(found) if not name.startswith("_")]
    values = {name: getattr(found, name) for name in names}
    assert all(type(value) is int and value >= 0 for value in values.values())
    for name, value in values.items():
        with pytest.raises(AttributeError):
            setattr(found, name, 1)
        with pytest.raises(AttributeError):
            delattr(found, name)
        assert f"{name}={value:,}" in repr(found)
    with pytest.raises(AttributeError):
        found.other = 1
    ref = rr.put_object(np.ones(MB))
    assert {name: getattr(found, name) for name in names} == values
    assert rr.statistics().bytes > values["bytes"]
    del ref


def test_statistics_in_a_task_are_the_runners(rr):
    def look():
        with Runner("inner") as inner:
            return inner.statistics().limit_bytes, inner.statistics().running

    assert rr.service(look)().get() == (LIMIT, 1)


def test_statistics_of_a_closed_runner(rr):
    rr.close()
    with pytest.raises(FlameError) as caught:
        rr.statistics()
    assert caught.value.code is FlameErrorCode.INVALID_STATE
