"""Identities of definitions: functions, classes and named objects of modules that a worker cannot import.

    driver                                       worker
    value --> (identity, place of its body)  --> known there already? use that object
                                                 unknown: read the body once, keep the object

A *definition* lives in `__main__`, in a module made in memory, or inside a function. The process that made it gives it an
identity; a value that refers to it carries this identity, not its body. The body lies in shared memory once per version, as
long as the process that made it has the object, or a value that refers to it exists. A process that knows an identity uses
its own object, so no arriving value changes a class.

A `Namespace` is where a process keeps the definitions that have arrived: a module object per name, whose globals the
functions use. A worker has one for each service that it has loaded, since a service's globals are those at `Runner.service`.
The driver has one for the definitions of tasks. `bodies.py` writes a body, `building.py` builds it.
"""

from __future__ import annotations

import builtins
import itertools
import os
import sys
import threading
import weakref
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, FrozenImporter, PathFinder
from types import FunctionType, MappingProxyType, ModuleType

from flame_fast.kernels.runtime.serialization import by_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from flame_fast.kernels.runtime import Client, DefinitionHold, GlobalsLook
    from flame_fast.kernels.runtime.serialization.by_file import FileModule

#: Versions of one object whose identities this process still answers to.
KEPT_VERSIONS = 64


# ---- modules that a worker can import --------------------------------------------------------------------------------

_searched: dict[str, tuple[int, tuple[FileModule, ...] | None]] = {}  # module name -> (id of its spec, its `files_of`)


def is_importable(obj: Any) -> bool:
    """Tell whether another process finds the same object by importing its module and following its qualified name."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    if module is None or not can_be_imported(module):
        return False
    return _follow(module, obj.__qualname__) is obj


def is_named(obj: Any) -> bool:
    """Tell whether an object's module, of whatever kind, has the object under its qualified name."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return module is not None and _follow(module, obj.__qualname__) is obj


def _follow(module: ModuleType, qualified: str) -> Any:
    found: Any = module
    for name in qualified.split("."):
        found = getattr(found, name, None)
    return found


def can_be_imported(module: ModuleType) -> bool:
    """Tell whether a worker can import the module.

    It cannot import `__main__`, a module made in memory, or one from a place that only this process knows.
    """
    return files_of(module) is not None


def files_of(module: ModuleType) -> tuple[FileModule, ...] | None:
    """Return the modules that a worker must import by their files so that it finds this one by its name.

    Most need none; None: it cannot import this one.
    """
    spec = getattr(module, "__spec__", None)
    if spec is None or module.__name__ == "__main__":
        return None
    known = _searched.get(module.__name__)
    if known is None or known[0] != id(spec):
        known = _searched[module.__name__] = (id(spec), _search(module, spec))
    return known[1]


def search_again() -> bool:
    """Forget which modules `sys.path` does not lead to; return whether there were some."""
    found = [name for name, (_, files) in list(_searched.items()) if files is None or files]
    for name in found:
        _searched.pop(name, None)
    return bool(found)


def _search(module: ModuleType, spec: Any) -> tuple[FileModule, ...] | None:
    if spec.loader in (BuiltinImporter, FrozenImporter):
        return ()
    parent = spec.name.rpartition(".")[0]
    package = sys.modules.get(parent) if parent else None
    before = () if package is None else files_of(package)
    if before is not None and any(_finds(finder, spec, package) for finder in _standard_finders()):
        return before
    line = _line_of(parent)
    compiled = isinstance(spec.loader, ExtensionFileLoader)
    if compiled and package is not None and before == ():
        return ()  # several of one file: their package knows how to import them
    if line is not None and by_file.leads_to_file(module, spec):
        return (*line, by_file.file_of(module))
    return before if compiled or spec.origin is None else None  # what has no file: something installed makes it


def _line_of(name: str) -> tuple[FileModule, ...] | None:
    """Return what a worker must import for a package, from the outermost on; None: it cannot have the package."""
    package = sys.modules.get(name) if name else None
    if package is None:
        return ()
    files = files_of(package)
    if files is not None:
        return files
    line = _line_of(name.rpartition(".")[0])
    return (*line, by_file.file_of(package)) if line is not None and by_file.is_bare(package) else None


def _standard_finders() -> Iterator[Any]:
    """Yield the finders that a worker has, too: of paths, and of editable installs."""
    yield PathFinder
    for finder in sys.meta_path:
        if getattr(finder, "__module__", "").startswith("__editable__"):
            yield finder


def _finds(finder: Any, spec: Any, package: ModuleType | None) -> bool:
    try:
        found = finder.find_spec(spec.name, getattr(package, "__path__", None))
    except Exception:  # an entry of sys.path that some hook cannot read
        return False
    if found is None:
        return False
    if by_file.is_package_without_file(spec):
        return by_file.is_package_without_file(found) and [*found.submodule_search_locations] == [
            *spec.submodule_search_locations
        ]
    return bool(found.origin == spec.origin)


# ---- records ---------------------------------------------------------------------------------------------------------

_prefix = os.urandom(8)
_prefix_of = os.getpid()
_numbers = itertools.count(1)


def new_identity() -> bytes:
    """Return 16 bytes that no other process and no other definition has."""
    global _prefix, _prefix_of
    if _prefix_of != os.getpid():
        _prefix, _prefix_of = os.urandom(8), os.getpid()
    return _prefix + next(_numbers).to_bytes(8, "little")


class Place:
    """The place of one version's body in a runner's segment.

    `hold` keeps the body there; None: others keep it.
    """

    __slots__ = ("hold", "identity", "nbytes", "offset")

    def __init__(self, identity: bytes, offset: int, nbytes: int, hold: DefinitionHold | None) -> None:
        self.identity: bytes = identity
        self.offset: int = offset
        self.nbytes: int = nbytes
        self.hold: DefinitionHold | None = hold


class Written:
    """A body that was written: its digest, the marks that tell it from others, and a look at the globals in it."""

    __slots__ = ("digest", "look", "marks")

    def __init__(self, digest: bytes, marks: dict[Any, bytes] | None, look: GlobalsLook) -> None:
        self.digest: bytes = digest
        self.marks: dict[Any, bytes] | None = marks
        self.look: GlobalsLook = look

    def is_current(self) -> bool:
        """Tell whether the globals are unchanged, as far as a look at them can tell, in the same cell of a notebook."""
        return self.look.is_current()


class Record:
    """The knowledge of this process about one definition object.

    `parts` identifies its version; None for an object that arrived: the process that made it announces its changes.
    `reached` is what a function leads to by the functions that it calls, and how often each had changed when it was sent.
    `written` is the body written last, and the globals it found.
    """

    __slots__ = ("changes", "identities", "identity", "object", "parts", "places", "reached", "written")

    def __init__(self, obj: Any, identity: bytes, parts: Any) -> None:
        self.object: Any = obj
        self.identity: bytes = identity
        self.identities: list[bytes] = [identity]
        self.parts: Any = parts
        self.changes: int = 0
        self.written: Written | None = None
        self.reached: frozenset[Any] | None = None
        self.places: dict[int, Place] = {}  # by the runner's session


class Definitions:
    """The definition objects of this process, by object and by identity.

    Each step is one operation on a dictionary, so threads need no lock.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, Record] = {}
        self._own: dict[bytes, Record] = {}

    def record_of(self, obj: Any, parts_of: Callable[[Any], Any]) -> Record:
        """Return the object's record; a new version of it if its parts have changed since they were written."""
        record = self._by_id.get(id(obj))
        if record is None:
            record = self._add(obj, new_identity(), parts_of(obj))
            if record.parts is not None:
                self._own[record.identity] = record
        elif record.parts is not None:
            parts = parts_of(obj)
            if parts != record.parts:
                record.parts = parts
                record.changes += 1
                self.renew(record)
        return record

    def known_record(self, obj: Any) -> Record | None:
        return self._by_id.get(id(obj))

    def adopt(self, obj: Any, identity: bytes) -> None:
        """Record an object that arrived: other processes know it by this identity."""
        if id(obj) not in self._by_id:
            self._add(obj, identity, None)

    def place(self, obj: Any, identity: bytes, session: int, offset: int, nbytes: int) -> None:
        """Record where the body of an object that arrived lies, as long as others hold it there."""
        record = self._by_id.get(id(obj))
        if record is not None and record.identity == identity and session not in record.places:
            record.places[session] = Place(identity, offset, nbytes, None)

    def leave(self, session: int) -> None:
        """Forget the places in a runner's segment."""
        for record in list(self._by_id.values()):
            record.places.pop(session, None)

    def sent_classes(self) -> list[tuple[type, Record]]:
        """Return the classes of this process whose bodies lie in some segment."""
        records = [record for record in list(self._by_id.values()) if record.places and record.parts is not None]
        return [(obj, record) for record in records if isinstance(obj := _object_of(record), type)]

    def own(self, identity: bytes) -> Any:
        """Return the object of this process that has an identity which it has given out; None for any other."""
        record = self._own.get(identity)
        return None if record is None else _object_of(record)

    def renew(self, record: Record) -> None:
        """Give the object a new version."""
        record.identity = new_identity()
        record.identities.append(record.identity)
        record.places = {}
        self._own[record.identity] = record
        if len(record.identities) > KEPT_VERSIONS:
            self._own.pop(record.identities.pop(0), None)

    def _add(self, obj: Any, identity: bytes, parts: Any) -> Record:
        """Return a record of the object: another thread's, if that was faster."""
        key = id(obj)
        record = Record(obj, identity, parts)

        def forget(_: object) -> None:
            del self._by_id[key]
            for known in record.identities:
                self._own.pop(known, None)
            record.places = {}

        try:
            record.object = weakref.ref(obj, forget)
        except TypeError:  # kept for good: a sentinel, a context variable
            record.object = _Always(obj)
        return self._by_id.setdefault(key, record)


class _Always:
    """Stand-in for a weak reference to an object that cannot have one."""

    __slots__ = ("_object",)

    def __init__(self, obj: Any) -> None:
        self._object = obj

    def __call__(self) -> Any:
        return self._object


def _object_of(record: Record) -> Any:
    return record.object()


definitions: Definitions = Definitions()


# ---- namespaces ------------------------------------------------------------------------------------------------------


class Namespace:
    """Definitions that arrived together, and the modules that hold their functions' globals.

    Parameters
    ----------
    is_drivers : bool
        The driver's own definitions count as known there, and arriving ones never share its modules.
    """

    def __init__(self, is_drivers: bool = False) -> None:
        self.is_drivers = is_drivers
        self.modules: dict[str, ModuleType] = {}
        self.names: dict[tuple[str, str], bytes] = {}  # (module, name) -> identity of the definition there
        self.marks: dict[Any, bytes] = {}  # of the definitions that services brought, see `takes`
        self.unavailable: dict[str, str] = {}  # global that could not be sent -> why
        self._apart: Namespace | None = None  # the last namespace made for definitions that came with a value and disagreed
        self._known: dict[bytes, Any] = {}
        self._places: dict[
            bytes, tuple[bytes, weakref.ref[Client], int]
        ] = {}  # of definitions that came with a value: whose body, where
        self._faded: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()

    def find(self, identity: bytes, *, own: bool = True) -> Any:
        """Return the object of an identity, None if it is not known here. `own`: this process's own objects count."""
        found = self._known.get(identity)
        if found is None and (own or self.is_drivers):
            found = definitions.own(identity)
        return self._faded.get(identity) if found is None else found

    def takes(self, names: dict[tuple[str, str], bytes], marks: dict[Any, bytes] | None) -> bool:
        """Tell whether a service can share this namespace.

        All names that both have must mean the same, in the same state.
        """
        if marks is None:
            return False
        return all(self.names.get(name, identity) == identity for name, identity in names.items()) and all(
            self.marks.get(key, mark) == mark for key, mark in marks.items()
        )

    def place_for(self, names: dict[tuple[str, str], bytes], marks: dict[Any, bytes] | None) -> Namespace:
        """Return the namespace whose modules hold the globals of a definition that came with a value.

        It is this one if the two agree, as for a service.
        """
        place = self
        if not self.takes(names, marks):
            if self._apart is None or not self._apart.takes(names, marks):
                self._apart = Namespace()
            place = self._apart
        place.marks.update(marks or {})
        return place

    def learn(self, identity: bytes, obj: Any) -> None:
        self._known[identity] = obj

    def forget(self, identity: bytes) -> None:
        self._known.pop(identity, None)

    def came_with_value(self, identity: bytes, root: bytes, runtime: Client, offset: int) -> None:
        """Note that a definition came with the body of `root` in the segment.

        Once that body is gone, no process will ever send this identity again.
        """
        self._places[identity] = (root, weakref.ref(runtime), offset)

    def has_moved(self, identity: bytes, offset: int) -> None:
        """Note that a definition's body has been written anew since it came."""
        known = self._places.get(identity)
        if known is not None and known[2] != offset:
            self._places[identity] = (identity, known[1], offset)

    def sweep(self) -> None:
        """Keep definitions whose bodies are gone only as long as something here uses them."""
        for identity, (root, reference, offset) in list(self._places.items()):
            runtime = reference()
            if runtime is None or not runtime.is_definition(root, offset):
                del self._places[identity]
                obj = self._known.pop(identity, None)
                try:
                    self._faded[identity] = obj
                except TypeError:  # it cannot have a weak reference: drop it
                    continue

    def module(self, name: str) -> ModuleType:
        """Return the module object of a name, made on first use; nothing is executed."""
        module = self.modules.get(name)
        if module is None:
            module = self.modules[name] = ModuleType(name)
            module.__dict__["__builtins__"] = builtins
        return module

    def enter(self) -> None:
        """Make this namespace the process's current one: `import __main__` finds its modules."""
        global _default
        _default = self
        sys.modules.update(self.modules)


_default = Namespace(is_drivers=True)


class _Thread(threading.local):
    """The namespace of this thread alone, if any."""

    namespace: Namespace | None = None


_thread = _Thread()


def current_namespace() -> Namespace:
    return _thread.namespace or _default


def use_in_thread(namespace: Namespace | None) -> Namespace | None:
    """Set the namespace of this thread alone; return the previous one."""
    before, _thread.namespace = _thread.namespace, namespace
    return before


# ---- versions --------------------------------------------------------------------------------------------------------


#: Compared by value, not by identity, against ABA: a new object may lie at the address of one that is gone.
ATOMS = (int, float, complex, str, bytes, bool, type(None))


def function_parts(function: FunctionType, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the parts of a function's version: its code, defaults, attributes, cells, and its globals' identities."""
    namespace = function.__globals__
    return (
        function.__code__,
        _marks(function.__defaults__ or ()),
        _marks((function.__kwdefaults__ or {}).values()),
        _marks(function.__dict__.values()),
        _marks(map(_content, function.__closure__ or ())),
        _marks(namespace.get(name) for name in names),
    )


def class_parts(cls: type) -> tuple[Any, ...]:
    """Return the parts of a class's version: its bases, its methods and descriptors, and those of its bases.

    Data in it is state, not a version.
    """
    return tuple((id(base), _behaviour_of(base)) for base in cls.__mro__ if not is_importable(base))


def module_parts(module: ModuleType) -> tuple[Any, ...]:
    """Return the parts of the version of a module made in memory: the objects that it has."""
    return tuple((name, _mark(value)) for name, value in list(vars(module).items()) if not name.startswith("__"))


def _behaviour_of(cls: type) -> tuple[Any, ...]:
    return tuple((name, _mark(value)) for name, value in list(vars(cls).items()) if is_behaviour(value))


def is_behaviour(value: Any) -> bool:
    """Tell whether an attribute of a class is a method or a descriptor, not data."""
    kind = type(value)
    return kind is FunctionType or (hasattr(kind, "__get__") and not isinstance(value, type))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _marks(values: Any) -> tuple[Any, ...]:
    return tuple(map(_mark, values))


class _Same:
    """Equal for one object only, against ABA: not for another object at the address of one that is gone."""

    __slots__ = ("_reference",)

    def __init__(self, reference: weakref.ref[Any]) -> None:
        self._reference = reference

    def __eq__(self, other: object) -> bool:
        return type(other) is _Same and other._reference is self._reference

    __hash__ = None  # type: ignore[assignment]


#: Members up to which a container is compared by them, not only by its address.
MARKED_MEMBERS = 64


def _mark(value: Any, within: bool = False) -> Any:
    """Return a mark that tells a value from its successor, without keeping it alive.

    A reference to a method would keep its class alive.
    """
    kind = type(value)
    if kind in ATOMS:
        return kind, value
    if kind in (list, tuple, set, frozenset, dict):
        if within or len(value) > MARKED_MEMBERS:
            return id(value), len(value)
        members = [*value, *value.values()] if kind is dict else list(value)
        return id(value), [_mark(member, True) for member in members]
    if kind is MappingProxyType:
        return _mark(dict(value), within)[1:]
    if kind is property:
        return _marks((value.fget, value.fset, value.fdel))
    if kind in (classmethod, staticmethod):
        return kind, _mark(value.__func__)
    try:
        same: Any = _Same(weakref.ref(value))
    except TypeError:  # no weak reference to it
        same = id(value)
    return (same, value.__code__) if kind is FunctionType else same


__all__ = [
    "Definitions",
    "Namespace",
    "Place",
    "Record",
    "Written",
    "can_be_imported",
    "class_parts",
    "current_namespace",
    "definitions",
    "files_of",
    "function_parts",
    "is_behaviour",
    "is_importable",
    "is_named",
    "module_parts",
    "new_identity",
    "search_again",
    "use_in_thread",
]
