"""Kernels of blocks: each fills one block of an array, and one driver runs any of them on one thread or several.

The driver calls a kernel by its address, so a kernel is compiled once, without threads, and the driver once for each type of
element. (Rejected: a parallel loop in every kernel, which takes four times as long to compile.)

A block's number, the key and the domain name its stream: what it is filled with does not depend on who fills it.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import compiled
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import take_turn
from numba import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.keys import Key

#: Numbers of a block.
BLOCK = 1 << 16

#: A parameter that is none.
NOTHING = np.zeros(1)


class BlockKernel(types.WrapperAddressProtocol):
    """A kernel of blocks for one type of element, as Numba passes it to the driver.

    Parameters
    ----------
    body : callable
        Nopython code, `body(key, domain, block, out, a, b)`: `out` is the block's part of the array, of one dimension; `a`
        and `b` are float64 arrays, the block's part of a parameter as large as the array, or all of another one.
    dtype : dtype
        The type of `out`.
    """

    def __init__(self, kernel: Any, dtype: np.dtype[Any]) -> None:
        element = getattr(types, dtype.name)
        word, floats = types.uint64, types.Array(types.float64, 1, "C", readonly=True)
        self._signature = types.void(types.UniTuple(word, 2), word, types.int64, element[::1], floats, floats)
        if not hasattr(kernel, "compile"):  # under NUMBA_DISABLE_JIT: the error says so
            kernel()
        kernel.compile(self._signature.args)
        compilation = kernel.overloads[self._signature.args]
        self._library = compilation.library
        self._address = self._library.get_pointer_to_function(compilation.fndesc.llvm_cfunc_wrapper_name)

    @property
    def _numba_type_(self) -> Any:
        return types.FunctionType(self._signature)

    def __wrapper_address__(self) -> int:
        """Return where the kernel's code lies."""
        return int(self._address)

    def signature(self) -> Any:
        """Return the types of the kernel's arguments."""
        return self._signature


class BlockKernels:
    """The kernels of a body, for each type of element; compiled, or loaded, when they are first used."""

    def __init__(self, body: Callable[..., None]) -> None:
        self._kernel = compiled()(body)
        self._made: dict[Any, BlockKernel] = {}

    def fill(
        self,
        out: Any,
        key: Key,
        domain: Any,
        a: Any = NOTHING,
        b: Any = NOTHING,
        *,
        each: tuple[bool, bool] = (False, False),
        length: int = BLOCK,
    ) -> None:
        """Fill an array of one dimension on as many threads as Numba may use here.

        Parameters
        ----------
        out : array
            Contiguous.
        key, domain
            The names of the blocks' streams, together with the blocks' numbers.
        a, b : float64 array
            Parameters of the distribution.
        each : tuple of bool
            Whether `a` and `b` have an element for each of the array.
        length : int
            The elements of a block.
        """
        kernel = self._made.get(out.dtype)
        if kernel is None:
            kernel = self._made[out.dtype] = BlockKernel(self._kernel, out.dtype)
        name = (key[0], key[1])
        a, b = _read_only(a), _read_only(b)
        run_blocks(
            -(-out.size // length),
            lambda turns, most: _run_by_turns(kernel, name, domain, out, a, b, each, length, turns, most),
        )


def _read_only(parameter: Any) -> Any:
    """Return a view that kernels may only read: users' parameters may be read-only, and Numba tells the two apart."""
    view = parameter.view()
    view.flags.writeable = False
    return view


@compiled()
def _run_by_turns(kernel, key, domain, out, a, b, each, length, turns, most):
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        start = block * length
        stop = min(start + length, out.size)
        kernel(
            key,
            domain,
            block,
            out[start:stop],
            a[start:stop] if each[0] else a[:],
            b[start:stop] if each[1] else b[:],
        )
    return 0
