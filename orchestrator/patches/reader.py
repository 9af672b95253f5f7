"""Reading of patch files, memory-mapped: a box touches only the chunks that it meets."""

import itertools
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.errors import IntegrityError
from orchestrator.patches.layout import ArrayLayout, Header, Index, decode_properties

Key = int | slice | EllipsisType


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """The chunks of one record batch, as views into the memory map."""

    names: pa.Array
    starts: NDArray[np.int32]
    """Shape (chunks, 4)."""
    checksums: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    """Of the payloads in `values`, one more than there are chunks."""
    values: pa.Buffer

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> "_Rows":
        """View the columns; raises IntegrityError if payloads would lie outside of the file."""
        batch.validate(full=True)
        _, offsets_buffer, values = batch.column("payload").buffers()
        offsets = np.zeros(1, np.int64)
        if batch.num_rows:
            offsets = np.frombuffer(offsets_buffer, np.int64, batch.num_rows + 1)
        size = 0 if values is None else values.size
        if offsets[0] != 0 or offsets[-1] > size or (np.diff(offsets) < 0).any():
            raise IntegrityError("the places of the chunks are not in order")
        return cls(
            names=batch.column("array"),
            starts=np.stack([batch.column(axis).to_numpy() for axis in "czyx"], axis=1),
            checksums=batch.column("crc32").to_numpy(),
            offsets=offsets,
            values=values if values is not None else pa.py_buffer(b""),
        )

    def payload(self, row: int) -> pa.Buffer:
        first, last = self.offsets[row : row + 2]
        return self.values.slice(int(first), int(last - first))


class PatchArray:
    """One array of a patch file, read by slicing: `image[:, 3:20, -64:, 5]` gives a new ndarray.

    Indices are integers, slices of step 1 and an ellipsis, with numpy's meaning.
    """

    def __init__(self, path: Path, *, name: str, layout: ArrayLayout, rows: "_Rows") -> None:
        self._path = path
        self._name = name
        self._layout = layout
        self._rows = rows
        self.shape = layout.shape
        self.dtype: np.dtype[Any] = np.dtype(layout.dtype)
        self.ndim = len(layout.shape)

    def __getitem__(self, key: Key | tuple[Key, ...]) -> NDArray[Any]:
        start, stop, dropped = self._box(key if isinstance(key, tuple) else (key,))
        box = self.read_box(start=start, stop=stop)
        return box.reshape([size for axis, size in enumerate(box.shape) if axis not in dropped]) if dropped else box

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def read_box(self, *, start: Index, stop: Index) -> NDArray[Any]:
        """Read the half-open box from `start` to `stop` (c, z, y, x), which must lie inside of the array.

        Raises IntegrityError if a compressed chunk cannot be expanded; checksums are compared by `PatchFile.verify`.
        """
        if not all(0 <= a <= b <= size for a, b, size in zip(start, stop, self.shape, strict=True)):
            raise IndexError(f"{self._path}: box from {start} to {stop} of {self._name}; expected within {self.shape}")
        box = np.empty([b - a for a, b in zip(start, stop, strict=True)], self.dtype)
        if not box.size:
            return box
        chunk_shape, grid = self._layout.chunk_shape, self._layout.grid
        ranges = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, chunk_shape, strict=True)]
        for place in itertools.product(*ranges):
            row = 0
            for index, count in zip(place, grid, strict=True):
                row = row * count + index
            first = tuple(index * size for index, size in zip(place, chunk_shape, strict=True))
            chunk = self._chunk(row, first)
            source, target = [], []
            for a, b, f, size in zip(start, stop, first, chunk.shape, strict=True):
                lower, upper = max(a, f), min(b, f + size)
                source.append(slice(lower - f, upper - f))
                target.append(slice(lower - a, upper - a))
            box[tuple(target)] = chunk[tuple(source)]
        return box

    def _chunk(self, row: int, start: Index) -> NDArray[Any]:
        payload = self._rows.payload(row)
        if self._layout.compression != "none":
            try:
                payload = pa.decompress(
                    payload, decompressed_size=self._layout.num_bytes(start), codec=self._layout.compression
                )
            except (OSError, pa.ArrowException) as error:
                raise IntegrityError(
                    f"{self._path}: {self._name} chunk at {start} cannot be expanded ({error}); write the patches again"
                ) from error
        return np.frombuffer(payload, self.dtype).reshape(self._layout.extent(start))

    def _box(self, key: tuple[Key, ...]) -> tuple[Index, Index, list[int]]:
        """Resolve an index to start, stop and the axes that an integer drops."""
        if Ellipsis in key:
            at = key.index(Ellipsis)
            key = key[:at] + (slice(None),) * (self.ndim - len(key) + 1) + key[at + 1 :]
        key += (slice(None),) * (self.ndim - len(key))
        start, stop, dropped = [], [], []
        for axis, (item, size) in enumerate(zip(key, self.shape, strict=True)):
            if isinstance(item, slice):
                a, b, step = item.indices(size)
                if step != 1:
                    raise IndexError(f"{self._path}: a slice with step {step}; expected 1")
                start.append(a)
                stop.append(max(a, b))
                continue
            index = int(item)  # type: ignore[arg-type]  # the ellipsis was replaced above
            if not -size <= index < size:
                raise IndexError(f"{self._path}: index {index} of axis {axis}; expected within {size}")
            start.append(index % size)
            stop.append(index % size + 1)
            dropped.append(axis)
        return tuple(start), tuple(stop), dropped


class PatchFile:
    """One preprocessed case, opened for reading."""

    def __init__(self, path: Path, *, header: Header, rows: list["_Rows"]) -> None:
        self.path = path
        self._header = header
        self._rows = rows
        self.image = PatchArray(path, name="image", layout=header.image, rows=rows[0])
        self.segmentation = PatchArray(path, name="segmentation", layout=header.segmentation, rows=rows[1])

    @classmethod
    def open(cls, path: Path) -> "PatchFile":
        """Map a patch file; raises IntegrityError if it is missing, torn, of another format or not whole."""
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
            header = Header.from_metadata(reader.schema.metadata)
            rows = [_Rows.from_batch(reader.get_batch(index)) for index in range(reader.num_record_batches)]
            _check_sizes(header, rows)
        except (IntegrityError, pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: not a whole patch file ({error}); write the patches again") from error
        return cls(path, header=header, rows=rows)

    @cached_property
    def properties(self) -> dict[str, Any]:
        """What was written with the case; arrays are read-only views into the file."""
        arrays = [
            np.frombuffer(self._rows[2].payload(row), layout.dtype).reshape(layout.shape)
            for row, layout in enumerate(self._header.property_arrays)
        ]
        properties: dict[str, Any] = decode_properties(self._header.properties, arrays)
        return properties

    @property
    def shape(self) -> Index:
        """(C, Z, Y, X) of the image."""
        return self.image.shape

    @cached_property
    def labels(self) -> tuple[Any, ...]:
        """Labels (or regions) that have any voxel to draw from, in nnU-Net's order."""
        locations = self.properties.get("class_locations", {})
        return tuple(label for label, places in locations.items() if len(places))

    def class_locations(self, label: Any) -> NDArray[np.integer[Any]]:
        """Voxels of a label (or region) that nnU-Net may draw from, (z, y, x), shape (n, 3): a view without a copy.

        Empty for a label that is not there.
        """
        places = self.properties.get("class_locations", {}).get(label, ())
        return places[:, 1:] if len(places) else np.empty((0, 3), np.int16)

    def read_into(self, image: NDArray[np.float32], segmentation: NDArray[np.int16], *, start: Index) -> None:
        """Fill `image` and `segmentation` with the box that begins at voxel `start` (z, y, x) and has their shape.

        The box may lie partly or wholly outside of the case: there the image is 0 and the segmentation -1.

        Parameters
        ----------
        image : float32 array, shape (C, z, y, x)
            Filled.
        segmentation : int16 array, shape (z, y, x)
            Filled with the first channel of the segmentation.
        start : tuple of int
            First voxel of the box.
        """
        image.fill(0)
        segmentation.fill(-1)
        size = segmentation.shape
        lower = tuple(max(0, a) for a in start)
        upper = tuple(min(n, a + b) for n, a, b in zip(self.shape[1:], start, size, strict=True))
        if any(a >= b for a, b in zip(lower, upper, strict=True)):
            return
        inside = tuple(slice(a - s, b - s) for a, b, s in zip(lower, upper, start, strict=True))
        image[(slice(None), *inside)] = self.image.read_box(start=(0, *lower), stop=(self.shape[0], *upper))
        segmentation[inside] = self.segmentation.read_box(start=(0, *lower), stop=(1, *upper))[0]

    @property
    def source_sha256(self) -> dict[str, str]:
        """Digests of what the case was made from, by name."""
        return dict(self._header.source_sha256)

    def verify(self) -> None:
        """Compare every chunk with its checksum; raises IntegrityError that names the file and the first bad chunk."""
        for rows, names, starts in zip(self._rows, *self._expected(), strict=True):
            stored = rows.names.to_pylist()
            for row, (name, start) in enumerate(zip(names, starts, strict=True)):
                found = zlib.crc32(rows.payload(row))
                place = tuple(int(value) for value in rows.starts[row])
                if (stored[row], place, int(rows.checksums[row])) != (name, start, found):
                    raise IntegrityError(
                        f"{self.path}: {name} chunk at (c, z, y, x) = {start}: found {stored[row]} at {place} with "
                        f"checksum {found:08x}, expected {rows.checksums[row]:08x}; write the patches again"
                    )

    def _expected(self) -> tuple[list[list[str]], list[list[Index]]]:
        """Names and starts that the rows of each batch must have."""
        header = self._header
        starts = [list(header.image.starts()), list(header.segmentation.starts())]
        names = [["image"] * len(starts[0]), ["segmentation"] * len(starts[1])]
        names.append([f"properties/{index}" for index in range(len(header.property_arrays))])
        return names, [*starts, [(0, 0, 0, 0)] * len(header.property_arrays)]


def _check_sizes(header: Header, rows: list[_Rows]) -> None:
    """Raise IntegrityError unless there is a payload of the right size for every chunk."""
    if len(rows) != 3:
        raise IntegrityError(f"{len(rows)} record batches; expected 3")
    for layout, batch, name in ((header.image, rows[0], "image"), (header.segmentation, rows[1], "segmentation")):
        sizes = np.diff(batch.offsets)
        if len(sizes) != layout.num_chunks:
            raise IntegrityError(f"{len(sizes)} chunks of the {name}; expected {layout.num_chunks}")
        if layout.compression == "none" and sizes.tolist() != [layout.num_bytes(start) for start in layout.starts()]:
            raise IntegrityError(f"chunks of the {name} with other sizes than shape {layout.shape} asks for")
    expected = [layout.num_bytes((0,) * len(layout.shape)) for layout in header.property_arrays]
    if np.diff(rows[2].offsets).tolist() != expected:
        raise IntegrityError("arrays of the properties with other sizes than the header says")
