"""SIMD vectors in Numba's nopython code: values of several lanes that stay in registers.

A vector is one LLVM value. LLVM lowers it to the CPU's registers: 8 lanes of 64 bits are one AVX-512 register, two of
AVX2, four of NEON. LLVM's own vectorizer, given a plain loop, keeps to 256 bits on most CPUs with AVX-512, and gives up on a
loop with as much state as a generator has.

Operators work lane by lane, and a number beside a vector stands in every lane: ``+ - * & | ^ << >>`` of integers, which are
unsigned and wrap, and ``+ - * /`` of floats. The other operations are the functions of this module, for nopython code only.
Nothing here allocates heap memory, and results are the same on every CPU: a fused multiply-add is always fused, nothing is
reordered.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INT32: Any = ir.IntType(32)
INT64: Any = ir.IntType(64)


class _Vector(types.Type):
    """Numba's type of a vector.

    Parameters
    ----------
    element : numba type
        An integer or a float.
    lanes : int
        A power of two.
    """

    def __init__(self, element: types.Number, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Any) -> None:
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


# ---- building blocks -----------------------------------------------------------------------------------------------------


def _splat(builder, scalar, vector):
    """Return the LLVM vector with `scalar` in every lane."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count))


def _as_lanes(context, builder, value, kind, vector):
    """Return `value`, a vector already or a number, as a vector of the Numba type `vector`."""
    if isinstance(kind, _Vector):
        return value
    scalar = context.cast(builder, value, kind, vector.element)
    return _splat(builder, scalar, context.get_value_type(vector))


def _call(builder, name, result, *arguments):
    """Call LLVM's intrinsic `name` for the type of the first argument, a vector or a scalar."""
    kind = arguments[0].type
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    suffix = {"double": "f64"}.get(str(element), str(element))
    if isinstance(kind, ir.VectorType):
        suffix = f"v{kind.count}{suffix}"
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"{name}.{suffix}"), arguments)


def _pick(builder, value, lanes):
    """Return the LLVM vector of some lanes of another vector."""
    chosen = ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), chosen)


# ---- operators -----------------------------------------------------------------------------------------------------------

#: Operator: (LLVM's instruction for integers, for floats).
OPERATORS: dict[Any, tuple[str | None, str | None]] = {
    operator.add: ("add", "fadd"),
    operator.sub: ("sub", "fsub"),
    operator.mul: ("mul", "fmul"),
    operator.truediv: (None, "fdiv"),
    operator.and_: ("and_", None),
    operator.or_: ("or_", None),
    operator.xor: ("xor", None),
    operator.lshift: ("shl", None),
    operator.rshift: ("lshr", None),
}


def _define_operator(function, for_integers, for_floats):
    def instruction(vector):
        return for_floats if isinstance(vector.element, types.Float) else for_integers

    @type_callable(function)
    def type_operator(context):
        def typer(left, right):
            if isinstance(left, _Vector) and instruction(left) and (right == left or isinstance(right, types.Number)):
                return left
            if isinstance(right, _Vector) and instruction(right) and isinstance(left, types.Number):
                return right
            return None

        return typer

    def lower(context, builder, signature, arguments):
        vector = signature.return_type
        left, right = (
            _as_lanes(context, builder, argument, kind, vector)
            for argument, kind in zip(arguments, signature.args, strict=True)
        )
        return getattr(builder, instruction(vector))(left, right)

    for left, right in ((_Vector, _Vector), (_Vector, types.Number), (types.Number, _Vector)):
        lower_builtin(function, left, right)(lower)


for _function, _instructions in OPERATORS.items():
    _define_operator(_function, *_instructions)


# ---- memory and single lanes ---------------------------------------------------------------------------------------------


def _data(context, builder, kind, value):
    """Return the address of the first element of contiguous memory."""
    if isinstance(kind, types.CPointer):
        return value
    from numba.np.arrayobj import make_array  # slow to import, and only compiling needs it

    return make_array(kind)(context, builder, value).data


def _address(context, builder, signature, arguments, vector):
    place = builder.gep(_data(context, builder, signature.args[0], arguments[0]), [arguments[1]])
    return builder.bitcast(place, context.get_value_type(vector).as_pointer())


def _holds(memory, element, *, writable=False):
    """Tell whether the type `memory` is contiguous memory of such elements."""
    if isinstance(memory, types.CPointer):
        return memory.dtype == element
    contiguous = isinstance(memory, types.Array) and memory.layout == "C"
    return contiguous and memory.dtype == element and (memory.mutable or not writable)


def stack_array(element: Any, count: Any) -> Any:
    """Return a nopython function that allocates `count` elements on its caller's stack and returns a pointer to them.

    The memory lasts until the caller returns. Stores to it stay stores: the compiler does not see whose memory it is, so it
    keeps no register for it.
    """

    @intrinsic
    def allocate(typing):
        def generate(context, builder, signature, arguments):
            place = cgutils.alloca_once(builder, context.get_value_type(element), INT64(count))
            place.align = 64
            hidden = ir.FunctionType(place.type, [place.type])
            return builder.asm(hidden, "", "=r,0", [place], side_effect=False)

        return types.CPointer(element)(), generate

    return allocate


def loader(element: Any, lanes: Any) -> Any:
    """Return a nopython function `load(memory, start)`: the vector of `lanes` elements from the index `start` on.

    The memory is a contiguous array, with `start` counted over all its dimensions, or memory of `stack_array`. `load` does
    not check its size.
    """
    vector = _Vector(element, lanes)

    @intrinsic
    def load(typing, memory, start):
        def generate(context, builder, signature, arguments):
            return builder.load(_address(context, builder, signature, arguments, vector), align=4)

        return (vector(memory, types.intp), generate) if _holds(memory, element) else None

    return load


@intrinsic
def pointer_to(typing: Any, array: Any) -> Any:
    """Return a pointer to a contiguous array's elements: it counts no reference, so a branch costs nothing more.

    The caller's caller has to keep the array.
    """

    def generate(context, builder, signature, arguments):
        return _data(context, builder, array, arguments[0])

    if not isinstance(array, types.Array) or array.layout != "C":
        return None
    return types.CPointer(array.dtype)(array), generate


@intrinsic
def store(typing: Any, memory: Any, start: Any, vector: Any) -> Any:
    """Store a vector into contiguous memory of its element's type, from the index `start` on.

    The memory is an array, with `start` counted over all its dimensions, or memory of `stack_array`. `store` does not check
    its size.
    """

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _address(context, builder, signature, arguments, vector), align=4)
        return context.get_dummy_value()

    if not isinstance(vector, _Vector) or not _holds(memory, vector.element, writable=True):
        return None
    return types.void(memory, types.intp, vector), generate


def spread_loader(element: Any, lanes: Any) -> Any:
    """Return a nopython function `load(array, start, stride)`: the vector of elements at start, start + stride and so on.

    The array is contiguous, and `start` counted over all its dimensions. `load` does not check its size.
    """
    vector = _Vector(element, lanes)

    @intrinsic
    def load(typing, memory, start, stride):
        def generate(context, builder, signature, arguments):
            place = builder.gep(_data(context, builder, memory, arguments[0]), [arguments[1]])
            value = ir.Constant(context.get_value_type(vector), ir.Undefined)
            for number in range(lanes):
                value = builder.insert_element(value, builder.load(place), ir.Constant(INT32, number))
                place = builder.gep(place, [arguments[2]])
            return value

        return (vector(memory, types.intp, types.intp), generate) if _holds(memory, element) else None

    return load


@intrinsic
def store_spread(typing: Any, memory: Any, start: Any, stride: Any, vector: Any) -> Any:
    """Store a vector's lanes into a contiguous array, at the indices start, start + stride and so on.

    `start` is counted over all the array's dimensions. `store_spread` does not check its size.
    """

    def generate(context, builder, signature, arguments):
        place = builder.gep(_data(context, builder, memory, arguments[0]), [arguments[1]])
        for number in range(vector.lanes):
            builder.store(builder.extract_element(arguments[3], ir.Constant(INT32, number)), place)
            place = builder.gep(place, [arguments[2]])
        return context.get_dummy_value()

    if not isinstance(vector, _Vector) or not _holds(memory, vector.element, writable=True):
        return None
    return types.void(memory, types.intp, types.intp, vector), generate


@intrinsic
def store_as_elements(typing: Any, memory: Any, start: Any, vector: Any) -> Any:
    """Store a vector of doubles or 64-bit integers, each converted to the memory's type: rounded, or its lower bits."""

    def generate(context, builder, signature, arguments):
        value, place = arguments[2], _address(context, builder, signature, arguments, narrow)
        element = place.type.pointee
        if value.type != element:
            value = builder.fptrunc(value, element) if isinstance(dtype, types.Float) else builder.trunc(value, element)
        builder.store(value, place, align=1)
        return context.get_dummy_value()

    dtype = memory.dtype if isinstance(memory, types.Array) else None
    if not isinstance(vector, _Vector) or dtype is None or not _holds(memory, dtype, writable=True):
        return None
    if isinstance(dtype, types.Float) != isinstance(vector.element, types.Float):
        return None
    narrow = _Vector(dtype, vector.lanes)
    return types.void(memory, types.intp, vector), generate


@intrinsic
def like(typing: Any, vector: Any, value: Any) -> Any:
    """Return `value` in every lane of a vector of the same type as `vector`."""

    def generate(context, builder, signature, arguments):
        return _as_lanes(context, builder, arguments[1], signature.args[1], vector)

    return vector(vector, value), generate


def counter(element: Any, lanes: Any) -> Any:
    """Return a nopython function that returns the vector 0, 1, 2 and so on."""
    vector = _Vector(element, lanes)

    @intrinsic
    def count(typing):
        def generate(context, builder, signature, arguments):
            return ir.Constant(context.get_value_type(vector), list(range(lanes)))

        return vector(), generate

    return count


@intrinsic
def lane(typing: Any, vector: Any, index: Any) -> Any:
    """Return one lane's value."""

    def generate(context, builder, signature, arguments):
        return builder.extract_element(arguments[0], builder.trunc(arguments[1], INT32))

    return vector.element(vector, types.intp), generate


@intrinsic
def single(typing: Any, value: Any) -> Any:
    """Return a vector of one lane: functions of vectors serve numbers so."""
    vector = _Vector(value, 1)

    def generate(context, builder, signature, arguments):
        return _as_lanes(context, builder, arguments[0], value, vector)

    return vector(value), generate


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """Return the sum of an integer vector's lanes."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.vector.reduce.add", arguments[0].type.element, arguments[0])

    return vector.element(vector), generate


# ---- lane by lane --------------------------------------------------------------------------------------------------------


@intrinsic
def rotate_left(typing: Any, value: Any, bits: Any) -> Any:
    """Rotate an integer vector, or one unsigned integer, to the left by the same number of bits in every lane."""

    def generate(context, builder, signature, arguments):
        if isinstance(value, _Vector):
            amount = _as_lanes(context, builder, arguments[1], bits, value)
        else:
            amount = context.cast(builder, arguments[1], bits, value)
        return _call(builder, "llvm.fshl", arguments[0].type, arguments[0], arguments[0], amount)

    return value(value, bits), generate


@intrinsic
def squared_norms(typing: Any, vector: Any) -> Any:
    """Return for each 32-bit half of 64-bit lanes the sum of its two signed 16-bit halves' squares.

    Sums are modulo 2**32. The result has twice the lanes, the lower half of a lane first. One instruction where the CPU has
    one (pmaddwd).
    """

    def generate(context, builder, signature, arguments):
        short = ir.VectorType(ir.IntType(16), 4 * vector.lanes)
        wide = ir.VectorType(INT32, 2 * vector.lanes)
        halves = builder.bitcast(arguments[0], short)
        x = builder.sext(_pick(builder, halves, range(0, short.count, 2)), wide)
        y = builder.sext(_pick(builder, halves, range(1, short.count, 2)), wide)
        return builder.add(builder.mul(x, x), builder.mul(y, y))

    return _Vector(types.uint32, 2 * vector.lanes)(vector), generate


@intrinsic
def below(typing: Any, vector: Any, limit: Any) -> Any:
    """Return a mask of the lanes of an unsigned integer vector that are below `limit`.

    The mask is an unsigned integer with a bit a lane, lane 0 the lowest.
    """

    def generate(context, builder, signature, arguments):
        limits = _as_lanes(context, builder, arguments[1], limit, vector)
        return builder.bitcast(builder.icmp_unsigned("<", arguments[0], limits), ir.IntType(vector.lanes))

    return types.Integer.from_bitwidth(vector.lanes, signed=False)(vector, limit), generate


@intrinsic
def lanes_below(typing: Any, vector: Any, limit: Any) -> Any:
    """Return a vector with 1 in the lanes of an unsigned integer vector that are below `limit`, and 0 in others."""

    def generate(context, builder, signature, arguments):
        limits = _as_lanes(context, builder, arguments[1], limit, vector)
        return builder.zext(builder.icmp_unsigned("<", arguments[0], limits), arguments[0].type)

    return vector(vector, limit), generate


@intrinsic
def any_below(typing: Any, vector: Any, limit: Any) -> Any:
    """Tell whether any lane of an unsigned integer vector is below `limit`."""

    def generate(context, builder, signature, arguments):
        values = arguments[0]
        while values.type.count * vector.element.bitwidth > _widest_comparison(context):
            half = values.type.count // 2
            lower, upper = _pick(builder, values, range(half)), _pick(builder, values, range(half, 2 * half))
            values = _call(builder, "llvm.umin", lower.type, lower, upper)
        limits = _splat(builder, context.cast(builder, arguments[1], limit, vector.element), values.type)
        flags = builder.icmp_unsigned("<", values, limits)
        mask = builder.bitcast(flags, ir.IntType(values.type.count))
        return builder.icmp_unsigned("!=", mask, mask.type(0))

    return types.boolean(vector, limit), generate


def _widest_comparison(context):
    """Return the bits of the widest vector that the CPU compares in one instruction."""
    _, _, features = context.codegen().magic_tuple()
    return 512 if "+avx512f" in features else 256 if "+avx2" in features else 128


def _converts_vectors(context):
    """Tell whether the CPU converts vectors of 64-bit integers to doubles: x86 with AVX-512, and arm64."""
    triple, _, features = context.codegen().magic_tuple()
    return "+avx512dq" in features or not triple.startswith("x86_64")


@intrinsic
def where_odd(typing: Any, chooser: Any, odd: Any, even: Any) -> Any:
    """Choose lane by lane: `odd` where the integer vector `chooser` is odd, `even` elsewhere."""

    def generate(context, builder, signature, arguments):
        flags = builder.trunc(arguments[0], ir.VectorType(ir.IntType(1), chooser.lanes))
        return builder.select(flags, arguments[1], arguments[2])

    return odd(chooser, odd, even), generate


@intrinsic
def where_less(typing: Any, left: Any, right: Any, less: Any, other: Any) -> Any:
    """Choose lane by lane: `less` where the float vector `left` is less than `right`, `other` elsewhere.

    `right`, `less` and `other` may be numbers, and a NaN is not less than anything.
    """

    def generate(context, builder, signature, arguments):
        lanes = [
            _as_lanes(context, builder, argument, kind, left)
            for argument, kind in zip(arguments, signature.args, strict=True)
        ]
        return builder.select(builder.fcmp_ordered("<", lanes[0], lanes[1]), lanes[2], lanes[3])

    return left(left, right, less, other), generate


@intrinsic
def reverse_bits(typing: Any, vector: Any) -> Any:
    """Reverse the order of the bits in each lane of an integer vector."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.bitreverse", arguments[0].type, arguments[0])

    return vector(vector), generate


# ---- floats --------------------------------------------------------------------------------------------------------------


@intrinsic
def to_floats(typing: Any, vector: Any) -> Any:
    """Convert 64-bit lanes, taken as signed integers, to doubles."""

    def generate(context, builder, signature, arguments):
        return builder.sitofp(arguments[0], context.get_value_type(signature.return_type))

    return _Vector(types.float64, vector.lanes)(vector), generate


@intrinsic
def unsigned_to_floats(typing: Any, vector: Any) -> Any:
    """Convert 64-bit lanes, below 2**53, to doubles.

    Where AVX2 has no instruction for it, both halves become mantissas, of 2**84 + the upper and 2**52 + the lower one; LLVM
    would convert lane by lane.
    """

    def generate(context, builder, signature, arguments):
        words, floats = arguments[0], context.get_value_type(signature.return_type)
        if _converts_vectors(context):
            return builder.uitofp(words, floats)

        def each(number, kind=words.type):
            return ir.Constant(kind, [number] * vector.lanes)

        lower = builder.or_(builder.and_(words, each(0xFFFFFFFF)), each(0x43300000_00000000))
        upper = builder.or_(builder.lshr(words, each(32)), each(0x45300000_00000000))
        above = builder.fsub(builder.bitcast(upper, floats), each(2.0**84 + 2.0**52, floats))
        return builder.fadd(above, builder.bitcast(lower, floats))

    return _Vector(types.float64, vector.lanes)(vector), generate


@intrinsic
def as_floats(typing: Any, vector: Any) -> Any:
    """Reinterpret the bits of 64-bit lanes as doubles."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return _Vector(types.float64, vector.lanes)(vector), generate


@intrinsic
def as_integers(typing: Any, vector: Any) -> Any:
    """Reinterpret the bits of doubles as 64-bit lanes."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return _Vector(types.uint64, vector.lanes)(vector), generate


@intrinsic
def multiply_add(typing: Any, left: Any, right: Any, addend: Any) -> Any:
    """Return left * right + addend, rounded once; right and addend may be numbers."""

    def generate(context, builder, signature, arguments):
        lanes = [
            _as_lanes(context, builder, argument, kind, left)
            for argument, kind in zip(arguments, signature.args, strict=True)
        ]
        return _call(builder, "llvm.fma", lanes[0].type, *lanes)

    return left(left, right, addend), generate


@intrinsic
def square_root(typing: Any, vector: Any) -> Any:
    """Return the square roots, correctly rounded."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.sqrt", arguments[0].type, arguments[0])

    return vector(vector), generate


@intrinsic
def smaller(typing: Any, vector: Any, other: Any) -> Any:
    """Return the smaller doubles, lane by lane; the one of `other` where a lane has no order (NaN)."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("<", arguments[0], arguments[1]), arguments[0], arguments[1])

    return vector(vector, other), generate


@intrinsic
def larger(typing: Any, vector: Any, other: Any) -> Any:
    """Return the larger doubles, lane by lane; the one of `other` where a lane has no order (NaN)."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", arguments[0], arguments[1]), arguments[0], arguments[1])

    return vector(vector, other), generate


# ---- one number ----------------------------------------------------------------------------------------------------------


@intrinsic
def lowest_bit(typing: Any, mask: Any) -> Any:
    """Return the index of the lowest set bit of a mask that is not zero."""

    def generate(context, builder, signature, arguments):
        place = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return place if mask.bitwidth == 64 else builder.zext(place, INT64)

    return types.int64(mask), generate


@intrinsic
def multiply_wide(typing: Any, left: Any, right: Any) -> Any:
    """Return the product of two words as two: (upper half, lower half)."""

    def generate(context, builder, signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        halves = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), INT64), builder.trunc(product, INT64)
        return context.make_tuple(builder, signature.return_type, halves)

    word = types.uint64
    return types.UniTuple(word, 2)(word, word), generate


@intrinsic
def unlikely(typing: Any, flag: Any) -> Any:
    """Return a condition that hardly ever holds: the compiler moves the code that depends on it out of line."""

    def generate(context, builder, signature, arguments):
        bit = ir.IntType(1)
        expect = cgutils.get_or_insert_function(builder.module, ir.FunctionType(bit, [bit, bit]), "llvm.expect.i1")
        return builder.call(expect, [arguments[0], ir.Constant(bit, 0)])

    return types.boolean(types.boolean), generate


@intrinsic
def take_turn(typing: Any, turns: Any) -> Any:
    """Return the number of the next block that nobody has taken, or -1; `turns` is the address of a `parallel.Turns`."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], INT64.as_pointer())
        number = builder.atomic_rmw("add", place, ir.Constant(INT64, 1), "monotonic")
        end = builder.load(builder.gep(place, [ir.Constant(INT32, 1)]))
        return builder.select(builder.icmp_signed("<", number, end), number, ir.Constant(INT64, -1))

    return types.int64(types.int64), generate
