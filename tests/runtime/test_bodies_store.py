"""Bodies of definitions in the segment: which process keeps them, and until when; and instances in the native codec."""

from __future__ import annotations

import gc
import os
import pickle
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modules_in_memory import made_up_module
from runtime_harness import Alone, Family

IDENTITY = bytes(range(16))
OTHER = bytes(16)

CLASSES = """
import collections, dataclasses, enum, typing
@dataclasses.dataclass
class Point:
    x: object
    y: object = None
@dataclasses.dataclass(slots=True)
class Slotted:
    x: object
    y: object = None
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: object
    y: object = None
class Both(Slotted):
    def __init__(self, x, y):
        super().__init__(x, y)
        self.z = x
class Named(typing.NamedTuple):
    x: object
    y: object = None
class Row(tuple):
    def __new__(cls, x, y):
        return super().__new__(cls, (x, y))
    x, y = property(lambda self: self[0]), property(lambda self: self[1])
    def __getnewargs__(self):
        return tuple(self)
class Plain(collections.namedtuple("Plain", "x y")):
    pass
class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1
    BLUE = "blue"
class Hooked(Point):
    def __getstate__(self):
        return {"x": self.x, "y": "hooked"}
"""


NAMES = ("Point", "Slotted", "Frozen", "Both", "Named", "Row", "Plain", "Hooked")


@pytest.fixture
def alone():
    alone = Alone()
    yield alone
    alone.close()


@pytest.fixture
def family():
    family = Family(inline=True)
    yield family
    family.close()


def test_a_body_stays_for_as_long_as_its_hold(alone):
    before = alone.in_use()
    hold = alone.runtime.put_definition(IDENTITY, b"body")
    place = hold.offset
    assert alone.runtime.definition_body(place, hold.nbytes) == b"body"
    assert alone.runtime.is_definition(IDENTITY, place)
    del hold
    assert not alone.runtime.is_definition(IDENTITY, place)
    assert alone.in_use() == before


def test_another_reference_keeps_a_body_and_none_brings_it_back(alone):
    first = alone.runtime.put_definition(IDENTITY, b"body")
    place, nbytes = first.offset, first.nbytes
    second = alone.runtime.hold_definition(IDENTITY, place, nbytes)
    del first
    assert second.offset == place
    assert alone.runtime.is_definition(IDENTITY, place)
    del second
    assert alone.runtime.hold_definition(IDENTITY, place, nbytes) is None


def test_a_place_with_another_body_is_not_taken_for_it(alone):
    hold = alone.runtime.put_definition(IDENTITY, b"body")
    place, nbytes = hold.offset, hold.nbytes
    assert alone.runtime.hold_definition(OTHER, place, nbytes) is None
    del hold
    again = alone.runtime.put_definition(OTHER, b"else")
    assert again.offset == place  # the warm extent
    assert not alone.runtime.is_definition(IDENTITY, place)
    assert alone.runtime.is_definition(OTHER, place)


def test_no_place_at_all_is_no_body(alone):
    for place in (0, 1 << 30, (1 << 42) + 5, (1 << 63) + 1):
        assert not alone.runtime.is_definition(IDENTITY, place)
        assert alone.runtime.hold_definition(IDENTITY, place, 20) is None


def test_the_reference_of_a_dead_process_goes_with_it(family):
    """Of a body that it wrote, and of one that it only held."""
    before = family.in_use()
    own = family.runtime.put_definition(IDENTITY, b"body")
    place, nbytes = own.offset, own.nbytes
    reading, writing = os.pipe()

    def life():
        made = family.runtime.put_definition(OTHER, b"made")
        held = family.runtime.hold_definition(IDENTITY, place, nbytes)
        os.write(writing, made.offset.to_bytes(8, "little") + held.offset.to_bytes(8, "little"))
        signal.pause()

    relative = family.fork(life)
    places = os.read(reading, 16)
    os.close(reading)
    os.close(writing)
    made = int.from_bytes(places[:8], "little")
    assert family.runtime.is_definition(OTHER, made)
    relative.kill()
    family.recover_process(relative)
    assert not family.runtime.is_definition(OTHER, made)
    assert family.runtime.is_definition(IDENTITY, place)
    del own
    assert family.in_use() == before


def test_a_value_keeps_the_body_of_its_class(alone, monkeypatch):
    """After the class itself is gone: and not longer."""
    module = made_up_module(monkeypatch, CLASSES)
    before = alone.in_use()
    ref = alone.runtime.put(module.Point(1, 2))
    assert type(ref.get()) is module.Point
    vars(module).clear()
    gc.collect()
    again = ref.get()  # built from the body: no process has the class any more
    assert (type(again).__name__, again.x, again.y) == ("Point", 1, 2)
    del again, ref
    pickling_leaves(alone)
    assert alone.in_use() == before


def pickling_leaves(alone):
    from flame_fast.kernels.runtime import serialization

    gc.collect()
    serialization.release(alone.runtime)


def look(value):
    """Return what a value is made of, with all types: 1, True and 1.0 are equal."""
    if isinstance(value, list):
        return [look(item) for item in value]
    if isinstance(value, dict):
        return {key: look(item) for key, item in value.items()}
    slots = [name for name in ("x", "y", "z") if hasattr(value, name)]
    return (type(value), {name: look(getattr(value, name)) for name in slots} if slots else value)


def values(module):
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        st.sampled_from(module.Colour),
    )
    kinds = st.sampled_from([vars(module)[name] for name in NAMES])

    def deeper(inner):
        instances = st.builds(lambda kind, x, y: kind(x, y), kinds, inner, inner)
        return st.one_of(instances, st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3))

    return st.recursive(leaves, deeper, max_leaves=30)


def test_instances_arrive_as_pickle_would_bring_them(alone, monkeypatch):
    module = made_up_module(monkeypatch, CLASSES)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def run(data):
        value = data.draw(values(module))
        got = alone.runtime.put(value).get()
        assert look(got) == look(pickle.loads(pickle.dumps(value)))

    run()
    pickling_leaves(alone)


def test_what_is_one_object_stays_one(alone, monkeypatch):
    """Also where there are many of them, and in cycles."""
    module = made_up_module(monkeypatch, CLASSES)
    shared = module.Point([1], 2)
    got = alone.runtime.put([shared, {"again": shared}, module.Slotted(shared, shared.x)]).get()
    assert got[0] is got[1]["again"] is got[2].x
    assert got[0].x is got[2].y
    many = [module.Point(number) for number in range(5000)]
    got = alone.runtime.put([*many, many[17]]).get()
    assert got[17] is got[5000]
    assert [point.x for point in got[:5000]] == list(range(5000))
    cycle = module.Point(1)
    cycle.y = [cycle]
    got = alone.runtime.put(cycle).get()
    assert got.y[0] is got
    pickling_leaves(alone)


def test_slots_that_are_empty_stay_empty(alone, monkeypatch):
    module = made_up_module(monkeypatch, CLASSES)
    point = module.Slotted(1)
    del point.y
    got = alone.runtime.put(point).get()
    assert got.x == 1
    assert not hasattr(got, "y")
    odd = module.Point(1)
    vars(odd)[5] = "no name"  # pickle takes such a thing, too
    assert vars(alone.runtime.put(odd).get()) == {"x": 1, "y": None, 5: "no name"}
    pickling_leaves(alone)


MANY = 100  # more than are remembered while a value is written or read

MANY_CLASSES = "import dataclasses, enum\nmade = []\n" + "".join(
    f"""
@dataclasses.dataclass
class Kind{number}:
    x: object
class Colour{number}(enum.Enum):
    RED, BLUE = 1, 2
made.append((Kind{number}, Colour{number}))
"""
    for number in range(MANY)
)


def test_a_value_of_many_classes_names_them_often(alone, monkeypatch):
    """Classes and members that a value names again are found again, those that were forgotten meanwhile are read again."""
    made = made_up_module(monkeypatch, MANY_CLASSES).made
    value = []
    for step in (1, 37, 53):  # each class soon again, later again, long after
        for turn in range(2 * MANY):
            kind, colour = made[turn * step % MANY]
            inner = made[(turn * step + 1) % MANY]
            value.append(kind([colour.RED, inner[0](inner[1].BLUE), colour.BLUE]))
            value.append(colour.RED)
    got = alone.runtime.put(value).get()
    assert got == value
    assert [type(item) for item in got] == [type(item) for item in value]
    assert all(one.x[0] is other.x[0] for one, other in zip(got[::2], value[::2], strict=True))
    pickling_leaves(alone)


def test_instances_of_a_class_that_no_process_has_are_of_one_class(alone, monkeypatch):
    """It is built once, and kept for no longer than its instances."""
    module = made_up_module(monkeypatch, CLASSES)
    before = alone.in_use()
    ref = alone.runtime.put([module.Point(module.Colour.RED, number) for number in range(50)])
    vars(module).clear()
    gc.collect()
    got = ref.get()
    assert len({type(point) for point in got}) == len({point.x for point in got}) == 1
    assert [point.y for point in got] == list(range(50))
    del got, ref
    pickling_leaves(alone)
    assert alone.in_use() == before
