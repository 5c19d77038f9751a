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

from flame_fast.engine.spec import CLASS, FUNCTION, INSTANCE, Construction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
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

#: `inspect.CO_VARARGS`: a function takes any number of positional arguments.
VARIADIC = 0x04

#: Names of the service itself, whatever the user's object has.
RESERVED = frozenset({"close", "map", "starmap", "options", "call", "name", "session_id"})

#: Most methods that a message lists.
_LISTED = 20


def kind_of(obj: Any) -> str:
    """Return `"function"`, `"class"` or `"instance"`."""
    if isinstance(obj, Construction):
        return INSTANCE
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
    if isinstance(obj, Construction):
        is_callable = any("__call__" in vars(base) for base in obj.cls.__mro__)
        return ("",) * is_callable + method_names(obj.cls)
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
    if type(value).__module__.startswith("numba.core.types"):  # what a class of Numba's is to its compiler
        return False
    return callable(value) and not isinstance(value, (type, property))


def attribute_names(obj: Any) -> tuple[str, ...]:
    """Return the public names that an instance has beside its class's and that are no methods; evaluates nothing."""
    if kind_of(obj) != INSTANCE:
        return ()
    return tuple(
        name
        for name, value in getattr(obj, "__dict__", {}).items()
        if isinstance(name, str) and not name.startswith("_") and not callable(value)
    )


def absence_of(name: str, kind: str, methods: Sequence[str], described: Any, attributes: Sequence[str]) -> str:
    """Return why a service has no method of a name, and what it has, to follow "no public method"; may be empty.

    Parameters
    ----------
    name : str
        What was asked for.
    kind : str
        The service's.
    methods : sequence of str
        Those that it has, `""` for the object's own call.
    described : object, optional
        As of `described_by`.
    attributes : sequence of str
        As of `attribute_names`.
    """
    if name.startswith("__"):  # what libraries ask every object for
        return ""
    if kind == FUNCTION:
        return ": it stands for the function itself; call it, or its map, starmap, options or close"
    public = [method for method in methods if method]
    reason = _why_absent(name, described, attributes)
    if not reason:
        import difflib

        near = difflib.get_close_matches(name, public, 1)
        reason = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(public[:_LISTED]) or "none"
    more = f" and {len(public) - _LISTED} more" if len(public) > _LISTED else ""
    return f"{reason}; its methods: {listed}{more}"


def _why_absent(name: str, described: Any, attributes: Sequence[str]) -> str:
    found = static_attribute(described, name) if isinstance(described, type) else None
    if name.startswith("_"):
        return ": a name with an underscore in front is private" if found is not None else ""
    if isinstance(found, (property, functools.cached_property)):
        return ": it is a property, and the object is in a worker; give its class a method that returns it"
    if found is not None or name in attributes:
        return ": it is an attribute, and the object is in a worker; give its class a method that returns it"
    return ""


def described_by(obj: Any) -> Any:
    """Return what tells of an execution object's calls: a function itself, or the class of what has the methods."""
    if isinstance(obj, Construction):
        return obj.cls
    return type(obj) if kind_of(obj) == INSTANCE else obj


def arity_of(function: Any) -> tuple[int, int]:
    """Return the fewest and the most positional arguments that a function takes.

    What cannot be told takes any number. One that needs arguments by name takes none without them.
    """
    if type(function) is not FunctionType:
        return 0, sys.maxsize
    code, by_name = function.__code__, function.__kwdefaults__ or {}
    fewest = code.co_argcount - len(function.__defaults__ or ())
    if code.co_kwonlyargcount > len(by_name):
        fewest = sys.maxsize
    return fewest, sys.maxsize if code.co_flags & VARIADIC else code.co_argcount


def static_attribute(kind: type, name: str) -> Any:
    """Return a class's attribute as it stands in the class, without calling what it is; None if there is none."""
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def signature_of(obj: Any, method: str = "") -> Any:
    """Return a function's signature, or a method's without its object.

    Raises
    ------
    AttributeError
        It has none that can be told.
    """
    import inspect

    function = obj if not method else static_attribute(obj, method)
    try:
        if not method or isinstance(function, (staticmethod, classmethod)):
            return inspect.signature(getattr(obj, method) if method else function)
        signature = inspect.signature(function)
        return signature.replace(parameters=list(signature.parameters.values())[1:])
    except (TypeError, ValueError) as error:
        raise AttributeError(f"{name_of(obj)!r} has no signature: {error}") from None


def refuse_arguments(signature: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError where arguments do not fit a signature.

    Parameters
    ----------
    signature : inspect.Signature
    name : str
        What is called.
    args : tuple
    kwargs : dict
    """
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}{signature}: {error}") from None


def name_of(obj: Any) -> str:
    """Return an execution object's name, for messages."""
    if isinstance(obj, functools.partial):
        return f"partial({name_of(obj.func)})"
    if isinstance(obj, Construction):
        return name_of(obj.cls)
    return str(getattr(obj, "__qualname__", None) or type(obj).__qualname__)
