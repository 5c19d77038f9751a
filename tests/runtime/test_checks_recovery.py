"""Recovery of whole processes: values, views, permits, calls, services and statistics that a dead process held.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import os
import signal

import numpy as np
from actors import is_asleep
from gates import PATIENCE_S, Log, same, wait_until

from flame_fast.engine.spec import INSTANCE


def forked_until(family, tmp_path, life):
    """Fork a relative that lives `life` and waits; kill and recover it."""
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
    """The dead process held values, views, calls in the queue, promises with dependents."""
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
    """The permit is sticky: a worker keeps it between calls."""
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
    assert family.runtime.statistics()["copied_bytes"] == statistics["copied_bytes"] > 100_000
