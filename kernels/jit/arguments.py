"""Check counts and seeds that callers give to the kernels."""

from __future__ import annotations

import operator


def whole_number(name: str, value: object, highest: tuple[int, str] | None = None, expected: str = "an integer") -> int:
    """Return an argument as an integer that is not negative.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : object
        The argument; an object with `__index__` is an integer.
    highest : tuple of int and str, optional
        The largest value allowed, and the error's words for it after "from 0 to".
    expected : str
        The error's words for the type expected.

    Raises
    ------
    TypeError
        No integer.
    ValueError
        Out of range.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected {expected}, got {value!r}") from None
    if number < 0 or (highest is not None and number > highest[0]):
        allowed = "of at least 0" if highest is None else f"from 0 to {highest[1]}"
        raise ValueError(f"{name}: expected an integer {allowed}, got {value!r}")
    return number
