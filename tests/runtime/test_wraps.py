"""What comes round: numbers of a slot's uses, places in a queue, marks, which a process may have kept from before."""

from __future__ import annotations

import fcntl
import os
import random
import time
from pathlib import Path

import pytest
from gates import PATIENCE_S, Gate, hold, same, wait_until

from flame_fast import FlameError, Runner

#: Uses of one slot after which 23 bits of its generation are as before: so many, an entry once had.
USES = 2**23
#: How long calls of all kinds are made.
STORM_S = 600 if os.environ.get("FLAME_FAST_STORM") == "1" else 2
#: Calls that a task runs itself. Each leaves a void entry in the pool's queue.
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


def alone(path, gate=None):
    """Task: run alone in a service with one worker; no other process may be in it."""
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if gate is not None:
            gate.wait()
        return os.getpid()


def touch(path):
    open(path, "w").close()


def leave_entries(service):
    """Run a task behind a queued call, for each use of the lowest free slot."""
    for number in range(HELPED):
        assert service(number).get() == number


def use_again(rr, uses):
    put = rr.put_object
    for _ in range(uses):
        put(None)


def ask(occupy, call, service, touching, start, uses, project):
    """Return what two calls of a service return, the second of which has a slot with many old entries in the pool's queue.

    Meanwhile the service is busy with the first, and one worker goes through all of the pool's queue.
    """
    start.wait()
    first = occupy[0](*occupy[1:])
    leave_entries(service)
    with Runner("inner") as rr:
        use_again(rr, uses - HELPED // 2)
    second = call[0](*call[1:])
    last = touching(str(project / "last"))
    touch(project / "called")
    wait_until((project / "last").exists, "the other worker's coming to the end of the pool's queue")
    return last.get(), first.get(), second.get()


def instance_of(rr, busy):
    """Return the task that occupies an instance, the one that calls it, and what both return."""
    instance = rr.service(Counter())
    _, pid = instance.count().get(PATIENCE_S)
    return (held_by, instance, busy), (counted_by, instance), ((2, pid), (3, pid))


def limited_service(rr, busy):
    """Return the same of a service, each call of which fails while another runs."""
    service = rr.service(alone, autoscale=False, warmup=1)
    path = os.path.abspath("alone")
    touch(path)
    pid = service(path).get(PATIENCE_S)
    return (service, path, busy), (service, path), (pid, pid)


def held_by(instance, gate):
    return instance.hold(gate)


def counted_by(instance):
    return instance.count()


@pytest.mark.parametrize(("kind", "uses"), [(instance_of, 2**10), (instance_of, USES), (limited_service, USES)])
def test_a_call_is_run_by_its_service_s_processes_whatever_its_slot_was_used_for(project, kind, uses):
    """Old entries in the pool's queue name its slot, and its number of uses has come round."""
    with Runner("wraps", workers=3) as rr, Gate() as start, Gate() as busy, Gate() as other, Gate() as another:
        occupy, call, expected = kind(rr, busy)
        held = [rr.service(hold)(other, "held")]
        other.entered()
        if kind is instance_of:  # no worker of the pool will be busy with the first call
            held.append(rr.service(hold)(another, "held"))
            another.entered()
        future = rr.service(ask)(occupy, call, rr.service(same), rr.service(touch), start, uses, project)
        start.entered()
        queued = rr.service(same)("queued")
        start.open()
        wait_until((project / "called").exists, "the task's second call")
        other.open()
        wait_until((project / "last").exists, "the other worker's coming to the end of the pool's queue")
        busy.open()
        for _ in held[1:]:
            another.open()
        assert future.get(PATIENCE_S) == (None, *expected)
        assert rr.get([*held, queued], timeout=PATIENCE_S) == ["held"] * len(held) + ["queued"]


# ---- the contract, while everything comes round --------------------------------------------------------------------


class Log:
    def __init__(self):
        self.noted = []

    def note(self, number):
        self.noted.append(number)

    def all(self):
        return self.noted


def add(*numbers, more=0):
    return sum(numbers) + more


def record(running, number):
    """Task: return how many calls of the service ran at the same time as this one."""
    mark = Path(running, str(number))
    mark.touch()
    count = len(os.listdir(running))
    mark.unlink()
    return count


def recurse(service, depth):
    return depth + (service(service, depth - 1).get() if depth else 0)


def refuse(number):
    raise LookupError(number)


def calls_have_their_values(rr):
    adding = rr.service(add)
    assert rr.get([adding(number, 1, more=2) for number in range(100)]) == [number + 3 for number in range(100)]


def chains_have_their_values(rr):
    adding = rr.service(add)
    futures = [adding(0)]
    for number in range(1, 60):
        futures.append(adding(futures[-1], futures[number // 2], number))
    expected = [0]
    for number in range(1, 60):
        expected.append(expected[-1] + expected[number // 2] + number)
    assert rr.get(futures) == expected


def failures_reach_what_depends_on_them(rr):
    failed = rr.service(refuse)(1)
    low = [rr.service(add)(failed, number) for number in range(30)]
    lower = rr.service(add)(*low)
    assert all(isinstance(future.exception(PATIENCE_S), LookupError) for future in [failed, *low, lower])


def instances_keep_order(rr):
    instances = [rr.service(Log()) for _ in range(2)]
    for number in range(50):
        for instance in instances:
            instance.note(number)
    assert [instance.all().get() for instance in instances] == [list(range(50))] * 2


def limited_services_keep_their_limit(rr, directory):
    service = rr.service(record, autoscale=False, warmup=1)
    assert set(rr.get([service(str(directory), number) for number in range(60)])) == {1}


def values_stay(rr):
    refs = [rr.put_object([number] * number) for number in range(100)]
    del refs[::3]
    assert all(ref.get() == [ref.get()[0]] * len(ref.get()) for ref in refs if len(ref.get()))


def select_gives_each_once(rr):
    futures = [rr.service(add)(number) for number in range(150)]
    assert sorted(future.get() for future in rr.select(futures)) == list(range(150))


def map_keeps_order(rr):
    assert list(rr.service(add).map(range(1000))) == list(range(1000))


def tasks_wait_for_tasks(rr):
    recursing = rr.service(recurse)
    assert rr.get([recursing(recursing, depth) for depth in range(12)]) == [sum(range(depth + 1)) for depth in range(12)]


def services_come_and_go(rr):
    for number in range(80):
        service = rr.service(add)
        assert service(number).get() == number
        service.close()
        with pytest.raises(FlameError):
            service(1)


@pytest.mark.parametrize("engine", ["local", "inline"])
@pytest.mark.parametrize("back", [1, 17, 250])
def test_the_contract_holds_while_every_counter_comes_round(project, wrap_after, engine, back):
    wrap_after(back)
    running = project / "running"
    running.mkdir()
    with Runner("wraps", workers=2, engine=engine) as rr:
        for _ in range(2):
            calls_have_their_values(rr)
            chains_have_their_values(rr)
            failures_reach_what_depends_on_them(rr)
            instances_keep_order(rr)
            limited_services_keep_their_limit(rr, running)
            values_stay(rr)
            select_gives_each_once(rr)
            map_keeps_order(rr)
            tasks_wait_for_tasks(rr)
            services_come_and_go(rr)
        statistics = rr.statistics()
        assert (statistics.queued, statistics.running, statistics.waiting) == (0, 0, 0)


# ---- calls are run where they belong -------------------------------------------------------------------------------


class Ledger:
    """An instance that notes its callers, in the order of their calls."""

    def __init__(self):
        self.entries = []

    def note(self, who, number):
        self.entries.append((who, number))
        return os.getpid()

    def of(self):
        return self.entries


class Traffic:
    """What a task does: calls of all kinds, in a random order; how many of each ledger it made is its value."""

    def __init__(self, who, depth, ledgers, services, path):
        self.who, self.depth, self.ledgers, self.services, self.path = who, depth, ledgers, services, path
        self.random = random.Random(repr(who))
        self.noted = [0] * len(ledgers)
        self.kept = []

    def run(self, steps):
        deeds = [self.note, self.note, self.help_itself, self.enter_alone, self.use_slots, self.wait_for_some, self.nest]
        for _ in range(steps):
            self.random.choice(deeds)()
        noted = [(self.who, self.noted)]
        for future in self.kept:
            found = future.get()
            noted += found if isinstance(found, list) else []
        return noted

    def note(self):
        at = self.random.randrange(len(self.ledgers))
        future = self.ledgers[at].note(self.who, self.noted[at])
        self.noted[at] += 1
        if self.random.random() < 0.7:
            self.kept.append(future)

    def help_itself(self):
        numbers = range(self.random.randrange(1, 20))
        assert [self.services["same"](number).get() for number in numbers] == list(numbers)

    def enter_alone(self):
        self.kept.append(self.services["alone"](self.path))

    def use_slots(self):
        with Runner("inner") as rr:
            for _ in range(self.random.randrange(300)):
                rr.put_object(None)

    def wait_for_some(self):
        at = self.random.randrange(len(self.kept) + 1)
        for future in self.kept[at : at + 3]:
            future.get()

    def nest(self):
        if self.depth and len(self.kept) % 4 == 0:
            who = (*self.who, len(self.kept))
            arguments = (who, self.depth - 1, self.ledgers, self.services, self.path)
            self.kept.append(self.services["traffic"](*arguments))


def traffic(*arguments):
    return Traffic(*arguments).run(16)


@pytest.mark.storm
@pytest.mark.timeout(3600)
def test_each_call_is_run_once_by_its_own_process_and_in_order(project, wrap_after):
    """Instances, a limited service, nested calls, calls that their task runs itself; slots are used again at full speed."""
    deadline = time.monotonic() + STORM_S
    path = project / "alone"
    path.touch()
    rounds = 0
    while rounds == 0 or time.monotonic() < deadline:
        wrap_after(random.Random(rounds).randrange(1, 2000))
        rounds += 1
        with Runner("wraps", workers=3) as rr:
            ledgers = [rr.service(Ledger()) for _ in range(4)]
            services = {"same": rr.service(same), "traffic": rr.service(traffic)}
            services["alone"] = rr.service(alone, autoscale=False, warmup=1)
            futures = [services["traffic"]((rounds, number), 2, ledgers, services, str(path)) for number in range(4)]
            made = [noted for found in rr.get(futures, timeout=120) for noted in found]
            for at, ledger in enumerate(ledgers):
                expected = {(who, number) for who, noted in made for number in range(noted[at])}
                entries = ledger.of().get(PATIENCE_S)
                assert len(entries) == len(expected) and set(entries) == expected
                for who, _ in made:
                    numbers = [number for caller, number in entries if caller == who]
                    assert numbers == sorted(numbers), f"{who}'s calls of an instance lost their order"
