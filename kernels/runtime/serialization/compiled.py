"""Reductions of what Numba makes: by name where a worker can import it, else by a copy, or an error that says what to write.

Numba sends copies of compiled functions, with the globals they use, and knows them again by a number. It cannot send the
rest: classes of `jitclass`, ufuncs for all threads, callbacks, stencils, and what a script registers by `overload`. A worker
does not run the script, so these must lie in a module that it imports.

Assumes: an object that a module has under its function's qualified name is the one that an import of the module makes.
"""

from __future__ import annotations

import io
import pickle
import sys
from types import ModuleType

from flame_fast.kernels.runtime.serialization import building, unpickling
from flame_fast.kernels.runtime.serialization.definitions import can_be_imported, files_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FunctionType
    from typing import Any

#: What an error advises.
_IN_A_MODULE = "workers do not run the script: put it into a module that the script imports"


def is_made_by_numba(kind: type) -> bool:
    """Tell whether `reduce` is for objects of a type: Numba's own types of compiled objects, and NumPy's ufuncs."""
    module = kind.__module__
    return (module.startswith("numba.") and kind.__name__ in _KINDS) or (module == "numpy" and kind.__name__ == "ufunc")


def is_compiled_class(kind: type) -> bool:
    """Tell whether a class is one that `jitclass` has made."""
    return type(kind).__name__ == "JitClassType" and type(kind).__module__.startswith("numba.")


def is_compiled_instance(kind: type) -> bool:
    """Tell whether instances of a class are those of a class that `jitclass` has made."""
    return kind.__module__ == "numba.experimental.jitclass.boxing"


def reduce(obj: Any) -> Any:
    """Reduce an object of a type that Numba makes.

    Raises
    ------
    TypeError
        It cannot be sent to workers; the message says what to write instead.
    """
    kind = type(obj).__name__
    if kind == "ufunc":
        return _reduce_ufunc(obj)
    function = _function_behind(obj)
    named = None if function is None else _by_name(obj, function.__module__, function.__qualname__)
    if named is not None:
        return named
    if kind in ("CFunc", "StencilFunc"):
        what = {"CFunc": "a callback of numba.cfunc", "StencilFunc": "a stencil"}[kind]
        name = getattr(function, "__qualname__", "it")
        raise TypeError(f"{name!r} is {what}, which no copy can be made of; {_IN_A_MODULE}")
    if function is not None:
        _check_registered(obj, function)
    cached = type(getattr(obj, "_cache", None)).__name__ not in ("NoneType", "NullCache")
    return unpickling.rebuild_compiled, (_bytes_of(obj), cached)


def reduce_class(cls: Any) -> Any:
    """Reduce a class of `jitclass` to its name.

    Raises
    ------
    TypeError
        No worker can import it.
    """
    own = cls.__mro__[1]  # what was decorated
    named = _by_name(cls, own.__module__, own.__qualname__)
    if named is None:
        raise TypeError(f"{own.__qualname__!r} is a class of numba.experimental.jitclass; {_IN_A_MODULE}")
    return named


def refuse_instance(obj: Any) -> None:
    """Raise TypeError for an instance of a class of `jitclass`."""
    name = type(obj).__qualname__
    raise TypeError(
        f"an instance of {name!r}, a class of numba.experimental.jitclass, is memory of this process; give service() the "
        "class, with args=(...), or make the instance in the task, and send its numbers and arrays"
    )


def _function_behind(obj: Any) -> FunctionType | None:
    for name in ("py_func", "_pyfunc", "_defn"):
        found = getattr(obj, name, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    made = getattr(obj, "_dispatcher", None)  # a ufunc's
    if made is not None:
        return made.py_func  # type: ignore[no-any-return]
    ir = getattr(obj, "kernel_ir", None)  # a stencil's
    return None if ir is None else ir.func_id.func


def _by_name(obj: Any, module: str, qualified: str) -> Any:
    """Return a reduction to an object's name; None if no worker finds it there."""
    found: Any = sys.modules.get(module)
    files = files_of(found) if isinstance(found, ModuleType) else None
    if files is None:
        return None
    for name in qualified.split("."):
        found = getattr(found, name, None)
    return (building.from_files, (files, module, qualified)) if found is obj else None


def _reduce_ufunc(ufunc: Any) -> Any:
    """Reduce a ufunc to its name: it does not know its module, and pickle would take the first that has it, or a script."""
    name = ufunc.__name__
    if getattr(sys.modules.get("numpy"), name, None) is ufunc:
        return NotImplemented
    for module_name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and vars(module).get(name) is ufunc:
            named = _by_name(ufunc, module_name, name)
            if named is not None:
                return named
    if any(getattr(sys.modules.get(script), name, None) is ufunc for script in ("__main__", "__mp_main__")):
        raise TypeError(
            f"{name!r} is a ufunc of which no copy can be made, as those of target='parallel'; {_IN_A_MODULE}, or leave out "
            "target='parallel': the workers are parallel already"
        )
    return NotImplemented


def _check_registered(obj: Any, function: FunctionType) -> None:
    """Raise TypeError if compiled code uses what only the script has registered."""
    from flame_fast.kernels.jit.dependencies import CannotFollow, registered_behind

    try:
        found = registered_behind(function)
    except (CannotFollow, RecursionError):
        return
    for name, registered in found:
        module = sys.modules.get(registered.__module__)
        if module is None or not can_be_imported(module):
            raise TypeError(
                f"{obj.__name__!r} uses {name!r}, which {registered.__qualname__!r} of this script implements for Numba "
                f"(overload, register_jitable, ...); {_IN_A_MODULE}, or decorate a plain function with njit instead"
            )


def _bytes_of(obj: Any) -> bytes:
    """Return a pickle by Numba's pickler, with compiled classes by name."""
    from numba.core.serialize import NumbaPickler

    class Pickler(NumbaPickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, type) and is_compiled_class(value):
                return reduce_class(value)
            if is_made_by_numba(type(value)) and type(value).__name__ not in _COPIED:
                return reduce(value)
            return super().reducer_override(value)

    file = io.BytesIO()
    try:
        Pickler(file).dump(obj)
    except pickle.PicklingError as error:
        raise TypeError(str(error)) from None
    return file.getvalue()


#: Numba's types of which copies can be made.
_COPIED = ("CPUDispatcher", "Dispatcher", "UFuncDispatcher", "DUFunc", "GUFunc", "_Intrinsic")

#: Its types that have reductions here.
_KINDS = frozenset({*_COPIED, "CFunc", "StencilFunc"})
