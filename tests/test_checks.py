"""What the native runtime promises where no other test looks: who is woken, who gets what back, what is refused.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it. One
process, or one with forked relatives; nobody here is stepped.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from alone import Alone
from flame_fast.kernels import pickling
from gates import PATIENCE_S, Gate, wait_until

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.base import INSTANCE

#: A lost wake-up costs a look of 250 ms, or a minute: the shortest of several waits is below this only if none is lost.
PROMPT_S = 0.2
WAITS = 5


def is_asleep(pid):
    """In a futex: whoever spins is not for long."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] == b"S"


def once_asleep(pid, value=None):
    """A task: ends when a process sleeps, with a value or an error."""
    wait_until(lambda: is_asleep(pid), "its sleep")
    if isinstance(value, Exception):
        raise value
    return value


def same(value):
    return value


def shortest(wait):
    """Seconds that the shortest of some waits takes, each begun anew."""
    return min(timed(wait) for _ in range(WAITS))


def timed(wait):
    begin = time.monotonic()
    wait()
    return time.monotonic() - begin


def error_of(message):
    return pickling.dump_error(LookupError(message))


class Log(list):
    def note(self, value):
        self.append(value)
        return list(self)


# ---- whoever sleeps is woken ----------------------------------------------------------------------------------------


def test_whoever_waits_for_a_call_is_woken_when_it_ends(family):
    family.fork_worker()
    service = family.service(once_asleep)
    assert shortest(lambda: family.call(service, os.getpid()).get(PATIENCE_S)) < PROMPT_S


def test_whoever_waits_for_many_calls_is_woken_by_the_last(family):
    family.fork_worker()
    service, quick = family.service(once_asleep), family.service(same)

    def wait():
        futures = [family.call(quick, 1), family.call(quick, 2), family.call(service, os.getpid(), 3)]
        assert family.runtime.get_many(futures, PATIENCE_S) == [1, 2, 3]

    assert shortest(wait) < PROMPT_S


def test_whoever_waits_for_many_calls_is_woken_by_a_failure_among_them(family):
    """The calls behind it are not waited for."""
    family.fork_worker()
    service = family.service(once_asleep)

    def wait():
        never = family.runtime.promise()
        failing = family.call(service, os.getpid(), LookupError("gone"))
        with pytest.raises(LookupError, match="gone"):
            family.runtime.get_many([failing, never], PATIENCE_S)
        family.runtime.fulfil(never, None)

    assert shortest(wait) < PROMPT_S


def test_whoever_selects_is_woken_by_any_and_told_which(family):
    family.fork_worker()
    service = family.service(once_asleep)

    def wait():
        never = family.runtime.promise()
        future = family.call(service, os.getpid())
        selector = family.runtime.selector([never, future, never])
        assert selector.take(PATIENCE_S) == [1]
        family.runtime.fulfil(never, None)
        assert selector.take(PATIENCE_S) == [0, 2]

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_for_a_task(family):
    worker = family.fork_worker()
    service = family.service(same)

    def wait():
        wait_until(lambda: is_asleep(worker.pid))
        assert family.call(service, 1).get(PATIENCE_S) == 1

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_for_a_task_of_a_limited_service(family):
    """Who of the idle ones has the seat is not known: all are called."""
    workers = [family.fork_worker(), family.fork_worker()]
    service = family.service(same, limit=1)

    def wait():
        wait_until(lambda: all(is_asleep(worker.pid) for worker in workers))
        assert family.call(service, 1).get(PATIENCE_S) == 1

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_for_a_task_whose_input_has_come(family):
    worker = family.fork_worker()
    service = family.service(same)

    def wait():
        promise = family.runtime.promise()
        future = family.call(service, promise)
        wait_until(lambda: is_asleep(worker.pid))
        family.runtime.fulfil(promise, 7)
        assert future.get(PATIENCE_S) == 7

    assert shortest(wait) < PROMPT_S


def test_an_idle_worker_is_called_to_load_a_service_ahead(family, tmp_path):
    worker = family.fork_worker()
    wait_until(lambda: is_asleep(worker.pid))
    family.service(Telling(str(tmp_path / "loaded")), warmup=1)
    wait_until((tmp_path / "loaded").exists, "its loading")


class Telling:
    """Something to be called that leaves a file behind where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        open(state["path"], "w").close()

    def __call__(self):
        return None


def test_an_idle_worker_that_is_retired_leaves(family):
    worker = family.fork_worker()
    wait_until(lambda: is_asleep(worker.pid))
    family.runtime.retire(worker.index)
    assert worker.has_ended(PATIENCE_S)
    assert family.bury(worker) == 0


def test_an_idle_instance_is_called_for_its_next_call(family):
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    for number in range(1, 4):
        wait_until(lambda: is_asleep(instance.pid))
        assert len(family.call(log, number).get(PATIENCE_S)) == number


def test_an_idle_instance_goes_on_when_the_call_it_waited_for_fails_by_its_input(family):
    """Nothing is left before the second call then; nobody but who passes the failure on knows."""
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    promise = family.runtime.promise()
    first, second = family.call(log, promise), family.call(log, "second")
    wait_until(lambda: is_asleep(instance.pid))
    family.runtime.fulfil(promise, None, error_of("gone"))
    assert isinstance(first.exception(0), LookupError)
    assert second.get(PATIENCE_S) == ["second"]


def test_an_idle_instance_ends_when_its_service_is_closed(family):
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (instance,) = family.fork_requested()
    wait_until(lambda: is_asleep(instance.pid))
    family.runtime.close_service(*log[:2])
    assert instance.has_ended(PATIENCE_S)
    assert family.bury(instance) == 0
    assert family.service(Log(), INSTANCE, ("note",))[2] == log[2]


# ---- failures go down -----------------------------------------------------------------------------------------------


def test_a_failure_reaches_more_tasks_than_are_noted_at_first(alone):
    """All of one input, and one task below each."""
    service = alone.service(same)
    before = alone.in_use()
    promise = alone.runtime.promise()
    level = [alone.call(service, promise) for _ in range(100)]
    below = [alone.call(service, future) for future in level]
    alone.runtime.fulfil(promise, None, error_of("gone"))
    for future in [*level, *below]:
        assert repr(future.exception(0)) == repr(LookupError("gone"))
    del promise, level, below, future
    assert alone.in_use() == before


# ---- tasks that an outcome makes ready ------------------------------------------------------------------------------


def test_all_tasks_that_one_outcome_makes_ready_run(family):
    """The worker that has finished their input runs one of them next, and queues the rest."""
    family.fork_worker()
    service, last = family.service(same), family.service(add_up)
    promise = family.runtime.promise()
    first = family.call(service, promise)
    level = [family.call(service, first) for _ in range(5)]
    total = family.call(last, *level, first)
    family.runtime.fulfil(promise, 7)
    assert total.get(PATIENCE_S) == 42
    assert family.runtime.get_many(level) == [7] * 5


def add_up(*values):
    return sum(values)


@pytest.mark.parametrize("sticky", [False, True])
def test_a_task_that_has_become_ready_waits_for_a_seat(family, sticky):
    """Its service is limited, and another worker runs it: the one that has finished the input must not run it."""
    pids = {family.fork_worker().pid, family.fork_worker().pid}
    limited, free = family.service(once_released, limit=1, sticky=sticky), family.service(same)
    promise = family.runtime.promise()
    with Gate() as gate:
        holding = family.call(limited, gate)
        gate.entered()
        first = family.call(free, promise)
        waiting = family.call(limited, first)
        family.runtime.fulfil(promise, None)
        first.wait(PATIENCE_S)
        wait_until(lambda: all(map(is_asleep, pids)))
        assert not waiting.done()
    assert {holding.get(PATIENCE_S), waiting.get(PATIENCE_S)} <= pids


def once_released(gate):
    if gate is not None:
        gate.wait()
    return os.getpid()


def test_an_input_goes_with_the_task_that_needed_it(family):
    """Though the task's own future is held on to."""
    family.fork_worker()
    service, length = family.service(same), family.service(len)
    before = family.in_use()
    futures = [family.call(length, family.call(service, b"x" * 100_000)) for _ in range(10)]
    assert family.runtime.get_many(futures, PATIENCE_S) == [100_000] * 10
    wait_until(lambda: family.in_use()[0] == before[0] + 10, "the inputs' going")
    assert family.in_use()[1] < before[1] + 100_000


def test_an_error_for_which_there_is_no_room_reads_as_a_full_store():
    alone = Alone(limit=1 << 20)
    values, size = [], 1 << 20
    promise = alone.runtime.promise()
    while size >= 160:
        try:
            values.append(alone.runtime.put(b"x" * size))
        except StoreFullError:
            size //= 2
    alone.runtime.fulfil(promise, None, error_of("y" * 300))
    assert isinstance(promise.exception(0), StoreFullError)
    alone.check()
    del values, promise
    alone.check()
    alone.close()


def test_a_slot_used_again_has_nothing_of_its_former_life(alone):
    service = alone.service(same)
    for _ in range(3):
        promise = alone.runtime.promise()
        future = alone.call(service, promise)
        alone.check()
        alone.work()
        assert not future.done()
        alone.runtime.fulfil(promise, 3)
        alone.check()
        alone.work()
        assert future.get(0) == 3


def test_a_call_for_which_no_process_is_to_be_had_takes_nothing(family):
    log = family.service(Log(), INSTANCE, ("note",))
    value = family.runtime.put(np.arange(10_000.0))
    before, reserved = family.in_use(), []
    with pytest.raises(FlameError, match="2048 processes"):
        while True:
            reserved.append(family.runtime.request_process(3, 0))
    with pytest.raises(FlameError, match="2048 processes"):
        family.call(log, value, value.get(), b"x" * 1000)
    assert family.in_use() == before
    for index in reserved:
        family.runtime.start(index)
        assert family.runtime.call_off(index)
    family.check()


def test_a_call_with_inputs_for_which_there_is_no_room_takes_nothing():
    alone = Alone(limit=1 << 20)
    service = alone.service(len)
    values = [alone.runtime.put(number) for number in range(5000)]
    held, size = [], 1 << 20
    while size >= 1 << 16:
        try:
            held.append(alone.runtime.put(b"x" * size))
        except StoreFullError:
            size //= 2
    before = alone.in_use()
    with pytest.raises(StoreFullError):
        alone.call(service, *values)
    assert alone.in_use() == before
    alone.check()
    alone.close()


# ---- members of groups ----------------------------------------------------------------------------------------------

#: Slots of a group, or blocks of a slab.
GROUP = 62
SLAB_BYTES = 1 << 16  # of blocks of a kilobyte


def slot_of(future):
    return int(repr(future).split()[1].rstrip(">"))


def test_slots_given_back_here_and_there_are_taken_before_new_ones(alone):
    """Of groups that are half empty none is left behind."""
    values = [alone.runtime.put(number) for number in range(8 * GROUP)]
    highest = max(map(slot_of, values))
    for round_ in range(2):
        del values[round_::2]
        values += [alone.runtime.put(number) for number in range(8 * GROUP - len(values))]
        assert max(map(slot_of, values)) <= highest + GROUP


def test_blocks_given_back_here_and_there_are_taken_before_new_ones(alone):
    values = [alone.runtime.put(b"x" * 1000) for _ in range(8 * GROUP)]
    room = alone.room()
    for round_ in range(2):
        del values[round_::2]
        values += [alone.runtime.put(b"y" * 1000) for _ in range(8 * GROUP - len(values))]
        assert alone.room() >= room - SLAB_BYTES


def test_a_full_store_gives_out_each_block_that_comes_back():
    """Even one of a slab that is as good as full."""
    alone = Alone(limit=1 << 20)
    values = []
    with pytest.raises(StoreFullError):
        while True:
            values.append(alone.runtime.put(b"x" * 1000))
    assert len(values) > 8 * GROUP
    for at in (0, len(values) // 2, len(values) - 1):
        values[at] = None
        values[at] = alone.runtime.put(b"y" * 1000)
        with pytest.raises(StoreFullError):
            alone.runtime.put(b"z" * 1000)
    assert {value.get()[:1] for value in values} == {b"x", b"y"}
    alone.check()
    del values
    alone.check()
    alone.close()


def test_what_one_process_leaves_empty_another_may_have(family):
    """Groups and slabs that a relative took and its end emptied: as much as there was fits in once more."""

    def live():
        values = [family.runtime.put(b"x" * 1000) for _ in range(20 * GROUP)]
        assert max(map(slot_of, values)) < 23 * GROUP

    for _ in range(4):
        assert family.bury(family.fork(live)) == 0
        family.check()
        assert family.in_use() == (0, 0)


def test_groups_emptied_while_another_is_in_use_are_anybodys(family):
    """The last member of a group that its owner does not take from gives the group back, whoever drops it."""
    values = [family.runtime.put(b"x" * 1000) for _ in range(4 * GROUP)]
    del values[: 3 * GROUP]
    family.check()

    def live():
        assert slot_of(family.runtime.put(b"y" * 1000)) < 3 * GROUP

    assert family.bury(family.fork(live)) == 0
    family.check()


# ---- extents --------------------------------------------------------------------------------------------------------

MB = 1 << 20


def test_a_dropped_value_stays_warm_for_the_next_one_up_to_half_the_store(family):
    family.runtime.put(b"x" * MB)
    counters = family.runtime.counters()
    warm = counters["cached"]
    assert MB <= warm <= 2 * MB
    _, takes = family.runtime.idle_memory()
    value = family.runtime.put(b"y" * MB)
    assert family.runtime.idle_memory() == (0, takes + 1)
    del value
    assert family.runtime.counters()["cached"] == warm
    values = [family.runtime.put(b"z" * MB) for _ in range(40)]
    assert family.runtime.counters()["cached"] == 0
    peak = family.runtime.counters()["peak"]
    assert 40 * MB <= peak <= 41 * warm + SLAB_BYTES
    del values
    assert (1 << 25) - 2 * warm < family.runtime.counters()["cached"] <= 1 << 25
    assert family.runtime.counters()["peak"] == peak
    family.check()
    family.runtime.trim()
    assert family.runtime.counters()["cached"] == 0
    family.check()


def test_a_somewhat_larger_warm_extent_is_taken_and_a_much_larger_one_is_not(family):
    family.runtime.put(b"x" * MB)
    (warm,) = {family.runtime.counters()["cached"]}
    value = family.runtime.put(b"x" * (MB * 3 // 4))
    assert family.runtime.counters()["cached"] == 0
    del value
    value = family.runtime.put(b"x" * (MB // 4))
    assert family.runtime.counters()["cached"] == warm
    del value
    family.check()


def test_the_zygote_is_told_of_the_first_extent_that_is_kept(family):
    """It gives the memory back when nothing happens any more."""
    value = family.runtime.put(b"x" * MB)
    rung(family)
    del value
    assert rung(family)
    value = family.runtime.put(b"x" * 2 * MB), family.runtime.put(b"x" * 3 * MB)
    rung(family)
    del value
    family.check()


def rung(family):
    """Whether the bell has been rung since the last time."""
    try:
        return os.eventfd_read(family.bell) > 0
    except BlockingIOError:
        return False


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


def test_a_value_of_many_extents_gives_all_of_them_back(family):
    """More than the pages of which one call gives back."""
    arrays = [np.full(10_000, float(number)) for number in range(40)]
    value = family.runtime.put(arrays)
    assert [array[0] for array in value.get()] == list(range(40))
    family.check()
    family.runtime.trim()
    family.runtime.serve_inline()  # from here on nothing is kept warm
    del value
    family.check()
    assert family.in_use() == (0, 0)
    assert family.runtime.counters()["cached"] < 40 * 80_000


# ---- services -------------------------------------------------------------------------------------------------------


def test_a_closed_service_goes_once_its_last_call_has_ended(alone):
    promise = alone.runtime.promise()
    service = alone.service(same, limit=1)
    future = alone.call(service, promise)
    alone.runtime.close_service(*service[:2])
    assert alone.runtime.is_service(*service[:2])
    assert alone.runtime.reap_services() == 1
    other = alone.service(same, limit=1)
    assert other[0] != service[0] and other[2] != service[2]
    alone.runtime.fulfil(promise, 5)
    alone.work()
    assert future.get() == 5
    assert alone.runtime.reap_services() == 0
    assert not alone.runtime.is_service(*service[:2])
    again = alone.service(same, limit=1)
    assert (again[0], again[2]) == (service[0], service[2])
    assert again[1] == service[1] + 1


def test_closing_a_service_that_was_made_anew_does_nothing(alone):
    old = alone.service(same)
    alone.runtime.close_service(*old[:2])
    new = alone.service(same)
    assert new[0] == old[0]
    alone.runtime.close_service(*old[:2])
    future = alone.call(new, 3)
    alone.work()
    assert future.get() == 3


def test_a_closed_service_loads_nowhere_ahead(family):
    """What its warm-up still asked for is taken back."""
    service = family.service(same, warmup=3)
    family.check()
    family.runtime.close_service(*service[:2])
    family.check()


def test_a_store_too_full_for_a_service_keeps_its_lane_and_entry(alone):
    held = []
    with pytest.raises(StoreFullError):
        while True:
            held.append(alone.runtime.put(b"x" * MB))
    with pytest.raises(StoreFullError):
        alone.service(b"y" * 2 * MB, limit=1)
    alone.check()
    del held
    assert alone.service(same, limit=1)[2] == 1


def test_limited_and_instance_services_run_out_and_come_back(alone):
    made = []
    with pytest.raises(FlameError, match="255 limited services"):
        while True:
            made.append(alone.service(same, limit=1))
    assert sorted(service[2] for service in made) == list(range(1, 256))
    for service in made[100:102]:
        alone.runtime.close_service(*service[:2])
    assert sorted(alone.service(same, limit=1)[2] for _ in range(2)) == [101, 102]


# ---- burials --------------------------------------------------------------------------------------------------------


def forked_until(family, tmp_path, life):
    """A relative that has lived `life` and waits; killed and buried."""
    path = tmp_path / f"lived-{len(os.listdir(tmp_path))}"

    def live():
        kept = life()
        path.touch()
        signal.pause()
        return kept

    relative = family.fork(live)
    wait_until(path.exists)
    relative.kill()
    family.bury(relative)


def test_a_burial_gives_back_everything_that_the_dead_process_held(family, tmp_path):
    """Values, views, calls in the queue, promises with dependents."""
    service = family.service(same)
    shared = family.runtime.put(np.arange(50_000.0))
    before = family.in_use()

    def life():
        view = shared.get()
        promise = family.runtime.promise()
        values = [family.runtime.put(b"x" * size) for size in (10, 1000, 100_000)]
        calls = [family.call(service, *values), family.call(service, promise, view), family.call(service, shared)]
        return view, promise, values, calls

    forked_until(family, tmp_path, life)
    family.fork_worker()
    family.wait_until_idle()
    family.wait_until_in_use(before)
    assert shared.get()[-1] == 49_999.0


def test_a_seat_comes_back_from_a_dead_worker(family, tmp_path):
    """A sticky one, which a worker keeps between calls."""
    service = family.service(os.getpid, limit=1, sticky=True)
    first = family.fork_worker()
    assert family.call(service).get(PATIENCE_S) == first.pid
    second = family.fork_worker()
    future = family.call(service)
    assert future.get(PATIENCE_S) == first.pid
    wait_until(lambda: is_asleep(first.pid) and is_asleep(second.pid))
    first.kill()
    assert first.has_ended(PATIENCE_S)
    future = family.call(service)
    family.bury(first)
    assert future.get(PATIENCE_S) == second.pid


def test_a_call_of_a_dead_worker_fails_and_the_other_worker_goes_on(family):
    service, quick = family.service(kill_itself), family.service(same)
    workers = [family.fork_worker(), family.fork_worker()]
    future = family.call(service)
    wait_until(lambda: any(worker.has_ended() for worker in workers))
    (dead,) = [worker for worker in workers if worker.has_ended()]
    assert not future.done()
    family.bury(dead, LookupError("died"))
    assert repr(future.exception(0)) == repr(LookupError("died"))
    assert family.call(quick, 4).get(PATIENCE_S) == 4


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def test_calls_in_the_queue_of_a_dead_instance_fail_and_later_ones_at_once(family):
    log = family.service(Dying(), INSTANCE, ("note", "die"), warmup=1)
    (instance,) = family.fork_requested()
    assert family.call(log, 1).get(PATIENCE_S) == [1]
    promise = family.runtime.promise()
    futures = [family.call(log, method=1), family.call(log, 2), family.call(log, promise)]
    family.bury(instance, LookupError("died"))
    futures.append(family.call(log, 3))
    for future in futures:
        assert repr(future.exception(0)) == repr(LookupError("died"))
    family.runtime.fulfil(promise, 1)
    family.runtime.close_service(*log[:2])
    assert family.service(Log(), INSTANCE, ("note",))[2] == log[2]


class Dying(Log):
    def die(self):
        kill_itself()


def test_services_of_a_dead_process_close(family, tmp_path):
    before = family.runtime.counters()["bytes"]
    forked_until(
        family, tmp_path, lambda: [family.service(same, limit=1, warmup=2), family.service(Log(), INSTANCE, ("note",))]
    )
    family.check()
    assert family.runtime.counters()["bytes"] == before
    assert family.service(same, limit=1)[::2] == (0, 1)


def test_statistics_of_a_dead_process_stay(family, tmp_path):
    forked_until(family, tmp_path, lambda: family.runtime.put(b"x" * 100_000).get())
    counters = family.runtime.counters()
    forked_until(family, tmp_path, lambda: None)
    assert family.runtime.counters()["copied"] == counters["copied"] > 100_000
