"""Lanes: fixed-width vectors for Numba kernels, so that a loop over neurons is packed SIMD by construction.

Owns the SIMD vocabulary and nothing of the model. A `Lanes(dtype, count)` value holds `count` neighbouring neurons and
lives in registers; arithmetic is an LLVM vector instruction that every processor has some form of, in IEEE arithmetic
with no contraction (`multiply_add` is the one, explicit, exception). LLVM's own vectoriser gives up on loops with many
possibly aliasing arrays; here it has nothing to decide.

The number of lanes is carried by the *type* of a tuple, `width`, as long as their number's logarithm to base 2: one
kernel text, compiled per width. A tuple as long as the number itself would be as many arguments of every function.
`valid` counts the lanes that exist: arrays end where the neurons do, and the lanes beyond are neither read nor written.

A `Stack` is several lanes that are one value, a row for each component of a neuron; arithmetic is that of its rows, and
one without rows costs nothing. Their number is carried by the type of a tuple too, of that length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

INT32 = ir.IntType(32)
ELEMENTS: dict[Any, ir.Type] = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.boolean: ir.IntType(1),
}
INTEGERS: Any = types.integer_domain
ELEMENTS |= {kind: ir.IntType(kind.bitwidth) for kind in INTEGERS}


def width_for(count: int) -> tuple[int, ...]:
    """The width of that many lanes, a power of two."""
    return (0,) * (count.bit_length() - 1)


def number_of_lanes(width: tuple[int, ...]) -> int:
    """How many lanes a width stands for; kernels ask `lanes_of`."""
    return int(1 << len(width))


@intrinsic
def lanes_of(typingctx: Any, width: Any) -> Any:
    """How many lanes a width stands for, as a constant."""
    del typingctx

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        del builder, args
        return context.get_constant(types.intp, 1 << sig.args[0].count)

    return types.intp(width), generate


class Lanes(types.Type):
    """`count` values of `dtype` in registers."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(ELEMENTS[lanes.dtype], lanes.count))


class Stack(types.Type):
    """`rows` lanes of `count` values of `dtype`."""

    def __init__(self, dtype: Any, count: int, rows: int) -> None:
        self.dtype = dtype
        self.count = count
        self.rows = rows
        super().__init__(name=f"Stack({dtype}, {count}, {rows})")


@register_model(Stack)
class _StackModel(models.PrimitiveModel):
    def __init__(self, manager: Any, stack: Stack) -> None:
        vector = ir.VectorType(ELEMENTS[stack.dtype], stack.count)
        super().__init__(manager, stack, ir.ArrayType(vector, stack.rows))


def _of_dtype(kind: Any, dtype: Any) -> Any:
    """The same lanes or stack, of another dtype."""
    return Stack(dtype, kind.count, kind.rows) if isinstance(kind, Stack) else Lanes(dtype, kind.count)


def _widest(*kinds: Any) -> Any:
    """A stack, where one is among them: lanes beside it are those of each of its rows."""
    return next((kind for kind in kinds if isinstance(kind, Stack)), kinds[0])


def _by_row(context: Any, builder: Any, sig: Any, args: Any, function: Callable[..., Any]) -> Any:
    """The result of a function of vectors, for each row of a stack; of lanes, its result."""
    result = sig.return_type
    if not isinstance(result, Stack):
        return function(*args)
    kinds = sig.args
    total = ir.Constant(context.get_value_type(result), ir.Undefined)
    for row in range(result.rows):
        parts = [
            builder.extract_value(value, row) if isinstance(kind, Stack) else value
            for kind, value in zip(kinds, args, strict=True)
        ]
        total = builder.insert_value(total, function(*parts), row)
    return total


def _splat(builder: Any, value: Any, count: int) -> Any:
    kind = ir.VectorType(value.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(INT32, count), [0] * count)
    )


def _place(context: Any, builder: Any, sig: Any, args: Any, array: int, count: int) -> Any:
    """Pointer to lanes array[i, j : j + count], the indices being the two arguments after `array`."""
    kind = sig.args[array]
    indices = [context.cast(builder, args[array + k], sig.args[array + k], types.intp) for k in (1, 2)]
    made = context.make_array(kind)(context, builder, args[array])
    first = cgutils.get_item_pointer(context, builder, kind, made, indices, wraparound=False, boundscheck=False)
    return builder.bitcast(first, ir.VectorType(first.type.pointee, count).as_pointer())


def _alignment(array: Any) -> int:
    return 1 if array.dtype == types.boolean else array.dtype.bitwidth // 8


def _mask(builder: Any, valid: Any, count: int) -> Any:
    numbers = ir.Constant(ir.VectorType(ir.IntType(64), count), list(range(count)))
    return builder.icmp_signed("<", numbers, _splat(builder, valid, count))


def _vector_name(kind: Any) -> str:
    element = {"float": "f32", "double": "f64"}.get(str(kind.element), str(kind.element))
    return f"v{kind.count}{element}"


def _load(context: Any, builder: Any, sig: Any, args: Any, count: int) -> Any:
    """The lanes of args: array[i, j : j + count], those from `valid` on zero."""
    array = sig.args[0]
    place = _place(context, builder, sig, args, 0, count)
    kind = place.type.pointee
    align = _alignment(array)
    number = context.cast(builder, args[3], sig.args[3], types.intp)
    whole = builder.icmp_signed(">=", number, ir.Constant(number.type, count))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            full = builder.load(place, align=align)
            from_full = builder.block
        with otherwise:
            masked = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(kind, [place.type, INT32, ir.VectorType(ir.IntType(1), count), kind]),
                f"llvm.masked.load.{_vector_name(kind)}.p0",
            )
            part = builder.call(
                masked, [place, INT32(align), _mask(builder, number, count), ir.Constant(kind, [0] * count)]
            )
            from_part = builder.block
    value = builder.phi(kind)
    value.add_incoming(full, from_full)
    value.add_incoming(part, from_part)
    if array.dtype == types.boolean:
        return builder.icmp_unsigned("!=", value, ir.Constant(kind, [0] * count))
    return value


@intrinsic
def load(typingctx: Any, array: Any, i: Any, j: Any, valid: Any, width: Any) -> Any:
    """Lanes of array[i, j : j + count]; those from `valid` on are zero."""
    count = 1 << width.count

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, sig, args, count)

    return Lanes(array.dtype, count)(array, i, j, valid, width), generate


@intrinsic
def load_rows(typingctx: Any, array: Any, i: Any, j: Any, valid: Any, rows: Any, width: Any) -> Any:
    """The stack of array[i : i + rows, j : j + count]; lanes from `valid` on are zero."""
    result = Stack(array.dtype, 1 << width.count, rows.count)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = context.cast(builder, args[1], sig.args[1], types.intp)
        total = ir.Constant(context.get_value_type(result), ir.Undefined)
        of_row = types.void(array, types.intp, j, valid)
        for row in range(result.rows):
            at = (args[0], builder.add(first, ir.Constant(first.type, row)), args[2], args[3])
            total = builder.insert_value(total, _load(context, builder, of_row, at, result.count), row)
        return total

    return result(array, i, j, valid, rows, width), generate


def _store(context: Any, builder: Any, sig: Any, args: Any) -> None:
    """array[i, j : j + count] = lanes, up to `valid`, of args: lanes, array, i, j, valid."""
    lanes, array = sig.args[:2]
    count = lanes.count
    place = _place(context, builder, sig, args, 1, count)
    kind = place.type.pointee
    value = builder.zext(args[0], kind) if lanes.dtype == types.boolean else args[0]
    align = _alignment(array)
    number = context.cast(builder, args[4], sig.args[4], types.intp)
    whole = builder.icmp_signed(">=", number, ir.Constant(number.type, count))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            builder.store(value, place, align=align)
        with otherwise:
            masked = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [kind, place.type, INT32, ir.VectorType(ir.IntType(1), count)]),
                f"llvm.masked.store.{_vector_name(kind)}.p0",
            )
            builder.call(masked, [value, place, INT32(align), _mask(builder, number, count)])


@intrinsic
def store(typingctx: Any, lanes: Any, array: Any, i: Any, j: Any, valid: Any) -> Any:
    """array[i, j : j + count] = lanes, up to `valid`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(context, builder, sig, args)
        return context.get_dummy_value()

    return types.void(lanes, array, i, j, valid), generate


@intrinsic
def store_rows(typingctx: Any, stack: Any, array: Any, i: Any, j: Any, valid: Any) -> Any:
    """array[i : i + rows, j : j + count] = the stack's rows, up to `valid`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = context.cast(builder, args[2], sig.args[2], types.intp)
        of_row = types.void(Lanes(stack.dtype, stack.count), array, types.intp, j, valid)
        for row in range(stack.rows):
            part = builder.extract_value(args[0], row)
            _store(
                context, builder, of_row, (part, args[1], builder.add(first, ir.Constant(first.type, row)), *args[3:])
            )
        return context.get_dummy_value()

    return types.void(stack, array, i, j, valid), generate


@intrinsic
def repeat(typingctx: Any, lanes: Any, like: Any) -> Any:
    """A stack, of as many rows as another, that all hold the lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _by_row(context, builder, sig, args, lambda one, _: one)

    return Stack(lanes.dtype, lanes.count, like.rows)(lanes, like), generate


@intrinsic
def add_rows(typingctx: Any, lanes: Any, stack: Any) -> Any:
    """The lanes, plus each row of the stack in its order."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total = args[0]
        for row in range(stack.rows):
            total = builder.fadd(total, builder.extract_value(args[1], row))
        return total

    return lanes(lanes, stack), generate


@intrinsic
def add_products(typingctx: Any, lanes: Any, x: Any, y: Any) -> Any:
    """The lanes, plus x * y of each row in its order, each in one rounding where the processor can."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total = args[0]
        kind = total.type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fmuladd.{_vector_name(kind)}"
        )
        for row in range(x.rows):
            one, other = (builder.extract_value(value, row) for value in args[1:])
            total = builder.call(function, (one, other, total))
        return total

    return lanes(lanes, x, y), generate


@intrinsic
def number_of_rows(typingctx: Any, rows: Any) -> Any:
    """How many rows a tuple stands for, as a constant."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.intp, sig.args[0].count)

    return types.intp(rows), generate


@intrinsic
def prefetch(typingctx: Any, array: Any, i: Any, j: Any, width: Any) -> Any:
    """Ask for the lines of array[i, j : j + count], wherever that is, to be brought near."""
    size = _alignment(array) * (1 << width.count)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.bitcast(_place(context, builder, sig, args, 0, 1), ir.IntType(8).as_pointer())
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [place.type, INT32, INT32, INT32]), "llvm.prefetch.p0"
        )
        for line in range(0, size, 64):
            builder.call(function, [builder.gep(place, [INT32(line)]), INT32(0), INT32(2), INT32(1)])
        return context.get_dummy_value()

    return types.void(array, i, j, width), generate


def _element(context: Any, builder: Any, array: Any, value: Any, place: Any, lane: int, shift: Any) -> Any:
    """Pointer to array[place[lane] + shift]."""
    index = builder.add(builder.extract_element(place, INT32(lane)), shift)
    made = context.make_array(array)(context, builder, value)
    return cgutils.get_item_pointer(context, builder, array, made, [index], wraparound=False, boundscheck=False)


@intrinsic
def gather(typingctx: Any, array: Any, places: Any, shift: Any) -> Any:
    """Lanes of array[places + shift], of a one-dimensional array; `places` are lanes of int64."""
    count = places.count
    result = Lanes(array.dtype, count)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        offset = context.cast(builder, args[2], sig.args[2], types.intp)
        parts = [
            builder.load(_element(context, builder, array, args[0], args[1], lane, offset)) for lane in range(count)
        ]
        value = ir.Constant(ir.VectorType(parts[0].type, count), ir.Undefined)
        for lane, part in enumerate(parts):
            value = builder.insert_element(value, part, INT32(lane))
        if array.dtype == types.boolean:
            return builder.icmp_unsigned("!=", value, ir.Constant(value.type, [0] * count))
        return value

    return result(array, places, shift), generate


@intrinsic
def scatter(typingctx: Any, lanes: Any, array: Any, places: Any, shift: Any) -> Any:
    """array[places + shift] = lanes, of a one-dimensional array; `places` are lanes of int64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        offset = context.cast(builder, args[3], sig.args[3], types.intp)
        value = args[0]
        if lanes.dtype == types.boolean:
            value = builder.zext(value, ir.VectorType(ir.IntType(8), lanes.count))
        for lane in range(lanes.count):
            part = builder.extract_element(value, INT32(lane))
            builder.store(part, _element(context, builder, array, args[1], args[2], lane, offset))
        return context.get_dummy_value()

    return types.void(lanes, array, places, shift), generate


@intrinsic
def splat(typingctx: Any, value: Any, width: Any) -> Any:
    """Lanes that all hold `value`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0], (1 << width.count))

    return Lanes(value, (1 << width.count))(value, width), generate


@intrinsic
def fill(typingctx: Any, value: Any, like: Any) -> Any:
    """Lanes that all hold `value`, of the type of the lanes `like`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = _splat(builder, context.cast(builder, args[0], sig.args[0], like.dtype), like.count)
        return _by_row(context, builder, sig, args, lambda *_: lanes)

    return like(value, like), generate


def _binary(of_floats: str | None, of_integers: str | None, doc: str) -> Any:
    def operation(typingctx: Any, x: Any, y: Any) -> Any:
        method = of_floats if isinstance(x.dtype, types.Float) else of_integers

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _by_row(context, builder, sig, args, getattr(builder, str(method)))

        return _widest(x, y)(x, y), generate

    operation.__doc__ = doc
    return intrinsic(operation)


add = _binary("fadd", "add", "x + y.")
sub = _binary("fsub", "sub", "x - y.")
mul = _binary("fmul", "mul", "x * y.")
div = _binary("fdiv", None, "x / y.")
both = _binary(None, "and_", "x and y, of masks.")
either = _binary(None, "or_", "x or y, of masks.")
exclusive = _binary(None, "xor", "The bits of either x or y, of integers.")
shifted_down = _binary(None, "lshr", "x // 2**y, of unsigned integers.")


@intrinsic
def opposite(typingctx: Any, mask: Any) -> Any:
    """not x, of a mask."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.not_(args[0])

    return mask(mask), generate


def _comparison(predicate: str) -> Any:
    def operation(typingctx: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            of_integers = builder.icmp_signed if getattr(x.dtype, "signed", True) else builder.icmp_unsigned
            compare = builder.fcmp_ordered if isinstance(x.dtype, types.Float) else of_integers
            return _by_row(context, builder, sig, args, lambda one, other: compare(predicate, one, other))

        return _of_dtype(_widest(x, y), types.boolean)(x, y), generate

    operation.__doc__ = f"Mask of x {predicate} y."
    return intrinsic(operation)


less = _comparison("<")
at_most = _comparison("<=")
greater = _comparison(">")
equal = _comparison("==")


@intrinsic
def select(typingctx: Any, mask: Any, x: Any, y: Any) -> Any:
    """x where the mask is set, else y."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _by_row(context, builder, sig, args, builder.select)

    return x(mask, x, y), generate


def _llvm_function(name: str, arguments: int, doc: str) -> Any:
    def build(typing_args: tuple[Any, ...]) -> Any:
        x = typing_args[0]

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = ir.VectorType(ELEMENTS[x.dtype], x.count)
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind] * arguments), f"llvm.{name}.{_vector_name(kind)}"
            )
            return _by_row(context, builder, sig, args, lambda *parts: builder.call(function, parts))

        return x(*typing_args), generate

    operation: Callable[..., Any]
    if arguments == 1:

        def operation(typingctx: Any, x: Any) -> Any:
            return build((x,))

    else:

        def operation(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
            return build((x, y, z))

    operation.__doc__ = doc
    return intrinsic(operation)


absolute = _llvm_function("fabs", 1, "abs(x).")
round_even = _llvm_function("rint", 1, "x rounded to the nearest whole number.")
multiply_add = _llvm_function("fmuladd", 3, "x * y + z, in one rounding where the processor can.")


@intrinsic
def clear_seldom(typingctx: Any, lanes: Any, tiny: Any) -> Any:
    """Lanes or a stack, those smaller than `tiny`, and -0, set to zero by a branch that is seldom taken.

    What follows does not wait for the comparison, as it would for a selection: for chains of dependent steps.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, bound = args
        kind = ir.VectorType(ELEMENTS[lanes.dtype], lanes.count)
        zero = ir.Constant(kind, [0.0] * lanes.count)
        whole_numbers = ir.VectorType(ir.IntType(lanes.dtype.bitwidth), lanes.count)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.fabs.{_vector_name(kind)}"
        )
        rows = lanes.rows if isinstance(lanes, Stack) else None
        parts = [value] if rows is None else [builder.extract_value(value, row) for row in range(rows)]
        smalls = []
        for part in parts:
            size = builder.call(function, [part])
            below = builder.fcmp_ordered("<", size, _splat(builder, bound, lanes.count))
            own_bits = builder.bitcast(part, whole_numbers)
            smalls.append(builder.and_(below, builder.icmp_unsigned("!=", own_bits, ir.Constant(whole_numbers, None))))
        if not smalls:
            return value
        some = builder.bitcast(reduce(builder.or_, smalls), ir.IntType(lanes.count))
        before = builder.block
        with builder.if_then(builder.icmp_unsigned("!=", some, some.type(0)), likely=False):
            cleared = [builder.select(small, zero, part) for small, part in zip(smalls, parts, strict=True)]
            new = cleared[0]
            if rows is not None:
                new = ir.Constant(value.type, ir.Undefined)
                for row, part in enumerate(cleared):
                    new = builder.insert_value(new, part, row)
            inside = builder.block
        result = builder.phi(value.type)
        result.add_incoming(value, before)
        result.add_incoming(new, inside)
        return result

    return lanes(lanes, tiny), generate


@intrinsic
def total(typingctx: Any, lanes: Any) -> Any:
    """Sum of the lanes, in the order that is quickest."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind.element, [kind.element, kind]),
            f"llvm.vector.reduce.fadd.{_vector_name(kind)}",
        )
        return builder.call(function, [ir.Constant(kind.element, -0.0), args[0]], fastmath=("reassoc",))

    return lanes.dtype(lanes), generate


@intrinsic
def widen(typingctx: Any, lanes: Any) -> Any:
    """Lanes as float64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if lanes.dtype == types.float64:
            return args[0]
        kind = ir.VectorType(ir.DoubleType(), lanes.count)
        return _by_row(context, builder, sig, args, lambda part: builder.fpext(part, kind))

    return _of_dtype(lanes, types.float64)(lanes), generate


@intrinsic
def converted(typingctx: Any, lanes: Any, zero: Any) -> Any:
    """Lanes as numbers of the type of `zero`: float64 as any float, unsigned integers as any float or shorter ones."""
    kind = ir.VectorType(ELEMENTS[zero], lanes.count)
    if isinstance(lanes.dtype, types.Float):
        function = None if lanes.dtype == zero else "fptrunc"
    else:
        function = "uitofp" if isinstance(zero, types.Float) else "trunc"

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, function)(args[0], kind) if function else args[0]

    return Lanes(zero, lanes.count)(lanes, zero), generate


@intrinsic
def power_of_two(typingctx: Any, lanes: Any) -> Any:
    """2 ** x for lanes that hold whole numbers within the exponents of normal numbers."""
    bits, mantissa, bias = (32, 23, 127) if lanes.dtype == types.float32 else (64, 52, 1023)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(bits), lanes.count)

        def of_vector(x: Any) -> Any:
            biased = builder.add(builder.fptosi(x, kind), ir.Constant(kind, [bias] * lanes.count))
            return builder.bitcast(builder.shl(biased, ir.Constant(kind, [mantissa] * lanes.count)), x.type)

        return _by_row(context, builder, sig, args, of_vector)

    return lanes(lanes), generate


@intrinsic
def bits(typingctx: Any, mask: Any) -> Any:
    """The mask as an integer, lane k in bit k."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        packed = builder.bitcast(args[0], ir.IntType(mask.count))
        return packed if mask.count == 64 else builder.zext(packed, ir.IntType(64))

    return types.uint64(mask), generate


@intrinsic
def count_bits(typingctx: Any, value: Any) -> Any:
    """Number of set bits of an integer."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def lowest_bit(typingctx: Any, value: Any) -> Any:
    """Number of the lowest set bit of an integer; 64 for zero."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate
