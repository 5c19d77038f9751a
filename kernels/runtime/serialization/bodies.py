"""Writing the bodies of definitions, each once: functions, classes, enums, named objects.

`building.py` builds what this module writes. Sources: cloudpickle's skeleton classes for the technique; CPython's
`enum.EnumType.__new__` for the parts of an enum's member.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import linecache
import marshal
import os
import sys
from types import CellType, CodeType, FunctionType, MemberDescriptorType, ModuleType

from flame_fast.kernels.runtime.serialization import building
from flame_fast.kernels.runtime.serialization.definitions import (
    ATOMS,
    can_be_imported,
    class_parts,
    definitions,
    files_of,
    function_parts,
    is_behaviour,
    is_importable,
    is_named,
    module_parts,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from flame_fast.kernels.runtime.serialization.definitions import Record

#: `Py_TPFLAGS_HEAPTYPE`: classes without it are compiled in, and nothing can make them again.
HEAP_TYPE = 1 << 9

ATOM_TYPES = frozenset(ATOMS)
GLOBAL_OPERATIONS = {"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"}

#: Attributes that every class gets when it is made; the rest of its dictionary travels.
MADE_WITH_CLASS = frozenset(
    {"__dict__", "__weakref__", "__module__", "__qualname__", "__slots__", "__slotnames__", "_abc_impl"}
)


# ---- names that a function uses --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def global_names(code: CodeType) -> tuple[str, ...]:
    """Return the names of the globals that a function's code, and the code inside of it, reads or writes."""
    import dis  # a process that only reads bodies does not need it

    found: dict[str, None] = {}
    todo = [code]
    while todo:
        current = todo.pop()
        todo += [constant for constant in current.co_consts if isinstance(constant, CodeType)]
        for instruction in dis.get_instructions(current):
            if instruction.opname in GLOBAL_OPERATIONS:
                found[instruction.argval] = None
    return tuple(found)


def _tools_names(code: CodeType) -> list[str]:
    """Return the names of globals that no source text can have.

    A tool has put them there that rewrites code, as pytest does with assertions. A worker's import of the module lacks them.
    """
    return [name for name in global_names(code) if not name.isidentifier()]


def _annotated_names(annotations: dict[str, Any]) -> Iterator[str]:
    """Return the names that annotations written as text refer to."""
    for text in annotations.values():
        if isinstance(text, str):
            try:
                yield from compile(text, "<annotation>", "eval").co_names
            except (SyntaxError, ValueError):
                continue


def _documented_names(text: Any, namespace: dict[str, Any]) -> list[str]:
    """Return the names that examples in a docstring use: doctest looks for them."""
    if not isinstance(text, str) or ">>>" not in text:
        return []
    import re

    examples = [line for line in text.splitlines() if line.lstrip().startswith((">>>", "..."))]
    return [name for name in re.findall(r"[^\W\d]\w*", "\n".join(examples)) if name in namespace]


def _annotations(obj: Any) -> dict[str, Any]:
    try:
        found = obj.__annotations__ if isinstance(obj, FunctionType) else vars(obj).get("__annotations__")
    except Exception:  # evaluated late, and not available
        return {}
    return found if isinstance(found, dict) else {}


def _submodules(values: Any, code: CodeType) -> list[str]:
    """Return the submodules imported on their own and reached as attributes, as in `import scipy.special`.

    The function names them by attributes: `scipy.special.erf`.
    """
    names = set(code.co_names)
    found = []
    for value in values:
        if isinstance(value, ModuleType) and hasattr(value, "__path__"):
            prefix = value.__name__ + "."
            for name in list(sys.modules):
                if name.startswith(prefix) and names.issuperset(name[len(prefix) :].split(".")):
                    found.append(name)
    return found


def parts_of(obj: Any) -> Any:
    """Return the parts of a definition that identify its version."""
    if isinstance(obj, FunctionType):
        return function_parts(obj, global_names(obj.__code__))
    if isinstance(obj, type):
        return class_parts(obj)
    return module_parts(obj) if isinstance(obj, ModuleType) else ()


def _leads_to(function: FunctionType) -> list[Any]:
    """Return the functions and classes in a function's globals and cells that cannot be imported."""
    values = [function.__globals__.get(name) for name in global_names(function.__code__)]
    values += map(_cell_content, function.__closure__ or ())
    return [value for value in values if isinstance(value, (FunctionType, type)) and not is_importable(value)]


def follow_changes(function: FunctionType) -> None:
    """Make a new version of a function, and of functions that it calls, if a definition further on has changed."""
    found: dict[int, tuple[Record, list[Any]]] = {}
    todo: list[Any] = [function]
    while todo:
        obj = todo.pop()
        if id(obj) not in found and (isinstance(obj, FunctionType) or obj.__flags__ & HEAP_TYPE):
            further = _leads_to(obj) if isinstance(obj, FunctionType) else []
            found[id(obj)] = definitions.record_of(obj, parts_of), further
            todo += further
    reached = _reached(id(function), found)
    if found[id(function)][0].reached == reached:
        return
    for key, (record, further) in found.items():
        if further and record.parts is not None:
            reached = _reached(key, found)
            if record.reached is not None and record.reached != reached:
                definitions.renew(record)
            record.reached = reached
    found[id(function)][0].reached = _reached(id(function), found)


def _reached(key: int, found: dict[int, tuple[Record, list[Any]]]) -> frozenset[Any]:
    keys: set[int] = set()
    todo = [key]
    while todo:
        key = todo.pop()
        if key in found and key not in keys:
            keys.add(key)
            todo += map(id, found[key][1])
    return frozenset((found[key][0].identities[0], found[key][0].changes) for key in keys)


# ---- writing ---------------------------------------------------------------------------------------------------------


#: Definitions of one body that are written where the pickler meets them first.
NESTED = 50


class Body:
    """State gathered while one body is written."""

    def __init__(self, unavailable: dict[tuple[int, str], str] | None = None) -> None:
        self.names: dict[tuple[str, str], bytes] = {}  # of the definitions in it
        self.definitions: list[tuple[Any, bytes]] = []
        self.modules: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, list[str]] = {}
        self.globals: dict[int, Any] = {}  # id of a function's globals -> their stand-in
        self.seen: dict[tuple[int, str], Any] = {}  # globals that functions in it use
        self.absent: dict[tuple[int, str], Any] = {}  # globals that functions in it use and that nothing is bound to
        self.users: dict[int, tuple[Any, str]] = {}  # id of an object -> function that reaches it first, by which name
        # Globals that cannot be written -> why.
        self.unavailable: dict[tuple[int, str], str] = {} if unavailable is None else unavailable
        self.kept: list[Any] = []  # keep-alive: no other object gets one of these ids meanwhile
        self.later: list[_Later] | None = None  # parts to be written last; None: written in place

    def put_off(self, values: dict[str, Any], fill: Any, owner: Any) -> dict[str, Any]:
        """Return the values to write now, by their names; the others are written last.

        A table whose keys are instances of a class in this body hashes them as it is built. The class may have no more than
        its name by then.
        """
        if self.later is None:
            return values
        waiting = {name: value for name, value in values.items() if self._is_for_later(value, fill)}
        self.later += [_Later((fill, (owner, name, value))) for name, value in waiting.items()]
        return {name: value for name, value in values.items() if name not in waiting}

    def _is_for_later(self, value: Any, fill: Any) -> bool:
        """Tell whether a value is written last: a table with own keys, or one definition of many.

        Definitions that functions use wait once there are many: a long chain of them would nest too deep.
        """
        if isinstance(value, (FunctionType, type)):
            return fill is building.fill_global and len(self.definitions) > NESTED and not is_importable(value)
        return _has_own_keys(value)

    def note_definition(self, obj: Any, record: Record) -> None:
        self.kept.append(obj)
        self.definitions.append((obj, record.identity))
        if is_named(obj) and "." not in obj.__qualname__:
            self.names[obj.__module__, obj.__qualname__] = record.identity

    def note_module(self, name: str) -> None:
        module = sys.modules.get(name)
        if name not in self.modules and module is not None:
            kept = ("__file__", "__doc__", "__package__")
            self.modules[name] = {key: vars(module)[key] for key in kept if isinstance(vars(module).get(key), str)}

    def note_source(self, filename: str) -> None:
        """Note the lines of a source that is no file: a notebook's cell, `python -c`."""
        if filename not in self.sources and not os.path.exists(filename):
            lines = linecache.cache.get(filename)
            if lines is not None and len(lines) == 4:
                self.sources[filename] = lines[2]
            elif filename == "<string>" and "-c" in sys.orig_argv[:-1]:
                self.sources[filename] = sys.orig_argv[sys.orig_argv.index("-c") + 1].splitlines(keepends=True)

    def values_of(
        self, namespace: dict[str, Any], names: Iterable[str], holder: Any
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return globals by their names, and the reasons why others cannot be written."""
        used: dict[str, Any] = {}
        unavailable: dict[str, str] = {}
        for name in names:
            if name in ("__builtins__", "__name__", "__file__"):
                continue
            key = (id(namespace), name)
            if name not in namespace:
                if not hasattr(builtins, name):
                    self.absent.setdefault(key, holder)
                continue
            if key in self.unavailable:
                unavailable[name] = self.unavailable[key]
                continue
            value = namespace[name]
            self.seen.setdefault(key, (holder, value))
            self.users.setdefault(id(value), (holder, name))
            used[name] = value
        return used, unavailable

    def uses(self) -> Iterator[tuple[Any, str]]:
        """Yield the names of globals that were looked up, each with what uses it."""
        for (_, name), (holder, _) in self.seen.items():
            yield holder, name
        for (_, name), holder in self.absent.items():
            yield holder, name

    def module_of(self, namespace: int) -> str | None:
        """Return the name of the module with these globals if it cannot be imported; None for any other globals."""
        standin = self.globals.get(namespace)
        if isinstance(standin, _ModuleGlobals) and not building.can_be_imported_by_name(standin.name):
            return standin.name
        return None

    def chain(self, holder: Any, name: str) -> str:
        """Describe how a global is reached, from the outermost function to it."""
        text = f"function {_label(holder)!r} uses global {name!r}"
        seen = set()
        while id(holder) in self.users and id(holder) not in seen:
            seen.add(id(holder))
            holder, name = self.users[id(holder)]
            text = f"function {_label(holder)!r} uses {name!r}; {text}"
        return text


def _label(obj: Any) -> str:
    return str(getattr(obj, "__qualname__", None) or type(obj).__qualname__)


def class_data(cls: type) -> dict[str, Any]:
    """Return the attributes of a class that are data: its state."""
    own = _class_state(cls)[0]
    return {name: value for name, value in own.items() if not is_behaviour(value) and not name.startswith("__")}


#: Containers within a value that are searched for keys of its own classes.
LOOKED_INTO = 1000


def _has_own_keys(value: Any) -> bool:
    """Tell whether a value has dictionary keys, or members of sets, whose classes travel with it."""
    todo = [value]
    seen: dict[int, Any] = {}
    while todo and len(seen) < LOOKED_INTO:
        found = todo.pop()
        if id(found) in seen:
            continue
        seen[id(found)] = found
        kind = type(found)
        parts: Any = ()
        if issubclass(kind, (dict, set, frozenset)):
            if any(map(_is_own_key, _one_of_each(found))):
                return True
            parts = dict.values(found) if issubclass(kind, dict) else ()
        elif issubclass(kind, (list, tuple)):
            parts = found
        elif not issubclass(kind, type) and _is_own_key(found) and kind.__dictoffset__:
            parts = vars(found).values()
        if not {*map(type, parts)} <= ATOM_TYPES:
            todo += [part for part in list(parts) if type(part) not in ATOM_TYPES]
    return False


def _one_of_each(keys: Any) -> Iterable[Any]:
    """Return a key of each type; all keys if some of them are containers."""
    if {*map(type, keys)} <= ATOM_TYPES:
        return ()
    by_type = {type(key): key for key in list(keys)}
    return by_type.values() if tuple not in by_type and frozenset not in by_type else list(keys)


def _is_own_key(key: Any) -> bool:
    if type(key) in (tuple, frozenset):
        return any(map(_is_own_key, key))
    return bool(type(key).__flags__ & HEAP_TYPE) and not is_importable(type(key))


class _Later:
    """A step that runs last where the body is built."""

    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self._reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


class Whole:
    """A body's value, followed by the parts that were put off; those may put off more while they are written."""

    def __init__(self, value: Any, body: Body) -> None:
        self.value = value
        self.body = body
        body.later = []

    def __reduce__(self) -> tuple[Any, ...]:
        return (building.first, (self.value, _Later((list, (), None, self._last()))))

    def _last(self) -> Iterator[Any]:
        """Yield the steps that were put off, each followed by None.

        The pickler asks for two items before it writes the first one.
        """
        assert self.body.later is not None
        yield None
        for later in self.body.later:
            yield later
            yield None


class _ModuleGlobals:
    """Stand-in for the globals of a module: where it arrives, those of the module of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        module = sys.modules.get(self.name)
        files = None if module is None else files_of(module)
        return (building.module_globals, (self.name, files) if files else (self.name,))


class _LooseGlobals:
    """Stand-in for globals of no module: of `exec` with a dictionary, or a copy."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return (building.loose_globals, (self.name,))


def _standin_for(function: FunctionType, body: Body, loose: bool) -> Any:
    namespace = function.__globals__
    standin = body.globals.get(id(namespace))
    if standin is None:
        name = namespace.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is None or vars(module) is not namespace or (loose and not can_be_imported(module)):
            standin = _LooseGlobals(name if isinstance(name, str) else "")
        else:
            standin = _ModuleGlobals(module.__name__)
            if not can_be_imported(module):
                body.note_module(module.__name__)
        body.globals[id(namespace)] = standin
        body.kept.append(namespace)
    return standin


def write_function(function: FunctionType, record: Record | None, body: Body, loose: bool = False) -> tuple[Any, ...]:
    """Reduce a function to its code, its cells and the globals that it uses.

    Without a record it is a new function wherever it arrives.
    """
    if record is not None:
        body.note_definition(function, record)
    body.note_source(function.__code__.co_filename)
    standin = _standin_for(function, body, loose)
    if isinstance(standin, _ModuleGlobals) and can_be_imported(sys.modules[standin.name]):
        used, unavailable = body.values_of(function.__globals__, _tools_names(function.__code__), function)
    else:
        used, unavailable = _used_globals(function, body)
    for name in used.keys() & set(_tools_names(function.__code__)):
        if isinstance(used[name], ModuleType):
            used[name] = building.ModuleAtUse(used[name].__name__)
    state = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "__defaults__": function.__defaults__,
        "__kwdefaults__": function.__kwdefaults__,
        "__annotations__": _annotations(function),
        "__dict__": function.__dict__,
        "__type_params__": getattr(function, "__type_params__", ()),
        "cells": tuple(_cell_of(cell, body) for cell in function.__closure__ or ()),
        "globals": body.put_off(used, building.fill_global, function),
        "unavailable": unavailable,
        "submodules": _submodules((*used.values(), *map(_cell_content, function.__closure__ or ())), function.__code__),
    }
    args = (
        record and record.identity,
        _code_for_travel(function.__code__),
        standin,
        function.__name__,
        function.__closure__ or (),
    )
    return (building.make_function, args, state, None, None, building.complete_function)


def _used_globals(function: FunctionType, body: Body) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of the globals that a function names, and the reasons why others are not available."""
    documented = _documented_names(function.__doc__, function.__globals__)
    names = (*global_names(function.__code__), *_annotated_names(_annotations(function)), *documented)
    return body.values_of(function.__globals__, names, function)


def _code_for_travel(code: CodeType) -> Any:
    """Return a code object in the interpreter's own format: every process of a runner has the same interpreter."""
    try:
        return marshal.dumps(code)
    except ValueError:  # constants that some tool has put there
        return code


def _cell_state(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _cell_of(cell: CellType, body: Body) -> tuple[Any, ...]:
    """Return a cell's content as written now: nothing if it is to be written last."""
    state = _cell_state(cell)
    return state if not state or body.put_off({"": state[0]}, building.fill_cell, cell) else ()


def _cell_content(cell: CellType) -> Any:
    return next(iter(_cell_state(cell)), None)


def write_class(cls: Any, record: Record, body: Body) -> tuple[Any, ...]:
    """Reduce a class to a bare one, with its dictionary as the state that follows."""
    body.note_definition(cls, record)
    if not building.can_be_imported_by_name(cls.__module__):
        body.note_module(cls.__module__)
    _note_sources(cls, body)
    state, registry = _class_state(cls)
    state = body.put_off(state, building.fill_class, cls)
    basic: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    own = vars(cls)
    if "__slots__" in own:
        slots = own["__slots__"]
        basic["__slots__"] = (slots,) if isinstance(slots, str) else tuple(slots)
    for name in ("__orig_bases__", "__doc__"):
        if name in own:
            basic[name] = own[name]
    extra = _annotated_globals(cls, body)
    args: tuple[Any, ...] = (record.identity, type(cls), cls.__name__, cls.__bases__, basic)
    if is_enum(cls):
        members = [(name, _member_arguments(cls, member)) for name, member in _canonical_members(cls)]
        attributes = [
            (name, body.put_off(_member_attributes(member), building.fill_member, member))
            for name, member in _canonical_members(cls)
        ]
        state["_member_map_"] = dict(cls._member_map_)
        values = cls._value2member_map_
        state["_value2member_map_"] = {value: member for value, member in values.items() if member.name in cls._member_map_}
        args += (cls._member_type_, members, {name: member.name for name, member in cls._member_map_.items()})
        return (building.make_enum, args, (state, attributes, extra), None, None, building.complete_enum)
    rest = (state, registry, extra)
    if _is_struct(cls):
        del basic["__slots__"]
        args += _struct_arguments(cls, state)
        return (building.make_struct, args, rest, None, None, building.complete_class)
    return (building.make_class, args, rest, None, None, building.complete_class)


def _note_sources(cls: type, body: Body) -> None:
    """Note the sources of a class's methods."""
    for value in list(vars(cls).values()):
        if isinstance(value, FunctionType):
            body.note_source(value.__code__.co_filename)


def _annotated_globals(cls: type, body: Body) -> tuple[str, dict[str, Any]]:
    """Return the module of a class, and the objects in it that its annotations, written as text, name."""
    module = sys.modules.get(cls.__module__)
    if module is None or can_be_imported(module):
        return cls.__module__, {}
    names = _annotated_names(_annotations(cls))
    found = {name: vars(module)[name] for name in names if name in vars(module)}
    return cls.__module__, {
        name: value for name, value in found.items() if isinstance(value, (type, ModuleType, FunctionType))
    }


def _class_state(cls: Any) -> tuple[dict[str, Any], list[type] | None]:
    """Return the dictionary of a class without `MADE_WITH_CLASS`, and the classes registered with an abstract one."""
    state = {}
    for name, value in list(vars(cls).items()):
        if name in MADE_WITH_CLASS or (isinstance(value, MemberDescriptorType) and value.__objclass__ is cls):
            continue
        state[name] = value
    registry = None
    if "_abc_impl" in vars(cls):
        from abc import _get_dump  # type: ignore[attr-defined]

        registry = [found for found in (reference() for reference in _get_dump(cls)[0]) if found is not None]
    return state, registry


def write_module(module: ModuleType, record: Record, body: Body) -> tuple[Any, ...]:
    """Reduce a module made in memory to its content."""
    body.kept.append(module)
    body.note_module(module.__name__)
    body.names[module.__name__, ""] = record.identity
    names = [name for name in list(vars(module)) if not (name.startswith("__") and name.endswith("__"))]
    used, unavailable = body.values_of(vars(module), names, module)
    state = body.put_off(used, building.fill_module, module), unavailable
    return (building.make_module, (record.identity, module.__name__), state, None, None, building.complete_module)


def write_cached(function: Any, record: Record, body: Body) -> tuple[Any, ...]:
    """Reduce a function of `functools.lru_cache` to the wrapped function and the cache's parameters.

    Each process has a cache of its own.
    """
    body.note_definition(function, record)
    return (building.make_cached, (record.identity, function.__wrapped__, function.cache_parameters()))


def write_named(name: str, module: str, obj: Any, record: Record, body: Body) -> tuple[Any, ...]:
    """Reduce an object that pickles by its name, if any, in a module which no worker can import."""
    body.kept.append(obj)
    if name:
        body.names[module, name] = record.identity
    kind = type(obj)
    parts = _typing_parts(obj)
    make, args = parts or (building.new, (kind,))
    state = obj.__getstate__() if parts is None else None
    return (building.make_named, (record.identity, module, name, make, args), state, None, None, building.complete_named)


def is_of_typing(kind: type) -> bool:
    return kind.__module__ in ("typing", "typing_extensions")


def _typing_parts(obj: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """Return a callable and its arguments that make an object of `typing` again; None for any other object.

    Such an object is a TypeVar, a ParamSpec, a TypeVarTuple, a NewType or a type alias. Its own reduction gives a name only.
    """
    kind = type(obj)
    if not is_of_typing(kind):
        return None
    if kind.__name__ == "TypeVar":
        variance = {"covariant": obj.__covariant__, "contravariant": obj.__contravariant__}
        if getattr(obj, "__infer_variance__", False):
            variance = {"infer_variance": True}
        return building.call, (kind, (obj.__name__, *obj.__constraints__), {"bound": obj.__bound__, **variance})
    if kind.__name__ in ("ParamSpec", "TypeVarTuple"):
        return building.call, (kind, (obj.__name__,), {})
    if kind.__name__ == "NewType":
        return building.call, (kind, (obj.__name__, obj.__supertype__), {})
    if kind.__name__ == "TypeAliasType":
        return building.call, (kind, (obj.__name__, obj.__value__), {"type_params": obj.__type_params__})
    return None


# ---- plain instances -------------------------------------------------------------------------------------------------

#: Where a class's instances keep their state; the `LAYOUT_` numbers of class_layouts.pxi.
IN_DICT, IN_SLOTS, MEMBER, IN_TUPLE = 1, 2, 4, 8

#: Hooks of pickle: instances of a class that overrides none of them are copied attribute by attribute.
HOOKS = ("__reduce_ex__", "__reduce__", "__getstate__", "__new__")


def overrides(kind: type, name: str) -> bool:
    """Tell whether a class has a method of its own in place of object's."""
    return getattr(kind, name) is not getattr(object, name)


def plain_form(kind: type) -> tuple[int, tuple[str, ...]]:
    """Return where instances keep their state, and the slots' names; 0 if pickle does more than copy that."""
    in_dict = IN_DICT if kind.__dictoffset__ else 0
    if is_enum(kind):
        return MEMBER, ()
    if issubclass(kind, tuple):
        return (IN_TUPLE | in_dict, ()) if _is_plain_tuple(kind) else (0, ())
    if not all(base is object or base.__flags__ & HEAP_TYPE for base in kind.__mro__) or kind in copyreg.dispatch_table:
        return 0, ()
    dataclass_hooks = _has_hooks_of_dataclasses(kind)
    for name in HOOKS:
        if overrides(kind, name) and not (dataclass_hooks and name == "__getstate__"):
            return 0, ()
    if not dataclass_hooks and any(hasattr(kind, name) for name in ("__setstate__", "__getnewargs__", "__getnewargs_ex__")):
        return 0, ()
    slots = tuple(copyreg._slotnames(kind))  # type: ignore[attr-defined]
    if slots and not dataclass_hooks and overrides(kind, "__setattr__"):
        return 0, ()
    return in_dict | (IN_SLOTS if slots else 0), slots


def _is_plain_tuple(kind: type) -> bool:
    """Tell whether a named tuple, or another subclass, adds nothing to how a tuple is made."""
    if (
        not all(base in (object, tuple) or base.__flags__ & HEAP_TYPE for base in kind.__mro__)
        or kind in copyreg.dispatch_table
    ):
        return False
    if any(overrides(kind, name) for name in ("__reduce_ex__", "__reduce__", "__getstate__")) or hasattr(
        kind, "__setstate__"
    ):
        return False
    made: Any = next(base for base in kind.__mro__ if "__new__" in vars(base))
    if made is tuple:
        return not any("__getnewargs__" in vars(base) for base in kind.__mro__ if base is not tuple)
    return {"_fields", "_make", "__getnewargs__"} <= vars(made).keys() and made.__bases__[0] is tuple


def _has_hooks_of_dataclasses(kind: type) -> bool:
    """Tell whether a class has the hooks of frozen dataclasses with slots: they copy the fields, too."""
    dataclasses = sys.modules.get("dataclasses")
    getstate = getattr(dataclasses, "_dataclass_getstate", None)
    return getstate is not None and getattr(kind, "__getstate__", None) is getstate


# ---- enums -----------------------------------------------------------------------------------------------------------


def is_enum(cls: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(cls, enum.EnumMeta) and "_member_map_" in vars(cls)


def _canonical_members(cls: Any) -> list[tuple[str, Any]]:
    return [(name, member) for name, member in cls._member_map_.items() if member.name == name]


def _member_arguments(cls: Any, member: Any) -> tuple[Any, ...]:
    """Return the arguments that the member's data type is made from."""
    if cls._member_type_ is object:
        return ()
    reduced = cls._member_type_.__reduce_ex__(member, 2)
    return tuple(reduced[1][1:]) if reduced[0] is copyreg.__newobj__ else tuple(reduced[1])  # type: ignore[attr-defined]


def _member_attributes(member: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(member).items() if name != "__objclass__"}


def reduce_member(member: Any) -> Any:
    """Reduce a member to its name.

    A combination of flags is no member of its own: its enum's own rule reduces it.
    """
    cls = type(member)
    name = getattr(member, "_name_", None)
    if name is None or cls._member_map_.get(name) is not member:
        return NotImplemented
    return (building.enum_member, (cls, name))


# ---- msgspec ---------------------------------------------------------------------------------------------------------


def _is_struct(cls: type) -> bool:
    return type(cls).__module__.partition(".")[0] == "msgspec" and hasattr(cls, "__struct_config__")


def _struct_arguments(cls: Any, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the annotations, factories of defaults and options that msgspec's metaclass makes such a class from.

    Takes them out of `state`.
    """
    import msgspec

    annotations = _annotations(cls)
    basic: dict[str, Any] = {"__annotations__": annotations}
    factories = {}
    defaults = dict(zip(reversed(cls.__struct_fields__), reversed(cls.__struct_defaults__), strict=False))
    for name in annotations:
        default = defaults.get(name, msgspec.NODEFAULT)
        if hasattr(default, "factory"):
            factories[name] = default.factory
        elif default is not msgspec.NODEFAULT:
            basic[name] = default
    for name in [name for name in state if name.startswith("__struct_") or name in ("__match_args__", "__annotations__")]:
        del state[name]
    config = cls.__struct_config__
    names = ("frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults", "forbid_unknown_fields")
    options = {name: getattr(config, name) for name in (*names, "weakref", "dict", "cache_hash") if hasattr(config, name)}
    if config.tag is not None:
        options |= {"tag": config.tag, "tag_field": config.tag_field}
    own = [name for name in annotations if name in cls.__struct_fields__]
    options["kw_only"] = any(name not in cls.__match_args__ for name in own)
    renamed = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    options["rename"] = {name: renamed[name] for name in own if renamed[name] != name} or None
    return basic, factories, options
