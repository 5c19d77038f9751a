"""Captures of a function's state at a call: closure cells, partial arguments, the bound instance.

`service()` pickles the function itself once, with its code and the globals it uses. Each call takes what is in its cells, in
a partial's arguments or behind a bound method as the user last left it: `Capture` in the driver describes that, `with_state`
in the worker puts it in place.
"""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, MethodWrapperType, ModuleType

from flame_fast.kernels.runtime.serialization.carried import is_global_generator, is_guard
from flame_fast.kernels.runtime.serialization.definitions import is_importable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What a part of a state describes: a function, or what is in a cell.
SAME, WHOLE, PARTIAL, METHOD, CELLS, VALUE, EMPTY, WORKERS = range(8)

#: The state of a function that is as it was pickled.
NOTHING = (SAME,)


def has_state(function: Any) -> bool:
    """Whether each call must take something of the function."""
    if isinstance(function, functools.partial):
        return True
    if isinstance(function, MethodType):
        return not isinstance(function.__self__, type) and not is_global_generator(function.__self__)
    if isinstance(function, (BuiltinFunctionType, MethodWrapperType)):
        owner = getattr(function, "__self__", None)
        return owner is not None and not isinstance(owner, (ModuleType, type)) and not is_global_generator(owner)
    return isinstance(function, FunctionType) and bool(function.__closure__) and not is_importable(function)


class Capture:
    """Describes a function's state, once for each call.

    Parameters
    ----------
    function : callable
        As it is pickled now. A function that a cell holds now is part of that pickle; as long as the cell holds it, a
        description has only its cells.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self._pickled: dict[int, Any] = {}
        self._remember(function)

    def _remember(self, function: Any) -> None:
        if isinstance(function, functools.partial):
            self._remember(function.func)
        elif isinstance(function, FunctionType) and not is_importable(function):
            for cell in function.__closure__ or ():
                content = _content(cell)
                if isinstance(content, FunctionType) and id(cell) not in self._pickled:
                    self._pickled[id(cell)] = content
                    self._remember(content)

    def state(self) -> tuple[Any, ...]:
        """Return what `with_state` takes, picklable if the user's values are."""
        return self._describe(self.function, set())

    def _describe(self, function: Any, seen: set[int]) -> tuple[Any, ...]:
        if isinstance(function, functools.partial):
            return (PARTIAL, self._describe(function.func, seen), function.args, function.keywords)
        if isinstance(function, MethodType):
            return (METHOD, function.__self__)
        if not isinstance(function, FunctionType):
            return (WHOLE, function) if has_state(function) else NOTHING
        if id(function) in seen or not function.__closure__ or is_importable(function):
            return NOTHING
        seen.add(id(function))
        return (CELLS, [self._describe_cell(cell, seen) for cell in function.__closure__])

    def _describe_cell(self, cell: CellType, seen: set[int]) -> tuple[Any, ...]:
        try:
            content = cell.cell_contents
        except ValueError:
            return (EMPTY,)
        if is_guard(content):
            return (WORKERS,)
        if self._pickled.get(id(cell), self) is content:
            return self._describe(content, seen)
        return (VALUE, content)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty: its variable has no value yet
        return None


def with_state(function: Any, state: tuple[Any, ...]) -> Any:
    """Return the worker's copy of the function with the driver's state in it.

    Changes a function's cells in place: a worker runs one call at a time.
    """
    kind = state[0]
    if kind == CELLS:
        for cell, content in zip(function.__closure__, state[1], strict=True):
            _fill(cell, content)
        return function
    if kind == PARTIAL:
        return functools.partial(with_state(function.func, state[1]), *state[2], **state[3])
    if kind == METHOD:
        return MethodType(function.__func__, state[1])
    return state[1] if kind == WHOLE else function


def _fill(cell: CellType, state: tuple[Any, ...]) -> None:
    if state[0] == VALUE:
        cell.cell_contents = state[1]
    elif state[0] == EMPTY:
        del cell.cell_contents
    elif state[0] != WORKERS:  # a lock or another guard stays the worker's own
        cell.cell_contents = with_state(cell.cell_contents, state)
