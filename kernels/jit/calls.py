"""Functions that serve Python and nopython code alike: what each checks of its arguments.

Python calls a plain function, which checks the arguments, then calls a kernel. Numba compiles what `nopython_form` has
registered for it, which checks the arguments' types, and calls the same kernel. So errors have one line each.
"""

from __future__ import annotations

import operator

import numpy as np
from flame_fast.kernels.jit.arguments import whole_number
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

LARGEST_WORD = (1 << 64) - 1, "below 2**64"


def nopython_form(function: Callable[..., Any], *, inline: bool = False) -> Any:
    """Return a decorator of what Numba calls with the arguments' types, and which returns the function's body to compile.

    LLVM inlines bodies that are to be `inline` into their callers.
    """
    return overload(function, jit_options={"nogil": True, "forceinline": inline})


def expected(name: str, what: str, got: Any) -> TypeError:
    """Return the error of an argument of another type."""
    return TypeError(f"{name}: expected {what}, got {describe(got)}")


def refused(name: str, what: str, got: Any) -> TypingError:
    """Return the error of an argument of another type in nopython code."""
    return TypingError(f"{name}: expected {what}, got {got}")


def describe(value: Any) -> str:
    """Return a value in words: an array by its kind, since its numbers would fill the screen."""
    if not isinstance(value, np.ndarray):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    order = "C" if value.flags.c_contiguous else "Fortran" if value.flags.f_contiguous else "no contiguous"
    kind = "" if value.flags.writeable else "read-only "
    return f"a {kind}{value.dtype} array of shape {value.shape} in {order} order"


# ---- numbers -------------------------------------------------------------------------------------------------------------


def word(name: str, value: object) -> np.uint64:
    """Return an argument as a word.

    Raises
    ------
    TypeError, ValueError
        No integer, or not from 0 to below 2**64.
    """
    return np.uint64(whole_number(name, value, LARGEST_WORD))


def integer(name: str, value: object) -> int:
    """Return an argument as an integer.

    Raises
    ------
    TypeError
        No integer.
    """
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise expected(name, "an integer", value) from None


def check_integer(name: str, kind: Any) -> None:
    """Check the type of an argument that is a word in nopython code."""
    if not isinstance(kind, types.Integer | types.Boolean | types.IntegerLiteral):
        raise refused(name, "an integer", kind)


def real(name: str, value: object) -> float:
    """Return an argument as a float.

    Raises
    ------
    TypeError
        No number.
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except TypeError:
        raise expected(name, "a number", value) from None


def check_real(name: str, kind: Any) -> None:
    """Check the type of an argument that is a number in nopython code."""
    if not isinstance(kind, types.Number | types.Boolean | types.Literal | types.Omitted | float | int) or isinstance(
        kind, types.Complex
    ):
        raise refused(name, "a number", kind)


# ---- arrays --------------------------------------------------------------------------------------------------------------


def parameter(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return a parameter of a distribution as an array of doubles.

    Raises
    ------
    TypeError
        No number, nor an array of numbers.
    """
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "biuf":
            raise TypeError
        return found.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise expected(name, "a number or an array of numbers", value) from None


def flat(name: str, array: Any, *kinds: Any) -> Any:
    """Return a writable, contiguous array of one of the types as one of a single dimension, in the order of its memory.

    Raises
    ------
    TypeError
        No such array.
    """
    if isinstance(array, np.ndarray) and array.dtype in kinds:
        flags = array.flags
        if flags.writeable and flags.aligned and (flags.c_contiguous or flags.f_contiguous):
            ordered = array if flags.c_contiguous else array.T
            return ordered.view(np.ndarray).reshape(-1)
    raise expected(name, _array_of(kinds), array)


def check_array(name: str, kind: Any, *kinds: Any) -> None:
    """Check the type of an array that `flattened` is to take in nopython code."""
    fits = isinstance(kind, types.Array) and kind.mutable and kind.layout in "CF" and kind.aligned
    if not fits or all(kind.dtype != _numba_type(one) for one in kinds):
        raise refused(name, _array_of(kinds), kind)


def _array_of(kinds: tuple[Any, ...]) -> str:
    return f"a writable, contiguous array of {' or '.join(np.dtype(kind).name for kind in kinds)}"


def _numba_type(kind: Any) -> Any:
    return getattr(types, np.dtype(kind).name)


def flattened(array: Any) -> Any:
    """Return a contiguous array as one of a single dimension, in nopython code."""
    raise NotImplementedError("for nopython code")


@overload(flattened)
def _flattened(array):
    if array.ndim == 1:
        return lambda array: array
    if array.layout == "C":
        return lambda array: array.reshape(array.size)
    return lambda array: array.T.reshape(array.size)
