"""Numbers of threads in the environment, as some libraries read them."""

import os
from collections.abc import MutableMapping

VARIABLES = ("OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "NUMBA_NUM_THREADS")


def settle_thread_numbers(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave a plain number, or nothing, in each variable.

    OpenMP takes a list such as `4,2`, a number for each level, and ignores what it does not understand; libraries that
    take its variable for themselves (numexpr) fail when they are imported.
    """
    for name in VARIABLES:
        if name in environment:
            first = environment[name].partition(",")[0].strip()
            if first.isascii() and first.isdigit() and len(first) < 10 and int(first) > 0:
                environment[name] = first
            else:
                del environment[name]
