"""Kernels of blocks: each fills one block of an array, and one driver runs any of them on one thread or several.

The driver calls a kernel by its address, so a kernel is compiled once, without threads, and the driver once for each type of
element. (Rejected: a parallel loop in every kernel, which takes four times as long to compile.)

A block's number, the key and the domain name its stream: what it is filled with does not depend on who fills it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.parallel import run_blocks
from flame_fast.kernels.jit.simd import take_turn
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.keys import Key
    from numpy.typing import NDArray

#: Numbers of a block.
BLOCK = 1 << 16

#: A parameter that is none.
NOTHING = np.zeros(1)


class Spread(NamedTuple):
    """How a parameter's values are spread over the elements of an array: by its axes in the order of its memory."""

    lengths: NDArray[np.int64]
    strides: NDArray[np.int64]


#: Each block gets all of a parameter.
WHOLE = Spread(np.empty(0, np.int64), np.empty(0, np.int64))


def _signature_for(element: Any) -> Any:
    """Return the types of a kernel's parameters, for one type of element."""
    word, floats = types.uint64, types.Array(types.float64, 1, "C", readonly=True)
    return types.void(types.UniTuple(word, 2), word, types.int64, element[::1], floats, floats)


@intrinsic
def _kernel_at(typing, address, out):
    """Return the kernel at an address, for arrays of the type of `out`: a function that nopython code calls."""
    kind = types.FunctionType(_signature_for(out.dtype))

    def generate(context, builder, signature, arguments):
        nothing = cgutils.get_null_value(context.get_value_type(kind))
        function = cgutils.create_struct_proxy(kind)(context, builder, value=nothing)
        function.c_addr = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        return function._getvalue()

    return kind(types.int64, out), generate


class BlockKernels:
    """The kernels of a body, for each type of element; compiled, or loaded, when they are first used.

    Parameters
    ----------
    body : callable
        Nopython code, `body(key, domain, block, out, a, b)`: `out` is the block's part of the array, of one dimension; `a`
        and `b` are float64 arrays, the block's part of a parameter, or all of it.
    """

    def __init__(self, body: Callable[..., None]) -> None:
        self._kernel = compiled()(body)
        self._addresses: dict[Any, int] = {}

    def _address_for(self, dtype: np.dtype[Any]) -> int:
        """Return where the kernel's code lies.

        The driver gets a number: for a function Numba would call Python, and lose the KeyboardInterrupt that comes there.
        """
        address = self._addresses.get(dtype)
        if address is None:
            if not hasattr(self._kernel, "compile"):  # under NUMBA_DISABLE_JIT: the error says so
                self._kernel()
            types_of = _signature_for(getattr(types, dtype.name)).args
            self._kernel.compile(types_of)
            made = self._kernel.overloads[types_of]
            address = int(made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name))
            self._addresses[dtype] = address
        return address

    def fill(
        self,
        out: Any,
        key: Key,
        domain: Any,
        a: Any = NOTHING,
        b: Any = NOTHING,
        *,
        spread: tuple[Spread, Spread] = (WHOLE, WHOLE),
        length: int = BLOCK,
        first: int = 0,
    ) -> None:
        """Fill an array of one dimension on as many threads as Numba may use here.

        Parameters
        ----------
        out : array
            Contiguous.
        key, domain
            The names of the blocks' streams, together with the blocks' numbers.
        a, b : float64 array
            Parameters of the distribution, of one dimension.
        spread : tuple of Spread
            Which of the elements of `a` and of `b` belong to the elements of the array.
        length : int
            The elements of a block.
        first : int
            The number of the first block.
        """
        address, name = self._address_for(out.dtype), (key[0], key[1])
        a, b = _read_only(a), _read_only(b)
        run_blocks(
            -(-out.size // length),
            lambda turns, most: _run_by_turns(address, name, domain, out, a, b, spread, length, first, turns, most),
        )


def _read_only(parameter: Any) -> Any:
    """Return a view that kernels may only read: users' parameters may be read-only, and Numba tells the two apart."""
    view = parameter.view()
    view.flags.writeable = False
    return view


@compiled()
def _run_by_turns(address, key, domain, out, a, b, spread, length, first, turns, most):
    kernel = _kernel_at(address, out)
    own_a, own_b = np.empty(_own(spread[0], length)), np.empty(_own(spread[1], length))
    for _ in range(most):
        block = take_turn(turns)
        if block < 0:
            break
        start = block * length
        stop = min(start + length, out.size)
        kernel(
            key,
            domain,
            first + block,
            out[start:stop],
            _part_of(a, spread[0], start, stop, own_a),
            _part_of(b, spread[1], start, stop, own_b),
        )
    return 0


@inlined
def _is_aligned(spread):
    return spread.strides.size == 1 and spread.strides[0] == 1


@inlined
def _own(spread, length):
    """Return how many values a thread has to copy for a block."""
    return 0 if spread.strides.size == 0 or _is_aligned(spread) else length


@inlined
def _part_of(values, spread, start, stop, own):
    """Return a parameter's values for the elements of a block: one for each, or all of them."""
    if spread.strides.size == 0:
        return values[:]
    if _is_aligned(spread):
        return values[start:stop]
    _copy_spread(values, spread, start, own[: stop - start])
    return own[: stop - start]


@inlined
def _copy_spread(values, spread, start, out):
    """Copy the values for the elements from `start` on: in runs along the last axis, whose places go up as an odometer."""
    lengths, strides = spread
    last = lengths.size - 1
    index = np.empty(lengths.size, np.int64)
    rest, place = start, 0
    for axis in range(last, -1, -1):
        index[axis] = rest % lengths[axis]
        rest //= lengths[axis]
        place += index[axis] * strides[axis]
    copied = 0
    while copied < out.size:
        run = min(out.size - copied, lengths[last] - index[last])
        for i in range(run):
            out[copied + i] = values[place + i * strides[last]]
        copied += run
        index[last] += run
        place += run * strides[last]
        axis = last
        while axis > 0 and index[axis] == lengths[axis]:
            index[axis] = 0
            index[axis - 1] += 1
            place += strides[axis - 1] - lengths[axis] * strides[axis]
            axis -= 1
