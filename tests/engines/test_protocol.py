"""The engine protocols and what implements them: task hosts and the suite's own engine too, which no type checker sees."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from plain_engine import PlainEngine, PlainFuture, PlainRef, Selector

from flame_fast import ObjectFuture, ObjectRef
from flame_fast.engine import protocol
from flame_fast.engine.inline import InlineEngine
from flame_fast.engine.local import LocalEngine
from flame_fast.engine.spec import EngineOptions
from flame_fast.engine.task_host import Host

NATIVE = Path(__file__).parents[2] / "kernels" / "runtime"


def members(kind):
    """Names that a protocol and its bases declare."""
    found = {}
    for base in reversed(kind.__mro__):
        if getattr(base, "_is_protocol", False):
            found.update({name: value for name, value in vars(base).items() if not name.startswith("_")})
            found.update(dict.fromkeys(vars(base).get("__annotations__", ())))
    return found


def check(own, of):
    """Every member is there; every method in Python has the parameters declared, native ones have no signature."""
    for name, declared in members(of).items():
        found = getattr(own, name)
        if inspect.isfunction(getattr(found, "__func__", found)):
            parameters = list(inspect.signature(getattr(found, "__func__", found)).parameters)
            assert parameters == list(inspect.signature(declared).parameters), name


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        (PlainFuture, protocol.Future),
        (PlainRef, protocol.Ref),
        (ObjectFuture, protocol.Future),
        (ObjectRef, protocol.Ref),
        (Selector, protocol.Selector),
    ],
)
def test_every_method_is_there_with_its_parameters(kind, of):
    check(kind, of)


def test_every_member_of_a_task_host_is_there():
    check(Host(PlainEngine(EngineOptions("host", 1, 1, 1 << 26))), protocol.TaskHost)


@pytest.mark.parametrize("kind", [LocalEngine, InlineEngine, PlainEngine])
def test_every_member_of_an_engine_is_there(project, kind):
    engine = kind(EngineOptions("attributes", 2, 3, 1 << 26))
    try:
        check(engine, protocol.Engine)
        assert (engine.name, engine.workers, engine.cpus, engine.is_foreign) == ("attributes", 2, 3, False)
    finally:
        assert engine.close("was closed") == 0
        assert engine.close("was closed") == 0
        engine.finish()
        engine.finish()


def test_a_task_host_is_what_the_native_server_calls():
    native = "\n".join(path.read_text() for path in NATIVE.rglob("*.p*") if path.suffix in (".pxi", ".pyx", ".pxd"))
    assert set(re.findall(r"\bhost\.(\w+)", native)) == set(members(protocol.TaskHost))


def test_a_future_overrides_every_native_method():
    """The native ones read a slot of a segment, and a future without a segment has none."""
    inherited = {"__new__", "__reduce__", "__reduce_cython__", "__setstate_cython__", "__setstate__", "__pyx_vtable__"}
    for kind, native in ((PlainFuture, ObjectFuture), (PlainRef, ObjectRef)):
        for base in native.__mro__[:-1]:
            own = {name for name, value in vars(base).items() if callable(value)} - inherited
            assert all(getattr(kind, name) is not getattr(native, name) for name in own), (kind, own)
