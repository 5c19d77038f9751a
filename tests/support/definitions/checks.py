"""The last part of a program that `definition_matrix` makes: tries each kind in each position and writes how it went.

It uses names of the parts before it: `KINDS`, `BY_GLOBAL`, `BY_DEFAULT`, `BY_ATTRIBUTE`.
"""
# ruff: noqa: F821

import json
import os
import random

import kinds_beside

from flame_fast import Runner

PATIENCE_S = 20


class Mismatch(Exception):
    pass


class Carried(Exception):
    def __init__(self, value):
        super().__init__("carries a value")
        self.value = value


def same(value):
    return value


def hit(definition):
    definition.hits = getattr(definition, "hits", 0) + 1
    return definition.hits


def made(make):
    return make()


def raised(make):
    raise Carried(make())


def bound(look, value):
    return lambda: look(value)


def expect(got, wanted, what):
    if got != wanted:
        raise Mismatch(f"{what}: got {got!r}, expected {wanted!r}")


def expect_same(kind, got, value):
    """In the driver: what arrived is what was sent, of the driver's own class."""
    expect(type(got) is type(value), True, f"type {type(got)} {id(type(got))} is {type(value)} {id(type(value))}")
    expect(kind.look(got), kind.look(value), "look")
    if kind.one:
        expect(got is value, True, "the one object there is")


def run(rr, function, *args):
    return rr.service(function)(*args).get(PATIENCE_S)


def check_argument(rr, name, kind, value):
    expect(run(rr, kind.look, value), kind.look(value), "look in the worker")


def check_result(rr, name, kind, value):
    expect_same(kind, run(rr, made, kind.make), value)


def check_both(rr, name, kind, value):
    expect_same(kind, run(rr, same, value), value)


def check_container(rr, name, kind, value):
    got = run(rr, same, {"key": [value, (value,)]})["key"]
    expect_same(kind, got[0], value)
    expect(got[0] is got[1][0], True, "one object twice")


def check_closure(rr, name, kind, value):
    expect(run(rr, bound(kind.look, value)), kind.look(value), "look in the worker")


def check_global(rr, name, kind, value):
    expect(run(rr, BY_GLOBAL[name]), kind.look(value), "look in the worker")


def check_default(rr, name, kind, value):
    expect(run(rr, BY_DEFAULT[name]), kind.look(value), "look in the worker")


def check_attribute(rr, name, kind, value):
    expect(run(rr, BY_ATTRIBUTE[name]), kind.look(value), "look in the worker")


def check_exception(rr, name, kind, value):
    try:
        run(rr, raised, kind.make)
    except Carried as error:
        expect(type(error) is Carried, True, "type of the exception")
        expect_same(kind, error.value, value)
    else:
        raise Mismatch("nothing was raised")


def check_definition(rr, name, kind, value):
    got = run(rr, same, [kind.definition])[0]
    expect(got is kind.definition, True, "the driver's definition")


def check_base(rr, name, kind, value):
    derived = kinds_beside.derive(kind.definition)
    before = own_state(kind.definition)
    value = kind.of(derived)
    got = run(rr, same, value)
    expect(type(got) is derived, True, "the driver's derived class")
    expect(kind.look(got), kind.look(value), "look")
    expect(run(rr, kind.look, value), kind.look(value), "look in the worker")
    expect(run(rr, kinds_beside.method_of, value), "beside", "method of the derived class")
    expect(own_state(kind.definition), before, "the driver's state")


def check_state(rr, name, kind, value):
    service = rr.service(hit)
    counted = []
    for _ in range(3):
        counted.append(service(kind.definition).get(PATIENCE_S))
        run(rr, same, value)
    first = counted[0]
    expect(counted, [first, first + 1, first + 2], "the worker's state")
    expect(hasattr(kind.definition, "hits"), False, "the worker's state in the driver")


def check_untouched(rr, name, kind, value):
    expect(own_state(kind.definition), STATES[name], "the driver's state")


def own_state(definition):
    """Public attributes by name: the very objects, and what the containers among them hold."""
    found = {key: value for key, value in vars(definition).items() if not key.startswith("_")}
    return {key: (id(value), repr(value) if isinstance(value, (list, dict)) else None) for key, value in found.items()}


#: position: (its check, the kinds that have it)
POSITIONS = {
    "argument": (check_argument, lambda kind: True),
    "result": (check_result, lambda kind: True),
    "both": (check_both, lambda kind: True),
    "container": (check_container, lambda kind: True),
    "closure": (check_closure, lambda kind: True),
    "global": (check_global, lambda kind: True),
    "default": (check_default, lambda kind: True),
    "attribute": (check_attribute, lambda kind: True),
    "exception": (check_exception, lambda kind: True),
    "definition": (check_definition, lambda kind: kind.definition is not None),
    "state": (check_state, lambda kind: kind.keeps),
    "untouched": (check_untouched, lambda kind: kind.keeps),
    "base": (check_base, lambda kind: kind.of is not None),
}
STATES = {name: own_state(kind.definition) for name, kind in KINDS.items() if kind.keeps}


def outcome_of(check, rr, name, kind):
    try:
        check(rr, name, kind, kind.make())
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:400]
    return "ok"


def drawn(combinations, draw, times):
    """Return some of the combinations, in their order: each kind and each position at least so many times."""
    shuffled = random.Random(draw).sample(combinations, len(combinations))
    of_position, of_kind, found = dict.fromkeys(POSITIONS, 0), dict.fromkeys(KINDS, 0), set()
    for position, name in shuffled:
        if min(of_position[position], of_kind[name]) < times:
            found.add((position, name))
            of_position[position] += 1
            of_kind[name] += 1
    return [each for each in combinations if each in found]


def check_all():
    """One JSON line for each combination, and one that says how many there are; of the drawn ones where there is a draw."""
    combinations = [(position, name) for position in POSITIONS for name in KINDS if POSITIONS[position][1](KINDS[name])]
    chosen = combinations
    if draw := os.environ.get("MATRIX_DRAW"):
        chosen = drawn(combinations, draw, 2)
    with open(os.environ["MATRIX_OUTPUT"], "w") as output, Runner("matrix", workers=1) as rr:
        for position, name in chosen:
            outcome = outcome_of(POSITIONS[position][0], rr, name, KINDS[name])
            print(json.dumps({"kind": name, "position": position, "outcome": outcome}), file=output, flush=True)
        print(json.dumps({"count": len(combinations), "kinds": [*KINDS], "positions": [*POSITIONS]}), file=output)
