"""The family of one death: a process that is going to be stepped, its parent, and sometimes one that acts in between.

The parent is driver, supervisor (zygote) and the worker that is left; it looks whether everything came back.
"""

from __future__ import annotations

import mmap
import os
import select

import audit
import numpy as np
from flame_fast.kernels.runtime import Role, serialization
from runtime_harness import Death, Family
from stepping import mark

from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host

#: Seconds within which the survivors must have done with one death.
DEADLINE_S = 30
#: What a death may cost: the one small block that was just on its way back (see value_free).
LOST_BYTES = 1 << 15
GROUP = 62  # slots, or blocks of a kilobyte
#: Milliseconds after which a neighbour is taken for blocked.
BLOCKED_MS = 40

KB, LARGE = b"k" * 1000, b"l" * 40_000
ARRAY = np.arange(5000.0)
BLOCK_SIZES = [size for exponent in range(7, 15) for size in (2**exponent * (4 + step) // 4 - 40 for step in range(4))] + [
    32_000
]
#: How often each numbered task has begun: shared by all relatives.
begun = mmap.mmap(-1, 4096)
#: The `ending` calls that this process has run.
ended: list[bool] = []
TORN = 4095  # where a task says that its arguments are not what was given


def echo(*args):
    return whole(args)


def count(number, *args):
    begun[number] += 1
    return whole(args)


def whole(value):
    """Note a torn value: each value here is of one byte all over, or counts up."""
    if isinstance(value, (list, tuple)):
        for part in value:
            whole(part)
    elif isinstance(value, bytes):
        begun[TORN] |= value != value[:1] * len(value)
    elif isinstance(value, np.ndarray):
        begun[TORN] |= not np.array_equal(np.diff(value), np.ones(max(0, len(value) - 1)))
    return value


def returning(number, value):
    """Begin the stepped part when the user's function is at its end."""
    begun[number] += 1
    mark()
    return value


def making(number, kind):
    """Make a result that is the function's own."""
    begun[number] += 1
    value = {
        "array": lambda: np.arange(5000.0),
        "arrays": lambda: (np.arange(5000.0), [np.arange(6000.0)], KB, "x" * 50_000),
    }[kind]()
    mark()
    return value


def failing(number, *_):
    """Begin the stepped part when the error has been written down: see `MarkingHost`."""
    begun[number] += 1
    raise KeyError("failed")


def ending(*_):
    mark()
    ended.append(True)


def flaky(number, value):
    """Fail at the first attempt; the stepped part begins before that, and ends when the next one has begun."""
    begun[number] += 1
    mark()
    if begun[number] == 1:
        raise KeyError("failed")
    return value


class MarkingHost(Host):
    def dump_error(self, error, output=None):
        dumped = super().dump_error(error, output)
        mark()
        return dumped


class Log(list):
    def note(self, number, value):
        begun[number] += 1
        self.append(whole(value))
        return value

    def returning(self, number, value):
        mark()
        return self.note(number, value)

    def ending(self):
        mark()


class Scene(Family):
    """The family of one death: one that is going to be stepped, and this process, which has run everything once before."""

    def __init__(self):
        super().__init__(inline=True)
        begun[:] = bytes(len(begun))
        names = (echo, count, returning, making, failing, flaky, ending)
        for function in names:
            setattr(self, function.__name__, self.service(function))
        self.log = self.service(Log(), INSTANCE, ("note", "returning", "ending"))
        self.limited = self.service(count, limit=1)
        # One slab of each size stays this process's own: what it takes later does not count against a death.
        for size in BLOCK_SIZES:
            self.runtime.put(b"x" * size)
        inputs = [self.runtime.put(number) for number in range(4)]
        for count_of in range(1, 5):  # the smallest blocks are only of calls with dependencies
            self.call(self.echo, *inputs[:count_of])
        del inputs
        for warm_up in (
            self.call(self.echo, 1),
            self.call(self.count, 0),
            self.call(self.limited, 0),
            self.call(self.log, 0, 0),
        ):
            self.work()
            warm_up.get()
        del warm_up
        begun[0] = 0
        self.before = self.state()

    def call_by(self, policy, service, *args):
        return self.target(service, 0, policy)(*args)

    def state(self):
        """Return what is as before once everything has come back."""
        slots, nbytes = self.in_use()
        # As many as there are in whole groups, so that it does not matter which group is the current one.
        promises = [self.runtime.promise() for _ in range(16 * GROUP - slots)]
        highest = max(promise.number for promise in promises)
        for promise in promises:
            self.runtime.fulfil(promise, None)
        service, generation, queue = self.service(Log(), INSTANCE, ("note",))
        self.runtime.close_service(service, generation)
        return {
            "slots": slots,
            "bytes": nbytes,
            "bytes of extents that nothing lies in": -self.room(),
            "the highest slot when many are in use": highest,
            "the next service": service,
            "the next queue": queue,
        }

    def check_everything_is_back(self):
        now, statistics = self.state(), self.runtime.statistics()
        wrong = [f"{statistics[name]} for ever {name}" for name in ("waiting", "queued", "running") if statistics[name]]
        lost = now["bytes"] - self.before["bytes"]
        if 0 < lost <= LOST_BYTES:  # and so the slab around it stays
            now["bytes"] = self.before["bytes"]
            whole = "bytes of extents that nothing lies in"
            now[whole] -= min(now[whole] - self.before[whole], 4 * LOST_BYTES)
        wrong += [f"{what}: {now[what]}, not {before}" for what, before in self.before.items() if now[what] != before]
        faults = [
            one for one in audit.faults(self.runtime) if not (lost > 0 and one.endswith("is allocated, and has no place"))
        ]
        assert not wrong + faults, "; ".join(wrong + faults)

    def check_others_go_on(self):
        values = [1, KB, LARGE, ARRAY]
        refs = [self.runtime.put(value) for value in values]
        futures = [self.call(self.echo, ref, [ref, value]) for ref, value in zip(refs, values, strict=True)]
        last = self.call(self.echo, *futures)
        self.work()
        for got, value in zip(last.get(), values, strict=True):
            np.testing.assert_equal(got, (value, [value, value]))

    def outcome(self, future):
        assert future.done(), f"{future!r} never ends"
        error = future.exception()
        return future.get() if error is None else error

    def check_outcomes(self, futures, attempts=1):
        """Check outcomes: number of the task -> (future, value or exception to expect). Any may have died instead."""
        for number, (future, expected) in futures.items():
            found = self.outcome(future)
            assert begun[number] <= attempts, f"task {number} ran {begun[number]} times"
            if isinstance(found, Death):
                continue
            if isinstance(expected, Exception):
                assert repr(found) == repr(expected), f"task {number} ended with {found!r}, not {expected!r}"
            else:
                np.testing.assert_equal(found, expected)
                assert begun[number] >= 1, f"task {number} ended without having run"


class Neighbour:
    """A relative that does all sorts of things when told to, keeps what it has made, and in the end looks if it is whole."""

    #: Of sizes whose slabs are equally large, or as large as the extent of a `LARGE`, and of extents.
    SIZES = [size for size in (480, 600, 850, 1000) for _ in range(70)] + [20, 200, 5000] * 20 + [40_000] * 4 + [100_000]

    def __init__(self, scene):
        self.scene = scene
        self.command, self.reply = os.eventfd(0, os.EFD_SEMAPHORE), os.eventfd(0)
        # It runs tasks as the inline driver does: a pool worker would claim a task that it has made ready for its `serve`.
        self.relative = scene.fork(self.life, scene.runtime.request_process(Role.DRIVER, 0))

    def life(self):
        os.eventfd_read(self.command)
        self.act_there()
        os.eventfd_write(self.reply, 1)
        os.eventfd_read(self.command)
        self.look_there()

    def act_there(self):
        self.scene.work()
        for _ in ended:  # in place of those that the stopped one is waiting for
            self.scene.detached(self.scene.ending)
        self.values = [bytes([number & 0xFF]) * size for number, size in enumerate(self.SIZES)]
        self.refs = [self.scene.runtime.put(value) for value in self.values]
        self.refs[1::2] = [None] * len(self.refs[1::2])
        self.calls = [self.scene.call(self.scene.echo, value) for value in self.values[:70]]

    def look_there(self):
        self.scene.work()
        more = [self.scene.runtime.put(value) for value in self.values]
        for ref, again, value in zip(self.refs, more, self.values, strict=True):
            assert ref is None or ref.get() == value, f"a value of {len(value)} bytes is not what it was"
            assert again.get() == value
        for call, value in zip(self.calls, self.values, strict=False):
            assert call.get(DEADLINE_S / 3) == (value,)

    def act(self):
        """Return when it has done everything, or has no way to go on: the one that is stopped may hold the lock."""
        os.eventfd_write(self.command, 1)
        waiting = select.poll()
        waiting.register(self.reply, select.POLLIN)
        waiting.poll(BLOCKED_MS)

    def end(self):
        os.eventfd_write(self.command, 1)
        code = self.scene.recover_process(self.relative)
        os.close(self.command)
        os.close(self.reply)
        assert code == 0, f"the neighbour ended with {code}"


class Recoverer(Neighbour):
    """A neighbor that recovers a process whose predecessor has used the slots that the stopped process takes now."""

    def __init__(self, scene):
        def life():
            for _ in range(8 * GROUP):
                scene.runtime.promise()

        first = scene.fork(life)
        assert scene.recover_process(first) == 0
        self.dead = scene.fork(lambda: None)
        assert self.dead.index == first.index
        assert self.dead.has_ended(DEADLINE_S)
        super().__init__(scene)

    def act_there(self):
        self.scene.supervisor.recover_process(self.dead.index, serialization.dump_error(Death()))

    def look_there(self):
        pass

    def end(self):
        super().end()
        self.scene.recover_process(self.dead)
