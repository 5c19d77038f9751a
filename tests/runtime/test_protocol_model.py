"""Every interleaving and every death, in models of the protocol: nothing is lost, and what is left out is missed.

Longer with FLAME_FAST_STORM=1. The models are in `protocol_model.py`, `waking_model.py`, `groups_model.py`,
`closing_model.py` and `starting_model.py`; `explorer.py` goes through them, as on a machine that puts stores off.
"""

from __future__ import annotations

import ast
import os
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from closing_model import closing
from explorer import (
    BufferedExplorer,
    BufferedStep,
    ModelError,
    Scenario,
    Violation,
    add,
    cas,
    choose,
    exchange,
    explore,
    fail,
    fence,
    futex_wait,
    futex_wake,
    kill,
    load,
    put,
    store,
    stores,
    when,
    with_stores_put_off,
)
from groups_model import groups
from protocol_scenarios import (
    calls,
    claimed_to_fail,
    freed_by_another,
    half_failed,
    helping,
    inputs,
    instance,
    instance_inputs,
    last_input_while_recovered,
    lost_instance,
    others_slot,
    releasing,
    reused_slots,
    standing,
)
from starting_model import starting
from waking_model import Lasting, Permitted, leaving, sleeping, waiting, waiting_in_ring

LONG = os.environ.get("FLAME_FAST_STORM") == "1"

pytestmark = [pytest.mark.timeout(3600 if LONG else 120)]

#: Explored to the end, by what they are about.
SCENARIOS = {
    "a slot used twice, the worker dies": partial(calls, mortal=("W",), deaths=1),
    "a slot used twice, the submitter dies": partial(calls, mortal=("S",), deaths=1),
    "helping": helping,
    "helping, the helper dies": partial(helping, mortal=("S",), deaths=1),
    "helping, the worker dies": partial(helping, mortal=("W",), deaths=1),
    "a slot of the pool's, then an instance's": reused_slots,
    "an instance's calls in order": instance,
    "an instance's call waits": instance_inputs,
    "an instance's call fails for its input": partial(instance_inputs, fails=(0,)),
    "an instance's process dies": lost_instance,
    "a slot that was another's": others_slot,
    "a slot freed by another's recovery": freed_by_another,
    "two inputs, two workers": partial(inputs, workers=2, count=2),
    "two inputs, one fails": partial(inputs, workers=2, count=2, fails=(0,)),
    "an input, its worker dies": partial(inputs, mortal=("W",), deaths=1),
    "an input fails, its worker dies": partial(inputs, mortal=("W",), deaths=1, fails=(0,)),
    "an input, the submitter dies": partial(inputs, mortal=("S",), deaths=1),
    "an input fails, the submitter dies": partial(inputs, mortal=("S",), deaths=1, fails=(0,)),
    "both inputs fail, one's worker dies": partial(standing, mortal=("W",), deaths=1, fails=(0, 1)),
    "a task claimed to fail": claimed_to_fail,
    "a task waits again, and its last input comes": last_input_while_recovered,
    "the submitter dies, then the zygote": partial(inputs, mortal=("S",), deaths=2, fails=(0,), successor=True),
    "an input of many, the submitter dies": partial(inputs, mortal=("S",), deaths=1, fails=(0,), per_word=1),
    "references released, and tags that wrap around": releasing,
    "sleeping": partial(sleeping, tasks=1),
    "sleeping beside one permit": partial(sleeping, kind=Permitted, tasks=1),
    "waiting for futures": waiting,
    "waiting for each other": waiting_in_ring,
    "asked to leave": leaving,
    "a service closed while a call is made": closing,
    "an instance closed while a call is made": partial(closing, instance=True),
    "the zygote dies while it starts a process": starting,
    "two zygotes die": partial(starting, zygotes=3, mortal=("zygote 1", "zygote 2"), deaths=2),
    "the zygote and a child die": partial(starting, mortal=("zygote 1", "c1"), deaths=2),
    "two ask for one process, one dies": partial(
        starting, entries=2, submitters=("S", "R"), mortal=("zygote 1", "S"), deaths=2
    ),
    "groups change hands": groups,
    "groups change hands, an owner dies": partial(groups, mortal=("P",), deaths=1),
}

#: Of these, what is seconds longer with stores put off.
MANY_STATES = [
    "a slot freed by another's recovery",
    "both inputs fail, one's worker dies",
    "the submitter dies, then the zygote",
    "references released, and tags that wrap around",
    "groups change hands, an owner dies",
    "two inputs, two workers",
    "an input, its worker dies",
    "an input, the submitter dies",
    "sleeping beside one permit",
]

#: Those that take longer.
LONG_SCENARIOS = {
    "a call, and two deaths": partial(calls, mortal=("S", "W"), deaths=2, times=1, ring=4),
    "an input kept, its worker dies": partial(inputs, mortal=("W",), deaths=1, keeps=True),
    "an input fails, worker and submitter die": partial(inputs, mortal=("S", "W"), deaths=2, fails=(0,)),
    "two inputs, the worker dies": partial(inputs, count=2, mortal=("W",), deaths=1),
    "two inputs, the submitter dies": partial(inputs, count=2, mortal=("S",), deaths=1),
    "inputs of many, the submitter dies": partial(inputs, count=2, mortal=("S",), deaths=1, per_word=2),
    "an input that a dead process has failed, the zygote dies": half_failed,
    "inputs of many, two workers": partial(inputs, count=3, workers=2, per_word=2),
    "inputs of many, the worker dies": partial(inputs, count=3, mortal=("W",), deaths=1, fails=(0,), per_word=2),
    "an input fails, its worker and the zygote die": partial(inputs, mortal=("W",), deaths=2, fails=(0,), successor=True),
    "both inputs' workers die": partial(standing, fails=(0,)),
    "a worker dies, then the zygote": partial(standing, mortal=("W",), deaths=2, fails=(0, 1), successor=True),
    "references released, two die": partial(releasing, mortal=("P", "Q"), deaths=2),
    "sleeping, two calls": sleeping,
    "sleeping, a worker dies": partial(sleeping, tasks=1, mortal=("W",), deaths=1),
    "sleeping, the caller dies": partial(sleeping, tasks=1, mortal=("S",), deaths=1),
    "sleeping while a call lasts": partial(sleeping, kind=Lasting),
    "two calls beside one permit": partial(sleeping, kind=Permitted),
    "a permit, and its holder dies": partial(sleeping, kind=Permitted, tasks=1, mortal=("W",), deaths=1),
    "the zygote dies, of a pool": partial(starting, entries=2, pool=True),
    "groups change hands, two may die": partial(groups, mortal=("P", "Q"), deaths=1),
    "larger groups": partial(groups, size=2, times=3, mortal=("P",), deaths=1),
}

#: What the protocol cannot do without, and a scenario that shows it.
NEEDED = {
    "building": partial(calls, mortal=("S",), deaths=1),
    "state before entry": calls,
    "claim before drop": partial(calls, mortal=("W",), deaths=1),
    "started": partial(calls, mortal=("W",), deaths=1),
    "REF_RUN last": partial(inputs, mortal=("W",), deaths=1),
    "finish_again": partial(calls, mortal=("W",), deaths=1),
    "references before the state": partial(calls, mortal=("W",), deaths=1),
    "repair_waiting": partial(inputs, mortal=("W",), deaths=1, fails=(0,)),
    "all there by the dead process": partial(inputs, mortal=("W",), deaths=1, fails=(0,)),
    "promoting": partial(inputs, mortal=("W",), deaths=1),
    "pending": partial(inputs, mortal=("S",), deaths=1),
    "finish_submission": partial(inputs, mortal=("S",), deaths=1),
    "is_walked": partial(inputs, mortal=("S",), deaths=1, fails=(0,)),
    "closed by exchange": partial(inputs, mortal=("W",), deaths=1, fails=(0,)),
    "the next edge before the bit": partial(inputs, workers=2, count=2, fails=(0,)),
    "waiting again": claimed_to_fail,
    "an edge by exchange": partial(inputs, mortal=("S",), deaths=2, fails=(0,), successor=True),
    "creator before references": others_slot,
    "acked_release": releasing,
    "a waiting one stops its queue": instance_inputs,
    "a look at the queue after publishing": lost_instance,
    "a look before sleeping": partial(sleeping, tasks=1),
    "a call after the entry": partial(sleeping, tasks=1),
    "a call for what is queued when seeking ends": partial(sleeping, kind=Lasting),
    "a call when a permit is left": partial(sleeping, kind=Permitted, once="W"),
    "a wake-up of all after a recovery": partial(sleeping, tasks=1, mortal=("W",), deaths=1),
    "watched before the look": waiting,
    "published before the look": waiting,
    "the word before the look": waiting,
    "the word moves": waiting,
    "what a queue names is asked for": partial(
        starting, entries=2, submitters=("S", "R"), mortal=("zygote 1", "S"), deaths=2
    ),
    "a starting entry is taken back": starting,
    "a wait for the end": partial(starting, entries=2, pool=True),
    "the name of what is taken": partial(groups, mortal=("P",), deaths=1),
    "a claim by cas": groups,
    "repair": partial(groups, mortal=("P",), deaths=1),
}

#: What makes a store visible to all before the loads after it: without it these go wrong, but only where stores are delayed.
BARRIERS = {
    "watched by exchange": waiting,
    "finished by exchange": waiting,
    "no seeker by exchange": partial(sleeping, kind=Lasting),
    "a fence before the look at the sleepers": leaving,
    "waits_for by exchange": waiting_in_ring,
    "a queue dead by cas": lost_instance,
    "a slot taken by cas": closing,
    "waiting again by exchange": last_input_while_recovered,
}

#: What was found missing, and how that shows.
MENDS = {
    # An entry named a slot and some bits of its generation: after so many uses it passed for an entry to another call.
    "the queue of an entry": (reused_slots, "W runs slot 0, a call of queue 1"),
    "the tail of an entry": (instance, "slot 2 begins before slot 1"),
    # An entry stayed REQUESTED until the supervisor had noted its child: the next one started another by the same number.
    "a number of the start": (starting, "as another does already"),
    # ABA: a tag's number wraps around, and the tag of an earlier release, or of another slot, passed for the last one's.
    "the slot of a tag": (releasing, "slot 3 stays taken"),
    "a number not shown": (releasing, "slot 3 stays taken"),
    "the tag stays": (freed_by_another, "a reference to slot 1 is released twice"),
    # The process that released a slot's last reference had to free it; others' notes said they might. Both may be wrong.
    "a claim before freeing": (partial(calls, mortal=("W",), deaths=1), "slot 0 stays taken"),
    "the generation of what is freed": (others_slot, "slot 0 is freed while it has references"),
    # What the recovery itself held or took back was lost, or taken back twice, when the supervisor died in it.
    "a bit for the recovery": (
        partial(inputs, mortal=("S",), deaths=2, fails=(0,), successor=True),
        "stays taken",
    ),
    "one step for what is pending": (
        partial(inputs, mortal=("S",), deaths=2, fails=(0,), successor=True),
        "released twice",
    ),
    # Between two levels of a dependency's bits the submitter may die, and no process knows that it was to go on.
    "the clearer's tag in a word": (partial(inputs, mortal=("S",), deaths=1, per_word=1), "slot 1 is waiting for ever"),
    # A task that a dead process had claimed to fail waited again, though its last dependency had come meanwhile.
    "a look after it waits again": (last_input_while_recovered, "slot 1 is waiting for ever"),
    # A call was published, and then looked whether its service had been closed meanwhile: it might be run, or lost, before.
    "a look at the service once a slot is named": (closing, "runs by a block that was freed"),
    "a look at the calls being made": (partial(closing, instance=True), "the call is ready for ever"),
    # A sleeper that was woken just when it left by itself took another process off the count of sleepers.
    "one word for calls and sleepers": (partial(sleeping, tasks=1), "2 sleep, and 1 count as asleep"),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_and_no_death_loses_anything(name):
    scenario = SCENARIOS[name]()
    explored = explore(scenario if name in MANY_STATES else with_stores_put_off(scenario), most=1_000_000)
    assert explored.states > 10
    assert explored.ends


@pytest.mark.storm
@pytest.mark.skipif(not LONG, reason="minutes: FLAME_FAST_STORM=1")
@pytest.mark.parametrize("name", [*MANY_STATES, *LONG_SCENARIOS])
def test_no_order_of_steps_and_no_death_loses_anything_in_larger_worlds(name):
    scenario = {**SCENARIOS, **LONG_SCENARIOS}[name]()
    assert explore(with_stores_put_off(scenario), most=30_000_000).ends


@pytest.mark.parametrize("what", NEEDED)
def test_what_is_left_out_is_missed(what):
    """A model that cannot fail would say nothing of the one that does not."""
    with pytest.raises(Violation) as found:
        explore(NEEDED[what](without=(what,)), dives=True)
    assert found.value.trace


@pytest.mark.parametrize("what", BARRIERS)
def test_what_keeps_a_store_from_being_overtaken_is_missed(what):
    scenario = BARRIERS[what](without=(what,))
    with pytest.raises(Violation, match="put off"):
        explore(with_stores_put_off(scenario), dives=True)


@pytest.mark.parametrize("what", MENDS)
def test_what_was_wrong_is_found(what):
    scenario, shows = MENDS[what]
    with pytest.raises(Violation, match=shows):
        explore(scenario(without=(what,)), dives=True)


def test_a_slot_was_freed_twice():
    """A process that released another slot's last reference, while it freed a slot, named only the inner one meanwhile."""
    scenario = inputs(mortal=("S",), deaths=1, fails=(0,), without=("a claim before freeing",))
    scenario.at_end = ()  # what is lost by that is found earlier
    with pytest.raises(Violation, match="slot 1 is freed twice"):
        explore(scenario, dives=True)


# ---- the explorer itself -------------------------------------------------------------------------------------------------


def count_up():
    value = yield load("count")
    yield store("count", value + 1)


def counted(words):
    return None if words["count"] == 2 else f"two count, and there are {words['count']}"


def test_the_fewest_steps_to_a_fault_are_told():
    scenario = Scenario({"count": 0}, {"A": count_up, "B": count_up}, at_end=(counted,))
    with pytest.raises(Violation) as found:
        explore(scenario)
    assert [line.partition(":")[0] for line in found.value.trace[:-1]] in (
        list("ABAB"),
        list("ABBA"),
        list("BAAB"),
        list("BABA"),
    )


def test_a_search_that_dives_goes_through_the_same_states():
    for scenario in (calls(mortal=("S",), deaths=1), with_stores_put_off(both_sides(exchange))):
        wide, deep = explore(scenario), explore(scenario, dives=True)
        assert (deep.states, deep.steps, deep.ends) == (wide.states, wide.steps, wide.ends)


def test_a_death_comes_after_any_write():
    def writer():
        for value in range(1, 4):
            yield store("count", value)

    seen = set()
    scenario = Scenario(
        {"count": 0},
        {"A": writer},
        mortal=("A",),
        deaths=1,
        at_end=(lambda words: seen.add((words["dead", "A"], words["count"])),),
    )
    explore(scenario)
    assert seen == {(1, 0), (1, 1), (1, 2), (0, 3)}  # with the third it has ended


def one_side(write, mine, other):
    """Of Dekker's: the process that comes second sees what the first has written."""
    yield write(mine, 1)
    seen = yield load(other)
    yield store((mine, "saw"), seen)


def both_sides(write):
    words = {"a": 0, "b": 0, ("a", "saw"): None, ("b", "saw"): None}
    programs = {"A": partial(one_side, write, "a", "b"), "B": partial(one_side, write, "b", "a")}
    return Scenario(words, programs, at_end=(neither_saw,))


def neither_saw(words):
    return "neither saw the other" if not words["a", "saw"] and not words["b", "saw"] else None


def test_a_load_overtakes_a_store():
    explore(both_sides(store))
    explore(with_stores_put_off(both_sides(exchange)))
    with pytest.raises(Violation, match="neither saw the other") as found:
        explore(with_stores_put_off(both_sides(store)))
    assert "A: one_side: store put off: a = 1" in found.value.trace
    assert "A: a delayed store is visible to all: a = 1" in found.value.trace


def test_one_process_that_puts_stores_off_is_enough():
    scenario = both_sides(store)
    scenario.puts_off = ("A",)
    with pytest.raises(Violation, match="neither saw the other"):
        explore(scenario)


@pytest.mark.parametrize("fenced", [("A",), ("B",), ("A", "B")])
def test_no_load_overtakes_a_fence(fenced):
    def side(me, other):
        yield store(me, 1)
        if me in fenced:
            yield fence()
        seen = yield load(other)
        yield store((me, "saw"), seen)

    words = {"A": 0, "B": 0, ("A", "saw"): None, ("B", "saw"): None}
    seen = set()
    scenario = Scenario(
        words,
        {"A": partial(side, "A", "B"), "B": partial(side, "B", "A")},
        at_end=(lambda words: seen.add((words["A", "saw"], words["B", "saw"])),),
    )
    explore(with_stores_put_off(scenario))
    assert ((0, 0) in seen) == (len(fenced) < 2)


def test_stores_do_not_overtake_each_other():
    """Nor do loads: a process that sees the second store sees the first."""

    def writer():
        yield store("data", 1)
        yield store("ready", 1)

    def reader():
        ready = yield load("ready")
        data = yield load("data")
        yield store("saw", (ready, data))

    seen = set()
    scenario = Scenario(
        {"data": 0, "ready": 0, "saw": None},
        {"A": writer, "B": reader},
        at_end=(lambda words: seen.add(words["saw"]),),
    )
    explore(with_stores_put_off(scenario))
    assert seen == {(0, 0), (0, 1), (1, 1)}


def test_a_process_sees_what_it_has_put_off():
    def writer():
        for value in (1, 2):
            yield store("count", value)
            if (yield load("count")) != value:
                yield fail("it does not see its own store")
            yield put("bits", value, value)
            if not (yield load("bits")) & value:
                yield fail("it does not see its own bits")

    seen = set()
    scenario = Scenario(
        {"count": 0, "bits": 4},
        {"A": writer, "B": lambda: just(add("bits", 8))},
        at_end=(lambda words: seen.add((words["count"], words["bits"])),),
    )
    explore(with_stores_put_off(scenario))
    assert seen == {(2, 15)}  # and nothing is lost of what another does to the rest of a word


def just(operation):
    yield operation


def test_a_death_lets_out_what_was_put_off():
    """A store that was executed is not lost, and none is seen without those before it."""

    def writer():
        for value in range(1, 4):
            yield store("first", value)
            yield load("first")
            yield store("second", value)

    seen = set()
    scenario = Scenario(
        {"first": 0, "second": 0},
        {"A": writer},
        mortal=("A",),
        deaths=1,
        at_end=(lambda words: seen.add((words["dead", "A"], words["first"], words["second"])),),
    )
    explore(with_stores_put_off(scenario))
    assert seen == {(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 2, 1), (1, 2, 2), (1, 3, 2), (0, 3, 3)}


def random_operation(rng):
    word, value = rng.choice("xyz"), rng.randrange(1, 8)
    operations = [store(word, value)] * 4 + [load(word)] * 4
    operations += [exchange(word, value), add(word, 1), fence(), choose(1, 2), put(word, 1, value & 1)]
    return rng.choice([*operations, stores((word, value), ("z", value))])


def random_program(operations, me):
    """Tell at its end what it has read."""
    seen = ()
    for at in range(len(operations)):
        answer = yield operations[at]
        if operations[at][0] == "load":
            seen = (*seen, answer)
    yield exchange(("saw", me), seen)


def random_scenario(rng):
    names = "ABC"[: rng.choice((2, 2, 3))]
    programs = {}
    for name in names:
        operations = tuple(random_operation(rng) for _ in range(rng.randrange(2, 7 - len(names))))
        programs[name] = partial(random_program, operations, name)
    mortal = tuple(name for name in names if rng.random() < 0.5)
    killed = rng.choice(((), names[:1]))
    if killed:
        programs["K"] = partial(random_program, (store("z", 7), load("x"), kill(killed[0])), "K")
    words = {"x": 0, "y": 0, "z": 0, **{("saw", name): None for name in programs}}
    scenario = Scenario(words, programs, mortal=mortal, deaths=rng.choice((0, 1, 2)), killed=killed)
    return replace(with_stores_put_off(scenario), most_put_off=rng.choice((1, 2, 8)))


def ends_of(scenario):
    ends = set()
    explore(replace(scenario, at_end=(lambda words: ends.add(words.values),)))
    return ends


def test_what_is_left_out_of_the_search_leads_nowhere_else(monkeypatch):
    """Random programs end as in a search that tries every step in every state, and every death."""
    scenarios = [random_scenario(random.Random(seed)) for seed in range(2000 if LONG else 30)]
    found = [ends_of(scenario) for scenario in scenarios]
    let_out = BufferedExplorer.let_out

    def let_out_or_killed(self, state, place):
        return [*let_out(self, state, place), *self.killed(state, (place,))]

    monkeypatch.setattr(BufferedStep, "is_alone", lambda self, state: False)
    monkeypatch.setattr(BufferedExplorer, "let_out", let_out_or_killed)
    assert found == [ends_of(scenario) for scenario in scenarios]


def test_a_wake_up_that_comes_too_early_is_lost():
    def sleeper():
        yield from futex_wait("word", 0)

    def caller():
        yield futex_wake("word", 1)

    def lost(words):
        return "asleep" if words["over"] == 0 else None

    def marked():
        yield from sleeper()
        yield store("over", 1)

    with pytest.raises(Violation, match="asleep"):
        explore(Scenario({"word": 0, "over": 0}, {"A": marked, "B": caller}, at_end=(lost,)))


def test_a_word_that_is_not_private_is_not_taken_for_one():
    scenario = Scenario({"count": 0}, {"A": count_up, "B": count_up}, private={"count": "A"})
    with pytest.raises(ModelError, match="not its own"):
        explore(scenario)


def test_states_that_only_look_the_same_are_noticed():
    """What is on a frame's stack is no variable: here the sum so far."""

    def sums():
        total = (yield choose(1, 2)) + (yield load("count"))
        yield cas("count", 0, total)

    with pytest.raises(ModelError, match="look the same"):
        explore(Scenario({"count": 0}, {"A": sums}))


def test_a_killed_process_stands_still():
    def killer():
        yield kill("A")
        yield add("count", 5)

    seen = set()

    def victim():
        yield when(lambda words: words["count"] == 5)
        yield store("count", 0)

    looks = (lambda words: seen.add(words["count"]),)
    scenario = Scenario({"count": 0}, {"A": victim, "B": killer}, killed=("A",), at_end=looks)
    explore(scenario)
    explore(with_stores_put_off(scenario))
    assert seen == {5}


MODELS = [
    "protocol_model.py",
    "protocol_scenarios.py",
    "waking_model.py",
    "groups_model.py",
    "starting_model.py",
    "closing_model.py",
]


@pytest.mark.parametrize("name", MODELS)
def test_a_yield_comes_first_in_its_expression(name):
    """What stands before it would be on the frame's stack, which tells two states apart and is not seen."""
    tree = ast.parse((Path(__file__).parents[1] / "support" / "models" / name).read_text())
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    late = [
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.Yield | ast.YieldFrom) and not is_first(node, parents)
    ]
    assert not late, f"{name}: lines {late}"


def is_first(node, parents):
    """Whether nothing of the statement is computed before this node and kept."""
    while isinstance(parent := parents[node], ast.expr):
        if not isinstance(parent, ast.BoolOp | ast.IfExp):  # of these what was computed before is gone
            values = [child for child in ast.iter_child_nodes(parent) if isinstance(child, ast.expr)]
            if values[0] is not node:
                return False
        node = parent
    return True
