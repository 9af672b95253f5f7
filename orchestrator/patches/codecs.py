"""How chunks are compressed: our own codec for 16-bit numbers, blosc2's Zstandard for all others."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from orchestrator.errors import IntegrityError

Codec = Literal["lanes", "blosc2-zstd", "none"]

_HEADER_BYTES, _FILTERS = 32, slice(16, 22)
_ZSTD, _SHUFFLE, _NO_FILTER = 4, 1, 0
"""Numbers in the header of a chunk of blosc2's."""


def compress(raw: bytes, *, itemsize: int) -> bytes:
    """Compress the numbers of one chunk, each of so many bytes, with blosc2."""
    import blosc2

    packed = blosc2.compress2(
        raw,
        codec=blosc2.Codec.ZSTD,
        clevel=5,
        typesize=itemsize,
        filters=[blosc2.Filter.SHUFFLE],
        filters_meta=[0],
        nthreads=1,
    )
    return bytes(packed)


def expand(payload: pa.Buffer, *, num_bytes: int) -> Any:
    """Return what `compress` was given; raises IntegrityError (without a name) if it does not come out."""
    import blosc2

    try:
        _check(packed := payload.to_pybytes(), num_bytes=num_bytes)
        return blosc2.decompress2(packed, nthreads=1)
    except (RuntimeError, ValueError) as error:
        raise IntegrityError(f"cannot be expanded ({error})") from error


def _check(packed: bytes, *, num_bytes: int) -> None:
    """Raise ValueError unless the header of a chunk is one of ours.

    blosc2 makes room for as much as a chunk says, and starts Python to look for a plug-in that it names.
    """
    header = np.frombuffer(packed, np.uint8, _HEADER_BYTES)
    stored_bytes, _, packed_bytes = np.frombuffer(packed, "<i4", 3, 4).tolist()
    if (stored_bytes, packed_bytes) != (num_bytes, len(packed)):
        raise ValueError(f"a chunk of {stored_bytes} bytes in {packed_bytes}; expected {num_bytes} in {len(packed)}")
    filters = header[_FILTERS]
    if header[2] >> 5 != _ZSTD or not set(filters.tolist()) <= {_NO_FILTER, _SHUFFLE}:
        raise ValueError(f"a chunk with codec {header[2] >> 5} and filters {filters.tolist()}")
