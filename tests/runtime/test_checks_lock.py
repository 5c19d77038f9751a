"""The lock: a process that needs it waits for its holder, releases it as often as it acquires it, and repairs after a death.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import os
import signal

import audit
import numpy as np
import pytest
from actors import GROUP, LARGE, MB, Actor, error_of, is_asleep
from gates import PATIENCE_S, same, wait_until
from runtime_harness import POOL
from words import Words

from flame_fast import StoreFullError


@pytest.mark.parametrize("size", [1, 1000, 100_000])
@pytest.mark.parametrize("is_freeing", [True, False])
def test_allocating_and_freeing_groups_and_extents_waits_for_the_lock(family, size, is_freeing):
    """The process needs more of them than it has at hand; nothing under the lock changes before it has the lock."""

    def put(_=None):
        return [family.runtime.put(b"x" * size) for _ in range(GROUP + 1)]

    actor = Actor(family, put, list.clear) if is_freeing else Actor(family, act=put)
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
def test_what_a_repair_frees_is_freed_once(family, size):
    """The lock's holder dies. The next process, which has claimed an empty group, repairs first, and frees it by that."""
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


def test_a_group_that_is_being_freed_is_not_allocated_from(family):
    """Not even the group's owner allocates from it."""
    words, service = Words(family.runtime), family.service(same)

    def fill():
        for number in range(GROUP):
            family.detached(service, number)
        return [family.runtime.put(number) for number in range(GROUP)]

    actor = Actor(family, fill, lambda values: values.append(family.runtime.put(1)))
    first = actor_group(words, actor)
    with words.locked():
        worker = family.fork_worker()
        wait_until(lambda: audit.Tables(words.fd).groups[first].used == audit.CLAIMED)
        actor.begin()
        assert actor.is_held_up()
        assert audit.Tables(words.fd).groups[first].used == audit.CLAIMED
    actor.listen()
    wait_until(lambda: is_asleep(worker.pid))  # it may still spin
    family.check()
    actor.end()


def actor_group(words, actor):
    """Return the first of the groups that an actor allocates from."""
    groups = audit.Tables(words.fd).groups
    return next(number for number, group in enumerate(groups) if group.owner == actor.relative.index + 1)


def test_a_process_that_needs_the_lock_waits_until_it_is_released(family):
    """The process then finds the holder's change: there is no room left."""
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


def test_the_lock_is_released_as_often_as_it_is_acquired(family):
    """Each operation of one process balances: a release without an acquire would take the lock from another process."""
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
    assert give(), "the lock was released without having been acquired"
    assert not give(), "the lock is still held"
    family.check()


def test_the_lock_names_its_holder_and_outlives_it(family):
    """A relative holds the lock while it rings a bell that no process reads."""
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
