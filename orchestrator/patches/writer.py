"""Writing of patch files."""

import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kernels.packing.lane_packing import max_chunk_bytes, pack_chunk
from orchestrator.errors import DataError
from orchestrator.patches.codecs import compress
from orchestrator.patches.layout import (
    CHUNK_SHAPE,
    COLUMNS,
    NUM_BATCHES,
    VOXEL,
    ArrayLayout,
    Header,
    Index,
    Properties,
    encode_properties,
)
from orchestrator.patches.mapped_file import MappedFile
from orchestrator.patches.reader import PatchFile
from orchestrator.storage.json_values import JsonMapping

STEP = 2.0**-9
"""Of quantised intensities; a power of two, so that scaling is exact and the error is half a step at most."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Column:
    """The rows of one record batch."""

    names: Sequence[str]
    starts: Sequence[Index]
    payloads: Iterable[bytes]
    voxels: Sequence[NDArray[np.uint16]] = ()
    """One array (n, 3) a row; none if there are no rows with voxels."""


Precision = Literal["quantised", "lossless"]


class WriteOptions(TypedDict, total=False):
    """How `write_patches` writes, by name."""

    origin: JsonMapping
    """What the case is made from, and how: JSON for whoever asks the file for it."""
    precision: Precision
    """Unless given, quantised: float32 intensities are multiples of 2^-9, at most 2^-10 from what was given. An image
    with other numbers, or more than 65536 steps from its least to its largest, is kept without loss in any case."""


def write_patches(
    path: Path,
    *,
    data: NDArray[np.generic],
    seg: NDArray[np.generic],
    properties: Properties,
    **options: Unpack[WriteOptions],
) -> None:
    """Write one preprocessed case as a patch file.

    The file at `path` is written in place: give a temporary path and rename it, or use `Storage.writing`.

    Parameters
    ----------
    data : array, shape (C, Z, Y, X)
        Image.
    seg : integer array, shape (C', Z, Y, X)
        Segmentation of the same voxels, kept without loss.
    properties : mapping
        Plain types, nested lists, tuples and dicts, and arrays. Of `class_locations`, {label: array (n, 4)} as nnU-Net
        makes it, the voxels are kept as lists of 16-bit numbers.
    **options
        Of WriteOptions: precision, and what the file says of its origin.

    Raises
    ------
    DataError
        If the arrays are not 4-D, are empty, differ in their voxels, or hold no plain numbers; if voxels of
        `class_locations` lie outside.
    """
    if data.ndim != 4 or seg.ndim != 4 or data.shape[1:] != seg.shape[1:] or 0 in (data.size, seg.size):
        raise DataError(f"{path}: image {data.shape}, segmentation {seg.shape}; expected (c, z, y, x) of equal voxels")
    data, seg = _little_endian(data), _little_endian(seg)
    locations = properties.get("class_locations")
    voxels = [_voxels(path, label, places, shape=data.shape) for label, places in (locations or {}).items()]
    encoded, arrays = _encoded(properties)
    header = Header(
        image=_image_layout(data, options.get("precision", "quantised")),
        segmentation=_segmentation_layout(seg),
        property_arrays=tuple(map(_whole, arrays)),
        properties=encoded,
        locations=None if locations is None else tuple(encode_properties(label, []) for label in locations),
        location_dtypes=tuple(map(_dtype_name, (locations or {}).values())),
        origin=dict(options.get("origin", {})),
    )
    schema = pa.schema(COLUMNS, metadata=header.to_metadata())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for column in (_chunks(header, data, seg), _property_arrays(arrays), _class_locations(voxels)):
            writer.write_batch(_batch(schema, column))


def write_with_origin(path: Path, *, of: Path, origin: JsonMapping) -> None:
    """Write a patch file again as it is, but for what it says of its origin; raises IntegrityError if it is not whole.

    The file at `path` is written in place, as by `write_patches`.
    """
    PatchFile.open(of).verify()
    mapped = MappedFile(of)
    header = replace(Header.from_metadata(mapped.schema.metadata), origin=dict(origin))
    schema = mapped.schema.with_metadata(header.to_metadata())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for _ in range(NUM_BATCHES):
            writer.write_batch(mapped.next_batch().replace_schema_metadata(schema.metadata))


def _dtype_name(places: object) -> str:
    """Return numpy's name of the type of the voxels of a label; empty for an empty list."""
    return places.dtype.str if isinstance(places, np.ndarray) else ""


def _encoded(properties: Properties) -> tuple[object, list[NDArray[np.generic]]]:
    """Return properties as JSON, without the voxels of classes, and the arrays that it refers to."""
    arrays: list[NDArray[np.generic]] = []
    others = {key: None if key == "class_locations" else value for key, value in properties.items()}
    encoded = encode_properties(others, arrays)
    return encoded, [_little_endian(array) for array in arrays]


def _whole(array: NDArray[np.generic]) -> ArrayLayout:
    """Return the layout of an array that is one chunk."""
    return ArrayLayout(shape=array.shape, dtype=array.dtype.str, chunk_shape=tuple(max(n, 1) for n in array.shape))


def _chunks(header: Header, data: NDArray[np.generic], seg: NDArray[np.generic]) -> _Column:
    image_starts, seg_starts = list(header.image.starts()), list(header.segmentation.starts())
    return _Column(
        names=["image"] * len(image_starts) + ["segmentation"] * len(seg_starts),
        starts=image_starts + seg_starts,
        payloads=itertools.chain(
            _payloads(data, header.image, image_starts), _payloads(seg, header.segmentation, seg_starts)
        ),
    )


def _property_arrays(arrays: list[NDArray[np.generic]]) -> _Column:
    return _Column(
        names=[f"properties/{index}" for index in range(len(arrays))],
        starts=[(0, 0, 0, 0)] * len(arrays),
        payloads=(array.tobytes() for array in arrays),
    )


def _class_locations(voxels: list[NDArray[np.uint16]]) -> _Column:
    return _Column(
        names=["class_locations"] * len(voxels),
        starts=[(index, 0, 0, 0) for index in range(len(voxels))],
        payloads=[b""] * len(voxels),
        voxels=voxels,
    )


def _little_endian(array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype.kind not in "biuf":
        raise DataError(f"an array of {array.dtype}; expected integers or floating-point numbers")
    return array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)


def _voxels(path: Path, label: object, places: object, *, shape: Index) -> NDArray[np.uint16]:
    """Return the voxels (z, y, x) of one label of `class_locations`."""
    found = np.asarray(places)
    if not found.size:
        return np.empty((0, 3), np.uint16)
    upper = np.minimum([1, *shape[1:]], 2**16)
    if found.ndim != 2 or found.shape[1] != 4 or found.min() < 0 or (found.max(axis=0) >= upper).any():
        raise DataError(
            f"{path}: class_locations of label {label} of shape {found.shape}; expected (n, 4) voxels within {shape}"
        )
    return found[:, 1:].astype(np.uint16)


def _voxel_layout(array: NDArray[np.generic]) -> ArrayLayout:
    """Return the layout of an image or segmentation that is kept as it is."""
    return ArrayLayout(shape=array.shape, dtype=array.dtype.str, chunk_shape=CHUNK_SHAPE, codec="blosc2-zstd")


def _image_layout(data: NDArray[np.generic], precision: Precision) -> ArrayLayout:
    """Return the layout with quantisation if it is wanted and possible."""
    layout = _voxel_layout(data)
    if precision == "lossless" or data.dtype != np.float32:
        return layout
    # Slice by slice: the second look finds a slice in the processor's cache. NaN passes through.
    extremes = np.array([(plane.min(), plane.max()) for channel in data for plane in channel], np.float64)
    lower, upper = float(extremes.min()) / STEP, float(extremes.max()) / STEP
    # Numbers up to 2^24 are whole in float32; NaN fails every comparison.
    if not (abs(lower) < 2**24 and abs(upper) < 2**24 and round(upper) - round(lower) < 2**16):
        return layout
    return replace(layout, codec="lanes", stored_dtype="<u2", offset=round(lower), step=STEP, max_error=STEP / 2)


def _segmentation_layout(seg: NDArray[np.generic]) -> ArrayLayout:
    layout = _voxel_layout(seg)
    if seg.dtype not in (np.int8, np.int16):
        return layout
    return replace(layout, codec="lanes", stored_dtype="<u2", offset=int(seg.min()))


def _payloads(array: NDArray[Any], layout: ArrayLayout, starts: Iterable[Index]) -> Iterator[bytes]:
    """Compress the chunks that begin at `starts`."""
    if layout.codec == "lanes":
        room = np.empty(max_chunk_bytes(*layout.chunk_shape[1:]), np.uint8)
        factor = 1 / layout.step if layout.step else 1.0
        for channel, *first in starts:
            last = np.add(first, layout.extent((channel, *first))[1:])
            box = np.array([first, last], np.int64)
            size = pack_chunk(array[channel], box, factor, layout.offset, room)
            yield room[:size].tobytes()
        return
    for start in starts:
        chunk = array[tuple(slice(a, a + n) for a, n in zip(start, layout.extent(start), strict=True))]
        yield compress(chunk.tobytes(), itemsize=chunk.itemsize)


def _batch(schema: pa.Schema, column: _Column) -> pa.RecordBatch:
    """Gather the payloads in one buffer: a list of them would hold a large image twice more."""
    num_rows = len(column.names)
    voxels = column.voxels or [np.empty((0, 3), np.uint16)] * num_rows
    values = io.BytesIO()
    offsets, checksums = [0], []
    for payload, places in zip(column.payloads, voxels, strict=True):
        checksums.append(zlib.crc32(places.tobytes(), zlib.crc32(payload)))
        offsets.append(offsets[-1] + values.write(payload))
    payload_column = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), num_rows, [None, pa.py_buffer(np.array(offsets, np.int64)), pa.py_buffer(values.getbuffer())]
    )
    voxel_column = _voxel_column(voxels, type_=schema.field("voxels").type)
    axes = np.array(column.starts, np.int32).reshape(-1, 4).T
    columns = [pa.array(column.names, pa.string()), *(pa.array(axis) for axis in axes)]
    return pa.record_batch([*columns, pa.array(checksums, pa.uint32()), payload_column, voxel_column], schema=schema)


def _voxel_column(voxels: Sequence[NDArray[np.uint16]], *, type_: pa.DataType) -> pa.Array:
    flat = pa.array(np.concatenate([*voxels, np.empty((0, 3), np.uint16)]).reshape(-1))
    offsets = np.cumsum([0, *(len(places) for places in voxels)], dtype=np.int64)
    places = pa.FixedSizeListArray.from_arrays(flat, type=VOXEL)
    return pa.LargeListArray.from_arrays(pa.array(offsets), places, type=type_)
