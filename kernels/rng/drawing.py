"""`draws`: functions of a generator that draw one number, from Python and in nopython code."""

from __future__ import annotations

import functools
import inspect

import numpy as np
from flame_fast.kernels.jit.cache import compiled
from flame_fast.kernels.jit.calls import check_integer, check_real, expected, integer, nopython_form, real, refused
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

A_GENERATOR = "a generator, as rng.generator(key, number) returns it"

#: Words of a generator's state: 32 of its lanes, 32 numbers drawn ahead, and how many of each kind are used.
SIZE = 67

#: How an argument is taken from Python, and how its type is checked in nopython code, by the annotation.
KINDS: dict[str, tuple[Callable[[str, object], Any], Callable[[str, Any], None]]] = {
    "float": (real, check_real),
    "int": (integer, check_integer),
}


def draws(body: Callable[P, R]) -> Callable[P, R]:
    """Make a function of Python and of nopython code out of nopython code, with the generator as its first parameter.

    The other parameters are annotated as `float` or `int`.
    """
    signature = inspect.signature(body)
    kinds = {name: KINDS[parameter.annotation] for name, parameter in list(signature.parameters.items())[1:]}
    kernel = compiled()(body)

    @functools.wraps(body)
    def draw(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        g, *others = bound.arguments.values()
        check_generator(g)
        values = [take(name, value) for (name, (take, _)), value in zip(kinds.items(), others, strict=True)]
        return kernel(g, *values)

    def typed(*given: Any, **named: Any) -> Any:
        types_of = signature.bind(*given, **named).arguments
        if not is_generator(types_of["g"]):
            raise refused(f"{body.__name__}: g", A_GENERATOR, types_of["g"])
        for name, kind in list(types_of.items())[1:]:
            kinds[name][1](f"{body.__name__}: {name}", kind)
        return body

    typed.__signature__ = signature  # type: ignore[attr-defined]
    nopython_form(draw, inline=True)(typed)
    return draw


def check_generator(g: object) -> None:
    """Check an argument that is to be a generator."""
    if not (isinstance(g, np.ndarray) and g.dtype == np.uint64 and g.shape == (SIZE,)):
        raise expected("g", A_GENERATOR, g)
    if not (g.flags.c_contiguous and g.flags.writeable):
        raise expected("g", A_GENERATOR, g)


def is_generator(kind: Any) -> bool:
    """Whether the type of nopython code may be that of a generator."""
    return isinstance(kind, types.Array) and kind.dtype == types.uint64 and kind.ndim == 1 and kind.layout == "C"
