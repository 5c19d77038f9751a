"""Reading pickles: values with their dependencies and arrays beside them, and bodies of definitions.

Pickles name the functions of this module, of `building`, of `carried` and of `arrays`, and nothing else of the package.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import threading

from flame_fast.kernels.runtime.serialization import building
from flame_fast.kernels.runtime.serialization.definitions import Namespace, current_namespace, definitions

from flame_fast.errors import TaskError
from flame_fast.interrupts import is_of_a_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from flame_fast.kernels.runtime import Client


#: Prefix of a body with names and sources; a plain pickle begins with the protocol's opcode.
BODY_MARK = b"flame_fast body\n"


class _Loading(threading.local):
    """The objects that the pickle this thread reads refers to.

    They are the call's dependencies, arrays written beside the pickle, and the runtime where bodies lie.
    """

    values: list[Any] | None = None
    arrays: list[Any] | None = None
    runtime: Client | None = None


_loading = _Loading()


def input_value(number: int) -> Any:
    assert _loading.values is not None
    return _loading.values[number]


def array_beside(number: int) -> Any:
    assert _loading.arrays is not None
    return _loading.arrays[number]


def load(runtime: Client, data: Any, buffers: list[Any], arrays: list[Any], values: list[Any] | None) -> Any:
    """Load a pickled value, with its dependencies' values in place of the futures."""
    outer = _loading.values, _loading.arrays, _loading.runtime
    _loading.values, _loading.arrays, _loading.runtime = values, arrays, runtime
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _loading.values, _loading.arrays, _loading.runtime = outer


# ---- functions that pickles name --------------------------------------------------------------------------------------


def rebuild_compiled(data: bytes, cached: bool) -> Any:
    """Rebuild a function of the driver's script that Numba has compiled there; cache it here if it is cached there."""
    compiled = pickle.loads(data)
    if cached and type(compiled._cache).__name__ == "NullCache":
        with contextlib.suppress(RuntimeError):  # no place for it
            compiled.enable_caching()
    return compiled


def rebuild_cached(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def identity(value: Any) -> Any:
    return value


# ---- definitions -----------------------------------------------------------------------------------------------------


def choose_namespace(data: bytes, known: Iterable[Namespace]) -> Namespace:
    """Return the namespace for a service: one that it can share with others, else a new one.

    Services share a namespace as they would share an imported module.
    """
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
    """Load a body of `dump_body` into a namespace; by default this process's current one.

    `apart`: it came with a value. If its names mean something else in the namespace already, it gets other globals: those of
    the previous such body, if the two agree.
    """
    namespace = current_namespace() if namespace is None else namespace
    if not data.startswith(BODY_MARK):
        with building.building_in(namespace, Namespace() if namespace.is_drivers else namespace):
            return pickle.loads(data)
    names, modules, sources, marks, data = pickle.loads(data[len(BODY_MARK) :])
    building.open_sources(sources)
    place = namespace
    if namespace.is_drivers:
        place = Namespace()
    elif apart:
        place = namespace.place_for(names, marks)
    for name, attributes in modules.items():
        for key, value in attributes.items():
            if vars(place.module(name)).get(key) is None:
                setattr(place.module(name), key, value)
    with building.building_in(namespace, place):
        value = pickle.loads(data)
    for (module, name), identity in names.items():
        place.names.setdefault((module, name), identity)
        found = namespace.find(identity)
        if name and found is not None:
            vars(place.module(module)).setdefault(name, found)
    return value


def resolve(identity: bytes, offset: int, nbytes: int) -> Any:
    """Return the `definition` that a pickle refers to."""
    assert _loading.runtime is not None
    return definition(_loading.runtime, identity, offset, nbytes)


def definition(runtime: Client, identity: bytes, offset: int, nbytes: int) -> Any:
    """Return this process's own object of a definition; if it has none yet, read its body.

    The value being read keeps the body in the segment.
    """
    namespace = current_namespace()
    found = namespace.find(identity)
    if found is None:
        namespace.sweep()
        try:
            with building.learning() as learnt:
                load_body(runtime.definition_body(offset, nbytes), namespace, apart=True)
        except BaseException as error:
            raise unreadable(error) from error
        for known in learnt:
            namespace.came_with_value(known, identity, runtime, offset)
        found = namespace.find(identity)
        definitions.place(found, identity, runtime.session, offset, nbytes)
    else:
        namespace.has_moved(identity, offset)
    return found


def unreadable(error: BaseException) -> TaskError:
    """Return the error for a value whose own code failed to rebuild it here.

    Raises
    ------
    BaseException
        The error itself, if a handler of a signal has raised it, as of a Ctrl-C: no fault of the value.
    """
    if is_of_a_signal(error):
        raise error
    if isinstance(error, TaskError):  # of something in the value
        return TaskError(error.message)
    return TaskError(f"the value cannot be rebuilt here: {type(error).__qualname__}: {error}")
