"""Instructions on words of 64 bits that numba does not offer itself, in LLVM's terms and so for any processor."""

from collections.abc import Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.llvm.terms import Builder, Context, Signature, Type, Typed, TypingContext, Value


@intrinsic  # type: ignore[untyped-decorator]
def equal_bits(typing_context: TypingContext, array: Type, start: Type, value: Type) -> Typed:
    """Compare 64 elements with a value: bit b of the result is ``array.flat[start + b] == value``.

    The array must be C-ordered, the value of its type, and all 64 elements must exist. LLVM turns the comparison into
    vector instructions: 32 or 64 bytes at a time with AVX2 or AVX-512.
    """

    def generate(context: Context, builder: Builder, signature: Signature, arguments: Sequence[Value]) -> Value:
        array_type = signature.args[0]
        data = context.make_array(array_type)(context, builder, arguments[0]).data
        element = context.get_data_type(array_type.dtype)
        vector = ir.VectorType(element, 64)
        elements = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer()))
        elements.align = array_type.dtype.bitwidth // 8
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[2], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        same = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)
        return builder.bitcast(builder.icmp_unsigned("==", elements, same), ir.IntType(64))

    return types.uint64(array, types.intp, array.dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def unequal_bits(typing_context: TypingContext, array: Type, start: Type) -> Typed:
    """Compare 64 elements with those after them: bit b of the result is ``array[start + b] != array[start + b + 1]``.

    The array must have one axis and be C-ordered, and all 65 elements must exist.
    """

    def generate(context: Context, builder: Builder, signature: Signature, arguments: Sequence[Value]) -> Value:
        array_type = signature.args[0]
        data = context.make_array(array_type)(context, builder, arguments[0]).data
        vector = ir.VectorType(context.get_data_type(array_type.dtype), 64)
        loaded = []
        for step in range(2):
            place = builder.add(arguments[1], ir.Constant(ir.IntType(64), step))
            elements = builder.load(builder.bitcast(builder.gep(data, [place]), vector.as_pointer()))
            elements.align = array_type.dtype.bitwidth // 8
            loaded.append(elements)
        return builder.bitcast(builder.icmp_unsigned("!=", *loaded), ir.IntType(64))

    return types.uint64(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: TypingContext, array: Type, start: Type) -> Typed:
    """Ask for the memory of ``array.flat[start]``, which need not exist; the array must be C-ordered."""

    def generate(context: Context, builder: Builder, signature: Signature, arguments: Sequence[Value]) -> Value:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        number, address = ir.IntType(32), ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(data, [arguments[1]]), address)
        # To be read, for all levels of the cache, as data. "Of use only once" (0) is no slower on AMD (family 25, model
        # 17), but on Intel's Sapphire Rapids, whose second cache it passes by, an NSD then takes three times as long.
        builder.call(function, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.none(array, start), generate


@intrinsic  # type: ignore[untyped-decorator]
def spread_bits(typing_context: TypingContext, codes: Type, planes: Type) -> Typed:
    """Turn eight words into 64 bytes: bit 7 - k of ``codes[b]`` is bit b of ``planes[k]``.

    `codes` is a C-ordered uint8 array of at least 64 elements, `planes` a tuple of eight uint64.
    """

    def generate(context: Context, builder: Builder, signature: Signature, arguments: Sequence[Value]) -> Value:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        vector, bits = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.IntType(1), 64)
        none = ir.Constant(vector, [0] * 64)
        spread = none
        for k in range(8):
            plane = builder.bitcast(builder.extract_value(arguments[1], k), bits)
            spread = builder.or_(spread, builder.select(plane, ir.Constant(vector, [1 << 7 - k] * 64), none))
        builder.store(spread, builder.bitcast(data, vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.none(codes, planes), generate


@intrinsic  # type: ignore[untyped-decorator]
def popcount(typing_context: TypingContext, word: Type) -> Typed:
    """Return the number of set bits of a uint64."""
    return types.int64(types.uint64), lambda _context, builder, _signature, arguments: builder.ctpop(arguments[0])


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(typing_context: TypingContext, word: Type) -> Typed:
    """Return the position of the lowest set bit of a uint64, 64 if there is none."""
    no = ir.Constant(ir.IntType(1), 0)
    return types.int64(types.uint64), lambda _context, builder, _signature, arguments: builder.cttz(arguments[0], no)
