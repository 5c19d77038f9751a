"""Several processes submit to the native runtime, several serve it: each call runs once, in order where order is promised.

The parent is driver and zygote: it makes the segment, forks producers and workers, and recovers them when they have ended.
Every call writes its number into a file with one `write` in append mode; the files tell what ran, how often, in which order.
Longer with FLAME_FAST_STORM=1.
"""

from __future__ import annotations

import collections
import os
import random
import select
import signal
import struct
from concurrent.futures import CancelledError

import pytest
from flame_fast.kernels.runtime import CallPolicy
from gates import PATIENCE_S
from runtime_harness import Death, Family

from flame_fast.engine.spec import INSTANCE

pytestmark = [pytest.mark.storm, pytest.mark.timeout(1200)]

LONG = os.environ.get("FLAME_FAST_STORM") == "1"
#: Rounds of one producer; each is a few calls of every kind.
ROUNDS = 100_000 if LONG else 6000
#: Workers killed while they serve.
KILLS = 2000 if LONG else 24
#: Unread futures of one producer.
WINDOW = 200
RECORD = struct.Struct("<HHI")  # producer, kind, number
PLAIN, CHAINED, ORDERED, LIMITED, DETACHED, FAILING, LARGE, NESTED, UNWANTED, CANCELLED = range(10)

#: Calls that may never run.
OPTIONAL = (UNWANTED, CANCELLED)


def record(path, producer, kind, number):
    """Append one record; opened once per process."""
    fd = opened.get(path)
    if fd is None:
        fd = opened[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    assert os.write(fd, RECORD.pack(producer, kind, number)) == RECORD.size
    return producer, kind, number


#: The target of `record`, for calls from inside a call.
submitting: dict[str, object] = {}
opened: dict[str, int] = {}


def chained(path, producer, number, before):
    record(path, producer, CHAINED, number)
    return before[0] + 1, number


def failing(path, producer, number):
    record(path, producer, FAILING, number)
    raise LookupError(number)


def large(path, producer, number, data):
    record(path, producer, LARGE, number)
    return data[::-1]


def nested(path, producer, number):
    """Wait for a call of its own: this worker runs it meanwhile, or another one does; no supervisor adds workers here."""
    return submitting["record"](path, producer, NESTED, number).get()


class Ordered:
    def __init__(self):
        self.numbers = collections.Counter()

    def record(self, path, producer, number):
        record(path, producer, ORDERED, number)
        self.numbers[producer] += 1
        return self.numbers[producer]


class Producer:
    """Queues calls of every kind and reads what they give, some rounds later, or never."""

    def __init__(self, family, services, path, number, rounds, mortal=False):
        self.runtime = family.runtime
        self.targets = {name: family.target(ids) for name, ids in services.items()}
        self.targets["detached"] = family.target(services["record"], 0, CallPolicy(detached=True))
        self.path = path
        self.number = number
        self.rounds = rounds
        self.mortal = mortal  # workers may die, and calls with them
        self.unread = collections.deque()
        self.last = None

    def live(self):
        self.last = self.runtime.put((0, None))  # here: what the parent puts is the parent's to drop
        for number in range(self.rounds):
            self.one_round(number)
            while len(self.unread) > WINDOW:
                self.read()
        while self.unread:
            self.read()
        if not self.mortal:
            assert self.last.get(PATIENCE_S) == (self.rounds, self.rounds - 1)

    def live_until_told(self):
        """By SIGTERM."""
        self.last = self.runtime.put((0, None))
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "rounds", 0))
        number = 0
        while self.rounds:
            self.one_round(number)
            number += 1
            while len(self.unread) > WINDOW:
                self.read()
        while self.unread:
            self.read()

    def one_round(self, number):
        path, me = self.path, self.number
        self.expect(self.targets["record"](path, me, PLAIN, number), (me, PLAIN, number))
        self.last = self.targets["chained"](path, me, number, self.last)
        self.expect(self.targets["ordered"](path, me, number), number + 1)
        self.expect(self.targets["limited"](path, me, LIMITED, number), (me, LIMITED, number))
        self.targets["detached"](path, me, DETACHED, number)
        self.targets["record"](path, me, UNWANTED, number)
        self.cancel(self.targets["record"](path, me, CANCELLED, number), (me, CANCELLED, number))
        self.expect(self.targets["failing"](path, me, number), LookupError(number))
        if number % 8 == 0:
            data = bytes([number & 0xFF, me]) * (20 if number % 16 else 40_000)
            self.expect(self.targets["large"](path, me, number, self.runtime.put(data)), data[::-1])
        if number % 32 == 0:
            self.expect(self.targets["nested"](path, me, number), (me, NESTED, number))

    def cancel(self, future, value):
        """Cancel a call, which runs only if it has begun."""
        if future.cancel():
            assert future.cancelled()
            assert isinstance(future.exception(), CancelledError)
        else:
            self.expect(future, value)

    def expect(self, future, value):
        self.unread.append((future, value))

    def read(self):
        future, expected = self.unread.popleft()
        error = future.exception(PATIENCE_S)
        if self.mortal and isinstance(error, Death):
            return
        if isinstance(expected, Exception):
            assert repr(error) == repr(expected)
        else:
            assert error is None
            assert future.get() == expected


@pytest.fixture
def family(nothing_left):
    made = Family(limit=1 << 28, workers=4, cpus=2)
    yield made
    submitting.clear()
    made.close()


def services_of(family):
    services = {
        "record": family.service(record),
        "chained": family.service(chained),
        "failing": family.service(failing),
        "large": family.service(large),
        "limited": family.service(record, limit=1),
        "ordered": family.service(Ordered(), INSTANCE, ("record",)),
        "nested": family.service(nested),
    }
    submitting["record"] = family.target(services["record"])
    family.runtime.start_instance(services["ordered"][0])
    return services


@pytest.fixture
def path(tmp_path):
    (tmp_path / "ran").touch()
    return str(tmp_path / "ran")


@pytest.mark.parametrize(
    ("producers", "workers"),
    [(1, 1), (2, 2), (1, 8), (8, 8), *(pytest.param(*pair, marks=pytest.mark.storm) for pair in [(1, 2), (2, 1), (8, 1)])],
    ids=lambda count: str(count),
)
def test_each_call_runs_once(family, path, producers, workers):
    rounds = ROUNDS // producers
    services = services_of(family)
    before = family.in_use()
    serving = [family.fork_worker() for _ in range(workers)] + family.fork_requested()
    submitting_ones = [family.fork(Producer(family, services, path, number, rounds).live) for number in range(producers)]
    assert [family.recover_process(one) for one in submitting_ones] == [0] * producers
    family.wait_until_idle()
    family.wait_until_in_use(before)
    family.runtime.announce_close()
    assert [family.recover_process(worker) for worker in serving] == [0] * len(serving)
    assert family.in_use()[0] == before[0]
    family.check()
    ran = records(path)
    check_at_most_once(ran)
    ran = [call for call in ran if call[1] not in OPTIONAL]
    missing = set(all_calls(producers, rounds)) - set(ran)
    assert not missing, f"never ran: {sorted(missing)[:10]}"
    assert len(ran) == len(all_calls(producers, rounds))
    check_order(ran, producers)


@pytest.mark.parametrize(("producers", "workers"), [(1, 2), (2, 4)], ids=lambda count: str(count))
def test_no_call_runs_twice_though_workers_die(family, path, producers, workers):
    """Pool workers are killed at random moments, and replaced; a call ends with its value or with its worker's death."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    services = services_of(family)
    before = family.in_use()
    serving = [family.fork_worker() for _ in range(workers)]
    instances = family.fork_requested()
    going_on = [
        family.fork(Producer(family, services, path, number, 1, mortal=True).live_until_told) for number in range(producers)
    ]
    ended = select.poll()
    for one in going_on:
        ended.register(one.pidfd, select.POLLIN)
    for _ in range(KILLS):
        assert not ended.poll(chance.uniform(0, 10)), "a producer has ended early"
        victim = serving.pop(chance.randrange(workers))
        victim.kill()
        family.recover_process(victim)
        serving.append(family.fork_worker())
    for one in going_on:
        signal.pidfd_send_signal(one.pidfd, signal.SIGTERM)
    assert [family.recover_process(one) for one in going_on] == [0] * producers
    family.wait_until_idle()
    family.wait_until_in_use(before)
    family.runtime.announce_close()
    assert [family.recover_process(worker) for worker in serving + instances] == [0] * len(serving + instances)
    family.check()
    ran = records(path)
    check_at_most_once(ran)
    check_order(ran, producers)


def records(path):
    with open(path, "rb") as file:
        return list(RECORD.iter_unpack(file.read()))


def all_calls(producers, rounds):
    steps = {PLAIN: 1, CHAINED: 1, ORDERED: 1, LIMITED: 1, DETACHED: 1, FAILING: 1, LARGE: 8, NESTED: 32}
    return [
        (producer, kind, number)
        for producer in range(producers)
        for kind, step in steps.items()
        for number in range(0, rounds, step)
    ]


def check_at_most_once(ran):
    twice = [call for call, count in collections.Counter(ran).items() if count > 1]
    assert not twice, f"ran more than once: {twice[:10]}"


def check_order(ran, producers):
    for kind in (ORDERED, CHAINED):
        for producer in range(producers):
            order = [number for by, what, number in ran if by == producer and what == kind]
            assert order == sorted(order), f"calls of producer {producer} ran out of order"
