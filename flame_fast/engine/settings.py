"""Settings of the driver's process that a fork would carry into its workers, and that a start by exec loses.

    Runner() --taken()--> plan in the segment --> worker, before its first service: apply()

Guarantees: a task finds them as they were in the driver when the Runner was made. The driver loads nothing for them: it asks
modules that are loaded already. A call costs nothing more. A worker sets those of a library once the library is loaded.

What travels by the supervisor's start (`engine.spawn`) is not here: environment, directory, umask, options of Python.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import sys
import warnings
from _thread import get_ident

from flame_fast.engine.import_watch import ImportWatch
from flame_fast.kernels.runtime import serialization
from flame_fast.kernels.runtime.serialization.definitions import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, ClassVar

    from flame_fast.engine.thread_limits import Libraries


def _set_thresholds(thresholds: tuple[int, int, int]) -> None:
    gc.set_threshold(*thresholds)


#: Settings that one function returns and another one takes. `threading.stack_size()` is none: to ask for it resets it.
FUNCTIONS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (gc.get_threshold, _set_thresholds),
)

#: Attributes of `sys`.
ATTRIBUTES = ("dont_write_bytecode", "pycache_prefix")

#: What of a decimal context is a setting; its flags tell what has happened.
CONTEXT = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")

#: What a worker imports by itself, beside the standard library. None of it adds filters.
OWN_IMPORTS = frozenset({"flame_fast", "threadpoolctl"})

#: NumPy's settings that are the user's objects.
NUMPY_OBJECTS = ("formatter", "override_repr", "errcall")

#: The filters that this process was started with.
FILTERS_AT_START: list[Any] = list(warnings.filters)

#: Packages that the supervisor has imported for its workers, in their order, each with the filters that it has added.
ADDED: list[tuple[str, list[Any]]] = []


def taken() -> dict[str, Any]:
    """Return the settings of this process and thread, as plain values."""
    return {
        "functions": [get() for get, _ in FUNCTIONS],
        "attributes": [getattr(sys, name, None) for name in ATTRIBUTES],
        "collects": gc.isenabled(),
        "modules": [name for name in sys.modules if "." not in name],
        "warnoptions": list(sys.warnoptions),
        "filters": _described_filters(),
        "locale": _of_loaded("_locale", _locale),
        "decimal": _of_loaded("decimal", _decimal),
        "numpy": _of_loaded("numpy", _numpy),
    }


def apply(settings: dict[str, Any], libraries: Libraries) -> None:
    """Set in this worker what `taken` has returned in the driver, now or when `libraries` finds the library loaded."""
    for (get, change), value in zip(FUNCTIONS, settings["functions"], strict=True):
        if get() != value:
            _attempt(change, value)
    for name, value in zip(ATTRIBUTES, settings["attributes"], strict=True):
        setattr(sys, name, value)
    if not settings["collects"]:
        gc.disable()
    _Driver.modules = frozenset(settings["modules"])
    ImportWatch(_adds_known_filters, _keep_order).begin()
    _set_filters([_filter(*one) for one in settings["filters"]], _in_front(set(settings["warnoptions"])))
    if settings["locale"] is not None:
        _attempt(_set_locale, settings["locale"])
    if settings["decimal"] is not None:
        libraries.when_loaded("decimal", lambda: _set_decimal(*settings["decimal"]))
    if settings["numpy"] is not None:
        libraries.when_loaded("numpy", lambda: _set_numpy(*settings["numpy"]))


def _attempt(change: Callable[[Any], object], value: Any) -> None:
    """Change a setting, if that is possible here: a recursion limit may be below the depth of now."""
    with contextlib.suppress(Exception):
        change(value)


def _of_loaded(name: str, take: Callable[[Any], Any]) -> Any:
    """Return what is taken from a module; None if it is not loaded, or not to its end."""
    module = sys.modules.get(name)
    try:
        return None if module is None else take(module)
    except AttributeError:
        return None


# ---- filters of warnings ---------------------------------------------------------------------------------------------


class ByName(type):
    """A category of warnings whose module is not loaded here: it is known by its name, and so are its subclasses."""

    def __subclasscheck__(cls, category: type) -> bool:
        return any((one.__module__, one.__qualname__) == (cls.__module__, cls.__qualname__) for one in category.__mro__)


class _Driver:
    #: Modules, without submodules, that the driver had imported when the Runner was made.
    modules: frozenset[str] = frozenset()

    #: Threads of this worker that are importing one of them.
    importing: ClassVar[set[int]] = set()


def _adds_known_filters(name: str) -> bool:
    """Whether the driver has imported a module, whose filters it has therefore; not one that such a module imports."""
    if name.partition(".")[0] not in _Driver.modules or name in sys.modules:  # one that is there is loaded anew on purpose
        return False
    return get_ident() not in _Driver.importing


@contextlib.contextmanager
def _keep_order() -> Iterator[None]:
    """Keep the filters' order while a worker imports, in a service or a task, what the driver has imported before.

    An import that adds a filter which is there moves it to the front, before those that the user has added since. In front
    stays only what a module adds that the driver has not imported.
    """
    filters, modules, thread = list(warnings.filters), set(sys.modules), get_ident()
    _Driver.importing.add(thread)
    try:
        yield
    finally:
        _Driver.importing.discard(thread)
        if warnings.filters != filters:
            imported = {name.partition(".")[0] for name in sys.modules if name not in modules}
            known = _Driver.modules | sys.stdlib_module_names | OWN_IMPORTS
            _set_filters(filters, [] if imported <= known else list(warnings.filters))


def note_import(name: str, before: list[Any]) -> None:
    """Note, in the supervisor, the filters that are there since it has imported a module."""
    ADDED.append((name.partition(".")[0], [one for one in warnings.filters if one not in before]))


def _in_front(warnoptions: set[str]) -> list[Any]:
    """Return the filters of this process that stand before the driver's. `warnoptions`: those of the driver."""
    front = [one for name, added in reversed(ADDED) if name not in _Driver.modules for one in added]
    # Options that the driver does not have come from its environment as it is now, or from the Runner's `env`.
    return front if set(sys.warnoptions) <= warnoptions else front + FILTERS_AT_START


def _set_filters(those: list[Any], front: list[Any]) -> None:
    """Set filters; those in front of them that are not among them stay there."""
    those = [_resolved(one) for one in those]
    filters: Any = warnings.filters
    together = [one for one in front if one not in those] + those
    warnings.resetwarnings()  # makes modules forget which warnings they have shown
    filters[:] = together


def _described_filters() -> list[Any]:
    return [
        (action, _described(message), category.__module__, category.__qualname__, _described(module), line)
        for action, message, category, module, line in warnings.filters
        if isinstance(category, type) and _is_describable(message) and _is_describable(module)
    ]


def _is_describable(pattern: Any) -> bool:
    return pattern is None or isinstance(pattern, str) or type(pattern).__module__ == "re"


def _described(pattern: Any) -> Any:
    """Return a pattern as text and flags; the interpreter's own filters have a text, or None."""
    return pattern if pattern is None or isinstance(pattern, str) else (pattern.pattern, pattern.flags)


def _filter(action: str, message: Any, home: str, name: str, module: Any, line: int) -> tuple[Any, ...]:
    return action, _pattern(message), _category(home, name), _pattern(module), line


def _pattern(described: Any) -> Any:
    if described is None or isinstance(described, str):
        return described
    import re

    return re.compile(*described)


def _category(home: str, name: str) -> type:
    found: Any = sys.modules.get(home)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type):
        return found
    return ByName(name.rpartition(".")[2], (Warning,), {"__module__": home, "__qualname__": name})


def _resolved(one: Any) -> Any:
    """Return a filter with its category's class, if that is loaded by now."""
    category = one[2]
    if not isinstance(category, ByName):
        return one
    found = _category(category.__module__, category.__qualname__)
    return one if isinstance(found, ByName) else (*one[:2], found, *one[3:])


# ---- libraries -------------------------------------------------------------------------------------------------------


def _locale(module: Any) -> str:
    return module.setlocale(module.LC_ALL)  # type: ignore[no-any-return]


def _set_locale(name: str) -> None:
    import _locale

    if _locale.setlocale(_locale.LC_ALL) != name:
        _locale.setlocale(_locale.LC_ALL, name)


def _decimal(decimal: Any) -> tuple[Any, Any]:
    """Return the thread's context and the one of new threads."""
    from contextvars import copy_context

    # Not by getcontext(): it would make this thread's context now, out of a default that the user may change yet.
    contexts = (
        value
        for variable, value in copy_context().items()
        if variable.name == "decimal_context" and isinstance(value, decimal.Context)
    )
    default = decimal.DefaultContext
    return _described_context(next(contexts, default)), _described_context(default)


def _described_context(context: Any) -> tuple[list[Any], list[str]]:
    traps = [signal.__name__ for signal, is_set in context.traps.items() if is_set]
    return [getattr(context, name) for name in CONTEXT], traps


def _set_decimal(threads: Any, default: Any) -> None:
    import decimal

    for context, (values, traps) in ((decimal.DefaultContext, default), (decimal.getcontext(), threads)):
        for name, value in zip(CONTEXT, values, strict=True):
            setattr(context, name, value)
        for signal in context.traps:
            context.traps[signal] = signal.__name__ in traps


def _numpy(numpy: Any) -> tuple[bytes, bytes | None]:
    """Return NumPy's settings, pickled, since they may be of its types; and the user's objects among them."""
    printing = numpy.get_printoptions()
    objects = {**printing, "errcall": numpy.geterrcall()}
    objects = {name: objects[name] for name in NUMPY_OBJECTS if objects.get(name) is not None}
    plain = {name: value for name, value in printing.items() if name not in objects}
    return pickle.dumps((numpy.geterr(), numpy.getbufsize(), plain), 5), _dumped(objects) if objects else None


def _dumped(objects: dict[str, Any]) -> bytes | None:
    try:
        body, _, _ = serialization.dump_service(objects)
    except Exception:  # the tasks' arrays are printed without them
        return None
    return body


def _set_numpy(settings: bytes, body: bytes | None) -> None:
    import numpy

    errors, size, printing = pickle.loads(settings)
    numpy.seterr(**errors)
    if numpy.getbufsize() != size:
        numpy.setbufsize(size)
    numpy.set_printoptions(**printing)
    if body is not None:
        _attempt(_set_objects, body)  # what they need may be missing here: that is no error of the import that comes here


def _set_objects(body: bytes) -> None:
    import numpy

    objects: Any = serialization.load_body(body, Namespace())
    numpy.seterrcall(objects.pop("errcall", None))
    numpy.set_printoptions(**objects)
