"""One of every kind of definition, and a table of them: the first part of a program that `definition_matrix` makes.

What is here is plain top-level code of a script, a notebook's cell or a module; the program ends with `checks.py`. Values
are looked at with functions of the program, so that a look in a worker asks for the worker's own definitions.
"""

import abc
import collections
import dataclasses
import enum
import functools
import typing

import attrs
import msgspec
import pydantic

KINDS = {}


class Kind:
    """A row of the table.

    Parameters
    ----------
    definition : object
        What travels by identity; None where there is none.
    make : callable
        Makes a value; of a class that can be derived from, with `of`, out of that class.
    look : callable
        What a value is, in plain values.
    one : bool
        A value is one object for ever, as an enum's member.
    keeps : bool
        The definition takes attributes.
    """

    def __init__(self, definition, look, make=None, of=None, one=False, keeps=True):
        self.definition, self.look, self.of, self.one = definition, look, of, one
        self.keeps = keeps and definition is not None
        self.make = make or functools.partial(of, definition)


def kind(name, definition, look, **options):
    KINDS[name] = Kind(definition, look, **options)


# ---- functions -------------------------------------------------------------------------------------------------------


def helper(number):
    return number + 1


def function(number, *, scale=2):
    """Scale what the helper returns."""
    return helper(number) * scale


def adder(amount):
    def add(number):
        return helper(number) + amount

    return add


def doubled(inner):
    @functools.wraps(inner)
    def wrapper(*args):
        return 2 * inner(*args)

    return wrapper


@doubled
def decorated(number):
    return helper(number)


@functools.lru_cache(maxsize=3)
def cached(number):
    return helper(number)


@functools.singledispatch
def dispatched(value):
    return "anything"


@dispatched.register
def _(value: int):
    return "an int"


def calls(value):
    return value(3), value.__name__, value.__qualname__, value.__module__ == __name__


kind("function", function, lambda v: (*calls(v), v is function, v.__doc__), make=lambda: function, one=True)
kind("closure", None, calls, make=lambda: adder(5))
kind("lambda", None, calls, make=lambda: lambda number: helper(number) * 7)
kind("partial", None, lambda v: (v(3), v.func is function), make=lambda: functools.partial(function, scale=5))
kind("decorated function", decorated, lambda v: (*calls(v), v.__wrapped__(3)), make=lambda: decorated, one=True)
kind("cached function", cached, lambda v: (v(3), v.cache_parameters()["maxsize"]), make=lambda: cached, one=True)
kind("singledispatch", dispatched, lambda v: (v(1), v("x"), v is dispatched), make=lambda: dispatched, one=True)


# ---- classes ---------------------------------------------------------------------------------------------------------


class Plain:
    """A class with state of its own."""

    limit = 7
    registry = []
    made = {}

    def __init__(self, number):
        self.number = number

    def twice(self):
        return helper(self.number) * 2

    @classmethod
    def named(cls):
        return cls.__name__

    @staticmethod
    def fixed():
        return Plain.limit

    @property
    def half(self):
        return self.number / 2


class Sub(Plain):
    children = []

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        Sub.children.append(cls.__name__)

    def twice(self):
        return super().twice() + 1


class Third(Sub):
    def twice(self):
        return super().twice() + __class__.limit


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left):
        self.left = left


class Outer:
    class Inner:
        depth = 2

        def __init__(self, number):
            self.number = number

        def outer(self):
            return Outer.Inner is type(self)


class Abstract(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Concrete(Abstract):
    def area(self):
        return 12


@Abstract.register
class Registered:
    pass


@typing.runtime_checkable
class Quacks(typing.Protocol):
    def quack(self) -> str: ...


class Duck(Quacks):
    def quack(self):
        return "quack"


class Meta(type):
    made = []

    def __new__(meta, name, bases, namespace, **options):
        return super().__new__(meta, name, bases, namespace | {"from_meta": options.get("flavour")})

    def __init__(cls, name, bases, namespace, **options):
        super().__init__(name, bases, namespace)
        Meta.made.append(name)

    def __call__(cls, *args):
        made = super().__call__(*args)
        made.called = True
        return made

    @property
    def of_class(cls):
        return f"of {cls.__name__}"


class WithMeta(metaclass=Meta, flavour="sweet"):
    def __init__(self, number):
        self.number = number


def tagged(cls):
    cls.tag = "tagged"
    return cls


def wrapped(cls):
    @functools.wraps(cls, updated=())
    class Wrapped(cls):
        def shown(self):
            return f"wrapped {super().shown()}"

    return Wrapped


@wrapped
@tagged
class Decorated:
    def __init__(self, number):
        self.number = number

    def shown(self):
        return self.number


def local_class():
    class Local:
        def __init__(self, number):
            self.number = number

        def twice(self):
            return Local is type(self), helper(self.number)

    return Local


LOCAL = local_class()


class Lazy:
    def __init__(self, number):
        self.number = number

    @functools.cached_property
    def square(self):
        return self.number**2


class Dispatching:
    @functools.singledispatchmethod
    def describe(self, value):
        return "anything"

    @describe.register
    def _(self, value: int):
        return f"int {value}"

    @describe.register
    @classmethod
    def _(cls, value: str):
        return f"{cls.__name__} {value}"


class Text(str):
    note = "of the class"


class Items(list):
    def __init__(self, *items, owner=None):
        super().__init__(items)
        self.owner = owner


class Descriptor:
    def __set_name__(self, owner, name):
        self.name = f"{owner.__name__}.{name}"

    def __get__(self, instance, owner):
        return self if instance is None else f"{self.name} of {instance.number}"


class Described:
    field = Descriptor()

    def __init__(self, number):
        self.number = number


class Single:
    """One instance, by its `__new__` and its `__reduce__`."""

    _it = None

    def __new__(cls):
        if Single._it is None:
            Single._it = super().__new__(cls)
        return Single._it

    def __reduce__(self):
        return (Single, ())


class Sentinel:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


MISSING = Sentinel("MISSING")


class Trouble(Exception):
    def __init__(self, code, where="here"):
        super().__init__(f"trouble {code} {where}")
        self.code = code


def is_a(value, *classes):
    return (type(value).__name__, *(isinstance(value, each) for each in classes), *(type(value) is each for each in classes))


def plain_look(value):
    return (*is_a(value, Plain), value.number, value.twice(), value.named(), value.fixed(), value.half)


kind("class", Plain, plain_look, of=lambda cls: cls(3))
kind("subclass", Sub, lambda v: (*plain_look(v), *is_a(v, Sub)), of=lambda cls: cls(4))
kind("subclass of a subclass", Third, lambda v: (*plain_look(v), *is_a(v, Sub, Third)), of=lambda cls: cls(4))
kind("class with slots", Slotted, lambda v: (*is_a(v, Slotted), v.left, hasattr(v, "right")), of=lambda cls: cls("left"))
kind("nested class", Outer.Inner, lambda v: (*is_a(v, Outer.Inner), v.depth, v.outer()), of=lambda cls: cls(1))
kind("ABC", Abstract, lambda v: (*is_a(v, Abstract, Concrete), v.area()), make=Concrete)
kind("subclass of an ABC", Concrete, lambda v: (*is_a(v, Abstract, Concrete), v.area()), of=lambda cls: cls())
kind("class registered with an ABC", Registered, lambda v: is_a(v, Abstract, Registered), of=lambda cls: cls())
kind("protocol", Quacks, lambda v: (*is_a(v, Quacks, Duck), v.quack()), make=Duck)
kind("subclass of a protocol", Duck, lambda v: (*is_a(v, Quacks, Duck), v.quack()), of=lambda cls: cls())
kind("metaclass", Meta, lambda v: (v is WithMeta, type(v) is Meta, v.of_class, v.from_meta), make=lambda: WithMeta, one=True)
kind(
    "class with a metaclass",
    WithMeta,
    lambda v: (*is_a(v, WithMeta), v.number, v.called, type(v).of_class),
    of=lambda cls: cls(5),
)
kind("decorated class", Decorated, lambda v: (*is_a(v, Decorated), v.shown(), v.tag), of=lambda cls: cls(6))
# A worker that imports the module makes a local class of its own there: what arrives is the driver's all the same.
kind("local class", LOCAL, lambda v: (type(v).__qualname__, v.number, v.twice()), of=lambda cls: cls(6))
kind("cached_property", Lazy, lambda v: (*is_a(v, Lazy), v.square, vars(v)["square"]), of=lambda cls: cls(7))
kind(
    "singledispatchmethod",
    Dispatching,
    lambda v: (*is_a(v, Dispatching), v.describe(1), v.describe("x"), v.describe(1.5)),
    of=lambda cls: cls(),
)
kind("subclass of str", Text, lambda v: (*is_a(v, Text), v == "text", v.note), of=lambda cls: cls("text"))
kind("subclass of list", Items, lambda v: (*is_a(v, Items), list(v), v.owner), of=lambda cls: cls(1, 2, owner="me"))
kind("class with a descriptor", Described, lambda v: (*is_a(v, Described), v.field), of=lambda cls: cls(8))
kind("singleton", Single, lambda v: (*is_a(v, Single), v is Single()), make=Single, one=True)
kind("sentinel", MISSING, lambda v: (v is MISSING, *is_a(v, Sentinel), v.name), make=lambda: MISSING, one=True)
kind("exception", Trouble, lambda v: (*is_a(v, Trouble), str(v), v.args, v.code), of=lambda cls: cls(5, where="there"))


# ---- records ---------------------------------------------------------------------------------------------------------

T = typing.TypeVar("T")
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")
UserId = typing.NewType("UserId", int)


@dataclasses.dataclass
class Point:
    x: int
    rest: list = dataclasses.field(default_factory=list, compare=False)
    origin: typing.ClassVar[str] = "nowhere"
    scale: dataclasses.InitVar[int] = 1

    def __post_init__(self, scale):
        self.x *= scale


@dataclasses.dataclass(slots=True, kw_only=True)
class SlotPoint:
    x: int
    y: int = 0


@dataclasses.dataclass(frozen=True, order=True)
class FrozenPoint:
    x: int
    names: tuple[str, ...] = ("a",)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotPoint:
    x: int


@dataclasses.dataclass
class Boxed(typing.Generic[T]):
    content: T


class Box(typing.Generic[T]):
    def __init__(self, content: T):
        self.content = content


class Shape(typing.Generic[*Ts]):
    def __init__(self, *sizes):
        self.sizes = sizes


class Pair(typing.NamedTuple):
    left: int
    right: str = "r"

    def both(self):
        return f"{self.left}{self.right}"


class GenericPair(typing.NamedTuple, typing.Generic[T]):
    left: T
    right: T


OldPair = collections.namedtuple("OldPair", "left right", defaults=[2])


class Options(typing.TypedDict, total=False):
    name: str


class Model(pydantic.BaseModel):
    number: int
    names: list[str] = []
    inner: "Model | None" = None

    @pydantic.field_validator("number")
    @classmethod
    def positive(cls, value):
        if value < 0:
            raise ValueError("negative")
        return value

    @pydantic.computed_field
    @property
    def twice(self) -> int:
        return 2 * self.number


class Page(pydantic.BaseModel, typing.Generic[T]):
    items: list[T]


IntPage = Page[int]


@attrs.define
class Slots:
    x: int
    y: list = attrs.field(factory=list, validator=attrs.validators.instance_of(list))

    def total(self):
        return self.x + sum(self.y)


@attrs.frozen(order=True)
class Frozen:
    x: int = attrs.field(converter=int)


class Message(msgspec.Struct, frozen=True, tag="m"):
    x: int
    y: str = "why"


class Envelope(msgspec.Struct):
    message: Message
    extra: dict = {}


def fields(value):
    return [(each.name, getattr(value, each.name), each.compare) for each in dataclasses.fields(value)]


def point_look(value):
    return (*is_a(value, Point), fields(value), repr(value), value == Point(6, []), value.origin, value.__match_args__)


def frozen_look(value):
    return (
        *is_a(value, FrozenPoint),
        fields(value),
        value == FrozenPoint(1),
        value < type(value)(2),
        value in {FrozenPoint(1)},
    )


def model_look(value):
    return (*is_a(value, Model), value.model_dump(), value.number, value.inner, value.model_fields_set)


def slots_look(value):
    return (*is_a(value, Slots), attrs.asdict(value), value.total(), value == Slots(1, [2]), repr(value))


def frozen_attrs_look(value):
    return (*is_a(value, Frozen), value.x, value == Frozen(3), value < type(value)(4), hash(value) == hash(type(value)(3)))


def envelope_look(value):
    return (*is_a(value, Envelope), is_a(value.message, Message), value == Envelope(Message(1)), msgspec.json.encode(value))


kind("dataclass", Point, point_look, of=lambda cls: cls(2, [1], scale=3))
kind("dataclass with slots", SlotPoint, lambda v: (*is_a(v, SlotPoint), v.x, v.y, repr(v)), of=lambda cls: cls(x=1))
kind("frozen dataclass", FrozenPoint, frozen_look, of=lambda cls: cls(1))
kind(
    "frozen dataclass with slots",
    FrozenSlotPoint,
    lambda v: (*is_a(v, FrozenSlotPoint), v == FrozenSlotPoint(2), hash(v)),
    of=lambda cls: cls(2),
)
kind("generic dataclass", Boxed, lambda v: (*is_a(v, Boxed), v.content, v == Boxed(5)), of=lambda cls: cls(5))
kind(
    "instance of a generic",
    Box,
    lambda v: (*is_a(v, Box), v.content, v.__orig_class__ == Box[int]),
    make=lambda: Box[int](5),
)
kind("variadic generic", Shape, lambda v: (*is_a(v, Shape), v.sizes), of=lambda cls: cls(5, 6))
kind("parametrized generic", None, lambda v: (v == Box[int], v.__origin__ is Box, v(3).content), make=lambda: Box[int])
kind("NamedTuple", Pair, lambda v: (*is_a(v, Pair), tuple(v), v.both(), v._fields), of=lambda cls: cls(1))
kind("generic NamedTuple", GenericPair, lambda v: (*is_a(v, GenericPair), tuple(v)), of=lambda cls: cls(1, 2))
kind("namedtuple", OldPair, lambda v: (*is_a(v, OldPair), v._asdict(), v.right), of=lambda cls: cls(1))
kind("TypedDict", Options, lambda v: (v is Options, sorted(v.__annotations__)), make=lambda: Options, one=True)
kind("TypeVar", T, lambda v: (v is T, v.__name__), make=lambda: T, one=True, keeps=False)
kind("ParamSpec", P, lambda v: (v is P, v.__name__), make=lambda: P, one=True, keeps=False)
kind("TypeVarTuple", Ts, lambda v: (v is Ts, v.__name__), make=lambda: Ts, one=True, keeps=False)
kind("NewType", UserId, lambda v: (v is UserId, v(3), v.__supertype__ is int), make=lambda: UserId, one=True, keeps=False)
kind("pydantic model", Model, model_look, of=lambda cls: cls(number="3", inner={"number": 1}))
kind(
    "generic pydantic model",
    IntPage,
    lambda v: (*is_a(v, Page, IntPage), v.model_dump()),
    make=lambda: IntPage(items=["1"]),
)
kind("attrs class", Slots, slots_look, of=lambda cls: cls(1, [2]))
kind("frozen attrs class", Frozen, frozen_attrs_look, of=lambda cls: cls("3"))
kind("msgspec Struct", Envelope, envelope_look, of=lambda cls: cls(Message(1)))
kind(
    "frozen msgspec Struct",
    Message,
    lambda v: (*is_a(v, Message), v == Message(2), hash(v) == hash(Message(2)), repr(v)),
    of=lambda cls: cls(2),
)


# ---- enums -----------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    """With an alias, a zero, and a method."""

    RED = 1
    CRIMSON = 1  # noqa: PIE796
    BLUE = "b"
    NONE = 0
    TUPLE = (1, 2)

    def shown(self):
        return f"{self.name} of {type(self).__name__}"

    @classmethod
    def _missing_(cls, value):
        return cls.BLUE if value == "blue" else None


class Level(enum.IntEnum):
    LOW = enum.auto()
    HIGH = enum.auto()


class Word(enum.StrEnum):
    HELLO = enum.auto()
    BYE = "good bye"


class Permission(enum.Flag):
    NONE = 0
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE
    RUN = enum.auto()


class Bits(enum.IntFlag, boundary=enum.KEEP):
    A = 1
    B = 2


class Planet(enum.Enum):
    EARTH = (5.976e24, 6.37814e6)
    MARS = (6.421e23, 3.3972e6)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius
        self.visits = []

    @property
    def gravity(self):
        return 6.673e-11 * self.mass / self.radius**2


class Numbered(enum.Enum):
    """Its members are numbered and documented by their `__new__`."""

    def __new__(cls, text):
        made = object.__new__(cls)
        made._value_ = len(cls.__members__) + 1
        made.text = text
        return made

    ONE = "first"
    TWO = "second"


class Mixed(float, enum.Enum):
    HALF = 0.5


class Special(enum.Enum):
    """Of `enum`'s rarer features."""

    _ignore_ = ["each"]

    def _generate_next_value_(name, start, count, last_values):
        return name.lower()

    for each in ("x", "y"):
        vars()[each.upper()] = each
    LATER = enum.auto()
    apart = enum.nonmember("no member")
    CALL = enum.member(helper)

    @enum.property
    def label(self):
        return f"label {self.value}"


class Bare(enum.Enum):
    def shown(self):
        return f"bare {self.name}"


class Filled(Bare):
    ONLY = 1


Functional = enum.Enum("Functional", "UP DOWN", module=__name__)


class Kinds(enum.Enum):
    PLAIN = Plain
    MISSING = MISSING


def member_look(value, cls):
    """Look only at the member's own class, so that an enum which fails does not take the others along."""
    return (
        *is_a(value, cls),
        value.name,
        value is cls(value.value),
        value == cls(value.value),
        list(cls.__members__),
        hash(value) == hash(cls(value.value)),
    )


def member(name, value, look):
    cls = type(value)
    kind(name, cls, lambda v: (*member_look(v, cls), look(v)), make=lambda: value, one=True)


member("enum", Colour.RED, Colour.shown)
member("enum's alias", Colour.CRIMSON, lambda v: (v is Colour.RED, v is Colour.CRIMSON))
member("enum's zero", Colour.NONE, lambda v: (v is Colour.NONE, v.value))
member("enum's member by _missing_", Colour("blue"), lambda v: (v is Colour.BLUE, Colour("blue") is v))
member("IntEnum", Level.HIGH, lambda v: (v is Level.HIGH, v + 1, v > Level.LOW))
member("StrEnum", Word.HELLO, lambda v: (v is Word.HELLO, v + "!", f"{v}"))
member("flag", Permission.READ, lambda v: (v is Permission.READ, v in Permission.BOTH))
member(
    "composite flag",
    Permission.READ | Permission.RUN,
    lambda v: (list(v), Permission.READ in v, v.value, v & Permission.RUN),
)
member("named composite flag", Permission.BOTH, lambda v: (v is Permission.BOTH, list(v)))
member("zero flag", Permission.NONE, lambda v: (v is Permission.NONE, bool(v), v is Permission(0)))
member("IntFlag", Bits.A | Bits.B, lambda v: (v == 3, list(v)))
member("IntFlag that keeps other bits", Bits(9), lambda v: (v == 9, list(v)))
member("enum with __init__", Planet.MARS, lambda v: (v is Planet.MARS, v.mass, v.radius, v.gravity, v.visits))
member("enum with __new__", Numbered.TWO, lambda v: (v is Numbered.TWO, v.value, v.text))
member("enum of floats", Mixed.HALF, lambda v: (v is Mixed.HALF, v + 1))
member("enum with auto values", Special.LATER, lambda v: (v.value, v.label, Special.apart, Special.X.value))
member("enum of functions", Special.CALL, lambda v: (v is Special.CALL, v.value(3), v.value is helper))
member("enum out of a bare enum", Filled.ONLY, lambda v: (v is Filled.ONLY, isinstance(v, Bare), v.shown()))
member("enum by its functional interface", Functional.DOWN, lambda v: (v is Functional.DOWN, v.value))
member("enum of definitions", Kinds.PLAIN, lambda v: (v is Kinds.PLAIN, v.value is Plain, Kinds.MISSING.value is MISSING))
