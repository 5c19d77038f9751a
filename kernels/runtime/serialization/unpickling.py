"""How pickles are read: values with their inputs and arrays beside them, bodies of definitions, and what refers to either.

Pickles name the functions of this module, of `building`, of `carried` and of `array_pickling`, and nothing else of the
package.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import threading

from flame_fast.kernels.runtime.serialization import building
from flame_fast.kernels.runtime.serialization.definitions import Namespace, current_namespace, definitions

from flame_fast.errors import TaskError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from flame_fast.kernels.runtime import Client


#: Tells a body with names and sources from a plain pickle, which begins with the protocol's opcode.
BODY_MARK = b"flame_fast body\n"


class _Loading(threading.local):
    """What the pickle being read by this thread refers to: the call's inputs, arrays written beside it, where bodies lie."""

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
    """What was dumped, with its inputs' values in place of the futures."""
    outer = _loading.values, _loading.arrays, _loading.runtime
    _loading.values, _loading.arrays, _loading.runtime = values, arrays, runtime
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _loading.values, _loading.arrays, _loading.runtime = outer


# ---- what pickles name ------------------------------------------------------------------------------------------------


def rebuild_compiled(rebuild: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """A function of the driver's script that Numba keeps on disk there: so it does here."""
    compiled = rebuild(*args)
    with contextlib.suppress(RuntimeError):  # no place for it
        compiled.enable_caching()
    return compiled


def rebuild_cached(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def identity(value: Any) -> Any:
    return value


# ---- definitions -----------------------------------------------------------------------------------------------------


def choose_namespace(data: bytes, known: Iterable[Namespace]) -> Namespace:
    """The namespace for a service: one that it can share with others, as they would share an imported module; else a new
    one.
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
    """What `dump_body` wrote, built in a namespace: this process's current one by default.

    `apart`: it came with a value; where its names mean something else in the namespace already, it gets other globals: those
    that the one before got, if they agree.
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
    """In a pickle: `definition`."""
    assert _loading.runtime is not None
    return definition(_loading.runtime, identity, offset, nbytes)


def definition(runtime: Client, identity: bytes, offset: int, nbytes: int) -> Any:
    """This process's own object of a definition; reads its body, which the value being read keeps, if it has none yet."""
    namespace = current_namespace()
    found = namespace.find(identity)
    if found is None:
        namespace.sweep()
        try:
            with building.learning() as learnt:
                load_body(runtime.definition_body(offset, nbytes), namespace, apart=True)
        except Exception as error:
            raise unreadable(error) from error
        for known in learnt:
            namespace.came_with_value(known, identity, runtime, offset)
        found = namespace.find(identity)
        definitions.place(found, identity, runtime.session, offset, nbytes)
    else:
        namespace.has_moved(identity, offset)
    return found


def unreadable(error: Exception) -> TaskError:
    """The error for a value whose own code failed to rebuild it here."""
    return TaskError(f"the value cannot be rebuilt here: {type(error).__qualname__}: {error}")
