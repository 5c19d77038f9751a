"""Construction: the arguments with which each worker makes its instance of a class service."""

from __future__ import annotations

from functools import partial

from flame_fast.calls.introspection import kind_of, name_of
from flame_fast.engine.spec import CLASS, FUNCTION
from flame_fast.kernels.runtime import ObjectFuture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def with_arguments(obj: Any, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any] | None) -> Any:
    """Return what workers load for an execution object: itself, or a class together with its arguments.

    Raises
    ------
    ValueError
        Arguments for what is no class, or not as a tuple and a dict.
    TypeError
        The class cannot be called with them, as far as its signature tells.
    """
    if not isinstance(args, (tuple, list)):
        raise ValueError(f"args: expected a tuple, got {args!r}; a single argument is written args=(argument,)")
    if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)):
        raise ValueError(f"kwargs: expected a dict with names as keys, got {kwargs!r}")
    kwargs = kwargs or {}
    if kind_of(obj) == CLASS:
        _check_call(obj, args, kwargs)
    elif args or kwargs:
        raise ValueError(f"args, kwargs: only classes take them, each worker makes its instance with them; {_instead(obj)}")
    for value in (*args, *kwargs.values()):
        if isinstance(value, ObjectFuture):
            value.wait()  # a call that has failed raises its own error; the pickler would call it unpicklable
    return partial(obj, *args, **kwargs) if args or kwargs else obj


def _instead(obj: Any) -> str:
    """Return what to write in place of arguments for a function or an instance."""
    if kind_of(obj) == FUNCTION:
        return f"{name_of(obj)!r} is a function: bind them with functools.partial, or give them to its calls"
    return f"an instance of {name_of(obj)!r} is made already: give the class in its place"


def _check_call(cls: Any, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any]) -> None:
    if not (args or kwargs or _has_parameters(cls)) or hasattr(cls, "__signature__"):  # pydantic's takes other names, too
        return
    import inspect

    try:
        # Not of what decorators wrap: they may give arguments of their own.
        signature = inspect.signature(cls, follow_wrapped=False)
    except (TypeError, ValueError):  # compiled, without one
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"class {name_of(cls)}{signature}: {error}; each worker makes an instance with what service() gets as "
            "args=(...) and kwargs={...}"
        ) from None


def _has_parameters(cls: Any) -> bool:
    """Tell whether `__init__` may need arguments, without inspect, whose import takes longer than to add a service."""
    code = getattr(cls.__init__, "__code__", None)
    return code is not None and code.co_argcount + code.co_kwonlyargcount > 1


__all__ = ["with_arguments"]
