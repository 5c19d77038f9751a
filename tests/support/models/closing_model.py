"""Closing a service while calls of it are made, as `kernels/runtime/services.pxi` and `client.pxi` do it, for `explorer.py`.

A call names no generation of its service: once it is made, what it needs must stay until it has ended. The service's block
is read by a worker; an instance's process leaves when its queue closes.
"""

from __future__ import annotations

import functools

from explorer import Scenario, add, cas, choose, exchange, fail, load, store, when
from protocol_model import DONE, FREE, READY, RUNNING

OPEN, CLOSING, RESERVED = "open", "closing", "reserved"
BUSY = (READY, RUNNING)


class Closing:
    """Programs around one service's entry, and one call. The entry's word is (state, generation)."""

    def __init__(self, without=()):
        self.without = frozenset(without)

    def has(self, what):
        return what not in self.without

    # ---- client.pxi --------------------------------------------------------------------------------------------------

    def call(self):
        """`slot_alloc`, `_publish`. S has found the service open before, in `call`."""
        yield store("building", 1)
        yield (exchange if self.has("a slot taken by cas") else store)("used", 1)
        if self.has("a look at the service once a slot is named") and (yield load("service")) != (OPEN, 1):
            yield store("used", 0)
            yield store("building", 0)
            return
        yield exchange("call", READY)
        yield store("building", 0)
        if not self.has("a look at the service once a slot is named"):
            yield from self.look_after()

    def look_after(self):
        """Look once the call is published: too late for the worker that has run it."""
        yield add("tail", 1)
        state, generation = yield load("service")
        gone = state not in (OPEN, CLOSING) or generation != 1
        if gone and (yield cas("call", READY, RUNNING)):
            yield exchange("call", DONE)

    # ---- services.pxi --------------------------------------------------------------------------------------------------

    def close(self):
        if (yield cas("service", (OPEN, 1), (CLOSING, 1))):
            yield from self.reap()

    def reap(self):
        """`reap_services`, `_free_service`, `_release_queue`."""
        if (yield load("service")) != (CLOSING, 1):
            return
        if self.has("a look at the calls being made") and (yield from self.is_calling()):
            return
        if (yield load("call")) in BUSY:
            return
        if (yield cas("service", (CLOSING, 1), (RESERVED, 1))):
            yield cas("queue", OPEN, CLOSING)
            yield exchange("blob", None)
            yield store("service", (FREE, 1))

    def is_calling(self):
        while (yield load("building")):
            if (yield choose("looks again", "has looked enough")) == "has looked enough":
                return True
        return False

    def zygote(self):
        while True:
            yield when(is_left)
            yield from self.reap()

    def other(self):
        """Make another service, of the same entry."""
        yield when(is_free)
        if (yield cas("service", (FREE, 1), (RESERVED, 2))):
            yield store("blob", 2)
            yield store("service", (OPEN, 2))

    # ---- worker.pxi, task_host.py ------------------------------------------------------------------------------------

    def worker(self):
        yield when(is_ready)
        if (yield cas("call", READY, RUNNING)):
            blob = yield load("blob")
            if blob != 1:
                yield fail(f"a call of service 1 runs by {blob and f'service {blob}' or 'a block that was freed'}")
            yield exchange("call", DONE)

    def instance(self):
        """`_find_task`, then `_shall_leave`."""
        while True:
            if (yield load("call")) == READY:
                if (yield cas("call", READY, RUNNING)):
                    yield exchange("call", DONE)
                    return
            elif (yield load("queue")) == CLOSING:
                return


def is_left(words):
    return words["service"] == (CLOSING, 1) and words["call"] not in BUSY and not words["building"]


def is_free(words):
    return words["service"] == (FREE, 1)


def is_ready(words):
    return words["call"] == READY


def endless(words):
    return f"the call is {words['call']} for ever" if words["call"] in BUSY else None


def stays(words):
    return "the service stays closing" if words["service"][0] == CLOSING else None


def closing(without=(), instance=False):
    """S calls while C closes; the supervisor frees what closed services had, T makes another service."""
    model = Closing(without)
    words = {"service": (OPEN, 1), "call": FREE, "tail": 0, "queue": OPEN, "blob": 1, "building": 0, "used": 0}
    programs = {"S": model.call, "C": model.close, "zygote": model.zygote, "T": model.other}
    programs["I" if instance else "W"] = model.instance if instance else model.worker
    return Scenario(words, programs, at_end=(endless, stays))


instance_closing = functools.partial(closing, instance=True)
