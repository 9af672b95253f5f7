"""What the C library does with memory that was freed."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""
_LARGEST_KEPT_BYTES = 32 * 1024**2
"""The highest threshold that glibc takes."""


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, but for blocks above 32 MiB; False where the C library cannot do that.

    Else the tensors of every iteration lie on pages that the system has to hand out and to clear first. That takes time
    and loads the memory that all trainings of a host share.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_TRIM_THRESHOLD, 2**31 - 1) and set_option(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES))
