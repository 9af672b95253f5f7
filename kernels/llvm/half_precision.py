"""Numbers of 16 bits (IEEE binary16) in compiled functions, as their bits: numba itself has no arithmetic for them."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from kernels.compiled import compiled
from kernels.llvm.terms import Type, Typed, TypingContext


@intrinsic  # type: ignore[untyped-decorator]
def _float_bits(typing_context: TypingContext, value: Type) -> Typed:
    """Return the bits of a float32."""
    return types.uint32(types.float32), lambda _context, builder, _signature, arguments: builder.bitcast(
        arguments[0], ir.IntType(32)
    )


@intrinsic  # type: ignore[untyped-decorator]
def _float_of_bits(typing_context: TypingContext, bits: Type) -> Typed:
    """Return the float32 that has these bits."""
    return types.float32(types.uint32), lambda _context, builder, _signature, arguments: builder.bitcast(
        arguments[0], ir.FloatType()
    )


@intrinsic  # type: ignore[untyped-decorator]
def _widened(typing_context: TypingContext, bits: Type) -> Typed:
    """Return the float32 of the bits of a half, by the processor."""
    return types.float32(types.uint16), lambda _context, builder, _signature, arguments: builder.fpext(
        builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType()
    )


@intrinsic  # type: ignore[untyped-decorator]
def _narrowed(typing_context: TypingContext, value: Type) -> Typed:
    """Return the bits of the half that is nearest to a float32, by the processor."""
    return types.uint16(types.float32), lambda _context, builder, _signature, arguments: builder.bitcast(
        builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16)
    )


@intrinsic  # type: ignore[untyped-decorator]
def quotient(typing_context: TypingContext, dividend: Type, divisor: Type) -> Typed:
    """Divide float32 by float32. Numba's own division looks for zeros, and is then done one by one."""
    return types.float32(types.float32, types.float32), lambda _context, builder, _signature, arguments: builder.fdiv(
        *arguments
    )


@compiled
def widened_by_integers(bits: np.uint16) -> np.float32:
    """Return the float32 of the bits of a half, on any processor."""
    magnitude = np.uint32(bits & np.uint16(0x7FFF))
    shifted = np.uint32(magnitude << np.uint32(13))
    if magnitude >= np.uint32(0x7C00):
        shifted = np.uint32(shifted | np.uint32(0x7F800000))
    else:
        shifted = _float_bits(np.float32(_float_of_bits(shifted) * np.float32(2.0**112)))
    signed = np.uint32(shifted | np.uint32(np.uint32(bits & np.uint16(0x8000)) << np.uint32(16)))
    single: np.float32 = _float_of_bits(signed)
    return single


@compiled
def narrowed_by_integers(value: np.float32) -> np.uint16:
    """Return the bits of the half that is nearest to a float32, of two the even one, on any processor."""
    bits = _float_bits(value)
    sign = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if magnitude > np.uint32(0x7F800000):
        half = np.uint32(0x7E00)
    elif magnitude >= np.uint32(0x47800000):
        half = np.uint32(0x7C00)
    elif magnitude < np.uint32(0x38800000):
        # Below the normal halves: the sum with 0.5 is rounded where those end.
        half = np.uint32(
            _float_bits(np.float32(_float_of_bits(magnitude) + np.float32(0.5))) - _float_bits(np.float32(0.5))
        )
    else:
        odd = np.uint32(np.uint32(magnitude >> np.uint32(13)) & np.uint32(1))
        half = np.uint32(np.uint32(magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13))
    return np.uint16(sign | half)


def _converts_halves() -> bool:
    """Whether the processor that is compiled for converts halves; elsewhere LLVM calls a function that nobody has."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    return "+f16c" in features.split(",") or triple.startswith(("aarch64", "arm64"))


half_to_float = _widened if _converts_halves() else widened_by_integers
"""The float32 of the bits of a half."""
float_to_half = _narrowed if _converts_halves() else narrowed_by_integers
"""The bits of the half that is nearest to a float32, of two the even one."""


@compiled
def double_to_half(value: np.float64) -> np.uint16:
    """Return the bits of the half that is nearest to a float64, of two the even one: rounded once, not twice."""
    single = np.float32(value)
    rest = value - np.float64(single)
    bits = _float_bits(single)
    # Of the two float32 beside the value, the odd one is rounded to the half that is nearest to the value. Without
    # branches, so that several are converted at once; where the float32 is 0, so is the half.
    is_moved = (rest != 0.0) & (bits & np.uint32(1) == np.uint32(0)) & (single != np.float32(0))
    away = np.uint32(1) if (rest > 0.0) == (single > np.float32(0)) else np.uint32(0xFFFFFFFF)
    bits = np.uint32(bits + (away if is_moved else np.uint32(0)))
    return float_to_half(_float_of_bits(bits))


@compiled
def half_order(bits: np.uint16) -> np.int16:
    """Return an int16 for the bits of a half that is in the order of the halves; all that are no numbers come last."""
    magnitude = np.int16(bits & np.uint16(0x7FFF))
    if magnitude > np.int16(0x7C00):
        return np.int16(0x7FFF)
    return np.int16(-magnitude) if bits & np.uint16(0x8000) else magnitude
