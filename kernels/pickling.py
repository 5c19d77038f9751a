"""How values that the native codec does not take are pickled, and what a worker's error becomes.

Pickle protocol 5 with buffers out of band, by the C pickler as long as it can; cloudpickle only for what it alone knows. Plain
pickle would write a reference to `__main__` without complaint, so the reducer below looks at every function and class it meets:
what a worker cannot import is a definition (`definitions.py`). A value refers to definitions by their identity; a *body*, of a
definition or of a service, holds them (`bodies.py`).

Futures are found by the pickler wherever they are, not by walking the arguments. In a call they become inputs of the
task; in a value (a result, `put_object`) they are waited for and replaced by their value. NumPy arrays are written
beside the pickle: natively where the codec can, else by `array_pickling`.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import io
import pickle
import sys
import threading
import traceback
from types import CellType, CodeType, FunctionType, ModuleType

from flame_fast.kernels import array_pickling
from flame_fast.kernels.runtime import ObjectFuture, ObjectRef, forget_layouts

from flame_fast.errors import FlameError, RemoteTraceback, TaskError
from flame_fast.kernels import bodies, carried
from flame_fast.kernels.definitions import (
    Namespace,
    Place,
    can_be_imported,
    current_namespace,
    definitions,
    is_importable,
    is_named,
    new_identity,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from flame_fast.kernels.definitions import Record
    from flame_fast.kernels.runtime import DefinitionHold, Runtime

PROTOCOL = 5

#: Exceptions that would end or confuse the driver if they were raised there as themselves.
NOT_RAISED_AS_THEMSELVES = (SystemExit, KeyboardInterrupt, GeneratorExit)


class _NeedsCloudpickle(Exception):
    """Something that plain pickle would write wrongly or not at all."""


#: What pickle writes by itself, without a name.
SINGLETON_TYPES = (type(None), type(...), type(NotImplemented))

#: `Py_TPFLAGS_HEAPTYPE`: classes without it are compiled in, and nothing can make them again.
HEAP_TYPE = 1 << 9

#: What `functools.lru_cache` makes; pickle writes it by name, wherever it is from.
CACHED = type(functools.lru_cache(lambda: None))


class Unpicklable(TypeError):
    """A value that cannot leave its process."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A task's result was it: the driver gets a `TaskError`."""
        return (TaskError, (f"the task's result cannot be sent to the driver: {self}",))


class _Loading(threading.local):
    """What the pickle being read by this thread refers to: the call's inputs, arrays written beside it, where bodies lie."""

    values: list[Any] | None = None
    arrays: list[Any] | None = None
    runtime: Runtime | None = None


_loading = _Loading()


def _input_value(number: int) -> Any:
    assert _loading.values is not None
    return _loading.values[number]


def _array_beside(number: int) -> Any:
    assert _loading.arrays is not None
    return _loading.arrays[number]


class _Reducer:
    """What both picklers do with the objects that are special here."""

    runtime: Runtime | None  # None: a body; arrays in it stay as they are
    inputs: dict[int, Any] | None  # None: no future may stay a future
    arrays: list[Any]  # written beside the pickle, natively
    holds: list[DefinitionHold]  # bodies that the value refers to
    body: bodies.Body  # of a value: what its closures use
    marking: bool  # only to tell one state from another: definitions by their identities

    def special(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is ObjectFuture or kind is ObjectRef:
            return self.reduce_future(obj)
        if kind is CellType:
            return (bodies.new_cell, ())  # its content travels with the functions that have it
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
            return (_rebuild_cached, (obj.__wrapped__, obj.cache_parameters()))
        if kind.__module__.startswith("numba.") and hasattr(obj, "py_func"):
            return _reduce_compiled(obj)
        numpy = sys.modules.get("numpy") if self.runtime is not None else None
        if numpy is not None and isinstance(obj, getattr(numpy, "ndarray", ())):
            return self.reduce_array(obj, numpy)
        if isinstance(obj, BaseException):
            return carried.reduce_exception(obj)
        if bodies.is_enum(kind):
            return bodies.reduce_member(obj)
        if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
            return self.reduce_by_its_own(obj, kind)
        return NotImplemented

    def reduce_by_its_own(self, obj: Any, kind: type) -> Any:
        """Objects with a reduction of their own: it may be no more than a name in a module that no worker can import."""
        if kind in copyreg.dispatch_table or (kind in getattr(self, "dispatch_table", ()) and not bodies.is_of_typing(kind)):
            return NotImplemented
        managers = sys.modules.get("multiprocessing.managers")
        if managers is not None and isinstance(obj, managers.BaseProxy):
            return carried.reduce_manager_proxy(obj)
        reduced = obj.__reduce_ex__(PROTOCOL)
        if not isinstance(reduced, str):
            return reduced
        name = reduced
        module = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
        if module in sys.modules and can_be_imported(sys.modules[module]):
            return name
        if definitions.known_record(obj) is None and getattr(sys.modules.get(module), name, None) is not obj:
            raise pickle.PicklingError(f"{name!r} is not the name of this {kind.__qualname__} in module {module!r}")
        return self.reduce_with_body(obj, functools.partial(bodies.write_named, name, module))

    def reduce_module(self, module: ModuleType) -> Any:
        if can_be_imported(module):
            return (importlib.import_module, (module.__name__,))
        if module.__name__ == "__main__":
            return (bodies.module_named, ("__main__",))
        return self.reduce_with_body(module, bodies.write_module)

    def reduce_with_body(self, obj: Any, write: Callable[[Any, Record, bodies.Body], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Something with an identity: a reference in a value, the body in a body."""
        if self.runtime is not None:
            return self.reference(obj)
        record = definitions.record_of(obj, bodies.parts_of)
        return (bytes, (record.identity,)) if self.marking else write(obj, record, self.body)

    def reduce_definition(self, obj: Any) -> Any:
        """A function or class: by name, by identity, or with its body."""
        if obj in SINGLETON_TYPES or is_importable(obj):
            return NotImplemented
        if isinstance(obj, type):
            if not obj.__flags__ & HEAP_TYPE:
                raise _NeedsCloudpickle
            return self.reduce_with_body(obj, bodies.write_class)
        if not obj.__closure__ or is_named(obj) or definitions.known_record(obj) is not None:
            return self.reduce_with_body(obj, bodies.write_function)
        return bodies.write_function(obj, None, self.body, loose=self.runtime is not None)

    def reference(self, obj: Any) -> tuple[Any, ...]:
        """A definition by its identity, and where its body lies."""
        assert self.runtime is not None
        _, place = _placed(self.runtime, obj)
        hold = place.hold or self.runtime.hold_definition(place.identity, place.offset, place.nbytes)
        if hold is None:  # gone just now
            return self.reference(obj)
        self.holds.append(hold)
        return (_resolve, (place.identity, place.offset, place.nbytes))

    def reduce_array(self, array: Any, numpy: Any) -> Any:
        assert self.runtime is not None
        if type(array) is numpy.ndarray and self.runtime.takes_array(array):
            self.arrays.append(array)
            return (_array_beside, (len(self.arrays) - 1,))
        return array_pickling.reduce_array(array, self.runtime.arrays_read_only)

    def reduce_future(self, future: Any) -> Any:
        if self.inputs is None:
            return (_identity, (future.get(),))
        assert self.runtime is not None
        if not self.runtime.owns(future):
            future = adopt(self.runtime, future)
        return (_input_value, (self.runtime.number_input(self.inputs, future),))


def _reduce_compiled(compiled: Any) -> Any:
    """What Numba compiled goes by name where it can: Numba would send a copy, which its module's cache does not know."""
    if is_importable(compiled):
        return compiled.__qualname__
    if type(getattr(compiled, "_cache", None)).__name__ in ("NoneType", "NullCache"):
        return NotImplemented
    return (_rebuild_compiled, compiled.__reduce__()[:2])


def _rebuild_compiled(rebuild: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """A function of the driver's script that Numba keeps on disk there: so it does here."""
    compiled = rebuild(*args)
    with contextlib.suppress(RuntimeError):  # no place for it
        compiled.enable_caching()
    return compiled


def _rebuild_cached(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _identity(value: Any) -> Any:
    return value


class _PlainPickler(pickle.Pickler, _Reducer):
    def __init__(self, file: Any, dump: _Dump) -> None:
        super().__init__(file, protocol=PROTOCOL, buffer_callback=_buffer_keeper(dump.runtime, dump.buffers))
        dump.equip(self)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (FunctionType, type)):
            return self.reduce_definition(obj)
        return self.special(obj)


class _Dump:
    """One value, or body, being pickled: what lies beside the pickle."""

    def __init__(
        self,
        runtime: Runtime | None,
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
        """Forgets what an attempt that failed has left."""
        if self.inputs:
            self.inputs.clear()
        self.buffers: list[Any] = []
        self.arrays: list[Any] = []
        self.holds: list[DefinitionHold] = []
        self.body = bodies.Body(self.unavailable)

    def equip(self, pickler: Any) -> None:
        for name in ("runtime", "inputs", "arrays", "holds", "body", "marking"):
            setattr(pickler, name, getattr(self, name))

    def write(self, value: Any) -> bytes:
        file = io.BytesIO()
        try:
            _PlainPickler(file, self).dump(value)
            return file.getvalue()
        except (_NeedsCloudpickle, pickle.PicklingError, TypeError, AttributeError):
            self.begin()
        file = io.BytesIO()
        _cloud_pickler(file, self).dump(value)
        return file.getvalue()


def _buffer_keeper(runtime: Runtime | None, buffers: list[Any]) -> Callable[[pickle.PickleBuffer], bool] | None:
    """Buffers out of band, as flat bytes; in band where there is no arena to put them in."""
    if runtime is None:
        return None

    def keep(buffer: pickle.PickleBuffer) -> bool:
        buffers.append(buffer.raw())
        return False  # out of band

    return keep


def _cloud_pickler(file: Any, dump: _Dump) -> pickle.Pickler:
    """The slow pickler: a class made late, since importing cloudpickle costs as much as importing this package."""
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
    dump.equip(pickler)
    return pickler


def _dump(runtime: Runtime | None, value: Any, inputs: dict[int, Any] | None) -> tuple[bytes, _Dump]:
    """The pickle, and what lies beside it. Globals that cannot be pickled are left out, with the reason."""
    unavailable: dict[tuple[int, str], str] = {}
    while True:
        dump = _Dump(runtime, inputs, unavailable)
        try:
            return dump.write(value), dump
        except (FlameError, KeyboardInterrupt):
            raise
        except Exception:
            if not _find_unavailable(dump.body, unavailable, set()):
                raise


def _find_unavailable(body: bodies.Body, unavailable: dict[tuple[int, str], str], visited: set[tuple[int, str]]) -> bool:
    """Looks which of the globals that functions use cannot be pickled; false if none of them is at fault.

    One that fails only for what it uses itself, a class whose method names a connection, is not at fault.
    """
    found = False
    for key, (holder, value) in list(body.seen.items()):
        if key in unavailable or key in visited or isinstance(value, (FunctionType, ModuleType)):
            continue
        visited.add(key)
        trial = _Dump(None, None, unavailable)
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


# ---- definitions -----------------------------------------------------------------------------------------------------


def dump_body(value: Any) -> bytes:
    """A definition, or anything else, with the bodies of all definitions in it: one byte string, arrays in band."""
    data, dump = _dump(None, value, None)
    return _with_names(data, dump.body, {})


def dump_service(target: Any) -> tuple[bytes, list[tuple[str, Any]]]:
    """The body of a service, with what the workers' `__main__` shall have of the driver's; and the globals in it, by name."""
    data, dump = _dump(None, target, None)
    dump.body.note_module("__main__")
    marks = _marks_of(dump.body) if len(data) <= MARKED_BYTES else None
    return _with_names(data, dump.body, marks), [(name, value) for (_, name), (_, value) in dump.body.seen.items()]


def _with_names(data: bytes, body: bodies.Body, marks: dict[Any, bytes] | None) -> bytes:
    if not (body.names or body.modules or body.sources):
        return data
    return BODY_MARK + pickle.dumps((body.names, body.modules, body.sources, marks, data), PROTOCOL)


#: Tells a body with names and sources from a plain pickle, which begins with the protocol's opcode.
BODY_MARK = b"flame_fast body\n"

#: Services of more than so many bytes share no namespace: comparing their globals would cost more than it is worth.
MARKED_BYTES = 1 << 20


def _marks_of(body: bodies.Body) -> dict[Any, bytes]:
    """What tells whether a global, or the state of a class, is as another service found it."""
    marks: dict[Any, bytes] = {}
    for (namespace, name), (_, value) in body.seen.items():
        module = body.module_of(namespace)
        if module is not None:
            marks[module, name] = _mark(value)
    for obj, identity in body.definitions:
        if isinstance(obj, type):
            marks[identity] = _mark(bodies.class_data(obj))
    return marks


def _mark(value: Any) -> bytes:
    import hashlib

    try:
        data = _Dump(None, None, {}, marking=True).write(value)
    except Exception:  # equal to nothing
        return new_identity()
    return hashlib.blake2b(data, digest_size=16).digest()


def choose_namespace(data: bytes, known: Iterable[Namespace]) -> Namespace:
    """The namespace for a service: one that it can share with other services, as they share an imported module; else a new one."""
    if data.startswith(BODY_MARK):
        names, _, _, marks, _ = pickle.loads(data[len(BODY_MARK) :])
        for namespace in known:
            if namespace.takes(names, marks):
                namespace.marks.update(marks)
                return namespace
        chosen = Namespace()
        chosen.marks.update(marks or {})
        return chosen
    return next(iter(known), None) or Namespace()


def load_body(data: bytes, namespace: Namespace | None = None, *, apart: bool = False) -> Any:
    """What `dump_body` wrote, built in a namespace: this process's current one by default.

    `apart`: it came with a value; where its names mean something else in the namespace already, it gets globals of its own.
    """
    namespace = current_namespace() if namespace is None else namespace
    if not data.startswith(BODY_MARK):
        with bodies.building(namespace, Namespace() if namespace.is_drivers else namespace):
            return pickle.loads(data)
    names, modules, sources, _, data = pickle.loads(data[len(BODY_MARK) :])
    bodies.open_sources(sources)
    place = namespace
    if namespace.is_drivers or (apart and any(namespace.names.get(name, value) != value for name, value in names.items())):
        place = Namespace()
    for name, attributes in modules.items():
        for key, value in attributes.items():
            if vars(place.module(name)).get(key) is None:
                setattr(place.module(name), key, value)
    with bodies.building(namespace, place):
        value = pickle.loads(data)
    for (module, name), identity in names.items():
        place.names.setdefault((module, name), identity)
        found = namespace.find(identity)
        if name and found is not None:
            vars(place.module(module)).setdefault(name, found)
    return value


def _placed(runtime: Runtime, obj: Any) -> tuple[Record, Place]:
    """A definition's record, and the place of its body in the runner's segment: written there once per version."""
    record = definitions.record_of(obj, bodies.parts_of)
    place = record.places.get(runtime.session)
    if place is None or (place.hold is None and not runtime.is_definition(place.identity, place.offset)):
        identity = record.identity
        hold = runtime.put_definition(identity, dump_body(obj))
        place = record.places[runtime.session] = Place(identity, hold.offset, hold.nbytes, hold)
    return record, place


def _resolve(identity: bytes, offset: int, nbytes: int) -> Any:
    """In a pickle: `definition`."""
    assert _loading.runtime is not None
    return definition(_loading.runtime, identity, offset, nbytes)


def definition(runtime: Runtime, identity: bytes, offset: int, nbytes: int) -> Any:
    """This process's own object of a definition; reads its body, which the value being read keeps, if it has none yet."""
    namespace = current_namespace()
    found = namespace.find(identity)
    if found is None:
        namespace.sweep()
        with bodies.learning() as learnt:
            load_body(runtime.definition_body(offset, nbytes), namespace, apart=True)
        for known in learnt:
            namespace.came_with_value(known, identity, runtime, offset)
        found = namespace.find(identity)
        definitions.place(found, identity, runtime.session, offset, nbytes)
    return found


def release(runtime: Runtime) -> None:
    """A runner ends: its segment keeps no body any more that this process wrote."""
    definitions.leave(runtime.session)
    forget_layouts(runtime)


#: Forms of `layout_of`: as instances.pxi names them.
IN_DICT, IN_SLOTS, MEMBER = 1, 2, 4


def layout_of(runtime: Runtime, kind: type) -> tuple[Any, ...] | None:
    """How the native codec writes instances of a class; None where pickle does more than copy attributes, or a worker can import it.

    Returns
    -------
    tuple
        Identity, this process's hold on the body or None, its place, the form, names of slots, whether the version is fixed.
    """
    if is_importable(kind) or not kind.__flags__ & HEAP_TYPE:
        return None
    form, slots = (MEMBER, ()) if bodies.is_enum(kind) else bodies.plain_form(kind)
    if not form:
        return None
    record, place = _placed(runtime, kind)
    return place.identity, place.hold, place.offset, place.nbytes, form, slots, record.parts is None


def load(runtime: Runtime, data: Any, buffers: list[Any], arrays: list[Any], values: list[Any] | None) -> Any:
    """What was dumped, with its inputs' values in place of the futures."""
    outer = _loading.values, _loading.arrays, _loading.runtime
    _loading.values, _loading.arrays, _loading.runtime = values, arrays, runtime
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _loading.values, _loading.arrays, _loading.runtime = outer


# ---- calls -----------------------------------------------------------------------------------------------------------


def dump_call(
    runtime: Runtime, state: tuple[Any, ...] | None, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: dict[int, Any]
) -> tuple[bytes, list[Any], list[Any], list[Any]]:
    """Pickles a call, with the function's state if it has one; futures met are added to `inputs`.

    Returns the pickle, buffers out of band, arrays beside it, and holds on the bodies that it refers to.

    Raises
    ------
    TypeError
        Something in it cannot be pickled: names the argument.
    """
    try:
        data, dump = _dump(runtime, (args, kwargs) if state is None else (state, args, kwargs), inputs)
        return data, dump.buffers, dump.arrays, dump.holds
    except Exception as error:
        if _is_own(error):
            raise
        culprit = _culprit(runtime, args, kwargs)
        raise TypeError(f"{culprit} cannot be pickled and sent to a worker: {error}") from error


def _is_own(error: BaseException) -> bool:
    """An error that tells its own story: of a future met on the way, of the store, of a foreign service."""
    return isinstance(error, (FlameError, KeyboardInterrupt))


def _culprit(runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for label, value in named:
        try:
            _dump(runtime, value, {})
        except Exception:
            return f"{label} (of type {type(value).__qualname__})"
    return "something that the function has bound or closes over"


def adopt(runtime: Runtime, future: Any) -> ObjectFuture:
    """A future of `runtime` with the value, or the error, of one of another runner.

    One that is not finished yet is waited for in a thread of its own, since submitting never blocks.
    """
    if future.done():
        local = runtime.promise()
        _pass_on(runtime, local, future)
        return local
    if future.is_lost():
        future.get()  # raises INVALID_STATE
    local = runtime.promise()
    threading.Thread(target=_pass_on, args=(runtime, local, future), name="flame-adopt", daemon=True).start()
    return local


def _pass_on(runtime: Runtime, local: ObjectFuture, future: Any) -> None:
    try:
        value = future.get()
    except BaseException as error:
        runtime.fulfil(local, None, dump_error(error))
        return
    try:
        runtime.fulfil(local, value)
    except BaseException as error:
        runtime.fulfil(local, None, dump_error(error))


# ---- values ----------------------------------------------------------------------------------------------------------


def dump_value(runtime: Runtime, value: Any) -> tuple[bytes, list[Any], list[Any], list[Any]]:
    """Pickles a value, as `dump_call` does a call; futures in it are replaced by their values.

    Raises
    ------
    Unpicklable
        It cannot be pickled: names its type.
    """
    try:
        data, dump = _dump(runtime, value, None)
        return data, dump.buffers, dump.arrays, dump.holds
    except Exception as error:
        if _is_own(error):
            raise
        raise Unpicklable(f"a value of type {type(value).__qualname__} cannot be pickled: {error}") from error


def unreadable(error: Exception) -> TaskError:
    """The error for a value whose own code failed to rebuild it here."""
    return TaskError(f"the value cannot be rebuilt here: {type(error).__qualname__}: {error}")


# ---- errors ----------------------------------------------------------------------------------------------------------


def dump_error(error: BaseException, shown: Callable[[str], str] = str) -> bytes:
    """An exception with its traceback's text, as `load_error` rebuilds it.

    Parameters
    ----------
    error : BaseException
        What the task raised. One that cannot be pickled or rebuilt, and one of `NOT_RAISED_AS_THEMSELVES`, becomes a
        `TaskError` with its text.
    shown : callable
        Turns paths in the traceback's text into the user's own.
    """
    text = shown("".join(traceback.format_exception(type(error), error, _users_frames(error.__traceback__))))
    data = None
    if not isinstance(error, NOT_RAISED_AS_THEMSELVES):
        data = _pickled_exception(error)
    if data is None:
        summary = "".join(traceback.format_exception_only(type(error), error)).strip()
        data = pickle.dumps(TaskError(f"the task raised {summary}; its traceback is the cause of this error"), PROTOCOL)
    return _pair(data, text)


def _users_frames(frames: Any) -> Any:
    """The traceback without the runtime's frames in front of the user's; all of it when there is nothing else."""
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__name__", "").startswith("flame_fast."):
        inner = inner.tb_next
    return inner or frames


def _pickled_exception(error: BaseException) -> bytes | None:
    """Bytes that give an equal exception back, None if there are none."""
    try:
        data = dump_body(error)
        copy = load_body(data)
        if isinstance(error, Unpicklable):
            return data
        same = type(copy) is type(error) and str(copy) == str(error)
        return data if same and isinstance(copy, BaseException) else None
    except Exception:
        return None


def _pair(data: bytes, text: str) -> bytes:
    """The tuple (bytes, str) in the native codec."""
    encoded = text.encode("utf-8", "backslashreplace")
    size = (2).to_bytes(8, "little")
    return b"(" + size + b"b" + len(data).to_bytes(8, "little") + data + b"s" + len(encoded).to_bytes(8, "little") + encoded


def load_error(data: bytes, text: str) -> BaseException:
    """A fresh copy of a task's exception, the worker's traceback as its cause."""
    try:
        error = load_body(data)
    except Exception as problem:
        error = TaskError(f"the task's exception cannot be rebuilt here: {type(problem).__qualname__}: {problem}")
    error.__cause__ = RemoteTraceback(text) if text else None
    return error  # type: ignore[no-any-return]


__all__ = [
    "adopt",
    "choose_namespace",
    "dump_body",
    "dump_call",
    "dump_error",
    "dump_service",
    "dump_value",
    "load",
    "load_body",
    "load_error",
    "release",
    "unreadable",
]
