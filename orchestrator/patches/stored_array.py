"""One array of a patch file: a box of it touches only the chunks, and of ours only the units, that it meets."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from kernels.packing.lane_unpacking import EVERYWHERE, UNCHECKED, WHOLE, fill_outside, read_box
from orchestrator.errors import IntegrityError
from orchestrator.patches.codecs import expand
from orchestrator.patches.layout import ArrayLayout, Index
from orchestrator.patches.mapped_file import MappedFile

TABLE = ["array", "c", "z", "y", "x", "crc32", "payload"]
_NO_VOXELS = np.empty((0, 3), np.uint16)
Key = int | slice | EllipsisType


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """The chunks of one record batch, as views into the memory map."""

    names: pa.Array
    starts: NDArray[np.int32]
    """Shape (chunks, 4)."""
    checksums: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    """Of the payloads in `values`, one more than there are rows."""
    values: pa.Buffer
    payloads: NDArray[np.uint8]
    """All of `values`."""
    voxel_offsets: NDArray[np.int64]
    """Of the voxels in `voxels`, one more than there are rows."""
    voxels: NDArray[np.uint16]
    """Shape (voxels, 3)."""
    mapped: MappedFile
    file_offset: int
    """Of the first payload."""
    is_checked: NDArray[np.bool_]
    """Whether this process has compared a row with its checksum."""

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch, *, mapped: MappedFile, has_voxels: bool) -> "Rows":
        """View the columns; raises IntegrityError if payloads or voxels would lie outside of the file."""
        # Of chunks the voxels are not looked at: what says that there are none lies far behind, and a disk is slow.
        batch.select(TABLE).validate(full=True)
        if has_voxels:
            batch.validate(full=True)
        _, offsets_buffer, values = batch.column("payload").buffers()
        values = values if values is not None else mapped.buffer.slice(0, 0)
        voxels, voxel_offsets = _NO_VOXELS, np.zeros(batch.num_rows + 1, np.int64)
        if has_voxels:
            lists = batch.column("voxels")
            voxels = lists.values.values.to_numpy(zero_copy_only=True).reshape(-1, 3)
            voxel_offsets = _offsets(lists.buffers()[1], batch.num_rows, upper=len(voxels))
        return cls(
            names=batch.column("array"),
            starts=np.stack([batch.column(axis).to_numpy() for axis in "czyx"], axis=1),
            checksums=batch.column("crc32").to_numpy(),
            offsets=_offsets(offsets_buffer, batch.num_rows, upper=values.size),
            values=values,
            payloads=np.frombuffer(values, np.uint8),
            voxel_offsets=voxel_offsets,
            voxels=voxels,
            mapped=mapped,
            file_offset=mapped.offset(values),
            is_checked=np.zeros(batch.num_rows, bool),
        )

    def check_places(self, names: Sequence[str], starts: NDArray[np.integer]) -> None:
        """Raise IntegrityError unless every row is of the array, and of the place in it, that the header says."""
        if not (self.names.equals(pa.array(names, pa.string())) and np.array_equal(self.starts, starts)):
            raise IntegrityError("its chunks are not those of its header, in their order")

    def part(self, first: int, last: int) -> "Rows":
        """Return some of the rows, as views."""
        return replace(
            self,
            names=self.names.slice(first, last - first),
            starts=self.starts[first:last],
            checksums=self.checksums[first:last],
            offsets=self.offsets[first : last + 1],
            voxel_offsets=self.voxel_offsets[first : last + 1],
            is_checked=self.is_checked[first:last],
        )

    def payload(self, row: int) -> pa.Buffer:
        """Compressed bytes of one row."""
        first, last = self.offsets[row : row + 2]
        return self.values.slice(int(first), int(last - first))

    def row_voxels(self, row: int) -> NDArray[np.uint16]:
        """Voxels of one row, shape (n, 3)."""
        return self.voxels[self.voxel_offsets[row] : self.voxel_offsets[row + 1]]

    def crc32(self, row: int) -> int:
        """Checksum of one row as it is stored now."""
        return zlib.crc32(self.row_voxels(row).data, zlib.crc32(self.payload(row)))


def _offsets(buffer: pa.Buffer, num_rows: int, *, upper: int) -> NDArray[np.int64]:
    # A copy: whoever can write to the file could change what was checked.
    offsets = np.frombuffer(buffer, np.int64, num_rows + 1).copy() if num_rows else np.zeros(1, np.int64)
    offsets.setflags(write=False)
    if offsets[0] != 0 or offsets[-1] > upper or (offsets[1:] < offsets[:-1]).any():
        raise IntegrityError("the places of the chunks are not in order")
    return offsets


class PatchArray:
    """One array of a patch file, read by slicing: `image[:, 3:20, -64:, 5]` gives a new ndarray.

    Indices are integers, slices of step 1 and an ellipsis, with numpy's meaning. A chunk is compared with its checksum
    when it is read for the first time.
    """

    def __init__(self, path: Path, *, name: str, layout: ArrayLayout, rows: Rows) -> None:
        self._path = path
        self._name = name
        self._layout = layout
        self._rows = rows
        # What the kernel is told at every call.
        self._voxels, self._chunk_voxels = layout.shape[1:], layout.chunk_shape[1:]
        self._chunks_of_channel = layout.num_chunks // layout.shape[0]
        self._is_packed = layout.codec == "lanes"
        self.shape = layout.shape
        self.dtype: np.dtype[np.generic] = np.dtype(layout.dtype)
        self.ndim = len(layout.shape)

    @property
    def max_error(self) -> float:
        """How much a number may differ from what was written."""
        return self._layout.max_error

    def __getitem__(self, key: Key | tuple[Key, ...]) -> NDArray[np.generic]:
        start, stop, dropped = self._box(key if isinstance(key, tuple) else (key,))
        box = self.read_box(start=start, stop=stop)
        return box.reshape([size for axis, size in enumerate(box.shape) if axis not in dropped]) if dropped else box

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def read_box(self, *, start: Index, stop: Index) -> NDArray[np.generic]:
        """Read the half-open box from `start` to `stop` (c, z, y, x), which must lie inside of the array.

        Raises IntegrityError if a chunk is damaged.
        """
        if not all(0 <= a <= b <= size for a, b, size in zip(start, stop, self.shape, strict=True)):
            raise IndexError(f"{self._path}: box from {start} to {stop} of {self._name}; expected within {self.shape}")
        box = np.empty([b - a for a, b in zip(start, stop, strict=True)], self._dtype_of_boxes)
        for channel in range(start[0], stop[0]):
            self.read_channel_into(box[channel - start[0]], channel=channel, start=start[1:], padding=0)
        return box.astype(self.dtype, copy=False)

    @property
    def _dtype_of_boxes(self) -> np.dtype[np.generic]:
        """What is expanded to: labels of 8 bits come as 16, and kernels do not know numbers of half precision."""
        if self._is_packed and self.dtype.kind == "i":
            return np.dtype(np.int16)
        return np.dtype(np.float32) if self.dtype == np.float16 else self.dtype

    def read_channel_into(
        self,
        target: NDArray[np.generic],
        *,
        channel: int,
        start: Index,
        padding: int,
        slabs: NDArray[np.float64] = EVERYWHERE,
    ) -> None:
        """Fill `target` (z, y, x), C-ordered, with the box of one channel that begins at voxel `start`.

        Raises IntegrityError if a chunk is damaged. Outside of the array `target` becomes `padding`. What does not lie
        within all `slabs` (see `read_box` of the kernels) may become anything.
        """
        if not self._is_packed:
            self._read_expanded(target, channel=channel, start=start, padding=padding)
            return
        found = self._unpack(target, channel, start, padding, slabs)
        if found == UNCHECKED:
            box = fill_outside(target, start, self.shape[1:], padding)
            self._check(self._chunks(channel, *box.tolist()))
            found = self._unpack(target, channel, start, padding, slabs)
        if found != WHOLE:
            raise self.damage(found, "cannot be unpacked")

    def _unpack(
        self, target: NDArray[np.generic], channel: int, start: Index, padding: int, slabs: NDArray[np.float64]
    ) -> int:
        """Fill a box from chunks of ours."""
        rows = self._rows
        return read_box(
            rows.payloads,
            rows.offsets,
            rows.is_checked,
            channel * self._chunks_of_channel,
            self._voxels,
            self._chunk_voxels,
            self._layout.step,
            self._layout.offset,
            padding,
            start,
            slabs,
            target,
        )

    def _read_expanded(self, target: NDArray[np.generic], *, channel: int, start: Index, padding: int) -> None:
        """Fill a box from chunks that blosc2 expands."""
        lower, upper = fill_outside(target, start, self.shape[1:], padding).tolist()
        chunks = self._chunks(channel, lower, upper)
        self._check(chunks)
        for row in chunks.tolist():
            self._place(target, row, start=start, lower=lower, upper=upper)

    def damage(self, row: int, found: str) -> IntegrityError:
        """Return the error that names a chunk."""
        start = next(itertools.islice(self._layout.starts(), row, None))
        return IntegrityError(
            f"{self._path}: {self._name} chunk at (c, z, y, x) = {start} {found}; write the patches again"
        )

    def _chunks(self, channel: int, lower: list[int], upper: list[int]) -> NDArray[np.int64]:
        """Rows of the chunks that meet a box within the array; none if it is empty."""
        rows = np.array([channel], np.int64)
        for a, b, size, count in zip(lower, upper, self._layout.chunk_shape[1:], self._layout.grid[1:], strict=True):
            rows = (rows[:, None] * count + np.arange(a // size, -(-b // size) if a < b else a // size)).reshape(-1)
        return rows

    def _check(self, chunks: NDArray[np.int64]) -> None:
        """Compare chunks that are read for the first time with their checksums."""
        chunks = chunks[~self._rows.is_checked[chunks]]
        if not len(chunks):
            return
        rows = self._rows
        rows.mapped.read_ahead(rows.file_offset + rows.offsets[chunks], rows.file_offset + rows.offsets[chunks + 1])
        for row in chunks.tolist():
            if self._rows.crc32(row) != self._rows.checksums[row]:
                raise self.damage(row, "does not have its checksum")
            self._rows.is_checked[row] = True

    def _place(
        self, target: NDArray[np.generic], row: int, *, start: Index, lower: list[int], upper: list[int]
    ) -> None:
        """Expand a chunk and copy what lies in the box."""
        layout = self._layout
        first = next(itertools.islice(layout.starts(), row, None))
        extent = layout.extent(first)
        try:
            raw = expand(self._rows.payload(row), num_bytes=layout.num_bytes(first))
        except IntegrityError as error:
            raise self.damage(row, str(error)) from error
        chunk = np.frombuffer(raw, layout.dtype).reshape(extent)[0]
        source, place = [], []
        for a, b, s, f, size in zip(lower, upper, start, first[1:], extent[1:], strict=True):
            source.append(slice(max(a, f) - f, min(b, f + size) - f))
            place.append(slice(max(a, f) - s, min(b, f + size) - s))
        target[tuple(place)] = chunk[tuple(source)]

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
