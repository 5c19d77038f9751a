"""Dependencies: failures reach all dependents, outcomes make tasks ready, and a refused call takes nothing.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest
from actors import LARGE, error_of, is_asleep
from gates import PATIENCE_S, Gate, Log, same, wait_until
from runtime_harness import Alone

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.spec import INSTANCE

# ---- failures reach dependents ---------------------------------------------------------------------------------------


def test_a_failure_reaches_more_tasks_than_are_noted_at_first(alone):
    """All dependents of one call fail, and one task below each."""
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


def test_failures_take_no_memory_of_the_process(alone):
    """Each failure notes its dependents, and forgets them again."""

    class Heap(ctypes.Structure):
        _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]

    heap_in_use = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if heap_in_use is None:
        pytest.skip("this C library does not say what is in use")
    heap_in_use.restype = Heap
    error, found = error_of("gone"), []
    for _ in range(2):
        for _ in range(1000):
            alone.runtime.fulfil(alone.runtime.promise(), None, error)
        found.append(heap_in_use().field7)  # bytes in use
    assert found[1] - found[0] < 32_000


# ---- tasks that an outcome makes ready -------------------------------------------------------------------------------


def test_all_tasks_that_one_outcome_makes_ready_run(family):
    """The worker that has finished their dependency runs one of them next, and queues the rest."""
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
def test_a_task_that_has_become_ready_waits_for_a_permit(family, sticky):
    """Its service is limited, and another worker runs it: the finisher of the dependency must not run it."""
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
    """Although the driver still holds the task's own future."""
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
        family.supervisor.start(index)
        assert family.supervisor.cancel_start(index)
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


def test_inputs_for_which_there_is_no_room_take_nothing():
    """Although the arguments have found some."""
    alone = Alone(limit=1 << 21)
    service, values = alone.service(count), [alone.runtime.put(number) for number in range(1500)]
    kept = alone.call(service, *values)
    alone.work()
    held = []
    with pytest.raises(StoreFullError):
        while True:
            held.append(alone.runtime.put(LARGE))
    before = alone.in_use()
    with pytest.raises(StoreFullError) as caught:
        alone.call(service, *values)
    assert caught.value.asked > 1500 * 24
    assert alone.in_use() == before
    alone.check()
    del held
    assert alone.call(service, *values) is not None
    alone.work()
    assert kept.get() == 1500
    alone.close()


def count(*values):
    return len(values)
