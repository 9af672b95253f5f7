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


def compiled_in_place(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that makes no array, only fills in those that it is given.

    References to arrays are not counted in it. Numba counts them, with atomic instructions, whenever a function that
    branches is given an array or takes a row of one: most of the time of a loop over words. With its own flag for
    functions without memory management the compiler refuses to make an array instead.
    """
    return cast("Callable[P, R]", numba.njit(nogil=True, cache=True, _nrt=False)(function))
