"""The picklers: they write values with the parts that lie beside them, and bodies of definitions and services.

Pickle protocol 5 with buffers out of band, by the C pickler as long as it can; cloudpickle only for the objects that it
alone knows. Plain pickle would write a reference to `__main__` without complaint, so the reducer below looks at every
function and class it meets: if a worker cannot import it, it is a definition (`definitions.py`). A value refers to
definitions by their identity; a *body*, of a definition or of a service, holds them (`bodies.py`).

The pickler finds futures wherever they are; nothing walks the arguments. NumPy arrays are written beside the pickle:
natively where the codec can, else by `arrays.py`.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import io
import pickle
import sys
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodWrapperType, ModuleType

from flame_fast.kernels.runtime import GlobalsLook, ObjectFuture, ObjectRef, forget_layouts
from flame_fast.kernels.runtime.serialization import (
    arrays,
    bodies,
    building,
    by_file,
    carried,
    compiled,
    inherited,
    unpickling,
)
from flame_fast.kernels.runtime.serialization.definitions import (
    Place,
    Written,
    can_be_imported,
    definitions,
    files_of,
    is_importable,
    is_named,
    new_identity,
    search_again,
)

from flame_fast.errors import FlameError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.runtime import Client, DefinitionHold
    from flame_fast.kernels.runtime.serialization.definitions import Record

PROTOCOL = 5


class _NeedsCloudpickle(Exception):
    """Raised for an object that plain pickle would write wrongly or not at all."""


#: Types that pickle writes by itself, without a name.
SINGLETON_TYPES = (type(None), type(...), type(NotImplemented))

#: Compiled types of which some objects pickle by their name.
NAMED_SOMETIMES = (BuiltinFunctionType, MethodWrapperType)

#: Types that pickle needs no help with: compiled ones, and imported classes without a reduction of their own.
_ordinary: set[type] = set()

#: The type that `functools.lru_cache` makes; pickle writes it by name, whatever module it is from.
CACHED = type(functools.lru_cache(lambda: None))


class _Reducer:
    """Reductions of special objects, for both picklers."""

    runtime: Client | None  # None: a body; arrays in it stay as they are
    beside: Dump  # the parts beside the pickle

    def special(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in _ordinary:
            return NotImplemented
        if issubclass(kind, (ObjectFuture, ObjectRef)):
            return self.reduce_future(obj)
        if kind is CellType:
            return (building.new_cell, ())  # its content travels with the functions that have it
        reducer = carried.REDUCERS.get((kind.__module__, kind.__qualname__))
        if reducer is None and self.runtime is None:
            reducer = carried.REDUCERS_IN_BODIES.get((kind.__module__, kind.__qualname__))
        if reducer is not None:
            reduced = reducer(obj)
            if reduced is not NotImplemented:
                return reduced
        if isinstance(obj, ModuleType):
            return self.reduce_module(obj)
        if isinstance(obj, CACHED) and not is_importable(obj):
            if is_named(obj) or definitions.known_record(obj) is not None:
                return self.reduce_with_body(obj, bodies.write_cached)
            return (unpickling.rebuild_cached, (obj.__wrapped__, obj.cache_parameters()))
        if compiled.is_made_by_numba(kind):
            return compiled.reduce(obj)
        if compiled.is_compiled_instance(kind):
            compiled.refuse_instance(obj)
        numpy = sys.modules.get("numpy") if self.runtime is not None else None
        if numpy is not None and isinstance(obj, getattr(numpy, "ndarray", ())):
            return self.reduce_array(obj, numpy)
        if isinstance(obj, BaseException):
            return carried.reduce_exception(obj)
        if bodies.is_enum(kind):
            return bodies.reduce_member(obj)
        if bodies.overrides(kind, "__reduce_ex__") or bodies.overrides(kind, "__reduce__"):
            return self.reduce_by_its_own(obj, kind)
        return _note_ordinary(kind)

    def reduce_by_its_own(self, obj: Any, kind: type) -> Any:
        """Reduce an object with a reduction of its own.

        That may be no more than a name in a module which no worker can import.
        """
        if kind in copyreg.dispatch_table or (kind in getattr(self, "dispatch_table", ()) and not bodies.is_of_typing(kind)):
            return NotImplemented
        managers = sys.modules.get("multiprocessing.managers")
        if managers is not None and isinstance(obj, managers.BaseProxy):
            return carried.reduce_manager_proxy(obj)
        if "multiprocessing.heap" in sys.modules and inherited.is_shared_ctype(obj):
            return inherited.reduce_shared_ctype(obj)
        reduced = obj.__reduce_ex__(PROTOCOL)
        if not isinstance(reduced, str):
            return reduced if kind.__flags__ & bodies.HEAP_TYPE or kind in NAMED_SOMETIMES else _note_ordinary(kind)
        name = reduced
        module = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
        is_there = getattr(sys.modules.get(module), name, None) is obj
        if not is_there and bodies.is_of_typing(kind):  # of a function, or of a class's parameters
            return self.reduce_with_body(obj, functools.partial(bodies.write_named, "", module))
        if module in sys.modules and can_be_imported(sys.modules[module]):
            return name if (found := by_its_files(module, name)) is NotImplemented else found
        if not is_there and definitions.known_record(obj) is None:
            raise pickle.PicklingError(f"{name!r} is not the name of this {kind.__qualname__} in module {module!r}")
        return self.reduce_with_body(obj, functools.partial(bodies.write_named, name, module))

    def reduce_module(self, module: ModuleType) -> Any:
        if can_be_imported(module):
            found = by_its_files(module.__name__, "")
            return (importlib.import_module, (module.__name__,)) if found is NotImplemented else found
        if module.__name__ == "__main__":
            return (building.module_named, ("__main__",))
        return self.reduce_with_body(module, bodies.write_module)

    def reduce_with_body(self, obj: Any, write: Callable[[Any, Record, bodies.Body], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Reduce an object with an identity: to a reference in a value, to its body in a body."""
        if self.runtime is not None:
            return self.reference(obj)
        record = definitions.record_of(obj, bodies.parts_of)
        return (bytes, (record.identity,)) if self.beside.marking else write(obj, record, self.beside.body)

    def reduce_definition(self, obj: Any) -> Any:
        """Reduce a function or class: to its name, its identity, or its body."""
        if obj in SINGLETON_TYPES:
            return NotImplemented
        if is_importable(obj):
            return by_its_files(obj.__module__, obj.__qualname__)
        if isinstance(obj, type):
            if compiled.is_compiled_class(obj):
                return compiled.reduce_class(obj)
            if not obj.__flags__ & bodies.HEAP_TYPE:
                raise _NeedsCloudpickle
            return self.reduce_with_body(obj, bodies.write_class)
        if not obj.__closure__ or is_named(obj) or definitions.known_record(obj) is not None:
            return self.reduce_with_body(obj, bodies.write_function)
        return bodies.write_function(obj, None, self.beside.body, loose=self.runtime is not None)

    def reference(self, obj: Any) -> tuple[Any, ...]:
        """Reduce a definition to its identity, and the place of its body."""
        assert self.runtime is not None
        _, place = placed(self.runtime, obj)
        hold = place.hold or self.runtime.hold_definition(place.identity, place.offset, place.nbytes)
        if hold is None:  # gone just now
            return self.reference(obj)
        self.beside.holds.append(hold)
        return (unpickling.resolve, (place.identity, place.offset, place.nbytes))

    def reduce_array(self, array: Any, numpy: Any) -> Any:
        assert self.runtime is not None
        if type(array) is numpy.ndarray and self.runtime.takes_array(array):
            self.beside.arrays.append(array)
            return (unpickling.array_beside, (len(self.beside.arrays) - 1,))
        return arrays.reduce_array(array, self.runtime.arrays_read_only)

    def reduce_future(self, future: Any) -> Any:
        if self.beside.inputs is None:
            return (unpickling.identity, (future.get(),))
        assert self.runtime is not None
        if not self.runtime.owns(future):
            future = self.runtime.pickling.adopt(self.runtime, future)
        return (unpickling.input_value, (self.runtime.number_dependency(self.beside.inputs, future),))


def note_package(session: int, holds: Callable[[str], bool] | None) -> None:
    """Note what a runner has packaged: a worker can import the modules there by their files. None: the runner has ended."""
    by_file.note_package(session, holds)
    if search_again():
        forget_layouts()


def by_its_files(module: str, qualified: str) -> Any:
    """Reduce an object that a worker finds by its name to that and the files that lead there.

    NotImplemented: the name is enough. No qualified name: the module.
    """
    files = files_of(sys.modules[module])
    return (building.from_files, (files, module, qualified)) if files else NotImplemented


def _note_ordinary(kind: type) -> Any:
    """Remember that pickle needs no help with a type.

    Only if that holds for all its objects, in values and in bodies.
    """
    name = kind.__module__, kind.__qualname__
    is_special = name in carried.REDUCERS or name in carried.REDUCERS_IN_BODIES or hasattr(kind, "__array_finalize__")
    if not is_special and is_importable(kind):
        _ordinary.add(kind)
    return NotImplemented


class _PlainPickler(pickle.Pickler, _Reducer):
    def __init__(self, file: Any, dump: Dump) -> None:
        super().__init__(file, protocol=PROTOCOL, buffer_callback=_buffer_keeper(dump.runtime, dump.buffers))
        self.beside = dump
        self.runtime = dump.runtime

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (FunctionType, type)):
            return self.reduce_definition(obj)
        return self.special(obj)


class Dump:
    """One value, or body, being pickled, and the parts beside its pickle."""

    def __init__(
        self,
        runtime: Client | None,
        inputs: dict[int, Any] | None,
        unavailable: dict[tuple[int, str], str],
        marking: bool = False,
    ) -> None:
        self.marking = marking
        self.runtime = runtime
        self.inputs = inputs
        self.unavailable = unavailable
        self.begin()

    def begin(self) -> None:
        """Discard the parts of an attempt that failed."""
        if self.inputs:
            self.inputs.clear()
        self.buffers: list[Any] = []
        self.arrays: list[Any] = []
        self.holds: list[DefinitionHold] = []
        self._body: bodies.Body | None = None

    @property
    def body(self) -> bodies.Body:
        """The definitions gathered, from the first one on."""
        if self._body is None:
            self._body = bodies.Body(self.unavailable)
        return self._body

    def write(self, value: Any) -> None:
        file = io.BytesIO()
        try:
            _PlainPickler(file, self).dump(self._whole(value))
            self.data: bytes = file.getvalue()
            return
        except (_NeedsCloudpickle, pickle.PicklingError, TypeError, AttributeError):
            self.begin()
        file = io.BytesIO()
        _cloud_pickler(file, self).dump(self._whole(value))
        self.data = file.getvalue()

    def _whole(self, value: Any) -> Any:
        return bodies.Whole(value, self.body) if self.runtime is None else value


def _buffer_keeper(runtime: Client | None, buffers: list[Any]) -> Callable[[pickle.PickleBuffer], bool] | None:
    """Return a callback that keeps buffers out of band, as flat bytes; None keeps them in band.

    A body has no arena to put them in.
    """
    if runtime is None:
        return None

    def keep(buffer: pickle.PickleBuffer) -> bool:
        buffers.append(buffer.raw())
        return False  # out of band

    return keep


def _cloud_pickler(file: Any, dump: Dump) -> pickle.Pickler:
    """Return the slow pickler.

    The function makes its class late, since importing cloudpickle costs as much as importing this package.
    """
    import cloudpickle

    class CloudPickler(cloudpickle.Pickler, _Reducer):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (FunctionType, type)):
                with contextlib.suppress(_NeedsCloudpickle):
                    return self.reduce_definition(obj)
                return super().reducer_override(obj)
            if isinstance(obj, CodeType):
                return NotImplemented
            reduced = self.special(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    pickler = CloudPickler(file, protocol=PROTOCOL, buffer_callback=_buffer_keeper(dump.runtime, dump.buffers))
    pickler.beside = dump
    pickler.runtime = dump.runtime
    return pickler


def write(runtime: Client | None, value: Any, inputs: dict[int, Any] | None) -> Dump:
    """Pickle a value; without a runtime, pickle it as a body.

    Leaves out globals that cannot be pickled, with the reason.
    """
    unavailable: dict[tuple[int, str], str] = {}
    while True:
        dump = Dump(runtime, inputs, unavailable)
        try:
            dump.write(value)
            return dump
        except (FlameError, KeyboardInterrupt):
            raise
        except Exception:
            if not _find_unavailable(dump.body, unavailable, set()):
                raise


def _find_unavailable(body: bodies.Body, unavailable: dict[tuple[int, str], str], visited: set[tuple[int, str]]) -> bool:
    """Find the globals of functions that cannot be pickled; return False if none of them is at fault.

    A global that fails only for an object it uses itself, as a class whose method names a connection does, is not at fault.
    """
    found = False
    for key, (holder, value) in list(body.seen.items()):
        if key in unavailable or key in visited or isinstance(value, (FunctionType, ModuleType)):
            continue
        visited.add(key)
        trial = Dump(None, None, unavailable)
        try:
            trial.write(value)
        except Exception as error:
            found = True
            if not _find_unavailable(trial.body, unavailable, visited):
                unavailable[key] = (
                    f"{body.chain(holder, key[1])}: {str(error) or type(error).__name__}; "
                    "make it inside the function, or in the task that uses it"
                )
    return found


# ---- bodies ----------------------------------------------------------------------------------------------------------

#: Services of more bytes than this share no namespace: comparing their globals would cost more than it is worth.
MARKED_BYTES = 1 << 20


def dump_body(value: Any) -> bytes:
    """Pickle a value with the bodies of all definitions in it: one byte string, arrays in band."""
    return _with_names(write(None, value, None), {})


def dump_definition(obj: Any) -> tuple[bytes, Written]:
    """Pickle a definition, with marks that tell where it arrives whether the globals there are those it was sent with."""
    dump = write(None, obj, None)
    marks = _marks_of_globals(dump.body) if len(dump.data) <= MARKED_BYTES else None
    body = _with_names(dump, marks)
    return body, Written(_digest(body), marks, GlobalsLook(dump.body.uses()))


def dump_service(target: Any) -> tuple[bytes, list[tuple[str, Any]], GlobalsLook]:
    """Pickle a service with the content of the workers' `__main__`; return its body, and the globals in it by name.

    And a look at those, which tells later whether they are still the same.
    """
    dump = write(None, target, None)
    dump.body.note_module("__main__")
    marks = {**_marks_of_sent(), **_marks_of(dump.body)} if len(dump.data) <= MARKED_BYTES else None
    used = [(name, value) for (_, name), (_, value) in dump.body.seen.items()]
    return _with_names(dump, marks), used, GlobalsLook(dump.body.uses())


def is_same_service(body: bytes, other: bytes) -> bool:
    """Tell whether two bodies of `dump_service` bring the same; their marks are of what else was sent by then, too."""
    return body == other or _without_marks(body) == _without_marks(other)


def _without_marks(body: bytes) -> Any:
    if not body.startswith(unpickling.BODY_MARK):
        return body
    names, modules, sources, _, data = pickle.loads(body[len(unpickling.BODY_MARK) :])
    return names, modules, sources, data


def _with_names(dump: Dump, marks: dict[Any, bytes] | None) -> bytes:
    body = dump.body
    if not (body.names or body.modules or body.sources):
        return dump.data
    return unpickling.BODY_MARK + pickle.dumps((body.names, body.modules, body.sources, marks, dump.data), PROTOCOL)


def _marks_of(body: bodies.Body) -> dict[Any, bytes]:
    """Return marks that tell whether a global, or the state of a class, is as another service found it."""
    marks = _marks_of_globals(body)
    for obj, identity in body.definitions:
        if isinstance(obj, type):
            marks[identity] = _mark(bodies.class_data(obj))
    return marks


def _marks_of_sent() -> dict[Any, bytes]:
    """Return marks of the globals that the classes sent with values find in their modules now.

    Bodies that are out of date are written anew. So a service made now shares no namespace with one whose globals were
    others, whatever it uses itself.
    """
    marks: dict[Any, bytes] = {}
    for cls, record in definitions.sent_classes():
        written = record.written
        if written is None or not written.is_current():
            with contextlib.suppress(Exception):  # no longer picklable: the caller that sends it gets the error
                _, record.written = dump_definition(cls)
                if written is None or record.written.digest != written.digest:
                    record.places = {}
                    forget_layouts()
        marks.update((record.written and record.written.marks) or {})
    return marks


def _marks_of_globals(body: bodies.Body) -> dict[Any, bytes]:
    marks: dict[Any, bytes] = {}
    for (namespace, name), (_, value) in body.seen.items():
        module = body.module_of(namespace)
        if module is not None:
            marks[module, name] = _mark(value)
    return marks


def _digest(data: bytes) -> bytes:
    import hashlib

    return hashlib.blake2b(data, digest_size=16).digest()


def _mark(value: Any) -> bytes:
    try:
        dump = Dump(None, None, {}, marking=True)
        dump.write(value)
    except Exception:  # equal to nothing
        return new_identity()
    return _digest(dump.data)


def placed(runtime: Client, obj: Any) -> tuple[Record, Place]:
    """Return a definition's record, and the place of its body in the runner's segment.

    The body is written there once per version.
    """
    record = definitions.record_of(obj, bodies.parts_of)
    if isinstance(obj, FunctionType) and record.parts is not None:
        bodies.follow_changes(obj)
        if record.places and record.written is not None and not record.written.is_current():
            _write_again(obj, record, record.written)
    place = record.places.get(runtime.session)
    if place is None or (place.hold is None and not runtime.is_definition(place.identity, place.offset)):
        identity = record.identity
        body, record.written = dump_definition(obj)
        hold = runtime.put_definition(identity, body)
        place = record.places[runtime.session] = Place(identity, hold.offset, hold.nbytes, hold)
    return record, place


def _write_again(obj: Any, record: Record, before: Written) -> None:
    """Write a body whose globals may have changed in place, and make a new version of the definition if they have."""
    _, record.written = dump_definition(obj)
    if record.written.digest != before.digest:
        definitions.renew(record)


def layout_of(runtime: Client, kind: type) -> tuple[Any, ...] | None:
    """Return how the native codec writes instances of a class.

    None if a worker can import it, or if pickle does more than copy attributes.

    Returns
    -------
    tuple
        Identity, this process's hold on the body or None, its place, the form, names of slots, whether the version is fixed.
    """
    if is_importable(kind) or not kind.__flags__ & bodies.HEAP_TYPE:
        return None
    form, slots = bodies.plain_form(kind)
    if not form:
        return None
    record, place = placed(runtime, kind)
    return place.identity, place.hold, place.offset, place.nbytes, form, slots, record.parts is None
