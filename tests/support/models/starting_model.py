"""How processes are requested, started, and adopted by the next supervisor (zygote), for `explorer.py`.

As `kernels/runtime/services.pxi`, `supervisor.pxi`, `zygote.py` and `worker.py` do it. An entry's word is (state, whose):
("reserved", process), ("requested", ""), ("starting", number of the start), ("live", pid). A killed zygote's children are
killed by the kernel some time later, each by itself: by the process `kernel`.
"""

from __future__ import annotations

import functools

from explorer import Scenario, add, ask, cas, change, exchange, exchanges, fail, kill, load, spawn, store, stores, when
from protocol_model import OPEN, QUEUE_DEAD, is_dead

FREE, RESERVED, REQUESTED, STARTING, LIVE = "free", "reserved", "requested", "starting", "live"
NONE = (FREE, "")


class Starting:
    """One instance's queue, the entry of its process, and one of a pool's process; each start takes another child."""

    def __init__(self, entries=1, pool=False, children=("c1", "c2", "c3"), without=()):
        self.entries = entries
        self.pool = pool
        self.children = children
        self.without = frozenset(without)

    def has(self, what):
        return what not in self.without

    def words(self):
        words = {"queue process": None, "queue state": OPEN, "forked": 0, "starts of pool": 0}
        for entry in range(self.entries):
            words.update({("entry", entry): NONE, ("role", entry): "", ("starts", entry): 0, ("pid", entry): None})
        for child in self.children:
            words.update(
                {
                    ("index", child): None,
                    ("token", child): None,
                    ("parent", child): None,
                    ("doomed", child): 0,
                    ("serves", child): 0,
                }
            )
        return words

    # ---- services.pxi --------------------------------------------------------------------------------------------------

    def start_instance(self, me):
        if (yield load("queue process")) is not None:
            return
        entry = yield from self.request_process(me, "instance")
        if (yield cas("queue process", None, entry)):
            yield store(("entry", entry), (REQUESTED, ""))
        else:
            yield store(("entry", entry), NONE)

    def request_process(self, me, role):
        for entry in range(self.entries):
            if (yield cas(("entry", entry), NONE, (RESERVED, me))):
                yield stores((("role", entry), role), (("pid", entry), None))
                return entry
        yield fail("there are not enough entries in this model")

    # ---- zygote.py -----------------------------------------------------------------------------------------------------

    def zygote(self, me, mortals, before=None):
        if before:
            yield from self.recover(me, before)
        while True:
            yield when(self.has_work, me, mortals)
            yield from self.reap(me)
            yield from self.recover_requesters(mortals)
            yield from self.staff(me)

    def has_work(self, words, me, mortals):
        """Return whether a poll would return: a child has ended, the requester is dead, or an entry is to be started."""
        states = [words["entry", entry] for entry in range(self.entries)]
        if any(words["parent", child] == me and words["dead", child] for child in self.children):
            return True
        if any((RESERVED, process) in states for process in mortals if words["dead", process]):
            return True
        return any(state[0] == REQUESTED for state in states) or (self.pool and self.lacks_worker(words))

    def lacks_worker(self, words):
        return not any(words["role", entry] == "pool" and words["entry", entry] != NONE for entry in range(self.entries))

    def reap(self, me):
        for child in self.children:
            if (yield load(("parent", child))) == me and (yield load(("dead", child))):
                yield exchange(("parent", child), None)  # a system call
                entry = yield load(("index", child))
                yield from self.recover_process(me, entry)

    def recover_process(self, me, entry):
        if (yield load(("role", entry))) == "instance":
            yield exchange("queue state", QUEUE_DEAD)
        yield stores((("role", entry), ""), (("pid", entry), None))
        yield exchange(("entry", entry), NONE)

    def recover_requesters(self, mortals):
        """`_recover_requests`."""
        for entry in range(self.entries):
            state = yield load(("entry", entry))
            if state[0] == RESERVED and state[1] in mortals and (yield load(("dead", state[1]))):
                yield from self.settle_reserved(entry)

    def settle_reserved(self, entry):
        role = yield load(("role", entry))
        named = yield load("queue process")
        if self.has("what a queue names is asked for") and role == "instance" and named == entry:
            yield exchange(("entry", entry), (REQUESTED, ""))
        else:
            yield exchanges((("role", entry), ""), (("entry", entry), NONE))

    def staff(self, me):
        for entry in range(self.entries):
            state = yield load(("entry", entry))
            if state[0] == REQUESTED:
                yield from self.fork(me, entry, state)
        if self.pool and (yield from self.counts_no_worker()):
            entry = yield from self.request_process(me, "pool")
            yield from self.fork(me, entry, (RESERVED, me))

    def counts_no_worker(self):
        for entry in range(self.entries):
            if (yield load(("role", entry))) == "pool":
                state = yield load(("entry", entry))
                if state != NONE:
                    return False
        return True

    def fork(self, me, entry, state):
        token = None
        if self.has("a number of the start"):
            token = yield load(("starts", entry))
            yield store(("starts", entry), token + 1)
            yield exchange(("entry", entry), (STARTING, token))
        forked = yield add("forked", 1)
        child = self.children[forked]
        yield stores((("index", child), entry), (("token", child), token), (("parent", child), me))
        yield spawn(child)
        if not self.has("a number of the start"):
            yield store(("pid", entry), child)
            yield store(("entry", entry), (LIVE, child))

    def recover(self, me, before):
        """Kill all processes that live or may come to live; what was being started is to be started."""
        ended = ()
        for entry in range(self.entries):
            state = yield load(("entry", entry))
            while state[0] == STARTING:
                role = yield load(("role", entry))
                again = (REQUESTED, "") if role == "instance" else NONE
                if not self.has("a starting entry is taken back") or (yield cas(("entry", entry), state, again)):
                    break
                state = yield load(("entry", entry))
            pid = state[1] if state[0] == LIVE else None
            if not self.has("a number of the start") and state == (RESERVED, before):
                pid = yield load(("pid", entry))
                ended = (*ended, entry)
            elif state == (RESERVED, before):
                yield from self.settle_reserved(entry)
            elif state[0] == LIVE:
                ended = (*ended, entry)
            if pid is not None:
                yield exchange(("doomed", pid), 1)  # a system call
                if self.has("a wait for the end"):
                    yield when(is_dead, pid)
        for entry in ended:
            yield from self.recover_process(me, entry)

    # ---- worker.py -----------------------------------------------------------------------------------------------------

    def child(self, me):
        parent = yield load(("parent", me))
        entry = yield load(("index", me))
        yield change(("doomed", me), has_signal, me, parent)
        if self.has("a look at the parent") and (yield load(("dead", parent))):  # getppid
            return
        if self.has("a number of the start"):
            token = yield load(("token", me))
            if not (yield cas(("entry", entry), (STARTING, token), (LIVE, me))):
                return
        yield exchange(("serves", me), 1)
        for other in self.children:
            if other == me or not (yield load(("serves", other))) or (yield load(("index", other))) != entry:
                continue
            if not (yield load(("dead", other))):
                yield fail(f"{me} serves as process {entry}, as another does already")
        yield when(never)

    def kernel(self):
        """End, one by one and late, each process that has got a signal."""
        while True:
            yield when(self.has_doomed)
            for child in self.children:
                if (yield ask(is_doomed, child)):
                    yield kill(child)

    def has_doomed(self, words):
        return any(is_doomed(words, child) for child in self.children)


def is_doomed(words, child):
    """Return whether a child is doomed: its parent ended after it asked for the signal, or it was sent one."""
    doomed = words["doomed", child]
    return doomed and not words["dead", child] and (doomed == 1 or words["dead", doomed])


def has_signal(words, child, parent):
    """`prctl(PR_SET_PDEATHSIG)`: no signal comes of a parent that has ended already."""
    return words["doomed", child] or (0 if words["dead", parent] else parent)


def driver(zygotes):
    """Start another supervisor once the end of one is seen."""
    for before, after in zip(zygotes, zygotes[1:], strict=False):
        yield when(is_dead, before)
        yield spawn(after)


def never(words):
    return False


def starting(without=(), entries=1, pool=False, zygotes=2, mortal=("zygote 1",), deaths=1, submitters=("S",), children=None):
    """Submitters request the process of an instance; supervisors, submitters and children die."""
    children = children or tuple(f"c{number}" for number in range(1, zygotes + 1 + pool * zygotes))
    model = Starting(entries, pool, children, without)
    programs = {name: functools.partial(model.start_instance, name) for name in submitters}
    names = [f"zygote {number}" for number in range(1, zygotes + 1)]
    for name, before in zip(names, [None, *names], strict=False):
        programs[name] = functools.partial(model.zygote, name, tuple(submitters), before)
    programs.update((child, functools.partial(model.child, child)) for child in children)
    programs["kernel"] = model.kernel
    programs["driver"] = functools.partial(driver, tuple(names))

    def served(words):
        return not_served(words, model, submitters)

    return Scenario(
        model.words(),
        programs,
        unborn=(*children, *names[1:]),
        mortal=mortal,
        deaths=deaths,
        killed=children,
        at_end=(served,),
    )


def not_served(words, model, submitters):
    """Check that the queue has one process, or is dead, and that no entry is on the way for ever."""
    for entry in range(model.entries):
        state, whose = words["entry", entry]
        if state not in (FREE, LIVE):
            return f"process {entry} is {state} for ever"
        if state == LIVE and words["dead", whose]:
            return f"process {entry} counts as live, and is dead"
    if all(words["dead", name] for name in submitters) and words["queue process"] is None:
        return None
    at = words["queue process"]
    if words["queue state"] == OPEN and (at is None or words["entry", at][0] != LIVE):
        return "the instance has no process"
    if model.pool and model.lacks_worker(words):
        return "the pool has no worker"
    return None
