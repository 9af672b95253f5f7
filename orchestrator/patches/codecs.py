"""How chunks are compressed: libraries' codecs, and our own for 16-bit numbers."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from kernels.lane_packing import BOTH, FRONT, UP
from orchestrator.errors import IntegrityError

LaneCodec = Literal["lanes-both", "lanes-up", "lanes-front"]
LibraryCodec = Literal["none", "arrow-lz4", "arrow-zstd", "blosc2-lz4", "blosc2-zstd"]
Codec = LaneCodec | LibraryCodec

LIBRARY_CODECS: tuple[LibraryCodec, ...] = get_args(LibraryCodec)
PREDICTORS: dict[str, int] = {"lanes-both": BOTH, "lanes-up": UP, "lanes-front": FRONT}
"""The predictor of each codec of ours; those for other numbers than 16-bit are the libraries'."""

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
    library, _, name = codec.partition("-")
    try:
        if library == "arrow":
            expanded = pa.decompress(payload, decompressed_size=num_bytes, codec=name)
        elif library == "blosc2":
            import blosc2

            expanded = blosc2.decompress2(payload.to_pybytes(), nthreads=1)
        else:
            expanded = payload
    except (OSError, pa.ArrowException, RuntimeError, ValueError) as error:
        raise IntegrityError(f"cannot be expanded ({error})") from error
    if memoryview(expanded).nbytes != num_bytes:
        raise IntegrityError(f"expands to {memoryview(expanded).nbytes} bytes; expected {num_bytes}")
    return expanded


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


def _blosc2_parameters(name: str, itemsize: int) -> dict[str, Any]:
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
