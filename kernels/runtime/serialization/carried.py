"""Reductions of values that pickle itself refuses, repeats or gets wrong, and that programs with pools carry all the same.

generators of the whole process    by reference: in a worker they are that worker's own
locks, thread-local objects        fresh ones, in definitions only: what they guard is each process's own
context variables                  by identity, with the value that they have
exceptions                         as they are, without running `__init__` on the text that it made
managers' proxies, SharedMemory    with the driver's key; attached to, never unlinked by a worker
weak containers, memoryviews       as their contents
dataclasses' markers               by reference: they are compared by identity

What children of `multiprocessing` inherit stands in `inherited`.
"""

from __future__ import annotations

import sys
from types import FunctionType

from flame_fast.kernels.runtime.serialization import inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


# ---- generators ------------------------------------------------------------------------------------------------------


def reduce_random(generator: Any) -> Any:
    random = sys.modules.get("random")
    if random is not None and generator is random._inst:
        return (_by_path, ("random", "_inst"))
    return NotImplemented


def reduce_numpy_random(generator: Any) -> Any:
    mtrand = sys.modules.get("numpy.random.mtrand")
    if mtrand is None:
        return NotImplemented
    if generator is mtrand._rand:
        return (_by_path, ("numpy.random.mtrand", "_rand"))
    if generator is mtrand._rand._bit_generator:
        return (_by_path, ("numpy.random.mtrand", "_rand", "_bit_generator"))
    return NotImplemented


def _by_path(module: str, *names: str) -> Any:
    import importlib

    found: Any = importlib.import_module(module)
    for name in names:
        found = getattr(found, name)
    return found


def is_global_generator(obj: Any) -> bool:
    """Tell whether an object is the generator behind `random` or `numpy.random`, whose state is each process's own."""
    return reduce_random(obj) is not NotImplemented or reduce_numpy_random(obj) is not NotImplemented


def is_generator(obj: Any) -> bool:
    """Tell whether an object draws random numbers from a state of its own: a generator of Python or NumPy."""
    kind = type(obj)
    return (kind.__module__, kind.__name__) in GENERATORS


GENERATORS = {
    ("random", "Random"),
    ("numpy.random.mtrand", "RandomState"),
    ("numpy.random._generator", "Generator"),
}


# ---- locks, context ---------------------------------------------------------------------------------------------------


GUARDS = {
    *(("_thread", name) for name in ("lock", "RLock", "_local")),
    *(("threading", name) for name in ("Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier")),
}


def is_guard(value: Any) -> bool:
    """Tell whether an object only guards or separates the threads of one process."""
    kind = type(value)
    return (kind.__module__, kind.__qualname__) in GUARDS


def reduce_lock(lock: Any) -> Any:
    return (_fresh, (type(lock).__name__,))


def _fresh(kind: str) -> Any:
    import threading

    return {"lock": threading.Lock, "RLock": threading.RLock, "_local": threading.local}[kind]()


def reduce_context_variable(variable: Any) -> Any:
    try:
        return (_context_variable, (variable.name, (variable.get(),)))
    except LookupError:  # it has no value, and no default
        return (_context_variable, (variable.name, ()))


def _context_variable(name: str, value: tuple[Any, ...]) -> Any:
    import contextvars

    return contextvars.ContextVar(name, default=value[0]) if value else contextvars.ContextVar(name)


# ---- exceptions -------------------------------------------------------------------------------------------------------


def reduce_exception(error: BaseException) -> Any:
    """Reduce an exception with an `__init__` of the user's to a rebuild without it.

    Its arguments were others than `args`.
    """
    kind = type(error)
    if not isinstance(kind.__init__, FunctionType) or kind.__reduce__ is not _compiled_base(kind).__reduce__:
        return NotImplemented
    if kind.__reduce_ex__ is not object.__reduce_ex__:
        return NotImplemented
    reduced: tuple[Any, ...] = tuple(error.__reduce__())
    return (_rebuild_exception, (kind, reduced[1]), *reduced[2:])


def _compiled_base(kind: type) -> Any:
    return next(
        base for base in kind.__mro__ if "__init__" in vars(base) and not isinstance(vars(base)["__init__"], FunctionType)
    )


def _rebuild_exception(kind: Any, args: tuple[Any, ...]) -> Any:
    error = kind.__new__(kind, *args)
    _compiled_base(kind).__init__(error, *args)
    return error


# ---- multiprocessing --------------------------------------------------------------------------------------------------


def reduce_manager_proxy(proxy: Any) -> Any:
    """Reduce a proxy as `multiprocessing` does for the children it starts: with the key that the manager asks for."""
    _, (function, token, serializer, keywords) = proxy.__reduce__()
    keywords = {key: value for key, value in keywords.items() if key != "authkey"}
    return (_rebuild_manager_proxy, (function, token, serializer, keywords, bytes(proxy._authkey)))


def _rebuild_manager_proxy(function: Any, token: Any, serializer: str, keywords: dict[str, Any], key: bytes) -> Any:
    from multiprocessing import managers, process

    process.current_process().authkey = key
    return managers.RebuildProxy(function, token, serializer, {**keywords, "authkey": key})  # type: ignore[attr-defined]


def reduce_shared_memory(memory: Any) -> Any:
    return (attach_shared_memory, (memory.name,))


def attach_shared_memory(name: str) -> Any:
    from multiprocessing import shared_memory

    return shared_memory.SharedMemory(name)


def never_unlink_attached() -> None:
    """Never unlink, at this process's end, shared memory that it only attaches to: another process owns it.

    See python/cpython#82300.
    """
    from multiprocessing import shared_memory

    class SharedMemory(shared_memory.SharedMemory):
        __doc__ = shared_memory.SharedMemory.__doc__

        def __init__(self, name: str | None = None, create: bool = False, size: int = 0, **options: Any) -> None:
            if create or "track" in options:
                super().__init__(name, create, size, **options)
                return
            tracker = shared_memory.resource_tracker  # type: ignore[attr-defined]
            shared_memory.resource_tracker = _NoTracker  # type: ignore[attr-defined]
            try:
                super().__init__(name, create, size)
            finally:
                shared_memory.resource_tracker = tracker  # type: ignore[attr-defined]

        def __reduce__(self) -> tuple[Any, ...]:
            return (attach_shared_memory, (self.name,))

    SharedMemory.__module__ = shared_memory.__name__
    SharedMemory.__qualname__ = "SharedMemory"
    shared_memory.SharedMemory = SharedMemory  # type: ignore[misc]


class _NoTracker:
    """Stand-in for the resource tracker while a process attaches."""

    @staticmethod
    def register(name: str, kind: str) -> None:
        pass


# ---- containers, views, markers ----------------------------------------------------------------------------------------


#: Formats of elements that `memoryview.cast` knows.
CAST_FORMATS = frozenset("bBhHiIlLqQnNfd?c")


def reduce_memoryview(view: memoryview) -> Any:
    """Reduce a memoryview to its elements in C order, of the same format and shape.

    With a format that `memoryview.cast` does not know, it becomes the bytes.
    """
    data: Any = view.tobytes() if view.readonly else bytearray(view.tobytes())
    element = view.format.removeprefix("@")
    has_shape = element in CAST_FORMATS and view.ndim > 0 and view.nbytes > 0
    return (_rebuild_memoryview, (data, element, tuple(view.shape or ())) if has_shape else (data,))


def _rebuild_memoryview(data: Any, element: str = "B", shape: tuple[int, ...] | None = None) -> memoryview:
    return memoryview(data) if shape is None else memoryview(data).cast(element, shape)  # type: ignore[call-overload]


def reduce_weak_mapping(mapping: Any) -> Any:
    return (_weak_container, (type(mapping), list(mapping.items())))


def reduce_weak_set(members: Any) -> Any:
    return (_weak_container, (type(members), list(members)))


def _weak_container(kind: Any, contents: list[Any]) -> Any:
    made = kind(contents)
    made._contents = contents  # keep-alive: nothing else here refers to them
    return made


def reduce_dataclass_marker(marker: Any) -> Any:
    dataclasses = sys.modules["dataclasses"]
    for name, value in list(vars(dataclasses).items()):
        if value is marker:
            return (_by_path, ("dataclasses", name))
    return NotImplemented


def reduce_property(value: property) -> Any:
    return (property, (value.fget, value.fset, value.fdel, value.__doc__))


def reduce_method_wrapper(value: Any) -> Any:
    return (type(value), (value.__func__,))


def reduce_method(method: Any) -> Any:
    """Reduce a method to its function and instance.

    Pickle would look its name up in a class that does not have it yet.
    """
    return (type(method), (method.__func__, method.__self__))


def reduce_mapping_proxy(mapping: Any) -> Any:
    from types import MappingProxyType

    return (MappingProxyType, (dict(mapping),))


#: By the module and the name of a type: the lookup imports nothing.
REDUCERS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("random", "Random"): reduce_random,
    ("numpy.random.mtrand", "RandomState"): reduce_numpy_random,
    ("numpy.random._mt19937", "MT19937"): reduce_numpy_random,
    ("multiprocessing.shared_memory", "SharedMemory"): reduce_shared_memory,
    **inherited.REDUCERS,
    ("builtins", "memoryview"): reduce_memoryview,
    ("weakref", "WeakValueDictionary"): reduce_weak_mapping,
    ("weakref", "WeakKeyDictionary"): reduce_weak_mapping,
    ("_weakrefset", "WeakSet"): reduce_weak_set,
    ("dataclasses", "_MISSING_TYPE"): reduce_dataclass_marker,
    ("dataclasses", "_FIELD_BASE"): reduce_dataclass_marker,
    ("dataclasses", "_KW_ONLY_TYPE"): reduce_dataclass_marker,
    ("dataclasses", "_HAS_DEFAULT_FACTORY_CLASS"): reduce_dataclass_marker,
    ("builtins", "property"): reduce_property,
    ("builtins", "classmethod"): reduce_method_wrapper,
    ("builtins", "staticmethod"): reduce_method_wrapper,
    ("builtins", "mappingproxy"): reduce_mapping_proxy,
}

#: In definitions only: as arguments they are refused, as by every pool.
REDUCERS_IN_BODIES: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("_thread", "lock"): reduce_lock,
    ("_thread", "RLock"): reduce_lock,
    ("_thread", "_local"): reduce_lock,
    ("_contextvars", "ContextVar"): reduce_context_variable,
    ("builtins", "method"): reduce_method,
}
