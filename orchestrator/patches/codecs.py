"""How chunks are compressed: libraries' codecs, and our own for 16-bit numbers."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from kernels.packing.lane_packing import BOTH, FRONT, UP
from orchestrator.errors import IntegrityError
from orchestrator.storage.json_values import JsonObject

LaneCodec = Literal["lanes-both", "lanes-up", "lanes-front"]
LibraryCodec = Literal["none", "arrow-lz4", "arrow-zstd", "blosc2-lz4", "blosc2-zstd"]
Codec = LaneCodec | LibraryCodec

LIBRARY_CODECS: tuple[LibraryCodec, ...] = get_args(LibraryCodec)
PREDICTORS: dict[str, int] = {"lanes-both": BOTH, "lanes-up": UP, "lanes-front": FRONT}
"""The predictor of each codec of ours; those for other numbers than 16-bit are the libraries'."""

_BLOSC2_HEADER_BYTES, _BLOSC2_FILTERS = 32, slice(16, 22)
_BLOSC2_CODECS = {"lz4": 1, "zstd": 4}
"""Numbers in the header of a chunk; filter 1 shuffles bytes, filter 0 does nothing."""

LIBRARY_HANDICAP = 0.1
"""Of the bytes of the numbers themselves: a library's codec expands whole chunks, at several times the CPU of ours, and
must save that much to win."""


def compress(raw: bytes, *, codec: LibraryCodec, itemsize: int) -> bytes:
    """Compress the numbers of one chunk with a library's codec."""
    library, _, name = codec.partition("-")
    if library == "arrow":
        compressed: bytes = pa.compress(raw, codec=name, asbytes=True)
        return compressed
    if library == "blosc2":
        import blosc2

        packed = blosc2.compress2(raw, **_blosc2_parameters(name, itemsize))
        return bytes(packed)
    return raw


def expand(payload: pa.Buffer, *, codec: LibraryCodec, num_bytes: int) -> Any:
    """Return a buffer with the numbers of one chunk; raises IntegrityError (without a name) if they do not come out."""
    try:
        expanded = _expanded(payload, codec=codec, num_bytes=num_bytes)
    except (OSError, pa.ArrowException, RuntimeError, ValueError) as error:
        raise IntegrityError(f"cannot be expanded ({error})") from error
    if memoryview(expanded).nbytes != num_bytes:
        raise IntegrityError(f"expands to {memoryview(expanded).nbytes} bytes; expected {num_bytes}")
    return expanded


def _expanded(payload: pa.Buffer, *, codec: LibraryCodec, num_bytes: int) -> Any:
    library, _, name = codec.partition("-")
    if library == "arrow":
        # Told the size, Arrow returns memory as it finds it where LZ4 gives less.
        with pa.CompressedInputStream(pa.BufferReader(payload), name) as stream:
            return stream.read(num_bytes + 1)
    if library == "blosc2":
        import blosc2

        _check_blosc2(packed := payload.to_pybytes(), name=name, num_bytes=num_bytes)
        return blosc2.decompress2(packed, nthreads=1)
    return payload


def _check_blosc2(packed: bytes, *, name: str, num_bytes: int) -> None:
    """Raise ValueError unless the header of a blosc2 chunk is one of ours.

    blosc2 makes room for as much as a chunk says, and starts Python to look for a plug-in that it names.
    """
    header = np.frombuffer(packed, np.uint8, _BLOSC2_HEADER_BYTES)
    stored_bytes, _, packed_bytes = np.frombuffer(packed, "<i4", 3, 4).tolist()
    if (stored_bytes, packed_bytes) != (num_bytes, len(packed)):
        raise ValueError(f"a chunk of {stored_bytes} bytes in {packed_bytes}; expected {num_bytes} in {len(packed)}")
    filters = header[_BLOSC2_FILTERS]
    if header[2] >> 5 != _BLOSC2_CODECS[name] or not set(filters.tolist()) <= {0, 1}:
        raise ValueError(f"a chunk with codec {header[2] >> 5} and filters {filters.tolist()}")


def smallest(sizes: Sequence[tuple[Codec, int]], *, num_bytes: int) -> Codec:
    """Choose by size on trial, compressors of the libraries with a handicap; the first of equals.

    Parameters
    ----------
    sizes
        What each codec made of the same chunks.
    num_bytes
        Of the numbers in those chunks.
    """

    def cost(entry: tuple[Codec, int]) -> float:
        codec, size = entry
        return size if codec in PREDICTORS or codec == "none" else size + LIBRARY_HANDICAP * num_bytes

    return min(sizes, key=cost)[0]


def _blosc2_parameters(name: str, itemsize: int) -> JsonObject:
    import blosc2

    codec = {"lz4": blosc2.Codec.LZ4, "zstd": blosc2.Codec.ZSTD}[name]
    return {
        "codec": codec,
        "clevel": 5,
        "typesize": np.dtype(f"u{itemsize}").itemsize,
        "filters": [blosc2.Filter.SHUFFLE],
        "filters_meta": [0],
        "nthreads": 1,
    }
