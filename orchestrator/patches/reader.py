"""Reading of patch files, memory-mapped."""

import errno
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kernels.packing.lane_unpacking import EVERYWHERE
from orchestrator.errors import DataError, IntegrityError
from orchestrator.patches.header_checks import check_header
from orchestrator.patches.layout import COLUMNS, Header, Index, Properties, decode_properties
from orchestrator.patches.mapped_file import MappedFile
from orchestrator.patches.stored_array import PatchArray, Rows
from orchestrator.storage.json_values import JsonObject


class PatchFile:
    """One preprocessed case, opened for reading; threads may share it."""

    def __init__(self, path: Path, *, header: Header, chunks: Rows) -> None:
        self.path = path
        self._header = header
        self._chunks = chunks
        self._lock = threading.Lock()
        self._read_rest: tuple[Rows, Rows] | None = None
        num_chunks = header.image.num_chunks
        image, segmentation = chunks.part(0, num_chunks), chunks.part(num_chunks, len(chunks.checksums))
        self.image = PatchArray(path, name="image", layout=header.image, rows=image)
        self.segmentation = PatchArray(path, name="segmentation", layout=header.segmentation, rows=segmentation)

    @classmethod
    def open(cls, path: Path) -> "PatchFile":
        """Map a patch file.

        Raises
        ------
        IntegrityError
            If it is missing, torn, of another format or not whole.
        OSError
            If the system has no descriptor or memory left for it, or cannot reach it now.
        """
        with _naming(path):
            mapped = MappedFile(path)
            header = Header.from_metadata(mapped.schema.metadata)
            if not mapped.schema.equals(pa.schema(COLUMNS)):
                raise IntegrityError(f"columns {mapped.schema.names} of other types than its version has")
            check_header(header)
            chunks = Rows.from_batch(mapped.next_batch(), mapped=mapped, has_voxels=False)
            _check_chunks(header, chunks)
            return cls(path, header=header, chunks=chunks)

    @property
    def shape(self) -> Index:
        """(C, Z, Y, X) of the image."""
        return self.image.shape

    @cached_property
    def labels(self) -> tuple[Hashable, ...]:
        """Labels (or regions) that have any voxel to draw from, in nnU-Net's order."""
        return tuple(label for label, row in self._label_rows.items() if len(self._locations.row_voxels(row)))

    def class_locations(self, label: Hashable) -> NDArray[np.uint16]:
        """Voxels of a label (or region) that nnU-Net may draw from, (z, y, x), shape (n, 3): a view without a copy.

        Empty for a label that is not there. Raises IntegrityError if the list is damaged.
        """
        row = self._label_rows.get(label)
        if row is None:
            return np.empty((0, 3), np.uint16)
        rows = self._locations
        voxels = rows.row_voxels(row)
        if not rows.is_checked[row]:
            self._check(rows, row, name=f"class_locations of label {label}")
            if len(voxels) and (voxels.max(axis=0) >= self.shape[1:]).any():
                raise IntegrityError(f"{self.path}: class_locations of label {label} lie outside of {self.shape}")
            rows.is_checked[row] = True
        return voxels

    def read_into(
        self,
        image: NDArray[np.float32],
        segmentation: NDArray[np.int16],
        *,
        start: Index,
        slabs: NDArray[np.float64] = EVERYWHERE,
    ) -> None:
        """Fill `image` and `segmentation` with the box that begins at voxel `start` (z, y, x) and has their shape.

        The box may lie partly or wholly outside of the case: there the image is 0 and the segmentation -1.

        Parameters
        ----------
        image : float32 array, shape (C, z, y, x)
            Filled; every channel C-ordered.
        segmentation : int16 array, shape (z, y, x)
            Filled with the first channel of the segmentation; C-ordered.
        start : tuple of int
            First voxel of the box.
        slabs : float64 array, shape (n, 4), optional
            Voxels p of the box are wanted where ``abs(slabs[k, :3] @ p - slabs[k, 3]) <= 1`` for every k; others may
            become anything. By default all are wanted.

        Raises
        ------
        DataError
            If the arrays are not as said.
        IntegrityError
            If a chunk is damaged.
        """
        if (
            image.dtype != np.float32
            or segmentation.dtype != np.int16
            or image.shape != (self.shape[0], *segmentation.shape)
            or not (image[0].flags.c_contiguous and segmentation.flags.c_contiguous)
        ):
            raise DataError(
                f"{self.path}: a box into {image.dtype} {image.shape} and {segmentation.dtype} {segmentation.shape}; "
                f"expected C-ordered float32 ({self.shape[0]}, z, y, x) and int16 (z, y, x)"
            )
        for channel, target in enumerate(image):
            self.image.read_channel_into(target, channel=channel, start=start, padding=0, slabs=slabs)
        self.segmentation.read_channel_into(segmentation, channel=0, start=start, padding=-1, slabs=slabs)

    @cached_property
    def properties(self) -> Properties:
        """What was written with the case; arrays are read-only views into the file, but for `class_locations`.

        Raises IntegrityError if they are damaged.
        """
        arrays = []
        for row, layout in enumerate(self._header.property_arrays):
            self._check(self._arrays, row, name=f"properties/{row}")
            arrays.append(np.frombuffer(self._arrays.payload(row), layout.dtype).reshape(layout.shape))
        with _naming(self.path):
            properties: Properties = dict(decode_properties(self._header.properties, arrays))
        if self._header.locations is not None:
            properties["class_locations"] = {
                label: self._nnunet_locations(label, dtype)
                for label, dtype in zip(self._label_rows, self._header.location_dtypes, strict=True)
            }
        return properties

    @property
    def origin(self) -> JsonObject:
        """What whoever wrote the file says of what it was made from, and how; empty if nothing."""
        return dict(self._header.origin)

    def verify(self) -> None:
        """Compare every chunk with its checksum; raises IntegrityError that names the file and the first bad chunk."""
        for rows in (self._chunks, self._arrays, self._locations):
            for row in range(len(rows.checksums)):
                start = tuple(rows.starts[row].tolist())
                self._check(rows, row, name=f"{rows.names[row]} chunk at (c, z, y, x) = {start}")

    def _check(self, rows: Rows, row: int, *, name: str) -> None:
        """Compare a row with its checksum."""
        found, expected = rows.crc32(row), int(rows.checksums[row])
        if found != expected:
            raise IntegrityError(
                f"{self.path}: {name}: checksum {found:08x}, expected {expected:08x}; write the patches again"
            )

    @property
    def _arrays(self) -> Rows:
        """Arrays of the properties."""
        return self._rest[0]

    @property
    def _locations(self) -> Rows:
        """Voxels of the labels."""
        return self._rest[1]

    @property
    def _rest(self) -> tuple[Rows, Rows]:
        """What a box does not need."""
        header, mapped = self._header, self._chunks.mapped
        with self._lock, _naming(self.path):
            if self._read_rest is None:
                arrays = Rows.from_batch(mapped.next_batch(), mapped=mapped, has_voxels=False)
                locations = Rows.from_batch(mapped.next_batch(), mapped=mapped, has_voxels=True)
                expected = [layout.num_bytes((0,) * len(layout.shape)) for layout in header.property_arrays]
                if np.diff(arrays.offsets).tolist() != expected:
                    raise IntegrityError("arrays of the properties with other sizes than the header says")
                names = [f"properties/{row}" for row in range(len(expected))]
                arrays.check_places(names, np.zeros((len(names), 4), np.int32))
                num_labels = len(header.locations or ())
                if len(header.location_dtypes) != num_labels:
                    raise IntegrityError(f"{len(header.location_dtypes)} types of {num_labels} lists of voxels")
                starts = [(row, 0, 0, 0) for row in range(num_labels)]
                locations.check_places(["class_locations"] * num_labels, np.array(starts, np.int32).reshape(-1, 4))
                self._read_rest = arrays, locations
            return self._read_rest

    @cached_property
    def _label_rows(self) -> dict[Hashable, int]:
        """Row of the voxels of every label."""
        with _naming(self.path):
            rows = {decode_properties(label, []): row for row, label in enumerate(self._header.locations or ())}
            if len(rows) != len(self._header.locations or ()):
                raise IntegrityError("a label that has two lists of voxels")
        return rows

    def _nnunet_locations(self, label: Hashable, dtype: str) -> NDArray[np.generic] | list[object]:
        """Voxels of a label as nnU-Net has them: (n, 4), the first column 0."""
        if not dtype:
            return []
        voxels = self.class_locations(label)
        places = np.zeros((len(voxels), 4), dtype)
        places[:, 1:] = voxels
        return places


_BROKEN = (
    *(IntegrityError, pa.ArrowException, OSError),
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
)
"""What reading raises where something else stands than was written."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of which file something is wrong; what the system says of itself tells nothing about the file."""
    try:
        yield
    except _BROKEN as error:
        # Arrow's own have no number.
        if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT, errno.EISDIR}:
            raise
        raise IntegrityError(f"{path}: not a whole patch file ({error}); write the patches again") from error


def _check_chunks(header: Header, rows: Rows) -> None:
    """Raise IntegrityError unless every chunk has its row."""
    num_chunks = len(rows.starts)
    if num_chunks != header.image.num_chunks + header.segmentation.num_chunks:
        raise IntegrityError(
            f"{num_chunks} chunks; expected {header.image.num_chunks} + {header.segmentation.num_chunks}"
        )
    rows.check_places(
        ["image"] * header.image.num_chunks + ["segmentation"] * header.segmentation.num_chunks,
        np.concatenate([header.image.places(), header.segmentation.places()]),
    )
