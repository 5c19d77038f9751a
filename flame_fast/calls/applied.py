"""Services for calls of any function: the function travels with its arguments."""

from __future__ import annotations

from flame_fast.kernels.runtime import with_item

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


def apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function in a worker."""
    return function(*args, **kwargs)


def apply_to_each(function: Callable[..., Any], items: Sequence[Any], star: bool, first: int) -> list[Any]:
    """Call a function in a worker with each of some items, until one fails.

    `star`: an item is the arguments of its call. `first`: the number of the first one.
    """
    values: list[Any] = []
    add = values.append
    try:
        if star:
            for item in items:
                add(function(*item))
        else:
            for item in items:
                add(function(item))
    except Exception as error:
        with_item(error, first + len(values), items[len(values)])
        raise
    return values
