"""How a patch file is laid out: one Arrow IPC file a case, a row a chunk.

Three record batches follow each other: the chunks of the image and the segmentation, whose tables are so in one place
at the file's begin; the arrays that the properties hold; the voxels of each label that a training may draw from.
Their columns are `array` (`image`, `segmentation`, `properties/<index>` or `class_locations`), `c`, `z`, `y`, `x`
(first voxel of the chunk; of voxels, `c` counts the labels), `crc32` (of payload and voxels as stored), `payload`
(compressed on its own, little endian) and `voxels` (z, y, x). The schema's metadata holds a JSON header (format,
shapes, types, codecs, scale, properties) and its checksum.
"""

import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.errors import DataError, IntegrityError
from orchestrator.patches.codecs import Codec
from orchestrator.storage.json_values import JsonMapping

FORMAT = "orchestrator-patches"
VERSION = 3
HEADER_KEY = b"header"
HEADER_CRC32_KEY = b"header_crc32"

CHUNK_SHAPE = (1, 16, 64, 64)
"""Largest chunk (c, z, y, x): 128 KiB of 16-bit numbers, so a training patch touches tens of chunks, not thousands."""

NUM_BATCHES = 3
"""Of chunks, of arrays of the properties, and of voxels of labels."""

VOXEL = pa.list_(pa.uint16(), 3)
"""Arrow's type of a voxel (z, y, x)."""

Index = tuple[int, ...]

COLUMNS = (
    pa.field("array", pa.string(), nullable=False),
    *(pa.field(axis, pa.int32(), nullable=False) for axis in "czyx"),
    pa.field("crc32", pa.uint32(), nullable=False),
    pa.field("payload", pa.large_binary(), nullable=False),
    pa.field("voxels", pa.large_list(pa.field("voxel", VOXEL, nullable=False)), nullable=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayLayout:
    """Shape, type and chunks of one stored array."""

    shape: Index
    """(c, z, y, x) of an image; an array of the properties has any shape."""
    dtype: str
    """Numpy's name with byte order, for example `<f4`."""
    chunk_shape: Index
    """Largest chunk; those at the upper borders are clipped."""
    codec: Codec = "none"
    """Of each payload; those of the properties are not compressed."""
    stored_dtype: str = ""
    """Of the numbers that the codec packs; empty if it is `dtype`. Else unsigned numbers of 16 bits."""
    offset: int = 0
    """Added to stored numbers of another type."""
    step: float = 0.0
    """If not 0, stored numbers are multiplied by it, after the offset was added."""
    max_error: float = 0.0
    """How much a number may differ from what was written."""

    @property
    def grid(self) -> Index:
        """Number of chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunk_shape, strict=True))

    @property
    def num_chunks(self) -> int:
        """Number of rows."""
        return math.prod(self.grid)

    def starts(self) -> Iterator[Index]:
        """First element of every chunk, in the order of the rows (the last axis runs fastest)."""
        ranges = (range(0, size, chunk) for size, chunk in zip(self.shape, self.chunk_shape, strict=True))
        return itertools.product(*ranges)

    def places(self) -> NDArray[np.int64]:
        """First element of every chunk as `starts` gives it, shape (chunks, axes)."""
        places: NDArray[np.int64] = np.indices(self.grid).reshape(len(self.grid), -1).T * np.array(self.chunk_shape)
        return places

    def extent(self, start: Index) -> Index:
        """Shape of the chunk that begins at `start`."""
        return tuple(
            min(chunk, size - first) for size, chunk, first in zip(self.shape, self.chunk_shape, start, strict=True)
        )

    def num_bytes(self, start: Index) -> int:
        """Bytes of the stored numbers of the chunk that begins at `start`, before compression."""
        return math.prod(self.extent(start)) * np.dtype(self.stored_dtype or self.dtype).itemsize


Properties = dict[str, Any]
"""What nnU-Net keeps of a preprocessed case beside its voxels, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What the schema's metadata says."""

    image: ArrayLayout
    segmentation: ArrayLayout
    property_arrays: tuple[ArrayLayout, ...]
    """One chunk each."""
    properties: object
    """As `encode_properties` gives it, with None for `class_locations`."""
    locations: tuple[object, ...] | None
    """Labels of `class_locations` in their order, encoded; None if the properties have none."""
    location_dtypes: tuple[str, ...]
    """Numpy's names of the types that the voxels of each label had; empty for an empty list."""
    origin: JsonMapping
    """What whoever wrote the file says of what it was made from, and how; empty if nothing."""

    def to_metadata(self) -> dict[bytes, bytes]:
        """Return the schema's metadata."""
        record = {"format": FORMAT, "version": VERSION, **asdict(self)}
        text = json.dumps(record, separators=(",", ":")).encode()
        return {HEADER_KEY: text, HEADER_CRC32_KEY: b"%d" % zlib.crc32(text)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> "Header":
        """Parse the schema's metadata; raises IntegrityError (without the file's name) if it is not whole."""
        if not metadata or HEADER_KEY not in metadata:
            raise IntegrityError("an Arrow file without a header of patches")
        text = metadata[HEADER_KEY]
        if metadata.get(HEADER_CRC32_KEY) != b"%d" % zlib.crc32(text):
            raise IntegrityError("the checksum of the header does not match")
        record = json.loads(text)
        if (record["format"], record["version"]) != (FORMAT, VERSION):
            raise IntegrityError(f"{record['format']} version {record['version']}; expected {FORMAT} {VERSION}")
        return cls(
            image=_array_layout(record["image"]),
            segmentation=_array_layout(record["segmentation"]),
            property_arrays=tuple(_array_layout(entry) for entry in record["property_arrays"]),
            properties=record["properties"],
            locations=None if record["locations"] is None else tuple(record["locations"]),
            location_dtypes=tuple(record["location_dtypes"]),
            origin=dict(record.get("origin", {})),
        )


def _array_layout(record: JsonMapping) -> ArrayLayout:
    return ArrayLayout(**{**record, "shape": tuple(record["shape"]), "chunk_shape": tuple(record["chunk_shape"])})


def encode_properties(value: object, arrays: list[NDArray[np.generic]]) -> object:
    """Express nested properties as JSON; arrays are appended to `arrays` and replaced by their index.

    Tuples, dictionaries with keys of any plain type and arrays come back as they were; numpy scalars as Python's.
    Raises DataError for a type that is none of these.
    """
    match value:
        case None | bool() | int() | float() | str():
            # np.float64 is a float as well: item() keeps numpy out of the JSON.
            return value.item() if isinstance(value, np.generic) else value
        case np.generic():
            return value.item()
        case np.ndarray():
            arrays.append(value)
            return {"array": len(arrays) - 1}
        case list():
            return [encode_properties(item, arrays) for item in value]
        case tuple():
            return {"tuple": [encode_properties(item, arrays) for item in value]}
        case dict():
            return {"dict": [[encode_properties(k, arrays), encode_properties(v, arrays)] for k, v in value.items()]}
    raise DataError(f"a property of type {type(value).__name__}; expected numbers, text, arrays, lists, tuples, dicts")


def decode_properties(value: object, arrays: list[NDArray[np.generic]]) -> Any:
    """Return the properties that `encode_properties` expressed as JSON."""
    match value:
        case list():
            return [decode_properties(item, arrays) for item in value]
        case {"array": index}:
            return arrays[index]
        case {"tuple": items}:
            return tuple(decode_properties(item, arrays) for item in items)
        case {"dict": pairs}:
            return {decode_properties(k, arrays): decode_properties(v, arrays) for k, v in pairs}
    return value
