"""A storm: random kills of workers under a mixed load of limited, cancelled, retried, urgent and plain calls.

Every call has exactly one outcome, which is one that its options allow; a call that asked for no retry never runs twice; a
cancelled queued call never runs; nothing hangs and nothing stays in the tables. Each call writes a byte into a file of its
own when it begins, so that the files tell how often it ran. Longer with `--minutes N`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import time
from concurrent.futures import CancelledError

import pytest
from gates import PATIENCE_S, wait_until
from process_events import workers

from flame_fast import Runner, TaskTimeoutError, WorkerDiedError

pytestmark = [pytest.mark.storm, pytest.mark.timeout(3600)]

#: Of a round, which has a runner of its own. Long storms have long rounds, for what piles up.
KILLS, MOST_KILLS = 12, 250
WORKERS = 3
#: Calls that the driver holds at the same time.
WINDOW = 60
RETRIES = 3


class Flaky(Exception):
    pass


def begin(directory, number):
    """Note one more attempt; return which one it is."""
    path = os.path.join(directory, str(number))
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, b"x")
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def work(directory, number, before=None):
    begin(directory, number)
    time.sleep(random.random() / 500)
    return number


def endless(directory, number):
    begin(directory, number)
    while True:
        time.sleep(0.01)


def flaky(directory, number):
    if begin(directory, number) <= 2:
        raise Flaky(number)
    return number


def large(directory, number, data):
    begin(directory, number)
    return number, data[::-1]


def nested(service, directory, number):
    """Wait for a call of its own, which may run in this very process."""
    begin(directory, number)
    with Runner("inner"):
        return service(directory, f"{number}-inner").get()


class Storm:
    """Makes calls of every kind, reads some time later what became of them, and keeps count."""

    def __init__(self, rr, directory, chance):
        self.rr, self.directory, self.chance = rr, str(directory), chance
        self.number = 0
        self.open = collections.deque()
        self.ended = collections.Counter()
        self.never_run, self.once = [], []
        plain = rr.service(work)
        self.kinds = {
            "plain": plain,
            "urgent": plain.options(priority="urgent"),
            "detached": plain.options(detached=True, capture=True),
            "timed": rr.service(endless).options(timeout=0.02),
            "late": plain.options(deadline=0.03),
            "retried": plain.options(retries=RETRIES, backoff=0.001),
            "flaky": rr.service(flaky).options(retries=RETRIES, retry_on=(Flaky, WorkerDiedError)),
            "endless": rr.service(endless),
            "large": rr.service(large),
            "nested": rr.service(nested),
        }

    def make(self):
        """Make one call, and perhaps another that depends on it; drop, cancel or keep it."""
        kind = self.chance.choice(list(self.kinds))
        self.number += 1
        number, service = self.number, self.kinds[kind]
        if kind == "large":
            future = service(self.directory, number, bytes([number & 0xFF]) * 50_000)
        elif kind == "nested":
            future = service(self.kinds["plain"], self.directory, number)
        else:
            future = service(self.directory, number)
        if kind not in ("retried", "flaky"):
            self.once.append(number)
        fate = self.chance.random()
        if kind == "endless":
            time.sleep(self.chance.random() / 200)
            assert future.cancel(force=True)
            self.read(kind, number, future)
        elif fate < 0.1:
            if future.cancel():
                self.never_run.append(number)
            self.read(kind, number, future)
        elif fate < 0.2:
            future.cancel(force=True)
            self.read(kind, number, future)
        elif fate < 0.3:
            del future  # dropped, unless it has begun
        elif fate < 0.4 and kind != "timed":
            self.number += 1
            self.once.append(self.number)
            self.open.append((kind, number, future))
            self.open.append(("dependent", self.number, self.kinds["plain"](self.directory, self.number, future)))
        else:
            self.open.append((kind, number, future))
        while len(self.open) > WINDOW:
            self.read(*self.open.popleft())

    def read(self, kind, number, future):
        try:
            value = future.get(PATIENCE_S)
        except CancelledError:
            assert future.cancelled()
            self.ended["cancelled"] += 1
        except WorkerDiedError as error:
            assert error.signal in ("SIGKILL", None)
            self.ended["died"] += 1
        except TaskTimeoutError:
            assert kind in ("timed", "late", "dependent")
            self.ended["timed out"] += 1
        except Flaky as error:  # its third attempt with a begin succeeds: the others died before that
            died = sum("WorkerDiedError" in note for note in error.__notes__)
            assert kind in ("flaky", "dependent") and len(error.__notes__) == RETRIES and died >= RETRIES - 1
            self.ended["failed"] += 1
        else:
            expected = {"large": (number, bytes([number & 0xFF]) * 50_000), "nested": f"{number}-inner"}.get(kind, number)
            assert value == expected
            assert kind not in ("timed", "endless")
            self.ended["done"] += 1

    def attempts(self, number):
        path = os.path.join(self.directory, str(number))
        return os.path.getsize(path) if os.path.exists(path) else 0

    def check(self):
        assert [number for number in self.never_run if self.attempts(number)] == []
        assert [number for number in self.once if self.attempts(number) > 1] == []
        assert max(self.attempts(number) for number in range(1, self.number + 1)) <= RETRIES + 1


def test_kills_under_limits_cancels_and_retries(project, tmp_path, rounds):
    for seed in rounds:
        directory = tmp_path / str(seed)
        directory.mkdir()
        kills = min(KILLS * (1 + 4 * seed), MOST_KILLS)
        print(f"round {seed}: {kills} kills, ended {run_round(random.Random(seed), directory, kills)}", flush=True)


def run_round(chance, directory, kills):
    """Run a storm of so many kills; return how its calls ended."""
    with Runner("storm", workers=WORKERS) as rr:
        storm = Storm(rr, directory, chance)
        before = rr.statistics().objects  # the types of errors that are retried
        for _ in range(kills):
            for _ in range(chance.randrange(12)):
                storm.make()
            kill_one(chance)
        while storm.open:
            storm.read(*storm.open.popleft())
        wait_until(lambda: rr.statistics().objects == before, "the end of every call")
        assert rr.service(work)(str(directory), 0).get(PATIENCE_S) == 0
        storm.check()
    assert len(storm.ended) >= 4 or kills == KILLS  # few kills may all meet calls that are tried again
    return dict(storm.ended)


def kill_one(chance):
    """Kill some worker, if there is one just now."""
    pids = workers()
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)
