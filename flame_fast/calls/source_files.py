"""Files of the user's modules that an execution object leads to."""

from __future__ import annotations

import functools
import sys
from types import CellType, FunctionType, MethodType, ModuleType

from flame_fast.calls.import_scan import INSTALLED
from flame_fast.kernels.runtime.serialization.bodies import global_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: By a module's name: which module it was, how many names it had, and the modules that those lead to.
_led: dict[str, tuple[int, int, list[ModuleType]]] = {}


def source_files(obj: Any, directory: str) -> list[str]:
    """Return the files below a directory of the modules that an object is of, and of those that these lead to.

    Parameters
    ----------
    obj : object
        An execution object of `Runner.service`.
    directory : str

    Notes
    -----
    What travels by value, as the script itself does, has no file here: only what it uses has.
    """
    below = directory.rstrip("/") + "/"
    files: dict[str, None] = {}
    todo = list(_modules_of(obj))
    seen: set[int] = set()
    while todo:
        module = todo.pop()
        path = getattr(module, "__file__", None)
        if id(module) in seen or not isinstance(path, str) or not path.startswith(below):
            continue
        seen.add(id(module))
        if any(part in path for part in INSTALLED):
            continue
        if module.__name__ != "__main__":
            files[path] = None
            todo += _leads_to(module)
    return list(files)


def _modules_of(obj: Any) -> Iterable[ModuleType]:
    """Yield the modules that an object names by itself."""
    if isinstance(obj, functools.partial):
        yield from _modules_of(obj.func)
        for part in (*obj.args, *obj.keywords.values()):
            yield from _modules_behind((part,))
    elif isinstance(obj, MethodType):
        yield from _modules_of(obj.__func__)
        yield from _modules_of(obj.__self__)
    elif isinstance(obj, FunctionType):
        yield from _modules_behind((obj,))
        if obj.__module__ == "__main__":  # else its module leads to what its globals do
            yield from _modules_behind(obj.__globals__.get(name) for name in global_names(obj.__code__))
        yield from _modules_behind(map(_content, obj.__closure__ or ()))
    else:
        kind = obj if isinstance(obj, type) else type(obj)
        for base in kind.__mro__:
            yield from _modules_behind((base,))
            for value in list(vars(base).values()):
                if base.__module__ == "__main__" and isinstance(value, FunctionType):
                    yield from _modules_of(value)


def _modules_behind(values: Iterable[Any]) -> Iterable[ModuleType]:
    for value in values:
        if isinstance(value, ModuleType):
            yield value
        elif isinstance(value, (FunctionType, type)):
            module = sys.modules.get(value.__module__)
            if isinstance(module, ModuleType):
                yield module


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _leads_to(module: ModuleType) -> list[ModuleType]:
    names = vars(module)
    known = _led.get(module.__name__)
    if known is None or known[:2] != (id(module), len(names)):
        found = {id(one): one for one in _modules_behind(list(names.values())) if one is not module}
        known = _led[module.__name__] = (id(module), len(names), list(found.values()))
    return known[2]
