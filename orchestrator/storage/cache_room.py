"""How much a cache on this machine must give up before it takes more."""

import shutil
from pathlib import Path

LEFT_BYTES = 1024**3
"""Free space that caches leave to others on their disk."""


def excess_bytes(folder: Path, *, num_bytes: int, cached_bytes: int, limit_bytes: int) -> int:
    """Return how much must be removed before a cache takes more; 0 or less if nothing.

    A limit above the free space of a small disk would never be reached: the disk would be full before.

    Parameters
    ----------
    folder
        Of the cache.
    num_bytes
        What is to come.
    cached_bytes
        What is there.
    limit_bytes
        Size of the cache that is not exceeded.
    """
    return num_bytes + max(cached_bytes - limit_bytes, LEFT_BYTES - shutil.disk_usage(folder).free)
