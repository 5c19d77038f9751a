"""Records: classes of named fields in slots, described by their annotations, as `dataclasses` makes them.

Guarantees
    Importing a record loads neither `dataclasses` nor `inspect`, and compiles nothing. Type checkers read a record as they
    read a dataclass.
Rejected
    `dataclasses`: it loads `inspect` and compiles each class's methods at every start. A metaclass: a class that a user
    derives from a public record would have it too, and lose its ``__dict__``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from inspect import Signature
    from typing import Any, NoReturn, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**options: bool) -> Any:
        return lambda decorator: decorator


@dataclass_transform()
def record(cls: type[T]) -> type[T]:
    """Make a class a record: slots, constructor, equality and repr from its annotations.

    A method that the class writes itself stays. The made constructor ends with `__post_init__`, if there is one. The class
    is made anew, so its methods must not use `super()` without arguments. A record has no hash.

    Parameters
    ----------
    cls : type
        Its annotations are the fields, in this order; a value beside one is the field's default.
    """
    return _remade(cls, __hash__=None)


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Make a class an immutable record, otherwise as `record` does; its hash is that of its fields."""
    return _remade(cls, __hash__=_hash, __setattr__=_refuse, __delattr__=_refuse, __reduce__=_reduce)


def fields(cls: type) -> tuple[str, ...]:
    """Return the names of a record's fields."""
    names: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
    return names


def _remade(cls: type[T], **methods: Any) -> type[T]:
    own = dict(vars(cls))
    for name in ("__dict__", "__weakref__"):  # a class with slots has neither
        own.pop(name, None)
    annotations = own["__annotations__"]
    defaults = {name: own.pop(name) for name in annotations if name in own}
    names = tuple(annotations)
    constructor = _Constructor(annotations, defaults, hasattr(cls, "__post_init__"))
    made = {"__init__": constructor.function, "__signature__": constructor, "__eq__": _equal, "__repr__": _repr, **methods}
    made |= own
    made |= {"__slots__": names, "_fields": names, "__qualname__": cls.__qualname__}
    make: Callable[..., type[T]] = type(cls)
    return make(cls.__name__, cls.__bases__, made)


class _Constructor:
    """Makes a record's `__init__`; as the class's `__signature__`, tells `inspect` of it when asked."""

    def __init__(self, annotations: dict[str, str], defaults: dict[str, Any], has_post_init: bool) -> None:
        self._annotations = annotations
        self._defaults = defaults
        self.function = self._make(has_post_init)

    def _make(self, has_post_init: bool) -> Callable[..., None]:
        names, defaults = tuple(self._annotations), self._defaults
        known = frozenset(names)

        def __init__(self: Any, *arguments: object, **named: object) -> None:
            given = dict(zip(names, arguments, strict=False))
            values = {**defaults, **given, **named}
            if len(arguments) > len(names) or given.keys() & named.keys() or values.keys() != known:
                constructor.signature().bind(*arguments, **named)  # raises the TypeError that says what is wrong
            for name in names:
                object.__setattr__(self, name, values[name])  # a frozen record refuses `setattr`
            if has_post_init:
                self.__post_init__()

        constructor = self
        return __init__

    def signature(self) -> Signature:
        """Return the constructor's signature, without `self`."""
        from inspect import Parameter, Signature

        def parameter(name: str, annotation: str) -> Parameter:
            default = self._defaults.get(name, Parameter.empty)
            return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)

        return Signature([parameter(*item) for item in self._annotations.items()], return_annotation="None")

    def __get__(self, instance: object, cls: type) -> Signature:
        if cls.__init__ is not self.function:  # type: ignore[misc]
            raise AttributeError("__signature__")  # that of the constructor which the class has written
        return self.signature()


# ---- what records have in common ----------------------------------------------------------------------------------------


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, field) for field in self._fields)


def _equal(self: Any, other: Any) -> Any:
    # An instance of a derived class without further fields is equal to one of the record's own.
    if not isinstance(other, type(self)) or other._fields != self._fields:
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    shown = (f"{field}={value!r}" for field, value in zip(self._fields, _values(self), strict=True))
    return f"{type(self).__name__}({', '.join(shown)})"


def _reduce(self: Any) -> tuple[type, tuple[Any, ...]]:
    return type(self), _values(self)  # setting the fields one by one, as pickle would, is refused


def _refuse(self: object, name: str, value: object = None) -> NoReturn:
    raise AttributeError(f"{type(self).__name__}.{name}: a record that cannot be changed")
