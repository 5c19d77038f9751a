"""What comes round: numbers of a slot's uses, places in a lane, marks, which a process may have kept from before."""

from __future__ import annotations

import os

import pytest
from gates import PATIENCE_S, Gate, hold, same, wait_until

from flame_fast import Runner

#: Uses of one slot after which 23 bits of its generation are as before: so many, a hint once had.
USES = 2**23
#: Calls that a task runs itself. Each leaves a void hint in the pool's lane.
HELPED = 200


class Counter:
    def __init__(self):
        self.calls = 0

    def hold(self, gate):
        gate.wait()
        return self.count()

    def count(self):
        self.calls += 1
        return self.calls, os.getpid()


def touch(path):
    open(path, "w").close()


def leave_hints(service):
    """Behind a queued call: one for each use of the lowest free slot."""
    for number in range(HELPED):
        assert service(number).get() == number


def use_again(rr, uses):
    put = rr.put_object
    for _ in range(uses):
        put(None)


def ask(instance, service, touching, start, busy, uses, project):
    """Returns what an instance's two calls return, the second of which has a slot with many old hints in the pool's lane.

    Meanwhile the instance is busy with the first, and one worker goes through all of the pool's lane.
    """
    start.wait()
    first = instance.hold(busy)
    leave_hints(service)
    with Runner("inner") as rr:
        use_again(rr, uses - HELPED // 2)
    second = instance.count()
    last = touching(str(project / "last"))
    touch(project / "called")
    wait_until((project / "last").exists, "the other worker's coming to the end of the pool's lane")
    return last.get(), first.get(), second.get()


@pytest.mark.parametrize("uses", [2**10, USES])
def test_an_instance_s_call_is_run_by_the_instance_whatever_its_slot_was_used_for(project, uses):
    """Old hints in the pool's lane name its slot, and its number of uses has come round."""
    with Runner("wraps", workers=2) as rr, Gate() as start, Gate() as busy, Gate() as other:
        instance, service = rr.service(Counter()), rr.service(same)
        _, pid = instance.count().get(PATIENCE_S)
        held = rr.service(hold)(other, "held")
        other.entered()
        future = rr.service(ask)(instance, service, rr.service(touch), start, busy, uses, project)
        start.entered()
        queued = service("queued")
        start.open()
        wait_until((project / "called").exists, "the task's calling the instance")
        other.open()
        wait_until((project / "last").exists, "the other worker's coming to the end of the pool's lane")
        busy.open()
        assert future.get(PATIENCE_S) == (None, (2, pid), (3, pid))
        assert (held.get(PATIENCE_S), queued.get(PATIENCE_S)) == ("held", "queued")
