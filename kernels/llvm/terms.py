"""What code that writes instructions is given, in the terms of numba and LLVM."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir
from numba import types
from numba.core.base import BaseContext
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature

Type: TypeAlias = types.Type
"""Numba's type of an argument."""
Builder: TypeAlias = ir.IRBuilder
Value: TypeAlias = ir.Value
LlvmType: TypeAlias = ir.Type
Context: TypeAlias = BaseContext
Typed: TypeAlias = tuple[Signature, Callable[[Context, Builder, Signature, Sequence[Value]], Value | None]]
"""What an intrinsic returns: the types of its call, and what writes its instructions."""

__all__ = ["Builder", "Context", "LlvmType", "Signature", "Type", "Typed", "TypingContext", "Value"]
