"""Introspection of execution objects: the kind of service one makes, its public methods, its name."""

from __future__ import annotations

import functools
import sys
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)

from flame_fast.engine.spec import CLASS, FUNCTION, INSTANCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What `inspect.isroutine` accepts, without importing inspect.
ROUTINES = (
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    MethodDescriptorType,
    WrapperDescriptorType,
    MethodWrapperType,
    ClassMethodDescriptorType,
)

#: Names of the service itself, whatever the user's object has.
RESERVED = frozenset({"close", "map", "starmap", "options", "call", "name", "session_id"})


def kind_of(obj: Any) -> str:
    """Return `"function"`, `"class"` or `"instance"`."""
    if isinstance(obj, type):
        return CLASS
    if isinstance(obj, (*ROUTINES, functools.partial)) or _is_numeric_function(obj) or _has_its_own_name(obj):
        return FUNCTION
    return INSTANCE


def _is_numeric_function(obj: Any) -> bool:
    """Whether it is a NumPy ufunc or a Numba dispatcher; loads neither library."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, getattr(numpy, "ufunc", ())):
        return True
    dispatcher = sys.modules.get("numba.core.dispatcher")
    return dispatcher is not None and isinstance(obj, getattr(dispatcher, "Dispatcher", ()))


def _has_its_own_name(obj: Any) -> bool:
    """Whether its module has a callable under the callable's own qualified name: a cached or wrapped function."""
    if not callable(obj) or not isinstance(getattr(obj, "__qualname__", None), str):
        return False
    found: Any = sys.modules.get(getattr(obj, "__module__", None) or "")
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def method_names(obj: Any) -> tuple[str, ...]:
    """Return the public methods of a class or instance, `""` for a callable instance itself. Evaluates no property."""
    is_class = isinstance(obj, type)
    names: dict[str, bool] = {}
    for base in reversed((obj if is_class else type(obj)).__mro__):
        for name, value in vars(base).items():
            names[name] = _is_method(value)
    if not is_class:
        names.update({name: callable(value) for name, value in getattr(obj, "__dict__", {}).items()})
    public = [name for name, is_method in names.items() if is_method and not name.startswith("_")]
    if not is_class and callable(obj):
        public.append("")
    return tuple(sorted(public))


def _is_method(value: Any) -> bool:
    if isinstance(value, (staticmethod, classmethod, functools.partialmethod, functools.singledispatchmethod)):
        return True
    return callable(value) and not isinstance(value, (type, property))


def name_of(obj: Any) -> str:
    """Return an execution object's name, for messages."""
    if isinstance(obj, functools.partial):
        return f"partial({name_of(obj.func)})"
    return str(getattr(obj, "__qualname__", None) or type(obj).__qualname__)
