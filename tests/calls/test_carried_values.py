"""Values that process pools carry: proxies, shared memory, exceptions, views, records, generics; and weak containers."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import functools
import json
import subprocess
import typing
import urllib.error
import weakref
import zipfile

import pytest
from gates import PATIENCE_S, fail, new_module, run_script, same

from flame_fast import Runner

LARGE = 300_000


@pytest.fixture
def rr(project):
    with Runner("carried", workers=1) as runner:
        yield runner


def ways(rr):
    """Each way a value can travel: there and back, stored, and through another task."""
    service = rr.service(same)
    return {
        "argument and result": lambda value: service(value).get(PATIENCE_S),
        "inside a list": lambda value: service([value]).get(PATIENCE_S)[0],
        "ref": lambda value: rr.put_object(value).get(),
        "future as argument": lambda value: service(service(value)).get(PATIENCE_S),
        "closure": lambda value: rr.service(lambda: value)().get(PATIENCE_S),
    }


# ---- multiprocessing -------------------------------------------------------------------------------------------------


def test_proxies_of_a_manager_are_usable_in_tasks(project):
    """As with a pool: they connect to the manager's process with its key."""
    out = run_script(
        project,
        """
        import multiprocessing
        from flame_fast import Runner
        def work(number, proxies):
            with proxies["lock"]:
                proxies["dict"][number] = number * 2
                proxies["list"].append(number)
                proxies["namespace"].last = "of a task"
                proxies["value"].value += number
                length = len(proxies["list"])
            proxies["queue"].put(number)
            proxies["event"].set()
            return length, proxies["array"][1]
        if __name__ == "__main__":
            with multiprocessing.Manager() as manager:
                proxies = {
                    "dict": manager.dict(), "list": manager.list(), "queue": manager.Queue(), "lock": manager.Lock(),
                    "namespace": manager.Namespace(), "value": manager.Value("i", 0), "event": manager.Event(),
                    "array": manager.Array("i", [1, 2]),
                }
                with Runner("manager", workers=2) as rr:
                    print(sorted(rr.get([rr.service(work)(number, proxies) for number in range(4)], timeout=30)))
                print(sorted(proxies["dict"].items()), sorted(proxies["list"]), proxies["namespace"].last)
                print(sorted(proxies["queue"].get() for _ in range(4)), proxies["value"].value, proxies["event"].is_set())
        """,
    )
    assert out.splitlines() == [
        "[(1, 2), (2, 2), (3, 2), (4, 2)]",
        "[(0, 0), (1, 2), (2, 4), (3, 6)] [0, 1, 2, 3] of a task",
        "[0, 1, 2, 3] 6 True",
    ]


def test_proxies_of_a_manager_come_by_closure_and_global_and_in_results(project):
    out = run_script(
        project,
        """
        import multiprocessing
        from flame_fast import Runner
        def by_global():
            shared["global"] = 1
        def back(proxy):
            proxy["back"] = 3
            return proxy
        if __name__ == "__main__":
            with multiprocessing.Manager() as manager:
                shared = manager.dict()
                mine = shared
                with Runner("manager", workers=1) as rr:
                    rr.service(by_global)().get(timeout=20)
                    (lambda mine: rr.service(lambda: mine.update(closure=2))().get(timeout=20))(shared)
                    got = rr.service(back)(shared).get(timeout=20)
                    print(sorted(got.items()))
        """,
    )
    assert out == "[('back', 3), ('closure', 2), ('global', 1)]\n"


SHARED_MEMORY = """
from multiprocessing.shared_memory import ShareableList, SharedMemory
from flame_fast import Runner

def fill(memory, value):
    memory.buf[:4] = bytes([value]) * 4
    size = memory.size
    memory.close()
    return size

def by_name(name):
    memory = SharedMemory(name=name)
    found = bytes(memory.buf[:4])
    memory.close()
    return found

def total(items):
    found = sum(items)
    items.shm.close()
    return found

memory = SharedMemory(create=True, size=4096)
items = ShareableList([1, 2, 3])
try:
    for number in range(2):  # the workers of the first have ended when the second's begin
        with Runner("shared", workers=2) as rr:
            print(rr.get([rr.service(fill)(memory, number + 1) for _ in range(4)], timeout=20) == [memory.size] * 4)
            print(bytes(memory.buf[:4]), rr.service(by_name)(memory.name).get(timeout=20))
            print(rr.service(total)(items).get(timeout=20))
    again = SharedMemory(name=memory.name)
    print(bytes(again.buf[:4]))
    again.close()
finally:
    items.shm.close()
    items.shm.unlink()
    memory.close()
    memory.unlink()
"""


def test_shared_memory_of_the_driver_is_usable_and_stays(project):
    """No worker unlinks it when it ends, and no resource tracker complains."""
    out = run_script(project, SHARED_MEMORY)
    assert out.splitlines() == [
        "True", r"b'\x01\x01\x01\x01' b'\x01\x01\x01\x01'", "6",
        "True", r"b'\x02\x02\x02\x02' b'\x02\x02\x02\x02'", "6",
        r"b'\x02\x02\x02\x02'",
    ]  # fmt: skip


# ---- exceptions ------------------------------------------------------------------------------------------------------

EXCEPTIONS = """
class OneArgument(Exception):
    def __init__(self, name):
        super().__init__(f"no such thing: {name}")
        self.name = name

class TwoArguments(ValueError):
    def __init__(self, code, name):
        super().__init__(f"{code}: {name}")
        self.code, self.name = code, name

class KeywordOnly(Exception):
    def __init__(self, *, limit):
        super().__init__("over the limit", limit)
        self.limit = limit

class NoSuper(Exception):
    def __init__(self, left, right=2):
        self.text = f"{left} and {right}"

    def __str__(self):
        return self.text

class WithNew(Exception):
    def __new__(cls, number):
        made = super().__new__(cls, number)
        made.number = number
        return made

    def __init__(self, number):
        super().__init__(f"number {number}")

class OfOS(OSError):
    def __init__(self, path):
        super().__init__(2, "is not there", path)

class WithSlots(Exception):
    __slots__ = ("detail",)

    def __init__(self, detail):
        super().__init__(f"detail {detail}")
        self.detail = detail

class Derived(TwoArguments):
    def __init__(self, name):
        super().__init__(404, name)

def make():
    return [
        OneArgument("x"), TwoArguments(5, "x"), KeywordOnly(limit=3), NoSuper(1), WithNew(4), OfOS("/x"), WithSlots("d"),
        Derived("x"),
    ]
"""


def facts_of(error):
    return type(error).__name__, str(error), error.args, getattr(error, "__dict__", None)


def assert_alike(got, error):
    assert type(got) is type(error)
    assert facts_of(got) == facts_of(error)


@pytest.mark.parametrize("home", ["importable module", "made-up module"])
def test_an_exception_that_makes_its_own_text_arrives_with_that_text(define, monkeypatch, project, home):
    """Raised, as a result, and as an argument; twice over, too."""
    module = define(EXCEPTIONS) if home == "made-up module" else new_module(monkeypatch, project, EXCEPTIONS)
    with Runner("exceptions", workers=1) as rr:
        failing, there = rr.service(fail), rr.service(lambda errors: [facts_of(each) for each in errors])
        for error in module.make():
            assert_alike(failing(error).exception(PATIENCE_S), error)
            for travel in ways(rr).values():
                assert_alike(travel(error), error)
            assert there([error]).get(PATIENCE_S) == [facts_of(error)]
            (again,) = rr.service(same)([failing(error).exception(PATIENCE_S)]).get(PATIENCE_S)
            assert_alike(again, error)


def test_an_exception_about_an_object_without_a_text_arrives_as_itself(rr, define):
    """Its text tells an address, which is another one wherever it arrives."""
    module = define("class Key: pass\ndef fail(): return {}[Key()]\n")
    error = rr.service(module.fail)().exception(PATIENCE_S)
    assert type(error) is KeyError
    assert type(error.args[0]) is module.Key


STANDARD = {
    "KeyError": KeyError("key"),
    "OSError": OSError(2, "no such file", "name"),
    "UnicodeDecodeError": UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal"),
    "JSONDecodeError": json.JSONDecodeError("expected", "doc", 1),
    "CalledProcessError": subprocess.CalledProcessError(3, ["a"], b"out", b"err"),
    "TimeoutExpired": subprocess.TimeoutExpired(["a"], 2.0),
    "URLError": urllib.error.URLError("reason"),
    "BadZipFile": zipfile.BadZipFile("bad"),
    "FrozenInstanceError": dataclasses.FrozenInstanceError("frozen"),
    "ExceptionGroup": ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    "StopIteration": StopIteration(3),
    "ImportError": ImportError("no", name="module", path="path"),
    "SyntaxError": SyntaxError("bad", ("file", 1, 2, "text")),
}


def test_exceptions_of_the_standard_library_arrive_as_they_are(rr):
    for name, error in STANDARD.items():
        got = rr.service(same)([error]).get(PATIENCE_S)[0]
        assert (type(got), str(got), repr(got.args)) == (type(error), str(error), repr(error.args)), name
        raised = rr.service(fail)(error).exception(PATIENCE_S)
        assert (type(raised), str(raised)) == (type(error), str(error)), name


def test_notes_and_groups_of_own_exceptions_arrive(rr, define):
    module = define(EXCEPTIONS)
    error = ExceptionGroup("all", module.make())
    error.add_note("a note")
    got = rr.service(fail)(error).exception(PATIENCE_S)
    assert got.__notes__ == ["a note"]
    for one, other in zip(got.exceptions, error.exceptions, strict=True):
        assert_alike(one, other)


def test_an_exception_whose_values_cannot_travel_still_tells_its_text(rr):
    def work():
        error = ValueError("the text")
        error.stream = (number for number in range(3))
        raise error

    error = rr.service(work)().exception(PATIENCE_S)
    assert "the text" in str(error)
    assert "ValueError" in f"{type(error)} {error}"


# ---- views and arrays ------------------------------------------------------------------------------------------------

VIEWS = {
    "of bytes": memoryview(b"abc"),
    "of a bytearray": memoryview(bytearray(b"abc")),
    "of nothing": memoryview(b""),
    "large": memoryview(bytes(range(256)) * 2000),
    "a slice": memoryview(b"abcdef")[1:4],
    "every second": memoryview(b"abcdef")[::2],
    "of an array": memoryview(array.array("d", [1.5, 2.5])),
    "cast": memoryview(bytes(range(12))).cast("B", (3, 4)),
}


def test_memoryviews_arrive_equal(rr):
    """As memoryviews or as bytes."""
    for name, view in VIEWS.items():
        assert rr.service(lambda given: bytes(given))(view).get(PATIENCE_S) == view.tobytes(), name
        for way, travel in ways(rr).items():
            got = travel(view)
            assert isinstance(got, (bytes, memoryview)), (name, way)
            assert bytes(got) == view.tobytes(), (name, way)


def test_a_memoryview_is_a_copy_of_what_it_shows(rr):
    data = bytearray(b"abc")
    reference = rr.put_object(memoryview(data))
    data[0] = 0
    assert bytes(reference.get()) == b"abc"


def test_arrays_of_every_type_arrive_equal(rr):
    values = [array.array(code, [1, 2, 3]) for code in "bBhHiIlLqQfd"]
    values += [array.array("u", "é€a"), array.array("d"), array.array("d", range(LARGE))]
    for travel in ways(rr).values():
        for value in values:
            got = travel(value)
            assert type(got) is array.array
            assert (got.typecode, got) == (value.typecode, value)
            got.append(got[0] if got else 1)  # an ordinary one


# ---- collections -----------------------------------------------------------------------------------------------------

COLLECTIONS = """
import collections
Pair = collections.namedtuple("Pair", "left right", defaults=[None])

class Ordered(collections.OrderedDict):
    def __init__(self, *args, owner=None):
        super().__init__(*args)
        self.owner = owner

class Queue(collections.deque):
    pass

class Tally(collections.Counter):
    pass

class Filling(collections.defaultdict):
    def __missing__(self, key):
        return f"missing {key}"

class Record(collections.UserDict):
    pass

class Names(collections.UserList):
    pass

class Title(collections.UserString):
    pass

def factory():
    return ["made"]

def make():
    bounded = Queue([1, 2, 3], 2)
    bounded.note = "kept"
    return [
        Pair(1), Pair(1, Pair(2, 3)), Ordered([("b", 1), ("a", 2)], owner="me"), bounded, Tally("abca"),
        Filling(list, a=[1]), Record(a=1), Names([1, 2]), Title("text"), collections.defaultdict(factory, a=1),
        collections.ChainMap({"a": 1}, Record(b=2)), collections.deque([Pair(1)], maxlen=3), {Pair(1): Pair(2)},
        frozenset([Pair(1)]),
    ]
"""


def test_collections_of_own_classes_arrive_equal(rr, define):
    module = define(COLLECTIONS)
    for travel in ways(rr).values():
        for value in module.make():
            got = travel(value)
            assert type(got) is type(value)
            assert got == value
            assert getattr(got, "__dict__", None) == getattr(value, "__dict__", None)
            assert getattr(got, "maxlen", None) == getattr(value, "maxlen", None)


def test_factories_of_default_dicts_work_in_a_task_and_at_home(rr, define):
    module = define(COLLECTIONS)
    value = collections.defaultdict(module.factory)
    got = rr.service(lambda given: (given["new"], given))(value).get(PATIENCE_S)
    assert got == (["made"], {"new": ["made"]})
    assert got[1].default_factory is module.factory
    assert rr.service(lambda given: given["x"])(module.Filling(list)).get(PATIENCE_S) == "missing x"


# ---- dataclasses and generics ----------------------------------------------------------------------------------------

DATACLASSES = """
import dataclasses, typing
from dataclasses import InitVar, dataclass, field

T = typing.TypeVar("T")
posts = []

@dataclass
class Plain:
    x: int
    y: list = field(default_factory=list)

@dataclass(frozen=True)
class Frozen:
    x: int
    computed: int = field(init=False, default=0)
    def __post_init__(self):
        object.__setattr__(self, "computed", self.x * 2)

@dataclass(slots=True)
class Slots:
    x: int
    y: int = 5

@dataclass(frozen=True, slots=True)
class FrozenSlots:
    x: int

@dataclass(slots=True, weakref_slot=True)
class WeakSlots:
    x: int

@dataclass(kw_only=True, order=True)
class KeywordOnly:
    x: int
    y: int = field(compare=False, default=0)

@dataclass(eq=False)
class ByIdentity:
    x: int

@dataclass(unsafe_hash=True, repr=False)
class Hashed:
    x: int

@dataclass
class Posted:
    x: int
    scale: InitVar[int] = 1
    def __post_init__(self, scale):
        posts.append(self.x)
        self.x *= scale

@dataclass
class Child(Plain):
    z: str = "z"

@dataclass
class Generic(typing.Generic[T]):
    content: T

@dataclass
class Node:
    number: int
    next: "Node | None" = None

Made = dataclasses.make_dataclass("Made", [("x", int), ("y", int, 3)], namespace={"twice": lambda self: 2 * self.x})
Made.__module__ = __name__

def make():
    cyclic = Node(1)
    cyclic.next = Node(2, cyclic)
    extra = Plain(1, [2])
    extra.added = "attribute"
    return [
        Plain(1, [Plain(2)]), Frozen(2), Slots(1), FrozenSlots(1), WeakSlots(1), KeywordOnly(x=1, y=2), Hashed(1),
        Posted(2, 3), Child(1, [2], "c"), Generic(5), Generic[int](5), Node(1, Node(2)), Made(4), extra,
        ByIdentity(1), cyclic,
    ]
"""


def test_dataclasses_of_every_kind_arrive_equal(rr, define):
    module = define(DATACLASSES)
    for travel in ways(rr).values():
        for value in module.make():
            got = travel(value)
            assert type(got) is type(value)
            if type(value) is module.ByIdentity:
                assert got.x == value.x
            elif type(value) is module.Node and value.next.next is value:
                assert got.next.next is got
            else:
                assert got == value
                assert dataclasses.asdict(got) == dataclasses.asdict(value)
                assert getattr(got, "added", None) == getattr(value, "added", None)


def test_an_arriving_dataclass_is_not_made_anew(rr, define):
    """`__post_init__` runs where the value is made, and nowhere else."""
    module = define(DATACLASSES)
    value = module.Posted(2, 3)
    del module.posts[:]
    assert rr.service(same)(value).get(PATIENCE_S).x == 6
    assert rr.service(lambda given: given.x)(value).get(PATIENCE_S) == 6
    assert module.posts == []


def test_a_frozen_dataclass_stays_frozen_and_hashable(rr, define):
    module = define(DATACLASSES)
    for value in (module.Frozen(2), module.FrozenSlots(1)):
        got = rr.service(same)({value: "found"}).get(PATIENCE_S)
        assert got[value] == "found"
        with pytest.raises(dataclasses.FrozenInstanceError):
            next(iter(got)).x = 5


def test_generics_arrive_with_their_parameters(rr, define):
    module = define(
        """
        from typing import Generic, TypeVar
        T = TypeVar("T")
        K = TypeVar("K", bound=int)
        class Box(Generic[T]):
            def __init__(self, content):
                self.content = content
            def __class_getitem__(cls, item):
                return super().__class_getitem__(item)
        class Keyed(Box[str], Generic[K]):
            pass
        class Item:
            pass
        """
    )
    for travel in ways(rr).values():
        for value in (module.Box[int](3), module.Keyed[int](3), module.Box[module.Item](3)):
            got = travel(value)
            assert type(got) is type(value)
            assert (got.content, got.__orig_class__) == (3, value.__orig_class__)
        for alias in (module.Box[int], module.Box[module.T], list[module.Item], dict[str, module.Box[module.Item]]):
            assert travel(alias) == alias
        for alias in (module.Item | None, typing.Callable[[module.Item], module.T], typing.Annotated[module.Item, 3]):
            assert travel(alias) == alias


def test_a_type_variable_without_a_name_arrives_with_its_class(rr, define):
    module = define(
        """
        from typing import Generic, TypeVar
        def make():
            T = TypeVar("T")
            class Box(Generic[T]):
                def first(self, values: list[T]) -> T:
                    return values[0]
            return Box
        Box = make()
        def look(box):
            return box.first([3]), Box.__orig_bases__[0].__args__[0] is Box.__parameters__[0]
        """
    )
    for travel in ways(rr).values():
        assert type(travel(module.Box[int]())) is module.Box
    assert rr.service(module.look)(module.Box()).get(PATIENCE_S) == (3, True)


def test_a_subclass_of_a_parametrized_generic_keeps_its_bases(rr, define):
    module = define(
        "import typing\nT = typing.TypeVar('T')\nclass Box(typing.Generic[T]): pass\nclass Ints(Box[int]): pass\n"
        "def look(value): return typing.get_args(type(value).__orig_bases__[0]), typing.get_args(Box[T])[0] is T"
    )
    assert rr.service(module.look)(module.Ints()).get(PATIENCE_S) == ((int,), True)


# ---- weak containers -------------------------------------------------------------------------------------------------

WEAK = """
import weakref
class Item:
    def __init__(self, number):
        self.number = number
    def __eq__(self, other):
        return type(other) is Item and other.number == self.number
    def __hash__(self):
        return hash(self.number)
class Owner:
    def __init__(self):
        self.items = [Item(1), Item(2)]
        self.by_name = weakref.WeakValueDictionary(first=self.items[0])
        self.names = weakref.WeakKeyDictionary({self.items[1]: "second"})
        self.known = weakref.WeakSet(self.items)
def look(owner):
    return [
        owner.by_name["first"] is owner.items[0], owner.names[owner.items[1]], sorted(each.number for each in owner.known),
        len(owner.by_name), len(owner.names),
    ]
"""


def test_weak_containers_arrive_as_their_contents(rr, define):
    module = define(WEAK)
    items = [module.Item(1), module.Item(2)]
    containers = {
        "WeakValueDictionary": (weakref.WeakValueDictionary(enumerate(items)), lambda given: dict(given.items())),
        "WeakKeyDictionary": (weakref.WeakKeyDictionary(zip(items, "ab", strict=True)), lambda given: dict(given.items())),
        "WeakSet": (weakref.WeakSet(items), lambda given: set(given)),
    }
    for name, (container, contents) in containers.items():
        expected = contents(container)
        assert rr.service(lambda given, contents: contents(given))(container, contents).get(PATIENCE_S) == expected, name
        assert contents(rr.service(same)(container).get(PATIENCE_S)) == expected, name


def test_weak_containers_inside_an_object_refer_to_its_parts(rr, define):
    module = define(WEAK)
    owner = module.Owner()
    expected = [True, "second", [1, 2], 1, 1]
    assert module.look(owner) == expected
    assert rr.service(module.look)(owner).get(PATIENCE_S) == expected
    assert module.look(rr.service(same)(owner).get(PATIENCE_S)) == expected


def test_an_empty_weak_container_arrives_empty(rr):
    for make in (weakref.WeakValueDictionary, weakref.WeakKeyDictionary, weakref.WeakSet):
        assert len(rr.service(same)(make()).get(PATIENCE_S)) == 0


# ---- others ----------------------------------------------------------------------------------------------------------


def test_functions_in_values_arrive_as_the_drivers(rr, define):
    """Tables of functions, partials and methods bound to values."""
    module = define(
        """
        class Model:
            def __init__(self, number):
                self.number = number
            def add(self, other):
                return self.number + other
            @classmethod
            def named(cls):
                return cls.__name__
        def one():
            return 1
        """
    )
    table = {"one": module.one, "named": module.Model.named, "bound": module.Model(3).add, "unbound": module.Model.add}
    got = rr.service(same)(table).get(PATIENCE_S)
    assert got["one"] is module.one
    assert got["named"].__self__ is module.Model
    assert got["unbound"] is module.Model.add
    assert got["bound"](4) == 7
    assert type(got["bound"].__self__) is module.Model

    def call_all(table):
        owner = table["bound"].__self__
        return [table["one"](), table["named"](), table["bound"](1), table["unbound"](owner, 2)]

    assert rr.service(call_all)(table).get(PATIENCE_S) == [1, "Model", 4, 5]


def test_a_cached_property_is_carried_with_its_value(rr, define):
    module = define(
        """
        import functools
        computed = []
        class Model:
            @functools.cached_property
            def slow(self):
                computed.append(1)
                return len(computed)
        def look(model):
            return model.slow, model.slow, "slow" in vars(model)
        """
    )
    fresh, used = module.Model(), module.Model()
    assert used.slow == 1
    assert rr.service(module.look)(used).get(PATIENCE_S) == (1, 1, True)
    assert rr.service(same)(used).get(PATIENCE_S).slow == 1
    assert rr.service(same)(fresh).get(PATIENCE_S).slow == 2
    assert module.computed == [1, 1]


def test_a_value_with_get_state_set_state_and_slots(rr, define):
    module = define(
        """
        class Stateful:
            __slots__ = ("left", "right")
            def __init__(self, left):
                self.left, self.right = left, "not sent"
            def __getstate__(self):
                return {"left": self.left}
            def __setstate__(self, state):
                self.left, self.right = state["left"], "restored"
        class WithArguments:
            def __new__(cls, *args, key):
                made = super().__new__(cls)
                made.args, made.key = args, key
                return made
            def __getnewargs_ex__(self):
                return self.args, {"key": self.key}
        """
    )
    got = rr.service(same)(module.Stateful(3)).get(PATIENCE_S)
    assert (type(got), got.left, got.right) == (module.Stateful, 3, "restored")
    got = rr.service(same)(module.WithArguments(1, 2, key="k")).get(PATIENCE_S)
    assert (type(got), got.args, got.key) == (module.WithArguments, (1, 2), "k")


def test_shared_parts_of_a_value_stay_shared(rr, define):
    module = define("class Model:\n    pass\n")
    one = module.Model()
    one.self, one.cls, one.copies = one, module.Model, [copy.copy(one)] * 2
    got = rr.service(same)([one, one, functools.partial(same, one)]).get(PATIENCE_S)
    assert got[0] is got[1] is got[0].self is got[2].args[0]
    assert got[0].cls is module.Model
    assert got[0].copies[0] is got[0].copies[1]


def test_memoryviews_keep_their_format_shape_and_whether_they_can_be_written(rr):
    echo = rr.service(same)
    table = memoryview(bytearray(range(48))).cast("i", (3, 4))
    for view in (
        memoryview(b"fixed"),
        memoryview(bytearray(b"open")),
        table,
        memoryview(b"")[:0],
        memoryview(b"every other")[::2],
    ):
        got = echo(view).get(PATIENCE_S)
        assert got == view
        assert (got.format, got.shape, got.readonly) == (view.format, view.shape, view.readonly)
