"""How every kernel is compiled."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call, release the GIL and keep the machine code on disk.

    Without `fastmath`: products and sums must round as numpy rounds them, or distances equal to a tolerance would
    fall on either side of it. Kernels are serial; callers run many cases at a time.
    """
    return cast("Callable[P, R]", numba.njit(nogil=True, cache=True)(function))
