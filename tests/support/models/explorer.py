"""A model checker: goes through every interleaving of small programs over shared words, and every death between two steps.

A program is a generator. It yields one operation on the shared words at a time and is sent what the operation gives; what
it does between two yields touches nothing shared, so operation and computation after it are one step. A program's own state
is where its frames stand and what the variables hold that it still reads. So equal states are met again, and each program
becomes an automaton the first time through: a generator is run once per step of the automaton, not per state of the whole.
For that a yield comes first in its expression, and a loop's variable tells how far it has come: no value comes twice.

A process that has only read since its last write leaves the same behind wherever it is killed. So a death is tried after
each write, and after each end of a sleep.

Every step sees all that was written before it, but for the stores of processes that delay them (`Scenario.puts_off`).
Such a process has a store buffer, as on x86 (TSO): its plain stores wait there, in order, and its own loads see them. Each
becomes visible to all in a step of its own. A read-modify-write, a fence and a system call wait until all have. A death lets
out what waits: it was executed, and the processor retires it; of what was not executed an earlier death tells.
"""

from __future__ import annotations

import dis
import functools
import gc
import random
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import combinations

DEAD, UNBORN, ENDED = -1, -2, -3


class ModelError(Exception):
    """The model is not what the explorer takes it for."""


class Violation(Exception):
    """The protocol fails: `trace` tells the steps to it; breadth first, the fewest there are."""

    def __init__(self, what, trace):
        super().__init__(what + "".join(f"\n  {number:3} {line}" for number, line in enumerate(trace, 1)))
        self.what = what
        self.trace = trace


# ---- operations: what a program may yield ------------------------------------------------------------------------------


def load(word):
    return ("load", word)


def store(word, value):
    return ("store", word, value)


def stores(*pairs):
    """Store several words that no other process looks at yet, in one step."""
    return ("stores", *pairs)


def exchanges(*pairs):
    """Store several words in one step, after all stores before it: as what a read-modify-write publishes."""
    return ("exchanges", *pairs)


def fence():
    """Go on once all stores before it are visible to all."""
    return ("fence",)


def cas(word, expected, desired):
    return ("cas", word, expected, desired)


def exchange(word, value):
    return ("exchange", word, value)


def add(word, count):
    return ("add", word, count)


def clear(word, bits):
    """Clear bits; return what the word was before."""
    return ("clear", word, bits)


def set_bits(word, bits):
    """Set bits; return what the word was before."""
    return ("set_bits", word, bits)


def put(word, mask, bits):
    """Store the part of a word under `mask`."""
    return ("put", word, mask, bits)


def change(word, function, *args):
    """Store `function(words, *args)` in the same step in which the words are read: what only the kernel can do."""
    return ("change", word, function, *args)


def ask(function, *args):
    """Return `function(words, *args)`: what only the kernel can see in one step."""
    return ("ask", function, *args)


def choose(*answers):
    """Return an answer that the world decides, and not the program: each answer is tried."""
    return ("choose", *answers)


def when(condition, *args):
    """Go on once `condition(words, *args)` is true."""
    return ("when", condition, *args)


def mutex(word, me):
    """Take a robust mutex; give the former holder if that died with it, else 0."""
    return ("mutex", word, me)


def futex_wake(word, count):
    return ("wake", word, count)


def kill(process):
    return ("kill", process)


def spawn(process):
    return ("spawn", process)


def fail(what):
    """Say that the protocol has failed if a process gets here."""
    return ("fail", what)


def futex_wait(word, seen, timed=False, shift=0):
    """Sleep if the word is still `seen`, the part of it above `shift` bits; return whether it did.

    `timed`: not for ever, but until nothing else happens any more. The kernel wakes first the process that fell asleep
    first: the one that saw less of the word, which only grows.
    """
    if (yield ("futex", word, seen, shift)):
        yield ("asleep", word, timed, seen)
        return True
    return False


@dataclass
class Scenario:
    """Words and programs to explore. Every process `name` has a word `("dead", name)`, which the explorer sets."""

    words: dict
    programs: dict  #: process -> function that makes its generator
    unborn: tuple = ()  #: processes that only run once they are spawned
    mortal: tuple = ()  #: the processes that may be killed at any time
    deaths: int = 0  #: how many of them
    private: dict = field(default_factory=dict)  #: word -> the process that alone touches it while it lives
    owned: dict = field(default_factory=dict)  #: word -> the process that alone writes it while it lives
    always: tuple = ()  #: functions of the words: what is wrong in them, or None
    at_end: tuple = ()  #: the same, asked when no process has anything left to do
    puts_off: tuple = ()  #: processes whose later loads may overtake their stores
    most_put_off: int = 8  #: how many of each process at a time: more than the programs here store without a barrier
    killed: tuple = ()  #: processes that others kill


class Words:
    """The shared words of one state, by name."""

    def __init__(self, places, values):
        self.places = places
        self.values = values

    def __getitem__(self, word):
        return self.values[self.places[word]]

    def __contains__(self, word):
        return word in self.places


# ---- programs as automata ----------------------------------------------------------------------------------------------


def leaves(instruction):
    """Return whether the instruction after this one is never the next."""
    name = instruction.opname
    return name.startswith(("RETURN_VALUE", "RETURN_CONST", "RAISE", "RERAISE")) or (
        name.startswith("JUMP_") and "IF" not in name
    )


def names_of(instruction):
    """Return the variables that an instruction reads, and those that it writes."""
    given = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    reads, writes = set(), set()
    if "_FAST" in instruction.opname:
        kinds = [kind for kind in instruction.opname.split("_") if kind in ("LOAD", "STORE", "DELETE")]
        for kind, name in zip(kinds, given, strict=False):
            (reads if kind == "LOAD" else writes).add(name)
    return reads - writes, writes


@functools.cache
def live_after(code):
    """For each instruction of a function: the variables that are still read after it.

    A loop over something reads its variable, which tells how far it has come; and a function with such a loop its arguments.
    """
    instructions = list(dis.get_instructions(code))
    following = {}
    kept = {}
    for at, this in enumerate(instructions):
        following[this.offset] = [] if leaves(this) else [each.offset for each in instructions[at + 1 : at + 2]]
        if this.opcode in dis.hasjrel or this.opcode in dis.hasjabs:
            following[this.offset].append(this.argval)
        kept[this.offset] = loop_variables(instructions, at) if this.opname == "FOR_ITER" else set()
    if any(kept.values()):
        kept = {offset: names | set(code.co_varnames[: code.co_argcount]) for offset, names in kept.items()}
    before = {this.offset: frozenset() for this in instructions}
    after = dict(before)
    changed = True
    while changed:
        changed = False
        for this in reversed(instructions):
            reads, writes = names_of(this)
            after[this.offset] = frozenset().union(*(before[offset] for offset in following[this.offset]))
            now = (after[this.offset] - writes) | reads | kept[this.offset]
            changed |= now != before[this.offset]
            before[this.offset] = now
    return after


def loop_variables(instructions, at):
    """Return the variables in which the instructions right behind a FOR_ITER store its value."""
    found = set()
    for this in instructions[at + 1 :]:
        if not this.opname.startswith(("STORE_FAST", "UNPACK_SEQUENCE")):
            break
        found |= names_of(this)[1]
    return found


def frames_of(generator):
    while generator is not None:
        yield generator.gi_frame
        generator = generator.gi_yieldfrom


def state_of(generator):
    """Return where each frame of a generator stands, and what it still needs; and the functions' names."""
    state, names = [], []
    for frame in frames_of(generator):
        code = frame.f_code
        live = live_after(code)[frame.f_lasti]
        held = tuple(
            (name, value)
            for name, value in sorted(frame.f_locals.items())
            if name in live or name in code.co_freevars + code.co_cellvars
        )
        state.append((code, frame.f_lasti, held))
        names.append(code.co_name)
    return tuple(state), names


class Node:
    """A state of one program."""

    __slots__ = ("after", "generator", "names", "number", "operation", "path", "process", "step", "twin")

    def __init__(self, process, number, generator, operation, path, names):
        self.process = process
        self.number = number
        self.generator = generator  # one that stands here, until it is needed to go on
        self.twin = None  # another one
        self.operation = operation
        self.path = path  # (node before, answer), None at the start
        self.names = names
        self.step = None  # see `Explorer.step_of`
        self.after = {}  # answer -> node's number


class Automata:
    """The programs' own states, found as they are needed."""

    def __init__(self, programs):
        self.programs = programs
        self.nodes = []
        self.known = {}  # (process, frames, operation) -> node's number
        self.starts = {}

    def start(self, process):
        if process not in self.starts:
            generator = self.programs[process]()
            self.starts[process] = self.arrive(process, generator, None, None)
        return self.starts[process]

    def go_on(self, node, answer):
        number = node.after.get(answer)
        if number is None:
            number = node.after[answer] = self.arrive(node.process, self.generator_at(node), answer, (node, answer))
            self.compare(node, answer, number)
        return number

    def generator_at(self, node):
        generator, node.generator = node.generator, None
        if generator is not None:
            return generator
        answers = []
        while node.path is not None:
            node, answer = node.path
            answers.append(answer)
        generator = self.programs[node.process]()
        generator.send(None)
        for answer in reversed(answers):
            generator.send(answer)
        return generator

    def arrive(self, process, generator, answer, path):
        try:
            operation = generator.send(answer)
        except StopIteration:
            return ENDED
        state, names = state_of(generator)
        key = (process, state, operation)
        number = self.known.get(key)
        if number is None:
            number = self.known[key] = len(self.nodes)
            self.nodes.append(Node(process, number, generator, operation, path, names))
        elif self.nodes[number].twin is None:
            self.nodes[number].twin = generator
        return number

    def compare(self, node, answer, number):
        """Check that a generator that came to a node by another way goes on like the first."""
        twin, node.twin = node.twin, None
        if twin is not None and self.arrive(node.process, twin, answer, (node, answer)) != number:
            raise ModelError(f"{node.process} in {node.names}: two states that look the same are not")


# ---- the search --------------------------------------------------------------------------------------------------------


class Explorer:
    """A search through a scenario; `states`, `steps` and `ends` count what was met.

    It goes breadth first, unless it `dives`: on from what it has just met, until nothing new comes, and then on from what it
    met first. So it goes through the same states, and finds a fault that is there sooner.
    """

    def __init__(self, scenario, most=10_000_000, dives=False):
        self.scenario = scenario
        self.most = most
        self.dives = dives
        self.names = list(scenario.programs)
        self.automata = Automata(scenario.programs)
        self.nodes = self.automata.nodes
        words = dict(scenario.words)
        words.update((("dead", name), 0) for name in self.names)
        self.places = {word: place for place, word in enumerate(words)}
        self.memories = []
        self.memory_numbers = {}
        self.compiled = {}
        self.parents = {}
        self.steps = self.ends = 0
        self.first = self.first_state(tuple(words.values()))

    @property
    def states(self):
        return len(self.parents)

    def first_state(self, values):
        nodes = [UNBORN if name in self.scenario.unborn else self.automata.start(name) for name in self.names]
        return (self.number_of(values), self.scenario.deaths, *nodes)

    def number_of(self, values):
        number = self.memory_numbers.get(values)
        if number is None:
            number = self.memory_numbers[values] = len(self.memories)
            self.memories.append(values)
        return number

    def run(self):
        parents = self.parents
        parents[self.first] = None
        beginnings = [self.first]  # and what is left of them by deaths before the first step
        for state in beginnings:
            for following in self.killed(state, range(len(self.names))):
                if following not in parents:
                    parents[following] = state
                    beginnings.append(following)
        todo = deque(beginnings)
        checked = 0
        new = []
        order = random.Random(0)  # a dive that always took the same process's steps would miss what several do by turns
        while todo:
            state = todo.pop() if self.dives and new else todo.popleft()
            found = self.successors(state)
            if not found:
                self.ends += 1
                self.check(self.scenario.at_end, state)
            self.steps += len(found)
            new = []
            for following in found:
                if following not in parents:
                    parents[following] = state
                    new.append(following)
            if self.dives:
                order.shuffle(new)
            todo += new
            while checked < len(self.memories):
                self.check_memory(checked, state, found)
                checked += 1
            if len(parents) > self.most:
                raise ModelError(f"more than {self.most:,} states")
        return self

    def check_memory(self, number, state, found):
        for look in self.scenario.always:
            wrong = look(Words(self.places, self.memories[number]))
            if wrong:
                where = next((following for following in found if following[0] == number), state)
                raise Violation(wrong, self.trace(where))

    def check(self, looks, state):
        for look in looks:
            wrong = look(Words(self.places, self.memories[state[0]]))
            if wrong:
                raise Violation(wrong, [*self.trace(state), "no process goes on; " + self.whereabouts(state)])

    def whereabouts(self, state):
        ends = {DEAD: "is dead", UNBORN: "was never started", ENDED: "has ended"}
        places = []
        for name, number in zip(self.names, state[2:], strict=True):
            places.append(f"{name} {ends[number] if number < 0 else 'is in ' + ' > '.join(self.nodes[number].names[-2:])}")
        return ", ".join(places)

    # ---- steps ---------------------------------------------------------------------------------------------------------

    def successors(self, state):
        """Yield the states one step on: of one process alone, where its step matters to no other."""
        found = []
        for at in range(2, len(state)):
            if state[at] >= 0:
                node = self.nodes[state[at]]
                step = node.step or self.step_of(node)
                if step.alone:
                    return step.take(state, at, node)
                found += step.take(state, at, node)
        return found or self.timeouts(state)

    def step_of(self, node):
        if node.step is None:
            key = (node.process, node.operation)
            if key not in self.compiled:
                self.compiled[key] = self.compile(*key)
            node.step = self.compiled[key]
        return node.step

    def compile(self, process, operation):
        return Step(self, process, operation)

    def timeouts(self, state):
        """No process can do anything: those that sleep for a time only wake up."""
        found = []
        for at in range(2, len(state)):
            if state[at] >= 0 and self.nodes[state[at]].operation[0] == "asleep" and self.nodes[state[at]].operation[2]:
                found.append(self.moved(state, at, "time is up"))
        return found

    def moved(self, state, at, answer, memory=None):
        node = self.nodes[state[at]]
        number = node.after.get(answer)
        if number is None:
            number = self.automata.go_on(node, answer)
        return (state[0] if memory is None else memory, *state[1:at], number, *state[at + 1 :])

    def killed(self, state, whom):
        """Return the state with one of these processes killed, as far as deaths are left."""
        if not state[1]:
            return []
        return [
            self.without(state, place, state[1] - 1)
            for place in whom
            if state[place + 2] >= 0 and self.names[place] in self.scenario.mortal
        ]

    def without(self, state, place, deaths):
        values = self.left_by(place, self.memories[state[0]])
        values[self.places["dead", self.names[place]]] = 1
        nodes = list(state[2:])
        nodes[place] = DEAD
        return (self.number_of(tuple(values)), deaths, *nodes)

    def left_by(self, place, values):
        return list(values)

    # ---- telling -------------------------------------------------------------------------------------------------------

    def trace(self, state):
        """Return the steps to a state, in words."""
        states = []
        while state is not None:
            states.append(state)
            state = self.parents[state]
        states.reverse()
        return [line for before, after in zip(states, states[1:], strict=False) for line in self.published(before, after)]

    def published(self, before, after):
        moved = [place for place in range(len(self.names)) if before[place + 2] != after[place + 2]]
        dead = [place for place in moved if after[place + 2] == DEAD]
        acting = [place for place in range(len(self.names)) if self.leads_to(before, after, place)]
        lines = []
        if acting:
            node = self.nodes[before[acting[0] + 2]]
            lines.append(f"{node.process}: {' > '.join(node.names[-2:])}: {self.in_words(node.operation, before, after)}")
        return lines + [f"{self.names[place]} is killed" for place in dead]

    def leads_to(self, before, after, place):
        number = before[place + 2]
        if number < 0:
            return False
        node = self.nodes[number]
        return any(
            following[0] == after[0] and following[2:] == after[2:]
            for following in self.step_of(node).take(before, place + 2, node)
        ) or any(following == after for following in self.timeouts(before) if following[place + 2] != number)

    def in_words(self, operation, before, after):
        kind, *rest = operation
        old, new = Words(self.places, self.memories[before[0]]), Words(self.places, self.memories[after[0]])
        if kind in ("load", "futex", "asleep", "wake"):
            return f"{kind} {in_short(rest[0])} = {old[rest[0]]}"
        if kind == "cas" and old[rest[0]] != rest[1]:
            return f"cas {in_short(rest[0])} fails: {old[rest[0]]}, not {rest[1]}"
        if kind in ("mutex", "change", *CHANGES):
            return f"{kind} {in_short(rest[0])}: {old[rest[0]]} -> {new[rest[0]]}"
        if kind in ("stores", "exchanges"):
            return f"{kind[:-1]} " + ", ".join(f"{in_short(word)} = {value}" for word, value in rest)
        if kind in ("when", "ask"):
            return " ".join([kind, rest[0].__name__, *map(str, rest[1:])])
        return " ".join([kind, *map(in_short, rest)])


def in_short(word):
    return word[0] + "".join(f"[{part}]" for part in word[1:]) if isinstance(word, tuple) and word else str(word)


class Step:
    """One operation of one process, ready to be applied to states."""

    def __init__(self, explorer, process, operation):
        self.explorer = explorer
        self.operation = operation
        self.process = process
        self.mortal = process in explorer.scenario.mortal
        kind, *rest = operation
        self.place = explorer.places[rest[0]] if rest and rest[0] in explorer.places else None
        self.rest = rest[1:]
        touched = [word for word, _ in rest] if kind in SEVERAL else rest[:1]
        owners = {**explorer.scenario.private, **explorer.scenario.owned} if kind == "load" else explorer.scenario.private
        #: whether the step matters to no other process, so that the others' steps need not be tried before it
        self.alone = kind == "choose" or (
            kind in ("load", *SEVERAL, *CHANGES) and all(owners.get(word) == process for word in touched)
        )
        if kind in (*SEVERAL, *CHANGES):
            owners = {**explorer.scenario.private, **explorer.scenario.owned}
        else:
            owners = explorer.scenario.private if kind == "load" else {}
        #: the process that must be dead for this one to touch the words: else they are not the other's own
        self.must_be_dead = [
            explorer.places["dead", owners[word]] for word in touched if owners.get(word, process) != process
        ]
        if kind in CHANGES:
            if self.place is None:
                raise ModelError(f"{process}: no word {rest[0]}")
            self.change = CHANGES[kind]
            self.take = self.take_change
        else:
            self.take = self.take_change_by if kind == "change" else getattr(self, "take_" + kind)

    def is_alone(self, state):
        """Return whether a step that is `alone` is so in this state, too."""
        return True

    def written(self, state, at, answer, values):
        """Return the states after a write: as it is, and with the writer killed."""
        explorer = self.explorer
        after = explorer.moved(state, at, answer, explorer.number_of(values))
        if self.mortal and state[1]:
            return [after, *explorer.killed(after, (at - 2,))] if after[at] >= 0 else [after]
        return [after]

    def seen(self, state):
        """Return the words as this process sees them."""
        return self.explorer.memories[state[0]]

    def take_load(self, state, at, node):
        values = self.explorer.memories[state[0]]
        if self.must_be_dead:
            self.check_private(values)
        answer = values[self.place]
        number = node.after.get(answer)
        if number is None:
            number = self.explorer.automata.go_on(node, answer)
        return [(*state[:at], number, *state[at + 1 :])]

    def take_change(self, state, at, node):
        values = self.explorer.memories[state[0]]
        if self.must_be_dead:
            self.check_private(values)
        old = values[self.place]
        new, answer = self.change(old, *self.rest)
        if new == old:
            return [self.explorer.moved(state, at, answer)]
        return self.written(state, at, answer, (*values[: self.place], new, *values[self.place + 1 :]))

    def check_private(self, values):
        for place in self.must_be_dead:
            if not values[place]:
                raise ModelError(f"{self.process} touches what is not its own: {self.operation}")

    def take_stores(self, state, at, node):
        values = list(self.explorer.memories[state[0]])
        if self.must_be_dead:
            self.check_private(values)
        for word, value in self.operation[1:]:
            values[self.explorer.places[word]] = value
        return self.written(state, at, None, tuple(values))

    take_exchanges = take_stores

    def take_fence(self, state, at, node):
        return [self.explorer.moved(state, at, None)]

    def take_choose(self, state, at, node):
        return [self.explorer.moved(state, at, answer) for answer in self.operation[1:]]

    def take_when(self, state, at, node):
        words = Words(self.explorer.places, self.seen(state))
        _, condition, *args = self.operation
        return [self.explorer.moved(state, at, None)] if condition(words, *args) else []

    def take_ask(self, state, at, node):
        _, function, *args = self.operation
        return [self.explorer.moved(state, at, function(Words(self.explorer.places, self.seen(state)), *args))]

    def take_change_by(self, state, at, node):
        values = self.explorer.memories[state[0]]
        function, *args = self.rest
        new = function(Words(self.explorer.places, values), *args)
        return self.written(state, at, None, (*values[: self.place], new, *values[self.place + 1 :]))

    def take_mutex(self, state, at, node):
        values = self.explorer.memories[state[0]]
        holder = values[self.place]
        if holder and not values[self.explorer.places["dead", holder]]:
            return []
        return self.written(state, at, holder, (*values[: self.place], self.rest[0], *values[self.place + 1 :]))

    def take_futex(self, state, at, node):
        seen, shift = self.rest
        asleep = self.explorer.memories[state[0]][self.place] >> shift == seen
        return [self.explorer.moved(state, at, asleep)]

    def take_asleep(self, state, at, node):
        return []

    def take_wake(self, state, at, node):
        explorer = self.explorer
        asleep = {}  # what was seen -> the processes that sleep since
        for other in range(2, len(state)):
            operation = explorer.nodes[state[other]].operation if state[other] >= 0 else ()
            if operation[:2] == ("asleep", self.operation[1]):
                asleep.setdefault(operation[3], []).append(other)
        found = []
        for called in first_of([asleep[seen] for seen in sorted(asleep)], self.rest[0]):
            after = explorer.moved(state, at, None)
            for other in called:
                after = explorer.moved(after, other, "woken")
            found += [after, *explorer.killed(after, [at - 2, *(other - 2 for other in called)])]
        return found

    def take_kill(self, state, at, node):
        if self.operation[1] not in self.explorer.scenario.killed:
            raise ModelError(f"{self.operation[1]} is not one of those that others kill")
        place = self.explorer.names.index(self.operation[1])
        after = self.explorer.moved(state, at, None)
        return [self.explorer.without(after, place, after[1]) if after[place + 2] >= 0 else after]

    def take_spawn(self, state, at, node):
        place = self.explorer.names.index(self.operation[1])
        if state[place + 2] != UNBORN:
            raise ModelError(f"{self.operation[1]} is started twice")
        after = self.explorer.moved(state, at, None)
        after = (*after[: place + 2], self.explorer.automata.start(self.operation[1]), *after[place + 3 :])
        return [after, *self.explorer.killed(after, (at - 2, place))]

    def take_fail(self, state, at, node):
        raise Violation(self.operation[1], self.explorer.trace(state))


def first_of(groups, count):
    """Return the ways to take `count` members from groups, all of a group before any of the next."""
    taken = []
    for group in groups:
        if len(taken) + len(group) > count:
            return [[*taken, *some] for some in combinations(group, count - len(taken))]
        taken += group
    return [taken]


SEVERAL = ("stores", "exchanges")  # of several words

CHANGES = {
    "store": lambda old, value: (value, None),
    "cas": lambda old, expected, desired: (desired, True) if old == expected else (old, False),
    "exchange": lambda old, value: (value, old),
    "add": lambda old, count: (old + count, old),
    "clear": lambda old, bits: (old & ~bits, old),
    "set_bits": lambda old, bits: (old | bits, old),
    "put": lambda old, mask, bits: (old & ~mask | bits, None),
}


# ---- stores put off ----------------------------------------------------------------------------------------------------


class BufferedExplorer(Explorer):
    """With a store buffer for each process that puts stores off: a word ("put off", process), the oldest entry first.

    An entry is one operation's stores: (place, mask or None for the whole word, value) each.
    """

    def __init__(self, scenario, most=10_000_000, dives=False):
        words = {**scenario.words, **{("put off", name): () for name in scenario.puts_off}}
        super().__init__(replace(scenario, words=words), most, dives)
        self.buffers = {}  # place among the processes -> the buffer's place
        for name in scenario.puts_off:
            self.buffers[self.names.index(name)] = self.places["put off", name]

    def compile(self, process, operation):
        return (BufferedStep if process in self.scenario.puts_off else Step)(self, process, operation)

    def successors(self, state):
        """Yield as before; a process that only delays another store does what matters to no other."""
        found = []
        for at in range(2, len(state)):
            if state[at] >= 0:
                node = self.nodes[state[at]]
                step = node.step or self.step_of(node)
                if step.alone and step.is_alone(state):
                    return step.take(state, at, node)
                found += step.take(state, at, node)
        values = self.memories[state[0]]
        for place, buffer in self.buffers.items():
            if values[buffer]:
                found += self.let_out(state, place)
        return found or self.timeouts(state)

    def let_out(self, state, place):
        """Make the oldest store of a process visible to all; the process may be killed once that was its last."""
        buffer = self.buffers[place]
        values = self.memories[state[0]]
        if not values[buffer]:
            return []
        values = list(values)
        oldest, *others = values[buffer]
        values[buffer] = tuple(others)
        apply(values, oldest)
        after = (self.number_of(tuple(values)), *state[1:])
        return [after] if others else [after, *self.killed(after, (place,))]

    def left_by(self, place, values):
        values = list(values)
        if place in self.buffers:
            for entry in values[self.buffers[place]]:
                apply(values, entry)
            values[self.buffers[place]] = ()
        return values

    def published(self, before, after):
        for place, buffer in self.buffers.items():
            if after in self.let_out(before, place):
                oldest = self.memories[before[0]][buffer][0]
                words = list(self.places)
                names = ", ".join(f"{in_short(words[at])} = {self.memories[after[0]][at]}" for at, _, _ in oldest)
                dead = [f"{self.names[place]} is killed"] if after[place + 2] == DEAD != before[place + 2] else []
                return [f"{self.names[place]}: a delayed store is visible to all: {names}", *dead]
        return super().published(before, after)

    def in_words(self, operation, before, after):
        kind, *rest = operation
        if kind in ("store", "put", "stores") and any(
            len(self.memories[after[0]][buffer]) > len(self.memories[before[0]][buffer]) for buffer in self.buffers.values()
        ):
            pairs = rest if kind == "stores" else [(rest[0], rest[-1])]
            return "store put off: " + ", ".join(f"{in_short(word)} = {value}" for word, value in pairs)
        return super().in_words(operation, before, after)


def apply(values, entry):
    for place, mask, value in entry:
        values[place] = value if mask is None else values[place] & ~mask | value


class BufferedStep(Step):
    """A step of a process with a store buffer."""

    def __init__(self, explorer, process, operation):
        super().__init__(explorer, process, operation)
        kind, *rest = operation
        self.buffer = explorer.places["put off", process]
        places = explorer.places
        self.entry = None
        if kind in ("store", "put", "stores"):
            pairs = rest if kind == "stores" else [rest] if kind == "store" else []
            self.entry = tuple((places[word], None, value) for word, value in pairs) or ((places[rest[0]], *rest[1:]),)
            self.alone = True  # see is_alone
            self.take = self.take_put_off
        elif kind not in ("load", "choose", "when", "ask", "asleep", "fail"):
            self.alone = False
            self.take_with_all_out, self.take = self.take, self.take_once_all_is_out

    def is_alone(self, state):
        """Return whether a step that is `alone` is so in this state, too.

        A store put off is, unless there is no room, or a death before it leaves less behind than one after it.
        """
        if self.entry is None:
            return True
        count = len(self.explorer.memories[state[0]][self.buffer])
        if self.process in self.explorer.scenario.killed or count == self.explorer.scenario.most_put_off:
            return False
        return count == 0 or not (self.mortal and state[1])

    def seen(self, state):
        values = self.explorer.memories[state[0]]
        if values[self.buffer]:
            values = list(values)
            for entry in values[self.buffer]:
                apply(values, entry)
        return values

    def take_load(self, state, at, node):
        values = self.seen(state)
        if self.must_be_dead:
            self.check_private(values)
        return [self.explorer.moved(state, at, values[self.place])]

    def take_put_off(self, state, at, node):
        values = self.explorer.memories[state[0]]
        if self.must_be_dead:
            self.check_private(values)
        put_off = values[self.buffer]
        if len(put_off) == self.explorer.scenario.most_put_off:
            return []
        after = (*values[: self.buffer], (*put_off, self.entry), *values[self.buffer + 1 :])
        return [self.explorer.moved(state, at, None, self.explorer.number_of(after))]

    def take_once_all_is_out(self, state, at, node):
        return [] if self.explorer.memories[state[0]][self.buffer] else self.take_with_all_out(state, at, node)


def with_stores_put_off(scenario):
    """Return the same for processors that all put stores off: whatever may happen without that may happen here, too."""
    return replace(scenario, puts_off=tuple(scenario.programs))


def explore(scenario, most=10_000_000, dives=False):
    """Go through a scenario; return the explorer, or raise `Violation`, by a search that `dives` sooner."""
    collects = gc.isenabled()
    gc.disable()  # millions of small tuples, and no cycles
    try:
        return (BufferedExplorer if scenario.puts_off else Explorer)(scenario, most, dives).run()
    finally:
        if collects:
            gc.enable()
