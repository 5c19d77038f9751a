"""Records: constructors, equality, repr, hash, immutability and pickling, of the base and of the classes made with it."""

from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime

import pytest

from flame_fast import Application, ApplicationAttributes, FlamePackage, ResourceRequirement
from flame_fast._records import fields, frozen, record
from flame_fast.application.registry import ApplicationSchema, ApplicationState, Shim
from flame_fast.calls.statistics import Statistics
from flame_fast.config import FlameRunnerConfig


@record
class Point:
    """Has a field without a default, and one with."""

    x: int
    y: int = 2


@record
class Checked:
    """Refuses what is negative."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size: expected at least 0")


@frozen
class Fixed:
    """Cannot be changed."""

    x: int
    y: object = None


class Derived(Point):
    """As a user would derive from one."""


NOW = datetime(2020, 1, 2, tzinfo=UTC)
COUNTERS = {name: number for number, name in enumerate(fields(Statistics))}


def test_a_record_is_made_by_position_or_name() -> None:
    for point in (Point(1), Point(1, 2), Point(x=1), Point(1, y=2), Point(y=2, x=1)):
        assert (point.x, point.y) == (1, 2)
    assert fields(Point) == ("x", "y")
    assert Point.__doc__ == "Has a field without a default, and one with."


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
        ((1,), {"z": 1}, "got an unexpected keyword argument 'z'"),
        ((), {"z": 1}, "missing a required argument: 'x'"),
    ],
)
def test_other_arguments_are_a_type_error(arguments: tuple[int, ...], named: dict[str, int], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Point(*arguments, **named)


def test_records_have_slots() -> None:
    point = Point(1)
    with pytest.raises(AttributeError):
        point.z = 3
    with pytest.raises(AttributeError):
        Point.y  # noqa: B018  a slot's descriptor is no default
        point.__dict__  # noqa: B018
    Derived(1).z = 3


def test_records_compare_by_value() -> None:
    assert Point(1) == Point(1, 2) != Point(1, 3)
    assert Point(1) != (1, 2) and Point(1) != Fixed(1, 2)
    assert Point(1) == Derived(1) and Derived(1) == Point(1) and Derived(1) != Derived(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(1))


def test_a_record_is_checked_after_it_is_made() -> None:
    assert Checked(0).size == 0
    with pytest.raises(ValueError, match="size: expected at least 0"):
        Checked(-1)


def test_a_frozen_record_cannot_be_changed() -> None:
    fixed = Fixed(1, "a")
    for change in (lambda: setattr(fixed, "x", 2), lambda: delattr(fixed, "x"), lambda: setattr(fixed, "z", 2)):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()
    assert fixed == Fixed(1, "a")
    assert len({fixed, Fixed(1, "a"), Fixed(2, "a")}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Fixed(1, []))


RECORDS = [
    (Point(1), "Point(x=1, y=2)"),
    (Fixed(1), "Fixed(x=1, y=None)"),
    (
        FlamePackage("file:///a", ["b"]),
        "FlamePackage(storage='file:///a', excludes=('b',), limit=524288000, largest_file=10485760, enabled=True)",
    ),
    (
        FlamePackage(excludes=()),
        "FlamePackage(storage=None, excludes=(), limit=524288000, largest_file=10485760, enabled=True)",
    ),
    (FlameRunnerConfig(), "FlameRunnerConfig(template='flmrun')"),
    (ResourceRequirement(2, gpu=1), "ResourceRequirement(cpu=2, memory=0, gpu=1)"),
    (ApplicationSchema(output="o"), "ApplicationSchema(output='o')"),
    (ApplicationAttributes(Shim.WASM, labels=["a"]), "ApplicationAttributes(shim=<Shim.WASM: 1>, labels=['a'])"),
    (
        Application("a", ApplicationState.ENABLED, NOW, image="i"),
        f"Application(name='a', state=<ApplicationState.ENABLED: 0>, creation_time={NOW!r}, image='i')",
    ),
    (
        Statistics(**{**COUNTERS, "bytes": 1_000_000}),
        "Statistics(bytes=1,000,000, cached_bytes=1, copied_bytes=2, definition_bytes=3, definitions=4, done=5, failed=6, "
        "limit_bytes=7, objects=8, peak_bytes=9, queued=10, running=11, shared_bytes=12, waiting=13)",
    ),
]


@pytest.mark.parametrize(("value", "shown"), RECORDS, ids=lambda value: type(value).__name__)
def test_records_show_themselves_and_can_be_pickled_and_copied(value: object, shown: str) -> None:
    assert repr(value) == shown
    again = [copy.copy(value), copy.deepcopy(value)]
    again += [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for each in again:
        assert type(each) is type(value)
        assert each == value


ATTRIBUTES = (
    "shim: 'Shim | int | None' = None, image: 'str | None' = None, description: 'str | None' = None, "
    "labels: 'list[str] | None' = None, command: 'str | None' = None, arguments: 'list[str] | None' = None, "
    "environments: 'dict[str, str] | None' = None, working_directory: 'str | None' = None, "
    "max_instances: 'int | None' = None, delay_release: 'int | None' = None, schema: 'ApplicationSchema | None' = None, "
    "url: 'str | None' = None, installer: 'str | None' = None"
)


@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        (Derived, "x: 'int', y: 'int' = 2"),
        (ResourceRequirement, "cpu: 'int' = 1, memory: 'int' = 0, gpu: 'int' = 0"),
        (
            FlamePackage,
            "storage: 'str | None' = None, excludes: 'Iterable[str]' = ('.venv', '__pycache__', '.gitignore', '*.pyc'), "
            "limit: 'int' = 524288000, largest_file: 'int' = 10485760, enabled: 'bool' = True",
        ),
        (FlameRunnerConfig, "template: 'str' = 'flmrun'"),
        (ApplicationAttributes, ATTRIBUTES),
        (Application, "name: 'str', state: 'ApplicationState', creation_time: 'datetime', **attributes: 'Any'"),
    ],
)
def test_signatures_are_told(cls: type, parameters: str) -> None:
    assert str(inspect.signature(cls)) == f"({parameters}) -> 'None'"


def test_applications_and_attributes_are_told_apart() -> None:
    application = Application("a", ApplicationState.ENABLED, NOW, image="i")
    assert application.attributes() == ApplicationAttributes(image="i")
    assert application != application.attributes() and application.attributes() != application
    assert application != Application("b", ApplicationState.ENABLED, NOW, image="i")
    with pytest.raises(TypeError, match="unexpected keyword argument 'imag'"):
        Application("a", ApplicationState.ENABLED, NOW, imag="i")


def test_requirements_are_hashed_by_value() -> None:
    assert len({ResourceRequirement(), ResourceRequirement(1), ResourceRequirement(2)}) == 2
    for unhashable in (FlamePackage(), FlameRunnerConfig(), ApplicationAttributes(), ApplicationSchema()):
        with pytest.raises(TypeError, match="unhashable"):
            hash(unhashable)
