"""What compiled code depends on: a digest of all that Numba copies from Python into the code of a function.

Numba takes global names, closures, default arguments, and attributes of modules as constants when it compiles, those of a
function's helpers too. Its own key has none of them. The digest here follows them at any depth, in whatever module they lie,
and has:

- the bytecode of each function that the function uses, and the options it is compiled with;
- the values of the global names and attributes in that bytecode: numbers, texts, arrays, tuples, enumerations, classes;
- what the user has registered for a value or an attribute by `overload`, `register_jitable`, `intrinsic` and the like;
- nothing of what lies in Python, NumPy and Numba but its name: their versions are part of the key (`cache.settings`).

A name may mean something else in a function than what the digest takes it for: an attribute counts for each module whose
name the function has. That costs a compilation too many, never stale code.

Guarantees: the digest calls no code of the user's but the reduction (pickle's) of objects that are none of the above. Equal
digests of two processes mean equal code. Assumes: what an `overload` or `intrinsic` reads elsewhere while Numba compiles, a
file or the environment, stays the same; nothing can tell. Rejected: pickles of the values, as Numba's key has of closures
(functions go by name there, and compiled ones by a number of the process); digests of source files alone (values come from
files of data, the environment, and other modules' arithmetic).
"""

from __future__ import annotations

import builtins
import enum
import functools
import hashlib
import os
import sys
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType

import llvmlite
import numba
import numpy as np
from numba.core import types
from numba.core.imputils import builtin_registry as lowered
from numba.core.typing.templates import builtin_registry as typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

#: The folder of this package's kernels; some lie in folders of it.
KERNELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: Bytes of the largest array that is followed. Numba keeps the address of larger ones, and caches no such code.
LARGEST_ARRAY = 10**6

#: Objects that one function may depend on; more are not followed.
MOST_OBJECTS = 20_000

#: Types whose text tells the value.
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)

#: For names that type checkers miss.
_numba_types: Any = types

#: Where objects of Numba's keep the function that they were made from: the last two are a ufunc's and a stencil's.
_MADE_FROM = ("py_func", "_defn", "_pyfunc", "_dispatcher", "kernel_ir")

#: Files that belong to Python, Numba and NumPy.
_VERSIONED = tuple(os.path.dirname(os.path.abspath(str(module.__file__))) + os.sep for module in (numba, np, llvmlite, os))
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class CannotFollow(Exception):
    """Raised for a value whose content cannot be told: code that depends on it is not cached."""


def digest_of(function: FunctionType, options: object = None, signature: object = None) -> tuple[str, set[str]]:
    """Return a digest of what a function's code depends on, and the files that its functions come from.

    Parameters
    ----------
    function : function
        Not compiled.
    options : object, optional
        What it is compiled with.
    signature : object, optional
        Types of its arguments: some, as those of compiled classes, bring code of their own.

    Raises
    ------
    CannotFollow
    """
    walk = _Walk()
    walk.value(function)
    walk.value(options)
    for part in _types_in(signature):
        walk.value(part)
    return walk.text.hexdigest(), walk.files


def content_of(function: FunctionType, options: object = None) -> str | None:
    """Return a digest as of `digest_of`, whatever the size of arrays; None if it cannot be told."""
    walk = _Walk(largest_array=sys.maxsize)
    try:
        walk.value(function)
        walk.value(options)
    except (CannotFollow, RecursionError):
        return None
    return walk.text.hexdigest()


def registered_behind(function: FunctionType) -> list[tuple[str, FunctionType]]:
    """Return what others than Numba have registered there and a function uses: names, and the functions registered for them.

    Raises
    ------
    CannotFollow
    """
    _registered.look()
    if not (_registered.for_values or _registered.for_attributes):
        return []
    walk = _Walk(largest_array=sys.maxsize)
    walk.value(function)
    return walk.registered


def is_versioned(path: str | None) -> bool:
    """Tell whether a file belongs to Python, Numba or NumPy: their versions are part of the digest."""
    return path is not None and _is_below(path, _VERSIONED)


@functools.cache
def _is_below(path: str, places: tuple[str, ...]) -> bool:
    if not path.startswith(places):
        return path.startswith("<frozen ")
    own = path.startswith(places[:-1])
    return own or not any(part in path for part in _INSTALLED)


@functools.cache
def _own_kernels() -> str:
    """Return a digest of this package's kernels."""
    whole = hashlib.sha256()
    for directory in (KERNELS, os.path.join(KERNELS, "jit")):
        for name in sorted(os.listdir(directory)):
            if name.endswith(".py"):
                with open(os.path.join(directory, name), "rb") as file:
                    whole.update(file.read())
    return whole.hexdigest()


def _types_in(signature: Any) -> Iterable[Any]:
    """Return the types of a signature: that itself may be a text."""
    if isinstance(signature, tuple):
        return signature
    return (*signature.args, signature.return_type) if hasattr(signature, "args") else ()


# ---- what is registered ------------------------------------------------------------------------------------------------


class _Registered:
    """What others than Numba have registered there for values and attributes.

    Numba's lists only grow: each look reads what is new.
    """

    def __init__(self) -> None:
        self.for_values: dict[int, list[Any]] = {}
        self.for_attributes: dict[str, list[Any]] = {}
        self._read: dict[str, int] = {}

    def look(self) -> None:
        for value, kind in self._new("globals", typed.globals):
            for template in getattr(kind, "templates", ()):
                self._note(self.for_values, id(value), _parts_of(template))
        for template in self._new("attributes", typed.attributes):
            self._note(self.for_attributes, getattr(template, "_attr", ""), _parts_of(template))
        for made, value, _ in self._new("functions", lowered.functions):
            if not _is_numbas(made):
                self._note(self.for_values, id(value), [made])
        for made, name, _ in self._new("getattrs", lowered.getattrs):
            if not _is_numbas(made):
                self._note(self.for_attributes, name, [made])

    def _new(self, name: str, entries: list[Any]) -> list[Any]:
        read = self._read.get(name, 0)
        if read == len(entries):
            return []
        self._read[name] = len(entries)
        return entries[read:]

    @staticmethod
    def _note(known: dict[Any, list[Any]], key: Any, parts: Iterable[Any]) -> None:
        for part in parts:
            function = getattr(part, "__func__", part)
            function = getattr(function, "__wrapped__", function)
            if getattr(function, "__qualname__", "").startswith("register_jitable."):
                function = function.__closure__[0].cell_contents
            if type(function) is FunctionType and not is_versioned(function.__code__.co_filename):
                known.setdefault(key, []).append(function)


def _is_numbas(made: Any) -> bool:
    return (getattr(made, "__module__", None) or "").startswith("numba.")


def _parts_of(template: Any) -> Iterable[Any]:
    """Return the functions of a template that its user wrote; an intrinsic has its own."""
    overload = getattr(template, "_overload_func", None)
    if overload is not None:
        own = _is_numbas(overload) and not overload.__qualname__.startswith("register_jitable.")
        return () if own else (overload,)
    bases = () if hasattr(template, "_definition_func") else getattr(template, "__mro__", ())[:-1]
    return [part for base in bases if not _is_numbas(base) for part in vars(base).values()]


_registered = _Registered()


# ---- the walk ----------------------------------------------------------------------------------------------------------


class _Walk:
    """One walk over all that a function depends on; each kind of value tells its content to the digest."""

    def __init__(self, largest_array: int = LARGEST_ARRAY) -> None:
        self.text = hashlib.sha256()
        self.files: set[str] = set()
        self.registered: list[tuple[str, FunctionType]] = []
        self._largest_array = largest_array
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []  # ids stay the objects' own
        self._names: frozenset[str] = frozenset()  # in the bytecode of the function that is told
        self._modules: set[int] = set()  # that this function's names were looked up in
        _registered.look()

    def tell(self, *parts: object) -> None:
        self.text.update("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass") + b"\x1e")

    def value(self, value: Any) -> None:
        kind = type(value)
        if kind in PLAIN:
            self.tell(kind.__name__, repr(value))
            return
        tell = _TOLD.get(kind)
        if tell is None:
            tell = next((found for base, found in _TOLD.items() if isinstance(value, base)), None)
        if tell is not None and kind in (tuple, np.ndarray, ModuleType):
            tell(self, value)
        elif self._is_new(value):
            (tell or _Walk.other)(self, value)

    def _is_new(self, value: Any) -> bool:
        known = self._seen.setdefault(id(value), len(self._seen))
        if known < len(self._kept):
            self.tell("again", known)
            return False
        self._kept.append(value)
        if len(self._kept) > MOST_OBJECTS:
            raise CannotFollow(f"more than {MOST_OBJECTS} objects")
        return True

    # ---- functions

    def function(self, function: FunctionType) -> None:
        path = function.__code__.co_filename
        self._told_for(function)
        if is_versioned(path):
            self.tell("function", function.__module__, function.__qualname__)
            return
        if path.startswith(KERNELS + os.sep):
            self.tell("kernel", function.__qualname__, _own_kernels())
            return
        self.files.add(path)
        outer = self._names, self._modules
        names: set[str] = set()
        self._code(function.__code__, names)
        self._names, self._modules = frozenset(names), set()
        try:
            self.value(function.__defaults__)
            self.value(function.__kwdefaults__)
            for cell in function.__closure__ or ():
                self.cell(cell)
            for name in sorted(names):
                self._name(name, function.__globals__)
        finally:
            self._names, self._modules = outer

    def _name(self, name: str, namespace: dict[str, Any]) -> None:
        if name in namespace:
            self.tell("global", name)
            self.value(namespace[name])
        elif hasattr(builtins, name):
            self._told_for(getattr(builtins, name))
        for function in _registered.for_attributes.get(name, ()):
            self.tell("attribute", name)
            self.registered.append((name, function))
            self.value(function)

    def _told_for(self, value: Any) -> None:
        """Tell what is registered for a value."""
        for function in _registered.for_values.get(id(value), ()):
            self.tell("registered")
            self.registered.append((getattr(value, "__name__", str(value)), function))
            self.value(function)

    def _code(self, code: CodeType, names: set[str]) -> None:
        names.update(code.co_names)
        self.tell("code", code.co_name, code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        self.tell(code.co_code.hex(), code.co_exceptiontable.hex() if hasattr(code, "co_exceptiontable") else "")
        self.tell(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant, names)
            else:
                self.value(constant)

    def cell(self, cell: CellType) -> None:
        try:
            content = cell.cell_contents
        except ValueError:
            self.tell("empty")
        else:
            self.value(content)

    def method(self, method: MethodType) -> None:
        self.value(method.__func__)
        self.value(method.__self__)

    def built_in(self, function: Any) -> None:
        self.tell(getattr(function, "__module__", ""), getattr(function, "__qualname__", function.__name__))
        owner = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, ModuleType):
            self.value(owner)
        self._told_for(function)

    def ufunc(self, ufunc: np.ufunc) -> None:
        self.tell("ufunc", ufunc.__name__)
        self._told_for(ufunc)

    # ---- what has attributes

    def module(self, module: ModuleType) -> None:
        if id(module) in self._modules:
            return
        self._modules.add(id(module))
        self.tell("module", module.__name__)
        if not is_versioned(getattr(module, "__file__", None)) and hasattr(module, "__file__"):
            self._attributes(vars(module))
        else:
            for name in sorted(self._names):
                self._told_for(vars(module).get(name))

    def _attributes(self, namespace: Any) -> None:
        for name in sorted(self._names):
            if name in namespace:
                self.tell("attribute", name)
                self.value(namespace[name])

    def cls(self, cls: type) -> None:
        self.tell("class", cls.__module__, cls.__qualname__)
        self._told_for(cls)
        compiled = vars(cls).get("class_type")
        if isinstance(compiled, _numba_types.ClassType):
            self._compiled_class(compiled)
        elif issubclass(cls, enum.Enum):
            for member in cls:
                self.tell(member.name)
                self.value(member.value)
        elif not is_versioned(getattr(sys.modules.get(cls.__module__), "__file__", None)):
            for base in cls.__mro__[:-1]:
                self._attributes(vars(base))

    def _compiled_class(self, compiled: Any) -> None:
        for name, kind in compiled.struct.items():
            self.tell(name, kind)
        self.value({name: dict(part) for name, part in sorted(compiled.jit_props.items())})
        self.value(dict(sorted(compiled.jit_methods.items())))
        self.value(dict(sorted(compiled.jit_static_methods.items())))

    def member(self, member: enum.Enum) -> None:
        self.tell(member.name)
        self.value(type(member))

    # ---- what Numba makes

    def compiled(self, compiled: Any) -> None:
        """Tell a function compiled in whatever way, by what it was made from."""
        self.tell(type(compiled).__module__, type(compiled).__qualname__)
        self._told_for(compiled)
        for name in ("targetoptions", *_MADE_FROM, "options", "mode", "signature"):
            part = getattr(compiled, name, None)
            if part is not None and part is not compiled:
                self.tell(name)
                self.value(part.func_id.func if name == "kernel_ir" else part)

    def numba_type(self, kind: Any) -> None:
        if isinstance(kind, types.Dispatcher):
            self.value(kind.dispatcher)
        elif isinstance(kind, (_numba_types.ClassInstanceType, _numba_types.ClassType)):
            self._compiled_class(kind.class_type if isinstance(kind, _numba_types.ClassInstanceType) else kind)
        elif "jitclass." in (text := str(kind)):
            raise CannotFollow(f"a compiled class in the type {text.partition('#')[0]}")
        else:
            self.tell(text)

    # ---- data

    def array(self, array: np.ndarray[Any, Any]) -> None:
        if array.nbytes > self._largest_array:
            raise CannotFollow(f"an array of {array.nbytes} bytes")
        if array.dtype.hasobject:
            raise CannotFollow("an array of objects")
        self.tell("array", type(array).__qualname__, _text_of(array.dtype), array.shape, array.strides, array.flags.num)
        self.text.update(array.tobytes())

    def scalar(self, scalar: np.generic) -> None:
        self.tell("scalar", _text_of(scalar.dtype))
        self.text.update(scalar.tobytes())

    def dtype(self, dtype: np.dtype[Any]) -> None:
        self.tell(_text_of(dtype))

    def sequence(self, values: Any) -> None:
        self.tell(type(values).__qualname__, len(values), getattr(values, "_fields", ""))
        for value in values:
            self.value(value)

    def unordered(self, values: Any) -> None:
        self.tell(type(values).__qualname__, len(values))
        self.tell(*sorted(repr(value) for value in values))
        if not all(type(value) in PLAIN for value in values):
            raise CannotFollow(f"a {type(values).__qualname__} of objects")

    def mapping(self, values: Any) -> None:
        self.tell(type(values).__qualname__, len(values))
        for key, value in values.items():
            self.value(key)
            self.value(value)

    def other(self, value: Any) -> None:
        """Tell any other object as pickle would take it apart, but with functions and classes by their content."""
        module = type(value).__module__
        if module.startswith("numba.") and any(hasattr(value, name) for name in _MADE_FROM):
            self.compiled(value)
            return
        try:
            reduced = value.__reduce_ex__(4)
            if isinstance(reduced, str):
                reduced = (reduced,)
            parts = [part if part is None or number < 3 else list(part) for number, part in enumerate(reduced[:5])]
        except Exception as error:
            raise CannotFollow(f"a {type(value).__qualname__} ({error})") from None
        self._told_for(value)
        self.value(type(value))
        for part in parts:
            self.value(part)


def _text_of(dtype: np.dtype[Any]) -> str:
    return f"{dtype!r}{dtype.itemsize}{dtype.isalignedstruct}"


#: How each kind of value is told, the more special ones first.
_TOLD: dict[type, Callable[[_Walk, Any], None]] = {
    FunctionType: _Walk.function,
    ModuleType: _Walk.module,
    np.ndarray: _Walk.array,
    np.generic: _Walk.scalar,
    enum.Enum: _Walk.member,
    tuple: _Walk.sequence,
    type: _Walk.cls,
    types.Type: _Walk.numba_type,
    list: _Walk.sequence,
    dict: _Walk.mapping,
    frozenset: _Walk.unordered,
    set: _Walk.unordered,
    np.dtype: _Walk.dtype,
    np.ufunc: _Walk.ufunc,
    BuiltinFunctionType: _Walk.built_in,
    MethodType: _Walk.method,
    CellType: _Walk.cell,
}
