"""Shared random generators: warn when several calls carry one generator in one state and so draw the same numbers."""

from __future__ import annotations

import contextlib
import functools
import warnings
from types import FunctionType

from flame_fast.calls.captures import NOTHING
from flame_fast.kernels.runtime.serialization.carried import is_generator, is_global_generator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Frames between the warning and the user's call.
STACKLEVEL = 2

#: After so many calls the watch has seen a global generator in every state in which workers get it.
ENOUGH_CALLS = 2


def generator_in(value: Any) -> Any:
    """Return the user's own generator that a value is, or is a bound method of; None for anything else."""
    for found in (value, getattr(value, "__self__", None)):
        if is_generator(found) and not is_global_generator(found):
            return found
    return None


def carried_generators(function: Any) -> list[tuple[str, Any]]:
    """Return (name, generator) for each generator that every call of a function carries: in its closure or a partial."""
    found: list[tuple[str, Any]] = []
    if isinstance(function, functools.partial):
        found += [(f"argument {number}", value) for number, value in enumerate(function.args, 1)]
        found += [*function.keywords.items(), *carried_generators(function.func)]
    elif isinstance(function, FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # empty: its variable has no value yet
                found.append((name, cell.cell_contents))
    elif hasattr(function, "__self__"):
        found.append((getattr(function, "__name__", "it"), function))
    return [(name, generator) for name, value in found if (generator := generator_in(value)) is not None]


class DrawnAlike:
    """Warns once when calls of a function service carry the same generator in the same state.

    Parameters
    ----------
    service : str
        Its name.
    generators : list of (str, object)
        Generators by the names that the function has for them.
    state : callable, optional
        The function's state at a call, see `captures.Capture.state`. None if it has none: then each worker has a
        copy of the generators, made at `service()`.
    done : callable
        Called when there is nothing left to watch.
    """

    def __init__(
        self,
        service: str,
        generators: list[tuple[str, Any]],
        state: Callable[[], tuple[Any, ...]] | None,
        done: Callable[[], object],
    ) -> None:
        self._service = service
        self._generators = generators
        self._state = state
        self._done = done
        self._before: list[str] = []
        self._calls = 0

    def state(self) -> tuple[Any, ...]:
        """Look at the generators of the call that is being made; return the function's state at it."""
        now = [_state_of(generator) for _, generator in self._generators]
        alike = [name for (name, _), old, new in zip(self._generators, self._before, now, strict=False) if old == new]
        self._before = now
        self._calls += 1
        if alike or (self._state is None and self._calls == ENOUGH_CALLS):
            self._done()
        if alike:
            warnings.warn(
                f"calls of {self._service!r} carry the same generator {alike[0]!r} in the same state, so they draw the same "
                "numbers; pass each call a generator of its own (numpy.random.Generator.spawn, random.Random(seed))",
                stacklevel=STACKLEVEL,
            )
        return NOTHING if self._state is None else self._state()


def _state_of(generator: Any) -> str:
    if hasattr(generator, "getstate"):
        return repr(generator.getstate())
    return repr(generator.get_state() if hasattr(generator, "get_state") else generator.bit_generator.state)
