"""What the native runtime promises where no other test looks: who is woken, who gets what back, what is refused.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it. One
process, or one with forked relatives; nobody here is stepped.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import threading
import time
from pathlib import Path

import audit
import numpy as np
import pytest
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, Gate, Log, same, wait_until
from runtime_harness import POOL, Alone, Family
from words import Words, segment_at, slot_of

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host

#: A lost wake-up costs a look of 250 ms, or a minute: the shortest of several waits is below this only if none is lost.
PROMPT_S = 0.2
LARGE = b"x" * 40_000
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


def shortest(wait):
    """Seconds that the shortest of some waits takes, each begun anew."""
    return min(timed(wait) for _ in range(WAITS))


def timed(wait):
    begin = time.monotonic()
    wait()
    return time.monotonic() - begin


def error_of(message):
    return serialization.dump_error(LookupError(message))


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
    """Who of the idle ones has the permit is not known: all are called."""
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
    family.supervisor.retire(worker.index)
    assert worker.has_ended(PATIENCE_S)
    assert family.recover_process(worker) == 0


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
    assert family.recover_process(instance) == 0
    assert family.service(Log(), INSTANCE, ("note",))[2] == log[2]


# ---- waits that can never end ---------------------------------------------------------------------------------------

#: What the next task does: it runs in this very process.
deeds = []


def do():
    return deeds.pop()()


class Tangle:
    """Calls that need each other, around a task that is about to wait for one of them; `me` is its future."""

    def __init__(self, alone):
        self.alone = alone
        self.words = Words(alone.runtime)
        self.done = alone.runtime.put(b"x" * 1000)
        self.me = alone.call(alone.service(do))
        self.service, self.log = alone.service(len), alone.service(Log(), INSTANCE, ("note",))
        self.promises, self.kept = [], []

    def promise(self):
        """A call that runs elsewhere."""
        self.promises.append(self.alone.runtime.promise())
        return self.promises[-1]

    def needing(self, *inputs):
        self.kept.append(self.alone.call(self.service, inputs))
        return self.kept[-1]

    def waiting_for(self, future):
        promise = self.promise()
        self.words.set("slots", slot_of(promise), "waits_for", slot_of(future) + 1)
        return promise

    def any_of(self, *slots):
        promise, block = self.promise(), self.alone.runtime.put(bytes(1000))
        at = self.words.get("slots", slot_of(block), "result")
        os.pwrite(self.words.fd, b"".join(word.to_bytes(8, "little") for word in (len(slots), *slots)), at)
        self.words.set("slots", slot_of(promise), "waits_for", audit.ANY | at)
        self.kept.append(block)
        return promise

    def noted(self, *inputs):
        """A call of an instance, whose process runs something else."""
        self.kept.append(self.alone.call(self.log, *inputs or [1]))
        return self.kept[-1]

    def runs_elsewhere(self, running=None):
        """The instance has a process of its own, which runs nothing, or a call."""
        self.other = self.alone.runtime.request_process(3, 0)
        self.words.set("queues", self.log[2], "process", self.other + 1)
        self.words.set("processes", self.other, "current", slot_of(running) + 1 if running else 0)

    def has_no_process(self):
        """The instance, whose process has ended, or was not asked for yet."""
        self.words.set("queues", self.log[2], "process", 0)

    def failed_before(self):
        """A call of the instance that has failed and gone, and left its place in the queue; its slot is the next one's."""
        promise = self.promise()
        failed = self.alone.call(self.log, promise)
        self.alone.runtime.fulfil(promise, None, error_of("gone"))
        slot = slot_of(failed)
        del failed
        return slot

    def ring(self):
        """Two that wait for each other."""
        first = self.promise()
        second = self.waiting_for(first)
        self.words.set("slots", slot_of(first), "waits_for", slot_of(second) + 1)
        return second

    def is_refused(self, make):
        """Whether the task that waits for what is made is told that this never ends; if not, somebody ends it."""
        ends = threading.Thread(target=self.end_the_wait)

        def wait():
            future = make(self)
            ends.start()
            return future.get()

        deeds.append(wait)
        self.alone.work()
        ends.join()
        error = self.me.exception(0)
        assert "deadlock" in str(error) or "over" in str(error), error
        return "deadlock" in str(error)

    def end_the_wait(self):
        wait_until(lambda: self.me.done() or self.words.get("processes", self.words.tables.DRIVER_INDEX, "waiters"))
        if not self.me.done():
            self.alone.runtime.mark_broken("it is over")


def any_of_two_one_of_which_needs_the_other(tangle):
    first = tangle.promise()
    second = tangle.needing(tangle.me)
    tangle.words.set("slots", slot_of(first), "waits_for", slot_of(second) + 1)
    return tangle.any_of(slot_of(first), slot_of(second))


def behind_one_that_needs_me(tangle, *before):
    tangle.runs_elsewhere()
    tangle.kept += [tangle.noted(*inputs) for inputs in before]
    return tangle.noted()


def before_one_that_needs_me(tangle):
    tangle.runs_elsewhere()
    first = tangle.noted()
    tangle.noted(tangle.me)
    return first


def behind_one_whose_slot_is_another_s(tangle):
    tangle.runs_elsewhere()
    slot = tangle.failed_before()
    behind = tangle.alone.runtime.promise(), tangle.noted()
    assert slot_of(behind[0]) == slot
    tangle.words.set("slots", slot, "waits_for", slot_of(tangle.me) + 1)
    tangle.promises.append(behind[0])
    return behind[1]


def of_an_instance_without_a_process(tangle):
    noted = tangle.noted()
    tangle.has_no_process()
    return noted


def of_an_instance_that_runs(tangle, running):
    tangle.runs_elsewhere(running)
    return tangle.noted()


ENDLESS = {
    "me": lambda t: t.me,
    "one that needs me": lambda t: t.needing(t.me),
    "one that needs me first": lambda t: t.needing(t.me, t.promise(), t.promise()),
    "one that needs me in the middle": lambda t: t.needing(t.promise(), t.me, t.promise()),
    "one that needs me last": lambda t: t.needing(t.promise(), t.promise(), t.me),
    "one that needs me from afar": lambda t: t.needing(t.promise(), t.needing(t.needing(t.needing(t.me)), t.promise())),
    "one that waits for me": lambda t: t.waiting_for(t.me),
    "one that waits for one that waits": lambda t: t.waiting_for(t.needing(t.waiting_for(t.needing(t.me)))),
    "one that waits for any of me": lambda t: t.any_of(slot_of(t.me)),
    "one that waits for any that need me": lambda t: t.any_of(*[slot_of(t.needing(t.me)) for _ in range(3)], slot_of(t.me)),
    "one that waits for any of me and none": lambda t: t.any_of(slot_of(t.me), 1 << 20),
    "one that waits for any, one of which needs the other": any_of_two_one_of_which_needs_the_other,
    "one of several ways": lambda t: t.needing(t.needing(t.me), t.needing(t.needing(t.me))),
    "one that needs a ring and me": lambda t: t.needing(t.ring(), t.me, t.ring()),
    "one of an instance that I am on": lambda t: t.noted(),
    "one of an instance that runs what waits for me": lambda t: of_an_instance_that_runs(t, t.waiting_for(t.me)),
    "one behind one that needs me": lambda t: behind_one_that_needs_me(t, [t.me]),
    "one behind many of which one needs me": lambda t: behind_one_that_needs_me(t, [1], [2], [t.me], [3]),
}
ENDING = {
    "one that runs": lambda t: t.promise(),
    "one that is queued": lambda t: t.needing(),
    "one that needs one that runs": lambda t: t.needing(t.promise(), t.done),
    "one that waits for one that runs": lambda t: t.waiting_for(t.promise()),
    "one that waits for one that is over": lambda t: t.waiting_for(t.done),
    "one that waits for me or one that runs": lambda t: t.any_of(slot_of(t.me), slot_of(t.promise())),
    "one that waits for me or one that is over": lambda t: t.any_of(slot_of(t.me), slot_of(t.done)),
    "one of a ring": lambda t: t.ring(),
    "one of an instance that runs nothing": lambda t: behind_one_that_needs_me(t),
    "one of an instance without a process": of_an_instance_without_a_process,
    "one of an instance that runs another": lambda t: of_an_instance_that_runs(t, t.promise()),
    "one before one that needs me": before_one_that_needs_me,
    "one behind one whose slot is another's": behind_one_whose_slot_is_another_s,
}


@pytest.mark.parametrize("tangles", [ENDLESS, ENDING], ids=["endless", "ending"])
def test_a_task_s_wait_is_refused_if_it_can_never_end(tangles):
    refused = []
    for name, make in tangles.items():
        alone = Alone()
        if Tangle(alone).is_refused(make):
            refused.append(name)
        alone.close()
    assert refused == (list(tangles) if tangles is ENDLESS else [])


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


def test_failures_take_no_memory_of_the_process(alone):
    """Each notes what fails with it, and forgets that again."""

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


def test_threads_that_wait_at_once_are_each_counted(family):
    """Together with a worker on one processor: whoever yields in the middle of counting lets another count."""
    words, service = Words(family.runtime), family.service(let_others)
    words.set("header", 0, "cpus", 8)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        family.fork_worker()

        def wait():
            for number in range(40):
                assert family.call(service, number).get(PATIENCE_S) == number

        threads = [threading.Thread(target=wait) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.sched_setaffinity(0, before)
    assert words.get("processes", words.tables.DRIVER_INDEX, "waiters") == 0
    assert words.get("processes", words.tables.DRIVER_INDEX, "spinning") == 0
    family.check()


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
def test_a_task_that_has_become_ready_waits_for_a_permit(family, sticky):
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
    """Though the arguments have found some."""
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


@pytest.mark.parametrize("value", [b"x" * 1000, tuple(range(10_000)), LARGE], ids=len)
def test_a_full_store_gives_out_nothing_whatever_stands_before_its_tables(value):
    """There is the log of the process with the last number, of finished slots."""
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


# ---- members of groups ----------------------------------------------------------------------------------------------

#: Slots of a group, or blocks of a slab.
GROUP = 62
SLAB_BYTES = 1 << 16  # of blocks of a kilobyte


def test_slots_given_back_here_and_there_are_taken_before_new_ones(alone):
    """Of groups that are half empty none is left behind, even of those that a process had before and has again."""
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
    """Even one of a slab that is as good as full, or that had blocks of another size before."""
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
    """It notes each of them."""
    for _ in range(2):
        values = [alone.runtime.put(number) for number in range(10_000)]
        del values[::2]
        values += [alone.runtime.put(number) for number in range(1, 10_000, 2)]
        assert [value.get() for value in values] == list(range(1, 10_000, 2)) * 2
        del values
    alone.check()


#: Of blocks, from 128 bytes to SHARED_BYTES; a value has a head of nine bytes.
BLOCK_SIZES = sorted({-(-(2**exponent * (4 + step) // 4) // 64) * 64 for exponent in range(7, 15) for step in range(1, 5)})
HEAD = 9


def test_blocks_of_all_sizes_overlap_nothing(alone):
    """In slabs of few large blocks as in those of many small ones; and in slabs that had other blocks before."""
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
    """Both sizes come in slabs of as many bytes. The process had it on its list of slabs for the first."""
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
    """Groups and slabs that a relative took and its end emptied: as much as there was fits in once more."""

    def live():
        values = [family.runtime.put(b"x" * 1000) for _ in range(20 * GROUP)]
        assert max(map(slot_of, values)) < 23 * GROUP

    for _ in range(4):
        assert family.recover_process(family.fork(live)) == 0
        family.check()
        assert family.in_use() == (0, 0)


def test_a_forked_process_takes_from_groups_of_its_own(family):
    """Not from those that its parent was taking from."""
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


def test_groups_emptied_while_another_is_in_use_are_anybodys(family):
    """The last member of a group that its owner does not take from gives the group back, whoever drops it."""
    values = [family.runtime.put(b"x" * 1000) for _ in range(4 * GROUP)]
    del values[: 3 * GROUP]
    family.check()

    def live():
        assert slot_of(family.runtime.put(b"y" * 1000)) < 3 * GROUP

    assert family.recover_process(family.fork(live)) == 0
    family.check()


def owners(words, values):
    """The processes whose groups and slabs some values lie in."""
    tables = audit.Tables(words.fd)
    slots = [slot_of(value) for value in values]
    slabs = [tables.slab_at(tables.slots[slot].result) for slot in slots]
    return {tables.groups[slot // GROUP].owner - 1 for slot in slots} | {slab.group.owner - 1 for slab in slabs}


def test_a_process_takes_only_from_groups_of_its_own(family):
    """What it had before and left empty is another's by now, who has half of it free."""
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


# ---- the lock -------------------------------------------------------------------------------------------------------


class Actor:
    """A relative that prepares something, and does something with it each time it is told."""

    def __init__(self, family, prepare=lambda: None, act=lambda prepared: prepared):
        self.family = family
        self.prepare, self.act = prepare, act
        self.published, self.said = os.eventfd(0), os.eventfd(0, os.EFD_SEMAPHORE)
        self.relative = family.fork(self.live)
        self.listen()

    def live(self):
        kept = self.prepare()
        os.eventfd_write(self.said, 1)
        while os.eventfd_read(self.published) == 1:
            os.eventfd_write(self.said, 1)
            kept = self.act(kept)
            os.eventfd_write(self.said, 1)

    def has_said(self, timeout_s=0.0):
        return self.said in select.select([self.said, self.relative.pidfd], [], [], timeout_s)[0]

    def listen(self):
        assert self.has_said(PATIENCE_S), "it does not come to it"
        os.eventfd_read(self.said)

    def begin(self):
        """Returns once it is about it."""
        os.eventfd_write(self.published, 1)
        self.listen()

    def is_held_up(self):
        """Whether it sleeps in the middle: it has nothing to wait for but the lock."""
        wait_until(lambda: self.has_said() or is_asleep(self.relative.pid))
        return not self.has_said()

    def end(self):
        os.eventfd_write(self.published, 2)
        assert self.family.recover_process(self.relative) == 0
        self.close()

    def die(self):
        self.relative.kill()
        self.family.recover_process(self.relative)
        self.close()

    def close(self):
        os.close(self.published)
        os.close(self.said)


@pytest.mark.parametrize("size", [1, 1000, 100_000])
@pytest.mark.parametrize("release_seq", [True, False])
def test_whoever_takes_or_gives_back_groups_and_extents_waits_for_the_lock(family, size, release_seq):
    """More of them than fit into what it has at hand; nothing that the lock is for changes before."""

    def put(_=None):
        return [family.runtime.put(b"x" * size) for _ in range(GROUP + 1)]

    actor = Actor(family, put, list.clear) if release_seq else Actor(family, act=put)
    words = Words(family.runtime)
    fields = ["free_groups", "group_high", "extent_high", "live_bytes", "cached_bytes", "takes"]
    before = [words.get("header", 0, field) for field in fields]
    with words.locked():
        actor.begin()
        assert actor.is_held_up()
        assert [words.get("header", 0, field) for field in fields] == before
    actor.listen()
    family.check()
    actor.end()


@pytest.mark.parametrize("size", [1, 1000])
def test_what_a_repair_gives_back_is_given_back_once(family, size):
    """The lock's holder dies; whoever has claimed an empty group, and is next, repairs first, and frees it by that."""
    words = Words(family.runtime)
    holder = Actor(family, act=lambda _: words.lock())
    actor = Actor(family, lambda: [family.runtime.put(b"x" * size) for _ in range(2 * GROUP)], list.clear)
    holder.begin()
    holder.listen()
    actor.begin()
    assert actor.is_held_up()
    holder.relative.kill()
    actor.listen()
    family.check()
    actor.end()
    holder.die()
    family.check()


def test_a_group_that_somebody_is_giving_back_is_not_taken_from(family):
    """Not even by the process whose it is still."""
    words, service = Words(family.runtime), family.service(same)

    def fill():
        for number in range(GROUP):
            family.call(service, number)
        return [family.runtime.put(number) for number in range(GROUP)]

    actor = Actor(family, fill, lambda values: values.append(family.runtime.put(1)))
    first = actor_group(words, actor)
    with words.locked():
        family.fork_worker()
        wait_until(lambda: audit.Tables(words.fd).groups[first].used == audit.CLAIMED)
        actor.begin()
        assert actor.is_held_up()
        assert audit.Tables(words.fd).groups[first].used == audit.CLAIMED
    actor.listen()
    family.check()
    actor.end()


def actor_group(words, actor):
    """The first of the groups that it takes from."""
    groups = audit.Tables(words.fd).groups
    return next(number for number, group in enumerate(groups) if group.owner == actor.relative.index + 1)


# ---- extents --------------------------------------------------------------------------------------------------------

MB = 1 << 20

#: Sizes of extents: four steps per doubling, in whole granules.
GRANULE = 1 << 14
STEPS = [(4 + step) * 2**exponent // 4 for exponent in range(7, 22) for step in range(4)]
EXTENT_SIZES = sorted({-(-size // GRANULE) * GRANULE for size in STEPS})
HEAD = 9  # bytes that a small bytes object takes in front of itself; a large one is all of its extent


def of_kind(words, kind):
    """Sizes of the extents of a kind, in the order in which they were carved."""
    return [extent.size for extent in words.extents() if extent.kind == getattr(words.tables, f"EXTENT_{kind}")]


def put_extent(alone, size):
    """A value that fills an extent of a size."""
    return alone.runtime.put(b"x" * size)


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
    """Of a slab of 62 blocks, or as many as go into 128 KiB, at least 4."""
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
    """A warm one that is at most two sizes larger, else a cold one, else a new one; where there is none any larger one."""
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
        "no addresses": ("size", words.get("header", 0, "arena_next") + (1 << 17) - 1),
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
        assert family.runtime.statistics()["peak"] == (held + 1) * size
        del values
    put_extent(family, size)
    assert family.runtime.statistics()["peak"] == 3 * size
    family.check()


def test_what_is_not_kept_goes_back_to_the_system(family):
    """Up to the byte of what may be kept; from then on its pages go, and what comes next finds zeros."""
    words, size = Words(family.runtime), 1 << 17
    values = [put_extent(family, size) for _ in range(3)]
    words.set("header", 0, "cache_limit", 2 * size)
    family.check()  # who looks at all tables has them take pages
    pages = os.fstat(family.runtime.fd).st_blocks
    for kept, kinds in (2, [3, 3, 1]), (1, [3, 1, 1]), (0, [0, 1, 1]):
        del values[kept]
        assert [extent.kind for extent in words.extents()] == kinds
        family.check()
    assert os.fstat(family.runtime.fd).st_blocks <= pages - size // 512
    family.supervisor.trim()
    assert os.fstat(family.runtime.fd).st_blocks <= pages - 3 * size // 512
    assert family.runtime.statistics()["cached"] == 0
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
    """Slabs of the smallest blocks, which are of calls with an input."""
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


def test_what_was_a_slab_keeps_its_blocks_size_for_whoever_counts_just_now(family):
    words = Words(family.runtime)
    blocks = [family.runtime.put(b"x" * 1000) for _ in range(2 * GROUP)]
    (number, size) = max((number, extent.size) for number, extent in enumerate(words.extents()))
    del blocks[:GROUP], blocks[:]
    values = [put_extent(family, size) for _ in range(2)]
    assert {extent.kind for extent in words.extents()} == {words.tables.EXTENT_VALUE, words.tables.EXTENT_SLAB}
    assert words.get("extents", 0, "block_size") == words.get("extents", number, "block_size") == 1024
    del values


def test_memory_that_somebody_has_locked_is_kept(family):
    """The system refuses to take its pages: who trims does not ask for ever, and the next value may lie there."""
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
    """An extent's pages are locked into memory in this process."""
    libc, where = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p(segment_at(family.runtime.fd) + extent.offset)
    length = ctypes.c_size_t(extent.size)
    if libc.mlock(where, length) or "VmLck:\t       0 kB" in Path("/proc/self/status").read_text():
        pytest.skip("no memory may be locked here, or a sanitizer does as if it were")
    yield
    assert libc.munlock(where, length) == 0


def test_arrays_that_are_born_in_the_store_are_zeros_where_they_should_be(family):
    """In an extent that was used before, and in one whose pages have gone back."""
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
    """It may be meant to stay empty for the most part."""
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


def views_of(runtime, extent):
    """Where this process counts its views of an extent: from the segment's address on, as `Words.at_touches` wants it."""
    memory = (ctypes.c_uint64 * 13).from_address(id(runtime) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    assert memory[0] == segment_at(runtime.fd)
    return memory[12] + 4 * extent - memory[0]


@pytest.mark.parametrize("what", ["one more view", "one view less"])
def test_views_are_counted_whatever_another_thread_does_meanwhile(family, what):
    """NumPy may free memory without the GIL. Here it is the same thread, in the middle of the step, that takes a view."""
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
    """That one has been taken off the count, and the lock not been taken yet."""
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
    assert give(), "somebody has given it back who had not taken it"


def test_a_slab_that_was_given_back_and_taken_again_is_taken_from_again_when_it_has_room(alone):
    """Of the smallest blocks, the first of a process's pools: those of tasks with one input."""
    service, words, most = alone.service(same), Words(alone.runtime), 62

    def wait(count):
        promise = alone.runtime.promise()
        return promise, [alone.call(service, promise) for _ in range(count)]

    def let_go(promise, tasks):
        tasks.clear()
        alone.runtime.fulfil(promise, None, serialization._pair(b"", ""))  # short: it takes no block of its own

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


def test_the_store_looks_for_memory_once_more_when_it_has_given_back_what_it_kept(tmp_path):
    """Until then the machine has none left: the first look finds that in a fifo, the second one in a file."""
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
    warm = statistics["cached"]
    assert MB <= warm <= 2 * MB
    _, takes = family.supervisor.cached_memory()
    value = family.runtime.put(b"y" * MB)
    assert family.supervisor.cached_memory() == (0, takes + 1)
    del value
    assert family.runtime.statistics()["cached"] == warm
    values = [family.runtime.put(b"z" * MB) for _ in range(40)]
    assert family.runtime.statistics()["cached"] == 0
    peak = family.runtime.statistics()["peak"]
    assert 40 * MB <= peak <= 41 * warm + SLAB_BYTES
    del values
    assert (1 << 25) - 2 * warm < family.runtime.statistics()["cached"] <= 1 << 25
    assert family.runtime.statistics()["peak"] == peak
    family.check()
    family.supervisor.trim()
    assert family.runtime.statistics()["cached"] == 0
    family.check()


def test_a_somewhat_larger_warm_extent_is_taken_and_a_much_larger_one_is_not(family):
    family.runtime.put(b"x" * MB)
    (warm,) = {family.runtime.statistics()["cached"]}
    value = family.runtime.put(b"x" * (MB * 3 // 4))
    assert family.runtime.statistics()["cached"] == 0
    del value
    value = family.runtime.put(b"x" * (MB // 4))
    assert family.runtime.statistics()["cached"] == warm
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
    assert not rung(family)
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
    """Processes with a bit on an extent; as many must be counted."""
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


def test_a_body_stays_for_whoever_holds_it_however_often(family, tmp_path):
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


def test_a_large_block_that_is_no_value_s_is_held_by_nobody_and_comes_back(family):
    """It counts one reference, and is kept then as any other: what comes to lie there is counted from 0."""
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


def test_a_value_of_many_extents_gives_all_of_them_back(family):
    """More than the pages of which one call gives back."""
    arrays = [np.full(10_000, float(number)) for number in range(40)]
    value = family.runtime.put(arrays)
    assert [array[0] for array in value.get()] == list(range(40))
    family.check()
    family.supervisor.trim()
    family.runtime.serve_inline()  # from here on nothing is kept warm
    del value
    family.check()
    assert family.in_use() == (0, 0)
    assert family.runtime.statistics()["cached"] < 40 * 80_000


# ---- the lock -------------------------------------------------------------------------------------------------------


def test_whoever_needs_the_lock_waits_until_it_is_given_back(family):
    """And finds then what its holder has changed: there is no room left."""
    words = Words(family.runtime)
    family.runtime.put(b"x" * MB)  # looks for memory, and keeps an extent warm
    limit = words.get("header", 0, "limit")
    give = words.lock()

    def live():
        with pytest.raises(StoreFullError):
            family.runtime.put(b"y" * MB)

    relative = family.fork(live)
    wait_until(lambda: is_asleep(relative.pid) or relative.has_ended())
    words.set("header", 0, "limit", 0)
    give()
    assert family.recover_process(relative) == 0
    words.set("header", 0, "limit", limit)
    family.check()


def test_the_lock_is_given_back_as_often_as_it_is_taken(family):
    """By all that one process does: one that gives it back without having taken it takes it from somebody else."""
    words, runtime = Words(family.runtime), family.runtime
    parts = [np.arange(10_000.0), b"x" * MB, tuple(range(10_000))]

    def hold():
        kept = [runtime.put(parts).get(), runtime.put(parts), runtime.put(b"x" * 1000)]
        os.kill(os.getpid(), signal.SIGKILL)
        return kept

    dead = family.fork(hold)
    assert dead.has_ended(PATIENCE_S)
    family.service(LARGE)
    words.set("processes", dead.index, "taking", words.get("services", 0, "blob"))  # it had no place there yet
    words.set("services", 0, "blob", 0)
    give = words.make_lock_count()
    family.recover_process(dead)
    for limit in (1 << 25, 0):
        words.set("header", 0, "cache_limit", limit)
        words.set("header", 0, "checked_bytes", 0)
        values = [runtime.put(parts) for _ in range(3)]
        views = [value.get() for value in values[:2]]
        values.append(runtime.put(views))
        del values[:2], views
        few = [runtime.put(b"x" * size) for size in (100, 1000, 20_000) for _ in range(2 * GROUP)]
        many = [runtime.promise() for _ in range(2000)]
        service = family.service(LARGE * 2)
        call = family.call(service, many)
        for promise in many:
            runtime.fulfil(promise, None, error_of("gone"))
        hold = runtime.put_definition(bytes(16), LARGE)
        again = runtime.hold_definition(bytes(16), hold.offset, hold.nbytes)
        assert runtime.is_definition(bytes(16), hold.offset)
        runtime.close_service(*service[:2])
        assert runtime.reap_services() == 0
        with pytest.raises(StoreFullError):
            runtime.put(bytes(1 << 26))
        del values, few, many, call, promise, hold, again
        family.supervisor.trim()
    assert give(), "somebody has given it back who had not taken it"
    assert not give(), "somebody has it still"
    family.check()


def test_the_lock_names_its_holder_and_outlives_it(family):
    """A relative has it while it rings a bell that nobody hears."""
    words, deaf = Words(family.runtime), os.eventfd(0)
    os.eventfd_write(deaf, 2**64 - 2)
    assert words.get("header", 0, "lock_holder") == 0

    def live():
        family.runtime.become(relative_index, "alone", deaf)
        family.runtime.put(b"x" * MB)

    relative_index = family.runtime.request_process(POOL, 0)
    relative = family.fork(live, relative_index)
    wait_until(lambda: words.get("header", 0, "lock_holder") == relative.index + 1, "its taking the lock")
    relative.kill()
    os.close(deaf)
    family.recover_process(relative)
    family.check()
    assert family.runtime.put(b"y" * MB).get() == b"y" * MB


# ---- all at once ----------------------------------------------------------------------------------------------------


class Crowd:
    """Producers and workers that get into each other's way at every word, all of them on one processor.

    A change in two steps lets somebody else do his in between, if the first one yields there. After each burst all of
    them rest, and every word must be what the others say.
    """

    BURSTS = 8

    def __init__(self, family):
        self.family = family
        self.words = Words(family.runtime)
        self.words.set("header", 0, "cpus", 4)
        self.cpu = min(os.sched_getaffinity(0))
        self.free, self.length = family.service(same), family.service(len)
        self.wide, self.narrow = family.service(let_others, limit=4), family.service(alone_there, limit=2)
        self.log = family.service(Counted(), INSTANCE, ("count",), warmup=1)
        self.failing = family.service(fail_with, limit=4)
        self.shared = [family.runtime.put(number) for number in range(2)]
        self.workers = [self.fork_worker(entry.index) for entry in family.supervisor.processes()]
        self.workers += [self.fork_worker() for _ in range(4)]

    def fork_worker(self, index=None):
        def live():
            os.sched_setaffinity(0, {self.cpu})
            self.family.runtime.serve(Host(self.family.runtime))

        return self.family.fork(live, index)

    def produce(self, _):
        os.sched_setaffinity(0, {self.cpu})
        call, runtime, number = self.family.call, self.family.runtime, os.getpid()
        for index in range(160):  # nobody wants them: their groups become free behind it
            call(self.wide, index)
            if index % 8 == 0:
                os.sched_yield()
        futures = [call(self.wide, [*self.shared, number]) for _ in range(8)]
        futures += [call(self.narrow, number) for _ in range(4)]
        counted = [call(self.log) for _ in range(3)]
        failing = [call(self.failing, number) for _ in range(3)]
        failed = [call(self.length, failing) for _ in range(2)]
        wholes = []
        for _ in range(8):
            os.sched_yield()  # some of the inputs are just being finished
            wholes.append(call(self.length, futures))
        selector, found = runtime.selector(futures), []
        while len(found) < len(futures):
            found += selector.take(PATIENCE_S)
        assert sorted(found) == list(range(len(futures)))
        assert runtime.get_many(wholes, PATIENCE_S) == [len(futures)] * 8
        numbers = runtime.get_many(counted, PATIENCE_S)
        assert numbers == sorted(set(numbers))
        for future in failed:
            assert repr(future.exception(PATIENCE_S)) == repr(LookupError(number))

    def run(self):
        before = self.family.in_use()
        producers = [Actor(self.family, act=self.produce) for _ in range(3)]
        for _ in range(self.BURSTS):
            for producer in producers:
                producer.begin()
            for producer in producers:
                producer.listen()
            self.family.wait_until_idle()
            self.family.wait_until_in_use(before)
            wait_until(lambda: all(map(self.sleeps, self.workers)))
            self.check()
        for producer in producers:
            producer.end()

    def sleeps(self, worker):
        return self.words.get("processes", worker.index, "sleeping") and is_asleep(worker.pid)

    def check(self):
        """While all of them sleep."""
        self.family.check()
        words, tables = self.words, audit.Tables(self.words.fd)
        assert words.get("header", 0, "pool_sleepers") >= 4
        assert words.get("queues", self.log[2], "sleepers") >= 1
        for queue in (0, self.wide[2], self.narrow[2], self.failing[2], self.log[2]):
            head, tail = words.get("queues", queue, "head"), words.get("queues", queue, "tail")
            assert head == tail, f"queue {queue} is empty, and said to go from {head} to {tail}"
            (there,) = tables.numbers(tables.rings_at + 8 * (queue * tables.SLOT_COUNT + (tail & words.ring_mask)), 1)
            assert there == tail & ~words.ring_mask, f"queue {queue} goes on behind its end"
        for queue in (self.wide[2], self.narrow[2], self.failing[2]):
            assert not any(words.get("queues", queue, "permits")), f"somebody has a permit at queue {queue}"


class Counted:
    def __init__(self):
        self.calls = 0

    def count(self):
        self.calls += 1
        return self.calls


def let_others(value):
    os.sched_yield()
    return value


def fail_with(number):
    os.sched_yield()
    raise LookupError(number)


#: A byte for each process of the table that runs the narrow service.
inside = mmap.mmap(-1, 2048)


def alone_there(value):
    me = os.getpid() % len(inside)
    inside[me] = 1
    for _ in range(3):
        os.sched_yield()
        assert sum(inside[:]) <= 2
    inside[me] = 0
    return value


def test_a_crowd_on_one_processor_loses_nothing(family):
    Crowd(family).run()


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


def test_a_store_too_full_for_a_service_keeps_its_queue_and_entry(alone):
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


# ---- recoveries --------------------------------------------------------------------------------------------------------


def forked_until(family, tmp_path, life):
    """A relative that has lived `life` and waits; killed and recovered."""
    path = tmp_path / f"lived-{len(os.listdir(tmp_path))}"

    def live():
        kept = life()
        path.touch()
        signal.pause()
        return kept

    relative = family.fork(live)
    wait_until(path.exists)
    relative.kill()
    family.recover_process(relative)


def test_a_recovery_gives_back_everything_that_the_dead_process_held(family, tmp_path):
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


def test_a_permit_comes_back_from_a_dead_worker(family, tmp_path):
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
    family.recover_process(first)
    assert future.get(PATIENCE_S) == second.pid


def test_a_call_of_a_dead_worker_fails_and_the_other_worker_goes_on(family):
    service, quick = family.service(kill_itself), family.service(same)
    workers = [family.fork_worker(), family.fork_worker()]
    future = family.call(service)
    wait_until(lambda: any(worker.has_ended() for worker in workers))
    (dead,) = [worker for worker in workers if worker.has_ended()]
    assert not future.done()
    family.recover_process(dead, LookupError("died"))
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
    family.recover_process(instance, LookupError("died"))
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
    before = family.runtime.statistics()["bytes"]
    forked_until(
        family, tmp_path, lambda: [family.service(same, limit=1, warmup=2), family.service(Log(), INSTANCE, ("note",))]
    )
    family.check()
    assert family.runtime.statistics()["bytes"] == before
    assert family.service(same, limit=1)[::2] == (0, 1)


def test_statistics_of_a_dead_process_stay(family, tmp_path):
    forked_until(family, tmp_path, lambda: family.runtime.put(b"x" * 100_000).get())
    statistics = family.runtime.statistics()
    forked_until(family, tmp_path, lambda: None)
    assert family.runtime.statistics()["copied"] == statistics["copied"] > 100_000
