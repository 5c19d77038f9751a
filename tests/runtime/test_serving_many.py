"""Waits for many calls, and for any of them, in a task: what it runs meanwhile, what it publishes, what is refused.

Workers are forked relatives of the test's process, which plays driver and supervisor (zygote). So a task knows the
test's runtime: it looks at the tables, calls on, and waits.
"""

from __future__ import annotations

import contextlib

import pytest
from actors import rung
from gates import PATIENCE_S, wait_until
from serving import Asking, Log, current_slot, doors, fails_at_three, here, in_order, mark, marks, pid, same, stand
from words import Words, slot_of

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["serving_family"]


def test_a_task_that_waits_for_many_runs_those_that_are_queued_whatever_comes_first(kin, words):
    """The queued calls run in order, the instance's in its own process."""
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_for_many), log, kin.service(same), kin.service(in_order))
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert marks[0] == 5
    waited = words.get("slots", slot_of(future), "waits_for")
    (instance,) = kin.fork_requested()
    found, (first, now) = future.get(PATIENCE_S)
    assert found == [instance.pid, *((number, number) for number in range(5))]
    assert (waited, now) == (first + 1, 0)


def ask_for_many(log, after, service):
    """Task: return what came, the first call, and the call that this task waits for when all is over."""
    call = here[0].call
    futures = [call(after, call(log)), *(call(service, number) for number in range(5))]
    found = here[0].runtime.get_many(futures)
    return found, (slot_of(futures[0]), Words(here[0].runtime).get("slots", current_slot(), "waits_for"))


def test_a_task_that_waits_for_many_passes_an_instance_s_call_on_its_way_to_the_pool_s(kin):
    """The instance's call is queued, too."""
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_for_each), log, kin.service(mark))
    wait_until(lambda: marks[1], "the task behind it")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == [instance.pid, worker.pid]


def ask_for_each(log, service):
    return here[0].runtime.get_many([here[0].call(log), here[0].call(service, 1)])


def test_a_failure_of_what_a_task_runs_inside_its_wait_for_many_ends_that(kin):
    """What comes behind it is not waited for: no process ever runs it."""
    kin.fork_worker()
    log = kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(ask_for_a_failure), log, kin.service(fails_at_three))
    assert repr(future.exception(PATIENCE_S)) == repr(LookupError("three"))
    kin.fork_requested()
    kin.wait_until_idle()


def ask_for_a_failure(log, service):
    return here[0].runtime.get_many([here[0].call(service, 3), here[0].call(log)])


def test_a_task_that_waits_for_any_says_for_which_and_runs_none_of_them(kin, words):
    worker, inner = kin.fork_worker(), kin.service(mark)
    outer = kin.service(select_among)
    before = kin.in_use()
    future = kin.call(outer, inner)
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    published = words.get("slots", slot_of(future), "waits_for")
    block = published & ~(1 << 63)
    assert published >> 63
    count, *slots = words.tables.numbers(block, 4)
    assert (count, sorted(slots)) == (3, words.slots_of(worker.index))
    assert marks[1] == 0
    assert words.get("processes", worker.index, "taking") == 0
    second = kin.fork_worker()
    assert future.get(PATIENCE_S) == ([0, 1, 2], [second.pid] * 3, 0)
    assert kin.supervisor.processes()[0].blocked == 0
    del future
    kin.wait_until_in_use(before)


def select_among(service):
    """Task: wait until all calls have been given out; then return what the task waits for."""
    futures = [here[0].call(service, 1) for _ in range(3)]
    selector, found = here[0].runtime.selector(futures), []
    while len(found) < 3:
        found += selector.select()
    values = [future.get() for future in futures]
    return sorted(found), values, Words(here[0].runtime).get("slots", current_slot(), "waits_for")


def test_a_task_that_waits_for_any_twice_says_so_twice(kin, words):
    """The calls just fill a block: its neighbors stay as they are."""
    worker, quick = kin.fork_worker(), kin.service(stand)
    logs = [kin.service(Log(), INSTANCE, ("pid",)) for _ in range(2)]
    future = kin.call(kin.service(select_twice), logs)
    published = []
    for number, log in enumerate(logs):
        wait_until(lambda number=number: marks[1] == number + 1, "the take before")
        wait_until(lambda: words.get("slots", slot_of(future), "waits_for"), "its telling")
        published.append(words.tables.numbers(words.get("slots", slot_of(future), "waits_for") & ~(1 << 63), 1)[0])
        wait_until(lambda log=log: words.get("queues", log[2], "process"))
        kin.fork_worker(words.get("queues", log[2], "process") - 1)
    assert future.get(PATIENCE_S) == [0, 1]
    assert published == [41, 40]
    assert kin.call(quick).get(PATIENCE_S) == worker.pid


def select_twice(logs):
    call, runtime = here[0].call, here[0].runtime
    promises = [runtime.promise() for _ in range(39)]
    futures = [*(call(log) for log in logs), *promises]
    selector, found = runtime.selector(futures), []
    values = [runtime.put(bytes([number]) * 300) for number in range(20)]
    values[7] = values[12] = None
    with contextlib.suppress(TimeoutError):
        found += selector.select(0.001)
    while len(found) < 2:
        marks[1] = 1 + len(found)
        found += selector.select()
    for promise in promises:
        runtime.fulfil(promise, None)
    assert all(value is None or value.get() == bytes([number]) * 300 for number, value in enumerate(values))
    return found


@pytest.mark.parametrize("many", [False, True])
def test_a_task_runs_what_it_waits_for_though_that_has_the_first_slot(kin, many):
    """The first group of slots was the driver's, and is the worker's then."""
    places = [kin.runtime.put(0) for _ in range(62)]
    worker = kin.fork_worker()
    inner, quick, outer = kin.service(pid), kin.service(stand), kin.service(ask_in_first_slot)
    future = kin.call(quick, 0)
    assert (slot_of(places[0]), slot_of(future)) == (0, 62)
    doors[0].entered()
    del places
    last = kin.call(outer, inner, many)
    doors[0].open()
    assert last.get(PATIENCE_S) == (0, worker.pid)
    assert future.get(0) == worker.pid


def test_a_task_that_runs_all_that_it_waits_for_is_never_blocked(kin):
    """The first call has the first slot: the supervisor (zygote) hears of no blocked process."""
    places = [kin.runtime.put(0) for _ in range(62)]
    worker = kin.fork_worker()
    first = kin.call(kin.service(stand), 0)
    doors[0].entered()
    del places
    last = kin.call(kin.service(ask_from_first_slot), kin.service(pid))
    doors[0].open()
    assert last.get(PATIENCE_S) == [(slots, [worker.pid] * 3) for slots in ([0, 1, 2], [1, 2, 0], [2, 0, 1])]
    assert first.get(0) == worker.pid
    assert not rung(kin)


def test_a_task_runs_what_it_waits_for_behind_something_else_though_that_has_the_first_slot(kin):
    places = [kin.runtime.put(0) for _ in range(62)]
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    first = kin.call(kin.service(stand), 0)
    future = kin.call(kin.service(ask_behind), kin.service(same), log, kin.service(mark))
    doors[0].entered()
    del places
    doors[0].open()
    wait_until(lambda: marks[1], "the second one of what it waits for")
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == (0, [instance.pid, worker.pid])
    assert first.get(0) == worker.pid


def ask_behind(after, log, service):
    call = here[0].call
    future = call(service, 1)
    return slot_of(future), here[0].runtime.get_many([call(after, call(log)), future])


def ask_from_first_slot(service):
    """Task: wait for three at once, of which the first, the second, the last made has the first slot."""
    found = []
    for turned in range(3):
        futures = [here[0].call(service) for _ in range(3)]
        futures = futures[turned:] + futures[:turned]
        found.append(([slot_of(future) for future in futures], here[0].runtime.get_many(futures)))
        del futures
    return found


def ask_in_first_slot(service, many):
    future = here[0].call(service)
    value = here[0].runtime.get_many([future])[0] if many else future.get()
    return slot_of(future), value


@pytest.mark.parametrize("many", [False, True])
def test_a_task_runs_nothing_inside_its_wait_that_it_does_not_wait_for(kin, words, many):
    """The other call is queued, and in the very first slot."""
    place, promise = kin.runtime.put(None), kin.runtime.promise()
    assert slot_of(place) == 0
    del place
    first = kin.call(kin.service(pid), promise)
    assert slot_of(first) == 0
    worker, log = kin.fork_worker(), kin.service(Log(), INSTANCE, ("pid",))
    future = kin.call(kin.service(stand_and_ask_for), log, kin.service(same), many)
    doors[0].entered()
    kin.runtime.fulfil(promise, None)
    doors[0].open()
    wait_until(lambda: words.get("processes", worker.index, "blocked"), "its being blocked")
    assert not first.done()
    (instance,) = kin.fork_requested()
    assert future.get(PATIENCE_S) == instance.pid
    assert first.get(PATIENCE_S) == worker.pid


def stand_and_ask_for(log, after, many):
    """Task: wait for what is not queued, or only for another process."""
    future = here[0].call(after, here[0].call(log)) if many else here[0].call(log)
    doors[0].stand()
    return here[0].runtime.get_many([future])[0] if many else future.get()


@pytest.mark.parametrize("method", ["ask", "ask_many", "ask_many behind another", "ask_any"])
def test_a_wait_that_cannot_end_is_refused(kin, method):
    """The method waits for a call of its own instance."""
    methods = ("ask", "ask_many", "ask_any", "pid")
    kin.fork_worker()
    instance = kin.service(Asking(), INSTANCE, methods, warmup=1)
    kin.fork_requested()
    itself, quick = (kin.service(pid) for _ in range(2))
    del itself
    if method == "ask":
        future = kin.call(instance, instance)
    elif method == "ask_any":
        future = kin.call(instance, [instance, instance], method=2)
    else:
        services = [quick, instance] if method.endswith("another") else [instance, quick]
        future = kin.call(instance, services, method=1)
    error = future.exception(PATIENCE_S)
    assert isinstance(error, FlameError) and error.message.startswith("deadlock: ")
    kin.wait_until_idle()


def test_a_wait_for_any_of_which_one_can_end_is_none_that_cannot(kin):
    worker = kin.fork_worker()
    instance = kin.service(Asking(), INSTANCE, ("ask", "ask_many", "ask_any", "pid"), warmup=1)
    kin.fork_requested()
    future = kin.call(instance, [instance, kin.service(pid)], method=2)
    assert future.get(PATIENCE_S) == [(1, worker.pid)]
    kin.wait_until_idle()


def test_no_wait_for_any_without_room_to_say_so():
    from runtime_harness import Family

    family = Family(limit=1 << 20, workers=2, cpus=2)
    here[:] = [family]
    worker = family.fork_worker()
    held, size = [], 1 << 20
    future = family.call(family.service(select_many), family.service(mark), 3000)
    wait_until(lambda: marks[2], "the calls")
    while size >= 1 << 14:
        try:
            held.append(family.runtime.put(b"x" * size))
        except StoreFullError:
            size //= 2
    marks[3] = 1
    assert isinstance(future.exception(PATIENCE_S), StoreFullError)
    family.runtime.announce_close()
    assert family.recover_process(worker) == 0
    here.clear()
    family.close()


def select_many(service, count):
    futures = [here[0].call(service, 1) for _ in range(count)]
    selector = here[0].runtime.selector(futures)
    marks[2] = 1
    wait_until(lambda: marks[3], "a full store")
    return selector.select()
