"""Small worlds for `explorer.py`, each about one part of the protocol: its processes, their steps, their deaths."""

from __future__ import annotations

import functools

from explorer import Scenario, store, when
from protocol_model import (
    CREATOR,
    DONE,
    EDGES,
    FAILED,
    RECOVERY,
    RUN,
    RUNNING,
    ZYGOTE,
    Protocol,
    freed_too_early,
    has_ended,
    is_dead,
    taken,
    unfinished,
)


def running(slot, by, creator, queue=0):
    """Return the words of a slot that `by` runs, and of which `creator` has the future."""
    return {
        ("state", slot): (0, RUNNING, by),
        ("refs", slot): CREATOR | RUN,
        ("used", slot): 1,
        ("creator", slot): creator,
        ("queue", slot): queue,
        ("started", slot): 1,
        ("begun", slot): 1,
    }


def finished(slot, by, refs):
    """Return the words of a value that so many unfinished tasks have a reference to."""
    return {("state", slot): (0, DONE, by), ("refs", slot): refs, ("used", slot): 1, ("waiters", slot): "closed"}


def serve_after(protocol, dead):
    """Another worker's life, in place of a dead worker's."""
    yield when(is_dead, dead)
    yield from protocol.serve("N")


def scene(protocol, programs, words=(), mortal=(), deaths=0, ends=(), successor=False):
    """Make a scenario in which everything must come back.

    With deaths it has a supervisor, and a worker that replaces the first.
    """
    programs = dict(programs)
    unborn = ()
    if deaths:
        new = () if "N" not in protocol.processes else ("N",)
        programs[ZYGOTE] = functools.partial(protocol.supervise, ZYGOTE, mortal, new)
        if new:
            unborn = ("N",)
            programs["N"] = functools.partial(protocol.serve, "N")
    if successor:
        unborn = ()
        programs[ZYGOTE] = functools.partial(protocol.supervise, ZYGOTE, mortal)
        programs.pop("N", None)
        if mortal[0] != "S":
            programs["N"] = functools.partial(serve_after, protocol, mortal[0])
        programs["zygote 2"] = functools.partial(protocol.supervise, ZYGOTE, mortal, (), ZYGOTE)
        mortal = (*mortal, ZYGOTE)
    return Scenario(
        {**protocol.words(), **dict(words)},
        programs,
        unborn=unborn,
        mortal=mortal,
        deaths=deaths,
        owned=protocol.owned(),
        always=(functools.partial(freed_too_early, slots=protocol.slots),),
        at_end=ends or (functools.partial(unfinished, slots=protocol.slots), functools.partial(taken, slots=protocol.slots)),
    )


# ---- calls -------------------------------------------------------------------------------------------------------------


def calls(without=(), mortal=(), deaths=0, ring=2, times=2):
    """S queues a call in the same slot `times` times, W runs it; the ring has few positions."""
    protocol = Protocol(1, ("S", "W", "N", ZYGOTE), ring=ring, without=without)

    def submitter():
        for _time in range(times):
            yield from protocol.submit("S", 0)
            yield from protocol.drop("S", 0)

    return scene(protocol, {"S": submitter, "W": lambda: protocol.serve("W")}, mortal=mortal, deaths=deaths)


def helping(without=(), mortal=(), deaths=0, times=2):
    """Let the task that made a call wait for it, and claim it out of the middle of its queue.

    The entry there is void then.
    """
    protocol = Protocol(1, ("S", "W", "N", ZYGOTE), ring=2, without=without)

    def submitter():
        for _time in range(times):
            yield from protocol.submit("S", 0)
            if (yield from protocol.claim_here("S", 0)):
                yield from protocol.run("S", 0)
            yield from protocol.drop("S", 0)

    return scene(protocol, {"S": submitter, "W": lambda: protocol.serve("W")}, mortal=mortal, deaths=deaths)


def reused_slots(without=()):
    """Use a slot for a call of the pool's, then for one of an instance's.

    A worker may look at the slot's first entry all this while.
    """
    protocol = Protocol(1, ("S", "W", "I"), queues=(0, 1), ordered=(1,), ring=4, without=without, serves={"I": 1})

    def submitter():
        for _time, queue in enumerate((0, 0, 1)):
            yield from protocol.submit("S", 0, queue)
            if (yield from protocol.claim_here("S", 0)):
                yield from protocol.run("S", 0)
            yield from protocol.drop("S", 0)

    programs = {"S": submitter, **{name: functools.partial(protocol.serve, name) for name in "WI"}}
    return scene(protocol, programs)


def instance(without=()):
    """Run an instance's calls in the order they were made in, though one before them failed for its input.

    X waits for its input and fails; its slot is used for another call, and for one after A. Its first entry still stands.
    """
    protocol = Protocol(
        3,
        ("S", "W", "I"),
        queues=(0, 1),
        ordered=(1,),
        ring=4,
        without=without,
        serves={"I": 1},
        earlier={(2, 2): (1, 0)},
    )

    def submitter():
        yield from protocol.submit("S", 2, 1)
        yield from protocol.fail_unstarted("S", 2)  # as W does it for X's input
        yield from protocol.drop("S", 2)
        yield from protocol.submit("S", 2, 0)
        yield from protocol.drop("S", 2)
        yield from protocol.submit("S", 1, 1)
        yield from protocol.submit("S", 2, 1)
        yield from protocol.drop("S", 1)
        yield from protocol.drop("S", 2)

    programs = {"S": submitter, **{name: functools.partial(protocol.serve, name) for name in "WI"}}
    return scene(protocol, programs)


def lost_instance(without=(), mortal=("I",), deaths=1):
    """Let the process of an instance die while calls are made: each of them fails."""
    protocol = Protocol(2, ("S", "I", ZYGOTE), queues=(1,), ordered=(1,), ring=4, without=without, serves={"I": 1})

    def submitter():
        for index in (0, 1):
            yield from protocol.submit("S", index, 1)
        for index in (0, 1):
            yield when(has_ended, index, 0)
            yield from protocol.drop("S", index)

    return scene(protocol, {"S": submitter, "I": lambda: protocol.serve("I")}, mortal=mortal, deaths=deaths)


def instance_inputs(without=(), fails=()):
    """Let the first call of an instance wait for its input; the second must wait for the first."""
    protocol = Protocol(
        3,
        ("S", "W", "I"),
        queues=(0, 1),
        ordered=(1,),
        ring=4,
        inputs={1: (0,)},
        without=without,
        serves={"I": 1},
        earlier={(2, 0): (1, 0)},
    )

    def submitter():
        for index in (1, 2):
            yield from protocol.submit("S", index, 1)
        for index in range(3):
            yield from protocol.drop("S", index)

    programs = {
        "S": submitter,
        "W": lambda: protocol.finish("W", 0, FAILED if fails else DONE),
        "I": lambda: protocol.serve("I"),
    }
    return scene(protocol, programs, running(0, "W", "S"))


def others_slot(without=(), times=2):
    """D, which dies at once, has made the slot's former use: its recovery must leave alone what S makes of the slot."""
    protocol = Protocol(1, ("S", "W", "D", "N", ZYGOTE), without=without)

    def submitter():
        for _time in range(times):
            yield from protocol.submit("S", 0)
            yield from protocol.drop("S", 0)

    programs = {"S": submitter, "W": lambda: protocol.serve("W"), "D": lambda: idle("D")}
    return scene(protocol, programs, {("creator", 0): "D"}, ("D",), 1)


def idle(me):
    yield store(("current", me), 0)


def freed_by_another(without=()):
    """P has released the last reference to a slot and dies; D's recovery frees it, T takes it, and then P is recovered."""
    protocol = Protocol(2, ("P", "D", "T", ZYGOTE), inputs={0: (1,)}, without=without)
    words = {**running(0, "P", "S"), **finished(1, "S", 1)}
    words.update({("refs", 0): RUN, ("dependencies", 0): 1, ("top", 0): ("all there", "P"), ("dependency", 0, 0): 1})

    def taker():
        yield from protocol.submit("T", 1)
        if (yield from protocol.claim_here("T", 1)):
            yield from protocol.run("T", 1)
        yield from protocol.drop("T", 1)

    programs = {"P": lambda: protocol.finish("P", 0, DONE), "D": lambda: idle("D"), "T": taker}
    return scene(protocol, programs, words, ("D", "P"), 2)


# ---- inputs ------------------------------------------------------------------------------------------------------------


def inputs(without=(), workers=1, count=1, mortal=(), deaths=0, fails=(), keeps=False, successor=False, per_word=0):
    """S queues a task that waits for `count` calls, which the workers are just finishing."""
    task = count
    names = ("S", "W", "V")[: 1 + workers]
    protocol = Protocol(
        task + 1, (*names, "N", ZYGOTE), inputs={task: tuple(range(count))}, without=without, per_word=per_word
    )
    words = {}
    for index in range(count):
        words.update(running(index, names[1 + index % workers], "S"))

    def submitter():
        yield from protocol.submit("S", task)
        for index in range(count + 1):
            yield from protocol.drop("S", index)

    def worker(me, first):
        for index in range(first, count, workers):
            kept = yield from protocol.finish(me, index, FAILED if index in fails else DONE, (True,) if keeps else ())
            if kept is not None:
                yield from protocol.run(me, kept)
        yield from protocol.serve(me, keeps=keeps)

    programs = {"S": submitter}
    programs.update((name, functools.partial(worker, name, first)) for first, name in enumerate(names[1:]))
    return scene(protocol, programs, words, mortal, deaths, successor=successor)


def half_failed(without=()):
    """W has died right after it published a failure, for which a task of S waits; the supervisor dies in W's recovery."""
    protocol = Protocol(2, ("S", "W", "N", ZYGOTE), inputs={1: (0,)}, without=without)
    words = {**protocol.words(), **running(0, "W", "S"), ("state", 0): (0, FAILED, "W"), ("dead", "W"): 1}

    def submitter():
        yield from protocol.submit("S", 1)
        yield from protocol.drop("S", 0)
        yield from protocol.drop("S", 1)

    programs = {
        "S": submitter,
        "N": lambda: protocol.serve("N"),
        ZYGOTE: lambda: protocol.supervise(ZYGOTE, ("W",)),
        "zygote 2": lambda: protocol.supervise(ZYGOTE, ("W",), (), ZYGOTE),
    }
    ends = (functools.partial(unfinished, slots=2), functools.partial(taken, slots=2))
    return Scenario(words, programs, mortal=(ZYGOTE,), deaths=1, owned=protocol.owned(), at_end=ends)


def last_input_while_recovered(without=()):
    """Start from a supervisor that died with a task claimed to pass W's failure on.

    The next supervisor lets the task wait as S clears the last bit.
    """
    protocol = Protocol(2, ("S", "W", "N", ZYGOTE), inputs={1: (0,)}, without=without)
    words = {**protocol.words(), **finished(0, "W", CREATOR + 1), **running(1, ZYGOTE, "S")}
    words.update({("state", 0): (0, FAILED, "W"), ("creator", 0): "S", ("dead", ZYGOTE): 1})
    words.update({("refs", 1): CREATOR | RUN | EDGES | RECOVERY, ("started", 1): 0, ("begun", 1): 0, ("dependencies", 1): 1})
    words.update({("top", 1): frozenset({"own"}), ("dependency", 1, 0): 0, ("next", 1, 0): None})

    def submitter():
        yield from protocol.dependency_ready("S", 1, "own", ())
        yield from protocol.drop("S", 0)
        yield from protocol.drop("S", 1)

    programs = {
        "S": submitter,
        "N": lambda: protocol.serve("N"),
        "zygote 2": lambda: protocol.supervise(ZYGOTE, (), (), ZYGOTE),
    }
    ends = (functools.partial(unfinished, slots=2), functools.partial(taken, slots=2))
    return Scenario(words, programs, at_end=ends)


def standing(without=(), mortal=("W", "V"), deaths=2, fails=(), successor=False):
    """Two workers finish the two dependencies of a task that is on both lists; its future is gone already."""
    protocol = Protocol(3, ("W", "V", "N", ZYGOTE), inputs={2: (0, 1)}, without=without)

    def worker(me, index):
        yield from protocol.finish(me, index, FAILED if index in fails else DONE)
        yield from protocol.serve(me)

    programs = {"W": lambda: worker("W", 0), "V": lambda: worker("V", 1)}
    return scene(protocol, programs, on_both_lists("W", "V"), mortal, deaths, successor=successor)


def claimed_to_fail(without=()):
    """W claims a task to pass a dependency's failure on, and dies; V looks for tasks, and the other has not finished."""
    protocol = Protocol(3, ("W", "V", "X", ZYGOTE), inputs={2: (0, 1)}, without=without)

    def late():
        yield when(has_ended, 2, 0)
        yield from protocol.finish("X", 1, DONE)

    programs = {"W": lambda: protocol.finish("W", 0, FAILED), "V": lambda: protocol.serve("V"), "X": late}
    return scene(protocol, programs, on_both_lists("W", "X"), ("W",), 1)


def on_both_lists(first, second):
    """Return the words of a task in slot 2, on the lists of two running dependencies; its future is gone already."""
    words = {**running(0, first, "S"), **running(1, second, "S")}
    words.update({("refs", 0): RUN + 1, ("refs", 1): RUN + 1, ("waiters", 0): (2, 0), ("waiters", 1): (2, 1)})
    words.update(
        {("state", 2): (0, "waiting", ""), ("refs", 2): RUN | EDGES, ("used", 2): 1, ("queue", 2): 0, ("dependencies", 2): 1}
    )
    words.update({("top", 2): frozenset({0, 1}), ("dependency", 2, 0): 0, ("dependency", 2, 1): 1})
    words.update({("next", 2, 0): None, ("next", 2, 1): None})
    return words


def releasing(without=(), mortal=("P",), deaths=1, tags=2):
    """P and Q finish tasks and release references to shared dependencies; the numbers of P's tags wrap around."""
    protocol = Protocol(5, ("P", "Q", ZYGOTE), tags=tags, inputs={0: (3, 4), 1: (3,), 2: (3,)}, without=without)
    words = {**finished(3, "S", 3), **finished(4, "S", 1)}
    for task, by in ((0, "P"), (1, "P"), (2, "Q")):
        words.update(running(task, by, "S"))
        words.update({("refs", task): RUN, ("dependencies", task): 1, ("top", task): ("all there", by)})
        words.update((("dependency", task, number), at) for number, at in enumerate(protocol.dependencies[task]))

    def first():
        for task in (0, 1):
            yield from protocol.finish("P", task, DONE)

    programs = {"P": first, "Q": lambda: protocol.finish("Q", 2, DONE)}
    return scene(protocol, programs, words, mortal, deaths)
