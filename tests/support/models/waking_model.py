"""Sleeping and being woken, as the runtime's `core/wakeup.pxd`, `worker.pxi` and `waits.pxi` do it, for `explorer.py`.

Idle workers sleep on `pool`, a process that waits for a future on its own `wake`. Slots are only queued, run and finished
here.
"""

from __future__ import annotations

import functools

from explorer import Scenario, add, cas, choose, exchange, fence, futex_wait, futex_wake, load, store, when
from protocol_model import DONE, FINISHED, FREE, READY, RUNNING, ZYGOTE, Protocol, unfinished

MANY = 9  # of those asleep
CALL = 16  # `pool`: calls above, sleepers below


class Waking(Protocol):
    """Workers that look for tasks, seek, sleep and are woken."""

    limit = 0  # permits of the queue; 0: as many as there are workers
    lasts = False  # the first call takes longer than all of the others

    def words(self):
        words = super().words()
        words.update(pool=0, pool_wake=0, pool_sleepers=0, seeker=None, permit=None)
        for process in self.processes:
            words.update({("sleeping", process): 0, ("wake", process): 0, ("waiters", process): 0, ("blocked", process): 0})
        return words

    # ---- wakeup.pxd --------------------------------------------------------------------------------------------------

    def sleepers(self):
        if self.has("one word for calls and sleepers"):
            return (yield load("pool")) % CALL
        return (yield load("pool_sleepers"))

    def wake_sleepers(self, most):
        if self.has("one word for calls and sleepers"):
            yield from self.wake_some(most)
            return
        called = 0
        while called < most:
            count = yield load("pool_sleepers")
            if count == 0:
                break
            if (yield cas("pool_sleepers", count, count - 1)):
                called += 1
        if called:
            yield add("pool_wake", 1)
            yield futex_wake("pool_wake", called)

    def wake_some(self, most):
        if self.has("a fence before the look at the sleepers"):
            yield fence()
        while True:
            pool = yield load("pool")
            called = min(most, pool % CALL)
            if not called:
                return
            if (yield cas("pool", pool, pool + CALL - called)):
                yield futex_wake("pool", called)
                return

    def needs_call(self):
        if not (yield from self.sleepers()):
            return False
        return (yield load("seeker")) is None

    def seek_begin(self, me):
        if not (yield from self.sleepers()):
            return False
        return (yield cas("seeker", None, me))

    def seek_end(self, me):
        yield self.barrier("no seeker by exchange", "seeker", None)
        if self.has("a call for what is queued when seeking ends"):
            yield from self.call_for_queued()

    def call_for_queued(self):
        if not (yield from self.sleepers()):
            return
        tail = yield load(("tail", 0))
        head = yield load(("head", 0))
        if tail > head:  # a head may be one ahead
            yield from self.wake_sleepers(tail - head)

    def wake_queue(self, me):
        if self.limit:
            yield from self.wake_sleepers(MANY)
        elif (yield from self.needs_call()):
            yield from self.wake_sleepers(1)

    def wake_everybody(self):
        yield from self.wake_sleepers(MANY)
        if self.has("one word for calls and sleepers"):
            yield add("pool", CALL)
            yield futex_wake("pool", MANY)
        else:
            yield add("pool_wake", 1)
            yield futex_wake("pool_wake", MANY)

    # ---- client.pxi --------------------------------------------------------------------------------------------------

    def queue(self, me, index):
        """Play the end of `_publish`: the slot itself is filled."""
        if not self.has("a call after the entry"):
            yield from self.wake_queue(me)
        yield exchange(("state", index), (0, READY, ""))
        yield from self.queue_push(me, 0, index, (0, READY, ""))
        if self.has("a call after the entry"):
            yield from self.wake_queue(me)

    # ---- worker.pxi, run_queue.pxd -----------------------------------------------------------------------------------

    def find_task(self, me):
        if not self.limit:
            return (yield from self.queue_claim(me, 0))
        head = yield load(("head", 0))
        tail = yield load(("tail", 0))
        if head == tail:
            return None
        if not (yield from self.permit_acquire(me)):
            return None
        index = yield from self.queue_claim(me, 0)
        if index is None:
            yield from self.permit_release(me)
        return index

    def permit_acquire(self, me):
        holder = yield load("permit")
        if holder == me:
            return True
        if holder is None or (yield load(("blocked", holder))):
            return (yield cas("permit", holder, me))
        return False

    def permit_release(self, me):
        yield cas("permit", me, None)

    def wait_for_task(self, me):
        seeking = False
        while True:
            index = yield from self.find_task(me)
            if index is not None:
                break
            if not seeking:
                seeking = yield from self.seek_begin(me)
            if (yield choose("looks again", "has looked enough")) == "has looked enough":
                break
        if seeking:
            yield from self.seek_end(me)
        if index is not None:
            return index
        if self.has("one word for calls and sleepers"):
            return (yield from self.sleep(me))
        return (yield from self.sleep_by_two_words(me))

    def sleep(self, me):
        yield store(("sleeping", me), 1)
        seen = (yield add("pool", 1)) // CALL
        index = None
        if self.has("a look before sleeping"):
            index = yield from self.find_task(me)
        woken = False
        if index is None:
            woken = yield from futex_wait("pool", seen, shift=4)
        yield store(("sleeping", me), 0)
        if woken:
            return index
        pool = yield load("pool")
        while pool // CALL == seen:
            if (yield cas("pool", pool, pool - 1)):
                break
            pool = yield load("pool")
        return index

    def sleep_by_two_words(self, me):
        seen = yield load("pool_wake")
        yield store(("sleeping", me), 1)
        yield add("pool_sleepers", 1)
        index = None
        if self.has("a look before sleeping"):
            index = yield from self.find_task(me)
        if index is None:
            yield from futex_wait("pool_wake", seen)
        yield store(("sleeping", me), 0)
        if (yield load("pool_wake")) == seen:
            count = yield load("pool_sleepers")
            while count:
                if (yield cas("pool_sleepers", count, count - 1)):
                    break
                count = yield load("pool_sleepers")
        return index

    def serve(self, me, times=0):
        """Serve; `times`: so many calls, of which the last is followed by something that lasts."""
        done = 0
        while True:
            index = yield from self.find_task(me)
            if index is None:
                index = yield from self.wait_for_task(me)
            if index is not None:
                yield from self.run(me, index)
                done += times > 0
                if times and done == times:
                    return

    def run(self, me, index):
        if self.lasts and index == 0:
            yield when(is_rest_done, self.slots)
        yield exchange(("state", index), (0, DONE, me))
        if self.limit:
            yield from self.permit_release(me)
            if self.has("a call when a permit is left"):
                head = yield load(("head", 0))
                tail = yield load(("tail", 0))
                if head != tail:
                    yield from self.wake_queue(me)

    # ---- supervisor.pxi ----------------------------------------------------------------------------------------------

    def recover_process(self, me, dead):
        for index in range(self.slots):
            state = yield load(("state", index))
            if state[1] == RUNNING and state[2] == dead:
                yield exchange(("state", index), (0, READY, ""))
                yield from self.queue_push(me, 0, index, state)
                yield from self.wake_queue(me)
        yield from self.queue_again(me, "promoting", dead)
        if self.limit:
            yield from self.permit_release(dead)
            yield from self.wake_queue(me)
        yield cas("seeker", dead, None)
        if not self.has("one word for calls and sleepers") and (yield load(("sleeping", dead))):
            yield store(("sleeping", dead), 0)
            count = yield load("pool_sleepers")
            if count:
                yield cas("pool_sleepers", count, count - 1)
        yield exchange(("entry", dead), FREE)
        if self.has("a wake-up of all after a recovery"):
            yield from self.wake_everybody()

    # ---- waits.pxi, completion.pxd -----------------------------------------------------------------------------------

    def wait_for(self, me, index):
        if self.has("watched before the look"):
            yield self.barrier("watched by exchange", ("watched", index), 1)
        while True:
            if self.has("the word before the look"):
                seen = yield load(("wake", me))
            state = yield load(("state", index))
            if state[1] in FINISHED:
                return
            if not self.has("watched before the look"):
                yield exchange(("watched", index), 1)
            if not self.has("the word before the look"):
                seen = yield load(("wake", me))
            yield add(("waiters", me), 1)
            yield from futex_wait(("wake", me), seen)
            yield add(("waiters", me), -1)

    def tell(self, me, index):
        """Publish the outcome, then wake each watcher: `finish_one`, `wake_waiters`."""
        if not self.has("published before the look"):
            watched = yield load(("watched", index))
        yield self.barrier("finished by exchange", ("state", index), (0, DONE, me))
        if self.has("published before the look"):
            watched = yield load(("watched", index))
        if watched:
            if self.has("the word moves"):
                yield add(("wake", "S"), 1)
            if (yield load(("waiters", "S"))):
                yield futex_wake(("wake", "S"), MANY)

    # ---- deadlock.pxi ------------------------------------------------------------------------------------------------

    def wait_in_ring(self, task, other):
        """`Wait.publish`, then `never_ends`: the process that sees that the other waits for it does not wait."""
        yield self.barrier("waits_for by exchange", ("waits_for", task), other)
        if (yield load(("waits_for", other))) == task:
            yield exchange("noticed", 1)
        else:
            yield when(is_noticed)


class Permitted(Waking):
    """The queue has one permit."""

    limit = 1


class Lasting(Waking):
    """The first call lasts: the worker that runs it does not look for the others."""

    lasts = True


class Leaving(Waking):
    """Workers that look for their retirement instead of tasks."""

    def find_task(self, me):
        return (yield load("retiring")) or None

    def leave(self, me):
        while (yield from self.find_task(me)) is None:
            yield from self.sleep(me)

    def ask_to_leave(self):
        """`retire`: a plain store, and then `wake_sleepers`."""
        yield store("retiring", 1)
        yield from self.wake_sleepers(MANY)


def is_noticed(words):
    return words["noticed"]


def is_rest_done(words, slots):
    return all(words["state", index][1] == DONE for index in range(1, slots))


def asleep(words, workers):
    """Find a process that sleeps uncounted: no other would ever wake it."""
    sleeping = sum(words["sleeping", process] for process in workers if not words["dead", process])
    count = words["pool"] % CALL + words["pool_sleepers"]
    return f"{sleeping} sleep, and {count} count as asleep" if count < sleeping else None


def sleeping(without=(), mortal=(), deaths=0, tasks=2, kind=Waking, workers="WV", once=""):
    """S queues calls while W and V look for them, seek, and go to sleep. `once`: those that look no more after a call."""
    protocol = kind(tasks, ("S", *workers, ZYGOTE), ring=4, without=without)
    words = protocol.words()
    words.update((("queue", index), 0) for index in range(tasks))

    def submitter():
        for index in range(tasks):
            yield store(("promoting", "S"), index)
            yield from protocol.queue("S", index)
            yield store(("promoting", "S"), None)

    programs = {"S": submitter, **{name: functools.partial(protocol.serve, name, int(name in once)) for name in workers}}
    if deaths:
        programs[ZYGOTE] = lambda: protocol.supervise(ZYGOTE, mortal)
    ends = (functools.partial(unfinished, slots=tasks), functools.partial(asleep, workers=workers))
    return Scenario(words, programs, mortal=mortal, deaths=deaths, owned=protocol.owned(), at_end=ends)


def waiting(without=(), threads=2):
    """Two threads of S wait for a call each, which two workers are just finishing."""
    protocol = Waking(threads, ("S", "W", "V"), without=without)
    words = protocol.words()
    words.update((("state", index), (0, RUNNING, "")) for index in range(threads))
    programs = {f"S{index}": functools.partial(protocol.wait_for, "S", index) for index in range(threads)}
    programs.update((name, functools.partial(protocol.tell, name, index)) for index, name in enumerate("WV"[:threads]))
    return Scenario(words, programs, at_end=(still_waiting,))


def still_waiting(words):
    return "a thread sleeps for a call that is finished" if words["waiters", "S"] else None


def waiting_in_ring(without=()):
    """Two running tasks begin to wait for each other (deadlock)."""
    protocol = Waking(0, ("P", "Q"), without=without)
    words = {("waits_for", 0): None, ("waits_for", 1): None, "noticed": 0}
    programs = {"P": lambda: protocol.wait_in_ring(0, 1), "Q": lambda: protocol.wait_in_ring(1, 0)}
    return Scenario(words, programs, at_end=(unnoticed,))


def unnoticed(words):
    return None if words["noticed"] else "two tasks wait for each other, and neither knows"


def leaving(without=()):
    """S retires W while W goes to sleep."""
    protocol = Leaving(0, ("S", "W"), without=without)
    words = {**protocol.words(), "retiring": 0}
    programs = {"S": protocol.ask_to_leave, "W": functools.partial(protocol.leave, "W")}
    return Scenario(words, programs, at_end=(still_asleep,))


def still_asleep(words):
    return "W sleeps, and was to leave" if words["sleeping", "W"] else None
