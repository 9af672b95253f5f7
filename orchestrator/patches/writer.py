"""Writing of patch files."""

import io
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.errors import DataError
from orchestrator.patches.layout import CHUNK_SHAPE, COLUMNS, ArrayLayout, Compression, Header, encode_properties


def write_patches(
    path: Path,
    *,
    data: NDArray[Any],
    seg: NDArray[Any],
    properties: Mapping[str, Any],
    source_sha256: Mapping[str, str] | None = None,
    compression: Compression = "none",
) -> None:
    """Write one preprocessed case as a patch file.

    The file is written in place: give a temporary path and rename it, or use `Storage.writing`.

    Parameters
    ----------
    path : Path
        File to write.
    data : array, shape (C, Z, Y, X)
        Image, kept without loss.
    seg : integer array, shape (C', Z, Y, X)
        Segmentation of the same voxels.
    properties : mapping
        Plain types, nested lists, tuples and dicts, and arrays.
    source_sha256 : mapping, optional
        Digests of what the case was made from, by name.
    compression : {"none", "zstd"}
        Of each chunk on its own; uncompressed chunks are read straight from the memory map.

    Raises
    ------
    DataError
        If the arrays are not 4-D, are empty, differ in their voxels, or hold no plain numbers.
    """
    if data.ndim != 4 or seg.ndim != 4 or data.shape[1:] != seg.shape[1:] or 0 in (data.size, seg.size):
        raise DataError(f"{path}: image {data.shape}, segmentation {seg.shape}; expected (c, z, y, x) of equal voxels")
    arrays: list[NDArray[Any]] = []
    encoded = encode_properties(dict(properties), arrays)
    arrays = [_little_endian(array) for array in arrays]
    data, seg = _little_endian(data), _little_endian(seg)
    header = Header(
        image=_chunked(data, compression),
        segmentation=_chunked(seg, compression),
        property_arrays=tuple(
            ArrayLayout(
                shape=array.shape, dtype=array.dtype.str, chunk_shape=tuple(max(size, 1) for size in array.shape)
            )
            for array in arrays
        ),
        properties=encoded,
        source_sha256=dict(source_sha256 or {}),
    )
    schema = pa.schema(COLUMNS, metadata=header.to_metadata())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for name, array, layout in (("image", data, header.image), ("segmentation", seg, header.segmentation)):
            starts = list(layout.starts())
            payloads = (_payload(array, layout, start) for start in starts)
            writer.write_batch(_batch(schema, [name] * len(starts), starts, payloads))
        names = [f"properties/{index}" for index in range(len(arrays))]
        writer.write_batch(_batch(schema, names, [(0, 0, 0, 0)] * len(arrays), (array.tobytes() for array in arrays)))


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise DataError(f"an array of {array.dtype}; expected integers or floating-point numbers")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _chunked(array: NDArray[Any], compression: Compression) -> ArrayLayout:
    return ArrayLayout(shape=array.shape, dtype=array.dtype.str, chunk_shape=CHUNK_SHAPE, compression=compression)


def _payload(array: NDArray[Any], layout: ArrayLayout, start: tuple[int, ...]) -> bytes:
    extent = layout.extent(start)
    chunk = array[tuple(slice(first, first + size) for first, size in zip(start, extent, strict=True))]
    raw = chunk.tobytes()
    if layout.compression == "none":
        return raw
    compressed: bytes = pa.compress(raw, codec=layout.compression, asbytes=True)
    return compressed


def _batch(
    schema: pa.Schema, names: list[str], starts: list[tuple[int, ...]], payloads: Iterable[bytes]
) -> pa.RecordBatch:
    """Gather the payloads in one buffer: a list of them would hold a large image twice more."""
    values = io.BytesIO()
    offsets, checksums = [0], []
    for payload in payloads:
        checksums.append(zlib.crc32(payload))
        offsets.append(offsets[-1] + values.write(payload))
    payload_column = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(),
        len(names),
        [None, pa.py_buffer(np.array(offsets, np.int64)), pa.py_buffer(values.getbuffer())],
    )
    axes = np.array(starts, np.int32).reshape(-1, 4).T
    columns = [pa.array(names, pa.string()), *(pa.array(axis) for axis in axes)]
    return pa.record_batch([*columns, pa.array(checksums, pa.uint32()), payload_column], schema=schema)
