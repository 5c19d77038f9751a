"""Services and their queues that a process left half made or half closed, and what a full table refuses."""

from __future__ import annotations

import ctypes
import os

import pytest
from actors import rung
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, Log, passes_in_child, same
from leftovers import started
from runtime_harness import Alone, Death, Family
from words import Words

from flame_fast import FlameError, StoreFullError
from flame_fast.engine.spec import INSTANCE

pytest_plugins = ["dead_processes"]


# ---- entries that a dead process had reserved ------------------------------------------------------------------------


@pytest.mark.parametrize("queue_state", ["QUEUE_OPEN", "QUEUE_FREE", "reserved"])
def test_a_service_that_a_dead_process_was_making_or_emptying_is_free(family, dead, queue_state):
    words = Words(family.runtime)
    service, _, queue = family.service(same, limit=1)
    family.service(same)
    reserved = words.tables.RESERVED + dead.index
    words.set("services", service, "state", reserved)
    words.set("queues", queue, "state", reserved if queue_state == "reserved" else getattr(words.tables, queue_state))
    family.recover_process(dead)
    assert words.get("services", service, "state") == words.tables.SERVICE_FREE
    assert family.service(same, limit=1)[::2] == (service, queue)


def test_a_queue_that_another_service_has_by_now_stays_its_own(family, dead):
    """A dead process had freed the queue, and not crossed it out in its service's entry."""
    words = Words(family.runtime)
    first, second = family.service(same, limit=1), family.service(same, limit=1)
    queue = words.get("services", first[0], "queue")
    words.set("services", first[0], "state", words.tables.RESERVED + dead.index)
    words.set("services", first[0], "queue", second[2])
    family.recover_process(dead)
    words.set("queues", queue, "state", words.tables.QUEUE_FREE)
    assert words.get("queues", second[2], "state") == words.tables.QUEUE_OPEN
    family.fork_worker()
    assert family.call(second, 7).get(PATIENCE_S) == 7


# ---- entries used again ----------------------------------------------------------------------------------------------


def test_a_queue_used_again_has_nothing_of_its_former_service(family):
    words = Words(family.runtime)
    for name, number in [
        ("sticky", 1),
        ("process", 7),
        ("sleepers", 3),
        ("permits", [5] * 240),
        ("limit", 9),
        ("ordered", 1),
    ]:
        words.set("queues", 1, name, number)
    assert family.service(same, limit=1000)[2] == 1
    found = {name: words.get("queues", 1, name) for name in ("ordered", "limit", "sticky", "process", "sleepers", "error")}
    assert found == {"ordered": 0, "limit": 240, "sticky": 0, "process": 0, "sleepers": 0, "error": 0}
    assert not any(words.get("queues", 1, "permits"))


# ---- the close -------------------------------------------------------------------------------------------------------


def test_the_calls_that_a_close_leaves_unfinished_are_counted():
    alone = Alone()
    service = alone.service(same)
    promise, value = alone.runtime.promise(), alone.runtime.put(1)
    calls = [alone.call(service, promise), alone.call(service, 1)]
    assert not alone.supervisor.closing
    assert alone.runtime.announce_close() == 3
    assert alone.supervisor.closing
    del promise, value, calls
    alone.close()


# ---- queues, at both ends of their table -----------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [1, 256, 4095])
def test_a_queue_that_a_dead_process_had_reserved_is_free(family, dead, queue):
    words = Words(family.runtime)
    words.set("queues", queue, "state", words.tables.RESERVED + dead.index)
    family.recover_process(dead)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_FREE


@pytest.mark.parametrize("own", [0, 1])
def test_a_queue_of_another_service_stays_whichever_comes_first(family, dead, own):
    """The dead process had freed its service's queue, and had crossed it out in the entry, or not."""
    words = Words(family.runtime)
    services = [family.service(same, limit=1) for _ in range(2)]
    mine, other = services[own], services[not own]
    words.set("services", mine[0], "state", words.tables.RESERVED + dead.index)
    for queue in other[2], 0:
        words.set("services", mine[0], "queue", queue)
        words.set("services", mine[0], "state", words.tables.RESERVED + dead.index)
        family.supervisor.recover_process(dead.index, serialization.dump_error(Death()))
        assert words.get("queues", other[2], "state") == words.tables.QUEUE_OPEN
        assert words.get("services", mine[0], "state") == words.tables.SERVICE_FREE
    words.set("queues", mine[2], "state", words.tables.QUEUE_FREE)
    family.recover_process(dead)


def test_the_queue_of_an_instance_that_is_on_its_way_out_is_freed_by_its_process_s_recovery_only(family, dead):
    """The process that was closing the service had told the instance's process."""
    words = Words(family.runtime)
    service, _, queue = family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    words.set("services", service, "state", words.tables.RESERVED + dead.index)
    words.set("queues", queue, "state", words.tables.QUEUE_CLOSING)
    family.recover_process(dead)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_CLOSING
    assert words.get("services", service, "state") == words.tables.SERVICE_FREE
    family.supervisor.recover_process(index, serialization.dump_error(Death()))
    assert words.get("queues", queue, "state") == words.tables.QUEUE_FREE
    family.check()


def test_a_repeated_recovery_frees_no_other_service_s_queue(family):
    """The recovering supervisor died at the end. An instance's service had been closed before, and another has its queue."""
    words = Words(family.runtime)
    service, generation, queue = family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    family.runtime.close_service(service, generation)
    assert words.get("queues", queue, "state") == words.tables.QUEUE_CLOSING
    family.supervisor.recover_process(index, serialization.dump_error(Death()))
    assert family.service(Log(), INSTANCE, ("note",))[2] == queue
    family.supervisor.recover_process(index, serialization.dump_error(Death()))
    assert words.get("queues", queue, "state") == words.tables.QUEUE_OPEN
    family.check()


def test_a_service_whose_maker_died_between_its_two_steps_blocks_no_other(family, dead):
    """The maker had reserved the entry, and not moved the table's end on."""
    words = Words(family.runtime)
    for table, first, high, free in [
        ("services", 0, "service_high", "SERVICE_FREE"),
        ("queues", 1, "pool_queue_high", "QUEUE_FREE"),
    ]:
        assert words.get("header", 0, high) == first
        words.set(table, first, "state", words.tables.RESERVED + dead.index)
        service = family.service(same, limit=1)
        assert service[0 if table == "services" else 2] == first + 1
        assert words.get("header", 0, high) == first + 2
        family.recover_process(dead) if table == "services" else family.supervisor.recover_process(
            dead.index, serialization.dump_error(Death())
        )
        assert words.get(table, first, "state") == getattr(words.tables, free)
        family.runtime.close_service(*service[:2])
        words.set("header", 0, "service_high", 0)
        words.set("header", 0, "pool_queue_high", 1)


# ---- an instance's last error ----------------------------------------------------------------------------------------


def test_an_error_for_which_a_dead_instance_finds_no_room_reads_as_a_full_store():
    """Calls in the instance's queue fail with it, and later ones too."""
    family = Family(limit=1 << 20)
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    queued = family.call(log, 1)
    held = [family.runtime.put(b"x" * 900_000)]
    head = os.pread(words.fd, 64, 0)
    family.supervisor.recover_process(index, serialization.dump_error(LookupError("x" * 300_000)))
    assert os.pread(words.fd, 64, 0) == head
    later = family.call(log, 1)
    for future in queued, later:
        assert isinstance(future.exception(0), StoreFullError)
    assert words.get("queues", log[2], "error_bytes") == 0
    del held, queued, later, future
    family.check()
    family.close()


# ---- notifications ---------------------------------------------------------------------------------------------------


def test_the_supervisor_is_woken_for_what_it_is_to_do(family):
    log, service = family.service(Log(), INSTANCE, ("note",)), family.service(same)
    rung(family)
    family.runtime.start_instance(log[0])
    assert rung(family)
    family.runtime.start_instance(log[0])
    assert not rung(family)
    family.service(same, preload=1)
    assert rung(family)
    promise = family.runtime.promise()
    call = family.call(service, promise)
    family.runtime.close_service(*family.service(same)[:2])
    assert not rung(family)
    family.runtime.close_service(*service[:2])
    assert rung(family)
    family.runtime.fulfil(promise, None, serialization.dump_error(LookupError()))
    del call
    family.runtime.announce_close()
    assert rung(family)
    family.fork_requested()


def test_an_instance_s_process_is_told_that_its_service_is_closed(family):
    """The process finds it even if it has read the count of wake-ups and does not sleep yet."""
    words = Words(family.runtime)
    service, generation, queue = family.service(Log(), INSTANCE, ("note",), warmup=1)
    index = started(family)
    calls = words.get("queues", queue, "wake")
    family.runtime.close_service(service, generation)
    assert words.get("queues", queue, "wake") == calls + 1
    family.supervisor.recover_process(index, serialization.dump_error(Death()))


def test_a_closed_runtime_says_so_and_takes_no_service(family):
    words, future = Words(family.runtime), family.runtime.promise()
    service = family.service(same)
    calls = words.get("processes", words.tables.DRIVER_INDEX, "wake")
    family.runtime.mark_closed("fell asleep")
    assert words.get("processes", words.tables.DRIVER_INDEX, "wake") == calls + 1
    for attempt in future.get, lambda: family.service(same):
        with pytest.raises(FlameError, match="fell asleep|closed"):
            attempt()
    with pytest.raises(FlameError, match="fell asleep"):
        future.get()
    assert words.get("header", 0, "service_high") == 1
    family.runtime.close_service(*service[:2])
    assert words.get("services", service[0], "state") == words.tables.SERVICE_OPEN


def test_a_forked_child_closes_no_service(family):
    words, service = Words(family.runtime), family.service(same)
    assert passes_in_child(lambda: family.runtime.close_service(*service[:2]))
    assert words.get("services", service[0], "state") == words.tables.SERVICE_OPEN


# ---- tables of services and queues -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"instance": True}])
def test_a_full_table_of_services_refuses_one_and_takes_nothing(family, options):
    words = Words(family.runtime)
    size, count = ctypes.sizeof(words.structs["Service"]), words.tables.SERVICE_COUNT
    at = words.place("services", 0, "state")[0]
    entry = (words.tables.RESERVED + words.tables.DRIVER_INDEX).to_bytes(4, "little").ljust(size, b"\0")
    os.pwrite(words.fd, entry * (count - 1), at)
    last = family.runtime.add_service(b"")
    assert last[0] == count - 1
    before = family.in_use()
    with pytest.raises(FlameError, match="65536 services"):
        family.runtime.add_service(b"", **options)
    assert family.in_use() == before
    assert words.get("queues", 0, "state") == words.tables.QUEUE_OPEN
    assert {words.get("queues", queue, "state") for queue in (1, words.tables.POOL_QUEUES)} == {words.tables.QUEUE_FREE}
    family.runtime.close_service(*last[:2])
    os.pwrite(words.fd, bytes(size * count), at)
    words.set("header", 0, "service_high", 0)
    family.check()


def test_an_entry_is_another_service_s_once_it_was_given_back(family):
    first = family.service(same)
    family.runtime.close_service(*first[:2])
    second = family.service(same)
    assert second[:2] == (first[0], first[1] + 1)
    assert [family.runtime.is_service(*one[:2]) for one in (first, second)] == [False, True]


@pytest.mark.parametrize("options, most", [({"limit": 1}, "255 limited"), ({"instance": True}, "3840 instance")])
def test_queues_run_out(family, options, most):
    words = Words(family.runtime)
    first, end = (
        (1, words.tables.POOL_QUEUES) if "limit" in options else (words.tables.POOL_QUEUES, words.tables.QUEUE_COUNT)
    )
    for queue in range(first, end - 1):
        words.set("queues", queue, "state", words.tables.QUEUE_OPEN)
    assert family.runtime.add_service(b"", **options)[2] == end - 1
    with pytest.raises(FlameError, match=f"{most} services"):
        family.runtime.add_service(b"", **options)
    for queue in range(first, end - 1):
        words.set("queues", queue, "state", words.tables.QUEUE_FREE)


def test_a_service_that_shares_the_workers_has_no_queue_of_its_own(family):
    words, service = Words(family.runtime), family.service(same)
    assert service[2] == 0
    assert family.service(same, limit=1)[2] == 1
    family.runtime.close_service(*service[:2])
    assert words.get("queues", 0, "state") == words.tables.QUEUE_OPEN


def test_workers_look_at_no_instance_s_queue_though_all_others_are_in_use(family):
    words = Words(family.runtime)
    words.set("header", 0, "pool_queue_high", words.tables.POOL_QUEUES)
    assert family.service(Log(), INSTANCE, ("note",))[2] == words.tables.POOL_QUEUES
    assert words.get("header", 0, "pool_queue_high") == words.tables.POOL_QUEUES


def test_a_runner_without_processes_loads_no_library_ahead(alone):
    alone.service(same, preload=1)
    assert alone.supervisor.preload == 0


def test_an_instance_of_a_runner_without_processes_gives_its_queue_back(alone):
    words, log = Words(alone.runtime), alone.service(Log(), INSTANCE, ("note",))
    alone.runtime.start_instance(log[0])
    assert words.get("queues", log[2], "process") == words.tables.DRIVER_INDEX + 1
    assert alone.supervisor.processes() == []
    alone.runtime.close_service(*log[:2])
    assert words.get("queues", log[2], "state") == words.tables.QUEUE_FREE


def test_an_instance_that_was_never_called_gives_its_queue_back(family):
    words, log = Words(family.runtime), family.service(Log(), INSTANCE, ("note",))
    family.runtime.close_service(*log[:2])
    assert words.get("queues", log[2], "state") == words.tables.QUEUE_FREE


def test_closed_services_are_counted_and_open_ones_are_not(family):
    family.service(same)
    assert family.runtime.reap_services() == 0
    words, closed = Words(family.runtime), family.service(same)
    words.set("services", closed[0], "state", words.tables.SERVICE_CLOSING)
    assert family.service(same)[0] == closed[0]  # it is freed first
