"""Services: closed ones are freed with their last call, entries and queues are used again, a full table refuses.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import pytest
from actors import MB
from gates import same

from flame_fast import FlameError, StoreFullError


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
    """The warm-ups that it still asked for are taken back."""
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
