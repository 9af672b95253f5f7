"""Vector instructions on eight runs or boxes at once, in LLVM's terms and so for any processor.

Numba would make loops of them whose last, incomplete vector is done one by one, which is most of a list of ten.
"""

from collections.abc import Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.llvm.terms import Builder, Context, Signature, Type, Typed, TypingContext, Value

LANES = 8
"""Elements of a vector."""
AT_ONCE = 4
"""Elements along x that are measured together."""

_I64, _DOUBLE = ir.IntType(64), ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * LANES)
# No number here is NaN; with that promise the lesser and the greater of two are one instruction.
_NO_NAN = ("nnan", "nsz")


def _splat(builder: Builder, value: Value) -> Value:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, undefined, lanes)


def _lesser(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.fcmp_ordered("<", a, b, flags=_NO_NAN), a, b, flags=_NO_NAN)


def _greater(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.fcmp_ordered(">", a, b, flags=_NO_NAN), a, b, flags=_NO_NAN)


def _gap(builder: Builder, first: Value, last: Value, x: Value) -> Value:
    """Return how far the interval from first to last lies from x, 0 if it holds x."""
    if first is last:
        return builder.fsub(first, x)  # its sign does not matter: it will be squared
    outside = _greater(builder, builder.fsub(first, x), builder.fsub(x, last))
    return _greater(builder, outside, _ZEROS)


def _load(context: Context, builder: Builder, array_type: Type, array: Value, row: int, column: Value) -> Value:
    """Load eight elements of a row of a C-ordered array, shape (rows, columns)."""
    view = context.make_array(array_type)(context, builder, array)
    start = builder.mul(builder.extract_value(view.shape, 1), ir.Constant(_I64, row))
    pointer = builder.bitcast(builder.gep(view.data, [builder.add(start, column)]), _VECTOR.as_pointer())
    loaded = builder.load(pointer)
    loaded.align = 8
    return loaded


def _undefeated(rows: tuple[int, ...], name: str) -> Value:
    """Return the function for parts whose first and last z, y and x are these rows of their array."""

    def undefeated(typing_context: TypingContext, parts: Type, start: Type, duel: Type) -> Typed:
        def generate(context: Context, builder: Builder, signature: Signature, arguments: Sequence[Value]) -> Value:
            parts, start, duel = arguments
            total = _ZEROS
            for axis in range(3):
                lower, upper = rows[2 * axis], rows[2 * axis + 1]
                first = _load(context, builder, signature.args[0], parts, lower, start)
                is_point = lower == upper
                last = first if is_point else _load(context, builder, signature.args[0], parts, upper, start)
                of_axis = [_splat(builder, builder.extract_value(duel, 5 * axis + k)) for k in range(5)]
                step, *sides = of_axis
                differences = []
                for side, square in (sides[:2], sides[2:]):
                    gap = builder.fmul(_gap(builder, first, last, side), step)
                    differences.append(builder.fsub(builder.fmul(gap, gap), square))
                total = builder.fadd(total, _lesser(builder, *differences))
            margin = _splat(builder, builder.extract_value(duel, 15))
            bits = builder.bitcast(builder.fcmp_ordered("<=", total, margin), ir.IntType(LANES))
            return builder.zext(bits, _I64)

        return types.uint64(parts, types.intp, types.UniTuple(types.float64, 16)), generate

    undefeated.__name__ = undefeated.__qualname__ = name
    return intrinsic(undefeated)


# Bit b of what they return: part `start` + b may hold the target nearest to some point of the box of a duel, which is
# what `nearest_surface` says. Eight parts must be there.
undefeated_boxes = _undefeated((0, 1, 2, 3, 4, 5), "undefeated_boxes")
undefeated_runs = _undefeated((0, 0, 1, 1, 2, 3), "undefeated_runs")


@intrinsic  # type: ignore[untyped-decorator]
def least_squares(
    typing_context: TypingContext, runs: Type, count: Type, point: Type, spacing_mm: Type, squares: Type, place: Type
) -> Typed:
    """Measure the least squared distance of a point (z, y, x), and of the three after it along x, to any run.

    `runs` are float64, shape (4, runs), z, y, first and last x, of which the first `count`, a multiple of eight, take
    part. The results are written to `squares` from `place` on.
    """

    def generate(context: Context, builder: Builder, signature: Signature, arguments: Sequence[Value]) -> Value:
        runs, count, point, spacing_mm, squares, place = arguments
        z, y, x = (builder.extract_value(point, axis) for axis in range(3))
        step_z, step_y, step_x = (_splat(builder, builder.extract_value(spacing_mm, axis)) for axis in range(3))
        z, y = _splat(builder, z), _splat(builder, y)
        all_x = [_splat(builder, builder.fadd(x, ir.Constant(_DOUBLE, float(k)))) for k in range(AT_ONCE)]
        infinite = ir.Constant(_VECTOR, [float("inf")] * LANES)
        least = [cgutils.alloca_once_value(builder, infinite) for _ in range(AT_ONCE)]
        zero, lanes = ir.Constant(_I64, 0), ir.Constant(_I64, LANES)
        with cgutils.for_range_slice(builder, zero, count, lanes) as (start, _):
            run_z, run_y, first, last = (
                _load(context, builder, signature.args[0], runs, row, start) for row in range(4)
            )
            dz = builder.fmul(builder.fsub(run_z, z), step_z)
            dy = builder.fmul(builder.fsub(run_y, y), step_y)
            plane = builder.fadd(builder.fmul(dz, dz), builder.fmul(dy, dy))
            for own_x, own_least in zip(all_x, least, strict=True):
                dx = builder.fmul(_gap(builder, first, last, own_x), step_x)
                square = builder.fadd(plane, builder.fmul(dx, dx))
                builder.store(_lesser(builder, square, builder.load(own_least)), own_least)
        name = f"llvm.vector.reduce.fmin.v{LANES}f64"
        kind = ir.FunctionType(_DOUBLE, [_VECTOR])
        reduce = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        target = builder.gep(context.make_array(signature.args[4])(context, builder, squares).data, [place])
        for k, own_least in enumerate(least):
            square = builder.call(reduce, [builder.load(own_least)], fastmath=_NO_NAN)
            builder.store(square, builder.gep(target, [ir.Constant(_I64, k)]))
        return context.get_dummy_value()

    three = types.UniTuple(types.float64, 3)
    return types.none(runs, types.intp, three, three, squares, types.intp), generate
