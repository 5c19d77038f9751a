"""Building the bodies of definitions where they arrive, without running the user's code.

A class is made bare, then gets its dictionary as the driver has it. So its methods may refer to it, and neither a metaclass
that arrived nor the `__init_subclass__` of a base that did runs a second time. A definition that is known already stays as
it is.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import linecache
import marshal
import sys
import threading
import types
from types import CellType, FunctionType, ModuleType

from flame_fast.kernels.runtime.serialization import by_file
from flame_fast.kernels.runtime.serialization.definitions import (
    can_be_imported,
    current_namespace,
    definitions,
    is_importable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.runtime.serialization.by_file import FileModule
    from flame_fast.kernels.runtime.serialization.definitions import Namespace


def can_be_imported_by_name(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and can_be_imported(module)


class _Building(threading.local):
    """State of the load that this thread is in: where it puts things, and the definitions made so far."""

    namespace: Namespace | None = None
    modules: Namespace | None = None  # whose modules hold the globals
    fresh: dict[int, Any] | None = None  # made just now, their state is still to come
    done: dict[int, Any] | None = None  # their state has come
    learnt: list[bytes] | None = None
    brought: list[bytes] | None = None  # identities learnt in `learning`


_building = _Building()


class building_in:
    """Context in which a body is built; if that fails, it forgets the definitions learnt.

    Parameters
    ----------
    namespace : Namespace
        The namespace in which definitions are looked up and kept.
    modules : Namespace
        The namespace whose modules hold functions' globals.
    """

    def __init__(self, namespace: Namespace, modules: Namespace) -> None:
        self._parts: tuple[Namespace, Namespace, dict[int, Any], dict[int, Any], list[bytes]] = (
            namespace,
            modules,
            {},
            {},
            [],
        )

    def __enter__(self) -> None:
        self._before = (_building.namespace, _building.modules, _building.fresh, _building.done, _building.learnt)
        _building.namespace, _building.modules, _building.fresh, _building.done, _building.learnt = self._parts

    def __exit__(self, kind: object, error: object, frames: object) -> None:
        namespace, _, _, _, learnt = self._parts
        _building.namespace, _building.modules, _building.fresh, _building.done, _building.learnt = self._before
        if error is not None:
            for identity in learnt:
                namespace.forget(identity)


class learning:
    """Context that returns the identities which the loads in it have brought."""

    def __enter__(self) -> list[bytes]:
        self._before, _building.brought = _building.brought, []
        return _building.brought

    def __exit__(self, *error: object) -> None:
        _building.brought = self._before


def module_named(name: str) -> ModuleType:
    """Return this namespace's module of a name that cannot be imported."""
    return _modules().module(name)


def make_module(identity: bytes, name: str) -> ModuleType:
    known = _known(identity)
    return _learn(identity, module_named(name)) if known is None else known  # type: ignore[no-any-return]


def complete_module(module: ModuleType, state: tuple[dict[str, Any], dict[str, str]]) -> None:
    if not _is_fresh(module):
        return
    content, unavailable = state
    for name, value in content.items():
        vars(module).setdefault(name, value)
    _modules().unavailable.update(unavailable)


def _known(identity: bytes | None) -> Any:
    if identity is None or _building.namespace is None:
        return None
    return _building.namespace.find(identity, own=False)


def _learn(identity: bytes | None, obj: Any) -> Any:
    if _building.fresh is not None:
        _building.fresh[id(obj)] = obj
    if identity is not None and _building.namespace is not None and _building.learnt is not None:
        _building.namespace.learn(identity, obj)
        _building.learnt.append(identity)
        if _building.brought is not None:
            _building.brought.append(identity)
        definitions.adopt(obj, identity)
    return obj


def _is_fresh(obj: Any) -> bool:
    """Tell whether an object still gets its state: not if it was known before. True once."""
    if _building.fresh is None:
        return True
    if _building.fresh.pop(id(obj), None) is None:
        return False
    if _building.done is not None:
        _building.done[id(obj)] = obj
    return True


def _is_made_now(obj: Any) -> bool:
    """Tell whether this load has made an object: only then do the parts put off belong to it."""
    return _building.done is None or id(obj) in _building.done


def first(value: Any, rest: Any) -> Any:
    return value


def fill_global(function: FunctionType, name: str, value: Any) -> None:
    if _is_made_now(function):
        function.__globals__.setdefault(name, value)


def fill_module(module: ModuleType, name: str, value: Any) -> None:
    if _is_made_now(module):
        vars(module).setdefault(name, value)


def fill_class(cls: Any, name: str, value: Any) -> None:
    if _is_made_now(cls):
        type.__setattr__(cls, name, value)


def fill_member(member: Any, name: str, value: Any) -> None:
    if _is_made_now(type(member)):
        member.__dict__[name] = value


def fill_cell(cell: CellType, name: str, content: Any) -> None:
    """Set a cell's content.

    The cell is always a new one, or that of a known function which has dropped it.
    """
    cell.cell_contents = content


def _modules() -> Namespace:
    return _building.modules or current_namespace()


def from_files(files: tuple[FileModule, ...], module: str, qualified: str) -> Any:
    """Return an object by the names of its module and in it; import modules by their files first. No name: the module."""
    found: Any = by_file.import_named(files, module)
    for name in qualified.split(".") if qualified else ():
        found = getattr(found, name)
    return found


def module_globals(name: str, files: tuple[FileModule, ...] = ()) -> dict[str, Any]:
    """Return the globals of a module: the imported one, or this namespace's own of that name."""
    if files:
        return vars(by_file.import_named(files, name))
    if can_be_imported_by_name(name) or name not in _modules().modules and _is_elsewhere(name):
        return vars(importlib.import_module(name))
    return vars(_modules().module(name))


def _is_elsewhere(name: str) -> bool:
    """Tell whether a module that is not loaded yet can be imported here."""
    if name == "__main__" or name in sys.modules:
        return False
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


class ModuleAtUse:
    """A module that is imported when an attribute of it is looked up: rewritten code needs its tool only to report."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return (ModuleAtUse, (self._name,))

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def loose_globals(name: str) -> dict[str, Any]:
    return {"__builtins__": builtins, "__name__": name}


def make_function(
    identity: bytes | None, code: Any, namespace: dict[str, Any], name: str, cells: tuple[CellType, ...]
) -> FunctionType:
    known = _known(identity)
    if known is not None:
        return known  # type: ignore[no-any-return]
    code = marshal.loads(code) if isinstance(code, bytes) else code
    return _learn(identity, FunctionType(code, namespace, name, None, cells))  # type: ignore[no-any-return]


def complete_function(function: FunctionType, state: dict[str, Any]) -> None:
    if not _is_fresh(function):
        return
    for name in state["submodules"]:
        importlib.import_module(name)
    for name in ("__module__", "__qualname__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__"):
        setattr(function, name, state[name])
    if state["__type_params__"]:
        function.__type_params__ = state["__type_params__"]  # type: ignore[attr-defined]
    function.__dict__.update(state["__dict__"])
    for cell, content in zip(function.__closure__ or (), state["cells"], strict=True):
        if content:
            cell.cell_contents = content[0]
    for name, value in state["globals"].items():
        function.__globals__.setdefault(name, value)
    _modules().unavailable.update(state["unavailable"])


def new_cell() -> CellType:
    return CellType()


def make_class(identity: bytes, meta: Any, name: str, bases: tuple[type, ...], basic: dict[str, Any]) -> Any:
    known = _known(identity)
    return _learn(identity, _bare_class(meta, name, bases, basic)) if known is None else known


def _bare_class(meta: Any, name: str, bases: tuple[type, ...], basic: dict[str, Any]) -> Any:
    """Return a class without its dictionary.

    A metaclass that can be imported makes it; for one that arrived, the nearest base that can be imported does.
    """
    with _without_hooks(bases, everybody=False):
        if is_importable(meta):
            try:
                return types.new_class(name, bases, {"metaclass": meta}, lambda namespace: namespace.update(basic))
            except Exception:  # a hook that wants arguments, or the attributes: they come later
                pass
    maker = next(base for base in meta.__mro__ if is_importable(base) and base is not meta)
    with _without_hooks(bases, everybody=True):
        return maker.__new__(meta, name, bases, dict(basic))


class _without_hooks:
    """Context that switches `__init_subclass__` off: its effect on the driver's class is part of the body that arrives.

    The hook of an importable base runs, unless `everybody`: it registers the class in that base's module.
    """

    def __init__(self, bases: tuple[type, ...], everybody: bool) -> None:
        line = {base: None for start in bases for base in start.__mro__}
        self._hooked = [
            base for base in line if "__init_subclass__" in vars(base) and (everybody or not is_importable(base))
        ]
        self._saved: list[tuple[type, Any]] = []

    def __enter__(self) -> None:
        for base in self._hooked:
            hook = vars(base)["__init_subclass__"]
            try:
                type.__setattr__(base, "__init_subclass__", classmethod(lambda cls, **options: None))
            except TypeError:  # a compiled class
                continue
            self._saved.append((base, hook))

    def __exit__(self, *error: object) -> None:
        for base, hook in self._saved:
            type.__setattr__(base, "__init_subclass__", hook)


def complete_class(cls: Any, state: tuple[dict[str, Any], list[type] | None, tuple[str, dict[str, Any]]]) -> None:
    if not _is_fresh(cls):
        return
    attributes, registry, extra = state
    _set_attributes(cls, attributes)
    for registered in registry or ():
        cls.register(registered)
    _fill_globals(*extra)


def _set_attributes(cls: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)


def _fill_globals(module: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        vars(_modules().module(module)).setdefault(name, value)


def make_enum(
    identity: bytes,
    meta: Any,
    name: str,
    bases: tuple[type, ...],
    basic: dict[str, Any],
    data_type: Any,
    members: list[tuple[str, tuple[Any, ...]]],
    aliases: dict[str, str],
) -> Any:
    known = _known(identity)
    if known is not None:
        return known
    with _without_hooks(bases, everybody=True):
        cls: Any = type.__new__(meta, name, bases, dict(basic))
    made = {name: data_type.__new__(cls, *args) for name, args in members}
    type.__setattr__(cls, "_member_map_", {alias: made[name] for alias, name in aliases.items()})
    return _learn(identity, cls)


def complete_enum(
    cls: Any, state: tuple[dict[str, Any], list[tuple[str, dict[str, Any]]], tuple[str, dict[str, Any]]]
) -> None:
    if not _is_fresh(cls):
        return
    attributes, members, extra = state
    for name, values in members:
        member = cls._member_map_[name]
        member.__objclass__ = cls
        member.__dict__.update(values)
    _set_attributes(cls, attributes)
    _fill_globals(*extra)


def make_struct(
    identity: bytes,
    meta: Any,
    name: str,
    bases: tuple[type, ...],
    basic: dict[str, Any],
    fields: dict[str, Any],
    factories: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    known = _known(identity)
    if known is not None:
        return known
    import msgspec

    made = {name: msgspec.field(default_factory=factory) for name, factory in factories.items()}
    with _without_hooks(bases, everybody=True):
        return _learn(identity, meta(name, bases, {**basic, **fields, **made}, **options))


def make_cached(identity: bytes, function: Any, parameters: dict[str, Any]) -> Any:
    known = _known(identity)
    return _learn(identity, functools.lru_cache(**parameters)(function)) if known is None else known


def make_named(identity: bytes, module: str, name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    known = _known(identity)
    if known is not None:
        return known
    made = make(*args)
    if hasattr(made, "__module__") and type(made).__module__ == "typing":
        made.__module__ = module
    if name:
        vars(_modules().module(module)).setdefault(name, made)
    return _learn(identity, made)


def complete_named(obj: Any, state: Any) -> None:
    if not _is_fresh(obj) or state is None:
        return
    plain, slots = state if isinstance(state, tuple) else (state, {})
    for name, value in {**(plain or {}), **slots}.items():
        object.__setattr__(obj, name, value)


def new(cls: Any) -> Any:
    return cls.__new__(cls)


def call(function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return function(*args, **keywords)


def open_sources(sources: dict[str, list[str]]) -> None:
    """Make the lines of a source that is no file known to tracebacks and `inspect`."""
    for filename, lines in sources.items():
        linecache.cache.setdefault(filename, (sum(map(len, lines)), None, lines, filename))


def enum_member(cls: Any, name: str) -> Any:
    return cls._member_map_[name]
